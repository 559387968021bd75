//! What fails in the middle: workers, clients, and results that nobody fetches.
//!
//! A fault only counts when it fired: each test first makes sure that its query runs where it is about to be hit.

use futures::StreamExt;
use squadron_integration::client::{status, ticket};
use squadron_integration::cluster::{Cluster, cluster, until};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use crate::support::{ENDLESS, bounded, minutes, seconds, two_workers};

/// Computes for hours, on every worker, before its first row.
const LONG: &str = "SELECT a.l_linenumber, count(*), sum(a.l_orderkey % (b.l_orderkey + 1)) \
    FROM lineitem a CROSS JOIN lineitem b GROUP BY a.l_linenumber";

/// The next query runs on those that are left, and nothing of the last one is.
async fn recovers(cluster: &Cluster) {
    let client = cluster.client().await;
    let answer = timeout(seconds(60), client.query("SELECT count(*) FROM lineitem, region")).await;
    let (_, batches) = answer.expect("the next query ends").expect("the next query has rows");
    assert_eq!(batches[0].num_rows(), 1);
    cluster.idle(seconds(60)).await;
    until("no overflown rows are left", seconds(10), || {
        cluster.spilled_files().is_empty()
    })
    .await;
}

/// Reads until the stream ends, in rows or in an error.
async fn end_of(mut stream: arrow_flight::decode::FlightRecordBatchStream) -> Option<Status> {
    loop {
        match stream.next().await {
            None => return None,
            Some(Ok(_)) => {}
            Some(Err(error)) => return Some(status(error)),
        }
    }
}

#[test]
fn a_worker_dies_while_its_rows_are_read() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        let mut stream = client.open(ENDLESS).await.expect("it starts");
        stream.next().await.expect("it has rows").expect("no fault yet");
        cluster.worker(0).kill();
        let killed = Instant::now();
        let end = timeout(seconds(10), end_of(stream)).await;
        let status = end.expect("the query ends within 10 seconds of the fault");
        let status = status.expect("all rows of an endless query cannot have come: this result is short");
        assert_eq!(
            status.code(),
            Code::Unavailable,
            "after {:?}: {status}",
            killed.elapsed()
        );
        cluster.forget_worker(0);
        recovers(&cluster).await;
    });
}

#[test]
fn a_worker_dies_while_it_computes() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        let info = client.info(LONG).await.expect("it starts");
        let mut query = JoinSet::new();
        query.spawn(async move { client.fetch(info).await });
        for worker in 0..2 {
            let before = cluster.worker(worker).cpu_ticks();
            let process = cluster.worker(worker);
            until("both workers compute", seconds(60), || {
                process.cpu_ticks() > before + 50
            })
            .await;
        }
        assert!(
            query.try_join_next().is_none(),
            "the query must not end before the fault"
        );
        cluster.worker(1).kill();
        let end = timeout(seconds(10), query.join_next()).await;
        let end = end.expect("the query ends within 10 seconds of the fault");
        let outcome = end.expect("there is one query").expect("no panic");
        let status = outcome.expect_err("the query cannot have finished");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("worker"), "it says what was lost: {status}");
        cluster.forget_worker(1);
        recovers(&cluster).await;
        // A new worker takes the place of the dead one.
        cluster.add_worker().await;
        recovers(&cluster).await;
    });
}

#[test]
fn a_worker_that_freezes_is_taken_for_dead() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        let mut stream = client.open(ENDLESS).await.expect("it starts");
        stream.next().await.expect("it has rows").expect("no fault yet");
        // Its sockets stay open: only missing signs of life tell.
        cluster.worker(0).signal("STOP");
        let end = timeout(seconds(15), end_of(stream)).await;
        let status = end
            .expect("the query ends within seconds of the fault")
            .expect("it cannot be complete");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        cluster.worker(0).kill();
        cluster.forget_worker(0);
        recovers(&cluster).await;
    });
}

#[test]
fn a_worker_that_is_asked_to_leave_finishes_first() {
    bounded(minutes(5), async {
        let mut cluster = two_workers().start().await;
        let client = cluster.client().await;
        cluster.worker(0).terminate();
        let ended = cluster.worker(0).ended(seconds(60)).await;
        assert_eq!(ended.code(), Some(0));
        cluster.forget_worker(0);
        client
            .query("SELECT count(*) FROM lineitem")
            .await
            .expect("the other worker answers");
        recovers(&cluster).await;
    });
}

#[test]
fn a_client_that_disconnects_stops_its_query() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let mut stream = client.open(ENDLESS).await.expect("it starts");
        stream.next().await.expect("it has rows").expect("no error");
        drop(stream);
        drop(client);
        cluster.idle(seconds(30)).await;
        recovers(&cluster).await;
    });
}

#[test]
fn a_client_that_disconnects_stops_a_query_without_rows() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let info = client.info(LONG).await.expect("it starts");
        let mut query = JoinSet::new();
        query.spawn(async move { client.fetch(info).await });
        cluster.busy(100, seconds(60)).await;
        query.shutdown().await;
        cluster.idle(seconds(30)).await;
        recovers(&cluster).await;
    });
}

#[test]
fn a_result_that_nobody_fetches_is_cancelled() {
    bounded(minutes(5), async {
        let cluster = two_workers();
        let cluster = cluster.serve_arg("--result-ttl=5s").start().await;
        let client = cluster.client().await;
        let info = client.info(LONG).await.expect("it starts");
        cluster.busy(50, seconds(60)).await;
        cluster.idle(seconds(60)).await;
        let gone = client.get(ticket(&info)).await;
        let gone = match gone {
            Err(status) => status,
            Ok(stream) => end_of(stream).await.expect("an error, not an empty result"),
        };
        assert_eq!(gone.code(), Code::NotFound, "{gone}");
        assert!(gone.message().contains("again"), "it says what to do: {gone}");
        recovers(&cluster).await;
    });
}

#[test]
fn a_result_is_read_once() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(1).tpch(0.01).start().await;
        let client = cluster.client().await;
        let info = client.info("SELECT * FROM region").await.expect("it starts");
        client.fetch(info.clone()).await.expect("the first DoGet has the rows");
        let again = client.fetch(info).await.expect_err("the second has not");
        assert_eq!(again.code(), Code::NotFound, "{again}");
    });
}

/// JDBC takes its time between GetFlightInfo and DoGet; the reason must not be lost meanwhile.
#[test]
fn a_failure_before_the_first_fetch_is_told() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let failing = "SELECT 1 / (r_regionkey - r_regionkey) FROM region";
        let info = client.info(failing).await.expect("it starts");
        cluster.idle(seconds(30)).await;
        let status = client.fetch(info).await.expect_err("division by zero");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("zero"), "{status}");
    });
}

#[test]
fn without_a_worker_a_query_says_how_to_get_one() {
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
        // The server's own local worker still answers what needs no other.
        client
            .query("SELECT table_name FROM information_schema.tables")
            .await
            .expect("the catalog answers");
    });
}

#[test]
fn a_server_that_drains_finishes_what_runs() {
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
        let ended = cluster.server().ended(seconds(60)).await;
        assert_eq!(ended.code(), Some(0));
    });
}
