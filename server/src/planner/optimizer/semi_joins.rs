//! Semi-joins move below the joins whose rows they filter.
//!
//! ```text
//! LeftSemi (a.k = s.k)               Inner
//!   Inner                  becomes     LeftSemi (a.k = s.k)
//!     A                                  A
//!     B                                  S
//!   S                                  B
//! ```
//!
//! DataFusion puts the `IN` of a query above all joins of its FROM. A semi-join keeps or drops a row by columns of one
//! side alone, so it commutes with an inner join, and with an outer one on the side that is kept (Galindo-Legaria and
//! Joshi, "Orthogonal Optimization of Subqueries and Aggregation", 2001). Filtering first pays where few rows are left,
//! and costs a probe of all rows of A where the join would have left fewer.

use std::sync::Arc;

use datafusion::common::{DFSchema, JoinType, Result};
use datafusion::logical_expr::{Expr, Join, LogicalPlan};

use super::cardinality::{Estimator, has_aggregate};
use super::joins::{is_columns, kept_sides, rewrite_joins};

/// The rows that the semi-join leaves of A are at most this part of those that it would be asked for above the join.
const MOST_LEFT: f64 = 0.5;

/// Moves the semi-joins of `plan` as far down as it pays, and tells where to.
pub(super) fn place_semi_joins(
    plan: LogicalPlan,
    estimator: Estimator<'_>,
    changes: &mut Vec<String>,
) -> Result<LogicalPlan> {
    let say = |condition| format!("semi_join_placement: {condition} earlier");
    rewrite_joins(plan, changes, say, |join| {
        match is_movable(join) && pays(join, estimator) {
            true => sink(&join.left, join),
            false => Ok(None),
        }
    })
}

fn is_movable(join: &Join) -> bool {
    join.join_type == JoinType::LeftSemi && !join.on.is_empty() && !join.null_aware
}

/// Whether fewer rows go into the join below when the semi-join comes first.
fn pays(join: &Join, estimator: Estimator<'_>) -> bool {
    let Some((first, above)) = target(&join.left, join).zip(estimator.relation(&join.left)) else {
        return false;
    };
    if is_having(&join.right) {
        return true;
    }
    let alone = with_left(join, Arc::new(first.clone())).ok();
    match alone.and_then(|alone| estimator.relation(&alone)) {
        Some(left) => left.rows <= MOST_LEFT * above.rows,
        None => false,
    }
}

/// Whether the rows are groups that a condition chose.
fn is_having(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Filter(filter) => has_aggregate(&filter.input),
        LogicalPlan::Projection(projection) => is_having(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_having(&alias.input),
        _ => false,
    }
}

/// The plan below the joins of `plan` that has all columns which the semi-join compares; none if that is `plan`.
fn target<'a>(plan: &'a LogicalPlan, join: &Join) -> Option<&'a LogicalPlan> {
    let (mut next, mut found) = (plan, None);
    while let Some(below) = below(next, join) {
        if matches!(next, LogicalPlan::Join(_)) {
            found = Some(below);
        }
        next = below;
    }
    found
}

/// The input of `plan` that the semi-join may filter in the place of `plan`.
fn below<'a>(plan: &'a LogicalPlan, join: &Join) -> Option<&'a LogicalPlan> {
    match plan {
        LogicalPlan::Projection(projection) if is_columns(projection) => Some(&projection.input),
        LogicalPlan::Filter(filter) => Some(&filter.input),
        LogicalPlan::Join(inner) => {
            let (from_left, from_right) = kept_sides(inner.join_type);
            [(&inner.left, from_left), (&inner.right, from_right)]
                .into_iter()
                .find(|(side, is_kept)| *is_kept && has_columns(side.schema(), join))
                .map(|(side, _)| side.as_ref())
        }
        _ => None,
    }
}

/// Whether all that the semi-join compares with its right side is in `schema`.
fn has_columns(schema: &DFSchema, join: &Join) -> bool {
    let keys = join.on.iter().flat_map(|(left, _)| left.column_refs());
    let right = join.right.schema();
    let filter = join.filter.iter().flat_map(Expr::column_refs);
    let compared = filter.filter(|column| !right.has_column(column));
    keys.chain(compared).all(|column| schema.has_column(column))
}

/// `plan` with the semi-join as far below as it goes; none if it stays on top.
fn sink(plan: &LogicalPlan, join: &Join) -> Result<Option<LogicalPlan>> {
    let Some(next) = below(plan, join) else {
        return Ok(None);
    };
    let sunk = match sink(next, join)? {
        Some(sunk) => sunk,
        None if matches!(plan, LogicalPlan::Join(_)) => with_left(join, Arc::new(next.clone()))?,
        None => return Ok(None),
    };
    Ok(Some(match plan {
        LogicalPlan::Join(inner) => {
            let mut inner = inner.clone();
            match std::ptr::eq(inner.left.as_ref(), next) {
                true => inner.left = Arc::new(sunk),
                false => inner.right = Arc::new(sunk),
            }
            LogicalPlan::Join(inner)
        }
        other => other.with_new_exprs(other.expressions(), vec![sunk])?,
    }))
}

/// The semi-join with another left side.
fn with_left(join: &Join, left: Arc<LogicalPlan>) -> Result<LogicalPlan> {
    Ok(LogicalPlan::Join(Join::try_new(
        left,
        Arc::clone(&join.right),
        join.on.clone(),
        join.filter.clone(),
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?))
}
