//! How a device is looked for and taken into use.

use super::super::*;
use super::world::*;
use aoe_common::wire::BROADCAST;

#[test]
fn asks_everybody_as_soon_as_a_port_is_there() {
    let mut world = World::new(config(), Target::new(ours()));
    world.port(PORT, 1500);
    let first = &world.sent[0];
    assert_eq!((first.at, first.port, first.destination, first.ata.is_none()), (world.now, PORT, BROADCAST, true));
}

#[test]
fn goes_on_asking_while_nobody_answers_and_calms_down_once_it_works() {
    let mut world = World::new(config(), Target::new(ours()));
    world.mute();
    world.port(PORT, 1500);
    world.run(secs(10));
    let asked = world.sent.len();
    assert!((20..=23).contains(&asked), "every 500 ms, not {asked} times in 10 s");
    world.unmute();
    world.run(secs(2));
    assert_eq!(world.device.state(), DeviceState::Up);
    world.sent.clear();
    world.run(secs(300));
    let asked = world.sent.iter().filter(|sent| sent.ata.is_none()).count();
    assert!((9..=11).contains(&asked), "every 30 s, not {asked} times in 300 s");
}

#[test]
fn identifies_the_disk_and_settles_before_it_is_up() {
    let mut world = World::new(config(), Target::new(ours()));
    world.port(PORT, 1500);
    world.run(LATENCY * 6);
    assert_eq!(world.device.disk(), Some(&ours()));
    assert_eq!(world.device.state(), DeviceState::Searching);
    assert_eq!(world.events, [Event::PathUp { mac: target_mac(PORT), port: PORT }]);
    world.run(SETTLE - LATENCY);
    assert_eq!(world.device.state(), DeviceState::Searching);
    world.run(LATENCY);
    assert_eq!(world.device.state(), DeviceState::Up);
    assert_eq!(world.events.last(), Some(&Event::Up));
    assert_eq!(world.device.disk().unwrap().sectors, DISK);
}

#[test]
fn takes_an_advert_of_version_0() {
    let mut world = World::new(config(), Target::new(vblade()));
    // The queries are lost; only the target's start-up advert tells of it.
    world.fate = Box::new(|sent| if sent.ata.is_none() { Fate::Lost } else { Fate::Arrive });
    world.port(PORT, 1500);
    let advert = world.targets[0].advert(target_mac(PORT), BROADCAST, 0, 0);
    world.hear(PORT, &advert);
    world.run(secs(1));
    assert_eq!(world.device.state(), DeviceState::Up);
}

#[test]
fn a_target_that_runs_requests_once_is_told_who_we_are_before_it_is_used() {
    let mut world = World::new(config(), Target::new(ours()));
    let read = world.submit(read_of(0, 1));
    world.port(PORT, 1500);
    world.run_until_idle();
    assert_eq!(world.result(read), Ok(()));
    let commands: Vec<_> = world.sent.iter().filter(|sent| sent.ata.is_some()).map(Sent::command).collect();
    assert_eq!(commands[..2], [command::IDENTIFY_DEVICE, command::WRITE_LOG_EXT]);
    assert_eq!(world.targets[0].identities[&our_mac(PORT)], config().identity);

    // It starts anew and has forgotten.
    world.targets[0].identities.clear();
    world.advertise(PORT);
    world.run(LATENCY * 4);
    assert_eq!(world.targets[0].identities[&our_mac(PORT)], config().identity);
}

#[test]
fn a_target_that_refuses_to_say_what_its_disk_is_is_not_used() {
    let mut world = World::new(config(), Target::new(vblade()));
    world.fate = Box::new(|sent| if sent.ata.is_some() { Fate::Held } else { Fate::Arrive });
    world.port(PORT, 1500);
    world.run(LATENCY * 4);
    let asked = world.held.remove(0);
    assert_eq!(asked.command(), command::IDENTIFY_DEVICE);
    let data = vblade().emit().to_vec();
    let refusal = Answer { error: Some(ErrorCode::DeviceUnavailable), data, ..Answer::default() };
    world.hear(PORT, &answer_frame(&asked, target_mac(PORT), &refusal));
    assert_eq!((world.device.disk(), world.device.stats().bad_answers), (None, 1));
}

#[test]
fn a_target_that_does_not_want_to_know_us_is_used_all_the_same() {
    for target in [Target { takes_identities: false, ..Target::new(ours()) }, Target::new(vblade())] {
        let mut world = World::up(target);
        assert!(world.targets[0].identities.is_empty());
        assert_eq!(world.complete(write_of(0, 8, 1)).result, Ok(()));
    }
}

#[test]
fn only_a_target_that_can_flush_is_greeted_with_a_flush() {
    for (identify, greeted) in [(ours(), 1), (vblade(), 0), (lba28(), 0)] {
        let mut world = World::new(config(), Target::new(identify));
        world.port(PORT, 1500);
        world.run(secs(1));
        let transfers = world.transfers();
        assert_eq!(transfers.len(), greeted);
        assert!(transfers.iter().all(|sent| sent.command() == command::FLUSH_CACHE_EXT));
    }
}

#[test]
fn a_path_that_does_not_identify_itself_fails_and_is_tried_again_when_it_answers() {
    let mut world = World::new(config(), Target::new(ours()));
    world.fate = Box::new(|sent| if sent.ata.is_some() { Fate::Lost } else { Fate::Arrive });
    world.port(PORT, 1500);
    world.advertise(PORT);
    assert_eq!(world.sent.iter().filter(|sent| sent.ata.is_some()).count(), 1);
    world.run(secs(20));
    assert_eq!(world.device.state(), DeviceState::Searching);
    let asked = world.sent.iter().filter(|sent| sent.ata.is_some()).count();
    assert!((6..40).contains(&asked), "{asked} IDENTIFY requests in 20 s");
    world.unmute();
    world.run(secs(5));
    assert_eq!(world.device.state(), DeviceState::Up);
}

#[test]
fn unusable_identify_data_does_not_make_a_disk() {
    let mut world = World::new(config(), Target::new(Identify { sectors: 0, ..ours() }));
    world.port(PORT, 1500);
    world.run(secs(5));
    assert_eq!((world.device.state(), world.device.disk()), (DeviceState::Searching, None));
    assert!(world.device.stats().bad_answers > 0);
    world.targets[0].identify = ours();
    world.run(secs(5));
    assert_eq!(world.device.state(), DeviceState::Up);
}

#[test]
fn requests_given_before_the_device_is_found_are_done_then() {
    let mut world = World::new(config(), Target::new(ours()));
    let write = world.submit(write_of(5, 3, 0x11));
    let read = world.submit(read_of(100, 1));
    let beyond = world.submit(read_of(1 << 40, 1));
    world.run(secs(60));
    assert!(world.done.is_empty(), "waiting for a port is not waiting for a silent target");
    world.port(PORT, 1500);
    world.run_until_idle();
    assert_eq!((world.result(write), world.result(read)), (Ok(()), Ok(())));
    assert_eq!(world.result(beyond), Err(IoError::OutOfRange));
}

#[test]
fn a_trim_given_before_the_device_is_found_ends_even_if_the_target_has_none() {
    let mut world = World::new(config(), Target::new(vblade()));
    let trim = world.submit(Operation::Trim { lba: 0, sectors: 8, fua: false });
    world.port(PORT, 1500);
    world.run_until_idle();
    assert_eq!(world.result(trim), Err(IoError::Refused));
    let sent: Vec<_> = world.transfers().iter().map(|sent| (sent.command(), sent.count())).collect();
    assert_eq!(sent, [(command::DATA_SET_MANAGEMENT, 1)], "no part of it is empty");
}

#[test]
fn a_device_that_falls_silent_while_it_settles_is_not_dead_before_its_time() {
    let mut world = World::new(DeviceConfig { dead_after: Some(secs(10)), ..config() }, Target::new(ours()));
    let read = world.submit(read_of(0, 32));
    world.run(secs(60));
    // It shows itself and answers nothing else for a while.
    let quiet = world.now + secs(5);
    world.port(PORT, 1500);
    world.fate = Box::new(move |sent| if !sent.is_transfer() || sent.at > quiet { Fate::Arrive } else { Fate::Lost });
    world.run_until_idle();
    assert_eq!(world.result(read), Ok(()));
}
