//! Config strings, mask lists and reservations, and their edits.
//!
//! An edit is applied at once, so that nobody it shuts out gets in any more. It is answered when it is stored
//! and no write of a station that it shut out is running.

use aoe_common::planted::{Fault, planted};
use aoe_common::time::Instant;
use aoe_common::wire::{
    ConfigRepr, ErrorCode, Frame, MacAddr, Malformed, MaskCommand, MaskError, MaskRepr, ReserveRepr,
};

use super::access::Access;
use super::config_string;
use super::config_string::Verdict;
use super::edited::Outcome;
use super::editors::{EditPolicy, Editors};
use super::export::{Export, StoredState};
use super::operation::OperationId;
use super::{DiskId, Edit, EditKind, Editor, Event, ReplyTo, ShutOut, Storage, Target, Work};

impl Target {
    pub(super) fn config_request(&mut self, now: Instant, index: u32, to: &ReplyTo, frame: &Frame<'_>) {
        let Ok(request) = ConfigRepr::parse(frame.body, false) else {
            self.counters.malformed += 1;
            return;
        };
        let export = &self.exports[index as usize];
        match config_string::judge(request.command, request.string, &export.config_string) {
            Verdict::Silent => {}
            Verdict::Answer => self.answer_config(to, index, request.command, None),
            Verdict::Refuse(error) => self.answer_config(to, index, request.command, Some(error)),
            Verdict::Store(_) if self.refuses_edit_of(index, frame, "config string", |edits| &edits.config) => {
                self.answer_config(to, index, request.command, Some(ErrorCode::BadArgument));
            }
            Verdict::Store(config_string) => {
                let state = StoredState { config_string, ..self.exports[index as usize].stored() };
                self.edit(now, index, to, EditKind::ConfigString(request.command), state, frame.body);
            }
        }
    }

    pub(super) fn mask_request(&mut self, now: Instant, index: u32, to: &ReplyTo, frame: &Frame<'_>) {
        let (request, directives) = match MaskRepr::parse(frame.body) {
            Ok(parsed) => parsed,
            Err(Malformed::Length) => return self.answer_echo(to, ErrorCode::BadArgument, frame.body),
            Err(_) => {
                self.counters.malformed += 1;
                return;
            }
        };
        match request.command {
            MaskCommand::Read => self.answer_mask(to, index, MaskCommand::Read),
            MaskCommand::Unknown(_) => self.answer_echo(to, ErrorCode::BadArgument, frame.body),
            MaskCommand::Edit if self.refuses_edit_of(index, frame, "mask list", |edits| &edits.mask) => {
                self.answer_echo(to, ErrorCode::BadArgument, frame.body);
            }
            MaskCommand::Edit => {
                let export = &self.exports[index as usize];
                let (mask, failed) = export.access.edit_mask(directives);
                let state = StoredState { mask, ..export.stored() };
                self.edit(now, index, to, EditKind::Mask(failed), state, frame.body);
            }
        }
    }

    pub(super) fn reserve_request(&mut self, now: Instant, index: u32, to: &ReplyTo, frame: &Frame<'_>) {
        let (request, macs) = match ReserveRepr::parse(frame.body) {
            Ok(parsed) => parsed,
            Err(Malformed::Length) => return self.answer_echo(to, ErrorCode::BadArgument, frame.body),
            Err(_) => {
                self.counters.malformed += 1;
                return;
            }
        };
        let export = &self.exports[index as usize];
        match export.access.reserve(to.station, request.command, macs) {
            Ok(None) => self.answer_reservation(to, index, request.command, None),
            Err(error) => self.answer_reservation(to, index, request.command, Some(error)),
            Ok(Some(_)) if self.refuses_edit_of(index, frame, "reservation", |edits| &edits.reservation) => {
                self.answer_reservation(to, index, request.command, Some(ErrorCode::BadArgument));
            }
            Ok(Some(reservation)) => {
                let state = StoredState { reservation, ..self.exports[index as usize].stored() };
                self.edit(now, index, to, EditKind::Reservation(request.command), state, frame.body);
            }
        }
    }

    /// One frame to a wildcard address would change every export in reach.
    pub(super) fn refuses_edit(&self, frame: &Frame<'_>) -> bool {
        frame.header.address.is_wildcard() && !self.config.wildcard_edits
    }

    /// Whether an edit is for others to make, by the operator's policy.
    fn refuses_edit_of(
        &mut self,
        index: u32,
        frame: &Frame<'_>,
        what: &'static str,
        editors: impl Fn(&EditPolicy) -> &Editors,
    ) -> bool {
        let station = frame.ethernet.source;
        let export = &mut self.exports[index as usize];
        if editors(&export.config.edits).include(station) {
            return self.refuses_edit(frame);
        }
        export.counters.edits_refused += 1;
        let address = export.config.address;
        self.report(Event::EditRefused { address, station, what });
        true
    }

    /// Applies an edit at once; answers it when it is stored and nobody it shut out has a write running.
    /// While one edit of an export waits, others are dropped: their stations ask again. A copy of one that was applied
    /// changes nothing; nor does one of an edit that the process before this one has applied.
    fn edit(&mut self, now: Instant, index: u32, to: &ReplyTo, kind: EditKind, state: StoredState, body: &[u8]) {
        if self.edits.contains_key(&index) {
            self.exports[index as usize].counters.overflows += 1;
            return;
        }
        if matches!(kind, EditKind::Mask(None) | EditKind::Reservation(_)) {
            let export = &mut self.exports[index as usize];
            if now < export.hold.anybody && !planted(Fault::NoHold) {
                export.counters.held += 1;
                return;
            }
            if let Some(outcome) = self.edited.seen(now, index, to, body) {
                self.exports[index as usize].counters.repeats += 1;
                match outcome {
                    Outcome::Applied => self.answer_edit(index, to, kind),
                    Outcome::TakenBack => self.answer_not_stored(index, to, kind),
                }
                return;
            }
            self.edited.remember(now, index, to, body);
        }
        let allow = self.exports[index as usize].access.allow.clone();
        self.begin_edit(index, Editor::Station { to: *to, kind }, &state, allow);
    }

    /// Applies an edit while no other is under way. Its editor is told when it is stored and drained.
    pub(super) fn begin_edit(&mut self, index: u32, by: Editor, state: &StoredState, allow: Vec<MacAddr>) {
        let export = &mut self.exports[index as usize];
        let before = export.stored();
        let allow_before = std::mem::replace(&mut export.access.allow, allow);
        let is_stored = before == *state || !self.config.persist;
        let storage = if is_stored || planted(Fault::EditNotStored) { Storage::Done } else { Storage::Waiting };
        self.apply(index, state);
        let draining = self.shut_out(index);
        self.edits.insert(index, Edit { by, before, allow_before, storage, draining });
        if !is_stored {
            self.save(index);
        }
        self.edit_progress(index);
    }

    pub(super) fn apply(&mut self, index: u32, state: &StoredState) {
        let export = &mut self.exports[index as usize];
        export.config_string.clone_from(&state.config_string);
        export.access.mask.clone_from(&state.mask);
        export.access.reservation.clone_from(&state.reservation);
    }

    /// Gives up the waiting requests that are no longer served, and counts the running ones: those of stations that are
    /// shut out, and writes where none are taken.
    pub(super) fn shut_out(&mut self, index: u32) -> u32 {
        let Export { access, config, .. } = &self.exports[index as usize];
        let mut waiting = Vec::new();
        let mut draining = 0;
        for (id, slot) in self.requests.iter_mut().enumerate() {
            let Some(request) = slot else { continue };
            let is_out = || !access.serves(request.to.station) || config.read_only && request.work.writes();
            if request.export != index || !is_out() || matches!(request.work, Work::Flush { .. }) {
                continue;
            }
            if request.buffer.is_some() {
                if !planted(Fault::WaitingKept) {
                    waiting.push(OperationId(id as u32));
                }
            } else if request.work.writes() && !planted(Fault::EditNotDrained) {
                request.draining = true;
                draining += 1;
            }
        }
        self.give_up(index, &waiting);
        draining
    }

    /// Drops requests that wait, as if they had never come. Those behind them may start.
    pub(super) fn give_up(&mut self, index: u32, waiting: &[OperationId]) {
        for id in waiting.iter().copied() {
            let request = self.take_request(id);
            if let Some(key) = &request.key {
                self.repeats.abandon(key);
            }
            self.pool.give(request.buffer.expect("waiting requests hold their buffer"));
            let record = request.record.expect("all but flushes are on record");
            let mut ready = Vec::new();
            let export = &mut self.exports[index as usize];
            export.ledger.given_up(record);
            export.ordering.finish(id, |id| ready.push(id));
            for id in ready.into_iter().filter(|id| !waiting.contains(id)) {
                self.start(id);
            }
        }
        // A flush that turns the cache off may have waited for one of those.
        self.start_flush(index);
    }

    pub(super) fn edit_progress(&mut self, index: u32) {
        let Some(edit) = self.edits.get(&index) else { return };
        if matches!(edit.storage, Storage::Waiting | Storage::Pending) || edit.draining > 0 {
            return;
        }
        let edit = self.edits.remove(&index).expect("just seen");
        if edit.storage == Storage::Failed {
            let address = self.exports[index as usize].config.address;
            self.report(Event::NotStored { address });
            match edit.by {
                Editor::Station { to, kind } => {
                    self.edited.taken_back(index, &to);
                    self.answer_not_stored(index, &to, kind);
                }
                Editor::Operator => self.changed.push_back((DiskId(index), false)),
            }
            return;
        }
        let export = &self.exports[index as usize];
        // A loss below is no doing of the station.
        let state = StoredState { lost: edit.before.lost, ..export.stored() };
        if state != edit.before || export.access.allow != edit.allow_before {
            let address = export.config.address;
            let shut_out = self.shut_out_by(index, &edit.before, edit.allow_before);
            let station = match edit.by {
                Editor::Station { to, .. } => Some(to.station),
                Editor::Operator => None,
            };
            self.report(Event::Edited { address, station, state, shut_out });
        }
        match edit.by {
            Editor::Station { to, kind } => self.answer_edit(index, &to, kind),
            Editor::Operator => self.changed.push_back((DiskId(index), true)),
        }
    }

    /// Says what is in force.
    fn answer_edit(&mut self, index: u32, to: &ReplyTo, kind: EditKind) {
        match kind {
            EditKind::ConfigString(command) => self.answer_config(to, index, command, None),
            EditKind::Mask(None) => self.answer_mask(to, index, MaskCommand::Edit),
            EditKind::Mask(Some((error, at))) => self.answer_mask_failure(to, error, at),
            EditKind::Reservation(command) => self.answer_reservation(to, index, command, None),
        }
    }

    /// The stations that were served with the settings before an edit, and are no longer.
    fn shut_out_by(&self, index: u32, before: &StoredState, allow: Vec<MacAddr>) -> Vec<ShutOut> {
        let StoredState { mask, reservation, .. } = before.clone();
        let Export { access, ledger, .. } = &self.exports[index as usize];
        let before = Access { allow, mask, reservation };
        let listed = before.allow.iter().chain(&before.mask).chain(&before.reservation).copied();
        let mut stations: Vec<MacAddr> = ledger.records().map(|record| record.station).chain(listed).collect();
        stations.retain(|station| before.serves(*station) && !access.serves(*station));
        stations.sort_unstable_by_key(|station| station.octets());
        stations.dedup();
        let shut_out = stations.into_iter().map(|station| match ledger.of(station) {
            Some(record) => {
                assert!(
                    record.writing() == 0 || planted(Fault::EditNotDrained),
                    "an edit is answered when no write of whom it shuts out is running"
                );
                ShutOut { station, writes: Some(record.writes) }
            }
            None => ShutOut { station, writes: (ledger.forgotten() == 0).then_some(0) },
        });
        shut_out.collect()
    }

    /// r11 has no better word for "I cannot keep this".
    fn answer_not_stored(&mut self, index: u32, to: &ReplyTo, kind: EditKind) {
        let error = Some(ErrorCode::DeviceUnavailable);
        match kind {
            EditKind::ConfigString(command) => self.answer_config(to, index, command, error),
            EditKind::Mask(_) => self.answer_mask_failure(to, MaskError::Unspecified, 0),
            EditKind::Reservation(command) => self.answer_reservation(to, index, command, error),
        }
    }
}
