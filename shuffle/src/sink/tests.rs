//! Tests of written files, one attempt at a time, as other programs would read them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path as LocalPath;

use arrow::array::Int64Array;
use arrow::compute::concat_batches;
use datafusion::common::file_options::csv_writer::CsvWriterOptions;
use datafusion::common::file_options::json_writer::JsonWriterOptions;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::config::TableParquetOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::prelude::SessionConfig;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
};
use futures::TryStreamExt;
use squadron_proto::FailureKind;
use squadron_proto::control::OutputMode;
use squadron_proto::ticket::ClusterKey;
use tempfile::TempDir;

use super::*;
use crate::testing::{key, store};
use crate::{FetchOptions, Fetcher, NULL_FOLDER, ShuffleCodec, failure};

fn parquet() -> FileEncoding {
    FileEncoding::Parquet(Box::default())
}

fn csv() -> FileEncoding {
    let options = datafusion::common::config::CsvOptions::default();
    FileEncoding::Csv(Box::new(CsvWriterOptions::try_from(&options).unwrap()))
}

fn json() -> FileEncoding {
    let options = JsonWriterOptions::new(CompressionTypeVariant::UNCOMPRESSED);
    FileEncoding::Json(Box::new(options))
}

/// Rows `n, k, text` where `k` is `n % keys` and null instead of `null_at`.
fn rows(count: i64, keys: i64, null_at: Option<i64>) -> RecordBatch {
    let numbers = Int64Array::from_iter_values(0..count);
    let values = (0..count).map(|n| (null_at != Some(n)).then_some(n % keys));
    let texts = StringArray::from_iter_values((0..count).map(|n| format!("row {n}")));
    RecordBatch::try_from_iter_with_nullable([
        ("n", Arc::new(numbers) as ArrayRef, false),
        ("k", Arc::new(Int64Array::from_iter(values)), true),
        ("text", Arc::new(texts), true),
    ])
    .unwrap()
}

fn target(folder: &LocalPath, encoding: FileEncoding, partition_by: &[&str]) -> FileTarget {
    FileTarget {
        store: ObjectStoreUrl::local_filesystem(),
        staging: Path::from_absolute_path(folder).unwrap(),
        schema: rows(0, 1, None).schema(),
        partition_by: partition_by.iter().map(ToString::to_string).collect(),
        keep_partition_columns: false,
        never_empty: false,
        single_file: false,
        encoding,
    }
}

async fn write(target: FileTarget, batches: Vec<RecordBatch>) -> Result<Vec<StagedFile>> {
    let schema = rows(0, 1, None).schema();
    let input = MemorySourceConfig::try_new_exec(&[batches], schema, None)?;
    let node = WriteFilesExec::new(input, Arc::new(target));
    let test = store(None);
    let key = key(3, 1);
    let output = test
        .store
        .create(key, staged_files_schema(), vec![7], OutputMode::Retained);
    let attempt = AttemptContext {
        key,
        partitions: vec![7],
        inputs: HashMap::new(),
        store: test.store.clone(),
        fetcher: Fetcher::new(FetchOptions::new(ClusterKey::from_secret("test"))),
        writer: output.unwrap(),
    };
    let config = SessionConfig::new().with_extension(Arc::new(attempt));
    let context = Arc::new(TaskContext::default().with_session_config(config));
    let reported: Vec<RecordBatch> = node.execute(0, context)?.try_collect().await?;
    let all = concat_batches(&staged_files_schema(), &reported)?;
    StagedFile::from_rows(&all)
}

/// The content of a local file.
fn text(file: &StagedFile) -> String {
    fs::read_to_string(format!("/{}", file.path)).unwrap()
}

#[tokio::test]
async fn formats_write_their_own_bytes() {
    for (encoding, expected) in [
        (csv(), "n,k,text\n0,0,row 0\n1,1,row 1\n2,0,row 2\n"),
        (
            json(),
            "{\"n\":0,\"k\":0,\"text\":\"row 0\"}\n{\"n\":1,\"k\":1,\"text\":\"row 1\"}\n\
             {\"n\":2,\"k\":0,\"text\":\"row 2\"}\n",
        ),
    ] {
        let folder = TempDir::new().unwrap();
        let batches = vec![rows(2, 2, None), rows(3, 2, None).slice(2, 1)];
        let files = write(target(folder.path(), encoding, &[]), batches).await;
        let files = files.unwrap();
        let [file] = files.as_slice() else { panic!("{files:?}") };
        assert_eq!(text(file), expected);
        assert_eq!((file.rows, file.bytes), (3, expected.len() as u64));
        // Stage, task, attempt and partition of the attempt.
        assert!(file.path.as_ref().ends_with("/3-1-0-7/0.part"), "{file:?}");
    }
    let folder = TempDir::new().unwrap();
    let files = write(target(folder.path(), parquet(), &[]), vec![rows(1000, 2, None)]).await;
    let bytes = fs::read(format!("/{}", files.unwrap()[0].path)).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
}

#[tokio::test]
async fn rows_land_in_partition_folders() {
    let folder = TempDir::new().unwrap();
    let batches = vec![rows(10, 3, None), rows(20, 3, None).slice(10, 10)];
    let files = write(target(folder.path(), csv(), &["k"]), batches).await;
    let files: BTreeMap<_, _> = files
        .unwrap()
        .into_iter()
        .map(|file| (file.folder.to_string(), file))
        .collect();
    let folders: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(folders, ["k=0", "k=1", "k=2"]);
    let first = text(&files["k=1"]);
    assert!(first.starts_with("n,text\n1,row 1\n4,row 4\n"), "{first}");
    assert_eq!(files.values().map(|file| file.rows).sum::<u64>(), 20);
}

#[tokio::test]
async fn nulls_land_in_a_folder_of_their_own() {
    let folder = TempDir::new().unwrap();
    let batches = vec![rows(4, 2, Some(3)), rows(4, 2, Some(0))];
    let files = write(target(folder.path(), csv(), &["k"]), batches).await.unwrap();
    let null = format!("k={NULL_FOLDER}");
    let null: Vec<_> = files.iter().filter(|file| file.folder.as_ref() == null).collect();
    let [null] = null.as_slice() else { panic!("{files:?}") };
    assert_eq!(text(null), "n,text\n3,row 3\n0,row 0\n");
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 8);
}

#[tokio::test]
async fn many_folders_lose_no_rows() {
    let folder = TempDir::new().unwrap();
    let batches = vec![rows(500, 100, None), rows(500, 100, None)];
    let files = write(target(folder.path(), json(), &["k"]), batches).await;
    let files = files.unwrap();
    assert!(files.len() > 100, "some folders have a second file");
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 1000);
    let lines: usize = files.iter().map(|file| text(file).lines().count()).sum();
    assert_eq!(lines, 1000);
}

#[tokio::test]
async fn empty_input_writes_no_file() {
    let folder = TempDir::new().unwrap();
    let none = write(target(folder.path(), csv(), &[]), vec![]).await;
    assert!(none.unwrap().is_empty());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn invalid_rows_and_folders_are_refused() {
    let folder = TempDir::new().unwrap();
    let mut strict = target(folder.path(), csv(), &[]);
    let fields = strict.schema.fields().iter();
    let fields: Vec<_> = fields
        .map(|field| field.as_ref().clone().with_nullable(false))
        .collect();
    strict.schema = Arc::new(Schema::new(fields));
    let failure = failure::of(&write(strict, vec![rows(5, 2, Some(3))]).await.unwrap_err());
    assert_eq!(failure.kind, FailureKind::Invalid);
    assert!(failure.message.contains("column k takes no nulls"));

    let elsewhere = target(&folder.path().join("not-here"), csv(), &[]);
    let failure = failure::of(&write(elsewhere, vec![rows(1, 1, None)]).await.unwrap_err());
    assert!(failure.message.contains("not-here") && failure.message.contains("share"));
}

#[test]
fn write_node_survives_encoding() {
    let mut zstd = TableParquetOptions::default();
    zstd.global.compression = Some("zstd(7)".into());
    let zstd = FileEncoding::Parquet(Box::new(zstd));
    for encoding in [parquet(), zstd, csv(), json()] {
        let folder = TempDir::new().unwrap();
        let target = target(folder.path(), encoding, &["k"]);
        let schema = rows(0, 1, None).schema();
        let input = Arc::new(EmptyExec::new(schema));
        let node = WriteFilesExec::new(input, Arc::new(target));
        assert!(node.has_lossless_encoding(), "{node:?}");
        let plan: Arc<dyn ExecutionPlan> = Arc::new(node);
        let bytes = physical_plan_to_bytes_with_extension_codec(Arc::clone(&plan), &ShuffleCodec).unwrap();
        let context = TaskContext::default();
        let decoded = physical_plan_from_bytes_with_extension_codec(&bytes, &context, &ShuffleCodec).unwrap();
        let format_target = |plan: &Arc<dyn ExecutionPlan>| {
            let target = plan.downcast_ref::<WriteFilesExec>().unwrap().target();
            format!("{target:?}")
        };
        assert_eq!(format_target(&decoded), format_target(&plan));
    }
}

#[test]
fn lossy_options_are_detected() {
    let options = datafusion::common::config::CsvOptions {
        compression_level: Some(3),
        ..Default::default()
    };
    let encoding = FileEncoding::Csv(Box::new(CsvWriterOptions::try_from(&options).unwrap()));
    assert!(!encoding::is_lossless(&encoding));
}
