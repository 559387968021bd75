//! Second attempts at slow tasks.

use std::time::Duration;

use squadron_proto::{AttemptKey, Failure, FailureKind, WorkerId, WorkerKind};

use super::recovery::{QUERY, cluster, fail, launches, no_luck, step_until_runs};
use crate::testing::{graph, stage, worker};
use crate::tests::model::{Behaviour, Model};
use crate::*;

/// A query whose first stage has these tasks, by the bytes that they read, and whose second is the last.
fn query(number: u128, bytes: &[u64]) -> StageGraph {
    let tasks = u32::try_from(bytes.len()).unwrap();
    let mut scan = stage(0, &[], tasks);
    for (task, bytes) in scan.tasks.iter_mut().zip(bytes) {
        task.bytes = *bytes;
    }
    let mut graph = graph(number, vec![scan, stage(1, &[0], 1)]);
    graph.options.speculation = true;
    graph
}

type Located = (WorkerId, AttemptKey);

/// Lets all attempts run, and after 10 ms all finish but those at these tasks. Returns those.
fn finish_all_but(model: &mut Model, slow: &[u32]) -> Vec<Located> {
    for _ in 0..2 {
        model.progress_all();
        deliver_all(model);
    }
    model.now += Duration::from_millis(10);
    let attempts = model.attempts();
    let (slow, others): (Vec<_>, Vec<_>) = attempts.into_iter().partition(|(_, of)| slow.contains(&of.task.0));
    for of in others {
        finish(model, of);
    }
    slow
}

fn deliver_all(model: &mut Model) {
    for worker in model.outboxes() {
        while model.outboxes().contains(&worker) {
            model.deliver(worker);
        }
    }
}

/// Time passes, and with it all checks that are due.
fn wait(model: &mut Model, time: Duration) {
    let end = model.now + time;
    while model.scheduler.next_deadline().is_some_and(|at| at <= end) {
        model.tick();
    }
    model.now = end;
}

/// Three tasks on three workers, of which the last runs alone for a second: it has two attempts.
fn doubled() -> (Model, Located, Located) {
    let mut model = cluster(3);
    model.submit(query(1, &[0, 0, 0]));
    let slow = finish_all_but(&mut model, &[2]);
    wait(&mut model, Duration::from_secs(1));
    let attempts = model.attempts();
    assert_eq!((slow.len(), attempts.len(), model.second_attempts), (1, 2, 1));
    let second = attempts.into_iter().find(|of| *of != slow[0]).unwrap();
    assert_eq!(second.1.task, slow[0].1.task);
    (model, slow[0], second)
}

/// Lets one attempt finish.
fn finish(model: &mut Model, (worker, attempt): Located) {
    while model.attempts().contains(&(worker, attempt)) {
        model.progress(worker, attempt, Behaviour::Proceed);
        deliver_all(model);
    }
}

#[test]
fn second_attempt_that_finishes_first_counts() {
    let (mut model, slow, second) = doubled();
    finish(&mut model, second);
    assert!(!model.attempts().contains(&slow), "the other is stopped");
    step_until_runs(&mut model, 1);
    let (_, last) = model.attempts()[0];
    assert!(model.inputs_of(last).contains(&second.1) && !model.inputs_of(last).contains(&slow.1));
    let stages = &model.scheduler.queries()[0].stages;
    let reasons: Vec<_> = stages[0].tasks[2]
        .attempts
        .iter()
        .map(|of| of.reason.as_deref())
        .collect();
    assert_eq!(reasons, [Some("attempt 1 finished first"), None]);
    model.run_to_success(QUERY);
    assert_eq!(model.ended[&QUERY].as_ref().unwrap().stages[0].second_attempts, 1);
    assert_eq!((launches(&model, QUERY), model.recoveries), (vec![4, 1], 0));
}

#[test]
fn attempt_that_was_only_slow_stops_the_second() {
    let (mut model, slow, second) = doubled();
    finish(&mut model, slow);
    assert!(!model.attempts().contains(&second));
    model.run_to_success(QUERY);
    assert_eq!(launches(&model, QUERY), [4, 1]);
}

/// Whatever it fails for; also if it was the slow one.
#[test]
fn failure_of_one_attempt_leaves_the_other() {
    for kind in [
        FailureKind::Exhausted,
        FailureKind::Internal,
        FailureKind::Storage,
        FailureKind::DiskFull,
    ] {
        for fails_slow in [true, false] {
            let (mut model, slow, second) = doubled();
            let (failed, left) = if fails_slow { (slow, second) } else { (second, slow) };
            fail(&mut model, failed, no_luck(kind));
            assert_eq!(model.attempts(), [left]);
            model.run_to_success(QUERY);
            assert_eq!((launches(&model, QUERY), model.recoveries), (vec![4, 1], 0), "{kind:?}");
        }
    }
}

#[test]
fn failure_of_both_attempts_ends_the_query() {
    for fails_slow in [true, false] {
        let (mut model, slow, second) = doubled();
        let (first, last) = if fails_slow { (slow, second) } else { (second, slow) };
        let failure = || Failure::new(FailureKind::Invalid, "division by zero");
        fail(&mut model, first, failure());
        assert!(!model.ended.contains_key(&QUERY));
        wait(&mut model, Duration::from_secs(5));
        assert_eq!(model.attempts(), [last], "there is no third");
        fail(&mut model, last, failure());
        assert_eq!(model.ended[&QUERY].clone().unwrap_err(), failure());
        model.run_to_completion();
    }
}

#[test]
fn second_attempt_goes_on_when_the_slow_worker_is_lost() {
    let (mut model, slow, second) = doubled();
    model.lose(slow.0);
    assert_eq!(
        model.attempts().iter().filter(|of| of.1.task == second.1.task).count(),
        1
    );
    assert!(model.attempts().contains(&second));
    model.run_to_success(QUERY);
    assert_eq!(
        model.ended[&QUERY].as_ref().unwrap().stages[0].tasks[2].attempt,
        second.1.attempt
    );
}

/// Though it does not take longer than others so far.
#[test]
fn task_of_a_worker_that_is_silent_gets_a_second_attempt() {
    let mut model = cluster(3);
    model.submit(query(1, &[0, 0, 0]));
    model.now += Duration::from_secs(3);
    let [(paused, _)] = finish_all_but(&mut model, &[2])[..] else {
        panic!("one is left");
    };
    model.suspect(paused);
    wait(&mut model, Duration::from_millis(300));
    assert_eq!(model.second_attempts, 1);
    let (at, second) = model.attempts().into_iter().find(|(at, _)| *at != paused).unwrap();
    finish(&mut model, (at, second));
    model.return_worker(paused, false);
    assert!(
        model.attempts().iter().all(|(at, _)| *at != paused),
        "it is told to stop when it returns"
    );
    model.run_to_success(QUERY);
}

/// A task that needs two slots waits for them while one is free.
#[test]
fn no_task_waits_for_the_slots_of_second_attempts() {
    let mut model = Model::new(Limits::default());
    for number in 0..3 {
        model.join(worker(number), 2, WorkerKind::Remote);
    }
    model.submit(query(1, &[0, 0, 0]));
    finish_all_but(&mut model, &[2]);
    wait(&mut model, Duration::from_millis(480));
    let mut other = query(2, &[3, 2, 1]);
    for (task, slots) in other.stages[0].tasks.iter_mut().zip([2, 1, 2]) {
        task.slots = slots;
    }
    model.submit(other);
    assert_eq!(model.attempts().len(), 3, "the last waits");
    wait(&mut model, Duration::from_millis(20));
    assert_eq!(model.second_attempts, 0);
    wait(&mut model, Duration::from_millis(500));
    assert_eq!(
        (model.second_attempts, model.attempts().len()),
        (1, 5),
        "it shares slots by now"
    );
    model.run_to_completion();
}

#[test]
fn second_attempts_keep_to_the_share_of_their_group() {
    let mut model = cluster(3);
    let mut group = GroupSpec::new("one");
    group.cpu_share_percent = Some(34);
    group.selector = Some(Selector {
        tags: vec!["one".into()],
        ..Selector::default()
    });
    model.send(Event::Regroup(Groups::new(vec![group]).unwrap()));
    let mut one_slot = query(1, &[3, 2, 1]);
    one_slot.options.tag = Some("one".into());
    model.submit(one_slot);
    for _ in 0..2 {
        let [first] = model.attempts()[..] else {
            panic!("one at a time");
        };
        finish(&mut model, first);
    }
    wait(&mut model, Duration::from_secs(5));
    assert_eq!((model.second_attempts, model.attempts().len()), (0, 1));
    model.run_to_success(QUERY);
}

/// Errors of the statement say nothing about workers, also if they come twice.
#[test]
fn failed_second_attempt_is_no_recovery_and_blames_nobody() {
    let (mut model, slow, second) = doubled();
    fail(&mut model, second, no_luck(FailureKind::Invalid));
    assert_eq!(model.recoveries, 0);
    assert!(model.scheduler.workers().iter().all(|load| load.failures == 0));
    finish(&mut model, slow);
    model.run_to_success(QUERY);
}

#[test]
fn quarter_of_the_tasks_have_second_attempts_at_a_time() {
    let mut model = cluster(8);
    model.submit(query(1, &[0; 8]));
    assert_eq!(finish_all_but(&mut model, &[4, 5, 6, 7]).len(), 4);
    wait(&mut model, Duration::from_secs(5));
    assert_eq!((model.second_attempts, model.attempts().len()), (2, 6));
    model.run_to_success(QUERY);
}

#[test]
fn tasks_that_are_as_slow_as_others_have_one_attempt() {
    let mut model = cluster(3);
    model.submit(query(1, &[0, 0, 0]));
    finish_all_but(&mut model, &[1, 2]);
    wait(&mut model, Duration::from_secs(2));
    assert_eq!(model.second_attempts, 0, "less than half are finished");
    model.run_to_success(QUERY);

    let mut model = cluster(3);
    model.submit(query(1, &[0, 0, 0]));
    let slow = finish_all_but(&mut model, &[0, 1, 2]);
    model.now += Duration::from_secs(3);
    for of in [slow[0], slow[1]] {
        finish(&mut model, of);
    }
    wait(&mut model, Duration::from_millis(2_900));
    assert_eq!(
        model.second_attempts, 0,
        "it has run for less than twice as long as they did"
    );
    wait(&mut model, Duration::from_millis(600));
    assert_eq!(model.second_attempts, 1);
    model.run_to_success(QUERY);
}

#[test]
fn task_with_more_to_read_may_take_longer() {
    let mut model = cluster(3);
    let megabytes = 1 << 20;
    model.submit(query(1, &[99 * megabytes, 99 * megabytes, 399 * megabytes]));
    let slow = finish_all_but(&mut model, &[0, 1, 2]);
    model.now += Duration::from_secs(1);
    for of in [0, 1] {
        let of = *slow.iter().find(|(_, key)| key.task.0 == of).unwrap();
        finish(&mut model, of);
    }
    wait(&mut model, Duration::from_millis(6_900));
    assert_eq!(model.second_attempts, 0, "it has four times as much to read");
    wait(&mut model, Duration::from_millis(600));
    assert_eq!(model.second_attempts, 1);
    model.run_to_success(QUERY);
}

#[test]
fn last_stage_and_sessions_without_speculation_are_left_out() {
    let mut without = query(1, &[0, 0, 0]);
    without.options.speculation = false;
    let mut last = graph(1, vec![stage(0, &[], 3)]);
    last.options.speculation = true;
    last.stages[0].streamed = false;
    for graph in [without, last] {
        let mut model = cluster(3);
        model.submit(graph);
        finish_all_but(&mut model, &[2]);
        wait(&mut model, Duration::from_secs(5));
        assert_eq!((model.second_attempts, model.attempts().len()), (0, 1));
        model.run_to_success(QUERY);
    }
}
