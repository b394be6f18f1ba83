//! The figures of a target as Prometheus reads them (OpenMetrics text). Counters start with the process.
//!
//! How many series there are is bounded by what is served: some 110 for an export, 5 for each of its stations that are
//! shown ([`STATIONS_SHOWN`], the busiest, and [`ALL_STATIONS_SHOWN`] of all exports together), 5 for an interface. A
//! station that shows up on the wire cannot make more.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use aoe_common::scrape::{Endpoint, Scrape};
use aoe_common::target_status::{EditorsStatus, ExportStatus, LATENCY_BUCKETS, Latency, StationStatus, TargetStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::{mpsc, oneshot};

use crate::sandbox::{Role, Sandbox};

/// Stations of one export with figures of their own.
const STATIONS_SHOWN: usize = 64;

/// Stations of all exports with figures of their own.
const ALL_STATIONS_SHOWN: usize = 4096;

/// The page that is scraped, and the thread that shows it.
pub(crate) struct Page {
    scrape: Arc<Scrape>,
    thread: JoinHandle<()>,
}

/// Where the figures go that a scrape waits for.
pub(crate) type Asked = oneshot::Sender<TargetStatus>;

impl Page {
    /// Takes the address and starts the thread. For each page it asks for the figures, one after the other.
    pub(crate) fn open(endpoint: &Endpoint, sandbox: Sandbox) -> Result<(Self, mpsc::Receiver<Asked>)> {
        let scrape = Arc::new(Scrape::bind(endpoint)?);
        let (asks, asked) = mpsc::channel(1);
        let page = move || {
            let (tell, told) = oneshot::channel();
            asks.blocking_send(tell).ok()?;
            told.blocking_recv().ok().map(|status| render(&status))
        };
        let shown = Arc::clone(&scrape);
        let show = move || {
            sandbox.confine(Role::Metrics);
            shown.serve(page);
        };
        let thread = std::thread::Builder::new().name("aoe-metrics".to_owned()).spawn(show);
        tracing::info!("metrics at {}", scrape.endpoint());
        Ok((Self { scrape, thread: thread.context("cannot start a thread")? }, asked))
    }

    /// Takes it away. To be called when nobody listens any more to what it asks.
    pub(crate) fn close(self) {
        self.scrape.stop();
        // It ends also by a panic, which was told.
        let _ = self.thread.join();
    }
}

/// The text that a scrape is answered with.
pub fn render(status: &TargetStatus) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families(status))));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes any text");
    text
}

type Labels = Vec<(&'static str, String)>;
/// A figure by its name in a label.
type Named<T> = (&'static str, fn(&T) -> u64);

/// All series of one name.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    series: Series,
}

#[derive(Debug)]
enum Series {
    Gauges(Vec<(Labels, u64)>),
    Counters(Vec<(Labels, u64)>),
    Histograms(Vec<(Labels, Latency)>),
}

fn families(status: &TargetStatus) -> Vec<Family> {
    let mut families = of_target(status);
    families.extend(of_interfaces(status));
    families.extend(of_exports(&status.exports));
    families.extend(of_stations(&status.exports));
    families
}

fn of_target(status: &TargetStatus) -> Vec<Family> {
    let build = Series::Gauges(vec![(vec![("version", status.version.clone())], 1)]);
    let one = |value| vec![(vec![], value)];
    vec![
        family("build_info", "The version that runs.", None, build),
        gauge("uptime", "Time since the start.", Some(Unit::Seconds), one(status.since_s)),
        gauge("draining", "1: takes no new requests.", None, one(status.draining.into())),
        gauge("exports", "Exports that are served.", None, one(status.exports.len() as u64)),
        gauge(
            "exports_not_served",
            "Exports, and families of such, that the configuration file names and that could not be opened.",
            None,
            one(status.not_served.len() as u64),
        ),
        counter(
            "malformed_frames",
            "Frames that are no AoE requests, cut short, or from impossible senders.",
            one(status.malformed),
        ),
        counter("unknown_address_requests", "Requests to addresses that are not served.", one(status.not_ours)),
        counter("no_buffer_drops", "Requests and answers dropped because no buffer was free.", one(status.no_buffer)),
        counter(
            "forgotten_writes",
            "Writes forgotten before their time: late copies of these are not recognised.",
            one(status.forgotten_early),
        ),
    ]
}

fn of_interfaces(status: &TargetStatus) -> Vec<Family> {
    let each = |value: fn(&aoe_common::target_status::InterfaceStatus) -> u64| {
        status.interfaces.iter().map(|one| (vec![("interface", one.name.clone())], value(one))).collect()
    };
    vec![
        gauge("interface_up", "1: it has a link.", None, each(|one| one.up.into())),
        gauge("interface_mtu", "The longest payload of a frame.", Some(Unit::Bytes), each(|one| one.mtu.into())),
        counter("interface_received_frames", "Frames received.", each(|one| one.received)),
        counter("interface_sent_frames", "Frames sent.", each(|one| one.sent)),
        counter(
            "interface_kernel_drops",
            "Frames lost because the receive ring was full.",
            each(|one| one.kernel_drops),
        ),
    ]
}

fn of_exports(exports: &[ExportStatus]) -> Vec<Family> {
    let device = |export: &ExportStatus| ("device", export.device.to_string());
    let each = |value: fn(&ExportStatus) -> u64| {
        exports.iter().map(|export| (vec![device(export)], value(export))).collect::<Vec<_>>()
    };
    let by_kind = |values: &[Named<ExportStatus>]| {
        let of = |export| {
            move |&(name, value): &Named<ExportStatus>| (vec![device(export), ("kind", name.to_owned())], value(export))
        };
        exports.iter().flat_map(|export| values.iter().map(of(export))).collect::<Vec<_>>()
    };
    let about = exports.iter().map(|export| {
        let labels = vec![device(export), ("path", export.path.clone()), ("cache", export.cache.clone())];
        (labels, 1)
    });
    let latencies = exports.iter().flat_map(|export| {
        [("read", export.read_latency), ("write", export.write_latency), ("flush", export.flush_latency)]
            .map(|(name, latency)| (vec![device(export), ("kind", name.to_owned())], latency))
    });
    vec![
        gauge("export_info", "What an export is.", None, about.collect()),
        gauge("export_size", "Its size.", Some(Unit::Bytes), each(|export| export.size_bytes)),
        gauge("export_read_only", "1: takes no writes, by its settings.", None, each(|export| export.read_only.into())),
        gauge("export_draining", "1: takes no new requests.", None, each(|export| export.draining.into())),
        gauge(
            "export_data_lost",
            "1: acknowledged data was lost below, writes are refused until an operator clears that.",
            None,
            each(|export| export.lost.is_some().into()),
        ),
        gauge(
            "export_hold",
            "How long writes still wait after a restart.",
            Some(Unit::Seconds),
            each(|export| export.held_s.unwrap_or(0)),
        ),
        gauge("export_queue_limit", "Requests it says it can queue.", None, each(|export| export.buffers.into())),
        gauge("export_in_flight_requests", "Requests under way.", None, each(|export| export.in_flight)),
        counter(
            "export_operations",
            "Commands done.",
            by_kind(&[
                ("read", |export| export.reads),
                ("write", |export| export.writes),
                ("flush", |export| export.flushes),
                ("trim", |export| export.trims),
            ]),
        ),
        Family {
            unit: Some(Unit::Bytes),
            ..counter(
                "export_data",
                "Bytes of the reads and writes.",
                by_kind(&[("read", |export| export.read_bytes), ("write", |export| export.write_bytes)]),
            )
        },
        family(
            "export_latency",
            "Time from a request's arrival to the start of its answer.",
            Some(Unit::Seconds),
            Series::Histograms(latencies.collect()),
        ),
        counter("export_errors", "ATA commands that failed.", each(|export| export.errors)),
        counter("export_duplicates", "Repeated requests that were not run again.", each(|export| export.repeats)),
        counter(
            "export_stale_writes",
            "Writes refused because the same station had a newer one run.",
            each(|export| export.stale),
        ),
        counter(
            "export_held_writes",
            "Writes dropped because they came soon after a restart.",
            each(|export| export.held),
        ),
        counter("export_overlap_waits", "Requests that waited for an overlapping one.", each(|export| export.waits)),
        counter("export_refused_requests", "Requests of stations that may not use it.", each(|export| export.refused)),
        counter(
            "export_refused_edits",
            "Edits of config string, mask list or reservation by stations that may not make them.",
            each(|export| export.edits_refused),
        ),
        gauge(
            "export_edits_by_all",
            "1: every station may make these edits over the wire.",
            None,
            by_kind(&[
                ("config", |export| (export.edits.config == EditorsStatus::all()).into()),
                ("mask", |export| (export.edits.mask == EditorsStatus::all()).into()),
                ("reservation", |export| (export.edits.reservation == EditorsStatus::all()).into()),
            ]),
        ),
        counter("export_overflows", "Requests dropped because too many were waiting.", each(|export| export.overflows)),
        gauge(
            "export_stations",
            "Stations on record. The 64 busiest have figures of their own.",
            None,
            each(|export| export.stations.len() as u64),
        ),
    ]
}

fn of_stations(exports: &[ExportStatus]) -> Vec<Family> {
    let shown: Vec<_> = exports
        .iter()
        .flat_map(|export| busiest(&export.stations).map(move |station| (export, station)))
        .take(ALL_STATIONS_SHOWN)
        .collect();
    let labels = |(export, station): &(&ExportStatus, &StationStatus)| {
        vec![("device", export.device.to_string()), ("station", station.mac.clone())]
    };
    let by_kind = |values: [Named<StationStatus>; 2]| {
        let of = |pair| {
            values.map(|(name, value)| ([labels(pair), vec![("kind", name.to_owned())]].concat(), value(pair.1)))
        };
        shown.iter().flat_map(of).collect()
    };
    vec![
        counter(
            "station_operations",
            "READ requests of a station handed to the disk, and WRITE, ZERO and TRIM requests.",
            by_kind([("read", |station| station.reads), ("write", |station| station.writes)]),
        ),
        Family {
            unit: Some(Unit::Bytes),
            ..counter(
                "station_data",
                "Bytes of its READ and WRITE requests.",
                by_kind([("read", |station| station.read_bytes), ("write", |station| station.write_bytes)]),
            )
        },
        counter(
            "station_ignored_frames",
            "Its frames that had no effect because it is shut out.",
            shown.iter().map(|pair| (labels(pair), pair.1.ignored)).collect(),
        ),
    ]
}

/// Those with the most requests, in the order they are listed.
fn busiest(stations: &[StationStatus]) -> impl Iterator<Item = &StationStatus> {
    let mut chosen: Vec<usize> = (0..stations.len()).collect();
    chosen.sort_by_key(|&index| Reverse(stations[index].reads.saturating_add(stations[index].writes)));
    chosen.truncate(STATIONS_SHOWN);
    chosen.sort_unstable();
    chosen.into_iter().map(|index| &stations[index])
}

fn family(name: &'static str, help: &'static str, unit: Option<Unit>, series: Series) -> Family {
    Family { name, help, unit, series }
}

fn gauge(name: &'static str, help: &'static str, unit: Option<Unit>, values: Vec<(Labels, u64)>) -> Family {
    family(name, help, unit, Series::Gauges(values))
}

fn counter(name: &'static str, help: &'static str, values: Vec<(Labels, u64)>) -> Family {
    family(name, help, None, Series::Counters(values))
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Family { name, help, unit, series } in &self.0 {
            let name = format!("aoe_target_{name}");
            let kind = match series {
                Series::Gauges(_) => MetricType::Gauge,
                Series::Counters(_) => MetricType::Counter,
                Series::Histograms(_) => MetricType::Histogram,
            };
            let mut family = encoder.encode_descriptor(&name, help, unit.as_ref(), kind)?;
            match series {
                Series::Gauges(values) => {
                    for (labels, value) in values {
                        // Of what has no labels, not even their braces.
                        if labels.is_empty() {
                            family.encode_gauge(value)?;
                        } else {
                            family.encode_family(labels)?.encode_gauge(value)?;
                        }
                    }
                }
                Series::Counters(values) => {
                    for (labels, value) in values {
                        let none = None::<&Exemplar<NoLabelSet, u64>>;
                        if labels.is_empty() {
                            family.encode_counter(value, none)?;
                        } else {
                            family.encode_family(labels)?.encode_counter(value, none)?;
                        }
                    }
                }
                Series::Histograms(values) => {
                    for (labels, latency) in values {
                        let (sum, count) = (latency.sum_us as f64 / 1e6, latency.count());
                        family.encode_family(labels)?.encode_histogram::<NoLabelSet>(
                            sum,
                            count,
                            &buckets(latency),
                            None,
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Upper limits in seconds, and how many lie between each and the one before.
fn buckets(latency: &Latency) -> [(f64, u64); LATENCY_BUCKETS] {
    std::array::from_fn(|number| {
        let limit = if number + 1 < LATENCY_BUCKETS { (1u64 << number) as f64 / 1e6 } else { f64::INFINITY };
        (limit, latency.buckets[number])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    use aoe_common::addr::Address;
    use aoe_common::target_status::{EditsStatus, InterfaceStatus};

    fn station(number: usize) -> StationStatus {
        let mac = format!("02:00:00:00:{:02x}:{:02x}", number / 256, number % 256);
        let number = number as u64;
        StationStatus { mac, reads: number, read_bytes: 7, writes: 2, write_bytes: 512, ignored: 3 }
    }

    fn export(slot: u8, stations: usize) -> ExportStatus {
        let mut read_latency = Latency::default();
        for time in [0, 3, 3, 900, u64::MAX / 2] {
            read_latency.record(time);
        }
        ExportStatus {
            device: Address::new(0, slot),
            path: "/images/a \"disk\"\\1.img\n".to_owned(),
            size_bytes: 1 << 30,
            read_only: false,
            cache: "auto".to_owned(),
            direct: false,
            buffers: 64,
            serial: String::new(),
            allow: vec![],
            mask: vec![],
            reservation: vec![],
            config_string: String::new(),
            edits: EditsStatus {
                config: EditorsStatus::all(),
                mask: EditorsStatus::Word("none".to_owned()),
                reservation: EditorsStatus::These(vec!["02:00:00:00:00:0a".to_owned()]),
            },
            lost: Some("EIO".to_owned()),
            held_s: None,
            draining: false,
            in_flight: 1,
            reads: 5,
            read_bytes: 4096,
            writes: 6,
            write_bytes: 8192,
            flushes: 7,
            trims: 8,
            errors: 9,
            repeats: 10,
            stale: 11,
            held: 12,
            waits: 13,
            refused: 14,
            edits_refused: 16,
            overflows: 15,
            read_latency,
            write_latency: Latency::default(),
            flush_latency: Latency::default(),
            stations: (0..stations).map(station).collect(),
        }
    }

    fn target(exports: Vec<ExportStatus>) -> TargetStatus {
        let interface = InterfaceStatus {
            name: "eth0".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            mtu: 9000,
            up: true,
            received: 100,
            sent: 101,
            kernel_drops: 1,
        };
        TargetStatus { version: "1".to_owned(), interfaces: vec![interface], exports, ..TargetStatus::default() }
    }

    /// The name, labels and value of each series, and the names of families.
    type Figures = (Vec<(String, BTreeMap<String, String>, f64)>, BTreeSet<String>);

    /// Reads a text as strictly as the format is defined.
    fn read(text: &str) -> Figures {
        let (mut series, mut families) = (Vec::new(), BTreeSet::new());
        let mut family = (String::new(), String::new());
        let body = text.strip_suffix("# EOF\n").expect("the end is marked");
        for line in body.lines() {
            if let Some(about) = line.strip_prefix("# HELP ") {
                let (name, help) = about.split_once(' ').expect("a help text");
                assert!(help.ends_with('.'), "{line}");
                assert!(families.insert(name.to_owned()), "{name} comes twice");
                family = (name.to_owned(), String::new());
                continue;
            }
            if let Some(about) = line.strip_prefix("# TYPE ") {
                let (name, kind) = about.split_once(' ').unwrap();
                assert_eq!(name, family.0);
                family.1 = kind.to_owned();
                continue;
            }
            if let Some(about) = line.strip_prefix("# UNIT ") {
                let (name, unit) = about.split_once(' ').unwrap();
                assert_eq!(name, family.0);
                assert!(name.ends_with(unit), "{line}");
                continue;
            }
            let (head, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = head
                .split_once('{')
                .map_or((head, ""), |(name, rest)| (name, rest.strip_suffix('}').expect("the labels end")));
            assert!(name.starts_with("aoe_target_"), "{line}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            let endings: &[&str] = match family.1.as_str() {
                "gauge" => &[""],
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("a {other}"),
            };
            assert!(endings.iter().any(|ending| name == format!("{}{ending}", family.0)), "{line} in {family:?}");
            let value = if value == "+Inf" { f64::INFINITY } else { value.parse().expect("a number") };
            series.push((name.to_owned(), read_labels(labels), value));
        }
        (series, families)
    }

    fn read_labels(text: &str) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (name, after) = rest.split_once("=\"").expect("a value in quotes");
            let (mut value, mut chars) = (String::new(), after.char_indices());
            let end = loop {
                match chars.next().expect("the quotes end") {
                    (at, '"') => break at,
                    (_, '\\') => match chars.next().unwrap().1 {
                        'n' => value.push('\n'),
                        other => value.push(other),
                    },
                    (_, other) => value.push(other),
                }
            };
            assert!(labels.insert(name.to_owned(), value).is_none());
            rest = &after[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        labels
    }

    fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let (series, _) = read(text);
        let fits = |of: &BTreeMap<String, String>| {
            labels.iter().all(|(name, value)| of.get(*name).is_some_and(|found| found == value))
        };
        let found: Vec<_> = series.iter().filter(|(of, these, _)| of == name && fits(these)).collect();
        assert!(found.len() <= 1, "{name} {labels:?}: {found:?}");
        found.first().map(|(_, _, value)| *value)
    }

    #[test]
    fn every_figure_of_the_status_is_there() {
        let text = render(&target(vec![export(1, 2), export(2, 0)]));
        let of = |name: &str, labels: &[(&str, &str)]| value(&text, &format!("aoe_target_{name}"), labels);
        let device = ("device", "e0.1");
        for (operation, count) in [("read", 5.0), ("write", 6.0), ("flush", 7.0), ("trim", 8.0)] {
            assert_eq!(of("export_operations_total", &[device, ("kind", operation)]), Some(count));
        }
        for (name, figure) in [
            ("export_errors_total", 9.0),
            ("export_duplicates_total", 10.0),
            ("export_stale_writes_total", 11.0),
            ("export_held_writes_total", 12.0),
            ("export_overlap_waits_total", 13.0),
            ("export_refused_requests_total", 14.0),
            ("export_overflows_total", 15.0),
            ("export_refused_edits_total", 16.0),
            ("export_size_bytes", f64::from(1 << 30)),
            ("export_data_lost", 1.0),
            ("export_stations", 2.0),
        ] {
            assert_eq!(of(name, &[device]), Some(figure), "{name}");
        }
        for (kind, figure) in [("config", 1.0), ("mask", 0.0), ("reservation", 0.0)] {
            assert_eq!(of("export_edits_by_all", &[device, ("kind", kind)]), Some(figure), "{kind}");
        }
        assert_eq!(of("export_data_bytes_total", &[device, ("kind", "write")]), Some(8192.0));
        assert_eq!(of("interface_kernel_drops_total", &[("interface", "eth0")]), Some(1.0));
        assert_eq!(of("interface_mtu_bytes", &[("interface", "eth0")]), Some(9000.0));
        let second = ("station", "02:00:00:00:00:01");
        assert_eq!(of("station_operations_total", &[device, second, ("kind", "read")]), Some(1.0));
        assert_eq!(of("station_ignored_frames_total", &[device, second]), Some(3.0));
        assert_eq!(of("station_ignored_frames_total", &[("device", "e0.2")]), None);
        assert_eq!(of("export_info", &[device, ("path", "/images/a \"disk\"\\1.img\n")]), Some(1.0));
        assert_eq!(of("exports", &[]), Some(2.0));
    }

    #[test]
    fn latencies_are_cumulative() {
        let text = render(&target(vec![export(1, 0)]));
        let (series, _) = read(&text);
        let wanted = |labels: &BTreeMap<String, String>| labels["kind"] == "read";
        let of = |name| series.iter().filter(move |(of, labels, _)| of == name && wanted(labels));
        let buckets: Vec<(f64, f64)> = of("aoe_target_export_latency_seconds_bucket")
            .map(|(_, labels, count)| {
                let limit = &labels["le"];
                (if limit == "+Inf" { f64::INFINITY } else { limit.parse().unwrap() }, *count)
            })
            .collect();
        assert_eq!(buckets.len(), LATENCY_BUCKETS);
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{buckets:?}");
        assert_eq!(buckets[0], (1e-6, 1.0));
        assert_eq!(buckets[2], (4e-6, 3.0));
        assert_eq!(buckets[10], (1024e-6, 4.0));
        assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, 5.0));
        let count = of("aoe_target_export_latency_seconds_count").next().unwrap().2;
        assert_eq!(count, 5.0);
    }

    #[test]
    fn the_busiest_stations_are_shown_and_no_more() {
        let shown = |exports| {
            let text = render(&target(exports));
            read(&text).0.iter().filter(|(name, ..)| name == "aoe_target_station_ignored_frames_total").count()
        };
        assert_eq!(shown(vec![export(1, 512)]), STATIONS_SHOWN);
        assert_eq!(shown((0..100).map(|slot| export(slot, 512)).collect()), ALL_STATIONS_SHOWN);
        let text = render(&target(vec![export(1, 512)]));
        let has =
            |number| value(&text, "aoe_target_station_ignored_frames_total", &[("station", &station(number).mac)]);
        assert_eq!((has(511), has(448), has(447)), (Some(3.0), Some(3.0), None));
        assert_eq!(value(&text, "aoe_target_export_stations", &[]), Some(512.0));
    }

    fn get(mut stream: impl Read + Write) -> String {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: target\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_confined_thread_shows_the_page() {
        let folder = tempfile::tempdir().unwrap();
        let unix = format!("unix:{}", folder.path().join("metrics.sock").display());
        for endpoint in [unix.as_str(), "127.0.0.1:0"] {
            let (page, mut asked) = Page::open(&endpoint.parse().unwrap(), Sandbox::begin(true)).unwrap();
            let figures = std::thread::spawn(move || {
                asked.blocking_recv().unwrap().send(target(vec![export(1, 1)])).unwrap();
                asked
            });
            let answer = match page.scrape.endpoint() {
                Endpoint::Unix(path) => get(UnixStream::connect(path).unwrap()),
                Endpoint::Tcp(address) => get(TcpStream::connect(address).unwrap()),
            };
            let (head, text) = answer.split_once("\r\n\r\n").expect("a head and a page");
            assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("openmetrics-text"), "{head}");
            assert_eq!(text, render(&target(vec![export(1, 1)])));
            drop(figures.join().unwrap());
            page.close();
        }
        assert!(!folder.path().join("metrics.sock").exists());
    }

    #[test]
    fn the_dashboard_asks_for_what_there_is() {
        let dashboard = include_str!("../../docs/grafana-aoe.json");
        let (series, _) = read(&render(&target(vec![export(1, 1)])));
        let words = dashboard.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let asked: BTreeSet<_> = words.filter(|word| word.starts_with("aoe_target_")).collect();
        assert!(asked.len() > 20, "{asked:?}");
        for name in asked {
            assert!(series.iter().any(|(other, ..)| other == name), "{name} is not there");
        }
    }

    #[test]
    fn a_target_without_exports_has_its_figures() {
        let (series, _) = read(&render(&TargetStatus::default()));
        assert!(series.iter().any(|(name, ..)| name == "aoe_target_uptime_seconds"));
        assert!(!render(&TargetStatus::default()).contains("{}"));
    }
}
