//! ATA commands: registers, limits, data.

use super::*;

fn vector(bench: &mut Bench, request: &str, response: &str) {
    bench.vector(A, &format!("10 00 0001 02 00 00001234 {request}"), &format!("18 00 0001 02 00 00001234 {response}"));
}

fn sector_of(byte: u8) -> String {
    format!("{byte:02x}").repeat(SECTOR)
}

#[test]
fn a_read_brings_its_sectors() {
    let mut bench = Bench::new();
    let data = sector_of(content(3)) + &sector_of(content(4));
    vector(&mut bench, "40 00 02 24 03 00 00 00 00 00 0000", &format!("40 00 00 40 03 00 00 00 00 00 0000 {data}"));
    vector(&mut bench, "00 00 02 20 03 00 00 e0 00 00 0000", &format!("00 00 00 40 03 00 00 e0 00 00 0000 {data}"));
    assert_eq!((bench.export().counters.reads, bench.export().counters.read_bytes), (2, 2048));
}

#[test]
fn a_read_over_the_frames_limit_is_a_bad_argument() {
    let mut bench = Bench::new();
    for count in ["03", "00", "ff"] {
        let arguments = format!("40 00 {count} 24 03 00 00 00 00 00 0000");
        bench.vector(
            A,
            &format!("10 00 0001 02 00 00001234 {arguments}"),
            &format!("1c 02 0001 02 00 00001234 {arguments}"),
        );
    }
    assert!(bench.asked.is_empty());
}

#[test]
fn a_frames_limit_is_its_ports_limit_not_what_is_advertised() {
    let mut bench = Bench::new();
    bench.set_port(PORT, port(TARGET, 9000));
    bench.take();
    let answer = bench.answer(&read(A, 1, 0, 17));
    assert_eq!((answer.outcome(), answer.bytes.len()), (OK, 36 + 17 * SECTOR));
    let sectors: Vec<u8> = (0..17).flat_map(|lba| [content(lba); SECTOR]).collect();
    assert_eq!(answer.data(), sectors);
    let data = vec![0x33; 17 * SECTOR];
    assert_eq!(bench.answer(&write_as(command::WRITE_DMA_EXT, A, 2, 100, &data)).outcome(), OK);
    assert_eq!((bench.sector(100), bench.sector(116), bench.sector(117)), (0x33, 0x33, content(117)));
    assert_eq!(bench.answer(&read(A, 3, 0, 18)).error(), Some(ErrorCode::BadArgument));
}

#[test]
fn there_is_nothing_beyond_the_end() {
    let mut bench = Bench::new();
    vector(&mut bench, "40 00 01 24 00 08 00 00 00 00 0000", "40 10 01 41 00 08 00 00 00 00 0000");
    assert_eq!(bench.answer(&read(A, 1, SECTORS - 1, 2)).outcome(), NO_SUCH_SECTOR);
    assert_eq!(bench.answer(&read(A, 2, (1 << 48) - 1, 1)).outcome(), NO_SUCH_SECTOR);
    assert_eq!(bench.answer(&write(A, 3, SECTORS, 1)).outcome(), NO_SUCH_SECTOR);
    assert!(bench.asked.is_empty());
    assert_eq!(bench.answer(&read(A, 4, SECTORS - 2, 2)).outcome(), OK);
}

#[test]
fn after_a_resize_the_end_is_elsewhere() {
    let mut bench = Bench::new();
    bench.target.resize(DISK, SECTORS / 2);
    bench.pull();
    bench.take();
    assert_eq!(bench.answer(&read(A, 1, SECTORS / 2, 1)).outcome(), NO_SUCH_SECTOR);
}

#[test]
fn what_waits_beyond_a_new_end_never_runs_and_is_refused_when_it_comes_again() {
    let mut bench = Bench::new();
    let end = SECTORS / 2;
    bench.receive(&write(A, 1, end, 0x11));
    bench.receive(&write(A, 2, end, 0x22));
    bench.receive(&write(A, 3, end - 1, 0x33));
    bench.target.resize(DISK, end);
    bench.pull();
    assert_eq!(bench.held.len(), 2, "what the disk has already is not taken back");
    bench.run();
    assert_eq!((bench.asked.len(), bench.sector(end), bench.sector(end - 1)), (2, 0x11, 0x33));
    bench.take();
    assert_eq!(bench.answer(&write(A, 2, end, 0x22)).outcome(), NO_SUCH_SECTOR);
}

#[test]
fn a_trim_cut_off_by_a_new_end_does_not_say_it_succeeded() {
    let mut bench = Bench::new();
    bench.receive(&trim(A, 1, &[(0, 1), (SECTORS - 1, 1)]));
    bench.target.resize(DISK, SECTORS / 2);
    bench.pull();
    bench.take();
    bench.run();
    assert_eq!((bench.asked.len(), bench.one().outcome()), (1, NO_SUCH_SECTOR));
}

#[test]
fn a_write_stores_its_sectors_and_sends_none_back() {
    let mut bench = Bench::new();
    let request = format!("41 00 01 34 07 00 00 00 00 00 0000 {}", sector_of(0x77));
    vector(&mut bench, &request, "41 00 00 40 07 00 00 00 00 00 0000");
    assert_eq!((bench.sector(6), bench.sector(7), bench.sector(8)), (content(6), 0x77, content(8)));
    assert_eq!((bench.export().counters.writes, bench.export().counters.write_bytes), (1, 512));
}

#[test]
fn a_write_with_less_data_than_it_says_is_a_bad_argument() {
    let mut bench = Bench::new();
    let frame = write(A, 1, 0, 0x77);
    for len in [36, 37, 60, frame.len() - 1] {
        assert_eq!(bench.answer(&frame[..len]).error(), Some(ErrorCode::BadArgument));
    }
    assert!(bench.asked.is_empty());
}

#[test]
fn a_read_only_export_takes_no_writes() {
    let mut bench = Bench::with(SETTINGS, [ExportConfig { read_only: true, ..export(2) }]);
    let request = format!("41 00 01 34 07 00 00 00 00 00 0000 {}", sector_of(0x77));
    vector(&mut bench, &request, "41 04 01 41 07 00 00 00 00 00 0000");
    assert_eq!(bench.answer(&trim(A, 1, &[(0, 1)])).outcome(), ABORTED);
    assert_eq!(bench.answer(&command48(A, 2, command::ZERO_EXT, 0, 1)).outcome(), ABORTED);
    assert!(bench.asked.is_empty());
}

#[test]
fn a_flush_reaches_the_disk_and_flush_ext_says_which_memory_that_was() {
    let cache_memory = CacheMemory { host: 0xabcdef, life: 0x123456 };
    let mut bench = Bench::with(SETTINGS, [ExportConfig { cache_memory, ..export(2) }]);
    vector(&mut bench, "40 00 00 ea 00 00 00 00 00 00 0000", "40 00 00 40 56 34 12 ef cd ab 0000");
    vector(&mut bench, "00 00 00 e7 00 00 00 a0 00 00 0000", "00 00 00 40 00 00 00 a0 00 00 0000");
    assert_eq!(bench.asked, [DiskOperationKind::Flush, DiskOperationKind::Flush]);
}

#[test]
fn the_power_mode_is_active() {
    let mut bench = Bench::new();
    vector(&mut bench, "00 00 00 e5 00 00 00 a0 00 00 0000", "00 00 ff 40 00 00 00 a0 00 00 0000");
}

#[test]
fn unsupported_commands_are_aborted() {
    let mut bench = Bench::new();
    vector(&mut bench, "40 da 01 b0 00 4f c2 a0 00 00 0000", "40 04 01 41 00 4f c2 a0 00 00 0000");
}

#[test]
fn identify_tells_size_and_names() {
    let mut bench = Bench::new();
    let answer = bench.answer(&identify(A, 1));
    assert_eq!((answer.outcome(), answer.bytes.len()), (OK, 36 + SECTOR));
    let identify = Identify::parse(answer.data()).unwrap();
    assert_eq!((identify.sectors, &*identify.serial, &*identify.model), (SECTORS, "SERIAL", "MODEL"));
    assert!(identify.exactly_once && identify.flush_ext && identify.fua && identify.write_cache);
    assert_eq!(identify.cache_memory, Some(export(2).cache_memory));
}

#[test]
fn verify_reads_and_sends_nothing() {
    let mut bench = Bench::new();
    let answer = bench.answer(&command48(A, 1, command::READ_VERIFY_EXT, 3, 2));
    assert_eq!((answer.outcome(), answer.bytes.len()), (OK, MIN_FRAME));
    assert!(answer.data().iter().all(|byte| *byte == 0));
    assert_eq!(bench.asked, [DiskOperationKind::Read { offset: 1536, len: 1024 }]);
    bench.receive(&command48(A, 2, command::READ_VERIFY_EXT, 3, 2));
    bench.end(0, Err(DiskError::Io(5)));
    assert_eq!(bench.one().outcome(), (0x41, 0x40));
}

#[test]
fn a_failed_read_says_why_and_sends_nothing() {
    for (error, outcome) in [(DiskError::Io(5), (0x41, 0x40)), (DiskError::Short, NO_SUCH_SECTOR)] {
        let mut bench = Bench::new();
        bench.receive(&read(A, 1, 3, 2));
        bench.end(0, Err(error));
        let answer = bench.one();
        assert_eq!((answer.outcome(), answer.ata().count, answer.bytes.len()), (outcome, 2, MIN_FRAME));
        assert!(answer.data().iter().all(|byte| *byte == 0));
        assert_eq!(bench.events(), [Event::DiskFailed { address: Address::new(1, 2), error }]);
    }
}

#[test]
fn zero_ext_keeps_the_space() {
    let mut bench = Bench::new();
    let answer = bench.answer(&command48(A, 1, command::ZERO_EXT, 10, 200));
    assert_eq!(answer.outcome(), OK);
    let zero = DiskOperationKind::Zero { offset: 5120, len: 102_400, unmap: false, durable: false };
    assert_eq!(bench.asked, [zero]);
    assert_eq!((bench.sector(9), bench.sector(10), bench.sector(209)), (content(9), 0, 0));
    assert_eq!(bench.answer(&command48(A, 2, command::ZERO_EXT, SECTORS - 1, 2)).outcome(), NO_SUCH_SECTOR);
    assert_eq!(bench.answer(&command48(A, 3, command::ZERO_EXT, 0, 0)).outcome(), ABORTED);
}

#[test]
fn logs_name_zero_ext() {
    let mut bench = Bench::new();
    let log = |log: u64, page: u64| command48(A, 1, command::READ_LOG_EXT, log | page << 8, 1);
    let directory = bench.answer(&log(0, 0));
    assert_eq!(
        (directory.outcome(), &directory.data()[..2], &directory.data()[0x60..0x62]),
        (OK, &[1, 0][..], &[4, 0][..])
    );
    let copy = bench.answer(&log(0x30, 1));
    assert_eq!(copy.data(), bench.answer(&identify(A, 2)).data());
    let capabilities = bench.answer(&log(0x30, 3));
    assert_eq!(capabilities.data()[8..16], [0, 0, 0, 0, 0, 0, 1, 0x80]);
    assert_eq!(bench.answer(&log(0x30, 2)).outcome(), ABORTED);
    assert_eq!(bench.answer(&log(0x10, 0)).outcome(), ABORTED);
    assert!(bench.asked.is_empty());
}

// ---- TRIM ----------------------------------------------------------------------------------------------------------

#[test]
fn trim_ranges_run_one_after_another_and_the_last_is_durable() {
    let mut bench = Bench::with(SETTINGS, [ExportConfig { cache: CacheMode::Writethrough, ..export(2) }]);
    bench.receive(&trim(A, 1, &[(10, 2), (0, 0), (100, 1), (50, 3)]));
    let part = |lba: u64, sectors: u64, durable| DiskOperationKind::Zero {
        offset: lba * SECTOR as u64,
        len: sectors * SECTOR as u64,
        unmap: true,
        durable,
    };
    for (done, kind) in [part(10, 2, false), part(100, 1, false), part(50, 3, true)].into_iter().enumerate() {
        assert_eq!((bench.held.len(), bench.asked.len(), bench.held[0].kind), (1, done + 1, kind));
        assert_eq!(bench.take(), []);
        bench.end(0, Ok(()));
    }
    let answer = bench.one();
    assert_eq!((answer.outcome(), answer.bytes.len()), (OK, MIN_FRAME));
    assert!(answer.data().iter().all(|byte| *byte == 0), "the ranges do not come back");
    assert_eq!([11, 12, 50, 52, 53, 100].map(|lba| bench.sector(lba)), [0, content(12), 0, 0, content(53), 0]);
    assert_eq!(bench.export().counters.trims, 1);
}

#[test]
fn trim_in_writeback_mode_is_not_durable() {
    let mut bench = Bench::new();
    bench.answer(&trim(A, 1, &[(0, 1)]));
    assert_eq!(bench.asked, [DiskOperationKind::Zero { offset: 0, len: 512, unmap: true, durable: false }]);
}

#[test]
fn a_trim_range_beyond_the_end_fails_before_anything_ran() {
    let mut bench = Bench::new();
    for beyond in [(SECTORS, 1), (SECTORS - 1, 2), ((1 << 48) - 1, 0xffff)] {
        assert_eq!(bench.answer(&trim(A, 1, &[(0, 1), beyond])).outcome(), NO_SUCH_SECTOR);
    }
    assert!(bench.asked.is_empty());
}

#[test]
fn a_trim_of_nothing_succeeds() {
    let mut bench = Bench::new();
    assert_eq!(bench.answer(&trim(A, 1, &[])).outcome(), OK);
    assert_eq!(bench.answer(&trim(A, 2, &[(5000, 0)])).outcome(), OK);
    assert!(bench.asked.is_empty());
}

#[test]
fn a_trim_stops_at_its_first_failure() {
    let mut bench = Bench::new();
    bench.receive(&trim(A, 1, &[(0, 1), (10, 1), (20, 1)]));
    bench.end(0, Ok(()));
    bench.end(0, Err(DiskError::Io(5)));
    assert_eq!(bench.one().outcome(), FAULT);
    assert_eq!([0, 10, 20].map(|lba| bench.sector(lba)), [0, content(10), content(20)]);
}
