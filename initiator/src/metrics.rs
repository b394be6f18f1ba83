//! What an attached disk tells Prometheus.
//!
//! The page is made of a [`Status`], which is asked for at the attach's own control socket: figures that are scraped and
//! figures that `aoe-stat` shows cannot differ.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use aoe_common::scrape::{Endpoint, Scrape};
use aoe_common::target_status::{LATENCY_BUCKETS, Latency};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::run_dir::{Answer, Request, ask};
use crate::status::{PathHealth, PathStatus, State, Status};

/// How long the attach may take for an answer that costs it nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of stack: an attach to the kernel keeps all of its memory.
const STACK: usize = 256 << 10;

/// A page that is served; until this is dropped.
#[derive(Debug)]
pub struct Metrics {
    scrape: Arc<Scrape>,
    thread: Option<JoinHandle<()>>,
}

impl Metrics {
    /// Serves the page of the attach that answers at a control socket.
    pub fn serve(endpoint: &Endpoint, control: PathBuf) -> anyhow::Result<Self> {
        let scrape = Arc::new(Scrape::bind(endpoint)?);
        let thread = std::thread::Builder::new().name("aoe-metrics".into()).stack_size(STACK).spawn({
            let scrape = Arc::clone(&scrape);
            move || scrape.serve(|| page_of(&control))
        })?;
        tracing::info!("figures for Prometheus at {}", scrape.endpoint());
        Ok(Self { scrape, thread: Some(thread) })
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.scrape.stop();
        // One that has crashed serves nothing more either.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn page_of(control: &std::path::Path) -> Option<String> {
    match ask(control, Request::Status, PATIENCE) {
        Ok(Answer::Status(status)) => Some(page(*status)),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!("no figures: {error}");
            None
        }
    }
}

/// A status as OpenMetrics text.
fn page(status: Status) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures(status)));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("a string takes any text");
    page
}

#[derive(Debug)]
struct Figures(Status);

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let status = &self.0;
        let device = status.device.to_string();
        let mut sheet = Sheet { encoder, disk: vec![("device", &device), ("where", &status.place)] };
        let kinds = [
            ("read", status.reads, Some(status.read_bytes), &status.read_latency),
            ("write", status.writes, Some(status.write_bytes), &status.write_latency),
            ("flush", status.flushes, None, &status.flush_latency),
            ("trim", status.trims, None, &status.trim_latency),
        ];
        let states = [("searching", State::Searching), ("up", State::Up), ("dead", State::Dead)];

        sheet.gauges(
            "state",
            "Whether the disk can be used: 1 at its state",
            None,
            states.map(|(name, state)| (vec![("state", name)], f64::from(u8::from(status.state == state)))),
        )?;
        let version = env!("CARGO_PKG_VERSION");
        sheet.gauges("version", "The version that serves it, as a label", None, [(vec![("version", version)], 1.0)])?;
        let of_disk = |value: f64| [(vec![], value)];
        sheet.gauges("size", "Size of the disk", Some(Unit::Bytes), of_disk(status.size_bytes as f64))?;
        sheet.gauges("read_only", "1 when writes are refused", None, of_disk(u8::from(status.read_only).into()))?;
        sheet.gauges("age", "Time since it was attached", Some(Unit::Seconds), of_disk(status.since_s as f64))?;
        let of_kind = |kind: &&'static str| vec![("kind", *kind)];
        let counts = kinds.iter().map(|(kind, count, ..)| (of_kind(kind), *count));
        sheet.counters("operations", "Requests completed", None, counts)?;
        let bytes = kinds.iter().filter_map(|(kind, _, bytes, _)| Some((of_kind(kind), (*bytes)?)));
        sheet.counters("data", "Bytes read and written", Some(Unit::Bytes), bytes)?;
        sheet.latencies(kinds.iter().map(|(kind, .., latency)| (of_kind(kind), *latency)))?;
        for (name, help, count) in [
            ("errors", "Requests that failed", status.errors),
            ("resends", "Frames sent again", status.resends),
            ("stray_answers", "Answers to nothing that was asked", status.strays),
            ("bad_answers", "Answers that make no sense", status.bad_answers),
        ] {
            sheet.counters(name, help, None, [(vec![], count)])?;
        }

        let paths = &status.paths;
        sheet.gauges(
            "path_state",
            "Whether a path carries requests: 1 at its state",
            None,
            paths.iter().flat_map(|path| {
                PATH_STATES.map(|(name, state)| {
                    let mut labels = of_path(path);
                    labels.push(("state", name));
                    (labels, f64::from(u8::from(path.state == state)))
                })
            }),
        )?;
        let rtts = paths.iter().filter_map(|path| Some((of_path(path), path.rtt_us? as f64 / 1e6)));
        sheet.gauges("path_rtt", "Smoothed round-trip time", Some(Unit::Seconds), rtts)?;
        let windows = paths.iter().map(|path| (of_path(path), path.window.into()));
        sheet.gauges("path_window", "Frames that may be under way", None, windows)?;
        let in_flight = paths.iter().map(|path| (of_path(path), path.in_flight.into()));
        sheet.gauges("path_in_flight", "Frames under way", None, in_flight)?;
        let resends = paths.iter().map(|path| (of_path(path), path.resends));
        sheet.counters("path_resends", "Frames of a path sent again", None, resends)
    }
}

const PATH_STATES: [(&str, PathHealth); 4] = [
    ("identifying", PathHealth::Identifying),
    ("up", PathHealth::Up),
    ("failed", PathHealth::Failed),
    ("foreign", PathHealth::Foreign),
];

fn of_path(path: &PathStatus) -> Labels<'_> {
    vec![("mac", &path.mac), ("interface", &path.interface)]
}

/// Writes families of figures; the labels of the disk are on each.
struct Sheet<'e, 'a> {
    encoder: DescriptorEncoder<'e>,
    disk: Labels<'a>,
}

impl<'a> Sheet<'_, 'a> {
    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> fmt::Result {
        self.family(name, help, unit, MetricType::Gauge, values, |mut metric, value| metric.encode_gauge(&value))
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (Labels<'a>, u64)>,
    ) -> fmt::Result {
        self.family(name, help, unit, MetricType::Counter, values, |mut metric, value| {
            metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)
        })
    }

    fn latencies<'b>(&mut self, values: impl IntoIterator<Item = (Labels<'a>, &'b Latency)>) -> fmt::Result {
        let help = "From a request's arrival to its answer";
        self.family("latency", help, Some(Unit::Seconds), MetricType::Histogram, values, |mut metric, latency| {
            let limit = |bucket: usize| match bucket + 1 {
                LATENCY_BUCKETS => f64::INFINITY,
                _ => (1_u64 << bucket) as f64 / 1e6,
            };
            let buckets: Vec<_> = latency.buckets.iter().enumerate().map(|(i, count)| (limit(i), *count)).collect();
            metric.encode_histogram::<NoLabelSet>(latency.sum_us as f64 / 1e6, latency.count(), &buckets, None)
        })
    }

    fn family<T>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        values: impl IntoIterator<Item = (Labels<'a>, T)>,
        encode: impl Fn(MetricEncoder, T) -> fmt::Result,
    ) -> fmt::Result {
        let name = format!("aoe_attach_{name}");
        let mut family = self.encoder.encode_descriptor(&name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            let labels = [self.disk.clone(), labels].concat();
            encode(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::status;

    #[test]
    fn the_page_has_every_figure() {
        let mut status = status();
        status.write_latency.record(5);
        status.write_latency.record(1 << 30);
        let page = page(status);
        let disk = "device=\"e0.1\",where=\"unix:/run/disk.sock\"";
        let path = "mac=\"02:00:00:00:00:02\",interface=\"eth0\"";
        for line in [
            "# TYPE aoe_attach_operations counter".to_owned(),
            "# TYPE aoe_attach_latency_seconds histogram".to_owned(),
            format!("aoe_attach_state{{{disk},state=\"up\"}} 1.0"),
            format!("aoe_attach_state{{{disk},state=\"dead\"}} 0.0"),
            format!("aoe_attach_size_bytes{{{disk}}} 67108864.0"),
            format!("aoe_attach_operations_total{{{disk},kind=\"read\"}} 10"),
            format!("aoe_attach_operations_total{{{disk},kind=\"flush\"}} 1"),
            format!("aoe_attach_data_bytes_total{{{disk},kind=\"read\"}} 40960"),
            format!("aoe_attach_latency_seconds_count{{{disk},kind=\"write\"}} 2"),
            format!("aoe_attach_latency_seconds_bucket{{le=\"0.000004\",{disk},kind=\"write\"}} 0"),
            format!("aoe_attach_latency_seconds_bucket{{le=\"0.000008\",{disk},kind=\"write\"}} 1"),
            format!("aoe_attach_latency_seconds_bucket{{le=\"+Inf\",{disk},kind=\"write\"}} 2"),
            format!("aoe_attach_errors_total{{{disk}}} 0"),
            format!("aoe_attach_resends_total{{{disk}}} 2"),
            format!("aoe_attach_path_state{{{disk},{path},state=\"up\"}} 1.0"),
            format!("aoe_attach_path_rtt_seconds{{{disk},{path}}} 0.00012"),
            format!("aoe_attach_path_window{{{disk},{path}}} 16.0"),
            format!("aoe_attach_path_in_flight{{{disk},{path}}} 1.0"),
            format!("aoe_attach_path_resends_total{{{disk},{path}}} 2"),
        ] {
            assert!(page.lines().any(|other| other == line), "{line}\n{page}");
        }
        assert!(page.ends_with("# EOF\n"), "{page}");
    }

    #[test]
    fn the_dashboard_asks_for_what_there_is() {
        let dashboard = include_str!("../../docs/grafana-aoe.json");
        let page = page(status());
        let words = dashboard.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let asked: std::collections::BTreeSet<_> = words.filter(|word| word.starts_with("aoe_attach_")).collect();
        assert!(asked.len() > 8, "{asked:?}");
        for name in asked {
            let has = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
            assert!(page.lines().any(has), "{name} is not there");
        }
    }

    #[test]
    fn a_name_cannot_end_its_label() {
        let mut status = status();
        status.place = "unix:/run/a\"} 1\nb\\".into();
        let page = page(status);
        let line = page.lines().find(|line| line.starts_with("aoe_attach_errors_total")).unwrap();
        assert_eq!(line, "aoe_attach_errors_total{device=\"e0.1\",where=\"unix:/run/a\\\"} 1\\nb\\\\\"} 0");
    }
}
