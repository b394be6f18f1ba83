//! The part of ATA that travels over AoE: commands, register values, IDENTIFY data, TRIM ranges, logs.
//!
//! Values only. References are to ACS-4 unless a peer is named.

mod cache;
mod identify;
mod log;
mod trim;

pub use cache::{CacheMemory, fnv1a};
pub use identify::{Identify, IdentifyError};
pub use log::{LOG_DIRECTORY, LOG_IDENTIFY_DEVICE_DATA, LOG_STATION_IDENTITY, log_page};
pub use trim::{TRIM_ENTRIES_PER_SECTOR, TrimRange, encode_trim, trim_ranges};

/// Command register values.
pub mod command {
    /// DATA SET MANAGEMENT; TRIM when Features bit 0 is set.
    pub const DATA_SET_MANAGEMENT: u8 = 0x06;
    /// READ SECTORS, 28 bit.
    pub const READ_SECTORS: u8 = 0x20;
    /// READ SECTORS EXT, 48 bit.
    pub const READ_SECTORS_EXT: u8 = 0x24;
    /// READ DMA EXT, 48 bit.
    pub const READ_DMA_EXT: u8 = 0x25;
    /// READ LOG EXT.
    pub const READ_LOG_EXT: u8 = 0x2f;
    /// WRITE SECTORS, 28 bit.
    pub const WRITE_SECTORS: u8 = 0x30;
    /// WRITE SECTORS EXT, 48 bit.
    pub const WRITE_SECTORS_EXT: u8 = 0x34;
    /// WRITE DMA EXT, 48 bit.
    pub const WRITE_DMA_EXT: u8 = 0x35;
    /// WRITE DMA FUA EXT, 48 bit: durable before it completes.
    pub const WRITE_DMA_FUA_EXT: u8 = 0x3d;
    /// WRITE LOG EXT.
    pub const WRITE_LOG_EXT: u8 = 0x3f;
    /// READ VERIFY SECTORS, 28 bit.
    pub const READ_VERIFY: u8 = 0x40;
    /// READ VERIFY SECTORS EXT, 48 bit.
    pub const READ_VERIFY_EXT: u8 = 0x42;
    /// ZERO EXT, 48 bit.
    pub const ZERO_EXT: u8 = 0x44;
    /// READ DMA, 28 bit.
    pub const READ_DMA: u8 = 0xc8;
    /// WRITE DMA, 28 bit.
    pub const WRITE_DMA: u8 = 0xca;
    /// CHECK POWER MODE.
    pub const CHECK_POWER_MODE: u8 = 0xe5;
    /// FLUSH CACHE.
    pub const FLUSH_CACHE: u8 = 0xe7;
    /// FLUSH CACHE EXT.
    pub const FLUSH_CACHE_EXT: u8 = 0xea;
    /// IDENTIFY DEVICE.
    pub const IDENTIFY_DEVICE: u8 = 0xec;
    /// SET FEATURES.
    pub const SET_FEATURES: u8 = 0xef;
}

/// Features register values.
pub mod feature {
    /// DATA SET MANAGEMENT: trim.
    pub const TRIM: u8 = 0x01;
    /// SET FEATURES: volatile write cache on.
    pub const ENABLE_WRITE_CACHE: u8 = 0x02;
    /// SET FEATURES: volatile write cache off.
    pub const DISABLE_WRITE_CACHE: u8 = 0x82;
}

bitflags::bitflags! {
    /// Status register. Linux takes any of 0xA9 for a failure, iPXE any of 0x0F.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Status: u8 {
        /// Something failed; the Error register says what.
        const ERR = 0x01;
        /// Data is waiting. Never set over AoE.
        const DRQ = 0x08;
        /// Device fault.
        const DF = 0x20;
        /// Ready: the whole of a successful status.
        const DRDY = 0x40;
        /// Busy. Never set over AoE.
        const BSY = 0x80;
        const _ = !0;
    }
}

impl Status {
    /// Whether an answer with this status failed: any bit that Linux or iPXE takes for a failure.
    pub fn failed(self) -> bool {
        self.bits() & 0xaf != 0
    }
}

bitflags::bitflags! {
    /// Error register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AtaError: u8 {
        /// ABRT: command not supported or refused.
        const ABORT = 0x04;
        /// IDNF: no such sector.
        const ID_NOT_FOUND = 0x10;
        /// UNC: data cannot be read.
        const UNCORRECTABLE = 0x40;
        const _ = !0;
    }
}
