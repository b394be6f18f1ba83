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

use std::collections::{HashMap, VecDeque};

use aoe_common::time::{Duration, Instant};

use super::stations::Station;

/// How long a request is known after it was last seen: longer than the 180 s after which aoe.ko and, by
/// default, our initiator give up.
pub const MEMORY: Duration = Duration::from_secs(200);

/// Requests remembered at the most: at 70 000 writes a second, those of the last 15 s.
pub const REMEMBERED_MAX: usize = 1 << 20;

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

#[derive(Debug)]
struct Known {
    outcome: Option<Outcome>,
    until: Instant,
}

/// The requests that changed something, or are about to.
#[derive(Debug, Default)]
pub struct Repeats {
    known: HashMap<RequestKey, Known>,
    /// Ended requests in the order in which to look at them again.
    ended: VecDeque<(Instant, RequestKey)>,
    forgotten_early: u64,
}

impl Repeats {
    /// What is known about a request. One that ended is known longer for being asked about.
    pub fn seen(&mut self, now: Instant, key: &RequestKey) -> Seen {
        match self.known.get_mut(key) {
            None => Seen::New,
            Some(Known { outcome: None, .. }) => Seen::Running,
            Some(Known { outcome: Some(_), until }) if *until <= now => Seen::New,
            Some(Known { outcome: Some(outcome), until }) => {
                *until = now + MEMORY;
                Seen::Done(*outcome)
            }
        }
    }

    /// A new request starts.
    pub fn begin(&mut self, now: Instant, key: RequestKey) {
        self.forget(now);
        let before = self.known.insert(key, Known { outcome: None, until: now });
        // One that ended too long ago to count may still lie here; it keeps its place in `ended`, which then
        // finds it running or not yet due.
        assert!(before.is_none_or(|known| known.outcome.is_some()), "a running request begins again");
    }

    /// A request ended and is remembered so.
    pub fn end(&mut self, now: Instant, key: RequestKey, outcome: Outcome) {
        let known = self.known.get_mut(&key).expect("only requests that began end");
        assert!(known.outcome.is_none(), "a request ends once");
        *known = Known { outcome: Some(outcome), until: now + MEMORY };
        self.ended.push_back((now + MEMORY, key));
    }

    /// A request was given up before it changed anything, and is to be taken for new if it comes again.
    pub fn abandon(&mut self, key: &RequestKey) {
        let known = self.known.remove(key);
        assert!(known.is_some_and(|known| known.outcome.is_none()), "only running requests are abandoned");
    }

    /// Requests that had to be forgotten before their time.
    pub fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    /// Requests known now.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Drops what is over, a few at a time so that no frame pays for many.
    fn forget(&mut self, now: Instant) {
        const STEPS: usize = 4;
        for _ in 0..STEPS {
            let full = self.known.len() >= REMEMBERED_MAX;
            match self.ended.front() {
                Some((due, _)) if *due <= now || full => {}
                _ => return,
            }
            let (due, key) = self.ended.pop_front().expect("just seen");
            let Some(known) = self.known.get(&key) else { continue };
            if known.outcome.is_none() {
                continue;
            }
            if known.until > now && due <= now {
                // Asked about since: it stays, with its new time.
                self.ended.push_back((known.until, key));
                continue;
            }
            if known.until > now {
                self.forgotten_early += 1;
            }
            self.known.remove(&key);
        }
    }
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
        assert_eq!(repeats.len(), 2);
        assert!(repeats.ended.is_empty());
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
            RequestKey { station: Station::Identity([1; 16]), ..key(1) },
            RequestKey { tag: 2, ..key(1) },
            RequestKey { command: 0x35, ..key(1) },
            RequestKey { count: 2, ..key(1) },
            RequestKey { registers: 8, ..key(1) },
        ];
        for other in others {
            assert_eq!(repeats.seen(at(0), &other), Seen::New);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut repeats = Repeats::default();
        for tag in 0..REMEMBERED_MAX as u32 + 1000 {
            repeats.begin(at(0), key(tag));
            repeats.end(at(0), key(tag), OK);
        }
        assert!(repeats.len() <= REMEMBERED_MAX);
        assert!(repeats.ended.len() <= REMEMBERED_MAX);
        assert!(repeats.forgotten_early() >= 1000);
        assert_eq!(repeats.seen(at(1), &key(0)), Seen::New, "the oldest went first");
        assert_eq!(repeats.seen(at(1), &key(REMEMBERED_MAX as u32)), Seen::Done(OK));
    }

    #[test]
    fn an_abandoned_request_is_new_again() {
        let mut repeats = Repeats::default();
        repeats.begin(at(0), key(1));
        repeats.abandon(&key(1));
        assert_eq!(repeats.seen(at(0), &key(1)), Seen::New);
    }
}
