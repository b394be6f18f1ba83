//! Recognising a request that has been here before.
//!
//! Networks repeat frames and initiators resend them. A repeated request that changes the disk must never
//! run twice: its second run could undo a newer write. A request is the same when station, tag, command,
//! LBA and count are the same; iPXE, WinAoE, Plan 9 and our own initiator resend under the same tag.
//!
//! What is done is remembered for `MEMORY` after it was last asked for, for at most `REMEMBERED_MAX`
//! requests; beyond that the oldest are forgotten early, which `forgotten_early` counts. So at low speed a
//! request is known for longer than any initiator keeps resending it, and at any speed for longer than a
//! copy of it lives in a network.

use aoe_common::hash::FastSet;
use aoe_common::planted::{Fault, planted};
use aoe_common::time::{Duration, Instant};

use super::recent::{Recent, Record};
use super::stations::Station;

/// How long a request is known after it was last seen: longer than the 180 s after which aoe.ko and, by
/// default, our initiator give up.
pub const MEMORY: Duration = Duration::from_secs(MEMORY_SECONDS as u64);
const MEMORY_SECONDS: u32 = 200;

/// Requests remembered at the most: at 70 000 writes a second, those of the last 15 s.
pub const REMEMBERED_MAX: usize = 1 << 20;

/// Exports told apart.
pub const EXPORTS_MAX: usize = 1 << 15;

/// What makes two requests the same. The export is part of it, as one wildcard request reaches several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// Index of the export.
    pub export: u32,
    /// The station.
    pub station: Station,
    /// Its tag.
    pub tag: u32,
    /// ATA command register.
    pub command: u8,
    /// ATA count register.
    pub count: u8,
    /// ATA LBA registers.
    pub registers: u64,
}

/// How a request ended: the Status and Error registers of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Status register.
    pub status: u8,
    /// Error register.
    pub error: u8,
}

/// What is known about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Never seen, or so long ago that it is forgotten.
    New,
    /// Running or waiting: its answer is still to come.
    Running,
    /// Done: to be answered so again.
    Done(Outcome),
}

/// A key without room between its parts, in halves so that no room is needed around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct DenseKey {
    /// What kind of station, export, station.
    who: (u32, u32),
    /// Registers: count, command, LBA.
    what: (u32, u32),
    tag: u32,
}

impl From<&RequestKey> for DenseKey {
    fn from(key: &RequestKey) -> Self {
        const PART: u32 = 48;
        let (kind, station) = match key.station {
            Station::Mac(mac) => (0, mac.octets().iter().fold(0, |all, octet| all << 8 | u64::from(*octet))),
            Station::Identity(number) => (1, number),
        };
        assert!((key.export as usize) < EXPORTS_MAX && station >> PART == 0 && key.registers >> PART == 0);
        let who = kind << 63 | u64::from(key.export) << PART | station;
        let what = u64::from(u16::from_be_bytes([key.count, key.command])) << PART | key.registers;
        let halves = |whole: u64| ((whole >> 32) as u32, whole as u32);
        Self { who: halves(who), what: halves(what), tag: key.tag }
    }
}

/// A request that ended.
#[derive(Debug)]
struct Ended {
    key: DenseKey,
    /// Second from which on it is not known any more.
    until: u32,
    outcome: Outcome,
    /// Asked about since it got its place among the others.
    asked: bool,
}

impl Record for Ended {
    type Key = DenseKey;

    fn key(&self) -> DenseKey {
        self.key
    }
}

/// The requests that changed something, or are about to.
#[derive(Debug)]
pub struct Repeats {
    running: FastSet<DenseKey>,
    ended: Recent<Ended>,
    forgotten_early: u64,
}

impl Default for Repeats {
    fn default() -> Self {
        Self { running: FastSet::default(), ended: Recent::new(REMEMBERED_MAX), forgotten_early: 0 }
    }
}

impl Repeats {
    /// What is known about a request. One that ended is known longer for being asked about.
    pub fn seen(&mut self, now: Instant, key: &RequestKey) -> Seen {
        let key = DenseKey::from(key);
        if planted(Fault::NoMemory) {
            return Seen::New;
        }
        if self.running.contains(&key) {
            return if planted(Fault::RunningForgotten) { Seen::New } else { Seen::Running };
        }
        let now = second(now);
        match self.ended.find(&key).and_then(|number| self.ended.get_mut(number)) {
            Some(_) if planted(Fault::MemoryTooShort) => Seen::New,
            Some(known) if known.until > now => {
                (known.until, known.asked) = (now + MEMORY_SECONDS, true);
                Seen::Done(known.outcome)
            }
            _ => Seen::New,
        }
    }

    /// A new request starts.
    pub fn begin(&mut self, now: Instant, key: RequestKey) {
        self.forget(second(now));
        let forgets = planted(Fault::NoMemory) || planted(Fault::RunningForgotten);
        assert!(self.running.insert((&key).into()) || forgets, "a running request begins again");
    }

    /// A request ended and is remembered so.
    pub fn end(&mut self, now: Instant, key: RequestKey, outcome: Outcome) {
        let key = DenseKey::from(&key);
        let forgets = planted(Fault::NoMemory) || planted(Fault::RunningForgotten);
        assert!(self.running.remove(&key) || forgets, "only requests that began end, and once");
        let now = second(now);
        self.forget(now);
        self.ended.push(Ended { key, until: now + MEMORY_SECONDS, outcome, asked: false });
    }

    /// A request was given up before it changed anything, and is to be taken for new if it comes again.
    pub fn abandon(&mut self, key: &RequestKey) {
        assert!(self.running.remove(&DenseKey::from(key)), "only running requests are abandoned");
    }

    /// Requests that had to be forgotten before their time.
    pub fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    /// Drops what is over, and makes room for one more: a few at a time so that no frame pays for many.
    fn forget(&mut self, now: u32) {
        const STEPS: usize = 4;
        for _ in 0..STEPS {
            let full = self.ended.len() == REMEMBERED_MAX;
            let Some(oldest) = self.ended.oldest() else { return };
            let is_over = oldest.until <= now;
            if !is_over && !full && !oldest.asked {
                return;
            }
            let known = self.ended.take_oldest().expect("just seen");
            if !is_over && full {
                self.forgotten_early += 1;
            } else if !is_over {
                // Asked about since: it stays, in its new place.
                self.ended.push(Ended { asked: false, ..known });
            }
        }
    }
}

/// Seconds since the start of time, of which 32 bits last for a century.
fn second(now: Instant) -> u32 {
    now.since(Instant::ZERO).as_secs() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoe_common::wire::MacAddr;

    const OK: Outcome = Outcome { status: 0x40, error: 0 };

    fn key(tag: u32) -> RequestKey {
        RequestKey {
            export: 0,
            station: Station::Mac(MacAddr(2, 0, 0, 0, 0, 1)),
            tag,
            command: 0x34,
            count: 1,
            registers: 7,
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn running_then_done_then_forgotten() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.seen(at(0), &key(1)), Seen::New);
        repeats.begin(at(0), key(1));
        assert_eq!(repeats.seen(at(100), &key(1)), Seen::Running);
        repeats.end(at(100), key(1), OK);
        assert_eq!(repeats.seen(at(110), &key(1)), Seen::Done(OK));
        assert_eq!(repeats.seen(at(309), &key(1)), Seen::Done(OK), "asking keeps it known");
        assert_eq!(repeats.seen(at(509), &key(1)), Seen::New);
        repeats.begin(at(510), key(2));
        repeats.begin(at(710), key(3));
        assert_eq!((repeats.running.len(), repeats.ended.len()), (2, 0));
    }

    #[test]
    fn a_key_used_again_after_its_time() {
        let mut repeats = Repeats::default();
        repeats.begin(at(0), key(1));
        repeats.end(at(0), key(1), OK);
        assert_eq!(repeats.seen(at(200), &key(1)), Seen::New);
        repeats.begin(at(200), key(1));
        assert_eq!(repeats.seen(at(200), &key(1)), Seen::Running);
        repeats.end(at(201), key(1), OK);
        repeats.begin(at(399), key(2));
        assert_eq!(
            repeats.seen(at(400), &key(1)),
            Seen::Done(OK),
            "the old place in the queue does not end the new one"
        );
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let mut repeats = Repeats::default();
        repeats.begin(at(0), key(1));
        let others = [
            RequestKey { export: 1, ..key(1) },
            RequestKey { station: Station::Identity(0x0200_0000_0001), ..key(1) },
            RequestKey { tag: 2, ..key(1) },
            RequestKey { command: 0x35, ..key(1) },
            RequestKey { count: 2, ..key(1) },
            RequestKey { registers: 8, ..key(1) },
        ];
        for other in &others {
            assert_eq!(repeats.seen(at(0), other), Seen::New);
        }
        repeats.end(at(0), key(1), OK);
        for other in &others {
            assert_eq!(repeats.seen(at(0), other), Seen::New);
        }
        assert_eq!(repeats.seen(at(0), &key(1)), Seen::Done(OK));
    }

    #[test]
    fn memory_is_bounded() {
        let mut repeats = Repeats::default();
        for tag in 0..REMEMBERED_MAX as u32 + 1000 {
            repeats.begin(at(0), key(tag));
            repeats.end(at(0), key(tag), OK);
        }
        assert_eq!((repeats.ended.len(), repeats.ended.keys()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert_eq!((repeats.running.len(), repeats.forgotten_early()), (0, 1000));
        assert_eq!(repeats.seen(at(1), &key(0)), Seen::New, "the oldest went first");
        assert_eq!(repeats.seen(at(1), &key(REMEMBERED_MAX as u32)), Seen::Done(OK));
    }

    #[test]
    fn what_is_asked_about_does_not_go_first_unless_memory_is_short() {
        let mut repeats = Repeats::default();
        for tag in 0..10 {
            repeats.begin(at(0), key(tag));
            repeats.end(at(0), key(tag), OK);
        }
        assert_eq!(repeats.seen(at(150), &key(3)), Seen::Done(OK));
        // Each new one takes some of what is over along.
        (100..110).for_each(|tag| repeats.begin(at(250), key(tag)));
        assert_eq!((repeats.ended.len(), repeats.seen(at(250), &key(3))), (1, Seen::Done(OK)));
        assert_eq!(repeats.forgotten_early(), 0);
    }

    #[test]
    fn a_known_request_is_small() {
        assert_eq!(size_of::<Ended>(), 28);
    }

    #[test]
    fn an_abandoned_request_is_new_again() {
        let mut repeats = Repeats::default();
        repeats.begin(at(0), key(1));
        repeats.abandon(&key(1));
        assert_eq!(repeats.seen(at(0), &key(1)), Seen::New);
    }
}
