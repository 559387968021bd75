//! Files of one table whose columns have different types: read in a type that holds the values of all, with filters that
//! leave out no file wrongly.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array, NullArray, RecordBatch,
    StringArray, TimestampMillisecondArray, UInt32Array, UInt64Array,
};
use arrow::ipc::writer::FileWriter;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;

use super::{ERROR, check, put};

/// A file whose column `v` has these values; small row groups, so that statistics have much to leave out.
fn parquet(folder: &Path, name: &str, values: impl Into<Column>) {
    let batch = values.into().batch();
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(2)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn ipc(folder: &Path, name: &str, values: impl Into<Column>) {
    let batch = values.into().batch();
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = FileWriter::try_new(File::create(path).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
}

struct Column(ArrayRef);

impl<A: arrow::array::Array + 'static> From<A> for Column {
    fn from(values: A) -> Self {
        Self(Arc::new(values))
    }
}

impl Column {
    fn batch(self) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([("v", self.0, true)]).unwrap()
    }
}

fn decimals(values: &[i128], digits: u8, scale: i8) -> Decimal128Array {
    let values = Decimal128Array::from(values.to_vec());
    values.with_precision_and_scale(digits, scale).unwrap()
}

#[test]
fn parquet_columns_are_widened() {
    check(
        |folder| {
            parquet(
                folder,
                "ints/1.parquet",
                Int32Array::from(vec![Some(1), Some(2), None, Some(-7)]),
            );
            parquet(folder, "ints/2.parquet", Int64Array::from(vec![5_000_000_000, 2, 3]));
            parquet(folder, "unsigned/1.parquet", UInt64Array::from(vec![u64::MAX, 1]));
            parquet(folder, "unsigned/2.parquet", Int64Array::from(vec![-1, 1]));
            parquet(folder, "halves/1.parquet", UInt32Array::from(vec![u32::MAX, 1]));
            parquet(folder, "halves/2.parquet", Int32Array::from(vec![-1, 1]));
            parquet(folder, "floats/1.parquet", Float32Array::from(vec![0.5, 1.25, 8.0]));
            parquet(folder, "floats/2.parquet", Float64Array::from(vec![0.1, 1e300]));
            parquet(folder, "floats/3.parquet", Int32Array::from(vec![7, 8]));
            parquet(folder, "decimals/1.parquet", decimals(&[125, -100, 99_999], 5, 2));
            parquet(folder, "decimals/2.parquet", decimals(&[12_500, 1], 20, 4));
            parquet(folder, "decimals/3.parquet", Int32Array::from(vec![1, 999]));
            parquet(folder, "times/1.parquet", Date32Array::from(vec![0, 1, 20_000]));
            let times = TimestampMillisecondArray::from(vec![86_400_000, 86_400_001]);
            parquet(folder, "times/2.parquet", times);
            parquet(folder, "nothing/1.parquet", NullArray::new(2));
            parquet(folder, "nothing/2.parquet", Int32Array::from(vec![4, 5]));
            parquet(folder, "texts/1.parquet", Int64Array::from(vec![1]));
            parquet(folder, "texts/2.parquet", StringArray::from(vec!["x"]));
            parquet(folder, "long/1.parquet", Float64Array::from(vec![1.5]));
            parquet(folder, "long/2.parquet", Int64Array::from(vec![9_007_199_254_740_993]));
        },
        &[
            ("SELECT v FROM ints WHERE v > 2147483648", &["5000000000"]),
            ("SELECT v FROM ints WHERE v = 2", &["2", "2"]),
            ("SELECT v FROM ints WHERE v < 0", &["-7"]),
            ("SELECT count(*) FROM ints WHERE v <> 5000000000", &["5"]),
            ("SELECT count(*) FROM ints WHERE v IS NULL", &["1"]),
            ("SELECT max(v) FROM ints", &["5000000000"]),
            ("SELECT min(v) FROM ints", &["-7"]),
            ("SELECT sum(v) FROM ints", &["5000000001"]),
            (
                "SELECT v FROM ints ORDER BY v DESC NULLS LAST LIMIT 2",
                &["5000000000", "3"],
            ),
            ("SELECT count(*) FROM ints WHERE v IN (1, 5000000000)", &["2"]),
            ("SELECT max(v) FROM unsigned", &["18446744073709551615"]),
            ("SELECT min(v) FROM unsigned", &["-1"]),
            ("SELECT count(*) FROM unsigned WHERE v = 1", &["2"]),
            ("SELECT v FROM unsigned WHERE v < 0", &["-1"]),
            ("SELECT v FROM halves WHERE v > 2147483647", &["4294967295"]),
            ("SELECT v FROM halves WHERE v < 0", &["-1"]),
            ("SELECT count(*) FROM halves WHERE v = 1", &["2"]),
            ("SELECT v FROM floats WHERE v = 1.25", &["1.25"]),
            ("SELECT count(*) FROM floats WHERE v = 8", &["2"]),
            ("SELECT v FROM floats WHERE v > 100", &["1e300"]),
            ("SELECT min(v) FROM floats", &["0.1"]),
            (
                "SELECT v FROM decimals WHERE v = 1.25 ORDER BY v",
                &["1.2500", "1.2500"],
            ),
            ("SELECT max(v) FROM decimals", &["999.9900"]),
            ("SELECT count(*) FROM decimals WHERE v = 999", &["1"]),
            ("SELECT v FROM decimals WHERE v < 0.5 AND v > 0", &["0.0001"]),
            (
                "SELECT count(*) FROM times WHERE v = TIMESTAMP '1970-01-02 00:00:00'",
                &["2"],
            ),
            (
                "SELECT count(*) FROM times WHERE v > TIMESTAMP '1970-01-02 00:00:00'",
                &["2"],
            ),
            ("SELECT max(v) FROM times", &["2024-10-04T00:00:00"]),
            ("SELECT sum(v) FROM nothing", &["9"]),
            ("SELECT count(*) FROM nothing WHERE v IS NULL", &["2"]),
            ("SELECT v FROM nothing WHERE v > 4", &["5"]),
            (
                "SELECT v FROM texts",
                &[ERROR, "column v is bigint in", "1.parquet", "text in", "2.parquet"],
            ),
            (
                "SELECT v FROM long",
                &[ERROR, "column v is double precision in", "bigint in"],
            ),
        ],
    );
}

#[test]
fn parquet_columns_that_some_files_lack_are_null() {
    check(
        |folder| {
            let ids = |from: i64| Arc::new(Int64Array::from_iter_values(from..from + 4)) as ArrayRef;
            let write = |name: &str, columns: Vec<(&str, ArrayRef)>| {
                let path = folder.join("t").join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let batch = RecordBatch::try_from_iter(columns).unwrap();
                let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
                writer.write(&batch).unwrap();
                writer.close().unwrap();
            };
            write("1.parquet", vec![("id", ids(0)), ("a", ids(10))]);
            write("2.parquet", vec![("b", ids(20)), ("id", ids(4))]);
        },
        &[
            ("SELECT count(*) FROM t", &["8"]),
            ("SELECT id FROM t WHERE a IS NULL ORDER BY id", &["4", "5", "6", "7"]),
            ("SELECT id FROM t WHERE b = 21", &["5"]),
            ("SELECT id FROM t WHERE a > 11 ORDER BY id", &["2", "3"]),
            ("SELECT count(a) FROM t", &["4"]),
            ("SELECT min(b) FROM t", &["20"]),
            ("SELECT count(*) FROM t WHERE coalesce(a, b) = 20", &["1"]),
        ],
    );
}

#[test]
fn columns_of_other_formats_are_widened() {
    check(
        |folder| {
            put(folder, "csv/1.csv", "v\n1\n2\n");
            put(folder, "csv/2.csv", "v\n2.5\n");
            put(folder, "json/1.json", "{\"v\": 1}\n{\"v\": 2}\n");
            put(folder, "json/2.json", "{\"v\": 2.5, \"w\": \"x\"}\n");
            put(folder, "json/3.json", "{\"w\": \"y\"}\n");
            put(folder, "json/4.json", "{\"v\": null}\n");
            put(
                folder,
                "hashes.json",
                "{\"b\": 18446744073709551615, \"c\": -1}\n{\"b\": 1, \"c\": 18446744073709551615}\n",
            );
            put(folder, "parts/1.json", "[{\"b\": 18446744073709551615, \"f\": 0.5}]");
            put(
                folder,
                "parts/2.json",
                "[{\"b\": -9223372036854775808, \"f\": 18446744073709551615}]",
            );
            put(folder, "mixed/1.json", "{\"v\": 1}\n");
            put(folder, "mixed/2.json", "{\"v\": \"x\"}\n");
            ipc(folder, "ipc/1.arrow", Int32Array::from(vec![1, 2]));
            ipc(folder, "ipc/2.arrow", Int64Array::from(vec![5_000_000_000]));
            ipc(folder, "ipc/3.arrow", NullArray::new(1));
        },
        &[
            ("SELECT v FROM csv WHERE v > 1 ORDER BY v", &["2.0", "2.5"]),
            ("SELECT sum(v) FROM json", &["5.5"]),
            ("SELECT v FROM json WHERE v > 1 ORDER BY v", &["2.0", "2.5"]),
            ("SELECT count(*) FROM json WHERE v IS NULL", &["2"]),
            ("SELECT count(*) FROM json WHERE w IS NOT NULL", &["2"]),
            ("SELECT b FROM hashes ORDER BY b", &["1", "18446744073709551615"]),
            (
                "SELECT c FROM hashes WHERE c > 9223372036854775807 OR c < 0 ORDER BY c",
                &["-1", "18446744073709551615"],
            ),
            (
                "SELECT b FROM parts ORDER BY b",
                &["-9223372036854775808", "18446744073709551615"],
            ),
            ("SELECT f FROM parts WHERE f < 1", &["0.5"]),
            ("SELECT v FROM mixed", &[ERROR, "column v", "1.json", "2.json"]),
            ("SELECT v FROM ipc WHERE v > 1 ORDER BY v", &["2", "5000000000"]),
            ("SELECT count(*) FROM ipc WHERE v IS NULL", &["1"]),
        ],
    );
}
