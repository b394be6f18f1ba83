//! Deterministic simulation: the real engines of both sides under one virtual clock, joined by a network that
//! loses, repeats, delays and reorders, over a disk that completes in any order.
//!
//! One number, the seed, decides everything: the knobs of the run, what the initiators ask for, and every
//! accident. A run has a safety phase, in which everything may go wrong and nothing that is acknowledged may
//! be untrue, and a healed phase, in which every request has to complete. A failure prints the seed and a line
//! that repeats it.

mod disk;
mod knobs;
mod model;
mod network;
mod pattern;
mod world;

pub use knobs::Knobs;
pub use world::{Failure, Report, run};
