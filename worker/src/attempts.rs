//! Which attempts a worker has, in which state, and how many slots they hold. Pure: no task is started or awaited here.
//!
//! | state    | event          | next     | who causes it                                             |
//! |----------|----------------|----------|-----------------------------------------------------------|
//! | -        | reserve        | Reserved | the server's launch; refused when the slots do not suffice |
//! | Reserved | commit         | Running  | the server                                                |
//! | Reserved | cancel/release | -        | the server                                                |
//! | Running  | cancel/release | Running, told to stop | the server; the attempt ends when its work has stopped |
//! | Running  | end            | Done when it finished and nobody stopped it, else - | the runner           |
//! | Done     | release        | -        | the server                                                |
//!
//! Slots are held from the reservation until the server may count them as free, which is at the latest when it hears of
//! the end, but sooner for an attempt that it told to stop, that has told that it waits for its reader (the server may
//! have given the slots away before it learns that the attempt goes on), or that it launched over a connection which is
//! lost. An attempt counts the slots held in its lane and in the lanes before it, so it never waits for longer ones, and
//! `lanes x slots` partitions run at most. It is refused when it finds no slot free; it may take more than are free, and a streamed one, which must run beside its
//! siblings, is never refused: both are the server's decisions. So a worker never refuses what the server's own accounting
//! allows.

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
    /// None once the server may count them as free.
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
    /// Cancelled means: told to stop.
    stop: CancellationToken,
    /// Its output was released while it still wrote.
    is_released: bool,
}

/// How far a running attempt is.
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
    /// Run this, until told to stop.
    Run(Launch, CancellationToken),
    /// A second commit.
    AlreadyRunning,
    /// Never reserved, or no longer.
    Unknown,
}

/// What a cancel leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cancel {
    /// It was only reserved and is gone.
    Gone,
    /// It has been told to stop and will end.
    Stopping,
    /// Nothing of it runs.
    Nothing,
}

/// How an attempt ended, after all that was asked of it meanwhile.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// What to report.
    pub(crate) status: AttemptStatus,
    /// Its output was released before its last rows were written: release it again.
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

    /// Takes slots for an attempt, or says why not. A launch that came twice changes nothing.
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

    /// Stops an attempt, in whatever state it is.
    pub(crate) fn cancel(&mut self, key: AttemptKey) -> Cancel {
        let Some(active) = self.active.get_mut(&key) else {
            return Cancel::Nothing;
        };
        match active.stop() {
            Stopped::Running => Cancel::Stopping,
            Stopped::Reserved => {
                self.active.remove(&key);
                Cancel::Gone
            }
        }
    }

    /// A running attempt got further. What to report, if anything: not of an attempt that was told to stop.
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

    /// A running attempt's work has stopped; `status` says how. The end of an attempt told to stop is its cancellation,
    /// whatever it came to.
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
            let mut kept = output.clone();
            kept.metrics.operators.clear();
            self.done.insert(key, kept);
        }
        Some(End { status, release_again })
    }

    /// Forgets the output of a query or of some of its stages and stops what still writes it. Returns the reservations
    /// that are gone with it.
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

    /// The server of a lost connection has given away the slots of all that it launched.
    pub(crate) fn give_slots_back(&mut self) {
        for active in self.active.values_mut() {
            active.held_slots = 0;
        }
    }

    /// The queries of which anything is here.
    pub(crate) fn queries(&self) -> BTreeSet<QueryId> {
        let keys = self.active.keys().chain(self.done.keys());
        keys.map(|key| key.query).collect()
    }

    /// The state of every attempt, as it was or would have been reported last, in the order of their keys.
    pub(crate) fn inventory(&self) -> Vec<(AttemptKey, AttemptStatus)> {
        let active = self.active.iter().filter_map(|(key, active)| {
            let status = match &active.state {
                State::Reserved(_) => AttemptStatus::Reserved,
                State::Running(running) => running.phase.status()?,
            };
            Some((*key, status))
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

    /// Whether nothing is reserved, runs or is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.done.is_empty()
    }

    /// What an attempt of `lane` finds taken: by attempts of that lane and of those it gives way to.
    fn held_slots(&self, lane: Lane) -> u32 {
        let counted = self.active.values().filter(|active| active.lane <= lane);
        counted.map(|active| active.held_slots).sum()
    }
}

/// What was told to stop.
enum Stopped {
    Reserved,
    Running,
}

impl Active {
    /// Gives its slots back and, if it runs, tells it to stop.
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
mod tests {
    use proptest::prelude::*;
    use squadron_proto::Failure;

    use super::*;
    use crate::testing::{QUERY, key, launch, streamed};

    fn finished() -> AttemptStatus {
        AttemptStatus::Finished(TaskOutput::default())
    }

    fn in_lane(lane: Lane, launch: Launch) -> Launch {
        Launch { lane, ..launch }
    }

    fn everything() -> Release {
        Release {
            query: QUERY,
            stages: vec![],
        }
    }

    #[test]
    fn an_attempt_goes_from_reserved_to_done_and_its_slots_come_back() {
        let mut registry = Registry::new(2);
        registry.reserve(launch(0, 2)).unwrap();
        assert!(registry.reserve(launch(1, 1)).is_err());
        assert!(matches!(registry.commit(key(0)), Commit::Run(..)));
        assert!(matches!(registry.commit(key(0)), Commit::AlreadyRunning));
        let running = registry.enter(key(0), Phase::Running);
        assert_eq!(running, Some(AttemptStatus::Running));
        assert_eq!(registry.end(key(0), finished()).unwrap().status, finished());
        registry.reserve(launch(1, 2)).unwrap();
        assert!(!registry.is_empty());
        assert_eq!(registry.release(&everything()), [key(1)]);
        assert!(registry.is_empty());
    }

    #[test]
    fn an_attempt_is_refused_only_when_no_slot_is_free() {
        let mut registry = Registry::new(2);
        registry.reserve(launch(0, 1)).unwrap();
        registry.reserve(launch(1, 2)).unwrap();
        let reason = registry.reserve(launch(2, 1)).unwrap_err();
        assert_eq!(reason, "all of its 2 slots are taken");
        registry.reserve(streamed(2, 1)).unwrap();
    }

    #[test]
    fn a_short_attempt_never_waits_for_longer_ones() {
        let mut registry = Registry::new(2);
        registry.reserve(in_lane(Lane::Long, launch(0, 2))).unwrap();
        assert!(registry.reserve(in_lane(Lane::Long, launch(1, 1))).is_err());
        registry.reserve(in_lane(Lane::Medium, launch(1, 2))).unwrap();
        registry.reserve(launch(2, 2)).unwrap();
        for lane in Lane::ALL {
            assert!(registry.reserve(in_lane(lane, launch(3, 1))).is_err());
        }
        // The long one still counts those before it, the short ones do not count it.
        registry.cancel(key(0));
        assert!(registry.reserve(in_lane(Lane::Long, launch(3, 1))).is_err());
        registry.cancel(key(2));
        registry.reserve(launch(3, 1)).unwrap();
    }

    #[test]
    fn what_the_server_counts_as_free_is_free_though_work_may_not_have_stopped() {
        let mut registry = Registry::new(1);
        registry.reserve(launch(0, 1)).unwrap();
        registry.commit(key(0));
        assert!(registry.reserve(launch(1, 1)).is_err());
        registry.cancel(key(0));
        registry.reserve(launch(1, 1)).unwrap();
        assert!(registry.reserve(launch(2, 1)).is_err());
        registry.give_slots_back();
        registry.reserve(launch(2, 1)).unwrap();
    }

    #[test]
    fn a_stopped_attempt_is_cancelled_whatever_it_came_to() {
        let mut registry = Registry::new(1);
        registry.reserve(launch(0, 1)).unwrap();
        let Commit::Run(_, stop) = registry.commit(key(0)) else {
            panic!("it was reserved");
        };
        assert_eq!(registry.cancel(key(0)), Cancel::Stopping);
        assert!(stop.is_cancelled());
        assert_eq!(registry.enter(key(0), Phase::Running), None);
        let end = registry.end(key(0), finished()).unwrap();
        assert_eq!(end.status, AttemptStatus::Cancelled);
        assert!(!end.release_again);
        assert!(registry.is_empty());
        assert_eq!(registry.end(key(0), finished()), None);
        assert_eq!(registry.cancel(key(0)), Cancel::Nothing);
    }

    #[test]
    fn the_output_of_an_attempt_released_while_it_ran_is_released_again() {
        let mut registry = Registry::new(1);
        registry.reserve(launch(0, 1)).unwrap();
        registry.commit(key(0));
        assert_eq!(registry.release(&everything()), []);
        let end = registry.end(key(0), finished()).unwrap();
        assert_eq!(end.status, AttemptStatus::Cancelled);
        assert!(end.release_again);
    }

    #[test]
    fn a_release_of_some_stages_leaves_the_others() {
        let mut registry = Registry::new(1);
        registry.reserve(launch(0, 1)).unwrap();
        let release = Release {
            query: QUERY,
            stages: vec![StageId(key(0).stage.0 + 1)],
        };
        assert_eq!(registry.release(&release), []);
        assert!(!registry.is_empty());
    }

    #[test]
    fn an_attempt_that_waited_for_its_reader_never_stands_in_the_way() {
        let mut registry = Registry::new(1);
        registry.reserve(streamed(0, 1)).unwrap();
        registry.commit(key(0));
        registry.enter(key(0), Phase::Running);
        assert!(registry.reserve(launch(1, 1)).is_err());
        let parked = registry.enter(key(0), Phase::Parked);
        assert_eq!(parked, Some(AttemptStatus::Parked));
        registry.reserve(launch(1, 1)).unwrap();
        let resumed = registry.enter(key(0), Phase::Running);
        assert_eq!(resumed, Some(AttemptStatus::Resumed));
        registry.reserve(streamed(2, 1)).unwrap();
    }

    #[test]
    fn the_inventory_is_what_would_be_reported() {
        let mut registry = Registry::new(8);
        for task in 0..5 {
            registry.reserve(launch(task, 1)).unwrap();
        }
        for task in 1..5 {
            registry.commit(key(task));
        }
        registry.enter(key(2), Phase::Running);
        registry.enter(key(3), Phase::Parked);
        registry.end(key(4), finished());
        assert_eq!(
            registry.inventory(),
            [
                (key(0), AttemptStatus::Reserved),
                (key(2), AttemptStatus::Running),
                (key(3), AttemptStatus::Parked),
                (key(4), finished()),
            ]
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Reserve(u32, u32, Lane),
        Commit(u32),
        Cancel(u32),
        Park(u32),
        End(u32, bool),
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        let task = 0..6_u32;
        prop_oneof![
            4 => (task.clone(), 1..3_u32, 0..3_u32)
                .prop_map(|(task, slots, lane)| Step::Reserve(task, slots, Lane::of_number(lane))),
            4 => task.clone().prop_map(Step::Commit),
            2 => task.clone().prop_map(Step::Cancel),
            1 => task.clone().prop_map(Step::Park),
            4 => (task, any::<bool>()).prop_map(|(task, success)| Step::End(task, success)),
            1 => Just(Step::Release),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order, no attempt is reserved when its lane finds no slot free, one for which it
        /// finds a slot always is, and once everything has ended all of them are free again.
        #[test]
        fn no_slot_is_lost_or_given_twice(steps in proptest::collection::vec(step(), 0..64)) {
            let mut registry = Registry::new(3);
            for step in steps {
                match step {
                    Step::Reserve(task, slots, lane) => _ = registry.reserve(in_lane(lane, launch(task, slots))),
                    Step::Commit(task) => _ = registry.commit(key(task)),
                    Step::Cancel(task) => _ = registry.cancel(key(task)),
                    Step::Park(task) => _ = registry.enter(key(task), Phase::Parked),
                    Step::End(task, true) => _ = registry.end(key(task), finished()),
                    Step::End(task, false) => {
                        let failure = AttemptStatus::Failed(Failure::internal("test"));
                        registry.end(key(task), failure);
                    }
                    Step::Release => _ = registry.release(&everything()),
                }
                for lane in Lane::ALL {
                    let held = registry.held_slots(lane);
                    let lanes = lane.number() + 1;
                    prop_assert!(held <= lanes * (3 + 1), "the last of a lane may take one more than is free");
                    let reserved = registry.reserve(in_lane(lane, launch(9, 1)));
                    prop_assert_eq!(reserved.is_ok(), held < 3, "{:?}", lane);
                    registry.cancel(key(9));
                }
            }
            registry.release(&everything());
            for task in 0..6 {
                registry.end(key(task), AttemptStatus::Cancelled);
            }
            prop_assert!(registry.is_empty());
            prop_assert_eq!(registry.held_slots(Lane::Long), 0);
            prop_assert_eq!(registry.reserve(launch(7, 3)), Ok(()));
        }
    }
}
