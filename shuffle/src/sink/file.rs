//! One file that is being written.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::datasource::sink::DataSink;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{TryFutureExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::mpsc;

use super::StagedFile;

/// How many batches may wait for the encoder of one file.
const QUEUED_BATCHES: usize = 2;

/// A file that takes rows. Dropping it before [`OpenFile::finish`] stops the write.
pub(super) struct OpenFile {
    path: Path,
    folder: Path,
    rows: u64,
    /// Bytes of the rows before they were encoded.
    pub(super) raw_bytes: usize,
    /// The number of the push that last wrote to it.
    pub(super) last_push: u64,
    batches: mpsc::Sender<RecordBatch>,
    written: SpawnedTask<Result<u64>>,
    /// The memory that the store's writer buffers.
    buffer: MemoryReservation,
}

impl OpenFile {
    pub(super) fn new(
        path: Path,
        folder: Path,
        schema: SchemaRef,
        sink: Arc<dyn DataSink>,
        buffer: MemoryReservation,
        context: Arc<TaskContext>,
    ) -> Self {
        let (batches, queue) = mpsc::channel(QUEUED_BATCHES);
        let rows = stream::unfold(queue, |mut queue| async move {
            queue.recv().await.map(|batch| (Ok(batch), queue))
        });
        let rows = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
        Self {
            path,
            folder,
            rows: 0,
            raw_bytes: 0,
            last_push: 0,
            batches,
            written: SpawnedTask::spawn(async move { sink.write_all(rows, &context).await }),
            buffer,
        }
    }

    /// Reserves memory for a batch of `bytes` more; the store's writer buffers `max_bytes` of the file at most.
    ///
    /// # Errors
    /// When the memory pool refuses.
    pub(super) fn reserve(&self, bytes: usize, max_bytes: usize) -> Result<()> {
        let wanted = self.raw_bytes.saturating_add(bytes).min(max_bytes);
        self.buffer.try_resize(wanted)
    }

    /// Appends a batch; waits while the encoder is busy.
    ///
    /// # Errors
    /// When the encoder has ended; [`OpenFile::finish`] returns its error.
    pub(super) async fn push(&mut self, batch: RecordBatch, bytes: usize) -> std::result::Result<(), EncoderEnded> {
        self.rows += batch.num_rows() as u64;
        self.raw_bytes = self.raw_bytes.saturating_add(bytes);
        self.batches.send(batch).await.map_err(|_| EncoderEnded)
    }

    /// Completes the file, which is in the store when this returns.
    ///
    /// # Errors
    /// When a row could not be encoded or the file not be written.
    pub(super) async fn finish(self, store: &dyn ObjectStore) -> Result<StagedFile> {
        drop(self.batches);
        let counted = self
            .written
            .join_unwind()
            .map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))
            .await??;
        if counted != self.rows {
            return Err(internal_datafusion_err!(
                "{counted} of {} rows are in {}",
                self.rows,
                self.path
            ));
        }
        let bytes = store.head(&self.path).await?.size;
        Ok(StagedFile {
            path: self.path,
            folder: self.folder,
            rows: self.rows,
            bytes,
        })
    }
}

/// The encoder takes no more rows.
#[derive(Debug)]
pub(super) struct EncoderEnded;
