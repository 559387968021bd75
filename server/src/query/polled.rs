//! A query that is polled: how far its start is, for as long as its client polls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::runtime::SpawnedTask;
use squadron_proto::Failure;
use tokio::sync::watch;

use super::started::Started;

/// A query that is polled. When its record drops it, a start that is under way stops.
#[derive(Debug)]
pub(super) struct PolledQuery {
    pub(super) schema: SchemaRef,
    pub(super) phase: watch::Sender<Phase>,
    /// Starts the query.
    task: Mutex<Option<SpawnedTask<()>>>,
    /// The furthest progress told, in thousandths.
    told: AtomicU64,
}

/// What there is to tell of it.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    Planning,
    Started(Box<Started>),
    Failed(Failure),
}

impl PolledQuery {
    /// A query with rows of this schema, whose start has not begun.
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self {
            schema,
            phase: watch::Sender::new(Phase::Planning),
            task: Mutex::new(None),
            told: AtomicU64::new(0),
        }
    }

    /// `task` starts the query from now on.
    pub(super) fn set_task(&self, task: SpawnedTask<()>) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// The furthest progress told so far, this one included.
    pub(super) fn furthest(&self, progress: u64) -> u64 {
        self.told.fetch_max(progress, Ordering::Relaxed).max(progress)
    }

    /// Stops the start of a query that was cancelled; polls say so from now on.
    pub(super) fn cancel(&self, failure: Failure) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(task);
        self.phase.send_if_modified(|phase| {
            let is_planning = matches!(phase, Phase::Planning);
            if is_planning {
                *phase = Phase::Failed(failure);
            }
            is_planning
        });
    }
}
