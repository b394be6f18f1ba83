//! aoetools' aoeping and aoecfg as clients of our target. On a virtual cable nothing pads frames but the target
//! itself, and both tools ignore answers of less than 60 bytes.

use aoe_tests::net::image::random_file;
use aoe_tests::net::{Daemon, Lab};

/// Our target on host `a` with the given exports, each of the image made here.
fn target(lab: &Lab, exports: &str) -> Daemon {
    random_file(&lab.path("disk.img"), 4 << 20, 1);
    random_file(&lab.path("other.img"), 4 << 20, 2);
    lab.export("a", exports)
}

/// What aoecfg prints, without the line end; empty when nobody answers within its second.
fn aoecfg(lab: &Lab, arguments: &str) -> String {
    let line = format!("aoecfg -t 1 {arguments}");
    lab.host("b").typed(&line).run().succeeded().stdout.trim_end_matches('\n').to_owned()
}

#[test]
fn net_aoeping_gets_an_answer_and_identify() {
    let lab = Lab::pair(1500);
    let _target = target(&lab, "shelf 0 slot 1 disk.img --serial PING-1 --model aoe-test-disk");
    let ping = lab.host("b").typed("aoeping -s 5 -v 0 1 eth0").run().succeeded();
    let found = format!("found e0.1 with mac {}", lab.mac("a").replace(':', ""));
    assert!(ping.stdout.contains(&found), "{}", ping.output());

    let identify = lab.host("b").typed("aoeping -s 5 -I 0 1 eth0").run().succeeded();
    for line in ["serial_number: PING-1", "model: aoe-test-disk"] {
        assert!(identify.stdout.lines().any(|l| l.trim_end() == line), "{line}\n{}", identify.output());
    }
    let dump = lab.host("b").typed("aoeping -s 5 -i 0 1 eth0").run().succeeded();
    let bytes = identify_bytes(&dump.stdout);
    let word = |number: usize| u16::from_le_bytes([bytes[2 * number], bytes[2 * number + 1]]);
    let sectors = (0..4).rev().fold(0u64, |sectors, i| sectors << 16 | u64::from(word(100 + i)));
    assert_eq!(sectors, (4 << 20) / 512);
    assert_eq!(word(83) & 0xC400, 0x4400, "word 83 is valid and says LBA48");
}

/// The 512 bytes of an IDENTIFY answer from aoeping's hexadecimal dump.
fn identify_bytes(dump: &str) -> Vec<u8> {
    let (_, hex) = dump.split_once("device identify response:").expect("an IDENTIFY answer");
    let bytes: Vec<u8> =
        hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    assert_eq!(bytes.len(), 512);
    bytes
}

#[test]
fn net_aoeping_of_an_absent_slot_gets_silence() {
    let lab = Lab::pair(1500);
    let _target = target(&lab, "shelf 0 slot 1 disk.img");
    // aoeping ends by its own alarm, signal 14.
    lab.host("b").typed("aoeping -s 1 0 2 eth0").run().exited(128 + 14);
}

#[test]
fn net_aoecfg_all_five_commands() {
    let lab = Lab::pair(1500);
    let _target = target(&lab, "shelf 0 slot 1 disk.img");
    let here = "0 1 eth0";
    assert_eq!(aoecfg(&lab, &format!("-c read {here}")), "");
    // An empty string passes the empty test, and no other.
    assert_eq!(aoecfg(&lab, &format!("-c test -s x {here}")), "");

    assert_eq!(aoecfg(&lab, &format!("-c set -s web-server {here}")), "web-server");
    assert_eq!(aoecfg(&lab, &format!("-c read {here}")), "web-server");
    assert_eq!(aoecfg(&lab, &format!("-c set -s other {here}")), "*badcfg*");
    assert_eq!(aoecfg(&lab, &format!("-c read {here}")), "web-server");

    assert_eq!(aoecfg(&lab, &format!("-c test -s web-server {here}")), "web-server");
    assert_eq!(aoecfg(&lab, &format!("-c test -s web {here}")), "");
    assert_eq!(aoecfg(&lab, &format!("-c test -s web-server2 {here}")), "");
    assert_eq!(aoecfg(&lab, &format!("-c prefix -s web {here}")), "web-server");
    assert_eq!(aoecfg(&lab, &format!("-c prefix -s web-server {here}")), "web-server");
    assert_eq!(aoecfg(&lab, &format!("-c prefix -s server {here}")), "");
    assert_eq!(aoecfg(&lab, &format!("-c prefix -s web-server2 {here}")), "");

    assert_eq!(aoecfg(&lab, &format!("-c fset -s mail {here}")), "mail");
    assert_eq!(aoecfg(&lab, &format!("-c read {here}")), "mail");
    // The protocol allows 1024 bytes; aoecfg itself aborts on that many.
    let longest = "x".repeat(1000);
    assert_eq!(aoecfg(&lab, &format!("-c fset -s {longest} {here}")), longest);
    assert_eq!(aoecfg(&lab, &format!("-c test -s {longest} {here}")), longest);
}

#[test]
fn net_aoecfg_string_survives_a_restart_and_a_crash() {
    let lab = Lab::pair(1500);
    let first = target(&lab, "shelf 0 slot 1 disk.img");
    assert_eq!(aoecfg(&lab, "-c set -s kept 0 1 eth0"), "kept");
    first.stop().succeeded();
    let second = lab.export("a", "shelf 0 slot 1 disk.img");
    assert_eq!(aoecfg(&lab, "-c read 0 1 eth0"), "kept");
    assert_eq!(aoecfg(&lab, "-c fset -s kept-too 0 1 eth0"), "kept-too");
    second.kill();
    let _third = lab.export("a", "shelf 0 slot 1 disk.img");
    assert_eq!(aoecfg(&lab, "-c read 0 1 eth0"), "kept-too");
}

#[test]
fn net_aoecfg_wildcards_reach_every_export() {
    let lab = Lab::pair(1500);
    let _target = target(&lab, "shelf 0 slot 1 disk.img shelf 7 slot 1 other.img");
    assert_eq!(aoecfg(&lab, "-c set -s one 0 1 eth0"), "one");
    assert_eq!(aoecfg(&lab, "-c set -s seven 7 1 eth0"), "seven");
    let lines = |arguments: &str| {
        let mut lines: Vec<String> = aoecfg(&lab, arguments).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines("-c read eth0"), ["0.1\tone", "7.1\tseven"]);
    assert_eq!(lines("-c read 0xffff 1 eth0"), ["0.1\tone", "7.1\tseven"]);
    assert_eq!(lines("-c read 7 0xff eth0"), ["7.1\tseven"]);
    assert_eq!(lines("-c prefix -s sev eth0"), ["7.1\tseven"]);
    // One broadcast must not rename every disk on the segment.
    aoecfg(&lab, "-c fset -s taken eth0");
    assert_eq!(lines("-c read eth0"), ["0.1\tone", "7.1\tseven"]);
}

#[test]
fn net_only_allowed_stations_are_answered() {
    let lab = Lab::new(&["a", "b", "c"], 1500);
    let allow = format!("shelf 0 slot 1 disk.img --allow {}", lab.mac("c"));
    let _target = target(&lab, &allow);
    lab.host("b").typed("aoeping -s 1 0 1 eth0").run().exited(128 + 14);
    lab.host("c").typed("aoeping -s 5 0 1 eth0").run().succeeded();
}
