//! Who a station is, beyond its MAC address.
//!
//! An initiator with several ports has several MAC addresses. When it has to send a write again by another port,
//! the target must still see that it is the same write. So initiators of ours write an identity of 16 bytes,
//! drawn anew for each run, to a log of the export; from then on their requests are known by it. The table is
//! bounded: the station that registered longest ago is forgotten first, and is then known by its MAC address.
//!
//! When another run follows at the same address, copies of what the run before it wrote may still come from there. So
//! what an address was known by is kept for as long as requests are remembered.

use std::collections::VecDeque;

use aoe_common::hash::FastMap;
use aoe_common::time::Instant;
use aoe_common::wire::MacAddr;

use super::repeats::MEMORY;

/// Stations with an identity at the most.
pub const STATIONS_MAX: usize = 1024;

/// What one address was known by before, at the most; beyond that the oldest is forgotten.
const FORMER_MAX: usize = 8;

/// What a station wrote to say who it is.
pub type Identity = [u8; 16];

/// A station, as a sender of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Station {
    /// Known by its address alone.
    Mac(MacAddr),
    /// Known by what it wrote, which has this number.
    Identity(u64),
}

#[derive(Debug)]
struct Known {
    identity: Identity,
    number: u64,
    /// Numbers it had before, and until when that matters.
    former: Vec<(u64, Instant)>,
}

/// The identities of stations.
#[derive(Debug, Default)]
pub struct Stations {
    identities: FastMap<MacAddr, Known>,
    order: VecDeque<MacAddr>,
    numbers: u64,
}

impl Stations {
    /// A station says who it is.
    pub fn register(&mut self, now: Instant, mac: MacAddr, identity: Identity) {
        // One that several addresses share has one number.
        let known =
            self.order.iter().filter_map(|mac| self.identities.get(mac)).find(|known| known.identity == identity);
        let number = known.map_or(self.numbers + 1, |known| known.number);
        self.numbers = self.numbers.max(number);
        if let Some(known) = self.identities.get_mut(&mac) {
            if known.number != number {
                known.former.retain(|(former, until)| *until > now && *former != number);
                if known.former.len() == FORMER_MAX {
                    known.former.remove(0);
                }
                known.former.push((known.number, now + MEMORY));
                (known.identity, known.number) = (identity, number);
            }
            self.order.retain(|known| *known != mac);
        } else {
            if self.identities.len() == STATIONS_MAX {
                let oldest = self.order.pop_front().expect("as many as there are identities");
                self.identities.remove(&oldest);
            }
            self.identities.insert(mac, Known { identity, number, former: Vec::new() });
        }
        self.order.push_back(mac);
    }

    /// What it said, if it is still known.
    pub fn identity(&self, mac: MacAddr) -> Option<Identity> {
        self.identities.get(&mac).map(|known| known.identity)
    }

    /// The number of that, which no other identity ever has, and the numbers of what it said before, the latest first.
    pub fn numbers(&self, now: Instant, mac: MacAddr) -> (Option<u64>, impl Iterator<Item = u64> + '_) {
        let known = self.identities.get(&mac);
        let former = known.into_iter().flat_map(|known| known.former.iter().rev());
        let former = former.filter(move |(_, until)| *until > now).map(|(number, _)| *number);
        (known.map(|known| known.number), former)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: usize) -> MacAddr {
        MacAddr(2, 0, 0, 0, (n >> 8) as u8, n as u8)
    }

    #[test]
    fn addresses_of_one_station_have_one_number() {
        let mut stations = Stations::default();
        stations.register(Instant::ZERO, mac(1), [1; 16]);
        stations.register(Instant::ZERO, mac(2), [2; 16]);
        stations.register(Instant::ZERO, mac(3), [1; 16]);
        stations.register(Instant::ZERO, mac(1), [1; 16]);
        let numbers = [1, 2, 3, 4].map(|n| stations.numbers(Instant::ZERO, mac(n)).0);
        assert_eq!(numbers, [Some(1), Some(2), Some(1), None]);
        stations.register(Instant::ZERO, mac(2), [3; 16]);
        stations.register(Instant::ZERO, mac(4), [2; 16]);
        assert_eq!(
            [2, 4].map(|n| stations.numbers(Instant::ZERO, mac(n)).0),
            [Some(3), Some(4)],
            "a forgotten number is not used again"
        );
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut stations = Stations::default();
        for n in 0..STATIONS_MAX {
            stations.register(Instant::ZERO, mac(n), [n as u8; 16]);
        }
        stations.register(Instant::ZERO, mac(0), [9; 16]);
        stations.register(Instant::ZERO, mac(STATIONS_MAX), [7; 16]);
        assert_eq!(stations.identity(mac(0)), Some([9; 16]), "registering again makes it the newest");
        assert_eq!(stations.identity(mac(1)), None);
        assert_eq!((stations.identities.len(), stations.order.len()), (STATIONS_MAX, STATIONS_MAX));
    }

    #[test]
    fn what_an_address_was_known_by_is_kept_for_a_while() {
        let mut stations = Stations::default();
        let later = Instant::ZERO + MEMORY;
        for run in 1..=3 {
            stations.register(Instant::ZERO, mac(1), [run; 16]);
        }
        stations.register(Instant::ZERO, mac(1), [2; 16]);
        let former = |at| stations.numbers(at, mac(1)).1.collect::<Vec<_>>();
        assert_eq!(
            stations.numbers(Instant::ZERO, mac(1)).0,
            Some(4),
            "a number is not found again once no address has it"
        );
        assert_eq!(former(Instant::ZERO), [3, 2, 1]);
        assert!(former(later).is_empty());
        for run in 10..30 {
            stations.register(Instant::ZERO, mac(1), [run; 16]);
        }
        assert_eq!(stations.numbers(Instant::ZERO, mac(1)).1.count(), FORMER_MAX);
    }
}
