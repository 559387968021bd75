//! Queries that start again because something was lost.

use std::sync::Arc;
use std::time::Duration;

use squadron_proto::control::{AttemptStatus, PlanRef};
use squadron_proto::{Failure, FailureKind, QueryId, WorkerKind};

use crate::testing::{graph, stage, worker};
use crate::tests::model::{Behaviour, Model};
use crate::*;

const QUERY: QueryId = QueryId::from_u128(1);
const OTHER: QueryId = QueryId::from_u128(2);

/// Workers 0, 1, ... with one slot each.
fn cluster(workers: u128) -> Model {
    Model::with_workers(workers, Limits::default())
}

fn fail_with(model: &mut Model, kind: FailureKind) {
    let (worker, attempt) = model.attempts()[0];
    let status = AttemptStatus::Failed(Failure::new(kind, "no luck"));
    model.send(Event::Report {
        worker,
        attempt,
        status,
    });
}

fn two_stages(query: u128) -> StageGraph {
    graph(query, vec![stage(0, &[], 2), stage(1, &[0], 1)])
}

#[test]
fn query_outlives_a_lost_worker() {
    let mut model = cluster(3);
    model.submit(two_stages(1));
    model.submit(graph(2, vec![stage(0, &[], 1)]));
    for _ in 0..3 {
        model.step();
    }
    model.lose(worker(0));
    assert!(model.ended.is_empty());
    model.run_to_completion();
    assert!(model.ended[&QUERY].is_ok() && model.ended[&OTHER].is_ok());
    assert_eq!(model.restarts, 1, "the other one needs nothing of that worker");
}

#[test]
fn lost_output_starts_the_query_again_and_its_own_fault_does_not() {
    for kind in [FailureKind::ShuffleLost, FailureKind::WorkerLost] {
        let mut model = cluster(1);
        model.submit(two_stages(1));
        fail_with(&mut model, kind);
        assert_eq!((model.restarts, model.ended.len()), (1, 0), "{kind:?}");
        model.run_to_success(QUERY);
    }
    for kind in [FailureKind::Invalid, FailureKind::Exhausted, FailureKind::Internal] {
        let mut model = cluster(1);
        model.submit(two_stages(1));
        fail_with(&mut model, kind);
        assert_eq!(model.ended[&QUERY].clone().unwrap_err().kind, kind);
    }
}

#[test]
fn after_four_tries_the_query_ends_with_what_was_lost() {
    let mut model = cluster(1);
    model.submit(two_stages(1));
    let mut pauses = Vec::new();
    for _ in 0..3 {
        fail_with(&mut model, FailureKind::ShuffleLost);
        assert_eq!(model.attempts(), [], "it pauses");
        let before = model.now;
        while model.attempts().is_empty() {
            model.tick();
        }
        pauses.push(model.now - before);
    }
    assert_eq!(pauses, [100, 200, 400].map(Duration::from_millis));
    fail_with(&mut model, FailureKind::ShuffleLost);
    assert_eq!(model.ended[&QUERY].clone().unwrap_err().message, "no luck");
}

#[test]
fn streamed_result_is_announced_again() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 2)]));
    for _ in 0..2 {
        model.step();
    }
    assert!(model.ready.contains(&QUERY));
    model.lose(worker(0));
    assert!(!model.ready.contains(&QUERY));
    model.run_to_success(QUERY);
}

/// Its rows are with the client; only the last report is missing.
#[test]
fn loss_after_the_last_row_is_no_failure() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 2)]));
    for _ in 0..2 {
        model.step();
    }
    model.send(Event::ResultDone { query: QUERY });
    model.lose(worker(0));
    assert!(model.ended[&QUERY].is_ok());
    assert_eq!(model.restarts, 0);
}

/// The reader had all rows when the scheduler, which had not heard so, started the query again.
#[test]
fn restart_ends_when_the_former_result_was_read() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 2)]));
    for _ in 0..2 {
        model.step();
    }
    model.lose(worker(0));
    model.send(Event::ResultDone { query: QUERY });
    assert!(model.ended[&QUERY].is_ok());
    model.run_to_completion();
}

#[test]
fn retained_result_that_may_be_read_is_not_written_again() {
    for (steps, restarts) in [(1, 1), (2, 0)] {
        let mut model = cluster(2);
        let mut retained = graph(1, vec![stage(0, &[], 2)]);
        retained.stages[0].streamed = false;
        model.submit(retained);
        for _ in 0..steps {
            model.step();
        }
        model.lose(worker(0));
        assert_eq!(model.restarts, restarts, "after {steps} steps");
    }
}

#[test]
fn plan_that_is_good_for_one_attempt_is_not_run_again() {
    let mut model = cluster(1);
    model.join(worker(9), 1, WorkerKind::Local);
    let mut graph = graph(1, vec![stage(0, &[], 1), stage(1, &[0], 1)]);
    graph.stages[0].plan = PlanRef::InProcess(Arc::new(()));
    graph.stages[0].placement = Placement::Local;
    model.submit(graph);
    for _ in 0..4 {
        model.step();
    }
    model.lose(worker(0));
    assert!(model.ended[&QUERY].is_err());
}

#[test]
fn query_can_be_cancelled_while_it_pauses() {
    let mut model = cluster(1);
    model.submit(two_stages(1));
    fail_with(&mut model, FailureKind::ShuffleLost);
    let failure = Failure::new(FailureKind::Cancelled, "the client hung up");
    model.send(Event::Cancel {
        query: QUERY,
        failure: failure.clone(),
    });
    assert_eq!(model.ended[&QUERY].as_ref(), Err(&failure));
    model.run_to_completion();
}

/// A worker that was away when its query started again has old output of it.
#[test]
fn absent_worker_drops_what_a_restart_made_void() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 2), stage(1, &[0], 2), stage(2, &[1], 1)]));
    for _ in 0..3 {
        model.step();
    }
    model.suspect(worker(0));
    model.lose(worker(1));
    assert_eq!(model.restarts, 1);
    model.return_worker(worker(0), false);
    assert_eq!(model.attempts(), [], "of before");
    model.join(worker(1), 1, WorkerKind::Remote);
    model.run_to_success(QUERY);
}

#[test]
fn what_an_attempt_of_before_reports_changes_nothing() {
    let mut model = cluster(1);
    model.submit(two_stages(1));
    model.progress(worker(0), model.attempts()[0].1, Behaviour::Proceed);
    fail_with(&mut model, FailureKind::ShuffleLost);
    // The reservation, then the end of the attempt that was told to stop.
    while !model.outboxes().is_empty() {
        model.deliver(worker(0));
    }
    assert_eq!(model.attempts(), []);
    assert_eq!(model.scheduler.stopping(), []);
    model.run_to_success(QUERY);
}
