//! Mask lists and reservations, and what they do to a station that is shut out.

use super::*;

const HEADER: &str = "0001 02 02 00001234";
const RESERVE_HEADER: &str = "0001 02 03 00001234";

// ---- Messages ------------------------------------------------------------------------------------------------------

#[test]
fn an_empty_mask_list_reads_as_such() {
    let mut bench = Bench::new();
    bench.vector(A, &format!("10 00 {HEADER} 00 00 00 00"), &format!("18 00 {HEADER} 00 00 00 00"));
}

#[test]
fn an_edited_mask_list_comes_back_whole() {
    let mut bench = Bench::new();
    let edit = "00 01 00 03 0001 02000000000a 0001 02000000000b 0002 02000000000c";
    let list = "02 0000 02000000000a 0000 02000000000b";
    bench.vector(A, &format!("10 00 {HEADER} {edit}"), &format!("18 00 {HEADER} 00 01 00 {list}"));
    bench.vector(B, &format!("10 00 {HEADER} 00 00 00 00"), &format!("18 00 {HEADER} 00 00 00 {list}"));
}

#[test]
fn a_bad_directive_ends_an_edit_and_is_named() {
    let mut bench = Bench::new();
    let edit = "00 01 00 03 0001 02000000000a 0007 02000000000b 0001 02000000000c";
    bench.vector(A, &format!("10 00 {HEADER} {edit}"), &format!("18 00 {HEADER} 00 01 02 01"));
    assert_eq!(bench.export().access.mask, [A], "the directive before it stays in force");
}

#[test]
fn a_full_mask_list_says_so_and_still_fits_an_answer() {
    let mut bench = Bench::new();
    let stations: Vec<_> = (0..180).map(|n| MacAddr(2, 0, 0, 0, 2, n)).filter(|mac| mac.5 != POISON).collect();
    bench.answer(&admit(A, 1, &[A]));
    bench.answer(&admit(A, 2, &stations));
    let answer = bench.answer(&admit(A, 3, &[B]));
    assert_eq!(answer.body()[..4], [0, 1, 3, 0]);
    assert_eq!(bench.answer(&mask(A, 4, MaskCommand::Read, &[])).body().len(), 4 + 180 * 8);
}

#[test]
fn lists_beyond_the_frame_and_unknown_commands_are_bad_arguments() {
    let mut bench = Bench::new();
    let mut directives = admit(A, 1, &[A, B]);
    directives.pop();
    let mut macs = reserve(A, 2, ReserveCommand::Set, &[A, B]);
    macs.pop();
    let unknown_mask = mask(A, 3, MaskCommand::Unknown(2), &[]);
    let unknown_reserve = reserve(A, 4, ReserveCommand::Unknown(3), &[]);
    for frame in [directives, macs, unknown_mask, unknown_reserve] {
        assert_eq!(bench.answer(&frame).error(), Some(ErrorCode::BadArgument));
    }
    assert_eq!(bench.export().stored(), StoredState::default());
}

#[test]
fn only_a_holder_sets_a_reservation_but_anybody_forces_it() {
    let mut bench = Bench::new();
    let mac = "02000000000a";
    let exchange = |bench: &mut Bench, station, request: &str, flags: &str, response: &str| {
        let (request, response) =
            (format!("10 00 {RESERVE_HEADER} {request}"), format!("{flags} {RESERVE_HEADER} {response}"));
        bench.vector(station, &request, &response);
    };
    exchange(&mut bench, A, &format!("01 01 {mac}"), "18 00", &format!("01 01 {mac}"));
    exchange(&mut bench, B, "01 01 02000000000b", "1c 06", &format!("01 01 {mac}"));
    exchange(&mut bench, B, "00 00", "18 00", &format!("00 01 {mac}"));
    exchange(&mut bench, B, "02 01 02000000000b", "18 00", "02 01 02000000000b");
    exchange(&mut bench, B, "01 00", "18 00", "01 00");
}

#[test]
fn the_longest_reservation_fits_an_answer() {
    let mut bench = Bench::new();
    let stations: Vec<_> = (0..=255).map(|n| MacAddr(2, 0, 0, 0, 2, n)).filter(|mac| mac.5 != POISON).collect();
    assert_eq!(bench.answer(&reserve(A, 1, ReserveCommand::Set, &stations[..240])).body().len(), 2 + 240 * 6);
    let more = bench.answer(&reserve(A, 2, ReserveCommand::ForceSet, &stations[..241]));
    assert_eq!(more.error(), Some(ErrorCode::BadArgument));
}

#[test]
fn a_station_outside_the_reservation_may_identify_and_read_lists_only() {
    let mut bench = Bench::new();
    bench.answer(&reserve(A, 1, ReserveCommand::Set, &[A]));
    let registers = "40 00 02 24 03 00 00 00 00 00 0000";
    bench.vector(
        B,
        &format!("10 00 0001 02 00 00001234 {registers}"),
        &format!("1c 06 0001 02 00 00001234 {registers}"),
    );
    for frame in [write(B, 2, 0, 1), flush(B, 3), trim(B, 4, &[(0, 1)]), set_features(B, 5, 0x82)] {
        assert_eq!(bench.answer(&frame).error(), Some(ErrorCode::Reserved));
    }
    assert!(bench.asked.is_empty());
    let allowed = [
        identify(B, 6),
        config(B, 7, ConfigCommand::Read, b""),
        mask(B, 8, MaskCommand::Read, &[]),
        reserve(B, 9, ReserveCommand::Read, &[]),
    ];
    for frame in allowed {
        assert_eq!(bench.answer(&frame).error(), None);
    }
    assert_eq!(bench.answer(&read(A, 10, 0, 1)).outcome(), OK);
}

#[test]
fn a_late_copy_of_an_edit_undoes_no_newer_one() {
    let list = |command, mac| mask(A, 1, MaskCommand::Edit, &[(DirectiveCommand::Add, A), (command, mac)]);
    let let_in = list(DirectiveCommand::Add, B);
    let shut_out = mask(A, 2, MaskCommand::Edit, &[(DirectiveCommand::Delete, B)]);
    let reserve_both = reserve(A, 3, ReserveCommand::ForceSet, &[A, B]);
    let reserve_alone = reserve(A, 4, ReserveCommand::ForceSet, &[A]);
    for (first, second) in [(let_in, shut_out), (reserve_both, reserve_alone)] {
        let mut bench = Bench::new();
        bench.answer(&first);
        bench.answer(&second);
        let copy = bench.answer(&first);
        assert!(copy.answers_edit_of_access() && copy.error().is_none());
        assert!(!bench.export().access.serves(B), "the answer tells what is in force");
        assert_eq!(bench.export().counters.repeats, 1);
        bench.wait(11);
        bench.answer(&first);
        assert!(bench.export().access.serves(B), "no network holds a copy for so long: this is a new one");
    }
}

// ---- Stations that are shut out ------------------------------------------------------------------------------------

/// The two ways to shut B out.
fn shutting_out_b() -> [Vec<u8>; 2] {
    [admit(A, 50, &[A]), reserve(A, 50, ReserveCommand::ForceSet, &[A])]
}

#[test]
fn waiting_writes_of_a_station_shut_out_never_run() {
    for edit in shutting_out_b() {
        let mut bench = Bench::new();
        bench.receive(&write(A, 1, 0, 0x11));
        bench.receive(&write(B, 2, 0, 0x22));
        bench.receive(&trim(B, 3, &[(0, 1)]));
        bench.receive(&read(B, 4, 0, 1));
        bench.receive(&write(A, 5, 1, 0x33));
        bench.receive(&edit);
        assert_eq!(bench.one().header().tag, 50, "nothing of B runs");
        bench.run();
        let tags: Vec<_> = bench.take().iter().map(|answer| answer.header().tag).collect();
        assert_eq!((tags, bench.sector(0)), (vec![1, 5], 0x11));
    }
}

#[test]
fn those_that_waited_for_a_write_given_up_run() {
    for edit in shutting_out_b() {
        let mut bench = Bench::new();
        bench.receive(&write(A, 1, 0, 0x11));
        bench.receive(&write_as(command::WRITE_SECTORS_EXT, B, 2, 0, &[0x22; 1024]));
        bench.receive(&write_as(command::WRITE_SECTORS_EXT, B, 3, 0, &[0x33; 1024]));
        bench.receive(&write(A, 4, 1, 0x44));
        assert_eq!(bench.held.len(), 1);
        bench.receive(&edit);
        assert_eq!(bench.held.len(), 2);
        bench.run();
        assert_eq!((bench.sector(0), bench.sector(1), bench.take().len()), (0x11, 0x44, 3));
    }
}

#[test]
fn the_edit_is_answered_after_the_last_running_write_of_a_station_shut_out() {
    for edit in shutting_out_b() {
        let mut bench = Bench::new();
        bench.receive(&write(B, 1, 0, 0x11));
        bench.receive(&write(B, 2, 8, 0x22));
        bench.receive(&read(B, 3, 16, 1));
        bench.receive(&write(A, 4, 24, 0x33));
        bench.receive(&edit);
        bench.end(1, Ok(()));
        assert!(bench.take().iter().all(|answer| answer.to() == B));
        bench.end(0, Ok(()));
        assert_eq!(bench.take().last().map(|answer| answer.header().tag), Some(50), "not for the others");
        bench.run();
        bench.take();
    }
}

#[test]
fn the_edit_is_answered_when_it_is_stored_too() {
    for edit in shutting_out_b() {
        for stored_first in [true, false] {
            let mut bench = Bench::with(PERSISTENT, [export(2)]);
            bench.receive(&write(B, 1, 0, 0x11));
            bench.receive(&edit);
            let edited = |bench: &mut Bench| bench.take().iter().any(|answer| answer.header().tag == 50);
            assert!(!edited(&mut bench));
            if stored_first {
                bench.stored(true)
            } else {
                bench.end(0, Ok(()))
            }
            assert!(!edited(&mut bench));
            if stored_first {
                bench.end(0, Ok(()))
            } else {
                bench.stored(true)
            }
            assert!(edited(&mut bench));
        }
    }
}

#[test]
fn a_station_shut_out_is_refused_before_the_edit_is_answered() {
    let mut bench = Bench::with(PERSISTENT, [export(2)]);
    bench.receive(&reserve(A, 1, ReserveCommand::Set, &[A]));
    bench.receive(&write(B, 2, 0, 0x11));
    assert_eq!(bench.one().error(), Some(ErrorCode::Reserved));
    assert!(bench.asked.is_empty());
    bench.stored(true);
    assert_eq!(bench.one().error(), None);
}

#[test]
fn an_edit_that_cannot_be_stored_is_taken_back() {
    for edit in shutting_out_b() {
        let mut bench = Bench::with(PERSISTENT, [export(2)]);
        bench.receive(&write(B, 1, 0, 0x11));
        bench.receive(&edit);
        bench.stored(false);
        let answer = bench.one();
        match answer.header().command {
            Command::Mask => assert_eq!((answer.error(), &answer.body()[..4]), (None, &[0, 1, 1, 0][..])),
            _ => assert_eq!((answer.error(), answer.body()[1]), (Some(ErrorCode::DeviceUnavailable), 0)),
        }
        assert_eq!(bench.events(), [Event::NotStored { address: Address::new(1, 2) }]);
        assert_eq!(bench.export().stored(), StoredState::default());
        bench.run();
        assert_eq!(bench.one().outcome(), OK, "B hears of its write");
        assert_eq!(bench.answer(&write(B, 2, 0, 0x22)).outcome(), OK, "and is served again");
    }
}

#[test]
fn a_station_let_in_by_an_edit_that_cannot_be_stored_is_out_again() {
    let mut bench = Bench::with(PERSISTENT, []);
    bench.add(export(2), StoredState { mask: vec![A], reservation: vec![], ..StoredState::default() });
    bench.take();
    bench.receive(&admit(A, 1, &[B]));
    bench.receive(&write(B, 2, 0, 0x11));
    bench.receive(&write(B, 3, 0, 0x22));
    bench.stored(false);
    assert_eq!(bench.take(), [], "a write of B runs");
    bench.run();
    assert_eq!((bench.one().header().tag, bench.sector(0)), (1, 0x11), "the one that waited never does");
}

#[test]
fn while_an_edit_waits_another_is_dropped() {
    let mut bench = Bench::with(PERSISTENT, [export(2), export(3)]);
    bench.receive(&admit(A, 1, &[A]));
    for frame in
        [admit(A, 2, &[A, B]), reserve(A, 3, ReserveCommand::Set, &[A]), config(A, 4, ConfigCommand::Set, b"abc")]
    {
        bench.receive(&frame);
    }
    assert_eq!((bench.stores.len(), bench.export().counters.overflows, bench.take()), (1, 3, vec![]));
    bench.receive(&to("e1.3", config(A, 5, ConfigCommand::Set, b"abc")));
    assert_eq!(bench.stores.len(), 2, "another export's does not wait");
    bench.stored(true);
    bench.stored(true);
    assert_eq!(bench.take().len(), 2);
    assert_eq!(bench.answer(&config(A, 4, ConfigCommand::Set, b"abc")).error(), None, "asked again, it is done");
}

#[test]
fn repeats_of_a_station_shut_out_are_not_answered() {
    let mut bench = Bench::new();
    bench.answer(&write(B, 1, 0, 0x11));
    bench.answer(&reserve(A, 2, ReserveCommand::Set, &[A]));
    assert_eq!(bench.answer(&write(B, 1, 0, 0x11)).error(), Some(ErrorCode::Reserved));
    bench.answer(&admit(A, 3, &[A]));
    bench.silent(&write(B, 1, 0, 0x11));
}

#[test]
fn a_write_given_up_runs_when_its_station_is_back_and_asks_again() {
    let mut bench = Bench::new();
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&write(B, 2, 0, 0x22));
    bench.receive(&reserve(A, 3, ReserveCommand::Set, &[A]));
    bench.run();
    bench.take();
    bench.answer(&reserve(A, 4, ReserveCommand::Set, &[]));
    assert_eq!(bench.answer(&write(B, 2, 0, 0x22)).outcome(), OK);
    assert_eq!(bench.sector(0), 0x22);
}

#[test]
fn answers_for_a_station_off_the_mask_list_are_dropped() {
    let mut bench = Bench::new();
    bench.receive(&write(B, 1, 0, 0x11));
    bench.receive(&read(B, 2, 8, 1));
    bench.receive(&flush(B, 3));
    bench.receive(&admit(A, 4, &[A]));
    bench.run();
    assert_eq!(bench.one().header().tag, 4);
}

#[test]
fn a_trim_cut_off_by_a_reservation_does_not_say_it_succeeded() {
    let mut bench = Bench::new();
    bench.receive(&trim(B, 1, &[(0, 1), (10, 1)]));
    bench.receive(&reserve(A, 2, ReserveCommand::Set, &[A]));
    bench.end(0, Ok(()));
    assert!(bench.held.is_empty(), "the second range is not run");
    let answers = bench.take();
    let tags: Vec<_> = answers.iter().map(|answer| answer.header().tag).collect();
    assert_eq!((tags, bench.sector(10)), (vec![1, 2], content(10)));
    assert_eq!(answers[0].outcome(), ABORTED);
}

#[test]
fn a_trim_in_its_last_range_ends_well_though_its_station_is_shut_out() {
    let mut bench = Bench::new();
    bench.receive(&trim(B, 1, &[(0, 1), (10, 1)]));
    bench.end(0, Ok(()));
    bench.receive(&reserve(A, 2, ReserveCommand::Set, &[A]));
    bench.end(0, Ok(()));
    assert_eq!((bench.take()[0].outcome(), bench.sector(10)), (OK, 0));
}

#[test]
fn a_station_that_shuts_itself_out_still_gets_that_answer() {
    let mut bench = Bench::new();
    assert_eq!(bench.answer(&admit(A, 1, &[B])).body()[..4], [0, 1, 0, 1]);
    bench.silent(&mask(A, 2, MaskCommand::Read, &[]));
}

// ---- The record of stations ----------------------------------------------------------------------------------------

/// Reads, writes, requests given up, frames ignored.
fn record(bench: &Bench, station: MacAddr) -> Option<(u64, u64, u64, u64)> {
    bench.export().ledger.of(station).map(|it| (it.reads, it.writes, it.given_up, it.ignored))
}

/// Whom the last edit shut out.
fn shut_out(bench: &mut Bench) -> Vec<ShutOut> {
    match bench.events().pop() {
        Some(Event::Edited { shut_out, .. }) => shut_out,
        other => panic!("no edit: {other:?}"),
    }
}

#[test]
fn writes_that_waited_are_never_on_record_as_run() {
    for edit in shutting_out_b() {
        let mut bench = Bench::new();
        bench.answer(&write(B, 1, 8, 0x11));
        bench.answer(&read(B, 2, 8, 1));
        bench.receive(&write(A, 3, 0, 0x22));
        bench.receive(&write(B, 4, 0, 0x33));
        bench.receive(&trim(B, 5, &[(0, 1)]));
        bench.receive(&read(B, 6, 0, 1));
        assert_eq!(record(&bench, B), Some((1, 1, 0, 0)), "what waits has not run");
        bench.receive(&edit);
        assert_eq!(shut_out(&mut bench), [ShutOut { station: B, writes: Some(1) }]);
        bench.run();
        bench.take();
        bench.ask(&write(B, 7, 0, 0x44));
        assert_eq!((record(&bench, B), bench.sector(0)), (Some((1, 1, 3, 1)), 0x22));
        assert_eq!(record(&bench, A), Some((0, 1, 0, 0)));
    }
}

#[test]
fn running_writes_are_on_record_before_the_edit_is_answered() {
    for edit in shutting_out_b() {
        let mut bench = Bench::new();
        bench.receive(&write(B, 1, 0, 0x11));
        bench.receive(&trim(B, 2, &[(10, 1), (20, 1)]));
        bench.receive(&command48(B, 3, command::ZERO_EXT, 30, 1));
        bench.receive(&edit);
        assert_eq!(bench.events(), [], "the edit waits");
        assert_eq!(bench.export().ledger.of(B).map(|record| (record.writes, record.writing())), Some((3, 3)));
        bench.run();
        assert_eq!(shut_out(&mut bench), [ShutOut { station: B, writes: Some(3) }]);
        assert_eq!(bench.export().ledger.of(B).map(|record| (record.writes, record.writing())), Some((3, 0)));
        bench.take();
    }
}

#[test]
fn a_write_that_failed_or_came_twice_is_on_record_once() {
    let mut bench = Bench::new();
    bench.receive(&write(B, 1, 0, 0x11));
    bench.receive(&write(B, 1, 0, 0x11));
    bench.end(0, Err(DiskError::NoSpace));
    bench.take();
    bench.answer(&write(B, 1, 0, 0x11));
    bench.answer(&trim(B, 2, &[(0, 1), (10, 1), (20, 1)]));
    bench.answer(&flush(B, 3));
    assert_eq!(record(&bench, B), Some((0, 2, 0, 0)));
}

#[test]
fn whom_an_edit_shuts_out_is_told_though_it_never_wrote_and_nobody_else_is() {
    let mut bench = Bench::new();
    bench.answer(&write(C, 1, 0, 0x11));
    bench.answer(&admit(A, 2, &[A, B]));
    assert_eq!(shut_out(&mut bench), [ShutOut { station: C, writes: Some(1) }]);
    let remove = |tag, mac| mask(A, tag, MaskCommand::Edit, &[(DirectiveCommand::Delete, mac)]);
    bench.answer(&remove(3, B));
    assert_eq!(shut_out(&mut bench), [ShutOut { station: B, writes: Some(0) }], "C was out already");
    bench.answer(&config(A, 4, ConfigCommand::Set, b"abc"));
    assert_eq!(shut_out(&mut bench), []);
    bench.answer(&admit(A, 5, &[C]));
    assert_eq!(shut_out(&mut bench), []);
    assert_eq!(bench.answer(&write(C, 6, 0, 0x22)).outcome(), OK);
    bench.answer(&reserve(A, 7, ReserveCommand::Set, &[A]));
    assert_eq!(shut_out(&mut bench), [ShutOut { station: C, writes: Some(2) }]);
}

#[test]
fn an_edit_that_is_taken_back_shuts_nobody_out() {
    let mut bench = Bench::with(PERSISTENT, [export(2)]);
    bench.receive(&write(B, 1, 0, 0x11));
    bench.receive(&admit(A, 2, &[A]));
    bench.stored(false);
    assert_eq!(bench.events(), [Event::NotStored { address: Address::new(1, 2) }]);
    bench.run();
    bench.take();
    bench.answer(&write(B, 3, 0, 0x22));
    assert_eq!(record(&bench, B), Some((0, 2, 0, 0)));
}
