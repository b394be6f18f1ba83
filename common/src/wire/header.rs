//! The AoE header, offsets 14-23, and the frame it opens.

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{EthernetRepr, Malformed};
use crate::addr::Address;

/// The version this implementation speaks.
pub const VERSION: u8 = 1;

const FLAG_RESPONSE: u8 = 0x08;
const FLAG_ERROR: u8 = 0x04;

/// Offsets 14-23.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct HeaderView {
    version_flags: u8,
    error: u8,
    shelf: U16,
    slot: u8,
    command: u8,
    tag: U32,
}

/// What a message is about (offset 19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// 0: issue an ATA command.
    Ata,
    /// 1: query or set the config string.
    Config,
    /// 2: read or edit the MAC mask list.
    Mask,
    /// 3: read or set the reservation.
    Reserve,
    /// 0xF0-0xFF: left to vendors.
    Vendor(u8),
    /// Reserved by the protocol.
    Unknown(u8),
}

impl From<u8> for Command {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Ata,
            1 => Self::Config,
            2 => Self::Mask,
            3 => Self::Reserve,
            0xf0..=0xff => Self::Vendor(code),
            _ => Self::Unknown(code),
        }
    }
}

impl From<Command> for u8 {
    fn from(command: Command) -> Self {
        match command {
            Command::Ata => 0,
            Command::Config => 1,
            Command::Mask => 2,
            Command::Reserve => 3,
            Command::Vendor(code) | Command::Unknown(code) => code,
        }
    }
}

/// Why a target refused a request (offset 15, when the E flag is set).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// 1: unrecognized command code.
    UnknownCommand,
    /// 2: a field of the request is improper.
    BadArgument,
    /// 3: the device can no longer take ATA commands.
    DeviceUnavailable,
    /// 4: a config string is already set.
    ConfigPresent,
    /// 5: unsupported protocol version.
    UnsupportedVersion,
    /// 6: the target is reserved by others.
    Reserved,
    /// Not defined in this revision.
    Unknown(u8),
}

impl From<u8> for ErrorCode {
    fn from(code: u8) -> Self {
        match code {
            1 => Self::UnknownCommand,
            2 => Self::BadArgument,
            3 => Self::DeviceUnavailable,
            4 => Self::ConfigPresent,
            5 => Self::UnsupportedVersion,
            6 => Self::Reserved,
            _ => Self::Unknown(code),
        }
    }
}

impl From<ErrorCode> for u8 {
    fn from(error: ErrorCode) -> Self {
        match error {
            ErrorCode::UnknownCommand => 1,
            ErrorCode::BadArgument => 2,
            ErrorCode::DeviceUnavailable => 3,
            ErrorCode::ConfigPresent => 4,
            ErrorCode::UnsupportedVersion => 5,
            ErrorCode::Reserved => 6,
            ErrorCode::Unknown(code) => code,
        }
    }
}

impl core::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::UnknownCommand => f.write_str("unrecognized command"),
            Self::BadArgument => f.write_str("bad argument"),
            Self::DeviceUnavailable => f.write_str("device unavailable"),
            Self::ConfigPresent => f.write_str("config string present"),
            Self::UnsupportedVersion => f.write_str("unsupported version"),
            Self::Reserved => f.write_str("target is reserved"),
            Self::Unknown(code) => write!(f, "error {code}"),
        }
    }
}

/// The AoE header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderRepr {
    /// Protocol version. Answers may carry 0 (vblade's start-up advert does).
    pub version: u8,
    /// Set in answers and adverts.
    pub response: bool,
    /// Set when the request failed as an AoE request; failed ATA commands are ordinary answers.
    pub error: Option<ErrorCode>,
    /// Shelf and slot; wildcards in requests only.
    pub address: Address,
    /// What the message is about.
    pub command: Command,
    /// Chosen by the initiator, repeated in the answer; 0 in adverts.
    pub tag: u32,
}

impl HeaderRepr {
    /// Bytes on the wire.
    pub const WIRE_LEN: usize = size_of::<HeaderView>();

    /// Reads the header and returns it with the bytes that follow.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (view, rest) = HeaderView::ref_from_prefix(bytes).map_err(|_| Malformed::Short)?;
        let header = Self {
            version: view.version_flags >> 4,
            response: view.version_flags & FLAG_RESPONSE != 0,
            error: (view.version_flags & FLAG_ERROR != 0).then(|| view.error.into()),
            address: Address::new(view.shelf.get(), view.slot),
            command: view.command.into(),
            tag: view.tag.get(),
        };
        Ok((header, rest))
    }

    /// Writes the header and returns the bytes behind it.
    ///
    /// # Panics
    /// When `out` is shorter than `WIRE_LEN`.
    pub fn emit<'a>(&self, out: &'a mut [u8]) -> &'a mut [u8] {
        let (view, rest) = HeaderView::mut_from_prefix(out).expect("room for an AoE header");
        let response = if self.response { FLAG_RESPONSE } else { 0 };
        let error = if self.error.is_some() { FLAG_ERROR } else { 0 };
        view.version_flags = self.version << 4 | response | error;
        view.error = self.error.map_or(0, Into::into);
        view.shelf.set(self.address.shelf);
        view.slot = self.address.slot;
        view.command = self.command.into();
        view.tag.set(self.tag);
        rest
    }
}

/// A whole AoE frame: parsed headers and the command's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Ethernet part.
    pub ethernet: EthernetRepr,
    /// AoE header.
    pub header: HeaderRepr,
    /// Everything from offset 24 on: the command's arguments, data, and padding.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads both headers.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (ethernet, rest) = EthernetRepr::parse(bytes)?;
        let (header, body) = HeaderRepr::parse(rest)?;
        Ok(Self { ethernet, header, body })
    }

    /// Writes both headers and returns the bytes behind them.
    ///
    /// # Panics
    /// When `out` is too short.
    pub fn emit_headers<'b>(ethernet: &EthernetRepr, header: &HeaderRepr, out: &'b mut [u8]) -> &'b mut [u8] {
        header.emit(ethernet.emit(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MacAddr;
    use proptest::prelude::*;

    /// Start-up advert of vblade 25 for e1.2 on MTU 1500; its version nibble is 0.
    pub const VBLADE_ADVERT: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x01, 0x88, 0xa2, 0x08, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0,
        0x10, 0x40, 0x19, 0x02, 0x10, 0, 0,
    ];

    #[test]
    fn parses_an_advert() {
        let frame = Frame::parse(&VBLADE_ADVERT).unwrap();
        assert_eq!(frame.ethernet.source, MacAddr(2, 0, 0, 0, 0, 1));
        assert_eq!(
            frame.header,
            HeaderRepr {
                version: 0,
                response: true,
                error: None,
                address: Address::new(1, 2),
                command: Command::Config,
                tag: 0
            }
        );
        assert_eq!(frame.body.len(), 8);
    }

    #[test]
    fn emits_an_error_answer() {
        let header = HeaderRepr {
            version: VERSION,
            response: true,
            error: Some(ErrorCode::ConfigPresent),
            address: Address::new(1, 2),
            command: Command::Config,
            tag: 0x1234,
        };
        let mut out = [0xa5; 10];
        header.emit(&mut out);
        assert_eq!(out, [0x1c, 4, 0, 1, 2, 1, 0, 0, 0x12, 0x34]);
    }

    #[test]
    fn cut_at_every_length() {
        for len in 0..24 {
            assert_eq!(Frame::parse(&VBLADE_ADVERT[..len]), Err(Malformed::Short));
        }
        assert!(Frame::parse(&VBLADE_ADVERT[..24]).unwrap().body.is_empty());
    }

    #[test]
    fn every_code_survives_a_round_trip() {
        for code in 0..=u8::MAX {
            assert_eq!(u8::from(Command::from(code)), code);
            assert_eq!(u8::from(ErrorCode::from(code)), code);
        }
    }

    proptest! {
        #[test]
        fn round_trip(
            version in 0u8..16, response: bool, error: Option<u8>, shelf: u16, slot: u8, command: u8, tag: u32,
        ) {
            let header = HeaderRepr {
                version, response, error: error.map(Into::into),
                address: Address::new(shelf, slot), command: command.into(), tag,
            };
            let mut out = [0xa5; HeaderRepr::WIRE_LEN + 1];
            prop_assert_eq!(header.emit(&mut out), &[0xa5]);
            prop_assert_eq!(HeaderRepr::parse(&out).unwrap(), (header, &[0xa5][..]));
        }

        #[test]
        fn any_bytes_parse_without_panic(bytes: Vec<u8>) {
            let _ = Frame::parse(&bytes);
        }
    }
}
