//! `aoe-bench`: what it says is what happened, and it writes nowhere but where it was allowed to.

use std::fs;
use std::time::Duration;

use aoe_tests::net::image::random_file;
use aoe_tests::net::{Finished, Lab, processor_time, wait_for};
use serde_json::Value;

const MIB: usize = 1 << 20;
const DISK: usize = 16 * MIB;

/// A lab with a random image.
fn lab(mtu: u32) -> Lab {
    let lab = Lab::pair(mtu);
    random_file(&lab.path("disk.img"), DISK as u64, 1);
    lab
}

fn bench(lab: &Lab, arguments: &str) -> Finished {
    lab.host("b").typed(&format!("aoe-bench e0.1 {arguments}")).run()
}

/// A run that succeeds, and whose figures fit each other.
fn measured(lab: &Lab, arguments: &str) -> Value {
    let report = bench(lab, &format!("{arguments} --json")).succeeded().json();
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("no number {name} in {report}"));
    assert_eq!((number("errors"), number("unanswered")), (0.0, 0.0), "{report}");
    let requests = number("requests");
    assert!(requests > 0.0 && requests == number("reads") + number("writes"), "{report}");
    assert!((number("iops") * number("seconds") / requests - 1.0).abs() < 0.01, "{report}");
    let mib = requests * number("block_bytes") / MIB as f64;
    assert!((number("mib_per_s") * number("seconds") / mib - 1.0).abs() < 0.01, "{report}");
    assert!(number("cpu_us_per_request") > 0.0, "{report}");
    let latencies =
        ["min", "p50", "p90", "p99", "p99_9", "max"].map(|name| report["latency_us"][name].as_f64().unwrap());
    assert!(latencies[0] > 1.0 && latencies.is_sorted(), "{report}");
    report
}

fn count(report: &Value, names: &[&str]) -> u64 {
    names.iter().map(|name| report[name].as_u64().expect("a number")).sum()
}

#[test]
fn net_bench_counts_what_the_target_counts_and_stays_in_its_range() {
    let lab = lab(9000);
    let before = fs::read(lab.path("disk.img")).unwrap();
    let target = lab.export("a", "shelf 0 slot 1 disk.img");
    let reads = [measured(&lab, "--seconds 1"), measured(&lab, "--rw read --bs 8k --depth 1 --seconds 0.5 --warmup 0")];
    let part = format!("--offset {} --size 4m --yes", 4 * MIB);
    let writes = [
        measured(&lab, &format!("--rw randwrite --depth 64 --seconds 0.5 {part}")),
        measured(&lab, &format!("--rw write --bs 512 --fua --seconds 0.5 {part}")),
    ];
    for report in &writes {
        assert!(report["flush_ms"].as_f64().is_some_and(|millis| millis > 0.0), "{report}");
        assert_eq!(count(report, &["offset_bytes", "range_bytes"]), 8 * MIB as u64);
    }
    assert!(reads[0]["flush_ms"].is_null());

    let after = fs::read(lab.path("disk.img")).unwrap();
    let inside = 4 * MIB..8 * MIB;
    assert!(before[..inside.start] == after[..inside.start], "what lies before the range was written");
    assert!(before[inside.end..] == after[inside.end..], "what lies behind the range was written");
    let sectors = |image: &[u8]| image[inside.clone()].chunks(512).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let untouched = sectors(&before).iter().zip(&sectors(&after)).filter(|(old, new)| old == new).count();
    assert!(untouched < inside.len() / 512 / 2, "{untouched} sectors of the range were never written");

    let report = target.stop().succeeded().output();
    let account = report.split_once(&format!("station {}: ", lab.mac("b"))).expect("a line at the end").1;
    let told = |what: &str| -> u64 {
        let words: Vec<_> = account.lines().next().unwrap_or_default().split([' ', ',']).collect();
        let at = words.iter().position(|word| *word == what).unwrap_or_else(|| panic!("no {what} in {account}"));
        words[at - 1].parse().expect("a number")
    };
    for (what, runs) in [("reads", &reads), ("writes", &writes)] {
        let all: u64 = runs.iter().map(|report| count(report, &[what, "drained"])).sum();
        // A read that is sent again may run again.
        let resends: u64 = runs.iter().map(|report| count(report, &["resends"])).sum();
        assert!((all..=all + resends).contains(&told(what)), "{all} {what} and {resends} resends\n{report}");
    }
}

#[test]
fn net_bench_mixes_keeps_a_rate_and_ends_early() {
    let lab = lab(9000);
    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    let mix = measured(&lab, "--rw mix --mix-reads 80 --bs 24k --warmup 0.2 --seconds 0.5 --yes");
    let (reads, writes) = (count(&mix, &["reads"]), count(&mix, &["writes"]));
    assert!(writes > 0 && reads > 2 * writes, "{mix}");

    let calm = measured(&lab, "--rate 500 --seconds 1");
    let begun = count(&calm, &["requests", "drained"]);
    // Fewer, if this machine stands still at the end.
    assert!((250..=500).contains(&begun) && calm["rate"] == 500, "{calm}");

    let long = lab.host("b").typed("aoe-bench e0.1 --seconds 60 --json").spawn();
    wait_for("the load to run", || (processor_time(long.id()) > Duration::from_millis(200)).then_some(()));
    let report = long.stop().succeeded().json();
    assert!(report["ended_early"] == true && count(&report, &["requests"]) > 0, "{report}");
    assert!(report["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 60.0), "{report}");
}

#[test]
fn net_bench_measures_vblade() {
    let lab = lab(1500);
    let _vblade = lab.host("a").typed("vblade -b 64 0 1 eth0 disk.img").spawn_ready(|line| line.starts_with("pid"));
    measured(&lab, "--seconds 0.5");
    let written = measured(&lab, "--rw randwrite --depth 8 --seconds 0.5 --yes");
    assert!(written["flush_ms"].is_null() && written["flush_error"].is_null(), "vblade has no flush: {written}");
    let shown = bench(&lab, "--rw write --bs 64k --depth 4 --seconds 0.3 --yes").succeeded();
    for word in ["IOPS", "MiB/s", "99.9 %", "CPU us/request", "the target has none"] {
        assert!(shown.stdout.contains(word), "{word:?} is missing in\n{}", shown.stdout);
    }
    assert!(shown.stderr.is_empty(), "{}", shown.stderr);
}

#[test]
fn net_bench_writes_only_when_it_may() {
    let lab = lab(9000);
    let before = fs::read(lab.path("disk.img")).unwrap();
    let is_untouched = || fs::read(lab.path("disk.img")).unwrap() == before;
    let target = lab.export("a", "shelf 0 slot 1 disk.img");
    for kind in ["write", "randwrite", "mix"] {
        let refused = bench(&lab, &format!("--rw {kind} --seconds 0.2")).exited(2);
        assert!(refused.stderr.lines().count() == 1 && refused.stderr.contains("--yes"), "{}", refused.stderr);
    }
    // At a terminal it asks.
    let typed = |answer: &str| {
        let line = "aoe-bench e0.1 --rw write --seconds 0.2 --size 1m";
        let typing = format!("(sleep 2; echo {answer}; sleep 1) | script -qec '{line}' /dev/null");
        lab.host("b").command("sh").args(["-c", &typing]).run()
    };
    let refused = typed("n").exited(1);
    for word in ["e0.1", "16.0 MiB", "1.0 MiB from byte 0", "nothing was written"] {
        assert!(refused.stdout.contains(word), "{word:?} is missing in\n{}", refused.output());
    }
    assert!(is_untouched());
    for (arguments, words) in [
        ("--offset 17m", "16777216 bytes"),
        ("--offset 16376k --bs 16k", "--bs"),
        ("--interface eth0 --rw write --yes --size 32m", "beyond the end"),
    ] {
        let refused = bench(&lab, arguments).exited(1);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    assert!(is_untouched());
    let written = typed("y").succeeded();
    assert!(written.stdout.contains("IOPS") && !is_untouched(), "{}", written.output());
    target.stop().succeeded();
    let nobody = bench(&lab, "--wait 0.5").exited(1);
    assert!(nobody.stderr.contains("no target answers as e0.1"), "{}", nobody.stderr);
    fs::write(lab.path("disk.img"), &before).unwrap();
    let _target = lab.export("a", "shelf 0 slot 1 disk.img --read-only");
    assert!(bench(&lab, "--rw write --yes").exited(1).stderr.contains("read-only"));
    assert!(is_untouched());
}

#[test]
fn net_bench_of_a_target_that_goes_away_ends_and_says_so() {
    let lab = lab(9000);
    let target = lab.export("a", "shelf 0 slot 1 disk.img");
    let load = lab.host("b").typed("aoe-bench e0.1 --seconds 60 --dead-after 1 --json").spawn();
    wait_for("the load to run", || (processor_time(load.id()) > Duration::from_millis(200)).then_some(()));
    target.kill();
    let mut load = load;
    assert!(load.ends_within(Duration::from_secs(20)), "{}", load.output());
    let finished = load.stop().exited(1);
    let report = finished.json();
    assert!(count(&report, &["errors"]) >= 32 && report["ended_early"] == true, "{report}");
    assert!(
        finished.stderr.contains("requests failed, the first because the target does not answer"),
        "{}",
        finished.stderr
    );
}
