//! The folder of a statement's unpublished files: created, removed, and removed again for attempts that stop late.

use std::fs;
use std::io;
use std::path::{Path as LocalPath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use squadron_proto::{Failure, FailureKind, QueryId};
use squadron_shuffle::failure;
use tracing::warn;

use super::destination::Destination;

/// The pauses before a staging folder is removed again after a statement that did not succeed: an attempt out of reach
/// writes on until it notices.
const REMOVE_AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(20)];

/// The folder of another statement is left over from a dead server once it is this old.
const STALE_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// How many files are deleted at once.
const DELETE_CONCURRENCY: usize = 16;

/// The folder of a statement's files until they are published.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    store: Arc<dyn ObjectStore>,
    /// `<target>/_squadron/<query>`
    folder: Path,
    /// `<target>/_squadron`
    parent: Path,
    is_local: bool,
    /// Local folders that were made for this statement, outermost first.
    made: Vec<PathBuf>,
}

impl Staging {
    /// Creates the folder, if it is local: workers check that it exists to see whether they share the file system.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub(super) async fn create(destination: &Destination) -> Result<Self, Failure> {
        let parent = destination.staging_parent();
        let mut staging = Self {
            store: Arc::clone(destination.store()),
            folder: destination.target().staging.clone(),
            parent,
            is_local: destination.is_local(),
            made: Vec::new(),
        };
        if !staging.is_local {
            return Ok(staging);
        }
        let folder = local_path(&staging.folder);
        let made = tokio::task::spawn_blocking(move || make_folders(&folder));
        staging.made = made.await.map_err(Failure::internal)?.map_err(|error| {
            let kind = match error.kind() {
                _ if failure::is_disk_full(&error) => FailureKind::DiskFull,
                io::ErrorKind::PermissionDenied => FailureKind::Denied,
                _ => FailureKind::Invalid,
            };
            let folder = local_path(&staging.folder);
            Failure::new(
                kind,
                format!(
                    "the folder {} cannot be made ({error}); give the server the right to write there",
                    folder.display()
                ),
            )
        })?;
        Ok(staging)
    }

    /// Removes the folder and its contents. Folders made for the statement are removed too, unless it succeeded.
    pub(super) async fn remove(&self, succeeded: bool) {
        let outcome = if self.is_local {
            self.remove_local(succeeded).await
        } else {
            delete_below(self.store.as_ref(), &self.folder).await
        };
        if let Err(failure) = outcome {
            warn!(folder = %self.folder, %failure, "unpublished files are left behind");
        }
    }

    /// Removes the folder of a statement that did not succeed, several times: attempts that were told to stop, and
    /// attempts out of reach, may still write for a moment.
    pub(super) async fn remove_repeatedly(&self) {
        self.remove(false).await;
        for pause in REMOVE_AGAIN {
            tokio::time::sleep(pause).await;
            self.remove(false).await;
        }
    }

    async fn remove_local(&self, succeeded: bool) -> Result<(), Failure> {
        let folder = local_path(&self.folder);
        let parent = local_path(&self.parent);
        let made = self.made.clone();
        let removed = tokio::task::spawn_blocking(move || -> io::Result<()> {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            // Fails, and should, for folders that are not empty: other statements use them.
            let _ = fs::remove_dir(&parent);
            if !succeeded {
                for folder in made.iter().rev() {
                    let _ = fs::remove_dir(folder);
                }
            }
            Ok(())
        });
        let removed = removed.await.map_err(Failure::internal)?;
        removed.map_err(|error| Failure::new(FailureKind::Storage, error.to_string()))
    }

    /// Removes folders of statements whose server died.
    pub(super) async fn sweep(&self) {
        let Ok(listing) = self.store.list_with_delimiter(Some(&self.parent)).await else {
            return;
        };
        for folder in listing.common_prefixes {
            let query = folder.filename().and_then(|name| name.parse().ok());
            if query.is_some_and(|query: QueryId| is_stale(query, SystemTime::now())) {
                let stale = Self {
                    folder,
                    made: Vec::new(),
                    ..self.clone()
                };
                stale.remove(false).await;
            }
        }
    }
}

/// Whether a query of this id began so long ago that it cannot be running.
fn is_stale(query: QueryId, now: SystemTime) -> bool {
    let age = query.created_at().and_then(|made| now.duration_since(made).ok());
    age.is_some_and(|age| age > STALE_AFTER)
}

/// Deletes every object below `folder`.
async fn delete_below(store: &dyn ObjectStore, folder: &Path) -> Result<(), Failure> {
    let found = store.list(Some(folder)).map_ok(|object| object.location);
    found
        .map(|path| async { store.delete(&path?).await })
        .buffer_unordered(DELETE_CONCURRENCY)
        .filter(|outcome| {
            let gone = matches!(outcome, Err(object_store::Error::NotFound { .. }));
            std::future::ready(!gone)
        })
        .try_collect::<()>()
        .await
        .map_err(|error| Failure::new(FailureKind::Storage, error.to_string()))
}

/// The local path of a path in the local store.
pub(super) fn local_path(path: &Path) -> PathBuf {
    LocalPath::new("/").join(path.as_ref())
}

/// Creates `folder` and its ancestors. Returns those that did not exist, without `folder` itself and its parent.
fn make_folders(folder: &LocalPath) -> io::Result<Vec<PathBuf>> {
    let above = folder.ancestors().skip(2);
    let mut missing: Vec<PathBuf> = above.take_while(|folder| !folder.exists()).map(PathBuf::from).collect();
    missing.reverse();
    fs::create_dir_all(folder)?;
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn make_folders_returns_created_ones() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a/b");
        let folder = target.join("_squadron/query");
        let made = make_folders(&folder).unwrap();
        assert_eq!(made, [root.path().join("a"), target]);
        assert!(folder.is_dir());
        assert!(make_folders(&folder).unwrap().is_empty());
    }

    #[test]
    fn only_old_queries_are_stale() {
        let query = QueryId::new();
        let now = SystemTime::now();
        assert!(!is_stale(query, now));
        assert!(is_stale(query, now + STALE_AFTER + Duration::from_secs(60)));
        // An id without a time.
        assert!(!is_stale(QueryId::from_u128(1), now));
    }
}
