//! Stations that throw at a target what no client should send. Its disk changes by valid writes only, its memory stays
//! small, whatever it answers is well-formed, and afterwards a well-behaved client finds all as it should be.

use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use aoe_common::addr::Address;
use aoe_common::ata::command as op;
use aoe_common::frame::{MIN_FRAME, SECTOR};
use aoe_common::wire::{
    AtaFlags, BROADCAST, Command, ConfigCommand, ConfigRepr, ErrorCode, Frame, LBA48_MAX, MacAddr, MaskRepr,
    ReserveRepr,
};
use aoe_tests::net::image::{assert_same, random_file};
use aoe_tests::net::peer::{Wire, ata, config, field, request};
use aoe_tests::net::{Daemon, Lab, PATIENCE};
use fastrand::Rng;

/// The disk that has to stay as it is, and one whose mask list and reservation may be edited.
const DEVICE: Address = Address::new(0, 1);
const SPARE: Address = Address::new(0, 2);

const DISK_SECTORS: usize = 8192;
const MTU: usize = 1500;
/// The longest frame, in bytes.
const FRAME_MAX: usize = ETHERNET + MTU;
const ETHERNET: usize = 14;

/// The most resident memory of the target, in bytes, whatever stations send it.
const MEMORY_MAX: u64 = 100 << 20;

/// Frames thrown before their answers are looked at.
const VOLLEY: usize = 64;
/// How long to listen where silence is right.
const SILENCE: Duration = Duration::from_millis(200);

const R: AtaFlags = AtaFlags::EXTENDED;
const W: AtaFlags = AtaFlags::EXTENDED.union(AtaFlags::WRITE);

/// A target on host `a`, and on host `b` a wire to throw frames from.
struct Siege {
    lab: Lab,
    target: Daemon,
    wire: Wire,
    target_mac: MacAddr,
    tag: u32,
    before: Vec<u8>,
    /// Sectors that a valid write may have changed.
    touched: Vec<bool>,
    comparisons: usize,
    /// Sectors that were to be as before, in all comparisons together.
    compared: usize,
}

impl Siege {
    fn begin() -> Self {
        let lab = Lab::pair(MTU as u32);
        random_file(&lab.path("disk.img"), (DISK_SECTORS * SECTOR) as u64, 1);
        random_file(&lab.path("spare.img"), 1 << 20, 2);
        let before = fs::read(lab.path("disk.img")).unwrap();
        let target = lab.export("a", "shelf 0 slot 1 disk.img shelf 0 slot 2 spare.img");
        let wire = Wire::open(lab.host("b"));
        let target_mac = lab.mac("a").parse().unwrap();
        let touched = vec![false; DISK_SECTORS];
        Self { lab, target, wire, target_mac, tag: 1 << 31, before, touched, comparisons: 0, compared: 0 }
    }

    /// A request to the target from host `b`, with a tag of its own.
    fn request(&mut self, address: Address, command: Command, body: &[u8]) -> Vec<u8> {
        self.tag += 1;
        request(self.wire.mac(), self.target_mac, address, command, self.tag, body)
    }

    /// Sends frames; when the target has dealt with all of them, checks and returns what it answered.
    fn throw(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        for volley in frames.chunks(VOLLEY) {
            for frame in volley {
                for sector in may_change(frame) {
                    self.touched[sector] = true;
                }
            }
            self.wire.send(volley);
            answers.extend(self.drain());
        }
        for answer in &answers {
            self.check(answer, frames);
        }
        answers
    }

    /// Answers up to the one to a question asked now: the target takes frames in order.
    fn drain(&mut self) -> Vec<Vec<u8>> {
        let question = ConfigRepr::request(ConfigCommand::Read, b"");
        let mut question = self.request(DEVICE, Command::Config, &config(&question));
        // No frame has this tag, not even one with a few bytes changed.
        question[field::TAG].iter_mut().for_each(|byte| *byte = !*byte);
        let began = Instant::now();
        let mut answers = Vec::new();
        let mut asked = None;
        loop {
            // A burst may have filled the queues between us: then the question is asked again, as any client would.
            if asked.is_none_or(|at: Instant| at.elapsed() > SILENCE) {
                asked = Some(Instant::now());
                self.wire.send(std::slice::from_ref(&question));
            }
            let Some(answer) = self.wire.receive(SILENCE) else {
                assert!(began.elapsed() < PATIENCE, "the target is silent: {}", self.target.output());
                continue;
            };
            if answer.get(field::TAG) == question.get(field::TAG) {
                return answers;
            }
            // A question that was asked twice may be answered twice, the second time while the next one waits.
            let is_older_question = answer.get(field::TAG).is_some_and(|tag| {
                let asked = !u32::from_be_bytes(tag.try_into().expect("four bytes"));
                (1 << 31..self.tag).contains(&asked)
            });
            if !is_older_question {
                answers.push(answer);
            }
        }
    }

    /// The answer to one request; `None` for silence.
    fn ask(&mut self, frame: Vec<u8>) -> Option<Vec<u8>> {
        let tag = frame[field::TAG].to_vec();
        // Those that go to the disk are answered later than the question behind them.
        let mut answers = self.throw(std::slice::from_ref(&frame));
        while let Some(late) = self.wire.receive(SILENCE) {
            self.check(&late, std::slice::from_ref(&frame));
            answers.push(late);
        }
        answers.into_iter().find(|answer| answer.get(field::TAG) == Some(&tag))
    }

    /// Whatever is answered to whatever: a whole frame from the target to one station, with nothing in it that does
    /// not belong there.
    fn check(&self, answer: &[u8], asked: &[Vec<u8>]) {
        assert!((MIN_FRAME..=FRAME_MAX).contains(&answer.len()), "{} bytes: {answer:02x?}", answer.len());
        let frame = Frame::parse(answer).unwrap_or_else(|e| panic!("{e}: {answer:02x?}"));
        assert_eq!(frame.ethernet.source, self.target_mac, "{answer:02x?}");
        assert_eq!(frame.ethernet.destination.0 & 1, 0, "an answer to a group: {answer:02x?}");
        let header = frame.header;
        assert!(header.response && header.version == 1, "{answer:02x?}");
        assert!([DEVICE, SPARE].contains(&header.address), "{answer:02x?}");
        let is_echo = matches!(header.command, Command::Vendor(_) | Command::Unknown(_))
            || header.error == Some(ErrorCode::UnsupportedVersion)
            || (header.error.is_some() && matches!(header.command, Command::Mask | Command::Reserve));
        let length = match header.command {
            // The arguments come back, and nothing but them.
            _ if is_echo && self.is_echo(&frame, asked) => return,
            Command::Ata if answer.len() == MIN_FRAME => 12,
            Command::Ata => {
                assert_eq!((answer.len() - field::DATA) % SECTOR, 0, "{answer:02x?}");
                return;
            }
            Command::Config => ConfigRepr::parse(frame.body, true).expect("a config answer").wire_len(),
            Command::Mask => {
                let (mask, directives) = MaskRepr::parse(frame.body).expect("a mask answer");
                let listed = if mask.error.is_some() { 0 } else { directives.count() };
                MaskRepr::FIXED_LEN + listed * MaskRepr::DIRECTIVE_LEN
            }
            Command::Reserve => {
                let (_, macs) = ReserveRepr::parse(frame.body).expect("a reserve answer");
                ReserveRepr::FIXED_LEN + macs.count() * ReserveRepr::MAC_LEN
            }
            Command::Vendor(_) | Command::Unknown(_) => panic!("not what was asked: {answer:02x?}"),
        };
        assert!(frame.body[length..].iter().all(|byte| *byte == 0), "stale bytes in {answer:02x?}");
    }

    /// Whether an answer repeats the arguments of one of these requests, the longest ones cut short.
    fn is_echo(&self, answer: &Frame<'_>, asked: &[Vec<u8>]) -> bool {
        asked.iter().filter_map(|asked| Frame::parse(asked).ok()).any(|asked| {
            let same = asked.header.tag == answer.header.tag && asked.header.command == answer.header.command;
            let (repeated, padding) = answer.body.split_at(answer.body.len().min(asked.body.len()));
            same && asked.body.starts_with(repeated) && padding.iter().all(|byte| *byte == 0)
        })
    }

    /// The disk has changed where a valid write went since it was compared last, and nowhere else.
    fn compare(&mut self) {
        // What goes to the disk is answered when it is there.
        while let Some(late) = self.wire.receive(SILENCE) {
            self.check(&late, &[]);
        }
        let after = fs::read(self.lab.path("disk.img")).unwrap();
        assert_eq!(after.len(), self.before.len());
        for (sector, (after, before)) in after.chunks(SECTOR).zip(self.before.chunks(SECTOR)).enumerate() {
            assert!(after == before || self.touched[sector], "sector {sector} changed");
        }
        self.comparisons += 1;
        self.compared += self.touched.iter().filter(|touched| !**touched).count();
        self.before = after;
        self.touched.fill(false);
    }

    /// The target is well, and so is the disk; a client that behaves can use it.
    fn end(mut self) {
        self.target.assert_running();
        let memory = self.target.peak_memory();
        assert!(memory <= MEMORY_MAX, "the target took {memory} bytes of memory");

        self.compare();
        let compared = self.compared / self.comparisons;
        assert!(compared >= DISK_SECTORS * 3 / 4, "only {compared} sectors are compared each time");

        let lab = &self.lab;
        let found = lab.host("b").typed("aoe-discover e0.1").run().succeeded();
        assert!(found.stdout.contains("4.0 MiB"), "{}", found.output());
        let uri = lab.attach("b", "e0.1", "disk.sock");
        lab.host("b").command("nbdcopy").args([uri.as_str(), "read.img"]).run().succeeded();
        assert_same(&lab.path("read.img"), &lab.path("disk.img"));
        random_file(&lab.path("new.img"), (DISK_SECTORS * SECTOR) as u64, 3);
        lab.host("b").command("nbdcopy").args(["--flush", "new.img", uri.as_str()]).run().succeeded();
        assert_same(&lab.path("disk.img"), &lab.path("new.img"));
        assert_eq!(lab.stat("b")[0]["errors"], 0);
        lab.host("b").typed("aoe-detach e0.1").run().succeeded();

        let stopped = self.target.stop().succeeded();
        assert!(!stopped.output().contains("panicked"), "{}", stopped.output());
        let lines = stopped.stderr.lines().count();
        assert!(lines < 100, "{lines} lines of log: {}", stopped.output());
    }
}

/// The sectors of the disk that a frame may rightly change: those it names, if it is a request to write at all.
fn may_change(bytes: &[u8]) -> Vec<usize> {
    let Ok(frame) = Frame::parse(bytes) else { return Vec::new() };
    let is_request = !frame.header.response && frame.header.command == Command::Ata;
    // What is sent to a wildcard address, from a group, or on a VLAN, must not write.
    let is_valid = frame.header.address == DEVICE && frame.ethernet.source.0 & 1 == 0 && frame.ethernet.vlan.is_none();
    let &[flags, _, count, command, ref lba @ .., _, _] = frame.body.first_chunk::<12>().unwrap_or(&[0; 12]);
    let data = frame.body.get(12..).unwrap_or_default();
    let extended = flags & AtaFlags::EXTENDED.bits() != 0;
    let lba = lba.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let lba = if extended { lba } else { lba & 0x0fff_ffff };
    let ranges: Vec<Range<u64>> = match command {
        _ if !is_request || !is_valid => Vec::new(),
        op::WRITE_SECTORS | op::WRITE_SECTORS_EXT | op::WRITE_DMA | op::WRITE_DMA_EXT | op::WRITE_DMA_FUA_EXT
            if data.len() < usize::from(count) * SECTOR =>
        {
            Vec::new()
        }
        op::WRITE_SECTORS
        | op::WRITE_SECTORS_EXT
        | op::WRITE_DMA
        | op::WRITE_DMA_EXT
        | op::WRITE_DMA_FUA_EXT
        | op::ZERO_EXT => std::iter::once(lba..lba + u64::from(count)).collect(),
        op::DATA_SET_MANAGEMENT if data.len() >= usize::from(count) * SECTOR => {
            let (entries, _) = data[..usize::from(count) * SECTOR].as_chunks::<8>();
            let entries = entries.iter().map(|entry| u64::from_le_bytes(*entry));
            entries.map(|entry| (entry & LBA48_MAX)..(entry & LBA48_MAX) + (entry >> 48)).collect()
        }
        _ => Vec::new(),
    };
    // What reaches beyond the end is refused as a whole.
    let ranges = ranges.into_iter().filter(|range| range.end <= DISK_SECTORS as u64);
    ranges.flat_map(|range| range.start as usize..range.end as usize).collect()
}

/// Bodies of valid requests of every kind, and where they are sent. What edits access goes to the spare disk.
fn valid() -> Vec<(Address, Command, Vec<u8>)> {
    let mut all = Vec::new();
    for ccmd in
        [ConfigCommand::Read, ConfigCommand::Test, ConfigCommand::Prefix, ConfigCommand::Set, ConfigCommand::ForceSet]
    {
        all.push((DEVICE, Command::Config, config(&ConfigRepr::request(ccmd, b"rack 7"))));
    }
    let two = [[2, 0, 0, 0, 0, 0x21], [2, 0, 0, 0, 0, 0x22]];
    all.push((SPARE, Command::Mask, vec![0, 0, 0, 0]));
    all.push((SPARE, Command::Mask, two.iter().fold(vec![0, 1, 0, 2], |body, mac| [&body[..], &[0, 2], mac].concat())));
    all.push((SPARE, Command::Reserve, vec![0, 0]));
    all.push((SPARE, Command::Reserve, vec![1, 0]));
    all.push((SPARE, Command::Reserve, [&[2, 2][..], &two[0], &two[1]].concat()));
    all.push((DEVICE, Command::Vendor(0xf3), b"vendor".to_vec()));
    all.push((DEVICE, Command::Unknown(9), b"unknown".to_vec()));

    let data = [0xdb; 2 * SECTOR];
    let none = AtaFlags::empty();
    // Close to the end: a changed length then mostly reaches beyond it, and is refused.
    let trim: Vec<u8> = [8000u64 | 8 << 48, 8100 | 8 << 48].iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let trim = [&trim[..], &[0; SECTOR][..SECTOR - trim.len()]].concat();
    for body in [
        ata(R, op::READ_SECTORS_EXT, 0, 8, 2, &[]),
        ata(none, op::READ_DMA, 0, 8, 2, &[]),
        ata(R, op::READ_VERIFY_EXT, 0, 8, 2, &[]),
        ata(W, op::WRITE_SECTORS_EXT, 0, 16, 2, &data),
        ata(AtaFlags::WRITE, op::WRITE_DMA, 0, 24, 2, &data),
        ata(W, op::WRITE_DMA_FUA_EXT, 0, 32, 2, &data),
        ata(W, op::DATA_SET_MANAGEMENT, 1, 0, 1, &trim),
        ata(R, op::ZERO_EXT, 0, 40, 4, &[]),
        ata(none, op::FLUSH_CACHE, 0, 0, 0, &[]),
        ata(R, op::FLUSH_CACHE_EXT, 0, 0, 0, &[]),
        ata(none, op::IDENTIFY_DEVICE, 0, 0, 1, &[]),
        ata(R, op::READ_LOG_EXT, 0, 0x30, 1, &[]),
        ata(W, op::WRITE_LOG_EXT, 0, 0xc0, 1, &data[..SECTOR]),
        ata(none, op::SET_FEATURES, 0x02, 0, 0, &[]),
        ata(none, op::SET_FEATURES, 0x82, 0, 0, &[]),
        ata(none, op::CHECK_POWER_MODE, 0, 0, 0, &[]),
        ata(none, 0xff, 0, 0, 0, &[]),
    ] {
        all.push((DEVICE, Command::Ata, body));
    }
    all
}

/// Turns edits of who may use the disk over to the spare one: they would be valid, and shut our own client out.
fn spare_access(frame: &mut [u8]) {
    let edits = frame.get(field::COMMAND).is_some_and(|command| [2, 3].contains(command));
    if edits && frame[field::SHELF] == [0, 0] && frame[field::SLOT] == DEVICE.slot {
        frame[field::SLOT] = SPARE.slot;
    }
}

#[test]
fn net_hostile_client_cuts_every_request_at_every_length() {
    let mut siege = Siege::begin();
    for (address, command, body) in valid() {
        let whole = siege.request(address, command, &body);
        let cut: Vec<Vec<u8>> = (ETHERNET..whole.len()).map(|length| whole[..length].to_vec()).collect();
        siege.throw(&cut);
    }
    assert!(siege.touched.iter().all(|touched| !touched), "what is cut short writes nothing");
    siege.end();
}

#[test]
fn net_hostile_client_sends_valid_requests_with_bytes_changed() {
    let mut siege = Siege::begin();
    let mut rng = Rng::with_seed(7);
    let valid = valid();
    for _ in 0..20 {
        let mut frames = Vec::new();
        for _ in 0..1000 {
            let (address, command, body) = &valid[rng.usize(..valid.len())];
            let mut frame = siege.request(*address, *command, body);
            for _ in 0..rng.usize(1..6) {
                // Mostly behind the addresses, where the fields are.
                let at = if rng.u8(..) < 8 { rng.usize(..frame.len()) } else { rng.usize(14..frame.len().min(64)) };
                frame[at] = rng.u8(..);
            }
            match rng.u8(..) {
                0..32 => frame.truncate(rng.usize(ETHERNET..frame.len())),
                32..64 => frame.resize(rng.usize(frame.len()..=FRAME_MAX), rng.u8(..)),
                _ => {}
            }
            if frame.len() > field::COMMAND {
                spare_access(&mut frame);
            }
            frames.push(frame);
        }
        siege.throw(&frames);
        siege.compare();
    }
    siege.end();
}

#[test]
fn net_hostile_client_sends_garbage_of_every_length() {
    let mut siege = Siege::begin();
    let mut rng = Rng::with_seed(8);
    for with_header in [false, true] {
        for round in 0..4 {
            let frames: Vec<Vec<u8>> = (ETHERNET..=FRAME_MAX)
                .map(|length| {
                    let mut body = vec![0; length];
                    rng.fill(&mut body);
                    let start = if with_header { Command::from(rng.u8(..5)) } else { Command::Unknown(rng.u8(..)) };
                    let mut frame = siege.request(DEVICE, start, &body);
                    if !with_header {
                        rng.fill(&mut frame[ETHERNET..]);
                    }
                    if round == 3 {
                        frame[..6].copy_from_slice(&BROADCAST.octets());
                    }
                    spare_access(&mut frame);
                    frame.truncate(length);
                    frame
                })
                .collect();
            siege.throw(&frames);
            siege.compare();
        }
    }
    siege.end();
}

#[test]
fn net_hostile_client_sends_impossible_counts() {
    let mut siege = Siege::begin();
    let own = siege.wire.mac().octets();
    let refused = |siege: &mut Siege, address, command, body: &[u8], error: u8| {
        let frame = siege.request(address, command, body);
        let answer = siege.ask(frame).unwrap_or_else(|| panic!("no answer to {command:?} {body:02x?}"));
        assert_eq!(answer[field::FLAGS] & 0x0f, 0x0c, "{answer:02x?}");
        assert_eq!(answer[field::ERROR], error, "{answer:02x?}");
    };
    // More directives or stations than the frame holds.
    refused(&mut siege, DEVICE, Command::Mask, &[0, 1, 0, 255, 0, 1, 2, 0, 0, 0, 0, 1], 2);
    refused(&mut siege, DEVICE, Command::Mask, &[0, 1, 0, 1], 2);
    refused(&mut siege, DEVICE, Command::Mask, &[0, 7, 0, 0], 2);
    refused(&mut siege, DEVICE, Command::Reserve, &[1, 255, 2, 0, 0, 0, 0, 1], 2);
    refused(&mut siege, DEVICE, Command::Reserve, &[2, 1], 2);
    refused(&mut siege, DEVICE, Command::Reserve, &[9, 0], 2);
    let many: Vec<u8> = (0..=u8::MAX).flat_map(|number| [2, 0, 0, 0, 7, number]).collect();
    refused(&mut siege, DEVICE, Command::Reserve, &[&[1, 245][..], &many[..245 * 6]].concat(), 2);
    // Sectors that no frame holds, and data that did not come along.
    for count in [0, 3, 255] {
        refused(&mut siege, DEVICE, Command::Ata, &ata(R, op::READ_SECTORS_EXT, 0, 0, count, &[]), 2);
        refused(&mut siege, DEVICE, Command::Ata, &ata(W, op::WRITE_SECTORS_EXT, 0, 0, count, &[0; 1024]), 2);
    }
    refused(&mut siege, DEVICE, Command::Ata, &ata(W, op::WRITE_SECTORS_EXT, 0, 0, 2, &[0; 1023]), 2);
    refused(&mut siege, DEVICE, Command::Ata, &ata(W, op::DATA_SET_MANAGEMENT, 1, 0, 2, &[0; 1023]), 2);
    // Everything to everybody.
    refused(&mut siege, Address::ANY, Command::Reserve, &[&[2, 1][..], &[2, 0, 0, 0, 0, 1]].concat(), 2);
    refused(&mut siege, Address::ANY, Command::Mask, &[&[0, 1, 0, 1, 0, 1][..], &[2, 0, 0, 0, 0, 1]].concat(), 2);
    refused(&mut siege, Address::ANY, Command::Ata, &ata(W, op::WRITE_SECTORS_EXT, 0, 0, 1, &[0; SECTOR]), 2);
    refused(&mut siege, Address::ANY, Command::Ata, &ata(R, op::ZERO_EXT, 0, 0, 1, &[]), 2);

    // Sectors beyond the end are no such sectors, however far beyond.
    for lba in [DISK_SECTORS as u64, DISK_SECTORS as u64 - 1, 1 << 32, (1 << 48) - 1] {
        for body in [
            ata(R, op::READ_SECTORS_EXT, 0, lba, 2, &[]),
            ata(W, op::WRITE_SECTORS_EXT, 0, lba, 2, &[0; 1024]),
            ata(R, op::ZERO_EXT, 0, lba, 2, &[]),
            ata(W, op::DATA_SET_MANAGEMENT, 1, 0, 1, &[&(lba | 2 << 48).to_le_bytes()[..], &[0; 504]].concat()),
        ] {
            let frame = siege.request(DEVICE, Command::Ata, &body);
            let answer = siege.ask(frame).expect("an answer");
            assert_eq!([answer[field::ATA_STATUS], answer[field::ATA_ERROR]], [0x41, 0x10], "{answer:02x?}");
        }
    }
    // Strings that are longer than the frame, or than any may be.
    for (stated, sent) in [(7, 6), (1025, 1025), (65535, 1400)] {
        let mut body = config(&ConfigRepr::request(ConfigCommand::ForceSet, b""));
        body[6..8].copy_from_slice(&u16::to_be_bytes(stated));
        body.resize(8 + sent, b'x');
        let frame = siege.request(DEVICE, Command::Config, &body);
        assert_eq!(siege.ask(frame), None, "a string of {stated} bytes in {sent}");
    }

    // The longest lists there can be: full, and one more. The first station is ours, so that we are still heard.
    let mut answer = Vec::new();
    for part in [0..128, 128..255u8] {
        let count = part.len() as u8 + 1;
        let macs = std::iter::once(own).chain(part.map(|number| [2, 0, 0, 0, 7, number]));
        let body = macs.fold(vec![0, 1, 0, count], |body, mac| [&body[..], &[0, 1], &mac].concat());
        let frame = siege.request(SPARE, Command::Mask, &body);
        answer = siege.ask(frame).expect("an answer");
    }
    assert_eq!(answer[24..27], [0, 1, 3], "the list is full: {answer:02x?}");
    let frame = siege.request(SPARE, Command::Mask, &[0, 0, 0, 0]);
    let list = siege.ask(frame).expect("the whole list");
    assert!(list[27] > 128 && list.len() <= FRAME_MAX, "{list:02x?}");
    let frame = siege.request(SPARE, Command::Reserve, &[&[1, 240][..], &many[..240 * 6]].concat());
    let list = siege.ask(frame).expect("the whole reservation");
    assert_eq!((list[25], list.len()), (240, 26 + 240 * 6), "{list:02x?}");
    siege.end();
}

#[test]
fn net_hostile_client_floods_with_wildcards() {
    let mut siege = Siege::begin();
    let question = config(&ConfigRepr::request(ConfigCommand::Read, b""));
    let identify = ata(AtaFlags::empty(), op::IDENTIFY_DEVICE, 0, 0, 1, &[]);
    let write = ata(W, op::WRITE_SECTORS_EXT, 0, 0, 2, &[0; 1024]);
    let any_shelf = Address::new(Address::ANY_SHELF, DEVICE.slot);
    let any_slot = Address::new(DEVICE.shelf, Address::ANY_SLOT);
    for address in [Address::ANY, any_shelf, any_slot] {
        for (command, body) in [(Command::Config, &question), (Command::Ata, &identify), (Command::Ata, &write)] {
            let mut flood: Vec<Vec<u8>> = (0..3000).map(|_| siege.request(address, command, body)).collect();
            for (number, frame) in flood.iter_mut().enumerate() {
                // Many stations, all of whom want an answer.
                frame[field::SOURCE].copy_from_slice(&[2, 0xba, 0xd0, 0, (number >> 8) as u8, number as u8]);
            }
            // All at once first: what no queue takes is lost, and nothing else.
            siege.wire.send(&flood);
            siege.drain();
            let answers = siege.throw(&flood[..VOLLEY]);
            let exports = if address == any_shelf { 1 } else { 2 };
            assert_eq!(answers.len(), exports * VOLLEY, "{address} {command:?}");
        }
    }
    siege.end();
}

#[test]
fn net_hostile_client_sends_what_is_for_others() {
    let mut siege = Siege::begin();
    let read = ata(R, op::READ_SECTORS_EXT, 0, 0, 2, &[]);
    let write = ata(W, op::WRITE_SECTORS_EXT, 0, 0, 2, &[0; 1024]);
    let to_target = siege.target_mac;
    let from_group = MacAddr(3, 0, 0, 0, 0, 1);
    for body in [&read, &write] {
        let valid = siege.request(DEVICE, Command::Ata, body);
        let tagged = |tci: u16| [&valid[..12], &[0x81, 0], &tci.to_be_bytes(), &valid[12..]].concat();
        let mut answer = valid.clone();
        answer[field::FLAGS] |= 0x08;
        let mut other_protocol = valid.clone();
        other_protocol[field::ETHERTYPE].copy_from_slice(&[0x88, 0xa3]);
        for (name, frame) in [
            ("a VLAN", tagged(5)),
            ("a VLAN with priority", tagged(7 << 13 | 4094)),
            ("two VLAN tags", [&tagged(0)[..16], &tagged(5)[12..]].concat()),
            ("a group sender", request(from_group, to_target, DEVICE, Command::Ata, 1, body)),
            ("a broadcast sender", request(BROADCAST, to_target, DEVICE, Command::Ata, 1, body)),
            ("another station", request(siege.wire.mac(), MacAddr(2, 0, 0, 0, 0, 9), DEVICE, Command::Ata, 1, body)),
            ("another slot", siege.request(Address::new(0, 3), Command::Ata, body)),
            ("another shelf", siege.request(Address::new(9, 1), Command::Ata, body)),
            ("an answer", answer),
            ("another protocol", other_protocol),
        ] {
            // Not through `throw`: none of these may change anything.
            siege.wire.send(&[frame]);
            let answers = siege.drain();
            assert!(answers.is_empty() && siege.wire.receive(SILENCE).is_none(), "{name} is answered: {answers:02x?}");
        }
    }
    // A tag with a priority and no VLAN is no reason to stay silent.
    let valid = siege.request(DEVICE, Command::Ata, &read);
    let tagged = [&valid[..12], &[0x81, 0, 7 << 5, 0], &valid[12..]].concat();
    siege.wire.send(&[tagged]);
    let answer = siege.wire.receive(PATIENCE).expect("an answer");
    siege.check(&answer, &[]);
    assert_eq!((&answer[field::TAG], answer.len()), (&valid[field::TAG], field::DATA + 2 * SECTOR));
    // Other versions of the protocol are told ours.
    let mut version = siege.request(DEVICE, Command::Ata, &write);
    version[field::FLAGS] = 0x20;
    siege.wire.send(std::slice::from_ref(&version));
    let answers = siege.drain();
    assert_eq!(answers.len(), 1);
    siege.check(&answers[0], &[version]);
    assert_eq!([answers[0][field::FLAGS], answers[0][field::ERROR]], [0x1c, 5]);
    siege.end();
}
