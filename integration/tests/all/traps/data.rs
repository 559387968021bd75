//! The tables of the traps: NULLs, skew and duplicates, in several files and row groups, in every format.
//!
//! Everything is computed from row numbers, so that each run has the same rows. Numbers with a fraction are multiples
//! of a quarter, whose sums are exact in any order.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::ipc::writer::FileWriter;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use tempfile::TempDir;

use super::avro;
use crate::support::Reference;

const FACT_FILES: i64 = 4;
const FACTS_PER_FILE: i64 = 3_000;
const ROW_GROUP: usize = 1_000;
pub(super) const BIG_CELL_BYTES: usize = 5 * 1024 * 1024;

/// A folder of tables for `--data`, and a folder of files that the definitions name.
pub(super) struct Tables {
    tables: TempDir,
    files: TempDir,
}

impl Tables {
    pub(super) fn write() -> Self {
        let tables = TempDir::with_prefix("squadron-traps-").unwrap();
        let files = TempDir::with_prefix("squadron-files-").unwrap();
        write_facts(&tables.path().join("facts"));
        write_other(&tables.path().join("other"));
        write_small(tables.path());
        write_same_names(tables.path());
        write_text(tables.path());
        write_hive(&tables.path().join("hive"));
        write_nested(tables.path());
        write_hidden(&tables.path().join("hidden.arrow"));
        write_blob(tables.path());
        write_sorted(&files.path().join("sorted.parquet"));
        Self { tables, files }
    }

    /// The folder of tables, for `--data`.
    pub(super) fn folder(&self) -> &Path {
        self.tables.path()
    }

    /// Statements that the server and the reference run first.
    pub(super) fn definitions(&self) -> Vec<String> {
        let sorted = self.files.path().join("sorted.parquet");
        vec![
            format!(
                "CREATE EXTERNAL TABLE sorted STORED AS PARQUET WITH ORDER (key ASC) LOCATION '{}'",
                sorted.display()
            ),
            "CREATE VIEW busy AS SELECT k, count(*) AS n, sum(v) AS total FROM facts GROUP BY k".into(),
        ]
    }

    /// Registers all tables with the reference.
    pub(super) async fn register(&self, reference: &Reference) {
        let parquet = [
            "facts/",
            "other/",
            "dims.parquet",
            "tiny.parquet",
            "one.parquet",
            "nothing.parquet",
            "ta.parquet",
            "tb.parquet",
            "orders.parquet",
            "payments.parquet",
            "customers.parquet",
            "pairs/",
            "nested.parquet",
            "blob.parquet",
        ];
        for path in parquet {
            self.define_external(reference, path, "PARQUET", "").await;
        }
        self.define_external(reference, "people.csv", "CSV", "OPTIONS ('format.has_header' 'true')")
            .await;
        self.define_external(reference, "readings/", "CSV", "OPTIONS ('format.has_header' 'true')")
            .await;
        self.define_external(reference, "events.ndjson", "JSON", "").await;
        self.define_external(reference, "trace.arrow", "ARROW", "").await;
        self.define_external(reference, "birds.avro", "AVRO", "").await;
        self.define_external(reference, "hive/", "PARQUET", "PARTITIONED BY (year, month)")
            .await;
        for definition in self.definitions() {
            reference.define(&definition).await;
        }
    }

    async fn define_external(&self, reference: &Reference, path: &str, format: &str, more: &str) {
        let name = path.split(['.', '/']).next().unwrap();
        // PARTITIONED BY stands before LOCATION, OPTIONS after it.
        let (before, after) = match more.starts_with("PARTITIONED") {
            true => (more, ""),
            false => ("", more),
        };
        let location = self.tables.path().join(path);
        reference
            .define(&format!(
                "CREATE EXTERNAL TABLE {name} STORED AS {format} {before} LOCATION '{}' {after}",
                location.display()
            ))
            .await;
    }
}

/// Mixed bits of a row number (splitmix64).
fn mix(row: i64, salt: u64) -> u64 {
    let mut bits = (row as u64).wrapping_add(salt.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// A join key: two thirds are 7, one in twenty is NULL.
fn skewed_key(row: i64, salt: u64) -> Option<i64> {
    let bits = mix(row, salt);
    match bits % 20 {
        0 => None,
        1..=12 => Some(7),
        _ => Some((bits >> 8) as i64 % 50),
    }
}

fn value(row: i64, salt: u64) -> Option<i64> {
    let bits = mix(row, salt);
    (!bits.is_multiple_of(10)).then_some((bits >> 8) as i64 % 2_001 - 1_000)
}

fn word(row: i64, salt: u64) -> Option<&'static str> {
    const WORDS: [Option<&str>; 7] = [
        None,
        Some(""),
        Some("alpha"),
        Some("beta"),
        Some("gamma"),
        Some("Ünïcödé"),
        Some("a string that is too long to stand inside a view"),
    ];
    WORDS[mix(row, salt) as usize % WORDS.len()]
}

fn write_parquet(path: &Path, batch: &RecordBatch, row_group: usize) {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(row_group))
        .build();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// A batch whose columns may all hold NULL.
fn nullable_batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn facts(first: i64) -> RecordBatch {
    let rows = first..first + FACTS_PER_FILE;
    let ids: Int64Array = rows.clone().collect::<Vec<_>>().into();
    let groups: Int32Array = rows.clone().map(|row| (row % 13) as i32).collect::<Vec<_>>().into();
    let keys: Int64Array = rows.clone().map(|row| skewed_key(row, 1)).collect();
    let values: Int64Array = rows.clone().map(|row| value(row, 2)).collect();
    let quarters: Float64Array = rows
        .clone()
        .map(|row| value(row, 3).map(|number| number as f64 / 4.0))
        .collect();
    let words: StringArray = rows.clone().map(|row| word(row, 4)).collect();
    let money: Decimal128Array = rows
        .clone()
        .map(|row| value(row, 5).map(|number| i128::from(number) * 7))
        .collect::<Decimal128Array>()
        .with_precision_and_scale(12, 2)
        .unwrap();
    let times: TimestampMicrosecondArray = rows
        .clone()
        .map(|row| Some(1_700_000_000_000_000 + row * 3_600_000_000))
        .collect();
    let days: Date32Array = rows
        .clone()
        .map(|row| Some(19_000 + (mix(row, 6) % 400) as i32))
        .collect();
    let flags: BooleanArray = rows
        .map(|row| [None, Some(true), Some(false)][mix(row, 7) as usize % 3])
        .collect();
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("id", Arc::new(ids), false),
        ("g", Arc::new(groups), false),
        ("k", Arc::new(keys), true),
        ("v", Arc::new(values), true),
        ("q", Arc::new(quarters), true),
        ("s", Arc::new(words), true),
        ("price", Arc::new(money), true),
        ("t", Arc::new(times), true),
        ("day", Arc::new(days), true),
        ("b", Arc::new(flags), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn write_facts(folder: &Path) {
    fs::create_dir(folder).unwrap();
    for file in 0..FACT_FILES {
        let path = folder.join(format!("part-{file}.parquet"));
        write_parquet(&path, &facts(file * FACTS_PER_FILE), ROW_GROUP);
    }
}

/// The column names of `facts`, with every fifth id, and ids that `facts` does not have.
fn write_other(folder: &Path) {
    fs::create_dir(folder).unwrap();
    for file in 0..3 {
        let rows = file * 1_000..(file + 1) * 1_000;
        let ids: Int64Array = rows.clone().map(|row| Some(row * 5)).collect();
        let keys: Int64Array = rows.clone().map(|row| skewed_key(row, 11)).collect();
        let values: Int64Array = rows.clone().map(|row| value(row, 12)).collect();
        let words: StringArray = rows.map(|row| word(row, 13)).collect();
        let batch = nullable_batch(vec![
            ("id", Arc::new(ids)),
            ("k", Arc::new(keys)),
            ("v", Arc::new(values)),
            ("s", Arc::new(words)),
        ]);
        write_parquet(&folder.join(format!("part-{file}.parquet")), &batch, 250);
    }
}

/// Small tables: a build side with NULLs and duplicates, three rows, one row, no row.
fn write_small(folder: &Path) {
    let rows = 0..60;
    let key = |row: i64| match row {
        0 | 30 => None,
        1..=29 => Some(row),
        31..=50 => Some(row - 25),
        _ => Some(row + 1_000),
    };
    let keys: Int64Array = rows.clone().map(key).collect();
    let names: StringArray = rows.clone().map(|row| Some(format!("name {row}"))).collect();
    let weights: Int64Array = rows.map(|row| value(row, 21)).collect();
    let dims = nullable_batch(vec![
        ("k", Arc::new(keys)),
        ("name", Arc::new(names)),
        ("w", Arc::new(weights)),
    ]);
    write_parquet(&folder.join("dims.parquet"), &dims, 20);

    let small = |rows: std::ops::Range<i64>| {
        let ids: Int64Array = rows.clone().map(Some).collect();
        let values: Int64Array = rows.clone().map(|row| (row != 1).then_some(row * 10)).collect();
        let words: StringArray = rows.map(|row| word(row, 22)).collect();
        nullable_batch(vec![
            ("id", Arc::new(ids)),
            ("v", Arc::new(values)),
            ("s", Arc::new(words)),
        ])
    };
    write_parquet(&folder.join("tiny.parquet"), &small(0..3), 1);
    write_parquet(&folder.join("one.parquet"), &small(7..8), 1);
    write_parquet(&folder.join("nothing.parquet"), &small(0..0), 1);
}

/// The data of known bugs: a filter that lands on another column of the same name, and a limit that moves below a
/// grouping.
fn write_same_names(folder: &Path) {
    let text = |values: &[&str]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    let numbers = |values: &[i64]| -> ArrayRef { Arc::new(Int64Array::from(values.to_vec())) };
    let ta = nullable_batch(vec![("id", text(&["a1"])), ("ty", text(&["x1"]))]);
    write_parquet(&folder.join("ta.parquet"), &ta, 1);
    write_parquet(
        &folder.join("tb.parquet"),
        &nullable_batch(vec![("id", text(&["x1"]))]),
        1,
    );

    let orders: Vec<i64> = (1..=200).collect();
    let amounts: Vec<i64> = orders.iter().map(|id| id * 100).collect();
    let batch = nullable_batch(vec![("id", numbers(&orders)), ("amount", numbers(&amounts))]);
    write_parquet(&folder.join("orders.parquet"), &batch, 1);
    let batch = nullable_batch(vec![("id", numbers(&[1, 2, 3])), ("amount", numbers(&[30, 20, 10]))]);
    write_parquet(&folder.join("payments.parquet"), &batch, 1);
    write_parquet(
        &folder.join("customers.parquet"),
        &nullable_batch(vec![("id", numbers(&[1, 2, 3]))]),
        1,
    );

    let pairs = folder.join("pairs");
    fs::create_dir(&pairs).unwrap();
    let batch = nullable_batch(vec![("a", numbers(&[1, 100])), ("b", numbers(&[10, 99]))]);
    write_parquet(&pairs.join("part-0.parquet"), &batch, 1);
    let batch = nullable_batch(vec![("a", numbers(&[2, 200])), ("b", numbers(&[20, 98]))]);
    write_parquet(&pairs.join("part-1.parquet"), &batch, 1);
}

fn write_text(folder: &Path) {
    let mut people = String::from("id,name,height\n");
    for row in 0..300 {
        let height = value(row, 31).map_or(String::new(), |number| format!("{}", number as f64 / 4.0));
        people += &format!("{row},\"{}, {row}\",{height}\n", word(row, 32).unwrap_or("nobody"));
    }
    fs::write(folder.join("people.csv"), people).unwrap();

    let readings = folder.join("readings");
    fs::create_dir(&readings).unwrap();
    for file in 0..3 {
        let mut text = String::from("sensor,reading\n");
        for row in file * 200..(file + 1) * 200 {
            text += &format!("{},{}\n", row % 9, mix(row, 33) % 1_000);
        }
        fs::write(readings.join(format!("part-{file}.csv")), text).unwrap();
    }

    let mut events = String::new();
    for row in 0..400 {
        let tag = word(row, 34).map_or("null".into(), |word| format!("\"{word}\""));
        events += &format!(
            "{{\"id\": {row}, \"tag\": {tag}, \"at\": {{\"x\": {}, \"y\": {}}}}}\n",
            row % 5,
            row % 3
        );
    }
    fs::write(folder.join("events.ndjson"), events).unwrap();

    let ids: Int64Array = (0..500).map(Some).collect();
    let marks: StringArray = (0..500).map(|row| word(row, 35)).collect();
    let trace = nullable_batch(vec![("id", Arc::new(ids)), ("mark", Arc::new(marks))]);
    let file = File::create(folder.join("trace.arrow")).unwrap();
    let mut writer = FileWriter::try_new(file, &trace.schema()).unwrap();
    for first in (0..500).step_by(100) {
        writer.write(&trace.slice(first, 100)).unwrap();
    }
    writer.finish().unwrap();

    let birds = (0..150).map(|row| (row, word(row, 36)));
    fs::write(folder.join("birds.avro"), avro::encode_file(birds)).unwrap();
}

fn write_hive(folder: &Path) {
    for (year, month) in [(2023, 11), (2023, 12), (2024, 1), (2024, 2)] {
        let part = folder.join(format!("year={year}/month={month}"));
        fs::create_dir_all(&part).unwrap();
        let rows = 0..(year - 2_000) * month;
        let amounts: Int64Array = rows.map(|row| value(row, month as u64)).collect();
        let batch = nullable_batch(vec![("amount", Arc::new(amounts))]);
        write_parquet(&part.join("data.parquet"), &batch, 50);
    }
}

fn write_nested(folder: &Path) {
    let rows = 0..600;
    let ids: Int64Array = rows.clone().map(Some).collect();
    let list = |row: i64| (row % 7 != 0).then(|| (0..row % 4).map(move |item| (item != 2).then_some(item * row)));
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(rows.clone().map(list));
    let x: Int64Array = rows.clone().map(|row| value(row, 41)).collect();
    let y: StringArray = rows.map(|row| word(row, 42)).collect();
    let points = StructArray::from(vec![
        (
            Arc::new(Field::new("x", DataType::Int64, true)),
            Arc::new(x) as ArrayRef,
        ),
        (Arc::new(Field::new("y", DataType::Utf8, true)), Arc::new(y) as ArrayRef),
    ]);
    let batch = nullable_batch(vec![
        ("id", Arc::new(ids)),
        ("items", Arc::new(lists)),
        ("point", Arc::new(points)),
    ]);
    write_parquet(&folder.join("nested.parquet"), &batch, 100);
}

/// An Arrow file whose odd rows are NULL, and hold values all the same.
fn write_hidden(path: &Path) {
    let ids: Int64Array = (0..500).map(Some).collect();
    let nulls = NullBuffer::from_iter((0..500).map(|row| row % 2 == 0));
    let items = || -> ArrayRef {
        let field = Arc::new(Field::new_list_field(DataType::Int64, true));
        let values: Int64Array = (0..500).map(Some).collect();
        let offsets = OffsetBuffer::from_repeated_length(1, 500);
        Arc::new(ListArray::new(field, offsets, Arc::new(values), Some(nulls.clone())))
    };
    let x: Int64Array = (0..500).map(Some).collect();
    let fields = vec![
        Field::new("x", DataType::Int64, true),
        Field::new("l", items().data_type().clone(), true),
    ];
    let points = StructArray::new(fields.into(), vec![Arc::new(x), items()], Some(nulls.clone()));
    let batch = nullable_batch(vec![
        ("id", Arc::new(ids)),
        ("items", items()),
        ("point", Arc::new(points)),
    ]);
    let mut writer = FileWriter::try_new(File::create(path).unwrap(), &batch.schema()).unwrap();
    for first in (0..500).step_by(100) {
        writer.write(&batch.slice(first, 100)).unwrap();
    }
    writer.finish().unwrap();
}

/// One cell of five megabytes among small ones.
fn write_blob(folder: &Path) {
    let cell = |row: i64| match row {
        5 => "five megabytes. ".repeat(BIG_CELL_BYTES / 16),
        _ => format!("small {row}"),
    };
    let ids: Int64Array = (0..10).map(Some).collect();
    let texts: StringArray = (0..10).map(|row| Some(cell(row))).collect();
    let batch = nullable_batch(vec![("id", Arc::new(ids)), ("text", Arc::new(texts))]);
    write_parquet(&folder.join("blob.parquet"), &batch, 4);
}

/// Two row groups, sorted: the first matches `key >= 1` in part, the second wholly.
fn write_sorted(path: &Path) {
    let schema = Arc::new(Schema::new(vec![Field::new("key", DataType::Int64, false)]));
    let keys: Int64Array = (0..200).collect::<Vec<i64>>().into();
    let batch = RecordBatch::try_new(schema, vec![Arc::new(keys)]).unwrap();
    write_parquet(path, &batch, 100);
}
