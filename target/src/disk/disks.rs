//! The open disks of one serving thread and the operations in flight on them.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::file::DiskFile;
use super::job::{Job, Step, Terms};
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

/// A buffered write is a copy into the page cache: made in place it costs a fraction of what handing it to a kernel
/// thread costs (1.8 against 6.9 microseconds for 4 KiB on ext4). But it can block, on a page that has to be read
/// first or on too many dirty pages. After one that took longer than this, the disk's next writes take the slow way.
const INLINE_WRITE_TIME: Duration = Duration::from_millis(1);

/// Writes that take the slow way before one is made in place again.
const WRITES_APART: u32 = 256;

/// A disk that has ended none of what the kernel has of it for this long may not take a write at all. One made in place
/// would hold up every other disk of the thread.
const STUCK_TIME: Duration = Duration::from_millis(50);

/// Which engine runs the operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// io_uring where the kernel allows it, else plain system calls.
    #[default]
    Auto,
    /// io_uring or an error.
    #[serde(rename = "io_uring")]
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
    /// Those of them in the ring.
    in_ring: usize,
    /// When one of those ended, or the first began.
    moved: Instant,
    /// Writes that are still to take the slow way.
    writes_apart: u32,
}

impl Entry {
    fn is_stuck(&self, now: Instant) -> bool {
        self.in_ring > 0 && now.saturating_duration_since(self.moved) > STUCK_TIME
    }

    /// Makes the job's current step in place if that is a buffered write and such do not block now. The operation's
    /// result when that was all of it.
    fn write_inline(&mut self, job: &mut Job) -> Option<Result<(), DiskError>> {
        let Step::Write { durable: false, .. } = job.step() else { return None };
        if self.file.is_direct() {
            return None;
        }
        if self.writes_apart > 0 {
            self.writes_apart -= 1;
            return None;
        }
        let start = Instant::now();
        if !self.file.is_local() || self.is_stuck(start) {
            return None;
        }
        let answer = sync::call(job, self.file.file());
        if start.elapsed() > INLINE_WRITE_TIME {
            self.writes_apart = WRITES_APART;
        }
        job.advance(answer)
    }
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
        self.entries[index] = Some(Entry { file, handle, busy: 0, in_ring: 0, moved: Instant::now(), writes_apart: 0 });
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

    /// Whether a disk seems not to answer: any call for it could block.
    pub fn is_stuck(&self, id: DiskId) -> bool {
        let entry = self.entries.get(id.0 as usize).and_then(Option::as_ref);
        entry.is_some_and(|entry| entry.is_stuck(Instant::now()))
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
            let now = Instant::now();
            ring.enter(|job, result| {
                let entry = entry_mut(&mut self.entries, job.disk());
                entry.busy -= 1;
                entry.in_ring -= 1;
                entry.moved = now;
                // Another sync may have been told that this one's data is lost.
                let result = if job.syncs() { result.and_then(|()| entry.file.check()) } else { result };
                self.completed.push_back(job.finish(result));
            })?;
            if !ring.has_unsubmitted() && (self.waiting.is_empty() || !ring.has_room()) {
                return Ok(());
            }
        }
    }

    /// Whether something has ended that was not handed out.
    pub fn has_completions(&self) -> bool {
        !self.completed.is_empty()
    }

    /// Hands out what has ended.
    pub fn completions(&mut self, mut take: impl FnMut(DiskCompletion)) {
        while let Some(completion) = self.completed.pop_front() {
            self.in_flight -= 1;
            take(completion);
        }
    }

    /// A descriptor that polls readable (level-triggered) when [`flush`](Self::flush) would find completions. A
    /// completion may also end the wait with EINTR: flush then too. The blocking engine has none: after its `flush`
    /// nothing is pending.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_ref()?.poll_fd())
    }

    fn start_waiting(&mut self) {
        while self.ring.as_ref().is_none_or(Uring::has_room)
            && let Some(operation) = self.waiting.pop_front()
        {
            let entry = entry_mut(&mut self.entries, operation.disk);
            let terms = Terms {
                base: entry.file.start(),
                size: entry.file.size_bytes(),
                bounce: entry.file.needs_bounce(),
                // Buffered writes with RWF_DSYNC wait for one another in the kernel; syncs of their own share the
                // journal's commits (25 000 against 4 400 a second at depth 32 on ext4). And they tell a loss of
                // data in the cache from a write that was refused.
                sync_apart: !entry.file.is_direct(),
            };
            let completion = match Job::new(operation, terms) {
                Ok(mut job) => match &mut self.ring {
                    None => {
                        let result = sync::run(&mut job, entry.file.file());
                        job.finish(result)
                    }
                    Some(ring) => match entry.write_inline(&mut job) {
                        Some(result) => job.finish(result),
                        None => {
                            if entry.in_ring == 0 {
                                entry.moved = Instant::now();
                            }
                            entry.in_ring += 1;
                            ring.start(job, entry.handle.expect("a disk in a ring has a handle"));
                            continue;
                        }
                    },
                },
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
    use std::path::{Path, PathBuf};

    use aoe_common::frame::{FrameBuffer, SECTOR};
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

    use super::*;
    use crate::disk::DiskOptions;
    use crate::engine::operation::{DiskOperationKind, OperationId};

    const DISK: DiskId = DiskId(3);
    const MIB: u64 = 1 << 20;
    const ENGINES: [EngineChoice; 2] = [EngineChoice::Uring, EngineChoice::Sync];

    fn read(offset: u64, len: u32) -> DiskOperationKind {
        DiskOperationKind::Read { offset, len }
    }

    fn write(offset: u64, len: u32) -> DiskOperationKind {
        DiskOperationKind::Write { offset, len, durable: false }
    }

    fn zero(offset: u64, len: u64, unmap: bool) -> DiskOperationKind {
        DiskOperationKind::Zero { offset, len, unmap, durable: false }
    }

    fn image(directory: &Path, size: u64) -> PathBuf {
        let path = directory.join("disk.img");
        File::create(&path).unwrap().set_len(size).unwrap();
        path
    }

    struct Bench {
        disks: Disks,
        path: PathBuf,
        _directory: tempfile::TempDir,
    }

    impl Bench {
        /// One disk of `size` bytes on a real file system: /tmp may be in memory.
        fn new(engine: EngineChoice, size: u64, change: impl Fn(&mut DiskOptions)) -> Self {
            let directory = tempfile::tempdir_in("/var/tmp").unwrap();
            let path = image(directory.path(), size);
            let mut options = DiskOptions { path: path.clone(), ..DiskOptions::default() };
            change(&mut options);
            let mut disks = Disks::new(engine, 8).unwrap();
            disks.insert(DISK, DiskFile::open(&options).unwrap());
            Self { disks, path, _directory: directory }
        }

        fn operate(&mut self, kind: DiskOperationKind, fill: u8) -> (Result<(), DiskError>, FrameBuffer) {
            operate(&mut self.disks, kind, fill)
        }

        fn on_file(&self, offset: u64, len: usize) -> Vec<u8> {
            let mut bytes = vec![0; len];
            File::open(&self.path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
            bytes
        }

        fn blocks(&self) -> u64 {
            std::fs::metadata(&self.path).unwrap().blocks()
        }
    }

    /// All that is in flight, in the order it ended. Sleeps only on what a driver would sleep on.
    fn finish_all(disks: &mut Disks) -> Vec<DiskCompletion> {
        let mut ended = Vec::new();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        if let Some(fd) = disks.poll_fd() {
            epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0)).unwrap();
        }
        loop {
            disks.flush().unwrap();
            disks.completions(|completion| ended.push(completion));
            if disks.in_flight() == 0 {
                return ended;
            }
            match epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::from(10_000u16)) {
                Ok(0) => panic!("{} operations in flight, and no wake-up", disks.in_flight()),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn operate(disks: &mut Disks, kind: DiskOperationKind, fill: u8) -> (Result<(), DiskError>, FrameBuffer) {
        let mut buffer = FrameBuffer::new(255);
        buffer.payload_mut(255 * SECTOR).fill(fill);
        disks.submit(DiskOperation { id: OperationId(77), disk: DISK, kind, buffer });
        let mut ended = finish_all(disks);
        assert_eq!(ended.len(), 1);
        let completion = ended.pop().unwrap();
        assert_eq!(completion.id, OperationId(77));
        (completion.result, completion.buffer)
    }

    #[test]
    fn what_is_written_is_read_back_from_where_the_export_lies() {
        for engine in ENGINES {
            for direct in [false, true] {
                for durable in [false, true] {
                    let mut bench = Bench::new(engine, MIB, |options| {
                        options.direct = direct;
                        options.offset_sectors = 3;
                        options.length_sectors = Some(300);
                    });
                    let kind = DiskOperationKind::Write { offset: 512, len: 254 * 512, durable };
                    assert_eq!(bench.operate(kind, 0xa5).0, Ok(()));
                    let (result, buffer) = bench.operate(read(512, 254 * 512), 0);
                    assert_eq!(result, Ok(()));
                    assert_eq!(buffer.payload(254 * 512), [0xa5; 254 * 512]);
                    assert_eq!(bench.operate(DiskOperationKind::Flush, 0).0, Ok(()));
                    assert_eq!(bench.on_file(0, 4 * 512), [0; 4 * 512]);
                    assert_eq!(bench.on_file(4 * 512, 254 * 512), [0xa5; 254 * 512]);
                    assert_eq!(bench.on_file(258 * 512, 512), [0; 512]);
                }
            }
        }
    }

    #[test]
    fn more_than_the_depth_in_flight_all_come_back_once_with_their_own_data() {
        for engine in ENGINES {
            for direct in [false, true] {
                let mut bench = Bench::new(engine, MIB, |options| options.direct = direct);
                for round in 0..2 {
                    for i in 0..200u32 {
                        let mut buffer = FrameBuffer::new(2);
                        let offset = u64::from(i) * 1024;
                        let kind = if round == 0 {
                            buffer.payload_mut(1024).fill(i as u8);
                            DiskOperationKind::Write { offset, len: 1024, durable: i % 10 == 0 }
                        } else {
                            read(offset, 1024)
                        };
                        bench.disks.submit(DiskOperation { id: OperationId(i), disk: DISK, kind, buffer });
                    }
                    assert_eq!(bench.disks.in_flight(), 200);
                    let mut ended = finish_all(&mut bench.disks);
                    ended.sort_by_key(|completion| completion.id);
                    assert_eq!(ended.len(), 200);
                    for (i, completion) in (0..).zip(&ended) {
                        assert_eq!(completion.id, OperationId(i));
                        assert_eq!(completion.result, Ok(()));
                        assert_eq!(completion.buffer.payload(1024), [i as u8; 1024]);
                    }
                }
            }
        }
    }

    #[test]
    fn writes_that_take_the_slow_way_are_the_same() {
        let mut bench = Bench::new(EngineChoice::Uring, MIB, |_| {});
        entry_mut(&mut bench.disks.entries, DISK).writes_apart = 2;
        for i in 0..4u8 {
            assert_eq!(bench.operate(write(u64::from(i) * 512, 512), i + 1).0, Ok(()));
            assert_eq!(bench.on_file(u64::from(i) * 512, 512), [i + 1; 512]);
        }
        assert_eq!(entry_mut(&mut bench.disks.entries, DISK).writes_apart, 0);
    }

    #[test]
    fn zeroing_keeps_the_neighbours_and_releases_space_when_asked() {
        for engine in ENGINES {
            for direct in [false, true] {
                for durable in [false, true] {
                    let mut bench = Bench::new(engine, MIB, |options| options.direct = direct);
                    for chunk in 0..16 {
                        assert_eq!(bench.operate(write(chunk * 65536, 65536), 0xff).0, Ok(()));
                    }
                    assert_eq!(bench.operate(DiskOperationKind::Flush, 0).0, Ok(()));
                    let full = bench.blocks();
                    let (offset, len) = (512, 600 * 512);
                    let keep = DiskOperationKind::Zero { offset, len, unmap: false, durable };
                    assert_eq!(bench.operate(keep, 0xee).0, Ok(()));
                    assert!(bench.blocks() >= full, "zeroing without unmap released space");
                    let release = DiskOperationKind::Zero { offset: 700 * 512, len, unmap: true, durable };
                    assert_eq!(bench.operate(release, 0xee).0, Ok(()));
                    assert!(bench.blocks() <= full - 590, "unmapping released no space");
                    let expected = |sector| if matches!(sector, 1..601 | 700..1300) { 0 } else { 0xff };
                    for sector in 0..MIB / 512 {
                        assert_eq!(bench.on_file(sector * 512, 512), [expected(sector); 512], "sector {sector}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_file_truncated_underneath_reads_short_and_recovers() {
        for engine in ENGINES {
            for direct in [false, true] {
                let mut bench = Bench::new(engine, MIB, |options| options.direct = direct);
                let file = File::options().write(true).open(&bench.path).unwrap();
                file.set_len(8192 + 300).unwrap();
                assert_eq!(bench.operate(read(4096, 4096), 0).0, Ok(()));
                assert_eq!(bench.operate(read(4096, 8192), 0).0, Err(DiskError::Short));
                assert_eq!(bench.operate(read(65536, 512), 0).0, Err(DiskError::Short));

                assert!(bench.disks.file_mut(DISK).unwrap().refresh_size().unwrap());
                assert_eq!(bench.disks.file(DISK).unwrap().size_bytes(), 8192);
                assert_eq!(bench.operate(write(8192, 512), 1).0, Err(DiskError::Short));
                assert_eq!(std::fs::metadata(&bench.path).unwrap().len(), 8192 + 300);

                file.set_len(MIB).unwrap();
                assert!(bench.disks.file_mut(DISK).unwrap().refresh_size().unwrap());
                assert_eq!(bench.operate(write(8192, 512), 1).0, Ok(()));
            }
        }
    }

    #[test]
    fn a_disk_opened_read_only_refuses_changes() {
        for engine in ENGINES {
            let mut bench = Bench::new(engine, MIB, |options| options.read_only = true);
            assert_eq!(bench.operate(write(0, 512), 1).0, Err(DiskError::ReadOnly));
            assert_eq!(bench.operate(zero(0, 512, true), 1).0, Err(DiskError::ReadOnly));
            assert_eq!(bench.operate(zero(0, 512, false), 1).0, Err(DiskError::ReadOnly));
            assert_eq!(bench.operate(DiskOperationKind::Flush, 0).0, Ok(()));
            assert_eq!(bench.operate(read(0, 512), 1).0, Ok(()));
        }
    }

    /// Needs root, for a file system that is small enough to fill and has no ZERO_RANGE.
    #[test]
    fn a_full_file_system_is_no_space_and_zeros_are_written_where_they_must_be() {
        on_a_small_file_system(|directory| {
            for engine in ENGINES {
                let path = image(directory, MIB);
                let mut disks = Disks::new(engine, 8).unwrap();
                disks.insert(DISK, DiskFile::open(&DiskOptions { path, ..DiskOptions::default() }).unwrap());
                assert_eq!(operate(&mut disks, write(0, 65536), 0xff).0, Ok(()));
                assert_eq!(operate(&mut disks, write(65536, 255 * 512), 0xff).0, Err(DiskError::NoSpace));
                assert_eq!(operate(&mut disks, zero(512, 1024, false), 0xff).0, Ok(()));
                let (result, buffer) = operate(&mut disks, read(0, 2048), 0);
                assert_eq!(result, Ok(()));
                assert_eq!(buffer.payload(512), [0xff; 512]);
                assert_eq!(buffer.payload(1536)[512..], [0; 1024]);
                assert_eq!(buffer.payload(2048)[1536..], [0xff; 512]);
                assert_eq!(operate(&mut disks, zero(0, 65536 * 2, true), 0xff).0, Ok(()));
                assert_eq!(operate(&mut disks, write(65536, 65536), 1).0, Ok(()), "unmapping made room");
            }
        });
    }

    /// Needs root and a loop device. It takes into its cache what its file system has no room for. The kernel tells
    /// one of two syncs that run together what was lost.
    #[test]
    fn a_failed_write_back_is_told_to_every_sync() {
        on_a_small_file_system(|directory| {
            let Some(device) = LoopDevice::new(&image(directory, MIB), 512) else {
                eprintln!("skipped: no loop device to be had");
                return;
            };
            // A loop device takes a write that was cut short for a whole one, so none may even begin.
            File::create(directory.join("filler")).unwrap().write_all(&[0; 256 << 10]).unwrap_err();
            for asked in [2, 0] {
                let options = DiskOptions { path: device.0.clone(), ..DiskOptions::default() };
                let mut disks = Disks::new(EngineChoice::Uring, 8).unwrap();
                disks.insert(DISK, DiskFile::open(&options).unwrap());
                assert_eq!(operate(&mut disks, DiskOperationKind::Flush, 0).0, Ok(()));
                assert_eq!(disks.file(DISK).unwrap().check(), Ok(()));
                for at in 0..8 {
                    assert_eq!(operate(&mut disks, write(at * 65536, 65536), 0xff).0, Ok(()), "taken into the cache");
                }
                for id in (0..asked).map(OperationId) {
                    let buffer = FrameBuffer::new(0);
                    disks.submit(DiskOperation { id, disk: DISK, kind: DiskOperationKind::Flush, buffer });
                }
                let results: Vec<_> = finish_all(&mut disks).into_iter().map(|completion| completion.result).collect();
                assert!(results.iter().all(|result| matches!(result, Err(DiskError::Lost(_)))), "{results:?}");
                if asked == 0 {
                    // Somebody else syncs, as the kernel does by itself in time.
                    let _ = File::options().write(true).open(&device.0).unwrap().sync_all();
                    let lost = disks.file(DISK).unwrap().check();
                    assert!(matches!(lost, Err(DiskError::Lost(_))), "{lost:?}");
                    assert_eq!(disks.file(DISK).unwrap().check(), Ok(()), "told once");
                }
            }
        });
    }

    /// Runs a test with a folder that has room for 128 KiB. The mount namespace belongs to the thread and goes with it.
    fn on_a_small_file_system(test: impl FnOnce(&Path) + Send + 'static) {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        let in_its_namespace = || {
            if unshare(CloneFlags::CLONE_NEWNS).is_err() {
                eprintln!("skipped: needs root for a mount namespace");
                return;
            }
            let directory = tempfile::tempdir().unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(none, directory.path(), Some("tmpfs"), MsFlags::empty(), Some("size=128k")).unwrap();
            test(directory.path());
        };
        std::thread::spawn(in_its_namespace).join().unwrap();
    }

    #[test]
    fn a_bounced_disk_reads_and_writes_the_same() {
        for engine in ENGINES {
            let mut bench = Bench::new(engine, MIB, |options| options.direct = true);
            bench.disks.file_mut(DISK).unwrap().bounce_from_now_on();
            assert_eq!(bench.operate(write(512, 4096), 0x5a).0, Ok(()));
            let (result, buffer) = bench.operate(read(512, 4096), 0);
            assert_eq!(result, Ok(()));
            assert_eq!(buffer.payload(4096), [0x5a; 4096]);
            assert_eq!(bench.on_file(512, 4096), [0x5a; 4096]);
        }
    }

    #[test]
    fn a_direct_read_wakes_epoll_every_time() {
        let mut bench = Bench::new(EngineChoice::Uring, MIB, |options| options.direct = true);
        assert_eq!(bench.disks.name(), "io_uring");
        assert_eq!(bench.operate(write(0, 65536), 1).0, Ok(()));
        for i in 0..300 {
            let (result, buffer) = bench.operate(read(i % 16 * 4096, 4096), 0);
            assert_eq!(result, Ok(()));
            assert_eq!(buffer.payload(4096), [1; 4096]);
        }
    }

    #[test]
    fn a_disk_goes_and_another_takes_its_place_and_its_lock() {
        for engine in ENGINES {
            let mut bench = Bench::new(engine, MIB, |_| {});
            let options = DiskOptions { path: bench.path.clone(), ..DiskOptions::default() };
            assert_eq!(bench.operate(write(0, 512), 1).0, Ok(()));
            assert!(DiskFile::open(&options).is_err());
            drop(bench.disks.remove(DISK).unwrap());
            assert!(bench.disks.remove(DISK).is_none());
            bench.disks.insert(DISK, DiskFile::open(&options).unwrap());
            assert_eq!(bench.operate(read(0, 512), 0).1.payload(512), [1; 512]);
        }
    }

    #[test]
    fn a_disk_beyond_the_ring_s_table_works_by_its_descriptor() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = image(directory.path(), MIB);
        let mut disks = Disks::new(EngineChoice::Uring, 8).unwrap();
        let disk = DiskId(MAX_DISKS - 1);
        disks.insert(disk, DiskFile::open(&DiskOptions { path, ..DiskOptions::default() }).unwrap());
        for kind in [zero(0, 1024, true), DiskOperationKind::Flush, write(0, 512), read(0, 1024)] {
            let mut buffer = FrameBuffer::new(2);
            buffer.payload_mut(1024).fill(4);
            disks.submit(DiskOperation { id: OperationId(0), disk, kind, buffer });
            let ended = finish_all(&mut disks).pop().unwrap();
            assert_eq!(ended.result, Ok(()));
            if matches!(kind, DiskOperationKind::Read { .. }) {
                assert_eq!(ended.buffer.payload(512), [4; 512]);
                assert_eq!(ended.buffer.payload(1024)[512..], [0; 512]);
            }
        }
        assert!(disks.remove(disk).is_some());
    }

    #[test]
    fn dropping_with_operations_in_flight_waits_for_them_and_frees_the_file() {
        for engine in ENGINES {
            let mut bench = Bench::new(engine, MIB, |options| options.direct = true);
            for i in 0..32 {
                let kind = DiskOperationKind::Write { offset: u64::from(i) * 4096, len: 4096, durable: true };
                let buffer = FrameBuffer::new(8);
                bench.disks.submit(DiskOperation { id: OperationId(i), disk: DISK, kind, buffer });
            }
            bench.disks.flush().unwrap();
            drop(bench.disks);
            let claim = File::options().write(true).custom_flags(libc::O_DIRECT).open(&bench.path).unwrap();
            assert!(nix::fcntl::Flock::lock(claim, nix::fcntl::FlockArg::LockExclusiveNonblock).is_ok());
        }
    }

    #[test]
    #[should_panic(expected = "operations in flight")]
    fn a_busy_disk_is_not_removed() {
        let mut bench = Bench::new(EngineChoice::Auto, MIB, |_| {});
        bench.disks.submit(DiskOperation {
            id: OperationId(0),
            disk: DISK,
            kind: read(0, 512),
            buffer: FrameBuffer::new(1),
        });
        bench.disks.remove(DISK);
    }

    /// Needs root and a loop device. With sectors of 4096 bytes it cannot zero single sectors itself.
    #[test]
    fn a_block_device_with_large_sectors_takes_single_ones() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let Some(device) = LoopDevice::new(&image(directory.path(), MIB), 4096) else {
            eprintln!("skipped: no loop device to be had");
            return;
        };
        for engine in ENGINES {
            let options = DiskOptions { path: device.0.clone(), ..DiskOptions::default() };
            let file = DiskFile::open(&options).unwrap();
            assert_eq!((file.size_bytes(), file.physical_sector()), (MIB, 4096));
            let mut disks = Disks::new(engine, 8).unwrap();
            disks.insert(DISK, file);
            assert_eq!(operate(&mut disks, write(0, 16384), 0xff).0, Ok(()));
            for unmap in [false, true] {
                assert_eq!(operate(&mut disks, zero(512, 1024, unmap), 0).0, Ok(()));
                assert_eq!(operate(&mut disks, zero(8192, 4096, unmap), 0).0, Ok(()));
            }
            let (result, buffer) = operate(&mut disks, read(0, 16384), 1);
            assert_eq!(result, Ok(()));
            let zeroed = |i: usize| matches!(i, 512..1536 | 8192..12288);
            assert!(buffer.payload(16384).iter().enumerate().all(|(i, &b)| b == if zeroed(i) { 0 } else { 0xff }));

            let direct = DiskFile::open(&DiskOptions { direct: true, ..options.clone() }).unwrap_err();
            assert!(direct.to_string().contains("the device is mounted or"));
            drop(disks);
            let direct = DiskFile::open(&DiskOptions { direct: true, ..options }).unwrap_err();
            assert!(direct.to_string().ends_with(
                "direct I/O works in blocks of 4096 bytes here, but `direct` needs 512; leave it out (buffered)"
            ));
        }
    }

    struct LoopDevice(PathBuf);

    impl LoopDevice {
        fn new(image: &Path, sector: u32) -> Option<Self> {
            let made = std::process::Command::new("losetup")
                .args(["--find", "--show", "--sector-size", &sector.to_string()])
                .arg(image)
                .output()
                .ok()?;
            made.status.success().then(|| Self(PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())))
        }
    }

    impl Drop for LoopDevice {
        fn drop(&mut self) {
            let detached = std::process::Command::new("losetup").arg("--detach").arg(&self.0).status();
            assert!(detached.is_ok_and(|status| status.success()) || std::thread::panicking());
        }
    }
}
