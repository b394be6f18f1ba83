//! What the tests share: the simulation, hosts made of network namespaces, virtual machines, fuzzing, and what is packaged.

pub mod fuzz;
pub mod net;
pub mod packaging;
pub mod sim;
pub mod vm;
