//! `NOT IN` over columns without NULL is a plain anti-join.
//!
//! One NULL on the right of `NOT IN` empties the result, so the join that computes it has to see all of the right side
//! before it emits a row: it has one table, on one worker. Where the metadata of the files say that neither side has a
//! NULL, nothing of this can happen, and the join may be hashed in partitions.

use datafusion::common::Result;
use datafusion::logical_expr::{Join, LogicalPlan};

use super::cardinality::Estimator;
use super::joins::rewrite_joins;

/// Frees the anti-joins of `plan` from NULL where there is none.
pub(super) fn free_not_in(
    plan: LogicalPlan,
    estimator: Estimator<'_>,
    changes: &mut Vec<String>,
) -> Result<LogicalPlan> {
    let say = |condition| format!("not_in: no NULL in {condition}");
    rewrite_joins(plan, changes, say, |join| {
        if !join.null_aware || !has_no_null(join, estimator) {
            return Ok(None);
        }
        let mut join = join.clone();
        join.null_aware = false;
        Ok(Some(LogicalPlan::Join(join)))
    })
}

/// Whether it is certain that no key of the join is NULL, and keys are all that it compares.
fn has_no_null(join: &Join, estimator: Estimator<'_>) -> bool {
    let (Some(left), Some(right)) = (estimator.relation(&join.left), estimator.relation(&join.right)) else {
        return false;
    };
    let mut keys = join.on.iter();
    join.filter.is_none()
        && keys.all(|(left_key, right_key)| left.is_never_null(left_key) && right.is_never_null(right_key))
}
