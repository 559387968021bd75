//! Semi-joins with the keys that one side of a join has, for the other side.

use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, JoinType, NullEquality, Result};
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, ExprSchemable, Join, JoinConstraint, LogicalPlan, Projection,
};
use squadron_shuffle::fragment::determinism::is_exact_aggregate;

use super::cardinality::Estimator;
use super::joins::kept_sides;

/// The name of the keys' column, which no table has.
const KEY: &str = "__squadron_key";

/// The expression without names.
pub(super) fn unaliased(expression: &Expr) -> &Expr {
    match expression {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// Plans within `plan` of which each value of `column` is one, with the column that has it.
pub(super) fn sources<'a>(plan: &'a LogicalPlan, column: &Column) -> Vec<(&'a LogicalPlan, Column)> {
    match plan {
        LogicalPlan::TableScan(scan) if !scan.filters.is_empty() => vec![(plan, column.clone())],
        LogicalPlan::Filter(filter) if is_table(&filter.input) => vec![(plan, column.clone())],
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

/// Whether the rows are those of a table.
fn is_table(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_table(&projection.input),
        other => matches!(other, LogicalPlan::TableScan(_)),
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

/// Whether a second evaluation gives the same rows, in whatever order they are read.
pub(super) fn is_repeatable(plan: &LogicalPlan) -> Result<bool> {
    let mut is_repeatable = true;
    plan.apply_with_subqueries(|node| {
        let depends_on_order = match node {
            LogicalPlan::Limit(_) | LogicalPlan::Window(_) | LogicalPlan::Distinct(Distinct::On(_)) => true,
            LogicalPlan::Sort(sort) => sort.fetch.is_some(),
            LogicalPlan::TableScan(scan) => scan.fetch.is_some(),
            LogicalPlan::Aggregate(aggregate) => !is_exact(aggregate)?,
            _ => false,
        };
        is_repeatable &= !depends_on_order && !node.expressions().iter().any(Expr::is_volatile);
        Ok(match is_repeatable {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    Ok(is_repeatable)
}

/// Whether the values of the groups are the same in whatever order rows come.
fn is_exact(aggregate: &Aggregate) -> Result<bool> {
    for expression in &aggregate.aggr_expr {
        let values = expression.get_type(aggregate.input.schema())?;
        match unaliased(expression) {
            Expr::AggregateFunction(call) if is_exact_aggregate(call.func.name(), &values) => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The rows that are read for `plan`, those of each scan; none where a table does not tell.
pub(super) fn scanned_rows(plan: &LogicalPlan, estimator: Estimator<'_>) -> Result<Option<f64>> {
    let mut rows = Some(0.0);
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            rows = rows
                .zip(estimator.tables.get(scan))
                .map(|(rows, table)| rows + table.rows);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(rows)
}

/// The rows of `input` whose `key` is a value of `column` in `keys`.
pub(super) fn with_keys(input: &LogicalPlan, key: &Column, keys: &LogicalPlan, column: &Column) -> Result<LogicalPlan> {
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
