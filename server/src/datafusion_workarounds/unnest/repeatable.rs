//! Which rows are the same when they are computed once more.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, not_impl_err};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};

use crate::plan_limits::expressions::any_expression;

/// Aggregates whose result does not depend on the order of their rows, for other types than floats.
const FREE_OF_ORDER: [&str; 7] = ["count", "sum", "min", "max", "avg", "bool_and", "bool_or"];

/// Refuses rows of which a second computation might give others, or other values of `columns`.
pub(super) fn require_repeatable(rows: &LogicalPlan, columns: &[Column]) -> Result<()> {
    let mut reason = None;
    rows.apply(|node| {
        reason = unrepeatable(node)?;
        Ok(match reason {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    })?;
    let Some(reason) = reason else {
        return Ok(());
    };
    let columns: Vec<_> = columns.iter().map(Column::flat_name).collect();
    not_impl_err!(
        "a correlated subquery of this form is not supported over {reason}, which may give other rows when they are \
         computed once more; store the rows that have {} in a table first, or write a join",
        columns.join(", ")
    )
}

fn unrepeatable(node: &LogicalPlan) -> Result<Option<&'static str>> {
    if any_expression(node, |expression| Ok(expression.is_volatile()))? {
        return Ok(Some("random values"));
    }
    Ok(match node {
        LogicalPlan::Limit(_) => Some("LIMIT"),
        LogicalPlan::Window(_) => Some("window functions"),
        LogicalPlan::Distinct(Distinct::On(_)) => Some("DISTINCT ON"),
        LogicalPlan::Aggregate(aggregate) => {
            let keys = aggregate.group_expr_len()?;
            let fields = aggregate.schema.fields().iter().skip(keys);
            let mut results = aggregate.aggr_expr.iter().zip(fields);
            let is_exact = results.all(|(call, field)| is_free_of_order(call) && !has_floats(field.data_type()));
            (!is_exact).then_some("aggregates that depend on the order of their rows")
        }
        LogicalPlan::RecursiveQuery(_) => Some("WITH RECURSIVE"),
        _ => None,
    })
}

fn is_free_of_order(call: &Expr) -> bool {
    match call {
        Expr::Alias(alias) => is_free_of_order(&alias.expr),
        Expr::AggregateFunction(call) => FREE_OF_ORDER.contains(&call.func.name()),
        _ => false,
    }
}

fn has_floats(data_type: &DataType) -> bool {
    data_type.is_floating() || data_type.is_nested()
}
