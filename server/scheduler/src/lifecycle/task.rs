//! One task: its current attempt, and what reports about it change.
//!
//! | state | Reserved | Refused | Running | Parked | Resumed | Finished | Failed, Cancelled | Dropped |
//! |---|---|---|---|---|---|---|---|---|
//! | Waiting, Paused | - | - | - | - | - | - | - | - |
//! | Pending | - | - | - | - | - | - | - | - |
//! | Launched | Committed | Paused | Running ! | Parked ! | Running ! | Finished ! | see below | - |
//! | Committed | - | Paused ! | Running | Parked | Running | Finished | see below | - |
//! | Running | - | - | - | Parked | - | Finished | see below | - |
//! | Parked | - | - | - | - | Running | Finished | see below | - |
//! | Finished | - | - | - | - | - | - | - | its output is gone |
//!
//! `-` is stale or repeated and changes nothing; `!` cannot come from a correct worker, is applied as the progress it
//! claims (so that the query still ends) and is logged. The stage's start leads from Waiting to Pending, the end of a
//! pause from Paused to Pending; a launch leads from Pending to Launched. Launched, Committed and Running hold slots.
//!
//! A failure ends the query, or the attempt alone: [`Task::lose`] leads from any state with an attempt back to Waiting or
//! Paused, also when the worker or the output of the attempt is lost.

use std::collections::VecDeque;
use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Lane, TaskOutput};
use squadron_proto::{AttemptNumber, Failure, FailureKind, WorkerId};

use crate::info::{PastAttempt, Resources, TaskPhase};
use crate::lifecycle::account::{Account, Spent};
use crate::workers::placement::Demand;

#[derive(Debug)]
pub(crate) struct Task {
    /// Each launch is a new attempt, also after a refusal, so that a late report is never applied to the next launch.
    next_attempt: u32,
    refusals: u32,
    /// How many attempts failed, or died with their workers.
    failures: u32,
    /// Why the first of them failed.
    first_cause: Option<Failure>,
    /// Workers that it would rather not run on, since an attempt failed there.
    avoided: Vec<WorkerId>,
    /// Attempts that came to nothing, the latest of them.
    past: VecDeque<PastAttempt>,
    /// What the current attempt was charged.
    account: Option<Account>,
    times: Times,
    /// Whether the current attempt has failed, and the query with it.
    has_failed: bool,
    state: TaskState,
}

/// How many attempts of a task that came to nothing are remembered, for [`crate::info`].
const PAST_ATTEMPTS: usize = 16;

/// When the current attempt was launched, and was known to run and to have ended; for [`crate::info`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) launched: Option<Duration>,
    pub(crate) started: Option<Duration>,
    pub(crate) ended: Option<Duration>,
}

#[derive(Debug)]
enum TaskState {
    /// It waits for the inputs of its stage, or nobody needs it.
    Waiting,
    /// It waits for the end of a pause after a refusal or failure.
    Paused,
    /// It waits for a worker with free slots.
    Pending,
    /// Its worker was asked to reserve slots and has not answered.
    Launched(PlacedAttempt),
    /// Its worker was told to run it and has not reported that it runs.
    Committed(PlacedAttempt),
    /// It runs.
    Running(PlacedAttempt),
    /// It waits for its reader, without slots.
    Parked(PlacedAttempt),
    /// Its output is complete.
    Finished(Finished),
}

/// One attempt on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlacedAttempt {
    pub(crate) worker: WorkerId,
    pub(crate) attempt: AttemptNumber,
    /// What it takes of its worker while it is not parked.
    pub(crate) demand: Demand,
}

#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) worker: WorkerId,
    pub(crate) attempt: AttemptNumber,
    pub(crate) output: TaskOutput,
    /// Whether its output was released or lost since; nobody needs it for now.
    is_gone: bool,
}

/// What is left of an attempt whose task goes back to waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It had not ended.
    Live { placed: PlacedAttempt, holds_slots: bool },
    /// It had output, which its worker still has unless it is lost.
    Finished { worker: WorkerId, attempt: AttemptNumber },
    /// Its output was gone already.
    Gone,
}

/// What a worker was told about an attempt and has not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Launch,
    Commit,
    Nothing,
}

/// What a report changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing: the report was about another attempt.
    Unknown,
    /// Nothing: the report came late or again.
    Repeated,
    /// The attempt is to be committed.
    Commit,
    /// The attempt never ran; its slots are to be given back.
    Refused {
        placed: PlacedAttempt,
        refusals: u32,
        reason: String,
    },
    /// It runs, for the first time.
    Started,
    /// It gives its slots back. `started`: it was not known to run before.
    Parked { placed: PlacedAttempt, started: bool },
    /// It takes its slots again.
    Resumed(PlacedAttempt),
    /// Its output is complete. `held_slots`: it gives its slots back now. `started`: it was not known to run before.
    Finished {
        placed: PlacedAttempt,
        held_slots: bool,
        started: bool,
    },
    /// Its worker dropped its output, for which nobody waits.
    Dropped,
    /// The attempt failed; its task keeps it until it is lost or the query has ended.
    Failed(Failure),
}

impl Task {
    pub(crate) fn new() -> Self {
        Self {
            next_attempt: 0,
            refusals: 0,
            failures: 0,
            first_cause: None,
            avoided: Vec::new(),
            past: VecDeque::new(),
            account: None,
            times: Times::default(),
            has_failed: false,
            state: TaskState::Waiting,
        }
    }

    /// Counts a failed attempt, and returns how many there are and why the first of them failed.
    pub(crate) fn count_failure(&mut self, failure: &Failure) -> (u32, &Failure) {
        self.failures += 1;
        let first = self.first_cause.get_or_insert_with(|| failure.clone());
        (self.failures, first)
    }

    /// It would rather not run on this worker again.
    pub(crate) fn avoid(&mut self, worker: WorkerId) {
        if !self.avoided.contains(&worker) {
            self.avoided.push(worker);
        }
    }

    pub(crate) fn avoided(&self) -> &[WorkerId] {
        &self.avoided
    }

    /// How many attempts failed, or died with their workers.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Its attempt, in whatever state, comes to nothing, for this `reason`. None where it has none. `pauses`: it is not
    /// to be placed before a pause is over.
    pub(crate) fn lose(&mut self, now: Duration, reason: &str, pauses: bool) -> Option<Lost> {
        let lost = match &self.state {
            TaskState::Waiting | TaskState::Paused | TaskState::Pending => return None,
            TaskState::Launched(placed) | TaskState::Committed(placed) | TaskState::Running(placed) => Lost::Live {
                placed: *placed,
                holds_slots: true,
            },
            TaskState::Parked(placed) => Lost::Live {
                placed: *placed,
                holds_slots: false,
            },
            TaskState::Finished(finished) if finished.is_gone => Lost::Gone,
            TaskState::Finished(finished) => Lost::Finished {
                worker: finished.worker,
                attempt: finished.attempt,
            },
        };
        self.remember(now, reason);
        self.has_failed = false;
        self.state = match pauses {
            true => TaskState::Paused,
            false => TaskState::Waiting,
        };
        Some(lost)
    }

    fn remember(&mut self, now: Duration, reason: &str) {
        let Some((attempt, worker)) = self.current_attempt() else {
            return;
        };
        if self.past.len() == PAST_ATTEMPTS {
            self.past.pop_front();
        }
        self.past.push_back(PastAttempt {
            attempt,
            worker,
            launched: self.times.launched,
            started: self.times.started,
            ended: self.times.ended.or(Some(now)),
            resources: self.resources(),
            reason: reason.into(),
        });
    }

    /// Attempts that came to nothing, the oldest first.
    pub(crate) fn past(&self) -> Vec<PastAttempt> {
        self.past.iter().cloned().collect()
    }

    /// The attempt that is on a worker, or has finished there.
    pub(crate) fn current_attempt(&self) -> Option<(AttemptNumber, WorkerId)> {
        match (self.live_attempt(), self.finished()) {
            (Some((placed, _)), _) => Some((placed.attempt, placed.worker)),
            (None, Some(finished)) => Some((finished.attempt, finished.worker)),
            (None, None) => None,
        }
    }

    /// Whether the attempt is on a worker, live or with output.
    pub(crate) fn is_on(&self, worker: WorkerId) -> bool {
        let is_gone = self.finished().is_some_and(|finished| finished.is_gone);
        !is_gone && self.current_attempt().is_some_and(|(_, at)| at == worker)
    }

    /// Whether its output is complete and can be read.
    pub(crate) fn has_output(&self) -> bool {
        self.finished().is_some_and(|finished| !finished.is_gone)
    }

    /// Its output can be read no more. Returns whether it could.
    pub(crate) fn drop_output(&mut self) -> bool {
        let TaskState::Finished(finished) = &mut self.state else {
            return false;
        };
        !std::mem::replace(&mut finished.is_gone, true)
    }

    /// What its finished attempt used.
    pub(crate) fn resources(&self) -> Option<Resources> {
        self.finished()
            .map(|finished| Resources::from_metrics(&finished.output.metrics))
    }

    /// The attempt holds slots since `since`, and was charged `charged_us` for them in advance.
    pub(crate) fn start_clock(&mut self, since: Duration, charged_us: u64, weight: u64, lane: Lane) {
        self.times.launched.get_or_insert(since);
        let before = self.account.take();
        self.account = Some(Account::open(before, since, charged_us, weight, lane));
    }

    /// The attempt holds its slots no longer, if it held any; `until`: it used them until then, else not at all. None
    /// if nothing new is known about its cost.
    pub(crate) fn stop_clock(&mut self, until: Option<Duration>, slots: u32) -> Option<Spent> {
        let used_us = self.used_us();
        self.account.as_mut()?.stop(until, slots, used_us)
    }

    /// The processor time that the attempt reported.
    fn used_us(&self) -> Option<u64> {
        let cpu_ns = self.finished()?.output.metrics.cpu_ns;
        (cpu_ns > 0).then(|| cpu_ns.div_ceil(1_000))
    }

    pub(crate) fn times(&self) -> Times {
        self.times
    }

    /// The attempt was reported to run.
    pub(crate) fn record_start(&mut self, now: Duration) {
        self.times.started = Some(now);
    }

    /// The attempt was reported to have ended.
    pub(crate) fn record_end(&mut self, now: Duration) {
        self.times.ended = Some(now);
    }

    pub(crate) fn phase(&self) -> TaskPhase {
        match &self.state {
            _ if self.has_failed => TaskPhase::Failed,
            TaskState::Waiting | TaskState::Paused => TaskPhase::Waiting,
            TaskState::Pending => TaskPhase::Pending,
            TaskState::Launched(_) => TaskPhase::Launched,
            TaskState::Committed(_) => TaskPhase::Committed,
            TaskState::Running(_) => TaskPhase::Running,
            TaskState::Parked(_) => TaskPhase::Parked,
            TaskState::Finished(_) => TaskPhase::Finished,
        }
    }

    /// Whether the current attempt has failed, and the query with it.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The attempt that is on a worker and has not ended, and whether it holds slots.
    pub(crate) fn live_attempt(&self) -> Option<(PlacedAttempt, bool)> {
        match &self.state {
            TaskState::Launched(placed) | TaskState::Committed(placed) | TaskState::Running(placed) => {
                Some((*placed, true))
            }
            TaskState::Parked(placed) => Some((*placed, false)),
            TaskState::Waiting | TaskState::Paused | TaskState::Pending | TaskState::Finished(_) => None,
        }
    }

    /// The attempt whose output can be read, even if it is still being written.
    pub(crate) fn readable_attempt(&self) -> Option<(WorkerId, AttemptNumber)> {
        match &self.state {
            TaskState::Running(placed) | TaskState::Parked(placed) => Some((placed.worker, placed.attempt)),
            TaskState::Finished(finished) if !finished.is_gone => Some((finished.worker, finished.attempt)),
            TaskState::Waiting
            | TaskState::Paused
            | TaskState::Pending
            | TaskState::Launched(_)
            | TaskState::Committed(_)
            | TaskState::Finished(_) => None,
        }
    }

    pub(crate) fn finished(&self) -> Option<&Finished> {
        match &self.state {
            TaskState::Finished(finished) => Some(finished),
            TaskState::Waiting
            | TaskState::Paused
            | TaskState::Pending
            | TaskState::Launched(_)
            | TaskState::Committed(_)
            | TaskState::Running(_)
            | TaskState::Parked(_) => None,
        }
    }

    /// What its worker was told last and has not confirmed; none where `worker` has no attempt or output of it.
    pub(crate) fn told(&self, worker: WorkerId) -> Option<Told> {
        let (at, told) = match &self.state {
            TaskState::Launched(placed) => (placed.worker, Told::Launch),
            TaskState::Committed(placed) => (placed.worker, Told::Commit),
            TaskState::Running(placed) | TaskState::Parked(placed) => (placed.worker, Told::Nothing),
            TaskState::Finished(finished) if !finished.is_gone => (finished.worker, Told::Nothing),
            TaskState::Waiting | TaskState::Paused | TaskState::Pending | TaskState::Finished(_) => return None,
        };
        (at == worker).then_some(told)
    }

    /// Whether it is to be placed.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.state, TaskState::Pending)
    }

    /// Whether its output holds rows that can be read.
    pub(crate) fn has_rows(&self) -> bool {
        let rows = |finished: &Finished| !finished.output.partitions.is_empty();
        self.has_output() && self.finished().is_some_and(rows)
    }

    /// Whether it has no attempt, and none is to be launched.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, TaskState::Waiting)
    }

    /// The stage runs. Returns whether the task is to be placed now.
    pub(crate) fn make_pending(&mut self) -> bool {
        let was_waiting = self.is_waiting();
        if was_waiting {
            self.state = TaskState::Pending;
            self.times = Times::default();
        }
        was_waiting
    }

    /// Its pause is over. Returns whether it paused.
    pub(crate) fn end_pause(&mut self) -> bool {
        let paused = matches!(self.state, TaskState::Paused);
        if paused {
            self.state = TaskState::Waiting;
        }
        paused
    }

    /// The stage does not run any more: the task is not to be placed.
    pub(crate) fn withdraw(&mut self) {
        if matches!(self.state, TaskState::Pending) {
            self.state = TaskState::Waiting;
        }
    }

    /// Starts a new attempt on a worker with free slots.
    pub(crate) fn launch(&mut self, worker: WorkerId, demand: Demand) -> AttemptNumber {
        debug_assert!(matches!(self.state, TaskState::Pending), "{self:?} cannot be launched");
        let attempt = AttemptNumber(self.next_attempt);
        self.next_attempt += 1;
        self.account = None;
        self.state = TaskState::Launched(PlacedAttempt {
            worker,
            attempt,
            demand,
        });
        attempt
    }

    /// Applies a worker's report. The second value says what was impossible about it, if anything.
    pub(crate) fn apply_report(
        &mut self,
        worker: WorkerId,
        attempt: AttemptNumber,
        status: AttemptStatus,
    ) -> (Change, Option<&'static str>) {
        match std::mem::replace(&mut self.state, TaskState::Waiting) {
            state @ (TaskState::Waiting | TaskState::Paused | TaskState::Pending) => self.enter(state, Change::Unknown),
            TaskState::Finished(finished) => {
                let known = finished.worker == worker && finished.attempt == attempt && !finished.is_gone;
                let change = match status {
                    _ if !known => Change::Unknown,
                    AttemptStatus::Dropped => Change::Dropped,
                    _ => Change::Repeated,
                };
                self.enter(TaskState::Finished(finished), change)
            }
            state @ (TaskState::Launched(placed)
            | TaskState::Committed(placed)
            | TaskState::Running(placed)
            | TaskState::Parked(placed))
                if placed.worker != worker || placed.attempt != attempt =>
            {
                self.enter(state, Change::Unknown)
            }
            TaskState::Launched(placed) => self.while_launched(placed, status),
            TaskState::Committed(placed) => self.while_committed(placed, status),
            TaskState::Running(placed) => self.while_running(placed, status),
            TaskState::Parked(placed) => self.while_parked(placed, status),
        }
    }

    fn while_launched(&mut self, placed: PlacedAttempt, status: AttemptStatus) -> (Change, Option<&'static str>) {
        match status {
            AttemptStatus::Reserved => self.enter(TaskState::Committed(placed), Change::Commit),
            AttemptStatus::Refused { reason } => self.refuse(placed, reason),
            AttemptStatus::Failed(failure) => self.fail(TaskState::Launched(placed), failure),
            AttemptStatus::Cancelled => self.fail(TaskState::Launched(placed), unrequested_stop(placed)),
            AttemptStatus::Dropped => self.enter(TaskState::Launched(placed), Change::Repeated),
            ahead @ (AttemptStatus::Running
            | AttemptStatus::Parked
            | AttemptStatus::Resumed
            | AttemptStatus::Finished(_)) => {
                let (change, _) = self.while_committed(placed, ahead);
                (change, Some("it ran before it was committed"))
            }
        }
    }

    fn while_committed(&mut self, placed: PlacedAttempt, status: AttemptStatus) -> (Change, Option<&'static str>) {
        match status {
            AttemptStatus::Reserved | AttemptStatus::Dropped => {
                self.enter(TaskState::Committed(placed), Change::Repeated)
            }
            AttemptStatus::Refused { reason } => {
                let (change, _) = self.refuse(placed, reason);
                (change, Some("it was refused after it was reserved"))
            }
            AttemptStatus::Running | AttemptStatus::Resumed => self.enter(TaskState::Running(placed), Change::Started),
            AttemptStatus::Parked => self.enter(TaskState::Parked(placed), Change::Parked { placed, started: true }),
            AttemptStatus::Finished(output) => self.finish(placed, output, true, true),
            AttemptStatus::Failed(failure) => self.fail(TaskState::Committed(placed), failure),
            AttemptStatus::Cancelled => self.fail(TaskState::Committed(placed), unrequested_stop(placed)),
        }
    }

    fn while_running(&mut self, placed: PlacedAttempt, status: AttemptStatus) -> (Change, Option<&'static str>) {
        match status {
            AttemptStatus::Reserved
            | AttemptStatus::Refused { .. }
            | AttemptStatus::Running
            | AttemptStatus::Resumed
            | AttemptStatus::Dropped => self.enter(TaskState::Running(placed), Change::Repeated),
            AttemptStatus::Parked => self.enter(TaskState::Parked(placed), Change::Parked { placed, started: false }),
            AttemptStatus::Finished(output) => self.finish(placed, output, true, false),
            AttemptStatus::Failed(failure) => self.fail(TaskState::Running(placed), failure),
            AttemptStatus::Cancelled => self.fail(TaskState::Running(placed), unrequested_stop(placed)),
        }
    }

    fn while_parked(&mut self, placed: PlacedAttempt, status: AttemptStatus) -> (Change, Option<&'static str>) {
        match status {
            AttemptStatus::Reserved
            | AttemptStatus::Refused { .. }
            | AttemptStatus::Running
            | AttemptStatus::Parked
            | AttemptStatus::Dropped => self.enter(TaskState::Parked(placed), Change::Repeated),
            AttemptStatus::Resumed => self.enter(TaskState::Running(placed), Change::Resumed(placed)),
            AttemptStatus::Finished(output) => self.finish(placed, output, false, false),
            AttemptStatus::Failed(failure) => self.fail(TaskState::Parked(placed), failure),
            AttemptStatus::Cancelled => self.fail(TaskState::Parked(placed), unrequested_stop(placed)),
        }
    }

    fn enter(&mut self, state: TaskState, change: Change) -> (Change, Option<&'static str>) {
        self.state = state;
        (change, None)
    }

    fn refuse(&mut self, placed: PlacedAttempt, reason: String) -> (Change, Option<&'static str>) {
        self.refusals += 1;
        let refusals = self.refusals;
        self.enter(
            TaskState::Paused,
            Change::Refused {
                placed,
                refusals,
                reason,
            },
        )
    }

    fn finish(
        &mut self,
        placed: PlacedAttempt,
        output: TaskOutput,
        held_slots: bool,
        started: bool,
    ) -> (Change, Option<&'static str>) {
        let PlacedAttempt { worker, attempt, .. } = placed;
        let finished = Finished {
            worker,
            attempt,
            output,
            is_gone: false,
        };
        self.enter(
            TaskState::Finished(finished),
            Change::Finished {
                placed,
                held_slots,
                started,
            },
        )
    }

    /// The attempt keeps its state, and its slots, until it is lost or its query has ended.
    fn fail(&mut self, state: TaskState, failure: Failure) -> (Change, Option<&'static str>) {
        self.has_failed = true;
        self.enter(state, Change::Failed(failure))
    }
}

/// The failure of an attempt that its worker stopped without a request: attempts that are cancelled are no longer those
/// of their tasks, so the worker is leaving.
fn unrequested_stop(placed: PlacedAttempt) -> Failure {
    Failure::new(
        FailureKind::Draining,
        format!(
            "worker {} stopped an attempt without being asked to; run the statement again",
            placed.worker
        ),
    )
}

#[cfg(test)]
mod tests;
