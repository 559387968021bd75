//! The life of a query: plan, submit, ticket, stream, end.
//!
//! ```text
//! plan ----> start ----> ticket ----> stream ----> end
//!  parse      run it,     signed,      once          finished, failed or cancelled
//!  schema     now         expiring
//! ```
//!
//! Statements that change something (DDL, SET, INSERT, COPY) run to their end in [`Queries::start`] or [`Queries::update`], exactly
//! once, never while a result is read.

pub mod history;
mod lifecycle;
mod options;
mod physical_plan;
mod plan;
mod plan_memory;
pub mod planning;
mod poll;
mod result_endpoints;
pub mod results;
pub mod retained;
mod sessions;
mod settings_table;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::sql::{PlannedStatement, StatementKind, kill};
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::logical_expr::{LogicalPlan, Statement};
use datafusion::prelude::SessionContext;
use futures::FutureExt;
use squadron_proto::ticket::{ClusterKey, Subject};
use squadron_proto::{Failure, FailureKind, QueryId};
use squadron_shuffle::failure;
use tracing::{Instrument, info, info_span};

pub use crate::auth::Principal;
use crate::catalog::Catalog;
use crate::driver::SchedulerHandle;
use crate::planner::Planner;
use crate::planner::explain;
use crate::query::physical_plan::Staged;
pub use crate::query::planning::Planning;
pub use crate::query::poll::{Polled, Polls};
pub use crate::query::result_endpoints::{Endpoint, Locations, Offer, Offered};
use crate::query::results::{Frames, OpenResult, OpenResults, ResultReader};
use crate::query::retained::{KeptAs, KeptResults};
use crate::query::sessions::Lease;
pub use crate::query::sessions::{OpenSessions, SessionInfo};
use crate::settings::{self, Endpoints, Travelling};
use crate::sql::bind::{Bound, bind};
pub use crate::sql::statement::NO_TRANSACTIONS;
use crate::sql::statement::as_told;
use crate::sql::statement::{count_row, is_write};
use crate::writes::Writes;

/// One client's settings over the shared catalog.
#[derive(Clone)]
pub struct Session {
    /// Names it in logs.
    pub id: String,
    /// Whose it is.
    pub principal: Principal,
    /// Its own configuration; tables and views are shared.
    pub context: SessionContext,
    lease: Arc<Lease>,
}

/// A query that was started.
#[derive(Clone, Debug)]
pub struct Started {
    /// Its name from now on.
    pub id: QueryId,
    /// The schema of its rows.
    pub schema: SchemaRef,
    /// How many rows, or -1 when not known yet; of a change, the affected rows.
    pub total_records: i64,
    /// How its rows can be read.
    pub offer: Offer,
    /// For a result that is read once.
    ticket: Bytes,
}

/// What [`Queries`] is made of.
#[derive(Clone)]
pub struct QueryParts {
    /// Tables and views.
    pub catalog: Catalog,
    /// Cuts plans into stages.
    pub planner: Planner,
    /// Runs stages.
    pub scheduler: SchedulerHandle,
    /// The sessions that are open.
    pub sessions: OpenSessions,
    /// Keeps results for their clients.
    pub results: OpenResults,
    /// Results that several streams may read, repeatedly.
    pub kept: KeptResults,
    /// Queries that clients look at until they are done.
    pub polls: Polls,
    /// Where clients are sent for the rows of such results.
    pub locations: Locations,
    /// Reads results.
    pub reader: ResultReader,
    /// Publishes what statements write.
    pub writes: Writes,
    /// Signs tickets.
    pub key: ClusterKey,
    /// How long a ticket is good for.
    pub ticket_lifetime: Duration,
    /// Whether all workers, now and later, live in this process.
    pub in_process: bool,
    /// How long any query may take, planning included; none: as long as its session says.
    pub query_timeout: Option<Duration>,
    /// Bytes of plans, history and results that the server keeps, together.
    pub scheduler_memory: u64,
    /// Where statements are planned, so that they hold up neither connections nor those that run.
    pub planning: Planning,
}

/// Bytes of a result that the server keeps whole: that of a query with several rows of parameters.
const MAX_COLLECTED_BYTES: usize = 64 * 1024 * 1024;

/// The one way from a client's statement to its rows.
#[derive(Clone)]
pub struct Queries {
    parts: Arc<QueryParts>,
    travelling: Arc<Travelling>,
    closed: Arc<AtomicBool>,
}

impl Queries {
    /// Queries over these parts.
    pub fn new(parts: QueryParts) -> Self {
        Self {
            parts: Arc::new(parts),
            travelling: Arc::default(),
            closed: Arc::default(),
        }
    }

    /// Starts a query, or makes a change. Either way its (perhaps empty) result waits for [`Queries::stream`]. A result
    /// of several endpoints is awaited until all of them can be read.
    ///
    /// # Errors
    /// What is wrong with the parameters or the plan, or why the server cannot run it now.
    pub async fn start(
        &self,
        session: &Session,
        planned: &PlannedStatement,
        parameters: Option<RecordBatch>,
    ) -> Result<Started, Failure> {
        self.check_open()?;
        let id = QueryId::new();
        let span = info_span!("query", query_id = %id, session = session.id);
        let started = async {
            let endpoints = result_endpoints::wanted(session);
            let work = self.start_as(id, session, planned, parameters, endpoints).boxed();
            let mut started = self.recorded(id, session, planned, work).await?;
            if let Offer::Kept(kept) = &started.offer {
                let unannounced = self.parts.kept.unannounced(id);
                let standing = kept.all_known().await?;
                started.total_records = self.kept(kept, standing).total_records;
                unannounced.announce(kept);
            }
            Ok(started)
        };
        started.instrument(span).await
    }

    async fn start_as(
        &self,
        id: QueryId,
        session: &Session,
        planned: &PlannedStatement,
        parameters: Option<RecordBatch>,
        endpoints: Endpoints,
    ) -> Result<Started, Failure> {
        let bound = bind(planned, parameters)?;
        self.start_bound(id, session, planned, bound, endpoints).await
    }

    async fn start_bound(
        &self,
        id: QueryId,
        session: &Session,
        planned: &PlannedStatement,
        bound: Bound,
        endpoints: Endpoints,
    ) -> Result<Started, Failure> {
        let schema = Arc::clone(&planned.schema);
        match bound {
            Bound::One(plan) => {
                let started = self.start_one(id, session, planned, plan, endpoints);
                started.boxed().await
            }
            Bound::Nothing => {
                let batches = match is_write(&planned.plan) {
                    true => vec![count_row(0)?],
                    false => Vec::new(),
                };
                Ok(self.offered_once(id, session, 0, ready(schema, batches)))
            }
            Bound::Each(plans) => {
                let batches = self.rows_of_each(session, planned, plans).boxed().await?;
                let schema = batches.first().map_or(schema, RecordBatch::schema);
                Ok(self.offered_once(id, session, -1, ready(schema, batches)))
            }
        }
    }

    async fn start_one(
        &self,
        id: QueryId,
        session: &Session,
        planned: &PlannedStatement,
        plan: LogicalPlan,
        endpoints: Endpoints,
    ) -> Result<Started, Failure> {
        let schema = Arc::clone(&planned.schema);
        let batch = match plan {
            write if is_write(&write) => {
                let count = self.write(id, session, write).boxed().await?;
                let result = ready(schema, vec![count_row(count)?]);
                let affected = i64::try_from(count).unwrap_or(-1);
                return Ok(self.offered_once(id, session, affected, result));
            }
            change if planned.kind == StatementKind::Update => {
                self.change(id, session, change).await?;
                return Ok(self.offered_once(id, session, 0, ready(schema, Vec::new())));
            }
            LogicalPlan::Explain(explain) => {
                let inner = explain.plan.as_ref().clone();
                let staged = match is_write(&inner) {
                    true => self.staged_write(id, session, inner).await?,
                    false => self.staged(session, inner, None).await?,
                };
                explain::plan(&explain, &staged.plan, &schema).map_err(|error| failure::of(&error))?
            }
            LogicalPlan::Analyze(analyze) => {
                let inner = analyze.input.as_ref().clone();
                let staged = self.staged(session, inner, None).await?;
                self.analyze(id, &staged, &schema).boxed().await?
            }
            query => {
                let is_ordered = result_endpoints::orders(&query);
                let mut staged = self.staged(session, query, None).await?;
                staged.schema = as_told(&planned.schema, staged.schema);
                if endpoints == Endpoints::Parallel {
                    return self.keep_result(id, session, &staged, is_ordered).await;
                }
                let schema = Arc::clone(&staged.schema);
                let events = self.submit(id, &staged).await?;
                info!(stages = staged.plan.stages.len(), "query started");
                let result = OpenResult::Running { schema, events };
                return Ok(self.offered_once(id, session, -1, result));
            }
        };
        Ok(self.offered_once(id, session, -1, ready(schema, vec![batch])))
    }

    fn offered_once(&self, id: QueryId, session: &Session, total_records: i64, result: OpenResult) -> Started {
        let (schema, progress) = match &result {
            OpenResult::Running { schema, events } => (schema, Some(events.progress())),
            OpenResult::Ready { schema, .. } => (schema, None),
        };
        let schema = Arc::clone(schema);
        self.parts.results.put(id, &session.principal, result);
        Started {
            id,
            schema,
            total_records,
            offer: Offer::Once(progress),
            ticket: self.ticket(id),
        }
    }

    /// Starts a query whose result stays where it is written.
    async fn keep_result(
        &self,
        id: QueryId,
        session: &Session,
        staged: &Staged,
        is_ordered: bool,
    ) -> Result<Started, Failure> {
        let graph = self.graph(id, staged, Endpoints::Parallel).await?;
        self.make_room(&graph)?;
        let (tasks, partitions) = graph.result_shape();
        let events = self.parts.scheduler.submit(graph).await?;
        info!(
            stages = staged.plan.stages.len(),
            partitions, "query started, its result is kept"
        );
        let kept = self.parts.kept.put(KeptAs {
            query: id,
            owner: session.principal.clone(),
            schema: Arc::clone(&staged.schema),
            // An ordered result is one partition; of several nobody could say in which order to read them.
            is_ordered: is_ordered && partitions == 1,
            tasks,
            events,
            key: self.parts.key.clone(),
            ticket_lifetime: self.parts.ticket_lifetime,
        });
        Ok(Started {
            id,
            schema: Arc::clone(&staged.schema),
            total_records: -1,
            offer: Offer::Kept(kept),
            ticket: Bytes::new(),
        })
    }

    /// The rows of some queries, in their order.
    async fn rows_of_each(
        &self,
        session: &Session,
        planned: &PlannedStatement,
        plans: Vec<LogicalPlan>,
    ) -> Result<Vec<RecordBatch>, Failure> {
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut room = MAX_COLLECTED_BYTES;
        for plan in plans {
            let id = QueryId::new();
            let history = self.parts.scheduler.history();
            let asking = history.begin(lifecycle::asked(id, session, planned));
            let collected = async {
                let mut staged = self.staged(session, plan, None).await?;
                staged.schema = as_told(&planned.schema, staged.schema);
                let events = self.submit(id, &staged).await?;
                let reader = &self.parts.reader;
                reader.collect(id, &staged.schema, events, room).await
            };
            let rows = tokio::select! {
                rows = collected => rows,
                failure = asking.stopped() => Err(failure),
            };
            asking.ended(rows.as_ref().map(drop).map_err(Failure::clone));
            let rows = rows?;
            let bytes: usize = rows.iter().map(RecordBatch::get_array_memory_size).sum();
            room = room.saturating_sub(bytes);
            batches.extend(rows);
        }
        Ok(batches)
    }

    /// Makes a change and waits for it. Returns the affected rows, or -1 when there is no count.
    ///
    /// # Errors
    /// What is wrong with it. A query is run to its end, and its rows are thrown away.
    pub async fn update(
        &self,
        session: &Session,
        planned: &PlannedStatement,
        parameters: Option<RecordBatch>,
    ) -> Result<i64, Failure> {
        self.check_open()?;
        let id = QueryId::new();
        let span = info_span!("query", query_id = %id, session = session.id);
        let work = self.start_as(id, session, planned, parameters, Endpoints::One).boxed();
        let started = self.recorded(id, session, planned, work).instrument(span).await?;
        if planned.kind == StatementKind::Update {
            self.parts.results.discard(started.id);
            return Ok(started.total_records);
        }
        let mut frames = self.frames_of(&session.principal, started.id).await?;
        while let Some(frame) = futures::StreamExt::next(&mut frames).await {
            frame?;
        }
        Ok(-1)
    }

    /// The ticket for a result that is read once.
    fn ticket(&self, id: QueryId) -> Bytes {
        self.parts
            .key
            .seal(&Subject::Result(id), SystemTime::now(), self.parts.ticket_lifetime)
    }

    /// The rows behind a ticket, once. Dropping the stream before its end cancels the query.
    ///
    /// # Errors
    /// `Invalid` for a ticket that is not ours, `NotFound` for one whose time is over and for a result that is gone or of
    /// another principal, else the query's own failure.
    pub async fn stream(&self, principal: &Principal, ticket: &[u8]) -> Result<Frames, Failure> {
        match self.opened(ticket)? {
            Subject::Result(id) => self.frames_of(principal, id).await,
            Subject::Endpoint(rows) => self.kept_frames(principal, &rows).await,
            Subject::Poll(_) | Subject::Fetch(_) => Err(Failure::new(
                FailureKind::Invalid,
                "this is not the ticket of an endpoint; use the ones in the FlightInfo",
            )),
        }
    }

    /// The query that a ticket, or the handle of a poll, names, if it is ours and good.
    pub fn query_of(&self, ticket: &[u8]) -> Option<QueryId> {
        match self.opened(ticket).ok()? {
            Subject::Result(id) => Some(id),
            Subject::Endpoint(rows) | Subject::Fetch(rows) => Some(rows.query),
            Subject::Poll(poll) => Some(poll.query),
        }
    }

    /// Takes no more statements; what runs goes on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Results that wait for their clients or are being read.
    pub fn open_results(&self) -> u64 {
        self.parts.results.len() + self.parts.kept.in_use() as u64
    }

    /// The sessions that are open.
    pub fn sessions(&self) -> &OpenSessions {
        &self.parts.sessions
    }

    /// Statements that write now.
    pub fn running_writes(&self) -> usize {
        self.parts.writes.active()
    }

    fn check_open(&self) -> Result<(), Failure> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Failure::new(
                FailureKind::Draining,
                "the server is shutting down; connect to another one or try again later",
            ));
        }
        Ok(())
    }

    async fn frames_of(&self, principal: &Principal, id: QueryId) -> Result<Frames, Failure> {
        let (result, guard) = self.parts.results.take(id, principal)?;
        let frames = self.parts.reader.frames(id, result).await?;
        Ok(guard.over(frames))
    }

    /// Sets an option of a session; without a value to what the server began with.
    ///
    /// # Errors
    /// What is wrong with the name or the value.
    pub fn set_option(
        &self,
        session: &Session,
        name: &str,
        value: Option<&str>,
    ) -> Result<(), settings::session::Wrong> {
        self.parts.catalog.set_option(&session.context, name, value)
    }

    /// DDL on the shared catalog, SET and RESET on the session's own settings, KILL.
    async fn change(&self, id: QueryId, session: &Session, plan: LogicalPlan) -> Result<(), Failure> {
        if let Some(target) = kill::target_of(&plan) {
            return self.kill(session, id, target);
        }
        match &plan {
            LogicalPlan::Statement(Statement::SetVariable(set)) => {
                return Ok(self.set_option(session, &set.variable, Some(&set.value))?);
            }
            LogicalPlan::Statement(Statement::ResetVariable(reset)) => {
                return Ok(self.set_option(session, &reset.variable, None)?);
            }
            _ => {}
        }
        let catalog = self.parts.catalog.clone();
        let context = session.context.clone();
        self.on_planner(session, async move {
            match plan {
                LogicalPlan::Ddl(statement) => catalog.execute_ddl(&context, statement).await,
                setting => context.execute_logical_plan(setting).await.map(drop),
            }
        })
        .await
    }

    /// Runs a query for the sake of what it took.
    async fn analyze(&self, id: QueryId, staged: &Staged, schema: &SchemaRef) -> Result<RecordBatch, Failure> {
        let events = self.submit(id, staged).await?;
        let summary = self.parts.reader.read_to_end(id, &staged.schema, events).await?;
        explain::analyze(&staged.plan, &summary, schema).map_err(|error| failure::of(&error))
    }
}

fn ready(schema: SchemaRef, batches: Vec<RecordBatch>) -> OpenResult {
    OpenResult::Ready { schema, batches }
}
