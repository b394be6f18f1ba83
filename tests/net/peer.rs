//! Stations played by a test: raw frames on a host's wire, and an AoE target that answers as a script says.
//!
//! Both live in the test's own process. Only a short-lived thread enters the host's namespace, to open sockets there;
//! sockets stay where they were opened.

use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use aoe_common::addr::Address;
use aoe_common::ata::{AtaError, Identify, Status, command};
use aoe_common::frame::{HEADROOM, MIN_FRAME, SECTOR};
use aoe_common::link::{Filter, Port, SEND_BATCH, ethernet_interfaces};
use aoe_common::wire::{
    AtaFlags, AtaRepr, BROADCAST, Command, ConfigCommand, ConfigRepr, ETHERTYPE_AOE, EthernetRepr, Frame, HeaderRepr,
    MacAddr, VERSION,
};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt, socket, sockopt,
};

use super::{Host, INTERFACE, PATIENCE, TICK};

/// Where the fields of a frame without a VLAN tag are, in bytes.
pub mod field {
    use super::Range;

    /// Sender.
    pub const SOURCE: Range<usize> = 6..12;
    /// EtherType.
    pub const ETHERTYPE: Range<usize> = 12..14;
    /// Version and the flags R (0x08) and E (0x04).
    pub const FLAGS: usize = 14;
    /// AoE error code.
    pub const ERROR: usize = 15;
    /// Shelf.
    pub const SHELF: Range<usize> = 16..18;
    /// Slot.
    pub const SLOT: usize = 18;
    /// AoE command.
    pub const COMMAND: usize = 19;
    /// Tag.
    pub const TAG: Range<usize> = 20..24;
    /// ATA Error register of an answer.
    pub const ATA_ERROR: usize = 25;
    /// ATA Status register of an answer.
    pub const ATA_STATUS: usize = 27;
    /// Where ATA data begins.
    pub const DATA: usize = super::HEADROOM;
}

/// Bytes of frames that wait to be looked at, at the most.
const RECEIVE_BUFFER: usize = 16 << 20;

/// How often a scripted target looks whether it is to stop.
const ATTENTION: Duration = Duration::from_millis(20);

/// Raw frames into and out of a host's interface.
pub struct Wire {
    port: Port,
    ear: OwnedFd,
    mac: MacAddr,
}

impl Wire {
    /// Opens the interface of a host.
    pub fn open(host: Host<'_>) -> Wire {
        let namespace = Path::new("/run/netns").join(&host.host.namespace);
        let open = move || {
            let namespace = File::open(namespace).expect("the namespace of a host");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering a host's namespace");
            let interfaces = ethernet_interfaces().expect("the interfaces of a host");
            let interface = interfaces.into_iter().find(|one| one.name == INTERFACE).expect("a host's interface");
            // The port only sends. What a test wants to hear passes no filter: all AoE frames, whoever they are for.
            let port = Port::open(&interface, &Filter::Initiator, 1).expect("a port on a host's interface");
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let ear = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).expect("a raw socket");
            setsockopt(&ear, sockopt::RcvBufForce, &RECEIVE_BUFFER).expect("a receive buffer");
            Wire { port, ear, mac: interface.mac }
        };
        spawn(open).join().expect("opening a wire")
    }

    /// The address of the host's interface.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Sends frames, in order, whatever is in them.
    pub fn send(&mut self, frames: &[Vec<u8>]) {
        let began = Instant::now();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let mut left = &frames[..];
        while !left.is_empty() {
            let sent = self.port.send(&left[..left.len().min(SEND_BATCH)]).expect("sending frames");
            left = &left[sent..];
            if sent == 0 {
                assert!(began.elapsed() < PATIENCE, "the wire takes no frames");
                sleep(TICK);
            }
        }
    }

    /// The next AoE frame that came in from the wire, whoever it is for; `None` when none comes in time.
    pub fn receive(&self, patience: Duration) -> Option<Vec<u8>> {
        let began = Instant::now();
        let mut frame = vec![0; 1 << 16];
        loop {
            let mut parts = [IoSliceMut::new(&mut frame)];
            if let Ok(message) = recvmsg::<LinkAddr>(self.ear.as_raw_fd(), &mut parts, None, MsgFlags::empty()) {
                let came_in = message.address.is_some_and(|address| address.pkttype() != libc::PACKET_OUTGOING);
                let length = message.bytes;
                if came_in && frame.get(field::ETHERTYPE) == Some(&ETHERTYPE_AOE.to_be_bytes()) {
                    frame.truncate(length);
                    return Some(frame);
                }
                continue;
            }
            let left = PollTimeout::try_from(patience.saturating_sub(began.elapsed())).expect("a short wait");
            if left == PollTimeout::ZERO {
                return None;
            }
            let _ = poll(&mut [PollFd::new(self.ear.as_fd(), PollFlags::POLLIN)], left);
        }
    }
}

/// A request as it goes on the wire, not padded.
pub fn request(from: MacAddr, to: MacAddr, address: Address, command: Command, tag: u32, body: &[u8]) -> Vec<u8> {
    let header = HeaderRepr { version: VERSION, response: false, error: None, address, command, tag };
    frame(from, to, &header, body)
}

/// The body of an ATA request.
pub fn ata(flags: AtaFlags, command: u8, feature: u8, lba: u64, count: u8, data: &[u8]) -> Vec<u8> {
    let mut body = vec![0; AtaRepr::WIRE_LEN];
    AtaRepr { flags, feature, count, command, registers: lba }.emit(&mut body);
    body.extend(data);
    body
}

/// The body of a config message.
pub fn config(repr: &ConfigRepr<'_>) -> Vec<u8> {
    let mut body = vec![0; repr.wire_len()];
    repr.emit(&mut body);
    body
}

/// An unasked config answer: what a target says when it comes up.
pub fn advert(from: MacAddr, address: Address, string: &[u8]) -> Vec<u8> {
    let header =
        HeaderRepr { version: VERSION, response: true, error: None, address, command: Command::Config, tag: 0 };
    let repr = ConfigRepr::answer(BUFFERS, FIRMWARE, SECTORS, ConfigCommand::Read, string);
    frame(from, BROADCAST, &header, &config(&repr))
}

fn frame(from: MacAddr, to: MacAddr, header: &HeaderRepr, body: &[u8]) -> Vec<u8> {
    let ethernet = EthernetRepr { destination: to, source: from, vlan: None };
    let mut frame = vec![0; field::DATA - AtaRepr::WIRE_LEN + body.len()];
    Frame::emit_headers(&ethernet, header, &mut frame).copy_from_slice(body);
    frame
}

/// What a scripted target says of itself, unless its script changes it.
const BUFFERS: u16 = 16;
const FIRMWARE: u16 = 1;
const SECTORS: u8 = 2;

/// What a scripted target is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Its config string.
    Config,
    /// What its disk is.
    Identify,
    /// The sectors from this one on.
    Read(u64),
    /// To store sectors from this one on.
    Write(u64),
    /// Anything else.
    Other,
}

impl Question {
    /// Whether it is about the disk's content.
    pub fn is_data(self) -> bool {
        matches!(self, Self::Read(_) | Self::Write(_))
    }
}

/// An AoE target in the test's process. It works out the right answer to each request to its address; its script makes
/// of that what is sent.
pub struct ScriptedTarget {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<u8>>>,
}

impl ScriptedTarget {
    /// Serves a disk of these bytes on a host. The script gets each question with its right answer, and returns the
    /// frames to send instead.
    pub fn start(
        host: Host<'_>,
        address: Address,
        mut disk: Vec<u8>,
        mut script: impl FnMut(Question, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        assert!(disk.len().is_multiple_of(SECTOR), "a disk has whole sectors");
        let mut wire = Wire::open(host);
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stopped);
        let thread = spawn(move || {
            while !is_stopped.load(Ordering::Relaxed) {
                let Some(bytes) = wire.receive(ATTENTION) else { continue };
                let Ok(frame) = Frame::parse(&bytes) else { continue };
                if frame.header.response || !frame.header.address.reaches(address) {
                    continue;
                }
                if let Some((question, right)) = answer(wire.mac(), address, &mut disk, &frame) {
                    wire.send(&script(question, right));
                }
            }
            disk
        });
        Self { stopped, thread: Some(thread) }
    }

    /// Ends it and returns what is on its disk.
    pub fn stop(mut self) -> Vec<u8> {
        self.stopped.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("a target is stopped once");
        thread.join().expect("a script without mistakes")
    }
}

impl Drop for ScriptedTarget {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed; the test fails by what it misses.
            let _ = thread.join();
        }
    }
}

/// What a disk of so many sectors says of itself.
pub fn identify(sectors: u64) -> Identify {
    Identify {
        sectors,
        serial: "SCRIPTED".into(),
        model: "Scripted disk".into(),
        flush: true,
        flush_ext: true,
        ..Identify::default()
    }
}

/// The right answer to a request.
fn answer(mac: MacAddr, address: Address, disk: &mut [u8], asked: &Frame<'_>) -> Option<(Question, Vec<u8>)> {
    let (question, body) = match asked.header.command {
        Command::Config => {
            let repr = ConfigRepr::answer(BUFFERS, FIRMWARE, SECTORS, ConfigCommand::Read, b"");
            (Question::Config, config(&repr))
        }
        Command::Ata => {
            let (ata, sent) = AtaRepr::parse(asked.body).ok()?;
            answer_ata(disk, &ata, sent)
        }
        _ => return None,
    };
    let header = HeaderRepr { response: true, address, ..asked.header };
    let mut answer = frame(mac, asked.ethernet.source, &header, &body);
    answer.resize(answer.len().max(MIN_FRAME), 0);
    Some((question, answer))
}

fn answer_ata(disk: &mut [u8], asked: &AtaRepr, sent: &[u8]) -> (Question, Vec<u8>) {
    let lba = asked.lba();
    let bytes = usize::from(asked.count) * SECTOR;
    let start = usize::try_from(lba).ok().and_then(|lba| lba.checked_mul(SECTOR)).unwrap_or(usize::MAX);
    let sectors = disk.len() / SECTOR;
    let place = start.checked_add(bytes).and_then(|end| disk.get_mut(start..end));
    let (question, data) = match asked.command {
        command::IDENTIFY_DEVICE => (Question::Identify, Some(identify(sectors as u64).emit().to_vec())),
        command::READ_SECTORS_EXT | command::READ_SECTORS => (Question::Read(lba), place.map(|place| place.to_vec())),
        command::WRITE_SECTORS_EXT | command::WRITE_SECTORS => {
            let stored = place.zip(sent.get(..bytes)).map(|(place, sent)| place.copy_from_slice(sent));
            (Question::Write(lba), stored.map(|()| Vec::new()))
        }
        _ => (Question::Other, Some(Vec::new())),
    };
    let (status, error) = match data {
        Some(_) => (Status::DRDY, AtaError::empty()),
        None => (Status::DRDY | Status::ERR, AtaError::ID_NOT_FOUND),
    };
    let registers = AtaRepr { feature: error.bits(), command: status.bits(), count: 0, ..*asked };
    let mut body = vec![0; AtaRepr::WIRE_LEN];
    registers.emit(&mut body);
    body.extend(data.unwrap_or_default());
    (question, body)
}
