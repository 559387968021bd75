//! All queries and workers of a server, and the one way in: [`Scheduler::apply`].

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
    /// Of the event that is being taken in.
    pub(crate) now: Duration,
    pub(crate) queries: HashMap<QueryId, Query>,
    pub(crate) workers: WorkerPool,
    pub(crate) admission: Admission,
    /// Whether somebody who waits for admission may have got room.
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
                for query in self.workers.join(worker, slots, address, memory_bytes, kind) {
                    effects.push(Effect::release_all(worker, query));
                }
                self.workers_changed(now);
            }
            Event::WorkerLost { worker, reason } => self.lose_worker(now, worker, &reason, &mut effects),
            Event::WorkerDraining { worker } => {
                self.workers.drain(worker);
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

    /// Whether nothing of any query is left.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.queries.is_empty()
            && self.open_results == 0
            && self.queues.is_empty()
            && self.admission.is_empty()
            && self.workers.stopping().is_empty()
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
            effects.push(Effect::Released { query: id });
        }
    }

    fn accept(&mut self, now: Duration, graph: StageGraph) -> Result<(), Failure> {
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
        self.admission.groups().of(&graph.options, settings.unwrap_or_default())
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
        let before = std::mem::replace(&mut self.queues, RunQueues::new(&groups));
        for placement in [Placement::Any, Placement::Local] {
            let slots = self.workers.slots(placement).total_slots();
            let queues = self.queues.of_mut(placement);
            queues.resize(slots);
            queues.empty_since = before.of(placement).empty_since;
        }
        self.admission = self.admission.regrouped(groups);
        self.may_admit = true;
        let mut ids: Vec<_> = self.queries.values().map(|query| (query.number, query.id)).collect();
        ids.sort_unstable();
        for (_, id) in ids {
            let Some(query) = self.queries.get_mut(&id) else {
                continue;
            };
            query.group = self.admission.groups().of(&query.options, query.settings());
            if !query.options.is_exempt {
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
                let queues = self.queues.of_mut(placement);
                queues.settle(ready.lane, group, ready.held_slots, 0, Correction::More(0));
            }
            for placement in [Placement::Any, Placement::Local] {
                self.stand(id, placement);
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

    pub(crate) fn remind(&mut self, at: Duration, deadline: Deadline) {
        self.deadlines.insert((at, deadline));
    }
}
