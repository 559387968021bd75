//! Where the driver finds the subscriber of a query, so that it keeps no map of queries of its own.
//!
//! The server's directory is the map of query records (`query/records.rs`); [`Subscribers`] is one for tests and
//! benchmarks that need nothing but the updates.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use squadron_proto::{Failure, QueryId};
use squadron_scheduler::QueryInfo;

use super::subscriber::Subscriber;

/// Keeps the subscriber of each query from its submission to its end. Its methods must not wait.
pub trait QueryDirectory: fmt::Debug + Send + Sync {
    /// The query is about to be handed to the scheduler. Returns false, and keeps nothing, when it is not known or was
    /// submitted before.
    fn submitted(&self, query: QueryId, subscriber: Subscriber) -> bool;

    /// Shows the subscriber of a query to `look`, if the query was submitted and has not ended.
    fn with_subscriber(&self, query: QueryId, look: &mut dyn FnMut(&Subscriber));

    /// The scheduler has ended the query, or never took it. Returns the subscriber, so that the driver tells it.
    fn ended(&self, query: QueryId, outcome: Result<(), Failure>, info: Option<Box<QueryInfo>>) -> Option<Subscriber>;

    /// No worker runs anything of the query any more. It may have ended long ago.
    fn released(&self, query: QueryId);

    /// The driver has stopped: ends whatever still has a subscriber with `failure`, and returns those.
    fn abandon(&self, failure: &Failure) -> Vec<Subscriber>;
}

/// The subscribers alone.
#[derive(Debug, Default)]
pub struct Subscribers(Mutex<HashMap<QueryId, Subscriber>>);

impl Subscribers {
    fn lock(&self) -> MutexGuard<'_, HashMap<QueryId, Subscriber>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueryDirectory for Subscribers {
    fn submitted(&self, query: QueryId, subscriber: Subscriber) -> bool {
        let mut subscribers = self.lock();
        let is_new = !subscribers.contains_key(&query);
        if is_new {
            subscribers.insert(query, subscriber);
        }
        is_new
    }

    fn with_subscriber(&self, query: QueryId, look: &mut dyn FnMut(&Subscriber)) {
        if let Some(subscriber) = self.lock().get(&query) {
            look(subscriber);
        }
    }

    fn ended(&self, query: QueryId, _: Result<(), Failure>, _: Option<Box<QueryInfo>>) -> Option<Subscriber> {
        self.lock().remove(&query)
    }

    fn released(&self, _: QueryId) {}

    fn abandon(&self, _: &Failure) -> Vec<Subscriber> {
        self.lock().drain().map(|(_, subscriber)| subscriber).collect()
    }
}
