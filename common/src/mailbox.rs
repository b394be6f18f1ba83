//! Messages from a main thread to a thread that carries data, and the descriptor that wakes it.
//!
//! The mail is one value that messages change: of what only the latest counts, only the latest is kept. So a mailbox
//! is bounded by what its mail holds, and leaving a message never waits for the reader.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// See the [module](self).
#[derive(Debug)]
pub struct Mailbox<Mail> {
    mail: Mutex<Mail>,
    wake: EventFd,
}

impl<Mail: Default> Mailbox<Mail> {
    /// An empty mailbox.
    pub fn new() -> nix::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { mail: Mutex::default(), wake })
    }

    /// Leaves a message and wakes the reader: its descriptor becomes readable.
    pub fn leave(&self, message: impl FnOnce(&mut Mail)) {
        message(&mut self.mail());
        // Fails only when 2^64 wake-ups wait already.
        let _ = self.wake.write(1);
    }

    /// Takes what has come in. No system call.
    pub fn take(&self) -> Mail {
        std::mem::take(&mut self.mail())
    }

    /// Ends the wake-up. To be called before `take`, so that a message after it wakes again.
    pub fn calm(&self) {
        // Fails only when there is no wake-up.
        let _ = self.wake.read();
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        // Every message leaves the mail whole at each step.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Mail> AsFd for Mailbox<Mail> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn is_awake(mailbox: &Mailbox<Vec<u32>>) -> bool {
        poll(&mut [PollFd::new(mailbox.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_message_wakes_until_it_is_taken_in() {
        let mailbox = Mailbox::new().unwrap();
        assert!(!is_awake(&mailbox));
        mailbox.leave(|mail| mail.push(1));
        mailbox.leave(|mail| mail.push(2));
        assert!(is_awake(&mailbox));
        mailbox.calm();
        assert!(!is_awake(&mailbox));
        assert_eq!(mailbox.take(), [1, 2]);
        assert!(mailbox.take().is_empty());
    }
}
