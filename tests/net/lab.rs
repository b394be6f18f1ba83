//! The lab itself: hosts reach each other, nothing outlives it, and what fails fails loudly.

use std::path::Path;
use std::time::{Duration, Instant};

use aoe_tests::net::image::random_file;
use aoe_tests::net::{Lab, requires};

/// The AoE frames one host hears of a vblade that starts on another.
fn adverts(lab: &Lab, server: &str, client: &str) -> usize {
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let capture = lab.capture(client);
    let vblade = lab.host(server).typed("vblade 0 1 eth0 disk.img").spawn_ready(|line| line.starts_with("pid"));
    let recording = capture.stop();
    vblade.stop();
    recording.decode("", &["eth.src"]).iter().filter(|fields| fields[0] == lab.mac(server)).count()
}

#[test]
fn net_lab_two_hosts_hear_each_other() {
    let lab = Lab::pair(1500);
    assert_eq!(adverts(&lab, "a", "b"), 1);
    assert_ne!(lab.mac("a"), lab.mac("b"));
}

#[test]
fn net_lab_three_hosts_hear_each_other_at_the_asked_mtu() {
    let lab = Lab::new(&["a", "b", "c"], 9000);
    assert_eq!(adverts(&lab, "a", "c"), 1);
    assert_eq!(adverts(&lab, "c", "b"), 1);
    let links = lab.host("b").typed("ip -j link show eth0").run().succeeded().json();
    assert_eq!(links[0]["mtu"], 9000);
}

#[test]
fn net_lab_takes_everything_with_it() {
    let lab = Lab::pair(1500);
    let folder = lab.folder().to_owned();
    // A shell that leaves a background process behind, as aoe-attach does.
    let shell = lab.host("b").command("sh").args(["-c", "sleep 1000 & echo $!"]).run().succeeded();
    let process = Path::new("/proc").join(shell.stdout.trim());
    assert!(process.exists());
    drop(lab);
    let began = Instant::now();
    // A killed process is gone once its new parent has reaped it, or is at least no longer running.
    let running = || std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while running() {
        assert!(began.elapsed() < Duration::from_secs(10), "{} outlived its lab", process.display());
    }
    assert!(!folder.exists());
}

#[test]
#[should_panic(expected = "still running after")]
fn net_lab_does_not_wait_for_ever() {
    let lab = Lab::pair(1500);
    lab.host("a").typed("sleep 1000").patience(Duration::from_millis(100)).run();
}

#[test]
#[should_panic(expected = "before it was ready")]
fn net_lab_notices_a_daemon_that_ends() {
    let lab = Lab::pair(1500);
    lab.host("a").typed("echo hello").spawn_ready(|line| line == "ready");
}

#[test]
#[should_panic(expected = "run tests/run, it installs them")]
fn net_lab_misses_nothing_silently() {
    requires(&["no-such-tool"]);
}
