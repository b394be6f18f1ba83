//! The frames the target sends.

use aoe_common::ata::{AtaError, Status};
use aoe_common::frame::{FrameBuffer, HEADROOM, MIN_FRAME, SECTOR};
use aoe_common::wire::{
    AtaRepr, BROADCAST, CONFIG_STRING_MAX, Command, ConfigCommand, ConfigRepr, DirectiveCommand, DirectiveRepr,
    ErrorCode, EthernetRepr, Frame, HeaderRepr, MaskCommand, MaskError, MaskRepr, ReserveCommand, ReserveRepr, VERSION,
};

use super::ata::Failure;
use super::repeats::Outcome;
use super::{FIRMWARE, PortId, ReplyTo, Request, Target, Transmit, Work};

impl Target {
    /// Sends an answer of `body_len` bytes behind the headers, padded with zeros to a whole frame.
    fn answer(&mut self, to: &ReplyTo, error: Option<ErrorCode>, body_len: usize, emit: impl FnOnce(&mut [u8])) {
        let Some(mut buffer) = self.pool.take() else {
            self.counters.no_buffer += 1;
            return;
        };
        buffer.reset((HEADROOM - AtaRepr::WIRE_LEN + body_len).max(MIN_FRAME));
        self.send(to, error, buffer, emit);
    }

    /// Writes the headers and the body into a buffer whose length is set and queues it.
    fn send(&mut self, to: &ReplyTo, error: Option<ErrorCode>, mut buffer: FrameBuffer, emit: impl FnOnce(&mut [u8])) {
        let Some(info) = self.ports.get(&to.port) else {
            self.pool.give(buffer);
            return;
        };
        let ethernet = EthernetRepr { destination: to.station, source: info.mac, vlan: None };
        let header = HeaderRepr {
            version: VERSION,
            response: true,
            error,
            address: to.address,
            command: to.command,
            tag: to.tag,
        };
        emit(Frame::emit_headers(&ethernet, &header, buffer.frame_mut()));
        self.outbox.push_back(Transmit { port: to.port, buffer });
    }

    pub(super) fn answer_registers(&mut self, to: &ReplyTo, error: Option<ErrorCode>, ata: &AtaRepr) {
        self.answer(to, error, AtaRepr::WIRE_LEN, |body| {
            ata.emit(body);
        });
    }

    pub(super) fn answer_failure(&mut self, index: u32, to: &ReplyTo, ata: &AtaRepr, failure: Failure) {
        self.exports[index as usize].counters.failures += 1;
        self.answer_registers(to, None, &failed(ata, failure));
    }

    pub(super) fn answer_block(&mut self, to: &ReplyTo, ata: &AtaRepr, block: &[u8; SECTOR]) {
        self.answer(to, None, AtaRepr::WIRE_LEN + SECTOR, |body| {
            succeeded(ata).emit(body)[..SECTOR].copy_from_slice(block);
        });
    }

    /// Answers a request that went to the disk, in the buffer it used there.
    pub(super) fn answer_request(&mut self, request: Request, outcome: Outcome) {
        let mut buffer = request.buffer.expect("an ended request holds its buffer");
        if !self.exports[request.export as usize].access.hears(request.to.station) {
            self.pool.give(buffer);
            return;
        }
        let succeeded = !Status::from_bits_retain(outcome.status).failed();
        match request.work {
            Work::Read { sectors, verify: false } if succeeded => {
                // The data is in place, and longer than the shortest frame.
                buffer.set_len(HEADROOM + usize::from(sectors) * SECTOR);
            }
            _ => buffer.reset(MIN_FRAME),
        }
        self.send(&request.to, None, buffer, |body| {
            ended(&request.ata, outcome).emit(body);
        });
    }

    /// Repeats the request's arguments, as vblade does for what it does not know.
    pub(super) fn answer_echo(&mut self, to: &ReplyTo, error: ErrorCode, body: &[u8]) {
        let body = &body[..body.len().min(CONFIG_STRING_MAX)];
        self.answer(to, Some(error), body.len(), |out| out[..body.len()].copy_from_slice(body));
    }

    pub(super) fn answer_config(&mut self, to: &ReplyTo, index: u32, command: ConfigCommand, error: Option<ErrorCode>) {
        let Some(info) = self.ports.get(&to.port) else { return };
        let export = &self.exports[index as usize];
        let string = export.config_string.clone();
        let sectors = export.advertised_sectors(info.frame_sectors());
        let repr = ConfigRepr::answer(export.config.buffers, FIRMWARE, sectors, command, &string);
        self.answer(to, error, repr.wire_len(), |body| {
            repr.emit(body);
        });
    }

    pub(super) fn answer_mask(&mut self, to: &ReplyTo, index: u32, command: MaskCommand) {
        let mask = self.exports[index as usize].access.mask.clone();
        let repr = MaskRepr { command, error: None, directive_count: mask.len() as u8 };
        let entries = mask.iter().map(|mac| DirectiveRepr { command: DirectiveCommand::None, mac: *mac });
        self.answer(to, None, MaskRepr::FIXED_LEN + mask.len() * MaskRepr::DIRECTIVE_LEN, |body| {
            repr.emit(entries, body);
        });
    }

    pub(super) fn answer_mask_failure(&mut self, to: &ReplyTo, error: MaskError, at: u8) {
        let repr = MaskRepr { command: MaskCommand::Edit, error: Some(error), directive_count: at };
        self.answer(to, None, MaskRepr::FIXED_LEN, |body| {
            repr.emit([], body);
        });
    }

    pub(super) fn answer_reservation(
        &mut self,
        to: &ReplyTo,
        index: u32,
        command: ReserveCommand,
        error: Option<ErrorCode>,
    ) {
        let macs = self.exports[index as usize].access.reservation.clone();
        let repr = ReserveRepr { command, mac_count: macs.len() as u8 };
        self.answer(to, error, ReserveRepr::FIXED_LEN + macs.len() * ReserveRepr::MAC_LEN, |body| {
            repr.emit(macs, body);
        });
    }

    /// Tells the stations on a port that an export is there: an unasked config answer with tag 0, to everybody
    /// or, when there is a list, to each station on it. `false`: there are not enough buffers for all of them.
    pub(super) fn announce(&mut self, port: PortId, index: u32) -> bool {
        let Some(info) = self.ports.get(&port) else { return true };
        if info.frame_sectors() == 0 {
            return true;
        }
        let export = &self.exports[index as usize];
        let address = export.config.address;
        let stations = export.access.announce_to().unwrap_or_else(|| vec![BROADCAST]);
        if self.pool.available() < stations.len().min(self.config.buffers) {
            return false;
        }
        for station in stations {
            let to = ReplyTo { port, station, address, command: Command::Config, tag: 0 };
            self.answer_config(&to, index, ConfigCommand::Read, None);
        }
        true
    }
}

/// Registers of an answer to a request that ended so. On success nothing remains to be transferred.
pub(super) fn ended(ata: &AtaRepr, outcome: Outcome) -> AtaRepr {
    let failed = Status::from_bits_retain(outcome.status).failed();
    AtaRepr { feature: outcome.error, command: outcome.status, count: if failed { ata.count } else { 0 }, ..*ata }
}

pub(super) fn succeeded(ata: &AtaRepr) -> AtaRepr {
    ended(ata, Outcome { status: Status::DRDY.bits(), error: AtaError::empty().bits() })
}

pub(super) fn failed(ata: &AtaRepr, failure: Failure) -> AtaRepr {
    ended(ata, Outcome { status: failure.status.bits(), error: failure.error.bits() })
}
