//! Workers that hang for a while in the middle of a query and come back, or that die.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use futures::StreamExt;
use squadron_integration::client::{Client, Rows, status};
use squadron_integration::cluster::{Cluster, wait_until};
use squadron_integration::link::Condition;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::support::{ENDLESS, bounded, minutes, number, one_batch, seconds, texts, two_workers};

/// Computes for seconds, in several stages.
const COUNTED: &str = "SELECT a.l_linenumber, r_name, count(*) AS n, sum(a.l_orderkey % (b.l_suppkey + 1)) AS s \
    FROM lineitem a JOIN supplier ON s_suppkey = a.l_suppkey JOIN nation ON n_nationkey = s_nationkey \
    JOIN region ON r_regionkey = n_regionkey CROSS JOIN (SELECT * FROM lineitem WHERE l_orderkey < 100) b \
    GROUP BY 1, 2 ORDER BY 1, 2";

/// More rows than all buffers on the way hold.
const STREAMED: &str = "SELECT a.l_orderkey, a.l_comment, b.l_comment FROM lineitem a CROSS JOIN \
    (SELECT * FROM lineitem WHERE l_orderkey < 8) b";

/// Longer than silence, shorter than the grace.
const PAUSE: std::time::Duration = seconds(5);

async fn wait_until_states(client: &Client, wanted: &[&str]) {
    let sql = "SELECT state FROM system.workers WHERE kind = 'remote' ORDER BY state";
    let shown = async {
        loop {
            let (_, batches) = client.query(sql).await.expect("the system tables answer");
            if texts(&batches) == wanted {
                return;
            }
            sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let shown = tokio::time::timeout(seconds(30), shown).await;
    shown.unwrap_or_else(|_| panic!("the workers are never {wanted:?}"));
}

/// A worker hangs for [`PAUSE`]; meanwhile the server suspects it.
async fn pause_worker(cluster: &mut Cluster, client: &Client) {
    cluster.worker(0).signal("STOP");
    let pause = sleep(PAUSE);
    wait_until_states(client, &["active", "suspect"]).await;
    pause.await;
    cluster.worker(0).signal("CONT");
    wait_until_states(client, &["active", "active"]).await;
}

/// Runs a query in a task.
fn start(client: &Client, sql: &str) -> JoinSet<Result<Rows, Status>> {
    let mut running = JoinSet::new();
    let (client, sql) = (client.clone(), sql.to_owned());
    running.spawn(async move { client.query(&sql).await });
    running
}

#[test]
fn query_outlives_a_pause_of_a_worker() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        let (_, expected) = client.query(COUNTED).await.expect("the query runs");
        let mut running = start(&client, COUNTED);
        cluster.wait_until_busy(10, seconds(60)).await;
        pause_worker(&mut cluster, &client).await;
        let (_, rows) = running.join_next().await.unwrap().unwrap().expect("nothing was lost");
        assert_eq!(one_batch(&rows), one_batch(&expected));
        cluster.wait_until_idle(seconds(60)).await;
    });
}

#[test]
fn stream_outlives_a_pause_of_a_worker() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        let expected = number(&client, &format!("SELECT count(*) FROM ({STREAMED})")).await;
        let mut stream = client.open(STREAMED).await.expect("it starts");
        let first = stream.next().await.expect("it has rows").expect("no fault yet");
        let mut rows = first.num_rows();
        pause_worker(&mut cluster, &client).await;
        while let Some(batch) = stream.next().await {
            rows += batch.expect("nothing was lost").num_rows();
        }
        assert_eq!(i64::try_from(rows).unwrap(), expected);
        cluster.wait_until_idle(seconds(60)).await;
    });
}

/// Computes for a while in its first stage.
const HASHED: &str = "SELECT l_linenumber, max(sha512(repeat(l_comment, 50))) AS m FROM lineitem GROUP BY 1 ORDER BY 1";

/// The worker stays away until the query has ended, and is not lost either.
#[test]
fn query_ends_without_a_worker_that_hangs() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().workers(3).serve_arg("--worker-grace=10m").start().await;
        let client = cluster.client().await;
        let (_, expected) = client.query(HASHED).await.expect("the query runs");
        let mut running = start(&client, HASHED);
        let worker = cluster.worker(0);
        let before = worker.cpu_ticks();
        wait_until("the worker computes", seconds(60), || worker.cpu_ticks() > before + 5).await;
        worker.signal("STOP");
        let (_, rows) = running.join_next().await.unwrap().unwrap().expect("the others did it");
        assert_eq!(one_batch(&rows), one_batch(&expected));
        let superseded = "SELECT count(*) FROM system.tasks WHERE state = 'lost' AND reason LIKE '%finished first'";
        assert!(number(&client, superseded).await > 0, "its tasks had second attempts");
        cluster.worker(0).signal("CONT");
        cluster.wait_until_idle(seconds(60)).await;
    });
}

/// Starts a query and kills a worker while it runs there.
async fn start_and_kill(cluster: &mut Cluster, client: &Client, sql: &str) -> JoinSet<Result<Rows, Status>> {
    let running = start(client, sql);
    let before = cluster.worker(1).cpu_ticks();
    let worker = cluster.worker(1);
    wait_until("the worker computes", seconds(60), || worker.cpu_ticks() > before + 10).await;
    worker.kill();
    cluster.forget_worker(1);
    running
}

#[test]
fn query_outlives_the_death_of_a_worker() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        let (_, expected) = client.query(COUNTED).await.expect("the query runs");
        let mut running = start_and_kill(&mut cluster, &client, COUNTED).await;
        let (_, rows) = running
            .join_next()
            .await
            .unwrap()
            .unwrap()
            .expect("nothing was sent yet");
        assert_eq!(one_batch(&rows), one_batch(&expected));
        assert!(number(&client, "SELECT sum(recoveries) FROM system.queries").await > 0);
        let lost = "SELECT count(*) FROM system.tasks WHERE state = 'lost' AND reason IS NOT NULL";
        assert!(number(&client, lost).await > 0, "every attempt is shown");
        cluster.wait_until_idle(seconds(60)).await;
    });
}

/// Reads the first rows of a query, lets a worker die that writes its result, and reads the rest.
async fn read_over_a_death(cluster: &mut Cluster, client: &Client, sql: &str) -> Result<Vec<RecordBatch>, Status> {
    let mut stream = client.open(sql).await.expect("it starts");
    let mut rows = vec![stream.next().await.expect("it has rows").expect("no fault yet")];
    let writer = "SELECT w.address FROM system.tasks t JOIN system.workers w USING (worker_id) \
        WHERE t.state IN ('running', 'parked') AND w.kind = 'remote' ORDER BY t.started_at DESC LIMIT 1";
    let (_, writer) = client.query(writer).await.expect("the system tables answer");
    let writer = texts(&writer).concat();
    let host = |url: &str| url.rsplit('/').next().unwrap().to_owned();
    let mut workers = 0..cluster.workers();
    let worker = workers.find(|&worker| host(cluster.worker_url(worker)) == host(&writer));
    let worker = worker.expect("the result is still written");
    cluster.worker(worker).kill();
    cluster.forget_worker(worker);
    while let Some(batch) = stream.next().await {
        rows.push(batch.map_err(status)?);
    }
    Ok(rows)
}

/// Every part of the result is written by one worker, in the order of the files, and more of it than all buffers on the
/// way hold.
fn twenty_times(columns: &str) -> String {
    vec![format!("SELECT {columns} FROM lineitem"); 20].join(" UNION ALL ")
}

#[test]
fn stream_outlives_the_death_of_a_worker() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        let sql = twenty_times("l_orderkey, l_linenumber, l_comment");
        let keys = "sum(l_orderkey * 10 + l_linenumber)";
        let expected = number(&client, &format!("SELECT CAST({keys} AS BIGINT) FROM ({sql})")).await;
        let batches = read_over_a_death(&mut cluster, &client, &sql).await;
        let batches = batches.expect("the rows come again in the same order");
        let mut found = 0;
        for batch in &batches {
            let keys = batch.column(0).as_primitive::<Int64Type>().values();
            let lines = batch.column(1).as_primitive::<Int32Type>().values();
            found += keys
                .iter()
                .zip(lines)
                .map(|(key, line)| key * 10 + i64::from(*line))
                .sum::<i64>();
        }
        assert_eq!(found, expected, "each row once");
        assert!(
            number(&client, "SELECT sum(recoveries) FROM system.queries").await > 0,
            "nothing was lost"
        );
        cluster.wait_until_idle(seconds(60)).await;
    });
}

#[test]
fn stream_of_other_rows_ends_and_says_why() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        // One part, of which the first rows are.
        let sql = format!(
            "SELECT * FROM ({}) LIMIT 100000000",
            twenty_times("random() AS r, l_comment")
        );
        let outcome = read_over_a_death(&mut cluster, &client, &sql).await;
        let status = outcome.expect_err("nobody knows the rows that were lost");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("it is safe to run it again"), "{status}");
        cluster.wait_until_idle(seconds(60)).await;
    });
}

#[test]
fn explain_analyze_says_what_was_run_again() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        let analyze = format!("EXPLAIN ANALYZE {COUNTED}");
        let lost = cluster.worker_url(1).to_owned();
        let mut running = start_and_kill(&mut cluster, &client, &analyze).await;
        let (_, rows) = running.join_next().await.unwrap().unwrap().expect("it is run again");
        let shown = arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
        let line = shown.lines().find(|line| line.contains("computed again: "));
        let host = lost.rsplit('/').next().unwrap();
        assert!(line.is_some_and(|line| line.contains(host)), "{lost}: {shown}");
    });
}

/// A query that its client cancels meanwhile is stopped when the worker is back.
#[test]
fn query_cancelled_during_a_pause_leaves_nothing() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        let info = client.info(ENDLESS).await.expect("it starts");
        cluster.worker(0).signal("STOP");
        wait_until_states(&client, &["active", "suspect"]).await;
        client.cancel(&info).await.expect("it can be cancelled");
        cluster.worker(0).signal("CONT");
        wait_until_states(&client, &["active", "active"]).await;
        cluster.wait_until_idle(seconds(60)).await;
    });
}

/// Two workers go on, but one of them cannot be reached by the other or by the server.
#[test]
fn cut_between_a_worker_and_its_readers_costs_no_query() {
    bounded(minutes(5), async {
        let cluster = two_workers().links().start().await;
        let client = cluster.client().await;
        let (_, expected) = client.query(COUNTED).await.expect("the query runs");
        let mut running = start(&client, COUNTED);
        cluster.wait_until_busy(20, seconds(60)).await;
        assert!(running.try_join_next().is_none(), "it must not have ended");
        let link = &cluster.links(0).data;
        link.set(Condition::Cut);
        let (_, rows) = running.join_next().await.unwrap().unwrap().expect("rows of the others");
        assert_eq!(one_batch(&rows), one_batch(&expected));
        let (_, rows) = client.query(COUNTED).await.expect("the next query runs, too");
        assert_eq!(one_batch(&rows), one_batch(&expected));
        assert!(link.broken() > 0, "it was not needed");
        assert!(number(&client, "SELECT count(*) FROM system.queries WHERE recoveries > 0").await > 0);
        link.set(Condition::Open);
        cluster.wait_until_idle(seconds(60)).await;
    });
}
