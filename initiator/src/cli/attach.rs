//! `aoe-attach`: makes an AoE disk a block device of this host, or serves it on an NBD socket.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use aoe_common::addr::Address;
use aoe_common::scrape::Endpoint;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use sd_notify::NotifyState;

use super::{DeadAfter, FAILED, complain, device, finish, seconds, show};
use crate::attach::{Options, Ready, run};
use crate::attach_config::{self, AttachConfig, ConfigError, Values};
use crate::background::{self, Report};
use crate::log::{self, LogFile};
use crate::place::Place;
use crate::run_dir::RunDir;

const NAME: &str = "aoe-attach";
const MARKER: &str = "--in-background";

const HELP: &str = "\
Places:
  /dev/nbdN        this network block device of the kernel (load them with \"modprobe nbd\")
  /dev/nbd         the first one that is free
  unix:PATH        an NBD server on a unix socket, for qemu, libnbd, nbdkit and fio
  tcp:ADDR:PORT    an NBD server on a TCP port; everybody who can reach it can use the disk

Examples:
  Find the disks, attach one, and use it:
      aoe-discover
      aoe-attach e0.1 /dev/nbd1
      mount /dev/nbd1 /mnt

  Without the kernel, for one program:
      aoe-attach e0.1 unix:/run/e0.1.sock
      nbdcopy \"nbd+unix:///?socket=/run/e0.1.sock\" copy.img

  As /etc/aoe/attach.toml says, which aoe-attach@.service does at boot:
      aoe-attach e0.1

The program returns when the disk can be used, and leaves a process in the background that serves it
(see aoe-stat, aoe-detach). Its log is in AOE_RUN_DIR, by default /run/aoe; AOE_LOG=debug makes it say more.
If that process is killed, the requests at a kernel device wait for --dead-after; the same command takes over.

Exit codes:
  0  attached (with --foreground: detached in order)
  1  not attached, or ended with a loss
  2  wrong usage";

/// Attaches an AoE disk as a block device, or serves it on an NBD socket.
#[derive(Clone, Debug, Parser)]
#[command(name = NAME, version, after_help = HELP)]
pub struct Args {
    /// The disk, for example e0.1
    #[arg(value_parser = device, required_unless_present = "check")]
    device: Option<Address>,

    /// Where: /dev/nbdN, /dev/nbd, unix:PATH or tcp:ADDR:PORT [default: as the configuration file says]
    #[arg(value_name = "WHERE", conflicts_with = "check")]
    place: Option<Place>,

    /// Take what is not said here from this file [default: /etc/aoe/attach.toml if WHERE is not given, else none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Say whether the configuration file is right, and end
    #[arg(long)]
    check: bool,

    /// Use this interface only; may be repeated [default: every Ethernet interface that is up]
    #[arg(long = "interface", short = 'i', value_name = "NAME")]
    interfaces: Vec<String>,

    /// Refuse writes
    #[arg(long)]
    read_only: bool,

    /// Fail requests when no target has answered for so long; 0 at once, "never" waits [default: 180]
    #[arg(long, value_name = "SECONDS")]
    dead_after: Option<DeadAfter>,

    /// Sockets to the kernel [default: 1], or clients of a socket at a time [default: 16]; at most 16
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    connections: Option<u8>,

    /// Let the kernel give up a request after so long and repeat it, 0 never; must exceed --dead-after [default: 0]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    nbd_timeout: Option<u32>,

    /// How long to look for the disk [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    wait: Option<Duration>,

    /// How long this network may hold a frame back; what an old copy could still undo is not written before [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    frame_life: Option<u64>,

    /// This network may repeat frames by itself. Costs nothing with aoe-target; with targets that run a repeated write
    /// again (vblade), no sector is written twice in --frame-life, and at most some 1000 scattered writes are
    #[arg(long)]
    repeating_network: bool,

    /// Serve figures for Prometheus at unix:/PATH or ADDR:PORT
    #[arg(long, value_name = "WHERE")]
    metrics: Option<Endpoint>,

    /// Stay in the foreground and log to stderr, for service managers
    #[arg(long)]
    foreground: bool,

    /// Set for the process that stays
    #[arg(long, hide = true)]
    in_background: bool,
}

impl Args {
    /// The file to look into, if any.
    fn config(&self) -> Option<&Path> {
        let default = (self.place.is_none() || self.check).then_some(Path::new(attach_config::PATH));
        self.config.as_deref().or(default)
    }

    /// What was typed.
    fn typed(&self) -> Values {
        Values {
            place: self.place.clone(),
            interfaces: Some(self.interfaces.clone()).filter(|names| !names.is_empty()),
            read_only: self.read_only.then_some(true),
            dead_after: self.dead_after,
            connections: self.connections,
            nbd_timeout: self.nbd_timeout,
            wait: self.wait,
            frame_life: self.frame_life,
            repeating_network: self.repeating_network.then_some(true),
            metrics: self.metrics.clone(),
        }
    }

    /// What to do: what was typed, what the file says, and defaults.
    fn options(&self) -> Result<Options, Refusal> {
        let device = self.device.expect("it is required");
        let values = match self.config().map(AttachConfig::load).transpose()? {
            Some(config) => self.typed().or(config.values(device)?),
            None => self.typed(),
        };
        values.options(device).map_err(Refusal::Contradiction)
    }
}

/// Why it is not even tried.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("--{0}")]
    Contradiction(String),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    if args.check {
        return check(args.config().expect("there is a default"));
    }
    let options = match args.options() {
        Ok(options) => options,
        Err(error @ Refusal::Contradiction(_)) => Args::command().error(ErrorKind::ArgumentConflict, error).exit(),
        Err(Refusal::Config(error)) => return refuse(&error),
    };
    if args.in_background {
        return stay(&options);
    }
    let attached = if args.foreground { foreground(&options) } else { background() };
    finish(NAME, attached)
}

/// A line for each thing that is wrong with a file.
fn refuse(error: &ConfigError) -> ExitCode {
    error.to_string().lines().for_each(|line| complain(NAME, line));
    ExitCode::from(FAILED)
}

fn check(path: &Path) -> ExitCode {
    match AttachConfig::load(path) {
        Ok(config) => {
            let disks = match config.devices().len() {
                1 => "1 disk".to_owned(),
                count => format!("{count} disks"),
            };
            finish(NAME, show(&format!("{}: right, {disks}", path.display())).map(|()| ExitCode::SUCCESS))
        }
        Err(error) => refuse(&error),
    }
}

fn foreground(options: &Options) -> Result<ExitCode> {
    log::to_stderr("info");
    run(options, &RunDir::locate()?, |Ready { line, warning }| {
        show(line)?;
        if let Some(warning) = warning {
            complain(NAME, warning);
        }
        // Without a service manager this does nothing.
        sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(line)]).context("cannot tell the service manager")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn background() -> Result<ExitCode> {
    match background::start(NAME, MARKER)? {
        Report::Ready { line, warning } => {
            show(&line)?;
            if let Some(warning) = warning {
                complain(NAME, &warning);
            }
            Ok(ExitCode::SUCCESS)
        }
        Report::Failed(text) => {
            complain(NAME, &text);
            Ok(ExitCode::from(FAILED))
        }
    }
}

/// The process in the background.
fn stay(options: &Options) -> ExitCode {
    background::leave_terminal();
    let mut is_ready = false;
    match attach_and_settle(options, &mut is_ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if is_ready {
                tracing::error!("{error:#}");
            } else {
                // Nobody is left to hear of it when this fails.
                let _ = background::report(&Report::Failed(format!("{error:#}")));
            }
            ExitCode::from(FAILED)
        }
    }
}

fn attach_and_settle(options: &Options, is_ready: &mut bool) -> Result<()> {
    let run_dir = RunDir::locate()?;
    run_dir.create()?;
    let path = run_dir.log(std::process::id());
    let file = LogFile::create(&path).with_context(|| path.display().to_string())?;
    let stderr = file.file().try_clone()?;
    log::to_file("info", file);
    let result = run(options, &run_dir, |ready| {
        background::report(&Report::Ready { line: ready.line.clone(), warning: ready.warning.clone() })?;
        *is_ready = true;
        background::settle(&stderr)
    });
    // What went wrong after the report is in the log only.
    if result.is_ok() || !*is_ready {
        for path in [LogFile::old(&path), path] {
            let _ = std::fs::remove_file(path);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_three_words_are_enough() {
        let options = parse("aoe-attach e0.1 /dev/nbd1").unwrap().options().unwrap();
        assert_eq!((options.device, options.place), (Address::new(0, 1), Place::Kernel(Some(1))));
        assert_eq!((options.dead_after_s, options.kernel_timeout_s, options.connections), (Some(180), 0, None));
        assert!(options.interfaces.is_empty() && !options.read_only);
        assert_eq!((options.frame_life, options.network_repeats), (Duration::from_secs(10), false));
    }

    #[test]
    fn options_are_read() {
        let line =
            "aoe-attach -i eth0 --interface eth1 --read-only --dead-after never --connections 4 e0.1 tcp:[::1]:1";
        let options = parse(line).unwrap().options().unwrap();
        assert_eq!(options.interfaces, ["eth0", "eth1"]);
        assert_eq!((options.dead_after_s, options.connections, options.read_only), (None, Some(4), true));
    }

    #[test]
    fn a_network_is_described() {
        let options = parse("aoe-attach e0.1 /dev/nbd1 --frame-life 1 --repeating-network").unwrap().options().unwrap();
        assert_eq!((options.frame_life, options.network_repeats), (Duration::from_secs(1), true));
    }

    #[test]
    fn wrong_usage_is_told_with_what_to_write() {
        for (line, word) in [
            ("aoe-attach e0.* /dev/nbd1", "many disks"),
            ("aoe-attach e65535.1 /dev/nbd1", "out of range"),
            ("aoe-attach e0.1 /dev/sda", "/dev/nbdN"),
            ("aoe-attach e0.1 /dev/nbd1 --dead-after soon", "never"),
            ("aoe-attach e0.1 /dev/nbd1 --connections 17", "16"),
            ("aoe-attach e0.1 /dev/nbd1 --wait=-1", "86400"),
            ("aoe-attach e0.1 /dev/nbd1 --frame-life 0", "600"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn the_kernel_must_not_be_more_impatient_than_we_are() {
        for (line, contradicts) in [
            ("--nbd-timeout 60", true),
            ("--nbd-timeout 181", false),
            ("--nbd-timeout 60 --dead-after 60", true),
            ("--nbd-timeout 61 --dead-after 60", false),
            ("--nbd-timeout 86400 --dead-after never", true),
            ("--dead-after never", false),
        ] {
            let options = parse(&format!("aoe-attach e0.1 /dev/nbd1 {line}")).unwrap().options();
            assert_eq!(matches!(options, Err(Refusal::Contradiction(_))), contradicts, "{line}");
        }
    }

    #[test]
    fn what_is_not_typed_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("attach.toml");
        let file = "[[attach]]\ndevice = \"e0.1\"\nwhere = \"unix:/run/x.sock\"\nread-only = true\nwait = 3\n";
        std::fs::write(&path, file).unwrap();
        let line = |rest: &str| parse(&format!("aoe-attach --config {} {rest}", path.display())).unwrap().options();
        let options = line("e0.1").unwrap();
        assert_eq!((options.place, options.read_only), (Place::Unix("/run/x.sock".into()), true));
        let options = line("e0.1 /dev/nbd7 --wait 5").unwrap();
        assert_eq!((options.place, options.wait), (Place::Kernel(Some(7)), Duration::from_secs(5)));
        assert!(options.read_only);
        assert!(matches!(line("e0.2"), Err(Refusal::Config(ConfigError::NoSuchDevice { .. }))));
    }

    #[test]
    fn the_file_is_looked_into_when_it_is_needed_or_named() {
        let config = |line: &str| parse(line).unwrap().config().map(Path::to_owned);
        assert_eq!(config("aoe-attach e0.1 /dev/nbd1"), None);
        assert_eq!(config("aoe-attach e0.1"), Some(attach_config::PATH.into()));
        assert_eq!(config("aoe-attach --check"), Some(attach_config::PATH.into()));
        assert_eq!(config("aoe-attach e0.1 /dev/nbd1 --config x"), Some("x".into()));
        assert!(parse("aoe-attach").is_err());
    }
}
