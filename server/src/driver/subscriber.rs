//! The two ends between the driver and the client of a query: the driver's [`Subscriber`], the client's
//! [`QueryEvents`].

use std::sync::Arc;

use squadron_proto::{Failure, FailureKind, QueryId};
use squadron_scheduler::{LostParts, QueryProgress, QuerySummary, ResultPart};
use tokio::sync::{mpsc, watch};
use tracing::debug;

use super::signals::Signals;
use crate::counted::Counted;

/// What the client of a query is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryUpdate {
    /// All partitions of the result can be read from now on, while they are written.
    ResultReady {
        /// Where they are.
        parts: Vec<ResultPart>,
    },
    /// Parts of a result that was ready are lost, and written again: the result will be ready again.
    PartsLost {
        /// Which.
        parts: LostParts,
        /// Why.
        failure: Failure,
    },
    /// The query is over; the last update.
    Ended(Result<QuerySummary, Failure>),
}

/// The driver's end.
#[derive(Debug)]
pub struct Subscriber {
    updates: mpsc::UnboundedSender<QueryUpdate>,
    progress: watch::Sender<QueryProgress>,
    /// Whether clients may read the result from workers, which then must hear why the query failed.
    pub(super) has_retained_result: bool,
    /// What the plan takes of the server's memory.
    plan: Option<Counted>,
}

/// The updates of one query. Dropping it before the end cancels the query.
#[derive(Debug)]
pub struct QueryEvents {
    query: QueryId,
    updates: mpsc::UnboundedReceiver<QueryUpdate>,
    progress: watch::Receiver<QueryProgress>,
    signals: Arc<Signals>,
    is_ended: bool,
}

/// Both ends for a query. `plan`: what its plan takes of the server's memory until it ends.
pub(super) fn subscribe(
    query: QueryId,
    has_retained_result: bool,
    plan: Counted,
    signals: Arc<Signals>,
) -> (Subscriber, QueryEvents) {
    // Few: the scheduler bounds the failures of a task, and workers that are lost are rare.
    let (sender, updates) = mpsc::unbounded_channel();
    let (progress_sender, progress) = watch::channel(QueryProgress::default());
    let subscriber = Subscriber {
        updates: sender,
        progress: progress_sender,
        has_retained_result,
        plan: Some(plan),
    };
    let events = QueryEvents {
        query,
        updates,
        progress,
        signals,
        is_ended: false,
    };
    (subscriber, events)
}

impl Subscriber {
    /// The result can be read from now on.
    pub(super) fn result_ready(&self, parts: Vec<ResultPart>) {
        self.progress.send_modify(|shown| shown.is_ready = true);
        self.deliver(QueryUpdate::ResultReady { parts });
    }

    /// Parts of the result are lost, and written again.
    pub(super) fn parts_lost(&self, parts: LostParts, failure: Failure) {
        self.progress.send_modify(|shown| shown.is_ready = false);
        self.deliver(QueryUpdate::PartsLost { parts, failure });
    }

    /// The query is over. Its plan counts no more when its client hears of it.
    pub(super) fn end(mut self, outcome: Result<QuerySummary, Failure>) {
        self.plan = None;
        let ended = outcome.as_ref().map(|_| ()).map_err(Failure::clone);
        self.progress.send_modify(|progress| progress.ended = Some(ended));
        self.deliver(QueryUpdate::Ended(outcome));
    }

    /// Whether anyone beside the holder of the events looks at the progress, which takes a walk over the query's tasks.
    pub(super) fn wants_progress(&self) -> bool {
        self.has_retained_result || self.progress.receiver_count() > 1
    }

    /// Shows how far the query is. The fraction never falls.
    pub(super) fn show(&self, news: QueryProgress) {
        self.progress.send_if_modified(|shown| {
            let fraction = news.fraction.max(shown.fraction);
            let news = QueryProgress { fraction, ..news };
            let is_news = *shown != news;
            *shown = news;
            is_news
        });
    }

    /// A receiver that has gone away needs no updates.
    fn deliver(&self, update: QueryUpdate) {
        if let Err(error) = self.updates.send(update) {
            debug!("nobody takes the update: {error}");
        }
    }
}

impl QueryEvents {
    /// The next update; `None` after [`QueryUpdate::Ended`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<QueryUpdate> {
        if self.is_ended {
            return None;
        }
        let update = self.updates.recv().await;
        let update = update.unwrap_or_else(|| QueryUpdate::Ended(Err(stopping())));
        self.is_ended = matches!(update, QueryUpdate::Ended(_));
        Some(update)
    }

    /// Ends the query with a failure, unless it has ended.
    pub fn give_up(&mut self, failure: Failure) {
        if !std::mem::replace(&mut self.is_ended, true) {
            self.signals.cancel(self.query, failure);
        }
    }

    /// Tells the scheduler that parts of the result, which the failure names, cannot be read. Never waits.
    pub fn cannot_read(&self, failure: Failure) {
        self.signals.cannot_read(self.query, failure);
    }

    /// How far the query is, also after its end.
    pub fn progress(&self) -> watch::Receiver<QueryProgress> {
        self.progress.clone()
    }

    /// Tells the scheduler that all rows of the result have been read. Never waits.
    pub fn result_done(&self) {
        self.signals.result_done(self.query);
    }

    /// The query never reached the scheduler: there is nothing to cancel.
    pub(super) fn set_ended(&mut self) {
        self.is_ended = true;
    }
}

impl Drop for QueryEvents {
    fn drop(&mut self) {
        if !self.is_ended {
            let failure = Failure::new(FailureKind::Cancelled, "nobody waits for the result any more");
            self.signals.cancel(self.query, failure);
        }
    }
}

/// How queries end that the server still has when it shuts down.
pub(super) fn stopping() -> Failure {
    Failure::new(
        FailureKind::Draining,
        "the server is shutting down; run the statement again on another one, or when it is back",
    )
}

/// Both ends for a query that no driver runs.
#[cfg(test)]
pub(crate) fn unconnected(query: QueryId) -> (Subscriber, QueryEvents) {
    let plan = Counted::new(&Arc::default(), 0);
    subscribe(query, false, plan, Arc::default())
}
