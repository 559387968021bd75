//! The expressions of a plan's nodes: what they refer to, and how a rule rewrites them.

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// The columns that the expressions of `node` may name, but for those of queries around it.
pub(crate) fn input_schema(node: &LogicalPlan) -> DFSchema {
    match node {
        // The filters of a scan speak of all its columns.
        LogicalPlan::TableScan(scan) => {
            DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())
                .unwrap_or_else(|_| DFSchema::empty())
        }
        _ => merge_schema(&node.inputs()),
    }
}

/// Rewrites the expressions of every node, also of subqueries, from the top down. `rewrite` gets an expression and the
/// columns that it may name.
pub(crate) fn rewrite_plan(
    plan: LogicalPlan,
    rewrite: impl Fn(Expr, &DFSchema) -> Result<Transformed<Expr>>,
) -> Result<LogicalPlan> {
    plan.transform_down_with_subqueries(|node| rewrite_node(node, &rewrite))
        .data()
}

/// Rewrites every node, also of subqueries, from the bottom up. Once one is new, the schemas above follow from those
/// below.
pub(crate) fn rewrite_types(
    plan: LogicalPlan,
    mut rewrite: impl FnMut(LogicalPlan) -> Result<Transformed<LogicalPlan>>,
) -> Result<LogicalPlan> {
    let mut changed = false;
    plan.transform_up_with_subqueries(|node| {
        let node = rewrite(node)?;
        changed |= node.transformed;
        if !changed {
            return Ok(node);
        }
        node.transform_data(|node| match &node {
            LogicalPlan::Dml(_) | LogicalPlan::Copy(_) | LogicalPlan::Values(_) => Ok(Transformed::no(node)),
            _ => Ok(Transformed::yes(node.recompute_schema()?)),
        })
    })
    .data()
}

/// Rewrites the expressions of one node.
pub(crate) fn rewrite_node(
    node: LogicalPlan,
    mut rewrite: impl FnMut(Expr, &DFSchema) -> Result<Transformed<Expr>>,
) -> Result<Transformed<LogicalPlan>> {
    // Most nodes of most plans name columns alone, of which there may be thousands.
    if !matches!(node, LogicalPlan::Sort(_)) && !has_more_than_columns(&node)? {
        return Ok(Transformed::no(node));
    }
    let schema = input_schema(&node);
    rewrite_named(node, |expression| rewrite(expression, &schema))
}

/// Rewrites the expressions of one node; its columns keep their names.
pub(crate) fn rewrite_named(
    node: LogicalPlan,
    mut rewrite: impl FnMut(Expr) -> Result<Transformed<Expr>>,
) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&node);
    let mut rewrite = |expression: Expr| {
        let name = names.save(&expression);
        let rewritten = rewrite(expression)?;
        Ok(rewritten.update_data(|expression| name.restore(expression)))
    };
    node.map_expressions(|expression| match expression {
        // An aggregate knows it without a name alone.
        Expr::GroupingSet(_) => expression.map_children(&mut rewrite),
        other => rewrite(other),
    })
}

fn has_more_than_columns(node: &LogicalPlan) -> Result<bool> {
    any_expression(node, |expression| Ok(!matches!(expression, Expr::Column(_))))
}

/// Whether an expression of `node` is one that is looked for.
pub(crate) fn any_expression(node: &LogicalPlan, mut is_one: impl FnMut(&Expr) -> Result<bool>) -> Result<bool> {
    let mut found = false;
    node.apply_expressions(|expression| {
        found = is_one(expression)?;
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

/// Whether an expression of `node` has a subquery.
pub(crate) fn has_subquery(node: &LogicalPlan) -> Result<bool> {
    any_expression(node, contains_subquery)
}

/// Whether there is a subquery in the expression.
pub(crate) fn contains_subquery(expression: &Expr) -> Result<bool> {
    expression.exists(|part| Ok(query_of(part).is_some()))
}

/// The query of an expression that is a subquery.
pub(crate) fn query_of(expression: &Expr) -> Option<&LogicalPlan> {
    match expression {
        Expr::ScalarSubquery(subquery) => Some(&subquery.subquery),
        Expr::Exists(exists) => Some(&exists.subquery.subquery),
        Expr::InSubquery(membership) => Some(&membership.subquery.subquery),
        Expr::SetComparison(comparison) => Some(&comparison.subquery.subquery),
        _ => None,
    }
}
