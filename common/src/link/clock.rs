//! The clock that drivers hand to the engines.
#![allow(unsafe_code)]

use crate::time::Instant;

/// Nanoseconds of `CLOCK_MONOTONIC`, the same for all processes since boot.
pub fn monotonic_now() -> Instant {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours that outlives the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    assert!(failed == 0, "every Linux kernel has CLOCK_MONOTONIC");
    let seconds = u64::try_from(now.tv_sec).expect("monotonic time is not negative");
    let nanos = u64::try_from(now.tv_nsec).expect("nanoseconds are not negative");
    Instant::from_nanos(seconds * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    #[test]
    fn it_advances_as_long_as_a_sleep_takes() {
        let before = monotonic_now();
        std::thread::sleep(Duration::from_millis(5));
        let passed = monotonic_now().since(before);
        assert!(passed >= Duration::from_millis(5), "only {passed:?} passed");
        assert!(before > Instant::ZERO);
    }
}
