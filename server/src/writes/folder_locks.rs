//! Who plans over which folders, and who publishes into them: so that a plan sees all files of a statement or none.
//!
//! A plan lists the files of its tables once, when it is made. A publication therefore waits for the plans that are being
//! made over its folder, and holds further ones up; it takes as long as some renames. Publications do not wait for each
//! other, since no two name the same file.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::ListingTable;
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use tokio::sync::Notify;

/// A folder or file, as `store` and path within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) store: String,
    pub(super) path: String,
}

impl Place {
    /// Whether one lies in the other.
    fn overlaps(&self, other: &Self) -> bool {
        let within = |inner: &str, outer: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || outer.is_empty() || rest.starts_with('/'))
        };
        self.store == other.store && (within(&self.path, &other.path) || within(&other.path, &self.path))
    }
}

/// The folders that are in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    entries: Mutex<Entries>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    readers: Vec<(u64, Vec<Place>)>,
    publishers: Vec<(u64, Place)>,
}

/// A plan is being made; while this lives nothing is published to where it reads.
#[derive(Debug)]
pub struct Reading {
    number: u64,
    held: Arc<Held>,
}

/// A statement is being published; while this lives no plan is made that reads there.
#[derive(Debug)]
pub(super) struct Publishing {
    number: u64,
    held: Arc<Held>,
}

impl Places {
    /// Waits for the publications to these places.
    pub(super) async fn read(&self, places: Vec<Place>) -> Reading {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(number) = self.0.lock().admit(&places) {
                return Reading {
                    number,
                    held: Arc::clone(&self.0),
                };
            }
            changed.await;
        }
    }

    /// Waits for the plans over this place. It is announced at once, so that ever new plans cannot hold it up.
    pub(super) async fn publish(&self, place: Place) -> Publishing {
        let publishing = Publishing {
            number: self.0.lock().announce(place.clone()),
            held: Arc::clone(&self.0),
        };
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.0.lock().is_read(&place) {
                return publishing;
            }
            changed.await;
        }
    }
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn admit(&mut self, places: &[Place]) -> Option<u64> {
        let busy = |place: &Place| {
            let mut publishers = self.publishers.iter();
            publishers.any(|(_, published)| published.overlaps(place))
        };
        if places.iter().any(busy) {
            return None;
        }
        self.next += 1;
        self.readers.push((self.next, places.to_vec()));
        Some(self.next)
    }

    fn announce(&mut self, place: Place) -> u64 {
        self.next += 1;
        self.publishers.push((self.next, place));
        self.next
    }

    fn is_read(&self, place: &Place) -> bool {
        let mut read = self.readers.iter().flat_map(|(_, places)| places);
        read.any(|read| read.overlaps(place))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut entries = self.held.lock();
        entries.readers.retain(|(number, _)| *number != self.number);
        drop(entries);
        self.held.changed.notify_waiters();
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        let mut entries = self.held.lock();
        entries.publishers.retain(|(number, _)| *number != self.number);
        drop(entries);
        self.held.changed.notify_waiters();
    }
}

/// Where the tables of `plan` lie.
pub(super) fn read_by(plan: &LogicalPlan) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(table) = provider.downcast_ref::<ListingTable>()
        {
            places.extend(table.table_paths().iter().map(|url| Place {
                store: url.object_store().as_str().to_owned(),
                path: url.prefix().to_string(),
            }));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(places)
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use std::pin::pin;

    use super::*;

    fn place(path: &str) -> Place {
        Place {
            store: "file:///".into(),
            path: path.into(),
        }
    }

    #[test]
    fn folders_overlap_by_whole_names() {
        let overlap = |one: &str, other: &str| {
            let there = place(one).overlaps(&place(other));
            assert_eq!(there, place(other).overlaps(&place(one)));
            there
        };
        assert!(overlap("a/b", "a/b") && overlap("a", "a/b/c") && overlap("", "a"));
        assert!(!overlap("a/b", "a/bc") && !overlap("a", "b"));
        let elsewhere = Place {
            store: "s3://bucket/".into(),
            path: "a".into(),
        };
        assert!(!elsewhere.overlaps(&place("a")));
    }

    #[tokio::test]
    async fn a_publication_and_a_plan_over_its_folder_exclude_each_other() {
        let places = Places::default();
        let reading = places.read(vec![place("t")]).await;
        let mut publishing = pin!(places.publish(place("t")));
        assert!(poll!(publishing.as_mut()).is_pending());
        // Announced: later plans wait behind it, those of other folders do not.
        let mut later = pin!(places.read(vec![place("t/k=1")]));
        assert!(poll!(later.as_mut()).is_pending());
        drop(places.read(vec![place("u")]).await);
        drop(reading);
        let publishing = publishing.await;
        assert!(poll!(later.as_mut()).is_pending());
        let second = places.publish(place("t")).await;
        drop(publishing);
        assert!(poll!(later.as_mut()).is_pending());
        drop(second);
        later.await;
    }

    #[tokio::test]
    async fn a_publication_that_is_given_up_holds_nobody_up() {
        let places = Places::default();
        let reading = places.read(vec![place("t")]).await;
        {
            let mut publishing = pin!(places.publish(place("t")));
            assert!(poll!(publishing.as_mut()).is_pending());
        }
        drop(places.read(vec![place("t")]).await);
        drop(reading);
    }
}
