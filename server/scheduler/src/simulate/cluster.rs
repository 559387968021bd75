//! What a virtual cluster is made of, and what it counts.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::limits::Limits;
use crate::queue::policy::Policy;

/// The workers, and how the scheduler treats them.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// How many workers.
    pub workers: u32,
    /// Slots of each.
    pub slots: u32,
    /// How queries share them.
    pub policy: Policy,
    /// See [`Limits::priority_decay`].
    pub priority_decay: u32,
    /// What the scheduler knows beforehand.
    pub estimates: Estimates,
    /// What goes wrong.
    pub faults: Faults,
}

impl ClusterSpec {
    /// The slots of all workers.
    pub fn total_slots(&self) -> u64 {
        u64::from(self.workers) * u64::from(self.slots)
    }

    /// The limits under which its scheduler runs: nothing is refused.
    pub fn limits(&self) -> Limits {
        let mut limits = Limits {
            policy: self.policy,
            priority_decay: self.priority_decay,
            max_open_results: usize::MAX,
            ..Limits::default()
        };
        limits.admission.max_running = usize::MAX;
        limits.admission.max_queued = usize::MAX;
        limits.admission.max_of_session = usize::MAX;
        limits
    }
}

/// What the scheduler is told of the bytes that tasks read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimates {
    /// Nothing.
    None,
    /// Up to four times too much or too little, the same for all tasks of a query.
    Rough,
    /// As many as the task's time is worth.
    Exact,
}

impl Estimates {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::None, Self::Rough, Self::Exact];
}

impl fmt::Display for Estimates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Rough => "rough",
            Self::Exact => "exact",
        })
    }
}

impl FromStr for Estimates {
    type Err = String;

    /// The error is the half sentence after the value.
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|estimates| estimates.to_string() == text);
        known.ok_or_else(|| "is none of none, rough, exact".to_owned())
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The part of workers that are four times slower.
    pub slow_workers: f64,
    /// How often each worker dies in an hour.
    pub deaths_per_hour: f64,
    /// The part of reports whose connection breaks.
    pub breaks: f64,
}

/// What was counted until every query had ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Events that the scheduler took in.
    pub events: u64,
    /// Effects that it answered with.
    pub effects: u64,
    /// Time in which slots worked, all slots together.
    pub busy: Duration,
    /// The most attempts that ran at once.
    pub most_running: usize,
    /// The most queries that were there at once.
    pub most_queries: usize,
    /// Queries that were refused.
    pub refused: usize,
    /// Submissions that lost workers ended and that were made again.
    pub repeated: usize,
    /// Neither finished nor refused: 0, or the scheduler hangs.
    pub unfinished: usize,
    /// Slowdowns of short queries: time from arrival to end, over the time with all slots to itself.
    pub short: Vec<f64>,
    /// Slowdowns of long queries.
    pub long: Vec<f64>,
    /// Slowdowns of queries with a priority.
    pub prioritised: Vec<f64>,
    /// Virtual time until the last end.
    pub makespan: Duration,
    /// Differs as soon as one effect does.
    pub digest: String,
}
