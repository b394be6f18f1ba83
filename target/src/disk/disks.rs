//! The open disks of one serving thread and the operations in flight on them.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;

use super::file::DiskFile;
use super::job::Job;
use super::sync;
use super::uring::{Handle, Uring};
use crate::engine::operation::{DiskCompletion, DiskError, DiskId, DiskOperation};

/// Operations that may be submitted and not yet handed back. The engine above holds a frame buffer for each, and
/// its pool is smaller than this.
pub const MAX_WAITING: usize = 16_384;

/// Disk ids are below this.
pub const MAX_DISKS: u32 = 65_536;

/// The greatest useful number of operations in the kernel at once.
const MAX_DEPTH: u32 = 4096;

/// Which engine runs the operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where the kernel allows it, else plain system calls.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Plain, blocking system calls.
    Sync,
}

struct Entry {
    file: DiskFile,
    /// The file's name in the ring, if there is a ring.
    handle: Option<Handle>,
    /// Operations submitted and not yet completed.
    busy: usize,
}

/// The disks of one thread. It stays on the thread that made it.
///
/// The caller's loop: `submit` what there is, `flush`, take `completions`, and when there is nothing else to do
/// wait until `poll_fd` is readable, then `flush` again.
pub struct Disks {
    /// The io_uring engine, else operations run in `flush`. Dropped before the files: it waits for what is in flight.
    ring: Option<Uring>,
    entries: Vec<Option<Entry>>,
    waiting: VecDeque<DiskOperation>,
    completed: VecDeque<DiskCompletion>,
    in_flight: usize,
    one_thread: PhantomData<*const ()>,
}

impl Disks {
    /// No disks yet, and room for `depth` operations in the kernel at once (1 to 4096; others are rounded into that).
    pub fn new(engine: EngineChoice, depth: u32) -> io::Result<Self> {
        let depth = depth.clamp(1, MAX_DEPTH);
        let ring = match engine {
            EngineChoice::Sync => None,
            EngineChoice::Uring => Some(Uring::new(depth)?),
            EngineChoice::Auto => match Uring::new(depth) {
                Ok(ring) => Some(ring),
                Err(error) => {
                    tracing::info!(%error, "no io_uring here; disks are served by blocking system calls");
                    None
                }
            },
        };
        Ok(Self {
            ring,
            entries: Vec::new(),
            waiting: VecDeque::with_capacity(MAX_WAITING),
            completed: VecDeque::with_capacity(MAX_WAITING),
            in_flight: 0,
            one_thread: PhantomData,
        })
    }

    /// The engine in use: "io_uring" or "sync".
    pub fn name(&self) -> &'static str {
        if self.ring.is_some() { "io_uring" } else { "sync" }
    }

    /// Adds a disk.
    ///
    /// # Panics
    /// When there is one of that id, or the id is not below [`MAX_DISKS`].
    pub fn insert(&mut self, id: DiskId, file: DiskFile) {
        assert!(id.0 < MAX_DISKS, "disk id {} is out of range", id.0);
        let index = id.0 as usize;
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, || None);
        }
        assert!(self.entries[index].is_none(), "disk id {index} is taken");
        let handle = self.ring.as_ref().map(|ring| ring.attach(id, file.file()));
        self.entries[index] = Some(Entry { file, handle, busy: 0 });
    }

    /// Takes a disk out, if there is one of that id. Dropping what comes back closes and unlocks the file.
    ///
    /// # Panics
    /// When operations are in flight on it.
    pub fn remove(&mut self, id: DiskId) -> Option<DiskFile> {
        let entry = self.entries.get_mut(id.0 as usize)?.take()?;
        assert_eq!(entry.busy, 0, "disk id {} is removed with operations in flight", id.0);
        if let (Some(ring), Some(handle)) = (&self.ring, entry.handle) {
            ring.detach(handle);
        }
        Some(entry.file)
    }

    /// The disk of that id.
    pub fn file(&self, id: DiskId) -> Option<&DiskFile> {
        Some(&self.entries.get(id.0 as usize)?.as_ref()?.file)
    }

    /// The disk of that id, to read its size again.
    pub fn file_mut(&mut self, id: DiskId) -> Option<&mut DiskFile> {
        Some(&mut self.entries.get_mut(id.0 as usize)?.as_mut()?.file)
    }

    /// Operations submitted whose completions were not handed out yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Queues an operation. It runs with the next [`flush`](Self::flush).
    ///
    /// # Panics
    /// When its disk is not here, or more than [`MAX_WAITING`] operations are in flight.
    pub fn submit(&mut self, operation: DiskOperation) {
        assert!(self.in_flight < MAX_WAITING, "more operations in flight than buffers");
        entry_mut(&mut self.entries, operation.disk).busy += 1;
        self.in_flight += 1;
        self.waiting.push_back(operation);
    }

    /// Runs what is queued, as far as the depth allows, and collects what has ended: one system call for all of it
    /// unless operations end at once and make room for more.
    ///
    /// An error means that the ring does not work any more; operations in flight stay there.
    pub fn flush(&mut self) -> io::Result<()> {
        loop {
            self.start_waiting();
            let Some(ring) = &mut self.ring else { return Ok(()) };
            ring.enter(|job, result| {
                entry_mut(&mut self.entries, job.disk()).busy -= 1;
                self.completed.push_back(job.finish(result));
            })?;
            if !ring.has_unsubmitted() && (self.waiting.is_empty() || !ring.has_room()) {
                return Ok(());
            }
        }
    }

    /// Hands out what has ended.
    pub fn completions(&mut self, mut take: impl FnMut(DiskCompletion)) {
        while let Some(completion) = self.completed.pop_front() {
            self.in_flight -= 1;
            take(completion);
        }
    }

    /// A descriptor that polls readable (level-triggered) when [`flush`](Self::flush) would find completions. The
    /// blocking engine has none: after its `flush` nothing is pending.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_ref()?.poll_fd())
    }

    fn start_waiting(&mut self) {
        while self.ring.as_ref().is_none_or(Uring::has_room)
            && let Some(operation) = self.waiting.pop_front()
        {
            let entry = entry_mut(&mut self.entries, operation.disk);
            let file = &entry.file;
            let completion = match Job::new(operation, file.start(), file.size_bytes(), file.needs_bounce()) {
                Ok(mut job) => {
                    if let Some(ring) = &mut self.ring {
                        ring.start(job, entry.handle.expect("a disk in a ring has a handle"));
                        continue;
                    }
                    let result = sync::run(&mut job, file.file());
                    job.finish(result)
                }
                Err(DiskOperation { id, buffer, .. }) => DiskCompletion { id, buffer, result: Err(DiskError::Short) },
            };
            entry.busy -= 1;
            self.completed.push_back(completion);
        }
    }
}

fn entry_mut(entries: &mut [Option<Entry>], id: DiskId) -> &mut Entry {
    entries.get_mut(id.0 as usize).and_then(Option::as_mut).expect("operations name a disk that is here")
}
