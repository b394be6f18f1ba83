//! What a read of each sector may return: the promises of a disk, checked one sector at a time.
//!
//! Every write has the time it was submitted and, later, the time by which it has certainly taken effect or never
//! will: when it was acknowledged, when a read that returned it ended, or, for one that failed or whose writer died,
//! when no copy of it can be left anywhere. A write is *superseded* from the moment at which a write that was submitted
//! after that time is acknowledged, or a read begun after that time and showing something else ends. A read may return
//! any write submitted before the read ended, unless it was superseded before the read began. So a value that was once
//! replaced never comes back, whatever the network does with old copies.
//!
//! A write becomes *durable* when it is acknowledged as such, or when a flush is that was submitted after it had been
//! acknowledged. When power is lost, older values may come back, but none that had certainly been written before a
//! durable write of the sector was submitted. A flush that comes after such a loss, and succeeds, says that nothing of
//! its sender's was lost.

use std::collections::BTreeMap;

use super::pattern::Stamp;

#[derive(Debug)]
struct Write {
    stamp: Stamp,
    /// Unique, also among the zeroings that share stamp 0.
    serial: u64,
    submitted: u64,
    acknowledged: Option<u64>,
    /// It has taken effect by then, or never will.
    effective: Option<u64>,
    superseded: Option<u64>,
    /// Who was told that it failed, and when: a write of theirs that is submitted later is never undone by it.
    holder: Option<(usize, u64)>,
    /// A read that shows it proves that it will not take effect again.
    runs_once: bool,
}

#[derive(Debug)]
struct Sector {
    writes: Vec<Write>,
    /// The submission of the latest durable write: what was there before cannot come back.
    durable: u64,
}

/// A write that a flush has to make durable.
#[derive(Debug)]
struct Volatile {
    writer: usize,
    acknowledged: u64,
    start: u64,
    end: u64,
    /// Power was lost since: nobody but its writer is to be told so.
    in_doubt: bool,
}

/// The allowed values of every sector.
#[derive(Debug)]
pub struct Model {
    sectors: Vec<Sector>,
    /// Writes under way: serial to sectors.
    pending: BTreeMap<u64, (u64, u64, u64)>,
    /// Acknowledged and not durable, by serial.
    volatile: BTreeMap<u64, Volatile>,
    next_serial: u64,
    /// When power was lost last.
    lost_at: Option<u64>,
}

impl Sector {
    fn is_gone(&self, write: &Write) -> bool {
        write.effective.is_some_and(|at| at < self.durable)
    }

    fn make_durable(&mut self, now: u64, serial: u64) {
        let Some(write) = self.writes.iter().find(|write| write.serial == serial) else { return };
        let submitted = write.submitted;
        self.durable = self.durable.max(submitted);
        // What was there before cannot be there now, even if it came back when power was lost.
        for write in self.writes.iter_mut().filter(|write| write.effective.is_some_and(|at| at < submitted)) {
            earlier(&mut write.superseded, now);
        }
    }
}

fn earlier(at: &mut Option<u64>, now: u64) {
    *at = Some(at.map_or(now, |at| at.min(now)));
}

impl Model {
    /// A disk of zeros.
    pub fn new(sectors: u64) -> Self {
        let zeros = || Write {
            stamp: 0,
            serial: 0,
            submitted: 0,
            acknowledged: Some(0),
            effective: Some(0),
            superseded: None,
            holder: None,
            runs_once: true,
        };
        let sectors = (0..sectors).map(|_| Sector { writes: vec![zeros()], durable: 0 }).collect();
        Self { sectors, pending: BTreeMap::new(), volatile: BTreeMap::new(), next_serial: 1, lost_at: None }
    }

    /// A write (stamp 0: a zeroing) was submitted. `runs_once`: to a target that knows a repeated request. Returns
    /// its serial.
    pub fn write_submitted(&mut self, now: u64, stamp: Stamp, lba: u64, sectors: u64, runs_once: bool) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.pending.insert(serial, (now, lba, lba + sectors));
        for sector in &mut self.sectors[lba as usize..(lba + sectors) as usize] {
            sector.writes.push(Write {
                stamp,
                serial,
                submitted: now,
                acknowledged: None,
                effective: None,
                superseded: None,
                holder: None,
                runs_once,
            });
        }
        serial
    }

    /// A write of this writer was acknowledged, as durable or not.
    pub fn write_acknowledged(&mut self, now: u64, serial: u64, writer: usize, durable: bool) {
        let (submitted, start, end) = self.pending.remove(&serial).expect("a write ends once");
        // The answer may be older than the loss.
        let in_doubt = !durable && self.lost_at.is_some_and(|at| submitted <= at);
        for sector in &mut self.sectors[start as usize..end as usize] {
            for write in &mut sector.writes {
                if write.serial == serial {
                    write.acknowledged = Some(now);
                    earlier(&mut write.effective, now);
                    continue;
                }
                let is_held = write.holder.is_some_and(|(holder, since)| holder == writer && since < submitted);
                if !in_doubt && (is_held || write.effective.is_some_and(|at| at < submitted)) {
                    earlier(&mut write.superseded, now);
                }
            }
            if durable {
                sector.make_durable(now, serial);
            }
        }
        if !durable {
            self.volatile.insert(serial, Volatile { writer, acknowledged: now, start, end, in_doubt });
        }
    }

    /// A write failed, or its writer died: until `settled` it may yet take effect, whole or in part, but not over what
    /// `holder` writes after it was told.
    pub fn write_given_up(&mut self, serial: u64, settled: u64, holder: Option<(usize, u64)>) {
        let (_, start, end) = self.pending.remove(&serial).expect("a write ends once");
        for sector in &mut self.sectors[start as usize..end as usize] {
            let write = sector.writes.iter_mut().find(|write| write.serial == serial).expect("pending writes are kept");
            write.effective = Some(settled);
            write.holder = holder;
            write.runs_once = false;
        }
    }

    /// A flush of this writer that was submitted at `submitted` was acknowledged.
    pub fn flush_acknowledged(&mut self, now: u64, submitted: u64, writer: usize) {
        let Self { sectors, volatile, .. } = self;
        volatile.retain(|serial, write| {
            let covered = write.acknowledged < submitted && (!write.in_doubt || write.writer == writer);
            if covered {
                let sectors = &mut sectors[write.start as usize..write.end as usize];
                sectors.iter_mut().for_each(|sector| sector.make_durable(now, *serial));
            }
            !covered
        });
    }

    /// A writer is gone, or was told that a flush failed: what it had in doubt is no longer promised to anybody.
    pub fn writer_told(&mut self, writer: usize) {
        self.volatile.retain(|_, write| !write.in_doubt || write.writer != writer);
    }

    /// The target died and forgot what it had run: what was not acknowledged may run again.
    pub fn target_died(&mut self) {
        let pending = &self.pending;
        for write in self.sectors.iter_mut().flat_map(|sector| &mut sector.writes) {
            if pending.contains_key(&write.serial) {
                (write.effective, write.superseded, write.runs_once) = (None, None, false);
            }
        }
    }

    /// What was not durable may be lost. Its writer must not be told afterwards that a flush made it durable.
    pub fn power_lost(&mut self, now: u64) {
        self.lost_at = Some(now);
        for sector in &mut self.sectors {
            let durable = sector.durable;
            for write in &mut sector.writes {
                if write.effective.is_none_or(|at| at >= durable) {
                    write.superseded = None;
                }
            }
        }
        self.target_died();
        self.volatile.values_mut().for_each(|write| write.in_doubt = true);
    }

    /// A read of one sector, begun at `began` and ended now, returned `stamp`.
    pub fn read(&mut self, began: u64, now: u64, lba: u64, stamp: Stamp) -> Result<(), String> {
        let writes = &mut self.sectors[lba as usize].writes;
        let legal = |write: &Write| {
            write.stamp == stamp && write.submitted <= now && write.superseded.is_none_or(|at| at >= began)
        };
        if !writes.iter().any(legal) {
            let story = match writes.iter().find(|write| write.stamp == stamp) {
                Some(Write { superseded: Some(at), .. }) => {
                    format!("which was replaced for good {} ns before", began - at)
                }
                _ => "which was never written there, or so long ago that it is forgotten".to_owned(),
            };
            return Err(format!("a read of sector {lba}, begun at {began} ns, returned write {stamp}, {story}"));
        }
        if self.lost_at.is_some_and(|at| began <= at) {
            // It may tell of what was there before, and says nothing about what is.
            return Ok(());
        }
        let candidates = writes.iter().filter(|write| legal(write)).count();
        for write in writes.iter_mut() {
            if write.stamp != stamp {
                if write.effective.is_some_and(|at| at < began) {
                    earlier(&mut write.superseded, now);
                }
            } else if candidates == 1 && write.runs_once && write.superseded.is_none_or(|at| at >= began) {
                earlier(&mut write.effective, now);
            }
        }
        Ok(())
    }

    /// Forgets writes that no read begun at `oldest_read` or later may return, not even after a loss of power.
    pub fn forget(&mut self, oldest_read: u64) {
        let pending = &self.pending;
        for sector in self.sectors.iter_mut().filter(|sector| sector.writes.len() > 64) {
            let mut writes = std::mem::take(&mut sector.writes);
            let matters = |write: &Write| !sector.is_gone(write) || write.superseded.is_none_or(|at| at >= oldest_read);
            writes.retain(|write| matters(write) || pending.contains_key(&write.serial));
            sector.writes = writes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(model: &mut Model, at: u64, stamp: Stamp) -> u64 {
        model.write_submitted(at, stamp, 0, 1, true)
    }

    #[test]
    fn the_last_acknowledged_write_or_one_under_way() {
        let mut model = Model::new(1);
        let first = write(&mut model, 10, 1);
        assert!(model.read(11, 12, 0, 0).is_ok());
        assert!(model.read(11, 12, 0, 1).is_ok());
        model.write_acknowledged(20, first, 0, false);
        assert!(model.read(21, 22, 0, 1).is_ok());
        assert!(model.read(21, 22, 0, 0).is_err(), "zeros were replaced");
        assert!(model.read(21, 22, 0, 7).is_err(), "nobody wrote that");
    }

    #[test]
    fn what_was_seen_replaced_does_not_come_back() {
        let mut model = Model::new(1);
        let first = write(&mut model, 10, 1);
        let second = write(&mut model, 11, 2);
        model.write_acknowledged(20, first, 0, false);
        model.write_acknowledged(20, second, 0, false);
        assert!(model.read(30, 31, 0, 2).is_ok(), "they were under way together: either may be last");
        assert!(model.read(40, 41, 0, 1).is_err(), "but not both");
    }

    #[test]
    fn an_unacknowledged_write_takes_effect_once() {
        let mut model = Model::new(1);
        write(&mut model, 10, 1);
        assert!(model.read(20, 21, 0, 1).is_ok());
        let other = write(&mut model, 30, 2);
        model.write_acknowledged(40, other, 0, false);
        assert!(model.read(50, 51, 0, 1).is_err(), "it was seen at 21, so it cannot follow what came at 30");
    }

    #[test]
    fn a_target_that_died_may_run_it_again() {
        let mut model = Model::new(1);
        write(&mut model, 10, 1);
        assert!(model.read(20, 21, 0, 1).is_ok());
        model.target_died();
        let other = write(&mut model, 30, 2);
        model.write_acknowledged(40, other, 0, false);
        assert!(model.read(50, 51, 0, 2).is_ok());
        assert!(model.read(60, 61, 0, 1).is_ok());
        assert!(model.read(70, 71, 0, 2).is_err(), "that one was acknowledged: it ran once");
    }

    #[test]
    fn a_read_that_began_before_may_show_the_old_value() {
        let mut model = Model::new(1);
        let first = write(&mut model, 10, 1);
        model.write_acknowledged(20, first, 0, false);
        assert!(model.read(15, 25, 0, 0).is_ok());
        assert!(model.read(21, 25, 0, 0).is_err());
    }

    #[test]
    fn a_write_given_up_may_come_until_it_is_settled() {
        let mut model = Model::new(1);
        let lost = write(&mut model, 10, 1);
        model.write_given_up(lost, 100, None);
        let other = write(&mut model, 20, 2);
        model.write_acknowledged(30, other, 0, false);
        assert!(model.read(40, 41, 0, 2).is_ok());
        assert!(model.read(50, 51, 0, 1).is_ok());
        assert!(model.read(60, 61, 0, 2).is_err(), "that one was acknowledged: it ran once");
        let last = write(&mut model, 101, 3);
        model.write_acknowledged(102, last, 0, false);
        assert!(model.read(103, 104, 0, 1).is_err());
    }

    #[test]
    fn who_was_told_of_a_failure_is_safe_from_it() {
        let mut model = Model::new(1);
        let lost = write(&mut model, 10, 1);
        model.write_given_up(lost, 100, Some((0, 15)));
        let other = write(&mut model, 20, 2);
        model.write_acknowledged(30, other, 0, false);
        assert!(model.read(40, 41, 0, 1).is_err());
        assert!(model.read(40, 41, 0, 2).is_ok());
    }

    #[test]
    fn a_flush_keeps_what_was_acknowledged_before_it() {
        let mut model = Model::new(1);
        for (at, stamp) in [(10, 1), (20, 2), (30, 3)] {
            let serial = write(&mut model, at, stamp);
            model.write_acknowledged(at + 5, serial, 0, false);
        }
        model.flush_acknowledged(29, 28, 0);
        model.power_lost(40);
        let allowed = |model: &mut Model, stamp| {
            let sector = &model.sectors[0];
            let mut writes = sector.writes.iter();
            writes.any(|write| write.stamp == stamp && !sector.is_gone(write) && write.superseded.is_none())
        };
        assert!(!allowed(&mut model, 0) && !allowed(&mut model, 1), "write 2 was durable");
        assert!(allowed(&mut model, 2) && allowed(&mut model, 3));
        assert!(model.read(50, 51, 0, 1).is_err());
        assert!(model.read(50, 51, 0, 2).is_ok());
        assert!(model.read(60, 61, 0, 3).is_err(), "it was lost, and stays lost");
    }

    #[test]
    fn a_durable_write_is_there_after_a_loss_of_power() {
        let mut model = Model::new(1);
        let first = write(&mut model, 10, 1);
        model.write_acknowledged(20, first, 0, true);
        model.power_lost(25);
        assert!(model.read(30, 31, 0, 0).is_err());
        assert!(model.read(30, 31, 0, 1).is_ok());
    }

    #[test]
    fn a_flush_after_a_loss_may_not_succeed_for_the_writer_of_what_is_lost() {
        for writer in [0, 1] {
            let mut model = Model::new(1);
            let first = write(&mut model, 10, 1);
            model.write_acknowledged(20, first, 0, false);
            model.power_lost(25);
            assert!(model.read(30, 31, 0, 0).is_ok(), "it may be lost");
            model.flush_acknowledged(50, 40, writer);
            assert_eq!(model.read(60, 61, 0, 0).is_ok(), writer == 1, "but the flush said it is there");
        }
    }
}
