//! Finds tables in `--data`: the rules from paths to table names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use squadron_proto::{Failure, FailureKind};
use url::Url;

use super::format::Format;
use super::names::display_url;
use super::omissions::{Omissions, is_hidden, is_mark, why_no_file};
use crate::config::{DataSource, path_url};

/// Where to look for tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Each file and folder in this folder is a table.
    Folder(PathBuf),
    /// One table.
    Single { name: String, url: Url },
}

impl From<&DataSource> for Source {
    fn from(data: &DataSource) -> Self {
        match data {
            DataSource::Path(path) => Self::Folder(path.clone()),
            DataSource::Named { name, url } => Self::Single {
                name: name.clone(),
                url: url.clone(),
            },
        }
    }
}

/// Changes when the file or folder at a local path changes. Remote tables have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: SystemTime,
    bytes: u64,
}

impl Stamp {
    /// The stamp of the file or folder itself: a folder's changes when an entry is added or removed.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok()?,
            bytes: metadata.len(),
        })
    }

    /// Whether a change right after this stamp was taken might leave it the same, since clocks of file systems tick
    /// slowly.
    pub(super) fn is_fresh(&self) -> bool {
        const SLOWEST_TICK_S: u64 = 2;
        self.modified.elapsed().is_ok_and(|age| age.as_secs() < SLOWEST_TICK_S)
    }
}

/// The location of each table name, or why it has none.
pub(super) type Candidates = BTreeMap<String, Result<Url, Failure>>;

/// What a scan found.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) candidates: Candidates,
    /// One for each folder that cannot be listed; tables of other sources are found all the same.
    pub(super) failures: Vec<Failure>,
    /// What is no table, by the folder that it lies in.
    pub(super) omissions: BTreeMap<PathBuf, Omissions>,
}

/// Lists the tables of all sources. Reads directories, never files; blocks.
pub(super) fn scan(sources: &[Source]) -> Scanned {
    let mut found: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut special = Vec::new();
    let mut omissions = BTreeMap::new();
    for source in sources {
        match source {
            Source::Single { name, url } => found.entry(table_name(name)).or_default().push(url.clone()),
            Source::Folder(path) => match list_tables(path) {
                Ok((tables, omitted)) => {
                    omissions.insert(path.clone(), omitted);
                    for (name, place) in tables {
                        match place {
                            Ok(url) => found.entry(name).or_default().push(url),
                            Err(failure) => special.push((name, failure)),
                        }
                    }
                }
                Err(failure) => failures.push(failure),
            },
        }
    }
    let candidates = found.into_iter().map(|(name, mut urls)| {
        urls.dedup();
        let candidate = match urls.as_slice() {
            [url] => Ok(url.clone()),
            [first, second, ..] => Err(conflict(&name, first, second)),
            [] => Err(Failure::internal("a table without a place")),
        };
        (name, candidate)
    });
    let mut candidates: Candidates = candidates.collect();
    for (name, failure) in special {
        candidates.entry(name).or_insert(Err(failure));
    }
    Scanned {
        candidates,
        failures,
        omissions,
    }
}

fn conflict(name: &str, first: &Url, second: &Url) -> Failure {
    Failure::new(
        FailureKind::Invalid,
        format!(
            "the table name {name} is claimed by both {} and {}; rename one of them, or serve it as NAME=URL",
            display_url(first),
            display_url(second)
        ),
    )
}

/// A table's name, and where it is or why it cannot be read.
type Place = (String, Result<Url, Failure>);

/// The tables of one `--data` path, sorted by name, and what is none.
fn list_tables(path: &Path) -> Result<(Vec<Place>, Omissions), Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(
            FailureKind::Storage,
            format!("--data {} cannot be read: {error}", path.display()),
        )
    };
    let itself = || {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        (local_table(&name, path).into_iter().collect(), Omissions::default())
    };
    if path.is_file() {
        return Ok(itself());
    }
    let mut tables = Vec::new();
    let mut omitted = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let entry = entry.path();
        if is_hidden(&name) {
            if !is_mark(&name) {
                omitted.push((name, "begins with . or _, and is not read"));
            }
            continue;
        }
        if entry.is_dir() && name.contains('=') {
            // Partition folders: the folder as a whole is the table.
            return Ok(itself());
        }
        if entry.is_dir() || entry.is_file() && Format::of(&name).is_some() {
            tables.extend(local_table(&name, &entry));
        } else if Format::of(&name).is_some() {
            tables.push((table_name(Format::stem(&name)), Err(no_file(&entry))));
        } else if entry.is_file() {
            omitted.push((name, "has not the extension of a table file, and is not read"));
        } else {
            omitted.push((name, why_no_file(&entry)));
        }
    }
    tables.sort_by(|(left, _), (right, _)| left.cmp(right));
    omitted.sort();
    let mut omissions = Omissions::default();
    for (name, why) in omitted {
        omissions.note(&name, why);
    }
    Ok((tables, omissions))
}

/// Refuses a path of something else than a file or a folder, without opening it.
pub(super) fn refuse_special(path: &Path) -> Result<(), Failure> {
    match path.exists() && !path.is_file() && !path.is_dir() {
        true => Err(no_file(path)),
        false => Ok(()),
    }
}

fn no_file(path: &Path) -> Failure {
    let message = format!("{} {}; it is left out", path.display(), why_no_file(path));
    Failure::new(FailureKind::Invalid, message)
}

fn local_table(file_name: &str, path: &Path) -> Option<Place> {
    let url = path_url(path)
        .inspect_err(|reason| tracing::warn!("{} {reason}", path.display()))
        .ok()?;
    Some((table_name(Format::stem(file_name)), Ok(url)))
}

/// Letters, digits and underscores stay, everything else becomes an underscore.
fn table_name(stem: &str) -> String {
    stem.chars()
        .map(|c| if c.is_alphanumeric() || c == '_' { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(entries: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in entries {
            let path = folder.path().join(entry);
            if let Some(name) = entry.strip_suffix('/') {
                fs::create_dir_all(folder.path().join(name)).unwrap();
            } else {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
        }
        folder
    }

    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let scanned = scan(&[Source::Folder(folder.path().to_path_buf())]);
        assert!(scanned.failures.is_empty(), "{scanned:?}");
        scanned.candidates.into_keys().collect()
    }

    #[test]
    fn files_and_folders_are_tables() {
        let folder = folder(&[
            "a.parquet",
            "my-data 2024.csv.gz",
            "Größe.json",
            "sub/x.csv",
            "out.parquet/part-0.parquet",
            "README.md",
            ".hidden.csv",
            "_tmp/x.csv",
        ]);
        assert_eq!(names(&folder), ["Größe", "a", "my_data_2024", "out", "sub"]);
    }

    #[test]
    fn partitioned_folder_is_one_table() {
        let outer = folder(&["events/day=1/x.csv", "events/day=2/x.csv"]);
        let Scanned { candidates, .. } = scan(&[Source::Folder(outer.path().join("events"))]);
        let names: Vec<_> = candidates.keys().map(String::as_str).collect();
        assert_eq!(names, ["events"]);
    }

    #[test]
    fn conflict_names_both_files() {
        let folder = folder(&["a.csv", "a.parquet", "b-c.csv", "b.c.csv", "d.csv"]);
        let Scanned { candidates, .. } = scan(&[Source::Folder(folder.path().to_path_buf())]);
        let failure = candidates["a"].as_ref().unwrap_err();
        assert!(
            failure.message.contains("a.csv") && failure.message.contains("a.parquet"),
            "{failure}"
        );
        assert!(candidates["b_c"].is_err() && candidates["d"].is_ok());
    }

    #[test]
    fn repeated_path_is_one_table() {
        let folder = folder(&["a.csv"]);
        let source = Source::Folder(folder.path().to_path_buf());
        let Scanned { candidates, .. } = scan(&[source.clone(), source]);
        assert!(candidates["a"].is_ok());
    }
}
