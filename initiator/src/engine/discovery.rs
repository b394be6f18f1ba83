//! Finding AoE disks: one broadcast question on every port, then IDENTIFY to everyone who answers.

use std::collections::{BTreeMap, VecDeque};

use aoe_common::addr::Address;
use aoe_common::ata::{Identify, Status};
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{AtaRepr, Command, ConfigRepr, Frame, MacAddr};

use super::frames::{self, Envelope};
use super::{Conversation, PortId, PortInfo, Tags};

/// Answers kept at the most: devices times the paths to each.
pub const FOUND_MAX: usize = 4096;

/// When the question is asked, counted from the start.
const ASK_AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_millis(600)];
/// How often and how long apart each answerer is asked for its disk.
const IDENTIFY_ATTEMPTS: u32 = 4;
const IDENTIFY_EVERY: Duration = Duration::from_millis(150);

/// One device as seen over one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The device.
    pub address: Address,
    /// The target's MAC address.
    pub mac: MacAddr,
    /// The port it was heard on.
    pub port: PortId,
    /// Its config string.
    pub config_string: Vec<u8>,
    /// Messages it can queue.
    pub buffers: u16,
    /// Its firmware version, as config answers give it.
    pub firmware: u16,
    /// Sectors per command it takes.
    pub sectors_per_command: u8,
    /// Its disk; `None` when it did not say.
    pub identify: Option<Identify>,
}

#[derive(Debug)]
struct Entry {
    found: Found,
    tag: u32,
    attempts: u32,
    again: Instant,
}

/// A search, begun when the value is made.
#[derive(Debug)]
pub struct Discovery {
    wanted: Address,
    started: Instant,
    ports: BTreeMap<PortId, PortInfo>,
    tags: Tags,
    asked: usize,
    to_ask: VecDeque<PortId>,
    entries: BTreeMap<(Address, [u8; 6], PortId), Entry>,
}

impl Discovery {
    /// A search for `wanted` (wildcards welcome) on these ports.
    pub fn new(
        now: Instant,
        wanted: Address,
        tag_start: u32,
        ports: impl IntoIterator<Item = (PortId, PortInfo)>,
    ) -> Self {
        Self {
            wanted,
            started: now,
            ports: ports.into_iter().collect(),
            tags: Tags::new(tag_start),
            asked: 0,
            to_ask: VecDeque::new(),
            entries: BTreeMap::new(),
        }
    }

    fn handle_config(&mut self, now: Instant, key: (Address, [u8; 6], PortId), frame: &Frame<'_>) {
        let Ok(config) = ConfigRepr::parse(frame.body, true) else { return };
        if self.entries.len() == FOUND_MAX && !self.entries.contains_key(&key) {
            return;
        }
        let tags = &mut self.tags;
        let entry = self.entries.entry(key).or_insert_with(|| Entry {
            found: Found {
                address: key.0,
                mac: key.1.into(),
                port: key.2,
                config_string: Vec::new(),
                buffers: 0,
                firmware: 0,
                sectors_per_command: 0,
                identify: None,
            },
            tag: tags.take(),
            attempts: 0,
            again: now,
        });
        entry.found.config_string = config.string.to_vec();
        entry.found.buffers = config.buffer_count;
        entry.found.firmware = config.firmware;
        entry.found.sectors_per_command = config.sector_count;
    }

    /// Whether everybody who answered has been identified and the question has been asked often enough for
    /// `wanted` to be one device that was found.
    pub fn is_settled(&self) -> bool {
        !self.entries.is_empty() && self.entries.values().all(|entry| !entry.wants_identify())
    }

    /// What was found, by address, target and port.
    pub fn found(&self) -> impl Iterator<Item = &Found> {
        self.entries.values().map(|entry| &entry.found)
    }
}

impl Conversation for Discovery {
    fn handle_frame(&mut self, now: Instant, port: PortId, bytes: &[u8]) {
        let Ok(frame) = Frame::parse(bytes) else { return };
        let address = frame.header.address;
        let known = self.ports.contains_key(&port) && self.wanted.reaches(address) && !address.is_wildcard();
        if !frame.header.response || frame.header.error.is_some() || !known {
            return;
        }
        let key = (address, frame.ethernet.source.octets(), port);
        match frame.header.command {
            Command::Config => self.handle_config(now, key, &frame),
            Command::Ata => {
                let Some(entry) = self.entries.get_mut(&key) else { return };
                let Ok((ata, data)) = AtaRepr::parse(frame.body) else { return };
                let failed = Status::from_bits_retain(ata.command).failed();
                if frame.header.tag == entry.tag && entry.attempts > 0 && !failed {
                    entry.found.identify = Identify::parse(data).ok();
                }
            }
            _ => {}
        }
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<(PortId, usize)> {
        if self.asked < ASK_AT.len() && now >= self.started + ASK_AT[self.asked] {
            self.asked += 1;
            self.to_ask = self.ports.keys().copied().collect();
        }
        if let Some(port) = self.to_ask.pop_front() {
            let tag = self.tags.take();
            return Some((port, frames::config_query(self.ports[&port].mac, self.wanted, tag, out)));
        }
        let entry = self.entries.values_mut().find(|entry| entry.is_due(now))?;
        entry.attempts += 1;
        entry.again = now + IDENTIFY_EVERY;
        let envelope = Envelope {
            source: self.ports[&entry.found.port].mac,
            destination: entry.found.mac,
            address: entry.found.address,
            tag: entry.tag,
        };
        Some((entry.found.port, frames::identify(&envelope, out)))
    }

    fn poll_timeout(&self, _: Instant) -> Option<Instant> {
        let ask = ASK_AT.get(self.asked).map(|after| self.started + *after);
        self.entries.values().filter(|entry| entry.wants_identify()).map(|entry| entry.again).chain(ask).min()
    }

    /// It goes on as long as its driver listens.
    fn is_over(&self, _: Instant) -> bool {
        false
    }
}

impl Entry {
    fn wants_identify(&self) -> bool {
        self.found.identify.is_none() && self.attempts < IDENTIFY_ATTEMPTS
    }

    fn is_due(&self, now: Instant) -> bool {
        self.wants_identify() && now >= self.again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoe_common::frame::SECTOR;
    use aoe_common::wire::{AtaFlags, EthernetRepr, HeaderRepr, VERSION};

    const PORT: PortId = PortId(3);
    const OURS: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const TARGET: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn discovery() -> Discovery {
        Discovery::new(at(0), Address::ANY, 7, [(PORT, PortInfo { mac: OURS, mtu: 1500 })])
    }

    fn answer(command: Command, tag: u32, version: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 24 + body.len()];
        let ethernet = EthernetRepr { destination: OURS, source: TARGET, vlan: None };
        let header = HeaderRepr { version, response: true, error: None, address: Address::new(0, 1), command, tag };
        Frame::emit_headers(&ethernet, &header, &mut out).copy_from_slice(body);
        out
    }

    fn config_body() -> Vec<u8> {
        let repr = ConfigRepr::answer(16, 0x4019, 2, aoe_common::wire::ConfigCommand::Read, b"hi");
        let mut body = vec![0; repr.wire_len()];
        repr.emit(&mut body);
        body
    }

    #[test]
    fn asks_identifies_and_reports() {
        let mut discovery = discovery();
        let mut out = vec![0; frames::FRAME_MAX];
        let (port, len) = discovery.poll_transmit(at(0), &mut out).unwrap();
        assert_eq!((port, len), (PORT, 60));
        let question = Frame::parse(&out[..len]).unwrap().header;
        assert_eq!((question.address, question.command), (Address::ANY, Command::Config));
        assert!(discovery.poll_transmit(at(0), &mut out).is_none());

        discovery.handle_frame(at(1), PORT, &answer(Command::Config, question.tag, 0, &config_body()));
        assert!(!discovery.is_settled());
        let (_, len) = discovery.poll_transmit(at(1), &mut out).unwrap();
        let question = Frame::parse(&out[..len]).unwrap();
        assert_eq!((question.ethernet.destination, question.header.command), (TARGET, Command::Ata));

        let mut body = vec![0; AtaRepr::WIRE_LEN + SECTOR];
        let ata = AtaRepr { flags: AtaFlags::empty(), feature: 0, count: 0, command: 0x40, registers: 0 };
        let disk = Identify { sectors: 99, model: "M".into(), ..Identify::default() };
        ata.emit(&mut body).copy_from_slice(&disk.emit());
        discovery.handle_frame(at(2), PORT, &answer(Command::Ata, question.header.tag, VERSION, &body));
        assert!(discovery.is_settled());
        let found: Vec<_> = discovery.found().collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].config_string, b"hi");
        assert_eq!(found[0].identify, Some(disk));
    }

    #[test]
    fn a_target_that_does_not_identify_is_still_found() {
        let mut discovery = discovery();
        let mut out = vec![0; frames::FRAME_MAX];
        discovery.handle_frame(at(0), PORT, &answer(Command::Config, 0, 0, &config_body()));
        let mut now = at(0);
        let mut frames = 0;
        while let Some(due) = discovery.poll_timeout(now) {
            now = due.max(now);
            while discovery.poll_transmit(now, &mut out).is_some() {
                frames += 1;
            }
        }
        assert_eq!(frames, 3 + 4, "three questions, four times IDENTIFY, then it is over");
        assert_eq!(discovery.found().next().unwrap().identify, None);
    }

    #[test]
    fn answers_about_others_and_requests_are_ignored() {
        let mut discovery = Discovery::new(at(0), Address::new(5, 5), 7, [(PORT, PortInfo { mac: OURS, mtu: 1500 })]);
        discovery.handle_frame(at(0), PORT, &answer(Command::Config, 0, 1, &config_body()));
        discovery.handle_frame(at(0), PortId(9), &answer(Command::Config, 0, 1, &config_body()));
        discovery.handle_frame(at(0), PORT, &[0; 10]);
        assert_eq!(discovery.found().count(), 0);
    }
}
