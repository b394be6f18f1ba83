//! The packages on two installed machines: a disk that is mounted at boot, over the reboots of both, and gone without a
//! trace when the packages are.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use aoe_tests::net::{Lab, tool};
use aoe_tests::vm::guide::{Guide, Place};
use aoe_tests::vm::{Guest, Machine};

/// Size of the disk.
const BYTES: u64 = 128 << 20;

/// How long a machine may take to do all that it does at boot, and a disk to be there again.
const BOOT: Duration = Duration::from_secs(90);

/// What is added to the configuration of docs/getting-started.md: a block device.
const SECOND_EXPORT: &str = r#"
[[export]]
shelf = 0
slot = 2
path = "/dev/disk/by-id/virtio-disk2"
"#;

/// A disk with the packages, as /dev/vdb.
fn packages(lab: &Lab, machine: &str) -> PathBuf {
    let folder = lab.path(&format!("{machine}.packages"));
    fs::create_dir(&folder).expect("a folder in the lab's");
    let built = aoe_tests::net::bin_dir().parent().expect("a folder of builds").join("debian");
    let entries = fs::read_dir(&built).unwrap_or_else(|e| panic!("{}: {e}; run systemd/package", built.display()));
    for entry in entries.map(|entry| entry.expect("an entry")) {
        fs::copy(entry.path(), folder.join(entry.file_name())).expect("copying a package");
    }
    let disk = lab.path(&format!("{machine}.packages.ext4"));
    let made = tool("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&folder).arg(&disk).arg("64M").status();
    assert!(made.expect("mke2fs").success());
    disk
}

fn install(guest: &Guest<'_>, package: &str) {
    guest.run(&format!(
        "mount -o ro /dev/vdb /mnt && dpkg -i /mnt/{package}_*.deb; status=$?; umount /mnt; exit $status"
    ));
}

/// Waits until all that is started at boot has been, and this unit with it.
fn booted(guest: &Guest<'_>, unit: &str) {
    guest.run(&format!(
        "systemctl is-system-running --wait >&2; systemctl is-active {unit} || {{ systemctl --failed; journalctl -b; false; }}"
    ));
}

/// What the filesystem has, unless it is not mounted.
fn kept(client: &Guest<'_>) -> String {
    client.run("findmnt -n -o SOURCE,FSTYPE /srv >&2 && cat /srv/kept")
}

#[test]
fn vm_packages_mount_at_boot_and_leave_nothing() {
    let lab = Lab::switched(&["nobody"], 9000);
    let disk = lab.path("disk.img");
    File::create(&disk).and_then(|file| file.set_len(BYTES)).expect("a sparse file");
    let server = Machine::new("server", 1).installed().disk(&packages(&lab, "server")).disk(&disk);
    let client = Machine::new("client", 2).installed().disk(&packages(&lab, "client"));
    let [server, client] = Machine::boot_all(&lab, [server, client]);

    // Installed, it waits for its file; started, it serves, and does so at every boot.
    install(&server, "aoe-target");
    assert_eq!(server.run("systemctl is-enabled aoe-target").trim(), "enabled");
    assert!(server.fails("systemctl is-active aoe-target").starts_with("inactive"));
    server.run("aoe-target serve --check; truncate -s 128M /srv/disk.img");
    let guide = Guide::open("getting-started");
    let places: [(&str, &dyn Place); 2] = [("storage", &server), ("alpha", &client)];
    guide.follow("Serve it at every boot", &places);
    server.run("systemctl status --no-pager aoe-target >&2; [ $(ps -o user= -C aoe-target) != root ]");

    install(&client, "aoe-initiator");
    client.run("modprobe nbd; aoe-attach e0.1 /dev/nbd1");
    client.run("mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/nbd1; udevadm settle; aoe-detach e0.1");
    guide.follow("Mount it at every boot", &places);
    client.run("readlink /dev/aoe/e0.1 | grep -x ../nbd1");
    client.run("echo first >/srv/kept");

    // A device is served, too, once the file says so and is read again.
    server.run(&format!("cat >>/etc/aoe/target.toml <<'END'{SECOND_EXPORT}END\nsystemctl reload aoe-target"));
    client.run("aoe-discover e0.2");

    // The client boots again, and has its files.
    let client = client.shut_down().boot(&lab);
    booted(&client, "srv.mount");
    assert_eq!(kept(&client), "first\n");

    // Its daemon is killed: the next one takes over below the filesystem, which stays mounted.
    client.run("touch /srv/before; echo 3 >/proc/sys/vm/drop_caches; kill -9 $(pidof aoe-attach)");
    client.run("echo second >/srv/kept; sync -f /srv/kept");
    assert_eq!(client.run("systemctl show -P ActiveState aoe-attach@e0.1 srv.mount"), "active\n\nactive\n");

    // The target starts anew below a filesystem that is written to: what was not flushed is still in its host's memory.
    let writer = client.start("for n in $(seq 40); do echo $n >>/srv/lines; sync /srv/lines; sleep 0.3; done");
    server.run("systemctl restart aoe-target");
    writer.finish(Duration::from_secs(180));

    // Its host boots again below one that is written to: all that was answered is on its disk before, flushed or not, and no
    // flush fails.
    let writer = client.start("for n in $(seq 41 240); do echo $n >>/srv/lines; sync /srv/lines; sleep 0.1; done");
    let unflushed = client.start(
        "for n in $(seq 100); do dd if=/dev/urandom of=/srv/unflushed bs=64k count=4 oflag=direct conv=notrunc; done",
    );
    let server = server.shut_down().boot(&lab);
    writer.finish(Duration::from_secs(240));
    unflushed.finish(Duration::from_secs(240));
    client.run("sync -f /srv/lines");
    assert_eq!(client.run("wc -l </srv/lines").trim(), "240");
    booted(&server, "aoe-target");

    // The client boots while nobody has the disk: it boots all the same, and mounts when the server is back.
    server.run("systemctl stop aoe-target");
    let client = client.kill().boot(&lab);
    client.wait_until(BOOT, "systemctl is-active multi-user.target");
    client.fails("findmnt /srv");
    server.run("systemctl start aoe-target");
    client.wait_until(BOOT, "findmnt /srv");
    assert_eq!(kept(&client), "second\n");
    assert_eq!(client.run("wc -l </srv/lines").trim(), "240");

    // Removed, what runs has ended in order; purged, nothing is left.
    client.run("dpkg -r aoe-initiator");
    client.fails("findmnt /srv");
    client.fails("pidof aoe-attach");
    server.run("dpkg -r aoe-target");
    server.fails("pidof aoe-target");
    server.run("e2fsck -f -n /srv/disk.img");
    for (guest, package) in [(&client, "aoe-initiator"), (&server, "aoe-target")] {
        guest.run("[ -d /etc/aoe ]");
        guest.run(&format!("dpkg -P {package}"));
        let left = guest.run(
            "find /etc /usr /var /run -name '*aoe*' -not -path '/usr/lib/modules/*' -not -path '/run/systemd/*' \
             -not -path '/run/udev/*'",
        );
        assert_eq!(left, "", "{package} leaves something behind");
    }
}
