//! Linux's own AoE client and ours, side by side on disks of a target that is not ours: Debian's vblade.

use std::fs::File;
use std::time::Duration;

use aoe_tests::net::image::assert_clean_ext4;
use aoe_tests::net::{Daemon, Lab};
use aoe_tests::vm::{Guest, Machine, filesystem_story};

/// Size of each disk.
const BYTES: u64 = 128 << 20;

/// Starts vblade for e0.SLOT, a disk full of holes.
fn vblade(lab: &Lab, slot: u8) -> Daemon {
    let disk = format!("disk{slot}.img");
    File::create(lab.path(&disk)).and_then(|file| file.set_len(BYTES)).expect("a sparse file");
    let command = format!("vblade 0 {slot} eth0 {disk}");
    lab.host("storage").typed(&command).spawn_ready(|line| line.starts_with("pid"))
}

/// Writes 8 MiB that nobody has seen before, from 1 MiB * `mebibyte` on. Returns their checksum.
fn write(guest: &Guest<'_>, disk: &str, mebibyte: u32) -> String {
    guest.run(&format!(
        "head -c 8M /dev/urandom >/tmp/new && dd if=/tmp/new of={disk} bs=1M seek={mebibyte} oflag=direct 2>/dev/null"
    ));
    guest.run("sha256sum </tmp/new")
}

/// The checksum of what the disk has there.
fn read(guest: &Guest<'_>, disk: &str, mebibyte: u32) -> String {
    guest.run(&format!("dd if={disk} bs=1M skip={mebibyte} count=8 iflag=direct 2>/dev/null | sha256sum"))
}

/// Writes half of the disk at random, then reads and compares it.
fn load(disk: &str, half: u32) -> String {
    format!(
        "fio --name=load --filename={disk} --offset={}M --size=24M --rw=randwrite --bsrange=512-64k --direct=1 \
         --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1",
        half * 64
    )
}

#[test]
fn vm_mixed_aoe_ko_and_aoe_attach_at_vblade() {
    let lab = Lab::switched(&["storage"], 9000);
    let vblades = [1, 2, 3].map(|slot| vblade(&lab, slot));
    let [alpha, beta] = Machine::boot_all(&lab, [Machine::new("alpha", 1), Machine::new("beta", 2)]);

    alpha.run("modprobe aoe");
    alpha.wait_until(Duration::from_secs(10), "[ -b /dev/etherd/e0.1 ] && [ -b /dev/etherd/e0.3 ]");
    beta.run("modprobe nbd");
    for (device, place) in [("e0.2", "/dev/nbd1"), ("e0.3", "/dev/nbd2")] {
        let said = beta.run(&format!("aoe-attach {device} {place} 2>&1"));
        assert!(
            said.contains(&format!("{device} has no flush")),
            "fsync adds nothing here, and it is not said: {said}"
        );
    }
    assert_eq!(beta.run("cat /sys/block/nbd1/queue/write_cache").trim(), "write through", "nothing can be flushed");

    // Each its own disk.
    filesystem_story(&alpha, "/dev/etherd/e0.1");
    filesystem_story(&beta, "/dev/nbd1");

    // One disk for both: what one has written, the other reads, and also where it has read before.
    let (by_alpha, by_beta) = ("/dev/etherd/e0.3", "/dev/nbd2");
    for round in 0..2 {
        let written = write(&alpha, by_alpha, 0);
        assert_eq!(read(&beta, by_beta, 0), written, "beta reads what alpha wrote, round {round}");
        let written = write(&beta, by_beta, 4);
        assert_eq!(read(&alpha, by_alpha, 4), written, "alpha reads what beta wrote, round {round}");
    }
    // Both at once, a half each.
    let loads = [alpha.start(&load(by_alpha, 0)), beta.start(&load(by_beta, 1))];
    for report in loads.map(|load| load.finish(Duration::from_secs(120))) {
        assert!(report.contains("err= 0"), "{report}");
    }
    for half in [0, 64] {
        assert_eq!(read(&alpha, by_alpha, half), read(&beta, by_beta, half), "both read the same from {half} MiB on");
    }

    beta.run("aoe-detach /dev/nbd1 && aoe-detach /dev/nbd2");
    vblades.into_iter().for_each(Daemon::kill);
    ["disk1.img", "disk2.img"].iter().for_each(|disk| assert_clean_ext4(&lab.path(disk)));
}
