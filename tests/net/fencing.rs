//! `fence_aoe` against real targets: who is shut out writes nothing any more, and nothing else changes.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aoe_tests::net::image::random_file;
use aoe_tests::net::{Daemon, Finished, Lab, wait_for};

/// The part of the disk, in bytes, that each writing host has to itself.
const REGION: usize = 1 << 20;

/// Runs the agent on a host with options on its command line.
fn fence(lab: &Lab, host: &str, options: &str) -> Finished {
    lab.host(host).typed(&format!("fence_aoe {options}")).run()
}

/// Runs the agent on a host as cluster daemons do: options on its standard input.
fn fence_by_input(lab: &Lab, host: &str, options: &str) -> Finished {
    fs::write(lab.path("input"), options).unwrap();
    lab.host(host).command("sh").args(["-c", "exec \"$0\" < input", "fence_aoe"]).run()
}

/// Panics unless the agent refused, for this reason.
fn refused(finished: Finished, reason: &str) {
    let finished = finished.exited(1);
    assert!(finished.stderr.contains(reason), "no \"{reason}\" in {}", finished.output());
    assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.output());
    assert_eq!(finished.stdout, "");
}

/// Writes random data all over a region of an attached disk, for ever.
fn write_without_end(lab: &Lab, host: &str, uri: &str, region: usize) -> Daemon {
    let line = "fio --name=writer --ioengine=nbd --rw=randwrite --bs=4k --iodepth=4 --rate_iops=400 --refill_buffers \
                --randrepeat=0 --time_based --runtime=1000 --size=1m";
    let command = lab.host(host).typed(line).arg(format!("--offset={}", region * REGION));
    command.arg(format!("--uri={uri}")).spawn()
}

/// What is in a region of the target's file.
fn region(lab: &Lab, region: usize) -> Vec<u8> {
    fs::read(lab.path("disk.img")).unwrap()[region * REGION..][..REGION].to_vec()
}

/// Waits until something is written to a region.
fn wait_for_writes(lab: &Lab, number: usize) {
    let before = region(lab, number);
    wait_for(&format!("writes to region {number}"), || (region(lab, number) != before).then_some(()));
}

#[test]
fn net_fence_shuts_a_writing_host_out_and_lets_it_in_again() {
    let lab = Lab::new(&["t", "a", "b"], 1500);
    let [t, a, b] = ["t", "a", "b"].map(|host| lab.mac(host));
    random_file(&lab.path("disk.img"), 4 << 20, 1);
    let _target = lab.export("t", "shelf 0 slot 1 disk.img");
    fence(&lab, "a", &format!("-o on --create -d e0.1 -n {a},{b}")).succeeded();

    let writers = [("a", 0), ("b", 1)].map(|(host, number)| {
        let uri = lab.attach(host, "e0.1", &format!("{host}.sock"));
        write_without_end(&lab, host, &uri, number)
    });
    wait_for_writes(&lab, 0);
    wait_for_writes(&lab, 1);

    let off = format!("action=off\nplug={b}\ndevices=e0.1\n");
    let done = fence_by_input(&lab, "a", &off).succeeded();
    let at_the_end = region(&lab, 1);
    assert_eq!(done.stdout, format!("Success: {b} shut out of e0.1 at {t}\n"));
    sleep(Duration::from_secs(1));
    assert!(region(&lab, 1) == at_the_end, "a host that was shut out has written");
    wait_for_writes(&lab, 0);
    assert!(region(&lab, 1) == at_the_end, "a host that was shut out has written");

    let status = format!("-o status -d e0.1 -n {b}");
    assert_eq!(fence(&lab, "a", &status).exited(2).stdout, "Status: OFF\n");
    assert_eq!(fence(&lab, "a", "-o list -d e0.1").succeeded().stdout, format!("{a},\n"));
    fence_by_input(&lab, "a", &off).succeeded();
    // As dlm_controld puts it, which names no action.
    let dlm = format!("devices=e0.1 targets={t} plug={b} node=2 fail_time=1700000000 ").replace(' ', "\n");
    fence_by_input(&lab, "a", &dlm).succeeded();
    refused(fence(&lab, "b", &format!("-o on -d e0.1 -n {b} --timeout 2")), "no target answers for e0.1");

    let done = fence(&lab, "a", &format!("-o on -d e0.1 -n {b}")).succeeded();
    assert_eq!(done.stdout, format!("Success: {b} let in to e0.1 at {t}\n"));
    assert_eq!(fence(&lab, "a", &status).succeeded().stdout, "Status: ON\n");
    wait_for_writes(&lab, 1);
    for mut writer in writers {
        writer.assert_running();
        writer.kill();
    }
    assert_eq!(lab.stat("b")[0]["errors"], 0, "it was away, but not for too long");
}

#[test]
fn net_fence_refuses_to_let_everybody_in_or_shut_itself_out() {
    let lab = Lab::new(&["t", "a", "b"], 1500);
    let [t, a, b] = ["t", "a", "b"].map(|host| lab.mac(host));
    random_file(&lab.path("one.img"), 1 << 20, 1);
    random_file(&lab.path("two.img"), 1 << 20, 2);
    let _target = lab.export("t", "shelf 0 slot 1 one.img shelf 0 slot 2 two.img");
    let listed = |devices: &str| fence(&lab, "a", &format!("-o list -d {devices}")).succeeded().stdout;

    let on = format!("-o on -d e0.1 -n {b}");
    assert_eq!(fence(&lab, "a", &format!("-o status -d e0.1 -n {b}")).succeeded().stdout, "Status: ON\n");
    refused(fence(&lab, "a", &format!("-o off -d e0.1 -n {b}")), "nobody can be shut out; first start it");
    refused(fence(&lab, "a", &on), "shuts out all others; first start it");
    refused(fence(&lab, "a", &format!("{on} --create")), "would no longer hear this host");
    assert_eq!(listed("e0.1"), "");
    let monitor = fence(&lab, "b", "-o monitor -d e0.1").succeeded();
    assert!(monitor.stderr.contains(&format!("the list of e0.1 at target {t} is empty")), "{}", monitor.output());

    fence(&lab, "a", &format!("-o on --create -d e0.1 -n {a},{b}")).succeeded();
    assert_eq!(fence(&lab, "b", "-o monitor -d e0.1").succeeded().stderr, "");
    refused(fence(&lab, "a", &format!("-d e0.1 -n {a},{b}")), "would become empty");
    refused(fence(&lab, "a", &format!("-d e0.1 -n {a}")), "would no longer hear this host");
    // One list of two is empty: neither is changed.
    refused(fence(&lab, "a", &format!("-d e0.1,e0.2 -n {b}")), "the list of e0.2");
    let mut both = [format!("{a},\n"), format!("{b},\n")];
    both.sort();
    assert_eq!(listed("e0.1"), both.concat());
    assert_eq!(listed("e0.2"), "");

    // The other list is started, and both are edited together.
    fence(&lab, "a", &format!("-o on --create -d e0.1,e0.2 -n {a},{b}")).succeeded();
    fence(&lab, "a", &format!("-d e0.1,e0.2 -n {}", b.replace(':', ""))).succeeded();
    assert_eq!([listed("e0.1"), listed("e0.2")], [format!("{a},\n"), format!("{a},\n")]);
}

#[test]
fn net_fence_needs_every_target() {
    let lab = Lab::new(&["t", "u", "a", "b"], 1500);
    let [t, u, a, b] = ["t", "u", "a", "b"].map(|host| lab.mac(host));
    random_file(&lab.path("t.img"), 1 << 20, 1);
    random_file(&lab.path("u.img"), 1 << 20, 2);
    let _first = lab.export("t", "shelf 0 slot 1 t.img");
    let second = lab.export("u", "shelf 0 slot 1 u.img");
    let done = fence(&lab, "a", &format!("-o on --create -d e0.1 -n {a},{b}")).succeeded().stdout;
    assert!(done.contains(&format!("e0.1 at {t}")) && done.contains(&format!("e0.1 at {u}")), "{done}");

    second.kill();
    let both = format!("-d e0.1 -n {b} --targets {t},{u}");
    let began = Instant::now();
    refused(fence(&lab, "a", &format!("{both} --timeout 3")), &format!("target {u} does not answer for e0.1"));
    let took = began.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(10)).contains(&took), "{took:?}");
    refused(fence(&lab, "a", &format!("-o monitor -d e0.1 --targets {u} --timeout 2")), u);
    assert_eq!(fence(&lab, "a", &format!("-o status -d e0.1 -n {b}")).succeeded().stdout, "Status: ON\n");

    // Without the names, the one that is there is enough; the other one knows of nothing when it is back.
    fence(&lab, "a", &format!("-d e0.1 -n {b}")).succeeded();
    let _second = lab.export("u", "shelf 0 slot 1 u.img");
    let mixed = fence(&lab, "a", &format!("-o status -d e0.1 -n {b}"));
    refused(mixed, "neither on nor off");
    fence(&lab, "a", &both).succeeded();
    fence(&lab, "a", &format!("-o status -d e0.1 -n {b} --targets {t},{u}")).exited(2);
}

#[test]
fn net_fence_speaks_as_fence_agents_do() {
    let lab = Lab::pair(1500);
    let b = lab.mac("b");
    for metadata in [fence(&lab, "a", "-o metadata"), fence_by_input(&lab, "a", "action=metadata\n")] {
        let xml = metadata.succeeded().stdout;
        for part in [
            "<resource-agent name=\"fence_aoe\"",
            "<longdesc>",
            "<parameter name=\"plug\"",
            "<parameter name=\"devices\"",
            "<action name=\"on\" automatic=\"0\" />",
            "<action name=\"off\" />",
            "<action name=\"monitor\" />",
            "</resource-agent>",
        ] {
            assert!(xml.contains(part), "no {part} in {xml}");
        }
    }

    // Nobody is asked: there is no target.
    fence_by_input(&lab, "a", &format!("action=validate-all\ndevices=e0.1,e0.2\nport={b}\nunknown=1\n")).succeeded();
    refused(fence(&lab, "a", "-o validate-all"), "--devices");
    refused(fence_by_input(&lab, "a", "devices=e0.1\n"), "--plug");
    refused(fence(&lab, "a", &format!("-d e0.1 -n {b} -i eth9")), "eth9");
    fence(&lab, "a", "-o validate-all -d e0.*").exited(1);
    fence(&lab, "a", "-o reboot -d e0.1 -n 02:00:00:00:00:01").exited(1);
    fence(&lab, "a", "--help").succeeded();
    refused(fence(&lab, "a", "-o monitor -d e0.1 -i eth0 --timeout 1"), "no target answers for e0.1");
}
