//! How many frames are under way at a time.

use super::super::super::WINDOW_MAX;
use super::world::*;

#[test]
fn starts_with_eight_frames_and_gains_one_per_answer() {
    let mut world = World::up(Target { buffers: 64, ..Target::new(ours()) });
    world.hold_transfers();
    world.submit(read_of(0, 400));
    assert_eq!((world.held.len(), world.path(PORT).in_flight), (8, 8));
    let sent = world.held.remove(0);
    world.serve(&sent);
    assert_eq!((world.held.len(), world.path(PORT).window), (9, 9), "one for the answered, one for the growth");
    for _ in 0..100 {
        let sent = world.held.remove(0);
        world.serve(&sent);
    }
    assert_eq!((world.held.len(), world.path(PORT).window), (64, 64), "never more than the target queues");
    world.unmute();
    world.serve_held();
    world.run_until_idle();
}

#[test]
fn a_target_that_queues_little_never_gets_more() {
    for buffers in [0, 1, 3] {
        let mut world = World::up(Target { buffers, ..Target::new(ours()) });
        world.hold_transfers();
        let read = world.submit(read_of(0, 40));
        while !world.is_done(read) {
            assert_eq!(
                world.held.len(),
                usize::from(buffers.max(1)).min(world.device.flights.iter().flatten().count())
            );
            assert!(!world.held.is_empty());
            let sent = world.held.remove(0);
            world.serve(&sent);
        }
    }
}

#[test]
fn a_target_that_claims_to_queue_everything_is_not_believed() {
    let mut world = World::up(Target { buffers: u16::MAX, ..Target::new(ours()) });
    for _ in 0..10 {
        world.complete(read_of(0, 1000));
    }
    world.hold_transfers();
    world.submit(read_of(0, 1000));
    assert_eq!(world.held.len(), WINDOW_MAX as usize);
    world.unmute();
    world.serve_held();
    world.run_until_idle();
}

#[test]
fn a_burst_of_losses_halves_the_window_once() {
    let mut world = World::up(Target { buffers: 32, ..Target::new(ours()) });
    world.complete(read_of(0, 200));
    assert_eq!(world.path(PORT).window, 32);
    world.mute();
    world.submit(read_of(0, 200));
    let resent = |world: &World| world.device.stats().resends;
    // A few probes first.
    while world.path(PORT).window == 32 {
        assert!(resent(&world) <= 3);
        world.run(ms(1));
    }
    assert_eq!((world.path(PORT).window, world.path(PORT).in_flight), (16, 16));
    world.unmute();
    world.run_until_idle();
}

#[test]
fn a_target_that_queues_less_from_now_on_gets_less() {
    let mut world = World::up(Target { buffers: 32, ..Target::new(ours()) });
    world.complete(read_of(0, 200));
    world.hold_transfers();
    let read = world.submit(read_of(0, 200));
    assert_eq!(world.held.len(), 32);
    world.targets[0].buffers = 4;
    world.advertise(PORT);
    assert_eq!(world.path(PORT).window, 4);
    for _ in 0..28 {
        let sent = world.held.remove(0);
        world.serve(&sent);
    }
    assert_eq!((world.held.len(), world.path(PORT).in_flight), (4, 4), "nothing new before there is room");
    world.unmute();
    world.serve_held();
    world.run_until_idle();
    assert_eq!(world.result(read), Ok(()));
}
