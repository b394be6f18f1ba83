//! Raw Ethernet: which interfaces there are, and ports that carry AoE frames on them.
//!
//! A [`Port`] is one packet socket on one interface. It hears only AoE frames (EtherType 0x88A2) that pass its
//! [`Filter`], never its own, and sends whole frames in batches. It never blocks and starts no thread: callers wait on
//! its file descriptor, and on that of a [`LinkWatch`], in a loop of their own.
//!
//! What a port hands up is a frame somebody put on the wire, whole and untagged, and not for an interface on top of its own
//! (VLAN, macvlan). Nothing else about it is checked.
//!
//! All `unsafe` code for packets is in `socket` (system calls) and `ring` (memory shared with the kernel).

mod clock;
mod filter;
mod interfaces;
mod port;
mod ring;
mod socket;

pub use clock::{monotonic_now, processor_time};
pub use filter::Filter;
pub use interfaces::{Interface, LinkWatch, ethernet_interfaces};
pub use port::{LinkError, Port, PortStats, SEND_BATCH};

/// The EtherType of AoE.
pub const ETHERTYPE: u16 = 0x88a2;

/// Bytes of an Ethernet header without a VLAN tag.
const ETHERNET_HEADER: usize = 14;
