//! Local files that outlive a power failure: the content is on the disk before a file gets its name, and the names are
//! before the statement is answered. Object stores see to it themselves.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use squadron_proto::{Failure, FailureKind};
use tokio::task::spawn_blocking;

/// Writes the content of `file` to the disk.
///
/// # Errors
/// That of the disk, with the name of the file: rows that could not be kept must not be published.
pub(super) async fn sync_file(file: PathBuf) -> Result<(), Failure> {
    sync(file).await
}

/// Writes the names in the folders of `files`, and the names of those folders below `root`, to the disk.
///
/// # Errors
/// That of the disk, with the name of the folder.
pub(super) async fn sync_folders(root: &Path, files: &[PathBuf]) -> Result<(), Failure> {
    for folder in folders(root, files) {
        sync(folder).await?;
    }
    Ok(())
}

/// The folders of `files` and those above them, up to `root`.
fn folders(root: &Path, files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let above = files.iter().flat_map(|file| file.ancestors().skip(1));
    let mut folders: BTreeSet<_> = above
        .filter(|folder| folder.starts_with(root))
        .map(Path::to_path_buf)
        .collect();
    // The table's own folder may be new as well.
    folders.extend(root.parent().map(Path::to_path_buf));
    folders
}

async fn sync(path: PathBuf) -> Result<(), Failure> {
    let shown = path.display().to_string();
    let synced = spawn_blocking(move || File::open(path)?.sync_all()).await;
    synced
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|error| {
            Failure::new(
                FailureKind::Storage,
                format!("the disk does not keep {shown}: {error}; see to the disk, and run the statement again"),
            )
        })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn folders_reach_from_the_file_to_above_the_table() {
        let files = [PathBuf::from("/t/a=1/b=2/x"), PathBuf::from("/t/y")];
        let found: Vec<_> = folders(Path::new("/t"), &files).into_iter().collect();
        let expected = ["/", "/t", "/t/a=1", "/t/a=1/b=2"].map(PathBuf::from);
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        fs::write(&file, "x").unwrap();
        sync_file(file.clone()).await.unwrap();
        sync_folders(folder.path(), std::slice::from_ref(&file)).await.unwrap();
        fs::remove_file(&file).unwrap();
        let failure = sync_file(file.clone()).await.unwrap_err();
        assert!(failure.message.contains(&file.display().to_string()), "{failure}");
    }
}
