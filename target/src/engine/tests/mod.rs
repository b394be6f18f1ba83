//! Tests of the engine as its driver and the stations see it.
//!
//! `Bench` is the driver: a RAM disk that ends operations in the order a test chooses, and a wire that keeps what
//! was sent. It fills every buffer with `POISON` before the engine gets it back, so that a byte nobody wrote shows,
//! and checks what must hold in every test: the form of each answer, operations that never conflict, and at the end
//! an empty table and a full pool.

mod access;
mod adverts;
mod ata;
mod bounds;
mod changes;
mod config;
mod durability;
mod editors;
mod frames;
mod late;
mod order;

use aoe_common::ata::{CacheMemory, Identify, LOG_STATION_IDENTITY, command, feature};
use aoe_common::frame::{HEADROOM, MIN_FRAME, SECTOR};
use aoe_common::wire::{
    AtaFlags, BROADCAST, ConfigRepr, DirectiveCommand, DirectiveRepr, EthernetRepr, HeaderRepr, MaskCommand, MaskRepr,
    ReserveRepr,
};

use super::durability::CacheMode;
use super::editors::{EditPolicy, Editors};
use super::export::EXPORT_REQUESTS_MAX;
use super::operation::DiskOperationKind;
use super::*;

/// No test sends this byte, so where it leaves the engine, something old leaks.
const POISON: u8 = 0xa5;

const PORT: PortId = PortId(0);
const TARGET: MacAddr = MacAddr(2, 0, 0, 0, 1, 1);
const A: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xa);
const B: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xb);
const C: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xc);

const SECTORS: u64 = 2048;
const DISK: DiskId = DiskId(0);
const SETTINGS: EngineConfig = EngineConfig { buffers: 64, persist: false, wildcard_edits: false };
const PERSISTENT: EngineConfig = EngineConfig { persist: true, ..SETTINGS };

/// e1.2 in write-back mode, and what else a test makes of it.
fn export(slot: u8) -> ExportConfig {
    ExportConfig {
        address: Address::new(1, slot),
        sectors: SECTORS,
        read_only: false,
        buffers: 16,
        allow: vec![],
        edits: EditPolicy::default(),
        cache: CacheMode::Writeback,
        serial: "SERIAL".into(),
        model: "MODEL".into(),
        physical_sector_exponent: 3,
        cache_memory: CacheMemory { host: 1, life: 1 },
        rotational: None,
    }
}

fn port(mac: MacAddr, mtu: u32) -> Option<PortInfo> {
    Some(PortInfo { mac, mtu })
}

// ---- The driver ----------------------------------------------------------------------------------------------------

/// A frame the engine sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    port: PortId,
    bytes: Vec<u8>,
}

impl Sent {
    fn frame(&self) -> Frame<'_> {
        Frame::parse(&self.bytes).expect("answers are AoE")
    }

    fn header(&self) -> HeaderRepr {
        self.frame().header
    }

    fn to(&self) -> MacAddr {
        self.frame().ethernet.destination
    }

    fn error(&self) -> Option<ErrorCode> {
        self.header().error
    }

    fn body(&self) -> &[u8] {
        self.frame().body
    }

    fn ata(&self) -> AtaRepr {
        AtaRepr::parse(self.body()).unwrap().0
    }

    /// Status and Error registers of an answer without an AoE error.
    fn outcome(&self) -> (u8, u8) {
        assert_eq!(self.error(), None);
        (self.ata().command, self.ata().feature)
    }

    fn data(&self) -> &[u8] {
        &self.body()[AtaRepr::WIRE_LEN..]
    }

    /// Whether this tells a station how its edit of a mask list or reservation went.
    fn answers_edit_of_access(&self) -> bool {
        match self.header().command {
            Command::Mask => self.error().is_none() && self.body()[1] == 1,
            Command::Reserve => {
                matches!(self.error(), None | Some(ErrorCode::DeviceUnavailable)) && self.body()[0] != 0
            }
            _ => false,
        }
    }

    /// The config string in the answer.
    fn string(&self) -> &[u8] {
        ConfigRepr::parse(self.body(), true).unwrap().string
    }
}

const OK: (u8, u8) = (0x40, 0);
const ABORTED: (u8, u8) = (0x41, 0x04);
const NO_SUCH_SECTOR: (u8, u8) = (0x41, 0x10);
const FAULT: (u8, u8) = (0x61, 0x04);

struct Bench {
    target: Target,
    now: Instant,
    disks: Vec<Vec<u8>>,
    /// Operations the disks work on, in the order in which they got them.
    held: Vec<DiskOperation>,
    /// Everything the disks were ever asked to do.
    asked: Vec<DiskOperationKind>,
    stores: Vec<Persist>,
    sent: Vec<Sent>,
}

impl Bench {
    /// One export, one port with an MTU of 1500 bytes, its adverts sent.
    fn new() -> Self {
        Self::with(SETTINGS, [export(2)])
    }

    fn with(settings: EngineConfig, exports: impl IntoIterator<Item = ExportConfig>) -> Self {
        let mut bench = Self {
            target: Target::new(settings),
            now: Instant::ZERO + Duration::from_secs(1000),
            disks: Vec::new(),
            held: Vec::new(),
            asked: Vec::new(),
            stores: Vec::new(),
            sent: Vec::new(),
        };
        for config in exports {
            bench.add(config, StoredState::default());
        }
        bench.poison_pool();
        bench.set_port(PORT, port(TARGET, 1500));
        bench.take();
        bench
    }

    fn add(&mut self, config: ExportConfig, stored: StoredState) -> DiskId {
        self.disks.push((0..config.sectors).flat_map(|lba| [content(lba); SECTOR]).collect());
        let disk = self.target.add_export(self.now, config, stored).expect("a free address");
        self.pull();
        disk
    }

    fn set_port(&mut self, id: PortId, info: Option<PortInfo>) {
        self.target.set_port(id, info);
        self.pull();
    }

    /// Fills all buffers before their first use; those made later for longer frames are filled after it.
    fn poison_pool(&mut self) {
        let free: Vec<_> = std::iter::from_fn(|| self.target.pool.take()).collect();
        for buffer in free {
            self.target.pool.give(poisoned(buffer));
        }
    }

    /// Does what a driver does after any input.
    fn pull(&mut self) {
        while let Some(operation) = self.target.poll_disk() {
            let (start, end, _) = extent(&operation.kind);
            assert!(end <= self.disks[operation.disk.0 as usize].len() as u64, "{operation:?} is beyond the disk");
            for other in self.held.iter().filter(|other| other.disk == operation.disk) {
                let (other_start, other_end, _) = extent(&other.kind);
                let conflict =
                    start < other_end && other_start < end && (extent(&operation.kind).2 || extent(&other.kind).2);
                assert!(!conflict, "{operation:?} runs together with {other:?}");
                assert!(other.id != operation.id, "an id is used twice at a time");
            }
            if extent(&operation.kind).2 {
                assert!(self.serves(&operation), "a write of a station that is shut out starts");
            }
            self.asked.push(operation.kind);
            self.held.push(operation);
        }
        while let Some(store) = self.target.poll_persist() {
            self.stores.push(store);
        }
        while let Some(Transmit { port, buffer }) = self.target.poll_transmit() {
            let sent = Sent { port, bytes: buffer.frame().to_vec() };
            self.target.recycle(poisoned(buffer));
            assert!(sent.bytes.len() >= MIN_FRAME, "a short frame: {sent:x?}");
            assert!(sent.header().response && sent.header().version == VERSION);
            if let Some(info) = self.target.ports.get(&port) {
                assert_eq!(sent.frame().ethernet.source, info.mac);
            }
            // The last but one byte of IDENTIFY data happens to be the same.
            let leak = sent.bytes.iter().enumerate().any(|(at, byte)| *byte == POISON && at != HEADROOM + SECTOR - 2);
            assert!(!leak, "stale bytes in {sent:x?}");
            if sent.answers_edit_of_access() {
                let address = sent.header().address;
                let own = |held: &&DiskOperation| self.target.export(held.disk).config.address == address;
                let writing = self.held.iter().filter(own).filter(|held| extent(&held.kind).2);
                assert!(writing.clone().all(|held| self.serves(held)), "the edit came before a write it shuts out");
            }
            self.sent.push(sent);
        }
    }

    /// Whether the station behind an operation that runs may use the export now.
    fn serves(&self, operation: &DiskOperation) -> bool {
        let request = self.target.requests[operation.id.0 as usize].as_ref().expect("operations belong to requests");
        self.target.export(operation.disk).access.serves(request.to.station)
    }

    fn receive(&mut self, frame: &[u8]) {
        self.receive_on(PORT, frame);
    }

    fn receive_on(&mut self, port: PortId, frame: &[u8]) {
        self.target.handle_frame(self.now, port, frame);
        self.pull();
    }

    /// Ends one of the operations in `held`: on success it takes effect only now.
    fn end(&mut self, at: usize, result: Result<(), DiskError>) {
        let DiskOperation { id, disk, kind, mut buffer } = self.held.remove(at);
        let disk = &mut self.disks[disk.0 as usize];
        if result.is_ok() {
            match kind {
                DiskOperationKind::Read { offset, len } => {
                    buffer.payload_mut(len as usize).copy_from_slice(&disk[offset as usize..][..len as usize]);
                }
                DiskOperationKind::Write { offset, len, .. } => {
                    disk[offset as usize..][..len as usize].copy_from_slice(buffer.payload(len as usize));
                }
                DiskOperationKind::Zero { offset, len, .. } => disk[offset as usize..][..len as usize].fill(0),
                DiskOperationKind::Flush => {}
            }
        }
        self.target.handle_completion(self.now, DiskCompletion { id, buffer, result });
        self.pull();
    }

    /// Ends operations, oldest first, until none is left.
    fn run(&mut self) {
        while !self.held.is_empty() {
            self.end(0, Ok(()));
        }
    }

    /// Says of the oldest settings to store that they were stored or could not be.
    fn stored(&mut self, stored: bool) {
        let store = self.stores.remove(0);
        self.target.handle_persisted(store.disk, stored);
        self.pull();
    }

    /// What was sent since it was last looked at.
    fn take(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// A frame and all answers to it, on a disk without delay.
    fn ask(&mut self, frame: &[u8]) -> Vec<Sent> {
        assert_eq!(self.sent, [], "answers nobody looked at");
        self.receive(frame);
        while !self.stores.is_empty() {
            self.stored(true);
        }
        self.run();
        self.take()
    }

    /// A frame and the one answer to it.
    fn answer(&mut self, frame: &[u8]) -> Sent {
        let mut answers = self.ask(frame);
        assert_eq!(answers.len(), 1, "{answers:x?}");
        answers.remove(0)
    }

    /// The one frame that was sent.
    fn one(&mut self) -> Sent {
        let mut sent = self.take();
        assert_eq!(sent.len(), 1, "{sent:x?}");
        sent.remove(0)
    }

    /// Exchanges what follows the Ethernet header, as hex digits. Behind `response` only zeros may follow.
    fn vector(&mut self, station: MacAddr, request: &str, response: &str) {
        let mut frame = ethernet(TARGET, station);
        frame.extend(hex(request));
        let answer = self.answer(&frame);
        assert_eq!(answer.to(), station);
        let expected = hex(response);
        assert_eq!(answer.bytes[14..].get(..expected.len()), Some(&expected[..]), "{answer:x?}");
        assert!(answer.bytes[14 + expected.len()..].iter().all(|byte| *byte == 0), "{answer:x?}");
    }

    fn silent(&mut self, frame: &[u8]) {
        assert_eq!(self.ask(frame), [], "an answer to {frame:x?}");
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.target.poll_event()).collect()
    }

    fn export(&self) -> &Export {
        self.target.export(DISK)
    }

    /// The first byte of a sector of the first disk.
    fn sector(&self, lba: u64) -> u8 {
        self.disks[0][lba as usize * SECTOR]
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        while !self.stores.is_empty() {
            self.stored(true);
        }
        self.run();
        assert_eq!(self.target.in_flight(), 0, "requests were forgotten in the table");
        assert!(self.target.edits.is_empty(), "edits were never answered");
        assert_eq!(self.target.pool.available(), self.target.config.buffers, "buffers are missing");
    }
}

fn poisoned(mut buffer: FrameBuffer) -> FrameBuffer {
    buffer.set_len(HEADROOM + buffer.payload_capacity());
    buffer.frame_mut().fill(POISON);
    buffer
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

/// What a sector is full of at the start.
fn content(lba: u64) -> u8 {
    (lba % 100) as u8 + 1
}

// ---- Frames --------------------------------------------------------------------------------------------------------

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect()
}

fn ethernet(destination: MacAddr, source: MacAddr) -> Vec<u8> {
    let mut frame = vec![0; 14];
    EthernetRepr { destination, source, vlan: None }.emit(&mut frame);
    frame
}

/// A request to e1.2.
fn request(station: MacAddr, tag: u32, command: Command, body: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(TARGET, station);
    frame.resize(24 + body.len(), 0);
    let address = Address::new(1, 2);
    HeaderRepr { version: VERSION, response: false, error: None, address, command, tag }.emit(&mut frame[14..]);
    frame[24..].copy_from_slice(body);
    frame
}

/// The same request to another address.
fn to(address: &str, mut frame: Vec<u8>) -> Vec<u8> {
    let address: Address = address.parse().unwrap();
    frame[16..18].copy_from_slice(&address.shelf.to_be_bytes());
    frame[18] = address.slot;
    frame
}

fn ata(station: MacAddr, tag: u32, registers: AtaRepr, data: &[u8]) -> Vec<u8> {
    let mut body = vec![0; AtaRepr::WIRE_LEN];
    registers.emit(&mut body);
    body.extend(data);
    request(station, tag, Command::Ata, &body)
}

/// A 48-bit command without data.
fn command48(station: MacAddr, tag: u32, command: u8, lba: u64, count: u8) -> Vec<u8> {
    ata(station, tag, AtaRepr { flags: AtaFlags::EXTENDED, feature: 0, count, command, registers: lba }, &[])
}

fn read(station: MacAddr, tag: u32, lba: u64, count: u8) -> Vec<u8> {
    command48(station, tag, command::READ_SECTORS_EXT, lba, count)
}

fn write_as(command: u8, station: MacAddr, tag: u32, lba: u64, data: &[u8]) -> Vec<u8> {
    let flags = AtaFlags::EXTENDED | AtaFlags::WRITE;
    let count = (data.len() / SECTOR) as u8;
    ata(station, tag, AtaRepr { flags, feature: 0, count, command, registers: lba }, data)
}

/// Writes one sector full of `byte`.
fn write(station: MacAddr, tag: u32, lba: u64, byte: u8) -> Vec<u8> {
    write_as(command::WRITE_SECTORS_EXT, station, tag, lba, &[byte; SECTOR])
}

fn flush(station: MacAddr, tag: u32) -> Vec<u8> {
    command48(station, tag, command::FLUSH_CACHE_EXT, 0, 0)
}

fn set_features(station: MacAddr, tag: u32, feature: u8) -> Vec<u8> {
    let flags = AtaFlags::empty();
    ata(station, tag, AtaRepr { flags, feature, count: 0, command: command::SET_FEATURES, registers: 0xa000_0000 }, &[])
}

fn trim(station: MacAddr, tag: u32, ranges: &[(u64, u16)]) -> Vec<u8> {
    let mut data = [0; SECTOR];
    for (entry, (lba, sectors)) in data.as_chunks_mut::<8>().0.iter_mut().zip(ranges) {
        *entry = (lba | u64::from(*sectors) << 48).to_le_bytes();
    }
    let flags = AtaFlags::EXTENDED | AtaFlags::WRITE;
    let command = command::DATA_SET_MANAGEMENT;
    ata(station, tag, AtaRepr { flags, feature: feature::TRIM, count: 1, command, registers: 0 }, &data)
}

fn identify(station: MacAddr, tag: u32) -> Vec<u8> {
    command48(station, tag, command::IDENTIFY_DEVICE, 0, 1)
}

fn config(station: MacAddr, tag: u32, command: ConfigCommand, string: &[u8]) -> Vec<u8> {
    let repr = ConfigRepr::request(command, string);
    let mut body = vec![0; repr.wire_len()];
    repr.emit(&mut body);
    request(station, tag, Command::Config, &body)
}

fn mask(station: MacAddr, tag: u32, command: MaskCommand, directives: &[(DirectiveCommand, MacAddr)]) -> Vec<u8> {
    let mut body = vec![0; MaskRepr::FIXED_LEN + directives.len() * MaskRepr::DIRECTIVE_LEN];
    let entries = directives.iter().map(|(command, mac)| DirectiveRepr { command: *command, mac: *mac });
    MaskRepr { command, error: None, directive_count: directives.len() as u8 }.emit(entries, &mut body);
    request(station, tag, Command::Mask, &body)
}

/// Puts stations on the mask list.
fn admit(station: MacAddr, tag: u32, macs: &[MacAddr]) -> Vec<u8> {
    let directives: Vec<_> = macs.iter().map(|mac| (DirectiveCommand::Add, *mac)).collect();
    mask(station, tag, MaskCommand::Edit, &directives)
}

fn reserve(station: MacAddr, tag: u32, command: ReserveCommand, macs: &[MacAddr]) -> Vec<u8> {
    let mut body = vec![0; ReserveRepr::FIXED_LEN + macs.len() * ReserveRepr::MAC_LEN];
    ReserveRepr { command, mac_count: macs.len() as u8 }.emit(macs.iter().copied(), &mut body);
    request(station, tag, Command::Reserve, &body)
}

/// One good request of every command, with the length below which it is cut short.
fn every_command(station: MacAddr) -> Vec<(Vec<u8>, usize)> {
    vec![
        (read(station, 1, 3, 2), 36),
        (write(station, 2, 9, 0x77), 36),
        (identify(station, 3), 36),
        (flush(station, 4), 36),
        (trim(station, 5, &[(100, 1)]), 36),
        (config(station, 6, ConfigCommand::Read, b""), 32),
        (config(station, 7, ConfigCommand::ForceSet, b"abc"), 32),
        (mask(station, 8, MaskCommand::Read, &[]), 28),
        (mask(station, 9, MaskCommand::Edit, &[(DirectiveCommand::Delete, C)]), 28),
        (reserve(station, 10, ReserveCommand::Read, &[]), 26),
        (reserve(station, 11, ReserveCommand::Set, &[]), 26),
        (request(station, 12, Command::Unknown(9), b"argument"), 24),
        (request(station, 13, Command::Vendor(0xf0), b"argument"), 24),
    ]
}
