//! Results that stay where they were written, for any number of readers, until they expire: parallel endpoints.
//!
//! ```text
//! new ──> held by its starter ──announce──> retained until its expiry ──touch (renew, poll)──> later
//!              │ dropped                      │ expired, discarded
//!              └──────────────> ended <───────┘   every worker drops the rows
//! ```
//!
//! An endpoint is some partitions of one task of the root stage. It is known, and can be read, as soon as its task
//! runs. When its rows are lost with a worker, they are written again elsewhere: from then on they can be read through the
//! server, with the same ticket.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use datafusion::arrow::datatypes::SchemaRef;
use squadron_proto::ticket::{ClusterKey, Fetch, FetchOutput, Subject};
use squadron_proto::{Failure, FailureKind, TaskId};
use squadron_scheduler::{QueryProgress, ResultPart};
use tokio::sync::watch;

use crate::driver::QueryEvents;

/// The most endpoints of a result, unless its root stage has more tasks: some clients open all of them at once.
const MAX_ENDPOINTS: usize = 64;

/// What a retained result is made of.
#[derive(Debug)]
pub(super) struct RetainAs {
    /// The schema that the client was told.
    pub(super) schema: SchemaRef,
    /// Whether the rows have an order.
    pub(super) is_ordered: bool,
    /// The tasks of the root stage.
    pub(super) tasks: usize,
    /// What becomes of the query; dropping it cancels the query.
    pub(super) events: QueryEvents,
    /// Signs the tickets of its endpoints.
    pub(super) key: ClusterKey,
    /// How long they are good for.
    pub(super) ticket_lifetime: Duration,
    /// How long the result is retained after each touch.
    pub(super) time_to_live: Duration,
}

/// One retained result.
#[derive(Debug)]
pub struct RetainedResult {
    /// The schema that the client was told.
    pub(super) schema: SchemaRef,
    /// Whether the endpoints, one after the other, give the rows in the query's order.
    pub(super) is_ordered: bool,
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
    endpoints: Vec<RetainedEndpoint>,
    /// None until its client is told of it.
    expires: Option<Instant>,
}

/// Some partitions of the result that lie in one place.
#[derive(Clone, Debug)]
pub(super) struct RetainedEndpoint {
    /// Good at the server and at the worker that holds the rows.
    pub(super) ticket: Bytes,
    /// `http://host:port` of that worker; empty: the server itself.
    pub(super) address: String,
    rows: Fetch,
}

/// What is known of a retained result now.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// What can be read; only ever appended to.
    pub(super) endpoints: Vec<RetainedEndpoint>,
    /// Whether these are all there will be.
    pub(super) are_all_known: bool,
    /// How many rows there are in all, once the result is complete.
    pub(super) rows: Option<u64>,
}

/// Counts as a reader for as long as it lives.
#[derive(Debug)]
pub(super) struct Reading(Arc<RetainedResult>);

impl RetainedResult {
    /// Retains the result of a query that was submitted; its time starts with [`RetainedResult::touch`].
    pub(super) fn new(parts: RetainAs) -> Self {
        Self {
            schema: parts.schema,
            is_ordered: parts.is_ordered,
            tasks: parts.tasks,
            key: parts.key,
            ticket_lifetime: parts.ticket_lifetime,
            time_to_live: parts.time_to_live,
            progress: parts.events.progress(),
            readers: AtomicUsize::new(0),
            state: Mutex::new(State {
                events: Some(parts.events),
                known: BTreeSet::new(),
                endpoints: Vec::new(),
                expires: None,
            }),
        }
    }

    /// Ends the result: its rows are dropped everywhere. A query whose result is complete ends well; one that still
    /// runs is cancelled. No effect when it has ended.
    pub(super) fn end(&self) {
        let events = lock(&self.state).events.take();
        if let Some(events) = events {
            events.result_done();
        }
    }

    /// Whether its query still runs, or a client reads it through this server. Clients that read it at the workers are
    /// not known here.
    pub(super) fn is_in_use(&self) -> bool {
        let progress = self.progress.borrow();
        self.readers.load(Ordering::Relaxed) > 0 || (!progress.is_ready && progress.ended.is_none())
    }

    /// When it expires; none before it was announced to its client.
    pub(super) fn expires(&self) -> Option<Instant> {
        lock(&self.state).expires
    }

    /// Retains the result for its whole time to live from now on. Returns when that will be over.
    pub(super) fn touch(&self) -> SystemTime {
        lock(&self.state).expires = Some(Instant::now() + self.time_to_live);
        SystemTime::now() + self.time_to_live
    }

    /// How far the query is; for waiting.
    pub(super) fn progress(&self) -> watch::Receiver<QueryProgress> {
        self.progress.clone()
    }

    /// What is known now.
    ///
    /// # Errors
    /// The query's own failure; `NotFound` when the result has ended.
    pub(super) fn standing(&self) -> Result<Standing, Failure> {
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
    /// As [`RetainedResult::standing`].
    pub(super) async fn all_known(&self) -> Result<Standing, Failure> {
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
    pub(super) fn fresh_ticket(&self, rows: Fetch) -> Bytes {
        let subject = Subject::Endpoint(rows);
        self.key.seal(&subject, SystemTime::now(), self.ticket_lifetime)
    }

    /// The parts of the result that an endpoint stands for, as soon as they can be read. The attempts that write them may
    /// be other ones than when the endpoint was told.
    ///
    /// # Errors
    /// As [`RetainedResult::standing`], and `NotFound` for rows of which the result knows nothing.
    pub(super) async fn parts_of(&self, rows: &Fetch) -> Result<Vec<ResultPart>, Failure> {
        self.find_parts(rows, |_| true).await
    }

    /// Whether these are rows of the result, read or not.
    ///
    /// # Errors
    /// As [`RetainedResult::parts_of`].
    pub(super) fn check(&self, rows: &Fetch) -> Result<(), Failure> {
        self.present_parts(rows).map(drop)
    }

    /// As [`RetainedResult::parts_of`], when other attempts write all parts that could not be read.
    pub(super) async fn other_parts_of(&self, rows: &Fetch, unreadable: &Failure) -> Result<Vec<ResultPart>, Failure> {
        self.cannot_read(unreadable);
        self.find_parts(rows, |part| !unreadable.lost.contains(&part.attempt))
            .await
    }

    /// Some parts cannot be read: they are written again.
    pub(super) fn cannot_read(&self, unreadable: &Failure) {
        if let Some(events) = &lock(&self.state).events {
            events.cannot_read(unreadable.clone());
        }
    }

    async fn find_parts(
        &self,
        rows: &Fetch,
        is_wanted: impl Fn(&ResultPart) -> bool,
    ) -> Result<Vec<ResultPart>, Failure> {
        let mut progress = self.progress();
        loop {
            progress.mark_unchanged();
            let parts = self.present_parts(rows)?;
            if let Some(parts) = parts.filter(|parts| parts.iter().all(&is_wanted)) {
                return Ok(parts);
            }
            if progress.changed().await.is_err() {
                self.standing()?;
                return Err(gone());
            }
        }
    }

    /// None while some are being written again.
    fn present_parts(&self, rows: &Fetch) -> Result<Option<Vec<ResultPart>>, Failure> {
        let known = self.standing()?.endpoints;
        let progress = self.progress.borrow();
        let mut parts = Vec::new();
        for output in &rows.outputs {
            if !known.iter().any(|endpoint| endpoint.covers(rows, output)) {
                return Err(gone());
            }
            let mut present = progress.parts.iter();
            let Some(part) = present.find(|part| part.attempt.task == output.task) else {
                return Ok(None);
            };
            parts.push(ResultPart {
                partitions: output.partitions.clone(),
                ..part.clone()
            });
        }
        Ok(Some(parts))
    }

    /// Counts one more reader.
    pub(super) fn reading(self: &Arc<Self>) -> Reading {
        self.readers.fetch_add(1, Ordering::Relaxed);
        Reading(Arc::clone(self))
    }

    /// Cuts the partitions of one task so that all tasks together have no more endpoints than there should be.
    fn endpoints_of(&self, part: ResultPart) -> Vec<RetainedEndpoint> {
        let most = (MAX_ENDPOINTS / self.tasks.max(1)).max(1);
        let size = part.partitions.len().div_ceil(most).max(1);
        part.partitions
            .chunks(size)
            .map(|partitions| {
                let rows = part.fetch(partitions);
                RetainedEndpoint {
                    ticket: self.fresh_ticket(rows.clone()),
                    address: part.address.clone(),
                    rows,
                }
            })
            .collect()
    }
}

impl RetainedEndpoint {
    fn covers(&self, rows: &Fetch, output: &FetchOutput) -> bool {
        self.rows.stage == rows.stage && self.rows.outputs.contains(output)
    }
}

impl Reading {
    pub(super) fn result(&self) -> &RetainedResult {
        &self.0
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The failure of a caller for whom there is no such result.
pub(super) fn gone() -> Failure {
    Failure::new(
        FailureKind::NotFound,
        "the result is not retained any more: its expiration time is over, or its query was cancelled; run the statement again",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use datafusion::arrow::datatypes::Schema;
    use squadron_proto::{AttemptKey, AttemptNumber, QueryId, StageId, WorkerId};

    use super::*;
    use crate::driver::subscriber::unconnected;

    const QUERY: QueryId = QueryId::from_u128(1);

    fn retained(tasks: usize) -> RetainedResult {
        RetainedResult::new(RetainAs {
            schema: Arc::new(Schema::empty()),
            is_ordered: false,
            tasks,
            events: unconnected(QUERY).1,
            key: ClusterKey::random(),
            ticket_lifetime: Duration::from_secs(60),
            time_to_live: Duration::from_secs(60),
        })
    }

    fn part(query: QueryId, task: u32, partitions: u32) -> ResultPart {
        ResultPart {
            attempt: AttemptKey {
                query,
                stage: StageId(0),
                task: TaskId(task),
                attempt: AttemptNumber(0),
            },
            worker: WorkerId::from_u128(u128::from(task)),
            address: format!("http://w{task}:1"),
            partitions: (task * partitions..(task + 1) * partitions).collect(),
        }
    }

    #[test]
    fn endpoints_hold_every_partition_once() {
        for (tasks, partitions) in [(1, 1), (1, 64), (1, 1000), (3, 7), (8, 100), (64, 3), (100, 2)] {
            let result = retained(tasks as usize);
            let endpoints: Vec<_> = (0..tasks)
                .flat_map(|task| result.endpoints_of(part(QUERY, task, partitions)))
                .collect();
            assert!(
                endpoints.len() <= MAX_ENDPOINTS.max(tasks as usize),
                "{tasks} x {partitions}"
            );
            assert!(endpoints.len() >= MAX_ENDPOINTS.min((tasks * partitions) as usize) / 3);
            let mut seen = HashSet::new();
            for endpoint in &endpoints {
                for output in &endpoint.rows.outputs {
                    for partition in &output.partitions {
                        assert!(seen.insert((output.task, *partition)));
                        assert_eq!(endpoint.address, format!("http://w{}:1", output.task));
                    }
                }
            }
            assert_eq!(seen.len(), (tasks * partitions) as usize);
        }
    }
}
