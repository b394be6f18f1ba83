//! A station that is shut out under load: the target's own record of it stands still from the answer on.

use std::fs;
use std::time::Duration;

use aoe_common::addr::Address;
use aoe_common::wire::{Command, DirectiveCommand, DirectiveRepr, Frame, MacAddr, MaskCommand, MaskRepr};
use aoe_tests::net::image::random_file;
use aoe_tests::net::peer::{Wire, request};
use aoe_tests::net::{Lab, wait_for};

const DEVICE: Address = Address::new(0, 1);

/// Requests the load has under way at the most; each is one frame.
const DEPTH: u64 = 32;

/// How long to look at the file of a station that is out. It sends again for as long.
const WATCH: Duration = Duration::from_secs(4);

/// Edits the mask list of e0.1 from a wire; returns with the target's answer.
fn edit(wire: &mut Wire, target: MacAddr, tag: u32, directives: &[(DirectiveCommand, MacAddr)]) {
    let mut body = vec![0; MaskRepr::FIXED_LEN + directives.len() * MaskRepr::DIRECTIVE_LEN];
    let entries = directives.iter().map(|(command, mac)| DirectiveRepr { command: *command, mac: *mac });
    MaskRepr { command: MaskCommand::Edit, error: None, directive_count: directives.len() as u8 }
        .emit(entries, &mut body);
    wire.send(&[request(wire.mac(), target, DEVICE, Command::Mask, tag, &body)]);
    wait_for("the answer to an edit", || {
        let bytes = wire.receive(Duration::from_secs(1))?;
        let frame = Frame::parse(&bytes).ok()?;
        let is_it = frame.header.response && frame.header.command == Command::Mask && frame.header.tag == tag;
        let (mask, _) = is_it.then(|| MaskRepr::parse(frame.body).expect("a mask answer"))?;
        assert_eq!((frame.header.error, mask.error), (None, None));
        Some(())
    });
}

/// The number between two texts, somewhere in a text.
fn number(text: &str, before: &str, after: &str) -> u64 {
    let found = text.split(before).skip(1).find_map(|rest| rest.split_once(after)?.0.parse().ok());
    found.unwrap_or_else(|| panic!("no {before:?} NUMBER {after:?} in\n{text}"))
}

#[test]
fn net_station_record_stands_still_once_a_station_is_out() {
    let lab = Lab::new(&["a", "b", "c"], 9000);
    random_file(&lab.path("disk.img"), 16 << 20, 1);
    let target = lab.export("a", "shelf 0 slot 1 disk.img");
    let [target_mac, victim] = ["a", "b"].map(|host| lab.mac(host).parse().unwrap());
    let mut wire = Wire::open(lab.host("c"));
    let own = wire.mac();
    edit(&mut wire, target_mac, 1, &[(DirectiveCommand::Add, victim), (DirectiveCommand::Add, own)]);

    let uri = lab.attach("b", "e0.1", "disk.sock");
    let [place, depth] = [format!("--uri={uri}"), format!("--iodepth={DEPTH}")];
    let load = ["--name=load", "--ioengine=nbd", &place, &depth, "--rw=randwrite", "--bs=4k", "--size=16M"];
    let mut load = lab.host("b").command("fio").args(load).args(["--time_based", "--runtime=60"]).spawn();
    let completed = || lab.stat("b")[0]["writes"].as_u64().expect("a number");
    wait_for("the load to run", || {
        load.assert_running();
        (completed() > 1000).then_some(())
    });

    edit(&mut wire, target_mac, 2, &[(DirectiveCommand::Delete, victim)]);
    let then = fs::read(lab.path("disk.img")).unwrap();
    load.assert_running();
    std::thread::sleep(WATCH);
    assert!(fs::read(lab.path("disk.img")).unwrap() == then, "the file changed after the edit was answered");
    load.assert_running();
    let completed = completed();
    load.kill();

    let report = target.stop().succeeded().output();
    assert!(fs::read(lab.path("disk.img")).unwrap() == then, "the file changed at the end");
    let told = number(&report, &format!("; {victim} is out after "), " writes");
    let account = report.lines().find(|line| line.contains(&format!("station {victim}:"))).expect("a line at the end");
    println!("out after {told} writes, {completed} of them answered; at the end: {account}");
    assert_eq!(number(account, " reads, ", " writes"), told, "{report}");
    assert!(number(account, "given up, ", " frames ignored since it was shut out") > 0, "{report}");
    // Of what was run when the edit came, the answers were lost; nothing else may be missing or too much.
    assert!((completed..=completed + DEPTH).contains(&told), "{completed} writes were answered\n{report}");
}
