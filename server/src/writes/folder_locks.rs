//! Locks on folders between planning and publication, so that a plan sees all files of a statement or none.
//!
//! A plan lists the files of its tables once, when it is made. A publication therefore waits for plans that are being
//! made over its folder, and holds up further ones for as long as its renames take. Publications do not wait for each
//! other, since no two write the same file.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use tokio::sync::Notify;

use crate::catalog::files_of;

/// A folder or file: a store and the path within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StorePath {
    pub(super) store: String,
    pub(super) path: String,
}

impl StorePath {
    /// Whether one path lies within the other.
    fn overlaps(&self, other: &Self) -> bool {
        let within = |inner: &str, outer: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || outer.is_empty() || rest.starts_with('/'))
        };
        self.store == other.store && (within(&self.path, &other.path) || within(&other.path, &self.path))
    }
}

/// The locks of all folders in use; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct FolderLocks(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    holders: Mutex<Holders>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Holders {
    next: u64,
    readers: Vec<(u64, Vec<StorePath>)>,
    publishers: Vec<(u64, StorePath)>,
}

/// Held while a plan is being made: no statement is published into the folders that the plan reads.
#[derive(Debug)]
pub struct ReadGuard {
    number: u64,
    shared: Arc<Shared>,
}

/// Held while a statement is being published: no plan is made that reads its folder.
#[derive(Debug)]
pub(super) struct PublishGuard {
    number: u64,
    shared: Arc<Shared>,
}

impl FolderLocks {
    /// Waits for publications that overlap these paths, and holds up further ones.
    pub(super) async fn lock_for_planning(&self, paths: Vec<StorePath>) -> ReadGuard {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(number) = self.0.lock().admit_reader(&paths) {
                return ReadGuard {
                    number,
                    shared: Arc::clone(&self.0),
                };
            }
            changed.await;
        }
    }

    /// Waits for plans that overlap this path. The publication is announced at once, so new plans cannot starve it.
    pub(super) async fn lock_for_publish(&self, path: StorePath) -> PublishGuard {
        let guard = PublishGuard {
            number: self.0.lock().announce_publisher(path.clone()),
            shared: Arc::clone(&self.0),
        };
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.0.lock().is_read(&path) {
                return guard;
            }
            changed.await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holders {
    /// None while a publication overlaps one of the paths.
    fn admit_reader(&mut self, paths: &[StorePath]) -> Option<u64> {
        let is_publishing = |path: &StorePath| {
            let mut publishers = self.publishers.iter();
            publishers.any(|(_, published)| published.overlaps(path))
        };
        if paths.iter().any(is_publishing) {
            return None;
        }
        self.next += 1;
        self.readers.push((self.next, paths.to_vec()));
        Some(self.next)
    }

    fn announce_publisher(&mut self, path: StorePath) -> u64 {
        self.next += 1;
        self.publishers.push((self.next, path));
        self.next
    }

    fn is_read(&self, path: &StorePath) -> bool {
        let mut read = self.readers.iter().flat_map(|(_, paths)| paths);
        read.any(|read| read.overlaps(path))
    }
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        let mut holders = self.shared.lock();
        holders.readers.retain(|(number, _)| *number != self.number);
        drop(holders);
        self.shared.changed.notify_waiters();
    }
}

impl Drop for PublishGuard {
    fn drop(&mut self) {
        let mut holders = self.shared.lock();
        holders.publishers.retain(|(number, _)| *number != self.number);
        drop(holders);
        self.shared.changed.notify_waiters();
    }
}

/// The folders and files of the tables that `plan` scans.
pub(super) fn find_scanned_paths(plan: &LogicalPlan) -> Result<Vec<StorePath>> {
    let mut paths = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(table) = files_of(provider.as_ref())
        {
            paths.extend(table.table_paths().iter().map(|url| StorePath {
                store: url.object_store().as_str().to_owned(),
                path: url.prefix().to_string(),
            }));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use std::pin::pin;

    use super::*;

    fn path(text: &str) -> StorePath {
        StorePath {
            store: "file:///".into(),
            path: text.into(),
        }
    }

    #[test]
    fn folders_overlap_by_whole_names() {
        let overlap = |one: &str, other: &str| {
            let overlaps = path(one).overlaps(&path(other));
            assert_eq!(overlaps, path(other).overlaps(&path(one)));
            overlaps
        };
        assert!(overlap("a/b", "a/b") && overlap("a", "a/b/c") && overlap("", "a"));
        assert!(!overlap("a/b", "a/bc") && !overlap("a", "b"));
        let elsewhere = StorePath {
            store: "s3://bucket/".into(),
            path: "a".into(),
        };
        assert!(!elsewhere.overlaps(&path("a")));
    }

    #[tokio::test]
    async fn publication_and_planning_exclude_each_other() {
        let locks = FolderLocks::default();
        let reading = locks.lock_for_planning(vec![path("t")]).await;
        let mut publishing = pin!(locks.lock_for_publish(path("t")));
        assert!(poll!(publishing.as_mut()).is_pending());
        // Announced: later plans of the folder wait behind the publication, plans of other folders do not.
        let mut later = pin!(locks.lock_for_planning(vec![path("t/k=1")]));
        assert!(poll!(later.as_mut()).is_pending());
        drop(locks.lock_for_planning(vec![path("u")]).await);
        drop(reading);
        let publishing = publishing.await;
        assert!(poll!(later.as_mut()).is_pending());
        let second = locks.lock_for_publish(path("t")).await;
        drop(publishing);
        assert!(poll!(later.as_mut()).is_pending());
        drop(second);
        later.await;
    }

    #[tokio::test]
    async fn dropped_publication_releases_its_lock() {
        let locks = FolderLocks::default();
        let reading = locks.lock_for_planning(vec![path("t")]).await;
        {
            let mut publishing = pin!(locks.lock_for_publish(path("t")));
            assert!(poll!(publishing.as_mut()).is_pending());
        }
        drop(locks.lock_for_planning(vec![path("t")]).await);
        drop(reading);
    }
}
