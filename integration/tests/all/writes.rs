//! INSERT and COPY: written rows are read back, and a failed write leaves nothing.

mod atomic;
mod faults;
mod formats;
mod refusals;

use std::fs;
use std::path::{Path, PathBuf};

use squadron_integration::client::Client;
use squadron_integration::cluster::{Cluster, cluster};

use crate::support::number;

/// Three remote workers, over tables that are cut as small as possible.
async fn three_workers() -> Cluster {
    cluster().workers(3).slots(1).tpch(0.01).tiny_splits().start().await
}

/// Runs a statement that must succeed and gives its affected rows.
async fn update(client: &Client, sql: &str) -> i64 {
    let updated = client.update(sql).await;
    updated.unwrap_or_else(|status| panic!("{sql}: {status}"))
}

/// All files in and below `folder`, hidden ones too.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Whether a staging folder is left.
fn has_staging_folder(folder: &Path) -> bool {
    folder.join("_squadron").exists()
}

/// Creates an empty folder table of two columns.
async fn create_folder_table(client: &Client, name: &str, folder: &Path) {
    let shown = folder.display();
    fs::create_dir_all(folder).expect("a folder can be made");
    let sql = format!("CREATE EXTERNAL TABLE {name} (id BIGINT, name VARCHAR) STORED AS PARQUET LOCATION '{shown}/'");
    assert_eq!(update(client, &sql).await, 0);
}
