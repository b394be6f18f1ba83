//! Frames that are lost while others are answered: how soon they are sent again, and what it costs.

use super::super::*;
use super::world::*;
use std::cell::RefCell;
use std::rc::Rc;

const ROUND_TRIP: Duration = Duration::from_micros(1000);

/// A device that knows its path: it has been used for a while, and the window is as large as the target allows.
fn busy(identify: Identify) -> World {
    let mut world = World::up(Target { buffers: 32, ..Target::new(identify) });
    for n in 0..20 {
        world.complete(read_of(n, 100));
        world.complete(write_of(n, 100, 1));
    }
    assert_eq!(world.path(PORT).window, 32);
    world.sent.clear();
    world
}

/// The first transfer of this part of the disk is lost, as often as it is sent this many times.
fn lose(world: &mut World, lba: u64, times: u32) {
    let mut left = times;
    world.fate = Box::new(move |sent| {
        let hit = sent.is_transfer() && sent.lba() == lba && left > 0;
        left -= u32::from(hit);
        if hit { Fate::Lost } else { Fate::Arrive }
    });
}

/// When the frames for this part of the disk were sent, after the first of them.
fn times_of(world: &World, lba: u64) -> Vec<Duration> {
    let sent = world.transfers();
    let mut times = sent.iter().filter(|sent| sent.lba() == lba).map(|sent| sent.at);
    let first = times.next().expect("sent once");
    times.map(|at| at.since(first)).collect()
}

/// Keeps `depth` requests under way, made by `make` from a number, until `count` are over.
fn keep_busy(world: &mut World, depth: u64, count: u64, make: impl Fn(u64) -> Operation) {
    let mut next = 0;
    let done = world.done.len();
    while world.done.len() < done + count as usize {
        while next < count && world.device.in_flight() < depth as usize {
            world.submit(make(next));
            next += 1;
        }
        world.run(ROUND_TRIP / 20);
    }
}

#[test]
fn a_lost_read_or_write_is_sent_again_within_two_round_trips() {
    for make in [|n: u64| read_of(n, 1), |n: u64| write_of(n, 1, 7)] {
        let mut world = busy(ours());
        lose(&mut world, 100, 1);
        keep_busy(&mut world, 16, 400, make);
        let times = times_of(&world, 100);
        assert_eq!(times.len(), 1, "{times:?}");
        assert!((ROUND_TRIP..ROUND_TRIP * 2).contains(&times[0]), "{times:?}");
        assert_eq!((world.device.stats().resends, world.path(PORT).window), (1, 32));
    }
}

#[test]
fn so_is_one_whose_resend_is_lost_too() {
    let mut world = busy(ours());
    lose(&mut world, 100, 3);
    keep_busy(&mut world, 16, 400, |n| read_of(n, 1));
    let times = times_of(&world, 100);
    assert_eq!(times.len(), 3, "{times:?}");
    assert!(times[2] < ROUND_TRIP * 6, "{times:?}");
}

#[test]
fn the_last_of_all_is_sent_again_within_some_milliseconds() {
    let mut world = busy(ours());
    lose(&mut world, 100, 1);
    let read = world.submit(read_of(100, 1));
    world.run_until_idle();
    assert_eq!(world.result(read), Ok(()));
    let times = times_of(&world, 100);
    assert!(times.len() == 1 && times[0] < ms(5), "{times:?}");
}

#[test]
fn a_path_that_falls_silent_is_probed_and_then_waited_for() {
    let mut world = busy(ours());
    world.mute();
    for n in 0..32 {
        world.submit(read_of(n, 1));
    }
    world.run(ms(49));
    assert_eq!(world.device.stats().resends, 3, "a stall of the target is not made worse");
    world.run(ms(3));
    assert!(world.device.stats().resends > 10, "50 ms is too long for one");
    world.unmute();
    world.run_until_idle();
}

/// A target that does not recognise copies gets no copies of writes in haste: their sectors would be in quarantine.
/// Nor does anything that a disk may take long for.
#[test]
fn what_is_better_waited_for_is_waited_for() {
    let fua = |n: u64| Operation::Write { lba: n, data: vec![7; SECTOR], fua: true };
    let write_through = Identify { write_cache: false, ..ours() };
    let plain = |n: u64| write_of(n, 1, 7);
    let makes = [(vblade(), plain as fn(u64) -> Operation), (ours(), fua), (write_through, plain)];
    for (identify, make) in makes {
        let mut world = busy(identify);
        lose(&mut world, 100, 1);
        keep_busy(&mut world, 16, 400, make);
        let times = times_of(&world, 100);
        assert_eq!(times, [ms(50)]);
    }
    let mut world = busy(ours());
    world.mute();
    let flush = world.submit(Operation::Flush);
    world.run(ms(1999));
    assert_eq!(world.device.stats().resends, 0);
    world.unmute();
    world.run_until_idle();
    assert_eq!(world.result(flush), Ok(()));
}

/// Trips that take up to `spread` longer, and are lost in some of a hundred.
fn uneven(seed: u64, spread: Duration, lost: u64) -> Box<dyn FnMut() -> Vec<Duration>> {
    let dice = Rc::new(RefCell::new(seed));
    Box::new(move || {
        let mut dice = dice.borrow_mut();
        let mut roll = |sides: u64| {
            *dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*dice >> 33) % sides
        };
        if roll(100) < lost {
            return Vec::new();
        }
        vec![LATENCY + Duration::from_nanos(roll(spread.as_nanos() as u64 + 1))]
    })
}

#[test]
fn a_disk_that_answers_in_any_order_is_not_asked_twice() {
    let mut world = busy(ours());
    world.trips = uneven(1, ROUND_TRIP * 5, 0);
    keep_busy(&mut world, 32, 5000, |n| read_of(n % 4000, 1));
    let resends = world.device.stats().resends;
    assert!(resends < 50, "{resends} of 5000 reads were sent again in vain");
    assert_eq!(world.path(PORT).window, 32);
}

/// Most reads are answered from memory, and one in 20 takes a disk 20 times as long.
#[test]
fn a_disk_with_a_cache_is_seldom_asked_twice() {
    let mut world = busy(ours());
    let mut number = 0;
    world.trips = Box::new(move || {
        number += 1;
        vec![if number % 40 == 0 { LATENCY * 40 } else { LATENCY }]
    });
    keep_busy(&mut world, 32, 5000, |n| read_of(n % 4000, 1));
    let resends = world.device.stats().resends;
    assert!(resends < 75, "{resends} of 5000 reads were sent again in vain");
}

#[test]
fn with_one_frame_in_a_hundred_lost_nearly_as_much_is_carried() {
    // One frame each, and 16.
    for sectors in [1, 32] {
        for make in [|n: u64, sectors| read_of(n, sectors), |n: u64, sectors| write_of(n, sectors, 7)] {
            let time = |lost: u64| {
                let mut world = busy(ours());
                world.trips = uneven(7, ROUND_TRIP / 50, lost);
                let began = world.now;
                keep_busy(&mut world, 32, 10_000 / sectors as u64, |n| make(n * sectors as u64 % 4000, sectors));
                world.now.since(began).as_secs_f64()
            };
            let goodput = time(0) / time(1);
            assert!((0.75..1.0).contains(&goodput), "{goodput} of requests of {sectors} sectors");
        }
    }
}
