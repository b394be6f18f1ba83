//! How many frames may be under way on one path: slow start, additive increase, halving on many losses.
//!
//! The limit is what the target says it can queue. Loss is the only signal AoE gives. A frame or two of a round trip are
//! what a bad cable loses, or a queue that is just full: then the window stays as it is, for a smaller one would lose as
//! many and carry less. More of them are a queue that overflows: then it is halved, once for all frames that were under
//! way. When they turn out not to have been lost, it is as before.

use aoe_common::time::Instant;

/// Frames under way before anything is known of a path.
const INITIAL: u32 = 8;

/// Losses in one round trip that do not halve the window: this many, or the given part of it.
const TOLERATED: u32 = 2;
const TOLERATED_PART: u32 = 8;

/// The window of one path, in frames.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    size: u32,
    limit: u32,
    /// Below this the window doubles each round trip; above it grows by one.
    threshold: u32,
    /// Answers since the window grew last, above the threshold.
    credit: u32,
    /// When this round trip began: it ends with the answer to a frame sent since.
    round: Instant,
    /// Frames lost in it.
    losses: u32,
    /// When it was halved last: losses of frames sent before then are known.
    halved: Option<Instant>,
    /// What it was before that, in the round trip after it.
    before: Option<u32>,
}

impl Window {
    /// A window for a target that queues `limit` frames.
    pub fn new(limit: u32) -> Self {
        let limit = limit.max(1);
        Self {
            size: INITIAL.min(limit),
            limit,
            threshold: limit,
            credit: 0,
            round: Instant::ZERO,
            losses: 0,
            halved: None,
            before: None,
        }
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

    /// The answer to a frame came that was first sent at `sent`.
    pub fn answered(&mut self, now: Instant, sent: Instant) {
        if sent >= self.round {
            (self.round, self.losses, self.before) = (now, 0, None);
        }
        if self.size >= self.limit || self.losses > 0 {
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
        self.losses += 1;
        self.threshold = self.threshold.min(self.size);
        if self.losses <= TOLERATED.max(self.size / TOLERATED_PART) {
            return;
        }
        self.before = Some(self.size);
        self.threshold = (self.size / 2).max(1);
        self.size = self.threshold;
        self.credit = 0;
        self.halved = Some(now);
        (self.round, self.losses) = (now, 0);
    }

    /// A frame that was counted as lost was not.
    pub fn not_lost(&mut self) {
        self.losses = self.losses.saturating_sub(1);
        if let Some(before) = self.before.take() {
            self.size = before.min(self.limit);
            self.threshold = self.size;
        }
    }

    /// The path was dead and is back: begin as on a new one.
    pub fn restart(&mut self) {
        *self = Self::new(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    /// A window that has grown to its limit of 64, at time 100.
    fn full() -> Window {
        let mut window = Window::new(64);
        (0..56).for_each(|_| window.answered(at(100), at(0)));
        window
    }

    #[test]
    fn grows_to_the_limit() {
        let mut window = full();
        assert_eq!(window.size(), 64);
        window.answered(at(100), at(0));
        assert_eq!(window.size(), 64);
    }

    #[test]
    fn a_burst_of_losses_halves_once() {
        let mut window = full();
        for sent in 0..40 {
            window.lost(at(200), at(sent));
        }
        assert_eq!(window.size(), 32);
        (0..5).for_each(|_| window.lost(at(300), at(250)));
        assert_eq!(window.size(), 16);
        window.answered(at(400), at(300));
        (0..15).for_each(|_| window.answered(at(400), at(300)));
        assert_eq!(window.size(), 17, "one more in a whole round trip");
    }

    #[test]
    fn a_bad_cable_does_not_close_it() {
        let mut window = full();
        // Every round trip loses an eighth.
        for round in 1..100 {
            (0..8).for_each(|_| window.lost(at(round * 100), at(round * 100)));
            assert_eq!(window.size(), 64);
            window.answered(at(round * 100 + 100), at(round * 100));
        }
        (0..9).for_each(|_| window.lost(at(20_000), at(20_000)));
        assert_eq!(window.size(), 32);
    }

    #[test]
    fn does_not_grow_in_a_round_trip_with_a_loss() {
        let mut window = Window::new(64);
        window.answered(at(100), at(0));
        window.lost(at(110), at(100));
        (0..8).for_each(|_| window.answered(at(120), at(90)));
        assert_eq!(window.size(), 9);
        (0..9).for_each(|_| window.answered(at(210), at(110)));
        assert_eq!(window.size(), 10, "slow start is over");
    }

    #[test]
    fn what_was_not_lost_after_all_is_given_back() {
        let mut window = full();
        (0..9).for_each(|_| window.lost(at(200), at(150)));
        assert_eq!(window.size(), 32);
        window.not_lost();
        assert_eq!(window.size(), 64);
        (0..9).for_each(|_| window.lost(at(300), at(250)));
        window.answered(at(400), at(300));
        window.not_lost();
        assert_eq!(window.size(), 32, "too late");
    }

    #[test]
    fn never_below_one_frame() {
        let mut window = Window::new(1);
        for round in 0..10 {
            window.lost(at(2 * round + 2), at(2 * round + 1));
        }
        assert_eq!(window.size(), 1);
        window.set_limit(0);
        assert_eq!(window.size(), 1);
    }
}
