//! Queries larger than memory: what DataFusion's operators cannot do within it.
//!
//! # Joins
//!
//! A hash join whose build side does not fit goes to disk in pieces.
//!
//! ```text
//! SpillingJoinExec (HashJoinExec) ──┬─ LateInputExec ── build side
//!        │                          └─ LateInputExec ── probe side
//!        └ collects the build side first, charged to the pool
//!            fits:         the hash join runs as planned, over the collected rows
//!            does not fit: build, then probe rows are scattered by the hash of their keys over pieces on disk, and the
//!                          pieces are joined one after another
//! ```
//!
//! A piece that still does not fit is scattered again by another hash; one that holds too many rows of too few keys is
//! joined in chunks of its build side. The smallest chunk is granted beyond the pool's limit, so a join that went to
//! disk always ends. This is the grace hash join of Kitsuregawa, Tanaka and Moto-oka, "Application of Hash to Data Base
//! Machine and Its Architecture" (1983), with the hybrid idea left out: a build side is in memory or on disk.
//!
//! Pieces mix the order of the rows. Where the plan counts on an order, the joined rows are sorted again.
//!
//! # Others
//!
//! Window functions run for some groups at a time ([`window`]); large limits become sorts ([`top`]), small ones keep
//! copies of their rows ([`candidates`]). Sorts and aggregates spill by themselves, with some help ([`granted`]).

mod adapted;
mod build;
mod candidates;
mod cap;
mod granted;
mod input;
mod join;
mod joining;
mod pieces;
mod probe;
mod scatter;
#[cfg(test)]
mod tests;
mod top;
mod window;

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;

pub(crate) use input::LateInputExec;
pub(crate) use join::SpillingJoinExec;
pub(crate) use top::with_external_sorts;

use crate::replace::replace_nodes;

/// `plan` with joins that may go to disk, windows whose memory is charged, and first rows that are copied.
pub(crate) fn with_bounded_memory(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    replace_nodes(plan, &|node| match node.downcast_ref::<HashJoinExec>() {
        Some(join) if can_spill(join) => Ok(Arc::new(SpillingJoinExec::new(join)?)),
        Some(_) => Ok(node),
        None => {
            let node = window::bounded(&node)?.unwrap_or(node);
            let node = granted::granted(&node)?.unwrap_or(node);
            Ok(candidates::of_first_rows(&node)?.unwrap_or(node))
        }
    })
}

/// `NOT IN` with a further condition asks for nulls row by row, which pieces cannot answer.
fn can_spill(join: &HashJoinExec) -> bool {
    !(join.null_aware && join.filter().is_some())
}
