//! All queries of the server, one record each, in one map; and the history of those that have ended.
//!
//! ```text
//! begin ──> starting ──submitted──> with the scheduler ──ended──> completed ──> part of the history
//!              └── Starting::ended ─────────────────────────────────^
//! ```
//!
//! A statement that the scheduler never sees (DDL, SET, one that fails while it is planned) is complete when its
//! starter says so. The map is locked for single steps only; what a step takes out of a record is dropped after the
//! lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use squadron_proto::{Failure, FailureKind, QueryId};
use squadron_scheduler::QueryInfo;
use tokio::sync::watch;

use super::ended::EndedQueries;
use super::history::{CompletedQueries, CompletedQuery, HistoryLimits, QueryRequest};
use super::polled::PolledQuery;
use super::record::{Lost, Poll, Record, ResultState};
use super::results::OpenResult;
use super::retained::RetainedResult;
use crate::auth::Principal;
use crate::counted::Counted;
use crate::driver::Subscriber;
use crate::driver::directory::QueryDirectory;

/// How often expired results and polls are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// Queries that are polled at once.
const MAX_POLLED: usize = 10_000;

/// See the module. Clones share one map.
#[derive(Clone, Debug)]
pub struct QueryRecords {
    inner: Arc<Mutex<Inner>>,
    /// Bytes of rows that wait for their clients here, not at a worker.
    ready_bytes: Arc<AtomicU64>,
    /// How long rows and polls wait for their clients.
    time_to_live: Duration,
    /// When the scheduler's time was zero.
    epoch: SystemTime,
}

#[derive(Debug)]
struct Inner {
    records: BTreeMap<QueryId, Record>,
    /// When to look at which record for what may have expired, one entry a record at most; a record that was renewed
    /// meanwhile is looked at again.
    expiries: BTreeSet<(Instant, QueryId)>,
    ended: EndedQueries,
    polled: usize,
    completed: CompletedQueries,
}

/// A query that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActiveQuery {
    /// What was asked, and by whom.
    pub request: Arc<QueryRequest>,
    /// What the scheduler said of it at its end, while its starter is not done with it.
    pub info: Option<Arc<QueryInfo>>,
}

impl QueryRecords {
    /// An empty map, with the history that is on disk, if any; the scheduler's time begins now. Rows and polls wait
    /// `time_to_live` for their clients.
    ///
    /// # Errors
    /// `Invalid` when the folder of the history cannot be used.
    pub fn open(history: HistoryLimits, time_to_live: Duration) -> Result<Self, Failure> {
        let inner = Inner {
            records: BTreeMap::new(),
            expiries: BTreeSet::new(),
            ended: EndedQueries::default(),
            polled: 0,
            completed: CompletedQueries::open(history)?,
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            ready_bytes: Arc::default(),
            time_to_live,
            epoch: SystemTime::now(),
        })
    }

    /// A client asks for a query.
    pub(super) fn begin(&self, request: QueryRequest, owner: &Principal) -> Starting {
        let id = request.id;
        let (record, stopped) = Record::new(request, owner.clone());
        self.lock().records.insert(id, record);
        Starting {
            records: self.clone(),
            id,
            stopped,
            is_done: false,
        }
    }

    /// Tells what starts the query to stop, and takes its rows out of the record. `None`: the query is not known to `owner`.
    pub(super) fn stop(&self, id: QueryId, owner: &Principal, failure: &Failure) -> Option<Lost> {
        let stop = |record: &mut Record| (record.owner == *owner).then(|| record.stop(failure));
        match self.change(id, stop) {
            Some(lost) => lost,
            // Nothing is left of a query that has just ended.
            None => self.lock().ended.is_of(id, owner).then(Lost::default),
        }
    }

    /// The active queries, in the order of their ids, and the completed ones, the oldest end first.
    pub(crate) fn all(&self) -> (Vec<ActiveQuery>, Vec<CompletedQuery>) {
        let inner = self.lock();
        let active = inner.records.values().filter(|record| record.is_active());
        let active = active.map(|record| ActiveQuery {
            request: Arc::clone(&record.request),
            info: record.info(),
        });
        (active.collect(), inner.completed.all())
    }

    /// The active queries of a session, and whether the result of each is retained.
    pub(crate) fn of_session(&self, session: &str) -> Vec<(QueryId, bool)> {
        let inner = self.lock();
        let own = inner.records.values().filter(|record| record.is_active());
        let own = own.filter(|record| &*record.request.session == session);
        own.map(|record| (record.id(), matches!(record.result, ResultState::Retained(_))))
            .collect()
    }

    /// A time of the scheduler as others count it.
    pub(crate) fn time(&self, at: Duration) -> SystemTime {
        self.epoch + at
    }

    /// Forgets the oldest completed queries until they take no more than so many bytes.
    pub(super) fn shrink_history(&self, bytes: u64) {
        self.lock().completed.shrink(bytes);
    }

    /// Lets the rows of a query wait for its client, who reads them once.
    pub(super) fn offer(&self, id: QueryId, result: OpenResult) {
        let expires = Instant::now() + self.time_to_live;
        let bytes = Counted::new(&self.ready_bytes, result.bytes());
        self.change(id, |record| {
            record.result = ResultState::Waiting { result, bytes, expires };
        });
    }

    /// The rows of a query, for the client that comes first.
    ///
    /// # Errors
    /// `NotFound` when they were taken, waited too long, never were, or belong to another principal.
    pub(super) fn take(&self, id: QueryId, owner: &Principal) -> Result<(OpenResult, Streaming), Failure> {
        let now = Instant::now();
        let take = |record: &mut Record| match &record.result {
            ResultState::Waiting { expires, .. } if record.owner == *owner && *expires > now => {
                Some(std::mem::replace(&mut record.result, ResultState::Streaming))
            }
            _ => None,
        };
        match self.change(id, take).flatten() {
            Some(ResultState::Waiting { result, .. }) => Ok((
                result,
                Streaming {
                    records: self.clone(),
                    id,
                },
            )),
            Some(_) | None => Err(Failure::new(
                FailureKind::NotFound,
                "the result was already fetched, cancelled, or not fetched in time; run the statement again",
            )),
        }
    }

    /// Lets rows that wait do so for their whole time to live from now on.
    pub(super) fn touch(&self, id: QueryId) {
        let renewed = Instant::now() + self.time_to_live;
        self.change(id, |record| {
            if let ResultState::Waiting { expires, .. } = &mut record.result {
                *expires = renewed;
            }
        });
    }

    /// Gives up the rows of a query, unless its client is reading them.
    pub(super) fn discard_result(&self, id: QueryId) {
        if let Some(result) = self.change(id, Record::take_result) {
            let poll = None;
            Lost { result, poll }.release();
        }
    }

    /// Lets the rows of a query stay where they are written. They do not expire before [`QueryRecords::announce`].
    pub(super) fn retain(&self, id: QueryId, result: &Arc<RetainedResult>) {
        self.change(id, |record| record.result = ResultState::Retained(Arc::clone(result)));
    }

    /// The client is being told of a retained result: from now on its time runs.
    pub(super) fn announce(&self, id: QueryId) {
        self.change(id, |record| {
            if let ResultState::Retained(result) = &record.result {
                result.touch();
            }
        });
    }

    /// The retained result of a query of `owner`.
    pub(super) fn retained(&self, id: QueryId, owner: &Principal) -> Option<Arc<RetainedResult>> {
        let inner = self.lock();
        let record = inner.records.get(&id).filter(|record| record.owner == *owner)?;
        match &record.result {
            ResultState::Retained(result) => Some(Arc::clone(result)),
            ResultState::None | ResultState::Waiting { .. } | ResultState::Streaming => None,
        }
    }

    /// Keeps a query for polls of its client, for the time to live after each.
    ///
    /// # Errors
    /// `Exhausted`, with the limit, when too many queries are polled.
    pub(super) fn keep_polled(&self, id: QueryId, query: &Arc<PolledQuery>) -> Result<(), Failure> {
        if self.lock().polled >= MAX_POLLED {
            return Err(Failure::new(
                FailureKind::Exhausted,
                format!("{MAX_POLLED} queries are polled already; run the statement again later"),
            ));
        }
        let poll = Poll {
            query: Arc::clone(query),
            expires: Instant::now() + self.time_to_live,
        };
        self.change(id, |record| record.poll = Some(poll));
        Ok(())
    }

    /// The client of a query polls.
    pub(super) fn polled(&self, id: QueryId, owner: &Principal) -> Option<Arc<PolledQuery>> {
        let renewed = Instant::now() + self.time_to_live;
        let poll = |record: &mut Record| {
            let poll = record.poll.as_mut().filter(|_| record.owner == *owner)?;
            poll.expires = renewed;
            Some(Arc::clone(&poll.query))
        };
        self.change(id, poll).flatten()
    }

    /// The client has no reason to poll the query again.
    pub(super) fn end_polls(&self, id: QueryId) {
        drop(self.change(id, |record| record.poll.take()));
    }

    /// How long rows and polls wait for their clients.
    pub(super) fn time_to_live(&self) -> Duration {
        self.time_to_live
    }

    /// Bytes of rows that wait for their clients here, not at a worker.
    pub(super) fn ready_bytes(&self) -> u64 {
        self.ready_bytes.load(Ordering::Relaxed)
    }

    /// Gives up such rows, the oldest first, until so many bytes are free. Returns how many results that were.
    pub(super) fn shed(&self, bytes: u64) -> usize {
        let (mut freed, mut dropped) = (0, Vec::new());
        for (id, record) in &self.lock().records {
            if freed >= bytes {
                break;
            }
            if let ResultState::Waiting { bytes: held, .. } = &record.result
                && held.count() > 0
            {
                freed += held.count();
                dropped.push(*id);
            }
        }
        dropped.iter().for_each(|id| self.discard_result(*id));
        dropped.len()
    }

    /// Results that a shutdown waits for.
    #[cfg(test)]
    pub(super) fn open_results(&self) -> usize {
        let inner = self.lock();
        inner.records.values().filter(|record| record.result.is_open()).count()
    }

    /// Queries that are planned, run, or have a result that is open.
    pub(super) fn unfinished(&self) -> usize {
        let inner = self.lock();
        let is_unfinished = |record: &&Record| record.is_active() || record.result.is_open();
        inner.records.values().filter(is_unfinished).count()
    }

    /// Drops what its client did not come for in time, until cancelled.
    pub async fn sweep(self) {
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            interval.tick().await;
            self.drop_expired(Instant::now());
        }
    }

    fn drop_expired(&self, now: Instant) {
        let due = self.lock().take_due(now);
        for id in due {
            let expire = |record: &mut Record| record.expire(now);
            if let Some(lost) = self.change(id, expire) {
                lost.release();
            }
        }
        self.lock().ended.forget(now);
    }

    /// Changes a record, and does what follows: lists it for its expiry, adds it to the history when it is not active any
    /// more, and forgets it when it is idle.
    fn change<T>(&self, id: QueryId, change: impl FnOnce(&mut Record) -> T) -> Option<T> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let record = inner.records.get_mut(&id)?;
        let (was_active, was_polled) = (record.is_active(), record.poll.is_some());
        let answer = change(record);
        inner.polled = inner.polled + usize::from(record.poll.is_some()) - usize::from(was_polled);
        if was_active && !record.is_active() {
            inner.completed.add(record.complete(self.epoch));
        }
        list_expiry(&mut inner.expiries, record);
        if record.is_idle() {
            inner.ended.add(id, record.owner.clone(), Instant::now());
            inner.records.remove(&id);
        }
        Some(answer)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take_due(&mut self, now: Instant) -> Vec<QueryId> {
        let mut due = Vec::new();
        while let Some(&(at, id)) = self.expiries.first()
            && at <= now
        {
            self.expiries.pop_first();
            if let Some(record) = self.records.get_mut(&id) {
                record.listed = None;
            }
            due.push(id);
        }
        due
    }
}

/// Lists a record under the time of its next expiry. One that expires later than it is listed for is listed anew when that
/// time has come.
fn list_expiry(expiries: &mut BTreeSet<(Instant, QueryId)>, record: &mut Record) {
    let expires = record.expires();
    if record.listed.is_some() && record.listed <= expires {
        return;
    }
    if let Some(listed) = record.listed {
        expiries.remove(&(listed, record.id()));
    }
    if let Some(expires) = expires {
        expiries.insert((expires, record.id()));
    }
    record.listed = expires;
}

impl QueryDirectory for QueryRecords {
    fn submitted(&self, query: QueryId, subscriber: Subscriber) -> bool {
        self.change(query, |record| record.submitted(subscriber))
            .unwrap_or(false)
    }

    fn with_subscriber(&self, query: QueryId, look: &mut dyn FnMut(&Subscriber)) {
        let inner = self.lock();
        if let Some(subscriber) = inner.records.get(&query).and_then(Record::subscriber) {
            look(subscriber);
        }
    }

    fn ended(&self, query: QueryId, outcome: Result<(), Failure>, info: Option<Box<QueryInfo>>) -> Option<Subscriber> {
        self.change(query, |record| record.ended(outcome, info)).flatten()
    }

    fn released(&self, query: QueryId) {
        let now = SystemTime::now();
        let mut inner = self.lock();
        match inner.records.get_mut(&query) {
            Some(record) if record.is_active() => record.released(now),
            _ => inner.completed.released(query, now),
        }
    }

    fn abandon(&self, failure: &Failure) -> Vec<Subscriber> {
        let has_subscriber = |(_, record): &(&QueryId, &Record)| record.subscriber().is_some();
        let left: Vec<_> = self
            .lock()
            .records
            .iter()
            .filter(has_subscriber)
            .map(|(id, _)| *id)
            .collect();
        let ended = left
            .into_iter()
            .filter_map(|id| self.ended(id, Err(failure.clone()), None));
        ended.collect()
    }
}

/// Held by what plans and starts a query. Dropped without a word, the query was abandoned by its client.
#[derive(Debug)]
pub(super) struct Starting {
    records: QueryRecords,
    id: QueryId,
    stopped: watch::Receiver<Option<Failure>>,
    is_done: bool,
}

impl Starting {
    pub(super) fn id(&self) -> QueryId {
        self.id
    }

    /// Waits until the query is to stop. Returns what it shall end with.
    pub(super) async fn stopped(&self) -> Failure {
        let mut stopped = self.stopped.clone();
        loop {
            let failure = stopped.borrow_and_update().clone();
            match failure {
                Some(failure) => return failure,
                // The sender lives as long as this does.
                None => _ = stopped.changed().await,
            }
        }
    }

    /// What the query shall end with, if it is to stop.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.stopped.borrow().clone()
    }

    /// The scheduler has the query from now on, and its end is the query's.
    pub(super) fn hand_over(mut self) {
        self.finish(None);
    }

    /// The query is over, as far as its starter is concerned.
    pub(super) fn ended(mut self, outcome: Result<(), Failure>) {
        self.finish(Some(outcome));
    }

    /// The statement names nothing that could run: it was no query.
    pub(super) fn forget(mut self) {
        self.is_done = true;
        self.records.lock().records.remove(&self.id);
    }

    fn finish(&mut self, outcome: Option<Result<(), Failure>>) {
        self.is_done = true;
        self.records.change(self.id, |record| record.started(outcome));
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if !self.is_done {
            let abandoned = || Failure::new(FailureKind::Cancelled, "its client went away before it was answered");
            let failure = self.failure().unwrap_or_else(abandoned);
            self.finish(Some(Err(failure)));
        }
    }
}

/// Says that the rows of a query are being read, for as long as it lives.
#[derive(Debug)]
pub(super) struct Streaming {
    records: QueryRecords,
    id: QueryId,
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.records.change(self.id, |record| record.result = ResultState::None);
    }
}

#[cfg(test)]
mod tests;
