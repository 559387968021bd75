//! One task: its current attempt, and what reports about it change.
//!
//! | state | Reserved | Refused | Running | Parked | Resumed | Finished | Failed, Cancelled |
//! |---|---|---|---|---|---|---|---|
//! | Waiting | - | - | - | - | - | - | - |
//! | Pending | - | - | - | - | - | - | - |
//! | Launched | Committed | Waiting | Running ! | Parked ! | Running ! | Finished ! | the query fails |
//! | Committed | - | Waiting ! | Running | Parked | Running | Finished | the query fails |
//! | Running | - | - | - | Parked | - | Finished | the query fails |
//! | Parked | - | - | - | - | Running | Finished | the query fails |
//! | Finished | - | - | - | - | - | - | - |
//!
//! `-` is stale or repeated and changes nothing; `!` cannot come from a correct worker, is applied as the progress it
//! claims (so that the query still ends) and is logged. The stage's start, or the end of a pause after a refusal, leads
//! from Waiting to Pending; a launch leads from Pending to Launched. Launched, Committed and Running hold slots.

use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Lane, TaskOutput};
use squadron_proto::{AttemptNumber, Failure, FailureKind, WorkerId};

use crate::info::TaskPhase;
use crate::queue::run_queue::Correction;
use crate::workers::placement::Demand;

#[derive(Debug)]
pub(crate) struct Task {
    /// Each launch is a new attempt, also after a refusal, so that a late report is never applied to the next launch.
    next_attempt: u32,
    refusals: u32,
    /// What the current attempt was charged.
    account: Option<Account>,
    times: Times,
    /// Whether the current attempt is known to have stopped without finishing.
    has_failed: bool,
    state: TaskState,
}

/// When the current attempt was launched, and was known to run and to have ended; for [`crate::info`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) launched: Option<Duration>,
    pub(crate) started: Option<Duration>,
    pub(crate) ended: Option<Duration>,
}

/// What an attempt was charged; an estimate until the attempt has reported its processor time.
#[derive(Clone, Copy, Debug)]
struct Account {
    /// Runs while it holds slots.
    clock: Option<Clock>,
    /// For the periods of holding slots that are over.
    before_us: u64,
    weight: u64,
    lane: Lane,
}

/// Since when an attempt holds slots, and what it was charged in advance for this period.
#[derive(Clone, Copy, Debug)]
struct Clock {
    since: Duration,
    charged_us: u64,
}

/// What an attempt has cost, in microseconds: processor time if it was reported, else its slots times the time it held
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spent {
    /// What it was charged in advance for the period that is over now.
    pub(crate) charged_us: u64,
    /// What it was charged for the periods before.
    pub(crate) before_us: u64,
    /// What it should have been charged for all periods.
    pub(crate) actual_us: u64,
    /// The query's weight when it was charged.
    pub(crate) weight: u64,
    /// The lane in whose run queue it was charged.
    pub(crate) lane: Lane,
}

impl Spent {
    /// What is left to charge or to give back.
    pub(crate) fn correction(&self) -> Correction {
        let charged_us = self.charged_us.saturating_add(self.before_us);
        Correction::between(charged_us, self.actual_us)
    }
}

#[derive(Debug)]
enum TaskState {
    /// It waits for the inputs of its stage, or for the end of a pause after a refusal.
    Waiting,
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
    /// Its output can be read.
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
    /// The query fails.
    Failed(Failure),
}

impl Task {
    pub(crate) fn new() -> Self {
        Self {
            next_attempt: 0,
            refusals: 0,
            account: None,
            times: Times::default(),
            has_failed: false,
            state: TaskState::Waiting,
        }
    }

    /// Back to where it was before its stage started, except that its attempts go on to be counted.
    pub(crate) fn reset(&mut self) {
        *self = Self {
            next_attempt: self.next_attempt,
            ..Self::new()
        };
    }

    /// The attempt holds slots since `since`, and was charged `charged_us` for them in advance.
    pub(crate) fn start_clock(&mut self, since: Duration, charged_us: u64, weight: u64, lane: Lane) {
        self.times.launched.get_or_insert(since);
        let before_us = self.account.map_or(0, |account| account.before_us);
        self.account = Some(Account {
            clock: Some(Clock { since, charged_us }),
            before_us,
            weight,
            lane,
        });
    }

    /// The attempt holds its slots no longer, if it held any; `until`: it used them until then, else not at all. None
    /// if nothing new is known about its cost.
    pub(crate) fn stop_clock(&mut self, until: Option<Duration>, slots: u32) -> Option<Spent> {
        let used_us = self.used_us();
        let account = self.account.as_mut()?;
        let clock = account.clock.take();
        if clock.is_none() && used_us.is_none() {
            return None;
        }
        let held = clock
            .zip(until)
            .map_or(Duration::ZERO, |(clock, until)| until.saturating_sub(clock.since));
        let held_us = u64::try_from(held.as_micros())
            .unwrap_or(u64::MAX)
            .saturating_mul(u64::from(slots));
        let before_us = account.before_us;
        let actual_us = used_us.unwrap_or_else(|| before_us.saturating_add(held_us));
        account.before_us = actual_us;
        Some(Spent {
            charged_us: clock.map_or(0, |clock| clock.charged_us),
            before_us,
            actual_us,
            weight: account.weight,
            lane: account.lane,
        })
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
            TaskState::Waiting => TaskPhase::Waiting,
            TaskState::Pending => TaskPhase::Pending,
            TaskState::Launched(_) => TaskPhase::Launched,
            TaskState::Committed(_) => TaskPhase::Committed,
            TaskState::Running(_) => TaskPhase::Running,
            TaskState::Parked(_) => TaskPhase::Parked,
            TaskState::Finished(_) => TaskPhase::Finished,
        }
    }

    /// Whether its worker reported that the current attempt stopped without finishing.
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
            TaskState::Waiting | TaskState::Pending | TaskState::Finished(_) => None,
        }
    }

    /// The attempt whose output can be read, even if it is still being written.
    pub(crate) fn readable_attempt(&self) -> Option<(WorkerId, AttemptNumber)> {
        match &self.state {
            TaskState::Running(placed) | TaskState::Parked(placed) => Some((placed.worker, placed.attempt)),
            TaskState::Finished(finished) => Some((finished.worker, finished.attempt)),
            TaskState::Waiting | TaskState::Pending | TaskState::Launched(_) | TaskState::Committed(_) => None,
        }
    }

    pub(crate) fn finished(&self) -> Option<&Finished> {
        match &self.state {
            TaskState::Finished(finished) => Some(finished),
            TaskState::Waiting
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
            TaskState::Finished(finished) => (finished.worker, Told::Nothing),
            TaskState::Waiting | TaskState::Pending => return None,
        };
        (at == worker).then_some(told)
    }

    /// Its worker does not have the attempt any more.
    pub(crate) fn mark_gone(&mut self) {
        self.has_failed = true;
    }

    /// Its last attempt, if it had one.
    pub(crate) fn last_attempt(&self) -> Option<AttemptNumber> {
        self.next_attempt.checked_sub(1).map(AttemptNumber)
    }

    /// The stage started, or a pause is over. Returns whether the task is to be placed now.
    pub(crate) fn make_pending(&mut self) -> bool {
        match self.state {
            TaskState::Waiting => {
                self.state = TaskState::Pending;
                self.times = Times::default();
                true
            }
            TaskState::Pending
            | TaskState::Launched(_)
            | TaskState::Committed(_)
            | TaskState::Running(_)
            | TaskState::Parked(_)
            | TaskState::Finished(_) => false,
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
            state @ (TaskState::Waiting | TaskState::Pending) => self.enter(state, Change::Unknown),
            TaskState::Finished(finished) => {
                let known = finished.worker == worker && finished.attempt == attempt;
                let change = if known { Change::Repeated } else { Change::Unknown };
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
            AttemptStatus::Reserved => self.enter(TaskState::Committed(placed), Change::Repeated),
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
            | AttemptStatus::Resumed => self.enter(TaskState::Running(placed), Change::Repeated),
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
            | AttemptStatus::Parked => self.enter(TaskState::Parked(placed), Change::Repeated),
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
            TaskState::Waiting,
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

    /// The attempt keeps its state, and its slots, until its query ends and gives them back.
    fn fail(&mut self, state: TaskState, failure: Failure) -> (Change, Option<&'static str>) {
        self.has_failed = true;
        self.enter(state, Change::Failed(failure))
    }
}

/// The failure of an attempt that its worker stopped without a request: attempts are cancelled only after their query
/// has ended, so the worker is leaving.
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
