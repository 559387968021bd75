//! The connections of workers, embedded and remote: one entry and one task a worker.
//!
//! | happens | entry | event |
//! |---|---|---|
//! | `attach` | made, an older connection of that worker closed | `Joined` |
//! | a report, the end of an inventory, a sign of leaving | | `Report`, `InventoryEnd`, `Draining` |
//! | a remote worker's stream breaks, silence, garbage, a stall | removed | `Silent` |
//! | a worker that was leaving hangs up | removed | `Left` |
//! | a channel inside the process closes | removed | `Lost` |
//! | `close` (the driver could not send) | removed | none |
//!
//! Each connection has a number that only grows. Events carry it, so that what an old connection still says cannot be
//! taken for words of the new one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use squadron_proto::WorkerKind;
use squadron_proto::control::{AttemptStatus, Heartbeat, ServerMessage, WorkerMessage};
use squadron_proto::{AttemptKey, WorkerId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::transport::{Outbox, Patience, Transport, Unreachable};

/// How many events may wait for the driver before the workers' streams are read no further.
const EVENTS: usize = 4096;
/// How many messages of one worker are handled before their reports are acknowledged.
const MESSAGES_AT_ONCE: usize = 64;

/// Limits of the registry.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// How many workers may be connected.
    pub max_workers: usize,
    /// How often a remote worker shall send a heartbeat.
    pub heartbeat_interval: Duration,
    /// After how long a silence the connection of a remote worker counts as broken.
    pub heartbeat_timeout: Duration,
    /// How long a remote worker keeps attempts and output while it does not reach the server.
    pub keep: Duration,
    /// How long a worker may take no message while some wait.
    pub stall_timeout: Duration,
    /// How many messages may wait for one worker.
    pub backlog_messages: usize,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            max_workers: 4096,
            heartbeat_interval: Duration::from_millis(500),
            heartbeat_timeout: Duration::from_secs(2),
            keep: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(5),
            backlog_messages: 16 * 1024,
        }
    }
}

/// What a worker did, with the number of its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerEvent {
    /// Which worker.
    pub worker: WorkerId,
    /// Over which connection; a worker's later connections have greater numbers.
    pub connection: u64,
    /// What it did.
    pub kind: WorkerEventKind,
}

/// What a worker can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerEventKind {
    /// It is ready for attempts.
    Joined {
        /// What kind it is.
        kind: WorkerKind,
        /// Which start of the worker; after a broken connection, the same start has what it had.
        epoch: u64,
        /// How many slots it offers.
        slots: u32,
        /// `http://host:port` of its output; empty: the server itself.
        address: String,
        /// Its memory pool, in bytes.
        memory_bytes: u64,
    },
    /// It leaves when its attempts have ended.
    Draining,
    /// An attempt changed its state.
    Report {
        /// Which attempt.
        attempt: AttemptKey,
        /// Its new state.
        status: AttemptStatus,
    },
    /// It has connected again and reported all that it has.
    InventoryEnd,
    /// Its connection is broken; it may connect again.
    Silent {
        /// How that was seen, as half a sentence.
        reason: String,
    },
    /// It has left in order.
    Left,
    /// Its connection is over for good.
    Lost {
        /// How that was seen, as half a sentence.
        reason: String,
    },
}

/// A worker that wants to be attached.
#[derive(Clone, Debug)]
pub(super) struct Joining {
    pub(super) worker: WorkerId,
    pub(super) epoch: u64,
    pub(super) kind: WorkerKind,
    pub(super) slots: u32,
    pub(super) address: String,
    pub(super) vitals: Vitals,
}

/// How a worker is, as far as the scheduler does not care.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vitals {
    pub(crate) memory_bytes: u64,
    pub(crate) last_heartbeat: Heartbeat,
    pub(crate) version: String,
}

/// Why a worker was not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0} workers are connected, more are not allowed; stop one of them first")]
    TooMany(usize),
    #[error("a later start of this worker is connected; give each worker process an id of its own")]
    Outdated,
    #[error("the server is shutting down")]
    Stopping,
}

/// One end of one connection.
#[derive(Debug)]
pub(super) struct Attached {
    worker: WorkerId,
    connection: u64,
    transport: Arc<Transport>,
    closed: CancellationToken,
}

/// What a worker has said on one connection.
#[derive(Debug, Default)]
struct Heard {
    last_sequence: Option<u64>,
    /// It has said that it leaves.
    leaves: bool,
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// As half a sentence; the worker may still be there.
    Broken(String),
    /// The worker had said that it leaves, and hung up.
    Left,
}

impl End {
    pub(super) fn reason(&self) -> &str {
        match self {
            Self::Broken(reason) => reason,
            Self::Left => "it has left",
        }
    }
}

#[derive(Debug)]
struct Connection {
    number: u64,
    epoch: u64,
    transport: Arc<Transport>,
    closed: CancellationToken,
    vitals: Vitals,
}

#[derive(Debug, Default)]
struct Connections {
    last_number: u64,
    by_worker: HashMap<WorkerId, Connection>,
    /// How remote workers were that have no connection and may return.
    absent: HashMap<WorkerId, Vitals>,
}

/// The workers that are connected. Clones share one registry.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: RegistryOptions,
    events: mpsc::Sender<WorkerEvent>,
    connections: Mutex<Connections>,
    tasks: Mutex<JoinSet<()>>,
    stop: CancellationToken,
}

impl Registry {
    /// An empty registry, and what its workers will do.
    pub fn new(options: RegistryOptions) -> (Self, mpsc::Receiver<WorkerEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let inner = Inner {
            options,
            events,
            connections: Mutex::default(),
            tasks: Mutex::default(),
            stop: CancellationToken::new(),
        };
        (Self { inner: Arc::new(inner) }, receiver)
    }

    /// Attaches a worker of this process; it is lost when it drops its end of a channel. Returns once the scheduler has
    /// been told; nothing happens when the server is shutting down.
    pub async fn attach_embedded(
        &self,
        worker: WorkerId,
        kind: WorkerKind,
        slots: u32,
        memory_bytes: u64,
        to_worker: mpsc::Sender<ServerMessage>,
        from_worker: mpsc::Receiver<WorkerMessage>,
    ) {
        let joining = Joining {
            worker,
            epoch: 0,
            kind,
            slots,
            address: String::new(),
            vitals: Vitals {
                memory_bytes,
                last_heartbeat: Heartbeat::default(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
        };
        let transport = Transport::InProcess(Outbox::new(to_worker, self.patience()));
        match self.attach(joining, transport, None).await {
            Ok(attached) => {
                let registry = self.clone();
                let messages = ReceiverStream::new(from_worker).map(Ok);
                self.spawn(async move { registry.converse(&attached, messages, None).await });
            }
            Err(refusal) => debug!(%worker, "embedded worker not attached: {refusal}"),
        }
    }

    /// Whether messages to the worker have somewhere to go.
    pub fn is_reachable(&self, worker: WorkerId) -> bool {
        self.connections().by_worker.contains_key(&worker)
    }

    /// Whether the worker is in another process.
    pub(crate) fn is_remote(&self, worker: WorkerId) -> bool {
        let connections = self.connections();
        let entry = connections.by_worker.get(&worker);
        entry.is_some_and(|entry| entry.transport.is_remote())
    }

    /// Ends all connections and attaches no more.
    pub fn shutdown(&self) {
        self.inner.stop.cancel();
        self.connections().by_worker.clear();
    }

    /// Hands a message to a worker without waiting.
    ///
    /// # Errors
    /// When that connection is over or cannot take it; the worker is to be closed then.
    pub(crate) fn send(&self, worker: WorkerId, connection: u64, message: ServerMessage) -> Result<(), Unreachable> {
        let transport = {
            let connections = self.connections();
            let entry = connections.by_worker.get(&worker).ok_or(Unreachable::Gone)?;
            if entry.number != connection {
                return Err(Unreachable::Gone);
            }
            Arc::clone(&entry.transport)
        };
        transport.send(message)
    }

    /// Ends a connection without an event about it.
    pub(crate) fn close(&self, worker: WorkerId, connection: u64) {
        let mut connections = self.connections();
        if connections
            .by_worker
            .get(&worker)
            .is_some_and(|entry| entry.number == connection)
            && let Some(entry) = connections.by_worker.remove(&worker)
        {
            entry.closed.cancel();
            if entry.transport.is_remote() {
                connections.absent.insert(worker, entry.vitals);
            }
        }
    }

    /// A worker that has no connection will not return.
    pub(crate) fn forget(&self, worker: WorkerId) {
        self.connections().absent.remove(&worker);
    }

    pub(crate) fn vitals(&self, worker: WorkerId) -> Vitals {
        let connections = self.connections();
        let present = connections.by_worker.get(&worker).map(|entry| &entry.vitals);
        let vitals = present.or_else(|| connections.absent.get(&worker));
        vitals.cloned().unwrap_or_default()
    }

    pub(super) fn options(&self) -> &RegistryOptions {
        &self.inner.options
    }

    pub(super) fn patience(&self) -> Patience {
        Patience {
            backlog_messages: self.inner.options.backlog_messages,
            stall_timeout: self.inner.options.stall_timeout,
        }
    }

    /// Makes the entry, says `greeting` before anything else, and tells the driver.
    pub(super) async fn attach(
        &self,
        joining: Joining,
        transport: Transport,
        greeting: Option<ServerMessage>,
    ) -> Result<Attached, Refusal> {
        let Joining {
            worker,
            epoch,
            kind,
            slots,
            address,
            vitals,
        } = joining;
        if let Some(greeting) = greeting {
            transport.send(greeting).map_err(|_| Refusal::Stopping)?;
        }
        let memory_bytes = vitals.memory_bytes;
        let attached = self.enter(worker, epoch, transport, vitals)?;
        let joined = WorkerEventKind::Joined {
            kind,
            epoch,
            slots,
            address,
            memory_bytes,
        };
        self.tell(&attached, joined).await.map_err(|_| Refusal::Stopping)?;
        Ok(attached)
    }

    fn enter(&self, worker: WorkerId, epoch: u64, transport: Transport, vitals: Vitals) -> Result<Attached, Refusal> {
        if self.inner.stop.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        let mut connections = self.connections();
        match connections.by_worker.get(&worker) {
            Some(old) if old.epoch > epoch => return Err(Refusal::Outdated),
            Some(old) => old.closed.cancel(),
            None if connections.by_worker.len() >= self.inner.options.max_workers => {
                return Err(Refusal::TooMany(connections.by_worker.len()));
            }
            None => {}
        }
        connections.last_number += 1;
        let attached = Attached {
            worker,
            connection: connections.last_number,
            transport: Arc::new(transport),
            closed: self.inner.stop.child_token(),
        };
        let entry = Connection {
            number: attached.connection,
            epoch,
            transport: Arc::clone(&attached.transport),
            closed: attached.closed.clone(),
            vitals,
        };
        connections.absent.remove(&worker);
        connections.by_worker.insert(worker, entry);
        Ok(attached)
    }

    /// Reads what a worker says until its connection ends, however it ends, and tells the driver about both. A remote
    /// worker may not be silent for longer than `silence`.
    pub(super) async fn converse(
        &self,
        attached: &Attached,
        messages: impl Stream<Item = Result<WorkerMessage, String>>,
        silence: Option<Duration>,
    ) -> End {
        let end = tokio::select! {
            end = self.listen(attached, messages, silence) => end,
            unreachable = attached.transport.pump() => End::Broken(unreachable.to_string()),
            () = attached.closed.cancelled() => End::Broken("the server closed the connection".to_owned()),
        };
        self.close(attached.worker, attached.connection);
        let event = match end.clone() {
            End::Broken(reason) if attached.transport.is_remote() => WorkerEventKind::Silent { reason },
            End::Broken(reason) => WorkerEventKind::Lost { reason },
            End::Left => WorkerEventKind::Left,
        };
        if self.tell(attached, event).await.is_err() {
            let reason = end.reason();
            debug!(worker = %attached.worker, "connection ended while the server stops: {reason}");
        }
        end
    }

    /// Whether the worker has no later connection than this one, which is over.
    pub(super) fn is_away(&self, attached: &Attached) -> bool {
        !self.connections().by_worker.contains_key(&attached.worker)
    }

    /// The worker of a connection that is over will not come back.
    pub(super) async fn give_up(&self, attached: &Attached, reason: String) {
        // Nobody has to hear it while the server stops.
        let _ = self.tell(attached, WorkerEventKind::Lost { reason }).await;
    }

    async fn listen(
        &self,
        attached: &Attached,
        messages: impl Stream<Item = Result<WorkerMessage, String>>,
        silence: Option<Duration>,
    ) -> End {
        let mut messages = std::pin::pin!(messages.ready_chunks(MESSAGES_AT_ONCE));
        let mut heard = Heard::default();
        loop {
            let next = match silence {
                Some(silence) => match tokio::time::timeout(silence, messages.next()).await {
                    Ok(next) => next,
                    Err(_) => return End::Broken(format!("it was silent for {silence:?}")),
                },
                None => messages.next().await,
            };
            let Some(chunk) = next else {
                return match heard.leaves {
                    true => End::Left,
                    false => End::Broken("its connection ended".to_owned()),
                };
            };
            if let Err(reason) = self.hear(attached, chunk, &mut heard).await {
                return End::Broken(reason);
            }
        }
    }

    /// Passes the messages on and acknowledges their reports with one message.
    async fn hear(
        &self,
        attached: &Attached,
        chunk: Vec<Result<WorkerMessage, String>>,
        heard: &mut Heard,
    ) -> Result<(), String> {
        let mut acknowledge = None;
        for message in chunk {
            match message? {
                WorkerMessage::Report(report) => {
                    acknowledge = acknowledge.max(Some(report.sequence));
                    if heard.last_sequence >= Some(report.sequence) {
                        continue;
                    }
                    heard.last_sequence = Some(report.sequence);
                    let (attempt, status) = (report.attempt, report.status);
                    self.tell(attached, WorkerEventKind::Report { attempt, status }).await?;
                }
                WorkerMessage::Heartbeat(heartbeat) => self.note(attached, heartbeat),
                WorkerMessage::InventoryEnd => self.tell(attached, WorkerEventKind::InventoryEnd).await?,
                WorkerMessage::Leaving => {
                    heard.leaves = true;
                    self.tell(attached, WorkerEventKind::Draining).await?;
                }
                WorkerMessage::Register(_) => {
                    return Err("it registered twice on one connection".to_owned());
                }
            }
        }
        match acknowledge {
            Some(sequence) => attached
                .transport
                .send(ServerMessage::Acknowledge(sequence))
                .map_err(|unreachable| unreachable.to_string()),
            None => Ok(()),
        }
    }

    fn note(&self, attached: &Attached, heartbeat: Heartbeat) {
        if let Some(entry) = self.connections().by_worker.get_mut(&attached.worker)
            && entry.number == attached.connection
        {
            entry.vitals.last_heartbeat = heartbeat;
        }
    }

    async fn tell(&self, attached: &Attached, kind: WorkerEventKind) -> Result<(), String> {
        let event = WorkerEvent {
            worker: attached.worker,
            connection: attached.connection,
            kind,
        };
        self.inner
            .events
            .send(event)
            .await
            .map_err(|_| "the server is shutting down".to_owned())
    }

    /// Runs a connection as a task of the registry.
    pub(super) fn spawn<T>(&self, connection: impl Future<Output = T> + Send + 'static) {
        let mut tasks = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let stop = self.inner.stop.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(connection).await;
        });
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.inner.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
