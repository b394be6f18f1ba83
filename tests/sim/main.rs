//! `sim`: runs the deterministic simulation from the command line.

use std::process::ExitCode;

use aoe_tests::sim::run;
use clap::Parser;

/// Runs seeds of the deterministic simulation until one fails.
///
/// Example: cargo run --release -p aoe-tests --bin sim -- --seeds 0..2000
#[derive(Parser)]
#[command(name = "sim")]
struct Args {
    /// Run this seed alone.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run the seeds A..B (B not included).
    #[arg(long, value_name = "A..B", value_parser = parse_range, default_value = "0..200")]
    seeds: std::ops::Range<u64>,
    /// Print every event.
    #[arg(long)]
    trace: bool,
}

fn parse_range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let form = || format!("\"{text}\" is no range: write A..B, for example 0..200");
    let (from, to) = text.split_once("..").ok_or_else(form)?;
    Ok(from.parse().map_err(|_| form())?..to.parse().map_err(|_| form())?)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = args.seed.map_or(args.seeds, |seed| seed..seed + 1);
    let count = seeds.end.saturating_sub(seeds.start);
    let (mut requests, mut resends, mut repeats) = (0, 0, 0);
    for seed in seeds {
        match run(seed, args.trace) {
            Ok(report) => {
                requests += report.requests;
                resends += report.resends;
                repeats += report.repeats;
            }
            Err(failure) => {
                eprintln!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{count} seeds clean: {requests} requests, {resends} frames sent again, {repeats} repeats caught");
    ExitCode::SUCCESS
}
