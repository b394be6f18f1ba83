//! The NBD server side of one connection, as values: no sockets, files, threads or clocks.
//!
//! The kernel (over a socketpair, see [`Session::transmitting`]) or any NBD client (over a unix or TCP socket, see
//! [`Session::negotiating`]) is at the other end. A driver moves the bytes, an AoE engine does the block I/O:
//!
//! 1. While [`Session::wants_input`], read into [`Session::input_space`] and report with [`Session::input_filled`];
//!    at the end of the stream call [`Session::input_ended`].
//! 2. Hand requests to the engine; they finish in any order through [`Session::complete`].
//! 3. Write what [`Session::output_slices`] shows and report with [`Session::output_sent`].
//! 4. After any of these calls, pull [`Session::poll_request`] until it returns `None`: a finished request or a sent
//!    reply can make room for one that already waits inside.
//! 5. When [`Session::is_closed`], drop the connection and log [`Session::closed_reason`].
//!
//! Whatever the peer sends, a session holds at most [`MAX_REQUESTS`] requests and about [`MAX_HELD_BYTES`] of data,
//! and answers or ends; it never panics. Completing a request twice, or with data of the wrong length, is a bug of the
//! caller and panics. Time limits (a client that never finishes its handshake, or never reads) are the driver's.

mod buffers;
mod export;
mod negotiation;
pub mod protocol;
mod session;

pub use buffers::INBOX_BYTES;
pub use export::{ExportInfo, MAX_PAYLOAD};
pub use negotiation::{MAX_OPTION_BYTES, MAX_OPTIONS};
pub use protocol::{NbdErrno, TransmissionFlags};
pub use session::{
    ClosedReason, Command, MAX_HELD_BYTES, MAX_OUTPUT_SLICES, MAX_REQUESTS, Request, RequestId, Session,
};
