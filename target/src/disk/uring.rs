//! The io_uring engine: many jobs in flight, one system call per batch.
//!
//! Each job sits in a slot of a fixed table from start to end and has one request in the kernel at a time; the
//! slot's number is the request's user data. The memory a request points to belongs to the job in its slot, and
//! a slot is emptied only after its request has completed, so the kernel never sees freed memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use io_uring::register::Restriction;
use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::job::{Job, Step};
use crate::engine::operation::{DiskError, DiskId};

/// Files in the ring's table. A disk beyond it works by its plain descriptor, at the price of a look-up per request.
const REGISTERED_FILES: [u32; 3] = [1024, 256, 64];

/// Kernel threads at the most for requests that can block, as a sync does. They are made when needed. A disk that does not
/// answer keeps one for each sync; those of others must not wait for it.
const WORKERS: u32 = 256;

/// Times that a ring may refuse a batch for lack of memory, a millisecond apart, before that is an error.
const ENTER_ATTEMPTS: u32 = 100;

/// How long dropping the ring waits for what is in flight.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// All operations that are ever asked of a ring.
const OPERATIONS: [u8; 4] = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];

/// The calls of io_uring_register that are used while a ring runs, by the kernel's numbers.
const UNREGISTER_FILES: u8 = 3;
const REGISTER_FILES_UPDATE: u8 = 6;

/// How requests name a file.
#[derive(Clone, Copy)]
pub(super) struct Handle {
    /// An index of the ring's table or a descriptor, as `flags` say.
    number: i32,
    flags: squeue::Flags,
}

struct Slot {
    job: Job,
    handle: Handle,
}

/// A ring and the jobs in it.
pub(super) struct Uring {
    ring: IoUring,
    slots: Box<[Option<Slot>]>,
    free: Vec<u32>,
    /// Requests the kernel has taken and not yet completed.
    in_kernel: usize,
    table: u32,
}

impl Uring {
    /// A ring for up to `depth` jobs, to be used by the calling thread only.
    pub(super) fn new(depth: u32) -> io::Result<Self> {
        // A completion waits for this thread's next system call instead of interrupting it. To defer it up to the next
        // enter of the ring (DEFER_TASKRUN) would save a little more, but then nothing wakes a poll of the ring.
        let mut plain = IoUring::builder();
        plain.setup_r_disabled();
        let mut quiet = plain.clone();
        quiet.setup_submit_all().setup_single_issuer().setup_coop_taskrun().setup_taskrun_flag();
        let ring = quiet.build(depth).or_else(|_| plain.build(depth))?;

        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !OPERATIONS.iter().all(|&code| probe.is_supported(code)) {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        // Without this there are four for each processor. Where it is refused, that is still right for disks that answer.
        if let Err(error) = ring.submitter().register_iowq_max_workers(&mut [WORKERS.min(depth), 0]) {
            tracing::debug!(%error, "the kernel keeps its own limit of io_uring workers");
        }
        let table = REGISTERED_FILES.into_iter().find(|&n| ring.submitter().register_files_sparse(n).is_ok());
        restrict(&ring)?;
        Ok(Self {
            ring,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            in_kernel: 0,
            table: table.unwrap_or(0),
        })
    }

    /// A descriptor that polls readable when [`Self::enter`] would find completions.
    pub(super) fn poll_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns its descriptor and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    /// Makes `file` known to the ring.
    pub(super) fn attach(&self, disk: DiskId, file: &File) -> Handle {
        let plain = Handle { number: file.as_raw_fd(), flags: squeue::Flags::empty() };
        if disk.0 < self.table && self.ring.submitter().register_files_update(disk.0, &[plain.number]).is_ok() {
            return Handle { number: disk.0 as i32, flags: squeue::Flags::FIXED_FILE };
        }
        plain
    }

    /// Makes the ring forget a file that no job works on.
    pub(super) fn detach(&self, handle: Handle) {
        if !handle.flags.contains(squeue::Flags::FIXED_FILE) {
            return;
        }
        // A table entry left behind only keeps the file open until the ring goes.
        if let Err(error) = self.ring.submitter().register_files_update(handle.number as u32, &[-1]) {
            tracing::warn!(%error, "io_uring did not let go of a file");
        }
    }

    /// Whether one more job fits.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Takes a job on; the next [`Self::enter`] gives it to the kernel.
    ///
    /// # Panics
    /// Without room for it.
    pub(super) fn start(&mut self, job: Job, handle: Handle) {
        let index = self.free.pop().expect("the caller made sure of room");
        let slot = self.slots[index as usize].insert(Slot { job, handle });
        push(&mut self.ring.submission(), slot, index);
    }

    /// Whether requests wait for [`Self::enter`] to give them to the kernel.
    pub(super) fn has_unsubmitted(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Gives the kernel what waits, in one system call if there is anything, and hands out the jobs that ended.
    pub(super) fn enter(&mut self, mut ended: impl FnMut(Job, Result<(), DiskError>)) -> io::Result<()> {
        let (submitter, mut submission, mut completion) = self.ring.split();
        if !submission.is_empty() || submission.taskrun() || submission.cq_overflow() {
            let mut attempts = 0;
            self.in_kernel += loop {
                match submitter.submit() {
                    Ok(taken) => break taken,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error)
                        if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY))
                            && attempts < ENTER_ATTEMPTS =>
                    {
                        attempts += 1;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => return Err(error),
                }
            };
        }
        submission.sync();
        completion.sync();
        for entry in &mut completion {
            self.in_kernel -= 1;
            let index = index_of(&entry);
            let slot = self.slots[index as usize].as_mut().expect("only a job's request completes");
            match slot.job.advance(entry.result()) {
                None => push(&mut submission, slot, index),
                Some(result) => {
                    let slot = self.slots[index as usize].take().expect("it was there a line ago");
                    self.free.push(index);
                    ended(slot.job, result);
                }
            }
        }
        Ok(())
    }

    /// Waits for the requests in the kernel, without giving it more. False when some outlast the deadline.
    fn drain(&mut self, deadline: Instant) -> bool {
        loop {
            // SAFETY: nothing is submitted and no argument passed; the call only runs deferred completions.
            let entered = unsafe { self.ring.submitter().enter::<()>(0, 0, ENTER_GETEVENTS, None) };
            for entry in self.ring.completion() {
                self.in_kernel -= 1;
                self.slots[index_of(&entry) as usize] = None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.in_kernel == 0
                || left.is_zero()
                || entered.is_err_and(|error| error.kind() != io::ErrorKind::Interrupted)
            {
                return self.in_kernel == 0;
            }
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            // An interrupted or failed wait leads to another round, which the deadline ends.
            let _ = nix::poll::poll(&mut [PollFd::new(self.poll_fd(), PollFlags::POLLIN)], wait);
        }
    }
}

/// Starts a ring that takes only what is used here: operations on files that are open already, and changes of its table. No
/// list of system calls reaches what a ring does, so this is the only guard.
fn restrict(ring: &IoUring) -> io::Result<()> {
    let operations = OPERATIONS.map(Restriction::sqe_op);
    let calls = [REGISTER_FILES_UPDATE, UNREGISTER_FILES].map(Restriction::register_op);
    let flags = [Restriction::sqe_flags_allowed(squeue::Flags::FIXED_FILE.bits())];
    let mut allowed: Vec<_> = operations.into_iter().chain(calls).chain(flags).collect();
    ring.submitter().register_restrictions(&mut allowed)?;
    ring.submitter().register_enable_rings()
}

/// io_uring_enter's flag to run deferred completions.
const ENTER_GETEVENTS: u32 = 1;

fn index_of(entry: &cqueue::Entry) -> u32 {
    u32::try_from(entry.user_data()).expect("user data is a slot's index")
}

/// Queues the request for the job's current step.
fn push(submission: &mut squeue::SubmissionQueue<'_>, slot: &mut Slot, index: u32) {
    let fd = types::Fd(slot.handle.number);
    let request = match slot.job.step() {
        Step::Read { offset } => {
            let to = slot.job.destination();
            opcode::Read::new(fd, to.as_mut_ptr(), to.len() as u32).offset(offset).build()
        }
        Step::Write { offset, durable } => {
            let from = slot.job.source();
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            opcode::Write::new(fd, from.as_ptr(), from.len() as u32).offset(offset).rw_flags(flags).build()
        }
        Step::Fallocate { offset, len, mode } => {
            opcode::Fallocate::new(fd, len).offset(offset).mode(mode.bits()).build()
        }
        Step::Sync { offset, len } => {
            opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).offset(offset).len(len).build()
        }
    };
    let request = request.flags(slot.handle.flags).user_data(u64::from(index));
    // SAFETY: the memory the request points to is owned by the job in its slot (or static) and stays there, neither
    // moved nor touched, until the request has completed; the file is open as long as a job works on it.
    unsafe { submission.push(&request) }.expect("the queue has an entry for each slot");
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.drain(Instant::now() + DRAIN_TIME) {
            // The ring itself goes in the background. Files let go of here can be opened exclusively at once.
            let _ = self.ring.submitter().unregister_files();
        } else {
            tracing::warn!(
                requests = self.in_kernel,
                "disk requests are stuck in the kernel; leaving their memory to it"
            );
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_takes_nothing_but_what_is_used() {
        // Where the kernel has no io_uring there is no ring to restrict.
        let Ok(mut uring) = Uring::new(4) else { return };
        let path = c"/etc/hostname";
        let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build().user_data(0);
        let linked = opcode::Fsync::new(types::Fd(0)).build().flags(squeue::Flags::IO_LINK).user_data(1);
        for request in [open, linked] {
            // SAFETY: the path is static, and the other request points to no memory.
            unsafe { uring.ring.submission().push(&request) }.unwrap();
            uring.ring.submit_and_wait(1).unwrap();
            let entry = uring.ring.completion().next().expect("it was waited for");
            assert_eq!(entry.result(), -libc::EACCES);
        }
        assert!(uring.ring.submitter().register_eventfd(uring.ring.as_raw_fd()).is_err());
    }
}
