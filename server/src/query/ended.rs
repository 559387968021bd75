//! The owners of queries of which nothing is left, so that their clients may cancel them once more.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use squadron_proto::QueryId;

use crate::auth::Principal;

/// How many queries are remembered, and for how long.
pub(super) const MAX_ENDED: usize = 10_000;
pub(super) const ENDED_MEMORY: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EndedQueries {
    owners: HashMap<QueryId, Principal>,
    /// The oldest end first.
    order: VecDeque<(Instant, QueryId)>,
}

impl EndedQueries {
    pub(super) fn add(&mut self, id: QueryId, owner: Principal, now: Instant) {
        self.owners.insert(id, owner);
        self.order.push_back((now, id));
        self.forget(now);
    }

    /// Whether the query is remembered as one of `owner`.
    pub(super) fn is_of(&self, id: QueryId, owner: &Principal) -> bool {
        self.owners.get(&id) == Some(owner)
    }

    /// Forgets the queries that are too old, or too many.
    pub(super) fn forget(&mut self, now: Instant) {
        while let Some(&(ended, id)) = self.order.front()
            && (self.order.len() > MAX_ENDED || ended + ENDED_MEMORY <= now)
        {
            self.order.pop_front();
            self.owners.remove(&id);
        }
    }
}
