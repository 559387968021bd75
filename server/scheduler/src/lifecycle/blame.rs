//! After a failed attempt: which worker is to blame, so that the scheduler avoids it for the next attempt.
//!
//! | the attempt failed | blamed | the outputs that it names |
//! |---|---|---|
//! | since output is gone | nobody | are computed again |
//! | since it could not reach output on a worker that is silent, or that others cannot reach either | that worker | are computed again, with all that the query has there |
//! | since it could not reach output on another worker | the two together | stay, if there is a worker that can read them |
//! | since its reader was gone | nobody | |
//! | otherwise, for a reason that is not the statement's | its worker | |
//!
//! A full disk is tried once on each worker, as far as the tries of a task go.

use std::time::Duration;

use squadron_proto::{AttemptKey, Failure, FailureKind, WorkerId};

use crate::event::Effect;
use crate::lifecycle::query::Query;
use crate::lifecycle::task::Task;
use crate::scheduler::Scheduler;
use crate::workers::placement::Preferences;

/// What follows for an attempt that failed.
#[derive(Debug, Default)]
pub(crate) struct Blame {
    /// The outputs that are lost.
    pub(crate) lost: Vec<AttemptKey>,
    /// Whether all that it could not read was known to be lost: it had to fail.
    pub(crate) is_known: bool,
}

impl Scheduler {
    /// An attempt on `worker` failed, for want of the outputs that its failure `named`.
    pub(crate) fn lay_blame(
        &mut self,
        now: Duration,
        (worker, attempt): (WorkerId, AttemptKey),
        failure: &Failure,
        named: Vec<AttemptKey>,
        effects: &mut Vec<Effect>,
    ) -> Blame {
        let is_known = !named.is_empty() && named.iter().all(|&output| self.is_gone(output));
        let lost = match failure.kind {
            FailureKind::ShuffleLost | FailureKind::Cancelled => named,
            FailureKind::WorkerLost if is_known => named,
            FailureKind::WorkerLost if !named.is_empty() => {
                let mut lost = Vec::new();
                for output in named {
                    if self.is_cut_off(now, (worker, attempt), output, failure, effects) {
                        lost.extend(self.give_up_on_worker_of(output));
                    }
                }
                lost
            }
            _ => {
                self.avoid_worker_of(attempt);
                if self.workers.health.record_failure(now, worker, attempt.query) {
                    effects.push(avoided(worker, failure));
                }
                named
            }
        };
        Blame { lost, is_known }
    }

    /// Whether an output is that of a former attempt, or its worker is lost or silent.
    fn is_gone(&self, output: AttemptKey) -> bool {
        self.heard_holder(output).is_none()
    }

    /// The worker that holds an output, if it is neither lost nor silent.
    fn heard_holder(&self, output: AttemptKey) -> Option<WorkerId> {
        let holder = self.queries.get(&output.query)?.worker_of(output)?;
        let is_heard = self.workers.contains(holder) && self.workers.suspicion(holder).is_none();
        is_heard.then_some(holder)
    }

    /// The attempt could not reach an output. Returns whether no other attempt will, as far as is known.
    fn is_cut_off(
        &mut self,
        now: Duration,
        (reader, attempt): (WorkerId, AttemptKey),
        output: AttemptKey,
        failure: &Failure,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(holder) = self.heard_holder(output) else {
            return true;
        };
        if let Some(worker) = self.workers.health.record_cut(now, reader, holder) {
            effects.push(avoided(worker, failure));
        }
        self.workers.health.is_avoided(now, holder) || !self.has_other_reader(now, attempt)
    }

    /// Nothing that the query has on the worker of an output can be read elsewhere: returns all of it. Its tasks go
    /// somewhere else, also those that were not there.
    fn give_up_on_worker_of(&mut self, output: AttemptKey) -> Vec<AttemptKey> {
        let Some(query) = self.queries.get_mut(&output.query) else {
            return Vec::new();
        };
        let Some(holder) = query.worker_of(output) else {
            return vec![output];
        };
        query.unreachable.insert(holder);
        let (live, finished) = query.take_from(holder, None);
        live.into_iter().chain(finished).collect()
    }

    /// Whether a worker that can read all input of the attempt's stage, as far as is known, accepts tasks.
    fn has_other_reader(&self, now: Duration, attempt: AttemptKey) -> bool {
        self.leaves_reader(now, attempt, &[])
    }

    fn leaves_reader(&self, now: Duration, attempt: AttemptKey, tried: &[WorkerId]) -> bool {
        let query = self.queries.get(&attempt.query);
        let stage = query.and_then(|query| Some(&query.stages[query.position(attempt.stage)?]));
        stage.is_some_and(|stage| {
            let cut_off = self.workers.health.cut_off(now, stage.holders());
            let cut_off = Vec::from_iter(cut_off);
            let slots = self.workers.slots(stage.spec.placement);
            slots.leaves_worker(Preferences {
                cut_off: &cut_off,
                tried,
                ..Preferences::default()
            })
        })
    }

    /// Whether a worker that can read all input accepts tasks on which the attempt's task has not failed.
    pub(crate) fn has_untried_worker(&self, now: Duration, attempt: AttemptKey) -> bool {
        let query = self.queries.get(&attempt.query);
        let tried = query.and_then(|query| query.task(attempt)).map(Task::avoided);
        self.leaves_reader(now, attempt, tried.unwrap_or_default())
    }

    /// The server could not read an output. Returns what is lost with it.
    pub(crate) fn lay_blame_for_result(
        &mut self,
        now: Duration,
        output: AttemptKey,
        failure: &Failure,
        effects: &mut Vec<Effect>,
    ) -> Vec<AttemptKey> {
        let holder = self
            .queries
            .get(&output.query)
            .and_then(|query| query.worker_of(output));
        match holder {
            Some(holder) if failure.kind == FailureKind::WorkerLost && self.workers.contains(holder) => {
                if let Some(worker) = self.workers.health.record_cut(now, SERVER, holder) {
                    effects.push(avoided(worker, failure));
                }
                self.give_up_on_worker_of(output)
            }
            Some(_) | None => {
                self.avoid_worker_of(output);
                vec![output]
            }
        }
    }

    fn avoid_worker_of(&mut self, output: AttemptKey) {
        if let Some(query) = self.queries.get_mut(&output.query) {
            query.avoid_worker_of(output);
        }
    }
}

fn avoided(worker: WorkerId, failure: &Failure) -> Effect {
    Effect::WorkerAvoided {
        worker,
        reason: failure.message.clone(),
    }
}

/// The server as a reader.
const SERVER: WorkerId = WorkerId::from_u128(0);

impl Query {
    /// The task of an attempt would rather not run on the same worker again.
    pub(crate) fn avoid_worker_of(&mut self, key: AttemptKey) {
        if let Some(worker) = self.worker_of(key)
            && let Some(task) = self.task_mut(key)
        {
            task.avoid(worker);
        }
    }
}
