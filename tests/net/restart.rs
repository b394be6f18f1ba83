//! A target that is started again: it knows nothing of the writes it answered before.

use std::fs;
use std::time::{Duration, Instant};

use aoe_common::addr::Address;
use aoe_common::ata::{Status, command};
use aoe_common::frame::SECTOR;
use aoe_common::wire::{AtaFlags, Command, Frame, MacAddr};
use aoe_target::engine::stale::LIFE;
use aoe_tests::net::image::random_file;
use aoe_tests::net::peer::{Wire, ata, field, request};
use aoe_tests::net::{Daemon, Lab};

const DEVICE: Address = Address::new(0, 1);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(400);

/// From the end of the hold, as the test sees it, to the first write.
const RESUMED: Duration = Duration::from_secs(4);

/// A client of e0.1 that sends what it likes.
struct Client {
    wire: Wire,
    target: MacAddr,
}

impl Client {
    fn new(lab: &Lab) -> Self {
        Self { wire: Wire::open(lab.host("b")), target: lab.mac("a").parse().unwrap() }
    }

    fn write(&self, tag: u32, byte: u8) -> Vec<u8> {
        let flags = AtaFlags::EXTENDED | AtaFlags::WRITE;
        self.request(tag, &ata(flags, command::WRITE_SECTORS_EXT, 0, 0, 1, &[byte; SECTOR]))
    }

    fn read(&self, tag: u32) -> Vec<u8> {
        self.request(tag, &ata(AtaFlags::EXTENDED, command::READ_SECTORS_EXT, 0, 0, 1, &[]))
    }

    fn request(&self, tag: u32, body: &[u8]) -> Vec<u8> {
        request(self.wire.mac(), self.target, DEVICE, Command::Ata, tag, body)
    }

    /// Sends a request; its answer, if one comes in time.
    fn ask(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        self.wire.send(&[frame.to_vec()]);
        let began = Instant::now();
        while let Some(answer) = self.wire.receive(ANSWER.saturating_sub(began.elapsed())) {
            let parsed = Frame::parse(&answer).expect("an AoE frame");
            if parsed.header.response && answer[field::TAG] == frame[field::TAG] {
                assert_eq!((parsed.header.error, answer[field::ATA_STATUS]), (None, Status::DRDY.bits()));
                return Some(answer);
            }
        }
        None
    }
}

fn sector(lab: &Lab) -> u8 {
    fs::read(lab.path("disk.img")).unwrap()[0]
}

/// A target of e0.1, and what it said at the start.
fn export(lab: &Lab, options: &str) -> Daemon {
    lab.export("a", &format!("shelf 0 slot 1 disk.img {options}"))
}

#[test]
fn net_restart_no_late_copy_of_a_write_from_before_undoes_a_newer_one() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let first = export(&lab, "");
    let mut client = Client::new(&lab);
    let (old, new) = (client.write(0x8000_0001, 0x11), client.write(0x8000_0002, 0x22));
    assert!(client.ask(&old).is_some(), "a first start holds nothing");
    let died = Instant::now();
    first.kill();

    let second = export(&lab, "");
    let mut held = 0;
    while client.ask(&new).is_none() {
        held += 1;
        assert!(client.ask(&old).is_none(), "a copy of a write from before is answered");
        assert_eq!(sector(&lab), 0x11);
        let answer = client.ask(&client.read(0x8000_1000 + held)).expect("reads are served");
        assert_eq!(answer[field::DATA], 0x11);
        assert!(died.elapsed() < LIFE + RESUMED, "writes are still held");
    }
    println!("the first write ran {:?} after the death of the first target, {held} tries were held", died.elapsed());
    assert!(died.elapsed() >= LIFE && held > 0);
    assert_eq!(sector(&lab), 0x22);
    let report = second.stop().succeeded().output();
    assert!(report.contains("e0.1 was served just before: writes wait"), "{report}");
    assert!(report.contains(&format!(" {} held", 2 * held)), "{report}");
}

#[test]
fn net_restart_writes_are_served_at_once_on_demand() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    export(&lab, "").stop().succeeded();
    let target = export(&lab, "--no-hold");
    let mut client = Client::new(&lab);
    assert!(client.ask(&client.write(0x8000_0001, 0x11)).is_some());
    let report = target.stop().succeeded().output();
    assert!(!report.contains("was served just before"), "{report}");
    assert_eq!(sector(&lab), 0x11);
}

/// An attached disk under a load of nothing but writes: its path loses frame after frame, but it goes on.
#[test]
fn net_restart_a_load_of_writes_goes_on_after_the_hold() {
    let lab = Lab::pair(9000);
    random_file(&lab.path("disk.img"), 16 << 20, 1);
    let first = export(&lab, "");
    let uri = lab.attach("b", "e0.1", "disk.sock");
    let place = format!("--uri={uri}");
    let load = ["--name=load", "--ioengine=nbd", &place, "--iodepth=16", "--rw=randwrite", "--bs=4k", "--size=16M"];
    let checks = ["--verify=crc32c", "--time_based", "--runtime=17", "--do_verify=0"];
    let load = lab.host("b").command("fio").args(load).args(checks).spawn();
    let completed = || lab.stat("b")[0]["writes"].as_u64().expect("a number");
    aoe_tests::net::wait_for("the load to run", || (completed() > 1000).then_some(()));
    first.kill();
    let died = Instant::now();
    let _second = export(&lab, "");
    let before = completed();
    aoe_tests::net::wait_for("writes to run again", || (completed() > before + 100).then_some(()));
    println!("writes ran again {:?} after the death of the target", died.elapsed());
    assert!((LIFE..LIFE + RESUMED).contains(&died.elapsed()), "{:?}", died.elapsed());
    let stat = lab.stat("b");
    assert_eq!(stat[0]["errors"], 0, "{stat}");
    drop(load);
}
