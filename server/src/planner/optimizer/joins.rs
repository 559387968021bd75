//! What the rules about joins have in common.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::common::{JoinType, NullEquality, Result};
use datafusion::logical_expr::{Expr, Join, LogicalPlan, Projection};

/// Replaces joins of `plan`, those of subqueries too, from the bottom up. `rewrite` gives the plan in a join's place, if
/// there is a better one, and what is said of it, to which the join's condition is added: `"rule: {} earlier"`.
pub(super) fn rewrite_joins(
    plan: LogicalPlan,
    changes: &mut Vec<String>,
    say: impl Fn(String) -> String,
    rewrite: impl Fn(&Join) -> Result<Option<LogicalPlan>>,
) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Join(join) = &node else {
            return Ok(Transformed::no(node));
        };
        Ok(match rewrite(join)? {
            Some(better) => {
                changes.push(say(condition(join)));
                Transformed::yes(better)
            }
            None => Transformed::no(node),
        })
    })
    .data()
}

/// Replaces right sides of joins in the same way.
pub(super) fn replace_right_sides(
    plan: LogicalPlan,
    changes: &mut Vec<String>,
    say: impl Fn(String) -> String,
    better: impl Fn(&Join) -> Result<Option<LogicalPlan>>,
) -> Result<LogicalPlan> {
    rewrite_joins(plan, changes, say, |join| {
        let right = better(join)?;
        Ok(right.map(|right| {
            let mut join = join.clone();
            join.right = Arc::new(right);
            LogicalPlan::Join(join)
        }))
    })
}

/// The condition of a join as people read it.
fn condition(join: &Join) -> String {
    let pairs = join.on.iter().map(|(left, right)| format!("{left} = {right}"));
    pairs.collect::<Vec<_>>().join(" AND ")
}

/// Whether rows of the left, and of the right, side of a join come out of it unchanged and with no other partner than
/// those of the join, so that a filter by their columns may come before it.
pub(super) fn kept_sides(join_type: JoinType) -> (bool, bool) {
    match join_type {
        JoinType::Inner => (true, true),
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => (true, false),
        JoinType::Right => (false, true),
        _ => (false, false),
    }
}

/// Whether right rows without a partner change nothing, so that they may be dropped before the join.
pub(super) fn drops_unmatched_right(join: &Join) -> bool {
    let drops = matches!(
        join.join_type,
        JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark
    );
    drops && !join.null_aware && join.null_equality == NullEquality::NullEqualsNothing
}

/// Whether the node keeps or drops columns and does nothing else.
pub(super) fn is_columns(projection: &Projection) -> bool {
    let is_column = |expression: &Expr| matches!(expression, Expr::Column(_));
    projection.expr.iter().all(is_column)
}
