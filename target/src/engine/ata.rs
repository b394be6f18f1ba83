//! What an ATA request asks for, judged by its registers alone. ACS-2 with AoE's 8-bit count.

use aoe_common::ata::{AtaError, LOG_STATION_IDENTITY, Status, command, feature};
use aoe_common::frame::SECTOR;
use aoe_common::wire::{AtaFlags, AtaRepr};

/// Sectors of TRIM ranges one command may carry; two fit a 1500-byte MTU.
pub const TRIM_SECTORS_MAX: u16 = 2;

/// The Status and Error registers of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Status register.
    pub status: Status,
    /// Error register.
    pub error: AtaError,
}

impl Failure {
    /// The command is not supported, or refused.
    pub const ABORTED: Self = Self { status: Status::DRDY.union(Status::ERR), error: AtaError::ABORT };
    /// There are no such sectors.
    pub const NO_SUCH_SECTOR: Self = Self { status: Status::DRDY.union(Status::ERR), error: AtaError::ID_NOT_FOUND };
    /// The data cannot be read.
    pub const UNREADABLE: Self = Self { status: Status::DRDY.union(Status::ERR), error: AtaError::UNCORRECTABLE };
    /// The device failed to write or to flush.
    pub const DEVICE_FAULT: Self =
        Self { status: Status::DRDY.union(Status::DF).union(Status::ERR), error: AtaError::ABORT };
}

/// What the export looks like to a request.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Size in sectors.
    pub sectors: u64,
    /// Takes no writes.
    pub read_only: bool,
    /// Sectors that one frame of the requesting port carries.
    pub frame_sectors: u8,
}

/// A request, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The IDENTIFY block.
    Identify,
    /// A page of a log.
    Log {
        /// Log address.
        log: u8,
        /// Page.
        page: u16,
    },
    /// Sectors. `verify`: check that they can be read, and send none.
    Read {
        /// First sector.
        lba: u64,
        /// How many, at least 1.
        sectors: u8,
        /// Without sending them.
        verify: bool,
    },
    /// Store the sectors that came along.
    Write {
        /// First sector.
        lba: u64,
        /// How many, at least 1.
        sectors: u8,
        /// Durable before the answer, whatever the mode.
        fua: bool,
    },
    /// Make sectors zero, keeping their space.
    Zero {
        /// First sector.
        lba: u64,
        /// How many, at least 1.
        sectors: u8,
    },
    /// Trim the ranges that came along.
    Trim {
        /// Sectors of ranges.
        range_sectors: u8,
    },
    /// The station says who it is.
    Register,
    /// Make everything durable.
    Flush,
    /// Turn the volatile cache on.
    CacheOn,
    /// Make everything durable, then turn the volatile cache off.
    CacheOff,
    /// CHECK POWER MODE: active.
    PowerMode,
}

/// Why a request is not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// AoE error 2: the message itself is improper.
    BadArgument,
    /// An ATA failure.
    Failed(Failure),
}

/// Understands a request with `data_len` bytes behind its registers. Surplus bytes are padding: Linux'
/// path probes and aoe-sancheck send them.
pub fn judge(ata: &AtaRepr, data_len: usize, geometry: &Geometry) -> Result<Ask, Refusal> {
    let aborted = Err(Refusal::Failed(Failure::ABORTED));
    let carries_data = ata.flags.contains(AtaFlags::WRITE);
    let lba = ata.lba();
    let sectors = ata.count;
    match ata.command {
        command::READ_SECTORS
        | command::READ_SECTORS_EXT
        | command::READ_DMA
        | command::READ_DMA_EXT
        | command::READ_VERIFY
        | command::READ_VERIFY_EXT => {
            if carries_data {
                return aborted;
            }
            fits_frame(sectors, geometry)?;
            fits_disk(lba, sectors, geometry)?;
            let verify = matches!(ata.command, command::READ_VERIFY | command::READ_VERIFY_EXT);
            Ok(Ask::Read { lba, sectors, verify })
        }
        command::WRITE_SECTORS
        | command::WRITE_SECTORS_EXT
        | command::WRITE_DMA
        | command::WRITE_DMA_EXT
        | command::WRITE_DMA_FUA_EXT => {
            if !carries_data || geometry.read_only {
                return aborted;
            }
            fits_frame(sectors, geometry)?;
            if data_len < usize::from(sectors) * SECTOR {
                return Err(Refusal::BadArgument);
            }
            fits_disk(lba, sectors, geometry)?;
            Ok(Ask::Write { lba, sectors, fua: ata.command == command::WRITE_DMA_FUA_EXT })
        }
        command::ZERO_EXT => {
            if carries_data || geometry.read_only || sectors == 0 {
                return aborted;
            }
            fits_disk(lba, sectors, geometry)?;
            Ok(Ask::Zero { lba, sectors })
        }
        command::DATA_SET_MANAGEMENT => {
            let trims = ata.feature == feature::TRIM && carries_data && !geometry.read_only;
            if !trims || sectors == 0 || u16::from(sectors) > TRIM_SECTORS_MAX {
                return aborted;
            }
            if data_len < usize::from(sectors) * SECTOR {
                return Err(Refusal::BadArgument);
            }
            Ok(Ask::Trim { range_sectors: sectors })
        }
        command::READ_LOG_EXT if sectors == 1 && !carries_data => {
            let [log, page_low, _, _, page_high, _, _, _] = ata.registers.to_le_bytes();
            Ok(Ask::Log { log, page: u16::from_le_bytes([page_low, page_high]) })
        }
        command::WRITE_LOG_EXT if ata.registers == u64::from(LOG_STATION_IDENTITY) && sectors == 1 && carries_data => {
            if data_len < SECTOR {
                Err(Refusal::BadArgument)
            } else {
                Ok(Ask::Register)
            }
        }
        command::IDENTIFY_DEVICE => Ok(Ask::Identify),
        command::FLUSH_CACHE | command::FLUSH_CACHE_EXT => Ok(Ask::Flush),
        command::SET_FEATURES if ata.feature == feature::ENABLE_WRITE_CACHE => Ok(Ask::CacheOn),
        command::SET_FEATURES if ata.feature == feature::DISABLE_WRITE_CACHE => Ok(Ask::CacheOff),
        command::CHECK_POWER_MODE => Ok(Ask::PowerMode),
        _ => aborted,
    }
}

/// A count of 0 means 256 in ATA, which no frame carries.
fn fits_frame(sectors: u8, geometry: &Geometry) -> Result<(), Refusal> {
    if sectors == 0 || sectors > geometry.frame_sectors { Err(Refusal::BadArgument) } else { Ok(()) }
}

fn fits_disk(lba: u64, sectors: u8, geometry: &Geometry) -> Result<(), Refusal> {
    // No overflow: LBAs have 48 bits.
    if lba + u64::from(sectors) > geometry.sectors { Err(Refusal::Failed(Failure::NO_SUCH_SECTOR)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Geometry = Geometry { sectors: 2048, read_only: false, frame_sectors: 2 };
    const E: AtaFlags = AtaFlags::EXTENDED;
    const EW: AtaFlags = AtaFlags::EXTENDED.union(AtaFlags::WRITE);

    fn ata(flags: AtaFlags, count: u8, command: u8, registers: u64) -> AtaRepr {
        AtaRepr { flags, feature: 0, count, command, registers }
    }

    fn ask(ata: AtaRepr, data_len: usize) -> Result<Ask, Refusal> {
        judge(&ata, data_len, &DISK)
    }

    #[test]
    fn reads() {
        assert_eq!(ask(ata(E, 2, 0x24, 3), 0), Ok(Ask::Read { lba: 3, sectors: 2, verify: false }));
        let with_device_register = ata(AtaFlags::empty(), 1, 0x20, 0xe000_0003);
        assert_eq!(ask(with_device_register, 0), Ok(Ask::Read { lba: 3, sectors: 1, verify: false }));
        assert_eq!(ask(ata(E, 1, 0x42, 0), 0), Ok(Ask::Read { lba: 0, sectors: 1, verify: true }));
        assert_eq!(ask(ata(E, 1, 0x24, 0), 1024), Ok(Ask::Read { lba: 0, sectors: 1, verify: false }), "a probe");
    }

    #[test]
    fn limits() {
        let no_sector = Err(Refusal::Failed(Failure::NO_SUCH_SECTOR));
        assert_eq!(ask(ata(E, 3, 0x24, 0), 0), Err(Refusal::BadArgument));
        assert_eq!(ask(ata(E, 0, 0x24, 0), 0), Err(Refusal::BadArgument));
        assert_eq!(ask(ata(E, 1, 0x24, 2048), 0), no_sector);
        assert_eq!(ask(ata(E, 2, 0x24, 2047), 0), no_sector);
        assert_eq!(ask(ata(E, 2, 0x24, 2046), 0), Ok(Ask::Read { lba: 2046, sectors: 2, verify: false }));
        assert_eq!(ask(ata(E, 2, 0x24, (1 << 48) - 1), 0), no_sector);
        assert_eq!(ask(ata(EW, 2, 0x34, 0), 1023), Err(Refusal::BadArgument), "short data");
        assert_eq!(ask(ata(EW, 1, 0x34, 2048), 512), no_sector);
    }

    #[test]
    fn the_write_bit_must_agree() {
        let aborted = Err(Refusal::Failed(Failure::ABORTED));
        assert_eq!(ask(ata(EW, 1, 0x24, 0), 512), aborted);
        assert_eq!(ask(ata(E, 1, 0x34, 0), 512), aborted);
    }

    #[test]
    fn writes() {
        for (command, fua) in [(0x30, false), (0x34, false), (0xca, false), (0x35, false), (0x3d, true)] {
            assert_eq!(ask(ata(EW, 2, command, 4), 1024), Ok(Ask::Write { lba: 4, sectors: 2, fua }));
        }
        let read_only = Geometry { read_only: true, ..DISK };
        for command in [0x30, 0x34, 0x3d] {
            let refused = judge(&ata(EW, 1, command, 0), 512, &read_only);
            assert_eq!(refused, Err(Refusal::Failed(Failure::ABORTED)));
        }
    }

    #[test]
    fn the_rest() {
        let aborted = Err(Refusal::Failed(Failure::ABORTED));
        let trim = AtaRepr { feature: 1, ..ata(EW, 1, 0x06, 0) };
        assert_eq!(ask(trim, 512), Ok(Ask::Trim { range_sectors: 1 }));
        assert_eq!(ask(trim, 100), Err(Refusal::BadArgument));
        assert_eq!(ask(AtaRepr { count: 3, ..trim }, 1536), aborted);
        assert_eq!(ask(AtaRepr { feature: 0, ..trim }, 512), aborted);
        assert_eq!(ask(ata(E, 255, 0x44, 9), 0), Ok(Ask::Zero { lba: 9, sectors: 255 }));
        assert_eq!(ask(ata(E, 1, 0x2f, 0x0330), 0), Ok(Ask::Log { log: 0x30, page: 3 }));
        assert_eq!(ask(ata(E, 0, 0xea, 0), 0), Ok(Ask::Flush));
        assert_eq!(ask(ata(AtaFlags::empty(), 0, 0xe7, 0xa0), 0), Ok(Ask::Flush));
        let features = |feature| AtaRepr { feature, ..ata(AtaFlags::empty(), 0, 0xef, 0) };
        assert_eq!(ask(features(0x02), 0), Ok(Ask::CacheOn));
        assert_eq!(ask(features(0x82), 0), Ok(Ask::CacheOff));
        assert_eq!(ask(features(0x03), 0), aborted);
        for command in [0x00, 0x08, 0x60, 0x61, 0xb0, 0xff] {
            assert_eq!(ask(ata(E, 1, command, 0), 0), aborted, "{command:#x}");
        }
    }
}
