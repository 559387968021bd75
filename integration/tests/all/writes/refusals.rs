//! What is not written is refused with what works instead, and touches nothing.

use tempfile::TempDir;
use tonic::Code;

use super::{files, folder_table, three_workers, update};
use crate::support::{Mismatches, bounded, minutes};

#[test]
fn what_is_not_written_says_what_works() {
    bounded(minutes(5), async {
        let cluster = three_workers().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        let root = folder.path().display().to_string();
        folder_table(&client, "t", &folder.path().join("t")).await;
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
        let (unimplemented, invalid) = (Code::Unimplemented, Code::InvalidArgument);
        let mut mismatches = Mismatches::default();
        for (sql, code, words) in [
            (
                "INSERT INTO region VALUES (9, 'x', 'y')",
                unimplemented,
                &["single file", "COPY"][..],
            ),
            ("INSERT INTO v VALUES (1, 'x')", unimplemented, &["view"]),
            (
                "INSERT INTO information_schema.tables SELECT * FROM information_schema.tables",
                unimplemented,
                &["not made of files"],
            ),
            (
                "INSERT INTO globbed VALUES (1)",
                unimplemented,
                &["only some of its folder"],
            ),
            ("INSERT OVERWRITE t VALUES (1, 'x')", unimplemented, &["COPY"]),
            ("INSERT INTO t VALUES (1)", invalid, &["expected 2"]),
            ("INSERT INTO t (nope) VALUES (1)", invalid, &["nope"]),
            ("INSERT INTO t VALUES ('x', 'y')", invalid, &["x"]),
            ("UPDATE t SET id = 1", unimplemented, &["INSERT INTO", "COPY"]),
            ("DELETE FROM t WHERE id = 1", unimplemented, &["INSERT INTO", "COPY"]),
            (
                "CREATE TABLE made AS SELECT 1",
                unimplemented,
                &["COPY", "CREATE EXTERNAL TABLE"],
            ),
            ("CREATE TABLE made (a INT)", unimplemented, &["CREATE EXTERNAL TABLE"]),
            ("COPY t TO 'http://127.0.0.1:9/x.parquet'", unimplemented, &["http"]),
            ("COPY t TO 'ROOT/x.arrow'", unimplemented, &["Parquet"]),
            ("COPY t TO 'ROOT/x.zip'", invalid, &["zip"]),
            (
                "COPY (SELECT 1 AS a, 2 AS b) TO 'ROOT/x/' STORED AS CSV PARTITIONED BY (a, b)",
                invalid,
                &["partition"],
            ),
            ("COPY (SELECT id, t.id FROM t) TO 'ROOT/x.csv'", invalid, &["id"]),
            (
                "COPY t TO 'ROOT/x.csv' OPTIONS ('aws.region' 'x')",
                invalid,
                &["aws.region"],
            ),
            ("COPY t TO 'ROOT/in-the-way/x.csv'", invalid, &["in-the-way"]),
            (
                "EXPLAIN ANALYZE INSERT INTO t VALUES (1, 'x')",
                unimplemented,
                &["EXPLAIN"],
            ),
        ] {
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
