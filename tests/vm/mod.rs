//! Virtual machines with an unmodified Debian kernel, plugged into a [`Lab`]'s switch.
//!
//! A [`Machine`] says what a virtual machine has; booted, it is a [`Guest`]. It boots in seconds, also where qemu has
//! to emulate it. The test types commands into it and gets their output; a command that fails
//! or takes too long fails the test, and shows the guest's console. Set-ups that people follow are typed from the
//! [`guide`]s. The guest dies with its lab. Kernels and images are made once and kept in `.build/vm`.

mod accelerator;
mod apt;
pub mod guide;
mod image;
mod installed;
mod kernel;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use self::apt::Suite;
use self::image::{Image, OURS_SERIAL};
use crate::net::{Daemon, Lab, PATIENCE, Switch, wait_for};

/// How long a command may run, unless a test says otherwise.
const COMMAND_PATIENCE: Duration = Duration::from_secs(120);

/// How often something in the guest is asked again; every question costs it some work.
const POLL: Duration = Duration::from_millis(250);

/// Bytes of the guest's console shown when a test fails.
const CONSOLE_SHOWN: usize = 6 << 10;

/// What a virtual machine has. Its network card eth0 is on the lab's switch.
#[derive(Clone, Debug)]
pub struct Machine {
    name: &'static str,
    number: u8,
    suite: Suite,
    mtu: u32,
    memory_mib: u32,
    has_lan: bool,
    is_installed: bool,
    has_e1000: bool,
    disks: Vec<PathBuf>,
}

impl Machine {
    /// Debian's kernel, MTU 9000, 384 MiB. The number, from 1, makes the addresses: 02:00:00:00:00:01 and so on.
    pub fn new(name: &'static str, number: u8) -> Machine {
        Machine {
            name,
            number,
            suite: Suite::Own,
            mtu: 9000,
            memory_mib: 384,
            has_lan: false,
            is_installed: false,
            has_e1000: false,
            disks: Vec::new(),
        }
    }

    /// The kernel of another suite.
    pub fn kernel(self, suite: Suite) -> Machine {
        Machine { suite, ..self }
    }

    /// The MTU (bytes) of eth0.
    pub fn mtu(self, mtu: u32) -> Machine {
        Machine { mtu, ..self }
    }

    /// Memory in MiB.
    pub fn memory(self, memory_mib: u32) -> Machine {
        Machine { memory_mib, ..self }
    }

    /// A second card, eth1, on a network without the lab's hosts; with the address 10.0.0.NUMBER.
    pub fn lan(self) -> Machine {
        Machine { has_lan: true, ..self }
    }

    /// A system of its own, as Debian installs it, with systemd; it is there when the machine boots again. Programs of this
    /// project are not in it.
    pub fn installed(self) -> Machine {
        Machine { is_installed: true, ..self }
    }

    /// Its eth0 is an emulated card that exists for real, an e1000, at an MTU of 1500 until the guest says otherwise.
    pub fn e1000(self) -> Machine {
        Machine { has_e1000: true, ..self }
    }

    /// A disk of its own, the first as /dev/vdb. What the machine has written to it is there when it boots again.
    pub fn disk(mut self, image: &Path) -> Machine {
        self.disks.push(image.to_owned());
        self
    }

    /// The MAC address of eth0.
    pub fn mac(&self) -> String {
        self.macs()[0].clone()
    }

    fn macs(&self) -> [String; 2] {
        ["00", "01"].map(|card| format!("02:00:00:00:{card}:{:02x}", self.number))
    }

    /// Boots it, and waits until it takes commands.
    pub fn boot(self, lab: &Lab) -> Guest<'_> {
        let [guest] = Machine::boot_all(lab, [self]);
        guest
    }

    /// Boots several at the same time.
    pub fn boot_all<const N: usize>(lab: &Lab, machines: [Machine; N]) -> [Guest<'_>; N] {
        let began = Instant::now();
        let guests = machines.map(|machine| machine.start(lab));
        guests.iter().for_each(Guest::wait_ready);
        println!("booted {:?} in {:.1?}", guests.each_ref().map(|guest| guest.name), began.elapsed());
        guests
    }

    fn start(self, lab: &Lab) -> Guest<'_> {
        let image = Image::of(self.suite);
        let name = self.name;
        let [console, socket] = ["console", "agent"].map(|end| lab.path(&format!("{name}.{end}")));
        let mut command_line = format!("{} name={name}", image.accelerator.command_line());
        let mut taps = vec![lab.plug(name, Switch::Storage, self.mtu)];
        if self.has_lan {
            taps.push(lab.plug(name, Switch::Lan, 1500));
            command_line += &format!(" lan=10.0.0.{}/24", self.number);
        }
        let shared = |path: &Path| format!("readonly=on,file={}", path.display());
        // What a guest has written is its host's to keep; only the guest itself is ever killed.
        let own = |path: &PathBuf| format!("cache=unsafe,file={}", path.display());
        let mut disks: Vec<String> = self.disks.iter().map(own).collect();
        if self.is_installed {
            let system = lab.path(&format!("{name}.system"));
            installed::provide(&system, &image.kernel);
            command_line += " installed net.ifnames=0 systemd.show_status=error systemd.log_target=journal";
            disks.insert(0, own(&system));
        } else {
            let ours = lab.path("ours.ext4");
            if !ours.exists() {
                image::build_ours(&ours);
            }
            disks.insert(0, shared(&image.root));
            disks.push(shared(&ours));
        }
        let mut command = lab
            .switch()
            .typed("qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none")
            .args(image.accelerator.machine(self.has_e1000).split(' '))
            .args(["-m", &self.memory_mib.to_string()])
            .args(["-kernel".as_ref(), image.kernel.vmlinux.as_os_str()])
            .args(["-initrd".as_ref(), image.initramfs.as_os_str()])
            .args(["-append", &command_line])
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-chardev", &format!("socket,id=agent,path={},server=on,wait=off", socket.display())])
            .args(["-device", "virtio-serial-device", "-device", "virtserialport,chardev=agent"]);
        for (number, disk) in disks.into_iter().enumerate() {
            let is_ours = number == self.disks.len() + 1;
            let serial = if is_ours { OURS_SERIAL.to_owned() } else { format!("disk{number}") };
            command = command
                .args(["-drive", &format!("if=none,id=disk{number},format=raw,{disk}")])
                .args(["-device", &format!("virtio-blk-device,drive=disk{number},serial={serial}")]);
        }
        for (number, (tap, mac)) in taps.iter().zip(self.macs()).enumerate() {
            let mtu = if number == 0 { self.mtu } else { 1500 };
            command =
                command.args(["-netdev", &format!("tap,id=net{number},ifname={tap},script=no,downscript=no")]).args([
                    "-device",
                    &match number == 0 && self.has_e1000 {
                        true => format!("e1000,netdev=net{number},mac={mac}"),
                        false => format!("virtio-net-device,netdev=net{number},host_mtu={mtu},mac={mac}"),
                    },
                ]);
        }
        let machine = command.spawn();
        let stream = wait_for("qemu's socket", || UnixStream::connect(&socket).ok());
        Guest {
            name,
            lab,
            agent: RefCell::new(BufReader::new(stream)),
            console,
            jobs: Cell::new(0),
            machine,
            description: self,
        }
    }
}

/// A virtual machine that runs.
pub struct Guest<'lab> {
    name: &'static str,
    /// The lab takes the machine's network away when it goes.
    lab: &'lab Lab,
    agent: RefCell<BufReader<UnixStream>>,
    console: PathBuf,
    jobs: Cell<u32>,
    machine: Daemon,
    description: Machine,
}

impl<'lab> Guest<'lab> {
    /// Boots a machine with Debian's kernel and this MTU (bytes).
    pub fn boot(lab: &'lab Lab, name: &'static str, mtu: u32) -> Guest<'lab> {
        Machine::new(name, 1).mtu(mtu).boot(lab)
    }

    /// Its name in the lab.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The MAC address of its eth0.
    pub fn mac(&self) -> String {
        self.description.mac()
    }

    /// Ends it as a power cut would. Returns what boots again.
    pub fn kill(self) -> Machine {
        println!("{} is killed", self.name);
        self.description.clone()
    }

    /// Shuts it down in order, as at a reboot. Returns what boots again.
    pub fn shut_down(self) -> Machine {
        let again = self.description.clone();
        self.run("systemctl --no-block reboot");
        self.wait_for_end(COMMAND_PATIENCE);
        again
    }

    /// Waits until it has ended by itself, as a machine does that fences itself.
    pub fn wait_for_end(mut self, patience: Duration) {
        assert!(self.machine.ends_within(patience), "{} still runs after {patience:?}", self.name);
    }

    /// Pulls the cable of one of its cards.
    pub fn cut(&self, switch: Switch) {
        println!("{} is cut off from {switch:?}", self.name);
        self.lab.unplug(self.name, switch);
    }

    fn wait_ready(&self) {
        let mut line = String::new();
        self.read(PATIENCE, "the boot", |agent| agent.read_line(&mut line).map(drop));
        assert_eq!(line, "ready\n", "the first word of {}", self.name);
    }

    /// Types a bash script; panics unless it succeeds. Returns what it printed.
    pub fn run(&self, script: &str) -> String {
        let Outcome { code, stdout, stderr } = self.shown(script);
        assert_eq!(code, 0, "{}# {script}\n{stdout}{stderr}", self.name);
        stdout
    }

    /// Types a bash script; panics unless it fails. Returns what it printed and complained about.
    pub fn fails(&self, script: &str) -> String {
        let Outcome { code, stdout, stderr } = self.shown(script);
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
        println!("{}& {script}", self.name);
        let begun = self.attempt(
            COMMAND_PATIENCE,
            &format!(
                "cat >{file} <<'END_OF_JOB'\n{script}\nEND_OF_JOB\n\
                 (setsid bash -e {file} >{file}.out 2>&1; echo $? >{file}.new; mv {file}.new {file}.code) >/dev/null 2>&1 &"
            ),
        );
        assert_eq!(begun.code, 0, "{}", begun.stderr);
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
    fn shown(&self, script: &str) -> Outcome {
        let began = Instant::now();
        let outcome = self.attempt(COMMAND_PATIENCE, script);
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

    /// Waits until it has printed a line that begins so; it runs on.
    pub fn wait_for_line(&self, begin: &str, patience: Duration) {
        let (began, file) = (Instant::now(), &self.file);
        while !self.guest.succeeds(&format!("grep -q '^{begin}' {file}.out")) {
            let output = || self.guest.run(&format!("cat {file}.out"));
            assert!(self.is_running(), "{}: {} ended: {}", self.guest.name, self.script, output());
            assert!(began.elapsed() < patience, "{}: {} is not ready: {}", self.guest.name, self.script, output());
            sleep(POLL);
        }
    }

    fn end(&self, patience: Duration) -> (i32, String) {
        let Job { guest, file, script } = self;
        let began = Instant::now();
        while self.is_running() {
            if began.elapsed() >= patience {
                let output = guest.run(&format!("cat {file}.out"));
                panic!("{}: still running after {patience:?}: {script}\n{output}", guest.name);
            }
            // What takes long is asked less often, as the questions slow it down.
            sleep((began.elapsed() / 8).clamp(POLL, Duration::from_secs(2)));
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

/// Runs a program of this machine; panics unless it succeeds. Returns what it printed.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
