//! A worker inside the server's process: the same control loop behind two channels.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use squadron_proto::WorkerId;
use squadron_proto::control::{ServerMessage, WorkerMessage};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::control::{Connection, Control};
use crate::engine::Engine;
use crate::outbox::Delivery;

/// How many messages may wait in each direction.
const CHANNEL_MESSAGES: usize = 1_024;

/// How often a worker says how much memory its process holds.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

/// The server's ends of an embedded worker.
pub struct EmbeddedWorker {
    /// Messages of the server. Dropping it (all clones) stops the worker: its attempts are stopped, its output is
    /// released, then `task` ends. [`ServerMessage::Drain`] lets the attempts finish first.
    pub to_worker: mpsc::Sender<ServerMessage>,
    /// What the worker reports.
    pub from_worker: mpsc::Receiver<WorkerMessage>,
    /// The worker itself. Dropping it stops the worker at once.
    pub task: JoinSet<()>,
}

/// Starts a worker of `slots` slots on the engine of this process. It does not register: the caller adds it to the
/// registry.
///
/// # Panics
/// Outside a tokio runtime.
pub fn embedded(engine: Arc<Engine>, worker: WorkerId, slots: usize) -> EmbeddedWorker {
    let slots = u32::try_from(slots).unwrap_or(u32::MAX);
    let (to_worker, incoming) = mpsc::channel(CHANNEL_MESSAGES);
    let (outgoing, from_worker) = mpsc::channel(CHANNEL_MESSAGES);
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut control = Control::new(engine, worker, slots, Delivery::Certain);
        let mut connection = Connection {
            incoming: ReceiverStream::new(incoming).map(Ok),
            outgoing,
            heartbeat: Some(HEARTBEAT_INTERVAL),
            leave: CancellationToken::new(),
        };
        let disconnected = control.serve(&mut connection).await;
        control.stop().await;
        debug!(%worker, ?disconnected, "embedded worker ended");
    });
    EmbeddedWorker {
        to_worker,
        from_worker,
        task,
    }
}
