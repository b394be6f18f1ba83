//! A load on a device: requests go out as its pattern, pace and depth say, completions come back and are measured.
//!
//! A value without a clock. Its buffers are made at the start and go round; a request needs no memory of its own.

use aoe_common::frame::SECTOR;
use aoe_common::time::{Duration, Instant};

use super::pace::Pace;
use super::pattern::{Pattern, Random};
use super::tally::Tally;
use crate::engine::{Completion, Operation, Request};

/// Failures after which a load ends early: where nothing succeeds, there is nothing to measure.
const ERRORS_MAX: u64 = 1000;

/// Its size.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Bytes of a request; a multiple of 512.
    pub block_bytes: usize,
    /// Requests under way at a time.
    pub depth: usize,
    /// Writes are durable when they are answered.
    pub fua: bool,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Begun {
    /// From when on its latency counts.
    at: Instant,
    writes: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Load {
    size: Size,
    pattern: Pattern,
    pace: Pace,
    /// By request id.
    under_way: Vec<Option<Begun>>,
    free: Vec<u32>,
    /// Apart, so that what was read is not written: it may be zeros.
    read_buffers: Vec<Vec<u8>>,
    write_buffers: Vec<Vec<u8>>,
    /// Writes begun; each sector of a write carries the number.
    write_number: u64,
    measured_from: Instant,
    ends: Instant,
    tally: Tally,
}

/// Buffers for reads and for writes, made before a load begins.
#[derive(Debug, Default)]
pub struct Buffers {
    reads: Vec<Vec<u8>>,
    writes: Vec<Vec<u8>>,
}

impl Buffers {
    /// As many of either kind as a load of this size needs, those for writes full of noise.
    pub fn new(size: Size, reads: bool, writes: bool, seed: u64) -> Self {
        let mut random = Random(seed);
        let noise = |_| {
            let mut buffer = vec![0; size.block_bytes];
            buffer.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes()));
            buffer
        };
        let count = |wanted| if wanted { size.depth } else { 0 };
        Self {
            // Touched once, so that the first requests do not wait for the kernel to find the memory.
            reads: (0..count(reads)).map(|_| vec![0xff; size.block_bytes]).collect(),
            writes: (0..count(writes)).map(noise).collect(),
        }
    }
}

impl Load {
    /// A load that begins now, is measured after `warm_up`, and ends `measured` after that.
    pub fn new(
        now: Instant,
        size: Size,
        buffers: Buffers,
        pattern: Pattern,
        rate: Option<u32>,
        (warm_up, measured): (Duration, Duration),
    ) -> Self {
        let measured_from = now + warm_up;
        Self {
            size,
            pattern,
            pace: Pace::new(now, rate),
            under_way: vec![None; size.depth],
            free: (0..size.depth as u32).rev().collect(),
            read_buffers: buffers.reads,
            write_buffers: buffers.writes,
            write_number: 0,
            measured_from,
            ends: measured_from + measured,
            tally: Tally::default(),
        }
    }

    /// The next request, if one is to begin now.
    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        if now >= self.ends || now < self.pace.due() {
            return None;
        }
        let id = self.free.pop()?;
        let at = self.pace.begin(now);
        let step = self.pattern.step();
        self.under_way[id as usize] = Some(Begun { at, writes: step.writes });
        let buffer =
            |buffers: &mut Vec<Vec<u8>>| buffers.pop().expect("there is a buffer of each kind for each request");
        let operation = if step.writes {
            let mut data = buffer(&mut self.write_buffers);
            self.write_number += 1;
            stamp(&mut data, step.lba, self.write_number);
            Operation::Write { lba: step.lba, data, fua: self.size.fua }
        } else {
            Operation::Read { lba: step.lba, buffer: buffer(&mut self.read_buffers) }
        };
        Some(Request { id: id.into(), operation })
    }

    /// One of its requests is over.
    pub fn complete(&mut self, now: Instant, completion: Completion) {
        let begun = self.under_way[completion.id as usize].take().expect("a request completes once");
        self.free.push(completion.id as u32);
        let buffers = if begun.writes { &mut self.write_buffers } else { &mut self.read_buffers };
        buffers.push(completion.buffer);
        match completion.result {
            Ok(()) if now < self.measured_from => {}
            Ok(()) => self.tally.answered(begun.writes, now.since(begun.at), now < self.ends),
            Err(error) => {
                self.tally.failed(error);
                if self.tally.errors >= ERRORS_MAX {
                    self.stop(now);
                }
            }
        }
    }

    /// When to ask for the next request even if none completes; none: not before one does.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.free.is_empty()).then(|| self.pace.due())
    }

    /// Begins nothing any more.
    pub fn stop(&mut self, now: Instant) {
        self.ends = self.ends.min(now);
    }

    /// When it begins to be measured.
    pub fn measured_from(&self) -> Instant {
        self.measured_from
    }

    /// When it begins nothing any more.
    pub fn ends(&self) -> Instant {
        self.ends
    }

    /// Requests that have not completed.
    pub fn in_flight(&self) -> usize {
        self.size.depth - self.free.len()
    }

    /// Writes begun so far.
    pub fn writes_begun(&self) -> u64 {
        self.write_number
    }

    /// What came of it so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

/// Makes each sector of a write one that was never written before.
fn stamp(data: &mut [u8], lba: u64, number: u64) {
    for (sector, lba) in data.chunks_exact_mut(SECTOR).zip(lba..) {
        sector[..8].copy_from_slice(&lba.to_le_bytes());
        sector[8..16].copy_from_slice(&number.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::pattern::{Kind, Range};
    use super::*;
    use crate::engine::IoError;

    const BLOCK: usize = 1024;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// From 0 ms on, measured from 100 to 1100 ms.
    fn load(kind: Kind, depth: usize, rate: Option<u32>) -> Load {
        let size = Size { block_bytes: BLOCK, depth, fua: false };
        let buffers = Buffers::new(size, kind.reads(), kind.writes(), 1);
        let range = Range { first_sector: 0, block_sectors: 2, blocks: 100 };
        let times = (Duration::from_millis(100), Duration::from_secs(1));
        Load::new(at(0), size, buffers, Pattern::new(kind, range, 50, 1), rate, times)
    }

    fn answer(request: Request) -> Completion {
        let buffer = match request.operation {
            Operation::Read { buffer, .. } => buffer,
            Operation::Write { data, .. } => data,
            other => panic!("{other:?}"),
        };
        Completion { id: request.id, result: Ok(()), buffer }
    }

    #[test]
    fn no_more_than_the_depth_is_under_way_and_buffers_go_round() {
        let mut load = load(Kind::Mix, 4, None);
        let places = |load: &Load| load.read_buffers.iter().chain(&load.write_buffers).map(Vec::len).sum::<usize>();
        for _ in 0..100 {
            let begun: Vec<_> = std::iter::from_fn(|| load.poll_request(at(0))).collect();
            assert_eq!((begun.len(), load.in_flight(), load.poll_timeout()), (4, 4, None));
            begun.into_iter().for_each(|request| load.complete(at(1), answer(request)));
            assert_eq!((load.in_flight(), places(&load)), (0, 8 * BLOCK));
        }
        assert_eq!(load.tally().requests(), 0, "it is not warm yet");
    }

    #[test]
    fn what_is_measured_begins_after_the_warm_up_and_ends_in_time() {
        let mut load = load(Kind::Read, 3, None);
        let [early, normal, late] = [0, 0, 1099].map(|begin| load.poll_request(at(begin)).unwrap());
        load.complete(at(99), answer(early));
        load.complete(at(100), answer(normal));
        assert!(load.poll_request(at(1100)).is_none());
        load.complete(at(1500), answer(late));
        let tally = load.tally();
        assert_eq!((tally.requests(), tally.drained, load.in_flight()), (1, 1, 0));
        let latencies = tally.latencies().unwrap();
        assert!(latencies.min >= 99_900.0 && latencies.max >= 400_900.0, "{latencies:?}");
    }

    #[test]
    fn latency_at_a_rate_counts_from_the_time_that_was_meant() {
        let mut load = load(Kind::RandRead, 1, Some(10));
        let first = load.poll_request(at(0)).unwrap();
        assert_eq!(load.poll_timeout(), None, "there is no room");
        load.complete(at(20), answer(first));
        assert_eq!(load.poll_timeout(), Some(at(100)));
        assert!(load.poll_request(at(99)).is_none());
        // Two that were due while the target was silent.
        let second = load.poll_request(at(100)).unwrap();
        load.complete(at(400), answer(second));
        let third = load.poll_request(at(400)).unwrap();
        load.complete(at(410), answer(third));
        let latencies = load.tally().latencies().unwrap();
        assert!((209_000.0..211_000.0).contains(&latencies.min), "{latencies:?}");
        assert!((299_000.0..301_000.0).contains(&latencies.max), "{latencies:?}");
    }

    #[test]
    fn no_two_sectors_written_are_alike_nor_empty() {
        let mut load = load(Kind::Write, 2, None);
        let mut sectors = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let written = answer(load.poll_request(at(0)).unwrap());
            for sector in written.buffer.chunks(SECTOR) {
                assert!(sector[16..].iter().filter(|byte| **byte == 0).count() < SECTOR / 16);
                assert!(sectors.insert(sector.to_vec()), "a sector was written twice");
            }
            load.complete(at(0), written);
        }
        assert_eq!((sectors.len(), load.writes_begun()), (400, 200));
    }

    #[test]
    fn where_all_fails_it_ends_early() {
        let mut load = load(Kind::RandRead, 1, None);
        let mut failures = 0;
        while let Some(request) = load.poll_request(at(200)) {
            load.complete(at(200), Completion { result: Err(IoError::Dead), ..answer(request) });
            failures += 1;
            assert!(failures <= ERRORS_MAX);
        }
        assert_eq!((load.tally().errors, load.tally().requests(), load.ends()), (ERRORS_MAX, 0, at(200)));
    }
}
