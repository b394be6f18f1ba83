//! The target engine.

pub mod operation;
