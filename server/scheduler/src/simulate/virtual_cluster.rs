//! Workers, connections and clients around the scheduler, in virtual time.
//!
//! A connection keeps the order of its messages and loses none: when it breaks, a message and all messages behind it
//! arrive late, and a message that had arrived may arrive again. A worker that hangs does nothing and says nothing until it
//! goes on; the scheduler suspects it, and gives it up if that takes too long. A worker that dies takes its attempts and output with it;
//! the scheduler computes them again. If it gives up, the client runs the query again, and latency still counts from the
//! first arrival.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Launch};
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, TaskId, WorkerId, WorkerKind};

use super::agenda::Agenda;
use super::cluster::{ClusterSpec, Estimates, Faults, Outcome};
use super::digest::Digest;
use super::rng::Rng;
use super::worker::{Attempt, Presence, Worker, paces};
use super::workload::Work;
use crate::event::{Effect, Event, LostParts};
use crate::scheduler::Scheduler;

/// How long a message travels, on average.
const LATENCY: Duration = Duration::from_micros(200);
/// How long it takes at most until a broken connection is restored.
const RECONNECT_MS: f64 = 500.0;
/// How long it takes until a worker's death is noticed.
const DETECTION_DELAY: Duration = Duration::from_secs(2);
/// How long a worker hangs, on average.
const PAUSE: Duration = Duration::from_secs(5);
/// How long it takes until a dead worker is back.
const RESTART_DELAY: Duration = Duration::from_secs(10);
/// By which factor the tasks of a slow worker take longer.
const SLOWNESS: f64 = 4.0;
/// How often a client submits a query at most.
const MAX_TRIES: u32 = 20;
/// How many bytes a task reads in a second.
const BYTES_PER_SECOND: f64 = 200e6;

/// Something that will happen. The number after a worker is its incarnation; if the worker has another one by then, the
/// occurrence is stale.
#[derive(Clone, Debug)]
enum Occurrence {
    Arrives(usize),
    Report(usize, u32, AttemptKey, AttemptStatus),
    Reserve(usize, u32, AttemptKey),
    Begin(usize, u32, AttemptKey),
    /// Stale if the attempt's pace has changed since; the last number counts its changes.
    Finish(usize, u32, AttemptKey, u32),
    Read(QueryId),
    Dies(usize, u32),
    Missed(usize),
    Returns(usize),
    Hangs(usize, u32),
    Silent(usize, u32),
    GoesOn(usize, u32),
}

/// A query that has been submitted and has not ended.
struct Live {
    number: usize,
    /// Tasks of the root stage.
    finished_roots: BTreeSet<TaskId>,
    /// Whether its client knows where the result is.
    is_ready: bool,
}

/// A cluster in virtual time: equal specifications, seeds and queries give equal effects.
/// The observer `O` is called with every event and its time before the scheduler applies the event.
pub struct VirtualCluster<O> {
    scheduler: Scheduler,
    observer: O,
    slots_each: u32,
    slots: u64,
    faults: Faults,
    estimates: Estimates,
    speculation: bool,
    rng: Rng,
    now: Duration,
    agenda: Agenda<Occurrence>,
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
    /// A cluster at which each of `queries` arrives at its time in `arrivals`.
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
            speculation: spec.speculation,
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

    /// Runs until every query has ended, or nothing more can happen.
    pub fn run(mut self) -> Outcome {
        for worker in 0..self.workers.len() {
            self.join_worker(worker);
        }
        for (number, at) in (0..).zip(self.arrivals.clone()) {
            self.plan(at, Occurrence::Arrives(number));
        }
        while self.left > 0 {
            let next = self.agenda.next_time();
            let deadline = self.scheduler.next_deadline();
            match (next, deadline) {
                (Some(at), deadline) if deadline.is_none_or(|deadline| at <= deadline) => {
                    self.handle_next();
                }
                (_, Some(deadline)) => {
                    self.now = self.now.max(deadline);
                    self.send_event(Event::Tick);
                }
                (None, None) => break,
                (Some(_), None) => self.handle_next(),
            }
        }
        Outcome {
            unfinished: self.left,
            makespan: self.now,
            digest: self.digest.to_hex(),
            ..self.counts
        }
    }

    fn plan(&mut self, at: Duration, occurrence: Occurrence) {
        self.agenda.add(at, occurrence);
    }

    fn handle_next(&mut self) {
        let Some((at, occurrence)) = self.agenda.pop() else {
            return;
        };
        self.now = self.now.max(at);
        match occurrence {
            Occurrence::Arrives(number) => self.submit(number),
            Occurrence::Report(worker, incarnation, attempt, status) => {
                let worker = &self.workers[worker];
                if worker.incarnation == incarnation {
                    let worker = worker.id;
                    self.send_event(Event::Report {
                        worker,
                        attempt,
                        status,
                    });
                }
            }
            Occurrence::Reserve(worker, ..) | Occurrence::Begin(worker, ..)
                if self.workers[worker].paused_until.is_some() =>
            {
                let until = self.workers[worker].paused_until.unwrap_or(self.now);
                self.plan(until, occurrence);
            }
            Occurrence::Reserve(worker, incarnation, attempt) => self.reserve(worker, incarnation, attempt),
            Occurrence::Begin(worker, incarnation, attempt) => self.begin(worker, incarnation, attempt),
            Occurrence::Finish(worker, incarnation, attempt, changes) => {
                self.finish(worker, incarnation, attempt, changes);
            }
            Occurrence::Read(query) => self.send_event(Event::ResultDone { query }),
            Occurrence::Dies(worker, incarnation) => self.kill_worker(worker, incarnation),
            Occurrence::Missed(worker) => {
                let worker = self.workers[worker].id;
                let reason = "it was silent".to_owned();
                self.send_event(Event::WorkerLost { worker, reason });
            }
            Occurrence::Returns(worker) => self.join_worker(worker),
            Occurrence::Hangs(worker, incarnation) => self.pause_worker(worker, incarnation),
            Occurrence::Silent(worker, incarnation) => self.suspect_worker(worker, incarnation),
            Occurrence::GoesOn(worker, incarnation) => self.resume_worker(worker, incarnation),
        }
    }

    fn send_event(&mut self, event: Event) {
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
                let at = self.now + self.draw_latency();
                self.plan(at, Occurrence::Begin(worker, self.workers[worker].incarnation, attempt));
            }
            Effect::CancelAttempt { worker, attempt } => {
                let worker = self.by_id[&worker];
                self.workers[worker].outputs.remove(&attempt);
                self.remove_attempt(worker, attempt);
            }
            Effect::Release { worker, release } => {
                let worker = &mut self.workers[self.by_id[&worker]];
                let is_released = |stage| release.stages.is_empty() || release.stages.contains(&stage);
                worker
                    .outputs
                    .retain(|key| key.query != release.query || !is_released(key.stage));
            }
            Effect::WorkerGivenUp { worker, .. } => {
                self.workers[self.by_id[&worker]].presence = Presence::GivenUp;
            }
            Effect::Ended { query, outcome, .. } => self.end_query(query, outcome.err()),
            Effect::ResultReady { query, .. } => {
                if let Some(live) = self.live.get_mut(&query) {
                    live.is_ready = true;
                    self.read_result(query);
                }
            }
            Effect::Recovering {
                query, attempts, parts, ..
            } => self.recover_query(query, attempts, &parts),
            Effect::SecondAttempt { .. } => self.counts.second_attempts += 1,
            Effect::SendStage { .. }
            | Effect::Spare { .. }
            | Effect::Released { .. }
            | Effect::WorkerAvoided { .. }
            | Effect::Unexpected { .. } => {}
        }
    }

    fn launch(&mut self, worker: WorkerId, launch: &Launch) {
        let key = launch.attempt;
        let number = self.by_id[&worker];
        let Some(live) = self.live.get_mut(&key.query) else {
            return;
        };
        if key.stage.0 as usize == self.queries[live.number].stages.len() - 1 {
            live.finished_roots.remove(&key.task);
        }
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
        let incarnation = worker.incarnation;
        worker.attempts.insert(key, attempt);
        let at = self.now + self.draw_latency();
        self.plan(at, Occurrence::Reserve(number, incarnation, key));
    }

    fn has_attempt(&self, worker: usize, incarnation: u32, attempt: AttemptKey) -> bool {
        let worker = &self.workers[worker];
        worker.is_alive && worker.incarnation == incarnation && worker.attempts.contains_key(&attempt)
    }

    fn reserve(&mut self, worker: usize, incarnation: u32, attempt: AttemptKey) {
        if self.has_attempt(worker, incarnation, attempt) {
            self.send_report(worker, attempt, AttemptStatus::Reserved);
        }
    }

    fn begin(&mut self, worker: usize, incarnation: u32, key: AttemptKey) {
        if !self.has_attempt(worker, incarnation, key) {
            return;
        }
        let now = self.now;
        let Some(attempt) = self.workers[worker].attempts.get_mut(&key) else {
            return;
        };
        if attempt.pace.is_some() {
            // A commit that comes again changes nothing.
            return;
        }
        attempt.pace = Some((0.0, now));
        self.running += 1;
        self.counts.most_running = self.counts.most_running.max(self.running);
        self.send_report(worker, key, AttemptStatus::Running);
        self.share_cores(worker);
    }

    /// Shares a worker's cores among its attempts: sets their paces and plans their ends.
    fn share_cores(&mut self, worker: usize) {
        let now = self.now;
        let entry = &mut self.workers[worker];
        if entry.paused_until.is_some() {
            return;
        }
        let incarnation = entry.incarnation;
        let mut begun: Vec<_> = entry
            .attempts
            .iter_mut()
            .filter(|(_, attempt)| attempt.pace.is_some())
            .collect();
        let demands: Vec<_> = begun
            .iter()
            .map(|(_, attempt)| (attempt.weight(), attempt.slots))
            .collect();
        let mut ends = Vec::new();
        for ((key, attempt), pace) in begun.iter_mut().zip(paces(self.slots_each, &demands)) {
            if attempt.pace.is_some_and(|(was, _)| was == pace) {
                continue;
            }
            self.counts.busy += attempt.do_work(now);
            attempt.pace = Some((pace, now));
            attempt.changes += 1;
            let end = now + attempt.left.div_f64(pace);
            ends.push((end, Occurrence::Finish(worker, incarnation, **key, attempt.changes)));
        }
        for (at, occurrence) in ends {
            self.plan(at, occurrence);
        }
    }

    fn finish(&mut self, worker: usize, incarnation: u32, key: AttemptKey, changes: u32) {
        let entry = &self.workers[worker];
        if !entry.is_alive || entry.incarnation != incarnation {
            return;
        }
        let Some(attempt) = entry.attempts.get(&key) else {
            return;
        };
        if attempt.changes != changes {
            return;
        }
        let output = attempt.output(key);
        self.remove_attempt(worker, key);
        self.workers[worker].outputs.insert(key);
        self.send_report(worker, key, AttemptStatus::Finished(output));
        let Some(live) = self.live.get_mut(&key.query) else {
            return;
        };
        let root = self.queries[live.number].stages.len() - 1;
        if key.stage.0 as usize == root {
            live.finished_roots.insert(key.task);
            self.read_result(key.query);
        }
    }

    /// Lets the client finish reading once the result is complete and the client knows where the result is.
    fn read_result(&mut self, query: QueryId) {
        let is_read = self.live.get(&query).is_some_and(|live| {
            let roots = self.queries[live.number].root_tasks();
            live.is_ready && live.finished_roots.len() == roots
        });
        if is_read {
            let at = self.now + self.draw_latency();
            self.plan(at, Occurrence::Read(query));
        }
    }

    /// Removes an attempt from its worker.
    fn remove_attempt(&mut self, worker: usize, key: AttemptKey) {
        let Some(mut attempt) = self.workers[worker].attempts.remove(&key) else {
            return;
        };
        if attempt.pace.is_some() {
            self.running -= 1;
            self.counts.busy += attempt.do_work(self.now);
            self.share_cores(worker);
        }
    }

    fn send_report(&mut self, worker: usize, attempt: AttemptKey, status: AttemptStatus) {
        let latency = self.draw_latency();
        let is_broken = self.rng.happens(self.faults.breaks);
        let delay = match is_broken {
            true => Duration::from_secs_f64(self.rng.between(1.0, RECONNECT_MS) / 1e3),
            false => Duration::ZERO,
        };
        let arrives = (self.now + latency + delay).max(self.workers[worker].last_arrival);
        self.workers[worker].last_arrival = arrives;
        let incarnation = self.workers[worker].incarnation;
        if is_broken && self.rng.happens(0.5) {
            // The server had received it, but the acknowledgement was lost.
            let first = Occurrence::Report(worker, incarnation, attempt, status.clone());
            self.plan(arrives, first);
        }
        self.plan(arrives, Occurrence::Report(worker, incarnation, attempt, status));
    }

    fn draw_latency(&mut self) -> Duration {
        LATENCY / 2 + self.rng.wait(LATENCY / 2)
    }

    /// A worker stops in whatever it does.
    fn pause_worker(&mut self, worker: usize, incarnation: u32) {
        if !self.is_running(worker, incarnation) {
            return;
        }
        let until = self.now + self.rng.wait(PAUSE);
        let entry = &mut self.workers[worker];
        for attempt in entry.attempts.values_mut().filter(|attempt| attempt.pace.is_some()) {
            self.counts.busy += attempt.do_work(self.now);
            attempt.pace = Some((0.0, self.now));
            attempt.changes += 1;
        }
        entry.paused_until = Some(until);
        self.plan(self.now + DETECTION_DELAY, Occurrence::Silent(worker, incarnation));
        self.plan(until, Occurrence::GoesOn(worker, incarnation));
    }

    fn is_running(&self, worker: usize, incarnation: u32) -> bool {
        let entry = &self.workers[worker];
        entry.is_alive && entry.incarnation == incarnation
    }

    fn suspect_worker(&mut self, worker: usize, incarnation: u32) {
        if self.is_running(worker, incarnation) && self.workers[worker].paused_until.is_some() {
            self.workers[worker].presence = Presence::Suspected;
            let worker = self.workers[worker].id;
            let reason = "it was silent".to_owned();
            self.send_event(Event::WorkerSuspected { worker, reason });
        }
    }

    /// A worker goes on where it stopped, and tells what it has if it was missed.
    fn resume_worker(&mut self, worker: usize, incarnation: u32) {
        if !self.is_running(worker, incarnation) {
            return;
        }
        let entry = &mut self.workers[worker];
        entry.paused_until = None;
        match std::mem::replace(&mut entry.presence, Presence::Here) {
            Presence::Here => self.share_cores(worker),
            Presence::Suspected => {
                self.share_cores(worker);
                let (worker, held) = (self.workers[worker].id, self.workers[worker].inventory());
                self.send_event(Event::WorkerReturned { worker, held });
            }
            Presence::GivenUp => {
                self.drop_attempts(worker);
                return self.join_worker(worker);
            }
        }
        self.plan_pause(worker);
    }

    fn plan_pause(&mut self, worker: usize) {
        if self.faults.pauses_per_hour > 0.0 {
            let mean = Duration::from_secs_f64(3600.0 / self.faults.pauses_per_hour);
            let at = self.now + self.rng.wait(mean);
            let incarnation = self.workers[worker].incarnation;
            self.plan(at, Occurrence::Hangs(worker, incarnation));
        }
    }

    fn drop_attempts(&mut self, worker: usize) {
        let entry = &mut self.workers[worker];
        entry.outputs.clear();
        for mut attempt in std::mem::take(&mut entry.attempts).into_values() {
            self.running -= usize::from(attempt.pace.is_some());
            self.counts.busy += attempt.do_work(self.now);
        }
    }

    fn kill_worker(&mut self, worker: usize, incarnation: u32) {
        if !self.is_running(worker, incarnation) {
            return;
        }
        self.workers[worker].is_alive = false;
        self.workers[worker].paused_until = None;
        self.drop_attempts(worker);
        self.plan(self.now + DETECTION_DELAY, Occurrence::Missed(worker));
        self.plan(self.now + RESTART_DELAY, Occurrence::Returns(worker));
    }

    fn join_worker(&mut self, worker: usize) {
        let entry = &mut self.workers[worker];
        entry.is_alive = true;
        entry.incarnation += 1;
        entry.attempts.clear();
        entry.outputs.clear();
        (entry.paused_until, entry.presence) = (None, Presence::Here);
        let joined = Event::WorkerJoined {
            worker: entry.id,
            slots: self.slots_each,
            address: format!("http://worker-{worker}"),
            memory_bytes: 1 << 30,
            kind: WorkerKind::Remote,
        };
        self.send_event(joined);
        if self.faults.deaths_per_hour > 0.0 {
            let mean = Duration::from_secs_f64(3600.0 / self.faults.deaths_per_hour);
            let at = self.now + self.rng.wait(mean);
            let incarnation = self.workers[worker].incarnation;
            self.plan(at, Occurrence::Dies(worker, incarnation));
        }
        self.plan_pause(worker);
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
        let graph = work.graph(self.submitted, rate, self.speculation);
        let live = Live {
            number,
            finished_roots: BTreeSet::new(),
            is_ready: false,
        };
        self.live.insert(graph.query, live);
        self.send_event(Event::Submit(graph));
    }

    /// The scheduler computes again what a query has lost; its client waits for the parts of the result among it.
    fn recover_query(&mut self, query: QueryId, attempts: usize, parts: &LostParts) {
        self.counts.recoveries += 1;
        self.counts.lost_attempts += attempts;
        if let Some(live) = self.live.get_mut(&query) {
            live.is_ready &= parts.is_empty();
        }
    }

    fn end_query(&mut self, query: QueryId, failure: Option<Failure>) {
        let Some(Live { number, .. }) = self.live.remove(&query) else {
            return;
        };
        match failure.map(|failure| failure.kind) {
            Some(FailureKind::WorkerLost) if self.tries[number] < MAX_TRIES => {
                self.counts.repeated += 1;
                let at = self.now + self.draw_latency();
                self.plan(at, Occurrence::Arrives(number));
                return;
            }
            Some(_) => self.counts.refused += 1,
            None => self.record_slowdown(number),
        }
        self.left -= 1;
    }

    fn record_slowdown(&mut self, number: usize) {
        let work = &self.queries[number];
        let took = self.now - self.arrivals[number];
        let slowdown = took.as_secs_f64() / work.isolated_time(self.slots).as_secs_f64();
        let class = match (work.priority, work.is_long()) {
            (0, false) => &mut self.counts.short,
            (0, true) => &mut self.counts.long,
            _ => &mut self.counts.prioritised,
        };
        class.push(slowdown);
    }
}
