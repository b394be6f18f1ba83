//! Everything that parses bytes of the wire: no panic, and what parses survives being written and read again.

use aoe_common::ata::{Identify, TrimRange, encode_trim, log_page, trim_ranges};
use aoe_common::frame::SECTOR;
use aoe_common::wire::{AtaRepr, ConfigRepr, EthernetRepr, Frame, HeaderRepr, MaskRepr, ReserveRepr, VendorRepr};

use super::Bytes;

/// Reads the input as a frame, as the body of every message, and as every block of ATA data.
pub fn run(data: &[u8]) {
    frame(data);
    let body = Frame::parse(data).map_or(data, |frame| frame.body);
    ata(body);
    config(body);
    mask(body);
    reserve(body);
    vendor(body);
    identify(data);
    trim(data);
}

fn frame(data: &[u8]) {
    let Ok(frame) = Frame::parse(data) else { return };
    let mut out = vec![0xa5; frame.ethernet.wire_len() + HeaderRepr::WIRE_LEN + frame.body.len()];
    Frame::emit_headers(&frame.ethernet, &frame.header, &mut out).copy_from_slice(frame.body);
    assert_eq!(Frame::parse(&out), Ok(frame));
    assert_eq!(out.len(), data.len(), "a frame is its headers and its body");
    let (ethernet, rest) = EthernetRepr::parse(data).expect("the frame has one");
    assert_eq!((ethernet, rest.len()), (frame.ethernet, HeaderRepr::WIRE_LEN + frame.body.len()));
    let address = frame.header.address;
    assert!(address.reaches(address));
    assert_eq!(address.to_string().parse(), Ok(address), "an address can be typed as it is shown");
}

fn ata(body: &[u8]) {
    let Ok((repr, data)) = AtaRepr::parse(body) else { return };
    assert!(repr.lba() < 1 << 48 && data.len() == body.len() - AtaRepr::WIRE_LEN);
    let mut out = [0xa5; AtaRepr::WIRE_LEN];
    repr.emit(&mut out);
    assert_eq!(AtaRepr::parse(&out), Ok((repr, &[][..])));
    assert_eq!(out[..10], body[..10], "all but the reserved bytes survive");
}

fn config(body: &[u8]) {
    for response in [false, true] {
        let Ok(repr) = ConfigRepr::parse(body, response) else { continue };
        let mut out = vec![0xa5; repr.wire_len()];
        assert!(repr.emit(&mut out).is_empty());
        assert_eq!(ConfigRepr::parse(&out, response), Ok(repr));
    }
}

fn mask(body: &[u8]) {
    let Ok((repr, directives)) = MaskRepr::parse(body) else { return };
    let expected = if repr.error.is_some() { 0 } else { usize::from(repr.directive_count) };
    assert_eq!(directives.clone().count(), expected);
    let mut out = vec![0xa5; MaskRepr::FIXED_LEN + expected * MaskRepr::DIRECTIVE_LEN];
    assert!(repr.emit(directives.clone(), &mut out).is_empty());
    let (again, same) = MaskRepr::parse(&out).expect("it was written whole");
    assert!(again == repr && same.eq(directives));
}

fn reserve(body: &[u8]) {
    let Ok((repr, macs)) = ReserveRepr::parse(body) else { return };
    assert_eq!(macs.clone().count(), usize::from(repr.mac_count));
    let mut out = vec![0xa5; ReserveRepr::FIXED_LEN + usize::from(repr.mac_count) * ReserveRepr::MAC_LEN];
    assert!(repr.emit(macs.clone(), &mut out).is_empty());
    assert_eq!(out, body[..out.len()]);
}

fn vendor(body: &[u8]) {
    let Some((code, argument)) = body.split_first() else { return };
    let Some(repr) = VendorRepr::parse(*code, argument) else { return };
    let mut out = vec![0xa5; repr.wire_len()];
    assert!(repr.emit(&mut out).is_empty());
    assert_eq!(VendorRepr::parse(*code, &out), Some(repr));
}

/// A short input stands for a block of zeros that begins with it. The block is read as it is, and with the checksum
/// put right.
fn identify(data: &[u8]) {
    let mut block = [0; SECTOR];
    let len = data.len().min(SECTOR);
    block[..len].copy_from_slice(&data[..len]);
    let _ = Identify::parse(data);
    for sealed in [false, true] {
        if sealed {
            block[510] = 0xa5;
            block[511] = block[..511].iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)).wrapping_neg();
        }
        let Ok(identify) = Identify::parse(&block) else { continue };
        assert!((1..=1 << 48).contains(&identify.sectors));
        assert!(identify.serial.len() <= 20 && identify.firmware.len() <= 8 && identify.model.len() <= 40);
        // Only a target of ours says that it takes no writes, and it makes the promise that it is known by.
        let identify = Identify { read_only: identify.read_only && identify.exactly_once, ..identify };
        assert_eq!(Identify::parse(&identify.emit()), Ok(identify.clone()), "what was understood can be said again");
        let mut bytes = Bytes::new(&data[len / 2..]);
        let (log, page) = (bytes.u8(), bytes.u16());
        let known = log_page(log, page, &identify).is_some();
        assert!(!known || matches!(log, 0x00 | 0x30), "there are two logs");
    }
}

fn trim(data: &[u8]) {
    for TrimRange { lba, sectors } in trim_ranges(data) {
        assert!(lba < 1 << 48 && sectors > 0);
    }
    assert!(trim_ranges(data).count() <= data.len() / 8);
    let mut bytes = Bytes::new(data);
    let lba = bytes.u64() >> 16;
    let sectors = (bytes.u64() >> (16 + bytes.below(48))).min((1 << 48) - lba);
    let mut block = [0xa5; 2 * SECTOR];
    let done = encode_trim(lba, sectors, &mut block);
    assert!(done <= sectors);
    let mut next = lba;
    for range in trim_ranges(&block) {
        assert_eq!(range.lba, next, "ranges follow each other");
        next += u64::from(range.sectors);
    }
    assert_eq!(next, lba + done);
}
