//! The shared schema: the tables of all sessions.
//!
//! ```text
//!   scan of --data --> open --> Found(Readable) | Found(Empty) | Found(Unreadable)
//!                       ^                   |
//!                       '-- the path changed'
//!   scan, two paths for one name --> Conflict
//!   CREATE --> Created                          DROP of what a scan found --> hidden from later scans
//! ```
//!
//! A found table is opened again when its path has changed: the next query sees the new columns of a rewritten file.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::execution::context::SessionState;
use futures::{StreamExt, stream};
use squadron_proto::Failure;
use squadron_shuffle::failure::into_datafusion;
use url::Url;

use super::external::already_exists;
use super::found::{Content, FoundTable, is_gone, stamp_of};
use super::listing;
use super::names::{DEFAULT_SCHEMA, display_url};
use super::omissions::Omissions;
use super::source::{self, Scanned, Source};
use super::stores::Stores;
use super::tables::{self, TableInfo};

/// How soon `SHOW TABLES` lists a new file. A query that names the new table does not wait for this.
const RESCAN_INTERVAL: Duration = Duration::from_secs(1);

/// How many tables are opened at once.
const OPEN_CONCURRENCY: usize = 16;

/// What to do when a table of the same name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnConflict {
    Refuse,
    Keep,
    Replace,
}

pub(super) struct SharedSchema {
    sources: Vec<Source>,
    /// The folder among the sources whose tables the server generated.
    generated: Option<PathBuf>,
    /// Opens tables; its own catalog is empty.
    opener: SessionState,
    stores: Arc<Stores>,
    tables: Mutex<Tables>,
    /// Held by a scan, so that one runs at a time.
    scanning: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Tables {
    by_name: BTreeMap<String, Entry>,
    /// Found tables that were dropped; scans skip them until the server restarts.
    hidden: HashSet<String>,
    /// What the folders of `--data` hold that is no table, as of the last scan.
    omissions: BTreeMap<PathBuf, Omissions>,
}

#[derive(Clone)]
enum Entry {
    /// Created by a statement.
    Created(Arc<dyn TableProvider>),
    /// Found by a scan.
    Found(FoundTable),
    /// Found by a scan at two paths.
    Conflict(Failure),
}

impl fmt::Debug for SharedSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSchema")
            .field("tables", &self.table_names())
            .finish_non_exhaustive()
    }
}

impl SharedSchema {
    pub(super) fn new(
        sources: Vec<Source>,
        generated: Option<PathBuf>,
        opener: SessionState,
        stores: Arc<Stores>,
    ) -> Self {
        Self {
            sources,
            generated,
            opener,
            stores,
            tables: Mutex::default(),
            scanning: tokio::sync::Mutex::default(),
        }
    }

    /// Updates the found tables from the sources. Returns the failures that are new since the last scan.
    pub(super) async fn rescan(&self) -> Vec<Failure> {
        let _one_at_a_time = self.scanning.lock().await;
        let sources = self.sources.clone();
        let scanned = tokio::task::spawn_blocking(move || source::scan(&sources)).await;
        let Scanned {
            candidates,
            mut failures,
            omissions,
        } = match scanned {
            Ok(scanned) => scanned,
            Err(error) => return vec![Failure::internal(error)],
        };
        self.note_omissions(omissions);
        let mut to_open = Vec::new();
        {
            let mut tables = self.lock();
            // When a folder could not be listed, its tables may still exist.
            if failures.is_empty() {
                tables.by_name.retain(|name, entry| match entry {
                    Entry::Created(_) => true,
                    Entry::Found(_) | Entry::Conflict(_) => candidates.contains_key(name),
                });
            }
            for (name, candidate) in candidates {
                if tables.hidden.contains(&name) {
                    continue;
                }
                match (tables.by_name.get(&name), candidate) {
                    (Some(Entry::Created(_)), _) => {}
                    (Some(Entry::Found(found)), Ok(url)) if found.url == url && found.is_up_to_date() => {}
                    (_, Ok(url)) => to_open.push((name, url)),
                    (Some(Entry::Conflict(known)), Err(failure)) if *known == failure => {}
                    (_, Err(failure)) => {
                        failures.push(failure.clone());
                        tables.by_name.insert(name, Entry::Conflict(failure));
                    }
                }
            }
        }
        let opened: Vec<_> = stream::iter(to_open)
            .map(|(name, url)| async move {
                let found = self.open(&name, &url).await;
                (name, found)
            })
            .buffer_unordered(OPEN_CONCURRENCY)
            .collect()
            .await;
        for (name, found) in opened {
            failures.extend(self.insert_found(name, found));
        }
        failures
    }

    /// Keeps what the folders of `--data` hold that is no table, and logs what is new of it.
    fn note_omissions(&self, omissions: BTreeMap<PathBuf, Omissions>) {
        let mut tables = self.lock();
        for (folder, omitted) in &omissions {
            if let Some(text) = omitted.text()
                && tables.omissions.get(folder) != Some(omitted)
            {
                tracing::warn!("not all of {} is a table: {text}", folder.display());
            }
        }
        tables.omissions = omissions;
    }

    /// All tables with what their places hold now, in no order.
    pub(super) async fn describe(&self) -> Vec<TableInfo> {
        log_failures(&self.rescan().await);
        let (entries, omissions) = {
            let tables = self.lock();
            (tables.by_name.clone(), tables.omissions.clone())
        };
        let folders = omissions.into_iter().filter_map(|(folder, omitted)| {
            let location = folder.display().to_string();
            Some(TableInfo::folder(location, omitted.text()?))
        });
        let mut rows: Vec<_> = folders.collect();
        let described = stream::iter(entries)
            .map(|(name, entry)| async move { self.describe_one(&name, entry).await })
            .buffer_unordered(OPEN_CONCURRENCY);
        rows.extend(described.collect::<Vec<_>>().await);
        rows
    }

    async fn describe_one(&self, name: &str, entry: Entry) -> TableInfo {
        let runtime = self.opener.runtime_env();
        match entry {
            Entry::Created(table) => {
                tables::of_created(DEFAULT_SCHEMA, name, "files", table.as_ref(), &self.stores, runtime).await
            }
            Entry::Conflict(failure) => TableInfo::unreadable(name, "files", &failure.message),
            Entry::Found(found) => {
                let path = found.url.to_file_path();
                let is_generated = self
                    .generated
                    .as_ref()
                    .is_some_and(|folder| path.is_ok_and(|path| path.starts_with(folder)));
                let kind = if is_generated { "tpch" } else { "files" };
                tables::of_found(name, found, kind, runtime).await
            }
        }
    }

    /// Inserts an opened table, unless a statement was faster. Returns its failure if that is new.
    fn insert_found(&self, name: String, found: FoundTable) -> Option<Failure> {
        let mut tables = self.lock();
        let before = match tables.by_name.get(&name) {
            Some(Entry::Created(_)) => return None,
            Some(Entry::Found(before)) => Some(before),
            None if tables.hidden.contains(&name) => return None,
            Some(Entry::Conflict(_)) | None => None,
        };
        let new_failure = match &found.content {
            Content::Unreadable(failure) if !before.is_some_and(|before| before.has_failed_with(failure)) => {
                Some(failure.clone())
            }
            Content::Unreadable(_) | Content::Readable(_) | Content::Empty => None,
        };
        if let Some(text) = &found.omissions
            && before.is_none_or(|before| before.omissions != found.omissions)
        {
            tracing::warn!("table {name}: not all of {} is read: {text}", display_url(&found.url));
        }
        tables.by_name.insert(name, Entry::Found(found));
        new_failure
    }

    fn has_local_sources(&self) -> bool {
        self.sources.iter().any(|source| match source {
            Source::Folder(_) => true,
            Source::Single { url, .. } => url.scheme() == "file",
        })
    }

    async fn open(&self, name: &str, url: &Url) -> FoundTable {
        // Before reading: a change meanwhile makes the stamp stale, and the table is opened again.
        let stamp = stamp_of(url);
        let content = match listing::open(name, url, &self.opener, &self.stores).await {
            Ok(Some(table)) => Content::Readable(table),
            Ok(None) => Content::Empty,
            Err(failure) => Content::Unreadable(failure),
        };
        let omissions = tables::omissions_of(url, &content, self.opener.runtime_env()).await;
        FoundTable {
            url: url.clone(),
            stamp,
            content,
            omissions,
        }
    }

    /// Puts a table in place in one step.
    ///
    /// # Errors
    /// With [`OnConflict::Refuse`], when a table of that name exists.
    pub(super) fn put(&self, name: &str, table: Arc<dyn TableProvider>, on_conflict: OnConflict) -> Result<()> {
        let mut tables = self.lock();
        match (tables.by_name.contains_key(name), on_conflict) {
            (true, OnConflict::Refuse) => return Err(already_exists(name)),
            (true, OnConflict::Keep) => return Ok(()),
            (true, OnConflict::Replace) | (false, _) => {}
        }
        tables.by_name.insert(name.to_string(), Entry::Created(table));
        Ok(())
    }

    /// Removes a table of this kind. Returns whether it existed.
    ///
    /// # Errors
    /// When the table of that name is of the other kind.
    pub(super) fn remove(&self, name: &str, kind: TableType) -> Result<bool> {
        let mut tables = self.lock();
        let Some(name) = tables.resolve(name) else {
            return Ok(false);
        };
        let actual = match tables.by_name.get(&name) {
            Some(Entry::Created(table)) => table.table_type(),
            Some(Entry::Found(_) | Entry::Conflict(_)) | None => TableType::Base,
        };
        if actual != kind {
            let word = if actual == TableType::View { "VIEW" } else { "TABLE" };
            return datafusion::common::plan_err!("{name} is not of that kind; use DROP {word} {name}");
        }
        tables.take(&name);
        Ok(true)
    }

    /// The names of all tables, including those that cannot be read.
    pub(super) fn all_names(&self) -> Vec<String> {
        self.lock().by_name.keys().cloned().collect()
    }

    /// The table as last opened; opened again if its path has changed.
    async fn current(&self, name: &str) -> Option<Result<Arc<dyn TableProvider>>> {
        let entry = {
            let tables = self.lock();
            tables
                .resolve(name)
                .and_then(|name| Some((tables.by_name.get(&name)?.clone(), name)))
        };
        let (entry, name) = entry?;
        match entry {
            Entry::Created(table) => Some(Ok(table)),
            Entry::Conflict(failure) => Some(Err(into_datafusion(failure))),
            Entry::Found(found) if found.is_current() => Some(found.table()),
            Entry::Found(found) if is_gone(&found.url) => None,
            Entry::Found(found) => {
                let found = self.open(&name, &found.url).await;
                self.insert_found(name, found.clone());
                Some(found.table())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    /// The exact name, or else the only name that differs in case alone: SQL folds unquoted names.
    fn resolve(&self, name: &str) -> Option<String> {
        if self.by_name.contains_key(name) {
            return Some(name.to_string());
        }
        let folded = name.to_lowercase();
        let mut matching = self.by_name.keys().filter(|known| known.to_lowercase() == folded);
        match (matching.next(), matching.next()) {
            (Some(only), None) => Some(only.clone()),
            _ => None,
        }
    }

    fn take(&mut self, name: &str) -> Option<Entry> {
        let entry = self.by_name.remove(name);
        if matches!(entry, Some(Entry::Found(_) | Entry::Conflict(_))) {
            self.hidden.insert(name.to_string());
        }
        entry
    }
}

/// The name under which a schema lists the table that this name finds: unquoted names are folded.
pub(crate) fn stored_name(schema: &dyn SchemaProvider, name: &str) -> String {
    let shared = schema.downcast_ref::<SharedSchema>();
    let stored = shared.and_then(|shared| shared.lock().resolve(name));
    stored.unwrap_or_else(|| name.to_owned())
}

#[async_trait]
impl SchemaProvider for SharedSchema {
    /// Tables that can be read, so that one broken file does not spoil `information_schema`.
    fn table_names(&self) -> Vec<String> {
        let tables = self.lock();
        let readable = tables.by_name.iter().filter(|(_, entry)| match entry {
            Entry::Created(_) => true,
            Entry::Found(found) => matches!(found.content, Content::Readable(_)),
            Entry::Conflict(_) => false,
        });
        readable.map(|(name, _)| name.clone()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = self.current(name).await {
            return table.map(Some);
        }
        if self.sources.is_empty() {
            return Ok(None);
        }
        // The table's file may be newer than the last scan.
        log_failures(&self.rescan().await);
        self.current(name).await.transpose()
    }

    /// None for a table that became unreadable since the last scan, so that listings leave it out and do not fail.
    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(match self.current(name).await {
            Some(Ok(table)) => Some(table.table_type()),
            Some(Err(_)) | None => None,
        })
    }

    fn register_table(&self, name: String, table: Arc<dyn TableProvider>) -> Result<Option<Arc<dyn TableProvider>>> {
        self.put(&name, table, OnConflict::Refuse)?;
        Ok(None)
    }

    fn deregister_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(match self.lock().take(name) {
            Some(Entry::Created(table)) => Some(table),
            Some(Entry::Found(found)) => found.table().ok(),
            Some(Entry::Conflict(_)) | None => None,
        })
    }

    fn table_exist(&self, name: &str) -> bool {
        self.lock().by_name.contains_key(name)
    }
}

/// Rescans for as long as the schema lives.
pub(super) async fn watch(schema: Weak<SharedSchema>) {
    if schema.upgrade().is_none_or(|schema| !schema.has_local_sources()) {
        return;
    }
    loop {
        tokio::time::sleep(RESCAN_INTERVAL).await;
        let Some(schema) = schema.upgrade() else {
            return;
        };
        log_failures(&schema.rescan().await);
    }
}

pub(super) fn log_failures(failures: &[Failure]) {
    for failure in failures {
        tracing::warn!("{}", failure.message);
    }
}
