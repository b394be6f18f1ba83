//! Userspace AoE initiator: an engine without I/O, NBD front ends, and the tools built from them.

pub mod attach;
pub mod attach_config;
pub mod background;
pub mod bench;
pub mod cli;
pub mod engine;
pub mod events;
pub mod identity;
pub mod log;
pub mod masks;
pub mod metrics;
pub mod nbd;
pub mod outbox;
pub mod place;
pub mod ports;
pub mod run_dir;
pub mod snapshot;
pub mod status;
pub mod talk;
pub mod target_control;
pub mod watch;
