//! Statements whose shape is a load for parser, planner or stack: long chains, deep nesting, plans that multiply. Each
//! gives its rows or an error that names the limit, within a time and a memory, and the server goes on.

use std::time::{Duration, Instant};

use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::runtime::SpawnedTask;
use squadron_integration::client::Client;
use squadron_integration::cluster::{Cluster, cluster};
use tonic::Code;

use super::assert_still_answers;
use crate::support::{Mismatches, bounded, minutes, seconds};

const MIB: u64 = 1024 * 1024;

/// How a statement ends.
enum End {
    Rows(usize),
    /// With this code, and these words in its message.
    Refused(Code, &'static str),
}

use End::{Refused, Rows};

fn joined(count: usize, separator: &str, part: impl Fn(usize) -> String) -> String {
    (0..count).map(part).collect::<Vec<_>>().join(separator)
}

fn nested(depth: usize, start: &str, inner: &str, end: &str) -> String {
    format!("{}{inner}{}", start.repeat(depth), end.repeat(depth))
}

/// A filter over one row of one column, `x`.
fn filter(condition: &str) -> String {
    format!("SELECT x FROM (VALUES (-1)) AS t(x) WHERE {condition}")
}

/// Each common table expression uses the one before twice.
fn doubling(levels: usize) -> String {
    let expressions = joined(levels, "", |level| {
        let next = level + 1;
        format!(", c{next} AS (SELECT a.x FROM c{level} a JOIN c{level} b ON a.x = b.x)")
    });
    format!("WITH c0 AS (SELECT 1 AS x){expressions} SELECT count(*) FROM c{levels}")
}

fn cube(columns: usize) -> String {
    let names = joined(columns, ", ", |number| format!("c{number}"));
    let ones = joined(columns, ", ", |_| "1".to_owned());
    format!("SELECT count(*) FROM (VALUES ({ones})) AS t({names}) GROUP BY CUBE ({names})")
}

fn chains() -> Vec<(String, End)> {
    let invalid = |words| Refused(Code::InvalidArgument, words);
    vec![
        (format!("SELECT {}", joined(1000, "+", |_| "1".into())), Rows(1)),
        (
            format!("SELECT {}", joined(100_000, "+", |_| "1".into())),
            invalid("5000"),
        ),
        (
            format!(
                "SELECT x + {} FROM (VALUES (1)) AS t(x)",
                joined(3000, "+", |number| (number % 7).to_string())
            ),
            Rows(1),
        ),
        (
            format!("SELECT length({})", joined(1000, "||", |_| "'a'".into())),
            Rows(1),
        ),
        (
            format!("SELECT {}", joined(100_000, "||", |_| "'a'".into())),
            invalid("5000"),
        ),
        (format!("SELECT 1{}", "::int".repeat(4900)), Rows(1)),
        (format!("SELECT 1{}", "::int".repeat(100_000)), invalid("5000")),
        (
            filter(&joined(3000, " AND ", |number| format!("x <> {number}"))),
            Rows(1),
        ),
        (filter(&joined(3000, " OR ", |number| format!("x = {number}"))), Rows(0)),
        (
            filter(&joined(3000, " OR ", |number| format!("x + {number} > 7 * {number}"))),
            Rows(0),
        ),
        (
            filter(&joined(20_000, " OR ", |number| format!("x = {number}"))),
            invalid("5000"),
        ),
        (
            filter(&format!("x IN ({})", joined(50_000, ", ", |number| number.to_string()))),
            Rows(0),
        ),
        (
            format!(
                "SELECT {}",
                joined(2000, ", ", |number| format!("{number} AS c{number}"))
            ),
            Rows(1),
        ),
        (
            format!(
                "SELECT CASE {} END",
                joined(2000, " ", |number| format!("WHEN {number} = 1 THEN {number}"))
            ),
            Rows(1),
        ),
        (joined(300, " UNION ALL ", |_| "SELECT 1".into()), Rows(300)),
        (joined(50_000, " UNION ALL ", |_| "SELECT 1".into()), invalid("UNION")),
        (joined(50_000, " EXCEPT ", |_| "SELECT 1".into()), invalid("EXCEPT")),
    ]
}

fn nestings() -> Vec<(String, End)> {
    let invalid = |words| Refused(Code::InvalidArgument, words);
    vec![
        (format!("SELECT {}", nested(50, "[", "1", "]")), Rows(1)),
        (format!("SELECT {}", nested(80, "[", "1", "]")), invalid("types")),
        (format!("SELECT {}", nested(80, "struct(", "1", ")")), invalid("types")),
        (
            format!("SELECT CAST(NULL AS {})", nested(20_000, "ARRAY<", "INT", ">")),
            invalid("types"),
        ),
        (
            format!("SELECT CAST(NULL AS INT{})", "[]".repeat(20_000)),
            invalid("types"),
        ),
        (
            format!("SELECT {}'1 day'", "INTERVAL ".repeat(20_000)),
            invalid("INTERVAL"),
        ),
        (format!("{}SELECT 1", "EXPLAIN ".repeat(20_000)), invalid("EXPLAIN")),
        (nested(12, "SELECT 1 WHERE EXISTS (", "SELECT 1", ")"), Rows(1)),
        (
            nested(60, "SELECT 1 WHERE EXISTS (", "SELECT 1", ")"),
            invalid("subqueries"),
        ),
        (nested(10, "WITH a AS (", "SELECT 1 AS x", ") SELECT * FROM a"), Rows(1)),
        (
            nested(60, "WITH a AS (", "SELECT 1 AS x", ") SELECT * FROM a"),
            invalid("WITH"),
        ),
        (cube(8), Rows(256)),
        (cube(20), invalid("grouping sets")),
        (doubling(5), Rows(1)),
        (doubling(13), Refused(Code::ResourceExhausted, "--plan-memory")),
        (doubling(24), invalid("tables")),
        (doubling(60), invalid("tables")),
        (
            format!(
                "SELECT count(*) FROM (VALUES {}) AS t(x)",
                joined(1_200_000, ",", |_| "(1)".into())
            ),
            Refused(Code::ResourceExhausted, "--plan-memory"),
        ),
    ]
}

async fn outcome(client: &Client, sql: &str, end: &End) -> Result<(), String> {
    let started = Instant::now();
    let answer = client.query(sql).await;
    let right = match (&answer, end) {
        (Ok((_, batches)), Rows(rows)) => batches.iter().map(|batch| batch.num_rows()).sum::<usize>() == *rows,
        (Err(status), Refused(code, words)) => status.code() == *code && status.message().contains(words),
        _ => false,
    };
    if !right {
        return Err(match answer {
            Ok((_, batches)) => format!("{} batches", batches.len()),
            Err(status) => format!("{status:.500}"),
        });
    }
    // Refusals come before the work; the machine may be busy and the build without optimisations.
    let limit = if matches!(end, Refused(..)) {
        seconds(10)
    } else {
        minutes(1)
    };
    match started.elapsed() {
        elapsed if elapsed > limit => Err(format!("took {elapsed:?}")),
        _ => Ok(()),
    }
}

fn peak(cluster: &mut Cluster) -> u64 {
    cluster.server().peak_memory_bytes()
}

async fn run_all(statements: Vec<(String, End)>, memory_limit: u64) {
    let mut cluster = cluster().slots(1).start().await;
    let client = cluster.client().await;
    assert_still_answers(&client).await;
    let before = peak(&mut cluster);
    let mut mismatches = Mismatches::default();
    for (sql, end) in statements {
        mismatches.note(&sql, outcome(&client, &sql, &end).await);
        assert_still_answers(&client).await;
    }
    mismatches.assert_none();
    let taken = peak(&mut cluster) - before;
    assert!(taken <= memory_limit, "planning took {} MiB", taken / MIB);
}

#[test]
fn chains_run_or_are_refused() {
    bounded(minutes(8), run_all(chains(), 1536 * MIB));
}

#[test]
fn nestings_run_or_are_refused() {
    bounded(minutes(8), run_all(nestings(), 512 * MIB));
}

#[test]
fn plan_of_many_operators_reaches_its_leaves() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(2).start().await;
        let client = cluster.client().await;
        let joins = joined(150, " ", |number| {
            format!("JOIN (VALUES (1)) AS t{number}(x) ON t.x = t{number}.x")
        });
        let sql = format!("SELECT t.x FROM (VALUES (1)) AS t(x) {joins}");
        let outcome = outcome(&client, &sql, &Rows(1)).await;
        assert_eq!(outcome, Ok(()));
    });
}

/// Planning this takes minutes, in passes of a fraction of a second.
fn slow_to_plan() -> String {
    let chain = joined(250, "/", |number| format!("{number}"));
    joined(100, " UNION ALL ", |_| format!("SELECT {chain}"))
}

#[test]
fn planning_ends_at_its_time_limit() {
    bounded(minutes(5), async {
        let cluster = cluster()
            .slots(1)
            .serve_arg("--plan-timeout")
            .serve_arg("1s")
            .start()
            .await;
        let client = cluster.client().await;
        let status = client.query(&slow_to_plan()).await.expect_err("too slow");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!(status.message().contains("--plan-timeout"), "{status}");
        assert_still_answers(&client).await;
        // No thread goes on with it.
        cluster.wait_until_idle(minutes(2)).await;
    });
}

#[test]
fn planning_ends_when_its_client_leaves_or_it_is_killed() {
    bounded(minutes(8), async {
        let cluster = cluster().slots(1).start().await;
        let (client, other) = (cluster.client().await, cluster.client().await);
        let sql = slow_to_plan();
        for is_killed in [false, true] {
            let running = {
                let (client, sql) = (client.clone(), sql.clone());
                SpawnedTask::spawn(async move { client.query(&sql).await })
            };
            let query = planning_query(&other).await;
            if is_killed {
                other.update(&format!("KILL QUERY '{query}'")).await.unwrap();
                let status = running.join().await.unwrap().expect_err("killed");
                assert_eq!(status.code(), Code::Cancelled, "{status}");
            } else {
                drop(running);
            }
            cluster.wait_until_idle(minutes(2)).await;
            assert_still_answers(&other).await;
        }
    });
}

/// Waits for a query that is being planned, and gives its id.
async fn planning_query(client: &Client) -> String {
    let sql = "SELECT query_id FROM system.queries WHERE state = 'planning' AND statement LIKE 'SELECT 0/1%'";
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let (_, batches) = client.query(sql).await.unwrap();
        if let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) {
            return array_value_to_string(batch.column(0).as_ref(), 0).unwrap();
        }
        assert!(Instant::now() < end, "no query is being planned");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
