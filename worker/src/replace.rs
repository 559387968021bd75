//! Replaces nodes of a plan that is about to run.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};

/// `plan` with each node, inputs first, replaced by what `replace` makes of it, which has the same properties: nothing is
/// derived anew, and nodes that share state, such as a filter that one fills and another reads, go on sharing it.
///
/// # Errors
/// Those of `replace`, and of nodes that do not take their new inputs.
pub(crate) fn replace_nodes(
    plan: Arc<dyn ExecutionPlan>,
    replace: &dyn Fn(Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let old: Vec<_> = plan.children().into_iter().cloned().collect();
    let new = old.iter().map(|input| replace_nodes(Arc::clone(input), replace));
    let new = new.collect::<Result<Vec<_>>>()?;
    let is_same = old.iter().zip(&new).all(|(old, new)| Arc::ptr_eq(old, new));
    replace(match is_same {
        true => plan,
        false => plan.replace_children(new, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))?,
    })
}
