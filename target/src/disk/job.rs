//! One operation on its way through system calls: which call comes next, and what the last one's result means.
//!
//! A job does no I/O. An engine asks for the [`Step`], runs it in its own way, and reports what the kernel
//! answered (a count, or a negative errno) to [`Job::advance`], until that says how the operation ended.

use aoe_common::frame::SECTOR;
use nix::fcntl::FallocateFlags;

use crate::engine::operation::{DiskCompletion, DiskError, DiskId, DiskOperation, DiskOperationKind};

/// The coarsest memory alignment, in bytes, that the buffers made here meet.
pub(super) const MEMORY_ALIGNMENT: usize = 4096;

/// Times in a row that a call may make no progress before the operation fails.
const MAX_RETRIES: u32 = 16;

#[repr(C, align(4096))]
struct Zeros([u8; 64 * 1024]);
const _: () = assert!(align_of::<Zeros>() == MEMORY_ALIGNMENT);

static ZEROS: Zeros = Zeros([0; _]);

/// The next system call of a job. Offsets are in bytes from the start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read into [`Job::destination`].
    Read { offset: u64 },
    /// Write [`Job::source`]; `durable`: with RWF_DSYNC.
    Write { offset: u64, durable: bool },
    /// Allocate or release space.
    Fallocate { offset: u64, len: u64, mode: FallocateFlags },
    /// fdatasync, of the range at least. A `len` of 0 means up to the end of the file.
    Sync { offset: u64, len: u32 },
}

/// What a job has to know of the file it works on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Bytes from the start of the file to the start of the export.
    pub(super) base: u64,
    /// Bytes of the export.
    pub(super) size: u64,
    /// Use memory aligned to [`MEMORY_ALIGNMENT`]; that costs an allocation and a copy.
    pub(super) bounce: bool,
    /// Make a write durable by a sync of its own instead of RWF_DSYNC.
    pub(super) sync_apart: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Read,
    Write,
    PunchHole,
    ZeroRange,
    WriteZeros,
    Sync,
}

/// A copy of the payload in memory aligned for a device that wants more than a frame buffer's 512 bytes.
struct Bounce {
    bytes: Box<[u8]>,
    start: usize,
}

impl Bounce {
    fn new(len: usize) -> Self {
        let bytes = vec![0; len + MEMORY_ALIGNMENT].into_boxed_slice();
        let start = bytes.as_ptr().addr().next_multiple_of(MEMORY_ALIGNMENT) - bytes.as_ptr().addr();
        Self { bytes, start }
    }
}

/// An operation and how far it got.
pub(super) struct Job {
    operation: DiskOperation,
    stage: Stage,
    /// Bytes from the start of the file to the start of the operation.
    offset: u64,
    len: u64,
    done: u64,
    /// Write with RWF_DSYNC.
    durable_write: bool,
    /// End with a sync.
    sync_after: bool,
    retries: u32,
    bounce: Option<Bounce>,
}

impl Job {
    /// A job for `operation`. An operation that does not lie inside the export comes back: the file shrank since it was
    /// asked for.
    pub(super) fn new(operation: DiskOperation, terms: Terms) -> Result<Self, DiskOperation> {
        let (stage, offset, len, durable) = match operation.kind {
            DiskOperationKind::Read { offset, len } => (Stage::Read, offset, u64::from(len), false),
            DiskOperationKind::Write { offset, len, durable } => (Stage::Write, offset, u64::from(len), durable),
            DiskOperationKind::Zero { offset, len, unmap: true, durable } => (Stage::PunchHole, offset, len, durable),
            DiskOperationKind::Zero { offset, len, unmap: false, durable } => (Stage::ZeroRange, offset, len, durable),
            DiskOperationKind::Flush => (Stage::Sync, 0, 0, false),
        };
        assert!(
            offset.is_multiple_of(SECTOR as u64) && len.is_multiple_of(SECTOR as u64),
            "operations come in whole sectors"
        );
        assert!(stage == Stage::Sync || len > 0, "operations have a length");
        if offset.checked_add(len).is_none_or(|end| end > terms.size) {
            return Err(operation);
        }
        let in_file = if stage == Stage::Sync { 0 } else { terms.base + offset };
        let mut job = Self {
            operation,
            stage,
            offset: in_file,
            len,
            done: 0,
            durable_write: durable && !terms.sync_apart,
            sync_after: durable && (stage != Stage::Write || terms.sync_apart),
            retries: 0,
            bounce: None,
        };
        if matches!(stage, Stage::Read | Stage::Write) {
            assert!(len <= job.operation.buffer.payload_capacity() as u64, "the payload fits its buffer");
            if terms.bounce {
                let mut copy = Bounce::new(len as usize);
                copy.bytes[copy.start..][..len as usize].copy_from_slice(job.operation.buffer.payload(len as usize));
                job.bounce = Some(copy);
            }
        }
        Ok(job)
    }

    /// The disk it goes to.
    pub(super) fn disk(&self) -> DiskId {
        self.operation.disk
    }

    /// Whether its success means that something is durable.
    pub(super) fn syncs(&self) -> bool {
        self.stage == Stage::Sync || self.durable_write
    }

    /// The call to make now.
    pub(super) fn step(&self) -> Step {
        let offset = self.offset + self.done;
        let len = self.len - self.done;
        let keep_size = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match self.stage {
            Stage::Read => Step::Read { offset },
            // A write into a range that was truncated away meanwhile makes the file grow again. No data is lost by
            // that, and looking first would be a race.
            Stage::Write => Step::Write { offset, durable: self.durable_write },
            Stage::WriteZeros => Step::Write { offset, durable: false },
            Stage::PunchHole => Step::Fallocate { offset, len, mode: FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep_size },
            Stage::ZeroRange => Step::Fallocate { offset, len, mode: FallocateFlags::FALLOC_FL_ZERO_RANGE | keep_size },
            // A range too long to name is synced with the rest of the file.
            Stage::Sync => match u32::try_from(self.len) {
                Ok(len) => Step::Sync { offset: self.offset, len },
                Err(_) => Step::Sync { offset: 0, len: 0 },
            },
        }
    }

    /// Where the bytes of [`Step::Read`] go.
    pub(super) fn destination(&mut self) -> &mut [u8] {
        let (done, len) = (self.done as usize, self.len as usize);
        match &mut self.bounce {
            Some(bounce) => &mut bounce.bytes[bounce.start..][done..len],
            None => &mut self.operation.buffer.payload_mut(len)[done..],
        }
    }

    /// The bytes of [`Step::Write`].
    pub(super) fn source(&self) -> &[u8] {
        if self.stage == Stage::WriteZeros {
            return &ZEROS.0[..ZEROS.0.len().min(usize::try_from(self.len - self.done).unwrap_or(usize::MAX))];
        }
        let (done, len) = (self.done as usize, self.len as usize);
        match &self.bounce {
            Some(bounce) => &bounce.bytes[bounce.start..][done..len],
            None => &self.operation.buffer.payload(len)[done..],
        }
    }

    /// Takes the kernel's answer to the current step: a count, or a negative errno. The operation's result when
    /// that was its last step.
    pub(super) fn advance(&mut self, answer: i32) -> Option<Result<(), DiskError>> {
        let Ok(count) = u64::try_from(answer) else { return self.fail(-answer) };
        match self.stage {
            Stage::Sync => return Some(Ok(())),
            Stage::PunchHole | Stage::ZeroRange => self.done = self.len,
            Stage::Read | Stage::Write | Stage::WriteZeros => {
                // Direct I/O can go on only at a sector, so one that was moved in part is moved again.
                let whole = count - count % SECTOR as u64;
                match whole {
                    0 if self.stage == Stage::Read => return Some(Err(DiskError::Short)),
                    0 => return self.retry(libc::EIO),
                    _ => self.retries = 0,
                }
                self.done += whole;
                assert!(self.done <= self.len, "the kernel moved more than it was asked to");
                if self.done < self.len {
                    return None;
                }
            }
        }
        if !self.sync_after {
            return Some(Ok(()));
        }
        self.stage = Stage::Sync;
        None
    }

    fn retry(&mut self, errno: i32) -> Option<Result<(), DiskError>> {
        self.retries += 1;
        (self.retries > MAX_RETRIES).then_some(Err(DiskError::Io(errno)))
    }

    fn fail(&mut self, errno: i32) -> Option<Result<(), DiskError>> {
        let writes = !matches!(self.operation.kind, DiskOperationKind::Read { .. });
        let zeroes_by_fallocate = matches!(self.stage, Stage::PunchHole | Stage::ZeroRange);
        match errno {
            // The kernel tells of a loss once. A second try would succeed, and mean nothing.
            _ if self.stage == Stage::Sync => Some(Err(DiskError::Lost(errno))),
            libc::EINTR | libc::EAGAIN => self.retry(errno),
            // EINVAL: a device with sectors above 512 bytes zeroes whole sectors only, but its page cache takes any write.
            libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV if zeroes_by_fallocate => {
                self.stage = if self.stage == Stage::PunchHole { Stage::ZeroRange } else { Stage::WriteZeros };
                None
            }
            libc::ENOSPC | libc::EDQUOT => Some(Err(DiskError::NoSpace)),
            libc::EROFS | libc::EPERM | libc::EBADF if writes => Some(Err(DiskError::ReadOnly)),
            // With RWF_DSYNC nobody can tell whether the write failed or the sync behind it.
            _ if self.stage == Stage::Write && self.durable_write => Some(Err(DiskError::Lost(errno))),
            _ => Some(Err(DiskError::Io(errno))),
        }
    }

    /// The completion of the operation, which ended with `result`.
    pub(super) fn finish(mut self, result: Result<(), DiskError>) -> DiskCompletion {
        if let (DiskOperationKind::Read { .. }, Some(bounce), Ok(())) = (self.operation.kind, &self.bounce, result) {
            let len = self.len as usize;
            self.operation.buffer.payload_mut(len).copy_from_slice(&bounce.bytes[bounce.start..][..len]);
        }
        DiskCompletion { id: self.operation.id, buffer: self.operation.buffer, result }
    }
}

#[cfg(test)]
mod tests {
    use aoe_common::frame::FrameBuffer;

    use super::*;
    use crate::engine::operation::OperationId;

    const BASE: u64 = 1 << 20;
    const SIZE: u64 = 1 << 20;
    const TERMS: Terms = Terms { base: BASE, size: SIZE, bounce: false, sync_apart: false };

    fn operation(kind: DiskOperationKind) -> DiskOperation {
        DiskOperation { id: OperationId(1), disk: DiskId(0), kind, buffer: FrameBuffer::new(8) }
    }

    fn job(kind: DiskOperationKind) -> Job {
        Job::new(operation(kind), TERMS).unwrap()
    }

    const READ: DiskOperationKind = DiskOperationKind::Read { offset: 512, len: 4096 };
    const WRITE: DiskOperationKind = DiskOperationKind::Write { offset: 512, len: 4096, durable: false };

    fn zero(len: u64, unmap: bool, durable: bool) -> DiskOperationKind {
        DiskOperationKind::Zero { offset: 0, len, unmap, durable }
    }

    #[test]
    fn a_partial_transfer_goes_on_at_the_last_whole_sector() {
        for kind in [READ, WRITE] {
            let mut job = job(kind);
            assert_eq!(job.advance(1024 + 100), None);
            assert_eq!(job.destination().len(), 3072);
            assert_eq!(job.source().len(), 3072);
            let (Step::Read { offset } | Step::Write { offset, .. }) = job.step() else { panic!() };
            assert_eq!(offset, BASE + 512 + 1024);
            assert_eq!(job.advance(3072), Some(Ok(())));
        }
    }

    #[test]
    fn the_end_of_the_file_is_short_to_a_read_and_an_error_to_a_write() {
        assert_eq!(job(READ).advance(0), Some(Err(DiskError::Short)));
        assert_eq!(job(READ).advance(511), Some(Err(DiskError::Short)));
        let mut write = job(WRITE);
        let end = (0..=MAX_RETRIES).find_map(|_| write.advance(0));
        assert_eq!(end, Some(Err(DiskError::Io(libc::EIO))));
    }

    #[test]
    fn interruptions_are_retried_within_a_bound_that_progress_renews() {
        let mut job = job(READ);
        for _ in 0..MAX_RETRIES {
            assert_eq!(job.advance(-libc::EINTR), None);
        }
        assert_eq!(job.advance(512), None);
        for _ in 0..MAX_RETRIES {
            assert_eq!(job.advance(-libc::EAGAIN), None);
        }
        assert_eq!(job.advance(-libc::EAGAIN), Some(Err(DiskError::Io(libc::EAGAIN))));
    }

    #[test]
    fn errors_are_named_by_what_they_mean() {
        for (errno, error) in [
            (libc::ENOSPC, DiskError::NoSpace),
            (libc::EDQUOT, DiskError::NoSpace),
            (libc::EROFS, DiskError::ReadOnly),
            (libc::EPERM, DiskError::ReadOnly),
            (libc::EBADF, DiskError::ReadOnly),
            (libc::EIO, DiskError::Io(libc::EIO)),
            (libc::EINVAL, DiskError::Io(libc::EINVAL)),
        ] {
            assert_eq!(job(WRITE).advance(-errno), Some(Err(error)));
        }
        assert_eq!(job(READ).advance(-libc::EBADF), Some(Err(DiskError::Io(libc::EBADF))));
    }

    #[test]
    fn whatever_a_sync_fails_with_is_a_loss_and_is_not_tried_again() {
        let durable = DiskOperationKind::Write { offset: 512, len: 1024, durable: true };
        for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EINTR, libc::EAGAIN] {
            let lost = Some(Err(DiskError::Lost(errno)));
            assert_eq!(job(DiskOperationKind::Flush).advance(-errno), lost);
            let mut apart = Job::new(operation(durable), Terms { sync_apart: true, ..TERMS }).unwrap();
            assert_eq!(apart.advance(1024), None);
            assert_eq!(apart.advance(-errno), lost);
            let mut zeroed = job(zero(4096, true, true));
            assert_eq!(zeroed.advance(0), None);
            assert_eq!(zeroed.advance(-errno), lost);
        }
    }

    #[test]
    fn a_durable_write_that_is_refused_loses_nothing() {
        let durable = DiskOperationKind::Write { offset: 512, len: 1024, durable: true };
        let apart = || Job::new(operation(durable), Terms { sync_apart: true, ..TERMS }).unwrap();
        assert_eq!(apart().advance(-libc::EIO), Some(Err(DiskError::Io(libc::EIO))));
        for (errno, error) in [(libc::ENOSPC, DiskError::NoSpace), (libc::EROFS, DiskError::ReadOnly)] {
            assert_eq!(apart().advance(-errno), Some(Err(error)));
            assert_eq!(job(durable).advance(-errno), Some(Err(error)));
        }
        assert_eq!(job(durable).advance(-libc::EIO), Some(Err(DiskError::Lost(libc::EIO))), "who can tell");
    }

    #[test]
    fn zeroing_falls_back_to_writing_zeros_in_pieces_and_syncs_last() {
        let mut job = job(zero(SIZE, true, true));
        let Step::Fallocate { offset: BASE, len: SIZE, mode } = job.step() else { panic!() };
        assert!(mode.contains(FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE));
        assert_eq!(job.advance(-libc::EOPNOTSUPP), None);
        let Step::Fallocate { mode, .. } = job.step() else { panic!() };
        assert!(mode.contains(FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE));
        assert_eq!(job.advance(-libc::EINVAL), None);
        let mut written = 0;
        while let Step::Write { offset, durable: false } = job.step() {
            assert_eq!(offset, BASE + written);
            assert!(job.source().iter().all(|&byte| byte == 0));
            let count = job.source().len();
            written += count as u64;
            assert_eq!(job.advance(count as i32), None);
        }
        assert_eq!(written, SIZE);
        assert_eq!(job.step(), Step::Sync { offset: BASE, len: SIZE as u32 });
        assert_eq!(job.advance(0), Some(Ok(())));
    }

    #[test]
    fn a_durable_write_is_synced_in_the_write_or_after_it() {
        let kind = DiskOperationKind::Write { offset: 512, len: 1024, durable: true };
        let mut within = job(kind);
        assert_eq!(within.step(), Step::Write { offset: BASE + 512, durable: true });
        assert_eq!(within.advance(1024), Some(Ok(())));

        let mut apart = Job::new(operation(kind), Terms { sync_apart: true, ..TERMS }).unwrap();
        assert_eq!(apart.step(), Step::Write { offset: BASE + 512, durable: false });
        assert_eq!(apart.advance(1024), None);
        assert_eq!(apart.step(), Step::Sync { offset: BASE + 512, len: 1024 });
        assert_eq!(apart.advance(0), Some(Ok(())));
    }

    #[test]
    fn a_flush_syncs_the_whole_file() {
        assert_eq!(job(DiskOperationKind::Flush).step(), Step::Sync { offset: 0, len: 0 });
    }

    #[test]
    fn zeroing_that_is_not_durable_does_not_sync() {
        let mut job = job(zero(512, false, false));
        let Step::Fallocate { mode, .. } = job.step() else { panic!() };
        assert!(mode.contains(FallocateFlags::FALLOC_FL_ZERO_RANGE));
        assert_eq!(job.advance(0), Some(Ok(())));
    }

    #[test]
    fn an_operation_outside_the_export_comes_back() {
        for kind in [
            DiskOperationKind::Read { offset: SIZE, len: 512 },
            DiskOperationKind::Write { offset: SIZE - 512, len: 1024, durable: false },
            DiskOperationKind::Zero { offset: 512, len: SIZE, unmap: true, durable: false },
            DiskOperationKind::Zero { offset: 512, len: u64::MAX - 511, unmap: true, durable: false },
        ] {
            assert!(Job::new(operation(kind), TERMS).is_err());
        }
    }

    #[test]
    fn a_bounced_job_works_on_aligned_memory_and_copies_back() {
        let mut read = Job::new(operation(READ), Terms { bounce: true, ..TERMS }).unwrap();
        assert_eq!(read.destination().as_ptr().addr() % MEMORY_ALIGNMENT, 0);
        read.destination().fill(7);
        assert_eq!(read.advance(4096), Some(Ok(())));
        assert_eq!(read.finish(Ok(())).buffer.payload(4096), [7; 4096]);

        let mut operation = operation(WRITE);
        operation.buffer.payload_mut(4096).fill(9);
        let write = Job::new(operation, Terms { bounce: true, ..TERMS }).unwrap();
        assert_eq!(write.source().as_ptr().addr() % MEMORY_ALIGNMENT, 0);
        assert_eq!(write.source(), [9; 4096]);
    }
}
