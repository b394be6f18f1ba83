//! `aoe-check`: it finds what is wrong with a network, and nothing where all is well. It never writes.

use std::fs;
use std::time::Duration;

use aoe_tests::net::cable::Trouble;
use aoe_tests::net::image::random_file;
use aoe_tests::net::{Daemon, Finished, Lab};
use serde_json::Value;

fn check(lab: &Lab, arguments: &str) -> Finished {
    lab.host("b").typed(&format!("aoe-check {arguments}")).run()
}

/// The report of a check that ended with this code.
fn report(lab: &Lab, arguments: &str, code: i32) -> Value {
    check(lab, &format!("{arguments} --json")).exited(code).json()
}

/// Panics unless there is one problem, in these words; notes do not count.
fn one_problem(report: &Value, words: &str) {
    let findings = report["findings"].as_array().expect("findings");
    let problems: Vec<_> = findings.iter().filter(|finding| finding["problem"] == true).collect();
    let is_told = problems.len() == 1 && problems[0]["text"].as_str().is_some_and(|text| text.contains(words));
    assert!(is_told, "\"{words}\" and nothing else\n{report:#}");
}

fn vblade(lab: &Lab, host: &str, image: &str) -> Daemon {
    lab.host(host).typed(&format!("vblade 0 1 eth0 {image}")).spawn_ready(|line| line.starts_with("pid"))
}

#[test]
fn net_check_of_good_ways_finds_no_problem() {
    let lab = Lab::new(&["t", "v", "b"], 9000);
    random_file(&lab.path("disk.img"), 4 << 20, 1);
    let before = fs::read(lab.path("disk.img")).unwrap();
    let target = lab.export("t", "shelf 0 slot 1 disk.img");
    let _vblade = lab.host("v").typed("vblade 0 2 eth0 disk.img").spawn_ready(|line| line.starts_with("pid"));
    for device in ["e0.1", "e0.2"] {
        let report = report(&lab, &format!("{device} --seconds 0.5"), 0);
        let way = &report["ways"][0];
        let size = |name: &str| way[name].as_u64().expect("a size");
        assert!(size("claimed") >= 16, "{way}");
        assert_eq!([size("reads_pass"), size("requests_pass")], [size("claimed"); 2], "{way}");
        assert!(size("requests") > 20 && way["p99_ms"].as_f64() >= way["p50_ms"].as_f64(), "{way}");
        assert_eq!((&report["problems"], &report["disk"]["size_bytes"]), (&0.into(), &(4 << 20).into()));
    }
    let shown = check(&lab, "e0.1 --seconds 0.3").succeeded();
    assert!(shown.stdout.contains("No problem found.") && shown.stderr.is_empty(), "{}", shown.output());
    // Frames of this host hold two sectors: slower, and nothing wrong.
    lab.host("b").typed("ip link set eth0 mtu 1500").run().succeeded();
    let small = report(&lab, "e0.1 --seconds 0.3", 0);
    assert_eq!((&small["ways"][0]["claimed"], &small["ways"][0]["reads_pass"]), (&2.into(), &2.into()));
    assert!(small["findings"][0]["text"].as_str().is_some_and(|text| text.contains("would be faster")), "{small}");

    assert!(check(&lab, "e0.9").exited(3).stderr.contains("nobody answers for e0.9"));
    assert!(check(&lab, "e0.1 -I eth9").exited(3).stderr.contains("eth9"));
    check(&lab, "e0.*").exited(2);
    target.stop().succeeded();
    assert!(fs::read(lab.path("disk.img")).unwrap() == before, "a check wrote");
}

#[test]
fn net_check_finds_what_is_smaller_than_both_ends() {
    let lab = Lab::switched(&["t", "b"], 9000);
    random_file(&lab.path("disk.img"), 4 << 20, 1);
    let _target = lab.export("t", "shelf 0 slot 1 disk.img");
    lab.switch().typed("ip link set port0 mtu 4200").run().succeeded();
    let found = report(&lab, "e0.1 --seconds 0.3", 1);
    let way = &found["ways"][0];
    assert_eq!((&way["reads_pass"], &way["requests_pass"], &way["lost"]), (&8.into(), &8.into(), &0.into()), "{way}");
    assert_eq!(found["problems"], 2, "each direction\n{found:#}");
    let told = check(&lab, "e0.1 --seconds 0.3").exited(1).stdout;
    for words in
        ["to this host nothing above 4132 bytes (8 sectors)", "to the target nothing above 4132", "MTU of 4132"]
    {
        assert!(told.contains(words), "{words:?} is missing in\n{told}");
    }
    // As it is told to.
    for host in ["t", "b"] {
        lab.host(host).typed("ip link set eth0 mtu 4132").run().succeeded();
    }
    let put_right = report(&lab, "e0.1 --seconds 0.3", 0);
    assert_eq!((&put_right["ways"][0]["claimed"], &put_right["problems"]), (&8.into(), &0.into()), "{put_right}");
}

#[test]
fn net_check_finds_two_targets_with_one_address() {
    let lab = Lab::new(&["v", "w", "b"], 1500);
    random_file(&lab.path("one.img"), 1 << 20, 1);
    random_file(&lab.path("two.img"), 1 << 20, 2);
    random_file(&lab.path("longer.img"), 2 << 20, 3);
    let _first = vblade(&lab, "v", "one.img");
    for (image, words) in [("longer.img", "with different disks"), ("two.img", "other data is on it")] {
        let second = vblade(&lab, "w", image);
        let found = report(&lab, "e0.1 --seconds 0.4", 1);
        one_problem(&found, words);
        let text = found["findings"][0]["text"].as_str().unwrap();
        assert!(text.contains(lab.mac("v")) && text.contains(lab.mac("w")), "{text}");
        second.kill();
    }
    // The same file: two ways to one disk.
    let second = vblade(&lab, "w", "one.img");
    let fine = report(&lab, "e0.1 --seconds 0.4", 0);
    assert_eq!(fine["ways"].as_array().map(Vec::len), Some(2), "{fine}");
    second.kill();
    // On one host, both answer from one MAC address.
    let _second = vblade(&lab, "v", "two.img");
    one_problem(&report(&lab, "e0.1 --seconds 0.4", 1), "answers that differ");
}

#[test]
fn net_check_finds_what_a_bad_cable_does() {
    let lab = Lab::over_cable(&["t", "b"], 9000, 12);
    random_file(&lab.path("disk.img"), 4 << 20, 1);
    let _target = lab.export("t", "shelf 0 slot 1 disk.img");
    let none = Trouble { late: Duration::from_millis(20), ..Trouble::default() };
    for (trouble, words) in [
        (Trouble { lost: 3.0, ..none }, "got no answer"),
        (Trouble { repeated: 5.0, ..none }, "answers came twice"),
        (Trouble { reordered: 5.0, ..none }, "were overtaken"),
    ] {
        ["t", "b"].iter().for_each(|host| lab.trouble(host, trouble));
        let found = report(&lab, "e0.1 --seconds 1", 1);
        one_problem(&found, words);
        let way = &found["ways"][0];
        assert_eq!((&way["reads_pass"], &way["requests_pass"]), (&way["claimed"], &way["claimed"]), "{way}");
    }
    ["t", "b"].iter().for_each(|host| lab.trouble(host, none));
    assert_eq!(report(&lab, "e0.1 --seconds 0.5", 0)["problems"], 0);
}
