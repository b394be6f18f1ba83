//! An Ethernet segment with everything that can happen to a frame.

use std::collections::{BTreeMap, BTreeSet};

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

/// Which way a place is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// It hears nothing.
    In,
    /// It is not heard.
    Out,
}

/// The segment: all places hear each other, unless cut off.
#[derive(Debug, Default)]
pub struct Network {
    /// The places and the largest payload each takes, in bytes.
    places: BTreeMap<Place, u32>,
    cuts: BTreeSet<(Place, Direction)>,
    /// Longer payloads vanish on the way, in bytes; nobody is told.
    pub narrow: Option<u32>,
    /// What it did.
    pub counters: NetworkCounters,
}

impl Network {
    /// A place is there, and takes payloads of this many bytes.
    pub fn set_place(&mut self, place: Place, mtu: u32) {
        self.places.insert(place, mtu);
    }

    /// The largest payload of a place, in bytes.
    pub fn mtu(&self, place: Place) -> u32 {
        self.places[&place]
    }

    /// A place is cut off.
    pub fn cut(&mut self, place: Place, direction: Direction) {
        self.cuts.insert((place, direction));
    }

    /// A place is cut off no more.
    pub fn mend(&mut self, place: Place, direction: Direction) {
        self.cuts.remove(&(place, direction));
    }

    /// Nothing is cut off any more.
    pub fn mend_all(&mut self) {
        self.cuts.clear();
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
        let fits = |mtu: u32| frame.len() <= mtu as usize + 14;
        let vanishes = self.narrow.is_some_and(|most| !fits(most));
        if vanishes
            || self.cuts.contains(&(from, Direction::Out))
            || self.places.get(&from).is_some_and(|mtu| !fits(*mtu))
        {
            self.counters.lost += 1;
            return;
        }
        let Some(destination) = frame.first_chunk::<6>().copied() else { return };
        for (to, mtu) in self.places.iter().filter(|(to, _)| **to != from) {
            if destination[0] & 1 == 0 && MacAddr::from(destination) != to.mac() {
                continue;
            }
            let copies = if rng.u32(..1000) < knobs.repeat { 2 } else { 1 };
            self.counters.repeated += copies - 1;
            for _ in 0..copies {
                if rng.u32(..1000) < knobs.loss || self.cuts.contains(&(*to, Direction::In)) || !fits(*mtu) {
                    self.counters.lost += 1;
                    continue;
                }
                let late = rng.u32(..1000) < knobs.late;
                self.counters.late += u64::from(late);
                let longest = if late { knobs.late_max.max(knobs.delay_max) } else { knobs.delay_max };
                deliver(*to, rng.u64(knobs.delay_min..=longest));
            }
        }
    }
}
