//! What initiators ask for, and whether what they get is true.

use aoe_common::frame::SECTOR;
use aoe_initiator::engine::{Completion, IoError, Operation, QUARANTINE, Request};
use aoe_target::engine::durability::CacheMode;

use super::knobs::Arrangement;
use super::pattern;
use super::world::{Event, World};

/// How often a kernel's block layer looks for a request that overlaps none under way.
const DRAWS_MAX: u32 = 8;

/// A request under way.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    Read { disk: usize, began: u64, lba: u64, sectors: u64 },
    Write { disk: usize, serial: u64, lba: u64, sectors: u64, fua: bool },
    Flush { disk: usize, began: u64 },
}

impl Pending {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        match *self {
            Self::Read { lba, sectors, .. } | Self::Write { lba, sectors, .. } => start < lba + sectors && lba < end,
            Self::Flush { .. } => false,
        }
    }
}

impl World {
    /// Keeps an initiator's requests under way.
    pub fn ask_for_more(&mut self, client: usize) {
        let now = self.clock(self.targets.len() + client);
        if self.now < self.clients[client].ask_at {
            return;
        }
        loop {
            let host = &self.clients[client];
            let Some(engine) = host.client.as_ref() else { return };
            if !engine.is_up() || host.left == 0 || host.pending.len() >= self.knobs.depth {
                break;
            }
            let serial = engine.disk().expect("it is up");
            let disk = serial.strip_prefix("SIM").and_then(|number| number.parse().ok()).expect("a disk of ours");
            let (operation, pending) = match self.clients[client].is_kernel {
                true => match self.draw_for_kernel(client, disk) {
                    Some(drawn) => drawn,
                    None => break,
                },
                false => self.draw(client, disk),
            };
            let host = &mut self.clients[client];
            host.left -= 1;
            let id = host.next_id;
            host.next_id += 1;
            host.pending.insert(id, pending);
            host.client.as_mut().expect("just seen").submit(now, Request { id, operation });
        }
        if self.knobs.pause > 0 && self.clients[client].left > 0 {
            let pause = self.rng.u64(1..=self.knobs.pause);
            self.clients[client].ask_at = self.now + pause;
            self.schedule(pause, Event::Ask { client });
        }
    }

    /// A place on the disk: first sector and length.
    fn draw_place(&mut self, client: usize, writes: bool) -> (u64, u64) {
        let (mut from, mut size) = (0, self.knobs.sectors);
        if writes && self.knobs.writes_apart() {
            size /= self.clients.len() as u64;
            from = client as u64 * size;
        }
        let sectors = self.rng.u64(1..=self.knobs.request_sectors_max.min(size));
        (from + self.rng.u64(..=size - sectors), sectors)
    }

    fn draw_read(&mut self, client: usize, disk: usize) -> (Operation, Pending) {
        let (lba, sectors) = self.draw_place(client, false);
        let buffer = vec![0; sectors as usize * SECTOR];
        (Operation::Read { lba, buffer }, Pending::Read { disk, began: self.now, lba, sectors })
    }

    fn draw_write(
        &mut self,
        client: usize,
        disk: usize,
        (lba, sectors): (u64, u64),
        fua: bool,
    ) -> (Operation, Pending) {
        let stamp = self.writers.len() as u64;
        self.writers.push(client);
        let mut data = vec![0; sectors as usize * SECTOR];
        for (index, sector) in data.chunks_mut(SECTOR).enumerate() {
            pattern::fill(sector, stamp, lba + index as u64);
        }
        // aoe.ko's retries have new tags, and a twin or a forgetful target knows none.
        let runs_once = !self.clients[client].is_kernel && !self.knobs.writes_apart();
        let serial = self.models[disk].write_submitted(self.now, stamp, lba, sectors, runs_once);
        (Operation::Write { lba, data, fua }, Pending::Write { disk, serial, lba, sectors, fua })
    }

    fn draw(&mut self, client: usize, disk: usize) -> (Operation, Pending) {
        if self.rng.u32(..100) < self.knobs.flushes {
            return (Operation::Flush, Pending::Flush { disk, began: self.now });
        }
        if self.rng.u32(..100) >= self.knobs.writes {
            return self.draw_read(client, disk);
        }
        let (lba, sectors) = self.draw_place(client, true);
        let fua = self.rng.bool();
        if self.rng.u32(..100) >= self.knobs.zeroes {
            return self.draw_write(client, disk, (lba, sectors), fua);
        }
        let runs_once = !self.knobs.writes_apart();
        let serial = self.models[disk].write_submitted(self.now, 0, lba, sectors, runs_once);
        let unmap = self.rng.bool();
        // A trim may be ignored, and is where no writes are taken.
        let is_trim = self.rng.bool() && self.knobs.arrangement != Arrangement::Forgetful;
        let operation = match is_trim && !self.knobs.refuses_writes {
            true => Operation::Trim { lba, sectors, fua },
            false => Operation::Zero { lba, sectors, unmap, fua },
        };
        (operation, Pending::Write { disk, serial, lba, sectors, fua })
    }

    /// A kernel's page cache has no two requests for one place under way.
    fn draw_for_kernel(&mut self, client: usize, disk: usize) -> Option<(Operation, Pending)> {
        if self.rng.u32(..100) >= self.knobs.writes {
            return Some(self.draw_read(client, disk));
        }
        for _ in 0..DRAWS_MAX {
            let (lba, sectors) = self.draw_place(client, true);
            if !self.clients[client].pending.values().any(|pending| pending.overlaps(lba, lba + sectors)) {
                return Some(self.draw_write(client, disk, (lba, sectors), false));
            }
        }
        None
    }

    /// Whether a write that was acknowledged is durable.
    fn promises_durability(&self, client: usize, fua: bool) -> bool {
        match self.knobs.cache {
            CacheMode::Writethrough => true,
            // It never flushes, and is served so.
            CacheMode::Auto if self.clients[client].is_kernel => true,
            CacheMode::Auto | CacheMode::Writeback => fua,
        }
    }

    /// A request is over.
    pub fn check(&mut self, client: usize, completion: Completion) -> Result<(), String> {
        let Completion { id, result, buffer } = completion;
        let pending = self.clients[client].pending.remove(&id);
        let pending = pending.ok_or_else(|| format!("host {client} completes request {id} twice"))?;
        if self.options.trace {
            println!("{:>14} host {client} done {pending:?} {result:?}", self.now);
        }
        // What is asked for next comes after this, and is to be told from what came before.
        self.now += 1;
        self.completed_at = self.now;
        match result {
            Ok(()) => {
                self.report.requests += 1;
                self.believe(client, &pending, &buffer)?;
            }
            Err(error) => {
                self.report.failures += 1;
                if !self.may_fail(error) {
                    return Err(format!("{pending:?} of host {client} fails: {error}"));
                }
                match pending {
                    Pending::Write { disk, serial, .. } => {
                        let settled = self.now + QUARANTINE.as_nanos() as u64;
                        // An initiator of ours, told of a failure, lets no copy of it hit what it writes next.
                        let writer = self.clients[client].incarnation;
                        let holder = (!self.clients[client].is_kernel).then_some((writer, self.now));
                        self.models[disk].write_given_up(serial, settled, holder);
                    }
                    // It has been told.
                    Pending::Flush { disk, .. } => self.models[disk].writer_told(self.clients[client].incarnation),
                    Pending::Read { .. } => {}
                }
            }
        }
        self.forget();
        Ok(())
    }

    fn may_fail(&self, error: IoError) -> bool {
        match error {
            IoError::Dead => self.knobs.dead_after > 0,
            IoError::Reserved => self.admin.is_some(),
            IoError::CacheLost => self.knobs.loses_power || self.knobs.disks_fail,
            IoError::Unreadable => self.knobs.disks_fail,
            // aoe.ko does not tell one from the other.
            IoError::DeviceFault => self.knobs.disks_fail || self.knobs.refuses_writes,
            IoError::Refused => self.knobs.refuses_writes,
            _ => false,
        }
    }

    fn believe(&mut self, client: usize, pending: &Pending, buffer: &[u8]) -> Result<(), String> {
        let writer = self.clients[client].incarnation;
        match *pending {
            Pending::Flush { disk, began } => {
                self.models[disk].flush_acknowledged(self.now, began, writer);
                self.tempt_fate(disk);
            }
            Pending::Write { disk, serial, fua, .. } => {
                let durable = self.promises_durability(client, fua);
                self.models[disk].write_acknowledged(self.now, serial, writer, durable);
            }
            Pending::Read { disk, began, lba, sectors } => {
                for (lba, sector) in (lba..lba + sectors).zip(buffer.chunks(SECTOR)) {
                    let stamp = pattern::read(sector, lba)?;
                    let read = self.models[disk].read(began, self.now, lba, stamp);
                    read.map_err(|what| format!("(host {client}) {what}"))?;
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self) {
        let reads = self.clients.iter().flat_map(|host| host.pending.values()).filter_map(|pending| match pending {
            Pending::Read { began, .. } => Some(*began),
            _ => None,
        });
        let oldest_read = reads.min().unwrap_or(self.now);
        self.models.iter_mut().for_each(|model| model.forget(oldest_read));
    }
}
