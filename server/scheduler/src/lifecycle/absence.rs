//! Workers of which nothing is heard: they are suspected before they are lost, and may return.
//!
//! | happens | the worker | its queries |
//! |---|---|---|
//! | WorkerSuspected | gets no new attempts | go on as far as they can without it |
//! | WorkerReturned | gets attempts again | what was lost on the way is told again; what the worker lost is computed again |
//! | `Limits::worker_grace` is over | is lost | see [`Scheduler::lose_worker`] |
//!
//! Both ways messages may have been lost. The worker reports the state of all that it has before it counts as returned,
//! so here only what it does not know is told: commits and cancels once more (a second one changes nothing). A launch
//! that did not arrive is lost: the attempt never ran, so its task is placed anew.

use std::collections::BTreeSet;
use std::time::Duration;

use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, WorkerId};

use crate::deadline::Deadline;
use crate::event::Effect;
use crate::lifecycle::attempt::Told;
use crate::lifecycle::query::Query;
use crate::scheduler::Scheduler;
use crate::workers::pool::Suspicion;

/// How what a returned worker holds differs from what the scheduler knows of a query.
#[derive(Debug, Default)]
struct Differences {
    /// Reserved there; the commit may have been lost.
    to_commit: Vec<AttemptKey>,
    /// Attempts and output that the query does not need any more; what it said about that may have been lost.
    obsolete: Vec<AttemptKey>,
    /// Attempts and outputs that the worker should have, and does not.
    missing: BTreeSet<AttemptKey>,
    /// Whether some of them were there: not only their launch was lost.
    has_dropped: bool,
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
        let obsolete = differences.obsolete.into_iter();
        effects.extend(obsolete.map(|attempt| Effect::CancelAttempt { worker, attempt }));
        let commits = differences.to_commit.into_iter();
        effects.extend(commits.map(|attempt| Effect::Commit { worker, attempt }));
        if let Some(first) = differences.missing.first() {
            let name = self.workers.name(worker);
            let message = match differences.has_dropped {
                true => format!("{name} was away for too long and has dropped attempt {first}"),
                false => format!("the connection to {name} broke before attempt {first} was launched"),
            };
            let failure = Failure::new(FailureKind::WorkerLost, message);
            self.lose_on_worker(now, id, (worker, Some(&differences.missing)), failure, effects);
        }
    }
}

impl Query {
    fn compare(&self, worker: WorkerId, held: &BTreeSet<AttemptKey>) -> Differences {
        let mut differences = Differences::default();
        let mut expected = BTreeSet::new();
        for stage in &self.stages {
            for (key, attempt) in stage.attempts(self.id) {
                let Some(told) = attempt.told().filter(|_| attempt.worker() == worker) else {
                    continue;
                };
                expected.insert(key);
                if !held.contains(&key) {
                    differences.missing.insert(key);
                    differences.has_dropped |= told != Told::Launch;
                } else if told == Told::Commit {
                    differences.to_commit.push(key);
                }
            }
        }
        let of_query = held.iter().filter(|key| key.query == self.id);
        differences.obsolete = of_query.filter(|key| !expected.contains(key)).copied().collect();
        differences
    }
}
