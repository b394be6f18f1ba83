//! `manuals`: writes manual pages and completions for the packages.

use std::path::PathBuf;
use std::process::ExitCode;

use aoe_tests::packaging::write_all;
use clap::Parser;

/// Writes manual pages and completions of all programs, for systemd/package.
///
/// Example: cargo run -p aoe-tests --bin manuals -- /tmp/manuals 2026-11-22
#[derive(Parser)]
#[command(name = "manuals")]
struct Args {
    /// Where to; what was written there before is replaced
    folder: PathBuf,
    /// The pages' date, such as 2026-11-22
    date: String,
}

fn main() -> ExitCode {
    let Args { folder, date } = Args::parse();
    match write_all(&folder, &date) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manuals: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
