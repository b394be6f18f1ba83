//! One export: a shelf.slot, what it says of itself, and everything the engine keeps for it.

use aoe_common::addr::Address;
use aoe_common::ata::{CacheMemory, Identify, fnv1a};
use aoe_common::ordering::Ordering;
use aoe_common::target_status::Latency;
use aoe_common::time::Instant;
use aoe_common::wire::MacAddr;

use super::access::Access;
use super::ata::TRIM_SECTORS_MAX;
use super::durability::{CacheMode, Durability};
use super::editors::EditPolicy;
use super::ledger::Ledger;
use super::operation::OperationId;

/// Requests of one export that may run or wait at a time; more are dropped, as a full queue on the wire would.
pub const EXPORT_REQUESTS_MAX: usize = 512;

/// What an export is told to be.
#[derive(Clone, Debug)]
pub struct ExportConfig {
    /// Its address; no wildcard.
    pub address: Address,
    /// Size in 512-byte sectors.
    pub sectors: u64,
    /// Takes no writes.
    pub read_only: bool,
    /// Messages it says it can queue; at least 2, or aoe.ko never sends a request.
    pub buffers: u16,
    /// Stations that may use it; empty means all.
    pub allow: Vec<MacAddr>,
    /// Who may edit over the wire what stations can set.
    pub edits: EditPolicy,
    /// When writes are acknowledged.
    pub cache: CacheMode,
    /// Serial number, at most 20 characters.
    pub serial: String,
    /// Model, at most 40 characters.
    pub model: String,
    /// Physical sector as a power of two of 512 bytes.
    pub physical_sector_exponent: u8,
    /// Whether the medium rotates, where known.
    pub rotational: Option<bool>,
    /// Where writes are kept that are not durable: its life changes when they were lost.
    pub cache_memory: CacheMemory,
}

/// What survives a restart of the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredState {
    /// Config string.
    pub config_string: Vec<u8>,
    /// MAC mask list.
    pub mask: Vec<MacAddr>,
    /// Reservation.
    pub reservation: Vec<MacAddr>,
    /// The errno with which data was lost below, until an operator clears it.
    pub lost: Option<i32>,
    /// How often an operator cleared that.
    pub cleared: u32,
}

/// What an export has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// READ commands answered with data.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// WRITE commands done.
    pub writes: u64,
    /// Their bytes.
    pub write_bytes: u64,
    /// FLUSH commands done.
    pub flushes: u64,
    /// TRIM and ZERO commands done.
    pub trims: u64,
    /// ATA commands that failed.
    pub failures: u64,
    /// Repeated requests that were not run again.
    pub repeats: u64,
    /// Writes dropped because the same station had a newer one run.
    pub stale: u64,
    /// Writes dropped because they came soon after a restart.
    pub held: u64,
    /// Requests that had to wait for an overlapping one.
    pub waits: u64,
    /// Requests of stations that may not use the export.
    pub refused: u64,
    /// Edits that the operator's policy leaves to others.
    pub edits_refused: u64,
    /// Requests dropped because too many were waiting.
    pub overflows: u64,
}

/// FLUSH requests of one export. One sync runs at a time and answers all that arrived before it began.
#[derive(Debug, Default)]
pub struct Flushes {
    /// Those the running sync answers; the first one's operation carries it.
    pub served: Vec<OperationId>,
    /// Those that came after it began.
    pub waiting: Vec<OperationId>,
}

/// An export and its state.
#[derive(Debug)]
pub struct Export {
    /// What it is told to be.
    pub config: ExportConfig,
    /// Who may use it.
    pub access: Access,
    /// Its config string.
    pub config_string: Vec<u8>,
    /// Operations running and waiting.
    pub ordering: Ordering<OperationId>,
    /// FLUSH requests.
    pub flushes: Flushes,
    /// Cache mode and health.
    pub durability: Durability,
    /// What it has done.
    pub counters: Counters,
    /// For whom.
    pub ledger: Ledger,
    /// See [`StoredState::cleared`].
    cleared: u32,
    /// Until when writes are dropped.
    pub hold: Hold,
    /// Whether it is served.
    pub life: Life,
    /// Takes no new requests.
    pub draining: bool,
    /// From the arrival of a READ to its end.
    pub read_latency: Latency,
    /// The same of WRITE, ZERO and TRIM.
    pub write_latency: Latency,
    /// The same of FLUSH.
    pub flush_latency: Latency,
}

/// Whether an export is served. The place of one that is gone is kept for what is remembered of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It is.
    Serving,
    /// It is being removed: what was under way ends.
    Leaving,
    /// It was removed then.
    Gone(Instant),
}

/// Until when writes are dropped after a restart, since copies from before may still come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// Writes of anybody, and edits of who may write: copies of those that the process before has answered.
    pub anybody: Instant,
    /// Writes of stations that send again under new tags: copies of attempts that were sent while nobody served. Any other
    /// write is recognised when it comes again.
    pub retagged: Instant,
}

impl Hold {
    /// Whether a write with this tag has to wait. Bit 31 is set in the tags of our initiator, which keeps them.
    pub fn holds(self, now: Instant, tag: u32) -> bool {
        now < self.anybody || now < self.retagged && tag >> 31 == 0
    }
}

impl Export {
    /// An export with the settings it had before.
    pub fn new(config: ExportConfig, stored: StoredState) -> Self {
        assert!(!config.address.is_wildcard(), "an export has one address");
        assert!(config.sectors > 0 && config.buffers >= 2, "an export has sectors and buffers");
        let mut durability = Durability::new(config.cache);
        if let Some(errno) = stored.lost {
            durability.poison(errno);
            durability.poison_is_stored();
        }
        let access = Access { allow: config.allow.clone(), mask: stored.mask, reservation: stored.reservation };
        Self {
            config,
            access,
            config_string: stored.config_string,
            ordering: Ordering::default(),
            flushes: Flushes::default(),
            durability,
            counters: Counters::default(),
            ledger: Ledger::default(),
            cleared: stored.cleared,
            hold: Hold::default(),
            life: Life::Serving,
            draining: false,
            read_latency: Latency::default(),
            write_latency: Latency::default(),
            flush_latency: Latency::default(),
        }
    }

    /// Whether it takes requests.
    pub fn is_heard(&self) -> bool {
        self.life == Life::Serving && !self.draining
    }

    /// What has to survive a restart.
    pub fn stored(&self) -> StoredState {
        StoredState {
            config_string: self.config_string.clone(),
            mask: self.access.mask.clone(),
            reservation: self.access.reservation.clone(),
            lost: self.durability.poisoned(),
            cleared: self.cleared,
        }
    }

    /// What IDENTIFY says.
    pub fn identify(&self) -> Identify {
        let writable = !self.config.read_only;
        Identify {
            sectors: self.config.sectors,
            serial: self.config.serial.clone(),
            firmware: env!("CARGO_PKG_VERSION").to_owned(),
            model: self.config.model.clone(),
            wwn: world_wide_name(&self.config.serial),
            lba48: true,
            physical_sector_exponent: self.config.physical_sector_exponent,
            rotational: self.config.rotational,
            write_cache: writable && self.durability.cache_is_on(),
            flush: true,
            flush_ext: true,
            fua: writable,
            trim_sectors_max: if writable { TRIM_SECTORS_MAX } else { 0 },
            trim_zeroes: writable,
            logs: true,
            read_only: self.config.read_only,
            exactly_once: true,
            cache_memory: Some(self.config.cache_memory),
        }
    }

    /// Sectors per command to advertise on a link whose frames carry `frame_sectors`: whole physical sectors
    /// where possible, so that large transfers are not cut into pieces that make the disk read before it
    /// writes.
    pub fn advertised_sectors(&self, frame_sectors: u8) -> u8 {
        let physical = 1u32 << self.config.physical_sector_exponent.min(7);
        let whole = u32::from(frame_sectors) / physical * physical;
        if whole > 0 { whole as u8 } else { frame_sectors }
    }
}

/// A locally assigned (NAA 3) name that follows from the serial number: FNV-1a, 60 bits.
fn world_wide_name(serial: &str) -> u64 {
    3 << 60 | fnv1a(serial.as_bytes()) >> 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(physical_sector_exponent: u8) -> Export {
        let config = ExportConfig {
            address: Address::new(0, 1),
            sectors: 2048,
            read_only: false,
            buffers: 16,
            allow: vec![],
            edits: EditPolicy::default(),
            cache: CacheMode::Auto,
            serial: "A".into(),
            model: "M".into(),
            physical_sector_exponent,
            rotational: None,
            cache_memory: CacheMemory { host: 1, life: 1 },
        };
        Export::new(config, StoredState::default())
    }

    #[test]
    fn frames_carry_whole_physical_sectors_where_they_can() {
        assert_eq!(export(3).advertised_sectors(17), 16);
        assert_eq!(export(3).advertised_sectors(2), 2);
        assert_eq!(export(0).advertised_sectors(17), 17);
    }

    #[test]
    fn names_are_locally_assigned_and_differ() {
        assert_eq!(world_wide_name("A") >> 60, 3);
        assert_ne!(world_wide_name("A"), world_wide_name("B"));
    }
}
