//! `aoe-attach`: makes an AoE disk a block device of this host, or serves it on an NBD socket.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use aoe_common::addr::Address;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::{DeadAfter, FAILED, complain, device, finish, seconds, show};
use crate::attach::{Options, Ready, run};
use crate::background::{self, Report};
use crate::engine::QUARANTINE;
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
    #[arg(value_parser = device)]
    device: Address,

    /// Where: /dev/nbdN, /dev/nbd, unix:PATH or tcp:ADDR:PORT
    #[arg(value_name = "WHERE")]
    place: Place,

    /// Use this interface only; may be repeated [default: every Ethernet interface that is up]
    #[arg(long = "interface", short = 'i', value_name = "NAME")]
    interfaces: Vec<String>,

    /// Refuse writes
    #[arg(long)]
    read_only: bool,

    /// Fail requests when no target has answered for so long; 0 at once, "never" waits
    #[arg(long, value_name = "SECONDS", default_value = "180")]
    dead_after: DeadAfter,

    /// Sockets to the kernel [default: 1], or clients of a socket at a time [default: 16]; at most 16
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    connections: Option<u8>,

    /// Let the kernel give up a request after so long and repeat it, 0 never; must exceed --dead-after
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    nbd_timeout: u32,

    /// How long to look for the disk
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    wait: Duration,

    /// How long this network may hold a frame back; what an old copy could still undo is not written before
    #[arg(long, value_name = "SECONDS", default_value_t = QUARANTINE.as_secs())]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=600))]
    frame_life: u64,

    /// This network may repeat frames by itself. Costs nothing with aoe-target; with targets that run a repeated write
    /// again (vblade), no sector is written twice in --frame-life, and at most some 1000 scattered writes are
    #[arg(long)]
    repeating_network: bool,

    /// Stay in the foreground and log to stderr, for service managers
    #[arg(long)]
    foreground: bool,

    /// Set for the process that stays
    #[arg(long, hide = true)]
    in_background: bool,
}

impl Args {
    /// Whether the kernel would give up requests that are still waited for.
    fn contradicts_itself(&self) -> bool {
        let waits_longer = self.dead_after.0.is_none_or(|after| u64::from(self.nbd_timeout) <= after);
        self.nbd_timeout > 0 && waits_longer
    }

    fn options(&self) -> Options {
        Options {
            device: self.device,
            place: self.place.clone(),
            interfaces: self.interfaces.clone(),
            read_only: self.read_only,
            dead_after_s: self.dead_after.0,
            connections: self.connections,
            kernel_timeout_s: self.nbd_timeout.into(),
            wait: self.wait,
            frame_life: Duration::from_secs(self.frame_life),
            network_repeats: self.repeating_network,
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    if args.contradicts_itself() {
        let text = "--nbd-timeout must be longer than --dead-after, or 0: the kernel would cut off a disk that is slow";
        Args::command().error(ErrorKind::ArgumentConflict, text).exit();
    }
    if args.in_background {
        return stay(&args);
    }
    let attached = if args.foreground { foreground(&args) } else { background() };
    finish(NAME, attached)
}

fn foreground(args: &Args) -> Result<ExitCode> {
    log::to_stderr("info");
    run(&args.options(), &RunDir::locate()?, |Ready { line, warning }| {
        show(line)?;
        if let Some(warning) = warning {
            complain(NAME, warning);
        }
        Ok(())
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
fn stay(args: &Args) -> ExitCode {
    background::leave_terminal();
    let mut is_ready = false;
    match attach_and_settle(args, &mut is_ready) {
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

fn attach_and_settle(args: &Args, is_ready: &mut bool) -> Result<()> {
    let run_dir = RunDir::locate()?;
    run_dir.create()?;
    let path = run_dir.log(std::process::id());
    let file = LogFile::create(&path).with_context(|| path.display().to_string())?;
    let stderr = file.file().try_clone()?;
    log::to_file("info", file);
    let result = run(&args.options(), &run_dir, |ready| {
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
        let options = parse("aoe-attach e0.1 /dev/nbd1").unwrap().options();
        assert_eq!((options.device, options.place), (Address::new(0, 1), Place::Kernel(Some(1))));
        assert_eq!((options.dead_after_s, options.kernel_timeout_s, options.connections), (Some(180), 0, None));
        assert!(options.interfaces.is_empty() && !options.read_only);
        assert_eq!((options.frame_life, options.network_repeats), (Duration::from_secs(10), false));
    }

    #[test]
    fn options_are_read() {
        let line =
            "aoe-attach -i eth0 --interface eth1 --read-only --dead-after never --connections 4 e0.1 tcp:[::1]:1";
        let options = parse(line).unwrap().options();
        assert_eq!(options.interfaces, ["eth0", "eth1"]);
        assert_eq!((options.dead_after_s, options.connections, options.read_only), (None, Some(4), true));
    }

    #[test]
    fn a_network_is_described() {
        let options = parse("aoe-attach e0.1 /dev/nbd1 --frame-life 1 --repeating-network").unwrap().options();
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
            let args = parse(&format!("aoe-attach e0.1 /dev/nbd1 {line}")).unwrap();
            assert_eq!(args.contradicts_itself(), contradicts, "{line}");
        }
    }
}
