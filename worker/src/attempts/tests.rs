//! Transitions of attempts and the accounting of slots.

use proptest::prelude::*;
use squadron_proto::Failure;

use super::*;
use crate::testing::{QUERY, key, launch, streamed_launch};

fn finished() -> AttemptStatus {
    AttemptStatus::Finished(TaskOutput::default())
}

fn in_lane(lane: Lane, launch: Launch) -> Launch {
    Launch { lane, ..launch }
}

fn release_all() -> Release {
    Release {
        query: QUERY,
        stages: vec![],
    }
}

#[test]
fn finished_attempt_returns_its_slots() {
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
    assert_eq!(registry.release(&release_all()), [key(1)]);
    assert!(registry.is_empty());
}

#[test]
fn reserve_fails_only_without_free_slots() {
    let mut registry = Registry::new(2);
    registry.reserve(launch(0, 1)).unwrap();
    registry.reserve(launch(1, 2)).unwrap();
    let reason = registry.reserve(launch(2, 1)).unwrap_err();
    assert_eq!(reason, "all of its 2 slots are taken");
    registry.reserve(streamed_launch(2, 1)).unwrap();
}

#[test]
fn short_attempt_ignores_longer_lanes() {
    let mut registry = Registry::new(2);
    registry.reserve(in_lane(Lane::Long, launch(0, 2))).unwrap();
    assert!(registry.reserve(in_lane(Lane::Long, launch(1, 1))).is_err());
    registry.reserve(in_lane(Lane::Medium, launch(1, 2))).unwrap();
    registry.reserve(launch(2, 2)).unwrap();
    for lane in Lane::ALL {
        assert!(registry.reserve(in_lane(lane, launch(3, 1))).is_err());
    }
    // The long attempt still counts the shorter ones; the short ones do not count the long one.
    registry.cancel(key(0));
    assert!(registry.reserve(in_lane(Lane::Long, launch(3, 1))).is_err());
    registry.cancel(key(2));
    registry.reserve(launch(3, 1)).unwrap();
}

#[test]
fn stopping_attempt_holds_no_slots() {
    let mut registry = Registry::new(1);
    registry.reserve(launch(0, 1)).unwrap();
    registry.commit(key(0));
    assert!(registry.reserve(launch(1, 1)).is_err());
    registry.cancel(key(0));
    registry.reserve(launch(1, 1)).unwrap();
    assert!(registry.reserve(launch(2, 1)).is_err());
}

#[test]
fn stopped_attempt_always_ends_cancelled() {
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
fn output_released_early_is_released_again() {
    let mut registry = Registry::new(1);
    registry.reserve(launch(0, 1)).unwrap();
    registry.commit(key(0));
    assert_eq!(registry.release(&release_all()), []);
    let end = registry.end(key(0), finished()).unwrap();
    assert_eq!(end.status, AttemptStatus::Cancelled);
    assert!(end.release_again);
}

#[test]
fn partial_release_leaves_other_stages() {
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
fn parked_attempt_holds_no_slots() {
    let mut registry = Registry::new(1);
    registry.reserve(streamed_launch(0, 1)).unwrap();
    registry.commit(key(0));
    registry.enter(key(0), Phase::Running);
    assert!(registry.reserve(launch(1, 1)).is_err());
    let parked = registry.enter(key(0), Phase::Parked);
    assert_eq!(parked, Some(AttemptStatus::Parked));
    registry.reserve(launch(1, 1)).unwrap();
    let resumed = registry.enter(key(0), Phase::Running);
    assert_eq!(resumed, Some(AttemptStatus::Resumed));
    registry.reserve(streamed_launch(2, 1)).unwrap();
}

#[test]
fn inventory_lists_last_reported_states() {
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
            // It runs, and has not said so yet.
            (key(1), AttemptStatus::Reserved),
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
            .prop_map(|(task, slots, lane)| Step::Reserve(task, slots, Lane::from_number(lane))),
        4 => task.clone().prop_map(Step::Commit),
        2 => task.clone().prop_map(Step::Cancel),
        1 => task.clone().prop_map(Step::Park),
        4 => (task, any::<bool>()).prop_map(|(task, success)| Step::End(task, success)),
        1 => Just(Step::Release),
    ]
}

proptest! {
    /// For any events in any order: an attempt is reserved if and only if its lane finds a slot free, and all slots
    /// are free again once every attempt has ended.
    #[test]
    fn slots_are_never_lost_or_doubled(steps in proptest::collection::vec(step(), 0..64)) {
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
                Step::Release => _ = registry.release(&release_all()),
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
        registry.release(&release_all());
        for task in 0..6 {
            registry.end(key(task), AttemptStatus::Cancelled);
        }
        prop_assert!(registry.is_empty());
        prop_assert_eq!(registry.held_slots(Lane::Long), 0);
        prop_assert_eq!(registry.reserve(launch(7, 3)), Ok(()));
    }
}
