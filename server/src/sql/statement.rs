//! What a logical plan says of its statement: schema, kind, and whether the server does such things.

use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::array::UInt64Array;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::datatypes::Field;
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{DdlStatement, DmlStatement, LogicalPlan, Statement, WriteOp};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use squadron_proto::{Failure, FailureKind};

use crate::planner::schema::{result_schema, without_mark};
use crate::sql::{StatementKind, kill};

/// The refusal of transactions.
pub const NO_TRANSACTIONS: &str = "transactions are not supported; connect with autocommit";

/// The schema after type coercion, as clients see it.
pub(crate) fn frozen_schema(state: &SessionState, plan: &LogicalPlan) -> DataFusionResult<SchemaRef> {
    let analyzed = state
        .analyzer()
        .execute_and_check(plan.clone(), state.config_options(), |_, _| {});
    match analyzed {
        Ok(analyzed) => Ok(result_schema(analyzed.schema())),
        // A parameter whose type is not known yet can stop the analysis; it is known once there is a value.
        Err(_) if !plan.get_parameter_names()?.is_empty() => Ok(result_schema(plan.schema())),
        Err(error) => Err(error),
    }
}

/// The schema that the client was told, where the rows fit it: a bound value can be known not to be null where its
/// parameter was not. Where a value has another type than its parameter was thought to have, the rows tell their own.
pub(crate) fn as_announced(told: &SchemaRef, own: SchemaRef) -> SchemaRef {
    let fits = told.fields().len() == own.fields().len()
        && told.fields().iter().zip(own.fields()).all(|(told, own)| {
            told.name() == own.name()
                && told.data_type() == own.data_type()
                && (told.is_nullable() || !own.is_nullable())
        });
    if fits { Arc::clone(told) } else { own }
}

pub(crate) fn kind_of(plan: &LogicalPlan) -> StatementKind {
    match plan {
        LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) | LogicalPlan::Dml(_) | LogicalPlan::Copy(_) => {
            StatementKind::Update
        }
        kill if kill::target_of(kill).is_some() => StatementKind::Update,
        _ => StatementKind::Query,
    }
}

/// `CREATE TABLE AS` has an input, `CREATE TABLE` an empty one.
fn has_rows(input: &LogicalPlan) -> bool {
    !matches!(input, LogicalPlan::EmptyRelation(_))
}

/// What would run, but not as its user expects, is refused by name.
pub(crate) fn refuse_unserved(plan: &LogicalPlan) -> Result<(), Failure> {
    let refusal = match plan {
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)) if has_rows(&create.input) => {
            "CREATE TABLE AS is not supported yet; write the rows with COPY ... TO and make a table of them with CREATE EXTERNAL \
             TABLE, or CREATE VIEW"
        }
        LogicalPlan::Ddl(DdlStatement::CreateView(view)) => return refuse_equal_names(&view.input),
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(_)) => {
            "CREATE TABLE is not supported yet; use CREATE EXTERNAL TABLE over a folder of files, which INSERT adds to, or CREATE \
             VIEW"
        }
        LogicalPlan::Dml(DmlStatement {
            op: WriteOp::Insert(_), ..
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
        LogicalPlan::Statement(Statement::TransactionStart(_) | Statement::TransactionEnd(_)) => NO_TRANSACTIONS,
        LogicalPlan::Statement(Statement::Prepare(_) | Statement::Execute(_) | Statement::Deallocate(_)) => {
            "PREPARE in SQL is not supported; use the driver's prepared statements"
        }
        _ => return Ok(()),
    };
    Err(Failure::new(FailureKind::Unsupported, refusal))
}

/// A view's columns are found by their names.
fn refuse_equal_names(query: &LogicalPlan) -> Result<(), Failure> {
    let mut names = query.schema().fields().iter().map(|field| field.name());
    let Some(marked) = names.find(|name| without_mark(name) != *name) else {
        return Ok(());
    };
    let sentence = format!(
        "the view would have two columns named {}; give one an alias",
        without_mark(marked)
    );
    Err(Failure::new(FailureKind::Invalid, sentence))
}

/// Refuses what belongs to a transaction before anything is looked up for it.
pub(crate) fn refuse_transaction(statement: &DfStatement) -> DataFusionResult<()> {
    let DfStatement::Statement(statement) = statement else {
        return Ok(());
    };
    match statement.as_ref() {
        SqlStatement::StartTransaction { .. }
        | SqlStatement::Commit { .. }
        | SqlStatement::Rollback { .. }
        | SqlStatement::Savepoint { .. }
        | SqlStatement::ReleaseSavepoint { .. } => Err(DataFusionError::NotImplemented(NO_TRANSACTIONS.to_owned())),
        _ => Ok(()),
    }
}

/// The one column of a write's result, as DataFusion has it.
pub(crate) fn count_schema() -> SchemaRef {
    let count = Field::new("count", DataType::UInt64, false);
    Arc::new(Schema::new(vec![count]))
}

/// The one row of a write's result.
pub(crate) fn count_row(count: u64) -> Result<RecordBatch, Failure> {
    let column: ArrayRef = Arc::new(UInt64Array::from(vec![count]));
    RecordBatch::try_new(count_schema(), vec![column]).map_err(Failure::internal)
}

/// Whether the rows of `plan` become files.
pub(crate) fn is_write(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Dml(_) | LogicalPlan::Copy(_))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn schema(name: &str, data_type: DataType, nullable: bool) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new(name, data_type, nullable)]))
    }

    #[test]
    fn announced_schema_holds_where_rows_fit() {
        let told = schema("n", DataType::Int64, true);
        let literal = schema("n", DataType::Int64, false);
        assert_eq!(as_announced(&told, Arc::clone(&literal)), told);
        assert_eq!(as_announced(&literal, Arc::clone(&told)), told);
        for other in [
            schema("m", DataType::Int64, true),
            schema("n", DataType::Utf8, true),
            Arc::new(Schema::empty()),
        ] {
            assert_eq!(as_announced(&told, Arc::clone(&other)), other);
        }
    }
}
