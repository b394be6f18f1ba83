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
use aoe_tests::net::{Daemon, Finished, Lab};

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

/// A target on a host that has booted so many times. It has a mount namespace of its own.
fn serve_in_boot(lab: &Lab, boot: u32, line: &str) -> Daemon {
    let number = lab.path("boot_id");
    fs::write(&number, format!("00000000-0000-0000-0000-{boot:012}\n")).unwrap();
    let script = format!(
        "cp {0} {0}.{boot} && mount --bind {0}.{boot} /proc/sys/kernel/random/boot_id && exec aoe-target {line}",
        number.display()
    );
    let target = lab.host("a").command("sh").args(["-c", &script]);
    target.spawn_ready(|line| line.starts_with("serving"))
}

/// Writes that nobody flushes: fio ends without. Then what a flush says.
struct Unflushed<'lab> {
    lab: &'lab Lab,
    uri: String,
}

impl<'lab> Unflushed<'lab> {
    fn attach(lab: &'lab Lab, device: &str) -> Self {
        Self { lab, uri: lab.attach("b", device, &format!("{device}.sock")) }
    }

    fn write(&self) {
        let load = ["--name=load", "--ioengine=nbd", "--rw=write", "--bs=64k", "--size=256k", "--fsync_on_close=0"];
        self.lab.host("b").command("fio").args(load).arg(format!("--uri={}", self.uri)).run().succeeded();
    }

    fn flush(&self) -> Finished {
        self.lab.host("b").command("qemu-io").args(["-f", "raw", "-c", "flush", &self.uri]).run()
    }
}

#[test]
fn net_restart_an_orderly_reboot_is_no_loss_of_power() {
    let lab = Lab::pair(9000);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let disk = lab.path("disk.img");
    let file = format!("hold = false\n[[export]]\nshelf = 0\nslot = 1\npath = {disk:?}\n");
    fs::write(lab.path("target.toml"), file).unwrap();
    let boot = |number| serve_in_boot(&lab, number, "serve --config target.toml --control control.sock");
    let target = boot(1);
    let disk = Unflushed::attach(&lab, "e0.1");
    disk.flush().succeeded();
    disk.write();
    target.stop().succeeded();
    let target = boot(2);
    disk.flush().succeeded();

    // The next process syncs what one has written that was killed.
    disk.write();
    target.kill();
    let target = boot(2);
    target.stop().succeeded();
    let target = boot(3);
    disk.flush().succeeded();

    // So does a removal, whatever comes after it.
    disk.write();
    lab.host("a").typed("aoe-target ctl --control control.sock remove e0.1").run().succeeded();
    target.kill();
    let target = boot(4);
    disk.flush().succeeded();

    disk.write();
    target.kill();
    let target = boot(5);
    disk.flush().exited(1);
    target.stop().succeeded();
}

#[test]
fn net_restart_targets_that_share_a_state_directory_keep_their_own_lives() {
    let lab = Lab::pair(9000);
    for file in ["one.img", "two.img", "three.img"] {
        random_file(&lab.path(file), 1 << 20, 1);
    }
    let one = |number| serve_in_boot(&lab, number, "export shelf 0 slot 1 one.img --no-hold");
    let two = |number| serve_in_boot(&lab, number, "export shelf 0 slot 2 two.img shelf 0 slot 3 three.img --no-hold");
    let (first, second) = (one(1), two(1));
    let disks = ["e0.1", "e0.2", "e0.3"].map(|device| Unflushed::attach(&lab, device));
    for disk in &disks {
        disk.flush().succeeded();
        disk.write();
    }
    // One that is killed leaves two exports; only one of them is served by the next.
    first.stop().succeeded();
    second.kill();
    serve_in_boot(&lab, 1, "export shelf 0 slot 2 two.img --no-hold").stop().succeeded();
    let (first, second) = (two(2), one(2));
    disks[0].flush().succeeded();
    disks[1].flush().succeeded();
    disks[2].flush().exited(1);
    first.stop().succeeded();
    second.stop().succeeded();
}
