//! Unasked announcements.

use super::*;

/// Receivers and addresses of the adverts sent.
fn announced(bench: &mut Bench) -> Vec<(MacAddr, String)> {
    let sent = bench.take();
    sent.iter().map(|advert| (advert.to(), advert.header().address.to_string())).collect()
}

#[test]
fn the_bytes_of_an_advert() {
    let mut bench = Bench::with(SETTINGS, []);
    bench.add(export(2), StoredState { config_string: b"abc".to_vec(), ..StoredState::default() });
    let mut expected = hex("ffffffffffff 020000000101 88a2 18 00 0001 02 01 00000000 0010 0001 02 10 0003 616263");
    expected.resize(MIN_FRAME, 0);
    assert_eq!(bench.one().bytes, expected);
}

#[test]
fn ports_and_exports_announce_when_they_come_up_or_change() {
    let mut bench = Bench::with(SETTINGS, [export(2), export(3)]);
    let both = [(BROADCAST, "e1.2".to_owned()), (BROADCAST, "e1.3".to_owned())];

    bench.set_port(PortId(1), port(C, 1500));
    assert!(bench.sent.iter().all(|advert| advert.port == PortId(1)));
    assert_eq!(announced(&mut bench), both, "a port comes up");
    bench.set_port(PORT, port(TARGET, 1500));
    assert_eq!(announced(&mut bench), [], "nothing changed");
    bench.set_port(PORT, port(TARGET, 9000));
    assert!(bench.sent.iter().all(|advert| advert.port == PORT && advert.body()[4] == 16));
    assert_eq!(announced(&mut bench), both, "another MTU");
    bench.set_port(PORT, None);
    bench.set_port(PORT, port(TARGET, 9000));
    assert_eq!(announced(&mut bench), both, "back again");

    bench.disks[1].resize(4096 * SECTOR, 0);
    bench.target.resize(DiskId(1), 4096);
    bench.pull();
    let sent: Vec<_> = bench.take().iter().map(|advert| (advert.port, advert.header().address.slot)).collect();
    assert_eq!(sent, [(PORT, 3), (PortId(1), 3)], "another size, on every port");
    bench.target.resize(DiskId(1), 4096);
    bench.pull();
    assert_eq!(announced(&mut bench), []);
    let identify = bench.answer(&to("e1.3", identify(A, 1)));
    assert_eq!(Identify::parse(identify.data()).unwrap().sectors, 4096);

    bench.add(export(4), StoredState::default());
    assert_eq!(announced(&mut bench).len(), 2, "a new export, on every port");
}

#[test]
fn a_port_that_went_away_announces_nothing() {
    let mut bench = Bench::new();
    bench.target.set_port(PortId(1), port(C, 1500));
    bench.target.set_port(PortId(1), None);
    bench.pull();
    assert_eq!(bench.take(), []);
}

#[test]
fn listed_stations_are_told_one_by_one_and_nobody_else() {
    for (allow, mask, told) in [
        (vec![], vec![A, B], vec![A, B]),
        (vec![B, C], vec![], vec![B, C]),
        (vec![B, C], vec![A, B], vec![B]),
        (vec![C], vec![A], vec![]),
    ] {
        let mut bench = Bench::with(SETTINGS, []);
        bench.add(ExportConfig { allow, ..export(2) }, StoredState { mask, ..StoredState::default() });
        let stations: Vec<_> = announced(&mut bench).into_iter().map(|(station, _)| station).collect();
        assert_eq!(stations, told);
    }
}

#[test]
fn an_export_nobody_may_hear_of_does_not_hold_up_the_next() {
    let hidden = ExportConfig { allow: vec![A], ..export(2) };
    let mut bench = Bench::with(SETTINGS, []);
    bench.target.set_port(PORT, None);
    bench.add(hidden, StoredState { mask: vec![B], ..StoredState::default() });
    bench.add(export(3), StoredState::default());
    bench.set_port(PORT, port(TARGET, 1500));
    assert_eq!(announced(&mut bench), [(BROADCAST, "e1.3".to_owned())]);
}

#[test]
fn adverts_wait_for_a_buffer() {
    let mut bench = Bench::with(EngineConfig { buffers: 2, ..SETTINGS }, [export(2), export(3)]);
    bench.receive(&read(A, 1, 0, 1));
    bench.receive(&read(A, 2, 8, 1));
    bench.set_port(PORT, port(TARGET, 1400));
    assert_eq!(bench.take(), []);
    bench.run();
    let sent = bench.take();
    assert_eq!(sent.iter().filter(|sent| sent.to() == BROADCAST).count(), 2);
    assert_eq!(bench.target.counters().no_buffer, 0);
}

#[test]
fn sectors_per_command_follow_mtu_and_physical_sectors() {
    for (mtu, exponent, sectors) in [(1500, 3, 2), (1500, 0, 2), (9000, 3, 16), (9000, 0, 17), (4132, 3, 8)] {
        let mut bench = Bench::with(SETTINGS, [ExportConfig { physical_sector_exponent: exponent, ..export(2) }]);
        bench.set_port(PORT, port(TARGET, mtu));
        bench.take();
        let answer = bench.answer(&config(A, 1, ConfigCommand::Read, b""));
        assert_eq!(ConfigRepr::parse(answer.body(), true).unwrap().sector_count, sectors, "MTU {mtu}");
    }
}
