//! Replaces nodes of a plan that is about to run.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::physical_plan::ExecutionPlan;
use squadron_shuffle::plan_nodes::map_inputs;

/// `plan` with each node, inputs first, replaced by what `replace` makes of it, which has the same properties: nothing is
/// derived anew, and nodes that share state, such as a filter that one fills and another reads, go on sharing it.
///
/// # Errors
/// Those of `replace`, and of nodes that do not take their new inputs.
pub(crate) fn replace_nodes(
    plan: Arc<dyn ExecutionPlan>,
    replace: &dyn Fn(Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    replace(map_inputs(plan, |input| replace_nodes(input, replace))?)
}
