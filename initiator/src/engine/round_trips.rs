//! How long answers took: a histogram of bounded size, exact to a thousandth.

use aoe_common::time::Duration;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Times are told apart from here to there; 150 KiB of memory.
const SHORTEST: Duration = Duration::from_nanos(100);
const LONGEST: Duration = Duration::from_secs(60);

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct RoundTrips {
    /// In nanoseconds.
    times: Histogram<u64>,
}

/// Round-trip times in milliseconds, as ping tells them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RoundTripTimes {
    /// The shortest.
    pub min_ms: f64,
    /// Their mean.
    pub avg_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Half of them are no longer.
    pub p50_ms: f64,
    /// 99 % of them are no longer.
    pub p99_ms: f64,
    /// Their standard deviation.
    pub mdev_ms: f64,
}

impl Default for RoundTrips {
    fn default() -> Self {
        let times = Histogram::new_with_bounds(SHORTEST.as_nanos() as u64, LONGEST.as_nanos() as u64, 3);
        Self { times: times.expect("bounds a histogram can have") }
    }
}

impl RoundTrips {
    /// An answer took so long.
    pub fn record(&mut self, took: Duration) {
        self.times.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What they come to; none: there was no answer.
    pub fn times(&self) -> Option<RoundTripTimes> {
        // To a microsecond.
        let millis = |nanos: f64| (nanos / 1000.0).round() / 1000.0;
        let part = |quantile| millis(self.times.value_at_quantile(quantile).min(self.times.max()) as f64);
        (!self.times.is_empty()).then(|| RoundTripTimes {
            min_ms: millis(self.times.min() as f64),
            avg_ms: millis(self.times.mean()),
            max_ms: millis(self.times.max() as f64),
            p50_ms: part(0.5),
            p99_ms: part(0.99),
            mdev_ms: millis(self.times.stdev()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_within_a_thousandth() {
        let mut trips = RoundTrips::default();
        assert_eq!(trips.times(), None);
        for millis in 1..=100 {
            trips.record(Duration::from_millis(millis));
        }
        let times = trips.times().unwrap();
        let is = |value: f64, wanted: f64| assert!((value / wanted - 1.0).abs() < 0.002, "{value} for {wanted}");
        is(times.min_ms, 1.0);
        is(times.avg_ms, 50.5);
        is(times.max_ms, 100.0);
        is(times.p50_ms, 50.0);
        is(times.p99_ms, 99.0);
        is(times.mdev_ms, 28.866);
        trips.record(Duration::from_secs(3600));
        is(trips.times().unwrap().max_ms, 60_000.0);
    }
}
