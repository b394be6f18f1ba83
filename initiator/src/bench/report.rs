//! What a load came to, for programs and for people.

use std::time::Duration;

use aoe_common::addr::Address;
use clap::ValueEnum;
use serde::Serialize;

use super::load::Load;
use super::pattern::{Kind, Range};
use super::tally::{Latencies, rounded};
use super::{Options, Size};
use aoe_common::text::{size, table};

/// What became of the flush at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// There was nothing to flush.
    NothingWritten,
    /// The target has no flush.
    Impossible,
    /// It took so long.
    In(Duration),
    /// It failed, and why.
    Failed(String),
}

/// See the [module](self). The names are those of `--json`; they stay.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The disk.
    pub device: Address,
    /// What the load did.
    pub rw: Kind,
    /// Bytes of a request.
    pub block_bytes: usize,
    /// Requests under way at a time.
    pub depth: usize,
    /// Requests a second that were to begin; none: as many as there was room for.
    pub rate: Option<u32>,
    /// The first byte that was used.
    pub offset_bytes: u64,
    /// Bytes from there that were used.
    pub range_bytes: u64,
    /// How long it was measured.
    pub seconds: f64,
    /// It ended before its time: interrupted, or too many failures.
    pub ended_early: bool,
    /// Requests that were answered within that time.
    pub requests: u64,
    /// The reads among them.
    pub reads: u64,
    /// The writes among them.
    pub writes: u64,
    /// Requests that were under way at the end and answered later; they count for latency only.
    pub drained: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Why the first of them did.
    pub first_error: Option<String>,
    /// Requests that were never answered.
    pub unanswered: usize,
    /// Frames sent again.
    pub resends: u64,
    /// Requests a second.
    pub iops: f64,
    /// Their data.
    pub mib_per_s: f64,
    /// How long requests took, in microseconds; none: none was answered.
    pub latency_us: Option<Latencies>,
    /// Processor time of this program for each request, in user and kernel mode, in microseconds.
    pub cpu_us_per_request: Option<f64>,
    /// How long the flush after the last write took, in milliseconds; none: nothing was written, or the target has no
    /// flush, or it failed.
    pub flush_ms: Option<f64>,
    /// Why it failed.
    pub flush_error: Option<String>,
    /// The same for people.
    #[serde(skip)]
    flushed: Flushed,
}

impl Report {
    pub(super) fn new(
        options: &Options,
        range: Range,
        load: &Load,
        resends: u64,
        processor_time: Duration,
        flushed: Flushed,
    ) -> Self {
        let Options { device, kind, size: Size { block_bytes, depth, .. }, rate, measured, .. } = *options;
        let tally = load.tally();
        let time = load.ends().since(load.measured_from());
        let per_second = |amount: f64| if time.is_zero() { 0.0 } else { rounded(amount / time.as_secs_f64()) };
        let requests = tally.requests();
        Self {
            device,
            rw: kind,
            block_bytes,
            depth,
            rate,
            offset_bytes: range.offset_bytes(),
            range_bytes: range.bytes(),
            seconds: rounded(time.as_secs_f64()),
            ended_early: time < measured,
            requests,
            reads: tally.reads,
            writes: tally.writes,
            drained: tally.drained,
            errors: tally.errors,
            first_error: tally.first_error.map(|error| error.to_string()),
            unanswered: load.in_flight(),
            resends,
            iops: per_second(requests as f64),
            mib_per_s: per_second(requests as f64 * block_bytes as f64 / f64::from(1 << 20)),
            latency_us: tally.latencies(),
            cpu_us_per_request: (requests > 0).then(|| rounded(processor_time.as_secs_f64() * 1e6 / requests as f64)),
            flush_ms: if let Flushed::In(took) = &flushed { Some(rounded(took.as_secs_f64() * 1e3)) } else { None },
            flush_error: if let Flushed::Failed(why) = &flushed { Some(why.clone()) } else { None },
            flushed,
        }
    }

    /// What went wrong, in one line.
    pub fn trouble(&self) -> Option<String> {
        if let Some(why) = &self.first_error {
            let early = if self.ended_early { "; it was ended early" } else { "" };
            return Some(format!("{} requests failed, the first because {why}{early}", self.errors));
        }
        if self.unanswered > 0 {
            return Some(format!("{} requests were never answered", self.unanswered));
        }
        if let Some(why) = &self.flush_error {
            return Some(format!("the flush failed, what was written may not be durable: {why}"));
        }
        (self.requests == 0).then(|| "nothing was measured".to_owned())
    }

    /// For people.
    pub fn describe(&self) -> String {
        let Self { device, depth, seconds, requests, errors, resends, .. } = self;
        let kind = self.rw.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let pace = self.rate.map_or_else(String::new, |rate| format!(", {rate} a second"));
        let title = format!(
            "{device} {kind}: {} a request, {depth} at a time{pace}, {seconds:.1} s, in {} from byte {} on",
            size(self.block_bytes as u64),
            size(self.range_bytes),
            self.offset_bytes
        );
        let flush = match &self.flushed {
            Flushed::NothingWritten => "-".to_owned(),
            Flushed::Impossible => "the target has none".to_owned(),
            Flushed::In(took) => format!("{:.1} ms", took.as_secs_f64() * 1e3),
            Flushed::Failed(_) => "failed".to_owned(),
        };
        let throughput = table(
            &["IOPS", "MiB/s", "requests", "errors", "resends", "CPU us/request", "flush"],
            [vec![
                format!("{:.0}", self.iops),
                format!("{:.1}", self.mib_per_s),
                requests.to_string(),
                errors.to_string(),
                resends.to_string(),
                self.cpu_us_per_request.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.2}")),
                flush,
            ]],
        );
        let latency = self.latency_us.map(|Latencies { min, mean, p50, p90, p99, p99_9, max }| {
            let cells = [min, mean, p50, p90, p99, p99_9, max].map(|micros| format!("{micros:.1}"));
            table(&["latency us: min", "mean", "50 %", "90 %", "99 %", "99.9 %", "max"], [cells.to_vec()])
        });
        [Some(title), Some(throughput), latency].into_iter().flatten().collect::<Vec<_>>().join("\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            device: Address::new(0, 1),
            rw: Kind::RandRead,
            block_bytes: 4096,
            depth: 32,
            rate: None,
            offset_bytes: 0,
            range_bytes: 64 << 20,
            seconds: 10.0,
            ended_early: false,
            requests: 1_000_000,
            reads: 1_000_000,
            writes: 0,
            drained: 31,
            errors: 0,
            first_error: None,
            unanswered: 0,
            resends: 7,
            iops: 100_000.0,
            mib_per_s: 390.625,
            latency_us: Some(Latencies {
                min: 40.0,
                mean: 310.04,
                p50: 300.0,
                p90: 350.0,
                p99: 500.0,
                p99_9: 900.5,
                max: 2000.0,
            }),
            cpu_us_per_request: Some(4.321),
            flush_ms: None,
            flush_error: None,
            flushed: Flushed::NothingWritten,
        }
    }

    #[test]
    fn the_names_in_json_are_those_that_are_documented() {
        let json = serde_json::to_value(report()).unwrap();
        for (name, value) in [("device", "e0.1"), ("rw", "randread")] {
            assert_eq!(json[name], value);
        }
        for name in ["iops", "mib_per_s", "requests", "errors", "resends", "seconds", "cpu_us_per_request"] {
            assert!(json[name].is_number(), "{name}");
        }
        let names: Vec<_> = json["latency_us"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["max", "mean", "min", "p50", "p90", "p99", "p99_9"]);
        assert!(json["flush_ms"].is_null() && json.get("flushed").is_none());
    }

    #[test]
    fn a_table_tells_it_all() {
        let text = report().describe();
        let words: Vec<_> = text.split_whitespace().collect();
        for word in ["randread:", "100000", "390.6", "1000000", "7", "4.32", "40.0", "310.0", "900.5", "2000.0"] {
            assert!(words.contains(&word), "{word} is missing in\n{text}");
        }
        let written = Report { flushed: Flushed::In(Duration::from_micros(12_345)), ..report() };
        assert!(written.describe().contains("12.3 ms"));
    }

    #[test]
    fn what_went_wrong_is_told() {
        assert_eq!(report().trouble(), None);
        let told = |report: Report| report.trouble().unwrap();
        let failed = Report { errors: 1000, first_error: Some("of this".into()), ended_early: true, ..report() };
        assert!(told(failed).starts_with("1000 requests failed, the first because of this; it was ended early"));
        assert!(told(Report { unanswered: 2, ..report() }).starts_with("2 requests were never answered"));
        assert!(told(Report { flush_error: Some("why".into()), ..report() }).contains("flush failed"));
        assert!(told(Report { requests: 0, ..report() }).contains("nothing"));
    }
}
