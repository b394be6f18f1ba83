//! The order of overlapping writes, and old copies of them.

use super::super::*;
use super::world::*;
use aoe_common::wire::BROADCAST;

/// A write of sector 8 that was sent twice and answered once. Returns the copy that is still on its way.
fn resent_write(world: &mut World) -> Sent {
    world.hold_transfers();
    let write = world.submit(write_of(8, 1, 0x11));
    world.run(ms(300));
    let [old, resent] = world.held.drain(..).collect::<Vec<_>>().try_into().expect("sent twice");
    assert_eq!(old.tag, resent.tag);
    world.serve(&resent);
    assert_eq!(world.result(write), Ok(()));
    old
}

#[test]
fn overlapping_writes_go_one_after_the_other() {
    let mut world = World::up(Target::new(ours()));
    world.hold_transfers();
    let first = world.submit(write_of(10, 2, 1));
    let second = world.submit(write_of(11, 2, 2));
    let third = world.submit(write_of(12, 1, 3));
    let apart = world.submit(write_of(13, 1, 4));
    let lbas = |world: &World| world.held.iter().map(Sent::lba).collect::<Vec<_>>();
    assert_eq!(lbas(&world), [10, 13]);
    assert_eq!(world.device.stats().waits, 2);
    let sent = world.held.remove(0);
    world.serve(&sent);
    assert_eq!((world.result(first), lbas(&world)), (Ok(()), vec![13, 11]));
    world.serve_held();
    assert!([second, third, apart].iter().all(|id| world.result(*id) == Ok(())));
    let target = &world.targets[0];
    assert_eq!([10, 11, 12, 13].map(|lba| target.sector(lba)), [1, 2, 3, 4]);
}

#[test]
fn trims_and_zeroing_take_their_turn_among_writes() {
    let mut world = World::up(Target::new(ours()));
    world.submit(write_of(0, 4, 1));
    world.submit(Operation::Trim { lba: 1, sectors: 3, fua: false });
    world.submit(write_of(2, 2, 2));
    world.submit(Operation::Zero { lba: 3, sectors: 1, unmap: false, fua: false });
    world.run_until_idle();
    assert_eq!([0, 1, 2, 3].map(|lba| world.targets[0].sector(lba)), [1, 0, 2, 0]);
}

#[test]
fn reads_and_flushes_do_not_wait_for_writes() {
    let mut world = World::up(Target::new(ours()));
    world.hold_transfers();
    world.submit(write_of(0, 1, 1));
    world.submit(read_of(0, 1));
    world.submit(Operation::Flush);
    world.submit(write_of(0, 1, 1));
    assert_eq!(world.held.len(), 3);
    world.serve_held();
}

/// A target remembers what it ran, not what it refused. So a copy of a refused write would be run once it takes writes
/// again.
#[test]
fn the_sectors_of_a_refused_write_wait_as_long_as_a_frame_lives() {
    let mut world = World::up(Target::new(ours()));
    world.hold_transfers();
    world.submit(write_of(0, 1, 1));
    let next = world.submit(write_of(0, 1, 2));
    let apart = world.submit(write_of(1, 1, 2));
    let sent = world.held.remove(0);
    let failure = Answer { error: Some(ErrorCode::Reserved), ..Answer::default() };
    world.hear(PORT, &answer_frame(&sent, target_mac(PORT), &failure));
    world.serve_held();
    assert_eq!(world.result(apart), Ok(()));
    world.run(QUARANTINE - ms(1));
    assert!(!world.is_done(next) && world.held.is_empty());
    world.run(ms(2));
    world.serve_held();
    assert_eq!(world.result(next), Ok(()));
}

#[test]
fn the_sectors_of_a_resent_write_wait_until_the_old_copy_is_answered() {
    let mut world = World::up(Target::new(vblade()));
    let old = resent_write(&mut world);
    let apart = world.submit(write_of(9, 1, 0x22));
    let over = world.submit(write_of(7, 2, 0x22));
    let read = world.submit(read_of(8, 1));
    assert_eq!(
        world.held.iter().map(Sent::lba).collect::<Vec<_>>(),
        [9, 8],
        "only what overlaps waits, and reads never"
    );
    world.serve_held();
    assert_eq!((world.result(apart), world.result(read)), (Ok(()), Ok(())));
    world.run(secs(5));
    assert!(!world.is_done(over));
    world.serve(&old);
    world.serve_held();
    assert_eq!(world.result(over), Ok(()));
    assert_eq!(world.targets[0].sector(8), 0x22, "the old copy came first");
}

#[test]
fn the_sectors_of_a_resent_write_wait_no_longer_than_a_frame_lives() {
    let mut world = World::up(Target::new(vblade()));
    resent_write(&mut world);
    let answered = world.now;
    let over = world.submit(write_of(8, 1, 0x22));
    world.unmute();
    world.run_until_idle();
    assert_eq!(world.result(over), Ok(()));
    assert!(world.transfers().last().unwrap().at >= answered + QUARANTINE);
    assert!(world.now < answered + QUARANTINE + ms(10));
}

/// A second target with the same disk, by the same port.
fn add_twin(world: &mut World, identify: Identify) -> MacAddr {
    let twin = MacAddr(2, 0, 0, 0, 9, 9);
    world.targets.push(Target { ports: vec![(PORT, twin)], ..Target::new(identify) });
    let advert = world.targets[1].advert(twin, BROADCAST, 1, 0);
    world.hear(PORT, &advert);
    world.run(secs(1));
    assert!(world.device.paths().all(|path| path.state == PathState::Live));
    twin
}

#[test]
fn an_answer_of_a_stranger_ends_no_quarantine() {
    let mut world = World::up(Target::new(vblade()));
    let old = resent_write(&mut world);
    let twin = add_twin(&mut world, vblade());
    let over = world.submit(write_of(8, 1, 0x22));
    for stranger in [twin, MacAddr(2, 0, 0, 0, 9, 8)] {
        world.hear(PORT, &answer_frame(&old, stranger, &Answer::default()));
        assert!(world.held.is_empty(), "it overheard the tag: the copy still lives");
    }
    world.serve(&old);
    world.unmute();
    world.serve_held();
    world.run_until_idle();
    assert_eq!(world.result(over), Ok(()));
}

#[test]
fn the_operator_says_how_long_a_frame_lives() {
    let config = DeviceConfig { frame_life: secs(2), ..config() };
    let mut world = World::up_with(config, Target::new(vblade()), &[PORT]);
    resent_write(&mut world);
    let answered = world.now;
    let over = world.submit(write_of(8, 1, 0x22));
    world.unmute();
    world.run_until_idle();
    assert_eq!(world.result(over), Ok(()));
    assert!(world.now >= answered + secs(2) && world.now < answered + secs(2) + ms(10));
}

/// The network makes copies of a write that was sent once, and of answers.
#[test]
fn where_the_network_repeats_frames_sectors_wait_out_its_copies() {
    let config = DeviceConfig { network_repeats: true, frame_life: secs(2), ..config() };
    let mut world = World::up_with(config, Target::new(vblade()), &[PORT]);
    world.hold_transfers();
    let write = world.submit(write_of(8, 1, 0x11));
    let copy = world.held.remove(0);
    world.serve(&copy);
    assert_eq!(world.result(write), Ok(()));
    let answered = world.now;
    let over = world.submit(write_of(8, 1, 0x22));
    let apart = world.submit(write_of(9, 1, 0x22));
    let read = world.submit(read_of(8, 1));
    world.serve_held();
    assert!(world.is_done(apart) && world.is_done(read) && !world.is_done(over));
    // Two answers, of which neither tells that no more copies come.
    world.serve(&copy);
    world.run(secs(1));
    world.serve(&copy);
    world.run(ms(900));
    assert!(!world.is_done(over));
    world.unmute();
    world.run_until_idle();
    assert!(world.now >= answered + secs(2) && world.now < answered + secs(2) + ms(10));
    assert_eq!((world.result(over), world.targets[0].sector(8)), (Ok(()), 0x22));
}

#[test]
fn where_the_network_repeats_frames_answers_to_a_resent_write_do_not_end_the_wait() {
    let config = DeviceConfig { network_repeats: true, ..config() };
    let mut world = World::up_with(config, Target::new(vblade()), &[PORT]);
    let old = resent_write(&mut world);
    let over = world.submit(write_of(8, 1, 0x22));
    world.serve(&old);
    world.run(secs(5));
    assert!(world.held.is_empty(), "another copy may be on its way");
    world.serve(&old);
    world.unmute();
    world.run_until_idle();
    assert_eq!((world.result(over), world.targets[0].sector(8)), (Ok(()), 0x22));
}

#[test]
fn a_target_that_runs_a_request_once_may_be_behind_a_network_that_repeats_frames() {
    let config = DeviceConfig { network_repeats: true, ..config() };
    let mut world = World::up_with(config, Target::new(ours()), &[PORT]);
    let began = world.now;
    for byte in [0x11, 0x22] {
        let write = world.submit(write_of(8, 1, byte));
        world.run_until_idle();
        assert_eq!(world.result(write), Ok(()));
    }
    assert!(world.now < began + ms(10), "nothing waits");
}

#[test]
fn writes_behind_one_in_quarantine_keep_their_order() {
    let mut world = World::up(Target::new(vblade()));
    resent_write(&mut world);
    world.unmute();
    world.submit(write_of(8, 1, 0x22));
    world.submit(write_of(8, 1, 0x33));
    world.run_until_idle();
    assert_eq!(world.targets[0].sector(8), 0x33);
    let lbas: Vec<_> = world.targets[0].ran.iter().map(|ran| ran.lba).collect();
    assert_eq!(lbas, [8, 8, 8]);
}

#[test]
fn a_target_that_runs_a_request_once_needs_no_quarantine() {
    let mut world = World::up(Target::new(ours()));
    let old = resent_write(&mut world);
    let over = world.submit(write_of(8, 1, 0x22));
    world.serve_held();
    assert_eq!(world.result(over), Ok(()));
    world.serve(&old);
    assert_eq!(world.targets[0].sector(8), 0x22);
}

/// Two hosts that replicate a disk and export it as one: neither knows what the other has run.
#[test]
fn the_sectors_of_a_write_that_moved_to_another_target_wait_as_long_as_a_frame_lives() {
    let mut world = World::up(Target::new(ours()));
    let twin = add_twin(&mut world, ours());

    // The first target hears everything and is too slow to answer.
    world.fate =
        Box::new(move |sent| if sent.destination == twin || !sent.is_transfer() { Fate::Arrive } else { Fate::Held });
    let writes: Vec<_> = (0..16).map(|lba| world.submit(write_of(lba, 1, 0x11))).collect();
    world.run_until_idle();
    assert!(writes.iter().all(|write| world.result(*write) == Ok(())));
    let answered = world.now;
    let late: Vec<_> = world.held.drain(..).collect();
    let lba = late[0].lba();

    let over = world.submit(write_of(lba, 1, 0x22));
    world.run(secs(5));
    assert!(!world.is_done(over), "the first target would undo it");
    for sent in &late {
        world.serve(sent);
    }
    assert!(!world.is_done(over), "answers of two targets do not tell how many copies are left");
    world.unmute();
    world.run_until_idle();
    assert_eq!(world.result(over), Ok(()));
    assert!(world.now >= answered + QUARANTINE && world.now < answered + QUARANTINE + ms(10));
}

/// A write of sector 8 that was sent once, before its port got another address, as a bond's does.
fn moved_write(world: &mut World) -> (u64, Sent, MacAddr) {
    world.hold_transfers();
    let write = world.submit(write_of(8, 1, 0x11));
    let mac = MacAddr(2, 0, 0, 0, 0, 0x99);
    world.device.set_port(world.now, PORT, Some(PortInfo { mac, mtu: 1500 }));
    (write, world.held.remove(0), mac)
}

#[test]
fn a_target_that_knows_us_recognises_a_copy_from_another_of_our_addresses() {
    let mut world = World::up(Target::new(ours()));
    let (write, old, mac) = moved_write(&mut world);
    world.run(ms(100));
    let resent = world.held.pop().expect("sent again at once");
    assert_eq!((resent.source, resent.tag), (mac, old.tag));
    world.held.clear();
    world.serve(&resent);
    assert_eq!(world.result(write), Ok(()));
    let over = world.submit(write_of(8, 1, 0x22));
    world.serve_held();
    assert_eq!(world.result(over), Ok(()));
    world.serve(&old);
    assert_eq!(world.targets[0].sector(8), 0x22);
}

#[test]
fn a_write_leaves_by_an_address_the_target_does_not_know_only_when_no_copy_is_left() {
    let mut world = World::up(Target { takes_identities: false, ..Target::new(ours()) });
    let (write, old, mac) = moved_write(&mut world);
    let read = world.submit(read_of(0, 1));
    world.run(secs(1));
    world.held.retain(|sent| sent.lba() == 8);
    assert!(world.held.is_empty(), "the write is held back");
    world.unmute();
    world.run_until_idle();
    assert_eq!((world.result(write), world.result(read)), (Ok(()), Ok(())), "and reads are not");
    let resent = world.transfers().into_iter().rfind(|sent| sent.lba() == 8).unwrap();
    assert_eq!((resent.source, resent.tag), (mac, old.tag));
    assert!(resent.at >= old.at + QUARANTINE && world.now < old.at + QUARANTINE + ms(10));
}

#[test]
fn writes_are_held_at_first_when_another_run_may_have_left_some() {
    let hold = secs(10);
    let start = Instant::ZERO + secs(1000);
    let mut world = World::up_with(DeviceConfig { hold_writes: hold, ..config() }, Target::new(ours()), &[PORT]);
    let write = world.submit(write_of(0, 1, 1));
    let read = world.submit(read_of(0, 1));
    world.run(LATENCY * 2);
    assert!(world.is_done(read) && !world.is_done(write));
    world.run_until_idle();
    assert!(world.now >= start + hold && world.now < start + hold + ms(10));
}

#[test]
fn a_write_given_up_unanswered_leaves_its_sectors_in_quarantine() {
    let mut world =
        World::up_with(DeviceConfig { dead_after: Some(secs(3)), ..config() }, Target::new(ours()), &[PORT]);
    world.mute();
    let lost = world.submit(write_of(8, 1, 0x11));
    world.run_until_idle();
    assert_eq!(world.result(lost), Err(IoError::Dead));
    let last = world.transfers().last().unwrap().at;
    world.unmute();
    world.run(secs(1));
    assert_eq!(world.device.state(), DeviceState::Up);
    let over = world.submit(write_of(8, 1, 0x22));
    world.run_until_idle();
    assert_eq!(world.result(over), Ok(()));
    assert!(world.now >= last + QUARANTINE);
}
