//! The NBD handshake with a client that sends options of every kind, or anything else.

use aoe_initiator::nbd::protocol::{Greeting, OPTION_REPLY_MAGIC, OptionHeader, OptionKind, OptionReplyHeader};
use aoe_initiator::nbd::{ClosedReason, MAX_OPTION_BYTES, Session};

use super::Bytes;
use super::nbd_stream::{Client, any_export};

/// Output that one option may cause: every kind of information, with the longest name in two of them.
const ANSWER_MAX: usize = 3 * 4096;

/// Talks until the input ends, then hangs up.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let export = any_export(&mut bytes);
    let mut client = Client::new(Session::negotiating(export));
    client.pull();
    let flags = if bytes.rarely(8) { bytes.u32() } else { u32::from(bytes.u8() & 3) };
    client.to_feed.extend(flags.to_be_bytes());
    while !bytes.is_empty() {
        match bytes.below(4) {
            0 | 1 => option(&mut bytes, &mut client.to_feed),
            2 => client.feed(1 + usize::from(bytes.u16())),
            _ => client.listen(1 + usize::from(bytes.u8())),
        }
        check_memory(&client);
        // What the engine is asked for once the negotiation is over is another target's business.
        for request in std::mem::take(&mut client.requests) {
            client.session.complete(request.id, Err(aoe_initiator::nbd::NbdErrno::Io));
            client.pull();
        }
    }
    finish(client);
}

/// An option that is well-formed, or nearly.
fn option(bytes: &mut Bytes<'_>, out: &mut Vec<u8>) {
    let kind = match bytes.below(8) {
        0 => bytes.u32(),
        _ => bytes.pick(&[6, 7, 8, 3, 1, 2, 6]),
    };
    let mut data = Vec::new();
    match bytes.below(4) {
        0 => data.extend_from_slice(bytes.chunk()),
        1 => {}
        _ => {
            let name = bytes.pick(&["", "e0.1", "e0.2"]);
            let wanted = bytes.below(6);
            let length = if bytes.rarely(16) { bytes.u32() } else { name.len() as u32 };
            data.extend(length.to_be_bytes());
            data.extend(name.as_bytes());
            data.extend((wanted as u16 + u16::from(bytes.rarely(16))).to_be_bytes());
            for _ in 0..wanted {
                data.extend(u16::from(bytes.u8() % 5).to_be_bytes());
            }
        }
    }
    if bytes.rarely(16) {
        data.resize(bytes.pick(&[MAX_OPTION_BYTES as usize, MAX_OPTION_BYTES as usize + 1, 70_000]), b'x');
    }
    let length = if bytes.rarely(16) { bytes.u32() >> bytes.below(32) } else { data.len() as u32 };
    let mut header = OptionHeader { option: kind, length }.to_bytes();
    if bytes.rarely(32) {
        header[bytes.below(8)] ^= 1 << bytes.below(8);
    }
    out.extend(header);
    out.extend(data);
}

/// A client that asks and does not listen is answered once, and no more.
fn check_memory(client: &Client) {
    if client.session.is_negotiating() {
        let mut slices = [std::io::IoSlice::new(&[]); 64];
        let shown = client.session.output_slices(&mut slices);
        let waiting: usize = slices[..shown].iter().map(|slice| slice.len()).sum();
        assert!(waiting <= Greeting::LEN + ANSWER_MAX, "{waiting} bytes wait for a client that does not listen");
    }
}

/// The client has said everything and hangs up. The session comes to its end.
fn finish(mut client: Client) {
    for _ in 0..1 << 20 {
        client.feed(usize::MAX);
        client.listen(usize::MAX);
        for request in std::mem::take(&mut client.requests) {
            client.session.complete(request.id, Err(aoe_initiator::nbd::NbdErrno::Io));
            client.pull();
        }
        if client.to_feed.is_empty() && !client.session.has_output() {
            client.session.input_ended();
            client.pull();
        }
        if client.session.closing() && !client.session.has_output() {
            break;
        }
    }
    assert!(client.session.is_closed(), "the session does not end");
    let reason = client.session.closed_reason().expect("there is a reason").clone();
    assert!(!reason.to_string().contains('\n'));
    check_answers(&client, &reason);
}

/// Every option was answered, in order, until the transmission began.
fn check_answers(client: &Client, reason: &ClosedReason) {
    let greeting = b"NBDMAGICIHAVEOPT\0\x03";
    if let ClosedReason::UnknownClientFlags(_) = reason {
        assert!(greeting.starts_with(&client.received));
        return;
    }
    let mut received = client.received.strip_prefix(greeting).expect("the server greets");
    let mut stream = client.fed.get(4..).unwrap_or_default();
    loop {
        let option = stream.first_chunk().and_then(OptionHeader::parse);
        let whole = option.filter(|option| stream.len() - OptionHeader::LEN >= option.length as usize);
        let Some(option) = whole else {
            assert!(received.is_empty(), "an answer to no option");
            return;
        };
        stream = &stream[OptionHeader::LEN + option.length as usize..];
        if option.option == OptionKind::ExportName.to_wire() {
            // Its answer has no header.
            return;
        }
        loop {
            let Some((header, rest)) = received.split_first_chunk::<{ OptionReplyHeader::LEN }>() else {
                assert!(is_cut_off(reason), "no answer: {reason:?}");
                return;
            };
            let number = |at: usize| u32::from_be_bytes(*header[at..].first_chunk().expect("inside the header"));
            assert_eq!(header[..8], OPTION_REPLY_MAGIC.to_be_bytes());
            assert_eq!(number(8), option.option, "answers come in order");
            let (kind, length) = (number(12), number(16) as usize);
            assert!(length <= 4096 + 8 + 64, "an answer of {length} bytes");
            let Some(rest) = rest.get(length..) else {
                assert!(is_cut_off(reason), "half an answer: {reason:?}");
                return;
            };
            received = rest;
            if kind == 1 && option.option == OptionKind::Go.to_wire() {
                return;
            }
            if kind == 1 || kind & 1 << 31 != 0 {
                break;
            }
            assert!(kind == 2 || kind == 3, "an answer of kind {kind}");
        }
    }
}

/// Whether a session that ended so may leave the last answers out.
fn is_cut_off(reason: &ClosedReason) -> bool {
    use ClosedReason::{Aborted, BadRequestMagic, NotFixedNewstyle, OversizeOption, OversizeWrite, TooManyOptions};
    matches!(
        reason,
        Aborted | BadRequestMagic | NotFixedNewstyle | OversizeOption(_) | OversizeWrite(_) | TooManyOptions
    )
}
