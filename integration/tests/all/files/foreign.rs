//! Parquet files as other writers make them: lists of two levels, statistics that tell little or wrongly. What pyarrow and
//! DuckDB write is compared with pyarrow's reading of it by `clients/python/parquet_files.py`.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::data_type::{ByteArray, Int32Type, Int64Type};
use datafusion::parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData};
use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties};
use datafusion::parquet::file::statistics::{Statistics, ValueStatistics};
use datafusion::parquet::file::writer::SerializedFileWriter;
use datafusion::parquet::schema::parser::parse_message_type;
use squadron_integration::cluster::cluster;
use tempfile::TempDir;

use super::{ERROR, check};
use crate::clients::run_suite;
use crate::drivers::{python_environment, suites};
use crate::support::{bounded, minutes};

#[test]
#[cfg_attr(not(has_python), ignore = "skipped: there is no python3 with venv on this machine")]
fn parquet_of_others_is_read_as_pyarrow_reads_it() {
    let environment = python_environment();
    bounded(minutes(9), async move {
        let suite = || {
            let mut suite = Command::new(environment.join("bin/python"));
            suite.arg(suites().join("python/parquet_files.py"));
            suite.env("PYTHONDONTWRITEBYTECODE", "1");
            suite
        };
        let folder = TempDir::with_prefix("squadron-foreign-").unwrap();
        let mut make = suite();
        make.arg("--make").arg(folder.path());
        run_suite(make).await;
        let cluster = cluster()
            .workers(2)
            .slots(1)
            .data(folder.path())
            .tiny_splits()
            .start()
            .await;
        let mut compare = suite();
        compare.arg(cluster.url()).arg(folder.path());
        run_suite(compare).await;
    });
}

/// Lists without the group in the middle, as older writers make them: annotated, of groups, and bare.
#[test]
fn lists_of_two_levels_are_read() {
    check(
        |folder| {
            for (name, list) in [
                ("annotated", "optional group a (LIST) { repeated int32 array; }"),
                ("bare", "repeated int32 a;"),
            ] {
                let schema = format!("message m {{ required int64 id; {list} }}");
                let optional = i16::from(name == "annotated");
                write_lists(&folder.join(format!("{name}.parquet")), &schema, optional);
            }
            let tuples = "message m { required int64 id; optional group a (LIST) { \
                          repeated group a_tuple { required int32 x; } } }";
            write_lists(&folder.join("tuples.parquet"), tuples, 1);
        },
        &[
            (
                "SELECT array_length(a) FROM annotated WHERE id <> 1 ORDER BY id",
                &["2", "1"],
            ),
            ("SELECT a[2] FROM annotated WHERE id = 0", &["8"]),
            ("SELECT sum(x) FROM (SELECT unnest(a) AS x FROM annotated)", &["24"]),
            ("SELECT sum(x) FROM (SELECT unnest(a) AS x FROM bare)", &["24"]),
            ("SELECT a[1] FROM bare WHERE id = 2", &["9"]),
            ("SELECT a[2]['x'] FROM tuples WHERE id = 0", &["8"]),
            ("SELECT count(*) FROM tuples", &["3"]),
        ],
    );
}

/// The rows (0, [7, 8]), (1, []) and (2, [9]); `optional` is 1 if the list may be NULL.
fn write_lists(path: &Path, schema: &str, optional: i16) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut ids = group.next_column().unwrap().unwrap();
    ids.typed::<Int64Type>().write_batch(&[0, 1, 2], None, None).unwrap();
    ids.close().unwrap();
    let mut lists = group.next_column().unwrap().unwrap();
    let full = optional + 1;
    lists
        .typed::<Int32Type>()
        .write_batch(&[7, 8, 9], Some(&[full, full, optional, full]), Some(&[0, 1, 0, 0]))
        .unwrap();
    lists.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

/// A file of the columns `id` and `s`, two rows to a group.
fn texts(path: &Path, texts: &[&str], properties: impl FnOnce() -> WriterProperties) {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
    let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    let batch = RecordBatch::try_from_iter([("id", ids), ("s", texts)]).unwrap();
    let properties = properties().into_builder().set_max_row_group_row_count(Some(2)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Without an index of pages, so that the footer alone tells bounds.
fn plain() -> WriterProperties {
    WriterProperties::builder()
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_compression(Compression::SNAPPY)
        .build()
}

/// Replaces the statistics of the column `s` in the footer of a file; `of` makes those of a row group.
fn restate(path: &Path, of: impl Fn(usize) -> Option<Statistics>) {
    rewrite_footer(path, |number, group| {
        let mut columns = group.columns().to_vec();
        let column = columns.remove(1).into_builder();
        let column = match of(number) {
            Some(statistics) => column.set_statistics(statistics),
            None => column.clear_statistics(),
        };
        columns.push(column.build().unwrap());
        group.into_builder().set_column_metadata(columns).build().unwrap()
    });
}

fn rewrite_footer(path: &Path, change: impl Fn(usize, RowGroupMetaData) -> RowGroupMetaData) {
    let bytes = Bytes::from(fs::read(path).unwrap());
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&bytes).unwrap();
    let groups = metadata.row_groups().to_vec().into_iter().enumerate();
    let groups = groups.map(|(number, group)| change(number, group)).collect();
    let metadata = metadata.into_builder().set_row_groups(groups).build();
    let length = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
    let mut changed = bytes[..bytes.len() - 8 - length].to_vec();
    ParquetMetaDataWriter::new(&mut changed, &metadata).finish().unwrap();
    fs::write(path, changed).unwrap();
}

fn bounds(min: &str, max: &str, is_exact: bool, is_deprecated: bool) -> Statistics {
    let text = |text: &str| Some(ByteArray::from(text));
    let bounds = ValueStatistics::new(text(min), text(max), None, Some(0), is_deprecated);
    Statistics::ByteArray(bounds.with_min_is_exact(is_exact).with_max_is_exact(is_exact))
}

const TEXTS: [&str; 6] = ["apple pie", "apricot jam", "banana bread", "cherry cake", "é", "a"];

#[test]
fn statistics_prove_no_more_than_they_tell() {
    check(
        |folder| {
            let at = |name: &str| folder.join(format!("{name}.parquet"));
            let truncated = || plain().into_builder().set_statistics_truncate_length(Some(2)).build();
            texts(&at("truncated"), &TEXTS, truncated);
            texts(&at("some"), &TEXTS, plain);
            restate(&at("some"), |group| {
                (group == 1).then(|| bounds("banana bread", "cherry cake", true, false))
            });
            texts(&at("none"), &TEXTS, plain);
            restate(&at("none"), |_| None);
            // Bytes were compared with their signs once, so that é came before a.
            texts(&at("old"), &TEXTS, plain);
            restate(&at("old"), |group| {
                let (min, max) = [
                    ("apple pie", "apricot jam"),
                    ("banana bread", "cherry cake"),
                    ("é", "a"),
                ][group];
                Some(bounds(min, max, true, true))
            });
            texts(&at("cut"), &TEXTS, plain);
            restate(&at("cut"), |group| {
                let (min, max) = [("ap", "aq"), ("b", "d"), ("a", "ê")][group];
                Some(bounds(min, max, false, false))
            });
        },
        &[
            ("SELECT max(s) FROM truncated", &["é"]),
            ("SELECT min(s) FROM truncated", &["a"]),
            ("SELECT id FROM truncated WHERE s = 'cherry cake'", &["3"]),
            ("SELECT id FROM truncated WHERE s > 'cherry' ORDER BY id", &["3", "4"]),
            ("SELECT max(s) FROM some", &["é"]),
            ("SELECT min(s) FROM some", &["a"]),
            ("SELECT id FROM some WHERE s = 'é'", &["4"]),
            ("SELECT id FROM some WHERE s < 'b' ORDER BY id", &["0", "1", "5"]),
            ("SELECT max(s) FROM none", &["é"]),
            ("SELECT id FROM none WHERE s = 'a'", &["5"]),
            ("SELECT count(s) FROM none", &["6"]),
            ("SELECT id FROM old WHERE s = 'é'", &["4"]),
            ("SELECT id FROM old WHERE s = 'a'", &["5"]),
            ("SELECT max(s) FROM old", &["é"]),
            ("SELECT min(s) FROM old", &["a"]),
            ("SELECT id FROM old WHERE s > 'cherry' ORDER BY id", &["3", "4"]),
            ("SELECT max(s) FROM cut", &["é"]),
            ("SELECT min(s) FROM cut", &["a"]),
            ("SELECT id FROM cut WHERE s = 'apricot jam'", &["1"]),
            ("SELECT s FROM cut ORDER BY s DESC LIMIT 2", &["é", "cherry cake"]),
        ],
    );
}

/// Readers believe one number of rows, and would leave the other rows out.
#[test]
fn footer_whose_numbers_of_rows_differ_is_refused() {
    check(
        |folder| {
            let at = |name: &str| folder.join(format!("{name}.parquet"));
            texts(&at("columns"), &TEXTS, plain);
            rewrite_footer(&at("columns"), |_, group| {
                let mut columns = group.columns().to_vec();
                columns[0] = columns[0].clone().into_builder().set_num_values(1).build().unwrap();
                group.into_builder().set_column_metadata(columns).build().unwrap()
            });
        },
        &[(
            "SELECT s FROM columns",
            &[ERROR, "columns.parquet", "row group 0 has 2 rows, and its column id 1"],
        )],
    );
}
