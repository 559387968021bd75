//! What must reach the driver from places that cannot wait for room in its mailbox: cancels, and results that were
//! read or cannot be.

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
    pub(super) unreadable: BTreeMap<QueryId, Failure>,
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

    /// Parts of the query's result, which the failure names, cannot be read.
    pub(super) fn cannot_read(&self, query: QueryId, failure: Failure) {
        self.change(|pending| {
            let lost = failure.lost.clone();
            let known = pending.unreadable.entry(query).or_insert(failure);
            for output in lost {
                if !known.lost.contains(&output) {
                    known.lost.push(output);
                }
            }
        });
    }

    pub(super) fn take(&self) -> Pending {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.notify.notify_one();
    }
}
