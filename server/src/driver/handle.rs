//! The way to the driver, for everyone who has queries, and the way back to them.
//!
//! ```text
//! SchedulerHandle ── Command ──> driver       what may wait for room in the mailbox
//!                 ── Signals ──> driver       what must not: cancels, and results that were read
//! QueryEvents    <── Owner ───── driver       the two updates of a query, and its progress
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use squadron_proto::{Failure, FailureKind, QueryId};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::debug;

use crate::counted::Counted;
use crate::driver::workers::WorkerInfo;
use crate::query::history::History;
use squadron_scheduler::Groups;
use squadron_scheduler::StageGraph;
use squadron_scheduler::{Capacity, GroupLoad, QueryInfo, Stopping};
use squadron_scheduler::{QueryProgress, QuerySummary, ResultPart};

/// A query's updates: its result is ready, it ended.
const UPDATES_PER_QUERY: usize = 2;

/// What the owner of a query is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryUpdate {
    /// All partitions of the result can be read from now on, while they are written.
    ResultReady {
        /// Where they are.
        parts: Vec<ResultPart>,
    },
    /// The query is over; the last update.
    Ended(Result<QuerySummary, Failure>),
}

/// The updates of one query. Dropping it before the end cancels the query.
#[derive(Debug)]
pub struct QueryEvents {
    query: QueryId,
    updates: mpsc::Receiver<QueryUpdate>,
    progress: watch::Receiver<QueryProgress>,
    signals: Arc<Signals>,
    ended: bool,
}

impl QueryEvents {
    /// The next update; `None` after [`QueryUpdate::Ended`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<QueryUpdate> {
        if self.ended {
            return None;
        }
        let update = self
            .updates
            .recv()
            .await
            .unwrap_or_else(|| QueryUpdate::Ended(Err(stopping())));
        self.ended = matches!(update, QueryUpdate::Ended(_));
        Some(update)
    }

    /// For whoever only looks: how far the query is, also after its end.
    pub fn progress(&self) -> watch::Receiver<QueryProgress> {
        self.progress.clone()
    }
}

impl Drop for QueryEvents {
    fn drop(&mut self) {
        if !self.ended {
            let failure = Failure::new(FailureKind::Cancelled, "nobody waits for the result any more");
            self.signals.cancel(self.query, failure);
        }
    }
}

/// The way to the scheduler, for everyone who has queries.
#[derive(Clone, Debug)]
pub struct SchedulerHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) signals: Arc<Signals>,
    pub(super) capacity: Arc<Mutex<Capacity>>,
    pub(super) history: History,
    pub(super) plan_bytes: Arc<AtomicU64>,
}

impl SchedulerHandle {
    /// Hands in a query. That it was refused comes as its end, like any other failure.
    ///
    /// # Errors
    /// When the server is shutting down.
    pub async fn submit(&self, graph: StageGraph) -> Result<QueryEvents, Failure> {
        let (sender, updates) = mpsc::channel(UPDATES_PER_QUERY);
        let (progress_sender, progress) = watch::channel(QueryProgress::default());
        let owner = Owner {
            updates: sender,
            progress: progress_sender,
            is_kept: graph.keeps_result(),
            _plan: Counted::new(&self.plan_bytes, graph.bytes()),
        };
        let mut events = QueryEvents {
            query: graph.query,
            updates,
            progress,
            signals: Arc::clone(&self.signals),
            ended: false,
        };
        self.history.submitted(graph.query);
        let query = graph.query;
        let command = Command::Submit(Box::new(graph), owner);
        if self.commands.send(command).await.is_err() {
            events.ended = true;
            self.history.ended(query, Err(stopping()), None);
            return Err(stopping());
        }
        Ok(events)
    }

    /// Stops a query; its end says `failure`. Never waits; a query that is over, or unknown, is left alone.
    pub fn cancel(&self, query: QueryId, failure: Failure) {
        self.signals.cancel(query, failure);
    }

    /// All rows of the query's result have been read. Never waits.
    pub fn result_done(&self, query: QueryId) {
        self.signals.result_done(query);
    }

    /// What the workers that take tasks offer together. Never waits.
    pub fn capacity(&self) -> Capacity {
        *self.capacity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resource groups that count from now on; running queries go on. Changes nothing when the server is shutting down.
    pub async fn regroup(&self, groups: Groups) {
        let _ = self.commands.send(Command::Regroup(groups)).await;
    }

    /// Bytes of the plans of all queries that have not ended.
    pub fn plan_bytes(&self) -> u64 {
        self.plan_bytes.load(Ordering::Relaxed)
    }

    /// Every query from the moment it is asked for.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What there is now; nothing when the server is shutting down.
    pub async fn snapshot(&self) -> Snapshot {
        let (sender, receiver) = oneshot::channel();
        if self.commands.send(Command::Snapshot(sender)).await.is_err() {
            return Snapshot::default();
        }
        receiver.await.unwrap_or_default()
    }
}

pub(super) fn stopping() -> Failure {
    Failure::new(
        FailureKind::Draining,
        "the server is shutting down; run the statement again on another one, or when it is back",
    )
}

#[derive(Debug)]
pub(super) enum Command {
    Submit(Box<StageGraph>, Owner),
    Regroup(Groups),
    Snapshot(oneshot::Sender<Snapshot>),
}

/// What there is at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The queries that the scheduler has, in the order of their submission.
    pub queries: Vec<QueryInfo>,
    /// The attempts of ended queries that may still run.
    pub stopping: Vec<Stopping>,
    /// The resource groups by name, the server as a whole first.
    pub groups: Vec<(Arc<str>, GroupLoad)>,
    /// The workers, in the order of their ids.
    pub workers: Vec<WorkerInfo>,
}

/// The way to whoever waits for a query.
#[derive(Debug)]
pub(super) struct Owner {
    updates: mpsc::Sender<QueryUpdate>,
    pub(super) progress: watch::Sender<QueryProgress>,
    /// Whether clients may read the result from workers, which then must hear why it failed.
    pub(super) is_kept: bool,
    _plan: Counted,
}

/// What must reach the driver from places that cannot wait, one entry a query.
#[derive(Debug, Default)]
pub(super) struct Signals {
    pending: Mutex<Pending>,
    pub(super) notify: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) cancelled: BTreeMap<QueryId, Failure>,
    pub(super) read: BTreeSet<QueryId>,
}

impl Signals {
    fn cancel(&self, query: QueryId, failure: Failure) {
        self.with(|pending| {
            pending.cancelled.entry(query).or_insert(failure);
        });
        self.notify.notify_one();
    }

    fn result_done(&self, query: QueryId) {
        self.with(|pending| {
            pending.read.insert(query);
        });
        self.notify.notify_one();
    }

    pub(super) fn take(&self) -> Pending {
        self.with(std::mem::take)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Pending) -> T) -> T {
        change(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Owner {
    /// There is room for all updates of a query; a receiver that has gone away needs none.
    pub(super) fn deliver(&self, update: QueryUpdate) {
        if let Err(error) = self.updates.try_send(update) {
            debug!("nobody takes the update: {error}");
        }
    }

    pub(super) fn end(&self, outcome: Result<QuerySummary, Failure>) {
        let ended = outcome.as_ref().map(|_| ()).map_err(Failure::clone);
        self.progress.send_modify(|progress| progress.ended = Some(ended));
        self.deliver(QueryUpdate::Ended(outcome));
    }

    /// The fraction never falls.
    pub(super) fn show(&self, news: QueryProgress) {
        self.progress.send_if_modified(|shown| {
            let fraction = news.fraction.max(shown.fraction);
            let news = QueryProgress { fraction, ..news };
            let is_news = *shown != news;
            *shown = news;
            is_news
        });
    }
}
