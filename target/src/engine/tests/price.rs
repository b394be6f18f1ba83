//! What it costs to remember: `cargo test --release -p aoe-target price -- --ignored --nocapture --test-threads 1`.

use std::time::Instant as Clock;

use super::super::stale::Stale;
use super::*;
use aoe_common::ordering::Footprint;

/// Writes a second.
const RATE: u64 = 70_000;

/// Measures steps in lots of 200 000, at `RATE`.
fn measure(mut step: impl FnMut(Instant, u64)) {
    const LOT: u64 = 200_000;
    for lot in 0..8 {
        let began = Clock::now();
        let mut slowest = Duration::ZERO;
        for n in lot * LOT..(lot + 1) * LOT {
            let one = Clock::now();
            step(Instant::from_nanos(n * 1_000_000_000 / RATE), n);
            slowest = slowest.max(one.elapsed());
        }
        let each = began.elapsed() / LOT as u32;
        println!("from {} on: {each:?} each, {slowest:?} the slowest", lot * LOT);
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
