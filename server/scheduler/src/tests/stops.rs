//! Each way to stop a query, in each state of the query: it ends at once and exactly once, nothing of it is left
//! anywhere, and the next query finds every slot free.

use std::time::Duration;

use squadron_proto::{Failure, FailureKind, QueryId, WorkerKind};

use crate::testing::{graph, stage, worker};
use crate::tests::model::{Behaviour, Model};
use crate::*;

const STOPPED: QueryId = QueryId::from_u128(1);
const OTHER: QueryId = QueryId::from_u128(2);
/// Later than the first pause after a refusal, earlier than any other timeout.
const TIME_LIMIT: Duration = Duration::from_millis(40);

/// A state in which a query is stopped.
struct Situation {
    name: &'static str,
    /// The slots of each worker.
    workers: &'static [u32],
    max_running: usize,
    /// Submits the graph, or a reduced form of it, and brings the query into this state.
    reach: fn(&mut Model, StageGraph),
    /// The phase and the slots that the query must have in this state.
    expected: (QueryPhase, u64),
}

impl Situation {
    const fn new(
        name: &'static str,
        workers: &'static [u32],
        reach: fn(&mut Model, StageGraph),
        expected: (QueryPhase, u64),
    ) -> Self {
        Self {
            name,
            workers,
            max_running: 10,
            reach,
            expected,
        }
    }

    /// A model with a query in this state, which ends with `failure` at its time limit.
    fn model(&self, failure: &Failure) -> Model {
        let mut limits = Limits::default();
        limits.admission.max_running = self.max_running;
        let mut model = Model::new(limits);
        for (number, &slots) in (0..).zip(self.workers) {
            model.join(worker(number), slots, WorkerKind::Remote);
        }
        let mut graph = graph(1, vec![stage(0, &[], 2), stage(1, &[0], 2)]);
        graph.options.time_limit = Some(TimeLimit {
            left: TIME_LIMIT,
            failure: failure.clone(),
        });
        (self.reach)(&mut model, graph);
        let queries = model.scheduler.queries();
        let query = queries.iter().find(|query| query.id == STOPPED).unwrap();
        assert_eq!((query.phase, query.held_slots), self.expected, "{}", self.name);
        model
    }
}

/// The same query with only its last stage.
fn root_only(mut graph: StageGraph) -> StageGraph {
    graph.stages.remove(0);
    graph.stages[0].inputs.clear();
    graph
}

fn submit_other(model: &mut Model) {
    model.submit(graph(2, vec![stage(0, &[], 1)]));
}

/// Moves all attempts of the query on by one step, and delivers their reports.
fn step(model: &mut Model, behaviour: Behaviour) {
    for (worker, attempt) in model.attempts() {
        if attempt.query == STOPPED && model.progress(worker, attempt, behaviour) {
            model.deliver(worker);
        }
    }
}

/// Submits the query and lets it proceed by so many steps.
fn submit_and_step(model: &mut Model, graph: StageGraph, steps: usize) {
    model.submit(graph);
    for _ in 0..steps {
        step(model, Behaviour::Proceed);
    }
}

const SITUATIONS: [Situation; 15] = [
    Situation {
        max_running: 1,
        ..Situation::new(
            "it waits to be admitted",
            &[2],
            |model, graph| {
                submit_other(model);
                model.submit(graph);
            },
            (QueryPhase::Queued, 0),
        )
    },
    Situation::new(
        "there is no worker",
        &[],
        |model, graph| model.submit(graph),
        (QueryPhase::Running, 0),
    ),
    Situation::new(
        "no slot is free",
        &[1],
        |model, graph| {
            submit_other(model);
            model.submit(graph);
        },
        (QueryPhase::Running, 0),
    ),
    Situation::new(
        "there is no room for all that start together",
        &[2],
        |model, graph| {
            submit_other(model);
            model.submit(root_only(graph));
        },
        (QueryPhase::Running, 0),
    ),
    Situation::new(
        "it is launched",
        &[1, 1],
        |model, graph| submit_and_step(model, graph, 0),
        (QueryPhase::Running, 2),
    ),
    Situation::new(
        "it is committed",
        &[1, 1],
        |model, graph| submit_and_step(model, graph, 1),
        (QueryPhase::Running, 2),
    ),
    Situation::new(
        "its first stage runs",
        &[1, 1],
        |model, graph| submit_and_step(model, graph, 2),
        (QueryPhase::Running, 2),
    ),
    Situation::new(
        "one task is finished and another one waits for its slot",
        &[1],
        |model, graph| submit_and_step(model, graph, 3),
        (QueryPhase::Running, 1),
    ),
    Situation::new(
        "its first stage is finished and its output read",
        &[1, 1],
        |model, graph| submit_and_step(model, graph, 4),
        (QueryPhase::Running, 2),
    ),
    Situation::new(
        "it was refused and pauses",
        &[2],
        |model, graph| {
            model.submit(graph);
            step(model, Behaviour::Refuse);
        },
        (QueryPhase::Running, 0),
    ),
    Situation::new(
        "it was refused and launched again",
        &[2],
        |model, graph| {
            model.submit(graph);
            step(model, Behaviour::Refuse);
            model.tick();
        },
        (QueryPhase::Running, 2),
    ),
    Situation::new(
        "its result is being read",
        &[1, 1],
        |model, graph| submit_and_step(model, root_only(graph), 2),
        (QueryPhase::Running, 2),
    ),
    Situation::new(
        "it waits for its client",
        &[1, 1],
        |model, graph| {
            submit_and_step(model, root_only(graph), 2);
            step(model, Behaviour::Park);
        },
        (QueryPhase::Running, 0),
    ),
    Situation::new(
        "its result is read and the last report is missing",
        &[1, 1],
        |model, graph| {
            submit_and_step(model, root_only(graph), 2);
            model.send(Event::ResultDone { query: STOPPED });
        },
        (QueryPhase::Running, 2),
    ),
    Situation::new(
        "an attempt has failed and its task pauses",
        &[1, 1],
        |model, graph| {
            submit_and_step(model, graph, 2);
            let (worker, attempt) = model.attempts()[0];
            model.progress(worker, attempt, Behaviour::Stop);
            model.deliver(worker);
        },
        (QueryPhase::Running, 1),
    ),
];

/// Checks a query that has just been stopped: nothing of it is left, and later events do not change that.
fn check_stopped(mut model: Model, situation: &Situation, failure: &Failure) {
    let name = situation.name;
    assert_eq!(model.ended[&STOPPED].as_ref(), Err(failure), "{name}");
    let is_its = |attempt: &squadron_proto::AttemptKey| attempt.query == STOPPED;
    assert!(!model.attempts().iter().any(|(_, attempt)| is_its(attempt)), "{name}");
    let effects = model.scheduler.apply(
        model.now,
        Event::Cancel {
            query: STOPPED,
            failure: failure.clone(),
        },
    );
    assert!(effects.is_empty(), "{name}: stopped twice: {effects:?}");
    if situation.workers.is_empty() {
        model.join(worker(0), 1, WorkerKind::Remote);
    }
    model.run_to_completion();
    if let Some(other) = model.ended.get(&OTHER) {
        assert!(other.is_ok(), "{name}: {other:?}");
    }
    assert!(model.scheduler.is_empty(), "{name}");
    let slots: u32 = model.scheduler.workers().iter().map(|load| load.slots).sum();
    model.submit(graph(3, vec![stage(0, &[], slots), stage(1, &[0], 1)]));
    let held: u32 = model.scheduler.workers().iter().map(|load| load.used_slots).sum();
    assert_eq!(held, slots, "{name}: the next query finds every slot");
    model.run_to_completion();
    assert!(model.ended[&QueryId::from_u128(3)].is_ok());
}

#[test]
fn cancel_stops_query_in_any_state() {
    let failure = Failure::new(FailureKind::Cancelled, "the client hung up");
    for situation in &SITUATIONS {
        let mut model = situation.model(&failure);
        model.send(Event::Cancel {
            query: STOPPED,
            failure: failure.clone(),
        });
        check_stopped(model, situation, &failure);
    }
}

#[test]
fn time_limit_stops_query_in_any_state() {
    let failure = Failure::new(FailureKind::Deadline, "it took too long");
    for situation in &SITUATIONS {
        let mut model = situation.model(&failure);
        model.now = TIME_LIMIT - Duration::from_micros(1);
        model.send(Event::Tick);
        assert!(!model.ended.contains_key(&STOPPED), "{}", situation.name);
        model.now = TIME_LIMIT;
        model.send(Event::Tick);
        check_stopped(model, situation, &failure);
    }
}

#[test]
fn late_reports_after_stop_change_nothing() {
    let failure = Failure::new(FailureKind::Cancelled, "the client hung up");
    for situation in &SITUATIONS {
        for behaviour in [Behaviour::Proceed, Behaviour::Park, Behaviour::Fail, Behaviour::Stop] {
            let mut model = situation.model(&failure);
            for (worker, attempt) in model.attempts() {
                if attempt.query == STOPPED {
                    model.progress(worker, attempt, behaviour);
                }
            }
            model.send(Event::Cancel {
                query: STOPPED,
                failure: failure.clone(),
            });
            for worker in model.outboxes() {
                model.deliver(worker);
            }
            check_stopped(model, situation, &failure);
        }
    }
}
