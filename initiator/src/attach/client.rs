//! One NBD connection of the data thread: a session and its socket.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aoe_common::time::{Duration, Instant};
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{self, MsgFlags, sockopt};

use crate::nbd::{ClosedReason, ExportInfo, MAX_OUTPUT_SLICES, Session};

/// How long a client may take to begin.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of replies the kernel may hold for a client.
const SEND_BUFFER: usize = 1 << 20;

/// See the [module](self).
pub(super) struct Client {
    /// Tells it from earlier clients in the same place.
    pub generation: u32,
    /// What the peer says and is told.
    pub session: Session,
    socket: OwnedFd,
    // The socket is watched for changes only, so that a busy one costs no call to choose what to watch for.
    readable: bool,
    writable: bool,
    peer_left: bool,
    failure: Option<Errno>,
    handshake_until: Option<Instant>,
}

impl Client {
    /// What to watch its socket for.
    pub const WATCH: EpollFlags =
        EpollFlags::EPOLLIN.union(EpollFlags::EPOLLOUT).union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);

    /// A client that begins with the handshake.
    pub fn negotiating(now: Instant, generation: u32, socket: OwnedFd, export: ExportInfo) -> Self {
        let handshake_until = Some(now + HANDSHAKE_PATIENCE);
        Self { handshake_until, ..Self::new(generation, socket, Session::negotiating(export)) }
    }

    /// The kernel, which does not need one.
    pub fn transmitting(generation: u32, socket: OwnedFd, export: ExportInfo) -> Self {
        Self::new(generation, socket, Session::transmitting(export))
    }

    fn new(generation: u32, socket: OwnedFd, session: Session) -> Self {
        widen(&socket);
        Self {
            generation,
            session,
            socket,
            readable: true,
            writable: true,
            peer_left: false,
            failure: None,
            handshake_until: None,
        }
    }

    /// Takes in what the watch tells.
    pub fn notice(&mut self, events: EpollFlags) {
        let ended = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        self.peer_left |= events.intersects(ended);
        self.readable |= events.intersects(EpollFlags::EPOLLIN | ended);
        self.writable |= events.intersects(EpollFlags::EPOLLOUT | ended);
    }

    /// Whether there may be something to read that the session wants.
    pub fn can_read(&self) -> bool {
        self.readable && self.failure.is_none() && self.session.wants_input()
    }

    /// Reads once; tells how many bytes. To be called while [`Self::can_read`].
    pub fn read(&mut self) -> usize {
        let space = self.session.input_space();
        let wanted = space.len();
        match socket::recv(self.socket.as_raw_fd(), space, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => {
                self.readable = false;
                self.session.input_ended();
                0
            }
            Ok(count) => {
                self.session.input_filled(count);
                // A stream that gives less than asked for has no more now. Only its end would come without notice.
                self.readable = count == wanted || self.peer_left;
                count
            }
            Err(Errno::EINTR) => 0,
            Err(Errno::EAGAIN) => {
                self.readable = false;
                0
            }
            Err(error) => {
                self.failure = Some(error);
                0
            }
        }
    }

    /// Whether there is something to send that the socket may take.
    pub fn can_write(&self) -> bool {
        self.writable && self.failure.is_none() && self.session.has_output()
    }

    /// Sends what there is to send, as far as the socket takes it.
    pub fn write(&mut self) {
        while self.can_write() {
            let mut slices = [IoSlice::new(&[]); MAX_OUTPUT_SLICES];
            let count = self.session.output_slices(&mut slices);
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            match socket::sendmsg::<()>(self.socket.as_raw_fd(), &slices[..count], &[], flags, None) {
                Ok(sent) => self.session.output_sent(sent),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.writable = false,
                Err(error) => self.failure = Some(error),
            }
        }
        if !self.session.is_negotiating() {
            self.handshake_until = None;
        }
    }

    /// When the client is given up if it has not begun.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.handshake_until
    }

    /// Why to drop the connection, if it is over: `Ok` when as agreed, `Err` with what went wrong.
    pub fn ending(&self, now: Instant) -> Option<Result<String, String>> {
        if let Some(error) = self.failure {
            return Some(Err(format!("the connection failed: {}", error.desc())));
        }
        if self.handshake_until.is_some_and(|until| now >= until) {
            return Some(Err("it did not finish its handshake in time".to_owned()));
        }
        if !self.session.is_closed() {
            return None;
        }
        Some(match self.session.closed_reason() {
            Some(reason @ (ClosedReason::Disconnected | ClosedReason::Aborted | ClosedReason::ShutDown)) => {
                Ok(reason.to_string())
            }
            Some(reason) => Err(reason.to_string()),
            None => Ok("done".to_owned()),
        })
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Lets the kernel hold more of what is sent on a socket, as far as we are allowed to ask for it.
pub(super) fn widen(socket: &OwnedFd) {
    let widened = socket::setsockopt(socket, sockopt::SndBufForce, &SEND_BUFFER)
        .or_else(|_| socket::setsockopt(socket, sockopt::SndBuf, &SEND_BUFFER));
    if let Err(error) = widened {
        tracing::debug!("send buffer: {}", error.desc());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::TransmissionFlags;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn export() -> ExportInfo {
        ExportInfo {
            name: "e0.1".into(),
            size_bytes: 1 << 20,
            flags: TransmissionFlags::empty(),
            block_min: 512,
            block_preferred: 4096,
            block_max: 1 << 20,
            description: String::new(),
        }
    }

    fn pair() -> (OwnedFd, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours.into(), theirs)
    }

    #[test]
    fn a_client_that_says_nothing_is_dropped_in_time() {
        let (ours, mut theirs) = pair();
        let mut client = Client::negotiating(Instant::ZERO, 1, ours, export());
        client.write();
        let mut greeting = [0; 18];
        theirs.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..8], b"NBDMAGIC");
        assert!(client.can_read());
        assert_eq!(client.read(), 0);
        assert!(!client.can_read(), "nothing more until the socket says so");
        let until = client.poll_timeout().unwrap();
        assert_eq!(client.ending(until - Duration::from_nanos(1)), None);
        assert!(client.ending(until).unwrap().unwrap_err().contains("handshake"));
    }

    #[test]
    fn the_end_of_the_stream_right_behind_data_is_seen() {
        let (ours, mut theirs) = pair();
        let mut client = Client::transmitting(1, ours, export());
        theirs.write_all(&[0; 5]).unwrap();
        drop(theirs);
        client.notice(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP);
        assert_eq!(client.read(), 5);
        assert!(client.can_read());
        assert_eq!(client.read(), 0);
        assert!(client.session.poll_request().is_none());
        assert!(client.ending(Instant::ZERO).unwrap().unwrap_err().contains("middle of a message"));
    }

    #[test]
    fn a_peer_that_is_gone_is_no_signal_but_an_end() {
        let (ours, theirs) = pair();
        drop(theirs);
        let mut client = Client::negotiating(Instant::ZERO, 1, ours, export());
        client.write();
        assert!(client.ending(Instant::ZERO).unwrap().is_err());
        assert!(!client.can_read());
    }
}
