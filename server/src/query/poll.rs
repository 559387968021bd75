//! Queries that are started by a poll, and looked at until they are done.
//!
//! ```text
//! start_polled ──> Planning ──> Started ──────────> done: everything that can be told is told
//!   answers soon       │           │ progress, endpoints
//!                      └───────────┴──> Failed: every further poll says why
//! ```
//!
//! Each answer carries everything that is known and a handle for the next poll, which tells what its holder has seen:
//! the next answer comes when there is more than that, or after [`LONGEST_WAIT`]. Any handle of the query will do, also
//! an old one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::runtime::SpawnedTask;
use futures::FutureExt;
use squadron_proto::ticket::{Poll, Subject};
use squadron_proto::{Failure, FailureKind, QueryId};
use squadron_scheduler::QueryProgress;
use tokio::sync::watch;
use tracing::Instrument;

use super::lowering::bound_schema;
use super::options::wanted_endpoints;
use super::polled::{Phase, PolledQuery};
use super::records::Starting;
use super::result_endpoints::ResultEndpoints;
use super::start::query_span;
use super::started::{Offer, Started};
use super::{Principal, Queries, Session};
use crate::sql::bind::{Bound, bind};
use crate::sql::{PlannedStatement, StatementKind};

/// How long the first answer waits for the query to be done; most short ones are.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// How long a poll waits for news, unless results are kept so shortly that they would expire meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
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
    pub endpoints: ResultEndpoints,
    /// From 0 to 1; never falls from one answer to the next.
    pub progress: f64,
    /// Names the query in later polls and in a cancel.
    pub handle: Bytes,
    /// When the query is dropped unless its client polls.
    pub expires: SystemTime,
    /// Whether nothing more will be told.
    pub is_done: bool,
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

/// A query whose client has not heard of it yet: only its start can end it.
struct Unanswered<'a> {
    queries: &'a Queries,
    query: QueryId,
    owner: &'a Principal,
    is_told: bool,
}

impl Unanswered<'_> {
    /// The client was answered. It polls again only for a query that is not done.
    fn end(mut self, answer: &Result<Polled, Failure>) {
        self.is_told = true;
        if !matches!(answer, Ok(polled) if !polled.is_done) {
            self.queries.parts.records.end_polls(self.query);
        }
    }
}

impl Drop for Unanswered<'_> {
    /// The client went away before its answer.
    fn drop(&mut self) {
        if !self.is_told {
            // A query that is not known needs no cancel.
            let _ = self.queries.cancel(self.owner, self.query);
            self.queries.parts.records.end_polls(self.query);
        }
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
        statement: &PlannedStatement,
        parameters: Option<RecordBatch>,
    ) -> Result<Polled, Failure> {
        self.check_open()?;
        let bound = bind(statement, parameters)?;
        let schema = self.schema_of(session, statement, &bound).await?;
        let id = QueryId::new();
        let polled = Arc::new(PolledQuery::new(Arc::clone(&schema)));
        let starting = self.begin(session, id, statement.text.clone());
        if let Err(failure) = self.parts.records.keep_polled(id, &polled) {
            starting.forget();
            return Err(failure);
        }
        let unanswered = Unanswered {
            queries: self,
            query: id,
            owner: &session.principal,
            is_told: false,
        };
        let task = self.starting(starting, session, statement, bound, schema, polled.phase.clone());
        polled.set_task(task);
        let is_done = self.waits(&polled, |news| news.is_done);
        // What is known when the time is over is the answer.
        let _ = tokio::time::timeout(FIRST_WAIT.min(self.longest_wait()), is_done).await;
        let answer = self.answer(id, &polled);
        unanswered.end(&answer);
        answer
    }

    /// Looks at a query again: waits until there is more to tell than the handle's holder knows.
    ///
    /// # Errors
    /// The query's own failure; `Invalid` for a handle that is not ours, `NotFound` for one that is of another
    /// principal or whose query is forgotten.
    pub async fn poll(&self, principal: &Principal, handle: &[u8]) -> Result<Polled, Failure> {
        let Subject::Poll(Poll { query, seen }) = self.opened(handle)? else {
            return Err(Failure::new(
                FailureKind::Invalid,
                "this is the ticket of an endpoint; PollFlightInfo takes the descriptor of the last PollInfo",
            ));
        };
        let polled = self.parts.records.polled(query, principal).ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                "the query is not known: nobody polled for too long, or it never ran here; run the statement again",
            )
        })?;
        self.keep(&polled);
        let is_news = self.waits(&polled, |news| news.seen() != seen || news.is_done);
        // Without news the answer is what it was.
        let _ = tokio::time::timeout(self.longest_wait(), is_news).await;
        self.answer(query, &polled)
    }

    /// Whether a descriptor's command is the handle of a poll.
    pub fn is_poll(&self, command: &[u8]) -> bool {
        matches!(self.opened(command), Ok(Subject::Poll(_)))
    }

    /// What clients are told of the rows once the parameters are known.
    async fn schema_of(
        &self,
        session: &Session,
        statement: &PlannedStatement,
        bound: &Bound,
    ) -> Result<SchemaRef, Failure> {
        let plan = match bound {
            _ if statement.kind == StatementKind::Update || statement.parameters.fields().is_empty() => None,
            Bound::One(plan) => Some(plan),
            Bound::Each(plans) => plans.first(),
            Bound::Nothing => None,
        };
        let Some(plan) = plan.cloned() else {
            return Ok(Arc::clone(&statement.schema));
        };
        let (owned, statement) = (session.clone(), statement.clone());
        let schema = async move { bound_schema(&owned, &statement, &plan) };
        self.on_planner(session, schema).await
    }

    /// Starts the query in a task, which stops with the record's poll.
    fn starting(
        &self,
        starting: Starting,
        session: &Session,
        statement: &PlannedStatement,
        bound: Bound,
        schema: SchemaRef,
        phase: watch::Sender<Phase>,
    ) -> SpawnedTask<()> {
        let span = query_span(starting.id(), session);
        let context = self.plan_context(starting.id(), session, wanted_endpoints(session));
        let (queries, statement) = (self.clone(), statement.clone());
        let start = async move {
            let work = queries.start_bound(&context, statement, bound, Some(schema)).boxed();
            phase.send_replace(match queries.recorded(starting, work).await {
                Ok(started) => {
                    queries.parts.records.announce(started.id);
                    Phase::Started(Box::new(started))
                }
                Err(failure) => Phase::Failed(failure),
            });
        };
        SpawnedTask::spawn(start.instrument(span))
    }

    /// How long a poll waits for news, unless results are kept so shortly that they would expire meanwhile.
    fn longest_wait(&self) -> Duration {
        LONGEST_WAIT.min(self.parts.records.time_to_live() / 2)
    }

    /// Lets the result wait on, while its client waits for news.
    fn keep(&self, polled: &PolledQuery) {
        if let Phase::Started(started) = &*polled.phase.borrow() {
            match &started.offer {
                Offer::Once(_) => self.parts.records.touch(started.id),
                Offer::Retained(result) => _ = result.touch(),
            }
        }
    }

    /// Waits until what there is to tell is `enough`, or is a failure.
    async fn waits(&self, polled: &PolledQuery, enough: impl Fn(News) -> bool) {
        let mut phase = polled.phase.subscribe();
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

    fn answer(&self, id: QueryId, polled: &PolledQuery) -> Result<Polled, Failure> {
        let phase = polled.phase.borrow().clone();
        let (news, endpoints, schema) = match phase {
            Phase::Failed(failure) => return Err(failure),
            Phase::Planning => (News::NONE, ResultEndpoints::none(), Arc::clone(&polled.schema)),
            Phase::Started(started) => {
                let news = self.news(&started).inspect_err(|_| match &started.offer {
                    // A client that hears of a failure does not come for rows.
                    Offer::Once(_) => self.parts.records.discard_result(id),
                    // Other readers of the result hear of the failure too.
                    Offer::Retained(_) => {}
                });
                let (news, endpoints) = news?;
                (news, endpoints, started.schema)
            }
        };
        let progress = polled.furthest(news.progress);
        let poll = Poll {
            query: id,
            seen: news.seen(),
        };
        Ok(Polled {
            id,
            schema,
            endpoints,
            progress: progress as f64 / FULL as f64,
            handle: self
                .parts
                .key
                .seal(&Subject::Poll(poll), SystemTime::now(), self.parts.ticket_lifetime),
            expires: SystemTime::now() + self.parts.records.time_to_live(),
            is_done: news.is_done,
        })
    }

    /// What there is to tell of a started query.
    fn news(&self, started: &Started) -> Result<(News, ResultEndpoints), Failure> {
        let shown = started.progress().map(|progress| progress.borrow().clone());
        let (is_done, endpoints) = match (&started.offer, &shown) {
            (Offer::Once(_), Some(shown)) => {
                if let Some(Err(failure)) = &shown.ended {
                    return Err(failure.clone());
                }
                // From then on the client can read all of it, while it is written.
                match shown.is_ready || shown.ended.is_some() {
                    true => (true, self.endpoints(started)?),
                    false => (false, ResultEndpoints::none()),
                }
            }
            (Offer::Once(_), None) => (true, self.endpoints(started)?),
            (Offer::Retained(_), _) => {
                let endpoints = self.endpoints(started)?;
                (endpoints.total_records >= 0, endpoints)
            }
        };
        let progress = match (is_done, shown) {
            (true, _) | (_, None) => FULL,
            // Not done: whatever is rounded up, it is not all.
            (false, Some(shown)) => ((shown.fraction * FULL as f64) as u64).min(FULL - 1),
        };
        let news = News {
            endpoints: endpoints.endpoints.len() as u64,
            progress,
            is_done,
        };
        Ok((news, endpoints))
    }
}

impl Started {
    /// How far the query is; none when its rows are there already.
    fn progress(&self) -> Option<watch::Receiver<QueryProgress>> {
        match &self.offer {
            Offer::Once(progress) => progress.clone(),
            Offer::Retained(result) => Some(result.progress()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_news_changes_the_handle() {
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
