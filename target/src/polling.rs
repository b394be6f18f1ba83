//! How long a worker looks for work before it sleeps.
//!
//! To sleep and to be woken costs a processor some 20 to 40 microseconds, and the client waits for them. So where the
//! next request comes sooner than that, it is cheaper for both to look out for it. How long the last pause was tells
//! whether it will: a worker looks out only after a short one.

use aoe_common::time::{Duration, Instant};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Polling {
    /// The longest time to look out.
    limit: Duration,
    /// Whether the last pause was shorter than that.
    is_worthwhile: bool,
    /// When the last work was done.
    idle_since: Option<Instant>,
}

impl Polling {
    /// Looks out for `limit` at the most; zero: never.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, is_worthwhile: false, idle_since: None }
    }

    /// A round is over. Whether to look again at once; otherwise it is time to sleep.
    pub(crate) fn goes_on(&mut self, now: Instant, has_worked: bool) -> bool {
        if has_worked {
            if let Some(since) = self.idle_since.take() {
                self.is_worthwhile = now.since(since) < self.limit;
            }
            return true;
        }
        let since = *self.idle_since.get_or_insert(now);
        self.is_worthwhile && now.since(since) < self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    #[test]
    fn looks_out_only_after_a_short_pause() {
        let mut polling = Polling::new(LIMIT);
        assert!(polling.goes_on(at(0), true));
        assert!(!polling.goes_on(at(10), false), "nothing is known yet");
        assert!(polling.goes_on(at(40), true), "woken after 30 microseconds");
        assert!(polling.goes_on(at(50), false));
        assert!(polling.goes_on(at(99), false));
        assert!(!polling.goes_on(at(100), false), "for no longer than the limit");
        assert!(polling.goes_on(at(5000), true), "woken after a long sleep");
        assert!(!polling.goes_on(at(5010), false));
    }

    #[test]
    fn never_looks_out_when_told_so() {
        let mut polling = Polling::new(Duration::ZERO);
        for round in 0..10 {
            assert!(polling.goes_on(at(round * 2), true));
            assert!(!polling.goes_on(at(round * 2 + 1), false));
        }
    }
}
