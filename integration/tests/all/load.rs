//! Clients that ask for nothing, or do not read what they asked for, are not in the way of others.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::StreamExt;
use squadron_integration::client::{Client, status};
use squadron_integration::cluster::cluster;
use tonic::Code;

use crate::support::{ENDLESS, bounded, minutes, seconds};

async fn number(client: &Client, sql: &str) -> i64 {
    let (_, batches) = client.query(sql).await.expect("the server answers");
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

/// How many idle connections there are at once.
const IDLE: usize = 300;

#[test]
fn idle_connections_are_closed() {
    bounded(minutes(2), async {
        let cluster = cluster().serve_arg("--idle-timeout=1s").start().await;
        let address = cluster.url().strip_prefix("grpc://").expect("an address").to_owned();
        let connect = move || {
            let stream = TcpStream::connect(&address).expect("the server accepts");
            stream
                .set_read_timeout(Some(Duration::from_secs(60)))
                .expect("a timeout");
            stream
        };
        let mut idle: Vec<_> = (0..IDLE).map(|_| connect()).collect();
        let client = cluster.client().await;
        assert_eq!(number(&client, "SELECT 1").await, 1);
        let closed = tokio::task::spawn_blocking(move || {
            // What the server says first, and then the end.
            idle.iter_mut()
                .all(|stream| stream.read_to_end(&mut Vec::new()).is_ok())
        });
        assert!(closed.await.unwrap(), "the server closes its side");
        // A client whose connection was closed connects again.
        assert_eq!(number(&client, "SELECT 2").await, 2);
    });
}

#[test]
fn reader_that_stops_loses_its_result() {
    bounded(minutes(2), async {
        let cluster = cluster()
            .slots(1)
            .tpch(0.01)
            .serve_arg("--idle-reader-timeout=1s")
            .start()
            .await;
        let (reader, client) = (cluster.client().await, cluster.client().await);
        let mut unread = reader.open(ENDLESS).await.expect("it starts");
        unread.next().await.expect("it has rows").expect("it has no error");
        let running = "SELECT count(*) FROM system.queries WHERE ended_at IS NULL AND statement NOT LIKE '%system.%'";
        while number(&client, running).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let failure = loop {
            match unread.next().await.expect("an end with an error") {
                Ok(_) => {}
                Err(error) => break status(error),
            }
        };
        assert_eq!(failure.code(), Code::DeadlineExceeded, "{failure}");
        assert!(failure.message().contains("--idle-reader-timeout"), "{failure}");
    });
}

#[test]
fn unread_results_are_refused_at_once_or_hold_nobody() {
    const LIMIT: usize = 60;
    bounded(minutes(3), async {
        let cluster = cluster()
            .slots(1)
            .tpch(0.01)
            .serve_arg(format!("--max-open-results={LIMIT}"))
            .serve_arg("--max-running=1000")
            .start()
            .await;
        let client = cluster.client().await;
        let mut unread = Vec::new();
        let refused = loop {
            match client.info("SELECT * FROM nation").await {
                Ok(info) => unread.push(info),
                Err(refused) => break refused,
            }
            assert!(unread.len() <= 10 * LIMIT, "none is refused");
            // Statements about the server are answered meanwhile, and soon.
            let queries = number(&client, "SELECT count(*) FROM system.queries");
            assert!(tokio::time::timeout(seconds(20), queries).await.expect("in time") > 0);
        };
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(refused.message().contains("--max-open-results"), "{refused}");
        client.cancel(&unread[0]).await.expect("a result can be given back");
    });
}
