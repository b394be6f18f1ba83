//! Contenders: who serves, who asks, and one measurement of the two.
//!
//! Everything that serves runs on processor [`SERVER_CPU`], everything that asks (with the initiator, where there is one)
//! on [`CLIENT_CPU`]. Every measurement starts its servers anew and ends them, so that only one is there at a time.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aoe_common::addr::Address;
use aoe_common::link::monotonic_now;
use aoe_tests::net::{Daemon, Host, HostCommand, Lab, peak_memory, wait_for};
use serde_json::Value;

use crate::figures::{Metric, Sample};
use crate::images::{Caching, Images, SET_BYTES, settle, warm};
use crate::load::device_address;
use crate::meter::processor_time;

/// Where targets and servers run.
const SERVER_CPU: &str = "1";
/// Where the load and our initiator run.
const CLIENT_CPU: &str = "0";

/// The hosts' names in the lab, and their addresses for NBD over TCP.
const SERVER: &str = "server";
const CLIENT: &str = "client";
const SERVER_IP: &str = "10.0.0.1";
const CLIENT_IP: &str = "10.0.0.2";

/// How long a server is loaded before it is measured.
const WARM_UP: Duration = Duration::from_millis(250);

/// Writes that fill the memory of requests a target may have: it keeps 1 048 576.
const FILLING_WRITES: u64 = 1_100_000;
/// Rounds of [`FILLING_ROUND`] in which that many writes have to be answered.
const FILLING_ROUNDS: usize = 40;
const FILLING_ROUND: Duration = Duration::from_secs(3);
/// Stations that share the filling.
const FILLING_CLIENTS: u32 = 64;

/// Who serves.
#[derive(Clone, Copy, Debug)]
pub enum Server {
    /// Our target, with write-back caching, as vblade has it.
    Target { exports: u32, caching: Caching },
    /// A vblade process for each export.
    Vblade { exports: u32, caching: Caching },
    /// The responder that touches no disk, or reads a file and does nothing else.
    Floor { exports: u32, serves_file: bool },
    /// nbdkit's file plugin, over TCP.
    Nbdkit,
    /// qemu-nbd, over TCP.
    QemuNbd,
    /// Nobody: the client opens the file by itself.
    File,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum Client {
    /// The lean load generator on raw frames.
    Frames(Frames),
    /// fio: over NBD, by way of aoe-attach where AoE is served; or on the file.
    Fio(Blocks),
    /// aoe-bench: our initiator without NBD.
    Initiator(Blocks),
    /// As many writes by many stations as the target can remember, and reads; then its memory is looked at.
    Filling,
    /// One question again and again, from before the server's start on.
    FirstAnswer,
}

/// A load of raw frames at 1 to 16 sectors each, at random places.
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    /// Writes instead of reads.
    pub writes: bool,
    /// Sectors of a request.
    pub sectors: u32,
    /// Requests under way.
    pub depth: u32,
    /// Requests a second; `None`: as many as are answered.
    pub rate: Option<u32>,
    /// MAC addresses they come from.
    pub stations: u32,
    /// Whether the load sleeps while it waits, so that the server has to wake it.
    pub sleeps: bool,
}

/// A load of blocks at random places or one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// As fio and aoe-bench name it.
    pub rw: &'static str,
    /// Bytes of a request.
    pub block: u32,
    /// Requests under way.
    pub depth: u32,
}

/// The link between the two hosts.
pub struct Wire {
    lab: Lab,
    /// Frames that are lost, in per cent.
    loss: Cell<f64>,
}

impl Wire {
    /// Joins two hosts at this MTU (bytes).
    pub fn new(mtu: u32) -> Wire {
        let lab = Lab::new(&[SERVER, CLIENT], mtu);
        for (host, address) in [(SERVER, SERVER_IP), (CLIENT, CLIENT_IP)] {
            lab.host(host).typed(&format!("ip address add {address}/24 dev eth0")).run().succeeded();
            lab.host(host).typed("tc qdisc add dev eth0 ingress").run().succeeded();
        }
        Wire { lab, loss: Cell::new(0.0) }
    }

    /// From now on so many per cent of the frames are lost in each direction. The kernel does it as they arrive, with a
    /// filter that draws a number for each and sends those to nowhere that it chooses; that costs next to nothing.
    fn lose(&self, per_cent: f64) {
        if self.loss.replace(per_cent) == per_cent {
            return;
        }
        let limit = (per_cent / 100.0 * f64::from(u32::MAX)) as u32;
        // Load a random number; below the limit it matches, else not.
        let program = format!("4,32 0 0 4294963256,53 1 0 {limit},6 0 0 4294967295,6 0 0 0");
        for host in [SERVER, CLIENT] {
            let host = self.lab.host(host);
            host.typed("tc filter del dev eth0 ingress").run().succeeded();
            if per_cent > 0.0 {
                let filter = host.typed("tc filter add dev eth0 ingress protocol all bpf bytecode").arg(&program);
                filter.args("action mirred egress redirect dev lo".split(' ')).run().succeeded();
            }
        }
    }

    /// Frames lost so far, in both directions.
    fn lost(&self) -> u64 {
        let filters =
            |host| self.lab.host(host).typed("tc -s -j filter show dev eth0 ingress").run().succeeded().json();
        let packets = |filters: Value| -> u64 {
            let filters = filters.as_array().into_iter().flatten();
            filters.filter_map(|filter| filter["options"]["actions"][0]["stats"]["packets"].as_u64()).sum()
        };
        packets(filters(SERVER)) + packets(filters(CLIENT))
    }

    /// Measures for so long, and sees that frames are lost if they are to be.
    pub fn measure(&self, images: &Images, server: Server, client: Client, per_cent: f64, time: Duration) -> Sample {
        self.lose(per_cent);
        let sample = Measurement { lab: &self.lab, images, server, client }.run(time);
        assert!(per_cent == 0.0 || self.lost() > 0, "no frame was lost, so nothing is known about losses");
        sample
    }
}

/// One measurement.
struct Measurement<'a> {
    lab: &'a Lab,
    images: &'a Images,
    server: Server,
    client: Client,
}

/// What a client says about its run.
struct Said {
    requests: f64,
    sample: Sample,
}

impl Measurement<'_> {
    fn run(&self, time: Duration) -> Sample {
        let files = self.files();
        if self.caching() == Caching::Cached {
            warm(&files, self.writes());
        }
        let sample = match self.client {
            Client::Frames(frames) => self.loaded(&self.serve(&files), &[], time, |time| self.frames(frames, time)),
            Client::Fio(fio) => {
                let servers = self.serve(&files);
                let (place, initiator) = self.disk_for_fio(&files);
                let sample = self.loaded(&servers, initiator.as_slice(), time, |time| self.fio(fio, &place, time));
                if let Some(initiator) = initiator {
                    initiator.stop().succeeded();
                }
                sample
            }
            Client::Initiator(load) => self.loaded(&self.serve(&files), &[], time, |time| self.initiator(load, time)),
            Client::Filling => self.filling(&files),
            Client::FirstAnswer => self.first_answer(&files),
        };
        if self.writes() {
            settle(&files);
        }
        sample
    }

    fn writes(&self) -> bool {
        match self.client {
            Client::Frames(load) => load.writes,
            Client::Fio(load) | Client::Initiator(load) => load.rw.ends_with("write"),
            Client::Filling => true,
            Client::FirstAnswer => false,
        }
    }

    /// Loads what runs, briefly at first, and adds what the processes cost to what the client says.
    fn loaded(
        &self,
        servers: &[Daemon],
        initiators: &[Daemon],
        time: Duration,
        load: impl Fn(Duration) -> Said,
    ) -> Sample {
        load(WARM_UP);
        let before = [cost(servers), cost(initiators)];
        let Said { requests, mut sample } = load(time);
        let after = [cost(servers), cost(initiators)];
        for (metric, number) in [(Metric::ServerCpu, 0), (Metric::InitiatorCpu, 1)] {
            let spent = after[number] - before[number];
            if spent > Duration::ZERO {
                sample.insert(metric, spent.as_secs_f64() * 1e6 / requests);
            }
        }
        sample
    }

    fn exports(&self) -> u32 {
        match self.server {
            Server::Target { exports, .. } | Server::Vblade { exports, .. } | Server::Floor { exports, .. } => exports,
            Server::Nbdkit | Server::QemuNbd | Server::File => 1,
        }
    }

    fn caching(&self) -> Caching {
        match self.server {
            Server::Target { caching, .. } | Server::Vblade { caching, .. } => caching,
            Server::Floor { .. } | Server::Nbdkit | Server::QemuNbd => Caching::Cached,
            Server::File => Caching::Direct,
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        match self.server {
            Server::Floor { serves_file: false, .. } => Vec::new(),
            _ => self.images.set(self.exports(), self.caching()),
        }
    }

    fn sectors_each(&self) -> u64 {
        SET_BYTES / 512 / u64::from(self.exports())
    }

    /// Starts the server and waits until it serves.
    fn serve(&self, files: &[PathBuf]) -> Vec<Daemon> {
        let host = self.lab.host(SERVER);
        match self.server {
            Server::Target { caching, .. } => {
                vec![target(host, files, caching).spawn_ready(|line| line.starts_with("serving"))]
            }
            Server::Vblade { caching, .. } => {
                (0..).zip(files).map(|(number, file)| vblade(host, number, file, caching)).collect()
            }
            Server::Floor { exports, .. } => {
                let floor = bench(host, SERVER_CPU).args(["floor", "--interface", "eth0", "--device", "e0.1"]);
                let floor =
                    floor.args(["--devices", &exports.to_string(), "--sectors", &self.sectors_each().to_string()]);
                let floor = files.iter().fold(floor, |floor, file| floor.arg("--file").arg(file));
                vec![floor.spawn_ready(|line| line == "ready")]
            }
            Server::Nbdkit => {
                let nbdkit = pinned(host, SERVER_CPU, "nbdkit").args(["--foreground", "--ipaddr", SERVER_IP, "file"]);
                vec![nbdkit.arg(&files[0]).spawn()]
            }
            Server::QemuNbd => {
                let qemu =
                    pinned(host, SERVER_CPU, "qemu-nbd").args(["--persistent", "--format=raw", "--bind", SERVER_IP]);
                vec![qemu.arg(&files[0]).spawn()]
            }
            Server::File => Vec::new(),
        }
    }

    /// Where fio finds the disk, and the initiator that brings it there.
    fn disk_for_fio(&self, files: &[PathBuf]) -> (String, Option<Daemon>) {
        let host = self.lab.host(CLIENT);
        let (place, initiator) = match self.server {
            Server::File => return (files[0].display().to_string(), None),
            Server::Nbdkit | Server::QemuNbd => (format!("nbd://{SERVER_IP}"), None),
            Server::Target { .. } | Server::Vblade { .. } | Server::Floor { .. } => {
                let socket = "e0.1.sock";
                let attach = pinned(host, CLIENT_CPU, "aoe-attach").args(["--foreground", "e0.1"]);
                let attach = attach.arg(format!("unix:{}", self.lab.path(socket).display()));
                (self.lab.nbd_uri(socket), Some(attach.spawn()))
            }
        };
        wait_for("an NBD server", || (host.command("nbdinfo").args(["--size", &place]).run().code == 0).then_some(()));
        (place, initiator)
    }

    /// Loads with raw frames.
    fn frames(&self, load: Frames, time: Duration) -> Said {
        let command =
            bench(self.lab.host(CLIENT), CLIENT_CPU).args(["load", "--interface", "eth0", "--device", "e0.1"]);
        // The first measurement of a server is its warm-up; all that it is asked counts.
        let command = command.args(["--warmup", "0", "--rw", if load.writes { "write" } else { "read" }]);
        let rate = load.rate.map(u64::from);
        let numbers = [
            ("--devices", Some(u64::from(self.exports()))),
            ("--sectors", Some(u64::from(load.sectors))),
            ("--span-sectors", Some(self.sectors_each())),
            ("--depth", Some(u64::from(load.depth))),
            ("--clients", Some(u64::from(load.stations))),
            ("--rate", rate),
        ];
        let numbers = numbers.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?.to_string()]));
        let command = if load.sleeps { command.arg("--sleep") } else { command };
        let command = command.args(numbers.flatten()).args(["--seconds", &time.as_secs_f64().to_string()]);
        let said = command.run().succeeded().json();
        let sample = Sample::from([
            (Metric::Requests, number(&said["per_second"])),
            (Metric::Mebibytes, number(&said["per_second"]) * f64::from(load.sectors) / 2048.0),
            (Metric::Median, number(&said["latency_us"]["p50"])),
            (Metric::Tail, number(&said["latency_us"]["p99"])),
            (Metric::LoadCpu, number(&said["cpu_us_per_request"])),
        ]);
        Said { requests: number(&said["requests"]), sample }
    }

    /// Loads with fio.
    fn fio(&self, load: Blocks, place: &str, time: Duration) -> Said {
        // On the file alone fio does a server's work, so it has a server's processor.
        let is_local = matches!(self.server, Server::File);
        let fio = pinned(self.lab.host(CLIENT), if is_local { SERVER_CPU } else { CLIENT_CPU }, "fio");
        let fio = fio.args(["--name=bench", "--output-format=json", "--time_based", "--randrepeat=0"]);
        let fio = if is_local {
            fio.args(["--ioengine=io_uring", "--direct=1"]).arg(format!("--filename={place}"))
        } else {
            fio.arg("--ioengine=nbd").arg(format!("--uri={place}"))
        };
        let fio = fio.arg(format!("--rw={}", load.rw)).arg(format!("--bs={}", load.block));
        let fio = fio.arg(format!("--iodepth={}", load.depth)).arg(format!("--size={SET_BYTES}"));
        let said = fio.arg(format!("--runtime={}ms", time.as_millis())).run().succeeded().stdout;
        // Ahead of the report it says that it is connected.
        let report = said.find('{').map(|start| &said[start..]).and_then(|report| serde_json::from_str(report).ok());
        let report: Value = report.unwrap_or_else(|| panic!("fio reports nothing: {said}"));
        let job = &report["jobs"][0];
        let way = &job[if self.writes() { "write" } else { "read" }];
        let (requests, seconds) = (number(&way["total_ios"]), number(&job["job_runtime"]) / 1e3);
        let processor = (number(&job["usr_cpu"]) + number(&job["sys_cpu"])) / 100.0 * seconds;
        let latency = |quantile: &str| number(&way["clat_ns"]["percentile"][quantile]) / 1e3;
        let sample = Sample::from([
            (Metric::Requests, number(&way["iops"])),
            (Metric::Mebibytes, number(&way["bw_bytes"]) / f64::from(1 << 20)),
            (Metric::Median, latency("50.000000")),
            (Metric::Tail, latency("99.000000")),
            (Metric::LoadCpu, processor * 1e6 / requests),
        ]);
        Said { requests, sample }
    }

    /// Loads with our initiator.
    fn initiator(&self, load: Blocks, time: Duration) -> Said {
        let program = pinned(self.lab.host(CLIENT), CLIENT_CPU, "aoe-bench").args(["e0.1", "--json", "--yes"]);
        let program =
            program.args(["--rw", load.rw, "--bs", &load.block.to_string(), "--depth", &load.depth.to_string()]);
        let said = program.args(["--seconds", &time.as_secs_f64().to_string()]).run().succeeded().json();
        let sample = Sample::from([
            (Metric::Requests, number(&said["iops"])),
            (Metric::Mebibytes, number(&said["mib_per_s"])),
            (Metric::Median, number(&said["latency_us"]["p50"])),
            (Metric::Tail, number(&said["latency_us"]["p99"])),
            (Metric::InitiatorCpu, number(&said["cpu_us_per_request"])),
        ]);
        Said { requests: number(&said["requests"]) + number(&said["drained"]), sample }
    }

    /// The memory of a server whose tables are full.
    fn filling(&self, files: &[PathBuf]) -> Sample {
        let server = self.serve(files);
        let load = Frames { writes: true, sectors: 8, depth: 64, rate: None, stations: FILLING_CLIENTS, sleeps: false };
        let mut written = 0;
        for _ in 0..FILLING_ROUNDS {
            if written < FILLING_WRITES {
                written += self.frames(load, FILLING_ROUND).requests as u64;
            }
        }
        assert!(written >= FILLING_WRITES, "only {written} writes in {FILLING_ROUNDS} rounds of {FILLING_ROUND:?}");
        self.frames(Frames { writes: false, ..load }, WARM_UP);
        let bytes: u64 = server.iter().map(|process| peak_memory(process.id())).sum();
        Sample::from([(Metric::Memory, bytes as f64 / f64::from(1 << 20))])
    }

    /// How long a server takes from its start to an answer of its last export.
    fn first_answer(&self, files: &[PathBuf]) -> Sample {
        let last = disk(self.exports() - 1);
        let asker = bench(self.lab.host(CLIENT), CLIENT_CPU).args(["first-answer", "--interface", "eth0"]);
        let mut asker = asker.args(["--device", &last.to_string()]).spawn_ready(|line| line == "asking");
        let started = monotonic_now();
        let _server = self.serve(files);
        assert!(asker.ends_within(Duration::from_secs(60)), "an asker that has an end");
        let output = asker.stop().succeeded().stdout;
        let answered: u64 = output.lines().last().and_then(|line| line.parse().ok()).expect("the time of the answer");
        Sample::from([(Metric::Start, (answered - started.as_nanos()) as f64 / 1e9)])
    }
}

/// A program on a host, on one processor.
fn pinned<'lab>(host: Host<'lab>, processor: &str, program: impl AsRef<Path>) -> HostCommand<'lab> {
    host.command("taskset").args(["-c", processor]).arg(program.as_ref())
}

/// This program on a host.
fn bench<'lab>(host: Host<'lab>, processor: &str) -> HostCommand<'lab> {
    pinned(host, processor, std::env::current_exe().expect("the path of this program"))
}

fn disk(number: u32) -> Address {
    device_address(Address::new(0, 1), number)
}

fn target<'lab>(host: Host<'lab>, files: &[PathBuf], caching: Caching) -> HostCommand<'lab> {
    // Nothing that is lost here matters to anybody, and a hold would be measured.
    let target = pinned(host, SERVER_CPU, "aoe-target").args(["export", "--cache", "writeback", "--no-hold"]);
    let target = if caching == Caching::Direct { target.arg("--direct") } else { target };
    (0..).zip(files).fold(target, |target, (number, file)| {
        let Address { shelf, slot } = disk(number);
        target.args(["shelf", &shelf.to_string(), "slot", &slot.to_string()]).arg(file)
    })
}

/// vblade queues 16 requests unless told otherwise, fewer than the load has under way; ours queues 64.
fn vblade(host: Host<'_>, number: u32, file: &Path, caching: Caching) -> Daemon {
    let Address { shelf, slot } = disk(number);
    let vblade = pinned(host, SERVER_CPU, "vblade").args(["-b", "64"]);
    let vblade = if caching == Caching::Direct { vblade.arg("-d") } else { vblade };
    let vblade = vblade.args([shelf.to_string(), slot.to_string()]).arg("eth0").arg(file);
    vblade.spawn_ready(|line| line.starts_with("pid"))
}

fn cost(processes: &[Daemon]) -> Duration {
    processes.iter().map(|process| processor_time(process.id())).sum()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}
