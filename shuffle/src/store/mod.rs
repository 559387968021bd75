//! Stores the output of attempts for its readers: in memory first, and on local disk when the memory pool refuses.
//!
//! ```text
//! Store ── Output (one attempt) ── Partition ── StoredBatch ── memory, charged to the pool
//!   |           ^        ^                                `──── block of the output's spill file
//!   |      OutputWriter  PartitionReader (may attach while the writer still writes)
//! ```
//!
//! Invariants: a partition ends for its readers only after its writer finished it; the batches of one writer keep their
//! order; every stored batch is charged to the pool or counted against the disk limit, and freed when the output is
//! released, fails, or (streamed) is read. Output that nobody needs is kept while there is room (`spare`).

mod batch_store;
mod disk;
#[cfg(test)]
mod disk_tests;
mod folder;
mod memory;
mod operator_files;
mod output;
mod overflow;
mod partition;
mod reader;
mod spare;
#[cfg(test)]
mod spare_tests;
mod spill;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use datafusion::execution::TempFileFactory;
use datafusion::execution::memory_pool::MemoryPool;
use squadron_proto::control::{OutputMode, Release};
use squadron_proto::{AttemptKey, AttemptNumber, Failure, FailureKind, QueryId, StageId, TaskId};

use disk::DiskStore;
pub(crate) use disk::{Block, SpillFile};
use folder::Folder;
pub(crate) use memory::{Charge, MemoryStore};
use operator_files::OperatorFiles;
use output::{Output, released};
pub use output::{OutputWriter, Written};
use overflow::{DiskOutput, Overflow};
use partition::Entry;
pub use reader::PartitionReader;
pub use spill::{Spill, SpilledBatch};

/// Where batches spill, and the limits of a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The store creates a folder of its own inside this one for its spill files.
    pub spill_dir: PathBuf,
    /// How many bytes a streamed output holds before its writer waits.
    pub streamed_bytes: usize,
    /// How many bytes may be on disk.
    pub max_spill_bytes: u64,
}

/// What a store holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Bytes charged to the memory pool.
    pub memory_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Outputs that are not released yet.
    pub outputs: usize,
}

/// So many bytes of memory are freed in moments.
const FREED_AT_ONCE: u64 = 64 * 1024 * 1024;

/// Rows that nobody reads any more, and the outputs that they were in. Dropping it frees memory and files, which takes a
/// slow disk seconds.
#[derive(Debug, Default)]
#[must_use = "rows are freed when this is dropped"]
pub struct Removed {
    rows: Vec<Entry>,
    outputs: Vec<(AttemptKey, Arc<Output>)>,
}

impl Removed {
    /// Which outputs.
    pub fn keys(&self) -> impl Iterator<Item = AttemptKey> + '_ {
        self.outputs.iter().map(|(key, _)| *key)
    }

    /// Whether freeing the rows takes long: some are on disk, or they are many.
    pub fn takes_long_to_free(&self) -> bool {
        let bytes: u64 = self.rows.iter().map(|entry| entry.bytes).sum();
        bytes > FREED_AT_ONCE || self.outputs.iter().any(|(_, output)| output.has_spilled())
    }

    fn add(&mut self, key: AttemptKey, output: Arc<Output>, failure: &Failure) {
        self.rows.extend(output.abandon(failure));
        self.outputs.push((key, output));
    }
}

/// The outputs of this process's attempts. Clones are the same store; the last one removes its spill folder.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory: Arc<MemoryStore>,
    disk: Arc<DiskStore>,
    streamed_bytes: usize,
    outputs: Mutex<BTreeMap<AttemptKey, Arc<Output>>>,
    /// Locked while rows are moved to disk.
    moving: Mutex<()>,
}

impl Store {
    /// A store whose memory is charged to `pool`. Of a limited pool it takes at most half. Folders left in
    /// `options.spill_dir` by processes that were killed are removed.
    ///
    /// # Errors
    /// When the spill folder cannot be used.
    pub fn new(pool: Arc<dyn MemoryPool>, options: StoreOptions) -> Result<Self, Failure> {
        let folder = Folder::create(&options.spill_dir)?;
        Ok(Self(Arc::new(Inner {
            memory: Arc::new(MemoryStore::new(&pool)),
            disk: Arc::new(DiskStore::new(folder, options.max_spill_bytes)),
            streamed_bytes: options.streamed_bytes,
            outputs: Mutex::default(),
            moving: Mutex::default(),
        })))
    }

    /// Creates the output of an attempt, which will write these `partitions`.
    ///
    /// # Errors
    /// When the output exists already.
    pub fn create(
        &self,
        key: AttemptKey,
        schema: SchemaRef,
        partitions: Vec<u32>,
        mode: OutputMode,
    ) -> Result<OutputWriter, Failure> {
        let mut outputs = self.outputs();
        if outputs.contains_key(&key) {
            return Err(Failure::internal(format!("output {key} exists already")));
        }
        let output = Arc::new(Output::new(
            key,
            schema,
            &partitions,
            mode,
            self.0.streamed_bytes as u64,
            Arc::clone(&self.0.memory),
            Overflow::new(Arc::clone(&self.0.memory), DiskOutput::new(self.spill_file())),
        ));
        outputs.insert(key, Arc::clone(&output));
        Ok(OutputWriter::new(output))
    }

    /// Whether this store has the output of this attempt, finished or not.
    pub fn contains(&self, key: AttemptKey) -> bool {
        self.outputs().contains_key(&key)
    }

    /// Reads the rows of one partition, also while they are written. Retained output may have any number of readers,
    /// each from the start, streamed output one.
    ///
    /// # Errors
    /// ShuffleLost when the store has no such output or partition; NotFound when streamed rows were read before.
    pub fn read(&self, key: AttemptKey, partition: u32) -> Result<PartitionReader, Failure> {
        let lost = |what: &str| Failure::new(FailureKind::ShuffleLost, what).of_outputs(vec![key]);
        let output = self
            .output(key)
            .ok_or_else(|| lost(&format!("output {key} is not here; it was released or lost")))?;
        let partition = output
            .partition(partition)
            .cloned()
            .ok_or_else(|| lost(&format!("output {key} has no partition {partition}")))?;
        partition.attach()?;
        Ok(PartitionReader::new(output, partition))
    }

    /// The schema of an output.
    pub fn schema(&self, key: AttemptKey) -> Option<SchemaRef> {
        self.output(key).map(|output| Arc::clone(output.schema()))
    }

    /// Takes the rows of a query's outputs; their readers get `failure`, their writers Cancelled. The outputs stay known
    /// until they are released. Waits for nothing.
    pub fn fail(&self, query: QueryId, failure: &Failure) -> Removed {
        let mut removed = Removed::default();
        for (key, output) in self.outputs_of(query, |_| true) {
            removed.add(key, output, failure);
        }
        removed
    }

    /// Removes outputs: nobody finds them from now on, their readers get ShuffleLost, their writers Cancelled. Waits for
    /// nothing.
    pub fn take(&self, release: &Release) -> Removed {
        let is_released = |stage| release.stages.is_empty() || release.stages.contains(&stage);
        self.take_all(self.outputs_of(release.query, is_released))
    }

    /// Removes one output, as [`Store::take`] does.
    pub fn take_one(&self, key: AttemptKey) -> Removed {
        self.take_all(self.output(key).map(|output| (key, output)))
    }

    fn take_all(&self, outputs: impl IntoIterator<Item = (AttemptKey, Arc<Output>)>) -> Removed {
        let mut removed = Removed::default();
        for (key, output) in outputs {
            self.outputs().remove(&key);
            self.0.memory.spares().forget(key);
            removed.add(key, output, &released(key));
        }
        removed
    }

    /// Nobody needs the output of a stage: it is kept while there is room.
    pub fn keep_spare(&self, query: QueryId, stage: StageId) {
        for (_, output) in self.outputs_of(query, |of| of == stage) {
            self.0.memory.spares().add(output);
        }
    }

    /// Removes all spare output that is not being read, as [`Store::take`] does.
    pub fn take_spares(&self) -> Removed {
        let unused = self.0.memory.spares().unused();
        self.take_all(unused.into_iter().filter_map(|key| Some((key, self.output(key)?))))
    }

    /// The spare output that gave way since the last call; the store still knows it, without rows.
    pub fn take_dropped(&self) -> Vec<AttemptKey> {
        self.0.memory.spares().take_dropped()
    }

    /// Removes the store's own folder, and everything in it, also while something still uses the store: the process is
    /// about to end.
    pub fn close(&self) {
        self.0.disk.remove_folder();
    }

    /// The store's own folder, removed with the store, including everything in it. If this process is killed, the next
    /// one removes it.
    pub fn folder(&self) -> &Path {
        self.0.disk.folder()
    }

    /// Moves kept rows from memory to disk until `bytes` of memory are free again, or none are left there. Blocks the
    /// thread. Returns whether rows were moved, by this call or by another one meanwhile.
    ///
    /// # Errors
    /// When the disk or its limit is full, or the disk fails. Rows that were not moved stay in memory.
    pub fn move_to_disk(&self, bytes: usize) -> Result<bool, Failure> {
        let memory = &self.0.memory;
        let before = memory.kept_bytes();
        if before == 0 {
            return Ok(false);
        }
        let _one_at_a_time = self.0.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let target = before.saturating_sub(bytes);
        let is_enough = || memory.kept_bytes() <= target;
        while !is_enough() && memory.spares().give_way() {}
        let outputs: Vec<_> = self.outputs().values().cloned().collect();
        for output in outputs {
            if is_enough() {
                break;
            }
            output.move_to_disk(is_enough)?;
        }
        Ok(memory.kept_bytes() < before)
    }

    /// What the store holds now.
    pub fn usage(&self) -> StoreUsage {
        StoreUsage {
            memory_bytes: self.0.memory.held_bytes() as u64,
            disk_bytes: self.0.disk.used_bytes(),
            outputs: self.outputs().len(),
        }
    }

    /// Charges to this store's pool, for rows on their way in or out.
    pub(crate) fn memory(&self) -> &Arc<MemoryStore> {
        &self.0.memory
    }

    /// Makes the spill files of DataFusion's operators.
    pub fn operator_files(&self) -> Arc<dyn TempFileFactory> {
        Arc::new(OperatorFiles(Arc::clone(&self.0.disk)))
    }

    /// A spill file for the rows of an operator. Counted against the same limit as the shuffle's.
    pub fn spill(&self) -> Spill {
        Spill::new(self.0.disk.file())
    }

    /// A spill file for rows on their way in that do not fit into memory.
    pub(crate) fn spill_file(&self) -> Arc<SpillFile> {
        self.0.disk.file()
    }

    fn outputs_of(&self, query: QueryId, is_wanted: impl Fn(StageId) -> bool) -> Vec<(AttemptKey, Arc<Output>)> {
        let outputs = self.outputs();
        let of_query = outputs.range(first_key_of(query)..);
        let of_query = of_query.take_while(|(key, _)| key.query == query);
        let wanted = of_query.filter(|(key, _)| is_wanted(key.stage));
        wanted.map(|(key, output)| (*key, Arc::clone(output))).collect()
    }

    fn output(&self, key: AttemptKey) -> Option<Arc<Output>> {
        self.outputs().get(&key).cloned()
    }

    fn outputs(&self) -> MutexGuard<'_, BTreeMap<AttemptKey, Arc<Output>>> {
        self.0.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The least key that an output of the query can have.
fn first_key_of(query: QueryId) -> AttemptKey {
    AttemptKey {
        query,
        stage: StageId(0),
        task: TaskId(0),
        attempt: AttemptNumber(0),
    }
}
