//! Parameters of prepared statements: their types, their values, and several rows of them.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int64Type, Schema, TimeUnit};
use arrow_flight::sql::client::PreparedStatement;
use futures::TryStreamExt;
use squadron_integration::client::Client;
use squadron_integration::cluster::cluster;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::support::{Mismatches, bounded, minutes, texts, two_workers};

async fn prepare(client: &Client, sql: &str) -> Result<PreparedStatement<Channel>, String> {
    let prepared = client.sql().prepare(sql.into(), None).await;
    prepared.map_err(|error| format!("{sql}: {error}"))
}

/// Binds one batch and reads all rows as text.
async fn run(client: &Client, sql: &str, values: RecordBatch) -> Result<Vec<String>, String> {
    let failed = |error: arrow_flight::error::FlightError| format!("{sql}: {error}");
    let mut statement = prepare(client, sql).await?;
    statement.set_parameters(values).map_err(|error| error.to_string())?;
    let info = statement.execute().await.map_err(|error| format!("{sql}: {error}"))?;
    let ticket = squadron_integration::client::ticket(&info);
    let stream = client.get(ticket).await.map_err(|status| status.to_string())?;
    let batches: Vec<_> = stream.try_collect().await.map_err(failed)?;
    Ok(texts(&batches))
}

fn integers(rows: &[&[i64]]) -> RecordBatch {
    let columns = rows[0].len();
    let columns = (0..columns).map(|column| {
        let values = rows.iter().map(|row| row[column]);
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        (format!("{}", column + 1), values)
    });
    RecordBatch::try_from_iter(columns).unwrap()
}

#[test]
fn parameter_types_follow_the_statement() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let mut mismatches = Mismatches::default();
        let (int32, int64, text) = (DataType::Int32, DataType::Int64, DataType::Utf8);
        let _ = int32;
        for (sql, expected) in [
            ("SELECT * FROM orders WHERE o_orderkey = ?", vec![int64.clone()]),
            ("SELECT * FROM orders WHERE ? = o_comment", vec![text.clone()]),
            (
                "SELECT * FROM orders WHERE o_orderkey IN (?, ?, 3)",
                vec![int64.clone(); 2],
            ),
            ("SELECT * FROM orders WHERE ? IN (o_orderkey, 3)", vec![int64.clone()]),
            (
                "SELECT * FROM orders WHERE o_orderkey BETWEEN ? AND ?",
                vec![int64.clone(); 2],
            ),
            ("SELECT * FROM orders WHERE o_comment LIKE ?", vec![text.clone()]),
            ("SELECT * FROM orders WHERE o_orderdate < ?", vec![DataType::Date32]),
            (
                "SELECT * FROM orders WHERE o_totalprice > ?",
                vec![DataType::Decimal128(15, 2)],
            ),
            (
                "SELECT CASE WHEN o_orderkey = ? THEN ? ELSE o_comment END FROM orders",
                vec![int64.clone(), text.clone()],
            ),
            ("SELECT CAST(? AS BIGINT)", vec![int64.clone()]),
            ("SELECT * FROM region LIMIT ? OFFSET ?", vec![int64.clone(); 2]),
            ("SELECT ?", vec![text.clone()]),
            (
                "SELECT $2 || o_comment FROM orders WHERE o_orderkey = $1",
                vec![int64.clone(), text.clone()],
            ),
        ] {
            let outcome = prepare(&client, sql).await.and_then(|statement| {
                let schema: &Schema = statement.parameter_schema().map_err(|error| error.to_string())?;
                let types: Vec<_> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
                match types == expected {
                    true => Ok(()),
                    false => Err(format!("{types:?} instead of {expected:?}")),
                }
            });
            mismatches.note(sql, outcome);
        }
        mismatches.assert_none();
    });
}

#[test]
fn bound_values_replace_their_placeholders() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let mut mismatches = Mismatches::default();
        let eleven: Vec<i64> = (1..=11).collect();
        for (sql, values, expected) in [
            (
                "SELECT count(*) FROM orders WHERE o_orderkey BETWEEN ? AND ?",
                integers(&[&[1, 7]]),
                vec!["7"],
            ),
            (
                "SELECT r_regionkey FROM region ORDER BY 1 LIMIT ? OFFSET ?",
                integers(&[&[2, 1]]),
                vec!["1", "2"],
            ),
            ("SELECT $1 + $1", integers(&[&[4]]), vec!["8"]),
            (
                "SELECT concat($11, ',', $2, ',', $10, ',', $1) WHERE $3 + $4 + $5 + $6 + $7 + $8 + $9 = 42",
                integers(&[&eleven]),
                vec!["11,2,10,1"],
            ),
            ("SELECT ?", integers(&[&[5]]), vec!["5"]),
            // One execution for each row of values, in their order, even when it gives several rows or none.
            (
                "SELECT r_name FROM region WHERE r_regionkey >= ? ORDER BY r_name DESC",
                integers(&[&[4], &[9], &[3]]),
                vec!["MIDDLE EAST", "MIDDLE EAST", "EUROPE"],
            ),
        ] {
            let outcome = run(&client, sql, values).await.and_then(|rows| match rows == expected {
                true => Ok(()),
                false => Err(format!("{rows:?} instead of {expected:?}")),
            });
            mismatches.note(sql, outcome);
        }
        let null: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
        let null = RecordBatch::try_from_iter([("1", null)]).unwrap();
        let outcome = run(
            &client,
            "SELECT count(*) FROM region WHERE r_name = ? OR $2 IS NULL",
            null.clone(),
        )
        .await;
        mismatches.note("two forms", outcome.map_or(Ok(()), |rows| Err(format!("{rows:?}"))));
        let rows = run(&client, "SELECT coalesce(?, 'none')", null).await;
        mismatches.note(
            "a null",
            rows.and_then(|rows| {
                if rows == ["none"] {
                    Ok(())
                } else {
                    Err(format!("{rows:?}"))
                }
            }),
        );
        mismatches.assert_none();
    });
}

#[test]
fn bound_rows_become_one_insert() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let folder = TempDir::new().unwrap();
        let shown = folder.path().display();
        let sql = format!("CREATE EXTERNAL TABLE t (id BIGINT, twice BIGINT) STORED AS PARQUET LOCATION '{shown}/'");
        client.update(&sql).await.unwrap();
        let rows: Vec<[i64; 1]> = (0..20_000).map(|n| [n]).collect();
        let rows: Vec<&[i64]> = rows.iter().map(|row| row.as_slice()).collect();
        for (sql, bound, affected) in [
            ("INSERT INTO t VALUES ($1, $1 * 2)", integers(&rows), 20_000),
            ("INSERT INTO t (id) VALUES ($1), (-1)", integers(&rows[..10]), 20),
            (
                "INSERT INTO t SELECT o_orderkey, $1 FROM orders WHERE o_orderkey < $1",
                integers(&[&[3], &[4]]),
                5,
            ),
        ] {
            let mut statement = prepare(&client, sql).await.unwrap();
            statement.set_parameters(bound).unwrap();
            let updated = statement.execute_update().await;
            assert_eq!(
                updated.unwrap_or_else(|error| panic!("{sql}: {error}")),
                affected,
                "{sql}"
            );
        }
        let (_, batches) = client.query("SELECT count(*), sum(twice) FROM t").await.unwrap();
        assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), 20_025);
        assert_eq!(
            batches[0].column(1).as_primitive::<Int64Type>().value(0),
            (0..20_000).map(|n| 2 * n).sum::<i64>() + 2 * 3 + 3 * 4
        );
        let mut ddl = prepare(&client, "SET datafusion.execution.batch_size = 100")
            .await
            .unwrap();
        assert_eq!(ddl.execute_update().await.unwrap(), 0);
    });
}

/// Three rows of a column of every type, as Arrow names it.
const COLUMNS: [(&str, &str); 12] = [
    ("Int8", "(1), (2), (NULL)"),
    ("Int16", "(1), (2), (NULL)"),
    ("Int32", "(1), (2), (NULL)"),
    ("Int64", "(1), (2), (NULL)"),
    ("UInt8", "(1), (2), (NULL)"),
    ("UInt32", "(1), (2), (NULL)"),
    ("Float32", "(1), (1.5), (NULL)"),
    ("Float64", "(1), (1.5), (NULL)"),
    ("Decimal128(10, 2)", "(1), (1.5), (NULL)"),
    ("Date32", "('2024-01-01'), ('2024-01-02'), (NULL)"),
    (
        "Timestamp(us)",
        "('2024-01-01T00:00:00'), ('2024-01-01T12:00:00'), (NULL)",
    ),
    ("Utf8", "('1'), ('2024-01-01'), (NULL)"),
];

/// Values, and the types in which they are bound.
const VALUES: [(&str, DataType); 10] = [
    ("1", DataType::Int32),
    ("1", DataType::Int64),
    ("1099511627776", DataType::Int64),
    ("-1", DataType::Int8),
    ("2", DataType::UInt64),
    ("1.5", DataType::Float64),
    ("1.9", DataType::Float32),
    ("1.50", DataType::Decimal128(5, 2)),
    ("2024-01-01", DataType::Date32),
    ("2024-01-01T12:00:00", DataType::Timestamp(TimeUnit::Microsecond, None)),
];

const OPERATORS: [&str; 11] = ["=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%"];

/// A bound value compares and computes as a literal of its type does, or both are refused.
#[test]
fn bound_values_compute_as_literals_do() {
    bounded(minutes(15), async {
        let cluster = cluster().slots(1).start().await;
        let client = cluster.client().await;
        let mut mismatches = Mismatches::default();
        for (column, rows) in COLUMNS {
            for (value, data_type) in &VALUES {
                let text: ArrayRef = Arc::new(StringArray::from(vec![*value]));
                let bound = arrow::compute::cast(&text, data_type).unwrap();
                let bound = RecordBatch::try_from_iter([("1", bound)]).unwrap();
                for operator in OPERATORS {
                    let select = |operand: &str| {
                        format!("SELECT arrow_cast(x, '{column}') {operator} {operand} FROM (VALUES {rows}) AS v(x)")
                    };
                    let literal = select(&format!("arrow_cast('{value}', '{data_type}')"));
                    let expected = match client.query(&literal).await {
                        Ok((_, batches)) => Some(texts(&batches)),
                        Err(_) => None,
                    };
                    let actual = run(&client, &select("?"), bound.clone()).await;
                    let outcome = match (&expected, &actual) {
                        (Some(expected), Ok(actual)) if expected == actual => Ok(()),
                        (None, Err(_)) => Ok(()),
                        // What is added to a date is taken for a date, so the statement cannot be prepared.
                        (Some(_), Err(why)) if operator == "+" && why.contains("date + date") => Ok(()),
                        _ => Err(format!("{actual:?} instead of {expected:?}")),
                    };
                    mismatches.note(&literal, outcome);
                }
            }
        }
        mismatches.assert_none();
    });
}
