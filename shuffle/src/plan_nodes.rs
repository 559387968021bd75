//! What several steps do with nodes of a plan.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};

/// The scan of files that `plan` is, if it is one.
pub fn file_scan(plan: &dyn ExecutionPlan) -> Option<&FileScanConfig> {
    plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref()
}

/// `plan` with other inputs that have the same properties, so that none is derived anew; itself where all inputs are as before.
///
/// # Errors
/// Those of `map`, and of a node that does not take its new inputs.
pub fn map_inputs(
    plan: Arc<dyn ExecutionPlan>,
    map: impl FnMut(Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let old: Vec<_> = plan.children().into_iter().cloned().collect();
    let new = old.iter().cloned().map(map).collect::<Result<Vec<_>>>()?;
    match old.iter().zip(&new).all(|(old, new)| Arc::ptr_eq(old, new)) {
        true => Ok(plan),
        false => plan.replace_children(new, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep)),
    }
}
