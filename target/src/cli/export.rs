//! `aoe-target export`: everything on the command line.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use aoe_common::addr::{Address, parse_shelf, parse_slot};
use aoe_common::scrape::Endpoint;
use aoe_common::wire::MacAddr;
use clap::Args as ClapArgs;

use super::{Cache, Io, UsageError};
use crate::settings::{BUFFERS, Defaults, ExportSettings, MODEL, POLL, Settings, ata_text, station};

pub(super) const EXAMPLES: &str = "\
Examples:
  Share a disk image as e0.1 on every Ethernet interface:
      aoe-target export shelf 0 slot 1 disk.img

  Two disks on one interface, for two hosts only:
      aoe-target export shelf 0 slot 1 /dev/sdb shelf 0 slot 2 /dev/sdc \\
          --interface eth1 --allow 02:00:00:00:00:0a,02:00:00:00:00:0b

AoE has no passwords and no encryption: whoever can send frames on the segment can use the disk.

When the disk below loses data that was acknowledged (a failed sync), an export refuses writes and flushes, also after a
restart; reads go on. Check the disk and what is on it, then start once with --clear-error.

Exit codes:
  0  stopped cleanly (SIGTERM, SIGINT)
  1  cannot serve, can no longer, or could not sync the disks at the stop
  2  wrong usage";

/// `aoe-target export`. The options apply to every export of the command.
#[derive(Clone, Debug, ClapArgs)]
pub struct ExportArgs {
    /// `shelf SHELF slot SLOT PATH`, as often as there are exports
    #[arg(required = true, num_args = 1.., value_name = "shelf SHELF slot SLOT PATH")]
    words: Vec<OsString>,

    /// Serve on this interface only; may be repeated [default: every Ethernet interface that is up]
    #[arg(long = "interface", short = 'i', value_name = "NAME")]
    pub interfaces: Vec<String>,

    /// Take no writes
    #[arg(long)]
    pub read_only: bool,

    /// When a write is acknowledged
    #[arg(long, value_enum, default_value_t = Cache::Auto, value_name = "WHEN")]
    pub cache: Cache,

    /// Bypass the page cache of this host (O_DIRECT)
    #[arg(long)]
    pub direct: bool,

    /// Requests each export says it can queue
    #[arg(long, default_value_t = BUFFERS, value_parser = clap::value_parser!(u16).range(2..=1024), value_name = "N")]
    pub buffers: u16,

    /// Leave out this many 512-byte sectors at the start of the file
    #[arg(long, default_value_t = 0, value_name = "SECTORS")]
    pub offset: u64,

    /// Export this many 512-byte sectors [default: all, and more as the file grows]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "SECTORS")]
    pub length: Option<u64>,

    /// Serve only stations with these addresses
    #[arg(long, value_delimiter = ',', value_parser = station, value_name = "MAC[,MAC]...")]
    pub allow: Vec<MacAddr>,

    /// Serial number of the disk, up to 20 characters [default: made from address and path]
    #[arg(long, value_parser = ata_text::<20>, value_name = "TEXT")]
    pub serial: Option<String>,

    /// Model of the disk, up to 40 characters
    #[arg(long, default_value = MODEL, value_parser = ata_text::<40>, value_name = "TEXT")]
    pub model: String,

    /// Keep settings that clients make (config string, mask list, reservation) here
    /// [default: $AOE_STATE_DIR, else /var/lib/aoe-target]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Take writes again after data was lost below (a failed sync); to be given once, when the disk and its content
    /// have been checked
    #[arg(long)]
    pub clear_error: bool,

    /// Serving threads; each serves its share of the exports
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    pub threads: u16,

    /// How to reach the disks
    #[arg(long, value_enum, default_value_t = Io::Auto, value_name = "HOW")]
    pub io: Io,

    /// Look out for the next request for so long before sleeping, after a shorter pause than that; takes a processor up to
    /// so long for each pause, and saves what it costs to sleep and be woken. 0: never
    #[arg(long, default_value_t = POLL, value_parser = clap::value_parser!(u16).range(..=1000), value_name = "MICROSECONDS")]
    pub poll: u16,

    /// Serve writes at once after a restart; a copy of an older write that the network still holds may then undo a
    /// newer one [default: writes wait until the last process is gone for 10 s]
    #[arg(long)]
    pub no_hold: bool,

    /// Let clients change settings of many exports, or write to them, with one frame (to shelf or slot "any")
    #[arg(long)]
    pub allow_wildcard_edits: bool,

    /// Listen here for `aoe-target ctl`, which then needs the same --control; for root only [default: nowhere]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Give out figures for Prometheus here: unix:/PATH, or ADDR:PORT such as 127.0.0.1:9655. Whoever reaches it can read
    /// who uses which disk
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<Endpoint>,

    /// Do not confine the threads once they have what they need (capabilities, landlock, seccomp): for looking for a fault
    #[arg(long)]
    pub no_sandbox: bool,
}

/// One file to serve and under which address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    address: Address,
    path: PathBuf,
}

impl ExportArgs {
    /// What is typed, with defaults.
    pub fn settings(&self) -> Result<Settings, UsageError> {
        let defaults = Defaults {
            read_only: self.read_only,
            cache: self.cache.into(),
            direct: self.direct,
            buffers: self.buffers,
            allow: self.allow.clone(),
            model: self.model.clone(),
            ..Defaults::default()
        };
        let export = |Place { address, path }| ExportSettings {
            offset: self.offset,
            length: self.length,
            serial: self.serial.clone(),
            clear_error: self.clear_error,
            ..ExportSettings::new(address, path, defaults.clone())
        };
        Ok(Settings {
            interfaces: self.interfaces.clone(),
            threads: self.threads,
            io: self.io.into(),
            poll: self.poll,
            hold: !self.no_hold,
            wildcard_edits: self.allow_wildcard_edits,
            sandbox: !self.no_sandbox,
            state_directory: self.state_dir.clone(),
            control: self.control.clone(),
            metrics: self.metrics.clone(),
            file: None,
            exports: self.places()?.into_iter().map(export).collect(),
            lines: BTreeMap::new(),
            missing_families: Vec::new(),
            defaults,
        })
    }

    /// The exports, in the order they were typed.
    fn places(&self) -> Result<Vec<Place>, UsageError> {
        let mut words = self.words.iter();
        let mut places: BTreeMap<Address, usize> = BTreeMap::new();
        let mut list = Vec::new();
        while words.len() > 0 {
            keyword("shelf", words.next())?;
            let shelf = parse_shelf(&number("a shelf number", words.next())?)?;
            keyword("slot", words.next())?;
            let slot = parse_slot(&number("a slot number", words.next())?)?;
            let path = words.next().filter(|path| !path.is_empty()).ok_or_else(|| form("a path", None))?;
            let address = Address::new(shelf, slot);
            if places.insert(address, list.len()).is_some() {
                return Err(UsageError::Twice(address));
            }
            list.push(Place { address, path: path.into() });
        }
        if self.serial.is_some() && list.len() > 1 {
            return Err(UsageError::OneSerial(list.len()));
        }
        Ok(list)
    }
}

fn keyword(expected: &'static str, word: Option<&OsString>) -> Result<(), UsageError> {
    if word.is_some_and(|word| word == expected) { Ok(()) } else { Err(form(expected, word)) }
}

/// A word of digits. Whether the number is in range is for others to say.
fn number(expected: &'static str, word: Option<&OsString>) -> Result<String, UsageError> {
    word.and_then(|word| word.to_str())
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .map(str::to_owned)
        .ok_or_else(|| form(expected, word))
}

fn form(expected: &'static str, found: Option<&OsString>) -> UsageError {
    let found = found.map(OsStr::new).map_or("the end".to_owned(), |word| format!("{word:?}"));
    UsageError::Form { expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Args, Command};

    fn read(line: &str) -> Result<ExportArgs, UsageError> {
        let words = line.split_whitespace().map(OsString::from);
        let args = Args::read(words)?.expect("no help was asked for");
        let Command::Export(export) = args.command else { panic!("{line} is an export") };
        Ok(export)
    }

    fn places(line: &str) -> Result<Vec<Place>, UsageError> {
        read(line)?.places()
    }

    fn place(shelf: u16, slot: u8, path: &str) -> Place {
        Place { address: Address::new(shelf, slot), path: path.into() }
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn the_line_as_everybody_types_it() {
        assert_eq!(places("aoe-target export shelf 0 slot 1 disk.img"), Ok(vec![place(0, 1, "disk.img")]));
        assert_eq!(
            places("aoe-target export shelf 0 slot 1 a shelf 65534 slot 254 shelf"),
            Ok(vec![place(0, 1, "a"), place(65534, 254, "shelf")])
        );
    }

    #[test]
    fn options_stand_before_between_or_behind() {
        for line in [
            "aoe-target export --read-only -i eth0 shelf 0 slot 1 a shelf 0 slot 2 b",
            "aoe-target export shelf 0 slot 1 a --read-only --interface eth0 shelf 0 slot 2 b",
            "aoe-target export shelf 0 slot 1 a shelf 0 slot 2 b --read-only --interface=eth0",
        ] {
            let args = read(line).unwrap();
            assert!(args.read_only, "{line}");
            assert_eq!(args.interfaces, ["eth0"], "{line}");
            assert_eq!(args.places(), Ok(vec![place(0, 1, "a"), place(0, 2, "b")]), "{line}");
        }
    }

    #[test]
    fn each_mistake_has_its_line() {
        for (line, part) in [
            ("aoe-target export disk.img", "expected shelf, found \"disk.img\""),
            ("aoe-target export shelf 0 slot 1", "expected a path, found the end"),
            ("aoe-target export shelf 0 1 disk.img", "expected slot, found \"1\""),
            ("aoe-target export shelf x slot 1 disk.img", "expected a shelf number, found \"x\""),
            ("aoe-target export shelf 65535 slot 1 disk.img", "shelf 65535 is out of range"),
            ("aoe-target export shelf 0 slot 255 disk.img", "slot 255 is out of range"),
            ("aoe-target export shelf 0 slot 1 a shelf 0 slot 1 b", "e0.1 is named twice"),
            ("aoe-target export shelf 0 slot 1 a shelf 0 slot 2 b --serial X", "--serial is for one export"),
            ("aoe-target export", "required arguments were not provided"),
            ("aoe-target export shelf 0 slot 1 a --buffers 1", "1 is not in 2..=1024"),
            ("aoe-target export shelf 0 slot 1 a --allow 02:00", "write it like"),
            ("aoe-target export shelf 0 slot 1 a --allow ff:ff:ff:ff:ff:ff", "no address of a single station"),
            ("aoe-target export shelf 0 slot 1 a --serial 123456789012345678901", "1 to 20 plain ASCII"),
            ("aoe-target export shelf 0 slot 1 a --length 0", "0 is not in 1"),
            ("aoe-target export shelf 0 slot 1 a --wat", "unexpected argument '--wat'"),
            ("aoe-target", "requires a subcommand"),
            ("aoe-target share", "unrecognized subcommand 'share'"),
        ] {
            let message = places(line).unwrap_err().to_string();
            assert!(message.contains(part), "{line}: {message}");
            assert!(!message.contains('\n'), "{line}: {message}");
        }
    }

    #[test]
    fn stations_are_separated_by_commas() {
        let args = read("aoe-target export --allow 02:00:00:00:00:0a,02:00:00:00:00:0b shelf 0 slot 1 a").unwrap();
        assert_eq!(args.allow, [MacAddr(2, 0, 0, 0, 0, 0xa), MacAddr(2, 0, 0, 0, 0, 0xb)]);
    }
}
