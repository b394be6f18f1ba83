//! Saves of what has to survive a restart: edits, and that data was lost.
//!
//! An export has one save under way at the most. What changes meanwhile goes with the next one.

use super::export::StoredState;
use super::operation::DiskId;
use super::{Event, Persist, Storage, Target};

/// A save under way.
#[derive(Debug)]
pub(super) struct Save {
    /// Whether it says that data was lost.
    tells_loss: bool,
    /// Something changed since it began.
    again: bool,
}

impl Target {
    /// Saves the settings of an export as they are now.
    pub(super) fn save(&mut self, index: u32) {
        if let Some(save) = self.saves.get_mut(&index) {
            save.again = true;
            return;
        }
        if let Some(edit) = self.edits.get_mut(&index)
            && edit.storage == Storage::Waiting
        {
            edit.storage = Storage::Pending;
        }
        let state = self.exports[index as usize].stored();
        self.saves.insert(index, Save { tells_loss: state.lost.is_some(), again: false });
        self.persist.push_back(Persist { disk: DiskId(index), state });
    }

    /// Settings were stored, or could not be.
    pub fn handle_persisted(&mut self, disk: DiskId, stored: bool) {
        let index = disk.0;
        let save = self.saves.remove(&index).expect("settings are stored once for each time they are handed out");
        let durability = &mut self.exports[index as usize].durability;
        if save.tells_loss && stored {
            durability.poison_is_stored();
        } else if save.tells_loss && !durability.is_poison_stored() {
            let address = self.exports[index as usize].config.address;
            self.report(Event::PoisonNotStored { address });
        }
        if let Some(edit) = self.edits.get_mut(&index)
            && edit.storage == Storage::Pending
        {
            edit.storage = if stored { Storage::Done } else { Storage::Failed };
            if !stored {
                let before = edit.before.clone();
                self.take_back(index, &before);
            }
        }
        if save.again {
            self.save(index);
        }
        self.edit_progress(index);
    }

    /// Saves losses that could not be stored before.
    pub fn save_again(&mut self) {
        for DiskId(index) in self.disks().collect::<Vec<_>>() {
            let durability = &self.exports[index as usize].durability;
            if self.config.persist && durability.poisoned().is_some() && !durability.is_poison_stored() {
                self.save(index);
            }
        }
    }

    /// Data was lost below: nothing is acknowledged any more until an operator clears that.
    pub(super) fn lose(&mut self, index: u32, errno: i32) {
        let export = &mut self.exports[index as usize];
        if !export.durability.poison(errno) {
            return;
        }
        let address = export.config.address;
        self.report(Event::Poisoned { address, errno });
        if self.config.persist {
            self.save(index);
        }
    }

    /// Undoes an edit that could not be stored.
    fn take_back(&mut self, index: u32, before: &StoredState) {
        self.apply(index, before);
        for request in self.requests.iter_mut().flatten().filter(|request| request.export == index) {
            request.draining = false;
        }
        // Stations the edit had let in are out again.
        let draining = self.shut_out(index);
        self.edits.get_mut(&index).expect("the edit that is taken back").draining = draining;
    }
}
