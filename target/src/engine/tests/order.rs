//! Overlapping operations run in order of arrival, and a request runs once.

use super::*;

// ---- Order ---------------------------------------------------------------------------------------------------------

#[test]
fn overlapping_writes_take_effect_in_order_of_arrival() {
    let mut bench = Bench::new();
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&write(B, 2, 0, 0x22));
    bench.receive(&write(A, 3, 8, 0x33));
    assert_eq!(bench.held.len(), 2, "the second waits, the third does not overlap");
    bench.end(1, Ok(()));
    assert_eq!((bench.one().header().tag, bench.held.len()), (3, 1));
    bench.end(0, Ok(()));
    assert_eq!((bench.one().header().tag, bench.sector(0)), (1, 0x11));
    bench.end(0, Ok(()));
    assert_eq!((bench.one().header().tag, bench.sector(0)), (2, 0x22));
    assert_eq!(bench.export().counters.waits, 1);
}

#[test]
fn a_partly_overlapping_write_waits_for_both_neighbours() {
    let mut bench = Bench::new();
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&write(A, 2, 1, 0x22));
    bench.receive(&write_as(command::WRITE_SECTORS_EXT, A, 3, 0, &[0x33; 1024]));
    bench.end(1, Ok(()));
    assert_eq!(bench.held.len(), 1);
    bench.end(0, Ok(()));
    bench.run();
    assert_eq!((bench.sector(0), bench.sector(1), bench.take().len()), (0x33, 0x33, 3));
}

#[test]
fn a_read_waits_for_the_write_before_it() {
    let mut bench = Bench::new();
    bench.receive(&write(A, 1, 5, 0x11));
    bench.receive(&read(B, 2, 4, 2));
    assert_eq!(bench.held.len(), 1);
    bench.end(0, Ok(()));
    bench.take();
    bench.run();
    assert_eq!(bench.one().data()[SECTOR..], [0x11; SECTOR]);
}

#[test]
fn a_write_waits_for_the_reads_before_it() {
    let mut bench = Bench::new();
    bench.receive(&read(A, 1, 5, 1));
    bench.receive(&read(B, 2, 5, 1));
    bench.receive(&write(A, 3, 5, 0x11));
    assert_eq!(bench.held.len(), 2, "reads share");
    bench.end(1, Ok(()));
    assert_eq!(bench.held.len(), 1);
    bench.run();
    let answers = bench.take();
    assert!(answers[..2].iter().all(|answer| answer.data() == [content(5); SECTOR]), "both saw what was there before");
    assert_eq!(bench.sector(5), 0x11);
}

#[test]
fn a_trim_holds_back_what_lies_in_its_reach_to_its_end() {
    let mut bench = Bench::new();
    bench.receive(&trim(A, 1, &[(0, 1), (10, 1)]));
    bench.receive(&write(A, 2, 0, 0x11));
    bench.receive(&write(A, 3, 11, 0x22));
    assert_eq!(bench.held.len(), 2);
    bench.end(0, Ok(()));
    assert!(bench.held.iter().any(|held| extent(&held.kind).0 == 5120), "the second range");
    assert_eq!(bench.held.len(), 2, "the write to sector 0 still waits");
    bench.run();
    assert_eq!((bench.sector(0), bench.sector(10), bench.sector(11)), (0x11, 0, 0x22));
    bench.take();
}

#[test]
fn a_failed_write_lets_the_next_one_run() {
    let mut bench = Bench::new();
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&write(A, 2, 0, 0x22));
    bench.end(0, Err(DiskError::Io(5)));
    bench.run();
    let outcomes: Vec<_> = bench.take().iter().map(Sent::outcome).collect();
    assert_eq!((outcomes, bench.sector(0)), (vec![FAULT, OK], 0x22));
}

#[test]
fn exports_do_not_wait_for_each_other() {
    let mut bench = Bench::with(SETTINGS, [export(2), export(3)]);
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&to("e1.3", write(A, 1, 0, 0x22)));
    assert_eq!(bench.held.len(), 2);
    bench.run();
    assert_eq!((bench.disks[0][0], bench.disks[1][0], bench.take().len()), (0x11, 0x22, 2));
}

#[test]
fn order_holds_across_ports() {
    let mut bench = Bench::new();
    bench.set_port(PortId(1), port(TARGET, 1500));
    bench.take();
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive_on(PortId(1), &write(B, 2, 0, 0x22));
    assert_eq!(bench.held.len(), 1);
    bench.run();
    let ports: Vec<_> = bench.take().iter().map(|answer| answer.port).collect();
    assert_eq!((ports, bench.sector(0)), (vec![PORT, PortId(1)], 0x22));
}

// ---- Repeats -------------------------------------------------------------------------------------------------------

#[test]
fn a_repeat_of_a_running_write_is_neither_run_nor_answered_twice() {
    let mut bench = Bench::new();
    let frame = write(A, 1, 0, 0x11);
    bench.receive(&frame);
    bench.receive(&frame);
    assert_eq!(bench.held.len(), 1);
    bench.run();
    assert_eq!((bench.take().len(), bench.asked.len(), bench.export().counters.repeats), (1, 1, 1));
}

#[test]
fn a_repeat_of_a_waiting_write_is_neither_run_nor_answered_twice() {
    let mut bench = Bench::new();
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&write(A, 2, 0, 0x22));
    bench.receive(&write(A, 2, 0, 0x22));
    bench.run();
    assert_eq!((bench.take().len(), bench.asked.len()), (2, 2));
}

#[test]
fn a_repeat_of_a_done_write_is_answered_again_but_not_run() {
    let mut bench = Bench::new();
    for frame in [write(A, 1, 0, 0x11), trim(A, 2, &[(4, 1)]), command48(A, 3, command::ZERO_EXT, 6, 1)] {
        let answer = bench.answer(&frame);
        let ran = bench.asked.len();
        assert_eq!(bench.answer(&frame), answer);
        bench.wait(repeats::MEMORY.as_secs() - 1);
        assert_eq!(bench.answer(&frame), answer);
        assert_eq!(bench.asked.len(), ran);
    }
}

#[test]
fn a_repeat_of_a_failed_write_fails_the_same_way() {
    let mut bench = Bench::new();
    bench.receive(&write(A, 1, 0, 0x11));
    bench.end(0, Err(DiskError::NoSpace));
    let answer = bench.one();
    assert_eq!(answer.outcome(), FAULT);
    assert_eq!(bench.answer(&write(A, 1, 0, 0x11)), answer);
    assert_eq!(bench.asked.len(), 1);
}

#[test]
fn a_late_repeat_does_not_undo_a_newer_write() {
    let mut bench = Bench::new();
    let old = write(A, 1, 0, 0x11);
    bench.answer(&old);
    bench.answer(&write(A, 2, 0, 0x22));
    assert_eq!(bench.answer(&old).outcome(), OK);
    assert_eq!(bench.sector(0), 0x22);
}

#[test]
fn the_same_tag_for_something_else_is_another_request() {
    let mut bench = Bench::new();
    let frames = [
        write(A, 1, 0, 0x11),
        write(A, 1, 8, 0x22),
        write(B, 1, 16, 0x33),
        write_as(command::WRITE_DMA_EXT, A, 1, 0, &[0x44; SECTOR]),
        write_as(command::WRITE_SECTORS_EXT, A, 1, 8, &[0x55; 1024]),
        write(A, 2, 16, 0x66),
    ];
    for frame in &frames {
        assert_eq!(bench.answer(frame).outcome(), OK);
    }
    assert_eq!(bench.asked.len(), frames.len());
    assert_eq!([0, 8, 9, 16].map(|lba| bench.sector(lba)), [0x44, 0x55, 0x55, 0x66]);
}

#[test]
fn a_tag_used_again_long_after_is_a_new_request() {
    let mut bench = Bench::new();
    bench.answer(&write(A, 1, 0, 0x11));
    bench.wait(repeats::MEMORY.as_secs() + 1);
    bench.answer(&write(A, 1, 0, 0x22));
    assert_eq!(bench.sector(0), 0x22);
}

#[test]
fn repeated_reads_are_read_again() {
    let mut bench = Bench::new();
    let frame = read(A, 1, 0, 1);
    bench.answer(&frame);
    bench.answer(&write(A, 2, 0, 0x11));
    assert_eq!(bench.answer(&frame).data(), [0x11; SECTOR]);
}

/// A station writes who it is: 16 bytes of this.
fn register(station: MacAddr, tag: u32, identity: u8) -> Vec<u8> {
    write_as(command::WRITE_LOG_EXT, station, tag, u64::from(LOG_STATION_IDENTITY), &[identity; SECTOR])
}

#[test]
fn a_copy_is_recognised_whoever_was_at_the_address_since() {
    let mut bench = Bench::new();
    let nameless = write(A, 1, 0, 0x11);
    bench.answer(&nameless);
    bench.answer(&register(A, 2, 1));
    let of_first_run = write(A, 3, 0, 0x22);
    bench.answer(&of_first_run);
    bench.answer(&register(A, 4, 2));
    bench.answer(&write(A, 5, 0, 0x33));
    for copy in [&nameless, &of_first_run] {
        assert_eq!(bench.answer(copy).outcome(), OK);
        assert_eq!(bench.sector(0), 0x33);
    }
    assert_eq!((bench.asked.len(), bench.export().counters.repeats), (3, 2));
    bench.wait(repeats::MEMORY.as_secs() + 1);
    assert_eq!(bench.answer(&of_first_run).outcome(), OK);
    assert_eq!(bench.sector(0), 0x22, "so long after this is a new one");
}

#[test]
fn a_wildcard_write_and_its_repeat_run_once_on_each_export() {
    let mut bench = Bench::with(EngineConfig { wildcard_edits: true, ..SETTINGS }, [export(2), export(3)]);
    let frame = to("e1.*", write(A, 1, 0, 0x11));
    assert_eq!(bench.ask(&frame).len(), 2);
    assert_eq!(bench.ask(&frame).len(), 2);
    assert_eq!(bench.asked.len(), 2);
}

#[test]
fn a_wildcard_write_is_refused_unless_allowed() {
    let mut bench = Bench::with(SETTINGS, [export(2), export(3)]);
    let answers = bench.ask(&to("e1.*", write(A, 1, 0, 0x11)));
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|answer| answer.error() == Some(ErrorCode::BadArgument)));
    assert!(bench.asked.is_empty());
}

#[test]
fn after_a_restart_no_write_runs_until_no_frame_from_before_lives() {
    let mut bench = Bench::with(SETTINGS, [export(2), export(3)]);
    let anybody = bench.now + stale::LIFE;
    bench.target.hold_writes(DISK, Hold { anybody, retagged: anybody });
    bench.wait(9);
    for frame in [write(A, 1, 0, 0x11), trim(A, 2, &[(4, 1)]), command48(A, 3, command::ZERO_EXT, 6, 1)] {
        bench.silent(&frame);
    }
    // Nor a late copy of an edit, which would shut somebody out for good.
    for frame in [admit(A, 9, &[B]), reserve(A, 10, ReserveCommand::ForceSet, &[B])] {
        bench.silent(&frame);
    }
    assert!(bench.asked.is_empty() && bench.export().access.serves(A));
    for frame in [read(A, 4, 0, 1), flush(A, 5), identify(A, 6), to("e1.3", write(A, 7, 0, 0x22))] {
        assert_eq!(bench.answer(&frame).outcome(), OK);
    }
    assert_eq!(bench.answer(&config(A, 8, ConfigCommand::Read, b"")).error(), None);
    bench.wait(1);
    assert_eq!(bench.answer(&write(A, 1, 0, 0x11)).outcome(), OK);
    assert_eq!((bench.sector(0), bench.export().counters.held), (0x11, 5));
    bench.answer(&admit(A, 9, &[B]));
    assert!(!bench.export().access.serves(A));
}

/// It may have sent attempts while nobody served, and its tags tell nothing yet of which is the newest.
#[test]
fn after_a_long_pause_a_station_that_sends_again_under_new_tags_waits_too() {
    let mut bench = Bench::new();
    let retagged = bench.now + stale::LIFE;
    bench.target.hold_writes(DISK, Hold { anybody: bench.now, retagged });
    bench.silent(&write(A, 1, 0, 0x11));
    assert_eq!(bench.answer(&write(B, 1 << 31 | 2, 0, 0x22)).outcome(), OK);
    bench.wait(10);
    assert_eq!(bench.answer(&write(A, 3, 0, 0x33)).outcome(), OK);
    assert_eq!((bench.sector(0), bench.export().counters.held), (0x33, 1));
}
