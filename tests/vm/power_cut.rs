//! The target's host loses power: its memory is gone, and with it everything that only its page cache held.

use std::fs::File;
use std::time::Duration;

use aoe_tests::net::Lab;
use aoe_tests::vm::{Guest, Machine, Suite};

/// Sizes of the server's disks: one for a file, two that are exported themselves.
const BYTES: [u64; 3] = [192 << 20, 96 << 20, 96 << 20];

/// A file and a device by the page cache, and a device without it.
const EXPORTS: [&str; 2] = [
    "mount /dev/vdb /mnt && cd /mnt && exec aoe-target export shelf 0 slot 1 disk.img shelf 0 slot 2 /dev/vdc",
    "exec aoe-target export shelf 0 slot 3 /dev/vdd --direct",
];

/// A server with these exports and a client.
fn machines(lab: &Lab) -> [Guest<'_>; 2] {
    let mut server = Machine::new("server", 1);
    for (number, bytes) in BYTES.into_iter().enumerate() {
        let disk = lab.path(&format!("server{number}.img"));
        File::create(&disk).and_then(|file| file.set_len(bytes)).expect("a sparse file");
        server = server.disk(&disk);
    }
    let [server, client] = Machine::boot_all(lab, [server, Machine::new("client", 2).kernel(Suite::Backports)]);
    server.run("mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt && fallocate -l 96M /mnt/disk.img && umount /mnt");
    serve(&server);
    [server, client]
}

fn serve(server: &Guest<'_>) {
    for export in EXPORTS {
        server.start(export).wait_for_line("serving", Duration::from_secs(30));
    }
}

/// The server loses power and comes back.
fn cut_power<'lab>(lab: &'lab Lab, server: Guest<'lab>) -> Guest<'lab> {
    let server = server.kill().boot(lab);
    serve(&server);
    server
}

/// Flushes that a disk of the server has done since it booted.
fn flushes(server: &Guest<'_>, disk: &str) -> u64 {
    let figures = server.run(&format!("cat /sys/block/{disk}/stat"));
    figures.split_whitespace().nth(15).and_then(|figure| figure.parse().ok()).expect("a number of flushes")
}

/// Writes 4 MiB at a place of the disk, in a way that promises to be durable. Returns their checksum.
pub fn write(client: &Guest<'_>, disk: &str, at_mib: u32, how: &str) -> String {
    client.run(&format!("head -c 4M /dev/urandom >/tmp/data && dd if=/tmp/data of={disk} bs=64k seek={at_mib}M {how}"));
    client.run("sha256sum </tmp/data")
}

/// The checksum of what the target has there now.
pub fn read(client: &Guest<'_>, disk: &str, at_mib: u32) -> String {
    client.run(&format!("dd if={disk} bs=64k skip={at_mib}M count=4M iflag=direct,skip_bytes,count_bytes | sha256sum"))
}

#[test]
fn vm_power_cut_keeps_what_an_fsync_promised() {
    let lab = Lab::switched(&["nobody"], 9000);
    let [server, client] = machines(&lab);
    let disks = ["/dev/nbd1", "/dev/nbd2", "/dev/nbd3"];
    client.run("modprobe nbd; for n in 1 2 3; do aoe-attach e0.$n /dev/nbd$n; done");
    let first = disks.map(|disk| write(&client, disk, 1, "conv=fsync oflag=seek_bytes"));
    let server = cut_power(&lab, server);
    assert_eq!(disks.map(|disk| read(&client, disk, 1)), first, "after fsync");

    // The next time is different: by now the target trusts the client to flush, and writes go to its page cache.
    let second = disks.map(|disk| write(&client, disk, 32, "conv=fsync oflag=seek_bytes,direct"));
    // Each of these is durable by itself (FUA).
    let before = ["vdb", "vdc", "vdd"].map(|disk| flushes(&server, disk));
    let third = disks.map(|disk| write(&client, disk, 64, "oflag=seek_bytes,direct,dsync"));
    let after = ["vdb", "vdc", "vdd"].map(|disk| flushes(&server, disk));
    println!("flushes of the server's disks before and after 64 durable writes: {before:?}, {after:?}");
    assert!(before.iter().zip(after).all(|(before, after)| after >= before + 64), "a durable write reaches the medium");
    let server = cut_power(&lab, server);
    let assert_kept = || {
        assert_eq!(disks.map(|disk| read(&client, disk, 64)), third, "after durable writes");
        assert_eq!(disks.map(|disk| read(&client, disk, 32)), second, "after direct writes and fsync");
        assert_eq!(disks.map(|disk| read(&client, disk, 1)), first, "still");
    };
    assert_kept();

    // What nobody made durable may be gone, and then no fsync says otherwise until the disk is attached anew.
    client.run("dd if=/tmp/data of=/dev/nbd1 bs=64k seek=80M oflag=seek_bytes,direct");
    let _server = cut_power(&lab, server);
    let complaint = client.fails("dd if=/tmp/data of=/dev/nbd1 bs=64k count=1 seek=88M oflag=seek_bytes conv=fsync");
    assert!(complaint.contains("fsync failed") && complaint.contains("Input/output error"), "{complaint}");
    let told = client.fails("aoe-detach e0.1");
    assert!(told.contains("did not confirm that all is durable"), "{told}");
    client.run("aoe-attach e0.1 /dev/nbd1");
    let fourth = write(&client, "/dev/nbd1", 80, "conv=fsync oflag=seek_bytes,direct");
    assert_eq!(read(&client, "/dev/nbd1", 80), fourth, "attached anew");
    assert_kept();
    client.run("for n in 1 2 3; do aoe-detach e0.$n; done");
}

/// aoe.ko never asks for durability. The target gives it all the same: each answered write is on the disk.
#[test]
fn vm_power_cut_keeps_what_was_answered_to_aoe_ko() {
    let lab = Lab::switched(&["nobody"], 9000);
    let [server, client] = machines(&lab);
    let disks = ["/dev/etherd/e0.1", "/dev/etherd/e0.2", "/dev/etherd/e0.3"];
    client.run("modprobe aoe");
    for disk in disks {
        client.wait_until(Duration::from_secs(10), &format!("[ -b {disk} ]"));
    }
    let written = disks.map(|disk| write(&client, disk, 1, "oflag=seek_bytes,direct"));
    let _server = cut_power(&lab, server);
    assert_eq!(disks.map(|disk| read(&client, disk, 1)), written, "after direct writes");
}
