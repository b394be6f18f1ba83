//! One AoE disk, served over any number of paths.
//!
//! A *request* of the user is cut into *parts*, each one ATA command in one frame. A part that is under way
//! is a *flight*: it keeps its tag however often it is sent, so that a target can recognise a copy, and it
//! moves to another path only when its own is lost.

mod answers;
mod loss;
mod measuring;
mod paths;
mod sending;

use aoe_common::addr::Address;
use aoe_common::ata::{Identify, TRIM_ENTRIES_PER_SECTOR};
use aoe_common::frame::SECTOR;
use aoe_common::hash::OwnKeyMap;
use aoe_common::ordering::{Footprint, Ordering};
use aoe_common::planted::{Fault, planted};
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{Command, ErrorCode, Frame, MacAddr};
use std::collections::{BTreeMap, VecDeque};

use super::measuring::Measuring;
use super::path::{PATHS_MAX, Path, PathState};
use super::quarantine::Quarantine;
use super::recovery::Kind;
use super::unflushed::Unflushed;
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
/// Frames whose answers are expected though nobody waits for them; older ones count as strays.
const UNAWAITED_MAX: usize = 2 * PATHS_MAX;

/// How often a part is sent again before its time-out.
const EARLY_MAX: u8 = 3;
/// Parts that were sent again and are answered, whose other answers are looked out for.
const RESENT_MAX: usize = 64;

/// Time-outs of a part before larger frames are doubted on its path, and the pause between two attempts to find out.
const TIMEOUTS_TO_MEASURE: u32 = 2;
const MEASURE_PAUSE: Duration = Duration::from_secs(2);

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
    /// How long a frame may live in the network.
    pub frame_life: Duration,
    /// The network may repeat frames by itself. A target that does not recognise copies is then never sent a write
    /// of sectors that an earlier one, sent less than `frame_life` ago, may still hit.
    pub network_repeats: bool,
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
    /// The target's host lost writes that no flush had covered; from then on no flush succeeds.
    #[error("the target's host lost writes that were not flushed")]
    CacheLost,
}

impl IoError {
    /// The target did not even try, and keeps no memory of that.
    fn is_refusal(self) -> bool {
        matches!(self, Self::Reserved | Self::Protocol(_) | Self::Refused | Self::OutOfRange)
    }
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
    /// On a path, other frames pass than before.
    Passes {
        /// The target.
        mac: MacAddr,
        /// Over which port.
        port: PortId,
        /// Sectors in the longest frame.
        sectors: u8,
        /// Sectors that both ends would take.
        offered: u8,
    },
    /// Unusable answers made a request fail.
    BadAnswers,
    /// The target's host lost writes that no flush had covered: flushes fail from now on.
    CacheLost,
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

    /// Its effect may be lost with the target's power, once it is answered.
    fn is_volatile(self) -> bool {
        match self {
            Self::Write { fua } | Self::ZeroData { fua } => !fua,
            Self::Trim | Self::ZeroCommand => true,
            Self::Read | Self::Flush => false,
        }
    }

    /// What tells of a loss before the time-out does, unless it may take a disk long. A copy of a write is sent early only
    /// to a target that recognises it; with another, the sectors would be in quarantine for it.
    fn kind(self, disk: &Identify) -> Option<Kind> {
        match self {
            Self::Read => Some(Kind::Read),
            Self::Write { fua: false } | Self::ZeroData { fua: false } if disk.exactly_once && disk.write_cache => {
                Some(Kind::Write)
            }
            _ => None,
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
    /// For a flush: what it has to cover.
    mark: u64,
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
    /// Deadlines that have passed.
    timeouts: u32,
    /// How often it was taken for lost before its deadline.
    early: u8,
    /// Its place in the order of what was sent on its path, while it is in that.
    place: Option<(Kind, u64)>,
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
    /// Sectors per command that both ends would take.
    pub offered: u8,
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
    /// When its size changed last.
    resized_at: Instant,
    settle_at: Option<Instant>,
    ask_at: Instant,
    requests: Vec<Option<Active>>,
    free_requests: Vec<u32>,
    ordering: Ordering<u32>,
    quarantine: Quarantine,
    unflushed: Unflushed,
    /// Writes that the quarantine holds back.
    parked: Vec<u32>,
    /// Requests with parts that were never sent.
    unsent: VecDeque<u32>,
    flights: Vec<Option<Flight>>,
    free_flights: Vec<u32>,
    by_tag: OwnKeyMap<u32, u32>,
    /// Flights to be sent again.
    resend: VecDeque<u32>,
    /// Of the latest flights that were sent again early: tag, path and kind.
    resent: VecDeque<(u32, usize, Kind)>,
    /// When the first of those that have to wait may be sent.
    held_until: Option<Instant>,
    /// No flight is due before this.
    flights_due: Option<Instant>,
    /// Since when work waits without any answer.
    waiting_since: Option<Instant>,
    controls: VecDeque<(PortId, Vec<u8>)>,
    /// Tags of the latest frames whose answers nobody waits for.
    unawaited: VecDeque<u32>,
    completions: VecDeque<Completion>,
    events: VecDeque<Event>,
    stats: DeviceStats,
}

impl Device {
    /// A device that is looked for from now on.
    pub fn new(now: Instant, config: DeviceConfig) -> Self {
        assert!(!config.address.is_wildcard(), "a device has one address");
        let mut quarantine = Quarantine::default();
        if !config.hold_writes.is_zero() && !planted(Fault::TakesOverAtOnce) {
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
            resized_at: now,
            settle_at: None,
            ask_at: now,
            requests: Vec::new(),
            free_requests: Vec::new(),
            ordering: Ordering::default(),
            quarantine,
            unflushed: Unflushed::default(),
            parked: Vec::new(),
            unsent: VecDeque::new(),
            flights: Vec::new(),
            free_flights: Vec::new(),
            by_tag: OwnKeyMap::default(),
            resend: VecDeque::new(),
            resent: VecDeque::new(),
            held_until: None,
            flights_due: None,
            waiting_since: None,
            controls: VecDeque::new(),
            unawaited: VecDeque::new(),
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
            sectors: path.sectors(),
            offered: path.offered,
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
                self.paths[index].measuring = None;
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
            mark: self.unflushed.mark(),
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
            self.measure_if_due(now, index);
        }
        self.lose_overtaken_flights(now);
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
        let overtaken = self.paths.iter().filter_map(Path::recovery_due);
        let measuring = self.paths.iter().filter_map(|path| path.measuring.as_ref().map(Measuring::due));
        let quarantine = if self.parked.is_empty() { None } else { self.quarantine.next_end() };
        [Some(self.ask_at), self.settle_at, self.flights_due, self.held_until, dead, quarantine]
            .into_iter()
            .flatten()
            .chain(identify)
            .chain(overtaken)
            .chain(measuring)
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

    fn report(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

#[cfg(test)]
mod tests;
