//! Subqueries in ORDER BY that name columns which the select list leaves out.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::logical_plan::{Projection, Sort};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::super::unnest::references;
use crate::plan_limits::expressions::query_of;

/// The sort with the columns that its subqueries name of the rows below the select list, and the columns that it gives;
/// none where nothing is missing.
pub(super) fn widened(node: &LogicalPlan) -> Result<Option<(LogicalPlan, Vec<Expr>)>> {
    let LogicalPlan::Sort(sort) = node else {
        return Ok(None);
    };
    let LogicalPlan::Projection(projection) = sort.input.as_ref() else {
        return Ok(None);
    };
    let mut missing: Vec<Column> = Vec::new();
    for key in &sort.expr {
        key.expr.apply(|part| {
            for reference in query_of(part).map_or(Ok(Vec::new()), references)? {
                if let Expr::OuterReferenceColumn(_, column) = reference
                    && !projection.schema.has_column(&column)
                    && projection.input.schema().has_column(&column)
                    && !missing.contains(&column)
                {
                    missing.push(column);
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    if missing.is_empty() {
        return Ok(None);
    }
    let columns = projection.schema.columns().into_iter().map(Expr::Column).collect();
    let wider = projection
        .expr
        .iter()
        .cloned()
        .chain(missing.into_iter().map(Expr::Column));
    let wider = Projection::try_new(wider.collect(), Arc::clone(&projection.input))?;
    let sort = Sort {
        input: Arc::new(LogicalPlan::Projection(wider)),
        ..sort.clone()
    };
    Ok(Some((LogicalPlan::Sort(sort), columns)))
}
