//! What keeps a block device's server out of the way of the memory it frees.
//!
//! Under memory pressure the kernel writes dirty pages to the device; if its server then needs memory to go on, it
//! waits for itself. None of this is vital, and some of it needs rights, so what fails is only noted.

use std::fs;

use nix::sys::mman::{MlockAllFlags, mlockall};

/// For the process: nothing of it is paged out, and it is the last to be killed for memory.
pub(super) fn stay() {
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        tracing::debug!("memory is not locked: {}", error.desc());
    }
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::debug!("oom_score_adj: {error}");
    }
}

/// For the thread that carries the requests: it does not wait for write-back, since write-back waits for it.
pub(super) fn serve_write_back() {
    if let Err(error) = aoe_common::netlink::become_io_flusher() {
        tracing::debug!("PR_SET_IO_FLUSHER: {error}");
    }
}
