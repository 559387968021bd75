//! The figures of `squadron-bench dispatch`.

use std::fmt;

use serde::Serialize;

use crate::stats::{Times, median};

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct DispatchFigures {
    idle: Times,
    /// Of the median run, as are the next two.
    tasks_per_second: f64,
    cpu_us_per_task: Option<f64>,
    worker_cpu_us_per_task: Option<f64>,
    runs: Vec<Rate>,
}

/// One run with a busy cluster.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Rate {
    tasks: u64,
    seconds: f64,
    tasks_per_second: f64,
    /// Processor time of the server's side, in microseconds.
    cpu_us_per_task: Option<f64>,
    /// Processor time of all workers, in microseconds.
    worker_cpu_us_per_task: Option<f64>,
}

impl Rate {
    pub(super) const HEAD: &str = "run    tasks  seconds  tasks/s | cpu us a task: server  workers";

    pub(super) fn new(tasks: u64, seconds: f64, cpu_seconds: Option<f64>, worker_cpu_seconds: Option<f64>) -> Self {
        let of_a_task = |seconds: f64| seconds * 1e6 / tasks as f64;
        Self {
            tasks,
            seconds,
            tasks_per_second: tasks as f64 / seconds,
            cpu_us_per_task: cpu_seconds.map(of_a_task),
            worker_cpu_us_per_task: worker_cpu_seconds.map(of_a_task),
        }
    }

    pub(super) fn row(&self, run: u32) -> String {
        format!(
            "{run:>3} {:>8} {:>8.2} {:>8.0} | {:>21} {:>8}",
            self.tasks,
            self.seconds,
            self.tasks_per_second,
            format_or_dash(self.cpu_us_per_task),
            format_or_dash(self.worker_cpu_us_per_task),
        )
    }
}

fn format_or_dash(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
}

impl DispatchFigures {
    pub(super) fn new(idle: Times, runs: Vec<Rate>) -> Self {
        let middle = |figure: fn(&Rate) -> Option<f64>| -> Option<f64> {
            let values = runs.iter().map(figure).collect::<Option<Vec<_>>>()?;
            Some(median(&values))
        };
        Self {
            idle,
            tasks_per_second: middle(|rate| Some(rate.tasks_per_second)).unwrap_or(f64::NAN),
            cpu_us_per_task: middle(|rate| rate.cpu_us_per_task),
            worker_cpu_us_per_task: middle(|rate| rate.worker_cpu_us_per_task),
            runs,
        }
    }
}

/// The median of the runs.
impl fmt::Display for DispatchFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "median                {:>8.0} | {:>21} {:>8}",
            self.tasks_per_second,
            format_or_dash(self.cpu_us_per_task),
            format_or_dash(self.worker_cpu_us_per_task),
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Figures with every key, also for the test of the documentation.
    pub(crate) fn sample() -> DispatchFigures {
        let runs = [2.0, 1.0, 5.0].map(|seconds| Rate::new(1_000, seconds, Some(0.1), Some(0.2)));
        DispatchFigures::new(Times::of(&[1.0, 2.0]), runs.into())
    }

    #[test]
    fn rates_come_from_median_run() {
        let figures = sample();
        assert_eq!(figures.tasks_per_second, 500.0);
        assert_eq!(figures.cpu_us_per_task, Some(100.0));
        assert_eq!(figures.worker_cpu_us_per_task, Some(200.0));
    }

    #[test]
    fn unknown_cpu_time_stays_unknown() {
        let figures = DispatchFigures::new(Times::of(&[1.0]), vec![Rate::new(1, 1.0, None, None)]);
        assert_eq!((figures.cpu_us_per_task, figures.tasks_per_second), (None, 1.0));
    }
}
