//! The interface between the store and the media that hold its batches, which are in [`super::overflow`].
//!
//! A batch, with its charge to the memory pool or its bytes on disk, is freed with its last [`StoredBatch`] clone.

use std::sync::Arc;

use arrow::array::RecordBatch;
use squadron_proto::Failure;

use super::disk::DiskBatch;
use super::memory::Charge;

/// Stores batches, without an order: the caller keeps the list.
pub(crate) trait BatchStore: Send + Sync {
    /// Stores `batch`, or returns it when it does not fit.
    ///
    /// # Errors
    /// When the batch fits nowhere, or its bytes cannot be written.
    fn put(&self, batch: RecordBatch) -> Result<Put, Failure>;
}

/// The outcome of [`BatchStore::put`].
#[derive(Debug)]
pub(crate) enum Put {
    /// The batch is stored.
    Stored(StoredBatch),
    /// The batch did not fit.
    Full(RecordBatch),
}

/// One stored batch; readable any number of times, freed with its last clone.
#[derive(Clone, Debug)]
pub(crate) enum StoredBatch {
    /// In memory, charged to the pool.
    Memory {
        /// The batch.
        batch: RecordBatch,
        /// Held for its drop.
        _charge: Arc<Charge>,
    },
    /// On disk; reading it blocks.
    Disk(Arc<DiskBatch>),
}

impl StoredBatch {
    /// A batch in memory, under `charge` until its last clone is dropped.
    pub(crate) fn in_memory(batch: RecordBatch, charge: Charge) -> Self {
        Self::Memory {
            batch,
            _charge: Arc::new(charge),
        }
    }

    /// The batch; blocks when it is on disk.
    #[cfg(test)]
    pub(crate) fn load(&self) -> Result<RecordBatch, Failure> {
        match self {
            Self::Memory { batch, .. } => Ok(batch.clone()),
            Self::Disk(batch) => batch.read(),
        }
    }
}
