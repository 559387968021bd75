//! The TPC-H tables: generated once per scale, and kept as Parquet in a cache folder.
//!
//! ```text
//! CACHE/tpch-v1-sf1.lock        held while generating
//! CACHE/tpch-v1-sf1.partial/    being written; a leftover is removed by the next process that holds the lock
//! CACHE/tpch-v1-sf1/            complete: renamed when all files are written
//!     nation.parquet
//!     lineitem/lineitem-000.parquet ...
//! ```

mod generate;
mod progress;

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use squadron_proto::{Failure, FailureKind};

use crate::config::GenerateTpchArgs;

/// Raised when the same scale is written with other files or bytes.
const LAYOUT_VERSION: u32 = 1;

/// The scale of the TPC-H tables, and where they are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Tpch {
    /// 1 is 1 GB of raw data.
    pub scale: f64,
    /// Where the tables of all scales are kept.
    pub cache_dir: PathBuf,
    /// The `squadron` binary, to generate in a process of its own: the generator keeps 300 MB of text until its process
    /// ends. Without it this process generates.
    pub program: Option<PathBuf>,
}

impl Tpch {
    /// Returns the folder with the eight tables, which it generates unless they are cached.
    ///
    /// # Errors
    /// `Storage` when the cache folder cannot be written.
    pub async fn ensure(&self) -> Result<PathBuf, Failure> {
        let folder = folder(self.scale, &self.cache_dir);
        if folder.is_dir() {
            return Ok(folder);
        }
        match self.program.as_deref().filter(|program| is_squadron(program)) {
            Some(program) => self.run_generator(program).await?,
            None => {
                let (scale, cache_dir) = (self.scale, self.cache_dir.clone());
                tokio::task::spawn_blocking(move || generate(scale, &cache_dir))
                    .await
                    .map_err(Failure::internal)??;
            }
        }
        match folder.is_dir() {
            true => Ok(folder),
            false => Err(Failure::internal(format!(
                "{} is missing after it was generated",
                folder.display()
            ))),
        }
    }

    async fn run_generator(&self, program: &Path) -> Result<(), Failure> {
        let cannot_start = |error| storage(format!("{} cannot be started: {error}", program.display()));
        let mut child = tokio::process::Command::new(program)
            .arg("generate-tpch")
            .arg(format!("--scale={}", self.scale))
            .arg("--cache-dir")
            .arg(&self.cache_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(cannot_start)?;
        // Held until the child ends: the child exits when this closes, so it never outlives this process.
        let child_stdin = child.stdin.take();
        let status = child.wait().await.map_err(cannot_start)?;
        drop(child_stdin);
        match status.success() {
            true => Ok(()),
            false => Err(storage(format!(
                "--tpch {}: the tables could not be generated in --cache-dir {}; the lines above say why",
                self.scale,
                self.cache_dir.display()
            ))),
        }
    }
}

/// `squadron generate-tpch`. Exits when standard input closes, and so ends with the process that started it.
pub fn run(args: &GenerateTpchArgs) -> ExitCode {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    match generate(args.scale, &args.cache_dir) {
        Ok(_) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("squadron: {}", failure.message);
            ExitCode::FAILURE
        }
    }
}

/// Writes the tables unless they exist, and returns their folder. Blocks, also while another process writes them.
///
/// # Errors
/// `Storage` when the cache folder cannot be written.
pub fn generate(scale: f64, cache_dir: &Path) -> Result<PathBuf, Failure> {
    let folder = folder(scale, cache_dir);
    let cannot = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| storage(format!("{path} cannot be written: {error}; give another --cache-dir"))
    };
    fs::create_dir_all(cache_dir).map_err(cannot(cache_dir))?;
    let lock_path = folder.with_added_extension("lock");
    let lock = File::create(&lock_path).map_err(cannot(&lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tracing::info!("waiting for another process to generate TPC-H scale {scale}");
            lock.lock().map_err(cannot(&lock_path))?;
        }
        Err(TryLockError::Error(error)) => return Err(cannot(&lock_path)(error)),
    }
    if folder.is_dir() {
        return Ok(folder);
    }
    let partial = folder.with_added_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(cannot(&partial))?;
    }
    fs::create_dir(&partial).map_err(cannot(&partial))?;
    if let Err(failure) = generate::write_tables(scale, &partial) {
        let _ = fs::remove_dir_all(&partial);
        return Err(failure);
    }
    fs::rename(&partial, &folder).map_err(cannot(&folder))?;
    // Dropping the file would unlock it too; the call shows where the lock ends.
    let _ = lock.unlock();
    Ok(folder)
}

fn folder(scale: f64, cache_dir: &Path) -> PathBuf {
    cache_dir.join(format!("tpch-v{LAYOUT_VERSION}-sf{scale}"))
}

/// Whether `program` has the command `generate-tpch`; other programs that use this crate do not.
fn is_squadron(program: &Path) -> bool {
    program.file_stem().is_some_and(|name| name == env!("CARGO_PKG_NAME"))
}

fn storage(message: String) -> Failure {
    Failure::new(FailureKind::Storage, message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.extend(self::files(&path));
            } else {
                files.insert(path.clone(), fs::metadata(&path).unwrap().len());
            }
        }
        files
    }

    #[test]
    fn concurrent_calls_generate_once() {
        let cache = tempfile::tempdir().unwrap();
        let modified = || fs::metadata(folder(0.001, cache.path())).unwrap().modified().unwrap();
        let folders = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|_| scope.spawn(|| (generate(0.001, cache.path()).unwrap(), modified())))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert_eq!(folders[0], folders[1], "the same folder, written once");
        let before = files(&folders[0].0);
        assert_eq!(before.len(), 8);
        assert!(!folders[0].0.with_added_extension("partial").exists());
        generate(0.001, cache.path()).unwrap();
        assert_eq!(files(&folders[0].0), before);
    }

    #[test]
    fn generate_removes_partial_leftovers() {
        let cache = tempfile::tempdir().unwrap();
        let partial = folder(0.001, cache.path()).with_added_extension("partial");
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("region.parquet"), "half").unwrap();
        let folder = generate(0.001, cache.path()).unwrap();
        assert_eq!(files(&folder).len(), 8);
        assert!(fs::metadata(folder.join("region.parquet")).unwrap().len() > 4);
    }

    #[test]
    fn unwritable_cache_error_names_flag() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failure = generate(0.001, &file.path().join("below")).unwrap_err();
        assert!(failure.message.contains("--cache-dir"), "{failure}");
    }
}
