//! The document: goals and figures as Markdown.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sys::sysinfo::sysinfo;
use nix::sys::utsname::uname;

use crate::figures::{Measured, Metric};
use crate::plots::{self, Plot};
use crate::rounds::{Pace, Results};
use crate::rows::{GOALS, Goal, Limit, Place};

/// What only people know: it is kept in a file of its own and goes into every document.
const NOTES: &str = include_str!("notes.md");

/// What the figures were measured on.
pub struct Machine {
    processors: usize,
    model: String,
    memory: u64,
    kernel: String,
    filesystem: String,
    peers: Vec<String>,
}

impl Machine {
    /// This one.
    pub fn here(filesystem: String) -> Result<Machine> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("the kind of processor")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Machine {
            processors: std::thread::available_parallelism()?.get(),
            model: model.map_or("unknown", |(_, model)| model).trim().to_owned(),
            memory: sysinfo()?.ram_total(),
            kernel: version(&uname()?.release().to_string_lossy()).to_owned(),
            filesystem,
            peers: peers(),
        })
    }

    fn table(&self) -> String {
        let gibibytes = self.memory as f64 / f64::from(1 << 30);
        table(
            &["", "this machine"],
            [
                ["processors".to_owned(), format!("{} × {}", self.processors, self.model)],
                ["memory".to_owned(), format!("{gibibytes:.0} GiB")],
                ["kernel".to_owned(), format!("Linux {}", self.kernel)],
                ["filesystem of the disks".to_owned(), self.filesystem.clone()],
                ["peers".to_owned(), self.peers.join(", ")],
            ],
        )
    }
}

/// A kernel's version without what its builder added.
fn version(release: &str) -> &str {
    release.split('-').next().unwrap_or(release)
}

/// The peers' versions, from their packages.
fn peers() -> Vec<String> {
    let version = |package: &&str| {
        let output = Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]).output().ok()?;
        output.status.success().then(|| format!("{package} {}", String::from_utf8_lossy(&output.stdout)))
    };
    ["vblade", "nbdkit", "qemu-utils", "fio"].iter().filter_map(version).collect()
}

/// The whole document. The drawings it names are written by [`draw`].
pub fn document(machine: &Machine, pace: Pace, results: &[Results]) -> String {
    let introduction = format!(
        "# Benchmarks\n\n\
         Made by `tests/bench/run`, which installs what it needs, measures everything in one run and writes this file. Absolute \
         figures of a shared machine mean little; ratios of what was measured one after the other mean more. So every round \
         measures each contender once, in turn, and a ratio is taken within a round. Given are the median of the rounds and, in \
         brackets, the least and the greatest. Rounds of what goals are judged by: {}, each {:.1} s a \
         contender; of the steps of a plot: {}.\n\n\
         Two network namespaces are joined by a virtual cable (veth) at MTU 9000 unless said otherwise. Servers run on one \
         processor, the load and our initiator on another. The load on AoE targets is a lean generator on raw frames that never \
         sleeps while it measures. \"floor\" is a responder that touches no disk: what the wire costs. Processor times are those \
         of the processes, as the kernel counts them, user and kernel mode together.\n",
        pace.rounds,
        pace.time.as_secs_f64(),
        pace.rounds.div_ceil(2)
    );
    let sections = results.iter().map(section);
    let parts = [introduction, machine.table(), goals(results), "## Figures\n".to_owned()];
    parts.into_iter().chain(sections).chain([NOTES.to_owned()]).collect::<Vec<_>>().join("\n")
}

/// Writes the drawings of all results with steps to a folder.
pub fn draw(folder: &Path, results: &[Results]) -> Result<()> {
    for results in results {
        for (plot, file) in plots_of(results) {
            plots::draw(&folder.join(file), &plot)?;
        }
    }
    Ok(())
}

/// The table of goals: those of the experiments that were done.
pub fn goals(results: &[Results]) -> String {
    let row = |goal: &Goal| {
        let experiment = results.iter().find(|results| results.about.name == goal.experiment)?;
        let measured = goal.measured(experiment);
        let unit = if goal.against.is_some() { "×" } else { "" };
        let limit = match goal.limit {
            Limit::AtMost(limit) => format!("≤ {limit}{unit}"),
            Limit::AtLeast(limit) => format!("≥ {limit}{unit}"),
        };
        let show = |value: f64| format!("{value:.2}{unit}");
        let verdict = measured
            .map_or("not measured", |measured| if goal.limit.holds(measured.median) { "met" } else { "**not met**" });
        Some([
            goal.what.to_owned(),
            limit,
            measured.map_or("–".to_owned(), |measured| show(measured.median)),
            measured.map_or("–".to_owned(), |measured| format!("{}–{}", show(measured.least), show(measured.most))),
            goal.least(experiment).map_or("–".to_owned(), |least| show(least.median)),
            verdict.to_owned(),
            format!("`tests/bench/run --only {}`", goal.experiment),
        ])
    };
    let table = table(
        &["what", "goal", "measured", "spread", "limit here", "verdict", "command"],
        GOALS.iter().filter_map(row),
    );
    format!(
        "## Goals\n\n{table}\n\"limit here\" is the same ratio of what does the least: the floor that serves a file, or fio on \
         the file without a network. No target can be expected to be better.\n"
    )
}

/// The section of one experiment.
pub fn section(results: &Results) -> String {
    let about = &results.about;
    let mut text = format!("### {}\n\n{} (`--only {}`)\n\n", about.title, about.text, about.name);
    let Some(axis) = about.axis else {
        let rows = results.measured.iter().map(|measured| {
            let figures = about.shown.iter().map(|metric| figure(measured, *metric));
            std::iter::once(measured.contender.to_owned()).chain(figures).collect::<Vec<_>>()
        });
        let titles: Vec<_> = std::iter::once("").chain(about.shown.iter().map(|metric| metric.title())).collect();
        return text + &table(&titles, rows);
    };
    let contenders = contenders(results);
    for metric in about.shown {
        let rows = steps(results).into_iter().map(|step| {
            let find = |name: &&str| results.measured.iter().find(|one| one.step == step && one.contender == *name);
            let figures = contenders.iter().map(|name| find(name).map_or("–".to_owned(), |one| figure(one, *metric)));
            std::iter::once(step.to_string()).chain(figures).collect::<Vec<_>>()
        });
        let titles: Vec<_> = std::iter::once(axis.label).chain(contenders.iter().copied()).collect();
        text += &format!("{}:\n\n{}\n", metric.title(), table(&titles, rows));
    }
    for (plot, file) in plots_of(results) {
        text += &format!("![{}](benchmarks/{file})\n", plot.title);
    }
    text
}

fn figure(measured: &Measured, metric: Metric) -> String {
    measured.spread(metric).map_or("–".to_owned(), |spread| spread.show(|value| metric.show(value)))
}

/// Who was measured, each once, in the order of a round.
fn contenders(results: &Results) -> Vec<&'static str> {
    let mut names = Vec::new();
    for measured in &results.measured {
        if !names.contains(&measured.contender) {
            names.push(measured.contender);
        }
    }
    names
}

/// The steps, each once, in the order of a round.
fn steps(results: &Results) -> Vec<f64> {
    let mut steps: Vec<_> = results.measured.iter().map(|measured| measured.step).collect();
    steps.dedup();
    steps
}

/// The drawings of an experiment, one for each figure it shows, and their files.
fn plots_of(results: &Results) -> Vec<(Plot, String)> {
    let about = &results.about;
    let Some(axis) = about.axis.filter(|_| !results.measured.is_empty()) else { return Vec::new() };
    let steps = steps(results);
    let is_named = axis.place == Place::Names;
    let place = |measured: &Measured| {
        if !is_named {
            return Some(measured.step);
        }
        steps.iter().position(|step| *step == measured.step).map(|position| position as f64)
    };
    let is_latency = |metric: &&Metric| matches!(metric, Metric::Median | Metric::Tail);
    let plotted = about.shown.iter().filter(|metric| is_named || is_latency(metric));
    let plot = |metric: &Metric| {
        let line = |name: &&'static str| {
            let of_it = results.measured.iter().filter(|measured| measured.contender == *name);
            let points = of_it.filter_map(|measured| Some((place(measured)?, measured.spread(*metric)?)));
            (*name, points.collect())
        };
        let plot = Plot {
            title: about.title.to_owned(),
            across: axis.label.to_owned(),
            up: metric.title().to_owned(),
            steps: is_named.then(|| steps.iter().map(f64::to_string).collect()),
            logarithmic: !is_named,
            lines: contenders(results).iter().map(line).collect(),
        };
        (plot, format!("{}-{}.svg", about.name, format!("{metric:?}").to_lowercase()))
    };
    plotted.map(plot).collect()
}

/// A table in Markdown.
fn table<Row: AsRef<[String]>>(titles: &[&str], rows: impl IntoIterator<Item = Row>) -> String {
    let line = |cells: &mut dyn Iterator<Item = &str>| format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
    let mut text = line(&mut titles.iter().copied());
    text += &line(&mut titles.iter().map(|_| "---"));
    for row in rows {
        text += &line(&mut row.as_ref().iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::figures::Sample;
    use crate::rows::experiments;

    /// Results of all experiments, in which every figure of a contender is the same number.
    fn results(number: impl Fn(&str) -> f64) -> Vec<Results> {
        let one = |experiment: crate::rows::Experiment| {
            let about = experiment.about;
            let sample = |name| Sample::from_iter(about.shown.iter().map(|metric| (*metric, number(name))));
            let measured = experiment.cells.iter().map(|cell| Measured {
                contender: cell.contender,
                step: cell.step,
                samples: vec![sample(cell.contender); 3],
            });
            Results { about, measured: measured.collect() }
        };
        experiments().into_iter().map(one).collect()
    }

    fn machine() -> Machine {
        let text = |text: &str| text.to_owned();
        let peers = vec![text("peer 1")];
        Machine { processors: 2, model: text("X"), memory: 1 << 30, kernel: text("6"), filesystem: text("ext4"), peers }
    }

    fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
        text.lines().filter(|line| line.starts_with('|')).map(|line| line.split('|').map(str::trim).collect())
    }

    #[test]
    fn every_goal_has_a_row_with_its_verdict_and_command() {
        let text = goals(&results(|name| if name == "vblade" { 2.0 } else { 1.0 }));
        let rows: Vec<_> = rows(&text).collect();
        assert_eq!(rows.len(), 2 + GOALS.len());
        for (row, goal) in rows[2..].iter().zip(GOALS) {
            assert_eq!(row[1], goal.what);
            assert_eq!(row[7], format!("`tests/bench/run --only {}`", goal.experiment));
        }
        let [read, write] = ["per 4 KiB read, against vblade", "per 4 KiB read, against the floor"]
            .map(|what| rows.iter().find(|row| row[1].contains(what)).unwrap());
        assert_eq!(read[2..7], ["≤ 0.5×", "0.50×", "0.50×–0.50×", "0.50×", "met"]);
        assert_eq!(write[2..7], ["≤ 1.2×", "1.00×", "1.00×–1.00×", "1.00×", "met"]);
        let faster = rows.iter().find(|row| row[1].starts_with("4 KiB reads per second, against vblade")).unwrap();
        assert_eq!(faster[2..7], ["≥ 1.7×", "0.50×", "0.50×–0.50×", "0.50×", "**not met**"]);
        let start = rows.iter().find(|row| row[1].starts_with("start to first answer")).unwrap();
        assert_eq!(start[5], "–", "nobody does the least there");
    }

    #[test]
    fn what_was_not_measured_has_no_verdict() {
        let mut results = results(|_| 1.0);
        results.iter_mut().for_each(|results| results.measured.clear());
        let text = goals(&results);
        assert!(rows(&text).skip(2).all(|row| row[3..7] == ["–", "–", "–", "not measured"]), "{text}");
    }

    #[test]
    fn the_document_has_the_same_shape_whatever_was_measured() {
        let pace = Pace { rounds: 5, time: Duration::from_secs(1) };
        let [one, other] = [1.0, 12345.678].map(|number| document(&machine(), pace, &results(|_| number)));
        let shape =
            |text: &str| text.lines().map(|line| (line.matches('|').count(), line.is_empty())).collect::<Vec<_>>();
        assert_eq!(shape(&one), shape(&other));
        for experiment in experiments() {
            assert!(one.contains(&format!("### {}\n", experiment.about.title)));
        }
        assert!(one.ends_with(NOTES));
        // Every table is closed and as wide as its head.
        let mut columns = None;
        for line in one.lines() {
            let is_row = line.starts_with('|');
            let width = is_row.then(|| line.matches('|').count());
            assert!(columns.is_none() || width.is_none() || columns == width, "{line}");
            columns = width;
        }
    }

    #[test]
    fn drawings_are_where_the_document_says() {
        let folder = tempfile::tempdir().unwrap();
        let results = results(|_| 3.0);
        draw(folder.path(), &results).unwrap();
        let text: String = results.iter().map(section).collect();
        let named: Vec<_> = text.split("](benchmarks/").skip(1).map(|rest| rest.split_once(')').unwrap().0).collect();
        assert!(named.len() > 6, "{named:?}");
        for file in &named {
            let drawing = fs::read_to_string(folder.path().join(file)).unwrap();
            assert!(drawing.contains("<svg") && drawing.contains("aoe-target"), "{file}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), named.len());
    }
}
