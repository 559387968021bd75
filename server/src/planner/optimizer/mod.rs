//! Better plans, from rules over the plan that DataFusion optimised.
//!
//! DataFusion joins tables in the order in which a query names them, and computes the groups of a subquery for all keys
//! of its table, also where the query around it asks for few. The rules here see the whole query, with [`statistics`] of
//! its tables, before it is cut into stages:
//!
//! | rule | what becomes cheaper |
//! |---|---|
//! | [`semi_joins`] | `IN` and `EXISTS` filter a table before it is joined |
//! | [`aggregates`] | groups of a subquery are computed only for keys that the query asks for |
//! | [`not_in`] | `NOT IN` without NULL is joined in partitions |
//! | [`join_order`] | few rows go from join to join |
//! | [`reducers`] | workers exchange fewer rows for a join that cannot have a copy of a side on each of them |
//! | [`sides`] | the side of a join that becomes a table is the smaller one, by the same estimates |
//! | [`equal_subplans`] | what occurs twice is computed once |
//!
//! Each has a switch, `squadron.optimizer.NAME`, and a condition on its estimate, below which it leaves the plan alone;
//! it does nothing where a table has no statistics. The rows are the same with every rule on or off.

mod aggregates;
mod cardinality;
mod equal_subplans;
mod expected;
mod join_order;
mod joins;
mod keys;
mod not_in;
mod reducers;
mod relation;
mod samples;
mod selectivity;
mod semi_joins;
mod sides;
mod statistics;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::Optimizer;
use datafusion::optimizer::optimize_projections::OptimizeProjections;

use self::cardinality::Estimator;
pub(super) use self::expected::Expected;
pub(crate) use self::samples::{ColumnSketch, Samples};
use self::sides::Estimates;
use self::statistics::Tables;
use crate::settings::SquadronOptions;

/// Plans of more nodes are left alone: the rules take a time that grows with the square of the depth.
const MAX_NODES: usize = 1000;

/// A plan, and what the rules did to it.
#[derive(Debug)]
pub(super) struct Improved {
    pub(super) plan: LogicalPlan,
    /// One line for each change, beginning with the rule's name.
    pub(super) changes: Vec<String>,
    /// What was expected of its joins and groups, where there are estimates.
    pub(super) expected: Vec<Expected>,
    /// Bytes of the files that it scans, if they were asked for.
    pub(super) scanned_bytes: Option<u64>,
}

/// Applies the rules that are on to an optimised plan for so many workers.
///
/// # Errors
/// Those of the tables' providers, and of building plans.
pub(super) async fn improve(
    state: &SessionState,
    plan: LogicalPlan,
    samples: &Samples,
    workers: usize,
) -> Result<Improved> {
    let rules = SquadronOptions::of(state.config_options()).optimizer;
    let mut changes = Vec::new();
    if !has_few_nodes(&plan)? || !has_join(&plan)? {
        return Ok(Improved {
            plan,
            changes,
            expected: Vec::new(),
            scanned_bytes: None,
        });
    }
    let tables = Tables::of(&plan, samples, state).await?;
    let estimator = Estimator { tables: &tables };
    let mut plan = plan;
    if rules.not_in {
        plan = not_in::free_not_in(plan, estimator, &mut changes)?;
    }
    if rules.correlated_aggregates {
        plan = aggregates::reduce_aggregates(plan, estimator, &mut changes)?;
    }
    if rules.semi_join_placement {
        plan = semi_joins::place_semi_joins(plan, estimator, &mut changes)?;
    }
    if rules.join_order {
        plan = join_order::order_joins(plan, estimator, &mut changes)?;
    }
    if rules.semi_join_reducers && workers > 1 {
        plan = reducers::reduce_exchanges(plan, estimator, &mut changes)?;
    }
    if !changes.is_empty() {
        // Joins that moved need columns elsewhere.
        let last = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
        plan = last.optimize(plan, state, |_, _| {})?;
    }
    let mut estimates = Estimates::new(estimator, rules.join_sides);
    let (plan, _) = estimates.add(plan)?;
    Ok(Improved {
        plan,
        changes,
        expected: estimates.expected,
        scanned_bytes: Some(tables.scanned_bytes()),
    })
}

/// Marks the equal parts of a plan that is otherwise final, if that rule is on.
///
/// # Errors
/// Those of building plans.
pub(super) fn share(state: &SessionState, plan: LogicalPlan, changes: &mut Vec<String>) -> Result<LogicalPlan> {
    let is_on = SquadronOptions::of(state.config_options()).optimizer.equal_subplans;
    match is_on && has_few_nodes(&plan)? {
        true => equal_subplans::share_equal_subplans(plan, changes),
        false => Ok(plan),
    }
}

fn has_join(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::Join(_));
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

fn has_few_nodes(plan: &LogicalPlan) -> Result<bool> {
    let mut nodes = 0;
    plan.apply_with_subqueries(|_| {
        nodes += 1;
        Ok(match nodes > MAX_NODES {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(nodes <= MAX_NODES)
}
