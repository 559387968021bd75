//! Rows that an operator puts on disk and reads again, in order.

use std::sync::Arc;

use arrow::array::RecordBatch;
use squadron_proto::Failure;

use super::disk::{DiskBatch, SpillFile};
use crate::compact;

/// A spill file of one operator. Its disk space is free again when all batches written to it are dropped.
#[derive(Clone, Debug)]
pub struct Spill(Arc<SpillFile>);

/// One batch on disk; freed with its last clone.
#[derive(Clone, Debug)]
pub struct SpilledBatch {
    batch: Arc<DiskBatch>,
    memory_bytes: usize,
}

impl Spill {
    pub(super) fn new(file: Arc<SpillFile>) -> Self {
        Self(file)
    }

    /// Writes a batch. Blocks the thread.
    ///
    /// # Errors
    /// DiskFull when the disk or its limit is full, Storage when it fails; the folder and the flag are named.
    pub fn write(&self, batch: &RecordBatch) -> Result<SpilledBatch, Failure> {
        Ok(SpilledBatch {
            memory_bytes: compact::sliced_bytes(batch),
            batch: Arc::new(DiskBatch::write(batch, &self.0)?),
        })
    }
}

impl SpilledBatch {
    /// Rows in the batch.
    pub fn rows(&self) -> usize {
        self.batch.rows()
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.batch.bytes()
    }

    /// Bytes that the batch takes in memory once it is read.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Reads the batch as it was written. Blocks the thread.
    ///
    /// # Errors
    /// Storage when the disk fails or the bytes are not those that were written.
    pub fn read(&self) -> Result<RecordBatch, Failure> {
        self.batch.read()
    }
}
