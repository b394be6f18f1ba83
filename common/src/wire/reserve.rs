//! Command 3: reserve and release. Offsets 24-25, MAC addresses from 26.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{MacAddr, Malformed};

/// The most stations one reservation can name (its count has 8 bits).
pub const RESERVE_MAX: usize = 255;

/// Offsets 24-25.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ReserveView {
    command: u8,
    mac_count: u8,
}

/// RCmd, offset 24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveCommand {
    /// 0: answer with the reservation.
    Read,
    /// 1: reserve, if nobody else has; an empty list releases.
    Set,
    /// 2: reserve whoever has it now.
    ForceSet,
    /// Not defined.
    Unknown(u8),
}

impl From<u8> for ReserveCommand {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Set,
            2 => Self::ForceSet,
            _ => Self::Unknown(code),
        }
    }
}

impl From<ReserveCommand> for u8 {
    fn from(command: ReserveCommand) -> Self {
        match command {
            ReserveCommand::Read => 0,
            ReserveCommand::Set => 1,
            ReserveCommand::ForceSet => 2,
            ReserveCommand::Unknown(code) => code,
        }
    }
}

/// A reserve request or answer: what is asked and which stations it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReserveRepr {
    /// What is asked, or was.
    pub command: ReserveCommand,
    /// Stations that follow.
    pub mac_count: u8,
}

impl ReserveRepr {
    /// Bytes on the wire before the addresses.
    pub const FIXED_LEN: usize = size_of::<ReserveView>();
    /// Bytes of one address.
    pub const MAC_LEN: usize = 6;

    /// Reads the fixed part and the addresses behind it. A list beyond the frame is `Malformed::Length`; the
    /// protocol answers that with error 2.
    pub fn parse(body: &[u8]) -> Result<(Self, impl Iterator<Item = MacAddr> + Clone + '_), Malformed> {
        let (view, rest) = ReserveView::ref_from_prefix(body).map_err(|_| Malformed::Short)?;
        let repr = Self { command: view.command.into(), mac_count: view.mac_count };
        let (macs, _) = <[[u8; Self::MAC_LEN]]>::ref_from_prefix_with_elems(rest, usize::from(repr.mac_count))
            .map_err(|_| Malformed::Length)?;
        Ok((repr, macs.iter().map(|mac| MacAddr::from(*mac))))
    }

    /// Writes the fixed part and the addresses, and returns the bytes behind them.
    ///
    /// # Panics
    /// When `out` is too short.
    pub fn emit<'a>(&self, macs: impl IntoIterator<Item = MacAddr>, out: &'a mut [u8]) -> &'a mut [u8] {
        let (view, mut rest) = ReserveView::mut_from_prefix(out).expect("room for a reserve message");
        view.command = self.command.into();
        view.mac_count = self.mac_count;
        for mac in macs {
            let (field, behind) = rest.split_at_mut(Self::MAC_LEN);
            field.copy_from_slice(&mac.octets());
            rest = behind;
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn set_by_one_station() {
        let bytes = [1, 1, 2, 0, 0, 0, 0, 9, 0, 0];
        let (repr, macs) = ReserveRepr::parse(&bytes).unwrap();
        assert_eq!(repr, ReserveRepr { command: ReserveCommand::Set, mac_count: 1 });
        let macs: Vec<_> = macs.collect();
        assert_eq!(macs, [MacAddr(2, 0, 0, 0, 0, 9)]);
        let mut out = [0xa5; 8];
        assert!(repr.emit(macs, &mut out).is_empty());
        assert_eq!(out, bytes[..8]);
    }

    #[test]
    fn more_addresses_than_bytes() {
        assert!(matches!(ReserveRepr::parse(&[1, 2, 2, 0, 0, 0, 0, 9]), Err(Malformed::Length)));
        assert!(matches!(ReserveRepr::parse(&[1]), Err(Malformed::Short)));
    }

    proptest! {
        #[test]
        fn round_trip(command: u8, macs in proptest::collection::vec(any::<[u8; 6]>(), 0..=RESERVE_MAX)) {
            let macs: Vec<MacAddr> = macs.into_iter().map(Into::into).collect();
            let repr = ReserveRepr { command: command.into(), mac_count: macs.len() as u8 };
            let mut out = vec![0xa5; ReserveRepr::FIXED_LEN + macs.len() * ReserveRepr::MAC_LEN];
            repr.emit(macs.iter().copied(), &mut out);
            let (parsed, found) = ReserveRepr::parse(&out).unwrap();
            prop_assert_eq!(parsed, repr);
            prop_assert!(found.eq(macs));
        }
    }
}
