//! A frame that is sent under one tag until it is answered: when it is due again, and which answers are to it.

use aoe_common::time::{Duration, Instant};

/// When an unanswered frame is sent again: this long after the first time, then twice as long each time, up to the
/// second figure.
const RESEND_FIRST: Duration = Duration::from_millis(200);
const RESEND_LAST: Duration = Duration::from_millis(1600);

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Question {
    tag: u32,
    sent: u32,
    again: Instant,
}

impl Question {
    /// A question that is due now.
    pub fn new(tag: u32, now: Instant) -> Self {
        Self { tag, sent: 0, again: now }
    }

    /// The tag it goes out under.
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// How often it was sent.
    pub fn sent(&self) -> usize {
        self.sent as usize
    }

    /// When it is to be sent again.
    pub fn again(&self) -> Instant {
        self.again
    }

    /// Whether it is to be sent now.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.again
    }

    /// It goes out now.
    pub fn was_sent(&mut self, now: Instant) {
        self.again = now + RESEND_LAST.min(RESEND_FIRST * 2u32.pow(self.sent.min(8)));
        self.sent += 1;
    }

    /// Whether an answer with this tag is one to it. What was never sent has no answer.
    pub fn is_answered_by(&self, tag: u32) -> bool {
        self.sent > 0 && self.tag == tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_more_and_more_rarely() {
        let mut now = Instant::ZERO;
        let mut question = Question::new(7, now);
        assert!(question.is_due(now) && !question.is_answered_by(7));
        let pauses = [200, 400, 800, 1600, 1600].map(|_| {
            question.was_sent(now);
            let pause = question.again().since(now);
            now = question.again();
            pause.as_millis()
        });
        assert_eq!(pauses, [200, 400, 800, 1600, 1600]);
        assert!(question.is_answered_by(7) && !question.is_answered_by(8));
        assert_eq!(question.sent(), 5);
    }
}
