//! Which frames are heard, by which exports, and where the answers go.

use super::*;

/// Runs `check` on a fresh engine for one request of every command.
fn for_every_command(check: impl Fn(&mut Bench, Vec<u8>, usize)) {
    for (frame, fixed) in every_command(A) {
        check(&mut Bench::new(), frame, fixed);
    }
}

#[test]
fn every_command_is_answered_to_the_sender_under_its_tag() {
    for_every_command(|bench, frame, _| {
        let answer = bench.answer(&frame);
        let asked = Frame::parse(&frame).unwrap().header;
        assert_eq!(answer.to(), A);
        assert_eq!(
            (answer.header().tag, answer.header().command, answer.header().address),
            (asked.tag, asked.command, asked.address)
        );
    });
}

#[test]
fn an_unknown_command_is_named_so_and_its_argument_repeated() {
    let mut bench = Bench::new();
    bench.vector(A, "10 00 0001 02 09 00001234 01020304", "1c 01 0001 02 09 00001234 01020304");
    bench.vector(A, "10 00 0001 02 f7 00001234 01020304", "1c 01 0001 02 f7 00001234 01020304");
}

#[test]
fn other_versions_get_error_5_in_ours() {
    for version in (0..16).filter(|version| *version != VERSION) {
        for_every_command(|bench, mut frame, _| {
            frame[14] = version << 4;
            let answer = bench.answer(&frame);
            assert_eq!(answer.error(), Some(ErrorCode::UnsupportedVersion));
            assert!(bench.asked.is_empty());
        });
    }
}

#[test]
fn answers_are_not_answered() {
    for_every_command(|bench, mut frame, _| {
        frame[14] |= 0x08;
        bench.silent(&frame);
    });
}

#[test]
fn requests_to_others_are_not_answered() {
    for address in ["e1.3", "e2.2", "e258.1", "e*.3", "e2.*"] {
        for_every_command(|bench, frame, _| bench.silent(&to(address, frame)));
    }
}

#[test]
fn stations_off_the_mask_list_or_the_operators_list_hear_nothing() {
    for (allow, mask) in [(vec![], vec![B]), (vec![B], vec![]), (vec![B], vec![A]), (vec![A], vec![B])] {
        let mut bench = Bench::with(SETTINGS, []);
        bench.add(ExportConfig { allow, ..export(2) }, StoredState { mask, ..StoredState::default() });
        bench.take();
        for (mut frame, _) in every_command(A) {
            bench.silent(&frame);
            bench.silent(&to("e*.*", frame.clone()));
            frame[14] = 0x20;
            bench.silent(&frame);
        }
        assert_eq!(bench.export().counters.refused, 3 * every_command(A).len() as u64);
        assert!(bench.asked.is_empty());
    }
}

#[test]
fn frames_cut_short_are_met_with_silence() {
    for_every_command(|bench, frame, fixed| {
        for len in 0..fixed {
            bench.silent(&frame[..len]);
        }
        assert_eq!(bench.target.counters().malformed, fixed as u64);
        assert!(bench.asked.is_empty());
    });
}

#[test]
fn surplus_bytes_are_padding() {
    let mut bench = Bench::new();
    for surplus in [1, 2, 24, 512, 1024, 1464] {
        for (mut frame, _) in every_command(A) {
            let last = frame.len() + surplus;
            frame.resize(last, 0xed);
            assert!(bench.ask(&frame).len() <= 1);
        }
        let mut probe = read(A, surplus as u32 + 100, 0, 2);
        probe.resize(36 + surplus, 0);
        assert_eq!(bench.answer(&probe).data(), [1; SECTOR].iter().chain(&[2; SECTOR]).copied().collect::<Vec<_>>());
    }
}

#[test]
fn a_group_address_is_no_sender() {
    for mac in [BROADCAST, MacAddr(1, 0, 0x5e, 0, 0, 1), MacAddr(3, 0, 0, 0, 0, 0xa)] {
        let mut bench = Bench::new();
        for (frame, _) in every_command(mac) {
            bench.silent(&frame);
        }
    }
}

#[test]
fn frames_to_another_station_are_not_for_us() {
    for_every_command(|bench, mut frame, _| {
        frame[..6].copy_from_slice(&B.octets());
        bench.silent(&frame);
        frame[..6].copy_from_slice(&BROADCAST.octets());
        assert_eq!(bench.ask(&frame).len(), 1, "but those to everybody are");
    });
}

#[test]
fn a_vlan_tag_with_an_id_is_foreign_and_one_without_is_a_priority() {
    let tagged = |tci: u16| {
        let mut frame = read(A, 1, 3, 1);
        let [high, low] = tci.to_be_bytes();
        frame.splice(12..12, [0x81, 0x00, high, low]);
        frame
    };
    let mut bench = Bench::new();
    bench.silent(&tagged(5));
    bench.silent(&tagged(0xffff));
    for tci in [0, 0xe000] {
        let answer = bench.answer(&tagged(tci));
        assert_eq!((answer.frame().ethernet.vlan, answer.outcome()), (None, OK));
    }
}

#[test]
fn a_port_that_is_not_there_hears_nothing() {
    let mut bench = Bench::new();
    bench.receive_on(PortId(7), &read(A, 1, 0, 1));
    assert_eq!(bench.take(), []);
}

#[test]
fn answers_leave_where_the_request_came_in() {
    let mut bench = Bench::new();
    let second = MacAddr(2, 0, 0, 0, 1, 2);
    bench.set_port(PortId(1), port(second, 1500));
    bench.take();
    let mut frame = read(A, 1, 0, 1);
    frame[..6].copy_from_slice(&second.octets());
    bench.silent(&frame);
    bench.receive_on(PortId(1), &frame);
    bench.run();
    let answer = bench.one();
    assert_eq!((answer.port, answer.frame().ethernet.source), (PortId(1), second));
}

#[test]
fn wildcards_reach_each_export_they_match_once() {
    let other_shelf = ExportConfig { address: Address::new(2, 2), ..export(2) };
    let mut bench = Bench::with(SETTINGS, [export(2), export(3), other_shelf]);
    for (address, reached) in [
        ("e*.*", &["e1.2", "e1.3", "e2.2"][..]),
        ("e*.2", &["e1.2", "e2.2"]),
        ("e1.*", &["e1.2", "e1.3"]),
        ("e2.*", &["e2.2"]),
        ("e*.4", &[]),
        ("e3.*", &[]),
    ] {
        for frame in [config(A, 7, ConfigCommand::Read, b""), identify(A, 7), read(A, 7, 0, 1)] {
            let mut frame = to(address, frame);
            frame[..6].copy_from_slice(&BROADCAST.octets());
            let answers = bench.ask(&frame);
            let own: Vec<_> = answers.iter().map(|answer| answer.header().address.to_string()).collect();
            assert_eq!(own, reached, "{address}");
            for answer in answers {
                assert_eq!((answer.to(), answer.header().tag, answer.error()), (A, 7, None));
            }
        }
    }
}

#[test]
fn edits_by_wildcard_are_refused_unless_allowed() {
    let edits = || {
        [
            config(A, 1, ConfigCommand::Set, b"abc"),
            config(A, 2, ConfigCommand::ForceSet, b"xyz"),
            admit(A, 3, &[A]),
            reserve(A, 4, ReserveCommand::Set, &[A]),
            reserve(A, 5, ReserveCommand::ForceSet, &[A, B]),
        ]
    };
    for address in ["e*.*", "e*.2", "e1.*"] {
        let mut bench = Bench::with(PERSISTENT, [export(2)]);
        for edit in edits() {
            bench.receive(&to(address, edit));
            assert_eq!(bench.one().error(), Some(ErrorCode::BadArgument));
        }
        assert!(bench.stores.is_empty());
        assert_eq!(bench.export().stored(), StoredState::default());

        let mut bench = Bench::with(EngineConfig { wildcard_edits: true, ..PERSISTENT }, [export(2)]);
        for edit in edits() {
            let answer = bench.answer(&to(address, edit));
            assert_eq!(answer.error(), None, "{answer:x?}");
        }
        let all = StoredState {
            config_string: b"xyz".to_vec(),
            mask: vec![A],
            reservation: vec![A, B],
            lost: None,
            cleared: 0,
        };
        assert_eq!(bench.export().stored(), all);
    }
}

#[test]
fn a_colleague_under_our_address_is_reported_once_a_minute() {
    let mut bench = Bench::new();
    bench.set_port(PortId(1), port(C, 1500));
    bench.take();
    let advert = |station: MacAddr, address: &str| {
        let mut frame = to(address, config(station, 0, ConfigCommand::Read, b""));
        frame[14] |= 0x08;
        frame[..6].copy_from_slice(&BROADCAST.octets());
        frame
    };
    let collision = |station| Event::AddressCollision { address: Address::new(1, 2), station, port: PORT };
    bench.silent(&advert(B, "e1.2"));
    bench.silent(&advert(B, "e1.2"));
    bench.silent(&advert(A, "e1.2"));
    bench.silent(&advert(B, "e1.3"));
    bench.silent(&advert(C, "e1.2"));
    bench.silent(&advert(TARGET, "e1.2"));
    assert_eq!(bench.events(), [collision(B), collision(A)], "not of other addresses, nor of our own ports");
    bench.wait(59);
    bench.silent(&advert(B, "e1.2"));
    assert_eq!(bench.events(), []);
    bench.wait(1);
    bench.silent(&advert(B, "e1.2"));
    assert_eq!(bench.events(), [collision(B)]);
}
