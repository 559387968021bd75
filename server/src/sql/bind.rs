//! Parameters in place: one row of values is one execution, and all rows of one binding are one statement.
//!
//! | statement | rows of values | becomes |
//! |---|---|---|
//! | any | none | no execution |
//! | any | one | the plan with literals |
//! | `INSERT ... VALUES` | many | one insert of a table of all rows, however many |
//! | other INSERT, COPY | many | one write of the union of the plans of all rows |
//! | query | many | its results, row after row |
//! | DDL, SET | many | refused |

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, ParamValues, TableReference};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::dml::CopyTo;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{
    DmlStatement, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection, Values,
};
use datafusion::scalar::ScalarValue;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure;

use crate::planner::schema::client_type;
use crate::sql::PlannedStatement;
use crate::sql::parameters::Recompute;
use crate::sql::statement::is_write;

/// Rows of values for which a plan each is made. Only `INSERT ... VALUES` takes more.
const MAX_PLANNED_ROWS: usize = 1000;

/// Rows of a batch of the table that parameters become.
const BATCH_ROWS: usize = 8192;

/// The name of that table in plans.
const TABLE: &str = "parameters";

/// What is to be executed.
#[derive(Debug)]
pub(crate) enum Bound {
    /// Nothing: a binding without rows.
    Nothing,
    /// One plan.
    One(LogicalPlan),
    /// The rows of each, one after another.
    Each(Vec<LogicalPlan>),
}

/// Puts `values` in the place of the statement's parameters.
///
/// # Errors
/// `Invalid` when they do not fit.
pub(crate) fn bind(planned: &PlannedStatement, values: Option<RecordBatch>) -> Result<Bound, Failure> {
    let wanted = planned.parameters.fields().len();
    if wanted == 0 {
        return Ok(Bound::One(planned.plan.clone()));
    }
    let values = values.ok_or_else(|| invalid(format!("the statement has {wanted} parameters and none is bound")))?;
    if values.num_columns() != wanted {
        return Err(invalid(format!(
            "the statement takes {wanted} parameters, but {} are bound",
            values.num_columns()
        )));
    }
    let values = conformed(planned, &values)?;
    let plan = &planned.plan;
    let several = |rows: usize| {
        refuse_too_many(rows)?;
        (0..rows)
            .map(|row| with_row(plan, &values, row))
            .collect::<DataFusionResult<Vec<_>>>()
            .map_err(|error| failure::of(&error))
    };
    match values.num_rows() {
        0 => Ok(Bound::Nothing),
        1 => with_row(plan, &values, 0)
            .map(Bound::One)
            .map_err(|error| failure::of(&error)),
        rows if is_write(plan) => write_of_rows(plan, &values, rows).map(Bound::One),
        _ if matches!(plan, LogicalPlan::Ddl(_) | LogicalPlan::Statement(_)) => Err(invalid(
            "a statement that changes the catalog or a setting takes one row of parameters".into(),
        )),
        rows => several(rows).map(Bound::Each),
    }
}

fn refuse_too_many(rows: usize) -> Result<(), Failure> {
    if rows <= MAX_PLANNED_ROWS {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Exhausted,
        format!(
            "{rows} rows of parameters are bound, and this statement takes {MAX_PLANNED_ROWS} at once; bind fewer, or use \
             INSERT ... VALUES, which takes any number"
        ),
    ))
}

/// The values in their own types, as literals have them: `int_column = ?` finds what `int_column = 1.9` finds, and not what
/// 1 finds. Dictionaries are unpacked, views made plain. Text is read as what the statement needs, like a text in quotes.
fn conformed(planned: &PlannedStatement, values: &RecordBatch) -> Result<RecordBatch, Failure> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    let parameters = planned.parameters.fields().iter();
    for ((parameter, column), guessed) in parameters.zip(values.columns()).zip(&planned.guessed) {
        let refused = |data_type: &DataType, error: ArrowError| {
            invalid(format!(
                "the parameter {} is of type {} and cannot be taken as {data_type}: {error}",
                parameter.name(),
                column.data_type()
            ))
        };
        let own = client_type(column.data_type());
        let plain = strictly_cast(column, &own).map_err(|error| refused(&own, error))?;
        let data_type = match guessed {
            true => own,
            false => fitting_type(&plain, parameter.data_type()),
        };
        columns.push(strictly_cast(&plain, &data_type).map_err(|error| refused(&data_type, error))?);
        fields.push(Field::new(parameter.name(), data_type, true));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(Failure::internal)
}

fn strictly_cast(column: &ArrayRef, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(column, data_type, &options)
}

/// The type that a literal with these values would be given beside `wanted`.
fn fitting_type(values: &ArrayRef, wanted: &DataType) -> DataType {
    let own = values.data_type();
    let is_read = own.is_null() || own.is_string() || own.is_nested();
    // LIMIT takes this type alone, and no operator tells it from a narrower one.
    let is_narrow = *wanted == DataType::Int64 && own.is_integer() && *own != DataType::UInt64;
    match is_read || is_narrow {
        true => wanted.clone(),
        false => own.clone(),
    }
}

/// The plan with the values of one row.
fn with_row(plan: &LogicalPlan, values: &RecordBatch, row: usize) -> DataFusionResult<LogicalPlan> {
    let schema = values.schema();
    let named = schema.fields().iter().zip(values.columns());
    let named = named
        .map(|(field, column)| {
            let value = ScalarValue::try_from_array(column, row)?;
            let name = field.name().trim_start_matches('$').to_owned();
            Ok((name, ScalarAndMetadata::from(value)))
        })
        .collect::<DataFusionResult<_>>()?;
    let plan = plan.clone().with_param_values(ParamValues::Map(named))?;
    retyped(plan)
}

/// The plan in which VALUES have the types of their rows, which follow from what was bound. Those that are inserted have
/// the types of their table.
fn retyped(plan: LogicalPlan) -> DataFusionResult<LogicalPlan> {
    let is_insert = matches!(plan, LogicalPlan::Dml(_));
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Values(Values { schema, values }) => {
            let typed = match is_insert {
                true => LogicalPlanBuilder::values_with_schema(values, &schema)?,
                false => LogicalPlanBuilder::values(values)?,
            };
            typed.build().map(Transformed::yes)
        }
        other => Ok(Transformed::no(other)),
    })
    .and_then(|plan| match plan.transformed {
        true => plan.data.recompute(),
        false => Ok(plan.data),
    })
}

/// One write of all rows.
fn write_of_rows(plan: &LogicalPlan, values: &RecordBatch, rows: usize) -> Result<LogicalPlan, Failure> {
    let input = plan.inputs().into_iter().next();
    let input = input.ok_or_else(|| Failure::internal("a write without rows"))?;
    let input = match over_table(input, values).map_err(|error| failure::of(&error))? {
        Some(input) => input,
        None => {
            refuse_too_many(rows)?;
            union(input, values, rows).map_err(|error| failure::of(&error))?
        }
    };
    let input = Arc::new(input);
    match plan {
        LogicalPlan::Dml(dml) => Ok(LogicalPlan::Dml(DmlStatement { input, ..dml.clone() })),
        LogicalPlan::Copy(copy) => Ok(LogicalPlan::Copy(CopyTo { input, ..copy.clone() })),
        other => Err(Failure::internal(format!("{} is no write", other.display()))),
    }
}

fn union(input: &LogicalPlan, values: &RecordBatch, rows: usize) -> DataFusionResult<LogicalPlan> {
    let inputs = (0..rows)
        .map(|row| with_row(input, values, row).map(Arc::new))
        .collect::<DataFusionResult<Vec<_>>>()?;
    let union = datafusion::logical_expr::Union::try_new_with_loose_types(inputs)?;
    Ok(LogicalPlan::Union(union))
}

/// `VALUES` with parameters as a projection of a table that holds all rows of values. None where the plan is more than
/// projections of `VALUES`, so that its result for all rows need not be the results for each.
fn over_table(input: &LogicalPlan, values: &RecordBatch) -> DataFusionResult<Option<LogicalPlan>> {
    match input {
        LogicalPlan::Projection(projection) => {
            if projection.expr.iter().any(has_placeholder) {
                return Ok(None);
            }
            let Some(input) = over_table(&projection.input, values)? else {
                return Ok(None);
            };
            let projection = Projection::try_new(projection.expr.clone(), Arc::new(input))?;
            Ok(Some(LogicalPlan::Projection(projection)))
        }
        LogicalPlan::Values(rows) => values_over_table(rows, values).map(Some),
        _ => Ok(None),
    }
}

fn has_placeholder(expression: &Expr) -> bool {
    expression
        .exists(|inner| Ok(matches!(inner, Expr::Placeholder(_)) || is_subquery(inner)))
        .unwrap_or(true)
}

fn is_subquery(expression: &Expr) -> bool {
    matches!(
        expression,
        Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_)
    )
}

/// One projection for each row of `VALUES`.
fn values_over_table(rows: &Values, values: &RecordBatch) -> DataFusionResult<LogicalPlan> {
    let slices = (0..values.num_rows()).step_by(BATCH_ROWS);
    let slices = slices
        .map(|start| values.slice(start, BATCH_ROWS.min(values.num_rows() - start)))
        .collect();
    let table = Arc::new(MemTable::try_new(values.schema(), vec![slices])?);
    let source = provider_as_source(table);
    let mut union: Option<LogicalPlanBuilder> = None;
    for row in &rows.values {
        let scan = LogicalPlanBuilder::scan(TABLE, Arc::clone(&source), None)?;
        let schema = Arc::clone(scan.schema());
        let columns = row.iter().zip(rows.schema.fields()).map(|(value, field)| {
            let value = over_columns(value.clone())?;
            let value = value.cast_to(field.data_type(), &schema)?;
            Ok(value.alias(field.name()))
        });
        let projected = scan.project(columns.collect::<DataFusionResult<Vec<_>>>()?)?;
        union = Some(match union {
            Some(union) => union.union(projected.build()?)?,
            None => projected,
        });
    }
    match union {
        Some(union) => union.build(),
        None => datafusion::common::internal_err!("VALUES without rows"),
    }
}

fn over_columns(expression: Expr) -> DataFusionResult<Expr> {
    let table = TableReference::bare(TABLE);
    expression
        .transform_up(|inner| match inner {
            Expr::Placeholder(Placeholder { id, .. }) => {
                let column = Column::new(Some(table.clone()), id);
                Ok(Transformed::yes(Expr::Column(column)))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()
}

fn invalid(message: String) -> Failure {
    Failure::new(FailureKind::Invalid, message)
}
