//! `ORDER BY ... LIMIT` keeps the batches that its first rows came in, and is charged for all that these refer to: a slice
//! of an aggregate's result refers to the whole result. Only the rows that can still be among the first go in, as copies.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{prep_null_mask_filter, take_record_batch};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::TryStreamExt;

/// `sort` over copies of the rows that can be among its first; nothing if it yields all its rows.
pub(super) fn of_first_rows(sort: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(first_rows) = sort.downcast_ref::<SortExec>().filter(|sort| sort.fetch().is_some()) else {
        return Ok(None);
    };
    let [filter] = &first_rows.dynamic_expressions_produced()[..] else {
        return Ok(None);
    };
    let candidates = CandidatesExec {
        input: Arc::clone(first_rows.input()),
        filter: Arc::clone(filter),
    };
    // The sort goes on to narrow the filter that the scans below it have.
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
    let sort = Arc::clone(sort).replace_children(vec![Arc::new(candidates)], options)?;
    Ok(Some(sort))
}

/// Passes on copies of the rows that pass a filter, which becomes narrower while rows go by.
#[derive(Debug)]
pub(crate) struct CandidatesExec {
    input: Arc<dyn ExecutionPlan>,
    filter: Arc<dyn PhysicalExpr>,
}

impl CandidatesExec {
    /// The operator whose rows it passes on.
    pub(crate) fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }
}

impl DisplayAs for CandidatesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CandidatesExec")
    }
}

impl ExecutionPlan for CandidatesExec {
    fn name(&self) -> &'static str {
        "CandidatesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        f(&self.filter)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("{} has one child", self.name());
        };
        let filter = Arc::clone(&self.filter);
        Ok(Arc::new(Self { input, filter }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let filter = Arc::clone(&self.filter);
        let rows = input.and_then(move |batch| std::future::ready(candidates(batch, filter.as_ref())));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// Copies of the rows of `batch` that pass. A batch without such rows is passed on as it is: the sort does not keep it, and
/// sees by it how far its input has come.
fn candidates(batch: RecordBatch, filter: &dyn PhysicalExpr) -> Result<RecordBatch> {
    let passes = filter.evaluate(&batch)?.into_array(batch.num_rows())?;
    let passing = passing_rows(passes.as_boolean());
    if passing.is_empty() {
        return Ok(batch);
    }
    let taken = take_record_batch(&batch, &passing)?;
    let columns = taken.columns().iter().map(|column| without_unused_bytes(column));
    Ok(RecordBatch::try_new(taken.schema(), columns.collect())?)
}

fn passing_rows(passes: &BooleanArray) -> UInt32Array {
    let without_nulls = passes.nulls().map(|_| prep_null_mask_filter(passes));
    let passes = without_nulls.as_ref().unwrap_or(passes).values();
    // A batch of more rows than that would not fit anywhere.
    let rows = passes.set_indices().map(|row| row as u32);
    rows.collect::<Vec<_>>().into()
}

/// Views refer to all bytes of the array that they were taken from.
fn without_unused_bytes(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        _ => Arc::clone(column),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, StringViewArray};
    use datafusion::catalog::memory::MemorySourceConfig;
    use datafusion::common::utils::memory::get_record_batch_memory_size;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_expr::expressions::Column;
    use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
    use datafusion::physical_plan::collect;

    use super::*;

    async fn rows(plan: Arc<dyn ExecutionPlan>, memory_bytes: usize) -> Result<Vec<RecordBatch>> {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_limit(memory_bytes, 1.0)
            .build_arc()?;
        collect(plan, Arc::new(TaskContext::default().with_runtime(runtime))).await
    }

    #[tokio::test]
    async fn first_rows_do_not_hold_what_they_were_taken_from() {
        let texts: StringViewArray = (0..60_000)
            .map(|n| Some(format!("text {} of row {n}", n * 7 % 13)))
            .collect();
        let numbers = Int32Array::from_iter_values(0..60_000);
        let columns: [(_, ArrayRef); 2] = [("text", Arc::new(texts)), ("number", Arc::new(numbers))];
        let all = RecordBatch::try_from_iter(columns).unwrap();
        // As the result of an aggregate arrives: batches that share their buffers.
        let slices: Vec<_> = (0..all.num_rows())
            .step_by(250)
            .map(|row| all.slice(row, 250))
            .collect();
        let sort = || -> Arc<dyn ExecutionPlan> {
            let source = MemorySourceConfig::try_new_exec(std::slice::from_ref(&slices), all.schema(), None).unwrap();
            let order = [("text", 0), ("number", 1)]
                .map(|(name, index)| PhysicalSortExpr::new_default(Arc::new(Column::new(name, index))));
            let sort = SortExec::new(LexOrdering::new(order).unwrap(), source);
            Arc::new(sort.with_fetch(Some(20)))
        };
        let expected = rows(sort(), usize::MAX).await.unwrap();
        let memory_bytes = get_record_batch_memory_size(&all) / 2;
        assert!(rows(sort(), memory_bytes).await.is_err(), "without copies they do");
        let copying = of_first_rows(&sort()).unwrap().unwrap();
        assert_eq!(rows(copying, memory_bytes).await.unwrap(), expected);
    }
}
