//! An initiator in the simulated world: ours, or one that behaves like aoe.ko.

use aoe_common::time::Instant;
use aoe_initiator::engine::{Completion, Device, DeviceState, PortId, PortInfo, Request};

/// What the world asks of an initiator; the verbs are those of [`Device`].
pub trait Client {
    /// Whether it can be used now.
    fn is_up(&self) -> bool;
    /// The serial number of the disk it found.
    fn disk(&self) -> Option<&str>;
    /// See [`Device::set_port`].
    fn set_port(&mut self, now: Instant, port: PortId, info: Option<PortInfo>);
    /// See [`Device::submit`].
    fn submit(&mut self, now: Instant, request: Request);
    /// See [`Device::handle_frame`].
    fn handle_frame(&mut self, now: Instant, port: PortId, bytes: &[u8]);
    /// See [`Device::handle_timeout`].
    fn handle_timeout(&mut self, now: Instant);
    /// See [`Device::poll_timeout`].
    fn poll_timeout(&self) -> Option<Instant>;
    /// See [`Device::poll_transmit`].
    fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<(PortId, usize)>;
    /// See [`Device::poll_completion`].
    fn poll_completion(&mut self) -> Option<Completion>;
    /// Requests and frames it still holds.
    fn holds(&self) -> usize;
    /// Frames sent again.
    fn resends(&self) -> u64;
    /// Paths that were found to carry smaller frames than both ends take, by an initiator that can tell.
    fn narrow_paths(&self) -> u64 {
        0
    }
}

impl Client for Device {
    fn is_up(&self) -> bool {
        self.state() == DeviceState::Up
    }

    fn disk(&self) -> Option<&str> {
        Device::disk(self).map(|identify| identify.serial.as_str())
    }

    fn set_port(&mut self, now: Instant, port: PortId, info: Option<PortInfo>) {
        Device::set_port(self, now, port, info);
    }

    fn submit(&mut self, now: Instant, request: Request) {
        Device::submit(self, now, request);
    }

    fn handle_frame(&mut self, now: Instant, port: PortId, bytes: &[u8]) {
        Device::handle_frame(self, now, port, bytes);
    }

    fn handle_timeout(&mut self, now: Instant) {
        Device::handle_timeout(self, now);
        while self.poll_event().is_some() {}
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Device::poll_timeout(self)
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<(PortId, usize)> {
        Device::poll_transmit(self, now, out)
    }

    fn poll_completion(&mut self) -> Option<Completion> {
        Device::poll_completion(self)
    }

    fn holds(&self) -> usize {
        self.in_flight() + self.paths().map(|path| path.in_flight as usize).sum::<usize>()
    }

    fn resends(&self) -> u64 {
        self.stats().resends
    }

    fn narrow_paths(&self) -> u64 {
        self.paths().filter(|path| path.sectors < path.offered).count() as u64
    }
}
