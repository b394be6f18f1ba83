//! One AoE disk, served over any number of paths.
//!
//! A *request* of the user is cut into *parts*, each one ATA command in one frame. A part that is under way
//! is a *flight*: it keeps its tag however often it is sent, so that a target can recognise a copy, and it
//! moves to another path only when its own is lost.

use std::collections::{BTreeMap, HashMap, VecDeque};

use aoe_common::addr::Address;
use aoe_common::ata::{AtaError, Identify, Status, TRIM_ENTRIES_PER_SECTOR, command, encode_trim, feature};
use aoe_common::frame::{HEADROOM, SECTOR};
use aoe_common::ordering::{Footprint, Ordering};
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{AtaFlags, AtaRepr, Command, ConfigRepr, ErrorCode, Frame, LBA28_MAX, MacAddr};

use super::frames::{self, Envelope};
use super::path::{LOSSES_TO_FAIL, PATHS_MAX, Path, PathState, Question};
use super::quarantine::{QUARANTINE, Quarantine};
use super::{PortId, PortInfo, Tags};

/// Requests a device holds at the most; `has_room` tells.
pub const REQUESTS_MAX: usize = 4096;

/// After the first target answered, others under the same address get this long to show themselves before
/// the device is taken for usable.
const SETTLE: Duration = Duration::from_millis(250);
/// How often the network is asked for the device: while it is looked for, and while it works.
const ASK_EAGERLY: Duration = Duration::from_millis(500);
const ASK_CALMLY: Duration = Duration::from_secs(30);
/// IDENTIFY requests before a path counts as failed.
const IDENTIFY_ATTEMPTS: u32 = 5;
/// Unusable answers to one part before its request fails.
const BAD_ANSWERS_MAX: u8 = 3;
/// The first wait for commands that may take a disk long: a sync, a trim, zeroing.
const SLOW_TIMEOUT: Duration = Duration::from_secs(2);
/// Sectors one ZERO EXT can name.
const ZERO_SECTORS_MAX: u64 = 255;
/// Sectors one TRIM range can name.
const TRIM_RANGE_SECTORS_MAX: u64 = 0xffff;

const EVENTS_MAX: usize = 64;

/// Settings of a device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceConfig {
    /// Its address; no wildcard.
    pub address: Address,
    /// Who this run is: drawn anew for each, never the same twice. Targets of ours know it by this under every
    /// MAC address.
    pub identity: [u8; 16],
    /// The first tag, see `tag_start`.
    pub tag_start: u32,
    /// How long a silent target is waited for before requests fail; `None` waits for ever.
    pub dead_after: Option<Duration>,
    /// Writes wait this long after the start: for a run that takes over from one that crashed, whose last
    /// writes may still be on their way.
    pub hold_writes: Duration,
}

/// What the user asks for.
#[derive(Debug)]
pub struct Request {
    /// Comes back with the completion.
    pub id: u64,
    /// What to do.
    pub operation: Operation,
}

/// What to do. Sectors have 512 bytes; a range lies inside the disk and is not empty.
#[derive(Debug)]
pub enum Operation {
    /// Fill `buffer` (a multiple of 512 bytes) from `lba` on.
    Read {
        /// First sector.
        lba: u64,
        /// Where the data goes; comes back with the completion.
        buffer: Vec<u8>,
    },
    /// Store `data` (a multiple of 512 bytes) from `lba` on. `fua`: durable before it completes.
    Write {
        /// First sector.
        lba: u64,
        /// The data; comes back with the completion.
        data: Vec<u8>,
        /// Force unit access.
        fua: bool,
    },
    /// Make every completed write durable.
    Flush,
    /// Say that sectors are not needed any more.
    Trim {
        /// First sector.
        lba: u64,
        /// How many.
        sectors: u64,
        /// Durable before it completes.
        fua: bool,
    },
    /// Make sectors read as zero. `unmap`: their space may be released.
    Zero {
        /// First sector.
        lba: u64,
        /// How many.
        sectors: u64,
        /// Release the space if the target can.
        unmap: bool,
        /// Durable before it completes.
        fua: bool,
    },
}

/// A request is over.
#[derive(Debug)]
pub struct Completion {
    /// The request's id.
    pub id: u64,
    /// Whether all of it was done.
    pub result: Result<(), IoError>,
    /// The buffer of a READ, the data of a WRITE, otherwise empty.
    pub buffer: Vec<u8>,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// No target answered for `dead_after`.
    #[error("the target does not answer")]
    Dead,
    /// The target has no such sectors (any more).
    #[error("the target has no such sectors")]
    OutOfRange,
    /// The target refuses the command: read-only, or not supported.
    #[error("the target refuses the command")]
    Refused,
    /// The target cannot read the sectors.
    #[error("the target cannot read the sectors")]
    Unreadable,
    /// The target's disk failed.
    #[error("the target's disk failed")]
    DeviceFault,
    /// The target is reserved by other stations.
    #[error("the target is reserved by other stations")]
    Reserved,
    /// The target answered with an AoE error.
    #[error("the target answers: {0}")]
    Protocol(ErrorCode),
    /// The target's answers make no sense.
    #[error("the target's answers are unusable")]
    BadAnswer,
}

/// Whether a device can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// Nothing usable has answered yet.
    Searching,
    /// It can be used.
    Up,
    /// It did not answer for `dead_after`: requests fail at once until it returns.
    Dead,
}

/// What an operator should hear about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The device can be used (again).
    Up,
    /// It is given up until it returns.
    Dead,
    /// A path carries requests.
    PathUp {
        /// The target.
        mac: MacAddr,
        /// Over which port.
        port: PortId,
    },
    /// A path does not any more.
    PathDown {
        /// The target.
        mac: MacAddr,
        /// Over which port.
        port: PortId,
    },
    /// Another disk answers under the device's address; it is not used.
    Foreign {
        /// The target.
        mac: MacAddr,
        /// Over which port.
        port: PortId,
        /// What it says it is.
        identify: Box<Identify>,
    },
    /// The disk has another size now, in sectors.
    Resized {
        /// Before.
        before: u64,
        /// Now.
        now: u64,
    },
    /// Unusable answers made a request fail.
    BadAnswers,
}

/// What a request in the table is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Read,
    Write {
        fua: bool,
    },
    Flush,
    Trim,
    /// ZERO EXT, for targets known to have it.
    ZeroCommand,
    /// Zeroing by writes of zeros.
    ZeroData {
        fua: bool,
    },
}

impl Work {
    fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::Flush)
    }

    /// Sectors of payload in the frame of a part that covers `sectors` sectors of the disk.
    fn payload_sectors(self, sectors: u64) -> u64 {
        match self {
            Self::Read | Self::Write { .. } | Self::ZeroData { .. } => sectors,
            Self::Trim => sectors.div_ceil(TRIM_RANGE_SECTORS_MAX).div_ceil(TRIM_ENTRIES_PER_SECTOR as u64),
            Self::Flush | Self::ZeroCommand => 0,
        }
    }

    /// Its data crosses the wire sector by sector.
    fn carries_sectors(self) -> bool {
        matches!(self, Self::Read | Self::Write { .. } | Self::ZeroData { .. })
    }
}

#[derive(Debug)]
struct Active {
    id: u64,
    work: Work,
    lba: u64,
    /// Length in sectors; 1 for a flush, whose only part it counts.
    sectors: u64,
    /// Sectors given to parts so far.
    cursor: u64,
    /// Ranges (offset, sectors) to be given to parts again, since they did not fit the path they had to move to.
    redo: Vec<(u64, u64)>,
    /// Parts under way.
    flights: u32,
    buffer: Vec<u8>,
    error: Option<IoError>,
    /// Followed by a flush: FUA for what has no FUA command.
    then_flush: bool,
    /// In the order of overlapping writes.
    ordered: bool,
    /// No earlier write and no quarantine holds it back.
    released: bool,
}

impl Active {
    fn has_unsent(&self) -> bool {
        self.released && self.error.is_none() && (self.cursor < self.sectors || !self.redo.is_empty())
    }

    fn end(&self) -> u64 {
        self.lba + self.sectors
    }
}

/// A part under way.
#[derive(Debug)]
struct Flight {
    request: u32,
    /// Sectors from the request's start.
    offset: u64,
    sectors: u64,
    tag: u32,
    path: usize,
    /// Paths it was ever sent on: bit per index. Only from those an answer counts.
    paths_used: u32,
    /// Our MAC address it was last sent from.
    source: Option<MacAddr>,
    first_sent: Instant,
    last_sent: Instant,
    deadline: Instant,
    attempts: u32,
    /// Every time it was sent, the target knew us by our identity.
    registered: bool,
    bad_answers: u8,
    /// Counted as lost, waiting to be sent again.
    lost: bool,
}

/// Figures of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStats {
    /// The target.
    pub mac: MacAddr,
    /// Over which port.
    pub port: PortId,
    /// What it is good for.
    pub state: PathState,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Frames that may be under way.
    pub window: u32,
    /// Frames under way.
    pub in_flight: u32,
    /// Frames sent again.
    pub resends: u64,
    /// Sectors per command.
    pub sectors: u8,
}

/// Figures of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Reads completed.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Writes completed.
    pub writes: u64,
    /// Their bytes.
    pub write_bytes: u64,
    /// Flushes completed.
    pub flushes: u64,
    /// Trims and zeroings completed.
    pub trims: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Frames sent again.
    pub resends: u64,
    /// Answers that belong to nothing under way: late, repeated, or made up.
    pub strays: u64,
    /// Answers that belong to something under way and make no sense.
    pub bad_answers: u64,
    /// Writes that had to wait for an older one of the same sectors.
    pub waits: u64,
}

/// The engine of one device.
#[derive(Debug)]
pub struct Device {
    config: DeviceConfig,
    state: DeviceState,
    ports: BTreeMap<PortId, PortInfo>,
    paths: Vec<Path>,
    next_path: usize,
    tags: Tags,
    disk: Option<Identify>,
    settle_at: Option<Instant>,
    ask_at: Instant,
    requests: Vec<Option<Active>>,
    free_requests: Vec<u32>,
    ordering: Ordering<u32>,
    quarantine: Quarantine,
    /// Writes that the quarantine holds back.
    parked: Vec<u32>,
    /// Requests with parts that were never sent.
    unsent: VecDeque<u32>,
    flights: Vec<Option<Flight>>,
    free_flights: Vec<u32>,
    by_tag: HashMap<u32, u32>,
    /// Flights to be sent again.
    resend: VecDeque<u32>,
    /// When the first of those that have to wait may be sent.
    held_until: Option<Instant>,
    /// No flight is due before this.
    flights_due: Option<Instant>,
    /// Since when work waits without any answer.
    waiting_since: Option<Instant>,
    controls: VecDeque<(PortId, Vec<u8>)>,
    completions: VecDeque<Completion>,
    events: VecDeque<Event>,
    stats: DeviceStats,
}

impl Device {
    /// A device that is looked for from now on.
    pub fn new(now: Instant, config: DeviceConfig) -> Self {
        assert!(!config.address.is_wildcard(), "a device has one address");
        let mut quarantine = Quarantine::default();
        if !config.hold_writes.is_zero() {
            quarantine.add(0, u64::MAX, now + config.hold_writes, None);
        }
        Self {
            config,
            state: DeviceState::Searching,
            ports: BTreeMap::new(),
            paths: Vec::new(),
            next_path: 0,
            tags: Tags::new(config.tag_start),
            disk: None,
            settle_at: None,
            ask_at: now,
            requests: Vec::new(),
            free_requests: Vec::new(),
            ordering: Ordering::default(),
            quarantine,
            parked: Vec::new(),
            unsent: VecDeque::new(),
            flights: Vec::new(),
            free_flights: Vec::new(),
            by_tag: HashMap::new(),
            resend: VecDeque::new(),
            held_until: None,
            flights_due: None,
            waiting_since: None,
            controls: VecDeque::new(),
            completions: VecDeque::new(),
            events: VecDeque::new(),
            stats: DeviceStats::default(),
        }
    }

    /// Its address.
    pub fn address(&self) -> Address {
        self.config.address
    }

    /// Whether it can be used.
    pub fn state(&self) -> DeviceState {
        self.state
    }

    /// What the disk is, once it has said so.
    pub fn disk(&self) -> Option<&Identify> {
        self.disk.as_ref()
    }

    /// Its figures.
    pub fn stats(&self) -> DeviceStats {
        self.stats
    }

    /// Its paths' figures.
    pub fn paths(&self) -> impl Iterator<Item = PathStats> + '_ {
        self.paths.iter().map(|path| PathStats {
            mac: path.mac,
            port: path.port,
            state: path.state,
            rtt: path.rtt.smooth(),
            window: path.window.size(),
            in_flight: path.in_flight,
            resends: path.resends,
            sectors: path.sectors,
        })
    }

    /// Requests that have not completed.
    pub fn in_flight(&self) -> usize {
        self.requests.len() - self.free_requests.len()
    }

    /// Whether another request may be submitted.
    pub fn has_room(&self) -> bool {
        self.in_flight() < REQUESTS_MAX
    }

    /// A port came up, changed, or went away (`None`).
    pub fn set_port(&mut self, now: Instant, port: PortId, info: Option<PortInfo>) {
        let before = match info {
            Some(info) => self.ports.insert(port, info),
            None => self.ports.remove(&port),
        };
        if before == info {
            return;
        }
        for index in 0..self.paths.len() {
            if self.paths[index].port == port {
                self.fail_path(now, index);
            }
        }
        if let Some(info) = info {
            self.ask(port, info);
        }
    }

    /// The user wants something done.
    ///
    /// # Panics
    /// When there is no room, or the range is empty or beyond 48 bits.
    pub fn submit(&mut self, now: Instant, request: Request) {
        assert!(self.has_room(), "at most {REQUESTS_MAX} requests");
        let Request { id, operation } = request;
        let disk = self.disk.as_ref();
        let trims = disk.is_some_and(|disk| disk.trim_sectors_max > 0);
        let trims_to_zero = disk.is_some_and(|disk| disk.trim_sectors_max > 0 && disk.trim_zeroes);
        let has_zero_command = disk.is_some_and(|disk| disk.exactly_once && disk.lba48);
        let has_fua = disk.is_some_and(|disk| disk.fua && disk.lba48);
        let sectors_of = |buffer: &Vec<u8>| {
            assert!(buffer.len().is_multiple_of(SECTOR), "requests are whole sectors");
            (buffer.len() / SECTOR) as u64
        };
        let (work, lba, sectors, buffer, then_flush) = match operation {
            Operation::Read { lba, buffer } => (Work::Read, lba, sectors_of(&buffer), buffer, false),
            Operation::Write { lba, data, fua } => {
                (Work::Write { fua: fua && has_fua }, lba, sectors_of(&data), data, fua && !has_fua)
            }
            Operation::Flush => (Work::Flush, 0, 1, Vec::new(), false),
            // Advice that the target cannot take is no failure.
            Operation::Trim { .. } if !trims && self.state == DeviceState::Up => {
                self.completions.push_back(Completion { id, result: Ok(()), buffer: Vec::new() });
                return;
            }
            Operation::Trim { lba, sectors, fua } => (Work::Trim, lba, sectors, Vec::new(), fua),
            Operation::Zero { lba, sectors, unmap: true, fua } if trims_to_zero => {
                (Work::Trim, lba, sectors, Vec::new(), fua)
            }
            Operation::Zero { lba, sectors, fua, .. } if has_zero_command => {
                (Work::ZeroCommand, lba, sectors, Vec::new(), fua)
            }
            Operation::Zero { lba, sectors, fua, .. } => {
                (Work::ZeroData { fua: fua && has_fua }, lba, sectors, Vec::new(), fua && !has_fua)
            }
        };
        assert!(sectors > 0 && lba.checked_add(sectors).is_some_and(|end| end <= 1 << 48), "a range of the disk");
        let size = disk.map_or(0, |disk| disk.sectors);
        let refusal = match self.state {
            DeviceState::Dead => Some(IoError::Dead),
            DeviceState::Up if work != Work::Flush && lba + sectors > size => Some(IoError::OutOfRange),
            _ => None,
        };
        if let Some(error) = refusal {
            self.stats.errors += 1;
            self.completions.push_back(Completion { id, result: Err(error), buffer });
            return;
        }
        let active = Active {
            id,
            work,
            lba,
            sectors,
            cursor: 0,
            redo: Vec::new(),
            flights: 0,
            buffer,
            error: None,
            then_flush,
            ordered: work.writes(),
            released: !work.writes(),
        };
        let slot = match self.free_requests.pop() {
            Some(slot) => {
                self.requests[slot as usize] = Some(active);
                slot
            }
            None => {
                self.requests.push(Some(active));
                self.requests.len() as u32 - 1
            }
        };
        self.waiting_since.get_or_insert(now);
        if !work.writes() {
            self.unsent.push_back(slot);
        } else if self.ordering.admit(slot, Footprint { start: lba, end: lba + sectors, writes: true }) {
            self.release(now, slot);
        } else {
            self.stats.waits += 1;
        }
    }

    /// A frame arrived on a port.
    pub fn handle_frame(&mut self, now: Instant, port: PortId, bytes: &[u8]) {
        let Some(info) = self.ports.get(&port).copied() else { return };
        let Ok(frame) = Frame::parse(bytes) else { return };
        let group = |mac: MacAddr| mac.0 & 1 != 0;
        let for_us = frame.ethernet.destination == info.mac || group(frame.ethernet.destination);
        let usable = frame.header.response && frame.header.address == self.config.address;
        let foreign_vlan = frame.ethernet.vlan.is_some_and(|tci| tci & 0x0fff != 0);
        if !for_us || !usable || foreign_vlan || group(frame.ethernet.source) {
            return;
        }
        match frame.header.command {
            Command::Config => self.handle_config(now, port, info, &frame),
            Command::Ata => self.handle_ata(now, port, &frame),
            _ => {}
        }
    }

    /// Time passed. May be called early; does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.ask_at {
            let ports: Vec<_> = self.ports.iter().map(|(port, info)| (*port, *info)).collect();
            for (port, info) in ports {
                self.ask(port, info);
            }
            let calm = self.state == DeviceState::Up && !self.is_silent();
            self.ask_at = now + if calm { ASK_CALMLY } else { ASK_EAGERLY };
        }
        for index in 0..self.paths.len() {
            self.identify_path_if_due(now, index);
        }
        if self.flights_due.is_some_and(|due| now >= due) {
            self.lose_overdue_flights(now);
        }
        if self.settle_at.is_some_and(|at| now >= at) {
            self.settle_at = None;
            self.state = DeviceState::Up;
            // Requests that waited for this moment have not waited for an answer yet.
            self.waiting_since = self.waiting_since.map(|_| now);
            self.report(Event::Up);
        }
        if self.quarantine.expire(now) {
            self.release_parked(now);
        }
        self.give_up_if_dead(now);
    }

    /// When `handle_timeout` has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let identify = self.paths.iter().filter_map(|path| match path.state {
            PathState::Identifying { again, .. } => Some(again),
            _ => None,
        });
        let dead = match (self.state, self.waiting_since, self.config.dead_after) {
            (DeviceState::Up, Some(since), Some(after)) => Some(since + after),
            _ => None,
        };
        // While something answers, it is not given up, however long other things wait.
        let dead = dead.filter(|_| self.is_silent());
        let quarantine = if self.parked.is_empty() { None } else { self.quarantine.next_end() };
        [Some(self.ask_at), self.settle_at, self.flights_due, self.held_until, dead, quarantine]
            .into_iter()
            .flatten()
            .chain(identify)
            .min()
    }

    /// The next frame to send, written into `out` (`FRAME_MAX` bytes): on which port, and how long it is.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<(PortId, usize)> {
        if let Some((port, frame)) = self.controls.pop_front() {
            out[..frame.len()].copy_from_slice(&frame);
            return Some((port, frame.len()));
        }
        if let Some(flight) = self.next_resend(now) {
            return Some(self.send_flight(now, flight, out));
        }
        let flight = self.next_part(now)?;
        Some(self.send_flight(now, flight, out))
    }

    /// The next request that is over.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // ---- Paths -----------------------------------------------------------------------------------------------

    /// Asks everybody on a port for the device.
    fn ask(&mut self, port: PortId, info: PortInfo) {
        let mut frame = vec![0; aoe_common::frame::MIN_FRAME];
        frames::config_query(info.mac, self.config.address, self.tags.take(), &mut frame);
        self.controls.push_back((port, frame));
    }

    fn handle_config(&mut self, now: Instant, port: PortId, info: PortInfo, frame: &Frame<'_>) {
        let Ok(config) = ConfigRepr::parse(frame.body, true) else { return };
        let sectors = info.sectors(config.sector_count);
        if frame.header.error.is_some() || sectors == 0 {
            return;
        }
        let mac = frame.ethernet.source;
        let Some(index) = self.find_path(port, mac) else {
            let path = Path::new(now, port, mac, sectors, config.buffer_count);
            let index = if self.paths.len() < PATHS_MAX {
                self.paths.push(path);
                self.paths.len() - 1
            } else {
                let Some(index) = self.replaceable_path() else { return };
                self.paths[index] = path;
                index
            };
            self.identify_path_if_due(now, index);
            return;
        };
        let path = &mut self.paths[index];
        path.sectors = sectors;
        path.window.set_limit(u32::from(config.buffer_count).min(super::path::WINDOW_MAX));
        match path.state {
            PathState::Identifying { .. } => {}
            PathState::Failed | PathState::Foreign => {
                path.identify(now);
                self.identify_path_if_due(now, index);
            }
            PathState::Live => {
                let was_silent = path.losses > 0;
                // An unasked answer tells of a change: the target started anew, or its disk has another size.
                // A routine one is a chance to learn of the same.
                self.ask_path(index);
                if was_silent {
                    self.lose_flights_of(index);
                }
            }
        }
    }

    /// A path out of use whose place a new one may take: no flight waits for an answer over it.
    fn replaceable_path(&self) -> Option<usize> {
        let awaited = self.flights.iter().flatten().fold(0, |paths, flight| paths | flight.paths_used);
        let unused = |path: &Path| matches!(path.state, PathState::Failed | PathState::Foreign);
        (0..self.paths.len()).find(|index| unused(&self.paths[*index]) && awaited & 1 << index == 0)
    }

    fn find_path(&self, port: PortId, mac: MacAddr) -> Option<usize> {
        self.paths.iter().position(|path| path.port == port && path.mac == mac)
    }

    /// Asks a path what it is to be asked, and waits for the answer.
    fn ask_path(&mut self, index: usize) {
        let question = self.paths[index].question;
        self.paths[index].question_tag = self.send_question(index, question);
    }

    /// Queues a question for a path; returns its tag.
    fn send_question(&mut self, index: usize, question: Question) -> Option<u32> {
        let tag = self.tags.take();
        let envelope = self.envelope(index, tag)?;
        let mut frame = vec![0; HEADROOM + SECTOR];
        let len = match question {
            Question::Identify => frames::identify(&envelope, &mut frame),
            Question::Register => frames::register(&envelope, self.config.identity, &mut frame),
        };
        frame.truncate(len);
        self.controls.push_back((self.paths[index].port, frame));
        Some(tag)
    }

    fn identify_path_if_due(&mut self, now: Instant, index: usize) {
        let PathState::Identifying { attempts, again } = self.paths[index].state else { return };
        if now < again {
            return;
        }
        if attempts == IDENTIFY_ATTEMPTS {
            self.paths[index].state = PathState::Failed;
            return;
        }
        self.paths[index].state =
            PathState::Identifying { attempts: attempts + 1, again: now + Path::identify_timeout(attempts) };
        self.ask_path(index);
    }

    fn handle_identify(&mut self, now: Instant, index: usize, ata: &AtaRepr, data: &[u8]) {
        let failed = Status::from_bits_retain(ata.command).failed();
        let identify = match Identify::parse(data) {
            Ok(identify) if !failed => identify,
            _ => {
                self.stats.bad_answers += 1;
                return;
            }
        };
        let was_live = self.paths[index].is_live();
        let known = self.disk.as_ref();
        let other_live = self.paths.iter().enumerate().any(|(other, path)| other != index && path.is_live());
        let same_disk = known.is_none_or(|known| {
            let same_name = known.serial == identify.serial && known.model == identify.model;
            // A disk may grow or shrink under one path; two paths that disagree lead to two disks.
            same_name && (known.sectors == identify.sectors || was_live || !other_live)
        });
        let (mac, port) = (self.paths[index].mac, self.paths[index].port);
        if !same_disk {
            if self.paths[index].state != PathState::Foreign {
                if was_live {
                    self.fail_path(now, index);
                }
                self.paths[index].state = PathState::Foreign;
                self.report(Event::Foreign { mac, port, identify: Box::new(identify) });
            }
            return;
        }
        if let Some(known) = known
            && known.sectors != identify.sectors
        {
            self.report(Event::Resized { before: known.sectors, now: identify.sectors });
        }
        let exactly_once = identify.exactly_once;
        self.disk = Some(identify);
        match (was_live, exactly_once) {
            // It may have started anew, and have to be told again. Lost, this is made up for by the next time.
            (true, true) => drop(self.send_question(index, Question::Register)),
            (true, false) => {}
            (false, true) => {
                let path = &mut self.paths[index];
                path.question = Question::Register;
                path.state = PathState::Identifying { attempts: 0, again: now };
                self.identify_path_if_due(now, index);
            }
            (false, false) => self.path_is_up(now, index),
        }
    }

    /// A path leads to our disk, and its target knows who we are as far as it can.
    fn path_is_up(&mut self, now: Instant, index: usize) {
        let (mac, port) = (self.paths[index].mac, self.paths[index].port);
        let can_flush = self.disk.as_ref().is_some_and(|disk| disk.flush_ext);
        let path = &mut self.paths[index];
        path.question = Question::Identify;
        path.state = PathState::Live;
        path.losses = 0;
        path.window.restart();
        self.report(Event::PathUp { mac, port });
        if can_flush {
            self.greet(index);
        }
        match self.state {
            DeviceState::Searching => {
                self.settle_at.get_or_insert(now + SETTLE);
            }
            DeviceState::Dead => {
                self.state = DeviceState::Up;
                self.report(Event::Up);
            }
            DeviceState::Up => {}
        }
    }

    /// Shows a target that this station flushes, so that it may answer our writes before they are durable.
    /// Lost, this costs speed until the first real flush; so nobody waits for the answer.
    fn greet(&mut self, index: usize) {
        let tag = self.tags.take();
        let Some(envelope) = self.envelope(index, tag) else { return };
        let mut frame = vec![0; aoe_common::frame::MIN_FRAME];
        frames::ata_request(&envelope, &self.flush_command(), 0, |_| {}, &mut frame);
        self.controls.push_back((self.paths[index].port, frame));
    }

    /// Takes a path out of use; what was under way on it is to be sent again, elsewhere if possible.
    fn fail_path(&mut self, now: Instant, index: usize) {
        let was_live = self.paths[index].is_live();
        self.paths[index].state = PathState::Failed;
        self.paths[index].question_tag = None;
        if was_live {
            let (mac, port) = (self.paths[index].mac, self.paths[index].port);
            self.report(Event::PathDown { mac, port });
            self.lose_flights_of(index);
            self.ask_at = self.ask_at.min(now + ASK_EAGERLY);
        }
    }

    /// Whether no path is left that answers.
    fn is_silent(&self) -> bool {
        self.paths.iter().all(|path| !path.is_live() || path.losses >= LOSSES_TO_FAIL)
    }

    fn envelope(&self, index: usize, tag: u32) -> Option<Envelope> {
        let path = &self.paths[index];
        let info = self.ports.get(&path.port)?;
        Some(Envelope { source: info.mac, destination: path.mac, address: self.config.address, tag })
    }

    // ---- Sending ---------------------------------------------------------------------------------------------

    /// A path with room for one more frame, in turn.
    fn choose_path(&mut self) -> Option<usize> {
        let count = self.paths.len();
        let index =
            (0..count).map(|step| (self.next_path + step) % count).find(|index| self.paths[*index].has_room())?;
        self.next_path = index + 1;
        Some(index)
    }

    /// The same, on the given port if that has one.
    fn choose_path_like(&mut self, port: PortId) -> Option<usize> {
        let same_port = self.paths.iter().position(|path| path.port == port && path.has_room());
        same_port.or_else(|| self.choose_path())
    }

    /// A lost flight that can be sent again now: on its own path while that lives, otherwise on another.
    ///
    /// A target knows a repeated write by our identity (or MAC address, where it does not know that), its tag,
    /// place and length. A write that would lose one of these, because it has to leave by another port or to be
    /// cut into smaller parts, waits until the network holds no copy of it any more: such a copy would be run
    /// like a new write, over whatever anybody wrote in between.
    fn next_resend(&mut self, now: Instant) -> Option<u32> {
        self.held_until = None;
        let mut at = 0;
        while let Some(flight_id) = self.resend.get(at).copied() {
            let Some(flight) = self.flights[flight_id as usize].as_ref().filter(|flight| flight.lost) else {
                self.resend.remove(at);
                continue;
            };
            let (source, sectors, safe_from) = (flight.source, flight.sectors, flight.last_sent + QUARANTINE);
            let registered = flight.registered;
            let work = self.requests[flight.request as usize].as_ref().expect("flights belong to requests").work;
            let old = flight.path;
            let path = if self.paths[old].is_live() {
                self.paths[old].has_room().then_some(old)
            } else {
                self.choose_path_like(self.paths[old].port)
            };
            let Some(path) = path else {
                at += 1;
                continue;
            };
            let too_long = work.payload_sectors(sectors) > u64::from(self.paths[path].sectors);
            let known = registered && self.paths[path].registered;
            let new_source = !known && self.ports.get(&self.paths[path].port).map(|info| info.mac) != source;
            if work.writes() && (too_long || new_source) && now < safe_from {
                self.held_until = Some(self.held_until.map_or(safe_from, |held| held.min(safe_from)));
                at += 1;
                continue;
            }
            self.resend.remove(at);
            if too_long {
                self.cut_again(now, flight_id);
                continue;
            }
            self.flights[flight_id as usize].as_mut().expect("just seen").path = path;
            return Some(flight_id);
        }
        None
    }

    /// A part that no longer fits a frame is cut anew, under new tags.
    fn cut_again(&mut self, now: Instant, flight_id: u32) {
        let Flight { request, offset, sectors, .. } = self.drop_flight(flight_id);
        let active = self.requests[request as usize].as_mut().expect("flights belong to requests");
        active.redo.push((offset, sectors));
        if active.has_unsent() {
            self.unsent.push_front(request);
        } else if active.flights == 0 {
            self.end_request(now, request);
        }
    }

    /// Cuts the next part off the first request that has one.
    fn next_part(&mut self, now: Instant) -> Option<u32> {
        loop {
            let slot = *self.unsent.front()?;
            let active = self.requests[slot as usize].as_ref();
            if !active.is_some_and(Active::has_unsent) {
                self.unsent.pop_front();
                continue;
            }
            let path = self.choose_path()?;
            let active = self.requests[slot as usize].as_mut().expect("just seen");
            // A target that does not trim (any more) refuses the command.
            let trim_sectors = self.disk.as_ref().map_or(1, |disk| disk.trim_sectors_max.max(1));
            let trim_sectors = trim_sectors.min(u16::from(self.paths[path].sectors));
            let most = match active.work {
                Work::Flush => 1,
                Work::ZeroCommand => ZERO_SECTORS_MAX,
                Work::Trim => u64::from(trim_sectors) * TRIM_ENTRIES_PER_SECTOR as u64 * TRIM_RANGE_SECTORS_MAX,
                Work::Read | Work::Write { .. } | Work::ZeroData { .. } => u64::from(self.paths[path].sectors),
            };
            let (offset, sectors) = match active.redo.last_mut() {
                Some((offset, left)) => {
                    let part = (*offset, (*left).min(most));
                    (*offset, *left) = (*offset + part.1, *left - part.1);
                    if *left == 0 {
                        active.redo.pop();
                    }
                    part
                }
                None => {
                    let part = (active.cursor, (active.sectors - active.cursor).min(most));
                    active.cursor += part.1;
                    part
                }
            };
            active.flights += 1;
            // Tags come round again; one that still waits for its answer is passed over.
            let tag = std::iter::repeat_with(|| self.tags.take()).find(|tag| !self.by_tag.contains_key(tag));
            let tag = tag.expect("there are more tags than flights");
            let flight = Flight {
                request: slot,
                offset,
                sectors,
                tag,
                path,
                paths_used: 0,
                source: None,
                first_sent: now,
                last_sent: now,
                deadline: now,
                attempts: 0,
                registered: true,
                bad_answers: 0,
                lost: true,
            };
            let id = match self.free_flights.pop() {
                Some(id) => {
                    self.flights[id as usize] = Some(flight);
                    id
                }
                None => {
                    self.flights.push(Some(flight));
                    self.flights.len() as u32 - 1
                }
            };
            self.by_tag.insert(tag, id);
            return Some(id);
        }
    }

    /// Writes a flight's frame and counts it as under way.
    fn send_flight(&mut self, now: Instant, flight_id: u32, out: &mut [u8]) -> (PortId, usize) {
        let flight = self.flights[flight_id as usize].as_mut().expect("only known flights are sent");
        let active = self.requests[flight.request as usize].as_ref().expect("flights belong to requests");
        let path = &mut self.paths[flight.path];
        assert!(flight.lost, "a flight is under way once");
        flight.lost = false;
        flight.attempts += 1;
        flight.registered &= path.registered;
        flight.last_sent = now;
        flight.paths_used |= 1 << flight.path;
        let wait = path.rtt.timeout(flight.attempts);
        flight.deadline = now + if active.work.carries_sectors() { wait } else { wait.max(SLOW_TIMEOUT) };
        path.in_flight += 1;
        if flight.attempts > 1 {
            path.resends += 1;
            self.stats.resends += 1;
        }
        self.flights_due = Some(self.flights_due.map_or(flight.deadline, |due| due.min(flight.deadline)));

        let port = path.port;
        let lba = active.lba + flight.offset;
        let count = flight.sectors;
        let start = flight.offset as usize * SECTOR;
        let source = self.ports.get(&port).expect("live paths have a port").mac;
        flight.source = Some(source);
        let envelope = Envelope { source, destination: path.mac, address: self.config.address, tag: flight.tag };
        // A range that 28 bits cannot name goes out extended, for the target to refuse.
        let lba48 = self.disk.as_ref().is_none_or(|disk| disk.lba48) || lba + count > LBA28_MAX + 1;
        let bytes = if active.work.carries_sectors() { count as usize * SECTOR } else { 0 };
        let len = match active.work {
            Work::Read => {
                let command = if lba48 { command::READ_SECTORS_EXT } else { command::READ_SECTORS };
                let ata = transfer(command, AtaFlags::empty(), lba48, lba, count);
                frames::ata_request(&envelope, &ata, 0, |_| {}, out)
            }
            Work::Write { fua } => {
                let ata = transfer(write_command(lba48, fua), AtaFlags::WRITE, lba48, lba, count);
                let fill = |data: &mut [u8]| data.copy_from_slice(&active.buffer[start..start + bytes]);
                frames::ata_request(&envelope, &ata, bytes, fill, out)
            }
            Work::ZeroData { fua } => {
                let ata = transfer(write_command(lba48, fua), AtaFlags::WRITE, lba48, lba, count);
                frames::ata_request(&envelope, &ata, bytes, |data| data.fill(0), out)
            }
            Work::ZeroCommand => {
                let ata = transfer(command::ZERO_EXT, AtaFlags::empty(), true, lba, count);
                frames::ata_request(&envelope, &ata, 0, |_| {}, out)
            }
            Work::Trim => {
                let range_sectors = active.work.payload_sectors(count);
                let ata = AtaRepr {
                    flags: AtaFlags::EXTENDED | AtaFlags::WRITE,
                    feature: feature::TRIM,
                    count: range_sectors as u8,
                    command: command::DATA_SET_MANAGEMENT,
                    registers: 0,
                };
                let fill = |data: &mut [u8]| {
                    let encoded = encode_trim(lba, count, data);
                    assert_eq!(encoded, count, "parts of a trim fit their frame");
                };
                frames::ata_request(&envelope, &ata, range_sectors as usize * SECTOR, fill, out)
            }
            Work::Flush => frames::ata_request(&envelope, &self.flush_command(), 0, |_| {}, out),
        };
        (port, len)
    }

    fn flush_command(&self) -> AtaRepr {
        let extended = self.disk.as_ref().is_none_or(|disk| disk.flush_ext);
        let command = if extended { command::FLUSH_CACHE_EXT } else { command::FLUSH_CACHE };
        transfer(command, AtaFlags::empty(), extended, 0, 0)
    }

    // ---- Answers ---------------------------------------------------------------------------------------------

    fn handle_ata(&mut self, now: Instant, port: PortId, frame: &Frame<'_>) {
        let Ok((ata, data)) = AtaRepr::parse(frame.body) else { return };
        let Some(index) = self.find_path(port, frame.ethernet.source) else {
            self.stats.strays += 1;
            return;
        };
        let tag = frame.header.tag;
        if self.paths[index].question_tag == Some(tag) {
            self.paths[index].question_tag = None;
            match self.paths[index].question {
                Question::Identify => self.handle_identify(now, index, &ata, data),
                Question::Register => {
                    self.paths[index].registered = judge(frame.header.error, &ata).is_ok();
                    self.path_is_up(now, index);
                }
            }
            return;
        }
        let Some(flight_id) = self.by_tag.get(&tag).copied() else {
            self.stats.strays += 1;
            if self.quarantine.stray_answered(tag) {
                self.release_parked(now);
            }
            return;
        };
        let flight = self.flights[flight_id as usize].as_mut().expect("tags name flights");
        if flight.paths_used & 1 << index == 0 || self.paths[index].state == PathState::Foreign {
            self.stats.strays += 1;
            return;
        }
        let active = self.requests[flight.request as usize].as_mut().expect("flights belong to requests");
        let result = judge(frame.header.error, &ata);
        let bytes = flight.sectors as usize * SECTOR;
        if active.work == Work::Read && result.is_ok() {
            match data.get(..bytes) {
                Some(data) => {
                    let start = flight.offset as usize * SECTOR;
                    active.buffer[start..start + bytes].copy_from_slice(data);
                }
                None => {
                    self.stats.bad_answers += 1;
                    flight.bad_answers += 1;
                    if flight.bad_answers < BAD_ANSWERS_MAX {
                        return;
                    }
                    self.report(Event::BadAnswers);
                    self.end_flight(now, flight_id, Err(IoError::BadAnswer));
                    return;
                }
            }
        }
        let path = &mut self.paths[index];
        if flight.attempts == 1 && active.work.carries_sectors() {
            path.rtt.measured(now.since(flight.first_sent));
        }
        path.losses = 0;
        path.window.answered();
        self.waiting_since = Some(now);
        self.end_flight(now, flight_id, result);
    }

    /// A part is done, or has failed for good.
    fn end_flight(&mut self, now: Instant, flight_id: u32, result: Result<(), IoError>) {
        let flight = self.drop_flight(flight_id);
        let active = self.requests[flight.request as usize].as_mut().expect("flights belong to requests");
        let exactly_once = self.disk.as_ref().is_some_and(|disk| disk.exactly_once);
        if active.work.writes() && flight.attempts > 1 && !exactly_once {
            let start = active.lba + flight.offset;
            self.quarantine.add(
                start,
                start + flight.sectors,
                flight.last_sent.max(now) + QUARANTINE,
                Some((flight.tag, flight.attempts - 1)),
            );
        }
        if let Err(error) = result {
            active.error.get_or_insert(error);
        }
        if active.flights == 0 && !active.has_unsent() {
            self.end_request(now, flight.request);
        }
    }

    /// Takes a flight out of the tables.
    fn drop_flight(&mut self, flight_id: u32) -> Flight {
        let flight = self.flights[flight_id as usize].take().expect("a flight ends once");
        self.free_flights.push(flight_id);
        self.by_tag.remove(&flight.tag);
        if !flight.lost {
            self.paths[flight.path].in_flight -= 1;
        }
        let active = self.requests[flight.request as usize].as_mut().expect("flights belong to requests");
        active.flights -= 1;
        flight
    }

    fn end_request(&mut self, now: Instant, slot: u32) {
        let active = self.requests[slot as usize].as_mut().expect("a request ends once");
        if active.ordered {
            active.ordered = false;
            let mut ready = Vec::new();
            self.ordering.finish(slot, |slot| ready.push(slot));
            for slot in ready {
                self.release(now, slot);
            }
        }
        let active = self.requests[slot as usize].as_mut().expect("still there");
        let bytes = active.buffer.len() as u64;
        match (active.error, active.work) {
            (Some(_), _) => self.stats.errors += 1,
            (None, Work::Read) => {
                self.stats.reads += 1;
                self.stats.read_bytes += bytes;
            }
            (None, Work::Write { .. }) => {
                self.stats.writes += 1;
                self.stats.write_bytes += bytes;
            }
            (None, Work::Flush) => self.stats.flushes += 1,
            (None, Work::Trim | Work::ZeroCommand | Work::ZeroData { .. }) => self.stats.trims += 1,
        }
        if active.then_flush && active.error.is_none() {
            active.then_flush = false;
            active.work = Work::Flush;
            (active.sectors, active.cursor) = (1, 0);
            self.unsent.push_back(slot);
            return;
        }
        let active = self.requests[slot as usize].take().expect("still there");
        self.free_requests.push(slot);
        let result = active.error.map_or(Ok(()), Err);
        self.completions.push_back(Completion { id: active.id, result, buffer: active.buffer });
        if self.in_flight() == 0 {
            self.waiting_since = None;
        }
    }

    /// Lets a write go that no earlier one holds back, unless its sectors are in quarantine.
    fn release(&mut self, now: Instant, slot: u32) {
        let active = self.requests[slot as usize].as_mut().expect("only known requests are released");
        if self.quarantine.holds(now, active.lba, active.end()).is_some() {
            self.stats.waits += 1;
            self.parked.push(slot);
        } else {
            active.released = true;
            self.unsent.push_back(slot);
        }
    }

    fn release_parked(&mut self, now: Instant) {
        for slot in std::mem::take(&mut self.parked) {
            self.release(now, slot);
        }
    }

    // ---- Loss and death --------------------------------------------------------------------------------------

    fn lose_overdue_flights(&mut self, now: Instant) {
        let mut next = None;
        let mut failing = 0u32;
        let mut given_up = Vec::new();
        for id in 0..self.flights.len() {
            let Some(flight) = self.flights[id].as_mut().filter(|flight| !flight.lost) else { continue };
            if flight.deadline > now {
                next = Some(next.map_or(flight.deadline, |next: Instant| next.min(flight.deadline)));
                continue;
            }
            let too_old = self.config.dead_after.is_some_and(|after| now >= flight.first_sent + after);
            if too_old && flight.attempts >= LOSSES_TO_FAIL {
                given_up.push(id as u32);
            }
            flight.lost = true;
            self.resend.push_back(id as u32);
            let path = &mut self.paths[flight.path];
            path.in_flight -= 1;
            // Frames sent again wait longer each time instead; one never answered must not close the window.
            if flight.attempts == 1 {
                path.window.lost(now, flight.last_sent);
            }
            path.losses += 1;
            if path.losses >= LOSSES_TO_FAIL {
                failing |= 1 << flight.path;
            }
        }
        self.flights_due = next;
        if self.is_silent() {
            given_up.clear();
        }
        // The target answers others and never these.
        for id in given_up {
            self.doubt(id);
            self.end_flight(now, id, Err(IoError::Dead));
        }
        for index in 0..self.paths.len() {
            let others = self
                .paths
                .iter()
                .enumerate()
                .any(|(other, path)| other != index && path.is_live() && path.losses < LOSSES_TO_FAIL);
            // The last path is kept: there is nothing to lose by trying it.
            if failing & 1 << index != 0 && others {
                self.fail_path(now, index);
            }
        }
        if self.is_silent() {
            self.ask_at = self.ask_at.min(now + ASK_EAGERLY);
        }
    }

    /// Everything under way on a path is to be sent again at once.
    fn lose_flights_of(&mut self, index: usize) {
        for (id, slot) in self.flights.iter_mut().enumerate() {
            let Some(flight) = slot.as_mut().filter(|flight| !flight.lost && flight.path == index) else { continue };
            flight.lost = true;
            self.resend.push_back(id as u32);
            self.paths[index].in_flight -= 1;
        }
    }

    fn give_up_if_dead(&mut self, now: Instant) {
        let (Some(since), Some(after)) = (self.waiting_since, self.config.dead_after) else { return };
        if self.state != DeviceState::Up || now < since + after || !self.is_silent() {
            return;
        }
        self.state = DeviceState::Dead;
        self.report(Event::Dead);
        for id in 0..self.flights.len() as u32 {
            if self.flights[id as usize].is_none() {
                continue;
            }
            self.doubt(id);
            self.drop_flight(id);
        }
        self.resend.clear();
        self.unsent.clear();
        self.parked.clear();
        self.ordering = Ordering::default();
        for slot in 0..self.requests.len() as u32 {
            if let Some(active) = self.requests[slot as usize].as_mut() {
                active.error = Some(IoError::Dead);
                active.ordered = false;
                self.end_request(now, slot);
            }
        }
        for index in 0..self.paths.len() {
            self.fail_path(now, index);
        }
        self.ask_at = now;
    }

    /// A write that was never answered is given up: a copy may still arrive, and the target would take it for
    /// new.
    fn doubt(&mut self, flight_id: u32) {
        let flight = self.flights[flight_id as usize].as_ref().expect("only known flights are given up");
        let active = self.requests[flight.request as usize].as_ref().expect("flights belong to requests");
        if active.work.writes() {
            let start = active.lba + flight.offset;
            self.quarantine.add(start, start + flight.sectors, flight.last_sent + QUARANTINE, None);
        }
    }

    fn report(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

/// The registers of a command on `count` sectors from `lba` on.
fn transfer(command: u8, flags: AtaFlags, extended: bool, lba: u64, count: u64) -> AtaRepr {
    let (flags, registers) = if extended {
        (flags | AtaFlags::EXTENDED, lba)
    } else {
        assert!(lba <= LBA28_MAX, "a 28-bit disk has 28-bit sectors");
        (flags, 0xe << 28 | lba)
    };
    AtaRepr { flags, feature: 0, count: count as u8, command, registers }
}

fn write_command(lba48: bool, fua: bool) -> u8 {
    match (lba48, fua) {
        (true, true) => command::WRITE_DMA_FUA_EXT,
        (true, false) => command::WRITE_SECTORS_EXT,
        (false, _) => command::WRITE_SECTORS,
    }
}

/// What an answer says about its part.
fn judge(error: Option<ErrorCode>, ata: &AtaRepr) -> Result<(), IoError> {
    match error {
        Some(ErrorCode::Reserved) => return Err(IoError::Reserved),
        Some(error) => return Err(IoError::Protocol(error)),
        None => {}
    }
    let status = Status::from_bits_retain(ata.command);
    if !status.failed() {
        return Ok(());
    }
    let error = AtaError::from_bits_retain(ata.feature);
    if status.contains(Status::DF) {
        Err(IoError::DeviceFault)
    } else if error.contains(AtaError::ID_NOT_FOUND) {
        Err(IoError::OutOfRange)
    } else if error.contains(AtaError::UNCORRECTABLE) {
        Err(IoError::Unreadable)
    } else if error.contains(AtaError::ABORT) {
        Err(IoError::Refused)
    } else {
        Err(IoError::DeviceFault)
    }
}

#[cfg(test)]
mod tests;
