//! What came out of a simulation.

use std::time::Duration;

use serde::Serialize;
use squadron::scheduler::Policy;

use super::super::slowdowns::Slowdowns;

/// All figures of one run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub(super) short: Slowdowns,
    pub(super) long: Slowdowns,
    pub(super) prioritised: Slowdowns,
    pub(super) all: Slowdowns,
    /// Refused because a queue was full.
    pub(super) refused: usize,
    /// Ended by lost workers, then submitted again.
    pub(super) repeated: usize,
    /// Neither finished nor refused; must be 0.
    pub(super) unfinished: usize,
    /// The part of all slot time in which a task ran.
    pub(super) utilisation: f64,
    /// Virtual time from the first arrival to the last end.
    pub(super) makespan_s: f64,
    /// The most attempts that ran at once.
    pub(super) most_running: usize,
    /// The most queries that were there at once.
    pub(super) most_queries: usize,
    pub(super) events: u64,
    pub(super) effects: u64,
    /// Processor time of the scheduler alone; see [`super::meter`].
    pub(super) scheduler_s: f64,
    pub(super) events_per_second: f64,
    /// Of all effects, in their order.
    pub(super) digest: String,
}

impl Figures {
    pub(super) const HEAD: &str = "workers policy  queries |  short: p50   p99    max |   long: p50   p99    max |  Jain  used  makespan | \
                                   most running/queries    events  events/s | refused again | digest";

    pub(super) fn row(&self, workers: u32, policy: Policy) -> String {
        format!(
            "{workers:>7} {:<7} {:>7} | {:>10.2} {:>5.1} {:>6.1} | {:>10.2} {:>5.1} {:>6.1} | {:>5.3} {:>4.0}% {:>8.1}s | \
             {:>12}/{:<7} {:>9} {:>9.0} | {:>7} {:>5} | {}",
            policy.to_string(),
            self.all.queries,
            self.short.p50,
            self.short.p99,
            self.short.max,
            self.long.p50,
            self.long.p99,
            self.long.max,
            self.all.jain,
            self.utilisation * 100.0,
            self.makespan_s,
            self.most_running,
            self.most_queries,
            self.events,
            self.events_per_second,
            self.refused,
            self.repeated,
            self.digest,
        )
    }
}

/// What is counted on the way.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) events: u64,
    pub(super) effects: u64,
    pub(super) busy: Duration,
    pub(super) most_running: usize,
    pub(super) most_queries: usize,
    pub(super) refused: usize,
    pub(super) repeated: usize,
    pub(super) short: Vec<f64>,
    pub(super) long: Vec<f64>,
    pub(super) prioritised: Vec<f64>,
}

impl Counts {
    pub(super) fn figures(
        self,
        slots: u64,
        makespan: Duration,
        unfinished: usize,
        scheduler: Duration,
        digest: String,
    ) -> Figures {
        let all: Vec<f64> = [&self.short[..], &self.long, &self.prioritised].concat();
        let scheduler_s = scheduler.as_secs_f64();
        Figures {
            short: Slowdowns::of(&self.short),
            long: Slowdowns::of(&self.long),
            prioritised: Slowdowns::of(&self.prioritised),
            all: Slowdowns::of(&all),
            refused: self.refused,
            repeated: self.repeated,
            unfinished,
            utilisation: self.busy.as_secs_f64() / (slots as f64 * makespan.as_secs_f64()),
            makespan_s: makespan.as_secs_f64(),
            most_running: self.most_running,
            most_queries: self.most_queries,
            events: self.events,
            effects: self.effects,
            scheduler_s,
            events_per_second: self.events as f64 / scheduler_s,
            digest,
        }
    }
}
