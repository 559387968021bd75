//! Workers of which nothing is heard for a while.

use std::time::Duration;

use squadron_proto::{Failure, FailureKind, QueryId, WorkerId, WorkerKind};

use crate::testing::{graph, stage, worker};
use crate::tests::model::Model;
use crate::*;

const QUERY: QueryId = QueryId::from_u128(1);
const GRACE: Duration = Duration::from_secs(10);

/// Workers 0, 1, ... with one slot each.
fn cluster(workers: u128) -> Model {
    cluster_with(workers, Limits::default().max_task_failures)
}

/// A running attempt that such a cluster loses ends its query.
fn cluster_without_retries(workers: u128) -> Model {
    cluster_with(workers, 1)
}

fn cluster_with(workers: u128, max_task_failures: u32) -> Model {
    let limits = Limits {
        worker_grace: GRACE,
        max_task_failures,
        ..Limits::default()
    };
    Model::with_workers(workers, limits)
}

fn launched_on(model: &Model, number: u128) -> usize {
    let attempts = model.attempts();
    attempts.iter().filter(|(at, _)| *at == worker(number)).count()
}

fn load(model: &Model, id: WorkerId) -> WorkerLoad {
    let loads = model.scheduler.workers();
    loads.into_iter().find(|load| load.id == id).unwrap()
}

fn failure(model: &Model) -> Failure {
    model.ended[&QUERY].clone().unwrap_err()
}

#[test]
fn suspected_worker_keeps_its_attempts_and_gets_no_others() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 4), stage(1, &[0], 1)]));
    model.suspect(worker(0));
    assert!(load(&model, worker(0)).suspected);
    model.now += GRACE / 2;
    for _ in 0..9 {
        model.step();
    }
    assert_eq!(launched_on(&model, 0), 1, "what it had when it fell silent");
    assert!(model.ended.is_empty());
    model.return_worker(worker(0), false);
    assert!(!load(&model, worker(0)).suspected);
    model.run_to_success(QUERY);
}

#[test]
fn worker_that_does_not_return_is_lost() {
    let mut model = cluster_without_retries(2);
    model.submit(graph(1, vec![stage(0, &[], 2)]));
    for _ in 0..2 {
        model.step();
    }
    model.suspect(worker(0));
    model.now += GRACE - Duration::from_millis(1);
    model.send(Event::Tick);
    assert!(model.ended.is_empty(), "not before its grace is over");
    model.now += Duration::from_millis(1);
    model.send(Event::Tick);
    let failure = failure(&model);
    assert_eq!(failure.kind, FailureKind::WorkerLost);
    assert!(
        failure.message.contains("it was silent and did not return within 10s"),
        "{failure}"
    );
    assert!(!model.workers.contains_key(&worker(0)));
}

/// The grace of a worker that falls silent again begins anew.
#[test]
fn each_silence_has_its_own_grace() {
    let mut model = cluster(1);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    model.suspect(worker(0));
    model.now += GRACE * 3 / 4;
    model.return_worker(worker(0), false);
    model.suspect(worker(0));
    model.now += GRACE * 3 / 4;
    model.send(Event::Tick);
    assert!(model.ended.is_empty());
    model.return_worker(worker(0), false);
    model.run_to_success(QUERY);
}

#[test]
fn without_grace_worker_is_lost_at_once() {
    let mut model = Model::new(Limits {
        worker_grace: Duration::ZERO,
        max_task_failures: 1,
        ..Limits::default()
    });
    model.join(worker(0), 1, WorkerKind::Remote);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    for _ in 0..2 {
        model.step();
    }
    model.suspect(worker(0));
    assert!(failure(&model).message.contains("(it was silent)"));
}

/// The worker is cut off after `told` steps: the message that follows is lost.
fn message_is_lost_after(told: usize) {
    let mut model = cluster(1);
    model.submit(graph(1, vec![stage(0, &[], 1), stage(1, &[0], 1)]));
    for _ in 0..told {
        model.progress_all();
    }
    // Its last report was on its way already, and what the scheduler says to that is not.
    let reports = model.outboxes();
    model.cut(worker(0));
    for worker in reports {
        model.deliver(worker);
    }
    model.suspect(worker(0));
    model.return_worker(worker(0), false);
    model.run_to_success(QUERY);
}

#[test]
fn lost_messages_are_told_again() {
    for told in 0..3 {
        message_is_lost_after(told);
    }
}

#[test]
fn lost_launch_is_placed_anew() {
    let mut model = cluster(1);
    model.cut(worker(0));
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    assert_eq!(launched_on(&model, 0), 0, "it did not arrive");
    model.suspect(worker(0));
    model.return_worker(worker(0), false);
    model.run_to_success(QUERY);
}

#[test]
fn worker_that_has_dropped_everything_is_as_good_as_lost() {
    let mut model = cluster(1);
    model.submit(graph(1, vec![stage(0, &[], 1), stage(1, &[0], 1)]));
    for _ in 0..4 {
        model.step();
    }
    model.suspect(worker(0));
    model.return_worker(worker(0), true);
    let past = &model.scheduler.queries()[0].stages[0].tasks[0].attempts[0];
    assert!(past.reason.as_ref().unwrap().contains("has dropped"), "{past:?}");
    model.run_to_success(QUERY);
    assert_eq!(model.recoveries, 1);
}

/// Its client left while nothing reached the worker.
#[test]
fn query_that_ended_meanwhile_is_stopped_at_return() {
    let mut model = cluster(1);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    model.step();
    model.suspect(worker(0));
    let failure = Failure::new(FailureKind::Cancelled, "the client hung up");
    model.send(Event::Cancel { query: QUERY, failure });
    assert_eq!(model.scheduler.stopping().len(), 1, "it runs on");
    model.return_worker(worker(0), false);
    assert_eq!(model.scheduler.stopping(), []);
    assert_eq!(model.attempts(), []);
}

#[test]
fn output_that_was_read_meanwhile_is_released_at_return() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 2), stage(1, &[0], 2), stage(2, &[1], 1)]));
    for _ in 0..5 {
        model.step();
    }
    // Both finish the second stage, but only one of them hears that this releases the first.
    model.progress_all();
    model.cut(worker(0));
    model.deliver(worker(0));
    model.suspect(worker(0));
    model.deliver(worker(1));
    model.return_worker(worker(0), false);
    model.run_to_success(QUERY);
}

/// While all workers are silent, a query waits for them as long as they may return.
#[test]
fn queries_wait_for_workers_that_may_return() {
    let mut model = Model::new(Limits {
        worker_grace: Duration::from_secs(60),
        ..Limits::default()
    });
    model.join(worker(0), 1, WorkerKind::Remote);
    model.suspect(worker(0));
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    model.now += Duration::from_secs(50);
    model.send(Event::Tick);
    assert!(model.ended.is_empty());
    model.return_worker(worker(0), false);
    model.run_to_success(QUERY);
}

#[test]
fn leaving_worker_that_returns_still_leaves() {
    let mut model = cluster(1);
    model.drain(worker(0));
    model.suspect(worker(0));
    model.return_worker(worker(0), false);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    assert_eq!(launched_on(&model, 0), 0);
    assert!(load(&model, worker(0)).draining);
}
