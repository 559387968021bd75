//! Subqueries in the conditions of joins, moved to where they are conditions of rows.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, Result, not_impl_err};
use datafusion::logical_expr::logical_plan::{Filter, Join};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};

use super::super::unnest::references;
use crate::plan_limits::expressions::query_of;

/// Where the conditions of a join went.
pub(super) enum Moved {
    /// Above the join.
    Filter(LogicalPlan),
    /// Below it: its new inputs.
    Inputs(LogicalPlan, Vec<LogicalPlan>),
    /// Nowhere.
    No(LogicalPlan),
}

/// Moves the conditions with subqueries of a join: above an inner join; of another to the side whose rows it does not
/// keep.
///
/// # Errors
/// When such a condition speaks of the rows that the join keeps.
pub(super) fn moved(node: LogicalPlan) -> Result<Moved> {
    let LogicalPlan::Join(Join {
        filter: Some(filter), ..
    }) = &node
    else {
        return Ok(Moved::No(node));
    };
    let mut with_subqueries = Vec::new();
    let mut others = Vec::new();
    for condition in split_conjunction_owned(filter.clone()) {
        match is_moved(&condition)? {
            true => with_subqueries.push(condition),
            false => others.push(condition),
        }
    }
    let Some(condition) = conjunction(with_subqueries) else {
        return Ok(Moved::No(node));
    };
    let LogicalPlan::Join(mut join) = node else {
        return Ok(Moved::No(node));
    };
    join.filter = conjunction(others);
    match join.join_type {
        JoinType::Inner => {
            let filter = Filter::try_new(condition, Arc::new(LogicalPlan::Join(join)))?;
            Ok(Moved::Filter(LogicalPlan::Filter(filter)))
        }
        JoinType::Left if names_only(&condition, join.right.schema())? => {
            let right = filtered(&join.right, condition)?;
            let left = LogicalPlan::clone(&join.left);
            Ok(Moved::Inputs(with_some_condition(join), vec![left, right]))
        }
        JoinType::Right if names_only(&condition, join.left.schema())? => {
            let left = filtered(&join.left, condition)?;
            let right = LogicalPlan::clone(&join.right);
            Ok(Moved::Inputs(with_some_condition(join), vec![left, right]))
        }
        _ => not_impl_err!(
            "a subquery in ON of an outer join is supported where it speaks of the optional side alone; compute its value in a \
             subquery of FROM and compare that"
        ),
    }
}

/// Whether a condition has a subquery that DataFusion does not plan there: EXISTS, or one that is correlated.
fn is_moved(condition: &Expr) -> Result<bool> {
    let mut is_moved = false;
    condition.apply(|part| {
        if let Some(query) = query_of(part) {
            is_moved |= matches!(part, Expr::Exists(_)) || !references(query)?.is_empty();
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(is_moved)
}

/// Outer joins without a condition are not valid.
fn with_some_condition(mut join: Join) -> LogicalPlan {
    if join.on.is_empty() && join.filter.is_none() {
        join.filter = Some(lit(true));
    }
    LogicalPlan::Join(join)
}

fn filtered(side: &LogicalPlan, condition: Expr) -> Result<LogicalPlan> {
    LogicalPlanBuilder::from(side.clone()).filter(condition)?.build()
}

/// Whether a condition and its subqueries name columns of `schema` alone.
fn names_only(condition: &Expr, schema: &DFSchema) -> Result<bool> {
    let mut are_known = true;
    let mut check = |column: &Column| are_known &= schema.has_column(column);
    condition.apply(|part| {
        if let Expr::Column(column) = part {
            check(column);
        }
        if let Some(query) = query_of(part) {
            for reference in references(query)? {
                if let Expr::OuterReferenceColumn(_, column) = &reference {
                    check(column);
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(are_known)
}
