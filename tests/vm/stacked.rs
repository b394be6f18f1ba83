//! What Linux stacks on block devices, on AoE disks: a mirror, a volume that grows, an NFS server.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use aoe_tests::net::Lab;
use aoe_tests::net::image::assert_clean_ext4;
use aoe_tests::vm::Machine;
use aoe_tests::vm::guide::{Guide, LabPlace, Place};
use serde_json::Value;

use crate::writer::Writer;

/// How long a mirror may keep its users waiting: the five seconds of `--dead-after`, and what a slow machine adds.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How long the target of the NFS server's disk is away.
const OUTAGE: Duration = Duration::from_secs(3);

#[test]
fn vm_stacked_md_raid1() {
    let lab = Lab::switched(&["east", "west"], 9000);
    let [east, west] = ["east", "west"].map(|host| LabPlace::new(lab.host(host)));
    let alpha = Machine::new("alpha", 1).boot(&lab);
    let places: [(&str, &dyn Place); 3] = [("alpha", &alpha), ("east", &east), ("west", &west)];
    let guide = Guide::open("stacking");
    for section in ["Export a disk", "Export the second disk", "Make a mirror"] {
        guide.follow(section, &places);
    }
    let state = || alpha.run("mdadm --detail /dev/md0");

    // One half dies under load. No write fails, and all reads back right, from the other half.
    let written = "awk '$3 == \"md0\" { print $10 }' /proc/diskstats";
    let before = number(alpha.run(written).trim());
    let load = alpha.start(
        "fio --name=load --filename=/mnt/mirror/load --size=64M --rw=randwrite --rate=,5m --bsrange=4k-64k --direct=1 \
         --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --output-format=json --output=/tmp/load.json",
    );
    let some = before + (10 << 20) / 512;
    alpha.wait_until(Duration::from_secs(60), &format!("[ $({written}) -gt {some} ]"));
    for target in east.take_daemons() {
        target.kill();
    }
    alpha.wait_until(Duration::from_secs(30), "mdadm --detail /dev/md0 | grep -q degraded");
    assert!(load.is_running(), "the load goes on with one half");
    load.finish(Duration::from_secs(120));
    let report = alpha.run("cat /tmp/load.json");
    let report: Value = serde_json::from_str(&report).unwrap_or_else(|e| panic!("{e}: {report}"));
    let job = &report["jobs"][0];
    assert_eq!(job["error"], 0, "{report}");
    let pause = Duration::from_nanos(job["write"]["clat_ns"]["max"].as_u64().expect("a number"));
    println!("the slowest write took {pause:.1?}");
    assert!(pause < LONGEST_PAUSE, "{pause:?}");
    assert!(state().contains("faulty"), "{}", state());

    // What was written meanwhile is copied when the half is back.
    alpha.run("head -c 20000017 /dev/urandom >/mnt/mirror/alone; sync /mnt/mirror/alone");
    guide.follow("Repair the mirror", &places);
    assert!(!state().contains("degraded") && !state().contains("faulty"), "{}", state());
    alpha.run("umount /mnt/mirror");
    guide.follow("Check the mirror", &places);
    assert_eq!(alpha.run("cat /sys/block/md0/md/mismatch_cnt").trim(), "0", "sectors that differ");

    let examined = alpha.run("mdadm --examine /dev/nbd1");
    alpha.run("mdadm --stop /dev/md0 && aoe-detach e0.1 && aoe-detach e1.1");
    let offset = examined.lines().find_map(|line| line.trim().strip_prefix("Data Offset : ")).expect("an offset");
    let sectors: u64 = offset.trim_end_matches(" sectors").parse().expect("a number of sectors");
    let [ours, theirs] = ["east.img", "west.img"].map(|image| content(&lab.path(image), sectors * 512));
    assert!(ours == theirs, "the halves differ");
}

/// All bytes of a file from this one on.
fn content(path: &Path, offset: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = File::open(path).expect("an image");
    file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_to_end(&mut bytes)).expect("reading an image");
    bytes
}

#[test]
fn vm_stacked_lvm_grows() {
    let lab = Lab::switched(&["east"], 9000);
    let east = LabPlace::new(lab.host("east"));
    let alpha = Machine::new("alpha", 1).boot(&lab);
    let places: [(&str, &dyn Place); 2] = [("alpha", &alpha), ("east", &east)];
    let guide = Guide::open("stacking");
    guide.follow("Export a disk", &places);
    guide.follow("Make a volume", &places);
    let room = || alpha.run("stat -f -c '%b %S' /mnt/files").split_whitespace().map(number).product::<u64>();

    let before = room();
    let writer = Writer::start(&alpha, "/mnt/files/small");
    guide.follow("Grow the volume", &places);
    writer.go_on();
    let written = writer.stop();
    let after = room();
    assert!(after > before + (100 << 20), "{before} bytes before, {after} after");
    // More than there was room for before.
    alpha.run(
        "head -c 160000017 /dev/urandom >/mnt/files/big; sync /mnt/files/big; sha256sum </mnt/files/big >/tmp/big",
    );

    alpha.run("umount /mnt/files && e2fsck -f -n /dev/disks/files && vgchange -a n disks && aoe-detach e0.1");
    alpha.run("aoe-attach e0.1 /dev/nbd1 && vgchange -a y disks && mount /dev/disks/files /mnt/files");
    written.check(&alpha, "/mnt/files/small");
    alpha.run("sha256sum </mnt/files/big | cmp - /tmp/big");
    alpha.run("umount /mnt/files && vgchange -a n disks && aoe-detach e0.1");
}

fn number(word: &str) -> u64 {
    word.parse().expect("a number")
}

#[test]
fn vm_stacked_nfs_reexport() {
    let lab = Lab::switched(&["east"], 9000);
    let east = LabPlace::new(lab.host("east"));
    let [alpha, beta] = Machine::boot_all(&lab, [Machine::new("alpha", 1).lan(), Machine::new("beta", 2).lan()]);
    let places: [(&str, &dyn Place); 3] = [("alpha", &alpha), ("beta", &beta), ("east", &east)];
    let guide = Guide::open("stacking");
    guide.follow("Export a disk", &places);
    guide.follow("Serve it by NFS", &places);

    let writer = Writer::start(&beta, "/mnt/files/small");
    for target in east.take_daemons() {
        target.kill();
    }
    sleep(OUTAGE);
    let _target = lab.export("east", "shelf 0 slot 1 east.img");
    writer.go_on();
    let written = writer.stop();
    println!("the user was held up for {:.1?}", written.pause);
    assert!(written.pause + Duration::from_millis(500) > OUTAGE, "the outage was not noticed: {:?}", written.pause);

    beta.run("umount /mnt/files");
    alpha.run("rpc.nfsd 0 && exportfs -ua && umount /srv/files && aoe-detach e0.1");
    assert_clean_ext4(&lab.path("east.img"));
    alpha.run("aoe-attach e0.1 /dev/nbd1 && mount /dev/nbd1 /srv/files");
    written.check(&alpha, "/srv/files/small");
    alpha.run("umount /srv/files && aoe-detach e0.1");
}
