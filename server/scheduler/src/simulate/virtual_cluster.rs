//! Workers, wires and clients around the scheduler, in virtual time.
//!
//! A wire keeps the order of its messages and loses none: what a broken connection held up comes late, and everything
//! behind it too, and what had arrived may come again. A worker that dies takes its attempts with it; its clients submit
//! anew, and their latency still counts from the first arrival.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Launch};
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, WorkerId, WorkerKind};

use super::agenda::Agenda;
use super::cluster::{ClusterSpec, Estimates, Faults, Outcome};
use super::digest::Digest;
use super::rng::Rng;
use super::worker::{Attempt, Worker, paces};
use super::workload::Work;
use crate::event::{Effect, Event};
use crate::scheduler::Scheduler;

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
/// What a task reads in a second.
const BYTES_PER_SECOND: f64 = 200e6;

/// Something that will happen.
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

/// A query that has been submitted and has not ended.
struct Live {
    number: usize,
    unfinished_roots: usize,
    /// Whether its client knows where the result is.
    is_ready: bool,
}

/// A cluster whose time is virtual: equal specifications, seeds and queries give equal effects.
/// `O` sees every event before the scheduler takes it in, with its time.
pub struct VirtualCluster<O> {
    scheduler: Scheduler,
    observer: O,
    slots_each: u32,
    slots: u64,
    faults: Faults,
    estimates: Estimates,
    rng: Rng,
    now: Duration,
    agenda: Agenda<What>,
    workers: Vec<Worker>,
    by_id: BTreeMap<WorkerId, usize>,
    queries: Vec<Work>,
    arrivals: Vec<Duration>,
    tries: Vec<u32>,
    left: usize,
    submitted: u128,
    live: HashMap<QueryId, Live>,
    running: usize,
    counts: Outcome,
    digest: Digest,
}

impl<O: FnMut(Duration, &Event)> VirtualCluster<O> {
    /// A cluster to which `queries` arrive at `arrivals`, one time each.
    pub fn new(spec: &ClusterSpec, seed: u64, queries: Vec<Work>, arrivals: Vec<Duration>, observer: O) -> Self {
        let mut rng = Rng::new(seed, 3);
        let worker = |number: u32| {
            let slowness = if rng.happens(spec.faults.slow_workers) {
                SLOWNESS
            } else {
                1.0
            };
            Worker::new(WorkerId::from_u128(u128::from(number) + 1), slowness)
        };
        let workers: Vec<_> = (0..spec.workers).map(worker).collect();
        let by_id = workers.iter().zip(0..).map(|(worker, number)| (worker.id, number));
        Self {
            observer,
            scheduler: Scheduler::new(spec.limits()),
            slots_each: spec.slots,
            slots: spec.total_slots(),
            faults: spec.faults,
            estimates: spec.estimates,
            rng,
            now: Duration::ZERO,
            agenda: Agenda::default(),
            by_id: by_id.collect(),
            workers,
            tries: vec![0; queries.len()],
            left: queries.len(),
            queries,
            arrivals,
            submitted: 0,
            live: HashMap::new(),
            running: 0,
            counts: Outcome::default(),
            digest: Digest::default(),
        }
    }

    /// Runs until every query has ended, or nothing happens any more.
    pub fn run(mut self) -> Outcome {
        for worker in 0..self.workers.len() {
            self.returns(worker);
        }
        for (number, at) in (0..).zip(self.arrivals.clone()) {
            self.plan(at, What::Arrives(number));
        }
        while self.left > 0 {
            let next = self.agenda.next_time();
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
        Outcome {
            unfinished: self.left,
            makespan: self.now,
            digest: self.digest.text(),
            ..self.counts
        }
    }

    fn plan(&mut self, at: Duration, what: What) {
        self.agenda.add(at, what);
    }

    fn happen(&mut self) {
        let Some((at, what)) = self.agenda.pop() else {
            return;
        };
        self.now = self.now.max(at);
        match what {
            What::Arrives(number) => self.submit(number),
            What::Report(worker, life, attempt, status) => {
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
            What::Reserve(worker, life, attempt) => self.reserve(worker, life, attempt),
            What::Begin(worker, life, attempt) => self.begin(worker, life, attempt),
            What::Finish(worker, life, attempt, changes) => {
                self.finish(worker, life, attempt, changes);
            }
            What::Read(query) => self.tell(Event::ResultDone { query }),
            What::Dies(worker) => self.dies(worker),
            What::Missed(worker) => {
                let worker = self.workers[worker].id;
                let reason = "it was silent".to_owned();
                self.tell(Event::WorkerLost { worker, reason });
            }
            What::Returns(worker) => self.returns(worker),
        }
    }

    fn tell(&mut self, event: Event) {
        (self.observer)(self.now, &event);
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
            Effect::SendStage { .. } | Effect::Release { .. } | Effect::Released { .. } | Effect::Unexpected { .. } => {
            }
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
        let is_broken = self.rng.happens(self.faults.breaks);
        let delay = match is_broken {
            true => Duration::from_secs_f64(self.rng.between(1.0, RECONNECT_MS) / 1e3),
            false => Duration::ZERO,
        };
        let arrives = (self.now + travel + delay).max(self.workers[worker].wire);
        self.workers[worker].wire = arrives;
        let life = self.workers[worker].life;
        if is_broken && self.rng.happens(0.5) {
            // The server had it, and its acknowledgement was lost.
            let first = What::Report(worker, life, attempt, status.clone());
            self.plan(arrives, first);
        }
        self.plan(arrives, What::Report(worker, life, attempt, status));
    }

    fn travel(&mut self) -> Duration {
        TRAVEL / 2 + self.rng.wait(TRAVEL / 2)
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
            let at = self.now + self.rng.wait(mean);
            self.plan(at, What::Dies(worker));
        }
    }

    fn submit(&mut self, number: usize) {
        self.submitted += 1;
        self.tries[number] += 1;
        let work = &self.queries[number];
        let rate = match self.estimates {
            Estimates::None => 0.0,
            Estimates::Rough => BYTES_PER_SECOND * self.rng.between(-2.0, 2.0).exp2(),
            Estimates::Exact => BYTES_PER_SECOND,
        };
        let graph = work.graph(self.submitted, rate);
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
