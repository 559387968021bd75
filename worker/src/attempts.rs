//! The attempts of a worker, their states, and the slots they hold. Pure: no task is started or awaited here.
//!
//! | state    | event          | next                                  | caused by                                  |
//! |----------|----------------|---------------------------------------|--------------------------------------------|
//! | -        | reserve        | Reserved                              | the server's launch; needs a free slot     |
//! | Reserved | commit         | Running                               | the server                                 |
//! | Reserved | cancel/release | -                                     | the server                                 |
//! | Running  | cancel/release | Running, told to stop                 | the server; ends when the work has stopped |
//! | Running  | end            | Done if it finished unstopped, else - | the runner                                 |
//! | Done     | cancel/release | -                                     | the server                                 |
//!
//! An attempt holds its slots from the reservation until the server may count them as free. That is at the latest when
//! the attempt's end is reported, and sooner where the server told the attempt to stop, or where the attempt reported
//! that it waits for its reader (the server may give the slots away before it learns that the attempt goes on).
//!
//! An attempt counts the slots held in its lane and in shorter lanes, so it never waits for longer ones, and at most
//! `lanes x slots` partitions run. A launch is refused only when no slot is free. It may take more slots than are free,
//! and a streamed attempt, which must run beside its siblings, is never refused: both are the server's decisions. So a
//! worker never refuses what the server's own accounting allows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use squadron_proto::control::{AttemptStatus, Lane, Launch, OutputMode, Release, TaskOutput};
use squadron_proto::{AttemptKey, AttemptNumber, QueryId, StageId, TaskId};
use tokio_util::sync::CancellationToken;

/// How many attempts may be reserved or running at a time, parked ones included.
const ATTEMPTS_LIMIT: usize = 4_096;

/// The attempts of one worker.
#[derive(Debug)]
pub(crate) struct Registry {
    slots: u32,
    active: BTreeMap<AttemptKey, Active>,
    /// Finished attempts whose output is kept, with its sizes.
    done: BTreeMap<AttemptKey, TaskOutput>,
}

#[derive(Debug)]
struct Active {
    lane: Lane,
    /// 0 once the server may count them as free.
    held_slots: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Reserved(Launch),
    Running(Running),
}

#[derive(Debug)]
struct Running {
    phase: Phase,
    /// Cancelled once the attempt is told to stop.
    stop: CancellationToken,
    /// Its output was released while the attempt still wrote.
    is_released: bool,
}

/// How far a running attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its plan is being decoded; its output cannot be read yet.
    Preparing,
    /// Its plan runs; its output can be read.
    Running,
    /// It waits for the reader of its output.
    Parked,
}

impl Phase {
    fn status(self) -> Option<AttemptStatus> {
        match self {
            Self::Preparing => None,
            Self::Running => Some(AttemptStatus::Running),
            Self::Parked => Some(AttemptStatus::Parked),
        }
    }
}

/// What a commit leads to.
#[derive(Debug)]
pub(crate) enum Commit {
    /// Run this until the token is cancelled.
    Run(Launch, CancellationToken),
    /// A second commit.
    AlreadyRunning,
    /// The attempt was never reserved, or is no longer.
    Unknown,
}

/// What a cancel leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// The attempt was only reserved; the reservation is gone.
    Gone,
    /// The attempt has been told to stop and will end.
    Stopping,
    /// The attempt had finished; its output is to be dropped.
    Finished,
    /// The attempt is not here.
    Nothing,
}

/// How an attempt ended, given the cancels and releases that came while it ran.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// What to report.
    pub(crate) status: AttemptStatus,
    /// The output was released before the attempt wrote its last rows: release it again.
    pub(crate) release_again: bool,
}

impl Registry {
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            slots,
            active: BTreeMap::new(),
            done: BTreeMap::new(),
        }
    }

    /// Takes slots for an attempt, or returns why not. A launch that came twice changes nothing.
    pub(crate) fn reserve(&mut self, launch: Launch) -> Result<(), String> {
        let key = launch.attempt;
        if self.active.contains_key(&key) || self.done.contains_key(&key) {
            return Ok(());
        }
        if self.active.len() >= ATTEMPTS_LIMIT {
            return Err(format!("it holds {ATTEMPTS_LIMIT} attempts already"));
        }
        if launch.output == OutputMode::Retained && self.held_slots(launch.lane) >= self.slots {
            return Err(format!("all of its {} slots are taken", self.slots));
        }
        let reserved = Active {
            lane: launch.lane,
            held_slots: launch.slots,
            state: State::Reserved(launch),
        };
        self.active.insert(key, reserved);
        Ok(())
    }

    /// A reserved attempt starts to run.
    pub(crate) fn commit(&mut self, key: AttemptKey) -> Commit {
        let Some(active) = self.active.get_mut(&key) else {
            return match self.done.contains_key(&key) {
                true => Commit::AlreadyRunning,
                false => Commit::Unknown,
            };
        };
        let stop = CancellationToken::new();
        let running = Running {
            phase: Phase::Preparing,
            stop: stop.clone(),
            is_released: false,
        };
        match std::mem::replace(&mut active.state, State::Running(running)) {
            State::Reserved(launch) => Commit::Run(launch, stop),
            before @ State::Running(_) => {
                active.state = before;
                Commit::AlreadyRunning
            }
        }
    }

    /// Stops an attempt in any state, or forgets its output.
    pub(crate) fn cancel(&mut self, key: AttemptKey) -> Cancel {
        let Some(active) = self.active.get_mut(&key) else {
            return match self.done.remove(&key) {
                Some(_) => Cancel::Finished,
                None => Cancel::Nothing,
            };
        };
        match active.stop() {
            Stopped::Running => Cancel::Stopping,
            Stopped::Reserved => {
                self.active.remove(&key);
                Cancel::Gone
            }
        }
    }

    /// Whether an attempt waits for the reader of its output.
    pub(crate) fn is_parked(&self, key: AttemptKey) -> bool {
        let state = self.active.get(&key).map(|active| &active.state);
        matches!(state, Some(State::Running(running)) if running.phase == Phase::Parked)
    }

    /// Takes the progress of a running attempt. Returns what to report: nothing of an attempt that was told to stop.
    pub(crate) fn enter(&mut self, key: AttemptKey, phase: Phase) -> Option<AttemptStatus> {
        let active = self.active.get_mut(&key)?;
        let State::Running(running) = &mut active.state else {
            return None;
        };
        let before = std::mem::replace(&mut running.phase, phase);
        if phase == Phase::Parked {
            active.held_slots = 0;
        }
        if running.stop.is_cancelled() {
            return None;
        }
        match (before, phase) {
            (Phase::Parked, Phase::Running) => Some(AttemptStatus::Resumed),
            (_, phase) => phase.status(),
        }
    }

    /// Takes the end of a running attempt. An attempt that was told to stop ends as cancelled, whatever its `status`.
    pub(crate) fn end(&mut self, key: AttemptKey, status: AttemptStatus) -> Option<End> {
        let State::Running(running) = &self.active.get(&key)?.state else {
            return None;
        };
        let status = match running.stop.is_cancelled() {
            true => AttemptStatus::Cancelled,
            false => status,
        };
        let release_again = running.is_released;
        self.active.remove(&key);
        if let AttemptStatus::Finished(output) = &status {
            let mut output = output.clone();
            output.metrics.operators.clear();
            self.done.insert(key, output);
        }
        Some(End { status, release_again })
    }

    /// Forgets the output of a query or of some of its stages and stops the attempts that still write it. Returns the
    /// attempts that were only reserved; they are gone.
    pub(crate) fn release(&mut self, release: &Release) -> Vec<AttemptKey> {
        let is_released = |stage| release.stages.is_empty() || release.stages.contains(&stage);
        let of_query = of_query(release.query);
        let done = self.done.range(of_query.clone()).map(|(key, _)| *key);
        for key in Vec::from_iter(done) {
            if is_released(key.stage) {
                self.done.remove(&key);
            }
        }
        let mut gone = Vec::new();
        for (key, active) in self.active.range_mut(of_query) {
            if !is_released(key.stage) {
                continue;
            }
            match active.stop() {
                Stopped::Reserved => gone.push(*key),
                Stopped::Running => active.set_released(),
            }
        }
        self.active.retain(|key, _| !gone.contains(key));
        gone
    }

    /// The output of a finished attempt is not here any more. Returns whether it was.
    pub(crate) fn forget_output(&mut self, key: AttemptKey) -> bool {
        self.done.remove(&key).is_some()
    }

    /// The queries that have attempts here.
    pub(crate) fn queries(&self) -> BTreeSet<QueryId> {
        let keys = self.active.keys().chain(self.done.keys());
        keys.map(|key| key.query).collect()
    }

    /// The last state that was or would have been reported of every attempt, in the order of their keys.
    pub(crate) fn inventory(&self) -> Vec<(AttemptKey, AttemptStatus)> {
        let active = self.active.iter().map(|(key, active)| {
            let status = match &active.state {
                State::Reserved(_) => AttemptStatus::Reserved,
                // A commit that comes again changes nothing.
                State::Running(running) => running.phase.status().unwrap_or(AttemptStatus::Reserved),
            };
            (*key, status)
        });
        let done = self.done.iter();
        let done = done.map(|(key, output)| (*key, AttemptStatus::Finished(output.clone())));
        let mut all: Vec<_> = active.chain(done).collect();
        all.sort_by_key(|(key, _)| *key);
        all
    }

    /// How many attempts run.
    pub(crate) fn running(&self) -> usize {
        let active = self.active.values();
        active
            .filter(|active| matches!(active.state, State::Running(_)))
            .count()
    }

    /// Whether no attempt is reserved, runs or has output.
    pub(crate) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.done.is_empty()
    }

    /// The slots that an attempt of `lane` finds taken: those held in that lane and in shorter ones.
    fn held_slots(&self, lane: Lane) -> u32 {
        let counted = self.active.values().filter(|active| active.lane <= lane);
        counted.map(|active| active.held_slots).sum()
    }
}

/// The state of an attempt that was told to stop.
enum Stopped {
    Reserved,
    Running,
}

impl Active {
    /// Releases the attempt's slots and, if it runs, tells it to stop.
    fn stop(&mut self) -> Stopped {
        self.held_slots = 0;
        match &self.state {
            State::Reserved(_) => Stopped::Reserved,
            State::Running(running) => {
                running.stop.cancel();
                Stopped::Running
            }
        }
    }

    fn set_released(&mut self) {
        if let State::Running(running) = &mut self.state {
            running.is_released = true;
        }
    }
}

/// The keys of all attempts of a query.
fn of_query(query: QueryId) -> RangeInclusive<AttemptKey> {
    let key = |number| AttemptKey {
        query,
        stage: StageId(number),
        task: TaskId(number),
        attempt: AttemptNumber(number),
    };
    key(u32::MIN)..=key(u32::MAX)
}

#[cfg(test)]
mod tests;
