//! Writes one partition: opens files, pushes rows to them, and completes them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use squadron_proto::{Failure, FailureKind};
use url::Url;

use super::file::{EncoderEnded, OpenFile};
use super::split::Splitter;
use super::{FileEncoding, FileTarget, StagedFile};
use crate::compact;
use crate::conform::conform;
use crate::failure::into_datafusion;

/// How many files, of different folders, one partition writes at once. With more folders the file that waited longest
/// for rows is completed, and a later row for its folder begins another file.
const MAX_OPEN_FILES: usize = 64;

/// Bytes of rows, before encoding, after which a new file begins. Object stores copy up to 5 GB in one request.
const MAX_RAW_BYTES: usize = 2 * 1024 * 1024 * 1024;

/// The suffix of staged files, which no file of a table has.
const STAGED_SUFFIX: &str = "part";

/// Writes the rows of one partition.
pub(super) struct Writer {
    target: Arc<FileTarget>,
    file_schema: SchemaRef,
    encoding: FileEncoding,
    splitter: Option<Splitter>,
    store: Arc<dyn ObjectStore>,
    /// The folder of all files of this partition of this attempt.
    folder: Path,
    never_empty: bool,
    context: Arc<TaskContext>,
    max_raw_bytes: usize,
    open: HashMap<Path, OpenFile>,
    files: u64,
    pushes: u64,
    done: Vec<StagedFile>,
}

impl Writer {
    /// A writer without open files. `never_empty`: it writes a file even when there are no rows.
    ///
    /// # Errors
    /// When the store is not registered, or this process does not see the staging folder.
    pub(super) fn new(
        target: Arc<FileTarget>,
        folder: Path,
        never_empty: bool,
        context: Arc<TaskContext>,
    ) -> Result<Self> {
        let store = context.runtime_env().object_store(&target.store)?;
        check_shared(&target)?;
        let file_schema = target.file_schema();
        let partitioned = !target.partition_by.is_empty();
        Ok(Self {
            splitter: match partitioned {
                true => Some(Splitter::new(&target.schema, &file_schema, &target.partition_by)?),
                false => None,
            },
            encoding: match partitioned {
                true => target.encoding.for_many_files(),
                false => target.encoding.clone(),
            },
            max_raw_bytes: match target.single_file {
                true => usize::MAX,
                false => MAX_RAW_BYTES,
            },
            file_schema,
            store,
            folder,
            never_empty,
            context,
            target,
            open: HashMap::new(),
            files: 0,
            pushes: 0,
            done: Vec::new(),
        })
    }

    /// Writes all rows of `input`; the files are complete when this returns.
    pub(super) async fn write(mut self, mut input: SendableRecordBatchStream) -> Result<Vec<StagedFile>> {
        while let Some(batch) = input.try_next().await? {
            tokio::task::consume_budget().await;
            if batch.num_rows() == 0 {
                continue;
            }
            let batch = conform_to_table(batch, &self.target.schema)?;
            let parts = match &self.splitter {
                Some(splitter) => splitter.split(&batch)?,
                None => vec![(Path::default(), batch)],
            };
            for (folder, rows) in parts {
                self.push(folder, rows).await?;
            }
        }
        if self.files == 0 && self.never_empty {
            let empty = RecordBatch::new_empty(Arc::clone(&self.file_schema));
            self.push(Path::default(), empty).await?;
        }
        let folders: Vec<Path> = self.open.keys().cloned().collect();
        for folder in folders {
            self.complete(&folder).await?;
        }
        Ok(self.done)
    }

    async fn push(&mut self, folder: Path, rows: RecordBatch) -> Result<()> {
        let is_full = |file: &OpenFile| file.raw_bytes >= self.max_raw_bytes;
        if self.open.get(&folder).is_some_and(is_full) {
            self.complete(&folder).await?;
        }
        if !self.open.contains_key(&folder) {
            self.open_file(&folder).await?;
        }
        let bytes = compact::sliced_bytes(&rows);
        self.reserve(&folder, bytes).await?;
        self.pushes += 1;
        let Some(file) = self.open.get_mut(&folder) else {
            return Ok(());
        };
        file.last_push = self.pushes;
        match file.push(rows, bytes).await {
            Ok(()) => Ok(()),
            // Completing the file returns the encoder's error.
            Err(EncoderEnded) => self.complete(&folder).await,
        }
    }

    /// Reserves memory for `bytes` more in the file of `folder`; completes other files while memory is short.
    async fn reserve(&mut self, folder: &Path, bytes: usize) -> Result<()> {
        let options = self.context.session_config().options();
        let max_bytes = options.execution.objectstore_writer_buffer_size;
        while let Some(file) = self.open.get(folder) {
            match file.reserve(bytes, max_bytes) {
                Ok(()) => break,
                Err(error) => match self.find_oldest(Some(folder)) {
                    Some(other) => self.complete(&other).await?,
                    None => return Err(error),
                },
            }
        }
        Ok(())
    }

    async fn open_file(&mut self, folder: &Path) -> Result<()> {
        while self.open.len() >= MAX_OPEN_FILES {
            match self.find_oldest(None) {
                Some(oldest) => self.complete(&oldest).await?,
                None => break,
            }
        }
        let buffer = MemoryConsumer::new("file writer").register(self.context.memory_pool());
        let path = self.folder.clone().join(format!("{}.{STAGED_SUFFIX}", self.files));
        self.files += 1;
        let schema = Arc::clone(&self.file_schema);
        let sink = self.encoding.sink(&self.target.store, &path, Arc::clone(&schema))?;
        let context = Arc::clone(&self.context);
        let file = OpenFile::new(path, folder.clone(), schema, sink, buffer, context);
        self.open.insert(folder.clone(), file);
        Ok(())
    }

    /// The folder whose file waited longest for rows, other than `except`.
    fn find_oldest(&self, except: Option<&Path>) -> Option<Path> {
        let others = self.open.iter().filter(|(folder, _)| Some(*folder) != except);
        let oldest = others.min_by_key(|(_, file)| file.last_push);
        oldest.map(|(folder, _)| folder.clone())
    }

    async fn complete(&mut self, folder: &Path) -> Result<()> {
        if let Some(file) = self.open.remove(folder) {
            let staged = file.finish(self.store.as_ref()).await?;
            self.done.push(staged);
        }
        Ok(())
    }
}

/// Conforms `batch` to the schema that the table promises its readers, and refuses nulls that it forbids.
fn conform_to_table(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields());
    let broken = columns
        .filter(|(column, field)| !field.is_nullable() && column.logical_null_count() > 0)
        .map(|(_, field)| field.name())
        .next();
    if let Some(name) = broken {
        return Err(into_datafusion(Failure::new(
            FailureKind::Invalid,
            format!("the column {name} takes no nulls, and a row holds one"),
        )));
    }
    conform(batch, schema).map_err(into_datafusion)
}

/// Checks that this process sees a local staging folder, which the server made: without it, files would be lost.
fn check_shared(target: &FileTarget) -> Result<()> {
    let store: &Url = target.store.as_ref();
    if store.scheme() != "file" {
        return Ok(());
    }
    let folder = format!("/{}", target.staging);
    if std::path::Path::new(&folder).is_dir() {
        return Ok(());
    }
    Err(into_datafusion(Failure::new(
        FailureKind::Invalid,
        format!(
            "a worker does not see the folder {folder} that the server made; local files are written where the server \
             and all workers share the folder, so mount it everywhere or write to an object store"
        ),
    )))
}
