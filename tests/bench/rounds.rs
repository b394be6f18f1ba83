//! Rounds: each measures every contender once, one after the other, so that what the machine does at the time meets all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::contenders::Wire;
use crate::figures::Measured;
use crate::images::Images;
use crate::rows::{About, Effort, Experiment};

/// How often and how long everything is measured.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Rounds of what goals are judged by.
    pub rounds: usize,
    /// One measurement of that.
    pub time: Duration,
}

impl Pace {
    fn of(self, effort: Effort) -> (usize, Duration) {
        match effort {
            Effort::Goal => (self.rounds, self.time),
            Effort::Step => (self.rounds.div_ceil(2), self.time.mul_f64(0.5)),
            Effort::Once => (1, self.time),
        }
    }
}

/// What an experiment has found.
#[derive(Clone, Debug)]
pub struct Results {
    /// What it was about.
    pub about: About,
    /// In the order of a round; empty if the experiment failed.
    pub measured: Vec<Measured>,
}

/// Does an experiment. Nothing is measured when it fails; what went wrong has been said.
pub fn run(experiment: &Experiment, images: &Images, pace: Pace) -> Results {
    let (rounds, time) = pace.of(experiment.effort);
    // A lab that cannot do what it is asked panics; the other measurements should not go with it.
    let done = catch_unwind(AssertUnwindSafe(|| {
        let wire = Wire::new(experiment.mtu);
        let cells = &experiment.cells;
        let empty =
            cells.iter().map(|cell| Measured { contender: cell.contender, step: cell.step, samples: Vec::new() });
        let mut measured: Vec<_> = empty.collect();
        for _ in 0..rounds {
            for (cell, measured) in cells.iter().zip(&mut measured) {
                measured.samples.push(wire.measure(images, cell.server, cell.client, cell.loss, time));
            }
        }
        measured
    }));
    Results { about: experiment.about, measured: done.unwrap_or_default() }
}
