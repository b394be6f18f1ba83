//! The largest frame that a path carries, found out where large ones seem to vanish.
//!
//! A switch on the way that takes smaller frames than both ends drops the larger ones without a word. What tells of it is a
//! large frame that goes unanswered while a small one is answered, and nothing less: a disk or a target that hangs answers
//! neither. So sizes are tried with reads that are as long as the frame of a write, and with each goes a small one. They
//! carry nobody's data.

use aoe_common::time::Instant;

use super::search::Search;

/// Sectors that every Ethernet takes in a frame. No fewer are tried.
pub const SURE: u8 = 2;

/// How often a size is tried, and how many of the small reads beside it have to be answered before it fails.
const ATTEMPTS: u32 = 4;
const SMALL_ANSWERS: u32 = 3;

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Measuring {
    search: Search,
    claimed: u8,
    /// Tags of what is asked: the large read, one for all attempts, and the small one of this attempt, until it is answered.
    large: u32,
    small: Option<u32>,
    attempts: u32,
    small_answers: u32,
    asked_at: Instant,
    again: Instant,
}

/// What an answer, or the lack of one, leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask for this many sectors, and for [`SURE`] ones, in frames that have room for as many.
    Ask(u8),
    /// So many sectors pass and no more; `None`: all that both ends take.
    Known(Option<u8>),
    /// Nothing can be told: not even small ones are answered.
    Unknown,
}

impl Measuring {
    /// Begins now, with what both ends claim to take: more than [`SURE`].
    pub fn new(now: Instant, claimed: u8) -> Self {
        Self {
            search: Search::new(SURE, claimed),
            claimed,
            large: 0,
            small: None,
            attempts: 0,
            small_answers: 0,
            asked_at: now,
            again: now,
        }
    }

    /// When to call `step`.
    pub fn due(&self) -> Instant {
        self.again
    }

    /// What is to be done when it is due.
    pub fn step(&mut self) -> Step {
        if self.attempts == ATTEMPTS {
            if self.small_answers < SMALL_ANSWERS {
                return Step::Unknown;
            }
            self.learn(false);
        }
        let largest = self.search.largest();
        self.search.next().map_or(Step::Known((largest < self.claimed).then_some(largest)), Step::Ask)
    }

    /// The attempts so far at the size that is asked for.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Both reads go out now under these tags; the answers are waited for until then. Returns the tag of the large one,
    /// which stays the same for all attempts.
    pub fn asked(&mut self, now: Instant, tags: [u32; 2], until: Instant) -> u32 {
        let [large, small] = tags;
        if self.attempts == 0 {
            self.large = large;
        }
        self.small = Some(small);
        self.attempts += 1;
        (self.asked_at, self.again) = (now, until);
        self.large
    }

    /// Whether a tag is one of ours.
    pub fn asks(&self, tag: u32) -> bool {
        self.attempts > 0 && (tag == self.large || self.small == Some(tag))
    }

    /// One of ours was answered as it should be. The large one makes the next step due.
    pub fn answered(&mut self, now: Instant, tag: u32) {
        if self.small == Some(tag) {
            self.small = None;
            self.small_answers += 1;
        } else {
            self.learn(true);
            self.again = now;
        }
    }

    /// When the small read was sent that this tag belongs to.
    pub fn small_sent(&self, tag: u32) -> Option<Instant> {
        (self.small == Some(tag)).then_some(self.asked_at)
    }

    fn learn(&mut self, passes: bool) {
        let size = self.search.next().expect("a size was asked for");
        self.search.learn(size, passes);
        (self.attempts, self.small_answers, self.small) = (0, 0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::ZERO;

    /// Measures a way that carries `most` sectors, or answers nothing.
    fn measure(claimed: u8, most: Option<u8>) -> (Step, u32) {
        let mut measuring = Measuring::new(NOW, claimed);
        let mut asked = 0;
        loop {
            let Step::Ask(size) = measuring.step() else { return (measuring.step(), asked) };
            asked += 1;
            let large = measuring.asked(NOW, [2 * asked, 2 * asked + 1], NOW);
            assert!(measuring.asks(large) && measuring.asks(2 * asked + 1));
            let Some(most) = most else { continue };
            measuring.answered(NOW, 2 * asked + 1);
            assert!(!measuring.asks(2 * asked + 1), "once");
            if size <= most {
                measuring.answered(NOW, large);
            }
        }
    }

    #[test]
    fn what_passes_is_known_after_a_few_attempts() {
        assert_eq!(measure(17, Some(17)), (Step::Known(None), 1));
        assert_eq!(measure(17, Some(255)), (Step::Known(None), 1));
        assert!(matches!(measure(17, Some(2)), (Step::Known(Some(2)), 5..=20)));
        assert!(matches!(measure(17, Some(8)), (Step::Known(Some(8)), 5..=20)));
        assert!(matches!(measure(255, Some(100)), (Step::Known(Some(100)), 5..=40)));
    }

    #[test]
    fn silence_tells_nothing() {
        assert_eq!(measure(17, None), (Step::Unknown, ATTEMPTS));
    }

    #[test]
    fn an_answer_to_any_attempt_counts() {
        let mut measuring = Measuring::new(NOW, 17);
        for attempt in 0..3 {
            assert_eq!((measuring.step(), measuring.attempts()), (Step::Ask(17), attempt));
            assert_eq!(measuring.asked(NOW, [10 + attempt, 20 + attempt], NOW), 10);
        }
        assert!(!measuring.asks(11) && !measuring.asks(21) && measuring.asks(22));
        measuring.answered(NOW, 10);
        assert_eq!(measuring.step(), Step::Known(None));
    }
}
