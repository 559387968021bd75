//! Batches on local disk, for those that do not fit into memory.
//!
//! One file per output, created with its first batch; each batch is a block of it: a complete Arrow IPC stream,
//! compressed with LZ4, whose checksum (CRC-32) is kept in memory and verified when it is read. A file whose blocks are all freed is truncated to zero bytes, and removed with its output.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use squadron_proto::{Failure, FailureKind};

use super::folder::Folder;
use crate::{compact, failure};

/// All spill files of a process: their folder and the limit on their bytes.
#[derive(Debug)]
pub(crate) struct DiskStore {
    folder: Folder,
    max_bytes: u64,
    used_bytes: AtomicU64,
    files: AtomicU64,
}

impl DiskStore {
    pub(crate) fn new(folder: Folder, max_bytes: u64) -> Self {
        Self {
            folder,
            max_bytes,
            used_bytes: AtomicU64::new(0),
            files: AtomicU64::new(0),
        }
    }

    pub(crate) fn remove_folder(&self) {
        self.folder.remove();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Bytes on disk now.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// A new file, which is created on disk with its first block.
    pub(crate) fn file(self: &Arc<Self>) -> Arc<SpillFile> {
        Arc::new(SpillFile {
            store: Arc::clone(self),
            open: Mutex::new(None),
        })
    }

    fn reserve(&self, bytes: u64) -> Result<(), Failure> {
        let used = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        if used.saturating_add(bytes) <= self.max_bytes {
            return Ok(());
        }
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Err(Failure::new(
            FailureKind::DiskFull,
            format!(
                "spilled rows take {used} of at most {} bytes in {}; raise --max-spill-bytes, or put --spill-dir on a larger disk",
                self.max_bytes,
                self.folder.path().display()
            ),
        ))
    }

    fn damaged(&self) -> Failure {
        let folder = self.folder.path().display();
        Failure::new(
            FailureKind::Storage,
            format!("a spill file in {folder} does not hold what was written to it; check the disk of --spill-dir"),
        )
    }

    fn io_failure(&self, action: &str, error: &io::Error) -> Failure {
        let kind = match failure::is_disk_full(error) {
            true => FailureKind::DiskFull,
            false => FailureKind::Storage,
        };
        let folder = self.folder.path().display();
        Failure::new(
            kind,
            format!("cannot {action} a spill file in {folder}: {error}; choose another --spill-dir"),
        )
    }
}

/// One file of blocks.
#[derive(Debug)]
pub(crate) struct SpillFile {
    store: Arc<DiskStore>,
    open: Mutex<Option<OpenFile>>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: PathBuf,
    end: u64,
    live_bytes: u64,
}

/// A byte range of a spill file; freed on drop.
#[derive(Debug)]
pub(crate) struct Block {
    file: Arc<SpillFile>,
    offset: u64,
    bytes: usize,
    checksum: u32,
}

impl SpillFile {
    /// Appends a block. Blocks the thread.
    pub(crate) fn append(self: &Arc<Self>, bytes: &[u8]) -> Result<Block, Failure> {
        let length = bytes.len() as u64;
        self.store.reserve(length)?;
        match self.write(bytes) {
            Ok(offset) => Ok(Block {
                file: Arc::clone(self),
                offset,
                bytes: bytes.len(),
                checksum: crc32fast::hash(bytes),
            }),
            Err(error) => {
                self.store.used_bytes.fetch_sub(length, Ordering::Relaxed);
                Err(self.store.io_failure("write", &error))
            }
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<u64> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match &mut *open {
            Some(open) => open,
            none => none.insert(self.create()?),
        };
        let offset = open.end;
        open.file.seek(SeekFrom::Start(offset))?;
        if let Err(error) = open.file.write_all(bytes) {
            // A full disk has taken a part of the block, which nobody counts. What cannot be cut off is written over.
            let _ = open.file.set_len(offset);
            return Err(error);
        }
        open.end += bytes.len() as u64;
        open.live_bytes += bytes.len() as u64;
        Ok(offset)
    }

    fn create(&self) -> io::Result<OpenFile> {
        let number = self.store.files.fetch_add(1, Ordering::Relaxed);
        let path = self.store.folder.path().join(number.to_string());
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true);
        let file = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.store.folder.restore()?;
                options.open(&path)?
            }
            opened => opened?,
        };
        Ok(OpenFile {
            file,
            path,
            end: 0,
            live_bytes: 0,
        })
    }

    fn free(&self, bytes: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = &mut *open else { return };
        open.live_bytes -= bytes;
        // Until the file is truncated, the space of freed blocks counts as used.
        if open.live_bytes == 0 && open.file.set_len(0).is_ok() {
            self.store.used_bytes.fetch_sub(open.end, Ordering::Relaxed);
            open.end = 0;
        }
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.take() {
            self.store.used_bytes.fetch_sub(open.end, Ordering::Relaxed);
            let removed = fs::remove_file(&open.path);
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %open.path.display(), %error, "cannot remove a spill file");
            }
        }
    }
}

impl Block {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Reads the bytes of the block. Blocks the thread.
    pub(crate) fn read(&self) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; self.bytes];
        self.fill(&mut bytes)
            .map_err(|error| self.file.store.io_failure("read", &error))?;
        if crc32fast::hash(&bytes) != self.checksum {
            return Err(self.file.store.damaged());
        }
        Ok(bytes)
    }

    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut open = self.file.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.as_mut().ok_or(io::ErrorKind::NotFound)?;
        open.file.seek(SeekFrom::Start(self.offset))?;
        open.file.read_exact(bytes)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.file.free(self.bytes as u64);
    }
}

/// One batch on disk.
#[derive(Debug)]
pub(crate) struct DiskBatch {
    block: Block,
    schema: SchemaRef,
    rows: usize,
}

impl DiskBatch {
    /// Writes a batch to `file`. Blocks the thread.
    pub(crate) fn write(batch: &RecordBatch, file: &Arc<SpillFile>) -> Result<Self, Failure> {
        let bytes = encode(batch).map_err(|error| failure::arrow(&error))?;
        Ok(Self {
            block: file.append(&bytes)?,
            schema: batch.schema(),
            rows: batch.num_rows(),
        })
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.block.bytes()
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Reads the batch as it was put. Blocks the thread.
    pub(crate) fn read(&self) -> Result<RecordBatch, Failure> {
        let bytes = self.block.read()?;
        let batch = decode(&bytes, &self.schema)
            .map_err(|error| Failure::internal(format!("a spilled batch is broken: {error}")))?;
        if batch.num_rows() != self.rows {
            return Err(Failure::internal("a spilled batch lost rows"));
        }
        Ok(batch)
    }
}

fn encode(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let batch = compact::compact_shared(batch.clone())?;
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), batch.schema_ref(), options)?;
    writer.write(&batch)?;
    writer.into_inner()
}

fn decode(bytes: &[u8], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let mut reader = StreamReader::try_new(bytes, None)?;
    let batch = reader
        .next()
        .ok_or_else(|| ArrowError::IpcError("no batch in its block".into()))??;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)
}
