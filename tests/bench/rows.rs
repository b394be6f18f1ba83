//! What is measured: experiments, and the goals that are judged by them.
//!
//! An experiment puts several contenders to the same load. One with an axis repeats that for the steps on it. A goal
//! compares two contenders of one experiment, or one with a number.

use crate::contenders::{Blocks, Client, Frames, Server};
use crate::figures::{Metric, Spread};
use crate::images::Caching::{Cached, Direct};
use crate::rounds::Results;

/// What an experiment is about.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// What `--only` calls it.
    pub name: &'static str,
    /// The head of its section.
    pub title: &'static str,
    /// How it is done, in sentences.
    pub text: &'static str,
    /// What its tables show.
    pub shown: &'static [Metric],
    /// What its steps are, if it has any.
    pub axis: Option<Axis>,
}

/// What the steps of an experiment are.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// With the unit.
    pub label: &'static str,
    /// What the steps are to a drawing.
    pub place: Place,
}

/// What the steps of an axis are to a drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Names: each is as far from the next.
    Names,
    /// Numbers. What is drawn above them is latency, on a logarithmic scale.
    Numbers,
}

/// How often, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// What goals are judged by.
    Goal,
    /// One of many steps.
    Step,
    /// It takes long and has no noise.
    Once,
}

/// An experiment.
pub struct Experiment {
    /// What it is about.
    pub about: About,
    /// Bytes.
    pub mtu: u32,
    /// How often, and how long.
    pub effort: Effort,
    /// In the order of a round.
    pub cells: Vec<Cell>,
}

/// One measurement of each round.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Who is measured.
    pub contender: &'static str,
    /// Where on the axis; 0 without one.
    pub step: f64,
    /// Frames that are lost, in per cent of each direction.
    pub loss: f64,
    /// Who serves.
    pub server: Server,
    /// Who asks.
    pub client: Client,
}

/// A promise in numbers.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// The experiment's name.
    pub experiment: &'static str,
    /// What is compared, in words.
    pub what: &'static str,
    /// What is compared.
    pub metric: Metric,
    /// Who is judged.
    pub of: &'static str,
    /// Beside whom; `None`: the number itself is judged.
    pub against: Option<&'static str>,
    /// What is asked for.
    pub limit: Limit,
}

/// What a goal asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Limit {
    /// Whether a value is within it.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Limit::AtMost(limit) => value <= limit,
            Limit::AtLeast(limit) => value >= limit,
        }
    }
}

impl Goal {
    /// The same of who does the least that a target must, or of the disk alone, where that was measured: no target can be
    /// expected to be better.
    pub fn least(&self, results: &Results) -> Option<Spread> {
        let find = |name| results.measured.iter().find(|measured| measured.contender == name);
        let of = [FILE_FLOOR, LOCAL].into_iter().filter(|name| self.against != Some(name)).find_map(find)?;
        of.ratio(find(self.against?)?, self.metric)
    }

    /// What was measured, of the experiment's results; `None` if that is not among them.
    pub fn measured(&self, results: &Results) -> Option<Spread> {
        let find = |name| results.measured.iter().find(|measured| measured.contender == name);
        let of = find(self.of)?;
        match self.against {
            Some(against) => of.ratio(find(against)?, self.metric),
            None => of.spread(self.metric),
        }
    }
}

/// Our target, or our whole way from target to NBD socket.
const OURS: &str = "aoe-target";
const VBLADE: &str = "vblade";
const FLOOR: &str = "floor";
const FILE_FLOOR: &str = "floor with a file";
const ATTACHED: &str = "aoe-attach + aoe-target";
const INITIATOR: &str = "aoe-bench";
const NBDKIT: &str = "nbdkit";
const QEMU: &str = "qemu-nbd";
const LOCAL: &str = "local fio";

/// Every goal, in the order of the document.
pub const GOALS: [Goal; 26] = {
    use Limit::{AtLeast, AtMost};
    use Metric::{Mebibytes, Median, Memory, Requests, ServerCpu, Start};
    const fn goal(
        experiment: &'static str,
        what: &'static str,
        metric: Metric,
        of: &'static str,
        against: &'static str,
        limit: Limit,
    ) -> Goal {
        Goal { experiment, what, metric, of, against: Some(against), limit }
    }
    const fn number(experiment: &'static str, what: &'static str, metric: Metric, limit: Limit) -> Goal {
        Goal { experiment, what, metric, of: OURS, against: None, limit }
    }
    [
        goal("read_4k", "CPU time per 4 KiB read, against vblade", ServerCpu, OURS, VBLADE, AtMost(0.5)),
        goal("read_8k", "CPU time per 8 KiB read, against vblade", ServerCpu, OURS, VBLADE, AtMost(0.45)),
        goal("write_4k", "CPU time per 4 KiB write, against vblade", ServerCpu, OURS, VBLADE, AtMost(0.6)),
        goal("read_4k", "CPU time per 4 KiB read, against the floor", ServerCpu, OURS, FLOOR, AtMost(1.2)),
        goal("read_8k", "CPU time per 8 KiB read, against the floor", ServerCpu, OURS, FLOOR, AtMost(1.2)),
        goal("write_4k", "CPU time per 4 KiB write, against the floor", ServerCpu, OURS, FLOOR, AtMost(1.2)),
        goal("read_4k", "4 KiB reads per second, against vblade", Requests, OURS, VBLADE, AtLeast(1.7)),
        goal("read_8k", "8 KiB reads per second, against vblade", Requests, OURS, VBLADE, AtLeast(1.7)),
        goal("read_depth_1", "median latency at depth 1, against vblade", Median, OURS, VBLADE, AtMost(1.0)),
        goal("read_depth_1_sleep", "the same, of a client that sleeps", Median, OURS, VBLADE, AtMost(1.0)),
        goal("direct_read_4k", "O_DIRECT reads per second, against local fio", Requests, OURS, LOCAL, AtLeast(0.9)),
        goal("direct_read_4k", "O_DIRECT reads per second, against vblade -d", Requests, OURS, VBLADE, AtLeast(6.0)),
        goal("direct_write_4k", "O_DIRECT writes per second, against local fio", Requests, OURS, LOCAL, AtLeast(0.9)),
        goal("direct_write_4k", "O_DIRECT writes per second, against vblade -d", Requests, OURS, VBLADE, AtLeast(6.0)),
        goal(
            "read_mtu_1500",
            "1 KiB reads per second at MTU 1500, against vblade",
            Requests,
            OURS,
            VBLADE,
            AtLeast(1.7),
        ),
        goal("nbd_4k", "4 KiB reads per second through NBD, against nbdkit", Requests, ATTACHED, NBDKIT, AtLeast(1.0)),
        goal("nbd_4k", "4 KiB reads per second through NBD, against qemu-nbd", Requests, ATTACHED, QEMU, AtLeast(1.0)),
        goal("nbd_128k", "sequential 128 KiB through NBD, against nbdkit", Mebibytes, ATTACHED, NBDKIT, AtLeast(0.6)),
        goal("nbd_128k", "sequential 128 KiB through NBD, against qemu-nbd", Mebibytes, ATTACHED, QEMU, AtLeast(0.6)),
        goal(
            "loss_1",
            "goodput of aoe-attach at 1 % loss, against no loss",
            Requests,
            "aoe-attach, 1 % loss",
            "aoe-attach, no loss",
            AtLeast(0.75),
        ),
        goal(
            "loss_1",
            "goodput of aoe-bench at 1 % loss, against no loss",
            Requests,
            "aoe-bench, 1 % loss",
            "aoe-bench, no loss",
            AtLeast(0.75),
        ),
        goal(
            "exports_256",
            "requests per second, 256 exports against 1",
            Requests,
            "256 exports",
            "1 export",
            AtLeast(0.95),
        ),
        goal(
            "clients_64",
            "requests per second, 64 stations against 1",
            Requests,
            "64 stations",
            "1 station",
            AtLeast(0.9),
        ),
        goal("exports_16", "CPU time, 16 exports, against 16 vblade processes", ServerCpu, OURS, VBLADE, AtMost(0.5)),
        number("memory_256", "memory after load, 256 exports, MiB", Memory, AtMost(64.0)),
        number("start_256", "start to first answer, 256 exports, seconds", Start, AtMost(0.5)),
    ]
};

/// Random reads of 4 KiB, 32 at a time, by one station.
const READS: Frames = Frames { writes: false, sectors: 8, depth: 32, rate: None, stations: 1, sleeps: false };

/// Depth 32, as with frames.
const BLOCK_READS: Blocks = Blocks { rw: "randread", block: 4096, depth: 32 };

/// What costs and how much comes of it.
const LOADED: &[Metric] = &[Metric::Requests, Metric::Median, Metric::Tail, Metric::ServerCpu, Metric::LoadCpu];
const THROUGH_NBD: &[Metric] = &[
    Metric::Requests,
    Metric::Mebibytes,
    Metric::Median,
    Metric::Tail,
    Metric::ServerCpu,
    Metric::InitiatorCpu,
    Metric::LoadCpu,
];

/// Every experiment, in the order of the document.
pub fn experiments() -> Vec<Experiment> {
    [goal_experiments(), sweeps()].into_iter().flatten().collect()
}

const TARGET: Server = Server::Target { exports: 1, caching: Cached };
const ONE_VBLADE: Server = Server::Vblade { exports: 1, caching: Cached };
const ONE_FLOOR: Server = Server::Floor { exports: 1, serves_file: false };

/// The three that answer raw frames.
const RESPONDERS: [(&str, Server); 3] = [(OURS, TARGET), (VBLADE, ONE_VBLADE), (FLOOR, ONE_FLOOR)];

fn cell(contender: &'static str, server: Server, client: Client) -> Cell {
    Cell { contender, step: 0.0, loss: 0.0, server, client }
}

/// An experiment that goals are judged by, at MTU 9000.
fn goal_experiment(
    name: &'static str,
    title: &'static str,
    text: &'static str,
    shown: &'static [Metric],
    cells: impl IntoIterator<Item = Cell>,
) -> Experiment {
    let about = About { name, title, text, shown, axis: None };
    Experiment { about, mtu: 9000, effort: Effort::Goal, cells: cells.into_iter().collect() }
}

fn goal_experiments() -> Vec<Experiment> {
    let respond = |load: Frames| RESPONDERS.map(|(name, server)| cell(name, server, Client::Frames(load)));
    let beside_floors = |load: Frames| {
        let floor = Server::Floor { exports: 1, serves_file: true };
        respond(load).into_iter().chain([cell(FILE_FLOOR, floor, Client::Frames(load))])
    };
    let direct = |load: Frames, rw: &'static str| {
        [
            cell(OURS, Server::Target { exports: 1, caching: Direct }, Client::Frames(load)),
            cell(LOCAL, Server::File, Client::Fio(Blocks { rw, ..BLOCK_READS })),
            cell(VBLADE, Server::Vblade { exports: 1, caching: Direct }, Client::Frames(load)),
        ]
    };
    let nbd = |load: Blocks| {
        [(ATTACHED, TARGET), (NBDKIT, Server::Nbdkit), (QEMU, Server::QemuNbd)]
            .map(|(name, server)| cell(name, server, Client::Fio(load)))
    };
    vec![
        goal_experiment(
            "read_4k",
            "Random reads of 4 KiB",
            "A cached file, 32 requests under way. \"floor with a file\" reads by pread (writes by pwrite) and nothing else: \
             the least that a target of files can cost.",
            LOADED,
            beside_floors(READS),
        ),
        goal_experiment(
            "read_8k",
            "Random reads of 8 KiB",
            "A cached file, 32 requests under way.",
            LOADED,
            beside_floors(Frames { sectors: 16, ..READS }),
        ),
        goal_experiment(
            "write_4k",
            "Random writes of 4 KiB",
            "Write-back (`--cache writeback`; vblade knows nothing else), 32 requests under way.",
            LOADED,
            beside_floors(Frames { writes: true, ..READS }),
        ),
        goal_experiment(
            "read_depth_1",
            "One read of 4 KiB at a time",
            "A cached file; each request is sent when the one before is answered. The load never sleeps, the target may.",
            LOADED,
            respond(Frames { depth: 1, ..READS }),
        ),
        goal_experiment(
            "read_depth_1_sleep",
            "One read of 4 KiB at a time, by a client that sleeps",
            "The same with a load that sleeps until its answer comes, as real clients do. To wake it is the server's work.",
            LOADED,
            respond(Frames { depth: 1, sleeps: true, ..READS }),
        ),
        goal_experiment(
            "direct_read_4k",
            "Random reads of 4 KiB around the page cache",
            "`aoe-target --direct`, `vblade -d`, and fio with io_uring on the same file without any network; 32 requests \
             under way.",
            LOADED,
            direct(READS, "randread"),
        ),
        goal_experiment(
            "direct_write_4k",
            "Random writes of 4 KiB around the page cache",
            "As above, with writes; none of them asks for more than O_DIRECT does.",
            LOADED,
            direct(Frames { writes: true, ..READS }, "randwrite"),
        ),
        Experiment {
            mtu: 1500,
            ..goal_experiment(
                "read_mtu_1500",
                "Random reads of 1 KiB at MTU 1500",
                "What fits a frame there. A cached file, 32 requests under way.",
                LOADED,
                beside_floors(Frames { sectors: 2, ..READS }),
            )
        },
        goal_experiment(
            "nbd_4k",
            "Random reads of 4 KiB through NBD",
            "fio's NBD client with 32 requests under way, on a unix socket of aoe-attach with AoE on the wire, and on NBD \
             over TCP on the same wire. The client's side (fio and aoe-attach) has one processor, the server's the other. nbdkit \
             and qemu-nbd run with their defaults.",
            THROUGH_NBD,
            nbd(BLOCK_READS),
        ),
        goal_experiment(
            "nbd_128k",
            "Sequential reads of 128 KiB through NBD",
            "The same with 8 requests under way. On a virtual cable TCP hands over 64 KiB at a time, AoE has frames of \
             8 KiB.",
            THROUGH_NBD,
            nbd(Blocks { rw: "read", block: 128 << 10, depth: 8 }),
        ),
        goal_experiment(
            "initiator_4k",
            "Our initiator without NBD",
            "Random reads of 4 KiB, 32 under way, by aoe-bench, and by the lean generator, which knows no time-outs, windows \
             or order.",
            &[Metric::Requests, Metric::Median, Metric::Tail, Metric::ServerCpu, Metric::InitiatorCpu, Metric::LoadCpu],
            [
                cell(INITIATOR, TARGET, Client::Initiator(BLOCK_READS)),
                cell("lean generator", TARGET, Client::Frames(READS)),
            ],
        ),
        goal_experiment(
            "loss_1",
            "Random reads of 4 KiB while frames are lost",
            "fio through aoe-attach, and aoe-bench, 32 requests under way; the kernel drops 1 % of the frames of each direction \
             at random.",
            THROUGH_NBD,
            [("aoe-attach, no loss", 0.0, true), ("aoe-attach, 1 % loss", 1.0, true)]
                .into_iter()
                .chain([("aoe-bench, no loss", 0.0, false), ("aoe-bench, 1 % loss", 1.0, false)])
                .map(|(name, loss, attached)| {
                    let client = if attached { Client::Fio(BLOCK_READS) } else { Client::Initiator(BLOCK_READS) };
                    Cell { loss, ..cell(name, TARGET, client) }
                }),
        ),
        goal_experiment(
            "exports_256",
            "256 exports in one process",
            "The same 32 requests under way and the same amount of cached data, in one file and in 256.",
            LOADED,
            [("1 export", 1), ("256 exports", 256)]
                .map(|(name, exports)| cell(name, Server::Target { exports, caching: Cached }, Client::Frames(READS))),
        ),
        goal_experiment(
            "clients_64",
            "64 stations",
            "The same 32 requests under way, from one MAC address and from 64.",
            LOADED,
            [("1 station", 1), ("64 stations", 64)]
                .map(|(name, stations)| cell(name, TARGET, Client::Frames(Frames { stations, ..READS }))),
        ),
        goal_experiment(
            "exports_16",
            "16 exports",
            "One process of ours, 16 processes of vblade; 32 requests under way in all. vblade's processor time is that of \
             all its processes.",
            LOADED,
            [
                cell(OURS, Server::Target { exports: 16, caching: Cached }, Client::Frames(READS)),
                cell(VBLADE, Server::Vblade { exports: 16, caching: Cached }, Client::Frames(READS)),
            ],
        ),
        Experiment {
            effort: Effort::Once,
            ..goal_experiment(
                "memory_256",
                "Memory with 256 exports",
                "After more writes by 64 stations than the target can remember, and reads.",
                &[Metric::Memory],
                [cell(OURS, Server::Target { exports: 256, caching: Cached }, Client::Filling)],
            )
        },
        goal_experiment(
            "start_256",
            "Start with 256 exports",
            "From the start of the program until its last export has answered a station that asks every millisecond.",
            &[Metric::Start],
            [cell(OURS, Server::Target { exports: 256, caching: Cached }, Client::FirstAnswer)],
        ),
    ]
}

/// An experiment with steps, at MTU 9000.
fn sweep(about: About, cells: impl IntoIterator<Item = Cell>) -> Experiment {
    Experiment { about, mtu: 9000, effort: Effort::Step, cells: cells.into_iter().collect() }
}

fn sweeps() -> Vec<Experiment> {
    const RESPONSE: &[Metric] = &[Metric::Requests, Metric::ServerCpu];
    let axis = |label| Some(Axis { label, place: Place::Names });
    // The responders one after the other at each step.
    let respond = |steps: &[u32], load: fn(u32) -> Frames| {
        let at = |step: &u32| {
            let (step, load) = (*step, Client::Frames(load(*step)));
            RESPONDERS.map(|(name, server)| Cell { step: f64::from(step), ..cell(name, server, load) })
        };
        steps.iter().flat_map(at).collect::<Vec<_>>()
    };
    let mut exports = Vec::new();
    for number in [1, 4, 16, 64, 256] {
        let at = |name, server| Cell { step: f64::from(number), ..cell(name, server, Client::Frames(READS)) };
        exports.push(at(OURS, Server::Target { exports: number, caching: Cached }));
        // So many processes are what nobody runs.
        if number <= 16 {
            exports.push(at(VBLADE, Server::Vblade { exports: number, caching: Cached }));
        }
    }
    vec![
        sweep(
            About {
                name: "over_load",
                title: "Latency over load",
                text: "Random reads of 4 KiB of a cached file, sent at a given rate whether answers come or not, as long as \
                       no more than 64 are under way. Latency counts from when a request was due.",
                shown: &[Metric::Median, Metric::Tail, Metric::Requests],
                axis: Some(Axis { label: "requests/s asked for", place: Place::Numbers }),
            },
            respond(&[10_000, 25_000, 50_000, 75_000, 100_000, 150_000, 200_000], |rate| Frames {
                rate: Some(rate),
                depth: 64,
                ..READS
            }),
        ),
        sweep(
            About {
                name: "over_depth",
                title: "Requests per second over depth",
                text: "Random reads of 4 KiB of a cached file.",
                shown: RESPONSE,
                axis: axis("requests under way"),
            },
            respond(&[1, 2, 4, 8, 16, 32, 64], |depth| Frames { depth, ..READS }),
        ),
        sweep(
            About {
                name: "over_block_size",
                title: "Requests per second over block size",
                text: "Random reads of a cached file, 32 under way, each in one frame.",
                shown: RESPONSE,
                axis: axis("sectors of 512 bytes"),
            },
            respond(&[1, 2, 4, 8, 16], |sectors| Frames { sectors, ..READS }),
        ),
        sweep(
            About {
                name: "over_loss",
                title: "Requests per second over loss",
                text: "fio through aoe-attach, and aoe-bench, 32 random reads of 4 KiB under way.",
                shown: &[Metric::Requests, Metric::Tail],
                axis: axis("% of the frames of each direction lost"),
            },
            [0.0, 0.1, 0.3, 1.0, 3.0].into_iter().flat_map(|loss| {
                [(ATTACHED, Client::Fio(BLOCK_READS)), (INITIATOR, Client::Initiator(BLOCK_READS))]
                    .map(|(name, client)| Cell { step: loss, loss, ..cell(name, TARGET, client) })
            }),
        ),
        sweep(
            About {
                name: "over_exports",
                title: "Requests per second over the number of exports",
                text: "Random reads of 4 KiB, 32 under way in all, of 256 MiB of cached data in all. A vblade process serves \
                       one export; the processor time is that of all.",
                shown: RESPONSE,
                axis: axis("exports"),
            },
            exports,
        ),
        sweep(
            About {
                name: "over_clients",
                title: "Requests per second over the number of clients",
                text: "Random reads of 4 KiB of a cached file, 32 under way in all, from so many MAC addresses.",
                shown: RESPONSE,
                axis: axis("stations"),
            },
            respond(&[1, 4, 16, 64], |stations| Frames { stations, ..READS }),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_goal_has_its_contenders() {
        let experiments = experiments();
        for goal in GOALS {
            let experiment = experiments.iter().find(|experiment| experiment.about.name == goal.experiment);
            let experiment = experiment.unwrap_or_else(|| panic!("no experiment is called {}", goal.experiment));
            let has = |name| experiment.cells.iter().any(|cell| cell.contender == name);
            assert!(has(goal.of) && goal.against.is_none_or(has), "{}", goal.what);
            assert!(experiment.about.shown.contains(&goal.metric), "{}: its figures are in no table", goal.what);
        }
    }

    #[test]
    fn names_and_places_are_told_apart() {
        let experiments = experiments();
        let names: BTreeSet<_> = experiments.iter().map(|experiment| experiment.about.name).collect();
        assert_eq!(names.len(), experiments.len());
        for experiment in &experiments {
            let places: BTreeSet<_> =
                experiment.cells.iter().map(|cell| (cell.contender, cell.step.to_bits())).collect();
            assert_eq!(places.len(), experiment.cells.len(), "{}", experiment.about.name);
            assert_eq!(experiment.about.axis.is_some(), experiment.effort == Effort::Step, "{}", experiment.about.name);
        }
    }

    #[test]
    fn limits_include_themselves() {
        assert!(Limit::AtMost(0.5).holds(0.5) && !Limit::AtMost(0.5).holds(0.51));
        assert!(Limit::AtLeast(1.7).holds(1.7) && !Limit::AtLeast(1.7).holds(1.69));
    }
}
