//! Queries larger than the memory they get: exact, or refused with an error that says who asked for how much.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::future::join_all;
use squadron_integration::client::Client;
use squadron_integration::cluster::{Cluster, ClusterBuilder, cluster};
use squadron_integration::tpch::{QUERIES, query};
use tonic::Code;

use crate::support::{Mismatches, Reference, bounded, failure_of, minutes};
use crate::tpch::{self, SCALE_FACTOR, expected_results, register, without_optimizer};

/// What a worker gets for the queries of scale factor 0.01; their build sides and sorts need up to ten times as much.
const LITTLE_MIB: u64 = 3;

async fn start(builder: ClusterBuilder, memory_mib: u64) -> Cluster {
    builder.memory_mib(memory_mib).tpch(SCALE_FACTOR).start().await
}

/// One query, compared with the reference.
pub(crate) async fn check(client: &Client, number: u8) -> Result<(), String> {
    let expected = &expected_results().await[usize::from(number) - 1];
    tpch::check(client, &query(number, SCALE_FACTOR), expected).await
}

async fn spilled_bytes(client: &Client) -> i64 {
    let sql = "SELECT CAST(coalesce(sum(spilled_bytes), 0) AS BIGINT) FROM system.queries";
    let (_, batches) = client.query(sql).await.expect("the server shows its queries");
    let sums = batches[0].column(0).as_primitive::<Int64Type>();
    sums.value(0)
}

async fn assert_exact_in_little_memory(builder: ClusterBuilder, memory_mib: u64) {
    let cluster = start(builder, memory_mib).await;
    let client = cluster.client().await;
    let mut mismatches = Mismatches::default();
    // Twice: what the first round leaves behind must not be in the way of the second, in which plans are larger.
    for round in 1..=2 {
        if round == 2 {
            without_optimizer(&client).await;
        }
        for number in 1..=QUERIES {
            let outcome = check(&client, number).await;
            mismatches.note(&format!("TPC-H query {number}, round {round}"), outcome);
        }
    }
    mismatches.assert_none();
    assert!(
        spilled_bytes(&client).await > 0,
        "everything fitted: the test tests nothing"
    );
}

#[test]
fn tpch_is_exact_in_little_memory() {
    bounded(
        minutes(15),
        assert_exact_in_little_memory(cluster().slots(2), LITTLE_MIB),
    );
}

#[test]
fn tpch_is_exact_on_two_workers_with_little_memory() {
    // Tiny splits make hundreds of partitions, each of which holds a little.
    let builder = cluster().workers(2).slots(2).tiny_splits();
    bounded(minutes(15), assert_exact_in_little_memory(builder, 3 * LITTLE_MIB));
}

/// Sorts and aggregates, each in two partitions at a time.
const GREEDY: [&str; 4] = [
    "SELECT l_orderkey, l_linenumber, l_comment FROM lineitem ORDER BY l_comment, l_orderkey, l_linenumber",
    "SELECT l_orderkey, l_extendedprice FROM lineitem ORDER BY l_extendedprice, l_orderkey",
    "SELECT o_custkey, o_comment, count(*), min(o_clerk) FROM orders GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT l_comment, count(*) FROM lineitem GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10",
];

#[test]
fn sorts_beside_each_other_leave_each_other_memory() {
    bounded(minutes(10), async {
        let reference = Reference::new();
        register(&reference).await;
        let mut mismatches = Mismatches::default();
        for memory_mib in [3 * LITTLE_MIB, 4 * LITTLE_MIB] {
            let cluster = start(cluster().slots(2), memory_mib).await;
            let client = cluster.client().await;
            for sql in GREEDY {
                let expected = reference.run(sql).await.expect("the reference has the memory");
                let outcome = tpch::check(&client, sql, &expected).await;
                mismatches.note(&format!("{memory_mib} MiB: {sql}"), outcome);
            }
            assert!(
                spilled_bytes(&client).await > 0,
                "everything fitted: the test tests nothing"
            );
        }
        mismatches.assert_none();
    });
}

#[test]
fn too_little_memory_is_said_clearly() {
    bounded(minutes(10), async {
        let cluster = start(cluster().slots(2), 1).await;
        let client = cluster.client().await;
        let mut mismatches = Mismatches::default();
        for number in 1..=QUERIES {
            let outcome = match check(&client, number).await {
                // As a status names its code.
                Err(error) if error.contains(Code::ResourceExhausted.description()) && error.contains("--memory") => {
                    Ok(())
                }
                outcome => outcome,
            };
            mismatches.note(&format!("TPC-H query {number}"), outcome);
        }
        mismatches.assert_none();
        // One group must fit.
        let status = failure_of(&client, "SELECT array_agg(l_comment ORDER BY l_comment) FROM lineitem").await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("--memory"), "{status}");
        check(&client, 1).await.expect("the server still answers");
    });
}

/// Queries with large build sides, sorts and aggregates, at the same time.
async fn assert_greedy_queries_finish(at_once: usize) {
    let cluster = start(cluster().slots(2), 2 * LITTLE_MIB).await;
    let clients = join_all((0..at_once).map(|_| cluster.client())).await;
    let greedy: [u8; 8] = [18, 9, 21, 7, 10, 13, 3, 20];
    let runs = clients.iter().zip(greedy.into_iter().cycle());
    let outcomes = join_all(runs.map(|(client, number)| async move { (number, check(client, number).await) })).await;
    let mut mismatches = Mismatches::default();
    for (number, outcome) in outcomes {
        mismatches.note(&format!("TPC-H query {number} beside {} others", at_once - 1), outcome);
    }
    mismatches.assert_none();
}

#[test]
fn two_greedy_queries_finish_beside_each_other() {
    bounded(minutes(5), assert_greedy_queries_finish(2));
}

#[test]
fn eight_greedy_queries_finish_beside_each_other() {
    bounded(minutes(5), assert_greedy_queries_finish(8));
}
