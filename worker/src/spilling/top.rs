//! `ORDER BY ... LIMIT` with many rows: DataFusion keeps the first rows in memory and cannot spill them, but it can sort.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;

/// First rows that would take more than one part in so many of the memory are sorted with all others.
const TOP_SHARE: usize = 16;

/// As many batches as DataFusion may keep for the first rows in them, however few these are; they may take one part in
/// so many of the memory.
const KEPT_BATCHES: usize = 4;
const KEPT_SHARE: usize = 2;

/// What a value without a fixed width is taken to have, in bytes.
const VALUE_BYTES: usize = 32;

/// `plan` with a sort and a limit in place of each sort that would keep too much in `memory_bytes` for the first rows of
/// batches of `batch_size`.
pub(crate) fn with_external_sorts(
    plan: Arc<dyn ExecutionPlan>,
    memory_bytes: usize,
    batch_size: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let sorted = plan.transform_up(|node| {
        let Some((sort, fetch)) = node
            .downcast_ref::<SortExec>()
            .and_then(|sort| Some((sort, sort.fetch()?)))
        else {
            return Ok(Transformed::no(node));
        };
        let row_bytes = row_bytes(&node.schema());
        let fits = row_bytes.saturating_mul(fetch) <= memory_bytes / TOP_SHARE
            && row_bytes.saturating_mul(KEPT_BATCHES * batch_size) <= memory_bytes / KEPT_SHARE;
        if fits {
            return Ok(Transformed::no(node));
        }
        let external = SortExec::new(sort.expr().clone(), Arc::clone(sort.input()))
            .with_preserve_partitioning(sort.preserve_partitioning());
        Ok(Transformed::yes(Arc::new(LocalLimitExec::new(
            Arc::new(external),
            fetch,
        ))))
    });
    Ok(sorted?.data)
}

fn row_bytes(schema: &Schema) -> usize {
    let value_bytes = |kind: &DataType| kind.primitive_width().unwrap_or(VALUE_BYTES);
    schema.fields().iter().map(|field| value_bytes(field.data_type())).sum()
}
