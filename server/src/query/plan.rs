//! From a client's statement to a logical plan, and what its client may know of it before it runs.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure;

use super::{Queries, Session};
use crate::planner::substrait;
use crate::query::options::options;
use crate::settings;
use crate::sql::parameters::{Parameters, inferred, parameters_of, settled};
use crate::sql::planning_errors::{located, unknown_table, with_end_of};
use crate::sql::redact::shown;
use crate::sql::statement::{count_schema, is_write};
use crate::sql::statement::{frozen_schema, kind_of, refuse_transaction, refuse_unserved};
use crate::sql::{PlannedStatement, StatementKind, kill};

impl Queries {
    /// Parses and resolves a statement.
    ///
    /// # Errors
    /// `Invalid` with line and column for wrong SQL, `NotFound` for an unknown table with the nearest name, `Unsupported` for what
    /// the server does not do.
    pub async fn plan(&self, session: &Session, sql: &str) -> Result<PlannedStatement, Failure> {
        let shown = Some(shown(sql));
        if let Some(kill) = kill::parsed(sql)? {
            return understood(kill, Parameters::none(), Arc::new(Schema::empty()), shown);
        }
        let state = session.context.state();
        let text = sql.to_owned();
        let planned = self.on_planner(session, async move {
            let dialect = state.config_options().sql_parser.dialect;
            let statement = state.sql_to_statement(&text, &dialect).map_err(located)?;
            refuse_transaction(&statement)?;
            let statement = settings::session::understood(statement);
            let plan = state.statement_to_plan(statement).await.map_err(located)?;
            with_parameters(&state, plan).map_err(located)
        });
        let (plan, parameters, schema) = planned
            .await
            .map_err(|failure| with_end_of(sql, self.with_hint(failure)))?;
        understood(plan, parameters, schema, shown)
    }

    /// Reads and resolves a Substrait plan in its binary form.
    ///
    /// # Errors
    /// `Invalid` for what is no plan or leads nowhere, `NotFound` for an unknown table with the nearest name, `Unsupported` for what
    /// the server does not do.
    pub async fn plan_substrait(&self, session: &Session, plan: Bytes) -> Result<PlannedStatement, Failure> {
        let state = session.context.state();
        let planned = self.on_planner(session, async move {
            let plan = substrait::logical_plan(&state, &plan).await?;
            let resolved = async { with_parameters(&state, plan) };
            substrait::blamed_on_plan(resolved).await
        });
        let (plan, parameters, schema) = planned.await.map_err(|failure| self.with_hint(failure))?;
        understood(plan, parameters, schema, None)
    }

    /// Does a part of planning for the session in its turn.
    pub(crate) async fn on_planner<T, F>(&self, session: &Session, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = DataFusionResult<T>> + Send + 'static,
    {
        let priority = options(session).priority;
        self.parts.planning.run(priority, work).await
    }

    /// Adds the nearest name to what DataFusion says of a table it does not know.
    fn with_hint(&self, mut failure: Failure) -> Failure {
        let Some(name) = unknown_table(&failure.message) else {
            return failure;
        };
        failure.kind = FailureKind::NotFound;
        let nearest = self.parts.catalog.nearest_table(&name);
        failure.message = match nearest.filter(|nearest| *nearest != name) {
            Some(nearest) => format!("table '{name}' not found; did you mean '{nearest}'?"),
            None => format!("table '{name}' not found; SHOW TABLES lists what there is"),
        };
        failure
    }
}

/// The plan with types for its parameters, those, and the schema of its rows.
fn with_parameters(state: &SessionState, plan: LogicalPlan) -> DataFusionResult<(LogicalPlan, Parameters, SchemaRef)> {
    let plan = inferred(plan)?;
    let parameters = parameters_of(&plan).map_err(failure::into_datafusion)?;
    // What takes no text is known once its parameters are.
    let shown = settled(plan.clone(), &parameters).unwrap_or_else(|_| plan.clone());
    let schema = frozen_schema(state, &shown)?;
    Ok((plan, parameters, schema))
}

/// What a client may know of a statement before it runs.
fn understood(
    plan: LogicalPlan,
    parameters: Parameters,
    schema: SchemaRef,
    text: Option<Arc<str>>,
) -> Result<PlannedStatement, Failure> {
    refuse_unserved(&plan)?;
    let kind = kind_of(&plan);
    Ok(PlannedStatement {
        kind,
        schema: match kind {
            StatementKind::Query => schema,
            StatementKind::Update if is_write(&plan) => count_schema(),
            StatementKind::Update => Arc::new(Schema::empty()),
        },
        parameters: parameters.schema,
        guessed: parameters.guessed,
        plan,
        text,
    })
}
