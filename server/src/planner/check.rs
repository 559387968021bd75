//! The last look at a staged plan. Cutting rebuilds nodes over readers that promise less than what they replace; where a
//! node then lacks something it needs, the query runs whole instead.

use std::sync::Arc;

use datafusion::common::internal_err;
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::sanity_checker::SanityCheckPlan;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::StagedPlan;

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
        if subqueries_in_a_row(stage.plan.as_ref()) > 1 {
            return internal_err!("stage {} would fill the results of a subquery twice", stage.id);
        }
    }
    let (Some(order), Some(root)) = (original.output_ordering(), staged.stages.last()) else {
        return Ok(());
    };
    let kept = root.plan.equivalence_properties().ordering_satisfy(order.clone())?;
    if asks_for_order(logical) && !kept {
        return internal_err!("the result would lose its order");
    }
    Ok(())
}

fn asks_for_order(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Limit(_) | LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => {
            plan.inputs().into_iter().all(asks_for_order)
        }
        _ => false,
    }
}

/// The most nodes on one way down that fill results of subqueries; two of them may share theirs.
fn subqueries_in_a_row(plan: &dyn ExecutionPlan) -> usize {
    let below = plan
        .children()
        .into_iter()
        .map(|child| subqueries_in_a_row(child.as_ref()))
        .max()
        .unwrap_or(0);
    below + usize::from(plan.is::<ScalarSubqueryExec>())
}
