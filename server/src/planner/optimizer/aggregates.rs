//! Groups are computed for the keys that a join asks for.
//!
//! ```text
//! Inner (p.k = g.k)                  Inner (p.k = g.k)
//!   ... P ...                          ... P ...
//!   Aggregate [g.k]        becomes     Aggregate [g.k]
//!     G                                  LeftSemi (g.k = p.k)
//!                                          G
//!                                          P
//! ```
//!
//! A correlated subquery such as `x < (SELECT avg(y) FROM g WHERE g.k = p.k)` becomes an aggregate of all of G. Where a
//! filter leaves few keys of P, the rows of other groups are computed to be dropped by the join. A semi-join on a column
//! of the grouping drops whole groups, of which the join would find none (the generalised magic sets of Seshadri et al.,
//! "Cost-Based Optimization for Magic", 1996). P is scanned twice, so it must be a small part of the groups, read from a
//! table that is small beside theirs.

use std::sync::Arc;

use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Aggregate, Expr, Join, LogicalPlan};

use super::cardinality::Estimator;
use super::joins::{drops_unmatched_right, replace_right_sides};
use super::keys::{is_repeatable, sources, unaliased, with_keys};

/// The keys are at most this part of the groups.
const MOST_KEYS: f64 = 0.1;
/// The keys are read from at most this part of the rows that are grouped.
const MOST_READ: f64 = 0.5;

/// Puts semi-joins below the aggregates of `plan` whose groups a join asks for few of.
pub(super) fn reduce_aggregates(
    plan: LogicalPlan,
    estimator: Estimator<'_>,
    changes: &mut Vec<String>,
) -> Result<LogicalPlan> {
    let say = |condition| format!("correlated_aggregates: groups for {condition} alone");
    replace_right_sides(plan, changes, say, |join| reduced_side(join, estimator))
}

/// The right side with fewer groups, where that pays.
fn reduced_side(join: &Join, estimator: Estimator<'_>) -> Result<Option<LogicalPlan>> {
    if !drops_unmatched_right(join) {
        return Ok(None);
    }
    let mut best: Option<(f64, LogicalPlan)> = None;
    for (left, right) in &join.on {
        let (Expr::Column(left), Expr::Column(right)) = (left, right) else {
            continue;
        };
        let Some(grouped) = grouping_key(&join.right, right, estimator) else {
            continue;
        };
        for (keys, column) in sources(&join.left, left) {
            let Some(relation) = estimator.relation(keys) else {
                continue;
            };
            let pays = relation.rows <= MOST_KEYS * grouped.groups && relation.whole <= MOST_READ * grouped.read;
            let is_better = best.as_ref().is_none_or(|(least, _)| relation.rows < *least);
            if pays && is_better && is_repeatable(keys)? {
                let semi = |input: &LogicalPlan| with_keys(input, &grouped.key, keys, &column);
                if let Some(reduced) = replace_input(&join.right, &semi)? {
                    best = Some((relation.rows, reduced));
                }
            }
        }
    }
    Ok(best.map(|(_, reduced)| reduced))
}

/// An aggregate whose groups have a key.
struct Grouped {
    groups: f64,
    /// The rows that are read for them.
    read: f64,
    /// The column of its input.
    key: Column,
}

/// The aggregate below `plan`, with the key that `column` is.
fn grouping_key(plan: &LogicalPlan, column: &Column, estimator: Estimator<'_>) -> Option<Grouped> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            let place = aggregate.schema.maybe_index_of_column(column)?;
            let key = match aggregate.group_expr.get(place)? {
                Expr::Column(key) => key.clone(),
                _ => return None,
            };
            let has_sets = aggregate
                .group_expr
                .iter()
                .any(|group| matches!(group, Expr::GroupingSet(_)));
            let input = estimator.relation(&aggregate.input)?;
            let read = input.whole;
            let groups = estimator.relation_of(plan, vec![Some(input)])?.rows;
            (!has_sets).then_some(Grouped { groups, read, key })
        }
        LogicalPlan::Projection(projection) => {
            let place = projection.schema.maybe_index_of_column(column)?;
            match unaliased(projection.expr.get(place)?) {
                Expr::Column(inner) => grouping_key(&projection.input, inner, estimator),
                _ => None,
            }
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let place = alias.schema.maybe_index_of_column(column)?;
            let inner = alias.input.schema().qualified_field(place);
            grouping_key(&alias.input, &Column::from(inner), estimator)
        }
        LogicalPlan::Filter(filter) => grouping_key(&filter.input, column, estimator),
        _ => None,
    }
}

/// `plan` with another input of its aggregate.
fn replace_input(
    plan: &LogicalPlan,
    replace: &dyn Fn(&LogicalPlan) -> Result<LogicalPlan>,
) -> Result<Option<LogicalPlan>> {
    Ok(match plan {
        LogicalPlan::Aggregate(aggregate) => {
            if aggregate.aggr_expr.iter().any(Expr::is_volatile) || !is_repeatable(&aggregate.input)? {
                return Ok(None);
            }
            Some(LogicalPlan::Aggregate(Aggregate::try_new_with_schema(
                Arc::new(replace(&aggregate.input)?),
                aggregate.group_expr.clone(),
                aggregate.aggr_expr.clone(),
                Arc::clone(&aggregate.schema),
            )?))
        }
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Filter(_) => {
            let input = plan.inputs().first().map(|input| replace_input(input, replace));
            match input.transpose()?.flatten() {
                Some(input) => Some(plan.with_new_exprs(plan.expressions(), vec![input])?),
                None => None,
            }
        }
        _ => None,
    })
}
