//! `NOT IN` over columns without NULL is a plain anti-join.
//!
//! One NULL on the right of `NOT IN` empties the result, so the join that computes it has to see all of the right side
//! before it emits a row: it has one table, on one worker. Where the metadata of the files say that neither side has a
//! NULL, nothing of this can happen, and the join may be hashed in partitions.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::logical_expr::LogicalPlan;

use super::cardinality::Estimator;
use super::semi_joins::condition;

/// Frees the anti-joins of `plan` from NULL where there is none.
pub(super) fn free_not_in(
    plan: LogicalPlan,
    estimator: Estimator<'_>,
    changes: &mut Vec<String>,
) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Join(join) = &node else {
            return Ok(Transformed::no(node));
        };
        if !join.null_aware {
            return Ok(Transformed::no(node));
        }
        let (Some(left), Some(right)) = (estimator.relation(&join.left), estimator.relation(&join.right)) else {
            return Ok(Transformed::no(node));
        };
        let is_free = |(left_key, right_key)| left.is_never_null(left_key) && right.is_never_null(right_key);
        if join.filter.is_some() || !join.on.iter().map(|(left, right)| (left, right)).all(is_free) {
            return Ok(Transformed::no(node));
        }
        changes.push(format!("not_in: no NULL in {}", condition(join)));
        let mut join = join.clone();
        join.null_aware = false;
        Ok(Transformed::yes(LogicalPlan::Join(join)))
    })
    .data()
}
