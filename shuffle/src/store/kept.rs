//! The seam between the store and where its batches lie: memory, disk, or memory first and disk on overflow.
//!
//! ```text
//! Overflow --put--> MemoryStore --full--> DiskOutput --put--> SpillFile
//! ```
//!
//! Whatever a [`BatchStore`] keeps is freed, charge and bytes, when the last clone of its [`Kept`] goes.

use std::sync::Arc;

use arrow::array::RecordBatch;
use squadron_proto::Failure;

use super::disk::{DiskBatch, DiskOutput};
use super::memory::{Charge, MemoryStore};

/// Keeps batches. Order is not its business: who puts keeps the list.
pub(crate) trait BatchStore: Send + Sync {
    /// Keeps `batch`, or hands it back when there is no room for it.
    ///
    /// # Errors
    /// When the batch cannot be kept anywhere, or its bytes cannot be written.
    fn put(&self, batch: RecordBatch) -> Result<Put, Failure>;
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) enum Put {
    /// It is kept.
    Kept(Kept),
    /// It is not: no room.
    Full(RecordBatch),
}

/// One kept batch; readable any number of times, freed with its last clone.
#[derive(Clone, Debug)]
pub(crate) enum Kept {
    /// The batch itself, charged to the pool.
    Memory {
        /// The batch.
        batch: RecordBatch,
        /// Held for its drop.
        _charge: Arc<Charge>,
    },
    /// Its bytes on disk; reading them blocks.
    Disk(Arc<DiskBatch>),
}

impl Kept {
    /// The batch; blocks when it lies on disk.
    #[cfg(test)]
    pub(crate) fn load(&self) -> Result<RecordBatch, Failure> {
        match self {
            Self::Memory { batch, .. } => Ok(batch.clone()),
            Self::Disk(batch) => batch.read(),
        }
    }
}

/// Memory while there is room, then disk.
#[derive(Debug)]
pub(crate) struct Overflow {
    memory: Arc<MemoryStore>,
    disk: DiskOutput,
}

impl Overflow {
    pub(crate) fn new(memory: Arc<MemoryStore>, disk: DiskOutput) -> Self {
        Self { memory, disk }
    }
}

impl BatchStore for Overflow {
    fn put(&self, batch: RecordBatch) -> Result<Put, Failure> {
        match self.memory.put(batch)? {
            Put::Full(batch) => self.disk.put(batch),
            kept => Ok(kept),
        }
    }
}
