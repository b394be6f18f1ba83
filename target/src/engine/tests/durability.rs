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

/// A host may have used `aoe-attach` before, or use it beside aoe.ko, whose fsync is all that it will ever ask.
#[test]
fn in_auto_mode_a_program_s_flush_is_not_its_kernel_s() {
    let mut bench = cached(CacheMode::Auto);
    bench.answer(&flush(A, 1 << 31 | 1));
    assert!(!durable(&mut bench, A, 1 << 31 | 2) && durable(&mut bench, A, 3));
    bench.answer(&flush(A, 4));
    assert!(!durable(&mut bench, A, 5));
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
fn once_the_cache_is_off_nothing_is_answered_from_it() {
    let mut bench = cached(CacheMode::Writeback);
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&command48(A, 2, command::ZERO_EXT, 8, 1));
    bench.receive(&set_features(A, 3, feature::DISABLE_WRITE_CACHE));
    bench.receive(&flush(B, 4));
    bench.receive(&write(B, 5, 16, 0x22));
    let durable = DiskOperationKind::Write { offset: 8192, len: 512, durable: true };
    assert_eq!((bench.held.len(), bench.held[2].kind), (3, durable), "the sync waits for what goes to the cache");
    bench.end(0, Ok(()));
    assert_eq!((bench.one().header().tag, bench.held.len()), (1, 2));
    bench.end(0, Ok(()));
    assert_eq!((bench.one().header().tag, bench.held[1].kind), (2, DiskOperationKind::Flush));
    bench.end(1, Ok(()));
    let tags: Vec<_> = bench.take().iter().map(|answer| (answer.header().tag, answer.outcome())).collect();
    assert_eq!(tags, [(3, OK), (4, OK)]);
    bench.run();
    bench.take();
}

#[test]
fn a_cache_turned_on_again_holds_up_no_flush() {
    let mut bench = cached(CacheMode::Writeback);
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&set_features(A, 2, feature::DISABLE_WRITE_CACHE));
    bench.receive(&set_features(B, 3, feature::ENABLE_WRITE_CACHE));
    bench.receive(&flush(B, 4));
    assert_eq!(bench.held.last().map(|held| held.kind), Some(DiskOperationKind::Flush));
    bench.run();
    bench.take();
}

#[test]
fn a_cache_write_that_is_given_up_holds_up_no_flush() {
    let mut bench = cached(CacheMode::Writeback);
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&write(B, 2, 0, 0x22));
    bench.receive(&set_features(A, 3, feature::DISABLE_WRITE_CACHE));
    bench.receive(&admit(A, 4, &[A]));
    bench.end(0, Ok(()));
    assert_eq!(bench.held.last().map(|held| held.kind), Some(DiskOperationKind::Flush));
    bench.run();
    bench.take();
}

#[test]
fn a_cache_that_cannot_be_synced_poisons() {
    let mut bench = cached(CacheMode::Writeback);
    bench.receive(&set_features(A, 1, feature::DISABLE_WRITE_CACHE));
    bench.end(0, Err(DiskError::Lost(5)));
    assert_eq!(bench.one().outcome(), FAULT);
    assert_poisoned(&mut bench, 5);
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

fn assert_poisoned(bench: &mut Bench, errno: i32) {
    assert_eq!(bench.events(), [Event::Poisoned { address: Address::new(1, 2), errno }]);
    assert_refuses(bench);
}

fn assert_refuses(bench: &mut Bench) {
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
    let mut bench = Bench::new();
    bench.receive(&flush(A, 1));
    bench.end(0, Err(DiskError::Lost(28)));
    assert_eq!(bench.one().outcome(), FAULT);
    assert_poisoned(&mut bench, 28);
}

#[test]
fn flushes_behind_a_failed_sync_fail_though_theirs_succeeds() {
    let mut bench = Bench::new();
    bench.receive(&flush(A, 1));
    bench.receive(&flush(B, 2));
    bench.end(0, Err(DiskError::Lost(5)));
    bench.run();
    let outcomes: Vec<_> = bench.take().iter().map(Sent::outcome).collect();
    assert_eq!(outcomes, [FAULT, FAULT]);
    assert_poisoned(&mut bench, 5);
}

/// The kernel tells a loss to one of the syncs that run together, whosever data it was.
#[test]
fn a_flush_or_write_that_runs_while_a_durable_write_poisons_fails() {
    let mut bench = cached(CacheMode::Writethrough);
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&flush(B, 2));
    bench.receive(&write(A, 3, 8, 0x22));
    bench.receive(&command48(A, 4, command::ZERO_EXT, 16, 1));
    bench.end(0, Err(DiskError::Lost(5)));
    bench.run();
    let outcomes: Vec<_> = bench.take().iter().map(Sent::outcome).collect();
    assert_eq!(outcomes, [FAULT; 4]);
    assert_poisoned(&mut bench, 5);
    assert_eq!(bench.answer(&write(A, 3, 8, 0x22)).outcome(), FAULT, "and so it is told again");
}

#[test]
fn a_durable_change_whose_sync_fails_poisons() {
    for frame in [write(A, 1, 0, 1), trim(A, 1, &[(0, 1)]), command48(A, 1, command::ZERO_EXT, 0, 1)] {
        let mut bench = cached(CacheMode::Writethrough);
        bench.receive(&frame);
        bench.end(0, Err(DiskError::Lost(5)));
        assert_eq!(bench.one().outcome(), FAULT);
        assert_poisoned(&mut bench, 5);
    }
}

#[test]
fn a_write_that_is_refused_does_not_poison() {
    for cache in [CacheMode::Writethrough, CacheMode::Writeback] {
        for (error, outcome) in [
            (DiskError::NoSpace, FAULT),
            (DiskError::ReadOnly, ABORTED),
            (DiskError::Short, FAULT),
            (DiskError::Io(5), FAULT),
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
}

#[test]
fn a_loss_that_the_driver_hears_of_poisons() {
    let mut bench = Bench::new();
    bench.target.handle_loss(DISK, 5);
    assert_poisoned(&mut bench, 5);
}

#[test]
fn one_export_s_loss_is_not_another_s() {
    let mut bench = Bench::with(SETTINGS, [export(2), export(3)]);
    bench.target.handle_loss(DISK, 5);
    bench.events();
    assert_eq!(bench.answer(&to("e1.3", write(A, 1, 0, 0x11))).outcome(), OK);
    assert_eq!(bench.answer(&to("e1.3", flush(A, 2))).outcome(), OK);
    assert_refuses(&mut bench);
}

// ---- What a restart knows of it ------------------------------------------------------------------------------------

#[test]
fn a_loss_is_stored_and_a_restart_knows_of_it() {
    let mut bench = Bench::with(PERSISTENT, [export(2)]);
    bench.receive(&flush(A, 1));
    bench.end(0, Err(DiskError::Lost(5)));
    assert_eq!(bench.one().outcome(), FAULT, "the answer is bad enough not to wait");
    let state = bench.stores[0].state.clone();
    assert_eq!(state, StoredState { lost: Some(5), ..StoredState::default() });
    bench.stored(true);
    bench.target.save_again();
    bench.pull();
    assert_eq!(bench.stores.len(), 0, "once is enough");

    let mut bench = Bench::with(PERSISTENT, []);
    bench.add(export(2), state);
    bench.take();
    assert_refuses(&mut bench);
    assert_eq!(bench.answer(&config(A, 1, ConfigCommand::Set, b"abc")).string(), b"abc", "settings are no data");
    assert_eq!(bench.export().stored().lost, Some(5));
}

#[test]
fn a_loss_while_an_edit_is_stored_goes_with_the_next_save() {
    for edit_is_stored in [true, false] {
        let mut bench = Bench::with(PERSISTENT, [export(2)]);
        bench.receive(&config(A, 1, ConfigCommand::Set, b"abc"));
        bench.target.handle_loss(DISK, 5);
        bench.pull();
        assert_eq!((bench.stores.len(), bench.stores[0].state.lost), (1, None));
        bench.events();
        bench.stored(edit_is_stored);
        assert_eq!(bench.one().error().is_none(), edit_is_stored, "the edit's answer is of its own save");
        let config_string = if edit_is_stored { b"abc".to_vec() } else { vec![] };
        assert_eq!(bench.stores[0].state, StoredState { config_string, lost: Some(5), ..StoredState::default() });
        let lost = bench.events().into_iter().find_map(|event| match event {
            Event::Edited { state, .. } => Some(state.lost),
            _ => None,
        });
        assert_eq!(lost, edit_is_stored.then_some(None), "the station lost nothing");
        bench.stored(true);
    }
}

#[test]
fn an_edit_while_a_loss_is_stored_waits_for_its_own_save() {
    let mut bench = Bench::with(PERSISTENT, [export(2)]);
    bench.target.handle_loss(DISK, 5);
    bench.receive(&config(A, 1, ConfigCommand::Set, b"abc"));
    assert_eq!((bench.stores.len(), bench.stores[0].state.config_string.len()), (1, 0));
    bench.stored(false);
    assert_eq!(bench.take(), [], "what failed was not the edit's save");
    assert_eq!(bench.stores[0].state.config_string, b"abc");
    assert_eq!(bench.stores[0].state.lost, Some(5));
    bench.stored(true);
    assert_eq!(bench.one().string(), b"abc");
    bench.target.save_again();
    bench.pull();
    assert_eq!(bench.stores.len(), 0, "the loss went with the edit");
}

#[test]
fn a_loss_that_cannot_be_stored_is_told_and_tried_again() {
    let mut bench = Bench::with(PERSISTENT, [export(2)]);
    let address = Address::new(1, 2);
    bench.target.handle_loss(DISK, 5);
    bench.pull();
    bench.stored(false);
    assert_eq!(bench.events(), [Event::Poisoned { address, errno: 5 }, Event::PoisonNotStored { address }]);
    assert_eq!(bench.stores.len(), 0);
    bench.target.save_again();
    bench.target.save_again();
    bench.pull();
    bench.stored(true);
    assert_eq!(bench.stores.pop().map(|store| store.state.lost), Some(Some(5)), "asked for twice");
    assert_refuses(&mut bench);
}
