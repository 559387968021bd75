//! Where tasks do not go after failures.

use std::collections::BTreeSet;
use std::time::Duration;

use squadron_proto::{FailureKind, QueryId, WorkerId};

use super::recovery::{QUERY, cluster, fail, fail_with, launches, no_luck, step_until_runs};
use crate::testing::{graph, stage, worker};
use crate::tests::model::Model;
use crate::*;

/// The attempt on `reader` fails, since it cannot reach output that `holder` has.
fn fail_to_reach(model: &mut Model, holder: WorkerId, reader: WorkerId) {
    let reader = model.attempts().into_iter().find(|(at, _)| *at == reader).unwrap();
    let mut inputs = model.inputs_of(reader.1).into_iter();
    let lost = inputs.find(|input| model.has_output(holder, *input)).unwrap();
    fail(model, reader, no_luck(FailureKind::WorkerLost).of_outputs(vec![lost]));
}

/// A worker whose disk fails, say.
#[test]
fn failed_task_is_tried_on_another_worker() {
    let mut model = cluster(3);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    let mut tried = BTreeSet::new();
    for _ in 0..3 {
        tried.insert(model.attempts()[0].0);
        fail_with(&mut model, no_luck(FailureKind::Storage));
        model.tick();
    }
    assert_eq!(tried.len(), 3, "each once: {tried:?}");
}

#[test]
fn full_disk_is_tried_once_on_each_worker() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    fail_with(&mut model, no_luck(FailureKind::DiskFull));
    model.tick();
    assert_eq!(model.attempts().len(), 1, "the other worker may have room");
    fail_with(&mut model, no_luck(FailureKind::DiskFull));
    assert_eq!(model.ended[&QUERY].clone().unwrap_err().kind, FailureKind::DiskFull);
}

/// A task does not go back to the worker where it failed, and the other is busy: the free worker serves other queries.
#[test]
fn task_that_waits_for_another_worker_lets_others_pass() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 1)]));
    let first = model.attempts()[0];
    model.submit(graph(2, vec![stage(0, &[], 1)]));
    fail(&mut model, first, no_luck(FailureKind::Storage));
    for _ in 0..3 {
        model.tick();
    }
    assert_eq!(model.attempts().len(), 1, "it waits");
    model.submit(graph(3, vec![stage(0, &[], 1)]));
    model.tick();
    let on_failed = model.attempts().into_iter().find(|(at, _)| *at == first.0);
    assert_eq!(on_failed.map(|(_, of)| of.query), Some(QueryId::from_u128(3)));
    model.run_to_success(QUERY);
}

#[test]
fn worker_on_which_several_queries_fail_is_avoided() {
    let mut model = cluster(2);
    for query in 1..4 {
        model.submit(graph(query, vec![stage(0, &[], 1)]));
        let first = model.attempts().into_iter().find(|(at, _)| *at == worker(0));
        if let Some(first) = first {
            fail(&mut model, first, no_luck(FailureKind::Storage));
        }
        model.run_to_completion();
    }
    assert_eq!(model.avoided, BTreeSet::from([worker(0)]));
    let load = &model.scheduler.workers()[0];
    assert!(load.avoided && load.failures == 3, "{load:?}");
}

/// Nothing is wrong with either of two workers but that they do not reach each other.
#[test]
fn cut_between_two_workers_costs_the_readers_alone() {
    let mut model = cluster(3);
    model.submit(graph(1, vec![stage(0, &[], 3), stage(1, &[0], 3), stage(2, &[1], 1)]));
    step_until_runs(&mut model, 1);
    fail_to_reach(&mut model, worker(1), worker(0));
    model.run_to_success(QUERY);
    assert_eq!(launches(&model, QUERY), [3, 4, 1]);
    assert_eq!(model.avoided, BTreeSet::new());
}

#[test]
fn output_that_two_workers_cannot_reach_is_computed_again_elsewhere() {
    let mut model = cluster(3);
    model.submit(graph(1, vec![stage(0, &[], 3), stage(1, &[0], 3), stage(2, &[1], 1)]));
    step_until_runs(&mut model, 1);
    for reader in [worker(0), worker(2)] {
        fail_to_reach(&mut model, worker(1), reader);
    }
    assert_eq!(model.avoided, BTreeSet::from([worker(1)]));
    model.run_to_success(QUERY);
    assert_eq!(launches(&model, QUERY)[0], 4);
    assert!(!model.holders_of(QUERY, 1).contains(&worker(1)));
}

/// Each worker is avoided, for older failures: that says nothing about which of them to take.
#[test]
fn query_has_nothing_more_on_a_worker_that_cannot_be_reached() {
    let mut model = cluster(2);
    for query in 2..5 {
        model.submit(graph(query, vec![stage(0, &[], 2)]));
        for of in model.attempts() {
            fail(&mut model, of, no_luck(FailureKind::Storage));
        }
        model.run_to_completion();
    }
    assert_eq!(model.avoided, BTreeSet::from([worker(0), worker(1)]));
    model.submit(graph(1, vec![stage(0, &[], 2), stage(1, &[0], 1)]));
    step_until_runs(&mut model, 1);
    let (unreachable, root) = model.attempts()[0];
    for _ in 0..3 {
        model.step();
    }
    let failure = no_luck(FailureKind::WorkerLost).of_outputs(vec![root]);
    model.send(Event::ResultUnreadable { query: QUERY, failure });
    for _ in 0..10 {
        assert!(
            model.attempts().iter().all(|(at, _)| *at != unreachable),
            "{:?}",
            model.attempts()
        );
        model.step();
    }
    model.run_to_success(QUERY);
    assert_eq!(launches(&model, QUERY), [3, 2]);
}

/// Each is cut off from the other, and there is no third.
#[test]
fn two_workers_that_are_cut_off_from_each_other_still_finish() {
    let mut model = cluster(2);
    model.submit(graph(1, vec![stage(0, &[], 2), stage(1, &[0], 1)]));
    for _ in 0..20 {
        let cut = model.attempts().into_iter().find(|(_, attempt)| attempt.stage.0 == 1);
        if let Some((reader, attempt)) = cut {
            let mut inputs = model.inputs_of(attempt).into_iter();
            if let Some(lost) = inputs.find(|input| !model.has_output(reader, *input)) {
                fail(
                    &mut model,
                    (reader, attempt),
                    no_luck(FailureKind::WorkerLost).of_outputs(vec![lost]),
                );
            }
        }
        model.step();
        model.now += Duration::from_millis(200);
        model.send(Event::Tick);
    }
    model.run_to_success(QUERY);
}

/// What was made on a worker that the others cannot reach moves with all that it was made of.
#[test]
fn nothing_of_a_query_stays_on_a_worker_that_two_others_cannot_reach() {
    let mut model = cluster(3);
    let stages = vec![
        stage(0, &[], 3),
        stage(1, &[0], 3),
        stage(2, &[1], 3),
        stage(3, &[2], 1),
    ];
    model.submit(graph(1, stages));
    step_until_runs(&mut model, 2);
    for reader in [worker(0), worker(2)] {
        fail_to_reach(&mut model, worker(1), reader);
    }
    for stage in 1..3 {
        assert!(!model.holders_of(QUERY, stage).contains(&worker(1)), "stage {stage}");
    }
    assert!(!model.attempts().iter().any(|(at, _)| *at == worker(1)));
    model.run_to_success(QUERY);
    assert!(model.ended[&QUERY].as_ref().unwrap().stages.iter().all(|stage| {
        let mut tasks = stage.tasks.iter();
        tasks.all(|task| stage.stage.0 == 0 || task.worker != worker(1))
    }));
}
