//! Reports on one task, one situation a test.

use squadron_proto::FailureKind;

use super::*;
use crate::queue::run_queue::Correction;

const WORKER: WorkerId = WorkerId::from_u128(1);
const OTHER: WorkerId = WorkerId::from_u128(2);

const DEMAND: Demand = Demand {
    slots: 2,
    bytes: 7,
    lane: Lane::Short,
};

fn launched_task() -> (Task, AttemptNumber) {
    let mut task = Task::new();
    assert!(task.make_pending());
    let attempt = task.launch(WORKER, DEMAND);
    (task, attempt)
}

fn refused_status() -> AttemptStatus {
    AttemptStatus::Refused { reason: "full".into() }
}

#[test]
fn attempt_runs_from_launch_to_finish() {
    let (mut task, attempt) = launched_task();
    let placed = PlacedAttempt {
        worker: WORKER,
        attempt,
        demand: DEMAND,
    };
    let life = [
        (AttemptStatus::Reserved, Change::Commit),
        (AttemptStatus::Running, Change::Started),
        (AttemptStatus::Parked, Change::Parked { placed, started: false }),
        (AttemptStatus::Resumed, Change::Resumed(placed)),
        (
            AttemptStatus::Finished(TaskOutput::default()),
            Change::Finished {
                placed,
                held_slots: true,
                started: false,
            },
        ),
    ];
    for (status, change) in life {
        assert_eq!(task.apply_report(WORKER, attempt, status.clone()), (change, None));
        assert_eq!(
            task.apply_report(WORKER, attempt, status),
            (Change::Repeated, None),
            "a repeated report"
        );
    }
    assert!(!task.attempt().unwrap().is_live());
}

#[test]
fn report_of_other_attempt_is_ignored() {
    let (mut task, attempt) = launched_task();
    for (worker, attempt) in [(OTHER, attempt), (WORKER, AttemptNumber(9))] {
        assert_eq!(
            task.apply_report(worker, attempt, AttemptStatus::Reserved),
            (Change::Unknown, None)
        );
    }
    assert_eq!(
        task.apply_report(WORKER, attempt, AttemptStatus::Reserved),
        (Change::Commit, None)
    );
}

#[test]
fn relaunch_after_refusal_is_new_attempt() {
    let (mut task, first) = launched_task();
    let (change, odd) = task.apply_report(WORKER, first, refused_status());
    assert!(matches!(change, Change::Refused { refusals: Some(1), .. }) && odd.is_none());
    assert!(!task.make_pending(), "it pauses");
    assert!(task.end_pause() && task.make_pending());
    assert!(!task.make_pending(), "only once");
    let second = task.launch(WORKER, DEMAND);
    assert_ne!(first, second);
    assert_eq!(
        task.apply_report(WORKER, first, refused_status()),
        (Change::Unknown, None)
    );
}

#[test]
fn impossible_progress_is_accepted_and_flagged() {
    let (mut task, attempt) = launched_task();
    let (change, odd) = task.apply_report(WORKER, attempt, AttemptStatus::Parked);
    assert!(matches!(change, Change::Parked { started: true, .. }) && odd.is_some());
    let (change, odd) = task.apply_report(WORKER, attempt, AttemptStatus::Finished(TaskOutput::default()));
    assert!(matches!(change, Change::Finished { held_slots: false, .. }) && odd.is_none());
}

const MS: Duration = Duration::from_millis(1);

/// A task whose attempt ran for 5 ms on two slots and then parked, with the cost of that.
fn parked_task() -> (Task, AttemptNumber, Spent) {
    let (mut task, attempt) = launched_task();
    task.start_clock(attempt, Duration::ZERO, 100, 7, Lane::Short);
    task.apply_report(WORKER, attempt, AttemptStatus::Reserved);
    task.apply_report(WORKER, attempt, AttemptStatus::Parked);
    let spent = task.stop_clock(attempt, Some(5 * MS), DEMAND.slots).unwrap();
    (task, attempt, spent)
}

fn finished_status(cpu: Duration) -> AttemptStatus {
    let mut output = TaskOutput::default();
    output.metrics.cpu_ns = u64::try_from(cpu.as_nanos()).unwrap();
    AttemptStatus::Finished(output)
}

#[test]
fn slot_time_counts_until_cpu_reported() {
    let (mut task, attempt, spent) = parked_task();
    let so_far = (spent.charged_us, spent.before_us, spent.actual_us);
    assert_eq!(so_far, (100, 0, 10_000));
    assert_eq!(spent.correction(), Correction::More(9_900));
    assert_eq!(
        task.stop_clock(attempt, Some(9 * MS), DEMAND.slots),
        None,
        "the clock has stopped"
    );
    task.apply_report(WORKER, attempt, AttemptStatus::Resumed);
    task.start_clock(attempt, 20 * MS, 0, 7, Lane::Short);
    task.apply_report(WORKER, attempt, finished_status(3 * MS));
    let spent = task.stop_clock(attempt, Some(30 * MS), DEMAND.slots).unwrap();
    assert_eq!((spent.before_us, spent.actual_us), (10_000, 3_000));
    assert_eq!(spent.correction(), Correction::Less(7_000));
}

#[test]
fn parked_finish_charges_reported_cpu() {
    let (mut task, attempt, _) = parked_task();
    task.apply_report(WORKER, attempt, finished_status(11 * MS));
    let spent = task.stop_clock(attempt, Some(30 * MS), 0).unwrap();
    assert_eq!(spent.correction(), Correction::More(1_000));
}

#[test]
fn unreported_cpu_charges_slot_time() {
    let (mut task, attempt, _) = parked_task();
    task.apply_report(WORKER, attempt, AttemptStatus::Resumed);
    task.start_clock(attempt, 20 * MS, 0, 7, Lane::Short);
    task.apply_report(WORKER, attempt, finished_status(Duration::ZERO));
    let spent = task.stop_clock(attempt, Some(30 * MS), DEMAND.slots).unwrap();
    assert_eq!((spent.before_us, spent.actual_us), (10_000, 30_000));
}

#[test]
fn next_attempt_starts_without_charges() {
    let (mut task, attempt) = launched_task();
    task.start_clock(attempt, Duration::ZERO, 100, 7, Lane::Short);
    task.apply_report(WORKER, attempt, refused_status());
    let spent = task.stop_clock(attempt, None, DEMAND.slots).unwrap();
    assert_eq!(spent.correction(), Correction::Less(100));
    assert!(task.end_pause() && task.make_pending());
    let attempt = task.launch(WORKER, DEMAND);
    task.start_clock(attempt, 10 * MS, 50, 7, Lane::Short);
    task.apply_report(WORKER, attempt, AttemptStatus::Reserved);
    task.apply_report(WORKER, attempt, finished_status(MS));
    let spent = task.stop_clock(attempt, Some(30 * MS), DEMAND.slots).unwrap();
    assert_eq!((spent.before_us, spent.correction()), (0, Correction::More(950)));
}

/// A task with a running attempt and a second one that was just launched.
fn doubled_task() -> (Task, AttemptNumber, AttemptNumber) {
    let (mut task, first) = launched_task();
    task.start_clock(first, Duration::ZERO, 100, 7, Lane::Short);
    task.apply_report(WORKER, first, AttemptStatus::Reserved);
    task.apply_report(WORKER, first, AttemptStatus::Running);
    assert!(task.may_be_doubled());
    let second = task.launch_second(OTHER, DEMAND);
    task.start_clock(second, 50 * MS, 100, 7, Lane::Short);
    assert!(task.is_doubled() && !task.may_be_doubled());
    (task, first, second)
}

#[test]
fn first_to_finish_counts() {
    let (mut task, first, second) = doubled_task();
    task.apply_report(OTHER, second, AttemptStatus::Reserved);
    task.apply_report(OTHER, second, finished_status(3 * MS));
    assert_eq!(task.finished().map(|finished| finished.worker), Some(OTHER));
    assert_eq!(task.other(second).map(Attempt::number), Some(first));
    let spent = task.stop_clock(second, Some(60 * MS), DEMAND.slots).unwrap();
    assert_eq!(spent.actual_us, 3_000, "each attempt has its own account");
    assert!(matches!(
        task.lose(60 * MS, first, "slow", false),
        Some(Lost::Live { .. })
    ));
    assert!(task.has_output() && task.attempts().count() == 1);
    let spent = task.stop_clock(first, Some(60 * MS), DEMAND.slots).unwrap();
    assert_eq!(spent.actual_us, 120_000);
}

#[test]
fn task_goes_on_with_the_attempt_that_is_left() {
    for loses_first in [true, false] {
        let (mut task, first, second) = doubled_task();
        let (lost, left) = match loses_first {
            true => (first, second),
            false => (second, first),
        };
        assert!(task.lose(60 * MS, lost, "gone", true).is_some());
        assert!(!task.is_waiting() && !task.end_pause(), "it does not pause");
        assert_eq!(task.attempt().map(Attempt::number), Some(left));
        assert!(task.may_be_doubled(), "the other is gone without its fault");
        assert_eq!(task.past().count(), 1);
    }
}

#[test]
fn refused_second_attempt_is_no_refusal_of_the_task() {
    let (mut task, first, second) = doubled_task();
    let (change, odd) = task.apply_report(OTHER, second, refused_status());
    assert!(matches!(change, Change::Refused { refusals: None, .. }) && odd.is_none());
    assert_eq!(task.attempts().map(Attempt::number).collect::<Vec<_>>(), [first]);
    assert!(task.may_be_doubled(), "another worker may take it");
    let failure = Failure::new(FailureKind::Storage, "no luck");
    let (change, _) = task.apply_report(WORKER, first, AttemptStatus::Failed(failure.clone()));
    assert_eq!(change, Change::Failed(failure));
}

/// Whichever of them failed, the other decides: else a task that always fails would go on for ever.
#[test]
fn attempt_beside_a_failed_one_stays_alone() {
    for (worker, fails_first) in [(WORKER, true), (OTHER, false)] {
        let (mut task, first, second) = doubled_task();
        let failed = if fails_first { first } else { second };
        task.apply_report(OTHER, second, AttemptStatus::Reserved);
        let failure = Failure::new(FailureKind::Storage, "no luck");
        task.apply_report(worker, failed, AttemptStatus::Failed(failure));
        task.lose(60 * MS, failed, "no luck", true);
        assert!(!task.may_be_doubled());
    }
}

#[test]
fn refused_second_attempts_come_to_an_end() {
    let (mut task, _, second) = doubled_task();
    task.apply_report(OTHER, second, refused_status());
    for _ in 0..2 {
        assert!(task.may_be_doubled());
        let second = task.launch_second(OTHER, DEMAND);
        task.apply_report(OTHER, second, refused_status());
    }
    assert!(!task.may_be_doubled());
}
