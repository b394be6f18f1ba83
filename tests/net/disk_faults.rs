//! Disks that fail below an export: what its client is told, what the operator is told, and what is left afterwards.
//!
//! An error is an error and not a hang, success is never said of what did not happen, other exports of the same target
//! do not notice, and what was acknowledged before is there.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use crate::service_manager::Manager;
use aoe_tests::net::{Daemon, Finished, HostCommand, Lab, requires, wait_for};

/// How long a request may take until it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Size of an export in bytes.
const BYTES: u64 = 16 << 20;

/// An attached export and a client that comes anew with each command.
struct Disk<'lab> {
    lab: &'lab Lab,
    uri: String,
}

impl<'lab> Disk<'lab> {
    fn attach(lab: &'lab Lab, device: &str) -> Disk<'lab> {
        Disk { lab, uri: lab.attach("b", device, &format!("{device}.sock")) }
    }

    fn command(&self, command: &str) -> HostCommand<'lab> {
        self.lab.host("b").command("qemu-io").args(["-f", "raw", "-c", command, &self.uri]).patience(PATIENCE)
    }

    fn run(&self, command: &str) -> Finished {
        self.command(command).run()
    }

    fn does(&self, command: &str) {
        let done = self.run(command).succeeded();
        assert!(!done.output().contains("fail"), "{command}\n{}", done.output());
    }

    fn fails(&self, command: &str) {
        let done = self.run(command).exited(1);
        // Of a failed flush qemu-io says nothing.
        let says_why = command == "flush" || done.output().contains("Input/output error");
        assert!(says_why, "{command}\n{}", done.output());
    }

    /// All that a disk without faults does.
    fn is_well(&self) {
        for command in
            ["write -P 0x77 9M 64k", "flush", "read -P 0x77 9M 64k", "write -f -P 0x78 9M 64k", "read -P 0x78 9M 64k"]
        {
            self.does(command);
        }
    }
}

/// Waits until the target has said a line with these words in it, and returns all lines with the first of them.
fn told(target: &Daemon, words: &[&str]) -> String {
    target.wait_for_line(|line| words.iter().all(|word| line.contains(word)));
    let lines = target.output();
    lines.lines().filter(|line| line.contains(words[0])).collect::<Vec<_>>().join("\n")
}

fn image(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.path(name);
    File::create(&path).and_then(|file| file.set_len(BYTES)).expect("a sparse file");
    path
}

#[test]
fn net_disk_faults_full() {
    let lab = Lab::pair(9000);
    let host = lab.host("a");
    let [folder, good] = [lab.path("small"), image(&lab, "good.img")];
    fs::create_dir(&folder).unwrap();
    let mount =
        "mount -t tmpfs -o size=4m none small && truncate -s 16M small/disk.img && echo mounted && exec sleep 600";
    let mounter = host.command("sh").args(["-c", mount]).spawn_ready(|line| line == "mounted");
    let small = folder.join("disk.img");
    let target = host.command_beside(&mounter, "aoe-target").args(["export", "shelf", "0", "slot", "1"]).arg(&small);
    let target =
        target.args(["shelf", "0", "slot", "2"]).arg(&good).spawn_ready(|line| line.starts_with("serving e0.2"));
    let [disk, other] = ["e0.1", "e0.2"].map(|device| Disk::attach(&lab, device));

    disk.does("write -P 0x11 0 1M");
    disk.does("flush");
    disk.fails("write -P 0x22 8M 6M");
    told(&target, &["e0.1", "no space left on the device below"]);
    other.is_well();
    disk.does("read -P 0x11 0 1M");
    disk.does("write -P 0x33 0 512k");
    disk.does("flush");
    disk.does("write -f -P 0x44 512k 4k");

    let remount = host.command_beside(&mounter, "mount").args(["-o", "remount,size=64m"]).arg(&folder);
    remount.run().succeeded();
    disk.does("write -P 0x55 8M 6M");
    disk.does("flush");
    disk.does("read -P 0x55 8M 6M");
    disk.does("read -P 0x33 0 512k");
    disk.does("read -P 0x11 516k 508k");
    let report = target.stop().succeeded().output();
    assert!(!report.contains("refused from now on"), "nothing acknowledged was lost\n{report}");
}

/// A host whose disk `bad.img` fails on demand, and one that is good.
struct Faulty<'lab> {
    lab: &'lab Lab,
    bad: Daemon,
}

impl<'lab> Faulty<'lab> {
    fn new(lab: &'lab Lab) -> Faulty<'lab> {
        requires(&["nbdkit", "nbdfuse"]);
        image(lab, "image");
        image(lab, "good.img");
        fs::write(lab.path("bad.img"), "").unwrap();
        let fault = |name: &str| {
            let hang = format!("while [ -e stuck-{name} ]; do sleep 0.1; done");
            format!("{hang}; [ ! -e bad-{name} ] || {{ echo EIO by the test >&2; exit 1; }}")
        };
        let file = "image conv=notrunc status=none";
        let server = [
            "get_size=stat -L -c %s image".to_owned(),
            "thread_model=echo parallel".to_owned(),
            "can_write=exit 0".to_owned(),
            "can_flush=exit 0".to_owned(),
            format!("pread={}; dd if={file} iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k", fault("read")),
            format!("pwrite={}; dd of={file} oflag=seek_bytes seek=$4 bs=64k", fault("write")),
            format!("flush={}", fault("flush")),
        ];
        let bad = lab.host("a").typed("nbdfuse bad.img --command nbdkit -s --exit-with-parent eval").args(&server);
        let faulty = Faulty { lab, bad: bad.spawn() };
        wait_for("the faulty disk", || {
            let size =
                lab.host("a").command_beside(&faulty.bad, "stat").args(["-c", "%s"]).arg(lab.path("bad.img")).run();
            (size.stdout.trim() == BYTES.to_string()).then_some(())
        });
        faulty
    }

    /// Starts the target with both disks.
    fn export(&self, options: &[&str]) -> Daemon {
        let command =
            self.lab.host("a").command_beside(&self.bad, "aoe-target").args(["export", "shelf", "0", "slot", "1"]);
        let command =
            command.arg(self.lab.path("bad.img")).args(["shelf", "0", "slot", "2"]).arg(self.lab.path("good.img"));
        command.args(options).spawn_ready(|line| line.starts_with("serving e0.2"))
    }

    /// From now on: bad-read, stuck-write and so on.
    fn set(&self, fault: &str) {
        fs::write(self.lab.path(fault), "").unwrap();
    }

    fn clear(&self, fault: &str) {
        fs::remove_file(self.lab.path(fault)).unwrap();
    }
}

#[test]
fn net_disk_faults_that_lose_nothing_pass() {
    let lab = Lab::pair(9000);
    let faulty = Faulty::new(&lab);
    let target = faulty.export(&[]);
    let [disk, other] = ["e0.1", "e0.2"].map(|device| Disk::attach(&lab, device));
    disk.does("write -P 0x11 0 64k");

    faulty.set("bad-read");
    disk.fails("read 4M 64k");
    told(&target, &["e0.1", "I/O error 5"]);
    other.is_well();
    disk.does("write -P 0x22 1M 64k");
    disk.does("flush");
    faulty.clear("bad-read");
    disk.does("read -P 0 4M 64k");

    faulty.set("bad-write");
    disk.fails("write -P 0x33 2M 64k");
    disk.does("read -P 0x11 0 64k");
    disk.does("flush");
    other.is_well();
    faulty.clear("bad-write");
    disk.does("write -P 0x44 2M 64k");
    disk.does("flush");
    for command in ["read -P 0x11 0 64k", "read -P 0x22 1M 64k", "read -P 0x44 2M 64k"] {
        disk.does(command);
    }
    let report = target.stop().succeeded().output();
    assert!(!report.contains("refused from now on"), "{report}");
}

#[test]
fn net_disk_faults_a_failed_flush_is_remembered_until_it_is_cleared() {
    let lab = Lab::pair(9000);
    let faulty = Faulty::new(&lab);
    let target = faulty.export(&[]);
    let [disk, other] = ["e0.1", "e0.2"].map(|device| Disk::attach(&lab, device));
    disk.does("write -P 0x11 0 64k");
    disk.does("flush");

    faulty.set("bad-flush");
    disk.fails("write -f -P 0x22 1M 64k");
    let line = told(&target, &["e0.1", "refused from now on"]);
    assert!(line.contains("Input/output error") && line.contains("--clear-error"), "{line}");
    faulty.clear("bad-flush");
    let refuses = |disk: &Disk| {
        disk.fails("flush");
        disk.fails("write -P 0x33 0 64k");
        disk.fails("discard 0 64k");
        disk.does("read -P 0x11 0 64k");
        other.is_well();
    };
    refuses(&disk);

    // Neither a stop nor a crash makes it good. (How long writes wait after a start is not what this is about.)
    target.stop().succeeded();
    let target = faulty.export(&["--no-hold"]);
    told(&target, &["e0.1", "before this start", "--clear-error"]);
    told(&target, &["serving e0.1", "writes refused"]);
    refuses(&disk);
    target.kill();
    let target = faulty.export(&["--clear-error", "--no-hold"]);
    let line = told(&target, &["e0.1", "cleared", "Input/output error"]);
    assert!(!line.contains("before this start"), "{line}");
    disk.is_well();
    disk.does("read -P 0x11 0 64k");
    target.kill();
    let target = faulty.export(&["--no-hold"]);
    disk.is_well();

    // Written, acknowledged, never flushed: the stop is the last to hear of its loss.
    disk.does("write -P 0x44 2M 64k");
    faulty.set("bad-flush");
    let report = target.stop().exited(1).output();
    assert!(report.contains("e0.1: its last writes could not be synced"), "{report}");
    faulty.clear("bad-flush");
    let target = faulty.export(&["--no-hold"]);
    refuses(&disk);
    target.stop().succeeded();
}

#[test]
fn net_disk_faults_stuck() {
    let lab = Lab::pair(9000);
    let faulty = Faulty::new(&lab);
    let target = faulty.export(&[]);
    let [disk, other] = ["e0.1", "e0.2"].map(|device| Disk::attach(&lab, device));
    for (fault, command) in [
        ("stuck-write", "write -P 0x22 1M 64k"),
        ("stuck-flush", "write -f -P 0x33 2M 1M"),
        ("stuck-read", "read -P 0 3M 64k"),
    ] {
        faulty.set(fault);
        let mut client = disk.command(command).spawn();
        assert!(!client.ends_within(Duration::from_millis(500)), "{command}");
        other.is_well();
        client.assert_running();
        faulty.clear(fault);
        assert!(client.ends_within(PATIENCE), "{command}");
        assert!(!client.output().contains("fail"), "{}", client.output());
    }
    disk.does("read -P 0x22 1M 64k");
    disk.does("read -P 0x33 2M 1M");
    target.stop().succeeded();
}

#[test]
fn net_disk_faults_stuck_where_calls_block_end_the_signs_of_life() {
    let lab = Lab::pair(9000);
    let faulty = Faulty::new(&lab);
    let socket = lab.path("notify");
    let manager = Manager::at(&socket);
    let target = lab
        .host("a")
        .command_beside(&faulty.bad, "env")
        .args([format!("NOTIFY_SOCKET={}", socket.display()).as_str(), "WATCHDOG_USEC=400000"])
        .args(["aoe-target", "export", "--io", "sync", "shelf", "0", "slot", "1"])
        .arg(lab.path("bad.img"))
        .spawn_ready(|line| line.starts_with("serving e0.1"));
    let disk = Disk::attach(&lab, "e0.1");
    disk.does("write -P 0x22 1M 64k");
    manager.hears("WATCHDOG=1");

    // The thread that serves is in the kernel, and a service manager would start the target anew.
    faulty.set("stuck-read");
    let mut client = disk.command("read -P 0 3M 64k").spawn();
    manager.hears_nothing_for(Duration::from_secs(1));
    faulty.clear("stuck-read");
    manager.hears("WATCHDOG=1");
    assert!(client.ends_within(PATIENCE));
    target.stop().succeeded();
}

#[test]
fn net_disk_faults_truncated_and_grown_back() {
    let lab = Lab::pair(9000);
    let [path, _good] = ["disk.img", "good.img"].map(|name| image(&lab, name));
    let target = lab.export("a", "shelf 0 slot 1 disk.img shelf 0 slot 2 good.img");
    let [disk, other] = ["e0.1", "e0.2"].map(|device| Disk::attach(&lab, device));
    disk.does("write -P 0x11 0 64k");
    disk.does("write -P 0x22 12M 64k");
    disk.does("flush");
    let resize = |bytes| File::options().write(true).open(&path).and_then(|file| file.set_len(bytes)).unwrap();

    resize(BYTES / 2);
    disk.fails("read 12M 64k");
    told(&target, &["e0.1", "disk.img shrank from 32768 to 16384 sectors"]);
    disk.fails("write -P 0x33 12M 64k");
    assert_eq!(fs::metadata(&path).unwrap().len(), BYTES / 2, "a write that fails does not make the file grow");
    disk.does("read -P 0x11 0 64k");
    disk.does("write -P 0x44 1M 64k");
    disk.does("flush");
    other.is_well();

    resize(BYTES);
    told(&target, &["e0.1", "has 32768 sectors now"]);
    // Its client hears of that a moment later.
    wait_for("the end of the disk", || (disk.run("read -P 0 12M 64k").code == 0).then_some(()));
    for command in ["write -P 0x55 12M 64k", "flush", "read -P 0x55 12M 64k"] {
        disk.does(command);
    }
    disk.does("read -P 0x11 0 64k");
    disk.does("read -P 0x44 1M 64k");
    target.stop().succeeded();
}

#[test]
fn net_disk_faults_deleted() {
    let lab = Lab::pair(9000);
    let [path, _good] = ["disk.img", "good.img"].map(|name| image(&lab, name));
    let target = lab.export("a", "shelf 0 slot 1 disk.img shelf 0 slot 2 good.img");
    let [disk, other] = ["e0.1", "e0.2"].map(|device| Disk::attach(&lab, device));
    disk.does("write -P 0x11 0 64k");
    fs::remove_file(&path).unwrap();
    let line = told(&target, &["e0.1", "was deleted"]);
    disk.does("read -P 0x11 0 64k");
    disk.is_well();
    other.is_well();

    // The line says how to get it back.
    let (_, rest) = line.split_once("copy it from ").expect("a place to copy it from");
    let saved = lab.path("saved.img");
    fs::copy(rest.split(' ').next().unwrap(), &saved).unwrap();
    target.stop().succeeded();
    let saved = fs::read(saved).unwrap();
    assert!(saved.len() == BYTES as usize && saved[..64 << 10] == [0x11; 64 << 10]);
}
