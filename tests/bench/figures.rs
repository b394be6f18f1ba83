//! Figures: what is measured, how it is shown, and what several rounds of it come to.

use std::collections::BTreeMap;

/// What is measured of a contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Requests answered in a second.
    Requests,
    /// MiB moved in a second.
    Mebibytes,
    /// Latency that half of the requests stay below, in microseconds.
    Median,
    /// Latency that 99 % of the requests stay below, in microseconds.
    Tail,
    /// Processor time of the serving processes, in microseconds for each request.
    ServerCpu,
    /// Processor time of the initiator's process, in microseconds for each request.
    InitiatorCpu,
    /// Processor time of the load's process, in microseconds for each request.
    LoadCpu,
    /// The most memory the serving process has had, in MiB.
    Memory,
    /// From the start of the program to the first answer, in seconds.
    Start,
    /// Requests answered in a second, as a multiple of what aoe.ko had answered just before.
    BesideKernel,
}

/// What one measurement has found.
pub type Sample = BTreeMap<Metric, f64>;

impl Metric {
    /// The head of a column, with the unit.
    pub fn title(self) -> &'static str {
        match self {
            Metric::Requests => "requests/s",
            Metric::Mebibytes => "MiB/s",
            Metric::Median => "median latency, µs",
            Metric::Tail => "99 % latency, µs",
            Metric::ServerCpu => "server CPU, µs/request",
            Metric::InitiatorCpu => "initiator CPU, µs/request",
            Metric::LoadCpu => "load CPU, µs/request",
            Metric::Memory => "peak memory, MiB",
            Metric::Start => "first answer after, s",
            Metric::BesideKernel => "requests/s, against aoe.ko",
        }
    }

    /// A value as people read it.
    pub fn show(self, value: f64) -> String {
        match self {
            Metric::Requests if value < 1e4 => format!("{value:.0}"),
            Metric::Requests => format!("{:.1} k", value / 1e3),
            Metric::Mebibytes => format!("{value:.0}"),
            Metric::Median | Metric::Tail | Metric::Memory => format!("{value:.1}"),
            Metric::ServerCpu | Metric::InitiatorCpu | Metric::LoadCpu => format!("{value:.2}"),
            Metric::Start => format!("{value:.3}"),
            Metric::BesideKernel => format!("{value:.2}×"),
        }
    }
}

/// What several rounds come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// As many rounds are above as below.
    pub median: f64,
    /// The least round.
    pub least: f64,
    /// The greatest round.
    pub most: f64,
}

impl Spread {
    /// Of the rounds' values; `None` without any.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&least, &most) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Spread { median, least, most })
    }

    /// The median, and in brackets least and most when there were several rounds.
    pub fn show(self, show: impl Fn(f64) -> String) -> String {
        if self.least == self.most {
            return show(self.median);
        }
        format!("{} ({}–{})", show(self.median), show(self.least), show(self.most))
    }
}

/// The rounds of one contender, at one step of an axis.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Who it is.
    pub contender: &'static str,
    /// Where on the axis; 0 without one.
    pub step: f64,
    /// One for each round.
    pub samples: Vec<Sample>,
}

impl Measured {
    /// What the rounds come to; `None` if this is not measured of the contender.
    pub fn spread(&self, metric: Metric) -> Option<Spread> {
        Spread::of(self.samples.iter().filter_map(|sample| sample.get(&metric).copied()))
    }

    /// What the ratio to another contender comes to, taken within each round.
    pub fn ratio(&self, other: &Measured, metric: Metric) -> Option<Spread> {
        let pairs = self.samples.iter().zip(&other.samples);
        Spread::of(pairs.filter_map(|(ours, theirs)| Some(ours.get(&metric)? / theirs.get(&metric)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(values: &[f64]) -> Measured {
        let samples = values.iter().map(|value| Sample::from([(Metric::Requests, *value)])).collect();
        Measured { contender: "x", step: 0.0, samples }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 9.0]), Some(Spread { median: 3.0, least: 1.0, most: 9.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 9.0, 2.0]), Some(Spread { median: 3.0, least: 1.0, most: 9.0 }));
        assert_eq!(Spread::of([7.0]), Some(Spread { median: 7.0, least: 7.0, most: 7.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        // The machine was ten times as slow in the second round, for both.
        let ratio = measured(&[100.0, 12.0, 90.0]).ratio(&measured(&[50.0, 5.0, 45.0]), Metric::Requests);
        assert_eq!(ratio, Some(Spread { median: 2.0, least: 2.0, most: 2.4 }));
        assert_eq!(measured(&[1.0]).ratio(&measured(&[1.0]), Metric::Memory), None);
    }

    #[test]
    fn one_round_has_no_spread() {
        let show = |value| format!("{value:.1}");
        assert_eq!(Spread::of([2.0]).unwrap().show(show), "2.0");
        assert_eq!(Spread::of([2.0, 3.0, 2.5]).unwrap().show(show), "2.5 (2.0–3.0)");
    }
}
