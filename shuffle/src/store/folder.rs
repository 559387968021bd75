//! The folder of one process's spill files. A process that was killed leaves its folder behind; the next process that
//! starts with the same parent folder removes it.
//!
//! Each folder holds a file that its owner keeps locked, so a folder whose lock is free has no owner. A process creates
//! and removes folders under a second lock in the parent, so that no process removes a folder that another is creating.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use squadron_proto::{Failure, FailureKind, WorkerId};

const PREFIX: &str = "squadron-shuffle-";
const OWNER_LOCK: &str = "lock";
const SETUP_LOCK: &str = "squadron-shuffle.lock";

/// A folder that this process alone uses; removed on drop.
#[derive(Debug)]
pub(crate) struct Folder {
    parent: PathBuf,
    path: PathBuf,
    /// Locked for as long as the folder is in use.
    owner: Mutex<File>,
    is_removed: AtomicBool,
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
        let _setup = lock_setup(parent)?;
        remove_abandoned(parent)?;
        // A worker id serves as a unique name.
        let path = parent.join(format!("{PREFIX}{}", WorkerId::new()));
        let owner = Mutex::new(create_owned(&path)?);
        Ok(Self {
            parent: parent.to_owned(),
            path,
            owner,
            is_removed: AtomicBool::new(false),
        })
    }

    /// Makes the folder again if another process has removed it.
    pub(crate) fn restore(&self) -> io::Result<()> {
        if self.is_removed.load(Ordering::Relaxed) {
            return Err(io::Error::other("this process is about to end"));
        }
        let _setup = lock_setup(&self.parent)?;
        if !self.path.is_dir() {
            let owner = create_owned(&self.path)?;
            *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = owner;
            tracing::warn!(path = %self.path.display(), "the spill folder was removed; made again");
        }
        Ok(())
    }

    /// Removes the folder for good, while others may still hold this: a process that ends drops nothing that a thread of
    /// it still uses.
    pub(crate) fn remove(&self) {
        if self.is_removed.swap(true, Ordering::Relaxed) {
            return;
        }
        let removed = fs::remove_dir_all(&self.path);
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the spill folder");
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Until the lock is dropped, no other process creates or removes folders in `parent`.
fn lock_setup(parent: &Path) -> io::Result<File> {
    fs::create_dir_all(parent)?;
    let setup = File::create(parent.join(SETUP_LOCK))?;
    setup.lock()?;
    Ok(setup)
}

/// Creates the folder and locks it.
fn create_owned(path: &Path) -> io::Result<File> {
    create_private_dir(path)?;
    let owner = File::create(path.join(OWNER_LOCK))?;
    owner.lock()?;
    Ok(owner)
}

/// Creates a folder that other users of the machine cannot read.
fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Removes the folders of `parent` that have no owner.
fn remove_abandoned(parent: &Path) -> io::Result<()> {
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
            // The folder of another user may be unreadable, which is harmless.
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
    fn next_process_removes_abandoned_folders() {
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
        assert!(first.path().exists(), "the first folder still has its owner");
        let path = first.path().to_path_buf();
        drop(first);
        assert!(!path.exists());
        assert!(second.path().exists());
    }

    #[test]
    fn removed_folder_is_restored() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create(parent.path()).unwrap();
        folder.restore().unwrap();
        fs::remove_dir_all(parent.path()).unwrap();
        folder.restore().unwrap();
        let _other = Folder::create(parent.path()).unwrap();
        assert!(folder.path().exists(), "it still has its owner");
    }

    #[test]
    fn folder_that_is_removed_for_good_stays_so() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create(parent.path()).unwrap();
        folder.remove();
        assert!(!folder.path().exists());
        folder.restore().expect_err("the process ends");
        assert!(!folder.path().exists());
    }

    #[test]
    fn unusable_parent_names_the_flag() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failure = Folder::create(&file.path().join("below")).unwrap_err();
        assert!(failure.message.contains("--spill-dir"), "{failure}");
        assert_eq!(failure.kind, FailureKind::Storage);
    }
}
