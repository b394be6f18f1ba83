//! `aoe-discover`: which AoE disks there are on the segment.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use aoe_common::addr::Address;
use aoe_common::ata::Identify;
use aoe_common::frame::SECTOR;
use aoe_common::link::monotonic_now;
use clap::Parser;
use serde::Serialize;

use super::{FAILED, complain, finish, seconds, show};
use crate::engine::{Discovery, Found};
use crate::identity::first_tag;
use crate::log;
use crate::talk::Talk;
use aoe_common::text::{list, printable, size, table};

const NAME: &str = "aoe-discover";

const HELP: &str = "\
Examples:
      aoe-discover
      aoe-discover --interface eth1 --timeout 5
      aoe-discover e0.*

A disk that a target does not describe is shown with \"?\". Two rows with one address are two different disks:
give one of them another address before you attach either.

Exit codes:
  0  something was found
  1  nothing was found, or nothing could be asked
  2  wrong usage";

/// Lists the AoE disks that answer on this host's Ethernet segments.
#[derive(Clone, Debug, Parser)]
#[command(name = NAME, version, after_help = HELP)]
pub struct Args {
    /// Only this disk, such as e0.1, or these, such as e0.*
    #[arg(value_name = "DEVICE", default_value = "e*.*")]
    device: Address,

    /// Ask on this interface only; may be repeated [default: every Ethernet interface that is up]
    #[arg(long = "interface", short = 'i', value_name = "NAME")]
    interfaces: Vec<String>,

    /// How long to wait for answers
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    timeout: Duration,

    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    log::to_stderr("warn");
    finish(NAME, discover(args))
}

fn discover(args: Args) -> Result<ExitCode> {
    let mut talk = Talk::open(args.interfaces)?;
    let start = monotonic_now();
    let mut discovery = Discovery::new(start, args.device, first_tag(), talk.ports());
    talk.hold(&mut discovery, start + args.timeout)?;

    let disks = merge(discovery.found(), |found| talk.interface(found.port));
    if args.json {
        show(&serde_json::to_string_pretty(&disks)?)?;
    } else if !disks.is_empty() {
        show(&describe(&disks))?;
    }
    for (one, other) in doubles(&disks) {
        let (device, one, other) = (one.device, &one.paths[0].mac, &other.paths[0].mac);
        complain(NAME, &format!("two targets answer as {device} with different disks: {one} and {other}"));
    }
    if disks.is_empty() {
        let nobody = match args.device {
            Address::ANY => "no AoE target answers".to_owned(),
            device => format!("no target answers as {device}"),
        };
        let used = talk.describe();
        complain(NAME, &format!("{nobody} {used}: check cable and VLAN, and that the target serves this host"));
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

/// A disk and the ways to it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Disk {
    device: Address,
    size_bytes: Option<u64>,
    model: Option<String>,
    serial: Option<String>,
    firmware: Option<String>,
    config: String,
    paths: Vec<Path>,
}

/// A target's MAC address over one of our interfaces, and what it can take there.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Path {
    mac: String,
    interface: String,
    /// Requests it can queue.
    buffers: u16,
    /// Sectors per request.
    sectors: u8,
}

/// Puts together what is one disk: the same address, name and size.
fn merge<'a>(found: impl Iterator<Item = &'a Found>, interface: impl Fn(&Found) -> &'a str) -> Vec<Disk> {
    let mut disks: Vec<Disk> = Vec::new();
    for found in found {
        let of = |part: fn(&Identify) -> &String| found.identify.as_ref().map(|identify| part(identify).clone());
        let disk = Disk {
            device: found.address,
            size_bytes: found.identify.as_ref().map(|identify| identify.sectors * SECTOR as u64),
            model: of(|identify| &identify.model),
            serial: of(|identify| &identify.serial),
            firmware: of(|identify| &identify.firmware),
            config: printable(&found.config_string),
            paths: Vec::new(),
        };
        let path = Path {
            mac: found.mac.to_string(),
            interface: interface(found).to_owned(),
            buffers: found.buffers,
            sectors: found.sectors_per_command,
        };
        let index = disks.iter().position(|known| known.is_same(&disk)).unwrap_or_else(|| {
            disks.push(disk);
            disks.len() - 1
        });
        disks[index].paths.push(path);
    }
    disks
}

impl Disk {
    fn is_same(&self, other: &Self) -> bool {
        let what = |disk: &Self| (disk.device, disk.size_bytes, disk.model.clone(), disk.serial.clone());
        what(self) == what(other)
    }
}

/// Pairs of different disks under one address. A disk that does not describe itself may be any.
fn doubles(disks: &[Disk]) -> impl Iterator<Item = (&Disk, &Disk)> {
    let known = || disks.iter().filter(|disk| disk.size_bytes.is_some());
    known().zip(known().skip(1)).filter(|(one, other)| one.device == other.device)
}

fn describe(disks: &[Disk]) -> String {
    let header = ["device", "size", "model", "serial", "firmware", "paths", "config"];
    let unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
    let rows = disks.iter().map(|disk| {
        let paths: Vec<_> = disk.paths.iter().map(|path| format!("{} via {}", path.mac, path.interface)).collect();
        vec![
            disk.device.to_string(),
            unknown(&disk.size_bytes.map(size)),
            unknown(&disk.model),
            unknown(&disk.serial),
            unknown(&disk.firmware),
            list(&paths),
            disk.config.clone(),
        ]
    });
    table(&header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::PortId;
    use aoe_common::wire::MacAddr;

    fn found(slot: u8, mac: u8, port: u32, identify: Option<(&str, u64)>) -> Found {
        Found {
            address: Address::new(0, slot),
            mac: MacAddr(2, 0, 0, 0, 0, mac),
            port: PortId(port),
            config_string: b"hi\x1b".to_vec(),
            buffers: 16,
            firmware: 0x4019,
            sectors_per_command: 2,
            identify: identify.map(|(serial, sectors)| Identify {
                sectors,
                serial: serial.into(),
                model: "M".into(),
                ..Identify::default()
            }),
        }
    }

    fn disks(found: &[Found]) -> Vec<Disk> {
        merge(found.iter(), |found| if found.port == PortId(0) { "eth0" } else { "eth1" })
    }

    #[test]
    fn paths_to_one_disk_share_a_row() {
        let disks = disks(&[found(1, 1, 0, Some(("A", 2048))), found(1, 1, 1, Some(("A", 2048)))]);
        assert_eq!(disks.len(), 1);
        let text = describe(&disks);
        assert!(text.contains("02:00:00:00:00:01 via eth0, 02:00:00:00:00:01 via eth1"), "{text}");
        assert!(text.contains("1.0 MiB") && text.contains("hi\\x1b"), "{text}");
        assert_eq!(doubles(&disks).count(), 0);
    }

    #[test]
    fn different_disks_under_one_address_are_told_apart() {
        for other in [("B", 2048), ("A", 4096)] {
            let disks = disks(&[found(1, 1, 0, Some(("A", 2048))), found(1, 2, 0, Some(other))]);
            assert_eq!(disks.len(), 2);
            assert_eq!(doubles(&disks).count(), 1);
        }
        let disks = disks(&[found(1, 1, 0, Some(("A", 2048))), found(2, 2, 0, Some(("A", 2048)))]);
        assert_eq!((disks.len(), doubles(&disks).count()), (2, 0), "two addresses are two disks");
    }

    #[test]
    fn a_disk_that_does_not_say_what_it_is_is_shown_as_unknown() {
        let disks = disks(&[found(1, 1, 0, None), found(1, 2, 0, Some(("A", 2048)))]);
        assert_eq!((disks.len(), doubles(&disks).count()), (2, 0));
        assert!(describe(&disks).lines().nth(1).unwrap().matches('?').count() == 4);
        let json = serde_json::to_value(&disks).unwrap();
        assert_eq!(json[0]["size_bytes"], serde_json::Value::Null);
        assert_eq!(json[1]["size_bytes"], 1 << 20);
        assert_eq!(json[1]["paths"][0]["interface"], "eth0");
    }
}
