//! What a target tells of itself over its control socket: to `aoe-target ctl status`, to `aoe-stat`.

use serde::{Deserialize, Serialize};

use crate::addr::Address;

/// A target. Counters start with the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Its version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// Seconds since it was started.
    pub since_s: u64,
    /// Takes no new requests.
    pub draining: bool,
    /// The interfaces it serves on.
    pub interfaces: Vec<InterfaceStatus>,
    /// By address.
    pub exports: Vec<ExportStatus>,
    /// What the configuration file names and could not be opened.
    #[serde(default)]
    pub not_served: Vec<NotServed>,
    /// Frames that are no AoE requests, cut short, or from impossible senders.
    pub malformed: u64,
    /// Requests to addresses that are not served.
    pub not_ours: u64,
    /// Requests and answers dropped because no buffer was free.
    pub no_buffer: u64,
    /// Writes forgotten before their time: of these a late copy would not have been recognised.
    pub forgotten_early: u64,
}

/// An export that the configuration file names, or a family of such, and that is not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotServed {
    /// Its address; of a family of which no file was found, its shelf and any slot.
    pub device: Address,
    /// The file or block device; of a family the pattern.
    pub path: String,
    /// Where the file names it, why it is not served and what to do.
    pub reason: String,
}

/// An interface of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// It has a link.
    pub up: bool,
    /// Frames received.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames lost because the receive ring was full.
    pub kernel_drops: u64,
}

/// One export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportStatus {
    /// Its address.
    pub device: Address,
    /// The file or block device.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// When writes are acknowledged: `auto`, `writeback`, `writethrough`.
    pub cache: String,
    /// Goes around the page cache.
    pub direct: bool,
    /// Requests it says it can queue.
    pub buffers: u16,
    /// Serial number.
    pub serial: String,
    /// Stations the operator lets in; none: all.
    pub allow: Vec<String>,
    /// The mask list; none: all.
    pub mask: Vec<String>,
    /// Who holds the reservation.
    pub reservation: Vec<String>,
    /// The config string, bytes that are no text escaped.
    pub config_string: String,
    /// Who may edit these three over the wire.
    pub edits: EditsStatus,
    /// Acknowledged data was lost, and why; writes are refused.
    pub lost: Option<String>,
    /// Writes are held for so many more seconds after a restart.
    pub held_s: Option<u64>,
    /// Takes no new requests, by `drain`.
    pub draining: bool,
    /// Requests under way.
    pub in_flight: u64,
    /// READ commands answered with data.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// WRITE commands done.
    pub writes: u64,
    /// Their bytes.
    pub write_bytes: u64,
    /// FLUSH commands done.
    pub flushes: u64,
    /// TRIM and ZERO commands done.
    pub trims: u64,
    /// ATA commands that failed.
    pub errors: u64,
    /// Repeated requests that were not run again.
    pub repeats: u64,
    /// Writes refused because the same station had a newer one run.
    pub stale: u64,
    /// Writes dropped because they came soon after a restart.
    pub held: u64,
    /// Requests that had to wait for an overlapping one.
    pub waits: u64,
    /// Requests of stations that may not use it.
    pub refused: u64,
    /// Edits that were left to others, by `edits`.
    pub edits_refused: u64,
    /// Requests dropped because too many were waiting.
    pub overflows: u64,
    /// Times from a request's arrival to the start of its answer.
    pub read_latency: Latency,
    /// Those of writes.
    pub write_latency: Latency,
    /// Those of flushes.
    pub flush_latency: Latency,
    /// Those who use it.
    pub stations: Vec<StationStatus>,
}

/// Who may edit over the wire what stations can set of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditsStatus {
    /// The config string.
    pub config: EditorsStatus,
    /// The mask list.
    pub mask: EditorsStatus,
    /// The reservation.
    pub reservation: EditorsStatus,
}

/// Who may make an edit, as in the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EditorsStatus {
    /// `all` or `none`.
    Word(String),
    /// Stations.
    These(Vec<String>),
}

impl EditorsStatus {
    /// Everybody.
    pub fn all() -> Self {
        Self::Word("all".to_owned())
    }
}

/// What an export has on record of one station.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StationStatus {
    /// Its MAC address.
    pub mac: String,
    /// READ requests handed to the disk.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// WRITE, ZERO and TRIM requests handed to the disk.
    pub writes: u64,
    /// The bytes of the WRITE requests.
    pub write_bytes: u64,
    /// Frames that had no effect because it is shut out.
    pub ignored: u64,
}

/// Buckets of a [`Latency`].
pub const LATENCY_BUCKETS: usize = 25;

/// Times in buckets: the first counts those below 1 microsecond, each further one those below twice the limit of the one
/// before, the last (above 8 s) has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many fell into each.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl Latency {
    /// One more.
    pub fn record(&mut self, microseconds: u64) {
        let bucket = (u64::BITS - microseconds.leading_zeros()) as usize;
        self.buckets[bucket.min(LATENCY_BUCKETS - 1)] += 1;
        self.sum_us = self.sum_us.saturating_add(microseconds);
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The upper limit of the bucket below which this share of them lies (0 to 1), in microseconds.
    pub fn below(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let wanted = (count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reaches = |in_bucket: &u64| {
            seen += in_bucket;
            seen >= wanted
        };
        (count > 0).then(|| 1 << self.buckets.iter().position(reaches).expect("all of them are in buckets"))
    }

    /// What has come since an earlier look.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut new = *self;
        for (bucket, before) in new.buckets.iter_mut().zip(earlier.buckets) {
            *bucket = bucket.saturating_sub(before);
        }
        new.sum_us = new.sum_us.saturating_sub(earlier.sum_us);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_buckets_by_powers_of_two() {
        let mut latency = Latency::default();
        assert_eq!(latency.below(0.5), None);
        for time in [0, 1, 2, 3, 4, 1000, u64::MAX] {
            latency.record(time);
        }
        assert_eq!(latency.count(), 7);
        assert_eq!(latency.buckets[..4], [1, 1, 2, 1]);
        assert_eq!(latency.buckets[10], 1);
        assert_eq!(latency.buckets[LATENCY_BUCKETS - 1], 1);
        assert_eq!((latency.below(0.0), latency.below(0.5), latency.below(1.0)), (Some(1), Some(4), Some(1 << 24)));
    }

    #[test]
    fn what_came_since_is_the_difference() {
        let mut before = Latency::default();
        before.record(5);
        let mut after = before;
        after.record(100);
        let new = after.since(&before);
        assert_eq!((new.count(), new.sum_us), (1, 100));
        assert_eq!(before.since(&after).count(), 0, "of a target that was started anew");
    }
}
