//! Conversations with targets, held over the ports of this host by its clock.

use std::io;
use std::os::fd::AsFd;

use aoe_common::link::monotonic_now;
use aoe_common::time::Instant;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::engine::{Conversation, PortId, PortInfo};
use crate::outbox::Outbox;
use crate::ports::{Ports, PortsError};

/// Frames taken from a port before the others get their turn.
const FRAMES_PER_TURN: usize = 256;

/// See the [module](self).
#[derive(Debug)]
pub struct Talk {
    ports: Ports,
    known: Vec<(PortId, PortInfo)>,
    outbox: Outbox,
    /// Ctrl-C, for those that have something to say at the end.
    signals: Option<SignalFd>,
}

impl Talk {
    /// Over the named interfaces, or over all. There may be none that is up.
    pub fn open(interfaces: Vec<String>) -> Result<Self, PortsError> {
        let (ports, opened) = Ports::open(interfaces)?;
        let known = opened.into_iter().filter_map(|(id, info)| Some((id, info?))).collect();
        Ok(Self { ports, known, outbox: Outbox::default(), signals: None })
    }

    /// From now on Ctrl-C ends a conversation, not the program.
    pub fn end_on_interrupt(&mut self) -> io::Result<()> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        signals.thread_block()?;
        self.signals = Some(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?);
        Ok(())
    }

    /// The ports that were opened.
    pub fn ports(&self) -> impl Iterator<Item = (PortId, PortInfo)> + '_ {
        self.known.iter().copied()
    }

    /// The name of a port's interface.
    pub fn interface(&self, port: PortId) -> &str {
        self.ports.name(port)
    }

    /// The interfaces in use, for messages.
    pub fn describe(&self) -> String {
        self.ports.describe()
    }

    /// Holds a conversation until it is over, or until this time.
    pub fn hold(&mut self, conversation: &mut impl Conversation, until: Instant) -> io::Result<()> {
        self.hold_and_tell(conversation, Some(until), |_, _| Ok(()))
    }

    /// The same, with or without an end, or until Ctrl-C; after each turn of its loop there may be something to `tell`.
    pub fn hold_and_tell<C: Conversation>(
        &mut self,
        conversation: &mut C,
        until: Option<Instant>,
        mut tell: impl FnMut(&Ports, &mut C) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            self.ports.receive(FRAMES_PER_TURN, true, |port, frame| {
                conversation.handle_frame(monotonic_now(), port, frame);
            });
            let now = monotonic_now();
            self.outbox.transmit(now, &mut self.ports, |out| conversation.poll_transmit(now, out));
            tell(&self.ports, conversation)?;
            let is_late = until.is_some_and(|until| now >= until);
            if is_late || conversation.is_over(now) || self.is_interrupted()? {
                return Ok(());
            }
            let due = [conversation.poll_timeout(now), self.outbox.poll_timeout(), until].into_iter().flatten().min();
            let signals = self.signals.as_ref().map(AsFd::as_fd);
            self.ports.wait(now, due, signals.as_slice())?;
        }
    }

    fn is_interrupted(&self) -> io::Result<bool> {
        Ok(match &self.signals {
            Some(signals) => signals.read_signal()?.is_some(),
            None => false,
        })
    }
}
