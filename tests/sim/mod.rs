//! Deterministic simulation: the real engines of both sides under one virtual clock, joined by a network that
//! loses, repeats, delays and reorders, over disks that complete in any order, fail, and forget what was not flushed.
//!
//! One number, the seed, decides everything: the knobs of the run, what the initiators ask for, and every
//! accident. A run has a safety phase, in which everything may go wrong and nothing that is acknowledged may
//! be untrue, and a healed phase, in which every request has to complete. A failure prints one line: the seed, what
//! was broken, and the accidents before it.

mod accidents;
mod admin;
mod aoe_ko;
mod capture;
mod client;
mod disk;
pub mod frames;
mod hostile;
mod knobs;
mod model;
mod network;
mod pattern;
#[cfg(planted)]
pub mod planted;
mod server;
mod workload;
mod world;

pub use knobs::Knobs;
pub use world::{Failure, Options, Report, run};
