//! Foreign NBD clients on the socket that aoe-attach serves: libnbd, qemu, nbdkit and fio.

use aoe_tests::net::image::{assert_same, random_file};
use aoe_tests::net::{Daemon, Finished, Lab, requires};

const IMAGE_BYTES: u64 = 24 << 20;

/// Two hosts, our target on `a` and an attached socket on `b`.
struct Bridge {
    uri: String,
    target: Daemon,
    lab: Lab,
}

fn bridge(mtu: u32, attach_options: &str) -> Bridge {
    let lab = Lab::pair(mtu);
    random_file(&lab.path("disk.img"), IMAGE_BYTES, 1);
    let target = lab.export("a", "shelf 0 slot 1 disk.img");
    let place = format!("unix:{}", lab.path("disk.sock").display());
    lab.host("b").typed(&format!("aoe-attach {attach_options} e0.1 {place}")).run().succeeded();
    Bridge { uri: lab.nbd_uri("disk.sock"), target, lab }
}

impl Bridge {
    fn client(&self, program: &str, arguments: &[&str]) -> Finished {
        self.lab.host("b").command(program).args(arguments).run()
    }

    /// Ends both sides in order and compares what the target kept.
    fn disk_is_now(self, file: &str) {
        self.client("aoe-detach", &["e0.1"]).succeeded();
        self.target.stop().succeeded();
        assert_same(&self.lab.path("disk.img"), &self.lab.path(file));
    }
}

/// Out, in, and out again with a client of another project.
fn nbdcopy_both_ways(mtu: u32, options: &str) {
    let bridge = bridge(mtu, options);
    bridge.client("nbdcopy", &[&bridge.uri, "out.img"]).succeeded();
    assert_same(&bridge.lab.path("out.img"), &bridge.lab.path("disk.img"));
    random_file(&bridge.lab.path("new.img"), IMAGE_BYTES, 2);
    bridge.client("nbdcopy", &["--flush", "new.img", &bridge.uri]).succeeded();
    bridge.client("nbdcopy", &[&bridge.uri, "again.img"]).succeeded();
    assert_same(&bridge.lab.path("again.img"), &bridge.lab.path("new.img"));
    bridge.disk_is_now("new.img");
}

#[test]
fn net_nbdcopy_both_ways_mtu_1500() {
    nbdcopy_both_ways(1500, "");
}

#[test]
fn net_nbdcopy_both_ways_mtu_9000() {
    nbdcopy_both_ways(9000, "");
}

#[test]
fn net_nbdcopy_over_four_connections() {
    nbdcopy_both_ways(9000, "--connections 4");
}

#[test]
fn net_nbdinfo_sees_what_the_disk_can() {
    let bridge = bridge(9000, "");
    let info = bridge.client("nbdinfo", &["--json", &bridge.uri]).succeeded().json();
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], IMAGE_BYTES, "{info}");
    assert_eq!(export["is_read_only"], false);
    // Our target really syncs, takes FUA, trims and zeroes; one process serves all connections.
    for ability in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn"] {
        assert_eq!(export[ability], true, "{ability} in {info}");
    }
    let block = |name: &str| export[name].as_u64().unwrap_or_else(|| panic!("{name} in {info}"));
    assert_eq!(block("block_size_minimum"), 512);
    assert!(block("block_size_preferred").is_power_of_two() && block("block_size_preferred") >= 4096, "{info}");
    assert!(block("block_size_maximum") >= 1 << 20, "{info}");

    let list = bridge.client("nbdinfo", &["--list", "--json", &bridge.uri]).succeeded().json();
    assert_eq!(list["exports"].as_array().map(Vec::len), Some(1), "{list}");
}

#[test]
fn net_nbd_over_tcp() {
    let bridge = bridge(9000, "");
    bridge.client("aoe-detach", &["e0.1"]).succeeded();
    bridge.client("aoe-attach", &["e0.1", "tcp:127.0.0.1:10809"]).succeeded();
    bridge.client("nbdcopy", &["nbd://127.0.0.1:10809", "out.img"]).succeeded();
    assert_same(&bridge.lab.path("out.img"), &bridge.lab.path("disk.img"));
    bridge.client("aoe-detach", &["tcp:127.0.0.1:10809"]).succeeded();
    assert_ne!(bridge.client("nbdinfo", &["nbd://127.0.0.1:10809"]).code, 0);
}

#[test]
fn net_qemu_img_convert_and_compare() {
    let bridge = bridge(9000, "");
    bridge.client("qemu-img", &["convert", "-f", "raw", "-O", "raw", &bridge.uri, "out.img"]).succeeded();
    assert_same(&bridge.lab.path("out.img"), &bridge.lab.path("disk.img"));
    bridge.client("qemu-img", &["compare", "-f", "raw", "-F", "raw", &bridge.uri, "out.img"]).succeeded();
    random_file(&bridge.lab.path("new.img"), IMAGE_BYTES, 2);
    bridge.client("qemu-img", &["compare", "-f", "raw", "-F", "raw", &bridge.uri, "new.img"]).exited(1);
    bridge.client("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", "new.img", &bridge.uri]).succeeded();
    bridge.client("qemu-img", &["compare", "-f", "raw", "-F", "raw", &bridge.uri, "new.img"]).succeeded();
    bridge.disk_is_now("new.img");
}

#[test]
fn net_qemu_io_small_writes_zeroes_trim_fua_and_the_last_sector() {
    let bridge = bridge(1500, "");
    let last = IMAGE_BYTES - 512;
    let write_last = format!("write -P 0x33 {last} 512");
    let read_last = format!("read -P 0x33 {last} 512");
    let commands: [&str; 11] = [
        "write -P 0x11 0 64k",
        "write -f -P 0x22 4608 512",
        "read -P 0x11 0 4608",
        "read -P 0x22 4608 512",
        "read -P 0x11 5120 1k",
        "write -z 1M 256k",
        "read -P 0 1M 256k",
        "discard 2M 1M",
        &write_last,
        &read_last,
        "flush",
    ];
    let mut arguments = vec!["-f", "raw"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(&bridge.uri);
    let finished = bridge.client("qemu-io", &arguments).succeeded();
    assert!(!finished.stdout.contains("Pattern verification failed"), "{}", finished.output());

    // The same edits on a plain file; what a discard leaves behind is not promised.
    let mut expected = {
        random_file(&bridge.lab.path("plain.img"), IMAGE_BYTES, 1);
        std::fs::read(bridge.lab.path("plain.img")).unwrap()
    };
    bridge.client("aoe-detach", &["e0.1"]).succeeded();
    bridge.target.stop().succeeded();
    let found = std::fs::read(bridge.lab.path("disk.img")).unwrap();
    expected[..64 << 10].fill(0x11);
    expected[4608..5120].fill(0x22);
    expected[1 << 20..(1 << 20) + (256 << 10)].fill(0);
    expected[last as usize..].fill(0x33);
    expected[2 << 20..3 << 20].copy_from_slice(&found[2 << 20..3 << 20]);
    assert!(expected == found, "the image is not what was written");
}

#[test]
fn net_nbdkit_as_client() {
    let bridge = bridge(9000, "");
    requires(&["nbdcopy"]);
    let forward = format!("uri={}", bridge.uri);
    bridge.client("nbdkit", &["-U", "-", "nbd", &forward, "--run", "nbdcopy \"$uri\" out.img"]).succeeded();
    assert_same(&bridge.lab.path("out.img"), &bridge.lab.path("disk.img"));
}

#[test]
fn net_nbdkit_writes_a_window_at_an_odd_sector() {
    let bridge = bridge(9000, "");
    requires(&["nbdcopy"]);
    // Every 4 KiB request of the client lands one sector off the 4 KiB grid.
    random_file(&bridge.lab.path("new.img"), 1 << 20, 9);
    let forward = format!("uri={}", bridge.uri);
    let arguments = ["-U", "-", "--filter=offset", "nbd", &forward, "offset=512", "range=1M"];
    let write = [&arguments[..], &["--run", "nbdcopy new.img \"$uri\""]].concat();
    bridge.client("nbdkit", &write).succeeded();
    bridge.client("aoe-detach", &["e0.1"]).succeeded();
    let disk = std::fs::read(bridge.lab.path("disk.img")).unwrap();
    assert!(disk[512..512 + (1 << 20)] == std::fs::read(bridge.lab.path("new.img")).unwrap());
}

#[test]
fn net_fio_random_writes_verified() {
    let bridge = bridge(9000, "--connections 2");
    let uri = format!("--uri={}", bridge.uri);
    let arguments = [
        "--name=mixed",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--bs_unaligned=0",
        "--blockalign=512",
        "--iodepth=16",
        "--size=24M",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--randseed=1",
    ];
    bridge.client("fio", &arguments).succeeded();
}

#[test]
fn net_two_clients_share_one_socket() {
    let bridge = bridge(9000, "");
    let first = bridge.lab.host("b").command("nbdcopy").args([&bridge.uri, "one.img"]);
    let second = bridge.lab.host("b").command("nbdcopy").args([&bridge.uri, "two.img"]);
    std::thread::scope(|scope| {
        let threads = [scope.spawn(|| first.run()), scope.spawn(|| second.run())];
        threads.into_iter().for_each(|thread| drop(thread.join().expect("nbdcopy").succeeded()));
    });
    assert_same(&bridge.lab.path("one.img"), &bridge.lab.path("disk.img"));
    assert_same(&bridge.lab.path("two.img"), &bridge.lab.path("disk.img"));
}

#[test]
fn net_read_only_attach_refuses_writes() {
    let bridge = bridge(9000, "--read-only");
    let info = bridge.client("nbdinfo", &["--json", &bridge.uri]).succeeded().json();
    assert_eq!(info["exports"][0]["is_read_only"], true, "{info}");
    let write = bridge.client("qemu-io", &["-f", "raw", "-c", "write -P 1 0 4k", &bridge.uri]);
    assert_ne!(write.code, 0, "{}", write.output());
    random_file(&bridge.lab.path("plain.img"), IMAGE_BYTES, 1);
    bridge.disk_is_now("plain.img");
}

#[test]
fn net_stat_and_detach_name_what_is_attached() {
    let bridge = bridge(9000, "");
    bridge.client("nbdcopy", &[&bridge.uri, "out.img"]).succeeded();
    let stat = bridge.lab.stat_without_loss("b", IMAGE_BYTES / 8192);
    assert_eq!(stat.as_array().map(Vec::len), Some(1), "{stat}");
    let place = format!("unix:{}", bridge.lab.path("disk.sock").display());
    assert_eq!(stat[0]["device"], "e0.1");
    assert_eq!(stat[0]["where"], place);
    assert_eq!(stat[0]["state"], "up");
    assert_eq!(stat[0]["size_bytes"], IMAGE_BYTES);
    let path = &stat[0]["paths"][0];
    assert_eq!(path["mac"], bridge.lab.mac("a"));
    assert_eq!(path["interface"], bridge.lab.interface("b"));
    assert!(path["rtt_us"].as_u64().is_some_and(|rtt| rtt > 0), "{stat}");
    assert!(path["window"].as_u64().is_some_and(|window| window > 0), "{stat}");
    assert_eq!(path["in_flight"], 0, "{stat}");

    bridge.client("aoe-detach", &[&place]).succeeded();
    assert_eq!(bridge.lab.stat("b").as_array().map(Vec::len), Some(0));
    assert!(!bridge.lab.path("disk.sock").exists(), "the socket is still there");
}
