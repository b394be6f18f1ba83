//! When writes are durable, how flushes share syncs, and what a failed sync means.

use super::*;

fn cached(cache: CacheMode) -> Bench {
    Bench::with(SETTINGS, [ExportConfig { cache, ..export(2) }])
}

/// Whether a write of the station, under a tag not used before, must be durable.
fn durable(bench: &mut Bench, station: MacAddr, tag: u32) -> bool {
    assert_eq!(bench.answer(&write(station, tag, 0, 1)).outcome(), OK);
    match bench.asked.last() {
        Some(DiskOperationKind::Write { durable, .. }) => *durable,
        other => panic!("not a write: {other:?}"),
    }
}

#[test]
fn in_auto_mode_each_station_earns_writeback_by_a_flush() {
    let mut bench = cached(CacheMode::Auto);
    assert!(durable(&mut bench, A, 1) && durable(&mut bench, B, 1));
    bench.answer(&flush(A, 2));
    assert!(!durable(&mut bench, A, 3) && durable(&mut bench, B, 3));
}

#[test]
fn in_auto_mode_zero_and_trim_are_durable_too() {
    let mut bench = cached(CacheMode::Auto);
    bench.answer(&command48(A, 1, command::ZERO_EXT, 0, 1));
    bench.answer(&trim(A, 2, &[(0, 1)]));
    assert!(bench.asked.iter().all(|kind| matches!(kind, DiskOperationKind::Zero { durable: true, .. })));
}

#[test]
fn the_other_modes_do_not_depend_on_the_station() {
    for (cache, expected) in [(CacheMode::Writeback, false), (CacheMode::Writethrough, true)] {
        let mut bench = cached(cache);
        assert_eq!(durable(&mut bench, A, 1), expected);
        bench.answer(&flush(A, 2));
        assert_eq!(durable(&mut bench, A, 3), expected);
    }
}

#[test]
fn a_fua_write_is_durable_in_any_mode() {
    let mut bench = cached(CacheMode::Writeback);
    bench.answer(&write_as(command::WRITE_DMA_FUA_EXT, A, 1, 3, &[1; SECTOR]));
    assert_eq!(bench.asked, [DiskOperationKind::Write { offset: 1536, len: 512, durable: true }]);
}

#[test]
fn set_features_turns_the_cache_off_after_a_sync_and_on_again() {
    let mut bench = cached(CacheMode::Writeback);
    let cache_on = |bench: &mut Bench| Identify::parse(bench.answer(&identify(A, 90)).data()).unwrap().write_cache;
    assert!(cache_on(&mut bench));
    bench.receive(&set_features(A, 1, feature::DISABLE_WRITE_CACHE));
    assert_eq!((bench.held[0].kind, bench.take()), (DiskOperationKind::Flush, vec![]));
    bench.end(0, Ok(()));
    assert_eq!(bench.one().outcome(), OK);
    assert!(!cache_on(&mut bench) && durable(&mut bench, B, 2));
    assert_eq!(bench.answer(&set_features(A, 3, feature::ENABLE_WRITE_CACHE)).outcome(), OK);
    assert!(cache_on(&mut bench) && !durable(&mut bench, B, 4));
}

#[test]
fn set_features_does_not_overrule_writethrough() {
    let mut bench = cached(CacheMode::Writethrough);
    assert_eq!(bench.answer(&set_features(A, 1, feature::ENABLE_WRITE_CACHE)).outcome(), ABORTED);
    assert!(durable(&mut bench, A, 2));
}

#[test]
fn a_cache_that_cannot_be_synced_stays_on() {
    let mut bench = cached(CacheMode::Writeback);
    bench.receive(&set_features(A, 1, feature::DISABLE_WRITE_CACHE));
    bench.end(0, Err(DiskError::Io(5)));
    assert_eq!(bench.one().outcome(), FAULT);
    assert!(bench.export().durability.cache_is_on());
}

// ---- Flushes -------------------------------------------------------------------------------------------------------

#[test]
fn flushes_that_arrive_during_a_sync_share_the_next_one() {
    let mut bench = Bench::new();
    bench.receive(&flush(A, 1));
    bench.receive(&flush(A, 2));
    bench.receive(&flush(B, 3));
    assert_eq!((bench.held.len(), bench.asked.len()), (1, 1));
    bench.end(0, Ok(()));
    assert_eq!(bench.one().header().tag, 1, "the running sync may have begun before the writes the others cover");
    assert_eq!((bench.held.len(), bench.asked.len()), (1, 2));
    bench.end(0, Ok(()));
    let tags: Vec<_> = bench.take().iter().map(|answer| (answer.to(), answer.header().tag)).collect();
    assert_eq!((tags, bench.asked.len(), bench.export().counters.flushes), (vec![(A, 2), (B, 3)], 2, 3));
}

#[test]
fn a_repeated_flush_is_answered_once() {
    let mut bench = Bench::new();
    for tag in [1, 1, 2, 2, 1] {
        bench.receive(&flush(A, tag));
    }
    bench.receive(&flush(B, 1));
    bench.run();
    assert_eq!((bench.take().len(), bench.asked.len(), bench.export().counters.repeats), (3, 2, 3));
}

#[test]
fn a_flush_does_not_wait_for_reads_and_writes() {
    let mut bench = Bench::new();
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&flush(A, 2));
    assert_eq!(bench.held.len(), 2, "it covers what was answered before it");
    bench.run();
    bench.take();
}

// ---- Failures ------------------------------------------------------------------------------------------------------

fn assert_poisoned(bench: &mut Bench, error: DiskError) {
    assert_eq!(bench.events(), [Event::Poisoned { address: Address::new(1, 2), error }]);
    let asked = bench.asked.len();
    let refused = [write(A, 51, 0, 1), flush(A, 52), trim(A, 53, &[(0, 1)]), command48(B, 54, command::ZERO_EXT, 0, 1)];
    for frame in refused {
        assert_eq!(bench.answer(&frame).outcome(), FAULT);
    }
    assert_eq!(bench.answer(&set_features(B, 55, feature::DISABLE_WRITE_CACHE)).outcome(), FAULT);
    assert_eq!(bench.asked.len(), asked, "nothing of that reached the disk");
    assert_eq!(bench.answer(&read(A, 56, 3, 1)).data(), [content(3); SECTOR], "reads go on");
}

#[test]
fn a_failed_sync_poisons() {
    for error in [DiskError::Io(5), DiskError::NoSpace] {
        let mut bench = Bench::new();
        bench.receive(&flush(A, 1));
        bench.end(0, Err(error));
        assert_eq!(bench.one().outcome(), FAULT);
        assert_poisoned(&mut bench, error);
    }
}

#[test]
fn flushes_behind_a_failed_sync_fail_though_theirs_succeeds() {
    let mut bench = Bench::new();
    bench.receive(&flush(A, 1));
    bench.receive(&flush(B, 2));
    bench.end(0, Err(DiskError::Io(5)));
    bench.run();
    let outcomes: Vec<_> = bench.take().iter().map(Sent::outcome).collect();
    assert_eq!(outcomes, [FAULT, FAULT]);
    assert_poisoned(&mut bench, DiskError::Io(5));
}

#[test]
fn a_flush_that_runs_while_a_durable_write_poisons_fails() {
    let mut bench = cached(CacheMode::Writethrough);
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&flush(B, 2));
    bench.end(0, Err(DiskError::Io(5)));
    bench.end(0, Ok(()));
    let outcomes: Vec<_> = bench.take().iter().map(Sent::outcome).collect();
    assert_eq!(outcomes, [FAULT, FAULT]);
}

#[test]
fn a_durable_write_that_fails_in_the_device_poisons() {
    for frame in [write(A, 1, 0, 1), trim(A, 1, &[(0, 1)]), command48(A, 1, command::ZERO_EXT, 0, 1)] {
        let mut bench = cached(CacheMode::Writethrough);
        bench.receive(&frame);
        bench.end(0, Err(DiskError::Io(5)));
        assert_eq!(bench.one().outcome(), FAULT);
        assert_poisoned(&mut bench, DiskError::Io(5));
    }
}

#[test]
fn a_full_or_read_only_disk_or_a_cached_write_does_not_poison() {
    for (cache, error, outcome) in [
        (CacheMode::Writethrough, DiskError::NoSpace, FAULT),
        (CacheMode::Writethrough, DiskError::ReadOnly, ABORTED),
        (CacheMode::Writeback, DiskError::Io(5), FAULT),
    ] {
        let mut bench = cached(cache);
        bench.receive(&write(A, 1, 0, 0x11));
        bench.end(0, Err(error));
        assert_eq!(bench.one().outcome(), outcome);
        assert_eq!(bench.events(), [Event::DiskFailed { address: Address::new(1, 2), error }]);
        assert_eq!(bench.answer(&write(A, 2, 0, 0x22)).outcome(), OK);
        assert_eq!(bench.answer(&flush(A, 3)).outcome(), OK);
    }
}
