//! Generated queries: their rows are the same with every rule of the optimizer on and off, on one worker and on two, and
//! with estimates that are wrong by a factor of a thousand.
//!
//! `SQUADRON_GENERATED_QUERIES` says how many, and `SQUADRON_GENERATED_SEED` from which seed.

mod sql;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use squadron::settings::OptimizerRules;
use squadron_integration::client::{Client, Rows};
use squadron_integration::cluster::{Cluster, ClusterBuilder, cluster};
use squadron_integration::compare::compare;
use tempfile::TempDir;
use tonic::Status;

use crate::support::{Mismatches, bounded, minutes, texts};
use crate::tpch::without_optimizer;

/// Enough for every rule to change some of them.
const QUERIES: u64 = 48;

const SEED: u64 = 2;

/// Queries that every run asks first: those that are generated seldom join a few rows with many wide ones.
const FIRST: [&str; 2] = [
    "SELECT t0.id, t1.* FROM small t0 LEFT JOIN big t1 ON t0.id = t1.a WHERE t0.n < 30",
    "SELECT t0.id FROM medium t0 WHERE t0.b < 5 AND NOT EXISTS \
     (SELECT 1 FROM big i WHERE i.a = t0.id AND i.s <> t0.s AND i.n > t0.n)",
];

#[test]
fn generated_queries_are_equal_with_rules_on_and_off() {
    bounded(minutes(60), async {
        let (queries, seed) = (setting("QUERIES", QUERIES), setting("SEED", SEED));
        let folder = TempDir::with_prefix("squadron-generated-").unwrap();
        tables::write(folder.path()).await;
        let ways = Ways::start(folder.path()).await;
        let mut mismatches = Mismatches::default();
        let mut changed = BTreeMap::new();
        let generated = (0..queries).map(|number| sql::query(&mut StdRng::seed_from_u64(seed << 32 | number)));
        let first = FIRST.map(str::to_owned).into_iter();
        for (number, sql) in first.chain(generated).enumerate() {
            let outcome = ways.check(&sql).await;
            if outcome.is_ok() {
                for rule in ways.changes(&sql).await {
                    *changed.entry(rule).or_insert(0) += 1;
                }
            }
            mismatches.note(&format!("query {number} of seed {seed}"), outcome);
        }
        mismatches.assert_none();
        println!("{queries} queries, changed by rules: {changed:?}");
        let idle: Vec<_> = OptimizerRules::NAMES
            .iter()
            .filter(|rule| is_named(rule) && !changed.contains_key(**rule))
            .collect();
        assert!(idle.is_empty(), "no query is changed by {idle:?}");
    });
}

/// Whether EXPLAIN names the rule: it says nothing of the sides of joins, which the plan shows.
fn is_named(rule: &str) -> bool {
    rule != "join_sides"
}

fn setting(name: &str, default: u64) -> u64 {
    let name = format!("SQUADRON_GENERATED_{name}");
    env::var(&name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not '{text}'"))
    })
}

/// A way to run queries, which all give the same rows.
struct Way {
    name: &'static str,
    client: Client,
}

/// The first is that without rules on one worker.
struct Ways {
    ways: Vec<Way>,
    _clusters: [Cluster; 2],
}

impl Ways {
    async fn start(data: &Path) -> Self {
        let start = |builder: ClusterBuilder| builder.data(data).tiny_splits().start();
        let (one, two) = (
            start(cluster().slots(2)).await,
            start(cluster().workers(2).slots(1)).await,
        );
        let ways = vec![
            Way::without_rules("one worker, no rules", &one).await,
            Way::with_rules("one worker, all rules", &one).await,
            Way::without_rules("two workers, no rules", &two).await,
            Way::with_rules("two workers, all rules", &two).await,
            Way::misestimating("two workers, wrong estimates", &two).await,
        ];
        Self {
            ways,
            _clusters: [one, two],
        }
    }

    async fn check(&self, sql: &str) -> Result<(), String> {
        let mut answers = Vec::new();
        for way in &self.ways {
            answers.push((way.name, way.client.query(sql).await));
        }
        let (first, others) = answers.split_first().expect("there are several ways");
        for other in others {
            same(&first.1, &other.1).map_err(|why| format!("{sql}\n{}, and {}: {why}", first.0, other.0))?;
        }
        Ok(())
    }

    /// The rules that change a query in one of the ways.
    async fn changes(&self, sql: &str) -> BTreeSet<String> {
        let mut rules = BTreeSet::new();
        for way in &self.ways {
            let explained = way.client.query(&format!("EXPLAIN {sql}")).await;
            let (_, batches) = explained.unwrap_or_else(|status| panic!("{sql}: {status}"));
            let plans: Vec<_> = batches.iter().map(|batch| batch.project(&[1]).unwrap()).collect();
            let plans = texts(&plans);
            let changes = plans
                .iter()
                .flat_map(|plan| plan.lines())
                .filter_map(|line| line.strip_prefix("optimizer: "));
            rules.extend(changes.filter_map(|change| Some(change.split_once(':')?.0.to_owned())));
        }
        rules
    }
}

impl Way {
    async fn with_rules(name: &'static str, cluster: &Cluster) -> Self {
        let client = cluster.client().await;
        Self { name, client }
    }

    async fn without_rules(name: &'static str, cluster: &Cluster) -> Self {
        let way = Self::with_rules(name, cluster).await;
        without_optimizer(&way.client).await;
        way
    }

    async fn misestimating(name: &'static str, cluster: &Cluster) -> Self {
        let way = Self::with_rules(name, cluster).await;
        let set = "SET squadron.optimizer.misestimate = 1000";
        way.client.update(set).await.unwrap();
        way
    }
}

fn same(expected: &Result<Rows, Status>, actual: &Result<Rows, Status>) -> Result<(), String> {
    match (expected, actual) {
        (Ok(expected), Ok(actual)) => compare(expected, actual, &[]).map_err(|difference| difference.to_string()),
        (Err(status), _) | (_, Err(status)) => Err(status.to_string()),
    }
}
