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
//! "Cost-Based Optimization for Magic", 1996). P is scanned twice, so it must be a small part of the groups.

use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, JoinType, NullEquality, Result};
use datafusion::logical_expr::{Aggregate, Expr, Join, JoinConstraint, LogicalPlan, Projection};

use super::cardinality::Estimator;
use super::joins::{kept_sides, rewrite_joins};

/// The keys are at most this part of the groups.
const MOST_KEYS: f64 = 0.1;

/// The name of the keys' column, which no table has.
const KEY: &str = "__squadron_key";

/// Puts semi-joins below the aggregates of `plan` whose groups a join asks for few of.
pub(super) fn reduce_aggregates(
    plan: LogicalPlan,
    estimator: Estimator<'_>,
    changes: &mut Vec<String>,
) -> Result<LogicalPlan> {
    let say = |condition| format!("correlated_aggregates: groups for {condition} alone");
    rewrite_joins(plan, changes, say, |join| {
        let right = reduced_side(join, estimator)?;
        Ok(right.map(|right| {
            let mut join = join.clone();
            join.right = Arc::new(right);
            LogicalPlan::Join(join)
        }))
    })
}

/// The right side with fewer groups, where that pays.
fn reduced_side(join: &Join, estimator: Estimator<'_>) -> Result<Option<LogicalPlan>> {
    let drops_groups = matches!(
        join.join_type,
        JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti
    );
    if !drops_groups || join.null_aware || join.null_equality != NullEquality::NullEqualsNothing {
        return Ok(None);
    }
    let mut best: Option<(f64, LogicalPlan)> = None;
    for (left, right) in &join.on {
        let (Expr::Column(left), Expr::Column(right)) = (left, right) else {
            continue;
        };
        let Some((groups, key)) = grouping_key(&join.right, right, estimator) else {
            continue;
        };
        for (keys, column) in sources(&join.left, left) {
            let Some(rows) = estimator.relation(keys).map(|relation| relation.rows) else {
                continue;
            };
            let is_better = best.as_ref().is_none_or(|(least, _)| rows < *least);
            if rows <= MOST_KEYS * groups && is_better && is_repeatable(keys)? {
                let semi = |input: &LogicalPlan| with_keys(input, &key, keys, &column);
                if let Some(reduced) = replace_input(&join.right, &semi)? {
                    best = Some((rows, reduced));
                }
            }
        }
    }
    Ok(best.map(|(_, reduced)| reduced))
}

/// How many groups the aggregate below `plan` has, and the column of its input that `column` is.
fn grouping_key(plan: &LogicalPlan, column: &Column, estimator: Estimator<'_>) -> Option<(f64, Column)> {
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
            let groups = estimator.relation(plan)?.rows;
            (!has_sets).then_some((groups, key))
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

fn unaliased(expression: &Expr) -> &Expr {
    match expression {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// Plans within `plan` of which each value of `column` is one, with the column that has it.
fn sources<'a>(plan: &'a LogicalPlan, column: &Column) -> Vec<(&'a LogicalPlan, Column)> {
    match plan {
        LogicalPlan::TableScan(scan) if !scan.filters.is_empty() => vec![(plan, column.clone())],
        LogicalPlan::Filter(filter) if matches!(*filter.input, LogicalPlan::TableScan(_)) => {
            vec![(plan, column.clone())]
        }
        LogicalPlan::Filter(filter) => sources(&filter.input, column),
        LogicalPlan::Projection(projection) => {
            let place = projection.schema.maybe_index_of_column(column);
            match place.and_then(|place| projection.expr.get(place)).map(unaliased) {
                Some(Expr::Column(inner)) => sources(&projection.input, inner),
                _ => Vec::new(),
            }
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let place = alias.schema.maybe_index_of_column(column);
            place.map_or_else(Vec::new, |place| {
                let inner = alias.input.schema().qualified_field(place);
                sources(&alias.input, &Column::from(inner))
            })
        }
        LogicalPlan::Join(join) => {
            let mut found = of_sides(join, column);
            if join.join_type == JoinType::Inner && join.null_equality == NullEquality::NullEqualsNothing {
                // What is equal in each row has the same values.
                for (left, right) in &join.on {
                    match (left, right) {
                        (Expr::Column(left), Expr::Column(right)) if left == column => {
                            found.extend(of_sides(join, right));
                        }
                        (Expr::Column(left), Expr::Column(right)) if right == column => {
                            found.extend(of_sides(join, left));
                        }
                        _ => {}
                    }
                }
            }
            let is_leaf = |side: &LogicalPlan| matches!(side, LogicalPlan::TableScan(_) | LogicalPlan::Projection(_));
            // Rows that a subquery filtered.
            if join.join_type == JoinType::LeftSemi && is_leaf(&join.left) && join.left.schema().has_column(column) {
                found.push((plan, column.clone()));
            }
            found
        }
        _ => Vec::new(),
    }
}

/// [`sources`] of the sides whose values are those of the join's rows, and not NULL in their place.
fn of_sides<'a>(join: &'a Join, column: &Column) -> Vec<(&'a LogicalPlan, Column)> {
    let (from_left, from_right) = match join.join_type {
        JoinType::LeftMark => (true, false),
        other => kept_sides(other),
    };
    let sides = [(&join.left, from_left), (&join.right, from_right)];
    let side = sides
        .into_iter()
        .find(|(side, is_kept)| *is_kept && side.schema().has_column(column));
    side.map_or_else(Vec::new, |(side, _)| sources(side, column))
}

/// Whether a second evaluation gives the same rows.
fn is_repeatable(plan: &LogicalPlan) -> Result<bool> {
    let mut is_repeatable = true;
    plan.apply_with_subqueries(|node| {
        let is_cut = match node {
            LogicalPlan::Limit(_) => true,
            LogicalPlan::TableScan(scan) => scan.fetch.is_some(),
            _ => false,
        };
        is_repeatable &= !is_cut && !node.expressions().iter().any(Expr::is_volatile);
        Ok(match is_repeatable {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    Ok(is_repeatable)
}

/// The rows of `input` whose `key` is a value of `column` in `keys`.
fn with_keys(input: &LogicalPlan, key: &Column, keys: &LogicalPlan, column: &Column) -> Result<LogicalPlan> {
    let named = Expr::Column(column.clone()).alias(KEY);
    let keys = Projection::try_new(vec![named], Arc::new(keys.clone()))?;
    Ok(LogicalPlan::Join(Join::try_new(
        Arc::new(input.clone()),
        Arc::new(LogicalPlan::Projection(keys)),
        vec![(Expr::Column(key.clone()), Expr::Column(Column::from_name(KEY)))],
        None,
        JoinType::LeftSemi,
        JoinConstraint::On,
        NullEquality::NullEqualsNothing,
        false,
    )?))
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
