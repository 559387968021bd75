//! `ORDER BY ... LIMIT` keeps the batches that its first rows came in, and is charged for all that these refer to: a slice
//! of an aggregate's result refers to the whole result. Only the rows that can still be among the first go in, as copies.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{prep_null_mask_filter, take_record_batch};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;

use super::adapted::{Adaptation, AdaptedExec};

const FIRST_ROWS: Adaptation = Adaptation {
    name: "FirstRowsExec",
    execute: execute_over_candidates,
};

/// `plan`, if it is a sort that yields its first rows alone, over copies of the rows that can be among them.
pub(super) fn of_first_rows(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let sort = plan.downcast_ref::<SortExec>();
    let is_affected = sort.is_some_and(|sort| sort.fetch().is_some() && filter_of(sort).is_some());
    is_affected.then(|| AdaptedExec::adapt(plan, FIRST_ROWS)).transpose()
}

/// The filter that the sort narrows while rows go by.
fn filter_of(sort: &dyn ExecutionPlan) -> Option<Arc<dyn PhysicalExpr>> {
    sort.dynamic_expressions_produced().into_iter().next()
}

fn execute_over_candidates(
    sort: &AdaptedExec,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let Some(filter) = filter_of(sort.operator()) else {
        return internal_err!("a sort has lost its filter");
    };
    sort.run(partition, Arc::clone(&context), context, |rows| {
        let schema = rows.schema();
        let rows = rows.map(move |batch| candidates(batch?, filter.as_ref()));
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    })
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
    use datafusion::physical_plan::execution_plan::reset_plan_states;

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
        let mut copying = of_first_rows(&sort()).unwrap().unwrap();
        // A recursive query resets its plan and executes it again: the filter of the first time must not remain.
        for _ in 0..2 {
            assert_eq!(rows(Arc::clone(&copying), memory_bytes).await.unwrap(), expected);
            copying = reset_plan_states(copying).unwrap();
        }
    }
}
