//! `aoe-attach` at the network block devices of a real kernel.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use aoe_tests::net::image::assert_clean_ext4;
use aoe_tests::net::{Lab, wait_for};
use aoe_tests::vm::{Guest, Machine, Suite, filesystem_story};
use serde_json::Value;

/// Size of the disk.
const BYTES: u64 = 256 << 20;

/// The README's export of a disk full of holes, on host `target`.
const EXPORT: &str = "shelf 0 slot 1 disk.img";

/// Load of some 20 s, which in the end reads and compares everything it has written.
const LOAD: &str = "fio --name=load --filename=/dev/nbd1 --size=160M --rw=randwrite --bsrange=4k-64k --direct=1 \
                    --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1";

fn lab() -> Lab {
    let lab = Lab::switched(&["target"], 9000);
    std::fs::File::create(lab.path("disk.img")).and_then(|file| file.set_len(BYTES)).expect("a sparse file");
    lab
}

/// Bytes that a file takes on the disk.
fn allocated(file: &Path) -> u64 {
    std::fs::metadata(file).expect("a file").blocks() * 512
}

/// What `aoe-stat` says about /dev/nbd1.
fn stat(guest: &Guest<'_>) -> Value {
    let text = guest.run("aoe-stat --json /dev/nbd1");
    serde_json::from_str::<Value>(&text).expect("JSON")[0].take()
}

#[test]
fn vm_nbd_attach() {
    attached_used_and_detached(Suite::Own);
}

#[test]
fn vm_nbd_attach_with_the_backports_kernel() {
    attached_used_and_detached(Suite::Backports);
}

fn attached_used_and_detached(kernel: Suite) {
    let lab = lab();
    let disk = lab.path("disk.img");
    let target = lab.export("target", EXPORT);
    let guest = Machine::new("guest", 1).kernel(kernel).boot(&lab);

    guest.run("modprobe nbd");
    let found = guest.run("aoe-discover");
    assert!(found.contains("e0.1") && found.contains(lab.mac("target")), "{found}");
    guest.run("aoe-attach e0.1 /dev/nbd1");

    // Everybody agrees on what it is.
    let pid = stat(&guest)["pid"].to_string();
    assert_eq!(guest.run("nbd-client -c /dev/nbd1").trim(), pid);
    assert_eq!(guest.run("lsblk -bdnro SIZE,LOG-SEC,PHY-SEC,RO /dev/nbd1").trim(), format!("{BYTES} 512 512 0"));
    let blockdev = guest.run("blockdev --getsize64 --getss --getro /dev/nbd1");
    assert_eq!(blockdev.split_whitespace().collect::<Vec<_>>(), [BYTES.to_string().as_str(), "512", "0"]);

    filesystem_story(&guest, "/dev/nbd1");
    assert_clean_ext4(&disk);

    // What is deleted becomes a hole of the target's file; so does the whole disk.
    let full = allocated(&disk);
    guest.run("mount /dev/nbd1 /mnt && rm -r /mnt/files && sync && fstrim -v /mnt && umount /mnt");
    let trimmed = allocated(&disk);
    assert!(trimmed + (12 << 20) < full, "fstrim: {full} bytes before, {trimmed} after");
    guest.run("blkdiscard /dev/nbd1");
    assert_eq!(allocated(&disk), 0, "bytes taken after blkdiscard");

    // Each fsync is a flush, and each flush gets to the target; a few may get there twice.
    let before = stat(&guest)["flushes"].as_u64().expect("a number");
    guest.run("for n in 1 2 3 4 5; do echo $n | dd of=/dev/nbd1 seek=$n conv=fsync 2>/dev/null; done");
    let after = stat(&guest)["flushes"].as_u64().expect("a number");
    assert_eq!(after - before, 5, "flushes of five fsyncs");

    guest.run("aoe-detach e0.1");
    guest.fails("nbd-client -c /dev/nbd1");
    let report = target.stop().succeeded().output();
    let words: Vec<&str> = report.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "flushes;").expect("the target counts its flushes");
    let counted: u64 = words[at - 1].parse().expect("a number");
    assert!(counted > after, "{after} flushes and that of the detach were sent\n{report}");
    assert!(report.contains("flushes; 0 failed"), "{report}");
}

/// The network of a container is not the kernel's first, and its block devices are.
#[test]
fn vm_nbd_attach_from_a_network_namespace() {
    let lab = lab();
    let _target = lab.export("target", EXPORT);
    let guest = Guest::boot(&lab, "guest", 9000);
    guest.run("modprobe nbd; ip netns add inner; ip link set eth0 netns inner; ip -n inner link set eth0 up");
    guest.wait_until(Duration::from_secs(10), "ip netns exec inner aoe-discover");
    guest.run("ip netns exec inner aoe-attach e0.1 /dev/nbd1");
    filesystem_story(&guest, "/dev/nbd1");
    guest.run("aoe-detach /dev/nbd1");
    assert_clean_ext4(&lab.path("disk.img"));
}

#[test]
fn vm_nbd_attach_survives_its_own_crash() {
    let lab = lab();
    let _target = lab.export("target", EXPORT);
    let guest = Guest::boot(&lab, "guest", 9000);
    guest.run("modprobe nbd; aoe-attach e0.1 /dev/nbd1");

    let load = guest.start(LOAD);
    sleep(Duration::from_secs(2));
    guest.run(&format!("kill -9 {}", stat(&guest)["pid"]));
    sleep(Duration::from_secs(2));
    assert!(load.is_running(), "the load waits for the disk");
    guest.run("aoe-attach e0.1 /dev/nbd1");
    let report = load.finish(Duration::from_secs(120));
    assert!(report.contains("err= 0"), "{report}");

    assert_eq!(guest.run("blockdev --getsize64 /dev/nbd1").trim(), BYTES.to_string());
    filesystem_story(&guest, "/dev/nbd1");
    guest.run("aoe-detach /dev/nbd1");
    assert_clean_ext4(&lab.path("disk.img"));
}

#[test]
fn vm_nbd_attach_gives_up_a_dead_target() {
    let lab = lab();
    let target = lab.export("target", EXPORT);
    let guest = Guest::boot(&lab, "guest", 9000);
    guest.run("modprobe nbd; aoe-attach e0.1 /dev/nbd1 --dead-after 5");
    guest.run("mkfs.ext4 -q /dev/nbd1; mount /dev/nbd1 /mnt; echo kept >/mnt/kept; sync");

    target.kill();
    let read = "dd if=/dev/nbd1 of=/dev/null bs=4k count=1 skip=9999 iflag=direct";
    assert!(guest.fails(&format!("timeout 60 {read}")).contains("Input/output error"));
    guest.run("lsblk; ip link; echo usable >/tmp/note");
    assert_eq!(stat(&guest)["state"], "dead");
    guest.fails("dd if=/dev/zero of=/mnt/lost bs=4k count=1 conv=fsync");
    let refused = guest.fails("aoe-detach /dev/nbd1");
    assert!(refused.contains("unmount"), "{refused}");
    guest.run("umount /mnt");
    println!("{}", guest.fails("timeout 100 aoe-detach /dev/nbd1"));
    guest.fails("nbd-client -c /dev/nbd1");

    let target = lab.export("target", EXPORT);
    guest.run("aoe-attach e0.1 /dev/nbd1 --dead-after 5");
    guest.run("e2fsck -f -p /dev/nbd1 || [ $? = 1 ]");
    assert_eq!(guest.run("mount /dev/nbd1 /mnt && cat /mnt/kept && umount /mnt"), "kept\n");

    // One that returns is used again as it is.
    target.kill();
    guest.fails(&format!("timeout 60 {read}"));
    let _target = lab.export("target", EXPORT);
    wait_for("the disk to be up again", || (stat(&guest)["state"] == "up").then_some(()));
    guest.run(read);
    guest.run("aoe-detach /dev/nbd1");
}

/// A filesystem in use grows with the file behind it: nothing is unmounted, attached anew or started again.
#[test]
fn vm_nbd_attach_grows_online() {
    const TWICE: u64 = 2 * BYTES;
    const THRICE: u64 = 3 * BYTES;
    let lab = lab();
    let disk = lab.path("disk.img");
    let grow = |bytes| {
        std::fs::File::options().write(true).open(&disk).and_then(|file| file.set_len(bytes)).expect("a sparse file");
    };
    let _target = lab.export("target", EXPORT);
    let guest = Guest::boot(&lab, "guest", 9000);
    guest.run("modprobe nbd; aoe-attach e0.1 /dev/nbd1");
    guest.run("mkfs.ext4 -q /dev/nbd1 && mount /dev/nbd1 /mnt && mkdir /mnt/files");
    let load = guest.start(
        "cd /mnt/files; n=0; until [ -e /tmp/enough ]; do n=$((n + 1)); \
         head -c 200000 /dev/urandom >$((n % 20)) && sync || exit 1; sleep 0.1; done; sha256sum * >../sums",
    );

    grow(TWICE);
    guest.wait_until(Duration::from_secs(30), &format!("[ $(blockdev --getsize64 /dev/nbd1) = {TWICE} ]"));
    assert_eq!(stat(&guest)["size_bytes"], TWICE);
    guest.run("resize2fs /dev/nbd1");
    // More than the whole disk had before, so some of it lies behind the old end.
    guest.run(&format!("fallocate -l {} /mnt/large", BYTES + (16 << 20)));
    guest.run(
        "head -c 8M /dev/urandom >/tmp/part && for at in 0 128 256; do \
         dd if=/tmp/part of=/mnt/large bs=1M seek=$at conv=notrunc,fsync 2>/dev/null || exit 1; done",
    );
    assert!(load.is_running(), "the filesystem was in use all the time");
    guest.run("touch /tmp/enough");
    load.finish(Duration::from_secs(60));

    guest.run("sync; echo 3 >/proc/sys/vm/drop_caches; cd /mnt/files && sha256sum -c ../sums");
    guest.run("for at in 0 128 256; do cmp -n 8M -i $((at << 20)):0 /mnt/large /tmp/part || exit 1; done");
    guest.run("umount /mnt && e2fsck -f -n /dev/nbd1");
    assert_eq!(stat(&guest)["errors"], 0);

    // It may also grow while its server is gone.
    guest.run(&format!("kill -9 {}", stat(&guest)["pid"]));
    grow(THRICE);
    sleep(Duration::from_secs(4));
    guest.run("aoe-attach e0.1 /dev/nbd1");
    assert_eq!(guest.run("blockdev --getsize64 /dev/nbd1").trim(), THRICE.to_string());
    guest.run("e2fsck -f -p /dev/nbd1 && resize2fs /dev/nbd1 && e2fsck -f -n /dev/nbd1");
    guest.run("aoe-detach /dev/nbd1");
    assert_clean_ext4(&disk);
}
