//! Nothing grows without end, nothing panics, and every buffer comes back.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// Tags that do not look like stale bytes.
fn tags(count: usize) -> impl Iterator<Item = u32> {
    (0..).filter(|tag: &u32| !tag.to_be_bytes().contains(&POISON)).take(count)
}

#[test]
fn without_a_free_buffer_requests_are_dropped_and_counted() {
    let mut bench = Bench::with(EngineConfig { buffers: 4, ..SETTINGS }, [export(2)]);
    for tag in 0..4 {
        assert!(bench.target.has_room());
        bench.receive(&read(A, tag, u64::from(tag), 1));
    }
    assert!(!bench.target.has_room());
    for frame in [read(A, 4, 4, 1), write(A, 5, 5, 1), flush(A, 6), config(A, 7, ConfigCommand::Read, b"")] {
        bench.silent_now(&frame);
    }
    assert_eq!(bench.target.counters().no_buffer, 4);
    bench.run();
    assert_eq!(bench.take().len(), 4);
    assert_eq!(bench.answer(&write(A, 5, 5, 1)).outcome(), OK, "a dropped write is new when it comes again");
}

#[test]
fn an_export_holds_so_many_requests_and_flushes() {
    let mut bench = Bench::with(EngineConfig { buffers: 4 * EXPORT_REQUESTS_MAX, ..SETTINGS }, [export(2), export(3)]);
    for tag in tags(EXPORT_REQUESTS_MAX + 5) {
        bench.receive(&write(A, tag, 0, 1));
    }
    assert_eq!((bench.held.len(), bench.target.in_flight()), (1, EXPORT_REQUESTS_MAX));
    assert_eq!(bench.export().counters.overflows, 5);
    bench.receive(&to("e1.3", write(A, 0, 0, 1)));
    assert_eq!(bench.held.len(), 2, "another export has room");
    for tag in tags(EXPORT_REQUESTS_MAX + 6) {
        bench.receive(&flush(A, tag));
    }
    assert_eq!(bench.export().counters.overflows, 10, "one sync runs, and so many wait");
    bench.run();
    assert_eq!(bench.take().len(), 2 * EXPORT_REQUESTS_MAX + 2);
}

#[test]
fn the_table_is_as_long_as_the_most_requests_at_a_time() {
    let mut bench = Bench::new();
    for tag in tags(1000) {
        bench.receive(&read(A, tag, u64::from(tag), 1));
        bench.receive(&write(A, tag, u64::from(tag), 1));
        bench.receive(&flush(A, tag));
        bench.run();
    }
    assert_eq!((bench.take().len(), bench.target.requests.len()), (3000, 3));
}

#[test]
fn events_nobody_fetches_are_bounded_and_the_latest_stay() {
    let mut bench = Bench::new();
    for n in 0..2 * EVENTS_MAX as u32 {
        bench.answer(&config(A, n, ConfigCommand::ForceSet, n.to_string().as_bytes()));
    }
    let events = bench.events();
    assert_eq!(events.len(), EVENTS_MAX);
    assert!(matches!(events.last(), Some(Event::Edited { state, .. }) if state.config_string == b"127"));
}

#[test]
fn colleagues_kept_apart_are_bounded() {
    let mut bench = Bench::new();
    for n in 0..2 * COLLISIONS_MAX {
        let mut advert = config(MacAddr(2, 0, 0, 0, 3, n as u8), 0, ConfigCommand::Read, b"");
        advert[14] |= 0x08;
        bench.silent(&advert);
    }
    assert_eq!(bench.target.collisions.len(), COLLISIONS_MAX);
}

#[test]
fn answers_for_a_port_that_went_away_are_dropped() {
    let mut bench = Bench::with(PERSISTENT, [export(2)]);
    bench.receive(&read(A, 1, 0, 1));
    bench.receive(&write(A, 2, 8, 1));
    bench.receive(&write(A, 3, 8, 2));
    bench.receive(&flush(A, 4));
    bench.receive(&config(A, 5, ConfigCommand::Set, b"abc"));
    bench.set_port(PORT, None);
    bench.run();
    bench.stored(true);
    assert_eq!((bench.take(), bench.sector(8)), (vec![], 2));
}

#[test]
fn frames_may_grow_and_shrink_while_requests_run() {
    let mut bench = Bench::new();
    bench.receive(&read(A, 1, 0, 2));
    bench.receive(&write(A, 2, 8, 1));
    bench.set_port(PORT, port(TARGET, 9000));
    bench.take();
    bench.receive(&read(A, 3, 16, 17));
    bench.run();
    let lengths: Vec<_> = bench.take().iter().map(|answer| answer.bytes.len()).collect();
    assert_eq!(lengths, [36 + 1024, 60, 36 + 17 * SECTOR]);
    for tag in 10..13 {
        bench.receive(&read(A, tag, 0, 17));
    }
    bench.run();
    assert!(bench.take().iter().all(|answer| answer.outcome() == OK), "no short buffer is left in the pool");
    bench.set_port(PORT, port(TARGET, 1500));
    bench.take();
    assert_eq!(bench.answer(&read(A, 4, 0, 17)).error(), Some(ErrorCode::BadArgument));
    assert_eq!(bench.answer(&read(A, 5, 0, 2)).outcome(), OK);
}

impl Bench {
    /// A frame that has no answer while the disk stands still.
    fn silent_now(&mut self, frame: &[u8]) {
        self.receive(frame);
        assert_eq!(self.take(), []);
    }
}

// ---- Anything at all -----------------------------------------------------------------------------------------------

/// What can happen to an engine.
#[derive(Clone, Debug)]
enum Step {
    /// A good request, from one of three stations, then spoilt: bytes overwritten, the end cut off.
    Frame { pick: Index, station: Index, tag: u8, address: Index, lba: u8, spoil: Vec<(Index, u8)>, cut: Option<Index> },
    /// Any bytes behind an Ethernet header that passes.
    Bytes(Vec<u8>),
    /// An operation ends.
    End(Index, Result<(), DiskError>),
    /// Settings are stored, or not.
    Stored(bool),
    /// The port goes, changes or comes back.
    Port(Option<u32>),
    /// Time passes.
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let spoil = prop_oneof![
        2 => Just(vec![]),
        1 => proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4),
    ];
    let frame = (
        any::<Index>(),
        any::<Index>(),
        0u8..8,
        any::<Index>(),
        0u8..8,
        spoil,
        proptest::option::weighted(0.1, any::<Index>()),
    )
        .prop_map(|(pick, station, tag, address, lba, spoil, cut)| Step::Frame {
            pick,
            station,
            tag,
            address,
            lba,
            spoil,
            cut,
        });
    let error = prop_oneof![
        Just(DiskError::Io(5)),
        Just(DiskError::Lost(5)),
        Just(DiskError::NoSpace),
        Just(DiskError::Short),
        Just(DiskError::ReadOnly)
    ];
    let result = prop_oneof![9 => Just(Ok(())), 1 => error.prop_map(Err)];
    prop_oneof![
        12 => frame,
        1 => proptest::collection::vec(any::<u8>(), 0..80).prop_map(Step::Bytes),
        8 => (any::<Index>(), result).prop_map(|(at, result)| Step::End(at, result)),
        2 => any::<bool>().prop_map(Step::Stored),
        1 => prop_oneof![Just(None), Just(Some(0)), Just(Some(1500)), Just(Some(9000))].prop_map(Step::Port),
        1 => any::<u8>().prop_map(Step::Wait),
    ]
}

/// Requests that leave the lists mostly as they are, so that the stations go on being heard, and some that do not.
fn some_request(pick: Index, station: MacAddr, tag: u32, lba: u64) -> Vec<u8> {
    let mut frames = vec![
        read(station, tag, lba, 2),
        read(station, tag, lba, 17),
        write(station, tag, lba, tag as u8),
        write(station, tag, lba, tag as u8),
        write_as(command::WRITE_DMA_FUA_EXT, station, tag, lba, &[tag as u8; 2 * SECTOR]),
        command48(station, tag, command::ZERO_EXT, lba, 3),
        command48(station, tag, command::READ_VERIFY_EXT, lba, 1),
        trim(station, tag, &[(lba, 1), (lba + 2, 2), (lba + 1, 1)]),
        flush(station, tag),
        set_features(station, tag, feature::DISABLE_WRITE_CACHE),
        set_features(station, tag, feature::ENABLE_WRITE_CACHE),
        command48(station, tag, command::READ_LOG_EXT, 0x30 | lba << 8, 1),
        reserve(station, tag, ReserveCommand::ForceSet, &[A]),
        reserve(station, tag, ReserveCommand::Set, &[]),
        reserve(station, tag, ReserveCommand::ForceSet, &[]),
        admit(station, tag, &[A, B]),
        mask(station, tag, MaskCommand::Edit, &[(DirectiveCommand::Delete, A), (DirectiveCommand::Delete, B)]),
        config(station, tag, ConfigCommand::ForceSet, &[tag as u8]),
    ];
    frames.extend(every_command(station).into_iter().map(|(frame, _)| frame));
    pick.get(&frames).clone()
}

fn without_poison(mut frame: Vec<u8>) -> Vec<u8> {
    frame.iter_mut().filter(|byte| **byte == POISON).for_each(|byte| *byte = !POISON);
    frame
}

proptest! {
    /// The bench checks every answer and operation on the way, and table and pool at the end.
    #[test]
    fn nothing_that_arrives_breaks_the_engine(steps in proptest::collection::vec(step(), 1..120), wildcard_edits: bool) {
        let settings = EngineConfig { buffers: 24, persist: true, wildcard_edits };
        let small = |slot| ExportConfig { sectors: 24, cache: CacheMode::Auto, ..export(slot) };
        let mut bench = Bench::with(settings, [small(2), small(3)]);
        for step in steps {
            match step {
                Step::Frame { pick, station, tag, address, lba, spoil, cut } => {
                    let mut frame = some_request(pick, *station.get(&[A, B, C]), u32::from(tag), u64::from(lba));
                    frame = to(address.get::<&str>(&["e1.2", "e1.2", "e1.2", "e1.3", "e*.*"]), frame);
                    for (at, byte) in spoil {
                        // Mostly in the headers and registers, where it matters.
                        let reach = frame.len().min(if byte & 1 == 0 { 44 } else { usize::MAX });
                        frame[at.index(reach)] = byte;
                    }
                    if let Some(cut) = cut {
                        frame.truncate(cut.index(frame.len()));
                    }
                    bench.receive(&without_poison(frame));
                }
                Step::Bytes(bytes) => {
                    let mut frame = ethernet(BROADCAST, A);
                    frame.extend(bytes);
                    bench.receive(&without_poison(frame));
                }
                Step::End(at, result) if !bench.held.is_empty() => {
                    let at = at.index(bench.held.len());
                    let result = match bench.held[at].kind {
                        DiskOperationKind::Flush => result.map_err(|_| DiskError::Lost(5)),
                        _ => result,
                    };
                    bench.end(at, result);
                }
                Step::Stored(stored) if !bench.stores.is_empty() => bench.stored(stored),
                Step::Port(mtu) => bench.set_port(PORT, mtu.and_then(|mtu| port(TARGET, mtu))),
                Step::Wait(seconds) => bench.wait(u64::from(seconds)),
                Step::End(..) | Step::Stored(_) => {}
            }
            prop_assert!(bench.target.requests.len() <= settings.buffers);
            prop_assert!(bench.target.edits.len() <= 2 && bench.target.events.len() <= EVENTS_MAX);
        }
    }
}
