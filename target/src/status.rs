//! What an export tells of itself.

use aoe_common::target_status::{EditorsStatus, EditsStatus, ExportStatus, StationStatus};
use aoe_common::time::Instant;
use aoe_common::wire::MacAddr;

use crate::disk::DiskFile;
use crate::engine::editors::Editors;
use crate::engine::export::Export;
use crate::state::reason;

/// How an export is now, with so many requests under way.
pub(crate) fn export_status(now: Instant, export: &Export, under_way: usize, disk: &DiskFile) -> ExportStatus {
    let Export { config, access, counters, ledger, durability, hold, .. } = export;
    let texts = |list: &[MacAddr]| list.iter().map(MacAddr::to_string).collect::<Vec<_>>();
    let editors = |editors: &Editors| match editors {
        Editors::All => EditorsStatus::all(),
        Editors::None => EditorsStatus::Word("none".to_owned()),
        Editors::These(list) => EditorsStatus::These(texts(list)),
    };
    let mut stations: Vec<_> = ledger.records().collect();
    stations.sort_unstable_by_key(|record| record.station.octets());
    let held = hold.anybody.max(hold.retagged).since(now);
    ExportStatus {
        device: config.address,
        path: disk.path().display().to_string(),
        size_bytes: disk.size_bytes(),
        read_only: config.read_only,
        cache: config.cache.name().to_owned(),
        direct: disk.is_direct(),
        buffers: config.buffers,
        serial: config.serial.clone(),
        allow: texts(&access.allow),
        mask: texts(&access.mask),
        reservation: texts(&access.reservation),
        config_string: export.config_string.escape_ascii().to_string(),
        edits: EditsStatus {
            config: editors(&config.edits.config),
            mask: editors(&config.edits.mask),
            reservation: editors(&config.edits.reservation),
        },
        lost: durability.poisoned().map(|errno| reason(errno).to_string()),
        held_s: (!held.is_zero() && !config.read_only).then(|| held.as_secs() + 1),
        draining: export.draining,
        in_flight: under_way as u64,
        reads: counters.reads,
        read_bytes: counters.read_bytes,
        writes: counters.writes,
        write_bytes: counters.write_bytes,
        flushes: counters.flushes,
        trims: counters.trims,
        errors: counters.failures,
        repeats: counters.repeats,
        stale: counters.stale,
        held: counters.held,
        waits: counters.waits,
        refused: counters.refused,
        edits_refused: counters.edits_refused,
        overflows: counters.overflows,
        read_latency: export.read_latency,
        write_latency: export.write_latency,
        flush_latency: export.flush_latency,
        stations: stations
            .into_iter()
            .map(|record| StationStatus {
                mac: record.station.to_string(),
                reads: record.reads,
                read_bytes: record.read_bytes,
                writes: record.writes,
                write_bytes: record.write_bytes,
                ignored: record.ignored,
            })
            .collect(),
    }
}
