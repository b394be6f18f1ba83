//! What really passes on each way to a disk: frames of which size, in which order, how many of them, and whether
//! there is one disk at the end. Reads only.
//!
//! One way after the other is gone through. First single sectors in some places are read twice, to be compared with what
//! other ways say. Then the largest read that is answered is searched for, from one sector up to what both ends claim
//! to take, and the largest request: a read of one sector with so much behind it that the frame is as long as that
//! of a write. A size fails when it is not answered at several attempts. At last there is a load for a time: a few
//! requests under way, in turn a config query, a read of one sector and two of the largest that passes. Targets answer
//! config queries at once, so where their answers overtake each other the network changes the order.

use std::collections::{BTreeMap, VecDeque};

use aoe_common::addr::Address;
use aoe_common::ata::{Status, command, fnv1a};
use aoe_common::frame::SECTOR;
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{AtaFlags, AtaRepr, Command, ConfigCommand, ConfigRepr, ErrorCode, Frame, MacAddr};

use super::frames::{self, Envelope};
use super::search::Search;
use super::{Conversation, PortId, PortInfo, RoundTrips, Tags};

/// Ways that are checked at the most.
pub const WAYS_MAX: usize = 16;

/// Requests under way in a load, as far as the target has buffers.
const DEPTH: usize = 16;
/// How often a size is tried, and how long each attempt waits: the first so long, each further one longer by the
/// second figure.
const ATTEMPTS: u32 = 4;
const ATTEMPT_WAITS: Duration = Duration::from_millis(100);
const NEXT_WAITS_LONGER: Duration = Duration::from_millis(50);
/// When a request of the load is given up, and when its answer is late.
const LATE: Duration = Duration::from_millis(200);
/// How long answers are listened for at the end of a load.
const DRAIN: Duration = Duration::from_millis(400);
/// Requests of a load whose answers are told from others; the oldest are forgotten first.
const REMEMBERED_MAX: usize = 65_536;
/// Answers to single questions that a second answer is compared with.
const COMPARED_MAX: usize = 64;
/// Sectors at the start of the disk that the load reads.
const LOAD_SECTORS: u64 = 2048;
/// Sectors that tell disks from each other: partition tables and the superblocks of filesystems are there; and one in
/// the middle, and the last.
const TELLING: [u64; 6] = [0, 1, 2, 8, 128, 2048];
/// Samples of a disk.
pub const SAMPLES: usize = TELLING.len() + 2;

/// A way to the disk, as the target described itself there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The target's address.
    pub mac: MacAddr,
    /// Our port.
    pub port: PortId,
    /// Messages that the target queues.
    pub buffers: u16,
    /// Sectors of a command that it takes; 0 means 2.
    pub offered: u8,
    /// Size of the disk in sectors; more than 0.
    pub sectors: u64,
    /// Whether it takes 48-bit commands.
    pub lba48: bool,
}

/// What was found out about a way.
#[derive(Clone, Debug, Default)]
pub struct WayReport {
    /// Sectors of a frame that both ends claim to take.
    pub claimed: u8,
    /// Sectors of the largest read that was answered; 0 when none was.
    pub reads: u8,
    /// Sectors in the largest request that was answered.
    pub requests: u8,
    /// What the sectors hold that tell disks from each other, as hashes, at two times.
    pub samples: [[Option<u64>; SAMPLES]; 2],
    /// The target refuses to read.
    pub refused: Option<ErrorCode>,
    /// Reads that the disk failed.
    pub failed: u64,
    /// Second answers that differ from the first.
    pub differing: u64,
    /// The load.
    pub load: LoadReport,
}

/// What became of a load.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Requests.
    pub sent: u64,
    /// Requests that were answered, however late.
    pub answered: u64,
    /// Requests whose answer took more than 200 ms.
    pub late: u64,
    /// Answers to what was answered before.
    pub repeated: u64,
    /// Config queries that were answered.
    pub ordered: u64,
    /// Config queries whose answer came after that to a later one.
    pub overtaken: u64,
    /// How long answers took.
    pub times: RoundTrips,
}

impl LoadReport {
    /// Requests without an answer.
    pub fn lost(&self) -> u64 {
        self.sent - self.answered
    }
}

impl WayReport {
    /// Whether two ways lead to different data: somewhere both say the same twice, and not the same as the other.
    pub fn differs_from(&self, other: &Self) -> bool {
        let steady = |report: &Self, at: usize| report.samples[0][at].filter(|one| report.samples[1][at] == Some(*one));
        (0..SAMPLES).any(|at| steady(self, at).zip(steady(other, at)).is_some_and(|(one, other)| one != other))
    }
}

/// A single question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    /// A telling sector, at one of two times.
    Sample(usize),
    /// A read of so many sectors.
    Read(u8),
    /// A read of one sector in a frame with room for so many.
    Padded(u8),
}

#[derive(Clone, Copy, Debug)]
struct Open {
    probe: Probe,
    tag: u32,
    attempts: u32,
    again: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    GivenUp,
    Answered,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    tag: u32,
    at: Instant,
    command: Command,
    state: State,
    /// What the first answer held.
    held: u64,
}

/// A load that runs.
#[derive(Debug)]
struct Load {
    ends: Instant,
    depth: usize,
    in_flight: usize,
    sent: VecDeque<Sent>,
    /// How many of them, from the oldest on, are no longer open.
    closed: usize,
    /// The latest config query that was answered.
    newest: Option<Instant>,
}

/// What is known of a way, and what is going on there.
#[derive(Debug)]
struct Checked {
    way: Way,
    samples: usize,
    reads: Search,
    requests: Search,
    open: Option<Open>,
    load: Option<Load>,
    over: bool,
    /// Answers to single questions.
    compared: VecDeque<(u32, u64)>,
    report: WayReport,
}

/// See the [module](self). Begins when the value is made.
#[derive(Debug)]
pub struct Checking {
    address: Address,
    load_for: Duration,
    ports: BTreeMap<PortId, PortInfo>,
    tags: Tags,
    ways: Vec<Checked>,
    current: usize,
}

impl Checking {
    /// Checks these ways to a disk, with a load of this length on each.
    ///
    /// # Panics
    /// When there are more than [`WAYS_MAX`], a disk is empty, or a port is not there.
    pub fn new(
        address: Address,
        ways: Vec<Way>,
        load_for: Duration,
        tag_start: u32,
        ports: impl IntoIterator<Item = (PortId, PortInfo)>,
    ) -> Self {
        let ports: BTreeMap<_, _> = ports.into_iter().collect();
        assert!(ways.len() <= WAYS_MAX && ways.iter().all(|way| way.sectors > 0), "bounded work on disks");
        let check = |way: Way| {
            let claimed = super::payload_sectors(ports[&way.port], way.offered);
            let claimed = u64::from(claimed).min(way.sectors) as u8;
            Checked {
                way,
                samples: 0,
                reads: Search::new(0, claimed),
                requests: Search::new(0, claimed),
                open: None,
                load: None,
                over: claimed == 0,
                compared: VecDeque::new(),
                report: WayReport { claimed, ..WayReport::default() },
            }
        };
        let ways = ways.into_iter().map(check).collect();
        Self { address, load_for, ports, tags: Tags::new(tag_start), ways, current: 0 }
    }

    /// The ways, in the order in which they were named, with what was found out.
    pub fn reports(&self) -> impl Iterator<Item = (Way, &WayReport)> {
        self.ways.iter().map(|checked| (checked.way, &checked.report))
    }
}

/// What an answer holds, for comparison: of data the first sector.
fn held(frame: &Frame<'_>) -> u64 {
    let len = match frame.header.command {
        Command::Ata => AtaRepr::WIRE_LEN + SECTOR,
        _ => ConfigRepr::parse(frame.body, true).map_or(0, |config| config.wire_len()),
    };
    fnv1a(&frame.body[..len.min(frame.body.len())])
}

/// How a read ended.
enum Read {
    /// With so many bytes behind the registers.
    Done(usize),
    Refused(ErrorCode),
    Failed,
}

fn read(frame: &Frame<'_>) -> Option<Read> {
    if let Some(error) = frame.header.error {
        return Some(Read::Refused(error));
    }
    let (ata, data) = AtaRepr::parse(frame.body).ok()?;
    Some(if Status::from_bits_retain(ata.command).failed() { Read::Failed } else { Read::Done(data.len()) })
}

impl Checked {
    fn next_probe(&self) -> Option<Probe> {
        if self.samples < 2 * SAMPLES {
            return Some(Probe::Sample(self.samples));
        }
        self.reads.next().map(Probe::Read).or_else(|| self.requests.next().map(Probe::Padded))
    }

    /// The sector of a sample; on small disks some are the same.
    fn sample_at(&self, sample: usize) -> u64 {
        let last = self.way.sectors - 1;
        match sample % SAMPLES {
            at if at < TELLING.len() => TELLING[at].min(last),
            at if at == TELLING.len() => last / 2,
            _ => last,
        }
    }

    /// A single question was answered, or is given up. `passes`: as it should be.
    fn conclude(&mut self, probe: Probe, passes: bool, held: u64) {
        self.open = None;
        match probe {
            Probe::Sample(sample) => {
                self.samples += 1;
                self.report.samples[sample / SAMPLES][sample % SAMPLES] = passes.then_some(held);
                // A target that answers no read at all needs no further questions.
                self.over = sample == 0 && !passes;
            }
            Probe::Read(size) => self.reads.learn(size, passes),
            Probe::Padded(size) => self.requests.learn(size, passes),
        }
        (self.report.reads, self.report.requests) = (self.reads.largest(), self.requests.largest());
    }

    fn handle_probe(&mut self, open: Open, frame: &Frame<'_>) {
        let Some(read) = read(frame) else { return };
        let wanted = match open.probe {
            Probe::Read(size) => usize::from(size) * SECTOR,
            _ => SECTOR,
        };
        let passes = match read {
            Read::Done(bytes) if bytes >= wanted => true,
            // Cut short, somewhere.
            Read::Done(_) => false,
            Read::Refused(error) => {
                self.report.refused = Some(error);
                false
            }
            Read::Failed => {
                self.report.failed += 1;
                false
            }
        };
        let held = held(frame);
        if self.compared.len() == COMPARED_MAX {
            self.compared.pop_front();
        }
        self.compared.push_back((open.tag, held));
        self.conclude(open.probe, passes, held);
    }

    fn read_request(&self, envelope: &Envelope, lba: u64, count: u8, room: usize, out: &mut [u8]) -> usize {
        // The Device register as Linux sends it.
        let (flags, command, registers) = match self.way.lba48 {
            true => (AtaFlags::EXTENDED, command::READ_SECTORS_EXT, lba),
            false => (AtaFlags::empty(), command::READ_SECTORS, lba & aoe_common::wire::LBA28_MAX | 0xe0 << 24),
        };
        let ata = AtaRepr { flags, feature: 0, count, command, registers };
        frames::ata_request(envelope, &ata, room, |data| data.fill(0), out)
    }

    fn probe_request(&self, probe: Probe, envelope: &Envelope, out: &mut [u8]) -> usize {
        match probe {
            Probe::Sample(sample) => self.read_request(envelope, self.sample_at(sample), 1, 0, out),
            Probe::Read(size) => self.read_request(envelope, 0, size, 0, out),
            Probe::Padded(size) => self.read_request(envelope, 0, 1, usize::from(size) * SECTOR, out),
        }
    }

    /// The next request of the load, of which there were `number` before.
    fn load_request(&self, number: u64, envelope: &Envelope, out: &mut [u8]) -> (Command, usize) {
        let largest = self.report.reads.max(1);
        let room = self.way.sectors.min(LOAD_SECTORS) - u64::from(largest) + 1;
        let lba = number * u64::from(largest) % room;
        match number % 4 {
            0 => (Command::Config, frames::config_request(envelope, ConfigCommand::Read, b"", out)),
            1 => (Command::Ata, self.read_request(envelope, lba, 1, 0, out)),
            _ => (Command::Ata, self.read_request(envelope, lba, largest, 0, out)),
        }
    }
}

impl Load {
    fn new(now: Instant, length: Duration, buffers: u16) -> Self {
        let depth = DEPTH.min(buffers.into()).max(1);
        Self { ends: now + length, depth, in_flight: 0, sent: VecDeque::new(), closed: 0, newest: None }
    }

    fn has_room(&self, now: Instant) -> bool {
        now < self.ends && self.in_flight < self.depth
    }

    /// Gives up what is late.
    fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.sent.get_mut(self.closed) {
            if oldest.state == State::Open {
                if now < oldest.at + LATE {
                    return;
                }
                oldest.state = State::GivenUp;
                self.in_flight -= 1;
            }
            self.closed += 1;
        }
    }

    fn begin(&mut self, now: Instant, tag: u32, command: Command) {
        if self.sent.len() == REMEMBERED_MAX && self.closed > 0 {
            self.sent.pop_front();
            self.closed -= 1;
        }
        self.sent.push_back(Sent { tag, at: now, command, state: State::Open, held: 0 });
        self.in_flight += 1;
    }

    fn handle(&mut self, now: Instant, frame: &Frame<'_>, report: &mut WayReport) {
        let header = frame.header;
        let Some(oldest) = self.sent.front() else { return };
        let at = (header.tag.wrapping_sub(oldest.tag) & !(1 << 31)) as usize;
        let Some(sent) = self.sent.get_mut(at).filter(|sent| sent.tag == header.tag && sent.command == header.command)
        else {
            return;
        };
        let load = &mut report.load;
        let before = std::mem::replace(&mut sent.state, State::Answered);
        if before == State::Answered {
            load.repeated += 1;
            report.differing += u64::from(sent.held != held(frame));
            return;
        }
        if before == State::Open {
            self.in_flight -= 1;
        }
        sent.held = held(frame);
        let took = now.since(sent.at);
        load.answered += 1;
        load.late += u64::from(took > LATE);
        load.times.record(took);
        if sent.command == Command::Config {
            load.ordered += 1;
            load.overtaken += u64::from(self.newest.is_some_and(|newest| newest > sent.at));
            self.newest = self.newest.max(Some(sent.at));
        } else {
            match read(frame) {
                Some(Read::Refused(error)) => report.refused = Some(error),
                Some(Read::Failed) => report.failed += 1,
                _ => {}
            }
        }
    }

    fn poll_timeout(&self, now: Instant) -> Instant {
        if self.has_room(now) {
            return now;
        }
        let oldest = self.sent.get(self.closed).map(|sent| sent.at + LATE);
        let end = if now < self.ends { self.ends } else { self.ends + DRAIN };
        oldest.map_or(end, |oldest| oldest.min(end))
    }
}

impl Conversation for Checking {
    fn handle_frame(&mut self, now: Instant, port: PortId, bytes: &[u8]) {
        let Ok(frame) = Frame::parse(bytes) else { return };
        let header = frame.header;
        let Some(info) = self.ports.get(&port) else { return };
        if !header.response || header.address != self.address || frame.ethernet.destination != info.mac {
            return;
        }
        let is_from = |checked: &&mut Checked| checked.way.port == port && checked.way.mac == frame.ethernet.source;
        let Some(checked) = self.ways.iter_mut().find(is_from) else { return };
        if header.command == Command::Ata {
            if let Some((_, first)) = checked.compared.iter().find(|(tag, _)| *tag == header.tag) {
                checked.report.differing += u64::from(*first != held(&frame));
                return;
            }
            if let Some(open) = checked.open.filter(|open| open.tag == header.tag && open.attempts > 0) {
                return checked.handle_probe(open, &frame);
            }
        }
        if let Some(load) = &mut checked.load {
            load.handle(now, &frame, &mut checked.report);
        }
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<(PortId, usize)> {
        loop {
            let checked = self.ways.get_mut(self.current)?;
            if checked.over {
                self.current += 1;
                continue;
            }
            let Way { mac, port, buffers, .. } = checked.way;
            let (source, address) = (self.ports[&port].mac, self.address);
            let envelope = |tag| Envelope { source, destination: mac, address, tag };
            if let Some(open) = &mut checked.open {
                if now < open.again {
                    return None;
                }
                let Open { probe, tag, attempts, .. } = *open;
                if attempts == ATTEMPTS {
                    checked.conclude(probe, false, 0);
                    continue;
                }
                open.again = now + ATTEMPT_WAITS + NEXT_WAITS_LONGER * attempts;
                open.attempts += 1;
                return Some((port, checked.probe_request(probe, &envelope(tag), out)));
            }
            if let Some(load) = &mut checked.load {
                load.expire(now);
                if load.has_room(now) {
                    let tag = self.tags.take();
                    let number = checked.report.load.sent;
                    checked.report.load.sent += 1;
                    let (command, len) = checked.load_request(number, &envelope(tag), out);
                    checked.load.as_mut().expect("it runs").begin(now, tag, command);
                    return Some((port, len));
                }
                if now < load.ends + DRAIN {
                    return None;
                }
                checked.over = true;
            } else if let Some(probe) = checked.next_probe() {
                checked.open = Some(Open { probe, tag: self.tags.take(), attempts: 0, again: now });
            } else {
                checked.load = Some(Load::new(now, self.load_for, buffers));
            }
        }
    }

    fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let checked = self.ways.get(self.current)?;
        let due = match (&checked.open, &checked.load) {
            (Some(open), _) => open.again,
            (None, Some(load)) => load.poll_timeout(now),
            (None, None) => now,
        };
        Some(due)
    }

    fn is_over(&self, _: Instant) -> bool {
        self.current == self.ways.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoe_common::wire::{EthernetRepr, HeaderRepr};

    const PORT: PortId = PortId(3);
    const OURS: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const THEIRS: MacAddr = MacAddr(2, 0, 0, 0, 1, 1);
    const DISK: Address = Address::new(0, 1);

    /// A network with a target at its end that does what it should, as far as it is not told otherwise.
    #[derive(Clone)]
    struct World {
        /// Bytes of the longest frame that passes: to us, and to the target.
        passes: [usize; 2],
        /// How many answers each request gets, by its number.
        copies: fn(u64) -> usize,
        /// How long an answer takes, by its number.
        takes: fn(u64) -> Duration,
        error: Option<ErrorCode>,
        /// A second disk behind the same address.
        other: bool,
    }

    impl Default for World {
        fn default() -> Self {
            let takes = |_| Duration::from_micros(50);
            Self { passes: [9014; 2], copies: |_| 1, takes, error: None, other: false }
        }
    }

    impl World {
        fn answer(&self, request: &[u8], copy: usize) -> Vec<u8> {
            let frame = Frame::parse(request).unwrap();
            assert!(!frame.header.response && frame.header.address == DISK);
            let ethernet = EthernetRepr { destination: OURS, source: frame.ethernet.destination, vlan: None };
            let header = HeaderRepr { response: true, error: self.error, ..frame.header };
            let body = match frame.header.command {
                Command::Config => {
                    let repr = ConfigRepr::answer(16, 1, 17, ConfigCommand::Read, b"");
                    let mut body = vec![0; repr.wire_len()];
                    repr.emit(&mut body);
                    body
                }
                Command::Ata => {
                    let (ata, _) = AtaRepr::parse(frame.body).unwrap();
                    assert_eq!(ata.command, command::READ_SECTORS_EXT, "reads only");
                    assert!(ata.lba() + u64::from(ata.count) <= 1 << 20, "within the disk");
                    let mut body = vec![0; AtaRepr::WIRE_LEN];
                    AtaRepr { command: 0x40, ..ata }.emit(&mut body);
                    let fill = ata.lba() as u8 ^ if self.other && copy % 2 == 1 { 0xff } else { 0 };
                    body.resize(AtaRepr::WIRE_LEN + usize::from(ata.count) * SECTOR, fill);
                    body
                }
                other => panic!("asked for {other:?}"),
            };
            let mut out = vec![0; (24 + body.len()).max(60)];
            Frame::emit_headers(&ethernet, &header, &mut out)[..body.len()].copy_from_slice(&body);
            out
        }

        /// Runs a check of one way to its end.
        fn check(&self) -> WayReport {
            let way = Way { mac: THEIRS, port: PORT, buffers: 16, offered: 17, sectors: 1 << 20, lba48: true };
            let ports = [(PORT, PortInfo { mac: OURS, mtu: 9000 })];
            let mut checking = Checking::new(DISK, vec![way], Duration::from_millis(300), 7, ports);
            let mut out = vec![0; frames::FRAME_MAX];
            let mut now = Instant::ZERO;
            let mut number = 0;
            let mut under_way: Vec<(Instant, Vec<u8>)> = Vec::new();
            while !checking.is_over(now) {
                while let Some((port, len)) = checking.poll_transmit(now, &mut out) {
                    assert_eq!(port, PORT);
                    number += 1;
                    if len > self.passes[1] {
                        continue;
                    }
                    for copy in 0..(self.copies)(number) {
                        let answer = self.answer(&out[..len], copy);
                        let takes = (self.takes)(number) + Duration::from_micros(copy as u64);
                        under_way.extend((answer.len() <= self.passes[0]).then_some((now + takes, answer)));
                    }
                }
                if checking.is_over(now) {
                    break;
                }
                under_way.sort_by_key(|(at, _)| *at);
                let due = checking.poll_timeout(now).expect("something is due");
                match under_way.first().map(|(at, _)| *at) {
                    Some(at) if at <= due => {
                        now = at;
                        let (_, answer) = under_way.remove(0);
                        checking.handle_frame(now, PORT, &answer);
                    }
                    _ => {
                        assert!(due > now, "nothing is due twice");
                        now = due;
                    }
                }
                assert!(now < Instant::ZERO + Duration::from_secs(60) && number < 1 << 20);
            }
            checking.reports().next().unwrap().1.clone()
        }
    }

    #[test]
    fn a_good_way_passes_all_in_order() {
        let report = World::default().check();
        assert_eq!((report.claimed, report.reads, report.requests), (17, 17, 17));
        assert_eq!((report.refused, report.failed, report.differing), (None, 0, 0));
        let load = &report.load;
        assert!(load.sent > 1000 && load.lost() == 0 && load.late == 0 && load.repeated == 0 && load.overtaken == 0);
        assert!(load.ordered >= load.sent / 4);
        assert!(report.samples[0] == report.samples[1] && report.samples[0].iter().all(Option::is_some));
        assert!(!report.differs_from(&report));
    }

    #[test]
    fn the_largest_size_that_passes_is_found_in_each_direction() {
        for size in 1..=17 {
            for passes in [[36 + size * SECTOR, 9014], [9014, 36 + size * SECTOR]] {
                let report = World { passes, ..World::default() }.check();
                let found = passes.map(|bytes| ((bytes - 36) / SECTOR).min(17) as u8);
                assert_eq!([report.reads, report.requests], found, "{passes:?}");
                assert_eq!(report.load.lost(), 0, "the load stays within what passes");
            }
        }
    }

    #[test]
    fn a_way_without_answers_is_given_up_soon() {
        let report = World { passes: [0, 9014], ..World::default() }.check();
        assert_eq!((report.reads, report.requests, report.load.sent), (0, 0, 0));
    }

    #[test]
    fn losses_repeats_and_overtaking_are_counted() {
        let lossy = World { copies: |number| usize::from(number % 50 != 0), ..World::default() }.check();
        let LoadReport { sent, .. } = lossy.load;
        assert!(lossy.load.lost() > 0 && lossy.load.lost() <= sent / 50 + 1, "{} of {sent}", lossy.load.lost());
        assert_eq!((lossy.reads, lossy.requests), (17, 17), "a loss is no limit of size");

        let twice = World { copies: |number| 1 + usize::from(number % 10 == 0), ..World::default() }.check();
        assert!(twice.load.repeated.abs_diff(twice.load.sent / 10) < 5 && twice.differing == 0);

        let odd = |number| Duration::from_micros(if number % 19 == 0 { 3000 } else { 50 });
        let mixed = World { takes: odd, ..World::default() }.check();
        assert!(mixed.load.overtaken > 10 && mixed.load.lost() == 0, "{:?}", mixed.load.overtaken);

        let slow = World { takes: |_| Duration::from_millis(250), ..World::default() }.check();
        assert!(slow.load.answered == slow.load.sent && slow.load.late == slow.load.sent && slow.reads == 17);
    }

    #[test]
    fn two_disks_behind_one_address_are_seen() {
        let report = World { copies: |_| 2, other: true, ..World::default() }.check();
        assert_eq!(report.load.repeated, report.load.sent);
        assert!(report.differing > 2 * SAMPLES as u64);
        let (one, mut other) = (World::default().check(), World::default().check());
        assert!(!one.differs_from(&other));
        other.samples[0][3] = Some(9);
        assert!(!one.differs_from(&other), "written meanwhile");
        other.samples[1][3] = Some(9);
        assert!(one.differs_from(&other) && other.differs_from(&one));
    }

    #[test]
    fn who_refuses_is_not_pressed() {
        let report = World { error: Some(ErrorCode::Reserved), ..World::default() }.check();
        assert_eq!((report.refused, report.reads, report.load.sent), (Some(ErrorCode::Reserved), 0, 0));
    }

    #[test]
    fn a_long_load_is_remembered_in_part() {
        let mut load = Load::new(Instant::ZERO, Duration::from_secs(100), 16);
        for number in 0..2 * REMEMBERED_MAX as u64 {
            let now = Instant::ZERO + Duration::from_millis(number);
            load.expire(now);
            load.begin(now, number as u32 | 1 << 31, Command::Config);
        }
        assert_eq!(load.sent.len(), REMEMBERED_MAX);
        assert!(load.in_flight <= 201);
    }
}
