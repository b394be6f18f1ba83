//! What a service manager and its journal hear of a target.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use aoe_tests::net::image::random_file;
use aoe_tests::net::{Lab, PATIENCE};

/// The socket that sd_notify(3) writes to.
pub(crate) struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    /// Listens at a path.
    pub(crate) fn at(path: &Path) -> Manager {
        Manager { socket: UnixDatagram::bind(path).expect("a new socket") }
    }

    /// Waits until it has heard nothing for so long.
    pub(crate) fn hears_nothing_for(&self, silence: Duration) {
        self.socket.set_read_timeout(Some(silence)).unwrap();
        let until = Instant::now() + PATIENCE;
        while self.socket.recv(&mut [0; 4096]).is_ok() {
            assert!(Instant::now() < until, "there is always something to hear");
        }
    }

    /// Waits for a message with this line, and returns all messages up to it.
    pub(crate) fn hears(&self, line: &str) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {line:?} in {heard:?}");
            self.socket.set_read_timeout(Some(left)).unwrap();
            let mut bytes = [0; 4096];
            let Ok(length) = self.socket.recv(&mut bytes) else { continue };
            let message = String::from_utf8(bytes[..length].to_vec()).expect("text");
            heard.push(message);
            if heard.last().unwrap().lines().any(|one| one == line) {
                return heard;
            }
        }
    }
}

#[test]
fn net_service_manager_is_told_of_start_life_and_stop() {
    let lab = Lab::pair(9000);
    random_file(&lab.path("disk.img"), 1 << 20, 1);
    let path = lab.path("notify");
    let manager = Manager::at(&path);
    let watched = format!("NOTIFY_SOCKET={}", path.display());
    let command = |settings: &[&str]| {
        lab.host("a")
            .command("env")
            .args(settings)
            .args(["aoe-target", "export"])
            .args("shelf 0 slot 1 disk.img --threads 1".split(' '))
    };

    let target = command(&[&watched, "WATCHDOG_USEC=400000"]).spawn();
    manager.hears("READY=1");
    let began = Instant::now();
    for _ in 0..5 {
        manager.hears("WATCHDOG=1");
    }
    assert!(began.elapsed() >= Duration::from_millis(300), "five signs of life, 100 ms apart");
    lab.host("a").typed("ip link set eth0 down").run().succeeded();
    manager.hears("STATUS=1 export, no interface is up");
    lab.host("a").typed("ip link set eth0 up").run().succeeded();
    manager.hears("STATUS=serving 1 export on eth0");
    let stop = std::thread::spawn(move || target.stop().succeeded());
    manager.hears("STOPPING=1");
    stop.join().unwrap();

    // Without a wish for signs of life there are none.
    let target = command(&[&watched]).spawn();
    manager.hears("READY=1");
    std::thread::sleep(Duration::from_millis(300));
    let stop = std::thread::spawn(move || target.stop().succeeded());
    let heard = manager.hears("STOPPING=1");
    assert!(heard.iter().all(|message| !message.contains("WATCHDOG=1")), "{heard:?}");
    stop.join().unwrap();
}

/// A field as the journal's protocol has it: name, length, value.
fn field(name: &str, value: &str) -> Vec<u8> {
    [name.as_bytes(), b"\n", &(value.len() as u64).to_le_bytes(), value.as_bytes(), b"\n"].concat()
}

#[test]
fn net_service_manager_finds_lines_of_an_export_in_its_journal() {
    let lab = Lab::pair(9000);
    let disk = lab.path("disk.img");
    random_file(&disk, 1 << 20, 1);
    let journal = UnixDatagram::bind(lab.path("socket")).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    // The journal's place is always the same, so the target gets a /run of its own.
    let script = "mount -t tmpfs none /run && mkdir -p /run/systemd/journal && mount --bind . /run/systemd/journal && \
                  export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) && \
                  exec aoe-target export shelf 7 slot 3 disk.img";
    let target = lab.host("a").command("sh").args(["-c", script]).spawn_ready(|line| line.starts_with("serving e7.3"));
    std::fs::File::options().write(true).open(&disk).and_then(|file| file.set_len(2 << 20)).unwrap();
    let mut bytes = [0; 16 << 10];
    let line = loop {
        let length = journal.recv(&mut bytes).expect("a line in time");
        if String::from_utf8_lossy(&bytes[..length]).contains("has 4096 sectors now") {
            break &bytes[..length];
        }
    };
    for (name, value) in [("AOE_SHELF", "7"), ("AOE_SLOT", "3"), ("SYSLOG_IDENTIFIER", "aoe-target")] {
        let wanted = field(name, value);
        let plain = format!("{name}={value}\n").into_bytes();
        let has = |field: &[u8]| line.windows(field.len()).any(|part| part == field);
        assert!(has(&wanted) || has(&plain), "{name}: {}", String::from_utf8_lossy(line));
    }
    // What is in the journal is not on stderr, where it would come there a second time.
    let finished = target.stop().succeeded();
    assert_eq!(finished.stderr, "");
}
