//! Programs that are killed at any moment, and started again, under a client that stays.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aoe_tests::net::cable::Trouble;
use aoe_tests::net::fio::{DISK_BYTES, Load};
use aoe_tests::net::image::{assert_same, random_file};
use aoe_tests::net::{Daemon, Lab, PATIENCE, wait_for};
use fastrand::Rng;

/// aoe-attach as a service manager runs it, which starts it again when it dies.
fn attach(lab: &Lab, options: &str) -> Daemon {
    let place = format!("unix:{}", lab.path("disk.sock").display());
    let line = format!("aoe-attach --foreground {options} e0.1 {place}");
    lab.host("b").typed(&line).spawn_ready(|line| line.starts_with("e0.1"))
}

/// A client of the attached disk that comes back whenever its connection breaks, and asks again for what it had no
/// answer to. Its own clients, at the address returned, notice nothing but the time it takes.
fn steadfast_client(lab: &Lab) -> (Daemon, String) {
    let server = lab.path("disk.sock");
    let disk = format!("driver=nbd,server.type=unix,server.path={},reconnect-delay=60", server.display());
    let client = lab
        .host("b")
        .typed("qemu-nbd --persistent --shared=8 --cache=none --image-opts")
        .arg(disk)
        .arg("--socket")
        .arg(lab.path("client.sock"))
        .spawn();
    wait_for("qemu-nbd", || Path::exists(&lab.path("client.sock")).then_some(()));
    (client, lab.nbd_uri("client.sock"))
}

#[test]
fn net_killed_at_any_moment_under_fio() {
    let seed = 1;
    let mut rng = Rng::with_seed(seed);
    let lab = Lab::pair(9000);
    random_file(&lab.path("disk.img"), DISK_BYTES, seed);
    let serve = |options: &str| lab.export("a", &format!("shelf 0 slot 1 disk.img {options}"));
    let mut target = serve("");
    let attach = || attach(&lab, "--frame-life 1");
    let mut attached = attach();
    let (_client, uri) = steadfast_client(&lab);
    let load = Load { blocks: 32, writes: 200, passes: 10, rate: 100, overlaps: false };
    let mut fio = load.at(lab.host("b"), &uri).spawn();

    let mut kills =
        [["aoe-attach"; 3], ["aoe-target --no-hold"; 3], ["aoe-attach", "aoe-target", "aoe-target"]].concat();
    rng.shuffle(&mut kills);
    // By default a target that was started again holds writes for some 11 s: once for so long is enough.
    kills.push("aoe-target");
    for victim in kills {
        sleep(Duration::from_millis(rng.u64(200..1200)));
        fio.assert_running();
        let pause = Duration::from_millis(rng.u64(0..400));
        println!("killed, and after {pause:?} started again: {victim}");
        match victim.strip_prefix("aoe-target") {
            Some(options) => {
                target.kill();
                sleep(pause);
                target = serve(options);
            }
            None => {
                attached.kill();
                sleep(pause);
                attached = attach();
            }
        }
    }
    let began = Instant::now();
    assert!(fio.ends_within(PATIENCE), "fio hangs\n{}", fio.output());
    println!("fio ended {:?} after the last kill", began.elapsed());
    fio.stop().succeeded();

    lab.host("b").command("nbdcopy").args([&uri, "out.img"]).run().succeeded();
    attached.stop().succeeded();
    target.stop().succeeded();
    assert_same(&lab.path("disk.img"), &lab.path("out.img"));
}

/// The writes of a server that was killed are still on their way when the next one serves the same clients.
#[test]
fn net_killed_attach_leaves_writes_that_undo_nothing() {
    const LATE: Duration = Duration::from_secs(3);
    let lab = Lab::over_cable(&["a", "b"], 9000, 1);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    let uri = lab.nbd_uri("disk.sock");
    let qemu_io = |command: &str| lab.host("b").command("qemu-io").args(["-f", "raw", "-c", command, &uri]);

    let options = format!("--frame-life {}", LATE.as_secs());
    let first = attach(&lab, &options);
    let began = Instant::now();
    qemu_io("write -P 1 0 64k").run().succeeded();
    assert!(began.elapsed() < LATE, "a first attach holds nothing");

    // No answer, so it is sent again and again.
    lab.trouble("b", Trouble { lost: 100.0, ..Trouble::default() });
    lab.trouble("a", Trouble { delayed: 100.0, late: LATE, ..Trouble::default() });
    let write = qemu_io("write -P 2 0 64k").spawn();
    wait_for("a write to be late", || (lab.accidents("a").delayed >= 24).then_some(()));
    first.kill();
    let died = Instant::now();
    write.kill();
    ["a", "b"].iter().for_each(|host| lab.trouble(host, Trouble::default()));

    let second = attach(&lab, &options);
    qemu_io("read 0 64k").run().succeeded();
    assert!(died.elapsed() < LATE, "reads are not held");
    qemu_io("write -P 3 0 64k").run().succeeded();
    assert!(died.elapsed() >= LATE, "a write was not held");

    let all_arrived = || lab.accidents("a").given == lab.accidents("a").taken;
    wait_for("the last late write", || all_arrived().then_some(()));
    qemu_io("read -P 3 0 64k").run().succeeded();

    lab.host("b").typed("aoe-detach e0.1").run().succeeded();
    second.stop();
    let third = attach(&lab, &options);
    let began = Instant::now();
    qemu_io("write -P 4 0 64k").run().succeeded();
    assert!(began.elapsed() < LATE, "nothing is held after an orderly end");
    third.stop().succeeded();
}
