//! `aoe-bench`: how fast an AoE disk is.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use aoe_common::addr::Address;
use aoe_common::frame::SECTOR;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{DeadAfter, FAILED, WRONG_USAGE, bytes, complain, device, finish, seconds, show};
use crate::bench::{Bench, Kind, Options, Progress, Size};
use crate::engine::REQUESTS_MAX;
use crate::log;
use aoe_common::text::{printable, size};

const NAME: &str = "aoe-bench";

/// The longest request, in bytes.
const BLOCK_MAX: u64 = 16 << 20;
/// Bytes that all requests under way may have together.
const DATA_MAX: u64 = 256 << 20;
/// Runs that are no longer than this show no progress.
const SHORT: Duration = Duration::from_secs(2);

const HELP: &str = "\
Frames go straight from this program to the network card, without a kernel block device or NBD.

IOPS and MiB/s are of what was answered within the time. Latency counts from the moment a request
begins; with --rate from the moment it was meant to, so that a target that stalls shows. Resends are
frames that were lost on the way. After writes a flush is sent, and its time told.

A load that writes overwrites the disk, from --offset on. It asks first.

Examples:
  Read 4 KiB blocks at random for 10 s, 32 at a time:
      aoe-bench e0.1

  Write 1 MiB blocks one after the other to the second GiB of the disk, without being asked:
      aoe-bench e0.1 --rw write --bs 1m --depth 8 --offset 1g --size 1g --yes

  Latency at 20000 requests a second, for a program:
      aoe-bench e0.1 --rate 20000 --json

Exit codes:
  0  measured; also when Ctrl-C ended it early
  1  not measured, or some requests failed
  2  wrong usage, or it would write, cannot ask, and --yes was not given";

/// Measures how fast an AoE disk answers.
#[derive(Clone, Debug, Parser)]
#[command(name = NAME, version, after_help = HELP)]
pub struct Args {
    /// The disk, for example e0.1
    #[arg(value_parser = device)]
    device: Address,

    /// What to do
    #[arg(long, value_name = "KIND", value_enum, default_value = "randread")]
    rw: Kind,

    /// How many of a hundred requests of a mix read
    #[arg(long, value_name = "PERCENT", default_value_t = 70, value_parser = clap::value_parser!(u8).range(0..=100))]
    mix_reads: u8,

    /// Bytes of a request, such as 512, 4k or 1m; up to 16m
    #[arg(long, value_name = "BYTES", default_value = "4k", value_parser = block)]
    bs: u64,

    /// Requests under way at a time, up to 4096; times --bs at most 256m
    #[arg(long, value_name = "N", default_value_t = 32)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=REQUESTS_MAX as i64))]
    depth: u16,

    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    seconds: Duration,

    /// How long to run before that
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    warmup: Duration,

    /// Begin so many requests a second, whether those before them are answered or not; --depth still holds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,

    /// The first byte to use
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = bytes)]
    offset: u64,

    /// How much to use from there [default: up to the end of the disk]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    size: Option<u64>,

    /// Have each write made durable before it is answered
    #[arg(long)]
    fua: bool,

    /// Use this interface only; may be repeated [default: every Ethernet interface that is up]
    #[arg(long = "interface", short = 'i', value_name = "NAME")]
    interfaces: Vec<String>,

    /// Fail requests when no target has answered for so long; 0 at once, "never" waits
    #[arg(long, value_name = "SECONDS", default_value = "10")]
    dead_after: DeadAfter,

    /// How long to look for the disk
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    wait: Duration,

    /// Write without asking
    #[arg(long)]
    yes: bool,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// The length of a request as it is typed.
fn block(text: &str) -> Result<u64, String> {
    bytes(text).and_then(|value| match value {
        1..=BLOCK_MAX => Ok(value),
        _ => Err("requests have 512 to 16m bytes".to_owned()),
    })
}

impl Args {
    /// What no single option is wrong about.
    fn contradiction(&self) -> Option<&'static str> {
        if self.bs * u64::from(self.depth) > DATA_MAX {
            return Some("--depth times --bs is more than 256m: choose less of either");
        }
        if self.seconds.is_zero() {
            return Some("--seconds 0 measures nothing");
        }
        (self.fua && !self.rw.writes()).then_some("--fua is for loads that write")
    }

    fn options(&self) -> Options {
        Options {
            device: self.device,
            interfaces: self.interfaces.clone(),
            dead_after: self.dead_after.0.map(Duration::from_secs),
            wait: self.wait,
            kind: self.rw,
            mix_reads: self.mix_reads,
            size: Size { block_bytes: self.bs as usize, depth: self.depth.into(), fua: self.fua },
            offset: self.offset,
            length: self.size,
            rate: self.rate,
            warm_up: self.warmup,
            measured: self.seconds,
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(text) = args.contradiction() {
        Args::command().error(ErrorKind::ValueValidation, text).exit();
    }
    log::to_stderr("warn");
    finish(NAME, bench(&args))
}

fn bench(args: &Args) -> Result<ExitCode> {
    let asks = args.rw.writes() && !args.yes;
    if asks && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        let text = format!("this would overwrite data on {} and nobody can be asked: add --yes if it may", args.device);
        complain(NAME, &text);
        return Ok(ExitCode::from(WRONG_USAGE));
    }
    let bench = Bench::find(args.options())?;
    if asks && !is_confirmed(args.device, &bench)? {
        complain(NAME, "nothing was written");
        return Ok(ExitCode::from(FAILED));
    }
    let bar = bar(args.warmup + args.seconds);
    let report = bench.run(|progress| draw(&bar, progress))?;
    bar.finish_and_clear();
    show(&if args.json { serde_json::to_string_pretty(&report)? } else { report.describe() })?;
    Ok(match report.trouble() {
        Some(trouble) => {
            complain(NAME, &trouble);
            ExitCode::from(FAILED)
        }
        None => ExitCode::SUCCESS,
    })
}

/// Asks a person whether the disk may be overwritten.
fn is_confirmed(device: Address, bench: &Bench) -> Result<bool> {
    let (disk, range) = (bench.disk(), bench.range()?);
    let model = printable(disk.model.as_bytes());
    write!(
        io::stderr(),
        "This overwrites data on {device} ({model}, {}): {} from byte {} on. Go on? [y/N] ",
        size(disk.sectors * SECTOR as u64),
        size(range.bytes()),
        range.offset_bytes()
    )?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}

/// A bar that shows on a terminal, if the run takes long enough for one.
fn bar(length: Duration) -> ProgressBar {
    let is_shown = length > SHORT && io::stderr().is_terminal();
    let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(length.as_millis() as u64), target);
    bar.set_style(ProgressStyle::with_template("[{bar:30}] {msg}").expect("a template that parses"));
    bar
}

fn draw(bar: &ProgressBar, progress: &Progress) {
    let Progress { elapsed, iops, errors, resends } = progress;
    let seconds = elapsed.as_secs_f64();
    bar.set_message(format!("{seconds:.0} s, {iops:.0} IOPS, {resends} resends, {errors} errors"));
    bar.set_position(elapsed.as_millis() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn a_disk_is_enough() {
        let args = parse("aoe-bench e0.1").unwrap();
        assert_eq!(args.contradiction(), None);
        let options = args.options();
        assert_eq!((options.kind, options.size.block_bytes, options.size.depth), (Kind::RandRead, 4096, 32));
        assert_eq!((options.measured, options.warm_up, options.rate), (Duration::from_secs(10), Duration::ZERO, None));
        assert_eq!((options.offset, options.length), (0, None));
        assert_eq!(options.dead_after, Some(Duration::from_secs(10)));
    }

    #[test]
    fn options_are_read() {
        let line = "aoe-bench e0.1 -i eth0 --rw mix --mix-reads 30 --bs 1m --depth 8 --seconds 0.5 --warmup 1 --rate 100 \
                    --offset 1g --size 2g --fua --dead-after never --yes --json";
        let args = parse(line).unwrap();
        assert_eq!(args.contradiction(), None);
        let options = args.options();
        assert_eq!((options.kind, options.mix_reads, options.size.fua), (Kind::Mix, 30, true));
        assert_eq!((options.size.block_bytes, options.size.depth, options.rate), (1 << 20, 8, Some(100)));
        assert_eq!((options.offset, options.length, options.dead_after), (1 << 30, Some(2 << 30), None));
        assert_eq!((options.measured, options.warm_up), (Duration::from_millis(500), Duration::from_secs(1)));
    }

    #[test]
    fn wrong_usage_is_told_with_what_to_write() {
        for (line, word) in [
            ("aoe-bench e0.*", "many disks"),
            ("aoe-bench e0.1 --rw trim", "randwrite"),
            ("aoe-bench e0.1 --bs 1000", "multiple of 512"),
            ("aoe-bench e0.1 --bs 0", "512"),
            ("aoe-bench e0.1 --bs 17m", "16m"),
            ("aoe-bench e0.1 --depth 0", "1..=4096"),
            ("aoe-bench e0.1 --depth 4097", "1..=4096"),
            ("aoe-bench e0.1 --rate 0", "1..="),
            ("aoe-bench e0.1 --seconds=-1", "86400"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
        for (line, word) in [
            ("--bs 16m --depth 17", "256m"),
            ("--seconds 0", "nothing"),
            ("--fua", "write"),
            ("--fua --rw read", "write"),
        ] {
            let args = parse(&format!("aoe-bench e0.1 {line}")).unwrap();
            assert!(args.contradiction().is_some_and(|text| text.contains(word)), "{line}");
        }
    }
}
