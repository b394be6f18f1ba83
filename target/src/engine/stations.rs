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
    /// Known by what it wrote.
    Identity(Identity),
}

/// The identities of stations.
#[derive(Debug, Default)]
pub struct Stations {
    identities: HashMap<MacAddr, Identity>,
    order: VecDeque<MacAddr>,
}

impl Stations {
    /// A station says who it is.
    pub fn register(&mut self, mac: MacAddr, identity: Identity) {
        if self.identities.insert(mac, identity).is_some() {
            self.order.retain(|known| *known != mac);
        } else if self.identities.len() > STATIONS_MAX {
            let oldest = self.order.pop_front().expect("as many as there are identities");
            self.identities.remove(&oldest);
        }
        self.order.push_back(mac);
    }

    /// What it said, if it is still known.
    pub fn identity(&self, mac: MacAddr) -> Option<Identity> {
        self.identities.get(&mac).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: usize) -> MacAddr {
        MacAddr(2, 0, 0, 0, (n >> 8) as u8, n as u8)
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
