//! What a connection offers, and which requests are fit for it.

use super::protocol::{CommandFlags, CommandKind, MAX_STRING_BYTES, NbdErrno, RequestHeader, TransmissionFlags};

/// Longest payload, in bytes, that is read (and thrown away if it is refused) before a client counts as hostile and
/// its connection is closed. Twice the 32 MiB that the protocol asks every server to bear.
pub const MAX_PAYLOAD: u32 = 64 << 20;

/// The one export of a connection.
#[derive(Debug, Clone)]
pub struct ExportInfo {
    /// The name clients choose it by, for example `e0.1`. The empty name chooses it too.
    pub name: String,
    /// Size in bytes, a multiple of `block_min`.
    pub size_bytes: u64,
    /// What it can do. `HAS_FLAGS` and `SEND_DF` are the session's business and need not be set.
    pub flags: TransmissionFlags,
    /// Smallest request and alignment of all requests in bytes, a power of two from 512 to 65536.
    pub block_min: u32,
    /// Smallest request that is efficient, in bytes; a power of two, at least `block_min`.
    pub block_preferred: u32,
    /// Largest read or write in bytes: a multiple of `block_min`, at least `block_preferred`, at most [`MAX_PAYLOAD`].
    pub block_max: u32,
    /// A text for people.
    pub description: String,
}

/// Why a request is answered with an error instead of being carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub errno: NbdErrno,
    pub text: &'static str,
}

impl ExportInfo {
    /// Panics unless the fields keep what their documentation says.
    pub(super) fn assert_valid(&self) {
        assert!(self.name.len() <= MAX_STRING_BYTES && self.description.len() <= MAX_STRING_BYTES);
        assert!(self.block_min.is_power_of_two() && (512..=65536).contains(&self.block_min));
        assert!(self.block_preferred.is_power_of_two() && self.block_preferred >= self.block_min);
        assert!((self.block_preferred..=MAX_PAYLOAD).contains(&self.block_max));
        assert!(self.block_max.is_multiple_of(self.block_min));
        assert!(self.size_bytes.is_multiple_of(u64::from(self.block_min)));
    }

    /// Whether a request may be carried out. Follows the protocol's advice on which error fits which fault.
    ///
    /// A length of zero is fit if all the rest is. Trims and zeroes may be longer than `block_max`, which speaks of
    /// payloads only.
    pub(super) fn check(
        &self,
        kind: Option<CommandKind>,
        header: &RequestHeader,
        structured: bool,
    ) -> Result<(), Refusal> {
        let invalid = |text| Err(Refusal { errno: NbdErrno::Invalid, text });
        let Some(kind) = kind else { return invalid("unknown command") };

        let mut allowed = CommandFlags::empty();
        allowed.set(CommandFlags::FUA, self.flags.contains(TransmissionFlags::SEND_FUA));
        allowed.set(CommandFlags::DF, kind == CommandKind::Read && structured);
        allowed.set(CommandFlags::NO_HOLE, kind == CommandKind::WriteZeroes);
        if header.flags & !allowed.bits() != 0 {
            return invalid("unknown command flag, or one that does not fit the command");
        }

        let offered = match kind {
            CommandKind::Flush => TransmissionFlags::SEND_FLUSH,
            CommandKind::Trim => TransmissionFlags::SEND_TRIM,
            CommandKind::WriteZeroes => TransmissionFlags::SEND_WRITE_ZEROES,
            CommandKind::Read | CommandKind::Write | CommandKind::Disconnect => TransmissionFlags::empty(),
        };
        if !self.flags.contains(offered) {
            return invalid("the export does not offer this command");
        }
        let changes = matches!(kind, CommandKind::Write | CommandKind::Trim | CommandKind::WriteZeroes);
        if changes && self.flags.contains(TransmissionFlags::READ_ONLY) {
            return Err(Refusal { errno: NbdErrno::Perm, text: "the export is read-only" });
        }

        if kind == CommandKind::Flush {
            return if header.offset == 0 && header.length == 0 {
                Ok(())
            } else {
                invalid("offset and length of a flush must be zero")
            };
        }
        let min = self.block_min;
        if !header.offset.is_multiple_of(u64::from(min)) || !header.length.is_multiple_of(min) {
            return invalid("offset and length must be multiples of the smallest block size");
        }
        if matches!(kind, CommandKind::Read | CommandKind::Write) && header.length > self.block_max {
            return invalid("longer than the largest block size");
        }
        if header.offset.checked_add(u64::from(header.length)).is_none_or(|end| end > self.size_bytes) {
            let errno = match kind {
                CommandKind::Write | CommandKind::WriteZeroes => NbdErrno::NoSpace,
                _ => NbdErrno::Invalid,
            };
            return Err(Refusal { errno, text: "beyond the end of the export" });
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// 1 MiB with everything switched on.
    pub(in super::super) fn export() -> ExportInfo {
        ExportInfo {
            name: "e0.1".into(),
            size_bytes: 1 << 20,
            flags: TransmissionFlags::SEND_FLUSH
                | TransmissionFlags::SEND_FUA
                | TransmissionFlags::SEND_TRIM
                | TransmissionFlags::SEND_WRITE_ZEROES
                | TransmissionFlags::CAN_MULTI_CONN,
            block_min: 512,
            block_preferred: 4096,
            block_max: 256 << 10,
            description: "a test disk".into(),
        }
    }

    fn check(export: &ExportInfo, kind: CommandKind, flags: u16, offset: u64, length: u32) -> Result<(), NbdErrno> {
        let header = RequestHeader { flags, kind: kind.to_wire(), cookie: 1, offset, length };
        export.check(Some(kind), &header, false).map_err(|refusal| refusal.errno)
    }

    #[test]
    fn ranges_up_to_the_last_sector_are_fit() {
        let export = export();
        for kind in [CommandKind::Read, CommandKind::Write, CommandKind::Trim, CommandKind::WriteZeroes] {
            assert_eq!(check(&export, kind, 0, (1 << 20) - 512, 512), Ok(()));
            assert_eq!(check(&export, kind, 0, 1 << 20, 0), Ok(()));
            let beyond = match kind {
                CommandKind::Write | CommandKind::WriteZeroes => NbdErrno::NoSpace,
                _ => NbdErrno::Invalid,
            };
            assert_eq!(check(&export, kind, 0, (1 << 20) - 512, 1024), Err(beyond));
            assert_eq!(check(&export, kind, 0, u64::MAX - 511, 512), Err(beyond));
        }
    }

    #[test]
    fn unaligned_is_invalid() {
        for kind in [CommandKind::Read, CommandKind::Write, CommandKind::Trim, CommandKind::WriteZeroes] {
            assert_eq!(check(&export(), kind, 0, 1, 512), Err(NbdErrno::Invalid));
            assert_eq!(check(&export(), kind, 0, 512, 513), Err(NbdErrno::Invalid));
        }
    }

    #[test]
    fn block_max_bounds_payloads_only() {
        let export = export();
        assert_eq!(check(&export, CommandKind::Read, 0, 0, (256 << 10) + 512), Err(NbdErrno::Invalid));
        assert_eq!(check(&export, CommandKind::Write, 0, 0, (256 << 10) + 512), Err(NbdErrno::Invalid));
        assert_eq!(check(&export, CommandKind::Trim, 0, 0, 1 << 20), Ok(()));
        assert_eq!(check(&export, CommandKind::WriteZeroes, 0, 0, 1 << 20), Ok(()));
    }

    #[test]
    fn read_only_refuses_changes() {
        let mut export = export();
        export.flags |= TransmissionFlags::READ_ONLY;
        for kind in [CommandKind::Write, CommandKind::Trim, CommandKind::WriteZeroes] {
            assert_eq!(check(&export, kind, 0, 0, 512), Err(NbdErrno::Perm));
        }
        assert_eq!(check(&export, CommandKind::Read, 0, 0, 512), Ok(()));
        assert_eq!(check(&export, CommandKind::Flush, 0, 0, 0), Ok(()));
    }

    #[test]
    fn what_is_not_offered_is_invalid() {
        let mut export = export();
        export.flags = TransmissionFlags::empty();
        assert_eq!(check(&export, CommandKind::Flush, 0, 0, 0), Err(NbdErrno::Invalid));
        assert_eq!(check(&export, CommandKind::Trim, 0, 0, 512), Err(NbdErrno::Invalid));
        assert_eq!(check(&export, CommandKind::WriteZeroes, 0, 0, 512), Err(NbdErrno::Invalid));
        assert_eq!(check(&export, CommandKind::Write, CommandFlags::FUA.bits(), 0, 512), Err(NbdErrno::Invalid));
    }

    #[test]
    fn command_flags_fit_their_command() {
        let export = export();
        for kind in [CommandKind::Read, CommandKind::Write, CommandKind::Trim, CommandKind::WriteZeroes] {
            assert_eq!(check(&export, kind, CommandFlags::FUA.bits(), 0, 512), Ok(()));
            let no_hole = check(&export, kind, CommandFlags::NO_HOLE.bits(), 0, 512);
            assert_eq!(no_hole.is_ok(), kind == CommandKind::WriteZeroes);
            assert_eq!(check(&export, kind, CommandFlags::DF.bits(), 0, 512), Err(NbdErrno::Invalid));
            for bit in 3..16 {
                assert_eq!(check(&export, kind, 1 << bit, 0, 512), Err(NbdErrno::Invalid));
            }
        }
        let header = RequestHeader { flags: CommandFlags::DF.bits(), kind: 0, cookie: 1, offset: 0, length: 512 };
        assert_eq!(export.check(Some(CommandKind::Read), &header, true), Ok(()));
    }

    #[test]
    fn a_flush_has_no_range() {
        assert_eq!(check(&export(), CommandKind::Flush, 0, 512, 0), Err(NbdErrno::Invalid));
        assert_eq!(check(&export(), CommandKind::Flush, 0, 0, 512), Err(NbdErrno::Invalid));
    }
}
