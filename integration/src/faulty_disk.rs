//! Disks that a test can fill and slow down: a library between a process and its C library (Linux, `LD_PRELOAD`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOURCE: &str = include_str!("faulty_disk.c");

/// How a disk behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCondition {
    /// It works.
    Good,
    /// Nothing can be written.
    Full,
    /// Each write, and each removal, takes so much longer.
    Slow(Duration),
}

/// The disk of one folder, as processes see it that run with [`FaultyDisk::variables`].
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    folder: PathBuf,
}

impl FaultyDisk {
    /// The disk of a folder that need not be there.
    pub fn of(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Compiles the library into a file. It is small; there is a C compiler wherever Rust programs are linked.
    ///
    /// # Panics
    /// When it does not compile.
    pub fn compile(library: &Path) {
        let source = library.with_extension("c");
        fs::write(&source, SOURCE).expect("the folder takes files");
        let mut command = Command::new("cc");
        command
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(library)
            .arg(&source);
        let output = command.output().expect("there is a C compiler");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the library does not compile: {said}");
    }

    /// The environment of a process that sees this disk, through a compiled library.
    pub fn variables(&self, library: &Path) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", library.to_owned()), ("FAULTY_DISK", self.folder.clone())]
    }

    /// From now on the disk behaves like this.
    ///
    /// # Panics
    /// When the folder beside its own takes no files.
    pub fn set(&self, condition: DiskCondition) {
        let fault = match condition {
            DiskCondition::Good => {
                let _ = fs::remove_file(self.beside("fault"));
                return;
            }
            DiskCondition::Full => "full".to_owned(),
            DiskCondition::Slow(delay) => format!("slow {}", delay.as_millis()),
        };
        // Nobody reads half of it.
        let new = self.beside("fault-new");
        let written = fs::write(&new, fault).and_then(|()| fs::rename(&new, self.beside("fault")));
        written.expect("the folder takes files");
    }

    /// How many calls have felt a condition other than good.
    pub fn hits(&self) -> u64 {
        fs::metadata(self.beside("hits")).map_or(0, |file| file.len())
    }

    fn beside(&self, extension: &str) -> PathBuf {
        let mut path = self.folder.clone().into_os_string();
        path.push(".");
        path.push(extension);
        path.into()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// Copies a file into the folder. Returns whether that was possible.
    fn copy(disk: &FaultyDisk, library: &Path) -> bool {
        let mut command = Command::new("sh");
        command.args(["-c", "echo row > \"$FAULTY_DISK/file\""]);
        let output = command.envs(disk.variables(library)).output().unwrap();
        output.status.success()
    }

    #[test]
    fn disk_is_filled_and_slowed_and_good_again() {
        let folder = TempDir::new().unwrap();
        let library = folder.path().join("faulty_disk.so");
        FaultyDisk::compile(&library);
        let disk = FaultyDisk::of(folder.path().join("disk"));
        fs::create_dir(folder.path().join("disk")).unwrap();
        assert!(copy(&disk, &library) && disk.hits() == 0);
        disk.set(DiskCondition::Full);
        assert!(!copy(&disk, &library) && disk.hits() == 1);
        disk.set(DiskCondition::Slow(Duration::from_millis(50)));
        let began = std::time::Instant::now();
        assert!(copy(&disk, &library) && disk.hits() == 2);
        assert!(began.elapsed() >= Duration::from_millis(50));
        disk.set(DiskCondition::Good);
        assert!(copy(&disk, &library) && disk.hits() == 2);
    }
}
