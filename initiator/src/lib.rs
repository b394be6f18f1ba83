//! Userspace AoE initiator: an engine without I/O, NBD front ends, and the tools built from them.

pub mod engine;
pub mod nbd;
