//! Starts the workers, says what is served, and watches over them: signals, interfaces, and workers that end.
//!
//! This is the control side, a single thread; no request passes through it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use aoe_common::addr::Address;
use aoe_common::link::{Interface, LinkError, LinkWatch, ethernet_interfaces};
use aoe_common::mailbox::Mailbox;
use aoe_common::scrape::Endpoint;
use aoe_common::target_status::NotServed;
use glob::Pattern;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until, timeout};

use crate::control::Control;
use crate::control::roster::{Member, Roster};
use crate::control::socket::ControlSocket;
use crate::disk::DiskFile;
use crate::hold::Markers;
use crate::lives::{Lease, LivesOnDisk};
use crate::log::about;
use crate::metrics::{Asked, Page};
use crate::notify::{self, Pulse, Watchdog};
use crate::opening::{Line, Opener, cannot_find, cannot_open, line, open_disk, refuse_two_writers};
use crate::sandbox::{Role, Sandbox};
use crate::settings::{EXPORTS_MAX, ExportSettings, Settings};
use crate::state::{StateDirectory, Store};
use crate::worker::{Mail, Plan, STOP_TIME, Served, Worker};

/// How often interfaces are looked at without word of a change.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Changes of interfaces come in bursts; one look serves those of this time.
const SETTLE: Duration = Duration::from_millis(50);

/// What workers may take beyond their own limit to stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT. An error says in one line why that is not possible, or no longer.
pub fn serve(settings: &Settings) -> Result<()> {
    // Before there are threads, so that all of them inherit it.
    let sandbox = Sandbox::begin(settings.sandbox);
    allow_open_files();
    // First, so that a second process for the same file ends before it looks at disks that the first one holds.
    let socket = settings.control_socket().map(|path| ControlSocket::bind(&path)).transpose()?;
    let disks = open_disks(settings)?;
    may_use_raw_sockets()?;
    let choice = Choice::of_patterns(&settings.interfaces)?;
    let missing = choice.check(&ethernet_interfaces().context("cannot list the interfaces")?);
    match (missing, &settings.file) {
        (Ok(()), _) => {}
        (Err(error), None) => return Err(error),
        // At boot it may come later than this process.
        (Err(error), Some(_)) => tracing::warn!("{error}; waiting for it"),
    }
    let directory = StateDirectory::open(settings.state_directory.clone()).map_err(|error| {
        anyhow!("{error}; name a directory that can be written with --state-dir, or state-directory in the file")
    })?;
    let lives = LivesOnDisk::in_directory(directory.clone());
    let opener = Opener { directory, markers: Markers::default(), lives, may_hold: settings.hold };
    let mut exports = Vec::with_capacity(disks.len());
    let mut not_served: Vec<_> = settings.missing_families.iter().map(cannot_find).collect();
    let prepared = opener.prepare(settings.exports.iter().zip(disks).collect(), None)?;
    for (export, served) in settings.exports.iter().zip(prepared) {
        match served {
            Ok(served) => exports.push((export.clone(), served)),
            Err(error) if settings.file.is_some() => not_served.push(cannot_open(settings, export, &error)),
            Err(error) => return Err(error),
        }
    }
    for NotServed { device, reason, .. } in &not_served {
        about!(error, *device, "not served: {reason}");
    }
    if opener.directory.is_some() {
        opener.markers.keep_fresh(sandbox).context("cannot start a thread")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(run(settings, choice, exports, not_served, opener, socket, sandbox));
    // A worker that is stuck in the kernel must not hold up the exit.
    runtime.shutdown_background();
    result
}

/// Lets this process have as many files open as its host allows: an export takes two.
fn allow_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| match soft < hard {
        true => setrlimit(Resource::RLIMIT_NOFILE, hard, hard),
        false => Ok(()),
    });
    if let Err(error) = raised {
        tracing::info!("the limit of open files stays as it is: {error}");
    }
}

fn may_use_raw_sockets() -> Result<(), LinkError> {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(())
}

/// Which interfaces to serve on.
pub(crate) struct Choice {
    /// Those that fit one of these; all when empty.
    named: Vec<Pattern>,
}

impl Choice {
    pub(crate) fn of_patterns(names: &[String]) -> Result<Self> {
        let pattern = |name: &String| Pattern::new(name).map_err(|error| anyhow!("{name}: {}", error.msg));
        Ok(Self { named: names.iter().map(pattern).collect::<Result<_>>()? })
    }

    /// Refuses names of nothing.
    pub(crate) fn check(&self, all: &[Interface]) -> Result<()> {
        for name in &self.named {
            if !all.iter().any(|interface| name.matches(&interface.name)) {
                let names: Vec<_> = all.iter().map(|interface| interface.name.as_str()).collect();
                let there_are = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                bail!("{name}: no such Ethernet interface; there are: {there_are}");
            }
        }
        Ok(())
    }

    /// Those of all that are chosen. One that a bond owns is served through the bond, unless it is named.
    fn of(&self, all: Vec<Interface>) -> Vec<Interface> {
        let chosen = |interface: &Interface| {
            self.named.is_empty() && !interface.slave
                || self.named.iter().any(|name| {
                    // A pattern that fits many names none of them.
                    name.matches(&interface.name) && (!interface.slave || name.as_str() == interface.name)
                })
        };
        all.into_iter().filter(chosen).collect()
    }
}

/// Opens all files before anything is started. A command line is taken at its word; a daemon serves what is there.
fn open_disks(settings: &Settings) -> Result<Vec<Result<DiskFile>>> {
    let wanted = &settings.exports;
    if wanted.len() > EXPORTS_MAX {
        bail!("{} exports are too many, {EXPORTS_MAX} fit; start another aoe-target for the rest", wanted.len());
    }
    refuse_two_writers(wanted)?;
    let opened = wanted.iter().map(open_disk);
    match settings.file {
        Some(_) => Ok(opened.collect()),
        None => opened.map(|disk| disk.map(Ok)).collect(),
    }
}

/// Serves until told to stop, or until it is not possible any longer.
async fn run(
    settings: &Settings,
    mut choice: Choice,
    exports: Vec<(ExportSettings, Served)>,
    not_served: Vec<NotServed>,
    opener: Opener,
    socket: Option<ControlSocket>,
    sandbox: Sandbox,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    // Before the first look, so that no change is missed.
    let watch = LinkWatch::open().context("cannot follow the interfaces")?;
    #[allow(
        deprecated,
        reason = "its successor is unsafe for the sake of descriptors that may be closed; ours is owned"
    )]
    let watched = AsyncFd::with_interest(watch.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
    let look_again = Arc::new(Notify::new());

    let (directory, lives) = (opener.directory.clone(), opener.lives.clone());
    let metrics_folder = match &settings.metrics {
        Some(Endpoint::Unix(path)) => path.parent(),
        _ => None,
    };
    let folders =
        [directory.as_ref().map(StateDirectory::path), socket.as_ref().map(ControlSocket::folder), metrics_folder];
    let own_directories: Vec<_> = folders.into_iter().flatten().map(Path::to_owned).collect();
    let store = directory.map(|directory| Store::start(directory, sandbox)).transpose()?;
    let (store, store_thread) = store.unzip();
    let mut interfaces = choice.of(ethernet_interfaces()?);
    let lines: Vec<_> = exports.iter().map(|(_, served)| line(served)).collect();
    let mut workers = Workers { sandbox, mailboxes: Vec::new(), pulses: Vec::new(), ends: JoinSet::new() };
    let is_lasting = socket.is_some();
    let (engine, members) = workers.start(settings, is_lasting, exports, store, &look_again, &interfaces).await?;
    let roster = Roster::new(settings, workers.mailboxes.clone(), members, not_served, opener, Arc::clone(&look_again));
    let roster = Arc::new(roster);
    roster.tell_links(&interfaces);
    if let Some(socket) = &socket {
        socket.open(Arc::new(Control { roster: Arc::clone(&roster) }))?;
    }
    let reload = Arc::new(Notify::new());
    tokio::spawn(reload_when(Arc::clone(&reload), Arc::clone(&roster)));
    let page = settings.metrics.as_ref().map(|endpoint| Page::open(endpoint, sandbox)).transpose()?;
    let (page, asked) = page.unzip();
    let teller = asked.map(|asked| tokio::spawn(tell_figures(asked, Arc::clone(&roster))));
    sandbox.confine(Role::Control(&own_directories));
    announce(&lines, engine, &interfaces);
    let mut told = status_line(&roster, &interfaces);
    notify::ready(&told);

    let mut watchdog = Watchdog::over(workers.pulses.clone());
    let ask_every = Watchdog::wanted();
    let mut ask_at = Instant::now();
    let mut look_at = Instant::now() + LOOK_EVERY;
    let failure = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hang_up.recv() => reload.notify_one(),
            ready = watched.readable() => {
                watch.drain();
                ready?.clear_ready();
                look_at = look_at.min(Instant::now() + SETTLE);
            }
            () = look_again.notified() => look_at = look_at.min(Instant::now() + SETTLE),
            () = sleep_until(look_at) => {
                look_at = Instant::now() + LOOK_EVERY;
                match ethernet_interfaces() {
                    Ok(all) => {
                        // The configuration file checks its patterns.
                        choice = Choice::of_patterns(&roster.named_interfaces()).unwrap_or(choice);
                        let new = choice.of(all);
                        log_changes(&interfaces, &new);
                        let status = status_line(&roster, &new);
                        if status != told {
                            notify::status(&status);
                            told = status;
                        }
                        interfaces = new;
                        roster.tell_links(&interfaces);
                    }
                    Err(error) => tracing::warn!("cannot list the interfaces: {error}"),
                }
            }
            () = sleep_until(ask_at), if ask_every.is_some() => {
                ask_at = Instant::now() + ask_every.unwrap_or(Duration::MAX);
                workers.ask(watchdog.ask());
            }
            end = workers.next_end() => break Some(end.and(Err(anyhow!("a serving thread ended")))),
        }
    };
    tracing::info!("stopping");
    notify::stopping();
    if let Some(teller) = teller {
        // What it was asked goes with it, so that the thread of the page waits for nothing.
        teller.abort();
        let _ = teller.await;
    }
    page.into_iter().for_each(Page::close);
    let (closed, stopped) = workers.stop().await;
    lives.close(&closed);
    stopped?;
    if let Some(thread) = store_thread {
        // The workers are gone and with them the last of its clients.
        let _ = thread.join();
    }
    failure.unwrap_or(Ok(()))
}

/// Tells the figures to whoever makes the page of them.
async fn tell_figures(mut asked: mpsc::Receiver<Asked>, roster: Arc<Roster>) {
    while let Some(reply) = asked.recv().await {
        match roster.status().await {
            // Nobody may be waiting any more.
            Ok(status) => drop(reply.send(status)),
            Err(error) => tracing::debug!("no figures: {error:#}"),
        }
    }
}

/// Reads the configuration file again for each SIGHUP; those that come meanwhile are one.
async fn reload_when(asked: Arc<Notify>, roster: Arc<Roster>) {
    loop {
        asked.notified().await;
        notify::reloading();
        if let Err(error) = roster.reload().await {
            tracing::error!("reload: {error:#}");
        }
        notify::ready(&status_line(&roster, &roster.interfaces()));
    }
}

/// The workers and the ways to reach them.
struct Workers {
    /// What confines them.
    sandbox: Sandbox,
    mailboxes: Vec<Arc<Mailbox<Mail>>>,
    /// Their signs of life.
    pulses: Vec<Arc<Pulse>>,
    /// How each ended, and what it has closed.
    ends: JoinSet<(Vec<Lease>, Result<()>)>,
}

/// Says what is served. Nobody may be reading that.
fn announce(lines: &[Line], engine: &str, interfaces: &[Interface]) {
    let name = |interface: &Interface| match interface.up {
        true => format!("{} ({})", interface.name, interface.mac),
        false => format!("{} (down)", interface.name),
    };
    let on = interfaces.iter().map(name).collect::<Vec<_>>().join(", ");
    let on = if on.is_empty() { "no interface yet" } else { &on };
    let mut out = io::stdout().lock();
    if lines.is_empty() {
        let _ = writeln!(out, "serving no exports yet  on {on}");
    }
    for Line { head, notes } in lines {
        let _ = writeln!(out, "{head}  {engine}  on {on}");
        for note in notes {
            let _ = writeln!(out, "{note}");
        }
    }
    let _ = out.flush();
    if !interfaces.iter().any(|interface| interface.up) {
        tracing::warn!("no Ethernet interface is up; waiting for one");
    }
}

/// What it does, in a line for `systemctl status`.
fn status_line(roster: &Roster, interfaces: &[Interface]) -> String {
    let (exports, not_served) = (roster.len(), roster.not_served().len());
    let but = if not_served > 0 { format!(", {not_served} cannot be opened") } else { String::new() };
    let up = interfaces.iter().filter(|interface| interface.up).map(|interface| interface.name.as_str());
    let up = up.collect::<Vec<_>>().join(", ");
    let plural = if exports == 1 { "" } else { "s" };
    if up.is_empty() {
        return format!("{exports} export{plural}, no interface is up{but}");
    }
    format!("serving {exports} export{plural} on {up}{but}")
}

fn log_changes(before: &[Interface], now: &[Interface]) {
    for interface in before {
        if !now.iter().any(|other| other.index == interface.index) {
            tracing::warn!("{}: the interface is gone; waiting for it", interface.name);
        }
    }
    for interface in now {
        let known = before.iter().find(|other| other.index == interface.index);
        if known == Some(interface) {
            continue;
        }
        let Interface { name, mac, mtu, up, .. } = interface;
        match (up, known) {
            (true, _) => tracing::info!("{name}: serving on it as {mac}, MTU {mtu}"),
            (false, Some(known)) if known.up => tracing::warn!("{name}: the link is down; waiting for it"),
            (false, _) => tracing::debug!("{name}: there, but down"),
        }
    }
}

impl Workers {
    /// Starts as many workers as are asked for and useful, and waits until all serve. Tells how disks are reached.
    async fn start(
        &mut self,
        settings: &Settings,
        is_lasting: bool,
        exports: Vec<(ExportSettings, Served)>,
        store: Option<Store>,
        look_again: &Arc<Notify>,
        interfaces: &[Interface],
    ) -> Result<(&'static str, BTreeMap<Address, Member>)> {
        // More exports may come later.
        let useful = if is_lasting { usize::MAX } else { exports.len() };
        let count = usize::from(settings.threads).min(useful).max(1);
        let mut shares: Vec<Vec<Served>> = (0..count).map(|_| Vec::new()).collect();
        let mut members = BTreeMap::new();
        for (index, (settings, served)) in exports.into_iter().enumerate() {
            members.insert(settings.address, Member::new(&settings, index % count, &served.disk));
            shares[index % count].push(served);
        }
        let mut engine = "";
        for (number, exports) in shares.into_iter().enumerate() {
            let mailbox = Arc::new(Mailbox::new()?);
            let pulse = Arc::new(Pulse::default());
            let plan = Plan {
                exports,
                disk_engine: settings.io,
                poll: Duration::from_micros(settings.poll.into()),
                wildcard_edits: settings.wildcard_edits,
                store: store.clone(),
                mailbox: Arc::clone(&mailbox),
                pulse: Arc::clone(&pulse),
                look_again: Arc::clone(look_again),
            };
            let (interfaces, sandbox) = (interfaces.to_vec(), self.sandbox);
            let (tell_ready, ready) = oneshot::channel();
            let (tell_end, end) = oneshot::channel();
            std::thread::Builder::new().name(format!("aoe-worker-{number}")).spawn(move || {
                // Who listens is gone only when the program ends anyway.
                match Worker::start(plan, &interfaces) {
                    Ok(worker) => {
                        sandbox.confine(Role::Worker);
                        let _ = tell_ready.send(Ok(worker.disk_engine()));
                        let _ = tell_end.send(worker.run());
                    }
                    Err(error) => drop(tell_ready.send(Err(error))),
                }
            })?;
            engine = ready.await.context("a serving thread failed")??;
            self.mailboxes.push(mailbox);
            self.pulses.push(pulse);
            self.ends
                .spawn(async { end.await.unwrap_or_else(|_| (Vec::new(), Err(anyhow!("a serving thread failed")))) });
        }
        Ok((engine, members))
    }

    /// Asks each whether it lives.
    fn ask(&self, question: u64) {
        for mailbox in &self.mailboxes {
            mailbox.leave(|mail| mail.question = Some(question));
        }
    }

    /// How the next worker ended.
    async fn next_end(&mut self) -> Result<()> {
        self.ends.join_next().await.expect("there is a worker until the stop")?.1
    }

    /// Lets the workers finish what is under way. Tells what they have closed, and how the first of them failed.
    async fn stop(&mut self) -> (Vec<Lease>, Result<()>) {
        for mailbox in &self.mailboxes {
            mailbox.leave(|mail| mail.stop = true);
        }
        let mut closed = Vec::new();
        let all_ended = async {
            let mut first = Ok(());
            while let Some(end) = self.ends.join_next().await {
                let (leases, result) = end.unwrap_or_else(|error| (Vec::new(), Err(error.into())));
                closed.extend(leases);
                first = first.and(result);
            }
            first
        };
        let stopped = timeout(STOP_TIME + STOP_GRACE, all_ended).await;
        let stopped = stopped.context("a disk does not answer; stopped without it").flatten();
        (closed, stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoe_common::wire::MacAddr;

    fn interface(name: &str, index: u32, slave: bool) -> Interface {
        Interface { name: name.into(), index, mac: MacAddr(2, 0, 0, 0, 0, index as u8), mtu: 1500, up: true, slave }
    }

    #[test]
    fn interfaces_that_are_named_must_exist() {
        let all = [interface("eth0", 2, false), interface("eth1", 3, false)];
        let choice = |names: &[&str]| {
            Choice::of_patterns(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
        };
        assert!(choice(&[]).check(&[]).is_ok());
        assert!(choice(&["eth1"]).check(&all).is_ok());
        let error = choice(&["eth1", "eth7"]).check(&all).unwrap_err().to_string();
        assert_eq!(error, "eth7: no such Ethernet interface; there are: eth0, eth1");
        let error = choice(&["eth7"]).check(&[]).unwrap_err().to_string();
        assert!(error.ends_with("there are: none"), "{error}");
    }

    #[test]
    fn a_bond_stands_for_its_members() {
        let all = vec![interface("eth0", 2, true), interface("bond0", 3, false)];
        let names = |named: &[&str]| {
            let choice = Choice::of_patterns(&named.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
            choice.of(all.clone()).into_iter().map(|interface| interface.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["bond0"]);
        assert_eq!(names(&["eth0"]), ["eth0"]);
        assert_eq!(names(&["*"]), ["bond0"], "a pattern names nobody");
        assert_eq!(names(&["bond?", "eth*"]), ["bond0"]);
    }
}
