//! How fast the time stamp counter of this processor runs.
#![allow(unsafe_code, reason = "the counter can only be read by an instruction")]

use std::arch::x86_64::_rdtsc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Kilohertz of the time stamp counter. An emulated guest sees this very counter, and has no way to find its rate that
/// works every time.
pub(super) fn counter_khz() -> u64 {
    let (began, first) = (Instant::now(), counter());
    sleep(Duration::from_millis(100));
    let (elapsed, ticks) = (began.elapsed(), counter() - first);
    u64::try_from(u128::from(ticks) * 1_000_000 / elapsed.as_nanos()).expect("a rate below 18 exahertz")
}

fn counter() -> u64 {
    // SAFETY: the instruction reads a register, and every x86-64 processor has it.
    unsafe { _rdtsc() }
}
