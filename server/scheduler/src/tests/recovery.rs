//! What is lost is computed again, and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use squadron_proto::control::{AttemptStatus, PlanRef};
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, WorkerId, WorkerKind};

use crate::testing::{graph, stage, worker};
use crate::tests::model::{Behaviour, Model};
use crate::*;

pub(super) const QUERY: QueryId = QueryId::from_u128(1);
const OTHER: QueryId = QueryId::from_u128(2);

/// Workers 0, 1, ... with one slot each.
pub(super) fn cluster(workers: u128) -> Model {
    Model::with_workers(workers, Limits::default())
}

/// Fails the first attempt that is there.
pub(super) fn fail_with(model: &mut Model, failure: Failure) {
    let (worker, attempt) = model.attempts()[0];
    fail(model, (worker, attempt), failure);
}

pub(super) fn fail(model: &mut Model, (worker, attempt): (WorkerId, AttemptKey), failure: Failure) {
    model.remove(worker, attempt);
    model.receive(worker, attempt, AttemptStatus::Failed(failure));
}

pub(super) fn no_luck(kind: FailureKind) -> Failure {
    Failure::new(kind, "no luck")
}

fn two_stages(query: u128) -> StageGraph {
    graph(query, vec![stage(0, &[], 2), stage(1, &[0], 1)])
}

/// Three stages of two tasks, and a root of one.
fn four_stages() -> StageGraph {
    graph(
        1,
        vec![
            stage(0, &[], 2),
            stage(1, &[0], 2),
            stage(2, &[1], 2),
            stage(3, &[2], 1),
        ],
    )
}

/// Steps until some attempt of this stage runs.
pub(super) fn step_until_runs(model: &mut Model, stage: u32) {
    for _ in 0..100 {
        if model.attempts().iter().any(|(_, attempt)| attempt.stage.0 == stage) {
            return;
        }
        model.step();
    }
    panic!("no attempt of stage {stage} runs: {:?}", model.scheduler.queries());
}

/// How many attempts each stage has had.
pub(super) fn launches(model: &Model, query: QueryId) -> Vec<usize> {
    let stages = 0..model.graphs[&query].stages.len();
    let of_stage = |stage| model.launches_of(query, stage);
    stages.map(of_stage).collect()
}

/// The workers need the room that output takes which nobody needs.
fn drop_spare_output(model: &mut Model) {
    for number in 0..2 {
        for _ in 0..4 {
            model.drop_spare(worker(number));
        }
        while !model.outboxes().is_empty() {
            model.outboxes().into_iter().for_each(|worker| model.deliver(worker));
        }
    }
}

#[test]
fn lost_output_is_computed_again_with_all_that_it_was_made_of() {
    // Of each stage before one output is lost, and the other is still there unless it had to give way; stage 2 ran on
    // both workers, and the other one goes on.
    for (gives_way, expected) in [(false, [3, 3, 3, 1]), (true, [4, 3, 3, 1])] {
        let mut model = cluster(2);
        model.submit(four_stages());
        step_until_runs(&mut model, 2);
        if gives_way {
            drop_spare_output(&mut model);
        }
        model.lose(worker(0));
        model.run_to_success(QUERY);
        assert_eq!(launches(&model, QUERY), expected, "spare output gives way: {gives_way}");
        assert_eq!(model.recoveries, 1);
    }
}

/// A launch may name it before the worker has said so.
#[test]
fn spare_output_that_gives_way_when_it_is_needed_again_is_computed_again() {
    let mut model = cluster(2);
    model.submit(four_stages());
    step_until_runs(&mut model, 2);
    model.lose(worker(0));
    model.drop_spare(worker(1));
    model.run_to_success(QUERY);
    assert_eq!(launches(&model, QUERY)[0], 4);
}

#[test]
fn what_nobody_needs_is_not_computed_again() {
    let mut model = cluster(3);
    model.submit(two_stages(1));
    model.submit(graph(2, vec![stage(0, &[], 1)]));
    for _ in 0..3 {
        model.step();
    }
    model.lose(worker(2));
    model.run_to_completion();
    assert!(model.ended[&QUERY].is_ok() && model.ended[&OTHER].is_ok());
    assert_eq!(launches(&model, QUERY), [2, 1], "the other one had something there");
    assert_eq!(launches(&model, OTHER), [2]);
}

/// Rows that do not exist cannot be lost.
#[test]
fn output_without_rows_outlives_its_worker() {
    let mut model = cluster(2);
    model.has_rows = false;
    model.submit(two_stages(1));
    step_until_runs(&mut model, 1);
    let reader = model.attempts()[0].0;
    let other = [worker(0), worker(1)].into_iter().find(|id| *id != reader).unwrap();
    model.lose(other);
    assert_eq!(model.recoveries, 0);
    model.run_to_success(QUERY);
}

#[test]
fn failure_that_names_an_output_costs_that_output_alone() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 2), stage(1, &[0], 2), stage(2, &[1], 1)]));
    step_until_runs(&mut model, 1);
    let lost = model.inputs_of(model.attempts()[0].1)[0];
    fail_with(&mut model, no_luck(FailureKind::ShuffleLost).of_outputs(vec![lost]));
    model.run_to_success(QUERY);
    assert_eq!(launches(&model, QUERY), [3, 3, 1], "the other reader may have read it");
}

#[test]
fn retryable_failures_are_tried_again_and_the_others_are_not() {
    let kinds = [
        FailureKind::ShuffleLost,
        FailureKind::WorkerLost,
        FailureKind::Draining,
        FailureKind::Storage,
        FailureKind::Cancelled,
    ];
    for kind in kinds {
        let mut model = cluster(1);
        model.submit(two_stages(1));
        fail_with(&mut model, no_luck(kind));
        assert!(model.ended.is_empty(), "{kind:?}");
        model.run_to_success(QUERY);
        assert_eq!(launches(&model, QUERY), [3, 1], "{kind:?}");
    }
    for kind in [FailureKind::Invalid, FailureKind::Exhausted, FailureKind::Internal] {
        let mut model = cluster(1);
        model.submit(two_stages(1));
        fail_with(&mut model, no_luck(kind));
        assert_eq!(model.ended[&QUERY].clone().unwrap_err().kind, kind);
    }
}

#[test]
fn fourth_failure_of_a_task_ends_the_query_with_the_first_cause() {
    let mut model = cluster(1);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    let mut pauses = Vec::new();
    for kind in [FailureKind::Storage, FailureKind::ShuffleLost, FailureKind::Draining] {
        fail_with(&mut model, no_luck(kind));
        assert_eq!(model.attempts(), [], "it pauses");
        let before = model.now;
        while model.attempts().is_empty() {
            model.tick();
        }
        pauses.push(model.now - before);
    }
    assert_eq!(pauses, [100, 200, 400].map(Duration::from_millis));
    fail_with(&mut model, no_luck(FailureKind::Draining));
    assert_eq!(model.ended[&QUERY], Err(no_luck(FailureKind::Storage)));
}

/// A reader fails only if it had not read everything, and that is no failure of its task.
#[test]
fn readers_of_lost_output_fail_as_often_as_it_takes() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 2), stage(1, &[0], 1)]));
    for number in 0..8 {
        step_until_runs(&mut model, 1);
        let (reader, attempt) = model.attempts()[0];
        let inputs = model.inputs_of(attempt);
        let other = inputs.iter().find(|input| !model.has_output(reader, **input)).copied();
        let other = other.expect("the inputs are on both workers");
        let holder = [worker(0), worker(1), worker(100 + number)].into_iter();
        let holder = model
            .holders_of(QUERY, 0)
            .into_iter()
            .chain(holder)
            .find(|id| *id != reader)
            .unwrap();
        model.lose(holder);
        model.join(worker(101 + number), 1, WorkerKind::Remote);
        fail(
            &mut model,
            (reader, attempt),
            no_luck(FailureKind::WorkerLost).of_outputs(vec![other]),
        );
    }
    model.run_to_success(QUERY);
}

/// Output that is lost again and again is no failure of the tasks that made it.
#[test]
fn query_outlives_any_number_of_lost_workers() {
    let mut model = cluster(2);
    model.submit(two_stages(1));
    for number in 0..10 {
        step_until_runs(&mut model, 1);
        let (reader, _) = model.attempts()[0];
        model.lose(reader);
        model.join(worker(100 + number), 1, WorkerKind::Remote);
    }
    model.run_to_success(QUERY);
    assert_eq!(model.recoveries, 10);
}

/// The rows of an indeterminate stage: `random()`, or a LIMIT without an order.
#[test]
fn rows_that_cannot_be_given_again_take_everything_made_of_them_along() {
    for (is_determinate, expected) in [(true, [2, 3, 3, 1]), (false, [2, 3, 4, 1])] {
        let mut graph = graph(
            1,
            vec![
                stage(0, &[], 2),
                stage(1, &[], 2),
                stage(2, &[0, 1], 2),
                stage(3, &[2], 1),
            ],
        );
        graph.stages[1].is_determinate = is_determinate;
        let mut model = cluster(4);
        model.submit(graph);
        step_until_runs(&mut model, 2);
        // One of the readers finishes, the other finds that an input is gone.
        let readers = model.attempts();
        while model.progress(readers[0].0, readers[0].1, Behaviour::Proceed) {
            model.deliver(readers[0].0);
        }
        let inputs = model.inputs_of(readers[1].1);
        let lost = inputs.into_iter().find(|key| key.stage.0 == 1).unwrap();
        fail(
            &mut model,
            readers[1],
            no_luck(FailureKind::ShuffleLost).of_outputs(vec![lost]),
        );
        model.run_to_success(QUERY);
        assert_eq!(launches(&model, QUERY), expected, "determinate: {is_determinate}");
    }
}

/// The middle stage had lost its output already when its input was lost too.
#[test]
fn what_was_made_of_lost_rows_is_void_however_far_away() {
    let mut graph = four_stages();
    graph.stages[0].is_determinate = false;
    let mut model = cluster(2);
    model.submit(graph);
    step_until_runs(&mut model, 2);
    let readers = model.attempts();
    while model.progress(readers[0].0, readers[0].1, Behaviour::Proceed) {
        model.deliver(readers[0].0);
    }
    drop_spare_output(&mut model);
    // The last stage has an output. All that it was made of is lost, and so is needed again what that was made of.
    let lost = model.inputs_of(readers[1].1);
    fail(
        &mut model,
        readers[1],
        no_luck(FailureKind::ShuffleLost).of_outputs(lost),
    );
    model.run_to_success(QUERY);
    assert_eq!(model.launches_of(QUERY, 2), 4, "the one that had finished, too");
}

/// They were released when they had been read, and are needed again because of something else.
#[test]
fn released_rows_that_cannot_be_given_again_are_as_good_as_lost() {
    let mut graph = four_stages();
    graph.stages[0].is_determinate = false;
    let mut model = cluster(2);
    model.submit(graph);
    step_until_runs(&mut model, 2);
    model.lose(worker(0));
    model.run_to_success(QUERY);
    assert_eq!(launches(&model, QUERY), [3, 4, 4, 1]);
}

#[test]
fn part_of_a_streamed_result_is_written_again() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 2)]));
    for _ in 0..2 {
        model.step();
    }
    assert!(model.ready.contains(&QUERY));
    model.lose(worker(0));
    assert!(!model.ready.contains(&QUERY));
    model.run_to_success(QUERY);
    assert_eq!(launches(&model, QUERY), [3], "the other part is still good");
}

/// It may have read all it needs of the output that is lost.
#[test]
fn part_that_goes_out_is_not_stopped_for_a_lost_input() {
    let mut model = cluster(3);
    model.submit(two_stages(1));
    for _ in 0..5 {
        model.step();
    }
    assert!(model.ready.contains(&QUERY));
    let (reader, _) = model.attempts()[0];
    let input = model.holders_of(QUERY, 0).into_iter().find(|holder| *holder != reader);
    model.lose(input.unwrap());
    assert!(model.ready.contains(&QUERY));
    model.run_to_success(QUERY);
    assert_eq!(launches(&model, QUERY)[1], 1);
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
    assert_eq!(model.recoveries, 0);
}

/// The reader had all rows when the scheduler, which had not heard so, computed some again.
#[test]
fn recovery_ends_when_the_former_result_was_read() {
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

/// Before it runs, while it runs, and when it is complete.
#[test]
fn retained_result_is_written_again_unless_other_rows_may_have_been_read() {
    for (steps, is_determinate, survives) in [
        (1, true, true),
        (2, true, true),
        (4, true, true),
        (1, false, true),
        (2, false, false),
        (4, false, false),
    ] {
        let mut model = cluster(2);
        let mut retained = graph(1, vec![stage(0, &[], 2)]);
        retained.stages[0].streamed = false;
        retained.stages[0].is_determinate = is_determinate;
        model.submit(retained);
        for _ in 0..steps {
            model.step();
        }
        model.lose(worker(0));
        assert_eq!(
            model.ended.is_empty(),
            survives,
            "after {steps} steps, determinate: {is_determinate}"
        );
        if survives {
            model.run_to_success(QUERY);
        }
    }
}

/// Its output is kept, so it need not run again.
#[test]
fn plan_that_is_good_for_one_attempt_is_run_once() {
    let mut model = cluster(1);
    model.join(worker(9), 1, WorkerKind::Local);
    let mut graph = four_stages();
    graph.stages[0].tasks.truncate(1);
    graph.stages[0].plan = PlanRef::InProcess(Arc::new(()));
    graph.stages[0].placement = Placement::Local;
    model.submit(graph);
    step_until_runs(&mut model, 2);
    model.lose(worker(0));
    model.join(worker(0), 1, WorkerKind::Remote);
    model.run_to_success(QUERY);
    assert_eq!(launches(&model, QUERY)[0], 1);
}

#[test]
fn plan_that_is_good_for_one_attempt_is_not_run_again() {
    let mut model = cluster(1);
    model.join(worker(9), 1, WorkerKind::Local);
    let mut graph = two_stages(1);
    graph.stages[0].tasks.truncate(1);
    graph.stages[0].plan = PlanRef::InProcess(Arc::new(()));
    graph.stages[0].placement = Placement::Local;
    model.submit(graph);
    fail_with(&mut model, no_luck(FailureKind::Storage));
    assert_eq!(model.ended[&QUERY], Err(no_luck(FailureKind::Storage)));
}

#[test]
fn query_can_be_cancelled_while_it_pauses() {
    let mut model = cluster(1);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    fail_with(&mut model, no_luck(FailureKind::ShuffleLost));
    let failure = Failure::new(FailureKind::Cancelled, "the client hung up");
    model.send(Event::Cancel {
        query: QUERY,
        failure: failure.clone(),
    });
    assert_eq!(model.ended[&QUERY].as_ref(), Err(&failure));
    model.run_to_completion();
}

/// A worker that was away when its query computed something again has old output of it.
#[test]
fn absent_worker_drops_what_a_recovery_made_void() {
    let mut model = cluster(2);
    let mut graph = graph(1, vec![stage(0, &[], 2), stage(1, &[0], 2), stage(2, &[1], 1)]);
    graph.stages[0].is_determinate = false;
    model.submit(graph);
    step_until_runs(&mut model, 1);
    model.suspect(worker(0));
    model.lose(worker(1));
    assert_eq!(model.recoveries, 1);
    model.return_worker(worker(0), false);
    let left: BTreeSet<_> = model.attempts().into_iter().map(|(_, attempt)| attempt).collect();
    assert!(left.is_disjoint(&model.stale), "{left:?}");
    model.join(worker(1), 1, WorkerKind::Remote);
    model.run_to_success(QUERY);
}

#[test]
fn what_a_former_attempt_reports_changes_nothing() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 2), stage(1, &[0], 2), stage(2, &[1], 1)]));
    step_until_runs(&mut model, 1);
    let readers = model.attempts();
    model.progress(readers[1].0, readers[1].1, Behaviour::Proceed);
    let lost = model.inputs_of(readers[0].1)[0];
    fail(
        &mut model,
        readers[0],
        no_luck(FailureKind::ShuffleLost).of_outputs(vec![lost]),
    );
    // The reservation, then the end of the attempt that was told to stop.
    while !model.outboxes().is_empty() {
        for worker in model.outboxes() {
            model.deliver(worker);
        }
    }
    assert_eq!(model.scheduler.stopping(), []);
    model.run_to_success(QUERY);
}

/// `system.tasks` shows them.
#[test]
fn attempts_that_came_to_nothing_are_remembered_with_the_reason() {
    let mut model = cluster(1);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    model.now += Duration::from_millis(5);
    fail_with(&mut model, no_luck(FailureKind::Storage));
    let query = &model.scheduler.queries()[0];
    assert_eq!(query.recoveries, 1);
    let task = &query.stages[0].tasks[0];
    let [past] = task.attempts.as_slice() else {
        panic!("{task:?}");
    };
    assert_eq!((past.attempt.0, past.worker), (0, worker(0)));
    assert_eq!(past.reason.as_deref(), Some("no luck"));
    assert_eq!(past.ended, Some(model.now));
}
