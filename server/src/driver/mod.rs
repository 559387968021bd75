//! The one async part of the scheduler: owns the mailbox, the clock and the effects.
//!
//! ```text
//! SchedulerHandle ── Command ──┐                          ┌──> Registry::send ──> workers
//!                 ── signals ──┼──> Driver::run ── apply ─┤
//! Registry ─── WorkerEvent ────┘        ^                 └──> QueryEvents of each query
//!                                 clock ┘ (only for deadlines)
//! ```
//!
//! It never waits for a worker or a client: the connection of a worker that cannot take a message is given up, and a query
//! has a few updates at most, for which there is always room.

pub mod directory;
mod handle;
mod members;
mod signals;
pub(crate) mod subscriber;
pub mod workers;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use squadron_proto::control::{PlanRef, ServerMessage, Stage};
use squadron_proto::{Failure, QueryId, WorkerId};
use squadron_scheduler::{Capacity, Effect, Event, Limits, Scheduler};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::directory::QueryDirectory;
use self::handle::Command;
pub use self::handle::{SchedulerHandle, Snapshot};
use self::members::{Connected, Members, Start};
use self::signals::Signals;
use self::subscriber::stopping;
pub use self::subscriber::{QueryEvents, QueryUpdate, Subscriber};
use self::workers::{Registry, WorkerEvent, WorkerEventKind, WorkerInfo};

/// How many commands may wait for the driver before their senders wait.
const MAILBOX_COMMANDS: usize = 1024;
/// How many worker events are handled before the driver looks elsewhere.
const WORKER_EVENTS_AT_ONCE: usize = 256;

/// Runs the scheduler. The app owns it as one task.
#[derive(Debug)]
pub struct Driver {
    scheduler: Scheduler,
    registry: Registry,
    worker_events: mpsc::Receiver<WorkerEvent>,
    commands: mpsc::Receiver<Command>,
    signals: Arc<Signals>,
    /// Has the subscriber of each query.
    directory: Arc<dyn QueryDirectory>,
    /// For planning, which must not wait for the driver.
    capacity: Arc<Mutex<Capacity>>,
    refusal: Arc<Mutex<Option<Failure>>>,
    members: Members,
    start: Instant,
}

impl Driver {
    /// A scheduler for the workers of `registry`, whose events arrive in `worker_events`. Its time begins now.
    pub fn new(
        limits: Limits,
        directory: Arc<dyn QueryDirectory>,
        registry: Registry,
        worker_events: mpsc::Receiver<WorkerEvent>,
    ) -> (Self, SchedulerHandle) {
        let (sender, commands) = mpsc::channel(MAILBOX_COMMANDS);
        let signals = Arc::new(Signals::default());
        let capacity = Arc::<Mutex<Capacity>>::default();
        let refusal = Arc::<Mutex<Option<Failure>>>::default();
        let handle = SchedulerHandle {
            commands: sender,
            signals: Arc::clone(&signals),
            capacity: Arc::clone(&capacity),
            refusal: Arc::clone(&refusal),
            directory: Arc::clone(&directory),
            plan_bytes: Arc::default(),
        };
        let driver = Self {
            scheduler: Scheduler::new(limits),
            registry,
            worker_events,
            commands,
            signals,
            directory,
            capacity,
            refusal,
            members: Members::default(),
            start: Instant::now(),
        };
        (driver, handle)
    }

    /// Runs until `stop`; queries that are there then end with
    /// [`FailureKind::Draining`](squadron_proto::FailureKind::Draining), and the connections to the workers end when
    /// these have been told.
    pub async fn run(mut self, stop: CancellationToken) {
        let signals = Arc::clone(&self.signals);
        let mut batch = Vec::with_capacity(WORKER_EVENTS_AT_ONCE);
        loop {
            let deadline = self.scheduler.next_deadline().map(|at| self.start + at);
            tokio::select! {
                () = stop.cancelled() => break,
                () = signals.notify.notified() => self.handle_signals(),
                _ = self.worker_events.recv_many(&mut batch, WORKER_EVENTS_AT_ONCE) => {
                    for event in batch.drain(..) {
                        self.handle_worker_event(event);
                    }
                }
                Some(command) = self.commands.recv() => self.handle_command(command),
                () = passed(deadline) => self.apply(Event::Tick),
            }
        }
        self.commands.close();
        // Waits for commands whose place in the mailbox was taken before it was closed.
        while let Some(command) = self.commands.recv().await {
            self.handle_command(command);
        }
        for query in self.scheduler.queries() {
            let failure = stopping();
            self.apply(Event::Cancel {
                query: query.id,
                failure,
            });
        }
        self.registry.shutdown();
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Submit(graph) => self.apply(Event::Submit(*graph)),
            Command::Regroup(groups) => self.apply(Event::Regroup(groups)),
            Command::Snapshot(answer) => {
                let snapshot = Snapshot {
                    queries: self.scheduler.queries(),
                    stopping: self.scheduler.stopping(),
                    groups: self.scheduler.group_loads(),
                    workers: self.workers(),
                };
                // An asker that has gone away needs no answer.
                let _ = answer.send(snapshot);
            }
        }
    }

    /// A signal may be about a query that still waits in the mailbox: what was there when the signals were taken comes
    /// first.
    fn handle_signals(&mut self) {
        let pending = self.signals.take();
        for _ in 0..self.commands.len() {
            if let Ok(command) = self.commands.try_recv() {
                self.handle_command(command);
            }
        }
        for query in pending.read {
            self.apply(Event::ResultDone { query });
        }
        for (query, failure) in pending.unreadable {
            self.apply(Event::ResultUnreadable { query, failure });
        }
        for (query, failure) in pending.cancelled {
            self.apply(Event::Cancel { query, failure });
        }
    }

    fn handle_worker_event(&mut self, event: WorkerEvent) {
        let WorkerEvent {
            worker,
            connection,
            kind,
        } = event;
        match kind {
            WorkerEventKind::Joined {
                kind,
                epoch,
                slots,
                address,
                memory_bytes,
            } => {
                let joined = Event::WorkerJoined {
                    worker,
                    slots,
                    address,
                    memory_bytes,
                    kind,
                };
                self.connect(worker, connection, Start { epoch, kind }, joined);
            }
            _ if !self.members.is_current(worker, connection) => {
                debug!(%worker, connection, "event of a connection that is gone");
            }
            WorkerEventKind::Silent { reason } => {
                warn!(%worker, reason, "nothing is heard of a worker");
                self.members.leave(worker);
                self.apply(Event::WorkerSuspected { worker, reason });
            }
            WorkerEventKind::Lost { reason } => {
                warn!(%worker, reason, "worker lost");
                self.lose(worker, reason);
            }
            WorkerEventKind::Left => {
                info!(%worker, "worker has left");
                let reason = "it has left".to_owned();
                self.lose(worker, reason);
            }
            WorkerEventKind::Draining => {
                info!(%worker, "worker is leaving");
                self.apply(Event::WorkerDraining { worker });
            }
            WorkerEventKind::InventoryEnd => {
                if let Some(held) = self.members.end_inventory(worker) {
                    info!(%worker, attempts = held.len(), "worker is back");
                    self.apply(Event::WorkerReturned { worker, held });
                }
            }
            WorkerEventKind::Report { attempt, status } => {
                self.members.note(worker, attempt);
                self.apply(Event::Report {
                    worker,
                    attempt,
                    status,
                });
            }
        }
    }

    fn lose(&mut self, worker: WorkerId, reason: String) {
        self.members.remove(worker);
        self.registry.forget(worker);
        self.apply(Event::WorkerLost { worker, reason });
    }

    /// A connection of a worker stands. `joined`: what the scheduler hears of one that has nothing.
    fn connect(&mut self, worker: WorkerId, connection: u64, start: Start, joined: Event) {
        match self.members.connect(worker, connection, start) {
            Connected::Outdated => debug!(%worker, connection, "a connection that was replaced"),
            Connected::New => {
                if let Event::WorkerJoined { slots, address, .. } = &joined {
                    info!(%worker, kind = ?start.kind, slots, address, "worker joined");
                }
                self.apply(joined);
            }
            Connected::Again => {
                info!(%worker, "worker has connected again");
                // Messages over the former connection may be lost, also when nobody has missed it yet.
                let reason = "it opened another connection".to_owned();
                self.apply(Event::WorkerSuspected { worker, reason });
            }
        }
    }

    fn apply(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let about = match &event {
                Event::Report { attempt, .. } => Some(attempt.query),
                _ => None,
            };
            let may_change_capacity = match &event {
                Event::WorkerJoined { .. }
                | Event::WorkerSuspected { .. }
                | Event::WorkerReturned { .. }
                | Event::WorkerLost { .. }
                | Event::WorkerDraining { .. } => true,
                Event::Submit(_)
                | Event::Regroup(_)
                | Event::Cancel { .. }
                | Event::ResultDone { .. }
                | Event::ResultUnreadable { .. }
                | Event::Report { .. }
                | Event::Tick => false,
            };
            let effects = self.scheduler.apply(self.start.elapsed(), event);
            if may_change_capacity {
                let mut capacity = self.capacity.lock().unwrap_or_else(PoisonError::into_inner);
                *capacity = self.scheduler.capacity();
            }
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = self.scheduler.refusal();
            self.tell_causes(&effects);
            for effect in effects {
                if let Some(lost) = self.carry_out(effect) {
                    events.push(lost);
                }
            }
            if let Some(query) = about {
                self.show_progress(query);
            }
        }
    }

    /// The queries that end in failure now and whose results clients may be reading at workers.
    fn failed_with_readers(&self, effects: &[Effect]) -> HashMap<QueryId, Failure> {
        let mut failed = HashMap::new();
        for effect in effects {
            if let Effect::Ended {
                query,
                outcome: Err(failure),
                ..
            } = effect
            {
                self.directory.with_subscriber(*query, &mut |subscriber| {
                    if subscriber.has_retained_result {
                        failed.insert(*query, failure.clone());
                    }
                });
            }
        }
        failed
    }

    /// Readers hear why before attempts stop and output goes: a stopped attempt ends its output too, with a less useful
    /// failure.
    fn tell_causes(&self, effects: &[Effect]) {
        let failed = self.failed_with_readers(effects);
        if failed.is_empty() {
            return;
        }
        let mut told = BTreeSet::new();
        for effect in effects {
            let (worker, query) = match effect {
                Effect::CancelAttempt { worker, attempt } => (*worker, attempt.query),
                Effect::Release { worker, release } => (*worker, release.query),
                _ => continue,
            };
            if let Some(failure) = failed.get(&query)
                && let Some(connection) = self.members.connection(worker)
                && told.insert((worker, query))
            {
                let message = ServerMessage::QueryFailed(query, failure.clone());
                // The messages that follow find out that a worker cannot be reached.
                let _ = self.registry.send(worker, connection, message);
            }
        }
    }

    fn show_progress(&self, query: QueryId) {
        let mut is_wanted = false;
        self.directory
            .with_subscriber(query, &mut |subscriber| is_wanted = subscriber.wants_progress());
        // The walk over the query's tasks holds up nothing else.
        if let Some(progress) = is_wanted.then(|| self.scheduler.progress(query)).flatten() {
            self.directory
                .with_subscriber(query, &mut |subscriber| subscriber.show(progress.clone()));
        }
    }

    /// Answers with what happened to the worker when that cannot be reached.
    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::SendStage { worker, stage } => self.send_stage(worker, stage),
            Effect::Launch { worker, launch } => self.send(worker, ServerMessage::Launch(launch)),
            Effect::Commit { worker, attempt } => self.send(worker, ServerMessage::Commit(attempt)),
            Effect::CancelAttempt { worker, attempt } => self.send(worker, ServerMessage::Cancel(attempt)),
            Effect::Release { worker, release } => self.send(worker, ServerMessage::Release(release)),
            Effect::Spare { worker, query, stage } => self.send(worker, ServerMessage::Spare(query, stage)),
            Effect::Recovering {
                query,
                failure,
                attempts,
                parts,
            } => {
                warn!(query_id = %query, kind = ?failure.kind, attempts, "computing again what is lost: {failure}");
                if !parts.is_empty() {
                    self.directory.with_subscriber(query, &mut |subscriber| {
                        subscriber.parts_lost(parts.clone(), failure.clone());
                    });
                }
                self.show_progress(query);
                None
            }
            Effect::SecondAttempt {
                slow,
                on,
                runs_for,
                worker,
            } => {
                info!(attempt = %slow, %worker, "second attempt at a task that takes {runs_for:?} on worker {on} so far");
                None
            }
            Effect::WorkerAvoided { worker, reason } => {
                warn!(%worker, "a worker is avoided for a while: {reason}");
                None
            }
            Effect::ResultReady { query, parts } => {
                let mut parts = Some(parts);
                self.directory.with_subscriber(query, &mut |subscriber| {
                    if let Some(parts) = parts.take() {
                        subscriber.result_ready(parts);
                    }
                });
                None
            }
            Effect::Ended { query, outcome, info } => {
                match &outcome {
                    Ok(summary) => debug!(query_id = %query, elapsed = ?summary.elapsed, "query finished"),
                    Err(failure) => info!(query_id = %query, kind = ?failure.kind, "query failed: {failure}"),
                }
                let ended = outcome.as_ref().map(|_| ()).map_err(Failure::clone);
                if let Some(subscriber) = self.directory.ended(query, ended, info) {
                    subscriber.end(outcome);
                }
                None
            }
            Effect::Released { query } => {
                self.directory.released(query);
                None
            }
            Effect::WorkerGivenUp { worker, reason } => {
                warn!(%worker, reason, "worker lost");
                if let Some(connection) = self.members.remove(worker) {
                    // It may have connected again at the last moment; it does so once more, and joins anew.
                    self.registry.close(worker, connection);
                }
                self.registry.forget(worker);
                None
            }
            Effect::Unexpected { worker, attempt, what } => {
                warn!(%worker, query_id = %attempt.query, %attempt, "unexpected report: {what}");
                None
            }
        }
    }

    /// A plan that cannot be sent is the planner's mistake, not the worker's.
    fn send_stage(&mut self, worker: WorkerId, stage: Stage) -> Option<Event> {
        let query = stage.query;
        let is_stuck = matches!(stage.plan, PlanRef::InProcess(_)) && self.registry.is_remote(worker);
        if is_stuck {
            let failure = Failure::internal(format!("a plan of query {query} cannot leave the server's process"));
            return Some(Event::Cancel { query, failure });
        }
        self.send(worker, ServerMessage::Stage(stage))
    }

    /// What a worker that is away misses, it is told when it returns.
    fn send(&mut self, worker: WorkerId, message: ServerMessage) -> Option<Event> {
        let connection = self.members.connection(worker)?;
        let unreachable = self.registry.send(worker, connection, message).err()?;
        let reason = unreachable.to_string();
        self.registry.close(worker, connection);
        if self.members.leave(worker) {
            warn!(%worker, reason, "a worker cannot be reached");
            return Some(Event::WorkerSuspected { worker, reason });
        }
        warn!(%worker, reason, "worker lost");
        self.members.remove(worker);
        Some(Event::WorkerLost { worker, reason })
    }

    fn workers(&self) -> Vec<WorkerInfo> {
        let loads = self.scheduler.workers();
        loads
            .into_iter()
            .map(|load| {
                let vitals = self.registry.vitals(load.id);
                WorkerInfo {
                    id: load.id,
                    kind: load.kind,
                    address: load.address,
                    slots: load.slots,
                    used_slots: load.used_slots,
                    running: load.running,
                    stopping: load.stopping,
                    draining: load.draining,
                    suspected: load.suspected,
                    avoided: load.avoided,
                    failures: load.failures,
                    memory_bytes: vitals.memory_bytes,
                    last_heartbeat: vitals.last_heartbeat,
                    version: vitals.version,
                }
            })
            .collect()
    }
}

impl Drop for Driver {
    /// Also when the driver panics, clients must hear that their queries are over.
    fn drop(&mut self) {
        for subscriber in self.directory.abandon(&stopping()) {
            subscriber.end(Err(stopping()));
        }
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
