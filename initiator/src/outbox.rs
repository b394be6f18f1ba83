//! Frames on their way from an engine to the ports, in batches.
//!
//! A batch is written into one piece of memory and sent with one call per port. What a port does not take at once
//! is tried again for a short time and then dropped: the engine sends it again, and knows when.

use std::ops::Range;

use aoe_common::link::SEND_BATCH;
use aoe_common::time::{Duration, Instant};

use crate::engine::{FRAME_MAX, PortId};
use crate::ports::Ports;

/// When to try again to send what a port did not take, and for how long in all.
const RETRY_AFTER: Duration = Duration::from_millis(1);
const RETRY_FOR: Duration = Duration::from_millis(20);

/// A full batch of the frames that fit an MTU of 9000, and room to write one of any size behind it.
const ARENA: usize = SEND_BATCH * 9216 + FRAME_MAX;

/// See the [module](self).
#[derive(Debug)]
pub struct Outbox {
    arena: Box<[u8]>,
    frames: Vec<(PortId, Range<usize>)>,
    /// Since when frames wait that a port did not take, and when to try again.
    stuck: Option<(Instant, Instant)>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { arena: vec![0; ARENA].into_boxed_slice(), frames: Vec::with_capacity(SEND_BATCH), stuck: None }
    }
}

impl Outbox {
    /// Sends what `next` writes, into `FRAME_MAX` bytes or more, as far as the ports take it now.
    pub fn transmit(
        &mut self,
        now: Instant,
        ports: &mut Ports,
        mut next: impl FnMut(&mut [u8]) -> Option<(PortId, usize)>,
    ) {
        while self.send(now, |id, frames| ports.send(id, frames)) && self.fill(&mut next) {}
    }

    /// When to call [`Self::transmit`] again even if nothing happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.stuck.map(|(_, again)| again)
    }

    /// Takes the next batch; false when there is none.
    fn fill(&mut self, next: &mut impl FnMut(&mut [u8]) -> Option<(PortId, usize)>) -> bool {
        assert!(self.frames.is_empty(), "a batch is sent before the next is made");
        let mut end = 0;
        while self.frames.len() < SEND_BATCH && self.arena.len() - end >= FRAME_MAX {
            let Some((port, len)) = next(&mut self.arena[end..]) else { break };
            self.frames.push((port, end..end + len));
            end += len;
        }
        !self.frames.is_empty()
    }

    /// Gives the batch to `send`, which tells how many of one port's frames it is done with. True when all are gone.
    fn send(&mut self, now: Instant, mut send: impl FnMut(PortId, &[&[u8]]) -> usize) -> bool {
        let mut refused = Vec::new();
        while let Some(port) = self.frames.iter().map(|(port, _)| *port).find(|port| !refused.contains(port)) {
            let mut batch: [&[u8]; SEND_BATCH] = [&[]; SEND_BATCH];
            let mut count = 0;
            for (_, range) in self.frames.iter().filter(|(of, _)| *of == port) {
                batch[count] = &self.arena[range.clone()];
                count += 1;
            }
            let done = send(port, &batch[..count]);
            let mut gone = 0;
            self.frames.retain(|(of, _)| {
                let goes = *of == port && gone < done;
                gone += usize::from(goes);
                !goes
            });
            if done < count {
                refused.push(port);
            }
        }
        if self.frames.is_empty() {
            self.stuck = None;
            return true;
        }
        let since = self.stuck.map_or(now, |(since, _)| since);
        if now.since(since) >= RETRY_FOR {
            tracing::debug!("{} frames dropped: the link takes no more", self.frames.len());
            self.frames.clear();
            self.stuck = None;
            return true;
        }
        self.stuck = Some((since, now + RETRY_AFTER));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId(0);
    const B: PortId = PortId(1);

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// Frames for two ports in turn, each with its number in it.
    fn filled(count: u8) -> Outbox {
        let mut outbox = Outbox::default();
        let mut number = 0;
        let mut next = |out: &mut [u8]| {
            assert!(out.len() >= FRAME_MAX);
            (number < count).then(|| {
                out[..60].fill(number);
                number += 1;
                (if number % 2 == 1 { A } else { B }, 60)
            })
        };
        assert_eq!(outbox.fill(&mut next), count > 0);
        outbox
    }

    #[test]
    fn one_call_per_port_in_the_order_of_writing() {
        let mut outbox = filled(6);
        let mut calls = Vec::new();
        assert!(outbox.send(at(0), |port, frames| {
            calls.push((port, frames.iter().map(|frame| frame[0]).collect::<Vec<_>>()));
            frames.len()
        }));
        assert_eq!(calls, [(A, vec![0, 2, 4]), (B, vec![1, 3, 5])]);
        assert_eq!(outbox.poll_timeout(), None);
    }

    #[test]
    fn what_a_port_refuses_waits_a_while_and_the_other_port_does_not() {
        let mut outbox = filled(4);
        let mut sent = Vec::new();
        let mut only_one_on_a = |port, frames: &[&[u8]]| {
            let done = if port == A { frames.len().min(1) } else { frames.len() };
            sent.extend(frames[..done].iter().map(|frame| frame[0]));
            done
        };
        assert!(!outbox.send(at(0), &mut only_one_on_a));
        assert_eq!(outbox.poll_timeout(), Some(at(1)));
        assert!(outbox.send(at(1), &mut only_one_on_a));
        assert_eq!(sent, [0, 1, 3, 2]);
    }

    #[test]
    fn a_link_that_takes_nothing_is_not_waited_for_long() {
        let mut outbox = filled(4);
        let mut tries = 0;
        let mut now = at(0);
        while !outbox.send(now, |_, _| 0) {
            tries += 1;
            now = outbox.poll_timeout().expect("frames wait");
        }
        assert_eq!((tries, now), (20, at(20)));
        assert!(outbox.frames.is_empty());
    }

    #[test]
    fn a_batch_is_bounded() {
        let mut outbox = Outbox::default();
        assert!(outbox.fill(&mut |_| Some((A, 60))));
        assert_eq!(outbox.frames.len(), SEND_BATCH);
        outbox.send(at(0), |_, frames| frames.len());
        assert!(outbox.fill(&mut |_| Some((A, FRAME_MAX))));
        assert!(outbox.frames.len() < SEND_BATCH, "long frames fill the memory first");
    }
}
