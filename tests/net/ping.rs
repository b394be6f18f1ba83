//! `aoe-ping`: who answers, how fast, and what got lost.

use std::time::Duration;

use aoe_tests::net::cable::Trouble;
use aoe_tests::net::image::random_file;
use aoe_tests::net::{Finished, Lab};
use serde_json::Value;

fn ping(lab: &Lab, arguments: &str) -> Finished {
    lab.host("b").typed(&format!("aoe-ping {arguments}")).run()
}

/// The one path of a summary.
fn path(finished: &Finished) -> Value {
    let summary = finished.json();
    assert_eq!(summary["paths"].as_array().map(Vec::len), Some(1), "{summary}");
    summary["paths"][0].clone()
}

#[test]
fn net_ping_any_target_both_ways() {
    let lab = Lab::new(&["t", "v", "b"], 1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let _target = lab.export("t", "shelf 0 slot 1 disk.img");
    let _vblade = lab.host("v").typed("vblade 0 2 eth0 disk.img").spawn_ready(|line| line.starts_with("pid"));
    for (device, host) in [("e0.1", "t"), ("e0.2", "v")] {
        for question in ["", "--identify"] {
            let mac = lab.mac(host);
            let shown = ping(&lab, &format!("{device} -c 3 -i 0.05 {question}")).succeeded();
            for round in 1..=3 {
                let wanted = format!(" bytes from {mac} via eth0: {device} seq={round} time=");
                let lines = shown.stdout.lines().filter(|line| line.contains(&wanted)).count();
                assert_eq!(lines, 1, "{wanted}\n{}", shown.output());
            }
            let end =
                format!("{device} at {mac} via eth0: 3 sent, 3 answered, 0.0 % loss\nrtt min/avg/max/p99/mdev = ");
            assert!(shown.stdout.contains(&end) && shown.stderr.is_empty(), "{}", shown.output());
            let json = path(&ping(&lab, &format!("{device} -c 20 -i 0.01 {question} --json")).succeeded());
            assert_eq!((&json["sent"], &json["answered"], &json["refused"]), (&20.into(), &20.into(), &0.into()));
            let times = ["min_ms", "p50_ms", "p99_ms", "max_ms"].map(|name| json[name].as_f64().expect("a time"));
            assert!(times[0] > 0.001 && times.is_sorted(), "{json}");
        }
    }
    let all = ping(&lab, "e*.* -c 2 -i 0.05 -q").succeeded().stdout;
    assert!(["e0.1 at", "e0.2 at"].iter().all(|device| all.contains(device)) && !all.contains("seq="), "{all}");

    let nobody = ping(&lab, "e0.9 -c 2 -i 0.05 -W 0.2").exited(1);
    assert!(nobody.stdout.contains("no answer") && nobody.stderr.contains("nobody answers for e0.9 on eth0"));
    let ended = ping(&lab, "e0.9 -w 0.3 --json").exited(1).json();
    assert_eq!(ended["paths"], Value::Array(Vec::new()));
    assert!(ping(&lab, "e0.1 -I eth9 -c 1").exited(1).stderr.contains("eth9"));
    ping(&lab, "e0.1 -i 0").exited(2);
}

#[test]
fn net_ping_sees_a_target_come_and_go_and_ends_at_ctrl_c() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let pinging = lab.host("b").typed("aoe-ping e0.1 -i 0.05").spawn();
    let target = lab.export("a", "shelf 0 slot 1 disk.img");
    pinging.wait_for_line(|line| line.contains("bytes from"));
    target.stop().succeeded();
    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    let before = pinging.output().lines().count();
    let many = |line: &str| line.contains("seq=") && before > 0;
    pinging.wait_for_line(many);
    std::thread::sleep(Duration::from_millis(500));
    let said = pinging.stop().succeeded().stdout;
    assert!(said.lines().count() > before, "it answers again\n{said}");
    let summary = said.lines().find(|line| line.contains("% loss")).expect("a summary");
    assert!(said.contains("--- e0.1, ") && !summary.contains(" 0.0 % loss"), "{said}");
    let enough = lab.host("b").command("sh").args(["-c", "aoe-ping e0.1 -i 0.05 | head -n 2"]).run().succeeded().stdout;
    assert_eq!(enough.lines().count(), 2, "a reader that has seen enough ends it\n{enough}");
}

#[test]
fn net_ping_tells_losses_repeats_and_late_answers() {
    let lab = Lab::over_cable(&["a", "b"], 1500, 11);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    let late = Duration::from_millis(300);
    let trouble = Trouble { lost: 10.0, repeated: 20.0, delayed: 20.0, late, ..Trouble::default() };
    lab.trouble("b", trouble);
    let shown = ping(&lab, "e0.1 -c 400 -i 0.005 -W 0.1").succeeded();
    lab.trouble("b", Trouble::default());
    let summary = shown.stdout.lines().find(|line| line.contains("% loss")).expect("a summary");
    let number = |what: &str| -> f64 {
        let words: Vec<_> = summary.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let at = words.iter().position(|word| *word == what).unwrap_or_else(|| panic!("no {what} in {summary}"));
        words[at - 1].parse().expect("a number")
    };
    let words: Vec<_> = summary.split_whitespace().collect();
    let loss: f64 =
        words[words.iter().position(|word| *word == "%").expect("a percentage") - 1].parse().expect("a number");
    assert!((4.0..20.0).contains(&loss), "{summary}");
    // The copies come up to 300 ms later, the last of them when it is over.
    assert!((30.0..150.0).contains(&number("repeated")), "{summary}");
    assert!((15.0..120.0).contains(&number("late")), "{summary}");
    for (mark, count) in [("(late)", number("late")), ("(repeated)", number("repeated"))] {
        let marked = shown.stdout.lines().filter(|line| line.contains(mark)).count() as f64;
        assert!(marked >= count, "{marked} lines with {mark} for {summary}");
    }
    let clean = path(&ping(&lab, "e0.1 -c 50 -i 0.005 --json").succeeded());
    assert_eq!((&clean["answered"], &clean["repeated"]), (&50.into(), &0.into()), "{clean}");
}
