//! `aoe-stat`: what is attached on this host, and how it does.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use super::{Subject, complain, finish, show};
use crate::run_dir::RunDir;
use crate::status::{PathHealth, PathStatus, State, Status};
use crate::text::{list, size, table};

const NAME: &str = "aoe-stat";

const HELP: &str = "\
States: up; searching (not found yet); dead (no target answers, requests fail until one does).
A path is a target's MAC address and our interface, with its state, round-trip time, frames under way of
those allowed, and frames sent again.

Example:
      aoe-stat
      aoe-stat --json /dev/nbd1

Exit codes:
  0  told, even if nothing is attached
  1  cannot tell
  2  wrong usage";

/// Lists the AoE disks that are attached on this host.
#[derive(Clone, Debug, Parser)]
#[command(name = NAME, version, after_help = HELP)]
pub struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,

    /// Only this disk, such as e0.1, or what is attached there, such as /dev/nbd1
    #[arg(value_name = "DEVICE|WHERE")]
    subject: Option<Subject>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    finish(NAME, stat(&Args::parse()))
}

fn stat(args: &Args) -> Result<ExitCode> {
    let attached = RunDir::locate()?.attached(|error| complain(NAME, &error.to_string()))?;
    let wanted = attached.into_iter().filter(|one| args.subject.as_ref().is_none_or(|subject| subject.is(one)));
    let list: Vec<Status> = wanted.map(|one| one.status).collect();
    if args.json {
        show(&serde_json::to_string_pretty(&list)?)?;
    } else if list.is_empty() {
        let what = args.subject.as_ref().map_or_else(|| "nothing is".to_owned(), |subject| format!("{subject} is not"));
        complain(NAME, &format!("{what} attached"));
    } else {
        show(&describe(&list))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(statuses: &[Status]) -> String {
    let header = ["device", "where", "state", "size", "mode", "read", "written", "resends", "errors", "paths"];
    let rows = statuses.iter().map(|status| {
        let state = match status.state {
            State::Searching => "searching",
            State::Up => "up",
            State::Dead => "dead",
        };
        let paths: Vec<_> = status.paths.iter().map(path).collect();
        vec![
            status.device.to_string(),
            status.place.clone(),
            state.to_owned(),
            size(status.size_bytes),
            if status.read_only { "read-only" } else { "read-write" }.to_owned(),
            format!("{} in {}", size(status.read_bytes), status.reads),
            format!("{} in {}", size(status.write_bytes), status.writes),
            status.resends.to_string(),
            status.errors.to_string(),
            list(&paths),
        ]
    });
    table(&header, rows)
}

fn path(path: &PathStatus) -> String {
    let PathStatus { mac, interface, window, in_flight, resends, .. } = path;
    let state = match path.state {
        PathHealth::Identifying => "identifying",
        PathHealth::Up => "up",
        PathHealth::Failed => "failed",
        PathHealth::Foreign => "another disk",
    };
    let rtt = path.rtt_us.map_or_else(|| "? us".to_owned(), |rtt| format!("{rtt} us"));
    format!("{mac} via {interface} {state} {rtt} {in_flight}/{window} resends {resends}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::status;

    #[test]
    fn a_row_tells_it_all() {
        let text = describe(&[status()]);
        let row: Vec<_> = text.lines().nth(1).unwrap().split("  ").filter(|cell| !cell.is_empty()).collect();
        let row: Vec<_> = row.into_iter().map(str::trim).collect();
        assert_eq!(
            row,
            [
                "e0.1",
                "unix:/run/disk.sock",
                "up",
                "64.0 MiB",
                "read-write",
                "40.0 KiB in 10",
                "0 B in 0",
                "2",
                "0",
                "02:00:00:00:00:02 via eth0 up 120 us 1/16 resends 2"
            ]
        );
    }
}
