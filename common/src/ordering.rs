//! Which operations on a disk may run now, and which wait for earlier ones.
//!
//! Two operations that overlap run in the order they arrived unless both only read: the later one waits
//! until the earlier one is over. So whatever order a disk completes in, a late write never lands under a
//! newer one, and no read sees half of a sector that is being written.
//!
//! The list is bounded by what its owner lets in, and is scanned, not indexed: at the depths that occur, a
//! scan of a short array beats any tree.

use crate::planted::{Fault, planted};

/// Sectors `start..end` that an operation touches, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// First sector.
    pub start: u64,
    /// One past the last sector.
    pub end: u64,
    /// Whether it changes them.
    pub writes: bool,
}

impl Footprint {
    fn conflicts(&self, other: &Self) -> bool {
        if planted(Fault::NoOrder) || planted(Fault::ReadsOvertake) && !(self.writes && other.writes) {
            return false;
        }
        (self.writes || other.writes) && self.start < other.end && other.start < self.end
    }
}

#[derive(Debug)]
struct Entry<Id> {
    id: Id,
    footprint: Footprint,
    /// Earlier operations that must end first.
    blockers: u32,
}

/// The operations on one disk that are running or waiting, in order of arrival.
#[derive(Debug)]
pub struct Ordering<Id> {
    entries: Vec<Entry<Id>>,
}

impl<Id> Default for Ordering<Id> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<Id: Copy + Eq> Ordering<Id> {
    /// Adds an operation behind all others. Returns whether it may run at once.
    pub fn admit(&mut self, id: Id, footprint: Footprint) -> bool {
        assert!(footprint.start < footprint.end, "an operation touches at least one sector");
        let blockers = self.entries.iter().filter(|entry| entry.footprint.conflicts(&footprint)).count() as u32;
        self.entries.push(Entry { id, footprint, blockers });
        blockers == 0
    }

    /// Takes an operation out, done or cancelled, and hands those that may run now to `ready`, in order.
    pub fn finish(&mut self, id: Id, mut ready: impl FnMut(Id)) {
        let at = self.entries.iter().position(|entry| entry.id == id).expect("only admitted operations finish");
        let footprint = self.entries.remove(at).footprint;
        for entry in &mut self.entries[at..] {
            if entry.footprint.conflicts(&footprint) {
                entry.blockers -= 1;
                if entry.blockers == 0 {
                    ready(entry.id);
                }
            }
        }
    }

    /// Operations that wait and touch sectors from `end` on, in order of arrival.
    pub fn waiting_beyond(&self, end: u64) -> impl Iterator<Item = Id> + '_ {
        self.entries.iter().filter(move |entry| entry.blockers > 0 && entry.footprint.end > end).map(|entry| entry.id)
    }

    /// Operations running or waiting.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing runs or waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn op(start: u64, end: u64, writes: bool) -> Footprint {
        Footprint { start, end, writes }
    }

    fn finish(ordering: &mut Ordering<u32>, id: u32) -> Vec<u32> {
        let mut ready = Vec::new();
        ordering.finish(id, |id| ready.push(id));
        ready
    }

    #[test]
    fn reads_share_and_writes_wait() {
        let mut ordering = Ordering::<u32>::default();
        assert!(ordering.admit(0, op(0, 8, false)));
        assert!(ordering.admit(1, op(4, 12, false)));
        assert!(!ordering.admit(2, op(7, 9, true)));
        assert!(!ordering.admit(3, op(8, 9, false)), "a read behind a waiting write waits too");
        assert!(ordering.admit(4, op(12, 13, true)));
        assert_eq!(finish(&mut ordering, 0), []);
        assert_eq!(finish(&mut ordering, 1), [2]);
        assert_eq!(finish(&mut ordering, 2), [3]);
    }

    #[test]
    fn a_cancelled_operation_frees_those_behind_it() {
        let mut ordering = Ordering::<u32>::default();
        assert!(ordering.admit(0, op(0, 1, true)));
        assert!(!ordering.admit(1, op(0, 2, true)));
        assert!(!ordering.admit(2, op(1, 2, true)));
        assert_eq!(finish(&mut ordering, 1), [2]);
        assert_eq!(ordering.len(), 2);
    }

    proptest! {
        /// Runs random operations to their end in random order. Conflicting ones must start in order of
        /// arrival, never together, and none may be forgotten.
        #[test]
        fn conflicting_operations_never_meet(
            footprints in proptest::collection::vec((0u64..20, 1u64..6, any::<bool>()), 1..40),
            picks in proptest::collection::vec(any::<prop::sample::Index>(), 40),
        ) {
            let footprints: Vec<_> = footprints.into_iter().map(|(start, len, writes)| op(start, start + len, writes)).collect();
            let mut ordering = Ordering::<u32>::default();
            let mut running: Vec<usize> = Vec::new();
            let mut started: Vec<usize> = Vec::new();
            let mut start = |id: usize, running: &mut Vec<usize>| {
                assert!(running.iter().all(|other| !footprints[*other].conflicts(&footprints[id])));
                running.push(id);
                started.push(id);
            };
            for (id, footprint) in footprints.iter().enumerate() {
                if ordering.admit(id as u32, *footprint) { start(id, &mut running); }
            }
            for pick in picks {
                if running.is_empty() { break; }
                let done = running.swap_remove(pick.index(running.len()));
                for id in finish(&mut ordering, done as u32) { start(id as usize, &mut running); }
            }
            prop_assert!(ordering.is_empty());
            prop_assert_eq!(started.len(), footprints.len());
            for (position, later) in started.iter().enumerate() {
                for earlier in &started[position + 1..] {
                    prop_assert!(earlier > later || !footprints[*earlier].conflicts(&footprints[*later]));
                }
            }
        }
    }
}
