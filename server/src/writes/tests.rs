//! Publication without workers: files are put into the staging folder by hand.

use std::fs;

use squadron_proto::QueryId;
use tempfile::TempDir;

use super::*;

/// A write to `folder` and the files of one attempt in its staging folder.
async fn begun(folder: &std::path::Path, texts: &[&str]) -> (Write, Vec<StagedFile>) {
    let destination = Destination::of_folder(folder, QueryId::new());
    let writes = Writes::new(Handle::current());
    let write = writes.begin(destination).await.unwrap();
    let attempt = write.destination().target().staging.clone().join("0-0-0-0");
    fs::create_dir_all(staging::local(&attempt)).unwrap();
    let files = texts.iter().enumerate().map(|(number, text)| {
        let path = attempt.clone().join(format!("{number}.part"));
        fs::write(staging::local(&path), text).unwrap();
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
async fn published_files_are_there_and_the_staging_folder_is_not() {
    let folder = TempDir::new().unwrap();
    let (write, files) = begun(folder.path(), &["a", "bc"]).await;
    assert!(texts(folder.path()).is_empty());
    let writes = write.writes.clone();
    assert_eq!(writes.active(), 1);
    assert_eq!(write.publish(files).await.unwrap(), 2);
    assert_eq!(texts(folder.path()), ["a", "bc"]);
    assert!(!folder.path().join(STAGING_FOLDER).exists());
    assert_eq!(writes.active(), 0);
}

#[tokio::test]
async fn a_publication_that_breaks_in_the_middle_is_undone() {
    let folder = TempDir::new().unwrap();
    let (write, files) = begun(folder.path(), &["a", "b", "c"]).await;
    let blocked = write.destination().place_of(&files[1], 1);
    fs::create_dir_all(staging::local(&blocked).join("in the way")).unwrap();
    let failure = write.publish(files).await.unwrap_err();
    assert!(failure.message.contains("nothing was"), "{failure}");
    assert!(texts(folder.path()).is_empty());
    assert!(!folder.path().join(STAGING_FOLDER).exists());
}

#[tokio::test]
async fn a_file_that_the_server_does_not_see_is_named() {
    let folder = TempDir::new().unwrap();
    let (write, mut files) = begun(folder.path(), &["a", "b"]).await;
    fs::remove_file(staging::local(&files[1].path)).unwrap();
    files[0].bytes = 7;
    let failure = write.publish(files).await.unwrap_err();
    assert!(failure.message.contains("0.part") && failure.message.contains("instead of 7"));
    assert!(texts(folder.path()).is_empty());
    let (write, files) = begun(folder.path(), &["a", "b"]).await;
    fs::remove_file(staging::local(&files[1].path)).unwrap();
    let failure = write.publish(files).await.unwrap_err();
    assert!(failure.message.contains("1.part") && failure.message.contains("share the folder"));
    assert!(texts(folder.path()).is_empty());
}

#[tokio::test]
async fn a_write_that_is_given_up_takes_its_folders_along() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("new/deep");
    let (write, _) = begun(&target, &["a"]).await;
    let writes = write.writes.clone();
    drop(write);
    while folder.path().join("new").exists() {
        tokio::task::yield_now().await;
    }
    assert_eq!(writes.active(), 0);
}
