//! What the tests share: the simulation, hosts made of network namespaces, and virtual machines.

pub mod net;
pub mod sim;
pub mod vm;
