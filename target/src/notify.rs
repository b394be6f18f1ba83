//! What the service manager is told (sd_notify): that the target serves, reloads, stops, and that its workers live. Without
//! a service manager that listens all of this does nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// Questions to each worker within the time in which the service manager wants a sign of life: so one that is late, or a
/// main thread that is, costs no service.
const QUESTIONS: u32 = 4;

/// It serves, or does so again after [`reloading`].
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It reads its configuration again. To be followed by [`ready`], whether that succeeds or not.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        // The service manager would wait for the time.
        Err(error) => tracing::debug!("the service manager is not told of the reload: {error}"),
    }
}

/// What it does, in a line for people.
pub(crate) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// It ends, in an orderly way.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::debug!("the service manager cannot be told: {error}");
    }
}

/// A worker's answer to the question whether it still goes round its loop: the number of the last question it has seen.
#[derive(Debug, Default)]
pub(crate) struct Pulse(AtomicU64);

impl Pulse {
    /// Answers a question.
    pub(crate) fn answer(&self, question: u64) {
        self.0.store(question, Ordering::Relaxed);
    }
}

/// Tells the service manager that the workers live, each time that all have answered the last question. A worker that is
/// stuck answers none; then the service manager hears nothing, and starts the target anew.
///
/// Workers are asked only if the service manager wants to know, so that nobody is woken for nothing.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pulses: Vec<Arc<Pulse>>,
    question: u64,
}

impl Watchdog {
    /// How often to call [`Self::ask`]. `None`: the service manager does not want to know.
    pub(crate) fn wanted() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|within| within / QUESTIONS)
    }

    /// Watches over workers with these pulses.
    pub(crate) fn over(pulses: Vec<Arc<Pulse>>) -> Self {
        Self { pulses, question: 0 }
    }

    /// Tells that all live, if they have answered the last question. Returns the next one, for all of them.
    pub(crate) fn ask(&mut self) -> u64 {
        if self.all_live() {
            tell(&[NotifyState::Watchdog]);
            self.question += 1;
        }
        self.question
    }

    fn all_live(&self) -> bool {
        self.pulses.iter().all(|pulse| pulse.0.load(Ordering::Relaxed) == self.question)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_that_does_not_answer_is_enough() {
        let pulses = [Arc::new(Pulse::default()), Arc::new(Pulse::default())];
        let mut watchdog = Watchdog::over(pulses.to_vec());
        let first = watchdog.ask();
        assert_eq!(first, 1);
        assert!(!watchdog.all_live(), "nobody has answered");
        pulses[0].answer(first);
        assert!(!watchdog.all_live(), "the other has not");
        assert_eq!(watchdog.ask(), first, "asked again");
        pulses[1].answer(first);
        assert!(watchdog.all_live());
        let second = watchdog.ask();
        assert_ne!(second, first);
        pulses[1].answer(second);
        assert!(!watchdog.all_live(), "an answer counts once");
        pulses[0].answer(second);
        assert!(watchdog.all_live());
    }
}
