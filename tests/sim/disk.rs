//! A disk with a volatile cache, that takes its time, completes in any order, fails when told to, and forgets what
//! was not made durable when the power goes.
//!
//! Every operation takes effect in two steps at two moments before it completes: the first halves of all its
//! sectors, then the second halves. Two operations that overlap and run together therefore tear sectors, as a
//! real page cache does, and the model sees it. Where two targets share a disk it is whole sectors, every second one
//! first: a disk below both keeps those whole. A crash never tears a sector, but leaves any part of a longer write.
//!
//! Sectors are kept as the two words their halves consist of ([`super::pattern`]).

use aoe_common::frame::SECTOR;
use aoe_target::engine::operation::{DiskCompletion, DiskError, DiskOperation, DiskOperationKind};
use fastrand::Rng;

use super::pattern::{self, Stamp};

const HALF: usize = SECTOR / 2;
/// Versions of a sector that are not durable; beyond that the older half is as good as lost.
const VERSIONS_MAX: usize = 64;

/// The two halves of a sector.
type Halves = [u64; 2];

#[derive(Debug)]
struct Running {
    operation: DiskOperation,
    /// Halves of its sectors that are done.
    steps: usize,
    /// For a flush: what it makes durable, and how many versions of each sector that covers.
    covers: Vec<(Halves, usize)>,
}

/// The disk.
#[derive(Debug)]
pub struct Disk {
    /// Two targets use it.
    is_shared: bool,
    /// What a read returns.
    seen: Vec<Halves>,
    /// What survives a power cut.
    durable: Vec<Halves>,
    /// Whole versions written since, the newest last; a power cut leaves any of them or the durable one.
    versions: Vec<Vec<Halves>>,
    running: Vec<Option<Running>>,
}

/// Sectors an operation touches, from the first to one past the last.
fn range(kind: &DiskOperationKind) -> (usize, usize) {
    match *kind {
        DiskOperationKind::Read { offset, len } | DiskOperationKind::Write { offset, len, .. } => {
            (offset as usize / SECTOR, (offset + u64::from(len)) as usize / SECTOR)
        }
        DiskOperationKind::Zero { offset, len, .. } => (offset as usize / SECTOR, (offset + len) as usize / SECTOR),
        DiskOperationKind::Flush => (0, 0),
    }
}

impl Running {
    /// Half `half` of the `index`th sector of a READ.
    fn read(&mut self, index: usize, half: usize, word: u64) {
        let DiskOperationKind::Read { len, .. } = self.operation.kind else { unreachable!("only READs read") };
        let at = index * SECTOR + half * HALF;
        pattern::repeat(word, &mut self.operation.buffer.payload_mut(len as usize)[at..at + HALF]);
    }

    /// What a writing operation puts into half `half` of its `index`th sector.
    fn word(&self, index: usize, half: usize) -> u64 {
        match self.operation.kind {
            DiskOperationKind::Write { len, .. } => {
                let at = index * SECTOR + half * HALF;
                pattern::word(&self.operation.buffer.payload(len as usize)[at..at + HALF])
            }
            _ => 0,
        }
    }
}

impl Disk {
    /// A disk of zeros.
    pub fn new(sectors: u64, is_shared: bool) -> Self {
        let zeros = || vec![[0; 2]; sectors as usize];
        let versions = vec![Vec::new(); sectors as usize];
        Self { is_shared, seen: zeros(), durable: zeros(), versions, running: Vec::new() }
    }

    /// Takes an operation; returns the handle for `step` and `complete`.
    pub fn start(&mut self, operation: DiskOperation) -> usize {
        let covers = match operation.kind {
            DiskOperationKind::Flush => {
                let whole = |(durable, versions): (&Halves, &Vec<Halves>)| {
                    (*versions.last().unwrap_or(durable), versions.len())
                };
                self.durable.iter().zip(&self.versions).map(whole).collect()
            }
            _ => Vec::new(),
        };
        let running = Some(Running { operation, steps: 0, covers });
        match self.running.iter().position(Option::is_none) {
            Some(free) => {
                self.running[free] = running;
                free
            }
            None => {
                self.running.push(running);
                self.running.len() - 1
            }
        }
    }

    /// The write a writing operation belongs to; 0 for zeroing. `None` when it writes nothing.
    pub fn writes(&self, handle: usize) -> Option<Stamp> {
        let running = self.running[handle].as_ref().expect("a running operation");
        match running.operation.kind {
            DiskOperationKind::Write { .. } => Some(pattern::stamp(running.word(0, 0))),
            DiskOperationKind::Zero { .. } => Some(0),
            DiskOperationKind::Read { .. } | DiskOperationKind::Flush => None,
        }
    }

    /// Whether an operation is to make something durable.
    pub fn syncs(&self, handle: usize) -> bool {
        let running = self.running[handle].as_ref().expect("a running operation");
        matches!(
            running.operation.kind,
            DiskOperationKind::Flush
                | DiskOperationKind::Write { durable: true, .. }
                | DiskOperationKind::Zero { durable: true, .. }
        )
    }

    /// Half of an operation takes effect: `half` 0, then 1.
    pub fn step(&mut self, handle: usize, half: usize) {
        let running = self.running[handle].as_mut().expect("a running operation");
        if running.steps > half {
            return;
        }
        running.steps = half + 1;
        let (start, end) = range(&running.operation.kind);
        for lba in start..end {
            let halves = match (self.is_shared, lba % 2 == half) {
                (false, _) => half..half + 1,
                (true, true) => 0..2,
                (true, false) => continue,
            };
            let reads = matches!(running.operation.kind, DiskOperationKind::Read { .. });
            for half in halves.clone() {
                if reads {
                    running.read(lba - start, half, self.seen[lba][half]);
                } else {
                    self.seen[lba][half] = running.word(lba - start, half);
                }
            }
            if halves.end == 2 && !reads {
                self.versions[lba].push(self.seen[lba]);
            }
        }
        self.bound_versions();
    }

    /// An operation is over, and did what it was to do.
    pub fn complete(&mut self, handle: usize) -> DiskCompletion {
        let Running { operation, covers, .. } = self.running[handle].take().expect("a running operation");
        match operation.kind {
            DiskOperationKind::Flush => {
                for (lba, (value, count)) in covers.into_iter().enumerate() {
                    if count > 0 {
                        self.durable[lba] = value;
                        self.versions[lba].drain(..count);
                        self.spare_flushes(lba, count);
                    }
                }
            }
            DiskOperationKind::Write { durable: true, .. } | DiskOperationKind::Zero { durable: true, .. } => {
                let (start, end) = range(&operation.kind);
                for lba in start..end {
                    self.durable[lba] = self.seen[lba];
                    self.versions[lba].clear();
                    self.spare_flushes(lba, usize::MAX);
                }
            }
            _ => {}
        }
        DiskCompletion { id: operation.id, buffer: operation.buffer, result: Ok(()) }
    }

    /// An operation is over, and failed: any part of it may have been done.
    pub fn fail(&mut self, handle: usize, error: DiskError, rng: &mut Rng) -> DiskCompletion {
        let running = self.running[handle].take().expect("a running operation");
        self.interrupt(&running, rng);
        let DiskOperation { id, buffer, .. } = running.operation;
        DiskCompletion { id, buffer, result: Err(error) }
    }

    /// Whoever runs an operation is gone: any part of it may be done.
    pub fn abandon(&mut self, handle: usize, rng: &mut Rng) {
        let running = self.running[handle].take().expect("a running operation");
        self.interrupt(&running, rng);
    }

    fn interrupt(&mut self, running: &Running, rng: &mut Rng) {
        if matches!(running.operation.kind, DiskOperationKind::Read { .. } | DiskOperationKind::Flush) {
            return;
        }
        let (start, end) = range(&running.operation.kind);
        for lba in start..end {
            let begun = running.steps == 1 && (!self.is_shared || lba % 2 == 0);
            if begun || running.steps < 2 && rng.bool() {
                self.seen[lba] = [running.word(lba - start, 0), running.word(lba - start, 1)];
                self.versions[lba].push(self.seen[lba]);
            }
        }
    }

    /// Everything is made durable at once. Nothing may be running.
    pub fn sync(&mut self) {
        assert!(self.running.iter().all(Option::is_none), "a disk is synced when nothing runs");
        for (lba, versions) in self.versions.iter_mut().enumerate() {
            versions.clear();
            self.durable[lba] = self.seen[lba];
        }
    }

    /// The power goes, or a sync failed: of each sector the durable version or any later one is left. What runs goes on:
    /// reads saw what was there before, writes are not lost by what failed before their end.
    pub fn lose(&mut self, rng: &mut Rng) {
        let halfway = |running: &Option<Running>| running.as_ref().is_some_and(|running| running.steps == 1);
        for handle in 0..self.running.len() {
            if halfway(&self.running[handle]) {
                self.step(handle, 1);
            }
        }
        let everything = rng.bool();
        for lba in 0..self.seen.len() {
            let versions = std::mem::take(&mut self.versions[lba]);
            if !everything && !versions.is_empty() && rng.bool() {
                self.durable[lba] = versions[rng.usize(..versions.len())];
            }
            self.seen[lba] = self.durable[lba];
            self.spare_flushes(lba, usize::MAX);
        }
        for handle in 0..self.running.len() {
            if let Some(running) = self.running[handle].as_mut().filter(|running| running.steps == 2) {
                running.steps = 0;
                if !matches!(running.operation.kind, DiskOperationKind::Read { .. }) {
                    self.step(handle, 0);
                    self.step(handle, 1);
                }
                self.running[handle].as_mut().expect("it runs").steps = 2;
            }
        }
    }

    /// Which write a sector holds now.
    pub fn stamp(&self, lba: u64) -> Result<Stamp, String> {
        let mut sector = [0; SECTOR];
        let halves = self.seen[lba as usize];
        pattern::repeat(halves[0], &mut sector[..HALF]);
        pattern::repeat(halves[1], &mut sector[HALF..]);
        pattern::read(&sector, lba)
    }

    /// The oldest `count` versions of a sector are durable: flushes under way have less to do.
    fn spare_flushes(&mut self, lba: usize, count: usize) {
        for flush in self.running.iter_mut().flatten().filter(|running| !running.covers.is_empty()) {
            flush.covers[lba].1 = flush.covers[lba].1.saturating_sub(count);
        }
    }

    fn bound_versions(&mut self) {
        let flushing = self.running.iter().flatten().any(|running| !running.covers.is_empty());
        for versions in self.versions.iter_mut().filter(|versions| versions.len() > VERSIONS_MAX && !flushing) {
            versions.drain(..VERSIONS_MAX / 2);
        }
    }
}
