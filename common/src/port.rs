//! A port as an engine sees it: a number, an address, and how long its frames may be.

use crate::frame::{HEADROOM, MAX_SECTORS, SECTOR};
use crate::wire::MacAddr;

/// Names a port between an engine and its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

/// A port that can send and receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Our address on it.
    pub mac: MacAddr,
    /// Largest Ethernet payload in bytes.
    pub mtu: u32,
}

impl PortInfo {
    /// Sectors that fit a frame: as every target and initiator counts them, with the Ethernet header taken off the
    /// MTU as well.
    pub fn frame_sectors(self) -> u8 {
        (self.mtu.saturating_sub(HEADROOM as u32) / SECTOR as u32).min(MAX_SECTORS as u32) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_as_everybody_counts_them() {
        let sectors = |mtu| PortInfo { mac: MacAddr(2, 0, 0, 0, 0, 1), mtu }.frame_sectors();
        assert_eq!([sectors(0), sectors(547), sectors(548)], [0, 0, 1]);
        assert_eq!([sectors(1500), sectors(4131), sectors(4132), sectors(9000)], [2, 7, 8, 17]);
        assert_eq!(sectors(1 << 20), 255);
    }
}
