//! A target in the simulated world: our engine, or one that behaves like vblade.

use std::collections::VecDeque;

use aoe_common::addr::Address;
use aoe_common::ata::{AtaError, Identify, Status, command};
use aoe_common::frame::{FrameBuffer, SECTOR};
use aoe_common::time::Instant;
use aoe_common::wire::{AtaFlags, AtaRepr, Command, ConfigCommand, ConfigRepr, Frame};
use aoe_target::engine::operation::{DiskCompletion, DiskId, DiskOperation, DiskOperationKind, OperationId};
use aoe_target::engine::{PortId, PortInfo, Target};

use super::frames::{self, Envelope};

/// What the world asks of a target; the verbs are those of [`Target`].
pub enum Server {
    /// Ours.
    Ours(Box<Target>),
    /// One that keeps no memory.
    Forgetful(Box<Forgetful>),
}

impl Server {
    /// See [`Target::set_port`].
    pub fn set_port(&mut self, port: PortId, info: Option<PortInfo>) {
        match self {
            Self::Ours(target) => target.set_port(port, info),
            Self::Forgetful(forgetful) => forgetful.ports.retain(|(known, _)| *known != port),
        }
        if let (Self::Forgetful(forgetful), Some(info)) = (self, info) {
            forgetful.ports.push((port, info));
        }
    }

    /// See [`Target::has_room`].
    pub fn has_room(&self) -> bool {
        match self {
            Self::Ours(target) => target.has_room(),
            Self::Forgetful(forgetful) => forgetful.waiting.len() < WAITING_MAX,
        }
    }

    /// See [`Target::handle_frame`].
    pub fn handle_frame(&mut self, now: Instant, port: PortId, bytes: &[u8]) {
        match self {
            Self::Ours(target) => target.handle_frame(now, port, bytes),
            Self::Forgetful(forgetful) => forgetful.handle_frame(port, bytes),
        }
    }

    /// See [`Target::handle_completion`].
    pub fn handle_completion(&mut self, now: Instant, completion: DiskCompletion) {
        match self {
            Self::Ours(target) => target.handle_completion(now, completion),
            Self::Forgetful(forgetful) => forgetful.handle_completion(completion),
        }
    }

    /// See [`Target::poll_disk`].
    pub fn poll_disk(&mut self) -> Option<DiskOperation> {
        match self {
            Self::Ours(target) => target.poll_disk(),
            Self::Forgetful(forgetful) => forgetful.disk.take(),
        }
    }

    /// See [`Target::poll_transmit`].
    pub fn poll_transmit(&mut self) -> Option<(PortId, Vec<u8>)> {
        match self {
            Self::Ours(target) => {
                let transmit = target.poll_transmit()?;
                let frame = transmit.buffer.frame().to_vec();
                target.recycle(transmit.buffer);
                Some((transmit.port, frame))
            }
            Self::Forgetful(forgetful) => forgetful.out.pop_front(),
        }
    }

    /// Requests it still holds.
    pub fn holds(&self) -> usize {
        match self {
            Self::Ours(target) => target.in_flight(),
            Self::Forgetful(forgetful) => forgetful.waiting.len() + usize::from(forgetful.running.is_some()),
        }
    }
}

/// Requests that wait at a forgetful target.
const WAITING_MAX: usize = 16;

/// A target like vblade: one request at a time, in the order of arrival, each copy run; FLUSH does nothing, FLUSH EXT is
/// refused, and IDENTIFY promises nothing.
pub struct Forgetful {
    address: Address,
    sectors: u64,
    serial: String,
    ports: Vec<(PortId, PortInfo)>,
    waiting: VecDeque<(PortId, Vec<u8>)>,
    running: Option<(PortId, Vec<u8>)>,
    disk: Option<DiskOperation>,
    out: VecDeque<(PortId, Vec<u8>)>,
}

impl Forgetful {
    /// A target with one export.
    pub fn new(address: Address, sectors: u64, serial: &str) -> Self {
        Self {
            address,
            sectors,
            serial: serial.to_owned(),
            ports: Vec::new(),
            waiting: VecDeque::new(),
            running: None,
            disk: None,
            out: VecDeque::new(),
        }
    }

    fn handle_frame(&mut self, port: PortId, bytes: &[u8]) {
        let Some((_, info)) = self.ports.iter().find(|(known, _)| *known == port) else { return };
        let Ok(frame) = Frame::parse(bytes) else { return };
        let for_us = frame.ethernet.destination == info.mac || frame.ethernet.destination.0 & 1 != 0;
        let asked = frame.header.address;
        if for_us && !frame.header.response && (asked == self.address || asked.reaches(self.address)) {
            self.waiting.push_back((port, bytes.to_vec()));
            self.next();
        }
    }

    /// Runs what waits, up to the next one that goes to the disk.
    fn next(&mut self) {
        while self.running.is_none()
            && let Some((port, bytes)) = self.waiting.pop_front()
        {
            let Some((_, info)) = self.ports.iter().find(|(known, _)| *known == port).copied() else { continue };
            let frame = Frame::parse(&bytes).expect("checked when it came");
            let to = self.envelope(info, &frame);
            match frame.header.command {
                Command::Config => {
                    let sectors = info.frame_sectors();
                    let config = ConfigRepr::answer(16, 0, sectors, ConfigCommand::Read, b"");
                    self.out.push_back((port, frames::config(&to, &config)));
                }
                Command::Ata => {
                    let Ok((ata, data)) = AtaRepr::parse(frame.body) else { continue };
                    match self.operation(&ata, data) {
                        Ok(Some(operation)) => {
                            self.disk = Some(operation);
                            self.running = Some((port, bytes));
                        }
                        Ok(None) => self.answer(port, &to, &ata, true, &self.answer_data(&ata)),
                        Err(()) => self.answer(port, &to, &ata, false, &[]),
                    }
                }
                _ => {}
            }
        }
    }

    /// Of the answer to a request that came in by a port.
    fn envelope(&self, info: PortInfo, asked: &Frame<'_>) -> Envelope {
        Envelope {
            source: info.mac,
            destination: asked.ethernet.source,
            address: self.address,
            tag: asked.header.tag,
            response: true,
        }
    }

    fn answer_data(&self, ata: &AtaRepr) -> Vec<u8> {
        if ata.command != command::IDENTIFY_DEVICE {
            return Vec::new();
        }
        let identify =
            Identify { serial: self.serial.clone(), sectors: self.sectors, lba48: true, ..Identify::default() };
        identify.emit().to_vec()
    }

    fn answer(&mut self, port: PortId, to: &Envelope, ata: &AtaRepr, good: bool, data: &[u8]) {
        let (status, error) =
            if good { (Status::DRDY, 0) } else { (Status::DRDY | Status::ERR, AtaError::ABORT.bits()) };
        let repr = AtaRepr { command: status.bits(), feature: error, flags: ata.flags & AtaFlags::EXTENDED, ..*ata };
        self.out.push_back((port, frames::ata(to, &repr, data)));
    }

    /// `Ok(None)`: there is nothing to do. `Err`: it is refused.
    fn operation(&self, ata: &AtaRepr, data: &[u8]) -> Result<Option<DiskOperation>, ()> {
        let offset = ata.lba() * SECTOR as u64;
        let len = u32::from(ata.count) * SECTOR as u32;
        let inside = ata.count > 0 && ata.lba() + u64::from(ata.count) <= self.sectors;
        let mut buffer = FrameBuffer::new(usize::from(ata.count.max(1)));
        let kind = match ata.command {
            command::IDENTIFY_DEVICE | command::FLUSH_CACHE => return Ok(None),
            command::READ_SECTORS_EXT if inside => DiskOperationKind::Read { offset, len },
            command::WRITE_SECTORS_EXT if inside && data.len() >= len as usize => {
                buffer.payload_mut(len as usize).copy_from_slice(&data[..len as usize]);
                DiskOperationKind::Write { offset, len, durable: false }
            }
            _ => return Err(()),
        };
        Ok(Some(DiskOperation { id: OperationId(0), disk: DiskId(0), kind, buffer }))
    }

    fn handle_completion(&mut self, completion: DiskCompletion) {
        let (port, bytes) = self.running.take().expect("completions belong to requests");
        let frame = Frame::parse(&bytes).expect("checked when it came");
        let (ata, _) = AtaRepr::parse(frame.body).expect("checked before it ran");
        let bytes = if ata.command == command::READ_SECTORS_EXT { usize::from(ata.count) * SECTOR } else { 0 };
        let data = completion.buffer.payload(bytes).to_vec();
        if let Some((_, info)) = self.ports.iter().find(|(known, _)| *known == port).copied() {
            let to = self.envelope(info, &frame);
            self.answer(port, &to, &ata, completion.result.is_ok(), &data);
        }
        self.next();
    }
}
