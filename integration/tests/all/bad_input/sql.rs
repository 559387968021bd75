//! Invalid SQL, and SQL that fails while it runs.

use squadron_integration::cluster::cluster;
use tonic::Code;

use super::assert_still_answers;
use crate::support::{Mismatches, bounded, minutes, two_workers};

/// Statements, the code that each must end with, and words of its message.
const WRONG: [(&str, Code, &[&str]); 29] = [
    ("SELEC 1", Code::InvalidArgument, &["SELEC", "Line: 1", "Column: 1"]),
    ("SELECT 1 +", Code::InvalidArgument, &["Line: 1", "Column"]),
    (
        "SELECT *\nFROM region\nWHERE )",
        Code::InvalidArgument,
        &["Line: 3", "Column: 7"],
    ),
    ("SELECT 'open", Code::InvalidArgument, &["Line: 1", "Column: 8"]),
    ("", Code::InvalidArgument, &["statement"]),
    ("   -- nothing", Code::InvalidArgument, &["statement"]),
    ("SELECT 1; SELECT 2", Code::Unimplemented, &["single"]),
    ("SELECT * FROM lineitems", Code::NotFound, &["lineitems", "lineitem"]),
    ("SELECT * FROM regoin", Code::NotFound, &["regoin", "region"]),
    ("SELECT * FROM nowhere.public.region", Code::NotFound, &["nowhere"]),
    ("SELECT r_nam FROM region", Code::InvalidArgument, &["r_nam", "r_name"]),
    ("SELECT nofunction(1)", Code::InvalidArgument, &["nofunction"]),
    (
        "SELECT r_name FROM region GROUP BY r_regionkey",
        Code::InvalidArgument,
        &["r_name"],
    ),
    (
        "SELECT r_regionkey FROM region UNION SELECT n_name, n_nationkey FROM nation",
        Code::InvalidArgument,
        &["column"],
    ),
    (
        "SELECT 1 / (r_regionkey - r_regionkey) FROM region",
        Code::InvalidArgument,
        &["zero"],
    ),
    (
        "SELECT CAST(r_name AS BIGINT) FROM region",
        Code::InvalidArgument,
        &["bigint"],
    ),
    (
        "SELECT 1 BETWEEN (2 BETWEEN 1 AND 3) AND 3",
        Code::InvalidArgument,
        &["BETWEEN", "boolean"],
    ),
    (
        "SELECT array_resize([r_regionkey], -1) FROM region",
        Code::InvalidArgument,
        &["array_resize", "0 or more"],
    ),
    ("SELECT array_resize([1], -1)", Code::InvalidArgument, &["array_resize"]),
    ("SELECT CAST('x' AS INT)", Code::InvalidArgument, &["x"]),
    ("SELECT DATE '2024-02-30'", Code::InvalidArgument, &["2024-02-30"]),
    (
        "SELECT r_name FROM region WHERE r_regionkey = (SELECT n_nationkey FROM nation)",
        Code::InvalidArgument,
        &["row"],
    ),
    (
        "SELECT regexp_like(r_name, '(') FROM region",
        Code::InvalidArgument,
        &["("],
    ),
    ("SELECT $1", Code::InvalidArgument, &["parameter"]),
    (
        "INSERT INTO region VALUES (9, 'x', 'y')",
        Code::Unimplemented,
        &["single file"],
    ),
    ("DELETE FROM region", Code::Unimplemented, &["DELETE"]),
    (
        "COPY region TO '/proc/never/never.csv'",
        Code::InvalidArgument,
        &["/proc/never"],
    ),
    (
        "CREATE EXTERNAL TABLE gone STORED AS PARQUET LOCATION '/no/such/file.parquet'",
        Code::InvalidArgument,
        &["/no/such/file.parquet"],
    ),
    (
        "DROP TABLE nothing_of_this_name",
        Code::NotFound,
        &["nothing_of_this_name"],
    ),
];

#[test]
fn wrong_sql_blames_the_caller() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let mut mismatches = Mismatches::default();
        for (sql, code, words) in WRONG {
            let outcome = match client.query(sql).await {
                Ok(_) => Err("no error".into()),
                Err(status) if status.code() != code => Err(format!("not {code:?}: {status}")),
                Err(status) => match words.iter().find(|word| !status.message().contains(**word)) {
                    Some(word) => Err(format!("does not say \"{word}\": {}", status.message())),
                    None => Ok(()),
                },
            };
            mismatches.note(sql, outcome);
        }
        assert_still_answers(&client).await;
        mismatches.assert_none();
    });
}

#[test]
fn too_deep_sql_is_refused() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(1).start().await;
        let client = cluster.client().await;
        let brackets = format!("SELECT {}1{}", "(".repeat(100_000), ")".repeat(100_000));
        let calls = format!("SELECT {}1{}", "abs(".repeat(20_000), ")".repeat(20_000));
        let nots = format!("SELECT {} true", "NOT ".repeat(100_000));
        let selects = format!("{}SELECT 1{}", "SELECT * FROM (".repeat(5_000), ")".repeat(5_000));
        for sql in [brackets, calls, nots, selects] {
            let status = client.query(&sql).await.expect_err("too deep");
            assert_eq!(status.code(), Code::InvalidArgument, "{} ...: {status}", &sql[..40]);
            assert_still_answers(&client).await;
        }
        // A long statement without nesting is fine.
        let long = format!("SELECT '{}' AS text", "x".repeat(8 * 1024 * 1024));
        client.query(&long).await.expect("a long statement runs");
    });
}
