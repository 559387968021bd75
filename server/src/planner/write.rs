//! The top of a plan whose rows become files.
//!
//! ```text
//! one file:   rows --> merge --> WriteFiles
//! a folder:   rows --> [sort] --> WriteFiles --> coalesce, so that its partitions can run in different tasks
//! ```

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use squadron_shuffle::{FileTarget, WriteFilesExec};

/// How the rows of a plan are written to files.
#[derive(Clone, Debug)]
pub struct FileWrite {
    /// The folder or file, and the format.
    pub target: Arc<FileTarget>,
    /// The order that the table promises for each of its files.
    pub ordering: Option<LexOrdering>,
}

impl FileWrite {
    /// Puts the write on top of `plan`. The result lists the written files, in one partition.
    pub(super) fn apply(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = if self.target.single_file { merge(plan) } else { plan };
        let plan = self.sort(plan)?;
        let write: Arc<dyn ExecutionPlan> = Arc::new(WriteFilesExec::new(plan, Arc::clone(&self.target)));
        Ok(match write.output_partitioning().partition_count() {
            1 => write,
            _ => Arc::new(CoalescePartitionsExec::new(write)),
        })
    }

    fn sort(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(ordering) = &self.ordering else {
            return Ok(plan);
        };
        if plan.equivalence_properties().ordering_satisfy(ordering.clone())? {
            return Ok(plan);
        }
        let sort = SortExec::new(ordering.clone(), plan).with_preserve_partitioning(true);
        Ok(Arc::new(sort))
    }
}

fn merge(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if plan.output_partitioning().partition_count() == 1 {
        return plan;
    }
    match plan.output_ordering().cloned() {
        Some(ordering) => Arc::new(SortPreservingMergeExec::new(ordering, plan)),
        None => Arc::new(CoalescePartitionsExec::new(plan)),
    }
}
