//! What comes back: the end of flights, of requests, and of waits for both.

use aoe_common::ata::{AtaError, CacheMemory, Status};
use aoe_common::frame::SECTOR;
use aoe_common::planted::{Fault, planted};
use aoe_common::time::Instant;
use aoe_common::wire::{AtaRepr, ErrorCode, Frame};

use super::super::PortId;
use super::super::path::{PathState, Question};
use super::super::quarantine::Strays;
use super::{BAD_ANSWERS_MAX, Completion, Device, Event, Flight, IoError, RESENT_MAX, Work};

impl Device {
    pub(super) fn handle_ata(&mut self, now: Instant, port: PortId, frame: &Frame<'_>) {
        let Ok((ata, data)) = AtaRepr::parse(frame.body) else { return };
        let Some(index) = self.find_path(port, frame.ethernet.source) else {
            self.stats.strays += 1;
            return;
        };
        let tag = frame.header.tag;
        if self.paths[index].question_tag == Some(tag) {
            self.paths[index].question_tag = None;
            match self.paths[index].question {
                Question::Identify => self.handle_identify(now, index, judge(frame.header.error, &ata), data),
                Question::Register => {
                    self.paths[index].registered = judge(frame.header.error, &ata).is_ok();
                    self.path_is_up(now, index);
                }
            }
            return;
        }
        let Some(flight_id) = self.by_tag.get(&tag).copied() else {
            if let Some(at) = self.unawaited.iter().position(|unawaited| *unawaited == tag) {
                self.unawaited.remove(at);
                return;
            }
            if self.hear_measured(now, index, tag, judge(frame.header.error, &ata), data.len()) {
                return;
            }
            self.stats.strays += 1;
            self.hear_of_copy(tag);
            if self.quarantine.stray_answered(frame.ethernet.source, tag) {
                self.release_parked(now);
            }
            return;
        };
        let flight = self.flights[flight_id as usize].as_mut().expect("tags name flights");
        let asked = flight.paths_used & 1 << index != 0 || planted(Fault::AnyPathAnswers);
        if !asked || self.paths[index].state == PathState::Foreign {
            self.stats.strays += 1;
            return;
        }
        let active = self.requests[flight.request as usize].as_mut().expect("flights belong to requests");
        let result = judge(frame.header.error, &ata);
        let bytes = flight.sectors as usize * SECTOR;
        if result == Err(IoError::Protocol(ErrorCode::BadArgument))
            && active.work.carries_sectors()
            && flight.sectors > 1
        {
            // It takes less in one command than it said: its MTU has changed. How much, it says when it is asked; until
            // then half of what it refused is tried.
            self.paths[index].offered = self.paths[index].offered.min(flight.sectors as u8 / 2);
            let info = *self.ports.get(&port).expect("frames come in by known ports");
            self.ask(port, info);
            self.lose_flight(flight_id);
            return;
        }
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
        let (work, mark, attempts, first_sent) = (active.work, active.mark, flight.attempts, flight.first_sent);
        let result = match result {
            Ok(()) if work == Work::Flush => {
                self.hear_memory_of_flush(index, &ata);
                if !self.may_flush(index) {
                    self.lose_flight(flight_id);
                    return;
                }
                self.flush_answered(index, mark)
            }
            Ok(()) if work.is_volatile() => {
                let is_cached = self.disk.as_ref().is_some_and(|disk| disk.write_cache);
                if is_cached && self.paths[index].memory.is_some() {
                    self.unflushed.written();
                }
                Ok(())
            }
            result => result,
        };
        self.learn_of_losses(now, flight_id);
        let path = &mut self.paths[index];
        if attempts == 1 && work.carries_sectors() {
            path.rtt.measured(now.since(first_sent));
        }
        path.losses = 0;
        path.window.answered(now, first_sent);
        self.waiting_since = Some(now);
        self.end_flight(now, flight_id, result);
    }

    /// What an answer tells about the frames sent before it, and about its own if that had been taken for lost.
    fn learn_of_losses(&mut self, now: Instant, flight_id: u32) {
        let flight = self.flights[flight_id as usize].as_mut().expect("only known flights are answered");
        let path = &mut self.paths[flight.path];
        if flight.early == 0 {
            if let (Some((kind, number)), 1) = (flight.place, flight.attempts) {
                flight.place = None;
                path.recovery(kind).answered(now, number, now.since(flight.last_sent));
            }
            return;
        }
        let active = self.requests[flight.request as usize].as_ref().expect("flights belong to requests");
        let Some(kind) = self.disk.as_ref().and_then(|disk| active.work.kind(disk)) else { return };
        let was_resent = flight.attempts > 1;
        let after = (was_resent && !flight.lost).then(|| now.since(flight.last_sent));
        if !path.recovery(kind).answered_again(now, after) {
            path.window.not_lost();
        } else if was_resent {
            if self.resent.len() == RESENT_MAX {
                self.resent.pop_front();
            }
            self.resent.push_back((flight.tag, flight.path, kind));
        }
    }

    /// A flight that is over was answered once more: if it was sent again early, that was not needed.
    fn hear_of_copy(&mut self, tag: u32) {
        if let Some(at) = self.resent.iter().position(|(resent, ..)| *resent == tag) {
            let (_, index, kind) = self.resent.remove(at).expect("just found");
            self.paths[index].recovery(kind).not_needed();
            self.paths[index].window.not_lost();
        }
    }

    /// Whether a flush by a path says that everything is durable, as far as any other live one could.
    pub(super) fn may_flush(&self, index: usize) -> bool {
        let is_held = |index: usize| self.unflushed.is_held_by(self.paths[index].memory);
        is_held(index) || !(0..self.paths.len()).any(|other| self.paths[other].is_live() && is_held(other))
    }

    /// A target that has flushed says in which memory it kept what was to be flushed.
    fn hear_memory_of_flush(&mut self, index: usize, ata: &AtaRepr) {
        if self.disk.as_ref().is_some_and(|disk| disk.cache_memory.is_some() && disk.flush_ext) {
            self.hear_memory(index, CacheMemory::from_bits(ata.registers));
        }
    }

    /// A target has flushed: was everything still there?
    fn flush_answered(&mut self, index: usize, mark: u64) -> Result<(), IoError> {
        if self.unflushed.flushed(self.paths[index].memory, mark) {
            self.report(Event::CacheLost);
        }
        if self.unflushed.is_lost() { Err(IoError::CacheLost) } else { Ok(()) }
    }

    /// A path's target says where it keeps writes that are not durable.
    pub(super) fn hear_memory(&mut self, index: usize, memory: CacheMemory) {
        self.paths[index].memory = Some(memory);
        if self.unflushed.heard(memory) {
            self.report(Event::CacheLost);
        }
    }

    /// A part is done, or has failed for good.
    pub(super) fn end_flight(&mut self, now: Instant, flight_id: u32, result: Result<(), IoError>) {
        let flight = self.drop_flight(flight_id);
        let active = self.requests[flight.request as usize].as_mut().expect("flights belong to requests");
        let network_repeats = self.config.network_repeats;
        let refused = result.is_err_and(IoError::is_refusal);
        if active.work.writes() && (flight.attempts > 1 || network_repeats || refused) {
            let mut used = self.paths.iter().enumerate().filter(|(index, _)| flight.paths_used & 1 << index != 0);
            let first = used.next().expect("an answered flight was sent").1.mac;
            // Of two targets that share a disk, neither knows what the other has run.
            let target = used.all(|(_, path)| path.mac == first).then_some(first);
            // A target remembers what it ran, not what it refused: a copy of that it may run once it refuses no more.
            let recognises = !refused && self.disk.as_ref().is_some_and(|disk| disk.exactly_once);
            if target.is_none() && !planted(Fault::TwinsTrusted) || !recognises {
                let start = active.lba + flight.offset;
                // Where answers are repeated, too, their number does not tell which copies have arrived. Nor does it
                // when a copy may be at either of two targets.
                let target = target.filter(|_| !network_repeats && !refused);
                let left = flight.attempts - 1;
                let strays = target.map(|target| Strays { tag: flight.tag, target, left });
                let until = flight.last_sent.max(now) + self.config.frame_life;
                self.quarantine.add(start, start + flight.sectors, until, strays);
            }
        }
        if let Err(error) = result
            && !planted(Fault::ErrorSwallowed)
        {
            active.error.get_or_insert(error);
        }
        if active.flights == 0 && !active.has_unsent() {
            self.end_request(now, flight.request);
        }
    }

    /// Takes a flight out of the tables.
    pub(super) fn drop_flight(&mut self, flight_id: u32) -> Flight {
        let flight = self.flights[flight_id as usize].take().expect("a flight ends once");
        self.free_flights.push(flight_id);
        self.by_tag.remove(&flight.tag);
        let path = &mut self.paths[flight.path];
        if !flight.lost {
            path.in_flight -= 1;
        }
        if let Some((kind, number)) = flight.place {
            path.recovery(kind).over(number);
        }
        let active = self.requests[flight.request as usize].as_mut().expect("flights belong to requests");
        active.flights -= 1;
        flight
    }

    pub(super) fn end_request(&mut self, now: Instant, slot: u32) {
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
            active.mark = self.unflushed.mark();
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
    pub(super) fn release(&mut self, now: Instant, slot: u32) {
        let active = self.requests[slot as usize].as_mut().expect("only known requests are released");
        if self.quarantine.holds(now, active.lba, active.end()).is_some() {
            self.stats.waits += 1;
            self.parked.push(slot);
        } else {
            active.released = true;
            self.unsent.push_back(slot);
        }
    }

    pub(super) fn release_parked(&mut self, now: Instant) {
        for slot in std::mem::take(&mut self.parked) {
            self.release(now, slot);
        }
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
