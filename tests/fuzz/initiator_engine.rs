//! A device of the initiator against targets that answer whatever they like.
//!
//! The input decides what the user asks for, which ports there are, how time passes, and what comes back for each
//! frame that was sent: the right answer, or one with a wrong tag, sender, length, status or block. README.md lists
//! what is asserted after each step and at the end.

use std::collections::{BTreeMap, VecDeque};

use aoe_common::addr::Address;
use aoe_common::ata::{Identify, command};
use aoe_common::frame::{MIN_FRAME, SECTOR};
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{
    AtaFlags, AtaRepr, BROADCAST, Command, ConfigCommand, ConfigRepr, ErrorCode, EthernetRepr, Frame, HeaderRepr,
    MacAddr, VERSION,
};
use aoe_initiator::engine::{
    Device, DeviceConfig, DeviceState, FRAME_MAX, Operation, PATHS_MAX, PathState, PortId, PortInfo, QUARANTINE,
    REQUESTS_MAX, Request, WINDOW_MAX,
};

use super::Bytes;

const ADDRESS: Address = Address::new(7, 3);
/// What the buffers of reads hold at first. No target sends it.
const UNREAD: u8 = 0xee;
/// Sent frames that can still be answered.
const REMEMBERED: usize = 32;

struct Sent {
    port: PortId,
    frame: Vec<u8>,
}

/// What the user waits for.
enum Wanted {
    Read(usize),
    Write(usize),
    Other,
}

struct Bench {
    device: Device,
    now: Instant,
    ports: BTreeMap<PortId, PortInfo>,
    sent: VecDeque<Sent>,
    wanted: BTreeMap<u64, Wanted>,
    next_id: u64,
    out: Vec<u8>,
}

/// Plays one story, then falls silent until the device has given up.
pub fn run(data: &[u8]) {
    let data: Vec<u8> = data.iter().map(|byte| if *byte == UNREAD { UNREAD - 1 } else { *byte }).collect();
    let mut bytes = Bytes::new(&data);
    let dead_after = bytes.pick(&[Some(3), Some(0), Some(30), None]).map(Duration::from_secs);
    let hold_writes = Duration::from_secs(bytes.pick(&[0, 0, 0, 5]));
    let config = DeviceConfig {
        address: ADDRESS,
        identity: [0x77; 16],
        tag_start: bytes.u32(),
        dead_after,
        hold_writes,
        frame_life: QUARANTINE,
        network_repeats: false,
    };
    let now = Instant::ZERO + Duration::from_secs(1000);
    let mut bench = Bench {
        device: Device::new(now, config),
        now,
        ports: BTreeMap::new(),
        sent: VecDeque::new(),
        wanted: BTreeMap::new(),
        next_id: 0,
        out: vec![0; FRAME_MAX],
    };
    bench.set_port(PortId(0), Some(PortInfo { mac: mac(0), mtu: 1500 }));
    bench.pull();
    if !bytes.rarely(4) {
        bench.come_up();
    }
    while !bytes.is_empty() {
        bench.step(&mut bytes);
        bench.pull();
    }
    bench.finish(dead_after);
}

fn mac(number: u8) -> MacAddr {
    MacAddr(2, 0, 0, 0, 0, number)
}

fn disk(sectors: u64) -> Identify {
    Identify {
        sectors,
        serial: "one".to_owned(),
        model: "disk".to_owned(),
        write_cache: true,
        flush: true,
        flush_ext: true,
        fua: true,
        trim_sectors_max: 2,
        trim_zeroes: true,
        logs: true,
        exactly_once: true,
        ..Identify::default()
    }
}

fn any_disk(bytes: &mut Bytes<'_>) -> Identify {
    let mut disk = disk(bytes.pick(&[64, 64, 64, 128, 1, 1 << 48, 1 << 28, 48]));
    if bytes.rarely(4) {
        disk.serial = bytes.pick(&["one", "two", ""]).to_owned();
        let bits = bytes.u8();
        let bit = |number: u8| bits & 1 << number != 0;
        (disk.lba48, disk.flush, disk.flush_ext, disk.fua) = (bit(0), bit(1), bit(2), bit(3));
        (disk.trim_zeroes, disk.exactly_once, disk.logs) = (bit(4), bit(5), bit(6));
        disk.trim_sectors_max = bytes.pick(&[0, 1, 8, u16::MAX]);
    }
    disk
}

impl Bench {
    fn set_port(&mut self, port: PortId, info: Option<PortInfo>) {
        self.device.set_port(self.now, port, info);
        match info {
            Some(info) => self.ports.insert(port, info),
            None => self.ports.remove(&port),
        };
    }

    /// A well-behaved target answers until the device can be used, so that little of the input is spent on that.
    fn come_up(&mut self) {
        for _ in 0..8 {
            for sent in std::mem::take(&mut self.sent) {
                let answer = answer_to(&sent.frame, mac(100), &disk(64));
                self.device.handle_frame(self.now, sent.port, &answer);
                self.pull();
            }
            self.pass(Duration::from_millis(100));
        }
        assert!(self.device.state() == DeviceState::Up, "an honest target is found");
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.device.handle_timeout(self.now);
        self.pull();
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.below(32) {
            0..7 => self.submit(bytes),
            7..14 if !self.sent.is_empty() => {
                let at = bytes.below(self.sent.len());
                let sent = self.sent.remove(at).expect("it is there");
                let answer = answer_to(&sent.frame, answerer(&sent.frame, bytes), &disk(64));
                self.device.handle_frame(self.now, sent.port, &answer);
            }
            14..22 if !self.sent.is_empty() => {
                let at = bytes.below(self.sent.len());
                let (port, answer) = (self.sent[at].port, hostile_answer(&self.sent[at].frame, bytes));
                let port = if bytes.rarely(16) { PortId(bytes.below(4) as u32) } else { port };
                self.device.handle_frame(self.now, port, &answer);
            }
            22 => {
                let port = PortId(bytes.below(4) as u32);
                let advert = advert(bytes);
                self.device.handle_frame(self.now, port, &advert);
            }
            23 => {
                let port = PortId(bytes.below(2) as u32);
                let frame = bytes.chunk().to_vec();
                self.device.handle_frame(self.now, port, &frame);
            }
            24..29 => {
                let step = match self.device.poll_timeout() {
                    Some(due) if bytes.bool() => due.since(self.now),
                    _ => Duration::from_millis(bytes.pick(&[1, 60, 300, 1_000, 11_000, 40_000])),
                };
                self.pass(step);
            }
            29 | 30 => {
                let port = PortId(bytes.below(4) as u32);
                let info = PortInfo {
                    mac: mac(bytes.pick(&[0, 1, 2, 0])),
                    mtu: bytes.pick(&[1500, 9000, 1500, 600, 100, 0, u32::MAX, 4000]),
                };
                self.set_port(port, if bytes.rarely(3) { None } else { Some(info) });
            }
            _ => self.check_rest(),
        }
    }

    fn submit(&mut self, bytes: &mut Bytes<'_>) {
        if !self.device.has_room() {
            return;
        }
        let lba = match bytes.below(8) {
            0 => bytes.u64() >> 17,
            1 => u64::from(bytes.u8()) + (1 << 28) - 128,
            _ => u64::from(bytes.u8() & 0x3f),
        };
        let sectors = if bytes.rarely(8) { 1 + bytes.below(64) } else { 1 + bytes.below(4) };
        let many = match bytes.below(8) {
            0 => 1 + (bytes.u64() >> 17),
            1 => 1 + u64::from(bytes.u16()),
            _ => sectors as u64,
        };
        let fua = bytes.rarely(4);
        let len = sectors * SECTOR;
        let (wanted, operation) = match bytes.below(8) {
            0..3 => (Wanted::Read(len), Operation::Read { lba, buffer: vec![UNREAD; len] }),
            3..6 => (Wanted::Write(len), Operation::Write { lba, data: vec![0x44; len], fua }),
            6 if bytes.bool() => (Wanted::Other, Operation::Flush),
            6 => (Wanted::Other, Operation::Trim { lba, sectors: many, fua }),
            _ => (Wanted::Other, Operation::Zero { lba, sectors: many, unmap: bytes.bool(), fua }),
        };
        self.next_id += 1;
        self.wanted.insert(self.next_id, wanted);
        self.device.submit(self.now, Request { id: self.next_id, operation });
    }

    /// Does what a driver does after any input, and looks at everything that comes out.
    fn pull(&mut self) {
        let mut frames = 0;
        while let Some((port, len)) = self.device.poll_transmit(self.now, &mut self.out) {
            frames += 1;
            assert!(frames <= PATHS_MAX * (WINDOW_MAX as usize + 4) + 8, "one input leads to no end of frames");
            let frame = self.out[..len].to_vec();
            self.check_frame(port, &frame);
            self.sent.push_back(Sent { port, frame });
            if self.sent.len() > REMEMBERED {
                self.sent.pop_front();
            }
        }
        while let Some(completion) = self.device.poll_completion() {
            let wanted = self.wanted.remove(&completion.id).expect("a request completes once");
            let buffer = &completion.buffer;
            match wanted {
                Wanted::Read(len) => {
                    assert_eq!(buffer.len(), len, "a read gives its buffer back");
                    assert!(completion.result.is_err() || !buffer.contains(&UNREAD), "success, and not all was read");
                }
                Wanted::Write(len) => assert!(buffer.len() == len && buffer.iter().all(|byte| *byte == 0x44)),
                Wanted::Other => assert!(buffer.is_empty()),
            }
        }
        let mut events = 0;
        while self.device.poll_event().is_some() {
            events += 1;
        }
        assert!(events <= 64, "events are bounded");
        assert_eq!(self.wanted.len(), self.device.in_flight(), "what has not completed is in flight");
        assert!(self.device.in_flight() <= REQUESTS_MAX && self.device.paths().count() <= PATHS_MAX);
        for path in self.device.paths() {
            assert!((1..=WINDOW_MAX).contains(&path.window) && path.sectors > 0);
            // What was under way when the window was halved stays there until it is answered or lost.
            assert!(path.in_flight <= WINDOW_MAX);
            assert!(path.state != PathState::Live || self.ports.contains_key(&path.port), "a path without a port");
        }
    }

    fn check_frame(&self, port: PortId, bytes: &[u8]) {
        let frame = Frame::parse(bytes).expect("what is sent can be parsed");
        let header = frame.header;
        assert!(!header.response && header.version == VERSION && header.error.is_none());
        assert!(header.address == ADDRESS && header.tag & 1 << 31 != 0);
        assert!(bytes.len() >= MIN_FRAME, "a short frame");
        let Some(info) = self.ports.get(&port) else { panic!("a frame for a port that is gone: {frame:x?}") };
        assert_eq!(frame.ethernet.source, info.mac);
        let longest = (14 + u64::from(info.mtu)).max(MIN_FRAME as u64);
        assert!(bytes.len() as u64 <= longest, "a frame of {} bytes for an MTU of {}", bytes.len(), info.mtu);
        assert!(header.command == Command::Config || frame.ethernet.destination.0 & 1 == 0, "a command for everybody");
    }

    /// A driver that sleeps as long as it is told to must not spin.
    fn check_rest(&mut self) {
        for _ in 0..8 {
            match self.device.poll_timeout() {
                Some(due) if due <= self.now => self.pass(Duration::ZERO),
                _ => return,
            }
        }
        panic!("{:?} is due again and again at {:?}", self.device.poll_timeout(), self.now);
    }

    /// Nobody answers any more. What waits for a device that was usable once is given up in the end.
    fn finish(mut self, dead_after: Option<Duration>) {
        self.check_rest();
        let Some(dead_after) = dead_after else { return };
        if self.device.state() == DeviceState::Searching {
            return;
        }
        // The slowest commands are lost six times on one path after the other, 2 s each; before that, writes may have
        // waited for a quarantine.
        let end = self.now + dead_after + 2 * QUARANTINE + PATHS_MAX as u32 * Duration::from_secs(15);
        while self.now < end && self.device.in_flight() > 0 {
            let due = self.device.poll_timeout().expect("somebody waits");
            self.pass(due.since(self.now).max(Duration::from_micros(1)));
        }
        assert!(self.wanted.is_empty(), "{} requests never complete: {:?}", self.wanted.len(), self.device);
    }
}

/// Who was asked.
fn asked(frame: &Frame<'_>) -> Option<MacAddr> {
    Some(frame.ethernet.destination).filter(|mac| *mac != BROADCAST)
}

/// The target that answers a frame honestly: the one that was asked, or for a question to everybody, any.
fn answerer(sent: &[u8], bytes: &mut Bytes<'_>) -> MacAddr {
    let frame = Frame::parse(sent).expect("it was sent");
    asked(&frame).unwrap_or_else(|| mac(100 + bytes.u8() % 20))
}

fn emit(ethernet: &EthernetRepr, header: &HeaderRepr, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; (ethernet.wire_len() + HeaderRepr::WIRE_LEN + body.len()).max(MIN_FRAME)];
    Frame::emit_headers(ethernet, header, &mut out)[..body.len()].copy_from_slice(body);
    out
}

fn config_body(buffers: u16, sectors: u8) -> Vec<u8> {
    let repr = ConfigRepr::answer(buffers, 1, sectors, ConfigCommand::Read, b"");
    let mut body = vec![0; repr.wire_len()];
    repr.emit(&mut body);
    body
}

fn ata_body(asked: &AtaRepr, status: u8, error: u8, data: &[u8]) -> Vec<u8> {
    let mut body = vec![0; AtaRepr::WIRE_LEN + data.len()];
    AtaRepr { command: status, feature: error, ..*asked }.emit(&mut body).copy_from_slice(data);
    body
}

/// What an honest target answers.
fn answer_to(sent: &[u8], target: MacAddr, disk: &Identify) -> Vec<u8> {
    let frame = Frame::parse(sent).expect("it was sent");
    let ethernet = EthernetRepr { destination: frame.ethernet.source, source: target, vlan: None };
    let header = HeaderRepr { response: true, ..frame.header };
    let body = match AtaRepr::parse(frame.body) {
        Ok((ata, _)) if header.command == Command::Ata => {
            let data = match ata.command {
                command::IDENTIFY_DEVICE => disk.emit().to_vec(),
                _ if ata.flags.contains(AtaFlags::WRITE) => Vec::new(),
                command::READ_SECTORS | command::READ_SECTORS_EXT => vec![0x33; usize::from(ata.count) * SECTOR],
                _ => Vec::new(),
            };
            ata_body(&ata, 0x40, 0, &data)
        }
        _ => config_body(16, 8),
    };
    emit(&ethernet, &header, &body)
}

/// An answer with something odd about it.
fn hostile_answer(sent: &[u8], bytes: &mut Bytes<'_>) -> Vec<u8> {
    let frame = Frame::parse(sent).expect("it was sent");
    let mut ethernet = EthernetRepr {
        destination: frame.ethernet.source,
        source: answerer(sent, bytes),
        vlan: if bytes.rarely(32) { Some(bytes.u16()) } else { None },
    };
    let mut header = HeaderRepr { response: true, ..frame.header };
    match bytes.below(32) {
        0 => ethernet.source = mac(100 + bytes.u8() % 20),
        1 => ethernet.source = BROADCAST,
        2 => ethernet.destination = bytes.pick(&[BROADCAST, mac(9)]),
        3 => header.tag = header.tag.wrapping_add(u32::from(bytes.u8())),
        4 => header.error = Some(ErrorCode::from(bytes.u8())),
        5 => header.address = Address::new(bytes.u16(), bytes.u8()),
        6 => header.version = bytes.u8() & 0x0f,
        7 => header.command = Command::from(bytes.u8()),
        8 => header.response = false,
        _ => {}
    }
    let body = match AtaRepr::parse(frame.body) {
        Ok((ata, _)) if frame.header.command == Command::Ata => {
            let (status, error) = if bytes.rarely(3) { (bytes.u8(), bytes.u8()) } else { (0x40, 0) };
            let data = match (ata.command, bytes.below(4)) {
                (command::IDENTIFY_DEVICE, 0) => bytes.take(SECTOR).to_vec(),
                (command::IDENTIFY_DEVICE, _) => any_disk(bytes).emit().to_vec(),
                (_, 0) => vec![0x55; usize::from(bytes.u8()) * 8],
                (_, 1) => Vec::new(),
                _ => vec![0x33; (usize::from(ata.count) + usize::from(bytes.u8() & 1)) * SECTOR],
            };
            ata_body(&ata, status, error, &data)
        }
        _ => config_body(bytes.u16() >> bytes.below(16), bytes.u8()),
    };
    let mut out = emit(&ethernet, &header, &body);
    if bytes.rarely(16) {
        out.truncate(usize::from(bytes.u8()));
    }
    out
}

/// A config answer that nobody asked for.
fn advert(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let ethernet = EthernetRepr { destination: BROADCAST, source: mac(100 + bytes.u8() % 20), vlan: None };
    let header = HeaderRepr {
        version: bytes.pick(&[1, 0]),
        response: true,
        error: None,
        address: ADDRESS,
        command: Command::Config,
        tag: 0,
    };
    emit(&ethernet, &header, &config_body(bytes.u16() >> bytes.below(16), bytes.u8()))
}
