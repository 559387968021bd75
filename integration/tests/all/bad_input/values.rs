//! Functions that are asked for huge values: an error that names the limit, and no memory beyond the promised.

use squadron_integration::cluster::cluster;
use tonic::Code;

use super::assert_still_answers;
use crate::support::{Mismatches, bounded, failure_of, minutes};

const MIB: u64 = 1024 * 1024;
const MEMORY_MIB: u64 = 200;
/// What a process takes besides `--memory` at most.
const OVERHEAD_MIB: u64 = 150;

/// Statements, and words of their errors.
const HUGE: [(&str, &str); 10] = [
    ("SELECT length(repeat('x', 2000000000))", "--max-value-bytes"),
    (
        "SELECT length(repeat('a', 2000000000)), length(repeat('b', 2000000000)), length(lpad('c', 2000000000))",
        "--max-value-bytes",
    ),
    ("SELECT range(1, 1000000000000)", "--max-value-bytes"),
    (
        "SELECT array_repeat(r_name, 100000000) FROM region",
        "--max-value-bytes",
    ),
    (
        "SELECT replace(repeat(r_name, 100000), 'A', repeat('x', 100000)) FROM region",
        "--max-value-bytes",
    ),
    (
        "SELECT length(x || x || x || x || x || x || x || x || x || x) FROM \
         (SELECT repeat(r_name, 6000000) AS x FROM region WHERE r_regionkey = 1)",
        "--max-value-bytes",
    ),
    (
        "SELECT length(regexp_replace(repeat(r_name, 10000), '.', repeat('x', 100000), 'g')) FROM region",
        "--max-value-bytes",
    ),
    (
        "SELECT cardinality(array_concat(x, x, x, x)) FROM \
         (SELECT range(0, 10000000 + r_regionkey) AS x FROM region WHERE r_regionkey = 1)",
        "--max-value-bytes",
    ),
    // Each value is within the limit, those of a batch are not.
    (
        "SELECT sum(length(repeat(n_name, 15000000))) FROM nation",
        "values of repeat",
    ),
    (
        "SELECT sum(cardinality(range(0, l_orderkey * 10))) FROM lineitem",
        "values of range",
    ),
];

async fn check(workers: usize) {
    let mut cluster = match workers {
        0 => cluster(),
        _ => cluster().workers(workers),
    }
    .slots(1)
    .tpch(0.01)
    .memory_mib(MEMORY_MIB)
    .start()
    .await;
    let client = cluster.client().await;
    assert_still_answers(&client).await;
    let mut mismatches = Mismatches::default();
    for (sql, words) in HUGE {
        let status = failure_of(&client, sql).await;
        let is_right = status.code() == Code::ResourceExhausted && status.message().contains(words);
        mismatches.note(
            sql,
            if is_right {
                Ok(())
            } else {
                Err(format!("{status:.500}"))
            },
        );
        assert_still_answers(&client).await;
    }
    mismatches.assert_none();
    let peak = cluster.server().peak_memory_bytes() / MIB;
    assert!(peak <= MEMORY_MIB + OVERHEAD_MIB, "the server took {peak} MiB");
    // What fits runs.
    let fits = "SELECT sum(length(repeat(n_name, 1000))) FROM nation";
    assert!(client.query(fits).await.is_ok());
}

#[test]
fn huge_values_are_refused_in_the_server() {
    bounded(minutes(5), check(0));
}

#[test]
fn huge_values_are_refused_in_workers() {
    bounded(minutes(5), check(2));
}
