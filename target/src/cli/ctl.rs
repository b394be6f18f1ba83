//! `aoe-target ctl`: asks a target that serves, and tells people what it said.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use aoe_common::addr::{Address, parse_shelf, parse_slot};
use aoe_common::target_status::{EditorsStatus, ExportStatus, Latency, NotServed, TargetStatus};
use aoe_common::text::{size, table};
use aoe_common::wire::MacAddr;
use clap::{ArgGroup, Args as ClapArgs, Subcommand};
use serde_json::{Map, Value, json};

use super::Cache;
use crate::control::{DEFAULT_SOCKET, SOCKET_VARIABLE};
use crate::engine::durability::CacheMode;
use crate::log::Level;
use crate::settings::{ata_text, station};

/// How long an answer may take: removals and drains wait for disks.
const ANSWER_TIME: Duration = Duration::from_secs(120);

/// Bytes of an answer at the most: the status of all exports a target can have, with many stations each.
const ANSWER_MAX: u64 = 256 << 20;

pub(super) const EXAMPLES: &str = "\
Examples:
  What is served, and how it does:
      aoe-target ctl status

  One more disk, and one less:
      aoe-target ctl add shelf 0 slot 3 /srv/disk.img --read-only
      aoe-target ctl remove e0.3

  Shut a host out for good; when this returns, none of its writes takes effect any more:
      aoe-target ctl mask e0.1 --delete 02:00:00:00:00:0b

  The file of e0.1 has grown:
      aoe-target ctl resize e0.1

The target listens at /run/aoe-target/control.sock, a line of JSON each way; by hand:
      echo '{\"command\":\"status\"}' | socat - UNIX-CONNECT:/run/aoe-target/control.sock

Exit codes:
  0  done
  1  failed, or nobody listens there
  2  wrong usage";

/// `aoe-target ctl`.
#[derive(Clone, Debug, ClapArgs)]
pub struct CtlArgs {
    /// The target's control socket [default: $AOE_TARGET_CONTROL, else /run/aoe-target/control.sock]
    #[arg(long, value_name = "PATH", global = true)]
    pub control: Option<PathBuf>,

    /// Print the answer as JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// What to ask for.
    #[command(subcommand)]
    pub ask: Ask,
}

/// What can be asked for.
#[derive(Clone, Debug, Subcommand)]
pub enum Ask {
    /// Tell what is served, by whom it is used, and how it does
    Status {
        /// This export in detail, such as e0.1
        device: Option<Address>,
    },
    /// Serve one more file or block device
    #[command(override_usage = "aoe-target ctl add shelf SHELF slot SLOT PATH [OPTIONS]")]
    Add(AddArgs),
    /// Serve exports no longer: what is under way ends, and the files are synced, closed and unlocked
    Remove {
        /// Which, such as e0.1
        #[arg(required = true)]
        devices: Vec<Address>,
    },
    /// Look at the size of the file at once; or export another length of it
    Resize {
        /// Which, such as e0.1
        device: Address,
        /// Export this many 512-byte sectors of the file from now on; the file itself stays as it is
        #[arg(long, value_name = "SECTORS", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "all")]
        to: Option<u64>,
        /// Export all of the file from now on, and more as it grows
        #[arg(long)]
        all: bool,
    },
    /// Change settings while it serves, until the next start or reload
    #[command(group = ArgGroup::new("what").required(true).multiple(true))]
    Set(SetArgs),
    /// Show or change the mask list: who may use an export. Stored
    #[command(group = ArgGroup::new("change"))]
    Mask {
        /// Which, such as e0.1
        device: Address,
        /// Let these in, too (an empty list lets everybody in, so the first entry shuts all others out)
        #[arg(long, value_delimiter = ',', value_parser = station, value_name = "MAC[,MAC]...", group = "change")]
        add: Vec<MacAddr>,
        /// Shut these out
        #[arg(long, value_delimiter = ',', value_parser = station, value_name = "MAC[,MAC]...", group = "change")]
        delete: Vec<MacAddr>,
        /// Let exactly these in
        #[arg(long, value_delimiter = ',', value_parser = station, value_name = "MAC[,MAC]...", group = "change")]
        set: Vec<MacAddr>,
        /// Let everybody in
        #[arg(long, group = "change")]
        clear: bool,
    },
    /// Show or change who holds the reservation. Stored
    #[command(group = ArgGroup::new("change"))]
    Reservation {
        /// Which, such as e0.1
        device: Address,
        /// Reserve it for exactly these
        #[arg(long, value_delimiter = ',', value_parser = station, value_name = "MAC[,MAC]...", group = "change")]
        set: Vec<MacAddr>,
        /// Release it
        #[arg(long, group = "change")]
        release: bool,
    },
    /// Show or set the config string. Stored
    ConfigString {
        /// Which, such as e0.1
        device: Address,
        /// Set it to this; an empty text removes it
        #[arg(long, value_name = "TEXT")]
        set: Option<String>,
    },
    /// Take writes again after data was lost below, when the disk and its content have been checked
    ClearError {
        /// Which, such as e0.1
        device: Address,
    },
    /// Take no new requests and finish what is under way, before maintenance; clients wait
    Drain {
        /// Which, such as e0.1 [default: all]
        device: Option<Address>,
    },
    /// Take requests again
    Undrain {
        /// Which, such as e0.1 [default: all]
        device: Option<Address>,
    },
    /// Read the configuration file again and apply what differs; the rest goes on
    Reload,
    /// Log lines of this level and of those before it from now on
    LogLevel {
        /// Which
        #[arg(value_enum)]
        level: Level,
    },
}

/// `aoe-target ctl add`.
#[derive(Clone, Debug, ClapArgs)]
pub struct AddArgs {
    /// `shelf SHELF slot SLOT PATH`
    #[arg(required = true, num_args = 5, value_name = "shelf SHELF slot SLOT PATH")]
    words: Vec<OsString>,
    /// Take no writes
    #[arg(long)]
    read_only: bool,
    /// When a write is acknowledged [default: as the configuration file says, else auto]
    #[arg(long, value_enum, value_name = "WHEN")]
    cache: Option<Cache>,
    /// Bypass the page cache of this host (O_DIRECT)
    #[arg(long)]
    direct: bool,
    /// Requests it says it can queue
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=1024), value_name = "N")]
    buffers: Option<u16>,
    /// Leave out this many 512-byte sectors at the start of the file
    #[arg(long, value_name = "SECTORS")]
    offset: Option<u64>,
    /// Export this many 512-byte sectors [default: all, and more as the file grows]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "SECTORS")]
    length: Option<u64>,
    /// Serve only stations with these addresses
    #[arg(long, value_delimiter = ',', value_parser = station, value_name = "MAC[,MAC]...")]
    allow: Vec<MacAddr>,
    /// Serial number, up to 20 characters
    #[arg(long, value_parser = ata_text::<20>, value_name = "TEXT")]
    serial: Option<String>,
    /// Model, up to 40 characters
    #[arg(long, value_parser = ata_text::<40>, value_name = "TEXT")]
    model: Option<String>,
}

/// `aoe-target ctl set`.
#[derive(Clone, Debug, ClapArgs)]
pub struct SetArgs {
    /// Which, such as e0.1
    device: Address,
    /// When writes that arrive from then on are acknowledged
    #[arg(long, value_enum, value_name = "WHEN", group = "what")]
    cache: Option<Cache>,
    /// Take no writes, or take them again
    #[arg(long, value_name = "YES|NO", value_parser = yes_or_no, group = "what")]
    read_only: Option<bool>,
    /// Serve only stations with these addresses, or "all"
    #[arg(long, value_name = "MAC[,MAC]...|all", value_parser = stations, group = "what")]
    allow: Option<Stations>,
    /// Requests it says it can queue
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=1024), value_name = "N", group = "what")]
    buffers: Option<u16>,
    /// Bypass the page cache of this host; takes the export off and on again
    #[arg(long, value_name = "YES|NO", value_parser = yes_or_no, group = "what")]
    direct: Option<bool>,
    /// Serial number; takes the export off and on again
    #[arg(long, value_parser = ata_text::<20>, value_name = "TEXT", group = "what")]
    serial: Option<String>,
    /// Model; takes the export off and on again
    #[arg(long, value_parser = ata_text::<40>, value_name = "TEXT", group = "what")]
    model: Option<String>,
}

#[derive(Clone, Debug)]
struct Stations(Vec<MacAddr>);

fn stations(text: &str) -> Result<Stations, String> {
    match text {
        "all" => Ok(Stations(Vec::new())),
        list => list.split(',').map(station).collect::<Result<_, _>>().map(Stations),
    }
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "on" | "true" => Ok(true),
        "no" | "off" | "false" => Ok(false),
        _ => Err("write yes or no".to_owned()),
    }
}

impl CtlArgs {
    /// Asks, prints the answer, and tells how that went.
    pub fn run(&self) -> Result<ExitCode> {
        let path = self.socket();
        let mut target = Connection::open(&path)?;
        let mut code = ExitCode::SUCCESS;
        for request in self.ask.requests()? {
            let answer = target.ask(&request)?;
            let text = if self.json { answer.to_string() } else { self.ask.show(&answer)? };
            if answer.get("failed").and_then(Value::as_array).is_some_and(|failed| !failed.is_empty()) {
                code = ExitCode::FAILURE;
            }
            match writeln!(io::stdout(), "{text}") {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
                _ => {}
            }
        }
        Ok(code)
    }

    fn socket(&self) -> PathBuf {
        let variable = || std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        self.control.clone().or_else(variable).unwrap_or_else(|| DEFAULT_SOCKET.into())
    }
}

impl Ask {
    /// The lines to send.
    fn requests(&self) -> Result<Vec<Value>> {
        Ok(vec![match self {
            Self::Status { .. } => json!({ "command": "status" }),
            Self::Add(add) => json!({ "command": "add", "export": add.export()? }),
            Self::Remove { devices } => {
                return Ok(devices.iter().map(|device| json!({ "command": "remove", "device": device })).collect());
            }
            Self::Resize { device, to, all } => {
                json!({ "command": "resize", "device": device, "sectors": to, "all": all })
            }
            Self::Set(set) => json!({ "command": "set", "device": set.device, "to": set.keys() }),
            Self::Mask { device, add, delete, set, clear } => {
                let set = (*clear || !set.is_empty()).then(|| texts(set));
                json!({ "command": "mask", "device": device, "set": set, "add": texts(add), "delete": texts(delete) })
            }
            Self::Reservation { device, set, release } => {
                let set = (*release || !set.is_empty()).then(|| texts(set));
                json!({ "command": "reservation", "device": device, "set": set })
            }
            Self::ConfigString { device, set } => json!({ "command": "config-string", "device": device, "set": set }),
            Self::ClearError { device } => json!({ "command": "clear-error", "device": device }),
            Self::Drain { device } => json!({ "command": "drain", "device": device }),
            Self::Undrain { device } => json!({ "command": "undrain", "device": device }),
            Self::Reload => json!({ "command": "reload" }),
            Self::LogLevel { level } => json!({ "command": "log-level", "level": level.name() }),
        }])
    }

    /// The answer for people.
    fn show(&self, answer: &Value) -> Result<String> {
        if let Self::Status { device } = self {
            let status: TargetStatus =
                serde_json::from_value(answer.clone()).context("an answer of another version")?;
            let Some(device) = device else { return Ok(overview(&status)) };
            let export = status.exports.iter().find(|export| export.device == *device);
            let missing = status.not_served.iter().find(|it| it.device == *device);
            return export.map(details).ok_or_else(|| match missing {
                Some(NotServed { reason, .. }) => anyhow!("{device} is not served: {reason}"),
                None => anyhow!("{device} is not served there; see `aoe-target ctl status`"),
            });
        }
        let list = |key: &str| -> Option<Vec<&str>> {
            Some(answer.get(key)?.as_array()?.iter().filter_map(Value::as_str).collect())
        };
        let mut lines: Vec<String> = list("done").unwrap_or_default().into_iter().map(str::to_owned).collect();
        lines.extend(list("failed").unwrap_or_default().iter().map(|line| format!("failed: {line}")));
        if let Some(keys) = list("restart").filter(|keys| !keys.is_empty()) {
            lines.push(format!("{} count from the next start on", keys.join(", ")));
        }
        for (key, nobody) in [("mask", "everybody may use it"), ("reservation", "nobody has reserved it")] {
            if let Some(stations) = list(key) {
                lines.push(if stations.is_empty() { nobody.to_owned() } else { stations.join("\n") });
            }
        }
        if let Some(text) = answer.get("config-string").and_then(Value::as_str) {
            lines.push(text.to_owned());
        }
        if lines.is_empty() {
            lines.push("nothing differs".to_owned());
        }
        Ok(lines.join("\n"))
    }
}

impl AddArgs {
    /// The export, in the words of the configuration file.
    fn export(&self) -> Result<Value> {
        let form = || anyhow!("write `aoe-target ctl add shelf 0 slot 3 /srv/disk.img`");
        let [shelf_word, shelf, slot_word, slot, path] = &self.words[..] else { return Err(form()) };
        if shelf_word != "shelf" || slot_word != "slot" {
            return Err(form());
        }
        let number = |word: &OsString| word.to_str().map(str::to_owned).ok_or_else(form);
        let (shelf, slot) = (parse_shelf(&number(shelf)?)?, parse_slot(&number(slot)?)?);
        let path = std::path::absolute(path)?;
        let path = path.to_str().with_context(|| format!("{}: is no text in UTF-8", path.display()))?;
        let mut keys = Map::from_iter([
            ("shelf".to_owned(), json!(shelf)),
            ("slot".to_owned(), json!(slot)),
            ("path".to_owned(), json!(path)),
        ]);
        let flags = [("read-only", self.read_only), ("direct", self.direct)];
        keys.extend(flags.into_iter().filter(|(_, on)| *on).map(|(key, on)| (key.to_owned(), json!(on))));
        keys.extend(present([
            ("cache", self.cache.map(|cache| json!(CacheMode::from(cache).name()))),
            ("buffers", self.buffers.map(|buffers| json!(buffers))),
            ("offset", self.offset.map(|offset| json!(offset))),
            ("length", self.length.map(|length| json!(length))),
            ("allow", (!self.allow.is_empty()).then(|| json!(texts(&self.allow)))),
            ("serial", self.serial.as_ref().map(|serial| json!(serial))),
            ("model", self.model.as_ref().map(|model| json!(model))),
        ]));
        Ok(Value::Object(keys))
    }
}

impl SetArgs {
    /// What is to change, in the words of the configuration file.
    fn keys(&self) -> Value {
        Value::Object(Map::from_iter(present([
            ("cache", self.cache.map(|cache| json!(CacheMode::from(cache).name()))),
            ("read-only", self.read_only.map(|read_only| json!(read_only))),
            ("allow", self.allow.as_ref().map(|stations| json!(texts(&stations.0)))),
            ("buffers", self.buffers.map(|buffers| json!(buffers))),
            ("direct", self.direct.map(|direct| json!(direct))),
            ("serial", self.serial.as_ref().map(|serial| json!(serial))),
            ("model", self.model.as_ref().map(|model| json!(model))),
        ])))
    }
}

fn present<const N: usize>(keys: [(&str, Option<Value>); N]) -> impl Iterator<Item = (String, Value)> {
    keys.map(|(key, value)| (key.to_owned(), value)).into_iter().filter_map(|(key, value)| Some((key, value?)))
}

fn texts(stations: &[MacAddr]) -> Vec<String> {
    stations.iter().map(MacAddr::to_string).collect()
}

/// A target that listens.
struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    fn open(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let path = path.display();
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => anyhow!(
                    "{path}: no target listens there; is `aoe-target serve` running? Else name its socket with --control"
                ),
                io::ErrorKind::PermissionDenied => anyhow!("{path}: permission denied; run this as root"),
                _ => anyhow!("{path}: {error}"),
            }
        })?;
        stream.set_read_timeout(Some(ANSWER_TIME))?;
        stream.set_write_timeout(Some(ANSWER_TIME))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// What the target says to a request; an error when it refuses.
    fn ask(&mut self, request: &Value) -> Result<Value> {
        writeln!(self.stream.get_mut(), "{request}").context("the target ended")?;
        let mut line = String::new();
        match (&mut self.stream).take(ANSWER_MAX).read_line(&mut line) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                bail!("no answer in {} s; see the target's log", ANSWER_TIME.as_secs())
            }
            read => read.context("the target ended")?,
        };
        let mut answer: Value = serde_json::from_str(&line).context("the target ended before it answered")?;
        match (answer.get_mut("ok").map(Value::take), answer.get("error").and_then(Value::as_str)) {
            (Some(answer), _) => Ok(answer),
            (None, Some(refusal)) => bail!("{refusal}"),
            (None, None) => bail!("an answer of another version: {line:.200}"),
        }
    }
}

// ---- For people ----------------------------------------------------------------------------------------------------

fn overview(status: &TargetStatus) -> String {
    let TargetStatus { version, pid, since_s, .. } = status;
    let (days, hours, minutes) = (since_s / 86_400, since_s / 3600 % 24, since_s / 60 % 60);
    let draining = if status.draining { "; draining" } else { "" };
    let mut text = format!("aoe-target {version}, process {pid}, up {days} d {hours:02}:{minutes:02} h{draining}\n\n");
    let interfaces = status.interfaces.iter().map(|it| {
        let state = if it.up { "up" } else { "down" };
        let figures = [it.mtu.into(), it.received, it.sent, it.kernel_drops].map(|figure: u64| figure.to_string());
        [vec![it.name.clone(), it.mac.clone(), state.to_owned()], figures.to_vec()].concat()
    });
    text += &table(&["interface", "address", "link", "MTU", "received", "sent", "dropped"], interfaces);
    text += "\n\n";
    let exports = status.exports.iter().map(|export| {
        vec![
            export.device.to_string(),
            size(export.size_bytes),
            state(export),
            export.in_flight.to_string(),
            export.reads.to_string(),
            export.writes.to_string(),
            tail(&export.read_latency),
            tail(&export.write_latency),
            export.errors.to_string(),
            export.stations.len().to_string(),
            export.path.clone(),
        ]
    });
    let header =
        ["device", "size", "state", "busy", "reads", "writes", "read p99", "write p99", "errors", "stations", "path"];
    text += &table(&header, exports);
    if !status.not_served.is_empty() {
        text += "\n\n";
        let rows = status.not_served.iter().map(|it| vec![it.device.to_string(), it.reason.clone()]);
        text += &table(&["not served", "why"], rows);
    }
    text
}

/// In a word or two.
fn state(export: &ExportStatus) -> String {
    let access = if export.read_only { "read-only" } else { "read-write" };
    let mut words = vec![if export.lost.is_some() { "writes refused" } else { access }];
    words.extend(export.draining.then_some("draining"));
    words.extend(export.held_s.map(|_| "writes held"));
    words.extend((!export.reservation.is_empty()).then_some("reserved"));
    words.join(", ")
}

/// Ninety-nine of a hundred are below this.
fn tail(latency: &Latency) -> String {
    match latency.below(0.99) {
        None => "-".to_owned(),
        Some(us @ ..1000) => format!("{us} us"),
        Some(us @ ..1_000_000) => format!("{:.1} ms", us as f64 / 1e3),
        Some(us) => format!("{:.1} s", us as f64 / 1e6),
    }
}

fn details(export: &ExportStatus) -> String {
    let list = |stations: &[String], nobody: &str| match stations {
        [] => nobody.to_owned(),
        some => some.join(", "),
    };
    let editors = |editors: &EditorsStatus| match editors {
        EditorsStatus::Word(word) => word.clone(),
        EditorsStatus::These(stations) => list(stations, "none"),
    };
    let latency = |latency: &Latency| match latency.count() {
        0 => "-".to_owned(),
        count => {
            let half = latency.below(0.5).unwrap_or_default();
            format!("{} us on average, half below {half} us, 99 % below {}", latency.sum_us / count, tail(latency))
        }
    };
    let rows = [
        ("device", export.device.to_string()),
        ("path", export.path.clone()),
        ("size", format!("{} ({} sectors)", size(export.size_bytes), export.size_bytes / 512)),
        ("state", state(export)),
        ("data lost", export.lost.clone().unwrap_or_else(|| "no".to_owned())),
        ("writes held", export.held_s.map_or("no".to_owned(), |seconds| format!("{seconds} s"))),
        ("cache", format!("{}{}", export.cache, if export.direct { ", direct" } else { "" })),
        ("buffers", export.buffers.to_string()),
        ("serial", export.serial.clone()),
        ("allow", list(&export.allow, "everybody")),
        ("mask list", list(&export.mask, "everybody")),
        ("reservation", list(&export.reservation, "nobody")),
        ("config string", format!("\"{}\"", export.config_string)),
        ("mask edits by", editors(&export.edits.mask)),
        ("reservation edits by", editors(&export.edits.reservation)),
        ("config edits by", editors(&export.edits.config)),
        ("reads", format!("{} ({})", export.reads, size(export.read_bytes))),
        ("writes", format!("{} ({})", export.writes, size(export.write_bytes))),
        ("flushes", export.flushes.to_string()),
        ("trims", export.trims.to_string()),
        ("read latency", latency(&export.read_latency)),
        ("write latency", latency(&export.write_latency)),
        ("flush latency", latency(&export.flush_latency)),
        ("errors", export.errors.to_string()),
        ("repeats caught", export.repeats.to_string()),
        ("stale writes", export.stale.to_string()),
        ("held writes", export.held.to_string()),
        ("waits", export.waits.to_string()),
        ("refused", export.refused.to_string()),
        ("refused edits", export.edits_refused.to_string()),
        ("queue full", export.overflows.to_string()),
        ("under way", export.in_flight.to_string()),
    ];
    let mut text = table(&[], rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]));
    if !export.stations.is_empty() {
        let stations = export.stations.iter().map(|it| {
            let (reads, writes) = (it.reads.to_string(), it.writes.to_string());
            let bytes = [it.read_bytes, it.write_bytes].map(size);
            vec![it.mac.clone(), reads, bytes[0].clone(), writes, bytes[1].clone(), it.ignored.to_string()]
        });
        text += "\n\n";
        text += &table(&["station", "reads", "read", "writes", "written", "ignored"], stations);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Args, Command};

    fn requests(line: &str) -> Vec<String> {
        let words = format!("aoe-target ctl {line}");
        let args = Args::read(words.split_whitespace().map(OsString::from)).unwrap().unwrap();
        let Command::Ctl(ctl) = args.command else { panic!("{line}") };
        ctl.ask.requests().unwrap().iter().map(Value::to_string).collect()
    }

    #[test]
    fn lines_become_requests() {
        let mask = |part: &str| {
            let keys = ["add", "delete", "set"].map(|key| match key == part {
                true => format!(r#""{key}":["02:00:00:00:00:0a"]"#),
                false if key == "set" => r#""set":null"#.to_owned(),
                false => format!(r#""{key}":[]"#),
            });
            let [add, delete, set] = keys;
            format!(r#"{{{add},"command":"mask",{delete},"device":"e0.1",{set}}}"#)
        };
        for (line, expected) in [
            ("status", r#"{"command":"status"}"#.to_owned()),
            (
                "add shelf 0 slot 3 /srv/a.img --read-only --cache writeback",
                r#"{"command":"add","export":{"cache":"writeback","path":"/srv/a.img","read-only":true,"shelf":0,"slot":3}}"#
                    .to_owned(),
            ),
            (
                "set e0.1 --cache writethrough --allow all --read-only no",
                r#"{"command":"set","device":"e0.1","to":{"allow":[],"cache":"writethrough","read-only":false}}"#.to_owned(),
            ),
            ("mask e0.1 --add 02:00:00:00:00:0a", mask("add")),
            ("mask e0.1 --delete 02:00:00:00:00:0a", mask("delete")),
            ("mask e0.1 --set 02:00:00:00:00:0a", mask("set")),
            ("reservation e0.1 --release", r#"{"command":"reservation","device":"e0.1","set":[]}"#.to_owned()),
            ("drain", r#"{"command":"drain","device":null}"#.to_owned()),
            ("reload --json", r#"{"command":"reload"}"#.to_owned()),
        ] {
            assert_eq!(requests(line), [expected], "{line}");
        }
        assert_eq!(requests("remove e0.1 e0.2").len(), 2);
    }

    #[test]
    fn each_mistake_is_told() {
        for line in
            ["", "add shelf 0 slot 3", "set e0.1", "mask e0.1 --clear --add 02:00:00:00:00:0a", "remove", "resize x"]
        {
            let words = format!("aoe-target ctl {line}");
            assert!(Args::read(words.split_whitespace().map(OsString::from)).is_err(), "{line}");
        }
        let words = "aoe-target ctl add disk 0 slot 3 /a".split_whitespace().map(OsString::from);
        let Command::Ctl(ctl) = Args::read(words).unwrap().unwrap().command else { panic!("ctl") };
        assert!(ctl.ask.requests().unwrap_err().to_string().starts_with("write `aoe-target ctl add"));
    }

    #[test]
    fn answers_for_people() {
        let show = |ask: Ask, answer: Value| ask.show(&answer).unwrap();
        let report = json!({ "done": ["e0.3 is there"], "failed": ["e0.4: no such file"], "restart": ["threads"] });
        let said = show(Ask::Reload, report);
        assert_eq!(said, "e0.3 is there\nfailed: e0.4: no such file\nthreads count from the next start on");
        assert_eq!(show(Ask::Reload, json!({ "done": [], "failed": [], "restart": [] })), "nothing differs");
        let ask = Ask::Reservation { device: Address::new(0, 1), set: vec![], release: false };
        assert_eq!(show(ask, json!({ "device": "e0.1", "reservation": [] })), "nobody has reserved it");
        let missing = NotServed {
            device: Address::new(0, 7),
            path: "/srv/7.img".into(),
            reason: "/etc/aoe/target.toml:9: /srv/7.img: no such file".into(),
        };
        let status = TargetStatus {
            version: "1.2".into(),
            since_s: 90_061,
            not_served: vec![missing],
            ..TargetStatus::default()
        };
        let of_one = Ask::Status { device: Some(Address::new(0, 7)) };
        let refusal = of_one.show(&serde_json::to_value(&status).unwrap()).unwrap_err().to_string();
        assert_eq!(refusal, "e0.7 is not served: /etc/aoe/target.toml:9: /srv/7.img: no such file");
        let text = show(Ask::Status { device: None }, serde_json::to_value(status).unwrap());
        assert!(text.starts_with("aoe-target 1.2, process 0, up 1 d 01:01 h\n"), "{text}");
        assert!(text.ends_with("e0.7        /etc/aoe/target.toml:9: /srv/7.img: no such file"), "{text}");
    }
}
