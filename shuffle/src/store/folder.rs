//! The folder of one process's spill files. A process that was killed leaves its folder behind; the next one that
//! starts in the same place removes it.
//!
//! Each folder holds a file that its owner keeps locked, so a folder whose lock is free has no owner. Making and
//! clearing folders happens under one more lock, beside them, so that no one clears a folder that is being made.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use squadron_proto::{Failure, FailureKind, WorkerId};

const PREFIX: &str = "squadron-shuffle-";
const OWNER_LOCK: &str = "lock";
const DOOR_LOCK: &str = "squadron-shuffle.lock";

/// Ours alone; removed on drop.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Locked as long as the folder is ours.
    _owner: File,
}

impl Folder {
    /// A new folder inside `parent`, which is made if it does not exist.
    ///
    /// # Errors
    /// When `parent` cannot be made or written to.
    pub(crate) fn create(parent: &Path) -> Result<Self, Failure> {
        Self::try_create(parent).map_err(|error| {
            Failure::new(
                FailureKind::Storage,
                format!(
                    "the spill folder {} cannot be used: {error}; choose another with --spill-dir",
                    parent.display()
                ),
            )
        })
    }

    fn try_create(parent: &Path) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        let door = File::create(parent.join(DOOR_LOCK))?;
        door.lock()?;
        clear_abandoned(parent)?;
        // A worker id is as good a unique name as any.
        let path = parent.join(format!("{PREFIX}{}", WorkerId::new()));
        private_dir(&path)?;
        let owner = File::create(path.join(OWNER_LOCK))?;
        owner.lock()?;
        Ok(Self { path, _owner: owner })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the spill folder");
        }
    }
}

/// Rows are not for other users of the machine to read.
fn private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn clear_abandoned(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(PREFIX) || !path.is_dir() {
            continue;
        }
        let abandoned = match File::open(path.join(OWNER_LOCK)) {
            Ok(owner) => owner.try_lock().is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if abandoned {
            tracing::info!(path = %path.display(), "removing the spill folder of a dead process");
            // Another user's folder may be locked for us; it does no harm.
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove it");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_its_owner_and_an_abandoned_one_with_the_next() {
        let parent = tempfile::tempdir().unwrap();
        let abandoned = parent.path().join(format!("{PREFIX}dead"));
        fs::create_dir(&abandoned).unwrap();
        fs::write(abandoned.join(OWNER_LOCK), "").unwrap();
        fs::write(abandoned.join("0"), "rows").unwrap();
        let other = parent.path().join("not-ours");
        fs::create_dir(&other).unwrap();

        let first = Folder::create(parent.path()).unwrap();
        assert!(!abandoned.exists());
        assert!(other.exists());

        let second = Folder::create(parent.path()).unwrap();
        assert!(first.path().exists(), "the owner of the first still lives");
        let path = first.path().to_path_buf();
        drop(first);
        assert!(!path.exists());
        assert!(second.path().exists());
    }

    #[test]
    fn a_place_that_cannot_be_used_is_named_with_its_flag() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failure = Folder::create(&file.path().join("below")).unwrap_err();
        assert!(failure.message.contains("--spill-dir"), "{failure}");
        assert_eq!(failure.kind, FailureKind::Storage);
    }
}
