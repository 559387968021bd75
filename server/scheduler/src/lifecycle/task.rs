//! One task: which try at it is where, and what its reports mean.
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
//! `-` is stale or repeated and changes nothing; `!` cannot come from a correct worker, is taken as the progress it claims
//! (so that the query still ends) and is logged. From Waiting to Pending leads the stage's start or the end of a pause
//! after a refusal, from Pending to Launched the placement. Launched, Committed and Running hold slots.

use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Lane, TaskOutput};
use squadron_proto::{AttemptNumber, Failure, FailureKind, WorkerId};

use crate::info::TaskPhase;
use crate::queue::run_queue::Correction;
use crate::workers::placement::Want;

#[derive(Debug)]
pub(crate) struct Task {
    /// Each launch is a new attempt, also after a refusal: a late report can never be taken for one of the next launch.
    next_attempt: u32,
    refusals: u32,
    /// Of the current attempt.
    account: Option<Account>,
    times: Times,
    /// Whether the current attempt said that it has stopped, and did not finish.
    has_failed: bool,
    state: TaskState,
}

/// What is known of when the current attempt did what, for those who look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) launched: Option<Duration>,
    pub(crate) started: Option<Duration>,
    pub(crate) ended: Option<Duration>,
}

/// What an attempt was charged, as an estimate while it has not said what it used.
#[derive(Clone, Copy, Debug)]
struct Account {
    /// Runs while it holds slots.
    clock: Option<Clock>,
    /// For the times that are over.
    before_us: u64,
    weight: u64,
    lane: Lane,
}

/// Since when an attempt holds slots, and what it was charged beforehand for this time.
#[derive(Clone, Copy, Debug)]
struct Clock {
    since: Duration,
    charged_us: u64,
}

/// What an attempt has cost, in microseconds: of the processor where it has said so, else slots times the time it held them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spent {
    /// What it was charged beforehand for the time that is over now.
    pub(crate) charged_us: u64,
    /// What it was charged for the times before.
    pub(crate) before_us: u64,
    /// What it should have been charged for all of them.
    pub(crate) actual_us: u64,
    /// The query's weight when it was charged.
    pub(crate) weight: u64,
    /// The lane in whose run queue it was charged.
    pub(crate) lane: Lane,
}

impl Spent {
    /// What is left to charge.
    pub(crate) fn correction(&self) -> Correction {
        let charged_us = self.charged_us.saturating_add(self.before_us);
        Correction::between(charged_us, self.actual_us)
    }
}

#[derive(Debug)]
enum TaskState {
    /// For the inputs of the stage, or for the end of a pause after a refusal.
    Waiting,
    /// For a place.
    Pending,
    /// For the worker's answer.
    Launched(Hold),
    /// For the worker to start.
    Committed(Hold),
    /// It runs.
    Running(Hold),
    /// It waits for its reader; its slots are free.
    Parked(Hold),
    /// Its output can be read.
    Finished(Finished),
}

/// One attempt on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) worker: WorkerId,
    pub(crate) attempt: AttemptNumber,
    /// What it takes of the worker while it is not parked.
    pub(crate) share: Want,
}

#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) worker: WorkerId,
    pub(crate) attempt: AttemptNumber,
    pub(crate) output: TaskOutput,
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
    /// The attempt never ran; its slots are free.
    Refused { hold: Hold, refusals: u32, reason: String },
    /// It runs, and for the first time.
    Started,
    /// Its slots are free. `started`: it was not known to run before.
    Parked { hold: Hold, started: bool },
    /// Its slots are taken again.
    Resumed(Hold),
    /// Its output is there. `held_slots`: it gives its slots back now. `started`: it was not known to run before.
    Finished {
        hold: Hold,
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

    /// Slots are taken from now on.
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

    /// Slots are given back, if there are any; `until`: they were used up to then, else not at all. None where nothing has
    /// become known about what the attempt costs.
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

    /// What the attempt says it has used of the processor.
    fn used_us(&self) -> Option<u64> {
        let cpu_ns = self.finished()?.output.metrics.cpu_ns;
        (cpu_ns > 0).then(|| cpu_ns.div_ceil(1_000))
    }

    pub(crate) fn times(&self) -> Times {
        self.times
    }

    /// It was seen to run.
    pub(crate) fn note_start(&mut self, now: Duration) {
        self.times.started = Some(now);
    }

    /// It was seen to have ended.
    pub(crate) fn note_end(&mut self, now: Duration) {
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

    /// Whether its worker said that the current attempt has stopped, and without its output.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The attempt that is on a worker and has not ended, and whether it holds slots.
    pub(crate) fn live(&self) -> Option<(Hold, bool)> {
        match &self.state {
            TaskState::Launched(hold) | TaskState::Committed(hold) | TaskState::Running(hold) => Some((*hold, true)),
            TaskState::Parked(hold) => Some((*hold, false)),
            TaskState::Waiting | TaskState::Pending | TaskState::Finished(_) => None,
        }
    }

    /// The attempt whose output can be read, if only while it is written.
    pub(crate) fn readable(&self) -> Option<(WorkerId, AttemptNumber)> {
        match &self.state {
            TaskState::Running(hold) | TaskState::Parked(hold) => Some((hold.worker, hold.attempt)),
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

    /// The stage started, or a pause is over. Answers whether the task wants a place now.
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

    /// A place was found.
    pub(crate) fn launch(&mut self, worker: WorkerId, share: Want) -> AttemptNumber {
        debug_assert!(
            matches!(self.state, TaskState::Pending),
            "{self:?} has no place to find"
        );
        let attempt = AttemptNumber(self.next_attempt);
        self.next_attempt += 1;
        self.account = None;
        self.state = TaskState::Launched(Hold { worker, attempt, share });
        attempt
    }

    /// Takes a worker's word. The second value says what was impossible about it, if anything.
    pub(crate) fn report(
        &mut self,
        worker: WorkerId,
        attempt: AttemptNumber,
        status: AttemptStatus,
    ) -> (Change, Option<&'static str>) {
        match std::mem::replace(&mut self.state, TaskState::Waiting) {
            state @ (TaskState::Waiting | TaskState::Pending) => self.keep(state, Change::Unknown),
            TaskState::Finished(finished) => {
                let known = finished.worker == worker && finished.attempt == attempt;
                let change = if known { Change::Repeated } else { Change::Unknown };
                self.keep(TaskState::Finished(finished), change)
            }
            state @ (TaskState::Launched(hold)
            | TaskState::Committed(hold)
            | TaskState::Running(hold)
            | TaskState::Parked(hold))
                if hold.worker != worker || hold.attempt != attempt =>
            {
                self.keep(state, Change::Unknown)
            }
            TaskState::Launched(hold) => self.while_launched(hold, status),
            TaskState::Committed(hold) => self.while_committed(hold, status),
            TaskState::Running(hold) => self.while_running(hold, status),
            TaskState::Parked(hold) => self.while_parked(hold, status),
        }
    }

    fn while_launched(&mut self, hold: Hold, status: AttemptStatus) -> (Change, Option<&'static str>) {
        match status {
            AttemptStatus::Reserved => self.keep(TaskState::Committed(hold), Change::Commit),
            AttemptStatus::Refused { reason } => self.refuse(hold, reason),
            AttemptStatus::Failed(failure) => self.fail(TaskState::Launched(hold), failure),
            AttemptStatus::Cancelled => self.fail(TaskState::Launched(hold), unasked(hold)),
            ahead @ (AttemptStatus::Running
            | AttemptStatus::Parked
            | AttemptStatus::Resumed
            | AttemptStatus::Finished(_)) => {
                let (change, _) = self.while_committed(hold, ahead);
                (change, Some("it ran before it was committed"))
            }
        }
    }

    fn while_committed(&mut self, hold: Hold, status: AttemptStatus) -> (Change, Option<&'static str>) {
        match status {
            AttemptStatus::Reserved => self.keep(TaskState::Committed(hold), Change::Repeated),
            AttemptStatus::Refused { reason } => {
                let (change, _) = self.refuse(hold, reason);
                (change, Some("it was refused after it was reserved"))
            }
            AttemptStatus::Running | AttemptStatus::Resumed => self.keep(TaskState::Running(hold), Change::Started),
            AttemptStatus::Parked => self.keep(TaskState::Parked(hold), Change::Parked { hold, started: true }),
            AttemptStatus::Finished(output) => self.finish(hold, output, true, true),
            AttemptStatus::Failed(failure) => self.fail(TaskState::Committed(hold), failure),
            AttemptStatus::Cancelled => self.fail(TaskState::Committed(hold), unasked(hold)),
        }
    }

    fn while_running(&mut self, hold: Hold, status: AttemptStatus) -> (Change, Option<&'static str>) {
        match status {
            AttemptStatus::Reserved
            | AttemptStatus::Refused { .. }
            | AttemptStatus::Running
            | AttemptStatus::Resumed => self.keep(TaskState::Running(hold), Change::Repeated),
            AttemptStatus::Parked => self.keep(TaskState::Parked(hold), Change::Parked { hold, started: false }),
            AttemptStatus::Finished(output) => self.finish(hold, output, true, false),
            AttemptStatus::Failed(failure) => self.fail(TaskState::Running(hold), failure),
            AttemptStatus::Cancelled => self.fail(TaskState::Running(hold), unasked(hold)),
        }
    }

    fn while_parked(&mut self, hold: Hold, status: AttemptStatus) -> (Change, Option<&'static str>) {
        match status {
            AttemptStatus::Reserved
            | AttemptStatus::Refused { .. }
            | AttemptStatus::Running
            | AttemptStatus::Parked => self.keep(TaskState::Parked(hold), Change::Repeated),
            AttemptStatus::Resumed => self.keep(TaskState::Running(hold), Change::Resumed(hold)),
            AttemptStatus::Finished(output) => self.finish(hold, output, false, false),
            AttemptStatus::Failed(failure) => self.fail(TaskState::Parked(hold), failure),
            AttemptStatus::Cancelled => self.fail(TaskState::Parked(hold), unasked(hold)),
        }
    }

    fn keep(&mut self, state: TaskState, change: Change) -> (Change, Option<&'static str>) {
        self.state = state;
        (change, None)
    }

    fn refuse(&mut self, hold: Hold, reason: String) -> (Change, Option<&'static str>) {
        self.refusals += 1;
        let refusals = self.refusals;
        self.keep(TaskState::Waiting, Change::Refused { hold, refusals, reason })
    }

    fn finish(
        &mut self,
        hold: Hold,
        output: TaskOutput,
        held_slots: bool,
        started: bool,
    ) -> (Change, Option<&'static str>) {
        let Hold { worker, attempt, .. } = hold;
        let finished = Finished {
            worker,
            attempt,
            output,
        };
        self.keep(
            TaskState::Finished(finished),
            Change::Finished {
                hold,
                held_slots,
                started,
            },
        )
    }

    /// The attempt stays where it is until the whole query is ended, which gives back what it holds.
    fn fail(&mut self, state: TaskState, failure: Failure) -> (Change, Option<&'static str>) {
        self.has_failed = true;
        self.keep(state, Change::Failed(failure))
    }
}

/// Attempts are cancelled only when their query has ended; this one's has not, so its worker is leaving.
fn unasked(hold: Hold) -> Failure {
    Failure::new(
        FailureKind::Draining,
        format!(
            "worker {} stopped an attempt of its own accord; run the statement again",
            hold.worker
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: WorkerId = WorkerId::from_u128(1);
    const OTHER: WorkerId = WorkerId::from_u128(2);

    const SHARE: Want = Want {
        slots: 2,
        bytes: 7,
        lane: Lane::Short,
    };

    fn launched() -> (Task, AttemptNumber) {
        let mut task = Task::new();
        assert!(task.make_pending());
        let attempt = task.launch(WORKER, SHARE);
        (task, attempt)
    }

    fn refused() -> AttemptStatus {
        AttemptStatus::Refused { reason: "full".into() }
    }

    #[test]
    fn the_usual_life() {
        let (mut task, attempt) = launched();
        let hold = Hold {
            worker: WORKER,
            attempt,
            share: SHARE,
        };
        let life = [
            (AttemptStatus::Reserved, Change::Commit),
            (AttemptStatus::Running, Change::Started),
            (AttemptStatus::Parked, Change::Parked { hold, started: false }),
            (AttemptStatus::Resumed, Change::Resumed(hold)),
            (
                AttemptStatus::Finished(TaskOutput::default()),
                Change::Finished {
                    hold,
                    held_slots: true,
                    started: false,
                },
            ),
        ];
        for (status, change) in life {
            assert_eq!(task.report(WORKER, attempt, status.clone()), (change, None));
            assert_eq!(
                task.report(WORKER, attempt, status),
                (Change::Repeated, None),
                "the same again"
            );
        }
        assert!(task.live().is_none());
    }

    #[test]
    fn words_about_another_attempt_change_nothing() {
        let (mut task, attempt) = launched();
        for (worker, attempt) in [(OTHER, attempt), (WORKER, AttemptNumber(9))] {
            assert_eq!(
                task.report(worker, attempt, AttemptStatus::Reserved),
                (Change::Unknown, None)
            );
        }
        assert_eq!(
            task.report(WORKER, attempt, AttemptStatus::Reserved),
            (Change::Commit, None)
        );
    }

    #[test]
    fn after_a_refusal_the_next_launch_is_another_attempt() {
        let (mut task, first) = launched();
        let (change, odd) = task.report(WORKER, first, refused());
        assert!(matches!(change, Change::Refused { refusals: 1, .. }) && odd.is_none());
        assert!(task.make_pending());
        assert!(!task.make_pending(), "only once");
        let second = task.launch(WORKER, SHARE);
        assert_ne!(first, second);
        assert_eq!(task.report(WORKER, first, refused()), (Change::Unknown, None));
    }

    #[test]
    fn progress_that_cannot_be_is_taken_and_told() {
        let (mut task, attempt) = launched();
        let (change, odd) = task.report(WORKER, attempt, AttemptStatus::Parked);
        assert!(matches!(change, Change::Parked { started: true, .. }) && odd.is_some());
        let (change, odd) = task.report(WORKER, attempt, AttemptStatus::Finished(TaskOutput::default()));
        assert!(matches!(change, Change::Finished { held_slots: false, .. }) && odd.is_none());
    }

    const MS: Duration = Duration::from_millis(1);

    /// A task whose attempt ran for 5 ms on two slots and parked then: what that cost.
    fn parked() -> (Task, AttemptNumber, Spent) {
        let (mut task, attempt) = launched();
        task.start_clock(Duration::ZERO, 100, 7, Lane::Short);
        task.report(WORKER, attempt, AttemptStatus::Reserved);
        task.report(WORKER, attempt, AttemptStatus::Parked);
        let spent = task.stop_clock(Some(5 * MS), SHARE.slots).unwrap();
        (task, attempt, spent)
    }

    fn finished(cpu: Duration) -> AttemptStatus {
        let mut output = TaskOutput::default();
        output.metrics.cpu_ns = u64::try_from(cpu.as_nanos()).unwrap();
        AttemptStatus::Finished(output)
    }

    #[test]
    fn slot_time_counts_until_the_attempt_says_what_it_used() {
        let (mut task, attempt, spent) = parked();
        let so_far = (spent.charged_us, spent.before_us, spent.actual_us);
        assert_eq!(so_far, (100, 0, 10_000));
        assert_eq!(spent.correction(), Correction::More(9_900));
        assert_eq!(task.stop_clock(Some(9 * MS), SHARE.slots), None, "it stands");
        task.report(WORKER, attempt, AttemptStatus::Resumed);
        task.start_clock(20 * MS, 0, 7, Lane::Short);
        task.report(WORKER, attempt, finished(3 * MS));
        let spent = task.stop_clock(Some(30 * MS), SHARE.slots).unwrap();
        assert_eq!((spent.before_us, spent.actual_us), (10_000, 3_000));
        assert_eq!(spent.correction(), Correction::Less(7_000));
    }

    #[test]
    fn an_attempt_that_finishes_while_parked_says_what_it_used() {
        let (mut task, attempt, _) = parked();
        task.report(WORKER, attempt, finished(11 * MS));
        let spent = task.stop_clock(Some(30 * MS), 0).unwrap();
        assert_eq!(spent.correction(), Correction::More(1_000));
    }

    #[test]
    fn an_attempt_that_does_not_say_what_it_used_costs_slot_time() {
        let (mut task, attempt, _) = parked();
        task.report(WORKER, attempt, AttemptStatus::Resumed);
        task.start_clock(20 * MS, 0, 7, Lane::Short);
        task.report(WORKER, attempt, finished(Duration::ZERO));
        let spent = task.stop_clock(Some(30 * MS), SHARE.slots).unwrap();
        assert_eq!((spent.before_us, spent.actual_us), (10_000, 30_000));
    }

    #[test]
    fn the_next_attempt_starts_without_debts() {
        let (mut task, attempt) = launched();
        task.start_clock(Duration::ZERO, 100, 7, Lane::Short);
        task.report(WORKER, attempt, refused());
        let spent = task.stop_clock(None, SHARE.slots).unwrap();
        assert_eq!(spent.correction(), Correction::Less(100));
        assert!(task.make_pending());
        let attempt = task.launch(WORKER, SHARE);
        task.start_clock(10 * MS, 50, 7, Lane::Short);
        task.report(WORKER, attempt, AttemptStatus::Reserved);
        task.report(WORKER, attempt, finished(MS));
        let spent = task.stop_clock(Some(30 * MS), SHARE.slots).unwrap();
        assert_eq!((spent.before_us, spent.correction()), (0, Correction::More(950)));
    }
}
