//! From a logical plan to what the scheduler takes: stages for the workers there are, with the query's own traits.

use std::sync::{Arc, OnceLock};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use squadron_proto::control::ObjectStoreSpec;
use squadron_proto::{Failure, QueryId};
use squadron_shuffle::failure;
use squadron_shuffle::sink::staged_files_schema;

use super::{Queries, Session, settings_table};
use crate::driver::QueryEvents;
use crate::planner::stages::GraphContext;
use crate::planner::{ClusterShape, StagedPlan};
use crate::query::options::{Limit, traits_of, within};
use crate::settings::Endpoints;
use crate::sql::statement::frozen_schema;
use crate::writes::Destination;
use squadron_scheduler::{QueryOptions, StageGraph};

/// A plan with what it was planned for.
pub(crate) struct Staged {
    pub(crate) plan: StagedPlan,
    pub(crate) schema: SchemaRef,
    pub(crate) state: Arc<SessionState>,
    pub(crate) shape: ClusterShape,
    pub(crate) traits: QueryOptions,
    pub(crate) limit: Option<Limit>,
}

impl Queries {
    /// From here on the query's time counts.
    pub(crate) async fn staged(
        &self,
        session: &Session,
        plan: LogicalPlan,
        destination: Option<&Destination>,
    ) -> Result<Staged, Failure> {
        let limit = Limit::of(session, self.parts.query_timeout);
        let shape = self.shape();
        let mut state = session.context.state();
        // For those who want to know what the session has set, not what planning makes of it.
        let options = Arc::clone(state.config().options());
        state.config_mut().set_extension(options);
        let planner = self.parts.planner;
        let traits = traits_of(session, &plan);
        let write = destination.map(|destination| destination.write().clone());
        let writes = self.parts.writes.clone();
        let planned = self.on_planner(session, async move {
            let reading = writes.reading(&plan).await;
            let _reading = reading.map_err(failure::into_datafusion)?;
            let schema = match &write {
                Some(_) => staged_files_schema(),
                None => frozen_schema(&state, &plan)?,
            };
            let plan = settings_table::with_snapshot(plan, state.config_options())?;
            let plan = planner.plan(&state, &plan, shape, write.as_ref()).await?;
            Ok((plan, schema, state))
        });
        let (plan, schema, state) = within(limit.as_ref(), planned).await?;
        Ok(Staged {
            plan,
            schema,
            state: Arc::new(state),
            shape,
            traits,
            limit,
        })
    }

    pub(crate) async fn submit(&self, id: QueryId, staged: &Staged) -> Result<QueryEvents, Failure> {
        let graph = self.graph(id, staged, Endpoints::One).await?;
        if !graph.options.is_exempt {
            self.make_room(&graph)?;
        }
        self.parts.scheduler.submit(graph).await
    }

    pub(crate) async fn graph(
        &self,
        id: QueryId,
        staged: &Staged,
        endpoints: Endpoints,
    ) -> Result<StageGraph, Failure> {
        let plan = staged.plan.clone();
        let context = GraphContext {
            query: id,
            schema: Arc::clone(&staged.schema),
            settings: self.travelling.of(staged.state.config().options(), staged.shape.slots),
            stores: self.stores_of(&staged.plan),
            state: Arc::clone(&staged.state),
            task_context: OnceLock::new(),
            keep_result: endpoints == Endpoints::Parallel,
            in_process: self.parts.in_process,
        };
        let graph = async move { plan.graph(&context) };
        let planning = &self.parts.planning;
        let mut graph = planning.run(staged.traits.priority, graph).await?;
        if staged.traits.is_exempt {
            graph.run_here();
        }
        graph.options = QueryOptions {
            time_limit: staged.limit.as_ref().map(Limit::left),
            ..staged.traits.clone()
        };
        Ok(graph)
    }

    /// Only what the plan reads: options of a store may hold secrets.
    fn stores_of(&self, plan: &StagedPlan) -> Vec<ObjectStoreSpec> {
        plan.store_urls()
            .iter()
            .filter_map(|url| self.parts.catalog.object_store_spec(url))
            .collect()
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
