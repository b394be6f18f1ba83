//! A target whose exports change while it serves: by `aoe-target ctl`, by its socket, by its configuration file.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use aoe_common::addr::Address;
use aoe_common::ata::{Status, command};
use aoe_common::frame::SECTOR;
use aoe_common::wire::{AtaFlags, Command, Frame, MacAddr};
use aoe_tests::net::image::{assert_same, random_file};
use aoe_tests::net::peer::{Wire, ata, field, request};
use aoe_tests::net::{Daemon, Finished, Lab, PATIENCE, wait_for};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long an answer may take that is to come, and how long one is waited for that is not.
const ANSWER: Duration = Duration::from_millis(1500);
const SILENCE: Duration = Duration::from_millis(300);

const OK: u8 = Status::DRDY.bits();

/// A tag of a client that sends again under the same one.
const KEPT: u32 = 1 << 31;

/// A target on `a` that serves by a file.
struct Served {
    lab: Lab,
    target: Daemon,
}

impl Served {
    fn new(file: &str) -> Served {
        let lab = Lab::pair(9000);
        for disk in ["one.img", "two.img", "three.img"] {
            random_file(&lab.path(disk), 1 << 20, 1);
        }
        fs::write(lab.path("target.toml"), file).unwrap();
        let target = start(&lab);
        Served { lab, target }
    }

    fn write_file(&self, text: &str) {
        fs::write(self.lab.path("target.toml"), text).unwrap();
    }

    fn hang_up(&self) {
        kill(Pid::from_raw(self.target.id() as i32), Signal::SIGHUP).unwrap();
    }

    /// Types `aoe-target ctl ...` on the target's host.
    fn ctl(&self, words: &str) -> Finished {
        self.lab.host("a").typed(&format!("aoe-target ctl --control control.sock {words}")).run()
    }

    fn done(&self, words: &str) -> String {
        self.ctl(words).succeeded().stdout
    }

    fn refused(&self, words: &str) -> String {
        let Finished { stderr, .. } = self.ctl(words).exited(1);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        stderr
    }

    /// What status says of an export.
    fn export(&self, device: &str) -> Value {
        let status = self.ctl("status --json").succeeded().json();
        let exports = status["exports"].as_array().unwrap();
        exports.iter().find(|export| export["device"] == device).cloned().unwrap_or_default()
    }

    fn first_byte(&self, disk: &str) -> u8 {
        fs::read(self.lab.path(disk)).unwrap()[0]
    }
}

fn start(lab: &Lab) -> Daemon {
    let serve = "aoe-target serve --config target.toml --control control.sock";
    lab.host("a").typed(serve).spawn_ready(|line| line.starts_with("serving"))
}

fn file_of(exports: &[(u8, &str, &str)]) -> String {
    let export = |(slot, disk, more): &(u8, &str, &str)| {
        format!("[[export]]\nshelf = 0\nslot = {slot}\npath = \"{disk}\"\n{more}\n")
    };
    exports.iter().map(export).collect()
}

/// A client that sends what it likes.
struct Client {
    wire: Wire,
    target: MacAddr,
    tag: u32,
}

impl Client {
    fn new(lab: &Lab) -> Self {
        Self { wire: Wire::open(lab.host("b")), target: lab.mac("a").parse().unwrap(), tag: KEPT }
    }

    /// AoE error and ATA status of the answer to a request, and the first byte of its data.
    fn ask(&mut self, device: &str, body: &[u8], tag: u32, patience: Duration) -> Option<(u8, u8, u8)> {
        let device: Address = device.parse().unwrap();
        let frame = request(self.wire.mac(), self.target, device, Command::Ata, tag, body);
        self.wire.send(std::slice::from_ref(&frame));
        let began = Instant::now();
        while let Some(answer) = self.wire.receive(patience.saturating_sub(began.elapsed())) {
            let parsed = Frame::parse(&answer).expect("an AoE frame");
            if parsed.header.response && answer[field::TAG] == frame[field::TAG] {
                let data = answer.get(field::DATA).copied().unwrap_or_default();
                return Some((answer[field::ERROR], answer[field::ATA_STATUS], data));
            }
        }
        None
    }

    fn next_tag(&mut self) -> u32 {
        self.tag += 1;
        self.tag
    }

    fn read(&mut self, device: &str, patience: Duration) -> Option<(u8, u8, u8)> {
        let tag = self.next_tag();
        self.ask(device, &ata(AtaFlags::EXTENDED, command::READ_SECTORS_EXT, 0, 0, 1, &[]), tag, patience)
    }

    fn write_as(&mut self, tag: u32, device: &str, byte: u8) -> Option<(u8, u8)> {
        let flags = AtaFlags::EXTENDED | AtaFlags::WRITE;
        let body = ata(flags, command::WRITE_SECTORS_EXT, 0, 0, 1, &[byte; SECTOR]);
        self.ask(device, &body, tag, ANSWER).map(|(error, status, _)| (error, status))
    }

    fn write(&mut self, device: &str, byte: u8) -> Option<(u8, u8)> {
        let tag = self.next_tag();
        self.write_as(tag, device, byte)
    }
}

#[test]
fn net_control_adds_and_removes_exports() {
    let served = Served::new(&file_of(&[(1, "one.img", "")]));
    let mut client = Client::new(&served.lab);
    assert_eq!(client.read("e0.3", SILENCE), None);
    let said = served.done("add shelf 0 slot 3 three.img --cache writeback --buffers 32");
    assert!(said.starts_with("serving e0.3") && said.contains("three.img"), "{said}");
    assert_eq!(served.export("e0.3")["buffers"], 32);
    let found = served.lab.host("b").typed("aoe-discover").run().succeeded().stdout;
    assert!(found.contains("e0.1") && found.contains("e0.3"), "{found}");
    let uri = served.lab.attach("b", "e0.3", "disk.sock");
    served.lab.host("b").command("nbdcopy").args([&uri, "out.img"]).run().succeeded();
    assert_same(&served.lab.path("out.img"), &served.lab.path("three.img"));
    served.lab.host("b").typed("aoe-detach e0.3").run().succeeded();

    for (words, why) in [
        ("add shelf 0 slot 3 two.img", "e0.3 is served already"),
        ("add shelf 0 slot 4 three.img", "is exported as e0.3 and as e0.4, and both could write"),
        ("add shelf 0 slot 4 four.img", "no such file"),
        ("remove e0.9", "e0.9 is not served here"),
        ("set e0.9 --cache auto", "e0.9 is not served here"),
        ("reservation e0.9 --release", "e0.9 is not served here"),
        ("clear-error e0.9", "e0.9 is not served here"),
        ("resize e0.3 --to 1000000", "is outside of its 2048 sectors"),
    ] {
        let said = served.refused(words);
        assert!(said.contains(why), "{words}: {said}");
    }

    // A copy of a write from before a removal does not undo a newer one, and the file is free in between.
    let (old, new) = (client.next_tag(), client.next_tag());
    assert_eq!(client.write_as(old, "e0.3", 0x11), Some((0, OK)));
    assert_eq!(client.write_as(new, "e0.3", 0x22), Some((0, OK)));
    let said = served.done("remove e0.3");
    assert!(said.contains("e0.3 is served no longer") && said.contains("synced and closed"), "{said}");
    assert_eq!(client.read("e0.3", SILENCE), None);
    let file = File::options().write(true).open(served.lab.path("three.img")).unwrap();
    drop(Flock::lock(file, FlockArg::LockExclusiveNonblock).expect("the file is not locked any more"));
    served.done("add shelf 0 slot 3 three.img");
    assert_eq!(client.write_as(old, "e0.3", 0x11), Some((0, OK)), "answered again");
    assert_eq!(served.first_byte("three.img"), 0x22, "and not run again");
    assert_eq!(client.write("e0.3", 0x33), Some((0, OK)));
    assert_eq!(served.first_byte("three.img"), 0x33);
    served.target.stop().succeeded();
}

#[test]
fn net_control_changes_settings_and_lists() {
    let served = Served::new(&file_of(&[(1, "one.img", ""), (2, "two.img", "read-only = true")]));
    let mut client = Client::new(&served.lab);
    let me = served.lab.mac("b").to_owned();
    let other = "02:00:00:00:00:77";
    assert_eq!(client.write("e0.1", 0x11), Some((0, OK)));

    served.done("set e0.1 --read-only yes --cache writeback");
    assert_ne!(client.write("e0.1", 0x22).unwrap().1, OK, "writes are refused");
    assert_eq!(client.read("e0.1", ANSWER).unwrap().2, 0x11);
    let said = served.done("set e0.1 --read-only no");
    assert!(said.contains("read-only no (was yes)"), "{said}");
    assert_eq!(client.write("e0.1", 0x22), Some((0, OK)));
    // Its file was opened for reading; and what was drained is so afterwards.
    served.done("drain e0.2");
    let said = served.done("set e0.2 --read-only no");
    assert!(said.contains("taken off and on again"), "{said}");
    assert_eq!(served.export("e0.2")["draining"], true);
    assert_eq!(client.read("e0.2", SILENCE), None);
    served.done("undrain e0.2");
    assert_eq!(client.write("e0.2", 0x22), Some((0, OK)));

    served.done(&format!("set e0.1 --allow {other}"));
    assert_eq!(client.read("e0.1", SILENCE), None);
    served.done(&format!("set e0.1 --allow {other},{me}"));
    assert_eq!(client.read("e0.1", ANSWER).unwrap().1, OK);
    served.done("set e0.1 --allow all");

    served.done(&format!("mask e0.1 --set {other}"));
    assert_eq!(client.read("e0.1", SILENCE), None);
    assert_eq!(served.done(&format!("mask e0.1 --add {me}")), format!("{other}\n{me}\n"));
    assert_eq!(client.read("e0.1", ANSWER).unwrap().1, OK);
    assert_eq!(served.done(&format!("mask e0.1 --delete {other}")), format!("{me}\n"));
    served.done(&format!("reservation e0.1 --set {other}"));
    assert_eq!(client.read("e0.1", ANSWER).unwrap().0, 6, "somebody else has reserved it");
    assert_eq!(served.done("reservation e0.1 --release"), "nobody has reserved it\n");
    assert_eq!(client.read("e0.1", ANSWER).unwrap().1, OK);
    assert_eq!(served.done("config-string e0.1 --set boot"), "boot\n");
    let said = served.done("clear-error e0.1");
    assert!(said.contains("no error to clear"), "{said}");

    served.done("drain e0.1");
    assert_eq!(client.read("e0.1", SILENCE), None);
    assert_eq!(client.read("e0.2", ANSWER).unwrap().1, OK);
    assert_eq!(served.export("e0.1")["draining"], true);
    served.done("undrain e0.1");
    assert_eq!(client.read("e0.1", ANSWER).unwrap().1, OK);

    File::options().write(true).open(served.lab.path("one.img")).and_then(|file| file.set_len(2 << 20)).unwrap();
    assert_eq!(served.done("resize e0.1"), "e0.1 has 4096 sectors\n");
    assert_eq!(served.done("resize e0.1 --to 1000"), "e0.1 has 1000 sectors\n");
    assert_eq!(served.done("resize e0.1 --all"), "e0.1 has 4096 sectors\n");
    let status = served.export("e0.1");
    assert_eq!((&status["size_bytes"], &status["cache"]), (&json!(2 << 20), &json!("writeback")));
    let stations = status["stations"].as_array().unwrap();
    assert_eq!((&stations[0]["mac"], &stations[0]["writes"]), (&json!(me), &json!(2)));
    assert_eq!(stations[0]["write_bytes"], 2 * SECTOR);
    assert!(
        status["write_latency"]["buckets"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>() >= 2
    );
    let table = served.done("status");
    assert!(table.contains("e0.1") && table.contains("eth0") && table.contains("read-write"), "{table}");
    assert!(served.done("status e0.1").contains(&me));

    // What was edited outlives the process, and what was set does not.
    let Served { lab, target } = served;
    target.stop().succeeded();
    let served = Served { target: start(&lab), lab };
    let status = served.export("e0.1");
    assert_eq!((&status["mask"], &status["config_string"]), (&json!([me]), &json!("boot")));
    assert_eq!(status["cache"], "auto");
    served.target.stop().succeeded();
}

#[test]
fn net_control_by_hand_and_against_odd_clients() {
    let served = Served::new(&file_of(&[(1, "one.img", "")]));
    let by_hand = served.lab.host("a").command("sh").args([
        "-c",
        concat!(
            r#"printf '{"command":"status"}\n{"command":"config-string","device":"e0.1","set":"hello"}\n\n"#,
            r#"{"command":"mask","device":"e0.1"}\n{"command":"format"}\n' | socat -t 5 - UNIX-CONNECT:control.sock"#
        ),
    ]);
    let answers = by_hand.run().succeeded().stdout;
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 4, "{answers:?}");
    assert_eq!(answers[0]["ok"]["exports"][0]["device"], "e0.1");
    assert_eq!(answers[1]["ok"]["config-string"], "hello");
    assert_eq!(answers[2]["ok"]["mask"], json!([]));
    assert!(answers[3]["error"].as_str().unwrap().starts_with("no request: "), "{}", answers[3]);

    // Too long a line, a line that never ends, and clients that say nothing: others are served all the same.
    let socket = served.lab.path("control.sock");
    let mut long = UnixStream::connect(&socket).unwrap();
    long.write_all(&vec![b'x'; 70 << 10]).unwrap_or_default();
    let mut answer = String::new();
    let _ = BufReader::new(&long).read_line(&mut answer);
    assert!(answer.is_empty() || answer.contains("at most 65536 bytes"), "{answer}");
    let _silent: Vec<_> = (0..12).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    assert!(served.done("status").contains("e0.1"));

    let second = served.lab.host("a").typed("aoe-target serve --config target.toml --control control.sock").run();
    let said = second.exited(1).stderr;
    assert!(said.contains("another aoe-target listens there"), "{said}");
    served.target.stop().succeeded();
    let nobody = served.lab.host("a").typed("aoe-target ctl --control control.sock status").run().exited(1);
    assert!(nobody.stderr.contains("no target listens there"), "{}", nobody.stderr);
    served.lab.host("a").typed("aoe-target ctl remove").run().exited(2);
}

/// More exports than the files that a shell's programs may have open, unless they raise that limit themselves.
#[test]
fn net_control_of_exports_of_a_command_line() {
    const EXPORTS: usize = 100;
    let lab = Lab::pair(1500);
    let disks: String = (0..EXPORTS).map(|slot| format!(" shelf 3 slot {slot} {slot}.img")).collect();
    for slot in 0..=EXPORTS {
        File::create(lab.path(&format!("{slot}.img"))).and_then(|file| file.set_len(4096)).unwrap();
    }
    let line = format!("ulimit -Sn 64; exec aoe-target export --control control.sock{disks}");
    let target = lab.host("a").command("sh").args(["-c", &line]).spawn_ready(|line| line.starts_with("serving e3.99 "));
    let served = Served { lab, target };
    assert_eq!(served.done(&format!("add shelf 3 slot {EXPORTS} {EXPORTS}.img")).split(' ').nth(1), Some("e3.100"));
    let found = served.lab.host("b").typed("aoe-discover --json").run().succeeded().json();
    assert_eq!(found.as_array().unwrap().len(), EXPORTS + 1);
    let refused = served.refused("reload");
    assert!(refused.contains("there is no configuration file to read again"), "{refused}");
    served.done("remove e3.0");
    assert_eq!(served.ctl("status --json").succeeded().json()["exports"].as_array().unwrap().len(), EXPORTS);
    assert_eq!(served.ctl("status e3.0").exited(1).stdout, "");
    served.target.stop().succeeded();
    assert!(!served.lab.path("control.sock").exists());
}

#[test]
fn net_control_reload_applies_what_differs_and_nothing_of_a_bad_file() {
    let served = Served::new(&file_of(&[(1, "one.img", ""), (2, "two.img", "")]));
    let mut client = Client::new(&served.lab);
    assert_eq!(served.done("reload"), "nothing differs\n");
    served.write_file(&file_of(&[(1, "one.img", "cache = \"writeback\""), (3, "three.img", "")]));
    served.hang_up();
    wait_for("the reload", || (served.export("e0.3")["device"] == "e0.3").then_some(()));
    assert_eq!((served.export("e0.2"), &served.export("e0.1")["cache"]), (Value::Null, &json!("writeback")));
    assert_eq!(client.read("e0.3", ANSWER).unwrap().1, OK);
    assert_eq!(client.read("e0.2", SILENCE), None);

    for bad in ["[[export]\n", "colour = \"blue\"\n", &file_of(&[(1, "one.img", "cache = \"brown\"")])] {
        served.write_file(bad);
        let said = served.refused("reload");
        assert!(said.contains("nothing is changed") && said.contains("target.toml:"), "{said}");
    }
    assert_eq!((client.read("e0.1", ANSWER).unwrap().1, client.read("e0.3", ANSWER).unwrap().1), (OK, OK));

    // One change fails, the others are made; what ctl did is undone, and said to be.
    served.done("add shelf 0 slot 9 two.img");
    served.done("set e0.1 --buffers 100");
    let exports =
        [(1, "one.img", "cache = \"writeback\""), (3, "three.img", "serial = \"THREE\""), (4, "none.img", "")];
    served.write_file(&format!("threads = 2\n{}", file_of(&exports)));
    let report = served.ctl("reload").exited(1).stdout;
    for part in [
        "e0.9 is served no longer",
        "(ctl had made it so; the file says otherwise)",
        "e0.1: buffers 64 (was 100)",
        "e0.3: serial THREE (was the usual); it was taken off and on again",
        "failed: e0.4: ",
        "threads count from the next start on",
    ] {
        assert!(report.contains(part), "{part:?} is not in {report}");
    }
    assert_eq!(served.export("e0.3")["serial"], "THREE");
    // Two disks change places.
    served.write_file(&file_of(&[(1, "three.img", ""), (3, "one.img", "")]));
    served.done("reload");
    assert!(served.export("e0.1")["path"].as_str().unwrap().ends_with("three.img"));
    assert!(served.export("e0.3")["path"].as_str().unwrap().ends_with("one.img"));
    served.target.stop().succeeded();
}

#[test]
fn net_control_serves_on_with_a_damaged_state_file() {
    let served = Served::new(&file_of(&[(1, "one.img", ""), (2, "two.img", "")]));
    let other = "02:00:00:00:00:77";
    for device in ["e0.1", "e0.2"] {
        served.done(&format!("mask {device} --set {other}"));
    }
    let Served { lab, target } = served;
    target.stop().succeeded();
    let state = lab.path("state-a");
    fs::write(state.join("e0.1.toml"), "version = 1\nmask = [\"02:00:").unwrap();
    let served = Served { target: start(&lab), lab };
    assert!(state.join("e0.1.toml.damaged").exists());
    assert_eq!((&served.export("e0.1")["mask"], &served.export("e0.2")["mask"]), (&json!([]), &json!([other])));
    let report = served.target.stop().succeeded().output();
    assert!(report.contains("e0.1.toml.damaged") && report.contains("check the mask list"), "{report}");
}

// ---- The daemon under load -----------------------------------------------------------------------------------------

/// Exports at a time. Those of the first few have a load, and are never touched.
const EXPORTS: usize = 200;
const STREAMS: usize = 4;
/// Steps, each with a reload. Half of them remove an export and add another, a fifth resize one.
const STEPS: usize = 100;
/// Steps between two stretches in which nothing is changed.
const STRETCH: usize = 10;
/// The least that the streams keep of their speed. The goal is 0.95; single stretches differ by a fifth without any change, so
/// only what would be pauses is a failure.
const KEPT_SPEED: f64 = 0.8;

/// The socket of a target, as a program uses it that stays connected.
struct Socket(BufReader<UnixStream>);

impl Socket {
    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.0.get_mut(), "{request}").unwrap();
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(answer.get("ok").is_some(), "{request}: {answer}");
        answer["ok"].take()
    }

    /// What the streams have done so far, and when that was.
    fn work(&mut self) -> (Instant, u64) {
        let status = self.ask(&json!({ "command": "status" }));
        let exports = status["exports"].as_array().unwrap().iter().take(STREAMS);
        let work = exports.map(|export| export["reads"].as_u64().unwrap() + export["writes"].as_u64().unwrap());
        (Instant::now(), work.sum())
    }
}

fn speed((from, before): (Instant, u64), (to, after): (Instant, u64)) -> f64 {
    (after - before) as f64 / (to - from).as_secs_f64()
}

/// The number of an export: its shelf and slot.
fn address(number: usize) -> (usize, usize) {
    (number / 100, number % 100)
}

#[test]
fn net_control_streams_notice_nothing_of_changes_around_them() {
    let lab = Lab::pair(9000);
    for line in ["ip link add eth1 type veth peer name peer1", "ip link set peer1 up", "ip link set eth1 up"] {
        lab.host("a").typed(line).run().succeeded();
    }
    let disk = |number: usize| lab.path(&format!("disk-{number}.img"));
    for number in 0..EXPORTS + STEPS {
        let bytes = if number < STREAMS { 8 << 20 } else { 64 << 10 };
        File::create(disk(number)).and_then(|file| file.set_len(bytes)).unwrap();
    }
    let write_file = |numbers: &[usize]| {
        let mut text = "interfaces = [\"eth0\", \"eth1\"]\n[defaults]\ncache = \"writeback\"\n".to_owned();
        for number in numbers {
            let (shelf, slot) = address(*number);
            text += &format!("[[export]]\nshelf = {shelf}\nslot = {slot}\npath = \"disk-{number}.img\"\n");
        }
        fs::write(lab.path("target.toml"), text).unwrap();
    };
    let mut numbers: Vec<usize> = (0..EXPORTS).collect();
    write_file(&numbers);
    let target = start(&lab);
    let stream = UnixStream::connect(lab.path("control.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut socket = Socket(BufReader::new(stream));

    let mut streams = Vec::new();
    for number in 0..STREAMS {
        let uri = lab.attach("b", &format!("e0.{number}"), &format!("{number}.sock"));
        let fio = "fio --name=load --ioengine=nbd --rw=randrw --bs=4k --iodepth=4 --size=8M --norandommap=0 \
                   --verify=crc32c --verify_fatal=1 --verify_backlog=64 --time_based --runtime=55";
        streams.push(lab.host("b").typed(fio).arg(format!("--uri={uri}")).spawn());
    }
    wait_for("the streams", || (socket.work().1 > 10_000).then_some(()));

    let began = Instant::now();
    let (mut added, mut removed, mut resized) = (0, 0, 0);
    let mut ratios = Vec::new();
    for step in 0..STEPS {
        if step % STRETCH == 0 {
            let start = socket.work();
            std::thread::sleep(Duration::from_millis(900));
            ratios.push((speed(start, socket.work()), socket.work(), 0.0));
        }
        let mut changes = 0;
        if step % 2 == 0 {
            let gone = numbers.remove(STREAMS + step * 7 % (EXPORTS - STREAMS));
            let new = EXPORTS + step;
            numbers.push(new);
            if step % 4 == 0 {
                let ((shelf, slot), (gone_shelf, gone_slot)) = (address(new), address(gone));
                let export = json!({ "shelf": shelf, "slot": slot, "path": disk(new) });
                socket.ask(&json!({ "command": "remove", "device": format!("e{gone_shelf}.{gone_slot}") }));
                socket.ask(&json!({ "command": "add", "export": export }));
            } else {
                changes = 2;
            }
            write_file(&numbers);
            (added, removed) = (added + 1, removed + 1);
        }
        if step % 5 == 0 {
            let number = numbers[STREAMS + step];
            File::options().write(true).open(disk(number)).and_then(|file| file.set_len(128 << 10)).unwrap();
            let (shelf, slot) = address(number);
            let answer = socket.ask(&json!({ "command": "resize", "device": format!("e{shelf}.{slot}") }));
            assert!(answer["done"][0].as_str().unwrap().ends_with("256 sectors"), "{answer}");
            resized += 1;
        }
        let report = socket.ask(&json!({ "command": "reload" }));
        assert_eq!(
            (report["failed"].clone(), report["done"].as_array().unwrap().len()),
            (json!([]), changes),
            "{report}"
        );
        match step {
            30 => drop(lab.host("a").typed("ip link set eth1 down").run().succeeded()),
            60 => drop(lab.host("a").typed("ip link set eth1 up").run().succeeded()),
            _ => {}
        }
        // Four changes a second, which is more than people make.
        std::thread::sleep(Duration::from_millis(230));
        if step % STRETCH == STRETCH - 1 {
            let now = socket.work();
            let ratio = ratios.last_mut().unwrap();
            ratio.2 = speed(ratio.1, now);
        }
    }
    let took = began.elapsed();
    assert_eq!((added, removed, resized), (50, 50, 20));
    for stream in &mut streams {
        stream.assert_running();
    }
    let mut served = socket.ask(&json!({ "command": "status" }));
    assert_eq!(served["exports"].as_array().unwrap().len(), EXPORTS);
    let interfaces = served["interfaces"].take();
    assert!(interfaces.as_array().unwrap().iter().all(|interface| interface["up"] == true), "{interfaces}");
    for mut fio in streams {
        assert!(fio.ends_within(PATIENCE), "fio hangs\n{}", fio.output());
        fio.stop().succeeded();
    }
    for device in lab.stat("b").as_array().unwrap() {
        assert_eq!(device["errors"], 0, "{device}");
    }
    let mut kept: Vec<f64> = ratios.iter().map(|(quiet, _, busy)| busy / quiet).collect();
    kept.sort_by(f64::total_cmp);
    let median = (kept[kept.len() / 2] + kept[(kept.len() - 1) / 2]) / 2.0;
    println!("{STEPS} steps in {took:?}; the streams keep {median:.3} of their speed (of {kept:.2?})");
    let report = target.stop().succeeded().output();
    assert!(report.contains("eth1: the link is down"), "{report}");
    assert!(median >= KEPT_SPEED, "the streams keep {median:.3} of their speed: {ratios:.0?}");
}
