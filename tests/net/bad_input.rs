//! What a person or a peer gets wrong is answered in one line that says what to do, with an exit code that tells
//! success (0), "did not work" (1) and "wrongly typed" (2) apart. Nothing of the user's is changed by it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use aoe_tests::net::image::{assert_same, random_file};
use aoe_tests::net::{Finished, HostCommand, Lab, wait_for};

const FAILED: i32 = 1;
const WRONGLY_TYPED: i32 = 2;

/// Runs a command that must fail with this exit code and a message holding every one of the words.
fn refused(command: HostCommand<'_>, code: i32, words: &[&str]) {
    let finished = command.run().exited(code);
    clear(&finished, code);
    for word in words {
        let found = finished.stderr.to_lowercase().contains(&word.to_lowercase());
        assert!(found, "the message does not mention {word:?}\n{}", finished.output());
    }
}

/// A message is one line; only a usage error adds the usage below it.
fn clear(finished: &Finished, code: i32) {
    let shown = finished.output();
    let lines = finished.stderr.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(if code == WRONGLY_TYPED { lines >= 1 } else { lines == 1 }, "{lines} lines\n{shown}");
    for word in ["panicked", "RUST_BACKTRACE", "Os {", "Err("] {
        assert!(!shown.contains(word), "{word:?} is not for people\n{shown}");
    }
}

/// `aoe-target export` with these arguments, bounded: one that starts to serve would never end.
fn export_refused(lab: &Lab, arguments: &str, code: i32, words: &[&str]) {
    let began = Instant::now();
    refused(lab.host("a").typed(&format!("aoe-target export {arguments}")), code, words);
    assert!(began.elapsed().as_secs() < 10, "refusing {arguments:?} took {:?}", began.elapsed());
}

#[test]
fn net_target_refuses_files_it_cannot_serve() {
    let lab = Lab::pair(1500);
    File::create(lab.path("empty.img")).unwrap();
    fs::create_dir(lab.path("folder")).unwrap();
    export_refused(&lab, "shelf 0 slot 1 missing.img", FAILED, &["missing.img"]);
    export_refused(&lab, "shelf 0 slot 1 empty.img", FAILED, &["empty.img"]);
    export_refused(&lab, "shelf 0 slot 1 folder", FAILED, &["folder", "directory"]);
    export_refused(&lab, "shelf 0 slot 1 /dev/null", FAILED, &["/dev/null"]);
    assert!(!lab.path("missing.img").exists(), "a mistyped name must not make a file");
}

#[test]
fn net_target_serves_the_whole_sectors_of_an_odd_file_and_leaves_the_rest_alone() {
    let lab = Lab::pair(1500);
    fs::write(lab.path("odd.img"), vec![7; 1000]).unwrap();
    fs::write(lab.path("new.img"), vec![9; 512]).unwrap();
    let target = lab.export("a", "shelf 0 slot 1 odd.img");
    let uri = lab.attach("b", "e0.1", "disk.sock");
    lab.host("b").command("nbdcopy").args(["--flush", "new.img", &uri]).run().succeeded();
    lab.host("b").typed("aoe-detach e0.1").run().succeeded();
    let ended = target.stop().succeeded();
    assert!(ended.stderr.contains("odd.img") && ended.stderr.contains("512"), "{}", ended.stderr);
    let after = fs::read(lab.path("odd.img")).unwrap();
    assert_eq!((&after[..512], &after[512..]), (&[9; 512][..], &[7; 488][..]));
}

#[test]
fn net_target_says_which_file_it_may_not_read() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("secret.img"), 1 << 20, 1);
    fs::set_permissions(lab.path("secret.img"), fs::Permissions::from_mode(0o000)).unwrap();
    // Root without the capability that overrides file permissions.
    let command = "setpriv --bounding-set -dac_override,-dac_read_search \
                   aoe-target export shelf 0 slot 1 secret.img";
    refused(lab.host("a").typed(command), FAILED, &["secret.img", "permission"]);
}

#[test]
fn net_target_refuses_impossible_addresses_and_ranges() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    random_file(&lab.path("other.img"), 1 << 20, 2);
    for wrong in ["shelf 65535 slot 1", "shelf 0 slot 255", "shelf 65536 slot 1", "shelf 0 slot 256", "shelf -1 slot 1"]
    {
        export_refused(&lab, &format!("{wrong} disk.img"), WRONGLY_TYPED, &[]);
    }
    for wrong in ["", "disk.img", "shelf 0 disk.img", "shelf 0 slot 1", "shelf zero slot 1 disk.img", "slot 1 shelf 0"]
    {
        export_refused(&lab, wrong, WRONGLY_TYPED, &[]);
    }
    let twice = lab.host("a").typed("aoe-target export shelf 0 slot 1 disk.img shelf 0 slot 1 other.img").run();
    assert!([FAILED, WRONGLY_TYPED].contains(&twice.code), "{}", twice.output());
    assert!(twice.stderr.contains("e0.1"), "{}", twice.output());
    clear(&twice, twice.code);

    // 1 MiB is 2048 sectors.
    export_refused(&lab, "shelf 0 slot 1 disk.img --offset 2048", FAILED, &["disk.img"]);
    export_refused(&lab, "shelf 0 slot 1 disk.img --offset 2000 --length 49", FAILED, &["disk.img"]);
    export_refused(&lab, "shelf 0 slot 1 disk.img --offset 18446744073709551615", FAILED, &[]);
    export_refused(&lab, "shelf 0 slot 1 disk.img --cache sometimes", WRONGLY_TYPED, &["writeback", "writethrough"]);
    export_refused(&lab, "shelf 0 slot 1 disk.img --allow 00:11:22:33:44", WRONGLY_TYPED, &[]);
    export_refused(&lab, "shelf 0 slot 1 disk.img --buffers 0", WRONGLY_TYPED, &[]);
}

#[test]
fn net_target_names_the_unknown_interface() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    export_refused(&lab, "shelf 0 slot 1 disk.img --interface eth7", FAILED, &["eth7"]);
    refused(lab.host("a").typed("aoe-discover --interface eth7"), FAILED, &["eth7"]);
}

#[test]
fn net_programs_say_which_capability_is_missing() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let place = format!("unix:{}", lab.path("disk.sock").display());
    for command in [
        "aoe-target export shelf 0 slot 1 disk.img".to_owned(),
        "aoe-discover".to_owned(),
        format!("aoe-attach e0.1 {place}"),
    ] {
        let bound = format!("setpriv --bounding-set -net_raw {command}");
        refused(lab.host("a").typed(&bound), FAILED, &["CAP_NET_RAW"]);
    }
}

#[test]
fn net_nothing_found_is_said() {
    let lab = Lab::pair(1500);
    let began = Instant::now();
    let nothing = lab.host("b").typed("aoe-discover --timeout 1").run().exited(FAILED);
    clear(&nothing, FAILED);
    assert!(began.elapsed().as_secs() < 5, "took {:?}", began.elapsed());
    let nothing = lab.host("b").typed("aoe-discover --timeout 1 --json").run().exited(FAILED);
    assert_eq!(nothing.json().as_array().map(Vec::len), Some(0));

    let place = format!("unix:{}", lab.path("disk.sock").display());
    refused(lab.host("b").typed(&format!("aoe-attach e9.9 {place}")), FAILED, &["e9.9"]);
    assert!(!lab.path("disk.sock").exists(), "a failed attach left its socket");
    refused(lab.host("b").typed("aoe-detach e9.9"), FAILED, &["e9.9"]);
    refused(lab.host("b").typed(&format!("aoe-detach {place}")), FAILED, &["disk.sock"]);
    let stat = lab.host("b").typed("aoe-stat --json").run();
    assert_eq!(stat.json().as_array().map(Vec::len), Some(0));
}

#[test]
fn net_attach_refuses_what_is_no_device_and_no_place() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    let good = format!("unix:{}", lab.path("disk.sock").display());
    // One wildcard is as wrong as a word: a disk is attached by its own address.
    for device in ["0.1", "e0", "e0.1.2", "e65536.1", "e0.256", "e65535.1", "e0.255", "disk"] {
        refused(lab.host("b").command("aoe-attach").args([device, &good]), WRONGLY_TYPED, &[]);
    }
    for place in ["", "nowhere", "unix:", "tcp:", "tcp:127.0.0.1", "tcp:127.0.0.1:99999", "/dev/sda1", "nbd1"] {
        refused(lab.host("b").command("aoe-attach").args(["e0.1", place]), WRONGLY_TYPED, &[]);
    }
    let attach = |place: &str| lab.host("b").command("aoe-attach").args(["e0.1", place]);
    refused(attach("unix:/no/such/folder/disk.sock"), FAILED, &["/no/such/folder"]);

    fs::write(lab.path("letter.txt"), "dear reader").unwrap();
    refused(attach(&format!("unix:{}", lab.path("letter.txt").display())), FAILED, &["letter.txt"]);
    assert_eq!(fs::read_to_string(lab.path("letter.txt")).unwrap(), "dear reader");

    attach(&good).run().succeeded();
    refused(attach(&good), FAILED, &["disk.sock"]);
    attach("tcp:127.0.0.1:10809").run().succeeded();
    refused(attach("tcp:127.0.0.1:10809"), FAILED, &["10809"]);
}

#[test]
fn net_attach_says_how_to_get_kernel_devices() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    if Path::new("/sys/module/nbd").exists() || Path::new("/sys/block/nbd0").exists() {
        refused(lab.host("b").typed("aoe-attach e0.1 /dev/nbd9999"), FAILED, &["/dev/nbd9999"]);
    } else {
        refused(lab.host("b").typed("aoe-attach e0.1 /dev/nbd1"), FAILED, &["modprobe nbd"]);
        refused(lab.host("b").typed("aoe-attach e0.1 /dev/nbd"), FAILED, &["modprobe nbd"]);
    }
}

#[test]
fn net_target_survives_a_file_that_shrinks() {
    let lab = Lab::pair(9000);
    random_file(&lab.path("disk.img"), 4 << 20, 1);
    let mut target = lab.export("a", "shelf 0 slot 1 disk.img");
    let uri = lab.attach("b", "e0.1", "disk.sock");
    let qemu_io = |command: &str| lab.host("b").command("qemu-io").args(["-f", "raw", "-c", command, &uri]).run();
    qemu_io("read 3M 64k").succeeded();

    File::options().write(true).open(lab.path("disk.img")).and_then(|file| file.set_len(1 << 20)).unwrap();
    let beyond = qemu_io("read 3M 64k");
    assert_ne!(beyond.code, 0, "{}", beyond.output());
    qemu_io("read 0 64k").succeeded();
    target.assert_running();
}

#[test]
fn net_targets_that_share_an_address_are_noticed() {
    let lab = Lab::new(&["a", "b", "c"], 1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    random_file(&lab.path("other.img"), 2 << 20, 2);
    let first = lab.export("a", "shelf 0 slot 1 disk.img");
    let _second = lab.export("c", "shelf 0 slot 1 other.img");
    // The first hears the second's advert and warns, naming the address and the station.
    first.wait_for_line(|line| line.contains("e0.1") && line.contains(lab.mac("c")));

    // Two disks of different sizes are not two paths to one: attaching either would corrupt it.
    let place = format!("unix:{}", lab.path("disk.sock").display());
    refused(lab.host("b").typed(&format!("aoe-attach e0.1 {place}")), FAILED, &["e0.1", lab.mac("a"), lab.mac("c")]);
    let found = lab.host("b").typed("aoe-discover").run().succeeded();
    assert!(found.stdout.contains(lab.mac("a")) && found.stdout.contains(lab.mac("c")), "{}", found.output());
}

#[test]
fn net_target_vanishes_during_a_copy() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("disk.img"), 256 << 20, 1);
    random_file(&lab.path("copy.img"), 256 << 20, 1);
    let target = lab.export("a", "shelf 0 slot 1 disk.img");
    let place = format!("unix:{}", lab.path("disk.sock").display());
    lab.host("b").command("aoe-attach").args(["--dead-after", "2", "e0.1", &place]).run().succeeded();
    let uri = lab.nbd_uri("disk.sock");
    let copy = lab.host("b").command("nbdcopy").args([&uri, "out.img"]);
    let began = Instant::now();
    let ended = std::thread::scope(|scope| {
        let running = scope.spawn(|| copy.run());
        wait_for("the copy to be under way", || {
            fs::metadata(lab.path("out.img")).is_ok_and(|file| file.len() > 0).then_some(())
        });
        target.kill();
        running.join().expect("nbdcopy")
    });
    assert_ne!(ended.code, 0, "the copy was over too soon to be interrupted: {}", ended.output());
    assert!(began.elapsed().as_secs() < 30, "the error took {:?}", began.elapsed());

    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    let read = || lab.host("b").command("qemu-io").args(["-f", "raw", "-c", "read 0 64k", &uri]).run();
    wait_for("the disk to work again", || (read().code == 0).then_some(()));
    lab.host("b").command("nbdcopy").args([&uri, "again.img"]).run().succeeded();
    assert_same(&lab.path("again.img"), &lab.path("copy.img"));
}
