//! What came of the requests of a load.
//!
//! Requests that end within the measured time count for throughput and latency. Those that were under way when it was
//! over count for latency only: leaving them out would make a target look better that answers its slowest requests last.

use aoe_common::time::Duration;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::engine::IoError;

/// The longest latency that is told apart from longer ones.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Tally {
    /// In nanoseconds.
    latencies: Histogram<u64>,
    /// Reads and writes that ended within the measured time.
    pub reads: u64,
    /// The same for writes.
    pub writes: u64,
    /// Requests that ended after it.
    pub drained: u64,
    /// Requests that failed, whenever they did.
    pub errors: u64,
    /// Why the first of them did.
    pub first_error: Option<IoError>,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latencies {
    /// The shortest.
    pub min: f64,
    /// Their mean.
    pub mean: f64,
    /// Half of them are no longer.
    pub p50: f64,
    /// 90 % of them are no longer.
    pub p90: f64,
    /// 99 % of them are no longer.
    pub p99: f64,
    /// 99.9 % of them are no longer.
    pub p99_9: f64,
    /// The longest.
    pub max: f64,
}

impl Default for Tally {
    fn default() -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX.as_nanos() as u64, 3);
        Self {
            latencies: latencies.expect("bounds a histogram can have"),
            reads: 0,
            writes: 0,
            drained: 0,
            errors: 0,
            first_error: None,
        }
    }
}

impl Tally {
    /// A request was answered, in or after the measured time.
    pub fn answered(&mut self, writes: bool, latency: Duration, in_time: bool) {
        self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        match (in_time, writes) {
            (true, false) => self.reads += 1,
            (true, true) => self.writes += 1,
            (false, _) => self.drained += 1,
        }
    }

    /// A request failed.
    pub fn failed(&mut self, error: IoError) {
        self.errors += 1;
        self.first_error.get_or_insert(error);
    }

    /// Requests that ended within the measured time.
    pub fn requests(&self) -> u64 {
        self.reads + self.writes
    }

    /// How long requests took; none: none was answered.
    pub fn latencies(&self) -> Option<Latencies> {
        let all = &self.latencies;
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let part = |quantile| micros(all.value_at_quantile(quantile).min(all.max()));
        (!all.is_empty()).then(|| Latencies {
            min: micros(all.min()),
            mean: rounded(all.mean() / 1000.0),
            p50: part(0.5),
            p90: part(0.9),
            p99: part(0.99),
            p99_9: part(0.999),
            max: micros(all.max()),
        })
    }
}

/// To three places behind the point.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_told_within_a_thousandth() {
        let mut tally = Tally::default();
        assert_eq!(tally.latencies(), None);
        for micros in 1..=1000 {
            tally.answered(false, Duration::from_micros(micros), true);
        }
        let found = tally.latencies().unwrap();
        let is = |value: f64, wanted: f64| assert!((value / wanted - 1.0).abs() < 0.001, "{value} for {wanted}");
        is(found.min, 1.0);
        is(found.mean, 500.5);
        is(found.p50, 500.0);
        is(found.p90, 900.0);
        is(found.p99, 990.0);
        is(found.p99_9, 999.0);
        is(found.max, 1000.0);
    }

    #[test]
    fn what_ends_late_counts_for_latency_only() {
        let mut tally = Tally::default();
        tally.answered(false, Duration::from_micros(10), true);
        tally.answered(true, Duration::from_micros(10), true);
        tally.answered(true, Duration::from_secs(7), false);
        tally.answered(false, Duration::from_secs(7200), false);
        assert_eq!((tally.reads, tally.writes, tally.requests(), tally.drained), (1, 1, 2, 2));
        assert!(tally.latencies().unwrap().max >= 3.59e9, "it is cut to an hour");
    }

    #[test]
    fn the_first_failure_is_told() {
        let mut tally = Tally::default();
        tally.failed(IoError::Refused);
        tally.failed(IoError::Dead);
        assert_eq!((tally.errors, tally.first_error), (2, Some(IoError::Refused)));
    }
}
