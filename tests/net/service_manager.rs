//! What a service manager hears of a target that it has started.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use aoe_tests::net::image::random_file;
use aoe_tests::net::{Lab, PATIENCE};

/// The socket that sd_notify(3) writes to.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    /// Waits for a message with this line, and returns all messages up to it.
    fn hears(&self, line: &str) -> Vec<String> {
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
    let manager = Manager { socket: UnixDatagram::bind(&path).unwrap() };
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
