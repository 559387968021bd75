//! The 22 TPC-H queries with forced distribution, on every topology.

use std::path::PathBuf;

use squadron::catalog::tpch::generate;
use squadron::settings::OptimizerRules;
use squadron_integration::client::Client;
use squadron_integration::cluster::{ClusterBuilder, cache_folder, cluster};
use squadron_integration::compare::compare;
use squadron_integration::tpch::{QUERIES, TABLES, query};
use tokio::sync::OnceCell;

use crate::support::{Expected, Mismatches, Reference, bounded, minutes};

pub(crate) const SCALE_FACTOR: f64 = 0.01;

/// The result of the reference for each query; computed once for all topologies.
static EXPECTED: OnceCell<Vec<Expected>> = OnceCell::const_new();

#[test]
fn tpch_is_exact_on_embedded_worker() {
    bounded(minutes(15), assert_exact(cluster().slots(2)));
}

#[test]
fn tpch_is_exact_on_two_workers() {
    bounded(minutes(15), assert_exact(two_workers()));
}

#[test]
fn tpch_is_exact_on_four_workers() {
    bounded(minutes(15), assert_exact(cluster().workers(4).slots(1)));
}

#[test]
fn tpch_is_exact_without_rules_of_the_optimizer() {
    bounded(minutes(15), async {
        let cluster = two_workers().tpch(SCALE_FACTOR).tiny_splits().start().await;
        let client = cluster.client().await;
        without_optimizer(&client).await;
        assert_exact_to(&client).await;
    });
}

/// Switches off the rules of the planner's own optimizer.
pub(crate) async fn without_optimizer(client: &Client) {
    for rule in OptimizerRules::NAMES {
        let statement = format!("SET squadron.optimizer.{rule} = off");
        client.update(&statement).await.unwrap();
    }
}

fn two_workers() -> ClusterBuilder {
    cluster().workers(2).slots(2)
}

async fn assert_exact(builder: ClusterBuilder) {
    let cluster = builder.tpch(SCALE_FACTOR).tiny_splits().start().await;
    assert_exact_to(&cluster.client().await).await;
}

async fn assert_exact_to(client: &Client) {
    let expected = expected_results().await;
    let mut mismatches = Mismatches::default();
    for (number, expected) in (1..).zip(expected) {
        let outcome = check(client, &query(number, SCALE_FACTOR), expected).await;
        mismatches.note(&format!("TPC-H query {number}"), outcome);
    }
    mismatches.assert_none();
}

/// Runs `sql` and compares its rows with the expected ones.
pub(crate) async fn check(client: &Client, sql: &str, expected: &Expected) -> Result<(), String> {
    let rows = client.query(sql).await.map_err(|status| status.to_string())?;
    compare(&expected.rows, &rows, &expected.order).map_err(|difference| difference.to_string())
}

/// The result of the reference for each query.
pub(crate) async fn expected_results() -> &'static [Expected] {
    EXPECTED.get_or_init(compute_expected).await
}

async fn compute_expected() -> Vec<Expected> {
    let reference = Reference::new();
    register(&reference).await;
    let mut expected = Vec::new();
    for number in 1..=QUERIES {
        let result = reference.run(&query(number, SCALE_FACTOR)).await;
        expected.push(result.unwrap_or_else(|error| panic!("query {number}: {error}")));
    }
    expected
}

/// Registers the files of the TPC-H tables with the reference.
pub(crate) async fn register(reference: &Reference) {
    for table in TABLES {
        let path = tpch_path(table).display().to_string();
        reference
            .define(&format!(
                "CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{path}'"
            ))
            .await;
    }
}

/// The file of one TPC-H table in the cache that all servers of the tests share; generated when it is missing.
pub(crate) fn tpch_path(table: &str) -> PathBuf {
    let folder = generate(SCALE_FACTOR, &cache_folder());
    folder
        .expect("the cache can be written")
        .join(format!("{table}.parquet"))
}

/// Checks that the other tests of this module really compare distributed plans.
#[test]
fn tiny_splits_force_distribution() {
    bounded(minutes(5), async {
        let cluster = two_workers().tpch(SCALE_FACTOR).tiny_splits().start().await;
        let client = cluster.client().await;
        let sql = "EXPLAIN SELECT l_returnflag, count(*) FROM lineitem JOIN orders ON l_orderkey = o_orderkey \
                   GROUP BY l_returnflag";
        let (schema, batches) = client.query(sql).await.expect("EXPLAIN answers");
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["plan_type", "plan"], "EXPLAIN keeps DataFusion's two columns");
        let plan = arrow::util::pretty::pretty_format_batches(&batches)
            .expect("text")
            .to_string();
        let tasks = |count: usize| plan.contains(&format!(": {count} tasks"));
        assert!(tasks(2) || tasks(3) || tasks(4), "no stage has several tasks:\n{plan}");
        assert!(plan.contains("ShuffleRead"), "no stage reads another:\n{plan}");

        let (_, batches) = client
            .query("EXPLAIN ANALYZE SELECT count(*) FROM lineitem GROUP BY l_partkey")
            .await
            .expect("EXPLAIN ANALYZE answers");
        let plan = arrow::util::pretty::pretty_format_batches(&batches)
            .expect("text")
            .to_string();
        for what in [
            "slowest task ",
            "elapsed ",
            "computed ",
            "skew  operator",
            "DataSourceExec: ",
        ] {
            assert!(plan.contains(what), "EXPLAIN ANALYZE does not tell {what}:\n{plan}");
        }
    });
}
