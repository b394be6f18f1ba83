//! A packet socket: the system calls a port is made of, each checked and safe to call.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::{iovec, mmsghdr, sock_filter, sockaddr_ll, tpacket_req, tpacket_stats};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, sockopt};

use super::ETHERTYPE;

/// A raw, non-blocking AF_PACKET socket. It hears nothing until it is bound.
pub(super) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    pub(super) fn open() -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket::socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        let packet = Self { fd };
        packet.set(libc::PACKET_VERSION, &libc::tpacket_versions::TPACKET_V2)?;
        packet.set::<c_int>(libc::PACKET_IGNORE_OUTGOING, &1)?;
        Ok(packet)
    }

    /// Lets the kernel queue up to `bytes` of frames to send, as far as we are allowed to ask for it.
    pub(super) fn set_send_buffer(&self, bytes: usize) -> Result<(), Errno> {
        socket::setsockopt(&self.fd, sockopt::SndBufForce, &bytes)
            .or_else(|_| socket::setsockopt(&self.fd, sockopt::SndBuf, &bytes))
    }

    /// Sets the filter, or replaces it in one step.
    pub(super) fn attach_filter(&self, program: &[sock_filter]) -> Result<(), Errno> {
        let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
        // The kernel only reads the program.
        let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
        set_option(&self.fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    /// Sets up the receive ring, for [`Ring::map`](super::ring::Ring::map).
    pub(super) fn request_ring(&self, request: &tpacket_req) -> Result<(), Errno> {
        self.set(libc::PACKET_RX_RING, request)
    }

    /// Starts to hear AoE frames of one interface.
    pub(super) fn bind(&self, interface: u32) -> Result<(), Errno> {
        // SAFETY: a sockaddr_ll is plain integers, for which all zeros are valid.
        let mut address: sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET.cast_unsigned() as u16;
        address.sll_protocol = ETHERTYPE.to_be();
        address.sll_ifindex = interface.cast_signed();
        let len = mem::size_of_val(&address) as libc::socklen_t;
        // SAFETY: the kernel reads `len` bytes of an address that lives through the call.
        Errno::result(unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len) })?;
        Ok(())
    }

    /// Whether the interface still exists. The kernel unbinds the socket from one that is removed.
    pub(super) fn is_bound(&self) -> Result<bool, Errno> {
        let address: socket::LinkAddr = socket::getsockname(self.fd.as_raw_fd())?;
        Ok(address.ifindex().cast_signed() > 0)
    }

    /// Takes the error that waits on the socket, if any.
    pub(super) fn take_error(&self) -> Result<(), Errno> {
        match socket::getsockopt(&self.fd, sockopt::SocketError)? {
            0 => Ok(()),
            error => Err(Errno::from_raw(error)),
        }
    }

    /// Counts of the kernel since the last call.
    pub(super) fn take_statistics(&self) -> Result<tpacket_stats, Errno> {
        let mut stats = tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = mem::size_of_val(&stats) as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, the size of the structure, which is plain integers.
        Errno::result(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        })?;
        Ok(stats)
    }

    fn set<T: Copy>(&self, option: c_int, value: &T) -> Result<(), Errno> {
        set_option(&self.fd, libc::SOL_PACKET, option, value)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set_option<T: Copy>(fd: &OwnedFd, level: c_int, option: c_int, value: &T) -> Result<(), Errno> {
    let len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of a value that lives through the call. What a sock_fprog points to also
    // lives through it: its only maker holds the program by reference.
    Errno::result(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const *value).cast(), len) })?;
    Ok(())
}

/// Frames of one `sendmmsg` call, and room for what the kernel wants to know about them.
pub(super) struct Batch<const N: usize> {
    vectors: Box<[iovec; N]>,
    headers: Box<[mmsghdr; N]>,
}

// SAFETY: the pointers inside are only followed within `send`, which sets them first.
unsafe impl<const N: usize> Send for Batch<N> {}

impl<const N: usize> Batch<N> {
    pub(super) fn new() -> Self {
        // SAFETY: both are plain integers and pointers, for which all zeros are valid.
        unsafe { Self { vectors: Box::new(mem::zeroed()), headers: Box::new(mem::zeroed()) } }
    }

    /// Sends the first frames, at most `N`, in one system call. Tells how many went, or why the first one did not.
    pub(super) fn send(&mut self, socket: &PacketSocket, frames: &[&[u8]]) -> Result<usize, Errno> {
        let count = frames.len().min(N);
        for ((frame, vector), header) in frames.iter().zip(self.vectors.iter_mut()).zip(self.headers.iter_mut()) {
            // The kernel only reads the frame.
            *vector = iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: `count` headers are set, each with one vector over one frame; all outlive the call.
        let sent = Errno::result(unsafe {
            libc::sendmmsg(socket.fd.as_raw_fd(), self.headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT)
        })?;
        Ok(sent.cast_unsigned() as usize)
    }
}
