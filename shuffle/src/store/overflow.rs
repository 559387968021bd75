//! The media that hold batches: memory, disk, or memory first and disk on overflow.
//!
//! ```text
//! Overflow --put--> MemoryStore --full--> DiskOutput --put--> SpillFile
//! ```

use std::sync::Arc;

use arrow::array::RecordBatch;
use squadron_proto::{Failure, FailureKind};

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

    /// The same batch on disk. Where the disk is full, what nobody needs gives way.
    pub(crate) fn to_disk(&self, batch: RecordBatch) -> Result<StoredBatch, Failure> {
        loop {
            match self.disk.put(batch.clone()) {
                Ok(Put::Stored(stored)) => return Ok(stored),
                Ok(Put::Full(_)) => return Err(Failure::internal("a disk store without room or error")),
                Err(full) if full.kind == FailureKind::DiskFull && self.memory.spares().give_way() => {}
                Err(failure) => return Err(failure),
            }
        }
    }
}

impl BatchStore for Overflow {
    fn put(&self, batch: RecordBatch) -> Result<Put, Failure> {
        match self.memory.put(batch)? {
            Put::Full(batch) => self.to_disk(batch).map(Put::Stored),
            stored => Ok(stored),
        }
    }
}
