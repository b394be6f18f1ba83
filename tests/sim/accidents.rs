//! Everything that goes wrong, and how it ends.

use std::path::Path;

use aoe_common::addr::Address;
use aoe_common::ata::CacheMemory;
use aoe_common::time::Duration;
use aoe_common::wire::MacAddr;
use aoe_initiator::engine::{Device, DeviceConfig, QUARANTINE};
use aoe_target::engine::changes::Adjustment;
use aoe_target::engine::editors::EditPolicy;
use aoe_target::engine::export::{ExportConfig, Hold, StoredState};
use aoe_target::engine::operation::DiskId;
use aoe_target::engine::stale::LIFE as FRAME_LIFE;
use aoe_target::engine::{EngineConfig, Target};
use aoe_target::lives::Opened;
use fastrand::Rng;

use super::admin::{Admin, RESEND_AFTER};
use super::aoe_ko::AoeKo;
use super::client::Client;
use super::knobs::Arrangement;
use super::network::{Direction, Place};
use super::server::{Forgetful, Server};
use super::workload::Pending;
use super::world::{ADMIN, Event, Process, TargetHost, World};

/// A kind of accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accident {
    Flap,
    Mtu,
    Partition,
    Freeze,
    Kill,
    Power,
    Takeover,
    Fencing,
    Hostile,
    Change,
    Reboot,
    Narrow,
    ReadOnly,
}

const ALL: [Accident; 13] = [
    Accident::Flap,
    Accident::Mtu,
    Accident::Partition,
    Accident::Freeze,
    Accident::Kill,
    Accident::Power,
    Accident::Takeover,
    Accident::Fencing,
    Accident::Hostile,
    Accident::Change,
    Accident::Reboot,
    Accident::Narrow,
    Accident::ReadOnly,
];

const MILLIS: u64 = 1_000_000;
/// A host stands still for this long at the most: with the longest time on the wire it is less than a frame may live.
const FREEZE_MAX: u64 = 3_000 * MILLIS;
/// A host whose power was cut takes this long to start, at least: longer than a frame lives.
const BOOT_MIN: u64 = 10_000 * MILLIS;

/// What a kernel's clock is like: ticks in a second, and what it shows at time zero.
pub(super) fn draw_ticks(rng: &mut Rng) -> (u64, u64) {
    ([100, 250, 300, 1000][rng.usize(..4)], rng.u64(..1 << 16))
}

impl World {
    fn mean(&self, accident: Accident) -> u64 {
        let accidents = &self.knobs.accidents;
        match accident {
            Accident::Flap => accidents.flap,
            Accident::Mtu => accidents.mtu,
            Accident::Partition => accidents.partition,
            Accident::Freeze => accidents.freeze,
            Accident::Kill => accidents.kill,
            Accident::Power => accidents.power,
            Accident::Takeover => accidents.takeover,
            Accident::Fencing => accidents.fencing,
            Accident::Hostile => accidents.hostile,
            Accident::Change => accidents.change,
            Accident::Reboot => accidents.reboot,
            Accident::Narrow => accidents.narrow,
            Accident::ReadOnly => accidents.read_only,
        }
    }

    fn schedule_accident(&mut self, accident: Accident) {
        let mean = self.mean(accident);
        if mean > 0 {
            let after = self.rng.u64(1..=2 * mean);
            self.schedule(after, Event::Accident(accident));
        }
    }

    /// Sets up what accidents need.
    pub fn begin_accidents(&mut self) {
        if self.knobs.accidents.fencing > 0 {
            let hosts = self.targets.len()..self.hosts();
            let stations = hosts.flat_map(|host| self.places(host)).map(Place::mac).collect();
            let target = Place { host: 0, port: 0 }.mac();
            let address = self.targets[0].exports[0].0;
            let admin = Admin::new(ADMIN.mac(), stations, address, target, &mut self.rng);
            let mask = admin.first_mask();
            self.targets[0].exports[0].2 = StoredState { mask, ..StoredState::default() };
            self.admin = Some(admin);
            self.network.set_place(ADMIN, 1500);
        }
        for accident in ALL {
            self.schedule_accident(accident);
        }
        // Mostly it was so when the first came.
        if self.knobs.accidents.narrow > 0 && self.rng.bool() {
            self.narrow();
        }
    }

    fn narrow(&mut self) {
        let most = [1500, 1500, 2500, 4200][self.rng.usize(..4)];
        self.tell(format!("frames above {most} bytes began to vanish"));
        self.network.narrow = Some(most);
        let last = self.rng.u64(1..=60_000 * MILLIS);
        self.schedule(last, Event::Widen);
    }

    /// An accident happens, and the next of its kind is on its way.
    pub fn accident(&mut self, accident: Accident) -> Result<(), String> {
        if self.mean(accident) == 0 {
            return Ok(());
        }
        self.schedule_accident(accident);
        match accident {
            Accident::Flap => {
                let place = self.draw_place_of_anybody();
                self.tell(format!("port {} of host {} went down", place.port, place.host));
                let down = self.rng.u64(1..=2 * self.knobs.accidents.flap.max(1));
                self.schedule(down, Event::PortUp { place });
                self.set_port(place, false)?;
            }
            Accident::Mtu => {
                let place = self.draw_place_of_anybody();
                let mtu = [1500, 4200, 9000][self.rng.usize(..3)];
                self.network.set_place(place, mtu);
                self.tell(format!("port {} of host {} got MTU {mtu}", place.port, place.host));
                self.set_port(place, true)?;
            }
            Accident::Partition => {
                let host = self.rng.usize(..self.hosts());
                let mut places = self.places(host);
                if self.rng.bool() {
                    places = vec![places[self.rng.usize(..places.len())]];
                }
                let directions = [Direction::In, Direction::Out];
                let directions = [&directions[..], &directions[..1], &directions[1..]][self.rng.usize(..3)];
                let last = self.rng.u64(1..=20_000 * MILLIS);
                self.tell(format!("{directions:?} of {places:?} cut off for {} ms", last / MILLIS));
                for place in places {
                    for direction in directions.iter().copied() {
                        self.network.cut(place, direction);
                        self.schedule(last, Event::Mend { place, direction });
                    }
                }
            }
            Accident::Freeze => {
                let host = self.rng.usize(..self.hosts());
                let last = self.rng.u64(1..=FREEZE_MAX);
                // What waits in front of a host gets its turn between two pauses.
                if !self.is_frozen(host) {
                    self.tell(format!("host {host} stood still for {} ms", last / MILLIS));
                    self.freeze(host, last);
                }
            }
            Accident::Kill => {
                let target = self.rng.usize(..self.targets.len());
                self.kill(target, "killed");
                self.come_back(target, 0);
            }
            Accident::Power => {
                let target = self.rng.usize(..self.targets.len());
                self.cut_power(target)?;
            }
            Accident::Takeover => {
                let client = self.rng.usize(..self.clients.len());
                self.kill_client(client);
            }
            Accident::Fencing => self.shut_somebody_out(),
            Accident::Hostile => self.send_hostile(),
            Accident::Change => self.change_export(),
            Accident::Reboot => {
                let target = self.rng.usize(..self.targets.len());
                self.stop_for_a_reboot(target);
            }
            Accident::Narrow => self.narrow(),
            Accident::ReadOnly => self.take_no_writes(),
        }
        Ok(())
    }

    /// A target's host loses its power.
    pub fn cut_power(&mut self, target: usize) -> Result<(), String> {
        self.kill(target, "lost its power");
        self.targets[target].boots += 1;
        for at in 0..self.targets[target].exports.len() {
            let disk = self.targets[target].exports[at].1;
            self.lose(disk)?;
        }
        self.come_back(target, BOOT_MIN);
        Ok(())
    }

    /// A target is told to stop: it takes no requests any more, and does what it has.
    fn stop_for_a_reboot(&mut self, target: usize) {
        let host = &mut self.targets[target];
        if host.server.is_none() || host.is_stopping {
            return;
        }
        host.is_stopping = true;
        let process = Process { target, generation: host.generation };
        self.tell(format!("target {target} was told to stop"));
        self.schedule(MILLIS, Event::Stopping { process });
    }

    /// A target that stops syncs its disks when nothing is under way any more, notes which are closed, and ends; its host
    /// boots. What is on no disk by then is lost.
    pub fn go_on_stopping(&mut self, process: Process) -> Result<(), String> {
        let target = process.target;
        let host = &self.targets[target];
        let Some(server) = host.server.as_ref().filter(|_| host.generation == process.generation) else {
            return Ok(());
        };
        if self.is_frozen(target) || server.holds() > 0 {
            self.schedule(MILLIS, Event::Stopping { process });
            return Ok(());
        }
        let mut closed = Vec::new();
        for (at, (_, disk, stored)) in self.targets[target].exports.clone().into_iter().enumerate() {
            let Some(Server::Ours(engine)) = &self.targets[target].server else { continue };
            if stored.lost.or(engine.export(DiskId(at as u32)).durability.poisoned()).is_some() {
                continue;
            }
            if self.rng.u32(..1000) < 10 * self.knobs.disk_errors {
                self.targets[target].exports[at].2.lost = Some(5);
                self.tell(format!("the last sync of disk {disk} failed"));
                self.lose(disk)?;
                continue;
            }
            self.disks[disk].sync();
            closed.push(self.targets[target].leases[at].clone());
        }
        let host = &mut self.targets[target];
        host.lives.close(&host.boots.to_string(), &closed);
        self.cut_power(target)
    }

    /// The worst moment to lose power is just after a flush was believed.
    pub fn tempt_fate(&mut self, disk: usize) {
        if self.knobs.accidents.power > 0 && self.rng.u32(..4) == 0 {
            let exports = |host: &TargetHost| host.exports.iter().any(|(_, of, _)| *of == disk);
            let target = self.targets.iter().position(exports).expect("each disk is exported");
            self.schedule(1, Event::PowerCut { target });
        }
    }

    fn draw_place_of_anybody(&mut self) -> Place {
        let host = self.rng.usize(..self.hosts());
        let places = self.places(host);
        places[self.rng.usize(..places.len())]
    }

    /// Accidents end, and what they did is undone; but where the way became narrow it stays so, as that stops nobody.
    pub fn heal(&mut self) {
        self.knobs.heal();
        self.network.mend_all();
        self.let_everybody_in();
    }

    /// A target starts, for the first time or again.
    pub fn start_target(&mut self, target: usize) {
        let host = &mut self.targets[target];
        let exports = host.exports.iter().map(|(address, ..)| Opened {
            address: *address,
            image: Path::new("disk"),
            is_written: true,
            is_direct: false,
        });
        let now = self.now;
        host.leases = host.lives.open(&host.boots.to_string(), now, &exports.collect::<Vec<_>>(), || now.to_string());
        host.is_stopping = false;
        let host = &self.targets[target];
        let server = if self.knobs.arrangement == Arrangement::Forgetful {
            Server::Forgetful(Box::new(Forgetful::new(host.exports[0].0, self.knobs.sectors, "SIM0")))
        } else {
            let now = self.clock(target);
            let mut engine =
                Target::new(EngineConfig { buffers: self.knobs.pool, persist: true, wildcard_edits: false });
            for ((address, disk, stored), lease) in host.exports.iter().zip(&host.leases) {
                let memory = lease.memory(&[target as u8], stored.cleared);
                let config = self.export_config(*address, *disk, memory);
                let id = engine.add_export(now, config, stored.clone()).expect("an address of its own");
                if let Some(died_at) = host.died_at {
                    let anybody = now - Duration::from_nanos(self.now - died_at) + FRAME_LIFE;
                    engine.hold_writes(id, Hold { anybody, retagged: now + FRAME_LIFE });
                }
            }
            Server::Ours(Box::new(engine))
        };
        let refuses = host.exports.iter().any(|(_, _, stored)| stored.lost.is_some());
        self.targets[target].server = Some(server);
        if refuses {
            self.call_operator(target);
        }
        for place in self.places(target) {
            self.set_port(place, true).expect("a target that starts cannot fail");
        }
        self.drain_target(target);
    }

    fn export_config(&self, address: Address, disk: usize, cache_memory: CacheMemory) -> ExportConfig {
        ExportConfig {
            address,
            sectors: self.knobs.sectors,
            read_only: false,
            buffers: self.knobs.buffers,
            allow: Vec::new(),
            edits: EditPolicy::default(),
            cache: self.knobs.cache,
            serial: format!("SIM{disk}"),
            model: "Simulated disk".to_owned(),
            physical_sector_exponent: if self.knobs.mtu == 1500 { 0 } else { 3 },
            rotational: None,
            cache_memory,
        }
    }

    /// An operator removes an export, or drains it. It comes back after a while, with what was stored of it.
    fn change_export(&mut self) {
        let target = self.rng.usize(..self.targets.len());
        let now = self.clock(target);
        let host = &mut self.targets[target];
        let process = Process { target, generation: host.generation };
        let Some(Server::Ours(engine)) = &mut host.server else { return };
        if host.is_stopping {
            return;
        }
        let export = DiskId(self.rng.usize(..host.exports.len()) as u32);
        if !engine.export(export).is_heard() {
            return;
        }
        let how = if self.rng.bool() {
            engine.remove_export(export);
            "removed"
        } else {
            engine.drain(now, export, true);
            "drained"
        };
        self.tell(format!("export {} of target {target} was {how}", export.0));
        let after = self.rng.u64(MILLIS..=5_000 * MILLIS);
        self.schedule(after, Event::BackAgain { process, export });
        self.drain_target(target);
    }

    /// The operator lets an export serve again, as soon as what was under way has ended.
    pub fn serve_again(&mut self, process: Process, export: DiskId) {
        let target = process.target;
        let now = self.clock(target);
        let (address, disk, _) = self.targets[target].exports[export.0 as usize];
        let lease = self.targets[target].leases[export.0 as usize].clone();
        let Some(Server::Ours(engine)) = &mut self.targets[target].server else { return };
        if engine.export(export).draining {
            engine.drain(now, export, false);
        } else if !engine.is_quiet(export) {
            return self.schedule(MILLIS, Event::BackAgain { process, export });
        } else {
            let stored = engine.export(export).stored();
            engine.finish_removal(now, export);
            let memory = lease.memory(&[target as u8], stored.cleared);
            let config = self.export_config(address, disk, memory);
            let Some(Server::Ours(engine)) = &mut self.targets[target].server else { return };
            let id = engine.add_export(now, config, stored).expect("its place is free");
            assert_eq!(id, export, "what is remembered goes by the number");
            self.targets[target].sealed.remove(&export);
        }
        self.drain_target(target);
    }

    /// An operator lets an export take no writes. It does again after a while.
    fn take_no_writes(&mut self) {
        let target = self.rng.usize(..self.targets.len());
        let host = &self.targets[target];
        let process = Process { target, generation: host.generation };
        let export = DiskId(self.rng.usize(..host.exports.len()) as u32);
        let after = self.rng.u64(MILLIS..=5_000 * MILLIS);
        if self.adjust(target, export, true) {
            self.tell(format!("export {} of target {target} takes no writes", export.0));
            self.schedule(after, Event::Writable { process, export });
            self.drain_target(target);
        }
    }

    /// An export takes writes again, as soon as no other change of it is under way.
    pub fn take_writes_again(&mut self, process: Process, export: DiskId) {
        let Process { target, .. } = process;
        self.targets[target].sealed.remove(&export);
        if !self.adjust(target, export, false) {
            return self.schedule(MILLIS, Event::Writable { process, export });
        }
        self.drain_target(target);
    }

    /// Changes whether an export takes writes. Tells whether that was begun.
    fn adjust(&mut self, target: usize, export: DiskId, read_only: bool) -> bool {
        let Some(Server::Ours(engine)) = &mut self.targets[target].server else { return false };
        let ExportConfig { address, cache, buffers, allow, edits, read_only: is, .. } = &engine.export(export).config;
        if *is == read_only || engine.disk_of(*address) != Some(export) {
            return !read_only && *is == read_only;
        }
        let to = Adjustment { cache: *cache, read_only, buffers: *buffers, allow: allow.clone(), edits: edits.clone() };
        engine.adjust(export, to).is_ok()
    }

    /// A target dies. What it had the disk do is done in part.
    fn kill(&mut self, target: usize, how: &str) {
        let host = &mut self.targets[target];
        let Some(server) = host.server.take() else { return };
        if let Server::Ours(engine) = server {
            // A target that dies before it has stored that data was lost: nobody could know.
            for (export, (_, _, stored)) in engine.exports().zip(&mut host.exports) {
                stored.lost = stored.lost.or(export.durability.poisoned());
            }
        }
        self.tell(format!("target {target} {how}"));
        let host = &mut self.targets[target];
        host.generation += 1;
        host.sealed.clear();
        host.died_at = Some(self.now);
        for (disk, handle) in std::mem::take(&mut host.running) {
            self.disks[disk].abandon(handle, &mut self.rng);
        }
        for (_, disk, _) in &host.exports {
            self.models[*disk].target_died();
        }
    }

    fn come_back(&mut self, target: usize, at_least: u64) {
        let after = at_least + self.rng.u64(MILLIS..=5_000 * MILLIS);
        self.schedule(after, Event::Restart { target });
    }

    /// An export refuses writes until somebody has looked at its disk.
    pub fn call_operator(&mut self, target: usize) {
        let after = self.rng.u64(MILLIS..=5_000 * MILLIS);
        self.schedule(after, Event::Operator { target });
    }

    /// Somebody has, and starts the target anew.
    pub fn operator_steps_in(&mut self, target: usize) {
        self.kill(target, "stopped by the operator");
        for (_, _, stored) in &mut self.targets[target].exports {
            stored.lost = None;
            stored.cleared += 1;
        }
        self.come_back(target, 0);
    }

    fn freeze(&mut self, host: usize, last: u64) {
        let until = self.now + last;
        match self.targets.len() {
            targets if host < targets => self.targets[host].node.frozen_until = until,
            targets => self.clients[host - targets].node.frozen_until = until,
        }
        self.schedule(last, Event::Thaw { host });
    }

    /// An initiator starts, for the first time or in place of one that died.
    pub fn start_client(&mut self, client: usize) -> Result<(), String> {
        let host = self.targets.len() + client;
        let now = self.clock(host);
        let (address, is_kernel) = (self.clients[client].address, self.clients[client].is_kernel);
        let takes_over = self.clients[client].next_id > 0;
        let engine: Box<dyn Client> = if is_kernel {
            let targets = (0..self.targets.len()).flat_map(|host| self.places(host)).map(Place::mac);
            let targets = targets.collect::<Vec<MacAddr>>();
            Box::new(AoeKo::new(now, address, targets, self.clients[client].ticks))
        } else {
            let dead_after = Some(self.knobs.dead_after).filter(|after| *after > 0).map(Duration::from_nanos);
            let config = DeviceConfig {
                address,
                identity: self.rng.u128(..).to_le_bytes(),
                tag_start: self.rng.u32(..),
                dead_after,
                hold_writes: if takes_over { QUARANTINE } else { Duration::ZERO },
                frame_life: QUARANTINE,
                network_repeats: false,
            };
            Box::new(Device::new(now, config))
        };
        self.clients[client].client = Some(engine);
        for place in self.places(host) {
            self.set_port(place, true)?;
        }
        Ok(())
    }

    /// An initiator dies with everything it had under way.
    fn kill_client(&mut self, client: usize) {
        if self.clients[client].client.take().is_none() {
            return;
        }
        self.tell(format!("host {client} died"));
        let settled = self.now + QUARANTINE.as_nanos() as u64;
        let clients = self.clients.len();
        let host = &mut self.clients[client];
        for pending in std::mem::take(&mut host.pending).into_values() {
            if let Pending::Write { disk, serial, .. } = pending {
                self.models[disk].write_given_up(serial, settled, None);
            }
        }
        self.models.iter_mut().for_each(|model| model.writer_told(host.incarnation));
        host.incarnation += clients;
        // A new one starts at once, as a process or module does, or after the boot of a machine.
        let mut after = self.rng.u64(MILLIS..=100 * MILLIS);
        if self.rng.bool() {
            after = BOOT_MIN + self.rng.u64(..=10_000 * MILLIS);
            self.clients[client].ticks = draw_ticks(&mut self.rng);
        }
        self.schedule(after, Event::Return { client });
    }

    fn shut_somebody_out(&mut self) {
        let host = self.targets.len() + self.rng.usize(..self.clients.len());
        let stations: Vec<_> = self.places(host).into_iter().map(Place::mac).collect();
        let Some(admin) = self.admin.as_mut() else { return };
        if admin.edit.is_some() || admin.has_to_let_in || self.targets[0].server.is_none() {
            return;
        }
        let frame = admin.begin(stations);
        self.send_edit(&frame);
        self.tell(format!("host {host} is to be shut out"));
    }

    fn send_edit(&mut self, frame: &[u8]) {
        let tag = self.admin.as_ref().and_then(|admin| admin.edit.as_ref()).expect("it has just begun").tag;
        self.send(ADMIN, frame);
        self.schedule(RESEND_AFTER, Event::AdminResends { tag });
    }

    /// The administrator has its answer.
    pub fn edit_answered(&mut self) {
        if self.admin.as_ref().is_some_and(|admin| admin.has_to_let_in) {
            let after = self.rng.u64(MILLIS..=4_000 * MILLIS);
            self.schedule(after, Event::LetIn);
        }
    }

    /// Everybody is let in again, now or when the edit under way is answered.
    pub fn let_everybody_in(&mut self) {
        let Some(admin) = self.admin.as_mut() else { return };
        if admin.edit.is_some() || !admin.has_to_let_in {
            return;
        }
        let frame = admin.begin(Vec::new());
        self.send_edit(&frame);
        self.tell("everybody is to be let in".to_owned());
    }
}
