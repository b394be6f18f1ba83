//! What a read of each sector may return: the promises of a disk, checked one sector at a time.
//!
//! Every write has the time it was submitted and, later, the time by which it has certainly taken effect: when
//! it was acknowledged, or when a read that returned it ended. A write is *superseded* from the moment at which
//! a write that was submitted after it had taken effect is acknowledged, or a read begun after that and showing
//! something else ends. A read may return any write submitted before the read ended, unless it was superseded
//! before the read began. So a value that was once replaced never comes back, whatever the network does with
//! old copies.

use std::collections::BTreeMap;

use super::pattern::Stamp;

#[derive(Debug)]
struct Write {
    stamp: Stamp,
    /// Unique, also among the zeroings that share stamp 0.
    serial: u64,
    submitted: u64,
    effective: Option<u64>,
    superseded: Option<u64>,
}

/// The allowed values of every sector.
#[derive(Debug)]
pub struct Model {
    sectors: Vec<Vec<Write>>,
    /// Writes not yet acknowledged: serial to sectors.
    pending: BTreeMap<u64, (u64, u64, u64)>,
    next_serial: u64,
}

impl Model {
    /// A disk of zeros.
    pub fn new(sectors: u64) -> Self {
        let zeros = || vec![Write { stamp: 0, serial: 0, submitted: 0, effective: Some(0), superseded: None }];
        Self { sectors: (0..sectors).map(|_| zeros()).collect(), pending: BTreeMap::new(), next_serial: 1 }
    }

    /// A write (stamp 0: a zeroing) was submitted. Returns its serial.
    pub fn write_submitted(&mut self, now: u64, stamp: Stamp, lba: u64, sectors: u64) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.pending.insert(serial, (now, lba, lba + sectors));
        for sector in &mut self.sectors[lba as usize..(lba + sectors) as usize] {
            sector.push(Write { stamp, serial, submitted: now, effective: None, superseded: None });
        }
        serial
    }

    /// A write was acknowledged.
    pub fn write_acknowledged(&mut self, now: u64, serial: u64) {
        let (submitted, start, end) = self.pending.remove(&serial).expect("a write is acknowledged once");
        for sector in &mut self.sectors[start as usize..end as usize] {
            for write in sector.iter_mut() {
                if write.serial == serial {
                    write.effective = Some(write.effective.map_or(now, |at| at.min(now)));
                } else if write.effective.is_some_and(|at| at < submitted) {
                    write.superseded = Some(write.superseded.map_or(now, |at| at.min(now)));
                }
            }
        }
    }

    /// A read of one sector, begun at `began` and ended now, returned `stamp`.
    pub fn read(&mut self, began: u64, now: u64, lba: u64, stamp: Stamp) -> Result<(), String> {
        let sector = &mut self.sectors[lba as usize];
        let legal = |write: &Write| {
            write.stamp == stamp && write.submitted <= now && write.superseded.is_none_or(|at| at >= began)
        };
        if !sector.iter().any(legal) {
            let story = match sector.iter().find(|write| write.stamp == stamp) {
                Some(Write { superseded: Some(at), .. }) => {
                    format!("which was replaced for good {} ns before", began - at)
                }
                _ => "which was never written there".to_owned(),
            };
            return Err(format!("a read of sector {lba}, begun at {began} ns, returned write {stamp}, {story}"));
        }
        let candidates = sector.iter().filter(|write| legal(write)).count();
        for write in sector.iter_mut() {
            if write.stamp != stamp {
                if write.effective.is_some_and(|at| at < began) {
                    write.superseded = Some(write.superseded.map_or(now, |at| at.min(now)));
                }
            } else if candidates == 1 && write.superseded.is_none_or(|at| at >= began) {
                write.effective = Some(write.effective.map_or(now, |at| at.min(now)));
            }
        }
        Ok(())
    }

    /// Forgets writes that no read begun at `oldest_read` or later may return.
    pub fn forget(&mut self, oldest_read: u64) {
        for sector in &mut self.sectors {
            if sector.len() > 64 {
                sector.retain(|write| write.superseded.is_none_or(|at| at >= oldest_read));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_acknowledged_write_or_one_under_way() {
        let mut model = Model::new(1);
        let first = model.write_submitted(10, 1, 0, 1);
        assert!(model.read(11, 12, 0, 0).is_ok());
        assert!(model.read(11, 12, 0, 1).is_ok());
        model.write_acknowledged(20, first);
        assert!(model.read(21, 22, 0, 1).is_ok());
        assert!(model.read(21, 22, 0, 0).is_err(), "zeros were replaced");
        assert!(model.read(21, 22, 0, 7).is_err(), "nobody wrote that");
    }

    #[test]
    fn what_was_seen_replaced_does_not_come_back() {
        let mut model = Model::new(1);
        let first = model.write_submitted(10, 1, 0, 1);
        let second = model.write_submitted(11, 2, 0, 1);
        model.write_acknowledged(20, first);
        model.write_acknowledged(20, second);
        assert!(model.read(30, 31, 0, 2).is_ok(), "they were under way together: either may be last");
        assert!(model.read(40, 41, 0, 1).is_err(), "but not both");
    }

    #[test]
    fn an_unacknowledged_write_takes_effect_once() {
        let mut model = Model::new(1);
        model.write_submitted(10, 1, 0, 1);
        assert!(model.read(20, 21, 0, 1).is_ok());
        let other = model.write_submitted(30, 2, 0, 1);
        model.write_acknowledged(40, other);
        assert!(model.read(50, 51, 0, 1).is_err(), "it was seen at 21, so it cannot follow what came at 30");
    }

    #[test]
    fn a_read_that_began_before_may_show_the_old_value() {
        let mut model = Model::new(1);
        let first = model.write_submitted(10, 1, 0, 1);
        model.write_acknowledged(20, first);
        assert!(model.read(15, 25, 0, 0).is_ok());
        assert!(model.read(21, 25, 0, 0).is_err());
    }
}
