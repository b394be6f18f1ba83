//! What goes out next: lost parts first, then new ones, on a path that has room.

use aoe_common::ata::{TRIM_ENTRIES_PER_SECTOR, command, encode_trim, feature};
use aoe_common::frame::SECTOR;
use aoe_common::planted::{Fault, planted};
use aoe_common::time::Instant;
use aoe_common::wire::{AtaFlags, AtaRepr, LBA28_MAX};

use super::super::PortId;
use super::super::frames::{self, Envelope};
use super::{Device, EARLY_MAX, Flight, SLOW_TIMEOUT, TRIM_RANGE_SECTORS_MAX, Work, ZERO_SECTORS_MAX};

impl Device {
    /// A path for this work with room for one more frame, in turn.
    fn choose_path(&mut self, work: Work) -> Option<usize> {
        let count = self.paths.len();
        let mut in_turn = (0..count).map(|step| (self.next_path + step) % count);
        let index = in_turn.find(|index| self.paths[*index].has_room() && self.serves(*index, work))?;
        self.next_path = index + 1;
        Some(index)
    }

    /// The same, on the given port if that has one.
    fn choose_path_like(&mut self, port: PortId, work: Work) -> Option<usize> {
        let mut paths = self.paths.iter().enumerate();
        let same_port =
            paths.position(|(index, path)| path.port == port && path.has_room() && self.serves(index, work));
        same_port.or_else(|| self.choose_path(work))
    }

    /// Not everybody's flush is worth something.
    fn serves(&self, index: usize, work: Work) -> bool {
        work != Work::Flush || self.may_flush(index)
    }

    /// A lost flight that can be sent again now: on its own path while that lives, otherwise on another.
    ///
    /// A target knows a repeated write by our identity (or MAC address, where it does not know that), its tag,
    /// place and length. A write that would lose one of these, because it has to leave by another port or to be
    /// cut into smaller parts, waits until the network holds no copy of it any more: such a copy would be run
    /// like a new write, over whatever anybody wrote in between.
    pub(super) fn next_resend(&mut self, now: Instant) -> Option<u32> {
        self.held_until = None;
        let mut at = 0;
        while let Some(flight_id) = self.resend.get(at).copied() {
            let Some(flight) = self.flights[flight_id as usize].as_ref().filter(|flight| flight.lost) else {
                self.resend.remove(at);
                continue;
            };
            let (source, sectors) = (flight.source, flight.sectors);
            let safe_from = flight.last_sent + self.config.frame_life;
            let registered = flight.registered;
            let work = self.requests[flight.request as usize].as_ref().expect("flights belong to requests").work;
            let old = flight.path;
            let path = if self.paths[old].is_live() && self.serves(old, work) {
                self.paths[old].has_room().then_some(old)
            } else {
                self.choose_path_like(self.paths[old].port, work)
            };
            let Some(path) = path else {
                at += 1;
                continue;
            };
            let too_long = work.payload_sectors(sectors) > u64::from(self.paths[path].sectors());
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
    pub(super) fn next_part(&mut self, now: Instant) -> Option<u32> {
        loop {
            let slot = *self.unsent.front()?;
            let Some(active) = self.requests[slot as usize].as_ref().filter(|active| active.has_unsent()) else {
                self.unsent.pop_front();
                continue;
            };
            let work = active.work;
            let path = self.choose_path(work)?;
            let active = self.requests[slot as usize].as_mut().expect("just seen");
            // A target that does not trim (any more) refuses the command.
            let trim_sectors = self.disk.as_ref().map_or(1, |disk| disk.trim_sectors_max.max(1));
            let trim_sectors = trim_sectors.min(u16::from(self.paths[path].sectors()));
            let most = match active.work {
                Work::Flush => 1,
                Work::ZeroCommand => ZERO_SECTORS_MAX,
                Work::Trim => u64::from(trim_sectors) * TRIM_ENTRIES_PER_SECTOR as u64 * TRIM_RANGE_SECTORS_MAX,
                Work::Read | Work::Write { .. } | Work::ZeroData { .. } => u64::from(self.paths[path].sectors()),
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
            let tag = self.fresh_tag();
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
                timeouts: 0,
                early: 0,
                place: None,
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

    /// Tags come round again; one that still waits for its answer is passed over.
    pub(super) fn fresh_tag(&mut self) -> u32 {
        let tag = std::iter::repeat_with(|| self.tags.take()).find(|tag| !self.by_tag.contains_key(tag));
        tag.expect("there are more tags than flights")
    }

    /// Writes a flight's frame and counts it as under way.
    pub(super) fn send_flight(&mut self, now: Instant, flight_id: u32, out: &mut [u8]) -> (PortId, usize) {
        let flight = self.flights[flight_id as usize].as_mut().expect("only known flights are sent");
        let active = self.requests[flight.request as usize].as_ref().expect("flights belong to requests");
        let path = &mut self.paths[flight.path];
        assert!(flight.lost, "a flight is under way once");
        if planted(Fault::NewTags) && flight.attempts > 0 {
            self.by_tag.remove(&flight.tag);
            flight.tag = self.tags.take();
            self.by_tag.insert(flight.tag, flight_id);
        }
        flight.lost = false;
        flight.attempts += 1;
        flight.registered &= path.registered;
        flight.last_sent = now;
        flight.paths_used |= 1 << flight.path;
        let kind = self.disk.as_ref().and_then(|disk| active.work.kind(disk)).filter(|_| flight.early < EARLY_MAX);
        flight.place = kind.map(|kind| (kind, path.recovery(kind).sent(now, flight_id)));
        let wait = path.rtt.timeout(flight.timeouts);
        flight.deadline = now + if active.work.carries_sectors() { wait } else { wait.max(SLOW_TIMEOUT) };
        path.in_flight += 1;
        if flight.attempts > 1 {
            path.resends += 1;
            self.stats.resends += 1;
        }
        self.flights_due = Some(self.flights_due.map_or(flight.deadline, |due| due.min(flight.deadline)));

        let port = path.port;
        let late = u64::from(planted(Fault::SplitOffByOne) && flight.offset > 0);
        let lba = active.lba + flight.offset - late;
        let count = flight.sectors;
        let start = flight.offset as usize * SECTOR;
        let source = self.ports.get(&port).expect("live paths have a port").mac;
        flight.source = Some(source);
        let envelope = Envelope { source, destination: path.mac, address: self.config.address, tag: flight.tag };
        // A range that 28 bits cannot name goes out extended, for the target to refuse.
        let lba48 = self.disk.as_ref().is_none_or(|disk| disk.lba48) || lba + count > LBA28_MAX + 1;
        let bytes = if active.work.carries_sectors() { count as usize * SECTOR } else { 0 };
        let len = match active.work {
            Work::Read => frames::ata_request(&envelope, &read_command(lba48, lba, count), 0, |_| {}, out),
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

    pub(super) fn flush_command(&self) -> AtaRepr {
        let extended = self.disk.as_ref().is_none_or(|disk| disk.flush_ext);
        let command = if extended { command::FLUSH_CACHE_EXT } else { command::FLUSH_CACHE };
        transfer(command, AtaFlags::empty(), extended, 0, 0)
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

pub(super) fn read_command(lba48: bool, lba: u64, count: u64) -> AtaRepr {
    let command = if lba48 { command::READ_SECTORS_EXT } else { command::READ_SECTORS };
    transfer(command, AtaFlags::empty(), lba48, lba, count)
}

fn write_command(lba48: bool, fua: bool) -> u8 {
    match (lba48, fua) {
        (true, true) => command::WRITE_DMA_FUA_EXT,
        (true, false) => command::WRITE_SECTORS_EXT,
        (false, _) => command::WRITE_SECTORS,
    }
}
