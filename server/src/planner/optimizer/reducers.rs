//! Semi-joins that reduce what a join over several workers exchanges.
//!
//! ```text
//! LeftSemi (o.k = l.k)               LeftSemi (o.k = l.k)
//!   O                      becomes     O
//!   L                                  LeftSemi (l.k = o.k)
//!                                        L
//!                                        O
//! ```
//!
//! A join that keeps left rows, or tells of each whether it has a partner, needs both sides in the same partitions: a copy of
//! the small left side on each worker would give its rows once for each worker. Where the left side has few keys, a semi-join
//! with these, of which each worker may have a copy, drops most rows of the right side before they are sent (Bernstein and
//! Chiu, "Using Semi-Joins to Solve Relational Queries", 1981). The rows that have the keys are read twice.

use datafusion::common::{Column, JoinType, Result};
use datafusion::logical_expr::{Expr, Join, LogicalPlan};

use super::cardinality::Estimator;
use super::joins::{drops_unmatched_right, replace_right_sides};
use super::keys::{is_repeatable, scanned_rows, sources, with_keys};
use super::relation::{Relation, matched_part};
use crate::planner::estimate::row_bytes;

/// At most this part of the right rows has a partner.
const MOST_LEFT: f64 = 0.3;

/// What is not sent has at least so many bytes, and so many for each row. A probe of the keys costs what sending 40 bytes does
/// within one machine.
const LEAST_BYTES: f64 = 16.0 * 1024.0 * 1024.0;
const LEAST_ROW_BYTES: usize = 40;

/// The rows that are read twice are at most this part of the right rows.
const MOST_READ: f64 = 0.5;

/// Reduces the right sides of the joins of `plan` whose left sides have few of their keys.
pub(super) fn reduce_exchanges(
    plan: LogicalPlan,
    estimator: Estimator<'_>,
    changes: &mut Vec<String>,
) -> Result<LogicalPlan> {
    let say = |condition| format!("semi_join_reducers: less is exchanged for {condition}");
    replace_right_sides(plan, changes, say, |join| reduced_side(join, estimator))
}

/// The right side with fewer rows, where that pays.
fn reduced_side(join: &Join, estimator: Estimator<'_>) -> Result<Option<LogicalPlan>> {
    // The smaller side of an inner join has a copy on each worker anyway.
    if join.join_type == JoinType::Inner || !drops_unmatched_right(join) || gains_nothing(&join.right) {
        return Ok(None);
    }
    let row_bytes = row_bytes(join.right.schema().as_arrow());
    if row_bytes < LEAST_ROW_BYTES {
        return Ok(None);
    }
    let Some(rows) = estimator.relation(&join.right) else {
        return Ok(None);
    };
    let most_kept = (1.0 - LEAST_BYTES / (rows.rows * row_bytes as f64)).min(MOST_LEFT);
    let mut best: Option<(f64, LogicalPlan)> = None;
    for (left, right) in &join.on {
        let (Expr::Column(left), Expr::Column(key)) = (left, right) else {
            continue;
        };
        for (keys, column) in sources(&join.left, left) {
            let Some(part) = kept_part(&rows, key, keys, &column, estimator)? else {
                continue;
            };
            let is_better = best.as_ref().is_none_or(|(least, _)| part < *least);
            if part <= most_kept && is_better && is_repeatable(keys)? {
                best = Some((part, with_keys(&join.right, key, keys, &column)?));
            }
        }
    }
    Ok(best.map(|(_, reduced)| reduced))
}

/// Whether another rule has given the side such a semi-join, or its rows are groups, whose input has been exchanged before.
fn gains_nothing(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Join(join) => join.join_type == JoinType::LeftSemi,
        LogicalPlan::Aggregate(_) => true,
        LogicalPlan::Projection(projection) => gains_nothing(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => gains_nothing(&alias.input),
        _ => false,
    }
}

/// The part of `rows` whose `key` is a value of `column` in `keys`, if it does not take too many rows to tell.
fn kept_part(
    rows: &Relation,
    key: &Column,
    keys: &LogicalPlan,
    column: &Column,
    estimator: Estimator<'_>,
) -> Result<Option<f64>> {
    let read = scanned_rows(keys, estimator)?;
    if read.is_none_or(|read| read > MOST_READ * rows.rows) {
        return Ok(None);
    }
    let pair = [(Expr::Column(key.clone()), Expr::Column(column.clone()))];
    let found = estimator.relation(keys);
    Ok(found.map(|found| matched_part(rows, &found, &pair)))
}
