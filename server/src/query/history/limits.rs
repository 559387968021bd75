//! How much of the history is kept.

use std::path::PathBuf;

/// How much of the history is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Completed queries.
    pub max_queries: usize,
    /// Bytes that they take in memory.
    pub max_bytes: u64,
    /// The folder where they are kept on disk as well, if any.
    pub folder: Option<PathBuf>,
    /// Bytes that they take there.
    pub max_disk_bytes: u64,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            max_queries: 1000,
            max_bytes: 64 * 1024 * 1024,
            folder: None,
            max_disk_bytes: 64 * 1024 * 1024,
        }
    }
}
