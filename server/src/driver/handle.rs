//! The way to the driver, for everything that has queries.
//!
//! ```text
//! SchedulerHandle ── Command ──> driver       what may wait for room in the mailbox
//!                 ── Signals ──> driver       what must not: cancels, and results that were read
//! QueryEvents    <── Subscriber ─ driver      the updates of a query, and its progress
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use squadron_proto::{Failure, QueryId};
use squadron_scheduler::{Capacity, GroupLoad, Groups, QueryInfo, StageGraph, StoppingAttempt};
use tokio::sync::{mpsc, oneshot};

use super::directory::QueryDirectory;
use super::signals::Signals;
use super::subscriber::{QueryEvents, stopping, subscribe};
use super::workers::WorkerInfo;
use crate::counted::Counted;

/// The way to the scheduler. Clones share it.
#[derive(Clone, Debug)]
pub struct SchedulerHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) signals: Arc<Signals>,
    pub(super) capacity: Arc<Mutex<Capacity>>,
    pub(super) refusal: Arc<Mutex<Option<Failure>>>,
    pub(super) directory: Arc<dyn QueryDirectory>,
    pub(super) plan_bytes: Arc<AtomicU64>,
}

impl SchedulerHandle {
    /// Hands in a query. Why the scheduler refuses it comes as its end, like any other failure, where it is not known
    /// before.
    ///
    /// # Errors
    /// `Busy` when too many results are open, `Draining` when the server is shutting down, `Internal` for a query that its directory does not take.
    pub async fn submit(&self, graph: StageGraph) -> Result<QueryEvents, Failure> {
        let query = graph.query;
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(failure) = refusal.filter(|_| !graph.options.is_exempt) {
            return Err(failure);
        }
        // From here to the end nothing is awaited: a query is in the directory if and only if the driver gets it.
        let place = self.commands.reserve().await.map_err(|_| stopping())?;
        let plan = Counted::new(&self.plan_bytes, counted_bytes(&graph));
        let signals = Arc::clone(&self.signals);
        let (subscriber, mut events) = subscribe(query, graph.retains_result(), plan, signals);
        if !self.directory.submitted(query, subscriber) {
            events.set_ended();
            return Err(Failure::internal(format!(
                "query {query} was not begun, or submitted before"
            )));
        }
        place.send(Command::Submit(Box::new(graph)));
        Ok(events)
    }

    /// Stops a query; its end says `failure`. Never waits; a query that is over, or unknown, is left alone.
    pub fn cancel(&self, query: QueryId, failure: Failure) {
        self.signals.cancel(query, failure);
    }

    /// What the workers that take tasks offer together. Never waits.
    pub fn capacity(&self) -> Capacity {
        *self.capacity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the resource groups; running queries go on. Changes nothing when the server is shutting down.
    pub async fn regroup(&self, groups: Groups) {
        let _ = self.commands.send(Command::Regroup(groups)).await;
    }

    /// Bytes of the plans of all queries that have not ended, but those that only look at the server.
    pub fn plan_bytes(&self) -> u64 {
        self.plan_bytes.load(Ordering::Relaxed)
    }

    /// The scheduler's state now; empty when the server is shutting down.
    pub async fn snapshot(&self) -> Snapshot {
        let (sender, receiver) = oneshot::channel();
        if self.commands.send(Command::Snapshot(sender)).await.is_err() {
            return Snapshot::default();
        }
        receiver.await.unwrap_or_default()
    }
}

/// What the plan counts for. A query that only looks at the server must not take memory away from the others.
fn counted_bytes(graph: &StageGraph) -> u64 {
    match graph.options.is_exempt {
        true => 0,
        false => graph.bytes(),
    }
}

#[derive(Debug)]
pub(super) enum Command {
    Submit(Box<StageGraph>),
    Regroup(Groups),
    Snapshot(oneshot::Sender<Snapshot>),
}

/// The scheduler's state at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The queries that the scheduler has, in the order of their submission.
    pub queries: Vec<QueryInfo>,
    /// The attempts of ended queries that may still run.
    pub stopping: Vec<StoppingAttempt>,
    /// The resource groups by name, the server as a whole first.
    pub groups: Vec<(Arc<str>, GroupLoad)>,
    /// The workers, in the order of their ids.
    pub workers: Vec<WorkerInfo>,
}
