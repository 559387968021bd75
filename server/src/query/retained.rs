//! Results that stay where they were written, for any number of readers, until their time is over: parallel endpoints.
//!
//! ```text
//! put ──> held by its maker ──touch──> announced until its expiry ──touch (renew, poll)──> later
//!              │ dropped                      │ time over, discard
//!              └──────────────> ended <───────┘   every worker drops the rows
//! ```
//!
//! An endpoint is some partitions of one task of the root stage. It is known, and can be read, as soon as its task runs.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use datafusion::arrow::datatypes::SchemaRef;
use squadron_proto::ticket::{ClusterKey, Fetch, FetchOutput, Subject};
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, TaskId};
use tokio::sync::watch;

use super::results::{SWEEP_INTERVAL, lock};
use crate::auth::Principal;
use crate::driver::{QueryEvents, SchedulerHandle};
use squadron_scheduler::{QueryProgress, ResultPart};

/// The most endpoints of a result, unless its root stage has more tasks: some clients open all of them at once.
pub const MAX_ENDPOINTS: usize = 64;

/// All kept results.
#[derive(Clone, Debug)]
pub struct KeptResults {
    results: Arc<Mutex<HashMap<QueryId, Arc<KeptResult>>>>,
    scheduler: SchedulerHandle,
    time_to_live: Duration,
}

/// What a result is kept under.
#[derive(Debug)]
pub struct KeptAs {
    /// Of which query.
    pub query: QueryId,
    /// Whose it is.
    pub owner: Principal,
    /// The schema that the client was told.
    pub schema: SchemaRef,
    /// Whether the rows have an order.
    pub is_ordered: bool,
    /// The tasks of the root stage.
    pub tasks: usize,
    /// What becomes of the query; dropping it cancels the query.
    pub events: QueryEvents,
    /// Signs the tickets of its endpoints.
    pub key: ClusterKey,
    /// How long they are good for.
    pub ticket_lifetime: Duration,
}

/// One kept result.
#[derive(Debug)]
pub struct KeptResult {
    /// Of which query.
    pub query: QueryId,
    /// The schema that the client was told.
    pub schema: SchemaRef,
    /// Whether the endpoints, one after the other, give the rows in the query's order.
    pub is_ordered: bool,
    owner: Principal,
    tasks: usize,
    key: ClusterKey,
    ticket_lifetime: Duration,
    time_to_live: Duration,
    progress: watch::Receiver<QueryProgress>,
    readers: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    events: Option<QueryEvents>,
    known: BTreeSet<TaskId>,
    endpoints: Vec<KeptEndpoint>,
    /// None as long as its maker holds it.
    expires: Option<Instant>,
}

/// Some partitions of the result that lie in one place.
#[derive(Clone, Debug)]
pub struct KeptEndpoint {
    /// Good at the server and at the worker that holds the rows.
    pub ticket: Bytes,
    /// `http://host:port` of that worker; empty: the server itself.
    pub address: String,
    rows: Fetch,
}

/// What is known of a kept result now.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What can be read; only ever appended to.
    pub endpoints: Vec<KeptEndpoint>,
    /// Whether these are all there will be.
    pub are_all_known: bool,
    /// How many rows there are in all, once the result is complete.
    pub rows: Option<u64>,
}

/// Drops a result again unless it is announced.
#[derive(Debug)]
pub struct Unannounced<'a> {
    results: &'a KeptResults,
    query: QueryId,
    is_announced: bool,
}

/// Counts as a reader for as long as it lives.
#[derive(Debug)]
pub struct Reading(Arc<KeptResult>);

impl KeptResults {
    /// Results are dropped when nobody asked for them to be kept on for `time_to_live`.
    pub fn new(time_to_live: Duration, scheduler: SchedulerHandle) -> Self {
        Self {
            results: Arc::default(),
            scheduler,
            time_to_live,
        }
    }

    /// Keeps the result of a query that was submitted; its time starts with [`KeptResult::touch`].
    pub fn put(&self, kept: KeptAs) -> Arc<KeptResult> {
        let result = Arc::new(KeptResult {
            query: kept.query,
            schema: kept.schema,
            is_ordered: kept.is_ordered,
            owner: kept.owner,
            tasks: kept.tasks,
            key: kept.key,
            ticket_lifetime: kept.ticket_lifetime,
            time_to_live: self.time_to_live,
            progress: kept.events.progress(),
            readers: AtomicUsize::new(0),
            state: Mutex::new(State {
                events: Some(kept.events),
                known: BTreeSet::new(),
                endpoints: Vec::new(),
                expires: None,
            }),
        });
        lock(&self.results).insert(result.query, Arc::clone(&result));
        result
    }

    /// A result, for the one it belongs to.
    pub fn get(&self, query: QueryId, principal: &Principal) -> Option<Arc<KeptResult>> {
        let result = lock(&self.results).get(&query).cloned();
        result.filter(|result| result.owner == *principal)
    }

    /// Ends a result: its rows are dropped everywhere. No effect when it has ended.
    pub fn discard(&self, query: QueryId) {
        let removed = lock(&self.results).remove(&query);
        if let Some(result) = removed {
            self.end(&result);
        }
    }

    /// To be dropped by whoever made the result and could not tell its client of it.
    pub fn unannounced(&self, query: QueryId) -> Unannounced<'_> {
        Unannounced {
            results: self,
            query,
            is_announced: false,
        }
    }

    /// Drops what has waited too long, until cancelled.
    pub async fn sweep(self) {
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            interval.tick().await;
            self.drop_expired();
        }
    }

    /// Ends what has waited too long.
    fn drop_expired(&self) {
        let now = Instant::now();
        let expired: Vec<_> = lock(&self.results)
            .extract_if(|_, result| lock(&result.state).expires.is_some_and(|expires| expires <= now))
            .collect();
        for (_, result) in expired {
            tracing::debug!(query_id = %result.query, "a kept result expired");
            self.end(&result);
        }
    }

    /// Results whose queries still run, or that are read through this server. Whether somebody reads the others at the
    /// workers nobody here knows.
    pub fn in_use(&self) -> usize {
        let results = lock(&self.results);
        let in_use = results.values().filter(|result| {
            let progress = result.progress.borrow();
            result.readers.load(Ordering::Relaxed) > 0 || (!progress.is_ready && progress.ended.is_none())
        });
        in_use.count()
    }

    /// A query whose result is complete ends well; one that still runs is cancelled with the drop of its events.
    fn end(&self, result: &KeptResult) {
        let events = lock(&result.state).events.take();
        self.scheduler.result_done(result.query);
        drop(events);
    }
}

impl KeptResult {
    /// Keeps the result for its whole time to live from now on; tells when that will be over.
    pub fn touch(&self) -> SystemTime {
        lock(&self.state).expires = Some(Instant::now() + self.time_to_live);
        SystemTime::now() + self.time_to_live
    }

    /// How far the query is; for waiting.
    pub fn progress(&self) -> watch::Receiver<QueryProgress> {
        self.progress.clone()
    }

    /// What is known now.
    ///
    /// # Errors
    /// The query's own failure; `NotFound` when the result has ended.
    pub fn standing(&self) -> Result<Standing, Failure> {
        let progress = self.progress.borrow().clone();
        match progress.ended {
            Some(Err(failure)) => return Err(failure),
            Some(Ok(())) => return Err(gone()),
            None => {}
        }
        let mut state = lock(&self.state);
        for part in progress.parts {
            if state.known.insert(part.attempt.task) {
                let endpoints = self.endpoints_of(part);
                state.endpoints.extend(endpoints);
            }
        }
        Ok(Standing {
            endpoints: state.endpoints.clone(),
            are_all_known: state.known.len() == self.tasks,
            rows: progress.rows.filter(|_| progress.is_ready),
        })
    }

    /// Waits until all endpoints are known. They can be read then, though perhaps not to their ends.
    ///
    /// # Errors
    /// As [`KeptResult::standing`].
    pub async fn all_known(&self) -> Result<Standing, Failure> {
        let mut progress = self.progress();
        loop {
            progress.mark_unchanged();
            let standing = self.standing()?;
            if standing.are_all_known {
                return Ok(standing);
            }
            if progress.changed().await.is_err() {
                self.standing()?;
                return Err(gone());
            }
        }
    }

    /// A ticket for the same rows that is good for its whole lifetime from now on.
    pub fn fresh_ticket(&self, rows: Fetch) -> Bytes {
        let subject = Subject::Endpoint(rows);
        self.key.seal(&subject, SystemTime::now(), self.ticket_lifetime)
    }

    /// The parts of the result that an endpoint stands for.
    ///
    /// # Errors
    /// As [`KeptResult::standing`], and `NotFound` for rows of which the result knows nothing.
    pub fn parts_of(&self, rows: &Fetch) -> Result<Vec<ResultPart>, Failure> {
        let known = self.standing()?.endpoints;
        let progress = self.progress.borrow();
        rows.outputs
            .iter()
            .map(|output| {
                let attempt = AttemptKey {
                    query: rows.query,
                    stage: rows.stage,
                    task: output.task,
                    attempt: output.attempt,
                };
                let is_known = known.iter().any(|endpoint| endpoint.covers(rows, output));
                let part = progress.parts.iter().find(|part| part.attempt == attempt);
                let part = part.filter(|_| is_known).ok_or_else(gone)?;
                Ok(ResultPart {
                    partitions: output.partitions.clone(),
                    ..part.clone()
                })
            })
            .collect()
    }

    /// Counts one more reader.
    pub fn reading(self: &Arc<Self>) -> Reading {
        self.readers.fetch_add(1, Ordering::Relaxed);
        Reading(Arc::clone(self))
    }

    /// Cuts the partitions of one task so that all tasks together have no more endpoints than there should be.
    fn endpoints_of(&self, part: ResultPart) -> Vec<KeptEndpoint> {
        let most = (MAX_ENDPOINTS / self.tasks.max(1)).max(1);
        let size = part.partitions.len().div_ceil(most).max(1);
        part.partitions
            .chunks(size)
            .map(|partitions| {
                let rows = part.fetch(partitions);
                KeptEndpoint {
                    ticket: self.fresh_ticket(rows.clone()),
                    address: part.address.clone(),
                    rows,
                }
            })
            .collect()
    }
}

impl KeptEndpoint {
    fn covers(&self, rows: &Fetch, output: &FetchOutput) -> bool {
        self.rows.stage == rows.stage && self.rows.outputs.contains(output)
    }
}

impl Unannounced<'_> {
    /// The client is being told: the result stays, and its time starts.
    pub fn announce(mut self, result: &KeptResult) {
        result.touch();
        self.is_announced = true;
    }
}

impl Drop for Unannounced<'_> {
    fn drop(&mut self) {
        if !self.is_announced {
            self.results.discard(self.query);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nothing is kept under that name, for this caller.
pub(crate) fn gone() -> Failure {
    Failure::new(
        FailureKind::NotFound,
        "the result is not kept any more: its expiration time is over, or its query was cancelled; run the statement again",
    )
}

#[cfg(test)]
#[path = "retained_tests.rs"]
mod tests;
