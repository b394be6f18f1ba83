//! Late first attempts of a station that sends again under new tags, as aoe.ko does.

use super::*;

/// Tags as aoe.ko makes them: a counter, and a clock of 250 ticks a second.
struct Ko {
    counter: u32,
}

impl Ko {
    /// One that has asked a few things.
    fn known(bench: &mut Bench) -> Self {
        let mut ko = Self { counter: 0 };
        for _ in 0..10 {
            let tag = ko.tag(bench.now);
            bench.answer(&identify(A, tag));
        }
        ko
    }

    fn tag(&mut self, now: Instant) -> u32 {
        self.counter += 1;
        self.counter << 16 | (now.as_nanos() / 4_000_000) as u32 & 0xffff
    }
}

fn stale(bench: &Bench) -> u64 {
    bench.export().counters.stale
}

#[test]
fn a_late_first_attempt_does_not_undo_a_newer_write() {
    let zero = |tag| command48(A, tag, command::ZERO_EXT, 0, 4);
    let discard = |tag| trim(A, tag, &[(600, 1), (0, 8)]);
    let first_attempts: [&dyn Fn(u32) -> Vec<u8>; 3] = [&|tag| write(A, tag, 2, 0x11), &zero, &discard];
    for first_attempt in first_attempts {
        let mut bench = Bench::new();
        let mut ko = Ko::known(&mut bench);
        let late = first_attempt(ko.tag(bench.now));
        bench.wait(1);
        bench.answer(&first_attempt(ko.tag(bench.now)));
        let newer = ko.tag(bench.now);
        bench.answer(&write_as(command::WRITE_SECTORS_EXT, A, newer, 1, &[0x22; 2 * SECTOR]));
        bench.wait(8);
        bench.silent(&late);
        bench.silent(&late);
        assert_eq!((bench.sector(2), stale(&bench)), (0x22, 2));
        // One who still waits sends again, and is served.
        let again = first_attempt(ko.tag(bench.now));
        assert_eq!(bench.answer(&again).outcome(), OK);
        assert_ne!(bench.sector(2), 0x22);
    }
}

#[test]
fn a_newer_write_counts_from_its_arrival() {
    let mut bench = Bench::new();
    let mut ko = Ko::known(&mut bench);
    let late = write(A, ko.tag(bench.now), 0, 0x11);
    bench.wait(1);
    let again = write(A, ko.tag(bench.now), 0, 0x11);
    let newer = write(A, ko.tag(bench.now), 0, 0x22);
    bench.receive(&again);
    bench.receive(&newer);
    bench.receive(&late);
    assert_eq!((bench.held.len(), stale(&bench)), (1, 1), "the newer one waits, the late one is gone");
    bench.run();
    assert_eq!((bench.take().len(), bench.sector(0)), (2, 0x22));
}

#[test]
fn a_write_that_found_no_room_makes_nothing_stale() {
    let mut bench = Bench::with(EngineConfig { buffers: 2, ..SETTINGS }, [export(2)]);
    let mut ko = Ko::known(&mut bench);
    let early = write(A, ko.tag(bench.now), 0, 0x11);
    bench.wait(1);
    bench.receive(&read(B, 1, 100, 1));
    bench.receive(&read(B, 2, 200, 1));
    bench.receive(&write(A, ko.tag(bench.now), 0, 0x22));
    bench.run();
    bench.take();
    assert_eq!(bench.answer(&early).outcome(), OK);
    assert_eq!((bench.sector(0), stale(&bench)), (0x11, 0));
}

#[test]
fn reads_and_repeats_are_not_judged() {
    let mut bench = Bench::new();
    let mut ko = Ko::known(&mut bench);
    let first = write(A, ko.tag(bench.now), 0, 0x11);
    let late_read = read(A, ko.tag(bench.now), 0, 1);
    let answer = bench.answer(&first);
    bench.wait(1);
    bench.answer(&write(A, ko.tag(bench.now), 0, 0x22));
    assert_eq!(bench.answer(&first), answer, "it ran, so it is answered again");
    assert_eq!(bench.answer(&late_read).data(), [0x22; SECTOR]);
    assert_eq!((bench.sector(0), stale(&bench)), (0x22, 0));
}
