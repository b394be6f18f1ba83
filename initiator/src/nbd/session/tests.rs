//! Sessions against clients that behave, misbehave, and dribble.

use proptest::prelude::*;

use super::*;
use crate::nbd::buffers::INBOX_BYTES;
use crate::nbd::export::tests::export;
use crate::nbd::protocol::TransmissionFlags;

const KIB: u32 = 1 << 10;
const FUA: u16 = 1;

fn header(kind: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    RequestHeader { flags, kind, cookie, offset, length }.to_bytes().to_vec()
}

fn read(cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    header(0, 0, cookie, offset, length)
}

fn write(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    [header(1, 0, cookie, offset, data.len() as u32).as_slice(), data].concat()
}

fn flush(cookie: u64) -> Vec<u8> {
    header(3, 0, cookie, 0, 0)
}

fn disconnect() -> Vec<u8> {
    header(2, 0, 0, 0, 0)
}

fn simple(errno: u32, cookie: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x67, 0x44, 0x66, 0x98];
    bytes.extend_from_slice(&errno.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn chunk(kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x66, 0x8e, 0x33, 0xef, 0, 1];
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn error_chunk(errno: u32, cookie: u64, text: &str) -> Vec<u8> {
    let length = (text.len() as u16).to_be_bytes();
    chunk(0x8001, cookie, &[&errno.to_be_bytes(), length.as_slice(), text.as_bytes()].concat())
}

/// Client flags, structured replies, GO; what the server answers is in [`handshake_answer`].
fn handshake(structured: bool) -> Vec<u8> {
    let mut bytes = b"\0\0\0\x03".to_vec();
    if structured {
        bytes.extend_from_slice(b"IHAVEOPT\0\0\0\x08\0\0\0\0");
    }
    bytes.extend_from_slice(b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0");
    bytes
}

fn handshake_answer(structured: bool) -> Vec<u8> {
    let mut bytes = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
    if structured {
        bytes.extend_from_slice(b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x01\0\0\0\0");
    }
    bytes.extend_from_slice(b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\0\0\0\x0c");
    bytes.extend_from_slice(b"\0\0\0\0\0\0\0\x10\0\0");
    bytes.extend_from_slice(if structured { b"\x01\xed" } else { b"\x01\x6d" });
    bytes.extend_from_slice(b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0");
    bytes
}

/// Puts bytes in, as many as are wanted, `cut` at a time, and passes on what is requested; returns how many bytes
/// were taken.
fn feed(
    session: &mut Session,
    bytes: &[u8],
    mut cut: impl FnMut() -> usize,
    mut engine: impl FnMut(&mut Session, Request),
) -> usize {
    let mut taken = 0;
    loop {
        while let Some(request) = session.poll_request() {
            engine(session, request);
        }
        if taken == bytes.len() || !session.wants_input() {
            return taken;
        }
        let space = session.input_space();
        assert!(!space.is_empty());
        let count = space.len().min(bytes.len() - taken).min(cut());
        space[..count].copy_from_slice(&bytes[taken..][..count]);
        session.input_filled(count);
        taken += count;
    }
}

fn feed_all(session: &mut Session, bytes: &[u8]) -> Vec<Request> {
    let mut requests = Vec::new();
    let taken = feed(session, bytes, || usize::MAX, |_, request| requests.push(request));
    assert_eq!(taken, bytes.len());
    requests
}

/// Takes all output, `cut` bytes at a time.
fn drain(session: &mut Session, mut cut: impl FnMut() -> usize) -> Vec<u8> {
    let mut sent = Vec::new();
    while session.has_output() {
        let mut slices = [IoSlice::new(&[]); MAX_OUTPUT_SLICES];
        let count = session.output_slices(&mut slices);
        assert!(count > 0);
        let mut left = cut();
        let before = sent.len();
        for slice in &slices[..count] {
            let length = slice.len().min(left);
            sent.extend_from_slice(&slice[..length]);
            left -= length;
        }
        session.output_sent(sent.len() - before);
    }
    sent
}

fn sent(session: &mut Session) -> Vec<u8> {
    drain(session, || usize::MAX)
}

/// A session past the handshake with structured replies, its output drained.
fn structured_session() -> Session {
    let mut session = Session::negotiating(export());
    let mut disk = Disk::new();
    let answer = converse(&mut session, &mut disk, &handshake(true), || usize::MAX);
    assert_eq!(answer, handshake_answer(true));
    session
}

/// An engine that carries out every request at once.
struct Disk(Vec<u8>);

impl Disk {
    fn new() -> Self {
        Self((0..1 << 20).map(|at: u32| (at / 512) as u8).collect())
    }

    fn carry_out(&mut self, session: &mut Session, request: Request) {
        let range = |offset: u64, length: u32| offset as usize..offset as usize + length as usize;
        let result = match request.command {
            Command::Read { offset, length } => {
                let mut data = session.buffer(length as usize);
                data.copy_from_slice(&self.0[range(offset, length)]);
                data
            }
            Command::Write { offset, data, .. } => {
                self.0[range(offset, data.len() as u32)].copy_from_slice(&data);
                data
            }
            Command::WriteZeroes { offset, length, .. } | Command::Trim { offset, length, .. } => {
                self.0[range(offset, length)].fill(0);
                Vec::new()
            }
            Command::Flush => Vec::new(),
        };
        session.complete(request.id, Ok(result));
    }
}

/// A whole conversation with a client that takes every answer, all transfers cut into pieces by `cut`.
fn converse(session: &mut Session, disk: &mut Disk, input: &[u8], mut cut: impl FnMut() -> usize) -> Vec<u8> {
    let mut output = Vec::new();
    let mut left = input;
    loop {
        let taken = feed(session, left, &mut cut, |session, request| disk.carry_out(session, request));
        left = &left[taken..];
        let progress = taken > 0 || session.has_output();
        output.extend(drain(session, &mut cut));
        if !progress {
            return output;
        }
    }
}

#[test]
fn handshake_then_requests_in_one_go() {
    for structured in [false, true] {
        let mut session = Session::negotiating(export());
        assert!(session.is_negotiating());
        let input = [handshake(structured), read(9, 512, 512), disconnect()].concat();
        let output = converse(&mut session, &mut Disk::new(), &input, || usize::MAX);
        let reply = if structured {
            chunk(1, 9, &[512u64.to_be_bytes().as_slice(), &[1; 512]].concat())
        } else {
            simple(0, 9, &[1; 512])
        };
        assert_eq!(output, [handshake_answer(structured), reply].concat());
        assert!(session.is_closed());
        assert_eq!(session.closed_reason(), Some(&ClosedReason::Disconnected));
    }
}

#[test]
fn one_option_is_answered_at_a_time() {
    let mut session = Session::negotiating(export());
    feed_all(&mut session, &handshake(false));
    assert!(session.is_negotiating(), "the greeting is not sent yet");
    assert_eq!(sent(&mut session), b"NBDMAGICIHAVEOPT\0\x03");
    assert_eq!(session.poll_request(), None);
    assert!(!session.is_negotiating());
    assert_eq!(sent(&mut session), handshake_answer(false)[18..]);
}

#[test]
fn abort_is_answered_before_the_end() {
    let mut session = Session::negotiating(export());
    sent(&mut session);
    feed_all(&mut session, b"\0\0\0\x01IHAVEOPT\0\0\0\x02\0\0\0\0");
    assert!(session.closing() && !session.is_closed());
    assert_eq!(sent(&mut session), b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x02\0\0\0\x01\0\0\0\0");
    assert!(session.is_closed());
    assert_eq!(session.closed_reason(), Some(&ClosedReason::Aborted));
}

#[test]
fn export_name_starts_with_simple_replies() {
    let mut session = Session::negotiating(export());
    let input = [b"\0\0\0\0IHAVEOPT\0\0\0\x01\0\0\0\x04e0.1".as_slice(), &flush(5)].concat();
    let output = converse(&mut session, &mut Disk::new(), &input, || usize::MAX);
    let mut expected = b"NBDMAGICIHAVEOPT\0\x03\0\0\0\0\0\x10\0\0\x01\x6d".to_vec();
    expected.extend_from_slice(&[0; 124]);
    expected.extend_from_slice(&simple(0, 5, b""));
    assert_eq!(output, expected);
}

#[test]
fn an_oversize_option_is_skipped_and_refused() {
    let mut session = Session::negotiating(export());
    let length = 3 * INBOX_BYTES as u32;
    let mut input = b"\0\0\0\x03IHAVEOPT\0\0\0\x07".to_vec();
    input.extend_from_slice(&length.to_be_bytes());
    input.resize(input.len() + length as usize, 0xee);
    input.extend_from_slice(&handshake(false)[4..]);
    let output = converse(&mut session, &mut Disk::new(), &input, || usize::MAX);
    let mut expected = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
    expected.extend_from_slice(b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\x80\0\0\x09\0\0\0\x16the option is too long");
    expected.extend_from_slice(&handshake_answer(false)[18..]);
    assert_eq!(output, expected);
    assert!(!session.is_negotiating());
}

#[test]
fn handshakes_that_break_the_rules_end_the_session() {
    let list = b"IHAVEOPT\0\0\0\x03\0\0\0\0".as_slice();
    let cases: [(Vec<u8>, ClosedReason); 6] = [
        (b"GET ".to_vec(), ClosedReason::UnknownClientFlags(u32::from_be_bytes(*b"GET "))),
        ([b"\0\0\0\x02", list].concat(), ClosedReason::NotFixedNewstyle),
        (b"\0\0\0\x03IHAVEOPS\0\0\0\x03\0\0\0\0".to_vec(), ClosedReason::BadOptionMagic),
        ([b"\0\0\0\x03".to_vec(), list.repeat(65)].concat(), ClosedReason::TooManyOptions),
        (b"\0\0\0\x03IHAVEOPT\0\0\0\x07\x04\0\0\x01".to_vec(), ClosedReason::OversizeOption((64 << 20) + 1)),
        (b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x01x".to_vec(), ClosedReason::UnknownExport("x".into())),
    ];
    for (input, reason) in cases {
        let mut session = Session::negotiating(export());
        converse(&mut session, &mut Disk::new(), &input, || usize::MAX);
        assert!(session.is_closed() && !session.wants_input(), "{reason}");
        assert_eq!(session.closed_reason(), Some(&reason));
    }
}

#[test]
fn every_command_reaches_the_engine() {
    let mut session = Session::transmitting(export());
    let input = [
        read(1, 512, 1024),
        header(1, FUA, 2, 4096, 512),
        vec![7; 512],
        flush(3),
        header(4, FUA, 4, 0, 1 << 20),
        header(6, FUA | 2, 5, 1024, 2048),
        header(6, 0, 6, 0, 512),
    ];
    let commands: Vec<(u64, Command)> =
        feed_all(&mut session, &input.concat()).into_iter().map(|request| (request.cookie, request.command)).collect();
    let expected = [
        (1, Command::Read { offset: 512, length: 1024 }),
        (2, Command::Write { offset: 4096, data: vec![7; 512], fua: true }),
        (3, Command::Flush),
        (4, Command::Trim { offset: 0, length: 1 << 20, fua: true }),
        (5, Command::WriteZeroes { offset: 1024, length: 2048, fua: true, no_hole: true }),
        (6, Command::WriteZeroes { offset: 0, length: 512, fua: false, no_hole: false }),
    ];
    assert_eq!(commands, expected);
    assert_eq!(session.in_flight(), 6);
}

#[test]
fn simple_replies() {
    let mut session = Session::transmitting(export());
    let requests = feed_all(&mut session, &[read(1, 0, 512), read(2, 0, 512), flush(3)].concat());
    session.complete(requests[2].id, Ok(Vec::new()));
    session.complete(requests[0].id, Ok(vec![0xab; 512]));
    session.complete(requests[1].id, Err(NbdErrno::Io));
    assert_eq!(sent(&mut session), [simple(0, 3, b""), simple(0, 1, &[0xab; 512]), simple(5, 2, b"")].concat());
}

#[test]
fn structured_replies() {
    let mut session = structured_session();
    let requests = feed_all(&mut session, &[read(1, 1024, 512), read(2, 0, 512), flush(3)].concat());
    session.complete(requests[2].id, Ok(Vec::new()));
    session.complete(requests[0].id, Ok(vec![0xab; 512]));
    session.complete(requests[1].id, Err(NbdErrno::Io));
    let expected = [
        chunk(0, 3, b""),
        chunk(1, 1, &[1024u64.to_be_bytes().as_slice(), &[0xab; 512]].concat()),
        error_chunk(5, 2, "the AoE target reported an error or did not answer"),
    ];
    assert_eq!(sent(&mut session), expected.concat());
}

#[test]
fn unfragmented_reads_need_structured_replies() {
    let input = header(0, 4, 1, 0, 512);
    assert_eq!(feed_all(&mut structured_session(), &input).len(), 1);
    let mut session = Session::transmitting(export());
    assert_eq!(feed_all(&mut session, &input), []);
    assert_eq!(sent(&mut session), simple(22, 1, b""));
}

#[test]
fn equal_cookies_are_kept_apart() {
    let mut session = Session::transmitting(export());
    let requests = feed_all(&mut session, &[read(7, 0, 512), read(7, 512, 1024)].concat());
    assert_ne!(requests[0].id, requests[1].id);
    session.complete(requests[1].id, Ok(vec![2; 1024]));
    session.complete(requests[0].id, Ok(vec![1; 512]));
    assert_eq!(sent(&mut session), [simple(0, 7, &[2; 1024]), simple(0, 7, &[1; 512])].concat());
}

#[test]
#[should_panic(expected = "only a request in flight can be completed")]
fn completing_twice_is_a_bug() {
    let mut session = Session::transmitting(export());
    let id = feed_all(&mut session, &flush(1))[0].id;
    session.complete(id, Ok(Vec::new()));
    // The slot is in use again, by another request.
    feed_all(&mut session, &flush(2));
    session.complete(id, Ok(Vec::new()));
}

#[test]
#[should_panic(expected = "a read of 512 bytes got 511")]
fn a_short_read_is_a_bug() {
    let mut session = Session::transmitting(export());
    let id = feed_all(&mut session, &read(1, 0, 512))[0].id;
    session.complete(id, Ok(vec![0; 511]));
}

#[test]
fn empty_ranges_succeed_without_the_engine() {
    for kind in [0, 1, 4, 6] {
        let input = header(kind, 0, 1, 512, 0);
        let mut session = Session::transmitting(export());
        assert_eq!(feed_all(&mut session, &input), []);
        assert_eq!(sent(&mut session), simple(0, 1, b""));
        let mut session = structured_session();
        assert_eq!(feed_all(&mut session, &input), []);
        assert_eq!(sent(&mut session), chunk(0, 1, b""));
    }
}

#[test]
fn refused_requests_are_answered_and_the_next_one_works() {
    let refused: [(Vec<u8>, u32); 9] = [
        (read(1, 1 << 20, 512), 22),
        (write(1, 1 << 20, &[0; 512]), 28),
        (header(6, 0, 1, 1 << 20, 512), 28),
        (header(4, 0, 1, 1 << 20, 512), 22),
        (read(1, 100, 512), 22),
        (write(1, 0, &[0; 100]), 22),
        (write(1, 0, &vec![0; 1 << 20]), 22),
        (header(0, 1 << 15, 1, 0, 512), 22),
        (header(77, 0, 1, 0, 512), 22),
    ];
    for (input, errno) in refused {
        let mut session = Session::transmitting(export());
        let requests = feed_all(&mut session, &[input, flush(2)].concat());
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].command, Command::Flush);
        assert_eq!(sent(&mut session), simple(errno, 1, b""));
    }
}

#[test]
fn writes_to_a_read_only_export_are_refused_with_their_data() {
    let mut info = export();
    info.flags |= TransmissionFlags::READ_ONLY;
    let mut session = Session::transmitting(info);
    // Data that look like a request must not be taken for one.
    let requests = feed_all(&mut session, &[write(1, 0, &flush(9).repeat(512)), flush(2)].concat());
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].cookie, 2);
    assert_eq!(sent(&mut session), simple(1, 1, b""));
}

#[test]
fn a_refusal_says_why_where_there_is_room() {
    let mut session = structured_session();
    feed_all(&mut session, &read(1, 1 << 20, 512));
    assert_eq!(sent(&mut session), error_chunk(22, 1, "beyond the end of the export"));
}

#[test]
fn bad_magic_ends_the_session_at_once() {
    let mut session = Session::transmitting(export());
    let requests = feed_all(&mut session, &[read(1, 0, 512), read(2, 0, 512)].concat());
    session.complete(requests[0].id, Ok(vec![0; 512]));
    assert_eq!(feed_all(&mut session, &[0xff; 28]), []);
    assert!(session.is_closed() && !session.has_output() && !session.wants_input());
    assert_eq!(session.closed_reason(), Some(&ClosedReason::BadRequestMagic));
    // The engine may still finish what it has.
    session.complete(requests[1].id, Ok(vec![0; 512]));
    assert!(!session.has_output());
    assert_eq!((session.in_flight(), session.held_requests, session.held_bytes), (0, 0, 0));
}

#[test]
fn an_absurd_write_ends_the_session() {
    let mut session = Session::transmitting(export());
    feed_all(&mut session, &header(1, 0, 1, 0, MAX_PAYLOAD + 1));
    assert!(session.is_closed());
    assert_eq!(session.closed_reason(), Some(&ClosedReason::OversizeWrite(MAX_PAYLOAD + 1)));
    assert_eq!(session.memory(), 0);
}

#[test]
fn disconnect_waits_for_requests_in_flight() {
    let mut session = Session::transmitting(export());
    let input = [read(1, 0, 512), flush(2), disconnect(), flush(3)].concat();
    let requests = feed_all(&mut session, &input);
    assert_eq!(requests.len(), 2, "nothing behind the disconnect counts");
    assert!(session.closing() && !session.is_closed() && !session.wants_input());
    session.complete(requests[1].id, Ok(Vec::new()));
    assert_eq!(sent(&mut session), simple(0, 2, b""));
    assert!(!session.is_closed());
    session.complete(requests[0].id, Ok(vec![3; 512]));
    assert!(!session.is_closed(), "the reply is not sent yet");
    assert_eq!(sent(&mut session), simple(0, 1, &[3; 512]));
    assert!(session.is_closed());
}

#[test]
fn shutting_down_answers_what_is_in_flight() {
    let mut session = Session::transmitting(export());
    let requests = feed_all(&mut session, &[flush(1), write(2, 0, &[0; 512])[..100].to_vec()].concat());
    session.shut_down();
    assert!(session.closing() && !session.is_closed());
    session.complete(requests[0].id, Err(NbdErrno::Shutdown));
    assert_eq!(sent(&mut session), simple(108, 1, b""));
    assert!(session.is_closed());
    assert_eq!(session.closed_reason(), Some(&ClosedReason::ShutDown));
}

#[test]
fn the_end_of_input_is_clean_only_between_messages() {
    let whole = write(1, 0, &[5; 512]);
    for length in 0..=whole.len() {
        let mut session = Session::transmitting(export());
        let mut requests = feed_all(&mut session, &whole[..length]);
        session.input_ended();
        assert!(!session.wants_input());
        requests.extend(session.poll_request());
        let clean = length == 0 || length == whole.len();
        assert_eq!(requests.len(), usize::from(length == whole.len()));
        let reason = if clean { ClosedReason::EndOfInput } else { ClosedReason::Truncated };
        assert_eq!(session.closed_reason(), Some(&reason), "{length} bytes");
        for request in requests {
            session.complete(request.id, Ok(Vec::new()));
        }
        sent(&mut session);
        assert!(session.is_closed());
        assert_eq!(session.held_bytes, 0);
    }
}

#[test]
fn requests_in_flight_are_bounded_by_number() {
    let mut session = Session::transmitting(export());
    let input: Vec<u8> = (0..MAX_REQUESTS as u64 + 10).flat_map(flush).collect();
    let mut requests = Vec::new();
    feed(&mut session, &input, || usize::MAX, |_, request| requests.push(request));
    assert_eq!(requests.len(), MAX_REQUESTS);
    assert!(!session.wants_input());
    // Done is not enough: the client must take the reply.
    session.complete(requests[0].id, Ok(Vec::new()));
    assert_eq!(session.poll_request(), None);
    assert!(!session.wants_input());
    sent(&mut session);
    assert_eq!(session.poll_request().unwrap().cookie, MAX_REQUESTS as u64);
}

#[test]
fn refusals_nobody_takes_are_bounded_too() {
    let mut session = Session::transmitting(export());
    let input = header(99, 0, 1, 0, 0).repeat(10 * MAX_REQUESTS);
    let taken = feed(&mut session, &input, || usize::MAX, |_, request| panic!("{request:?}"));
    assert!(taken < input.len());
    assert!(!session.wants_input());
    assert_eq!(session.outbox.len(), MAX_REQUESTS);
}

#[test]
fn data_in_flight_are_bounded() {
    let info = ExportInfo { size_bytes: 1 << 30, block_max: 24 << 20, ..export() };
    let mut session = Session::transmitting(info);
    let input = [read(1, 0, 24 << 20), read(2, 0, 24 << 20), read(3, 0, 24 << 20), flush(4)].concat();
    let requests = feed_all(&mut session, &input);
    assert_eq!(requests.len(), 2, "48 MiB are held, 72 would be too many");
    assert!(!session.wants_input());
    session.complete(requests[0].id, Err(NbdErrno::Io));
    let third = session.poll_request().unwrap();
    assert_eq!(third.command, Command::Read { offset: 0, length: 24 << 20 });
    assert_eq!(session.poll_request().unwrap().command, Command::Flush);
    session.complete(third.id, Ok(vec![0; 24 << 20]));
    assert_eq!(session.held_bytes, 48 << 20, "read data count until they are sent");
    sent(&mut session);
    assert_eq!(session.held_bytes, 24 << 20);
}

#[test]
fn one_request_of_any_allowed_size_is_always_taken() {
    let info = ExportInfo { size_bytes: 1 << 30, block_max: MAX_PAYLOAD, ..export() };
    let mut session = Session::transmitting(info);
    assert_eq!(feed_all(&mut session, &read(1, 0, MAX_PAYLOAD)).len(), 1);
    assert!(!session.wants_input());
}

#[test]
fn large_writes_are_read_in_place() {
    let mut session = Session::transmitting(export());
    feed_all(&mut session, &header(1, 0, 1, 0, 256 * KIB));
    assert_eq!(session.input_space().len(), 256 << 10, "the whole of the data, not the inbox");
    feed_all(&mut session, &[8; 1000]);
    assert_eq!(session.input_space().len(), (256 << 10) - 1000);
    let requests = feed_all(&mut session, &vec![8; (256 << 10) - 1000]);
    assert_eq!(requests[0].command, Command::Write { offset: 0, data: vec![8; 256 << 10], fua: false });
}

#[test]
#[should_panic(expected = "more bytes than there was space for")]
fn overfilling_a_write_is_a_bug() {
    let mut session = Session::transmitting(export());
    feed_all(&mut session, &header(1, 0, 1, 0, 512));
    session.input_filled(513);
}

#[test]
fn a_busy_session_uses_the_same_buffers_again() {
    let mut session = Session::transmitting(export());
    let mut disk = Disk::new();
    let input = [write(1, 0, &[1; 4096]), read(2, 0, 4096)].concat();
    converse(&mut session, &mut disk, &input, || usize::MAX);
    let memory = session.memory();
    for _ in 0..100 {
        converse(&mut session, &mut disk, &input, || usize::MAX);
    }
    assert_eq!(session.memory(), memory);
}

#[test]
fn output_is_shown_in_bounded_pieces_from_where_it_stopped() {
    let mut session = Session::transmitting(export());
    let input: Vec<u8> = (0..100).flat_map(|cookie| read(cookie, cookie * 512, 512)).collect();
    for request in feed_all(&mut session, &input) {
        Disk::new().carry_out(&mut session, request);
    }
    let mut slices = [IoSlice::new(&[]); 200];
    assert_eq!(session.output_slices(&mut slices), MAX_OUTPUT_SLICES);
    let expected: Vec<u8> = (0..100u8).flat_map(|at| simple(0, at.into(), &[at; 512])).collect();
    let mut sizes = [1, 15, 16, 17, 511, 512, 513, 4000].iter().cycle();
    assert_eq!(drain(&mut session, || *sizes.next().unwrap()), expected);
}

#[test]
#[should_panic(expected = "more bytes sent than there were")]
fn sending_more_than_there_is_is_a_bug() {
    let mut session = Session::negotiating(export());
    session.output_sent(19);
}

/// A request of a script, fit or not.
#[derive(Debug, Clone)]
struct Scripted {
    kind: u16,
    flags: u16,
    cookie: u64,
    offset: u64,
    length: u32,
    fill: u8,
}

impl Scripted {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = header(self.kind, self.flags, self.cookie, self.offset, self.length);
        if self.kind == 1 {
            bytes.resize(bytes.len() + self.length as usize, self.fill);
        }
        bytes
    }

    /// What an NBD server with this disk replies, told independently of the session.
    fn expected(&self, disk: &mut [u8], structured: bool) -> Vec<u8> {
        let end = self.offset + u64::from(self.length);
        let aligned = self.offset.is_multiple_of(512) && self.length.is_multiple_of(512);
        let oversize = self.kind <= 1 && self.length > 256 * KIB;
        let errno = if self.kind == 3 { (self.offset, self.length) != (0, 0) } else { !aligned || oversize };
        let (errno, text) = if errno && self.kind == 3 {
            (22, "offset and length of a flush must be zero")
        } else if !aligned {
            (22, "offset and length must be multiples of the smallest block size")
        } else if errno {
            (22, "longer than the largest block size")
        } else if end > disk.len() as u64 {
            (if self.kind == 1 || self.kind == 6 { 28 } else { 22 }, "beyond the end of the export")
        } else {
            let range = self.offset as usize..end as usize;
            match self.kind {
                0 if structured && self.length > 0 => {
                    let payload = [self.offset.to_be_bytes().as_slice(), &disk[range]].concat();
                    return chunk(1, self.cookie, &payload);
                }
                0 if !structured => return simple(0, self.cookie, &disk[range]),
                1 => disk[range].fill(self.fill),
                4 | 6 => disk[range].fill(0),
                _ => {}
            }
            return if structured { chunk(0, self.cookie, b"") } else { simple(0, self.cookie, b"") };
        };
        if structured { error_chunk(errno, self.cookie, text) } else { simple(errno, self.cookie, b"") }
    }
}

fn scripted() -> impl Strategy<Value = Scripted> {
    let kind = prop_oneof![4 => Just(0u16), 4 => Just(1), 1 => Just(3), 1 => Just(4), 1 => Just(6)];
    let sectors = prop_oneof![30 => 0..40u32, 1 => 500..520u32];
    let first = prop_oneof![20 => 0..2048u64, 1 => 2040..2060u64];
    let skew = prop_oneof![20 => Just((0u64, 0u32)), 1 => (0..512u64, 0..512u32)];
    let cookie = prop_oneof![any::<u64>(), Just(1)];
    (kind, any::<bool>(), cookie, first, sectors, skew, any::<u8>()).prop_map(
        |(kind, fua, cookie, first, sectors, skew, fill)| {
            let (offset, length) = if kind == 3 { skew } else { (first * 512 + skew.0, sectors * 512 + skew.1) };
            Scripted { kind, flags: u16::from(fua), cookie, offset, length, fill }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_do_not_matter(
        script in prop::collection::vec(scripted(), 0..12),
        cuts in prop::collection::vec(1..20_000usize, 1..20),
        structured: bool,
    ) {
        let mut input = handshake(structured);
        let mut expected = handshake_answer(structured);
        let mut model = Disk::new();
        for request in &script {
            input.extend(request.bytes());
            expected.extend(request.expected(&mut model.0, structured));
        }
        input.extend(disconnect());

        let mut cycle = cuts.iter().cycle();
        let mut cut = || *cycle.next().unwrap();
        let mut by_ones = || 1;
        let mut at_once = || usize::MAX;
        let ways: [&mut dyn FnMut() -> usize; 3] = [&mut at_once, &mut by_ones, &mut cut];
        for cut in ways {
            let mut session = Session::negotiating(export());
            let mut disk = Disk::new();
            let output = converse(&mut session, &mut disk, &input, cut);
            prop_assert!(output == expected);
            prop_assert!(disk.0 == model.0);
            prop_assert!(session.is_closed());
            prop_assert_eq!((session.held_requests, session.held_bytes, session.in_flight()), (0, 0, 0));
        }
    }

    #[test]
    fn any_order_of_completion_is_answered_in_that_order(
        lengths in prop::collection::vec(1..16u32, 1..60),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 60),
        drains in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut session = Session::transmitting(export());
        let mut input = Vec::new();
        for (cookie, sectors) in lengths.iter().enumerate() {
            input.extend(read(cookie as u64, 0, sectors * 512));
        }
        let mut waiting = feed_all(&mut session, &input);
        prop_assert_eq!(waiting.len(), lengths.len());
        let (mut output, mut expected) = (Vec::new(), Vec::new());
        for (pick, drain) in picks.iter().zip(drains) {
            if waiting.is_empty() {
                break;
            }
            let request = waiting.swap_remove(pick.index(waiting.len()));
            let data = vec![request.cookie as u8; lengths[request.cookie as usize] as usize * 512];
            expected.extend(simple(0, request.cookie, &data));
            session.complete(request.id, Ok(data));
            if drain {
                output.extend(sent(&mut session));
            }
        }
        output.extend(sent(&mut session));
        prop_assert!(waiting.is_empty());
        prop_assert!(output == expected);
        prop_assert_eq!((session.held_requests, session.held_bytes), (0, 0));
    }
}

/// Something like a message: right magic numbers, nonsense behind them.
fn almost_a_message() -> impl Strategy<Value = Vec<u8>> {
    let noise = || prop::collection::vec(any::<u8>(), 0..200);
    let option = (0..12u32, prop_oneof![0..64u32, 0..20_000u32, any::<u32>()], noise())
        .prop_map(|(option, length, noise)| [OptionHeader { option, length }.to_bytes().as_slice(), &noise].concat());
    let go = noise().prop_map(|noise| {
        let header = OptionHeader { option: 6, length: noise.len() as u32 };
        [header.to_bytes().as_slice(), &noise].concat()
    });
    let length = || prop_oneof![0..2048u32, any::<u32>()];
    let request = (any::<u16>(), 0..9u16, any::<u64>(), length(), length(), noise()).prop_map(
        |(flags, kind, cookie, offset, length, noise)| {
            let (offset, length) = (u64::from(offset) & !511, length & !511);
            let flags = if flags & 7 == 0 { flags } else { flags & 3 };
            [header(kind, flags, cookie, offset, length), noise].concat()
        },
    );
    let read = (0..2048u64, 0..600u32).prop_map(|(first, sectors)| read(1, first * 512, sectors * 512));
    let payload = (0..600u32).prop_map(|sectors| write(1, 0, &vec![1; sectors as usize * 512]));
    prop_oneof![option, go, request, read, payload, noise()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_neither_panics_nor_grows(
        messages in prop::collection::vec(almost_a_message(), 0..40),
        cuts in prop::collection::vec(1..100_000usize, 1..8),
        start in 0..3,
        listens: bool,
    ) {
        let (mut session, prefix) = match start {
            0 => (Session::negotiating(export()), Vec::new()),
            1 => (Session::negotiating(export()), b"\0\0\0\x03".to_vec()),
            _ => (Session::transmitting(export()), Vec::new()),
        };
        let input = [prefix, messages.concat()].concat();
        let mut left = input.as_slice();
        let mut disk = Disk::new();
        let mut cycle = cuts.iter().cycle();
        loop {
            let taken = feed(&mut session, left, || *cycle.next().unwrap(), |session, request| {
                disk.carry_out(session, request);
                assert!(session.held_requests <= MAX_REQUESTS && session.held_bytes <= MAX_HELD_BYTES);
                // The pool's 8 MiB, one answer to an option, and twice the data (a pool buffer may be that large).
                assert!(session.memory() <= (8 << 20) + (16 << 10) + 2 * session.held_bytes);
            });
            left = &left[taken..];
            let progress = taken > 0 || (listens && session.has_output());
            if listens {
                drain(&mut session, || *cuts.last().unwrap());
            }
            prop_assert!(session.memory() <= (8 << 20) + (16 << 10) + 2 * session.held_bytes);
            if !progress {
                break;
            }
        }
        session.input_ended();
        while let Some(request) = session.poll_request() {
            disk.carry_out(&mut session, request);
        }
        while session.has_output() {
            sent(&mut session);
            while let Some(request) = session.poll_request() {
                disk.carry_out(&mut session, request);
            }
        }
        prop_assert!(session.is_closed() && session.closed_reason().is_some());
        prop_assert_eq!((session.held_requests, session.held_bytes, session.in_flight()), (0, 0, 0));
    }
}

#[test]
fn an_export_that_grows_takes_requests_up_to_its_new_end() {
    const OLD_END: u64 = 1 << 20;
    let mut transmitting = Session::transmitting(export());
    let mut negotiated = Session::negotiating(export());
    let shake_hands = |session: &mut Session| converse(session, &mut Disk::new(), &handshake(false), || usize::MAX);
    assert_eq!(shake_hands(&mut negotiated), handshake_answer(false));
    for session in [&mut transmitting, &mut negotiated] {
        assert_eq!(feed_all(session, &read(1, OLD_END, 512)), []);
        assert_eq!(sent(session), simple(22, 1, b""));
        session.grow(2 * OLD_END);
        let requests = feed_all(session, &[read(2, OLD_END, 512), write(3, 2 * OLD_END - 512, &[7; 512])].concat());
        assert_eq!(requests.len(), 2);
        assert_eq!(feed_all(session, &read(4, 2 * OLD_END, 512)), []);
        assert_eq!(sent(session), simple(22, 4, b""));
    }

    // Who has not asked yet is told the new size.
    let mut late = Session::negotiating(export());
    late.grow(2 * OLD_END);
    let answer = shake_hands(&mut late);
    assert!(answer.windows(8).any(|bytes| bytes == (2 * OLD_END).to_be_bytes()), "{answer:02x?}");
}

#[test]
#[should_panic(expected = "does not shrink")]
fn an_export_does_not_shrink_under_a_client() {
    Session::transmitting(export()).grow(512);
}
