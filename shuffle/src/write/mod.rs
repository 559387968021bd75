//! The plan node at the end of every stage: drives its input and pushes the rows to the attempt's output.
//!
//! Hash: one hash pass and one gather per batch bring the rows of each output partition together, and the rows are then
//! collected into larger batches: `n` partitions would otherwise mean batches of `1/n` the rows for all later
//! operators. Rows go to the same partitions as with DataFusion's own `RepartitionExec`, so both can feed one join.

mod collect;

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, EvaluationType, ReplaceChildrenOptions, SchedulingType,
    apply_expression_roots,
};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, Time};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::{StreamExt, TryStreamExt, stream};

use crate::compact;
use crate::conform::conform;
use crate::context::AttemptContext;
use crate::failure::into_datafusion;
use crate::store::OutputWriter;
use collect::Collector;

/// Assigns rows to partitions of the output.
#[derive(Clone, Debug)]
pub enum WritePartitioning {
    /// Partition `hash(exprs) % partitions`.
    Hash {
        /// Expressions over the input's columns.
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        /// The number of output partitions.
        partitions: usize,
    },
    /// The partition of the stage that yields the row.
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
    pub fn new(input: Arc<dyn ExecutionPlan>, partitioning: WritePartitioning, schema: SchemaRef) -> Self {
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

    /// How rows are assigned to partitions.
    pub fn partitioning(&self) -> &WritePartitioning {
        &self.partitioning
    }

    fn sink(&self, attempt: &AttemptContext, partition: usize, shuffle_time: &Time) -> Result<Sink> {
        match &self.partitioning {
            WritePartitioning::Hash { partitions: 1, .. } => Ok(Sink::Whole(0)),
            WritePartitioning::Hash { exprs, partitions } => Ok(Sink::Hash(Box::new(Collector::new(
                exprs.clone(),
                *partitions,
                Arc::clone(&self.schema),
                attempt.store.memory().reservation(),
                shuffle_time.clone(),
            )?))),
            WritePartitioning::Identity => Ok(Sink::Ending(attempt.partition_number(partition)?)),
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

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let attempt = AttemptContext::of(&context)?;
        let shuffle_time = MetricBuilder::new(&self.metrics).subset_time("shuffle_time", partition);
        let task = WriteTask {
            input: self.input.execute(partition, context)?,
            schema: Arc::clone(&self.schema),
            sink: self.sink(&attempt, partition, &shuffle_time)?,
            writer: attempt.writer.clone(),
            metrics: WriteMetrics::new(&self.metrics, partition),
        };
        let no_rows = stream::once(task.run()).try_filter_map(|()| async { Ok(None) }).boxed();
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            no_rows,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The work of one partition of the node.
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
    /// All rows go to this partition, which other partitions of the node write to as well.
    Whole(u32),
    /// All rows go to this partition, which has no other writer.
    Ending(u32),
    Hash(Box<Collector>),
}

impl WriteTask {
    async fn run(mut self) -> Result<()> {
        while let Some(batch) = self.input.try_next().await? {
            // An input that is always ready must yield the thread.
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
