//! An NBD client without manners, and what its stream of bytes ought to have meant.

use std::io::IoSlice;
use std::ops::Range;

use aoe_initiator::nbd::protocol::{CommandKind, RequestHeader};
use aoe_initiator::nbd::{Command, MAX_REQUESTS, TransmissionFlags};
use aoe_initiator::nbd::{ExportInfo, MAX_HELD_BYTES, MAX_OUTPUT_SLICES, MAX_PAYLOAD, Request, Session};

use super::Bytes;

/// A session, what it was fed, and what it said.
pub struct Client {
    pub session: Session,
    /// Bytes that the session has not taken yet.
    pub to_feed: Vec<u8>,
    /// Bytes that it has taken.
    pub fed: Vec<u8>,
    /// Bytes that it has sent.
    pub received: Vec<u8>,
    /// Requests that it has given out and that have not been completed.
    pub requests: Vec<Request>,
}

impl Client {
    pub fn new(session: Session) -> Self {
        Self { session, to_feed: Vec::new(), fed: Vec::new(), received: Vec::new(), requests: Vec::new() }
    }

    /// Hands over as much as the session wants, `count` bytes at the most.
    pub fn feed(&mut self, count: usize) {
        let mut left = count.min(self.to_feed.len());
        while left > 0 && self.session.wants_input() {
            let space = self.session.input_space();
            assert!(!space.is_empty(), "input is wanted, and there is no room for it");
            let len = space.len().min(left);
            let at = self.fed.len();
            self.fed.extend(self.to_feed.drain(..len));
            self.session.input_space()[..len].copy_from_slice(&self.fed[at..]);
            self.session.input_filled(len);
            left -= len;
            self.pull();
        }
    }

    /// Takes `count` bytes of output at the most.
    pub fn listen(&mut self, count: usize) {
        let mut slices = [IoSlice::new(&[]); MAX_OUTPUT_SLICES];
        let shown = self.session.output_slices(&mut slices);
        assert_eq!(shown > 0, self.session.has_output());
        let mut sent = 0;
        for slice in &slices[..shown] {
            let len = slice.len().min(count - sent);
            self.received.extend_from_slice(&slice[..len]);
            sent += len;
        }
        self.session.output_sent(sent);
        self.pull();
    }

    /// Fetches requests, as a driver does after every call.
    pub fn pull(&mut self) {
        while let Some(request) = self.session.poll_request() {
            self.requests.push(request);
        }
        assert_eq!(self.session.in_flight(), self.requests.len());
        assert!(self.requests.len() <= MAX_REQUESTS);
        let held: usize = self.requests.iter().map(|request| data_of(&request.command)).sum();
        assert!(held <= MAX_HELD_BYTES || self.requests.len() == 1, "{held} bytes are held");
    }
}

/// Bytes of data that a request makes the session hold.
fn data_of(command: &Command) -> usize {
    match command {
        Command::Read { length, .. } => *length as usize,
        Command::Write { data, .. } => data.len(),
        _ => 0,
    }
}

pub fn any_export(bytes: &mut Bytes<'_>) -> ExportInfo {
    let block_min = bytes.pick(&[512, 4096]);
    let name_len = if bytes.rarely(16) { 4096 } else { 4 };
    ExportInfo {
        name: "e0.1".repeat(name_len / 4),
        size_bytes: bytes.pick(&[1 << 20, 4096, 0, 1 << 57]),
        flags: TransmissionFlags::from_bits_truncate(bytes.u16()),
        block_min,
        block_preferred: 4096,
        block_max: bytes.pick(&[64 << 10, 32 << 20, MAX_PAYLOAD, 4096]),
        description: "a disk".to_owned(),
    }
}

/// How a stream of requests ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Disconnected,
    Broken,
}

/// A request of the stream, whole.
#[derive(Debug, Clone)]
pub struct Sent {
    pub header: RequestHeader,
    /// Where its data are in the stream.
    pub data: Range<usize>,
}

/// What a stream of requests means, read independently of the session.
#[derive(Default)]
pub struct Model {
    at: usize,
    pub requests: Vec<Sent>,
    pub end: Option<End>,
}

impl Model {
    /// The stream has grown.
    pub fn advance(&mut self, stream: &[u8]) {
        while self.end.is_none()
            && let Some(bytes) = stream[self.at..].first_chunk()
        {
            let Some(header) = RequestHeader::parse(bytes) else {
                self.end = Some(End::Broken);
                return;
            };
            let writes = header.kind == CommandKind::Write.to_wire();
            if header.kind == CommandKind::Disconnect.to_wire() {
                self.end = Some(End::Disconnected);
                return;
            }
            if writes && header.length > MAX_PAYLOAD {
                self.end = Some(End::Broken);
                return;
            }
            let start = self.at + RequestHeader::LEN;
            let data = start..start + if writes { header.length as usize } else { 0 };
            if data.end > stream.len() {
                return;
            }
            self.at = data.end;
            self.requests.push(Sent { header, data });
        }
    }
}
