//! `aoe-stat`: what is attached on this host, and how it does.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use aoe_common::target_status::{ExportStatus, Latency, StationStatus, TargetStatus};
use clap::Parser;

use super::{Subject, complain, finish, seconds, show};
use crate::run_dir::RunDir;
use crate::status::{PathStatus, Status};
use crate::target_control;
use crate::watch::{Source, watch};
use aoe_common::text::{list, printable, size, table};

const NAME: &str = "aoe-stat";

/// How long a target may take for each part of its answer.
const PATIENCE: Duration = Duration::from_secs(5);

const HELP: &str = "\
States: up; searching (not found yet); dead (no target answers, requests fail until one does).
A path is a target's MAC address and our interface, with its state, round-trip time, frames under way of
those allowed, and frames sent again. p50 and p99: half, and 99 of a hundred requests, took no longer.

Examples:
  The disks that are attached here:
      aoe-stat
      aoe-stat --json /dev/nbd1

  The same on a terminal, with rates, until q is pressed; and what the target on this host serves:
      aoe-stat --watch
      aoe-stat --target --watch

Exit codes:
  0  told, even if nothing is attached
  1  cannot tell
  2  wrong usage";

/// Lists the AoE disks that are attached on this host, or what a target on this host serves.
#[derive(Clone, Debug, Parser)]
#[command(name = NAME, version, after_help = HELP)]
pub struct Args {
    /// Print JSON: an array of attached disks, or an object with all a target tells
    #[arg(long)]
    json: bool,

    /// Follow it on the terminal; ? explains, q ends
    #[arg(long, conflicts_with = "json")]
    watch: bool,

    /// How often to look
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval, requires = "watch")]
    interval: Duration,

    /// Tell of the aoe-target of this host, not of what is attached
    #[arg(long, conflicts_with = "subject")]
    target: bool,

    /// The same, of the one with this control socket [default: $AOE_TARGET_CONTROL, else /run/aoe-target/control.sock]
    #[arg(long, value_name = "PATH", conflicts_with = "subject")]
    control: Option<PathBuf>,

    /// Only this disk, such as e0.1, or what is attached there, such as /dev/nbd1
    #[arg(value_name = "DEVICE|WHERE")]
    subject: Option<Subject>,
}

/// An interval as it is typed.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = seconds(text).ok().filter(|interval| *interval >= Duration::from_millis(100));
    interval.ok_or_else(|| "write seconds, from 0.1 to 86400".to_owned())
}

impl Args {
    /// The control socket of the target, if that is what is asked for.
    fn target(&self) -> Option<PathBuf> {
        self.control.clone().or_else(|| self.target.then(target_control::default_path))
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    finish(NAME, stat(Args::parse()).map(|()| ExitCode::SUCCESS))
}

fn stat(args: Args) -> Result<()> {
    match args.target() {
        Some(path) if args.watch => watch(Source::Target(path), args.interval),
        None if args.watch => watch(Source::Attached(RunDir::locate()?, args.subject), args.interval),
        Some(path) => {
            let target = target_control::status(&path, PATIENCE)?;
            show(&if args.json { serde_json::to_string_pretty(&target)? } else { describe_target(&target) })
        }
        None => {
            let attached = RunDir::locate()?.attached(|error| complain(NAME, &error.to_string()))?;
            let is_wanted = |one: &_| args.subject.as_ref().is_none_or(|subject| subject.is(one));
            let list: Vec<Status> = attached.into_iter().filter(is_wanted).map(|one| one.status).collect();
            if args.json {
                return show(&serde_json::to_string_pretty(&list)?);
            }
            if list.is_empty() {
                let what = args.subject.map_or_else(|| "nothing is".to_owned(), |subject| format!("{subject} is not"));
                complain(NAME, &format!("{what} attached"));
                return Ok(());
            }
            show(&describe(&list))
        }
    }
}

fn describe(statuses: &[Status]) -> String {
    let header = [
        "device", "where", "state", "size", "mode", "read", "p50/p99", "written", "p50/p99", "resends", "errors",
        "paths",
    ];
    let rows = statuses.iter().map(|status| {
        let paths: Vec<_> = status.paths.iter().map(path).collect();
        vec![
            status.device.to_string(),
            status.place.clone(),
            status.state.name().to_owned(),
            size(status.size_bytes),
            if status.read_only { "read-only" } else { "read-write" }.to_owned(),
            format!("{} in {}", size(status.read_bytes), status.reads),
            times(&status.read_latency),
            format!("{} in {}", size(status.write_bytes), status.writes),
            times(&status.write_latency),
            status.resends.to_string(),
            status.errors.to_string(),
            list(&paths),
        ]
    });
    table(&header, rows)
}

fn path(path: &PathStatus) -> String {
    let PathStatus { mac, interface, window, in_flight, resends, frame_bytes, offered_bytes, .. } = path;
    let state = path.state.name();
    let rtt = path.rtt_us.map_or_else(|| "? us".to_owned(), |rtt| format!("{rtt} us"));
    let is_narrow = frame_bytes < offered_bytes;
    let frames = if is_narrow { format!(", {frame_bytes} of {offered_bytes} bytes pass") } else { String::new() };
    format!("{mac} via {interface} {state} {rtt} {in_flight}/{window} resends {resends}{frames}")
}

/// Half, and 99 of a hundred, took no longer; in microseconds.
fn times(latency: &Latency) -> String {
    match (latency.below(0.5), latency.below(0.99)) {
        (Some(half), Some(most)) => format!("{half}/{most} us"),
        _ => "-".to_owned(),
    }
}

fn describe_target(target: &TargetStatus) -> String {
    let TargetStatus { version, pid, since_s, malformed, not_ours, no_buffer, .. } = target;
    let draining = if target.draining { ", draining" } else { "" };
    let mut text = format!(
        "aoe-target {version}, process {pid}, serving for {since_s} s{draining}; frames: {malformed} malformed, \
         {not_ours} not ours, {no_buffer} without a buffer\n\n"
    );
    let rows = target.interfaces.iter().map(|interface| {
        vec![
            printable(interface.name.as_bytes()),
            interface.mac.clone(),
            interface.mtu.to_string(),
            if interface.up { "up" } else { "down" }.to_owned(),
            interface.received.to_string(),
            interface.sent.to_string(),
            interface.kernel_drops.to_string(),
        ]
    });
    text += &table(&["interface", "address", "MTU", "link", "received", "sent", "dropped"], rows);
    text += "\n\n";
    let header =
        ["device", "path", "state", "size", "read", "p50/p99", "written", "p50/p99", "repeats", "errors", "stations"];
    text += &table(&header, target.exports.iter().map(export_row));
    if !target.not_served.is_empty() {
        text += "\n\n";
        let rows = target.not_served.iter().map(|it| vec![it.device.to_string(), printable(it.reason.as_bytes())]);
        text += &table(&["not served", "why"], rows);
    }
    text
}

fn export_row(export: &ExportStatus) -> Vec<String> {
    let state = match export {
        ExportStatus { lost: Some(why), .. } => format!("lost data: {}", printable(why.as_bytes())),
        ExportStatus { draining: true, .. } => "draining".to_owned(),
        ExportStatus { held_s: Some(seconds), .. } => format!("writes held, {seconds} s"),
        ExportStatus { read_only: true, .. } => "read-only".to_owned(),
        _ => "up".to_owned(),
    };
    let station = |StationStatus { mac, reads, writes, .. }: &_| format!("{mac} {reads} reads {writes} writes");
    let stations: Vec<_> = export.stations.iter().map(station).collect();
    vec![
        export.device.to_string(),
        printable(export.path.as_bytes()),
        state,
        size(export.size_bytes),
        format!("{} in {}", size(export.read_bytes), export.reads),
        times(&export.read_latency),
        format!("{} in {}", size(export.write_bytes), export.writes),
        times(&export.write_latency),
        export.repeats.to_string(),
        export.errors.to_string(),
        list(&stations),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::status;

    #[test]
    fn a_row_tells_it_all() {
        let mut status = status();
        (0..10).for_each(|_| status.read_latency.record(100));
        let text = describe(&[status]);
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
                "128/128 us",
                "0 B in 0",
                "-",
                "2",
                "0",
                "02:00:00:00:00:02 via eth0 up 120 us 1/16 resends 2"
            ]
        );
    }

    #[test]
    fn a_path_that_carries_less_than_its_ends_take_is_told() {
        let mut status = status();
        status.paths[0].frame_bytes = 1024;
        assert!(path(&status.paths[0]).ends_with("resends 2, 1024 of 8704 bytes pass"));
    }

    #[test]
    fn a_target_is_told_once() {
        let json = r#"{"version":"0.1.0","pid":7,"since_s":60,"draining":false,"interfaces":[{"name":"eth1",
            "mac":"02:00:00:00:00:01","mtu":9000,"up":true,"received":5,"sent":6,"kernel_drops":0}],"exports":[],
            "malformed":1,"not_ours":2,"no_buffer":3,"forgotten_early":0}"#;
        let target: TargetStatus = serde_json::from_str(json).unwrap();
        let text = describe_target(&target);
        assert!(text.starts_with("aoe-target 0.1.0, process 7, serving for 60 s; frames: 1 malformed, 2 not ours"));
        assert!(text.contains("\neth1       02:00:00:00:00:01  9000  up"), "{text}");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for line in ["--watch --json", "--target e0.1", "--control x e0.1", "--interval 2", "--watch --interval 0"] {
            assert!(Args::try_parse_from(format!("aoe-stat {line}").split(' ')).is_err(), "{line}");
        }
        let args =
            Args::try_parse_from(["aoe-stat", "--control", "/run/x.sock", "--watch", "--interval", "0.5"]).unwrap();
        assert_eq!((args.target(), args.interval), (Some("/run/x.sock".into()), Duration::from_millis(500)));
        assert_eq!(Args::try_parse_from(["aoe-stat", "e0.1"]).unwrap().target(), None);
    }
}
