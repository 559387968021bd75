//! All queries and workers of a server, and the one way to change them: [`Scheduler::apply`].
//!
//! | event | query | effects |
//! |---|---|---|
//! | Submit | enters phase Queued; runs once admitted | launches while slots are free; Ended when it is refused |
//! | Regroup | changes its group | launches |
//! | Report | see [`query`], [`stage`], [`task`] and [`attempt`] | Commit, CancelAttempt, Release, ResultReady, Recovering, Ended |
//! | ResultDone | ends, once its root stage is finished | Release, Ended |
//! | ResultUnreadable | computes these parts again, or ends | Recovering, CancelAttempt; launches |
//! | Cancel | ends | CancelAttempt, Release, Ended |
//! | WorkerJoined | as WorkerLost, if the worker was there | Release of queries it knew when it was lost; launches |
//! | WorkerSuspected | | |
//! | WorkerReturned | as WorkerLost, for what the worker does not have any more | Commit, CancelAttempt, Release; launches |
//! | WorkerLost | computes again what it needs of the worker, or ends | Recovering, CancelAttempt on other workers; launches |
//! | WorkerDraining | | |
//! | Tick | what has waited too long is retried, placed or ended; slow tasks get second attempts | as above; SecondAttempt |
//!
//! [`query`]: crate::lifecycle::query
//! [`stage`]: crate::lifecycle::stage
//! [`task`]: crate::lifecycle::task
//! [`attempt`]: crate::lifecycle::attempt

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use squadron_proto::{Failure, FailureKind, QueryId};

use crate::admission::Admission;
use crate::deadline::Deadline;
use crate::event::{Effect, Event};
use crate::graph::{Placement, StageGraph};
use crate::groups::Groups;
use crate::lifecycle::query::{Phase, Query};
use crate::limits::Limits;
use crate::queue::cost::Costs;
use crate::queue::run_queue::Correction;
use crate::queue::run_queues::RunQueues;
use crate::workers::pool::WorkerPool;

/// All queries and workers of a server.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) limits: Limits,
    /// The time of the event that is being applied.
    pub(crate) now: Duration,
    pub(crate) queries: HashMap<QueryId, Query>,
    pub(crate) workers: WorkerPool,
    pub(crate) admission: Admission,
    /// Whether a query that waits for admission may be admissible now.
    pub(crate) may_admit: bool,
    pub(crate) queues: RunQueues,
    pub(crate) costs: Costs,
    pub(crate) deadlines: BTreeSet<(Duration, Deadline)>,
    pub(crate) submitted: u64,
    pub(crate) open_results: usize,
}

impl Scheduler {
    /// A scheduler without queries and workers.
    pub fn new(limits: Limits) -> Self {
        let groups = Groups::default();
        Self {
            now: Duration::ZERO,
            queries: HashMap::new(),
            workers: WorkerPool::default(),
            queues: RunQueues::new(&groups),
            admission: Admission::new(limits.admission.clone(), groups),
            may_admit: false,
            costs: Costs::new(limits.remembered_plans),
            deadlines: BTreeSet::new(),
            submitted: 0,
            open_results: 0,
            limits,
        }
    }

    /// Applies what happened at `now`, a time since some fixed start that never goes back.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.now = now;
        match event {
            Event::Submit(graph) => self.submit(now, graph, &mut effects),
            Event::Regroup(groups) => self.regroup(groups),
            Event::Cancel { query, failure } => self.end(query, Err(failure), &mut effects),
            Event::ResultDone { query } => self.mark_result_read(now, query, &mut effects),
            Event::ResultUnreadable { query, failure } => self.lose_parts(now, query, failure, &mut effects),
            Event::WorkerJoined {
                worker,
                slots,
                address,
                memory_bytes,
                kind,
            } => {
                self.lose_worker(now, worker, "it joined anew", &mut effects);
                for query in self.workers.join(worker, slots, address, memory_bytes, kind) {
                    effects.push(Effect::release_all(worker, query));
                }
                self.update_capacity(now);
            }
            Event::WorkerSuspected { worker, reason } => self.suspect_worker(now, worker, reason, &mut effects),
            Event::WorkerReturned { worker, held } => self.return_worker(now, worker, &held, &mut effects),
            Event::WorkerLost { worker, reason } => self.lose_worker(now, worker, &reason, &mut effects),
            Event::WorkerDraining { worker } => {
                self.workers.drain(worker);
                self.update_capacity(now);
            }
            Event::Report {
                worker,
                attempt,
                status,
            } => self.apply_report(now, worker, attempt, status, &mut effects),
            Event::Tick => self.tick(now, &mut effects),
        }
        self.admit_waiting(now, &mut effects);
        self.dispatch(now, &mut effects);
        effects
    }

    /// When the next [`Event::Tick`] is due, if no other event comes before.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// Whether nothing of any query is left.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.queries.is_empty()
            && self.open_results == 0
            && self.queues.is_empty()
            && self.admission.is_empty()
            && self.workers.stopping().is_empty()
    }

    /// A graph with the id of a query that has not ended changes nothing; the driver does not submit one.
    fn submit(&mut self, now: Duration, graph: StageGraph, effects: &mut Vec<Effect>) {
        let id = graph.query;
        if self.queries.contains_key(&id) {
            return;
        }
        if let Err(failure) = self.accept(now, graph, effects) {
            effects.push(Effect::Ended {
                query: id,
                outcome: Err(failure),
                info: None,
            });
            effects.push(Effect::Released { query: id });
        }
    }

    fn accept(&mut self, now: Duration, graph: StageGraph, effects: &mut Vec<Effect>) -> Result<(), Failure> {
        if !graph.options.is_exempt {
            self.check_open_results()?;
        }
        graph.validate()?;
        let group = self.group_of(&graph);
        let number = self.submitted;
        let mut query = Query::new(graph, number, group, now);
        query
            .usage
            .predict(self.costs.predict(query.options.fingerprint, query.read_bytes()));
        let (id, is_exempt) = (query.id, query.options.is_exempt);
        if !is_exempt {
            self.admission.enter(&query.candidate())?;
            self.may_admit = true;
        }
        self.submitted += 1;
        if let Some((urgent, over)) = query.time_limits() {
            self.set_deadline(urgent, Deadline::Urgent(query.id));
            self.set_deadline(over, Deadline::TimeLimit(query.id));
        }
        self.queries.insert(id, query);
        if is_exempt {
            self.start(now, id, effects);
        }
        Ok(())
    }

    fn group_of(&self, graph: &StageGraph) -> usize {
        let settings = graph.stages.last().map(|stage| stage.settings.as_slice());
        self.admission
            .groups()
            .select(&graph.options, settings.unwrap_or_default())
    }

    /// Why a query handed in now would be refused whatever it is; none while there is room for its result.
    pub fn refusal(&self) -> Option<Failure> {
        self.check_open_results().err()
    }

    fn check_open_results(&self) -> Result<(), Failure> {
        if self.open_results < self.limits.max_open_results {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::Busy,
            format!(
                "{} results are open already, which is as many as --max-open-results allows; read or close some of \
                 them, then run the statement again",
                self.open_results
            ),
        ))
    }

    /// Starts the queries that admission lets run.
    fn admit_waiting(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !std::mem::take(&mut self.may_admit) {
            return;
        }
        while let Some(id) = self.admission.next() {
            let Some(query) = self.queries.get(&id) else {
                debug_assert!(false, "{id} waits for admission and is not there");
                return;
            };
            self.admission.start(&query.candidate());
            self.start(now, id, effects);
        }
    }

    fn start(&mut self, now: Duration, id: QueryId, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        query.phase = Phase::Running;
        query.started = Some(now);
        self.advance(now, id, effects);
    }

    /// Assigns every query to one of the new groups; limits that are exceeded now stay exceeded until queries have
    /// ended.
    fn regroup(&mut self, groups: Groups) {
        let before = std::mem::replace(&mut self.queues, RunQueues::new(&groups));
        for placement in [Placement::Any, Placement::Local] {
            let slots = self.workers.slots(placement).total_slots();
            let queues = self.queues.of_mut(placement);
            queues.resize(slots);
            queues.empty_since = before.of(placement).empty_since;
        }
        self.admission = self.admission.with_groups(groups);
        self.may_admit = true;
        let mut ids: Vec<_> = self.queries.values().map(|query| (query.number, query.id)).collect();
        ids.sort_unstable();
        for (_, id) in ids {
            let Some(query) = self.queries.get_mut(&id) else {
                continue;
            };
            query.group = self.admission.groups().select(&query.options, query.settings());
            if !query.options.is_exempt {
                let candidate = query.candidate();
                self.admission.enqueue(&candidate);
                if !matches!(query.phase, Phase::Queued) {
                    self.admission.start(&candidate);
                }
            }
            for placement in [Placement::Any, Placement::Local] {
                let group = query.group;
                let ready = query.ready_mut(placement);
                (ready.entry, ready.pass) = (None, 0);
                let queues = self.queues.of_mut(placement);
                queues.settle(ready.lane, group, ready.held_slots, 0, Correction::More(0));
            }
            for placement in [Placement::Any, Placement::Local] {
                self.update_queue_entry(id, placement);
            }
        }
    }

    fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while let Some(&(at, deadline)) = self.deadlines.first() {
            if at > now {
                return;
            }
            self.deadlines.pop_first();
            match deadline {
                Deadline::Worker(query, placement) => self.end_without_worker(now, query, placement, effects),
                Deadline::Urgent(query) => self.raise_urgency(query),
                Deadline::TimeLimit(query) => self.end_at_time_limit(query, effects),
                // The dispatch at the end of the event compares the times itself.
                Deadline::Room(_) => {}
                Deadline::Retry(query, stage, task) => self.retry(now, query, stage, task),
                Deadline::Stragglers(query, stage) => self.check_stragglers(now, query, stage, effects),
                Deadline::LastReport(query) => self.end_successfully(now, query, effects),
                Deadline::Grace(worker) => self.give_up_worker(now, worker, effects),
            }
        }
    }

    /// Most of the query's time limit is over: its weight grows.
    fn raise_urgency(&mut self, id: QueryId) {
        if let Some(query) = self.queries.get_mut(&id) {
            query.is_urgent = true;
            for placement in [Placement::Any, Placement::Local] {
                self.update_queue_entry(id, placement);
            }
        }
    }

    pub(crate) fn set_deadline(&mut self, at: Duration, deadline: Deadline) {
        self.deadlines.insert((at, deadline));
    }
}
