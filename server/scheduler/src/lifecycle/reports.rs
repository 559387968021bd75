//! Applies what workers report: the next state of the task, and what follows for its stage and query.

use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Lane, Release};
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, WorkerId};

use crate::deadline::Deadline;
use crate::event::Effect;
use crate::graph::Placement;
use crate::lifecycle::query::Phase;
use crate::lifecycle::task::{Change, PlacedAttempt};
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Applies a worker's report about an attempt. A report from a lost worker changes nothing.
    pub(crate) fn apply_report(
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
        let has_output = matches!(status, AttemptStatus::Finished(_));
        let leftovers = || clean_up_leftovers(worker, attempt, is_alive, has_output);
        if !is_alive && let Some(query) = self.workers.confirm_stop(worker, attempt) {
            self.record_last_stop(query, effects);
        }
        let Some(query) = self.queries.get_mut(&attempt.query) else {
            effects.extend(leftovers());
            return;
        };
        let (change, impossible) = query.apply_report(worker, attempt, status);
        if let Some(what) = impossible {
            effects.push(Effect::Unexpected { worker, attempt, what });
        }
        if query.is_failing() {
            self.wind_down(now, attempt, change, effects);
            return;
        }
        match change {
            Change::Unknown if !query.touched.contains(&worker) => effects.extend(leftovers()),
            Change::Unknown if is_alive => effects.push(Effect::CancelAttempt { worker, attempt }),
            Change::Unknown | Change::Repeated => {}
            Change::Commit => effects.push(Effect::Commit { worker, attempt }),
            Change::Refused {
                placed,
                refusals,
                reason,
            } => {
                self.release_unused(attempt, placed);
                self.pause_or_fail(now, attempt, (refusals, placed.demand.lane), &reason, effects);
            }
            Change::Started => self.record_task_start(now, attempt, effects),
            Change::Parked { placed, started } => {
                self.release_slots(attempt, placed, true);
                if started {
                    self.record_task_start(now, attempt, effects);
                }
            }
            Change::Resumed(placed) => self.retake_slots(attempt, placed),
            Change::Finished {
                placed,
                held_slots,
                started,
            } => {
                if held_slots {
                    self.release_slots(attempt, placed, true);
                } else {
                    self.charge(attempt, 0, true);
                }
                if started {
                    self.record_task_start(now, attempt, effects);
                }
                self.record_task_finish(now, attempt, effects);
            }
            Change::Failed(failure) => {
                if let Some(task) = query.task_mut(attempt) {
                    task.record_end(now);
                }
                self.fail_attempt(now, attempt.query, failure, effects);
            }
        }
    }

    /// Gives back the slots of an attempt that never ran; the query no longer depends on its worker for it.
    fn release_unused(&mut self, attempt: AttemptKey, placed: PlacedAttempt) {
        self.release_slots(attempt, placed, false);
        self.workers.remove_dependencies(placed.worker, attempt.query, 1);
    }

    /// Lets a refused task pause, or fails its query if the task was refused too often.
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
                "the workers refused a part of the query {refusals} times, at last because: {reason}; run the \
                 statement again later, or add workers"
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
        self.set_deadline(now + pause, Deadline::Retry(attempt.query, attempt.stage, attempt.task));
    }

    fn record_task_start(&mut self, now: Duration, attempt: AttemptKey, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&attempt.query) else {
            return;
        };
        if let Some(task) = query.task_mut(attempt) {
            task.record_start(now);
        }
        let Some(stage) = query.position(attempt.stage) else {
            return;
        };
        let all_started = query.stages[stage].record_task_start();
        if all_started && stage == query.root && query.stages[stage].spec.streamed {
            self.announce_result(attempt.query, effects);
        }
    }

    fn announce_result(&mut self, id: QueryId, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        query.phase = Phase::Streaming { read: false };
        self.open_results += 1;
        let workers = &self.workers;
        let parts = query.result_parts(|worker| workers.address(worker));
        effects.push(Effect::ResultReady { query: id, parts });
    }

    fn record_task_finish(&mut self, now: Duration, attempt: AttemptKey, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&attempt.query) else {
            return;
        };
        if let Some(task) = query.task_mut(attempt) {
            task.record_end(now);
        }
        let Some(stage) = query.position(attempt.stage) else {
            return;
        };
        if query.stages[stage].record_task_finish(now) {
            self.finish_stage(now, attempt.query, stage, effects);
        }
    }

    /// A stage is finished: releases inputs that no stage reads any more, and starts consumers whose inputs are
    /// complete.
    fn finish_stage(&mut self, now: Duration, id: QueryId, stage: usize, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        for input in query.stages[stage].inputs.clone() {
            let released = query.stages[input].spec.id;
            for (worker, outputs) in query.stages[input].record_consumer_finish().into_iter().flatten() {
                self.workers.remove_dependencies(worker, id, outputs);
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
            .filter(|&consumer| query.stages[consumer].record_input_finish())
            .collect();
        let is_unstreamed_root = stage == query.root && !query.stages[stage].spec.streamed;
        if stage == query.root {
            query.delivering_since = Some(now);
        }
        for consumer in startable {
            self.start_stage(now, id, consumer);
        }
        if is_unstreamed_root {
            self.announce_result(id, effects);
        }
        self.end_if_complete(now, id, effects);
    }

    /// An attempt failed: its query starts again or ends with this failure at once, unless another attempt's failure is the likely
    /// cause.
    fn fail_attempt(&mut self, now: Duration, id: QueryId, failure: Failure, effects: &mut Vec<Effect>) {
        if !may_have_another_cause(&failure) {
            self.fail(now, id, failure, effects);
            return;
        }
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        if query.live_attempts().len() <= 1 {
            self.fail(now, id, failure, effects);
            return;
        }
        if matches!(query.phase, Phase::Streaming { .. }) {
            self.open_results -= 1;
        }
        query.phase = Phase::Failing { failure };
        for placement in [Placement::Any, Placement::Local] {
            self.update_queue_entry(id, placement);
        }
        self.set_deadline(now + self.limits.root_cause_timeout, Deadline::RootCause(id));
    }

    /// A report about a failing query: only the attempt's slots and a better cause still matter.
    fn wind_down(&mut self, now: Duration, attempt: AttemptKey, change: Change, effects: &mut Vec<Effect>) {
        match change {
            Change::Refused { placed, .. } => self.release_unused(attempt, placed),
            Change::Parked { placed, .. }
            | Change::Finished {
                placed,
                held_slots: true,
                ..
            } => {
                self.release_slots(attempt, placed, true);
            }
            Change::Resumed(placed) => self.retake_slots(attempt, placed),
            Change::Failed(failure) if !may_have_another_cause(&failure) => {
                self.fail(now, attempt.query, failure, effects);
            }
            Change::Failed(_)
            | Change::Finished { held_slots: false, .. }
            | Change::Unknown
            | Change::Repeated
            | Change::Commit
            | Change::Started => {}
        }
    }

    /// No better cause was reported in time: the first failure is the one that counts.
    pub(crate) fn end_without_cause(&mut self, now: Duration, id: QueryId, effects: &mut Vec<Effect>) {
        let failure = self.queries.get(&id).and_then(|query| match &query.phase {
            Phase::Failing { failure } => Some(failure.clone()),
            Phase::Queued | Phase::Running | Phase::Streaming { .. } => None,
        });
        if let Some(failure) = failure {
            self.fail(now, id, failure, effects);
        }
    }
}

/// A writer stops when its reader is gone, perhaps because the reader failed and its report has not arrived yet.
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

/// Has a worker drop what it holds of a query that needs nothing of it, after a report about one of its attempts.
fn clean_up_leftovers(worker: WorkerId, attempt: AttemptKey, is_alive: bool, has_output: bool) -> Vec<Effect> {
    let mut effects = Vec::new();
    if is_alive {
        effects.push(Effect::CancelAttempt { worker, attempt });
    }
    if is_alive || has_output {
        effects.push(Effect::release_all(worker, attempt.query));
    }
    effects
}
