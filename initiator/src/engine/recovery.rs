//! Which frames of one kind on one path are lost, told by what was answered since (after RACK-TLP, RFC 8985).
//!
//! A wait that is long enough for a busy target is far too long for a frame that the network lost. But a network keeps
//! the order of frames, and a target mostly answers in the order it was asked. So a frame is taken for lost when
//! [`OVERTAKEN`] frames sent after it have been answered, and answers are usually there by then. When nothing is answered
//! any more, the oldest frame is sent again as a probe: if its answer comes, so do new requests and what they tell.
//!
//! A disk may well answer in another order, and a target may just be slow. A resend that was not needed shows, since its
//! answer comes sooner than any could, or both copies are answered; then the patience grows, and with resends that were
//! needed it shrinks again. What is not told here is told by the frame's time-out.
//!
//! Work is constant for each frame, whatever waits.

use std::collections::VecDeque;

use aoe_common::time::{Duration, Instant};

use super::rtt::Rtt;

/// Answers to later frames that tell of a loss.
const OVERTAKEN: usize = 3;

/// Frames in the order of sending that are kept; the oldest is left to its time-out beyond that.
const ORDER_MAX: usize = 1024;

/// The shortest silence before a probe: longer than a busy host lets another process run (Linux: 3 ms).
const PROBE_MIN: Duration = Duration::from_millis(4);
/// Probes before silence is left to the time-outs.
const PROBES_MAX: u32 = 3;

/// How much the patience may grow, and how many needed resends in a row halve it again.
const STRETCH_MAX: u32 = 256;
const NEEDED_TO_SHRINK: u32 = 16;

/// What is alike enough for its answers to be in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes that a target answers from memory.
    Write,
}

impl Kind {
    /// All of them, as they are numbered.
    pub const ALL: [Self; 2] = [Self::Read, Self::Write];
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Flights that wait for their answers in the order of sending, and when they were sent; `None`: over. The first is
    /// never over.
    waiting: VecDeque<Option<(u32, Instant)>>,
    /// The number of the first of these. Numbers begin at 1.
    first: u64,
    /// The highest numbers that were answered, in rising order.
    latest: [u64; OVERTAKEN],
    rtt: Rtt,
    /// The shortest round trip.
    fastest: Duration,
    /// When the last answer came, or the last probe was asked for.
    quiet_since: Instant,
    /// Probes since the last answer.
    probes: u32,
    /// How many times longer than usual to wait.
    stretch: u32,
    /// Resends in a row that were needed.
    needed: u32,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            first: 1,
            latest: [0; OVERTAKEN],
            rtt: Rtt::default(),
            fastest: Duration::MAX,
            quiet_since: Instant::ZERO,
            probes: 0,
            stretch: 1,
            needed: 0,
        }
    }
}

impl Recovery {
    /// A flight's frame is sent, behind all others. Returns the frame's number.
    pub fn sent(&mut self, now: Instant, flight: u32) -> u64 {
        if self.waiting.len() == ORDER_MAX {
            self.waiting[0] = None;
            self.drop_front();
        }
        self.waiting.push_back(Some((flight, now)));
        self.first + self.waiting.len() as u64 - 1
    }

    /// Nobody waits for the frame with this number any more: it is answered, given up, or counted as lost.
    pub fn over(&mut self, number: u64) {
        // It may be the one that had to make room.
        let Some(at) = number.checked_sub(self.first) else { return };
        self.waiting[at as usize] = None;
        self.drop_front();
    }

    /// The frame with this number, which had never been sent before, was answered after this time.
    pub fn answered(&mut self, now: Instant, number: u64, after: Duration) {
        self.over(number);
        self.rtt.measured(after);
        self.fastest = self.fastest.min(after);
        self.heard(now);
        if number > self.latest[0] {
            self.latest[0] = number;
            self.latest.sort_unstable();
        }
    }

    /// A flight that had been taken for lost was answered, this long after it was sent again, or before it was. Returns
    /// whether it seems to have been lost.
    pub fn answered_again(&mut self, now: Instant, after: Option<Duration>) -> bool {
        self.heard(now);
        if after.is_none_or(|after| after < self.fastest) {
            self.not_needed();
            return false;
        }
        self.needed += 1;
        if self.needed == NEEDED_TO_SHRINK {
            self.needed = 0;
            self.stretch = (self.stretch / 2).max(1);
        }
        true
    }

    /// Something was sent again that was not lost.
    pub fn not_needed(&mut self) {
        self.needed = 0;
        self.stretch = (self.stretch * 2).min(STRETCH_MAX);
    }

    /// When the next flight counts as lost, unless it is answered until then.
    pub fn due(&self) -> Option<Instant> {
        let (_, sent) = self.waiting.front().copied()??;
        let patience = self.rtt.patience()? * self.stretch;
        if self.is_overtaken() {
            return Some(sent + patience);
        }
        let silence = (patience * 2).max(PROBE_MIN) * (1 << self.probes);
        (self.probes < PROBES_MAX).then(|| sent.max(self.quiet_since) + silence)
    }

    /// The next flight that counts as lost now. To be called until there is none.
    pub fn next_lost(&mut self, now: Instant) -> Option<u32> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        if !self.is_overtaken() {
            self.quiet_since = now;
            self.probes += 1;
        }
        let (flight, _) = self.waiting.front_mut()?.take()?;
        self.drop_front();
        Some(flight)
    }

    fn is_overtaken(&self) -> bool {
        self.first < self.latest[0]
    }

    fn heard(&mut self, now: Instant) {
        self.quiet_since = now;
        self.probes = 0;
    }

    fn drop_front(&mut self) {
        while let Some(None) = self.waiting.front() {
            self.waiting.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_micros(100);

    fn at(micros: u64) -> Instant {
        Instant::ZERO + Duration::from_micros(micros)
    }

    /// A path that has answered steadily until 10 ms; flights and numbers begin anew at 100 and 101.
    fn steady() -> Recovery {
        let mut recovery = Recovery::default();
        for flight in 0..100 {
            let sent = at(u64::from(flight) * 100);
            let number = recovery.sent(sent, flight);
            recovery.answered(sent + TRIP, number, TRIP);
        }
        assert_eq!((recovery.due(), recovery.waiting.len()), (None, 0));
        recovery
    }

    /// Sends `count` frames, one in a microsecond, from 10 ms on.
    fn send(recovery: &mut Recovery, count: u32) {
        for flight in 0..count {
            assert_eq!(recovery.sent(at(10_000 + u64::from(flight)), 100 + flight), 101 + u64::from(flight));
        }
    }

    #[test]
    fn three_later_answers_and_a_quarter_of_a_round_trip_tell_of_a_loss() {
        let mut recovery = steady();
        send(&mut recovery, 10);
        for number in [102, 103] {
            recovery.answered(at(10_102), number, TRIP);
        }
        assert!(recovery.due() >= Some(at(11_000)), "two may just have overtaken it");
        recovery.answered(at(10_103), 104, TRIP);
        let due = recovery.due().unwrap();
        assert!((at(10_125)..at(10_130)).contains(&due), "{due:?}");
        assert_eq!(recovery.next_lost(at(10_110)), None);
        assert_eq!(recovery.next_lost(due), Some(100));
        assert_eq!(recovery.next_lost(due), None, "the others are not overtaken");
    }

    #[test]
    fn the_order_of_answers_does_not_matter() {
        let mut recovery = steady();
        send(&mut recovery, 6);
        for number in [106, 102, 104] {
            recovery.answered(at(10_106), number, TRIP);
        }
        assert_eq!(recovery.next_lost(at(10_150)), Some(100));
        assert_eq!(recovery.next_lost(at(10_150)), None, "only two answers are later than the next");
        recovery.answered(at(10_150), 105, TRIP);
        assert_eq!(recovery.next_lost(at(10_200)), Some(102));
    }

    #[test]
    fn a_lost_resend_is_told_by_what_was_sent_after_it() {
        let mut recovery = steady();
        send(&mut recovery, 4);
        for number in [102, 103, 104] {
            recovery.answered(at(10_105), number, TRIP);
        }
        assert_eq!(recovery.next_lost(at(10_130)), Some(100));
        assert_eq!(recovery.sent(at(10_130), 100), 105);
        for number in 106..109 {
            assert_eq!(recovery.sent(at(10_131), 0), number);
            recovery.answered(at(10_231), number, TRIP);
        }
        assert_eq!(recovery.next_lost(at(10_260)), Some(100));
    }

    #[test]
    fn silence_is_probed_a_few_times_and_then_left_to_the_timeouts() {
        let mut recovery = steady();
        send(&mut recovery, 10);
        let mut asked = Vec::new();
        while let Some(due) = recovery.due() {
            let flight = recovery.next_lost(due).unwrap();
            assert_eq!(recovery.next_lost(due), None, "one at a time");
            asked.push((flight, due.since(at(10_000)).as_millis()));
        }
        assert_eq!(asked, [(100, 4), (101, 12), (102, 28)]);
        recovery.answered(at(50_000), 104, TRIP);
        assert!(recovery.due().is_some(), "it begins again with an answer");
    }

    #[test]
    fn nothing_is_told_before_anything_was_measured() {
        let mut recovery = Recovery::default();
        recovery.sent(at(0), 7);
        assert_eq!((recovery.due(), recovery.next_lost(at(1_000_000))), (None, None));
    }

    #[test]
    fn resends_in_vain_make_it_patient_and_needed_ones_impatient() {
        let mut recovery = steady();
        let patience = |recovery: &Recovery| {
            let mut recovery = recovery.clone();
            send(&mut recovery, 4);
            (102..105).for_each(|number| recovery.answered(at(10_100), number, TRIP));
            recovery.due().unwrap().since(at(10_000))
        };
        let usual = patience(&recovery);
        recovery.answered_again(at(10_000), Some(TRIP / 2));
        assert_eq!(patience(&recovery), usual * 2, "no answer is that fast");
        recovery.answered_again(at(10_000), None);
        recovery.not_needed();
        assert_eq!(patience(&recovery), usual * 8);
        (0..100).for_each(|_| recovery.not_needed());
        assert_eq!(patience(&recovery), usual * STRETCH_MAX);
        for _ in 0..8 * NEEDED_TO_SHRINK {
            recovery.answered_again(at(10_000), Some(TRIP));
        }
        assert_eq!(patience(&recovery), usual);
    }

    #[test]
    fn one_that_is_never_answered_does_not_make_it_grow() {
        let mut recovery = steady();
        let stuck = recovery.sent(at(10_000), 100);
        for step in 0..10 * ORDER_MAX as u64 {
            let number = recovery.sent(at(10_000), 7);
            if step % 2 == 0 {
                recovery.answered(at(10_000), number, TRIP);
            }
            assert!(recovery.waiting.len() <= ORDER_MAX);
        }
        // It is over long after it had to make room.
        recovery.over(stuck);
        assert!(recovery.waiting.len() <= ORDER_MAX);
    }
}
