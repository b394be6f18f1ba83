//! How many frames may be under way on one path: slow start, additive increase, halving on loss.
//!
//! The limit is what the target says it can queue. Loss is the only signal AoE gives, and a burst of lost
//! frames is one signal: the window is halved once for all frames that were under way when it was.

use aoe_common::time::Instant;

/// Frames under way before anything is known of a path.
const INITIAL: u32 = 8;

/// The window of one path, in frames.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    size: u32,
    limit: u32,
    /// Below this the window doubles each round trip; above it grows by one.
    threshold: u32,
    /// Answers since the window grew last, above the threshold.
    credit: u32,
    /// When it was halved last: losses of frames sent before then are known.
    halved: Option<Instant>,
}

impl Window {
    /// A window for a target that queues `limit` frames.
    pub fn new(limit: u32) -> Self {
        let limit = limit.max(1);
        Self { size: INITIAL.min(limit), limit, threshold: limit, credit: 0, halved: None }
    }

    /// Frames that may be under way.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The target queues another number of frames now.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit.max(1);
        self.size = self.size.min(self.limit);
        self.threshold = self.threshold.min(self.limit);
    }

    /// An answer came.
    pub fn answered(&mut self) {
        if self.size >= self.limit {
            return;
        }
        if self.size < self.threshold {
            self.size += 1;
            return;
        }
        self.credit += 1;
        if self.credit >= self.size {
            self.credit = 0;
            self.size += 1;
        }
    }

    /// A frame sent at `sent` was lost.
    pub fn lost(&mut self, now: Instant, sent: Instant) {
        if self.halved.is_some_and(|halved| sent <= halved) {
            return;
        }
        self.threshold = (self.size / 2).max(1);
        self.size = self.threshold;
        self.credit = 0;
        self.halved = Some(now);
    }

    /// The path was dead and is back: begin as on a new one.
    pub fn restart(&mut self) {
        self.size = INITIAL.min(self.limit);
        self.threshold = self.limit;
        self.credit = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn grows_to_the_limit() {
        let mut window = Window::new(64);
        assert_eq!(window.size(), 8);
        for _ in 0..56 {
            window.answered();
        }
        assert_eq!(window.size(), 64);
        window.answered();
        assert_eq!(window.size(), 64);
    }

    #[test]
    fn a_burst_of_losses_halves_once() {
        let mut window = Window::new(64);
        (0..100).for_each(|_| window.answered());
        for sent in 0..20 {
            window.lost(at(100), at(sent));
        }
        assert_eq!(window.size(), 32);
        window.lost(at(200), at(150));
        assert_eq!(window.size(), 16);
        (0..16).for_each(|_| window.answered());
        assert_eq!(window.size(), 17, "one more in a whole round trip");
    }

    #[test]
    fn never_below_one_frame() {
        let mut window = Window::new(1);
        window.lost(at(2), at(1));
        window.lost(at(4), at(3));
        assert_eq!(window.size(), 1);
        window.set_limit(0);
        assert_eq!(window.size(), 1);
    }
}
