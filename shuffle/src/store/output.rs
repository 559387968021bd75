//! One attempt's output, and the writer's side of it.
//!
//! A retained output keeps its rows until it is released. A streamed output is read once and bounded in bytes, and its
//! writer waits for space. Each partition may hold one batch regardless of the bound: a bound on all partitions
//! together would deadlock a reader that reads one of them to its end first.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use squadron_proto::control::{OutputMode, PartitionOutput};
use squadron_proto::{AttemptKey, Failure, FailureKind};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::batch_store::{BatchStore, Put, StoredBatch};
use super::memory::{self, MemoryStore};
use super::overflow::Overflow;
use super::partition::{Entry, Partition};
use super::spare::SpareOutput;
use crate::compact;

/// A writer that has waited this long for its reader is reported as waiting.
const WAITING_AFTER: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Output {
    key: AttemptKey,
    schema: SchemaRef,
    mode: OutputMode,
    partitions: BTreeMap<u32, Arc<Partition>>,
    memory: Arc<MemoryStore>,
    batches: Overflow,
    finished: AtomicBool,
    spilled_bytes: AtomicU64,
    streamed_limit: u64,
    streamed_bytes: AtomicU64,
    /// Notified when a streamed batch was read, and when no more will be.
    space_freed: Notify,
    writers: Mutex<Writers>,
    waiting: watch::Sender<bool>,
}

/// How many partitions are unfinished, and how many writers wait for their readers.
#[derive(Debug)]
struct Writers {
    unfinished: usize,
    waiting: usize,
}

/// Sizes of a finished output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The partitions that hold rows, in ascending order.
    pub partitions: Vec<PartitionOutput>,
    /// Bytes written to disk.
    pub spilled_bytes: u64,
}

impl Output {
    pub(super) fn new(
        key: AttemptKey,
        schema: SchemaRef,
        partitions: &[u32],
        mode: OutputMode,
        streamed_limit: u64,
        memory: Arc<MemoryStore>,
        batches: Overflow,
    ) -> Self {
        let partitions: BTreeMap<_, _> = partitions
            .iter()
            .map(|number| (*number, Arc::new(Partition::new(mode))))
            .collect();
        let writers = Writers {
            unfinished: partitions.len(),
            waiting: 0,
        };
        Self {
            key,
            schema,
            mode,
            partitions,
            memory,
            batches,
            finished: AtomicBool::new(false),
            spilled_bytes: AtomicU64::new(0),
            streamed_limit,
            streamed_bytes: AtomicU64::new(0),
            space_freed: Notify::new(),
            writers: Mutex::new(writers),
            waiting: watch::Sender::new(false),
        }
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) fn partition(&self, number: u32) -> Option<&Arc<Partition>> {
        self.partitions.get(&number)
    }

    /// Moves rows to disk until `is_enough`: those that are kept, and streamed ones that wait for their reader.
    pub(super) fn move_to_disk(&self, is_enough: impl Fn() -> bool) -> Result<(), Failure> {
        let waits = *self.waiting.borrow() || self.finished.load(Ordering::Acquire);
        if self.mode == OutputMode::Streamed && !waits {
            return Ok(());
        }
        for partition in self.partitions.values() {
            let mut end = usize::MAX;
            while !is_enough() {
                match partition.move_last(end, |batch| self.spill(batch))? {
                    Some(position) => end = position,
                    None => break,
                }
            }
        }
        Ok(())
    }

    fn spill(&self, batch: RecordBatch) -> Result<StoredBatch, Failure> {
        let stored = self.batches.to_disk(batch)?;
        self.count_spilled(&stored);
        Ok(stored)
    }

    fn count_spilled(&self, stored: &StoredBatch) {
        if let StoredBatch::Disk(batch) = stored {
            self.spilled_bytes.fetch_add(batch.bytes(), Ordering::Relaxed);
        }
    }

    /// Takes all rows out; readers get `failure`, writers Cancelled.
    #[must_use = "the rows are freed when they are dropped, which may wait for the disk"]
    pub(super) fn abandon(&self, failure: &Failure) -> Vec<Entry> {
        let partitions = self.partitions.values();
        let rows = partitions.flat_map(|partition| partition.fail(failure)).collect();
        self.space_freed.notify_waiters();
        rows
    }

    /// Whether rows of it may be on disk.
    pub(super) fn has_spilled(&self) -> bool {
        self.spilled_bytes.load(Ordering::Relaxed) > 0
    }

    /// Counts `entry` as read: a streamed output has space for that much more.
    pub(super) fn count_read(&self, entry: &Entry) {
        if self.mode == OutputMode::Streamed {
            self.free_space(entry.bytes);
        }
    }

    /// Ends a reader of `partition`, and frees the rows that no other reader can read.
    pub(super) fn detach(&self, partition: &Partition) {
        let unread = partition.detach();
        self.free_space(unread);
    }

    fn free_space(&self, bytes: u64) {
        self.streamed_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.space_freed.notify_waiters();
    }

    fn fail(&self, failure: &Failure) {
        if !self.finished.load(Ordering::Acquire) {
            drop(self.abandon(failure));
        }
    }

    fn find(&self, number: u32) -> Result<&Partition, Failure> {
        self.partition(number)
            .map(Arc::as_ref)
            .ok_or_else(|| Failure::internal(format!("output {} has no partition {number}", self.key)))
    }

    fn retain(&self, partition: &Partition, batch: RecordBatch) -> Result<(), Failure> {
        // Rows of a failed or released output must not be written to disk first.
        partition.is_empty()?;
        let rows = batch.num_rows() as u64;
        let bytes = compact::sliced_bytes(&batch) as u64;
        let stored = match self.batches.put(batch)? {
            Put::Stored(stored) => stored,
            Put::Full(_) => return Err(Failure::internal("a disk store without room or error")),
        };
        self.count_spilled(&stored);
        partition.append(Entry { stored, rows, bytes })
    }

    async fn stream(&self, partition: &Partition, batch: RecordBatch) -> Result<(), Failure> {
        let bytes = compact::sliced_bytes(&batch) as u64;
        let deadline = Instant::now() + WAITING_AFTER;
        let mut waiting = None;
        loop {
            let space_freed = self.space_freed.notified();
            tokio::pin!(space_freed);
            // From here on no notification is missed.
            space_freed.as_mut().enable();
            if let Some(charge) = self.admit(partition, bytes)? {
                let rows = batch.num_rows() as u64;
                let stored = StoredBatch::in_memory(batch, charge);
                // Counted before it can be read, so that the count never falls below zero.
                self.streamed_bytes.fetch_add(bytes, Ordering::Relaxed);
                let appended = partition.append(Entry { stored, rows, bytes });
                if appended.is_err() {
                    self.free_space(bytes);
                }
                return appended;
            }
            if waiting.is_none() {
                if timeout_at(deadline, space_freed.as_mut()).await.is_ok() {
                    continue;
                }
                waiting = Some(Waiting::new(self));
            }
            space_freed.await;
        }
    }

    /// The charge for one more streamed batch, or none while the output is full.
    fn admit(&self, partition: &Partition, bytes: u64) -> Result<Option<memory::Charge>, Failure> {
        let size = usize::try_from(bytes).unwrap_or(usize::MAX);
        if partition.is_empty()? {
            return Ok(Some(self.memory.charge_kept(size)));
        }
        let held = self.streamed_bytes.load(Ordering::Relaxed);
        if held.saturating_add(bytes) > self.streamed_limit {
            return Ok(None);
        }
        Ok(self.memory.try_charge_kept(size))
    }

    fn finish_partition(&self, partition: &Partition) {
        if partition.finish() {
            self.update_writers(|writers| writers.unfinished -= 1);
        }
    }

    fn finish(&self) -> Result<Written, Failure> {
        let mut written = Written {
            partitions: Vec::new(),
            spilled_bytes: self.spilled_bytes.load(Ordering::Relaxed),
        };
        for (number, partition) in &self.partitions {
            self.finish_partition(partition);
            let (rows, bytes) = partition.size()?;
            if rows > 0 {
                written.partitions.push(PartitionOutput {
                    partition: *number,
                    rows,
                    bytes,
                });
            }
        }
        self.finished.store(true, Ordering::Release);
        Ok(written)
    }

    /// Changes the counts of writers, and notifies watchers when that changes whether all writers wait.
    fn update_writers(&self, change: impl FnOnce(&mut Writers)) {
        let mut writers: MutexGuard<'_, Writers> = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut writers);
        let all_wait = writers.waiting > 0 && writers.waiting >= writers.unfinished;
        self.waiting.send_if_modified(|waiting| {
            let changed = *waiting != all_wait;
            *waiting = all_wait;
            changed
        });
    }
}

impl SpareOutput for Output {
    fn key(&self) -> AttemptKey {
        self.key
    }

    fn give_way(&self) {
        drop(self.abandon(&released(self.key)));
    }
}

/// Why an output has no more rows.
pub(super) fn released(key: AttemptKey) -> Failure {
    Failure::new(FailureKind::ShuffleLost, format!("output {key} was released")).of_outputs(vec![key])
}

/// Counts a writer as waiting until it is dropped.
struct Waiting<'a>(&'a Output);

impl<'a> Waiting<'a> {
    fn new(output: &'a Output) -> Self {
        output.update_writers(|writers| writers.waiting += 1);
        Self(output)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.update_writers(|writers| writers.waiting -= 1);
    }
}

/// Takes the rows of one attempt. Clones write to the same output; when the last one is dropped before
/// [`OutputWriter::finish`], the output fails as cancelled.
#[derive(Clone, Debug)]
pub struct OutputWriter(Arc<Unfinished>);

#[derive(Debug)]
struct Unfinished(Arc<Output>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.fail(&Failure::new(
            FailureKind::Cancelled,
            format!("attempt {} stopped before its end", self.0.key),
        ));
    }
}

impl OutputWriter {
    pub(super) fn new(output: Arc<Output>) -> Self {
        Self(Arc::new(Unfinished(output)))
    }

    /// Adds `batch` to `partition`. In streamed mode it waits while the output is full. Batches without rows are
    /// skipped. Dropping the future before its end adds nothing.
    ///
    /// # Errors
    /// Cancelled once no reader will read the rows; DiskFull when the batch fits neither into memory nor on disk;
    /// Internal for a partition that the output does not have.
    pub async fn push(&self, partition: u32, batch: RecordBatch) -> Result<(), Failure> {
        let output = &self.0.0;
        let partition = output.find(partition)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        match output.mode {
            OutputMode::Retained => output.retain(partition, batch),
            OutputMode::Streamed => output.stream(partition, batch).await,
        }
    }

    /// Completes `partition`: its readers see its end before the whole output is finished.
    pub fn finish_partition(&self, partition: u32) {
        if let Some(partition) = self.0.0.partition(partition) {
            self.0.0.finish_partition(partition);
        }
    }

    /// Completes the output.
    ///
    /// # Errors
    /// When the output failed or was released before.
    pub fn finish(&self) -> Result<Written, Failure> {
        self.0.0.finish()
    }

    /// Ends the output with `failure`: readers get it, and the rows are freed. No effect after
    /// [`OutputWriter::finish`].
    pub fn fail(&self, failure: Failure) {
        self.0.0.fail(&failure);
    }

    /// True while every partition that is not finished has waited for its reader for more than 50 ms.
    pub fn waiting(&self) -> watch::Receiver<bool> {
        self.0.0.waiting.subscribe()
    }
}
