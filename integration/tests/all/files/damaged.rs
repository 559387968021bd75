//! Files of every format, cut off at many lengths and changed at many bytes: each query gives the rows or an error that
//! names the file, on an embedded worker and on two others with splits as small as possible.
//!
//! | format | cut off | bytes changed |
//! |---|---|---|
//! | Parquet, Arrow files, JSON arrays | an error | as many rows, or an error |
//! | Arrow streams, Avro | an error, but for a cut between two blocks | as many rows, or an error (Avro: not promised) |
//! | gzip | an error | the same rows, or an error |
//! | zstd | an error | not promised |
//! | CSV, JSON lines | the records before the cut, or an error | not promised |

use std::fs;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use datafusion::prelude::SessionContext;
use futures::{StreamExt, stream};
use squadron_integration::client::Client;
use squadron_integration::cluster::cluster;
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::support::{Mismatches, bounded, minutes, single};

const ROWS: i64 = 2_000;
const QUERY: &str = "SELECT value AS n, 'text ' || value AS s, value * 0.5 AS x, value % 3 = 0 AS b \
    FROM generate_series(1, 2000)";

/// How many lengths, and how many changed bytes, each file is tried with.
const CUTS: usize = 24;
const CHANGES: usize = 40;

/// How many statements run at a time.
const CONCURRENCY: usize = 4;

/// What is promised of a damaged file beside an error that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    /// Nothing else than the error.
    Error,
    /// All rows.
    All,
    /// At most all rows.
    Some,
    /// Any rows.
    Any,
}

struct Format {
    extension: &'static str,
    /// How `COPY` writes it; none for what this test writes itself.
    copy: Option<&'static str>,
    cut: Promise,
    changed: Promise,
}

const FORMATS: [Format; 9] = [
    Format {
        extension: "parquet",
        copy: Some("PARQUET OPTIONS ('max_row_group_size' '700', 'data_page_row_count_limit' '100')"),
        cut: Promise::Error,
        changed: Promise::All,
    },
    Format {
        extension: "csv",
        copy: Some("CSV"),
        cut: Promise::Some,
        changed: Promise::Any,
    },
    Format {
        extension: "csv.gz",
        copy: Some("CSV OPTIONS ('format.compression' 'gzip')"),
        cut: Promise::Error,
        changed: Promise::All,
    },
    Format {
        extension: "csv.zst",
        copy: Some("CSV OPTIONS ('format.compression' 'zstd')"),
        cut: Promise::Error,
        changed: Promise::Any,
    },
    Format {
        extension: "ndjson",
        copy: Some("JSON"),
        cut: Promise::Some,
        changed: Promise::Any,
    },
    Format {
        extension: "json",
        copy: None,
        cut: Promise::Error,
        changed: Promise::Any,
    },
    Format {
        extension: "arrow",
        copy: Some("ARROW"),
        cut: Promise::Error,
        changed: Promise::All,
    },
    Format {
        extension: "arrows",
        copy: None,
        cut: Promise::Some,
        changed: Promise::All,
    },
    Format {
        extension: "avro",
        copy: None,
        cut: Promise::Some,
        changed: Promise::Any,
    },
];

/// A damaged file, which is a table.
struct Damaged {
    table: String,
    file: String,
    promise: Promise,
}

#[test]
fn damaged_files_give_their_rows_or_an_error_that_names_them() {
    bounded(minutes(9), async {
        let folder = TempDir::with_prefix("squadron-damaged-").unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let mut files = Vec::new();
        for format in &FORMATS {
            let sound = sound(folder.path(), format).await;
            files.extend(damage(&data, format, &sound));
        }
        let mut mismatches = Mismatches::default();
        for workers in [0, 2] {
            let cluster = cluster().workers(workers).slots(2).data(&data).tiny_splits();
            let mut cluster = cluster.start().await;
            let client = cluster.client().await;
            let mut judged = Vec::with_capacity(files.len());
            for file in &files {
                judged.push(judge(&client, file));
            }
            let outcomes: Vec<_> = stream::iter(judged).buffered(CONCURRENCY).collect().await;
            for (file, outcome) in files.iter().zip(outcomes) {
                mismatches.note(
                    &format!("{} ({workers} workers, {:?})", file.file, file.promise),
                    outcome,
                );
            }
            let log = cluster.server().log();
            let bug = log.lines().find(|line| line.contains("bug of Squadron"));
            assert_eq!(bug, None, "in the log");
        }
        mismatches.assert_none();
    });
}

async fn judge(client: &Client, file: &Damaged) -> Result<(), String> {
    let table = &file.table;
    let all = client.query(&format!("SELECT * FROM {table}")).await;
    let all = all.map(|(_, batches)| batches.iter().map(RecordBatch::num_rows).sum::<usize>() as i64);
    check("rows", &all, file)?;
    let counted = client.query(&format!("SELECT count(*) FROM {table} WHERE n > 0")).await;
    let counted = counted.map(|(_, batches)| single(&batches));
    match (&counted, file.promise) {
        // Changed values are not greater than zero.
        (Ok(_), Promise::All) => Ok(()),
        _ => check("count", &counted, file),
    }
}

fn check(what: &str, outcome: &Result<i64, Status>, file: &Damaged) -> Result<(), String> {
    match (outcome, file.promise) {
        (Err(status), _) if matches!(status.code(), Code::Internal | Code::Unknown) => Err(format!("a bug: {status}")),
        (Err(status), _) if status.message().contains(&file.file) => Ok(()),
        // A column is missing when its name in the header has changed.
        (Err(status), Promise::Any | Promise::All) if status.message().contains("No field named") => Ok(()),
        // A changed value made its column a text, and the condition is no longer one of numbers.
        (Err(status), Promise::Any) if status.message().contains("Cannot cast string") => Ok(()),
        (Err(status), _) => Err(format!("the file is not named: {status}")),
        (Ok(rows), Promise::Error) => Err(format!("{rows} {what} of a file that is cut off")),
        (Ok(rows), Promise::All) if *rows != ROWS => Err(format!("{rows} {what}")),
        (Ok(rows), Promise::Some) if *rows > ROWS => Err(format!("{rows} {what}")),
        (Ok(_), _) => Ok(()),
    }
}

/// The bytes of an undamaged file.
async fn sound(folder: &Path, format: &Format) -> Vec<u8> {
    let context = SessionContext::new();
    let Some(copy) = format.copy else {
        let batches = context.sql(QUERY).await.unwrap().collect().await.unwrap();
        return match format.extension {
            "arrows" => ipc_stream(&batches),
            "json" => json_array(),
            _ => avro(),
        };
    };
    let path = folder.join(format!("sound.{}", format.extension));
    let statement = format!("COPY ({QUERY}) TO '{}' STORED AS {copy}", path.display());
    context.sql(&statement).await.unwrap().collect().await.unwrap();
    fs::read(path).unwrap()
}

fn ipc_stream(batches: &[RecordBatch]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.finish().unwrap();
    drop(writer);
    bytes
}

fn json_array() -> Vec<u8> {
    let objects = (1..=ROWS).map(|n| format!("{{\"n\": {n}, \"s\": \"text {n}\"}}"));
    format!("[{}]", objects.collect::<Vec<_>>().join(",\n")).into_bytes()
}

/// An Avro file in blocks of 100 rows.
fn avro() -> Vec<u8> {
    const SYNC: [u8; 16] = *b"0123456789abcdef";
    let schema = r#"{"type":"record","name":"r","fields":[{"name":"n","type":"long"},{"name":"s","type":"string"}]}"#;
    let mut bytes = b"Obj\x01".to_vec();
    bytes.extend(avro_number(1));
    for text in ["avro.schema", schema] {
        bytes.extend(avro_number(text.len() as i64));
        bytes.extend(text.as_bytes());
    }
    bytes.push(0);
    bytes.extend(SYNC);
    let numbers: Vec<i64> = (1..=ROWS).collect();
    for block in numbers.chunks(100) {
        let mut rows = Vec::new();
        for n in block {
            let text = format!("text {n}");
            rows.extend(avro_number(*n));
            rows.extend(avro_number(text.len() as i64));
            rows.extend(text.as_bytes());
        }
        bytes.extend(avro_number(block.len() as i64));
        bytes.extend(avro_number(rows.len() as i64));
        bytes.extend(rows);
        bytes.extend(SYNC);
    }
    bytes
}

/// A zigzag number of seven bits a byte.
fn avro_number(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

/// Writes the damaged forms of a file.
fn damage(data: &Path, format: &Format, sound: &[u8]) -> Vec<Damaged> {
    let mut files = Vec::new();
    let mut random = Random(sound.len() as u64);
    let kind = format.extension.replace('.', "_");
    let mut write = |what: &str, number: usize, bytes: &[u8], promise| {
        let table = format!("{kind}_{what}_{number}");
        let file = format!("{table}.{}", format.extension);
        fs::write(data.join(&file), bytes).unwrap();
        files.push(Damaged { table, file, promise });
    };
    write("sound", 0, sound, Promise::All);
    let near_the_end = [1, 2, 4, 8, 9, 16, 40, 200].map(|bytes| sound.len() - bytes.min(sound.len()));
    let anywhere = (0..CUTS).map(|_| random.below(sound.len()));
    for (number, length) in [0, 1, 4, 8, 12]
        .into_iter()
        .chain(near_the_end)
        .chain(anywhere)
        .enumerate()
    {
        // The end of a stream that lost nothing else than its mark, and of a text that lost its last line break.
        let promise = if length == 0 { Promise::Error } else { format.cut };
        write("cut", number, &sound[..length], promise);
    }
    // The first and last bytes tell where everything is.
    let edges = (0..CHANGES / 2).map(|number| match number % 2 {
        0 => sound.len() - 1 - random.below(sound.len().min(600)),
        _ => random.below(sound.len().min(600)),
    });
    let mut places: Vec<usize> = edges.collect();
    places.extend((0..CHANGES / 2).map(|_| random.below(sound.len())));
    for (number, at) in places.into_iter().enumerate() {
        let mut bytes = sound.to_vec();
        match random.below(3) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = 0xFF,
            _ => bytes[at] = random.below(256) as u8,
        }
        write("changed", number, &bytes, format.changed);
    }
    files
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}
