//! The target engine between hostile stations and a moody disk.
//!
//! The input decides what happens next: ports, frames of every command with odd fields, raw bytes, disk operations
//! that end in any order, settings that are stored or not, frames that linger in a full interface, time. What is
//! asserted after each step, and once everything is done, is listed in README.md.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aoe_common::addr::Address;
use aoe_common::ata::{CacheMemory, Status, command, feature};
use aoe_common::frame::{FrameBuffer, HEADROOM, MIN_FRAME, SECTOR};
use aoe_common::port::{PortId, PortInfo};
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{
    AtaFlags, AtaRepr, BROADCAST, Command, ConfigCommand, ConfigRepr, DirectiveCommand, DirectiveRepr, ErrorCode,
    EthernetRepr, Frame, HeaderRepr, MacAddr, MaskCommand, MaskRepr, ReserveCommand, ReserveRepr, VERSION,
};
use aoe_target::engine::changes::{Adjustment, OperatorEdit};
use aoe_target::engine::durability::CacheMode;
use aoe_target::engine::editors::EditPolicy;
use aoe_target::engine::export::{EXPORT_REQUESTS_MAX, ExportConfig, StoredState};
use aoe_target::engine::operation::{DiskCompletion, DiskError, DiskId, DiskOperation, DiskOperationKind};
use aoe_target::engine::repeats::MEMORY;
use aoe_target::engine::{EngineConfig, Target, Transmit};

use super::Bytes;

/// What a buffer is full of when it goes back to the engine: none of it may be sent again.
const POISON: u8 = 0xa5;
/// What a disk returns.
const CONTENT: u8 = 0x11;
const EXPORTS_MAX: usize = 4;
/// Commands that write the data they carry.
const WRITES: [u8; 5] = [
    command::WRITE_SECTORS,
    command::WRITE_SECTORS_EXT,
    command::WRITE_DMA,
    command::WRITE_DMA_EXT,
    command::WRITE_DMA_FUA_EXT,
];

/// A request as its sender knows it: port, station, export, command, tag.
type Name = (PortId, [u8; 6], Address, u8, u32);

struct Bench {
    target: Target,
    settings: EngineConfig,
    now: Instant,
    ports: BTreeMap<PortId, PortInfo>,
    /// The longest each port ever had.
    longest_mtu: BTreeMap<PortId, u32>,
    /// Operations the disks work on.
    held: Vec<DiskOperation>,
    /// Frames that an interface has not sent yet.
    sending: VecDeque<FrameBuffer>,
    /// Settings that are being stored.
    storing: VecDeque<DiskId>,
    /// How often a request came and was not answered.
    open: BTreeMap<Name, usize>,
    /// Writes that the engine has run for a station that it does not serve.
    shut_out: BTreeMap<(Address, [u8; 6]), u64>,
    /// Frames that came before.
    heard: VecDeque<Vec<u8>>,
    /// Changes by the operator that were begun and have not ended.
    changing: BTreeSet<DiskId>,
    /// Exports that take no new requests, and how many they had.
    closed: BTreeMap<DiskId, usize>,
    /// Numbers of exports that are gone, and since when.
    gone: BTreeMap<DiskId, (Address, Instant)>,
}

/// Plays one story, then lets everything end.
pub fn run(data: &[u8]) {
    // What is poison when it comes from the engine must not come from elsewhere.
    let data: Vec<u8> = data.iter().map(|byte| if *byte == POISON { POISON - 1 } else { *byte }).collect();
    let mut bytes = Bytes::new(&data);
    let mut bench = Bench::new(&mut bytes);
    while !bytes.is_empty() {
        bench.step(&mut bytes);
        bench.pull();
    }
    bench.finish();
}

fn station(number: usize) -> MacAddr {
    MacAddr(2, 0, 0, 0, 1, number as u8)
}

fn any_station(bytes: &mut Bytes<'_>) -> MacAddr {
    match bytes.below(16) {
        number @ 0..12 => station(number % 5),
        12 => BROADCAST,
        13 => MacAddr::zero(),
        _ => MacAddr(2, 0, 0, 0, 2, bytes.u8()),
    }
}

fn any_stations(bytes: &mut Bytes<'_>) -> Vec<MacAddr> {
    let count = if bytes.rarely(32) { bytes.below(256) } else { bytes.below(4) };
    (0..count).map(|_| any_station(bytes)).collect()
}

fn any_size(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.below(8) {
        0 => 1,
        1 => 1 << 48,
        2 => 1 + (bytes.u64() >> 17),
        3 => 16,
        _ => 64,
    }
}

fn any_export(bytes: &mut Bytes<'_>, index: usize) -> ExportConfig {
    ExportConfig {
        address: Address::new(1, index as u8),
        sectors: any_size(bytes),
        read_only: bytes.rarely(16),
        buffers: bytes.pick(&[16, 2, 1024]),
        allow: if bytes.rarely(8) { any_stations(bytes) } else { Vec::new() },
        edits: EditPolicy::default(),
        cache: bytes.pick(&[CacheMode::Auto, CacheMode::Writeback, CacheMode::Writethrough]),
        serial: "serial".to_owned(),
        model: "model".to_owned(),
        physical_sector_exponent: bytes.pick(&[3, 0, 7, 15]),
        cache_memory: CacheMemory { host: 1, life: 1 },
        rotational: bytes.pick(&[None, Some(false), Some(true)]),
    }
}

impl Bench {
    fn new(bytes: &mut Bytes<'_>) -> Self {
        let settings = EngineConfig {
            buffers: bytes.pick(&[64, 16, 3, 1]),
            persist: !bytes.rarely(4),
            wildcard_edits: bytes.rarely(4),
        };
        let mut bench = Self {
            target: Target::new(settings),
            settings,
            now: Instant::ZERO + Duration::from_secs(1000),
            ports: BTreeMap::new(),
            longest_mtu: BTreeMap::new(),
            held: Vec::new(),
            sending: VecDeque::new(),
            storing: VecDeque::new(),
            open: BTreeMap::new(),
            shut_out: BTreeMap::new(),
            heard: VecDeque::new(),
            changing: BTreeSet::new(),
            closed: BTreeMap::new(),
            gone: BTreeMap::new(),
        };
        bench.target.add_export(bench.now, any_export(bytes, 0), StoredState::default()).expect("a free address");
        bench.set_port(PortId(0), Some(PortInfo { mac: MacAddr(2, 0, 0, 0, 0, 1), mtu: 1500 }));
        bench.pull();
        bench
    }

    fn set_port(&mut self, port: PortId, info: Option<PortInfo>) {
        self.target.set_port(port, info);
        let longest = self.longest_mtu.entry(port).or_default();
        *longest = info.map_or(*longest, |info| info.mtu.max(*longest));
        match info {
            Some(info) => self.ports.insert(port, info),
            None => self.ports.remove(&port),
        };
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.below(32) {
            0..15 => {
                let frame = self.any_frame(bytes);
                self.receive(bytes, frame);
            }
            15 => self.operate(bytes),
            16 => {
                let frame = bytes.chunk().to_vec();
                self.receive(bytes, frame);
            }
            17 if !self.heard.is_empty() => {
                let frame = self.heard[bytes.below(self.heard.len())].clone();
                self.receive(bytes, frame);
            }
            18..24 if !self.held.is_empty() => {
                let at = bytes.below(self.held.len().min(256));
                let errors: &[_] = match self.held[at].kind {
                    DiskOperationKind::Read { .. } => &[DiskError::Short, DiskError::Io(5)],
                    DiskOperationKind::Flush => &[DiskError::Lost(5)],
                    DiskOperationKind::Write { .. } | DiskOperationKind::Zero { .. } => &[
                        DiskError::Short,
                        DiskError::NoSpace,
                        DiskError::ReadOnly,
                        DiskError::Io(5),
                        DiskError::Lost(5),
                    ],
                };
                let result = if bytes.rarely(6) { Err(bytes.pick(errors)) } else { Ok(()) };
                self.end(at, result);
            }
            24 | 25 if !self.storing.is_empty() => self.stored(!bytes.rarely(4)),
            26 | 27 => {
                let count = bytes.below(8);
                self.sent(count + 1);
            }
            28 => self.now = self.now + Duration::from_millis(bytes.pick(&[1, 1_000, 61_000, 201_000])),
            29 => {
                let port = PortId(bytes.below(3) as u32);
                let mac = MacAddr(2, 0, 0, 0, 0, bytes.pick(&[1, 1, 2, 3]));
                let mtu = bytes.pick(&[1500, 9000, 1500, 576, 60, 0, 65535, u32::MAX]);
                self.set_port(port, if bytes.rarely(4) { None } else { Some(PortInfo { mac, mtu }) });
            }
            30 => {
                let count = self.target.exports().count();
                if count < EXPORTS_MAX {
                    let index = bytes.below(EXPORTS_MAX);
                    let config = any_export(bytes, index);
                    let stored = StoredState { mask: any_stations(bytes), ..StoredState::default() };
                    let taken = self.target.exports().any(|export| export.config.address == config.address);
                    let mask = if stored.mask.len() > 180 { Vec::new() } else { stored.mask };
                    let stored = StoredState { mask, ..StoredState::default() };
                    let address = config.address;
                    let added = self.target.add_export(self.now, config, stored);
                    assert_eq!(added.is_ok(), !taken);
                    if let Ok(disk) = added {
                        let before = self.gone.remove(&disk);
                        let forgot = |(of, since)| of == address || self.now.since(since) >= MEMORY;
                        assert!(before.is_none_or(forgot), "what is remembered goes by the number");
                        assert!(self.gone.values().all(|(of, _)| *of != address), "its own number is free");
                    }
                }
            }
            31 => {
                if let Some(disk) = self.any_disk(bytes) {
                    self.target.resize(disk, any_size(bytes));
                }
            }
            _ => {}
        }
    }

    fn any_disk(&self, bytes: &mut Bytes<'_>) -> Option<DiskId> {
        let disks: Vec<_> = self.target.disks().collect();
        (!disks.is_empty()).then(|| bytes.pick(&disks))
    }

    /// The operator removes an export, or changes it while it serves.
    fn operate(&mut self, bytes: &mut Bytes<'_>) {
        let Some(disk) = self.any_disk(bytes) else { return };
        let address = self.target.export(disk).config.address;
        if self.target.disk_of(address) != Some(disk) {
            // It is leaving; all the operator can do is wait.
            if self.target.is_quiet(disk) {
                self.finish_removal(disk);
            }
            return;
        }
        let begun = match bytes.below(8) {
            0 => return self.target.remove_export(disk),
            1 => return self.target.drain(self.now, disk, true),
            2 => return self.target.drain(self.now, disk, false),
            3..6 => {
                let to = Adjustment {
                    cache: bytes.pick(&[CacheMode::Auto, CacheMode::Writeback, CacheMode::Writethrough]),
                    read_only: bytes.bool(),
                    buffers: bytes.pick(&[16, 2, 1024]),
                    allow: if bytes.rarely(2) { any_stations(bytes) } else { Vec::new() },
                    edits: EditPolicy::default(),
                };
                self.target.adjust(disk, to)
            }
            _ => {
                let edit = match bytes.below(5) {
                    0 => OperatorEdit::ConfigString(bytes.chunk().to_vec()),
                    1 => OperatorEdit::MaskSet(any_stations(bytes)),
                    2 => OperatorEdit::MaskAdd(any_stations(bytes)),
                    3 => OperatorEdit::MaskDelete(any_stations(bytes)),
                    _ => OperatorEdit::Reservation(any_stations(bytes)),
                };
                self.target.edit_by_operator(disk, edit)
            }
        };
        if begun.is_ok() {
            assert!(self.changing.insert(disk), "one change of an export at a time");
        }
    }

    fn finish_removal(&mut self, disk: DiskId) {
        let address = self.target.export(disk).config.address;
        self.target.finish_removal(self.now, disk);
        self.gone.insert(disk, (address, self.now));
    }

    /// The operator is told how a change ended. One that is in force lets nobody write whom it shuts out.
    fn check_changes(&mut self) {
        while let Some((disk, in_force)) = self.target.poll_changed() {
            assert!(self.changing.remove(&disk), "a change ends once");
            let export = self.target.export(disk);
            let held = || self.held.iter().filter(|held| in_force && held.disk == disk && extent(&held.kind).2);
            assert!(!export.config.read_only || held().next().is_none(), "a read-only disk is written");
            for station in held().filter_map(writer) {
                assert!(export.access.serves(station), "the operator is told before a write ends that is shut out");
            }
        }
    }

    /// What was drained or removed takes nothing new.
    fn check_closed(&mut self) {
        let closed = self.target.disks().filter(|disk| !self.target.export(*disk).is_heard());
        let closed: BTreeMap<_, _> = closed.map(|disk| (disk, self.target.under_way(disk))).collect();
        for (disk, under_way) in &closed {
            let before = self.closed.get(disk).unwrap_or(under_way);
            assert!(under_way <= before, "an export that takes no requests took one");
        }
        self.closed = closed;
    }

    /// A request that is well-formed, or nearly.
    fn any_frame(&self, bytes: &mut Bytes<'_>) -> Vec<u8> {
        let destination = match bytes.below(8) {
            0 => BROADCAST,
            1 => any_station(bytes),
            _ => MacAddr(2, 0, 0, 0, 0, 1 + bytes.u8() % 3),
        };
        let source = any_station(bytes);
        let vlan = if bytes.rarely(16) { Some(bytes.u16()) } else { None };
        let address = match bytes.below(16) {
            0 => Address::ANY,
            1 => Address::new(1, Address::ANY_SLOT),
            2 => Address::new(Address::ANY_SHELF, 0),
            number => Address::new(1, (number % EXPORTS_MAX) as u8),
        };
        let code = bytes.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 0xf0, 9]);
        let mut header = HeaderRepr {
            version: if bytes.rarely(32) { bytes.u8() & 0x0f } else { VERSION },
            response: bytes.rarely(32),
            error: if bytes.rarely(64) { Some(ErrorCode::from(bytes.u8())) } else { None },
            address,
            command: code.into(),
            tag: u32::from(bytes.u8() & 0x0f),
        };
        let body = match header.command {
            Command::Ata => self.any_ata(bytes, address),
            Command::Config => any_config(bytes),
            Command::Mask => any_mask(bytes),
            Command::Reserve => any_reserve(bytes),
            _ => bytes.chunk().to_vec(),
        };
        // Nothing but a write has the tag of a write, and no two have the same that differ in command or length.
        if let (Command::Ata, Ok((ata, _))) = (header.command, AtaRepr::parse(&body))
            && WRITES.contains(&ata.command)
        {
            header.tag |= 0x10 | u32::from(ata.count) << 8 | u32::from(ata.command) << 16;
        }
        let ethernet = EthernetRepr { destination, source, vlan };
        let mut frame = vec![0; ethernet.wire_len() + HeaderRepr::WIRE_LEN + body.len()];
        Frame::emit_headers(&ethernet, &header, &mut frame).copy_from_slice(&body);
        if bytes.rarely(32) {
            frame.truncate(usize::from(bytes.u8()));
        }
        frame
    }

    fn any_ata(&self, bytes: &mut Bytes<'_>, address: Address) -> Vec<u8> {
        let code = match bytes.below(16) {
            0..4 => command::WRITE_SECTORS_EXT,
            4..6 => command::READ_SECTORS_EXT,
            6 => command::DATA_SET_MANAGEMENT,
            7 => command::ZERO_EXT,
            8 => command::FLUSH_CACHE_EXT,
            9 => command::WRITE_DMA_FUA_EXT,
            10 => bytes.pick(&[command::IDENTIFY_DEVICE, command::READ_LOG_EXT, command::CHECK_POWER_MODE]),
            11 => command::WRITE_LOG_EXT,
            12 => command::SET_FEATURES,
            13 => bytes.pick(&[command::READ_VERIFY_EXT, command::READ_SECTORS, command::WRITE_SECTORS]),
            _ => bytes.u8(),
        };
        let size = self.target.exports().find(|export| export.config.address == address);
        let size = size.map_or(64, |export| export.config.sectors);
        let lba = match bytes.below(8) {
            0 => size.saturating_sub(u64::from(bytes.u8() & 7)),
            1 => bytes.u64() >> 16,
            _ => u64::from(bytes.u8() & 0x0f),
        };
        let count = match bytes.below(8) {
            0 => bytes.u8(),
            1 => 2,
            2 => 17,
            _ => 1,
        };
        let writes = matches!(code, command::WRITE_SECTORS_EXT | command::WRITE_SECTORS | command::WRITE_DMA_FUA_EXT);
        let carries = writes || matches!(code, command::DATA_SET_MANAGEMENT | command::WRITE_LOG_EXT);
        let mut flags = AtaFlags::EXTENDED;
        flags.set(AtaFlags::WRITE, carries);
        if bytes.rarely(32) {
            flags = AtaFlags::from_bits_retain(bytes.u8());
        }
        let features = [feature::TRIM, feature::ENABLE_WRITE_CACHE, feature::DISABLE_WRITE_CACHE, 0];
        let repr = match code {
            command::DATA_SET_MANAGEMENT => {
                AtaRepr { flags, feature: feature::TRIM, count: 1 + bytes.u8() % 2, command: code, registers: 0 }
            }
            command::READ_LOG_EXT | command::WRITE_LOG_EXT => {
                let registers = u64::from(bytes.pick(&[0x90u16, 0x30, 0x0330, 0, 0x0190]));
                AtaRepr { flags, feature: 0, count: 1, command: code, registers }
            }
            _ => AtaRepr {
                flags,
                feature: bytes.pick(&features),
                count,
                command: code,
                registers: lba & !(0xffff << 48),
            },
        };
        let mut sectors = usize::from(repr.count);
        if bytes.rarely(32) {
            sectors = sectors.saturating_sub(1);
        }
        let len = if carries { sectors * SECTOR } else { 0 };
        let mut body = vec![0x22; AtaRepr::WIRE_LEN + len];
        repr.emit(&mut body);
        if code == command::DATA_SET_MANAGEMENT {
            let data = &mut body[AtaRepr::WIRE_LEN..];
            data.fill(0);
            for entry in data.as_chunks_mut::<8>().0.iter_mut().take(bytes.below(8)) {
                let (lba, sectors) = (u64::from(bytes.u8() & 0x3f), u64::from(bytes.u8() & 0x1f));
                *entry = (lba | sectors << 48).to_le_bytes();
            }
        }
        body
    }

    /// A frame arrives. The data of a write begin with the station it comes from, and its tag.
    fn receive(&mut self, bytes: &mut Bytes<'_>, mut frame: Vec<u8>) {
        let port = PortId(if bytes.rarely(4) { bytes.below(4) as u32 } else { 0 });
        if let Ok(parsed) = Frame::parse(&frame) {
            let (source, tag) = (parsed.ethernet.source, parsed.header.tag);
            let signed = parsed.header.command == Command::Ata
                && AtaRepr::parse(parsed.body)
                    .is_ok_and(|(ata, data)| WRITES.contains(&ata.command) && data.len() >= SECTOR);
            self.note_request(port, &parsed);
            if signed {
                let at = frame.len() - Frame::parse(&frame).expect("it was just parsed").body.len() + AtaRepr::WIRE_LEN;
                for sector in frame[at..].as_chunks_mut::<SECTOR>().0 {
                    sector[..6].copy_from_slice(&source.octets());
                    sector[6..10].copy_from_slice(&tag.to_be_bytes());
                }
            }
        }
        self.target.handle_frame(self.now, port, &frame);
        self.heard.push_back(frame);
        if self.heard.len() > 16 {
            self.heard.pop_front();
        }
    }

    /// Notes whose answer may be expected: of every export in reach, unless it ignores the station.
    fn note_request(&mut self, port: PortId, frame: &Frame<'_>) {
        if frame.header.response {
            return;
        }
        let station = frame.ethernet.source;
        for export in self.target.exports().filter(|export| frame.header.address.reaches(export.config.address)) {
            if export.access.hears(station) {
                let command = u8::from(frame.header.command);
                let name = (port, station.octets(), export.config.address, command, frame.header.tag);
                *self.open.entry(name).or_default() += 1;
            }
        }
    }

    /// One of the operations in `held` ends.
    fn end(&mut self, at: usize, result: Result<(), DiskError>) {
        let DiskOperation { id, kind, mut buffer, .. } = self.held.swap_remove(at);
        if let (DiskOperationKind::Read { len, .. }, Ok(())) = (kind, result) {
            buffer.payload_mut(len as usize).fill(CONTENT);
        }
        self.target.handle_completion(self.now, DiskCompletion { id, buffer, result });
    }

    fn stored(&mut self, stored: bool) {
        if let Some(disk) = self.storing.pop_front() {
            self.target.handle_persisted(disk, stored);
        }
    }

    /// An interface is done with frames.
    fn sent(&mut self, count: usize) {
        for mut buffer in self.sending.drain(..count.min(self.sending.len())) {
            buffer.set_len(HEADROOM + buffer.payload_capacity());
            buffer.frame_mut().fill(POISON);
            self.target.recycle(buffer);
        }
    }

    /// Does what a driver does after any input, and looks at everything that comes out.
    fn pull(&mut self) {
        while let Some(operation) = self.target.poll_disk() {
            self.check_operation(&operation);
            self.held.push(operation);
        }
        while let Some(store) = self.target.poll_persist() {
            assert!(self.settings.persist && !self.storing.contains(&store.disk), "one edit of an export at a time");
            assert_eq!(store.state, self.target.export(store.disk).stored(), "what is in force is stored");
            self.storing.push_back(store.disk);
        }
        while let Some(Transmit { port, buffer }) = self.target.poll_transmit() {
            self.check_frame(port, buffer.frame());
            self.sending.push_back(buffer);
        }
        let mut events = 0;
        while self.target.poll_event().is_some() {
            events += 1;
        }
        assert!(events <= 64, "events are bounded");
        let out = self.held.len() + self.sending.len();
        assert!(out <= self.settings.buffers, "{out} buffers are out");
        assert!(out < self.settings.buffers || !self.target.has_room());
        assert!(self.target.in_flight() <= self.settings.buffers, "every request holds a buffer");
        self.check_changes();
        self.check_closed();
        self.check_ledgers();
    }

    fn check_operation(&self, operation: &DiskOperation) {
        let export = self.target.export(operation.disk);
        let (start, end, writes) = extent(&operation.kind);
        let size = export.config.sectors * SECTOR as u64;
        assert!(end <= size, "{operation:?} is beyond the end of the export, {size}");
        for other in &self.held {
            assert!(other.id != operation.id, "an operation is named twice at a time");
            let (other_start, other_end, other_writes) = extent(&other.kind);
            let overlap = other.disk == operation.disk && start < other_end && other_start < end;
            assert!(!overlap || !(writes || other_writes), "{operation:?} runs together with {other:?}");
        }
        if writes {
            // What ran when it became read-only is let end, also in several parts.
            let is_changing = self.changing.contains(&operation.disk);
            assert!(!export.config.read_only || is_changing, "a read-only disk is written");
        }
        if let Some(station) = writer(operation) {
            assert!(export.access.serves(station), "a write of {station} starts, which is shut out");
        }
    }

    fn check_frame(&mut self, port: PortId, bytes: &[u8]) {
        assert!(bytes.len() >= MIN_FRAME, "a short frame");
        let info = self.ports.get(&port).expect("frames go to ports that are there");
        // The longest list fits an MTU of 1500. Answers that a smaller MTU overtook are dropped by the port.
        let longest = 14 + u64::from(self.longest_mtu[&port].max(1500));
        assert!(bytes.len() as u64 <= longest, "a frame of {} bytes", bytes.len());
        let frame = Frame::parse(bytes).expect("what is sent can be parsed");
        let header = frame.header;
        let station = frame.ethernet.destination;
        assert!(header.response && header.version == VERSION && frame.ethernet.source == info.mac);
        let leak = bytes.windows(4).any(|window| window == [POISON; 4]);
        assert!(!leak, "bytes of an earlier frame in {bytes:x?}");
        let export = self.target.exports().find(|export| export.config.address == header.address);
        let export = export.expect("answers come from exports");
        let name = (port, station.octets(), header.address, u8::from(header.command), header.tag);
        let open = self.open.get_mut(&name).filter(|open| **open > 0);
        let advert = header.command == Command::Config && header.tag == 0;
        if let Some(open) = open {
            *open -= 1;
        } else {
            assert!(advert, "an answer that nobody asked for, or one too many: {frame:x?}");
            assert!(station == BROADCAST || export.access.hears(station), "an advert for whom it should not reach");
            return;
        }
        // Whoever takes itself off a list is told that this was done.
        assert!(
            edits_access(&frame) || export.access.hears(station),
            "an answer to a station that is masked out: {frame:x?}"
        );
        if let (Command::Ata, None, Ok((ata, _))) = (header.command, header.error, AtaRepr::parse(frame.body))
            && header.tag & 0x10 != 0
            && !Status::from_bits_retain(ata.command).failed()
        {
            let mut mine =
                self.held.iter().filter(|held| self.target.export(held.disk).config.address == header.address);
            let place = ata.lba() * SECTOR as u64;
            let early = mine.any(|held| {
                let is_it = writer(held) == Some(station) && held.buffer.payload(10)[6..] == header.tag.to_be_bytes();
                is_it && extent(&held.kind).0 == place
            });
            assert!(!early, "a write is acknowledged that the disk has not done: {frame:x?}");
        }
        if edits_access(&frame) && header.error.is_none() {
            let mine = self.held.iter().filter(|held| self.target.export(held.disk).config.address == header.address);
            for station in mine.filter_map(writer) {
                assert!(export.access.serves(station), "the edit is answered before a write that it shuts out");
            }
        }
    }

    /// Whom an export does not serve runs no write, by its own account either.
    fn check_ledgers(&mut self) {
        let mut shut_out = BTreeMap::new();
        for export in self.target.exports() {
            assert!(export.ordering.len() <= EXPORT_REQUESTS_MAX);
            for record in export.ledger.records().filter(|record| !export.access.serves(record.station)) {
                shut_out.insert((export.config.address, record.station.octets()), record.writes);
            }
        }
        for (name, writes) in &shut_out {
            let before = self.shut_out.get(name).unwrap_or(writes);
            assert_eq!(writes, before, "a station that is shut out wrote");
        }
        self.shut_out = shut_out;
    }

    /// Everything under way ends, and nothing may be left.
    fn finish(mut self) {
        let ids: BTreeSet<_> = self.held.iter().map(|held| held.id).collect();
        assert_eq!(ids.len(), self.held.len());
        // Each round ends at least one part of a request; TRIM has the most, 128.
        for _ in 0..self.settings.buffers * 130 + 8 {
            while !self.storing.is_empty() {
                self.stored(true);
                self.pull();
            }
            self.sent(usize::MAX);
            self.pull();
            if self.held.is_empty() {
                break;
            }
            self.end(0, Ok(()));
            self.pull();
        }
        self.sent(usize::MAX);
        while let Some(Transmit { port, buffer }) = self.target.poll_transmit() {
            self.check_frame(port, buffer.frame());
            self.sending.push_back(buffer);
            self.sent(1);
        }
        assert!(self.held.is_empty() && self.storing.is_empty(), "the disks never come to rest");
        assert!(self.changing.is_empty(), "a change never ends");
        let served = |disk: &DiskId| self.target.disk_of(self.target.export(*disk).config.address) == Some(*disk);
        let leaving: Vec<_> = self.target.disks().filter(|disk| !served(disk)).collect();
        for disk in leaving {
            assert!(self.target.is_quiet(disk), "an export is never gone");
            self.finish_removal(disk);
        }
        assert_eq!(self.target.in_flight(), 0, "requests were forgotten");
        assert!(self.target.has_room(), "buffers were lost");
        assert!(self.target.exports().all(|export| export.ordering.is_empty()), "sectors stay taken");
    }
}

fn any_config(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let command = ConfigCommand::from(bytes.pick(&[0, 0, 1, 2, 3, 4, 4, 5]));
    let len = if bytes.rarely(16) { bytes.pick(&[1024, 600, 1000]) } else { bytes.below(8) };
    let string = vec![bytes.pick(b"ab"); len];
    let repr = ConfigRepr::request(command, &string);
    let mut body = vec![0; repr.wire_len()];
    repr.emit(&mut body);
    body
}

fn any_mask(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let command = MaskCommand::from(bytes.pick(&[0, 1, 1, 1, 1, 1, 1, 2]));
    let macs = any_stations(bytes);
    let directives = macs.into_iter().map(|mac| {
        let command = DirectiveCommand::from(bytes.pick(&[1, 1, 1, 2, 2, 2, 0, 9]));
        DirectiveRepr { command, mac }
    });
    let directives: Vec<_> = directives.collect();
    let mut body = vec![0; MaskRepr::FIXED_LEN + directives.len() * MaskRepr::DIRECTIVE_LEN];
    MaskRepr { command, error: None, directive_count: directives.len() as u8 }.emit(directives, &mut body);
    body
}

fn any_reserve(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let command = ReserveCommand::from(bytes.pick(&[0, 1, 1, 1, 2, 2, 2, 3]));
    let macs = any_stations(bytes);
    let mut body = vec![0; ReserveRepr::FIXED_LEN + macs.len() * ReserveRepr::MAC_LEN];
    ReserveRepr { command, mac_count: macs.len() as u8 }.emit(macs, &mut body);
    body
}

/// First byte, one past the last, and whether they change.
fn extent(kind: &DiskOperationKind) -> (u64, u64, bool) {
    match *kind {
        DiskOperationKind::Read { offset, len } => (offset, offset + u64::from(len), false),
        DiskOperationKind::Write { offset, len, .. } => (offset, offset + u64::from(len), true),
        DiskOperationKind::Zero { offset, len, .. } => (offset, offset + len, true),
        DiskOperationKind::Flush => (0, 0, false),
    }
}

/// Who sent the data of a write.
fn writer(operation: &DiskOperation) -> Option<MacAddr> {
    let DiskOperationKind::Write { .. } = operation.kind else { return None };
    Some((*operation.buffer.payload(6).first_chunk::<6>().expect("6 bytes")).into())
}

/// Whether a frame answers a change of a mask list or a reservation.
fn edits_access(frame: &Frame<'_>) -> bool {
    match frame.header.command {
        Command::Mask => MaskRepr::parse(frame.body).is_ok_and(|(mask, _)| mask.command == MaskCommand::Edit),
        Command::Reserve => {
            ReserveRepr::parse(frame.body).is_ok_and(|(reserve, _)| reserve.command != ReserveCommand::Read)
        }
        _ => false,
    }
}
