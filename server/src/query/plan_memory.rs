//! The server's own memory: the plans of queries that wait or run, results that it holds whole until they are fetched,
//! and the history. `--scheduler-memory` bounds them together.
//!
//! When a plan needs memory, the history gives way first, then results that nobody has fetched yet, the oldest first.
//! Only when the plans alone are too many is a query refused.

use squadron_proto::{Failure, FailureKind};
use squadron_scheduler::StageGraph;
use tracing::warn;

use super::Queries;

impl Queries {
    /// Reserves memory for the plan of a query.
    ///
    /// # Errors
    /// `Busy` when the plans of other queries take all there is.
    pub(super) fn reserve_plan(&self, graph: &StageGraph) -> Result<(), Failure> {
        let limit = self.parts.scheduler_memory;
        let (scheduler, records) = (&self.parts.scheduler, &self.parts.records);
        let others = scheduler.plan_bytes();
        let plans = others + graph.bytes();
        records.shrink_history(limit.saturating_sub(plans + records.ready_bytes()));
        let excess = (plans + records.ready_bytes()).saturating_sub(limit);
        if excess > 0 {
            let dropped = records.shed(excess);
            warn!(
                excess_bytes = excess,
                dropped, "scheduler memory is short: results that nobody fetched are dropped"
            );
        }
        // One alone may run, however large.
        if plans > limit && others > 0 {
            return Err(Failure::new(
                FailureKind::Busy,
                format!(
                    "the plans of the queries that run or wait take all of --scheduler-memory ({limit} bytes); run the \
                     statement again when some have ended"
                ),
            ));
        }
        Ok(())
    }
}
