//! What all partitions of a join that may go to disk share: the planned join, memory, disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::arrow::array::{Array, RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::compute::{filter_record_batch, is_not_null};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{JoinType, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation, UnboundedMemoryPool};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExprRef;
use datafusion::physical_expr_common::utils::evaluate_expressions_to_arrays;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, HashJoinExecBuilder, PartitionMode};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, SpillMetrics};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};
use squadron_shuffle::failure::into_datafusion;
use squadron_shuffle::{AttemptContext, Store};

use super::input::LateInputExec;
use super::scatter::{Scatter, SpilledRows};
use crate::engine::running_context;
use crate::yielding::YieldExec;

/// A side of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The left side, of which the join makes a table.
    Build,
    /// The right side, whose rows look for theirs in the table.
    Probe,
}

pub(super) struct Joining {
    join: Arc<HashJoinExec>,
    context: Arc<TaskContext>,
    /// For hash joins, whose memory is charged before they run.
    uncharged: Arc<TaskContext>,
    store: Store,
    /// Whether a `NOT IN` drops build rows whose key is null: a null is neither in nor not in a set that has rows.
    drops_null_keys: AtomicBool,
    metrics: SpillMetrics,
}

impl Joining {
    /// # Errors
    /// Outside of an attempt.
    pub(super) fn new(
        join: Arc<HashJoinExec>,
        context: Arc<TaskContext>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Self> {
        Ok(Self {
            join,
            uncharged: uncharged(&context),
            store: AttemptContext::of(&context)?.store.clone(),
            drops_null_keys: AtomicBool::new(false),
            metrics: SpillMetrics::new(metrics, 0),
            context,
        })
    }

    pub(super) fn join(&self) -> &HashJoinExec {
        &self.join
    }

    /// The context of the attempt.
    pub(super) fn context(&self) -> Arc<TaskContext> {
        Arc::clone(&self.context)
    }

    /// The context of hash joins, whose memory is charged here.
    pub(super) fn uncharged(&self) -> Arc<TaskContext> {
        Arc::clone(&self.uncharged)
    }

    pub(super) fn reservation(&self, name: &str) -> MemoryReservation {
        let consumer = MemoryConsumer::new(name).with_can_spill(true);
        consumer.register(self.context.memory_pool())
    }

    /// Scatters rows of a side over pieces; `level` says how often they were scattered before.
    pub(super) fn scatter(&self, side: Side, level: usize) -> Scatter {
        let reservation = self.reservation("HashJoinSpill");
        Scatter::new(
            self.keys(side),
            level,
            self.schema(side),
            self.store.spill(),
            reservation,
        )
    }

    fn schema(&self, side: Side) -> SchemaRef {
        match side {
            Side::Build => self.join.left().schema(),
            Side::Probe => self.join.right().schema(),
        }
    }

    fn keys(&self, side: Side) -> Vec<PhysicalExprRef> {
        let pairs = self.join.on().iter();
        let keys = pairs.map(|(build, probe)| match side {
            Side::Build => build,
            Side::Probe => probe,
        });
        keys.cloned().collect()
    }

    /// The rows of each piece, counted as written.
    pub(super) fn finish(&self, scatter: Scatter) -> Result<Vec<SpilledRows>> {
        let pieces = scatter.finish()?;
        self.count_spilled(&pieces);
        Ok(pieces)
    }

    fn count_spilled(&self, pieces: &[SpilledRows]) {
        let batches = || pieces.iter().flat_map(|piece| &piece.batches);
        self.metrics.spill_file_count.add(1);
        self.metrics
            .spilled_rows
            .add(pieces.iter().map(|piece| piece.rows).sum());
        let bytes: u64 = batches().map(|batch| batch.disk_bytes()).sum();
        self.metrics.spilled_bytes.add(bytes as usize);
    }

    /// Whether a key of a probe row is null.
    pub(super) fn has_null_key(&self, rows: &RecordBatch) -> Result<bool> {
        let keys = evaluate_expressions_to_arrays(&self.keys(Side::Probe), rows)?;
        Ok(keys.iter().any(|keys| keys.logical_null_count() > 0))
    }

    /// Joins build rows with probe rows.
    pub(super) fn join_rows(&self, build: SpilledRows, probe: SpilledRows) -> Result<SendableRecordBatchStream> {
        self.join_collected(self.build_rows(build), self.rows(Side::Probe, probe))
    }

    /// Joins build rows that are in memory with the rest of a probe side.
    pub(super) fn join_collected(
        &self,
        build: SendableRecordBatchStream,
        probe: SendableRecordBatchStream,
    ) -> Result<SendableRecordBatchStream> {
        self.builder(build, probe)?.build()?.execute(0, self.uncharged())
    }

    /// Joins a chunk of the build rows with all probe rows that may match them. Of a full join, all rows that have a
    /// build row.
    pub(super) fn join_build_chunk(&self, chunk: SpilledRows, probe: SpilledRows) -> Result<SendableRecordBatchStream> {
        let builder = self.builder(self.build_rows(chunk), self.rows(Side::Probe, probe))?;
        let rows = match self.join.join_type() {
            JoinType::Full => builder.with_type(JoinType::Left).build()?,
            _ => builder.build()?,
        };
        Ok(self.with_schema(rows.execute(0, self.uncharged())?))
    }

    /// Joins a chunk of the probe rows with all build rows that may match them: the table is made of probe rows.
    pub(super) fn join_probe_chunk(&self, build: SpilledRows, chunk: SpilledRows) -> Result<SendableRecordBatchStream> {
        let join = self.builder(self.build_rows(build), self.rows(Side::Probe, chunk))?;
        let swapped = join.reset_state().build()?.swap_inputs(PartitionMode::Partitioned)?;
        Ok(self.with_schema(swapped.execute(0, self.uncharged())?))
    }

    /// The rows of a full join for a chunk of the probe rows that have no match among all build rows.
    pub(super) fn unmatched_probe_rows(
        &self,
        build: SpilledRows,
        chunk: SpilledRows,
    ) -> Result<SendableRecordBatchStream> {
        let join = self.builder(self.build_rows(build), self.rows(Side::Probe, chunk))?;
        let join = join.reset_state().with_type(JoinType::RightAnti).with_projection(None);
        let swapped = join.build()?.swap_inputs(PartitionMode::Partitioned)?;
        let rows = swapped.execute(0, self.uncharged())?;
        let (joined, projection) = (self.join.join_schema().clone(), self.join.projection.clone());
        let rows = rows.map(move |unmatched| {
            let unmatched = unmatched?;
            let columns = joined.fields().len() - unmatched.num_columns();
            let nulls = joined.fields()[..columns].iter();
            let nulls = nulls.map(|field| new_null_array(field.data_type(), unmatched.num_rows()));
            let columns = nulls.chain(unmatched.columns().iter().cloned()).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(unmatched.num_rows()));
            let rows = RecordBatch::try_new_with_options(Arc::clone(&joined), columns, &options)?;
            Ok(match &projection {
                Some(projection) => rows.project(projection)?,
                None => rows,
            })
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.join.schema(), rows)))
    }

    /// The planned join, over one partition with these rows.
    fn builder(
        &self,
        build: SendableRecordBatchStream,
        probe: SendableRecordBatchStream,
    ) -> Result<HashJoinExecBuilder> {
        // The join looks at all pairs of a probe batch at once where it has a filter.
        let is_cut = self.join.filter().is_some();
        let build = Arc::new(YieldExec::new(Arc::new(LateInputExec::piece(build)), false));
        let probe = Arc::new(YieldExec::new(Arc::new(LateInputExec::piece(probe)), is_cut));
        Ok(self
            .join
            .builder()
            .with_new_children(vec![build, probe])?
            .with_partition_mode(PartitionMode::Partitioned)
            .with_null_aware(false)
            .with_fetch(None)
            .recompute_properties())
    }

    /// From here on a `NOT IN` compares with at least one row.
    pub(super) fn drop_null_keys(&self) {
        self.drops_null_keys.store(self.join.null_aware, Ordering::Relaxed);
    }

    /// Build rows from disk.
    fn build_rows(&self, rows: SpilledRows) -> SendableRecordBatchStream {
        let rows = self.rows(Side::Build, rows);
        if !self.drops_null_keys.load(Ordering::Relaxed) {
            return rows;
        }
        let keys = self.keys(Side::Build);
        let schema = rows.schema();
        let rows = rows.map(move |batch| {
            let batch = batch?;
            let keys = evaluate_expressions_to_arrays(&keys, &batch)?;
            match keys.as_slice() {
                [key] => Ok(filter_record_batch(&batch, &is_not_null(key)?)?),
                _ => Ok(batch),
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }

    fn rows(&self, side: Side, rows: SpilledRows) -> SendableRecordBatchStream {
        let batches = rows.batches.into_iter();
        let batches = batches.map(|batch| batch.read().map_err(into_datafusion));
        Box::pin(RecordBatchStreamAdapter::new(self.schema(side), stream::iter(batches)))
    }

    /// The same rows under the planned schema, which may allow nulls where these have none.
    fn with_schema(&self, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let schema = self.join.schema();
        let renamed = Arc::clone(&schema);
        let rows = rows.map(move |batch| Ok(batch?.with_schema(Arc::clone(&renamed))?));
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}

/// `context` with a memory pool that grants everything.
fn uncharged(context: &TaskContext) -> Arc<TaskContext> {
    let runtime = RuntimeEnv {
        memory_pool: Arc::new(UnboundedMemoryPool::default()),
        ..RuntimeEnv::clone(&context.runtime_env())
    };
    running_context(context.session_config().clone(), runtime)
}
