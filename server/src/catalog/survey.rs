//! What lies at the places of a table: the files that are read, and those that are passed over, with the reason of each.
//!
//! Whether a file is read is asked as DataFusion asks it when it lists the files of a scan, so that the two cannot tell
//! different stories. Folders of this machine are walked here, for an object store shows only what can be read.

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::datasource::listing::helpers::parse_partitions_for_path;
use datafusion::datasource::listing::{ListingTable, ListingTableUrl};
use datafusion::datasource::physical_plan::parquet::metadata::CachedParquetMetaData;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use futures::TryStreamExt;
use url::Url;

use super::omissions::{Omissions, is_hidden, is_mark, why_no_file};

/// How many entries of folders are looked at for one table.
const MAX_ENTRIES: u64 = 100_000;
/// How deep folders are looked at.
const MAX_DEPTH: usize = 100;
/// How long a store that is not on this machine may take.
const REMOTE_LIMIT: Duration = Duration::from_secs(10);

/// What a table reads and does not read.
#[derive(Clone, Debug, Default)]
pub(super) struct Survey {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// The rows of the files whose footers are known, and how many these are.
    rows: u64,
    files_with_rows: u64,
    entries: u64,
    pub(super) omissions: Omissions,
}

impl Survey {
    /// The number of rows, if every file tells it.
    pub(super) fn rows(&self) -> Option<u64> {
        (self.files > 0 && self.files == self.files_with_rows).then_some(self.rows)
    }

    /// Looks at the files of a table; `is_found` if a scan of `--data` made it, not a statement.
    pub(super) async fn of_table(table: &ListingTable, is_found: bool, runtime: &RuntimeEnv) -> Self {
        let options = table.options();
        let partitions = options.table_partition_cols.iter().map(|(name, _)| name.clone());
        let partitions: Vec<String> = partitions.collect();
        let mut survey = Self::default();
        for location in table.table_paths() {
            let pattern = location.get_glob().as_ref().map(|glob| glob.as_str());
            // DataFusion makes the pattern `*.csv` of a folder.
            let of_folder = pattern
                .and_then(|pattern| pattern.strip_prefix('*'))
                .filter(|suffix| suffix.starts_with('.') && !suffix.contains(['*', '?', '[']));
            let suffix = match options.file_extension.as_str() {
                "" => of_folder.unwrap_or_default(),
                suffix => suffix,
            };
            let reader = Reader {
                location: location.clone(),
                suffix: suffix.to_owned(),
                partitions: partitions.clone(),
                reads: true,
                // A statement whose LOCATION has a pattern names the files that it wants: others are no omission.
                is_pattern: !is_found && pattern.is_some() && of_folder.is_none(),
            };
            survey = survey.with(reader, runtime).await;
        }
        survey
    }

    /// Looks at a folder that no table reads, since there is no data file in it.
    pub(super) async fn of_empty(folder: &Url, runtime: &RuntimeEnv) -> Self {
        let mut folder = folder.clone();
        if !folder.path().ends_with('/') {
            folder.set_path(&format!("{}/", folder.path()));
        }
        let Ok(location) = ListingTableUrl::try_new(folder, None) else {
            return Self::default();
        };
        let reader = Reader {
            location,
            suffix: String::new(),
            partitions: Vec::new(),
            reads: false,
            is_pattern: false,
        };
        Self::default().with(reader, runtime).await
    }

    async fn with(self, reader: Reader, runtime: &RuntimeEnv) -> Self {
        let footers = runtime.cache_manager.get_file_metadata_cache();
        let url = reader.location.get_url().clone();
        if url.scheme() == "file"
            && let Ok(path) = url.to_file_path()
        {
            let before = self.clone();
            let mut walk = Walk {
                reader,
                footers,
                survey: self,
                root: path,
            };
            let walked = tokio::task::spawn_blocking(move || {
                walk.begin();
                walk.survey
            });
            return walked.await.unwrap_or(before);
        }
        let mut survey = self;
        let listed = match runtime.object_store(&reader.location) {
            Ok(store) => {
                let listing = survey.list(&store, &reader, footers.as_ref());
                match tokio::time::timeout(REMOTE_LIMIT, listing).await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some(format!("it takes more than {} s", REMOTE_LIMIT.as_secs())),
                }
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = listed {
            let why = format!("cannot be listed: {}", why.replace('\n', " "));
            survey.omissions.note("the folder", &why);
        }
        survey
    }

    /// Looks at the objects of a store.
    async fn list(
        &mut self,
        store: &Arc<dyn ObjectStore>,
        reader: &Reader,
        footers: &FileMetadataCache,
    ) -> datafusion::object_store::Result<()> {
        let prefix = reader.location.prefix();
        if !reader.location.is_collection()
            && let Ok(object) = store.head(prefix).await
        {
            self.file(&object, reader, footers);
            return Ok(());
        }
        let mut listing = store.list(Some(prefix));
        while let Some(object) = listing.try_next().await? {
            if !self.enter() {
                break;
            }
            self.file(&object, reader, footers);
        }
        Ok(())
    }

    /// Counts one more entry. False when there are too many.
    fn enter(&mut self) -> bool {
        self.entries += 1;
        if self.entries == MAX_ENTRIES + 1 {
            let why = format!("of a folder with more than {MAX_ENTRIES} entries was not looked at");
            self.omissions.note("the rest", &why);
        }
        self.entries <= MAX_ENTRIES
    }

    fn file(&mut self, object: &ObjectMeta, reader: &Reader, footers: &FileMetadataCache) {
        if !reader.reads(object) {
            if let Some((name, why)) = reader.why_not(object) {
                self.omissions.note(&name, &why);
            }
            return;
        }
        self.files += 1;
        self.bytes += object.size;
        let footer = footers
            .get(&object.location)
            .filter(|known| known.is_valid_for(object))
            .and_then(|known| {
                let footer = known.file_metadata.as_any().downcast_ref::<CachedParquetMetaData>()?;
                u64::try_from(footer.parquet_metadata().file_metadata().num_rows()).ok()
            });
        if let Some(rows) = footer {
            self.rows = self.rows.saturating_add(rows);
            self.files_with_rows += 1;
        }
    }
}

/// Which files of a place a table reads.
struct Reader {
    location: ListingTableUrl,
    suffix: String,
    partitions: Vec<String>,
    /// False where nothing is read.
    reads: bool,
    /// Whether the location has a pattern of the user's.
    is_pattern: bool,
}

impl Reader {
    /// The question that DataFusion asks of each file that it lists.
    fn reads(&self, object: &ObjectMeta) -> bool {
        let location = &object.location;
        let partitions = self.partitions.iter().map(String::as_str);
        self.reads
            && object.size > 0
            && location.as_ref().ends_with(&self.suffix)
            && self.location.contains(location, true)
            && parse_partitions_for_path(&self.location, location, partitions).is_some()
    }

    /// What is passed over with the file, itself or the outermost such folder, and why. None where nobody would expect
    /// that it is read.
    fn why_not(&self, object: &ObjectMeta) -> Option<(String, String)> {
        if self.is_pattern && !self.location.contains(&object.location, true) {
            return None;
        }
        let parts: Vec<&str> = self.location.strip_prefix(&object.location)?.collect();
        let (file, folders) = parts.split_last()?;
        for (depth, folder) in folders.iter().enumerate() {
            if is_mark(folder) {
                return None;
            }
            let why = match (is_hidden(folder), folder.contains('=')) {
                (true, _) => "begins with . or _, and is not read",
                (false, false) => "is a folder within the table's and not named k=v, and is not read",
                (false, true) => continue,
            };
            return Some((format!("{}/", parts[..=depth].join("/")), why.to_owned()));
        }
        if is_mark(file) {
            return None;
        }
        let why = if object.size == 0 {
            "is empty".to_owned()
        } else if is_hidden(file) {
            "begins with . or _, and is not read".to_owned()
        } else if !self.reads {
            "is no table file, and is not read".to_owned()
        } else if !file.ends_with(&self.suffix) {
            format!(
                "does not end in {} as the table's files do, and is not read",
                self.suffix
            )
        } else {
            let folders = self.partitions.join("=.../");
            format!("does not lie in folders {folders}=..., and is not read")
        };
        Some((parts.join("/"), why))
    }
}

/// A walk through folders of this machine.
struct Walk {
    reader: Reader,
    footers: Arc<FileMetadataCache>,
    survey: Survey,
    root: PathBuf,
}

impl Walk {
    fn begin(&mut self) {
        let root = self.root.clone();
        match root.is_dir() {
            true => self.folder(&root, &mut Vec::new()),
            false => self.entry(&root, &mut Vec::new()),
        }
    }

    /// `above` are the real paths of the folders that the walk is in.
    fn folder(&mut self, folder: &FilePath, above: &mut Vec<PathBuf>) {
        let real = match folder.canonicalize() {
            Ok(real) if above.contains(&real) => {
                return self.omit(folder, "is a link to a folder that it lies in, and is not read");
            }
            Ok(real) => real,
            Err(error) => return self.omit(folder, &format!("cannot be read: {error}")),
        };
        if above.len() == MAX_DEPTH {
            return self.omit(folder, "lies too deep, and was not looked at");
        }
        let entries = fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
        let mut entries: Vec<PathBuf> = match entries {
            Ok(entries) => entries,
            Err(error) => return self.omit(folder, &format!("cannot be read: {error}")),
        };
        entries.sort();
        above.push(real);
        for entry in entries {
            if !self.survey.enter() {
                break;
            }
            self.entry(&entry, above);
        }
        above.pop();
    }

    fn entry(&mut self, path: &FilePath, above: &mut Vec<PathBuf>) {
        let Ok(metadata) = fs::metadata(path) else {
            return self.omit(path, why_no_file(path));
        };
        if metadata.is_dir() {
            return self.folder(path, above);
        }
        if !metadata.is_file() {
            return self.omit(path, why_no_file(path));
        }
        let (Ok(location), Ok(modified)) = (Path::from_absolute_path(path), metadata.modified()) else {
            return self.omit(path, "has a name that cannot be a URL, and is not read");
        };
        let object = ObjectMeta {
            location,
            last_modified: modified.into(),
            size: metadata.len(),
            e_tag: None,
            version: None,
        };
        self.survey.file(&object, &self.reader, self.footers.as_ref());
    }

    fn omit(&mut self, path: &FilePath, why: &str) {
        let name = path.strip_prefix(&self.root).unwrap_or(path);
        let name = match name.as_os_str().is_empty() {
            true => path.display().to_string(),
            false => name.display().to_string(),
        };
        self.survey.omissions.note(&name, why);
    }
}
