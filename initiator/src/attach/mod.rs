//! Attaching a disk: finds it, serves it, follows the network, and lets go of it in order.
//!
//! Two threads. The data thread ([`serve`]) carries requests. This one carries everything that is rare: control
//! clients, signals, interfaces that come and go, the calls that tell the kernel about its device.

mod client;
mod control;
mod export;
mod kernel;
mod memory;
mod serve;
mod socket;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use aoe_common::addr::Address;
use aoe_common::frame::SECTOR;
use aoe_common::link::{LinkWatch, ethernet_interfaces, monotonic_now};
use aoe_common::mailbox::Mailbox;
use aoe_common::netlink::{NbdControl, NbdError};
use aoe_common::scrape::Endpoint;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use self::control::{Control, ControlSocket};
use self::kernel::{KernelFiles, Plan, Settings};
use self::serve::{CLIENTS_MAX, Ending, Frontend, Latencies, Mail, Server, Service};
use self::socket::Listener;
use crate::engine::{Device, DeviceConfig, DeviceState, PathState};
use crate::identity;
use crate::metrics::Metrics;
use crate::place::Place;
use crate::ports::Ports;
use crate::run_dir::{Answer, Request, RunDir};
use crate::snapshot::Snapshot;
use crate::status::{PathHealth, PathStatus, State, Status};
use aoe_common::text::size;

/// How long the data thread may take for an answer that costs it nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the kernel may take to write back what it holds, before it is disconnected all the same.
const WRITE_BACK_PATIENCE: Duration = Duration::from_secs(30);
/// How long the data thread may take to end: its own two bounds, and some more.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// What is to be attached, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The disk.
    pub device: Address,
    /// Where.
    pub place: Place,
    /// Interfaces to use; empty: all.
    pub interfaces: Vec<String>,
    /// Refuse writes.
    pub read_only: bool,
    /// How long a silent target is waited for, in seconds, before requests fail; none: for ever.
    pub dead_after_s: Option<u64>,
    /// Sockets to the kernel, or clients of a socket at a time; 1 to 16.
    pub connections: Option<u8>,
    /// How long the kernel lets one request take, in seconds; 0: as long as it takes.
    pub kernel_timeout_s: u64,
    /// How long the disk is looked for.
    pub wait: Duration,
    /// How long a frame may live in this network.
    pub frame_life: Duration,
    /// The network may repeat frames by itself.
    pub network_repeats: bool,
    /// Where figures are served.
    pub metrics: Option<Endpoint>,
}

/// A disk that can be used now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// A line that says so.
    pub line: String,
    /// What its user should know.
    pub warning: Option<String>,
}

/// Attaches a disk and serves it until it is detached. Calls `ready` when it can be used; an error of that ends it.
pub fn run(options: &Options, run_dir: &RunDir, ready: impl FnOnce(&Ready) -> Result<()>) -> Result<()> {
    run_dir.create()?;
    run_dir.sweep_logs()?;
    let (reserved, place, socket) = reserve(options, run_dir)?;

    // Listens before the list is read, so that no change is missed.
    let watch = LinkWatch::open().context("cannot follow the network interfaces")?;
    let (ports, opened) = Ports::open(options.interfaces.clone())?;
    let config = DeviceConfig {
        address: options.device,
        identity: identity::identity().context("no random numbers")?,
        tag_start: identity::first_tag(),
        dead_after: options.dead_after_s.map(Duration::from_secs),
        hold_writes: match reserved {
            // The last writes of the server that crashed may still be on their way.
            Reserved::Kernel(Plan::TakeOver(..)) => options.frame_life,
            Reserved::Socket(ref listener) if listener.takes_over() => options.frame_life,
            _ => Duration::ZERO,
        },
        frame_life: options.frame_life,
        network_repeats: options.network_repeats,
    };
    let serves_kernel = matches!(reserved, Reserved::Kernel(_));
    if serves_kernel {
        memory::stay();
    }

    let mailbox = Arc::new(Mailbox::<Mail>::new().map_err(io::Error::from)?);
    let (when_up, up) = oneshot::channel();
    mailbox.leave(|mail| mail.when_up = Some(when_up));
    let (tell_size, size) = watch::channel(0);
    let device = Device::new(monotonic_now(), config);
    let server = Server::new(device, ports, opened, Arc::clone(&mailbox), tell_size)?;
    let (tell_end, ended) = oneshot::channel();
    std::thread::Builder::new().name("aoe-data".into()).spawn(move || {
        if serves_kernel {
            memory::serve_write_back();
        }
        // Nobody listens only when the process ends anyway.
        let _ = tell_end.send(server.run());
    })?;

    // Until the end; asks once somebody scrapes.
    let control = run_dir.socket(std::process::id());
    let metrics = options.metrics.as_ref().map(|endpoint| Metrics::serve(endpoint, control)).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        #[allow(
            deprecated,
            reason = "its successor is unsafe for the sake of descriptors that may be closed; ours is owned"
        )]
        let links = AsyncFd::with_interest(watch.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        let attach = Attach {
            options,
            place,
            began: Instant::now(),
            mailbox,
            size,
            ended,
            control: Control::open(socket)?,
            watch,
            links,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            kernel: None,
        };
        attach.live(reserved, up, ready).await
    });
    drop(metrics);
    // A call to the kernel that did not return in time is not waited for.
    runtime.shutdown_background();
    result
}

/// What is taken for the attach before the disk is looked for.
enum Reserved {
    Kernel(Plan),
    Socket(Listener),
}

/// Makes sure that the place is free, and takes it as far as that can be done without the disk.
fn reserve(options: &Options, run_dir: &RunDir) -> Result<(Reserved, Place, ControlSocket)> {
    let _lock = run_dir.lock()?;
    let place = options.place.to_string();
    let attached = run_dir.attached(|error| tracing::warn!("{error}"))?;
    // Many may look for the first free kernel device.
    let is_one = options.place != Place::Kernel(None);
    if let Some(other) = attached.iter().map(|other| &other.status).find(|other| is_one && other.place == place) {
        bail!(
            "{} is attached at {place} already, by process {}: choose another place, or free this one with \
             \"aoe-detach {place}\"",
            other.device,
            other.pid
        );
    }
    let (reserved, place) = match &options.place {
        Place::Kernel(index) => {
            (Reserved::Kernel(KernelFiles::default().plan(*index, options.device)?), options.place.clone())
        }
        Place::Unix(path) => (Reserved::Socket(Listener::unix(path)?), options.place.clone()),
        Place::Tcp(address) => {
            let listener = Listener::tcp(*address)?;
            let place = listener.place()?;
            (Reserved::Socket(listener), place)
        }
    };
    let control = ControlSocket::bind(&run_dir.socket(std::process::id()))?;
    Ok((reserved, place, control))
}

/// The main thread of an attach.
struct Attach<'a> {
    options: &'a Options,
    place: Place,
    began: Instant,
    mailbox: Arc<Mailbox<Mail>>,
    /// The size in bytes to be served, when it has grown.
    size: watch::Receiver<u64>,
    ended: oneshot::Receiver<io::Result<Ending>>,
    control: Control,
    watch: LinkWatch,
    /// Readable when the watch has word.
    links: AsyncFd<OwnedFd>,
    terminate: Signal,
    interrupt: Signal,
    /// The kernel device, once it is connected.
    kernel: Option<(u32, NbdControl)>,
}

/// Why to end.
enum Stop {
    Signal,
    Asked(oneshot::Sender<Answer>),
    Ended(Result<Ending>),
}

impl Attach<'_> {
    async fn live(
        mut self,
        reserved: Reserved,
        up: oneshot::Receiver<Snapshot>,
        ready: impl FnOnce(&Ready) -> Result<()>,
    ) -> Result<()> {
        let found = tokio::select! {
            found = up => found.context("the data thread ended")?,
            () = sleep(self.options.wait) => return Err(self.not_found().await),
            stop = self.routine() => {
                let device = self.options.device;
                self.end(stop).await?;
                bail!("{device} was detached before it was found");
            }
        };
        found.check_alone()?;
        let begun = self.serve(reserved, &found).and_then(|()| ready(&self.describe(&found)));
        if let Err(error) = begun {
            self.let_go().await?;
            return Err(error);
        }
        let stop = self.routine().await;
        self.end(stop).await
    }

    /// All that comes up while the disk is attached, until one thing ends it.
    async fn routine(&mut self) -> Stop {
        loop {
            tokio::select! {
                guard = self.links.readable() => match (self.watch.drain(), guard) {
                    (true, _) => match ethernet_interfaces() {
                        Ok(list) => self.mailbox.leave(|mail| mail.interfaces = Some(list)),
                        Err(error) => tracing::warn!("cannot list the network interfaces: {error}"),
                    },
                    (false, Ok(mut guard)) => guard.clear_ready(),
                    (false, Err(error)) => tracing::warn!("cannot follow the network interfaces: {error}"),
                },
                (request, reply) = self.control.question() => match request {
                    Request::Status => {
                        let answer = answer_status(self.ask(), self.facts());
                        tokio::spawn(async move { reply.send(answer.await) });
                    }
                    Request::Detach => match self.refusal().await {
                        Some(why) => drop(reply.send(Answer::Refused(why))),
                        None => return Stop::Asked(reply),
                    },
                },
                _ = self.terminate.recv() => return Stop::Signal,
                _ = self.interrupt.recv() => return Stop::Signal,
                ended = &mut self.ended => return Stop::Ended(ending(ended)),
            }
        }
    }

    /// Why not to detach now, if there is a reason.
    async fn refusal(&self) -> Option<String> {
        let (index, _) = self.kernel.as_ref()?;
        let index = *index;
        // Opening a device whose target is silent can take long; then nobody can be using it well.
        let checked = timeout(PATIENCE, spawn_blocking(move || kernel::check_unused(index))).await;
        checked.ok()?.ok()?.err().map(|error| error.to_string())
    }

    /// Asks the data thread how things are.
    fn ask(&self) -> oneshot::Receiver<(Snapshot, Latencies)> {
        let (sender, answer) = oneshot::channel();
        self.mailbox.leave(|mail| mail.questions.push(sender));
        answer
    }

    fn facts(&self) -> Facts {
        let Options { device, read_only, .. } = *self.options;
        Facts { device, place: self.place.clone(), read_only, since: self.began.elapsed() }
    }

    // ---- The beginning ---------------------------------------------------------------------------------------

    async fn not_found(&self) -> anyhow::Error {
        match timeout(PATIENCE, self.ask()).await {
            Ok(Ok((snapshot, _))) => snapshot.not_found(),
            _ => anyhow!("the data thread is stuck"),
        }
    }

    /// Begins to serve; at a kernel device, the kernel.
    fn serve(&mut self, reserved: Reserved, found: &Snapshot) -> Result<()> {
        let disk = found.disk.as_ref().context("a device that is up has a disk")?;
        let Options { device, read_only, connections, .. } = *self.options;
        let mailbox = &self.mailbox;
        match reserved {
            Reserved::Socket(listener) => {
                let clients = connections.map_or(CLIENTS_MAX, usize::from);
                let export = export::export(device, disk, read_only, clients > 1);
                let frontend = Frontend::Socket(listener, clients);
                mailbox.leave(|mail| mail.service = Some(Service { export, frontend }));
            }
            Reserved::Kernel(plan) => {
                let export = export::export(device, disk, read_only, true);
                let settings = Settings {
                    connections: connections.unwrap_or(1),
                    timeout_s: self.options.kernel_timeout_s,
                    dead_after_s: self.options.dead_after_s,
                };
                let mut line = kernel::open_line()?;
                let backend = kernel::backend(device, disk);
                let index = kernel::attach(&mut line, &plan, &backend, &export, settings, |sockets| {
                    let service = Service { export: export.clone(), frontend: Frontend::Kernel(sockets) };
                    mailbox.leave(|mail| mail.service = Some(service));
                })?;
                tokio::spawn(follow_growth(self.size.clone(), index, move |size_bytes| {
                    kernel::grow(&mut kernel::open_line()?, index, &backend, size_bytes)
                }));
                self.place = Place::Kernel(Some(index));
                self.kernel = Some((index, line));
            }
        }
        Ok(())
    }

    fn describe(&self, found: &Snapshot) -> Ready {
        let Options { device, read_only, .. } = *self.options;
        let disk = found.disk.as_ref().expect("a device that is up has a disk");
        let mode = if read_only || disk.read_only { "read-only" } else { "read-write" };
        let paths = found.paths.iter().filter(|(_, path)| path.state == PathState::Live).count();
        let plural = if paths == 1 { "" } else { "s" };
        let bytes = size(disk.sectors * SECTOR as u64);
        let line = format!("{device} attached at {}: {bytes}, {mode}, {paths} path{plural}", self.place);
        let warning = (mode == "read-write" && !export::can_flush(disk)).then(|| {
            format!("{device} has no flush: what is written is as safe as the target makes it, and fsync adds nothing")
        });
        Ready { line, warning }
    }

    // ---- The end ---------------------------------------------------------------------------------------------

    async fn end(mut self, stop: Stop) -> Result<()> {
        let (device, place) = (self.options.device, self.place.clone());
        let (ending, reply) = match stop {
            Stop::Ended(ending) => (ending?, None),
            Stop::Signal => (self.let_go().await?, None),
            Stop::Asked(reply) => (self.let_go().await?, Some(reply)),
        };
        let warning = what_is_lost(&ending);
        match &warning {
            Some(warning) => tracing::error!("{device} detached from {place}, but {warning}"),
            None => tracing::info!("{device} detached from {place}"),
        }
        if let Some(reply) = reply {
            let _ = reply.send(Answer::Detached { warning: warning.clone() });
            self.control.close().await;
            return Ok(());
        }
        match warning {
            Some(warning) => bail!("{device} is detached from {place}, but {warning}"),
            None => Ok(()),
        }
    }

    /// Finishes what is under way, and ends the data thread.
    async fn let_go(&mut self) -> Result<Ending> {
        let mut was_asked = false;
        if let Some((index, mut line)) = self.kernel.take() {
            let write_back = spawn_blocking(move || kernel::write_back(index));
            match timeout(WRITE_BACK_PATIENCE, write_back).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => tracing::warn!("/dev/nbd{index}: writing back: {error}"),
                _ => tracing::warn!("/dev/nbd{index}: writing back takes too long"),
            }
            self.mailbox.leave(|mail| mail.leave = true);
            match timeout(END_PATIENCE, spawn_blocking(move || line.disconnect(index))).await {
                Ok(Ok(Ok(()))) => was_asked = true,
                Ok(Ok(Err(error))) => tracing::warn!("/dev/nbd{index}: {error}"),
                _ => tracing::warn!("/dev/nbd{index}: the kernel does not let go of it"),
            }
        }
        self.mailbox.leave(|mail| mail.leave = true);
        let ending = ending(timeout(END_PATIENCE, &mut self.ended).await.context("the data thread is stuck")?)?;
        // What somebody, such as udev, still read when the kernel was asked to let go has no answer. That is no loss.
        Ok(Ending { cut_off: ending.cut_off && !was_asked, ..ending })
    }
}

/// Tells the kernel of each growth of its disk, one after the other and only the latest, as long as it is served.
async fn follow_growth(
    mut size: watch::Receiver<u64>,
    index: u32,
    tell: impl Fn(u64) -> Result<(), NbdError> + Clone + Send + 'static,
) {
    while size.changed().await.is_ok() {
        let bytes = *size.borrow_and_update();
        let tell = tell.clone();
        // The call may wait for requests, which may wait for the target.
        match spawn_blocking(move || tell(bytes)).await {
            Ok(Ok(())) => tracing::info!("/dev/nbd{index} has {bytes} bytes now"),
            Ok(Err(error)) => {
                tracing::error!("/dev/nbd{index} cannot grow to {bytes} bytes, attach it again for that: {error}");
            }
            Err(error) => tracing::error!("/dev/nbd{index} cannot grow: {error}"),
        }
    }
}

fn ending(ended: Result<io::Result<Ending>, oneshot::error::RecvError>) -> Result<Ending> {
    ended.context("the data thread crashed")?.context("the data thread cannot go on")
}

/// What went wrong at the end, in words that follow "detached, but".
fn what_is_lost(ending: &Ending) -> Option<String> {
    match ending {
        Ending { unanswered: 1.., .. } => Some(format!("{} requests were never answered", ending.unanswered)),
        Ending { flushed: Some(false), .. } => Some("the target did not confirm that all is durable".to_owned()),
        Ending { cut_off: true, .. } => Some("the kernel cut the connection".to_owned()),
        _ => None,
    }
}

async fn answer_status(snapshot: oneshot::Receiver<(Snapshot, Latencies)>, facts: Facts) -> Answer {
    match timeout(PATIENCE, snapshot).await {
        Ok(Ok((snapshot, latencies))) => Answer::Status(Box::new(status(facts, snapshot, latencies))),
        _ => Answer::Refused("its data thread does not answer".to_owned()),
    }
}

/// What the main thread knows about an attach.
struct Facts {
    device: Address,
    place: Place,
    read_only: bool,
    since: Duration,
}

fn status(facts: Facts, snapshot: Snapshot, latencies: Latencies) -> Status {
    let Snapshot { state, disk, paths, stats, .. } = snapshot;
    let paths = paths.into_iter().map(|(interface, path)| PathStatus {
        mac: path.mac.to_string(),
        interface,
        state: match path.state {
            PathState::Identifying { .. } => PathHealth::Identifying,
            PathState::Live => PathHealth::Up,
            PathState::Failed => PathHealth::Failed,
            PathState::Foreign => PathHealth::Foreign,
        },
        rtt_us: path.rtt.map(|rtt| rtt.as_micros() as u64),
        window: path.window,
        in_flight: path.in_flight,
        resends: path.resends,
        frame_bytes: u64::from(path.sectors) * SECTOR as u64,
        offered_bytes: u64::from(path.offered) * SECTOR as u64,
    });
    Status {
        device: facts.device,
        place: facts.place.to_string(),
        state: match state {
            DeviceState::Searching => State::Searching,
            DeviceState::Up => State::Up,
            DeviceState::Dead => State::Dead,
        },
        size_bytes: disk.as_ref().map_or(0, |disk| disk.sectors * SECTOR as u64),
        read_only: facts.read_only || disk.is_some_and(|disk| disk.read_only),
        pid: std::process::id(),
        since_s: facts.since.as_secs(),
        paths: paths.collect(),
        resends: stats.resends,
        errors: stats.errors,
        reads: stats.reads,
        read_bytes: stats.read_bytes,
        writes: stats.writes,
        write_bytes: stats.write_bytes,
        flushes: stats.flushes,
        trims: stats.trims,
        strays: stats.strays,
        bad_answers: stats.bad_answers,
        read_latency: latencies.read,
        write_latency: latencies.write,
        flush_latency: latencies.flush,
        trim_latency: latencies.trim,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_losses_are_told_at_the_end() {
        let fine = Ending { unanswered: 0, flushed: Some(true), cut_off: false };
        assert_eq!(what_is_lost(&fine), None);
        assert_eq!(what_is_lost(&Ending { flushed: None, ..fine }), None);
        assert!(what_is_lost(&Ending { unanswered: 2, ..fine }).unwrap().starts_with("2 requests"));
        assert!(what_is_lost(&Ending { flushed: Some(false), ..fine }).is_some());
        assert!(what_is_lost(&Ending { cut_off: true, ..fine }).is_some());
    }

    #[test]
    fn the_kernel_is_told_of_growth_one_at_a_time_and_of_the_latest_only() {
        let (tell_size, size) = watch::channel(0);
        let (calls, called) = std::sync::mpsc::channel();
        let (go_on, gate) = std::sync::mpsc::channel::<bool>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let tell = move |bytes| {
            calls.send(bytes).unwrap();
            match gate.lock().unwrap().recv().unwrap() {
                true => Ok(()),
                false => Err(NbdError::Timeout),
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let follower = std::thread::spawn(move || runtime.block_on(follow_growth(size, 1, tell)));
        let next = || called.recv_timeout(PATIENCE).unwrap();

        tell_size.send_replace(512);
        assert_eq!(next(), 512);
        tell_size.send_replace(1024);
        tell_size.send_replace(2048);
        assert!(called.recv_timeout(Duration::from_millis(50)).is_err(), "the first call has not ended");
        go_on.send(false).unwrap();
        assert_eq!(next(), 2048, "a failure does not end it");
        go_on.send(true).unwrap();
        drop(tell_size);
        follower.join().unwrap();
        assert!(called.recv().is_err(), "nothing more is told");
    }
}
