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
//!    changes it is answered only after `handle_persisted`. A driver that starts anew calls `hold_writes`.
//!
//! What the engine promises to stations: an answer tells what happened; overlapping operations run in order
//! of arrival; a request that comes again under its old tag runs once; a write that a newer one of the same station
//! has overtaken, which tags of aoe.ko tell, does not run; once an edit of the mask list or the
//! reservation is answered, no write of a station it shut out takes effect any more.

pub mod access;
mod answers;
pub mod ata;
pub mod changes;
pub mod config_string;
pub mod durability;
mod edited;
pub mod editors;
mod edits;
pub mod export;
pub mod ledger;
pub mod operation;
pub mod pool;
mod recent;
pub mod repeats;
mod requests;
mod saves;
pub mod stale;
pub mod stations;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aoe_common::addr::Address;
use aoe_common::ata::TrimRange;
use aoe_common::frame::{FrameBuffer, SECTOR};
use aoe_common::hash::FastMap;
pub use aoe_common::port::{PortId, PortInfo};
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{
    AtaRepr, Command, ConfigCommand, ErrorCode, Frame, MacAddr, MaskError, ReserveCommand, VERSION,
};

use self::ata::Failure;
use self::durability::Writer;
use self::edited::Edited;
use self::export::{Export, ExportConfig, Hold, Life, StoredState};
use self::ledger::RecordId;
use self::operation::{DiskCompletion, DiskError, DiskId, DiskOperation, OperationId};
use self::pool::Pool;
use self::repeats::{EXPORTS_MAX, MEMORY, Outcome, Repeats, RequestKey};
use self::requests::trim_range;
use self::saves::Save;
use self::stale::{LIFE, Stale};
use self::stations::Stations;

/// Firmware version in config answers: major and minor version of this program.
const FIRMWARE: u16 = 0x0001;

/// Events kept for a driver that does not fetch them; older ones are dropped.
const EVENTS_MAX: usize = 64;

/// A colleague with our address is reported once in this time.
const COLLISION_REPORT_EVERY: Duration = Duration::from_secs(60);
/// Colleagues kept apart for that.
const COLLISIONS_MAX: usize = 64;

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
    /// Data was lost below: the export refuses writes and flushes from now on.
    Poisoned {
        /// The export.
        address: Address,
        /// Why.
        errno: i32,
    },
    /// That could not be stored: a restart would forget it.
    PoisonNotStored {
        /// The export.
        address: Address,
    },
    /// An operation failed below.
    DiskFailed {
        /// The export.
        address: Address,
        /// Why.
        error: DiskError,
    },
    /// A config string, mask list, reservation or the operator's list changed.
    Edited {
        /// The export.
        address: Address,
        /// Who did that: a station, or the operator.
        station: Option<MacAddr>,
        /// What it is now.
        state: StoredState,
        /// Whom that shut out.
        shut_out: Vec<ShutOut>,
    },
    /// A station wanted to change what the operator leaves to others.
    EditRefused {
        /// The export.
        address: Address,
        /// The station.
        station: MacAddr,
        /// What it wanted to change.
        what: &'static str,
    },
    /// Such a change could not be stored and was taken back.
    NotStored {
        /// The export.
        address: Address,
    },
}

/// A station that an edit shut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutOut {
    /// The station.
    pub station: MacAddr,
    /// Its writes that were run, ever: there will be no more. `None` when its record was replaced.
    pub writes: Option<u64>,
}

/// Why there is no place for an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// Its address is served, or still has requests under way after its removal.
    #[error("{0} is in use; choose another shelf and slot, or remove that export first")]
    Taken(Address),
    /// All numbers are in use, or belong to exports that were removed just before.
    #[error(
        "there are {EXPORTS_MAX} exports, those removed in the last 200 s included; wait, or start another aoe-target"
    )]
    Full,
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

impl ReplyTo {
    fn writer(&self) -> Writer {
        Writer::new(self.station, self.tag)
    }
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

    /// Data that a READ or WRITE moves.
    fn bytes(self) -> u64 {
        match self {
            Self::Read { sectors, .. } | Self::Write { sectors, .. } => u64::from(sectors) * SECTOR as u64,
            Self::Zero { .. } | Self::Trim { .. } | Self::Flush { .. } => 0,
        }
    }

    /// Whether it is answered before it is durable.
    fn is_cached(self) -> bool {
        use Work::{Trim, Write, Zero};
        matches!(self, Write { durable: false, .. } | Zero { durable: false, .. } | Trim { durable: false, .. })
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
    /// For all but flushes.
    record: Option<RecordId>,
    arrived: Instant,
    /// Its station was shut out while it ran, and an edit waits for its end.
    draining: bool,
}

/// An edit that is applied but not answered yet.
#[derive(Debug)]
struct Edit {
    by: Editor,
    before: StoredState,
    allow_before: Vec<MacAddr>,
    storage: Storage,
    /// Writing requests of shut-out stations that still run.
    draining: u32,
}

/// How far an edit has come on its way to stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    /// For the end of a save that began before the edit.
    Waiting,
    Pending,
    Done,
    /// The edit was taken back.
    Failed,
}

/// Who edits, and has to be told how that went.
#[derive(Clone, Copy, Debug)]
enum Editor {
    Station { to: ReplyTo, kind: EditKind },
    Operator,
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
    by_address: FastMap<Address, u32>,
    ports: BTreeMap<PortId, PortInfo>,
    requests: Vec<Option<Request>>,
    free_requests: Vec<u32>,
    repeats: Repeats,
    stale: Stale,
    stations: Stations,
    edits: BTreeMap<u32, Edit>,
    edited: Edited,
    /// Changes by the operator that ended, and whether they are in force.
    changed: VecDeque<(DiskId, bool)>,
    saves: BTreeMap<u32, Save>,
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
            by_address: FastMap::default(),
            ports: BTreeMap::new(),
            requests: Vec::new(),
            free_requests: Vec::new(),
            repeats: Repeats::default(),
            stale: Stale::default(),
            stations: Stations::default(),
            edits: BTreeMap::new(),
            edited: Edited::default(),
            changed: VecDeque::new(),
            saves: BTreeMap::new(),
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

    /// Adds an export and announces it.
    ///
    /// What is remembered of writes and edits goes by the export's number. So an address that was removed gets its number
    /// back, and with it the memory: a copy of a write from before does not run. Another address gets that number only
    /// when nothing of the old one is remembered any more.
    pub fn add_export(&mut self, now: Instant, config: ExportConfig, stored: StoredState) -> Result<DiskId, NoPlace> {
        let address = config.address;
        let of_old = self.exports.iter().position(|export| export.config.address == address);
        let forgotten = |export: &Export| matches!(export.life, Life::Gone(since) if now.since(since) >= MEMORY);
        let mut export = Export::new(config, stored);
        let index = match of_old {
            Some(at) => {
                let old = &self.exports[at];
                if !matches!(old.life, Life::Gone(_)) {
                    return Err(NoPlace::Taken(address));
                }
                // Of attempts that were sent meanwhile under several tags nobody knows which is the newest.
                export.hold = Hold { anybody: old.hold.anybody, retagged: old.hold.retagged.max(now + LIFE) };
                at
            }
            None => match self.exports.iter().position(forgotten) {
                Some(at) => at,
                None if self.exports.len() < EXPORTS_MAX => self.exports.len(),
                None => return Err(NoPlace::Full),
            },
        };
        match self.exports.get_mut(index) {
            Some(place) => *place = export,
            None => self.exports.push(export),
        }
        let index = index as u32;
        self.by_address.insert(address, index);
        self.announce_everywhere(index);
        Ok(DiskId(index))
    }

    /// An export.
    pub fn export(&self, disk: DiskId) -> &Export {
        &self.exports[disk.0 as usize]
    }

    /// A process before served this export: runs no write until then, and no edit of who may write. It has answered some of
    /// which this value knows nothing, and copies of those may still be on their way.
    pub fn hold_writes(&mut self, disk: DiskId, hold: Hold) {
        let known = &mut self.exports[disk.0 as usize].hold;
        known.anybody = known.anybody.max(hold.anybody);
        known.retagged = known.retagged.max(hold.retagged);
    }

    /// The export that is served at this address.
    pub fn disk_of(&self, address: Address) -> Option<DiskId> {
        self.by_address.get(&address).copied().map(DiskId)
    }

    /// All exports, those that are being removed included.
    pub fn exports(&self) -> impl Iterator<Item = &Export> {
        self.exports.iter().filter(|export| !matches!(export.life, Life::Gone(_)))
    }

    /// Their numbers, in the same order.
    pub fn disks(&self) -> impl Iterator<Item = DiskId> + '_ {
        let present = |(_, export): &(usize, &Export)| !matches!(export.life, Life::Gone(_));
        self.exports.iter().enumerate().filter(present).map(|(index, _)| DiskId(index as u32))
    }

    /// The disk below has another size now; the change is announced. Requests beyond the end fail; those that wait
    /// already are dropped, so that their stations ask again and are told.
    pub fn resize(&mut self, disk: DiskId, sectors: u64) {
        assert!(sectors > 0, "an export has sectors");
        let export = &mut self.exports[disk.0 as usize];
        if export.config.sectors == sectors {
            return;
        }
        export.config.sectors = sectors;
        let beyond: Vec<_> = export.ordering.waiting_beyond(sectors).collect();
        self.give_up(disk.0, &beyond);
        self.announce_everywhere(disk.0);
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
        let served = self.exports.iter().enumerate().filter(|(_, export)| export.is_heard());
        self.announcements.extend(served.map(|(index, _)| (port, index as u32)));
    }

    fn announce_everywhere(&mut self, index: u32) {
        if self.exports[index as usize].is_heard() {
            self.announcements.extend(self.ports.keys().map(|port| (*port, index)));
        }
    }

    /// Figures of the whole engine.
    pub fn counters(&self) -> EngineCounters {
        self.counters
    }

    /// Writes forgotten before their time: of these a late copy would not have been recognised.
    pub fn forgotten_early(&self) -> u64 {
        self.repeats.forgotten_early() + self.stale.forgotten_early()
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
            let export = &self.exports[index as usize];
            if export.life == Life::Serving && asked.reaches(export.config.address) {
                self.handle_request(now, port, info, index, &frame);
            }
        }
    }

    /// A disk operation ended.
    pub fn handle_completion(&mut self, now: Instant, completion: DiskCompletion) {
        let DiskCompletion { id, buffer, result } = completion;
        let request = self.requests[id.0 as usize].as_mut().expect("completions belong to requests");
        assert!(request.buffer.is_none(), "only running requests complete");
        let mut cut_off = None;
        if let (Work::Trim { range_sectors, next, .. }, Ok(())) = (&mut request.work, result) {
            *next += 1;
            if let Some(TrimRange { lba, sectors }) = trim_range(&buffer, *range_sectors, *next) {
                let end = self.exports[request.export as usize].config.sectors;
                cut_off = match (request.draining, lba + u64::from(sectors) <= end) {
                    (true, _) => Some(Failure::ABORTED),
                    (false, false) => Some(Failure::NO_SUCH_SECTOR),
                    (false, true) => {
                        request.buffer = Some(buffer);
                        self.start(id);
                        return;
                    }
                };
            }
        }
        if matches!(request.work, Work::Flush { .. }) {
            request.buffer = Some(buffer);
            let index = request.export;
            self.flush_ended(now, index, result);
            return;
        }
        let mut request = self.take_request(id);
        request.buffer = Some(buffer);
        let record = request.record.expect("all but flushes are on record");
        let export = &mut self.exports[request.export as usize];
        export.ledger.ended(record, request.work.writes());
        let latency = if request.work.writes() { &mut export.write_latency } else { &mut export.read_latency };
        latency.record(microseconds(request.arrived, now));
        self.settle(request.export, id);
        let outcome = match cut_off {
            // Its station was shut out, or the disk shrank, between two ranges: the rest never ran, and the answer must
            // not hide it.
            Some(failure) => {
                self.exports[request.export as usize].counters.failures += 1;
                Outcome { status: failure.status.bits(), error: failure.error.bits() }
            }
            None => self.judge_result(&request, result),
        };
        if let Some(key) = request.key {
            self.repeats.end(now, key, outcome);
        }
        self.start_flush(request.export);
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

    /// The disk below lost data that it had taken, and the driver heard of it otherwise than by an operation.
    pub fn handle_loss(&mut self, disk: DiskId, errno: i32) {
        self.lose(disk.0, errno);
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
        if export.draining {
            return;
        }
        if !export.access.hears(station) {
            export.counters.refused += 1;
            export.ledger.ignored(station);
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
            Command::Config => self.config_request(now, index, &to, frame),
            Command::Mask => self.mask_request(now, index, &to, frame),
            Command::Reserve => self.reserve_request(now, index, &to, frame),
            Command::Vendor(_) | Command::Unknown(_) => {
                self.answer_echo(&to, ErrorCode::UnknownCommand, frame.body);
            }
        }
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

/// From one moment to a later one.
fn microseconds(from: Instant, to: Instant) -> u64 {
    to.as_nanos().saturating_sub(from.as_nanos()) / 1000
}

#[cfg(test)]
mod tests;
