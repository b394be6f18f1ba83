//! Interfaces that go down and come back, change their MTU in mid-stream, and stand on others.

use std::thread::sleep;
use std::time::{Duration, Instant};

use aoe_tests::net::fio::{DISK_BYTES, Load};
use aoe_tests::net::image::{assert_same, random_file};
use aoe_tests::net::{Daemon, Lab, PATIENCE, wait_for};

/// How long a frame may live in the lab, in seconds. Writes that have become too long for the MTU wait so long before
/// they are cut anew: the target would take the parts for new ones if the whole came after them.
const FRAME_LIFE: u64 = 2;

/// How soon a stream is to go on after a change that lets it. Resends are at most 2 s apart.
const RESUMED: Duration = Duration::from_secs(FRAME_LIFE + 3);

/// A disk on `a`, attached on `b`, and fio with verify on it for some ten seconds. The other end does not notice when
/// an interface goes down, as behind a switch.
struct Stream {
    lab: Lab,
    target: Daemon,
    uri: String,
    fio: Daemon,
}

impl Stream {
    fn new() -> Stream {
        Stream::over(Lab::over_cable(&["a", "b"], 9000, 1))
    }

    fn over(lab: Lab) -> Stream {
        random_file(&lab.path("disk.img"), DISK_BYTES, 1);
        let target = lab.export("a", "shelf 0 slot 1 disk.img");
        let place = format!("unix:{}", lab.path("disk.sock").display());
        lab.host("b").typed(&format!("aoe-attach --frame-life {FRAME_LIFE} e0.1 {place}")).run().succeeded();
        let uri = lab.nbd_uri("disk.sock");
        let fio =
            Load { blocks: 64, writes: 200, passes: 7, rate: 100, overlaps: true }.at(lab.host("b"), &uri).spawn();
        let stream = Stream { lab, target, uri, fio };
        stream.wait_for_writes();
        stream
    }

    /// Bytes written so far.
    fn written(&self) -> u64 {
        self.lab.stat("b")[0]["write_bytes"].as_u64().expect("a number of bytes")
    }

    /// Waits for more than small writes, which fit any frame.
    fn wait_for_writes(&self) {
        let before = self.written();
        wait_for("writes", || (self.written() > before + (1 << 20)).then_some(()));
    }

    fn set(&self, host: &str, what: &str) {
        self.lab.host(host).typed(&format!("ip link set eth0 {what}")).run().succeeded();
    }

    /// Makes a change that lets the stream go on, and sees to it that it does.
    fn goes_on_after(&mut self, host: &str, what: &str) {
        self.fio.assert_running();
        let began = Instant::now();
        self.set(host, what);
        self.wait_for_writes();
        println!("goes on {:?} after {host}'s {what}", began.elapsed());
        assert!(began.elapsed() < RESUMED, "it took {:?} after {host}'s {what}", began.elapsed());
    }

    /// Bytes of a frame in the mean, of both directions, in the next moment.
    fn mean_frame(&self) -> u64 {
        let count = || {
            let links = self.lab.host("b").typed("ip -s -j link show eth0").run().succeeded().json();
            ["bytes", "packets"].map(|what| {
                ["rx", "tx"].iter().map(|way| links[0]["stats64"][way][what].as_u64().expect("a counter")).sum::<u64>()
            })
        };
        let before = count();
        sleep(Duration::from_millis(700));
        let after = count();
        (after[0] - before[0]) / (after[1] - before[1]).max(1)
    }

    /// From now on a switch port on the way takes no longer frames than this. Both ends do, and hear nothing of it.
    fn narrow(&self, mtu: u32) {
        self.lab.switch().typed(&format!("ip link set port0 mtu {mtu}")).run().succeeded();
    }

    /// Data in the longest frame that passes, and what both ends take, in bytes.
    fn frame_bytes(&self) -> [u64; 2] {
        let stat = self.lab.stat("b");
        ["frame_bytes", "offered_bytes"].map(|name| stat[0]["paths"][0][name].as_u64().expect("a number of bytes"))
    }

    /// Sees to it that the stream goes on with frames of this length, and that it stays so.
    fn goes_on_with(&mut self, bytes: u64) {
        let began = Instant::now();
        wait_for("smaller frames", || (self.frame_bytes()[0] == bytes).then_some(()));
        self.wait_for_writes();
        println!("goes on {:?} after the way became narrow", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
        assert!(self.mean_frame() < bytes + 50);
        assert_eq!(self.frame_bytes(), [bytes, 8192]);
        let shown = self.lab.host("b").typed("aoe-stat").run().succeeded().stdout;
        assert!(shown.contains(&format!("{bytes} of 8192 bytes pass")), "{shown}");
    }

    fn down_for_a_while(&mut self, host: &str) {
        self.set(host, "down");
        // What was under way when it happened may still complete.
        sleep(Duration::from_millis(200));
        let before = self.written();
        sleep(Duration::from_secs(2));
        assert_eq!(self.written(), before, "nothing can be written");
        self.goes_on_after(host, "up");
    }

    fn ends_well(mut self) {
        assert!(self.fio.ends_within(PATIENCE), "fio hangs\n{}", self.fio.output());
        let Stream { lab, target, uri, fio } = self;
        fio.stop().succeeded();
        let stat = lab.stat("b");
        assert_eq!(stat[0]["errors"], 0, "{stat}");
        lab.host("b").command("nbdcopy").args([&uri, "out.img"]).run().succeeded();
        lab.host("b").typed("aoe-detach e0.1").run().succeeded();
        target.stop().succeeded();
        assert_same(&lab.path("disk.img"), &lab.path("out.img"));
    }
}

#[test]
fn net_interfaces_go_down_and_come_back_in_mid_stream() {
    let mut stream = Stream::new();
    for host in ["a", "b"] {
        stream.down_for_a_while(host);
    }
    stream.ends_well();
}

#[test]
fn net_interfaces_change_their_mtu_in_mid_stream() {
    let mut stream = Stream::new();
    for host in ["a", "b"] {
        stream.goes_on_after(host, "mtu 1500");
        assert!(stream.mean_frame() < 1514);
        stream.goes_on_after(host, "mtu 9000");
        assert!(stream.mean_frame() > 1514, "jumbo frames are used again");
    }
    stream.ends_well();
}

#[test]
fn net_interfaces_on_the_way_take_smaller_frames_from_mid_stream_on() {
    let mut stream = Stream::over(Lab::switched(&["a", "b"], 9000));
    assert_eq!(stream.frame_bytes(), [8192, 8192]);
    stream.narrow(4200);
    stream.goes_on_with(4096);
    stream.narrow(1500);
    stream.goes_on_with(1024);
    stream.ends_well();
}

#[test]
fn net_interfaces_on_the_way_take_smaller_frames_from_the_start() {
    let lab = Lab::switched(&["a", "b"], 9000);
    lab.switch().typed("ip link set port0 mtu 1500").run().succeeded();
    let mut stream = Stream::over(lab);
    stream.goes_on_with(1024);
    stream.ends_well();
}

/// As a VLAN's interface does, which not every kernel has: with the address of the one below.
#[test]
fn net_interfaces_on_top_keep_their_answers() {
    let lab = Lab::pair(1500);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let _target = lab.export("a", "shelf 0 slot 1 disk.img");
    let found = || {
        let found = lab.host("b").typed("aoe-discover --json").run().succeeded().json();
        let disks = found.as_array().expect("a list").iter();
        let paths = disks.flat_map(|disk| disk["paths"].as_array().expect("a list"));
        paths.map(|path| path["interface"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(found(), ["eth0"]);
    lab.host("b").typed("ip link add link eth0 name top type macvlan mode passthru").run().succeeded();
    lab.host("b").typed("ip link set top up").run().succeeded();
    assert_eq!(found(), ["top"], "all answers are for its address");
}
