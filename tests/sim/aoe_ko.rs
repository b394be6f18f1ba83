//! An initiator that behaves like Linux's aoe.ko, as far as a target can see (aoe-protocol notes: each frame sent
//! again has a fresh tag of counter and clock, FLUSH is never sent, errors in the AoE header are ignored).

use std::collections::{BTreeMap, VecDeque};

use aoe_common::addr::Address;
use aoe_common::ata::{Identify, Status, command};
use aoe_common::frame::SECTOR;
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{AtaFlags, AtaRepr, BROADCAST, Command, ConfigCommand, ConfigRepr, Frame, MacAddr};
use aoe_initiator::engine::{Completion, IoError, Operation, PortId, PortInfo, Request};

use super::client::Client;
use super::frames::{self, Envelope};

const ASK_EVERY: Duration = Duration::from_secs(1);
const TIMEOUT_FIRST: Duration = Duration::from_millis(250);
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// Frames under way.
const FLIGHTS_MAX: usize = 16;
/// Reads of a disk that was found, as a scan for partitions makes them.
const SCAN_READS: u32 = 24;

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Identify,
    Scan,
    Of { request: u64, offset: u64, sectors: u64 },
}

#[derive(Debug)]
struct Flight {
    part: Part,
    tag: u32,
    sent: Instant,
    deadline: Instant,
    attempts: u32,
}

#[derive(Debug)]
struct Active {
    lba: u64,
    writes: bool,
    buffer: Vec<u8>,
    parts_left: u32,
    error: Option<IoError>,
}

/// The initiator.
#[derive(Debug)]
pub struct AoeKo {
    address: Address,
    /// The targets it may use; a real one believes everybody.
    targets: Vec<MacAddr>,
    port: Option<PortInfo>,
    /// Targets that answered, with the sectors each takes.
    paths: Vec<(MacAddr, u64)>,
    next_path: usize,
    ask_at: Instant,
    disk: Option<Identify>,
    scan_left: u32,
    counter: u16,
    /// Clock ticks in a second, and what the clock showed at time zero.
    clock: (u64, u64),
    round_trip: Option<Duration>,
    requests: BTreeMap<u64, Active>,
    unsent: VecDeque<Part>,
    flights: Vec<Flight>,
    out: VecDeque<Vec<u8>>,
    completions: VecDeque<Completion>,
    resends: u64,
}

impl AoeKo {
    /// An initiator with one port. `clock`: ticks in a second, and what the clock shows at time zero.
    pub fn new(now: Instant, address: Address, targets: Vec<MacAddr>, clock: (u64, u64)) -> Self {
        Self {
            address,
            targets,
            port: None,
            paths: Vec::new(),
            next_path: 0,
            ask_at: now,
            disk: None,
            scan_left: SCAN_READS,
            counter: 0,
            clock,
            round_trip: None,
            requests: BTreeMap::new(),
            unsent: VecDeque::new(),
            flights: Vec::new(),
            out: VecDeque::new(),
            completions: VecDeque::new(),
            resends: 0,
        }
    }

    fn tag(&mut self, now: Instant) -> u32 {
        self.counter = (self.counter + 1) & 0x7fff;
        let ticks = self.clock.1 + now.as_nanos() / (1_000_000_000 / self.clock.0);
        u32::from(self.counter) << 16 | u32::from(ticks as u16)
    }

    fn envelope(&self, destination: MacAddr, tag: u32) -> Option<Envelope> {
        Some(Envelope { source: self.port?.mac, destination, address: self.address, tag, response: false })
    }

    fn sectors_max(&self) -> u64 {
        self.paths.iter().map(|(_, sectors)| *sectors).min().unwrap_or(2)
    }

    /// Sends a part, new or again, to the next target.
    fn send(&mut self, now: Instant, part: Part, attempts: u32) {
        let tag = self.tag(now);
        let target = self.paths[self.next_path % self.paths.len()].0;
        self.next_path += 1;
        let wait = self.round_trip.map_or(TIMEOUT_FIRST, |rtt| (rtt * 4).max(TIMEOUT_MIN));
        let deadline = now + wait * 2u32.pow((attempts - 1).min(4));
        self.flights.push(Flight { part, tag, sent: now, deadline, attempts });
        let Some(envelope) = self.envelope(target, tag) else { return };
        let (command, lba, sectors, data): (_, _, _, &[u8]) = match part {
            Part::Identify => (command::IDENTIFY_DEVICE, 0, 1, &[]),
            Part::Scan => (command::READ_SECTORS_EXT, 0, 1, &[]),
            Part::Of { request, offset, sectors } => {
                let active = &self.requests[&request];
                let bytes = offset as usize * SECTOR..(offset + sectors) as usize * SECTOR;
                match active.writes {
                    true => (command::WRITE_SECTORS_EXT, active.lba + offset, sectors, &active.buffer[bytes]),
                    false => (command::READ_SECTORS_EXT, active.lba + offset, sectors, &[]),
                }
            }
        };
        let mut flags = if part == Part::Identify { AtaFlags::empty() } else { AtaFlags::EXTENDED };
        flags.set(AtaFlags::WRITE, !data.is_empty());
        let repr = AtaRepr { flags, feature: 0, count: sectors as u8, command, registers: lba };
        self.out.push_back(frames::ata(&envelope, &repr, data));
    }

    fn send_what_fits(&mut self, now: Instant) {
        while !self.paths.is_empty()
            && self.flights.len() < FLIGHTS_MAX
            && let Some(part) = self.unsent.pop_front()
        {
            self.send(now, part, 1);
        }
    }

    fn handle_config(&mut self, now: Instant, target: MacAddr, body: &[u8]) {
        let (Ok(config), Some(port)) = (ConfigRepr::parse(body, true), self.port) else { return };
        if !self.targets.contains(&target) {
            return;
        }
        let sectors = u64::from(port.frame_sectors().min(config.sector_count));
        match self.paths.iter_mut().find(|(mac, _)| *mac == target) {
            Some(path) => path.1 = sectors,
            None => self.paths.push((target, sectors)),
        }
        if self.disk.is_none() && !self.flights.iter().any(|flight| flight.part == Part::Identify) {
            self.send(now, Part::Identify, 1);
        }
    }

    fn handle_ata(&mut self, now: Instant, tag: u32, ata: &AtaRepr, data: &[u8]) {
        let Some(at) = self.flights.iter().position(|flight| flight.tag == tag) else { return };
        let flight = &self.flights[at];
        let failed = Status::from_bits_retain(ata.command).failed();
        let sectors = match flight.part {
            Part::Of { request, sectors, .. } if !self.requests[&request].writes => sectors as usize,
            Part::Of { .. } => 0,
            _ => 1,
        };
        if !failed && data.len() < sectors * SECTOR {
            return;
        }
        let Flight { part, sent, .. } = self.flights.swap_remove(at);
        let sample = now.since(sent);
        self.round_trip = Some(self.round_trip.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        match part {
            Part::Identify => match Identify::parse(data) {
                Ok(identify) if !failed => {
                    self.disk = Some(identify);
                    self.unsent.push_back(Part::Scan);
                }
                _ => self.ask_at = now,
            },
            Part::Scan => {
                self.scan_left = self.scan_left.saturating_sub(1);
                if self.scan_left > 0 {
                    self.unsent.push_back(Part::Scan);
                }
            }
            Part::Of { request, offset, sectors } => {
                let active = self.requests.get_mut(&request).expect("flights belong to requests");
                if failed {
                    active.error = Some(IoError::DeviceFault);
                } else if !active.writes {
                    let bytes = offset as usize * SECTOR..(offset + sectors) as usize * SECTOR;
                    active.buffer[bytes.clone()].copy_from_slice(&data[..bytes.len()]);
                }
                active.parts_left -= 1;
                if active.parts_left == 0 {
                    let active = self.requests.remove(&request).expect("just seen");
                    let result = active.error.map_or(Ok(()), Err);
                    self.completions.push_back(Completion { id: request, result, buffer: active.buffer });
                }
            }
        }
        self.send_what_fits(now);
    }
}

impl Client for AoeKo {
    fn is_up(&self) -> bool {
        self.disk.is_some() && self.scan_left == 0
    }

    fn disk(&self) -> Option<&str> {
        self.disk.as_ref().map(|identify| identify.serial.as_str())
    }

    fn set_port(&mut self, now: Instant, port: PortId, info: Option<PortInfo>) {
        if port == PortId(0) {
            self.port = info;
            self.ask_at = now;
        }
    }

    fn submit(&mut self, now: Instant, request: Request) {
        let Request { id, operation } = request;
        let (lba, writes, buffer) = match operation {
            Operation::Read { lba, buffer } => (lba, false, buffer),
            Operation::Write { lba, data, fua: false } => (lba, true, data),
            other => panic!("aoe.ko has no {other:?}"),
        };
        let sectors = (buffer.len() / SECTOR) as u64;
        let step = self.sectors_max();
        let mut parts_left = 0;
        for offset in (0..sectors).step_by(step as usize) {
            self.unsent.push_back(Part::Of { request: id, offset, sectors: step.min(sectors - offset) });
            parts_left += 1;
        }
        self.requests.insert(id, Active { lba, writes, buffer, parts_left, error: None });
        self.send_what_fits(now);
    }

    fn handle_frame(&mut self, now: Instant, _port: PortId, bytes: &[u8]) {
        let (Ok(frame), Some(port)) = (Frame::parse(bytes), self.port) else { return };
        let for_us = frame.ethernet.destination == port.mac || frame.ethernet.destination == BROADCAST;
        let header = frame.header;
        if !for_us || !header.response || header.address != self.address || header.error.is_some() {
            return;
        }
        match header.command {
            Command::Config => self.handle_config(now, frame.ethernet.source, frame.body),
            // A real one believes whoever knows a tag.
            Command::Ata if self.targets.contains(&frame.ethernet.source) => {
                if let Ok((ata, data)) = AtaRepr::parse(frame.body) {
                    self.handle_ata(now, header.tag, &ata, data);
                }
            }
            _ => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if now >= self.ask_at {
            self.ask_at = now + ASK_EVERY;
            if let Some(envelope) = self.envelope(BROADCAST, 0)
                && !self.is_up()
            {
                let query = ConfigRepr::request(ConfigCommand::Read, b"");
                self.out.push_back(frames::config(&envelope, &query));
            }
        }
        let due = |flight: &Flight| flight.deadline <= now;
        while let Some(at) = self.flights.iter().position(due) {
            let Flight { part, attempts, .. } = self.flights.remove(at);
            self.resends += 1;
            self.send(now, part, attempts + 1);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.flights.iter().map(|flight| flight.deadline).chain([self.ask_at]).min()
    }

    fn poll_transmit(&mut self, _now: Instant, out: &mut [u8]) -> Option<(PortId, usize)> {
        let frame = self.out.pop_front()?;
        out[..frame.len()].copy_from_slice(&frame);
        Some((PortId(0), frame.len()))
    }

    fn poll_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn holds(&self) -> usize {
        self.requests.len()
    }

    fn resends(&self) -> u64 {
        self.resends
    }
}
