//! The plan node at the end of every stage: drives its input and hands the rows to the attempt's output.
//!
//! Hash: one hash pass and one gather a batch bring the rows of each output partition together; they are then collected
//! to batches of a good size, since `n` partitions would otherwise mean batches of `1/n` the rows for every operator that
//! follows. Rows go where DataFusion's own `RepartitionExec` would send them, so that both can feed one join.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::BatchCoalescer;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, EvaluationType, ReplaceChildrenOptions,
    SchedulingType, apply_expression_roots,
};
use datafusion::physical_plan::metrics::{
    Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, Time,
};
use datafusion::physical_plan::repartition::BatchPartitioner;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::{StreamExt, TryStreamExt, stream};

use crate::compact;
use crate::conform::conform;
use crate::context::AttemptContext;
use crate::failure::into_datafusion;
use crate::store::OutputWriter;

/// Rows that a hash-partitioned batch should have, and bytes that it should not exceed by much.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 1024 * 1024;
/// With many partitions, all batches in the making together should not exceed this; fewer rows than the minimum would
/// cost more than the memory is worth.
const COLLECTED_BYTES: usize = 16 * 1024 * 1024;
const MIN_BATCH_ROWS: usize = 512;

/// Which partition of the output a row goes to.
#[derive(Clone, Debug)]
pub enum WritePartitioning {
    /// Partition `hash(exprs) % partitions`.
    Hash {
        /// Over the input's columns.
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        /// How many there are.
        partitions: usize,
    },
    /// The partition of the stage that yields it.
    Identity,
}

impl fmt::Display for WritePartitioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash { exprs, partitions } => {
                write!(f, "hash([")?;
                for (index, expr) in exprs.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{expr}")?;
                }
                write!(f, "], {partitions})")
            }
            Self::Identity => write!(f, "identity"),
        }
    }
}

/// Writes the rows of its input to the attempt's output, and yields none.
#[derive(Debug)]
pub struct ShuffleWriteExec {
    input: Arc<dyn ExecutionPlan>,
    partitioning: WritePartitioning,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ShuffleWriteExec {
    /// Writes the rows of `input` with exactly `schema` (see [`conform()`]). The node has as many partitions as its
    /// input.
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        partitioning: WritePartitioning,
        schema: SchemaRef,
    ) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        )
        .with_evaluation_type(EvaluationType::Eager)
        .with_scheduling_type(SchedulingType::Cooperative);
        Self {
            input,
            partitioning,
            schema,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The plan whose rows are written.
    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    /// Where rows go.
    pub fn partitioning(&self) -> &WritePartitioning {
        &self.partitioning
    }

    fn sink(&self, attempt: &AttemptContext, partition: usize, shuffle_time: &Time) -> Result<Sink> {
        match &self.partitioning {
            WritePartitioning::Hash { partitions: 1, .. } => Ok(Sink::Whole(0)),
            WritePartitioning::Hash { exprs, partitions } => Ok(Sink::Hash(Collector {
                partitioner: BatchPartitioner::new_hash_partitioner(
                    exprs.clone(),
                    *partitions,
                    shuffle_time.clone(),
                )?,
                schema: Arc::clone(&self.schema),
                partitions: *partitions,
                collected: Vec::new(),
                reservation: attempt.store.memory().reservation(),
            })),
            WritePartitioning::Identity if attempt.partitions.is_empty() => {
                Ok(Sink::Ending(u32::try_from(partition).map_err(|error| {
                    internal_datafusion_err!("partition {partition}: {error}")
                })?))
            }
            WritePartitioning::Identity => match attempt.partitions.get(partition) {
                Some(number) => Ok(Sink::Ending(*number)),
                None => internal_err!("attempt {} has no partition {partition}", attempt.key),
            },
        }
    }
}

impl DisplayAs for ShuffleWriteExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match format {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, "ShuffleWrite: {}", self.partitioning)
            }
            DisplayFormatType::TreeRender => write!(f, "{}", self.partitioning),
        }
    }
}

impl ExecutionPlan for ShuffleWriteExec {
    fn name(&self) -> &'static str {
        "ShuffleWriteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![matches!(self.partitioning, WritePartitioning::Identity)]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        match &self.partitioning {
            WritePartitioning::Hash { exprs, .. } => apply_expression_roots(exprs, f),
            WritePartitioning::Identity => Ok(TreeNodeRecursion::Continue),
        }
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.len()) {
            (Some(input), 0) => Ok(Arc::new(Self::new(
                input,
                self.partitioning.clone(),
                Arc::clone(&self.schema),
            ))),
            _ => internal_err!("{} has one child", self.name()),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let attempt = AttemptContext::of(&context)?;
        let shuffle_time = MetricBuilder::new(&self.metrics).subset_time("shuffle_time", partition);
        let task = WriteTask {
            input: self.input.execute(partition, context)?,
            schema: Arc::clone(&self.schema),
            sink: self.sink(&attempt, partition, &shuffle_time)?,
            writer: attempt.writer.clone(),
            metrics: WriteMetrics::new(&self.metrics, partition),
        };
        let no_rows = stream::once(task.run())
            .try_filter_map(|()| async { Ok(None) })
            .boxed();
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            no_rows,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One partition of the node at work.
struct WriteTask {
    input: SendableRecordBatchStream,
    schema: SchemaRef,
    sink: Sink,
    writer: OutputWriter,
    metrics: WriteMetrics,
}

struct WriteMetrics {
    elapsed: Time,
    rows: Count,
    bytes: Count,
}

impl WriteMetrics {
    fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        Self {
            elapsed: MetricBuilder::new(metrics).elapsed_compute(partition),
            rows: MetricBuilder::new(metrics).output_rows(partition),
            bytes: MetricBuilder::new(metrics).output_bytes(partition),
        }
    }
}

enum Sink {
    /// Everything goes to this partition, as do the rows of other partitions of the node.
    Whole(u32),
    /// Everything goes to this partition, which has no other writer.
    Ending(u32),
    Hash(Collector),
}

impl WriteTask {
    async fn run(mut self) -> Result<()> {
        while let Some(batch) = self.input.try_next().await? {
            // An input that is always ready must not keep the thread.
            tokio::task::consume_budget().await;
            self.write(batch).await?;
        }
        match self.sink {
            Sink::Whole(_) => {}
            Sink::Ending(partition) => self.writer.finish_partition(partition),
            Sink::Hash(mut collector) => {
                let rest = collector.flush()?;
                push_all(&self.writer, rest).await?;
            }
        }
        Ok(())
    }

    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let timer = self.metrics.elapsed.timer();
        // Before the hash, which depends on the types of the keys.
        let batch = conform(batch, &self.schema).map_err(into_datafusion)?;
        let (rows, bytes) = (batch.num_rows(), compact::sliced_bytes(&batch));
        let full = match &mut self.sink {
            Sink::Whole(partition) | Sink::Ending(partition) => vec![(*partition, batch)],
            Sink::Hash(collector) => collector.collect(batch, bytes)?,
        };
        timer.done();
        push_all(&self.writer, full).await?;
        self.metrics.rows.add(rows);
        self.metrics.bytes.add(bytes);
        Ok(())
    }
}

async fn push_all(writer: &OutputWriter, batches: Vec<(u32, RecordBatch)>) -> Result<()> {
    for (partition, batch) in batches {
        let pushed = writer.push(partition, batch).await;
        pushed.map_err(into_datafusion)?;
    }
    Ok(())
}

/// Distributes batches by hash, and collects the rows of each output partition until they make a batch.
struct Collector {
    partitioner: BatchPartitioner,
    schema: SchemaRef,
    partitions: usize,
    /// One an output partition; made with the first batch, whose rows tell how large they may be.
    collected: Vec<Collected>,
    reservation: MemoryReservation,
}

struct Collected {
    rows: BatchCoalescer,
    bytes: usize,
}

impl Collector {
    /// Adds `batch`, of `bytes`; returns what is complete, with its partition.
    fn collect(&mut self, batch: RecordBatch, bytes: usize) -> Result<Vec<(u32, RecordBatch)>> {
        if batch.num_rows() == 0 {
            return Ok(vec![]);
        }
        let row_bytes = bytes.div_ceil(batch.num_rows()).max(1);
        if self.collected.is_empty() {
            self.prepare(row_bytes);
        }
        let mut full = Vec::new();
        for part in self.partitioner.partition_iter(batch)? {
            let (partition, rows) = part?;
            let collected = &mut self.collected[partition];
            collected.bytes += rows.num_rows() * row_bytes;
            collected.rows.push_batch(rows)?;
            if collected.bytes >= BATCH_BYTES {
                collected.rows.finish_buffered_batch()?;
            }
            if collected.take(partition as u32, &mut full) {
                collected.bytes = collected.rows.get_buffered_rows() * row_bytes;
            }
        }
        let bytes = self.collected.iter().map(|collected| collected.bytes).sum();
        if self.reservation.try_resize(bytes).is_err() {
            full.extend(self.flush()?);
        }
        Ok(full)
    }

    fn prepare(&mut self, row_bytes: usize) {
        let rows = COLLECTED_BYTES / (self.partitions * row_bytes);
        let rows = rows.clamp(MIN_BATCH_ROWS, BATCH_ROWS);
        let collected = || Collected {
            rows: BatchCoalescer::new(Arc::clone(&self.schema), rows),
            bytes: 0,
        };
        self.collected = std::iter::repeat_with(collected)
            .take(self.partitions)
            .collect();
    }

    /// What is left.
    fn flush(&mut self) -> Result<Vec<(u32, RecordBatch)>> {
        let mut rest = Vec::new();
        for (partition, collected) in (0..).zip(&mut self.collected) {
            collected.rows.finish_buffered_batch()?;
            collected.take(partition, &mut rest);
            collected.bytes = 0;
        }
        self.reservation.free();
        Ok(rest)
    }
}

impl Collected {
    /// Moves complete batches to `full`. Whether there were any.
    fn take(&mut self, partition: u32, full: &mut Vec<(u32, RecordBatch)>) -> bool {
        let before = full.len();
        while let Some(batch) = self.rows.next_completed_batch() {
            full.push((partition, batch));
        }
        full.len() > before
    }
}
