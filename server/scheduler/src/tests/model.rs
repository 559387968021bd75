//! Fake workers around the real scheduler: they carry out effects, report in any order, and check that each effect is
//! allowed.

mod absence;
mod checks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Lane, Launch, OutputMode, Release, TaskOutput};
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, StageId, WorkerId, WorkerKind};

use crate::testing::{some_output, worker};
use crate::*;

/// What a fake worker knows of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AttemptState {
    Launched,
    Reserved,
    Committed,
    Running,
    Parked,
}

/// What a fake worker does when it moves an attempt on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Proceed,
    Refuse,
    Park,
    Fail,
    Stop,
    /// It cannot read an input any more.
    Starve,
}

#[derive(Debug)]
pub(crate) struct FakeWorker {
    kind: WorkerKind,
    slots: u32,
    draining: bool,
    /// Its connection is broken: nothing reaches it, and nothing is heard of it.
    away: bool,
    stages: BTreeSet<(QueryId, StageId)>,
    attempts: BTreeMap<AttemptKey, (Launch, AttemptState)>,
    outputs: BTreeSet<AttemptKey>,
    /// Those that nobody needs.
    spare: BTreeSet<AttemptKey>,
    /// Reports that have not arrived yet; they arrive in order.
    outbox: VecDeque<(AttemptKey, AttemptStatus)>,
}

/// The scheduler with its workers, and what it was told and did.
pub(crate) struct Model {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Duration,
    history: Vec<(Duration, Event)>,
    recorded_effects: Vec<String>,
    pub(crate) workers: BTreeMap<WorkerId, FakeWorker>,
    /// Lost workers, with what they still hold.
    pub(crate) lost: BTreeMap<WorkerId, FakeWorker>,
    pub(crate) graphs: BTreeMap<QueryId, StageGraph>,
    submitted: BTreeMap<QueryId, Duration>,
    pub(crate) ended: BTreeMap<QueryId, Result<QuerySummary, Failure>>,
    pub(crate) ready: BTreeSet<QueryId>,
    released_queries: BTreeSet<QueryId>,
    delivered: Vec<(WorkerId, AttemptKey, AttemptStatus)>,
    finished: BTreeSet<AttemptKey>,
    /// What each attempt was told to read.
    launched: BTreeMap<AttemptKey, Vec<AttemptKey>>,
    /// Attempts that came to nothing.
    pub(crate) stale: BTreeSet<AttemptKey>,
    /// The attempts whose rows the client of each query reads.
    results: BTreeMap<QueryId, Vec<AttemptKey>>,
    /// Spare output that gave way.
    dropped: BTreeSet<AttemptKey>,
    /// Workers that were said to be avoided.
    pub(crate) avoided: BTreeSet<WorkerId>,
    /// How often queries computed something again.
    pub(crate) recoveries: usize,
    /// How many tasks got a second attempt.
    pub(crate) second_attempts: usize,
    lanes: BTreeMap<AttemptKey, Lane>,
    /// Whether attempts write rows.
    pub(crate) has_rows: bool,
    /// Whether more queries may run or wait than the limits allow.
    pub(crate) may_exceed: bool,
    /// Whether the scheduler is being told that a worker is there again.
    is_returning: bool,
    /// The slots that the scheduler must count as taken.
    held: BTreeMap<(WorkerId, AttemptKey), (u32, Lane)>,
}

impl Model {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            scheduler: Scheduler::new(limits),
            now: Duration::ZERO,
            history: Vec::new(),
            recorded_effects: Vec::new(),
            workers: BTreeMap::new(),
            lost: BTreeMap::new(),
            graphs: BTreeMap::new(),
            submitted: BTreeMap::new(),
            ended: BTreeMap::new(),
            ready: BTreeSet::new(),
            released_queries: BTreeSet::new(),
            delivered: Vec::new(),
            finished: BTreeSet::new(),
            launched: BTreeMap::new(),
            stale: BTreeSet::new(),
            results: BTreeMap::new(),
            dropped: BTreeSet::new(),
            avoided: BTreeSet::new(),
            recoveries: 0,
            second_attempts: 0,
            lanes: BTreeMap::new(),
            has_rows: true,
            may_exceed: false,
            is_returning: false,
            held: BTreeMap::new(),
        }
    }

    /// With remote workers 0, 1, ... of one slot each.
    pub(crate) fn with_workers(workers: u128, limits: Limits) -> Self {
        let mut model = Self::new(limits);
        for number in 0..workers {
            model.join(worker(number), 1, WorkerKind::Remote);
        }
        model
    }

    /// Each attempt takes one step and says so, as far as it is heard.
    pub(crate) fn step(&mut self) {
        self.progress_all();
        for worker in self.outboxes() {
            self.deliver(worker);
        }
    }

    pub(crate) fn send(&mut self, event: Event) {
        self.history.push((self.now, event.clone()));
        let effects = self.scheduler.apply(self.now, event);
        self.recorded_effects.push(format!("{effects:?}"));
        for effect in effects {
            self.carry_out(effect);
        }
        let exceeded = self.scheduler.admission.exceeded_limit();
        assert!(self.may_exceed || exceeded.is_none(), "{exceeded:?}");
        let of_queries: u64 = self.scheduler.queries().iter().map(|query| query.held_slots).sum();
        let of_workers: u32 = self.held.values().map(|(slots, _)| slots).sum();
        assert_eq!(
            of_queries,
            u64::from(of_workers),
            "slots of queries after {:?}",
            self.history.last()
        );
        for load in self.scheduler.workers() {
            let held = |(_, (slots, _)): (_, &(u32, Lane))| *slots;
            let of_worker = self.held.iter().filter(|((worker, _), _)| *worker == load.id);
            let expected: u32 = of_worker.map(held).sum();
            assert_eq!(
                load.used_slots,
                expected,
                "slots of {} after {:?}",
                load.id,
                self.history.last()
            );
        }
    }

    pub(crate) fn submit(&mut self, graph: StageGraph) {
        self.graphs.insert(graph.query, graph.clone());
        self.submitted.insert(graph.query, self.now);
        self.send(Event::Submit(graph));
    }

    pub(crate) fn join(&mut self, worker: WorkerId, slots: u32, kind: WorkerKind) {
        let fresh = FakeWorker {
            kind,
            slots,
            draining: false,
            away: false,
            stages: BTreeSet::new(),
            attempts: BTreeMap::new(),
            outputs: BTreeSet::new(),
            spare: BTreeSet::new(),
            outbox: VecDeque::new(),
        };
        let mut entry = self.lost.remove(&worker).unwrap_or(fresh);
        (entry.draining, entry.away) = (false, false);
        let (slots, kind) = (entry.slots, entry.kind);
        self.workers.insert(worker, entry);
        let address = format!("http://{worker}");
        self.send(Event::WorkerJoined {
            worker,
            slots,
            address,
            memory_bytes: 1 << 20,
            kind,
        });
    }

    pub(crate) fn lose(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.remove(&worker) {
            self.forget_attempts(worker, entry);
            self.send(Event::WorkerLost {
                worker,
                reason: "test".into(),
            });
        }
    }

    /// Nothing that is on a lost worker counts any more.
    fn forget_attempts(&mut self, worker: WorkerId, entry: FakeWorker) {
        let of_worker = entry.attempts.keys().chain(&entry.outputs);
        let unheard = entry.outbox.iter().map(|(attempt, _)| attempt);
        let held = self.held.keys().filter(|(holder, _)| *holder == worker);
        let held = held.map(|(_, attempt)| attempt);
        self.stale.extend(of_worker.chain(unheard).chain(held).copied());
        self.held.retain(|(holder, _), _| *holder != worker);
        self.lost.insert(worker, entry);
    }

    pub(crate) fn drain(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.get_mut(&worker)
            && !entry.away
        {
            entry.draining = true;
            self.send(Event::WorkerDraining { worker });
        }
    }

    pub(crate) fn attempts(&self) -> Vec<(WorkerId, AttemptKey)> {
        let of_worker = |(&worker, entry): (&WorkerId, &FakeWorker)| {
            entry
                .attempts
                .keys()
                .map(move |&attempt| (worker, attempt))
                .collect::<Vec<_>>()
        };
        self.workers.iter().flat_map(of_worker).collect()
    }

    pub(crate) fn outboxes(&self) -> Vec<WorkerId> {
        let full = |(_, entry): &(&WorkerId, &FakeWorker)| !entry.outbox.is_empty() && !entry.away;
        self.workers.iter().filter(full).map(|(&worker, _)| worker).collect()
    }

    /// Moves an attempt on; the report goes to the outbox. Returns whether the attempt moved.
    pub(crate) fn progress(&mut self, worker: WorkerId, attempt: AttemptKey, behaviour: Behaviour) -> bool {
        let output = self.output();
        let unreadable = self.launched[&attempt]
            .iter()
            .find(|input| self.dropped.contains(input));
        let unreadable = unreadable.copied();
        let entry = self.workers.get_mut(&worker).unwrap();
        let Some((launch, state)) = entry.attempts.get_mut(&attempt) else {
            return false;
        };
        let streamed = launch.output == OutputMode::Streamed;
        let status = match (*state, behaviour) {
            (AttemptState::Reserved, _) => return false,
            (AttemptState::Launched, Behaviour::Refuse) => AttemptStatus::Refused { reason: "full".into() },
            (_, Behaviour::Fail) => AttemptStatus::Failed(Failure::new(FailureKind::Invalid, "division by zero")),
            (_, Behaviour::Stop) => AttemptStatus::Failed(Failure::new(FailureKind::Cancelled, "reader gone")),
            (_, Behaviour::Starve) => {
                let read = self.launched[&attempt].iter().take(1).copied().collect();
                AttemptStatus::Failed(Failure::new(FailureKind::ShuffleLost, "no rows").of_outputs(read))
            }
            (AttemptState::Launched, Behaviour::Proceed | Behaviour::Park) => AttemptStatus::Reserved,
            (AttemptState::Committed, Behaviour::Proceed | Behaviour::Park | Behaviour::Refuse) => {
                AttemptStatus::Running
            }
            (AttemptState::Running, Behaviour::Park) if streamed => AttemptStatus::Parked,
            (AttemptState::Running, _) if unreadable.is_some() => {
                let lost = unreadable.into_iter().collect();
                AttemptStatus::Failed(Failure::new(FailureKind::ShuffleLost, "no rows").of_outputs(lost))
            }
            (AttemptState::Running, Behaviour::Proceed | Behaviour::Park | Behaviour::Refuse) => {
                AttemptStatus::Finished(output)
            }
            (AttemptState::Parked, Behaviour::Proceed | Behaviour::Park) => AttemptStatus::Resumed,
            // A parked attempt may finish without resuming, when its remaining output fits into its store.
            (AttemptState::Parked, Behaviour::Refuse) => AttemptStatus::Finished(output),
        };
        match &status {
            AttemptStatus::Reserved => *state = AttemptState::Reserved,
            AttemptStatus::Running | AttemptStatus::Resumed => *state = AttemptState::Running,
            AttemptStatus::Parked => *state = AttemptState::Parked,
            AttemptStatus::Finished(_) => {
                entry.outputs.insert(attempt);
                entry.attempts.remove(&attempt);
            }
            AttemptStatus::Dropped => _ = entry.outputs.remove(&attempt),
            AttemptStatus::Refused { .. } | AttemptStatus::Failed(_) | AttemptStatus::Cancelled => {
                entry.attempts.remove(&attempt);
            }
        }
        entry.outbox.push_back((attempt, status));
        true
    }

    /// Moves all attempts on.
    pub(crate) fn progress_all(&mut self) {
        for (worker, attempt) in self.attempts() {
            self.progress(worker, attempt, Behaviour::Proceed);
        }
    }

    /// An attempt has stopped and did not report it yet.
    pub(crate) fn remove(&mut self, worker: WorkerId, attempt: AttemptKey) {
        self.workers.get_mut(&worker).unwrap().attempts.remove(&attempt);
    }

    /// The outputs that an attempt was told to read.
    pub(crate) fn inputs_of(&self, attempt: AttemptKey) -> Vec<AttemptKey> {
        self.launched[&attempt].clone()
    }

    /// Whether a worker holds this output.
    pub(crate) fn has_output(&self, worker: WorkerId, output: AttemptKey) -> bool {
        self.workers
            .get(&worker)
            .is_some_and(|entry| entry.outputs.contains(&output))
    }

    /// How many attempts a stage has had.
    pub(crate) fn launches_of(&self, query: QueryId, stage: usize) -> usize {
        let of_stage = |key: &&AttemptKey| key.query == query && key.stage.0 as usize == stage;
        self.launched.keys().filter(of_stage).count()
    }

    /// The workers that hold output of a stage.
    pub(crate) fn holders_of(&self, query: QueryId, stage: u32) -> Vec<WorkerId> {
        let holds = |entry: &FakeWorker| {
            let mut outputs = entry.outputs.iter();
            outputs.any(|key| key.query == query && key.stage.0 == stage)
        };
        let holders = self.workers.iter().filter(|(_, entry)| holds(entry));
        holders.map(|(&worker, _)| worker).collect()
    }

    fn output(&self) -> TaskOutput {
        match self.has_rows {
            true => some_output(),
            false => TaskOutput::default(),
        }
    }

    /// Delivers the oldest report of a worker.
    pub(crate) fn deliver(&mut self, worker: WorkerId) {
        if let Some((attempt, status)) = self.workers.get_mut(&worker).unwrap().outbox.pop_front() {
            self.delivered.push((worker, attempt, status.clone()));
            self.receive(worker, attempt, status);
        }
    }

    /// Delivers a report again that has arrived before.
    pub(crate) fn repeat(&mut self, number: usize) {
        if !self.delivered.is_empty() {
            let (worker, attempt, status) = self.delivered[number % self.delivered.len()].clone();
            self.receive(worker, attempt, status);
        }
    }

    /// A report arrives; if the scheduler still knows the attempt, the slots it must count as taken change.
    pub(crate) fn receive(&mut self, worker: WorkerId, attempt: AttemptKey, status: AttemptStatus) {
        let is_current = self.workers.contains_key(&worker)
            && !self.ended.contains_key(&attempt.query)
            && !self.stale.contains(&attempt)
            && !self.finished.contains(&attempt)
            && self.launched_on(worker, attempt);
        if is_current {
            match &status {
                AttemptStatus::Refused { .. } if self.was_reserved(worker, attempt) => {}
                AttemptStatus::Refused { .. } | AttemptStatus::Failed(_) | AttemptStatus::Cancelled => {
                    self.held.remove(&(worker, attempt));
                    self.stale.insert(attempt);
                }
                AttemptStatus::Parked => _ = self.held.remove(&(worker, attempt)),
                AttemptStatus::Finished(_) => {
                    self.held.remove(&(worker, attempt));
                    self.finished.insert(attempt);
                }
                AttemptStatus::Resumed => {
                    let slots = self.slots_of(worker, attempt);
                    let lane = self.lanes[&attempt];
                    self.held.insert((worker, attempt), (slots, lane));
                }
                AttemptStatus::Reserved | AttemptStatus::Running => {}
                AttemptStatus::Dropped => _ = self.stale.insert(attempt),
            }
        }
        self.send(Event::Report {
            worker,
            attempt,
            status,
        });
    }

    /// Whether the attempt was launched on this incarnation of the worker and not refused since.
    fn launched_on(&self, worker: WorkerId, attempt: AttemptKey) -> bool {
        self.held.contains_key(&(worker, attempt))
            || self.workers[&worker].attempts.contains_key(&attempt)
            || self.workers[&worker]
                .outbox
                .iter()
                .any(|(reported, _)| *reported == attempt)
    }

    fn was_reserved(&self, worker: WorkerId, attempt: AttemptKey) -> bool {
        self.delivered.iter().any(|(from, reported, status)| {
            *from == worker && *reported == attempt && *status == AttemptStatus::Reserved
        })
    }

    fn slots_of(&self, worker: WorkerId, attempt: AttemptKey) -> u32 {
        let task = usize::try_from(attempt.task.0).unwrap();
        let wanted = self.spec(attempt.query, attempt.stage).tasks[task].slots;
        wanted.clamp(1, self.workers[&worker].slots)
    }

    fn spec(&self, query: QueryId, stage: StageId) -> &StageSpec {
        self.graphs[&query].stages.iter().find(|spec| spec.id == stage).unwrap()
    }

    pub(crate) fn tick(&mut self) {
        if let Some(at) = self.scheduler.next_deadline() {
            self.now = self.now.max(at);
        }
        self.send(Event::Tick);
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::SendStage { worker, stage } => {
                assert!(!self.ended.contains_key(&stage.query));
                if self.workers[&worker].away {
                    return;
                }
                let is_new = self
                    .workers
                    .get_mut(&worker)
                    .unwrap()
                    .stages
                    .insert((stage.query, stage.stage));
                assert!(is_new, "stage sent twice");
            }
            Effect::Launch { worker, launch } => self.check_launch(worker, launch),
            Effect::Commit { worker, attempt } => {
                assert!(!self.ended.contains_key(&attempt.query));
                let entry = self.workers.get_mut(&worker).unwrap();
                if entry.away {
                    return;
                }
                match entry.attempts.get_mut(&attempt) {
                    Some((_, state @ AttemptState::Reserved)) => *state = AttemptState::Committed,
                    Some((_, state)) => assert!(self.is_returning, "{attempt} is {state:?} and is committed"),
                    None => {}
                }
            }
            Effect::CancelAttempt { worker, attempt } => self.cancel_attempt(worker, attempt),
            Effect::Spare { worker, query, stage } => self.spare(worker, query, stage),
            Effect::Release { worker, release } => self.release(worker, &release),
            Effect::Recovering { query, parts, .. } => {
                assert!(!self.ended.contains_key(&query), "computed again after its end");
                self.recoveries += 1;
                if !parts.is_empty() {
                    assert!(self.results.contains_key(&query), "its result was not announced");
                    self.ready.remove(&query);
                }
            }
            Effect::ResultReady { query, parts } => {
                let graph = &self.graphs[&query];
                assert!(
                    !self.ended.contains_key(&query) && self.ready.insert(query),
                    "ready once"
                );
                assert_eq!(parts.len(), graph.stages.last().unwrap().tasks.len());
                assert!(parts.iter().all(|part| self.workers.contains_key(&part.worker)));
                let attempts = parts.iter().map(|part| part.attempt).collect();
                self.results.insert(query, attempts);
            }
            Effect::Ended { query, outcome, .. } => {
                if outcome.is_ok() {
                    self.check_result(query);
                }
                self.held.retain(|(_, attempt), _| attempt.query != query);
                assert!(self.ended.insert(query, outcome).is_none(), "{query} ended twice");
                for entry in self.workers.values().filter(|entry| !entry.away) {
                    let is_left = entry.attempts.keys().any(|attempt| attempt.query == query)
                        || entry.outputs.iter().any(|attempt| attempt.query == query)
                        || entry.stages.iter().any(|(of, _)| *of == query);
                    assert!(!is_left, "something of {query} is left");
                }
            }
            Effect::Released { query } => {
                assert!(self.ended.contains_key(&query), "released before its end");
                assert!(self.released_queries.insert(query), "{query} was released twice");
                let stopping = self.scheduler.stopping();
                let mut running = stopping.iter().map(|stopping| stopping.attempt.query);
                assert!(running.all(|other| other != query), "{query} still runs");
            }
            Effect::WorkerGivenUp { worker, .. } => {
                let entry = self.workers.remove(&worker).expect("a worker that is there");
                assert!(entry.away, "a worker that is heard is given up");
                self.forget_attempts(worker, entry);
            }
            Effect::SecondAttempt { slow, on, worker, .. } => {
                assert!(!self.stale.contains(&slow) && self.held.contains_key(&(on, slow)));
                assert!(worker != on && self.graphs[&slow.query].options.speculation);
                self.second_attempts += 1;
            }
            Effect::WorkerAvoided { worker, .. } => {
                assert!(self.workers.contains_key(&worker));
                self.avoided.insert(worker);
            }
            Effect::Unexpected { what, .. } => panic!("{what}"),
        }
    }

    fn cancel_attempt(&mut self, worker: WorkerId, attempt: AttemptKey) {
        self.stale.insert(attempt);
        self.held.remove(&(worker, attempt));
        let entry = self.workers.get_mut(&worker).expect("a worker that is there");
        if entry.away {
            return;
        }
        entry.outputs.remove(&attempt);
        if entry.attempts.remove(&attempt).is_some() {
            entry.outbox.push_back((attempt, AttemptStatus::Cancelled));
        }
    }

    fn spare(&mut self, worker: WorkerId, query: QueryId, stage: StageId) {
        let entry = self.workers.get_mut(&worker).expect("a worker that is there");
        if !entry.away {
            let outputs = entry
                .outputs
                .iter()
                .filter(|key| (key.query, key.stage) == (query, stage));
            entry.spare.extend(outputs);
        }
    }

    /// A worker needs the room that spare output takes.
    pub(crate) fn drop_spare(&mut self, worker: WorkerId) {
        let entry = self.workers.get_mut(&worker).unwrap();
        entry.spare.retain(|output| entry.outputs.contains(output));
        if let Some(output) = entry.spare.pop_first() {
            entry.outputs.remove(&output);
            entry.outbox.push_back((output, AttemptStatus::Dropped));
            self.dropped.insert(output);
        }
    }

    fn release(&mut self, worker: WorkerId, release: &Release) {
        let query = release.query;
        let entry = self.workers.get_mut(&worker).expect("a worker that is there");
        if entry.away {
            return;
        }
        if release.stages.is_empty() {
            let stopped = entry.attempts.extract_if(.., |attempt, _| attempt.query == query);
            let reports = stopped.map(|(attempt, _)| (attempt, AttemptStatus::Cancelled));
            entry.outbox.extend(reports);
            entry.outputs.retain(|attempt| attempt.query != query);
            entry.stages.retain(|(of, _)| *of != query);
            return;
        }
        for &stage in &release.stages {
            let of_stage = |attempt: &AttemptKey| (attempt.query, attempt.stage) == (query, stage);
            self.stale.extend(entry.outputs.extract_if(.., of_stage));
        }
    }
}
