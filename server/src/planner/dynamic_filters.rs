//! When a plan may use DataFusion's dynamic filters.
//!
//! DataFusion 55.2 pushes a join's dynamic filter down by column *name*: where two columns share a name, the filter may
//! hit the wrong one and drop rows (apache/datafusion#25244). A plan that could meet this is planned again without
//! dynamic filters. Between processes they cannot work at all, so plans in several stages go without.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;

use super::physical_plan;

/// Plans with dynamic filters where they are safe, else without.
pub(super) async fn plan_with_safe_filters(
    state: &SessionState,
    optimized: &LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = physical_plan(state, optimized).await?;
    if produces_filters(plan.as_ref()) && has_ambiguous_columns(plan.as_ref()) {
        return physical_plan(&without(state), optimized).await;
    }
    Ok(plan)
}

/// The same session without dynamic filters.
pub(super) fn without(state: &SessionState) -> SessionState {
    let mut state = state.clone();
    let optimizer = &mut state.config_mut().options_mut().optimizer;
    // Operators read the keys of their own; the common key only sets these three.
    optimizer.enable_dynamic_filter_pushdown = false;
    optimizer.enable_join_dynamic_filter_pushdown = false;
    optimizer.enable_topk_dynamic_filter_pushdown = false;
    optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    state
}

fn produces_filters(plan: &dyn ExecutionPlan) -> bool {
    !plan.dynamic_expressions_produced().is_empty()
        || plan
            .children()
            .into_iter()
            .any(|child| produces_filters(child.as_ref()))
}

/// Whether some node, or some pair of inputs that meet in a node, has two columns of one name.
fn has_ambiguous_columns(plan: &dyn ExecutionPlan) -> bool {
    repeats(&[plan])
        || repeats(
            &plan
                .children()
                .into_iter()
                .map(AsRef::as_ref)
                .collect::<Vec<_>>(),
        ) && !is_union(plan)
        || plan
            .children()
            .into_iter()
            .any(|child| has_ambiguous_columns(child.as_ref()))
}

/// The inputs of a union have equal names by their nature, and no column of one is a column of another.
fn is_union(plan: &dyn ExecutionPlan) -> bool {
    use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
    plan.is::<UnionExec>() || plan.is::<InterleaveExec>()
}

fn repeats(plans: &[&dyn ExecutionPlan]) -> bool {
    let mut seen = HashSet::new();
    plans.iter().any(|plan| {
        plan.schema()
            .fields()
            .iter()
            .any(|field| !seen.insert(field.name().clone()))
    })
}
