//! Starts the workers, says what is served, and watches over them: signals, interfaces, and workers that end.
//!
//! This is the control side, a single thread; no request passes through it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use aoe_common::addr::Address;
use aoe_common::ata::CacheMemory;
use aoe_common::frame::SECTOR;
use aoe_common::link::{Interface, LinkError, LinkWatch, ethernet_interfaces, monotonic_now};
use aoe_common::mailbox::Mailbox;
use glob::Pattern;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until, timeout};

use crate::disk::{DiskFile, DiskOptions};
use crate::engine::export::{ExportConfig, StoredState};
use crate::hold::{Marker, keep_fresh};
use crate::notify::{self, Pulse, Watchdog};
use crate::sandbox::{Role, Sandbox};
use crate::settings::{ExportSettings, Settings};
use crate::state::{StateDirectory, Store, image_name, reason, summary};
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
    let mut exports = open_exports(&settings.exports)?;
    may_use_raw_sockets()?;
    let choice = Choice::of_patterns(&settings.interfaces)?;
    let missing = choice.check(&ethernet_interfaces().context("cannot list the interfaces")?);
    match (missing, &settings.file) {
        (Ok(()), _) => {}
        (Err(error), None) => return Err(error),
        // At boot it may come later than this process.
        (Err(error), Some(_)) => tracing::warn!("{error}; waiting for it"),
    }
    let directory = StateDirectory::open(settings.state_directory.clone())
        .map_err(|error| anyhow!("{error}; name a directory that can be written with --state-dir"))?;
    if let Some(directory) = &directory {
        for (Served { config, stored, image, .. }, wanted) in exports.iter_mut().zip(&settings.exports) {
            *stored = directory.load(config.address, image);
            if wanted.clear_error {
                clear_error(directory, config.address, image, stored)?;
            }
            config.cache_memory = cache_memory(stored.cleared);
        }
        hold_writes(settings.hold, directory, &mut exports, sandbox)?;
    }
    for Served { config, disk, stored, .. } in &exports {
        let (address, path) = (config.address, disk.path().display());
        if let Some(errno) = stored.lost {
            tracing::error!(
                "{address}: {path}: acknowledged data may have been lost before this start: {}; writes and flushes are \
                 refused, reads are served: check the disk and what is on it, then start with --clear-error",
                reason(errno)
            );
        }
    }
    for Served { config, disk, .. } in exports.iter().filter(|export| export.disk.tail_bytes() > 0) {
        let (address, path, tail) = (config.address, disk.path().display(), disk.tail_bytes());
        tracing::warn!("{address}: {path}: the last {tail} bytes fill no sector of 512 and are not exported");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(Control { settings, choice, sandbox }.run(exports, directory));
    // A worker that is stuck in the kernel must not hold up the exit.
    runtime.shutdown_background();
    result
}

/// Lets exports that were served just before hold their writes, and has it marked from then on that they are served.
fn hold_writes(may_hold: bool, directory: &StateDirectory, exports: &mut [Served], sandbox: Sandbox) -> Result<()> {
    let mut markers = Vec::new();
    for Served { config, hold, .. } in exports.iter_mut().filter(|export| !export.config.read_only) {
        let path = directory.path().join(format!("{}.served", config.address));
        let (marker, served) = Marker::open(&path, monotonic_now(), may_hold)
            .map_err(|error| anyhow!("{}: {error}; name a directory with --state-dir", path.display()))?;
        *hold = served;
        markers.push(marker);
    }
    keep_fresh(markers, sandbox).context("cannot start a thread")
}

/// Forgets that data was lost, for good. Clients with unflushed writes learn that these may be gone, also when the loss could
/// not be stored.
fn clear_error(directory: &StateDirectory, address: Address, image: &Path, stored: &mut StoredState) -> Result<()> {
    let lost = stored.lost.take();
    stored.cleared = stored.cleared.saturating_add(1);
    directory.save(address, image, stored).with_context(|| format!("{address}: the error cannot be cleared"))?;
    match lost {
        Some(errno) => tracing::warn!(
            "{address}: cleared: acknowledged data may have been lost: {}; writes are taken again",
            reason(errno)
        ),
        None => tracing::info!("{address}: there is no error to clear"),
    }
    Ok(())
}

/// Opens all files before anything is started.
fn open_exports(wanted: &[ExportSettings]) -> Result<Vec<Served>> {
    let mut exports = Vec::with_capacity(wanted.len());
    let mut writers: BTreeMap<PathBuf, Address> = BTreeMap::new();
    for settings in wanted {
        let (address, path) = (settings.address, &settings.path);
        if let Ok(real) = path.canonicalize()
            && !settings.read_only
            && let Some(other) = writers.insert(real, address)
        {
            bail!(
                "{}: is exported as {other} and as {address}, and both could write; use --read-only or leave one out",
                path.display()
            );
        }
        let disk = DiskFile::open(&DiskOptions {
            path: path.clone(),
            read_only: settings.read_only,
            direct: settings.direct,
            offset_sectors: settings.offset,
            length_sectors: settings.length,
        })?;
        let image = image_name(path).with_context(|| path.display().to_string())?;
        let config = ExportConfig {
            address,
            sectors: disk.size_bytes() / SECTOR as u64,
            read_only: settings.read_only,
            buffers: settings.buffers,
            allow: settings.allow.clone(),
            edits: settings.edits.clone(),
            cache: settings.cache,
            serial: settings.serial.clone().unwrap_or_else(|| default_serial(address, &image)),
            model: settings.model.clone(),
            physical_sector_exponent: (disk.physical_sector() / SECTOR as u32).ilog2() as u8,
            rotational: disk.rotational(),
            cache_memory: cache_memory(0),
        };
        exports.push(Served { config, disk, stored: StoredState::default(), image, hold: None });
    }
    Ok(exports)
}

/// The same after each start, and different for different disks: FNV-1a of the path, 32 bits.
fn default_serial(address: Address, image: &Path) -> String {
    let bytes = image.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    format!("S{}L{}-{hash:08x}", address.shelf, address.slot)
}

/// Where writes are kept that are not durable: the page cache, which lives as long as the host runs. When an operator has
/// cleared an error, something in it was lost, too.
fn cache_memory(cleared: u32) -> CacheMemory {
    let read = |path: &str| std::fs::read(path).unwrap_or_default();
    let host = [read("/etc/machine-id"), read("/proc/sys/kernel/hostname")].concat();
    let mut life = read("/proc/sys/kernel/random/boot_id");
    if life.is_empty() {
        // Another life at each start: a flush may fail for nothing, and never succeeds for nothing.
        life = monotonic_now().as_nanos().to_le_bytes().to_vec();
    }
    life.extend(cleared.to_le_bytes());
    CacheMemory::of(&host, &life)
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

struct Control<'a> {
    settings: &'a Settings,
    choice: Choice,
    sandbox: Sandbox,
}

/// The workers and the ways to reach them.
#[derive(Default)]
struct Workers {
    mailboxes: Vec<Arc<Mailbox<Mail>>>,
    /// Their signs of life.
    pulses: Vec<Arc<Pulse>>,
    /// How each ended.
    ends: JoinSet<Result<()>>,
}

impl Control<'_> {
    async fn run(self, exports: Vec<Served>, directory: Option<StateDirectory>) -> Result<()> {
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

        let own_directories: Vec<_> = directory.iter().map(|directory| directory.path().to_owned()).collect();
        let store = directory.map(|directory| Store::start(directory, exports.len(), self.sandbox)).transpose()?;
        let (store, store_thread) = store.unzip();
        let mut interfaces = self.choice.of(ethernet_interfaces()?);
        let lines: Vec<_> = exports.iter().map(line).collect();
        let mut workers = Workers::default();
        let engine = workers.start(&self, exports, store, &look_again, &interfaces).await?;
        self.sandbox.confine(Role::Control(&own_directories));
        announce(&lines, engine, &interfaces);
        notify::ready(&status_line(lines.len(), &interfaces));

        let mut watchdog = Watchdog::over(workers.pulses.clone());
        let ask_every = Watchdog::wanted();
        let mut ask_at = Instant::now();
        let mut look_at = Instant::now() + LOOK_EVERY;
        let failure = loop {
            tokio::select! {
                _ = terminate.recv() => break None,
                _ = interrupt.recv() => break None,
                _ = hang_up.recv() => tracing::info!("SIGHUP: there is no configuration file to read again"),
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
                            let new = self.choice.of(all);
                            log_changes(&interfaces, &new);
                            if new != interfaces {
                                notify::status(&status_line(lines.len(), &new));
                            }
                            interfaces = new;
                            workers.tell_links(&interfaces);
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
        workers.stop().await?;
        if let Some(thread) = store_thread {
            // The workers are gone and with them the last of its clients.
            let _ = thread.join();
        }
        failure.unwrap_or(Ok(()))
    }
}

/// What is said of an export when it is served, in two parts: between them goes how its disk is reached.
fn line(Served { config, disk, stored, hold, .. }: &Served) -> Line {
    let size = human_size(disk.size_bytes());
    let access = match (config.read_only, stored.lost) {
        (true, _) => "read-only",
        (false, None) => "read-write",
        (false, Some(_)) => "writes refused",
    };
    let (address, path, cache) = (config.address, disk.path().display(), config.cache.name());
    let direct = if disk.is_direct() { "  direct" } else { "" };
    let settings = (*stored != StoredState { lost: stored.lost, cleared: stored.cleared, ..StoredState::default() })
        .then(|| format!("  {address} keeps what clients set: {}", summary(stored)));
    let hold = hold.map(|hold| {
        let now = monotonic_now();
        let [anybody, retagged] = [hold.anybody, hold.retagged].map(|until| until.since(now).as_secs_f64().ceil());
        if anybody > 0.0 {
            return format!(
                "  {address} was served just before: writes wait {anybody} s for late copies to be gone (see --no-hold)"
            );
        }
        format!(
            "  {address} was served before: writes of aoe.ko wait {retagged} s for late attempts to be gone (see --no-hold)"
        )
    });
    Line {
        head: format!("serving {address}  {path}  {size}  {access}  cache {cache}{direct}"),
        notes: settings.into_iter().chain(hold).collect(),
    }
}
struct Line {
    head: String,
    notes: Vec<String>,
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
fn status_line(exports: usize, interfaces: &[Interface]) -> String {
    let up = interfaces.iter().filter(|interface| interface.up).map(|interface| interface.name.as_str());
    let up = up.collect::<Vec<_>>().join(", ");
    let plural = if exports == 1 { "" } else { "s" };
    if up.is_empty() {
        return format!("{exports} export{plural}, no interface is up");
    }
    format!("serving {exports} export{plural} on {up}")
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
        Control { settings, sandbox, .. }: &Control<'_>,
        exports: Vec<Served>,
        store: Option<Store>,
        look_again: &Arc<Notify>,
        interfaces: &[Interface],
    ) -> Result<&'static str> {
        // A daemon may get more exports later.
        let useful = if settings.file.is_some() { usize::MAX } else { exports.len() };
        let count = usize::from(settings.threads).min(useful);
        let mut shares: Vec<Vec<Served>> = (0..count).map(|_| Vec::new()).collect();
        for (index, export) in exports.into_iter().enumerate() {
            shares[index % count].push(export);
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
            let (interfaces, sandbox) = (interfaces.to_vec(), *sandbox);
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
            self.ends.spawn(async { end.await.unwrap_or_else(|_| Err(anyhow!("a serving thread failed"))) });
        }
        Ok(engine)
    }

    fn tell_links(&self, interfaces: &[Interface]) {
        for mailbox in &self.mailboxes {
            mailbox.leave(|mail| mail.links = Some(interfaces.to_vec()));
        }
    }

    /// Asks each whether it lives.
    fn ask(&self, question: u64) {
        for mailbox in &self.mailboxes {
            mailbox.leave(|mail| mail.question = Some(question));
        }
    }

    /// How the next worker ended.
    async fn next_end(&mut self) -> Result<()> {
        self.ends.join_next().await.expect("there is a worker until the stop")?
    }

    /// Lets the workers finish what is under way.
    async fn stop(&mut self) -> Result<()> {
        for mailbox in &self.mailboxes {
            mailbox.leave(|mail| mail.stop = true);
        }
        let all_ended = async {
            let mut first = Ok(());
            while let Some(end) = self.ends.join_next().await {
                first = first.and(end?);
            }
            first
        };
        timeout(STOP_TIME + STOP_GRACE, all_ended).await.context("a disk does not answer; stopped without it")?
    }
}

/// Bytes in the unit that people read best.
pub(crate) fn human_size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoe_common::wire::MacAddr;

    fn interface(name: &str, index: u32, slave: bool) -> Interface {
        Interface { name: name.into(), index, mac: MacAddr(2, 0, 0, 0, 0, index as u8), mtu: 1500, up: true, slave }
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [(512, "0.5 KiB"), (64 << 20, "64.0 MiB"), (1536 << 20, "1.5 GiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(human_size(bytes), text);
        }
    }

    #[test]
    fn default_serials_fit_and_differ() {
        let serial = |address, path: &str| default_serial(address, Path::new(path));
        let longest = Address::new(65534, 254);
        assert!(serial(longest, "/a").len() <= 20);
        assert_eq!(serial(longest, "/a"), serial(longest, "/a"));
        assert_ne!(serial(longest, "/a"), serial(longest, "/b"));
        assert_ne!(serial(Address::new(1, 2), "/a"), serial(Address::new(1, 3), "/a"));
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
