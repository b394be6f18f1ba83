//! What keeps a block device's server out of the way of the memory it frees.
//!
//! Under memory pressure the kernel writes dirty pages to the device; if its server then needs memory to go on, it
//! waits for itself. None of this is vital, and some of it needs rights, so what fails is only noted.

use std::fs;

use nix::sys::mman::{MlockAllFlags, mlockall};

/// For the process: nothing of it is paged out, and it is the last to be killed for memory.
pub(super) fn stay() {
    // Without the right to lock any amount, memory that is asked for later could be refused.
    let may_lock = fs::read_to_string("/proc/self/status").is_ok_and(|status| may_lock_memory(&status));
    if !may_lock {
        tracing::debug!("memory is not locked: CAP_IPC_LOCK is missing");
    } else if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        tracing::debug!("memory is not locked: {}", error.desc());
    }
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::debug!("oom_score_adj: {error}");
    }
}

/// Whether /proc/self/status tells of CAP_IPC_LOCK.
fn may_lock_memory(status: &str) -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & 1 << CAP_IPC_LOCK != 0)
}

/// For the thread that carries the requests: it does not wait for write-back, since write-back waits for it.
pub(super) fn serve_write_back() {
    if let Err(error) = aoe_common::netlink::become_io_flusher() {
        tracing::debug!("PR_SET_IO_FLUSHER: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_to_lock_is_read() {
        assert!(may_lock_memory("Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n"));
        for without in ["CapEff:\t0000000000003000\n", "CapEff:\tnonsense\n", "CapPrm:\t000001ffffffffff\n", ""] {
            assert!(!may_lock_memory(without), "{without:?}");
        }
    }
}
