//! Virtual machines with an unmodified Debian kernel, plugged into a [`Lab`]'s switch.
//!
//! A [`Guest`] is emulated (qemu without KVM, so that it runs anywhere) and boots in seconds. The test types commands
//! into it and gets their output; a command that fails or takes too long fails the test, and shows the guest's console.
//! The guest dies with its lab. Kernel and images are made once and kept in `.build/vm`.

mod clock;
mod image;
mod kernel;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::marker::PhantomData;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use self::image::Image;
use crate::net::{Daemon, Lab, PATIENCE, wait_for};

/// How long a command may run, unless a test says otherwise.
const COMMAND_PATIENCE: Duration = Duration::from_secs(120);

/// How often something in the guest is asked again; every question costs it some work.
const POLL: Duration = Duration::from_millis(250);

/// Bytes of the guest's console shown when a test fails.
const CONSOLE_SHOWN: usize = 6 << 10;

/// A virtual machine on a lab's switch, with the network card eth0.
pub struct Guest<'lab> {
    name: &'static str,
    /// The lab takes the machine's network away when it goes.
    lab: PhantomData<&'lab Lab>,
    agent: RefCell<BufReader<UnixStream>>,
    console: PathBuf,
    jobs: Cell<u32>,
    machine: Daemon,
}

impl<'lab> Guest<'lab> {
    /// Boots a guest whose network card has this MTU (bytes), and waits until it takes commands.
    pub fn boot(lab: &'lab Lab, name: &'static str, mtu: u32) -> Guest<'lab> {
        let began = Instant::now();
        let image = Image::build();
        let built = began.elapsed();
        let (console, socket) = (lab.path(&format!("{name}.console")), lab.path(&format!("{name}.agent")));
        lab.plug_tap(name, mtu);
        let command_line = format!(
            // The guest cannot calibrate its clocks reliably under emulation, so it is told what it would find out.
            "console=ttyS0 panic=-1 random.trust_cpu=on mitigations=off lpj=4000000 tsc_early_khz={} tsc=reliable",
            clock::counter_khz()
        );
        let machine = lab
            .switch()
            .typed(
                "qemu-system-x86_64 -M microvm -accel tcg,thread=multi,tb-size=192 -cpu qemu64 -m 384 -nodefaults \
                 -no-user-config -no-reboot -display none",
            )
            .args(["-kernel".as_ref(), image.kernel.vmlinux.as_os_str()])
            .args(["-initrd".as_ref(), image.initramfs.as_os_str()])
            .args(["-append", &command_line])
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-drive", &format!("if=none,id=root,format=raw,readonly=on,file={}", image.root.display())])
            .args(["-device", "virtio-blk-device,drive=root"])
            .args(["-netdev", &format!("tap,id=net,ifname={name},script=no,downscript=no")])
            .args(["-device", &format!("virtio-net-device,netdev=net,host_mtu={mtu},mac={}", mac(name))])
            .args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", socket.display())])
            .args(["-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent"])
            .spawn();
        let stream = wait_for("qemu's socket", || UnixStream::connect(&socket).ok());
        let guest = Guest {
            name,
            lab: PhantomData,
            agent: RefCell::new(BufReader::new(stream)),
            console,
            jobs: Cell::new(0),
            machine,
        };
        let mut line = String::new();
        guest.read(PATIENCE, "the boot", |agent| agent.read_line(&mut line).map(drop));
        assert_eq!(line, "ready\n", "the first word of the guest");
        println!("{name}: images {built:.1?}, booted {:.1?}", began.elapsed() - built);
        guest
    }

    /// Types a bash script; panics unless it succeeds. Returns what it printed.
    pub fn run(&self, script: &str) -> String {
        self.run_within(COMMAND_PATIENCE, script)
    }

    /// As [`Self::run`], for a script that may take so long.
    pub fn run_within(&self, patience: Duration, script: &str) -> String {
        let Outcome { code, stdout, stderr } = self.shown(patience, script);
        assert_eq!(code, 0, "{}# {script}\n{stdout}{stderr}", self.name);
        stdout
    }

    /// Types a bash script; panics unless it fails. Returns what it printed and complained about.
    pub fn fails(&self, script: &str) -> String {
        let Outcome { code, stdout, stderr } = self.shown(COMMAND_PATIENCE, script);
        assert_ne!(code, 0, "it should have failed: {}# {script}\n{stdout}{stderr}", self.name);
        stdout + &stderr
    }

    /// Whether a script succeeds.
    pub fn succeeds(&self, script: &str) -> bool {
        self.attempt(COMMAND_PATIENCE, script).code == 0
    }

    /// Runs a bash script in the background.
    pub fn start(&self, script: &str) -> Job<'_> {
        let number = self.jobs.replace(self.jobs.get() + 1);
        let file = format!("/tmp/job{number}");
        self.run(&format!("cat >{file} <<'END_OF_JOB'\n{script}\nEND_OF_JOB\n"));
        self.run(&format!(
            "(setsid bash {file} >{file}.out 2>&1; echo $? >{file}.new; mv {file}.new {file}.code) >/dev/null 2>&1 &"
        ));
        Job { guest: self, file, script: script.to_owned() }
    }

    /// Waits until a script succeeds; panics when it does not within the patience.
    pub fn wait_until(&self, patience: Duration, script: &str) {
        let began = Instant::now();
        while !self.succeeds(script) {
            assert!(began.elapsed() < patience, "{}: waited {patience:?} in vain for: {script}", self.name);
            sleep(POLL);
        }
    }

    /// Runs a script, and notes in the test's output that it did.
    fn shown(&self, patience: Duration, script: &str) -> Outcome {
        let began = Instant::now();
        let outcome = self.attempt(patience, script);
        println!("{}# {script}  ({:.1?}, exit code {})", self.name, began.elapsed(), outcome.code);
        outcome
    }

    fn attempt(&self, patience: Duration, script: &str) -> Outcome {
        let question = format!("{}\n{script}", script.len());
        self.agent.borrow_mut().get_mut().write_all(question.as_bytes()).expect("a guest that listens");
        let (mut line, mut output) = (String::new(), Vec::new());
        self.read(patience, script, |agent| agent.read_line(&mut line).map(drop));
        let numbers: Vec<usize> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let [code, stdout, stderr] = numbers[..] else { panic!("{} answers {line:?}", self.name) };
        output.resize(stdout + stderr, 0);
        self.read(patience, script, |agent| agent.read_exact(&mut output));
        let complaints = String::from_utf8_lossy(&output.split_off(stdout)).into_owned();
        Outcome { code, stdout: String::from_utf8_lossy(&output).into_owned(), stderr: complaints }
    }

    fn read(
        &self,
        patience: Duration,
        what: &str,
        read: impl FnOnce(&mut BufReader<UnixStream>) -> std::io::Result<()>,
    ) {
        let mut agent = self.agent.borrow_mut();
        agent.get_ref().set_read_timeout(Some(patience)).expect("a time-out");
        if let Err(error) = read(&mut agent) {
            let is_late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            let why = if is_late { format!("took more than {patience:?}") } else { error.to_string() };
            panic!("{}: {what}: {why}\n{}", self.name, self.machine.output());
        }
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let console = fs::read(&self.console).unwrap_or_default();
            let shown = &console[console.len().saturating_sub(CONSOLE_SHOWN)..];
            eprintln!("--- console of {}\n{}\n---", self.name, String::from_utf8_lossy(shown));
        }
    }
}

/// A script that runs in the background of a guest.
pub struct Job<'guest> {
    guest: &'guest Guest<'guest>,
    file: String,
    script: String,
}

impl Job<'_> {
    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        !self.guest.succeeds(&format!("[ -e {}.code ]", self.file))
    }

    /// Waits for its end; panics unless it succeeded. Returns what it printed.
    pub fn finish(self, patience: Duration) -> String {
        let (code, output) = self.end(patience);
        assert_eq!(code, 0, "{}\n{output}", self.script);
        output
    }

    fn end(&self, patience: Duration) -> (i32, String) {
        let Job { guest, file, script } = self;
        let began = Instant::now();
        while self.is_running() {
            if began.elapsed() >= patience {
                let output = guest.run(&format!("cat {file}.out"));
                panic!("{}: still running after {patience:?}: {script}\n{output}", guest.name);
            }
            sleep(POLL);
        }
        let code = guest.run(&format!("cat {file}.code")).trim().parse().expect("an exit code");
        (code, guest.run(&format!("cat {file}.out")))
    }
}

struct Outcome {
    code: usize,
    stdout: String,
    stderr: String,
}

/// What a disk is for: a filesystem is made and mounted, and its files are the same after it was away. The device is
/// left unmounted, its filesystem clean, with files of 16 MiB in the folder `files`.
pub fn filesystem_story(guest: &Guest<'_>, device: &str) {
    guest.run(&format!("mkfs.ext4 -q {device} && mount {device} /mnt && mkdir /mnt/files"));
    guest.run(
        "cd /mnt/files; for n in 1 2 3 4 5 6 7 8; do head -c 2097163 /dev/urandom >$n; done; sha256sum * >../sums",
    );
    guest.run("umount /mnt");
    guest.run(&format!("e2fsck -f -n {device}"));
    guest.run(&format!(
        "echo 3 >/proc/sys/vm/drop_caches; mount {device} /mnt && cd /mnt/files && sha256sum -c ../sums"
    ));
    guest.run("umount /mnt");
}

/// A local address that is the same in every run, and differs between guests.
fn mac(name: &str) -> String {
    let sum = name.bytes().fold(0u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    format!("02:00:00:00:{:02x}:{:02x}", sum >> 8, sum & 0xff)
}

/// Runs a program of this machine; panics unless it succeeds. Returns what it printed.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
