//! Applies what workers report: the next state of the task, and what follows for its stage and query.

use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Lane};
use squadron_proto::{AttemptKey, Failure, FailureKind, WorkerId};

use crate::deadline::Deadline;
use crate::event::Effect;
use crate::lifecycle::attempt::Change;
use crate::lifecycle::recovery::{Counts, Loss};
use crate::lifecycle::stage::StageState;
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
        match change {
            Change::Unknown if !query.touched.contains(&worker) => effects.extend(leftovers()),
            Change::Unknown if is_alive || has_output => effects.push(Effect::CancelAttempt { worker, attempt }),
            Change::Unknown | Change::Repeated => {}
            Change::Dropped => self.record_drop(now, attempt, effects),
            Change::Commit => effects.push(Effect::Commit { worker, attempt }),
            Change::Refused {
                placed,
                refusals,
                reason,
            } => {
                self.release_slots(attempt, placed, false);
                if let Some(refusals) = refusals {
                    self.pause_or_fail(now, attempt, (refusals, placed.demand.lane), &reason, effects);
                }
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
                self.stop_other(now, attempt, effects);
                self.record_task_finish(now, attempt, effects);
            }
            Change::Failed(failure) => {
                if let Some(attempt) = query.attempt_mut(attempt) {
                    attempt.record_end(now);
                }
                self.fail_attempt(now, (worker, attempt), failure, effects);
            }
        }
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
        if let Some(attempt) = query.attempt_mut(attempt) {
            attempt.record_start(now);
        }
        let Some(stage) = query.position(attempt.stage) else {
            return;
        };
        if stage == query.root && query.stages[stage].spec.streamed && query.stages[stage].is_readable() {
            self.announce_result(attempt.query, effects);
        }
    }

    fn record_task_finish(&mut self, now: Duration, attempt: AttemptKey, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&attempt.query) else {
            return;
        };
        if let Some(attempt) = query.attempt_mut(attempt) {
            attempt.record_end(now);
        }
        let Some(stage) = query.position(attempt.stage) else {
            return;
        };
        if query.stages[stage].record_task_finish() {
            self.advance(now, attempt.query, effects);
        } else {
            self.watch_for_stragglers(now, attempt.query, stage);
        }
    }

    /// A worker has dropped released output to make room. If a stage needs that output again by now, it counts as lost.
    fn record_drop(&mut self, now: Duration, attempt: AttemptKey, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&attempt.query) else {
            return;
        };
        let Some(stage) = query.position(attempt.stage) else {
            return;
        };
        if query.stages[stage].state == StageState::Released {
            query.stages[stage].drop_output(attempt.task);
            return;
        }
        let message = format!("output {attempt} was dropped by its worker just before it was needed");
        let loss = Loss {
            failure: Failure::new(FailureKind::ShuffleLost, message),
            attempts: Vec::new(),
            outputs: vec![attempt],
            pauses: false,
            counts: Counts::Nothing,
        };
        self.recover(now, attempt.query, loss, effects);
    }
}

/// Whether an attempt in this state still occupies its worker.
fn is_alive(status: &AttemptStatus) -> bool {
    match status {
        AttemptStatus::Reserved | AttemptStatus::Running | AttemptStatus::Parked | AttemptStatus::Resumed => true,
        AttemptStatus::Refused { .. }
        | AttemptStatus::Finished(_)
        | AttemptStatus::Failed(_)
        | AttemptStatus::Cancelled
        | AttemptStatus::Dropped => false,
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
