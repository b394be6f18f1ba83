//! What the operator changes while an export is served: its settings and lists, whether it takes requests, its removal.
//!
//! A change that shuts stations or writes out keeps the promise of an edit: once it is answered, none of their writes
//! takes effect any more. What waits is dropped, so that its station asks again and is told; what runs is let end.

use aoe_common::time::Instant;
use aoe_common::wire::MacAddr;

use super::access::{MASK_MAX, RESERVATION_MAX};
use super::durability::CacheMode;
use super::editors::EditPolicy;
use super::export::{Life, StoredState};
use super::operation::{DiskId, OperationId};
use super::stale::LIFE;
use super::{Editor, Target, Work};

/// Settings of an export that may change while it is served, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    /// When writes that arrive from then on are acknowledged.
    pub cache: CacheMode,
    /// Takes no writes.
    pub read_only: bool,
    /// Messages it says it can queue, at least 2.
    pub buffers: u16,
    /// Stations that may use it; empty means all.
    pub allow: Vec<MacAddr>,
    /// Who may edit over the wire what stations can set.
    pub edits: EditPolicy,
}

/// An edit of what stations can edit, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorEdit {
    /// The config string, at most 1024 bytes.
    ConfigString(Vec<u8>),
    /// The mask list becomes this.
    MaskSet(Vec<MacAddr>),
    /// These are on the mask list, too.
    MaskAdd(Vec<MacAddr>),
    /// These are not on the mask list any more.
    MaskDelete(Vec<MacAddr>),
    /// Who holds the reservation; nobody: it is released.
    Reservation(Vec<MacAddr>),
}

/// Why a change was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBegun {
    /// Another is under way: to be tried again when that has ended.
    #[error("another change of this export is under way; try again")]
    Busy,
    /// It has no room for so many stations.
    #[error("no more than {0} stations fit; leave some out")]
    Full(usize),
}

impl Target {
    /// Takes an export out: it answers nothing new, what waits is dropped, what runs is let end. When it
    /// [`Self::is_quiet`], its disk can be synced and closed, and [`Self::finish_removal`] ends it.
    pub fn remove_export(&mut self, disk: DiskId) {
        let index = disk.0;
        let export = &mut self.exports[index as usize];
        assert!(export.life == Life::Serving, "an export is removed once");
        export.life = Life::Leaving;
        let address = export.config.address;
        self.by_address.remove(&address);
        self.announcements.retain(|(_, of)| *of != index);
        for id in std::mem::take(&mut self.exports[index as usize].flushes.waiting) {
            let request = self.take_request(id);
            self.pool.give(request.buffer.expect("waiting requests hold their buffer"));
        }
        let known = self.requests.iter().enumerate();
        let requests = known.filter_map(|(id, slot)| Some((OperationId(id as u32), slot.as_ref()?)));
        let waiting: Vec<_> = requests
            .filter(|(_, request)| {
                request.export == index && request.buffer.is_some() && !matches!(request.work, Work::Flush { .. })
            })
            .map(|(id, _)| id)
            .collect();
        self.give_up(index, &waiting);
        self.save_again();
    }

    /// Whether an export has no request, edit or save under way.
    pub fn is_quiet(&self, disk: DiskId) -> bool {
        self.under_way(disk) == 0 && !self.edits.contains_key(&disk.0) && !self.saves.contains_key(&disk.0)
    }

    /// Requests of an export that are with its disk or wait for others.
    pub fn under_way(&self, disk: DiskId) -> usize {
        let export = &self.exports[disk.0 as usize];
        export.ordering.len() + export.flushes.served.len() + export.flushes.waiting.len()
    }

    /// Ends the removal of an export. Its number is kept for its address for as long as its writes are remembered.
    pub fn finish_removal(&mut self, now: Instant, disk: DiskId) {
        assert!(self.is_quiet(disk), "an export is gone when nothing of it is under way");
        let export = &mut self.exports[disk.0 as usize];
        assert!(export.life == Life::Leaving, "only an export that was removed is gone");
        export.life = Life::Gone(now);
        (export.access, export.ledger) = Default::default();
        (export.config_string, export.config.allow) = Default::default();
    }

    /// Takes no new requests from now on, or takes them again. Frames are dropped, and their stations ask again;
    /// what is under way ends.
    pub fn drain(&mut self, now: Instant, disk: DiskId, drained: bool) {
        let export = &mut self.exports[disk.0 as usize];
        if export.draining && !drained {
            // Of attempts that were sent meanwhile under several tags nobody knows which is the newest.
            export.hold.retagged = export.hold.retagged.max(now + LIFE);
        }
        let changed = std::mem::replace(&mut export.draining, drained) != drained;
        if drained {
            self.announcements.retain(|(_, of)| *of != disk.0);
        } else if changed {
            self.announce_everywhere(disk.0);
        }
    }

    /// Changes settings. [`Self::poll_changed`] tells when nothing that they shut out is running any more.
    pub fn adjust(&mut self, disk: DiskId, to: Adjustment) -> Result<(), NotBegun> {
        let index = disk.0;
        if self.edits.contains_key(&index) {
            return Err(NotBegun::Busy);
        }
        assert!(to.buffers >= 2, "an export has buffers");
        let export = &mut self.exports[index as usize];
        let Adjustment { cache, read_only, buffers, allow, edits } = to;
        let config = &mut export.config;
        config.edits = edits;
        let is_news =
            (config.cache, config.read_only, config.buffers, &config.allow) != (cache, read_only, buffers, &allow);
        (config.cache, config.read_only, config.buffers) = (cache, read_only, buffers);
        config.allow.clone_from(&allow);
        export.durability.set_mode(cache);
        let state = export.stored();
        self.begin_edit(index, Editor::Operator, &state, allow);
        if is_news {
            self.announce_everywhere(index);
        }
        Ok(())
    }

    /// Edits what stations can edit, too. [`Self::poll_changed`] tells when it is stored and in force.
    pub fn edit_by_operator(&mut self, disk: DiskId, edit: OperatorEdit) -> Result<(), NotBegun> {
        let index = disk.0;
        if self.edits.contains_key(&index) {
            return Err(NotBegun::Busy);
        }
        let export = &self.exports[index as usize];
        let mut state = export.stored();
        let StoredState { config_string, mask, reservation, .. } = &mut state;
        match edit {
            OperatorEdit::ConfigString(new) => *config_string = new,
            OperatorEdit::MaskSet(new) => *mask = unique(new),
            OperatorEdit::MaskAdd(more) => *mask = unique(mask.iter().copied().chain(more)),
            OperatorEdit::MaskDelete(fewer) => mask.retain(|station| !fewer.contains(station)),
            OperatorEdit::Reservation(new) => *reservation = unique(new),
        }
        for (list, most) in [(mask, MASK_MAX), (reservation, RESERVATION_MAX)] {
            if list.len() > most {
                return Err(NotBegun::Full(most));
            }
        }
        let allow = export.access.allow.clone();
        self.begin_edit(index, Editor::Operator, &state, allow);
        Ok(())
    }

    /// The next change by the operator that ended, and whether it is in force: one that could not be stored is not.
    pub fn poll_changed(&mut self) -> Option<(DiskId, bool)> {
        self.changed.pop_front()
    }
}

fn unique(stations: impl IntoIterator<Item = MacAddr>) -> Vec<MacAddr> {
    let mut list = Vec::new();
    for station in stations {
        if !list.contains(&station) {
            list.push(station);
        }
    }
    list
}
