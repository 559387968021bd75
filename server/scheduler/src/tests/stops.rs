//! Each way to stop a query, in each state it can be in: it ends at once and once, nothing of it is left anywhere, and
//! whoever comes after finds every slot free.

use squadron_proto::Failure;
use squadron_proto::FailureKind;
use squadron_proto::QueryId;
use squadron_proto::WorkerKind;
use std::time::Duration;

use crate::testing::{graph, stage, worker};
use crate::tests::model::{Model, Mood};
use crate::*;

const STOPPED: QueryId = QueryId::from_u128(1);
const OTHER: QueryId = QueryId::from_u128(2);
/// Later than a first pause after a refusal, earlier than whatever else ends a wait.
const TIME_LIMIT: Duration = Duration::from_millis(40);

/// A state to be stopped in.
struct Situation {
    name: &'static str,
    /// The slots of each worker.
    workers: &'static [u32],
    max_running: usize,
    /// Submits the graph, or one of another form, and brings it there.
    reach: fn(&mut Model, StageGraph),
    /// What it looks like from outside: its phase, and the slots it holds.
    is: (QueryPhase, u64),
}

impl Situation {
    const fn new(
        name: &'static str,
        workers: &'static [u32],
        reach: fn(&mut Model, StageGraph),
        is: (QueryPhase, u64),
    ) -> Self {
        Self {
            name,
            workers,
            max_running: 10,
            reach,
            is,
        }
    }

    /// A model with a query in this state.
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
        assert_eq!((query.phase, query.held_slots), self.is, "{}", self.name);
        model
    }
}

/// The same query with its last stage alone.
fn root_only(mut graph: StageGraph) -> StageGraph {
    graph.stages.remove(0);
    graph.stages[0].inputs.clear();
    graph
}

fn submit_other(model: &mut Model) {
    model.submit(graph(2, vec![stage(0, &[], 1)]));
}

/// All attempts of the query do one thing more, and the scheduler hears of it.
fn step(model: &mut Model, mood: Mood) {
    for (worker, attempt) in model.attempts() {
        if attempt.query == STOPPED && model.progress(worker, attempt, mood) {
            model.deliver(worker);
        }
    }
}

/// Until the query has done so many steps in good mood.
fn submit_and_step(model: &mut Model, graph: StageGraph, steps: usize) {
    model.submit(graph);
    for _ in 0..steps {
        step(model, Mood::Good);
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
            step(model, Mood::Refuse);
        },
        (QueryPhase::Running, 0),
    ),
    Situation::new(
        "it was refused and launched again",
        &[2],
        |model, graph| {
            model.submit(graph);
            step(model, Mood::Refuse);
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
            step(model, Mood::Park);
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
        "it has failed and the cause is not known",
        &[1, 1],
        |model, graph| {
            submit_and_step(model, graph, 2);
            let (worker, attempt) = model.attempts()[0];
            model.progress(worker, attempt, Mood::Stop);
            model.deliver(worker);
        },
        (QueryPhase::Failing, 2),
    ),
];

/// The query has just been stopped: nothing is left, and nothing that still comes changes that.
fn check_stopped(mut model: Model, situation: &Situation, failure: &Failure) {
    let name = situation.name;
    assert_eq!(model.ended[&STOPPED].as_ref(), Err(failure), "{name}");
    let is_its = |attempt: &squadron_proto::AttemptKey| attempt.query == STOPPED;
    assert!(!model.attempts().iter().any(|(_, attempt)| is_its(attempt)), "{name}");
    let answers = model.scheduler.apply(
        model.now,
        Event::Cancel {
            query: STOPPED,
            failure: failure.clone(),
        },
    );
    assert!(answers.is_empty(), "{name}: stopped twice: {answers:?}");
    if situation.workers.is_empty() {
        model.join(worker(0), 1, WorkerKind::Remote);
    }
    model.settle();
    if let Some(other) = model.ended.get(&OTHER) {
        assert!(other.is_ok(), "{name}: {other:?}");
    }
    assert!(model.scheduler.is_empty(), "{name}");
    let slots: u32 = model.scheduler.workers().iter().map(|load| load.slots).sum();
    model.submit(graph(3, vec![stage(0, &[], slots), stage(1, &[0], 1)]));
    let held: u32 = model.scheduler.workers().iter().map(|load| load.used_slots).sum();
    assert_eq!(held, slots, "{name}: who comes after finds every slot");
    model.settle();
    assert!(model.ended[&QueryId::from_u128(3)].is_ok());
}

#[test]
fn a_cancel_stops_a_query_in_any_state() {
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
fn a_time_limit_stops_a_query_in_any_state() {
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
fn reports_that_were_on_their_way_when_a_query_was_stopped_change_nothing() {
    let failure = Failure::new(FailureKind::Cancelled, "the client hung up");
    for situation in &SITUATIONS {
        for mood in [Mood::Good, Mood::Park, Mood::Fail, Mood::Stop] {
            let mut model = situation.model(&failure);
            for (worker, attempt) in model.attempts() {
                if attempt.query == STOPPED {
                    model.progress(worker, attempt, mood);
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
