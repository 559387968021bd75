//! From a logical plan to a graph of stages for the workers there are, or to that of an equal statement before.

use std::sync::{Arc, OnceLock};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use squadron_proto::Failure;
use squadron_proto::control::ObjectStoreSpec;
use squadron_scheduler::{QueryOptions, StageGraph, StageSpec};
use squadron_shuffle::failure;
use squadron_shuffle::sink::staged_files_schema;

use super::options::{Limit, options_of};
use super::plan_cache::{KeptPlan, Statement, Target};
use super::plan_context::PlanContext;
use super::{Queries, settings_table};
use crate::planner::stages::GraphContext;
use crate::planner::{ClusterShape, StagedPlan};
use crate::settings::SquadronOptions;
use crate::sql::planning_errors::planned;
use crate::writes::{Destination, ReadGuard};

/// A query that is ready for the scheduler.
pub(super) struct PhysicalQuery {
    pub(super) schema: SchemaRef,
    pub(super) graph: StageGraph,
    /// Whether the statement says in which order its rows come.
    pub(super) is_ordered: bool,
    /// Whether the plan was made before, for an equal statement.
    pub(super) is_reused: bool,
}

/// What is planned, and for what. While it lives, nothing is published in the folders of its tables.
struct Unplanned<'a> {
    context: &'a PlanContext,
    plan: LogicalPlan,
    destination: Option<&'a Destination>,
    schema: SchemaRef,
    options: QueryOptions,
    state: Arc<SessionState>,
    shape: ClusterShape,
    _guard: ReadGuard,
}

impl Queries {
    /// Plans a query and encodes its stages, or takes those of an equal one before. Runs on a planning thread.
    ///
    /// # Errors
    /// What is wrong with the statement, or why it cannot be planned now.
    pub(super) async fn physical_query(
        &self,
        context: &PlanContext,
        plan: LogicalPlan,
        schema: SchemaRef,
    ) -> Result<PhysicalQuery, Failure> {
        let unplanned = self.unplanned(context, plan, None, schema).await?;
        let statement = match SquadronOptions::of(unplanned.state.config_options()).plan_cache {
            true => planned(unplanned.statement())?,
            false => None,
        };
        let Some(statement) = statement else {
            let staged = self.stages(&unplanned).await?;
            return self.query(unplanned, &staged);
        };
        if let Some(kept) = self.plans.find(&statement, &unplanned.state).await {
            return Ok(self.query_of_kept(unplanned, &kept));
        }
        let staged = self.stages(&unplanned).await?;
        if self.plans.wants(&statement, !self.parts.in_process) {
            return self.kept_query(unplanned, statement, &staged).await;
        }
        self.query(unplanned, &staged)
    }

    /// Plans a query whose plan is shown with what it took. Runs on a planning thread.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub(super) async fn analyzed_query(
        &self,
        context: &PlanContext,
        plan: LogicalPlan,
        schema: SchemaRef,
    ) -> Result<(PhysicalQuery, StagedPlan), Failure> {
        let unplanned = self.unplanned(context, plan, None, schema).await?;
        let staged = self.stages(&unplanned).await?;
        Ok((self.query(unplanned, &staged)?, staged))
    }

    /// Plans the rows of a write, whose result is the list of files. Runs on a planning thread.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub(super) async fn physical_write(
        &self,
        context: &PlanContext,
        rows: LogicalPlan,
        destination: &Destination,
    ) -> Result<PhysicalQuery, Failure> {
        let unplanned = self
            .unplanned(context, rows, Some(destination), staged_files_schema())
            .await?;
        let staged = self.stages(&unplanned).await?;
        self.query(unplanned, &staged)
    }

    /// The plan of a query or a write, without doing anything. Runs on a planning thread.
    ///
    /// # Errors
    /// What is wrong with the statement.
    pub(super) async fn explained(
        &self,
        context: &PlanContext,
        plan: LogicalPlan,
        destination: Option<&Destination>,
    ) -> Result<StagedPlan, Failure> {
        let schema = Arc::clone(plan.schema().inner());
        let unplanned = self.unplanned(context, plan, destination, schema).await?;
        self.stages(&unplanned).await
    }

    async fn unplanned<'a>(
        &self,
        context: &'a PlanContext,
        plan: LogicalPlan,
        destination: Option<&'a Destination>,
        schema: SchemaRef,
    ) -> Result<Unplanned<'a>, Failure> {
        let mut state = context.session.state();
        // SHOW tells what the session has set, not what planning makes of it.
        let options = Arc::clone(state.config().options());
        state.config_mut().set_extension(options);
        let locked = self.parts.writes.lock_for_planning(&plan).await;
        Ok(Unplanned {
            _guard: planned(locked.map_err(failure::into_datafusion))?,
            options: options_of(&context.session, &plan),
            context,
            plan,
            destination,
            schema,
            state: Arc::new(state),
            shape: self.shape(),
        })
    }

    /// Cuts a plan into stages.
    async fn stages(&self, unplanned: &Unplanned<'_>) -> Result<StagedPlan, Failure> {
        let Unplanned { plan, state, shape, .. } = unplanned;
        let plan = planned(settings_table::with_snapshot(plan.clone(), state.config_options()))?;
        let write = unplanned.destination.map(Destination::write);
        planned(self.parts.planner.plan(state, &plan, *shape, write).await)
    }

    fn query(&self, unplanned: Unplanned<'_>, staged: &StagedPlan) -> Result<PhysicalQuery, Failure> {
        let mut graph = self.graph(&unplanned, staged, self.parts.in_process)?;
        if unplanned.options.is_exempt {
            graph.pin_to_local_worker();
        }
        Ok(unplanned.planned(graph))
    }

    /// A query whose stages are kept for equal statements, if they can be sent.
    async fn kept_query(
        &self,
        unplanned: Unplanned<'_>,
        statement: Statement,
        staged: &StagedPlan,
    ) -> Result<PhysicalQuery, Failure> {
        let Ok(graph) = self.graph(&unplanned, staged, false) else {
            // It is too large to be sent, which a plan of this process need not be.
            self.plans.give_up(&statement);
            return self.query(unplanned, staged);
        };
        match self.plans.keep(statement, staged, &graph, &unplanned.state).await {
            true => Ok(unplanned.planned(graph)),
            false => self.query(unplanned, staged),
        }
    }

    fn query_of_kept(&self, unplanned: Unplanned<'_>, kept: &KeptPlan) -> PhysicalQuery {
        let stores = self.stores(&kept.store_urls);
        let stages = kept.stages.iter().cloned().map(|stage| StageSpec {
            stores: stores.clone(),
            ..stage
        });
        let graph = StageGraph {
            query: unplanned.context.id,
            stages: stages.collect(),
            root: kept.root,
            options: QueryOptions::default(),
        };
        PhysicalQuery {
            is_reused: true,
            ..unplanned.planned(graph)
        }
    }

    fn graph(&self, unplanned: &Unplanned<'_>, staged: &StagedPlan, in_process: bool) -> Result<StageGraph, Failure> {
        let Unplanned { context, state, .. } = unplanned;
        planned(staged.graph(&GraphContext {
            query: context.id,
            schema: Arc::clone(&unplanned.schema),
            settings: self.worker_settings.of(state.config().options(), unplanned.shape.slots),
            stores: self.stores(&staged.store_urls()),
            state: Arc::clone(state),
            task_context: OnceLock::new(),
            keep_result: context.keeps_result(),
            in_process,
        }))
    }

    /// The object stores of these URLs, and no others: options of a store may hold secrets.
    fn stores<'a>(&self, urls: impl IntoIterator<Item = &'a String>) -> Vec<ObjectStoreSpec> {
        let specs = urls
            .into_iter()
            .filter_map(|url| self.parts.catalog.object_store_spec(url));
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

impl Unplanned<'_> {
    /// By what its plan may be found again.
    fn statement(&self) -> datafusion::error::Result<Option<Statement>> {
        let target = Target {
            schema: Arc::clone(&self.schema),
            shape: self.shape,
            keeps_result: self.context.keeps_result(),
        };
        let fingerprint = self.options.fingerprint.unwrap_or_default();
        Statement::of(&self.plan, fingerprint, self.state.config().options(), target)
    }

    fn planned(self, graph: StageGraph) -> PhysicalQuery {
        PhysicalQuery {
            schema: self.schema,
            is_ordered: is_ordered(&self.plan),
            is_reused: false,
            graph: StageGraph {
                options: QueryOptions {
                    time_limit: self.context.limit.as_ref().map(Limit::left),
                    ..self.options
                },
                ..graph
            },
        }
    }
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
