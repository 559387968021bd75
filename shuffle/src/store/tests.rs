//! Tests of the store: the contract of its media, and outputs with their writers and readers.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, UnboundedMemoryPool};
use futures::{FutureExt, StreamExt, TryStreamExt};
use squadron_proto::control::{OutputMode, Release};
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, StageId};

use super::batch_store::{BatchStore, Put, StoredBatch};
use super::disk::DiskStore;
use super::folder::Folder;
use super::memory::MemoryStore;
use super::overflow::{DiskOutput, Overflow};
use super::{Store, StoreOptions, StoreUsage};
use crate::OutputWriter;
use crate::testing::{key, number_rows, numbers, samples, store, without_columns};

/// What every [`BatchStore`] must do.
fn check_contract(name: &str, store: &dyn BatchStore, bytes_held: &dyn Fn() -> u64) {
    let put = |batch: &RecordBatch| match store.put(batch.clone()).unwrap() {
        Put::Stored(stored) => stored,
        Put::Full(_) => panic!("{name} is full"),
    };
    let samples = samples();
    let stored: Vec<_> = samples.iter().map(|(_, batch)| put(batch)).collect();
    for _ in 0..2 {
        for ((sample, batch), stored) in samples.iter().zip(&stored).rev() {
            let loaded = stored.load().unwrap();
            assert_eq!(&loaded, batch, "{sample} in {name}");
            assert_eq!(loaded.schema(), batch.schema(), "{sample} in {name}");
        }
    }
    assert!(bytes_held() > 0, "{name}");

    let clones = stored.clone();
    drop(stored);
    assert_eq!(clones[2].load().unwrap(), samples[2].1);
    drop(clones);
    assert_eq!(bytes_held(), 0, "{name}");

    let again = put(&samples[2].1);
    assert_eq!(again.load().unwrap(), samples[2].1);
    drop(again);
    assert_eq!(bytes_held(), 0, "{name}");

    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let batches = (0..50).map(|n| number_rows(thread * 1000 + n, 10));
                let stored: Vec<_> = batches.map(|batch| (put(&batch), batch)).collect();
                for (stored, batch) in stored {
                    assert_eq!(stored.load().unwrap(), batch);
                }
            });
        }
    });
    assert_eq!(bytes_held(), 0, "{name}");
}

fn memory(pool: Arc<dyn MemoryPool>) -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(&pool))
}

pub(super) fn disk(max_bytes: u64) -> (tempfile::TempDir, Arc<DiskStore>) {
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::create(parent.path()).unwrap();
    (parent, Arc::new(DiskStore::new(folder, max_bytes)))
}

#[test]
fn memory_store_meets_the_contract() {
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let memory = memory(Arc::clone(&pool));
    let held = || {
        assert_eq!(pool.reserved(), memory.held_bytes());
        memory.held_bytes() as u64
    };
    check_contract("memory", memory.as_ref(), &held);
}

#[test]
fn disk_store_meets_the_contract() {
    let (_parent, disk) = disk(u64::MAX);
    let output = DiskOutput::new(disk.file());
    let held = || disk.used_bytes();
    check_contract("disk", &output, &held);
}

#[test]
fn overflow_store_meets_the_contract() {
    let (_parent, disk) = disk(u64::MAX);
    let memory = memory(Arc::new(GreedyMemoryPool::new(8_000_000)));
    let overflow = Overflow::new(Arc::clone(&memory), DiskOutput::new(disk.file()));
    let held = || {
        assert!(memory.held_bytes() <= 4_000_000, "half of the pool is for others");
        memory.held_bytes() as u64 + disk.used_bytes()
    };
    check_contract("overflow", &overflow, &held);
}

#[test]
fn full_memory_returns_the_batch() {
    let memory = memory(Arc::new(GreedyMemoryPool::new(1000)));
    let batch = number_rows(0, 1000);
    match memory.put(batch.clone()).unwrap() {
        Put::Full(back) => assert_eq!(back, batch),
        Put::Stored(stored) => panic!("stored {stored:?}"),
    }
    assert_eq!(memory.held_bytes(), 0);
}

#[test]
fn full_disk_names_the_flag() {
    let (_parent, disk) = disk(10_000);
    let output = DiskOutput::new(disk.file());
    let failure = output.put(number_rows(0, 10_000)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::DiskFull);
    assert!(failure.message.contains("--spill-dir"), "{failure}");
    assert_eq!(disk.used_bytes(), 0);
    assert!(matches!(
        output.put(number_rows(0, 1)).unwrap(),
        Put::Stored(StoredBatch::Disk(_))
    ));
}

pub(super) fn open(store: &Store, partitions: u32, mode: OutputMode) -> (AttemptKey, OutputWriter) {
    let schema = number_rows(0, 1).schema();
    let key = key(1, 0);
    let writer = store.create(key, schema, (0..partitions).collect(), mode).unwrap();
    (key, writer)
}

async fn read_all(store: &Store, key: AttemptKey, partition: u32) -> Result<Vec<RecordBatch>, Failure> {
    store.read(key, partition)?.try_collect().await
}

pub(super) fn release_all() -> Release {
    Release {
        query: QueryId::from_u128(1),
        stages: vec![],
    }
}

#[tokio::test]
async fn retained_rows_are_read_repeatedly() {
    let test = store(None);
    let (key, writer) = open(&test.store, 2, OutputMode::Retained);
    let batches = [number_rows(0, 10), number_rows(10, 10)];
    for batch in &batches {
        writer.push(1, batch.clone()).await.unwrap();
    }
    writer.push(1, number_rows(0, 0)).await.unwrap();
    let written = writer.finish().unwrap();
    assert_eq!(written.partitions.len(), 1);
    assert_eq!(written.partitions[0].partition, 1);
    assert_eq!(written.partitions[0].rows, 20);
    assert!(written.partitions[0].bytes > 20 * 8);
    assert_eq!(written.spilled_bytes, 0);
    for _ in 0..2 {
        let read = read_all(&test.store, key, 1).await.unwrap();
        assert_eq!(read, batches);
        assert!(Arc::ptr_eq(read[1].column(0), batches[1].column(0)));
        assert!(read_all(&test.store, key, 0).await.unwrap().is_empty());
    }
    assert_eq!(test.store.schema(key), Some(batches[0].schema()));
    drop(writer);
    assert_eq!(read_all(&test.store, key, 1).await.unwrap(), batches);
}

#[tokio::test]
async fn reader_attaches_while_writer_writes() {
    let test = store(None);
    let (key, writer) = open(&test.store, 1, OutputMode::Retained);
    writer.push(0, number_rows(0, 10)).await.unwrap();
    let mut reader = test.store.read(key, 0).unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap(), number_rows(0, 10));
    assert!(reader.next().now_or_never().is_none());
    let write = async {
        tokio::task::yield_now().await;
        writer.push(0, number_rows(10, 10)).await.unwrap();
        tokio::task::yield_now().await;
        writer.finish().unwrap();
    };
    let (rest, ()) = tokio::join!(reader.try_collect::<Vec<_>>(), write);
    assert_eq!(rest.unwrap(), [number_rows(10, 10)]);
}

#[tokio::test]
async fn partition_ends_before_its_output() {
    let test = store(None);
    let (key, writer) = open(&test.store, 2, OutputMode::Retained);
    writer.push(0, number_rows(0, 10)).await.unwrap();
    writer.finish_partition(0);
    assert_eq!(read_all(&test.store, key, 0).await.unwrap(), [number_rows(0, 10)]);
    let failure = writer.push(0, number_rows(0, 10)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Internal);
    writer.push(1, number_rows(0, 10)).await.unwrap();
    assert_eq!(writer.finish().unwrap().partitions.len(), 2);
}

#[tokio::test]
async fn refused_batches_spill_in_order() {
    let test = store(Some(400_000));
    let (key, writer) = open(&test.store, 2, OutputMode::Retained);
    let mut reader = test.store.read(key, 0).unwrap();
    for n in 0..100 {
        writer
            .push(n % 2, number_rows(i64::from(n) * 1000, 1000))
            .await
            .unwrap();
    }
    let usage = test.store.usage();
    assert!(
        usage.memory_bytes > 100_000 && usage.memory_bytes <= 200_000,
        "{usage:?}"
    );
    assert!(usage.disk_bytes > 0, "{usage:?}");
    assert_eq!(test.pool.reserved() as u64, usage.memory_bytes);
    let written = writer.finish().unwrap();
    assert_eq!(written.spilled_bytes, usage.disk_bytes);
    for (partition, entry) in (0..2).zip(&written.partitions) {
        assert_eq!((entry.partition, entry.rows), (partition, 50_000));
        let read = read_all(&test.store, key, partition).await.unwrap();
        let expected = (0..50).flat_map(|n| {
            let start = (n * 2 + i64::from(partition)) * 1000;
            start..start + 1000
        });
        assert_eq!(numbers(&read), expected.collect::<Vec<_>>());
    }
    let mut rows = 0;
    while let Some(batch) = reader.next().await {
        rows += batch.unwrap().num_rows();
    }
    assert_eq!(rows, 50_000);
    drop(reader);
    drop(test.store.take(&release_all()));
    assert_eq!(test.store.usage(), StoreUsage::default());
    assert_eq!(test.pool.reserved(), 0);
}

#[tokio::test]
async fn dropped_store_removes_spill_folder() {
    let test = store(Some(1000));
    let (_, writer) = open(&test.store, 1, OutputMode::Retained);
    writer.push(0, number_rows(0, 1000)).await.unwrap();
    writer.finish().unwrap();
    let files = || walk(test.folder.path());
    assert!(files().iter().any(|file| file.ends_with("/0")), "{:?}", files());
    drop(writer);
    drop(test.store);
    assert_eq!(files().len(), 1, "the setup lock alone: {:?}", files());
}

pub(super) fn walk(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path.display().to_string()]
            }
        })
        .collect()
}

#[tokio::test]
async fn dropped_writer_fails_its_readers() {
    let test = store(None);
    let (key, writer) = open(&test.store, 1, OutputMode::Retained);
    let clone = writer.clone();
    writer.push(0, number_rows(0, 10)).await.unwrap();
    let mut reader = test.store.read(key, 0).unwrap();
    reader.next().await.unwrap().unwrap();
    drop(writer);
    assert!(reader.next().now_or_never().is_none(), "a clone of the writer is left");
    drop(clone);
    let failure = reader.next().await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Cancelled);
    assert!(reader.next().await.is_none());
    assert_eq!(test.store.usage().memory_bytes, 0);
}

#[tokio::test]
async fn readers_receive_the_writer_failure() {
    let test = store(None);
    let (key, writer) = open(&test.store, 2, OutputMode::Retained);
    writer.finish_partition(0);
    let mut reader = test.store.read(key, 1).unwrap();
    let failure = Failure::new(FailureKind::Invalid, "division by zero");
    writer.fail(failure.clone());
    assert_eq!(reader.next().await.unwrap().unwrap_err(), failure);
    assert_eq!(read_all(&test.store, key, 0).await.unwrap_err(), failure);
    assert_eq!(writer.finish().unwrap_err(), failure);
    let pushed = writer.push(1, number_rows(0, 1)).await;
    assert_eq!(pushed.unwrap_err().kind, FailureKind::Cancelled);
}

#[tokio::test]
async fn finished_output_ignores_later_failure() {
    let test = store(None);
    let (key, writer) = open(&test.store, 1, OutputMode::Retained);
    writer.push(0, number_rows(0, 1)).await.unwrap();
    writer.finish().unwrap();
    writer.fail(Failure::internal("late"));
    assert_eq!(read_all(&test.store, key, 0).await.unwrap().len(), 1);
}

#[tokio::test]
async fn release_frees_memory_under_readers() {
    let test = store(None);
    let (key, writer) = open(&test.store, 1, OutputMode::Retained);
    for n in 0..10 {
        writer.push(0, number_rows(n * 10, 10)).await.unwrap();
    }
    let mut reader = test.store.read(key, 0).unwrap();
    reader.next().await.unwrap().unwrap();
    let other_query = Release {
        query: QueryId::from_u128(2),
        stages: vec![],
    };
    let other_stage = Release {
        stages: vec![StageId(0), StageId(2)],
        ..release_all()
    };
    drop(test.store.take(&other_query));
    drop(test.store.take(&other_stage));
    assert!(test.store.contains(key));
    drop(test.store.take(&Release {
        stages: vec![StageId(1)],
        ..release_all()
    }));
    assert_eq!(test.store.usage(), StoreUsage::default());
    assert!(!test.store.contains(key));
    let failure = reader.next().await.unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::ShuffleLost);
    let pushed = writer.push(0, number_rows(0, 1)).await;
    assert_eq!(pushed.unwrap_err().kind, FailureKind::Cancelled);
    assert!(writer.finish().is_err());
    let failure = test.store.read(key, 0).unwrap_err();
    assert_eq!(failure.kind, FailureKind::ShuffleLost);
}

#[tokio::test]
async fn unknown_keys_and_partitions_fail() {
    let test = store(None);
    let (key, writer) = open(&test.store, 1, OutputMode::Retained);
    let schema = number_rows(0, 1).schema();
    assert!(test.store.create(key, schema, vec![0], OutputMode::Retained).is_err());
    assert_eq!(test.store.read(key, 1).unwrap_err().kind, FailureKind::ShuffleLost);
    assert_eq!(
        writer.push(1, number_rows(0, 1)).await.unwrap_err().kind,
        FailureKind::Internal
    );
}

#[tokio::test]
async fn columnless_rows_are_counted() {
    for pool_bytes in [None, Some(0)] {
        let test = store(pool_bytes);
        let key = key(1, 0);
        let batch = without_columns(77);
        let writer = test
            .store
            .create(key, batch.schema(), vec![0], OutputMode::Retained)
            .unwrap();
        writer.push(0, batch.clone()).await.unwrap();
        assert_eq!(writer.finish().unwrap().partitions[0].rows, 77);
        assert_eq!(read_all(&test.store, key, 0).await.unwrap(), [batch]);
    }
}

/// Pushes batches of 100 rows, about 5 KB, until a push has to wait. Returns the number of batches pushed.
async fn fill(writer: &OutputWriter, partition: u32) -> i64 {
    let mut count = 0;
    while writer
        .push(partition, number_rows(count * 100, 100))
        .now_or_never()
        .is_some()
    {
        count += 1;
    }
    count
}

#[tokio::test]
async fn streamed_writer_waits_for_reader() {
    let test = store(None);
    let (key, writer) = open(&test.store, 1, OutputMode::Streamed);
    let before = fill(&writer, 0).await;
    assert!((5..20).contains(&before), "{before} batches fit into 64 KiB");
    assert!(test.store.usage().memory_bytes <= 64 * 1024);
    let mut reader = test.store.read(key, 0).unwrap();
    let write = async {
        for n in before..before + 50 {
            writer.push(0, number_rows(n * 100, 100)).await.unwrap();
        }
        writer.finish().unwrap();
    };
    let read = async {
        let mut batches = Vec::new();
        while let Some(batch) = reader.next().await {
            assert!(test.store.usage().memory_bytes <= 64 * 1024);
            batches.push(batch.unwrap());
            tokio::task::yield_now().await;
        }
        batches
    };
    let (batches, ()) = tokio::join!(read, write);
    assert_eq!(numbers(&batches), (0..(before + 50) * 100).collect::<Vec<_>>());
    assert_eq!(test.store.usage().memory_bytes, 0);
}

#[tokio::test]
async fn oversized_batch_still_goes_through() {
    let test = store(Some(1000));
    let (key, writer) = open(&test.store, 1, OutputMode::Streamed);
    writer.push(0, number_rows(0, 10_000)).await.unwrap();
    assert!(writer.push(0, number_rows(0, 1)).now_or_never().is_none());
    writer.finish().unwrap();
    assert_eq!(read_all(&test.store, key, 0).await.unwrap(), [number_rows(0, 10_000)]);
}

/// Streamed rows that nobody reads make room, and are read in their order when their reader comes.
#[tokio::test]
async fn streamed_rows_that_wait_go_to_disk() {
    let test = store(Some(64 * 1024 * 1024));
    let (key, writer) = open(&test.store, 1, OutputMode::Streamed);
    let pushed = fill(&writer, 0).await;
    let mut waiting = writer.waiting();
    let more = writer.clone();
    let pushing = SpawnedTask::spawn(async move { more.push(0, number_rows(7_000, 100)).await });
    waiting.wait_for(|waits| *waits).await.unwrap();
    let held = test.store.usage().memory_bytes;
    assert!(test.store.move_to_disk(usize::MAX).unwrap());
    let usage = test.store.usage();
    assert!(usage.memory_bytes < held && usage.disk_bytes > 0, "{usage:?}");

    let mut reader = test.store.read(key, 0).unwrap();
    let first = reader.next().await.unwrap().unwrap();
    pushing.await.unwrap().unwrap();
    writer.finish().unwrap();
    // A position is that of the batch, however many were read meanwhile.
    test.store.move_to_disk(usize::MAX).unwrap();
    let rest: Vec<_> = reader.try_collect().await.unwrap();
    assert_eq!(rest.len() as i64, pushed);
    let batches = std::iter::once(&first).chain(&rest);
    let batches: Vec<_> = batches.cloned().collect();
    assert!(numbers(&batches).is_sorted());
    assert_eq!(test.store.usage().disk_bytes, 0);
}

#[tokio::test]
async fn sequential_streamed_reads_never_block() {
    let test = store(None);
    let (key, writer) = open(&test.store, 2, OutputMode::Streamed);
    fill(&writer, 1).await;
    let write = async {
        for n in 0..50 {
            writer.push(0, number_rows(n * 100, 100)).await.unwrap();
        }
        writer.finish_partition(0);
    };
    let (read, ()) = tokio::join!(read_all(&test.store, key, 0), write);
    assert_eq!(numbers(&read.unwrap()).len(), 5000);
}

#[tokio::test]
async fn waiting_state_follows_the_writers() {
    let test = store(None);
    let (key, writer) = open(&test.store, 2, OutputMode::Streamed);
    let mut waiting = writer.waiting();
    fill(&writer, 0).await;
    let mut first = test.store.read(key, 0).unwrap();
    let push = writer.push(0, number_rows(0, 100));
    tokio::pin!(push);
    let _ = tokio::time::timeout(Duration::from_millis(120), push.as_mut()).await;
    assert!(!*waiting.borrow(), "partition 1 does not wait");
    writer.finish_partition(1);
    assert!(*waiting.borrow_and_update());
    first.next().await.unwrap().unwrap();
    push.await.unwrap();
    assert!(!*waiting.borrow_and_update());
}

#[tokio::test]
async fn streamed_rows_are_read_once() {
    let test = store(None);
    let (key, writer) = open(&test.store, 1, OutputMode::Streamed);
    let reader = test.store.read(key, 0).unwrap();
    assert_eq!(test.store.read(key, 0).unwrap_err().kind, FailureKind::NotFound);
    drop(reader);
    let failure = test.store.read(key, 0).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound);
    drop(writer);
}

#[tokio::test]
async fn streamed_writer_stops_without_reader() {
    let test = store(None);
    let (key, writer) = open(&test.store, 2, OutputMode::Streamed);
    fill(&writer, 0).await;
    let reader = test.store.read(key, 0).unwrap();
    let leave = async {
        tokio::task::yield_now().await;
        drop(reader);
    };
    let (pushed, ()) = tokio::join!(writer.push(0, number_rows(0, 100)), leave);
    assert_eq!(pushed.unwrap_err().kind, FailureKind::Cancelled);
    assert_eq!(test.store.usage().memory_bytes, 0);
    // The dropped rows no longer count against the other partition.
    assert!(fill(&writer, 1).await > 5);
}

#[test]
fn unusable_spill_folder_fails() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = StoreOptions {
        spill_dir: file.path().to_path_buf(),
        streamed_bytes: 1,
        max_spill_bytes: 1,
    };
    assert!(Store::new(Arc::new(UnboundedMemoryPool::default()), options).is_err());
}

#[tokio::test]
async fn readers_learn_why_query_failed() {
    let test = store(None);
    let (key, writer) = open(&test.store, 2, OutputMode::Retained);
    writer.push(0, number_rows(0, 100)).await.unwrap();
    writer.finish_partition(0);
    let mut first = test.store.read(key, 0).unwrap();
    first.next().await.unwrap().unwrap();
    let mut second = test.store.read(key, 1).unwrap();
    let why = Failure::new(FailureKind::Invalid, "division by zero");
    drop(test.store.fail(key.query, &why));
    assert_eq!(test.store.usage().memory_bytes, 0);
    let release = Release {
        query: key.query,
        stages: vec![],
    };
    drop(test.store.take(&release));
    for reader in [&mut first, &mut second] {
        assert_eq!(reader.next().await.unwrap().unwrap_err(), why);
    }
    let pushed = writer.push(1, number_rows(0, 1)).await;
    assert_eq!(pushed.unwrap_err().kind, FailureKind::Cancelled);
}
