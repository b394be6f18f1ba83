//! What the tests share: hosts made of network namespaces, and disk images.

pub mod image;
pub mod net;
