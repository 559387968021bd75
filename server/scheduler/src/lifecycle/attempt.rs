//! One attempt at a task on one worker, and what reports about it change.
//!
//! | phase | Reserved | Running | Parked | Resumed | Finished | Refused | Failed, Cancelled | Dropped |
//! |---|---|---|---|---|---|---|---|---|
//! | Launched | Committed | Running ! | Parked ! | Running ! | Finished ! | gone | failed | - |
//! | Committed | - | Running | Parked | Running | Finished | gone ! | failed | - |
//! | Running | - | - | Parked | - | Finished | - | failed | - |
//! | Parked | - | - | - | Running | Finished | - | failed | - |
//! | Finished | - | - | - | - | - | - | - | its output is gone |
//!
//! `-` is stale or repeated and changes nothing; `!` cannot come from a correct worker, is applied as the progress it
//! claims (so that the query still ends) and is logged. Launched, Committed and Running hold slots. A failed attempt
//! keeps its phase, and its slots, until its task loses it or the query has ended.

use std::time::Duration;

use squadron_proto::control::{AttemptStatus, TaskOutput};
use squadron_proto::{AttemptNumber, Failure, FailureKind, WorkerId};

use crate::info::{AttemptInfo, Resources, TaskPhase};
use crate::workers::placement::Demand;

#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) placed: PlacedAttempt,
    phase: Phase,
    times: Times,
    has_failed: bool,
    /// How many attempts may still be launched beside it, if it is slow.
    second_attempts_left: u32,
}

/// One attempt on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlacedAttempt {
    pub(crate) worker: WorkerId,
    pub(crate) attempt: AttemptNumber,
    /// What it takes of its worker while it is not parked.
    pub(crate) demand: Demand,
}

/// How many attempts are launched beside a slow one, while they are refused or lost with their workers.
const SECOND_ATTEMPTS: u32 = 3;

/// When the attempt was launched, and was known to run and to have ended; for [`crate::info`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) launched: Option<Duration>,
    pub(crate) started: Option<Duration>,
    pub(crate) ended: Option<Duration>,
}

#[derive(Debug)]
enum Phase {
    /// Its worker was asked to reserve slots and has not answered.
    Launched,
    /// Its worker was told to run it and has not reported that it runs.
    Committed,
    Running,
    /// It waits for its reader, without slots.
    Parked,
    /// Its output is complete; `is_gone`: it was released or lost since, and nobody needs it for now.
    Finished {
        output: TaskOutput,
        is_gone: bool,
    },
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
    /// The attempt never ran; its slots are to be given back. `refusals`: how often its task was refused, none if the
    /// task has another attempt that goes on.
    Refused {
        placed: PlacedAttempt,
        refusals: Option<u32>,
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

/// How an attempt takes a report.
#[derive(Debug)]
pub(super) enum Taken {
    Changed(Change),
    /// It never ran, for this reason.
    Refused(String),
}

/// What the scheduler has to take back from the worker of an attempt that its task has dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It had not ended.
    Live { placed: PlacedAttempt, holds_slots: bool },
    /// It had output, which its worker still has unless it is lost.
    Finished { worker: WorkerId, attempt: AttemptNumber },
    /// Its output was gone already.
    Gone,
}

impl Attempt {
    pub(super) fn launch(placed: PlacedAttempt) -> Self {
        Self {
            placed,
            phase: Phase::Launched,
            times: Times::default(),
            has_failed: false,
            second_attempts_left: SECOND_ATTEMPTS,
        }
    }

    pub(crate) fn number(&self) -> AttemptNumber {
        self.placed.attempt
    }

    pub(crate) fn worker(&self) -> WorkerId {
        self.placed.worker
    }

    /// Whether it has not ended.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Finished { .. })
    }

    pub(crate) fn holds_slots(&self) -> bool {
        matches!(self.phase, Phase::Launched | Phase::Committed | Phase::Running)
    }

    /// Whether it is on a worker, live or with output.
    pub(crate) fn is_on(&self, worker: WorkerId) -> bool {
        self.placed.worker == worker && (self.is_live() || self.output().is_some())
    }

    /// What it has written, if that is complete; also when it is gone since.
    pub(crate) fn written(&self) -> Option<&TaskOutput> {
        match &self.phase {
            Phase::Finished { output, .. } => Some(output),
            Phase::Launched | Phase::Committed | Phase::Running | Phase::Parked => None,
        }
    }

    /// Its output, if it is complete and can be read.
    pub(crate) fn output(&self) -> Option<&TaskOutput> {
        match &self.phase {
            Phase::Finished { output, is_gone: false } => Some(output),
            _ => None,
        }
    }

    /// Whether its output holds rows that can be read.
    pub(crate) fn has_rows(&self) -> bool {
        self.output().is_some_and(|output| !output.partitions.is_empty())
    }

    /// Whether its output can be read, even if it is still being written.
    pub(crate) fn is_readable(&self) -> bool {
        match &self.phase {
            Phase::Running | Phase::Parked => true,
            Phase::Finished { is_gone, .. } => !is_gone,
            Phase::Launched | Phase::Committed => false,
        }
    }

    /// Its output can be read no more. Returns whether it could.
    pub(super) fn drop_output(&mut self) -> bool {
        match &mut self.phase {
            Phase::Finished { is_gone, .. } => !std::mem::replace(is_gone, true),
            Phase::Launched | Phase::Committed | Phase::Running | Phase::Parked => false,
        }
    }

    /// What its worker was told last and has not confirmed; none where the worker has nothing of it any more.
    pub(crate) fn told(&self) -> Option<Told> {
        match &self.phase {
            Phase::Launched => Some(Told::Launch),
            Phase::Committed => Some(Told::Commit),
            Phase::Running | Phase::Parked | Phase::Finished { is_gone: false, .. } => Some(Told::Nothing),
            Phase::Finished { is_gone: true, .. } => None,
        }
    }

    pub(crate) fn times(&self) -> Times {
        self.times
    }

    pub(crate) fn record_launch(&mut self, now: Duration) {
        self.times.launched.get_or_insert(now);
    }

    /// It was reported to run.
    pub(crate) fn record_start(&mut self, now: Duration) {
        self.times.started = Some(now);
    }

    /// It was reported to have ended.
    pub(crate) fn record_end(&mut self, now: Duration) {
        self.times.ended = Some(now);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether another attempt may be launched beside it.
    pub(super) fn may_be_doubled(&self) -> bool {
        self.holds_slots() && self.second_attempts_left > 0
    }

    /// Another attempt is launched beside it.
    pub(super) fn record_second(&mut self) {
        self.second_attempts_left = self.second_attempts_left.saturating_sub(1);
    }

    /// No attempt is to be launched beside it any more.
    pub(super) fn stay_alone(&mut self) {
        self.second_attempts_left = 0;
    }

    /// What the scheduler has to take back from its worker when its task drops it.
    pub(super) fn lost(&self) -> Lost {
        match &self.phase {
            Phase::Finished { is_gone: true, .. } => Lost::Gone,
            Phase::Finished { .. } => Lost::Finished {
                worker: self.placed.worker,
                attempt: self.placed.attempt,
            },
            Phase::Launched | Phase::Committed | Phase::Running | Phase::Parked => Lost::Live {
                placed: self.placed,
                holds_slots: self.holds_slots(),
            },
        }
    }

    pub(crate) fn phase(&self) -> TaskPhase {
        match &self.phase {
            _ if self.has_failed => TaskPhase::Failed,
            Phase::Launched => TaskPhase::Launched,
            Phase::Committed => TaskPhase::Committed,
            Phase::Running => TaskPhase::Running,
            Phase::Parked => TaskPhase::Parked,
            Phase::Finished { .. } => TaskPhase::Finished,
        }
    }

    /// As the server shows it.
    pub(crate) fn info(&self) -> AttemptInfo {
        AttemptInfo {
            attempt: self.placed.attempt,
            worker: self.placed.worker,
            phase: self.phase(),
            slots: self.placed.demand.slots,
            launched: self.times.launched,
            started: self.times.started,
            ended: self.times.ended,
            resources: self.written().map(|output| Resources::from_metrics(&output.metrics)),
            reason: None,
        }
    }

    /// The same once it has come to nothing, for this `reason`.
    pub(super) fn past_info(&self, now: Duration, reason: &str) -> AttemptInfo {
        AttemptInfo {
            ended: self.times.ended.or(Some(now)),
            reason: Some(reason.into()),
            ..self.info()
        }
    }

    /// Applies a report of its worker. The second value says what was impossible about it, if anything.
    pub(super) fn apply_report(&mut self, status: AttemptStatus) -> (Taken, Option<&'static str>) {
        let impossible = self.impossible_about(&status);
        (self.take(status), impossible)
    }

    fn impossible_about(&self, status: &AttemptStatus) -> Option<&'static str> {
        match (&self.phase, status) {
            (
                Phase::Launched,
                AttemptStatus::Running | AttemptStatus::Parked | AttemptStatus::Resumed | AttemptStatus::Finished(_),
            ) => Some("it ran before it was committed"),
            (Phase::Committed, AttemptStatus::Refused { .. }) => Some("it was refused after it was reserved"),
            _ => None,
        }
    }

    /// See the table of this module.
    fn take(&mut self, status: AttemptStatus) -> Taken {
        let did_run = matches!(self.phase, Phase::Running | Phase::Parked);
        match (&self.phase, status) {
            (Phase::Finished { is_gone: true, .. }, _) => Taken::Changed(Change::Unknown),
            (Phase::Finished { .. }, AttemptStatus::Dropped) => Taken::Changed(Change::Dropped),
            (Phase::Finished { .. }, _) | (_, AttemptStatus::Dropped) => Taken::Changed(Change::Repeated),
            (_, AttemptStatus::Failed(failure)) => self.fail(failure),
            (_, AttemptStatus::Cancelled) => self.fail(self.unrequested_stop()),
            (_, AttemptStatus::Finished(output)) => self.finish(output, !did_run),
            (Phase::Launched, AttemptStatus::Reserved) => self.enter(Phase::Committed, Change::Commit),
            (Phase::Launched | Phase::Committed, AttemptStatus::Refused { reason }) => Taken::Refused(reason),
            (Phase::Launched | Phase::Committed, AttemptStatus::Running | AttemptStatus::Resumed) => {
                self.enter(Phase::Running, Change::Started)
            }
            (Phase::Launched | Phase::Committed | Phase::Running, AttemptStatus::Parked) => self.park(!did_run),
            (Phase::Parked, AttemptStatus::Resumed) => self.enter(Phase::Running, Change::Resumed(self.placed)),
            (
                Phase::Committed | Phase::Running | Phase::Parked,
                AttemptStatus::Reserved
                | AttemptStatus::Refused { .. }
                | AttemptStatus::Running
                | AttemptStatus::Parked
                | AttemptStatus::Resumed,
            ) => Taken::Changed(Change::Repeated),
        }
    }

    fn enter(&mut self, phase: Phase, change: Change) -> Taken {
        self.phase = phase;
        Taken::Changed(change)
    }

    fn park(&mut self, started: bool) -> Taken {
        let placed = self.placed;
        self.enter(Phase::Parked, Change::Parked { placed, started })
    }

    fn finish(&mut self, output: TaskOutput, started: bool) -> Taken {
        let change = Change::Finished {
            placed: self.placed,
            held_slots: self.holds_slots(),
            started,
        };
        let finished = Phase::Finished { output, is_gone: false };
        self.enter(finished, change)
    }

    fn fail(&mut self, failure: Failure) -> Taken {
        self.has_failed = true;
        Taken::Changed(Change::Failed(failure))
    }

    /// The failure of an attempt that its worker stopped without a request: attempts that are cancelled are no longer
    /// those of their tasks, so the worker is leaving.
    fn unrequested_stop(&self) -> Failure {
        Failure::new(
            FailureKind::Draining,
            format!(
                "worker {} stopped an attempt without being asked to",
                self.placed.worker
            ),
        )
    }
}
