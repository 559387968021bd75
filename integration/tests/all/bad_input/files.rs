//! Files that are no tables: pipes, devices, links in circles, broken footers. The server starts, says which and why, and
//! serves the others.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::ipc::writer::FileWriter;
use squadron_integration::cluster::cluster;
use tonic::Code;

use super::assert_still_answers;
use crate::support::{Mismatches, bounded, failure_of, minutes, seconds};
use crate::tpch::tpch_path;

fn make_pipe(path: &Path) {
    let status = Command::new("mkfifo")
        .arg(path)
        .status()
        .expect("there is a `mkfifo` command");
    assert!(status.success());
}

/// A Parquet file whose footer says that it is longer than the file, and one whose footer is noise.
fn write_broken_parquet(folder: &Path) {
    let with_footer = |length: u32| [b"PAR1".as_slice(), &[7; 64], &length.to_le_bytes(), b"PAR1"].concat();
    fs::write(folder.join("long_footer.parquet"), with_footer(u32::MAX - 9)).unwrap();
    fs::write(folder.join("noise.parquet"), with_footer(64)).unwrap();
    fs::write(folder.join("short.parquet"), b"PAR1").unwrap();
}

#[test]
fn special_and_broken_files_are_left_out() {
    bounded(minutes(5), async {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        fs::write(data.join("good.csv"), "x\n1\n2\n").unwrap();
        make_pipe(&data.join("pipe.csv"));
        symlink("/dev/zero", data.join("device.csv")).unwrap();
        symlink("circle.csv", data.join("circle.csv")).unwrap();
        symlink("nowhere", data.join("dangling.csv")).unwrap();
        write_broken_parquet(data);
        // A folder that contains itself, and one with a pipe among its files.
        fs::create_dir(data.join("looped")).unwrap();
        symlink(data.join("looped"), data.join("looped/again")).unwrap();
        fs::create_dir(data.join("parts")).unwrap();
        fs::write(data.join("parts/a.csv"), "x\n3\n").unwrap();
        make_pipe(&data.join("parts/b.csv"));

        let mut cluster = cluster().slots(1).data(data).start().await;
        let client = cluster.client().await;
        let mut mismatches = Mismatches::default();
        for (table, rows) in [("good", 2), ("parts", 1)] {
            let (_, batches) = client.query(&format!("SELECT * FROM {table}")).await.unwrap();
            assert_eq!(
                batches.iter().map(|batch| batch.num_rows()).sum::<usize>(),
                rows,
                "{table}"
            );
        }
        for (table, file) in [
            ("pipe", "pipe.csv"),
            ("device", "device.csv"),
            ("circle", "circle.csv"),
            ("dangling", "dangling.csv"),
            ("long_footer", "long_footer.parquet"),
            ("noise", "noise.parquet"),
            ("short", "short.parquet"),
            ("looped", "looped"),
        ] {
            let status = failure_of(&client, &format!("SELECT * FROM {table}")).await;
            let is_named = status.message().contains(file) && cluster.server().log().contains(file);
            let outcome = match status.code() {
                Code::Internal | Code::Unknown => Err(format!("a bug: {status}")),
                _ if !is_named => Err(format!("{file} is not named, or not logged: {status}")),
                _ => Ok(()),
            };
            mismatches.note(table, outcome);
        }
        let create = format!(
            "CREATE EXTERNAL TABLE made STORED AS CSV LOCATION '{}'",
            data.join("pipe.csv").display()
        );
        let status = client.update(&create).await.expect_err("a pipe is no table");
        assert!(status.message().contains("pipe"), "{status}");
        mismatches.assert_none();
        assert_still_answers(&client).await;
        cluster.server().terminate();
        let status = cluster.server().wait_for_exit(seconds(30)).await;
        assert!(status.success(), "{status}");
    });
}

/// Rows cannot be read whose pages are damaged, though the footer is fine.
#[test]
fn error_of_damaged_pages_names_the_file() {
    bounded(minutes(3), async {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let mut bytes = fs::read(tpch_path("customer")).unwrap();
        bytes[4..2_000].fill(0xA5);
        fs::write(data.join("damaged.parquet"), &bytes).unwrap();
        fs::write(data.join("good.csv"), "x\n1\n2\n").unwrap();
        let cluster = cluster().slots(1).data(data).start().await;
        let client = cluster.client().await;
        let status = failure_of(&client, "SELECT * FROM damaged").await;
        assert!(status.message().contains("damaged.parquet"), "{status}");
        assert!(
            !matches!(status.code(), Code::Internal | Code::Unknown),
            "a bug: {status}"
        );
        let (_, rows) = client.query("SELECT * FROM good").await.expect("the others are served");
        assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 2);
    });
}

/// DataFusion reads the columns of Arrow files by their position in the first file.
#[test]
fn arrow_files_may_order_their_columns_differently() {
    fn write(path: &Path, batch: &RecordBatch) {
        let mut writer = FileWriter::try_new(fs::File::create(path).unwrap(), &batch.schema()).unwrap();
        writer.write(batch).unwrap();
        writer.finish().unwrap();
    }
    bounded(minutes(3), async {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("mixed");
        fs::create_dir(&table).unwrap();
        let column = |values: [i64; 2]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
        let first = RecordBatch::try_from_iter([("a", column([1, 2])), ("b", column([10, 20]))]).unwrap();
        write(&table.join("1.arrow"), &first);
        write(&table.join("2.arrow"), &first.project(&[1, 0]).unwrap());
        let cluster = cluster().workers(2).slots(1).data(folder.path()).start().await;
        let client = cluster.client().await;
        for (sql, sums) in [
            ("SELECT sum(a) AS a, sum(b) AS b FROM mixed", vec![6, 60]),
            ("SELECT sum(b) AS b FROM mixed", vec![60]),
        ] {
            let (_, rows) = client.query(sql).await.unwrap();
            let sum = |column: usize| rows[0].column(column).as_primitive::<Int64Type>().value(0);
            assert_eq!((0..sums.len()).map(sum).collect::<Vec<_>>(), sums, "{sql}");
        }
    });
}
