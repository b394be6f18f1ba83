//! Sectors that must not be written for a while, because an old write of them may still be on its way.
//!
//! A write that was sent more than once and answered may have a copy left in the network; one that was sent once, too,
//! where the network itself repeats frames. A target that does not recognise it would run it when it comes, over
//! whatever was written meanwhile. So a new write of those sectors waits until every copy has been answered, or until
//! no network would still hold one.

use aoe_common::planted::{Fault, planted};
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::MacAddr;

/// How long a frame may live in a network, unless its operator knows better.
pub const QUARANTINE: Duration = Duration::from_secs(10);

/// Entries kept apart; beyond that they are merged into one that covers them all.
const ENTRIES_MAX: usize = 1024;

/// Answers that copies of a write may still cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strays {
    /// The write's tag.
    pub tag: u32,
    /// The only target it was sent to; nobody else can answer it.
    pub target: MacAddr,
    /// How many are still to come.
    pub left: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u64,
    end: u64,
    until: Instant,
    strays: Option<Strays>,
}

/// The sectors in quarantine.
#[derive(Debug, Default)]
pub struct Quarantine {
    entries: Vec<Entry>,
}

impl Quarantine {
    /// Sectors `start..end` may be hit by a stray write until `until`, or until all `strays` came.
    pub fn add(&mut self, start: u64, end: u64, until: Instant, strays: Option<Strays>) {
        if planted(Fault::NoQuarantine) {
            return;
        }
        self.entries.push(Entry { start, end, until, strays });
        if self.entries.len() > ENTRIES_MAX {
            let start = self.entries.iter().map(|entry| entry.start).min().expect("not empty");
            let end = self.entries.iter().map(|entry| entry.end).max().expect("not empty");
            let until = self.entries.iter().map(|entry| entry.until).max().expect("not empty");
            self.entries.clear();
            self.entries.push(Entry { start, end, until, strays: None });
        }
    }

    /// Until when a write of sectors `start..end` has to wait; `None` when it may go.
    pub fn holds(&self, now: Instant, start: u64, end: u64) -> Option<Instant> {
        let overlaps = |entry: &&Entry| entry.until > now && entry.start < end && start < entry.end;
        self.entries.iter().filter(overlaps).map(|entry| entry.until).max()
    }

    /// An answer of this target to a write that was answered before. Returns whether this ended a quarantine.
    pub fn stray_answered(&mut self, target: MacAddr, tag: u32) -> bool {
        let is_of = |strays: Strays| strays.tag == tag && (strays.target == target || planted(Fault::StraysOfAnybody));
        let Some(at) = self.entries.iter().position(|entry| entry.strays.is_some_and(is_of)) else {
            return false;
        };
        let strays = self.entries[at].strays.as_mut().expect("just matched");
        strays.left -= if planted(Fault::StraysCountTwice) { strays.left.min(2) } else { 1 };
        let ended = strays.left == 0;
        if ended {
            self.entries.swap_remove(at);
        }
        ended
    }

    /// Forgets what is over. Returns whether anything was.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.until > now);
        self.entries.len() < before
    }

    /// When the next entry is over.
    pub fn next_end(&self) -> Option<Instant> {
        self.entries.iter().map(|entry| entry.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const STRANGER: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);

    fn strays(tag: u32, left: u32) -> Option<Strays> {
        Some(Strays { tag, target: TARGET, left })
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn overlapping_writes_wait() {
        let mut quarantine = Quarantine::default();
        quarantine.add(8, 16, at(10), strays(7, 2));
        assert_eq!(quarantine.holds(at(0), 15, 20), Some(at(10)));
        assert_eq!(quarantine.holds(at(0), 16, 20), None);
        assert_eq!(quarantine.holds(at(10), 8, 9), None);
        assert!(!quarantine.expire(at(9)));
        assert!(quarantine.expire(at(10)) && quarantine.entries.is_empty());
    }

    #[test]
    fn answers_of_all_copies_end_it() {
        let mut quarantine = Quarantine::default();
        quarantine.add(8, 16, at(10), strays(7, 2));
        assert!(!quarantine.stray_answered(TARGET, 6));
        assert!(!quarantine.stray_answered(TARGET, 7));
        assert!(!quarantine.stray_answered(STRANGER, 7), "whoever overheard the tag");
        assert!(quarantine.stray_answered(TARGET, 7));
        assert_eq!(quarantine.holds(at(0), 8, 16), None);
        assert!(!quarantine.stray_answered(TARGET, 7));
    }

    #[test]
    fn many_entries_become_one() {
        let mut quarantine = Quarantine::default();
        for n in 0..=ENTRIES_MAX as u64 {
            quarantine.add(n * 10, n * 10 + 1, at(10 + n), None);
        }
        assert_eq!(quarantine.entries.len(), 1);
        assert_eq!(quarantine.holds(at(0), 5, 6), Some(at(10 + ENTRIES_MAX as u64)), "more is held back, never less");
    }
}
