//! What folders hold beside the files of tables is told, as long as it is there.

use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;

/// The warnings about a table.
async fn warnings(catalog: &Catalog, table: &str) -> Option<String> {
    row(catalog, table).await.warnings
}

async fn row(catalog: &Catalog, table: &str) -> TableInfo {
    let tables = catalog.tables().await;
    let row = tables.iter().find(|row| row.name.as_deref() == Some(table));
    row.unwrap_or_else(|| panic!("no {table} in {tables:?}")).clone()
}

#[tokio::test]
async fn every_kind_of_omission_is_told_until_its_cause_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("t");
    write_text(&data.join("a.csv"), "x\n1\n");
    write_text(&data.join("_SUCCESS"), "");
    write_text(&data.join(".a.csv.crc"), "sum");
    let catalog = open(folder.path()).await;
    assert_eq!(warnings(&catalog, "t").await, None, "marks of tools are no data");
    for (name, part) in [
        ("README.md", "README.md does not end in .csv"),
        ("_old.csv", "_old.csv begins with . or _"),
        (".old.csv", ".old.csv begins with . or _"),
        ("empty.csv", "empty.csv is empty"),
        ("sub/b.csv", "sub/ is a folder within the table's and not named k=v"),
        ("_delta_log/0.json", "_delta_log/ begins with . or _"),
        ("c.csv.tmp", "c.csv.tmp does not end in .csv"),
    ] {
        let path = data.join(name);
        write_text(&path, if name.starts_with("empty") { "" } else { "x\n2\n" });
        let told = warnings(&catalog, "t").await.unwrap_or_default();
        assert!(told.starts_with(part), "{name}: {told:?}");
        match name.split_once('/') {
            Some((folder, _)) => fs::remove_dir_all(data.join(folder)).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        assert_eq!(warnings(&catalog, "t").await, None, "{name} is gone");
    }
    let pipe = data.join("pipe.csv");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    symlink("/dev/zero", data.join("zero.csv")).unwrap();
    symlink("nowhere", data.join("lost.csv")).unwrap();
    let told = warnings(&catalog, "t").await.unwrap();
    for part in [
        "pipe.csv is a pipe",
        "zero.csv is a pipe",
        "lost.csv is a link that leads nowhere",
    ] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(cell(&catalog, "SELECT count(*) FROM t").await, "1");
}

#[tokio::test]
async fn folder_in_a_circle_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("t");
    write_text(&data.join("README.md"), "x\n1\n");
    symlink(&data, data.join("again")).unwrap();
    let catalog = open(folder.path()).await;
    let told = warnings(&catalog, "t").await.unwrap();
    assert!(told.contains("again"), "{told}");
}

#[tokio::test]
async fn files_beside_partitions_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("t");
    write_text(&data.join("k=1/a.csv"), "x\n1\n");
    let catalog = open(folder.path()).await;
    assert_eq!(warnings(&catalog, "t").await, None);
    write_text(&data.join("k=1/b.json"), "{}\n");
    write_text(&data.join("k=1/deep/c.csv"), "x\n2\n");
    let told = warnings(&catalog, "t").await.unwrap();
    assert!(told.contains("k=1/b.json does not end in .csv"), "{told}");
    assert!(told.contains("k=1/deep/ is a folder within the table's"), "{told}");
}

#[tokio::test]
async fn files_that_are_no_tables_are_told_with_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    write_text(&folder.path().join("a.csv"), "x\n1\n");
    write_text(&folder.path().join("README.md"), "text");
    write_text(&folder.path().join("_SUCCESS"), "");
    fs::create_dir(folder.path().join("later")).unwrap();
    let catalog = open(folder.path()).await;
    let folders = async || {
        let tables = catalog.tables().await.into_iter();
        let mut folders: Vec<_> = tables.filter(|table| table.kind == "folder").collect();
        (folders.pop(), folders.len())
    };
    let (found, others) = folders().await;
    let found = found.unwrap();
    assert_eq!((found.name, others), (None, 0));
    assert_eq!(found.location, Some(folder.path().display().to_string()));
    assert_eq!(
        found.warnings.as_deref(),
        Some("README.md has not the extension of a table file, and is not read")
    );
    let empty = row(&catalog, "later").await;
    assert_eq!((empty.files, empty.warnings), (Some(0), None));
    fs::remove_file(folder.path().join("README.md")).unwrap();
    assert_eq!(folders().await.0, None);
}

#[tokio::test]
async fn created_tables_tell_what_they_do_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("t");
    write_text(&data.join("a.csv"), "x\n1\n");
    write_text(&data.join("b.txt"), "x\n2\n");
    write_text(&data.join("sub/c.csv"), "x\n3\n");
    let catalog = Catalog::open(&CatalogOptions::default(), Arc::new(RuntimeEnv::default()))
        .await
        .unwrap();
    let create = |name: &str, location: &str| {
        format!(
            "CREATE EXTERNAL TABLE {name} STORED AS CSV LOCATION '{}{location}'",
            data.display()
        )
    };
    query(&catalog, &create("whole", "/")).await.unwrap();
    let told = warnings(&catalog, "whole").await.unwrap();
    assert!(told.contains("b.txt does not end in .csv"), "{told}");
    assert!(told.contains("sub/ is a folder within the table's"), "{told}");
    assert_eq!(cell(&catalog, "SELECT count(*) FROM whole").await, "1");
    query(&catalog, &create("pattern", "/a*.csv")).await.unwrap();
    assert_eq!(
        warnings(&catalog, "pattern").await,
        None,
        "its pattern asks for no other files"
    );
    query(&catalog, "CREATE VIEW v AS SELECT 1").await.unwrap();
    assert_eq!(row(&catalog, "v").await.kind, "view");
}

#[tokio::test]
async fn tables_are_described() {
    let folder = tempfile::tempdir().unwrap();
    write_parquet(&folder.path().join("p/1.parquet"), &rows());
    write_parquet(&folder.path().join("p/2.parquet"), &rows());
    write_text(&folder.path().join("c.csv"), "a\n1\n2\n");
    write_text(&folder.path().join("bad.parquet"), "this is no parquet");
    let catalog = open(folder.path()).await;
    let table = row(&catalog, "p").await;
    let bytes = fs::metadata(folder.path().join("p/1.parquet")).unwrap().len() * 2;
    assert_eq!((table.schema.as_str(), table.kind), ("public", "files"));
    assert_eq!(table.format.as_deref(), Some("parquet"));
    assert_eq!((table.files, table.bytes, table.rows), (Some(2), Some(bytes), Some(6)));
    let table = row(&catalog, "c").await;
    assert_eq!(
        (table.format.as_deref(), table.files, table.bytes),
        (Some("csv"), Some(1), Some(6))
    );
    assert_eq!(table.rows, None, "lines are not counted");
    let table = row(&catalog, "bad").await;
    assert!(table.warnings.unwrap().contains("bad.parquet"));
}

#[tokio::test]
async fn warnings_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    write_text(&folder.path().join("t/a.csv"), "x\n1\n");
    for number in 0..100 {
        write_text(&folder.path().join(format!("t/{number:03}.txt")), "");
    }
    let catalog = open(folder.path()).await;
    let told = warnings(&catalog, "t").await.unwrap();
    assert!(told.ends_with("; and 80 more"), "{told}");
}
