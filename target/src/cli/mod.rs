//! The command line of `aoe-target`: what can be typed, and what it means.

mod ctl;
mod export;
mod import_vblade;
mod serve;

use std::ffi::OsString;

use aoe_common::addr::{Address, AddressError};
use clap::{Parser, Subcommand, ValueEnum};

pub use self::ctl::CtlArgs;
pub use self::export::ExportArgs;
pub use self::import_vblade::ImportVbladeArgs;
pub use self::serve::ServeArgs;
use crate::disk::EngineChoice;
use crate::engine::durability::CacheMode;
use crate::log::Level;

const COMMANDS: &str = "\
Examples:
  Share a disk image as e0.1 on every Ethernet interface:
      aoe-target export shelf 0 slot 1 disk.img

  Serve what a file says:
      aoe-target serve --config /etc/aoe/target.toml

AoE has no passwords and no encryption: whoever can send frames on the segment can use the disk.

Exit codes:
  0  done, or stopped cleanly (SIGTERM, SIGINT)
  1  failed
  2  wrong usage, or a mistake in the configuration file";

/// Shares files and block devices as disks on an Ethernet segment (ATA over Ethernet).
#[derive(Clone, Debug, Parser)]
#[command(name = "aoe-target", version, after_help = COMMANDS, arg_required_else_help = false)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Log lines of this level, and of those above it [default: $AOE_LOG, else info]
    #[arg(long, global = true, value_enum, value_name = "LEVEL")]
    pub log_level: Option<Level>,
}

/// What `aoe-target` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve files and block devices until stopped
    #[command(
        override_usage = "aoe-target export [OPTIONS] shelf SHELF slot SLOT PATH [shelf SHELF slot SLOT PATH]...",
        after_help = export::EXAMPLES
    )]
    Export(ExportArgs),

    /// Serve what a configuration file says until stopped
    #[command(after_help = serve::help())]
    Serve(ServeArgs),

    /// Make a configuration file of the exports that vblade has on a Debian host
    #[command(after_help = import_vblade::EXAMPLES)]
    ImportVblade(ImportVbladeArgs),

    /// Look at a target that serves, and change what it serves
    #[command(after_help = ctl::EXAMPLES)]
    Ctl(CtlArgs),
}

/// `--cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cache {
    /// Write through for a client until it sends a FLUSH, then write back
    Auto,
    /// Once this host's cache has it; durable after FLUSH
    Writeback,
    /// Once it is durable
    Writethrough,
}

impl From<Cache> for CacheMode {
    fn from(cache: Cache) -> Self {
        match cache {
            Cache::Auto => Self::Auto,
            Cache::Writeback => Self::Writeback,
            Cache::Writethrough => Self::Writethrough,
        }
    }
}

/// `--io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Io {
    /// io_uring where the kernel allows it
    Auto,
    /// io_uring or nothing
    #[value(name = "io_uring")]
    Uring,
    /// Blocking system calls
    Sync,
}

impl From<Io> for EngineChoice {
    fn from(io: Io) -> Self {
        match io {
            Io::Auto => Self::Auto,
            Io::Uring => Self::Uring,
            Io::Sync => Self::Sync,
        }
    }
}

/// Why a command line makes no sense, in one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// The words are not of the form `shelf S slot L PATH`.
    #[error("expected {expected}, found {found}; write `aoe-target export shelf 0 slot 1 disk.img`")]
    Form {
        /// What should stand there.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// A number out of range.
    #[error("{0}")]
    Address(#[from] AddressError),
    /// Two exports under one address.
    #[error("{0} is named twice; give each export a shelf and slot of its own")]
    Twice(Address),
    /// One serial number for several disks.
    #[error("--serial is for one export, and these are {0}; start one aoe-target for each, or leave it out")]
    OneSerial(usize),
    /// What the parser of options says.
    #[error("{0}; see `aoe-target --help`")]
    Options(String),
}

impl Args {
    /// Reads a command line, the program's name first. `None`: help or the version was asked for, and printed.
    pub fn read(line: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, UsageError> {
        Self::try_parse_from(line).map(Some).or_else(|error| {
            if error.exit_code() == 0 {
                // Nobody is left to hear of a closed pipe.
                let _ = error.print();
                return Ok(None);
            }
            Err(UsageError::Options(first_paragraph(&error.to_string())))
        })
    }
}

/// The message without hints, usage and line breaks.
fn first_paragraph(message: &str) -> String {
    let lines: Vec<_> = message.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}
