//! `aoe-cfg`: the settings that an AoE target keeps for a device and anybody may edit: config string, mask list,
//! reservation.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aoe_common::addr::Address;
use aoe_common::link::monotonic_now;
use aoe_common::wire::{
    CONFIG_STRING_MAX, ConfigCommand, DirectiveCommand, DirectiveRepr, ErrorCode, MacAddr, ReserveCommand,
};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use serde::Serialize;

use super::{FAILED, complain, finish, seconds, show, station};
use crate::engine::{
    Asking, DIRECTIVES_MAX, Discovery, EXPORTS_MAX, Holder, MaskList, STATIONS_MAX, Said, Setting, Wish,
};
use crate::identity::first_tag;
use crate::log;
use crate::masks::Masks;
use crate::talk::Talk;
use aoe_common::text::{list, printable, table};

const NAME: &str = "aoe-cfg";

/// How long targets are listened for.
const LISTEN: Duration = Duration::from_secs(1);
/// How long a target has for saying that a config string matches: it says nothing when it does not.
const MATCHING: Duration = Duration::from_secs(1);

const HELP: &str = "\
Config string: up to 1024 bytes that mean something to people or to boot scripts. \"set\" sets it
where there is none, so that of several hosts one gets it; \"force\" replaces it, and an empty string
(\"\") clears it. Bytes that are no text are shown escaped.

Mask list: the stations (MAC addresses) that the target hears for this device, or everybody when the
list is empty. The last \"delete\" lets everybody in. What would shut out this very host is refused.
To fence a node, use \"fence_aoe\".

Reservation: the stations that may read and write, or everybody when there is none. \"reserve set\"
without MACs reserves for this host. Others can look, and take it with \"reserve force\".

These are agreements between honest hosts. Nothing here stops one that is not: any station can
borrow a MAC address.

Every edit is read back, and what is in force is shown. Wildcards are for reading; with --all also
for edits.

Examples:
      aoe-cfg e*.*
      aoe-cfg e0.1 set \"mail spool, rack 4\"
      aoe-cfg e0.1 force --file boot.cfg
      aoe-cfg e0.1 mask add 02:00:00:00:00:0a 02:00:00:00:00:0b
      aoe-cfg e0.1 reserve set
      aoe-cfg e0.* reserve release --all

Exit codes:
  0  done, and read back; for test and prefix: at least one matches
  1  not done, or not known to be; nobody answers; none matches
  2  wrong usage; an edit with a wildcard and without --all";

/// Reads and edits the config string, the mask list and the reservation of an AoE device.
#[derive(Clone, Debug, Parser)]
#[command(name = NAME, version, after_help = HELP)]
pub struct Args {
    /// The device, such as e0.1; e0.* and e*.* for all that answer
    device: Address,

    #[command(subcommand)]
    action: Option<Action>,

    /// Let an edit go to all devices that a wildcard stands for
    #[arg(long, global = true)]
    all: bool,

    /// Use this interface only; may be repeated [default: every Ethernet interface that is up]
    #[arg(long = "interface", short = 'i', visible_short_alias = 'I', value_name = "NAME", global = true)]
    interfaces: Vec<String>,

    /// How long all of it may take; targets are listened for one second of it
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds, global = true)]
    timeout: Duration,

    /// Print a JSON array
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Show the config strings (default)
    Read,
    /// Show those that have exactly this config string
    Test(Text),
    /// Show those whose config string begins so
    Prefix(Text),
    /// Set the config string where there is none
    Set(Text),
    /// Set the config string, whatever it is
    #[command(visible_alias = "fset")]
    Force(Text),
    /// Show or edit the list of stations that are heard
    Mask {
        #[command(subcommand)]
        action: MaskAction,
    },
    /// Show or edit the reservation
    Reserve {
        #[command(subcommand)]
        action: ReserveAction,
    },
}

#[derive(Clone, Debug, Subcommand)]
enum MaskAction {
    /// Show the stations on the list
    List,
    /// Put stations on the list
    Add(Stations),
    /// Take stations off the list
    Delete(Stations),
}

#[derive(Clone, Debug, Subcommand)]
enum ReserveAction {
    /// Show for whom it is reserved
    List,
    /// Reserve it, unless it is reserved for others
    Set(Holders),
    /// Let everybody in
    Release {
        /// Also when it is reserved for others
        #[arg(long)]
        force: bool,
    },
    /// Reserve it, whoever has it now
    Force(Holders),
}

/// A config string.
#[derive(Clone, Debug, clap::Args)]
struct Text {
    /// The config string
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    string: Option<OsString>,

    /// Take it from a file, byte for byte; "-" is standard input
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

#[derive(Clone, Debug, clap::Args)]
struct Stations {
    /// MAC addresses, such as 02:00:00:00:00:0a
    #[arg(value_name = "MAC", value_parser = station, required = true, num_args = 1..=DIRECTIVES_MAX)]
    macs: Vec<MacAddr>,
}

#[derive(Clone, Debug, clap::Args)]
struct Holders {
    /// MAC addresses [default: those of this host that the device is reached by]
    #[arg(value_name = "MAC", value_parser = station, num_args = 0..=STATIONS_MAX)]
    macs: Vec<MacAddr>,
}

impl Text {
    fn bytes(self) -> Result<Vec<u8>> {
        let read = |from: &mut dyn Read| -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            from.take(CONFIG_STRING_MAX as u64 + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = match (self.string, self.file) {
            (Some(string), _) => string.into_vec(),
            (None, Some(path)) if path.as_os_str() == "-" => {
                read(&mut io::stdin()).context("cannot read standard input")?
            }
            (None, Some(path)) => {
                let file = File::open(&path).and_then(|mut file| read(&mut file));
                file.with_context(|| format!("cannot read {}", path.display()))?
            }
            (None, None) => unreachable!("one of both is required"),
        };
        ensure!(bytes.len() <= CONFIG_STRING_MAX, "config strings have at most {CONFIG_STRING_MAX} bytes");
        Ok(bytes)
    }
}

impl Action {
    fn edits(&self) -> bool {
        match self {
            Self::Read | Self::Test(_) | Self::Prefix(_) => false,
            Self::Set(_) | Self::Force(_) => true,
            Self::Mask { action } => !matches!(action, MaskAction::List),
            Self::Reserve { action } => !matches!(action, ReserveAction::List),
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let action = args.action.clone().unwrap_or(Action::Read);
    if action.edits() && args.device.is_wildcard() && !args.all {
        let text = format!("{} stands for many devices: add --all to edit each of them", args.device);
        Args::command().error(ErrorKind::ValueValidation, text).exit();
    }
    log::to_stderr("warn");
    finish(NAME, run(args, action))
}

fn run(args: Args, action: Action) -> Result<ExitCode> {
    match action {
        Action::Read => read(&args),
        Action::Test(text) => compare(&args, ConfigCommand::Test, text.bytes()?),
        Action::Prefix(text) => compare(&args, ConfigCommand::Prefix, text.bytes()?),
        Action::Set(text) => set(&args, ConfigCommand::Set, text.bytes()?),
        Action::Force(text) => set(&args, ConfigCommand::ForceSet, text.bytes()?),
        Action::Mask { action } => mask(&args, action),
        Action::Reserve { action } => reserve(&args, action),
    }
}

/// A target that has a device, and what is in force there.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    device: Address,
    target: String,
    /// The config string, printable.
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<String>,
    /// The stations of a mask list or a reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    stations: Option<Vec<String>>,
}

impl Row {
    fn new(device: Address, target: MacAddr, setting: &Setting) -> Self {
        let target = target.to_string();
        match setting {
            Setting::Config(string) => Self { device, target, config: Some(printable(string)), stations: None },
            Setting::Reservation(stations) => {
                Self { device, target, config: None, stations: Some(texts(stations.iter())) }
            }
        }
    }

    fn of_mask(list: &MaskList) -> Self {
        let stations = Some(texts(list.stations.iter()));
        Self { device: list.address, target: list.target.to_string(), config: None, stations }
    }
}

fn texts<'a>(stations: impl Iterator<Item = &'a MacAddr>) -> Vec<String> {
    stations.map(ToString::to_string).collect()
}

/// Shows what is in force; `all` is what an empty list of stations means.
fn print(json: bool, rows: &[Row], header: &str, all: &str) -> Result<()> {
    if json {
        return show(&serde_json::to_string_pretty(rows)?);
    }
    let cell = |row: &Row| match (&row.config, &row.stations) {
        (Some(config), _) => config.clone(),
        (None, Some(stations)) if !stations.is_empty() => list(stations),
        _ => all.to_owned(),
    };
    let cells = rows.iter().map(|row| vec![row.device.to_string(), row.target.clone(), cell(row)]);
    if rows.is_empty() { Ok(()) } else { show(&table(&["device", "target", header], cells)) }
}

/// Says what went wrong; whether anything did decides how the program ends.
fn end(troubles: &BTreeSet<String>) -> ExitCode {
    troubles.iter().for_each(|trouble| complain(NAME, trouble));
    if troubles.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

/// Those that answer for a device, with their config strings.
type Found = BTreeMap<(Address, [u8; 6]), (Holder, Vec<u8>)>;

/// Who answers for the device; at least one.
fn find(args: &Args) -> Result<(Talk, Found)> {
    let mut talk = Talk::open(args.interfaces.clone())?;
    let start = monotonic_now();
    let mut discovery = Discovery::new(start, args.device, first_tag(), talk.ports());
    talk.hold(&mut discovery, start + LISTEN.min(args.timeout))?;
    let mut holders = Found::new();
    for found in discovery.found() {
        let holder = || Holder { address: found.address, target: found.mac, ports: Vec::new() };
        let (holder, config) =
            holders.entry((found.address, found.mac.octets())).or_insert_with(|| (holder(), Vec::new()));
        holder.ports.push(found.port);
        config.clone_from(&found.config_string);
    }
    ensure!(
        !holders.is_empty(),
        "nobody answers for {} {}: the target is down, or its mask list is without this host's stations",
        args.device,
        talk.describe()
    );
    Ok((talk, holders))
}

/// What one of them said, if anything.
type Answer = (Holder, Option<Said>);

/// Asks all of them the same.
fn ask(talk: &mut Talk, found: &Found, wish: Wish, patience: Duration) -> Result<Vec<Answer>> {
    let now = monotonic_now();
    let holders = found.values().map(|(holder, _)| holder.clone());
    let mut asking = Asking::new(now, now + patience, wish, holders, first_tag(), talk.ports());
    talk.hold(&mut asking, now + patience)?;
    Ok(asking.said().map(|(holder, said)| (holder.clone(), said.cloned())).collect())
}

fn read(args: &Args) -> Result<ExitCode> {
    let (_, found) = find(args)?;
    let row = |(holder, config): &(Holder, Vec<u8>)| {
        Row::new(holder.address, holder.target, &Setting::Config(config.clone()))
    };
    let rows: Vec<_> = found.values().map(row).collect();
    print(args.json, &rows, "config", "")?;
    Ok(ExitCode::SUCCESS)
}

fn compare(args: &Args, command: ConfigCommand, string: Vec<u8>) -> Result<ExitCode> {
    let (mut talk, found) = find(args)?;
    let answers = ask(&mut talk, &found, Wish::Config(command, string), MATCHING)?;
    let rows = rows(&answers);
    print(args.json, &rows, "config", "")?;
    if rows.is_empty() {
        complain(NAME, &format!("of {} that answer none has such a config string", found.len()));
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

/// What those said that did as they were asked.
fn rows(answers: &[Answer]) -> Vec<Row> {
    let row = |(holder, said): &Answer| match said {
        Some(Said::Done(setting)) => Some(Row::new(holder.address, holder.target, setting)),
        _ => None,
    };
    answers.iter().filter_map(row).collect()
}

fn set(args: &Args, command: ConfigCommand, string: Vec<u8>) -> Result<ExitCode> {
    let (mut talk, found) = find(args)?;
    let edited = ask(&mut talk, &found, Wish::Config(command, string.clone()), args.timeout)?;
    let after = ask(&mut talk, &found, Wish::Config(ConfigCommand::Read, Vec::new()), args.timeout)?;
    print(args.json, &rows(&after), "config", "")?;
    Ok(end(&judge(&edited, &after, &Setting::Config(string))))
}

fn reserve(args: &Args, action: ReserveAction) -> Result<ExitCode> {
    let (mut talk, found) = find(args)?;
    let ours = || {
        let reached = |port| found.values().any(|(holder, _)| holder.ports.contains(&port));
        talk.ports().filter(|(port, _)| reached(*port)).map(|(_, info)| info.mac).collect()
    };
    let given = |holders: Holders| if holders.macs.is_empty() { ours() } else { holders.macs };
    let edit = match action {
        ReserveAction::List => None,
        ReserveAction::Set(holders) => Some((ReserveCommand::Set, given(holders))),
        ReserveAction::Force(holders) => Some((ReserveCommand::ForceSet, given(holders))),
        ReserveAction::Release { force: false } => Some((ReserveCommand::Set, Vec::new())),
        ReserveAction::Release { force: true } => Some((ReserveCommand::ForceSet, Vec::new())),
    };
    let edited = match &edit {
        Some((command, stations)) => {
            let wish = Wish::Reserve(*command, stations.clone());
            Some((ask(&mut talk, &found, wish, args.timeout)?, Setting::Reservation(stations.clone())))
        }
        None => None,
    };
    let after = ask(&mut talk, &found, Wish::Reserve(ReserveCommand::Read, Vec::new()), args.timeout)?;
    print(args.json, &rows(&after), "reserved for", "nobody: everybody may use it")?;
    Ok(end(&match edited {
        Some((edited, wanted)) => judge(&edited, &after, &wanted),
        None => unread(&after),
    }))
}

/// Those that do not say what is in force.
fn unread(after: &[Answer]) -> BTreeSet<String> {
    let trouble = |(holder, said): &Answer| match said {
        Some(Said::Done(_)) => None,
        Some(Said::Refused(error)) => Some(format!("{} refuses: {}", place(holder), explain(*error))),
        None => Some(format!("{} does not answer", place(holder))),
    };
    after.iter().filter_map(trouble).collect()
}

/// Why an edit is not in force, or not known to be, wherever it is not. What is read afterwards counts: an edit whose
/// answer is lost is repeated, and may be refused the second time since it was done the first time.
fn judge(edited: &[Answer], after: &[Answer], wanted: &Setting) -> BTreeSet<String> {
    let mut troubles = BTreeSet::new();
    for ((holder, said), (_, now)) in edited.iter().zip(after) {
        let place = place(holder);
        let is_in_force = matches!(now, Some(Said::Done(setting)) if setting.is_same(wanted));
        let trouble = match (said, now) {
            (Some(Said::Refused(error)), _) if !is_in_force => format!("{place} refuses: {}", explain(*error)),
            (_, None) => format!("{place} does not answer any more: the edit may or may not be in force"),
            (_, Some(Said::Refused(error))) => {
                format!("{place} does not tell what is in force after the edit: {}", explain(*error))
            }
            _ if is_in_force => continue,
            (None, _) => format!("{place} did not answer to the edit, and it is not in force: see its log"),
            (Some(_), _) => format!("{place} is not as it was edited: somebody else edits it, try again"),
        };
        troubles.insert(trouble);
    }
    troubles
}

impl Setting {
    fn is_same(&self, other: &Self) -> bool {
        let set = |stations: &[MacAddr]| stations.iter().map(MacAddr::octets).collect::<BTreeSet<_>>();
        match (self, other) {
            (Self::Reservation(one), Self::Reservation(other)) => set(one) == set(other),
            (one, other) => one == other,
        }
    }
}

fn place(holder: &Holder) -> String {
    format!("{} at target {}", holder.address, holder.target)
}

/// An error code in words, with what to do.
fn explain(error: ErrorCode) -> String {
    let text = match error {
        ErrorCode::UnknownCommand => "it does not know this command (error 1)",
        ErrorCode::BadArgument => {
            "it does not take this (error 2): edits over the network are not allowed there, or it is too much for it"
        }
        ErrorCode::DeviceUnavailable => "its disk is gone or being removed (error 3): see its log",
        ErrorCode::ConfigPresent => {
            "it has a config string already (error 4), and \"set\" never replaces one; \"force\" does"
        }
        ErrorCode::UnsupportedVersion => "it speaks another version of AoE (error 5)",
        ErrorCode::Reserved => {
            "it is reserved for others (error 6); \"reserve list\" shows them, and \"force\" takes it from them"
        }
        ErrorCode::Unknown(code) => return format!("error {code}, which AoE does not define"),
    };
    text.to_owned()
}

fn mask(args: &Args, action: MaskAction) -> Result<ExitCode> {
    let devices: BTreeSet<_> = match args.device.is_wildcard() {
        true => find(args)?.1.into_keys().map(|(device, _)| device).collect(),
        false => [args.device].into(),
    };
    let count = devices.len();
    ensure!(count <= EXPORTS_MAX, "{} stands for {count} devices: {EXPORTS_MAX} are the most at a time", args.device);
    let devices: Vec<_> = devices.into_iter().collect();
    let mut masks = Masks::open(args.interfaces.clone(), &devices, Vec::new(), args.timeout)?;
    let mut lists = masks.read()?;
    let edit = match action {
        MaskAction::List => None,
        MaskAction::Add(stations) => Some((DirectiveCommand::Add, stations.macs)),
        MaskAction::Delete(stations) => Some((DirectiveCommand::Delete, stations.macs)),
    };
    let mut troubles = BTreeSet::new();
    if let Some((command, macs)) = edit {
        let directives = macs.iter().map(|mac| DirectiveRepr { command, mac: *mac }).collect();
        let before = lists;
        lists = masks.edit(directives).context("not every list is known to be changed")?;
        let is_wrong =
            |list: &&MaskList| macs.iter().any(|mac| list.stations.contains(mac) != (command == DirectiveCommand::Add));
        let wrong = lists.iter().filter(is_wrong);
        troubles.extend(wrong.map(|list| {
            format!("the list of {} at target {} is not as it was edited: try again", list.address, list.target)
        }));
        for (before, after) in before.iter().zip(&lists) {
            if !before.stations.is_empty() && after.stations.is_empty() {
                let text = format!("the list of {} is empty now: everybody is let in", after.address);
                complain(NAME, &text);
            }
        }
    }
    let rows: Vec<_> = lists.iter().map(Row::of_mask).collect();
    print(args.json, &rows, "heard", "everybody")?;
    Ok(end(&troubles))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xa);
    const B: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xb);

    fn parse(line: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([NAME].iter().chain(line))
    }

    fn action(line: &[&str]) -> Action {
        parse(line).unwrap().action.unwrap()
    }

    #[test]
    fn command_lines() {
        assert!(parse(&["e*.*"]).unwrap().action.is_none());
        let text = |action| match action {
            Action::Set(text) | Action::Force(text) | Action::Test(text) => text.bytes().unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(text(action(&["e0.1", "set", "mail spool"])), b"mail spool");
        assert_eq!(text(action(&["e0.1", "fset", ""])), b"");
        assert!(parse(&["e0.*", "force", "x", "--all", "--json"]).unwrap().all);
        assert!(parse(&["--json", "e0.1", "mask", "list", "-I", "eth1"]).unwrap().json);
        match action(&["e0.1", "mask", "add", "02:00:00:00:00:0a", "02000000000b"]) {
            Action::Mask { action: MaskAction::Add(stations) } => assert_eq!(stations.macs, [A, B]),
            other => panic!("{other:?}"),
        }
        for wrong in [
            &[][..],
            &["e0.1", "set"],
            &["e0.1", "set", "a", "b"],
            &["e0.1", "set", "a", "--file", "b"],
            &["e0.1", "mask"],
            &["e0.1", "mask", "add"],
            &["e0.1", "mask", "add", "ff:ff:ff:ff:ff:ff"],
            &["e0.1", "reserve", "set", "zz"],
            &["e0.1", "erase"],
        ] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }

    #[test]
    fn what_edits_is_known() {
        for line in ["read", "test x", "prefix x", "mask list", "reserve list"] {
            let words: Vec<_> = ["e0.1"].into_iter().chain(line.split(' ')).collect();
            assert!(!action(&words).edits(), "{line}");
        }
        let mac = "02:00:00:00:00:0a";
        for line in ["set x", "force x", "mask add", "mask delete", "reserve set", "reserve release", "reserve force"] {
            let mut words: Vec<_> = ["e0.1"].into_iter().chain(line.split(' ')).collect();
            words.extend(line.starts_with("mask").then_some(mac));
            assert!(action(&words).edits(), "{line}");
        }
    }

    #[test]
    fn strings_come_from_files_and_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("string");
        std::fs::write(&path, b"\xff\0").unwrap();
        let text = |file: &std::path::Path| Text { string: None, file: Some(file.to_owned()) };
        assert_eq!(text(&path).bytes().unwrap(), b"\xff\0");
        std::fs::write(&path, [b'x'; CONFIG_STRING_MAX + 1]).unwrap();
        assert!(text(&path).bytes().unwrap_err().to_string().contains("1024 bytes"));
        assert!(text(&folder.path().join("nothing")).bytes().unwrap_err().to_string().contains("nothing"));
    }

    fn judged(said: Option<Said>, after: Option<Said>, wanted: Setting) -> Vec<String> {
        let holder = Holder { address: Address::new(0, 1), target: A, ports: Vec::new() };
        judge(&[(holder.clone(), said)], &[(holder, after)], &wanted).into_iter().collect()
    }

    #[test]
    fn what_is_read_back_decides() {
        let config = |text: &str| Setting::Config(text.as_bytes().to_vec());
        let done = |text: &str| Some(Said::Done(config(text)));
        let refused = |error| Some(Said::Refused(error));
        assert!(judged(done("x"), done("x"), config("x")).is_empty());
        assert!(judged(None, done("x"), config("x")).is_empty(), "only the answer was lost");
        assert!(judged(refused(ErrorCode::ConfigPresent), done("x"), config("x")).is_empty());
        for (said, after, words) in [
            (refused(ErrorCode::ConfigPresent), done("y"), "\"force\" does"),
            (refused(ErrorCode::BadArgument), None, "not allowed there"),
            (done("x"), None, "may or may not"),
            (done("x"), refused(ErrorCode::UnknownCommand), "does not tell"),
            (None, done("y"), "did not answer to the edit"),
            (done("x"), done("y"), "somebody else"),
        ] {
            let troubles = judged(said, after, config("x"));
            assert!(troubles.len() == 1 && troubles[0].contains(words), "{words}: {troubles:?}");
            assert!(troubles[0].starts_with("e0.1 at target 02:00:00:00:00:0a "), "{troubles:?}");
        }
        let stations = |macs: &[MacAddr]| Setting::Reservation(macs.to_vec());
        assert!(judged(None, Some(Said::Done(stations(&[B, A]))), stations(&[A, B])).is_empty(), "in any order");
        assert_eq!(judged(None, Some(Said::Done(stations(&[]))), stations(&[A])).len(), 1);
    }

    #[test]
    fn rows_for_people_and_programs() {
        let rows = [
            Row::new(Address::new(0, 1), A, &Setting::Config(b"a\x1bb".to_vec())),
            Row::new(Address::new(0, 2), B, &Setting::Reservation(vec![A])),
        ];
        let json = serde_json::to_value(&rows).unwrap();
        assert_eq!((&json[0]["config"], &json[0]["stations"]), (&"a\\x1bb".into(), &serde_json::Value::Null));
        assert_eq!(json[1]["stations"][0], "02:00:00:00:00:0a");
    }
}
