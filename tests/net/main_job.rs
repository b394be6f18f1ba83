//! The main job: the three lines of the README, typed as they stand, on real data.

use std::path::Path;
use std::time::Duration;

use aoe_tests::net::Lab;
use aoe_tests::net::image::{assert_clean_ext4, assert_same, ext4_image, random_file};

#[test]
fn net_three_lines_on_an_ext4_image() {
    let lab = Lab::pair(1500);
    ext4_image(&lab.path("disk.img"), 64, 1);
    ext4_image(&lab.path("changed.img"), 64, 2);
    std::fs::copy(lab.path("disk.img"), lab.path("original.img")).unwrap();

    let target = lab
        .host("a")
        .typed("aoe-target export shelf 0 slot 1 disk.img")
        .spawn_ready(|line| line.starts_with("serving"));

    let found = lab.host("b").typed("aoe-discover").run().succeeded().stdout;
    assert!(found.contains("e0.1") && found.contains(lab.mac("a")), "{found}");

    // Through the kernel's device where there is one, as typed; otherwise the same command serves a socket.
    let kernel_device = Path::new("/sys/block/nbd1").exists() && !Path::new("/sys/block/nbd1/pid").exists();
    let (place, disk) = if kernel_device {
        ("/dev/nbd1".to_owned(), "/dev/nbd1".to_owned())
    } else {
        (format!("unix:{}", lab.path("e0.1.sock").display()), lab.nbd_uri("e0.1.sock"))
    };
    lab.host("b").typed(&format!("aoe-attach e0.1 {place}")).run().succeeded();

    lab.host("b").command("nbdcopy").args([&disk, "out.img"]).run().succeeded();
    assert_same(&lab.path("out.img"), &lab.path("original.img"));
    lab.host("b").command("nbdcopy").args(["--flush", "changed.img", &disk]).run().succeeded();
    lab.host("b").command("nbdcopy").args([&disk, "again.img"]).run().succeeded();
    assert_same(&lab.path("again.img"), &lab.path("changed.img"));

    lab.host("b").typed(&format!("aoe-detach {place}")).run().succeeded();
    target.stop().succeeded();
    assert_same(&lab.path("disk.img"), &lab.path("changed.img"));
    assert_clean_ext4(&lab.path("disk.img"));
}

/// A flush the client got an answer to is on the disk, whatever happens to the target after it.
#[test]
fn net_flushed_data_survives_the_death_of_the_target() {
    let lab = Lab::pair(9000);
    random_file(&lab.path("disk.img"), 4 << 20, 1);
    let target = lab.export("a", "--cache writeback shelf 0 slot 1 disk.img");
    let uri = lab.attach("b", "e0.1", "disk.sock");
    let qemu_io =
        |command: &str| lab.host("b").command("qemu-io").args(["-f", "raw", "-c", command, "-c", "flush", &uri]).run();
    qemu_io("write -P 0x5a 1M 1M").succeeded();
    target.kill();

    let disk = std::fs::read(lab.path("disk.img")).unwrap();
    assert!(disk[1 << 20..2 << 20].iter().all(|&byte| byte == 0x5a), "the flushed megabyte is not in the file");

    // The attached disk goes on where it was once a target serves the file again.
    let _target = lab.export("a", "--cache writeback shelf 0 slot 1 disk.img");
    qemu_io("read -P 0x5a 1M 1M").succeeded();
}

#[test]
fn net_gigabyte_both_ways_with_hardly_a_resend_slow() {
    const BYTES: u64 = 1 << 30;
    const PATIENCE: Duration = Duration::from_secs(200);
    let lab = Lab::pair(9000);
    // Sparse on the target's side; the content written into it leaves no hole to be skipped.
    std::fs::File::create(lab.path("disk.img")).and_then(|file| file.set_len(BYTES)).unwrap();
    random_file(&lab.path("new.img"), BYTES, 3);
    let target = lab.export("a", "shelf 0 slot 1 disk.img");
    let uri = lab.attach("b", "e0.1", "disk.sock");

    lab.host("b").command("nbdcopy").args(["--flush", "new.img", &uri]).patience(PATIENCE).run().succeeded();
    lab.host("b").command("nbdcopy").args([&uri, "out.img"]).patience(PATIENCE).run().succeeded();
    lab.stat_without_loss("b", 2 * BYTES / 8192);

    lab.host("b").typed("aoe-detach e0.1").run().succeeded();
    target.stop().succeeded();
    assert_same(&lab.path("out.img"), &lab.path("new.img"));
    assert_same(&lab.path("disk.img"), &lab.path("new.img"));
}
