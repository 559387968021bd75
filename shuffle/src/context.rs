//! What the plan nodes of one attempt share: an extension of its session configuration.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::{Result, internal_datafusion_err};
use datafusion::execution::TaskContext;
use squadron_proto::control::StageInput;
use squadron_proto::{AttemptKey, StageId};

use crate::{Fetcher, OutputWriter, Store};

/// The attempt that a plan runs in. Put it into the `TaskContext` with
/// `SessionConfig::with_extension(Arc::new(context))`.
pub struct AttemptContext {
    /// Which attempt.
    pub key: AttemptKey,
    /// Local partition to partition of the stage; empty when the plan runs whole and the two are the same.
    pub partitions: Vec<u32>,
    /// The outputs of the stages that this one reads.
    pub inputs: HashMap<StageId, StageInput>,
    /// The store of this process.
    pub store: Store,
    /// Reads output of other processes.
    pub fetcher: Fetcher,
    /// Takes the rows of this attempt.
    pub writer: OutputWriter,
}

impl AttemptContext {
    /// The context of the attempt that `task` belongs to.
    ///
    /// # Errors
    /// When there is none: the plan was executed outside an attempt, which is a bug.
    pub fn of(task: &TaskContext) -> Result<Arc<Self>> {
        task.session_config()
            .get_extension()
            .ok_or_else(|| internal_datafusion_err!("a shuffle node was executed outside an attempt"))
    }

    /// The partition of the stage that is `partition` of this plan.
    ///
    /// # Errors
    /// When the attempt does not run it, which is a bug.
    pub fn partition_number(&self, partition: usize) -> Result<u32> {
        if self.partitions.is_empty() {
            return u32::try_from(partition)
                .map_err(|error| internal_datafusion_err!("partition {partition}: {error}"));
        }
        let number = self.partitions.get(partition).copied();
        number.ok_or_else(|| internal_datafusion_err!("attempt {} has no partition {partition}", self.key))
    }
}
