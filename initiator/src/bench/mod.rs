//! Measuring a disk: a load straight on the device's engine, without NBD and without a block layer.
//!
//! One thread turns in one loop: it takes what the ports have, counts what is over, begins what is to begin, sends, and
//! sleeps when there is nothing to do. What to ask for, when, and what it comes to are values of their own ([`Load`]).

mod load;
mod pace;
mod pattern;
mod report;
mod tally;

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aoe_common::addr::Address;
use aoe_common::ata::Identify;
use aoe_common::frame::SECTOR;
use aoe_common::link::{LinkWatch, ethernet_interfaces, monotonic_now, processor_time};
use aoe_common::time::Instant;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub use self::load::Size;
use self::load::{Buffers, Load};
pub use self::pattern::{Kind, Range, RangeError};
use self::pattern::{Pattern, Random};
pub use self::report::{Flushed, Report};
pub use self::tally::Latencies;
use crate::engine::{Device, DeviceConfig, Event, Operation, QUARANTINE, Request};
use crate::outbox::Outbox;
use crate::ports::Ports;
use crate::snapshot::Snapshot;
use crate::{events, identity};

/// Frames taken from a port before anything else is done.
const FRAMES_PER_TURN: usize = 256;
/// How long requests that are under way at the end are waited for.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long the flush at the end may take.
const FLUSH_PATIENCE: Duration = Duration::from_secs(60);
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// How exactly the kernel is to wake us, in nanoseconds: requests at a rate have their time.
const TIMER_SLACK: u64 = 1000;
/// The id of the flush; the load's have one below its depth.
const FLUSH: u64 = u64::MAX;

/// What is to be measured, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The disk.
    pub device: Address,
    /// Interfaces to use; empty: all.
    pub interfaces: Vec<String>,
    /// How long a silent target is waited for before requests fail; none: for ever.
    pub dead_after: Option<Duration>,
    /// How long the disk is looked for.
    pub wait: Duration,
    /// What the load does.
    pub kind: Kind,
    /// How many of a hundred requests of a mix read.
    pub mix_reads: u8,
    /// Its requests.
    pub size: Size,
    /// The first byte it uses; a multiple of 512.
    pub offset: u64,
    /// Bytes it uses, a multiple of 512; none: up to the end.
    pub length: Option<u64>,
    /// Requests begun a second; none: as many as there is room for.
    pub rate: Option<u32>,
    /// How long it runs before it is measured.
    pub warm_up: Duration,
    /// How long it is measured.
    pub measured: Duration,
}

/// How a load is getting on.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// How long it has run, warm-up included.
    pub elapsed: Duration,
    /// Requests a second since progress was told last.
    pub iops: f64,
    /// Requests that failed so far.
    pub errors: u64,
    /// Frames sent again so far.
    pub resends: u64,
}

/// A disk that was found and is to be measured. See the [module](self).
#[derive(Debug)]
pub struct Bench {
    options: Options,
    device: Device,
    ports: Ports,
    outbox: Outbox,
    watch: LinkWatch,
    /// Ctrl-C, once there is something to be ended in order.
    signals: Option<SignalFd>,
    ports_failed: bool,
    interrupted: bool,
}

impl Bench {
    /// Finds the disk.
    pub fn find(options: Options) -> Result<Self> {
        // Listens before the list is read, so that no change is missed.
        let watch = LinkWatch::open().context("cannot follow the network interfaces")?;
        let (ports, opened) = Ports::open(options.interfaces.clone())?;
        let config = DeviceConfig {
            address: options.device,
            identity: identity::identity().context("no random numbers")?,
            tag_start: identity::first_tag(),
            dead_after: options.dead_after,
            hold_writes: Duration::ZERO,
            frame_life: QUARANTINE,
            network_repeats: false,
        };
        let now = monotonic_now();
        let mut device = Device::new(now, config);
        opened.into_iter().for_each(|(id, info)| device.set_port(now, id, info));
        let mut bench = Self {
            options,
            device,
            ports,
            outbox: Outbox::default(),
            watch,
            signals: None,
            ports_failed: false,
            interrupted: false,
        };
        bench.await_up(now)?;
        let may_write = !bench.disk().read_only;
        ensure!(may_write || !bench.options.kind.writes(), "{} is read-only", bench.options.device);
        Ok(bench)
    }

    /// What the disk is.
    pub fn disk(&self) -> &Identify {
        self.device.disk().expect("a device that was up has a disk")
    }

    /// The part of it that will be used.
    pub fn range(&self) -> Result<Range, RangeError> {
        let Options { offset, length, size, .. } = self.options;
        Range::new(offset, length, size.block_bytes as u64, self.disk().sectors * SECTOR as u64)
    }

    fn await_up(&mut self, since: Instant) -> Result<()> {
        let until = since + self.options.wait;
        loop {
            let now = monotonic_now();
            self.take_frames(now);
            self.transmit(now);
            if self.report_events() {
                return Snapshot::of(&self.device, &self.ports).check_alone();
            }
            if now >= until {
                return Err(Snapshot::of(&self.device, &self.ports).not_found());
            }
            self.sleep(now, until)?;
        }
    }

    /// Runs the load to its end, or until Ctrl-C, and tells what it came to.
    pub fn run(mut self, mut progress: impl FnMut(&Progress)) -> Result<Report> {
        let Options { kind, mix_reads, size, rate, warm_up, measured, .. } = self.options;
        let range = self.range()?;
        let mut random = Random(u64::from_le_bytes(*identity::identity()?.first_chunk().expect("it is longer")));
        let buffers = Buffers::new(size, kind.reads(), kind.writes(), random.next());
        let pattern = Pattern::new(kind, range, mix_reads, random.next());
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        signals.thread_block()?;
        self.signals = Some(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?);
        if rate.is_some() {
            nix::sys::prctl::set_timerslack(TIMER_SLACK)?;
        }

        let start = monotonic_now();
        let mut load = Load::new(start, size, buffers, pattern, rate, (warm_up, measured));
        let [from, to] = self.carry(&mut load, start, &mut progress)?;
        let flushed = self.flush(&load)?;
        let resends = self.device.stats().resends - from.resends;
        let processor_time = to.processor_time.saturating_sub(from.processor_time);
        Ok(Report::new(&self.options, range, &load, resends, processor_time, flushed))
    }

    /// Carries a load to its end; tells how things were when it began to be measured, and when that was over.
    fn carry(&mut self, load: &mut Load, start: Instant, progress: &mut impl FnMut(&Progress)) -> Result<[Mark; 2]> {
        let mut from = None;
        let mut to = None;
        let mut told = self.mark(start);
        loop {
            self.take_frames(monotonic_now());
            // To take many frames takes a while, and the last of them has waited for it.
            let now = monotonic_now();
            self.feed(now, load);
            self.transmit(now);
            self.report_events();

            if now >= told.at + PROGRESS_EVERY {
                self.hear()?;
                let mark = self.mark(now);
                progress(&Progress {
                    elapsed: now.since(start),
                    iops: (mark.done - told.done) as f64 / now.since(told.at).as_secs_f64(),
                    errors: load.tally().errors,
                    resends: mark.resends,
                });
                told = mark;
            }
            if self.interrupted && to.is_none() {
                // Who interrupts again does not want to wait for answers.
                self.interrupted = false;
                load.stop(now);
            }
            let is_over = now >= load.ends();
            if from.is_none() && (is_over || now >= load.measured_from()) {
                from = Some(self.mark(now));
            }
            if to.is_none() && is_over {
                to = Some(self.mark(now));
            }
            let next = match (from, to) {
                (None, _) => load.measured_from(),
                (Some(_), None) => load.ends(),
                (Some(from), Some(to)) => {
                    let until = load.ends() + DRAIN_PATIENCE;
                    if load.in_flight() == 0 || now >= until || self.interrupted {
                        return Ok([from, to]);
                    }
                    until
                }
            };
            let due = load.poll_timeout().filter(|_| !is_over).into_iter().chain([told.at + PROGRESS_EVERY]);
            self.sleep(now, due.fold(next, Instant::min))?;
        }
    }

    /// Makes what was written durable, and measures that.
    fn flush(&mut self, load: &Load) -> Result<Flushed> {
        if load.writes_begun() == 0 {
            return Ok(Flushed::NothingWritten);
        }
        if !self.disk().flush_ext {
            return Ok(Flushed::Impossible);
        }
        if load.in_flight() > 0 {
            return Ok(Flushed::Failed("requests before it were never answered".to_owned()));
        }
        let start = monotonic_now();
        self.device.submit(start, Request { id: FLUSH, operation: Operation::Flush });
        loop {
            let now = monotonic_now();
            self.take_frames(now);
            self.transmit(now);
            self.report_events();
            if let Some(completion) = self.device.poll_completion() {
                let took = monotonic_now().since(start);
                return Ok(completion
                    .result
                    .map_or_else(|why| Flushed::Failed(why.to_string()), |()| Flushed::In(took)));
            }
            if self.interrupted || now >= start + FLUSH_PATIENCE {
                return Ok(Flushed::Failed(format!("not answered in {} s", now.since(start).as_secs())));
            }
            self.sleep(now, start + FLUSH_PATIENCE)?;
        }
    }

    /// Counts what is over, and begins what is to begin.
    fn feed(&mut self, now: Instant, load: &mut Load) {
        loop {
            // A request may be over as soon as it is begun.
            while let Some(completion) = self.device.poll_completion() {
                load.complete(now, completion);
            }
            let Some(request) = load.poll_request(now) else { return };
            self.device.submit(now, request);
        }
    }

    fn take_frames(&mut self, now: Instant) {
        let device = &mut self.device;
        let errors = std::mem::take(&mut self.ports_failed);
        let changes = self.ports.receive(FRAMES_PER_TURN, errors, |port, frame| device.handle_frame(now, port, frame));
        for (port, info) in changes {
            self.device.set_port(now, port, info);
        }
        if self.device.poll_timeout().is_some_and(|due| now >= due) {
            self.device.handle_timeout(now);
        }
    }

    fn transmit(&mut self, now: Instant) {
        let device = &mut self.device;
        self.outbox.transmit(now, &mut self.ports, |out| device.poll_transmit(now, out));
    }

    /// Tells whether the device came up.
    fn report_events(&mut self) -> bool {
        let mut is_up = false;
        while let Some(event) = self.device.poll_event() {
            events::log(self.options.device, &event, &self.ports);
            is_up |= event == Event::Up;
        }
        is_up
    }

    /// Waits for whatever comes first. While frames come in all the time, that needs no system call.
    fn sleep(&mut self, now: Instant, until: Instant) -> Result<()> {
        if self.ports.is_waiting() {
            return Ok(());
        }
        let due =
            [self.device.poll_timeout(), self.outbox.poll_timeout()].into_iter().flatten().fold(until, Instant::min);
        let watch = self.watch.as_fd();
        let signals = self.signals.as_ref().map(AsFd::as_fd);
        let woken = match signals {
            Some(signals) => self.ports.wait(now, Some(due), &[watch, signals])?,
            None => self.ports.wait(now, Some(due), &[watch])?,
        };
        self.ports_failed = woken.failed;
        if woken.other { self.hear() } else { Ok(()) }
    }

    /// Looks for what comes up rarely.
    fn hear(&mut self) -> Result<()> {
        if let Some(signals) = &self.signals {
            self.interrupted |= signals.read_signal()?.is_some();
        }
        if self.watch.drain() {
            let interfaces = ethernet_interfaces().context("cannot list the network interfaces")?;
            let now = monotonic_now();
            for (id, info) in self.ports.follow(&interfaces) {
                self.device.set_port(now, id, info);
            }
        }
        Ok(())
    }

    fn mark(&self, at: Instant) -> Mark {
        let stats = self.device.stats();
        Mark { at, processor_time: processor_time(), done: stats.reads + stats.writes, resends: stats.resends }
    }
}

/// How things were at a moment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    processor_time: Duration,
    /// Requests that were done.
    done: u64,
    /// Frames sent again.
    resends: u64,
}
