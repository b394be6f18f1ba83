//! `bench`: measures the toolkit beside its peers.

mod floor;
mod load;

use clap::Parser;

/// Measures the toolkit beside its peers.
#[derive(Parser)]
#[command(name = "bench")]
enum Args {
    /// Loads an AoE target and prints what came of it as JSON.
    Load(load::Options),
    /// Answers without touching a disk, until it is ended.
    Floor(floor::Options),
}

fn main() -> anyhow::Result<()> {
    match Args::parse() {
        Args::Load(options) => load::run(options),
        Args::Floor(options) => floor::run(&options),
    }
}
