//! Time as the engines see it: a number that the driver hands in.
//!
//! Engines never read a clock. Drivers pass monotonic time since an arbitrary start; the simulator
//! passes its virtual clock.

use core::ops::{Add, Sub};
pub use core::time::Duration;

/// A point in monotonic time, in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    nanos: u64,
}

impl Instant {
    /// The start of time.
    pub const ZERO: Self = Self { nanos: 0 };

    /// From nanoseconds since the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// Time that passed since `earlier`; zero when `earlier` is not in the past.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        Self { nanos: self.nanos.saturating_add(nanos) }
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, before: Duration) -> Self {
        let nanos = u64::try_from(before.as_nanos()).unwrap_or(u64::MAX);
        Self { nanos: self.nanos.saturating_sub(nanos) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let now = Instant::from_nanos(5);
        assert_eq!(now - Duration::from_secs(1), Instant::ZERO);
        assert_eq!((now + Duration::MAX).as_nanos(), u64::MAX);
        assert_eq!(now.since(Instant::from_nanos(9)), Duration::ZERO);
        assert_eq!(Instant::from_nanos(9).since(now), Duration::from_nanos(4));
    }
}
