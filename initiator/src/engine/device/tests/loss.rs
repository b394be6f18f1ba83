//! Lost frames, repeated answers, and answers that are not for us or make no sense.

use super::super::*;
use super::world::*;

fn up() -> World {
    World::up(Target::new(ours()))
}

fn tags(world: &World) -> Vec<u32> {
    world.transfers().iter().map(|sent| sent.tag).collect()
}

#[test]
fn a_lost_frame_is_sent_again_as_it_was() {
    let mut world = up();
    world.hold_transfers();
    let write = world.submit(write_of(3, 2, 0x42));
    world.unmute();
    world.run_until_idle();
    assert_eq!(world.result(write), Ok(()));
    let sent = world.transfers();
    assert_eq!((sent.len(), &sent[0].bytes), (2, &sent[1].bytes), "same tag, same path, same data");
    assert_eq!((world.device.stats().resends, world.path(PORT).resends), (1, 1));
    world.held.clear();
}

#[test]
fn the_wait_doubles_with_each_attempt_up_to_its_limit() {
    let mut world = up();
    world.mute();
    world.submit(read_of(0, 1));
    world.run(secs(8));
    let sent = world.transfers();
    let waits: Vec<_> = sent.windows(2).map(|pair| pair[1].at.since(pair[0].at).as_millis()).collect();
    assert_eq!(waits[..4], [250, 500, 1000, 2000], "{waits:?}");
    assert!(tags(&world).iter().all(|tag| *tag == sent[0].tag));
    world.unmute();
    world.run_until_idle();
}

#[test]
fn the_round_trip_time_is_taken_from_frames_sent_once_only() {
    let mut world = up();
    world.hold_transfers();
    world.submit(read_of(0, 1));
    world.run(ms(300));
    assert_eq!(world.held.len(), 2, "sent again after 250 ms");
    world.serve_held();
    assert_eq!(world.path(PORT).rtt, None, "it may be the answer to either");
    world.submit(read_of(0, 1));
    world.run(ms(20));
    world.serve_held();
    assert_eq!(world.path(PORT).rtt, Some(ms(20)));
}

#[test]
fn commands_that_take_a_disk_long_are_waited_for_and_not_measured() {
    let mut world = up();
    world.hold_transfers();
    let flush = world.submit(Operation::Flush);
    world.run(ms(1900));
    assert_eq!(world.held.len(), 1);
    world.serve_held();
    assert_eq!((world.result(flush), world.path(PORT).rtt), (Ok(()), None));
}

#[test]
fn a_repeated_answer_changes_nothing() {
    let mut world = up();
    world.hold_transfers();
    let read = world.submit(read_of(0, 1));
    let sent = world.held.remove(0);
    world.serve(&sent);
    world.targets[0].disk.fill(0x99);
    let strays = world.device.stats().strays;
    world.serve(&sent);
    assert_eq!(world.device.stats().strays, strays + 1);
    assert_eq!(world.done[&read].buffer, [0; SECTOR]);
}

/// Every way an answer can be for somebody else.
#[test]
fn answers_that_are_not_for_this_request_are_ignored() {
    let mut world = up();
    world.hold_transfers();
    let read = world.submit(read_of(0, 1));
    let sent = world.held.remove(0);
    let right = answer_frame(&sent, target_mac(PORT), &Answer { data: vec![0x66; SECTOR], ..Answer::default() });
    let with = |at: usize, byte: u8| {
        let mut frame = right.clone();
        frame[at] = byte;
        frame
    };
    let vlan = |tci: [u8; 2]| [&right[..12], &[0x81, 0x00], &tci, &right[12..]].concat();
    let wrong = [
        ("another receiver", with(5, 0x77)),
        ("a group as its sender", with(6, 3)),
        ("an unknown sender", with(11, 0x77)),
        ("another protocol", with(13, 0xa3)),
        ("a request", with(14, 0x10)),
        ("another shelf", with(17, 8)),
        ("another slot", with(18, 4)),
        ("a mask list", with(19, 2)),
        ("an unknown tag", with(22, 0x55)),
        ("a foreign VLAN", vlan([0, 5])),
        ("cut in the registers", right[..35].to_vec()),
    ];
    for (what, frame) in wrong {
        world.hear(PORT, &frame);
        assert!(!world.is_done(read), "{what}");
    }
    world.hear(OTHER_PORT, &right);
    assert!(!world.is_done(read), "a port that is not there");
    // Priority alone is no foreign VLAN.
    world.hear(PORT, &vlan([0xe0, 0]));
    assert_eq!((world.result(read), world.done[&read].buffer[0]), (Ok(()), 0x66));
}

#[test]
fn an_answer_over_a_path_it_was_not_sent_on_is_ignored() {
    let mut world = World::up_with(config(), Target::new(ours()), &[PORT, OTHER_PORT]);
    world.hold_transfers();
    let read = world.submit(read_of(0, 1));
    let sent = world.held.remove(0);
    let other = if sent.port == PORT { OTHER_PORT } else { PORT };
    let mut elsewhere = sent.clone();
    (elsewhere.port, elsewhere.source, elsewhere.destination) = (other, our_mac(other), target_mac(other));
    world.serve(&elsewhere);
    assert!(!world.is_done(read));
    world.serve(&sent);
    assert_eq!(world.result(read), Ok(()));
}

#[test]
fn a_late_answer_to_a_frame_counted_as_lost_is_taken() {
    let mut world = up();
    world.hold_transfers();
    let reads: Vec<_> = (0..12).map(|n| world.submit(read_of(n, 1))).collect();
    let first: Vec<_> = world.held.drain(..).collect();
    world.run(ms(260));
    // The window is halved: some wait to be sent again and are answered before that.
    assert!(world.held.len() < first.len());
    for sent in &first {
        world.serve(sent);
    }
    world.held.clear();
    world.unmute();
    world.run_until_idle();
    assert!(reads.iter().all(|read| world.result(*read) == Ok(())));
}

#[test]
fn three_answers_with_too_little_data_fail_a_read() {
    let mut world = up();
    world.hold_transfers();
    let read = world.submit(read_of(0, 2));
    for _ in 0..2 {
        let sent = world.held.pop().expect("asked again");
        let short = Answer { data: vec![1; 2 * SECTOR - 1], ..Answer::default() };
        world.hear(PORT, &answer_frame(&sent, target_mac(PORT), &short));
        assert!(!world.is_done(read));
        world.run(secs(2));
    }
    let sent = world.held.pop().expect("asked again");
    world.hear(PORT, &answer_frame(&sent, target_mac(PORT), &Answer::default()));
    assert_eq!(world.result(read), Err(IoError::BadAnswer));
    assert!(world.events.contains(&Event::BadAnswers));
    assert_eq!((world.device.stats().bad_answers, world.device.stats().errors), (3, 1));
}

#[test]
fn every_refusal_has_its_name() {
    let aoe = |error| Answer { error: Some(error), ..Answer::default() };
    let ata = |status, error: AtaError| Answer {
        status: Some(Status::DRDY | status),
        ata_error: error.bits(),
        ..Answer::default()
    };
    for (answer, expected) in [
        (aoe(ErrorCode::UnknownCommand), IoError::Protocol(ErrorCode::UnknownCommand)),
        (aoe(ErrorCode::BadArgument), IoError::Protocol(ErrorCode::BadArgument)),
        (aoe(ErrorCode::DeviceUnavailable), IoError::Protocol(ErrorCode::DeviceUnavailable)),
        (aoe(ErrorCode::Reserved), IoError::Reserved),
        (ata(Status::ERR, AtaError::ABORT), IoError::Refused),
        (ata(Status::ERR, AtaError::ID_NOT_FOUND), IoError::OutOfRange),
        (ata(Status::ERR, AtaError::UNCORRECTABLE), IoError::Unreadable),
        (ata(Status::ERR, AtaError::empty()), IoError::DeviceFault),
        (ata(Status::DF, AtaError::ABORT), IoError::DeviceFault),
    ] {
        for operation in [read_of(0, 1), write_of(0, 1, 1), Operation::Flush] {
            let mut world = up();
            world.hold_transfers();
            let id = world.submit(operation);
            let sent = world.held.remove(0);
            world.hear(PORT, &answer_frame(&sent, target_mac(PORT), &answer));
            assert_eq!(world.result(id), Err(expected));
        }
    }
}

#[test]
fn a_failed_part_fails_the_request_once_its_other_parts_are_over() {
    let mut world = up();
    world.hold_transfers();
    let write = world.submit(write_of(0, 40, 1));
    let behind = world.submit(write_of(0, 1, 2));
    assert_eq!(world.held.len(), 8);
    let second = world.held.remove(1);
    let failure = Answer { status: Some(Status::ERR), ata_error: AtaError::ABORT.bits(), ..Answer::default() };
    world.hear(PORT, &answer_frame(&second, target_mac(PORT), &failure));
    assert_eq!(world.held.len(), 7, "no more parts are begun");
    for left in (0..7).rev() {
        assert!(!world.is_done(write), "{left} parts may still write");
        let sent = world.held.remove(0);
        world.serve(&sent);
    }
    assert_eq!(world.result(write), Err(IoError::Refused));
    world.serve_held();
    assert_eq!(world.result(behind), Ok(()));
}

#[test]
fn a_failed_request_ends_even_if_its_last_part_would_have_to_be_cut_again() {
    let mut world = World::new(config(), Target { sectors: 16, ..Target::new(ours()) });
    world.port(PORT, 9000);
    world.run(secs(1));
    world.hold_transfers();
    let write = world.submit(write_of(0, 32, 1));
    let [_, refused] = world.held.drain(..).collect::<Vec<_>>().try_into().unwrap();
    let failure = Answer { status: Some(Status::ERR), ata_error: AtaError::ABORT.bits(), ..Answer::default() };
    world.hear(PORT, &answer_frame(&refused, target_mac(PORT), &failure));
    assert!(!world.is_done(write));
    world.targets[0].sectors = 2;
    world.advertise(PORT);
    world.run(QUARANTINE);
    assert_eq!(world.result(write), Err(IoError::Refused));
}

#[test]
fn a_target_that_starts_anew_is_sent_everything_again_at_once() {
    let mut world = up();
    world.mute();
    let reads: Vec<_> = (0..4).map(|n| world.submit(read_of(n, 1))).collect();
    world.run(secs(5));
    world.unmute();
    world.sent.clear();
    world.advertise(PORT);
    let window = world.path(PORT).window as usize;
    assert_eq!(world.transfers().len(), window.min(4));
    world.run(LATENCY * 4);
    assert!(reads.iter().all(|read| world.result(*read) == Ok(())));
}
