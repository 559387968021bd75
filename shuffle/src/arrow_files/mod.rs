//! Reads Arrow IPC files, and believes none of the sizes in them.
//!
//! ```text
//! file   ── footer ── blocks ──┐
//!                              ├── checked message ── decoder ── columns of the table, by name
//! stream ── message after message
//! ```
//!
//! Arrow's own readers allocate what a file asks for, and an allocation that fails ends the process: one damaged byte in
//! the footer of one file was enough. Here a size counts only when the file is that long. Which of the two forms a file
//! has is read from the file, so that it need not be known before.

mod layout;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::physical_plan::{ArrowSource, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use datafusion::physical_plan::ExecutionPlan;

use self::layout::ArrowFile;
use self::source::CheckedArrowSource;
use crate::plan_nodes::file_scan;

/// The columns of an Arrow file, in either form.
///
/// # Errors
/// An error of the store, or an IPC error that says what is wrong with the file, without its name.
pub async fn schema(store: &Arc<dyn ObjectStore>, object: &ObjectMeta) -> Result<SchemaRef> {
    Ok(ArrowFile::open(store, object).await?.schema)
}

/// `plan`, with its scans of Arrow files replaced by checked ones.
///
/// # Errors
/// None unless a node does not take its new children.
pub fn with_checked_scans(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let replaced = plan.transform_up(|node| {
        let Some(scan) = file_scan(node.as_ref()) else {
            return Ok(Transformed::no(node));
        };
        if !scan.file_source().is::<ArrowSource>() {
            return Ok(Transformed::no(node));
        }
        let source = CheckedArrowSource::new(Arc::clone(scan.file_source()));
        let scan = FileScanConfigBuilder::from(scan.clone()).with_source(Arc::new(source));
        Ok(Transformed::yes(DataSourceExec::from_data_source(scan.build())))
    })?;
    Ok(replaced.data)
}

fn broken(reason: &str) -> ArrowError {
    ArrowError::IpcError(format!("not a valid Arrow IPC file: {reason}"))
}
