//! Ways that carry smaller frames than both ends take.

use super::super::*;
use super::world::*;
use aoe_common::frame::HEADROOM;

/// A device on one jumbo path, or two, to a target that takes 16 sectors.
fn jumbo(identify: Identify, ports: &[PortId]) -> World {
    let mut world = World::new(config(), Target { sectors: 16, ..Target::new(identify) });
    ports.iter().for_each(|port| world.port(*port, 9000));
    world.run(secs(1));
    world.sent.clear();
    world.events.clear();
    world
}

/// From now on frames with more sectors vanish on this port's way, in both directions.
fn narrow(world: &mut World, port: PortId, sectors: u8) {
    world.fate = Box::new(move |sent| {
        let answer = match &sent.ata {
            Some((ata, _)) if ata.command == command::READ_SECTORS_EXT => ata.count,
            _ => 0,
        };
        let is_long = sent.bytes.len() > HEADROOM + usize::from(sectors) * SECTOR || answer > sectors;
        if sent.port == port && is_long { Fate::Lost } else { Fate::Arrive }
    });
}

fn passes(world: &World, port: PortId) -> u8 {
    world.path(port).sectors
}

#[test]
fn a_read_goes_on_with_frames_that_pass() {
    for (most, found) in [(2, 2), (8, 8), (15, 15)] {
        let mut world = jumbo(ours(), &[PORT]);
        narrow(&mut world, PORT, most);
        world.targets[0].disk[..64 * SECTOR].fill(0x5a);
        let began = world.now;
        let done = world.complete(read_of(0, 64));
        assert_eq!((done.result, done.buffer), (Ok(()), vec![0x5a; 64 * SECTOR]));
        assert!(world.now.since(began) < secs(6), "{:?}", world.now.since(began));
        assert_eq!(passes(&world, PORT), found);
        let event = Event::Passes { mac: target_mac(PORT), port: PORT, sectors: found, offered: 16 };
        assert_eq!(world.events, [event]);

        // It stays so: nothing is tried again while all goes well.
        world.sent.clear();
        world.run(secs(120));
        world.complete(read_of(0, 64)).result.unwrap();
        assert!(world.transfers().iter().all(|sent| sent.count() <= found));
        assert_eq!(world.device.stats().strays, 0);
    }
}

#[test]
fn a_write_is_cut_anew_when_no_copy_of_it_can_come() {
    for identify in [ours(), vblade()] {
        let mut world = jumbo(identify, &[PORT]);
        narrow(&mut world, PORT, 2);
        let write = world.submit(write_of(8, 32, 0x11));
        world.run(secs(8));
        assert!(passes(&world, PORT) == 2 && !world.is_done(write));
        // What was not under way goes at once.
        let other = world.submit(write_of(100, 32, 0x22));
        world.run(secs(1));
        assert_eq!(world.result(other), Ok(()));
        let last = world.transfers().into_iter().rfind(|sent| sent.count() == 16 && sent.lba() >= 8).unwrap();
        world.run_until_idle();
        assert_eq!(world.result(write), Ok(()));
        assert!(world.now.since(last.at) >= QUARANTINE && world.now.since(last.at) < QUARANTINE + secs(1));
        assert!((8..40).all(|lba| world.targets[0].sector(lba) == 0x11));
        assert_eq!([7, 40].map(|lba| world.targets[0].sector(lba)), [0, 0]);
    }
}

#[test]
fn nobody_s_patience_is_too_short_for_it() {
    let mut world = World::new(
        DeviceConfig { dead_after: Some(secs(5)), ..config() },
        Target { sectors: 16, ..Target::new(ours()) },
    );
    world.port(PORT, 9000);
    world.run(secs(1));
    narrow(&mut world, PORT, 2);
    assert_eq!(world.complete(write_of(0, 256, 0x33)).result, Ok(()));
    assert!((0..256).all(|lba| world.targets[0].sector(lba) == 0x33));
}

#[test]
fn silence_and_a_disk_that_hangs_are_not_taken_for_it() {
    let mut world = jumbo(ours(), &[PORT]);
    world.mute();
    let read = world.submit(read_of(0, 64));
    world.run(secs(20));
    world.unmute();
    world.run_until_idle();
    assert_eq!(world.result(read), Ok(()));
    assert_eq!((passes(&world, PORT), world.events.len()), (16, 0));

    // It answers what it has in memory.
    world.fate = Box::new(|sent| if sent.is_transfer() && sent.lba() > 0 { Fate::Lost } else { Fate::Arrive });
    let read = world.submit(read_of(512, 64));
    world.run(secs(20));
    assert!(!world.is_done(read));
    world.unmute();
    world.run_until_idle();
    assert_eq!((world.result(read), passes(&world, PORT), world.events.len()), (Ok(()), 16, 0));
}

#[test]
fn a_target_that_does_not_run_writes_for_a_while_is_not_taken_for_it() {
    let mut world = jumbo(ours(), &[PORT]);
    let holds = |sent: &Sent| sent.ata.as_ref().is_some_and(|(ata, _)| ata.command == command::WRITE_SECTORS_EXT);
    world.fate = Box::new(move |sent| if holds(sent) { Fate::Lost } else { Fate::Arrive });
    let write = world.submit(write_of(0, 64, 1));
    world.run(secs(11));
    world.unmute();
    world.run_until_idle();
    assert_eq!((world.result(write), passes(&world, PORT), world.events.len()), (Ok(()), 16, 0));
}

#[test]
fn nothing_is_measured_where_all_frames_pass_or_are_small() {
    let mut world = jumbo(ours(), &[PORT]);
    let mut number = 0;
    world.fate = Box::new(move |_| {
        number += 1;
        if number % 10 == 0 { Fate::Lost } else { Fate::Arrive }
    });
    for n in 0..20 {
        world.complete(read_of(n, 100)).result.unwrap();
        world.complete(write_of(n, 100, 1)).result.unwrap();
    }
    assert_eq!(passes(&world, PORT), 16);

    let mut world = World::up(Target::new(ours()));
    world.mute();
    let read = world.submit(read_of(0, 64));
    world.run(secs(5));
    assert!(world.transfers().iter().all(|sent| sent.data().is_empty()));
    world.unmute();
    world.run_until_idle();
    assert_eq!(world.result(read), Ok(()));
}

#[test]
fn one_of_two_paths_is_narrow() {
    let mut world = jumbo(ours(), &[PORT, OTHER_PORT]);
    narrow(&mut world, PORT, 2);
    let reads: Vec<_> = (0..8).map(|n| world.submit(read_of(n * 64, 64))).collect();
    world.run_until_idle();
    assert!(reads.iter().all(|read| world.result(*read) == Ok(())));
    assert_eq!((passes(&world, PORT), passes(&world, OTHER_PORT)), (2, 16));
    assert!(!world.events.iter().any(|event| matches!(event, Event::PathDown { .. })), "{:?}", world.events);
}

#[test]
fn what_passes_is_found_out_again_when_the_path_comes_back() {
    let mut world = jumbo(ours(), &[PORT]);
    narrow(&mut world, PORT, 2);
    world.complete(read_of(0, 64)).result.unwrap();
    assert_eq!(passes(&world, PORT), 2);
    // Still so: no frame of anybody's has to vanish to learn of it.
    world.unplug(PORT);
    world.run(secs(5));
    world.sent.clear();
    world.port(PORT, 9000);
    world.run(secs(5));
    assert_eq!(passes(&world, PORT), 2);
    assert!(world.transfers().iter().filter(|sent| sent.count() > 2).count() > 3, "it was tried");
    world.unplug(PORT);
    world.unmute();
    world.port(PORT, 9000);
    world.run(secs(1));
    assert_eq!(passes(&world, PORT), 16);
    let event = Event::Passes { mac: target_mac(PORT), port: PORT, sectors: 16, offered: 16 };
    assert_eq!(world.events.iter().filter(|other| **other == event).count(), 1, "{:?}", world.events);
}

#[test]
fn who_may_not_read_learns_nothing_of_frames() {
    let mut world = jumbo(ours(), &[PORT]);
    world.fate = Box::new(|sent| if sent.is_transfer() { Fate::Held } else { Fate::Arrive });
    let read = world.submit(read_of(512, 64));
    world.run(secs(2));
    let measuring: Vec<_> = world.held.drain(..).filter(|sent| sent.lba() == 0).collect();
    assert!(!measuring.is_empty());
    let refused = Answer { error: Some(ErrorCode::Reserved), ..Answer::default() };
    for sent in &measuring {
        let frame = answer_frame(sent, target_mac(PORT), &refused);
        world.hear(PORT, &frame);
    }
    world.unmute();
    world.run_until_idle();
    assert_eq!((world.result(read), passes(&world, PORT)), (Ok(()), 16));
}
