use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, DictionaryArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Int32Type;
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use datafusion::error::DataFusionError;
use datafusion::object_store::memory::InMemory;
use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use proptest::prelude::*;

use super::layout::ArrowFile;

fn batch(first: i64) -> RecordBatch {
    let words = ["one", "two", "one"];
    let columns: [(&str, ArrayRef); 3] = [
        ("n", Arc::new(Int64Array::from_iter_values(first..first + 3))),
        ("s", Arc::new(StringArray::from(words.to_vec()))),
        ("d", Arc::new(DictionaryArray::<Int32Type>::from_iter(words))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn batches() -> [RecordBatch; 2] {
    [batch(0), batch(10)]
}

fn options(compression: Option<CompressionType>) -> IpcWriteOptions {
    IpcWriteOptions::default().try_with_compression(compression).unwrap()
}

fn file(compression: Option<CompressionType>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let schema = batch(0).schema();
    let mut writer = FileWriter::try_new_with_options(&mut bytes, &schema, options(compression)).unwrap();
    batches().iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    drop(writer);
    bytes
}

fn stream(compression: Option<CompressionType>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let schema = batch(0).schema();
    let mut writer = StreamWriter::try_new_with_options(&mut bytes, &schema, options(compression)).unwrap();
    batches().iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    drop(writer);
    bytes
}

/// All forms of the same rows.
fn forms() -> Vec<Vec<u8>> {
    let codecs = [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)];
    codecs
        .into_iter()
        .flat_map(|codec| [file(codec), stream(codec)])
        .collect()
}

async fn put(bytes: Vec<u8>) -> (Arc<dyn ObjectStore>, ObjectMeta) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let path = Path::from("f.arrow");
    store.put(&path, bytes.into()).await.unwrap();
    let meta = store.head(&path).await.unwrap();
    (store, meta)
}

async fn read(bytes: Vec<u8>) -> Result<Vec<RecordBatch>, DataFusionError> {
    let (store, meta) = put(bytes).await;
    let mut file = ArrowFile::open(&store, &meta).await?;
    let mut batches = Vec::new();
    while let Some(batch) = file.next().await? {
        batches.push(batch);
    }
    Ok(batches)
}

#[tokio::test]
async fn both_forms_are_read_as_they_were_written() {
    for bytes in forms() {
        assert_eq!(read(bytes).await.unwrap(), batches());
    }
}

#[tokio::test]
async fn projection_reads_some_columns() {
    for bytes in forms() {
        let (store, meta) = put(bytes).await;
        let file = ArrowFile::open(&store, &meta).await.unwrap();
        let mut file = file.with_projection(vec![2, 0]);
        let read = file.next().await.unwrap().unwrap();
        assert_eq!(read, batch(0).project(&[2, 0]).unwrap());
    }
}

/// Each batch belongs to the range in which it begins, whatever the ranges are.
#[tokio::test]
async fn ranges_share_the_batches() {
    for bytes in forms() {
        let (store, meta) = put(bytes).await;
        for cut in 0..=meta.size {
            let mut rows = 0;
            for range in [0..cut, cut..meta.size] {
                let file = ArrowFile::open(&store, &meta).await.unwrap();
                let mut file = file.with_range(range);
                while let Some(batch) = file.next().await.unwrap() {
                    rows += batch.num_rows();
                }
            }
            assert_eq!(rows, 6, "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn cut_off_file_is_refused() {
    let bytes = file(None);
    for length in 1..bytes.len() {
        read(bytes[..length].to_vec()).await.expect_err("it has no end");
    }
}

/// The footer says that a batch is 2^56 bytes long. Arrow's reader ends the process.
#[tokio::test]
async fn impossible_size_in_the_footer_is_refused() {
    let bytes = file(None);
    let mut refused = 0;
    for at in 0..bytes.len() - 8 {
        let mut damaged = bytes.clone();
        damaged[at] = 1;
        refused += usize::from(read(damaged).await.is_err());
    }
    assert!(refused > 0);
}

proptest! {
    /// Whatever bytes are changed, there are rows or an error.
    #[test]
    fn damaged_file_is_read_or_refused(
        form in 0..6_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = forms().swap_remove(form);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        drop(runtime.block_on(read(bytes)));
    }
}
