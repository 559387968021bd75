//! From a logical plan to stages.
//!
//! ```text
//! logical plan --optimizer--> physical plan --cut--> fragments --size--> stages --encode--> StageGraph
//!                                  |                                        ^
//!                                  `------ one worker: not cut ------------'
//! ```
//!
//! DataFusion optimises the logical plan first, then the rules of `optimizer` do, which know how many rows there are.
//!
//! For one worker the physical plan is DataFusion's own, with partitions by the bytes that it reads, except that a part which
//! several places read is a stage. For several it is cut at its exchanges (`cut`), each fragment gets as many partitions and
//! tasks as its bytes justify (`size`), and two fragments that would run as one task are merged.

mod check;
pub mod columns;
mod cut;
mod estimate;
pub mod explain;
pub(crate) mod files;
mod joins;
mod optimizer;
pub mod schema;
mod size;
pub mod stages;
pub mod substrait;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use datafusion::config::OptimizerOptions;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use self::estimate::scan_bytes;
pub(crate) use self::optimizer::{ColumnSketch, Samples};
use self::size::whole_partitions;
use crate::datafusion_workarounds::guards;
use crate::datafusion_workarounds::patterns::call_like;
use crate::plan_limits;
use crate::plan_marks::create_physical_plan;
pub use size::{ClusterShape, SizeOptions};
pub use stages::StagedPlan;
pub use write::FileWrite;

/// A build side is broadcast up to this many bytes where statistics know its bytes, and up to this many rows where they
/// know its rows. The limits are for the copies on all workers together.
const BROADCAST_BYTES: usize = 256 * 1024 * 1024;
const BROADCAST_ROWS: usize = 8 * 1024 * 1024;

/// Within one process a build side is made once, not in partitions, up to this many bytes or rows: rows of the probe side
/// need not be exchanged, and larger tables gain from having their parts in the caches one by one.
const COLLECTED_BYTES: usize = 64 * 1024 * 1024;
const COLLECTED_ROWS: usize = 2 * 1024 * 1024;

/// Plans queries for a cluster of a given shape.
#[derive(Clone, Debug)]
pub struct Planner {
    options: SizeOptions,
    samples: Arc<Samples>,
}

impl Planner {
    /// A planner that sizes tasks and partitions by `options`.
    pub fn new(options: SizeOptions) -> Self {
        Self {
            options,
            samples: Arc::default(),
        }
    }

    /// What it has read of tables.
    pub(crate) fn samples(&self) -> &Arc<Samples> {
        &self.samples
    }

    /// Plans `logical`, which need not be optimised yet. With `write` its rows become files, and the result lists them.
    ///
    /// # Errors
    /// DataFusion's errors of optimising and planning.
    pub async fn plan(
        &self,
        state: &SessionState,
        logical: &LogicalPlan,
        shape: ClusterShape,
        write: Option<&FileWrite>,
    ) -> Result<StagedPlan> {
        plan_limits::check_plan(logical)?;
        let mut improved = optimizer::improve(state, state.optimize(logical)?, &self.samples, shape.workers).await?;
        let logical = optimizer::share(state, call_like(guards::guard(improved.plan)?)?, &mut improved.changes)?;
        let staged = self
            .stages(state, &logical, improved.scanned_bytes, shape, write)
            .await?;
        Ok(StagedPlan {
            changes: improved.changes,
            expected: improved.expected,
            scans: files::table_scans(&logical)?,
            ..staged
        })
    }

    async fn stages(
        &self,
        state: &SessionState,
        logical: &LogicalPlan,
        scanned_bytes: Option<u64>,
        shape: ClusterShape,
        write: Option<&FileWrite>,
    ) -> Result<StagedPlan> {
        let (bytes, rows) = match shape.workers {
            0 | 1 => (COLLECTED_BYTES, COLLECTED_ROWS),
            workers => (BROADCAST_BYTES / (workers - 1), BROADCAST_ROWS / (workers - 1)),
        };
        let mut state = with_build_sides(state.clone(), bytes, rows);
        let mut physical = match (shape.workers, write) {
            (0 | 1, None) => plan_whole(&mut state, logical, scanned_bytes, shape).await?,
            _ => plan_with(&mut state, logical, shape.slots.max(1)).await?,
        };
        if let Some(write) = write {
            physical = write.apply(physical)?;
        }
        if shape.workers <= 1 {
            return self.plan_one_task(&physical, shape);
        }
        let spread = joins::spread_joins(Arc::clone(&physical), shape.slots)?;
        let sized = size::size(cut::cut(&spread)?, shape, &self.options)?;
        if size::is_one_task(&sized) {
            // Cutting dropped exchanges that one worker can use to keep all its slots busy.
            return self.plan_one_task(&physical, shape);
        }
        let staged = stages::assemble(sized)?;
        if let Err(reason) = check::check(&staged, &physical, logical, state.config_options()) {
            tracing::info!(%reason, "the plan cannot be cut and runs as one task");
            return self.plan_one_task(&physical, shape);
        }
        Ok(staged)
    }

    fn plan_one_task(&self, physical: &Arc<dyn ExecutionPlan>, shape: ClusterShape) -> Result<StagedPlan> {
        stages::assemble(size::size(cut::cut_shared(physical)?, shape, &self.options)?)
    }
}

/// Raises DataFusion's limits for build sides that are made once, unless the user set them. Broadcasting a build side saves
/// the shuffle of the probe side and keeps a join's dynamic filter in the stage of the scan that it prunes, which justifies
/// more bytes than inside one process.
fn with_build_sides(mut state: SessionState, bytes: usize, rows: usize) -> SessionState {
    let defaults = OptimizerOptions::default();
    let optimizer = &mut state.config_mut().options_mut().optimizer;
    let raise = |limit: &mut usize, default: usize, least: usize| {
        if *limit == default {
            *limit = default.max(least);
        }
    };
    raise(
        &mut optimizer.hash_join_single_partition_threshold,
        defaults.hash_join_single_partition_threshold,
        bytes,
    );
    raise(
        &mut optimizer.hash_join_single_partition_threshold_rows,
        defaults.hash_join_single_partition_threshold_rows,
        rows,
    );
    state
}

/// Plans for one worker, with as many partitions as the bytes that are read justify; `scanned_bytes` where they are known
/// before. A result that is streamed from its partitions has one for each slot: rows of each wait for the client.
async fn plan_whole(
    state: &mut SessionState,
    logical: &LogicalPlan,
    scanned_bytes: Option<u64>,
    shape: ClusterShape,
) -> Result<Arc<dyn ExecutionPlan>> {
    let slots = shape.slots.max(1);
    let guess = scanned_bytes.map_or(slots, |bytes| whole_partitions(bytes, shape));
    let physical = plan_with(state, logical, guess).await?;
    let bytes = scanned_bytes.unwrap_or_else(|| scan_bytes(physical.as_ref()));
    let partitions = match physical.output_partitioning().partition_count() {
        0 | 1 => whole_partitions(bytes, shape),
        _ => slots,
    };
    match partitions == guess {
        true => Ok(physical),
        false => plan_with(state, logical, partitions).await,
    }
}

async fn plan_with(
    state: &mut SessionState,
    logical: &LogicalPlan,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    state.config_mut().options_mut().execution.target_partitions = partitions;
    create_physical_plan(state, logical).await
}
