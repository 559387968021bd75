//! Random histories: workers join, leave, come back, refuse, fail and repeat reports, clients cancel, time passes;
//! still every query ends once, no slot is lost or given twice, and the same events give the same effects.
//! [`crate::tests::model`] checks each step.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use squadron_proto::{AttemptKey, Failure, FailureKind, WorkerKind};

use crate::testing::{graph, stage, worker};
use crate::tests::model::{Behaviour, Model};
use crate::*;

#[derive(Clone, Debug)]
enum Step {
    Submit { shape: u64, options: QueryOptions },
    Cancel(usize),
    ResultDone(usize),
    Join { number: u128, slots: u32, kind: WorkerKind },
    Lose(usize),
    Drain(usize),
    Rejoin(usize),
    Cut(usize),
    Suspect(usize),
    Return { number: usize, forgets: bool },
    Progress(usize, Behaviour),
    Deliver(usize),
    Repeat(usize),
    DropSpare(usize),
    Wait { ms: u64 },
    Tick,
}

fn any_behaviour() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        12 => Just(Behaviour::Proceed),
        2 => Just(Behaviour::Refuse),
        3 => Just(Behaviour::Park),
        1 => Just(Behaviour::Fail),
        1 => Just(Behaviour::Stop),
        1 => Just(Behaviour::Starve),
    ]
}

fn any_worker_kind() -> impl Strategy<Value = WorkerKind> {
    prop_oneof![
        3 => Just(WorkerKind::Remote),
        1 => Just(WorkerKind::Embedded),
        1 => Just(WorkerKind::Local),
    ]
}

fn any_options() -> impl Strategy<Value = QueryOptions> {
    let time_limit = prop_oneof![
        3 => Just(None),
        1 => (0..2_000_u64).prop_map(|ms| Some(TimeLimit {
            left: Duration::from_millis(ms),
            failure: Failure::new(FailureKind::Deadline, "it took too long"),
        })),
    ];
    let tag = prop::sample::select(vec![None, Some("a"), Some("b"), Some("c")]);
    let session = prop::sample::select(vec!["s", "t"]);
    let memory = prop_oneof![2 => Just(0), 1 => 0..4_000_000_u64];
    let options = (time_limit, tag, session, -100..=100_i32, memory, any::<bool>());
    options.prop_map(
        |(time_limit, tag, session, priority, memory_bytes, speculation)| QueryOptions {
            speculation,
            tag: tag.map(Into::into),
            session: session.into(),
            priority,
            time_limit,
            memory_bytes,
            ..QueryOptions::default()
        },
    )
}

/// Groups a, b below a, and c, with random limits.
fn any_groups() -> impl Strategy<Value = Groups> {
    let limits = (
        1..5_u32,
        prop::option::of(1..4_usize),
        prop::option::of(0..4_usize),
        prop::option::of(0..3_000_000_u64),
        prop::option::of(1..=100_u32),
    );
    prop::collection::vec(limits, 3).prop_map(|limits| {
        let specs = ["a", "a.b", "c"].into_iter().zip(limits);
        let spec = |(name, (weight, max_running, max_queued, memory_bytes, percent)): (&str, _)| {
            let tag = name.rsplit('.').next().unwrap().to_owned();
            GroupSpec {
                weight,
                max_running,
                max_queued,
                memory_bytes,
                cpu_share_percent: percent,
                selector: Some(Selector {
                    tags: vec![tag],
                    ..Selector::default()
                }),
                ..GroupSpec::new(name)
            }
        };
        Groups::new(specs.map(spec).collect()).unwrap()
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<u64>(), any_options()).prop_map(|(shape, options)| Step::Submit { shape, options }),
        1 => any::<usize>().prop_map(Step::Cancel),
        3 => any::<usize>().prop_map(Step::ResultDone),
        3 => (0..6_u128, 1..5_u32, any_worker_kind())
            .prop_map(|(number, slots, kind)| Step::Join { number, slots, kind }),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => any::<usize>().prop_map(Step::Drain),
        1 => any::<usize>().prop_map(Step::Rejoin),
        1 => any::<usize>().prop_map(Step::Cut),
        1 => any::<usize>().prop_map(Step::Suspect),
        2 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(number, forgets)| Step::Return { number, forgets }),
        30 => (any::<usize>(), any_behaviour()).prop_map(|(number, behaviour)| Step::Progress(number, behaviour)),
        30 => any::<usize>().prop_map(Step::Deliver),
        5 => any::<usize>().prop_map(Step::Repeat),
        3 => any::<usize>().prop_map(Step::DropSpare),
        3 => (0..200_u64).prop_map(|ms| Step::Wait { ms }),
        3 => Just(Step::Tick),
    ]
}

/// Steps of attempts and of the workers that they are on.
fn any_step_of_attempts() -> impl Strategy<Value = Step> {
    let behaviour = prop_oneof![
        16 => Just(Behaviour::Proceed),
        1 => Just(Behaviour::Refuse),
        1 => Just(Behaviour::Stop),
        1 => Just(Behaviour::Starve),
    ];
    prop_oneof![
        40 => (any::<usize>(), behaviour).prop_map(|(number, behaviour)| Step::Progress(number, behaviour)),
        40 => any::<usize>().prop_map(Step::Deliver),
        3 => any::<usize>().prop_map(Step::ResultDone),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => any::<usize>().prop_map(Step::Rejoin),
        1 => any::<usize>().prop_map(Step::Suspect),
        2 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(number, forgets)| Step::Return { number, forgets }),
        2 => any::<usize>().prop_map(Step::Repeat),
    ]
}

/// A graph of one to five stages, each read by a later one or two.
fn random_graph(query: u128, shape: u64) -> StageGraph {
    let mut bits = shape;
    let mut draw = |below: u64| {
        bits = bits
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((bits >> 33) % below).unwrap()
    };
    let count = 1 + draw(5);
    let mut inputs = vec![Vec::new(); 5];
    for producer in 0..count - 1 {
        let later = u64::from(count - 1 - producer);
        for _ in 0..1 + draw(2) {
            let consumer = producer + 1 + draw(later);
            inputs[consumer as usize].push(producer);
        }
    }
    let mut stages = Vec::new();
    for id in 0..count {
        let inputs = &mut inputs[id as usize];
        inputs.dedup();
        let mut spec = stage(id, inputs, 1 + draw(4));
        for task in &mut spec.tasks {
            task.slots = draw(4);
            task.bytes = u64::from(draw(100));
        }
        if draw(6) == 0 {
            spec.placement = Placement::Local;
        }
        spec.is_determinate = draw(3) > 0;
        stages.push(spec);
    }
    let mut graph = graph(query, stages);
    if draw(4) == 0 {
        graph.stages.last_mut().unwrap().streamed = false;
    }
    graph
}

/// One of them, as `number` says.
fn pick<T: Copy>(items: impl IntoIterator<Item = T>, number: usize) -> Option<T> {
    let items: Vec<_> = items.into_iter().collect();
    (!items.is_empty()).then(|| items[number % items.len()])
}

fn apply_step(model: &mut Model, step: Step) {
    match step {
        Step::Submit { shape, options } => {
            let query = model.graphs.len() as u128;
            let mut graph = random_graph(query, shape);
            graph.options = options;
            model.submit(graph);
        }
        Step::Cancel(number) => {
            if let Some(query) = pick(model.graphs.keys().copied(), number) {
                let failure = Failure::new(FailureKind::Cancelled, "the client hung up");
                model.send(Event::Cancel { query, failure });
            }
        }
        Step::ResultDone(number) => {
            if let Some(query) = pick(model.ready.iter().copied(), number) {
                model.send(Event::ResultDone { query });
            }
        }
        Step::Join { number, slots, kind } => {
            if !model.workers.contains_key(&worker(number)) {
                model.join(worker(number), slots, kind);
            }
        }
        Step::Lose(number) => {
            if let Some(worker) = pick(model.workers.keys().copied(), number) {
                model.lose(worker);
            }
        }
        Step::Drain(number) => {
            if let Some(worker) = pick(model.workers.keys().copied(), number) {
                model.drain(worker);
            }
        }
        Step::Rejoin(number) => {
            if let Some(worker) = pick(model.lost.keys().copied(), number) {
                model.join(worker, 1, WorkerKind::Remote);
            }
        }
        Step::Cut(number) => {
            if let Some(worker) = pick(model.workers.keys().copied(), number) {
                model.cut(worker);
            }
        }
        Step::Suspect(number) => {
            // Usually the connection has been broken for a while.
            if let Some(worker) = pick(model.away(), number).or(pick(model.workers.keys().copied(), number)) {
                model.suspect(worker);
            }
        }
        Step::Return { number, forgets } => {
            if let Some(worker) = pick(model.away(), number) {
                // It connects again, perhaps before the old connection was missed.
                model.suspect(worker);
                model.return_worker(worker, forgets);
            }
        }
        Step::Progress(number, behaviour) => {
            if let Some((worker, attempt)) = pick(model.attempts(), number) {
                model.progress(worker, attempt, behaviour);
            }
        }
        Step::Deliver(number) => {
            if let Some(worker) = pick(model.outboxes(), number) {
                model.deliver(worker);
            }
        }
        Step::Repeat(number) => model.repeat(number),
        Step::DropSpare(number) => {
            if let Some(worker) = pick(model.workers.keys().copied(), number) {
                model.drop_spare(worker);
            }
        }
        Step::Wait { ms } => model.now += Duration::from_millis(ms),
        Step::Tick => model.tick(),
    }
}

fn limits(policy: Policy) -> Limits {
    Limits {
        max_open_results: 6,
        admission: AdmissionLimits {
            max_running: 8,
            max_queued: 6,
            max_per_session: 9,
        },
        policy,
        remembered_workers: 16,
        worker_grace: Duration::from_millis(300),
        straggler_age: Duration::from_millis(100),
        ..Limits::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_query_ends_and_leaves_nothing(
        policy in prop::sample::select(&Policy::ALL[..]),
        groups in any_groups(),
        others in prop::option::of((0..250_usize, any_groups())),
        steps in prop::collection::vec(any_step(), 1..250),
    ) {
        let mut model = Model::new(limits(policy));
        model.send(Event::Regroup(groups));
        model.join(worker(100), 2, WorkerKind::Remote);
        model.join(worker(101), 3, WorkerKind::Remote);
        model.join(worker(102), 1, WorkerKind::Local);
        for (number, step) in steps.into_iter().enumerate() {
            if let Some((at, groups)) = &others
                && *at == number
            {
                // Queries that run or wait stay, even if they are more than the new groups allow.
                model.may_exceed = true;
                model.send(Event::Regroup(groups.clone()));
            }
            apply_step(&mut model, step);
        }
        model.run_to_completion();
        prop_assert_eq!(model.ended.len(), model.graphs.len());
        for load in model.scheduler.workers() {
            prop_assert_eq!((load.used_slots, load.running), (0, 0));
        }
        prop_assert!(model.scheduler.is_empty());
        model.check_replay(limits(policy));
    }

    #[test]
    fn stopped_query_leaves_nothing_behind(
        shape in any::<u64>(),
        choices in prop::collection::vec((any::<usize>(), any_behaviour()), 0..60),
        by_time in any::<bool>(),
    ) {
        let kind = if by_time { FailureKind::Deadline } else { FailureKind::Cancelled };
        let failure = Failure::new(kind, "that is enough");
        // Shorter than the timeout after which a missing report ends the query.
        let left = Duration::from_secs(1);
        let mut model = Model::new(Limits::default());
        model.join(worker(100), 2, WorkerKind::Remote);
        model.join(worker(101), 3, WorkerKind::Remote);
        model.join(worker(102), 1, WorkerKind::Local);
        let mut graph = random_graph(0, shape);
        let query = graph.query;
        graph.options.time_limit = Some(TimeLimit { left, failure: failure.clone() });
        model.submit(graph);
        model.submit(random_graph(1, !shape));
        for (number, behaviour) in choices {
            advance(&mut model, number, behaviour, left / 2);
        }
        let had_ended = model.ended.contains_key(&query);
        if by_time {
            model.now = left;
            model.send(Event::Tick);
        } else {
            model.send(Event::Cancel { query, failure: failure.clone() });
        }
        if !had_ended {
            prop_assert_eq!(model.ended[&query].as_ref(), Err(&failure));
        }
        let is_there = |info: &QueryInfo| info.id == query;
        prop_assert!(!model.scheduler.queries().iter().any(is_there));
        model.run_to_completion();
        for load in model.scheduler.workers() {
            prop_assert_eq!((load.used_slots, load.running), (0, 0));
        }
        prop_assert!(model.scheduler.is_empty());
        model.check_replay(Limits::default());
    }
}

/// Takes one of the steps that are possible next, but no deadline from `end` on.
fn advance(model: &mut Model, number: usize, behaviour: Behaviour, end: Duration) {
    let attempts = model.attempts();
    let outboxes = model.outboxes();
    let deadline = model.scheduler.next_deadline().filter(|&at| at < end);
    let unread = pick(model.ready.iter().copied(), number);
    let at = number % (attempts.len() + 2 * outboxes.len() + 2);
    if let Some(&(worker, attempt)) = attempts.get(at) {
        model.progress(worker, attempt, behaviour);
    } else if let Some(&worker) = outboxes.get((at - attempts.len()) / 2) {
        model.deliver(worker);
    } else if let Some(query) = unread.filter(|_| behaviour != Behaviour::Proceed) {
        model.send(Event::ResultDone { query });
    } else if deadline.is_some() {
        model.tick();
    }
}

/// There are more slots than tasks, and the first attempt at the first task of each stage is slow: so that many tasks
/// have two attempts.
#[test]
fn any_of_two_attempts_may_win() {
    let config = ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let shapes = prop::collection::vec(any::<u64>(), 1..4);
    let steps = prop::collection::vec(any_step_of_attempts(), 100..300);
    let second_attempts = Cell::new(0);
    let ran = TestRunner::new(config).run(&(shapes, steps), |(shapes, steps)| {
        let model = run_with_slow_tasks(shapes, steps);
        second_attempts.set(second_attempts.get() + model.second_attempts);
        for load in model.scheduler.workers() {
            prop_assert_eq!((load.used_slots, load.running), (0, 0));
        }
        prop_assert!(model.scheduler.is_empty());
        model.check_replay(limits(Policy::Stride));
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
    assert!(
        second_attempts.get() > 50,
        "only {} second attempts",
        second_attempts.get()
    );
}

fn run_with_slow_tasks(shapes: Vec<u64>, steps: Vec<Step>) -> Model {
    let mut model = Model::new(limits(Policy::Stride));
    for number in 100..106 {
        model.join(worker(number), 4, WorkerKind::Remote);
    }
    model.join(worker(106), 1, WorkerKind::Local);
    for (number, shape) in (0..).zip(shapes) {
        let mut graph = random_graph(number, shape);
        graph.options.speculation = true;
        model.submit(graph);
    }
    for step in steps {
        let is_slow = |(_, of): (_, AttemptKey)| of.task.0 == 0 && of.attempt.0 == 0;
        let is_skipped = match step {
            Step::Progress(number, _) => number % 9 > 0 && pick(model.attempts(), number).is_some_and(is_slow),
            _ => false,
        };
        if !is_skipped {
            apply_step(&mut model, step);
        }
        model.now += Duration::from_millis(30);
        if model.scheduler.next_deadline().is_some_and(|at| at <= model.now) {
            model.send(Event::Tick);
        }
    }
    model.run_to_completion();
    model
}
