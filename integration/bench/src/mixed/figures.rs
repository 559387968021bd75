//! The figures of each load and policy.

use serde::Serialize;
use squadron_scheduler::Policy;

use super::classes::Classes;
use super::schedule::Arrival;
use crate::Verdict;
use crate::isolated::Isolated;
use crate::slowdowns::Slowdowns;

/// The counts of one load and policy, in one run or in all of them.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) load: f64,
    pub(super) policy: Policy,
    pub(super) short: Vec<f64>,
    pub(super) long: Vec<f64>,
    arrived: usize,
    offered_cpu_seconds: f64,
    pub(super) refused: usize,
    pub(super) failed: usize,
    pub(super) wrong: usize,
    seconds: f64,
    cpu_seconds: Option<f64>,
}

impl Tally {
    pub(super) fn new(load: f64, policy: Policy) -> Self {
        Self {
            load,
            policy,
            short: Vec::new(),
            long: Vec::new(),
            arrived: 0,
            offered_cpu_seconds: 0.0,
            refused: 0,
            failed: 0,
            wrong: 0,
            seconds: 0.0,
            cpu_seconds: Some(0.0),
        }
    }

    /// Counts arrivals.
    pub(super) fn note_arrivals(&mut self, arrivals: &[Arrival], classes: &Classes) {
        self.arrived += arrivals.len();
        let cpu = arrivals.iter().map(|arrival| classes.of(arrival).cpu_seconds);
        self.offered_cpu_seconds += cpu.sum::<Option<f64>>().unwrap_or(f64::NAN);
    }

    /// Counts a finished query.
    pub(super) fn note_finished(&mut self, is_long: bool, slowdown: f64) {
        let class = if is_long { &mut self.long } else { &mut self.short };
        class.push(slowdown);
    }

    /// Adds the time from the first arrival to the last end.
    pub(super) fn add_time(&mut self, seconds: f64, cpu_seconds: Option<f64>) {
        self.seconds += seconds;
        self.cpu_seconds = self.cpu_seconds.zip(cpu_seconds).map(|(sum, one)| sum + one);
    }

    /// Adds another run of the same load and policy.
    pub(super) fn add(&mut self, other: Self) {
        self.short.extend(other.short);
        self.long.extend(other.long);
        self.arrived += other.arrived;
        self.offered_cpu_seconds += other.offered_cpu_seconds;
        self.refused += other.refused;
        self.failed += other.failed;
        self.wrong += other.wrong;
        self.add_time(other.seconds, other.cpu_seconds);
    }

    pub(super) fn cell(&self, slots: usize) -> Cell {
        let all = [&self.short[..], &self.long].concat();
        let ended = all.len() + self.refused + self.failed + self.wrong;
        let possible = self.seconds * slots as f64;
        Cell {
            load: self.load,
            policy: self.policy.to_string(),
            arrived: self.arrived,
            short: Slowdowns::of(&self.short),
            long: Slowdowns::of(&self.long),
            all: Slowdowns::of(&all),
            offered_load: self.offered_cpu_seconds / possible,
            utilisation: self.cpu_seconds.map(|cpu| cpu / possible),
            seconds: self.seconds,
            refused: self.refused,
            failed: self.failed,
            wrong: self.wrong,
            unfinished: self.arrived - ended,
        }
    }
}

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct MixedFigures {
    #[serde(rename = "alone")]
    pub(super) isolated: Vec<Isolated>,
    pub(super) cells: Vec<Cell>,
}

impl MixedFigures {
    /// Bad when a query failed, was wrong or did not finish; a full queue may refuse queries.
    pub(super) fn verdict(&self) -> Verdict {
        let is_good = |cell: &Cell| (cell.wrong, cell.failed, cell.unfinished) == (0, 0, 0);
        match self.cells.iter().all(is_good) {
            true => Verdict::Good,
            false => Verdict::Bad,
        }
    }
}

/// The figures of one load and policy.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    load: f64,
    policy: String,
    arrived: usize,
    short: Slowdowns,
    long: Slowdowns,
    all: Slowdowns,
    /// Processor time of the arrived queries, as each takes alone, divided by slots times `seconds`.
    offered_load: f64,
    /// Processor time of server and workers, divided by slots times `seconds`.
    utilisation: Option<f64>,
    seconds: f64,
    refused: usize,
    failed: usize,
    wrong: usize,
    /// Queries that were active when the wait was over.
    unfinished: usize,
}

impl Cell {
    pub(super) const HEAD: &str = "load run policy  arrived | short: p50    p99    max   mean |  \
                                   long: p50    p99    max   mean |  Jain  offered  used  seconds | \
                                   refused failed wrong unfinished";

    pub(super) fn row(&self, run: &str) -> String {
        let used = self.utilisation.map_or(f64::NAN, |part| part * 100.0);
        format!(
            "{:>4} {run:>3} {:<7} {:>7} | {} | {} | {:>5.3} {:>7.0}% {used:>4.0}% {:>8.1} | {:>7} {:>6} {:>5} {:>10}",
            self.load,
            self.policy,
            self.arrived,
            columns(&self.short),
            columns(&self.long),
            self.all.jain,
            self.offered_load * 100.0,
            self.seconds,
            self.refused,
            self.failed,
            self.wrong,
            self.unfinished,
        )
    }
}

fn columns(of: &Slowdowns) -> String {
    format!("{:>10.2} {:>6.1} {:>6.1} {:>6.2}", of.p50, of.p99, of.max, of.mean)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::isolated;

    fn tally() -> Tally {
        let classes = Classes {
            short: [(6, isolated::sample(6, 0.5))].into(),
            long: [(18, isolated::sample(18, 2.0))].into(),
        };
        let arrival = |query| Arrival {
            at: Duration::ZERO,
            query,
            is_long: query == 18,
        };
        let mut tally = Tally::new(0.9, Policy::Stride);
        tally.note_arrivals(&[6, 6, 18, 6].map(arrival), &classes);
        tally.note_finished(false, 1.0);
        tally.note_finished(false, 3.0);
        tally.note_finished(true, 2.0);
        tally.add_time(3.5, Some(3.0));
        tally
    }

    /// Figures with every key, also for the test of the documentation.
    pub(crate) fn sample() -> MixedFigures {
        MixedFigures {
            isolated: vec![isolated::sample(6, 0.5)],
            cells: vec![tally().cell(1)],
        }
    }

    #[test]
    fn cell_summarises_its_arrivals() {
        let cell = tally().cell(1);
        assert_eq!((cell.short.mean, cell.short.max, cell.long.p50), (2.0, 3.0, 2.0));
        assert_eq!((cell.all.queries, cell.arrived, cell.unfinished), (3, 4, 1));
        assert_eq!((cell.offered_load, cell.utilisation), (1.0, Some(3.0 / 3.5)));
        assert!((cell.all.jain - 36.0 / (3.0 * 14.0)).abs() < 1e-9);
    }

    #[test]
    fn tallies_of_runs_add_up() {
        let mut all = Tally::new(0.9, Policy::Stride);
        all.add(tally());
        all.add(tally());
        let cell = all.cell(1);
        assert_eq!((cell.arrived, cell.unfinished, cell.seconds), (8, 2, 7.0));
        assert_eq!((cell.offered_load, cell.short.queries), (1.0, 4));
    }

    #[test]
    fn refused_queries_are_not_faults() {
        let mut tally = tally();
        let verdict = |tally: &Tally| {
            let (isolated, cells) = (Vec::new(), vec![tally.cell(1)]);
            MixedFigures { isolated, cells }.verdict()
        };
        assert_eq!(verdict(&tally), Verdict::Bad, "one has not ended");
        tally.refused += 1;
        assert_eq!(verdict(&tally), Verdict::Good);
        tally.arrived += 1;
        tally.wrong += 1;
        assert_eq!(verdict(&tally), Verdict::Bad);
    }
}
