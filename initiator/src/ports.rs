//! The open ports of an initiator: one on each chosen interface that is up, followed as interfaces come and go.
//!
//! A port's id belongs to the name of its interface, so an interface that is removed and made again is the same
//! port to an engine. At most [`PORTS_MAX`] names are kept; the names of interfaces that are gone make room first.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aoe_common::link::{Filter, Interface, LinkError, Port, ethernet_interfaces};
use aoe_common::time::Instant;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::engine::{PortId, PortInfo};

/// Interfaces that are used at the most.
pub const PORTS_MAX: usize = 64;

/// Frames a port can hold that we have not looked at yet; twice what the engine lets be under way on one path.
const RING_FRAMES: u32 = 512;

/// Why there are no ports.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// A name that no Ethernet interface has.
    #[error("{0} is no Ethernet interface of this host: see \"ip link\"")]
    Unknown(String),
    /// A port cannot be opened.
    #[error("{interface}: {error}")]
    Link {
        /// On which interface.
        interface: String,
        /// Why.
        error: LinkError,
    },
    /// The interfaces cannot be listed.
    #[error("cannot list the network interfaces: {0}")]
    List(#[from] io::Error),
}

/// What became of a port: a new socket with these properties, or none any more.
pub type Change = (PortId, Option<PortInfo>);

/// What ended a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// Something else than the ports has word.
    pub other: bool,
    /// A port has an error to tell: [`Ports::receive`] has to ask.
    pub failed: bool,
}

#[derive(Debug)]
struct Slot {
    name: String,
    open: Option<(Interface, Port)>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Ports {
    /// The names asked for; empty: all.
    wanted: Vec<String>,
    slots: Vec<Slot>,
}

impl Ports {
    /// Opens ports on the named interfaces, or on all; tells which there are.
    ///
    /// An interface that is down is opened later, when it is up. One that does not exist is an error here, where a
    /// person may have mistyped it.
    pub fn open(wanted: Vec<String>) -> Result<(Self, Vec<Change>), PortsError> {
        let interfaces = ethernet_interfaces()?;
        if let Some(name) = wanted.iter().find(|name| interfaces.iter().all(|interface| interface.name != **name)) {
            return Err(PortsError::Unknown(name.clone()));
        }
        let mut ports = Self { wanted, slots: Vec::new() };
        let (changes, failure) = ports.adopt(&interfaces);
        match failure {
            Some((interface, error)) if changes.is_empty() || matches!(error, LinkError::Permission) => {
                Err(PortsError::Link { interface, error })
            }
            _ => Ok((ports, changes)),
        }
    }

    /// No ports, until some are found.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { wanted: vec!["no-such-if".to_owned()], slots: Vec::new() }
    }

    /// Takes in how the interfaces are now: opens, reopens and closes ports, and tells which.
    pub fn follow(&mut self, interfaces: &[Interface]) -> Vec<Change> {
        let (changes, failure) = self.adopt(interfaces);
        if let Some((interface, error)) = failure {
            tracing::warn!("{interface} is not used: {error}");
        }
        changes
    }

    fn adopt(&mut self, interfaces: &[Interface]) -> (Vec<Change>, Option<(String, LinkError)>) {
        let mut changes = Vec::new();
        let mut failure = None;
        let usable = |interface: &&Interface| {
            interface.up && !interface.slave && (self.wanted.is_empty() || self.wanted.contains(&interface.name))
        };
        let usable: Vec<_> = interfaces.iter().filter(usable).collect();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some((open, _)) = &slot.open else { continue };
            if !usable.contains(&open) {
                slot.open = None;
                changes.push((PortId(index as u32), None));
            }
        }
        for interface in usable {
            let Some(index) = self.slot_for(&interface.name) else {
                tracing::warn!("{} is not used: {PORTS_MAX} interfaces are the most", interface.name);
                continue;
            };
            let id = PortId(index as u32);
            let slot = &mut self.slots[index];
            if slot.open.is_some() {
                continue;
            }
            match Port::open(interface, &Filter::Initiator, RING_FRAMES) {
                Ok(port) => {
                    changes.retain(|(changed, _)| *changed != id);
                    changes.push((id, Some(PortInfo { mac: interface.mac, mtu: interface.mtu })));
                    slot.open = Some((interface.clone(), port));
                }
                Err(error) => failure = Some((interface.name.clone(), error)),
            }
        }
        (changes, failure)
    }

    /// The slot of a name; a new one, or one that is not in use, when the name is new.
    fn slot_for(&mut self, name: &str) -> Option<usize> {
        if let Some(known) = self.slots.iter().position(|slot| slot.name == name) {
            return Some(known);
        }
        let slot = Slot { name: name.to_owned(), open: None };
        if self.slots.len() < PORTS_MAX {
            self.slots.push(slot);
            return Some(self.slots.len() - 1);
        }
        let unused = self.slots.iter().position(|slot| slot.open.is_none())?;
        self.slots[unused] = slot;
        Some(unused)
    }

    /// Hands up to `budget` frames of each port to `deliver`. With `errors`, also asks those without frames how they
    /// are, which costs a system call each: for when a descriptor tells of an error. A port whose interface is gone is
    /// closed and told.
    pub fn receive(&mut self, budget: usize, errors: bool, mut deliver: impl FnMut(PortId, &[u8])) -> Vec<Change> {
        let mut changes = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let id = PortId(index as u32);
            let Some((_, port)) = slot.open.as_mut().filter(|(_, port)| errors || port.is_waiting()) else { continue };
            match port.receive(budget, |frame| deliver(id, frame)) {
                Ok(_) | Err(LinkError::Down) => {}
                Err(LinkError::Gone) => {
                    slot.open = None;
                    changes.push((id, None));
                }
                Err(error) => tracing::debug!("{}: {error}", slot.name),
            }
        }
        changes
    }

    /// Sends frames on a port; tells how many need no more care: sent, or lost with their port.
    pub fn send(&mut self, id: PortId, frames: &[&[u8]]) -> usize {
        let slot = self.slots.get_mut(id.0 as usize);
        let Some((_, port)) = slot.and_then(|slot| slot.open.as_mut()) else { return frames.len() };
        port.send(frames).unwrap_or_else(|error| {
            tracing::trace!("{} frames not sent: {error}", frames.len());
            frames.len()
        })
    }

    /// Whether a frame waits at any port. Needs no system call.
    pub fn is_waiting(&self) -> bool {
        self.slots.iter().filter_map(|slot| slot.open.as_ref()).any(|(_, port)| port.is_waiting())
    }

    /// The descriptor of a port, to wait on.
    pub fn fd(&self, id: PortId) -> Option<BorrowedFd<'_>> {
        self.slots.get(id.0 as usize)?.open.as_ref().map(|(_, port)| port.as_fd())
    }

    /// Waits for frames on any port, until one of `others` is readable, or until something is due.
    pub fn wait(&self, now: Instant, due: Option<Instant>, others: &[BorrowedFd<'_>]) -> io::Result<Woken> {
        let timeout = due.map(|due| TimeSpec::from(due.since(now)));
        let watched = others.iter().copied().chain(self.ids().filter_map(|id| self.fd(id)));
        let mut fds: Vec<_> = watched.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match ppoll(&mut fds, timeout, None) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Woken::default()),
            Err(error) => return Err(error.into()),
        }
        let happened =
            |fds: &[PollFd], wanted| fds.iter().filter_map(PollFd::revents).any(|now| now.intersects(wanted));
        let (others, ports) = fds.split_at(others.len());
        Ok(Woken { other: happened(others, PollFlags::all()), failed: happened(ports, PollFlags::POLLERR) })
    }

    /// The open ports.
    pub fn ids(&self) -> impl Iterator<Item = PortId> + '_ {
        let open = self.slots.iter().enumerate().filter(|(_, slot)| slot.open.is_some());
        open.map(|(index, _)| PortId(index as u32))
    }

    /// The name of the interface that a port is, or was, on.
    pub fn name(&self, id: PortId) -> &str {
        self.slots.get(id.0 as usize).map_or("?", |slot| &slot.name)
    }

    /// The interfaces in use, for messages.
    pub fn describe(&self) -> String {
        let open: Vec<_> = self.ids().map(|id| self.name(id)).collect();
        match (open.is_empty(), self.wanted.is_empty()) {
            (false, _) => format!("on {}", open.join(", ")),
            (true, true) => "since no Ethernet interface is up".to_owned(),
            (true, false) => format!("since {} is not up", self.wanted.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoe_common::link::monotonic_now;
    use aoe_common::time::Duration;
    use aoe_common::wire::MacAddr;
    use std::io::Write;

    fn interface(name: &str, up: bool) -> Interface {
        let mac = MacAddr(2, 0, 0, 0, 0, 1);
        // No interface has this number, so no test opens a port on a real one.
        Interface { name: name.into(), index: 0x7fff_fff0, mac, mtu: 1500, up, slave: false }
    }

    fn ports(wanted: &[&str]) -> Ports {
        Ports { wanted: wanted.iter().map(|name| (*name).to_owned()).collect(), slots: Vec::new() }
    }

    #[test]
    fn only_what_is_up_wanted_and_free_is_tried() {
        let mut ports = ports(&["eth1"]);
        let slave = Interface { slave: true, ..interface("eth1", true) };
        for unusable in [interface("eth0", true), interface("eth1", false), slave] {
            assert!(ports.follow(&[unusable]).is_empty());
            assert!(ports.slots.is_empty());
        }
        // Opening fails, for lack of rights or of the interface; the name has its slot all the same.
        assert!(ports.follow(&[interface("eth1", true)]).is_empty());
        assert_eq!(ports.name(PortId(0)), "eth1");
        assert_eq!(ports.ids().count(), 0);
        assert_eq!(ports.describe(), "since eth1 is not up");
    }

    #[test]
    fn names_keep_their_id_and_are_bounded() {
        let mut ports = ports(&[]);
        for number in 0..PORTS_MAX {
            assert_eq!(ports.slot_for(&format!("tap{number}")), Some(number));
        }
        assert_eq!(ports.slot_for("tap5"), Some(5));
        assert_eq!(ports.slot_for("new"), Some(0), "an unused one makes room");
        assert_eq!(ports.slots.len(), PORTS_MAX);
    }

    #[test]
    fn a_wait_ends_in_time_or_by_what_is_watched_beside_the_ports() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let before = monotonic_now();
        let woken = ports(&[]).wait(before, Some(before + Duration::from_micros(300)), &[ours.as_fd()]).unwrap();
        assert_eq!(woken, Woken::default());
        assert!(monotonic_now().since(before) >= Duration::from_micros(300));
        theirs.write_all(b"x").unwrap();
        let woken = ports(&[]).wait(before, None, &[ours.as_fd()]).unwrap();
        assert_eq!(woken, Woken { other: true, failed: false });
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        let error = Ports::open(vec!["no-such-if".into()]).unwrap_err();
        assert!(error.to_string().contains("no-such-if"));
    }
}
