//! Tables from files and folders.

use super::*;

#[tokio::test]
async fn every_format_is_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_parquet(&at("p.parquet"), &rows());
    write_text(&at("c.csv"), "a,b\n1,x\n2,y\n3,z\n");
    write_text(
        &at("j.json"),
        "{\"a\":1,\"b\":\"x\"}\n{\"a\":2,\"b\":\"y\"}\n{\"a\":3,\"b\":\"z\"}\n",
    );
    write_text(&at("nd.ndjson"), "{\"a\":6,\"b\":\"x\"}\n");
    write_text(&at("jl.jsonl"), "{\"a\":6,\"b\":\"x\"}\n");
    let mut arrow = FileWriter::try_new(File::create(at("i.arrow")).unwrap(), &rows().schema()).unwrap();
    arrow.write(&rows()).unwrap();
    arrow.finish().unwrap();
    fs::write(at("v.avro"), avro_file()).unwrap();
    let catalog = open(folder.path()).await;
    for table in ["p", "c", "j", "nd", "jl", "i", "v"] {
        assert_eq!(
            cell(&catalog, &format!("SELECT sum(a) FROM {table}")).await,
            "6",
            "{table}"
        );
    }
    assert_eq!(tables(&catalog).await, ["c", "i", "j", "jl", "nd", "p", "v"]);
}

/// An Avro object container file with the records 1, 2 and 3, by hand: header, schema, one block.
fn avro_file() -> Vec<u8> {
    let long = |value: i64| -> Vec<u8> {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        let mut bytes = Vec::new();
        loop {
            let low = (rest & 0x7f) as u8;
            rest >>= 7;
            if rest == 0 {
                bytes.push(low);
                return bytes;
            }
            bytes.push(low | 0x80);
        }
    };
    let string = |text: &str| [long(text.len() as i64), text.as_bytes().to_vec()].concat();
    let schema = r#"{"type":"record","name":"r","fields":[{"name":"a","type":"long"}]}"#;
    let sync = [7u8; 16];
    let rows = [long(1), long(2), long(3)].concat();
    [
        b"Obj\x01".to_vec(),
        long(2),
        string("avro.schema"),
        string(schema),
        string("avro.codec"),
        string("null"),
        long(0),
        sync.to_vec(),
        long(3),
        long(rows.len() as i64),
        rows,
        sync.to_vec(),
    ]
    .concat()
}

#[tokio::test]
async fn compressed_text_is_read_by_extension() {
    let folder = tempfile::tempdir().unwrap();
    let writer = SessionContext::new();
    for (name, format, compression) in [
        ("g.csv.gz", "CSV", "gzip"),
        ("z.csv.zst", "CSV", "zstd"),
        ("b.json.bz2", "JSON", "bzip2"),
        ("x.json.xz", "JSON", "xz"),
    ] {
        let copy = format!(
            "COPY (VALUES (1), (2), (3)) TO '{}' STORED AS {format} OPTIONS ('format.compression' '{compression}')",
            folder.path().join(name).display()
        );
        writer.sql(&copy).await.unwrap().collect().await.unwrap();
        assert!(folder.path().join(name).is_file());
    }
    let catalog = open(folder.path()).await;
    for table in ["g", "z", "b", "x"] {
        assert_eq!(
            cell(&catalog, &format!("SELECT sum(column1) FROM {table}")).await,
            "6",
            "{table}"
        );
    }
}

#[tokio::test]
async fn partition_folders_make_typed_columns() {
    let folder = tempfile::tempdir().unwrap();
    for (path, values) in [("day=2024-01-01/n=1", 1), ("day=2024-01-02/n=2", 2)] {
        let path = folder.path().join("events").join(path);
        write_parquet(&path.join("part-0.parquet"), &rows());
        write_parquet(&path.join(format!("part-{values}.parquet")), &rows());
        write_text(&path.join("_SUCCESS"), "");
    }
    write_parquet(&folder.path().join("plain/x.parquet"), &rows());
    write_parquet(&folder.path().join("plain/y.parquet"), &rows());
    let catalog = open(folder.path()).await;
    assert_eq!(cell(&catalog, "SELECT count(*) FROM plain").await, "6");
    assert_eq!(cell(&catalog, "SELECT count(*) FROM events").await, "12");
    assert_eq!(cell(&catalog, "SELECT count(*) FROM events WHERE n = 2").await, "6");
    assert_eq!(
        cell(&catalog, "SELECT count(*) FROM events WHERE day = DATE '2024-01-01'").await,
        "6"
    );
    let described = query(&catalog, "DESCRIBE events").await.unwrap();
    assert!(
        described.contains("Date32") && described.contains("Int64"),
        "{described}"
    );
}

#[tokio::test]
async fn partition_with_leading_zeros_is_text() {
    let folder = tempfile::tempdir().unwrap();
    for month in ["01", "12"] {
        write_parquet(&folder.path().join(format!("t/month={month}/x.parquet")), &rows());
    }
    let catalog = open(folder.path()).await;
    assert_eq!(cell(&catalog, "SELECT count(*) FROM t WHERE month = '01'").await, "3");
}

#[tokio::test]
async fn broken_table_leaves_the_others() {
    let folder = tempfile::tempdir().unwrap();
    write_parquet(&folder.path().join("good.parquet"), &rows());
    write_text(&folder.path().join("bad.parquet"), "this is no parquet");
    write_parquet(&folder.path().join("half/a.parquet"), &rows());
    write_text(&folder.path().join("half/b.parquet"), "this is no parquet either");
    write_text(&folder.path().join("empty.csv"), "");
    write_text(&folder.path().join("dup.csv"), "a\n1\n");
    write_text(&folder.path().join("dup.json"), "{\"a\":1}\n");
    let catalog = open(folder.path()).await;
    assert_eq!(cell(&catalog, "SELECT count(*) FROM good").await, "3");
    for (table, parts) in [
        ("bad", &["table bad", "bad.parquet"][..]),
        ("half", &["table half", "b.parquet"]),
        ("empty", &["empty.csv", "header"]),
        ("dup", &["dup.csv", "dup.json", "rename"]),
    ] {
        let sentence = query(&catalog, &format!("SELECT * FROM {table}")).await.unwrap_err();
        assert!(!sentence.contains('\n'), "{sentence}");
        for part in parts {
            assert!(sentence.contains(part), "{table}: {sentence:?} lacks {part:?}");
        }
    }
    assert_eq!(
        tables(&catalog).await,
        ["good"],
        "listings go on without the broken ones"
    );
    query(&catalog, "SHOW TABLES").await.unwrap();

    let failure = try_open(folder.path(), true).await.unwrap_err();
    assert!(failure.message.contains("--strict"), "{failure}");
}

#[tokio::test]
async fn repaired_file_is_read_without_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    write_text(&path, "nonsense");
    let catalog = open(folder.path()).await;
    assert!(query(&catalog, "SELECT * FROM t").await.is_err());
    write_parquet(&path, &rows());
    assert_eq!(cell(&catalog, "SELECT count(*) FROM t").await, "3");
}

#[tokio::test]
async fn next_query_sees_new_files() {
    let folder = tempfile::tempdir().unwrap();
    write_parquet(&folder.path().join("t/a.parquet"), &rows());
    fs::create_dir(folder.path().join("later")).unwrap();
    let catalog = open(folder.path()).await;
    assert_eq!(cell(&catalog, "SELECT count(*) FROM t").await, "3");
    write_parquet(&folder.path().join("t/b.parquet"), &rows());
    assert_eq!(cell(&catalog, "SELECT count(*) FROM t").await, "6", "in a known folder");

    let sentence = query(&catalog, "SELECT * FROM later").await.unwrap_err();
    assert!(sentence.contains("no data files yet"), "{sentence}");
    write_parquet(&folder.path().join("later/x.parquet"), &rows());
    assert_eq!(
        cell(&catalog, "SELECT count(*) FROM later").await,
        "3",
        "in an empty folder"
    );

    assert!(query(&catalog, "SELECT * FROM new").await.is_err());
    write_text(&folder.path().join("new.csv"), "a\n1\n");
    assert_eq!(
        cell(&catalog, "SELECT count(*) FROM new").await,
        "1",
        "as a table of its own"
    );

    write_text(&folder.path().join("new.csv"), "a,c\n1,2\n3,4\n");
    assert_eq!(
        cell(&catalog, "SELECT sum(c) FROM new").await,
        "6",
        "with other columns"
    );

    fs::remove_file(folder.path().join("new.csv")).unwrap();
    let sentence = query(&catalog, "SELECT * FROM new").await.unwrap_err();
    assert!(sentence.contains("not found"), "{sentence}");
}

#[tokio::test]
async fn values_after_sampled_nulls_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let nulls = "1,\n".repeat(2000);
    write_text(&folder.path().join("t.csv"), &format!("a,b\n{nulls}2,late\n"));
    let catalog = open(folder.path()).await;
    assert_eq!(cell(&catalog, "SELECT max(b) FROM t").await, "late");
}

#[tokio::test]
async fn names_match_any_case_and_hint() {
    let folder = tempfile::tempdir().unwrap();
    write_text(&folder.path().join("Orders.csv"), "a\n1\n");
    write_text(&folder.path().join("line-items.csv"), "a\n1\n");
    let catalog = open(folder.path()).await;
    assert_eq!(cell(&catalog, "SELECT count(*) FROM orders").await, "1");
    assert_eq!(cell(&catalog, "SELECT count(*) FROM \"Orders\"").await, "1");
    assert_eq!(cell(&catalog, "SELECT count(*) FROM line_items").await, "1");
    assert_eq!(
        catalog.nearest_table("datafusion.public.ordres").as_deref(),
        Some("Orders")
    );
    assert_eq!(catalog.nearest_table("lineitems").as_deref(), Some("line_items"));
    assert_eq!(catalog.nearest_table("customers"), None);
}

#[tokio::test]
async fn named_tables_may_be_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    write_parquet(&folder.path().join("deep/data with space.parquet"), &rows());
    let url = config::path_url(&folder.path().join("deep/data with space.parquet")).unwrap();
    let options = CatalogOptions {
        data: vec![DataSource::Named { name: "t".into(), url }],
        strict: true,
        ..CatalogOptions::default()
    };
    let catalog = Catalog::open(&options, Arc::new(RuntimeEnv::default())).await.unwrap();
    assert_eq!(cell(&catalog, "SELECT count(*) FROM t").await, "3");
    assert!(catalog.object_store_specs().is_empty(), "local files need no store");
}
