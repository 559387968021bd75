//! Queries that are started by a poll, and looked at until they are done.
//!
//! ```text
//! start_polled ──> Planning ──> Started ──────────> done: everything that can be told is told
//!   answers soon       │           │ progress, endpoints
//!                      └───────────┴──> Failed: every further poll says why
//! ```
//!
//! Each answer carries everything that is known and a handle for the next poll, which tells what its holder has seen: the
//! next answer comes when there is more than that, or after [`LONGEST_WAIT`]. Any handle of the query will do, also an
//! old one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::runtime::SpawnedTask;
use futures::FutureExt;
use moka::sync::Cache;
use squadron_proto::ticket::{Poll, Subject};
use squadron_proto::{Failure, FailureKind, QueryId};
use tokio::sync::watch;
use tracing::{Instrument, info_span};

use super::{Principal, Queries, Session, Started};
use crate::query::result_endpoints::{Offer, Offered, wanted};
use crate::sql::bind::{Bound, bind};
use crate::sql::statement::frozen_schema;
use crate::sql::{PlannedStatement, StatementKind};
use squadron_scheduler::QueryProgress;

/// How long the first answer waits for the query to be done; most short ones are.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// How long a poll waits for news, unless results are kept so shortly that they would expire meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often what nobody polls any more is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);
/// Queries that are polled at once.
const MAX_POLLED: u64 = 10_000;
/// The progress of a query that is done, in the unit in which it is told.
const FULL: u64 = 1000;

/// What a poll answers.
#[derive(Clone, Debug)]
pub struct Polled {
    /// Which query.
    pub id: QueryId,
    /// The schema of its rows.
    pub schema: SchemaRef,
    /// What can be read by now.
    pub offered: Offered,
    /// From 0 to 1; never falls from one answer to the next.
    pub progress: f64,
    /// Names the query in later polls and in a cancel.
    pub handle: Bytes,
    /// When the query is dropped unless somebody polls.
    pub expires: SystemTime,
    /// Whether nothing more will be told.
    pub is_done: bool,
}

/// The queries that are polled. Nobody's poll for a time to live: the query is dropped.
#[derive(Clone, Debug)]
pub struct Polls {
    queries: Cache<QueryId, Arc<Entry>>,
    time_to_live: Duration,
    longest_wait: Duration,
}

#[derive(Debug)]
struct Entry {
    owner: Principal,
    schema: SchemaRef,
    phase: watch::Sender<Phase>,
    /// Starts the query.
    task: Mutex<Option<SpawnedTask<()>>>,
    /// The furthest progress told, in parts of [`FULL`].
    told: AtomicU64,
}

#[derive(Clone, Debug)]
enum Phase {
    Planning,
    Started(Box<Started>),
    Failed(Failure),
}

/// What an answer says, as far as a difference is worth an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct News {
    endpoints: u64,
    /// In parts of [`FULL`].
    progress: u64,
    is_done: bool,
}

impl News {
    const NONE: Self = Self {
        endpoints: 0,
        progress: 0,
        is_done: false,
    };

    /// As a handle carries it.
    fn seen(self) -> u64 {
        self.endpoints << 16 | self.progress << 1 | u64::from(self.is_done)
    }
}

impl Polls {
    /// Queries are forgotten when nobody polled for `time_to_live`.
    pub fn new(time_to_live: Duration) -> Self {
        Self {
            queries: Cache::builder().time_to_idle(time_to_live).build(),
            time_to_live,
            longest_wait: LONGEST_WAIT.min(time_to_live / 2),
        }
    }

    /// Drops what nobody polls any more, until cancelled.
    pub async fn sweep(self) {
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            interval.tick().await;
            self.queries.run_pending_tasks();
        }
    }

    /// Whether the query is polled and belongs to `principal`.
    pub(crate) fn is_of(&self, query: QueryId, principal: &Principal) -> bool {
        self.get(query, principal).is_some()
    }

    /// Stops the start of a query that was cancelled; polls say so from now on.
    pub(crate) fn cancel(&self, query: QueryId, failure: Failure) {
        if let Some(entry) = self.queries.get(&query) {
            entry.cancel(failure);
        }
    }

    fn get(&self, query: QueryId, principal: &Principal) -> Option<Arc<Entry>> {
        let entry = self.queries.get(&query);
        entry.filter(|entry| entry.owner == *principal)
    }
}

/// A query whose client has not heard of it yet, so that nobody else can end it.
struct Unanswered<'a> {
    queries: &'a Queries,
    query: QueryId,
    owner: &'a Principal,
    is_told: bool,
}

impl Unanswered<'_> {
    /// Only what its client is to ask about again is remembered.
    fn end(mut self, answer: &Result<Polled, Failure>) {
        self.is_told = true;
        if !matches!(answer, Ok(polled) if !polled.is_done) {
            self.queries.parts.polls.queries.invalidate(&self.query);
        }
    }
}

impl Drop for Unanswered<'_> {
    /// The client went away before its answer.
    fn drop(&mut self) {
        if !self.is_told {
            // That it is not known is as good.
            let _ = self.queries.cancel(self.owner, self.query);
            self.queries.parts.polls.queries.invalidate(&self.query);
        }
    }
}

impl Entry {
    fn cancel(&self, failure: Failure) {
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

impl Queries {
    /// Starts a query, or makes a change, and answers soon, done or not.
    ///
    /// # Errors
    /// What is known by then to be wrong with it.
    pub async fn start_polled(
        &self,
        session: &Session,
        planned: &PlannedStatement,
        parameters: Option<RecordBatch>,
    ) -> Result<Polled, Failure> {
        self.check_open()?;
        let polls = &self.parts.polls;
        if polls.queries.entry_count() >= MAX_POLLED {
            return Err(Failure::new(
                FailureKind::Exhausted,
                format!("{MAX_POLLED} queries are polled already; run the statement again later"),
            ));
        }
        let bound = bind(planned, parameters)?;
        let schema = self.bound_schema(session, planned, &bound).await?;
        let id = QueryId::new();
        let entry = Arc::new(Entry {
            owner: session.principal.clone(),
            schema,
            phase: watch::Sender::new(Phase::Planning),
            task: Mutex::new(None),
            told: AtomicU64::new(0),
        });
        let task = self.starting(id, session, planned, bound, entry.phase.clone());
        *entry.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        polls.queries.insert(id, Arc::clone(&entry));
        let unanswered = Unanswered {
            queries: self,
            query: id,
            owner: &session.principal,
            is_told: false,
        };
        let is_done = self.waits(&entry, |news| news.is_done);
        // What is known when the time is over is the answer.
        let _ = tokio::time::timeout(FIRST_WAIT.min(polls.longest_wait), is_done).await;
        let answer = self.answer(id, &entry);
        unanswered.end(&answer);
        answer
    }

    /// Looks at a query again: waits until there is more to tell than the handle's holder knows.
    ///
    /// # Errors
    /// The query's own failure; `Invalid` for a handle that is not ours, `NotFound` for one that is of another principal
    /// or whose query is forgotten.
    pub async fn poll(&self, principal: &Principal, handle: &[u8]) -> Result<Polled, Failure> {
        let Subject::Poll(Poll { query, seen }) = self.opened(handle)? else {
            return Err(Failure::new(
                FailureKind::Invalid,
                "this is the ticket of an endpoint; PollFlightInfo takes the descriptor of the last PollInfo",
            ));
        };
        let polls = &self.parts.polls;
        let entry = polls.get(query, principal).ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                "the query is not known: nobody polled for too long, or it never ran here; run the statement again",
            )
        })?;
        self.keep(&entry);
        let is_news = self.waits(&entry, |news| news.seen() != seen || news.is_done);
        // Without news the answer is what it was.
        let _ = tokio::time::timeout(polls.longest_wait, is_news).await;
        self.answer(query, &entry)
    }

    /// Whether a descriptor's command is the handle of a poll.
    pub fn is_poll(&self, command: &[u8]) -> bool {
        matches!(self.opened(command), Ok(Subject::Poll(_)))
    }

    /// What clients are told of the rows once the parameters are known.
    async fn bound_schema(
        &self,
        session: &Session,
        planned: &PlannedStatement,
        bound: &Bound,
    ) -> Result<SchemaRef, Failure> {
        let is_known = planned.kind == StatementKind::Update || planned.parameters.fields().is_empty();
        let plan = match bound {
            _ if is_known => None,
            Bound::One(plan) => Some(plan),
            Bound::Each(plans) => plans.first(),
            Bound::Nothing => None,
        };
        let Some(plan) = plan.cloned() else {
            return Ok(Arc::clone(&planned.schema));
        };
        let state = session.context.state();
        self.on_planner(session, async move { frozen_schema(&state, &plan) })
            .await
    }

    fn starting(
        &self,
        id: QueryId,
        session: &Session,
        planned: &PlannedStatement,
        bound: Bound,
        phase: watch::Sender<Phase>,
    ) -> SpawnedTask<()> {
        let span = info_span!("query", query_id = %id, session = session.id);
        let (queries, session, planned) = (self.clone(), session.clone(), planned.clone());
        let start = async move {
            let endpoints = wanted(&session);
            let work = queries.start_bound(id, &session, &planned, bound, endpoints).boxed();
            let started = queries.recorded(id, &session, &planned, work);
            phase.send_replace(match started.await {
                Ok(started) => {
                    if let Offer::Kept(kept) = &started.offer {
                        kept.touch();
                    }
                    Phase::Started(Box::new(started))
                }
                Err(failure) => Phase::Failed(failure),
            });
        };
        SpawnedTask::spawn(start.instrument(span))
    }

    /// Lets the result wait on, while its client waits for news.
    fn keep(&self, entry: &Entry) {
        if let Phase::Started(started) = &*entry.phase.borrow() {
            match &started.offer {
                Offer::Once(_) => self.parts.results.touch(started.id),
                Offer::Kept(kept) => _ = kept.touch(),
            }
        }
    }

    /// Waits until what there is to tell is `enough`, or is a failure.
    async fn waits(&self, entry: &Entry, enough: impl Fn(News) -> bool) {
        let mut phase = entry.phase.subscribe();
        let started = match phase.wait_for(|phase| !matches!(phase, Phase::Planning)).await {
            Ok(phase) => phase.clone(),
            Err(_) => return,
        };
        let Phase::Started(started) = started else {
            return;
        };
        let Some(mut progress) = started.progress() else {
            return;
        };
        loop {
            progress.mark_unchanged();
            match self.news(&started) {
                Ok((news, _)) if !enough(news) => {}
                Ok(_) | Err(_) => return,
            }
            if progress.changed().await.is_err() {
                return;
            }
        }
    }

    fn answer(&self, id: QueryId, entry: &Entry) -> Result<Polled, Failure> {
        let phase = entry.phase.borrow().clone();
        let (news, offered, schema) = match phase {
            Phase::Failed(failure) => return Err(failure),
            Phase::Planning => (News::NONE, Offered::nothing(), Arc::clone(&entry.schema)),
            Phase::Started(started) => {
                // Who hears that there are no rows will not come for them.
                let news = self.news(&started);
                let (news, offered) = news.inspect_err(|_| self.parts.results.discard(id))?;
                (news, offered, started.schema)
            }
        };
        let told = entry.told.fetch_max(news.progress, Ordering::Relaxed);
        let poll = Poll {
            query: id,
            seen: news.seen(),
        };
        Ok(Polled {
            id,
            schema,
            offered,
            progress: told.max(news.progress) as f64 / FULL as f64,
            handle: self
                .parts
                .key
                .seal(&Subject::Poll(poll), SystemTime::now(), self.parts.ticket_lifetime),
            expires: SystemTime::now() + self.parts.polls.time_to_live,
            is_done: news.is_done,
        })
    }

    /// What there is to tell of a started query.
    fn news(&self, started: &Started) -> Result<(News, Offered), Failure> {
        let shown = started.progress().map(|progress| progress.borrow().clone());
        let (is_done, offered) = match (&started.offer, &shown) {
            (Offer::Once(_), Some(shown)) => {
                if let Some(Err(failure)) = &shown.ended {
                    return Err(failure.clone());
                }
                // From then on the client can read all of it, while it is written.
                match shown.is_ready || shown.ended.is_some() {
                    true => (true, self.offered(started)?),
                    false => (false, Offered::nothing()),
                }
            }
            (Offer::Once(_), None) => (true, self.offered(started)?),
            (Offer::Kept(_), _) => {
                let offered = self.offered(started)?;
                (offered.total_records >= 0, offered)
            }
        };
        let progress = match (is_done, shown) {
            (true, _) | (_, None) => FULL,
            // Not done: whatever is rounded up, it is not all.
            (false, Some(shown)) => ((shown.fraction * FULL as f64) as u64).min(FULL - 1),
        };
        let news = News {
            endpoints: offered.endpoints.len() as u64,
            progress,
            is_done,
        };
        Ok((news, offered))
    }
}

impl Started {
    /// How far the query is; none when its rows are there already.
    fn progress(&self) -> Option<watch::Receiver<QueryProgress>> {
        match &self.offer {
            Offer::Once(progress) => progress.clone(),
            Offer::Kept(kept) => Some(kept.progress()),
        }
    }
}

impl Offered {
    fn nothing() -> Self {
        Self {
            endpoints: Vec::new(),
            is_ordered: false,
            total_records: -1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_news_changes_what_was_seen() {
        let mut seen = std::collections::BTreeSet::new();
        for endpoints in [0, 1, 64, 5000] {
            for progress in [0, 1, 500, FULL] {
                for is_done in [false, true] {
                    let news = News {
                        endpoints,
                        progress,
                        is_done,
                    };
                    assert!(seen.insert(news.seen()), "{news:?}");
                }
            }
        }
    }
}
