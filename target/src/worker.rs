//! A worker: one thread that serves a set of exports on all interfaces.
//!
//! It owns its engine, its disks and a port of its own on each interface, so nothing on the way of a request is shared
//! or locked, and all frames for an export arrive in one place, in one order. Work goes in rounds: take frames, run
//! disk operations, send answers; each system call is for a whole batch. When a round moves nothing the worker sleeps
//! until a port, a disk or its mailbox wakes it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use aoe_common::addr::Address;
use aoe_common::frame::{FrameBuffer, SECTOR};
use aoe_common::link::{Filter, Interface, PortStats, monotonic_now};
use aoe_common::mailbox::Mailbox;
use aoe_common::target_status::ExportStatus;
use aoe_common::time::{Duration, Instant};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::{Notify, oneshot};

use crate::disk::{DiskFile, Disks, EngineChoice, MAX_DISKS};
use crate::engine::changes::{Adjustment, NotBegun, OperatorEdit};
use crate::engine::export::{Export, ExportConfig, Hold, StoredState};
use crate::engine::ledger::Record;
use crate::engine::operation::{DiskError, DiskId, DiskOperation, DiskOperationKind, OperationId};
use crate::engine::{EngineConfig, EngineCounters, Event, Persist, ShutOut, Target};
use crate::lanes::{Lanes, Progress};
use crate::lives::Lease;
use crate::log::about;
use crate::notify::Pulse;
use crate::polling::Polling;
use crate::state::{Save, Store, reason, summary};
use crate::status::export_status;

/// Frame buffers of a worker, each for one request or answer; 9 MiB at MTU 9000, made when first needed. When all are
/// in use, frames wait in the rings of the ports.
pub(crate) const BUFFERS: usize = 1024;

/// Disk operations in the kernel at once.
const DISK_DEPTH: u32 = 512;

/// How often one round looks for operations that ended at once and those that waited for them.
const DISK_PASSES: usize = 8;

/// Answers sent before the next look for requests, when disks take longer than the wire: so they get new work while the
/// rest goes out. Otherwise all their requests would go back and forth together, and disk and wire wait for each other
/// (O_DIRECT at depth 32: 45 to 51 against 38 thousand reads a second).
const PORTION: usize = 8;

/// How often the sizes of the files are read, and whether the kernel lost data of them.
const DISK_CHECK_EVERY: Duration = Duration::from_secs(2);

/// How often it is tried again to store that data was lost.
const SAVE_AGAIN_EVERY: Duration = Duration::from_secs(30);

/// How long a worker that is told to stop finishes what is under way.
pub(crate) const STOP_TIME: Duration = Duration::from_secs(10);

/// Events of one kind and export are logged once in this time, edits a few times: they are who shut out whom.
const LOG_EVERY: Duration = Duration::from_secs(5);
const EDITS_LOGGED: u64 = 20;

/// Stations named in one line about an edit. The report at the end has all.
const SHUT_OUT_NAMED: usize = 32;

/// What a worker is told while it serves. Bounded by what it holds: only the latest list of interfaces counts, each export
/// has at most one save under way, and the control side gives one order after the other, and asks for one status at a time.
#[derive(Default)]
pub(crate) struct Mail {
    /// The interfaces to serve on, as they are now.
    pub links: Option<Vec<Interface>>,
    /// Saves that ended, and whether the settings are safe.
    pub saved: Vec<(DiskId, bool)>,
    /// Changes of what is served.
    pub orders: Vec<Order>,
    /// To be told how things are.
    pub status: Option<oneshot::Sender<WorkerStatus>>,
    /// Whether it lives; only the latest counts.
    pub question: Option<u64>,
    /// Finish what is under way and end.
    pub stop: bool,
}

/// Where the outcome of an order goes. Nobody may be waiting for it any more.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// A change of what is served.
pub(crate) enum Order {
    /// Serves one more.
    Add(Box<Served>, Reply<()>),
    /// Serves one no longer. Answered when nothing of it is under way and its disk is synced.
    Remove(Address, Reply<Box<Removed>>),
    /// Changes one. Answered when that is stored, and nothing runs that it shuts out.
    Change(Address, Change, Reply<()>),
    /// Takes no new requests, or takes them again; for one or all.
    Drain(Option<Address>, bool, Reply<()>),
    /// Reads the size of the file again; with a length, exports so many sectors of it, or all. Answered with the sectors.
    Resize(Address, Option<Option<u64>>, Reply<u64>),
}

/// What is changed of an export.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Settings(Adjustment),
    Edit(OperatorEdit),
}

/// An export that is served no longer.
pub(crate) struct Removed {
    /// Its disk; dropping it unlocks the file, and may take a while.
    pub disk: DiskFile,
    /// Its settings, as they are stored.
    pub stored: StoredState,
    /// The image's name for [`Store`].
    pub image: PathBuf,
    /// All it has answered is on its disk.
    pub closed: Option<Lease>,
    /// It took no new requests.
    pub draining: bool,
}

/// How a worker and its exports are.
#[derive(Debug)]
pub(crate) struct WorkerStatus {
    pub exports: Vec<ExportStatus>,
    /// By name of the interface.
    pub ports: Vec<(String, PortStats)>,
    pub counters: EngineCounters,
    pub forgotten_early: u64,
}

/// How far a removal has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    Ending,
    Syncing,
    Synced,
}

/// One export to serve.
pub(crate) struct Served {
    pub config: ExportConfig,
    pub disk: DiskFile,
    /// Settings from before.
    pub stored: StoredState,
    /// The image's name for [`Store`].
    pub image: PathBuf,
    /// Under what its memory is named.
    pub lease: Lease,
    /// Until when it takes no writes, because it was served just before.
    pub hold: Option<Hold>,
    /// Takes no new requests at first.
    pub draining: bool,
}

/// What a worker is told at its start.
pub(crate) struct Plan {
    pub exports: Vec<Served>,
    pub disk_engine: EngineChoice,
    /// How long the worker may look for work before it sleeps.
    pub poll: Duration,
    pub wildcard_edits: bool,
    /// Where settings are stored; `None` keeps them in memory.
    pub store: Option<Store>,
    pub mailbox: Arc<Mailbox<Mail>>,
    /// Where it shows that it lives.
    pub pulse: Arc<Pulse>,
    /// Asks for a fresh list of interfaces.
    pub look_again: Arc<Notify>,
}

/// See the [module](self).
pub(crate) struct Worker {
    engine: Target,
    disks: Disks,
    lanes: Lanes,
    mailbox: Arc<Mailbox<Mail>>,
    pulse: Arc<Pulse>,
    look_again: Arc<Notify>,
    store: Option<Store>,
    /// Images of what is served.
    images: BTreeMap<DiskId, PathBuf>,
    leases: BTreeMap<DiskId, Lease>,
    removals: BTreeMap<DiskId, (Removal, Reply<Box<Removed>>)>,
    /// Changes that wait for others of the same export.
    waiting: Vec<(Address, Change, Reply<()>)>,
    /// Changes under way.
    changing: BTreeMap<DiskId, Reply<()>>,
    /// Saves under way.
    saving: usize,
    polling: Polling,
    /// The operations that ended last had been under way since an earlier round.
    disks_are_slow: bool,
    check_disks_at: Instant,
    save_again_at: Instant,
    logged: LogLimit,
    stop_by: Option<Instant>,
    /// Syncs at the stop that are under way, once they were begun.
    last_sync: Option<usize>,
    /// Disks that were synced at the stop.
    synced: Vec<DiskId>,
    /// An export whose sync at the stop failed.
    lost_at_stop: Option<Address>,
}

impl Worker {
    /// Starts to serve on these interfaces. The worker stays on the calling thread.
    pub(crate) fn start(plan: Plan, interfaces: &[Interface]) -> Result<Self> {
        let Plan { exports, disk_engine, poll, wildcard_edits, store, mailbox, pulse, look_again } = plan;
        let mut engine = Target::new(EngineConfig { buffers: BUFFERS, persist: store.is_some(), wildcard_edits });
        let mut disks = Disks::new(disk_engine, DISK_DEPTH).context("io_uring; set `io` to `auto`")?;
        let (mut images, mut leases) = (BTreeMap::new(), BTreeMap::new());
        for Served { config, disk, stored, image, lease, hold, .. } in exports {
            let id = engine.add_export(monotonic_now(), config, stored)?;
            if let Some(hold) = hold {
                engine.hold_writes(id, hold);
            }
            disks.insert(id, disk);
            images.insert(id, image);
            leases.insert(id, lease);
        }

        let mut lanes = Lanes::new(filter_for(&engine, None));
        if let Some((name, error)) = lanes.follow(interfaces, &mut engine).into_iter().next() {
            return Err(anyhow::Error::new(error).context(name));
        }
        Ok(Self {
            engine,
            disks,
            lanes,
            mailbox,
            pulse,
            look_again,
            store,
            images,
            leases,
            removals: BTreeMap::new(),
            waiting: Vec::new(),
            changing: BTreeMap::new(),
            saving: 0,
            polling: Polling::new(poll),
            disks_are_slow: false,
            check_disks_at: monotonic_now() + DISK_CHECK_EVERY,
            save_again_at: monotonic_now() + SAVE_AGAIN_EVERY,
            logged: LogLimit::default(),
            stop_by: None,
            last_sync: None,
            synced: Vec::new(),
            lost_at_stop: None,
        })
    }

    /// How disks are reached: "io_uring" or "sync".
    pub(crate) fn disk_engine(&self) -> &'static str {
        self.disks.name()
    }

    /// Serves until told to stop. Returns which exports are closed, too.
    pub(crate) fn run(mut self) -> (Vec<Lease>, Result<()>) {
        let result = self.serve();
        let is_sound = |disk: &DiskId| self.engine.export(*disk).durability.poisoned().is_none();
        let closed = self.synced.iter().filter(|disk| is_sound(disk)).map(|disk| self.leases[disk].clone()).collect();
        (closed, result)
    }

    fn serve(&mut self) -> Result<()> {
        loop {
            let now = monotonic_now();
            self.read_mail(now);
            let mut moved = 0;
            if self.stop_by.is_none() {
                let received = self.lanes.receive(now, &mut self.engine);
                moved += self.note(received);
            }
            if self.stop_by.is_some() && self.last_sync.is_none() && self.is_idle() {
                self.begin_last_sync();
            }
            moved += self.run_disks(now)?;
            moved += self.go_on_with_orders(now);
            self.save_settings();
            moved += self.transmit(now);
            self.report(now);
            self.check_disks(now);
            if self.is_finished(now) {
                self.log_totals();
                return self.lost_at_stop.take().map_or(Ok(()), |address| {
                    Err(anyhow!("{address}: its last writes could not be synced, they may be lost"))
                });
            }
            if !self.polling.goes_on(now, moved > 0) {
                self.sleep()?;
            }
        }
    }

    fn read_mail(&mut self, now: Instant) {
        let Mail { links, saved, orders, status, question, stop } = self.mailbox.take();
        if let Some(question) = question {
            self.pulse.answer(question);
        }
        if let Some(interfaces) = links {
            for (name, error) in self.lanes.follow(&interfaces, &mut self.engine) {
                tracing::error!("{name}: {error}");
            }
        }
        for (disk, stored) in saved {
            self.saving -= 1;
            self.engine.handle_persisted(disk, stored);
        }
        // At the stop whoever asks is told so, by an answer that never comes.
        let orders = if self.stop_by.is_none() { orders } else { Vec::new() };
        for order in orders {
            self.obey(now, order);
        }
        if let Some(reply) = status {
            let _ = reply.send(self.status(now));
        }
        if stop && self.stop_by.is_none() {
            self.stop_by = Some(now + STOP_TIME);
            self.engine.save_again();
        }
    }

    fn obey(&mut self, now: Instant, order: Order) {
        match order {
            Order::Add(served, reply) => {
                let added = self.add(now, *served);
                let _ = reply.send(added);
            }
            Order::Remove(address, reply) => match self.find(address) {
                Ok(disk) => {
                    self.engine.remove_export(disk);
                    self.removals.insert(disk, (Removal::Ending, reply));
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Order::Change(address, change, reply) => self.change(address, change, reply),
            Order::Drain(address, drained, reply) => {
                let chosen = match address {
                    Some(address) => self.find(address).map(|disk| vec![disk]),
                    None => Ok(self.engine.disks().collect()),
                };
                let done = chosen.map(|disks| disks.into_iter().for_each(|disk| self.engine.drain(now, disk, drained)));
                let _ = reply.send(done);
            }
            Order::Resize(address, length, reply) => {
                let resized = self.resize(address, length);
                let _ = reply.send(resized);
            }
        }
    }

    fn find(&self, address: Address) -> Result<DiskId> {
        self.engine.disk_of(address).ok_or_else(|| anyhow!("{address} is not served here; see `aoe-target ctl status`"))
    }

    fn add(&mut self, now: Instant, served: Served) -> Result<()> {
        let Served { config, disk, stored, image, lease, hold, draining } = served;
        let address = config.address;
        let id = self.engine.add_export(now, config, stored)?;
        if let Some(hold) = hold {
            self.engine.hold_writes(id, hold);
        }
        if draining {
            self.engine.drain(now, id, true);
        }
        self.disks.insert(id, disk);
        self.images.insert(id, image);
        self.leases.insert(id, lease);
        self.follow_addresses(Some(address));
        Ok(())
    }

    /// Has the kernel pass the frames for the addresses that are served now.
    fn follow_addresses(&mut self, added: Option<Address>) {
        if self.lanes.set_filter(filter_for(&self.engine, added), &mut self.engine) {
            self.look_again.notify_one();
        }
    }

    fn change(&mut self, address: Address, change: Change, reply: Reply<()>) {
        let begun = self.find(address).and_then(|disk| {
            let begun = match change.clone() {
                Change::Settings(to) => self.engine.adjust(disk, to),
                Change::Edit(edit) => self.engine.edit_by_operator(disk, edit),
            };
            match begun {
                Err(NotBegun::Busy) => Ok(None),
                begun => Ok(begun.map(|()| Some(disk))?),
            }
        });
        match begun {
            Ok(Some(disk)) => drop(self.changing.insert(disk, reply)),
            Ok(None) => self.waiting.push((address, change, reply)),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn resize(&mut self, address: Address, length: Option<Option<u64>>) -> Result<u64> {
        let id = self.find(address)?;
        if self.disks.is_stuck(id) {
            return Err(anyhow!("{address}: its disk does not answer; try again when it does"));
        }
        let disk = self.disks.file_mut(id).expect("each export has its disk");
        if let Some(length) = length {
            disk.set_length(length).with_context(|| disk.path().display().to_string())?;
        }
        self.check_disk(id);
        Ok(self.engine.export(id).config.sectors)
    }

    /// Ends what the operator asked for and had to wait. Tells how many steps were taken: what they queue is to be run.
    fn go_on_with_orders(&mut self, now: Instant) -> usize {
        while let Some((disk, in_force)) = self.engine.poll_changed() {
            if let Some(reply) = self.changing.remove(&disk) {
                let _ = reply.send(in_force.then_some(()).ok_or_else(|| {
                    anyhow!("the change could not be stored, and was taken back; make the state directory writable")
                }));
            }
        }
        let waiting = std::mem::take(&mut self.waiting);
        let before = waiting.len();
        // If nobody waits for it any more, the operator was told so.
        for (address, change, reply) in waiting.into_iter().filter(|(_, _, reply)| !reply.is_closed()) {
            self.change(address, change, reply);
        }
        let mut steps = before - self.waiting.len();
        let removals: Vec<_> = self.removals.iter().map(|(disk, (removal, _))| (*disk, *removal)).collect();
        for (disk, removal) in removals {
            if removal == Removal::Syncing || !self.engine.is_quiet(disk) {
                continue;
            }
            steps += 1;
            if removal == Removal::Ending && self.sync_last(disk) {
                self.removals.get_mut(&disk).expect("just seen").0 = Removal::Syncing;
            } else {
                self.finish_removal(now, disk, removal);
            }
        }
        steps
    }

    fn finish_removal(&mut self, now: Instant, id: DiskId, removal: Removal) {
        let (_, reply) = self.removals.remove(&id).expect("a removal ends once");
        self.log_account(self.engine.export(id));
        let export = self.engine.export(id);
        let (stored, draining) = (export.stored(), export.draining);
        let is_closed = removal == Removal::Synced && export.durability.poisoned().is_none();
        self.engine.finish_removal(now, id);
        let image = self.images.remove(&id).expect("each export has its image");
        let closed = self.leases.remove(&id).filter(|_| is_closed);
        let disk = self.disks.remove(id).expect("each export has its disk");
        self.follow_addresses(None);
        // Without a listener the disk is closed here.
        let _ = reply.send(Ok(Box::new(Removed { disk, stored, image, closed, draining })));
    }

    fn status(&mut self, now: Instant) -> WorkerStatus {
        let exports = self.engine.disks().map(|id| {
            let disk = self.disks.file(id).expect("each export has its disk");
            export_status(now, self.engine.export(id), self.engine.under_way(id), disk)
        });
        WorkerStatus {
            exports: exports.collect(),
            ports: self.lanes.stats(),
            counters: self.engine.counters(),
            forgotten_early: self.engine.forgotten_early(),
        }
    }

    /// Runs what the engine asks of the disks, and what follows from what ended. Tells how many operations moved.
    fn run_disks(&mut self, now: Instant) -> Result<usize> {
        let mut moved = 0;
        let has_earlier = self.disks.in_flight() > 0;
        for _ in 0..DISK_PASSES {
            let mut submitted = 0;
            while let Some(operation) = self.engine.poll_disk() {
                self.disks.submit(operation);
                submitted += 1;
            }
            if self.disks.in_flight() == 0 {
                break;
            }
            self.disks
                .flush()
                .context("io_uring does not work any more; start again, with `--io sync` if it repeats")?;
            let mut completed = 0;
            // Latencies are measured by this clock, and a disk takes its time.
            let now = if self.disks.has_completions() { monotonic_now() } else { now };
            self.disks.completions(|completion| {
                completed += 1;
                match last_synced(completion.id) {
                    None => self.engine.handle_completion(now, completion),
                    Some(disk) => {
                        match self.removals.get_mut(&disk) {
                            Some((removal, _)) => *removal = Removal::Synced,
                            None => {
                                self.last_sync = self.last_sync.map(|left| left - 1);
                                self.synced.extend(completion.result.is_ok().then_some(disk));
                            }
                        }
                        if let Err(error) = completion.result {
                            let DiskError::Lost(errno) = error else {
                                panic!("a flush fails by a loss, not as {error:?}")
                            };
                            self.engine.handle_loss(disk, errno);
                            self.lost_at_stop = Some(self.engine.export(disk).config.address);
                        }
                    }
                }
            });
            moved += submitted + completed;
            if completed == 0 {
                break;
            }
            self.disks_are_slow = has_earlier;
        }
        Ok(moved)
    }

    fn save_settings(&mut self) {
        while let Some(Persist { disk, state }) = self.engine.poll_persist() {
            let store = self.store.as_ref().expect("the engine persists only with a store");
            let mailbox = Arc::clone(&self.mailbox);
            store.save(Save {
                address: self.engine.export(disk).config.address,
                image: self.images[&disk].clone(),
                state,
                done: Box::new(move |stored| mailbox.leave(|mail| mail.saved.push((disk, stored)))),
            });
            self.saving += 1;
        }
    }

    fn transmit(&mut self, now: Instant) -> usize {
        while let Some(transmit) = self.engine.poll_transmit() {
            self.lanes.enqueue(transmit, &mut self.engine);
        }
        let most = if self.disks_are_slow { PORTION } else { usize::MAX };
        let sent = self.lanes.send(now, most, &mut self.engine);
        self.note(sent)
    }

    fn note(&mut self, progress: Progress) -> usize {
        if progress.lost_link {
            self.look_again.notify_one();
        }
        progress.frames
    }

    fn report(&mut self, now: Instant) {
        while let Some(event) = self.engine.poll_event() {
            if let Event::DiskFailed { error: DiskError::Short, .. } = event {
                self.check_disks_at = now;
            }
            self.logged.log(now, &event);
        }
    }

    /// Follows files that grow or shrink, and hears of write-back that failed though nobody asked for a sync.
    fn check_disks(&mut self, now: Instant) {
        if now >= self.save_again_at {
            self.save_again_at = now + SAVE_AGAIN_EVERY;
            self.engine.save_again();
        }
        if now < self.check_disks_at {
            return;
        }
        self.check_disks_at = now + DISK_CHECK_EVERY;
        for id in self.engine.disks().collect::<Vec<_>>() {
            if !self.disks.is_stuck(id) {
                self.check_disk(id);
            }
        }
    }

    fn check_disk(&mut self, id: DiskId) {
        let disk = self.disks.file_mut(id).expect("each export has its disk");
        if let Err(DiskError::Lost(errno)) = disk.check() {
            self.engine.handle_loss(id, errno);
        }
        if disk.is_deleted_now().unwrap_or_default() {
            tracing::warn!(
                "{}: {} was deleted or replaced; what is served is gone when this ends: copy it from {} before",
                self.engine.export(id).config.address,
                disk.path().display(),
                disk.open_path().display()
            );
        }
        let export = &self.engine.export(id).config;
        let (address, before) = (export.address, export.sectors);
        match disk.refresh_size() {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => {
                about!(warn, address, "{}: cannot read its size: {error}", disk.path().display());
                return;
            }
        }
        let path = disk.path().display();
        let sectors = disk.size_bytes() / SECTOR as u64;
        if sectors == 0 {
            // A disk without sectors cannot be told to anybody.
            about!(warn, address, "{path} is empty now; reads and writes fail until it has its size again");
            return;
        }
        if sectors < before {
            about!(warn, address, "{path} shrank from {before} to {sectors} sectors");
        } else {
            about!(info, address, "{path} has {sectors} sectors now, {before} before");
        }
        self.engine.resize(id, sectors);
    }

    /// Whether a worker that stops has done what was under way and synced its disks, or has no more time for it.
    fn is_finished(&self, now: Instant) -> bool {
        let Some(stop_by) = self.stop_by else { return false };
        let idle = self.is_idle() && self.last_sync == Some(0);
        if !idle && now >= stop_by {
            let (requests, syncs) = (self.engine.in_flight(), self.last_sync.unwrap_or(self.images.len()));
            let seconds = STOP_TIME.as_secs();
            tracing::warn!("{requests} requests are unfinished and {syncs} disks not synced after {seconds} s");
        }
        idle || now >= stop_by
    }

    fn is_idle(&self) -> bool {
        self.engine.in_flight() == 0 && self.saving == 0 && self.removals.is_empty() && self.lanes.all_sent()
    }

    /// Syncs all disks before the end: if what was acknowledged and not yet flushed cannot be written, this is the last
    /// time to hear of that.
    fn begin_last_sync(&mut self) {
        let mut begun = 0;
        for disk in self.engine.disks().collect::<Vec<_>>() {
            begun += usize::from(self.sync_last(disk));
        }
        self.last_sync = Some(begun);
    }

    /// Syncs a disk before it is closed, unless there is nothing to sync, or no trust in that.
    fn sync_last(&mut self, disk: DiskId) -> bool {
        let is_written = self.disks.file(disk).is_some_and(|file| !file.read_only());
        if !is_written || self.engine.export(disk).durability.poisoned().is_some() {
            return false;
        }
        let (id, kind, buffer) = (last_sync_of(disk), DiskOperationKind::Flush, FrameBuffer::new(0));
        self.disks.submit(DiskOperation { id, disk, kind, buffer });
        true
    }

    fn sleep(&mut self) -> Result<()> {
        let until = [self.lanes.retry_at(), self.stop_by].into_iter().flatten().fold(self.check_disks_at, Instant::min);
        let millis = until.since(monotonic_now()).as_nanos().div_ceil(1_000_000);
        let takes_frames = self.engine.has_room() && self.stop_by.is_none();
        let watched = |fd| PollFd::new(fd, PollFlags::POLLIN);
        // Not epoll: that would be woken by every frame in and out for as long as it knows of a socket, which costs
        // more than to tell the kernel anew before each sleep.
        let mut waited_for = vec![watched(self.mailbox.as_fd())];
        waited_for.extend(self.disks.poll_fd().map(watched));
        let first_port = waited_for.len();
        if takes_frames {
            waited_for.extend(self.lanes.ports().map(watched));
        }
        match poll(&mut waited_for, PollTimeout::from(u16::try_from(millis).unwrap_or(u16::MAX))) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let has_mail = waited_for[0].any() == Some(true);
        let ready: Vec<_> = waited_for[first_port..].iter().map(|port| port.any() == Some(true)).collect();
        self.lanes.are_readable(&ready);
        if has_mail {
            self.mailbox.calm();
        }
        Ok(())
    }

    fn log_totals(&mut self) {
        for export in self.engine.exports() {
            self.log_account(export);
        }
        let forgotten = self.engine.forgotten_early();
        if forgotten > 0 {
            tracing::info!("{forgotten} writes were forgotten early, late copies of those would not have been noticed");
        }
        self.lanes.log_totals();
    }

    fn log_account(&self, export: &Export) {
        let counters = export.counters;
        tracing::info!(
            "{}: {} reads ({} bytes), {} writes ({} bytes), {} flushes; {} failed, {} repeated, {} stale, {} held",
            export.config.address,
            counters.reads,
            counters.read_bytes,
            counters.writes,
            counters.write_bytes,
            counters.flushes,
            counters.failures,
            counters.repeats,
            counters.stale,
            counters.held
        );
        let mut records: Vec<&Record> = export.ledger.records().collect();
        records.sort_unstable_by_key(|record| record.station.octets());
        for record in records {
            tracing::info!("{} {}", export.config.address, account(record, export.access.serves(record.station)));
        }
        if export.ledger.forgotten() > 0 {
            let (address, forgotten) = (export.config.address, export.ledger.forgotten());
            about!(info, address, "{forgotten} more stations were used before, their records were replaced");
        }
    }
}

/// The frames a worker wants: those for what it serves, and for an address it is about to serve.
fn filter_for(engine: &Target, added: Option<Address>) -> Filter {
    let served = engine.exports().map(|export| export.config.address).chain(added);
    Filter::Target(served.map(|address| (address.shelf, address.slot)).collect())
}

/// The operation that syncs a disk at the stop. The engine's own are numbered from 0, one for each buffer.
fn last_sync_of(disk: DiskId) -> OperationId {
    OperationId(u32::MAX - disk.0)
}

/// The disk that an operation syncs at the stop.
fn last_synced(id: OperationId) -> Option<DiskId> {
    (id.0 > u32::MAX - MAX_DISKS).then(|| DiskId(u32::MAX - id.0))
}

/// What is on record of a station, as the report at the end says it.
fn account(record: &Record, is_served: bool) -> String {
    let Record { station, reads, writes, given_up, ignored, .. } = record;
    let run = format!("station {station}: {reads} reads, {writes} writes");
    if is_served && given_up + ignored == 0 {
        return run;
    }
    format!("{run}, {given_up} given up, {ignored} frames ignored since it was shut out")
}

/// What an edit means for the stations it shut out, as a line about it ends.
fn consequences(shut_out: &[ShutOut]) -> String {
    let say = |ShutOut { station, writes }: &ShutOut| match writes {
        Some(writes) => format!("; {station} is out after {writes} writes"),
        None => format!("; {station} is out, its record was replaced"),
    };
    let named: String = shut_out.iter().take(SHUT_OUT_NAMED).map(say).collect();
    match shut_out.len().saturating_sub(SHUT_OUT_NAMED) {
        0 => named,
        more => format!("{named}; {more} more are out, see the report at the end"),
    }
}

/// Turns events into log lines, not more than a few for each kind and export in a while: stations can cause them at
/// any rate. Bounded by the number of exports.
#[derive(Debug, Default)]
struct LogLimit {
    last: BTreeMap<(Address, Kind), Logged>,
}

#[derive(Debug)]
struct Logged {
    since: Instant,
    lines: u64,
    left_out: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Collision,
    Disk,
    Edit,
    EditRefused,
    Store,
}

impl LogLimit {
    fn log(&mut self, now: Instant, event: &Event) {
        match event {
            Event::AddressCollision { address, station, .. } => {
                if let Some(more) = self.admit(now, *address, Kind::Collision) {
                    about!(error, *address, "{station} serves this address too; one of the two must go{more}");
                }
            }
            Event::Poisoned { address, errno } => about!(
                error,
                *address,
                "acknowledged data may be lost: {}; writes and flushes are refused from now on, reads go on: \
                 check the disk and what is on it, then type `aoe-target ctl clear-error {address}`, or start with --clear-error",
                reason(*errno)
            ),
            Event::PoisonNotStored { address } => {
                if let Some(more) = self.admit(now, *address, Kind::Store) {
                    about!(
                        error,
                        *address,
                        "its loss of data could not be stored, a restart would forget it: make the state \
                         directory writable; trying again{more}"
                    );
                }
            }
            Event::DiskFailed { address, error } => {
                if let Some(more) = self.admit(now, *address, Kind::Disk) {
                    about!(error, *address, "{error}{more}");
                }
            }
            Event::Edited { address, station, state, shut_out } => {
                if let Some(more) = self.admit(now, *address, Kind::Edit) {
                    let (state, out) = (summary(state), consequences(shut_out));
                    let who = station.map_or("the operator".to_owned(), |station| station.to_string());
                    about!(info, *address, "{who} changed its settings to: {state}{out}{more}");
                }
            }
            Event::EditRefused { address, station, what } => {
                if let Some(more) = self.admit(now, *address, Kind::EditRefused) {
                    about!(warn, *address, "{station} may not change its {what} (see edits), and was refused{more}");
                }
            }
            Event::NotStored { address } => {
                if let Some(more) = self.admit(now, *address, Kind::Store) {
                    about!(error, *address, "a change of its settings could not be stored, it was refused{more}");
                }
            }
        }
    }

    /// `None` when enough lines like this were logged just now, else how many were left out since.
    fn admit(&mut self, now: Instant, address: Address, kind: Kind) -> Option<String> {
        let lines_max = if kind == Kind::Edit { EDITS_LOGGED } else { 1 };
        let new = Logged { since: now, lines: 0, left_out: 0 };
        let logged = self.last.entry((address, kind)).or_insert(new);
        if now.since(logged.since) >= LOG_EVERY {
            (logged.since, logged.lines) = (now, 0);
        }
        if logged.lines == lines_max {
            logged.left_out += 1;
            return None;
        }
        logged.lines += 1;
        Some(match std::mem::take(&mut logged.left_out) {
            0 => String::new(),
            count => format!(" (and {count} times more)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ledger::Ledger;
    use aoe_common::wire::MacAddr;

    #[test]
    fn a_flood_of_events_is_a_line_now_and_then() {
        let mut limit = LogLimit::default();
        let (a, b) = (Address::new(0, 1), Address::new(0, 2));
        let start = Instant::ZERO + Duration::from_secs(100);
        assert_eq!(limit.admit(start, a, Kind::Disk).as_deref(), Some(""));
        assert_eq!(limit.admit(start, b, Kind::Disk).as_deref(), Some(""));
        assert_eq!(limit.admit(start, a, Kind::Edit).as_deref(), Some(""));
        for _ in 0..3 {
            assert_eq!(limit.admit(start + Duration::from_secs(1), a, Kind::Disk), None);
        }
        assert_eq!(limit.admit(start + LOG_EVERY, a, Kind::Disk).as_deref(), Some(" (and 3 times more)"));
        assert_eq!(limit.admit(start + LOG_EVERY + LOG_EVERY, a, Kind::Disk).as_deref(), Some(""));

        let edits = (0..1000).filter(|_| limit.admit(start + LOG_EVERY, a, Kind::Edit).is_some());
        assert_eq!(edits.count(), EDITS_LOGGED as usize);
        assert!(limit.admit(start + LOG_EVERY + LOG_EVERY, a, Kind::Edit).unwrap().contains("980 times more"));
    }

    #[test]
    fn a_line_about_an_edit_names_whom_it_shut_out_and_stays_short() {
        let out = |n| ShutOut { station: MacAddr(2, 0, 0, 0, 0, n), writes: Some(u64::from(n)) };
        assert_eq!(consequences(&[]), "");
        assert_eq!(
            consequences(&[out(7), ShutOut { writes: None, ..out(8) }]),
            "; 02:00:00:00:00:07 is out after 7 writes; 02:00:00:00:00:08 is out, its record was replaced"
        );
        let crowd: Vec<_> = (0..200).map(out).collect();
        assert!(consequences(&crowd).ends_with("; 168 more are out, see the report at the end"));
    }

    #[test]
    fn the_report_tells_what_a_station_that_was_shut_out_had_run() {
        let mut ledger = Ledger::default();
        let station = MacAddr(2, 0, 0, 0, 0, 0xb);
        let write = ledger.taken_in(station);
        ledger.started(write, true, 512);
        ledger.ended(write, true);
        let line = |ledger: &Ledger, is_served| account(ledger.of(station).unwrap(), is_served);
        assert_eq!(line(&ledger, true), "station 02:00:00:00:00:0b: 0 reads, 1 writes");
        ledger.ignored(station);
        assert_eq!(
            line(&ledger, false),
            "station 02:00:00:00:00:0b: 0 reads, 1 writes, 0 given up, 1 frames ignored since it was shut out"
        );
    }
}
