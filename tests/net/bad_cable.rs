//! Real programs over a cable that loses, repeats, delays and reorders frames.

use std::time::Duration;

use aoe_tests::net::Lab;
use aoe_tests::net::cable::{Counts, Trouble};
use aoe_tests::net::image::{assert_same, random_file};

/// Frames a host has sent and received since its interface was made.
fn frames(lab: &Lab, host: &str) -> [u64; 2] {
    let links = lab.host(host).typed("ip -s -j link show eth0").run().succeeded().json();
    ["tx", "rx"].map(|way| links[0]["stats64"][way]["packets"].as_u64().expect("a counter"))
}

#[test]
fn net_cable_without_trouble_loses_nothing() {
    let lab = Lab::over_cable(&["a", "b"], 9000, 1);
    random_file(&lab.path("disk.img"), 64 << 20, 1);
    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    let uri = lab.attach("b", "e0.1", "disk.sock");
    lab.host("b").command("nbdcopy").args([&uri, "out.img"]).run().succeeded();
    assert_same(&lab.path("out.img"), &lab.path("disk.img"));
    let stat = lab.stat("b");
    assert_eq!((&stat[0]["resends"], &stat[0]["errors"]), (&0.into(), &0.into()), "{stat}");

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

#[test]
fn net_fio_probe() {
    let lab = Lab::over_cable(&["a", "b"], 9000, 1);
    random_file(&lab.path("disk.img"), 64 << 20, 1);
    let target = lab.export("a", "shelf 0 slot 1 disk.img");
    let uri = lab.attach("b", "e0.1", "disk.sock");
    lab.trouble("a", TROUBLE);
    lab.trouble("b", TROUBLE);
    let line = std::env::var("FIO").unwrap();
    let t = std::time::Instant::now();
    let done = lab.host("b").typed(&line).arg(format!("--uri={uri}")).run();
    println!("{} {:?} {}", done.code, t.elapsed(), done.output());
    println!("{:?} {:?} {}", lab.accidents("a"), lab.accidents("b"), lab.stat("b"));
    lab.host("b").typed("aoe-detach e0.1").run().succeeded();
    println!("{}", target.stop().output());
}
