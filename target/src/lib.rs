//! AoE target: an engine without I/O, disk back-ends, and the loop that joins them to Ethernet.
//!
//! `serve` starts the workers and watches over them; a `worker` owns some exports and everything they need, so that
//! nothing is shared between workers and nothing is locked on the way of a request.

pub mod check;
pub mod cli;
pub mod config;
pub mod config_keys;
pub mod control;
pub mod disk;
pub mod engine;
mod hold;
mod lanes;
pub mod lives;
pub mod log;
pub mod metrics;
mod notify;
mod opening;
mod polling;
mod sandbox;
pub mod serve;
pub mod settings;
pub mod state;
mod status;
pub mod vblade;
mod worker;
