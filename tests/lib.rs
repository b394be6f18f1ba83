//! What the tests share: the simulation, hosts made of network namespaces, virtual machines, and fuzzing.

pub mod fuzz;
pub mod net;
pub mod sim;
pub mod vm;
