//! `/etc/aoe/attach.toml`: how the disks of this host are attached, for `aoe-attach@.service` and `aoe-attach e0.1`.
//!
//! One `[[attach]]` table for each disk, and `[defaults]` for what they have in common. Keys are the long options of
//! `aoe-attach`. All that is wrong with a file is told at once, each with its line and column; a file with a mistake
//! attaches nothing, for the mistake may be the word that was meant to protect the disk.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aoe_common::addr::Address;
use aoe_common::config_file::{self, ReadError, line_and_column, nearest};
use aoe_common::scrape::Endpoint;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::attach::Options;
use crate::cli::{DeadAfter, device, seconds};
use crate::engine::QUARANTINE;
use crate::place::Place;

/// Where the file is unless told otherwise.
pub const PATH: &str = "/etc/aoe/attach.toml";
/// Mistakes that are told of one file.
const PROBLEMS_MAX: usize = 20;

/// How long a silent target is waited for unless something else is said, in seconds.
const DEAD_AFTER_S: u64 = 180;
/// How long the disk is looked for unless something else is said.
const WAIT: Duration = Duration::from_secs(10);

/// A key of the file, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What its value is.
    pub kind: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it is for, in a sentence.
    pub about: &'static str,
    /// It is about one disk, so `[defaults]` cannot have it.
    pub of_one: bool,
}

/// All keys of an `[[attach]]` table, in the order of the manual page.
pub const KEYS: [Key; 11] = [
    Key {
        name: "device",
        kind: "a text",
        default: "it must be given",
        about: "The address of the disk, such as \"e0.1\".",
        of_one: true,
    },
    Key {
        name: "where",
        kind: "a text",
        default: "\"/dev/nbd\", the first free device",
        about: "\"/dev/nbdN\", \"/dev/nbd\", \"unix:PATH\" or \"tcp:ADDR:PORT\".",
        of_one: true,
    },
    Key {
        name: "interfaces",
        kind: "a list of names",
        default: "every Ethernet interface that is up",
        about: "The interfaces to use, such as [\"eth1\", \"eth2\"].",
        of_one: false,
    },
    Key { name: "read-only", kind: "true or false", default: "false", about: "Refuse writes.", of_one: false },
    Key {
        name: "dead-after",
        kind: "a number of seconds, or \"never\"",
        default: "180",
        about: "Fail requests when no target has answered for so long; 0 at once, \"never\" waits.",
        of_one: false,
    },
    Key {
        name: "connections",
        kind: "a number from 1 to 16",
        default: "1 to the kernel, 16 at a socket",
        about: "Sockets to the kernel, or clients of a socket at a time.",
        of_one: false,
    },
    Key {
        name: "nbd-timeout",
        kind: "a number of seconds from 0 to 86400",
        default: "0",
        about: "Let the kernel give up a request after so long and repeat it, 0 never; must exceed dead-after.",
        of_one: false,
    },
    Key {
        name: "wait",
        kind: "a number of seconds from 0 to 86400, with a fraction if need be",
        default: "10",
        about: "How long to look for the disk.",
        of_one: false,
    },
    Key {
        name: "frame-life",
        kind: "a number of seconds from 1 to 600",
        default: "10",
        about: "How long this network may hold a frame back; what an old copy could still undo is not written before.",
        of_one: false,
    },
    Key {
        name: "repeating-network",
        kind: "true or false",
        default: "false",
        about: "This network may repeat frames by itself.",
        of_one: false,
    },
    Key {
        name: "metrics",
        kind: "a text",
        default: "no metrics",
        about: "Serve figures for Prometheus at \"unix:/PATH\" or \"ADDR:PORT\".",
        of_one: true,
    },
];

/// What is said about an attach, on the command line or in a table. What is left out is said elsewhere, or by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// Where.
    pub place: Option<Place>,
    /// Interfaces to use.
    pub interfaces: Option<Vec<String>>,
    /// Refuse writes.
    pub read_only: Option<bool>,
    /// How long a silent target is waited for.
    pub dead_after: Option<DeadAfter>,
    /// Sockets to the kernel, or clients of a socket at a time, 1 to 16.
    pub connections: Option<u8>,
    /// How long the kernel lets one request take, in seconds.
    pub nbd_timeout: Option<u32>,
    /// How long the disk is looked for.
    pub wait: Option<Duration>,
    /// How long a frame may live in this network, in seconds.
    pub frame_life: Option<u64>,
    /// The network may repeat frames by itself.
    pub repeating_network: Option<bool>,
    /// Where figures are served.
    pub metrics: Option<Endpoint>,
}

impl Values {
    /// These, and what they leave out from there.
    pub fn or(self, other: &Self) -> Self {
        Self {
            place: self.place.or_else(|| other.place.clone()),
            interfaces: self.interfaces.or_else(|| other.interfaces.clone()),
            read_only: self.read_only.or(other.read_only),
            dead_after: self.dead_after.or(other.dead_after),
            connections: self.connections.or(other.connections),
            nbd_timeout: self.nbd_timeout.or(other.nbd_timeout),
            wait: self.wait.or(other.wait),
            frame_life: self.frame_life.or(other.frame_life),
            repeating_network: self.repeating_network.or(other.repeating_network),
            metrics: self.metrics.or_else(|| other.metrics.clone()),
        }
    }

    /// What is to be done, with defaults for what nobody has said; or why that contradicts itself.
    pub fn options(self, device: Address) -> Result<Options, String> {
        let dead_after_s = self.dead_after.map_or(Some(DEAD_AFTER_S), |DeadAfter(after)| after);
        let kernel_timeout_s = u64::from(self.nbd_timeout.unwrap_or(0));
        if kernel_timeout_s > 0 && dead_after_s.is_none_or(|after| kernel_timeout_s <= after) {
            let name = "nbd-timeout must be longer than dead-after, or 0: the kernel would cut off a disk that is slow";
            return Err(name.to_owned());
        }
        Ok(Options {
            device,
            place: self.place.unwrap_or(Place::Kernel(None)),
            interfaces: self.interfaces.unwrap_or_default(),
            read_only: self.read_only.unwrap_or(false),
            dead_after_s,
            connections: self.connections,
            kernel_timeout_s,
            wait: self.wait.unwrap_or(WAIT),
            frame_life: self.frame_life.map_or(QUARANTINE, Duration::from_secs),
            network_repeats: self.repeating_network.unwrap_or(false),
            metrics: self.metrics,
        })
    }
}

/// A mistake in a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong and what to write.
    pub text: String,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        problem: String,
    },
    /// It has mistakes: a line for each.
    #[error("{}", Lines(path, problems))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The mistakes, by place.
        problems: Vec<Problem>,
    },
    /// It says nothing about that disk.
    #[error("{}: no [[attach]] with device = \"{device}\": add one, or say where to attach it", path.display())]
    NoSuchDevice {
        /// The file.
        path: PathBuf,
        /// The disk.
        device: Address,
    },
}

struct Lines<'a>(&'a Path, &'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(path, problems) = self;
        for (number, Problem { line, column, text }) in problems.iter().enumerate() {
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{line}:{column}: {text}", path.display())?;
        }
        Ok(())
    }
}

/// A whole file; see the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachConfig {
    path: PathBuf,
    /// Each disk once, with the defaults of the file filled in.
    attaches: Vec<(Address, Values)>,
}

impl AttachConfig {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let wrong = |problems| ConfigError::Wrong { path: path.to_owned(), problems };
        let text = config_file::read(path).map_err(|error| match error {
            ReadError::Unreadable(problem) => ConfigError::Unreadable { path: path.to_owned(), problem },
            ReadError::NoText { line, column } => wrong(vec![Problem { line, column, text: error.to_string() }]),
        })?;
        let attaches = parse(&text).map_err(wrong)?;
        Ok(Self { path: path.to_owned(), attaches })
    }

    /// What it says about a disk.
    pub fn values(&self, device: Address) -> Result<&Values, ConfigError> {
        let found = self.attaches.iter().find(|(address, _)| *address == device);
        let no_such = || ConfigError::NoSuchDevice { path: self.path.clone(), device };
        found.map(|(_, values)| values).ok_or_else(no_such)
    }

    /// The disks, in the order of the file.
    pub fn devices(&self) -> impl ExactSizeIterator<Item = Address> {
        self.attaches.iter().map(|(device, _)| *device)
    }
}

// ---- Reading ---------------------------------------------------------------------------------------------------------

fn parse(text: &str) -> Result<Vec<(Address, Values)>, Vec<Problem>> {
    let mut reader = Reader { text, problems: Vec::new() };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        reader.complain(error.span().unwrap_or(0..0), error.message().to_owned());
    }
    // What could be read of a file with broken syntax would lead to complaints about what is not there.
    let attaches = if reader.problems.is_empty() { reader.file(root.get_ref()) } else { Vec::new() };
    if reader.problems.is_empty() { Ok(attaches) } else { Err(reader.finish()) }
}

struct Reader<'a> {
    text: &'a str,
    problems: Vec<(usize, String)>,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    fn complain(&mut self, at: Range<usize>, text: String) {
        self.problems.push((at.start, text));
    }

    fn finish(mut self) -> Vec<Problem> {
        self.problems.sort();
        self.problems.truncate(PROBLEMS_MAX);
        let text = self.text;
        let located = self.problems.into_iter().map(|(at, what)| {
            let (line, column) = line_and_column(text, at);
            Problem { line, column, text: what.replace('\n', " ") }
        });
        located.collect()
    }

    fn file(&mut self, root: &DeTable) -> Vec<(Address, Values)> {
        let mut defaults = Values::default();
        let mut tables: &[Value] = &[];
        for (key, value) in root {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("defaults", DeValue::Table(table)) => defaults = self.table(table, false).values,
                ("attach", DeValue::Array(array)) => tables = array,
                ("defaults", _) => self.complain(value.span(), "write a table: [defaults]".to_owned()),
                ("attach", _) => self.complain(value.span(), "write a table for each disk: [[attach]]".to_owned()),
                (name, _) => {
                    let known = if KEYS.iter().any(|key| key.name == name) {
                        ": it belongs into [defaults] or [[attach]]".to_owned()
                    } else {
                        meant(name, ["defaults", "attach"])
                    };
                    self.complain(key.span(), format!("unknown key \"{}\"{known}", name.escape_debug()));
                }
            }
        }
        let mut attaches = Vec::<(Address, Values)>::with_capacity(tables.len());
        let mut taken = Vec::<String>::new();
        for value in tables {
            let DeValue::Table(table) = value.get_ref() else {
                self.complain(value.span(), "write a table for each disk: [[attach]]".to_owned());
                continue;
            };
            let Table { device, values, at } = self.table(table, true);
            let span = |name| at.iter().find(|(key, _)| *key == name).map_or(value.span(), |(_, span)| span.clone());
            let Some(device) = device else {
                if !table.contains_key("device") {
                    self.complain(value.span(), "an [[attach]] needs its device, such as device = \"e0.1\"".to_owned());
                }
                continue;
            };
            if attaches.iter().any(|(other, _)| *other == device) {
                self.complain(span("device"), format!("{device} is there already: one [[attach]] for each disk"));
            }
            // Many may ask for the first free kernel device.
            let place = values.place.as_ref().filter(|place| **place != Place::Kernel(None)).map(Place::to_string);
            let metrics = values.metrics.as_ref().map(Endpoint::to_string);
            for (key, text) in [("where", place), ("metrics", metrics)] {
                let Some(text) = text else { continue };
                if taken.contains(&text) {
                    self.complain(span(key), format!("{text} is taken by another [[attach]]"));
                }
                taken.push(text);
            }
            let values = values.or(&defaults);
            if let Err(why) = values.clone().options(device) {
                self.complain(span("nbd-timeout"), why);
            }
            attaches.push((device, values));
        }
        attaches
    }

    /// The keys of one table; those with mistakes are left out.
    fn table(&mut self, table: &DeTable, is_one: bool) -> Table {
        let mut found = Table::default();
        let values = &mut found.values;
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let Some(known) = KEYS.iter().find(|known| known.name == name) else {
                let near = meant(name, KEYS.iter().filter(|key| is_one || !key.of_one).map(|key| key.name));
                self.complain(key.span(), format!("unknown key \"{}\"{near}", name.escape_debug()));
                continue;
            };
            if known.of_one && !is_one {
                self.complain(key.span(), format!("\"{name}\" is about one disk: write it in its [[attach]]"));
                continue;
            }
            let read = match known.name {
                "device" => text(value).and_then(device).map(|device| found.device = Some(device)),
                "where" => text(value).and_then(parsed).map(|place| values.place = Some(place)),
                "interfaces" => texts(value).map(|names| values.interfaces = Some(names)),
                "read-only" => boolean(value).map(|flag| values.read_only = Some(flag)),
                "dead-after" => dead_after(value).map(|after| values.dead_after = Some(after)),
                "connections" => integer(value, 1..=16).map(|count| values.connections = Some(count as u8)),
                "nbd-timeout" => integer(value, 0..=86_400).map(|after| values.nbd_timeout = Some(after as u32)),
                "wait" => number(value).and_then(seconds).map(|wait| values.wait = Some(wait)),
                "frame-life" => integer(value, 1..=600).map(|life| values.frame_life = Some(life)),
                "repeating-network" => boolean(value).map(|flag| values.repeating_network = Some(flag)),
                "metrics" => text(value).and_then(parsed).map(|endpoint| values.metrics = Some(endpoint)),
                name => unreachable!("{name} is in the table of keys only"),
            };
            found.at.push((known.name, value.span()));
            if let Err(why) = read {
                self.complain(value.span(), format!("{name}: {why}"));
            }
        }
        found
    }
}

/// What is in one table, and where.
#[derive(Default)]
struct Table {
    device: Option<Address>,
    values: Values,
    at: Vec<(&'static str, Range<usize>)>,
}

fn text<'a>(value: &'a Value) -> Result<&'a str, String> {
    value.get_ref().as_str().ok_or_else(|| "write a text in quotes".to_owned())
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    let wrong = || "write names in quotes, such as [\"eth1\"]".to_owned();
    let names = value.get_ref().as_array().ok_or_else(wrong)?;
    names.iter().map(|name| text(name).map(str::to_owned).map_err(|_| wrong())).collect()
}

fn boolean(value: &Value) -> Result<bool, String> {
    value.get_ref().as_bool().ok_or_else(|| "write true or false".to_owned())
}

fn integer(value: &Value, range: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    let number = value.get_ref().as_integer().and_then(|it| u64::from_str_radix(it.as_str(), it.radix()).ok());
    let wrong = || format!("write a whole number from {} to {}", range.start(), range.end());
    number.filter(|number| range.contains(number)).ok_or_else(wrong)
}

/// A number with or without a fraction, as text.
fn number<'a>(value: &'a Value) -> Result<&'a str, String> {
    match value.get_ref() {
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str()),
        DeValue::Float(number) => Ok(number.as_str()),
        _ => Err("write seconds, from 0 to 86400".to_owned()),
    }
}

fn dead_after(value: &Value) -> Result<DeadAfter, String> {
    match value.get_ref() {
        DeValue::String(text) => text.parse(),
        _ => integer(value, 0..=u32::MAX.into())
            .map(|after| DeadAfter(Some(after)))
            .map_err(|_| "write whole seconds, or \"never\"".to_owned()),
    }
}

fn parsed<T: std::str::FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// A question that follows an unknown key.
fn meant<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(known) => format!(": did you mean \"{known}\"?"),
        None => ": see aoe-attach.toml(5)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = r#"
[defaults]
interfaces = ["eth1"]
dead-after = "never"
wait = 60

[[attach]]
device = "e0.1"
where = "/dev/nbd1"

[[attach]]
device = "e7.15"
where = "unix:/run/disk.sock"
interfaces = ["eth2", "eth3"]
read-only = true
dead-after = 30
connections = 4
nbd-timeout = 31
wait = 0.5
frame-life = 1
repeating-network = true
metrics = "127.0.0.1:9656"
"#;

    #[test]
    fn every_key_is_read_and_defaults_fill_in() {
        let attaches = parse(ALL).unwrap();
        assert_eq!(attaches.len(), 2);
        let options = attaches[0].1.clone().options(attaches[0].0).unwrap();
        assert_eq!((options.device, options.place), (Address::new(0, 1), Place::Kernel(Some(1))));
        assert_eq!((options.dead_after_s, options.wait), (None, Duration::from_secs(60)));
        assert_eq!(options.interfaces, ["eth1"]);
        assert_eq!((options.frame_life, options.network_repeats), (QUARANTINE, false));
        let options = attaches[1].1.clone().options(attaches[1].0).unwrap();
        assert_eq!(options.place, Place::Unix("/run/disk.sock".into()));
        assert_eq!(options.interfaces, ["eth2", "eth3"]);
        assert_eq!((options.read_only, options.dead_after_s, options.connections), (true, Some(30), Some(4)));
        assert_eq!((options.kernel_timeout_s, options.wait), (31, Duration::from_millis(500)));
        assert_eq!((options.frame_life, options.network_repeats), (Duration::from_secs(1), true));
        assert_eq!(options.metrics, Some("127.0.0.1:9656".parse().unwrap()));
        for key in KEYS {
            assert!(ALL.contains(&format!("\n{} = ", key.name)), "{} is not tried", key.name);
        }
    }

    #[test]
    fn a_file_may_say_little() {
        assert_eq!(parse("").unwrap(), []);
        let attaches = parse("[[attach]]\ndevice = \"e0.1\"").unwrap();
        assert_eq!(attaches[0].1.clone().options(attaches[0].0).unwrap().place, Place::Kernel(None));
    }

    #[test]
    fn the_command_line_wins() {
        let (device, file) = parse(ALL).unwrap().remove(1);
        let typed = Values { connections: Some(1), place: Some(Place::Kernel(None)), ..Values::default() };
        let options = typed.or(&file).options(device).unwrap();
        assert_eq!((options.connections, options.place, options.read_only), (Some(1), Place::Kernel(None), true));
    }

    #[test]
    fn mistakes_are_told_with_their_place_and_what_to_write() {
        let attach = "[[attach]]\ndevice = \"e0.1\"\n";
        let other = "[[attach]]\ndevice = \"e0.2\"\n";
        for (file, line, column, words) in [
            (format!("{attach}reed-only = true"), 3, 1, "unknown key \"reed-only\": did you mean \"read-only\"?"),
            (format!("{attach}colour = 1"), 3, 1, "see aoe-attach.toml(5)"),
            (format!("{attach}read-only = 1"), 3, 13, "read-only: write true or false"),
            (format!("{attach}connections = 17"), 3, 15, "from 1 to 16"),
            (format!("{attach}connections = -1"), 3, 15, "from 1 to 16"),
            (format!("{attach}dead-after = \"soon\""), 3, 14, "never"),
            (format!("{attach}dead-after = 1.5"), 3, 14, "never"),
            (format!("{attach}wait = \"long\""), 3, 8, "86400"),
            (format!("{attach}wait = nan"), 3, 8, "86400"),
            (format!("{attach}frame-life = 0"), 3, 14, "600"),
            (format!("{attach}interfaces = \"eth0\""), 3, 14, "[\"eth1\"]"),
            (format!("{attach}where = \"/dev/sda\""), 3, 9, "/dev/nbdN"),
            (format!("{attach}metrics = \"here\""), 3, 11, "ADDR:PORT"),
            (format!("{attach}nbd-timeout = 60"), 3, 15, "longer than dead-after"),
            (format!("[defaults]\nnbd-timeout = 60\n{attach}"), 3, 1, "longer than dead-after"),
            (format!("{attach}{attach}"), 4, 10, "e0.1 is there already"),
            (
                format!("{attach}where = \"/dev/nbd1\"\n{other}where = \"/dev/nbd1\""),
                6,
                9,
                "/dev/nbd1 is taken by another",
            ),
            ("[[attach]]\nwhere = \"/dev/nbd1\"".to_owned(), 1, 1, "needs its device"),
            ("[[attach]]\ndevice = \"e0.*\"".to_owned(), 2, 10, "many disks"),
            ("[attach]\ndevice = \"e0.1\"".to_owned(), 1, 1, "[[attach]]"),
            ("attach = [1]".to_owned(), 1, 11, "[[attach]]"),
            ("defaults = 1".to_owned(), 1, 12, "[defaults]"),
            ("[default]\nwait = 1".to_owned(), 1, 2, "did you mean \"defaults\"?"),
            ("read-only = true".to_owned(), 1, 1, "belongs into [defaults] or [[attach]]"),
            ("[defaults]\nwhere = \"/dev/nbd1\"".to_owned(), 2, 1, "about one disk"),
            ("# é\n[[attach]\n".to_owned(), 2, 10, ""),
            ("wait = 1\nwait = 2".to_owned(), 2, 1, "duplicate key"),
            ("\"\\u001b[2J\" = 1".to_owned(), 1, 1, "unknown key \"\\u{1b}[2J\""),
        ] {
            let problems = parse(&file).unwrap_err();
            let Problem { text, .. } = &problems[0];
            assert_eq!((problems[0].line, problems[0].column), (line, column), "{file}\n{problems:?}");
            assert!(text.contains(words), "{file}\n{text}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once_but_not_without_end() {
        let file = "[[attach]]\ndevice = 5\nwait = \"x\"\n[[attach]]\nread-only = 2\n";
        let places: Vec<_> = parse(file).unwrap_err().iter().map(|problem| (problem.line, problem.column)).collect();
        assert_eq!(places, [(2, 10), (3, 8), (4, 1), (5, 13)]);
        let file: String = (0..100).map(|number| format!("key{number} = 1\n")).collect();
        assert_eq!(parse(&file).unwrap_err().len(), PROBLEMS_MAX);
    }

    #[test]
    fn a_file_is_read_or_tells_where_it_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("attach.toml");
        assert!(matches!(AttachConfig::load(&path), Err(ConfigError::Unreadable { .. })));
        std::fs::write(&path, b"a = 1\n\xff").unwrap();
        let error = AttachConfig::load(&path).unwrap_err().to_string();
        assert!(error.ends_with("attach.toml:2:1: this is no UTF-8 text; save the file as UTF-8"), "{error}");
        std::fs::write(&path, "\nx = 1\ny = 2").unwrap();
        let error = AttachConfig::load(&path).unwrap_err().to_string();
        let start = format!("{}:2:1: unknown key \"x\"", path.display());
        assert!(error.starts_with(&start) && error.contains("attach.toml:3:1: "), "{error}");
        std::fs::write(&path, ALL).unwrap();
        let config = AttachConfig::load(&path).unwrap();
        assert_eq!(config.devices().collect::<Vec<_>>(), [Address::new(0, 1), Address::new(7, 15)]);
        let error = config.values(Address::new(0, 2)).unwrap_err().to_string();
        assert!(error.contains("device = \"e0.2\""), "{error}");
    }

    #[test]
    fn the_file_that_is_installed_is_right_and_tells_of_every_key() {
        let file = include_str!("../../systemd/attach.toml");
        assert_eq!(parse(file).unwrap(), [], "all of it is comments");
        // Its examples are what it says when the marks are taken away.
        let examples: String = file
            .lines()
            .map(|line| match line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')) {
                Some(example) => format!("{example}\n"),
                None => "\n".to_owned(),
            })
            .collect();
        let attaches = parse(&examples).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(attaches.len(), 2);
        for key in KEYS {
            assert!(examples.contains(&format!("\n{} = ", key.name)), "{} is not shown", key.name);
        }
    }
}
