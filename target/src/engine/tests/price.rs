//! What it costs to remember: `cargo test --release -p aoe-target price -- --ignored --nocapture --test-threads 1`.

use std::time::Instant as Clock;

use super::super::stale::Stale;
use super::super::stations::Station;
use super::*;
use aoe_common::ordering::Footprint;

/// Writes a second.
const RATE: u64 = 70_000;

/// Memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Processor time this thread has had.
fn processor_time() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
}

/// Measures steps in lots of 200 000, at `RATE`.
fn measure(mut step: impl FnMut(Instant, u64)) {
    const LOT: u64 = 200_000;
    let before = resident();
    for lot in 0..8 {
        let began = processor_time();
        let mut slowest = Duration::ZERO;
        for n in lot * LOT..(lot + 1) * LOT {
            let one = Clock::now();
            step(Instant::from_nanos(n * 1_000_000_000 / RATE), n);
            slowest = slowest.max(one.elapsed());
        }
        let each = (processor_time() - began) / LOT as u32;
        let memory = resident().saturating_sub(before);
        println!("from {} on: {each:?} each, {slowest:?} the slowest; {memory} KiB", lot * LOT);
    }
}

#[test]
#[ignore = "a measurement"]
fn price_of_stale() {
    let mut stale = Stale::default();
    let mut random = fastrand::Rng::with_seed(3);
    measure(|now, n| {
        let tag = ((n & 0x7fff) << 16 | (now.as_nanos() / 4_000_000) & 0xffff) as u32;
        let start = random.u64(0..1 << 24) * 8;
        let footprint = Footprint { start, end: start + 8, writes: true };
        stale.hear(now, 0, A, tag);
        assert!(!stale.is_stale(now, 0, A, tag, footprint));
        stale.admitted(now, 0, A, tag, footprint);
    });
}

#[test]
#[ignore = "a measurement"]
fn price_of_repeats() {
    let mut repeats = Repeats::default();
    let mut random = fastrand::Rng::with_seed(3);
    let ok = Outcome { status: 0x40, error: 0 };
    measure(|now, n| {
        let registers = random.u64(0..1 << 24) * 8;
        let key =
            RequestKey { export: 0, station: Station::Identity(1), tag: n as u32, command: 0x34, count: 8, registers };
        assert!(repeats.seen(now, &key) == repeats::Seen::New);
        repeats.begin(now, key);
        repeats.end(now, key, ok);
    });
}
