//! Command 0: issue an ATA command. Offsets 24-35, data from 36.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Malformed;

/// The largest sector number of a 28-bit command.
pub const LBA28_MAX: u64 = (1 << 28) - 1;
/// The largest sector number of a 48-bit command.
pub const LBA48_MAX: u64 = (1 << 48) - 1;

/// Offsets 24-35.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct AtaView {
    flags: u8,
    feature: u8,
    count: u8,
    command: u8,
    lba: [u8; 6],
    reserved: [u8; 2],
}

bitflags! {
    /// AFlags, offset 24. Unknown bits survive a round trip.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AtaFlags: u8 {
        /// W: the initiator sends data to the device.
        const WRITE = 0x01;
        /// A: the target may answer before the write is done. Ours never does.
        const ASYNC = 0x02;
        /// D: device/head bit of an extended command.
        const DEVICE = 0x10;
        /// E: a 48-bit (extended) command.
        const EXTENDED = 0x40;
        const _ = !0;
    }
}

/// The ATA registers of a request or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtaRepr {
    /// AFlags.
    pub flags: AtaFlags,
    /// Features register in a request, Error register in an answer.
    pub feature: u8,
    /// Sector count; 8 bits are all the wire has.
    pub count: u8,
    /// Command register in a request, Status register in an answer.
    pub command: u8,
    /// The six LBA registers as one number, lba0 least significant. In a 28-bit command bits 24-27 are LBA
    /// and bits 28-31 belong to the Device register.
    pub registers: u64,
}

impl AtaRepr {
    /// Bytes on the wire, data not counted.
    pub const WIRE_LEN: usize = size_of::<AtaView>();

    /// The sector number: 48 bits in an extended command, 28 otherwise.
    pub fn lba(&self) -> u64 {
        if self.flags.contains(AtaFlags::EXTENDED) { self.registers } else { self.registers & LBA28_MAX }
    }

    /// Reads the registers and returns them with the data (and padding) that follows.
    pub fn parse(body: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (view, data) = AtaView::ref_from_prefix(body).map_err(|_| Malformed::Short)?;
        let [l0, l1, l2, l3, l4, l5] = view.lba;
        let repr = Self {
            flags: AtaFlags::from_bits_retain(view.flags),
            feature: view.feature,
            count: view.count,
            command: view.command,
            registers: u64::from_le_bytes([l0, l1, l2, l3, l4, l5, 0, 0]),
        };
        Ok((repr, data))
    }

    /// Writes the registers and returns the bytes behind them.
    ///
    /// # Panics
    /// When `out` is shorter than `WIRE_LEN`.
    pub fn emit<'a>(&self, out: &'a mut [u8]) -> &'a mut [u8] {
        assert!(self.registers <= LBA48_MAX, "LBA registers hold 48 bits");
        let (view, rest) = AtaView::mut_from_prefix(out).expect("room for the ATA registers");
        view.flags = self.flags.bits();
        view.feature = self.feature;
        view.count = self.count;
        view.command = self.command;
        view.lba.copy_from_slice(&self.registers.to_le_bytes()[..6]);
        view.reserved = [0; 2];
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn read_ext_of_lba_3() {
        let bytes = [0x40, 0, 2, 0x24, 3, 0, 0, 0, 0, 0, 0, 0];
        let (repr, data) = AtaRepr::parse(&bytes).unwrap();
        assert_eq!(repr, AtaRepr { flags: AtaFlags::EXTENDED, feature: 0, count: 2, command: 0x24, registers: 3 });
        assert!(data.is_empty());
        let mut out = [0xa5; 12];
        repr.emit(&mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn lba28_leaves_the_device_register_out() {
        let bytes = [0x00, 0, 1, 0x20, 0x11, 0x22, 0x33, 0xe4, 0x55, 0x66, 0xee, 0xee];
        let (repr, _) = AtaRepr::parse(&bytes).unwrap();
        assert_eq!(repr.lba(), 0x0433_2211);
        let extended = AtaRepr { flags: AtaFlags::EXTENDED, ..repr };
        assert_eq!(extended.lba(), 0x6655_e433_2211);
    }

    #[test]
    fn cut_at_every_length() {
        for len in 0..12 {
            assert_eq!(AtaRepr::parse(&[0; 12][..len]), Err(Malformed::Short));
        }
    }

    proptest! {
        #[test]
        fn round_trip(flags: u8, feature: u8, count: u8, command: u8, registers in 0..=LBA48_MAX) {
            let repr = AtaRepr { flags: AtaFlags::from_bits_retain(flags), feature, count, command, registers };
            let mut out = [0xa5; AtaRepr::WIRE_LEN];
            repr.emit(&mut out);
            prop_assert_eq!(AtaRepr::parse(&out).unwrap().0, repr);
        }
    }
}
