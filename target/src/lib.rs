//! AoE target: an engine without I/O, disk back-ends, and the loop that joins them to Ethernet.

pub mod disk;
pub mod engine;
