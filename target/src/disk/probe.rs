//! Questions about an open file that only raw system calls answer.
#![allow(unsafe_code)]

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

mod ioctl {
    nix::ioctl_read_bad!(logical_sector, libc::BLKSSZGET, libc::c_int);
    nix::ioctl_read_bad!(physical_sector, libc::BLKPBSZGET, libc::c_uint);
}

/// The smallest unit, in bytes, that a block device addresses.
pub(super) fn logical_sector(device: &File) -> nix::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for the call, and BLKSSZGET stores one int.
    unsafe { ioctl::logical_sector(device.as_raw_fd(), &mut bytes) }?;
    u32::try_from(bytes).map_err(|_| nix::Error::ERANGE)
}

/// The smallest unit, in bytes, that a block device writes without reading first.
pub(super) fn physical_sector(device: &File) -> nix::Result<u32> {
    let mut bytes: libc::c_uint = 0;
    // SAFETY: the descriptor is open for the call, and BLKPBSZGET stores one unsigned int.
    unsafe { ioctl::physical_sector(device.as_raw_fd(), &mut bytes) }?;
    Ok(bytes)
}

/// Where [`writeback_error`] looks: far behind the end of any file, so that no page there is ever waited for.
const NOWHERE: i64 = i64::MAX - 0xffff;

/// Whether write-back of the file or device has failed since this was last asked by the same descriptor: each is told
/// once. Does no I/O.
pub(super) fn writeback_error(file: &File) -> nix::Result<()> {
    // SAFETY: the descriptor is open for the call, which takes numbers only.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), NOWHERE, 1, libc::SYNC_FILE_RANGE_WAIT_BEFORE) };
    nix::Error::result(result).map(drop)
}

/// What direct I/O on a file has to be aligned to, in bytes. Both are 0 when it takes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectAlignment {
    pub(super) memory: u32,
    pub(super) offset: u32,
}

/// The alignment of direct I/O, or `None` when the kernel cannot tell (before Linux 6.1, and some file systems).
pub(super) fn direct_alignment(file: &File) -> Option<DirectAlignment> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the descriptor is open for the call, the path is an empty C string as AT_EMPTY_PATH wants it, and
    // the answer has room for one statx.
    let result = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, answer.as_mut_ptr())
    };
    // SAFETY: all bytes were zeroed, and zero is a valid value of every field; the kernel only adds to that.
    let answer = unsafe { answer.assume_init() };
    (result == 0 && answer.stx_mask & libc::STATX_DIOALIGN != 0)
        .then_some(DirectAlignment { memory: answer.stx_dio_mem_align, offset: answer.stx_dio_offset_align })
}
