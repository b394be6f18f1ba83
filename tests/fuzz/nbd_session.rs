//! The NBD transmission phase with a client that sends whatever it likes and listens when it likes.
//!
//! A second reading of the client's stream, simple and without bounds, says which requests there were; the session
//! must have handed out and answered exactly those.

use std::collections::BTreeMap;

use aoe_initiator::nbd::protocol::{
    OptionHeader, OptionKind, RequestHeader, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};
use aoe_initiator::nbd::{ClosedReason, Command, ExportInfo, MAX_PAYLOAD, NbdErrno, Request, Session};

use super::Bytes;
use super::nbd_stream::{Client, End, Model, Sent, any_export};

struct Bench {
    client: Client,
    export: ExportInfo,
    structured: bool,
    model: Model,
    /// Requests of the model that were handed out or passed over.
    handed: usize,
    cookies: u64,
    /// How requests were completed: with so many bytes, or an error.
    completed: BTreeMap<u64, Result<usize, NbdErrno>>,
}

/// Talks until the input ends, then hangs up.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let export = any_export(&mut bytes);
    let structured = bytes.bool();
    let mut client = if structured {
        let mut client = Client::new(Session::negotiating(export.clone()));
        client.to_feed.extend(3u32.to_be_bytes());
        client.to_feed.extend(OptionHeader { option: OptionKind::StructuredReply.to_wire(), length: 0 }.to_bytes());
        client.to_feed.extend(OptionHeader { option: OptionKind::Go.to_wire(), length: 6 }.to_bytes());
        client.to_feed.extend([0; 6]);
        for _ in 0..3 {
            client.feed(usize::MAX);
            client.listen(usize::MAX);
        }
        assert!(!client.session.is_negotiating() && !client.session.has_output());
        client
    } else {
        Client::new(Session::transmitting(export.clone()))
    };
    client.fed.clear();
    client.received.clear();
    let mut bench = Bench {
        client,
        export,
        structured,
        model: Model::default(),
        handed: 0,
        cookies: 0,
        completed: BTreeMap::new(),
    };
    while !bytes.is_empty() {
        bench.step(&mut bytes);
        bench.check_requests();
    }
    bench.finish();
}

impl Bench {
    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.below(16) {
            0..6 => self.send_request(bytes),
            6..9 => self.client.feed(1 + usize::from(bytes.u16())),
            9..11 => self.client.listen(1 + usize::from(bytes.u16())),
            11..14 if !self.client.requests.is_empty() => {
                let at = bytes.below(self.client.requests.len());
                let error = bytes.rarely(4).then(|| bytes.pick(NbdErrno::ALL));
                self.complete(at, error);
            }
            14 if bytes.rarely(8) => {
                let size = self.export.size_bytes + u64::from(self.export.block_min) * u64::from(bytes.u8());
                self.export.size_bytes = size;
                self.client.session.grow(size);
                self.client.pull();
            }
            15 if bytes.rarely(16) => {
                self.client.session.shut_down();
                self.client.pull();
            }
            15 => self.client.to_feed.extend_from_slice(bytes.chunk()),
            _ => {}
        }
    }

    fn send_request(&mut self, bytes: &mut Bytes<'_>) {
        let kind = bytes.pick(&[0, 0, 1, 1, 1, 3, 4, 6]);
        let kind = if bytes.rarely(32) { bytes.u16() & 7 } else { kind };
        let block = self.export.block_min;
        let length = match bytes.below(8) {
            0 => bytes.u32() >> bytes.below(32),
            1 => 0,
            2 => self.export.block_max,
            _ => block * (1 + bytes.u32() % 4),
        };
        let offset = match bytes.below(8) {
            0 => bytes.u64(),
            1 => self.export.size_bytes.saturating_sub(u64::from(length)),
            _ => u64::from(block) * u64::from(bytes.u8() & 0x0f),
        };
        self.cookies += 1;
        let writes = kind == 1;
        // Long data cost time and find nothing that short ones do not; the header may still promise them.
        let (length, len) = match (writes, bytes.rarely(32)) {
            (true, false) => (length.min(128 << 10), length.min(128 << 10) as usize),
            (true, true) => (length, usize::from(bytes.u16())),
            (false, _) => (length, 0),
        };
        let flags = if kind == 3 || bytes.rarely(4) { u16::from(bytes.u8() & 7) } else { 0 };
        let (offset, length) = if kind == 3 && !bytes.rarely(8) { (0, 0) } else { (offset, length) };
        let mut header = RequestHeader { flags, kind, cookie: self.cookies, offset, length }.to_bytes();
        if bytes.rarely(64) {
            header[bytes.below(4)] ^= 1 << bytes.below(8);
        }
        self.client.to_feed.extend(header);
        let fill = self.cookies as u8;
        let at = self.client.to_feed.len();
        self.client.to_feed.resize(at + len, fill);
    }

    fn complete(&mut self, at: usize, error: Option<NbdErrno>) {
        let Request { id, cookie, command } = self.client.requests.swap_remove(at);
        let result = match (error, command) {
            (Some(errno), _) => Err(errno),
            // A long read is not worth its bytes here.
            (None, Command::Read { length, .. }) if length > 1 << 20 => Err(NbdErrno::Io),
            (None, Command::Read { length, .. }) => {
                let mut buffer = self.client.session.buffer(length as usize);
                buffer.fill(cookie as u8);
                Ok(buffer)
            }
            (None, Command::Write { data, .. }) => Ok(data),
            (None, _) => Ok(Vec::new()),
        };
        self.completed.insert(cookie, result.as_ref().map(Vec::len).map_err(|errno| *errno));
        self.client.session.complete(id, result);
        self.client.pull();
    }

    /// What was handed out is what was sent, in order, and fit for the export.
    fn check_requests(&mut self) {
        self.model.advance(&self.client.fed);
        for request in &self.client.requests {
            let cookie = request.cookie;
            let is_known = self.model.requests[..self.handed].iter().any(|sent| sent.header.cookie == cookie);
            if is_known {
                continue;
            }
            let at = self.model.requests[self.handed..].iter().position(|sent| sent.header.cookie == cookie);
            let at = self.handed + at.expect("a request that nobody sent, or out of order");
            self.handed = at + 1;
            check_request(&self.export, request, &self.model.requests[at], &self.client.fed);
        }
    }

    fn finish(mut self) {
        let shut_down = self.client.session.closed_reason() == Some(&ClosedReason::ShutDown);
        // Each round ends at least one request or takes at least one byte.
        for _ in 0..1 << 20 {
            self.client.feed(usize::MAX);
            self.check_requests();
            if !self.client.requests.is_empty() {
                self.complete(0, None);
            }
            self.client.listen(usize::MAX);
            if self.client.to_feed.is_empty() && self.client.requests.is_empty() && !self.client.session.has_output() {
                self.client.session.input_ended();
                self.client.pull();
            }
            if self.client.session.is_closed() && self.client.requests.is_empty() {
                break;
            }
        }
        assert!(self.client.session.is_closed(), "the session does not end");
        let broken = self.model.end == Some(End::Broken);
        if !shut_down {
            let expected = match self.model.end {
                Some(End::Disconnected) => {
                    matches!(self.client.session.closed_reason(), Some(ClosedReason::Disconnected))
                }
                Some(End::Broken) => matches!(
                    self.client.session.closed_reason(),
                    Some(ClosedReason::BadRequestMagic | ClosedReason::OversizeWrite(_))
                ),
                None => matches!(
                    self.client.session.closed_reason(),
                    Some(ClosedReason::EndOfInput | ClosedReason::Truncated)
                ),
            };
            assert!(expected, "{:?} ended by {:?}", self.model.end, self.client.session.closed_reason());
        }
        self.check_replies(!shut_down && !broken);
    }

    /// Each request is answered once: with what the engine said of it, or with an error.
    fn check_replies(&self, all: bool) {
        let mut open: BTreeMap<u64, &Sent> = BTreeMap::new();
        for sent in &self.model.requests {
            if open.insert(sent.header.cookie, sent).is_some() {
                // A client that gives two requests one name cannot tell their replies apart, and neither can this.
                return;
            }
        }
        let mut stream = self.client.received.as_slice();
        while !stream.is_empty() {
            let Some((cookie, error, data, rest)) = self.reply(stream) else {
                assert!(!all, "a reply is cut off");
                return;
            };
            stream = rest;
            let sent = open.remove(&cookie).expect("a reply to nothing, or the second one");
            match self.completed.get(&cookie) {
                Some(Ok(_)) if sent.header.kind == 0 => {
                    assert!(error == 0 && data.len() == sent.header.length as usize);
                    assert!(data.iter().all(|byte| *byte == cookie as u8), "data of another read");
                }
                Some(Ok(_)) => assert!(error == 0 && data.is_empty()),
                Some(Err(errno)) => assert!(error == errno.to_wire() && data.is_empty()),
                None => assert!(data.is_empty() && (error != 0 || sent.header.length == 0)),
            }
        }
        assert!(!all || open.is_empty(), "{} requests were not answered", open.len());
    }

    /// The first reply of a stream: cookie, error, data, and what follows.
    fn reply<'a>(&self, stream: &'a [u8]) -> Option<(u64, u32, &'a [u8], &'a [u8])> {
        let word = |at: usize| Some(u32::from_be_bytes(*stream.get(at..)?.first_chunk()?));
        if !self.structured {
            assert_eq!(word(0)?, SIMPLE_REPLY_MAGIC);
            let (error, cookie) = (word(4)?, u64::from_be_bytes(*stream.get(8..)?.first_chunk()?));
            let data = match self.completed.get(&cookie) {
                Some(Ok(len)) if error == 0 => *len,
                _ => 0,
            };
            let is_read = self.model.requests.iter().any(|sent| sent.header.cookie == cookie && sent.header.kind == 0);
            let (data, rest) = stream[16..].split_at_checked(if is_read { data } else { 0 })?;
            return Some((cookie, error, data, rest));
        }
        assert_eq!(word(0)?, STRUCTURED_REPLY_MAGIC);
        let (flags_and_kind, length) = (word(4)?, word(16)? as usize);
        let cookie = u64::from_be_bytes(*stream.get(8..)?.first_chunk()?);
        let (payload, rest) = stream.get(20..)?.split_at_checked(length)?;
        match flags_and_kind {
            0x1_0000 => assert!(payload.is_empty()),
            0x1_0001 => return Some((cookie, 0, &payload[8..], rest)),
            0x1_8001 => return Some((cookie, u32::from_be_bytes(*payload.first_chunk()?), &[], rest)),
            other => panic!("a chunk of kind {other:#x}"),
        }
        Some((cookie, 0, &[], rest))
    }
}

fn check_request(export: &ExportInfo, request: &Request, sent: &Sent, stream: &[u8]) {
    let RequestHeader { offset, length, kind, .. } = sent.header;
    let inside = offset.checked_add(u64::from(length)).is_some_and(|end| end <= export.size_bytes);
    let fits = length > 0 && inside && offset.is_multiple_of(export.block_min.into());
    match &request.command {
        Command::Read { offset: from, length: len } => {
            assert!(kind == 0 && fits && (*from, *len) == (offset, length) && length <= export.block_max);
        }
        Command::Write { offset: at, data, .. } => {
            assert!(kind == 1 && fits && *at == offset && length <= export.block_max.min(MAX_PAYLOAD));
            assert!(*data == stream[sent.data.clone()], "other data than were sent");
        }
        Command::Flush => assert!(kind == 3 && offset == 0 && length == 0),
        Command::Trim { offset: at, length: len, .. } => assert!(kind == 4 && fits && (*at, *len) == (offset, length)),
        Command::WriteZeroes { offset: at, length: len, .. } => {
            assert!(kind == 6 && fits && (*at, *len) == (offset, length));
        }
    }
}
