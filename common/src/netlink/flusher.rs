//! The mark of a thread that the kernel needs to write back memory.
#![allow(unsafe_code)]

use std::io;

use nix::errno::Errno;

/// Not in every version of libc.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Marks the calling thread as one that serves a block device: under memory pressure it is not made to wait for
/// write-back, which would mean to wait for itself. Needs CAP_SYS_RESOURCE and Linux 5.6.
pub fn become_io_flusher() -> io::Result<()> {
    let (on, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: this option of prctl takes numbers only.
    Errno::result(unsafe { libc::prctl(PR_SET_IO_FLUSHER, on, unused, unused, unused) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rights_or_an_old_kernel_stand_against_it() {
        // In a thread of its own: the mark is for life.
        match std::thread::spawn(become_io_flusher).join().unwrap() {
            Ok(()) => {}
            Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::EINVAL)), "{error}"),
        }
    }
}
