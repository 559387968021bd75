//! The scheduler as a whole, one situation a test.

use std::time::Duration;

use squadron_proto::control::{AttemptStatus, OutputMode};
use squadron_proto::{AttemptKey, AttemptNumber, Failure, FailureKind, QueryId, StageId, TaskId, WorkerKind};

use crate::testing::{graph, some_output, stage, worker};
use crate::tests::model::{Behaviour, Model};
use crate::*;

const FIRST: QueryId = QueryId::from_u128(1);
const SECOND: QueryId = QueryId::from_u128(2);

fn cluster(slots: &[u32]) -> Model {
    cluster_under(Policy::default(), slots)
}

fn cluster_under(policy: Policy, slots: &[u32]) -> Model {
    let mut model = Model::new(Limits {
        policy,
        ..Limits::default()
    });
    for (number, &slots) in slots.iter().enumerate() {
        model.join(worker(number as u128), slots, WorkerKind::Remote);
    }
    model
}

/// A running attempt that such a cluster loses ends its query.
fn cluster_without_retries(slots: &[u32]) -> Model {
    let mut model = Model::new(Limits {
        max_task_failures: 1,
        ..Limits::default()
    });
    for (number, &slots) in slots.iter().enumerate() {
        model.join(worker(number as u128), slots, WorkerKind::Remote);
    }
    model
}

/// Moves all attempts of the query on by one state each.
fn step(model: &mut Model, query: QueryId, behaviour: Behaviour) {
    for (worker, attempt) in model.attempts() {
        if attempt.query == query && model.progress(worker, attempt, behaviour) {
            model.deliver(worker);
        }
    }
}

fn launched_count(model: &Model, query: QueryId) -> usize {
    model
        .attempts()
        .iter()
        .filter(|(_, attempt)| attempt.query == query)
        .count()
}

fn failure(model: &Model, query: QueryId) -> Failure {
    model.ended[&query].clone().unwrap_err()
}

#[test]
fn query_runs_from_submission_to_summary() {
    let mut model = cluster(&[2, 2]);
    model.submit(graph(1, vec![stage(0, &[], 3), stage(1, &[0], 2)]));
    assert_eq!(launched_count(&model, FIRST), 3, "the consumer waits for its input");
    for _ in 0..3 {
        step(&mut model, FIRST, Behaviour::Proceed);
    }
    assert_eq!(launched_count(&model, FIRST), 2, "then it starts");
    assert!(!model.ready.contains(&FIRST));
    step(&mut model, FIRST, Behaviour::Proceed);
    step(&mut model, FIRST, Behaviour::Proceed);
    assert!(model.ready.contains(&FIRST), "the root runs, the result can be read");
    model.now += Duration::from_millis(7);
    step(&mut model, FIRST, Behaviour::Proceed);
    assert!(model.ended.is_empty(), "not before the client has read it");
    model.send(Event::ResultDone { query: FIRST });
    let summary = model.ended[&FIRST].clone().unwrap();
    assert_eq!(summary.elapsed, Duration::from_millis(7));
    let tasks: Vec<_> = summary.stages.iter().map(|stage| stage.tasks.len()).collect();
    assert_eq!(tasks, [3, 2]);
}

#[test]
fn result_parts_name_worker_and_partitions() {
    let mut model = Model::new(Limits::default());
    let kind = WorkerKind::Embedded;
    let (worker, slots, address) = (worker(1), 4, String::new());
    model.scheduler.apply(
        model.now,
        Event::WorkerJoined {
            worker,
            slots,
            address,
            memory_bytes: 1 << 20,
            kind,
        },
    );
    let mut root = stage(0, &[], 1);
    root.tasks[0].partitions.clear();
    root.output_partitions = OutputPartitions::Identity(3);
    let effects = model.scheduler.apply(model.now, Event::Submit(graph(1, vec![root])));
    let Effect::Launch { launch, .. } = &effects[1] else {
        panic!("{effects:?}");
    };
    assert_eq!(launch.output, OutputMode::Streamed);
    let attempt = launch.attempt;
    for status in [AttemptStatus::Reserved, AttemptStatus::Running] {
        let effects = model.scheduler.apply(
            model.now,
            Event::Report {
                worker,
                attempt,
                status,
            },
        );
        if let [Effect::ResultReady { parts, .. }] = effects.as_slice() {
            let part = ResultPart {
                attempt,
                worker,
                address: String::new(),
                partitions: vec![0, 1, 2],
            };
            assert_eq!(parts, &[part]);
            return;
        }
    }
    panic!("the result was never ready");
}

#[test]
fn fifo_runs_queries_in_order() {
    let mut model = cluster_under(Policy::Fifo, &[1]);
    model.submit(graph(1, vec![stage(0, &[], 2), stage(1, &[0], 1)]));
    model.submit(graph(2, vec![stage(0, &[], 1)]));
    for _ in 0..3 {
        step(&mut model, FIRST, Behaviour::Proceed);
    }
    assert_eq!(
        (launched_count(&model, FIRST), launched_count(&model, SECOND)),
        (1, 0),
        "the first query's second task comes first"
    );
    for _ in 0..3 {
        step(&mut model, FIRST, Behaviour::Proceed);
    }
    model.run_to_completion();
    assert!(model.ended.values().all(Result::is_ok));
}

#[test]
fn parked_root_releases_its_slots() {
    let mut model = cluster(&[1]);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    model.submit(graph(2, vec![stage(0, &[], 1)]));
    step(&mut model, FIRST, Behaviour::Proceed);
    step(&mut model, FIRST, Behaviour::Proceed);
    assert_eq!(launched_count(&model, SECOND), 0);
    step(&mut model, FIRST, Behaviour::Park);
    assert_eq!(
        launched_count(&model, SECOND),
        1,
        "the first result is not read, the second query runs"
    );
    step(&mut model, FIRST, Behaviour::Proceed);
    assert_eq!(model.scheduler.workers()[0].used_slots, 2, "both run now");
    model.run_to_completion();
}

#[test]
fn final_report_replaces_parked_estimates() {
    let ms = Duration::from_millis;
    let mut model = cluster(&[1]);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    let (worker, attempt) = model.attempts()[0];
    let mut report = |at, status| {
        let event = Event::Report {
            worker,
            attempt,
            status,
        };
        model.scheduler.apply(at, event);
        let query = model.scheduler.queries().remove(0);
        (query.spent, query.held_slots)
    };
    report(ms(0), AttemptStatus::Reserved);
    report(ms(0), AttemptStatus::Running);
    assert_eq!(report(ms(5), AttemptStatus::Parked), (ms(5), 0));
    assert_eq!(report(ms(20), AttemptStatus::Resumed), (ms(5), 1));
    assert_eq!(report(ms(22), AttemptStatus::Parked), (ms(7), 0));
    let mut output = some_output();
    output.metrics.cpu_ns = 3_000_000;
    let finished = AttemptStatus::Finished(output);
    assert_eq!(report(ms(40), finished), (ms(3), 0));
}

#[test]
fn cancelled_query_ends_at_once() {
    let mut model = cluster(&[2]);
    model.submit(graph(1, vec![stage(0, &[], 2)]));
    step(&mut model, FIRST, Behaviour::Proceed);
    let cancelled = Failure::new(FailureKind::Cancelled, "the client hung up");
    model.send(Event::Cancel {
        query: FIRST,
        failure: cancelled.clone(),
    });
    assert_eq!(failure(&model, FIRST), cancelled);
    assert_eq!(model.scheduler.workers()[0].used_slots, 0);
    assert!(model.scheduler.queries().is_empty() && model.attempts().is_empty());
    model.send(Event::Cancel {
        query: FIRST,
        failure: cancelled,
    });
    assert_eq!(model.scheduler.workers()[0].stopping, 2);
    model.run_to_completion();
    assert!(model.scheduler.is_empty());
}

#[test]
fn lost_worker_fails_only_its_queries() {
    let mut model = cluster_without_retries(&[1, 1]);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    model.submit(graph(2, vec![stage(0, &[], 1)]));
    for _ in 0..2 {
        step(&mut model, FIRST, Behaviour::Proceed);
    }
    model.lose(worker(0));
    let failure = failure(&model, FIRST);
    assert_eq!(failure.kind, FailureKind::WorkerLost);
    assert!(
        failure.message.contains("http://00000000") && failure.message.contains("again"),
        "{failure}"
    );
    model.run_to_completion();
    assert!(model.ended[&SECOND].is_ok());
}

#[test]
fn lost_worker_after_release_is_harmless() {
    let mut model = cluster(&[1, 1]);
    model.submit(graph(1, vec![stage(0, &[], 2), stage(1, &[0], 1), stage(2, &[1], 1)]));
    for _ in 0..6 {
        step(&mut model, FIRST, Behaviour::Proceed);
    }
    let running: Vec<_> = model.attempts();
    assert_eq!(
        running.len(),
        1,
        "the root runs, the second stage's output is on one worker"
    );
    assert_eq!(running[0].1.stage, StageId(2));
    let idle = if running[0].0 == worker(0) {
        worker(1)
    } else {
        worker(0)
    };
    model.lose(idle);
    assert!(model.ended.is_empty(), "what it held has been read");
    model.run_to_completion();
    assert!(model.ended[&FIRST].is_ok());
}

#[test]
fn returning_worker_releases_ended_queries() {
    let mut model = cluster_without_retries(&[1, 1]);
    model.submit(graph(1, vec![stage(0, &[], 2)]));
    for _ in 0..2 {
        step(&mut model, FIRST, Behaviour::Proceed);
    }
    model.lose(worker(0));
    assert_eq!(model.ended.len(), 1);
    model.join(worker(0), 1, WorkerKind::Remote);
    assert!(model.attempts().is_empty(), "it releases what it held");
}

#[test]
fn query_without_worker_fails_after_timeout() {
    let mut model = cluster(&[]);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    model.now = Duration::from_secs(6);
    model.submit(graph(2, vec![stage(0, &[], 1)]));
    model.tick();
    assert_eq!(model.now, Duration::from_secs(10));
    let failure = failure(&model, FIRST);
    assert_eq!(failure.kind, FailureKind::WorkerLost);
    assert!(failure.message.contains("--embedded-workers"), "{failure}");
    model.join(worker(0), 1, WorkerKind::Remote);
    assert_eq!(launched_count(&model, SECOND), 1, "the second has waited for less");
    model.drain(worker(0));
    model.submit(graph(3, vec![stage(0, &[], 1)]));
    model.tick();
    model.tick();
    assert_eq!(model.ended.len(), 2, "a draining worker does not count");
    model.run_to_completion();
    assert!(model.ended[&SECOND].is_ok());
}

#[test]
fn local_stage_runs_on_local_worker() {
    let mut model = cluster(&[4]);
    let mut pinned = stage(0, &[], 1);
    pinned.placement = Placement::Local;
    model.submit(graph(1, vec![pinned]));
    assert_eq!(launched_count(&model, FIRST), 0);
    model.join(worker(9), 1, WorkerKind::Local);
    assert_eq!(launched_count(&model, FIRST), 1);
    model.submit(graph(2, vec![stage(0, &[], 1)]));
    model.run_to_completion();
}

#[test]
fn root_waits_for_room_until_timeout() {
    let mut model = cluster(&[3]);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    model.submit(graph(2, vec![stage(0, &[], 3)]));
    assert_eq!(
        launched_count(&model, SECOND),
        0,
        "two slots are free, three are wanted"
    );
    model.tick();
    assert_eq!(model.now, Limits::default().room_timeout);
    assert_eq!(launched_count(&model, SECOND), 3);
    model.run_to_completion();
}

#[test]
fn refused_task_retries_until_limit() {
    let mut model = cluster(&[2]);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    step(&mut model, FIRST, Behaviour::Refuse);
    assert_eq!(launched_count(&model, FIRST), 0, "it pauses");
    model.tick();
    let again = model.attempts()[0].1;
    assert_eq!(again.attempt, AttemptNumber(1));
    step(&mut model, FIRST, Behaviour::Refuse);
    model.tick();
    step(&mut model, FIRST, Behaviour::Refuse);
    assert_eq!(failure(&model, FIRST).kind, FailureKind::Exhausted);
    assert!(failure(&model, FIRST).message.contains("full"));
}

/// A writer stops when its reader is gone; why that has gone is heard later.
#[test]
fn failure_that_is_not_the_cause_does_not_end_the_query() {
    let mut model = cluster(&[4]);
    model.submit(graph(1, vec![stage(0, &[], 2)]));
    let behaviours = [Behaviour::Stop, Behaviour::Fail];
    for (behaviour, (worker, attempt)) in behaviours.into_iter().zip(model.attempts()) {
        assert!(model.ended.is_empty());
        model.progress(worker, attempt, behaviour);
        model.deliver(worker);
    }
    assert_eq!(failure(&model, FIRST).kind, FailureKind::Invalid);
}

#[test]
fn open_results_and_queries_are_limited() {
    let mut model = Model::new(Limits {
        max_open_results: 1,
        admission: AdmissionLimits {
            max_running: 1,
            max_queued: 1,
            ..AdmissionLimits::default()
        },
        ..Limits::default()
    });
    model.join(worker(0), 1, WorkerKind::Remote);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    step(&mut model, FIRST, Behaviour::Proceed);
    step(&mut model, FIRST, Behaviour::Proceed);
    model.submit(graph(2, vec![stage(0, &[], 1)]));
    let refused = failure(&model, SECOND);
    assert_eq!(refused.kind, FailureKind::Busy);
    assert!(refused.message.contains("results are open"), "{refused}");
    model.run_to_completion();
    for query in 3..6 {
        model.submit(graph(query, vec![stage(0, &[], 1)]));
    }
    assert!(
        failure(&model, QueryId::from_u128(5))
            .message
            .contains("1 queries wait already")
    );
}

#[test]
fn read_result_ends_without_last_report() {
    let mut model = cluster(&[1]);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    step(&mut model, FIRST, Behaviour::Proceed);
    step(&mut model, FIRST, Behaviour::Proceed);
    model.send(Event::ResultDone { query: FIRST });
    assert!(model.ended.is_empty());
    model.tick();
    assert!(model.ended[&FIRST].is_ok());
    assert!(model.attempts().is_empty());
}

#[test]
fn leftovers_of_unknown_query_are_released() {
    let mut model = cluster(&[1]);
    let attempt = AttemptKey {
        query: FIRST,
        stage: StageId(0),
        task: TaskId(0),
        attempt: AttemptNumber(0),
    };
    let report = |status| Event::Report {
        worker: worker(0),
        attempt,
        status,
    };
    let effects = model.scheduler.apply(model.now, report(AttemptStatus::Running));
    assert!(
        matches!(effects[..], [Effect::CancelAttempt { .. }, Effect::Release { .. }]),
        "{effects:?}"
    );
    let effects = model
        .scheduler
        .apply(model.now, report(AttemptStatus::Finished(some_output())));
    assert!(matches!(effects[..], [Effect::Release { .. }]), "{effects:?}");
    assert!(
        model
            .scheduler
            .apply(model.now, report(AttemptStatus::Cancelled))
            .is_empty()
    );
}

#[test]
fn invalid_graph_is_refused() {
    let backwards = graph(1, vec![stage(0, &[1], 1), stage(1, &[0], 1)]);
    let empty = graph(2, vec![stage(0, &[], 0)]);
    let two_roots = graph(3, vec![stage(0, &[], 1), stage(1, &[], 1)]);
    let mut reused = graph(4, vec![stage(0, &[], 2)]);
    reused.stages[0].plan = squadron_proto::control::PlanRef::InProcess(std::sync::Arc::new(()));
    let mut model = cluster(&[1]);
    for graph in [backwards, empty, two_roots, reused] {
        let query = graph.query;
        model.submit(graph);
        assert_eq!(failure(&model, query).kind, FailureKind::Internal);
    }
}

#[test]
fn returning_worker_gets_stage_again() {
    let mut model = cluster(&[1]);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    step(&mut model, FIRST, Behaviour::Refuse);
    model.lose(worker(0));
    assert!(model.ended.is_empty(), "the query does not depend on it");
    model.join(worker(0), 1, WorkerKind::Remote);
    model.tick();
    assert_eq!(
        launched_count(&model, FIRST),
        1,
        "after the stage, as the fake worker checks"
    );
    model.run_to_completion();
    assert!(model.ended[&FIRST].is_ok());
}

#[test]
fn stale_attempt_is_cancelled() {
    let mut model = cluster(&[1]);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    let (worker, first) = model.attempts()[0];
    step(&mut model, FIRST, Behaviour::Refuse);
    model.tick();
    let late = Event::Report {
        worker,
        attempt: first,
        status: AttemptStatus::Running,
    };
    let effects = model.scheduler.apply(model.now, late);
    assert!(
        matches!(effects[..], [Effect::CancelAttempt { attempt, .. }] if attempt == first),
        "{effects:?}"
    );
}

#[test]
fn retained_result_parts_appear_while_running() {
    let mut model = cluster(&[1, 1]);
    let mut retained = graph(1, vec![stage(0, &[], 2), stage(1, &[0], 3)]);
    retained.stages[1].streamed = false;
    assert!(retained.retains_result());
    assert_eq!(retained.result_shape(), (3, 3));
    model.submit(retained);
    let mut before = model.scheduler.progress(FIRST).unwrap();
    assert_eq!((before.fraction, before.parts.len()), (0.0, 0));
    let mut most_parts_unfinished = 0;
    while !before.is_ready {
        step(&mut model, FIRST, Behaviour::Proceed);
        let after = model.scheduler.progress(FIRST).unwrap();
        assert!(after.fraction >= before.fraction && after.fraction <= 1.0);
        for part in &before.parts {
            assert!(after.parts.contains(part), "a part stays where it is");
        }
        if after.rows.is_none() {
            most_parts_unfinished = most_parts_unfinished.max(after.parts.len());
        }
        before = after;
    }
    assert!(most_parts_unfinished > 0, "parts are known early");
    assert_eq!((before.fraction, before.parts.len()), (1.0, 3));
    assert!(before.rows.is_some());
}

#[test]
fn ended_query_leaves_no_time_limit() {
    let mut model = cluster(&[1]);
    let mut graph = graph(1, vec![stage(0, &[], 1)]);
    graph.options.time_limit = Some(TimeLimit {
        left: Duration::from_secs(3600),
        failure: Failure::new(FailureKind::Deadline, "it took too long"),
    });
    model.submit(graph);
    assert!(model.scheduler.next_deadline().is_some());
    model.run_to_completion();
    assert!(model.ended[&FIRST].is_ok());
    let next = model.scheduler.next_deadline();
    assert!(next.is_none_or(|at| at < Duration::from_secs(60)), "{next:?}");
}
