//! Messages to the data thread, and the descriptor that wakes it.
//!
//! Bounded by what it holds: only the latest list of interfaces counts, and each question comes from one client of
//! the control socket, of which there are few.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aoe_common::link::Interface;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

use super::serve::{Service, Snapshot};

/// What has come in.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// The interfaces of this host, as they are now.
    pub interfaces: Option<Vec<Interface>>,
    /// To be told once the device is up.
    pub when_up: Option<oneshot::Sender<Snapshot>>,
    /// To be told how things are.
    pub questions: Vec<oneshot::Sender<Snapshot>>,
    /// Serve these clients from now on.
    pub service: Option<Service>,
    /// Finish what is under way and end.
    pub leave: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    wake: EventFd,
}

impl Mailbox {
    pub fn new() -> nix::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { mail: Mutex::default(), wake })
    }

    /// Leaves a message and wakes the thread.
    pub fn leave(&self, message: impl FnOnce(&mut Mail)) {
        message(&mut self.mail());
        // Fails only when 2^64 wake-ups wait already.
        let _ = self.wake.write(1);
    }

    /// Takes what has come in. The wake-up ends first, so that a message after this wakes again.
    pub fn take(&self) -> Mail {
        // Fails only when there is no wake-up.
        let _ = self.wake.read();
        std::mem::take(&mut self.mail())
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
    fn a_message_wakes_until_it_is_taken() {
        let mailbox = Mailbox::new().unwrap();
        assert!(!is_awake(&mailbox));
        mailbox.leave(|mail| mail.interfaces = Some(Vec::new()));
        mailbox.leave(|mail| mail.leave = true);
        assert!(is_awake(&mailbox));
        let mail = mailbox.take();
        assert!(mail.leave && mail.interfaces.is_some_and(|list| list.is_empty()));
        assert!(!is_awake(&mailbox));
        assert!(!mailbox.take().leave);
    }
}
