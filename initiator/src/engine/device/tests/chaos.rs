//! Random requests over networks that lose, repeat, delay and reorder, and frames of garbage.

use super::super::*;
use super::world::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;

/// Random numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % sides
    }
}

/// Trips of frames in a network that loses and repeats some in a hundred, and delays any by up to `delay`.
fn network(seed: u64, lost: u64, repeated: u64, delay: Duration) -> Box<dyn FnMut() -> Vec<Duration>> {
    let dice = Rc::new(RefCell::new(Dice(seed)));
    Box::new(move || {
        let mut dice = dice.borrow_mut();
        let copies = if dice.roll(100) < lost { 0 } else { 1 + usize::from(dice.roll(100) < repeated) };
        (0..copies).map(|_| LATENCY + Duration::from_nanos(dice.roll(delay.as_nanos() as u64 + 1))).collect()
    })
}

/// Sectors that the random requests touch.
const SPAN: u64 = 48;

#[derive(Clone, Debug)]
enum Step {
    Write { lba: u64, sectors: u64, fua: bool },
    Read { lba: u64, sectors: u64 },
    Zero { lba: u64, sectors: u64, unmap: bool },
    Flush,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0..SPAN, 1u64..12).prop_map(|(lba, sectors)| (lba, sectors.min(SPAN - lba)));
    let step = prop_oneof![
        6 => (range(), any::<bool>()).prop_map(|((lba, sectors), fua)| Step::Write { lba, sectors, fua }),
        4 => range().prop_map(|(lba, sectors)| Step::Read { lba, sectors }),
        1 => (range(), any::<bool>()).prop_map(|((lba, sectors), unmap)| Step::Zero { lba, sectors, unmap }),
        1 => Just(Step::Flush),
        4 => (0u64..200).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Values that a sector may hold: after the last write that completed before a request was submitted, and
/// after each that was submitted before the request ended.
#[derive(Default)]
struct History {
    /// Writes in order of submission: id, range, value.
    writes: Vec<(u64, u64, u64, u8)>,
}

impl History {
    fn may_hold(&self, lba: u64, completed: &[u64]) -> Vec<u8> {
        let of_sector = self.writes.iter().filter(|(_, start, end, _)| (*start..*end).contains(&lba));
        let mut values = vec![0];
        for (id, .., value) in of_sector {
            if completed.contains(id) {
                values.clear();
            }
            values.push(*value);
        }
        values
    }
}

fn run(steps: &[Step], seed: u64, target: Target, lost: u64, repeated: u64, delay: Duration, ports: &[PortId]) {
    let mut world = World::up_with(DeviceConfig { dead_after: None, ..config() }, target, ports);
    world.trips = network(seed, lost, repeated, delay);
    let mut history = History::default();
    // Reads: id, first sector, what each sector held or may yet be given.
    let mut reads: Vec<(u64, u64, Vec<u64>)> = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        let value = n as u8 + 1;
        let completed: Vec<u64> = world.done.keys().copied().collect();
        match *step {
            Step::Write { lba, sectors, fua } => {
                let data = vec![value; sectors as usize * SECTOR];
                let id = world.submit(Operation::Write { lba, data, fua });
                history.writes.push((id, lba, lba + sectors, value));
            }
            Step::Zero { lba, sectors, unmap } => {
                let id = world.submit(Operation::Zero { lba, sectors, unmap, fua: false });
                history.writes.push((id, lba, lba + sectors, 0));
            }
            Step::Read { lba, sectors } => {
                let id = world.submit(read_of(lba, sectors as usize));
                reads.push((id, lba, completed));
            }
            Step::Flush => {
                world.submit(Operation::Flush);
            }
            Step::Wait(millis) => world.run(ms(millis)),
        }
    }
    world.run_until_idle();
    assert!(world.done.values().all(|done| done.result == Ok(())));
    for (id, first, completed) in reads {
        for (sector, lba) in world.done[&id].buffer.as_chunks::<SECTOR>().0.iter().zip(first..) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "sector {lba} is torn");
            let values = history.may_hold(lba, &completed);
            assert!(values.contains(&sector[0]), "read {id} of {lba}: {} is none of {values:?}", sector[0]);
        }
    }
    // Copies still on their way must not undo anything.
    world.run(secs(30));
    for lba in 0..SPAN {
        let last = history.writes.iter().rfind(|(_, start, end, _)| (*start..*end).contains(&lba));
        assert_eq!(world.targets[0].sector(lba), last.map_or(0, |(.., value)| *value), "sector {lba}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_request_completes_and_every_sector_is_right_with_an_exactly_once_target(
        steps in steps(), seed: u64, lost in 0u64..30, repeated in 0u64..30, delay in 0u64..400, two: bool,
        takes_identities: bool,
    ) {
        let target = Target { takes_identities, ..Target::new(ours()) };
        let ports = if two { &[PORT, OTHER_PORT][..] } else { &[PORT] };
        run(&steps, seed, target, lost, repeated, ms(delay), ports);
    }

    /// Such a target runs every copy. The initiator alone keeps old ones off newer data, as long as the
    /// network itself repeats nothing.
    #[test]
    fn every_request_completes_and_every_sector_is_right_with_a_forgetful_target(
        steps in steps(), seed: u64, lost in 0u64..30, delay in 0u64..400, two: bool,
    ) {
        let ports = if two { &[PORT, OTHER_PORT][..] } else { &[PORT] };
        let target = Target::new(Identify { exactly_once: false, ..ours() });
        run(&steps, seed, target, lost, 0, ms(delay), ports);
    }

    /// Frames made of real answers with a few bytes changed, cut or grown. Whatever they say, the tables stay
    /// sound, each request completes once, and a read that the tag was not guessed for holds the disk's data.
    #[test]
    fn garbage_is_survived_and_never_taken_for_an_answer(
        mutations in proptest::collection::vec(
            (any::<prop::sample::Index>(), proptest::collection::vec((0usize..80, any::<u8>()), 1..4), 0usize..1200),
            1..60,
        ),
        noise in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..20),
    ) {
        let mut world = World::up(Target::new(ours()));
        world.targets[0].disk.fill(0xd1);
        world.hold_transfers();
        let reads: Vec<_> = (0..8).map(|n| world.submit(read_of(n, 1))).collect();
        let held = world.held.clone();
        let tags: Vec<_> = held.iter().map(|sent| sent.tag.to_be_bytes()).collect();
        for (pick, changes, len) in mutations {
            let sent = pick.get(&held);
            let answer = Answer { data: vec![0x66; SECTOR], ..Answer::default() };
            let mut frame = answer_frame(sent, target_mac(PORT), &answer);
            for (at, byte) in changes {
                frame[at] = byte;
            }
            // No answer at all unless its tag is wrong: bit 31 clear is a tag we never use.
            if tags.iter().any(|tag| frame[20..24] == tag[..]) {
                frame[20] &= 0x7f;
            }
            frame.resize(len, 0x66);
            world.hear(PORT, &frame);
        }
        for frame in noise {
            world.hear(PORT, &frame);
        }
        prop_assert!(reads.iter().all(|read| !world.is_done(*read)));
        prop_assert!(world.device.paths().count() <= PATHS_MAX);
        world.held.clear();
        world.unmute();
        world.run_until_idle();
        for read in reads {
            let done = &world.done[&read];
            prop_assert!(done.result == Ok(()) && done.buffer == [0xd1; SECTOR]);
        }
    }

    /// Answers under the right tags that say anything at all: an error, too little data, or success.
    #[test]
    fn whatever_a_target_answers_a_request_ends_as_it_says(
        answers in proptest::collection::vec((any::<Option<u8>>(), any::<u8>(), any::<u8>(), 0usize..1200), 1..40),
    ) {
        let mut world = World::up(Target::new(ours()));
        world.hold_transfers();
        for (error, status, ata_error, len) in answers {
            let read = world.submit(read_of(0, 2));
            let answer = Answer {
                error: error.map(Into::into),
                status: Some(Status::from_bits_retain(status)),
                ata_error,
                registers: None,
                data: vec![0x77; len],
            };
            for _ in 0..3 {
                let Some(sent) = world.held.pop() else { break };
                world.hear(PORT, &answer_frame(&sent, target_mac(PORT), &answer));
                if world.is_done(read) { break }
                world.run(secs(3));
            }
            world.held.clear();
            let succeeds = error.is_none() && status & 0xaf == 0 && len >= 2 * SECTOR;
            prop_assert!(world.is_done(read));
            prop_assert_eq!(world.result(read).is_ok(), succeeds);
            prop_assert!(!succeeds || world.done[&read].buffer == [0x77; 2 * SECTOR]);
        }
    }
}
