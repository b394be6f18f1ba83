//! Real programs over a cable that loses, repeats, delays and reorders frames.

use std::time::Duration;

use aoe_tests::net::cable::{Counts, Trouble};
use aoe_tests::net::fio::{DISK_BYTES, Load};
use aoe_tests::net::image::{assert_same, random_file};
use aoe_tests::net::{Daemon, Finished, Lab, wait_for};
use serde_json::Value;

/// Frames a host has sent and received since its interface was made.
fn frames(lab: &Lab, host: &str) -> [u64; 2] {
    let links = lab.host(host).typed("ip -s -j link show eth0").run().succeeded().json();
    ["tx", "rx"].map(|way| links[0]["stats64"][way]["packets"].as_u64().expect("a counter"))
}

#[test]
fn net_cable_without_trouble_loses_nothing() {
    let lab = Lab::over_cable(&["a", "b"], 9000, 1);
    random_file(&lab.path("disk.img"), DISK_BYTES, 1);
    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    let uri = lab.attach("b", "e0.1", "disk.sock");
    lab.host("b").command("nbdcopy").args([&uri, "out.img"]).run().succeeded();
    assert_same(&lab.path("out.img"), &lab.path("disk.img"));
    lab.stat_without_loss("b", DISK_BYTES / 8192);

    lab.host("b").typed("aoe-detach e0.1").run().succeeded();
    for (from, to) in [("a", "b"), ("b", "a")] {
        let counts = lab.accidents(to);
        let clean = Counts { taken: counts.taken, given: counts.taken, ..Counts::default() };
        assert_eq!(counts, clean, "nothing but passing frames on");
        assert_eq!((frames(&lab, from)[0], frames(&lab, to)[1]), (counts.taken, counts.given));
        assert!(counts.taken > 8192, "{counts:?}");
    }
}

/// The accidents of the promise: 3 % lost, 5 % repeated late, 5 % delayed, some in the wrong order.
const TROUBLE: Trouble =
    Trouble { lost: 3.0, repeated: 5.0, delayed: 5.0, reordered: 5.0, late: Duration::from_millis(300) };

/// A target on `a`, and `b` attached to it with these options, over a cable that has begun to do its worst.
struct Bad {
    lab: Lab,
    target: Daemon,
    uri: String,
}

impl Bad {
    fn new(seed: u64, target: impl FnOnce(&Lab) -> Daemon, attach_options: &str) -> Bad {
        let lab = Lab::over_cable(&["a", "b"], 9000, seed);
        random_file(&lab.path("disk.img"), DISK_BYTES, seed);
        let target = target(&lab);
        let place = format!("unix:{}", lab.path("disk.sock").display());
        lab.host("b").typed(&format!("aoe-attach {attach_options} e0.1 {place}")).run().succeeded();
        let uri = lab.nbd_uri("disk.sock");
        ["a", "b"].iter().for_each(|host| lab.trouble(host, TROUBLE));
        Bad { lab, target, uri }
    }

    fn fio(&self, load: Load) -> Finished {
        load.at(self.lab.host("b"), &self.uri).run()
    }

    /// Reads the disk once more over the bad cable, ends both sides, and compares with the target's file. Returns what
    /// the target said.
    fn disk_is_what_was_read(self) -> String {
        let Bad { lab, target, uri } = self;
        lab.host("b").command("nbdcopy").args(["--connections=1", &uri, "out.img"]).run().succeeded();
        let stat = lab.stat("b");
        assert!(stat[0]["resends"].as_u64() > Some(0) && stat[0]["errors"] == 0, "{stat}");
        lab.host("b").typed("aoe-detach e0.1").run().succeeded();
        let report = target.stop().output();
        assert_same(&lab.path("disk.img"), &lab.path("out.img"));
        for (from, to) in [("a", "b"), ("b", "a")] {
            let (counts, taken) = wait_for("the last of the frames", || {
                let counts = lab.accidents(to);
                let Counts { taken, given, lost, repeated, .. } = counts;
                (given + lost == taken + repeated).then_some((counts, taken))
            });
            println!("{from} to {to}: {counts:?}");
            let about = |count: u64, chance: f64| {
                let part = count as f64 * 100.0 / taken as f64;
                assert!((chance / 2.0..chance * 2.0).contains(&part), "{part} % instead of {chance} %: {counts:?}");
            };
            about(counts.lost, TROUBLE.lost);
            about(counts.repeated, TROUBLE.repeated);
            about(counts.delayed, TROUBLE.delayed);
            assert!(counts.overtaken > counts.delayed / 2, "{counts:?}");
        }
        report
    }
}

fn vblade(lab: &Lab) -> Daemon {
    lab.host("a").typed("vblade -b 64 0 1 eth0 disk.img").spawn_ready(|line| line.starts_with("pid"))
}

#[test]
fn net_bad_cable_fio_verified_at_our_target() {
    let bad = Bad::new(1, |lab| lab.export("a", "shelf 0 slot 1 disk.img"), "");
    bad.fio(Load { blocks: 16, writes: 300, passes: 3, rate: 0, overlaps: true }).succeeded();
    let report = bad.disk_is_what_was_read();
    let repeats = report.lines().find(|line| line.contains("e0.1: ")).expect("a report of the export");
    println!("{repeats}");
    let (before, _) = repeats.split_once(" repeated").expect("a number of repeats");
    let caught: u64 = before.rsplit(' ').next().and_then(|word| word.parse().ok()).expect("a number of repeats");
    assert!(caught > 100, "{repeats}");
}

/// vblade runs a repeated write again, so the initiator alone keeps old writes from undoing newer ones. It knows what
/// it has sent twice; that the cable repeats what was sent once it has to be told, and it may be told that no frame is
/// later than a second, or each block would be written once in ten.
#[test]
fn net_bad_cable_fio_verified_at_vblade() {
    let bad = Bad::new(2, vblade, "--repeating-network --frame-life 1");
    bad.fio(Load { blocks: 64, writes: 200, passes: 2, rate: 0, overlaps: true }).succeeded();
    bad.disk_is_what_was_read();
}

/// Without being told, what is not overwritten within the life of a frame is safe all the same.
#[test]
fn net_bad_cable_fio_verified_at_vblade_by_default_when_nothing_is_overwritten() {
    let bad = Bad::new(3, vblade, "");
    let line = "fio --name=once --ioengine=nbd --rw=randwrite --bs=4k --size=4m --iodepth=32 --randseed=1 \
                --verify=crc32c --verify_fatal=1 --do_verify=1";
    bad.lab.host("b").typed(line).arg(format!("--uri={}", bad.uri)).run().succeeded();
    bad.disk_is_what_was_read();
}

/// What the tests above would see if nothing was done about copies: the same load, at vblade, untold.
#[test]
fn net_bad_cable_undoes_writes_where_nothing_guards_them() {
    let bad = Bad::new(4, vblade, "--frame-life 1");
    let undone = bad.fio(Load { blocks: 16, writes: 64, passes: 1, rate: 0, overlaps: true });
    assert!(undone.code != 0 && undone.stderr.contains("verify: bad header numberio"), "{}", undone.output());
}

/// Reads by fio for a second, 32 requests under way: requests a second, and the time within which 99 of 100 were
/// answered.
fn read_for_a_second(lab: &Lab, uri: &str, block: &str) -> (f64, Duration) {
    let line =
        "fio --name=read --ioengine=nbd --rw=randread --iodepth=32 --time_based --runtime=1 --output-format=json";
    let fio = lab.host("b").typed(line).arg(format!("--bs={block}")).arg(format!("--size={DISK_BYTES}"));
    let said = fio.arg(format!("--uri={uri}")).run().succeeded().stdout;
    // A greeting comes before the report.
    let report: Value = serde_json::from_str(&said[said.find('{').expect("a report")..]).expect("JSON");
    let read = &report["jobs"][0]["read"];
    let slowest = &read["clat_ns"]["percentile"]["99.000000"];
    (read["iops"].as_f64().expect("a rate"), Duration::from_nanos(slowest.as_u64().expect("a time")))
}

/// Of a hundred frames one is lost each way, so that of large reads every fourth loses something. Resends that wait for
/// a time-out (50 ms) would show in the rate, and in the time of the slowest of a hundred reads.
#[test]
fn net_bad_cable_a_loss_now_and_then_costs_little() {
    let lab = Lab::over_cable(&["a", "b"], 9000, 5);
    random_file(&lab.path("disk.img"), DISK_BYTES, 5);
    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    let uri = lab.attach("b", "e0.1", "disk.sock");
    for block in ["4k", "128k"] {
        // Other programs want their share of the machine, too: one calm moment out of eight is enough.
        let is_little = (0..8).any(|_| {
            let [(clean, usual), (lossy, slowest)] = [0.0, 1.0].map(|lost| {
                ["a", "b"].iter().for_each(|host| lab.trouble(host, Trouble { lost, ..Trouble::default() }));
                read_for_a_second(&lab, &uri, block)
            });
            let (goodput, later) = (lossy / clean, slowest.saturating_sub(usual));
            println!("{block}: {goodput:.2} of the rate without loss, the slowest of a hundred {later:?} later");
            goodput > 0.6 && later < Duration::from_millis(40)
        });
        assert!(is_little, "{block}: losses cost much each time");
    }
    let resends = &lab.stat("b")[0]["resends"];
    assert!(resends.as_u64() > Some(100), "{resends}");
}
