//! The handshake: fixed newstyle negotiation about one export.
//!
//! Bytes of complete messages go in, the bytes of the answers and what happens next come out.

use super::export::ExportInfo;
use super::protocol::{
    ClientFlags, EXPORT_NAME_ZEROES, Greeting, HandshakeFlags, InfoKind, MAX_STRING_BYTES, OptionHeader, OptionKind,
    OptionReplyHeader, OptionReplyKind, TransmissionFlags,
};
use super::session::ClosedReason;

/// Longest option, in bytes, that is looked at: the longest name and any sensible number of information requests.
/// Longer ones are read, thrown away and refused.
pub const MAX_OPTION_BYTES: u32 = 4096 + MAX_STRING_BYTES as u32;
/// Options a client may send on one connection.
pub const MAX_OPTIONS: u32 = 64;

/// What follows an option.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next option.
    Option,
    /// The transmission phase.
    Transmission,
    /// The end, after the answer is sent.
    End(ClosedReason),
}

/// What both sides have agreed on so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Negotiation {
    fixed_newstyle: bool,
    no_zeroes: bool,
    structured_replies: bool,
    options: u32,
}

impl Negotiation {
    /// What the server sends first.
    pub fn greeting() -> Vec<u8> {
        Greeting { flags: HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES }.to_bytes().to_vec()
    }

    /// Whether reads are to be answered with structured replies.
    pub fn structured_replies(&self) -> bool {
        self.structured_replies
    }

    /// Takes the client's answer to the greeting.
    pub fn client_flags(&mut self, bits: u32) -> Result<(), ClosedReason> {
        let flags = ClientFlags::from_bits(bits).ok_or(ClosedReason::UnknownClientFlags(bits))?;
        self.fixed_newstyle = flags.contains(ClientFlags::FIXED_NEWSTYLE);
        self.no_zeroes = flags.contains(ClientFlags::NO_ZEROES);
        Ok(())
    }

    /// Counts an option and says whether its client may send it at all.
    pub fn admit(&mut self, header: &OptionHeader) -> Result<(), ClosedReason> {
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return Err(ClosedReason::TooManyOptions);
        }
        let export_name = header.option == OptionKind::ExportName.to_wire();
        if !self.fixed_newstyle && !export_name {
            return Err(ClosedReason::NotFixedNewstyle);
        }
        // This option has no error reply, so there is no use in reading all of a name that cannot be ours.
        if export_name && header.length > MAX_OPTION_BYTES {
            return Err(ClosedReason::OversizeOption(header.length));
        }
        Ok(())
    }

    /// The answer to an option that was too long to look at.
    pub fn refuse_oversize(&self, option: u32, answer: &mut Vec<u8>) {
        match OptionKind::from_wire(option) {
            Some(_) => put_error(answer, option, OptionReplyKind::ErrTooBig, "the option is too long"),
            None => put_unsupported(answer, option),
        }
    }

    /// Answers an option.
    pub fn option(&mut self, export: &ExportInfo, option: u32, data: &[u8], answer: &mut Vec<u8>) -> Next {
        use OptionReplyKind::{Ack, ErrInvalid, Server};
        match OptionKind::from_wire(option) {
            None => put_unsupported(answer, option),
            Some(OptionKind::ExportName) => {
                if !chooses(export, data) {
                    let name = String::from_utf8_lossy(&data[..data.len().min(64)]).into_owned();
                    return Next::End(ClosedReason::UnknownExport(name));
                }
                answer.extend_from_slice(&export.size_bytes.to_be_bytes());
                answer.extend_from_slice(&self.transmission_flags(export).bits().to_be_bytes());
                if !self.no_zeroes {
                    answer.resize(answer.len() + EXPORT_NAME_ZEROES, 0);
                }
                return Next::Transmission;
            }
            Some(OptionKind::Abort) => {
                put(answer, option, Ack, &[]);
                return Next::End(ClosedReason::Aborted);
            }
            Some(OptionKind::List) if data.is_empty() => {
                let name = export.name.as_bytes();
                let length = (name.len() as u32).to_be_bytes();
                put(answer, option, Server, &[&length, name, export.description.as_bytes()]);
                put(answer, option, Ack, &[]);
            }
            Some(OptionKind::StructuredReply) if data.is_empty() => {
                self.structured_replies = true;
                put(answer, option, Ack, &[]);
            }
            Some(OptionKind::List | OptionKind::StructuredReply) => {
                put_error(answer, option, ErrInvalid, "this option has no data");
            }
            Some(kind @ (OptionKind::Info | OptionKind::Go)) => {
                let Some((name, wanted)) = parse_info_request(data) else {
                    put_error(answer, option, ErrInvalid, "the lengths inside the option do not add up");
                    return Next::Option;
                };
                if !chooses(export, name) {
                    let text = format!("no such export here, ask for {:?} or the empty name", export.name);
                    put_error(answer, option, OptionReplyKind::ErrUnknown, &text);
                    return Next::Option;
                }
                self.describe(export, option, wanted, answer);
                if kind == OptionKind::Go {
                    return Next::Transmission;
                }
            }
        }
        Next::Option
    }

    fn transmission_flags(&self, export: &ExportInfo) -> TransmissionFlags {
        let mut flags = export.flags | TransmissionFlags::HAS_FLAGS;
        flags.set(TransmissionFlags::SEND_DF, self.structured_replies);
        flags
    }

    /// Every kind of information wanted, once, in the order of [`InfoKind`]; the export's size and flags always.
    fn describe(&self, export: &ExportInfo, option: u32, wanted: &[[u8; 2]], answer: &mut Vec<u8>) {
        for &kind in InfoKind::ALL {
            let number = kind.to_wire().to_be_bytes();
            if kind != InfoKind::Export && !wanted.contains(&number) {
                continue;
            }
            let mut put_info = |parts: [&[u8]; 3]| {
                put(answer, option, OptionReplyKind::Info, &[&number, parts[0], parts[1], parts[2]]);
            };
            match kind {
                InfoKind::Export => {
                    let flags = self.transmission_flags(export).bits();
                    put_info([&export.size_bytes.to_be_bytes(), &flags.to_be_bytes(), &[]]);
                }
                InfoKind::Name => put_info([export.name.as_bytes(), &[], &[]]),
                InfoKind::Description => put_info([export.description.as_bytes(), &[], &[]]),
                InfoKind::BlockSize => put_info([
                    &export.block_min.to_be_bytes(),
                    &export.block_preferred.to_be_bytes(),
                    &export.block_max.to_be_bytes(),
                ]),
            }
        }
        put(answer, option, OptionReplyKind::Ack, &[]);
    }
}

fn chooses(export: &ExportInfo, name: &[u8]) -> bool {
    name.is_empty() || name == export.name.as_bytes()
}

/// Name and wanted information of `NBD_OPT_INFO` and `NBD_OPT_GO`, if the lengths add up.
fn parse_info_request(data: &[u8]) -> Option<(&[u8], &[[u8; 2]])> {
    let (length, data) = data.split_first_chunk()?;
    let (name, data) = data.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let (count, data) = data.split_first_chunk()?;
    let (wanted, rest) = data.as_chunks();
    (rest.is_empty() && wanted.len() == usize::from(u16::from_be_bytes(*count))).then_some((name, wanted))
}

fn put(answer: &mut Vec<u8>, option: u32, kind: OptionReplyKind, data: &[&[u8]]) {
    let length = data.iter().map(|part| part.len()).sum::<usize>() as u32;
    answer.extend_from_slice(&OptionReplyHeader { option, kind, length }.to_bytes());
    for part in data {
        answer.extend_from_slice(part);
    }
}

fn put_error(answer: &mut Vec<u8>, option: u32, kind: OptionReplyKind, text: &str) {
    put(answer, option, kind, &[text.as_bytes()]);
}

fn put_unsupported(answer: &mut Vec<u8>, option: u32) {
    put_error(answer, option, OptionReplyKind::ErrUnsupported, "this server does not know the option");
}

#[cfg(test)]
mod tests {
    use super::super::export::tests::export;
    use super::*;

    /// A negotiation with a modern client.
    fn negotiation() -> Negotiation {
        let mut negotiation = Negotiation::default();
        negotiation.client_flags(3).unwrap();
        negotiation
    }

    fn answer(negotiation: &mut Negotiation, option: u32, data: &[u8]) -> (Vec<u8>, Next) {
        negotiation.admit(&OptionHeader { option, length: data.len() as u32 }).unwrap();
        let mut bytes = Vec::new();
        let next = negotiation.option(&export(), option, data, &mut bytes);
        (bytes, next)
    }

    fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x00, 0x03, 0xe8, 0x89, 0x04, 0x55, 0x65, 0xa9];
        bytes.extend_from_slice(&option.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    /// Size 1 MiB; flags: has, flush, FUA, trim, zeroes, multi-conn.
    const EXPORT_INFO: &[u8] = b"\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x01\x6d";

    #[test]
    fn go_with_the_empty_name_and_no_requests() {
        let (bytes, next) = answer(&mut negotiation(), 7, b"\0\0\0\0\0\0");
        assert_eq!(bytes, [reply(7, 3, EXPORT_INFO), reply(7, 1, b"")].concat());
        assert_eq!(next, Next::Transmission);
    }

    #[test]
    fn go_with_the_name_and_block_sizes() {
        let (bytes, next) = answer(&mut negotiation(), 7, b"\0\0\0\x04e0.1\0\x01\0\x03");
        let sizes = b"\x00\x03\x00\x00\x02\x00\x00\x00\x10\x00\x00\x04\x00\x00";
        assert_eq!(bytes, [reply(7, 3, EXPORT_INFO), reply(7, 3, sizes), reply(7, 1, b"")].concat());
        assert_eq!(next, Next::Transmission);
    }

    #[test]
    fn info_with_everything_twice_and_unknown_kinds() {
        let wanted = b"\0\x0a\0\x00\0\x01\0\x02\0\x03\0\x03\0\x02\0\x01\0\x00\xff\xff\0\x04";
        let (bytes, next) = answer(&mut negotiation(), 6, &[b"\0\0\0\x04e0.1", wanted.as_slice()].concat());
        let expected = [
            reply(6, 3, EXPORT_INFO),
            reply(6, 3, b"\0\x01e0.1"),
            reply(6, 3, b"\0\x02a test disk"),
            reply(6, 3, b"\x00\x03\x00\x00\x02\x00\x00\x00\x10\x00\x00\x04\x00\x00"),
            reply(6, 1, b""),
        ];
        assert_eq!(bytes, expected.concat());
        assert_eq!(next, Next::Option);
    }

    #[test]
    fn structured_replies_come_with_the_df_flag() {
        let mut negotiation = negotiation();
        assert!(!negotiation.structured_replies());
        assert_eq!(answer(&mut negotiation, 8, b""), (reply(8, 1, b""), Next::Option));
        assert!(negotiation.structured_replies());
        let (bytes, _) = answer(&mut negotiation, 7, b"\0\0\0\0\0\0");
        let info = b"\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x01\xed";
        assert_eq!(bytes, [reply(7, 3, info), reply(7, 1, b"")].concat());
    }

    #[test]
    fn list_names_the_export() {
        let expected = [reply(3, 2, b"\0\0\0\x04e0.1a test disk"), reply(3, 1, b"")].concat();
        assert_eq!(answer(&mut negotiation(), 3, b""), (expected, Next::Option));
    }

    #[test]
    fn abort_is_acknowledged() {
        assert_eq!(answer(&mut negotiation(), 2, b""), (reply(2, 1, b""), Next::End(ClosedReason::Aborted)));
        // Data are of no interest any more.
        assert_eq!(answer(&mut negotiation(), 2, b"bye").1, Next::End(ClosedReason::Aborted));
    }

    #[test]
    fn export_name_with_and_without_zeroes() {
        let (bytes, next) = answer(&mut negotiation(), 1, b"e0.1");
        assert_eq!((bytes.as_slice(), next), (&EXPORT_INFO[2..], Next::Transmission));

        for flags in [0, 1] {
            let mut old = Negotiation::default();
            old.client_flags(flags).unwrap();
            let (bytes, next) = answer(&mut old, 1, b"");
            assert_eq!(bytes, [&EXPORT_INFO[2..], &[0; 124]].concat());
            assert_eq!(next, Next::Transmission);
        }
    }

    #[test]
    fn a_wrong_name_is_refused() {
        let text = b"no such export here, ask for \"e0.1\" or the empty name";
        let request = b"\0\0\0\x04e0.2\0\0";
        assert_eq!(answer(&mut negotiation(), 7, request), (reply(7, 0x8000_0006, text), Next::Option));
        assert_eq!(answer(&mut negotiation(), 6, request), (reply(6, 0x8000_0006, text), Next::Option));
        let (bytes, next) = answer(&mut negotiation(), 1, b"e0.2");
        assert_eq!((bytes, next), (Vec::new(), Next::End(ClosedReason::UnknownExport("e0.2".into()))));
    }

    #[test]
    fn unknown_options_and_tls_are_unsupported() {
        let text = b"this server does not know the option";
        for option in [0, 4, 5, 9, 10, 11, u32::MAX] {
            let (bytes, next) = answer(&mut negotiation(), option, b"whatever");
            assert_eq!((bytes, next), (reply(option, 0x8000_0001, text), Next::Option));
        }
    }

    #[test]
    fn data_that_make_no_sense_are_invalid() {
        let malformed: &[&[u8]] = &[
            b"",
            b"\0\0\0",
            b"\0\0\0\x05e0.1\0",
            b"\xff\xff\xff\xffe0.1\0\0",
            b"\0\0\0\x04e0.1\0",
            b"\0\0\0\x04e0.1\0\x01",
            b"\0\0\0\x04e0.1\0\x01\0",
            b"\0\0\0\x04e0.1\0\x01\0\x03\0",
            b"\0\0\0\x04e0.1\0\0\0\x03",
        ];
        for data in malformed {
            for option in [6, 7] {
                let (bytes, next) = answer(&mut negotiation(), option, data);
                let text = b"the lengths inside the option do not add up";
                assert_eq!((bytes, next), (reply(option, 0x8000_0003, text), Next::Option), "{data:?}");
            }
        }
        for option in [3, 8] {
            let mut negotiation = negotiation();
            let (bytes, next) = answer(&mut negotiation, option, b"x");
            assert_eq!((bytes, next), (reply(option, 0x8000_0003, b"this option has no data"), Next::Option));
            assert!(!negotiation.structured_replies());
        }
    }

    #[test]
    fn oversize_options_are_refused_by_kind() {
        let mut bytes = Vec::new();
        negotiation().refuse_oversize(7, &mut bytes);
        assert_eq!(bytes, reply(7, 0x8000_0009, b"the option is too long"));
        bytes.clear();
        negotiation().refuse_oversize(77, &mut bytes);
        assert_eq!(bytes, reply(77, 0x8000_0001, b"this server does not know the option"));
    }

    #[test]
    fn clients_that_break_the_rules_are_dropped() {
        assert_eq!(Negotiation::default().client_flags(7), Err(ClosedReason::UnknownClientFlags(7)));

        let mut old = Negotiation::default();
        old.client_flags(2).unwrap();
        let go = OptionHeader { option: 7, length: 6 };
        assert_eq!(old.admit(&go), Err(ClosedReason::NotFixedNewstyle));

        let mut talker = negotiation();
        for _ in 0..MAX_OPTIONS {
            talker.admit(&go).unwrap();
        }
        assert_eq!(talker.admit(&go), Err(ClosedReason::TooManyOptions));

        let long_name = OptionHeader { option: 1, length: MAX_OPTION_BYTES + 1 };
        assert_eq!(negotiation().admit(&long_name), Err(ClosedReason::OversizeOption(MAX_OPTION_BYTES + 1)));
    }
}
