//! Debian's vblade as the target: it is discovered, attached, and holds exactly what we wrote.

use aoe_tests::net::image::{assert_same, random_file};
use aoe_tests::net::{Daemon, Lab};

const IMAGE_BYTES: u64 = 24 << 20;

/// vblade e0.1 on host `a`, serving a random image.
fn vblade(lab: &Lab) -> Daemon {
    random_file(&lab.path("disk.img"), IMAGE_BYTES, 1);
    lab.host("a").typed("vblade -b 64 0 1 eth0 disk.img").spawn_ready(|line| line.starts_with("pid"))
}

#[test]
fn net_vblade_is_discovered() {
    let lab = Lab::pair(1500);
    let _vblade = vblade(&lab);
    let found = lab.host("b").typed("aoe-discover --json").run().succeeded().json();
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    let device = &found[0];
    assert_eq!(device["device"], "e0.1");
    assert_eq!(device["size_bytes"], IMAGE_BYTES);
    assert_eq!(device["model"], "Coraid EtherDrive vblade");
    assert_eq!(device["config"], "");
    assert_eq!(device["paths"].as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(device["paths"][0]["mac"], lab.mac("a"));
    assert_eq!(device["paths"][0]["interface"], lab.interface("b"));

    let table = lab.host("b").typed("aoe-discover").run().succeeded().stdout;
    for cell in ["e0.1", "Coraid EtherDrive vblade", lab.mac("a"), lab.interface("b")] {
        assert!(table.contains(cell), "{cell:?} is missing in\n{table}");
    }
}

#[test]
fn net_vblade_is_discovered_on_the_named_interface_only() {
    let lab = Lab::pair(1500);
    let _vblade = vblade(&lab);
    lab.host("b").typed("aoe-discover --interface eth0 --timeout 1").run().succeeded();
    lab.host("b").typed("aoe-discover --interface lo --timeout 1").run().exited(1);
}

/// Reads the disk, writes other content, reads that back, and compares with the file vblade serves.
fn both_ways(mtu: u32) {
    let lab = Lab::pair(mtu);
    let vblade = vblade(&lab);
    let uri = lab.attach("b", "e0.1", "disk.sock");

    lab.host("b").command("nbdcopy").args([&uri, "out.img"]).run().succeeded();
    assert_same(&lab.path("out.img"), &lab.path("disk.img"));

    random_file(&lab.path("new.img"), IMAGE_BYTES, 2);
    lab.host("b").command("nbdcopy").args(["new.img", &uri]).run().succeeded();
    lab.host("b").command("nbdcopy").args([&uri, "again.img"]).run().succeeded();
    assert_same(&lab.path("again.img"), &lab.path("new.img"));

    lab.host("b").typed("aoe-detach e0.1").run().succeeded();
    vblade.stop();
    assert_same(&lab.path("disk.img"), &lab.path("new.img"));
}

#[test]
fn net_vblade_both_ways_mtu_1500() {
    both_ways(1500);
}

#[test]
fn net_vblade_both_ways_mtu_9000() {
    both_ways(9000);
}

#[test]
fn net_vblade_config_string_is_shown() {
    let lab = Lab::pair(1500);
    let _vblade = vblade(&lab);
    // aoecfg never sees vblade's unpadded answer on a virtual cable; its request is carried out all the same.
    lab.host("b").typed("aoecfg -c set -s backup-of-mail -t 1 0 1 eth0").run().succeeded();
    let found = lab.host("b").typed("aoe-discover --json").run().succeeded().json();
    assert_eq!(found[0]["config"], "backup-of-mail");
}

#[test]
fn net_vblade_read_only_export_refuses_writes_and_loses_nothing() {
    let lab = Lab::pair(9000);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    random_file(&lab.path("copy.img"), 1 << 20, 1);
    let vblade = lab.host("a").typed("vblade -r 0 1 eth0 disk.img").spawn_ready(|line| line.starts_with("pid"));
    let uri = lab.attach("b", "e0.1", "disk.sock");
    let qemu_io = |command: &str| lab.host("b").command("qemu-io").args(["-f", "raw", "-c", command, &uri]).run();
    qemu_io("read 0 64k").succeeded();
    // IDENTIFY does not tell a read-only disk, so only the write itself can fail; the caller must be told.
    let write = qemu_io("write -P 1 0 4k");
    assert_ne!(write.code, 0, "{}", write.output());
    qemu_io("read 0 64k").succeeded();
    vblade.stop();
    assert_same(&lab.path("disk.img"), &lab.path("copy.img"));
}

#[test]
fn net_vblade_vanishes_and_returns() {
    let lab = Lab::pair(9000);
    let vblade_gone = vblade(&lab);
    let place = format!("unix:{}", lab.path("disk.sock").display());
    lab.host("b").command("aoe-attach").args(["--dead-after", "2", "e0.1", &place]).run().succeeded();
    let uri = lab.nbd_uri("disk.sock");
    let read = || lab.host("b").command("qemu-io").args(["-f", "raw", "-c", "read 0 64k", &uri]).run();
    read().succeeded();

    vblade_gone.kill();
    let began = std::time::Instant::now();
    let failed = read();
    assert_ne!(failed.code, 0, "{}", failed.output());
    // A read that nobody answers ends with an error, after 2 s plus what retries and start-up take, not with a hang.
    assert!(began.elapsed().as_secs() < 15, "the error took {:?}", began.elapsed());

    let _vblade = vblade(&lab);
    aoe_tests::net::wait_for("the disk to work again", || (read().code == 0).then_some(()));
}
