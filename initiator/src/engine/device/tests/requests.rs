//! How requests become commands.

use super::super::*;
use super::world::*;
use aoe_common::ata::{TrimRange, trim_ranges};

/// (command, LBA, count) of all transfers.
fn commands(world: &World) -> Vec<(u8, u64, u8)> {
    world.transfers().iter().map(|sent| (sent.command(), sent.lba(), sent.count())).collect()
}

#[test]
fn a_write_is_cut_at_what_the_path_carries_and_each_part_brings_its_own_data() {
    let mut world = World::up(Target::new(ours()));
    let data: Vec<u8> = (0..5u8).flat_map(|n| [n + 1; SECTOR]).collect();
    let done = world.complete(Operation::Write { lba: 7, data: data.clone(), fua: false });
    assert_eq!((done.result, &done.buffer), (Ok(()), &data));
    let write = command::WRITE_SECTORS_EXT;
    assert_eq!(commands(&world), [(write, 7, 2), (write, 9, 2), (write, 11, 1)]);
    assert_eq!(world.targets[0].disk[7 * SECTOR..12 * SECTOR], data);
    assert_eq!((world.targets[0].sector(6), world.targets[0].sector(12)), (0, 0));
    let stats = world.device.stats();
    assert_eq!((stats.writes, stats.write_bytes), (1, 5 * 512));
}

#[test]
fn a_read_is_whole_even_when_its_answers_come_in_reverse() {
    let mut world = World::up(Target::new(ours()));
    for lba in 0..7 {
        world.targets[0].disk[(20 + lba) * SECTOR..][..SECTOR].fill(lba as u8 + 1);
    }
    world.hold_transfers();
    let read = world.submit(read_of(20, 7));
    let command = command::READ_SECTORS_EXT;
    assert_eq!(commands(&world), [(command, 20, 2), (command, 22, 2), (command, 24, 2), (command, 26, 1)]);
    while let Some(sent) = world.held.pop() {
        assert!(!world.is_done(read));
        world.serve(&sent);
    }
    assert_eq!(world.done[&read].buffer, world.targets[0].disk[20 * SECTOR..27 * SECTOR]);
    assert_eq!((world.device.stats().reads, world.device.stats().read_bytes), (1, 7 * 512));
}

#[test]
fn the_mtu_and_the_target_bound_a_command() {
    for (mtu, offered, sectors) in [(1500, 2, 2), (9000, 16, 16), (9000, 0, 2), (1500, 16, 2), (9000, 255, 17)] {
        let mut world = World::new(config(), Target { sectors: offered, ..Target::new(ours()) });
        world.port(PORT, mtu);
        world.run(secs(1));
        world.sent.clear();
        assert_eq!(world.path(PORT).sectors, sectors);
        assert_eq!(world.complete(read_of(0, 40)).result, Ok(()));
        assert_eq!(world.transfers()[0].count(), sectors);
    }
}

#[test]
fn a_durable_write_uses_the_fua_command() {
    let mut world = World::up(Target::new(ours()));
    world.complete(Operation::Write { lba: 0, data: vec![1; 3 * SECTOR], fua: true }).result.unwrap();
    let fua = command::WRITE_DMA_FUA_EXT;
    assert_eq!(commands(&world), [(fua, 0, 2), (fua, 2, 1)]);
}

#[test]
fn a_durable_write_is_flushed_where_there_is_no_fua() {
    for (identify, write, flush) in [
        (Identify { fua: false, ..ours() }, command::WRITE_SECTORS_EXT, command::FLUSH_CACHE_EXT),
        (lba28(), command::WRITE_SECTORS, command::FLUSH_CACHE),
    ] {
        let mut world = World::up(Target::new(identify));
        let data = vec![1; 2 * SECTOR];
        let done = world.complete(Operation::Write { lba: 3, data: data.clone(), fua: true });
        assert_eq!((done.result, done.buffer), (Ok(()), data));
        assert_eq!(commands(&world), [(write, 3, 2), (flush, 0, 0)]);
        assert!(world.transfers()[1].at > world.transfers()[0].at, "only what is done can be flushed");
        let stats = world.device.stats();
        assert_eq!((stats.writes, stats.write_bytes, stats.flushes), (1, 1024, 1));
    }
}

#[test]
fn a_failed_durable_write_is_not_flushed() {
    let mut world = World::up(Target::new(Identify { fua: false, ..ours() }));
    world.hold_transfers();
    let write = world.submit(Operation::Write { lba: 0, data: vec![1; SECTOR], fua: true });
    let sent = world.held.remove(0);
    let answer = Answer { status: Some(Status::ERR), ata_error: AtaError::ABORT.bits(), ..Answer::default() };
    world.hear(PORT, &answer_frame(&sent, target_mac(PORT), &answer));
    assert_eq!(world.result(write), Err(IoError::Refused));
    assert!(world.held.is_empty());
}

#[test]
fn a_flush_is_the_widest_the_target_has() {
    for (identify, expected) in
        [(ours(), command::FLUSH_CACHE_EXT), (vblade(), command::FLUSH_CACHE), (lba28(), command::FLUSH_CACHE)]
    {
        let mut world = World::up(Target::new(identify));
        assert_eq!(world.complete(Operation::Flush).result, Ok(()));
        assert_eq!(commands(&world), [(expected, 0, 0)]);
        assert_eq!(world.device.stats().flushes, 1);
    }
}

#[test]
fn a_trim_names_its_range_and_is_cut_at_what_one_command_names() {
    let sectors = 10_000_000;
    let mut world = World::up(Target::new(Identify { sectors, trim_sectors_max: 4, ..ours() }));
    assert_eq!(world.complete(Operation::Trim { lba: 5, sectors: 100, fua: false }).result, Ok(()));
    let small = world.transfers().remove(0);
    assert_eq!((small.command(), small.count()), (command::DATA_SET_MANAGEMENT, 1));
    assert_eq!(trim_ranges(small.data()).collect::<Vec<_>>(), [TrimRange { lba: 5, sectors: 100 }]);

    world.sent.clear();
    assert_eq!(world.complete(Operation::Trim { lba: 0, sectors, fua: false }).result, Ok(()));
    let sent = world.transfers();
    assert_eq!(sent.iter().map(Sent::count).collect::<Vec<_>>(), [2, 1], "2 sectors of ranges fill a frame");
    let ranges: Vec<_> = sent.iter().flat_map(|sent| trim_ranges(sent.data()).collect::<Vec<_>>()).collect();
    let mut next = 0;
    for range in ranges {
        assert_eq!(range.lba, next);
        next += u64::from(range.sectors);
    }
    assert_eq!(next, sectors);
    assert_eq!(world.device.stats().trims, 2);
}

#[test]
fn a_trim_that_the_target_cannot_take_completes_at_once() {
    let mut world = World::up(Target::new(vblade()));
    let trim = world.submit(Operation::Trim { lba: 0, sectors: 8, fua: true });
    assert_eq!(world.result(trim), Ok(()));
    assert!(world.sent.is_empty());
}

#[test]
fn a_durable_trim_is_followed_by_a_flush() {
    let mut world = World::up(Target::new(ours()));
    let trim = world.submit(Operation::Trim { lba: 0, sectors: 8, fua: true });
    world.run(LATENCY * 2);
    assert!(!world.is_done(trim));
    world.run_until_idle();
    assert_eq!(world.result(trim), Ok(()));
    assert_eq!(commands(&world), [(command::DATA_SET_MANAGEMENT, 0, 1), (command::FLUSH_CACHE_EXT, 0, 0)]);
    assert_eq!((world.device.stats().trims, world.device.stats().flushes), (1, 1));
}

#[test]
fn zeroing_takes_the_cheapest_way_that_keeps_what_was_asked() {
    let no_zero_trim = Identify { trim_zeroes: false, ..ours() };
    for (identify, unmap, expected) in [
        (ours(), true, command::DATA_SET_MANAGEMENT),
        (ours(), false, command::ZERO_EXT),
        (no_zero_trim, true, command::ZERO_EXT),
        (vblade(), true, command::WRITE_SECTORS_EXT),
        (vblade(), false, command::WRITE_SECTORS_EXT),
        (lba28(), false, command::WRITE_SECTORS),
    ] {
        let mut world = World::up(Target::new(identify));
        world.targets[0].disk.fill(0xff);
        assert_eq!(world.complete(Operation::Zero { lba: 10, sectors: 600, unmap, fua: false }).result, Ok(()));
        let commands = commands(&world);
        assert!(commands.iter().all(|(command, ..)| *command == expected), "{commands:?}");
        if expected == command::ZERO_EXT {
            assert_eq!(
                commands.iter().map(|(_, lba, count)| (*lba, *count)).collect::<Vec<_>>(),
                [(10, 255), (265, 255), (520, 90)]
            );
        }
        let disk = &world.targets[0].disk;
        assert!(disk[10 * SECTOR..610 * SECTOR].iter().all(|byte| *byte == 0));
        assert!(disk[9 * SECTOR] == 0xff && disk[610 * SECTOR] == 0xff);
    }
}

#[test]
fn durable_zeroing_is_durable_in_every_way() {
    for (identify, unmap, last) in [
        (ours(), true, command::FLUSH_CACHE_EXT),
        (ours(), false, command::FLUSH_CACHE_EXT),
        (Identify { exactly_once: false, ..ours() }, false, command::WRITE_DMA_FUA_EXT),
        (vblade(), false, command::FLUSH_CACHE),
    ] {
        let mut world = World::up(Target::new(identify));
        assert_eq!(world.complete(Operation::Zero { lba: 0, sectors: 2, unmap, fua: true }).result, Ok(()));
        assert_eq!(commands(&world).last().unwrap().0, last);
    }
}

#[test]
fn a_28_bit_disk_gets_28_bit_commands() {
    let sectors = 1 << 28;
    let mut world = World::up(Target::new(Identify { sectors: sectors - 1, ..lba28() }));
    assert_eq!(world.complete(write_of(9, 1, 0x77)).result, Ok(()));
    let last = world.submit(read_of(sectors - 2, 1));
    world.run_until_idle();
    assert_eq!(world.result(last), Err(IoError::OutOfRange), "the target's RAM ends earlier");
    assert_eq!(commands(&world), [(command::WRITE_SECTORS, 9, 1), (command::READ_SECTORS, sectors - 2, 1)]);
    assert!(world.transfers().iter().all(|sent| !sent.ata.as_ref().unwrap().0.flags.contains(AtaFlags::EXTENDED)));
    assert_eq!(world.targets[0].sector(9), 0x77);
}

#[test]
fn sectors_beyond_28_bits_of_a_28_bit_disk_are_the_targets_to_refuse() {
    let mut world = World::up(Target::new(Identify { sectors: 1 << 29, ..ours() }));
    world.hold_transfers();
    let read = world.submit(read_of(1 << 28, 1));
    world.held.clear();
    // It comes back as a disk without 48-bit commands.
    world.targets[0].identify = Identify { sectors: (1 << 28) - 1, lba48: false, ..ours() };
    world.unmute();
    world.advertise(PORT);
    world.run(LATENCY * 4);
    assert!(!world.device.disk().unwrap().lba48 && !world.is_done(read));
    world.run_until_idle();
    assert_eq!(world.result(read), Err(IoError::Refused));
}

#[test]
fn what_lies_beyond_the_disk_is_refused_at_once() {
    let mut world = World::up(Target::new(ours()));
    let beyond = [
        world.submit(read_of(DISK - 1, 2)),
        world.submit(write_of(DISK, 1, 1)),
        world.submit(Operation::Trim { lba: DISK - 1, sectors: 2, fua: false }),
        world.submit(Operation::Zero { lba: 0, sectors: DISK + 1, unmap: false, fua: false }),
    ];
    assert!(beyond.iter().all(|id| world.result(*id) == Err(IoError::OutOfRange)));
    assert_eq!(world.done[&beyond[1]].buffer.len(), SECTOR, "the buffer comes back");
    assert!(world.sent.is_empty());
    assert_eq!(world.complete(read_of(DISK - 1, 1)).result, Ok(()));
}

#[test]
#[should_panic(expected = "at most 4096 requests")]
fn more_requests_than_there_is_room_for_are_a_bug_of_the_driver() {
    let mut device = Device::new(Instant::ZERO, config());
    for id in 0..=REQUESTS_MAX as u64 {
        assert_eq!(device.has_room(), id < REQUESTS_MAX as u64);
        device.submit(Instant::ZERO, Request { id, operation: read_of(0, 1) });
    }
}

#[test]
fn all_requests_there_is_room_for_complete() {
    let mut world = World::up(Target::new(ours()));
    for n in 0..REQUESTS_MAX as u64 {
        assert!(world.device.has_room());
        world.submit(if n % 2 == 0 { read_of(n % 64, 1) } else { write_of(n % 64, 1, n as u8) });
    }
    assert!(!world.device.has_room());
    world.run_until_idle();
    assert!(world.done.values().all(|done| done.result.is_ok()) && world.done.len() == REQUESTS_MAX);
}

#[test]
fn after_the_tags_have_come_round_one_in_use_is_passed_over() {
    let mut world = World::up(Target::new(ours()));
    world.hold_transfers();
    let slow = world.submit(read_of(0, 1));
    world.device.tags = Tags::new(world.held[0].tag);
    let quick = world.submit(read_of(1, 1));
    assert_eq!(world.held[1].tag, world.held[0].tag + 1);
    world.serve_held();
    assert_eq!((world.result(slow), world.result(quick)), (Ok(()), Ok(())));
}
