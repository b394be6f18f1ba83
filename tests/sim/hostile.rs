//! A stranger on the segment, who sends what cannot be told from a mistake: requests that may not work, answers nobody
//! asked for, and bytes that mean nothing. It does not pretend to be somebody else, and writes nothing: who may
//! send at all can do that on any AoE segment.

use aoe_common::addr::Address;
use aoe_common::ata::{Status, command};
use aoe_common::frame::SECTOR;
use aoe_common::wire::{
    AtaFlags, AtaRepr, BROADCAST, Command, ConfigCommand, ConfigRepr, ETHERTYPE_AOE, MacAddr, MaskCommand, MaskRepr,
    ReserveCommand, ReserveRepr,
};
use fastrand::Rng;

use super::frames::{self, Envelope};

/// Frames of others it remembers, to send parts of them again.
const OVERHEARD_MAX: usize = 32;

/// The stranger.
#[derive(Debug)]
pub struct Hostile {
    host: u8,
    overheard: Vec<Vec<u8>>,
}

impl Hostile {
    /// A stranger whose MAC addresses have this fifth byte.
    pub fn new(host: u8) -> Self {
        Self { host, overheard: Vec::new() }
    }

    /// A frame of somebody else passes.
    pub fn overhear(&mut self, rng: &mut Rng, frame: &[u8]) {
        if self.overheard.len() < OVERHEARD_MAX {
            self.overheard.push(frame.to_vec());
        } else {
            self.overheard[rng.usize(..OVERHEARD_MAX)] = frame.to_vec();
        }
    }

    /// The next frame.
    pub fn frame(&mut self, rng: &mut Rng, victims: &[MacAddr], address: Address) -> Vec<u8> {
        let source = MacAddr(2, 0, 0, 0, self.host, rng.u8(..40));
        let destination = if rng.u8(..4) == 0 { BROADCAST } else { victims[rng.usize(..victims.len())] };
        let address = if rng.u8(..8) == 0 { Address::new(0xffff, 0xff) } else { address };
        let envelope = Envelope { source, destination, address, tag: rng.u32(..), response: false };
        match rng.u8(..8) {
            0 => self.garbage(rng, &envelope),
            1 | 2 => self.copy(rng, &envelope),
            3 => self.answer(rng, &Envelope { response: true, ..envelope }),
            4 => frames::config(&envelope, &ConfigRepr::request(ConfigCommand::Read, b"")),
            5 => {
                let read = MaskRepr { command: MaskCommand::Read, error: None, directive_count: 0 };
                frames::frame(&envelope, Command::Mask, MaskRepr::FIXED_LEN, |body| read.emit([], body))
            }
            6 => {
                let read = ReserveRepr { command: ReserveCommand::Read, mac_count: 0 };
                frames::frame(&envelope, Command::Reserve, ReserveRepr::FIXED_LEN, |body| read.emit([], body))
            }
            _ => {
                let commands = [command::READ_SECTORS_EXT, command::IDENTIFY_DEVICE, command::FLUSH_CACHE_EXT, 0xb0];
                let command = commands[rng.usize(..commands.len())];
                let repr = AtaRepr {
                    flags: AtaFlags::EXTENDED,
                    feature: rng.u8(..),
                    count: rng.u8(..),
                    command,
                    registers: rng.u64(..1 << 48) >> rng.u32(..48),
                };
                frames::ata(&envelope, &repr, &[])
            }
        }
    }

    /// The right addresses, and nothing else.
    fn garbage(&self, rng: &mut Rng, envelope: &Envelope) -> Vec<u8> {
        let mut frame = vec![0; rng.usize(14..200)];
        rng.fill(&mut frame);
        frame[..6].copy_from_slice(&envelope.destination.octets());
        frame[6..12].copy_from_slice(&envelope.source.octets());
        frame[12..14].copy_from_slice(&ETHERTYPE_AOE.to_be_bytes());
        // Whatever the rest says, it says it in no version there is, so that it writes nothing by chance.
        if let Some(version) = frame.get_mut(14) {
            *version |= 0xf0;
        }
        frame
    }

    /// Somebody else's frame under a name of its own, cut short, or damaged. Never one that writes.
    fn copy(&self, rng: &mut Rng, envelope: &Envelope) -> Vec<u8> {
        let Some(mut frame) = self.overheard.get(rng.usize(..OVERHEARD_MAX)).cloned() else {
            return self.garbage(rng, envelope);
        };
        frame[6..12].copy_from_slice(&envelope.source.octets());
        let is_request = frame.get(14).is_none_or(|flags| flags & 0x08 == 0);
        if is_request {
            // What is left of it has no ATA command or edit in it.
            frame.truncate(rng.usize(14..25));
        } else {
            let at = rng.usize(18..frame.len().max(19));
            if let Some(byte) = frame.get_mut(at) {
                *byte ^= 1 << rng.u8(..8);
            }
        }
        frame
    }

    /// An answer nobody asked for, or one that says that the export is here.
    fn answer(&self, rng: &mut Rng, envelope: &Envelope) -> Vec<u8> {
        if rng.bool() {
            let config = ConfigRepr::answer(rng.u16(..), 0, rng.u8(..), ConfigCommand::Read, b"");
            return frames::config(envelope, &config);
        }
        let flags = AtaFlags::EXTENDED;
        let repr = AtaRepr { flags, feature: 0, count: 1, command: Status::DRDY.bits(), registers: 0 };
        let tag = self.overheard.get(rng.usize(..OVERHEARD_MAX)).and_then(|frame| frame.get(20..24)?.try_into().ok());
        let envelope = Envelope { tag: tag.map_or(envelope.tag, u32::from_be_bytes), ..*envelope };
        frames::ata(&envelope, &repr, &[0xee; SECTOR])
    }
}
