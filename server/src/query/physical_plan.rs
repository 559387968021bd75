//! From a logical plan to what the scheduler takes: stages for the workers there are, with the query's own options.

use std::sync::{Arc, OnceLock};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use squadron_proto::control::ObjectStoreSpec;
use squadron_proto::{Failure, QueryId};
use squadron_scheduler::{QueryOptions, StageGraph};
use squadron_shuffle::failure;
use squadron_shuffle::sink::staged_files_schema;

use super::options::{Limit, options_of};
use super::{Queries, Session, settings_table};
use crate::planner::explain;
use crate::planner::stages::GraphContext;
use crate::planner::{ClusterShape, StagedPlan};
use crate::settings::Endpoints;
use crate::sql::bind::Bound;
use crate::sql::planning_errors::planned;
use crate::sql::statement::{as_announced, frozen_schema, is_write};
use crate::sql::{PlannedStatement, StatementKind};
use crate::writes::{self, Destination};

/// What a statement comes to once it is planned.
pub(super) enum Lowered {
    /// Rows, to be read while they are computed.
    Query(PhysicalQuery),
    /// A query that is run for the sake of what it takes.
    Analyze { query: PhysicalQuery, is_verbose: bool },
    /// Rows that are there.
    Rows(Vec<RecordBatch>),
    /// No execution: parameters without rows were bound.
    Nothing { is_write: bool },
    /// The rows of each plan, one after another.
    Each(Vec<LogicalPlan>),
    /// Files to write.
    Write(LogicalPlan),
    /// A change of the catalog, of settings, or of what runs.
    Change(LogicalPlan),
}

/// A query that is ready for the scheduler.
pub(super) struct PhysicalQuery {
    pub(super) plan: StagedPlan,
    pub(super) schema: SchemaRef,
    pub(super) graph: StageGraph,
    /// Whether the statement says in which order its rows come.
    pub(super) is_ordered: bool,
}

/// What a query is planned for.
#[derive(Clone)]
pub(super) struct PlanContext {
    pub(super) id: QueryId,
    pub(super) session: Session,
    pub(super) endpoints: Endpoints,
    /// When the query ends at the latest; none for changes, and for writes until their rows are planned.
    pub(super) limit: Option<Limit>,
}

impl PlanContext {
    /// For a query that the server reads itself, once: what `squadron.endpoints` says is for the rows of clients.
    pub(super) fn read_by_server(self) -> Self {
        Self {
            endpoints: Endpoints::One,
            ..self
        }
    }
}

impl Queries {
    /// Plans what is to be executed. `schema`: that of its rows, where it is known. Runs on a planning thread.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub(super) async fn lower(
        &self,
        context: &PlanContext,
        statement: &PlannedStatement,
        bound: Bound,
        schema: Option<SchemaRef>,
    ) -> Result<Lowered, Failure> {
        let plan = match bound {
            Bound::One(plan) => plan,
            Bound::Each(plans) => return Ok(Lowered::Each(plans)),
            Bound::Nothing => {
                let is_write = is_write(&statement.plan);
                return Ok(Lowered::Nothing { is_write });
            }
        };
        match plan {
            write if is_write(&write) => Ok(Lowered::Write(write)),
            change if statement.kind == StatementKind::Update => Ok(Lowered::Change(change)),
            LogicalPlan::Explain(explain) => {
                let inner = explain.plan.as_ref().clone();
                let plan = match is_write(&inner) {
                    true => self.explained_write(context, inner).await?,
                    false => self.stages(context, inner, None).await?.0,
                };
                let batch = explain::plan(&explain, &plan, &statement.schema);
                Ok(Lowered::Rows(vec![batch.map_err(|error| failure::of(&error))?]))
            }
            LogicalPlan::Analyze(analyze) => {
                let inner = analyze.input.as_ref().clone();
                let schema = planned(frozen_schema(&context.session.state(), &inner))?;
                let context = context.clone().read_by_server();
                Ok(Lowered::Analyze {
                    query: self.physical_query(&context, inner, schema).await?,
                    is_verbose: analyze.verbose,
                })
            }
            query => {
                let schema = match schema {
                    Some(schema) => schema,
                    None => bound_schema(&context.session, statement, &query)?,
                };
                Ok(Lowered::Query(self.physical_query(context, query, schema).await?))
            }
        }
    }

    /// Plans a query and encodes its stages. Runs on a planning thread.
    pub(super) async fn physical_query(
        &self,
        context: &PlanContext,
        plan: LogicalPlan,
        schema: SchemaRef,
    ) -> Result<PhysicalQuery, Failure> {
        let is_ordered = is_ordered(&plan);
        self.encode(context, plan, None, schema, is_ordered).await
    }

    /// Plans the rows of a write, whose result is the list of files. Runs on a planning thread.
    pub(super) async fn physical_write(
        &self,
        context: &PlanContext,
        rows: LogicalPlan,
        destination: &Destination,
    ) -> Result<PhysicalQuery, Failure> {
        let schema = staged_files_schema();
        self.encode(context, rows, Some(destination), schema, false).await
    }

    /// The plan of a write, without doing anything.
    async fn explained_write(&self, context: &PlanContext, plan: LogicalPlan) -> Result<StagedPlan, Failure> {
        let (destination, rows) = self.destination(context, plan).await?;
        Ok(self.stages(context, rows, Some(&destination)).await?.0)
    }

    /// Where a write goes, and the plan of its rows. Runs on a planning thread.
    pub(super) async fn destination(
        &self,
        context: &PlanContext,
        plan: LogicalPlan,
    ) -> Result<(Destination, LogicalPlan), Failure> {
        let state = context.session.state();
        let resolved = writes::resolve(context.id, plan, &state, &self.parts.catalog).await;
        planned(resolved.map_err(failure::into_datafusion))
    }

    async fn encode(
        &self,
        context: &PlanContext,
        plan: LogicalPlan,
        destination: Option<&Destination>,
        schema: SchemaRef,
        is_ordered: bool,
    ) -> Result<PhysicalQuery, Failure> {
        let options = options_of(&context.session, &plan);
        let (plan, state, shape) = self.stages(context, plan, destination).await?;
        let graph_context = GraphContext {
            query: context.id,
            schema: Arc::clone(&schema),
            settings: self.worker_settings.of(state.config().options(), shape.slots),
            stores: self.stores_of(&plan),
            state: Arc::new(state),
            task_context: OnceLock::new(),
            keep_result: context.endpoints == Endpoints::Parallel,
            in_process: self.parts.in_process,
        };
        let mut graph = planned(plan.graph(&graph_context))?;
        if options.is_exempt {
            graph.pin_to_local_worker();
        }
        graph.options = QueryOptions {
            time_limit: context.limit.as_ref().map(Limit::left),
            ..options
        };
        Ok(PhysicalQuery {
            plan,
            schema,
            graph,
            is_ordered,
        })
    }

    /// Cuts a plan into stages, with what they were planned for.
    async fn stages(
        &self,
        context: &PlanContext,
        plan: LogicalPlan,
        destination: Option<&Destination>,
    ) -> Result<(StagedPlan, SessionState, ClusterShape), Failure> {
        let shape = self.shape();
        let mut state = context.session.state();
        // SHOW tells what the session has set, not what planning makes of it.
        let options = Arc::clone(state.config().options());
        state.config_mut().set_extension(options);
        let locked = self.parts.writes.lock_for_planning(&plan).await;
        let _guard = planned(locked.map_err(failure::into_datafusion))?;
        let plan = planned(settings_table::with_snapshot(plan, state.config_options()))?;
        let write = destination.map(Destination::write);
        let plan = self.parts.planner.plan(&state, &plan, shape, write).await;
        Ok((planned(plan)?, state, shape))
    }

    /// The object stores that the plan reads, and no others: options of a store may hold secrets.
    fn stores_of(&self, plan: &StagedPlan) -> Vec<ObjectStoreSpec> {
        let urls = plan.store_urls();
        let specs = urls.iter().filter_map(|url| self.parts.catalog.object_store_spec(url));
        specs.collect()
    }

    /// The workers that take tasks now. Without any, a query is planned for one, and waits for it.
    fn shape(&self) -> ClusterShape {
        let capacity = self.parts.scheduler.capacity();
        ClusterShape {
            workers: capacity.workers.max(1),
            slots: usize::try_from(capacity.slots).unwrap_or(usize::MAX).max(1),
        }
    }
}

/// The schema of the rows of a plan whose parameters are bound: the one that the client was told, where the rows fit
/// it. A statement without parameters was analysed when it was parsed.
pub(super) fn bound_schema(
    session: &Session,
    statement: &PlannedStatement,
    plan: &LogicalPlan,
) -> Result<SchemaRef, Failure> {
    if statement.kind == StatementKind::Update || statement.parameters.fields().is_empty() {
        return Ok(Arc::clone(&statement.schema));
    }
    let own = planned(frozen_schema(&session.state(), plan))?;
    Ok(as_announced(&statement.schema, own))
}

/// Whether the statement says in which order its rows come.
fn is_ordered(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(projection) => is_ordered(&projection.input),
        LogicalPlan::Limit(limit) => is_ordered(&limit.input),
        _ => false,
    }
}
