//! What is lost is computed again, and nothing else: lineage.
//!
//! | lost | and then |
//! |---|---|
//! | a live attempt | its task is placed again; after a failure not before a pause is over |
//! | the output of a task | its task is placed again if the output is needed, as soon as its own inputs are complete |
//! | an input of a stage | live attempts of the stage go on, since they may have read all of it; those that have not fail |
//! | rows that no other attempt would give again | everything made of them is lost too, in all stages |
//!
//! Which output is needed follows from what has no output ([`crate::lifecycle::flow`]): if the inputs of a lost task were
//! released already, they are needed again, and so on down to the files. Each launch reads the outputs that are there at
//! that time.
//!
//! A task has [`Limits::max_task_failures`](crate::Limits::max_task_failures) tries; then its query ends with the first
//! cause. Output that is lost after its task has finished is no failure of the task. Every attempt of a task has a number
//! of its own, so nothing that a former attempt still says or leaves is taken for that of the present one.
//!
//! A result that is being read goes on where it can: the parts that were not lost are not touched, and the reader, which
//! alone knows what it has forwarded, decides whether it can go on with those that are written again. Of a retained result
//! clients may have read a part of the lost rows at workers: it is written again only if its rows are the same then.

use std::collections::BTreeSet;
use std::time::Duration;

use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, WorkerId};

use crate::deadline::Deadline;
use crate::event::{Effect, LostParts};
use crate::lifecycle::attempt::{Attempt, Lost};
use crate::lifecycle::blame::Blame;
use crate::lifecycle::query::{Phase, Query};
use crate::lifecycle::stage::{StageState, task_id};
use crate::scheduler::Scheduler;

/// How many losses of a query are remembered, for `EXPLAIN ANALYZE`.
const REMEMBERED_LOSSES: usize = 16;

/// What a query has lost.
#[derive(Debug)]
pub(crate) struct Loss {
    /// How it was noticed; the end of the query if it cannot go on.
    pub(crate) failure: Failure,
    /// Attempts that have ended without output.
    pub(crate) attempts: Vec<AttemptKey>,
    /// Attempts whose output cannot be read.
    pub(crate) outputs: Vec<AttemptKey>,
    /// Whether the attempts failed by themselves, so that their tasks are not to be placed at once.
    pub(crate) pauses: bool,
    /// What counts as a try of its task.
    pub(crate) counts: Counts,
}

/// What of a loss counts as a try of its task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    Nothing,
    /// The attempts.
    Attempts,
    /// The attempts that were known to run: the others cannot have been the reason.
    RunningAttempts,
    /// These outputs.
    Outputs(Vec<AttemptKey>),
}

/// An attempt that comes to nothing.
#[derive(Clone, Copy, Debug)]
struct GivenUp {
    attempt: AttemptKey,
    was: Lost,
    how: How,
}

/// How an attempt comes to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// It has ended without output; `pauses`: and might do so again at once.
    Ended { pauses: bool },
    /// It is stopped, or its output dropped.
    Stopped,
}

/// Everything that a loss takes with it.
#[derive(Debug, Default)]
struct Consequences {
    given_up: Vec<GivenUp>,
    /// Of the result.
    parts: LostParts,
    /// Whether some of these could be read.
    has_readable_parts: bool,
}

impl Scheduler {
    /// An attempt failed: it alone where that may be mended, else its query.
    pub(crate) fn fail_attempt(
        &mut self,
        now: Duration,
        (worker, attempt): (WorkerId, AttemptKey),
        mut failure: Failure,
        effects: &mut Vec<Effect>,
    ) {
        let query = self.queries.get(&attempt.query);
        let other = query.and_then(|query| query.task(attempt)?.other(attempt.attempt));
        let is_alone = other.is_none();
        let may_be_mended = may_be_mended(failure.kind);
        if is_alone && !may_be_mended {
            return self.end(attempt.query, Err(failure), effects);
        }
        let named = std::mem::take(&mut failure.lost);
        let blame = match may_be_mended {
            true => self.lay_blame(now, (worker, attempt), &failure, named, effects),
            // Nobody's: the other attempt decides.
            false => Blame::default(),
        };
        if is_alone && failure.kind == FailureKind::DiskFull && !self.has_untried_worker(now, attempt) {
            // The same worker would do all of it again, up to the same byte.
            return self.end(attempt.query, Err(failure), effects);
        }
        let loss = Loss {
            failure,
            attempts: vec![attempt],
            // The wait for lost output is pause enough.
            pauses: blame.lost.is_empty(),
            counts: match blame.is_known {
                true => Counts::Nothing,
                false => Counts::Attempts,
            },
            outputs: blame.lost,
        };
        self.recover(now, attempt.query, loss, effects);
    }

    /// All that a query has on a worker is lost, or only these attempts.
    pub(crate) fn lose_on_worker(
        &mut self,
        now: Duration,
        id: QueryId,
        (worker, only): (WorkerId, Option<&BTreeSet<AttemptKey>>),
        failure: Failure,
        effects: &mut Vec<Effect>,
    ) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let (attempts, outputs) = query.take_from(worker, only);
        let loss = Loss {
            failure,
            attempts,
            outputs,
            pauses: false,
            counts: Counts::RunningAttempts,
        };
        self.recover(now, id, loss, effects);
    }

    /// The server cannot read parts of a result.
    pub(crate) fn lose_parts(&mut self, now: Duration, id: QueryId, mut failure: Failure, effects: &mut Vec<Effect>) {
        let named = std::mem::take(&mut failure.lost);
        let lost = named.iter();
        let lost = lost.flat_map(|&output| self.lay_blame_for_result(now, output, &failure, effects));
        let outputs = lost.collect();
        let loss = Loss {
            failure,
            attempts: Vec::new(),
            outputs,
            pauses: false,
            counts: Counts::Outputs(named),
        };
        self.recover(now, id, loss, effects);
    }

    /// Something of a query is lost: it is computed again, or the query ends.
    pub(crate) fn recover(&mut self, now: Duration, id: QueryId, loss: Loss, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        if !loss.keys().any(|key| query.has_attempt(key)) {
            // All of that is known already.
            return;
        }
        let is_read = matches!(query.phase, Phase::Streaming { read: true });
        let cause = query.count_failures(&loss, self.limits.max_task_failures);
        let lost = query.lose(now, &loss);
        let cause = cause.or((!query.can_go_on(&lost)).then(|| loss.failure.clone()));
        if !is_read && cause.is_none() {
            return self.compute_again(now, id, loss, lost, effects);
        }
        self.settle(&lost.given_up, effects);
        match cause {
            Some(cause) if !is_read => self.end(id, Err(with_advice(cause)), effects),
            // What is lost its client has.
            Some(_) | None => self.end_successfully(now, id, effects),
        }
    }

    fn compute_again(&mut self, now: Duration, id: QueryId, loss: Loss, lost: Consequences, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let goes_on = |lost: &GivenUp| query.task(lost.attempt).is_some_and(|task| task.attempt().is_some());
        if lost.given_up.iter().all(goes_on) {
            // Each task has another attempt: nothing is computed again.
            return self.settle(&lost.given_up, effects);
        }
        query.remember_loss(&loss.failure);
        let first_pause = match loss.failure.kind {
            // Another worker may reach what this one did not, or the server is about to hear why.
            FailureKind::WorkerLost => self.limits.retry_pause / 5,
            _ => self.limits.retry_pause,
        };
        for &attempt in loss.attempts.iter().filter(|_| loss.pauses) {
            if let Some(pause) = query.pause_of(attempt, first_pause) {
                self.deadlines.insert((now + pause, retry_of(attempt)));
            }
        }
        let was_ready = matches!(query.phase, Phase::Streaming { .. });
        if was_ready && !lost.parts.is_empty() {
            query.phase = Phase::Running;
            query.delivering_since = None;
            self.open_results -= 1;
        }
        let parts = if query.was_announced {
            lost.parts
        } else {
            LostParts::default()
        };
        effects.push(Effect::Recovering {
            query: id,
            failure: loss.failure,
            attempts: lost.given_up.len(),
            parts,
        });
        self.settle(&lost.given_up, effects);
        self.advance(now, id, effects);
    }

    /// Attempts come to nothing: they stop, give their slots back, and their output is dropped.
    fn settle(&mut self, given_up: &[GivenUp], effects: &mut Vec<Effect>) {
        for &GivenUp { attempt, was, how } in given_up {
            let (worker, is_live) = match was {
                Lost::Live { placed, holds_slots } => {
                    if holds_slots {
                        self.release_slots(attempt, placed, true);
                    }
                    (placed.worker, true)
                }
                Lost::Finished { worker, .. } => (worker, false),
                Lost::Gone => continue,
            };
            let has_ended = is_live && how != How::Stopped;
            if has_ended || !self.workers.contains(worker) {
                continue;
            }
            effects.push(Effect::CancelAttempt { worker, attempt });
            if is_live {
                self.workers.add_stopping(worker, attempt);
            }
        }
    }

    /// An attempt comes to nothing, as another one at its task has finished.
    pub(crate) fn stop_other(&mut self, now: Duration, finished: AttemptKey, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&finished.query) else {
            return;
        };
        let other = query.task(finished).and_then(|task| task.other(finished.attempt));
        let Some(attempt) = other.map(Attempt::number) else {
            return;
        };
        let reason = format!("attempt {} finished first", finished.attempt);
        let mut lost = Consequences::default();
        query.give_up(
            now,
            AttemptKey { attempt, ..finished },
            &reason,
            How::Stopped,
            &mut lost,
        );
        self.settle(&lost.given_up, effects);
    }

    /// Nobody needs the output of a stage any more: what is left of its attempts stops.
    pub(crate) fn stop_stage(&mut self, now: Duration, id: QueryId, stage: usize, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let mut lost = Consequences::default();
        query.stop_live_attempts(now, stage, "nobody needs it any more", &mut lost);
        self.settle(&lost.given_up, effects);
    }

    /// An input of a stage is not complete any more: none of its tasks waits for a place.
    pub(crate) fn withdraw_stage(&mut self, id: QueryId, stage: usize) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        query.stages[stage].withdraw();
        let placement = query.stages[stage].spec.placement;
        query.remove_ready_stage(placement, stage);
        self.update_queue_entry(id, placement);
    }
}

fn retry_of(attempt: AttemptKey) -> Deadline {
    Deadline::Retry(attempt.query, attempt.stage, attempt.task)
}

impl Loss {
    fn keys(&self) -> impl Iterator<Item = AttemptKey> + '_ {
        self.attempts.iter().chain(&self.outputs).copied()
    }
}

/// The end of a query that has lost too much. What a worker or its disk refused says itself what to do.
fn with_advice(cause: Failure) -> Failure {
    let message = match cause.kind {
        FailureKind::WorkerLost | FailureKind::ShuffleLost | FailureKind::Draining => {
            format!("{}; run the statement again", cause.message)
        }
        _ => cause.message,
    };
    Failure { message, ..cause }
}

/// Whether another attempt may succeed where this failure ended one. An attempt that stopped by itself, as if it had been
/// told to, may be the consequence of another failure, which then comes first or ends the query.
fn may_be_mended(kind: FailureKind) -> bool {
    kind.is_retryable() || kind == FailureKind::Cancelled
}

impl Query {
    /// Its live attempts on a worker, and those that have finished there with rows that are needed. Output without rows
    /// cannot be lost, unless a client may ask for it. What nobody needs is gone from now on.
    pub(crate) fn take_from(
        &mut self,
        worker: WorkerId,
        only: Option<&BTreeSet<AttemptKey>>,
    ) -> (Vec<AttemptKey>, Vec<AttemptKey>) {
        let (mut live, mut finished) = (Vec::new(), Vec::new());
        for (position, stage) in self.stages.iter_mut().enumerate() {
            let mut unneeded = Vec::new();
            for (key, attempt) in stage.attempts(self.id) {
                if !attempt.is_on(worker) || only.is_some_and(|only| !only.contains(&key)) {
                    continue;
                }
                if attempt.is_live() {
                    live.push(key);
                } else if stage.state == StageState::Released {
                    unneeded.push(key.task);
                } else if position == self.root || attempt.has_rows() {
                    finished.push(key);
                }
            }
            for task in unneeded {
                stage.drop_output(task);
            }
        }
        (live, finished)
    }

    fn has_attempt(&self, key: AttemptKey) -> bool {
        self.attempt(key).is_some()
    }

    /// Counts the attempts that failed. Returns why the query ends, if a task has had all its tries.
    fn count_failures(&mut self, loss: &Loss, most: u32) -> Option<Failure> {
        let mut end = None;
        let counted: &[AttemptKey] = match &loss.counts {
            Counts::Nothing => &[],
            Counts::Attempts | Counts::RunningAttempts => &loss.attempts,
            Counts::Outputs(outputs) => outputs,
        };
        for &attempt in counted {
            let did_run = self.attempt(attempt).map(|attempt| attempt.times().started.is_some());
            if did_run.is_some_and(|did_run| did_run || loss.counts != Counts::RunningAttempts)
                && let Some(task) = self.task_mut(attempt)
            {
                let is_alone = task.other(attempt.attempt).is_none();
                let (failures, cause) = task.count_failure(&loss.failure);
                if failures >= most && is_alone {
                    end.get_or_insert_with(|| cause.clone());
                }
            }
        }
        end
    }

    /// How long the task of a failed attempt pauses, if it has no other and the first pause is so long.
    fn pause_of(&self, attempt: AttemptKey, first: Duration) -> Option<Duration> {
        let task = self.task(attempt).filter(|task| task.attempt().is_none())?;
        Some(first * (1 << task.failures().saturating_sub(1).min(6)))
    }

    /// Takes back what is lost, and what follows from that.
    fn lose(&mut self, now: Duration, loss: &Loss) -> Consequences {
        let mut lost = Consequences::default();
        let reason = &loss.failure.message;
        for &attempt in &loss.attempts {
            let how = How::Ended { pauses: loss.pauses };
            self.give_up(now, attempt, reason, how, &mut lost);
        }
        for &output in &loss.outputs {
            self.give_up(now, output, reason, How::Stopped, &mut lost);
        }
        self.roll_back(now, &mut lost);
        lost
    }

    fn give_up(&mut self, now: Duration, key: AttemptKey, reason: &str, how: How, lost: &mut Consequences) {
        let Some(position) = self.position(key.stage) else {
            return;
        };
        if !self.has_attempt(key) {
            return;
        }
        if position == self.root {
            lost.parts.lost.push(key.task);
        }
        self.give_up_attempt(now, position, key, (reason, how), lost);
    }

    fn give_up_attempt(
        &mut self,
        now: Duration,
        position: usize,
        attempt: AttemptKey,
        (reason, how): (&str, How),
        lost: &mut Consequences,
    ) {
        let was_readable = self.attempt(attempt).is_some_and(Attempt::is_readable);
        lost.has_readable_parts |= position == self.root && was_readable;
        let pauses = how == How::Ended { pauses: true };
        let stage = &mut self.stages[position];
        if let Some(was) = stage.lose(attempt.task, attempt.attempt, now, reason, pauses) {
            lost.given_up.push(GivenUp { attempt, was, how });
        }
    }

    /// Gives up all attempts at a task.
    fn give_up_task(
        &mut self,
        now: Duration,
        position: usize,
        task: usize,
        (reason, how): (&str, How),
        lost: &mut Consequences,
    ) {
        let attempts = self.stages[position].attempts_of(self.id, task);
        let attempts: Vec<_> = attempts.map(|(key, _)| key).collect();
        for attempt in attempts {
            self.give_up_attempt(now, position, attempt, (reason, how), lost);
        }
    }

    /// Where rows are lost that another attempt would not give again, all that was made of them is lost too; also where
    /// such rows were released, if they are needed again.
    fn roll_back(&mut self, now: Duration, lost: &mut Consequences) {
        loop {
            let needed = self.needed_stages();
            let changed = (0..needed.len()).find(|&stage| needed[stage] && self.stages[stage].has_lost_rows());
            let Some(stage) = changed else {
                return;
            };
            self.stages[stage].forget_lost_rows();
            for consumer in self.stages[stage].consumers.clone() {
                self.void_stage(now, consumer, lost);
            }
        }
    }

    /// Nothing of a stage counts any more, nor of any stage that has read it, even if what it read was lost since.
    fn void_stage(&mut self, now: Duration, position: usize, lost: &mut Consequences) {
        let reason = "it read rows that were lost and cannot be given again";
        for number in 0..self.stages[position].tasks.len() {
            if position == self.root {
                // Also where its attempt was lost before: its rows may be with the client.
                lost.parts.void.push(task_id(number));
            }
            self.give_up_task(now, position, number, (reason, How::Stopped), lost);
        }
        self.stages[position].forget_lost_rows();
        for consumer in self.stages[position].consumers.clone() {
            self.void_stage(now, consumer, lost);
        }
    }

    fn stop_live_attempts(&mut self, now: Duration, position: usize, reason: &str, lost: &mut Consequences) {
        let attempts = self.stages[position].attempts(self.id);
        let live: Vec<_> = attempts
            .filter(|(_, attempt)| attempt.is_live())
            .map(|(key, _)| key)
            .collect();
        for attempt in live {
            self.give_up(now, attempt, reason, How::Stopped, lost);
        }
    }

    /// Whether what is lost can be computed again.
    fn can_go_on(&self, lost: &Consequences) -> bool {
        let root = &self.stages[self.root].spec;
        if lost.has_readable_parts && !root.streamed && !(root.is_determinate && lost.parts.void.is_empty()) {
            return false;
        }
        let needed = self.needed_stages();
        let mut stages = self.stages.iter().zip(needed);
        stages.all(|(stage, is_needed)| !(is_needed && stage.is_spent() && !stage.is_complete()))
    }

    fn remember_loss(&mut self, failure: &Failure) {
        self.recoveries += 1;
        if self.lost.len() == REMEMBERED_LOSSES {
            self.lost.pop_front();
        }
        self.lost.push_back(failure.message.clone());
    }
}
