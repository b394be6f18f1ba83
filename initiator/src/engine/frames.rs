//! The frames an initiator sends.

use aoe_common::addr::Address;
use aoe_common::ata::{LOG_STATION_IDENTITY, command};
use aoe_common::frame::{HEADROOM, MAX_SECTORS, MIN_FRAME, SECTOR};
use aoe_common::wire::{
    AtaFlags, AtaRepr, BROADCAST, Command, ConfigCommand, ConfigRepr, DirectiveRepr, EthernetRepr, Frame, HeaderRepr,
    MacAddr, MaskCommand, MaskRepr, ReserveCommand, ReserveRepr, VERSION,
};

/// The longest frame an engine writes, in bytes.
pub const FRAME_MAX: usize = HEADROOM + MAX_SECTORS * SECTOR;

/// Who sends a request to whom.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// Our address on the port.
    pub source: MacAddr,
    /// The target's address.
    pub destination: MacAddr,
    /// The device.
    pub address: Address,
    /// The request's tag.
    pub tag: u32,
}

impl Envelope {
    fn emit<'a>(&self, command: Command, out: &'a mut [u8]) -> &'a mut [u8] {
        let ethernet = EthernetRepr { destination: self.destination, source: self.source, vlan: None };
        let header = HeaderRepr {
            version: VERSION,
            response: false,
            error: None,
            address: self.address,
            command,
            tag: self.tag,
        };
        Frame::emit_headers(&ethernet, &header, out)
    }
}

/// Asks everybody on a port for their config string. Writes a frame and returns its length.
pub fn config_query(source: MacAddr, address: Address, tag: u32, out: &mut [u8]) -> usize {
    let envelope = Envelope { source, destination: BROADCAST, address, tag };
    config_request(&envelope, ConfigCommand::Read, b"", out)
}

/// Asks for a device's config string, compares it or sets it. Writes a frame and returns its length.
pub fn config_request(envelope: &Envelope, command: ConfigCommand, string: &[u8], out: &mut [u8]) -> usize {
    let request = ConfigRepr::request(command, string);
    let len = (HEADROOM - AtaRepr::WIRE_LEN + request.wire_len()).max(MIN_FRAME);
    out[..len].fill(0);
    request.emit(envelope.emit(Command::Config, out));
    len
}

/// Asks a target for a device's mask list, or to edit it. Writes a frame and returns its length.
pub fn mask_request(envelope: &Envelope, command: MaskCommand, directives: &[DirectiveRepr], out: &mut [u8]) -> usize {
    let body_len = MaskRepr::FIXED_LEN + directives.len() * MaskRepr::DIRECTIVE_LEN;
    let len = (HEADROOM - AtaRepr::WIRE_LEN + body_len).max(MIN_FRAME);
    out[..len].fill(0);
    let directive_count = u8::try_from(directives.len()).expect("no more directives than a frame can count");
    let repr = MaskRepr { command, error: None, directive_count };
    repr.emit(directives.iter().copied(), envelope.emit(Command::Mask, out));
    len
}

/// Asks a target for whom a device is reserved, or reserves it. Writes a frame and returns its length.
pub fn reserve_request(envelope: &Envelope, command: ReserveCommand, stations: &[MacAddr], out: &mut [u8]) -> usize {
    let body_len = ReserveRepr::FIXED_LEN + stations.len() * ReserveRepr::MAC_LEN;
    let len = (HEADROOM - AtaRepr::WIRE_LEN + body_len).max(MIN_FRAME);
    out[..len].fill(0);
    let mac_count = u8::try_from(stations.len()).expect("no more stations than a frame can count");
    let repr = ReserveRepr { command, mac_count };
    repr.emit(stations.iter().copied(), envelope.emit(Command::Reserve, out));
    len
}

/// Asks a target what its disk is. Writes a frame and returns its length.
pub fn identify(envelope: &Envelope, out: &mut [u8]) -> usize {
    // The Device register as Linux sends it.
    let ata = AtaRepr {
        flags: AtaFlags::empty(),
        feature: 0,
        count: 1,
        command: command::IDENTIFY_DEVICE,
        registers: 0xa0 << 24,
    };
    ata_request(envelope, &ata, 0, |_| {}, out)
}

/// Tells a target who we are. Writes a frame and returns its length.
pub fn register(envelope: &Envelope, identity: [u8; 16], out: &mut [u8]) -> usize {
    let ata = AtaRepr {
        flags: AtaFlags::EXTENDED | AtaFlags::WRITE,
        feature: 0,
        count: 1,
        command: command::WRITE_LOG_EXT,
        registers: u64::from(LOG_STATION_IDENTITY),
    };
    let fill = |data: &mut [u8]| {
        data.fill(0);
        data[..identity.len()].copy_from_slice(&identity);
    };
    ata_request(envelope, &ata, SECTOR, fill, out)
}

/// An ATA request with `data_len` bytes of data. Writes a frame and returns its length.
pub fn ata_request(
    envelope: &Envelope,
    ata: &AtaRepr,
    data_len: usize,
    fill: impl FnOnce(&mut [u8]),
    out: &mut [u8],
) -> usize {
    let len = (HEADROOM + data_len).max(MIN_FRAME);
    if data_len < MIN_FRAME - HEADROOM {
        out[HEADROOM..MIN_FRAME].fill(0);
    }
    let data = ata.emit(envelope.emit(Command::Ata, out));
    fill(&mut data[..data_len]);
    len
}
