//! `bench`: measures the toolkit beside its peers. `tests/bench/run` builds and starts it.

mod contenders;
mod figures;
mod first_answer;
mod floor;
mod guest;
mod images;
mod load;
mod meter;
mod plots;
mod report;
mod rounds;
mod rows;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::images::Images;
use crate::report::Machine;
use crate::rounds::{Pace, Results};
use crate::rows::About;

/// Measures the toolkit beside its peers.
#[derive(Parser)]
#[command(name = "bench")]
enum Args {
    /// Measures everything and writes docs/benchmarks.md.
    Run(Options),
    /// Loads an AoE target and prints what came of it as JSON.
    Load(load::Options),
    /// Answers without touching a disk, until it is ended.
    Floor(floor::Options),
    /// Waits for a disk and prints when it first answered.
    FirstAnswer(first_answer::Options),
}

/// Options of `bench run`.
#[derive(clap::Args)]
struct Options {
    /// Rounds of what goals are judged by; the steps of plots have half as many.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    rounds: u8,
    /// One short round of everything, which says whether it runs and little more; prints the document.
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// This row alone, or those whose names begin so; prints it, and leaves the document as it is.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// The names of all rows.
    #[arg(long)]
    list: bool,
}

fn main() -> Result<()> {
    match Args::parse() {
        Args::Run(options) => run(&options),
        Args::Load(options) => load::run(options),
        Args::Floor(options) => floor::run(&options),
        Args::FirstAnswer(options) => first_answer::run(&options),
    }
}

fn run(options: &Options) -> Result<()> {
    let is_wanted = |about: &About| options.only.as_ref().is_none_or(|only| about.name.starts_with(only));
    let experiments: Vec<_> =
        rows::experiments().into_iter().filter(|experiment| is_wanted(&experiment.about)).collect();
    let has_guest = is_wanted(&guest::ABOUT) && cfg!(target_arch = "x86_64");
    if options.list {
        let guest = has_guest.then_some(&guest::ABOUT);
        let all = experiments.iter().map(|experiment| &experiment.about).chain(guest);
        all.for_each(|about| println!("{:<16} {}", about.name, about.title));
        return Ok(());
    }
    ensure!(!experiments.is_empty() || has_guest, "no row has that name; `--list` shows them all");
    ensure!(
        std::thread::available_parallelism()?.get() >= 2,
        "a server and its load need a processor each; this is one"
    );

    let pace = if options.quick {
        Pace { rounds: 1, time: Duration::from_millis(500) }
    } else {
        Pace { rounds: options.rounds.into(), time: Duration::from_millis(1200) }
    };
    let images = Images::new()?;
    let machine = Machine::here(images.filesystem())?;
    let began = Instant::now();
    let mut results = Vec::new();
    for experiment in &experiments {
        eprintln!("{:>4} s  {}", began.elapsed().as_secs(), experiment.about.name);
        results.push(rounds::run(experiment, &images, pace));
    }
    if has_guest {
        eprintln!("{:>4} s  {}", began.elapsed().as_secs(), guest::ABOUT.name);
        results.push(guest::run(pace.rounds));
    }

    if options.only.is_some() {
        println!("{}", report::goals(&results));
        results.iter().for_each(|results| println!("{}", report::section(results)));
    } else if options.quick {
        println!("{}", report::document(&machine, pace, &results));
    } else {
        write(&report::document(&machine, pace, &results), &results)?;
    }
    let failed = results.iter().filter(|results| results.measured.is_empty()).map(|results| results.about.name);
    let failed: Vec<_> = failed.collect();
    ensure!(failed.is_empty(), "these could not be measured, see above: {}", failed.join(", "));
    Ok(())
}

/// Replaces the document and its drawings.
fn write(document: &str, results: &[Results]) -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs");
    let drawings = docs.join("benchmarks");
    if drawings.exists() {
        fs::remove_dir_all(&drawings).with_context(|| format!("removing {}", drawings.display()))?;
    }
    fs::create_dir(&drawings).with_context(|| format!("making {}", drawings.display()))?;
    report::draw(&drawings, results)?;
    let file = docs.join("benchmarks.md");
    fs::write(&file, document).with_context(|| format!("writing {}", file.display()))?;
    println!("{} is written", file.display());
    Ok(())
}
