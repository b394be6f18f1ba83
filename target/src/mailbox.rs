//! Messages to a worker, and the descriptor that wakes it.
//!
//! Bounded by what it holds: only the latest list of interfaces counts, and each export has at most one save under way.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aoe_common::link::Interface;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::engine::operation::DiskId;

/// What has come in.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// The interfaces to serve on, as they are now.
    pub links: Option<Vec<Interface>>,
    /// Saves that ended, and whether the settings are safe.
    pub saved: Vec<(DiskId, bool)>,
    /// Finish what is under way and end.
    pub stop: bool,
}

/// A place to leave messages for one worker.
#[derive(Debug)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    wake: EventFd,
}

impl Mailbox {
    pub(crate) fn new() -> nix::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { mail: Mutex::default(), wake })
    }

    /// Leaves a message and wakes the worker.
    pub(crate) fn leave(&self, message: impl FnOnce(&mut Mail)) {
        message(&mut self.mail());
        // Fails only when 2^64 wake-ups wait already.
        let _ = self.wake.write(1);
    }

    /// Takes what has come in.
    pub(crate) fn take(&self) -> Mail {
        std::mem::take(&mut self.mail())
    }

    /// Ends the wake-up. To be called before `take`, so that a message after it wakes again.
    pub(crate) fn calm(&self) {
        // Fails only when there is no wake-up.
        let _ = self.wake.read();
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        // Every message leaves the mail whole at each step.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn is_awake(mailbox: &Mailbox) -> bool {
        poll(&mut [PollFd::new(mailbox.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_message_wakes_until_it_is_taken_in() {
        let mailbox = Mailbox::new().unwrap();
        assert!(!is_awake(&mailbox));
        mailbox.leave(|mail| mail.saved.push((DiskId(1), true)));
        mailbox.leave(|mail| mail.saved.push((DiskId(2), false)));
        assert!(is_awake(&mailbox));
        mailbox.calm();
        assert!(!is_awake(&mailbox));
        let mail = mailbox.take();
        assert_eq!(mail.saved, [(DiskId(1), true), (DiskId(2), false)]);
        assert!(!mail.stop && mail.links.is_none());
        assert!(mailbox.take().saved.is_empty());
    }
}
