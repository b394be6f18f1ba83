//! The Ethernet header, with or without a VLAN tag left in the frame.

pub use pnet::util::MacAddr;
use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Malformed;

/// EtherType of AoE.
pub const ETHERTYPE_AOE: u16 = 0x88a2;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// The address of every station.
pub const BROADCAST: MacAddr = MacAddr(0xff, 0xff, 0xff, 0xff, 0xff, 0xff);

/// Offsets 0-13.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EthernetView {
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: U16,
}

/// What follows an EtherType of 0x8100: the tag, then the real EtherType.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct VlanView {
    tci: U16,
    ethertype: U16,
}

/// The Ethernet part of an AoE frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetRepr {
    /// Receiver.
    pub destination: MacAddr,
    /// Sender. AoE knows stations by this address alone.
    pub source: MacAddr,
    /// Tag control information of an in-frame VLAN tag. Kernels strip tags on receipt, so this is seen on
    /// captures and on links that keep them.
    pub vlan: Option<u16>,
}

impl EthernetRepr {
    /// Reads the header of an AoE frame and returns it with the bytes that follow.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (view, rest) = EthernetView::ref_from_prefix(bytes).map_err(|_| Malformed::Short)?;
        let (vlan, ethertype, rest) = match view.ethertype.get() {
            ETHERTYPE_VLAN => {
                let (tag, rest) = VlanView::ref_from_prefix(rest).map_err(|_| Malformed::Short)?;
                (Some(tag.tci.get()), tag.ethertype.get(), rest)
            }
            ethertype => (None, ethertype, rest),
        };
        if ethertype != ETHERTYPE_AOE {
            return Err(Malformed::EtherType);
        }
        Ok((Self { destination: view.destination.into(), source: view.source.into(), vlan }, rest))
    }

    /// Bytes that `emit` writes: 14, or 18 with a VLAN tag.
    pub const fn wire_len(&self) -> usize {
        if self.vlan.is_some() { 18 } else { 14 }
    }

    /// Writes the header and returns the bytes behind it.
    ///
    /// # Panics
    /// When `out` is shorter than `wire_len()`.
    pub fn emit<'a>(&self, out: &'a mut [u8]) -> &'a mut [u8] {
        let (view, rest) = EthernetView::mut_from_prefix(out).expect("room for an Ethernet header");
        view.destination = self.destination.octets();
        view.source = self.source.octets();
        let Some(tci) = self.vlan else {
            view.ethertype.set(ETHERTYPE_AOE);
            return rest;
        };
        view.ethertype.set(ETHERTYPE_VLAN);
        let (tag, rest) = VlanView::mut_from_prefix(rest).expect("room for a VLAN tag");
        tag.tci.set(tci);
        tag.ethertype.set(ETHERTYPE_AOE);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: [u8; 15] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xa2, 0x77];
    const TAGGED: [u8; 19] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0x00, 0x20, 0x05, 0x88, 0xa2, 0x77];

    #[test]
    fn plain_and_tagged() {
        for (bytes, vlan) in [(&PLAIN[..], None), (&TAGGED[..], Some(0x2005))] {
            let (repr, rest) = EthernetRepr::parse(bytes).unwrap();
            assert_eq!(repr.vlan, vlan);
            assert_eq!(repr.source, MacAddr(2, 0, 0, 0, 0, 1));
            assert_eq!(rest, [0x77]);
            let mut out = [0xa5; 19];
            assert_eq!(repr.emit(&mut out[..bytes.len()]), [0xa5]);
            assert_eq!(out[..repr.wire_len()], bytes[..repr.wire_len()]);
        }
    }

    #[test]
    fn cut_at_every_length() {
        for bytes in [&PLAIN[..14], &TAGGED[..18]] {
            for len in 0..bytes.len() {
                assert_eq!(EthernetRepr::parse(&bytes[..len]), Err(Malformed::Short), "{len}");
            }
        }
    }

    #[test]
    fn other_protocols_are_refused() {
        let mut arp = PLAIN;
        arp[13] = 0x06;
        assert_eq!(EthernetRepr::parse(&arp), Err(Malformed::EtherType));
        let mut double_tag = TAGGED;
        double_tag[16..18].copy_from_slice(&[0x81, 0x00]);
        assert_eq!(EthernetRepr::parse(&double_tag), Err(Malformed::EtherType));
    }
}
