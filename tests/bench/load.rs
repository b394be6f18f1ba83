//! A lean load generator: raw frames, one thread, the same for every AoE target.
//!
//! It keeps a number of requests under way, or sends at a rate, and never sleeps while it measures, so that what is
//! measured is the target and the wire. One generator can stand for many stations: each has a MAC address of its own.

use std::os::fd::AsFd;

use anyhow::{Context, Result, bail, ensure};
use aoe_common::addr::Address;
use aoe_common::ata::{Status, command};
use aoe_common::frame::{HEADROOM, MIN_FRAME, SECTOR};
use aoe_common::link::{Filter, Interface, Port, SEND_BATCH, ethernet_interfaces, monotonic_now, processor_time};
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{
    AtaFlags, AtaRepr, BROADCAST, Command, ConfigCommand, ConfigRepr, EthernetRepr, Frame, HeaderRepr, MacAddr, VERSION,
};
use fastrand::Rng;
use hdrhistogram::Histogram;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

/// Requests under way at the most: what the low bits of a tag can tell apart.
const DEPTH_MAX: u32 = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 12;
/// The kernel's own driver uses tags without this bit.
const USERLAND: u32 = 1 << 31;

/// Frames the port holds: all answers to a full window.
const RING_FRAMES: u32 = 1024;

/// An answer that has not come after this time is asked for again.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The longest sleep.
const NAP_MILLIS: u8 = 1;

/// How long a target may take to say where it is.
const SEARCH_TIME: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Latencies that are told apart, in nanoseconds.
const LATENCY_MAX: u64 = 100_000_000_000;

/// What is asked of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// READ SECTORS EXT.
    Read,
    /// WRITE SECTORS EXT.
    Write,
}

/// Options of `bench load`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The interface to use.
    #[arg(long)]
    interface: String,
    /// The disk.
    #[arg(long)]
    device: Address,
    /// Disks that share the load: that one and those in the slots behind it, on to the next shelves at slot 200.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    devices: u32,
    /// Read or write.
    #[arg(long, default_value = "read")]
    rw: Direction,
    /// One place after the other instead of random ones.
    #[arg(long)]
    sequential: bool,
    /// Sectors of a request.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..))]
    sectors: u8,
    /// Sectors of each disk that are used, from its start.
    #[arg(long)]
    span_sectors: u64,
    /// Requests under way.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=i64::from(DEPTH_MAX)))]
    depth: u32,
    /// Requests a second, whether answers come or not, as far as the depth allows; latency counts from when a request
    /// should have gone. [default: as many as the depth allows]
    #[arg(long)]
    rate: Option<u32>,
    /// How long it measures.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How long it loads the target before that.
    #[arg(long, default_value_t = 0.3)]
    warmup: f64,
    /// Sleep when there is nothing to do, as real clients do; the target then wakes it, at the target's expense.
    #[arg(long)]
    sleep: bool,
    /// Stations it stands for.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    clients: u32,
}

/// Device `number` of a family that begins at `first`: slots below 200, then the next shelf.
pub fn device_address(first: Address, number: u32) -> Address {
    let slot = u32::from(first.slot) + number;
    Address::new(first.shelf + (slot / 200) as u16, (slot % 200) as u8)
}

/// What was measured; times in microseconds, latencies from sending a request to the look at its answer.
#[derive(Debug, Serialize)]
struct Outcome {
    requests: u64,
    seconds: f64,
    per_second: f64,
    latency_us: Latency,
    /// Requests that were sent again.
    lost: u64,
    /// Processor time of the generator, which never sleeps.
    cpu_us_per_request: f64,
}

#[derive(Debug, Serialize)]
struct Latency {
    min: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

impl Latency {
    fn of(nanos: &Histogram<u64>) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |quantile| micros(nanos.value_at_quantile(quantile));
        Self {
            min: micros(nanos.min()),
            mean: nanos.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: micros(nanos.max()),
        }
    }
}

/// A request and its frame, used again for the next.
struct Slot {
    frame: Vec<u8>,
    tag: u32,
    /// Waits for its answer.
    is_out: bool,
    /// When it was, or should have been, sent first.
    since: Instant,
    sent: Instant,
}

struct Generator {
    options: Options,
    /// Where each disk is.
    targets: Vec<(Address, MacAddr)>,
    stations: Vec<MacAddr>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// To be sent.
    queue: Vec<u32>,
    rng: Rng,
    next_place: u64,
    /// When the next request is due, with a rate.
    due: Instant,
    latency: Histogram<u64>,
    answered: u64,
    lost: u64,
}

/// Loads a target and prints what came of it.
pub fn run(options: Options) -> Result<()> {
    ensure!(options.span_sectors >= u64::from(options.sectors), "--span-sectors: no request fits");
    let interface = find_interface(&options.interface)?;
    let mut port = Port::open(&interface, &Filter::Initiator, RING_FRAMES)?;
    if options.clients > 1 {
        port.stand_for_others();
    }
    let targets = (0..options.devices)
        .map(|number| {
            let address = device_address(options.device, number);
            Ok((address, find_target(&mut port, interface.mac, address)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut generator = Generator::new(options, &interface, targets);
    generator.load(&mut port, generator.options.warmup)?;
    generator.latency.reset();
    (generator.answered, generator.lost) = (0, 0);
    let (began, processor) = (monotonic_now(), processor_time());
    generator.load(&mut port, generator.options.seconds)?;
    let seconds = monotonic_now().since(began).as_secs_f64();
    let processor = (processor_time() - processor).as_secs_f64();
    generator.finish(&mut port)?;

    let requests = generator.answered;
    ensure!(requests > 0, "{}: no answer in {seconds:.1} s", generator.options.device);
    let outcome = Outcome {
        requests,
        seconds,
        per_second: requests as f64 / seconds,
        latency_us: Latency::of(&generator.latency),
        lost: generator.lost,
        cpu_us_per_request: processor * 1e6 / requests as f64,
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

pub(crate) fn find_interface(name: &str) -> Result<Interface> {
    let found = ethernet_interfaces()?.into_iter().find(|interface| interface.name == name);
    found.with_context(|| format!("no Ethernet interface is called {name}"))
}

/// Asks everybody where a disk is.
fn find_target(port: &mut Port, source: MacAddr, address: Address) -> Result<MacAddr> {
    let header =
        HeaderRepr { version: VERSION, response: false, error: None, address, command: Command::Config, tag: USERLAND };
    let mut question = [0; MIN_FRAME];
    let ethernet = EthernetRepr { destination: BROADCAST, source, vlan: None };
    ConfigRepr::request(ConfigCommand::Read, b"").emit(Frame::emit_headers(&ethernet, &header, &mut question));
    let began = monotonic_now();
    let mut ask_at = began;
    let mut found = None;
    while found.is_none() {
        let now = monotonic_now();
        ensure!(now.since(began) < SEARCH_TIME, "{address}: no target answers");
        if now >= ask_at {
            port.send(&[&question])?;
            ask_at = now + ASK_EVERY;
        }
        port.receive(SEND_BATCH, |bytes| {
            if let Ok(frame) = Frame::parse(bytes)
                && frame.header.command == Command::Config
                && frame.header.address == address
            {
                found = Some(frame.ethernet.source);
            }
        })?;
    }
    found.context("the loop ends with an answer")
}

impl Generator {
    fn new(options: Options, interface: &Interface, targets: Vec<(Address, MacAddr)>) -> Self {
        let stations = (0..options.clients).map(|number| match number {
            0 => interface.mac,
            number => {
                let [high, low] = (number as u16).to_be_bytes();
                MacAddr(0x02, 0xae, 0, 0, high, low)
            }
        });
        let data = match options.rw {
            Direction::Read => 0,
            Direction::Write => usize::from(options.sectors) * SECTOR,
        };
        let mut rng = Rng::with_seed(1);
        // Tags that differ from those of the generator before this one, copies of which a target still knows.
        let mut tags = Rng::new();
        let slots = (0..options.depth).map(|number| {
            let mut frame = vec![0; (HEADROOM + data).max(MIN_FRAME)];
            rng.fill(&mut frame[HEADROOM..HEADROOM + data]);
            let tag = USERLAND | tags.u32(..) & !(DEPTH_MAX - 1) | number;
            Slot { frame, tag, is_out: false, since: Instant::ZERO, sent: Instant::ZERO }
        });
        let slots = slots.collect();
        Self {
            targets,
            stations: stations.collect(),
            slots,
            free: (0..options.depth).collect(),
            queue: Vec::with_capacity(options.depth as usize),
            rng,
            next_place: 0,
            due: Instant::ZERO,
            latency: Histogram::new_with_bounds(1, LATENCY_MAX, 3).expect("bounds of a histogram"),
            answered: 0,
            lost: 0,
            options,
        }
    }

    /// Keeps the load up for so long.
    fn load(&mut self, port: &mut Port, seconds: f64) -> Result<()> {
        let mut now = monotonic_now();
        let end = now + Duration::from_secs_f64(seconds);
        let mut look_at = now + LOOK_EVERY;
        self.due = now;
        while now < end {
            self.receive(port, now)?;
            self.fill(now);
            if now >= look_at {
                look_at = now + LOOK_EVERY;
                self.ask_again(now);
            }
            self.send(port)?;
            if self.options.sleep && !port.is_waiting() {
                poll(&mut [PollFd::new(port.as_fd(), PollFlags::POLLIN)], PollTimeout::from(NAP_MILLIS))?;
            }
            now = monotonic_now();
        }
        Ok(())
    }

    /// Waits for the answers that are out.
    fn finish(&mut self, port: &mut Port) -> Result<()> {
        let end = monotonic_now() + PATIENCE;
        while self.free.len() < self.slots.len() && monotonic_now() < end {
            self.receive(port, monotonic_now())?;
        }
        Ok(())
    }

    fn receive(&mut self, port: &mut Port, now: Instant) -> Result<()> {
        let mut refused = None;
        let Self { slots, free, latency, answered, .. } = self;
        port.receive(RING_FRAMES as usize, |bytes| {
            let Ok(frame) = Frame::parse(bytes) else { return };
            let index = frame.header.tag & (DEPTH_MAX - 1);
            let Some(slot) = slots.get_mut(index as usize) else { return };
            if frame.header.command != Command::Ata || !slot.is_out || slot.tag != frame.header.tag {
                return;
            }
            match AtaRepr::parse(frame.body) {
                Ok((ata, _)) if frame.header.error.is_none() && !Status::from_bits_retain(ata.command).failed() => {}
                other => refused = Some(format!("{:?} {other:?}", frame.header)),
            }
            slot.is_out = false;
            free.push(index);
            *answered += 1;
            latency.saturating_record(now.since(slot.since).as_nanos() as u64);
        })?;
        match refused {
            Some(answer) => bail!("the target refuses a request: {answer}"),
            None => Ok(()),
        }
    }

    /// Makes the requests that may go now.
    fn fill(&mut self, now: Instant) {
        let gap = self.options.rate.map(|rate| Duration::from_secs(1) / rate);
        while gap.is_none() || self.due <= now {
            let Some(index) = self.free.pop() else { return };
            let since = match gap {
                None => now,
                Some(gap) => {
                    let due = self.due;
                    self.due = due + gap;
                    due
                }
            };
            self.make(index, since, now);
            self.queue.push(index);
        }
    }

    /// The next request, in this slot.
    fn make(&mut self, index: u32, since: Instant, now: Instant) {
        let (address, target) = self.targets[self.rng.usize(..self.targets.len())];
        let sectors = u64::from(self.options.sectors);
        let places = self.options.span_sectors / sectors;
        let place = if self.options.sequential {
            self.next_place = (self.next_place + 1) % places;
            self.next_place
        } else {
            self.rng.u64(..places)
        };
        let slot = &mut self.slots[index as usize];
        slot.tag = USERLAND | slot.tag.wrapping_add(DEPTH_MAX);
        (slot.is_out, slot.since, slot.sent) = (true, since, now);
        let (command, flags) = match self.options.rw {
            Direction::Read => (command::READ_SECTORS_EXT, AtaFlags::EXTENDED),
            Direction::Write => (command::WRITE_SECTORS_EXT, AtaFlags::EXTENDED | AtaFlags::WRITE),
        };
        let source = self.stations[index as usize % self.stations.len()];
        let ethernet = EthernetRepr { destination: target, source, vlan: None };
        let header = HeaderRepr {
            version: VERSION,
            response: false,
            error: None,
            address,
            command: Command::Ata,
            tag: slot.tag,
        };
        let ata = AtaRepr { flags, feature: 0, count: self.options.sectors, command, registers: place * sectors };
        ata.emit(Frame::emit_headers(&ethernet, &header, &mut slot.frame));
    }

    fn ask_again(&mut self, now: Instant) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.is_out && now.since(slot.sent) >= PATIENCE {
                slot.sent = now;
                self.lost += 1;
                self.queue.push(index as u32);
            }
        }
    }

    fn send(&mut self, port: &mut Port) -> Result<()> {
        while !self.queue.is_empty() {
            let count = self.queue.len().min(SEND_BATCH);
            let mut batch: [&[u8]; SEND_BATCH] = [&[]; SEND_BATCH];
            for (entry, index) in batch.iter_mut().zip(&self.queue) {
                *entry = &self.slots[*index as usize].frame;
            }
            let sent = port.send(&batch[..count])?;
            self.queue.drain(..sent);
            if sent < count {
                return Ok(());
            }
        }
        Ok(())
    }
}
