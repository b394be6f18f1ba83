//! Linux's own AoE client, aoe.ko, at our target.

use std::fs::File;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aoe_tests::net::Lab;
use aoe_tests::net::image::assert_clean_ext4;
use aoe_tests::vm::{Guest, Machine, Suite, filesystem_story};

/// Size of the disk.
const BYTES: u64 = 256 << 20;

const EXPORT: &str = "shelf 0 slot 1 disk.img";
const DISK: &str = "/dev/etherd/e0.1";

fn lab(mtu: u32) -> Lab {
    let lab = Lab::switched(&["target"], mtu);
    resize(&lab, BYTES);
    lab
}

fn resize(lab: &Lab, bytes: u64) {
    let file = File::options().create(true).write(true).truncate(false).open(lab.path("disk.img"));
    file.and_then(|file| file.set_len(bytes)).expect("a sparse file");
}

/// A guest whose driver has found the disk by itself.
fn guest(lab: &Lab, mtu: u32) -> Guest<'_> {
    guest_with(lab, mtu, Suite::Own)
}

fn guest_with(lab: &Lab, mtu: u32, kernel: Suite) -> Guest<'_> {
    let guest = Machine::new("guest", 1).mtu(mtu).kernel(kernel).boot(lab);
    guest.run("modprobe aoe");
    guest.wait_until(Duration::from_secs(10), &format!("[ -b {DISK} ]"));
    guest
}

/// Writes `size` at random places, then reads and compares it.
fn load(size: &str) -> String {
    format!(
        "fio --name=load --filename={DISK} --size={size} --rw=randwrite --bsrange=512-64k --direct=1 --ioengine=libaio \
         --iodepth=16 --verify=crc32c --verify_fatal=1"
    )
}

fn discovered_used_and_listed(mtu: u32, kernel: Suite, payload: &str) {
    let lab = lab(mtu);
    let target = lab.export("target", EXPORT);
    let guest = guest_with(&lab, mtu, kernel);
    assert_eq!(guest.run(&format!("blockdev --getsize64 {DISK}")).trim(), BYTES.to_string());
    let listed = guest.run("/usr/sbin/aoe-stat");
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), ["e0.1", "0.268GB", "eth0", payload, "up"]);
    let checked = guest.run("/usr/sbin/aoe-sancheck 2>&1");
    assert!(checked.lines().any(|line| line.contains("e0.1") && line.contains("eth0")), "{checked}");

    filesystem_story(&guest, DISK);
    guest.run(&load("32M"));
    filesystem_story(&guest, DISK);
    target.stop().succeeded();
    assert_clean_ext4(&lab.path("disk.img"));
}

#[test]
fn vm_aoe_ko_at_mtu_9000() {
    discovered_used_and_listed(9000, Suite::Own, "8192");
}

#[test]
fn vm_aoe_ko_at_mtu_1500() {
    discovered_used_and_listed(1500, Suite::Own, "1024");
}

#[test]
fn vm_aoe_ko_with_the_backports_kernel() {
    discovered_used_and_listed(9000, Suite::Backports, "8192");
}

#[test]
fn vm_aoe_ko_outlives_a_crash_of_the_target() {
    let lab = lab(9000);
    let target = lab.export("target", EXPORT);
    let guest = guest(&lab, 9000);
    let load = guest.start(&load("96M"));
    sleep(Duration::from_secs(2));
    target.kill();
    sleep(Duration::from_secs(3));
    assert!(load.is_running(), "the load waits for the target");
    let _target = lab.export("target", EXPORT);
    let report = load.finish(Duration::from_secs(180));
    assert!(report.contains("err= 0"), "{report}");
}

#[test]
fn vm_aoe_ko_sees_a_grown_export() {
    let lab = lab(9000);
    let _target = lab.export("target", EXPORT);
    let guest = guest(&lab, 9000);
    guest.run(&format!("mkfs.ext4 -q {DISK}"));
    resize(&lab, 2 * BYTES);
    guest.wait_until(
        Duration::from_secs(30),
        &format!("/usr/sbin/aoe-revalidate e0.1 && [ $(blockdev --getsize64 {DISK}) = {} ]", 2 * BYTES),
    );
    guest.run(&format!("dd if=/dev/urandom of={DISK} bs=1M seek=511 count=1 oflag=direct"));
}

#[test]
fn vm_aoe_ko_is_refused_writes_at_once_by_a_read_only_export() {
    let lab = lab(9000);
    let target = lab.export("target", EXPORT);
    let guest = guest(&lab, 9000);
    guest.run(&format!("echo first | dd of={DISK} conv=fsync"));
    target.stop().succeeded();
    let _target = lab.export("target", &format!("--read-only {EXPORT}"));
    let began = Instant::now();
    guest.fails(&format!("dd if=/dev/zero of={DISK} bs=4k count=1 oflag=direct"));
    assert!(began.elapsed() < Duration::from_secs(30), "refused after {:?}", began.elapsed());
    assert_eq!(guest.run(&format!("dd if={DISK} bs=512 count=1 iflag=direct 2>/dev/null | head -c 5")), "first");
}
