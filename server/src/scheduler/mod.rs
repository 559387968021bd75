//! The scheduler: decides which task runs where and when, and how each query ends.
//!
//! A pure function of its events: [`Scheduler::apply`] takes what happened and answers what is to be done. No clock, no
//! randomness, no I/O: the same events give the same effects. [`driver`] is the one async part.
//!
//! ```text
//! event ──> query ── stage ── task          state machines, a transition table in each file
//!             │ stages with tasks to place
//!             v
//!           policy: who is next ──> placement: where ──> Launch, Commit, ...
//! ```
//!
//! What holds always:
//! - each submitted query ends exactly once, and then nothing of it is left here or, once the workers have been told, there;
//! - slots are taken from launch to end, except while parked, and given back exactly once;
//! - a stage starts when all its inputs are finished; output is dropped when all its readers are;
//! - the cost of an event does not grow with the number of queries or tasks that wait.
//!
//! | event | query | effects |
//! |---|---|---|
//! | Submit | appears in phase Running | launches as places are free |
//! | Report | see query.rs, stage.rs, task.rs | Commit, Release, ResultReady, Ended |
//! | ResultDone | ends, once its root has | Release, Ended |
//! | Cancel | ends | CancelAttempt, Release, Ended |
//! | WorkerJoined | | Release of what it was never told about, launches |
//! | WorkerLost | those that depend on it end | CancelAttempt, Release elsewhere, Ended |
//! | WorkerDraining | | |
//! | Tick | what has waited too long is retried, placed or ended | |

mod dispatch;
pub mod driver;
pub mod event;
pub mod graph;
mod members;
mod placement;
mod policy;
mod progress;
mod query;
mod stage;
mod task;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use driver::{Driver, QueryEvents, QueryUpdate, SchedulerHandle};
pub use event::{
    Effect, Event, QueryProgress, QuerySummary, ResultPart, StageSummary, TaskSummary,
};
pub use graph::{OutputPartitions, Placement, StageGraph, StageSpec, TaskSpec};
pub use members::WorkerLoad;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use squadron_proto::control::Release;
use squadron_proto::{Failure, FailureKind, QueryId, StageId, TaskId, WorkerId};

use dispatch::Queue;
use members::Members;
use policy::Standing;
use query::{Phase, Query};

/// Limits of the scheduler.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How many queries there may be, running or waiting.
    pub max_queries: usize,
    /// How many results may be open, read or not.
    pub max_open_results: usize,
    /// How long a query waits for a first worker.
    pub no_worker_timeout: Duration,
    /// How often a task may be refused while nothing else runs that could explain it.
    pub max_idle_refusals: u32,
    /// How often a task may be refused at all.
    pub max_refusals: u32,
    /// How long a task pauses after its first refusal; doubled with each further one.
    pub refusal_pause: Duration,
    /// How long the first in the queue waits for a place with room for all its partitions.
    pub room_timeout: Duration,
    /// How long a query that failed for no reason of its own waits for the cause.
    pub root_cause_timeout: Duration,
    /// How long a query whose result has been read waits for the last reports.
    pub last_report_timeout: Duration,
    /// How many lost workers to keep in mind, to tell them what has ended when they come back.
    pub remembered_workers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_queries: 4096,
            max_open_results: 256,
            no_worker_timeout: Duration::from_secs(10),
            max_idle_refusals: 3,
            max_refusals: 20,
            refusal_pause: Duration::from_millis(10),
            room_timeout: Duration::from_millis(50),
            root_cause_timeout: Duration::from_secs(1),
            last_report_timeout: Duration::from_secs(10),
            remembered_workers: 256,
        }
    }
}

/// Something to look at when its time has come, if it still holds then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    /// Does the query still wait for a worker?
    Worker(QueryId, Placement),
    /// Does the first in the queue still wait for room?
    Room(Placement),
    /// The pause after a refusal is over.
    Retry(QueryId, StageId, TaskId),
    /// Does the query still wait for the cause of its failure?
    RootCause(QueryId),
    /// Does the query still wait for its last reports?
    LastReport(QueryId),
}

/// All queries and workers of a server.
#[derive(Debug, Default)]
pub struct Scheduler {
    limits: Limits,
    queries: HashMap<QueryId, Query>,
    members: Members,
    any: Queue,
    local: Queue,
    deadlines: BTreeSet<(Duration, Deadline)>,
    submitted: u64,
    open_results: usize,
}

impl Scheduler {
    /// A scheduler without queries and workers.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Takes in what happened at `now`, a time since some fixed start that never goes back.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Submit(graph) => self.submit(now, graph, &mut effects),
            Event::Cancel { query, failure } => self.end(query, Err(failure), &mut effects),
            Event::ResultDone { query } => self.result_done(now, query, &mut effects),
            Event::WorkerJoined {
                worker,
                slots,
                address,
                kind,
            } => {
                self.lose_worker(now, worker, "it joined anew", &mut effects);
                for query in self.members.join(worker, slots, address, kind) {
                    effects.push(release_all(worker, query));
                }
                self.workers_are_there_again();
            }
            Event::WorkerLost { worker, reason } => {
                self.lose_worker(now, worker, &reason, &mut effects)
            }
            Event::WorkerDraining { worker } => {
                self.members.drain(worker);
                self.watch_empty_pools(now);
            }
            Event::Report {
                worker,
                attempt,
                status,
            } => self.report(now, worker, attempt, status, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        }
        self.dispatch(now, &mut effects);
        effects
    }

    /// When the next [`Event::Tick`] is due, if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// The workers there are, in the order of their ids.
    pub fn workers(&self) -> Vec<WorkerLoad> {
        self.members.loads()
    }

    /// How far a query is; none when it has ended.
    pub fn progress(&self, query: QueryId) -> Option<QueryProgress> {
        let members = &self.members;
        let query = self.queries.get(&query)?;
        Some(query.progress(|worker| members.address(worker)))
    }

    /// Whether nothing of any query is left.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        let is_unused = |queue: &Queue| queue.is_empty();
        self.queries.is_empty()
            && self.open_results == 0
            && is_unused(&self.any)
            && is_unused(&self.local)
    }

    /// A graph whose id is there already changes nothing; the driver does not let it through.
    fn submit(&mut self, now: Duration, graph: StageGraph, effects: &mut Vec<Effect>) {
        let id = graph.query;
        if self.queries.contains_key(&id) {
            return;
        }
        if let Err(failure) = self.admit().and_then(|()| graph.validate()) {
            effects.push(Effect::Ended {
                query: id,
                outcome: Err(failure),
            });
            return;
        }
        let rank = policy::rank(Standing {
            submitted_before: self.submitted,
        });
        self.submitted += 1;
        let query = Query::new(graph, rank, now);
        let sources = query.sources();
        self.queries.insert(id, query);
        for stage in sources {
            self.start_stage(now, id, stage);
        }
    }

    fn admit(&self) -> Result<(), Failure> {
        if self.queries.len() >= self.limits.max_queries {
            return Err(Failure::new(
                FailureKind::Exhausted,
                format!(
                    "{} queries run or wait already; run the statement again later",
                    self.queries.len()
                ),
            ));
        }
        if self.open_results >= self.limits.max_open_results {
            return Err(Failure::new(
                FailureKind::Exhausted,
                format!(
                    "{} results are open already; read or close some of them before the next statement",
                    self.open_results
                ),
            ));
        }
        Ok(())
    }

    fn result_done(&mut self, now: Duration, id: QueryId, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        match &mut query.phase {
            Phase::Streaming { read } => *read = true,
            Phase::Running | Phase::Failing { .. } => return,
        }
        if !self.end_if_complete(now, id, effects) {
            self.remind(
                now + self.limits.last_report_timeout,
                Deadline::LastReport(id),
            );
        }
    }

    /// Ends the query if its root is finished and its result read.
    fn end_if_complete(&mut self, now: Duration, id: QueryId, effects: &mut Vec<Effect>) -> bool {
        let is_complete = self.queries.get(&id).is_some_and(|query| {
            let is_read = match query.phase {
                Phase::Streaming { read } => read,
                Phase::Running | Phase::Failing { .. } => false,
            };
            is_read && query.stages[query.root].is_finished()
        });
        if is_complete {
            self.end_well(now, id, effects);
        }
        is_complete
    }

    fn end_well(&mut self, now: Duration, id: QueryId, effects: &mut Vec<Effect>) {
        if let Some(query) = self.queries.get(&id) {
            let summary = query.summary(now);
            self.end(id, Ok(summary), effects);
        }
    }

    /// Ends a query in whatever state it is, and tells every worker that knows of it.
    fn end(
        &mut self,
        id: QueryId,
        outcome: Result<QuerySummary, Failure>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(query) = self.queries.remove(&id) else {
            return;
        };
        for placement in [Placement::Any, Placement::Local] {
            self.queue_mut(placement).remove(query.rank, id);
        }
        if matches!(query.phase, Phase::Streaming { .. }) {
            self.open_results -= 1;
        }
        for (attempt, hold, holds_slots) in query.live() {
            if !self.members.contains(hold.worker) {
                continue;
            }
            if holds_slots {
                self.members.give(hold.worker, hold.share);
            }
            effects.push(Effect::CancelAttempt {
                worker: hold.worker,
                attempt,
            });
        }
        for &worker in &query.touched {
            self.members.forget(worker, id);
            if self.members.contains(worker) {
                effects.push(release_all(worker, id));
            }
        }
        effects.push(Effect::Ended { query: id, outcome });
    }

    fn lose_worker(
        &mut self,
        now: Duration,
        worker: WorkerId,
        reason: &str,
        effects: &mut Vec<Effect>,
    ) {
        let Some(loss) = self.members.lose(worker, self.limits.remembered_workers) else {
            return;
        };
        for (id, depended) in loss.queries {
            if depended {
                let message = format!("{} was lost ({reason}); run the statement again", loss.name);
                self.end(
                    id,
                    Err(Failure::new(FailureKind::WorkerLost, message)),
                    effects,
                );
            } else if let Some(query) = self.queries.get_mut(&id) {
                query.forgotten_by(worker);
            }
        }
        self.watch_empty_pools(now);
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while let Some(&(at, deadline)) = self.deadlines.first() {
            if at > now {
                return;
            }
            self.deadlines.pop_first();
            match deadline {
                Deadline::Worker(query, placement) => {
                    self.give_up_waiting(now, query, placement, effects)
                }
                // The dispatch at the end of the event sees that the time has come.
                Deadline::Room(_) => {}
                Deadline::Retry(query, stage, task) => self.retry(now, query, stage, task),
                Deadline::RootCause(query) => self.end_without_cause(query, effects),
                Deadline::LastReport(query) => self.end_well(now, query, effects),
            }
        }
    }

    fn remind(&mut self, at: Duration, deadline: Deadline) {
        self.deadlines.insert((at, deadline));
    }
}

fn release_all(worker: WorkerId, query: QueryId) -> Effect {
    Effect::Release {
        worker,
        release: Release {
            query,
            stages: Vec::new(),
        },
    }
}
