//! From a logical plan to stages.
//!
//! ```text
//! logical plan --DataFusion--> physical plan --cut--> fragments --size--> stages --encode--> StageGraph
//!                                   |                                        ^
//!                                   `------ one worker: one fragment --------'
//! ```
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

use crate::datafusion_workarounds::guards;
use crate::plan_limits;
pub use size::{ClusterShape, SizeOptions};
pub use stages::StagedPlan;
pub use write::FileWrite;

/// A build side is broadcast up to this many bytes where statistics know its bytes, and up to this many rows where they
/// know its rows. The limits are for the copies on all workers together.
const BROADCAST_BYTES: usize = 256 * 1024 * 1024;
const BROADCAST_ROWS: usize = 8 * 1024 * 1024;

/// Plans queries for a cluster of a given shape.
#[derive(Clone, Copy, Debug)]
pub struct Planner {
    options: SizeOptions,
}

impl Planner {
    /// A planner that sizes tasks and partitions by `options`.
    pub fn new(options: SizeOptions) -> Self {
        Self { options }
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
        let logical = guards::guard(state.optimize(logical)?)?;
        let mut state = with_partitions(state, shape.slots.max(1));
        if shape.workers > 1 {
            state = with_broadcast(state, shape.workers);
        }
        let mut physical = dynamic_filters::plan_with_safe_filters(&state, &logical).await?;
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
        if let Err(reason) = check::check(&staged, &physical, &logical, state.config_options()) {
            tracing::info!(%reason, "the plan cannot be cut and runs as one task");
            return self.plan_one_task(&physical, shape);
        }
        Ok(staged)
    }

    fn plan_one_task(&self, physical: &Arc<dyn ExecutionPlan>, shape: ClusterShape) -> Result<StagedPlan> {
        stages::assemble(size::size(cut::one_fragment(physical), shape, &self.options)?)
    }
}

/// Raises DataFusion's limits for broadcasts, unless the user set them. Broadcasting a build side saves the shuffle of
/// the probe side and keeps a join's dynamic filter in the stage of the scan that it prunes, which justifies more bytes
/// than inside one process.
fn with_broadcast(mut state: SessionState, workers: usize) -> SessionState {
    let defaults = OptimizerOptions::default();
    let copies = workers.saturating_sub(1).max(1);
    let optimizer = &mut state.config_mut().options_mut().optimizer;
    let raise = |limit: &mut usize, default: usize, together: usize| {
        if *limit == default {
            *limit = default.max(together / copies);
        }
    };
    raise(
        &mut optimizer.hash_join_single_partition_threshold,
        defaults.hash_join_single_partition_threshold,
        BROADCAST_BYTES,
    );
    raise(
        &mut optimizer.hash_join_single_partition_threshold_rows,
        defaults.hash_join_single_partition_threshold_rows,
        BROADCAST_ROWS,
    );
    state
}

fn with_partitions(state: &SessionState, partitions: usize) -> SessionState {
    let mut state = state.clone();
    state.config_mut().options_mut().execution.target_partitions = partitions;
    state
}
