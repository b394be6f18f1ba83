//! Round-trip time of one path and the time to wait before a frame counts as lost (RFC 6298).

use aoe_common::time::Duration;

/// The shortest wait: a target that syncs a disk or was just not scheduled is slow, not gone.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(50);
/// The longest wait, backed off.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(2);
/// The wait before anything was measured.
const TIMEOUT_INITIAL: Duration = Duration::from_millis(250);

/// Smoothed round-trip time and its deviation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    estimate: Option<(Duration, Duration)>,
}

impl Rtt {
    /// Takes in one measurement. Only of frames sent once: an answer to one sent twice may answer either.
    pub fn measured(&mut self, sample: Duration) {
        self.estimate = Some(match self.estimate {
            None => (sample, sample / 2),
            Some((smooth, deviation)) => ((smooth * 7 + sample) / 8, (deviation * 3 + smooth.abs_diff(sample)) / 4),
        });
    }

    /// The smoothed round-trip time, once there is one.
    pub fn smooth(&self) -> Option<Duration> {
        self.estimate.map(|(smooth, _)| smooth)
    }

    /// By when nearly all answers are there, once something was measured.
    pub fn patience(&self) -> Option<Duration> {
        self.estimate.map(|(smooth, deviation)| smooth + (deviation * 4).max(smooth / 4))
    }

    /// How long to wait for the answer to a frame that was waited for in vain so many times.
    pub fn timeout(&self, timeouts: u32) -> Duration {
        let base = self.estimate.map_or(TIMEOUT_INITIAL, |(smooth, deviation)| smooth + deviation * 4);
        let backoff = 1 << timeouts.min(6);
        (base.max(TIMEOUT_MIN) * backoff).min(TIMEOUT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settles_on_a_steady_path() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(0), TIMEOUT_INITIAL);
        for _ in 0..100 {
            rtt.measured(Duration::from_millis(40));
        }
        let smooth = rtt.smooth().unwrap();
        assert!(smooth.abs_diff(Duration::from_millis(40)) < Duration::from_micros(10));
        assert!(rtt.timeout(0) < Duration::from_millis(51));
    }

    #[test]
    fn waits_longer_on_an_unsteady_path_and_after_each_time() {
        let mut rtt = Rtt::default();
        for n in 0..100 {
            rtt.measured(Duration::from_millis(if n % 2 == 0 { 1 } else { 100 }));
        }
        assert!(rtt.timeout(0) > Duration::from_millis(150));
        assert_eq!(rtt.timeout(1), rtt.timeout(0) * 2);
        assert_eq!(rtt.timeout(30), TIMEOUT_MAX);
    }
}
