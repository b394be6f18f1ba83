//! Targets that do not answer any more.

use super::super::*;
use super::world::*;

fn up(dead_after: Option<Duration>) -> World {
    World::up_with(DeviceConfig { dead_after, ..config() }, Target::new(ours()), &[PORT])
}

#[test]
fn silence_fails_everything_and_new_requests_at_once() {
    let mut world = up(Some(secs(10)));
    world.mute();
    let ids = [
        world.submit(read_of(0, 100)),
        world.submit(write_of(0, 8, 1)),
        world.submit(write_of(4, 8, 1)),
        world.submit(Operation::Flush),
    ];
    let start = world.now;
    world.run_until_idle();
    assert!((secs(10)..secs(11)).contains(&world.now.since(start)), "{:?}", world.now.since(start));
    assert!(ids.iter().all(|id| world.result(*id) == Err(IoError::Dead)));
    assert_eq!(world.done[&ids[0]].buffer.len(), 100 * SECTOR, "buffers come back");
    assert_eq!(world.device.state(), DeviceState::Dead);
    assert!(world.events.contains(&Event::Dead));
    for operation in [read_of(0, 1), write_of(0, 1, 1), Operation::Flush] {
        let id = world.submit(operation);
        assert_eq!(world.result(id), Err(IoError::Dead));
    }
}

#[test]
fn a_dead_device_lives_again_when_its_target_answers() {
    let mut world = up(Some(secs(10)));
    world.mute();
    world.complete(read_of(0, 1)).result.unwrap_err();
    world.run(secs(100));
    assert_eq!(world.device.state(), DeviceState::Dead);
    world.unmute();
    world.run(secs(1));
    assert_eq!(world.device.state(), DeviceState::Up);
    assert_eq!(world.events.last(), Some(&Event::Up));
    assert_eq!(world.complete(read_of(0, 64)).result, Ok(()));
}

#[test]
fn a_late_answer_does_not_revive_what_was_given_up() {
    let mut world = up(Some(secs(3)));
    world.hold_transfers();
    let read = world.submit(read_of(0, 1));
    world.fate = Box::new(|_| Fate::Lost);
    world.run_until_idle();
    assert_eq!(world.result(read), Err(IoError::Dead));
    world.serve_held();
    assert_eq!(world.device.state(), DeviceState::Dead);
}

#[test]
fn an_idle_device_never_dies() {
    let mut world = up(Some(secs(10)));
    world.mute();
    world.run(secs(3600));
    assert_eq!(world.device.state(), DeviceState::Up);
    world.unmute();
    assert_eq!(world.complete(read_of(0, 1)).result, Ok(()));
}

#[test]
fn a_device_without_a_limit_waits_for_ever() {
    let mut world = up(None);
    world.mute();
    let write = world.submit(write_of(0, 8, 7));
    world.run(secs(100_000));
    assert!(!world.is_done(write));
    world.unmute();
    world.run(secs(3));
    assert_eq!((world.result(write), world.targets[0].sector(7)), (Ok(()), 7));
}

#[test]
fn without_patience_a_request_fails_as_soon_as_the_path_counts_as_lost() {
    let mut world = up(Some(Duration::ZERO));
    assert_eq!(world.complete(read_of(0, 100)).result, Ok(()));
    world.mute();
    let start = world.now;
    assert_eq!(world.complete(read_of(0, 100)).result, Err(IoError::Dead));
    assert!(world.now.since(start) < secs(1), "{:?}", world.now.since(start));
    world.unmute();
    world.run(secs(1));
    world.unplug(PORT);
    assert_eq!(world.complete(read_of(0, 1)).result, Err(IoError::Dead), "no port, no patience");
}

#[test]
fn a_part_that_is_never_answered_while_others_are_fails_its_request() {
    let mut world = up(Some(secs(20)));
    world.fate = Box::new(|sent| match &sent.ata {
        Some((ata, _)) if ata.command == command::WRITE_SECTORS_EXT && ata.lba() == 8 => Fate::Lost,
        _ => Fate::Arrive,
    });
    let start = world.now;
    let cursed = world.submit(write_of(6, 6, 1));
    while !world.is_done(cursed) {
        assert_eq!(world.device.state(), DeviceState::Up);
        assert!(world.now.since(start) < secs(30));
        let read = world.submit(read_of(0, 1));
        world.run(ms(500));
        assert_eq!(world.result(read), Ok(()));
    }
    assert_eq!(world.result(cursed), Err(IoError::Dead));
    assert!(world.now.since(start) >= secs(20));
    // What was never answered may still arrive.
    world.unmute();
    let over = world.submit(write_of(8, 1, 2));
    world.run(secs(5));
    assert!(!world.is_done(over));
    world.run_until_idle();
    assert_eq!(world.result(over), Ok(()));
}
