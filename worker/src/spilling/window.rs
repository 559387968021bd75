//! Window functions within the memory that the pool grants.
//!
//! ```text
//! Chunks (WindowAggExec)       rows of complete groups, a few megabytes at a time, through a plan of their own
//! AdaptedExec (any window node) ── LateInputExec ── input
//!      `─ counts what comes out         `─ charges what goes in
//! ```
//!
//! A `WindowAggExec` takes all rows before it yields any, though rows of different groups (`PARTITION BY`) have nothing to
//! do with each other and arrive one group after another. Where there are no groups, its rows must fit into memory; now
//! the pool knows.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::{SortColumn, concat_batches, partition};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::{StreamExt, TryStreamExt, stream};

use super::adapted::{Adaptation, AdaptedExec};
use super::input::LateInputExec;

/// Complete groups go through the window functions once they have so many bytes, or earlier when the pool refuses.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// `plan`, if it is a window node, with its memory bounded or charged.
pub(super) fn bounded(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(window) = plan.downcast_ref::<WindowAggExec>() {
        let keys = window.partition_by_sort_keys()?;
        if !keys.is_empty() {
            return Ok(Some(Arc::new(WindowChunksExec {
                window: window.clone(),
                keys,
                metrics: ExecutionPlanMetricsSet::new(),
            })));
        }
    } else if !plan.is::<BoundedWindowAggExec>() {
        return Ok(None);
    }
    AdaptedExec::adapt(plan, CHARGED).map(Some)
}

fn reservation(context: &TaskContext) -> MemoryReservation {
    MemoryConsumer::new("WindowRows").register(context.memory_pool())
}

/// Runs the functions of a window node for some groups at a time.
#[derive(Debug)]
struct WindowChunksExec {
    window: WindowAggExec,
    /// By these its input is sorted (`PARTITION BY`).
    keys: Vec<PhysicalSortExpr>,
    metrics: ExecutionPlanMetricsSet,
}

impl DisplayAs for WindowChunksExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.window.fmt_as(format, f)
    }
}

impl ExecutionPlan for WindowChunksExec {
    fn name(&self) -> &'static str {
        "WindowChunksExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.window.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.window.maintains_input_order()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.window.children()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.window.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let window = Arc::new(self.window.clone()).replace_children(children, options)?;
        Ok(bounded(&window)?.unwrap_or(window))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let chunks = Chunks {
            rows: self.window.input().execute(partition, Arc::clone(&context))?,
            is_ended: false,
            complete: Group::default(),
            open: Group::default(),
            reservation: reservation(&context),
            keys: self.keys.clone(),
        };
        let window = self.window.clone();
        let count = MetricBuilder::new(&self.metrics).global_counter("chunks");
        let schema = self.window.schema();
        let rows = chunks.into_stream().map(move |chunk| {
            count.add(1);
            run(&window, chunk?, Arc::clone(&context))
        });
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let rows = rows
            .try_flatten()
            .inspect_ok(move |batch| metrics.record_output(batch.num_rows()));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Runs the window functions over complete groups.
fn run(
    window: &WindowAggExec,
    chunk: Vec<RecordBatch>,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let input = window.input();
    let rows = stream::iter(chunk).map(Ok);
    let rows = Box::pin(RecordBatchStreamAdapter::new(input.schema(), rows));
    let rows = LateInputExec::piece_with(rows, input.equivalence_properties().clone());
    let window = WindowAggExec::try_new(window.window_expr().to_vec(), Arc::new(rows), true)?;
    window.execute(0, context)
}

/// Cuts sorted rows between groups.
struct Chunks {
    rows: SendableRecordBatchStream,
    is_ended: bool,
    /// Rows of groups that have ended.
    complete: Group,
    /// Rows of the group that the last row belongs to.
    open: Group,
    reservation: MemoryReservation,
    keys: Vec<PhysicalSortExpr>,
}

/// Rows in their order.
#[derive(Default)]
struct Group {
    batches: Vec<RecordBatch>,
    bytes: usize,
}

impl Group {
    fn push(&mut self, batch: RecordBatch, bytes: usize) {
        if batch.num_rows() > 0 {
            self.batches.push(batch);
            self.bytes += bytes;
        }
    }

    fn append(&mut self, other: &mut Self) {
        self.batches.append(&mut other.batches);
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Chunks {
    fn into_stream(self) -> impl futures::Stream<Item = Result<Vec<RecordBatch>>> {
        stream::try_unfold(self, async |mut chunks| {
            let chunk = chunks.next().await?;
            Ok(chunk.map(|chunk| (chunk, chunks)))
        })
    }

    async fn next(&mut self) -> Result<Option<Vec<RecordBatch>>> {
        // What was handed out has been worked on.
        self.charge()?;
        while !self.is_ended {
            match self.rows.try_next().await? {
                Some(batch) => self.add(batch)?,
                None => {
                    self.is_ended = true;
                    self.complete.append(&mut self.open);
                }
            }
            let refused = self.charge().err();
            match refused {
                Some(error) if self.complete.batches.is_empty() => return Err(error),
                None if self.complete.bytes < CHUNK_BYTES => {}
                _ => break,
            }
        }
        let chunk = std::mem::take(&mut self.complete);
        Ok((!chunk.batches.is_empty()).then_some(chunk.batches))
    }

    /// Charges all rows and the copy that the window functions make of them.
    fn charge(&self) -> Result<()> {
        self.reservation.try_resize(2 * (self.complete.bytes + self.open.bytes))
    }

    fn add(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let bytes = get_record_batch_memory_size(&batch);
        let start = self.start_of_last_group(&batch)?;
        let Some(start) = start else {
            self.open.push(batch, bytes);
            return Ok(());
        };
        let ended = bytes / batch.num_rows() * start;
        self.complete.append(&mut self.open);
        self.complete.push(batch.slice(0, start), ended);
        self.open
            .push(batch.slice(start, batch.num_rows() - start), bytes - ended);
        Ok(())
    }

    /// The row with which the last group of `batch` starts; none if that group started before it.
    fn start_of_last_group(&self, batch: &RecordBatch) -> Result<Option<usize>> {
        let last = self.groups(batch)?.pop().unwrap_or_default();
        if last > 0 {
            return Ok(Some(last));
        }
        let Some(before) = self.open.batches.last() else {
            return Ok(None);
        };
        let border = [before.slice(before.num_rows() - 1, 1), batch.slice(0, 1)];
        let border = concat_batches(batch.schema_ref(), &border)?;
        Ok((self.groups(&border)?.len() > 1).then_some(0))
    }

    /// The row with which each group starts.
    fn groups(&self, batch: &RecordBatch) -> Result<Vec<usize>> {
        let columns = self.keys.iter().map(|key| {
            let SortColumn { values, .. } = key.evaluate_to_sort_column(batch)?;
            Ok(values)
        });
        let ranges = partition(&columns.collect::<Result<Vec<_>>>()?)?.ranges();
        Ok(ranges.into_iter().map(|range| range.start).collect())
    }
}

const CHARGED: Adaptation = Adaptation {
    name: "ChargedWindowExec",
    execute: execute_charged,
};

/// Charges the rows that the node holds: those that went in and have not come out.
fn execute_charged(
    window: &AdaptedExec,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let held = Arc::new(Held {
        reservation: reservation(&context),
        row_bytes: AtomicUsize::new(0),
    });
    let entering = Arc::clone(&held);
    let output = window.run(partition, Arc::clone(&context), context, |rows| {
        observe(rows, move |batch| entering.enter(batch))
    })?;
    Ok(observe(output, move |batch| {
        held.leave(batch.num_rows());
        Ok(())
    }))
}

/// What a partition of a window node holds.
struct Held {
    reservation: MemoryReservation,
    /// What the rows that came in last took each, with the copy that the node makes.
    row_bytes: AtomicUsize,
}

impl Held {
    fn enter(&self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let bytes = 2 * get_record_batch_memory_size(batch);
        self.row_bytes.store(bytes / batch.num_rows(), Ordering::Relaxed);
        self.reservation.try_grow(bytes)
    }

    fn leave(&self, rows: usize) {
        let bytes = rows * self.row_bytes.load(Ordering::Relaxed);
        self.reservation.shrink(bytes.min(self.reservation.size()));
    }
}

/// `rows`, each batch shown to `observer` first.
fn observe(
    rows: SendableRecordBatchStream,
    mut observer: impl FnMut(&RecordBatch) -> Result<()> + Send + 'static,
) -> SendableRecordBatchStream {
    let schema: SchemaRef = rows.schema();
    let rows = rows.map(move |batch| {
        let batch = batch?;
        observer(&batch)?;
        Ok(batch)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}
