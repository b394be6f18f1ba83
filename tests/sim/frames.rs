//! Frames of those in the simulated world that are not our engines.

use aoe_common::addr::Address;
use aoe_common::frame::MIN_FRAME;
use aoe_common::wire::{AtaRepr, Command, ConfigRepr, EthernetRepr, Frame, HeaderRepr, MacAddr, VERSION};

/// Who sends to whom, about what.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// The sender.
    pub source: MacAddr,
    /// The receiver.
    pub destination: MacAddr,
    /// The export.
    pub address: Address,
    /// The tag.
    pub tag: u32,
    /// Whether this is an answer.
    pub response: bool,
}

/// A frame whose body of `body_len` bytes is written by `fill`.
pub fn frame(
    envelope: &Envelope,
    command: Command,
    body_len: usize,
    fill: impl FnOnce(&mut [u8]) -> &mut [u8],
) -> Vec<u8> {
    let ethernet = EthernetRepr { destination: envelope.destination, source: envelope.source, vlan: None };
    let header = HeaderRepr {
        version: VERSION,
        response: envelope.response,
        error: None,
        address: envelope.address,
        command,
        tag: envelope.tag,
    };
    let len = ethernet.wire_len() + HeaderRepr::WIRE_LEN + body_len;
    let mut out = vec![0; len.max(MIN_FRAME)];
    let body = Frame::emit_headers(&ethernet, &header, &mut out);
    fill(&mut body[..body_len]);
    out
}

/// An ATA message with this data.
pub fn ata(envelope: &Envelope, ata: &AtaRepr, data: &[u8]) -> Vec<u8> {
    frame(envelope, Command::Ata, AtaRepr::WIRE_LEN + data.len(), |body| {
        let out = ata.emit(body);
        out.copy_from_slice(data);
        out
    })
}

/// A config message without a string.
pub fn config(envelope: &Envelope, config: &ConfigRepr<'_>) -> Vec<u8> {
    frame(envelope, Command::Config, config.wire_len(), |body| config.emit(body))
}
