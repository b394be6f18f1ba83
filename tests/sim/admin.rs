//! Somebody who takes stations off an export and lets them in again, by the mask list or by reservations.

use aoe_common::addr::Address;
use aoe_common::wire::{
    Command, DirectiveCommand, DirectiveRepr, Frame, MacAddr, MaskCommand, MaskRepr, ReserveCommand, ReserveRepr,
};
use fastrand::Rng;

use super::frames::{self, Envelope};

/// An unanswered edit is sent again after this long, in nanoseconds.
pub const RESEND_AFTER: u64 = 200_000_000;

/// An edit under way.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Stations it shuts out; empty when it lets everybody in again.
    pub out: Vec<MacAddr>,
    /// Its tag.
    pub tag: u32,
    /// The frame.
    pub frame: Vec<u8>,
}

/// The administrator, one station.
#[derive(Debug)]
pub struct Admin {
    /// Its address.
    pub mac: MacAddr,
    /// Everybody who may use the export, itself included.
    pub stations: Vec<MacAddr>,
    address: Address,
    target: MacAddr,
    by_mask: bool,
    next_tag: u32,
    /// Shut out, by its last edit that was answered.
    pub out: Vec<MacAddr>,
    /// Somebody was shut out and not let in again.
    pub has_to_let_in: bool,
    /// The edit under way.
    pub edit: Option<Edit>,
}

impl Admin {
    /// An administrator of one export.
    pub fn new(mac: MacAddr, mut stations: Vec<MacAddr>, address: Address, target: MacAddr, rng: &mut Rng) -> Self {
        stations.push(mac);
        let next_tag = rng.u32(..) | 1 << 31;
        Self {
            mac,
            stations,
            address,
            target,
            by_mask: rng.bool(),
            next_tag,
            out: Vec::new(),
            has_to_let_in: false,
            edit: None,
        }
    }

    /// The mask list the export starts with: one that is empty lets everybody in, and could not be added to.
    pub fn first_mask(&self) -> Vec<MacAddr> {
        if self.by_mask { self.stations.clone() } else { Vec::new() }
    }

    /// Begins to shut these stations out, or to let everybody in again when there are none. Returns the frame.
    pub fn begin(&mut self, out: Vec<MacAddr>) -> Vec<u8> {
        self.next_tag = self.next_tag.wrapping_add(1) | 1 << 31;
        let envelope = Envelope {
            source: self.mac,
            destination: self.target,
            address: self.address,
            tag: self.next_tag,
            response: false,
        };
        let frame = match self.by_mask {
            true => {
                // Both directions name stations, so that a copy of either is told from the other.
                let (command, macs) = match out.is_empty() {
                    true => (DirectiveCommand::Add, &self.stations),
                    false => (DirectiveCommand::Delete, &out),
                };
                let repr = MaskRepr { command: MaskCommand::Edit, error: None, directive_count: macs.len() as u8 };
                let len = MaskRepr::FIXED_LEN + macs.len() * MaskRepr::DIRECTIVE_LEN;
                let directives = macs.iter().map(|mac| DirectiveRepr { command, mac: *mac });
                frames::frame(&envelope, Command::Mask, len, |body| repr.emit(directives, body))
            }
            false => {
                let stays = |mac: &&MacAddr| !out.is_empty() && !out.contains(*mac);
                let macs: Vec<_> = self.stations.iter().filter(stays).copied().collect();
                let repr = ReserveRepr { command: ReserveCommand::ForceSet, mac_count: macs.len() as u8 };
                let len = ReserveRepr::FIXED_LEN + macs.len() * ReserveRepr::MAC_LEN;
                frames::frame(&envelope, Command::Reserve, len, |body| repr.emit(macs.iter().copied(), body))
            }
        };
        // From here on whoever is let in may be in.
        if out.is_empty() {
            self.out.clear();
        }
        self.edit = Some(Edit { out, tag: self.next_tag, frame: frame.clone() });
        frame
    }

    /// A target sends this frame. If it is the answer to the edit under way, that is in force.
    pub fn overhear(&mut self, bytes: &[u8]) {
        let Ok(frame) = Frame::parse(bytes) else { return };
        let Some(edit) = self.edit.as_ref() else { return };
        if frame.ethernet.destination == self.mac && judge(&frame, edit) == Some(true) && self.out.is_empty() {
            self.out.clone_from(&edit.out);
        }
    }

    /// A frame arrives here. Returns whether it ended the edit under way.
    pub fn handle_frame(&mut self, bytes: &[u8]) -> bool {
        let Ok(frame) = Frame::parse(bytes) else { return false };
        let Some(edit) = self.edit.as_ref() else { return false };
        let Some(good) = judge(&frame, edit).filter(|_| frame.ethernet.source == self.target) else { return false };
        self.has_to_let_in = if good { !edit.out.is_empty() } else { self.has_to_let_in };
        self.edit = None;
        true
    }
}

/// Whether a frame answers an edit, and says that it is in force.
fn judge(frame: &Frame<'_>, edit: &Edit) -> Option<bool> {
    if !frame.header.response || frame.header.tag != edit.tag {
        return None;
    }
    let stopped = frame.header.command == Command::Mask
        && MaskRepr::parse(frame.body).is_ok_and(|(mask, _)| mask.error.is_some());
    Some(frame.header.error.is_none() && !stopped)
}
