//! What is on the screen: the latest look, the one before it for rates, and what the user has chosen.
//!
//! A value: looks and keys go in, a [`Board`] of tables comes out.

use std::time::Duration;

use aoe_common::target_status::{ExportStatus, InterfaceStatus, Latency, StationStatus, TargetStatus};

use super::rates::{Counters, Rates, rate};
use crate::status::{PathHealth, PathStatus, State, Status};
use aoe_common::text::{printable, size};

/// Rows that a page key moves by.
const PAGE: usize = 10;

/// What was found out at one moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Look {
    /// The disks that are attached here, by device and place.
    Attached(Vec<Status>),
    /// A target.
    Target(Box<TargetStatus>),
}

/// A key with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The row above.
    Up,
    /// The row below.
    Down,
    /// Some rows up.
    PageUp,
    /// Some rows down.
    PageDown,
    /// The first row.
    First,
    /// The last row.
    Last,
    /// What the keys and columns mean, or back.
    Help,
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct View {
    before: Option<(Duration, Look)>,
    now: Option<(Duration, Look)>,
    trouble: Option<String>,
    /// The row that is chosen, by its name: others may come and go. None: the first.
    chosen: Option<String>,
    help: bool,
}

/// A screen, in words.
#[derive(Clone, Debug, PartialEq)]
pub struct Board {
    /// What is looked at.
    pub headline: String,
    /// What is wrong with looking, if anything.
    pub trouble: Option<String>,
    /// What all rows share.
    pub above: Option<Sheet>,
    /// The rows to choose from.
    pub main: Sheet,
    /// The chosen row of `main`.
    pub chosen: usize,
    /// More about the chosen row.
    pub below: Option<Sheet>,
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    /// What it shows.
    pub title: String,
    /// Its columns.
    pub columns: &'static [Column],
    /// Its rows.
    pub rows: Vec<Row>,
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its head.
    pub title: &'static str,
    /// Words, which stand to the left; figures stand to the right.
    pub is_words: bool,
    /// Characters at the least, so that it does not jump.
    pub width: usize,
    /// Those of the highest rank are left out first when there is little room; rank 0 never.
    pub rank: u8,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is about; one row each.
    pub name: String,
    /// One text for each column.
    pub cells: Vec<String>,
    /// Whether it needs attention.
    pub tone: Tone,
}

/// Whether something needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// It does not.
    Fine,
    /// Somebody may want to know.
    Odd,
    /// It does.
    Bad,
}

const fn words(title: &'static str, width: usize, rank: u8) -> Column {
    Column { title, is_words: true, width, rank }
}

const fn column(title: &'static str, width: usize, rank: u8) -> Column {
    Column { title, is_words: false, width, rank }
}

const DISKS: &[Column] = &[
    words("device", 6, 0),
    words("where", 10, 5),
    words("state", 9, 0),
    column("size", 9, 4),
    column("read/s", 6, 0),
    column("write/s", 7, 0),
    column("r MiB/s", 7, 1),
    column("w MiB/s", 7, 1),
    column("r p50", 6, 3),
    column("r p99", 6, 2),
    column("w p50", 6, 3),
    column("w p99", 6, 2),
    column("resent/s", 8, 1),
    column("errors", 6, 1),
];

const PATHS: &[Column] = &[
    words("target", 17, 0),
    words("interface", 9, 0),
    words("state", 11, 0),
    column("RTT", 7, 0),
    column("window", 6, 1),
    column("in flight", 9, 1),
    column("resent/s", 8, 1),
    column("resent", 6, 2),
];

const EXPORTS: &[Column] = &[
    words("device", 6, 0),
    words("path", 10, 6),
    words("state", 9, 0),
    column("size", 9, 5),
    column("read/s", 6, 0),
    column("write/s", 7, 0),
    column("r MiB/s", 7, 1),
    column("w MiB/s", 7, 1),
    column("r p50", 6, 4),
    column("r p99", 6, 2),
    column("w p50", 6, 4),
    column("w p99", 6, 2),
    column("busy", 4, 3),
    column("again/s", 7, 3),
    column("errors", 6, 1),
];

const INTERFACES: &[Column] = &[
    words("interface", 9, 0),
    words("address", 17, 2),
    column("MTU", 5, 2),
    words("link", 4, 0),
    column("in/s", 7, 0),
    column("out/s", 7, 0),
    column("dropped", 7, 1),
];

const STATIONS: &[Column] = &[
    words("station", 17, 0),
    column("read/s", 6, 0),
    column("write/s", 7, 0),
    column("r MiB/s", 7, 1),
    column("w MiB/s", 7, 1),
    column("ignored", 7, 2),
];

impl View {
    /// Takes in a look at a moment, counted from any start; with what else is wrong.
    pub fn see(&mut self, at: Duration, look: Look, trouble: Option<String>) {
        self.before = self.now.replace((at, look));
        self.trouble = trouble;
    }

    /// Nothing can be seen now. The latest figures stay, without rates.
    pub fn lose_sight(&mut self, why: String) {
        self.before = None;
        self.trouble = Some(why);
    }

    /// The keys and columns are explained instead of the tables.
    pub fn explains(&self) -> bool {
        self.help
    }

    /// Takes in a key.
    pub fn press(&mut self, key: Key) {
        let Board { main, chosen, .. } = self.board();
        let last = main.rows.len().saturating_sub(1);
        let chosen = match key {
            Key::Help => {
                self.help = !self.help;
                return;
            }
            Key::Up => chosen.saturating_sub(1),
            Key::Down => (chosen + 1).min(last),
            Key::PageUp => chosen.saturating_sub(PAGE),
            Key::PageDown => (chosen + PAGE).min(last),
            Key::First => 0,
            Key::Last => last,
        };
        self.chosen = main.rows.get(chosen).map(|row| row.name.clone());
    }

    /// The screen as it is to be now.
    pub fn board(&self) -> Board {
        let mut board = match &self.now {
            None => Board {
                headline: "aoe-stat".to_owned(),
                trouble: None,
                above: None,
                main: Sheet { title: "looking".to_owned(), columns: DISKS, rows: Vec::new() },
                chosen: 0,
                below: None,
            },
            Some((at, Look::Attached(disks))) => self.attached(*at, disks),
            Some((at, Look::Target(target))) => self.target(*at, target),
        };
        board.trouble = self.trouble.clone();
        board
    }

    fn place_of_chosen(&self, rows: &[Row]) -> usize {
        rows.iter().position(|row| Some(&row.name) == self.chosen.as_ref()).unwrap_or(0)
    }

    fn attached(&self, at: Duration, disks: &[Status]) -> Board {
        let (seconds, before) = match &self.before {
            Some((then, Look::Attached(before))) => (at.saturating_sub(*then).as_secs_f64(), before.as_slice()),
            _ => (0.0, [].as_slice()),
        };
        let earlier = |disk: &Status| before.iter().find(|other| name(other) == name(disk) && other.pid == disk.pid);
        let rows = disks.iter().map(|disk| {
            let rates = earlier(disk).and_then(|before| Counters::from(disk).rates(&before.into(), seconds));
            disk_row(disk, rates.as_ref())
        });
        let rows: Vec<Row> = rows.collect();
        let chosen = self.place_of_chosen(&rows);
        let below = disks.get(chosen).map(|disk| {
            let before = earlier(disk).map_or(Vec::new(), |before| before.paths.clone());
            let rows = disk.paths.iter().map(|path| path_row(path, &before, seconds)).collect();
            Sheet { title: format!("paths of {}", disk.device), columns: PATHS, rows }
        });
        let headline = format!("aoe-stat  attached disks of this host: {}", disks.len());
        let title = if rows.is_empty() { "nothing is attached" } else { "disks" };
        let main = Sheet { title: title.to_owned(), columns: DISKS, rows };
        Board { headline, trouble: None, above: None, main, chosen, below }
    }

    fn target(&self, at: Duration, target: &TargetStatus) -> Board {
        let (seconds, before) = match &self.before {
            Some((then, Look::Target(before))) if before.pid == target.pid => {
                (at.saturating_sub(*then).as_secs_f64(), Some(before))
            }
            _ => (0.0, None),
        };
        let interfaces = target.interfaces.iter().map(|interface| {
            let earlier = before.and_then(|it| it.interfaces.iter().find(|other| other.name == interface.name));
            interface_row(interface, earlier, seconds)
        });
        let interfaces = Sheet { title: "interfaces".to_owned(), columns: INTERFACES, rows: interfaces.collect() };
        let earlier = |export: &ExportStatus| before?.exports.iter().find(|other| other.device == export.device);
        let rows = target.exports.iter().map(|export| {
            let rates = earlier(export).and_then(|before| Counters::from(export).rates(&before.into(), seconds));
            export_row(export, rates.as_ref())
        });
        let rows: Vec<Row> = rows.collect();
        let chosen = self.place_of_chosen(&rows);
        let below = target.exports.get(chosen).map(|export| {
            let before = earlier(export).map_or(Vec::new(), |before| before.stations.clone());
            let rows = export.stations.iter().map(|station| station_row(station, &before, seconds)).collect();
            Sheet { title: format!("stations of {}", export.device), columns: STATIONS, rows }
        });
        let TargetStatus { version, pid, malformed, no_buffer, .. } = target;
        let draining = if target.draining { ", draining" } else { "" };
        let missing = match target.not_served.len() {
            0 => String::new(),
            count => format!(", {count} not served"),
        };
        let age = age(target.since_s);
        let headline = format!(
            "aoe-target {version}  process {pid}, up {age}{draining}{missing}  malformed {malformed}, no buffer {no_buffer}"
        );
        let title = if rows.is_empty() { "no exports" } else { "exports" };
        let main = Sheet { title: title.to_owned(), columns: EXPORTS, rows };
        Board { headline, trouble: None, above: Some(interfaces), main, chosen, below }
    }
}

// ---- Rows ------------------------------------------------------------------------------------------------------------

fn name(disk: &Status) -> String {
    format!("{} {}", disk.device, disk.place)
}

fn disk_row(disk: &Status, rates: Option<&Rates>) -> Row {
    let tone = match disk.state {
        State::Up => Tone::Fine,
        State::Searching => Tone::Odd,
        State::Dead => Tone::Bad,
    };
    let [reads, writes, read_mib, write_mib, again] = figures(rates);
    let [r50, r99, w50, w99] = latencies(rates);
    let place = tail(&disk.place, 18);
    let (state, bytes, errors) = (disk.state.name().to_owned(), size(disk.size_bytes), count(disk.errors));
    let device = disk.device.to_string();
    let cells = [device, place, state, bytes, reads, writes, read_mib, write_mib, r50, r99, w50, w99, again, errors];
    Row { name: name(disk), cells: cells.into(), tone }
}

fn path_row(path: &PathStatus, before: &[PathStatus], seconds: f64) -> Row {
    let PathStatus { mac, interface, window, in_flight, resends, .. } = path;
    let earlier = before.iter().find(|other| (&other.mac, &other.interface) == (mac, interface));
    let again = earlier.and_then(|before| rate(*resends, before.resends, seconds));
    let tone = match path.state {
        PathHealth::Up => Tone::Fine,
        PathHealth::Identifying => Tone::Odd,
        PathHealth::Failed | PathHealth::Foreign => Tone::Bad,
    };
    let cells = [
        mac.clone(),
        printable(interface.as_bytes()),
        path.state.name().to_owned(),
        path.rtt_us.map_or_else(unknown, time),
        window.to_string(),
        in_flight.to_string(),
        figure(again),
        count(*resends),
    ];
    Row { name: format!("{mac} {interface}"), cells: cells.into(), tone }
}

fn export_row(export: &ExportStatus, rates: Option<&Rates>) -> Row {
    let (state, tone) = match export {
        ExportStatus { lost: Some(_), .. } => ("lost".to_owned(), Tone::Bad),
        ExportStatus { draining: true, .. } => ("draining".to_owned(), Tone::Odd),
        ExportStatus { held_s: Some(seconds), .. } => (format!("held {seconds} s"), Tone::Odd),
        ExportStatus { read_only: true, .. } => ("read-only".to_owned(), Tone::Fine),
        _ => ("up".to_owned(), Tone::Fine),
    };
    let [reads, writes, read_mib, write_mib, again] = figures(rates);
    let [r50, r99, w50, w99] = latencies(rates);
    let path = tail(&printable(export.path.as_bytes()), 24);
    let (bytes, busy, errors) = (size(export.size_bytes), count(export.in_flight), count(export.errors));
    let device = export.device.to_string();
    let cells =
        [device, path, state, bytes, reads, writes, read_mib, write_mib, r50, r99, w50, w99, busy, again, errors];
    Row { name: export.device.to_string(), cells: cells.into(), tone }
}

fn interface_row(interface: &InterfaceStatus, before: Option<&InterfaceStatus>, seconds: f64) -> Row {
    let InterfaceStatus { name, mac, mtu, up, received, sent, kernel_drops } = interface;
    let received = before.and_then(|before| rate(*received, before.received, seconds));
    let sent = before.and_then(|before| rate(*sent, before.sent, seconds));
    let cells = [
        printable(name.as_bytes()),
        mac.clone(),
        mtu.to_string(),
        if *up { "up" } else { "down" }.to_owned(),
        figure(received),
        figure(sent),
        count(*kernel_drops),
    ];
    Row { name: name.clone(), cells: cells.into(), tone: if *up { Tone::Fine } else { Tone::Bad } }
}

fn station_row(station: &StationStatus, before: &[StationStatus], seconds: f64) -> Row {
    let StationStatus { mac, reads, read_bytes, writes, write_bytes, ignored, .. } = station;
    let earlier = before.iter().find(|other| other.mac == *mac);
    let rate_of = |now: u64, then: fn(&StationStatus) -> u64| earlier.and_then(|it| rate(now, then(it), seconds));
    let cells = [
        mac.clone(),
        figure(rate_of(*reads, |it| it.reads)),
        figure(rate_of(*writes, |it| it.writes)),
        figure(rate_of(*read_bytes, |it| it.read_bytes).map(mib)),
        figure(rate_of(*write_bytes, |it| it.write_bytes).map(mib)),
        count(*ignored),
    ];
    Row { name: mac.clone(), cells: cells.into(), tone: if *ignored > 0 { Tone::Odd } else { Tone::Fine } }
}

// ---- Cells -----------------------------------------------------------------------------------------------------------

/// Reads, writes, MiB read and written, and frames again, each a second.
fn figures(rates: Option<&Rates>) -> [String; 5] {
    let of = |value: fn(&Rates) -> f64| figure(rates.map(value));
    [
        of(|rates| rates.reads),
        of(|rates| rates.writes),
        of(|rates| mib(rates.read_bytes)),
        of(|rates| mib(rates.write_bytes)),
        of(|rates| rates.again),
    ]
}

/// Half and 99 of a hundred reads, then writes, took no longer than this.
fn latencies(rates: Option<&Rates>) -> [String; 4] {
    let of = |latency: Option<Latency>, share| latency.and_then(|it| it.below(share)).map_or_else(unknown, time);
    let (read, write) = (rates.map(|rates| rates.read_latency), rates.map(|rates| rates.write_latency));
    [of(read, 0.5), of(read, 0.99), of(write, 0.5), of(write, 0.99)]
}

fn unknown() -> String {
    "-".to_owned()
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

/// A rate in at most six characters.
fn figure(value: Option<f64>) -> String {
    match value {
        None => unknown(),
        Some(0.0) => "0".to_owned(),
        Some(value) if value < 99.95 => format!("{value:.1}"),
        Some(value) if value < 999_999.5 => format!("{value:.0}"),
        Some(value) => format!("{:.1}M", value / 1e6),
    }
}

/// A counter in at most six characters.
fn count(value: u64) -> String {
    match value {
        0..1_000_000 => value.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1}M", value as f64 / 1e6),
        _ => format!("{:.1e}", value as f64),
    }
}

/// A time in at most six characters.
fn time(microseconds: u64) -> String {
    match microseconds {
        0..1000 => format!("{microseconds}us"),
        1000..10_000 => format!("{:.1}ms", microseconds as f64 / 1e3),
        10_000..1_000_000 => format!("{}ms", microseconds / 1000),
        _ => format!("{:.1}s", microseconds as f64 / 1e6),
    }
}

fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// The end of a text, which tells more of a path than its start.
fn tail(text: &str, length: usize) -> String {
    let count = text.chars().count();
    if count <= length {
        return text.to_owned();
    }
    let end: String = text.chars().skip(count + 2 - length).collect();
    format!("..{end}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::status::tests::status;
    use aoe_common::addr::Address;
    use aoe_common::target_status::{EditorsStatus, EditsStatus, NotServed};

    /// A disk after so many reads of 4 KiB, each of which took 100 us.
    pub fn disk(slot: u8, reads: u64) -> Status {
        let mut disk = Status {
            device: Address::new(0, slot),
            place: format!("/dev/nbd{slot}"),
            reads,
            read_bytes: reads * 4096,
            ..status()
        };
        disk.read_latency.buckets[7] = reads;
        disk
    }

    pub fn export(slot: u8, writes: u64) -> ExportStatus {
        let station = StationStatus {
            mac: "02:00:00:00:00:0a".into(),
            reads: 0,
            read_bytes: 0,
            writes,
            write_bytes: writes * 8192,
            ignored: 0,
        };
        let mut export = ExportStatus {
            device: Address::new(0, slot),
            path: format!("/srv/images/disk-{slot:03}.img"),
            size_bytes: 1 << 30,
            read_only: false,
            cache: "auto".into(),
            direct: false,
            buffers: 64,
            serial: "S".into(),
            allow: Vec::new(),
            mask: Vec::new(),
            reservation: Vec::new(),
            config_string: String::new(),
            edits: EditsStatus {
                config: EditorsStatus::all(),
                mask: EditorsStatus::all(),
                reservation: EditorsStatus::all(),
            },
            lost: None,
            held_s: None,
            draining: false,
            in_flight: 3,
            reads: 0,
            read_bytes: 0,
            writes,
            write_bytes: writes * 8192,
            flushes: 0,
            trims: 0,
            errors: 0,
            repeats: 0,
            stale: 0,
            held: 0,
            waits: 0,
            refused: 0,
            edits_refused: 0,
            overflows: 0,
            read_latency: Latency::default(),
            write_latency: Latency::default(),
            flush_latency: Latency::default(),
            stations: vec![station],
        };
        export.write_latency.buckets[11] = writes;
        export
    }

    pub fn target(pid: u32, exports: Vec<ExportStatus>) -> Look {
        let interface = InterfaceStatus {
            name: "eth1".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: 9000,
            up: true,
            received: exports.iter().map(|export| export.writes).sum(),
            sent: 0,
            kernel_drops: 0,
        };
        let target = TargetStatus { version: "0.1.0".into(), pid, since_s: 3700, exports, ..TargetStatus::default() };
        Look::Target(Box::new(TargetStatus { interfaces: vec![interface], ..target }))
    }

    /// A view that has seen two looks, two seconds apart.
    pub fn view(looks: [Look; 2]) -> View {
        let mut view = View::default();
        for (number, look) in (1..).zip(looks) {
            view.see(Duration::from_secs(2 * number), look, None);
        }
        view
    }

    pub fn cell<'a>(sheet: &'a Sheet, row: usize, title: &str) -> &'a str {
        let column = sheet.columns.iter().position(|column| column.title == title).expect("a column");
        assert_eq!(sheet.rows[row].cells.len(), sheet.columns.len());
        &sheet.rows[row].cells[column]
    }

    #[test]
    fn attached_disks_have_rates_and_paths() {
        let mut after = disk(1, 2000);
        after.paths[0].resends += 4;
        let view = view([Look::Attached(vec![disk(1, 1000)]), Look::Attached(vec![after, disk(2, 5)])]);
        let Board { main, below, .. } = view.board();
        assert_eq!((cell(&main, 0, "read/s"), cell(&main, 0, "write/s")), ("500", "0"));
        assert_eq!(
            (cell(&main, 0, "r MiB/s"), cell(&main, 0, "r p99"), cell(&main, 0, "w p99")),
            ("2.0", "128us", "-")
        );
        assert_eq!((cell(&main, 1, "read/s"), cell(&main, 1, "state")), ("-", "up"), "it has just come");
        let below = below.unwrap();
        assert_eq!((cell(&below, 0, "target"), cell(&below, 0, "resent/s")), ("02:00:00:00:00:02", "2.0"));
        assert_eq!(
            (cell(&below, 0, "RTT"), cell(&below, 0, "window"), cell(&below, 0, "in flight")),
            ("120us", "16", "1")
        );
    }

    #[test]
    fn a_target_has_interfaces_exports_and_stations() {
        let view = view([target(1, vec![export(1, 100)]), target(1, vec![export(1, 300)])]);
        let Board { headline, above, main, below, .. } = view.board();
        assert!(headline.starts_with("aoe-target 0.1.0  process 1, up 1 h 1 min"), "{headline}");
        assert_eq!(cell(&above.unwrap(), 0, "in/s"), "100");
        assert_eq!((cell(&main, 0, "write/s"), cell(&main, 0, "w p50"), cell(&main, 0, "busy")), ("100", "2.0ms", "3"));
        assert_eq!(cell(&below.unwrap(), 0, "w MiB/s"), "0.8");
    }

    #[test]
    fn a_target_that_was_started_anew_has_no_rates_at_first() {
        let anew = [target(1, vec![export(1, 300)]), target(2, vec![export(1, 10)])];
        assert_eq!(cell(&view(anew).board().main, 0, "write/s"), "-");
        let same_number = [target(1, vec![export(1, 300)]), target(1, vec![export(1, 10)])];
        assert_eq!(cell(&view(same_number).board().main, 0, "write/s"), "-");
    }

    #[test]
    fn the_latest_figures_stay_when_sight_is_lost() {
        let mut view = view([target(1, vec![export(1, 100)]), target(1, vec![export(1, 300)])]);
        view.lose_sight("no aoe-target answers".into());
        let board = view.board();
        assert_eq!(board.trouble.as_deref(), Some("no aoe-target answers"));
        assert_eq!((cell(&board.main, 0, "device"), cell(&board.main, 0, "write/s")), ("e0.1", "-"));
        view.see(Duration::from_secs(9), target(2, vec![export(1, 0)]), None);
        assert_eq!(view.board().trouble, None);
    }

    #[test]
    fn the_chosen_disk_stays_chosen_while_others_come_and_go() {
        let mut view = view([Look::Attached(vec![]), Look::Attached((1..=40).map(|slot| disk(slot, 0)).collect())]);
        assert_eq!(view.board().chosen, 0);
        for (key, chosen) in [
            (Key::Up, 0),
            (Key::Down, 1),
            (Key::PageDown, 11),
            (Key::Last, 39),
            (Key::Down, 39),
            (Key::PageUp, 29),
            (Key::First, 0),
            (Key::PageDown, 10),
        ] {
            view.press(key);
            assert_eq!(view.board().chosen, chosen, "{key:?}");
        }
        view.see(Duration::from_secs(6), Look::Attached((5..=40).map(|slot| disk(slot, 0)).collect()), None);
        assert_eq!(view.board().chosen, 6);
        assert_eq!(view.board().below.unwrap().title, "paths of e0.11");
        view.see(Duration::from_secs(8), Look::Attached(vec![disk(1, 0)]), None);
        assert_eq!(view.board().chosen, 0);
        view.see(Duration::from_secs(9), Look::Attached(vec![]), None);
        view.press(Key::Down);
        assert_eq!(view.board().main.title, "nothing is attached");
    }

    #[test]
    fn what_a_target_cannot_open_is_in_the_headline() {
        let missing =
            NotServed { device: Address::new(0, 9), path: "/srv/9.img".into(), reason: "no such file".into() };
        let Look::Target(mut status) = target(1, vec![export(1, 0)]) else { panic!("a target") };
        status.not_served = vec![missing];
        let headline = view([target(1, vec![]), Look::Target(status)]).board().headline;
        assert!(headline.contains(", 1 not served  malformed 0"), "{headline}");
    }

    #[test]
    fn states_that_need_attention_stand_out() {
        let exports = vec![
            ExportStatus { lost: Some("EIO".into()), ..export(1, 0) },
            ExportStatus { held_s: Some(9), ..export(2, 0) },
            ExportStatus { read_only: true, ..export(3, 0) },
        ];
        let main = view([target(1, vec![]), target(1, exports)]).board().main;
        let told: Vec<_> = (0..3).map(|row| (cell(&main, row, "state"), main.rows[row].tone)).collect();
        assert_eq!(told, [("lost", Tone::Bad), ("held 9 s", Tone::Odd), ("read-only", Tone::Fine)]);
    }

    #[test]
    fn cells_stay_short() {
        for (value, text) in
            [(0.0, "0"), (0.25, "0.2"), (99.94, "99.9"), (99.96, "100"), (123_456.0, "123456"), (2.5e6, "2.5M")]
        {
            assert_eq!(figure(Some(value)), text);
        }
        assert_eq!([999_999, 2_500_000, u64::MAX].map(count), ["999999", "2.5M", "1.8e19"]);
        assert_eq!([0, 512, 2048, 65_536, 1 << 24].map(time), ["0us", "512us", "2.0ms", "65ms", "16.8s"]);
        assert_eq!(tail("/srv/images/disk-001.img", 10), "..-001.img");
        assert_eq!([5, 61, 90_000].map(age), ["5 s", "1 min", "1 d 1 h"]);
    }
}
