//! Netlink: what the kernel lets us configure by messages instead of files.
//!
//! Only one family is spoken, generic netlink for the kernel's network block devices ([`NbdControl`]). Messages are
//! built and read by hand, since they are few. Nothing a socket delivers is trusted: answers that are cut short or make
//! no sense are errors, never a panic, and none is waited for longer than ten seconds.

mod flusher;
mod message;
mod nbd;

pub use flusher::become_io_flusher;
pub use nbd::{ConnectRequest, NbdControl, NbdError, ReconfigureRequest};
