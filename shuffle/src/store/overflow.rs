//! The media that hold batches: memory, disk, or memory first and disk on overflow.
//!
//! ```text
//! Overflow --put--> MemoryStore --full--> DiskOutput --put--> SpillFile
//! ```

use std::sync::Arc;

use arrow::array::RecordBatch;
use squadron_proto::Failure;

use super::batch_store::{BatchStore, Put, StoredBatch};
use super::disk::{DiskBatch, SpillFile};
use super::memory::MemoryStore;
use crate::{compact, failure};

impl BatchStore for MemoryStore {
    fn put(&self, batch: RecordBatch) -> Result<Put, Failure> {
        let batch = compact::compact(batch).map_err(|error| failure::arrow(&error))?;
        Ok(match self.try_charge_kept(compact::held_bytes(&batch)) {
            Some(charge) => Put::Stored(StoredBatch::in_memory(batch, charge)),
            None => Put::Full(batch),
        })
    }
}

/// The disk side of one output.
#[derive(Debug)]
pub(crate) struct DiskOutput {
    file: Arc<SpillFile>,
}

impl DiskOutput {
    pub(crate) fn new(file: Arc<SpillFile>) -> Self {
        Self { file }
    }
}

impl BatchStore for DiskOutput {
    fn put(&self, batch: RecordBatch) -> Result<Put, Failure> {
        let batch = DiskBatch::write(&batch, &self.file)?;
        Ok(Put::Stored(StoredBatch::Disk(Arc::new(batch))))
    }
}

/// Memory while it has space, then disk.
#[derive(Debug)]
pub(crate) struct Overflow {
    memory: Arc<MemoryStore>,
    disk: DiskOutput,
}

impl Overflow {
    pub(crate) fn new(memory: Arc<MemoryStore>, disk: DiskOutput) -> Self {
        Self { memory, disk }
    }

    /// The same batch on disk.
    pub(crate) fn to_disk(&self, batch: RecordBatch) -> Result<StoredBatch, Failure> {
        match self.disk.put(batch)? {
            Put::Stored(stored) => Ok(stored),
            Put::Full(_) => Err(Failure::internal("a disk store without room or error")),
        }
    }
}

impl BatchStore for Overflow {
    fn put(&self, batch: RecordBatch) -> Result<Put, Failure> {
        match self.memory.put(batch)? {
            Put::Full(batch) => self.disk.put(batch),
            stored => Ok(stored),
        }
    }
}
