//! `fence_aoe`: shuts the stations of a cluster node out of AoE exports, and lets them in again.
//!
//! A fence agent as ClusterLabs describes them: options come from the command line or, when there are none, as
//! `name=value` lines from standard input. It fences by the exports' mask lists. It changes nothing unless every list
//! at every target can be changed as asked, and reports success only when every target has confirmed the edit and the
//! list read back says so too.

mod metadata;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aoe_common::addr::Address;
use aoe_common::wire::{DirectiveCommand, DirectiveRepr, MacAddr};
use clap::{CommandFactory, Parser, ValueEnum};

use super::{FAILED, complain, device, finish, seconds, show, station};
use crate::engine::{DIRECTIVES_MAX, EXPORTS_MAX, MaskList, TARGETS_MAX};
use crate::log;
use crate::masks::Masks;

const NAME: &str = "fence_aoe";

/// `status`: the stations are shut out.
const IS_OFF: u8 = 2;

/// Bytes that are read from standard input at the most.
const INPUT_MAX: u64 = 64 << 10;

// Lines fit the 100 columns that help is wrapped to where the width is not known.
const HELP: &str = "\
A target hears only the stations on an export's mask list, or everybody when the list is empty.
\"off\" takes the node's stations off the lists, and \"on\" puts them back, at every target that serves
the exports. Both succeed when nothing is to be changed. \"off\" is refused, and nothing is changed,
when a list is empty or would become empty: that would let everybody in.

A node that is shut out cannot put itself back, since targets no longer hear it: run \"on\" from
another node, and reset the node before: it still holds old writes and sends them again. Name the
targets with --targets where an export has several: only then is one noticed that is down, or that
has shut out this very host, and of two nodes that fence each other at most one succeeds.

Without options on the command line, options are read from standard input: one name=value a line,
such as action=off. \"port\" is another name for \"plug\" there; names that are not known are ignored.

Examples:
  Start the lists, with the stations of all nodes, this one among them:
      fence_aoe -o on --create -d e0.1,e0.2 -n 02:00:00:00:00:0a,02:00:00:00:00:0b

  Shut a node out, see that it is, and let it in again:
      fence_aoe -o off -d e0.1,e0.2 -n 02:00:00:00:00:0b
      fence_aoe -o status -d e0.1,e0.2 -n 02:00:00:00:00:0b
      fence_aoe -o on -d e0.1,e0.2 -n 02:00:00:00:00:0b

  In /etc/dlm/dlm.conf:
      device  aoe /usr/local/bin/fence_aoe devices=e0.1,e0.2 targets=02:00:00:00:00:01
      connect aoe node=1 plug=02:00:00:00:00:0a
      connect aoe node=2 plug=02:00:00:00:00:0b

Exit codes:
  0  done; for status: every station is let in everywhere
  1  not done, or not known to be; wrong usage; for status: let in at one place, not at another
  2  for status only: every station is shut out everywhere";

/// Fences cluster nodes by the MAC mask lists of AoE exports.
#[derive(Clone, Debug, Parser)]
#[command(name = NAME, version, after_help = HELP)]
pub struct Args {
    /// What to do
    #[arg(long, short = 'o', value_enum, ignore_case = true, default_value_t = Action::Off)]
    action: Action,

    /// The node's stations, also written 02-00-00-00-00-0a or 02000000000a
    #[arg(long, short = 'n', value_delimiter = ',', value_parser = station, value_name = "MAC[,MAC]...")]
    plug: Vec<MacAddr>,

    /// The exports, such as e0.1
    #[arg(long, short = 'd', value_delimiter = ',', value_parser = device, value_name = "DEVICE[,DEVICE]...")]
    devices: Vec<Address>,

    /// Targets that each have to serve and confirm every export; others that answer have to as well
    /// [default: those that answer, at least one for each export]
    #[arg(long, value_delimiter = ',', value_parser = station, value_name = "MAC[,MAC]...")]
    targets: Vec<MacAddr>,

    /// Ask on these interfaces only [default: every Ethernet interface that is up]
    #[arg(long, short = 'i', value_delimiter = ',', value_name = "NAME[,NAME]...")]
    interface: Vec<String>,

    /// How long all of it may take
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    timeout: Duration,

    /// Wait so long before "off" does anything; in a cluster of two, what is asked to wait loses the race
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    delay: Duration,

    /// Let "on" start lists that are empty: from then on, only the stations of --plug are let in
    #[arg(long)]
    create: bool,

    /// Tell what is going on
    #[arg(long, short)]
    verbose: bool,
}

/// `--action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Put the node's stations on the lists
    On,
    /// Take the node's stations off the lists
    Off,
    /// Tell whether the node's stations are let in
    Status,
    /// See whether all targets answer and tell their lists
    Monitor,
    /// Print the stations on the lists
    List,
    /// Describe this program in XML
    Metadata,
    /// Check the options, and nothing else
    ValidateAll,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = match typed() {
        Ok(args) => args,
        Err(error) => return finish(NAME, Err(error)),
    };
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { FAILED } else { 0 });
        }
    };
    log::to_stderr(if args.verbose { "debug" } else { "warn" });
    finish(NAME, args.check().and_then(|()| run(args)))
}

/// The command line; without options on it, what standard input says.
fn typed() -> Result<Vec<OsString>> {
    let typed: Vec<_> = std::env::args_os().collect();
    if typed.len() > 1 {
        return Ok(typed);
    }
    ensure!(!io::stdin().is_terminal(), "no options: see \"{NAME} --help\"");
    let mut text = String::new();
    io::stdin().take(INPUT_MAX + 1).read_to_string(&mut text).context("cannot read options from standard input")?;
    ensure!(text.len() as u64 <= INPUT_MAX, "more than {INPUT_MAX} bytes on standard input");
    Ok(std::iter::once(NAME.to_owned()).chain(options(&text)).map(OsString::from).collect())
}

/// `name=value` lines as the options they stand for. Of lines with one name the last one counts.
fn options(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let mut given: BTreeMap<_, _> = lines.filter_map(|line| line.split_once('=')).collect();
    for (name, other) in [("action", "option"), ("plug", "port")] {
        if let Some(value) = given.remove(other) {
            given.entry(name).or_insert(value);
        }
    }
    let command = Args::command();
    let known = command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg.get_action().takes_values())));
    let given = known.filter_map(|(name, has_value)| match *given.get(name)? {
        "" => None,
        value if has_value => Some(format!("--{name}={value}")),
        value => is_true(value).then(|| format!("--{name}")),
    });
    given.collect()
}

fn is_true(value: &str) -> bool {
    ["1", "yes", "on", "true"].contains(&value.to_ascii_lowercase().as_str())
}

impl Args {
    /// What the action needs is there, and not too much of it.
    fn check(&self) -> Result<()> {
        let needs_devices = self.action != Action::Metadata;
        let needs_plug = matches!(self.action, Action::On | Action::Off | Action::Status);
        ensure!(!needs_devices || !self.devices.is_empty(), "which exports? name them with --devices, such as e0.1");
        ensure!(!needs_plug || !self.plug.is_empty(), "which stations? name the node's MAC addresses with --plug");
        for (option, count, max) in [
            ("devices", self.devices.len(), EXPORTS_MAX),
            ("plug", self.plug.len(), DIRECTIVES_MAX),
            ("targets", self.targets.len(), TARGETS_MAX),
        ] {
            ensure!(count <= max, "--{option} names {count}: {max} are the most");
        }
        Ok(())
    }
}

fn run(args: Args) -> Result<ExitCode> {
    match args.action {
        Action::Metadata => return show(&metadata::xml(&Args::command())).map(|()| ExitCode::SUCCESS),
        Action::ValidateAll => return Ok(ExitCode::SUCCESS),
        _ => {}
    }
    if args.action == Action::Off {
        sleep(args.delay);
    }
    let mut masks = Masks::open(args.interface, &args.devices, args.targets, args.timeout)?;
    let lists = masks.read()?;
    match args.action {
        Action::On | Action::Off => {
            let change = Change { on: args.action == Action::On, create: args.create, plug: args.plug };
            change.check(&lists)?;
            let after = masks.edit(change.directives()).context("not every list is known to be changed")?;
            change.verify(&after)?;
            let stations = texts(&change.plug).join(", ");
            let done = if change.on { "let in to" } else { "shut out of" };
            show(&format!("Success: {stations} {done} {}", places(&after)))?;
        }
        Action::Status => return status(&lists, &args.plug),
        Action::List => {
            let stations: BTreeSet<_> = lists.iter().flat_map(|list| texts(&list.stations)).collect();
            stations.iter().try_for_each(|station| show(&format!("{station},")))?;
        }
        Action::Monitor => {
            for list in lists.iter().filter(|list| list.stations.is_empty()) {
                complain(NAME, &format!("{} is empty: nobody can be shut out until it is started", place(list)));
            }
        }
        Action::Metadata | Action::ValidateAll => unreachable!("they ask no target"),
    }
    Ok(ExitCode::SUCCESS)
}

/// How stations are to fare on all lists.
struct Change {
    on: bool,
    create: bool,
    plug: Vec<MacAddr>,
}

impl Change {
    fn directives(&self) -> Vec<DirectiveRepr> {
        let command = if self.on { DirectiveCommand::Add } else { DirectiveCommand::Delete };
        self.plug.iter().map(|mac| DirectiveRepr { command, mac: *mac }).collect()
    }

    /// No list would let in, or shut out, others than those meant.
    fn check(&self, lists: &[MaskList]) -> Result<()> {
        let directives = self.directives();
        for list in lists {
            let place = place(list);
            let start = format!(
                "first start it with the stations of all nodes: {NAME} -o on --create -d {} -n MAC,MAC...",
                list.address
            );
            match (self.on, list.stations.is_empty()) {
                (true, true) if !self.create => {
                    bail!("{place} is empty, so every station is let in, and adding some shuts out all others; {start}")
                }
                (false, true) => bail!("{place} is empty, so nobody can be shut out; {start}"),
                (false, false) if list.after(&directives).is_empty() => {
                    bail!(
                        "{place} would become empty, which lets everybody in; first put a station of another node on \
                         it: {NAME} -o on -d {} -n MAC",
                        list.address
                    )
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Every list, read back, is as it should be.
    fn verify(&self, lists: &[MaskList]) -> Result<()> {
        let wanted = if self.on { Standing::In } else { Standing::Out };
        match lists.iter().find(|list| standing(list, &self.plug) != wanted || list.stations.is_empty()) {
            Some(list) => bail!("{} is not as it was edited: somebody else edits it, try again", place(list)),
            None => Ok(()),
        }
    }
}

/// How stations fare on a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    In,
    Out,
    /// Some are let in.
    Partly,
}

fn standing(list: &MaskList, plug: &[MacAddr]) -> Standing {
    let count = plug.iter().filter(|mac| list.stations.contains(mac)).count();
    match count {
        _ if list.stations.is_empty() || count == plug.len() => Standing::In,
        0 => Standing::Out,
        _ => Standing::Partly,
    }
}

fn status(lists: &[MaskList], plug: &[MacAddr]) -> Result<ExitCode> {
    let are = |wanted| lists.iter().all(|list| standing(list, plug) == wanted);
    if are(Standing::In) {
        show("Status: ON")?;
        return Ok(ExitCode::SUCCESS);
    }
    if are(Standing::Out) {
        show("Status: OFF")?;
        return Ok(ExitCode::from(IS_OFF));
    }
    let each = lists.iter().map(|list| {
        let standing = match standing(list, plug) {
            Standing::In => "on",
            Standing::Out => "off",
            Standing::Partly => "on for some stations only",
        };
        format!("{} at target {} {standing}", list.address, list.target)
    });
    bail!("neither on nor off: {}", each.collect::<Vec<_>>().join(", "))
}

fn place(list: &MaskList) -> String {
    format!("the list of {} at target {}", list.address, list.target)
}

/// Where lists are, in short.
fn places(lists: &[MaskList]) -> String {
    let each: Vec<_> = lists.iter().map(|list| format!("{} at {}", list.address, list.target)).collect();
    each.join(", ")
}

fn texts(stations: &[MacAddr]) -> Vec<String> {
    stations.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xa);
    const B: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xb);
    const C: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xc);

    fn lists(lists: &[&[MacAddr]]) -> Vec<MaskList> {
        let list = |(number, stations): (usize, &&[MacAddr])| MaskList {
            address: Address::new(0, 1),
            target: MacAddr(2, 0, 0, 0, 1, number as u8),
            stations: stations.to_vec(),
        };
        lists.iter().enumerate().map(list).collect()
    }

    fn change(on: bool, create: bool, plug: &[MacAddr]) -> Change {
        Change { on, create, plug: plug.to_vec() }
    }

    /// The options that lines of standard input lead to.
    fn input(text: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once(NAME.to_owned()).chain(options(text)))
    }

    #[test]
    fn input_as_clusters_write_it() {
        let args = input("devices=e0.1,e0.2\n\nplug=02:00:00:00:00:0a\nnode=1\nfail_time=1700000000\n").unwrap();
        assert_eq!((args.action, args.plug.as_slice()), (Action::Off, &[A][..]), "to fence is what is asked for");
        assert_eq!(args.devices, [Address::new(0, 1), Address::new(0, 2)]);
        args.check().unwrap();

        let args =
            input("# a comment=1\n action=ON \nport=02000000000a\ncreate=1\nverbose=0\nlogin_timeout=x\nno line\n");
        let args = args.unwrap();
        assert_eq!((args.action, args.plug.as_slice(), args.create, args.verbose), (Action::On, &[A][..], true, false));
        assert!(args.check().unwrap_err().to_string().contains("--devices"));

        let args =
            input("plug=02-00-00-00-00-0a\nport=node1\nplug=02:00:00:00:00:0b\noption=status\ntargets=\n").unwrap();
        assert_eq!((args.action, args.plug, args.targets), (Action::Status, vec![B], vec![]));
    }

    #[test]
    fn wrong_input() {
        for wrong in ["action=reboot", "plug=node1", "plug=ff:ff:ff:ff:ff:ff", "devices=e0.*", "timeout=soon"] {
            assert!(input(wrong).is_err(), "{wrong}");
        }
        let many: Vec<_> = (0..=EXPORTS_MAX).map(|slot| format!("e0.{slot}")).collect();
        let args = input(&format!("action=monitor\ndevices={}", many.join(","))).unwrap();
        assert!(args.check().unwrap_err().to_string().contains("64 are the most"));
        let args = input("action=off\ndevices=e0.1").unwrap();
        assert!(args.check().unwrap_err().to_string().contains("--plug"));
    }

    #[test]
    fn nobody_is_shut_out_of_what_is_open_to_all() {
        let error = change(false, false, &[B]).check(&lists(&[&[A, B], &[]])).unwrap_err().to_string();
        assert!(error.contains("02:00:00:00:01:01 is empty") && error.contains("--create"), "{error}");
        let error = change(true, false, &[B]).check(&lists(&[&[]])).unwrap_err().to_string();
        assert!(error.contains("shuts out all others") && error.contains("--create"), "{error}");
        change(true, true, &[A, B]).check(&lists(&[&[], &[A]])).unwrap();
    }

    #[test]
    fn the_last_station_stays() {
        let error = change(false, false, &[A, B]).check(&lists(&[&[A, B, C], &[B, A]])).unwrap_err().to_string();
        assert!(error.contains("02:00:00:00:01:01 would become empty"), "{error}");
        change(false, false, &[B]).check(&lists(&[&[A, B], &[A]])).unwrap();
    }

    #[test]
    fn what_is_read_back_decides() {
        let off = change(false, false, &[A, B]);
        off.verify(&lists(&[&[C]])).unwrap();
        for wrong in [&lists(&[&[C], &[]]), &lists(&[&[C], &[C, B]])] {
            assert!(off.verify(wrong).is_err(), "{wrong:?}");
        }
        let on = change(true, true, &[A, B]);
        on.verify(&lists(&[&[C, B, A]])).unwrap();
        for wrong in [&lists(&[&[C, B]]), &lists(&[&[]])] {
            assert!(on.verify(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn status_is_about_all_stations_everywhere() {
        assert_eq!(status(&lists(&[&[A, B], &[]]), &[A, B]).unwrap(), ExitCode::SUCCESS);
        assert_eq!(status(&lists(&[&[C], &[C]]), &[A, B]).unwrap(), ExitCode::from(IS_OFF));
        let error = status(&lists(&[&[A, B], &[C], &[A]]), &[A, B]).unwrap_err().to_string();
        assert!(error.contains("01:00 on, ") && error.contains("01:01 off") && error.contains("01:02 on for some"));
    }
}
