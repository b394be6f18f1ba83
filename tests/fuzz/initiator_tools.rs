//! Discovery, and the conversations of the tools, against targets that answer whatever they like.

use std::collections::{BTreeMap, VecDeque};

use aoe_common::addr::Address;
use aoe_common::ata::{Identify, command};
use aoe_common::frame::{MIN_FRAME, SECTOR};
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{
    AtaRepr, BROADCAST, Command, ConfigCommand, ConfigRepr, DirectiveCommand, DirectiveRepr, ErrorCode, EthernetRepr,
    Frame, HeaderRepr, MacAddr, MaskCommand, MaskError, MaskRepr, ReserveCommand, ReserveRepr, VERSION,
};
use aoe_initiator::engine::{
    ANSWERERS_MAX, Asking, Checking, Conversation, DIRECTIVES_MAX, Discovery, FOUND_MAX, FRAME_MAX, Holder, Masking,
    Ping, Pinging, PortId, PortInfo, STATIONS_MAX, TARGETS_MAX, Way, WayReport, Wish,
};

use super::Bytes;

/// Sent frames that can still be answered.
const REMEMBERED: usize = 32;
/// When a story begins.
const START: Instant = Instant::from_nanos(1_000_000_000_000);

/// Stories of the same input.
pub fn run(data: &[u8]) {
    for story in [discovery, masking, pinging, asking, checking] {
        story(&mut Bytes::new(data));
    }
}

fn mac(number: u8) -> MacAddr {
    MacAddr(2, 0, 0, 0, 0, number)
}

fn any_ports(bytes: &mut Bytes<'_>) -> BTreeMap<PortId, PortInfo> {
    let count = bytes.below(4);
    (0..count).map(|number| (PortId(number as u32), PortInfo { mac: mac(number as u8), mtu: 1500 })).collect()
}

fn any_address(bytes: &mut Bytes<'_>) -> Address {
    match bytes.below(8) {
        0 => Address::new(bytes.u16(), bytes.u8()),
        1 => Address::ANY,
        _ => Address::new(1, bytes.u8() & 3),
    }
}

/// Looks at a frame that is to be sent.
fn check_frame(ports: &BTreeMap<PortId, PortInfo>, port: PortId, bytes: &[u8]) {
    let frame = Frame::parse(bytes).expect("what is sent can be parsed");
    assert!(!frame.header.response && frame.header.version == VERSION && frame.header.tag & 1 << 31 != 0);
    let info = ports.get(&port).expect("frames go to ports that are there");
    assert_eq!(frame.ethernet.source, info.mac);
    assert!((MIN_FRAME..=14 + info.mtu as usize).contains(&bytes.len()), "{} bytes", bytes.len());
}

/// An answer to one of the frames that were sent, or an advert; honest or not.
fn any_answer(sent: &VecDeque<(PortId, Vec<u8>)>, bytes: &mut Bytes<'_>) -> (PortId, Vec<u8>) {
    let asked = (!sent.is_empty()).then(|| &sent[bytes.below(sent.len())]);
    let port = asked.map_or(PortId(0), |(port, _)| *port);
    let frame = asked.map(|(_, frame)| Frame::parse(frame).expect("it was sent"));
    let target = match frame {
        Some(frame) if frame.ethernet.destination != BROADCAST && !bytes.rarely(16) => frame.ethernet.destination,
        _ => MacAddr(2, 0, 0, 0, 1 + bytes.u8() % 2, bytes.u8()),
    };
    let to = frame.map_or(BROADCAST, |frame| frame.ethernet.source);
    let ethernet =
        EthernetRepr { destination: to, source: if bytes.rarely(32) { BROADCAST } else { target }, vlan: None };
    let mut header = frame.map_or(
        HeaderRepr {
            version: VERSION,
            response: true,
            error: None,
            address: any_address(bytes),
            command: Command::Config,
            tag: 0,
        },
        |frame| HeaderRepr { response: true, ..frame.header },
    );
    // A question to everybody is answered by single exports.
    if header.address.is_wildcard() || bytes.rarely(16) {
        header.address = any_address(bytes);
    }
    match bytes.below(32) {
        0 => header.tag = header.tag.wrapping_add(u32::from(bytes.u8())),
        1 => header.error = Some(ErrorCode::from(bytes.u8())),
        2 => header.command = Command::from(bytes.u8()),
        3 => header.response = false,
        _ => {}
    }
    let request = frame.map_or(&[][..], |frame| frame.body);
    let body = any_body(header.command, request, bytes);
    let mut out = vec![0; (ethernet.wire_len() + HeaderRepr::WIRE_LEN + body.len()).max(MIN_FRAME)];
    Frame::emit_headers(&ethernet, &header, &mut out)[..body.len()].copy_from_slice(&body);
    if bytes.rarely(16) {
        out.truncate(usize::from(bytes.u8()));
    }
    let port = if bytes.rarely(16) { PortId(bytes.below(5) as u32) } else { port };
    (port, out)
}

fn any_body(command: Command, request: &[u8], bytes: &mut Bytes<'_>) -> Vec<u8> {
    match command {
        Command::Config => {
            let string = bytes.chunk();
            let asked = ConfigRepr::parse(request, false).map_or(ConfigCommand::Read, |config| config.command);
            let repr = ConfigRepr::answer(bytes.u16(), bytes.u16(), bytes.u8(), asked, string);
            let mut body = vec![0; repr.wire_len()];
            repr.emit(&mut body);
            body
        }
        Command::Ata => {
            let status = if bytes.rarely(4) { bytes.u8() } else { 0x40 };
            let identify = Identify { sectors: bytes.u64() >> bytes.below(64), ..Identify::default() };
            let mut body = vec![0; AtaRepr::WIRE_LEN];
            body[3] = status;
            match AtaRepr::parse(request) {
                Ok((ata, _)) if ata.command == command::READ_SECTORS_EXT => {
                    body.resize(AtaRepr::WIRE_LEN + usize::from(ata.count) * SECTOR, bytes.u8() & 1);
                }
                _ => body.extend(identify.emit()),
            }
            body
        }
        Command::Mask => {
            let asked = MaskRepr::parse(request).map_or(MaskCommand::Read, |(mask, _)| mask.command);
            let command = if bytes.rarely(16) { MaskCommand::from(bytes.u8()) } else { asked };
            let error =
                if bytes.rarely(16) { Some(bytes.pick(&[MaskError::Full, MaskError::Unspecified])) } else { None };
            let count = match bytes.below(16) {
                0 => bytes.below(256),
                1 => 178 + bytes.below(4),
                number => number % 3,
            };
            let mut body = vec![0; MaskRepr::FIXED_LEN + count * MaskRepr::DIRECTIVE_LEN];
            let first = bytes.u8();
            let entries = (0..count).map(|number| DirectiveRepr {
                command: DirectiveCommand::None,
                mac: mac(first.wrapping_add(number as u8)),
            });
            MaskRepr { command, error, directive_count: count as u8 }.emit(entries, &mut body);
            body
        }
        Command::Reserve => {
            let asked = ReserveRepr::parse(request).map_or(ReserveCommand::Read, |(reserve, _)| reserve.command);
            let count = bytes.below(4);
            let mut body = vec![0; ReserveRepr::FIXED_LEN + count * ReserveRepr::MAC_LEN];
            let repr = ReserveRepr { command: asked, mac_count: count as u8 };
            repr.emit((0..count).map(|number| mac(number as u8)), &mut body);
            body
        }
        _ => bytes.take(16).to_vec(),
    }
}

/// Holds a conversation to its end. `look` sees each frame that is sent, and how things are after each turn.
fn hold<C: Conversation>(
    talk: &mut C,
    ports: &BTreeMap<PortId, PortInfo>,
    bytes: &mut Bytes<'_>,
    mut look: impl FnMut(&mut C, Option<&Frame<'_>>),
) {
    let mut now = START;
    let mut sent: VecDeque<(PortId, Vec<u8>)> = VecDeque::new();
    let mut out = vec![0; FRAME_MAX];
    loop {
        while let Some((port, len)) = talk.poll_transmit(now, &mut out) {
            check_frame(ports, port, &out[..len]);
            look(talk, Some(&Frame::parse(&out[..len]).expect("it was just checked")));
            sent.push_back((port, out[..len].to_vec()));
            if sent.len() > REMEMBERED {
                sent.pop_front();
            }
        }
        look(talk, None);
        if talk.is_over(now) {
            return;
        }
        let due = talk.poll_timeout(now).expect("it goes on");
        assert!(due > now, "nothing is due twice");
        if bytes.is_empty() || bytes.rarely(8) {
            now = due;
            continue;
        }
        now = due.min(now + Duration::from_micros(bytes.u8().into()));
        let (port, frame) =
            if bytes.rarely(16) { (PortId(0), bytes.chunk().to_vec()) } else { any_answer(&sent, bytes) };
        talk.handle_frame(now, port, &frame);
    }
}

fn pinging(bytes: &mut Bytes<'_>) {
    let ports = any_ports(bytes);
    let (device, identify) = (any_address(bytes), bytes.bool());
    let interval = Duration::from_millis(1 + u64::from(bytes.u8()));
    let patience = Duration::from_millis(bytes.u8().into());
    let ping = Ping { device, identify, count: Some(1 + bytes.below(5) as u64), interval, patience };
    let mut talk = Pinging::new(START, ping, bytes.u32(), ports.clone());
    hold(&mut talk, &ports, bytes, |talk, frame| {
        if let Some(frame) = frame {
            let asked =
                if identify && frame.ethernet.destination != BROADCAST { Command::Ata } else { Command::Config };
            assert!(frame.header.command == asked && device.reaches(frame.header.address));
        }
        while let Some(pong) = talk.poll_pong() {
            assert!(device.reaches(pong.address) && ports.contains_key(&pong.port) && pong.round <= talk.rounds());
            assert!(!pong.late || pong.took > patience);
        }
        assert!(talk.reports().count() <= ANSWERERS_MAX);
        for (_, _, _, report) in talk.reports() {
            assert!(report.late <= report.answered && report.refused <= report.answered);
            assert!(report.answered <= report.sent && report.sent <= talk.rounds());
            assert!((0.0..=100.0).contains(&report.loss_percent()));
        }
    });
}

fn asking(bytes: &mut Bytes<'_>) {
    let mut ports = any_ports(bytes);
    ports.entry(PortId(0)).or_insert(PortInfo { mac: mac(0), mtu: 1500 });
    let wish = if bytes.bool() {
        let string = bytes.chunk();
        Wish::Config(ConfigCommand::from(bytes.u8() % 5), string.to_vec())
    } else {
        let count = if bytes.rarely(8) { STATIONS_MAX } else { bytes.below(4) };
        Wish::Reserve(ReserveCommand::from(bytes.u8() % 3), vec![mac(bytes.u8()); count])
    };
    let holder = |slot: usize| Holder {
        address: Address::new(1, slot as u8),
        target: MacAddr(2, 0, 0, 0, 1, slot as u8),
        ports: ports.keys().copied().collect(),
    };
    let holders: Vec<_> = (0..bytes.below(4)).map(holder).collect();
    let deadline = START + Duration::from_secs(3);
    let mut talk = Asking::new(START, deadline, wish.clone(), holders.clone(), bytes.u32(), ports.clone());
    hold(&mut talk, &ports, bytes, |talk, frame| {
        if let Some(frame) = frame {
            match &wish {
                Wish::Config(command, string) => {
                    let config = ConfigRepr::parse(frame.body, false).expect("our own");
                    assert!(config.command == *command && (*command == ConfigCommand::Read || config.string == string));
                }
                Wish::Reserve(command, stations) => {
                    let (reserve, sent) = ReserveRepr::parse(frame.body).expect("our own");
                    assert!(reserve.command == *command && sent.eq(stations.iter().copied()), "only what was wished");
                }
            }
            assert!(holders.iter().any(|holder| holder.target == frame.ethernet.destination));
        }
        assert!(talk.said().map(|(holder, _)| holder).eq(&holders));
    });
}

fn checking(bytes: &mut Bytes<'_>) {
    let ports: BTreeMap<_, _> =
        [(0, 9000), (1, 1500)].map(|(number, mtu)| (PortId(number), PortInfo { mac: mac(number as u8), mtu })).into();
    let disk = Address::new(1, 1);
    let way = |bytes: &mut Bytes<'_>, number: usize| Way {
        mac: MacAddr(2, 0, 0, 0, 1, number as u8),
        port: PortId(bytes.below(2) as u32),
        buffers: bytes.u8().into(),
        offered: bytes.u8(),
        sectors: 1 + (bytes.u64() >> (16 + bytes.below(48))),
        lba48: true,
    };
    let ways: Vec<_> = (0..bytes.below(3)).map(|number| way(bytes, number)).collect();
    let load = Duration::from_millis(bytes.u8().into());
    let mut talk = Checking::new(disk, ways.clone(), load, bytes.u32(), ports.clone());
    hold(&mut talk, &ports, bytes, |talk, frame| {
        if let Some(frame) = frame {
            let way = ways.iter().find(|way| way.mac == frame.ethernet.destination).expect("one of the ways");
            match frame.header.command {
                Command::Config => {
                    let config = ConfigRepr::parse(frame.body, false).expect("our own");
                    assert_eq!(config.command, ConfigCommand::Read, "nothing is changed");
                }
                Command::Ata => {
                    let (ata, _) = AtaRepr::parse(frame.body).expect("our own");
                    assert_eq!(ata.command, command::READ_SECTORS_EXT, "nothing is written");
                    assert!(ata.count > 0 && ata.lba() + u64::from(ata.count) <= way.sectors, "within the disk");
                }
                other => panic!("{other:?} was sent"),
            }
        }
        for (_, report) in talk.reports() {
            let WayReport { claimed, reads, requests, load, .. } = report;
            assert!(reads <= claimed && requests <= claimed && load.answered <= load.sent);
            assert!(load.late <= load.answered && load.ordered <= load.answered && load.overtaken <= load.ordered);
        }
    });
}

fn discovery(bytes: &mut Bytes<'_>) {
    let mut now = Instant::ZERO + Duration::from_secs(1000);
    let ports = any_ports(bytes);
    let wanted = any_address(bytes);
    let mut search = Discovery::new(now, wanted, bytes.u32(), ports.clone());
    let mut sent: VecDeque<(PortId, Vec<u8>)> = VecDeque::new();
    let mut frames = 0;
    let mut out = vec![0; FRAME_MAX];
    loop {
        while let Some((port, len)) = search.poll_transmit(now, &mut out) {
            check_frame(&ports, port, &out[..len]);
            sent.push_back((port, out[..len].to_vec()));
            if sent.len() > REMEMBERED {
                sent.pop_front();
            }
            frames += 1;
        }
        let found = search.found().count();
        assert!(found <= FOUND_MAX);
        assert!(frames <= 3 * ports.len() + 4 * found, "{frames} frames to {found} answerers");
        for found in search.found() {
            assert!(wanted.reaches(found.address) && !found.address.is_wildcard() && ports.contains_key(&found.port));
        }
        let due = search.poll_timeout(now);
        assert!(due.is_none_or(|due| due > now), "nothing is due twice");
        let sleeps = bytes.is_empty() || bytes.rarely(8);
        match due {
            Some(due) if sleeps => {
                now = due;
                continue;
            }
            None if bytes.is_empty() => break,
            _ => {}
        }
        let (port, frame) =
            if bytes.rarely(16) { (PortId(0), bytes.chunk().to_vec()) } else { any_answer(&sent, bytes) };
        search.handle_frame(now, port, &frame);
    }
    assert!(search.is_settled() || search.found().count() == 0, "a search ends");
}

fn masking(bytes: &mut Bytes<'_>) {
    let mut now = Instant::ZERO + Duration::from_secs(1000);
    let ports = any_ports(bytes);
    let exports: Vec<_> = (0..bytes.below(4)).map(|slot| Address::new(1, slot as u8)).collect();
    let required: Vec<_> = (0..bytes.below(3)).map(|number| MacAddr(2, 0, 0, 0, 1, number as u8)).collect();
    let (listen, deadline) = (now + Duration::from_millis(500), now + Duration::from_secs(5));
    let tag_start = bytes.u32();
    let mut talk = Masking::new(now, listen, deadline, exports.clone(), required, tag_start, ports.clone());
    let mut sent: VecDeque<(PortId, Vec<u8>)> = VecDeque::new();
    let mut directives = Vec::new();
    let mut out = vec![0; FRAME_MAX];
    loop {
        while let Some((port, len)) = talk.poll_transmit(now, &mut out) {
            assert!(now < deadline, "nothing is sent when the time is over");
            check_frame(&ports, port, &out[..len]);
            let frame = Frame::parse(&out[..len]).expect("it was just checked");
            assert!(exports.contains(&frame.header.address));
            if frame.header.command == Command::Mask {
                let (mask, entries) = MaskRepr::parse(frame.body).expect("our own");
                let expected = if mask.command == MaskCommand::Edit { directives.as_slice() } else { &[] };
                assert!(entries.eq(expected.iter().copied()), "only what was ordered is sent");
                assert!(mask.command == MaskCommand::Read || !directives.is_empty(), "an edit that nobody ordered");
            }
            sent.push_back((port, out[..len].to_vec()));
            if sent.len() > REMEMBERED {
                sent.pop_front();
            }
        }
        assert!(talk.lists().count() <= exports.len() * TARGETS_MAX);
        match talk.outcome(now) {
            Some(Ok(())) if directives.is_empty() => {
                let order = any_directives(bytes);
                if talk.edit(now, order.clone()).is_err() {
                    break;
                }
                directives = order;
                if talk.lists().next().is_none() {
                    break;
                }
                continue;
            }
            Some(Ok(())) => {
                assert!(talk.lists().all(|list| exports.contains(&list.address)));
                break;
            }
            Some(Err(troubles)) => {
                assert!(!troubles.is_empty());
                assert!(troubles.iter().all(|trouble| !trouble.to_string().contains('\n')), "a line for each");
                if bytes.is_empty() || now >= deadline {
                    break;
                }
            }
            None => assert!(now < deadline, "a round is over when the time is"),
        }
        let due = talk.poll_timeout(now).expect("a deadline");
        if bytes.is_empty() || bytes.rarely(8) {
            assert!(due > now || now >= deadline, "nothing is due twice");
            now = due;
            continue;
        }
        let (port, frame) =
            if bytes.rarely(16) { (PortId(0), bytes.chunk().to_vec()) } else { any_answer(&sent, bytes) };
        talk.handle_frame(now, port, &frame);
    }
}

fn any_directives(bytes: &mut Bytes<'_>) -> Vec<DirectiveRepr> {
    let count = if bytes.rarely(8) { DIRECTIVES_MAX } else { 1 + bytes.below(4) };
    let one = |_| DirectiveRepr { command: DirectiveCommand::from(bytes.u8() % 4), mac: mac(bytes.u8() & 7) };
    (0..count).map(one).collect()
}
