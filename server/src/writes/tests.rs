//! Publication without workers: the tests write files into the staging folder themselves.

use std::fs;

use squadron_proto::QueryId;
use tempfile::TempDir;

use super::*;

/// A write to `folder` and the files of one attempt in its staging folder.
async fn begin_write(folder: &std::path::Path, texts: &[&str]) -> (Write, Vec<StagedFile>) {
    let destination = Destination::of_folder(folder, QueryId::new());
    let writes = Writes::new(Handle::current());
    let write = writes.begin(destination).await.unwrap();
    let attempt = write.destination().target().staging.clone().join("0-0-0-0");
    fs::create_dir_all(staging::local_path(&attempt)).unwrap();
    let files = texts.iter().enumerate().map(|(number, text)| {
        let path = attempt.clone().join(format!("{number}.part"));
        fs::write(staging::local_path(&path), text).unwrap();
        StagedFile {
            path,
            folder: Default::default(),
            rows: 1,
            bytes: text.len() as u64,
        }
    });
    let files = files.collect();
    (write, files)
}

fn texts(folder: &std::path::Path) -> Vec<String> {
    let mut texts: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_file())
        .map(|entry| fs::read_to_string(entry.path()).unwrap())
        .collect();
    texts.sort();
    texts
}

#[tokio::test]
async fn publish_moves_files_and_removes_staging() {
    let folder = TempDir::new().unwrap();
    let (write, files) = begin_write(folder.path(), &["a", "bc"]).await;
    assert!(texts(folder.path()).is_empty());
    let writes = write.writes.clone();
    assert_eq!(writes.active(), 1);
    assert_eq!(write.publish(files).await.unwrap(), 2);
    assert_eq!(texts(folder.path()), ["a", "bc"]);
    assert!(!folder.path().join(STAGING_FOLDER).exists());
    assert_eq!(writes.active(), 0);
}

#[tokio::test]
async fn failed_publication_is_fully_undone() {
    let folder = TempDir::new().unwrap();
    let (write, files) = begin_write(folder.path(), &["a", "b", "c"]).await;
    let blocked = write.destination().file_path(&files[1], 1);
    fs::create_dir_all(staging::local_path(&blocked).join("in the way")).unwrap();
    let failure = write.publish(files).await.unwrap_err();
    assert!(failure.message.contains("nothing was"), "{failure}");
    assert!(texts(folder.path()).is_empty());
    assert!(!folder.path().join(STAGING_FOLDER).exists());
}

#[tokio::test]
async fn publish_error_names_missing_file() {
    let folder = TempDir::new().unwrap();
    let (write, mut files) = begin_write(folder.path(), &["a", "b"]).await;
    fs::remove_file(staging::local_path(&files[1].path)).unwrap();
    files[0].bytes = 7;
    let failure = write.publish(files).await.unwrap_err();
    assert!(failure.message.contains("0.part") && failure.message.contains("instead of 7"));
    assert!(texts(folder.path()).is_empty());
    let (write, files) = begin_write(folder.path(), &["a", "b"]).await;
    fs::remove_file(staging::local_path(&files[1].path)).unwrap();
    let failure = write.publish(files).await.unwrap_err();
    assert!(failure.message.contains("1.part") && failure.message.contains("share the folder"));
    assert!(texts(folder.path()).is_empty());
}

#[tokio::test]
async fn dropped_write_removes_its_folders() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("new/deep");
    let (write, _) = begin_write(&target, &["a"]).await;
    let writes = write.writes.clone();
    drop(write);
    while folder.path().join("new").exists() {
        tokio::task::yield_now().await;
    }
    assert_eq!(writes.active(), 0);
}
