//! Plans that would run for minutes, each cancelled at a random moment: they stop at any point of their work.

use std::time::Instant;

use datafusion::prelude::SessionConfig;
use rand::Rng;
use squadron_proto::ticket::ClusterKey;

use super::*;
use crate::engine::WorkerOptions;
use crate::testing::{in_process_stage, options};

/// The latest moment of a cancel.
const LATEST: Duration = Duration::from_millis(400);

/// How long an attempt may take to stop in an unoptimised build, beside other tests.
const BOUND: Duration = Duration::from_secs(10);

/// Name, whether joins may hash, and the statement.
const PLANS: &[(&str, bool, &str)] = &[
    (
        "a nested loop join that rejects every pair",
        true,
        "SELECT count(*) FROM generate_series(1, 100000) a JOIN generate_series(1, 1000000) b
         ON a.value * b.value < 0",
    ),
    (
        "a cross join",
        true,
        "SELECT sum(a.value + b.value) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b",
    ),
    (
        "a hash join of few keys",
        true,
        "SELECT sum(a.value + b.value) FROM generate_series(1, 300000) a JOIN generate_series(1, 300000) b
         ON a.value % 2 = b.value % 2",
    ),
    (
        "a hash join of few keys that rejects every pair",
        true,
        "SELECT count(*) FROM generate_series(1, 300000) a JOIN generate_series(1, 300000) b
         ON a.value % 2 = b.value % 2 AND a.value + b.value < 0",
    ),
    (
        "a merge join of few keys that rejects every pair",
        false,
        "SELECT count(*) FROM generate_series(1, 2000000) a JOIN generate_series(1, 2000000) b
         ON a.value % 1000 = b.value % 1000 AND a.value + b.value < 0",
    ),
    (
        "a window of wide frames",
        true,
        "SELECT max(m) FROM (SELECT max(value) OVER (ORDER BY value ROWS BETWEEN 5000 PRECEDING AND CURRENT ROW) AS m
         FROM generate_series(1, 30000000))",
    ),
    (
        "a recursive query",
        true,
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 1000000000)
         SELECT count(*) FROM t",
    ),
    (
        "a long series",
        true,
        "SELECT sum(value) FROM generate_series(1, 1000000000000)",
    ),
    (
        "a sort",
        true,
        "SELECT max(n) FROM (SELECT row_number() OVER (ORDER BY value % 1000, -value) AS n
         FROM generate_series(1, 100000000))",
    ),
    (
        "long lists unnested",
        true,
        "SELECT sum(n) FROM (SELECT unnest(range(0, 500 + value % 10)) AS n FROM generate_series(1, 100000000))",
    ),
    (
        "a pattern in long strings",
        true,
        "SELECT count(*) FROM generate_series(1, 100000000)
         WHERE regexp_like(concat(repeat('ab', 20), value), '(a|b|ab)*c$')",
    ),
    (
        "a large aggregate",
        true,
        "SELECT count(*) FROM (SELECT value % 100000000 AS k, count(*) FROM generate_series(1, 1000000000) GROUP BY k)",
    ),
];

/// Runs the statement and cancels it after `delay`. Returns how long the attempt took to stop.
async fn cancel_after(server: &mut ServerEnd, task: u32, sql: &str, hashes: bool, delay: Duration) -> Duration {
    let config = SessionConfig::new()
        .with_target_partitions(2)
        .set_bool("datafusion.optimizer.prefer_hash_join", hashes);
    let context = SessionContext::new_with_config(config);
    let query = context.sql(sql).await.unwrap();
    let plan = query.create_physical_plan().await.unwrap();
    server.send(ServerMessage::Stage(in_process_stage(plan))).await;
    server.start(launch(task, 2)).await;
    assert_eq!(server.status(task).await, AttemptStatus::Running, "{sql}");
    tokio::time::sleep(delay).await;
    let told = Instant::now();
    server.send(ServerMessage::Cancel(key(task))).await;
    assert_eq!(server.status(task).await, AttemptStatus::Cancelled, "{sql}");
    told.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_stops_every_busy_plan() {
    let (_folder, options) = options();
    let options = WorkerOptions {
        memory_bytes: 512 * 1024 * 1024,
        ..options
    };
    let engine = Engine::new(&options, ClusterKey::random(), None).unwrap();
    let control = Control::new(Arc::clone(&engine), WORKER, 2, Delivery::Acknowledged);
    let mut server = ServerEnd::connect(control);
    for (task, (name, hashes, sql)) in (0..).zip(PLANS) {
        let delay = rand::rng().random_range(Duration::ZERO..LATEST);
        let took = cancel_after(&mut server, task, sql, *hashes, delay).await;
        println!("{name}: told after {delay:?}, stopped after {took:?}");
        assert!(took < BOUND, "{name}: told after {delay:?}, stopped after {took:?}");
        server.send(release_all()).await;
    }
    let empty = async {
        // Tasks that operators spawned end at their next yield.
        while engine.memory_used_bytes() > 0 || engine.store.usage() != Default::default() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let emptied = tokio::time::timeout(PATIENCE, empty).await;
    emptied.expect("memory and files are free");
}
