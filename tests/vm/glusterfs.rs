//! GlusterFS above: a volume of two replicas, each on an AoE disk, outlives the death of a target and heals.

use std::time::Duration;

use aoe_tests::net::Lab;
use aoe_tests::net::image::assert_clean_ext4;
use aoe_tests::vm::Machine;
use aoe_tests::vm::guide::{Guide, LabPlace, Place};

use crate::writer::Writer;

/// How long a user may be held up: the five seconds of `--dead-after`, and what a slow machine adds.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

#[test]
fn vm_glusterfs_heals_after_the_death_of_a_target() {
    let lab = Lab::switched(&["east", "west"], 9000);
    let [east, west] = ["east", "west"].map(|host| LabPlace::new(lab.host(host)));
    let machines = [("alpha", 1), ("beta", 2)].map(|(name, number)| Machine::new(name, number).lan().memory(512));
    let [alpha, beta] = Machine::boot_all(&lab, machines);
    let places: [(&str, &dyn Place); 4] = [("alpha", &alpha), ("beta", &beta), ("east", &east), ("west", &west)];
    let guide = Guide::open("glusterfs");
    for section in ["Export the disks", "Make the bricks", "Make the volume", "Use it"] {
        guide.follow(section, &places);
    }
    beta.run("cd /mnt/shared; echo removed later >old; head -c 3000017 /dev/urandom >changed; sync old changed");

    // A user at beta goes on when the disk below alpha's brick is gone.
    let writer = Writer::start(&beta, "/mnt/shared/files");
    for target in east.take_daemons() {
        target.kill();
    }
    alpha.wait_until(Duration::from_secs(20), "aoe-stat /dev/nbd1 | grep -q ' dead '");
    writer.go_on();
    beta.run("cd /mnt/shared; rm old; mkdir new; cp changed new/copy; echo more >>changed; sync new/copy changed");
    // The brick's server leaves by itself; a server that waits for its disk would not.
    alpha.wait_until(Duration::from_secs(90), "! pgrep -x glusterfsd");
    alpha.run("gluster volume status shared | grep '^Brick alpha:.* N '");
    writer.go_on();

    guide.follow("When a storage host is back", &places);
    writer.go_on();
    let written = writer.stop();
    assert!(written.pause < LONGEST_PAUSE, "a user was held up for {:?}", written.pause);
    guide.follow("See that it has healed", &places);
    let [ours, theirs] = [&alpha, &beta].map(|guest| guest.run("cat /root/brick.sums"));
    assert_eq!(ours, theirs, "the files of the two bricks");
    assert_eq!(ours.lines().count(), written.sums.lines().count() + 2, "the files on a brick");
    for guest in [&alpha, &beta] {
        written.check(guest, "/bricks/one/data/files");
    }
    beta.run("cmp <(cat /mnt/shared/new/copy; echo more) /mnt/shared/changed");

    beta.run("umount /mnt/shared");
    alpha.run("gluster --mode=script volume stop shared");
    for guest in [&alpha, &beta] {
        guest.wait_until(Duration::from_secs(30), "umount /bricks/one");
        guest.run("aoe-detach /dev/nbd1");
    }
    for image in ["east.img", "west.img"] {
        assert_clean_ext4(&lab.path(image));
    }
}
