//! Moves staged files into the folders that readers list: all of them or none.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::{StagedFile, failure};
use tracing::{info, warn};

use super::destination::Destination;
use super::durable;
use super::folder_locks::FolderLocks;
use super::staging::local_path;

/// How many files are checked, and moved, at once.
const MOVE_CONCURRENCY: usize = 16;

/// Object stores copy up to this many bytes in one request; a larger object is read and written again.
const MAX_COPY_BYTES: u64 = 5_000_000_000;

/// The size of a part of a large object.
const PART_BYTES: usize = 64 * 1024 * 1024;

/// Publishes `files` and returns their rows.
///
/// # Errors
/// When a file is not where the worker wrote it or cannot be moved; files that were moved are removed again.
pub(super) async fn publish(
    destination: &Destination,
    locks: &FolderLocks,
    files: Vec<StagedFile>,
) -> Result<u64, Failure> {
    let rows = files.iter().map(|file| file.rows).sum();
    let moves = plan_moves(destination, files);
    let store = destination.store();
    let checks: Vec<_> = moves
        .iter()
        .map(|staged| staged.prepare(store.as_ref(), destination))
        .collect();
    stream::iter(checks)
        .buffered(MOVE_CONCURRENCY)
        .try_collect::<()>()
        .await?;
    let _guard = locks.lock_for_publish(destination.lock_path()).await;
    let runs: Vec<_> = moves.iter().map(|staged| staged.run(store, destination)).collect();
    let outcomes: Vec<Result<(), Failure>> = stream::iter(runs).buffered(MOVE_CONCURRENCY).collect().await;
    let moved = outcomes.iter().cloned().collect::<Result<(), Failure>>();
    let published = match moved {
        Ok(()) if destination.is_local() => sync_names(destination, &moves).await,
        moved => moved,
    };
    let Err(failure) = published else {
        info!(files = moves.len(), rows, "published");
        return Ok(rows);
    };
    let mut left = Vec::new();
    for (staged, outcome) in moves.iter().zip(&outcomes) {
        // A file that replaced another one is the only one of its statement.
        if outcome.is_ok()
            && let Err(error) = store.delete(&staged.to).await
        {
            warn!(file = %staged.to, %error, "a published file of a failed statement stays");
            left.push(staged.to.to_string());
        }
    }
    let mut message = format!(
        "the files were written but could not be published, and nothing was: {}",
        failure.message
    );
    if !left.is_empty() {
        message = format!(
            "publishing broke in the middle, and these files could not be removed again: {}; remove them: {}",
            left.join(", "),
            failure.message
        );
    }
    Err(Failure::new(failure.kind, message))
}

/// A staged file and the path to move it to.
struct Move {
    file: StagedFile,
    to: Path,
}

/// The moves of all files. Files without rows are left out, unless no file has rows.
fn plan_moves(destination: &Destination, mut files: Vec<StagedFile>) -> Vec<Move> {
    files.sort();
    if files.iter().any(|file| file.rows > 0) {
        files.retain(|file| file.rows > 0);
    }
    files
        .into_iter()
        .enumerate()
        .map(|(number, file)| Move {
            to: destination.file_path(&file, number),
            file,
        })
        .collect()
}

async fn sync_names(destination: &Destination, moves: &[Move]) -> Result<(), Failure> {
    let files: Vec<_> = moves.iter().map(|staged| local_path(&staged.to)).collect();
    durable::sync_folders(&local_path(destination.folder()), &files).await
}

async fn check_staged(store: &dyn ObjectStore, destination: &Destination, file: &StagedFile) -> Result<(), Failure> {
    let why = match store.head(&file.path).await {
        Ok(found) if found.size == file.bytes => return Ok(()),
        Ok(found) => format!("has {} bytes instead of {}", found.size, file.bytes),
        Err(object_store::Error::NotFound { .. }) => "is not there".into(),
        Err(error) => return Err(failure::of(&error.into())),
    };
    let remedy = match destination.is_local() {
        true => "the server and all workers must share the folder",
        false => "no other process may write below _squadron",
    };
    Err(Failure::new(
        FailureKind::Invalid,
        format!("the file {} that a worker wrote {why}; {remedy}", file.path),
    ))
}

impl Move {
    /// Checks that the file is whole, and on the disk.
    async fn prepare(&self, store: &dyn ObjectStore, destination: &Destination) -> Result<(), Failure> {
        check_staged(store, destination, &self.file).await?;
        match destination.is_local() {
            true => durable::sync_file(local_path(&self.file.path)).await,
            false => Ok(()),
        }
    }

    async fn run(&self, store: &Arc<dyn ObjectStore>, destination: &Destination) -> Result<(), Failure> {
        let moved = if destination.is_local() {
            store.rename(&self.file.path, &self.to).await
        } else if self.file.bytes <= MAX_COPY_BYTES {
            // The staged object is removed with its folder.
            store.copy(&self.file.path, &self.to).await
        } else {
            copy_in_parts(store, &self.file.path, &self.to).await
        };
        moved.map_err(|error| failure::of(&error.into()))
    }
}

/// Copies an object through this process. The copy exists once its last part is written.
async fn copy_in_parts(store: &Arc<dyn ObjectStore>, from: &Path, to: &Path) -> object_store::Result<()> {
    let mut parts = store.get(from).await?.into_stream();
    let mut upload = WriteMultipart::new_with_chunk_size(store.put_multipart(to).await?, PART_BYTES);
    while let Some(part) = parts.next().await {
        let written = match part {
            Ok(part) => {
                let ready = upload.wait_for_capacity(2).await;
                upload.put(part);
                ready
            }
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            // The copy failed already; the store cleans up parts that cannot be aborted.
            let _ = upload.abort().await;
            return Err(error);
        }
    }
    upload.finish().await.map(drop)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn large_object_is_copied_in_parts() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (from, to) = (Path::from("a"), Path::from("b"));
        let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
        store.put(&from, bytes.clone().into()).await.unwrap();
        copy_in_parts(&store, &from, &to).await.unwrap();
        let copied = store.get(&to).await.unwrap().bytes().await.unwrap();
        assert!(copied == bytes);
        let missing = Path::from("missing");
        assert!(copy_in_parts(&store, &missing, &to).await.is_err());
    }
}
