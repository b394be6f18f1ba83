//! Discovery, and the conversation about mask lists, against targets that answer whatever they like.

use std::collections::{BTreeMap, VecDeque};

use aoe_common::addr::Address;
use aoe_common::ata::Identify;
use aoe_common::frame::MIN_FRAME;
use aoe_common::time::{Duration, Instant};
use aoe_common::wire::{
    AtaRepr, BROADCAST, Command, ConfigCommand, ConfigRepr, DirectiveCommand, DirectiveRepr, ErrorCode, EthernetRepr,
    Frame, HeaderRepr, MacAddr, MaskCommand, MaskError, MaskRepr, VERSION,
};
use aoe_initiator::engine::{DIRECTIVES_MAX, Discovery, FOUND_MAX, FRAME_MAX, Masking, PortId, PortInfo, TARGETS_MAX};

use super::Bytes;

/// Sent frames that can still be answered.
const REMEMBERED: usize = 32;

/// Two stories of the same input.
pub fn run(data: &[u8]) {
    discovery(&mut Bytes::new(data));
    masking(&mut Bytes::new(data));
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
            let repr = ConfigRepr::answer(bytes.u16(), bytes.u16(), bytes.u8(), ConfigCommand::Read, string);
            let mut body = vec![0; repr.wire_len()];
            repr.emit(&mut body);
            body
        }
        Command::Ata => {
            let status = if bytes.rarely(4) { bytes.u8() } else { 0x40 };
            let identify = Identify { sectors: bytes.u64() >> bytes.below(64), ..Identify::default() };
            let mut body = vec![0; AtaRepr::WIRE_LEN];
            body[3] = status;
            body.extend(identify.emit());
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
        _ => bytes.take(16).to_vec(),
    }
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
        let due = search.poll_timeout();
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
        let due = talk.poll_timeout(now);
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
