//! `aoe-target serve`: what the file says is what stations find; what is wrong in it is told with line and column.

use std::fs;

use aoe_tests::net::image::random_file;
use aoe_tests::net::{Daemon, Lab};
use serde_json::Value;

const FAILED: i32 = 1;
const MISTAKE: i32 = 2;

/// Host `a` serves what this text says, from a file in the lab's folder.
fn serve(lab: &Lab, text: &str) -> Daemon {
    fs::write(lab.path("target.toml"), format!("control = \"control.sock\"\n{text}")).unwrap();
    lab.host("a").typed("aoe-target serve --config target.toml").spawn_ready(|line| line.starts_with("serving"))
}

/// Devices and their sizes in bytes, as host `b` finds them.
fn found(lab: &Lab) -> Vec<(String, u64)> {
    let devices = lab.host("b").typed("aoe-discover --json").run().succeeded().json();
    let devices = devices.as_array().expect("a list").iter();
    let mut found: Vec<_> = devices
        .map(|device| {
            (device["device"].as_str().expect("a name").to_owned(), device["size_bytes"].as_u64().expect("a size"))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn net_config_serves_what_the_file_says() {
    let lab = Lab::pair(1500);
    fs::create_dir(lab.path("guests")).unwrap();
    for (number, name) in
        ["one.img", "two.img", "guests/b.img", "guests/a.img", "guests/notes.txt"].into_iter().enumerate()
    {
        random_file(&lab.path(name), (number as u64 + 1) << 20, number as u64);
    }
    // eth9 is not there: a daemon may start before its interfaces do.
    let text = format!(
        r#"
        interfaces = ["eth9", "eth[0-3]"]
        threads = 2
        [defaults]
        model = "From the file"
        [[export]]
        shelf = 7
        slot = 1
        path = "one.img"
        allow = ["{b}"]
        serial = "ONE"
        offset = 1024
        length = 512
        [[export]]
        shelf = 7
        slot = 2
        path = "two.img"
        allow = ["02:00:00:00:00:99"]
        [[export]]
        shelf = 8
        slot-from = 10
        path = "guests/*.img"
        read-only = true
        "#,
        b = lab.mac("b")
    );
    let target = serve(&lab, &text);
    assert!(target.output().contains("eth9: no such Ethernet interface"), "{}", target.output());
    let expected = [("e7.1", 256 << 10), ("e8.10", 4 << 20), ("e8.11", 3 << 20)];
    assert_eq!(found(&lab), expected.map(|(device, size)| (device.to_owned(), size)), "e7.2 is for somebody else");
    let identify = lab.host("b").typed("aoeping -s 5 -I 7 1 eth0").run().succeeded();
    for line in ["serial_number: ONE", "model: From the file"] {
        assert!(identify.stdout.lines().any(|found| found.trim_end() == line), "{line}\n{}", identify.output());
    }

    // It can be asked what would be served while that is served.
    let checked = lab.host("a").typed("aoe-target serve --config target.toml --check --json").run().exited(FAILED);
    let report = checked.json();
    let devices: Vec<_> = report["exports"].as_array().unwrap().iter().map(|export| export["device"].clone()).collect();
    assert_eq!(devices, ["e7.1", "e7.2", "e8.10", "e8.11"]);
    assert_eq!(report["exports"][0]["size_bytes"], 256 << 10);
    assert_eq!(report["warnings"].as_array().map(Vec::len), Some(1), "{report}");
    target.stop().succeeded();
}

#[test]
fn net_config_without_exports_is_served_too() {
    let lab = Lab::pair(1500);
    let target = serve(&lab, "");
    lab.host("b").typed("aoe-discover --timeout 1").run().exited(FAILED);
    let checked = lab.host("a").typed("aoe-target serve -c target.toml --check").run().succeeded();
    assert_eq!(checked.stdout, "no exports yet, on every Ethernet interface\n");
    target.stop().succeeded();
}

#[test]
fn net_config_serves_the_rest_when_disks_are_missing() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("one.img"), 1 << 20, 1);
    let export = |slot: u8, disk: &str| format!("[[export]]\nshelf = 7\nslot = {slot}\npath = \"{disk}\"\n");
    let family = "[[export]]\nshelf = 8\nslot-from = 10\npath = \"guests/*.img\"\n";
    let target = serve(&lab, &[&export(1, "one.img"), &export(2, "two.img"), family].concat());
    let names = || found(&lab).into_iter().map(|(device, _)| device).collect::<Vec<_>>();
    assert_eq!(names(), ["e7.1"]);
    // With the first line that this test's `serve` puts in.
    for part in [
        "e7.2: not served: ",
        "target.toml:9: ",
        "two.img: no such file",
        "e8.*: not served: ",
        "target.toml:13: ",
        "guests: No such file or directory",
        "then type `aoe-target ctl reload`",
    ] {
        assert!(target.output().contains(part), "{part:?} is not in {}", target.output());
    }
    let ctl = |words: &str| lab.host("a").typed(&format!("aoe-target ctl --control control.sock {words}")).run();
    let status = ctl("status --json").succeeded().json();
    let missing: Vec<_> = status["not_served"].as_array().unwrap().iter().map(|it| it["device"].clone()).collect();
    assert_eq!(missing, ["e7.2", "e8.*"]);
    let table = ctl("status").succeeded().stdout;
    assert!(table.contains("not served") && table.contains("two.img: no such file"), "{table}");
    assert!(ctl("status e7.2").exited(1).stderr.contains("e7.2 is not served: "));
    let checked = lab.host("a").typed("aoe-target serve -c target.toml --check").run().exited(FAILED);
    assert_eq!(checked.stderr.lines().count(), 2, "{}", checked.output());

    // One disk comes, and one file of the family.
    fs::create_dir(lab.path("guests")).unwrap();
    random_file(&lab.path("guests/a.img"), 1 << 20, 2);
    let report = ctl("reload").exited(FAILED).stdout;
    assert!(report.contains("serving e8.10") && report.contains("failed: e7.2: "), "{report}");
    random_file(&lab.path("two.img"), 1 << 20, 3);
    let report = ctl("reload").succeeded().stdout;
    assert!(report.starts_with("serving e7.2") && report.lines().count() == 1, "{report}");
    assert_eq!(names(), ["e7.1", "e7.2", "e8.10"]);
    assert_eq!(ctl("status --json").succeeded().json()["not_served"], serde_json::json!([]));

    // What is served outlives its name, and a folder that shows nothing.
    fs::remove_dir_all(lab.path("guests")).unwrap();
    fs::remove_file(lab.path("two.img")).unwrap();
    let report = ctl("reload").exited(FAILED).stdout;
    assert!(report.starts_with("failed: e8.*: ") && report.lines().count() == 1, "{report}");
    assert_eq!(names(), ["e7.1", "e7.2", "e8.10"]);
    target.stop().succeeded();

    // And when nothing is there, ctl has somebody to talk to.
    let target = serve(&lab, &export(2, "two.img"));
    assert!(ctl("status e7.2").exited(1).stderr.contains("two.img: no such file"));
    random_file(&lab.path("two.img"), 1 << 20, 3);
    ctl("reload").succeeded();
    assert_eq!(names(), ["e7.2"]);
    target.stop().succeeded();
}

#[test]
fn net_config_says_who_may_edit() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let export = |slot: u8, edits: &str| {
        format!("[[export]]\nshelf = 0\nslot = {slot}\npath = \"disk.img\"\nread-only = true\nedits = {edits}\n")
    };
    let text = export(1, "{ config = \"none\" }") + &export(2, &format!("{{ config = [\"{}\"] }}", lab.mac("b")));
    let target = serve(&lab, &text);
    let aoecfg = |arguments: &str| {
        let line = format!("aoecfg -t 1 {arguments}");
        lab.host("b").typed(&line).run().succeeded().stdout.trim_end_matches('\n').to_owned()
    };
    for command in ["set", "fset"] {
        assert_eq!(aoecfg(&format!("-c {command} -s mine 0 1 eth0")), "*badarg*");
    }
    assert_eq!(aoecfg("-c read 0 1 eth0"), "");
    assert_eq!(aoecfg("-c set -s mine 0 2 eth0"), "mine");
    assert_eq!(aoecfg("-c read 0 2 eth0"), "mine");
    let told = format!("e0.1: {} may not change its config string", lab.mac("b"));
    target.wait_for_line(|line| line.contains(&told));
    let status = lab.host("a").typed("aoe-target ctl --control control.sock status --json").run().succeeded().json();
    let [first, second] = [&status["exports"][0], &status["exports"][1]];
    assert_eq!((&first["edits"]["config"], &first["edits"]["mask"]), (&"none".into(), &"all".into()));
    assert_eq!((&first["edits_refused"], &second["edits_refused"]), (&2.into(), &0.into()));
    assert_eq!(second["edits"]["config"], serde_json::json!([lab.mac("b")]));
    let details = lab.host("a").typed("aoe-target ctl --control control.sock status e0.1").run().succeeded().stdout;
    assert!(details.lines().any(|line| line.split_whitespace().eq(["config", "edits", "by", "none"])), "{details}");
    target.stop().succeeded();
}

#[test]
fn net_config_mistakes_have_line_and_column() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let disk = "[[export]]\nshelf = 0\nslot = 1\npath = \"disk.img\"\n";
    for (text, expected) in [
        ("threads = 2\n[[export\n".to_owned(), "target.toml:2:9: "),
        ("thread = 2\n".to_owned(), "target.toml:1:1: unknown key thread; did you mean threads?"),
        (format!("{disk}slto = 2\n"), "target.toml:5:1: unknown key slto; did you mean slot?"),
        (format!("{disk}allow = [\"02:00:00:00:00\"]\n"), "target.toml:5:10: allow: "),
        (format!("{disk}buffers = 5000\n"), "target.toml:5:11: buffers takes a number from 2 to 1024, not 5000"),
        (disk.repeat(2), "target.toml:7:8: e0.1 is named twice, first in line 3"),
        (
            format!("{disk}{}", disk.replace("slot = 1", "slot = 2").replace("disk.img", "./disk.img")),
            "target.toml:8:8: ",
        ),
        (disk.replace("slot", "slot-from"), "target.toml:4:8: slot-from is for a path whose last part has"),
    ] {
        fs::write(lab.path("target.toml"), &text).unwrap();
        for check in ["", " --check"] {
            let refused = lab.host("a").typed(&format!("aoe-target serve -c target.toml{check}")).run().exited(MISTAKE);
            let message = format!("aoe-target: {expected}");
            assert!(refused.stderr.starts_with(&message), "{text}gives {}not {message}", refused.stderr);
            assert_eq!((refused.stderr.lines().count(), &refused.stdout[..]), (1, ""), "{}", refused.output());
        }
    }
    let missing = lab.host("a").typed("aoe-target serve -c missing.toml").run().exited(MISTAKE);
    assert!(missing.stderr.contains("missing.toml: no such file"), "{}", missing.output());

    // The file is right, but not the disk.
    fs::write(lab.path("target.toml"), disk.replace("disk.img", "gone.img")).unwrap();
    let checked = lab.host("a").typed("aoe-target serve -c target.toml --check").run().exited(FAILED);
    assert!(checked.stdout.contains("e0.1") && checked.stderr.contains("e0.1: "), "{}", checked.output());
    assert!(checked.stderr.contains("gone.img: no such file; check the path"), "{}", checked.output());
}

#[test]
fn net_config_of_vblade_is_imported() {
    let lab = Lab::pair(1500);
    let folder = lab.path("vblade.conf.d");
    fs::create_dir(&folder).unwrap();
    for (number, name) in ["disk.img", "my other disk.img"].into_iter().enumerate() {
        random_file(&lab.path(name), 1 << 20, number as u64);
    }
    let disk = lab.path("disk.img");
    let common = format!("shelf=14\nnetif=eth0\nfilename='{}'\n", disk.display());
    let other = common.replace("disk.img", "my other disk.img");
    let mac = lab.mac("b").replace(':', "").to_uppercase();
    fs::write(folder.join("one.conf"), format!("{common}slot=2\noptions='-r -m {mac} -o 8 -l 1024 -b 32'\n")).unwrap();
    fs::write(folder.join("two.conf"), format!("{other}slot=3\nionice='-c2 -n7'\n")).unwrap();
    fs::write(folder.join("bad.conf"), format!("{other}slot=$SLOT\n")).unwrap();
    let import = "aoe-target import-vblade vblade.conf.d";
    let printed = lab.host("a").typed(import).run().exited(FAILED);
    assert!(printed.stderr.contains("bad.conf: left out: line 4: $ is for the shell"), "{}", printed.output());
    assert!(printed.stderr.contains("two.conf: ionice -c2 -n7 has no counterpart"), "{}", printed.output());
    fs::remove_file(folder.join("bad.conf")).unwrap();
    lab.host("a").typed(&format!("{import} --output target.toml")).run().succeeded();
    let again = lab.host("a").typed(&format!("{import} --output target.toml")).run().exited(FAILED);
    assert!(again.stderr.contains("target.toml: exists already"), "{}", again.output());
    lab.host("a").typed("aoe-target serve -c target.toml --check").run().succeeded();

    // What vblade serves with these options is what we serve.
    let vblade = format!("vblade -r -m {mac} -o 8 -l 1024 -b 32 14 2 eth0 {}", disk.display());
    let vblade = lab.host("a").typed(&vblade).spawn_ready(|line| line.starts_with("pid"));
    let size =
        |device: &str| found(&lab).into_iter().find(|(name, _)| name == device).map(|(_, size)| Value::from(size));
    let theirs = size("e14.2");
    vblade.stop();
    let imported = fs::read_to_string(lab.path("target.toml")).unwrap();
    let target = serve(&lab, &imported);
    assert_eq!((size("e14.2"), size("e14.3")), (theirs, Some(Value::from(1 << 20))));
    assert_eq!(size("e14.2"), Some(Value::from(512 << 10)));
    target.stop().succeeded();
}
