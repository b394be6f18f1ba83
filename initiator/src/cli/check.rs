//! `aoe-check`: whether the network between this host and a disk does what its ends believe.

mod verdict;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use aoe_common::addr::Address;
use aoe_common::ata::Identify;
use aoe_common::frame::SECTOR;
use aoe_common::link::monotonic_now;
use clap::Parser;
use serde::Serialize;

use self::verdict::{Facts, Finding, findings};
use super::{complain, device, seconds, show};
use crate::engine::{Checking, Discovery, RoundTripTimes, WAYS_MAX, Way, WayReport};
use crate::identity::first_tag;
use crate::log;
use crate::talk::Talk;
use aoe_common::text::{printable, size, table};

const NAME: &str = "aoe-check";

/// There is something to be put right.
const PROBLEMS: u8 = 1;
/// Nothing could be found out.
const UNCHECKED: u8 = 3;

/// How long targets are listened for.
const LISTEN: Duration = Duration::from_secs(1);
/// The longest load, on all ways together.
const LOAD_MAX: Duration = Duration::from_secs(60);

const HELP: &str = "\
On each way to the disk (a MAC address of the target over an interface of this host) it finds the
largest read and the largest request that pass, up to what both ends claim, and then reads for a
while, 16 requests at a time, to see what is lost, repeated, late or out of order. It looks whether
one and the same disk is at the end of all ways. It only ever reads.

Sizes are in sectors of 512 bytes. What a busy disk or network does to the figures, it does to this
program, too: run it when little else is going on, and again when it finds something.

Examples:
      aoe-check e0.1
      aoe-check e0.1 -I eth1 --seconds 20
      aoe-check e0.1 --json

Exit codes:
  0  no problem found
  1  problems found; each is told with what to do
  2  wrong usage
  3  not checked: nobody answers, or there is no interface to ask on";

/// Checks the ways to an AoE disk and tells in words what is wrong with them.
#[derive(Clone, Debug, Parser)]
#[command(name = NAME, version, after_help = HELP)]
pub struct Args {
    /// The disk, for example e0.1
    #[arg(value_parser = device)]
    device: Address,

    /// Use this interface only; may be repeated [default: every Ethernet interface that is up]
    #[arg(long = "interface", short = 'i', visible_short_alias = 'I', value_name = "NAME")]
    interfaces: Vec<String>,

    /// How long to read, on all ways together, up to 60
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = load)]
    seconds: Duration,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

fn load(text: &str) -> Result<Duration, String> {
    let value = seconds(text)?;
    if value.is_zero() || value > LOAD_MAX { Err("write more than 0, and up to 60".to_owned()) } else { Ok(value) }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    log::to_stderr("warn");
    check(&args).unwrap_or_else(|error| {
        complain(NAME, &format!("{error:#}"));
        ExitCode::from(UNCHECKED)
    })
}

fn check(args: &Args) -> Result<ExitCode> {
    let device = args.device;
    let mut talk = Talk::open(args.interfaces.clone())?;
    let start = monotonic_now();
    let mut discovery = Discovery::new(start, device, first_tag(), talk.ports());
    talk.hold(&mut discovery, start + LISTEN)?;
    let found: Vec<_> = discovery.found().cloned().collect();
    if found.is_empty() {
        let used = talk.describe();
        return Err(anyhow!("nobody answers for {device} {used}: see \"aoe-discover\", and cable and VLAN"));
    }
    if found.len() > WAYS_MAX {
        complain(NAME, &format!("{} ways lead to {device}: only {WAYS_MAX} are checked", found.len()));
    }
    let ways: Vec<_> = found.iter().take(WAYS_MAX).collect();
    let to_check = ways.iter().filter_map(|found| {
        let disk = found.identify.as_ref().filter(|disk| disk.sectors > 0)?;
        Some(Way {
            mac: found.mac,
            port: found.port,
            buffers: found.buffers,
            offered: found.sectors_per_command,
            sectors: disk.sectors,
            lba48: disk.lba48,
        })
    });
    let to_check: Vec<_> = to_check.collect();
    let each = args.seconds / to_check.len().max(1) as u32;
    let mut checking = Checking::new(device, to_check, each, first_tag(), talk.ports());
    talk.hold_and_tell(&mut checking, None, |_, _| Ok(()))?;

    let facts: Vec<_> = ways
        .iter()
        .map(|found| {
            let is_same = |way: &Way| (way.mac, way.port) == (found.mac, found.port);
            let report = checking.reports().find(|(way, _)| is_same(way)).map(|(_, report)| report.clone());
            let info = talk.ports().find(|(port, _)| *port == found.port).expect("it was heard there").1;
            Facts {
                mac: found.mac,
                interface: talk.interface(found.port).to_owned(),
                mtu: info.mtu,
                ours: info.frame_sectors(),
                offered: found.sectors_per_command,
                disk: found.identify.clone(),
                report: report.unwrap_or_default(),
            }
        })
        .collect();
    let report = Report::new(device, &facts);
    show(&if args.json { serde_json::to_string_pretty(&report)? } else { report.describe() })?;
    Ok(if report.problems == 0 { ExitCode::SUCCESS } else { ExitCode::from(PROBLEMS) })
}

/// All of it, for people and programs.
#[derive(Debug, Serialize)]
struct Report {
    device: Address,
    disk: Option<Disk>,
    ways: Vec<WayRow>,
    findings: Vec<Finding>,
    problems: usize,
}

/// The disk as the first target describes it.
#[derive(Debug, Serialize)]
struct Disk {
    size_bytes: u64,
    model: String,
    serial: String,
    flush: bool,
    fua: bool,
    write_cache: bool,
}

/// A way, its sizes in sectors.
#[derive(Debug, Serialize)]
struct WayRow {
    mac: String,
    interface: String,
    mtu: u32,
    offered: u8,
    claimed: u8,
    reads_pass: u8,
    requests_pass: u8,
    requests: u64,
    lost: u64,
    late: u64,
    repeated: u64,
    ordered: u64,
    overtaken: u64,
    #[serde(flatten)]
    times: Option<RoundTripTimes>,
}

impl WayRow {
    fn new(facts: &Facts) -> Self {
        let WayReport { claimed, reads, requests, load, .. } = &facts.report;
        Self {
            mac: facts.mac.to_string(),
            interface: facts.interface.clone(),
            mtu: facts.mtu,
            offered: facts.offered,
            claimed: *claimed,
            reads_pass: *reads,
            requests_pass: *requests,
            requests: load.sent,
            lost: load.lost(),
            late: load.late,
            repeated: load.repeated,
            ordered: load.ordered,
            overtaken: load.overtaken,
            times: load.times.times(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let time =
            |of: fn(&RoundTripTimes) -> f64| self.times.as_ref().map_or("-".to_owned(), |t| format!("{:.3}", of(t)));
        vec![
            self.mac.clone(),
            self.interface.clone(),
            self.mtu.to_string(),
            self.offered.to_string(),
            format!("{} of {}", self.reads_pass, self.claimed),
            format!("{} of {}", self.requests_pass, self.claimed),
            self.requests.to_string(),
            self.lost.to_string(),
            self.repeated.to_string(),
            self.overtaken.to_string(),
            time(|times| times.p50_ms),
            time(|times| times.p99_ms),
        ]
    }
}

impl Report {
    fn new(device: Address, facts: &[Facts]) -> Self {
        let disk = |disk: &Identify| Disk {
            size_bytes: disk.sectors * SECTOR as u64,
            model: disk.model.clone(),
            serial: disk.serial.clone(),
            flush: disk.flush || disk.flush_ext,
            fua: disk.fua,
            write_cache: disk.write_cache,
        };
        let disk = facts.iter().find_map(|way| way.disk.as_ref()).map(disk);
        let findings = findings(device, facts);
        let problems = findings.iter().filter(|finding| finding.problem).count();
        Self { device, disk, ways: facts.iter().map(WayRow::new).collect(), findings, problems }
    }

    fn describe(&self) -> String {
        let mut lines = Vec::new();
        if let Some(Disk { size_bytes, model, serial, flush, fua, write_cache }) = &self.disk {
            let has = |is: &bool| if *is { "yes" } else { "no" };
            let (model, serial) = (printable(model.as_bytes()), printable(serial.as_bytes()));
            lines.push(format!("{}: {}, {model}, serial {serial}", self.device, size(*size_bytes)));
            lines.push(format!("write cache {}, flush {}, FUA {}\n", has(write_cache), has(flush), has(fua)));
        }
        let header = [
            "target",
            "interface",
            "mtu",
            "offers",
            "reads",
            "requests",
            "sent",
            "lost",
            "repeated",
            "overtaken",
            "p50 ms",
            "p99 ms",
        ];
        lines.push(table(&header, self.ways.iter().map(WayRow::cells)) + "\n");
        if self.problems == 0 {
            lines.push("No problem found.".to_owned());
        }
        let line =
            |finding: &Finding| format!("{}: {}.", if finding.problem { "Problem" } else { "Note" }, finding.text);
        lines.extend(self.findings.iter().map(line));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let parse = |line: &str| Args::try_parse_from(line.split_whitespace());
        let args = parse("aoe-check e0.1 -I eth0 --seconds 0.5 --json").unwrap();
        assert_eq!((args.seconds, args.json, args.interfaces.len()), (Duration::from_millis(500), true, 1));
        for wrong in ["aoe-check", "aoe-check e0.*", "aoe-check e0.1 --seconds 0", "aoe-check e0.1 --seconds 61"] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn a_report_has_figures_and_a_verdict() {
        let report = WayReport { claimed: 17, reads: 2, requests: 17, ..WayReport::default() };
        let facts = Facts {
            mac: aoe_common::wire::MacAddr(2, 0, 0, 0, 1, 1),
            interface: "eth0".to_owned(),
            mtu: 9000,
            ours: 17,
            offered: 17,
            disk: Some(Identify { sectors: 2048, flush_ext: true, model: "M\x1b".into(), ..Identify::default() }),
            report,
        };
        let report = Report::new(Address::new(0, 1), std::slice::from_ref(&facts));
        let text = report.describe();
        for part in
            ["e0.1: 1.0 MiB, M\\x1b,", "flush yes", "2 of 17", "17 of 17", "\nProblem: 02:00:00:00:01:01 on eth0: "]
        {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(report.problems == 1 && !text.contains("No problem"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["ways"][0]["reads_pass"], &json["findings"][0]["problem"]), (&2.into(), &true.into()));
        let fine = Facts { report: WayReport { reads: 17, ..facts.report.clone() }, ..facts };
        assert!(Report::new(Address::new(0, 1), &[fine]).describe().ends_with("No problem found."));
    }
}
