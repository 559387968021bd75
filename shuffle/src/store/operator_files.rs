//! The spill files of DataFusion's operators, as blocks of the same disk store as everything else: under one limit,
//! with checksums, and with errors that name the folder and the flag.

use std::io::{self, Write};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::Result;
use datafusion::execution::{SpillFile, SpillWriter, TempFileFactory};
use futures::{Stream, stream};
use squadron_proto::Failure;

use super::disk::{self, Block, DiskStore};
use crate::failure::into_datafusion;

/// Bytes are written in blocks of at least this size, except at the end of a batch.
const BLOCK_BYTES: usize = 256 * 1024;

/// Makes spill files for operators.
#[derive(Debug)]
pub(super) struct OperatorFiles(pub(super) Arc<DiskStore>);

impl TempFileFactory for OperatorFiles {
    fn create_temp_file(&self, _: &str) -> Result<Arc<dyn SpillFile>> {
        Ok(Arc::new(OperatorFile {
            file: self.0.file(),
            blocks: Arc::default(),
        }))
    }
}

/// A file that one writer fills, and that readers may read meanwhile, up to the last flush.
struct OperatorFile {
    file: Arc<disk::SpillFile>,
    blocks: Arc<Blocks>,
}

#[derive(Default)]
struct Blocks(Mutex<Vec<Arc<Block>>>);

impl Blocks {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Block>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpillFile for OperatorFile {
    fn size(&self) -> Option<u64> {
        Some(self.blocks.lock().iter().map(|block| block.bytes()).sum())
    }

    fn read_stream(&self) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>> {
        let blocks = Arc::clone(&self.blocks);
        Ok(Box::pin(stream::try_unfold(0, move |next| {
            let block = blocks.lock().get(next).cloned();
            async move {
                let Some(block) = block else { return Ok(None) };
                let read = SpawnedTask::spawn_blocking(move || block.read()).await;
                let bytes = read
                    .unwrap_or_else(|error| Err(Failure::internal(format!("reading a spill file stopped: {error}"))))
                    .map_err(into_datafusion)?;
                Ok(Some((Bytes::from(bytes), next + 1)))
            }
        })))
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>> {
        Ok(Box::new(OperatorWriter {
            file: Arc::clone(&self.file),
            blocks: Arc::clone(&self.blocks),
            buffer: Vec::new(),
        }))
    }
}

struct OperatorWriter {
    file: Arc<disk::SpillFile>,
    blocks: Arc<Blocks>,
    buffer: Vec<u8>,
}

impl Write for OperatorWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BLOCK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let block = self
                .file
                .append(&mem::take(&mut self.buffer))
                .map_err(io::Error::other)?;
            self.blocks.lock().push(Arc::new(block));
        }
        Ok(())
    }
}

impl SpillWriter for OperatorWriter {
    fn finish(&mut self) -> Result<()> {
        Ok(self.flush()?)
    }
}
