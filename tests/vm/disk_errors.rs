//! A disk of the target's host fails for a while: what the kernel loses then, no client is told it has.

use std::fs::File;
use std::time::Duration;

use aoe_tests::net::Lab;
use aoe_tests::vm::{Guest, Machine, Suite};

use crate::power_cut::{read, write};

/// Size of each of the server's disks.
const BYTES: u64 = 96 << 20;

/// A file on a disk that fails, a disk that does not, a device that fails.
const EXPORTS: &str = "shelf 0 slot 1 /mnt/disk.img shelf 0 slot 2 /dev/vdc shelf 0 slot 3 /dev/mapper/raw";

const CLIENTS: [&str; 3] = ["/dev/nbd1", "/dev/nbd2", "/dev/nbd3"];

/// How a client writes and asks for durability.
const HOW: &str = "oflag=seek_bytes,direct conv=fsync";

const PATIENCE: Duration = Duration::from_secs(30);

/// Puts something between the server's failing disks and who uses them.
fn put_between(server: &Guest<'_>, target: &str, options: &str) {
    for (name, disk) in [("fs", "vdb"), ("raw", "vdd")] {
        server.run(&format!(
            "exists=$(dmsetup info {name} >/dev/null 2>&1 && echo y)
            table=\"0 $(blockdev --getsz /dev/{disk}) {target} /dev/{disk} 0 {options}\"
            if [ $exists ]; then dmsetup suspend --nolockfs {name}; dmsetup load {name} --table \"$table\"; dmsetup resume {name}
            else dmsetup create {name} --noudevsync --noudevrules --table \"$table\"; fi"
        ));
    }
}

fn serve(server: &Guest<'_>, options: &str) {
    server.start(&format!("exec aoe-target export {EXPORTS} --control /tmp/control.sock {options} >/tmp/log 2>&1"));
    server.wait_until(PATIENCE, "grep -q '^serving e0.3' /tmp/log");
}

fn stop(server: &Guest<'_>) {
    server.run("pkill -x aoe-target; while pgrep -x aoe-target; do sleep 0.1; done; cat /tmp/log");
}

/// What the operator is told of an export.
fn tells(server: &Guest<'_>, export: &str, line: &str) {
    server.run(&format!("aoe-target ctl --control /tmp/control.sock status {export} | grep -E '^{line}'"));
}

/// What was written and could not be flushed is gone though the error is cleared, and that stays told until the disk is
/// attached anew.
fn attach_anew(client: &Guest<'_>, number: u8) {
    let complaint = client.fails(&format!("dd if=/tmp/data of=/dev/nbd{number} bs=64k count=4 seek=48M {HOW}"));
    assert!(complaint.contains("fsync failed") && complaint.contains("Input/output error"), "{complaint}");
    let told = client.fails(&format!("aoe-detach e0.{number}"));
    assert!(told.contains("did not confirm that all is durable"), "{told}");
    client.run(&format!("aoe-attach e0.{number} /dev/nbd{number}"));
}

/// The clients of failing disks cannot write, and they can read what they knew to be there.
fn refuses(client: &Guest<'_>, sums: &[String; 3]) {
    for disk in [CLIENTS[0], CLIENTS[2]] {
        let complaint = client.fails(&format!("timeout 60 dd if=/tmp/data of={disk} bs=64k count=4 seek=48M {HOW}"));
        assert!(complaint.contains("Input/output error"), "{complaint}");
    }
    assert_eq!(&CLIENTS.map(|disk| read(client, disk, 1)), sums, "acknowledged before");
    let good = write(client, CLIENTS[1], 32, HOW);
    assert_eq!(read(client, CLIENTS[1], 32), good, "a disk that is good");
}

#[test]
fn vm_disk_errors_are_remembered_until_they_are_cleared() {
    let lab = Lab::switched(&["nobody"], 9000);
    let mut server = Machine::new("server", 1);
    for number in 0..3 {
        let disk = lab.path(&format!("server{number}.img"));
        File::create(&disk).and_then(|file| file.set_len(BYTES)).expect("a sparse file");
        server = server.disk(&disk);
    }
    let [server, client] = Machine::boot_all(&lab, [server, Machine::new("client", 2).kernel(Suite::Backports)]);
    server.run("modprobe -a dm_mod dm_flakey");
    put_between(&server, "linear", "");
    server.run("mkfs.ext4 -q /dev/mapper/fs && mount -o errors=remount-ro /dev/mapper/fs /mnt && fallocate -l 64M /mnt/disk.img");
    serve(&server, "");
    client.run("modprobe nbd; for n in 1 2 3; do aoe-attach e0.$n /dev/nbd$n; done");
    let sums = CLIENTS.map(|disk| write(&client, disk, 1, HOW));

    // Writes fail from now on, and reads do not.
    put_between(&server, "flakey", "0 3600 1 error_writes");
    refuses(&client, &sums);
    for export in ["e0.1", "e0.3"] {
        server.wait_until(PATIENCE, &format!("grep -q '{export}: acknowledged data may be lost' /tmp/log"));
        tells(&server, export, "state +writes refused");
        tells(&server, export, "data lost +.*Input/output error");
    }
    tells(&server, "e0.2", "data lost +no$");

    // It is good again, which gives nothing back.
    put_between(&server, "linear", "");
    refuses(&client, &sums);
    client.run("modprobe aoe");
    for disk in ["/dev/etherd/e0.1", "/dev/etherd/e0.3"] {
        client.wait_until(PATIENCE, &format!("[ -b {disk} ]"));
        client.fails(&format!("timeout 60 dd if=/tmp/data of={disk} bs=64k count=4 oflag=direct"));
    }
    client.run("rmmod aoe");
    stop(&server);
    server.run("umount /mnt; e2fsck -f -y /dev/mapper/fs || [ $? = 1 ]; mount /dev/mapper/fs /mnt");
    serve(&server, "");
    server.run("[ $(grep -c 'before this start' /tmp/log) = 2 ]");
    refuses(&client, &sums);

    // One is cleared while it is served.
    tells(&server, "e0.1", "state +writes refused");
    let said = server.run("aoe-target ctl --control /tmp/control.sock clear-error e0.1");
    assert!(said.contains("e0.1: cleared; it takes writes again"), "{said}");
    tells(&server, "e0.1", "state +read-write");
    tells(&server, "e0.3", "state +writes refused");
    attach_anew(&client, 1);
    let first = write(&client, CLIENTS[0], 16, HOW);
    assert_eq!(read(&client, CLIENTS[0], 16), first, "after ctl has cleared it");

    // The other at a start.
    stop(&server);
    serve(&server, "--clear-error");
    server.run("[ $(grep -c 'cleared: acknowledged data may have been lost' /tmp/log) = 1 ]");
    attach_anew(&client, 3);
    let after = CLIENTS.map(|disk| write(&client, disk, 48, HOW));
    assert_eq!(CLIENTS.map(|disk| read(&client, disk, 48)), after, "after it was cleared");
    assert_eq!(CLIENTS.map(|disk| read(&client, disk, 1)), sums, "still");
    assert_eq!(read(&client, CLIENTS[0], 16), first, "still");
    client.run("for n in 1 2 3; do aoe-detach e0.$n; done");
}
