//! Command 1: query and set the config string; also the advert. Offsets 24-31, string from 32.

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Malformed, VERSION};

/// The longest config string, in bytes.
pub const CONFIG_STRING_MAX: usize = 1024;

/// Offsets 24-31.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ConfigView {
    buffer_count: U16,
    firmware: U16,
    sector_count: u8,
    version_command: u8,
    string_len: U16,
}

/// CCmd, the low nibble of offset 29.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigCommand {
    /// 0: answer with the string.
    Read,
    /// 1: answer only if the string is equal.
    Test,
    /// 2: answer only if the string begins so.
    Prefix,
    /// 3: set the string if there is none.
    Set,
    /// 4: set the string.
    ForceSet,
    /// 5-15: not defined.
    Unknown(u8),
}

impl From<u8> for ConfigCommand {
    fn from(code: u8) -> Self {
        match code & 0x0f {
            0 => Self::Read,
            1 => Self::Test,
            2 => Self::Prefix,
            3 => Self::Set,
            4 => Self::ForceSet,
            code => Self::Unknown(code),
        }
    }
}

impl From<ConfigCommand> for u8 {
    fn from(command: ConfigCommand) -> Self {
        match command {
            ConfigCommand::Read => 0,
            ConfigCommand::Test => 1,
            ConfigCommand::Prefix => 2,
            ConfigCommand::Set => 3,
            ConfigCommand::ForceSet => 4,
            ConfigCommand::Unknown(code) => code,
        }
    }
}

/// A config request, answer or advert. The numbers mean something in answers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigRepr<'a> {
    /// Messages the target can queue.
    pub buffer_count: u16,
    /// The target's firmware version.
    pub firmware: u16,
    /// Largest sector count of one ATA command; 0 from old targets, to be read as 2.
    pub sector_count: u8,
    /// Highest protocol version the target speaks; 0 in requests.
    pub version: u8,
    /// What is asked, or was.
    pub command: ConfigCommand,
    /// The config string, at most `CONFIG_STRING_MAX` bytes.
    pub string: &'a [u8],
}

impl<'a> ConfigRepr<'a> {
    /// Bytes on the wire before the string.
    pub const FIXED_LEN: usize = size_of::<ConfigView>();

    /// A request.
    pub const fn request(command: ConfigCommand, string: &'a [u8]) -> Self {
        Self { buffer_count: 0, firmware: 0, sector_count: 0, version: 0, command, string }
    }

    /// Reads a config message. In a request to read, the string and its length mean nothing and may be filler
    /// (aoeping sends a length of 1024 with none behind it), so they are left out.
    pub fn parse(body: &'a [u8], response: bool) -> Result<Self, Malformed> {
        let (view, rest) = ConfigView::ref_from_prefix(body).map_err(|_| Malformed::Short)?;
        let command = ConfigCommand::from(view.version_command);
        let string_len = match command {
            ConfigCommand::Read if !response => 0,
            _ => usize::from(view.string_len.get()),
        };
        if string_len > CONFIG_STRING_MAX {
            return Err(Malformed::Length);
        }
        Ok(Self {
            buffer_count: view.buffer_count.get(),
            firmware: view.firmware.get(),
            sector_count: view.sector_count,
            version: view.version_command >> 4,
            command,
            string: rest.get(..string_len).ok_or(Malformed::Length)?,
        })
    }

    /// Bytes that `emit` writes.
    pub fn wire_len(&self) -> usize {
        Self::FIXED_LEN + self.string.len()
    }

    /// Writes the message and returns the bytes behind it.
    ///
    /// # Panics
    /// When `out` is shorter than `wire_len()`, or the string longer than `CONFIG_STRING_MAX`.
    pub fn emit<'b>(&self, out: &'b mut [u8]) -> &'b mut [u8] {
        assert!(self.string.len() <= CONFIG_STRING_MAX, "config strings have at most {CONFIG_STRING_MAX} bytes");
        let (view, rest) = ConfigView::mut_from_prefix(out).expect("room for a config message");
        view.buffer_count.set(self.buffer_count);
        view.firmware.set(self.firmware);
        view.sector_count = self.sector_count;
        view.version_command = self.version << 4 | u8::from(self.command);
        view.string_len.set(self.string.len() as u16);
        let (string, rest) = rest.split_at_mut(self.string.len());
        string.copy_from_slice(self.string);
        rest
    }

    /// The numbers of an answer: this protocol version and the target's own.
    pub const fn answer(
        buffer_count: u16,
        firmware: u16,
        sector_count: u8,
        command: ConfigCommand,
        string: &'a [u8],
    ) -> Self {
        Self { buffer_count, firmware, sector_count, version: VERSION, command, string }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answer_of_vblade() {
        let bytes = [0x00, 0x10, 0x40, 0x19, 0x02, 0x13, 0x00, 0x03, b'a', b'b', b'c'];
        let repr = ConfigRepr::parse(&bytes, true).unwrap();
        assert_eq!(repr, ConfigRepr::answer(16, 0x4019, 2, ConfigCommand::Set, b"abc"));
        let mut out = [0xa5; 11];
        repr.emit(&mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn filler_in_a_read_request_is_ignored() {
        let bytes = [0, 0, 0, 0, 0, 0, 0xff, 0xff];
        assert_eq!(ConfigRepr::parse(&bytes, false).unwrap(), ConfigRepr::request(ConfigCommand::Read, b""));
    }

    #[test]
    fn impossible_lengths() {
        assert_eq!(ConfigRepr::parse(&[0, 0, 0, 0, 0, 3, 0, 3, b'a', b'b'], false), Err(Malformed::Length));
        let mut long = vec![0; 8 + 1025];
        long[5] = 3;
        long[6..8].copy_from_slice(&1025u16.to_be_bytes());
        assert_eq!(ConfigRepr::parse(&long, false), Err(Malformed::Length));
        long[6..8].copy_from_slice(&1024u16.to_be_bytes());
        assert_eq!(ConfigRepr::parse(&long, false).unwrap().string.len(), 1024);
        for len in 0..8 {
            assert_eq!(ConfigRepr::parse(&long[..len], false), Err(Malformed::Short));
        }
    }

    proptest! {
        #[test]
        fn round_trip(buffer_count: u16, firmware: u16, sector_count: u8, version in 0u8..16, command in 0u8..16,
                      string in proptest::collection::vec(any::<u8>(), 0..64)) {
            let repr = ConfigRepr {
                buffer_count, firmware, sector_count, version, command: command.into(), string: &string,
            };
            let mut out = vec![0xa5; repr.wire_len()];
            repr.emit(&mut out);
            prop_assert_eq!(ConfigRepr::parse(&out, true).unwrap(), repr);
        }
    }
}
