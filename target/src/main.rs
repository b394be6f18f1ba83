//! `aoe-target`.
fn main() {}
