//! When requests begin: each as soon as there is room, or at a rate.
//!
//! At a rate a request has a time at which it is meant to begin, whatever became of those before it, and its latency
//! counts from then: the time it waited for room is part of it.

use aoe_common::time::{Duration, Instant};

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Pace {
    start: Instant,
    /// Requests a second; none: as soon as there is room.
    rate: Option<u32>,
    /// Requests begun.
    begun: u64,
}

impl Pace {
    /// From `start` on, so many a second (not 0), or as many as there is room for.
    pub fn new(start: Instant, rate: Option<u32>) -> Self {
        assert!(rate != Some(0), "a rate leads to something");
        Self { start, rate, begun: 0 }
    }

    /// When the next one is meant to begin.
    pub fn due(&self) -> Instant {
        let Some(rate) = self.rate else { return self.start };
        let nanos = u128::from(self.begun) * 1_000_000_000 / u128::from(rate);
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Begins the next one, which is due, and tells from when on its latency counts.
    pub fn begin(&mut self, now: Instant) -> Instant {
        let due = self.due();
        assert!(due <= now, "nothing begins before its time");
        self.begun += 1;
        if self.rate.is_some() { due } else { now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    #[test]
    fn without_a_rate_the_next_is_always_due() {
        let mut pace = Pace::new(at(100), None);
        for now in [100, 105, 105, 900] {
            assert!(pace.due() <= at(now));
            assert_eq!(pace.begin(at(now)), at(now));
        }
    }

    #[test]
    fn a_rate_is_kept_on_average_and_what_is_late_counts_from_its_time() {
        let mut pace = Pace::new(at(100), Some(3));
        let thirds = [100, 333_433, 666_766, 1_000_100].map(at);
        for (intended, late) in thirds.into_iter().zip([0, 10, 400_000, 66_666]) {
            assert!(pace.due().since(intended) < Duration::from_micros(1) && pace.due() >= intended);
            let due = pace.due();
            assert_eq!(pace.begin(due + Duration::from_micros(late)), due);
        }
    }

    #[test]
    fn a_long_run_does_not_overflow() {
        let pace = Pace { begun: u64::MAX, ..Pace::new(at(0), Some(1)) };
        assert_eq!(pace.due(), Instant::from_nanos(u64::MAX));
    }
}
