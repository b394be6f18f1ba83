//! Several paths: sharing, failing over, coming back, and paths that lead elsewhere.

use super::super::*;
use super::world::*;
use aoe_common::wire::BROADCAST;

const PORTS: [PortId; 2] = [PORT, OTHER_PORT];

fn up(identify: Identify) -> World {
    World::up_with(config(), Target::new(identify), &PORTS)
}

/// Loses everything sent on a port.
fn cut(world: &mut World, port: PortId) {
    world.fate = Box::new(move |sent| if sent.port == port { Fate::Lost } else { Fate::Arrive });
}

#[test]
fn two_paths_share_the_load() {
    let mut world = up(ours());
    world.complete(read_of(0, 400)).result.unwrap();
    let on_first = world.transfers().iter().filter(|sent| sent.port == PORT).count();
    assert!((80..=120).contains(&on_first), "{on_first} of 200 frames");
}

#[test]
fn a_dead_path_fails_over_and_its_frames_keep_their_tags() {
    let mut world = up(ours());
    cut(&mut world, PORT);
    let reads: Vec<_> = (0..16).map(|n| world.submit(read_of(n, 1))).collect();
    world.run_until_idle();
    assert!(reads.iter().all(|read| world.result(*read) == Ok(())));
    assert!(world.events.contains(&Event::PathDown { mac: target_mac(PORT), port: PORT }));
    assert_eq!(world.path(PORT).state, PathState::Failed);
    let sent = world.transfers();
    let lost: Vec<_> = sent.iter().filter(|sent| sent.port == PORT).collect();
    assert!(lost.iter().all(|lost| sent.iter().any(|sent| sent.port == OTHER_PORT && sent.tag == lost.tag)));
    assert!(world.now.since(sent[0].at) < secs(2), "well before anybody gives up");

    world.sent.clear();
    world.complete(read_of(0, 40)).result.unwrap();
    assert!(world.transfers().iter().all(|sent| sent.port == OTHER_PORT));
}

#[test]
fn a_path_that_stalls_for_a_moment_is_kept_however_many_frames_are_under_way() {
    let mut world = up(ours());
    world.complete(read_of(0, 400)).result.unwrap();
    world.events.clear();
    cut(&mut world, PORT);
    let reads: Vec<_> = (0..16).map(|n| world.submit(read_of(n, 1))).collect();
    world.run(ms(400));
    world.unmute();
    world.run_until_idle();
    assert!(reads.iter().all(|read| world.result(*read) == Ok(())));
    assert_eq!(world.events, []);
}

#[test]
fn a_failed_path_comes_back_when_it_answers_again() {
    let mut world = up(ours());
    cut(&mut world, PORT);
    world.complete(read_of(0, 40)).result.unwrap();
    assert_eq!(world.path(PORT).state, PathState::Failed);
    world.unmute();
    world.events.clear();
    world.run(secs(31));
    assert_eq!(world.events, [Event::PathUp { mac: target_mac(PORT), port: PORT }]);
    world.sent.clear();
    world.complete(read_of(0, 40)).result.unwrap();
    assert!(world.transfers().iter().any(|sent| sent.port == PORT));
}

#[test]
fn the_last_path_is_left_for_one_that_comes_later() {
    let mut world = World::up(Target::new(ours()));
    cut(&mut world, PORT);
    let reads: Vec<_> = (0..16).map(|n| world.submit(read_of(n, 1))).collect();
    world.run(secs(10));
    assert_eq!(world.path(PORT).state, PathState::Live, "there is nothing to lose by trying it");
    world.port(OTHER_PORT, 1500);
    world.run(secs(10));
    assert!(reads.iter().all(|read| world.is_done(*read) && world.result(*read) == Ok(())));
}

#[test]
fn frames_of_a_port_that_goes_away_move_to_another() {
    let mut world = up(ours());
    world.hold_transfers();
    let write = world.submit(write_of(0, 16, 0x31));
    assert!(world.held.iter().any(|sent| sent.port == PORT));
    world.held.clear();
    world.unmute();
    world.unplug(OTHER_PORT);
    world.run_until_idle();
    assert_eq!(world.result(write), Ok(()));
    assert!((0..16).all(|lba| world.targets[0].sector(lba) == 0x31));
}

#[test]
fn a_write_moves_to_another_port_at_once_when_the_target_knows_us_there() {
    for takes_identities in [true, false] {
        let target = Target { takes_identities, ..Target::new(ours()) };
        let mut world = World::up_with(config(), target, &PORTS);
        world.hold_transfers();
        let write = world.submit(write_of(8, 1, 0x11));
        let old = world.held.remove(0);
        world.unplug(old.port);
        assert_eq!(world.held.len(), usize::from(takes_identities));
        world.unmute();
        world.serve_held();
        world.run_until_idle();
        assert_eq!(world.result(write), Ok(()));
        let resent = world.transfers().into_iter().rfind(|sent| sent.lba() == 8).unwrap();
        assert!(resent.port != old.port && resent.tag == old.tag);
        let wait = if takes_identities { Duration::ZERO } else { QUARANTINE };
        assert_eq!(resent.at.since(old.at), wait, "otherwise a copy of it would be run like a new write");
    }
}

#[test]
fn frames_wait_for_the_only_port_to_come_back() {
    let mut world = World::up(Target::new(ours()));
    world.hold_transfers();
    let read = world.submit(read_of(0, 8));
    world.held.clear();
    world.unmute();
    world.unplug(PORT);
    world.run(secs(60));
    assert!(!world.is_done(read));
    world.port(PORT, 1500);
    world.run(ms(100));
    assert_eq!(world.result(read), Ok(()));
}

#[test]
fn a_part_that_no_longer_fits_is_cut_again_and_its_data_is_right() {
    let mut world = World::new(config(), Target { sectors: 16, ..Target::new(ours()) });
    world.port(PORT, 9000);
    world.run(secs(1));
    world.hold_transfers();
    let data: Vec<u8> = (0..20u8).flat_map(|n| [n + 1; SECTOR]).collect();
    let write = world.submit(Operation::Write { lba: 4, data: data.clone(), fua: false });
    let read = world.submit(read_of(200, 16));
    let old = std::mem::take(&mut world.held);
    assert_eq!(old.iter().map(Sent::count).collect::<Vec<_>>(), [16, 4, 16]);
    world.unmute();
    world.sent.clear();
    world.port(PORT, 1500);
    world.run(secs(5));
    assert!(world.is_done(read) && !world.is_done(write), "under a new tag, an old copy would be another write");
    world.run_until_idle();
    assert_eq!(world.result(write), Ok(()));
    assert!(world.now.since(old[0].at) >= QUARANTINE);
    assert_eq!(world.targets[0].disk[4 * SECTOR..24 * SECTOR], data);
    let sent = world.transfers();
    let parts: Vec<_> = sent.iter().filter(|sent| sent.command() == command::WRITE_SECTORS_EXT).collect();
    assert_eq!(parts.len(), 10);
    assert!(parts.iter().all(|part| part.count() == 2 && old.iter().all(|old| old.tag != part.tag)));
    assert_eq!(world.complete(read_of(4, 20)).buffer, data);
}

#[test]
fn a_trim_whose_ranges_no_longer_fit_is_cut_again() {
    let sectors = 20_000_000;
    let identify = Identify { sectors, trim_sectors_max: 8, ..ours() };
    let mut world = World::new(config(), Target { sectors: 16, ..Target::new(identify) });
    world.port(PORT, 9000);
    world.run(secs(1));
    world.hold_transfers();
    let trim = world.submit(Operation::Trim { lba: 0, sectors, fua: false });
    assert_eq!(world.held.drain(..).map(|sent| sent.count()).collect::<Vec<_>>(), [5]);
    world.unmute();
    world.port(PORT, 1500);
    world.run_until_idle();
    assert_eq!(world.result(trim), Ok(()));
}

#[test]
fn a_trim_ends_when_the_target_has_none_any_more() {
    let mut world = World::up(Target::new(ours()));
    world.hold_transfers();
    let hold = world.submit(write_of(0, 1, 1));
    let trim = world.submit(Operation::Trim { lba: 0, sectors: 8, fua: false });
    world.targets[0].identify.trim_sectors_max = 0;
    world.advertise(PORT);
    world.run(LATENCY * 4);
    assert_eq!(world.device.disk().unwrap().trim_sectors_max, 0);
    world.unmute();
    world.serve_held();
    world.run_until_idle();
    assert_eq!((world.result(hold), world.result(trim)), (Ok(()), Err(IoError::Refused)));
}

#[test]
fn another_disk_under_the_same_address_is_reported_and_never_used() {
    let mut world = World::up(Target::new(ours()));
    let mac = MacAddr(2, 0, 0, 0, 9, 9);
    let stranger = Identify { serial: "two".into(), ..ours() };
    world.targets.push(Target { ports: vec![(PORT, mac)], ..Target::new(stranger.clone()) });
    let advert = world.targets[1].advert(mac, BROADCAST, 1, 0);
    world.hear(PORT, &advert);
    world.run(secs(1));
    assert_eq!(world.events, [Event::Foreign { mac, port: PORT, identify: Box::new(stranger) }]);
    world.complete(write_of(0, 100, 1)).result.unwrap();
    assert!(world.targets[1].ran.is_empty());
    assert_eq!(world.device.disk().unwrap().serial, "one");

    // Alone, it is not used either.
    world.targets.remove(0);
    let read = world.submit(read_of(0, 1));
    world.run_until_idle();
    assert_eq!(world.result(read), Err(IoError::Dead));
    assert!(world.targets[0].ran.is_empty());
}

#[test]
fn a_disk_of_another_size_under_the_same_name_is_another_disk() {
    let mut world = World::up(Target::new(ours()));
    let mac = MacAddr(2, 0, 0, 0, 9, 9);
    let stranger = Identify { sectors: DISK * 2, ..ours() };
    world.targets.push(Target { ports: vec![(PORT, mac)], ..Target::new(stranger) });
    let advert = world.targets[1].advert(mac, BROADCAST, 1, 0);
    world.hear(PORT, &advert);
    world.run(secs(1));
    assert!(matches!(world.events[..], [Event::Foreign { .. }]));
    assert_eq!(world.device.disk().unwrap().sectors, DISK);
}

#[test]
fn answers_of_a_path_that_turned_out_to_be_foreign_do_not_count() {
    let mut world = World::up(Target::new(ours()));
    world.hold_transfers();
    let write = world.submit(write_of(0, 1, 1));
    let sent = world.held.remove(0);
    world.targets[0].identify.serial = "two".into();
    world.advertise(PORT);
    world.run(LATENCY * 4);
    assert_eq!(world.path(PORT).state, PathState::Foreign);
    world.serve(&sent);
    assert!(!world.is_done(write));
    world.unmute();
    world.run_until_idle();
    assert_eq!(world.result(write), Err(IoError::Dead));
}

#[test]
fn a_disk_that_grows_is_reported_and_usable_in_its_new_length() {
    let mut world = World::up(Target::new(ours()));
    assert_eq!(world.complete(read_of(DISK, 1)).result, Err(IoError::OutOfRange));
    world.targets[0].identify.sectors = DISK + 8;
    world.targets[0].disk.resize((DISK as usize + 8) * SECTOR, 0x5a);
    world.advertise(PORT);
    world.run(LATENCY * 4);
    assert_eq!(world.events, [Event::Resized { before: DISK, now: DISK + 8 }]);
    assert_eq!(world.complete(read_of(DISK, 8)).buffer, [0x5a; 8 * SECTOR]);
}

#[test]
fn growth_is_noticed_though_its_advert_is_lost_and_nothing_is_asked_of_the_disk() {
    let mut world = World::up(Target::new(ours()));
    world.targets[0].identify.sectors = DISK + 8;
    world.run(ASK_CALMLY + LATENCY * 4);
    assert_eq!(world.events, [Event::Resized { before: DISK, now: DISK + 8 }]);
}

#[test]
fn an_answer_that_was_overtaken_does_not_undo_a_growth() {
    let mut world = up(ours());
    // Asked before the disk grows; the answer is slow.
    world.fate = Box::new(|sent| if sent.port == OTHER_PORT && sent.ata.is_some() { Fate::Held } else { Fate::Arrive });
    world.advertise(OTHER_PORT);
    let asked = world.held.iter().find(|sent| sent.command() == command::IDENTIFY_DEVICE).unwrap().clone();
    let old = Answer { data: ours().emit().to_vec(), ..Answer::default() };
    world.run(ms(1));
    world.targets[0].identify.sectors = DISK + 8;
    world.advertise(PORT);
    world.run(LATENCY * 4);
    assert_eq!(world.events, [Event::Resized { before: DISK, now: DISK + 8 }]);
    world.unmute();
    world.hear(OTHER_PORT, &answer_frame(&asked, target_mac(OTHER_PORT), &old));
    world.run(LATENCY * 4);
    assert_eq!((world.events.len(), world.device.disk().unwrap().sectors), (1, DISK + 8), "it is asked again");

    // One that is asked afterwards counts.
    world.targets[0].identify.sectors = DISK;
    world.advertise(OTHER_PORT);
    world.run(LATENCY * 4);
    assert_eq!(world.events.last(), Some(&Event::Resized { before: DISK + 8, now: DISK }));
    assert_eq!(world.complete(read_of(DISK, 1)).result, Err(IoError::OutOfRange));
}

#[test]
fn no_more_paths_are_kept_than_there_is_room_for() {
    let mut world = World::up(Target::new(ours()));
    for n in 0..100 {
        let mac = MacAddr(2, 0, 0, 1, 0, n);
        let advert = world.targets[0].advert(mac, BROADCAST, 1, 0);
        world.hear(PORT, &advert);
        assert!(world.device.paths().count() <= PATHS_MAX);
    }
    assert_eq!(world.device.paths().count(), PATHS_MAX);
    assert_eq!(world.complete(read_of(0, 1)).result, Ok(()));
}

#[test]
fn addresses_that_do_not_answer_any_more_make_room_for_new_ones() {
    let mut world = World::up(Target::new(ours()));
    for n in 0..40 {
        // The target moves to another address.
        let mac = MacAddr(2, 0, 0, 2, 0, n);
        world.targets[0].ports = vec![(PORT, mac)];
        let advert = world.targets[0].advert(mac, BROADCAST, 1, 0);
        world.hear(PORT, &advert);
        assert_eq!(world.complete(read_of(0, 100)).result, Ok(()), "after {n} moves");
        world.run(secs(5));
    }
    assert!(world.device.paths().count() <= PATHS_MAX);
}

#[test]
fn a_port_too_small_for_a_sector_makes_no_path() {
    let mut world = World::new(config(), Target::new(ours()));
    world.port(PORT, 500);
    world.run(secs(2));
    assert_eq!((world.device.state(), world.device.paths().count()), (DeviceState::Searching, 0));
}

#[test]
fn a_target_that_takes_less_than_it_said_is_asked_again_and_sent_less() {
    // A write that is cut anew waits out its copies; until then the answer is there.
    for (operation, second) in [(read_of(8, 16), 8), (write_of(8, 16, 0x5a), 2)] {
        let mut world = World::new(config(), Target { sectors: 16, ..Target::new(ours()) });
        world.port(PORT, 9000);
        world.run(secs(1));
        world.sent.clear();
        world.targets[0].disk[8 * SECTOR..24 * SECTOR].fill(0x5a);
        // Its MTU shrinks, and nobody is told.
        world.targets[0].sectors = 2;
        let done = world.complete(operation);
        assert_eq!((done.result, done.buffer), (Ok(()), vec![0x5a; 16 * SECTOR]));
        assert_eq!([7, 8, 23, 24].map(|lba| world.targets[0].sector(lba)), [0, 0x5a, 0x5a, 0]);
        assert!(world.sent.iter().any(|sent| sent.ata.is_none()), "it is asked what it takes");
        let counts: Vec<_> = world.transfers().iter().map(Sent::count).collect();
        assert_eq!((counts[0], counts[1], counts.last()), (16, second, Some(&2)), "{counts:?}");
    }
}
