//! What is to be told about an attached disk: by its control socket, by `aoe-stat`.

use aoe_common::addr::Address;
use aoe_common::target_status::Latency;
use serde::{Deserialize, Serialize};

/// Whether a disk can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No target has answered yet.
    Searching,
    /// It can be used.
    Up,
    /// No target answers; requests fail until one does.
    Dead,
}

/// What a path is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathHealth {
    /// Being asked for its disk.
    Identifying,
    /// Carries requests.
    Up,
    /// Does not answer, or its interface is down.
    Failed,
    /// Leads to another disk of the same address; not used.
    Foreign,
}

impl State {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Searching => "searching",
            Self::Up => "up",
            Self::Dead => "dead",
        }
    }
}

impl PathHealth {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identifying => "identifying",
            Self::Up => "up",
            Self::Failed => "failed",
            Self::Foreign => "another disk",
        }
    }
}

/// One path of an attached disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStatus {
    /// The target's MAC address.
    pub mac: String,
    /// Our interface.
    pub interface: String,
    /// What it is good for.
    pub state: PathHealth,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: Option<u64>,
    /// Frames that may be under way.
    pub window: u32,
    /// Frames under way.
    pub in_flight: u32,
    /// Frames sent again.
    pub resends: u64,
    /// Data in the longest frame, in bytes.
    #[serde(default)]
    pub frame_bytes: u64,
    /// What both ends would take; more than `frame_bytes` where longer frames vanish on the way.
    #[serde(default)]
    pub offered_bytes: u64,
}

/// One attached disk. Counters start at the attach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its address.
    pub device: Address,
    /// Where it is attached, as it is typed.
    #[serde(rename = "where")]
    pub place: String,
    /// Whether it can be used.
    pub state: State,
    /// Its size.
    pub size_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// The process that serves it.
    pub pid: u32,
    /// Seconds since it was attached.
    pub since_s: u64,
    /// The ways to it.
    pub paths: Vec<PathStatus>,
    /// Frames sent again.
    pub resends: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Reads completed.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Writes completed.
    pub writes: u64,
    /// Their bytes.
    pub write_bytes: u64,
    /// Flushes completed.
    pub flushes: u64,
    /// Trims and zeroings completed.
    pub trims: u64,
    /// Answers to nothing that was asked.
    pub strays: u64,
    /// Answers that make no sense.
    pub bad_answers: u64,
    /// Times from the moment a request was taken from its client to that of its answer; of those that did not fail.
    #[serde(default)]
    pub read_latency: Latency,
    /// Those of writes.
    #[serde(default)]
    pub write_latency: Latency,
    /// Those of flushes.
    #[serde(default)]
    pub flush_latency: Latency,
    /// Those of trims and zeroings.
    #[serde(default)]
    pub trim_latency: Latency,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn status() -> Status {
        Status {
            device: Address::new(0, 1),
            place: "unix:/run/disk.sock".into(),
            state: State::Up,
            size_bytes: 64 << 20,
            read_only: false,
            pid: 4711,
            since_s: 5,
            paths: vec![PathStatus {
                mac: "02:00:00:00:00:02".into(),
                interface: "eth0".into(),
                state: PathHealth::Up,
                rtt_us: Some(120),
                window: 16,
                in_flight: 1,
                resends: 2,
                frame_bytes: 8704,
                offered_bytes: 8704,
            }],
            resends: 2,
            errors: 0,
            reads: 10,
            read_bytes: 40960,
            writes: 0,
            write_bytes: 0,
            flushes: 1,
            trims: 0,
            strays: 0,
            bad_answers: 0,
            read_latency: Latency::default(),
            write_latency: Latency::default(),
            flush_latency: Latency::default(),
            trim_latency: Latency::default(),
        }
    }

    #[test]
    fn the_names_in_json_are_those_that_are_documented() {
        let json = serde_json::to_value(status()).unwrap();
        assert_eq!(json["device"], "e0.1");
        assert_eq!(json["where"], "unix:/run/disk.sock");
        assert_eq!(json["state"], "up");
        assert_eq!(json["paths"][0]["rtt_us"], 120);
        assert_eq!(json["paths"][0]["state"], "up");
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status());
    }
}
