//! Workers, wires and clients around the real scheduler, in virtual time.
//!
//! A wire keeps the order of its messages and loses none: what a broken connection held up comes late, and everything
//! behind it too, and what had arrived may come again. A worker that dies takes its attempts with it; its clients submit
//! anew, and their latency still counts from the first arrival.
//!
//! A slot is a core. Where lanes together run more than a worker has, their attempts share the cores by niceness, as
//! `squadron-worker` lets the operating system do.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use squadron::scheduler::{
    Effect, Event, Limits, OutputPartitions, Placement, Policy, QueryTraits, Scheduler, StageGraph, StageSpec, TaskSpec,
};
use squadron::workers::WorkerKind;
use squadron_proto::control::{AttemptStatus, Lane, Launch, PartitionOutput, PlanRef, TaskMetrics, TaskOutput};
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, StageId, WorkerId};

use super::super::chance::Chance;
use super::digest::Digest;
use super::figures::{Counts, Figures};
use super::meter::Meter;
use super::workload::Work;

/// How long a message travels, on average.
const TRAVEL: Duration = Duration::from_micros(200);
/// How long a broken connection takes to be made again, at most.
const RECONNECT_MS: f64 = 500.0;
/// After how long a worker's death is seen.
const MISSED: Duration = Duration::from_secs(2);
/// After how long a dead worker is back.
const BACK: Duration = Duration::from_secs(10);
/// How much longer the tasks of a slow worker take.
const SLOWNESS: f64 = 4.0;
/// How often a client submits a query again.
const MAX_TRIES: u32 = 20;

/// What there is to run on.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) workers: u32,
    pub(super) slots: u32,
    pub(super) policy: Policy,
    pub(super) priority_decay: u32,
    pub(super) estimates: Estimates,
    pub(super) faults: Faults,
}

/// What the scheduler is told of the bytes that tasks read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Estimates {
    /// Nothing.
    None,
    /// Up to four times too much or too little, the same for all tasks of a query.
    Rough,
    /// As many as they are worth.
    Exact,
}

/// What a task reads in a second.
const BYTES_PER_SECOND: f64 = 200e6;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) slow_workers: f64,
    pub(super) deaths_per_hour: f64,
    pub(super) breaks: f64,
}

#[derive(Clone, Debug)]
enum What {
    Arrives(usize),
    Report(usize, u32, AttemptKey, AttemptStatus),
    Reserve(usize, u32, AttemptKey),
    Begin(usize, u32, AttemptKey),
    /// Holds only if the attempt's pace has not changed since.
    Finish(usize, u32, AttemptKey, u32),
    Read(QueryId),
    Dies(usize),
    Missed(usize),
    Returns(usize),
}

struct Worker {
    id: WorkerId,
    is_alive: bool,
    slowness: f64,
    /// How often it has died.
    life: u32,
    attempts: BTreeMap<AttemptKey, Attempt>,
    /// When the last message on its way to the server arrives.
    wire: Duration,
}

struct Attempt {
    slots: u32,
    lane: Lane,
    /// Its work, in time on cores of its own, and what is left of it.
    takes: Duration,
    left: Duration,
    /// How much of its cores it has, since when; none before it begins.
    pace: Option<(f64, Duration)>,
    /// How often its pace has changed.
    changes: u32,
}

impl Attempt {
    /// What it does not share with attempts of other lanes: weights of the kernel's scheduler for each lane's niceness.
    fn weight(&self) -> f64 {
        let weight = match self.lane {
            Lane::Short => 1.0,
            Lane::Medium => 1.0 / 3.0,
            Lane::Long => 1.0 / 28.0,
        };
        weight * f64::from(self.slots)
    }

    /// Brings what is left up to date; the time that its cores worked for it.
    fn work(&mut self, now: Duration) -> Duration {
        let Some((pace, since)) = &mut self.pace else {
            return Duration::ZERO;
        };
        let done = (now - *since).mul_f64(*pace);
        *since = now;
        self.left = self.left.saturating_sub(done);
        done * self.slots
    }

    /// What it says when it is done. It has used its cores alone as long as it would have taken with them to itself.
    fn output(&self, key: AttemptKey) -> TaskOutput {
        let cpu_ns = (self.takes * self.slots).as_nanos();
        TaskOutput {
            partitions: vec![PartitionOutput {
                partition: key.task.0,
                rows: 1,
                bytes: 1 << 20,
            }],
            metrics: TaskMetrics {
                cpu_ns: u64::try_from(cpu_ns).unwrap_or(u64::MAX),
                ..TaskMetrics::default()
            },
        }
    }
}

/// The pace of attempts with these weights and slots on so many cores: in proportion to their weight, but none more than its
/// slots. In the order of the attempts.
pub(super) fn paces(cores: u32, attempts: &[(f64, u32)]) -> Vec<f64> {
    let mut paces = vec![1.0; attempts.len()];
    let mut cores = f64::from(cores);
    let mut sharing: Vec<usize> = (0..attempts.len()).collect();
    loop {
        let weights: f64 = sharing.iter().map(|&at| attempts[at].0).sum();
        let wanted: f64 = sharing.iter().map(|&at| f64::from(attempts[at].1)).sum();
        if wanted <= cores {
            return paces;
        }
        // Whoever would get more than it can use is content; the others share what it leaves.
        let is_content = |at: &usize| cores * attempts[*at].0 / weights >= f64::from(attempts[*at].1);
        let (content, short): (Vec<_>, Vec<_>) = sharing.iter().copied().partition(is_content);
        if content.is_empty() {
            for &at in &short {
                paces[at] = cores * attempts[at].0 / weights / f64::from(attempts[at].1);
            }
            return paces;
        }
        cores -= content.iter().map(|&at| f64::from(attempts[at].1)).sum::<f64>();
        sharing = short;
    }
}

/// A query that has been submitted and has not ended.
struct Live {
    number: usize,
    unfinished_roots: usize,
    /// Whether its client knows where the result is.
    is_ready: bool,
}

/// A simulation.
pub(super) struct World {
    scheduler: Scheduler,
    meter: Meter,
    slots_each: u32,
    slots: u64,
    faults: Faults,
    estimates: Estimates,
    chance: Chance,
    now: Duration,
    /// When what happens: the time, the order of planning, and the place in `happenings`.
    agenda: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    happenings: Vec<Option<What>>,
    /// Places in `happenings` that are free.
    vacant: Vec<usize>,
    planned: u64,
    workers: Vec<Worker>,
    by_id: BTreeMap<WorkerId, usize>,
    queries: Vec<Work>,
    arrivals: Vec<Duration>,
    tries: Vec<u32>,
    left: usize,
    submitted: u128,
    live: HashMap<QueryId, Live>,
    running: usize,
    counts: Counts,
    digest: Digest,
}

impl World {
    pub(super) fn new(cluster: &Cluster, seed: u64, queries: Vec<Work>, arrivals: Vec<Duration>) -> Self {
        let mut limits = Limits {
            policy: cluster.policy,
            priority_decay: cluster.priority_decay,
            max_open_results: usize::MAX,
            ..Limits::default()
        };
        limits.admission.max_running = usize::MAX;
        limits.admission.max_queued = usize::MAX;
        limits.admission.max_of_session = usize::MAX;
        let mut chance = Chance::new(seed, 3);
        let worker = |number: u32| Worker {
            id: WorkerId::from_u128(u128::from(number) + 1),
            is_alive: false,
            slowness: match chance.happens(cluster.faults.slow_workers) {
                true => SLOWNESS,
                false => 1.0,
            },
            life: 0,
            attempts: BTreeMap::new(),
            wire: Duration::ZERO,
        };
        let workers: Vec<_> = (0..cluster.workers).map(worker).collect();
        let by_id = workers.iter().zip(0..).map(|(worker, number)| (worker.id, number));
        Self {
            meter: Meter::new(limits.clone()),
            scheduler: Scheduler::new(limits),
            slots_each: cluster.slots,
            slots: u64::from(cluster.workers) * u64::from(cluster.slots),
            faults: cluster.faults,
            estimates: cluster.estimates,
            chance,
            now: Duration::ZERO,
            agenda: BinaryHeap::new(),
            happenings: Vec::new(),
            vacant: Vec::new(),
            planned: 0,
            by_id: by_id.collect(),
            workers,
            tries: vec![0; queries.len()],
            left: queries.len(),
            queries,
            arrivals,
            submitted: 0,
            live: HashMap::new(),
            running: 0,
            counts: Counts::default(),
            digest: Digest::default(),
        }
    }

    /// Until every query has ended, or nothing happens any more.
    pub(super) fn run(mut self) -> Figures {
        for worker in 0..self.workers.len() {
            self.returns(worker);
        }
        for (number, at) in (0..).zip(self.arrivals.clone()) {
            self.plan(at, What::Arrives(number));
        }
        while self.left > 0 {
            let next = self.agenda.peek().map(|Reverse((at, ..))| *at);
            let deadline = self.scheduler.next_deadline();
            match (next, deadline) {
                (Some(at), deadline) if deadline.is_none_or(|deadline| at <= deadline) => {
                    self.happen();
                }
                (_, Some(deadline)) => {
                    self.now = self.now.max(deadline);
                    self.tell(Event::Tick);
                }
                (None, None) => break,
                (Some(_), None) => self.happen(),
            }
        }
        let (makespan, left, digest) = (self.now, self.left, self.digest.text());
        let (scheduler, replayed) = self.meter.result();
        assert_eq!(digest, replayed, "the same events gave other effects");
        self.counts.figures(self.slots, makespan, left, scheduler, digest)
    }

    fn plan(&mut self, at: Duration, what: What) {
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.happenings.push(None);
            self.happenings.len() - 1
        });
        self.happenings[place] = Some(what);
        self.agenda.push(Reverse((at, self.planned, place)));
        self.planned += 1;
    }

    fn happen(&mut self) {
        let Some(Reverse((at, _, place))) = self.agenda.pop() else {
            return;
        };
        self.now = self.now.max(at);
        self.vacant.push(place);
        match self.happenings[place].take() {
            None => {}
            Some(What::Arrives(number)) => self.submit(number),
            Some(What::Report(worker, life, attempt, status)) => {
                let worker = &self.workers[worker];
                if worker.life == life {
                    let worker = worker.id;
                    self.tell(Event::Report {
                        worker,
                        attempt,
                        status,
                    });
                }
            }
            Some(What::Reserve(worker, life, attempt)) => self.reserve(worker, life, attempt),
            Some(What::Begin(worker, life, attempt)) => self.begin(worker, life, attempt),
            Some(What::Finish(worker, life, attempt, changes)) => {
                self.finish(worker, life, attempt, changes);
            }
            Some(What::Read(query)) => self.tell(Event::ResultDone { query }),
            Some(What::Dies(worker)) => self.dies(worker),
            Some(What::Missed(worker)) => {
                let worker = self.workers[worker].id;
                let reason = "it was silent".to_owned();
                self.tell(Event::WorkerLost { worker, reason });
            }
            Some(What::Returns(worker)) => self.returns(worker),
        }
    }

    fn tell(&mut self, event: Event) {
        self.meter.take(self.now, event.clone());
        let effects = self.scheduler.apply(self.now, event);
        self.counts.events += 1;
        self.counts.effects += effects.len() as u64;
        for effect in effects {
            self.digest.add(self.now, &effect);
            self.carry_out(effect);
        }
        self.counts.most_queries = self.counts.most_queries.max(self.live.len());
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Launch { worker, launch } => self.launch(worker, &launch),
            Effect::Commit { worker, attempt } => {
                let worker = self.by_id[&worker];
                let at = self.now + self.travel();
                self.plan(at, What::Begin(worker, self.workers[worker].life, attempt));
            }
            Effect::CancelAttempt { worker, attempt } => {
                let worker = self.by_id[&worker];
                self.stop(worker, attempt);
            }
            Effect::Ended { query, outcome, .. } => self.ended(query, outcome.err()),
            Effect::ResultReady { query, .. } => {
                if let Some(live) = self.live.get_mut(&query) {
                    live.is_ready = true;
                    self.read(query);
                }
            }
            Effect::SendStage { .. } | Effect::Release { .. } | Effect::Freed { .. } | Effect::Unexpected { .. } => {}
        }
    }

    fn launch(&mut self, worker: WorkerId, launch: &Launch) {
        let key = launch.attempt;
        let number = self.by_id[&worker];
        let Some(live) = self.live.get(&key.query) else {
            return;
        };
        let stage = &self.queries[live.number].stages[key.stage.0 as usize];
        let takes = stage.tasks[key.task.0 as usize].mul_f64(self.workers[number].slowness);
        let attempt = Attempt {
            slots: launch.slots,
            lane: launch.lane,
            takes,
            left: takes,
            pace: None,
            changes: 0,
        };
        let worker = &mut self.workers[number];
        let life = worker.life;
        worker.attempts.insert(key, attempt);
        let at = self.now + self.travel();
        self.plan(at, What::Reserve(number, life, key));
    }

    fn has(&self, worker: usize, life: u32, attempt: AttemptKey) -> bool {
        let worker = &self.workers[worker];
        worker.is_alive && worker.life == life && worker.attempts.contains_key(&attempt)
    }

    fn reserve(&mut self, worker: usize, life: u32, attempt: AttemptKey) {
        if self.has(worker, life, attempt) {
            self.report(worker, attempt, AttemptStatus::Reserved);
        }
    }

    fn begin(&mut self, worker: usize, life: u32, key: AttemptKey) {
        if !self.has(worker, life, key) {
            return;
        }
        let now = self.now;
        let Some(attempt) = self.workers[worker].attempts.get_mut(&key) else {
            return;
        };
        attempt.pace = Some((0.0, now));
        self.running += 1;
        self.counts.most_running = self.counts.most_running.max(self.running);
        self.report(worker, key, AttemptStatus::Running);
        self.share(worker);
    }

    /// Gives each attempt of a worker its pace.
    fn share(&mut self, worker: usize) {
        let now = self.now;
        let entry = &mut self.workers[worker];
        let life = entry.life;
        let mut begun: Vec<_> = entry
            .attempts
            .iter_mut()
            .filter(|(_, attempt)| attempt.pace.is_some())
            .collect();
        let wants: Vec<_> = begun
            .iter()
            .map(|(_, attempt)| (attempt.weight(), attempt.slots))
            .collect();
        let mut ends = Vec::new();
        for ((key, attempt), pace) in begun.iter_mut().zip(paces(self.slots_each, &wants)) {
            if attempt.pace.is_some_and(|(was, _)| was == pace) {
                continue;
            }
            self.counts.busy += attempt.work(now);
            attempt.pace = Some((pace, now));
            attempt.changes += 1;
            let end = now + attempt.left.div_f64(pace);
            ends.push((end, What::Finish(worker, life, **key, attempt.changes)));
        }
        for (at, what) in ends {
            self.plan(at, what);
        }
    }

    fn finish(&mut self, worker: usize, life: u32, key: AttemptKey, changes: u32) {
        let entry = &self.workers[worker];
        if !entry.is_alive || entry.life != life {
            return;
        }
        let Some(attempt) = entry.attempts.get(&key) else {
            return;
        };
        if attempt.changes != changes {
            return;
        }
        let output = attempt.output(key);
        self.stop(worker, key);
        self.report(worker, key, AttemptStatus::Finished(output));
        let Some(live) = self.live.get_mut(&key.query) else {
            return;
        };
        let root = self.queries[live.number].stages.len() - 1;
        if key.stage.0 as usize == root {
            live.unfinished_roots -= 1;
            self.read(key.query);
        }
    }

    /// The client has read everything once there is everything, and it knows where.
    fn read(&mut self, query: QueryId) {
        let live = self.live.get(&query);
        if live.is_some_and(|live| live.is_ready && live.unfinished_roots == 0) {
            let at = self.now + self.travel();
            self.plan(at, What::Read(query));
        }
    }

    /// An attempt does not run any more.
    fn stop(&mut self, worker: usize, key: AttemptKey) {
        let Some(mut attempt) = self.workers[worker].attempts.remove(&key) else {
            return;
        };
        if attempt.pace.is_some() {
            self.running -= 1;
            self.counts.busy += attempt.work(self.now);
            self.share(worker);
        }
    }

    fn report(&mut self, worker: usize, attempt: AttemptKey, status: AttemptStatus) {
        let travel = self.travel();
        let is_broken = self.chance.happens(self.faults.breaks);
        let delay = match is_broken {
            true => Duration::from_secs_f64(self.chance.between(1.0, RECONNECT_MS) / 1e3),
            false => Duration::ZERO,
        };
        let arrives = (self.now + travel + delay).max(self.workers[worker].wire);
        self.workers[worker].wire = arrives;
        let life = self.workers[worker].life;
        if is_broken && self.chance.happens(0.5) {
            // The server had it, and its acknowledgement was lost.
            let first = What::Report(worker, life, attempt, status.clone());
            self.plan(arrives, first);
        }
        self.plan(arrives, What::Report(worker, life, attempt, status));
    }

    fn travel(&mut self) -> Duration {
        TRAVEL / 2 + self.chance.wait(TRAVEL / 2)
    }

    fn dies(&mut self, worker: usize) {
        let entry = &mut self.workers[worker];
        entry.is_alive = false;
        for mut attempt in std::mem::take(&mut entry.attempts).into_values() {
            self.running -= usize::from(attempt.pace.is_some());
            self.counts.busy += attempt.work(self.now);
        }
        self.plan(self.now + MISSED, What::Missed(worker));
        self.plan(self.now + BACK, What::Returns(worker));
    }

    fn returns(&mut self, worker: usize) {
        let entry = &mut self.workers[worker];
        entry.is_alive = true;
        entry.life += 1;
        entry.attempts.clear();
        let joined = Event::WorkerJoined {
            worker: entry.id,
            slots: self.slots_each,
            address: format!("http://worker-{worker}"),
            memory_bytes: 1 << 30,
            kind: WorkerKind::Remote,
        };
        self.tell(joined);
        if self.faults.deaths_per_hour > 0.0 {
            let mean = Duration::from_secs_f64(3600.0 / self.faults.deaths_per_hour);
            let at = self.now + self.chance.wait(mean);
            self.plan(at, What::Dies(worker));
        }
    }

    fn submit(&mut self, number: usize) {
        self.submitted += 1;
        self.tries[number] += 1;
        let work = &self.queries[number];
        let rate = match self.estimates {
            Estimates::None => 0.0,
            Estimates::Rough => BYTES_PER_SECOND * self.chance.between(-2.0, 2.0).exp2(),
            Estimates::Exact => BYTES_PER_SECOND,
        };
        let graph = graph(self.submitted, rate, work);
        let live = Live {
            number,
            unfinished_roots: work.stages.last().map_or(0, |root| root.tasks.len()),
            is_ready: false,
        };
        self.live.insert(graph.query, live);
        self.tell(Event::Submit(graph));
    }

    fn ended(&mut self, query: QueryId, failure: Option<Failure>) {
        let Some(Live { number, .. }) = self.live.remove(&query) else {
            return;
        };
        match failure.map(|failure| failure.kind) {
            Some(FailureKind::WorkerLost) if self.tries[number] < MAX_TRIES => {
                self.counts.repeated += 1;
                let at = self.now + self.travel();
                self.plan(at, What::Arrives(number));
                return;
            }
            Some(_) => self.counts.refused += 1,
            None => self.note(number),
        }
        self.left -= 1;
    }

    fn note(&mut self, number: usize) {
        let work = &self.queries[number];
        let took = self.now - self.arrivals[number];
        let slowdown = took.as_secs_f64() / work.alone(self.slots).as_secs_f64();
        let class = match (work.priority, work.is_long()) {
            (0, false) => &mut self.counts.short,
            (0, true) => &mut self.counts.long,
            _ => &mut self.counts.prioritised,
        };
        class.push(slowdown);
    }
}

fn stage_id(number: usize) -> StageId {
    StageId(u32::try_from(number).unwrap_or(u32::MAX))
}

/// `rate`: estimated bytes for each second of a task.
fn graph(id: u128, rate: f64, work: &Work) -> StageGraph {
    let root = work.stages.len() - 1;
    let stage = |(number, stage): (usize, &super::workload::StageWork)| {
        let task = |(partition, takes): (u32, &Duration)| TaskSpec {
            partitions: vec![partition],
            slots: 1,
            bytes: (takes.as_secs_f64() * rate) as u64,
            ..TaskSpec::default()
        };
        let tasks: Vec<_> = (0..).zip(&stage.tasks).map(task).collect();
        StageSpec {
            id: stage_id(number),
            inputs: stage.inputs.iter().copied().map(StageId).collect(),
            output_partitions: OutputPartitions::Identity(u32::try_from(tasks.len()).unwrap_or(u32::MAX)),
            tasks,
            plan: PlanRef::Encoded(Default::default()),
            settings: Vec::new(),
            stores: Vec::new(),
            placement: Placement::Any,
            streamed: number == root,
        }
    };
    StageGraph {
        query: QueryId::from_u128(id),
        stages: work.stages.iter().enumerate().map(stage).collect(),
        root: stage_id(root),
        traits: QueryTraits {
            priority: work.priority,
            ..QueryTraits::default()
        },
    }
}
