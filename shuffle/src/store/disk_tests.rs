//! Tests of rows on disk: kept rows that make room, damage, spill files of operators, a folder that is removed.

use std::io::Write;
use std::sync::Arc;

use datafusion::execution::TempFileFactory;
use futures::TryStreamExt;
use squadron_proto::FailureKind;
use squadron_proto::control::OutputMode;

use super::StoreUsage;
use super::batch_store::{BatchStore, Put};
use super::operator_files::OperatorFiles;
use super::overflow::DiskOutput;
use super::tests::{disk, open, release_all, walk};
use crate::testing::{number_rows, numbers, store};

#[tokio::test]
async fn kept_rows_make_room() {
    let test = store(Some(64_000_000));
    let store = &test.store;
    let (key, writer) = open(store, 2, OutputMode::Retained);
    for n in 0..20 {
        writer
            .push(n % 2, number_rows(i64::from(n) * 10_000, 10_000))
            .await
            .unwrap();
    }
    let before = store.usage();
    assert_eq!(before.disk_bytes, 0);
    // A reader has the first rows, and gets the rest from disk.
    let mut reader = store.read(key, 0).unwrap();
    let first = reader.try_next().await.unwrap().unwrap();
    assert!(store.move_to_disk(100_000).unwrap());
    let between = store.usage();
    assert!(between.memory_bytes + 100_000 <= before.memory_bytes);
    assert!(between.memory_bytes > 0, "no more than was asked for");
    assert!(store.move_to_disk(usize::MAX).unwrap());
    assert!(!store.move_to_disk(usize::MAX).unwrap(), "nothing is left in memory");
    assert_eq!(store.usage().memory_bytes, 0);
    writer.push(0, number_rows(200_000, 10)).await.unwrap();
    writer.finish().unwrap();
    let rest: Vec<_> = reader.try_collect().await.unwrap();
    let even = (0..20i64)
        .filter(|n| n % 2 == 0)
        .flat_map(|n| n * 10_000..(n + 1) * 10_000);
    let expected: Vec<_> = even.chain(200_000..200_010).collect();
    assert_eq!([numbers(&[first]), numbers(&rest)].concat(), expected);
    drop(store.take(&release_all()));
    assert_eq!(store.usage(), StoreUsage::default());
}

#[test]
fn damaged_block_is_noticed() {
    let (parent, disk) = disk(u64::MAX);
    let output = DiskOutput::new(disk.file());
    let Put::Stored(stored) = output.put(number_rows(0, 1000)).unwrap() else {
        panic!("a disk store without room");
    };
    let file = walk(parent.path())
        .into_iter()
        .find(|path| path.ends_with("/0"))
        .unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let failure = stored.load().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Storage);
    assert!(failure.message.contains("--spill-dir"), "{failure}");
}

#[tokio::test]
async fn operator_files_are_read_while_they_are_written() {
    let (_parent, disk) = disk(1_000_000);
    let files = OperatorFiles(Arc::clone(&disk));
    let file = files.create_temp_file("a test").unwrap();
    let mut writer = file.open_writer().unwrap();
    let bytes: Vec<u8> = (0..400_000u32).map(|n| n as u8).collect();
    let read = async || {
        let chunks: Vec<_> = file.read_stream().unwrap().try_collect().await.unwrap();
        chunks.concat()
    };
    writer.write_all(&bytes[..100]).unwrap();
    writer.flush().unwrap();
    assert_eq!(read().await, bytes[..100]);
    writer.write_all(&bytes[100..]).unwrap();
    writer.finish().unwrap();
    assert_eq!(read().await, bytes);
    assert_eq!(file.size(), Some(400_000));
    assert_eq!(disk.used_bytes(), 400_000);
    let refused = writer.write_all(&[0; 700_000]).unwrap_err();
    let failure = crate::failure::of(&refused.into());
    assert_eq!(failure.kind, FailureKind::DiskFull);
    assert!(failure.message.contains("--max-spill-bytes"), "{failure}");
    drop((writer, file));
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn removed_spill_folder_is_made_again() {
    let (parent, disk) = disk(u64::MAX);
    let old = DiskOutput::new(disk.file());
    let Put::Stored(stored) = old.put(number_rows(0, 1000)).unwrap() else {
        panic!("a disk store without room");
    };
    std::fs::remove_dir_all(parent.path()).unwrap();
    assert_eq!(
        stored.load().unwrap(),
        number_rows(0, 1000),
        "the open file is still there"
    );
    let new = DiskOutput::new(disk.file());
    assert!(new.put(number_rows(0, 1000)).is_ok());
}
