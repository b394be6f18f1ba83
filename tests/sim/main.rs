//! `sim`: runs the deterministic simulation from the command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use aoe_tests::sim::{Failure, Options, Report, run};
use clap::Parser;

/// Runs seeds of the deterministic simulation until one fails.
///
/// Example: cargo run --release -p aoe-tests --bin sim -- --seeds 0..2000
#[derive(Parser)]
#[command(name = "sim")]
struct Args {
    /// Run this seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// Run the seeds A..B (B not included).
    #[arg(long, value_name = "A..B", value_parser = parse_range, default_value = "0..200")]
    seeds: std::ops::Range<u64>,
    /// Run seeds from the range's start on for so many minutes.
    #[arg(long, value_name = "M")]
    minutes: Option<u64>,
    /// Let each run go on for so many hours of its own time, with pauses between requests.
    #[arg(long, value_name = "H")]
    hours: Option<u64>,
    /// Go on after a run that fails.
    #[arg(long)]
    keep_going: bool,
    /// Plant each fault in turn and count the seeds until it is found.
    #[cfg(planted)]
    #[arg(long)]
    planted: bool,
    /// Print every event.
    #[arg(long)]
    trace: bool,
    /// Write all frames of a run to a file for Wireshark [default for a run that fails: .build/sim/seed-N.pcapng].
    #[arg(long, value_name = "FILE", requires = "seed")]
    capture: Option<PathBuf>,
}

fn parse_range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let form = || format!("\"{text}\" is no range: write A..B, for example 0..200");
    let (from, to) = text.split_once("..").ok_or_else(form)?;
    Ok(from.parse().map_err(|_| form())?..to.parse().map_err(|_| form())?)
}

/// The failure in a line, and how to look at it.
fn tell(failure: &Failure, options: &Options) {
    eprintln!("{failure}");
    let seed = failure.seed;
    let capture =
        options.capture.clone().unwrap_or_else(|| Path::new(".build/sim").join(format!("seed-{seed}.pcapng")));
    if options.capture.is_none() {
        // The same seed again is the same run.
        let again = run(seed, &Options { capture: Some(capture.clone()), trace: false, ..options.clone() });
        assert!(again.is_err(), "seed {seed} fails once and passes then: the simulation is not deterministic");
    }
    eprintln!("its frames: {}", capture.display());
    let hours = options.long.map_or(String::new(), |nanos| format!(" --hours {}", nanos / HOUR));
    eprintln!("again, step by step: cargo run -p aoe-tests --bin sim -- --seed {seed}{hours} --trace");
}

const HOUR: u64 = 3600 * 1_000_000_000;

fn main() -> ExitCode {
    let args = Args::parse();
    #[cfg(planted)]
    if args.planted {
        let (table, all) = aoe_tests::sim::planted::table(&args.seeds);
        print!("{table}");
        if !all {
            eprintln!("not every fault was found");
        }
        return if all { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let start = Instant::now();
    let limit = args.minutes.map(|minutes| Duration::from_secs(minutes * 60));
    let seeds = match (args.seed, limit) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(_)) => args.seeds.start..u64::MAX,
        (None, None) => args.seeds,
    };
    let options = Options { trace: args.trace, capture: args.capture, long: args.hours.map(|hours| hours * HOUR) };
    let mut total = Report::default();
    let (mut count, mut failed) = (0, 0);
    for seed in seeds {
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            break;
        }
        match run(seed, &options) {
            Ok(report) => total.add(&report),
            Err(failure) => {
                failed += 1;
                if args.keep_going {
                    eprintln!("{failure}");
                } else {
                    tell(&failure, &options);
                    return ExitCode::FAILURE;
                }
            }
        }
        count += 1;
    }
    let Report { requests, failures, resends, repeats, accidents, shut_out, narrow_paths, nanos, .. } = total;
    let clean = count - failed;
    println!(
        "{clean} seeds clean in {:.1} s: {requests} requests in {:.1} hours of their time, {failures} that failed as they may,\n\
         {resends} frames sent again, {repeats} repeats caught, {accidents} accidents, {shut_out} stations shut out,\n\
         {narrow_paths} ways found to be narrow",
        start.elapsed().as_secs_f64(),
        nanos as f64 / HOUR as f64,
    );
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
