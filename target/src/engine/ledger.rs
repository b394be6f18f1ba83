//! What an export has on record of each station: what it ran for it, and what it did not.
//!
//! By this the target proves from its own books that a station it shut out is out: the number of its writes stands
//! still from the answer of the edit on. A write counts when it is handed to the disk, so the number is never too
//! small; and when the edit is answered none is running, so it is not too large either.
//!
//! There are as many records as an export has requests under way at the most. So there is always one that no request
//! needs, which a new station may have: first one of a station that was only ever ignored, then the one that was not
//! used for longest. A station that is only ignored replaces none, so that a flood of made-up ones costs little.

use aoe_common::hash::FastMap;
use aoe_common::wire::MacAddr;

use super::export::EXPORT_REQUESTS_MAX;

/// Stations on record at the most.
pub const RECORDS_MAX: usize = EXPORT_REQUESTS_MAX;

/// What is on record of a station.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The station.
    pub station: MacAddr,
    /// READ requests handed to the disk.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// WRITE, ZERO and TRIM requests handed to the disk.
    pub writes: u64,
    /// The bytes of the WRITE requests.
    pub write_bytes: u64,
    /// Requests given up because the station was shut out while they waited.
    pub given_up: u64,
    /// Frames that had no effect because the station was shut out.
    pub ignored: u64,
    /// Writes the disk has not ended.
    writing: u32,
    /// Requests under way; while there are any, the record stays.
    held: u32,
    /// Grows with each use.
    used: u64,
}

impl Record {
    /// Writes handed to the disk that it has not ended.
    pub fn writing(&self) -> u32 {
        self.writing
    }

    fn had_work(&self) -> bool {
        self.reads + self.writes + self.given_up > 0
    }
}

/// Names the record of a request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordId(u32);

/// The records of an export.
#[derive(Debug, Default)]
pub struct Ledger {
    records: Vec<Record>,
    by_station: FastMap<MacAddr, u32>,
    /// The record used last: a busy station is found without a search.
    last: usize,
    uses: u64,
    forgotten: u64,
}

impl Ledger {
    /// A request of a station for the disk is taken in. Each ends by [`Self::ended`] or [`Self::given_up`].
    pub fn taken_in(&mut self, station: MacAddr) -> RecordId {
        let at = self.find_or_open(station, true).expect("fewer requests are under way than there are records");
        self.records[at].held += 1;
        RecordId(at as u32)
    }

    /// It is handed to the disk, with so many bytes to move.
    pub fn started(&mut self, id: RecordId, writes: bool, bytes: u64) {
        let record = &mut self.records[id.0 as usize];
        if writes {
            record.writes += 1;
            record.write_bytes += bytes;
            record.writing += 1;
        } else {
            record.reads += 1;
            record.read_bytes += bytes;
        }
    }

    /// The disk has ended it.
    pub fn ended(&mut self, id: RecordId, writes: bool) {
        let record = &mut self.records[id.0 as usize];
        record.writing -= u32::from(writes);
        record.held -= 1;
    }

    /// It is given up, and was never started.
    pub fn given_up(&mut self, id: RecordId) {
        let record = &mut self.records[id.0 as usize];
        record.given_up += 1;
        record.held -= 1;
    }

    /// A frame had no effect because its station is shut out.
    pub fn ignored(&mut self, station: MacAddr) {
        if let Some(at) = self.find_or_open(station, false) {
            self.records[at].ignored += 1;
        }
    }

    /// What is on record of a station.
    pub fn of(&self, station: MacAddr) -> Option<&Record> {
        self.by_station.get(&station).map(|at| &self.records[*at as usize])
    }

    /// All records, in no order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// Records of stations that had something run and were replaced.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn find_or_open(&mut self, station: MacAddr, for_work: bool) -> Option<usize> {
        let is_last = self.records.get(self.last).is_some_and(|record| record.station == station);
        if !is_last {
            let found = self.by_station.get(&station).map(|at| *at as usize);
            self.last = found.or_else(|| self.open(station, for_work))?;
        }
        self.uses += 1;
        self.records[self.last].used = self.uses;
        Some(self.last)
    }

    fn open(&mut self, station: MacAddr, for_work: bool) -> Option<usize> {
        let record = Record {
            station,
            reads: 0,
            read_bytes: 0,
            writes: 0,
            write_bytes: 0,
            given_up: 0,
            ignored: 0,
            writing: 0,
            held: 0,
            used: self.uses,
        };
        let at = if self.records.len() < RECORDS_MAX {
            self.records.push(record);
            self.records.len() - 1
        } else if for_work {
            let free = self.records.iter().enumerate().filter(|(_, old)| old.held == 0);
            let (at, _) = free.min_by_key(|(_, old)| (old.had_work(), old.used))?;
            let old = std::mem::replace(&mut self.records[at], record);
            self.forgotten += u64::from(old.had_work());
            self.by_station.remove(&old.station);
            at
        } else {
            return None;
        };
        self.by_station.insert(station, at as u32);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: usize) -> MacAddr {
        MacAddr(2, 0, 0, 0, (n >> 8) as u8, n as u8)
    }

    fn write(ledger: &mut Ledger, station: MacAddr) {
        let id = ledger.taken_in(station);
        ledger.started(id, true, 512);
        ledger.ended(id, true);
    }

    #[test]
    fn each_station_has_its_own_figures() {
        let mut ledger = Ledger::default();
        write(&mut ledger, mac(1));
        write(&mut ledger, mac(2));
        write(&mut ledger, mac(1));
        let read = ledger.taken_in(mac(2));
        ledger.started(read, false, 512);
        ledger.ended(read, false);
        let waiting = ledger.taken_in(mac(1));
        let running = ledger.taken_in(mac(1));
        ledger.started(running, true, 512);
        ledger.given_up(waiting);
        ledger.ignored(mac(3));
        let figures = |n| ledger.of(mac(n)).map(|it| (it.reads, it.writes, it.writing, it.given_up, it.ignored));
        assert_eq!(figures(1), Some((0, 3, 1, 1, 0)));
        assert_eq!(figures(2), Some((1, 1, 0, 0, 0)));
        assert_eq!(figures(3), Some((0, 0, 0, 0, 1)));
        assert_eq!(figures(4), None);
        let bytes = |n| ledger.of(mac(n)).map(|it| (it.read_bytes, it.write_bytes));
        assert_eq!((bytes(1), bytes(2)), (Some((0, 3 * 512)), Some((512, 512))));
        assert_eq!(ledger.records().count(), 3);
    }

    #[test]
    fn a_new_station_replaces_the_least_needed_record() {
        let mut ledger = Ledger::default();
        // 0 has a request under way, 1 was ignored only, all others had a write.
        let held = ledger.taken_in(mac(0));
        ledger.ignored(mac(1));
        (2..RECORDS_MAX).for_each(|n| write(&mut ledger, mac(n)));
        write(&mut ledger, mac(2));

        write(&mut ledger, mac(1000));
        assert_eq!((ledger.of(mac(1)), ledger.forgotten()), (None, 0));
        write(&mut ledger, mac(1001));
        assert_eq!((ledger.of(mac(3)), ledger.forgotten()), (None, 1), "2 was used after it, 0 is in use");
        assert!(ledger.of(mac(0)).is_some() && ledger.of(mac(2)).is_some());
        ledger.started(held, true, 512);
        assert_eq!(ledger.of(mac(0)).map(Record::writing), Some(1));
    }

    #[test]
    fn a_flood_of_ignored_stations_costs_no_record_of_work_and_no_memory() {
        let mut ledger = Ledger::default();
        for n in 0..RECORDS_MAX {
            ledger.ignored(mac(n));
        }
        write(&mut ledger, mac(2000));
        for n in 3000..3000 + 2 * RECORDS_MAX {
            ledger.ignored(mac(n));
        }
        assert_eq!((ledger.records.len(), ledger.by_station.len()), (RECORDS_MAX, RECORDS_MAX));
        assert_eq!(ledger.of(mac(2000)).map(|record| record.writes), Some(1));
        assert_eq!(ledger.of(mac(3000)), None);
        (5000..5000 + RECORDS_MAX).for_each(|n| write(&mut ledger, mac(n)));
        ledger.ignored(mac(1));
        assert_eq!(ledger.of(mac(1)), None, "nothing that ran is replaced by what did not");
    }

    #[test]
    fn with_every_record_but_one_in_use_there_is_room_for_one_more() {
        let mut ledger = Ledger::default();
        let held: Vec<_> = (0..RECORDS_MAX - 1).map(|n| ledger.taken_in(mac(n))).collect();
        for n in 1000..1010 {
            write(&mut ledger, mac(n));
        }
        assert_eq!(ledger.forgotten(), 9);
        for id in held {
            ledger.given_up(id);
        }
        assert!(ledger.records().all(|record| record.held == 0));
    }
}
