//! Steps as blocking system calls: all of them where io_uring is missing or forbidden, and those that are cheaper
//! this way. A slow disk stalls the caller for as long as a call takes.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::job::{Job, Step};
use crate::engine::operation::DiskError;

/// Runs all steps of `job`, which works on `file`.
pub(super) fn run(job: &mut Job, file: &File) -> Result<(), DiskError> {
    loop {
        let answer = call(job, file);
        if let Some(result) = job.advance(answer) {
            return result;
        }
    }
}

/// Runs the current step of `job`: a count, or a negative errno.
pub(super) fn call(job: &mut Job, file: &File) -> i32 {
    match job.step() {
        Step::Read { offset } => count(file.read_at(job.destination(), offset)),
        Step::Write { offset, durable: false } => count(file.write_at(job.source(), offset)),
        Step::Write { offset, durable: true } => count(write_durably(file, job.source(), offset)),
        Step::Fallocate { offset, len, mode } => match (i64::try_from(offset), i64::try_from(len)) {
            (Ok(offset), Ok(len)) => {
                nix::fcntl::fallocate(file, mode, offset, len).map_or_else(|errno| -(errno as i32), |()| 0)
            }
            _ => -libc::EFBIG,
        },
        Step::Sync { .. } => count(file.sync_data().map(|()| 0)),
    }
}

/// A result as the kernel gives it: a count, or a negative errno. Transfers are far shorter than an `i32` counts.
fn count(result: io::Result<usize>) -> i32 {
    match result {
        Ok(count) => count as i32,
        Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
    }
}

fn write_durably(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the descriptor is open and the one vector describes `bytes`, which the call only reads.
    let written = unsafe { libc::pwritev2(file.as_raw_fd(), &vector, 1, offset, libc::RWF_DSYNC) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}
