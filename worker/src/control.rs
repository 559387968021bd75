//! The control loop of a worker: messages of the server go in, reports come out. It knows no transport.
//!
//! ```text
//! messages ──> receive ──┐                        ┌──> outbox ──> reports
//!                        ├── registry (attempts) ─┤
//! changes  ──> observe ──┘          │             └──> store (release)
//!    ^                              └ commit: spawns the attempt on the threads of its lane
//!    └───────────────────────────────────┘
//! ```
//!
//! One loop owns all of it, so nothing here is locked. It never waits until a report is sent: reports queue in the
//! outbox, so a cancel is received even when the server reads slowly.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use squadron_proto::control::{AttemptStatus, Heartbeat, Launch, Release, ServerMessage, Stage, WorkerMessage};
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, StageId, WorkerId};
use squadron_shuffle::Removed;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::attempts::{Cancel, Commit, Registry};
use crate::engine::Engine;
use crate::guard;
use crate::outbox::{Delivery, Outbox};
use crate::runner::{Attempt, Change, Progress};
use crate::stage::StagePlan;
use crate::usage::Usage;
use crate::watchdog::Watchdog;

/// How many changes of attempts may wait for the loop. Past that an attempt waits to report, while its plan goes on.
const CHANGES_LIMIT: usize = 256;

/// How many stages may be announced and not yet released.
const STAGES_LIMIT: usize = 16_384;

/// How many reports may be unacknowledged before the connection is given up.
const UNACKNOWLEDGED_LIMIT: usize = 65_536;

/// How long the server may take to read the last messages of a leaving worker.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long attempts may take to stop, and files to be removed, when the worker ends.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// One worker, through all its connections.
pub(crate) struct Control {
    engine: Arc<Engine>,
    worker: WorkerId,
    registry: Registry,
    stages: BTreeMap<(QueryId, StageId), Arc<StagePlan>>,
    outbox: Outbox,
    /// Owns the running attempts, and the threads that free output.
    running: JoinSet<()>,
    changes: mpsc::Receiver<Change>,
    /// Copied into every attempt.
    changes_sender: mpsc::Sender<Change>,
    watchdog: Watchdog,
    leaving: Leaving,
    /// Whether the server has still to hear that it knows every attempt; after a reconnect.
    owes_inventory_end: bool,
}

/// Whether the worker is leaving its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// Decided, but the server does not know yet.
    Unannounced,
    Announced,
}

/// One connection to the server.
pub(crate) struct Connection<I> {
    /// Messages of the server. An error ends the connection.
    pub(crate) incoming: I,
    /// Messages to the server.
    pub(crate) outgoing: mpsc::Sender<WorkerMessage>,
    /// The heartbeat interval; `None`: no heartbeats.
    pub(crate) heartbeat: Option<Duration>,
    /// Cancelled when the worker shall leave.
    pub(crate) leave: CancellationToken,
}

/// Why a connection has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Disconnected {
    /// The server closed it, or it broke.
    Lost(String),
    /// The worker has left: it runs no attempt, holds no output, and every report is acknowledged.
    Left,
}

impl<I: Stream + Unpin> Connection<I> {
    /// Sends nothing more and waits, for a bounded time, until the server has read everything and closed its side.
    pub(crate) async fn close(self) {
        let Self {
            mut incoming, outgoing, ..
        } = self;
        drop(outgoing);
        let closed = async { while incoming.next().await.is_some() {} };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
    }
}

impl Control {
    pub(crate) fn new(engine: Arc<Engine>, worker: WorkerId, slots: u32, delivery: Delivery) -> Self {
        let (changes_sender, changes) = mpsc::channel(CHANGES_LIMIT);
        Self {
            watchdog: Watchdog::new(engine.stall_timeout),
            engine,
            worker,
            registry: Registry::new(slots),
            stages: BTreeMap::new(),
            outbox: Outbox::new(delivery),
            running: JoinSet::new(),
            changes,
            changes_sender,
            leaving: Leaving::No,
            owes_inventory_end: false,
        }
    }

    /// Serves one connection until it ends.
    pub(crate) async fn serve<I>(&mut self, connection: &mut Connection<I>) -> Disconnected
    where
        I: Stream<Item = Result<ServerMessage, String>> + Unpin,
    {
        let Connection {
            incoming,
            outgoing,
            heartbeat,
            leave,
        } = connection;
        let mut heartbeat = heartbeat.map(interval);
        let mut looks = interval(self.watchdog.interval());
        loop {
            tokio::select! {
                message = incoming.next() => match message {
                    Some(Ok(message)) => self.receive(message),
                    Some(Err(reason)) => return Disconnected::Lost(reason),
                    None => return Disconnected::Lost("the server closed the connection".to_owned()),
                },
                Some(change) = self.changes.recv() => self.observe(change),
                Some(_) = self.running.join_next() => {}
                permit = outgoing.reserve(), if self.has_messages() => match permit {
                    Ok(permit) => self.send(permit),
                    Err(_) => return Disconnected::Lost("the server stopped listening".to_owned()),
                },
                () = next_beat(&mut heartbeat) => {
                    // May be skipped: a full channel is being read, or else the keep-alive ends the connection.
                    let _ = outgoing.try_send(WorkerMessage::Heartbeat(self.heartbeat()));
                }
                _ = looks.tick() => self.give_up_stalled(),
                () = leave.cancelled(), if self.leaving == Leaving::No => {
                    self.leaving = Leaving::Unannounced;
                }
            }
            self.report_dropped();
            if self.outbox.unacknowledged() > UNACKNOWLEDGED_LIMIT {
                return Disconnected::Lost("the server acknowledges nothing".to_owned());
            }
            if self.has_left() {
                return Disconnected::Left;
            }
        }
    }

    /// Goes on without a connection. After `patience` the server is lost, and all attempts and output are released.
    pub(crate) async fn offline(&mut self, patience: Duration) -> Infallible {
        let mut lost = pin!(tokio::time::sleep(patience));
        let mut is_lost = false;
        loop {
            tokio::select! {
                () = &mut lost, if !is_lost => {
                    is_lost = true;
                    warn!(worker = %self.worker, ?patience, "server lost, dropping its attempts and output");
                    self.abandon();
                }
                Some(change) = self.changes.recv() => self.observe(change),
                Some(_) = self.running.join_next() => {}
            }
            if is_lost {
                self.outbox.clear();
            }
        }
    }

    /// Called when a new connection stands: queues unacknowledged reports again, then the state of every other attempt
    /// that is here, then the end of this inventory. Attempts keep their slots: a server that does not know an attempt
    /// answers with its release before it launches another.
    pub(crate) fn reconnect(&mut self) {
        self.outbox.rewind();
        for (key, status) in self.registry.inventory() {
            if !self.outbox.mentions(key) {
                self.outbox.push(key, status);
            }
        }
        // A launch follows its stage on the same connection: stages of queries without attempts are announced again.
        let queries = self.registry.queries();
        self.stages.retain(|(query, _), _| queries.contains(query));
        self.owes_inventory_end = true;
    }

    /// Stops all attempts and waits until they have stopped and their rows are freed, at most [`STOP_TIMEOUT`]: after that
    /// an attempt is stuck between two batches, or a disk does not answer.
    pub(crate) async fn stop(&mut self) {
        self.abandon();
        let stopped = async {
            while !self.running.is_empty() {
                tokio::select! {
                    Some(_) = self.running.join_next() => {}
                    Some(change) = self.changes.recv() => self.observe(change),
                }
            }
        };
        if tokio::time::timeout(STOP_TIMEOUT, stopped).await.is_err() {
            let left = self.running.len();
            warn!(worker = %self.worker, left, "attempts do not stop, or files are not removed; going without them");
        }
        // An attempt sends its last change before it ends.
        while let Ok(change) = self.changes.try_recv() {
            self.observe(change);
        }
    }

    /// Whether the worker, or the server by a drain, has decided that the worker leaves.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving != Leaving::No
    }

    fn receive(&mut self, message: ServerMessage) {
        match message {
            ServerMessage::Stage(stage) => self.announce(stage),
            ServerMessage::Launch(launch) => self.reserve(launch),
            ServerMessage::Commit(key) => self.commit(key),
            ServerMessage::Cancel(key) => match self.registry.cancel(key) {
                Cancel::Gone => self.outbox.push(key, AttemptStatus::Cancelled),
                Cancel::Stopping => debug!(attempt = %key, "told to stop"),
                Cancel::Finished => self.free(self.engine.store.take_one(key)),
                Cancel::Nothing => debug!(attempt = %key, "nothing to cancel"),
            },
            ServerMessage::Release(release) => self.release(&release),
            ServerMessage::Spare(query, stage) => self.engine.store.keep_spare(query, stage),
            ServerMessage::QueryFailed(query, failure) => self.free(self.engine.store.fail(query, &failure)),
            ServerMessage::Acknowledge(sequence) => self.outbox.acknowledge(sequence),
            ServerMessage::Drain => {
                if self.leaving == Leaving::No {
                    self.leaving = Leaving::Unannounced;
                }
            }
            ServerMessage::Challenge(_) | ServerMessage::Registered(_) => {
                warn!("the server sent a handshake message after the registration");
            }
        }
    }

    fn announce(&mut self, stage: Stage) {
        let name = (stage.query, stage.stage);
        if self.stages.len() >= STAGES_LIMIT && !self.stages.contains_key(&name) {
            let (query, stage) = name;
            error!(query_id = %query, %stage, limit = STAGES_LIMIT, "stage dropped: too many are not released");
            return;
        }
        self.stages.insert(name, Arc::new(StagePlan::new(stage)));
    }

    fn reserve(&mut self, launch: Launch) {
        let key = launch.attempt;
        let outcome = match self.leaving {
            Leaving::No => self.registry.reserve(launch),
            Leaving::Unannounced | Leaving::Announced => Err("it is leaving".to_owned()),
        };
        let status = match outcome {
            Ok(()) => AttemptStatus::Reserved,
            Err(reason) => {
                info!(attempt = %key, reason, "attempt refused");
                AttemptStatus::Refused { reason }
            }
        };
        self.outbox.push(key, status);
    }

    fn commit(&mut self, key: AttemptKey) {
        let (launch, stop) = match self.registry.commit(key) {
            Commit::Run(launch, stop) => (launch, stop),
            Commit::AlreadyRunning => return,
            Commit::Unknown => {
                let message = format!("worker {} does not hold attempt {key}", self.worker);
                let failure = Failure::new(FailureKind::WorkerLost, message);
                return self.outbox.push(key, AttemptStatus::Failed(failure));
            }
        };
        let Some(stage) = self.stages.get(&(key.query, key.stage)) else {
            let message = format!("attempt {key} was launched before its stage was announced");
            return self.end(key, AttemptStatus::Failed(Failure::internal(message)));
        };
        let usage = Arc::<Usage>::default();
        self.watchdog.watch(key, Arc::clone(&usage), Instant::now());
        let attempt = Attempt {
            engine: Arc::clone(&self.engine),
            stage: Arc::clone(stage),
            launch,
            committed: Instant::now(),
            usage: Arc::clone(&usage),
            stop,
            changes: self.changes_sender.clone(),
        };
        let span = info_span!(
            "attempt",
            query_id = %key.query,
            stage = %key.stage,
            task = %key.task,
            attempt = %key.attempt,
            worker = %self.worker,
        );
        let lane = self.engine.lane(attempt.launch.lane);
        self.running.spawn_on(attempt.run().instrument(span), lane);
    }

    fn observe(&mut self, change: Change) {
        let Change { attempt, progress } = change;
        match progress {
            Progress::Entered(phase) => {
                if let Some(status) = self.registry.enter(attempt, phase) {
                    self.outbox.push(attempt, status);
                }
            }
            Progress::Ended(status) => self.end(attempt, status),
        }
    }

    /// Attempts that make no progress are given up at once; they end when what they wait for comes, or never.
    fn give_up_stalled(&mut self) {
        let registry = &self.registry;
        for key in self
            .watchdog
            .find_stalled(Instant::now(), |key| registry.is_parked(key))
        {
            let message = format!(
                "attempt {key} has made no progress for {:?} on worker {}, as long as --stall-timeout allows",
                self.watchdog.stall_timeout(),
                self.worker
            );
            warn!(attempt = %key, "{message}");
            if self.registry.cancel(key) == Cancel::Stopping {
                let failure = Failure::new(FailureKind::WorkerLost, message);
                self.outbox.push(key, AttemptStatus::Failed(failure));
            }
        }
    }

    /// Takes the end of an attempt whose work has stopped.
    fn end(&mut self, key: AttemptKey, status: AttemptStatus) {
        self.watchdog.forget(key);
        let Some(end) = self.registry.end(key, status) else {
            return error!(attempt = %key, "an attempt ended that did not run");
        };
        if end.release_again || end.status == AttemptStatus::Cancelled {
            // Its stage may have other attempts here, whose output is wanted.
            self.free(self.engine.store.take_one(key));
        }
        if let AttemptStatus::Failed(failure) = &end.status {
            match failure.kind {
                FailureKind::Internal => error!(attempt = %key, "attempt failed: {failure}"),
                _ => info!(attempt = %key, kind = ?failure.kind, "attempt failed: {failure}"),
            }
        }
        self.outbox.push(key, end.status);
    }

    fn release(&mut self, release: &Release) {
        for key in self.registry.release(release) {
            self.outbox.push(key, AttemptStatus::Cancelled);
        }
        // Plans stay as long as the query: what was released may have to be computed again.
        if release.stages.is_empty() {
            self.stages.retain(|(query, _), _| *query != release.query);
        }
        self.free(self.engine.store.take(release));
    }

    /// Frees rows that nobody reads any more: on a thread of its own where that would keep the loop from its server.
    fn free(&mut self, rows: Removed) {
        if rows.takes_long_to_free() {
            self.running.spawn_blocking(move || drop(rows));
        }
    }

    /// Spare output has given way to something else, or must, since the worker leaves.
    fn report_dropped(&mut self) {
        let mut dropped = self.engine.store.take_dropped();
        for &key in &dropped {
            self.free(self.engine.store.take_one(key));
        }
        if self.is_leaving() {
            let spares = self.engine.store.take_spares();
            dropped.extend(spares.keys());
            self.free(spares);
        }
        for key in dropped {
            if self.registry.forget_output(key) {
                self.outbox.push(key, AttemptStatus::Dropped);
            }
        }
    }

    /// Releases everything of every query.
    fn abandon(&mut self) {
        let mut queries = self.registry.queries();
        queries.extend(self.stages.keys().map(|(query, _)| *query));
        for query in queries {
            self.release(&Release { query, stages: vec![] });
        }
    }

    fn has_messages(&self) -> bool {
        self.leaving == Leaving::Unannounced || self.outbox.has_unsent() || self.owes_inventory_end
    }

    /// Leaving is announced before all waiting reports: the sooner the server stops launching, the better.
    fn send(&mut self, permit: mpsc::Permit<'_, WorkerMessage>) {
        if self.leaving == Leaving::Unannounced {
            self.leaving = Leaving::Announced;
            permit.send(WorkerMessage::Leaving);
        } else if let Some(report) = self.outbox.next() {
            permit.send(WorkerMessage::Report(report));
        } else if std::mem::take(&mut self.owes_inventory_end) {
            permit.send(WorkerMessage::InventoryEnd);
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        let usage = self.engine.store.usage();
        Heartbeat {
            running_attempts: u32::try_from(self.registry.running()).unwrap_or(u32::MAX),
            memory_used_bytes: self.engine.memory_used_bytes(),
            shuffle_bytes: usage.memory_bytes,
            disk_bytes: usage.disk_bytes,
            resident_bytes: guard::resident_bytes().unwrap_or(0) as u64,
        }
    }

    fn has_left(&self) -> bool {
        self.leaving == Leaving::Announced && self.registry.is_empty() && self.outbox.is_empty()
    }
}

fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Waits for the next heartbeat; for ever, where none is wanted.
async fn next_beat(heartbeat: &mut Option<Interval>) {
    match heartbeat {
        Some(interval) => _ = interval.tick().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
