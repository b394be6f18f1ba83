//! Hosts made of network namespaces, and programs run on them.
//!
//! A [`Lab`] is a set of namespaces joined by virtual cables. It has names nobody else uses, a temporary folder for
//! everything its programs write, and it takes all of it away when dropped: processes first, whoever started them,
//! then namespaces, then files. Every wait in here is bounded. What a test needs and does not find fails the test.

pub mod cable;
pub mod fio;
pub mod image;
pub mod peer;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, geteuid, sysconf};
use serde_json::Value;
use tempfile::TempDir;

use self::cable::{Cable, Counts, Trouble};

/// How long a program may run, or take to get ready, unless a test says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a wait looks again.
const TICK: Duration = Duration::from_millis(5);

/// Programs of this project. aoetools installs some of the same names, so these are never taken from elsewhere.
pub const OURS: [&str; 10] = [
    "aoe-target",
    "aoe-discover",
    "aoe-attach",
    "aoe-detach",
    "aoe-stat",
    "aoe-bench",
    "aoe-ping",
    "aoe-cfg",
    "aoe-check",
    "fence_aoe",
];

/// What `ip` is told before a namespace and a program.
const EXEC: [&str; 2] = ["netns", "exec"];

/// The interface each host has on the cable.
const INTERFACE: &str = "eth0";

/// What joins the hosts of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joint {
    /// Back to back; for two.
    Direct,
    /// A bridge of the kernel's.
    Switch,
    /// A [`Cable`] with this seed.
    Cable(u64),
}

/// A set of hosts on one Ethernet segment.
pub struct Lab {
    hosts: Vec<LabHost>,
    /// What joins more than two hosts, or hosts and virtual machines.
    switch: Option<LabHost>,
    /// What joins hosts whose frames meet with accidents.
    cable: Option<Cable>,
    /// Namespaces, the hosts' own and the switch's or cable's, in order of making.
    namespaces: Vec<String>,
    folder: TempDir,
    bin_dir: PathBuf,
    /// Numbers the files that take the output of programs.
    outputs: AtomicU32,
}

struct LabHost {
    name: String,
    namespace: String,
    mac: String,
}

impl Lab {
    /// Joins the named hosts at this MTU (bytes): two by a cable, more by a switch.
    pub fn new(hosts: &[&str], mtu: u32) -> Lab {
        assert!(hosts.len() >= 2, "a segment has at least two ends");
        Lab::build(hosts, mtu, if hosts.len() > 2 { Joint::Switch } else { Joint::Direct })
    }

    /// Joins the named hosts at this MTU (bytes) by a switch, where [`Lab::plug`] adds virtual machines.
    pub fn switched(hosts: &[&str], mtu: u32) -> Lab {
        Lab::build(hosts, mtu, Joint::Switch)
    }

    /// Joins the named hosts at this MTU (bytes) by a cable in user space, whose accidents [`Lab::trouble`] sets and
    /// the seed decides. There are none at first.
    pub fn over_cable(hosts: &[&str], mtu: u32, seed: u64) -> Lab {
        Lab::build(hosts, mtu, Joint::Cable(seed))
    }

    fn build(hosts: &[&str], mtu: u32, joint: Joint) -> Lab {
        assert!(geteuid().is_root(), "network namespaces need root; run tests/run, it asks for it");
        remove_labs_of_dead_processes();

        static LABS: AtomicU32 = AtomicU32::new(0);
        let lab_name = format!("aoe-{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let mut lab = Lab {
            hosts: Vec::new(),
            switch: None,
            cable: None,
            namespaces: Vec::new(),
            folder: tempfile::Builder::new().prefix("aoe-lab-").tempdir().expect("a temporary folder"),
            bin_dir: bin_dir(),
            outputs: AtomicU32::new(0),
        };
        for host in hosts {
            let namespace = lab.add_namespace(&format!("{lab_name}-{host}"));
            lab.hosts.push(LabHost { name: (*host).to_owned(), namespace, mac: String::new() });
        }
        let mtu = mtu.to_string();
        if joint == Joint::Direct {
            let [a, b] = &lab.hosts[..] else { panic!("a cable has two ends") };
            cable((&a.namespace, INTERFACE), (&b.namespace, INTERFACE), &mtu);
        } else {
            let middle =
                lab.add_namespace(&format!("{lab_name}-{}", if joint == Joint::Switch { "switch" } else { "cable" }));
            let ports: Vec<String> = (0..lab.hosts.len()).map(|number| format!("port{number}")).collect();
            for (host, port) in lab.hosts.iter().zip(&ports) {
                cable((&host.namespace, INTERFACE), (&middle, port), &mtu);
            }
            if let Joint::Cable(seed) = joint {
                lab.cable = Some(Cable::new(&middle, &ports, seed));
            } else {
                ip(&["-n", &middle, "link", "add", "br0", "type", "bridge"]);
                ip(&["-n", &middle, "link", "set", "br0", "mtu", &mtu, "up"]);
                for port in &ports {
                    ip(&["-n", &middle, "link", "set", port, "master", "br0"]);
                }
                lab.switch = Some(LabHost { name: "switch".to_owned(), namespace: middle, mac: String::new() });
            }
        }
        for host in &mut lab.hosts {
            host.mac = wait_until_up(&host.namespace);
        }
        lab
    }

    /// Two hosts, `a` and `b`, joined by a cable.
    pub fn pair(mtu: u32) -> Lab {
        Lab::new(&["a", "b"], mtu)
    }

    /// The host of this name.
    pub fn host<'lab>(&'lab self, name: &str) -> Host<'lab> {
        Host { lab: self, host: self.find(name) }
    }

    /// The switch, as the place to run virtual machines in.
    pub fn switch(&self) -> Host<'_> {
        Host { lab: self, host: self.switch.as_ref().expect("a lab with a switch") }
    }

    /// Makes a port of a switch for a virtual machine's network card, up at this MTU (bytes), or plugs it in again.
    /// Returns its name.
    pub fn plug(&self, machine: &str, switch: Switch, mtu: u32) -> String {
        let namespace = &self.switch().host.namespace;
        let (port, bridge) = (switch.port(machine), switch.bridge());
        let links = ip(&["-n", namespace, "-br", "link"]);
        let has = |name: &str| links.lines().any(|line| line.split_whitespace().next() == Some(name));
        if !has(bridge) {
            ip(&["-n", namespace, "link", "add", bridge, "type", "bridge"]);
            ip(&["-n", namespace, "link", "set", bridge, "addrgenmode", "none", "up"]);
        }
        if !has(&port) {
            ip(&["-n", namespace, "tuntap", "add", &port, "mode", "tap"]);
        }
        let mtu = mtu.to_string();
        ip(&["-n", namespace, "link", "set", &port, "addrgenmode", "none", "mtu", &mtu, "master", bridge, "up"]);
        port
    }

    /// Pulls the cable of a virtual machine out of a switch.
    pub fn unplug(&self, machine: &str, switch: Switch) {
        ip(&["-n", &self.switch().host.namespace, "link", "set", &switch.port(machine), "nomaster"]);
    }

    /// From now on this happens to the frames for a host, on their way through the cable.
    pub fn trouble(&self, host: &str, trouble: Trouble) {
        self.cable.as_ref().expect("a lab over a cable").set(self.number(host), trouble);
    }

    /// What has happened to the frames for a host, on their way through the cable.
    pub fn accidents(&self, host: &str) -> Counts {
        self.cable.as_ref().expect("a lab over a cable").counts(self.number(host))
    }

    /// The MAC address of the host's interface, lower case with colons.
    pub fn mac(&self, name: &str) -> &str {
        &self.find(name).mac
    }

    /// The name of the host's interface on the segment.
    pub fn interface(&self, name: &str) -> &str {
        self.find(name);
        INTERFACE
    }

    /// The folder programs start in; it goes with the lab.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the lab's folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder().join(file)
    }

    /// The address by which NBD clients reach a socket in the lab's folder.
    pub fn nbd_uri(&self, socket: &str) -> String {
        format!("nbd+unix:///?socket={}", self.path(socket).display())
    }

    /// Starts `aoe-target export` on a host and waits until it serves.
    pub fn export(&self, host: &str, arguments: &str) -> Daemon {
        self.host(host).typed(&format!("aoe-target export {arguments}")).spawn_ready(|line| line.starts_with("serving"))
    }

    /// Attaches a device on a host to a socket in the lab's folder and returns the socket's NBD address.
    pub fn attach(&self, host: &str, device: &str, socket: &str) -> String {
        let place = format!("unix:{}", self.path(socket).display());
        self.host(host).command("aoe-attach").arg(device).arg(place).run().succeeded();
        self.nbd_uri(socket)
    }

    /// What `aoe-stat --json` says on a host.
    pub fn stat(&self, host: &str) -> Value {
        self.host(host).typed("aoe-stat --json").run().succeeded().json()
    }

    /// The same of the one device that is attached there, after some `frames` frames of which the network lost none. Hardly
    /// any may have been sent again: on a busy machine an answer is late now and then, which looks like a loss.
    pub fn stat_without_loss(&self, host: &str, frames: u64) -> Value {
        let stat = self.stat(host);
        let resends = stat[0]["resends"].as_u64().expect("a counter");
        assert!(resends <= 2 + frames / 1000, "{stat}");
        assert_eq!(stat[0]["errors"], 0, "{stat}");
        stat
    }

    /// Records the AoE traffic on a host's interface from now on.
    pub fn capture(&self, host: &str) -> Capture<'_> {
        let file = self.path(&format!("{host}-{}.pcapng", self.outputs.fetch_add(1, Ordering::Relaxed)));
        let recorder = self
            .host(host)
            .command("dumpcap")
            .args(["-i", INTERFACE, "-f", "ether proto 0x88a2", "-B", "64", "-w"])
            .arg(&file)
            .spawn_ready(|line| line.starts_with("File:"));
        Capture { lab: self, recorder, file, host: host.to_owned() }
    }

    fn find(&self, name: &str) -> &LabHost {
        &self.hosts[self.number(name)]
    }

    fn number(&self, name: &str) -> usize {
        self.hosts.iter().position(|host| host.name == name).unwrap_or_else(|| panic!("the lab has no host {name}"))
    }

    fn add_namespace(&mut self, name: &str) -> String {
        ip(&["netns", "add", name]);
        self.namespaces.push(name.to_owned());
        ip(&["-n", name, "link", "set", "lo", "up"]);
        name.to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Its thread is in one of the namespaces.
        self.cable = None;
        self.namespaces.iter().for_each(|namespace| remove_namespace(namespace));
    }
}

/// The networks that virtual machines can be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Where the lab's hosts are.
    Storage,
    /// One of the virtual machines' own.
    Lan,
}

impl Switch {
    fn bridge(self) -> &'static str {
        match self {
            Switch::Storage => "br0",
            Switch::Lan => "br1",
        }
    }

    fn port(self, machine: &str) -> String {
        match self {
            Switch::Storage => machine.to_owned(),
            Switch::Lan => format!("{machine}-lan"),
        }
    }
}

/// One host of a lab.
#[derive(Clone, Copy)]
pub struct Host<'lab> {
    lab: &'lab Lab,
    host: &'lab LabHost,
}

impl<'lab> Host<'lab> {
    /// Its name in the lab.
    pub fn name(self) -> &'lab str {
        &self.host.name
    }

    /// A program to run on this host, in the lab's folder.
    pub fn command(self, program: &str) -> HostCommand<'lab> {
        let mut command = Command::new("ip");
        // `ip netns exec` replaces itself with the program, so the child's process is the program's.
        command.args(EXEC).args([&self.host.namespace, program]);
        command.current_dir(self.lab.folder());
        command.stdin(Stdio::null());
        command.env("AOE_STATE_DIR", self.lab.path(&format!("state-{}", self.host.name)));
        command.env("AOE_RUN_DIR", self.lab.path(&format!("run-{}", self.host.name)));
        command.env("PATH", search_path(Some(&self.lab.bin_dir)));
        command.env("LC_ALL", "C.UTF-8");
        HostCommand { lab: self.lab, command, shown: format!("{}$ {program}", self.host.name), patience: PATIENCE }
    }

    /// A program that sees the filesystems that another on this host has mounted. It starts in the root folder.
    pub fn command_beside(self, mounter: &Daemon, program: &str) -> HostCommand<'lab> {
        let process = mounter.id().to_string();
        self.command("nsenter").args(["--mount", "--target", &process, program])
    }

    /// A command line as a person types it; words are separated by blanks.
    pub fn typed(self, line: &str) -> HostCommand<'lab> {
        let mut words = line.split_whitespace();
        self.command(words.next().expect("a command")).args(words)
    }
}

/// A program with its arguments, not yet started.
pub struct HostCommand<'lab> {
    lab: &'lab Lab,
    command: Command,
    shown: String,
    patience: Duration,
}

impl HostCommand<'_> {
    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.shown += &format!(" {}", argument.as_ref().to_string_lossy());
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        arguments.into_iter().fold(self, |command, argument| command.arg(argument))
    }

    /// How long the program may run, or take to get ready, instead of [`PATIENCE`].
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs the program to its end; panics when it takes too long.
    pub fn run(self) -> Finished {
        let patience = self.patience;
        let mut process = self.start();
        let Some(code) = process.wait(patience) else {
            let output = process.output();
            process.kill();
            panic!("{} was still running after {patience:?}\n{output}", process.shown);
        };
        Finished { shown: process.shown.clone(), code, stdout: process.stdout(), stderr: process.stderr() }
    }

    /// Starts the program; nothing it prints says when it is ready.
    pub fn spawn(self) -> Daemon {
        Daemon { process: self.start() }
    }

    /// Starts the program and waits until it has printed a whole line that `ready` accepts.
    pub fn spawn_ready(self, ready: impl Fn(&str) -> bool) -> Daemon {
        let patience = self.patience;
        let mut daemon = Daemon { process: self.start() };
        let began = Instant::now();
        loop {
            // Asked before reading the output: a program that ends has then written all of it.
            let ended = daemon.process.wait(Duration::ZERO);
            if daemon.saw(&ready) {
                return daemon;
            }
            let shown = &daemon.process.shown;
            assert!(ended.is_none(), "{shown} ended with {ended:?} before it was ready\n{}", daemon.output());
            assert!(began.elapsed() < patience, "{shown} was not ready after {patience:?}\n{}", daemon.output());
            sleep(TICK);
        }
    }

    /// Output goes to files, not pipes: a background process that inherits a pipe would keep its reader waiting.
    fn start(mut self) -> Process {
        let words: Vec<&str> = self.command.get_args().filter_map(OsStr::to_str).skip(EXEC.len() + 1).collect();
        // Also behind a wrapper: a program of the same name must not run instead of one that is not built.
        for program in words.iter().filter(|word| OURS.contains(word)) {
            let path = self.lab.bin_dir.join(program);
            assert!(path.is_file(), "{} is not built; run tests/run, or cargo build --bins", path.display());
        }
        if !OURS.contains(&words[0]) {
            requires(&words[..1]);
        }
        let number = self.lab.outputs.fetch_add(1, Ordering::Relaxed);
        let [stdout_path, stderr_path] =
            ["stdout", "stderr"].map(|stream| self.lab.path(&format!("output-{number}.{stream}")));
        self.command.stdout(File::create(&stdout_path).expect("a file in the lab's folder"));
        self.command.stderr(File::create(&stderr_path).expect("a file in the lab's folder"));
        let child = self.command.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.shown));
        Process { shown: self.shown, child, code: None, stdout_path, stderr_path }
    }
}

/// A started program. Killed when dropped.
struct Process {
    shown: String,
    child: Child,
    code: Option<i32>,
    stdout_path: PathBuf,
    stderr_path: PathBuf,
}

impl Process {
    /// The exit code once the program has ended; `None` when it runs on after `patience`. 128 + N for signal N.
    fn wait(&mut self, patience: Duration) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let began = Instant::now();
        while self.code.is_none() {
            if let Some(status) = self.child.try_wait().expect("waiting for a child") {
                self.code = status.code().or(status.signal().map(|signal| 128 + signal));
            } else if began.elapsed() >= patience {
                break;
            } else {
                sleep(TICK);
            }
        }
        self.code
    }

    fn signal(&self, signal: Signal) {
        if self.code.is_none() {
            // The child is not reaped yet, so its number is still its own.
            kill(Pid::from_raw(self.child.id() as i32), signal).expect("signalling a child");
        }
    }

    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait(PATIENCE);
    }

    fn stdout(&self) -> String {
        text(&self.stdout_path)
    }

    fn stderr(&self) -> String {
        text(&self.stderr_path)
    }

    fn output(&self) -> String {
        format!("--- stdout\n{}--- stderr\n{}", self.stdout(), self.stderr())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program that runs on. Killed when dropped.
pub struct Daemon {
    process: Process,
}

impl Daemon {
    /// Everything printed so far, standard output before standard error.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Waits until the program has printed a whole line that `wanted` accepts.
    pub fn wait_for_line(&self, wanted: impl Fn(&str) -> bool) {
        wait_for(&format!("a line of {}", self.process.shown), || self.saw(&wanted).then_some(()));
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.process.child.id()
    }

    /// The most memory the program has had at a time.
    pub fn peak_memory(&self) -> u64 {
        peak_memory(self.id())
    }

    /// Panics unless the program is still running.
    pub fn assert_running(&mut self) {
        let ended = self.process.wait(Duration::ZERO);
        assert!(ended.is_none(), "{} ended with {ended:?}\n{}", self.process.shown, self.output());
    }

    /// Whether the program ends by itself in this time.
    pub fn ends_within(&mut self, patience: Duration) -> bool {
        self.process.wait(patience).is_some()
    }

    /// Asks the program to end (SIGTERM) and returns how it did.
    pub fn stop(self) -> Finished {
        self.end(Signal::SIGTERM)
    }

    /// Ends the program as a crash would (SIGKILL).
    pub fn kill(self) {
        self.end(Signal::SIGKILL);
    }

    fn end(mut self, signal: Signal) -> Finished {
        self.process.signal(signal);
        let code = self.process.wait(PATIENCE);
        let code = code.unwrap_or_else(|| panic!("{} ignored {signal}\n{}", self.process.shown, self.output()));
        let process = &self.process;
        Finished { shown: process.shown.clone(), code, stdout: process.stdout(), stderr: process.stderr() }
    }

    fn saw(&self, wanted: impl Fn(&str) -> bool) -> bool {
        let streams = [self.process.stdout(), self.process.stderr()];
        streams
            .iter()
            .any(|stream| stream.split_inclusive('\n').any(|line| line.ends_with('\n') && wanted(line.trim_end())))
    }
}

/// A program that has ended.
pub struct Finished {
    shown: String,
    /// The exit code; 128 + N when signal N ended the program.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Finished {
    /// Panics with everything printed unless the exit code is 0.
    pub fn succeeded(self) -> Finished {
        self.exited(0)
    }

    /// Panics with everything printed unless this is the exit code.
    pub fn exited(self, code: i32) -> Finished {
        assert_eq!(self.code, code, "exit code of {}\n{}", self.shown, self.output());
        self
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{}: {e}\n{}", self.shown, self.output()))
    }

    /// Everything printed, for messages.
    pub fn output(&self) -> String {
        format!("--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// A running record of the AoE frames on an interface, in both directions.
pub struct Capture<'lab> {
    lab: &'lab Lab,
    recorder: Daemon,
    file: PathBuf,
    host: String,
}

impl<'lab> Capture<'lab> {
    /// Ends the recording; panics when the recorder was too slow for the traffic.
    pub fn stop(self) -> Recording<'lab> {
        // The recorder reads the interface in batches; only what it has read survives its end.
        let mut size = None;
        wait_for("the recorder to come to rest", || {
            sleep(Duration::from_millis(500));
            let before = size.replace(fs::metadata(&self.file).expect("a recording").len());
            (before == size).then_some(())
        });
        let finished = self.recorder.stop().succeeded();
        let report = finished.stderr.lines().find(|line| line.contains("received/dropped")).unwrap_or_default();
        assert!(report.contains("/0 ("), "the recorder lost frames: {}", finished.output());
        Recording { lab: self.lab, file: self.file, host: self.host }
    }
}

/// A finished record of frames.
pub struct Recording<'lab> {
    lab: &'lab Lab,
    file: PathBuf,
    host: String,
}

impl Recording<'_> {
    /// The named tshark fields of every frame that passes the display filter; an absent field is empty. tshark reads
    /// the record twice, so that a request knows its answer.
    pub fn decode(&self, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
        let mut command = self.lab.host(&self.host).command("tshark").args(["-n", "-2", "-r"]).arg(&self.file);
        if !filter.is_empty() {
            command = command.args(["-Y", filter]);
        }
        command = command.args(["-T", "fields", "-E", "occurrence=f"]);
        for field in fields {
            command = command.args(["-e", field]);
        }
        let output = command.run().succeeded();
        output.stdout.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    }
}

/// Panics unless all these programs are installed. Asked by itself for a program a test starts; a test asks for those
/// that other programs start.
pub fn requires(tools: &[&str]) {
    let path = search_path(None);
    let missing: Vec<_> =
        tools.iter().filter(|tool| !std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())).collect();
    assert!(missing.is_empty(), "not installed: {missing:?}; run tests/run, it installs them");
}

/// Where a program of the machine's is.
pub fn find_tool(program: &str) -> PathBuf {
    requires(&[program]);
    let path = search_path(None);
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|place| place.is_file());
    found.expect("a program that was found before")
}

/// A program of the machine's, run outside the hosts.
pub fn tool(program: &str) -> Command {
    requires(&[program]);
    let mut command = Command::new(program);
    command.env("PATH", search_path(None));
    command
}

/// Asks again and again until there is an answer; panics after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what} in vain");
        sleep(TICK);
    }
}

/// The most memory (resident, bytes) a running process has had at a time.
pub fn peak_memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak of a process");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib << 10
}

/// The processor time a running process has used, in user and kernel mode together.
pub fn processor_time(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("a running process");
    // The name of the program may hold blanks; it ends at the last bracket.
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let mut fields = fields.split_whitespace().skip(11).map(|field| field.parse::<u64>().expect("a number of ticks"));
    let ticks = fields.next().zip(fields.next()).map(|(user, kernel)| user + kernel).expect("two numbers");
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().expect("the length of a tick");
    Duration::from_secs_f64(ticks as f64 / per_second as f64)
}

/// Where the programs under test are: AOE_BIN_DIR, else the release build when there is one, else the debug build.
pub fn bin_dir() -> PathBuf {
    if let Some(folder) = std::env::var_os("AOE_BIN_DIR") {
        return folder.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests folder is in the tree");
    let build = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join(".build"), PathBuf::from);
    let release = build.join("release");
    if release.join(OURS[0]).is_file() { release } else { build.join("debug") }
}

/// PATH with our programs first and the administrator's tools, which not every PATH has, last.
fn search_path(bin_dir: Option<&Path>) -> OsString {
    let given = std::env::var_os("PATH").unwrap_or_default();
    let folders = bin_dir.map(Path::to_owned).into_iter().chain(std::env::split_paths(&given));
    std::env::join_paths(folders.chain(["/usr/sbin".into(), "/sbin".into()])).expect("PATH without odd characters")
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Runs `ip` in the caller's namespace and returns what it printed.
fn ip(arguments: &[&str]) -> String {
    let output = tool("ip").args(arguments).output().expect("ip");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {complaint}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes a virtual cable between two (namespace, interface) ends and sets both up.
fn cable(a: (&str, &str), b: (&str, &str), mtu: &str) {
    let (a_end, b_end) = (["netns", a.0], ["netns", b.0]);
    let mut command = vec!["link", "add", a.1, "mtu", mtu];
    command.extend(a_end);
    command.extend(["type", "veth", "peer", "name", b.1, "mtu", mtu]);
    command.extend(b_end);
    ip(&command);
    for (namespace, interface) in [a, b] {
        // No IPv6 address is made up, so nothing but the test's own traffic is on the cable.
        ip(&["-n", namespace, "link", "set", interface, "addrgenmode", "none", "up"]);
    }
}

/// Waits until the host's interface carries frames and returns its MAC address.
fn wait_until_up(namespace: &str) -> String {
    wait_for(&format!("{INTERFACE} in {namespace}"), || {
        let links: Value = serde_json::from_str(&ip(&["-n", namespace, "-j", "link", "show", INTERFACE])).ok()?;
        let link = links.get(0)?;
        (link["operstate"] == "UP").then(|| link["address"].as_str().map(str::to_owned)).flatten()
    })
}

/// Kills what runs in a namespace of ours, and removes it. Never panics: it also runs while a test is failing.
fn remove_namespace(namespace: &str) {
    let ip = |arguments: &[&str]| Command::new("ip").env("PATH", search_path(None)).args(arguments).output().ok();
    if let Some(output) = ip(&["netns", "pids", namespace]) {
        for process in String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.trim().parse().ok()) {
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }
    ip(&["netns", "del", namespace]);
}

/// A test process that is killed cannot clean up: the next one does it. Labs are named aoe-PROCESS-NUMBER-HOST.
fn remove_labs_of_dead_processes() {
    for line in ip(&["netns", "list"]).lines() {
        let Some(name) = line.split_whitespace().next() else { continue };
        let words: Vec<&str> = name.split('-').collect();
        let ["aoe", process, number, _host] = words[..] else { continue };
        let (Ok(process), Ok(_)) = (process.parse::<u32>(), number.parse::<u32>()) else { continue };
        if !Path::new(&format!("/proc/{process}")).exists() {
            remove_namespace(name);
        }
    }
}
