//! What a logical plan says of its statement: schema, kind, and whether the server does such things.

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{DdlStatement, DmlStatement, LogicalPlan, Statement, WriteOp};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use squadron_proto::{Failure, FailureKind};

use super::StatementKind;
use super::write::is_write;
use crate::planner::schema::result_schema;

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
        LogicalPlan::Ddl(_)
        | LogicalPlan::Statement(_)
        | LogicalPlan::Dml(_)
        | LogicalPlan::Copy(_) => StatementKind::Update,
        _ => StatementKind::Query,
    }
}

/// `CREATE TABLE AS` has an input, `CREATE TABLE` an empty one.
fn has_rows(input: &LogicalPlan) -> bool {
    !matches!(input, LogicalPlan::EmptyRelation(_))
}

/// What would run, but not as its user expects, is refused by name.
pub(super) fn refuse_unserved(plan: &LogicalPlan) -> Result<(), Failure> {
    let refusal = match plan {
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) if has_rows(&create.input) => {
            "CREATE TABLE AS is not supported yet; write the rows with COPY ... TO and make a table of them with CREATE EXTERNAL \
             TABLE, or CREATE VIEW"
        }
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(_)) => {
            "CREATE TABLE is not supported yet; use CREATE EXTERNAL TABLE over a folder of files, which INSERT adds to, or CREATE \
             VIEW"
        }
        LogicalPlan::Dml(DmlStatement {
            op: WriteOp::Insert(_),
            ..
        }) => return Ok(()),
        LogicalPlan::Dml(_) => {
            "UPDATE, DELETE, MERGE and TRUNCATE are not supported; INSERT INTO adds rows to a table of files, and COPY ... TO \
             writes those that shall remain to another folder"
        }
        LogicalPlan::Analyze(analyze) if is_write(&analyze.input) => {
            "EXPLAIN ANALYZE of a statement that writes is not supported; EXPLAIN shows its plan"
        }
        LogicalPlan::Analyze(analyze) => return refuse_unserved(&analyze.input),
        LogicalPlan::Explain(explain) => return refuse_unserved(&explain.plan),
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
