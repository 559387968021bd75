//! NULL in the rows of INSERT ... VALUES, for a column that takes none: DataFusion would tell the number of the column.

use datafusion::common::plan_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, Values};

/// Refuses a NULL that stands in VALUES for a column that takes none.
pub(super) fn refuse_nulls(plan: &LogicalPlan) -> DataFusionResult<()> {
    let LogicalPlan::Dml(insert) = plan else {
        return Ok(());
    };
    let LogicalPlan::Projection(projection) = insert.input.as_ref() else {
        return Ok(());
    };
    let LogicalPlan::Values(values) = projection.input.as_ref() else {
        return Ok(());
    };
    for (index, field) in values.schema.fields().iter().enumerate() {
        if field.is_nullable() {
            continue;
        }
        if let Some(row) = row_with_null(values, index) {
            let column = column_of(projection, field.name());
            return plan_err!(
                "the column {column} takes no nulls, and row {} of VALUES has one",
                row + 1
            );
        }
    }
    Ok(())
}

fn row_with_null(values: &Values, column: usize) -> Option<usize> {
    values
        .values
        .iter()
        .position(|row| row.get(column).is_some_and(is_null))
}

fn is_null(expression: &Expr) -> bool {
    match expression {
        Expr::Literal(value, _) => value.is_null(),
        Expr::Cast(cast) => is_null(&cast.expr),
        Expr::Alias(alias) => is_null(&alias.expr),
        _ => false,
    }
}

/// The column of the table for which a column of VALUES stands.
fn column_of<'a>(projection: &'a Projection, name: &'a str) -> &'a str {
    let mut columns = projection.expr.iter().zip(projection.schema.fields());
    let found = columns.find(|(expression, _)| expression.column_refs().iter().any(|column| column.name == name));
    found.map_or(name, |(_, field)| field.name())
}
