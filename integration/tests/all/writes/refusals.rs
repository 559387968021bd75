//! Unsupported and invalid writes are refused with the name of an alternative, and change nothing.

use tempfile::TempDir;
use tonic::Code;

use super::{create_folder_table, files, three_workers, update};
use crate::support::{Mismatches, bounded, minutes};

/// Statements, the code that each must end with, and words of its message; ROOT is the test's folder.
const REFUSED: [(&str, Code, &[&str]); 20] = [
    (
        "INSERT INTO region VALUES (9, 'x', 'y')",
        Code::Unimplemented,
        &["single file", "COPY"],
    ),
    ("INSERT INTO v VALUES (1, 'x')", Code::Unimplemented, &["view"]),
    (
        "INSERT INTO information_schema.tables SELECT * FROM information_schema.tables",
        Code::Unimplemented,
        &["not made of files"],
    ),
    (
        "INSERT INTO globbed VALUES (1)",
        Code::Unimplemented,
        &["only some of its folder"],
    ),
    ("INSERT OVERWRITE t VALUES (1, 'x')", Code::Unimplemented, &["COPY"]),
    (
        "INSERT INTO t VALUES (1)",
        Code::InvalidArgument,
        &["row 1 of VALUES has 1 value, and not 2"],
    ),
    ("INSERT INTO t (nope) VALUES (1)", Code::InvalidArgument, &["nope"]),
    ("INSERT INTO t VALUES ('x', 'y')", Code::InvalidArgument, &["x"]),
    ("UPDATE t SET id = 1", Code::Unimplemented, &["INSERT INTO", "COPY"]),
    (
        "DELETE FROM t WHERE id = 1",
        Code::Unimplemented,
        &["INSERT INTO", "COPY"],
    ),
    (
        "CREATE TABLE made AS SELECT 1",
        Code::Unimplemented,
        &["COPY", "CREATE EXTERNAL TABLE"],
    ),
    (
        "CREATE TABLE made (a INT)",
        Code::Unimplemented,
        &["CREATE EXTERNAL TABLE"],
    ),
    (
        "COPY t TO 'http://127.0.0.1:9/x.parquet'",
        Code::Unimplemented,
        &["http"],
    ),
    ("COPY t TO 'ROOT/x.arrow'", Code::Unimplemented, &["Parquet"]),
    ("COPY t TO 'ROOT/x.zip'", Code::InvalidArgument, &["zip"]),
    (
        "COPY (SELECT 1 AS a, 2 AS b) TO 'ROOT/x/' STORED AS CSV PARTITIONED BY (a, b)",
        Code::InvalidArgument,
        &["partition"],
    ),
    (
        "COPY (SELECT id, t.id FROM t) TO 'ROOT/x.csv'",
        Code::InvalidArgument,
        &["id"],
    ),
    (
        "COPY t TO 'ROOT/x.csv' OPTIONS ('aws.region' 'x')",
        Code::InvalidArgument,
        &["aws.region"],
    ),
    (
        "COPY t TO 'ROOT/in-the-way/x.csv'",
        Code::InvalidArgument,
        &["in-the-way"],
    ),
    (
        "EXPLAIN ANALYZE INSERT INTO t VALUES (1, 'x')",
        Code::Unimplemented,
        &["EXPLAIN"],
    ),
];

#[test]
fn refused_writes_name_an_alternative() {
    bounded(minutes(5), async {
        let cluster = three_workers().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        let root = folder.path().display().to_string();
        create_folder_table(&client, "t", &folder.path().join("t")).await;
        std::fs::create_dir(folder.path().join("globbed")).unwrap();
        std::fs::write(folder.path().join("globbed/a1.csv"), "a\n1\n").unwrap();
        std::fs::write(folder.path().join("in-the-way"), "").unwrap();
        update(
            &client,
            &format!("CREATE EXTERNAL TABLE globbed STORED AS CSV LOCATION '{root}/globbed/a*.csv'"),
        )
        .await;
        update(&client, "CREATE VIEW v AS SELECT * FROM t").await;
        let before = files(folder.path());
        let mut mismatches = Mismatches::default();
        for (sql, code, words) in REFUSED {
            let sql = sql.replace("ROOT", &root);
            let outcome = match client.update(&sql).await {
                Ok(count) => Err(format!("it succeeded with {count}")),
                Err(status) if status.code() != code => Err(format!("{status}")),
                Err(status) => words
                    .iter()
                    .find(|word| !status.message().contains(**word))
                    .map_or(Ok(()), |word| Err(format!("no {word}: {status}"))),
            };
            mismatches.note(&sql, outcome);
        }
        mismatches.assert_none();
        let (_, batches) = client
            .query("EXPLAIN INSERT INTO t SELECT l_orderkey, l_comment FROM lineitem")
            .await
            .expect("a plan");
        let plan = arrow::util::pretty::pretty_format_batches(&batches).unwrap();
        assert!(plan.to_string().contains("WriteFiles: Parquet"), "{plan}");
        assert_eq!(files(folder.path()), before);
    });
}
