//! Who a station is, beyond its MAC address.
//!
//! An initiator with several ports has several MAC addresses. When it has to send a write again by another port,
//! the target must still see that it is the same write. So initiators of ours write an identity of 16 bytes,
//! drawn anew for each run, to a log of the export; from then on their requests are known by it. The table is
//! bounded: the station that registered longest ago is forgotten first, and is then known by its MAC address.

use std::collections::{HashMap, VecDeque};

use aoe_common::wire::MacAddr;

/// Stations with an identity at the most.
pub const STATIONS_MAX: usize = 1024;

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

/// The identities of stations.
#[derive(Debug, Default)]
pub struct Stations {
    identities: HashMap<MacAddr, (Identity, u64)>,
    order: VecDeque<MacAddr>,
    numbers: u64,
}

impl Stations {
    /// A station says who it is.
    pub fn register(&mut self, mac: MacAddr, identity: Identity) {
        // One that several addresses share has one number.
        let known = self.order.iter().filter_map(|mac| self.identities.get(mac)).find(|known| known.0 == identity);
        let number = known.map_or(self.numbers + 1, |known| known.1);
        self.numbers = self.numbers.max(number);
        if self.identities.insert(mac, (identity, number)).is_some() {
            self.order.retain(|known| *known != mac);
        } else if self.identities.len() > STATIONS_MAX {
            let oldest = self.order.pop_front().expect("as many as there are identities");
            self.identities.remove(&oldest);
        }
        self.order.push_back(mac);
    }

    /// What it said, if it is still known.
    pub fn identity(&self, mac: MacAddr) -> Option<Identity> {
        self.identities.get(&mac).map(|known| known.0)
    }

    /// The number of that. No other identity ever has it.
    pub fn number(&self, mac: MacAddr) -> Option<u64> {
        self.identities.get(&mac).map(|known| known.1)
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
        stations.register(mac(1), [1; 16]);
        stations.register(mac(2), [2; 16]);
        stations.register(mac(3), [1; 16]);
        stations.register(mac(1), [1; 16]);
        let numbers = [1, 2, 3, 4].map(|n| stations.number(mac(n)));
        assert_eq!(numbers, [Some(1), Some(2), Some(1), None]);
        stations.register(mac(2), [3; 16]);
        stations.register(mac(4), [2; 16]);
        assert_eq!([2, 4].map(|n| stations.number(mac(n))), [Some(3), Some(4)], "a forgotten number is not used again");
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_oldest() {
        let mut stations = Stations::default();
        for n in 0..STATIONS_MAX {
            stations.register(mac(n), [n as u8; 16]);
        }
        stations.register(mac(0), [9; 16]);
        stations.register(mac(STATIONS_MAX), [7; 16]);
        assert_eq!(stations.identity(mac(0)), Some([9; 16]), "registering again makes it the newest");
        assert_eq!(stations.identity(mac(1)), None);
        assert_eq!((stations.identities.len(), stations.order.len()), (STATIONS_MAX, STATIONS_MAX));
    }
}
