//! The clock that drivers hand to the engines.
#![allow(unsafe_code)]

use crate::time::{Duration, Instant};

/// Nanoseconds of `CLOCK_MONOTONIC`, the same for all processes since boot.
pub fn monotonic_now() -> Instant {
    Instant::from_nanos(nanos(libc::CLOCK_MONOTONIC))
}

/// The processor time this process has used, in user and kernel mode and in all its threads.
pub fn processor_time() -> Duration {
    Duration::from_nanos(nanos(libc::CLOCK_PROCESS_CPUTIME_ID))
}

fn nanos(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours that outlives the call.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut now) };
    assert!(failed == 0, "every Linux kernel has this clock");
    let seconds = u64::try_from(now.tv_sec).expect("these clocks are not negative");
    let nanos = u64::try_from(now.tv_nsec).expect("nanoseconds are not negative");
    seconds * 1_000_000_000 + nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_advances_as_long_as_a_sleep_takes() {
        let before = monotonic_now();
        std::thread::sleep(Duration::from_millis(5));
        let passed = monotonic_now().since(before);
        assert!(passed >= Duration::from_millis(5), "only {passed:?} passed");
        assert!(before > Instant::ZERO);
    }

    #[test]
    fn work_costs_processor_time() {
        let before = processor_time();
        let end = monotonic_now() + Duration::from_millis(2);
        while monotonic_now() < end {}
        assert!(processor_time() > before);
    }
}
