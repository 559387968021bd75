//! When a plan may use DataFusion's dynamic filters.
//!
//! DataFusion 55.2 pushes a filter down by column *name* (apache/datafusion#25244, #25296): where the name means
//! another column further down, the filter is applied to that column and drops rows. A plan in which any name is
//! ambiguous is planned again without dynamic filters. The remaining filters work within a stage; a filter whose
//! producer and consumer are in different stages is never filled, which costs pruning alone.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::JoinType;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};

/// Plans with dynamic filters where they are safe, else without.
pub(super) async fn plan_with_safe_filters(
    state: &SessionState,
    optimized: &LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = create_physical_plan(state, optimized).await?;
    if produces_filters(plan.as_ref()) && has_ambiguous_columns(plan.as_ref()) {
        return create_physical_plan(&disable_dynamic_filters(state), optimized).await;
    }
    Ok(plan)
}

/// DataFusion's physical plan, with dynamic filters as the session sets them.
pub(super) async fn create_physical_plan(
    state: &SessionState,
    optimized: &LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>> {
    state.query_planner().create_physical_plan(optimized, state).await
}

/// The same session without dynamic filters.
fn disable_dynamic_filters(state: &SessionState) -> SessionState {
    let mut state = state.clone();
    let optimizer = &mut state.config_mut().options_mut().optimizer;
    // Each operator reads its own key; the common key only sets the other three.
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

/// Whether, anywhere in the plan, the name of an output column could find another column of an input.
fn has_ambiguous_columns(plan: &dyn ExecutionPlan) -> bool {
    has_duplicate_names(&plan.schema())
        || plan.downcast_ref::<HashJoinExec>().is_some_and(semi_join_is_ambiguous)
        || plan.downcast_ref::<AggregateExec>().is_some_and(aggregate_is_ambiguous)
        || (plan.is::<UnionExec>() || plan.is::<InterleaveExec>()) && union_is_ambiguous(plan)
        || plan
            .children()
            .into_iter()
            .any(|child| has_ambiguous_columns(child.as_ref()))
}

fn has_duplicate_names(schema: &Schema) -> bool {
    let mut seen = HashSet::new();
    schema.fields().iter().any(|field| !seen.insert(field.name()))
}

/// A semi join pushes filters on the keys of one side to the other side too, under the names of the first.
fn semi_join_is_ambiguous(join: &HashJoinExec) -> bool {
    join.on().iter().any(|(left, right)| match join.join_type() {
        JoinType::LeftSemi => finds_another(left, &join.right().schema(), right),
        JoinType::RightSemi => finds_another(right, &join.left().schema(), left),
        _ => false,
    })
}

fn aggregate_is_ambiguous(aggregate: &AggregateExec) -> bool {
    let input = aggregate.input().schema();
    aggregate
        .group_expr()
        .expr()
        .iter()
        .any(|(expr, name)| name_finds_another(name, &input, expr))
}

/// The columns of a union stand for those of its inputs by position.
fn union_is_ambiguous(plan: &dyn ExecutionPlan) -> bool {
    let output = plan.schema();
    plan.children().into_iter().any(|child| {
        let input = child.schema();
        output
            .fields()
            .iter()
            .enumerate()
            .any(|(position, field)| input.index_of(field.name()).is_ok_and(|found| found != position))
    })
}

fn finds_another(named: &Arc<dyn PhysicalExpr>, schema: &Schema, meant: &Arc<dyn PhysicalExpr>) -> bool {
    named
        .downcast_ref::<Column>()
        .is_some_and(|column| name_finds_another(column.name(), schema, meant))
}

/// Whether `name` exists in `schema` as a column other than `meant`.
fn name_finds_another(name: &str, schema: &Schema, meant: &Arc<dyn PhysicalExpr>) -> bool {
    schema.index_of(name).is_ok_and(|found| {
        meant
            .downcast_ref::<Column>()
            .is_none_or(|column| column.index() != found)
    })
}
