//! What the operator changes while exports are served.

use super::super::changes::{Adjustment, NotBegun, OperatorEdit};
use super::super::repeats::MEMORY;
use super::*;

/// A tag of a station that keeps its tags.
const KEPT: u32 = 1 << 31;

fn settings() -> Adjustment {
    Adjustment {
        cache: CacheMode::Writeback,
        read_only: false,
        buffers: 16,
        allow: vec![],
        edits: EditPolicy::default(),
    }
}

impl Bench {
    fn remove(&mut self, disk: DiskId) {
        self.target.remove_export(disk);
        self.pull();
    }

    /// Removes an export altogether.
    fn take_out(&mut self, disk: DiskId) {
        self.remove(disk);
        self.run();
        self.target.finish_removal(self.now, disk);
    }

    fn adjust(&mut self, to: Adjustment) -> Result<(), NotBegun> {
        let begun = self.target.adjust(DISK, to);
        self.pull();
        begun
    }

    fn edit(&mut self, edit: OperatorEdit) -> Result<(), NotBegun> {
        let begun = self.target.edit_by_operator(DISK, edit);
        self.pull();
        begun
    }
}

#[test]
fn an_export_that_is_removed_ends_what_runs_and_drops_what_waits() {
    let mut bench = Bench::with(SETTINGS, [export(2), export(3)]);
    bench.receive(&write(A, 1, 0, 0x11));
    bench.receive(&write(A, 2, 0, 0x22));
    bench.receive(&read(A, 3, 0, 1));
    bench.receive(&flush(A, 4));
    bench.receive(&flush(A, 5));
    assert_eq!(bench.held.len(), 2, "a write and a flush run");
    bench.remove(DISK);
    assert_eq!((bench.target.is_quiet(DISK), bench.target.under_way(DISK)), (false, 2));
    bench.receive(&identify(A, 6));
    bench.run();
    assert_eq!(bench.sector(0), 0x11, "the write that waited never ran");
    let tags: Vec<_> = bench.take().iter().map(|sent| sent.header().tag).collect();
    assert_eq!(tags, [1, 4], "what ran is answered, and nothing else");
    assert!(bench.target.is_quiet(DISK));
    assert_eq!(bench.target.exports().count(), 2, "it is there until its disk is closed");
    bench.target.finish_removal(bench.now, DISK);
    assert_eq!(bench.target.disks().collect::<Vec<_>>(), [DiskId(1)]);
    assert_eq!(bench.target.disk_of(Address::new(1, 2)), None);
    assert_eq!(bench.answer(&to("e1.3", write(A, 7, 0, 0x33))).outcome(), OK);
    assert_eq!(bench.ask(&to("e*.*", config(A, 8, ConfigCommand::Read, b""))).len(), 1, "one of two is left");
    bench.set_port(PORT, None);
    bench.set_port(PORT, port(TARGET, 1500));
    assert_eq!(bench.take().len(), 1, "what is gone is not announced");
}

#[test]
fn a_write_that_ran_before_a_removal_does_not_run_again_after_it() {
    let mut bench = Bench::with(SETTINGS, [export(2), export(3)]);
    assert_eq!(bench.answer(&write(A, KEPT | 1, 0, 0x11)).outcome(), OK);
    assert_eq!(bench.answer(&write(A, KEPT | 2, 0, 0x22)).outcome(), OK);
    bench.receive(&write(A, KEPT | 3, 1, 0x33));
    bench.receive(&write(A, KEPT | 4, 1, 0x44));
    bench.remove(DISK);
    let taken = bench.target.add_export(bench.now, export(2), StoredState::default());
    assert_eq!(taken, Err(NoPlace::Taken(Address::new(1, 2))), "its disk is not closed yet");
    bench.run();
    bench.target.finish_removal(bench.now, DISK);
    bench.wait(1);
    // Another address does not get its number, and with it the memory of its writes.
    assert_eq!(bench.target.add_export(bench.now, export(4), StoredState::default()), Ok(DiskId(2)));
    assert_eq!(bench.target.add_export(bench.now, export(2), StoredState::default()), Ok(DISK));
    bench.pull();
    bench.take();
    assert_eq!(bench.answer(&write(A, KEPT | 1, 0, 0x11)).outcome(), OK, "answered again");
    assert_eq!((bench.sector(0), bench.export().counters.repeats), (0x22, 1));
    assert_eq!(bench.answer(&write(A, KEPT | 4, 1, 0x44)).outcome(), OK, "what was dropped is new");
    assert_eq!(bench.sector(1), 0x44);
}

#[test]
fn stations_that_send_again_under_new_tags_wait_when_an_export_is_back() {
    let mut bench = Bench::new();
    bench.take_out(DISK);
    bench.target.add_export(bench.now, export(2), StoredState::default()).unwrap();
    bench.pull();
    bench.take();
    bench.silent(&write(A, 1, 0, 0x11));
    assert_eq!(bench.answer(&write(A, KEPT | 2, 1, 0x22)).outcome(), OK);
    bench.wait(10);
    assert_eq!(bench.answer(&write(A, 3, 0, 0x33)).outcome(), OK);
}

#[test]
fn a_hold_outlives_a_removal() {
    let mut bench = Bench::new();
    let anybody = bench.now + stale::LIFE;
    bench.target.hold_writes(DISK, Hold { anybody, retagged: anybody });
    bench.take_out(DISK);
    bench.wait(9);
    bench.target.add_export(bench.now, export(2), StoredState::default()).unwrap();
    bench.pull();
    bench.take();
    bench.silent(&write(A, KEPT | 1, 0, 0x11));
    bench.wait(1);
    assert_eq!(bench.answer(&write(A, KEPT | 1, 0, 0x11)).outcome(), OK);
}

#[test]
fn a_number_changes_its_address_only_when_nothing_is_remembered() {
    let mut bench = Bench::new();
    let add = |now: Instant, target: &mut Target| target.add_export(now, export(3), StoredState::default());
    bench.take_out(DISK);
    let early = bench.now + MEMORY - Duration::from_nanos(1);
    assert_eq!(add(early, &mut bench.target), Ok(DiskId(1)));
    bench.take_out(DiskId(1));
    assert_eq!(add(early + MEMORY, &mut bench.target), Ok(DiskId(1)), "its own again");
    let other = bench.target.add_export(early + MEMORY, export(9), StoredState::default());
    assert_eq!(other, Ok(DISK), "the one that was forgotten");
    bench.pull();
}

#[test]
fn an_export_that_is_removed_ends_its_edits() {
    let mut bench = Bench::with(PERSISTENT, [export(2)]);
    bench.receive(&admit(A, 1, &[A]));
    bench.remove(DISK);
    assert!(!bench.target.is_quiet(DISK));
    bench.stored(true);
    assert!(bench.target.is_quiet(DISK));
    assert_eq!(bench.one().header().tag, 1, "what was begun is answered");
}

#[test]
fn a_loss_that_is_not_stored_is_stored_before_a_removal_ends() {
    let mut bench = Bench::with(PERSISTENT, [export(2)]);
    bench.target.handle_loss(DISK, 5);
    bench.pull();
    bench.stored(false);
    assert!(bench.target.is_quiet(DISK));
    bench.remove(DISK);
    assert!(!bench.target.is_quiet(DISK));
    assert_eq!(bench.stores[0].state.lost, Some(5));
    bench.stored(true);
    assert!(bench.target.is_quiet(DISK));
}

#[test]
fn a_drained_export_ends_what_is_under_way_and_takes_nothing_new() {
    let mut bench = Bench::with(SETTINGS, [export(2), export(3)]);
    bench.receive(&write(A, KEPT | 1, 0, 0x11));
    bench.receive(&write(A, KEPT | 2, 0, 0x22));
    bench.target.drain(bench.now, DISK, true);
    bench.receive(&read(A, 3, 0, 1));
    bench.receive(&config(A, 4, ConfigCommand::Read, b""));
    bench.run();
    assert_eq!((bench.sector(0), bench.take().len()), (0x22, 2), "the two writes are answered, and nothing else");
    assert!(bench.target.is_quiet(DISK));
    assert_eq!(bench.answer(&to("e1.3", read(A, 5, 0, 1))).outcome(), OK);
    bench.target.drain(bench.now, DISK, false);
    bench.pull();
    assert_eq!(bench.one().header().tag, 0, "it is announced");
    assert_eq!(bench.answer(&read(A, 3, 0, 1)).data(), [0x22; SECTOR]);
    bench.silent(&write(A, 6, 0, 0x66));
    bench.wait(10);
    assert_eq!(bench.answer(&write(A, 7, 0, 0x77)).outcome(), OK);
}

#[test]
fn read_only_is_told_when_the_last_write_has_ended() {
    let mut bench = Bench::new();
    bench.receive(&write(A, KEPT | 1, 0, 0x11));
    bench.receive(&write(A, KEPT | 2, 0, 0x22));
    bench.receive(&read(A, KEPT | 3, 9, 1));
    assert_eq!(bench.adjust(Adjustment { read_only: true, ..settings() }), Ok(()));
    assert_eq!(bench.one().header().tag, 0, "stations ask what the disk is now");
    assert_eq!(bench.target.poll_changed(), None);
    assert_eq!(bench.adjust(settings()), Err(NotBegun::Busy));
    bench.end(0, Ok(()));
    assert_eq!(bench.target.poll_changed(), Some((DISK, true)));
    bench.run();
    assert_eq!((bench.sector(0), bench.take().len()), (0x11, 2), "the write that waited is dropped");
    assert_eq!(bench.answer(&write(A, KEPT | 2, 0, 0x22)).outcome(), ABORTED);
    let words = bench.answer(&identify(A, 4)).data().to_vec();
    assert!(Identify::parse(&words).unwrap().read_only);
    assert_eq!(bench.adjust(settings()), Ok(()));
    assert_eq!(bench.target.poll_changed(), Some((DISK, true)));
    bench.take();
    assert_eq!(bench.answer(&write(A, KEPT | 5, 0, 0x55)).outcome(), OK);
}

#[test]
fn a_station_that_the_operators_list_shuts_out_is_out_when_that_is_told() {
    let mut bench = Bench::new();
    bench.receive(&write(B, KEPT | 1, 0, 0x11));
    bench.receive(&write(B, KEPT | 2, 0, 0x22));
    bench.receive(&write(A, KEPT | 3, 5, 0x33));
    assert_eq!(bench.adjust(Adjustment { allow: vec![A], ..settings() }), Ok(()));
    assert_eq!(bench.target.poll_changed(), None, "a write of B is running");
    bench.end(0, Ok(()));
    assert_eq!(bench.target.poll_changed(), Some((DISK, true)));
    bench.run();
    assert_eq!((bench.sector(0), bench.sector(5)), (0x11, 0x33));
    let events = bench.events();
    let [Event::Edited { station: None, shut_out, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(shut_out[..], [ShutOut { station: B, writes: Some(1) }]);
    bench.take();
    bench.silent(&read(B, KEPT | 4, 0, 1));
}

#[test]
fn the_cache_mode_counts_for_what_comes_after_it() {
    let mut bench = Bench::new();
    let durable = |bench: &Bench| match bench.asked.last() {
        Some(DiskOperationKind::Write { durable, .. }) => *durable,
        other => panic!("{other:?}"),
    };
    bench.answer(&write(A, KEPT | 1, 0, 0x11));
    assert!(!durable(&bench));
    bench.adjust(Adjustment { cache: CacheMode::Writethrough, ..settings() }).unwrap();
    bench.take();
    bench.answer(&write(A, KEPT | 2, 0, 0x22));
    assert!(durable(&bench));
}

#[test]
fn an_edit_of_the_operator_is_told_when_it_is_stored_and_drained() {
    let mut bench = Bench::with(PERSISTENT, [export(2)]);
    bench.receive(&write(B, KEPT | 1, 0, 0x11));
    assert_eq!(bench.edit(OperatorEdit::MaskSet(vec![A, A])), Ok(()));
    assert_eq!(bench.stores[0].state.mask, [A]);
    assert_eq!(bench.edit(OperatorEdit::MaskAdd(vec![C])), Err(NotBegun::Busy));
    bench.stored(true);
    assert_eq!(bench.target.poll_changed(), None);
    bench.run();
    assert_eq!(bench.target.poll_changed(), Some((DISK, true)));
    bench.take();
    for (edit, mask) in [
        (OperatorEdit::MaskAdd(vec![A, C]), vec![A, C]),
        (OperatorEdit::MaskDelete(vec![A, B]), vec![C]),
        (OperatorEdit::ConfigString(b"boot".to_vec()), vec![C]),
        (OperatorEdit::Reservation(vec![C]), vec![C]),
    ] {
        assert_eq!(bench.edit(edit), Ok(()));
        bench.stored(true);
        assert_eq!(bench.target.poll_changed(), Some((DISK, true)));
        assert_eq!(bench.export().access.mask, mask);
    }
    assert_eq!((&bench.export().config_string[..], &bench.export().access.reservation[..]), (&b"boot"[..], &[C][..]));
    let crowd = (0..=180).map(|n| MacAddr(2, 0, 0, 0, 9, n)).collect();
    assert_eq!(bench.edit(OperatorEdit::MaskSet(crowd)), Err(NotBegun::Full(180)));
}

#[test]
fn an_edit_of_the_operator_that_cannot_be_stored_is_taken_back() {
    let mut bench = Bench::with(PERSISTENT, [export(2)]);
    assert_eq!(bench.edit(OperatorEdit::MaskSet(vec![B])), Ok(()));
    assert!(!bench.export().access.serves(A));
    bench.stored(false);
    assert_eq!(bench.target.poll_changed(), Some((DISK, false)));
    assert!(bench.export().access.serves(A));
    assert_eq!(bench.answer(&read(A, 1, 0, 1)).outcome(), OK);
}

#[test]
fn latencies_and_bytes_are_counted() {
    let mut bench = Bench::new();
    for frame in [read(A, 1, 0, 2), write(A, 2, 5, 0x11), flush(A, 3)] {
        bench.receive(&frame);
        bench.now = bench.now + Duration::from_micros(100);
        bench.run();
    }
    bench.take();
    let Export { read_latency, write_latency, flush_latency, ledger, .. } = bench.export();
    for latency in [read_latency, write_latency, flush_latency] {
        assert_eq!((latency.count(), latency.sum_us, latency.buckets[7]), (1, 100, 1));
    }
    let record = ledger.of(A).unwrap();
    assert_eq!((record.read_bytes, record.write_bytes), (1024, 512));
}
