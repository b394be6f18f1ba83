//! Command 2: the MAC mask list. Offsets 24-27, directives of 8 bytes from 28.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{MacAddr, Malformed};

/// Offsets 24-27.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct MaskView {
    reserved: u8,
    command: u8,
    error: u8,
    directive_count: u8,
}

/// One directive, 8 bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct DirectiveView {
    reserved: u8,
    command: u8,
    mac: [u8; 6],
}

/// MCmd, offset 25.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskCommand {
    /// 0: answer with the list.
    Read,
    /// 1: run the directives in order.
    Edit,
    /// Not defined.
    Unknown(u8),
}

impl From<u8> for MaskCommand {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Edit,
            _ => Self::Unknown(code),
        }
    }
}

impl From<MaskCommand> for u8 {
    fn from(command: MaskCommand) -> Self {
        match command {
            MaskCommand::Read => 0,
            MaskCommand::Edit => 1,
            MaskCommand::Unknown(code) => code,
        }
    }
}

/// MError, offset 26 of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskError {
    /// 1: unspecified.
    Unspecified,
    /// 2: a directive that is not known.
    BadDirective,
    /// 3: the list is full.
    Full,
    /// Not defined.
    Unknown(u8),
}

impl MaskError {
    fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => None,
            1 => Some(Self::Unspecified),
            2 => Some(Self::BadDirective),
            3 => Some(Self::Full),
            _ => Some(Self::Unknown(code)),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Unspecified => 1,
            Self::BadDirective => 2,
            Self::Full => 3,
            Self::Unknown(code) => code,
        }
    }
}

/// DCmd, byte 1 of a directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectiveCommand {
    /// 0: nothing to do; what the entries of an answer carry.
    None,
    /// 1: put the address on the list.
    Add,
    /// 2: take it off.
    Delete,
    /// Not defined.
    Unknown(u8),
}

impl From<u8> for DirectiveCommand {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::None,
            1 => Self::Add,
            2 => Self::Delete,
            _ => Self::Unknown(code),
        }
    }
}

impl From<DirectiveCommand> for u8 {
    fn from(command: DirectiveCommand) -> Self {
        match command {
            DirectiveCommand::None => 0,
            DirectiveCommand::Add => 1,
            DirectiveCommand::Delete => 2,
            DirectiveCommand::Unknown(code) => code,
        }
    }
}

/// One directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectiveRepr {
    /// What to do with the address.
    pub command: DirectiveCommand,
    /// The station.
    pub mac: MacAddr,
}

/// A mask request or answer. After a failed edit `directive_count` is the index of the directive that
/// failed and no directives follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskRepr {
    /// What is asked, or was.
    pub command: MaskCommand,
    /// Why the edit stopped.
    pub error: Option<MaskError>,
    /// Directives that follow, or the index of the one that failed.
    pub directive_count: u8,
}

impl MaskRepr {
    /// Bytes on the wire before the directives.
    pub const FIXED_LEN: usize = size_of::<MaskView>();
    /// Bytes of one directive.
    pub const DIRECTIVE_LEN: usize = size_of::<DirectiveView>();

    /// Reads the fixed part and the directives behind it.
    pub fn parse(body: &[u8]) -> Result<(Self, impl Iterator<Item = DirectiveRepr> + Clone + '_), Malformed> {
        let (view, rest) = MaskView::ref_from_prefix(body).map_err(|_| Malformed::Short)?;
        let repr = Self {
            command: view.command.into(),
            error: MaskError::from_code(view.error),
            directive_count: view.directive_count,
        };
        let count = if repr.error.is_some() { 0 } else { usize::from(repr.directive_count) };
        let (directives, _) =
            <[DirectiveView]>::ref_from_prefix_with_elems(rest, count).map_err(|_| Malformed::Length)?;
        let directives =
            directives.iter().map(|view| DirectiveRepr { command: view.command.into(), mac: view.mac.into() });
        Ok((repr, directives))
    }

    /// Writes the fixed part and one directive for each item, and returns the bytes behind them.
    ///
    /// # Panics
    /// When `out` is too short.
    pub fn emit<'a>(&self, directives: impl IntoIterator<Item = DirectiveRepr>, out: &'a mut [u8]) -> &'a mut [u8] {
        let (view, mut rest) = MaskView::mut_from_prefix(out).expect("room for a mask message");
        view.reserved = 0;
        view.command = self.command.into();
        view.error = self.error.map_or(0, MaskError::code);
        view.directive_count = self.directive_count;
        for directive in directives {
            let (view, behind) = DirectiveView::mut_from_prefix(rest).expect("room for a directive");
            view.reserved = 0;
            view.command = directive.command.into();
            view.mac = directive.mac.octets();
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
    fn edit_with_two_directives() {
        let bytes = [0, 1, 0, 2, 0, 1, 2, 0, 0, 0, 0, 1, 0, 2, 2, 0, 0, 0, 0, 2, 0xed];
        let (repr, directives) = MaskRepr::parse(&bytes).unwrap();
        assert_eq!(repr, MaskRepr { command: MaskCommand::Edit, error: None, directive_count: 2 });
        let directives: Vec<_> = directives.collect();
        assert_eq!(
            directives,
            [
                DirectiveRepr { command: DirectiveCommand::Add, mac: MacAddr(2, 0, 0, 0, 0, 1) },
                DirectiveRepr { command: DirectiveCommand::Delete, mac: MacAddr(2, 0, 0, 0, 0, 2) },
            ]
        );
        let mut out = [0xa5; 21];
        assert_eq!(repr.emit(directives, &mut out), [0xa5]);
        assert_eq!(out[..20], bytes[..20]);
    }

    #[test]
    fn failed_edit() {
        let repr = MaskRepr { command: MaskCommand::Edit, error: Some(MaskError::BadDirective), directive_count: 1 };
        let mut out = [0xa5; 4];
        repr.emit([], &mut out);
        assert_eq!(out, [0, 1, 2, 1]);
        let (parsed, directives) = MaskRepr::parse(&out).unwrap();
        assert_eq!((parsed, directives.count()), (repr, 0));
    }

    #[test]
    fn more_directives_than_bytes() {
        let bytes = [0, 1, 0, 2, 0, 1, 2, 0, 0, 0, 0, 1, 0, 2, 2, 0, 0, 0, 0];
        assert!(matches!(MaskRepr::parse(&bytes), Err(Malformed::Length)));
        for len in 0..4 {
            assert!(matches!(MaskRepr::parse(&bytes[..len]), Err(Malformed::Short)));
        }
    }

    proptest! {
        #[test]
        fn round_trip(command: u8, directives in proptest::collection::vec((any::<u8>(), any::<[u8; 6]>()), 0..255)) {
            let directives: Vec<_> = directives.into_iter()
                .map(|(command, mac)| DirectiveRepr { command: command.into(), mac: mac.into() }).collect();
            let repr = MaskRepr { command: command.into(), error: None, directive_count: directives.len() as u8 };
            let mut out = vec![0xa5; MaskRepr::FIXED_LEN + directives.len() * MaskRepr::DIRECTIVE_LEN];
            repr.emit(directives.iter().copied(), &mut out);
            let (parsed, found) = MaskRepr::parse(&out).unwrap();
            prop_assert_eq!(parsed, repr);
            prop_assert!(found.eq(directives));
        }

        #[test]
        fn any_bytes_parse_without_panic(bytes: Vec<u8>) {
            if let Ok((_, directives)) = MaskRepr::parse(&bytes) { directives.for_each(drop); }
        }
    }
}
