//! The Ethernet interfaces of this host, and word when they change.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};
use pnet::util::MacAddr;

/// One Ethernet interface, as it was when the list was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name, such as `eth0`.
    pub name: String,
    /// The kernel's number for it; never 0. It stays when the interface is renamed.
    pub index: u32,
    /// Its own hardware address.
    pub mac: MacAddr,
    /// The most bytes a frame carries behind its Ethernet header.
    pub mtu: u32,
    /// It is switched on and has a carrier.
    pub up: bool,
    /// A bond owns it: frames go through the bond, not through this interface.
    pub slave: bool,
}

/// All Ethernet interfaces of this network namespace, in the order of their index. Loopback is not one of them.
pub fn ethernet_interfaces() -> io::Result<Vec<Interface>> {
    // Interface ioctls work on a socket of any family; a service may be barred from all but this one.
    let probe = socket::socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut list = Vec::new();
    for found in pnet::datalink::interfaces() {
        // Without index or address it has just vanished, or it is an address label rather than an interface.
        let (Some(mac), 1..) = (found.mac, found.index) else { continue };
        if found.is_loopback() {
            continue;
        }
        let Some(mtu) = ethernet_mtu(&probe, &found.name)? else { continue };
        list.push(Interface {
            up: found.flags & RUNNING == RUNNING,
            slave: found.flags & SLAVE != 0,
            name: found.name,
            index: found.index,
            mac,
            mtu,
        });
    }
    list.sort_by_key(|interface| interface.index);
    Ok(list)
}

const RUNNING: u32 = (libc::IFF_UP | libc::IFF_RUNNING).cast_unsigned();
const SLAVE: u32 = libc::IFF_SLAVE.cast_unsigned();

nix::ioctl_read_bad!(hardware_address, libc::SIOCGIFHWADDR, libc::ifreq);
nix::ioctl_read_bad!(transfer_unit, libc::SIOCGIFMTU, libc::ifreq);

/// The MTU of an Ethernet interface; none when it is gone or of another kind.
fn ethernet_mtu(probe: &OwnedFd, name: &str) -> io::Result<Option<u32>> {
    // SAFETY: an ifreq is plain bytes, for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the kernel reads the name up to it.
    if name.len() >= request.ifr_name.len() {
        return Ok(None);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the kernel reads and writes one ifreq, ours, and fills the hardware address in the union.
    let kind = unsafe {
        match hardware_address(probe.as_raw_fd(), &raw mut request) {
            Ok(_) => request.ifr_ifru.ifru_hwaddr.sa_family,
            Err(error) => return vanished_or(error),
        }
    };
    if kind != libc::ARPHRD_ETHER {
        return Ok(None);
    }
    // SAFETY: as above; this call fills the MTU in the union.
    let mtu = unsafe {
        match transfer_unit(probe.as_raw_fd(), &raw mut request) {
            Ok(_) => request.ifr_ifru.ifru_mtu,
            Err(error) => return vanished_or(error),
        }
    };
    Ok(u32::try_from(mtu).ok())
}

fn vanished_or(error: Errno) -> io::Result<Option<u32>> {
    if matches!(error, Errno::ENODEV | Errno::ENXIO) { Ok(None) } else { Err(error.into()) }
}

/// Word of interfaces that came, went, or changed their state, MTU or address.
///
/// Its descriptor is readable when something may have changed since the last [`drain`](Self::drain). What has changed
/// is found by reading [`ethernet_interfaces`] again; so a lost or made-up message does no harm.
#[derive(Debug)]
pub struct LinkWatch {
    socket: OwnedFd,
}

impl LinkWatch {
    /// Messages taken in one call of `drain`. More leave the descriptor readable.
    const BUDGET: usize = 1024;

    /// Starts to listen, in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, libc::RTMGRP_LINK.cast_unsigned()))?;
        Ok(Self { socket })
    }

    /// Takes what waits. True: something may have changed, read the list again.
    pub fn drain(&self) -> bool {
        let mut changed = false;
        // Only that a message came matters; the rest of it is cut off.
        let mut start = [0; 16];
        for _ in 0..Self::BUDGET {
            match socket::recv(self.socket.as_raw_fd(), &mut start, MsgFlags::empty()) {
                Ok(_) => changed = true,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                // ENOBUFS: messages were lost.
                Err(_) => changed = true,
            }
        }
        changed
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_no_ethernet_and_the_order_is_by_index() {
        let list = ethernet_interfaces().unwrap();
        assert!(list.iter().all(|interface| interface.name != "lo" && interface.mtu > 0));
        assert!(list.is_sorted_by(|a, b| a.index < b.index));
    }

    #[test]
    fn an_interface_that_vanished_or_cannot_be_is_no_error() {
        let probe = socket::socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
        assert_eq!(ethernet_mtu(&probe, "no-such-dev").unwrap(), None);
        assert_eq!(ethernet_mtu(&probe, "a-name-longer-than-the-kernel-allows").unwrap(), None);
        assert_eq!(ethernet_mtu(&probe, "lo").unwrap(), None);
    }

    #[test]
    fn a_quiet_watch_reports_nothing_twice() {
        let watch = LinkWatch::open().unwrap();
        // Another process may change a link meanwhile, but not without pause.
        assert!((0..100).any(|_| !watch.drain()));
    }
}
