//! Several open results on one connection, and several clients that change the catalog at once.

use futures::{StreamExt, TryStreamExt};
use squadron_integration::cluster::cluster;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Code;

use crate::support::{ENDLESS, bounded, minutes, seconds, two_workers};

#[test]
fn unread_cursor_blocks_no_other() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(1).tpch(0.01).start().await;
        let client = cluster.client().await;
        // A result that is never fetched.
        client.info(ENDLESS).await.expect("it starts");
        // A result whose first rows are read, and no more.
        let mut unread = client.open(ENDLESS).await.expect("it starts");
        unread.next().await.expect("it has rows").expect("it has no error");
        let answer = timeout(seconds(30), client.query("SELECT count(*) FROM nation")).await;
        let (_, batches) = answer
            .expect("the second cursor answers while the first is open")
            .expect("rows");
        assert_eq!(batches[0].num_rows(), 1);
        // The first result can be read on.
        unread.next().await.expect("it has more rows").expect("it has no error");
    });
}

#[test]
fn unread_remote_cursor_blocks_no_other() {
    bounded(minutes(5), async {
        let cluster = cluster().workers(1).slots(1).tpch(0.01).start().await;
        let client = cluster.client().await;
        let mut unread = client.open(ENDLESS).await.expect("it starts");
        unread.next().await.expect("it has rows").expect("it has no error");
        for _ in 0..3 {
            let answer = timeout(seconds(30), client.query("SELECT count(*) FROM region, nation")).await;
            answer
                .expect("the second cursor answers while the first is open")
                .expect("rows");
        }
    });
}

#[test]
fn two_cursors_can_be_interleaved() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        let mut one = client.open("SELECT * FROM orders").await.expect("it starts");
        let mut two = client.open("SELECT * FROM orders").await.expect("it starts");
        let (mut rows_of_one, mut rows_of_two) = (0, 0);
        loop {
            let (next_of_one, next_of_two) = (one.try_next().await, two.try_next().await);
            let next_of_one = next_of_one.expect("no error").map(|batch| batch.num_rows());
            let next_of_two = next_of_two.expect("no error").map(|batch| batch.num_rows());
            rows_of_one += next_of_one.unwrap_or(0);
            rows_of_two += next_of_two.unwrap_or(0);
            if next_of_one.is_none() && next_of_two.is_none() {
                break;
            }
        }
        assert_eq!((rows_of_one, rows_of_two), (15_000, 15_000));
    });
}

#[test]
fn concurrent_ddl_has_one_winner() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(1).start().await;
        for round in 0..20 {
            let mut clients = JoinSet::new();
            for _ in 0..2 {
                let client = cluster.client().await;
                clients.spawn(async move {
                    client
                        .update(&format!("CREATE VIEW shared_{round} AS SELECT {round} AS x"))
                        .await
                });
            }
            let outcomes = clients.join_all().await;
            let refused: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
            assert_eq!(refused.len(), 1, "one of two wins: {outcomes:?}");
            assert_eq!(refused[0].code(), Code::InvalidArgument, "{}", refused[0]);
            assert!(
                refused[0].message().contains(&format!("shared_{round}")),
                "{}",
                refused[0]
            );
        }
        // Both clients see all views, and a view that one drops is gone for the other.
        let (one, two) = (cluster.client().await, cluster.client().await);
        for round in 0..20 {
            one.query(&format!("SELECT x FROM shared_{round}"))
                .await
                .expect("the view is there");
        }
        one.update("DROP VIEW shared_0").await.expect("the view can be dropped");
        let gone = two.query("SELECT x FROM shared_0").await.expect_err("the view is gone");
        assert_eq!(gone.code(), Code::NotFound, "{gone}");
    });
}

#[test]
fn ddl_in_flight_info_runs_once() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(1).start().await;
        let client = cluster.client().await;
        // ADBC sends DDL like a query: it must have run before any DoGet, and DoGet must not run it again.
        let info = client
            .info("CREATE VIEW once AS SELECT 1 AS x")
            .await
            .expect("DDL runs");
        client
            .query("SELECT x FROM once")
            .await
            .expect("the view is there already");
        let (_, batches) = client.fetch(info).await.expect("the result of DDL can be fetched");
        assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 0);
        client
            .query("SELECT x FROM once")
            .await
            .expect("the view is there still");
    });
}
