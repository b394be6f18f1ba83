//! A port: AoE frames in and out of one interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::unistd::{SysconfVar, sysconf};
use pnet::util::MacAddr;

use super::ring::{Geometry, Ring};
use super::socket::{Batch, PacketSocket};
use super::{ETHERNET_HEADER, Filter, Interface};

/// The most frames one call of [`Port::send`] takes.
pub const SEND_BATCH: usize = 64;

/// Bytes the kernel may queue to send; some 200 jumbo frames by its accounting.
const SEND_BUFFER: usize = 4 << 20;

/// Why a port does not work.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The interface is switched off. The port works again once it is up: keep it.
    #[error("the link is down: check the cable or run \"ip link set <interface> up\"")]
    Down,
    /// The interface does not exist any more. The port is of no more use: open another when it is back.
    #[error("the interface is gone: check the name with \"ip link\"")]
    Gone,
    /// This process may not use raw sockets.
    #[error("raw sockets need CAP_NET_RAW: run as root or \"setcap cap_net_raw+ep\" on this program")]
    Permission,
    /// The kernel has no memory for the receive ring.
    #[error("no memory for a receive ring of {0} bytes: ask for fewer frames")]
    Memory(usize),
    /// Anything else.
    #[error("raw socket: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for LinkError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::ENETDOWN => Self::Down,
            Errno::ENXIO | Errno::ENODEV => Self::Gone,
            Errno::EPERM | Errno::EACCES => Self::Permission,
            _ => Self::Io(error.into()),
        }
    }
}

/// What a port has seen since it was opened, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Handed to the receiver.
    pub received: u64,
    /// Given to the kernel to send.
    pub sent: u64,
    /// Lost because the ring was full: the receiver is too slow, or the ring too small.
    pub kernel_drops: u64,
    /// Dropped because they did not fit the ring: the MTU has grown since the port was opened.
    pub truncated: u64,
    /// Dropped because they belong to a VLAN that has no interface here; those of one that has are not seen at all.
    pub foreign_vlan: u64,
    /// Dropped because they are for, or from, another station's address.
    pub other_host: u64,
    /// Not sent because the link does not take frames that long: the MTU has shrunk.
    pub too_long: u64,
}

/// AoE frames in and out of one interface. See the [module](super).
///
/// Readable, by its descriptor, means that a frame waits or that [`receive`](Self::receive) has an error to tell.
///
/// A port outlives the loss of its link: after [`LinkError::Down`] it goes on as soon as the interface is up again,
/// without being touched. It has to be opened anew after [`LinkError::Gone`], and when the MTU grows, since frames
/// longer than those its ring was made for are dropped.
pub struct Port {
    // Before the socket: the mapping keeps the socket alive in the kernel.
    ring: Ring,
    socket: PacketSocket,
    batch: Batch<SEND_BATCH>,
    interface: u32,
    mac: MacAddr,
    stands_for_others: bool,
    stats: PortStats,
}

impl Port {
    /// Opens a port whose ring holds at least `ring_frames` frames of the interface's MTU, or as many as fit 256 MiB.
    ///
    /// The interface may be down; the first `receive` then tells.
    pub fn open(interface: &Interface, filter: &Filter, ring_frames: u32) -> Result<Self, LinkError> {
        let page_size = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096);
        let geometry = Geometry::new(interface.mtu, ring_frames, page_size);
        let no_memory = |error| match error {
            Errno::ENOMEM => LinkError::Memory(geometry.bytes()),
            error => error.into(),
        };

        let socket = PacketSocket::open()?;
        socket.set_send_buffer(SEND_BUFFER)?;
        socket.attach_filter(&filter.program(interface.index))?;
        socket.request_ring(&geometry.request()).map_err(no_memory)?;
        let ring = Ring::map(&socket, geometry).map_err(no_memory)?;
        // Last, so that no frame comes in that the filter or the ring has not seen.
        socket.bind(interface.index)?;
        Ok(Self {
            ring,
            socket,
            batch: Batch::new(),
            interface: interface.index,
            mac: interface.mac,
            stands_for_others: false,
            stats: PortStats::default(),
        })
    }

    /// Also takes frames for other stations, as far as the interface hears them: for a program that stands for many
    /// stations, such as a load generator.
    pub fn stand_for_others(&mut self) {
        self.stands_for_others = true;
    }

    /// Replaces the filter. Frames that wait already have passed the old one.
    pub fn set_filter(&mut self, filter: &Filter) -> Result<(), LinkError> {
        Ok(self.socket.attach_filter(&filter.program(self.interface))?)
    }

    /// Hands up to `budget` waiting frames to `deliver`, oldest first, and tells how many it handed over.
    ///
    /// Frames that are not for us count against the budget but not in the result. Each frame is borrowed for its call
    /// only: its slot then goes back to the kernel, even when `deliver` panics. A busy port needs no system call.
    pub fn receive(&mut self, budget: usize, mut deliver: impl FnMut(&[u8])) -> Result<usize, LinkError> {
        let mut delivered = 0;
        for taken in 0..budget {
            let Some(slot) = self.ring.take() else {
                if taken == 0 {
                    self.check()?;
                }
                break;
            };
            if slot.vlan().is_some_and(|vlan| vlan != 0) {
                self.stats.foreign_vlan += 1;
            } else if matches!(slot.packet_type(), libc::PACKET_OTHERHOST | libc::PACKET_OUTGOING)
                && !self.stands_for_others
            {
                // The kernel marks a frame of a VLAN it does not know as another host's, and mostly forgets the tag.
                let is_tagged = slot.frame().is_some_and(|frame| is_addressed(frame, self.mac));
                *if is_tagged { &mut self.stats.foreign_vlan } else { &mut self.stats.other_host } += 1;
            } else if let Some(frame) = slot.frame() {
                self.stats.received += 1;
                delivered += 1;
                deliver(frame);
            } else {
                self.stats.truncated += 1;
            }
        }
        Ok(delivered)
    }

    /// Whether a frame waits. No system call, so it suits a loop that polls for a while before it sleeps.
    pub fn is_waiting(&self) -> bool {
        self.ring.is_waiting()
    }

    /// Sends whole Ethernet frames, the first [`SEND_BATCH`] of them, and tells how many it is done with.
    ///
    /// What is left is to be sent later: the socket or the device is full. A full socket becomes writable when there is
    /// room; a full device does not tell when it has some, so try again after a pause, and not for ever. Without
    /// carrier frames are taken and lost.
    /// A frame too long for the link is dropped, counted in [`PortStats::too_long`], and does not stop those behind it.
    ///
    /// # Panics
    /// When a frame is shorter than an Ethernet header.
    pub fn send(&mut self, frames: &[&[u8]]) -> Result<usize, LinkError> {
        let frames = &frames[..frames.len().min(SEND_BATCH)];
        assert!(frames.iter().all(|frame| frame.len() >= ETHERNET_HEADER), "a frame without an Ethernet header");
        let mut done = 0;
        // Once around, unless a frame is refused: the error is told only when that frame is the first.
        while done < frames.len() {
            match self.batch.send(&self.socket, &frames[done..]) {
                Ok(sent) => {
                    self.stats.sent += sent as u64;
                    done += sent;
                }
                Err(Errno::EMSGSIZE) => {
                    self.stats.too_long += 1;
                    done += 1;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) => break,
                Err(_) if done > 0 => break,
                Err(error) => return Err(self.classify(error)),
            }
        }
        Ok(done)
    }

    /// What the port has seen since it was opened.
    pub fn stats(&mut self) -> PortStats {
        // The call cannot fail on a packet socket; if it did, the drops would come with the next one.
        if let Ok(new) = self.socket.take_statistics() {
            self.stats.kernel_drops += u64::from(new.tp_drops);
        }
        self.stats
    }

    /// Frames that fit the ring.
    pub fn ring_frames(&self) -> usize {
        self.ring.slots()
    }

    fn check(&self) -> Result<(), LinkError> {
        self.socket.take_error().map_err(|error| self.classify(error))
    }

    /// The kernel reports a removed interface as down first.
    fn classify(&self, error: Errno) -> LinkError {
        match error {
            Errno::ENETDOWN if self.socket.is_bound() == Ok(false) => LinkError::Gone,
            error => error.into(),
        }
    }
}

/// Whether a frame names this station, or a group, as its destination.
fn is_addressed(frame: &[u8], mac: MacAddr) -> bool {
    frame[0] & 1 != 0 || frame[..6] == mac.octets()
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").field("socket", &self.as_fd()).field("stats", &self.stats).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_tell_what_to_do() {
        let text = |errno: Errno| LinkError::from(errno).to_string();
        assert!(text(Errno::ENETDOWN).contains("ip link set"));
        assert!(text(Errno::EPERM).contains("CAP_NET_RAW"));
        assert!(matches!(LinkError::from(Errno::ENXIO), LinkError::Gone));
        assert!(matches!(LinkError::from(Errno::EINVAL), LinkError::Io(_)));
    }
}
