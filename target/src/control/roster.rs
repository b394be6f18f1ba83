//! What is served and by which worker, and every change of that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use aoe_common::addr::Address;
use aoe_common::link::Interface;
use aoe_common::mailbox::Mailbox;
use aoe_common::target_status::{ExportStatus, InterfaceStatus, NotServed, TargetStatus};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use super::reload::{Difference, Report, difference};
use crate::config::{self, Entry};
use crate::disk::{DiskFile, FileIdentity};
use crate::engine::changes::{Adjustment, OperatorEdit};
use crate::engine::repeats::MEMORY;
use crate::opening::{Before, Opener, cannot_find, cannot_open, line, open_disk, two_writers};
use crate::settings::{Defaults, EXPORTS_MAX, ExportSettings, Settings};
use crate::worker::{Change, Mail, Order, Removed, Reply, WorkerStatus};

/// How long an order may take. A disk that does not answer can hold up a removal or an edit.
const ORDER_TIME: Duration = Duration::from_secs(30);

/// How long a worker may take to say how it is.
const STATUS_TIME: Duration = Duration::from_secs(5);

/// How long `drain` waits for what is under way, and how often it looks.
const DRAIN_TIME: Duration = Duration::from_secs(10);
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// The exports and the workers that serve them.
pub(crate) struct Roster {
    workers: Vec<Arc<Mailbox<Mail>>>,
    opener: Opener,
    /// What the process runs by, without what it serves.
    settings: Mutex<Settings>,
    members: Mutex<BTreeMap<Address, Member>>,
    /// What the file names, as it was last read, and could not be opened.
    not_served: Mutex<Vec<NotServed>>,
    left: Mutex<Vec<Left>>,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    /// One question to the workers at a time.
    question: tokio::sync::Mutex<()>,
    /// As they were last seen.
    interfaces: Mutex<Vec<Interface>>,
    look_again: Arc<Notify>,
    start: Instant,
}

/// An export that is served.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// What it is told to be.
    pub settings: ExportSettings,
    worker: usize,
    /// Its file, and how that was opened.
    file: FileIdentity,
    opened_read_only: bool,
    /// Added or changed by hand since the file was read.
    pub by_hand: bool,
}

impl Member {
    /// What is served from this disk by this worker.
    pub(crate) fn new(settings: &ExportSettings, worker: usize, disk: &DiskFile) -> Self {
        let settings = ExportSettings { clear_error: false, ..settings.clone() };
        Self { settings, worker, file: disk.id(), opened_read_only: disk.read_only(), by_hand: false }
    }

    /// One of a file that is not there.
    #[cfg(test)]
    pub(super) fn of(settings: &ExportSettings) -> Self {
        let file = FileIdentity::Device(0);
        Self { settings: settings.clone(), worker: 0, file, opened_read_only: false, by_hand: false }
    }
}

/// An address that was served until a moment ago: its worker remembers its writes.
#[derive(Debug)]
struct Left {
    address: Address,
    worker: usize,
    since: Instant,
}

/// Any value under these locks is whole at each step.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Roster {
    /// What was started.
    pub(crate) fn new(
        settings: &Settings,
        workers: Vec<Arc<Mailbox<Mail>>>,
        members: BTreeMap<Address, Member>,
        not_served: Vec<NotServed>,
        opener: Opener,
        look_again: Arc<Notify>,
    ) -> Self {
        Self {
            workers,
            opener,
            settings: Mutex::new(Settings {
                exports: Vec::new(),
                lines: BTreeMap::new(),
                missing_families: Vec::new(),
                ..settings.clone()
            }),
            members: Mutex::new(members),
            not_served: Mutex::new(not_served),
            left: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            question: tokio::sync::Mutex::default(),
            interfaces: Mutex::default(),
            look_again,
            start: Instant::now(),
        }
    }

    /// The names and patterns of interfaces to serve on.
    pub(crate) fn named_interfaces(&self) -> Vec<String> {
        hold(&self.settings).interfaces.clone()
    }

    /// The interfaces, as they were last seen.
    pub(crate) fn interfaces(&self) -> Vec<Interface> {
        hold(&self.interfaces).clone()
    }

    /// How many exports are served.
    pub(crate) fn len(&self) -> usize {
        hold(&self.members).len()
    }

    /// What the configuration file names and is not served.
    pub(crate) fn not_served(&self) -> Vec<NotServed> {
        hold(&self.not_served).clone()
    }

    /// The interfaces are like this now.
    pub(crate) fn tell_links(&self, interfaces: &[Interface]) {
        *hold(&self.interfaces) = interfaces.to_vec();
        for mailbox in &self.workers {
            mailbox.leave(|mail| mail.links = Some(interfaces.to_vec()));
        }
    }

    // ---- Questions -----------------------------------------------------------------------------------------------

    /// How the target and its exports are.
    pub(crate) async fn status(&self) -> Result<TargetStatus> {
        let workers = self.ask_workers().await?;
        let interface = |interface: &Interface| {
            let ports = workers.iter().flat_map(|worker| &worker.ports).filter(|(name, _)| *name == interface.name);
            let mut status = InterfaceStatus {
                name: interface.name.clone(),
                mac: interface.mac.to_string(),
                mtu: interface.mtu,
                up: interface.up,
                received: 0,
                sent: 0,
                kernel_drops: 0,
            };
            for (_, port) in ports {
                status.received += port.received;
                status.sent += port.sent;
                status.kernel_drops += port.kernel_drops;
            }
            status
        };
        let interfaces = hold(&self.interfaces).iter().map(interface).collect();
        let sum = |figure: fn(&WorkerStatus) -> u64| workers.iter().map(figure).sum();
        let mut status = TargetStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since_s: self.start.elapsed().as_secs(),
            draining: false,
            interfaces,
            malformed: sum(|worker| worker.counters.malformed),
            not_ours: sum(|worker| worker.counters.not_ours),
            no_buffer: sum(|worker| worker.counters.no_buffer),
            forgotten_early: sum(|worker| worker.forgotten_early),
            exports: Vec::new(),
            not_served: self.not_served(),
        };
        status.not_served.sort_by_key(|it| it.device);
        status.exports = workers.into_iter().flat_map(|worker| worker.exports).collect();
        status.exports.sort_by_key(|export| export.device);
        status.draining = !status.exports.is_empty() && status.exports.iter().all(|export| export.draining);
        Ok(status)
    }

    /// How one export is.
    pub(crate) async fn export(&self, address: Address) -> Result<ExportStatus> {
        let worker = self.member(address)?.worker;
        let _question = self.question.lock().await;
        let exports = self.ask(worker).await?.exports;
        exports.into_iter().find(|export| export.device == address).ok_or_else(|| not_served(address))
    }

    async fn ask_workers(&self) -> Result<Vec<WorkerStatus>> {
        let _question = self.question.lock().await;
        let mut answers = Vec::with_capacity(self.workers.len());
        for worker in 0..self.workers.len() {
            answers.push(self.ask(worker).await?);
        }
        Ok(answers)
    }

    async fn ask(&self, worker: usize) -> Result<WorkerStatus> {
        let (reply, answer) = oneshot::channel();
        self.workers[worker].leave(|mail| mail.status = Some(reply));
        let answer = timeout(STATUS_TIME, answer).await;
        answer
            .context("a serving thread does not answer: it waits for a disk, see the kernel's log")?
            .context("stopping")
    }

    // ---- Changes -------------------------------------------------------------------------------------------------

    /// Serves one more.
    pub(crate) async fn add(self: &Arc<Self>, entry: &Entry) -> Result<String> {
        let _turn = self.turn.lock().await;
        let settings = entry.single(&self.defaults()).map_err(|why| anyhow!(why))?;
        self.put_in(&settings, true).await
    }

    /// Serves one no longer. When this returns its file is synced, closed and unlocked.
    pub(crate) async fn remove(self: &Arc<Self>, address: Address) -> Result<String> {
        let _turn = self.turn.lock().await;
        self.take_out(address).await.map(|removed| removed_line(address, &removed))
    }

    /// Changes settings of one.
    pub(crate) async fn set(self: &Arc<Self>, address: Address, to: &Entry) -> Result<String> {
        let _turn = self.turn.lock().await;
        let from = self.member(address)?.settings;
        let to = to.amend(&from).map_err(|why| anyhow!(why))?;
        self.alter(address, to, true).await
    }

    /// Reads the size of its file again; with a length, exports so many sectors of it, or all.
    pub(crate) async fn resize(&self, address: Address, length: Option<Option<u64>>) -> Result<u64> {
        let _turn = self.turn.lock().await;
        self.resize_in_turn(address, length).await
    }

    async fn resize_in_turn(&self, address: Address, length: Option<Option<u64>>) -> Result<u64> {
        let worker = self.member(address)?.worker;
        let sectors = self.order(worker, |reply| Order::Resize(address, length, reply)).await?;
        if let Some(length) = length {
            self.amend(address, |member| (member.settings.length, member.by_hand) = (length, true));
        }
        Ok(sectors)
    }

    /// Edits what stations can edit, too.
    pub(crate) async fn edit(&self, address: Address, edit: OperatorEdit) -> Result<()> {
        let _turn = self.turn.lock().await;
        let worker = self.member(address)?.worker;
        self.order(worker, |reply| Order::Change(address, Change::Edit(edit), reply)).await
    }

    /// Takes writes again after data was lost below: the disk is opened anew, and clients with unflushed writes learn of it.
    pub(crate) async fn clear_error(self: &Arc<Self>, address: Address) -> Result<String> {
        let _turn = self.turn.lock().await;
        if self.export(address).await?.lost.is_none() {
            return Ok(format!("{address}: there is no error to clear"));
        }
        let from = self.member(address)?.settings;
        self.replace(address, &from, &ExportSettings { clear_error: true, ..from.clone() }).await?;
        Ok(format!("{address}: cleared; it takes writes again, and clients with unflushed writes are told of the loss"))
    }

    /// Takes no new requests, and waits for the end of what is under way.
    pub(crate) async fn drain(&self, address: Option<Address>) -> Result<String> {
        let _turn = self.turn.lock().await;
        self.drain_to(address, true).await?;
        let name = address.map_or("all exports".to_owned(), |address| address.to_string());
        let end = Instant::now() + DRAIN_TIME;
        loop {
            let exports = self.ask_workers().await?.into_iter().flat_map(|worker| worker.exports);
            let concerned = exports.filter(|export| address.is_none_or(|address| export.device == address));
            match concerned.map(|export| export.in_flight).sum::<u64>() {
                0 => return Ok(format!("{name}: drained, nothing is under way; clients wait until undrain or a stop")),
                left if Instant::now() >= end => {
                    bail!("{name}: draining, but {left} requests are still with a disk; see `aoe-target ctl status`")
                }
                _ => sleep(DRAIN_LOOK).await,
            }
        }
    }

    /// Takes requests again.
    pub(crate) async fn undrain(&self, address: Option<Address>) -> Result<String> {
        let _turn = self.turn.lock().await;
        self.drain_to(address, false).await?;
        Ok(format!(
            "{} again",
            address.map_or("all exports take requests".to_owned(), |it| format!("{it} takes requests"))
        ))
    }

    async fn drain_to(&self, address: Option<Address>, drained: bool) -> Result<()> {
        let workers = match address {
            Some(address) => vec![self.member(address)?.worker],
            None => (0..self.workers.len()).collect(),
        };
        for worker in workers {
            self.order(worker, |reply| Order::Drain(address, drained, reply)).await?;
        }
        Ok(())
    }

    /// Makes the configuration file true. One that cannot be read changes nothing.
    pub(crate) async fn reload(self: &Arc<Self>) -> Result<Report> {
        let _turn = self.turn.lock().await;
        let Some(file) = hold(&self.settings).file.clone() else {
            bail!("there is no configuration file to read again: this target was started by `aoe-target export`");
        };
        let wanted =
            blocking(move || config::load(&file).map_err(anyhow::Error::new)).await.context("nothing is changed")?;
        let Difference { leave, alter, join, interfaces, restart } =
            difference(&hold(&self.settings).clone(), &self.members(), &wanted);
        let mut report = Report { restart, ..Report::default() };
        hold(&self.not_served).clear();
        for family in &wanted.missing_families {
            self.miss(cannot_find(family), &mut report);
        }
        for (address, why) in leave {
            let removed = self.take_out(address).await;
            report.note(address, removed.map(|removed| format!("{}{why}", removed_line(address, &removed))));
        }
        for (to, why) in alter {
            let altered = self.alter(to.address, to.clone(), false).await;
            report.note(to.address, altered.map(|line| format!("{line}{why}")));
        }
        for settings in join {
            match self.put_in(&settings, false).await {
                Ok(line) => report.done.push(line),
                Err(error) => self.miss(cannot_open(&wanted, &settings, &error), &mut report),
            }
        }
        if let Some(names) = interfaces {
            report
                .done
                .push(format!("interfaces: {}", if names.is_empty() { "all".to_owned() } else { names.join(", ") }));
            hold(&self.settings).interfaces = names;
            self.look_again.notify_one();
        }
        hold(&self.settings).defaults = wanted.defaults;
        let mut members = hold(&self.members);
        for export in &wanted.exports {
            if let Some(member) = members.get_mut(&export.address).filter(|member| member.settings == *export) {
                member.by_hand = false;
            }
        }
        drop(members);
        report.log();
        Ok(report)
    }

    /// Keeps in mind, for who asks later, what a reload could not serve.
    fn miss(&self, not_served: NotServed, report: &mut Report) {
        report.failed.push(format!("{}: {}", not_served.device, not_served.reason));
        hold(&self.not_served).push(not_served);
    }

    /// Serves an export. Where it was served before, its worker remembers its writes.
    async fn put_in(self: &Arc<Self>, settings: &ExportSettings, by_hand: bool) -> Result<String> {
        let members = self.members();
        let address = settings.address;
        if members.contains_key(&address) {
            bail!("{address} is served already; choose another shelf and slot, or remove it first");
        }
        if members.len() >= EXPORTS_MAX {
            bail!("{EXPORTS_MAX} exports are served, there is no room for more; start another aoe-target");
        }
        self.find_file(settings).await?;
        let home = {
            let mut left = hold(&self.left);
            left.retain(|left| left.since.elapsed() < MEMORY);
            left.iter().find(|left| left.address == address).map(|left| left.worker)
        };
        let load = |worker: &usize| members.values().filter(|member| member.worker == *worker).count();
        let fewest = (0..self.workers.len()).min_by_key(load).expect("there is a worker");
        let before = home.map(|_| Before { stored: None, draining: false });
        self.open(settings, before, home.unwrap_or(fewest), by_hand).await
    }

    async fn open(
        self: &Arc<Self>,
        settings: &ExportSettings,
        before: Option<Before>,
        worker: usize,
        by_hand: bool,
    ) -> Result<String> {
        let address = settings.address;
        let (opener, wanted) = (self.opener.clone(), settings.clone());
        let prepare = move || opener.prepare(vec![(&wanted, open_disk(&wanted))], before.as_ref());
        let served = blocking(prepare).await?.pop().expect("one disk is one export")?;
        let said = line(&served).head;
        let member = Member { by_hand, ..Member::new(settings, worker, &served.disk) };
        if let Err(error) = self.order(worker, |reply| Order::Add(Box::new(served), reply)).await {
            self.opener.markers.remove(address);
            return Err(error);
        }
        hold(&self.left).retain(|left| left.address != address);
        hold(&self.not_served).retain(|it| it.device != address);
        hold(&self.members).insert(address, member);
        tracing::info!("{said}");
        Ok(said)
    }

    /// Ends an export. When this returns its file is synced, closed and unlocked.
    async fn take_out(self: &Arc<Self>, address: Address) -> Result<Gone> {
        let worker = self.member(address)?.worker;
        let (reply, mut answer) = oneshot::channel();
        self.workers[worker].leave(|mail| mail.orders.push(Order::Remove(address, reply)));
        if let Ok(answer) = timeout(ORDER_TIME, &mut answer).await {
            let removed = answer.context("stopping")??;
            return Ok(self.close(address, worker, *removed).await);
        }
        hold(&self.members).remove(&address);
        let roster = Arc::clone(self);
        tokio::spawn(async move {
            if let Ok(Ok(removed)) = answer.await {
                let gone = roster.close(address, worker, *removed).await;
                tracing::info!("{}", removed_line(address, &gone));
            }
        });
        bail!("{address}: its disk does not answer; it takes no requests any more, and is closed when the disk answers")
    }

    async fn close(&self, address: Address, worker: usize, removed: Removed) -> Gone {
        let Removed { disk, stored, image, closed, draining } = removed;
        let (path, lives) = (disk.path().to_owned(), self.opener.lives.clone());
        // The last close of a device may wait for it.
        let closed = blocking(move || {
            lives.close(closed.as_slice());
            drop(disk);
            Ok(())
        });
        // At the end of the program nobody waits for it.
        let _ = closed.await;
        self.opener.markers.remove(address);
        hold(&self.members).remove(&address);
        hold(&self.left).push(Left { address, worker, since: Instant::now() });
        Gone { path, lost: stored.lost, before: Before { stored: Some((image, stored)), draining } }
    }

    /// Makes an export what it is to be now, in place if that is possible.
    async fn alter(self: &Arc<Self>, address: Address, to: ExportSettings, by_hand: bool) -> Result<String> {
        let Member { settings: from, worker, opened_read_only, .. } = self.member(address)?;
        if from == to {
            return Ok(format!("{address} is so already"));
        }
        let what = changes(&from, &to);
        let in_place = ExportSettings {
            cache: to.cache,
            read_only: to.read_only,
            buffers: to.buffers,
            allow: to.allow.clone(),
            edits: to.edits.clone(),
            length: to.length,
            ..from.clone()
        };
        if in_place != to || opened_read_only && !to.read_only {
            self.replace(address, &from, &to).await?;
            self.amend(address, |member| member.by_hand = by_hand);
            return Ok(format!("{address}: {what}; it was taken off and on again"));
        }
        let settings = Adjustment {
            cache: to.cache,
            read_only: to.read_only,
            buffers: to.buffers,
            allow: to.allow.clone(),
            edits: to.edits.clone(),
        };
        if (ExportSettings { length: from.length, ..to.clone() }) != from {
            self.order(worker, |reply| Order::Change(address, Change::Settings(settings), reply)).await?;
            self.amend(address, |member| {
                member.settings = ExportSettings { length: from.length, ..to.clone() };
                member.by_hand = by_hand;
            });
        }
        if to.length != from.length {
            self.resize_in_turn(address, Some(to.length)).await?;
            self.amend(address, |member| member.by_hand = by_hand);
        }
        Ok(format!("{address}: {what}"))
    }

    /// Ends an export and serves what it is to be now. If that cannot be opened, the export is served as before.
    async fn replace(self: &Arc<Self>, address: Address, from: &ExportSettings, to: &ExportSettings) -> Result<()> {
        let Member { worker, file, by_hand, .. } = self.member(address)?;
        if self.find_file(to).await? != file && from.path == to.path {
            bail!(
                "{address} is as before: {} is another file now than the one that is served; copy that first, then remove \
                 {address} and add it again",
                to.path.display()
            );
        }
        let Gone { before, .. } = self.take_out(address).await?;
        let Err(error) = self.open(to, Some(before.clone()), worker, by_hand).await else { return Ok(()) };
        match self.open(from, Some(before), worker, by_hand).await {
            Ok(_) => Err(error.context(format!("{address} is as before"))),
            Err(second) => {
                tracing::error!("{address}: it cannot be served any more: {second:#}");
                let lost = cannot_open(&hold(&self.settings), from, &second);
                hold(&self.not_served).push(lost);
                Err(error
                    .context(format!("{address} is not served any more, as it cannot be opened as before: {second:#}")))
            }
        }
    }

    /// Which file an export is to have; an error when another export can write to it, too.
    async fn find_file(&self, settings: &ExportSettings) -> Result<FileIdentity> {
        let ExportSettings { address, path, read_only, .. } = settings;
        let wanted = settings.clone();
        // Opening a file that cannot be looked at tells what is wrong with it.
        let look = move || FileIdentity::of(&wanted.path).or_else(|_| open_disk(&wanted).map(|disk| disk.id()));
        let found = blocking(look).await?;
        let members = hold(&self.members);
        let clashes = |(other, member): &(&Address, &Member)| {
            *other != address && member.file == found && !read_only && !member.settings.read_only
        };
        match members.iter().find(clashes) {
            None => Ok(found),
            Some((other, _)) => Err(two_writers(path, *other, *address)),
        }
    }

    // ---- The list ------------------------------------------------------------------------------------------------

    fn member(&self, address: Address) -> Result<Member> {
        hold(&self.members).get(&address).cloned().ok_or_else(|| not_served(address))
    }

    fn members(&self) -> BTreeMap<Address, Member> {
        hold(&self.members).clone()
    }

    fn amend(&self, address: Address, change: impl FnOnce(&mut Member)) {
        if let Some(member) = hold(&self.members).get_mut(&address) {
            change(member);
        }
    }

    fn defaults(&self) -> Defaults {
        hold(&self.settings).defaults.clone()
    }

    async fn order<T>(&self, worker: usize, order: impl FnOnce(Reply<T>) -> Order) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.workers[worker].leave(|mail| mail.orders.push(order(reply)));
        let answer = timeout(ORDER_TIME, answer).await;
        answer
            .context("no answer in 30 s: a disk does not answer, or the state directory; see the log")?
            .context("stopping")?
    }
}

/// An export that was ended.
#[derive(Debug)]
struct Gone {
    path: PathBuf,
    lost: Option<i32>,
    before: Before,
}

fn removed_line(address: Address, gone: &Gone) -> String {
    let path = gone.path.display();
    match gone.lost {
        None => format!("{address} is served no longer; {path} is synced and closed"),
        Some(errno) => {
            let reason = crate::state::reason(errno);
            format!("{address} is served no longer; {path} is closed, but data that was acknowledged is lost: {reason}")
        }
    }
}

fn not_served(address: Address) -> anyhow::Error {
    anyhow!("{address} is not served here; see `aoe-target ctl status`")
}

/// What differs, for people.
fn changes(from: &ExportSettings, to: &ExportSettings) -> String {
    let list = |stations: &[aoe_common::wire::MacAddr]| match stations {
        [] => "all".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    };
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let length = |length: Option<u64>| length.map_or("all".to_owned(), |sectors| sectors.to_string());
    let serial = |serial: &Option<String>| serial.clone().unwrap_or_else(|| "the usual".to_owned());
    let values = |it: &ExportSettings| {
        [
            ("path", it.path.display().to_string()),
            ("read-only", yes(it.read_only)),
            ("cache", it.cache.name().to_owned()),
            ("direct", yes(it.direct)),
            ("buffers", it.buffers.to_string()),
            ("offset", it.offset.to_string()),
            ("length", length(it.length)),
            ("allow", list(&it.allow)),
            ("serial", serial(&it.serial)),
            ("model", it.model.clone()),
        ]
    };
    let pairs = values(from).into_iter().zip(values(to)).filter(|(before, now)| before != now);
    let mut said: Vec<_> = pairs.map(|((key, before), (_, now))| format!("{key} {now} (was {before})")).collect();
    if from.edits != to.edits {
        said.push("who may edit".to_owned());
    }
    said.join(", ")
}

/// Does what may wait for a file, beside the control side's thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a helper thread failed")?
}
