//! What must reach the driver from places that cannot wait for room in its mailbox: cancels, and results that were
//! read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use squadron_proto::{Failure, QueryId};
use tokio::sync::Notify;

/// Signals that the driver has not taken yet; at most one entry of each kind a query.
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
    /// Cancels a query. The first failure of several is the one that counts.
    pub(super) fn cancel(&self, query: QueryId, failure: Failure) {
        self.change(|pending| _ = pending.cancelled.entry(query).or_insert(failure));
    }

    /// All rows of the query's result have been read.
    pub(super) fn result_done(&self, query: QueryId) {
        self.change(|pending| _ = pending.read.insert(query));
    }

    pub(super) fn take(&self) -> Pending {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.notify.notify_one();
    }
}
