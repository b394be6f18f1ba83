//! What can be typed: one module per program. Each says on one line of stderr what went wrong.

pub mod attach;
pub mod bench;
pub mod cfg;
pub mod check;
pub mod detach;
pub mod discover;
pub mod fence;
pub mod ping;
pub mod stat;

use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use aoe_common::addr::Address;
use aoe_common::frame::SECTOR;
use aoe_common::wire::MacAddr;
use clap::{Command, CommandFactory};

use crate::place::Place;
use crate::run_dir::Attached;

/// The command lines of all programs.
pub fn programs() -> [Command; 9] {
    [
        attach::Args::command(),
        bench::Args::command(),
        cfg::Args::command(),
        check::Args::command(),
        detach::Args::command(),
        discover::Args::command(),
        fence::Args::command(),
        ping::Args::command(),
        stat::Args::command(),
    ]
}

/// It did not work.
const FAILED: u8 = 1;
/// It was not asked for in the right way.
const WRONG_USAGE: u8 = 2;

/// Turns the end of a program into its exit code. Wrong usage has ended it before, with 2.
fn finish(program: &str, result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        complain(program, &format!("{error:#}"));
        ExitCode::from(FAILED)
    })
}

/// A line on stderr. Nobody is left to hear of a closed one.
fn complain(program: &str, message: &str) {
    let _ = writeln!(io::stderr(), "{program}: {}", message.replace('\n', " "));
}

/// Prints what a program is for. A reader that has seen enough is no failure.
fn show(text: &str) -> Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A time as it is typed: seconds, with a fraction if need be, up to a day.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let value = text.parse().ok().filter(|value| (0.0..=86_400.0).contains(value));
    value.map(Duration::from_secs_f64).ok_or_else(|| "write seconds, from 0 to 86400".to_owned())
}

/// An amount of data as it is typed: bytes, or with k, m, g or t behind them binary multiples; whole sectors.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => Some(0),
        "k" => Some(10),
        "m" => Some(20),
        "g" => Some(30),
        "t" => Some(40),
        _ => None,
    };
    let value = digits.parse::<u64>().ok().zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift));
    let value = value.filter(|value| value.is_multiple_of(SECTOR as u64));
    value.ok_or_else(|| "write bytes such as 512, 4k, 1m or 2g, a multiple of 512".to_owned())
}

/// How long a silent target is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadAfter(
    /// In seconds; none: for ever.
    pub Option<u64>,
);

impl FromStr for DeadAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self(None)),
            _ => match text.parse::<u32>() {
                Ok(seconds) => Ok(Self(Some(seconds.into()))),
                Err(_) => Err("write whole seconds, or \"never\"".to_owned()),
            },
        }
    }
}

/// What is attached: by its address, or by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// All attaches of this disk.
    Device(Address),
    /// The one at this place.
    Place(Place),
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('e') {
            return device(text).map(Self::Device);
        }
        match text.parse().map_err(|error: crate::place::PlaceError| error.to_string())? {
            Place::Kernel(None) => Err("which one? write /dev/nbdN, see \"aoe-stat\"".to_owned()),
            place => Ok(Self::Place(place)),
        }
    }
}

impl Subject {
    /// Whether this attach is meant.
    pub fn is(&self, attached: &Attached) -> bool {
        match self {
            Self::Device(device) => attached.status.device == *device,
            Self::Place(place) => attached.status.place == place.to_string(),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(device) => device.fmt(f),
            Self::Place(place) => place.fmt(f),
        }
    }
}

/// The address of one disk.
pub(crate) fn device(text: &str) -> Result<Address, String> {
    match text.parse::<Address>() {
        Ok(address) if address.is_wildcard() => {
            Err(format!("{address} stands for many disks: name one, for example e0.1 (\"aoe-discover\" lists them)"))
        }
        Ok(address) => Ok(address),
        Err(error) => Err(error.to_string()),
    }
}

/// The address of one station.
fn station(text: &str) -> Result<MacAddr, String> {
    let is_bare = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pairs = || (0..12).step_by(2).map(|at| &text[at..at + 2]).collect::<Vec<_>>().join(":");
    let colons = if is_bare { pairs() } else { text.trim().replace('-', ":") };
    let mac: MacAddr = colons.parse().map_err(|_| "write it like 02:00:00:00:00:0a".to_owned())?;
    if mac.0 & 1 != 0 || mac == MacAddr::zero() {
        return Err("it is no address of a single station".to_owned());
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_lines_are_consistent() {
        for command in programs() {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Example") && help.contains("Exit codes"), "{help}");
            command.debug_assert();
        }
    }

    #[test]
    fn times() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        for wrong in ["", "-1", "NaN", "inf", "1e9", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn amounts() {
        for (text, value) in [("0", 0), ("512", 512), ("4k", 4096), ("1M", 1 << 20), ("3g", 3 << 30), ("1t", 1 << 40)] {
            assert_eq!(bytes(text), Ok(value));
        }
        for wrong in
            ["", "k", "4kb", "1000", "-512", "0.5k", "4 k", "99999999999999999999", "18446744073709551615t", "4µ"]
        {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn stations_as_people_write_them() {
        for text in ["02:00:00:00:00:0a", "02-00-00-00-00-0A", "02000000000a"] {
            assert_eq!(station(text), Ok(MacAddr(2, 0, 0, 0, 0, 0xa)));
        }
        for wrong in ["", "0200000000", "02000000000é", "00:00:00:00:00:00", "03:00:00:00:00:01"] {
            assert!(station(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn subjects() {
        assert_eq!("e0.1".parse(), Ok(Subject::Device(Address::new(0, 1))));
        assert_eq!("/dev/nbd1".parse(), Ok(Subject::Place(Place::Kernel(Some(1)))));
        for wrong in ["e0.*", "e*.*", "e0", "/dev/nbd", "nothing"] {
            assert!(wrong.parse::<Subject>().is_err(), "{wrong}");
        }
    }
}
