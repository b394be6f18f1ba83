//! What happens in a second, from two looks at counters. A value: no clock, no sockets.

use aoe_common::target_status::{ExportStatus, Latency};

use crate::status::Status;

/// Counters of one disk at one moment. They only grow, until what counts is started anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads completed.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Writes completed.
    pub writes: u64,
    /// Their bytes.
    pub write_bytes: u64,
    /// Frames sent again; at a target, frames that came again.
    pub again: u64,
    /// Times of reads.
    pub read_latency: Latency,
    /// Times of writes.
    pub write_latency: Latency,
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Reads a second.
    pub reads: f64,
    /// Their bytes a second.
    pub read_bytes: f64,
    /// Writes a second.
    pub writes: f64,
    /// Their bytes a second.
    pub write_bytes: f64,
    /// Frames again, a second.
    pub again: f64,
    /// Times of the reads in between.
    pub read_latency: Latency,
    /// Times of the writes in between.
    pub write_latency: Latency,
}

impl Counters {
    /// The rates since an earlier look, so many seconds ago. None when no time has passed, or when a counter has become
    /// smaller: what counts has been started anew, and what it had counted before is not known.
    pub fn rates(&self, before: &Self, seconds: f64) -> Option<Rates> {
        let rate = |now: u64, then: u64| rate(now, then, seconds);
        let (reads, writes) = (self.read_latency.count(), self.write_latency.count());
        let has_grown = reads >= before.read_latency.count() && writes >= before.write_latency.count();
        has_grown.then_some(())?;
        Some(Rates {
            reads: rate(self.reads, before.reads)?,
            read_bytes: rate(self.read_bytes, before.read_bytes)?,
            writes: rate(self.writes, before.writes)?,
            write_bytes: rate(self.write_bytes, before.write_bytes)?,
            again: rate(self.again, before.again)?,
            read_latency: self.read_latency.since(&before.read_latency),
            write_latency: self.write_latency.since(&before.write_latency),
        })
    }
}

/// The rate of one counter over so many seconds; see [`Counters::rates`].
pub fn rate(now: u64, then: u64, seconds: f64) -> Option<f64> {
    let count = now.checked_sub(then)?;
    (seconds > 0.0).then(|| count as f64 / seconds)
}

impl From<&Status> for Counters {
    fn from(status: &Status) -> Self {
        Self {
            reads: status.reads,
            read_bytes: status.read_bytes,
            writes: status.writes,
            write_bytes: status.write_bytes,
            again: status.resends,
            read_latency: status.read_latency,
            write_latency: status.write_latency,
        }
    }
}

impl From<&ExportStatus> for Counters {
    fn from(status: &ExportStatus) -> Self {
        Self {
            reads: status.reads,
            read_bytes: status.read_bytes,
            writes: status.writes,
            write_bytes: status.write_bytes,
            again: status.repeats,
            read_latency: status.read_latency,
            write_latency: status.write_latency,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let before = Counters { reads: 100, read_bytes: 409_600, again: 3, ..Counters::default() };
        let mut after = Counters { reads: 300, read_bytes: 1_228_800, writes: 5, again: 3, ..before };
        after.read_latency.record(100);
        let rates = after.rates(&before, 2.0).unwrap();
        assert_eq!((rates.reads, rates.read_bytes, rates.writes, rates.again), (100.0, 409_600.0, 2.5, 0.0));
        assert_eq!((rates.read_latency.count(), rates.write_latency.count()), (1, 0));
    }

    #[test]
    fn nothing_is_said_of_what_was_started_anew_or_of_no_time() {
        let before = Counters { reads: 100, writes: 7, ..Counters::default() };
        assert_eq!(Counters { reads: 5, ..before }.rates(&before, 1.0), None);
        assert_eq!(before.rates(&before, 0.0), None);
        let mut recorded = before;
        recorded.write_latency.record(1);
        assert_eq!(before.rates(&recorded, 1.0), None);
        assert!(before.rates(&before, 0.001).is_some());
    }
}
