//! `aoe-ping`: whether a device answers, and how fast.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use aoe_common::addr::Address;
use aoe_common::link::monotonic_now;
use aoe_common::wire::MacAddr;
use clap::Parser;
use serde::Serialize;

use super::{FAILED, complain, finish, seconds, show};
use crate::engine::{Ping, PingReport, Pinging, Pong, Reply, RoundTripTimes};
use crate::identity::first_tag;
use crate::log;
use crate::talk::Talk;

const NAME: &str = "aoe-ping";

/// The shortest pause between two rounds.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

const HELP: &str = "\
Works with every AoE target. Whoever answers for the device is asked in each round, over each
interface on which it was heard: two lines in a round are two paths, or two targets with one
address, which \"aoe-check\" tells apart. \"(late)\" is an answer that took longer than --timeout,
\"(repeated)\" one more answer to the same question. Ctrl-C ends it with the summary.

Examples:
  Ask every second, until Ctrl-C:
      aoe-ping e0.1

  In a script: does the disk itself answer within three seconds?
      aoe-ping e0.1 --identify -c 1 -w 3 -q

  The spread of a thousand round trips:
      aoe-ping e0.1 -i 0.01 -c 1000 -q

Exit codes:
  0  there was an answer
  1  there was none, or nobody could be asked
  2  wrong usage";

/// Sends questions to an AoE device and shows how long the answers take.
#[derive(Clone, Debug, Parser)]
#[command(name = NAME, version, after_help = HELP)]
pub struct Args {
    /// The device, such as e0.1; e0.* and e*.* for all that answer
    device: Address,

    /// Stop after so many rounds [default: go on until Ctrl-C]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// From one round to the next, at least 0.001
    #[arg(long, short = 'i', value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,

    /// Stop after this time, whatever has been answered
    #[arg(long, short = 'w', value_name = "SECONDS", value_parser = seconds)]
    deadline: Option<Duration>,

    /// How long an answer may take; the last round waits that long
    #[arg(long, short = 'W', value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    timeout: Duration,

    /// Ask what the disk is (ATA IDENTIFY) instead of for the config string
    #[arg(long)]
    identify: bool,

    /// Use this interface only; may be repeated [default: every Ethernet interface that is up]
    #[arg(long = "interface", short = 'I', value_name = "NAME")]
    interfaces: Vec<String>,

    /// Print the summary only
    #[arg(long, short)]
    quiet: bool,

    /// Print the summary as a JSON object, and nothing else
    #[arg(long)]
    json: bool,
}

fn interval(text: &str) -> Result<Duration, String> {
    let value = seconds(text)?;
    if value < INTERVAL_MIN { Err("write at least 0.001 seconds".to_owned()) } else { Ok(value) }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    log::to_stderr("warn");
    finish(NAME, ping(args))
}

fn ping(args: Args) -> Result<ExitCode> {
    let mut talk = Talk::open(args.interfaces)?;
    talk.end_on_interrupt()?;
    let Args { device, identify, count, interval, timeout, .. } = args;
    let start = monotonic_now();
    let ping = Ping { device, identify, count, interval, patience: timeout };
    let mut pinging = Pinging::new(start, ping, first_tag(), talk.ports());
    let tells = !args.quiet && !args.json;
    let until = args.deadline.map(|deadline| start + deadline);
    let held = talk.hold_and_tell(&mut pinging, until, |ports, pinging| {
        while let Some(pong) = pinging.poll_pong() {
            if tells {
                writeln!(io::stdout(), "{}", line(&pong, ports.name(pong.port)))?;
            }
        }
        Ok(())
    });
    // A reader that has seen enough, such as head, ends it.
    held.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })?;
    let summary = Summary::new(device, identify, &pinging, &talk);
    show(&if args.json { serde_json::to_string_pretty(&summary)? } else { summary.describe() })?;
    if summary.paths.iter().any(|path| path.answered > 0) {
        return Ok(ExitCode::SUCCESS);
    }
    let used = talk.describe();
    complain(
        NAME,
        &format!("nobody answers for {device} {used}: see \"aoe-discover\", cable and VLAN, and the target's log"),
    );
    Ok(ExitCode::from(FAILED))
}

/// An answer, as ping tells of one.
fn line(pong: &Pong, interface: &str) -> String {
    let Pong { address, mac, round, took, bytes, .. } = pong;
    let millis = took.as_secs_f64() * 1000.0;
    let mut line = format!("{bytes} bytes from {mac} via {interface}: {address} seq={round} time={millis:.3} ms");
    match pong.reply {
        Reply::Fine => {}
        Reply::Refused(error) => line += &format!(" (refused: {error})"),
        Reply::Failed => line += " (the disk failed)",
    }
    for (applies, mark) in [(pong.late, " (late)"), (pong.repeated, " (repeated)")] {
        line += if applies { mark } else { "" };
    }
    line
}

/// What it all came to.
#[derive(Debug, PartialEq, Serialize)]
struct Summary {
    device: Address,
    /// `config` or `identify`.
    question: &'static str,
    rounds: u64,
    paths: Vec<Path>,
}

/// An answerer over one of our interfaces.
#[derive(Debug, PartialEq, Serialize)]
struct Path {
    device: Address,
    mac: String,
    interface: String,
    sent: u64,
    answered: u64,
    loss_percent: f64,
    late: u64,
    repeated: u64,
    refused: u64,
    #[serde(flatten)]
    times: Option<RoundTripTimes>,
}

impl Summary {
    fn new(device: Address, identify: bool, pinging: &Pinging, talk: &Talk) -> Self {
        let path = |(device, mac, port, report): (_, _, _, &PingReport)| {
            let PingReport { sent, answered, late, repeated, refused, .. } = *report;
            let mac = MacAddr::to_string(&mac);
            let interface = talk.interface(port).to_owned();
            let (loss_percent, times) = (report.loss_percent(), report.times.times());
            Path { device, mac, interface, sent, answered, loss_percent, late, repeated, refused, times }
        };
        let question = if identify { "identify" } else { "config" };
        Self { device, question, rounds: pinging.rounds(), paths: pinging.reports().map(path).collect() }
    }

    fn describe(&self) -> String {
        let mut lines = vec![format!("--- {}, {} rounds ---", self.device, self.rounds)];
        if self.paths.is_empty() {
            lines.push("no answer".to_owned());
        }
        for path in &self.paths {
            let Path { device, mac, interface, sent, answered, loss_percent, .. } = path;
            let mut line = format!(
                "{device} at {mac} via {interface}: {sent} sent, {answered} answered, {loss_percent:.1} % loss"
            );
            for (count, what) in [(path.late, "late"), (path.repeated, "repeated"), (path.refused, "refused")] {
                if count > 0 {
                    line += &format!(", {count} {what}");
                }
            }
            lines.push(line);
            if let Some(RoundTripTimes { min_ms, avg_ms, max_ms, p99_ms, mdev_ms, .. }) = path.times {
                let times = format!("{min_ms:.3}/{avg_ms:.3}/{max_ms:.3}/{p99_ms:.3}/{mdev_ms:.3}");
                lines.push(format!("rtt min/avg/max/p99/mdev = {times} ms"));
            }
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{PortId, RoundTrips};
    use aoe_common::wire::ErrorCode;

    #[test]
    fn a_line_for_an_answer() {
        let pong = Pong {
            address: Address::new(0, 1),
            mac: MacAddr(2, 0, 0, 0, 0, 1),
            port: PortId(0),
            round: 3,
            took: Duration::from_micros(1234),
            bytes: 60,
            reply: Reply::Fine,
            late: false,
            repeated: false,
        };
        assert_eq!(line(&pong, "eth1"), "60 bytes from 02:00:00:00:00:01 via eth1: e0.1 seq=3 time=1.234 ms");
        let odd = Pong { reply: Reply::Refused(ErrorCode::DeviceUnavailable), late: true, repeated: true, ..pong };
        assert!(line(&odd, "eth1").ends_with("1.234 ms (refused: device unavailable) (late) (repeated)"));
    }

    #[test]
    fn a_summary_has_what_is_worth_telling() {
        let mut times = RoundTrips::default();
        [1, 3].into_iter().for_each(|millis| times.record(Duration::from_millis(millis)));
        let path = Path {
            device: Address::new(0, 1),
            mac: "m".to_owned(),
            interface: "eth0".to_owned(),
            sent: 4,
            answered: 2,
            loss_percent: 50.0,
            late: 0,
            repeated: 1,
            refused: 0,
            times: times.times(),
        };
        let summary = Summary { device: Address::ANY, question: "config", rounds: 4, paths: vec![path] };
        let text = summary.describe();
        assert!(
            text.contains("e0.1 at m via eth0: 4 sent, 2 answered, 50.0 % loss, 1 repeated\nrtt min/avg"),
            "{text}"
        );
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!((&json["paths"][0]["answered"], &json["question"]), (&2.into(), &"config".into()));
        assert!(json["paths"][0]["p99_ms"].as_f64() > Some(2.9), "{json}");
    }

    #[test]
    fn options_are_those_of_ping() {
        let parse = |line: &str| Args::try_parse_from(line.split_whitespace());
        let args = parse("aoe-ping e0.1 -c 3 -i 0.2 -w 5 -W 0.5 -I eth0 -q --identify").unwrap();
        assert_eq!((args.count, args.interval), (Some(3), Duration::from_millis(200)));
        assert_eq!((args.deadline, args.timeout), (Some(Duration::from_secs(5)), Duration::from_millis(500)));
        assert!(args.quiet && args.identify && args.interfaces == ["eth0"]);
        for wrong in ["aoe-ping", "aoe-ping e0", "aoe-ping e0.1 -c 0", "aoe-ping e0.1 -i 0", "aoe-ping e0.1 -w -1"] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
