//! `aoe-attach` at a real kernel's network block device.

use aoe_tests::net::Lab;
use aoe_tests::vm::Guest;

/// Export of 256 MiB, the size most of this is about.
const BYTES: u64 = 256 << 20;

fn sparse(lab: &Lab, name: &str, bytes: u64) {
    std::fs::File::create(lab.path(name)).and_then(|file| file.set_len(bytes)).expect("a sparse file");
}

#[test]
fn vm_nbd_attach() {
    let lab = Lab::switched(&["target"], 9000);
    sparse(&lab, "disk.img", BYTES);
    let _target = lab.export("target", "shelf 0 slot 1 disk.img");
    let guest = Guest::boot(&lab, "guest", 9000);

    guest.run("modprobe nbd");
    let found = guest.run("aoe-discover");
    assert!(found.contains("e0.1") && found.contains(lab.mac("target")), "{found}");
    println!("{}", guest.run("aoe-attach e0.1 /dev/nbd1"));
    println!("{}", guest.run("lsblk /dev/nbd1; blockdev --getsize64 --getss --getpbsz /dev/nbd1; nbd-client -c /dev/nbd1; cat /sys/block/nbd1/queue/{write_cache,fua,discard_max_bytes,write_zeroes_max_bytes,max_sectors_kb,nr_requests}; aoe-stat; aoe-stat --json; cat /run/aoe/*.log"));
}
