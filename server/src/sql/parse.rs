//! From a client's statement to a logical plan, and what its client may know of it before it runs.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use squadron_proto::Failure;
use squadron_shuffle::failure;

use super::hints::with_hint;
use super::inserts::refuse_nulls;
use super::parameters::{Parameters, infer_types, parameters_of, settle};
use super::planning_errors::{locate, of_names, planned, says_equal_names, with_end_of};
use super::redact::{as_definition, redact};
use super::rewrite::casts::name_casts;
use super::spelled::spelled;
use super::statement::{count_schema, frozen_schema, is_write, kind_of, refuse_transaction, refuse_unserved};
use super::{PlannedStatement, StatementKind, kill, limits, show};
use crate::catalog::Catalog;
use crate::plan_limits;
use crate::planner::substrait;
use crate::settings;

/// A statement as its client sent it.
#[derive(Clone, Debug)]
pub enum Source {
    /// SQL.
    Sql(String),
    /// A Substrait plan in its binary form.
    Substrait(Bytes),
}

impl Source {
    /// The statement as it may be shown; none for a Substrait plan.
    pub(crate) fn text(&self) -> Option<Arc<str>> {
        match self {
            Self::Sql(sql) => Some(redact(sql)),
            Self::Substrait(_) => None,
        }
    }
}

/// Parses and resolves a statement that is not one of [`parse_at_once`]. `text`: see [`Source::text`].
///
/// # Errors
/// `Invalid` with line and column for wrong SQL, and for what is no Substrait plan or leads nowhere, `NotFound` for an
/// unknown table with the nearest name, `Unsupported` for what the server does not do.
pub(crate) async fn parse(
    state: &SessionState,
    catalog: &Catalog,
    source: Source,
    text: Option<Arc<str>>,
) -> Result<PlannedStatement, Failure> {
    let hinted = |failure| with_hint(state, catalog, failure);
    let (plan, parameters, schema) = match source {
        Source::Sql(sql) => {
            let resolved = planned(resolve_sql(state, &sql).await);
            resolved.map_err(|failure| with_end_of(&sql, hinted(failure)))?
        }
        Source::Substrait(plan) => planned(resolve_substrait(state, &plan).await).map_err(hinted)?,
    };
    planned_statement(plan, parameters, schema, text)
}

/// A statement that must be understood at once, however busy the planning threads are: KILL. `None` for all others.
///
/// # Errors
/// `Invalid` for a KILL that is not complete.
pub(crate) fn parse_at_once(source: &Source, text: Option<Arc<str>>) -> Result<Option<PlannedStatement>, Failure> {
    let Source::Sql(sql) = source else {
        return Ok(None);
    };
    let statement = kill::parse(sql)?.map(|kill| {
        let schema = Arc::new(Schema::empty());
        planned_statement(kill, Parameters::none(), schema, text)
    });
    statement.transpose()
}

/// A plan with types for its parameters, those, and the schema of its rows.
type Resolved = (LogicalPlan, Parameters, SchemaRef);

async fn resolve_sql(state: &SessionState, sql: &str) -> DataFusionResult<Resolved> {
    let plan = logical_plan(state, sql).await?;
    with_parameters(state, plan).map_err(locate)
}

/// The logical plan of one statement, before any rule.
///
/// # Errors
/// For wrong SQL, and for what is not supported.
pub async fn logical_plan(state: &SessionState, sql: &str) -> DataFusionResult<LogicalPlan> {
    let statement = limits::parse(state, sql)?;
    refuse_transaction(&statement)?;
    let statement = settings::session::normalize(statement);
    let plan = match show::plan(state, &statement).await.map_err(of_names)? {
        Some(plan) => plan,
        None => {
            let planned = match state.statement_to_plan(statement).await {
                Err(error) if says_equal_names(&error) => plan_with_named_casts(state, sql).await.map_err(|_| error),
                planned => planned,
            };
            planned.map_err(|error| of_names(spelled(error, || limits::parse(state, sql).ok())))?
        }
    };
    let plan = with_definition(show::described(plan)?, sql);
    refuse_nulls(&plan)?;
    plan_limits::check_plan(&plan)?;
    Ok(plan)
}

/// Plans a statement again in which two expressions may be one but for a cast.
async fn plan_with_named_casts(state: &SessionState, sql: &str) -> DataFusionResult<LogicalPlan> {
    let mut statement = settings::session::normalize(limits::parse(state, sql)?);
    name_casts(&mut statement);
    state.statement_to_plan(statement).await
}

/// What makes a table or view, as its user wrote it.
fn with_definition(mut plan: LogicalPlan, sql: &str) -> LogicalPlan {
    match &mut plan {
        LogicalPlan::Ddl(DdlStatement::CreateExternalTable(create)) => create.definition = Some(as_definition(sql)),
        LogicalPlan::Ddl(DdlStatement::CreateView(create)) => create.definition = Some(as_definition(sql)),
        _ => {}
    }
    plan
}

async fn resolve_substrait(state: &SessionState, plan: &Bytes) -> DataFusionResult<Resolved> {
    let plan = substrait::logical_plan(state, plan).await?;
    plan_limits::check_plan(&plan)?;
    substrait::blamed_on_plan(async { with_parameters(state, plan) }).await
}

fn with_parameters(state: &SessionState, plan: LogicalPlan) -> DataFusionResult<Resolved> {
    let plan = infer_types(plan)?;
    let parameters = parameters_of(&plan).map_err(failure::into_datafusion)?;
    // An expression that takes no text can be analysed once its parameters are known.
    let analysable = settle(plan.clone(), &parameters).unwrap_or_else(|_| plan.clone());
    let schema = frozen_schema(state, &analysable)?;
    Ok((plan, parameters, schema))
}

/// What a client may know of a statement before it runs.
fn planned_statement(
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
