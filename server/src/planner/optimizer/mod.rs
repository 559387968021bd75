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
//!
//! Each has a switch, `squadron.optimizer.NAME`, and a condition on its estimate, below which it leaves the plan alone;
//! it does nothing where a table has no statistics. The rows are the same with every rule on or off.

mod aggregates;
mod cardinality;
mod join_order;
mod joins;
mod not_in;
mod relation;
mod samples;
mod selectivity;
mod semi_joins;
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
pub(super) use self::samples::Samples;
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
}

/// Applies the rules that are on to an optimised plan.
///
/// # Errors
/// Those of the tables' providers, and of building plans.
pub(super) async fn improve(state: &SessionState, plan: LogicalPlan, samples: &Samples) -> Result<Improved> {
    let rules = SquadronOptions::of(state.config_options()).optimizer;
    let mut changes = Vec::new();
    if !has_few_nodes_and_a_join(&plan)? {
        return Ok(Improved { plan, changes });
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
    if !changes.is_empty() {
        // Joins that moved need columns elsewhere.
        let last = Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]);
        plan = last.optimize(plan, state, |_, _| {})?;
    }
    Ok(Improved { plan, changes })
}

fn has_few_nodes_and_a_join(plan: &LogicalPlan) -> Result<bool> {
    let mut nodes = 0;
    let mut has_join = false;
    plan.apply_with_subqueries(|node| {
        nodes += 1;
        has_join |= matches!(node, LogicalPlan::Join(_));
        Ok(match nodes > MAX_NODES {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(has_join && nodes <= MAX_NODES)
}
