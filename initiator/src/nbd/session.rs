//! One connection from its first byte to its last: what the peer sent becomes requests, what the engine finished
//! becomes replies.
//!
//! A request counts as held from its header until its reply is sent. Its data count from its header until the engine
//! is done with a write, or until the reply to a read is sent. Both counts are bounded; at the bound nothing more is
//! read, so a client that does not take its replies stops itself.

use std::collections::VecDeque;
use std::io::IoSlice;

use super::buffers::{BufferPool, Inbox};
use super::export::{ExportInfo, MAX_PAYLOAD, Refusal};
use super::negotiation::{MAX_OPTION_BYTES, Negotiation, Next};
use super::protocol::{
    ChunkFlags, ChunkHeader, ChunkKind, CommandFlags, CommandKind, NbdErrno, OptionHeader, RequestHeader, SimpleReply,
};

/// Requests a session holds at most.
pub const MAX_REQUESTS: usize = 256;
/// Bytes of data a session holds at most; a single request may always be held.
pub const MAX_HELD_BYTES: usize = 64 << 20;
/// Slices that [`Session::output_slices`] shows at most.
pub const MAX_OUTPUT_SLICES: usize = 64;

/// A request for the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// To be given back in [`Session::complete`].
    pub id: RequestId,
    /// The client's own name for the request; two requests in flight may have the same.
    pub cookie: u64,
    /// What to do.
    pub command: Command,
}

/// Names a request in flight; unique in its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId {
    slot: u32,
    serial: u32,
}

/// What a request asks for. Ranges are inside the export, not empty, and multiples of its smallest block size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Complete with `length` bytes from `offset`.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes to read, at most the export's `block_max`.
        length: u32,
    },
    /// Store the data.
    Write {
        /// First byte.
        offset: u64,
        /// At most the export's `block_max`. Hand the buffer back in [`Session::complete`] or [`Session::recycle`].
        data: Vec<u8>,
        /// Durable before it is complete.
        fua: bool,
    },
    /// Make durable all writes of the export that are complete, on any of its connections.
    Flush,
    /// The range is no longer needed.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes; not bounded by `block_max`.
        length: u32,
        /// Durable before it is complete.
        fua: bool,
    },
    /// The range shall read as zeroes.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes; not bounded by `block_max`.
        length: u32,
        /// Durable before it is complete.
        fua: bool,
        /// Store zeroes; do not discard.
        no_hole: bool,
    },
}

/// Why a session takes no more input, in words for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClosedReason {
    /// `NBD_CMD_DISC`.
    #[error("the client disconnected")]
    Disconnected,
    /// `NBD_OPT_ABORT`.
    #[error("the client ended the negotiation")]
    Aborted,
    /// End of the stream between two messages.
    #[error("the client closed the connection without saying goodbye")]
    EndOfInput,
    /// End of the stream inside a message.
    #[error("the client closed the connection in the middle of a message; nothing of that message was carried out")]
    Truncated,
    /// [`Session::shut_down`].
    #[error("this side shut the connection down")]
    ShutDown,
    /// `NBD_OPT_EXPORT_NAME` with another name; this option cannot be answered with an error.
    #[error("the client asked for export {0:?}, which is not served here: give it the right name, or none")]
    UnknownExport(String),
    /// Flags in the client's first message that the greeting did not offer.
    #[error("the client sent unknown handshake flags {0:#x}: is it an NBD client?")]
    UnknownClientFlags(u32),
    /// Several options without the flag that allows them.
    #[error("the client sent an option without having agreed to fixed newstyle negotiation: update the client")]
    NotFixedNewstyle,
    /// An option without the right magic number.
    #[error("the client sent bytes that are not an NBD option: is it an NBD client?")]
    BadOptionMagic,
    /// More than [`super::MAX_OPTIONS`].
    #[error("the client sent too many options without starting")]
    TooManyOptions,
    /// An option too long even to be thrown away.
    #[error("the client sent an option of {0} bytes: is it an NBD client?")]
    OversizeOption(u32),
    /// A request without the right magic number.
    #[error("the client sent bytes that are not an NBD request: its stream is out of step, reconnect it")]
    BadRequestMagic,
    /// A write longer than [`MAX_PAYLOAD`].
    #[error("the client sent a write of {0} bytes, far above the largest block size: set its maximum request size")]
    OversizeWrite(u32),
}

/// Which bytes come next from the peer.
#[derive(Debug)]
enum State {
    ClientFlags,
    Option,
    /// Throwing away the data of an option.
    SkippingOption {
        option: u32,
        left: u32,
    },
    Request,
    /// Taking the data of a write.
    Filling {
        header: RequestHeader,
        data: Vec<u8>,
        filled: usize,
    },
    /// Throwing away the data of a write that does not reach the engine.
    SkippingWrite {
        cookie: u64,
        result: Result<(), Refusal>,
        left: u32,
    },
    /// None: the session ends when all replies are sent.
    Closing,
    /// None: the peer broke the protocol and gets no more replies either.
    Broken,
}

/// What one step of the parser came to.
enum Step {
    Continue,
    /// More input, or room, is needed first.
    Wait,
    Request(Request),
}

/// What a reply says.
#[derive(Debug)]
enum Outcome {
    Done,
    Data { offset: u64, data: Vec<u8> },
    Failed(Refusal),
}

impl From<Result<(), Refusal>> for Outcome {
    fn from(result: Result<(), Refusal>) -> Self {
        result.map_or_else(Self::Failed, |()| Self::Done)
    }
}

/// A request the engine has.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    serial: u32,
    cookie: u64,
    /// Offset and length of a read.
    read: Option<(u64, u32)>,
    held_bytes: usize,
}

/// A message on its way to the peer: a head in place and a body that is not copied.
struct Outgoing {
    head: [u8; 32],
    head_length: usize,
    body: Body,
    /// What is released when the message is sent.
    held_requests: usize,
    held_bytes: usize,
}

enum Body {
    Data(Vec<u8>),
    Text(&'static str),
}

impl Outgoing {
    fn new(parts: &[&[u8]], body: Body) -> Self {
        let mut message = Self { head: [0; 32], head_length: 0, body, held_requests: 0, held_bytes: 0 };
        for part in parts {
            message.head[message.head_length..][..part.len()].copy_from_slice(part);
            message.head_length += part.len();
        }
        message
    }

    fn slices(&self) -> [&[u8]; 2] {
        let body = match &self.body {
            Body::Data(data) => data.as_slice(),
            Body::Text(text) => text.as_bytes(),
        };
        [&self.head[..self.head_length], body]
    }

    fn len(&self) -> usize {
        self.slices().iter().map(|slice| slice.len()).sum()
    }
}

/// The server side of one connection; see the [module](super) for how to drive it.
pub struct Session {
    export: ExportInfo,
    negotiation: Negotiation,
    state: State,
    inbox: Inbox,
    input_ended: bool,
    in_flight: Vec<Option<InFlight>>,
    free_slots: Vec<u32>,
    next_serial: u32,
    held_requests: usize,
    held_bytes: usize,
    outbox: VecDeque<Outgoing>,
    /// Bytes of the first message in the outbox that are sent already.
    sent: usize,
    pool: BufferPool,
    closed_reason: Option<ClosedReason>,
}

impl Session {
    /// A connection that begins with the handshake.
    pub fn negotiating(export: ExportInfo) -> Self {
        let mut session = Self::new(export, State::ClientFlags);
        session.outbox.push_back(Outgoing::new(&[], Body::Data(Negotiation::greeting())));
        session
    }

    /// A connection whose ends know all about the export already. Replies are simple ones.
    pub fn transmitting(export: ExportInfo) -> Self {
        Self::new(export, State::Request)
    }

    fn new(export: ExportInfo, state: State) -> Self {
        export.assert_valid();
        Self {
            export,
            negotiation: Negotiation::default(),
            state,
            inbox: Inbox::new(),
            input_ended: false,
            in_flight: vec![None; MAX_REQUESTS],
            free_slots: (0..MAX_REQUESTS as u32).rev().collect(),
            next_serial: 0,
            held_requests: 0,
            held_bytes: 0,
            outbox: VecDeque::with_capacity(MAX_REQUESTS),
            sent: 0,
            pool: BufferPool::default(),
            closed_reason: None,
        }
    }

    /// Whether to read from the peer. While this is so, [`Self::input_space`] is not empty.
    pub fn wants_input(&self) -> bool {
        if self.input_ended {
            return false;
        }
        match &self.state {
            State::Closing | State::Broken => false,
            State::Filling { data, filled, .. } => *filled < data.len(),
            State::Request => {
                let waiting = self.inbox.peek().and_then(RequestHeader::parse);
                let bytes = waiting.map_or(0, |header| self.held_for(&header));
                !self.inbox.is_full() && self.held_bytes < MAX_HELD_BYTES && self.has_room_for(bytes)
            }
            State::ClientFlags | State::Option | State::SkippingOption { .. } | State::SkippingWrite { .. } => {
                !self.inbox.is_full()
            }
        }
    }

    /// Where the next bytes of the peer belong. Valid until any other call.
    pub fn input_space(&mut self) -> &mut [u8] {
        match &mut self.state {
            State::Filling { data, filled, .. } => &mut data[*filled..],
            _ => self.inbox.space(),
        }
    }

    /// The first `count` bytes of [`Self::input_space`] are filled.
    pub fn input_filled(&mut self, count: usize) {
        match &mut self.state {
            State::Filling { data, filled, .. } => {
                assert!(count <= data.len() - *filled, "more bytes than there was space for");
                *filled += count;
            }
            _ => self.inbox.filled(count),
        }
    }

    /// The export has grown. Requests may reach up to its new end from now on, also those of a client that was told
    /// the old one.
    ///
    /// Panics if it is smaller: a client cannot be told.
    pub fn grow(&mut self, size_bytes: u64) {
        assert!(size_bytes >= self.export.size_bytes, "an export that is served does not shrink");
        self.export.size_bytes = size_bytes;
        self.export.assert_valid();
    }

    /// The peer sends no more. What it sent before is still carried out and answered.
    pub fn input_ended(&mut self) {
        self.input_ended = true;
    }

    /// Takes no more requests; those in flight are still answered.
    pub fn shut_down(&mut self) {
        self.close(ClosedReason::ShutDown);
    }

    /// The next request for the engine. To be called until `None` after every call of another method.
    pub fn poll_request(&mut self) -> Option<Request> {
        loop {
            match self.step() {
                Step::Continue => {}
                Step::Wait => return None,
                Step::Request(request) => return Some(request),
            }
        }
    }

    /// The engine is done with a request. Reads succeed with exactly their data; for all else the buffer is only
    /// recycled, so a write can hand its data back (`Vec::new()` is fine as well).
    ///
    /// Panics if the request is not in flight or the data of a read have the wrong length.
    pub fn complete(&mut self, id: RequestId, result: Result<Vec<u8>, NbdErrno>) {
        let entry = self.in_flight[id.slot as usize].take_if(|entry| entry.serial == id.serial);
        let entry = entry.expect("only a request in flight can be completed");
        self.free_slots.push(id.slot);
        let outcome = match (entry.read, result) {
            (Some((offset, length)), Ok(data)) => {
                assert!(data.len() == length as usize, "a read of {length} bytes got {}", data.len());
                Outcome::Data { offset, data }
            }
            (None, Ok(buffer)) => {
                self.pool.put(buffer);
                Outcome::Done
            }
            (_, Err(errno)) => Outcome::Failed(Refusal { errno, text: errno.text() }),
        };
        self.reply(entry.cookie, outcome, entry.held_bytes);
    }

    /// A buffer of `length` bytes for read data. It may hold leftovers of this session: fill it whole.
    pub fn buffer(&mut self, length: usize) -> Vec<u8> {
        self.pool.take(length)
    }

    /// Takes a buffer that is no longer needed.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.pool.put(buffer);
    }

    /// Shows what is to be sent next, without copying it; returns how many slices were set. At most
    /// [`MAX_OUTPUT_SLICES`] are.
    pub fn output_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        let places = slices.iter_mut().take(MAX_OUTPUT_SLICES);
        for (place, bytes) in places.zip(self.output()) {
            *place = IoSlice::new(bytes);
            count += 1;
        }
        count
    }

    /// Whether there is anything to send.
    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The first `count` bytes of the output are sent.
    pub fn output_sent(&mut self, count: usize) {
        self.sent += count;
        while let Some(first) = self.outbox.front()
            && self.sent >= first.len()
        {
            self.sent -= first.len();
            let message = self.outbox.pop_front().expect("the outbox has a first message");
            self.held_requests -= message.held_requests;
            self.held_bytes -= message.held_bytes;
            if let Body::Data(data) = message.body {
                self.pool.put(data);
            }
        }
        assert!(self.sent == 0 || !self.outbox.is_empty(), "more bytes sent than there were");
    }

    /// Whether the transmission phase has not begun.
    pub fn is_negotiating(&self) -> bool {
        matches!(self.state, State::ClientFlags | State::Option | State::SkippingOption { .. })
    }

    /// Requests that [`Self::complete`] is still expected for.
    pub fn in_flight(&self) -> usize {
        MAX_REQUESTS - self.free_slots.len()
    }

    /// Whether no more requests will come. Those in flight are still to be completed and their replies to be sent,
    /// unless [`Self::is_closed`].
    pub fn closing(&self) -> bool {
        matches!(self.state, State::Closing | State::Broken)
    }

    /// Whether the connection is to be dropped: the peer broke the protocol, or the last reply is sent. Requests may
    /// still be in flight in the first case; completing them then is allowed, and without effect.
    pub fn is_closed(&self) -> bool {
        match self.state {
            State::Closing => self.held_requests == 0 && self.outbox.is_empty(),
            State::Broken => true,
            _ => false,
        }
    }

    /// Why the session is [`Self::closing`].
    pub fn closed_reason(&self) -> Option<&ClosedReason> {
        self.closed_reason.as_ref()
    }

    fn output(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.sent;
        self.outbox.iter().flat_map(Outgoing::slices).filter_map(move |slice| {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            Some(&slice[skipped..]).filter(|rest| !rest.is_empty())
        })
    }

    /// Consumes one message, or one piece of it.
    fn step(&mut self) -> Step {
        match &mut self.state {
            State::ClientFlags => self.step_client_flags(),
            State::Option => self.step_option(),
            State::SkippingOption { option, left } => {
                let option = *option;
                if skip(&mut self.inbox, left) {
                    let mut answer = Vec::new();
                    self.negotiation.refuse_oversize(option, &mut answer);
                    self.outbox.push_back(Outgoing::new(&[], Body::Data(answer)));
                    self.state = State::Option;
                    return Step::Continue;
                }
                self.wait_for_input()
            }
            State::Request => self.step_request(),
            State::Filling { header, data, filled } => {
                let count = self.inbox.bytes().len().min(data.len() - *filled);
                data[*filled..][..count].copy_from_slice(&self.inbox.bytes()[..count]);
                self.inbox.consume(count);
                *filled += count;
                if *filled < data.len() {
                    return self.wait_for_input();
                }
                let (header, data) = (*header, std::mem::take(data));
                self.state = State::Request;
                let fua = header.flags & CommandFlags::FUA.bits() != 0;
                let command = Command::Write { offset: header.offset, data, fua };
                Step::Request(self.launch(&header, command))
            }
            State::SkippingWrite { cookie, result, left } => {
                let (cookie, result) = (*cookie, *result);
                if !skip(&mut self.inbox, left) {
                    return self.wait_for_input();
                }
                self.state = State::Request;
                self.reply(cookie, result.into(), 0);
                Step::Continue
            }
            State::Closing | State::Broken => Step::Wait,
        }
    }

    fn step_client_flags(&mut self) -> Step {
        let Some(&flags) = self.inbox.peek() else { return self.wait_for_input() };
        self.inbox.consume(flags.len());
        match self.negotiation.client_flags(u32::from_be_bytes(flags)) {
            Ok(()) => self.state = State::Option,
            Err(reason) => self.break_off(reason),
        }
        Step::Continue
    }

    fn step_option(&mut self) -> Step {
        // One answer at a time: a client that asks and does not listen costs no more memory than one that listens.
        if self.has_output() {
            return Step::Wait;
        }
        let Some(bytes) = self.inbox.peek() else { return self.wait_for_input() };
        let Some(header) = OptionHeader::parse(bytes) else {
            self.break_off(ClosedReason::BadOptionMagic);
            return Step::Continue;
        };
        let length = header.length as usize;
        let oversize = header.length > MAX_OPTION_BYTES;
        if !oversize && self.inbox.bytes().len() < OptionHeader::LEN + length {
            return self.wait_for_input();
        }
        self.inbox.consume(OptionHeader::LEN);
        if let Err(reason) = self.negotiation.admit(&header) {
            self.break_off(reason);
            return Step::Continue;
        }
        if header.length > MAX_PAYLOAD {
            self.break_off(ClosedReason::OversizeOption(header.length));
            return Step::Continue;
        }
        if oversize {
            self.state = State::SkippingOption { option: header.option, left: header.length };
            return Step::Continue;
        }
        let mut answer = Vec::new();
        let next = self.negotiation.option(&self.export, header.option, &self.inbox.bytes()[..length], &mut answer);
        self.inbox.consume(length);
        if !answer.is_empty() {
            self.outbox.push_back(Outgoing::new(&[], Body::Data(answer)));
        }
        match next {
            Next::Option => {}
            Next::Transmission => self.state = State::Request,
            Next::End(reason) => self.close(reason),
        }
        Step::Continue
    }

    fn step_request(&mut self) -> Step {
        let Some(bytes) = self.inbox.peek() else { return self.wait_for_input() };
        let Some(header) = RequestHeader::parse(bytes) else {
            self.break_off(ClosedReason::BadRequestMagic);
            return Step::Continue;
        };
        let kind = CommandKind::from_wire(header.kind);
        if kind == Some(CommandKind::Disconnect) {
            self.close(ClosedReason::Disconnected);
            return Step::Continue;
        }
        let is_write = kind == Some(CommandKind::Write);
        if is_write && header.length > MAX_PAYLOAD {
            self.break_off(ClosedReason::OversizeWrite(header.length));
            return Step::Continue;
        }
        if !self.has_room_for(self.held_for(&header)) {
            return Step::Wait;
        }
        self.inbox.consume(RequestHeader::LEN);
        self.held_requests += 1;

        let result = self.export.check(kind, &header, self.negotiation.structured_replies());
        // An empty range is fine, and there is nothing to do about it.
        let empty = header.length == 0 && kind != Some(CommandKind::Flush);
        if result.is_err() || empty {
            if is_write {
                self.state = State::SkippingWrite { cookie: header.cookie, result, left: header.length };
            } else {
                self.reply(header.cookie, result.into(), 0);
            }
            return Step::Continue;
        }

        self.held_bytes += self.held_for(&header);
        let RequestHeader { offset, length, .. } = header;
        let flags = CommandFlags::from_bits_truncate(header.flags);
        let fua = flags.contains(CommandFlags::FUA);
        let no_hole = flags.contains(CommandFlags::NO_HOLE);
        let command = match kind.expect("the export refuses unknown commands") {
            CommandKind::Read => Command::Read { offset, length },
            CommandKind::Flush => Command::Flush,
            CommandKind::Trim => Command::Trim { offset, length, fua },
            CommandKind::WriteZeroes => Command::WriteZeroes { offset, length, fua, no_hole },
            CommandKind::Write => {
                let data = self.pool.take(length as usize);
                self.state = State::Filling { header, data, filled: 0 };
                return Step::Continue;
            }
            CommandKind::Disconnect => unreachable!("a disconnect was handled above"),
        };
        Step::Request(self.launch(&header, command))
    }

    /// Puts a request in flight whose holdings are counted already.
    fn launch(&mut self, header: &RequestHeader, command: Command) -> Request {
        let slot = self.free_slots.pop().expect("there are as many slots as requests may be held");
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        let read = matches!(command, Command::Read { .. }).then_some((header.offset, header.length));
        let cookie = header.cookie;
        self.in_flight[slot as usize] = Some(InFlight { serial, cookie, read, held_bytes: self.held_for(header) });
        Request { id: RequestId { slot, serial }, cookie, command }
    }

    /// Bytes of data that a request makes the session hold.
    fn held_for(&self, header: &RequestHeader) -> usize {
        match CommandKind::from_wire(header.kind) {
            Some(CommandKind::Read | CommandKind::Write) => header.length.min(self.export.block_max) as usize,
            _ => 0,
        }
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.held_requests == 0
            || (self.held_requests < MAX_REQUESTS && self.held_bytes.saturating_add(bytes) <= MAX_HELD_BYTES)
    }

    /// Queues the reply to a held request that holds `held_bytes`.
    fn reply(&mut self, cookie: u64, outcome: Outcome, held_bytes: usize) {
        if matches!(self.state, State::Broken) {
            self.held_requests -= 1;
            self.held_bytes -= held_bytes;
            return;
        }
        let mut message = if self.negotiation.structured_replies() {
            structured_reply(cookie, outcome)
        } else {
            simple_reply(cookie, outcome)
        };
        message.held_requests = 1;
        match message.body {
            Body::Data(_) => message.held_bytes = held_bytes,
            Body::Text(_) => self.held_bytes -= held_bytes,
        }
        self.outbox.push_back(message);
    }

    /// Nothing more can be parsed. At the end of the input that is the end of the session.
    fn wait_for_input(&mut self) -> Step {
        if !self.input_ended {
            return Step::Wait;
        }
        let between_messages = matches!(self.state, State::ClientFlags | State::Option | State::Request);
        let clean = between_messages && self.inbox.is_empty();
        self.close(if clean { ClosedReason::EndOfInput } else { ClosedReason::Truncated });
        Step::Continue
    }

    /// Takes no more input, but sends all replies.
    fn close(&mut self, reason: ClosedReason) {
        if self.closing() {
            return;
        }
        match std::mem::replace(&mut self.state, State::Closing) {
            State::Filling { header, data, .. } => {
                self.held_requests -= 1;
                self.held_bytes -= self.held_for(&header);
                self.pool.put(data);
            }
            State::SkippingWrite { .. } => self.held_requests -= 1,
            _ => {}
        }
        self.closed_reason = Some(reason);
    }

    /// Has nothing more to do with a peer that does not speak the protocol.
    fn break_off(&mut self, reason: ClosedReason) {
        self.close(reason);
        self.state = State::Broken;
        for message in self.outbox.drain(..) {
            self.held_requests -= message.held_requests;
            self.held_bytes -= message.held_bytes;
        }
        self.sent = 0;
    }

    /// Memory held for data, in bytes, except what the engine has.
    #[cfg(test)]
    fn memory(&self) -> usize {
        let filling = match &self.state {
            State::Filling { data, .. } => data.capacity(),
            _ => 0,
        };
        let sending = self.outbox.iter().map(|message| match &message.body {
            Body::Data(data) => data.capacity(),
            Body::Text(_) => 0,
        });
        filling + sending.sum::<usize>() + self.pool.bytes()
    }
}

/// Throws away up to `left` bytes; true when none are left to throw away.
fn skip(inbox: &mut Inbox, left: &mut u32) -> bool {
    let count = inbox.bytes().len().min(*left as usize);
    inbox.consume(count);
    *left -= count as u32;
    *left == 0
}

fn simple_reply(cookie: u64, outcome: Outcome) -> Outgoing {
    let (error, body) = match outcome {
        Outcome::Done => (None, Body::Text("")),
        Outcome::Data { data, .. } => (None, Body::Data(data)),
        Outcome::Failed(refusal) => (Some(refusal.errno), Body::Text("")),
    };
    Outgoing::new(&[&SimpleReply { error, cookie }.to_bytes()], body)
}

/// Every reply is one chunk: it keeps the promise of the DF flag, and needs no second header.
fn structured_reply(cookie: u64, outcome: Outcome) -> Outgoing {
    let header =
        |kind, payload: usize| ChunkHeader { flags: ChunkFlags::DONE, kind, cookie, length: payload as u32 }.to_bytes();
    match outcome {
        Outcome::Done => Outgoing::new(&[&header(ChunkKind::None, 0)], Body::Text("")),
        Outcome::Data { offset, data } => {
            let header = header(ChunkKind::OffsetData, size_of::<u64>() + data.len());
            Outgoing::new(&[&header, &offset.to_be_bytes()], Body::Data(data))
        }
        Outcome::Failed(Refusal { errno, text }) => {
            let header = header(ChunkKind::Error, size_of::<u32>() + size_of::<u16>() + text.len());
            let length = text.len() as u16;
            Outgoing::new(&[&header, &errno.to_wire().to_be_bytes(), &length.to_be_bytes()], Body::Text(text))
        }
    }
}

#[cfg(test)]
mod tests;
