//! `aoe-cfg`: settings at our target and at vblade, seen by others, too.

use std::fs;

use aoe_tests::net::image::random_file;
use aoe_tests::net::{Daemon, Finished, Lab};
use serde_json::Value;

fn cfg(lab: &Lab, host: &str, arguments: &str) -> Finished {
    lab.host(host).typed(&format!("aoe-cfg {arguments}")).run()
}

/// What an edit or a reading shows of the one target there is.
fn shown(lab: &Lab, host: &str, arguments: &str) -> Value {
    let rows = cfg(lab, host, &format!("--json {arguments}")).succeeded().json();
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    rows[0].clone()
}

/// Panics unless it was refused, in these words.
fn refused(finished: Finished, words: &str) {
    let finished = finished.exited(1);
    assert!(finished.stderr.contains(words), "no \"{words}\" in {}", finished.output());
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.output());
}

/// Our target with e0.1 on host t, vblade with e0.2 on host v, and b, which asks.
fn lab() -> (Lab, [Daemon; 2]) {
    let lab = Lab::new(&["t", "v", "b"], 1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let target = lab.export("t", "shelf 0 slot 1 disk.img");
    let vblade = lab.host("v").typed("vblade 0 2 eth0 disk.img").spawn_ready(|line| line.starts_with("pid"));
    (lab, [target, vblade])
}

#[test]
fn net_cfg_strings_at_any_target() {
    let (lab, _targets) = lab();
    for (device, host) in [("e0.1", "t"), ("e0.2", "v")] {
        let config = |arguments: &str| {
            let row = shown(&lab, "b", &format!("{device} {arguments}"));
            assert_eq!(row["target"], lab.mac(host));
            row["config"].as_str().expect("a string").to_owned()
        };
        assert_eq!(config("read"), "");
        assert_eq!(config("set mail"), "mail");
        assert_eq!(config("set mail"), "mail", "what is so already is done");
        refused(cfg(&lab, "b", &format!("{device} set web")), "config string already (error 4)");
        assert_eq!([config("test mail"), config("prefix ma"), config("read")], ["mail"; 3]);
        refused(cfg(&lab, "b", &format!("{device} test ma")), "of 1 that answer none has");
        refused(cfg(&lab, "b", &format!("{device} prefix mailbox")), "of 1 that answer none has");
        fs::write(lab.path("bytes"), b"\xff\x1b[2J").unwrap();
        assert_eq!(config("force --file bytes"), "\\xff\\x1b[2J");
        assert_eq!(config("fset web"), "web");
    }
    // As aoetools see it, and they as we do.
    let aoecfg = |command: &str| lab.host("v").typed(&format!("aoecfg {command} -t 1 0 1 eth0")).run().stdout;
    assert!(aoecfg("-c read").contains("web"), "{}", aoecfg("-c read"));
    aoecfg("-c fset -s theirs");
    assert_eq!(shown(&lab, "b", "e0.1")["config"], "theirs");

    // Both, by wildcards.
    let before = cfg(&lab, "b", "e*.*").succeeded().stdout;
    assert!(before.contains("theirs") && before.contains("web"), "{before}");
    for edit in ["e0.* force x", "e*.* set x", "e*.1 mask add 02:00:00:00:00:09", "e0.* reserve set"] {
        let wrong = cfg(&lab, "b", edit).exited(2);
        assert!(wrong.stderr.contains("--all"), "{}", wrong.output());
    }
    assert_eq!(cfg(&lab, "b", "e*.*").succeeded().stdout, before);
    let cleared = lab.host("b").command("aoe-cfg").args(["e0.*", "force", "", "--all", "--json"]).run().succeeded();
    let strings: Vec<_> = cleared.json().as_array().unwrap().iter().map(|row| row["config"].clone()).collect();
    assert_eq!(strings, ["", ""]);
    refused(cfg(&lab, "b", "e0.7"), "nobody answers for e0.7 on eth0");
    cfg(&lab, "b", "e0.1 set").exited(2);
}

#[test]
fn net_cfg_masks_shut_out_whom_they_name_not() {
    let (lab, _targets) = lab();
    let [v, b] = ["v", "b"].map(|host| lab.mac(host));
    let stations = |arguments: &str| shown(&lab, "b", arguments)["stations"].clone();
    assert_eq!(stations("e0.1 mask list"), Value::Array(Vec::new()));
    refused(cfg(&lab, "b", &format!("e0.1 mask add {v}")), "would no longer hear this host");
    assert_eq!(stations(&format!("e0.1 mask add {b} {v}")), serde_json::json!([b, v]));
    cfg(&lab, "v", "e0.1").succeeded();
    assert_eq!(stations(&format!("e0.1 mask delete {v}")), serde_json::json!([b]));
    refused(cfg(&lab, "v", "e0.1"), "nobody answers for e0.1");
    refused(cfg(&lab, "v", "e0.1 mask list --timeout 2"), "no target answers for e0.1");
    let opened = cfg(&lab, "b", &format!("e0.1 mask delete {b}")).succeeded();
    assert!(opened.stderr.contains("everybody is let in") && opened.stdout.contains("everybody"));
    cfg(&lab, "v", "e0.1").succeeded();
    // vblade keeps a list of one right.
    assert_eq!(stations(&format!("e0.2 mask add {b}")), serde_json::json!([b]));
    let all = cfg(&lab, "b", "e*.* mask list --json").succeeded().json();
    assert_eq!(
        (&all[0]["device"], &all[1]["device"], &all[1]["stations"][0]),
        (&"e0.1".into(), &"e0.2".into(), &b.into())
    );
}

#[test]
fn net_cfg_reservations_hold_until_they_are_released_or_taken() {
    let (lab, _targets) = lab();
    let [t, b] = ["t", "b"].map(|host| lab.mac(host));
    // Who asks in vain has to be neither of the targets.
    for (device, other) in [("e0.1", "v"), ("e0.2", "t")] {
        let stations = |host: &str, arguments: &str| {
            shown(&lab, host, &format!("{device} reserve {arguments}"))["stations"].clone()
        };
        assert_eq!(stations("b", "set"), serde_json::json!([b]));
        assert_eq!(stations(other, "list"), serde_json::json!([b]));
        refused(cfg(&lab, other, &format!("{device} reserve set")), "reserved for others (error 6)");
        refused(cfg(&lab, other, &format!("{device} reserve release")), "reserved for others (error 6)");
        assert_eq!(stations(other, "force"), serde_json::json!([lab.mac(other)]));
        let bench = lab.host("b").typed(&format!("aoe-bench {device} --seconds 0.2 --dead-after 1 --wait 3")).run();
        assert_ne!(bench.code, 0, "who is not in the reservation reads nothing\n{}", bench.output());
        refused(cfg(&lab, "b", &format!("{device} reserve release")), "reserved for others (error 6)");
        assert_eq!(stations("b", "release --force"), Value::Array(Vec::new()));
        assert_eq!(stations("b", &format!("set {b} {t}")), serde_json::json!([b, t]));
        assert_eq!(stations("b", "release"), Value::Array(Vec::new()));
    }
    let free = cfg(&lab, "b", "e*.* reserve list").succeeded().stdout;
    assert_eq!(free.matches("nobody: everybody may use it").count(), 2, "{free}");
}
