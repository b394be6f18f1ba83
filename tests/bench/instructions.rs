//! What the data path costs in instructions, counted by callgrind: the same on a busy machine as on a quiet one.
//!
//! Each measurement is [`OPERATIONS`] times the same thing, in engines whose tables are warm: what came before is not
//! counted, nor is what comes after. Sockets and disks are not there; their work is one system call for a batch, and
//! the rest of an operation is counted here. `tests/bench/instructions` runs them and compares with the figures in
//! `instructions.toml`.

#![expect(missing_docs, reason = "the harness makes public modules")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::io::IoSlice;

use aoe_common::addr::Address;
use aoe_common::ata::{CacheMemory, Identify, LOG_STATION_IDENTITY, command};
use aoe_common::frame::{MIN_FRAME, SECTOR};
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{AtaFlags, AtaRepr, Command, ConfigCommand, ConfigRepr, Frame, MacAddr, Malformed};
use aoe_initiator::engine::{Device, DeviceConfig, DeviceState, FRAME_MAX, Operation, QUARANTINE, Request};
use aoe_initiator::nbd::protocol::{CommandKind, RequestHeader};
use aoe_initiator::nbd::{self, ExportInfo, MAX_OUTPUT_SLICES, Session, TransmissionFlags};
use aoe_target::engine::durability::CacheMode;
use aoe_target::engine::editors::EditPolicy;
use aoe_target::engine::export::{Counters, ExportConfig, StoredState};
use aoe_target::engine::operation::{DiskCompletion, DiskOperation};
use aoe_target::engine::{EngineConfig, PortId, PortInfo, Target, Transmit};
use aoe_tests::sim::frames::{self, Envelope};
use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};

/// Operations in one measurement. The script divides by it.
const OPERATIONS: usize = 64;
/// How often as many are done before: by then no table grows during the measurement.
const WARM_ROUNDS: usize = 5;

const PORT: PortId = PortId(1);
const TARGET: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
const MTU: u32 = 9000;
/// Sectors of a request of 4 KiB.
const BLOCK: u64 = 8;
const DISK_SECTORS: u64 = 1 << 30;
const DONE: u8 = 0x40;

fn start() -> Instant {
    Instant::ZERO + Duration::from_secs(1000)
}

fn station(number: usize) -> MacAddr {
    MacAddr(2, 0, 0, 1, (number >> 8) as u8, number as u8)
}

fn export_address(number: usize) -> Address {
    Address::new((number / 16) as u16, (number % 16) as u8)
}

/// The tag of the n-th request of an initiator of ours.
fn our_tag(number: usize) -> u32 {
    1 << 31 | number as u32
}

/// The tag of the n-th request of aoe.ko: a count, and a clock that stands still for this short time.
fn tag_of_aoe_ko(number: usize) -> u32 {
    (number as u32 & 0x7fff) << 16 | 0x1234
}

fn request_to(address: Address, source: MacAddr, tag: u32) -> Envelope {
    Envelope { source, destination: TARGET, address, tag, response: false }
}

fn read_request(to: &Envelope, lba: u64) -> Vec<u8> {
    let registers = AtaRepr {
        flags: AtaFlags::EXTENDED,
        feature: 0,
        count: BLOCK as u8,
        command: command::READ_SECTORS_EXT,
        registers: lba,
    };
    frames::ata(to, &registers, &[])
}

fn write_request(to: &Envelope, lba: u64) -> Vec<u8> {
    let registers = AtaRepr {
        flags: AtaFlags::EXTENDED | AtaFlags::WRITE,
        feature: 0,
        count: BLOCK as u8,
        command: command::WRITE_SECTORS_EXT,
        registers: lba,
    };
    frames::ata(to, &registers, &[0x77; BLOCK as usize * SECTOR])
}

fn config_query(to: &Envelope) -> Vec<u8> {
    frames::config(to, &ConfigRepr::request(ConfigCommand::Read, b""))
}

/// AoE by its Ethernet header, and nothing in particular behind that.
fn garbage(to: &Envelope, number: usize) -> Vec<u8> {
    let mut bytes = config_query(to);
    let mut random = fastrand::Rng::with_seed(number as u64);
    random.fill(&mut bytes[14..]);
    bytes.truncate(random.usize(14..=MIN_FRAME));
    bytes
}

// ---- Parsing -----------------------------------------------------------------------------------------------------

fn first_request() -> Envelope {
    request_to(export_address(1), station(1), our_tag(1))
}

fn parse(bytes: &[u8]) -> Result<(), Malformed> {
    let frame = Frame::parse(bytes)?;
    match frame.header.command {
        Command::Ata => {
            black_box(AtaRepr::parse(frame.body)?);
        }
        Command::Config => {
            black_box(ConfigRepr::parse(frame.body, frame.header.response)?);
        }
        _ => {
            black_box(frame);
        }
    }
    Ok(())
}

#[library_benchmark]
#[bench::read_request(vec![read_request(&first_request(), 8); OPERATIONS])]
#[bench::write_request(vec![write_request(&first_request(), 8); OPERATIONS])]
#[bench::config_query(vec![config_query(&first_request()); OPERATIONS])]
#[bench::garbage((0..OPERATIONS).map(|number| garbage(&first_request(), number)).collect())]
fn parsing(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for frame in &frames {
        let _ = black_box(parse(black_box(frame)));
    }
    frames
}

// ---- The target's engine -----------------------------------------------------------------------------------------

/// What stations ask of a target.
#[derive(Clone, Copy)]
enum Asked {
    Reads,
    Writes,
    /// As aoe.ko writes, under tags that are watched.
    WritesOfAoeKo,
    /// The same request again, after it was answered.
    WritesAgain,
    Config,
    Garbage,
}

struct Served {
    asked: Asked,
    target: Target,
    frames: Vec<Vec<u8>>,
    /// Operations of a batch that the disks have.
    under_way: Vec<DiskOperation>,
    before: Counters,
    answers: usize,
}

/// A target with warm tables, and the frames that come next.
fn served(asked: Asked, exports: usize, stations: usize) -> Served {
    let mut target = Target::new(EngineConfig { buffers: 1024, persist: false, wildcard_edits: false });
    target.set_port(PORT, Some(PortInfo { mac: TARGET, mtu: MTU }));
    for number in 0..exports {
        let config = ExportConfig {
            address: export_address(number),
            sectors: DISK_SECTORS,
            read_only: false,
            buffers: 512,
            allow: Vec::new(),
            edits: EditPolicy::default(),
            cache: CacheMode::Writeback,
            serial: number.to_string(),
            model: "model".to_owned(),
            physical_sector_exponent: 3,
            rotational: None,
            cache_memory: CacheMemory { host: 1, life: 1 },
        };
        target.add_export(Instant::ZERO, config, StoredState::default()).expect("a free address");
    }
    let mut served = Served {
        asked,
        target,
        frames: Vec::new(),
        under_way: Vec::with_capacity(OPERATIONS),
        before: Counters::default(),
        answers: 0,
    };
    served.answer();
    let ours = !matches!(asked, Asked::WritesOfAoeKo);
    for number in (0..stations).filter(|_| ours) {
        let mut identity = [0; SECTOR];
        identity[..16].fill(1 + number as u8);
        let registers = AtaRepr {
            flags: AtaFlags::EXTENDED | AtaFlags::WRITE,
            feature: 0,
            count: 1,
            command: command::WRITE_LOG_EXT,
            registers: LOG_STATION_IDENTITY.into(),
        };
        let to = request_to(export_address(0), station(number), our_tag(1 << 20));
        served.target.handle_frame(start(), PORT, &frames::ata(&to, &registers, &identity));
        served.answer();
    }
    let requests = |round: usize| -> Vec<Vec<u8>> {
        let frame = |at: usize| {
            let number = round * OPERATIONS + at;
            // Every round touches the same exports for the same stations, at other places.
            let (address, station) = (export_address(at * exports / OPERATIONS), station(at % stations));
            let tag = if ours { our_tag(number) } else { tag_of_aoe_ko(number) };
            let (to, lba) = (request_to(address, station, tag), number as u64 * 1000 * BLOCK);
            match asked {
                Asked::Reads => read_request(&to, lba),
                Asked::Writes | Asked::WritesOfAoeKo | Asked::WritesAgain => write_request(&to, lba),
                Asked::Config => config_query(&to),
                Asked::Garbage => garbage(&to, number),
            }
        };
        (0..OPERATIONS).map(frame).collect()
    };
    for round in 0..WARM_ROUNDS {
        served.frames = requests(round);
        served = serve_batch(served);
    }
    let repeats = matches!(asked, Asked::WritesAgain);
    served.frames = requests(if repeats { WARM_ROUNDS - 1 } else { WARM_ROUNDS });
    served.before = served.counters();
    served.answers = 0;
    served
}

impl Served {
    fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for export in self.target.exports() {
            sum.reads += export.counters.reads;
            sum.writes += export.counters.writes;
            sum.repeats += export.counters.repeats;
        }
        sum
    }

    /// Sends what there is to send, and looks for all else that a driver looks for.
    fn answer(&mut self) {
        while let Some(Transmit { buffer, .. }) = self.target.poll_transmit() {
            self.answers += 1;
            self.target.recycle(black_box(buffer));
        }
        assert!(self.target.poll_persist().is_none() && self.target.poll_event().is_none());
    }
}

/// All frames that wait, then all operations, then all answers, as the driver does.
fn serve_batch(mut served: Served) -> Served {
    for frame in &served.frames {
        served.target.handle_frame(start(), PORT, black_box(frame));
    }
    while let Some(operation) = served.target.poll_disk() {
        served.under_way.push(operation);
    }
    while let Some(DiskOperation { id, buffer, .. }) = served.under_way.pop() {
        served.target.handle_completion(start(), DiskCompletion { id, buffer, result: Ok(()) });
    }
    served.answer();
    served
}

/// What was counted is what it says: everything was run, or answered from memory, or had no effect.
fn check_served(served: Served) {
    let (before, after) = (served.before, served.counters());
    let done = [after.reads - before.reads, after.writes - before.writes, after.repeats - before.repeats];
    let all = OPERATIONS as u64;
    let expected = match served.asked {
        Asked::Reads => [all, 0, 0],
        Asked::Writes | Asked::WritesOfAoeKo => [0, all, 0],
        Asked::WritesAgain => [0, 0, all],
        Asked::Config | Asked::Garbage => [0, 0, 0],
    };
    assert_eq!(done, expected, "reads, writes and repeats");
    let answers = if matches!(served.asked, Asked::Garbage) { 0 } else { OPERATIONS };
    assert_eq!(served.answers, answers);
}

fn one_client(asked: Asked) -> Served {
    served(asked, 1, 1)
}

fn many_clients(asked: Asked) -> Served {
    served(asked, 256, 64)
}

// One frame after the other, each answered before the next.
#[library_benchmark(setup = one_client, teardown = check_served)]
#[bench::read_4k(Asked::Reads)]
#[bench::write_4k(Asked::Writes)]
#[bench::write_4k_of_aoe_ko(Asked::WritesOfAoeKo)]
#[bench::write_4k_repeated(Asked::WritesAgain)]
#[bench::config_query(Asked::Config)]
#[bench::garbage(Asked::Garbage)]
fn engine_step(mut served: Served) -> Served {
    for at in 0..served.frames.len() {
        served.target.handle_frame(start(), PORT, black_box(&served.frames[at]));
        while let Some(DiskOperation { id, buffer, .. }) = served.target.poll_disk() {
            served.target.handle_completion(start(), DiskCompletion { id, buffer, result: Ok(()) });
        }
        served.answer();
    }
    served
}

// So many frames at once, each answered with the rest.
#[library_benchmark(setup = one_client, teardown = check_served)]
#[bench::reads_4k(Asked::Reads)]
#[bench::writes_4k(Asked::Writes)]
#[bench::reads_4k_of_64_stations_256_exports(args = (Asked::Reads), setup = many_clients)]
#[bench::writes_4k_of_64_stations_256_exports(args = (Asked::Writes), setup = many_clients)]
fn engine_batch(served: Served) -> Served {
    serve_batch(served)
}

// ---- The initiator's engine --------------------------------------------------------------------------------------

/// Requests under way at a time.
const DEPTH: usize = 32;

/// What a user asks of a device.
#[derive(Clone, Copy)]
struct Wish {
    bytes: usize,
    writes: bool,
}

struct Attached {
    wish: Wish,
    device: Device,
    now: Instant,
    /// What the target will answer, in this order.
    answers: Vec<Vec<u8>>,
    out: Vec<u8>,
    submitted: u64,
    completed: usize,
}

/// A device with `DEPTH` requests under way, and the answers to come. They are learned from a twin: what a device
/// does follows from its input.
fn attached(wish: Wish) -> Attached {
    let mut twin = Attached::new(wish);
    let mut sent = twin.warm();
    while twin.completed < OPERATIONS {
        let answer = twin.next_answer(&mut sent);
        twin.exchange(&answer, |frame| sent.push_back(frame.to_vec()));
        twin.answers.push(answer);
    }
    let mut attached = Attached { answers: twin.answers, ..Attached::new(wish) };
    attached.warm();
    attached
}

impl Attached {
    fn new(wish: Wish) -> Self {
        let config = DeviceConfig {
            address: export_address(1),
            identity: [7; 16],
            tag_start: 1,
            dead_after: Some(Duration::from_secs(180)),
            hold_writes: Duration::ZERO,
            frame_life: QUARANTINE,
            network_repeats: false,
        };
        Self {
            wish,
            device: Device::new(start(), config),
            now: start(),
            answers: Vec::new(),
            out: vec![0; FRAME_MAX],
            submitted: 0,
            completed: 0,
        }
    }

    /// Finds its target and gets through some rounds. Returns the frames that wait for an answer.
    fn warm(&mut self) -> VecDeque<Vec<u8>> {
        let mut sent = VecDeque::new();
        self.device.set_port(self.now, PORT, Some(PortInfo { mac: station(1), mtu: MTU }));
        while self.device.state() != DeviceState::Up {
            self.send(|frame| sent.push_back(frame.to_vec()));
            while !sent.is_empty() {
                let answer = self.next_answer(&mut sent);
                self.device.handle_frame(self.now, PORT, &answer);
            }
            self.now = self.now + Duration::from_millis(100);
            self.device.handle_timeout(self.now);
        }
        for _ in 0..DEPTH {
            self.submit(vec![0x55; self.wish.bytes]);
        }
        self.send(|frame| sent.push_back(frame.to_vec()));
        while self.completed < WARM_ROUNDS * OPERATIONS {
            let answer = self.next_answer(&mut sent);
            self.exchange(&answer, |frame| sent.push_back(frame.to_vec()));
        }
        self.completed = 0;
        sent
    }

    fn submit(&mut self, buffer: Vec<u8>) {
        self.submitted += 1;
        let lba = self.submitted * 1000 * BLOCK;
        let operation = match self.wish.writes {
            false => Operation::Read { lba, buffer },
            true => Operation::Write { lba, data: buffer, fua: false },
        };
        self.device.submit(self.now, Request { id: self.submitted, operation });
    }

    fn send(&mut self, mut sent: impl FnMut(&[u8])) {
        while let Some((_, len)) = self.device.poll_transmit(self.now, &mut self.out) {
            sent(&self.out[..len]);
        }
    }

    /// An answer comes; each request that it completes makes room for the next one.
    fn exchange(&mut self, answer: &[u8], sent: impl FnMut(&[u8])) {
        self.now = self.now + Duration::from_micros(10);
        self.device.handle_frame(self.now, PORT, answer);
        while let Some(completion) = self.device.poll_completion() {
            assert!(completion.result.is_ok());
            self.completed += 1;
            self.submit(completion.buffer);
        }
        self.send(sent);
        while self.device.poll_event().is_some() {}
        black_box(self.device.poll_timeout());
    }

    /// What a target of ours answers to the oldest frame.
    fn next_answer(&self, sent: &mut VecDeque<Vec<u8>>) -> Vec<u8> {
        let asked = sent.pop_front().expect("a frame is under way");
        let frame = Frame::parse(&asked).expect("it was sent");
        let to = Envelope {
            source: TARGET,
            destination: station(1),
            address: export_address(1),
            tag: frame.header.tag,
            response: true,
        };
        if frame.header.command == Command::Config {
            return frames::config(&to, &ConfigRepr::answer(512, 1, 16, ConfigCommand::Read, b""));
        }
        let (ata, _) = AtaRepr::parse(frame.body).expect("it was sent");
        let disk = Identify {
            sectors: DISK_SECTORS,
            write_cache: true,
            lba48: true,
            flush: true,
            flush_ext: true,
            fua: true,
            logs: true,
            exactly_once: true,
            cache_memory: Some(CacheMemory { host: 1, life: 1 }),
            ..Identify::default()
        };
        let data = match ata.command {
            command::IDENTIFY_DEVICE => disk.emit().to_vec(),
            command::READ_SECTORS | command::READ_SECTORS_EXT => vec![0x33; usize::from(ata.count) * SECTOR],
            _ => Vec::new(),
        };
        frames::ata(&to, &AtaRepr { command: DONE, feature: 0, ..ata }, &data)
    }
}

/// What was counted is what it says.
fn check_attached(attached: Attached) {
    assert_eq!((attached.completed, attached.device.in_flight()), (OPERATIONS, DEPTH));
    let stats = attached.device.stats();
    let done = if attached.wish.writes { stats.write_bytes } else { stats.read_bytes };
    assert_eq!(done as usize, (WARM_ROUNDS + 1) * OPERATIONS * attached.wish.bytes);
    assert_eq!((stats.resends, stats.strays, stats.bad_answers, stats.errors, stats.waits), (0, 0, 0, 0, 0));
}

// From an answer to the frames of the next request, 32 requests under way.
#[library_benchmark(setup = attached, teardown = check_attached)]
#[bench::read_4k(Wish { bytes: 4 << 10, writes: false })]
#[bench::read_128k(Wish { bytes: 128 << 10, writes: false })]
#[bench::write_4k(Wish { bytes: 4 << 10, writes: true })]
#[bench::write_128k(Wish { bytes: 128 << 10, writes: true })]
fn device_step(mut attached: Attached) -> Attached {
    for answer in std::mem::take(&mut attached.answers) {
        attached.exchange(black_box(&answer), |frame| {
            black_box(frame);
        });
        // Not given back to the allocator here.
        std::mem::forget(answer);
    }
    attached
}

// ---- The NBD session ---------------------------------------------------------------------------------------------

struct Connected {
    wish: Wish,
    session: Session,
    requests: Vec<Vec<u8>>,
    replied: usize,
}

fn connected(wish: Wish) -> Connected {
    let export = ExportInfo {
        name: "e0.1".to_owned(),
        size_bytes: DISK_SECTORS * SECTOR as u64,
        flags: TransmissionFlags::SEND_FLUSH | TransmissionFlags::SEND_FUA,
        block_min: SECTOR as u32,
        block_preferred: 4096,
        block_max: 1 << 20,
        description: "a disk".to_owned(),
    };
    let request = |number: usize| {
        let kind = if wish.writes { CommandKind::Write } else { CommandKind::Read };
        let header = RequestHeader {
            flags: 0,
            kind: kind.to_wire(),
            cookie: number as u64,
            offset: (number * wish.bytes) as u64,
            length: wish.bytes as u32,
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes.resize(bytes.len() + if wish.writes { wish.bytes } else { 0 }, 0x55);
        bytes
    };
    let requests = (0..OPERATIONS).map(request).collect();
    let mut connected = Connected { wish, session: Session::transmitting(export), requests, replied: 0 };
    for _ in 0..WARM_ROUNDS {
        connected.serve();
    }
    connected.replied = 0;
    connected
}

impl Connected {
    /// Takes in all requests, one after the other, and replies to each before the next.
    fn serve(&mut self) {
        for request in &self.requests {
            let mut rest = black_box(request.as_slice());
            while !rest.is_empty() {
                assert!(self.session.wants_input());
                let space = self.session.input_space();
                let (now, later) = rest.split_at(space.len().min(rest.len()));
                space[..now.len()].copy_from_slice(now);
                self.session.input_filled(now.len());
                rest = later;
                while let Some(nbd::Request { id, command, .. }) = self.session.poll_request() {
                    let buffer = match command {
                        nbd::Command::Read { length, .. } => self.session.buffer(length as usize),
                        nbd::Command::Write { data, .. } => data,
                        _ => Vec::new(),
                    };
                    self.session.complete(id, Ok(buffer));
                }
            }
            let mut slices = [IoSlice::new(&[]); MAX_OUTPUT_SLICES];
            let count = self.session.output_slices(&mut slices);
            let sent = black_box(&slices[..count]).iter().map(|slice| slice.len()).sum();
            self.session.output_sent(sent);
            self.replied += sent;
        }
    }
}

fn check_connected(connected: Connected) {
    const REPLY: usize = 16;
    let data = if connected.wish.writes { 0 } else { connected.wish.bytes };
    assert_eq!(connected.replied, OPERATIONS * (REPLY + data));
    assert!(!connected.session.has_output() && connected.session.in_flight() == 0);
}

// From a request to its reply. That the request is copied in, as the kernel would do, is counted as well.
#[library_benchmark(setup = connected, teardown = check_connected)]
#[bench::read_4k(Wish { bytes: 4 << 10, writes: false })]
#[bench::read_128k(Wish { bytes: 128 << 10, writes: false })]
#[bench::write_4k(Wish { bytes: 4 << 10, writes: true })]
#[bench::write_128k(Wish { bytes: 128 << 10, writes: true })]
fn session_step(mut connected: Connected) -> Connected {
    connected.serve();
    connected
}

library_benchmark_group!(name = wire, benchmarks = parsing);
library_benchmark_group!(name = target, benchmarks = [engine_step, engine_batch]);
library_benchmark_group!(name = initiator, benchmarks = device_step);
library_benchmark_group!(name = nbd_session, benchmarks = session_step);

main!(
    config = LibraryBenchmarkConfig::default()
        .tool(Callgrind::with_args(["--cache-sim=no"]))
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX_Fast_Unaligned_Load,-AVX512F,-ERMS,-FSRM,-SSSE3"),
    library_benchmark_groups = [wire, target, initiator, nbd_session]
);
