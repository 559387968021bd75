//! Workers of which nothing is heard: they are suspected before they are lost, and may return.
//!
//! | happens | the worker | its queries |
//! |---|---|---|
//! | WorkerSuspected | gets no new attempts | go on as far as they can without it |
//! | WorkerReturned | gets attempts again | what was lost on the way is told again; what the worker lost makes them start again or ends them |
//! | `Limits::worker_grace` is over | is lost | see [`Scheduler::lose_worker`] |
//!
//! Both ways messages may have been lost. The worker reports the state of all that it has before it counts as returned,
//! so here only what it does not know is told: commits and releases once more (a second one changes nothing). A launch
//! that did not arrive counts as refused: the attempt never ran, so its task is placed anew.

use std::collections::BTreeSet;
use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Release};
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, StageId, WorkerId};

use crate::deadline::Deadline;
use crate::event::Effect;
use crate::lifecycle::query::Query;
use crate::lifecycle::task::{Task, Told};
use crate::scheduler::Scheduler;
use crate::workers::pool::Suspicion;

/// How what a returned worker holds differs from what the scheduler knows of a query.
#[derive(Debug, Default)]
struct Differences {
    /// Reserved there; the commit may have been lost.
    to_commit: Vec<AttemptKey>,
    /// The launch was lost.
    unlaunched: Vec<AttemptKey>,
    /// Output that nobody reads any more; its release may have been lost.
    released: Vec<StageId>,
    /// Whether the worker has an attempt or output that the query needs.
    is_needed: bool,
    /// Attempts and outputs that the query needs, and the worker does not have.
    missing: Vec<AttemptKey>,
}

impl Scheduler {
    /// Nothing is heard of a worker: it gets nothing new, and its grace begins.
    pub(crate) fn suspect_worker(
        &mut self,
        now: Duration,
        worker: WorkerId,
        reason: String,
        effects: &mut Vec<Effect>,
    ) {
        if !self.workers.suspect(worker, Suspicion { since: now, reason }) {
            return;
        }
        self.update_capacity(now);
        self.set_deadline(now + self.limits.worker_grace, Deadline::Grace(worker));
        if self.limits.worker_grace.is_zero() {
            self.give_up_worker(now, worker, effects);
        }
    }

    /// The grace of a worker is over, unless it has returned meanwhile.
    pub(crate) fn give_up_worker(&mut self, now: Duration, worker: WorkerId, effects: &mut Vec<Effect>) {
        let grace = self.limits.worker_grace;
        let suspicion = self.workers.suspicion(worker);
        let Some(suspicion) = suspicion.filter(|suspicion| suspicion.since + grace <= now) else {
            return;
        };
        let reason = match grace.is_zero() {
            true => suspicion.reason.clone(),
            false => format!("{} and did not return within {grace:?}", suspicion.reason),
        };
        self.lose_worker(now, worker, &reason, effects);
        effects.push(Effect::WorkerGivenUp { worker, reason });
    }

    /// A suspected worker is there again and has reported all that it has, `held`.
    pub(crate) fn return_worker(
        &mut self,
        now: Duration,
        worker: WorkerId,
        held: &BTreeSet<AttemptKey>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(suspicion) = self.workers.suspicion(worker) {
            let over = suspicion.since + self.limits.worker_grace;
            self.deadlines.remove(&(over, Deadline::Grace(worker)));
        }
        if !self.workers.trust(worker) {
            return;
        }
        for attempt in self.workers.stopping_on(worker) {
            if !held.contains(&attempt)
                && let Some(query) = self.workers.confirm_stop(worker, attempt)
            {
                self.record_last_stop(query, effects);
            }
        }
        for id in self.workers.queries_on(worker) {
            self.reconcile(now, id, worker, held, effects);
        }
        self.update_capacity(now);
    }

    fn reconcile(
        &mut self,
        now: Duration,
        id: QueryId,
        worker: WorkerId,
        held: &BTreeSet<AttemptKey>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        query.forget_stages_sent(worker);
        let differences = query.compare(worker, held);
        if !differences.is_needed {
            // Perhaps the query has started again meanwhile.
            effects.push(Effect::release_all(worker, id));
        } else if !differences.released.is_empty() {
            let release = Release {
                query: id,
                stages: differences.released,
            };
            effects.push(Effect::Release { worker, release });
        }
        for &attempt in &differences.missing {
            if let Some(task) = query.task_mut(attempt) {
                task.mark_gone();
            }
        }
        let is_failing = query.is_failing();
        for attempt in differences.unlaunched {
            let reason = "its connection broke before the launch arrived".to_owned();
            self.apply_report(now, worker, attempt, AttemptStatus::Refused { reason }, effects);
        }
        if is_failing {
            return;
        }
        if let Some(missing) = differences.missing.first() {
            let name = self.workers.name(worker);
            let message =
                format!("{name} was away for too long and has dropped attempt {missing}; run the statement again");
            self.fail(now, id, Failure::new(FailureKind::WorkerLost, message), effects);
            return;
        }
        let commits = differences.to_commit.into_iter();
        effects.extend(commits.map(|attempt| Effect::Commit { worker, attempt }));
    }
}

impl Query {
    fn compare(&self, worker: WorkerId, held: &BTreeSet<AttemptKey>) -> Differences {
        let mut differences = Differences::default();
        for stage in &self.stages {
            if stage.is_released() {
                differences.released.push(stage.spec.id);
                continue;
            }
            for (task, state) in stage.keyed_tasks(self.id) {
                differences.add(task, state, worker, held);
            }
        }
        differences
    }
}

impl Differences {
    /// `key`: of the task's last attempt.
    fn add(&mut self, key: AttemptKey, task: &Task, worker: WorkerId, held: &BTreeSet<AttemptKey>) {
        let (told, is_held) = (task.told(worker), held.contains(&key));
        self.is_needed |= told.is_some() && is_held;
        match (told, is_held) {
            (Some(Told::Launch), false) => self.unlaunched.push(key),
            (Some(Told::Commit), true) => self.to_commit.push(key),
            (Some(Told::Commit | Told::Nothing), false) => self.missing.push(key),
            (Some(Told::Launch | Told::Nothing), true) | (None, _) => {}
        }
    }
}
