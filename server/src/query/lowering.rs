//! From a bound statement to what is to be done for it.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::logical_expr::LogicalPlan;
use squadron_proto::Failure;
use squadron_shuffle::failure;

use super::plan_context::PlanContext;
use super::stage_graph::PhysicalQuery;
use super::{Queries, Session};
use crate::planner::{StagedPlan, explain};
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
    Analyze {
        query: PhysicalQuery,
        plan: StagedPlan,
        is_verbose: bool,
    },
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
                    false => self.explained(context, inner, None).await?,
                };
                let batch = explain::plan(&explain, &plan, &statement.schema);
                Ok(Lowered::Rows(vec![batch.map_err(|error| failure::of(&error))?]))
            }
            LogicalPlan::Analyze(analyze) => {
                let inner = analyze.input.as_ref().clone();
                let schema = planned(frozen_schema(&context.session.state(), &inner))?;
                let context = context.clone().read_by_server();
                let (query, plan) = self.analyzed_query(&context, inner, schema).await?;
                Ok(Lowered::Analyze {
                    query,
                    plan,
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

    /// The plan of a write, without doing anything.
    async fn explained_write(&self, context: &PlanContext, plan: LogicalPlan) -> Result<StagedPlan, Failure> {
        let (destination, rows) = self.destination(context, plan).await?;
        self.explained(context, rows, Some(&destination)).await
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
