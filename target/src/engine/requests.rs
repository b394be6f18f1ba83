//! ATA requests: from the frame to the disk and back to an answer.

use aoe_common::ata::{LOG_STATION_IDENTITY, Status, TrimRange, command, log_page, trim_ranges};
use aoe_common::frame::{FrameBuffer, SECTOR};
use aoe_common::ordering::Footprint;
use aoe_common::planted::{Fault, planted};
use aoe_common::time::Instant;
use aoe_common::wire::{AtaRepr, ErrorCode, Frame};

use super::answers::{ended, succeeded};
use super::ata::{self, Ask, Failure, Geometry, Refusal};
use super::export::{EXPORT_REQUESTS_MAX, Export};
use super::operation::{DiskError, DiskId, DiskOperation, DiskOperationKind, OperationId};
use super::repeats::{Outcome, RequestKey, Seen};
use super::stations::Station;
use super::{Event, PortInfo, ReplyTo, Request, Target, Work, microseconds};

/// A request for the disk that was judged, and is not in the table yet.
struct Job<'a> {
    export: u32,
    to: &'a ReplyTo,
    ata: &'a AtaRepr,
    work: Work,
    footprint: Footprint,
    /// What came along and is needed.
    data: &'a [u8],
}

impl Target {
    pub(super) fn ata_request(&mut self, now: Instant, info: PortInfo, index: u32, to: &ReplyTo, frame: &Frame<'_>) {
        let Ok((ata, data)) = AtaRepr::parse(frame.body) else {
            self.counters.malformed += 1;
            return;
        };
        let export = &mut self.exports[index as usize];
        let identifies = ata.command == command::IDENTIFY_DEVICE;
        if !identifies && !export.access.serves(to.station) {
            export.counters.refused += 1;
            export.ledger.ignored(to.station);
            self.answer_registers(to, Some(ErrorCode::Reserved), &ata);
            return;
        }
        self.stale.hear(now, index, to.station, to.tag);
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
        let job = |work, footprint, data| Job { export: index, to, ata: &ata, work, footprint, data };
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
                self.stations.register(now, to.station, identity);
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
            Ask::CacheOff => self.flush_request(now, index, to, &ata, true),
            Ask::Flush => self.flush_request(now, index, to, &ata, false),
            Ask::Read { lba, sectors, verify } => {
                let footprint = Footprint { start: lba, end: lba + u64::from(sectors), writes: false };
                self.admit(now, &job(Work::Read { sectors, verify }, footprint, &[]), None);
            }
            Ask::Write { lba, sectors, fua } => {
                let durable =
                    fua && !planted(Fault::DurableForgotten) || export.durability.write_is_durable(to.writer());
                let footprint = Footprint { start: lba, end: lba + u64::from(sectors), writes: true };
                let data = &data[..usize::from(sectors) * SECTOR];
                self.change(now, &job(Work::Write { sectors, durable }, footprint, data));
            }
            Ask::Zero { lba, sectors } => {
                let durable = export.durability.write_is_durable(to.writer());
                let footprint = Footprint { start: lba, end: lba + u64::from(sectors), writes: true };
                self.change(now, &job(Work::Zero { sectors, durable }, footprint, &[]));
            }
            Ask::Trim { range_sectors } => {
                let ranges = &data[..usize::from(range_sectors) * SECTOR];
                let durable = export.durability.write_is_durable(to.writer());
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
                    self.change(now, &job(work, footprint, ranges));
                }
            }
        }
    }

    /// A request that changes the disk: run once, however often it comes.
    fn change(&mut self, now: Instant, job: &Job<'_>) {
        let Job { export: index, to, ata, .. } = *job;
        let export = &mut self.exports[index as usize];
        if export.hold.holds(now, to.tag) && !planted(Fault::NoHold) {
            export.counters.held += 1;
            return;
        }
        let by_mac = RequestKey {
            export: index,
            station: Station::Mac(to.station),
            tag: to.tag,
            command: ata.command,
            count: ata.count,
            registers: ata.registers,
        };
        // What it sent before it said who it is, or who was there before it, may come again afterwards.
        let of = |number| RequestKey { station: Station::Identity(number), ..by_mac };
        let (current, former) = self.stations.numbers(now, to.station);
        let current = current.filter(|_| !planted(Fault::IdentityIgnored));
        let former = former.filter(|_| !planted(Fault::FormerForgotten));
        let numbers = current.into_iter().chain(former);
        let mut seen = self.repeats.seen(now, &by_mac);
        for number in numbers {
            if seen == Seen::New {
                seen = self.repeats.seen(now, &of(number));
            }
        }
        let key = current.map_or(by_mac, of);
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
            Seen::New if self.stale.is_stale(now, index, to.station, to.tag, job.footprint) => {
                export.counters.stale += 1;
            }
            Seen::New => {
                if self.admit(now, job, Some(key)) {
                    if planted(Fault::AnsweredBeforeDisk) {
                        self.answer_registers(to, None, &succeeded(ata));
                    }
                    self.repeats.begin(now, key);
                    self.stale.admitted(now, index, to.station, to.tag, job.footprint);
                }
            }
        }
    }

    /// Takes a request into the table and starts it if nothing is in its way. `false`: no room, dropped.
    fn admit(&mut self, now: Instant, job: &Job<'_>, key: Option<RequestKey>) -> bool {
        let Job { export: index, to, ata, work, footprint, data } = *job;
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
        let record = Some(self.exports[index as usize].ledger.taken_in(to.station));
        let buffer = Some(buffer);
        let request =
            Request { export: index, to: *to, ata: *ata, work, buffer, key, record, arrived: now, draining: false };
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
    pub(super) fn start(&mut self, id: OperationId) {
        let request = self.requests[id.0 as usize].as_mut().expect("only known requests start");
        let buffer = request.buffer.take().expect("a request starts once");
        // A flush has none, and of a TRIM its first part counts.
        if let Some(record) = request.record
            && !matches!(request.work, Work::Trim { next: 1.., .. })
        {
            let bytes = request.work.bytes();
            self.exports[request.export as usize].ledger.started(record, request.work.writes(), bytes);
        }
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
    pub(super) fn settle(&mut self, index: u32, id: OperationId) {
        let mut ready = Vec::new();
        self.exports[index as usize].ordering.finish(id, |id| ready.push(id));
        for id in ready {
            self.start(id);
        }
    }

    /// Status and Error registers for what the disk said.
    pub(super) fn judge_result(&mut self, request: &Request, result: Result<(), DiskError>) -> Outcome {
        // A sync may have met the loss of earlier, acknowledged data, and the kernel tells it only once.
        if let Err(DiskError::Lost(errno)) = result {
            self.lose(request.export, errno);
        }
        let export = &mut self.exports[request.export as usize];
        let result = match result {
            // Its own sync came too late to hear that its data is lost.
            Ok(()) if request.work.writes() => export.durability.poisoned().map_or(Ok(()), |e| Err(DiskError::Lost(e))),
            result => result,
        };
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
        if !matches!(error, DiskError::Lost(_)) {
            self.report(Event::DiskFailed { address, error });
        }
        Outcome { status: failure.status.bits(), error: failure.error.bits() }
    }

    fn flush_request(&mut self, now: Instant, index: u32, to: &ReplyTo, ata: &AtaRepr, turn_cache_off: bool) {
        let same = |id: &OperationId| {
            let request = self.requests[id.0 as usize].as_ref().expect("flushes are known requests");
            request.to.station == to.station && request.to.tag == to.tag
        };
        if planted(Fault::FlushSkipped) {
            return self.answer_registers(to, None, &succeeded(ata));
        }
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
            record: None,
            arrived: now,
            draining: false,
        };
        let id = self.insert_request(request);
        let export = &mut self.exports[index as usize];
        if planted(Fault::FlushJoins) && !export.flushes.served.is_empty() {
            export.flushes.served.push(id);
            return;
        }
        export.flushes.waiting.push(id);
        if turn_cache_off {
            export.durability.turn_cache_off();
        }
        self.start_flush(index);
    }

    /// Starts a sync for all flushes that wait, unless one runs: that one may have begun before the writes
    /// they are to cover were answered. One that turns the cache off covers also the writes that are to be answered
    /// from the cache, so that none is afterwards.
    pub(super) fn start_flush(&mut self, index: u32) {
        let Export { flushes, durability, .. } = &self.exports[index as usize];
        if !flushes.served.is_empty() || flushes.waiting.is_empty() {
            return;
        }
        let of = |id: &OperationId| self.requests[id.0 as usize].as_ref().expect("flushes are known requests").work;
        let turns_cache_off = flushes.waiting.iter().any(|id| of(id) == Work::Flush { turn_cache_off: true });
        let is_cached = |request: &Request| request.export == index && request.work.is_cached();
        if turns_cache_off && !durability.cache_is_on() && self.requests.iter().flatten().any(is_cached) {
            return;
        }
        let flushes = &mut self.exports[index as usize].flushes;
        flushes.served = std::mem::take(&mut flushes.waiting);
        let leader = flushes.served[0];
        self.start(leader);
    }

    pub(super) fn flush_ended(&mut self, now: Instant, index: u32, result: Result<(), DiskError>) {
        let export = &mut self.exports[index as usize];
        let served = std::mem::take(&mut export.flushes.served);
        if let Err(error) = result {
            let DiskError::Lost(errno) = error else { panic!("a flush fails by a loss, not as {error:?}") };
            self.lose(index, errno);
        }
        for id in served {
            let mut request = self.take_request(id);
            let export = &mut self.exports[index as usize];
            export.flush_latency.record(microseconds(request.arrived, now));
            let outcome = if export.durability.poisoned().is_none() {
                export.counters.flushes += 1;
                if request.ata.command == command::FLUSH_CACHE_EXT {
                    // Whose writes this made durable; of those that another memory held it says nothing.
                    request.ata.registers = export.config.cache_memory.bits();
                }
                export.durability.flushed(request.to.writer());
                Outcome { status: Status::DRDY.bits(), error: 0 }
            } else {
                export.counters.failures += 1;
                Outcome { status: Failure::DEVICE_FAULT.status.bits(), error: Failure::DEVICE_FAULT.error.bits() }
            };
            self.answer_request(request, outcome);
        }
        self.start_flush(index);
    }
}

/// The range of part `part` of a TRIM whose ranges lie in `buffer`.
pub(super) fn trim_range(buffer: &FrameBuffer, range_sectors: u8, part: u16) -> Option<TrimRange> {
    trim_ranges(buffer.payload(usize::from(range_sectors) * SECTOR)).nth(usize::from(part))
}
