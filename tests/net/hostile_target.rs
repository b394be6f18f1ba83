//! Targets that lie, fail, babble and vanish. The initiator's programs say so in plain words, stay alive, count what
//! they heard, and never pass wrong data on as right.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aoe_common::addr::Address;
use aoe_common::ata::Identify;
use aoe_common::frame::{MIN_FRAME, SECTOR};
use aoe_common::wire::{ConfigCommand, ConfigRepr, MacAddr};
use aoe_tests::net::image::{assert_same, random_file};
use aoe_tests::net::peer::{Question, ScriptedTarget, Wire, advert, config, field, identify};
use aoe_tests::net::{Finished, Lab, peak_memory, wait_for};
use serde_json::Value;

const DEVICE: Address = Address::new(0, 1);
const FAILED: i32 = 1;

/// Bytes on the scripted disks.
const DISK: usize = 256 << 10;
/// What fills the disks whose content is checked by pattern, and what lies are made of.
const TRUE_BYTE: u8 = 0xa5;
/// The first sector of the half that a target fails to serve.
const BAD_HALF: u64 = (DISK / SECTOR / 2) as u64;

/// The most resident memory of an initiator program, in bytes, whatever peers send it.
const MEMORY_MAX: u64 = 64 << 20;

/// Host `b` uses what a scripted target on `a` serves as e0.1.
struct Bench {
    lab: Lab,
}

impl Bench {
    fn new() -> Self {
        Self { lab: Lab::pair(1500) }
    }

    fn target(
        &self,
        disk: Vec<u8>,
        script: impl FnMut(Question, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static,
    ) -> ScriptedTarget {
        ScriptedTarget::start(self.lab.host("a"), DEVICE, disk, script)
    }

    /// A disk of random bytes, the same as in the file of this name.
    fn random_disk(&self, name: &str, seed: u64) -> Vec<u8> {
        random_file(&self.lab.path(name), DISK as u64, seed);
        fs::read(self.lab.path(name)).unwrap()
    }

    fn try_attach(&self, options: &str) -> Finished {
        let place = format!("unix:{}", self.lab.path("disk.sock").display());
        self.lab.host("b").typed(&format!("aoe-attach {options} e0.1 {place}")).run()
    }

    fn attach(&self, options: &str) {
        self.try_attach(options).succeeded();
    }

    fn detach(&self) {
        self.assert_calm();
        self.lab.host("b").typed("aoe-detach e0.1").run().succeeded();
    }

    fn nbdcopy(&self, from: &str, to: &str) -> Finished {
        self.lab.host("b").command("nbdcopy").args(["--flush", from, to]).run()
    }

    fn read_whole(&self, file: &str) -> Finished {
        let _ = fs::remove_file(self.lab.path(file));
        self.nbdcopy(&self.lab.nbd_uri("disk.sock"), file)
    }

    fn write_whole(&self, file: &str) -> Finished {
        self.nbdcopy(file, &self.lab.nbd_uri("disk.sock"))
    }

    fn qemu_io(&self, command: &str) -> Finished {
        let uri = self.lab.nbd_uri("disk.sock");
        self.lab.host("b").command("qemu-io").args(["-f", "raw", "-c", command, &uri]).run()
    }

    /// Reads bytes that have to be the true ones.
    fn read(&self, offset: u64, bytes: usize) -> Finished {
        let finished = self.qemu_io(&format!("read -P {TRUE_BYTE} {offset} {bytes}"));
        assert!(!finished.output().contains("Pattern verification failed"), "wrong data: {}", finished.output());
        finished
    }

    /// The attach as `aoe-stat` describes it.
    fn stat(&self) -> Value {
        let list = self.lab.stat("b");
        assert_eq!(list.as_array().map(Vec::len), Some(1), "one attach: {list}");
        list[0].clone()
    }

    fn count(&self, what: &str) -> u64 {
        self.stat()[what].as_u64().unwrap_or_else(|| panic!("aoe-stat counts no {what}"))
    }

    /// The attach is alive, has stayed small, and nothing that any program printed is for programmers.
    fn assert_calm(&self) {
        let process = self.count("pid") as u32;
        let memory = peak_memory(process);
        assert!(memory <= MEMORY_MAX, "the attach took {memory} bytes of memory");
        self.assert_no_panic();
    }

    fn assert_no_panic(&self) {
        no_panic_in(self.lab.folder());
    }
}

/// Reads what programs printed and logged.
fn no_panic_in(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            no_panic_in(&path);
        } else if path.extension().is_some_and(|kind| ["stdout", "stderr", "log", "old"].iter().any(|one| kind == *one))
        {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{}: {text}", path.display());
        }
    }
}

/// Nothing in a text does anything to a terminal but print.
fn assert_printable(text: &str) {
    let odd: Vec<char> = text.chars().filter(|char| char.is_control() && *char != '\n').collect();
    assert!(odd.is_empty(), "raw control characters {odd:?} in {text:?}");
}

/// One line for people, with these words in it.
fn assert_clear(finished: &Finished, words: &[&str]) {
    let shown = finished.output();
    assert_eq!(finished.stderr.lines().count(), 1, "{shown}");
    for word in words {
        assert!(finished.stderr.contains(word), "{word:?} is not in\n{shown}");
    }
}

fn right(answer: Vec<u8>) -> Vec<Vec<u8>> {
    vec![answer]
}

/// The same answer with other data in it.
fn falsified(mut answer: Vec<u8>) -> Vec<u8> {
    answer[field::DATA..].iter_mut().for_each(|byte| *byte = !*byte);
    answer
}

/// A false answer that is sent before the right one, how it is made, and whether `aoe-stat` counts it as a stray. What
/// is not counted is for others, or no answer at all.
type Lie = (&'static str, fn(Vec<u8>) -> Vec<u8>, bool);

const LIES: [Lie; 11] = [
    (
        // A tag that is not in use: tags count up, from where they are now.
        "wrong tag",
        |mut lie| {
            lie[field::TAG.start] ^= 0x40;
            lie
        },
        true,
    ),
    (
        "another MAC",
        |mut lie| {
            lie[field::SOURCE].copy_from_slice(&[2, 0, 0, 0xba, 0xd0, 1]);
            lie
        },
        true,
    ),
    (
        "a group MAC",
        |mut lie| {
            lie[field::SOURCE].copy_from_slice(&[3, 0, 0, 0xba, 0xd0, 1]);
            lie
        },
        false,
    ),
    (
        "another slot",
        |mut lie| {
            lie[field::SLOT] = 2;
            lie
        },
        false,
    ),
    (
        "another shelf",
        |mut lie| {
            lie[field::SHELF].copy_from_slice(&[0, 9]);
            lie
        },
        false,
    ),
    (
        "any address",
        |mut lie| {
            lie[field::SHELF].copy_from_slice(&[0xff, 0xff]);
            lie[field::SLOT] = 0xff;
            lie
        },
        false,
    ),
    (
        "no response flag",
        |mut lie| {
            lie[field::FLAGS] &= !0x08;
            lie
        },
        false,
    ),
    (
        "another command",
        |mut lie| {
            lie[field::COMMAND] = 0xf0;
            lie
        },
        false,
    ),
    (
        "for another station",
        |mut lie| {
            lie[..6].copy_from_slice(&[2, 0, 0, 0xba, 0xd0, 2]);
            lie
        },
        false,
    ),
    (
        "garbage",
        |mut lie| {
            lie[field::FLAGS..].fill(0xff);
            lie
        },
        false,
    ),
    (
        "cut behind the tag",
        |mut lie| {
            lie.truncate(field::TAG.end);
            lie
        },
        false,
    ),
];

#[test]
fn net_hostile_target_whose_lies_come_before_the_truth() {
    let bench = Bench::new();
    for (number, (name, lie, is_stray)) in LIES.into_iter().enumerate() {
        let disk = bench.random_disk("disk.img", number as u64);
        let new = bench.random_disk("new.img", 100 + number as u64);
        let told = Arc::new(AtomicU64::new(0));
        let tell = Arc::clone(&told);
        let target = bench.target(disk, move |question, truth| {
            if !question.is_data() {
                return right(truth);
            }
            tell.fetch_add(1, Ordering::Relaxed);
            vec![lie(falsified(truth.clone())), truth]
        });
        bench.attach("");
        let strays = bench.count("strays");
        bench.read_whole("read.img").succeeded();
        assert_same(&bench.lab.path("read.img"), &bench.lab.path("disk.img"));
        bench.write_whole("new.img").succeeded();

        let told = told.load(Ordering::Relaxed);
        assert!(told >= 2 * (DISK / SECTOR / 2) as u64, "{name}: only {told} lies");
        let stat = bench.stat();
        let expected = strays + if is_stray { told } else { 0 };
        // What was late and sent again is answered twice.
        let resends = stat["resends"].as_u64().expect("a counter");
        let counted = stat["strays"].as_u64().expect("a counter");
        assert!((expected..=expected + resends).contains(&counted), "{name}: {expected} {stat}");
        assert_eq!([&stat["bad_answers"], &stat["errors"]], [0, 0], "{name}: {stat}");
        bench.detach();
        assert!(target.stop() == new, "{name}: what was written is not on the disk");
    }
}

#[test]
fn net_hostile_target_that_says_everything_twice() {
    let bench = Bench::new();
    let disk = bench.random_disk("disk.img", 1);
    let new = bench.random_disk("new.img", 2);
    let target = bench.target(disk, |_, truth| vec![truth.clone(), truth]);
    bench.attach("");
    bench.read_whole("read.img").succeeded();
    assert_same(&bench.lab.path("read.img"), &bench.lab.path("disk.img"));
    bench.write_whole("new.img").succeeded();
    let stat = bench.stat();
    assert!(stat["strays"].as_u64().unwrap() >= 2 * (DISK / SECTOR / 2) as u64, "{stat}");
    assert_eq!([&stat["bad_answers"], &stat["errors"]], [0, 0], "{stat}");
    bench.detach();
    assert!(target.stop() == new, "what was written is not on the disk");
}

#[test]
fn net_hostile_target_whose_answers_are_cut_at_every_length() {
    let bench = Bench::new();
    random_file(&bench.lab.path("disk.img"), 4 * DISK as u64, 1);
    let disk = fs::read(bench.lab.path("disk.img")).unwrap();
    let bad = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&bad);
    // Two cut answers to a request leave it alive; a third would fail it. Those without all registers are no answers.
    const WITHOUT_ETHERNET: usize = 14;
    const WITHOUT_DATA: usize = field::DATA;
    let mut length = WITHOUT_ETHERNET;
    let _target = bench.target(disk, move |question, truth| {
        if !matches!(question, Question::Read(_)) || truth.len() != WITHOUT_DATA + 2 * SECTOR {
            return right(truth);
        }
        let truth_again = truth.clone();
        let mut cut = |bytes: usize| {
            let mut cut = falsified(truth.clone());
            cut.truncate(bytes);
            cut
        };
        let mut frames: Vec<_> = (WITHOUT_ETHERNET..WITHOUT_DATA).map(&mut cut).collect();
        for _ in 0..2 {
            length = (length + 1).max(WITHOUT_DATA);
            if length >= truth_again.len() {
                length = WITHOUT_DATA;
            }
            count.fetch_add(1, Ordering::Relaxed);
            frames.push(cut(length));
        }
        frames.push(truth_again);
        frames
    });
    bench.attach("");
    bench.read_whole("read.img").succeeded();
    assert_same(&bench.lab.path("read.img"), &bench.lab.path("disk.img"));
    let bad = bad.load(Ordering::Relaxed);
    assert!(bad >= (2 * SECTOR) as u64, "only {bad} lengths");
    let stat = bench.stat();
    assert_eq!(stat["bad_answers"], bad, "{stat}");
    assert_eq!(stat["errors"], 0, "{stat}");
    bench.detach();
}

/// What becomes of a right answer.
type Spoil = fn(Vec<u8>) -> Vec<Vec<u8>>;

/// A target that serves the first half of its disk and makes of the other half what `spoil` says; then it serves all.
fn spoilt_half(name: &str, words: &[&str], counted: &str, spoil: Spoil) {
    let bench = Bench::new();
    let is_spoilt = Arc::new(AtomicBool::new(true));
    let spoils = Arc::clone(&is_spoilt);
    let target = bench.target(vec![TRUE_BYTE; DISK], move |question, truth| match question {
        Question::Read(lba) | Question::Write(lba) if lba >= BAD_HALF && spoils.load(Ordering::Relaxed) => spoil(truth),
        _ => right(truth),
    });
    bench.attach("--dead-after 2");
    let half = BAD_HALF * SECTOR as u64;
    bench.read(0, DISK / 2).succeeded();
    let failed = bench.read(half, 4096);
    assert_ne!(failed.code, 0, "{name}: {}", failed.output());
    assert!(words.iter().any(|word| failed.output().contains(word)), "{name}: {}", failed.output());
    let before = bench.count(counted);
    assert!(before >= 1, "{name}: {}", bench.stat());
    assert!(bench.count("errors") >= 1, "{name}: {}", bench.stat());
    assert_eq!(bench.stat()["state"], "up", "{name}");
    bench.read(0, DISK / 2).succeeded();
    bench.assert_calm();

    is_spoilt.store(false, Ordering::Relaxed);
    bench.read(0, DISK).succeeded();
    bench.qemu_io(&format!("write -P {TRUE_BYTE} {half} 4096")).succeeded();
    bench.detach();
    assert!(target.stop() == vec![TRUE_BYTE; DISK]);
}

const IO_ERROR: &[&str] = &["Input/output error"];
const REFUSED: &[&str] = &["Operation not permitted"];

fn aoe_error(answer: Vec<u8>, code: u8) -> Vec<Vec<u8>> {
    let mut answer = falsified(answer);
    answer[field::FLAGS] |= 0x04;
    answer[field::ERROR] = code;
    right(answer)
}

fn ata_error(answer: Vec<u8>, status: u8, error: u8) -> Vec<Vec<u8>> {
    let mut answer = falsified(answer);
    answer[field::ATA_STATUS] = status;
    answer[field::ATA_ERROR] = error;
    right(answer)
}

fn cut(mut answer: Vec<u8>, bytes: usize) -> Vec<Vec<u8>> {
    answer.truncate(bytes);
    right(answer)
}

#[test]
fn net_hostile_target_that_answers_with_aoe_errors() {
    spoilt_half("error 1", IO_ERROR, "errors", |truth| aoe_error(truth, 1));
    spoilt_half("error 2", IO_ERROR, "errors", |truth| aoe_error(truth, 2));
    spoilt_half("error 3", IO_ERROR, "errors", |truth| aoe_error(truth, 3));
    spoilt_half("error 6", REFUSED, "errors", |truth| aoe_error(truth, 6));
    spoilt_half("error 0", IO_ERROR, "errors", |truth| aoe_error(truth, 0));
    spoilt_half("error 255", IO_ERROR, "errors", |truth| aoe_error(truth, 255));
}

#[test]
fn net_hostile_target_that_answers_with_ata_errors() {
    spoilt_half("IDNF", IO_ERROR, "errors", |truth| ata_error(truth, 0x41, 0x10));
    spoilt_half("UNC", IO_ERROR, "errors", |truth| ata_error(truth, 0x41, 0x40));
    spoilt_half("ABRT", REFUSED, "errors", |truth| ata_error(truth, 0x41, 0x04));
    spoilt_half("DF", IO_ERROR, "errors", |truth| ata_error(truth, 0x61, 0x04));
    spoilt_half("busy", IO_ERROR, "errors", |truth| ata_error(truth, 0x80, 0));
}

#[test]
fn net_hostile_target_that_sends_less_than_was_asked() {
    spoilt_half("no data", IO_ERROR, "bad_answers", |truth| cut(truth, MIN_FRAME));
    spoilt_half("one sector of two", IO_ERROR, "bad_answers", |truth| cut(truth, field::DATA + SECTOR));
    spoilt_half("one byte less", IO_ERROR, "bad_answers", |truth| {
        let bytes = truth.len() - 1;
        cut(truth, bytes)
    });
}

#[test]
fn net_hostile_target_that_answers_some_requests_never() {
    // The target lives, so its disk is not dead; but nobody waits for ever.
    spoilt_half("silence", IO_ERROR, "resends", |_| Vec::new());
}

#[test]
fn net_hostile_target_whose_disk_is_smaller_than_it_says() {
    let bench = Bench::new();
    let _target = bench.target(vec![TRUE_BYTE; DISK], |question, mut answer| {
        if question == Question::Identify {
            answer[field::DATA..].copy_from_slice(&identify(2 * (DISK / SECTOR) as u64).emit());
        }
        right(answer)
    });
    bench.attach("");
    assert_eq!(bench.count("size_bytes"), 2 * DISK as u64);
    bench.read(0, DISK).succeeded();
    let beyond = bench.read(DISK as u64, 4096);
    assert_ne!(beyond.code, 0, "{}", beyond.output());
    assert!(beyond.output().contains("Input/output error"), "{}", beyond.output());
    assert_ne!(bench.read_whole("read.img").code, 0);
    assert!(bench.count("errors") >= 2, "{}", bench.stat());
    bench.read(0, DISK).succeeded();
    bench.detach();
}

/// IDENTIFY answers that nobody can use.
const UNUSABLE: [(&str, Spoil); 10] = [
    ("wrong checksum", |mut answer| {
        answer[field::DATA + 100] ^= 1;
        right(answer)
    }),
    ("no sectors", |answer| describe(answer, Identify { sectors: 0, ..identify(1) })),
    ("too many sectors", |answer| describe(answer, Identify { sectors: u64::MAX, ..identify(1) })),
    ("one byte less", |answer| cut(answer, field::DATA + SECTOR - 1)),
    ("no data", |answer| cut(answer, MIN_FRAME)),
    ("an ATA error", |mut answer| {
        answer[field::ATA_STATUS] = 0x41;
        right(answer)
    }),
    ("an AoE error", |mut answer| {
        answer[field::FLAGS] |= 0x04;
        answer[field::ERROR] = 3;
        right(answer)
    }),
    ("all ones", |mut answer| {
        answer[field::DATA..].fill(0xff);
        right(answer)
    }),
    ("all zeros", |mut answer| {
        answer[field::DATA..].fill(0);
        right(answer)
    }),
    ("silence", |_| Vec::new()),
];

fn describe(mut answer: Vec<u8>, disk: Identify) -> Vec<Vec<u8>> {
    answer[field::DATA..].copy_from_slice(&disk.emit());
    right(answer)
}

#[test]
fn net_hostile_target_that_does_not_say_what_its_disk_is() {
    let bench = Bench::new();
    for (name, spoil) in UNUSABLE {
        let _target = bench.target(vec![TRUE_BYTE; DISK], move |question, answer| match question {
            Question::Identify => spoil(answer),
            _ => right(answer),
        });
        let found = bench.lab.host("b").typed("aoe-discover --json").run().succeeded().json();
        assert_eq!(found.as_array().map(Vec::len), Some(1), "{name}: {found}");
        assert_eq!([&found[0]["device"], &found[0]["size_bytes"]], [&Value::from("e0.1"), &Value::Null], "{name}");

        let refused = bench.try_attach("--wait 1").exited(FAILED);
        assert_clear(&refused, &["e0.1", bench.lab.mac("a")]);
        assert!(!bench.lab.path("disk.sock").exists(), "{name}: a failed attach left its socket");
        assert_eq!(bench.lab.stat("b").as_array().map(Vec::len), Some(0), "{name}");
        bench.assert_no_panic();
    }
}

#[test]
fn net_hostile_target_that_says_odd_things_of_itself() {
    let bench = Bench::new();
    for (buffer_count, sector_count) in [(0, 2), (1, 2), (65535, 2), (16, 0), (16, 255), (16, 1), (65535, 255), (0, 0)]
    {
        let disk = bench.random_disk("disk.img", 1);
        let new = bench.random_disk("new.img", 2);
        let target = bench.target(disk, move |question, mut answer| {
            if question == Question::Config {
                let mut repr = ConfigRepr::answer(buffer_count, 0, sector_count, ConfigCommand::Read, b"");
                repr.version = 0;
                answer.splice(field::TAG.end.., config(&repr));
                answer.resize(MIN_FRAME, 0);
            }
            right(answer)
        });
        bench.attach("");
        bench.read_whole("read.img").succeeded();
        assert_same(&bench.lab.path("read.img"), &bench.lab.path("disk.img"));
        bench.write_whole("new.img").succeeded();
        let stat = bench.stat();
        let window = stat["paths"][0]["window"].as_u64().unwrap();
        assert!((1..=256).contains(&window), "{stat}");
        assert_eq!([&stat["errors"], &stat["bad_answers"]], [0, 0], "{stat}");
        bench.detach();
        assert!(target.stop() == new, "what was written is not on the disk");
    }
}

#[test]
fn net_hostile_target_that_plays_with_the_terminal() {
    let bench = Bench::new();
    let string: Vec<u8> =
        b"\x1b]0;owned\x07\x1b[2J\r\n\t\x00\x7f\x9b\xc2\x9b".iter().copied().cycle().take(1024).collect();
    let _target = bench.target(vec![TRUE_BYTE; DISK], move |question, mut answer| {
        match question {
            Question::Config => {
                let repr = ConfigRepr::answer(16, 0, 2, ConfigCommand::Read, &string);
                answer.splice(field::TAG.end.., config(&repr));
            }
            Question::Identify => {
                // Serial number, firmware and model of the disk.
                let data = &mut answer[field::DATA..];
                for text in [20..40, 46..54, 54..94] {
                    data[text].iter_mut().zip(b"\x1b[2J\x9b\r\n\x07".iter().cycle()).for_each(|(to, from)| *to = *from);
                }
                data[511] = data[..511].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
            }
            _ => {}
        }
        right(answer)
    });
    let table = bench.lab.host("b").typed("aoe-discover").run().succeeded();
    assert!(table.stdout.contains("e0.1") && table.stdout.contains("256.0 KiB"), "{}", table.output());
    assert!(table.stdout.contains("\\x1b[2J"), "the string is shown, escaped: {}", table.output());
    let json = bench.lab.host("b").typed("aoe-discover --json").run().succeeded();
    assert_eq!(json.json()[0]["size_bytes"], DISK as u64);
    let attached = bench.try_attach("").succeeded();
    let stat = bench.lab.host("b").typed("aoe-stat").run().succeeded();
    for finished in [&table, &json, &attached, &stat] {
        assert_printable(&finished.stdout);
        assert_printable(&finished.stderr);
    }
    bench.read(0, DISK).succeeded();
    bench.detach();
}

#[test]
fn net_hostile_target_that_plays_twenty_thousand_devices() {
    const FAKES: usize = 20_000;
    let bench = Bench::new();
    let _target = bench.target(vec![TRUE_BYTE; DISK], |_, answer| right(answer));
    let mut wire = Wire::open(bench.lab.host("a"));
    let string = [0x1b; 1024];
    let fakes: Vec<Vec<u8>> = (0..FAKES)
        .map(|number| {
            let mac = MacAddr(2, 0xba, 0xd0, 0, (number >> 8) as u8, number as u8);
            advert(mac, Address::new(1 + (number >> 7) as u16, (number & 0x7f) as u8), &string)
        })
        .collect();
    for json in ["", "--json"] {
        let began = Instant::now();
        // Memory that a program asks for beyond this it does not get, and would end by it.
        let command = format!("prlimit --data=134217728 aoe-discover {json} --timeout 2");
        let discover = bench.lab.host("b").typed(&command);
        let found = std::thread::scope(|scope| {
            let running = scope.spawn(|| discover.run());
            while !running.is_finished() {
                // At a rate that a program which looks at every frame can follow.
                for some in fakes.chunks(100) {
                    wire.send(some);
                    std::thread::sleep(Duration::from_millis(2));
                    if running.is_finished() {
                        break;
                    }
                }
            }
            running.join().unwrap().succeeded()
        });
        assert!(began.elapsed() < Duration::from_secs(10), "discovery took {:?}", began.elapsed());
        assert_printable(&found.stdout);
        let shown = if json.is_empty() {
            found.stdout.lines().count() - 1
        } else {
            found.json().as_array().map_or(0, Vec::len)
        };
        assert!((1000..=4096).contains(&shown), "{shown} devices in {:?}", began.elapsed());
    }
    bench.assert_no_panic();
}

#[test]
fn net_hostile_target_with_a_thousand_colleagues_of_its_name() {
    let bench = Bench::new();
    let disk = bench.random_disk("disk.img", 1);
    let new = bench.random_disk("new.img", 2);
    let target = bench.target(disk, |_, answer| right(answer));
    bench.attach("");
    let mut wire = Wire::open(bench.lab.host("a"));
    for some in 0..100u8 {
        let macs = (0..=u8::MAX).map(|number| MacAddr(2, 0xba, 0xd0, 0, some, number));
        let colleagues: Vec<_> = macs.map(|mac| advert(mac, DEVICE, b"me too")).collect();
        wire.send(&colleagues);
        if some % 25 == 0 {
            bench.read_whole("read.img").succeeded();
            assert_same(&bench.lab.path("read.img"), &bench.lab.path("disk.img"));
        }
    }
    bench.write_whole("new.img").succeeded();
    let stat = bench.stat();
    assert!(stat["paths"].as_array().unwrap().len() <= 16, "{stat}");
    assert_eq!([&stat["errors"], &stat["state"]], [&Value::from(0), &Value::from("up")], "{stat}");
    bench.detach();
    assert!(target.stop() == new, "what was written is not on the disk");
}

#[test]
fn net_hostile_target_that_vanishes_and_returns() {
    let bench = Bench::new();
    let is_gone = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&is_gone);
    let _target =
        bench.target(
            vec![TRUE_BYTE; DISK],
            move |_, answer| {
                if gone.load(Ordering::Relaxed) { Vec::new() } else { right(answer) }
            },
        );
    bench.attach("--dead-after 1");
    bench.read(0, DISK).succeeded();

    for _ in 0..2 {
        is_gone.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let failed = bench.read(0, 4096);
        assert_ne!(failed.code, 0, "{}", failed.output());
        assert!(began.elapsed() < Duration::from_secs(20), "the error took {:?}", began.elapsed());
        assert_eq!(bench.stat()["state"], "dead");
        assert!(bench.count("errors") >= 1);
        // Once it is known, nobody waits again. The first to ask opens the device, which asks several times.
        let began = Instant::now();
        assert_ne!(bench.read(0, 4096).code, 0);
        assert!(began.elapsed() < Duration::from_secs(1), "a dead disk kept its user for {:?}", began.elapsed());
        bench.assert_calm();

        is_gone.store(false, Ordering::Relaxed);
        wait_for("the disk to return", || (bench.stat()["state"] == "up").then_some(()));
        bench.read(0, DISK).succeeded();
    }
    bench.detach();
}

#[test]
fn net_hostile_target_that_turns_into_another() {
    let bench = Bench::new();
    let is_other = Arc::new(AtomicBool::new(false));
    let other = Arc::clone(&is_other);
    let _target = bench.target(vec![TRUE_BYTE; DISK], move |question, mut answer| {
        if other.load(Ordering::Relaxed) {
            match question {
                Question::Identify => {
                    let sectors = (DISK / SECTOR) as u64;
                    return describe(answer, Identify { serial: "ANOTHER".into(), ..identify(sectors) });
                }
                Question::Read(_) => answer = falsified(answer),
                _ => {}
            }
        }
        right(answer)
    });
    bench.attach("--dead-after 1");
    bench.read(0, DISK).succeeded();

    // An unasked advert makes the initiator ask again what is there.
    is_other.store(true, Ordering::Relaxed);
    let mut wire = Wire::open(bench.lab.host("a"));
    let mac = wire.mac();
    wire.send(&[advert(mac, DEVICE, b"")]);
    wait_for("the other disk to be noticed", || (bench.stat()["paths"][0]["state"] == "foreign").then_some(()));
    let failed = bench.read(0, 4096);
    assert_ne!(failed.code, 0, "{}", failed.output());
    bench.assert_calm();

    is_other.store(false, Ordering::Relaxed);
    wire.send(&[advert(mac, DEVICE, b"")]);
    wait_for("the disk to return", || (bench.stat()["state"] == "up").then_some(()));
    bench.read(0, DISK).succeeded();
    bench.detach();
}
