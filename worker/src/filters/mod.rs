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
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};

use self::conjunction::in_turn;
use self::texts::compared_as_numbers;
use crate::replace::replace_nodes;

/// `plan` with faster conditions in its filters; the rows are the same.
///
/// # Errors
/// Those of building plans.
pub(crate) fn with_fast_conditions(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    replace_nodes(plan, &|node| {
        let Some(filter) = node.downcast_ref::<FilterExec>() else {
            return Ok(node);
        };
        let condition = fast(filter.predicate(), &filter.input().schema())?;
        if Arc::ptr_eq(&condition, filter.predicate()) {
            return Ok(node);
        }
        let filter = FilterExecBuilder::from(filter).with_predicate(condition).build()?;
        Ok(Arc::new(filter))
    })
}

fn fast(condition: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    in_turn(compared_as_numbers(Arc::clone(condition), schema)?)
}
