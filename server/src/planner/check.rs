//! The final check of a staged plan. Cutting replaces the inputs of nodes by shuffle reads, which guarantee less order
//! and distribution; where a node then lacks something it needs, the query runs as one task instead.

use std::sync::Arc;

use datafusion::common::internal_err;
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::stages::StagedPlan;

/// Checks that every stage has what its nodes need, and that `staged` keeps the order of `original` where the query,
/// `logical`, asks for one.
///
/// # Errors
/// What is missing.
pub(super) fn check(
    staged: &StagedPlan,
    original: &Arc<dyn ExecutionPlan>,
    logical: &LogicalPlan,
    options: &ConfigOptions,
) -> Result<()> {
    for stage in &staged.stages {
        SanityCheckPlan::new().optimize(Arc::clone(&stage.plan), options)?;
        if nested_subqueries(stage.plan.as_ref()) > 1 {
            return internal_err!("stage {} would fill the results of a subquery twice", stage.id);
        }
    }
    let (Some(order), Some(root)) = (original.output_ordering(), staged.stages.last()) else {
        return Ok(());
    };
    let keeps_order = root.plan.equivalence_properties().ordering_satisfy(order.clone())?;
    if requires_order(logical) && !keeps_order {
        return internal_err!("the result would lose its order");
    }
    Ok(())
}

fn requires_order(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Limit(_) | LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => {
            plan.inputs().into_iter().all(requires_order)
        }
        _ => false,
    }
}

/// The largest number of nodes on a path from the root that fill results of subqueries. Two on one path may share
/// results.
fn nested_subqueries(plan: &dyn ExecutionPlan) -> usize {
    let below = plan
        .children()
        .into_iter()
        .map(|child| nested_subqueries(child.as_ref()))
        .max()
        .unwrap_or(0);
    below + usize::from(plan.is::<ScalarSubqueryExec>())
}
