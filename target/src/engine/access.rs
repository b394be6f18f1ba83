//! Which stations may use an export: the operator's list, the MAC mask list, the reservation.
//!
//! A station outside the operator's list or the mask list gets no answer to anything. A station outside the
//! reservation gets error 6 for ATA commands other than IDENTIFY, and may still read lists and strings.
//! A MAC address proves nothing: whoever can send frames can borrow one.

use aoe_common::wire::{DirectiveCommand, DirectiveRepr, ErrorCode, MacAddr, MaskError, ReserveCommand};

/// Stations a mask list can hold; an answer with all of them fits a 1500-byte MTU.
pub const MASK_MAX: usize = 180;
/// Stations a reservation can hold; an answer with all of them fits a 1500-byte MTU.
pub const RESERVATION_MAX: usize = 240;

/// Who may use an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Set by the operator; empty means everybody. No frame changes it.
    pub allow: Vec<MacAddr>,
    /// The mask list; empty means everybody.
    pub mask: Vec<MacAddr>,
    /// The reservation; empty means nobody holds one.
    pub reservation: Vec<MacAddr>,
}

impl Access {
    /// Whether the station gets answers at all.
    pub fn hears(&self, station: MacAddr) -> bool {
        let on = |list: &[MacAddr]| list.is_empty() || list.contains(&station);
        on(&self.allow) && on(&self.mask)
    }

    /// Whether the station's disk commands are run.
    pub fn serves(&self, station: MacAddr) -> bool {
        self.hears(station) && (self.reservation.is_empty() || self.reservation.contains(&station))
    }

    /// Stations to announce to one by one; `None` when everybody may know.
    pub fn announce_to(&self) -> Option<Vec<MacAddr>> {
        let listed = if self.mask.is_empty() { &self.allow } else { &self.mask };
        if listed.is_empty() {
            return None;
        }
        Some(listed.iter().copied().filter(|station| self.hears(*station)).collect())
    }

    /// The mask list after the directives ran in order. On failure: why, at which directive, and the list
    /// with the earlier directives applied, which stays in force (r11).
    pub fn edit_mask(
        &self,
        directives: impl Iterator<Item = DirectiveRepr>,
    ) -> (Vec<MacAddr>, Option<(MaskError, u8)>) {
        let mut mask = self.mask.clone();
        for (index, directive) in directives.enumerate() {
            let failed = |error| Some((error, index as u8));
            match directive.command {
                DirectiveCommand::None => {}
                DirectiveCommand::Add if mask.contains(&directive.mac) => {}
                DirectiveCommand::Add if mask.len() == MASK_MAX => return (mask, failed(MaskError::Full)),
                DirectiveCommand::Add => mask.push(directive.mac),
                DirectiveCommand::Delete => mask.retain(|mac| *mac != directive.mac),
                DirectiveCommand::Unknown(_) => return (mask, failed(MaskError::BadDirective)),
            }
        }
        (mask, None)
    }

    /// The reservation a station's request leads to: `Ok(None)` when it only reads.
    pub fn reserve(
        &self,
        station: MacAddr,
        command: ReserveCommand,
        macs: impl Iterator<Item = MacAddr>,
    ) -> Result<Option<Vec<MacAddr>>, ErrorCode> {
        match command {
            ReserveCommand::Read => return Ok(None),
            ReserveCommand::Unknown(_) => return Err(ErrorCode::BadArgument),
            ReserveCommand::Set if !self.reservation.is_empty() && !self.reservation.contains(&station) => {
                return Err(ErrorCode::Reserved);
            }
            ReserveCommand::Set | ReserveCommand::ForceSet => {}
        }
        let macs: Vec<MacAddr> = macs.collect();
        if macs.len() > RESERVATION_MAX {
            return Err(ErrorCode::BadArgument);
        }
        Ok(Some(macs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xa);
    const B: MacAddr = MacAddr(2, 0, 0, 0, 0, 0xb);

    fn directive(command: DirectiveCommand, mac: MacAddr) -> DirectiveRepr {
        DirectiveRepr { command, mac }
    }

    #[test]
    fn empty_lists_let_everybody_in() {
        let access = Access::default();
        assert!(access.hears(A) && access.serves(A));
        assert_eq!(access.announce_to(), None);
    }

    #[test]
    fn both_lists_must_agree() {
        let access = Access { allow: vec![A], mask: vec![A, B], ..Access::default() };
        assert!(access.serves(A));
        assert!(!access.hears(B), "the mask list cannot widen the operator's");
        assert_eq!(access.announce_to(), Some(vec![A]));
    }

    #[test]
    fn mask_edits_run_in_order() {
        let access = Access { mask: vec![A], ..Access::default() };
        let edits = [
            directive(DirectiveCommand::Add, B),
            directive(DirectiveCommand::Add, B),
            directive(DirectiveCommand::Delete, A),
        ];
        assert_eq!(access.edit_mask(edits.into_iter()), (vec![B], None));
        let edits = [directive(DirectiveCommand::Delete, A), directive(DirectiveCommand::Unknown(7), B)];
        assert_eq!(access.edit_mask(edits.into_iter()), (vec![], Some((MaskError::BadDirective, 1))));
    }

    #[test]
    fn a_full_mask_list() {
        let mask = (0..MASK_MAX).map(|n| MacAddr(2, 0, 0, 0, 1, n as u8)).collect();
        let access = Access { mask, ..Access::default() };
        let (mask, error) = access.edit_mask([directive(DirectiveCommand::Add, A)].into_iter());
        assert_eq!((mask.len(), error), (MASK_MAX, Some((MaskError::Full, 0))));
    }

    #[test]
    fn only_a_holder_sets_a_reservation() {
        let held = Access { reservation: vec![A], ..Access::default() };
        assert!(held.serves(A) && held.hears(B) && !held.serves(B));
        assert_eq!(held.reserve(B, ReserveCommand::Set, [B].into_iter()), Err(ErrorCode::Reserved));
        assert_eq!(held.reserve(B, ReserveCommand::ForceSet, [B].into_iter()), Ok(Some(vec![B])));
        assert_eq!(held.reserve(A, ReserveCommand::Set, [].into_iter()), Ok(Some(vec![])));
        assert_eq!(held.reserve(B, ReserveCommand::Read, [].into_iter()), Ok(None));
        assert_eq!(held.reserve(A, ReserveCommand::Unknown(9), [].into_iter()), Err(ErrorCode::BadArgument));
        let crowd = (0..=RESERVATION_MAX).map(|n| MacAddr(2, 0, 0, 1, 0, n as u8));
        assert_eq!(held.reserve(A, ReserveCommand::Set, crowd), Err(ErrorCode::BadArgument));
    }
}
