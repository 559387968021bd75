//! One task: its attempts.
//!
//! | state | leads to | when |
//! |---|---|---|
//! | Waiting | Pending | its stage starts |
//! | Pending | Placed | it is launched |
//! | Pending | Waiting | an input of its stage was lost |
//! | Pending | Paused | there is room only where it failed before |
//! | Placed | Waiting | its attempt, or the output of that, is lost |
//! | Placed | Paused | its attempt was refused, or failed |
//! | Paused | Pending | the pause is over |
//!
//! A task that is Placed has one attempt, or two if the first is slow (see [`crate::lifecycle::speculation`]). It loses
//! them one by one: while another goes on it stays Placed. The first to finish is the only one left.

use std::collections::VecDeque;
use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Lane, TaskOutput};
use squadron_proto::{AttemptNumber, Failure, WorkerId};

use crate::info::{AttemptInfo, TaskPhase};
use crate::lifecycle::account::{Account, Spent};
use crate::lifecycle::attempt::{Attempt, Change, Lost, PlacedAttempt, Taken};
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
    past: VecDeque<AttemptInfo>,
    /// What its attempts were charged: those that it has, and those lost last.
    accounts: Vec<(AttemptNumber, Account)>,
    state: TaskState,
}

/// How many attempts of a task that came to nothing are remembered, for [`crate::info`].
const PAST_ATTEMPTS: usize = 16;

#[derive(Debug)]
enum TaskState {
    /// It waits for the inputs of its stage, or nobody needs it.
    Waiting,
    /// It waits for the end of a pause after a refusal or failure.
    Paused,
    /// It waits for a worker with free slots.
    Pending,
    /// It has an attempt. A second one only while none has finished.
    Placed {
        attempt: Box<Attempt>,
        second: Option<Box<Attempt>>,
    },
}

/// The attempt of a task that has finished.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished<'a> {
    pub(crate) worker: WorkerId,
    pub(crate) attempt: AttemptNumber,
    pub(crate) output: &'a TaskOutput,
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
            accounts: Vec::new(),
            state: TaskState::Waiting,
        }
    }

    /// Its attempts that have not come to nothing; the one that counts first.
    pub(crate) fn attempts(&self) -> impl Iterator<Item = &Attempt> + '_ {
        let (attempt, second) = match &self.state {
            TaskState::Placed { attempt, second } => (Some(attempt), second.as_ref()),
            TaskState::Waiting | TaskState::Paused | TaskState::Pending => (None, None),
        };
        attempt.into_iter().chain(second).map(AsRef::as_ref)
    }

    /// The attempt that counts: it has finished, or came first.
    pub(crate) fn attempt(&self) -> Option<&Attempt> {
        self.attempts().next()
    }

    /// One of its attempts.
    pub(crate) fn find(&self, number: AttemptNumber) -> Option<&Attempt> {
        self.attempts().find(|attempt| attempt.number() == number)
    }

    pub(crate) fn find_mut(&mut self, number: AttemptNumber) -> Option<&mut Attempt> {
        let TaskState::Placed { attempt, second } = &mut self.state else {
            return None;
        };
        let mut attempts = std::iter::once(attempt).chain(second);
        attempts.find(|attempt| attempt.number() == number).map(AsMut::as_mut)
    }

    /// The attempt beside the one with this number.
    pub(crate) fn other(&self, number: AttemptNumber) -> Option<&Attempt> {
        self.attempts().find(|attempt| attempt.number() != number)
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

    /// An attempt, in whatever phase, comes to nothing, for this `reason`. None where there is no such attempt.
    /// `pauses`: the task is not to be placed before a pause is over.
    pub(crate) fn lose(&mut self, now: Duration, number: AttemptNumber, reason: &str, pauses: bool) -> Option<Lost> {
        let lost = self.take(number, pauses)?;
        if self.past.len() == PAST_ATTEMPTS {
            self.past.pop_front();
        }
        self.past.push_back(lost.past_info(now, reason));
        Some(lost.lost())
    }

    /// Takes an attempt from the task, which goes on with the other one, if there is one.
    fn take(&mut self, number: AttemptNumber, pauses: bool) -> Option<Box<Attempt>> {
        self.find(number)?;
        let without = match pauses {
            true => TaskState::Paused,
            false => TaskState::Waiting,
        };
        let TaskState::Placed { attempt, second } = std::mem::replace(&mut self.state, without) else {
            return None;
        };
        let (taken, left) = match second {
            Some(second) if second.number() == number => (second, Some(attempt)),
            left => (attempt, left),
        };
        if let Some(mut attempt) = left {
            if taken.has_failed() {
                // It decides whether the query ends.
                attempt.stay_alone();
            }
            self.state = TaskState::Placed { attempt, second: None };
        }
        Some(taken)
    }

    /// Attempts that came to nothing, the oldest first.
    pub(crate) fn past(&self) -> impl Iterator<Item = &AttemptInfo> + '_ {
        self.past.iter()
    }

    /// Whether its output is complete and can be read.
    pub(crate) fn has_output(&self) -> bool {
        self.attempt().is_some_and(|attempt| attempt.output().is_some())
    }

    /// Its output can be read no more. Returns whether it could.
    pub(crate) fn drop_output(&mut self) -> bool {
        match &mut self.state {
            TaskState::Placed { attempt, .. } => attempt.drop_output(),
            TaskState::Waiting | TaskState::Paused | TaskState::Pending => false,
        }
    }

    /// An attempt holds slots since `since`, and was charged `charged_us` for them in advance.
    pub(crate) fn start_clock(
        &mut self,
        number: AttemptNumber,
        since: Duration,
        charged_us: u64,
        weight: u64,
        lane: Lane,
    ) {
        if let Some(attempt) = self.find_mut(number) {
            attempt.record_launch(since);
        }
        let known = self.accounts.iter().position(|(of, _)| *of == number);
        let before = known.map(|known| self.accounts.swap_remove(known).1);
        let account = Account::open(before, since, charged_us, weight, lane);
        self.accounts.push((number, account));
    }

    /// An attempt holds its slots no longer, if it held any; `until`: it used them until then, else not at all. None
    /// if nothing new is known about its cost.
    pub(crate) fn stop_clock(&mut self, number: AttemptNumber, until: Option<Duration>, slots: u32) -> Option<Spent> {
        let used_us = self.used_us(number);
        let (_, account) = self.accounts.iter_mut().find(|(of, _)| *of == number)?;
        account.stop(until, slots, used_us)
    }

    /// The processor time that an attempt reported.
    fn used_us(&self, number: AttemptNumber) -> Option<u64> {
        let cpu_ns = self.find(number)?.written()?.metrics.cpu_ns;
        (cpu_ns > 0).then(|| cpu_ns.div_ceil(1_000))
    }

    pub(crate) fn phase(&self) -> TaskPhase {
        match &self.state {
            TaskState::Waiting | TaskState::Paused => TaskPhase::Waiting,
            TaskState::Pending => TaskPhase::Pending,
            TaskState::Placed { attempt, .. } => attempt.phase(),
        }
    }

    /// What it has written, if that is complete; also when it is gone since.
    pub(crate) fn finished(&self) -> Option<Finished<'_>> {
        let attempt = self.attempt()?;
        Some(Finished {
            worker: attempt.worker(),
            attempt: attempt.number(),
            output: attempt.written()?,
        })
    }

    /// Whether it is to be placed.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.state, TaskState::Pending)
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
        }
        was_waiting
    }

    /// It is not to be placed before a pause is over.
    pub(crate) fn pause(&mut self) {
        if self.is_pending() {
            self.state = TaskState::Paused;
        }
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
        if self.is_pending() {
            self.state = TaskState::Waiting;
        }
    }

    /// Starts a new attempt on a worker with free slots.
    pub(crate) fn launch(&mut self, worker: WorkerId, demand: Demand) -> AttemptNumber {
        debug_assert!(self.is_pending(), "{self:?} cannot be launched");
        let attempt = self.next_attempt(worker, demand);
        let number = attempt.number();
        self.accounts.clear();
        self.state = TaskState::Placed { attempt, second: None };
        number
    }

    /// Whether its attempt, which has not ended, may get another one beside it: not after one that failed.
    pub(crate) fn may_be_doubled(&self) -> bool {
        match &self.state {
            TaskState::Placed { attempt, second: None } => attempt.may_be_doubled(),
            _ => false,
        }
    }

    /// Whether it has two attempts.
    pub(crate) fn is_doubled(&self) -> bool {
        matches!(self.state, TaskState::Placed { second: Some(_), .. })
    }

    /// Starts another attempt beside the one it has.
    pub(crate) fn launch_second(&mut self, worker: WorkerId, demand: Demand) -> AttemptNumber {
        debug_assert!(self.may_be_doubled(), "{self:?} cannot have two attempts");
        let launched = self.next_attempt(worker, demand);
        let number = launched.number();
        if let TaskState::Placed { attempt, second } = &mut self.state {
            attempt.record_second();
            *second = Some(launched);
        }
        number
    }

    fn next_attempt(&mut self, worker: WorkerId, demand: Demand) -> Box<Attempt> {
        let attempt = AttemptNumber(self.next_attempt);
        self.next_attempt += 1;
        Box::new(Attempt::launch(PlacedAttempt {
            worker,
            attempt,
            demand,
        }))
    }

    /// Applies a worker's report. The second value says what was impossible about it, if anything.
    pub(crate) fn apply_report(
        &mut self,
        worker: WorkerId,
        number: AttemptNumber,
        status: AttemptStatus,
    ) -> (Change, Option<&'static str>) {
        let Some(attempt) = self.find_mut(number).filter(|attempt| attempt.worker() == worker) else {
            return (Change::Unknown, None);
        };
        let placed = attempt.placed;
        let (taken, impossible) = attempt.apply_report(status);
        let change = match taken {
            Taken::Changed(change) => change,
            Taken::Refused(reason) => self.refuse(placed, reason),
        };
        if matches!(change, Change::Finished { .. }) {
            self.put_first(number);
        }
        (change, impossible)
    }

    fn refuse(&mut self, placed: PlacedAttempt, reason: String) -> Change {
        self.take(placed.attempt, true);
        let is_alone = self.attempt().is_none();
        self.refusals += u32::from(is_alone);
        Change::Refused {
            placed,
            refusals: is_alone.then_some(self.refusals),
            reason,
        }
    }

    /// The attempt with this number counts.
    fn put_first(&mut self, number: AttemptNumber) {
        if let TaskState::Placed {
            attempt,
            second: Some(second),
        } = &mut self.state
            && second.number() == number
        {
            std::mem::swap(attempt, second);
        }
    }
}

#[cfg(test)]
mod tests;
