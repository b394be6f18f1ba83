//! The target's host loses power: its memory is gone, and with it everything that only its page cache held.

use std::fs::File;
use std::time::Duration;

use aoe_tests::net::Lab;
use aoe_tests::vm::{Guest, Machine, Suite};

/// Size of the server's disk.
const BYTES: u64 = 192 << 20;

const EXPORT: &str = "mount /dev/vdb /mnt && cd /mnt && exec aoe-target export shelf 0 slot 1 disk.img";

/// A server with a filesystem on its own disk, where the export's file is, and a client.
fn machines(lab: &Lab) -> [Guest<'_>; 2] {
    let disk = lab.path("server.img");
    File::create(&disk).and_then(|file| file.set_len(BYTES)).expect("a sparse file");
    let server = Machine::new("server", 1).disk(&disk);
    let [server, client] = Machine::boot_all(lab, [server, Machine::new("client", 2).kernel(Suite::Backports)]);
    server.run("mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt && fallocate -l 96M /mnt/disk.img && umount /mnt");
    serve(&server);
    [server, client]
}

fn serve(server: &Guest<'_>) {
    server.start(EXPORT).wait_for_line("serving", Duration::from_secs(30));
}

/// The server loses power and comes back.
fn cut_power<'lab>(lab: &'lab Lab, server: Guest<'lab>) -> Guest<'lab> {
    let server = server.kill().boot(lab);
    serve(&server);
    server
}

/// Writes 8 MiB at a place of the disk, in a way that promises to be durable. Returns their checksum.
fn write(client: &Guest<'_>, disk: &str, at_mib: u32, how: &str) -> String {
    client.run(&format!("head -c 8M /dev/urandom >/tmp/data && dd if=/tmp/data of={disk} bs=64k seek={at_mib}M {how}"));
    client.run("sha256sum </tmp/data")
}

/// The checksum of what the target has there now.
fn read(client: &Guest<'_>, disk: &str, at_mib: u32) -> String {
    client.run(&format!("dd if={disk} bs=64k skip={at_mib}M count=8M iflag=direct,skip_bytes,count_bytes | sha256sum"))
}

#[test]
fn vm_power_cut_keeps_what_an_fsync_promised() {
    let lab = Lab::switched(&["nobody"], 9000);
    let [server, client] = machines(&lab);
    client.run("modprobe nbd; aoe-attach e0.1 /dev/nbd1");
    let first = write(&client, "/dev/nbd1", 1, "conv=fsync oflag=seek_bytes");
    let server = cut_power(&lab, server);
    assert_eq!(read(&client, "/dev/nbd1", 1), first, "after fsync");

    // The next time is different: by now the target trusts the client to flush, and writes go to its page cache.
    let second = write(&client, "/dev/nbd1", 32, "conv=fsync oflag=seek_bytes,direct");
    let _server = cut_power(&lab, server);
    assert_eq!(read(&client, "/dev/nbd1", 32), second, "after direct writes and fsync");
    assert_eq!(read(&client, "/dev/nbd1", 1), first, "still");
    client.run("aoe-detach e0.1");
}

/// aoe.ko never asks for durability. The target gives it all the same: each answered write is on the disk.
#[test]
fn vm_power_cut_keeps_what_was_answered_to_aoe_ko() {
    let lab = Lab::switched(&["nobody"], 9000);
    let [server, client] = machines(&lab);
    client.run("modprobe aoe");
    client.wait_until(Duration::from_secs(10), "[ -b /dev/etherd/e0.1 ]");
    let written = write(&client, "/dev/etherd/e0.1", 1, "oflag=seek_bytes,direct");
    let _server = cut_power(&lab, server);
    assert_eq!(read(&client, "/dev/etherd/e0.1", 1), written, "after direct writes");
}
