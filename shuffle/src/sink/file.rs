//! One file while it is written.

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

/// Batches that wait for the encoder of one file.
const QUEUED_BATCHES: usize = 2;

/// A file that takes rows. Dropped before [`OpenFile::finish`], its writing stops.
pub(super) struct OpenFile {
    path: Path,
    folder: Path,
    rows: u64,
    /// Bytes of the rows before they were encoded.
    pub(super) raw_bytes: usize,
    /// When it was last written to.
    pub(super) used: u64,
    batches: mpsc::Sender<RecordBatch>,
    written: SpawnedTask<Result<u64>>,
    /// For what the store's writer buffers.
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
            used: 0,
            batches,
            written: SpawnedTask::spawn(async move { sink.write_all(rows, &context).await }),
            buffer,
        }
    }

    /// Reserves memory for a batch of `bytes` more, of which the store's writer keeps `most`.
    ///
    /// # Errors
    /// When the memory pool says no.
    pub(super) fn reserve(&self, bytes: usize, most: usize) -> Result<()> {
        let wanted = self.raw_bytes.saturating_add(bytes).min(most);
        self.buffer.try_resize(wanted)
    }

    /// Appends a batch; waits while the encoder is busy. An encoder that failed says why in [`OpenFile::finish`].
    ///
    /// # Errors
    /// None but that the encoder has ended.
    pub(super) async fn push(&mut self, batch: RecordBatch, bytes: usize) -> std::result::Result<(), Ended> {
        self.rows += batch.num_rows() as u64;
        self.raw_bytes = self.raw_bytes.saturating_add(bytes);
        self.batches.send(batch).await.map_err(|_| Ended)
    }

    /// Completes the file, which is in the store when this returns.
    ///
    /// # Errors
    /// Why a row could not be encoded or the file not be written.
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
pub(super) struct Ended;
