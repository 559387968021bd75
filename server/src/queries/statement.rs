//! What a logical plan says of its statement: schema, kind, parameters, and whether the server does such things.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ParamValues;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{DdlStatement, LogicalPlan, Statement};
use datafusion::scalar::ScalarValue;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure;

use super::{PlannedStatement, StatementKind};
use crate::planner::schema::{client_schema, result_schema};

/// What is said to everyone who wants a transaction.
pub const NO_TRANSACTIONS: &str = "transactions are not supported; connect with autocommit";

/// The schema after type coercion, as clients see it.
pub(super) fn frozen_schema(
    state: &SessionState,
    plan: &LogicalPlan,
) -> DataFusionResult<SchemaRef> {
    let analyzed =
        state
            .analyzer()
            .execute_and_check(plan.clone(), state.config_options(), |_, _| {});
    match analyzed {
        Ok(analyzed) => Ok(result_schema(analyzed.schema())),
        // A parameter whose type is not known yet can stop the analysis; it is known once there is a value.
        Err(_) if !plan.get_parameter_names()?.is_empty() => Ok(result_schema(plan.schema())),
        Err(error) => Err(error),
    }
}

pub(super) fn kind_of(plan: &LogicalPlan) -> StatementKind {
    match plan {
        LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => StatementKind::Update,
        _ => StatementKind::Query,
    }
}

/// What would run, but not as its user expects, is refused by name.
pub(super) fn refuse_unserved(plan: &LogicalPlan) -> Result<(), Failure> {
    let refusal = match plan {
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(_)) => {
            "CREATE TABLE is not supported yet; use CREATE EXTERNAL TABLE over files, or CREATE VIEW"
        }
        LogicalPlan::Dml(_) => {
            "INSERT, UPDATE and DELETE are not supported yet; tables are read-only"
        }
        LogicalPlan::Copy(_) => {
            "COPY is not supported yet; fetch the rows and write them at the client"
        }
        LogicalPlan::Statement(Statement::TransactionStart(_) | Statement::TransactionEnd(_)) => {
            NO_TRANSACTIONS
        }
        LogicalPlan::Statement(
            Statement::Prepare(_) | Statement::Execute(_) | Statement::Deallocate(_),
        ) => "PREPARE in SQL is not supported; use the driver's prepared statements",
        _ => return Ok(()),
    };
    Err(Failure::new(FailureKind::Unsupported, refusal))
}

/// Refuses what belongs to a transaction before anything is looked up for it.
pub(super) fn refuse_transaction(statement: &DfStatement) -> DataFusionResult<()> {
    let DfStatement::Statement(statement) = statement else {
        return Ok(());
    };
    match statement.as_ref() {
        SqlStatement::StartTransaction { .. }
        | SqlStatement::Commit { .. }
        | SqlStatement::Rollback { .. }
        | SqlStatement::Savepoint { .. }
        | SqlStatement::ReleaseSavepoint { .. } => {
            Err(DataFusionError::NotImplemented(NO_TRANSACTIONS.to_owned()))
        }
        _ => Ok(()),
    }
}

/// The parameters in the order of their numbers. A type that the statement does not tell is taken for a string.
pub(super) fn parameters_of(plan: &LogicalPlan) -> Result<SchemaRef, Failure> {
    let types = plan
        .get_parameter_types()
        .map_err(|error| failure::of(&error))?;
    let mut parameters: Vec<(u32, String, DataType)> = types
        .into_iter()
        .map(|(name, data_type)| {
            let number = name.trim_start_matches('$').parse().unwrap_or(u32::MAX);
            let known = data_type.filter(|known| *known != DataType::Null);
            (number, name, known.unwrap_or(DataType::Utf8))
        })
        .collect();
    parameters.sort();
    let fields: Vec<Field> = parameters
        .into_iter()
        .map(|(_, name, data_type)| Field::new(name, data_type, true))
        .collect();
    Ok(client_schema(&Schema::new(fields)))
}

/// The plan with its parameters in place.
pub(super) fn bind(
    planned: &PlannedStatement,
    parameters: Option<RecordBatch>,
) -> Result<LogicalPlan, Failure> {
    let wanted = planned.parameters.fields().len();
    if wanted == 0 {
        return Ok(planned.plan.clone());
    }
    let batch = parameters.ok_or_else(|| {
        Failure::new(
            FailureKind::Invalid,
            format!("the statement has {wanted} parameters and none is bound"),
        )
    })?;
    if batch.num_columns() != wanted || batch.num_rows() != 1 {
        return Err(Failure::new(
            FailureKind::Invalid,
            format!(
                "the statement takes one row of {wanted} parameters, but {} rows of {} are bound",
                batch.num_rows(),
                batch.num_columns()
            ),
        ));
    }
    let values = bound_values(planned, &batch).map_err(|error| failure::of(&error))?;
    planned
        .plan
        .clone()
        .with_param_values(values)
        .map_err(|error| failure::of(&error))
}

fn bound_values(planned: &PlannedStatement, batch: &RecordBatch) -> DataFusionResult<ParamValues> {
    let values = planned
        .parameters
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(parameter, column)| {
            let value = ScalarValue::try_from_array(column, 0)?;
            let value = if value.data_type() == *parameter.data_type() {
                value
            } else {
                value.cast_to(parameter.data_type())?
            };
            Ok(ScalarAndMetadata::from(value))
        })
        .collect::<DataFusionResult<Vec<_>>>()?;
    Ok(ParamValues::List(values))
}
