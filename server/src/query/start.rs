//! From a statement to a started query, in one call and one turn on a planning thread.
//!
//! ```text
//! Execution::Source ──── parse ──┐
//!                                ├── lower ──> launch ──> Started: the query runs, or the change is made
//! Execution::Prepared ── bind ───┘  (planning thread)
//! ```
//!
//! The work is large, and lies on the heap so that the stack of its caller stays small.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::logical_expr::LogicalPlan;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use squadron_proto::{Failure, QueryId};
use squadron_scheduler::{QuerySummary, StageGraph};
use squadron_shuffle::failure;
use tokio::sync::oneshot;
use tracing::{Instrument, Span, info, info_span};

use super::history::QueryRequest;
use super::lowering::{Lowered, bound_schema};
use super::options::{Limit, options, wanted_endpoints, within};
use super::plan_context::PlanContext;
use super::records::Starting;
use super::results::OpenResult;
use super::retained::{RetainAs, RetainedResult};
use super::stage_graph::PhysicalQuery;
use super::started::{Offer, Started};
use super::{Queries, Session};
use crate::driver::QueryEvents;
use crate::planner::explain;
use crate::settings::Endpoints;
use crate::sql::bind::{Bound, bind};
use crate::sql::kill;
use crate::sql::parse::{parse, parse_at_once};
use crate::sql::statement::count_row;
use crate::sql::{PlannedStatement, Source, StatementKind};

/// Bytes of a result that the server keeps whole: that of a query with several rows of parameters.
const MAX_COLLECTED_BYTES: usize = 64 * 1024 * 1024;

/// What is to be executed.
#[derive(Clone, Debug)]
pub enum Execution {
    /// A statement that is parsed, planned and started in one go.
    Source(Source),
    /// A statement that was prepared, with the parameters that are bound to it.
    Prepared(Box<PlannedStatement>, Option<RecordBatch>),
}

impl Execution {
    fn text(&self) -> Option<Arc<str>> {
        match self {
            Self::Source(source) => source.text(),
            Self::Prepared(statement, _) => statement.text.clone(),
        }
    }
}

/// Why a query did not start.
pub(super) enum NotStarted {
    /// The statement is wrong, so there was no query: the history does not have it.
    NoQuery(Failure),
    /// The query has failed.
    Failed(Failure),
}

impl From<Failure> for NotStarted {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Work that ends with a started query.
type Start<'a> = BoxFuture<'a, Result<Started, NotStarted>>;

impl Queries {
    /// Parses and resolves a statement; nothing runs.
    ///
    /// # Errors
    /// `Invalid` with line and column for wrong SQL and for what is no Substrait plan, `NotFound` for an unknown table with
    /// the nearest name, `Unsupported` for what the server does not do.
    pub async fn prepare(&self, session: &Session, source: Source) -> Result<PlannedStatement, Failure> {
        let text = source.text();
        if let Some(statement) = parse_at_once(&source, text.clone())? {
            return Ok(statement);
        }
        let (queries, state) = (self.clone(), session.state());
        let parsed = async move { parse(&state, &queries.parts.catalog, source, text).await };
        self.on_planner(session, parsed).await
    }

    /// Plans a statement and starts it: a query, whose rows wait for [`Queries::stream`], or a change, which has been
    /// made when this returns. A result of several endpoints is awaited until all of them can be read. Dropping the
    /// future stops the query.
    ///
    /// # Errors
    /// What is wrong with the statement or its parameters, or why the server cannot run it now.
    pub async fn start(&self, session: &Session, execution: Execution) -> Result<Started, Failure> {
        let endpoints = wanted_endpoints(session);
        self.start_recorded(session, execution, endpoints).await
    }

    /// Runs a statement to its end. Returns the rows that a change affected, or -1 when there is no count; the rows of
    /// a query are thrown away.
    ///
    /// # Errors
    /// As [`Queries::start`], and the query's own failure.
    pub async fn update(&self, session: &Session, execution: Execution) -> Result<i64, Failure> {
        let started = self.start_recorded(session, execution, Endpoints::One).await?;
        if started.kind == StatementKind::Update {
            self.parts.records.discard_result(started.id);
            return Ok(started.total_records);
        }
        let mut frames = self.frames_of(&session.principal, started.id)?;
        while frames.try_next().await?.is_some() {}
        Ok(-1)
    }

    async fn start_recorded(
        &self,
        session: &Session,
        execution: Execution,
        endpoints: Endpoints,
    ) -> Result<Started, Failure> {
        self.check_open()?;
        let text = execution.text();
        let starting = self.begin(session, QueryId::new(), text.clone());
        let context = self.plan_context(starting.id(), session, endpoints);
        let span = query_span(starting.id(), session);
        let work = match execution {
            Execution::Source(source) => self.start_source(&context, source, text).boxed(),
            Execution::Prepared(statement, parameters) => {
                self.start_statement(&context, *statement, parameters).boxed()
            }
        };
        let started = async { self.announce(self.recorded(starting, work).await?).await };
        started.instrument(span).await
    }

    /// Makes the record of a query.
    pub(super) fn begin(&self, session: &Session, id: QueryId, text: Option<Arc<str>>) -> Starting {
        let options = options(session);
        let request = QueryRequest {
            id,
            user: session.principal.name().map(Into::into),
            session: session.id.as_str().into(),
            statement: text,
            tag: options.tag.map(Into::into),
            priority: options.priority,
            at: SystemTime::now(),
        };
        self.parts.records.begin(request, &session.principal)
    }

    pub(super) fn plan_context(&self, id: QueryId, session: &Session, endpoints: Endpoints) -> PlanContext {
        PlanContext {
            id,
            session: session.clone(),
            endpoints,
            limit: None,
        }
    }

    /// The context of a query whose time counts from here on.
    pub(super) fn limited(&self, context: &PlanContext) -> PlanContext {
        PlanContext {
            limit: Limit::of(&context.session, self.parts.query_timeout),
            ..context.clone()
        }
    }

    /// Does the work that starts a query, unless the query is stopped meanwhile, and notes in its record what came of
    /// it.
    pub(super) async fn recorded(&self, starting: Starting, work: Start<'_>) -> Result<Started, Failure> {
        let mut outcome = tokio::select! {
            outcome = work => outcome,
            failure = starting.stopped() => Err(failure.into()),
        };
        // A stop a moment ago may have come before there was a result to discard.
        if let Some(failure) = starting.failure()
            && outcome.is_ok()
        {
            self.parts.records.discard_result(starting.id());
            outcome = Err(failure.into());
        }
        match outcome {
            Ok(started) => {
                match started.runs() {
                    true => starting.hand_over(),
                    false => starting.ended(Ok(())),
                }
                Ok(started)
            }
            Err(NotStarted::NoQuery(failure)) => {
                starting.forget();
                Err(failure)
            }
            Err(NotStarted::Failed(failure)) => {
                starting.ended(Err(failure.clone()));
                Err(failure)
            }
        }
    }

    /// Waits until all endpoints of a retained result are known, whose time runs from then on. Dropping the future
    /// discards the result.
    async fn announce(&self, mut started: Started) -> Result<Started, Failure> {
        if let Offer::Retained(result) = &started.offer {
            let unannounced = Unannounced {
                queries: self,
                id: Some(started.id),
            };
            let standing = result.all_known().await?;
            started.total_records = self.retained_endpoints(result, standing).total_records;
            unannounced.announce();
        }
        Ok(started)
    }

    /// Parses and lowers a statement in one turn on a planning thread, and launches what it comes to.
    async fn start_source(
        &self,
        context: &PlanContext,
        source: Source,
        text: Option<Arc<str>>,
    ) -> Result<Started, NotStarted> {
        if let Some(kill) = parse_at_once(&source, text.clone()).map_err(NotStarted::NoQuery)? {
            return self
                .start_bound(context, kill.clone(), Bound::One(kill.plan), None)
                .await;
        }
        let (tell_limit, limit) = oneshot::channel();
        let (queries, mut planning) = (self.clone(), context.clone());
        let work = async move {
            let state = planning.session.state();
            let statement = match parse(&state, &queries.parts.catalog, source, text).await {
                Ok(statement) => statement,
                Err(failure) => return Ok(Err(NotStarted::NoQuery(failure))),
            };
            drop(state);
            if statement.kind == StatementKind::Query {
                planning = queries.limited(&planning);
            }
            let _ = tell_limit.send(planning.limit.clone());
            let bound = bind(&statement, None)?;
            let lowered = queries.lower(&planning, &statement, bound, None).await?;
            Ok(Ok((statement, lowered)))
        };
        // The time of a query counts from the moment at which its statement is understood, that of a change never.
        let planned = tokio::select! {
            planned = self.on_planner(&context.session, work) => planned,
            failure = expired(limit) => Err(failure),
        };
        let (statement, lowered) = planned??;
        Ok(self.launch(context, &statement, lowered).await?)
    }

    /// Binds the parameters of a statement, lowers it in one turn on a planning thread, and launches what it comes to.
    async fn start_statement(
        &self,
        context: &PlanContext,
        statement: PlannedStatement,
        parameters: Option<RecordBatch>,
    ) -> Result<Started, NotStarted> {
        let bound = bind(&statement, parameters)?;
        self.start_bound(context, statement, bound, None).await
    }

    /// `schema`: that of the rows, where it is known already.
    pub(super) async fn start_bound(
        &self,
        context: &PlanContext,
        statement: PlannedStatement,
        bound: Bound,
        schema: Option<SchemaRef>,
    ) -> Result<Started, NotStarted> {
        if let Bound::One(plan) = &bound
            && kill::target_of(plan).is_some()
        {
            let kill = Lowered::Change(plan.clone());
            return Ok(self.launch(context, &statement, kill).await?);
        }
        let planning = match statement.kind {
            StatementKind::Query => self.limited(context),
            StatementKind::Update => context.clone(),
        };
        let (queries, limit) = (self.clone(), planning.limit.clone());
        let work = async move {
            let lowered = queries.lower(&planning, &statement, bound, schema).await?;
            Ok((statement, lowered))
        };
        let work = self.on_planner(&context.session, work);
        let (statement, lowered) = within(limit.as_ref(), work).await?;
        Ok(self.launch(context, &statement, lowered).await?)
    }

    /// Does what a planned statement asks for. A query runs when this returns; everything else has been done.
    async fn launch(
        &self,
        context: &PlanContext,
        statement: &PlannedStatement,
        lowered: Lowered,
    ) -> Result<Started, Failure> {
        let schema = Arc::clone(&statement.schema);
        let (total_records, result) = match lowered {
            Lowered::Query(query) if context.keeps_result() => {
                return self.retain_result(context, query).await;
            }
            Lowered::Query(query) => {
                let (stages, reused) = (query.graph.stages.len(), query.is_reused);
                let events = self.submit(query.graph).await?;
                info!(stages, reused, "query started");
                let schema = query.schema;
                (-1, OpenResult::Running { schema, events })
            }
            Lowered::Analyze {
                query,
                plan,
                is_verbose,
            } => {
                let summary = self.run_to_end(query).boxed().await?;
                let batch = explain::analyze(&plan, &summary, &schema, is_verbose);
                (-1, ready(schema, vec![batch.map_err(|error| failure::of(&error))?]))
            }
            Lowered::Rows(batches) => (-1, ready(schema, batches)),
            Lowered::Nothing { is_write: true } => (0, ready(schema, vec![count_row(0)?])),
            Lowered::Nothing { is_write: false } => (0, ready(schema, Vec::new())),
            Lowered::Each(plans) => {
                let batches = self.rows_of_each(context, statement, plans).boxed().await?;
                let schema = batches.first().map_or(schema, RecordBatch::schema);
                (-1, ready(schema, batches))
            }
            Lowered::Write(plan) => {
                let count = self.write(context, plan).boxed().await?;
                let affected = i64::try_from(count).unwrap_or(-1);
                (affected, ready(schema, vec![count_row(count)?]))
            }
            Lowered::Change(plan) => {
                self.change(context, plan).await?;
                (0, ready(schema, Vec::new()))
            }
        };
        Ok(self.offer_once(context.id, statement.kind, total_records, result))
    }

    /// Lets a result wait for its client, who reads it once.
    fn offer_once(&self, id: QueryId, kind: StatementKind, total_records: i64, result: OpenResult) -> Started {
        let (schema, progress) = match &result {
            OpenResult::Running { schema, events } => (schema, Some(events.progress())),
            OpenResult::Ready { schema, .. } => (schema, None),
        };
        let schema = Arc::clone(schema);
        self.parts.records.offer(id, result);
        Started {
            id,
            kind,
            schema,
            total_records,
            offer: Offer::Once(progress),
            ticket: self.ticket(id),
        }
    }

    /// Starts a query whose result stays where it is written.
    async fn retain_result(&self, context: &PlanContext, query: PhysicalQuery) -> Result<Started, Failure> {
        let PhysicalQuery {
            schema,
            graph,
            is_ordered,
            is_reused: reused,
        } = query;
        self.reserve_plan(&graph)?;
        let (tasks, partitions) = graph.result_shape();
        let stages = graph.stages.len();
        let events = self.parts.scheduler.submit(graph).await?;
        info!(stages, partitions, reused, "query started, its result is retained");
        let result = Arc::new(RetainedResult::new(RetainAs {
            schema: Arc::clone(&schema),
            // An ordered result is one partition; of several, nothing would say in which order to read them.
            is_ordered: is_ordered && partitions == 1,
            tasks,
            events,
            key: self.parts.key.clone(),
            ticket_lifetime: self.parts.ticket_lifetime,
            time_to_live: self.parts.records.time_to_live(),
        }));
        self.parts.records.retain(context.id, &result);
        Ok(Started {
            id: context.id,
            kind: StatementKind::Query,
            schema,
            total_records: -1,
            offer: Offer::Retained(result),
            ticket: Bytes::new(),
        })
    }

    /// Hands a query to the scheduler.
    pub(super) async fn submit(&self, graph: StageGraph) -> Result<QueryEvents, Failure> {
        if !graph.options.is_exempt {
            self.reserve_plan(&graph)?;
        }
        self.parts.scheduler.submit(graph).await
    }

    /// Runs a query for the sake of what it takes.
    async fn run_to_end(&self, query: PhysicalQuery) -> Result<QuerySummary, Failure> {
        let events = self.submit(query.graph).await?;
        self.parts.reader.read_to_end(&query.schema, events).await
    }

    /// The rows of some queries, in their order. Each is a query of its own, with a record of its own.
    async fn rows_of_each(
        &self,
        context: &PlanContext,
        statement: &PlannedStatement,
        plans: Vec<LogicalPlan>,
    ) -> Result<Vec<RecordBatch>, Failure> {
        let mut batches: Vec<RecordBatch> = Vec::new();
        let mut left_bytes = MAX_COLLECTED_BYTES;
        for plan in plans {
            let starting = self.begin(&context.session, QueryId::new(), statement.text.clone());
            let own = self.limited(&self.plan_context(starting.id(), &context.session, Endpoints::One));
            let rows = tokio::select! {
                rows = self.rows_of(&own, statement, plan, left_bytes) => rows,
                failure = starting.stopped() => Err(failure),
            };
            starting.ended(rows.as_ref().map(drop).map_err(Failure::clone));
            let rows = rows?;
            let bytes: usize = rows.iter().map(RecordBatch::get_array_memory_size).sum();
            left_bytes = left_bytes.saturating_sub(bytes);
            batches.extend(rows);
        }
        Ok(batches)
    }

    async fn rows_of(
        &self,
        context: &PlanContext,
        statement: &PlannedStatement,
        plan: LogicalPlan,
        max_bytes: usize,
    ) -> Result<Vec<RecordBatch>, Failure> {
        let (queries, planning, planned) = (self.clone(), context.clone(), statement.clone());
        let work = async move {
            let schema = bound_schema(&planning.session, &planned, &plan)?;
            queries.physical_query(&planning, plan, schema).await
        };
        let work = self.on_planner(&context.session, work);
        let query = within(context.limit.as_ref(), work).await?;
        let events = self.submit(query.graph).await?;
        self.parts.reader.collect(&query.schema, events, max_bytes).await
    }

    /// Does a part of planning for the session in its turn on a planning thread.
    pub(super) async fn on_planner<T, F>(&self, session: &Session, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let priority = options(session).priority;
        self.parts.planning.run(priority, work).await
    }
}

/// Waits until the time of a query is over, whose limit is told when it has one.
async fn expired(limit: oneshot::Receiver<Option<Limit>>) -> Failure {
    match limit.await {
        Ok(Some(limit)) => limit.expired().await,
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// Discards a retained result of which its client was not told.
struct Unannounced<'a> {
    queries: &'a Queries,
    id: Option<QueryId>,
}

impl Unannounced<'_> {
    fn announce(mut self) {
        if let Some(id) = self.id.take() {
            self.queries.parts.records.announce(id);
        }
    }
}

impl Drop for Unannounced<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.queries.parts.records.discard_result(id);
        }
    }
}

impl Started {
    /// Whether the scheduler has it; else it was over with its start.
    fn runs(&self) -> bool {
        match &self.offer {
            Offer::Once(progress) => progress.is_some(),
            Offer::Retained(_) => true,
        }
    }
}

fn ready(schema: SchemaRef, batches: Vec<RecordBatch>) -> OpenResult {
    OpenResult::Ready { schema, batches }
}

pub(super) fn query_span(id: QueryId, session: &Session) -> Span {
    info_span!("query", query_id = %id, session = session.id)
}
