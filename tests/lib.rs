//! What the tests share: the simulation, and hosts made of network namespaces.

pub mod net;
pub mod sim;
