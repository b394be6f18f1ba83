//! A device, the targets it may reach, the network between them, and a clock that jumps from one event to the next.

use std::collections::HashMap;

pub use aoe_common::ata::{AtaError, Status, command};
use aoe_common::ata::{CacheMemory, LOG_STATION_IDENTITY, trim_ranges};
use aoe_common::frame::{HEADROOM, MIN_FRAME};
pub use aoe_common::wire::{AtaFlags, AtaRepr};
use aoe_common::wire::{BROADCAST, ConfigCommand, ConfigRepr, EthernetRepr, HeaderRepr};

use super::super::*;
pub use crate::engine::QUARANTINE;
use crate::engine::frames;

pub const ADDRESS: Address = Address::new(7, 3);
pub const PORT: PortId = PortId(1);
pub const OTHER_PORT: PortId = PortId(2);
/// One way.
pub const LATENCY: Duration = Duration::from_micros(500);
/// Sectors of the targets' disks.
pub const DISK: u64 = 4096;

/// What a path is asked before it carries requests.
const QUESTIONS: [u8; 2] = [command::IDENTIFY_DEVICE, command::WRITE_LOG_EXT];

pub fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn our_mac(port: PortId) -> MacAddr {
    MacAddr(2, 0, 0, 0, 0, port.0 as u8)
}

pub fn target_mac(port: PortId) -> MacAddr {
    MacAddr(2, 0, 0, 0, 1, port.0 as u8)
}

/// Everything our target offers.
pub fn ours() -> Identify {
    Identify {
        sectors: DISK,
        serial: "one".into(),
        model: "AoE disk".into(),
        write_cache: true,
        flush: true,
        flush_ext: true,
        fua: true,
        trim_sectors_max: 1,
        trim_zeroes: true,
        exactly_once: true,
        ..Identify::default()
    }
}

/// As little as vblade offers.
pub fn vblade() -> Identify {
    Identify { sectors: DISK, serial: "one".into(), model: "vblade".into(), flush: true, ..Identify::default() }
}

/// Not even 48-bit commands.
pub fn lba28() -> Identify {
    Identify { lba48: false, ..vblade() }
}

pub fn config() -> DeviceConfig {
    DeviceConfig {
        address: ADDRESS,
        identity: [7; 16],
        tag_start: 0x1000,
        dead_after: Some(secs(180)),
        hold_writes: Duration::ZERO,
        frame_life: QUARANTINE,
        network_repeats: false,
    }
}

pub fn write_of(lba: u64, sectors: usize, byte: u8) -> Operation {
    Operation::Write { lba, data: vec![byte; sectors * SECTOR], fua: false }
}

pub fn read_of(lba: u64, sectors: usize) -> Operation {
    Operation::Read { lba, buffer: vec![0xee; sectors * SECTOR] }
}

/// A frame that the device sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub at: Instant,
    pub port: PortId,
    pub bytes: Vec<u8>,
    pub source: MacAddr,
    pub destination: MacAddr,
    pub tag: u32,
    /// Registers and data of an ATA request; `None` for a config query.
    pub ata: Option<(AtaRepr, Vec<u8>)>,
}

impl Sent {
    pub fn command(&self) -> u8 {
        self.ata.as_ref().expect("an ATA request").0.command
    }

    pub fn lba(&self) -> u64 {
        self.ata.as_ref().expect("an ATA request").0.lba()
    }

    pub fn count(&self) -> u8 {
        self.ata.as_ref().expect("an ATA request").0.count
    }

    pub fn data(&self) -> &[u8] {
        &self.ata.as_ref().expect("an ATA request").1
    }

    pub fn is_transfer(&self) -> bool {
        self.ata.as_ref().is_some_and(|(ata, _)| !QUESTIONS.contains(&ata.command))
    }
}

/// What becomes of a frame that the device sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Arrive,
    Lost,
    /// The test gets it, in `held`.
    Held,
}

/// An answer that a test makes up. `None` keeps what a target would say of a success.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub error: Option<ErrorCode>,
    pub status: Option<Status>,
    pub ata_error: u8,
    pub registers: Option<u64>,
    pub data: Vec<u8>,
}

pub fn answer_frame(sent: &Sent, source: MacAddr, answer: &Answer) -> Vec<u8> {
    let mut frame = vec![0; (HEADROOM + answer.data.len()).max(MIN_FRAME)];
    let ethernet = EthernetRepr { destination: sent.source, source, vlan: None };
    let header = HeaderRepr {
        version: 1,
        response: true,
        error: answer.error,
        address: ADDRESS,
        command: Command::Ata,
        tag: sent.tag,
    };
    let (request, _) = sent.ata.as_ref().expect("an ATA request");
    let ata = AtaRepr {
        command: answer.status.unwrap_or(Status::DRDY).bits(),
        feature: answer.ata_error,
        registers: answer.registers.unwrap_or(request.registers),
        ..*request
    };
    ata.emit(Frame::emit_headers(&ethernet, &header, &mut frame))[..answer.data.len()].copy_from_slice(&answer.data);
    frame
}

/// What a target did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    pub command: u8,
    pub lba: u64,
    pub count: u8,
}

pub struct Target {
    /// Where it listens.
    pub ports: Vec<(PortId, MacAddr)>,
    pub identify: Identify,
    pub buffers: u16,
    pub sectors: u8,
    pub disk: Vec<u8>,
    pub ran: Vec<Ran>,
    /// Whether it takes the identities of stations.
    pub takes_identities: bool,
    pub identities: HashMap<MacAddr, [u8; 16]>,
    /// Answers given, by station and tag, for a target that promises to run a request once.
    pub given: HashMap<([u8; 16], u32), Answer>,
}

impl Target {
    pub fn new(identify: Identify) -> Self {
        let ports = [PORT, OTHER_PORT].map(|port| (port, target_mac(port))).to_vec();
        let disk = vec![0; DISK as usize * SECTOR];
        Self {
            ports,
            identify,
            buffers: 16,
            sectors: 2,
            disk,
            ran: Vec::new(),
            takes_identities: true,
            identities: HashMap::new(),
            given: HashMap::new(),
        }
    }

    /// First bytes of its sectors.
    pub fn sector(&self, lba: u64) -> u8 {
        self.disk[lba as usize * SECTOR]
    }

    pub fn advert(&self, source: MacAddr, destination: MacAddr, version: u8, tag: u32) -> Vec<u8> {
        let mut frame = vec![0; MIN_FRAME];
        let ethernet = EthernetRepr { destination, source, vlan: None };
        let header =
            HeaderRepr { version, response: true, error: None, address: ADDRESS, command: Command::Config, tag };
        ConfigRepr::answer(self.buffers, 1, self.sectors, ConfigCommand::Read, b"")
            .emit(Frame::emit_headers(&ethernet, &header, &mut frame));
        frame
    }

    fn serve(&mut self, sent: &Sent, own: MacAddr) -> Vec<u8> {
        let Some((ata, data)) = &sent.ata else { return self.advert(own, sent.source, 1, sent.tag) };
        if ata.command == command::WRITE_LOG_EXT && self.identify.exactly_once && self.takes_identities {
            assert_eq!((ata.registers, ata.count), (u64::from(LOG_STATION_IDENTITY), 1));
            self.identities.insert(sent.source, *data.first_chunk().expect("an identity"));
            return answer_frame(sent, own, &Answer::default());
        }
        let MacAddr(a, b, c, d, e, f) = sent.source;
        let by_mac = [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let station = self.identities.get(&sent.source).copied().unwrap_or(by_mac);
        let given = self.given.get(&(station, sent.tag)).cloned();
        let answer = given.unwrap_or_else(|| self.run(ata, data));
        if self.identify.exactly_once {
            self.given.insert((station, sent.tag), answer.clone());
        }
        answer_frame(sent, own, &answer)
    }

    fn run(&mut self, ata: &AtaRepr, data: &[u8]) -> Answer {
        let refused =
            Answer { status: Some(Status::DRDY | Status::ERR), ata_error: AtaError::ABORT.bits(), ..Answer::default() };
        let (start, len) = (ata.lba() as usize * SECTOR, usize::from(ata.count) * SECTOR);
        let extended = ata.flags.contains(AtaFlags::EXTENDED);
        if !QUESTIONS.contains(&ata.command) {
            self.ran.push(Ran { command: ata.command, lba: ata.lba(), count: ata.count });
            if extended && !self.identify.lba48 {
                return refused;
            }
        }
        let carries_sectors = matches!(
            ata.command,
            command::READ_SECTORS
                | command::READ_SECTORS_EXT
                | command::WRITE_SECTORS
                | command::WRITE_SECTORS_EXT
                | command::WRITE_DMA_FUA_EXT
        );
        // One that does not say how much it takes speaks of standard frames.
        if carries_sectors && ata.count > if self.sectors == 0 { 2 } else { self.sectors } {
            return Answer { error: Some(ErrorCode::BadArgument), ..Answer::default() };
        }
        match ata.command {
            command::IDENTIFY_DEVICE => Answer { data: self.identify.emit().to_vec(), ..Answer::default() },
            command::READ_SECTORS | command::READ_SECTORS_EXT | command::WRITE_SECTORS | command::WRITE_SECTORS_EXT
                if start + len > self.disk.len() =>
            {
                Answer { ata_error: AtaError::ID_NOT_FOUND.bits(), ..refused }
            }
            command::READ_SECTORS | command::READ_SECTORS_EXT => {
                Answer { data: self.disk[start..start + len].to_vec(), ..Answer::default() }
            }
            command::WRITE_DMA_FUA_EXT if !self.identify.fua => refused,
            command::WRITE_SECTORS | command::WRITE_SECTORS_EXT | command::WRITE_DMA_FUA_EXT => {
                self.disk[start..start + len].copy_from_slice(&data[..len]);
                Answer::default()
            }
            command::ZERO_EXT if self.identify.exactly_once => {
                self.disk[start..start + len].fill(0);
                Answer::default()
            }
            command::DATA_SET_MANAGEMENT if self.identify.trim_sectors_max > 0 => {
                for range in trim_ranges(data) {
                    let end = ((range.lba + u64::from(range.sectors)) as usize * SECTOR).min(self.disk.len());
                    self.disk[(range.lba as usize * SECTOR).min(end)..end].fill(0);
                }
                Answer::default()
            }
            command::FLUSH_CACHE_EXT if self.identify.flush_ext => {
                Answer { registers: self.identify.cache_memory.map(CacheMemory::bits), ..Answer::default() }
            }
            command::FLUSH_CACHE if self.identify.flush => Answer::default(),
            _ => refused,
        }
    }
}

/// A frame on its way.
enum Wire {
    There { sent: Sent, target: usize, own: MacAddr },
    Back { port: PortId, frame: Vec<u8> },
}

pub struct World {
    pub now: Instant,
    pub device: Device,
    pub targets: Vec<Target>,
    /// Every frame the device sent since the test last cleared it.
    pub sent: Vec<Sent>,
    pub held: Vec<Sent>,
    pub fate: Box<dyn FnMut(&Sent) -> Fate>,
    /// One-way trips of each frame, and of its answer: none for a loss, several for repeats.
    pub trips: Box<dyn FnMut() -> Vec<Duration>>,
    pub done: HashMap<u64, Completion>,
    pub events: Vec<Event>,
    wires: BTreeMap<(Instant, u64), Wire>,
    wired: u64,
    next_id: u64,
}

impl World {
    /// A device with one port and one target that it has not looked for yet.
    pub fn new(config: DeviceConfig, target: Target) -> Self {
        let now = Instant::ZERO + secs(1000);
        Self {
            now,
            device: Device::new(now, config),
            targets: vec![target],
            sent: Vec::new(),
            held: Vec::new(),
            fate: Box::new(|_| Fate::Arrive),
            trips: Box::new(|| vec![LATENCY]),
            done: HashMap::new(),
            events: Vec::new(),
            wires: BTreeMap::new(),
            wired: 0,
            next_id: 0,
        }
    }

    /// A device that has found its target over the first port.
    pub fn up(target: Target) -> Self {
        Self::up_with(config(), target, &[PORT])
    }

    pub fn up_with(config: DeviceConfig, target: Target, ports: &[PortId]) -> Self {
        let mut world = Self::new(config, target);
        for port in ports {
            world.port(*port, 1500);
        }
        world.run(secs(1));
        assert_eq!(world.device.state(), DeviceState::Up);
        world.sent.clear();
        world.events.clear();
        world
    }

    pub fn port(&mut self, port: PortId, mtu: u32) {
        self.device.set_port(self.now, port, Some(PortInfo { mac: our_mac(port), mtu }));
        self.pull();
    }

    pub fn unplug(&mut self, port: PortId) {
        self.device.set_port(self.now, port, None);
        self.pull();
    }

    pub fn submit(&mut self, operation: Operation) -> u64 {
        self.next_id += 1;
        self.device.submit(self.now, Request { id: self.next_id, operation });
        self.pull();
        self.next_id
    }

    /// Submits and waits for the end.
    pub fn complete(&mut self, operation: Operation) -> Completion {
        let id = self.submit(operation);
        self.run_until_idle();
        self.done.remove(&id).expect("an idle device has completed everything")
    }

    pub fn result(&self, id: u64) -> Result<(), IoError> {
        self.done.get(&id).expect("not completed").result
    }

    pub fn is_done(&self, id: u64) -> bool {
        self.done.contains_key(&id)
    }

    /// ATA requests sent, those that are about the path itself left out.
    pub fn transfers(&self) -> Vec<Sent> {
        self.sent.iter().filter(|sent| sent.is_transfer()).cloned().collect()
    }

    pub fn path(&self, port: PortId) -> PathStats {
        self.device.paths().find(|path| path.port == port).expect("a path on this port")
    }

    /// From now on every transfer is held for the test; questions about the path arrive.
    pub fn hold_transfers(&mut self) {
        self.fate = Box::new(|sent| if sent.is_transfer() { Fate::Held } else { Fate::Arrive });
    }

    /// Nothing arrives any more.
    pub fn mute(&mut self) {
        self.fate = Box::new(|_| Fate::Lost);
    }

    pub fn unmute(&mut self) {
        self.fate = Box::new(|_| Fate::Arrive);
    }

    /// A frame reaches the device now.
    pub fn hear(&mut self, port: PortId, frame: &[u8]) {
        self.device.handle_frame(self.now, port, frame);
        self.pull();
    }

    /// The first target takes a held frame now, and its answer reaches the device at once.
    pub fn serve(&mut self, sent: &Sent) {
        let frame = self.targets[0].serve(sent, sent.destination);
        self.hear(sent.port, &frame);
    }

    pub fn serve_held(&mut self) {
        while !self.held.is_empty() {
            let sent = self.held.remove(0);
            self.serve(&sent);
        }
    }

    /// The first target's advert, at once.
    pub fn advertise(&mut self, port: PortId) {
        let frame = self.targets[0].advert(target_mac(port), BROADCAST, 1, 0);
        self.hear(port, &frame);
    }

    /// Runs for a while.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    pub fn run_until_idle(&mut self) {
        let end = self.now + secs(3600);
        while self.device.in_flight() > 0 {
            assert!(self.step(end), "requests are stuck: {:?}", self.device);
        }
    }

    /// What happens next; `false` when that is only after `until`.
    fn step(&mut self, until: Instant) -> bool {
        self.pull();
        let timeout = self.device.poll_timeout().expect("a device always has something to do some time");
        let arrival = self.wires.first_key_value().map(|((at, _), _)| *at);
        let next = arrival.map_or(timeout, |at| at.min(timeout)).max(self.now);
        if next > until {
            self.now = until;
            return false;
        }
        self.now = next;
        if arrival.is_some_and(|at| at <= next) {
            let (_, wire) = self.wires.pop_first().expect("just seen");
            match wire {
                Wire::Back { port, frame } => self.device.handle_frame(self.now, port, &frame),
                Wire::There { sent, target, own } => {
                    let frame = self.targets[target].serve(&sent, own);
                    for trip in (self.trips)() {
                        self.wire(trip, Wire::Back { port: sent.port, frame: frame.clone() });
                    }
                }
            }
            self.pull();
        }
        let mut rounds = 0;
        while self.device.poll_timeout().is_some_and(|at| at <= self.now) {
            self.device.handle_timeout(self.now);
            self.pull();
            rounds += 1;
            assert!(rounds < 4, "the device keeps asking for time that has passed: {:?}", self.device);
        }
        true
    }

    fn wire(&mut self, trip: Duration, wire: Wire) {
        self.wired += 1;
        self.wires.insert((self.now + trip, self.wired), wire);
    }

    /// Takes everything the device has to give.
    pub fn pull(&mut self) {
        let mut out = vec![0xa5; frames::FRAME_MAX];
        while let Some((port, len)) = self.device.poll_transmit(self.now, &mut out) {
            let sent = self.check(port, &out[..len]);
            let fate = (self.fate)(&sent);
            self.sent.push(sent.clone());
            match fate {
                Fate::Lost => {}
                Fate::Held => self.held.push(sent),
                Fate::Arrive => self.transmit(&sent),
            }
        }
        while let Some(completion) = self.device.poll_completion() {
            let before = self.done.insert(completion.id, completion);
            assert!(before.is_none(), "a request completes once");
        }
        while let Some(event) = self.device.poll_event() {
            self.events.push(event);
        }
    }

    fn transmit(&mut self, sent: &Sent) {
        for target in 0..self.targets.len() {
            for (port, own) in self.targets[target].ports.clone() {
                if port == sent.port && (sent.destination == own || sent.destination == BROADCAST) {
                    for trip in (self.trips)() {
                        self.wire(trip, Wire::There { sent: sent.clone(), target, own });
                    }
                }
            }
        }
    }

    /// What holds for every frame that a device sends.
    fn check(&self, port: PortId, bytes: &[u8]) -> Sent {
        let info = self.device.ports.get(&port).expect("frames go out on ports that are there");
        assert!((MIN_FRAME..=14 + info.mtu as usize).contains(&bytes.len()), "{} bytes", bytes.len());
        let frame = Frame::parse(bytes).expect("a sound frame");
        assert_eq!((frame.header.version, frame.header.response, frame.header.error), (1, false, None));
        assert_eq!((frame.header.address, frame.ethernet.source), (ADDRESS, info.mac));
        assert!(frame.header.tag >> 31 == 1, "aoe.ko on this host would take the answer for its own");
        let ata = match frame.header.command {
            Command::Config => {
                assert_eq!(frame.ethernet.destination, BROADCAST);
                None
            }
            Command::Ata => {
                let (ata, data) = AtaRepr::parse(frame.body).expect("whole registers");
                let len = if ata.flags.contains(AtaFlags::WRITE) { usize::from(ata.count) * SECTOR } else { 0 };
                // A read that tries a frame of this length.
                let tries = [command::READ_SECTORS, command::READ_SECTORS_EXT].contains(&ata.command)
                    && data.len() == usize::from(ata.count) * SECTOR
                    && data.iter().all(|byte| *byte == 0);
                assert!(tries || bytes.len() == (HEADROOM + len).max(MIN_FRAME), "{} bytes", bytes.len());
                Some((ata, data[..len].to_vec()))
            }
            other => panic!("a device does not send {other:?}"),
        };
        Sent {
            at: self.now,
            port,
            bytes: bytes.to_vec(),
            source: frame.ethernet.source,
            destination: frame.ethernet.destination,
            tag: frame.header.tag,
            ata,
        }
    }
}

/// A test ends with every request over and nothing left in any table.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.pull();
        let device = &self.device;
        assert_eq!(device.in_flight(), 0, "requests left");
        assert!(device.flights.iter().all(Option::is_none) && device.by_tag.is_empty(), "flights left");
        assert!(device.paths.iter().all(|path| path.in_flight == 0), "paths count flights that are over");
        assert!(device.ordering.is_empty() && device.parked.is_empty(), "writes left in the order");
        assert_eq!(device.waiting_since, None, "nobody waits");
        assert_eq!(device.free_flights.len(), device.flights.len());
    }
}
