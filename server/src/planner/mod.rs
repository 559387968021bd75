//! From a logical plan to stages.
//!
//! ```text
//! logical plan --DataFusion--> physical plan --cut--> fragments --size--> stages --encode--> StageGraph
//!                                   |                                        ^
//!                                   `---- one worker: the plan, whole -------'
//! ```
//!
//! For one worker the physical plan is DataFusion's own. For several it is cut at its exchanges (`cut`), each
//! fragment gets as many partitions and tasks as its bytes are worth (`size`), and boundaries whose two
//! sides would run as one task disappear.

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

pub use size::{ClusterShape, SizeOptions};
pub use stages::StagedPlan;
pub use write::FileWrite;

/// Up to this many bytes of build side, where statistics tell bytes, and up to this many rows, where they tell rows, are
/// broadcast to all workers together; each worker more means one more copy.
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

    /// Plans `logical`, which need not be optimised yet. With `write` its rows become files, and the result tells which.
    ///
    /// # Errors
    /// What DataFusion says of the plan.
    pub async fn plan(
        &self,
        state: &SessionState,
        logical: &LogicalPlan,
        shape: ClusterShape,
        write: Option<&FileWrite>,
    ) -> Result<StagedPlan> {
        let logical = state.optimize(logical)?;
        let mut state = with_partitions(state, shape.slots.max(1));
        if shape.workers > 1 {
            state = with_broadcast(state, shape.workers);
        }
        let mut physical = dynamic_filters::plan_with_safe_filters(&state, &logical).await?;
        if let Some(write) = write {
            physical = write.over(physical)?;
        }
        if shape.workers <= 1 {
            return self.whole(&physical, shape);
        }
        let spread = joins::spread_joins(Arc::clone(&physical), shape.slots)?;
        let sized = size::size(cut::cut(&spread)?, shape, &self.options)?;
        if size::is_one_task(&sized) {
            // Cutting dropped exchanges that one worker can use to keep all its slots busy.
            return self.whole(&physical, shape);
        }
        let staged = stages::assemble(sized)?;
        if let Err(lack) = check::check(&staged, &physical, &logical, state.config_options()) {
            tracing::info!(%lack, "the plan cannot be cut and runs whole");
            return self.whole(&physical, shape);
        }
        Ok(staged)
    }

    fn whole(&self, physical: &Arc<dyn ExecutionPlan>, shape: ClusterShape) -> Result<StagedPlan> {
        stages::assemble(size::size(cut::whole(physical), shape, &self.options)?)
    }
}

/// Broadcasting a build side spares the shuffle of its probe side, and keeps a join's dynamic filter beside the scan
/// that it prunes: that is worth more bytes than inside one process. What the user set stays.
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

async fn physical_plan(state: &SessionState, optimized: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    state.query_planner().create_physical_plan(optimized, state).await
}

fn with_partitions(state: &SessionState, partitions: usize) -> SessionState {
    let mut state = state.clone();
    state.config_mut().options_mut().execution.target_partitions = partitions;
    state
}
