//! Hosts of targets that lose what was answered and not flushed.

use super::super::*;
use super::world::*;
use aoe_common::ata::{CacheMemory, command};
use aoe_common::wire::{BROADCAST, MacAddr};

fn up(identify: Identify) -> World {
    World::up(Target::new(Identify { cache_memory: memory(1), ..identify }))
}

/// Of the one host, in this life.
fn memory(life: u32) -> Option<CacheMemory> {
    Some(CacheMemory { host: 1, life })
}

/// Power fails and comes back.
fn restart_host(world: &mut World) {
    let life = world.targets[0].identify.cache_memory.map_or(0, |memory| memory.life);
    world.targets[0].identify.cache_memory = memory(life + 1);
}

fn flush(world: &mut World) -> Result<(), IoError> {
    world.complete(Operation::Flush).result
}

#[test]
fn no_flush_succeeds_once_unflushed_writes_are_lost() {
    for told_by_identify in [false, true] {
        let mut world = up(ours());
        let no_command = Operation::Zero { lba: 9, sectors: 1, unmap: false, fua: false };
        for operation in [write_of(8, 1, 0x11), no_command, Operation::Trim { lba: 0, sectors: 1, fua: false }] {
            assert_eq!(flush(&mut world), Ok(()));
            assert_eq!(world.complete(operation).result, Ok(()));
        }
        restart_host(&mut world);
        if told_by_identify {
            world.advertise(PORT);
            world.run(LATENCY * 4);
            assert_eq!(world.events, [Event::CacheLost]);
        }
        for life in 0..3 {
            assert_eq!(flush(&mut world), Err(IoError::CacheLost), "in life {life}");
            assert_eq!(world.complete(write_of(8, 1, 0x22)).result, Ok(()));
            assert_eq!(world.complete(read_of(8, 1)).buffer[0], 0x22);
            restart_host(&mut world);
        }
        assert_eq!(world.events, [Event::CacheLost], "told once");
    }
}

#[test]
fn each_kind_of_write_may_be_lost() {
    for operation in [
        write_of(8, 1, 0x11),
        Operation::Zero { lba: 9, sectors: 1, unmap: false, fua: false },
        Operation::Trim { lba: 0, sectors: 1, fua: false },
    ] {
        let mut world = up(ours());
        world.complete(operation).result.unwrap();
        restart_host(&mut world);
        assert_eq!(flush(&mut world), Err(IoError::CacheLost));
    }
}

#[test]
fn what_was_flushed_or_written_durably_is_not_lost() {
    let durable = Operation::Write { lba: 3, data: vec![1; SECTOR], fua: true };
    let mut world = up(ours());
    world.complete(write_of(8, 1, 0x11)).result.unwrap();
    assert_eq!(flush(&mut world), Ok(()));
    world.complete(durable).result.unwrap();
    restart_host(&mut world);
    assert_eq!(flush(&mut world), Ok(()));
    world.advertise(PORT);
    world.run(LATENCY * 4);
    assert_eq!((flush(&mut world), &world.events[..]), (Ok(()), &[][..]));
}

#[test]
fn a_flush_does_not_speak_for_writes_that_are_answered_while_it_runs() {
    let mut world = up(ours());
    world.hold_transfers();
    let running = world.submit(Operation::Flush);
    let asked = world.held.remove(0);
    world.unmute();
    world.complete(write_of(8, 1, 0x11)).result.unwrap();
    world.serve(&asked);
    assert_eq!(world.result(running), Ok(()));
    restart_host(&mut world);
    assert_eq!(flush(&mut world), Err(IoError::CacheLost));
}

#[test]
fn a_disk_that_writes_through_has_nothing_to_lose() {
    let mut world = up(Identify { write_cache: false, ..ours() });
    world.complete(write_of(8, 1, 0x11)).result.unwrap();
    restart_host(&mut world);
    assert_eq!((flush(&mut world), &world.events[..]), (Ok(()), &[][..]));
}

#[test]
fn the_flush_behind_a_write_that_has_to_be_durable_fails_too() {
    let mut world = up(Identify { fua: false, ..ours() });
    world.complete(write_of(8, 1, 0x11)).result.unwrap();
    restart_host(&mut world);
    let durable = Operation::Write { lba: 3, data: vec![1; SECTOR], fua: true };
    assert_eq!(world.complete(durable).result, Err(IoError::CacheLost));
}

/// The registers of such answers mean nothing.
#[test]
fn a_target_that_names_no_memory_loses_none() {
    for identify in [Identify { flush_ext: false, ..ours() }, Identify { cache_memory: None, ..ours() }] {
        let mut world = World::up(Target::new(identify));
        world.complete(write_of(8, 1, 0x11)).result.unwrap();
        assert_eq!((flush(&mut world), &world.events[..]), (Ok(()), &[][..]));
    }
}

const TWIN: MacAddr = MacAddr(2, 0, 0, 0, 9, 9);

/// Two hosts share a disk. One has lost power with writes that were not flushed, and is back.
fn one_of_two_is_back() -> World {
    let mut world = up(ours());
    let identify = Identify { cache_memory: Some(CacheMemory { host: 2, life: 1 }), ..ours() };
    world.targets.push(Target { ports: vec![(PORT, TWIN)], ..Target::new(identify) });
    let advert = world.targets[1].advert(TWIN, BROADCAST, 1, 0);
    world.hear(PORT, &advert);
    world.run(secs(1));
    assert!(world.device.paths().all(|path| path.state == PathState::Live));
    world.complete(Operation::Write { lba: 0, data: vec![1; 64 * SECTOR], fua: false }).result.unwrap();
    restart_host(&mut world);
    world.advertise(PORT);
    world.run(LATENCY * 4);
    world.targets.iter_mut().for_each(|target| target.ran.clear());
    world.events.clear();
    world
}

fn flushes(world: &World) -> [usize; 2] {
    [0, 1].map(|target| {
        let ran = &world.targets[target as usize].ran;
        ran.iter().filter(|ran| ran.command == command::FLUSH_CACHE_EXT).count()
    })
}

#[test]
fn of_two_hosts_that_share_a_disk_the_one_that_lived_on_flushes() {
    let mut world = one_of_two_is_back();
    assert_eq!(flush(&mut world), Ok(()));
    assert_eq!(flushes(&world), [0, 1]);
    for _ in 0..2 {
        assert_eq!(flush(&mut world), Ok(()));
    }
    assert_eq!(flushes(&world), [1, 2], "then there is nothing that only one of them could know");
    assert_eq!(world.events, []);
}

#[test]
fn a_flush_that_was_on_its_way_to_a_host_without_power_is_asked_of_the_other() {
    let mut world = one_of_two_is_back();
    assert_eq!(flush(&mut world), Ok(()));
    world.complete(Operation::Write { lba: 0, data: vec![1; 64 * SECTOR], fua: false }).result.unwrap();
    restart_host(&mut world);
    for _ in 0..2 {
        assert_eq!(flush(&mut world), Ok(()));
    }
    assert_eq!(world.events, []);
    let [first, other] = flushes(&world);
    assert!(first >= 1 && other >= 2, "{first} and {other}");
}

#[test]
fn a_host_that_is_back_alone_cannot_flush_what_it_may_not_have() {
    let mut world = one_of_two_is_back();
    world.fate = Box::new(|sent| if sent.destination == TWIN { Fate::Lost } else { Fate::Arrive });
    let flush = world.submit(Operation::Flush);
    world.run_until_idle();
    assert_eq!(world.result(flush), Err(IoError::CacheLost));
    assert!(world.events.contains(&Event::CacheLost));
}

#[test]
fn when_both_hosts_that_share_a_disk_lost_power_its_writes_are_lost() {
    let mut world = one_of_two_is_back();
    world.targets[1].identify.cache_memory = Some(CacheMemory { host: 2, life: 2 });
    assert_eq!(flush(&mut world), Err(IoError::CacheLost));
    assert_eq!(world.events, [Event::CacheLost]);
}
