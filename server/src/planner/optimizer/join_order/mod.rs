//! Inner joins are done in the order that makes the fewest rows.
//!
//! DataFusion joins tables as the query names them, one after the other. Here each tree of inner joins is taken apart into
//! a [`graph`] of what is joined and by which equalities, of which [`search`] finds the cheapest order. The new order is
//! taken where it is clearly cheaper by the estimate, which errs by more than small differences.

mod graph;
mod search;

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, NullEquality, Result};
use datafusion::logical_expr::{Expr, Join, JoinConstraint, LogicalPlan, Projection};

use self::graph::{Graph, Members};
use self::search::{Tree, cheapest};
use super::cardinality::Estimator;

/// A new order costs at most this part of the old one.
const CLEARLY_CHEAPER: f64 = 0.8;

/// Puts the inner joins of `plan` in a better order.
pub(super) fn order_joins(
    plan: LogicalPlan,
    estimator: Estimator<'_>,
    changes: &mut Vec<String>,
) -> Result<LogicalPlan> {
    plan.transform_down_with_subqueries(|node| {
        if !graph::is_inner_join(&node) {
            return Ok(Transformed::no(node));
        }
        let Some(graph) = Graph::of(&node, estimator) else {
            return Ok(Transformed::no(node));
        };
        let (plan, is_new) = match reordered(&node, &graph)? {
            Some((plan, change)) => {
                changes.push(change);
                (plan, true)
            }
            None => (node, false),
        };
        // The tree has its order now; what is joined may have joins of its own.
        let within = order_within(plan, estimator, changes)?;
        Ok(Transformed::new(
            within.data,
            is_new || within.transformed,
            TreeNodeRecursion::Jump,
        ))
    })
    .data()
}

/// Orders the joins within the leaves of a tree of inner joins.
fn order_within(
    plan: LogicalPlan,
    estimator: Estimator<'_>,
    changes: &mut Vec<String>,
) -> Result<Transformed<LogicalPlan>> {
    if graph::is_inner_join(&plan) || graph::is_columns(&plan) {
        return plan.map_children(|child| order_within(child, estimator, changes));
    }
    let before = changes.len();
    let ordered = order_joins(plan, estimator, changes)?;
    Ok(Transformed::new_transformed(ordered, changes.len() > before))
}

/// The joins in the cheapest order, and what changed; none where the order is good already.
fn reordered(plan: &LogicalPlan, graph: &Graph) -> Result<Option<(LogicalPlan, String)>> {
    let Some(best) = cheapest(graph) else {
        return Ok(None);
    };
    let before = graph.cost_of_original();
    if best.cost > CLEARLY_CHEAPER * before {
        return Ok(None);
    }
    let joined = build(&best.tree, graph)?.0;
    let columns = plan.schema().columns().into_iter().map(Expr::Column).collect();
    let same_columns = LogicalPlan::Projection(Projection::try_new(columns, Arc::new(joined))?);
    let change = format!(
        "join_order: {}, at {:.0} % of the cost",
        describe(&best.tree, graph),
        100.0 * best.cost / before
    );
    Ok(Some((same_columns, change)))
}

/// The plan of a tree, and what it joins.
fn build(tree: &Tree, graph: &Graph) -> Result<(LogicalPlan, Members)> {
    let (left, right) = match tree {
        Tree::Leaf(number) => return Ok((graph.leaves[*number].plan.clone(), 1 << number)),
        Tree::Join(left, right) => (left, right),
    };
    let (left, from_left) = build(left, graph)?;
    let (right, from_right) = build(right, graph)?;
    let on = graph.keys(from_left, from_right);
    let all = from_left | from_right;
    let filters = graph.filters.iter().filter(|filter| {
        let is_covered_by = |members: Members| filter.members & !members == 0;
        is_covered_by(all) && !is_covered_by(from_left) && !is_covered_by(from_right)
    });
    let filter = filters.map(|filter| filter.condition.clone()).reduce(Expr::and);
    let join = Join::try_new(
        Arc::new(left),
        Arc::new(right),
        on,
        filter,
        JoinType::Inner,
        JoinConstraint::On,
        NullEquality::NullEqualsNothing,
        false,
    )?;
    Ok((LogicalPlan::Join(join), all))
}

/// The names of what is joined, as in `(a b) c`.
fn describe(tree: &Tree, graph: &Graph) -> String {
    match tree {
        Tree::Leaf(number) => graph.leaves[*number].name.clone(),
        Tree::Join(left, right) => {
            let right_side = describe(right, graph);
            match right.as_ref() {
                Tree::Leaf(_) => format!("{} {right_side}", describe(left, graph)),
                Tree::Join(..) => format!("{} ({right_side})", describe(left, graph)),
            }
        }
    }
}
