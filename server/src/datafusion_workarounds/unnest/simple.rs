//! Which correlated subqueries DataFusion 55.2 turns into joins that are right.
//!
//! It moves correlated conditions up to the join. That is right above projections and inner joins; above an aggregate
//! where they say that a column equals a value, once; and nowhere else.

use datafusion::common::tree_node::{TransformedResult, TreeNode};
use datafusion::common::{JoinType, Result};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Distinct, Expr, LogicalPlan, Operator};
use datafusion::optimizer::decorrelate::PullUpCorrelatedExpr;

use super::references;
use crate::plan_limits::expressions::{any_expression, contains_subquery};

/// What stands above a node of a subquery.
#[derive(Clone, Copy, Default)]
struct Above {
    /// An aggregate, or DISTINCT.
    is_aggregated: bool,
    is_filtered: bool,
}

/// Whether DataFusion's rules join the subquery as SQL means it.
pub(super) fn is_simple(query: &LogicalPlan) -> Result<bool> {
    if !is_simple_below(query, Above::default())? {
        return Ok(false);
    }
    let mut pull_up = PullUpCorrelatedExpr::new().with_need_handle_count_bug(true);
    query.clone().rewrite(&mut pull_up).data()?;
    Ok(pull_up.can_pull_up)
}

fn is_simple_below(node: &LogicalPlan, above: Above) -> Result<bool> {
    if references(node)?.is_empty() {
        return Ok(true);
    }
    let has_outer = |node: &LogicalPlan| any_expression(node, |expression| Ok(expression.contains_outer()));
    match node {
        // Conditions do not find columns under another name.
        LogicalPlan::SubqueryAlias(_) => Ok(false),
        LogicalPlan::Filter(filter) => {
            let conditions = split_conjunction(&filter.predicate);
            for condition in conditions.into_iter().filter(|condition| condition.contains_outer()) {
                if contains_subquery(condition)? || (above.is_aggregated && !equals_outer(condition)) {
                    return Ok(false);
                }
            }
            let above = Above {
                is_filtered: true,
                ..above
            };
            is_simple_below(&filter.input, above)
        }
        _ if has_outer(node)? => Ok(false),
        LogicalPlan::Projection(projection) => is_simple_below(&projection.input, above),
        LogicalPlan::Aggregate(aggregate) => {
            let is_sets = |expression: &Expr| matches!(expression, Expr::GroupingSet(_));
            let is_plain = !above.is_aggregated && !above.is_filtered && !aggregate.group_expr.iter().any(is_sets);
            Ok(is_plain && is_simple_below(&aggregate.input, aggregated())?)
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            Ok(!above.is_aggregated && is_simple_below(input, aggregated())?)
        }
        LogicalPlan::Join(join) => match join.join_type {
            JoinType::Inner => Ok(is_simple_below(&join.left, above)? && is_simple_below(&join.right, above)?),
            JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => {
                Ok(references(&join.right)?.is_empty() && is_simple_below(&join.left, above)?)
            }
            _ => Ok(false),
        },
        _ => Ok(false),
    }
}

fn aggregated() -> Above {
    Above {
        is_aggregated: true,
        is_filtered: false,
    }
}

/// Whether the condition is that something of the subquery equals something from around it.
fn equals_outer(condition: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = condition
    else {
        return false;
    };
    let is_outer = |side: &Expr| side.contains_outer() && side.column_refs().is_empty();
    let is_inner = |side: &Expr| !side.contains_outer();
    (is_outer(left) && is_inner(right)) || (is_inner(left) && is_outer(right))
}
