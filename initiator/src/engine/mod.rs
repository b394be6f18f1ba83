//! The initiator engine: requests and frames go in, frames and completions come out.
//!
//! Values without sockets, files, threads or clocks. [`Device`] serves the requests to one AoE disk over any
//! number of paths; the others are a [`Conversation`] each: [`Discovery`] finds disks, [`Masking`] reads and edits who
//! may use them, [`Asking`] what else is set there, [`Pinging`] measures round trips, [`Checking`]
//! what passes. The contract with their driver:
//!
//! 1. `handle_*` and `submit` take an input and the current time, never block and do bounded work.
//! 2. After any input the driver pulls `poll_transmit` until `None` (each frame is written into a buffer of
//!    the driver's), then `poll_completion` and `poll_event`, and sleeps no longer than `poll_timeout` says.
//! 3. Time only moves forward. All randomness is the first tag, which the driver chooses.
//! 4. A crash is a drop of the value; nothing survives it.
//!
//! What a device promises to its user: a request completes once, and with success only when a target said so
//! for every part of it; overlapping writes reach the target in the order they were submitted; an old copy of
//! a write never lands over a newer one, as far as the initiator alone can see to it.

mod asking;
mod checking;
mod device;
mod discovery;
mod frames;
mod masking;
mod measuring;
mod path;
mod pinging;
mod quarantine;
mod question;
mod recovery;
mod round_trips;
mod rtt;
mod search;
mod unflushed;
mod window;

pub use asking::{Asking, Holder, STATIONS_MAX, Said, Setting, Wish};
pub use checking::{Checking, LoadReport, SAMPLES, WAYS_MAX, Way, WayReport};
pub use device::{
    Completion, Device, DeviceConfig, DeviceState, DeviceStats, Event, IoError, Operation, PathStats, REQUESTS_MAX,
    Request,
};
pub use discovery::{Discovery, FOUND_MAX, Found};
pub use frames::FRAME_MAX;
pub use masking::{DIRECTIVES_MAX, EXPORTS_MAX, MaskList, Masking, Round, TARGETS_MAX, Trouble};
pub use path::{PATHS_MAX, PathState, WINDOW_MAX};
pub use pinging::{ANSWERERS_MAX, Ping, PingReport, Pinging, Pong, Reply};
pub use quarantine::QUARANTINE;
pub use round_trips::{RoundTripTimes, RoundTrips};

use aoe_common::planted::{Fault, planted};
pub use aoe_common::port::{PortId, PortInfo};
use aoe_common::time::Instant;

/// Something to talk about with targets, from the first question to the last answer; nothing but its own frames.
pub trait Conversation {
    /// A frame arrived.
    fn handle_frame(&mut self, now: Instant, port: PortId, bytes: &[u8]);

    /// The next frame to send, written into `out` (`FRAME_MAX` bytes): on which port, and how long it is.
    fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<(PortId, usize)>;

    /// When to call `poll_transmit` and `is_over` again.
    fn poll_timeout(&self, now: Instant) -> Option<Instant>;

    /// Whether there is nothing more to say or to hear.
    fn is_over(&self, now: Instant) -> bool;
}

/// Sectors per command on a port with a target that takes `offered`; 0 from old targets means 2.
fn payload_sectors(port: PortInfo, offered: u8) -> u8 {
    let offered = if offered == 0 { 2 } else { offered };
    port.frame_sectors().min(offered)
}

/// Tags: bit 31 is set, so that aoe.ko on the same host leaves our answers alone; the rest counts up.
#[derive(Clone, Copy, Debug)]
struct Tags {
    next: u32,
}

impl Tags {
    /// Tags from `start` on. A new run has to start where no earlier one on this host was shortly before, or a
    /// target could take its first writes for repeats of old ones: [`tag_start`] sees to that.
    fn new(start: u32) -> Self {
        Self { next: start }
    }

    fn take(&mut self) -> u32 {
        if planted(Fault::TagsReused) {
            self.next &= 0xff;
        }
        let tag = self.next | 1 << 31;
        self.next = self.next.wrapping_add(1);
        tag
    }
}

/// A first tag for a run that begins at the wall-clock time `micros` (since 1970): one tag for every 4 us that
/// pass. A run would have to use 250 000 tags a second all its life to catch up with the next one, and tags
/// come round again after 2.4 hours.
pub fn tag_start(micros: u64) -> u32 {
    (micros / 4) as u32 & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoe_common::wire::MacAddr;

    #[test]
    fn tags_have_bit_31_set_and_wrap() {
        let mut tags = Tags::new(u32::MAX);
        assert_eq!([tags.take(), tags.take(), tags.take()], [0xffff_ffff, 0x8000_0000, 0x8000_0001]);
    }

    #[test]
    fn payload_is_what_both_sides_take() {
        let payload = |mtu, offered| payload_sectors(PortInfo { mac: MacAddr(2, 0, 0, 0, 0, 1), mtu }, offered);
        assert_eq!([payload(1500, 16), payload(9000, 16), payload(9000, 0), payload(9000, 255)], [2, 16, 2, 17]);
        assert_eq!(payload(100, 2), 0);
    }
}
