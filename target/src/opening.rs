//! From what an export is told to be to one that can be served: its file opened, its settings read, its writes held if it
//! was served just before. At the start, and when one is added later.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow};
use aoe_common::addr::Address;
use aoe_common::frame::SECTOR;
use aoe_common::link::monotonic_now;
use aoe_common::target_status::NotServed;
use aoe_common::text;

use crate::disk::{DiskFile, DiskOptions};
use crate::engine::export::{ExportConfig, StoredState};
use crate::hold::{Marker, Markers};
use crate::lives::{Lease, LivesOnDisk, Opened};
use crate::settings::{ExportSettings, MissingFamily, Settings};
use crate::state::{StateDirectory, image_name, reason, summary};
use crate::worker::Served;

/// Opens exports.
#[derive(Clone, Debug)]
pub(crate) struct Opener {
    /// Where settings are; `None` keeps them in memory.
    pub directory: Option<StateDirectory>,
    pub markers: Markers,
    pub lives: LivesOnDisk,
    /// Whether writes wait after a restart.
    pub may_hold: bool,
}

/// What is known of an export that was served by this process before.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    /// Its image and settings; `None`: to be read. For another image they do not count.
    pub stored: Option<(PathBuf, StoredState)>,
    /// It took no new requests, and is not to take any.
    pub draining: bool,
}

impl Opener {
    /// Makes open disks exports; that they are open is noted when this returns. What this process remembers of one from before
    /// makes it needless to hold writes.
    pub(crate) fn prepare(
        &self,
        disks: Vec<(&ExportSettings, Result<DiskFile>)>,
        before: Option<&Before>,
    ) -> Result<Vec<Result<Served>>> {
        let named = disks.into_iter().map(|(settings, disk)| {
            let (path, disk) = (&settings.path, disk?);
            Ok((settings, disk, image_name(path).with_context(|| path.display().to_string())?))
        });
        let named: Vec<Result<_>> = named.collect();
        let opened = named.iter().flatten().map(|(settings, disk, image)| Opened {
            address: settings.address,
            image,
            is_written: !disk.read_only(),
            is_direct: disk.is_direct(),
        });
        let mut leases = self.lives.open(&opened.collect::<Vec<_>>())?.into_iter();
        let exports = named.into_iter().map(|named| {
            let (settings, disk, image) = named?;
            let lease = leases.next().expect("each that is opened has its life");
            self.export(settings, disk, image, lease, before)
        });
        Ok(exports.collect())
    }

    fn export(
        &self,
        settings: &ExportSettings,
        disk: DiskFile,
        image: PathBuf,
        lease: Lease,
        before: Option<&Before>,
    ) -> Result<Served> {
        let (address, path) = (settings.address, &settings.path);
        let known = before.and_then(|before| before.stored.clone());
        let mut stored = match (&self.directory, known) {
            (_, Some((of, stored))) if of == image => stored,
            (Some(directory), _) => directory.load(address, &image),
            (None, _) => StoredState::default(),
        };
        if settings.clear_error {
            clear_error(self.directory.as_ref(), address, &image, &mut stored)?;
        }
        let mut hold = None;
        if let Some(directory) = &self.directory
            && !disk.read_only()
        {
            let path = directory.path().join(format!("{address}.served"));
            let (marker, served) =
                Marker::open(&path, monotonic_now(), self.may_hold && before.is_none()).map_err(|error| {
                    anyhow!(
                        "{}: {error}; name a directory with --state-dir, or state-directory in the file",
                        path.display()
                    )
                })?;
            hold = served;
            self.markers.add(address, marker);
        }
        if let Some(errno) = stored.lost {
            tracing::error!(
                "{address}: {}: acknowledged data may have been lost before this start: {}; writes and flushes are refused, \
                 reads are served: check the disk and what is on it, then type `aoe-target ctl clear-error {address}`, or start \
                 with --clear-error",
                path.display(),
                reason(errno)
            );
        }
        if disk.tail_bytes() > 0 {
            let (path, tail) = (path.display(), disk.tail_bytes());
            tracing::warn!("{address}: {path}: the last {tail} bytes fill no sector of 512 and are not exported");
        }
        let config = ExportConfig {
            address,
            sectors: disk.size_bytes() / SECTOR as u64,
            read_only: settings.read_only,
            buffers: settings.buffers,
            allow: settings.allow.clone(),
            edits: settings.edits.clone(),
            cache: settings.cache,
            serial: settings.serial.clone().unwrap_or_else(|| default_serial(address, &image)),
            model: settings.model.clone(),
            physical_sector_exponent: (disk.physical_sector() / SECTOR as u32).ilog2() as u8,
            rotational: disk.rotational(),
            cache_memory: lease.memory(&host_name(), stored.cleared),
        };
        let draining = before.is_some_and(|before| before.draining);
        Ok(Served { config, disk, stored, image, lease, hold, draining })
    }
}

/// Opens the file of an export.
pub(crate) fn open_disk(settings: &ExportSettings) -> Result<DiskFile> {
    Ok(DiskFile::open(&DiskOptions {
        path: settings.path.clone(),
        read_only: settings.read_only,
        direct: settings.direct,
        offset_sectors: settings.offset,
        length_sectors: settings.length,
    })?)
}

/// What is told of an export that the configuration file names and that cannot be opened now.
pub(crate) fn cannot_open(settings: &Settings, export: &ExportSettings, error: &Error) -> NotServed {
    let reason = format!("{}{error:#}; then type `aoe-target ctl reload`", settings.place(export.address));
    NotServed { device: export.address, path: export.path.display().to_string(), reason }
}

/// What is told of a family without files.
pub(crate) fn cannot_find(family: &MissingFamily) -> NotServed {
    let device = Address::new(family.shelf, Address::ANY_SLOT);
    let reason = format!("{}; then type `aoe-target ctl reload`", family.reason);
    NotServed { device, path: family.path.display().to_string(), reason }
}

/// Refuses two exports of one file that could both write.
pub(crate) fn refuse_two_writers<'a>(exports: impl IntoIterator<Item = &'a ExportSettings>) -> Result<()> {
    let mut writers: BTreeMap<PathBuf, Address> = BTreeMap::new();
    for ExportSettings { address, path, .. } in exports.into_iter().filter(|settings| !settings.read_only) {
        if let Ok(real) = path.canonicalize()
            && let Some(other) = writers.insert(real, *address)
        {
            return Err(two_writers(path, other, *address));
        }
    }
    Ok(())
}

/// Why a file is not exported once more.
pub(crate) fn two_writers(path: &Path, other: Address, address: Address) -> Error {
    let path = path.display();
    anyhow!(
        "{path}: is exported as {other} and as {address}, and both could write; export both `read-only`, or leave one out"
    )
}

/// Forgets that data was lost, for good. Clients with unflushed writes learn that these may be gone, also when the loss could
/// not be stored.
fn clear_error(
    directory: Option<&StateDirectory>,
    address: Address,
    image: &Path,
    stored: &mut StoredState,
) -> Result<()> {
    let lost = stored.lost.take();
    stored.cleared = stored.cleared.saturating_add(1);
    if let Some(directory) = directory {
        directory.save(address, image, stored).with_context(|| format!("{address}: the error cannot be cleared"))?;
    }
    match lost {
        Some(errno) => tracing::warn!(
            "{address}: cleared: acknowledged data may have been lost: {}; writes are taken again",
            reason(errno)
        ),
        None => tracing::info!("{address}: there is no error to clear"),
    }
    Ok(())
}

/// The same after each start, and different for different disks: FNV-1a of the path, 32 bits.
fn default_serial(address: Address, image: &Path) -> String {
    let bytes = image.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    format!("S{}L{}-{hash:08x}", address.shelf, address.slot)
}

/// What this host is called, the same in every boot.
fn host_name() -> Vec<u8> {
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    [read("/etc/machine-id"), read("/proc/sys/kernel/hostname")].concat()
}

/// What is said of an export when it is served, in two parts: between them goes how its disk is reached.
pub(crate) fn line(Served { config, disk, stored, hold, .. }: &Served) -> Line {
    let size = text::size(disk.size_bytes());
    let access = match (config.read_only, stored.lost) {
        (true, _) => "read-only",
        (false, None) => "read-write",
        (false, Some(_)) => "writes refused",
    };
    let (address, path, cache) = (config.address, disk.path().display(), config.cache.name());
    let direct = if disk.is_direct() { "  direct" } else { "" };
    let settings = (*stored != StoredState { lost: stored.lost, cleared: stored.cleared, ..StoredState::default() })
        .then(|| format!("  {address} keeps what clients set: {}", summary(stored)));
    let hold = hold.map(|hold| {
        let now = monotonic_now();
        let [anybody, retagged] = [hold.anybody, hold.retagged].map(|until| until.since(now).as_secs_f64().ceil());
        if anybody > 0.0 {
            return format!(
                "  {address} was served just before: writes wait {anybody} s for late copies to be gone (see --no-hold or hold)"
            );
        }
        format!(
            "  {address} was served before: writes of aoe.ko wait {retagged} s for late attempts to end (see --no-hold or hold)"
        )
    });
    Line {
        head: format!("serving {address}  {path}  {size}  {access}  cache {cache}{direct}"),
        notes: settings.into_iter().chain(hold).collect(),
    }
}
pub(crate) struct Line {
    pub head: String,
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_serials_fit_and_differ() {
        let serial = |address, path: &str| default_serial(address, Path::new(path));
        let longest = Address::new(65534, 254);
        assert!(serial(longest, "/a").len() <= 20);
        assert_eq!(serial(longest, "/a"), serial(longest, "/a"));
        assert_ne!(serial(longest, "/a"), serial(longest, "/b"));
        assert_ne!(serial(Address::new(1, 2), "/a"), serial(Address::new(1, 3), "/a"));
    }
}
