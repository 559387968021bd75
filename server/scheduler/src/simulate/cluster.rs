//! The specification of a virtual cluster, and what a run of it counts.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::limits::Limits;
use crate::queue::policy::Policy;

/// The workers, the scheduler's policy and knowledge, and the faults of a virtual cluster.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// How many workers.
    pub workers: u32,
    /// Slots of each.
    pub slots: u32,
    /// How queries share the slots.
    pub policy: Policy,
    /// See [`Limits::priority_decay`].
    pub priority_decay: u32,
    /// How well the scheduler knows what tasks will read.
    pub estimates: Estimates,
    /// The faults to simulate.
    pub faults: Faults,
    /// Whether slow tasks get second attempts.
    pub speculation: bool,
}

impl ClusterSpec {
    /// The slots of all workers together.
    pub fn total_slots(&self) -> u64 {
        u64::from(self.workers) * u64::from(self.slots)
    }

    /// The limits of its scheduler, under which no query is refused.
    pub fn limits(&self) -> Limits {
        let mut limits = Limits {
            policy: self.policy,
            priority_decay: self.priority_decay,
            max_open_results: usize::MAX,
            ..Limits::default()
        };
        limits.admission.max_running = usize::MAX;
        limits.admission.max_queued = usize::MAX;
        limits.admission.max_per_session = usize::MAX;
        limits
    }
}

/// What the scheduler is told about the bytes that tasks read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimates {
    /// Nothing.
    None,
    /// Up to four times too much or too little, the same for all tasks of a query.
    Rough,
    /// The bytes that match the task's time.
    Exact,
}

impl Estimates {
    /// All kinds of estimates.
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

/// The faults of a virtual cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The fraction of workers that are four times slower.
    pub slow_workers: f64,
    /// How often each worker dies in an hour.
    pub deaths_per_hour: f64,
    /// The fraction of reports whose connection breaks.
    pub breaks: f64,
    /// How often each worker hangs in an hour, for 5 s on average.
    pub pauses_per_hour: f64,
}

/// What was counted until every query had ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Events that the scheduler took in.
    pub events: u64,
    /// Effects that it returned.
    pub effects: u64,
    /// Time in which slots were working, summed over all slots.
    pub busy: Duration,
    /// The most attempts that ran at once.
    pub most_running: usize,
    /// The most queries at once that had been submitted and had not ended.
    pub most_queries: usize,
    /// Queries that were refused.
    pub refused: usize,
    /// How often queries computed again what they had lost.
    pub recoveries: usize,
    /// Attempts that came to nothing in that.
    pub lost_attempts: usize,
    /// Second attempts at slow tasks.
    pub second_attempts: usize,
    /// Runs of queries that ended with a lost worker and were repeated by their clients.
    pub repeated: usize,
    /// Queries neither finished nor refused: 0 unless the scheduler hangs.
    pub unfinished: usize,
    /// Slowdowns of short queries: time from arrival to end, over the isolated time
    /// ([`Work::isolated_time`](super::Work::isolated_time)).
    pub short: Vec<f64>,
    /// Slowdowns of long queries.
    pub long: Vec<f64>,
    /// Slowdowns of queries with a priority.
    pub prioritised: Vec<f64>,
    /// Virtual time until the last end.
    pub makespan: Duration,
    /// A digest of all effects; see [`Digest`](super::Digest).
    pub digest: String,
}
