//! Two hosts replicate a disk with DRBD and export it as one; a third loses nothing when either of them loses power.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use aoe_tests::net::Lab;
use aoe_tests::vm::guide::{Guide, Place};
use aoe_tests::vm::{Guest, Machine};
use serde_json::Value;

/// Size of the disk on either host.
const BYTES: u64 = 48 << 20;

/// Writes each of 4096 blocks once, in random order, then reads and compares them.
fn load(device: &str) -> String {
    format!(
        "fio --name=load --filename={device} --size=16M --rw=randwrite --bs=4k --direct=1 --ioengine=libaio \
         --iodepth=8 --verify=crc32c --verify_fatal=1"
    )
}

/// Writes to the replicated device itself, on its host and in sectors of its own: a block at a time, until it is stopped.
const PROBE: &str = "fio --name=probe --filename=/dev/drbd0 --offset=32M --size=4M --rw=write --bs=4k --direct=1 \
                     --rate_iops=20 --time_based --runtime=900 --write_lat_log=/tmp/probe || [ $? = 128 ]";

/// The longest time in which no write of a fio job was done.
fn longest_pause(guest: &Guest<'_>, job: &str) -> Duration {
    let pauses = "$3 == 1 { pause = $1 - last; if (writes++ && pause > longest) longest = pause; last = $1 }";
    let printed = guest.run(&format!("awk -F, '{pauses} END {{ print longest }}' /tmp/{job}_lat.1.log"));
    Duration::from_millis(printed.trim().parse().expect("milliseconds"))
}

/// What a power cut did to those who write.
struct PowerCut {
    /// The longest pause of the client, which writes over both hosts.
    client: Duration,
    /// The longest pause of the survivor, which writes to its own replicated device.
    survivor: Duration,
    /// What lost its power.
    machine: Machine,
}

/// Cuts the power of one of the hosts while a client writes over both.
fn cut_power(client: &Guest<'_>, device: &str, killed: Guest<'_>, survivor: &Guest<'_>) -> PowerCut {
    let probe = survivor.start(PROBE);
    let load = client.start(&format!("{} --write_lat_log=/tmp/load", load(device)));
    let block = device.trim_start_matches("/dev/").replace('/', "!");
    client
        .wait_until(Duration::from_secs(60), &format!("[ $(awk '{{ print $5 }}' '/sys/block/{block}/stat') -ge 500 ]"));
    let machine = killed.kill();
    let report = load.finish(Duration::from_secs(240));
    assert!(report.contains("err= 0"), "{report}");
    survivor.run("pkill -INT fio");
    probe.finish(Duration::from_secs(30));
    let [client, survivor] = [longest_pause(client, "load"), longest_pause(survivor, "probe")];
    println!("{device}: the client's longest pause was {client:?}, that of DRBD itself {survivor:?}");
    assert!(survivor > Duration::from_secs(1), "the power was cut under load");
    PowerCut { client, survivor, machine }
}

/// What is on the disk, without anybody's cache.
fn checksum(guest: &Guest<'_>, device: &str) -> String {
    guest.run(&format!("dd if={device} bs=1M iflag=direct 2>/dev/null | sha256sum"))
}

/// The client finds everything it wrote, over both hosts; and these have the same.
fn assert_nothing_lost(client: &Guest<'_>, device: &str, hosts: [&Guest<'_>; 2]) {
    client.run(&format!("{} --verify_only", load(device)));
    let found = checksum(client, device);
    for host in hosts {
        assert_eq!(checksum(host, "/dev/drbd0"), found, "the copy of {}", host.name());
    }
}

/// Compares the copies as the guide does; returns how many KiB of them differ.
fn difference(guide: &Guide, host: &Guest<'_>) -> u64 {
    let verified = || host.run("dmesg").matches("Online verify done").count();
    let before = verified();
    guide.follow("Compare the copies", &[("alpha", host)]);
    assert_eq!(verified(), before + 1, "online verifications that came to their end");
    let status = host.run("drbdsetup status r0 --verbose --statistics");
    let (_, behind) = status.split_once("out-of-sync:").expect("a figure");
    behind.split_whitespace().next().expect("a figure").parse().expect("KiB")
}

#[test]
fn vm_drbd_below() {
    let lab = Lab::switched(&[], 9000);
    let host = |name, number| {
        File::create(lab.path(name)).and_then(|file| file.set_len(BYTES)).expect("a sparse file");
        Machine::new(name, number).lan().disk(&lab.path(name))
    };
    let [alpha, beta, gamma] = Machine::boot_all(&lab, [host("alpha", 1), host("beta", 2), Machine::new("gamma", 3)]);
    let guide = Guide::open("drbd");
    let both: [(&str, &dyn Place); 2] = [("alpha", &alpha), ("beta", &beta)];
    guide.follow("The resource", &both);
    guide.follow("Two copies", &both);
    let refused = alpha.fails("timeout 20 aoe-target export shelf 0 slot 1 /dev/drbd0 --direct");
    assert!(refused.contains("Read-only file system"), "a host that is not primary yet: {refused}");
    guide.follow("Two primaries", &both);
    guide.follow("Two targets", &both);
    let return_of = |machine: Machine| {
        let host = machine.boot(&lab);
        guide.follow("The resource", &[("alpha", &host), ("beta", &host)]);
        guide.follow("When a host comes back", &[("returned", &host)]);
        host
    };

    // One disk with two paths for aoe-attach.
    guide.follow("aoe-attach", &[("gamma", &gamma)]);
    let paths_up = || {
        let stat: Value = serde_json::from_str(&gamma.run("aoe-stat --json /dev/nbd1")).expect("JSON");
        let paths = stat[0]["paths"].as_array().expect("paths").clone();
        paths.iter().filter(|path| path["state"] == "up").count()
    };
    assert_eq!(paths_up(), 2, "one disk, two paths");
    let cut = cut_power(&gamma, "/dev/nbd1", alpha, &beta);
    assert!(cut.client < cut.survivor + Duration::from_secs(5), "a pause of {:?} over DRBD's", cut.client);
    assert_eq!(paths_up(), 1, "the path to a host without power");
    let alpha = return_of(cut.machine);
    gamma.wait_until(Duration::from_secs(60), "[ $(aoe-stat --json /dev/nbd1 | grep -c '\"state\": \"up\"') = 3 ]");
    assert_nothing_lost(&gamma, "/dev/nbd1", [&alpha, &beta]);
    gamma.run("aoe-detach /dev/nbd1");

    // The same for the kernel's own driver, and the other host.
    guide.follow("aoe.ko", &[("gamma", &gamma)]);
    let reads_from = |mac: &str| -> u64 {
        let text =
            gamma.run(&format!("sed -n '/^{}:/,/r:/s/.*r://p' /sys/kernel/debug/aoe/e0.1", mac.replace(':', "")));
        text.trim().parse().expect("a figure of this path")
    };
    let cut = cut_power(&gamma, "/dev/etherd/e0.1", beta, &alpha);
    assert!(cut.client < Duration::from_secs(180), "aoe.ko would have given up");
    let beta = return_of(cut.machine);
    let before = reads_from(&beta.mac());
    assert_nothing_lost(&gamma, "/dev/etherd/e0.1", [&alpha, &beta]);
    assert!(reads_from(&beta.mac()) > before + 100, "the returned host is read from again");

    assert_eq!(difference(&guide, &alpha), 0, "KiB that differ");
    // It would have seen a single wrong byte.
    let copy = File::options().write(true).open(lab.path("beta")).expect("beta's disk");
    copy.write_all_at(&[0x5a], 40 << 20).expect("a byte");
    assert_eq!(difference(&guide, &alpha), 4, "KiB that differ");
}
