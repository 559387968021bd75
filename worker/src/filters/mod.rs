//! Conditions of filters, evaluated with less work than by DataFusion's expressions.
//!
//! | module | conditions | are evaluated |
//! |---|---|---|
//! | [`conjunction`] | `a AND b AND c` | each on the rows that are left |
//! | [`texts`] | `text = 'short'`, `text IN ('short', ...)` | as comparisons of numbers |
//!
//! A plan gets them when it is about to run. Until then it keeps DataFusion's, from which orders, keys and files to skip are
//! concluded.

mod conjunction;
#[cfg(test)]
mod tests;
mod texts;

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

use self::conjunction::in_turn;
use self::texts::compared_as_numbers;

/// `plan` with faster conditions in its filters; the rows are the same.
///
/// # Errors
/// Those of building plans.
pub(crate) fn with_fast_conditions(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = with_fast_inputs(plan)?;
    let Some(filter) = plan.downcast_ref::<FilterExec>() else {
        return Ok(plan);
    };
    let condition = fast(filter.predicate(), &filter.input().schema())?;
    if Arc::ptr_eq(&condition, filter.predicate()) {
        return Ok(plan);
    }
    let filter = FilterExecBuilder::from(filter).with_predicate(condition).build()?;
    Ok(Arc::new(filter))
}

fn fast(condition: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    in_turn(compared_as_numbers(Arc::clone(condition), schema)?)
}

fn with_fast_inputs(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let old: Vec<_> = plan.children().into_iter().cloned().collect();
    let new = old
        .iter()
        .cloned()
        .map(with_fast_conditions)
        .collect::<Result<Vec<_>>>()?;
    if old.iter().zip(&new).all(|(old, new)| Arc::ptr_eq(old, new)) {
        return Ok(plan);
    }
    // The rows are those of before, so nothing has to be derived anew.
    plan.replace_children(new, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))
}
