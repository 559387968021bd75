//! The sides of joins are marked with the rows that are expected of them, by which the physical plan builds the smaller one.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::logical_expr::{Join, LogicalPlan};

use super::cardinality::Estimator;
use crate::plan_marks::{Mark, mark};
use crate::planner::estimate::row_bytes;

/// Marks both sides of each join, where both can be estimated: an estimate is only good beside another of its kind.
pub(super) fn estimate_sides(plan: LogicalPlan, estimator: Estimator<'_>) -> Result<LogicalPlan> {
    let marked = plan.transform_down_with_subqueries(|node| {
        let LogicalPlan::Join(join) = node else {
            return Ok(Transformed::no(node));
        };
        let sides = estimator.relation(&join.left).zip(estimator.relation(&join.right));
        let Some((left, right)) = sides else {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        };
        let estimated = |rows, side: Arc<LogicalPlan>| {
            let estimate = Mark::estimated(rows, row_bytes(side.schema().as_arrow()));
            Arc::new(mark(estimate, Arc::unwrap_or_clone(side)))
        };
        Ok(Transformed::yes(LogicalPlan::Join(Join {
            left: estimated(left.rows, join.left),
            right: estimated(right.rows, join.right),
            ..join
        })))
    });
    marked.data()
}
