//! The scheduler: decides which task runs where and when, and how each query ends.
//!
//! A pure function of its events: [`Scheduler::apply`] takes what happened and answers what is to be done. No clock, no
//! randomness, no I/O: the same events give the same effects. [`driver`] is the one async part.
//!
//! ```text
//! event ──> admission: may it run? ──> query ── stage ── task     state machines, a transition table in each file
//!                                        │ stages with tasks to place
//!                                        v
//!                line, policy: who is next ──> placement: where ──> Launch, Commit, ...
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
//! | Submit | appears in phase Queued; runs when its turn has come | launches as places are free, Ended when refused |
//! | Regroup | changes its group | launches |
//! | Report | see query.rs, stage.rs, task.rs | Commit, Release, ResultReady, Ended |
//! | ResultDone | ends, once its root has | Release, Ended |
//! | Cancel | ends | CancelAttempt, Release, Ended |
//! | WorkerJoined | | Release of what it was never told about, launches |
//! | WorkerLost | those that depend on it end | CancelAttempt, Release elsewhere, Ended |
//! | WorkerDraining | | |
//! | Tick | what has waited too long is retried, placed or ended | |

pub mod admission;
mod costs;
mod dispatch;
pub mod driver;
pub mod event;
pub mod graph;
pub mod groups;
mod line;
mod members;
mod placement;
mod policy;
mod progress;
mod query;
mod snapshot;
mod stage;
mod task;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod shares_tests;
#[cfg(test)]
mod stop_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use admission::{AdmissionLimits, GroupLoad};
pub use driver::{
    Asked, Asking, Driver, History, HistoryLimits, Past, Present, QueryEvents, QueryUpdate, SchedulerHandle, Snapshot,
};
pub use event::{Effect, Event, QueryProgress, QuerySummary, ResultPart, StageSummary, TaskSummary};
pub use graph::{OutputPartitions, Placement, QueryTraits, StageGraph, StageSpec, TaskSpec, TimeLimit};
pub use groups::{GroupSpec, Groups, Selector};
pub use members::{Capacity, WorkerLoad};
pub use policy::Policy;
pub use snapshot::{QueryInfo, QueryPhase, Resources, StageInfo, StagePhase, Stopping, TaskInfo, TaskPhase};

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use squadron_proto::control::Release;
use squadron_proto::{Failure, FailureKind, QueryId, StageId, TaskId, WorkerId};

use admission::Admission;
use costs::Costs;
use dispatch::Lines;
use line::Correction;
use members::Members;
use policy::Order;
use query::{Phase, Query};

/// Limits of the scheduler.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How running queries share the workers.
    pub policy: Policy,
    /// The power of a query's size with which its weight falls under [`Policy::Stride`].
    pub priority_decay: u32,
    /// How many queries there may be.
    pub admission: AdmissionLimits,
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
    /// After how long without being served a query is served out of its turn.
    pub rescue_timeout: Duration,
    /// How many plans to keep in mind with what they cost.
    pub remembered_plans: usize,
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
            policy: Policy::default(),
            priority_decay: 2,
            admission: AdmissionLimits::default(),
            max_open_results: 256,
            no_worker_timeout: Duration::from_secs(10),
            max_idle_refusals: 3,
            max_refusals: 20,
            refusal_pause: Duration::from_millis(10),
            room_timeout: Duration::from_millis(50),
            rescue_timeout: Duration::from_secs(10),
            remembered_plans: 4096,
            root_cause_timeout: Duration::from_secs(1),
            last_report_timeout: Duration::from_secs(10),
            remembered_workers: 256,
        }
    }
}

impl Limits {
    fn order(&self) -> Order {
        Order {
            policy: self.policy,
            decay: self.priority_decay,
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
    /// The query has had most of the time it was given.
    Urgent(QueryId),
    /// The query has had all the time it was given.
    TimeLimit(QueryId),
    /// The pause after a refusal is over.
    Retry(QueryId, StageId, TaskId),
    /// Does the query still wait for the cause of its failure?
    RootCause(QueryId),
    /// Does the query still wait for its last reports?
    LastReport(QueryId),
}

/// All queries and workers of a server.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    /// Of the event that is being taken in.
    now: Duration,
    queries: HashMap<QueryId, Query>,
    members: Members,
    admission: Admission,
    /// Whether somebody who waits for admission may have got room.
    may_admit: bool,
    lines: Lines,
    costs: Costs,
    deadlines: BTreeSet<(Duration, Deadline)>,
    submitted: u64,
    open_results: usize,
}

impl Scheduler {
    /// A scheduler without queries and workers.
    pub fn new(limits: Limits) -> Self {
        let groups = Groups::default();
        Self {
            now: Duration::ZERO,
            queries: HashMap::new(),
            members: Members::default(),
            lines: Lines::new(&groups),
            admission: Admission::new(limits.admission.clone(), groups),
            may_admit: false,
            costs: Costs::new(limits.remembered_plans),
            deadlines: BTreeSet::new(),
            submitted: 0,
            open_results: 0,
            limits,
        }
    }

    /// Takes in what happened at `now`, a time since some fixed start that never goes back.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.now = now;
        match event {
            Event::Submit(graph) => self.submit(now, graph, &mut effects),
            Event::Regroup(groups) => self.regroup(groups),
            Event::Cancel { query, failure } => self.end(query, Err(failure), &mut effects),
            Event::ResultDone { query } => self.result_done(now, query, &mut effects),
            Event::WorkerJoined {
                worker,
                slots,
                address,
                memory_bytes,
                kind,
            } => {
                self.lose_worker(now, worker, "it joined anew", &mut effects);
                for query in self.members.join(worker, slots, address, memory_bytes, kind) {
                    effects.push(release_all(worker, query));
                }
                self.workers_changed(now);
            }
            Event::WorkerLost { worker, reason } => self.lose_worker(now, worker, &reason, &mut effects),
            Event::WorkerDraining { worker } => {
                self.members.drain(worker);
                self.workers_changed(now);
            }
            Event::Report {
                worker,
                attempt,
                status,
            } => self.report(now, worker, attempt, status, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        }
        self.admit_waiting(now);
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

    /// What the workers that take tasks offer together; the server's local worker does not count.
    pub fn capacity(&self) -> Capacity {
        let pool = self.members.pool(Placement::Any);
        Capacity {
            workers: pool.offered(),
            slots: pool.total_slots(),
            memory_bytes: pool.memory_bytes(),
        }
    }

    /// Whether nothing of any query is left.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.queries.is_empty()
            && self.open_results == 0
            && self.lines.is_empty()
            && self.admission.is_empty()
            && self.members.stopping().is_empty()
    }

    /// A graph whose id is there already changes nothing; the driver does not let it through.
    fn submit(&mut self, now: Duration, graph: StageGraph, effects: &mut Vec<Effect>) {
        let id = graph.query;
        if self.queries.contains_key(&id) {
            return;
        }
        if let Err(failure) = self.accept(now, graph) {
            effects.push(Effect::Ended {
                query: id,
                outcome: Err(failure),
                info: None,
            });
            effects.push(Effect::Freed { query: id });
        }
    }

    fn accept(&mut self, now: Duration, graph: StageGraph) -> Result<(), Failure> {
        if !graph.traits.is_exempt {
            self.check_open_results()?;
        }
        graph.validate()?;
        let group = self.group_of(&graph);
        let number = self.submitted;
        let mut query = Query::new(graph, number, group, now);
        query
            .usage
            .predict(self.costs.predict(query.traits.fingerprint, query.read_bytes()));
        let (id, is_exempt) = (query.id, query.traits.is_exempt);
        if !is_exempt {
            self.admission.enter(&query.candidate())?;
            self.may_admit = true;
        }
        self.submitted += 1;
        if let Some((urgent, over)) = query.time_limits() {
            self.remind(urgent, Deadline::Urgent(query.id));
            self.remind(over, Deadline::TimeLimit(query.id));
        }
        self.queries.insert(id, query);
        if is_exempt {
            self.start(now, id);
        }
        Ok(())
    }

    fn group_of(&self, graph: &StageGraph) -> usize {
        let settings = graph.stages.last().map(|stage| stage.settings.as_slice());
        self.admission.groups().of(&graph.traits, settings.unwrap_or_default())
    }

    fn check_open_results(&self) -> Result<(), Failure> {
        if self.open_results < self.limits.max_open_results {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::Busy,
            format!(
                "{} results are open already, which is as many as --max-open-results allows; read or close some of them, \
                 then run the statement again",
                self.open_results
            ),
        ))
    }

    /// Those whose turn has come run from now on.
    fn admit_waiting(&mut self, now: Duration) {
        if !std::mem::take(&mut self.may_admit) {
            return;
        }
        while let Some(id) = self.admission.next() {
            let Some(query) = self.queries.get(&id) else {
                debug_assert!(false, "{id} waits for admission and is not there");
                return;
            };
            self.admission.start(&query.candidate());
            self.start(now, id);
        }
    }

    fn start(&mut self, now: Duration, id: QueryId) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        query.phase = Phase::Running;
        query.started = Some(now);
        for stage in query.sources() {
            self.start_stage(now, id, stage);
        }
    }

    /// Everybody finds his place anew; limits that are exceeded now stay so until queries have ended.
    fn regroup(&mut self, groups: Groups) {
        let before = std::mem::replace(&mut self.lines, Lines::new(&groups));
        for placement in [Placement::Any, Placement::Local] {
            let slots = self.members.pool(placement).total_slots();
            let lines = self.lines.of_mut(placement);
            lines.resize(slots);
            lines.empty_since = before.of(placement).empty_since;
        }
        self.admission = self.admission.regrouped(groups);
        self.may_admit = true;
        let mut ids: Vec<_> = self.queries.values().map(|query| (query.number, query.id)).collect();
        ids.sort_unstable();
        for (_, id) in ids {
            let Some(query) = self.queries.get_mut(&id) else {
                continue;
            };
            query.group = self.admission.groups().of(&query.traits, query.settings());
            if !query.traits.is_exempt {
                let candidate = query.candidate();
                self.admission.wait(&candidate);
                if !matches!(query.phase, Phase::Queued) {
                    self.admission.start(&candidate);
                }
            }
            for placement in [Placement::Any, Placement::Local] {
                let group = query.group;
                let ready = query.ready_mut(placement);
                (ready.entry, ready.pass) = (None, 0);
                let lines = self.lines.of_mut(placement);
                lines.settle(ready.lane, group, ready.held_slots, 0, Correction::More(0));
            }
            for placement in [Placement::Any, Placement::Local] {
                self.stand(id, placement);
            }
        }
    }

    fn result_done(&mut self, now: Duration, id: QueryId, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        match &mut query.phase {
            Phase::Streaming { read } => *read = true,
            Phase::Queued | Phase::Running | Phase::Failing { .. } => return,
        }
        if !self.end_if_complete(now, id, effects) {
            self.remind(now + self.limits.last_report_timeout, Deadline::LastReport(id));
        }
    }

    /// Ends the query if its root is finished and its result read.
    fn end_if_complete(&mut self, now: Duration, id: QueryId, effects: &mut Vec<Effect>) -> bool {
        let is_complete = self.queries.get(&id).is_some_and(|query| {
            let is_read = match query.phase {
                Phase::Streaming { read } => read,
                Phase::Queued | Phase::Running | Phase::Failing { .. } => false,
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
    fn end(&mut self, id: QueryId, outcome: Result<QuerySummary, Failure>, effects: &mut Vec<Effect>) {
        let Some(mut query) = self.queries.remove(&id) else {
            return;
        };
        if let Some((urgent, over)) = query.time_limits() {
            self.deadlines.remove(&(urgent, Deadline::Urgent(id)));
            self.deadlines.remove(&(over, Deadline::TimeLimit(id)));
        }
        if matches!(query.phase, Phase::Streaming { .. }) {
            self.open_results -= 1;
        }
        self.leave_lines(&mut query);
        self.leave_admission(&query);
        if outcome.is_ok() {
            let (plan, bytes) = (query.traits.fingerprint, query.read_bytes());
            self.costs.learn(plan, bytes, query.usage.spent_us);
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
            if !query.has_failed(attempt) {
                self.members.stop(hold.worker, attempt);
            }
        }
        for &worker in &query.touched {
            self.members.forget(worker, id);
            if self.members.contains(worker) {
                effects.push(release_all(worker, id));
            }
        }
        let info = query.info(self.group_name(query.group));
        effects.push(Effect::Ended {
            query: id,
            outcome,
            info: Some(Box::new(info)),
        });
        if !self.members.has_to_stop(id) {
            effects.push(Effect::Freed { query: id });
        }
    }

    /// Its groups get the slots back that it holds, and are charged for what it did with them.
    fn leave_lines(&mut self, query: &mut Query) {
        for (placement, lane, slots, correction) in query.stop_clocks(self.now) {
            let lines = self.lines.of_mut(placement);
            lines.settle(lane, query.group, 0, slots, correction);
        }
        for placement in [Placement::Any, Placement::Local] {
            if let Some(entry) = query.ready_mut(placement).entry.take() {
                self.lines.of_mut(placement).lane_mut(entry.lane).remove(&entry);
            }
        }
    }

    fn leave_admission(&mut self, query: &Query) {
        if query.traits.is_exempt {
            return;
        }
        match query.started {
            None => self.admission.leave(&query.candidate()),
            Some(started) => {
                let ran = self.now.saturating_sub(started);
                self.admission.end(&query.candidate(), ran);
            }
        }
        self.may_admit = true;
    }

    fn lose_worker(&mut self, now: Duration, worker: WorkerId, reason: &str, effects: &mut Vec<Effect>) {
        let Some(loss) = self.members.lose(worker, self.limits.remembered_workers) else {
            return;
        };
        let freed = loss.freed.into_iter();
        effects.extend(freed.map(|query| Effect::Freed { query }));
        for (id, depended) in loss.queries {
            if depended {
                let message = format!("{} was lost ({reason}); run the statement again", loss.name);
                self.end(id, Err(Failure::new(FailureKind::WorkerLost, message)), effects);
            } else if let Some(query) = self.queries.get_mut(&id) {
                query.forgotten_by(worker);
            }
        }
        self.workers_changed(now);
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while let Some(&(at, deadline)) = self.deadlines.first() {
            if at > now {
                return;
            }
            self.deadlines.pop_first();
            match deadline {
                Deadline::Worker(query, placement) => self.give_up_waiting(now, query, placement, effects),
                Deadline::Urgent(query) => self.time_is_short(query),
                Deadline::TimeLimit(query) => self.time_is_over(query, effects),
                // The dispatch at the end of the event sees that the time has come.
                Deadline::Room(_) => {}
                Deadline::Retry(query, stage, task) => self.retry(now, query, stage, task),
                Deadline::RootCause(query) => self.end_without_cause(query, effects),
                Deadline::LastReport(query) => self.end_well(now, query, effects),
            }
        }
    }

    /// It counts more from now on.
    fn time_is_short(&mut self, id: QueryId) {
        if let Some(query) = self.queries.get_mut(&id) {
            query.is_urgent = true;
            for placement in [Placement::Any, Placement::Local] {
                self.stand(id, placement);
            }
        }
    }

    /// Whatever the query is doing.
    fn time_is_over(&mut self, id: QueryId, effects: &mut Vec<Effect>) {
        let limit = self.queries.get(&id).and_then(|query| query.traits.time_limit.as_ref());
        if let Some(failure) = limit.map(|limit| limit.failure.clone()) {
            self.end(id, Err(failure), effects);
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
