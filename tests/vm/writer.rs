//! Someone who saves one small file after the other: what users notice of a fault, and what they must not lose.

use std::thread::sleep;
use std::time::{Duration, Instant};

use aoe_tests::vm::{Guest, Job};

/// How long a file may take while nothing is broken, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes files 1, 2, 3 and so on to a folder of a guest. Each is durable (fsync) before the next is begun.
pub struct Writer<'guest> {
    guest: &'guest Guest<'guest>,
    folder: &'static str,
    job: Job<'guest>,
}

/// What a writer has seen.
pub struct Written {
    /// The longest time that one file took.
    pub pause: Duration,
    /// Checksums for `sha256sum -c` in the folder.
    pub sums: String,
}

impl<'guest> Writer<'guest> {
    /// Starts it, and waits for its first files.
    pub fn start(guest: &'guest Guest<'guest>, folder: &'static str) -> Writer<'guest> {
        let script = format!(
            "mkdir {folder}
            : >/tmp/sums
            while [ ! -e /tmp/enough ]; do
                n=$((n + 1))
                head -c 20011 /dev/urandom >/tmp/next
                cp /tmp/next {folder}/$n
                sync {folder}/$n
                sum=$(sha256sum </tmp/next)
                echo \"${{sum%-}}$n\" >>/tmp/sums
                read -r now _ </proc/uptime
                echo $now
            done"
        );
        guest.run("rm -f /tmp/enough");
        let writer = Writer { guest, folder, job: guest.start(&script) };
        writer.go_on();
        writer
    }

    /// Waits until it has written a few more files.
    pub fn go_on(&self) {
        let (enough, began) = (self.count() + 5, Instant::now());
        while self.count() < enough {
            assert!(self.job.is_running(), "the writer has ended after {} files", self.count());
            assert!(began.elapsed() < PATIENCE, "the writer of {} is stuck", self.folder);
            sleep(Duration::from_millis(250));
        }
    }

    /// Ends it; panics when a file could not be written.
    pub fn stop(self) -> Written {
        self.guest.run("touch /tmp/enough");
        let output = self.job.finish(PATIENCE);
        let times: Vec<f64> = output.lines().map(|line| line.parse().expect("seconds since the boot")).collect();
        let pause = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        let sums = self.guest.run("cat /tmp/sums");
        assert_eq!(sums.lines().count(), times.len(), "a sum for each file");
        println!("{} files written to {}, the slowest in {pause:.1} s", times.len(), self.folder);
        Written { pause: Duration::from_secs_f64(pause), sums }
    }

    fn count(&self) -> usize {
        let lines = self.guest.run("wc -l </tmp/sums 2>/dev/null || echo 0");
        lines.trim().parse().expect("a number of lines")
    }
}

impl Written {
    /// Panics unless all files are in this folder as they were written.
    pub fn check(&self, guest: &Guest<'_>, folder: &str) {
        // Not shown, as it is long.
        let sums = &self.sums;
        assert!(guest.succeeds(&format!("cat >/tmp/written <<'END_OF_SUMS'\n{sums}END_OF_SUMS")), "{}", guest.name());
        guest.run(&format!("cd {folder} && sha256sum --quiet -c /tmp/written"));
    }
}
