//! The ports of one worker: frames from all of them to the engine, and the engine's frames back out.
//!
//! Ports follow the interfaces. Which interfaces there are and whether they are up is for [`Lanes::follow`] to be told;
//! a port that fails says so at once, and stays silent until the next such list.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use aoe_common::frame::FrameBuffer;
use aoe_common::link::{Filter, Interface, LinkError, Port, PortStats, SEND_BATCH};
use aoe_common::time::{Duration, Instant};

use crate::engine::{PortId, PortInfo, Target, Transmit};

/// Frames a port can hold for its worker. At MTU 9000 these are 9 MiB.
const RING_FRAMES: u32 = 1024;

/// Frames taken from a port before the next one's turn.
const RECEIVE_BUDGET: usize = 64;

/// Frames that may wait for a port. Half of all buffers: one slow interface does not stop the others.
const QUEUE_MAX: usize = super::worker::BUFFERS / 2;

/// A device that is full does not tell when it has room again, so it is asked after this time.
const RETRY_EVERY: Duration = Duration::from_millis(1);

/// Frames that could not be sent for this long are dropped; by then their stations ask again.
const STALL_MAX: Duration = Duration::from_millis(100);

/// What a call of [`Lanes::receive`] or [`Lanes::send`] met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Frames moved.
    pub frames: usize,
    /// A port lost its link: the interfaces should be looked at again.
    pub lost_link: bool,
}

/// An open port.
struct Lane {
    interface: Interface,
    port: Port,
    state: State,
    /// Its descriptor was readable: there are frames, or an error.
    readable: bool,
    queue: VecDeque<FrameBuffer>,
    stall: Option<Stall>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down,
    /// To be opened anew.
    Broken,
}

/// Since when frames cannot be sent, and when to try again.
#[derive(Clone, Copy, Debug)]
struct Stall {
    since: Instant,
    retry_at: Instant,
}

/// The ports of one worker.
pub(crate) struct Lanes {
    filter: Filter,
    lanes: Vec<Lane>,
    /// Interfaces that could not be opened, by index. They are tried again with each list, but reported once.
    failed: Vec<u32>,
}

impl Lanes {
    /// No ports yet; all of them will take these frames.
    pub(crate) fn new(filter: Filter) -> Self {
        Self { filter, lanes: Vec::new(), failed: Vec::new() }
    }

    /// Follows the interfaces: opens a port on each that is up, closes those that are gone, and tells the engine which
    /// can be used. Returns what could not be opened.
    pub(crate) fn follow(&mut self, interfaces: &[Interface], engine: &mut Target) -> Vec<(String, LinkError)> {
        self.lanes.retain_mut(|lane| {
            let same = |new: &Interface| {
                (new.index, new.mac, new.mtu) == (lane.interface.index, lane.interface.mac, lane.interface.mtu)
            };
            let keep = lane.state != State::Broken && interfaces.iter().any(same);
            if !keep {
                lane.leave(State::Broken, engine);
            }
            keep
        });
        self.failed.retain(|index| interfaces.iter().any(|interface| interface.index == *index));

        let mut errors = Vec::new();
        for interface in interfaces {
            match self.lanes.iter_mut().find(|lane| lane.interface.index == interface.index) {
                Some(lane) => {
                    lane.interface = interface.clone();
                    lane.set_up(interface.up, engine);
                }
                None if interface.up => match Lane::open(interface, &self.filter) {
                    Ok(mut lane) => {
                        lane.set_up(true, engine);
                        self.lanes.push(lane);
                        self.failed.retain(|index| *index != interface.index);
                    }
                    // It vanished since the list was made.
                    Err(LinkError::Gone) => {}
                    Err(error) if !self.failed.contains(&interface.index) => {
                        self.failed.push(interface.index);
                        errors.push((interface.name.clone(), error));
                    }
                    Err(_) => {}
                },
                None => {}
            }
        }
        errors
    }

    /// Descriptors that are readable when a port has a frame, or an error to tell.
    pub(crate) fn ports(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.lanes.iter().map(|lane| lane.port.as_fd())
    }

    /// Which of [`Self::ports`] are readable. One that has no frame then has an error.
    pub(crate) fn are_readable(&mut self, ready: &[bool]) {
        for (lane, ready) in self.lanes.iter_mut().zip(ready) {
            lane.readable |= ready;
        }
    }

    /// Hands waiting frames to the engine, as long as it has room.
    pub(crate) fn receive(&mut self, now: Instant, engine: &mut Target) -> Progress {
        let mut progress = Progress::default();
        for lane in &mut self.lanes {
            let id = lane.id();
            for _ in 0..RECEIVE_BUDGET {
                if !engine.has_room() || !(lane.readable || lane.port.is_waiting()) {
                    break;
                }
                lane.readable = false;
                match lane.port.receive(1, |frame| engine.handle_frame(now, id, frame)) {
                    Ok(received) => progress.frames += received,
                    Err(error) => progress.lost_link |= lane.fail(error, engine),
                }
            }
        }
        progress
    }

    /// Queues a frame for its port.
    pub(crate) fn enqueue(&mut self, Transmit { port, buffer }: Transmit, engine: &mut Target) {
        match self.lanes.iter_mut().find(|lane| lane.id() == port) {
            Some(lane) if lane.queue.len() < QUEUE_MAX => lane.queue.push_back(buffer),
            _ => engine.recycle(buffer),
        }
    }

    /// Sends what is queued, no more than `most` frames on each port, and as far as the ports take it.
    pub(crate) fn send(&mut self, now: Instant, most: usize, engine: &mut Target) -> Progress {
        let mut progress = Progress::default();
        for lane in &mut self.lanes {
            match lane.send(now, most, engine) {
                Ok(sent) => progress.frames += sent,
                Err(error) => progress.lost_link |= lane.fail(error, engine),
            }
        }
        progress
    }

    /// When to try again to send what did not go.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(|lane| Some(lane.stall?.retry_at)).min()
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn all_sent(&self) -> bool {
        self.lanes.iter().all(|lane| lane.queue.is_empty())
    }

    /// Takes these frames from now on, on all ports. One where that fails is given up until the next look at the interfaces;
    /// true when there is such a one.
    pub(crate) fn set_filter(&mut self, filter: Filter, engine: &mut Target) -> bool {
        let mut lost_link = false;
        for lane in self.lanes.iter_mut().filter(|lane| lane.state != State::Broken) {
            if let Err(error) = lane.port.set_filter(&filter) {
                tracing::error!("{}: cannot change what is received: {error}", lane.interface.name);
                lane.leave(State::Broken, engine);
                lost_link = true;
            }
        }
        self.filter = filter;
        lost_link
    }

    /// What each port has seen, by the name of its interface.
    pub(crate) fn stats(&mut self) -> Vec<(String, PortStats)> {
        self.lanes.iter_mut().map(|lane| (lane.interface.name.clone(), lane.port.stats())).collect()
    }

    /// Logs what each port has seen.
    pub(crate) fn log_totals(&mut self) {
        for lane in &mut self.lanes {
            let stats = lane.port.stats();
            tracing::info!(
                "{}: {} frames received, {} sent, {} lost because the ring was full",
                lane.interface.name,
                stats.received,
                stats.sent,
                stats.kernel_drops
            );
        }
    }
}

impl Lane {
    fn open(interface: &Interface, filter: &Filter) -> Result<Self, LinkError> {
        let port = Port::open(interface, filter, RING_FRAMES)?;
        Ok(Self {
            interface: interface.clone(),
            port,
            state: State::Down,
            readable: false,
            queue: VecDeque::with_capacity(QUEUE_MAX),
            stall: None,
        })
    }

    fn id(&self) -> PortId {
        PortId(self.interface.index)
    }

    fn set_up(&mut self, up: bool, engine: &mut Target) {
        if !up {
            return self.leave(State::Down, engine);
        }
        self.state = State::Up;
        engine.set_port(self.id(), Some(PortInfo { mac: self.interface.mac, mtu: self.interface.mtu }));
    }

    /// The link is of no use now: nothing waits for it.
    fn leave(&mut self, state: State, engine: &mut Target) {
        self.state = state;
        self.stall = None;
        engine.set_port(self.id(), None);
        for buffer in self.queue.drain(..) {
            engine.recycle(buffer);
        }
    }

    /// Leaves the link for what the port said. True when a look at the interfaces will tell more.
    fn fail(&mut self, error: LinkError, engine: &mut Target) -> bool {
        let name = &self.interface.name;
        match error {
            LinkError::Down => self.leave(State::Down, engine),
            LinkError::Gone => self.leave(State::Broken, engine),
            error => {
                tracing::error!("{name}: {error}");
                self.leave(State::Broken, engine);
                return false;
            }
        }
        true
    }

    fn send(&mut self, now: Instant, most: usize, engine: &mut Target) -> Result<usize, LinkError> {
        if self.stall.is_some_and(|stall| now < stall.retry_at) {
            return Ok(0);
        }
        let mut total = 0;
        while !self.queue.is_empty() && total < most {
            let mut batch: [&[u8]; SEND_BATCH] = [&[]; SEND_BATCH];
            for (entry, buffer) in batch.iter_mut().zip(&self.queue) {
                *entry = buffer.frame();
            }
            let queued = self.queue.len().min(SEND_BATCH).min(most - total);
            let sent = self.port.send(&batch[..queued])?;
            for buffer in self.queue.drain(..sent) {
                engine.recycle(buffer);
            }
            total += sent;
            if sent < queued {
                self.stalled(now, sent > 0, engine);
                return Ok(total);
            }
        }
        self.stall = None;
        Ok(total)
    }

    fn stalled(&mut self, now: Instant, moved: bool, engine: &mut Target) {
        let since = self.stall.filter(|_| !moved).map_or(now, |stall| stall.since);
        self.stall = Some(Stall { since, retry_at: now + RETRY_EVERY });
        if now.since(since) >= STALL_MAX {
            self.stall = None;
            for buffer in self.queue.drain(..) {
                engine.recycle(buffer);
            }
        }
    }
}
