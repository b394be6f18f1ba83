//! A flood of garbage from thousands of stations: memory and processor time of both daemons stay small, and a
//! well-behaved client hardly notices.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use aoe_common::addr::Address;
use aoe_common::ata::command as op;
use aoe_common::frame::SECTOR;
use aoe_common::wire::{AtaFlags, BROADCAST, Command, ConfigCommand, ConfigRepr, ETHERTYPE_AOE, MacAddr};
use aoe_tests::net::image::random_file;
use aoe_tests::net::peer::{Wire, advert, ata, config, field, request};
use aoe_tests::net::{Lab, peak_memory, processor_time};
use fastrand::Rng;
use serde_json::Value;

/// Frames a second, and how many are sent at a time.
const RATE: u32 = 20_000;
const BURST: u32 = 100;
/// Different frames in the flood, each from a station of its own; they come round again.
const FRAMES: usize = 8192;

/// What the client uses, and what the flood reads and writes.
const DEVICE: Address = Address::new(0, 1);
const SPARE: Address = Address::new(0, 2);

/// How long one measurement of the client's speed takes, as fio reads it.
const MEASURED: &str = "1500ms";
const ROUNDS: usize = 3;
/// How long the flood goes on with nobody else there, so that its cost can be told.
const ALONE: Duration = Duration::from_secs(2);

/// How much the first flood may add to the memory of a daemon (bytes), and the last one. A target remembers the writes
/// it has run, some 200 bytes each and a million at the most; the rest has its full size once it was used.
const GROWTH_MAX: u64 = 8 << 20;
const FURTHER_GROWTH_MAX: u64 = 1 << 20;

/// A thread that sends the frames of a flood, over and over, no faster than [`RATE`].
struct Flood {
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<(Wire, u64)>,
    began: Instant,
}

impl Flood {
    fn start(mut wire: Wire, frames: &Arc<Vec<Vec<u8>>>) -> Flood {
        let stopped = Arc::new(AtomicBool::new(false));
        let (is_stopped, frames) = (Arc::clone(&stopped), Arc::clone(frames));
        let began = Instant::now();
        let thread = spawn(move || {
            let bursts: Vec<_> = frames.chunks(BURST as usize).collect();
            let mut sent = 0;
            for burst in bursts.into_iter().cycle() {
                if is_stopped.load(Ordering::Relaxed) {
                    break;
                }
                wire.send(burst);
                sent += burst.len() as u64;
                // By what was sent, so that a late wake-up is made up for.
                let due = Duration::from_secs_f64(sent as f64 / f64::from(RATE));
                sleep(due.saturating_sub(began.elapsed()));
            }
            (wire, sent)
        });
        Flood { stopped, thread, began }
    }

    /// Ends it; returns the wire, the frames it has sent, and how many that were a second.
    fn stop(self) -> (Wire, u64, f64) {
        self.stopped.store(true, Ordering::Relaxed);
        let took = self.began.elapsed();
        let (wire, sent) = self.thread.join().expect("a flood without mistakes");
        (wire, sent, sent as f64 / took.as_secs_f64())
    }
}

/// Frames of every kind that somebody may send, each from another station.
fn garbage(target: MacAddr, client: MacAddr) -> Vec<Vec<u8>> {
    let mut random = Rng::with_seed(1);
    (0..FRAMES).map(|number| garbage_frame(&mut random, number, target, client)).collect()
}

fn garbage_frame(random: &mut Rng, number: usize, target: MacAddr, client: MacAddr) -> Vec<u8> {
    let station = MacAddr(2, 0xf1, 0, 0, (number >> 8) as u8, number as u8);
    let tag = random.u32(..);
    let to = *random.choice(&[target, client, BROADCAST]).expect("a choice");
    let request = |to, address, command, body: &[u8]| request(station, to, address, command, tag, body);
    let read_config = config(&ConfigRepr::request(ConfigCommand::Read, b""));
    match number % 10 {
        // No AoE at all but for the EtherType; cut short, or with a header that means nothing.
        0 => {
            let mut frame: Vec<u8> = (0..random.usize(14..1514)).map(|_| random.u8(..)).collect();
            frame[..6].copy_from_slice(&to.octets());
            frame[field::SOURCE].copy_from_slice(&station.octets());
            frame[field::ETHERTYPE].copy_from_slice(&ETHERTYPE_AOE.to_be_bytes());
            frame
        }
        1 | 2 => request(BROADCAST, Address::ANY, Command::Config, &read_config),
        3 => request(target, SPARE, Command::Ata, &ata(AtaFlags::EXTENDED, op::READ_SECTORS_EXT, 0, 7, 2, &[])),
        4 => {
            let flags = AtaFlags::EXTENDED | AtaFlags::WRITE;
            let lba = random.u64(0..1024);
            request(target, SPARE, Command::Ata, &ata(flags, op::WRITE_SECTORS_EXT, 0, lba, 1, &[0x66; SECTOR]))
        }
        5 => {
            let command = *random.choice(&[op::IDENTIFY_DEVICE, op::READ_LOG_EXT, 0xb0, 0xff]).expect("a choice");
            request(target, DEVICE, Command::Ata, &ata(AtaFlags::empty(), command, 0, 0, 1, &[]))
        }
        6 => request(target, DEVICE, *random.choice(&[Command::Mask, Command::Reserve]).expect("a choice"), &[0; 4]),
        // To the client: another target under the address it uses, and answers to what it did not ask.
        7 => advert(station, DEVICE, b""),
        8 => {
            let mut answer =
                request(client, DEVICE, Command::Ata, &ata(AtaFlags::empty(), 0x40, 0, 7, 2, &[0x99; 1024]));
            answer[field::FLAGS] |= 0x08;
            answer
        }
        _ => request(target, Address::new(random.u16(..), random.u8(..)), Command::from(random.u8(..)), &[0x55; 40]),
    }
}

/// What the daemons use of their host.
#[derive(Clone, Copy)]
struct Usage {
    memory: [u64; 2],
    time: [Duration; 2],
}

impl Usage {
    fn of(daemons: [u32; 2]) -> Self {
        Self { memory: daemons.map(peak_memory), time: daemons.map(processor_time) }
    }

    fn grown_since(self, before: Self) -> [u64; 2] {
        [0, 1].map(|which| self.memory[which] - before.memory[which])
    }
}

/// In MiB.
struct Mebibytes([u64; 2]);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [target, attach] = self.0.map(|bytes| bytes as f64 / f64::from(1 << 20));
        write!(f, "target {target:.1} MiB, attach {attach:.1} MiB")
    }
}

/// Random reads of the client's disk; how many a second.
fn speed(lab: &Lab, uri: &str) -> f64 {
    let line = "fio --name=speed --ioengine=nbd --rw=randread --bs=4k --iodepth=16 --size=32m --time_based \
                --randrepeat=0 --output-format=json --output=speed.json";
    let command = lab.host("a").typed(line).args([format!("--uri={uri}"), format!("--runtime={MEASURED}")]);
    command.run().succeeded();
    let report: Value = serde_json::from_slice(&fs::read(lab.path("speed.json")).unwrap()).expect("a report");
    assert_eq!(report["jobs"][0]["error"], 0, "{report}");
    report["jobs"][0]["read"]["iops"].as_f64().expect("a number of reads a second")
}

/// Random writes, each read again and compared.
fn write_and_verify(lab: &Lab, uri: &str) {
    let line = "fio --name=verify --ioengine=nbd --rw=randwrite --bs=4k --iodepth=16 --offset=32m --size=8m \
                --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=1";
    lab.host("a").typed(line).arg(format!("--uri={uri}")).run().succeeded();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn net_flood_of_garbage_costs_little() {
    let lab = Lab::new(&["t", "a", "f"], 9000);
    random_file(&lab.path("disk.img"), 64 << 20, 1);
    random_file(&lab.path("spare.img"), 1 << 20, 2);
    let mut target = lab.export("t", "shelf 0 slot 1 disk.img shelf 0 slot 2 spare.img");
    let uri = lab.attach("a", "e0.1", "disk.sock");
    let attach = lab.stat("a")[0]["pid"].as_u64().expect("a process") as u32;
    let daemons = [target.id(), attach];
    let [target_mac, client_mac] = ["t", "a"].map(|host| lab.mac(host).parse().unwrap());
    let frames = Arc::new(garbage(target_mac, client_mac));
    let mut wire = Wire::open(lab.host("f"));

    // What a client alone makes the daemons need is theirs already.
    speed(&lab, &uri);
    write_and_verify(&lab, &uri);
    let before = Usage::of(daemons);
    let flood = Flood::start(wire, &frames);
    sleep(ALONE);
    let (sent, rate);
    (wire, sent, rate) = flood.stop();
    let first = Usage::of(daemons);
    let costs = [0, 1].map(|which| (first.time[which] - before.time[which]).as_secs_f64() * 1e6 / sent as f64);
    println!(
        "{sent} frames of {} stations, {rate:.0}/s: target {:.1} us, attach {:.1} us of processor time for each",
        frames.len(),
        costs[0],
        costs[1]
    );

    // Side by side, since the machine may have other things to do.
    let mut kept = Vec::new();
    for _ in 0..ROUNDS {
        let quiet = speed(&lab, &uri);
        let flood = Flood::start(wire, &frames);
        let flooded = speed(&lab, &uri);
        let rate;
        (wire, _, rate) = flood.stop();
        println!("{quiet:.0} reads/s alone, {flooded:.0} in a flood of {rate:.0}/s");
        kept.push(flooded / quiet);
    }
    let middle = Usage::of(daemons);
    let flood = Flood::start(wire, &frames);
    sleep(ALONE);
    (wire, ..) = flood.stop();
    let last = Usage::of(daemons);
    let flood = Flood::start(wire, &frames);
    write_and_verify(&lab, &uri);
    drop(flood.stop());

    let [growth, further] = [first.grown_since(before), last.grown_since(middle)];
    println!("peaks: {} before, {} after", Mebibytes(before.memory), Mebibytes(last.memory));
    println!("the first flood added: {}; the last: {}", Mebibytes(growth), Mebibytes(further));
    assert!(growth.iter().all(|bytes| *bytes <= GROWTH_MAX), "{}", Mebibytes(growth));
    assert!(further.iter().all(|bytes| *bytes <= FURTHER_GROWTH_MAX), "{}", Mebibytes(further));
    let ratio = median(kept);
    println!("the client keeps {:.0} % of its speed", ratio * 100.0);
    assert!(ratio >= 0.5, "a flood takes more than half of the client's speed");

    target.assert_running();
    let stat = lab.stat("a");
    assert_eq!(stat[0]["errors"], 0, "{stat}");
    assert_eq!(stat[0]["state"], "up", "{stat}");
    let found = lab.host("a").typed("aoe-discover").run().succeeded().stdout;
    assert!(found.contains("e0.1") && found.contains("e0.2"), "{found}");
    lab.host("a").typed("aoe-detach e0.1").run().succeeded();
    target.stop().succeeded();
}
