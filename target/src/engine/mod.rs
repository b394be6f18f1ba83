//! The target engine: frames and disk completions go in, frames and disk operations come out.
//!
//! A value without sockets, files, threads or clocks. The contract with its driver:
//!
//! 1. `handle_*` takes an input and the current time, never blocks and does bounded work.
//! 2. After any input the driver pulls everything: `poll_disk`, `poll_persist`, `poll_transmit`, `poll_event`,
//!    each until `None`.
//! 3. Buffers are owned. A disk operation carries its buffer until `handle_completion` brings it back; a frame
//!    to send carries its buffer until `recycle` does. Their number is bounded (`EngineConfig::buffers`);
//!    a request that finds none is dropped, as a full queue on the wire would. A driver that stops receiving
//!    while `has_room` is false leaves frames waiting in its socket instead.
//! 4. Disk operations handed out at the same time may run together and complete in any order: the engine
//!    holds back whatever must wait.
//! 5. A crash is a drop of the value. What has to survive goes through `poll_persist`, and a request that
//!    changes it is answered only after `handle_persisted`.
//!
//! What the engine promises to stations: an answer tells what happened; overlapping operations run in order
//! of arrival; a request that comes again under its old tag runs once; once an edit of the mask list or the
//! reservation is answered, no write of a station it shut out takes effect any more.

pub mod access;
pub mod ata;
pub mod config_string;
pub mod durability;
pub mod export;
pub mod operation;
pub mod pool;
pub mod repeats;
pub mod stations;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aoe_common::addr::Address;
use aoe_common::ata::{AtaError, LOG_STATION_IDENTITY, Status, TrimRange, log_page, trim_ranges};
use aoe_common::frame::{FrameBuffer, HEADROOM, MIN_FRAME, SECTOR};
use aoe_common::ordering::Footprint;
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{
    AtaRepr, BROADCAST, Command, ConfigCommand, ConfigRepr, DirectiveCommand, DirectiveRepr, ErrorCode, EthernetRepr,
    Frame, HeaderRepr, MacAddr, Malformed, MaskCommand, MaskError, MaskRepr, ReserveCommand, ReserveRepr, VERSION,
};

use self::ata::{Ask, Failure, Geometry, Refusal};
use self::config_string::Verdict;
use self::export::{EXPORT_REQUESTS_MAX, Export, ExportConfig, StoredState};
use self::operation::{DiskCompletion, DiskError, DiskId, DiskOperation, DiskOperationKind, OperationId};
use self::pool::Pool;
use self::repeats::{Outcome, Repeats, RequestKey, Seen};
use self::stations::{Station, Stations};

/// Firmware version in config answers: major and minor version of this program.
const FIRMWARE: u16 = 0x0001;

/// Events kept for a driver that does not fetch them; older ones are dropped.
const EVENTS_MAX: usize = 64;

/// A colleague with our address is reported once in this time.
const COLLISION_REPORT_EVERY: Duration = Duration::from_secs(60);
/// Colleagues kept apart for that.
const COLLISIONS_MAX: usize = 64;

/// Names a port between the engine and its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

/// A port that can send and receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Our address on it.
    pub mac: MacAddr,
    /// Largest Ethernet payload in bytes.
    pub mtu: u32,
}

impl PortInfo {
    /// Sectors that fit a frame: as every other target and initiator counts them, with the Ethernet header
    /// taken off the MTU as well.
    fn frame_sectors(self) -> u8 {
        (self.mtu.saturating_sub(HEADROOM as u32) / SECTOR as u32).min(255) as u8
    }
}

/// Settings of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Frame buffers at the most, each for one request or answer.
    pub buffers: usize,
    /// Whether edits of strings, masks and reservations go through `poll_persist`.
    pub persist: bool,
    /// Whether a request to a wildcard address may edit them, or write to disks.
    pub wildcard_edits: bool,
}

/// A frame to send.
#[derive(Debug)]
pub struct Transmit {
    /// On which port.
    pub port: PortId,
    /// The frame; give the buffer back with `recycle`.
    pub buffer: FrameBuffer,
}

/// Settings to store safely before `handle_persisted` is called.
#[derive(Debug)]
pub struct Persist {
    /// Whose.
    pub disk: DiskId,
    /// All of them.
    pub state: StoredState,
}

/// What an operator should hear about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another station answers under an address of ours.
    AddressCollision {
        /// The address.
        address: Address,
        /// The other station.
        station: MacAddr,
        /// Where it was heard.
        port: PortId,
    },
    /// A sync failed: the export refuses writes from now on.
    Poisoned {
        /// The export.
        address: Address,
        /// Why.
        error: DiskError,
    },
    /// An operation failed below.
    DiskFailed {
        /// The export.
        address: Address,
        /// Why.
        error: DiskError,
    },
    /// A station changed a config string, mask list or reservation.
    Edited {
        /// The export.
        address: Address,
        /// The station.
        station: MacAddr,
        /// What it is now.
        state: StoredState,
    },
    /// Such a change could not be stored and was taken back.
    NotStored {
        /// The export.
        address: Address,
    },
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
struct ReplyTo {
    port: PortId,
    station: MacAddr,
    address: Address,
    command: Command,
    tag: u32,
}

/// What a request in the table is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Read { sectors: u8, verify: bool },
    Write { sectors: u8, durable: bool },
    Zero { sectors: u8, durable: bool },
    Trim { range_sectors: u8, next: u16, durable: bool },
    Flush { turn_cache_off: bool },
}

impl Work {
    fn writes(self) -> bool {
        matches!(self, Self::Write { .. } | Self::Zero { .. } | Self::Trim { .. })
    }
}

/// A request that goes to a disk.
#[derive(Debug)]
struct Request {
    export: u32,
    to: ReplyTo,
    ata: AtaRepr,
    work: Work,
    /// Here while it waits; with the disk while it runs.
    buffer: Option<FrameBuffer>,
    /// For those that change the disk.
    key: Option<RequestKey>,
    /// Its station was shut out while it ran, and an edit waits for its end.
    draining: bool,
}

/// An edit that is applied but not answered yet.
#[derive(Debug)]
struct Edit {
    to: ReplyTo,
    kind: EditKind,
    before: StoredState,
    storage: Storage,
    /// Writing requests of shut-out stations that still run.
    draining: u32,
}

/// How far an edit has come on its way to stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    Pending,
    Done,
    /// The edit was taken back.
    Failed,
}

#[derive(Clone, Copy, Debug)]
enum EditKind {
    ConfigString(ConfigCommand),
    Mask(Option<(MaskError, u8)>),
    Reservation(ReserveCommand),
}

/// Frames dropped before they reached an export, and other figures of the whole engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Frames received.
    pub frames: u64,
    /// Frames that are no AoE requests, cut short, or from impossible senders.
    pub malformed: u64,
    /// Requests to addresses that are not ours.
    pub not_ours: u64,
    /// Requests and answers dropped because no buffer was free.
    pub no_buffer: u64,
}

/// The engine: any number of exports on any number of ports.
#[derive(Debug)]
pub struct Target {
    config: EngineConfig,
    exports: Vec<Export>,
    by_address: BTreeMap<Address, u32>,
    ports: BTreeMap<PortId, PortInfo>,
    requests: Vec<Option<Request>>,
    free_requests: Vec<u32>,
    repeats: Repeats,
    stations: Stations,
    edits: BTreeMap<u32, Edit>,
    pool: Pool,
    disk: VecDeque<DiskOperation>,
    persist: VecDeque<Persist>,
    outbox: VecDeque<Transmit>,
    announcements: BTreeSet<(PortId, u32)>,
    events: VecDeque<Event>,
    collisions: BTreeMap<(Address, [u8; 6]), Instant>,
    counters: EngineCounters,
}

impl Target {
    /// An engine without exports and ports.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            config,
            exports: Vec::new(),
            by_address: BTreeMap::new(),
            ports: BTreeMap::new(),
            requests: Vec::new(),
            free_requests: Vec::new(),
            repeats: Repeats::default(),
            stations: Stations::default(),
            edits: BTreeMap::new(),
            pool: Pool::new(config.buffers),
            disk: VecDeque::new(),
            persist: VecDeque::new(),
            outbox: VecDeque::new(),
            announcements: BTreeSet::new(),
            events: VecDeque::new(),
            collisions: BTreeMap::new(),
            counters: EngineCounters::default(),
        }
    }

    /// Adds an export and announces it. `None` when its address is taken.
    pub fn add_export(&mut self, config: ExportConfig, stored: StoredState) -> Option<DiskId> {
        if self.by_address.contains_key(&config.address) {
            return None;
        }
        let index = self.exports.len() as u32;
        self.by_address.insert(config.address, index);
        self.exports.push(Export::new(config, stored));
        self.announcements.extend(self.ports.keys().map(|port| (*port, index)));
        Some(DiskId(index))
    }

    /// An export.
    pub fn export(&self, disk: DiskId) -> &Export {
        &self.exports[disk.0 as usize]
    }

    /// All exports.
    pub fn exports(&self) -> impl Iterator<Item = &Export> {
        self.exports.iter()
    }

    /// The disk below has another size now; the change is announced. Requests beyond the end fail.
    pub fn resize(&mut self, disk: DiskId, sectors: u64) {
        assert!(sectors > 0, "an export has sectors");
        let export = &mut self.exports[disk.0 as usize];
        if export.config.sectors == sectors {
            return;
        }
        export.config.sectors = sectors;
        self.announcements.extend(self.ports.keys().map(|port| (*port, disk.0)));
    }

    /// A port came up, changed, or went away (`None`). A port that comes up or changes hears of every export.
    pub fn set_port(&mut self, port: PortId, info: Option<PortInfo>) {
        let Some(info) = info else {
            self.ports.remove(&port);
            self.announcements.retain(|(at, _)| *at != port);
            return;
        };
        if self.ports.insert(port, info) == Some(info) {
            return;
        }
        self.pool.fit(usize::from(info.frame_sectors()));
        self.announcements.extend((0..self.exports.len() as u32).map(|export| (port, export)));
    }

    /// Figures of the whole engine.
    pub fn counters(&self) -> EngineCounters {
        self.counters
    }

    /// Whether a request would find a buffer.
    pub fn has_room(&self) -> bool {
        self.pool.available() > 0
    }

    /// Requests that are with a disk or wait for others.
    pub fn in_flight(&self) -> usize {
        self.requests.len() - self.free_requests.len()
    }

    /// A frame arrived on a port.
    pub fn handle_frame(&mut self, now: Instant, port: PortId, bytes: &[u8]) {
        self.counters.frames += 1;
        let Some(info) = self.ports.get(&port).copied() else { return };
        let Ok(frame) = Frame::parse(bytes) else {
            self.counters.malformed += 1;
            return;
        };
        let group = |mac: MacAddr| mac.0 & 1 != 0;
        let foreign_vlan = frame.ethernet.vlan.is_some_and(|tci| tci & 0x0fff != 0);
        let for_us = frame.ethernet.destination == info.mac || group(frame.ethernet.destination);
        // A group address sends nothing; an answer to one would reach every station.
        if group(frame.ethernet.source) || foreign_vlan || !for_us {
            self.counters.malformed += 1;
            return;
        }
        if frame.header.response {
            self.hear_colleague(now, port, &frame);
            return;
        }
        let asked = frame.header.address;
        if !asked.is_wildcard() {
            match self.by_address.get(&asked) {
                Some(index) => self.handle_request(now, port, info, *index, &frame),
                None => self.counters.not_ours += 1,
            }
            return;
        }
        for index in 0..self.exports.len() as u32 {
            if asked.reaches(self.exports[index as usize].config.address) {
                self.handle_request(now, port, info, index, &frame);
            }
        }
    }

    /// A disk operation ended.
    pub fn handle_completion(&mut self, now: Instant, completion: DiskCompletion) {
        let DiskCompletion { id, buffer, result } = completion;
        let request = self.requests[id.0 as usize].as_mut().expect("completions belong to requests");
        assert!(request.buffer.is_none(), "only running requests complete");
        let mut cut_off = false;
        if let (Work::Trim { range_sectors, next, .. }, Ok(())) = (&mut request.work, result) {
            *next += 1;
            if trim_range(&buffer, *range_sectors, *next).is_some() {
                if !request.draining {
                    request.buffer = Some(buffer);
                    self.start(id);
                    return;
                }
                cut_off = true;
            }
        }
        if matches!(request.work, Work::Flush { .. }) {
            request.buffer = Some(buffer);
            let index = request.export;
            self.flush_ended(index, result);
            return;
        }
        let mut request = self.take_request(id);
        request.buffer = Some(buffer);
        self.settle(request.export, id);
        let outcome = if cut_off {
            // Its station was shut out between two ranges: the rest never ran, and the answer must not hide it.
            self.exports[request.export as usize].counters.failures += 1;
            Outcome { status: Failure::ABORTED.status.bits(), error: Failure::ABORTED.error.bits() }
        } else {
            self.judge_result(&request, result)
        };
        if let Some(key) = request.key {
            self.repeats.end(now, key, outcome);
        }
        if request.draining {
            let edit = self.edits.get_mut(&request.export).expect("an edit waits for a draining request");
            edit.draining -= 1;
            let index = request.export;
            self.answer_request(request, outcome);
            self.edit_progress(index);
        } else {
            self.answer_request(request, outcome);
        }
    }

    /// Settings were stored, or could not be.
    pub fn handle_persisted(&mut self, disk: DiskId, stored: bool) {
        let index = disk.0;
        let edit = self.edits.get_mut(&index).expect("settings are stored for an edit");
        assert!(edit.storage == Storage::Pending, "settings are stored once");
        if stored {
            edit.storage = Storage::Done;
        } else {
            edit.storage = Storage::Failed;
            let before = edit.before.clone();
            self.apply(index, &before);
            for request in self.requests.iter_mut().flatten().filter(|request| request.export == index) {
                request.draining = false;
            }
            // Stations the edit had let in are out again.
            let draining = self.shut_out(index);
            self.edits.get_mut(&index).expect("just seen").draining = draining;
        }
        self.edit_progress(index);
    }

    /// The next operation for a disk.
    pub fn poll_disk(&mut self) -> Option<DiskOperation> {
        self.disk.pop_front()
    }

    /// The next settings to store.
    pub fn poll_persist(&mut self) -> Option<Persist> {
        self.persist.pop_front()
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        while self.outbox.is_empty()
            && let Some((port, index)) = self.announcements.first().copied()
            && self.announce(port, index)
        {
            self.announcements.remove(&(port, index));
        }
        self.outbox.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Takes back the buffer of a frame that was sent or dropped.
    pub fn recycle(&mut self, buffer: FrameBuffer) {
        self.pool.give(buffer);
    }

    fn handle_request(&mut self, now: Instant, port: PortId, info: PortInfo, index: u32, frame: &Frame<'_>) {
        let export = &mut self.exports[index as usize];
        let station = frame.ethernet.source;
        if !export.access.hears(station) {
            export.counters.refused += 1;
            return;
        }
        let to = ReplyTo {
            port,
            station,
            address: export.config.address,
            command: frame.header.command,
            tag: frame.header.tag,
        };
        if frame.header.version != VERSION {
            self.answer_echo(&to, ErrorCode::UnsupportedVersion, frame.body);
            return;
        }
        match frame.header.command {
            Command::Ata => self.ata_request(now, info, index, &to, frame),
            Command::Config => self.config_request(index, &to, frame),
            Command::Mask => self.mask_request(index, &to, frame),
            Command::Reserve => self.reserve_request(index, &to, frame),
            Command::Vendor(_) | Command::Unknown(_) => {
                self.answer_echo(&to, ErrorCode::UnknownCommand, frame.body);
            }
        }
    }

    // ---- ATA -------------------------------------------------------------------------------------------------

    fn ata_request(&mut self, now: Instant, info: PortInfo, index: u32, to: &ReplyTo, frame: &Frame<'_>) {
        let Ok((ata, data)) = AtaRepr::parse(frame.body) else {
            self.counters.malformed += 1;
            return;
        };
        let export = &mut self.exports[index as usize];
        let identifies = ata.command == aoe_common::ata::command::IDENTIFY_DEVICE;
        if !identifies && !export.access.serves(to.station) {
            export.counters.refused += 1;
            self.answer_registers(to, Some(ErrorCode::Reserved), &ata);
            return;
        }
        let geometry = Geometry {
            sectors: export.config.sectors,
            read_only: export.config.read_only,
            frame_sectors: info.frame_sectors(),
        };
        let ask = match ata::judge(&ata, data.len(), &geometry) {
            Ok(ask) => ask,
            Err(Refusal::BadArgument) => {
                self.answer_registers(to, Some(ErrorCode::BadArgument), &ata);
                return;
            }
            Err(Refusal::Failed(failure)) => {
                self.answer_failure(index, to, &ata, failure);
                return;
            }
        };
        let changes = matches!(ask, Ask::Write { .. } | Ask::Zero { .. } | Ask::Trim { .. });
        if changes && self.refuses_edit(frame) {
            self.answer_registers(to, Some(ErrorCode::BadArgument), &ata);
            return;
        }
        let export = &mut self.exports[index as usize];
        match ask {
            Ask::Identify => {
                let block = self.exports[index as usize].identify().emit();
                self.answer_block(to, &ata, &block);
            }
            Ask::Log { log: LOG_STATION_IDENTITY, page: 0 } => {
                let mut block = [0; SECTOR];
                block[..16].copy_from_slice(&self.stations.identity(to.station).unwrap_or_default());
                self.answer_block(to, &ata, &block);
            }
            Ask::Log { log, page } => match log_page(log, page, &export.identify()) {
                Some(block) => self.answer_block(to, &ata, &block),
                None => self.answer_failure(index, to, &ata, Failure::ABORTED),
            },
            Ask::Register => {
                let identity = *data.first_chunk().expect("a sector came along");
                self.stations.register(to.station, identity);
                self.answer_registers(to, None, &succeeded(&ata));
            }
            Ask::PowerMode => {
                let active = AtaRepr { count: 0xff, ..succeeded(&ata) };
                self.answer_registers(to, None, &active);
            }
            Ask::CacheOn => match export.durability.turn_cache_on() {
                true => self.answer_registers(to, None, &succeeded(&ata)),
                false => self.answer_failure(index, to, &ata, Failure::ABORTED),
            },
            Ask::CacheOff => self.flush_request(index, to, &ata, true),
            Ask::Flush => self.flush_request(index, to, &ata, false),
            Ask::Read { lba, sectors, verify } => {
                let footprint = Footprint { start: lba, end: lba + u64::from(sectors), writes: false };
                self.admit(index, to, &ata, Work::Read { sectors, verify }, footprint, &[], None);
            }
            Ask::Write { lba, sectors, fua } => {
                let durable = fua || export.durability.write_is_durable(to.station);
                let footprint = Footprint { start: lba, end: lba + u64::from(sectors), writes: true };
                let data = &data[..usize::from(sectors) * SECTOR];
                self.change(now, index, to, &ata, Work::Write { sectors, durable }, footprint, data);
            }
            Ask::Zero { lba, sectors } => {
                let durable = export.durability.write_is_durable(to.station);
                let footprint = Footprint { start: lba, end: lba + u64::from(sectors), writes: true };
                self.change(now, index, to, &ata, Work::Zero { sectors, durable }, footprint, &[]);
            }
            Ask::Trim { range_sectors } => {
                let ranges = &data[..usize::from(range_sectors) * SECTOR];
                let durable = export.durability.write_is_durable(to.station);
                let mut footprint = Footprint { start: u64::MAX, end: 0, writes: true };
                for TrimRange { lba, sectors } in trim_ranges(ranges) {
                    footprint.start = footprint.start.min(lba);
                    footprint.end = footprint.end.max(lba + u64::from(sectors));
                }
                if footprint.end > export.config.sectors {
                    self.answer_failure(index, to, &ata, Failure::NO_SUCH_SECTOR);
                } else if footprint.end == 0 {
                    self.answer_registers(to, None, &succeeded(&ata));
                } else {
                    let work = Work::Trim { range_sectors, next: 0, durable };
                    self.change(now, index, to, &ata, work, footprint, ranges);
                }
            }
        }
    }

    /// A request that changes the disk: run once, however often it comes.
    #[expect(clippy::too_many_arguments, reason = "one request, spelled out")]
    fn change(
        &mut self,
        now: Instant,
        index: u32,
        to: &ReplyTo,
        ata: &AtaRepr,
        work: Work,
        footprint: Footprint,
        data: &[u8],
    ) {
        let by_mac = RequestKey {
            export: index,
            station: Station::Mac(to.station),
            tag: to.tag,
            command: ata.command,
            count: ata.count,
            registers: ata.registers,
        };
        // What it sent before it said who it is, it may send again afterwards.
        let mut seen = self.repeats.seen(now, &by_mac);
        let mut key = by_mac;
        if let Some(identity) = self.stations.identity(to.station) {
            key = RequestKey { station: Station::Identity(identity), ..by_mac };
            if seen == Seen::New {
                seen = self.repeats.seen(now, &key);
            }
        }
        let export = &mut self.exports[index as usize];
        match seen {
            Seen::Running => export.counters.repeats += 1,
            Seen::Done(outcome) => {
                export.counters.repeats += 1;
                self.answer_registers(to, None, &ended(ata, outcome));
            }
            Seen::New if export.durability.poisoned().is_some() => {
                self.answer_failure(index, to, ata, Failure::DEVICE_FAULT);
            }
            Seen::New => {
                if self.admit(index, to, ata, work, footprint, data, Some(key)) {
                    self.repeats.begin(now, key);
                }
            }
        }
    }

    /// Takes a request into the table and starts it if nothing is in its way. `false`: no room, dropped.
    #[expect(clippy::too_many_arguments, reason = "one request, spelled out")]
    fn admit(
        &mut self,
        index: u32,
        to: &ReplyTo,
        ata: &AtaRepr,
        work: Work,
        footprint: Footprint,
        data: &[u8],
        key: Option<RequestKey>,
    ) -> bool {
        let export = &mut self.exports[index as usize];
        if export.ordering.len() == EXPORT_REQUESTS_MAX {
            export.counters.overflows += 1;
            return false;
        }
        let Some(mut buffer) = self.pool.take() else {
            self.counters.no_buffer += 1;
            return false;
        };
        buffer.payload_mut(data.len()).copy_from_slice(data);
        let request = Request { export: index, to: *to, ata: *ata, work, buffer: Some(buffer), key, draining: false };
        let id = self.insert_request(request);
        let export = &mut self.exports[index as usize];
        if export.ordering.admit(id, footprint) {
            self.start(id);
        } else {
            export.counters.waits += 1;
        }
        true
    }

    /// Hands a request (its next part, for TRIM) to the disk.
    fn start(&mut self, id: OperationId) {
        let request = self.requests[id.0 as usize].as_mut().expect("only known requests start");
        let buffer = request.buffer.take().expect("a request starts once");
        let offset = request.ata.lba() * SECTOR as u64;
        let kind = match request.work {
            Work::Read { sectors, .. } => DiskOperationKind::Read { offset, len: u32::from(sectors) * SECTOR as u32 },
            Work::Write { sectors, durable } => {
                DiskOperationKind::Write { offset, len: u32::from(sectors) * SECTOR as u32, durable }
            }
            Work::Zero { sectors, durable } => {
                DiskOperationKind::Zero { offset, len: u64::from(sectors) * SECTOR as u64, unmap: false, durable }
            }
            Work::Trim { range_sectors, next, durable } => {
                let range = trim_range(&buffer, range_sectors, next).expect("a part of TRIM has its range");
                let last = trim_range(&buffer, range_sectors, next + 1).is_none();
                DiskOperationKind::Zero {
                    offset: range.lba * SECTOR as u64,
                    len: u64::from(range.sectors) * SECTOR as u64,
                    unmap: true,
                    // The sync behind the last part covers the others.
                    durable: durable && last,
                }
            }
            Work::Flush { .. } => DiskOperationKind::Flush,
        };
        let disk = DiskId(request.export);
        self.disk.push_back(DiskOperation { id, disk, kind, buffer });
    }

    /// Takes an operation out of its export's order and starts those that waited for it alone.
    fn settle(&mut self, index: u32, id: OperationId) {
        let mut ready = Vec::new();
        self.exports[index as usize].ordering.finish(id, |id| ready.push(id));
        for id in ready {
            self.start(id);
        }
    }

    /// Status and Error registers for what the disk said.
    fn judge_result(&mut self, request: &Request, result: Result<(), DiskError>) -> Outcome {
        let export = &mut self.exports[request.export as usize];
        let Err(error) = result else {
            match request.work {
                Work::Read { verify: true, .. } => {}
                Work::Read { sectors, .. } => {
                    export.counters.reads += 1;
                    export.counters.read_bytes += u64::from(sectors) * SECTOR as u64;
                }
                Work::Write { sectors, .. } => {
                    export.counters.writes += 1;
                    export.counters.write_bytes += u64::from(sectors) * SECTOR as u64;
                }
                Work::Zero { .. } | Work::Trim { .. } => export.counters.trims += 1,
                Work::Flush { .. } => unreachable!("flushes end in flush_ended"),
            }
            return Outcome { status: Status::DRDY.bits(), error: 0 };
        };
        export.counters.failures += 1;
        let address = export.config.address;
        let failure = match (request.work, error) {
            (Work::Read { .. }, DiskError::Short) => Failure::NO_SUCH_SECTOR,
            (Work::Read { .. }, _) => Failure::UNREADABLE,
            (_, DiskError::ReadOnly) => Failure::ABORTED,
            _ => Failure::DEVICE_FAULT,
        };
        // The sync in a durable write may have met the loss of earlier, acknowledged data, and the kernel
        // tells it only once.
        let synced = matches!(
            request.work,
            Work::Write { durable: true, .. } | Work::Zero { durable: true, .. } | Work::Trim { durable: true, .. }
        );
        if synced && matches!(error, DiskError::Io(_)) && export.durability.poison(error) {
            self.report(Event::Poisoned { address, error });
        } else {
            self.report(Event::DiskFailed { address, error });
        }
        Outcome { status: failure.status.bits(), error: failure.error.bits() }
    }

    fn flush_request(&mut self, index: u32, to: &ReplyTo, ata: &AtaRepr, turn_cache_off: bool) {
        let same = |id: &OperationId| {
            let request = self.requests[id.0 as usize].as_ref().expect("flushes are known requests");
            request.to.station == to.station && request.to.tag == to.tag
        };
        let flushes = &self.exports[index as usize].flushes;
        if flushes.served.iter().chain(&flushes.waiting).any(same) {
            self.exports[index as usize].counters.repeats += 1;
            return;
        }
        let export = &mut self.exports[index as usize];
        if export.durability.poisoned().is_some() {
            self.answer_failure(index, to, ata, Failure::DEVICE_FAULT);
            return;
        }
        if export.flushes.waiting.len() == EXPORT_REQUESTS_MAX {
            export.counters.overflows += 1;
            return;
        }
        let Some(buffer) = self.pool.take() else {
            self.counters.no_buffer += 1;
            return;
        };
        let request = Request {
            export: index,
            to: *to,
            ata: *ata,
            work: Work::Flush { turn_cache_off },
            buffer: Some(buffer),
            key: None,
            draining: false,
        };
        let id = self.insert_request(request);
        self.exports[index as usize].flushes.waiting.push(id);
        self.start_flush(index);
    }

    /// Starts a sync for all flushes that wait, unless one runs: that one may have begun before the writes
    /// they are to cover were answered.
    fn start_flush(&mut self, index: u32) {
        let flushes = &mut self.exports[index as usize].flushes;
        if flushes.served.is_empty() && !flushes.waiting.is_empty() {
            flushes.served = std::mem::take(&mut flushes.waiting);
            let leader = flushes.served[0];
            self.start(leader);
        }
    }

    fn flush_ended(&mut self, index: u32, result: Result<(), DiskError>) {
        let export = &mut self.exports[index as usize];
        let served = std::mem::take(&mut export.flushes.served);
        if let Err(error) = result
            && export.durability.poison(error)
        {
            let address = export.config.address;
            self.report(Event::Poisoned { address, error });
        }
        for id in served {
            let request = self.take_request(id);
            let export = &mut self.exports[index as usize];
            let outcome = if export.durability.poisoned().is_none() {
                export.counters.flushes += 1;
                export.durability.flushed(request.to.station);
                if request.work == (Work::Flush { turn_cache_off: true }) {
                    export.durability.turn_cache_off();
                }
                Outcome { status: Status::DRDY.bits(), error: 0 }
            } else {
                export.counters.failures += 1;
                Outcome { status: Failure::DEVICE_FAULT.status.bits(), error: Failure::DEVICE_FAULT.error.bits() }
            };
            self.answer_request(request, outcome);
        }
        self.start_flush(index);
    }

    // ---- Config string, mask list, reservation ---------------------------------------------------------------

    fn config_request(&mut self, index: u32, to: &ReplyTo, frame: &Frame<'_>) {
        let Ok(request) = ConfigRepr::parse(frame.body, false) else {
            self.counters.malformed += 1;
            return;
        };
        let export = &self.exports[index as usize];
        match config_string::judge(request.command, request.string, &export.config_string) {
            Verdict::Silent => {}
            Verdict::Answer => self.answer_config(to, index, request.command, None),
            Verdict::Refuse(error) => self.answer_config(to, index, request.command, Some(error)),
            Verdict::Store(_) if self.refuses_edit(frame) => {
                self.answer_config(to, index, request.command, Some(ErrorCode::BadArgument));
            }
            Verdict::Store(config_string) => {
                let state = StoredState { config_string, ..export.stored() };
                self.edit(index, to, EditKind::ConfigString(request.command), state);
            }
        }
    }

    fn mask_request(&mut self, index: u32, to: &ReplyTo, frame: &Frame<'_>) {
        let (request, directives) = match MaskRepr::parse(frame.body) {
            Ok(parsed) => parsed,
            Err(Malformed::Length) => return self.answer_echo(to, ErrorCode::BadArgument, frame.body),
            Err(_) => {
                self.counters.malformed += 1;
                return;
            }
        };
        match request.command {
            MaskCommand::Read => self.answer_mask(to, index, MaskCommand::Read),
            MaskCommand::Unknown(_) => self.answer_echo(to, ErrorCode::BadArgument, frame.body),
            MaskCommand::Edit if self.refuses_edit(frame) => {
                self.answer_echo(to, ErrorCode::BadArgument, frame.body);
            }
            MaskCommand::Edit => {
                let export = &self.exports[index as usize];
                let (mask, failed) = export.access.edit_mask(directives);
                let state = StoredState { mask, ..export.stored() };
                self.edit(index, to, EditKind::Mask(failed), state);
            }
        }
    }

    fn reserve_request(&mut self, index: u32, to: &ReplyTo, frame: &Frame<'_>) {
        let (request, macs) = match ReserveRepr::parse(frame.body) {
            Ok(parsed) => parsed,
            Err(Malformed::Length) => return self.answer_echo(to, ErrorCode::BadArgument, frame.body),
            Err(_) => {
                self.counters.malformed += 1;
                return;
            }
        };
        let export = &self.exports[index as usize];
        match export.access.reserve(to.station, request.command, macs) {
            Ok(None) => self.answer_reservation(to, index, request.command, None),
            Err(error) => self.answer_reservation(to, index, request.command, Some(error)),
            Ok(Some(_)) if self.refuses_edit(frame) => {
                self.answer_reservation(to, index, request.command, Some(ErrorCode::BadArgument));
            }
            Ok(Some(reservation)) => {
                let state = StoredState { reservation, ..export.stored() };
                self.edit(index, to, EditKind::Reservation(request.command), state);
            }
        }
    }

    /// One frame to a wildcard address would change every export in reach.
    fn refuses_edit(&self, frame: &Frame<'_>) -> bool {
        frame.header.address.is_wildcard() && !self.config.wildcard_edits
    }

    /// Applies an edit at once; answers it when it is stored and nobody it shut out has a write running.
    /// While one edit of an export waits, others are dropped: their stations ask again.
    fn edit(&mut self, index: u32, to: &ReplyTo, kind: EditKind, state: StoredState) {
        if self.edits.contains_key(&index) {
            self.exports[index as usize].counters.overflows += 1;
            return;
        }
        let before = self.exports[index as usize].stored();
        let storage = if before == state || !self.config.persist { Storage::Done } else { Storage::Pending };
        self.apply(index, &state);
        let draining = self.shut_out(index);
        self.edits.insert(index, Edit { to: *to, kind, before, storage, draining });
        if storage == Storage::Pending {
            self.persist.push_back(Persist { disk: DiskId(index), state });
        }
        self.edit_progress(index);
    }

    fn apply(&mut self, index: u32, state: &StoredState) {
        let export = &mut self.exports[index as usize];
        export.config_string.clone_from(&state.config_string);
        export.access.mask.clone_from(&state.mask);
        export.access.reservation.clone_from(&state.reservation);
    }

    /// Gives up the waiting requests of stations that are no longer served, and counts their running ones.
    fn shut_out(&mut self, index: u32) -> u32 {
        let access = &self.exports[index as usize].access;
        let mut waiting = Vec::new();
        let mut draining = 0;
        for (id, slot) in self.requests.iter_mut().enumerate() {
            let Some(request) = slot else { continue };
            let concerned = request.export == index && !access.serves(request.to.station);
            if !concerned || matches!(request.work, Work::Flush { .. }) {
                continue;
            }
            if request.buffer.is_some() {
                waiting.push(OperationId(id as u32));
            } else if request.work.writes() {
                request.draining = true;
                draining += 1;
            }
        }
        for id in waiting {
            let request = self.take_request(id);
            if let Some(key) = &request.key {
                self.repeats.abandon(key);
            }
            self.pool.give(request.buffer.expect("waiting requests hold their buffer"));
            let mut ready = Vec::new();
            self.exports[index as usize].ordering.finish(id, |id| ready.push(id));
            for id in ready {
                let request = self.requests[id.0 as usize].as_ref();
                let served =
                    request.is_some_and(|request| self.exports[index as usize].access.serves(request.to.station));
                if served {
                    self.start(id);
                }
            }
        }
        draining
    }

    fn edit_progress(&mut self, index: u32) {
        let Some(edit) = self.edits.get(&index) else { return };
        if edit.storage == Storage::Pending || edit.draining > 0 {
            return;
        }
        let edit = self.edits.remove(&index).expect("just seen");
        if edit.storage == Storage::Failed {
            self.answer_not_stored(index, &edit);
            return;
        }
        let export = &self.exports[index as usize];
        let state = export.stored();
        if state != edit.before {
            let address = export.config.address;
            self.report(Event::Edited { address, station: edit.to.station, state });
        }
        match edit.kind {
            EditKind::ConfigString(command) => self.answer_config(&edit.to, index, command, None),
            EditKind::Mask(None) => self.answer_mask(&edit.to, index, MaskCommand::Edit),
            EditKind::Mask(Some((error, at))) => self.answer_mask_failure(&edit.to, error, at),
            EditKind::Reservation(command) => self.answer_reservation(&edit.to, index, command, None),
        }
    }

    /// r11 has no better word for "I cannot keep this".
    fn answer_not_stored(&mut self, index: u32, edit: &Edit) {
        let address = self.exports[index as usize].config.address;
        self.report(Event::NotStored { address });
        match edit.kind {
            EditKind::ConfigString(command) => {
                self.answer_config(&edit.to, index, command, Some(ErrorCode::DeviceUnavailable));
            }
            EditKind::Mask(_) => self.answer_mask_failure(&edit.to, MaskError::Unspecified, 0),
            EditKind::Reservation(command) => {
                self.answer_reservation(&edit.to, index, command, Some(ErrorCode::DeviceUnavailable));
            }
        }
    }

    // ---- Answers ---------------------------------------------------------------------------------------------

    /// Sends an answer of `body_len` bytes behind the headers, padded with zeros to a whole frame.
    fn answer(&mut self, to: &ReplyTo, error: Option<ErrorCode>, body_len: usize, emit: impl FnOnce(&mut [u8])) {
        let Some(mut buffer) = self.pool.take() else {
            self.counters.no_buffer += 1;
            return;
        };
        buffer.reset((HEADROOM - AtaRepr::WIRE_LEN + body_len).max(MIN_FRAME));
        self.send(to, error, buffer, emit);
    }

    /// Writes the headers and the body into a buffer whose length is set and queues it.
    fn send(&mut self, to: &ReplyTo, error: Option<ErrorCode>, mut buffer: FrameBuffer, emit: impl FnOnce(&mut [u8])) {
        let Some(info) = self.ports.get(&to.port) else {
            self.pool.give(buffer);
            return;
        };
        let ethernet = EthernetRepr { destination: to.station, source: info.mac, vlan: None };
        let header = HeaderRepr {
            version: VERSION,
            response: true,
            error,
            address: to.address,
            command: to.command,
            tag: to.tag,
        };
        emit(Frame::emit_headers(&ethernet, &header, buffer.frame_mut()));
        self.outbox.push_back(Transmit { port: to.port, buffer });
    }

    fn answer_registers(&mut self, to: &ReplyTo, error: Option<ErrorCode>, ata: &AtaRepr) {
        self.answer(to, error, AtaRepr::WIRE_LEN, |body| {
            ata.emit(body);
        });
    }

    fn answer_failure(&mut self, index: u32, to: &ReplyTo, ata: &AtaRepr, failure: Failure) {
        self.exports[index as usize].counters.failures += 1;
        self.answer_registers(to, None, &failed(ata, failure));
    }

    fn answer_block(&mut self, to: &ReplyTo, ata: &AtaRepr, block: &[u8; SECTOR]) {
        self.answer(to, None, AtaRepr::WIRE_LEN + SECTOR, |body| {
            succeeded(ata).emit(body)[..SECTOR].copy_from_slice(block);
        });
    }

    /// Answers a request that went to the disk, in the buffer it used there.
    fn answer_request(&mut self, request: Request, outcome: Outcome) {
        let mut buffer = request.buffer.expect("an ended request holds its buffer");
        if !self.exports[request.export as usize].access.hears(request.to.station) {
            self.pool.give(buffer);
            return;
        }
        let succeeded = !Status::from_bits_retain(outcome.status).failed();
        match request.work {
            Work::Read { sectors, verify: false } if succeeded => {
                // The data is in place, and longer than the shortest frame.
                buffer.set_len(HEADROOM + usize::from(sectors) * SECTOR);
            }
            _ => buffer.reset(MIN_FRAME),
        }
        self.send(&request.to, None, buffer, |body| {
            ended(&request.ata, outcome).emit(body);
        });
    }

    /// Repeats the request's arguments, as vblade does for what it does not know.
    fn answer_echo(&mut self, to: &ReplyTo, error: ErrorCode, body: &[u8]) {
        let body = &body[..body.len().min(aoe_common::wire::CONFIG_STRING_MAX)];
        self.answer(to, Some(error), body.len(), |out| out[..body.len()].copy_from_slice(body));
    }

    fn answer_config(&mut self, to: &ReplyTo, index: u32, command: ConfigCommand, error: Option<ErrorCode>) {
        let Some(info) = self.ports.get(&to.port) else { return };
        let export = &self.exports[index as usize];
        let string = export.config_string.clone();
        let sectors = export.advertised_sectors(info.frame_sectors());
        let repr = ConfigRepr::answer(export.config.buffers, FIRMWARE, sectors, command, &string);
        self.answer(to, error, repr.wire_len(), |body| {
            repr.emit(body);
        });
    }

    fn answer_mask(&mut self, to: &ReplyTo, index: u32, command: MaskCommand) {
        let mask = self.exports[index as usize].access.mask.clone();
        let repr = MaskRepr { command, error: None, directive_count: mask.len() as u8 };
        let entries = mask.iter().map(|mac| DirectiveRepr { command: DirectiveCommand::None, mac: *mac });
        self.answer(to, None, MaskRepr::FIXED_LEN + mask.len() * MaskRepr::DIRECTIVE_LEN, |body| {
            repr.emit(entries, body);
        });
    }

    fn answer_mask_failure(&mut self, to: &ReplyTo, error: MaskError, at: u8) {
        let repr = MaskRepr { command: MaskCommand::Edit, error: Some(error), directive_count: at };
        self.answer(to, None, MaskRepr::FIXED_LEN, |body| {
            repr.emit([], body);
        });
    }

    fn answer_reservation(&mut self, to: &ReplyTo, index: u32, command: ReserveCommand, error: Option<ErrorCode>) {
        let macs = self.exports[index as usize].access.reservation.clone();
        let repr = ReserveRepr { command, mac_count: macs.len() as u8 };
        self.answer(to, error, ReserveRepr::FIXED_LEN + macs.len() * ReserveRepr::MAC_LEN, |body| {
            repr.emit(macs, body);
        });
    }

    /// Tells the stations on a port that an export is there: an unasked config answer with tag 0, to everybody
    /// or, when there is a list, to each station on it. `false`: there are not enough buffers for all of them.
    fn announce(&mut self, port: PortId, index: u32) -> bool {
        let Some(info) = self.ports.get(&port) else { return true };
        if info.frame_sectors() == 0 {
            return true;
        }
        let export = &self.exports[index as usize];
        let address = export.config.address;
        let stations = export.access.announce_to().unwrap_or_else(|| vec![BROADCAST]);
        if self.pool.available() < stations.len().min(self.config.buffers) {
            return false;
        }
        for station in stations {
            let to = ReplyTo { port, station, address, command: Command::Config, tag: 0 };
            self.answer_config(&to, index, ConfigCommand::Read, None);
        }
        true
    }

    // ---- The request table and events ------------------------------------------------------------------------

    fn insert_request(&mut self, request: Request) -> OperationId {
        match self.free_requests.pop() {
            Some(id) => {
                self.requests[id as usize] = Some(request);
                OperationId(id)
            }
            None => {
                // Every request holds a buffer, so the table is no longer than there are buffers.
                self.requests.push(Some(request));
                OperationId(self.requests.len() as u32 - 1)
            }
        }
    }

    fn take_request(&mut self, id: OperationId) -> Request {
        let request = self.requests[id.0 as usize].take().expect("a request is taken once");
        self.free_requests.push(id.0);
        request
    }

    fn hear_colleague(&mut self, now: Instant, port: PortId, frame: &Frame<'_>) {
        let address = frame.header.address;
        let station = frame.ethernet.source;
        let ours = self.ports.values().any(|info| info.mac == station);
        if ours || frame.header.command != Command::Config || !self.by_address.contains_key(&address) {
            return;
        }
        let key = (address, station.octets());
        if self.collisions.get(&key).is_some_and(|last| now.since(*last) < COLLISION_REPORT_EVERY) {
            return;
        }
        self.collisions.retain(|_, last| now.since(*last) < COLLISION_REPORT_EVERY);
        if self.collisions.len() == COLLISIONS_MAX {
            return;
        }
        self.collisions.insert(key, now);
        self.report(Event::AddressCollision { address, station, port });
    }

    fn report(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

/// The range of part `part` of a TRIM whose ranges lie in `buffer`.
fn trim_range(buffer: &FrameBuffer, range_sectors: u8, part: u16) -> Option<TrimRange> {
    trim_ranges(buffer.payload(usize::from(range_sectors) * SECTOR)).nth(usize::from(part))
}

/// Registers of an answer to a request that ended so. On success nothing remains to be transferred.
fn ended(ata: &AtaRepr, outcome: Outcome) -> AtaRepr {
    let failed = Status::from_bits_retain(outcome.status).failed();
    AtaRepr { feature: outcome.error, command: outcome.status, count: if failed { ata.count } else { 0 }, ..*ata }
}

fn succeeded(ata: &AtaRepr) -> AtaRepr {
    ended(ata, Outcome { status: Status::DRDY.bits(), error: AtaError::empty().bits() })
}

fn failed(ata: &AtaRepr, failure: Failure) -> AtaRepr {
    ended(ata, Outcome { status: failure.status.bits(), error: failure.error.bits() })
}

#[cfg(test)]
mod tests;
