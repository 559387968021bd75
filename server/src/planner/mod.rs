//! From a logical plan to stages.
//!
//! ```text
//! logical plan --optimizer--> physical plan --cut--> fragments --size--> stages --encode--> StageGraph
//!                                  |                                        ^
//!                                  `------ one worker: one fragment --------'
//! ```
//!
//! DataFusion optimises the logical plan first, then the rules of `optimizer` do, which know how many rows there are.
//!
//! For one worker the physical plan is DataFusion's own. For several it is cut at its exchanges (`cut`), each fragment
//! gets as many partitions and tasks as its bytes justify (`size`), and two fragments that would run as one task
//! are merged.

mod check;
pub mod columns;
mod cut;
mod dynamic_filters;
mod estimate;
pub mod explain;
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
use datafusion::physical_plan::ExecutionPlan;

use self::optimizer::Samples;
use crate::datafusion_workarounds::guards;
use crate::plan_limits;
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
        let improved = optimizer::improve(state, state.optimize(logical)?, &self.samples).await?;
        let logical = guards::guard(improved.plan)?;
        let staged = self.stages(state, &logical, shape, write).await?;
        Ok(StagedPlan {
            changes: improved.changes,
            ..staged
        })
    }

    async fn stages(
        &self,
        state: &SessionState,
        logical: &LogicalPlan,
        shape: ClusterShape,
        write: Option<&FileWrite>,
    ) -> Result<StagedPlan> {
        let mut state = with_partitions(state, shape.slots.max(1));
        let (bytes, rows) = match shape.workers {
            0 | 1 => (COLLECTED_BYTES, COLLECTED_ROWS),
            workers => (BROADCAST_BYTES / (workers - 1), BROADCAST_ROWS / (workers - 1)),
        };
        state = with_build_sides(state, bytes, rows);
        let mut physical = dynamic_filters::plan_with_safe_filters(&state, logical).await?;
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
        stages::assemble(size::size(cut::one_fragment(physical), shape, &self.options)?)
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

fn with_partitions(state: &SessionState, partitions: usize) -> SessionState {
    let mut state = state.clone();
    state.config_mut().options_mut().execution.target_partitions = partitions;
    state
}
