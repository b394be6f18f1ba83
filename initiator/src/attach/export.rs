//! What a disk is to NBD clients.

use aoe_common::addr::Address;
use aoe_common::ata::Identify;
use aoe_common::frame::SECTOR;

use crate::nbd::{ExportInfo, TransmissionFlags};

/// The longest read or write of a client, in bytes.
const BLOCK_MAX: u32 = 32 << 20;
/// What suits a disk that does not tell its physical sectors, in bytes.
const BLOCK_PREFERRED: u32 = 4096;

/// Offers exactly what the disk can do: a flush that nobody carries out would be a lie.
pub(super) fn export(address: Address, disk: &Identify, read_only: bool, several_clients: bool) -> ExportInfo {
    let read_only = read_only || disk.read_only;
    let fua = can_flush(disk) && disk.fua && disk.lba48;
    let mut flags = TransmissionFlags::empty();
    flags.set(TransmissionFlags::READ_ONLY, read_only);
    flags.set(TransmissionFlags::SEND_FLUSH, can_flush(disk));
    flags.set(TransmissionFlags::SEND_FUA, fua);
    flags.set(TransmissionFlags::ROTATIONAL, disk.rotational == Some(true));
    flags.set(TransmissionFlags::SEND_TRIM, !read_only && disk.trim_sectors_max > 0);
    flags.set(TransmissionFlags::SEND_WRITE_ZEROES, !read_only);
    // One process serves all connections: a flush on any of them covers the writes of all.
    flags.set(TransmissionFlags::CAN_MULTI_CONN, several_clients);
    let physical = (SECTOR as u32).checked_shl(disk.physical_sector_exponent.into()).unwrap_or(0);
    ExportInfo {
        name: address.to_string(),
        size_bytes: disk.sectors * SECTOR as u64,
        flags,
        block_min: SECTOR as u32,
        block_preferred: physical.clamp(BLOCK_PREFERRED, BLOCK_MAX),
        block_max: BLOCK_MAX,
        description: format!("{} {}", disk.model, disk.serial).trim().to_owned(),
    }
}

/// Whether the target can be asked to make writes durable.
pub(super) fn can_flush(disk: &Identify) -> bool {
    disk.flush_ext
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Address = Address::new(0, 1);

    fn able() -> Identify {
        Identify {
            sectors: 2048,
            model: "Model".into(),
            serial: "S1".into(),
            physical_sector_exponent: 3,
            rotational: Some(false),
            flush: true,
            flush_ext: true,
            fua: true,
            trim_sectors_max: 8,
            ..Identify::default()
        }
    }

    #[test]
    fn an_able_disk_offers_all() {
        let export = export(ADDRESS, &able(), false, true);
        let all = TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::SEND_TRIM
            | TransmissionFlags::SEND_WRITE_ZEROES
            | TransmissionFlags::CAN_MULTI_CONN;
        assert_eq!(export.flags, all);
        assert_eq!((export.size_bytes, export.block_min, export.block_preferred), (1 << 20, 512, 4096));
        assert_eq!((export.name.as_str(), export.description.as_str()), ("e0.1", "Model S1"));
    }

    #[test]
    fn nothing_is_promised_that_the_disk_cannot_do() {
        let bare = Identify { sectors: 1, ..Identify::default() };
        assert_eq!(export(ADDRESS, &bare, false, false).flags, TransmissionFlags::SEND_WRITE_ZEROES);
        let no_flush = Identify { flush_ext: false, ..able() };
        assert!(!export(ADDRESS, &no_flush, false, true).flags.contains(TransmissionFlags::SEND_FUA));
        // There is no 28-bit command that forces a write through.
        let short = Identify { lba48: false, ..able() };
        assert!(!export(ADDRESS, &short, false, true).flags.contains(TransmissionFlags::SEND_FUA));
    }

    #[test]
    fn read_only_offers_no_change() {
        let changes = TransmissionFlags::SEND_TRIM | TransmissionFlags::SEND_WRITE_ZEROES;
        for export in [
            export(ADDRESS, &able(), true, true),
            export(ADDRESS, &Identify { read_only: true, ..able() }, false, true),
        ] {
            assert!(export.flags.contains(TransmissionFlags::READ_ONLY));
            assert!(!export.flags.intersects(changes));
        }
    }

    #[test]
    fn an_absurd_sector_size_is_bounded() {
        for (exponent, preferred) in [(0, 4096), (4, 8192), (15, 16 << 20), (16, BLOCK_MAX), (31, 4096), (255, 4096)] {
            let disk = Identify { physical_sector_exponent: exponent, ..able() };
            assert_eq!(export(ADDRESS, &disk, false, true).block_preferred, preferred, "{exponent}");
        }
    }
}
