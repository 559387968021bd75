//! The figures of a simulation.

use std::time::Duration;

use serde::Serialize;
use squadron_scheduler::Policy;
use squadron_scheduler::simulate::Outcome;

use crate::slowdowns::Slowdowns;

/// All figures of one run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub(super) short: Slowdowns,
    pub(super) long: Slowdowns,
    pub(super) prioritised: Slowdowns,
    pub(super) all: Slowdowns,
    /// Queries refused because a queue was full.
    pub(super) refused: usize,
    /// Queries that failed with a lost worker and were submitted again.
    pub(super) repeated: usize,
    /// How often queries computed again what they had lost.
    pub(super) recoveries: usize,
    /// Attempts that came to nothing in that.
    pub(super) lost_attempts: usize,
    /// Second attempts at slow tasks.
    pub(super) second_attempts: usize,
    /// Queries neither finished nor refused; must be 0.
    pub(super) unfinished: usize,
    /// The part of all slot time in which a task ran.
    pub(super) utilisation: f64,
    /// Virtual time from the first arrival to the last end.
    pub(super) makespan_s: f64,
    /// The most attempts that ran at once.
    pub(super) most_running: usize,
    /// The most queries that were active at once.
    pub(super) most_queries: usize,
    pub(super) events: u64,
    pub(super) effects: u64,
    /// Processor time of the scheduler; see [`super::meter`].
    pub(super) scheduler_s: f64,
    pub(super) events_per_second: f64,
    /// Digest of all effects, in their order.
    pub(super) digest: String,
}

impl Figures {
    /// `scheduler`: the processor time of the scheduler.
    pub(super) fn of(outcome: Outcome, slots: u64, scheduler: Duration) -> Self {
        let all: Vec<f64> = [&outcome.short[..], &outcome.long, &outcome.prioritised].concat();
        let makespan_s = outcome.makespan.as_secs_f64();
        let scheduler_s = scheduler.as_secs_f64();
        Self {
            short: Slowdowns::of(&outcome.short),
            long: Slowdowns::of(&outcome.long),
            prioritised: Slowdowns::of(&outcome.prioritised),
            all: Slowdowns::of(&all),
            refused: outcome.refused,
            repeated: outcome.repeated,
            recoveries: outcome.recoveries,
            lost_attempts: outcome.lost_attempts,
            second_attempts: outcome.second_attempts,
            unfinished: outcome.unfinished,
            utilisation: outcome.busy.as_secs_f64() / (slots as f64 * makespan_s),
            makespan_s,
            most_running: outcome.most_running,
            most_queries: outcome.most_queries,
            events: outcome.events,
            effects: outcome.effects,
            scheduler_s,
            events_per_second: outcome.events as f64 / scheduler_s,
            digest: outcome.digest,
        }
    }

    pub(super) const HEAD: &str = "workers policy  queries |  short: p50   p99    max |   long: p50   p99    max |  \
                                   Jain  used  makespan | most running/queries    events  events/s | \
                                   refused repeated recovered lost second | digest";

    pub(super) fn row(&self, workers: u32, policy: Policy) -> String {
        format!(
            "{workers:>7} {:<7} {:>7} | {:>10.2} {:>5.1} {:>6.1} | {:>10.2} {:>5.1} {:>6.1} | \
             {:>5.3} {:>4.0}% {:>8.1}s | {:>12}/{:<7} {:>9} {:>9.0} | {:>7} {:>8} {:>9} {:>4} {:>6} | {}",
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
            self.recoveries,
            self.lost_attempts,
            self.second_attempts,
            self.digest,
        )
    }
}
