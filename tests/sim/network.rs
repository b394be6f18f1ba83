//! An Ethernet segment with everything that can happen to a frame.

use aoe_common::wire::MacAddr;
use fastrand::Rng;

use super::knobs::Knobs;

/// Where a frame goes in the simulated world: a host and one of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The host.
    pub host: usize,
    /// Its port.
    pub port: u32,
}

impl Place {
    /// The MAC address there.
    pub fn mac(self) -> MacAddr {
        MacAddr(2, 0, 0, 0, self.host as u8, self.port as u8)
    }
}

/// Counts of what the network did.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkCounters {
    /// Frames sent.
    pub sent: u64,
    /// Lost.
    pub lost: u64,
    /// Delivered once more.
    pub repeated: u64,
    /// Held back for long.
    pub late: u64,
}

/// The segment: all places hear each other.
#[derive(Debug)]
pub struct Network {
    places: Vec<Place>,
    /// What it did.
    pub counters: NetworkCounters,
}

impl Network {
    /// A segment that joins `places`.
    pub fn new(places: Vec<Place>) -> Self {
        Self { places, counters: NetworkCounters::default() }
    }

    /// Sends a frame: calls `deliver` with each copy's destination and delay in nanoseconds.
    pub fn send(
        &mut self,
        knobs: &Knobs,
        rng: &mut Rng,
        from: Place,
        frame: &[u8],
        mut deliver: impl FnMut(Place, u64),
    ) {
        self.counters.sent += 1;
        assert!(frame.len() >= 60, "frames are padded");
        if frame.len() > knobs.mtu as usize + 14 {
            self.counters.lost += 1;
            return;
        }
        let destination: [u8; 6] = *frame.first_chunk().expect("frames have a header");
        for to in self.places.iter().copied().filter(|to| *to != from) {
            if destination[0] & 1 == 0 && MacAddr::from(destination) != to.mac() {
                continue;
            }
            let copies = if rng.u32(..1000) < knobs.repeat { 2 } else { 1 };
            self.counters.repeated += copies - 1;
            for _ in 0..copies {
                if rng.u32(..1000) < knobs.loss {
                    self.counters.lost += 1;
                    continue;
                }
                let late = rng.u32(..1000) < knobs.late;
                self.counters.late += u64::from(late);
                let longest = if late { knobs.late_max.max(knobs.delay_max) } else { knobs.delay_max };
                deliver(to, rng.u64(knobs.delay_min..=longest));
            }
        }
    }
}
