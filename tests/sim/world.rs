//! One run: targets, initiators, network and disks under a virtual clock, and the checks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::PathBuf;

use aoe_common::addr::Address;
use aoe_common::time::Instant;
use aoe_common::wire::Frame;
use aoe_initiator::engine as initiator;
use aoe_target::engine as target;
use aoe_target::engine::export::StoredState;
use aoe_target::engine::operation::{DiskError, DiskId};
use aoe_target::lives::{Lease, Lives};
use fastrand::Rng;

use super::accidents::{Accident, draw_ticks};
use super::admin::{Admin, RESEND_AFTER};
use super::capture::Capture;
use super::client::Client;
use super::disk::Disk;
use super::hostile::Hostile;
use super::knobs::{Arrangement, Knobs};
use super::model::Model;
use super::network::{Direction, Network, NetworkCounters, Place};
use super::pattern::Stamp;
use super::server::Server;
use super::workload::Pending;

/// Hosts that are neither targets nor initiators; targets are 0 and up, initiators follow.
pub(super) const ADMIN: Place = Place { host: 100, port: 0 };
const HOSTILE: Place = Place { host: 200, port: 0 };

/// Virtual time after which accidents end, whatever is still to be asked for.
const SAFETY_PHASE_MAX: u64 = 300_000_000_000;
/// Virtual time within which something has to complete, again and again, once accidents have ended.
const HEALED_PAUSE_MAX: u64 = 120_000_000_000;
/// Events in one run at the most, for each request; more is a livelock.
const STEPS_MAX: u64 = 20_000;
/// Accidents kept for the story of a failure.
const STORY_MAX: usize = 4;

/// How a run is to be made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Print every event.
    pub trace: bool,
    /// Write all frames to this file.
    pub capture: Option<PathBuf>,
    /// Keep asking, with pauses, for this long (in nanoseconds of virtual time), and let accidents go on.
    pub long: Option<u64>,
}

/// What a run that went well did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Requests completed.
    pub requests: u64,
    /// Requests that failed, as they may when targets die, disks fail or stations are shut out.
    pub failures: u64,
    /// Events.
    pub steps: u64,
    /// Virtual time in nanoseconds.
    pub nanos: u64,
    /// What the network did.
    pub network: NetworkCounters,
    /// Accidents of all kinds.
    pub accidents: u64,
    /// Frames the initiators sent again.
    pub resends: u64,
    /// Repeated requests the targets did not run again.
    pub repeats: u64,
    /// Operations the targets held back for overlapping ones.
    pub waits: u64,
    /// Times a station was shut out, and the edit answered.
    pub shut_out: u64,
    /// Paths that initiators knew to be narrow when the way became wide again.
    pub narrow_paths: u64,
}

impl Report {
    /// Adds up two runs.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.steps += other.steps;
        self.nanos += other.nanos;
        self.accidents += other.accidents;
        self.resends += other.resends;
        self.repeats += other.repeats;
        self.waits += other.waits;
        self.shut_out += other.shut_out;
        self.narrow_paths += other.narrow_paths;
    }
}

/// A promise that was broken.
#[derive(Debug)]
pub struct Failure {
    /// The run's seed.
    pub seed: u64,
    /// When, in nanoseconds of virtual time.
    pub at: u64,
    /// What happened.
    pub what: String,
    /// The accidents before it.
    pub story: Vec<String>,
    /// The knobs of the run.
    pub knobs: Knobs,
}

/// A time for people.
pub(super) fn seconds(nanos: u64) -> String {
    format!("{}.{:06} s", nanos / 1_000_000_000, nanos / 1000 % 1_000_000)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Knobs { arrangement, initiators, kernels, ports, mtu, .. } = self.knobs;
        write!(f, "seed {} ({arrangement:?}, {initiators} initiators and {kernels} aoe.ko, ", self.seed)?;
        write!(f, "{ports} ports, MTU {mtu}): at {} {}", seconds(self.at), self.what)?;
        let story = if self.story.is_empty() { "no accident".to_owned() } else { self.story.join(", ") };
        write!(f, "; before that: {story}")
    }
}

#[derive(Debug)]
pub(super) enum Event {
    Frame { to: Place, bytes: Vec<u8> },
    DiskStep { process: Process, disk: usize, handle: usize, half: usize },
    DiskDone { process: Process, disk: usize, handle: usize },
    Stored { process: Process, disk: DiskId, state: StoredState },
    Ask { client: usize },
    Thaw { host: usize },
    Accident(Accident),
    PortUp { place: Place },
    Widen,
    Mend { place: Place, direction: Direction },
    Restart { target: usize },
    Return { client: usize },
    Operator { target: usize },
    PowerCut { target: usize },
    AdminResends { tag: u32 },
    LetIn,
    BackAgain { process: Process, export: DiskId },
    Stopping { process: Process },
    Writable { process: Process, export: DiskId },
}

/// A target from its start to its death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub target: usize,
    pub generation: u32,
}

/// What every host has: a clock of its own, and a queue in front of it.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// How far its clock is ahead.
    clock: u64,
    pub frozen_until: u64,
    waiting: VecDeque<(u32, Vec<u8>)>,
}

pub(super) struct TargetHost {
    pub node: Node,
    /// `None`: it is dead.
    pub server: Option<Server>,
    pub generation: u32,
    /// How often its host started anew.
    pub boots: u32,
    /// What is noted of its exports over boots, and under what each is served.
    pub lives: Lives,
    pub leases: Vec<Lease>,
    /// It was told to stop, and takes no requests any more.
    pub is_stopping: bool,
    /// Its exports in the engine's order: address, disk, settings that survive.
    pub exports: Vec<(Address, usize, StoredState)>,
    /// Operations with the disks.
    pub running: Vec<(usize, usize)>,
    pub died_at: Option<u64>,
    /// Exports of which the operator was told that they take no writes any more.
    pub sealed: BTreeSet<DiskId>,
}

pub(super) struct ClientHost {
    pub node: Node,
    /// `None`: it is dead.
    pub client: Option<Box<dyn Client>>,
    pub is_kernel: bool,
    /// The clock in a kernel's tags.
    pub ticks: (u64, u64),
    pub address: Address,
    pub incarnation: usize,
    pub pending: BTreeMap<u64, Pending>,
    pub next_id: u64,
    pub left: u32,
    pub ask_at: u64,
}

pub(super) struct World {
    pub now: u64,
    seq: u64,
    pub rng: Rng,
    pub knobs: Knobs,
    pub options: Options,
    queue: BTreeMap<(u64, u64), Event>,
    pub network: Network,
    capture: Option<Capture>,
    pub targets: Vec<TargetHost>,
    pub clients: Vec<ClientHost>,
    pub disks: Vec<Disk>,
    pub models: Vec<Model>,
    pub admin: Option<Admin>,
    hostile: Hostile,
    /// Who submitted each write, and in which life.
    pub writers: Vec<usize>,
    pub completed_at: u64,
    healed_at: Option<u64>,
    pub story: VecDeque<String>,
    pub report: Report,
    out: Vec<u8>,
}

/// Runs one seed.
pub fn run(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    let mut world = World::new(seed, options.clone());
    let result = world.run();
    result.map_err(|what| {
        let story = world.story.iter().cloned().collect();
        Box::new(Failure { seed, at: world.now, what, story, knobs: world.knobs.clone() })
    })?;
    Ok(world.report)
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut knobs = Knobs::draw(&mut rng);
        let mut apart = Rng::with_seed(!seed);
        knobs.draw_changes(&mut apart);
        knobs.draw_narrow(&mut apart);
        if options.long.is_some() {
            (knobs.requests, knobs.pause) = (u32::MAX, knobs.pause.max(5_000_000_000));
        }
        // Address, target, disk.
        let exports: &[(Address, usize, usize)] = match knobs.arrangement {
            Arrangement::Single | Arrangement::Forgetful => &[(Address::new(0, 1), 0, 0)],
            Arrangement::Several => {
                &[(Address::new(0, 1), 0, 0), (Address::new(0, 2), 0, 1), (Address::new(7, 0), 1, 2)]
            }
            Arrangement::Twins => &[(Address::new(0, 1), 0, 0), (Address::new(0, 1), 1, 0)],
            Arrangement::Collision => &[(Address::new(0, 1), 0, 0), (Address::new(0, 1), 1, 1)],
        };
        let target_count = exports.iter().map(|(_, target, _)| target + 1).max().expect("at least one");
        let disk_count = exports.iter().map(|(_, _, disk)| disk + 1).max().expect("at least one");
        let mut node = || Node { clock: rng.u64(..1 << 40), ..Node::default() };
        let mut ticks_rng = Rng::with_seed(seed);
        let targets: Vec<_> = (0..target_count)
            .map(|target| TargetHost {
                node: node(),
                server: None,
                generation: 0,
                boots: 0,
                lives: Lives::default(),
                leases: Vec::new(),
                is_stopping: false,
                exports: exports
                    .iter()
                    .filter(|(_, at, _)| *at == target)
                    .map(|(address, _, disk)| (*address, *disk, StoredState::default()))
                    .collect(),
                running: Vec::new(),
                died_at: None,
                sealed: BTreeSet::new(),
            })
            .collect();
        let clients = (0..knobs.initiators + knobs.kernels)
            .map(|index| ClientHost {
                node: node(),
                client: None,
                is_kernel: index >= knobs.initiators,
                ticks: draw_ticks(&mut ticks_rng),
                address: exports[index % exports.len()].0,
                incarnation: index,
                pending: BTreeMap::new(),
                next_id: 0,
                left: knobs.requests,
                ask_at: 0,
            })
            .collect();
        Self {
            now: 0,
            seq: 0,
            network: Network::default(),
            capture: None,
            targets,
            clients,
            disks: (0..disk_count).map(|_| Disk::new(knobs.sectors, knobs.arrangement == Arrangement::Twins)).collect(),
            models: (0..disk_count).map(|_| Model::new(knobs.sectors)).collect(),
            admin: None,
            hostile: Hostile::new(HOSTILE.host as u8),
            writers: vec![usize::MAX],
            completed_at: 0,
            healed_at: None,
            queue: BTreeMap::new(),
            story: VecDeque::new(),
            report: Report::default(),
            out: vec![0; initiator::FRAME_MAX],
            rng,
            knobs,
            options,
        }
    }

    /// The time as a host sees it.
    pub fn clock(&self, host: usize) -> Instant {
        Instant::from_nanos(self.now + self.node(host).clock)
    }

    pub fn node(&self, host: usize) -> &Node {
        match self.targets.get(host) {
            Some(target) => &target.node,
            None => &self.clients[host - self.targets.len()].node,
        }
    }

    fn node_mut(&mut self, host: usize) -> &mut Node {
        let targets = self.targets.len();
        match self.targets.get_mut(host) {
            Some(target) => &mut target.node,
            None => &mut self.clients[host - targets].node,
        }
    }

    pub fn is_frozen(&self, host: usize) -> bool {
        self.node(host).frozen_until > self.now
    }

    /// The places of a host.
    pub fn places(&self, host: usize) -> Vec<Place> {
        let is_kernel = host.checked_sub(self.targets.len()).is_some_and(|client| self.clients[client].is_kernel);
        let ports = if is_kernel { 1 } else { self.knobs.ports as u32 };
        (0..ports).map(|port| Place { host, port }).collect()
    }

    pub fn hosts(&self) -> usize {
        self.targets.len() + self.clients.len()
    }

    pub fn schedule(&mut self, after: u64, event: Event) {
        self.seq += 1;
        self.queue.insert((self.now + after, self.seq), event);
    }

    pub fn tell(&mut self, what: String) {
        if self.options.trace {
            println!("{:>14} {what}", self.now);
        }
        self.report.accidents += 1;
        if self.story.len() == STORY_MAX {
            self.story.pop_front();
        }
        self.story.push_back(format!("{what} at {}", seconds(self.now)));
    }

    pub fn has_healed(&self) -> bool {
        self.healed_at.is_some()
    }

    fn run(&mut self) -> Result<(), String> {
        if let Some(path) = &self.options.capture {
            self.capture = Some(Capture::create(path)?);
        }
        for host in 0..self.hosts() {
            for place in self.places(host) {
                self.network.set_place(place, self.knobs.mtu);
            }
        }
        self.begin_accidents();
        for target in 0..self.targets.len() {
            self.start_target(target);
        }
        for client in 0..self.clients.len() {
            self.start_client(client)?;
        }
        while self.clients.iter().any(|host| host.left > 0 || !host.pending.is_empty()) {
            let all_asked = self.clients.iter().all(|host| host.left == 0);
            let enough = self.now > self.options.long.unwrap_or(SAFETY_PHASE_MAX);
            if self.healed_at.is_none() && (all_asked || enough) {
                self.heal();
                self.healed_at = Some(self.now);
                if self.options.long.is_some() {
                    self.clients.iter_mut().for_each(|host| host.left = 0);
                }
            }
            if self.healed_at.is_some_and(|at| self.now > self.completed_at.max(at) + HEALED_PAUSE_MAX) {
                return Err(self.describe_stall());
            }
            self.step()?;
        }
        // Whatever is still on the wire arrives now, and must not undo anything.
        if !self.has_healed() {
            self.heal();
            self.healed_at = Some(self.now);
        }
        while !self.queue.is_empty() {
            self.step()?;
        }
        self.check_rest()
    }

    /// Goes to the next moment at which something happens, and lets it happen.
    fn step(&mut self) -> Result<(), String> {
        self.report.steps += 1;
        let requests_max = u64::from(self.knobs.requests) * self.clients.len() as u64;
        if self.options.long.is_none() && self.report.steps > STEPS_MAX * requests_max {
            return Err(format!("livelock: {} events and no end", self.report.steps));
        }
        let event_at = self.queue.keys().next().map(|(at, _)| *at);
        let timer = self.clients.iter().enumerate().filter_map(|(client, host)| {
            let at = host.client.as_ref()?.poll_timeout()?.as_nanos().saturating_sub(host.node.clock);
            Some((at.max(host.node.frozen_until), client))
        });
        if let Some((at, client)) = timer.min()
            && event_at.is_none_or(|event_at| at <= event_at)
        {
            self.now = self.now.max(at);
            let now = self.clock(self.targets.len() + client);
            self.clients[client].client.as_mut().expect("it has a timer").handle_timeout(now);
            return self.drain_client(client);
        }
        let Some(((at, _), event)) = self.queue.pop_first() else {
            return Err("nothing is left to happen".to_owned());
        };
        self.now = self.now.max(at);
        self.happen(event)
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Frame { to: ADMIN, bytes } => {
                let admin = self.admin.as_mut().expect("frames for an administrator there is");
                if admin.handle_frame(&bytes) {
                    self.edit_answered();
                }
            }
            Event::Frame { to: HOSTILE, .. } => {}
            Event::Frame { to, bytes } => {
                let ring = self.knobs.ring;
                let node = self.node_mut(to.host);
                if node.waiting.len() < ring {
                    node.waiting.push_back((to.port, bytes));
                }
                self.receive(to.host)?;
            }
            Event::Thaw { host } => {
                self.receive(host)?;
                if host < self.targets.len() {
                    self.drain_target(host);
                } else {
                    self.drain_client(host - self.targets.len())?;
                }
            }
            Event::DiskStep { process, disk, handle, half } => {
                if self.is_running(process, disk, handle) {
                    self.check_fence(disk, handle)?;
                    self.check_seal(process.target, disk, handle)?;
                    self.disks[disk].step(handle, half);
                }
            }
            Event::DiskDone { process, disk, handle } => {
                if !self.is_running(process, disk, handle) {
                } else if self.is_frozen(process.target) {
                    let thawed = self.node(process.target).frozen_until - self.now;
                    self.schedule(thawed, Event::DiskDone { process, disk, handle });
                } else {
                    self.disk_done(process.target, disk, handle)?;
                }
            }
            Event::Stored { process, disk, state } => {
                let host = &mut self.targets[process.target];
                let alive = host.generation == process.generation && host.server.is_some();
                let stored = self.knobs.disk_errors == 0 || self.rng.u32(..1000) >= 10 * self.knobs.disk_errors;
                // Whoever dies while it stores has stored or not.
                if if alive { stored } else { self.rng.bool() } {
                    host.exports[disk.0 as usize].2 = state;
                }
                if alive && let Some(Server::Ours(target)) = &mut host.server {
                    target.handle_persisted(disk, stored);
                    self.drain_target(process.target);
                }
            }
            Event::Ask { client } => self.drain_client(client)?,
            Event::Accident(accident) => self.accident(accident)?,
            Event::Widen => {
                let clients = self.clients.iter().filter_map(|host| host.client.as_ref());
                self.report.narrow_paths += clients.map(|client| client.narrow_paths()).sum::<u64>();
                self.tell("no frames vanish for their length any more".to_owned());
                self.network.narrow = None;
            }
            Event::PortUp { place } => self.set_port(place, true)?,
            Event::Mend { place, direction } => self.network.mend(place, direction),
            Event::Restart { target } => {
                if self.targets[target].server.is_none() {
                    self.start_target(target);
                }
            }
            Event::Return { client } => {
                if self.clients[client].client.is_none() {
                    self.start_client(client)?;
                }
            }
            Event::PowerCut { target } => self.cut_power(target)?,
            Event::Operator { target } => self.operator_steps_in(target),
            Event::AdminResends { tag } => {
                let edit = self.admin.as_ref().and_then(|admin| admin.edit.as_ref());
                if let Some(edit) = edit.filter(|edit| edit.tag == tag) {
                    let frame = edit.frame.clone();
                    self.send(ADMIN, &frame);
                    self.schedule(RESEND_AFTER, Event::AdminResends { tag });
                }
            }
            Event::LetIn => self.let_everybody_in(),
            Event::BackAgain { process, export } => {
                // One that was killed meanwhile serves all when it is back.
                if self.targets[process.target].generation == process.generation {
                    self.serve_again(process, export);
                }
            }
            Event::Stopping { process } => self.go_on_stopping(process)?,
            Event::Writable { process, export } => {
                if self.targets[process.target].generation == process.generation {
                    self.take_writes_again(process, export);
                }
            }
        }
        Ok(())
    }

    /// A host takes in what waits in front of it, as far as it can.
    fn receive(&mut self, host: usize) -> Result<(), String> {
        if self.is_frozen(host) {
            return Ok(());
        }
        let now = self.clock(host);
        if let Some(target) = self.targets.get_mut(host) {
            let Some(server) = target.server.as_mut().filter(|_| !target.is_stopping) else {
                target.node.waiting.clear();
                self.drain_target(host);
                return Ok(());
            };
            while server.has_room()
                && let Some((port, bytes)) = target.node.waiting.pop_front()
            {
                server.handle_frame(now, target::PortId(port), &bytes);
            }
            self.drain_target(host);
            return Ok(());
        }
        let client = host - self.targets.len();
        while let Some((port, bytes)) = self.clients[client].node.waiting.pop_front() {
            let Some(engine) = self.clients[client].client.as_mut() else { continue };
            engine.handle_frame(now, initiator::PortId(port), &bytes);
            self.drain_client(client)?;
        }
        Ok(())
    }

    fn is_running(&self, process: Process, disk: usize, handle: usize) -> bool {
        let host = &self.targets[process.target];
        host.generation == process.generation && host.running.contains(&(disk, handle))
    }

    fn disk_done(&mut self, target: usize, disk: usize, handle: usize) -> Result<(), String> {
        let fails = self.rng.u32(..1000) < self.knobs.disk_errors;
        let completion = if fails {
            let syncs = self.disks[disk].syncs(handle);
            let loses = syncs && (self.disks[disk].writes(handle).is_none() || self.rng.bool());
            let error = if loses { DiskError::Lost(5) } else { DiskError::Io(5) };
            let completion = self.disks[disk].fail(handle, error, &mut self.rng);
            if loses {
                self.tell(format!("a sync of disk {disk} failed"));
                self.lose(disk)?;
            }
            completion
        } else {
            self.disks[disk].complete(handle)
        };
        let now = self.clock(target);
        let host = &mut self.targets[target];
        host.running.retain(|running| *running != (disk, handle));
        host.server.as_mut().expect("it was running").handle_completion(now, completion);
        self.receive(target)
    }

    /// What was not durable may be gone; what is left is looked at.
    pub fn lose(&mut self, disk: usize) -> Result<(), String> {
        self.disks[disk].lose(&mut self.rng);
        self.models[disk].power_lost(self.now);
        // A moment later: what is left is what there is from here on.
        self.now += 1;
        self.look_at(disk)
    }

    /// Reads a disk as nobody in the world can.
    fn look_at(&mut self, disk: usize) -> Result<(), String> {
        for lba in 0..self.knobs.sectors {
            let stamp = self.disks[disk].stamp(lba)?;
            self.models[disk].read(self.now, self.now, lba, stamp).map_err(|what| format!("(looking) {what}"))?;
        }
        Ok(())
    }

    /// Promise 7: a station that was shut out by an edit that was answered writes nothing any more.
    fn check_fence(&self, disk: usize, handle: usize) -> Result<(), String> {
        let Some(admin) = &self.admin else { return Ok(()) };
        let writer = |stamp: Stamp| self.writers.get(stamp as usize).copied().filter(|client| *client != usize::MAX);
        if let Some(client) = self.disks[disk].writes(handle).and_then(writer) {
            let station = Place { host: self.targets.len() + client, port: 0 }.mac();
            if admin.out.contains(&station) {
                return Err(format!("a write of host {client} runs, which was shut out, and the edit answered"));
            }
        }
        Ok(())
    }

    /// Of a change to read-only that was answered holds the same.
    fn check_seal(&self, target: usize, disk: usize, handle: usize) -> Result<(), String> {
        let host = &self.targets[target];
        let is_sealed = |export: &DiskId| host.exports[export.0 as usize].1 == disk;
        match host.sealed.iter().any(is_sealed) && self.disks[disk].writes(handle).is_some() {
            true => Err(format!("a write runs at disk {disk} of target {target}, which takes none any more")),
            false => Ok(()),
        }
    }

    pub fn set_port(&mut self, place: Place, up: bool) -> Result<(), String> {
        let mtu = self.network.mtu(place);
        let now = self.clock(place.host);
        if self.options.trace {
            println!("{:>14} port {place:?} {} at MTU {mtu}", self.now, if up { "up" } else { "down" });
        }
        if let Some(target) = self.targets.get_mut(place.host) {
            let info = target::PortInfo { mac: place.mac(), mtu };
            if let Some(server) = target.server.as_mut() {
                server.set_port(target::PortId(place.port), up.then_some(info));
                self.drain_target(place.host);
            }
            return Ok(());
        }
        let client = place.host - self.targets.len();
        let info = initiator::PortInfo { mac: place.mac(), mtu };
        if let Some(engine) = self.clients[client].client.as_mut() {
            engine.set_port(now, initiator::PortId(place.port), up.then_some(info));
        }
        self.drain_client(client)
    }

    pub fn send(&mut self, from: Place, frame: &[u8]) {
        let mut copies = Vec::new();
        self.network.send(&self.knobs, &mut self.rng, from, frame, |to, delay| copies.push((to, delay)));
        if let Some(capture) = &mut self.capture {
            capture.frame(self.now, frame).expect("a capture file that can be written");
        }
        if self.options.trace {
            let arrivals: Vec<_> =
                copies.iter().map(|(to, delay)| format!("{}.{}+{delay}", to.host, to.port)).collect();
            println!("{:>14} {}.{} -> [{}] {}", self.now, from.host, from.port, arrivals.join(" "), describe(frame));
        }
        if self.knobs.accidents.hostile > 0 && from != HOSTILE {
            self.hostile.overhear(&mut self.rng, frame);
        }
        for (to, delay) in copies {
            self.schedule(delay, Event::Frame { to, bytes: frame.to_vec() });
        }
    }

    /// The stranger sends something.
    pub fn send_hostile(&mut self) {
        let victims: Vec<_> = (0..self.hosts()).flat_map(|host| self.places(host)).map(Place::mac).collect();
        let address = self.targets[0].exports[0].0;
        let frame = self.hostile.frame(&mut self.rng, &victims, address);
        self.send(HOSTILE, &frame);
    }

    pub fn drain_target(&mut self, target: usize) {
        let generation = self.targets[target].generation;
        let process = Process { target, generation };
        if self.is_frozen(target) {
            return;
        }
        while let Some(server) = self.targets[target].server.as_mut()
            && let Some(operation) = server.poll_disk()
        {
            let disk = self.targets[target].exports[operation.disk.0 as usize].1;
            if self.options.trace {
                println!("{:>14} target {target} disk {disk} {:?} {:?}", self.now, operation.id, operation.kind);
            }
            let handle = self.disks[disk].start(operation);
            self.targets[target].running.push((disk, handle));
            let mut moments = [0; 3].map(|_| self.rng.u64(1..=self.knobs.disk_max));
            moments.sort_unstable();
            self.schedule(moments[0], Event::DiskStep { process, disk, handle, half: 0 });
            self.schedule(moments[1], Event::DiskStep { process, disk, handle, half: 1 });
            self.schedule(moments[2], Event::DiskDone { process, disk, handle });
        }
        while let Some(server) = self.targets[target].server.as_mut()
            && let Some((port, frame)) = server.poll_transmit()
        {
            if let Some(admin) = &mut self.admin {
                let before = admin.out.len();
                admin.overhear(&frame);
                self.report.shut_out += u64::from(admin.out.len() > before);
            }
            self.send(Place { host: target, port: port.0 }, &frame);
        }
        let TargetHost { server, sealed, .. } = &mut self.targets[target];
        if let Some(Server::Ours(engine)) = server {
            let mut poisoned = false;
            let mut stores = Vec::new();
            while let Some(event) = engine.poll_event() {
                poisoned |= matches!(event, target::Event::Poisoned { .. });
            }
            while let Some(persist) = engine.poll_persist() {
                stores.push(persist);
            }
            while let Some((export, in_force)) = engine.poll_changed() {
                if in_force && engine.export(export).config.read_only {
                    sealed.insert(export);
                }
            }
            for target::Persist { disk, state } in stores {
                let after = self.rng.u64(1..=self.knobs.disk_max);
                self.schedule(after, Event::Stored { process, disk, state });
            }
            if poisoned {
                self.call_operator(target);
            }
        }
    }

    pub fn drain_client(&mut self, client: usize) -> Result<(), String> {
        let host = self.targets.len() + client;
        if self.is_frozen(host) {
            return Ok(());
        }
        loop {
            while let Some(engine) = self.clients[client].client.as_mut()
                && let Some(completion) = engine.poll_completion()
            {
                self.check(client, completion)?;
            }
            self.ask_for_more(client);
            let now = self.clock(host);
            let mut out = std::mem::take(&mut self.out);
            let mut sent = false;
            while let Some(engine) = self.clients[client].client.as_mut()
                && let Some((port, len)) = engine.poll_transmit(now, &mut out)
            {
                self.send(Place { host, port: port.0 }, &out[..len]);
                sent = true;
            }
            self.out = out;
            if !sent {
                return Ok(());
            }
        }
    }

    /// Everything is over: the disks hold what they may hold, and nobody holds anything else.
    fn check_rest(&mut self) -> Result<(), String> {
        for disk in 0..self.disks.len() {
            self.look_at(disk).map_err(|what| format!("in the end, {what}"))?;
        }
        for target in &self.targets {
            let server = target.server.as_ref().ok_or("a target did not come back")?;
            if server.holds() != 0 || !server.has_room() || !target.running.is_empty() {
                return Err(format!("a target still holds {} requests", server.holds()));
            }
            if let Server::Ours(engine) = server {
                for export in engine.exports() {
                    self.report.repeats += export.counters.repeats;
                    self.report.waits += export.counters.waits;
                }
            }
        }
        for host in &self.clients {
            let client = host.client.as_ref().ok_or("an initiator did not come back")?;
            if client.holds() != 0 {
                return Err("an initiator still holds something".to_owned());
            }
            self.report.resends += client.resends();
        }
        self.report.network = self.network.counters;
        self.report.nanos = self.now;
        Ok(())
    }

    fn describe_stall(&self) -> String {
        let hosts: Vec<_> = self
            .clients
            .iter()
            .map(|host| {
                let up = host.client.as_ref().map(|client| client.is_up());
                format!("{} is up: {up:?}, {} to ask, waits for {:?}", host.address, host.left, host.pending)
            })
            .collect();
        format!("no progress on a healthy network: {}", hosts.join("; "))
    }
}

/// A frame in one line.
fn describe(bytes: &[u8]) -> String {
    let Ok(frame) = Frame::parse(bytes) else { return "garbage".to_owned() };
    let header = frame.header;
    let what = match aoe_common::wire::AtaRepr::parse(frame.body) {
        Ok((ata, _)) if header.command == aoe_common::wire::Command::Ata => {
            format!("ATA {:02x} lba {} count {}", ata.command, ata.lba(), ata.count)
        }
        _ => format!("{:?}", header.command),
    };
    let direction = if header.response { "answer" } else { "request" };
    format!("{direction} {:08x} {what}", header.tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds run by every test run, in slices so that the runner can spread them.
    fn slice(from: u64, to: u64) {
        let mut total = Report::default();
        for seed in from..to {
            match run(seed, &Options::default()) {
                Ok(report) => total.add(&report),
                Err(failure) => panic!("{failure}"),
            }
        }
        println!("seeds {from}..{to}: {total:?}");
        let Report { resends, repeats, waits, accidents, failures, shut_out, narrow_paths, .. } = total;
        let happened = [resends, repeats, waits, accidents, failures, shut_out, narrow_paths];
        assert!(happened.iter().all(|count| *count > 0), "everything happened: {total:?}");
    }

    #[test]
    fn seeds_0_to_100() {
        slice(0, 100);
    }

    #[test]
    fn seeds_100_to_200() {
        slice(100, 200);
    }

    #[test]
    fn seeds_200_to_300() {
        slice(200, 300);
    }

    #[test]
    fn seeds_300_to_400() {
        slice(300, 400);
    }

    #[test]
    fn a_seed_repeats_exactly() {
        for seed in [1, 7, 42] {
            let again = || format!("{:?}", run(seed, &Options::default()).map_err(|failure| failure.to_string()));
            assert_eq!(again(), again());
        }
    }
}
