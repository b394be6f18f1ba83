//! AoE revision 11 on the wire: bytes in, values out, and back. No state.
//!
//! Every message is a pair: a *view*, a `#[repr(C)]` struct of the exact wire layout that is checked against
//! the length of the bytes once and then read in place, and a *Repr*, the parsed value.
//!
//! * `parse` never panics, whatever the bytes are. It checks the fixed part of its own message and the
//!   lengths stated inside it; bytes beyond those are padding or surplus payload and are ignored, as every
//!   real peer relies on. Reserved fields are ignored on receipt.
//! * `emit` writes exactly `wire_len()` bytes, reserved fields as zero, and panics when the buffer is
//!   shorter: a caller that sized its buffer wrongly is a bug of ours.
//! * Values this revision does not define survive a round trip (`Unknown` variants).
//!
//! Offsets in these docs count from the first byte of the Ethernet frame without a VLAN tag. Numbers are
//! big endian, apart from the six LBA bytes (least significant first) and ATA data.

mod ata;
mod config;
mod ethernet;
mod header;
mod mask;
mod reserve;
mod vendor;

pub use ata::{AtaFlags, AtaRepr, AtaView, LBA28_MAX, LBA48_MAX};
pub use config::{CONFIG_STRING_MAX, ConfigCommand, ConfigRepr, ConfigView};
pub use ethernet::{BROADCAST, ETHERTYPE_AOE, ETHERTYPE_VLAN, EthernetRepr, EthernetView, MacAddr};
pub use header::{Command, ErrorCode, Frame, HeaderRepr, HeaderView, VERSION};
pub use mask::{DirectiveCommand, DirectiveRepr, DirectiveView, MaskCommand, MaskError, MaskRepr, MaskView};
pub use reserve::{RESERVE_MAX, ReserveCommand, ReserveRepr, ReserveView};
pub use vendor::VendorRepr;

/// Bytes that are not a usable message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The frame ends inside a fixed part.
    #[error("the frame is too short")]
    Short,
    /// The frame is not AoE.
    #[error("the frame is not AoE")]
    EtherType,
    /// A length stated in the message goes beyond the frame or the protocol's limit.
    #[error("a length in the frame is impossible")]
    Length,
}
