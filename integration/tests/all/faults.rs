//! Faults in the middle of a query: lost workers, disconnected clients, and results that no client fetches.
//!
//! Each test first makes sure that its query runs where the fault will hit it.

use futures::StreamExt;
use squadron_integration::client::{status, ticket};
use squadron_integration::cluster::{Cluster, cluster, wait_until};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::support::{ENDLESS, bounded, minutes, one_batch, seconds, two_workers};

/// Computes for hours, on every worker, before its first row.
const LONG: &str = "SELECT a.l_linenumber, count(*), sum(a.l_orderkey % (b.l_orderkey + 1)) \
    FROM lineitem a CROSS JOIN lineitem b GROUP BY a.l_linenumber";

/// Checks that the next query runs on the remaining workers, and that nothing of the last query is left.
async fn assert_recovered(cluster: &Cluster) {
    let client = cluster.client().await;
    let answer = timeout(seconds(60), client.query("SELECT count(*) FROM lineitem, region")).await;
    let (_, batches) = answer.expect("the next query ends").expect("the next query has rows");
    assert_eq!(batches[0].num_rows(), 1);
    cluster.wait_until_idle(seconds(60)).await;
    wait_until("no spilled rows are left", seconds(10), || {
        cluster.spilled_files().is_empty()
    })
    .await;
}

/// Reads until the stream ends; gives its error, if there is one.
async fn read_to_end(mut stream: arrow_flight::decode::FlightRecordBatchStream) -> Option<Status> {
    loop {
        match stream.next().await {
            None => return None,
            Some(Ok(_)) => {}
            Some(Err(error)) => return Some(status(error)),
        }
    }
}

/// Rows have gone out, and nobody is left to write the others. For a while another worker might join.
#[test]
fn death_of_all_workers_fails_open_stream() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        let mut stream = client.open(ENDLESS).await.expect("it starts");
        stream.next().await.expect("it has rows").expect("no fault yet");
        cluster.worker(0).kill();
        cluster.worker(1).kill();
        let killed = Instant::now();
        let end = timeout(seconds(30), read_to_end(stream)).await;
        let status = end.expect("the query does not wait for ever for other workers");
        let status = status.expect("all rows of an endless query cannot have come: this result is short");
        assert_eq!(
            status.code(),
            Code::Unavailable,
            "after {:?}: {status}",
            killed.elapsed()
        );
        cluster.forget_worker(1);
        cluster.forget_worker(0);
        cluster.add_worker().await;
        assert_recovered(&cluster).await;
    });
}

#[test]
fn computing_query_goes_on_after_worker_death() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        let info = client.info(LONG).await.expect("it starts");
        let mut query = JoinSet::new();
        let reader = client.clone();
        query.spawn(async move { reader.fetch(info).await });
        for worker in 0..2 {
            let before = cluster.worker(worker).cpu_ticks();
            let process = cluster.worker(worker);
            wait_until("both workers compute", seconds(60), || {
                process.cpu_ticks() > before + 50
            })
            .await;
        }
        assert!(
            query.try_join_next().is_none(),
            "the query must not end before the fault"
        );
        cluster.worker(1).kill();
        cluster.forget_worker(1);
        let again = "SELECT 1 FROM system.queries WHERE recoveries > 0 AND finished_tasks < tasks AND held_slots > 0";
        let goes_on = async {
            while client
                .query(again)
                .await
                .expect("it answers")
                .1
                .iter()
                .all(|batch| batch.num_rows() == 0)
            {
                tokio::task::yield_now().await;
            }
        };
        let outcome = timeout(seconds(10), goes_on).await;
        outcome.expect("the query goes on within 10 seconds of the fault");
        assert!(query.try_join_next().is_none(), "its client has not noticed");
        query.shutdown().await;
        assert_recovered(&cluster).await;
        // A new worker replaces the dead one.
        cluster.add_worker().await;
        assert_recovered(&cluster).await;
    });
}

#[test]
fn frozen_workers_are_declared_lost() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().serve_arg("--worker-grace=1s").start().await;
        let client = cluster.client().await;
        let mut stream = client.open(ENDLESS).await.expect("it starts");
        stream.next().await.expect("it has rows").expect("no fault yet");
        // The sockets of the workers stay open: only missing heartbeats show the fault.
        cluster.worker(0).signal("STOP");
        cluster.worker(1).signal("STOP");
        let end = timeout(seconds(15), read_to_end(stream)).await;
        let status = end
            .expect("the query ends within seconds of the fault")
            .expect("it cannot be complete");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        for worker in [1, 0] {
            cluster.worker(worker).kill();
            cluster.forget_worker(worker);
        }
        cluster.add_worker().await;
        assert_recovered(&cluster).await;
    });
}

#[test]
fn terminated_worker_leaves_in_order() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        cluster.worker(0).terminate();
        let ended = cluster.worker(0).wait_for_exit(seconds(60)).await;
        assert_eq!(ended.code(), Some(0));
        cluster.forget_worker(0);
        client
            .query("SELECT count(*) FROM lineitem")
            .await
            .expect("the other worker answers");
        assert_recovered(&cluster).await;
    });
}

#[test]
fn disconnect_stops_a_streaming_query() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let mut stream = client.open(ENDLESS).await.expect("it starts");
        stream.next().await.expect("it has rows").expect("no error");
        drop(stream);
        drop(client);
        cluster.wait_until_idle(seconds(30)).await;
        assert_recovered(&cluster).await;
    });
}

#[test]
fn disconnect_stops_query_without_rows() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let info = client.info(LONG).await.expect("it starts");
        let mut query = JoinSet::new();
        query.spawn(async move { client.fetch(info).await });
        cluster.wait_until_busy(100, seconds(60)).await;
        query.shutdown().await;
        cluster.wait_until_idle(seconds(30)).await;
        assert_recovered(&cluster).await;
    });
}

#[test]
fn unfetched_result_is_cancelled_after_ttl() {
    bounded(minutes(5), async {
        let cluster = two_workers();
        let cluster = cluster.serve_arg("--result-ttl=5s").start().await;
        let client = cluster.client().await;
        let info = client.info(LONG).await.expect("it starts");
        cluster.wait_until_busy(50, seconds(60)).await;
        cluster.wait_until_idle(seconds(60)).await;
        let gone = client.get(ticket(&info)).await;
        let gone = match gone {
            Err(status) => status,
            Ok(stream) => read_to_end(stream).await.expect("an error, not an empty result"),
        };
        assert_eq!(gone.code(), Code::NotFound, "{gone}");
        assert!(gone.message().contains("again"), "it says what to do: {gone}");
        assert_recovered(&cluster).await;
    });
}

#[test]
fn result_is_read_only_once() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(1).tpch(0.01).start().await;
        let client = cluster.client().await;
        let info = client.info("SELECT * FROM region").await.expect("it starts");
        client.fetch(info.clone()).await.expect("the first DoGet has the rows");
        let again = client.fetch(info).await.expect_err("the second has not");
        assert_eq!(again.code(), Code::NotFound, "{again}");
    });
}

/// JDBC waits between GetFlightInfo and DoGet; the failure must not be lost meanwhile.
#[test]
fn failure_before_fetch_is_reported() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let failing = "SELECT 1 / (r_regionkey - r_regionkey) FROM region";
        let info = client.info(failing).await.expect("it starts");
        cluster.wait_until_idle(seconds(30)).await;
        let status = client.fetch(info).await.expect_err("division by zero");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("zero"), "{status}");
    });
}

#[test]
fn query_without_workers_names_remedies() {
    bounded(minutes(5), async {
        let cluster = cluster()
            .serve_arg("--embedded-workers=0")
            .serve_arg("--cluster-listen=127.0.0.1:0");
        let cluster = cluster.serve_arg("--no-worker-timeout=1s").tpch(0.01).start().await;
        let client = cluster.client().await;
        let status = client
            .query("SELECT count(*) FROM lineitem GROUP BY l_partkey")
            .await
            .expect_err("no worker");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        for hint in ["--embedded-workers", "squadron worker"] {
            assert!(status.message().contains(hint), "it names {hint}: {status}");
        }
        // The server's local worker still answers queries over the catalog.
        client
            .query("SELECT table_name FROM information_schema.tables")
            .await
            .expect("the catalog answers");
    });
}

#[test]
fn draining_server_finishes_running_queries() {
    bounded(minutes(5), async {
        let mut cluster = cluster().slots(1).tpch(0.01).start().await;
        let client = cluster.client().await;
        let mut stream = client.open("SELECT * FROM lineitem").await.expect("it starts");
        let mut rows = stream.next().await.expect("it has rows").expect("no error").num_rows();
        cluster.server().terminate();
        while let Some(batch) = stream.next().await {
            rows += batch.expect("a running query is finished").num_rows();
        }
        assert_eq!(rows, 60_175, "the result is complete");
        let ended = cluster.server().wait_for_exit(seconds(60)).await;
        assert_eq!(ended.code(), Some(0));
    });
}

/// They send no rows while they run, so nothing waits for a client.
#[test]
fn draining_server_finishes_what_has_no_open_result() {
    bounded(minutes(5), async {
        let mut cluster = cluster().slots(1).tpch(0.01).start().await;
        let client = cluster.client().await;
        let counted =
            "SELECT count(*) FROM lineitem a JOIN lineitem b ON a.l_suppkey = b.l_suppkey AND a.l_tax < b.l_tax";
        let mut statement = JoinSet::new();
        statement.spawn(async move { client.query(&format!("EXPLAIN ANALYZE {counted}")).await });
        cluster.wait_until_busy(20, seconds(60)).await;
        assert!(statement.try_join_next().is_none(), "it must not have ended");
        cluster.server().terminate();
        let (_, rows) = statement.join_next().await.unwrap().unwrap().expect("it is finished");
        assert!(rows.iter().any(|batch| batch.num_rows() > 0));
        let ended = cluster.server().wait_for_exit(seconds(60)).await;
        assert_eq!(ended.code(), Some(0));
    });
}

/// As an upgrade does it: each worker is replaced by another one, while clients work.
#[test]
fn rolling_restart_of_all_workers_loses_no_query() {
    const SQL: &str = "SELECT l_suppkey, count(*) AS n, sum(l_quantity) AS q FROM lineitem JOIN orders ON l_orderkey = o_orderkey \
                       GROUP BY l_suppkey ORDER BY l_suppkey";
    bounded(minutes(8), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        let (_, expected) = client.query(SQL).await.expect("the query runs");
        let expected = one_batch(&expected);
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for _ in 0..3 {
            let (client, stop, expected) = (cluster.client().await, stop.clone(), expected.clone());
            clients.spawn(async move {
                let mut queries = 0;
                while !stop.is_cancelled() {
                    let (_, rows) = client.query(SQL).await.expect("no query is lost");
                    assert_eq!(one_batch(&rows), expected);
                    queries += 1;
                }
                queries
            });
        }
        for _ in 0..2 {
            cluster.add_worker().await;
            cluster.worker(0).terminate();
            let ended = cluster.worker(0).wait_for_exit(seconds(90)).await;
            assert_eq!(ended.code(), Some(0));
            cluster.forget_worker(0);
        }
        stop.cancel();
        let queries: Vec<u32> = clients.join_all().await;
        assert!(queries.iter().all(|queries| *queries > 0), "{queries:?}");
        cluster.wait_until_idle(seconds(30)).await;
    });
}
