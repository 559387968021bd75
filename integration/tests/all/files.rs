//! What a folder holds is read as its files say, or its omission is told: CSV by its headers and whole records, JSON with
//! all its fields, folders of NULL, Parquet whose statistics do not prove what they seem to. On two workers and on an
//! embedded one, with splits as small as possible.

mod damaged;
mod foreign;
mod widened;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use squadron_integration::cluster::cluster;
use tempfile::TempDir;

use crate::support::{Mismatches, bounded, minutes, texts};

/// Checks the first column of each query over the files of `write`; after [`ERROR`] come parts of an error.
pub(crate) fn check(
    write: impl FnOnce(&Path) + Send + 'static,
    queries: &'static [(&'static str, &'static [&'static str])],
) {
    bounded(minutes(6), async move {
        let folder = TempDir::with_prefix("squadron-formats-").unwrap();
        write(folder.path());
        let mut mismatches = Mismatches::default();
        for workers in [0, 2] {
            let cluster = cluster().workers(workers).slots(2).data(folder.path()).tiny_splits();
            let cluster = cluster.start().await;
            let client = cluster.client().await;
            for (sql, expected) in queries {
                let outcome = match client
                    .query(&sql.replace("FOLDER", &folder.path().display().to_string()))
                    .await
                {
                    Ok((_, batches)) if texts(&batches) == *expected => Ok(()),
                    Ok((_, batches)) => Err(format!("{:?} instead of {expected:?}", texts(&batches))),
                    Err(status)
                        if expected.first() == Some(&ERROR)
                            && expected[1..].iter().all(|part| status.message().contains(part)) =>
                    {
                        Ok(())
                    }
                    Err(status) => Err(format!("{status} instead of {expected:?}")),
                };
                mismatches.note(&format!("{sql} ({workers} workers)"), outcome);
            }
        }
        mismatches.assert_none();
    });
}

/// Stands before parts of an expected error.
pub(crate) const ERROR: &str = "error";

pub(crate) fn put(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// In the log when the server finds it, in `system.tables` for as long as it is there.
#[test]
fn what_is_not_read_is_told() {
    bounded(minutes(4), async {
        let folder = TempDir::with_prefix("squadron-omissions-").unwrap();
        let data = folder.path();
        put(data, "t/a.csv", "x\n1\n");
        put(data, "t/notes.txt", "not a table");
        put(data, "t/old/b.csv", "x\n2\n");
        put(data, "README.md", "not a table");
        let mut cluster = cluster().workers(1).slots(1).data(data).start().await;
        let client = cluster.client().await;
        let told = async |name: &str| {
            let sql = format!("SELECT warnings FROM system.tables WHERE {name}");
            texts(&client.query(&sql).await.unwrap().1)
        };
        let warning = "notes.txt does not end in .csv as the table's files do, and is not read; \
                       old/ is a folder within the table's and not named k=v, and is not read";
        assert_eq!(told("name = 't'").await, [warning]);
        let of_folder = "README.md has not the extension of a table file, and is not read";
        assert_eq!(told("kind = 'folder'").await, [of_folder]);
        for part in [warning, of_folder] {
            assert!(cluster.server().log().contains(part), "{part} is not in the log");
        }
        let create = format!(
            "CREATE EXTERNAL TABLE made STORED AS CSV LOCATION '{}/t/'",
            data.display()
        );
        client.update(&create).await.unwrap();
        assert_eq!(told("name = 'made'").await, [warning]);
        assert!(
            cluster.server().log().contains("table made: not all of"),
            "it is not in the log"
        );
        fs::remove_file(data.join("t/notes.txt")).unwrap();
        fs::remove_dir_all(data.join("t/old")).unwrap();
        fs::remove_file(data.join("README.md")).unwrap();
        assert_eq!(told("name IN ('t', 'made')").await, ["NULL", "NULL"]);
        assert_eq!(told("kind = 'folder'").await, [""; 0]);
    });
}

#[test]
fn csv_columns_are_found_by_their_names() {
    check(
        |folder| {
            put(folder, "mixed/1.csv", "id,name\n1,x\n2,y\n");
            put(folder, "mixed/2.csv", "name,id\nz,3\n");
            put(folder, "mixed/3.csv", "id,name,extra\n4,w,9.5\n");
            put(folder, "wider/1.csv", "n\n1\n");
            put(folder, "wider/2.csv", "n\n2.5\n");
        },
        &[
            ("SELECT name FROM mixed ORDER BY id", &["x", "y", "z", "w"]),
            ("SELECT id FROM mixed WHERE extra IS NULL ORDER BY id", &["1", "2", "3"]),
            ("SELECT extra FROM mixed WHERE id = 4", &["9.5"]),
            ("SELECT count(*) FROM mixed", &["4"]),
            ("SELECT sum(n) FROM wider", &["3.5"]),
        ],
    );
}

/// In pieces of this file some begin within quotes.
#[test]
fn quoted_line_breaks_end_no_record() {
    check(
        |folder| {
            let mut text = String::from("id,text\n");
            for id in 0..20_000 {
                match id % 100 {
                    7 => writeln!(text, "{id},\"first\n{id},second \"\"quoted\"\"\n\"").unwrap(),
                    _ => writeln!(text, "{id},plain text of row {id}").unwrap(),
                }
            }
            put(folder, "breaks.csv", &text);
        },
        &[
            ("SELECT count(*) FROM breaks", &["20000"]),
            ("SELECT sum(id) FROM breaks", &["199990000"]),
            ("SELECT count(*) FROM breaks WHERE text LIKE 'first%'", &["200"]),
        ],
    );
}

#[test]
fn dialects_are_seen_in_the_first_lines() {
    check(
        |folder| {
            put(folder, "semicolons.csv", "a;b\n1;2,5\n");
            put(folder, "tabs.tsv", "a\tb\n1\tx, y\n");
            put(folder, "pipes.csv", "a|b\n1|2\n");
            put(folder, "marked.csv", "\u{feff}a,b\n1,2\n");
            put(folder, "objects.json", "[{\"a\": 1}, {\"a\": 2.5, \"b\": \"x\"}]");
        },
        &[
            ("SELECT b FROM semicolons WHERE a = 1", &["2,5"]),
            ("SELECT b FROM tabs WHERE a = 1", &["x, y"]),
            ("SELECT b FROM pipes WHERE a = 1", &["2"]),
            ("SELECT a FROM marked", &["1"]),
            ("SELECT sum(a) FROM objects", &["3.5"]),
            ("SELECT b FROM objects ORDER BY a", &["NULL", "x"]),
        ],
    );
}

#[test]
fn late_fields_and_fractions_of_json_are_read() {
    check(
        |folder| {
            let mut text = String::new();
            for id in 0..3_000 {
                let late = if id == 2_500 { ", \"late\": \"here\"" } else { "" };
                let n = if id == 2_999 {
                    "2999.75".to_owned()
                } else {
                    id.to_string()
                };
                writeln!(text, "{{\"id\": {id}, \"n\": {n}{late}}}").unwrap();
            }
            put(folder, "late.json", &text);
        },
        &[
            ("SELECT max(n) FROM late", &["2999.75"]),
            ("SELECT id FROM late WHERE late = 'here'", &["2500"]),
        ],
    );
}

#[test]
fn folders_tell_nulls_and_numbers() {
    check(
        |folder| {
            put(folder, "sales/m=06/k=__HIVE_DEFAULT_PARTITION__/a.csv", "v\n1\n");
            put(folder, "sales/m=12/k=5/b.csv", "v\n2\n");
        },
        &[
            ("SELECT v FROM sales WHERE m = 6", &["1"]),
            ("SELECT v FROM sales WHERE k IS NULL", &["1"]),
            ("SELECT v FROM sales WHERE k <> 4", &["2"]),
            ("SELECT m FROM sales ORDER BY m", &["6", "12"]),
        ],
    );
}

/// Parquet's statistics leave NaN out.
#[test]
fn statistics_without_nan_prune_no_nan() {
    check(
        |folder| {
            let numbers = [1.0, f64::NAN, 2.0, f64::NAN, -0.0, 0.0, 1.0, 1.0];
            let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..8));
            let numbers: ArrayRef = Arc::new(Float64Array::from(numbers.to_vec()));
            let batch = RecordBatch::try_from_iter([("id", ids), ("x", numbers)]).unwrap();
            let properties = WriterProperties::builder().set_max_row_group_row_count(Some(2)).build();
            let file = fs::File::create(folder.join("nan.parquet")).unwrap();
            let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            let one = batch.slice(0, 2);
            let file = fs::File::create(folder.join("constant.parquet")).unwrap();
            let mut writer = ArrowWriter::try_new(file, one.schema(), None).unwrap();
            writer.write(&one).unwrap();
            writer.close().unwrap();
        },
        &[
            ("SELECT id FROM nan WHERE x > 1.5 ORDER BY id", &["1", "2", "3"]),
            (
                "SELECT id FROM nan WHERE x = CAST('NaN' AS DOUBLE) ORDER BY id",
                &["1", "3"],
            ),
            ("SELECT max(x) FROM nan", &["NaN"]),
            ("SELECT id FROM nan WHERE x < 0.5 ORDER BY id", &["4", "5"]),
            (
                "SELECT count(*) FROM (SELECT x FROM nan ORDER BY x DESC LIMIT 2) WHERE x = CAST('NaN' AS DOUBLE)",
                &["2"],
            ),
            ("SELECT x FROM constant ORDER BY id", &["1.0", "NaN"]),
        ],
    );
}
