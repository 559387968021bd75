//! What workers report, and what follows from it: the next state of task, stage and query.

use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Lane, Release};
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, WorkerId};

use crate::deadline::Deadline;
use crate::event::Effect;
use crate::graph::Placement;
use crate::lifecycle::query::Phase;
use crate::lifecycle::task::{Change, Hold};
use crate::scheduler::Scheduler;

impl Scheduler {
    pub(crate) fn report(
        &mut self,
        now: Duration,
        worker: WorkerId,
        attempt: AttemptKey,
        status: AttemptStatus,
        effects: &mut Vec<Effect>,
    ) {
        if !self.workers.contains(worker) {
            return;
        }
        let is_alive = is_alive(&status);
        let Some(query) = self.queries.get_mut(&attempt.query) else {
            if !is_alive && let Some(query) = self.workers.stopped(worker, attempt) {
                effects.push(Effect::Released { query });
            }
            effects.extend(left_over(worker, attempt, &status));
            return;
        };
        let (change, impossible) = query.report(worker, attempt, status);
        if let Some(what) = impossible {
            effects.push(Effect::Unexpected { worker, attempt, what });
        }
        if query.is_failing() {
            self.wind_down(attempt, change, effects);
            return;
        }
        match change {
            Change::Unknown if is_alive => effects.push(Effect::CancelAttempt { worker, attempt }),
            Change::Unknown | Change::Repeated => {}
            Change::Commit => effects.push(Effect::Commit { worker, attempt }),
            Change::Refused { hold, refusals, reason } => {
                self.free(attempt, hold);
                self.pause_or_fail(now, attempt, (refusals, hold.share.lane), &reason, effects);
            }
            Change::Started => self.task_started(now, attempt, effects),
            Change::Parked { hold, started } => {
                self.give_slots(attempt, hold, true);
                if started {
                    self.task_started(now, attempt, effects);
                }
            }
            Change::Resumed(hold) => self.take_slots_again(attempt, hold),
            Change::Finished {
                hold,
                held_slots,
                started,
            } => {
                if held_slots {
                    self.give_slots(attempt, hold, true);
                } else {
                    self.charge(attempt, 0, true);
                }
                if started {
                    self.task_started(now, attempt, effects);
                }
                self.task_finished(now, attempt, effects);
            }
            Change::Failed(failure) => {
                if let Some(task) = query.task_mut(attempt) {
                    task.note_end(now);
                }
                self.attempt_failed(now, attempt.query, failure, effects);
            }
        }
    }

    /// Gives back the slots of an attempt that never ran, and what the query needed of the worker for it.
    fn free(&mut self, attempt: AttemptKey, hold: Hold) {
        self.give_slots(attempt, hold, false);
        self.workers.undepend(hold.worker, attempt.query, 1);
    }

    /// A refused task pauses, unless it was refused so often that there is no hope.
    fn pause_or_fail(
        &mut self,
        now: Duration,
        attempt: AttemptKey,
        (refusals, lane): (u32, Lane),
        reason: &str,
        effects: &mut Vec<Effect>,
    ) {
        let Some(query) = self.queries.get(&attempt.query) else {
            return;
        };
        let placement = query
            .position(attempt.stage)
            .map(|stage| query.stages[stage].spec.placement);
        let is_idle = placement.is_some_and(|placement| self.workers.slots(placement).is_idle(lane));
        let limits = &self.limits;
        if refusals >= limits.max_refusals || (is_idle && refusals >= limits.max_idle_refusals) {
            let message = format!(
                "the workers refused a part of the query {refusals} times, at last because: {reason}; run the statement \
                 again later, or add workers"
            );
            self.end(
                attempt.query,
                Err(Failure::new(FailureKind::Exhausted, message)),
                effects,
            );
            return;
        }
        let doublings = (refusals - 1).min(6);
        let pause = limits.refusal_pause * (1 << doublings);
        self.remind(now + pause, Deadline::Retry(attempt.query, attempt.stage, attempt.task));
    }

    fn task_started(&mut self, now: Duration, attempt: AttemptKey, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&attempt.query) else {
            return;
        };
        if let Some(task) = query.task_mut(attempt) {
            task.note_start(now);
        }
        let Some(stage) = query.position(attempt.stage) else {
            return;
        };
        let all_started = query.stages[stage].task_started();
        if all_started && stage == query.root && query.stages[stage].spec.streamed {
            self.result_ready(attempt.query, effects);
        }
    }

    fn result_ready(&mut self, id: QueryId, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        query.phase = Phase::Streaming { read: false };
        self.open_results += 1;
        let workers = &self.workers;
        let parts = query.result_parts(|worker| workers.address(worker));
        effects.push(Effect::ResultReady { query: id, parts });
    }

    fn task_finished(&mut self, now: Duration, attempt: AttemptKey, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&attempt.query) else {
            return;
        };
        if let Some(task) = query.task_mut(attempt) {
            task.note_end(now);
        }
        let Some(stage) = query.position(attempt.stage) else {
            return;
        };
        if query.stages[stage].task_finished(now) {
            self.stage_finished(now, attempt.query, stage, effects);
        }
    }

    /// Output nobody reads any more is dropped, stages whose inputs are complete start.
    fn stage_finished(&mut self, now: Duration, id: QueryId, stage: usize, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        for input in query.stages[stage].inputs.clone() {
            let released = query.stages[input].spec.id;
            for (worker, outputs) in query.stages[input].consumer_finished().into_iter().flatten() {
                self.workers.undepend(worker, id, outputs);
                let release = Release {
                    query: id,
                    stages: vec![released],
                };
                effects.push(Effect::Release { worker, release });
            }
        }
        let consumers = query.stages[stage].consumers.clone();
        let startable: Vec<_> = consumers
            .into_iter()
            .filter(|&consumer| query.stages[consumer].input_finished())
            .collect();
        let is_unstreamed_root = stage == query.root && !query.stages[stage].spec.streamed;
        if stage == query.root {
            query.delivering_since = Some(now);
        }
        for consumer in startable {
            self.start_stage(now, id, consumer);
        }
        if is_unstreamed_root {
            self.result_ready(id, effects);
        }
        self.end_if_complete(now, id, effects);
    }

    /// The query fails with it, at once, unless somebody else's failure is the likely cause.
    fn attempt_failed(&mut self, now: Duration, id: QueryId, failure: Failure, effects: &mut Vec<Effect>) {
        if !may_have_another_cause(&failure) {
            self.end(id, Err(failure), effects);
            return;
        }
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        if query.live().len() <= 1 {
            self.end(id, Err(failure), effects);
            return;
        }
        if matches!(query.phase, Phase::Streaming { .. }) {
            self.open_results -= 1;
        }
        query.phase = Phase::Failing { failure };
        for placement in [Placement::Any, Placement::Local] {
            self.stand(id, placement);
        }
        self.remind(now + self.limits.root_cause_timeout, Deadline::RootCause(id));
    }

    /// A report about a query that has failed: only its slots, and a better cause, still matter.
    fn wind_down(&mut self, attempt: AttemptKey, change: Change, effects: &mut Vec<Effect>) {
        match change {
            Change::Refused { hold, .. } => self.free(attempt, hold),
            Change::Parked { hold, .. }
            | Change::Finished {
                hold, held_slots: true, ..
            } => {
                self.give_slots(attempt, hold, true);
            }
            Change::Resumed(hold) => self.take_slots_again(attempt, hold),
            Change::Failed(failure) if !may_have_another_cause(&failure) => {
                self.end(attempt.query, Err(failure), effects);
            }
            Change::Failed(_)
            | Change::Finished { held_slots: false, .. }
            | Change::Unknown
            | Change::Repeated
            | Change::Commit
            | Change::Started => {}
        }
    }

    /// No better cause came.
    pub(crate) fn end_without_cause(&mut self, id: QueryId, effects: &mut Vec<Effect>) {
        let failure = self.queries.get(&id).and_then(|query| match &query.phase {
            Phase::Failing { failure } => Some(failure.clone()),
            Phase::Queued | Phase::Running | Phase::Streaming { .. } => None,
        });
        if let Some(failure) = failure {
            self.end(id, Err(failure), effects);
        }
    }
}

/// A writer stops when its reader is gone, and that may be because another attempt of the query failed, whose report is
/// still on its way.
fn may_have_another_cause(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Cancelled | FailureKind::Draining)
}

/// Whether an attempt in this state still occupies its worker.
fn is_alive(status: &AttemptStatus) -> bool {
    match status {
        AttemptStatus::Reserved | AttemptStatus::Running | AttemptStatus::Parked | AttemptStatus::Resumed => true,
        AttemptStatus::Refused { .. }
        | AttemptStatus::Finished(_)
        | AttemptStatus::Failed(_)
        | AttemptStatus::Cancelled => false,
    }
}

/// A worker holds something of a query that is over.
fn left_over(worker: WorkerId, attempt: AttemptKey, status: &AttemptStatus) -> Vec<Effect> {
    let mut effects = Vec::new();
    if is_alive(status) {
        effects.push(Effect::CancelAttempt { worker, attempt });
    }
    if is_alive(status) || matches!(status, AttemptStatus::Finished(_)) {
        effects.push(Effect::release_all(worker, attempt.query));
    }
    effects
}
