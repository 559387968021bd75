//! Clients that ask for nothing, or do not read what they asked for, are not in the way of others.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use futures::StreamExt;
use squadron_integration::client::{Client, status};
use squadron_integration::cluster::cluster;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support::{ENDLESS, bounded, minutes, number, seconds};

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

/// Results that nobody reads hold what their plans have decoded. Beyond the memory of the process the newest are given up,
/// with an error that says so, and the others are kept; other queries are answered.
#[test]
fn unread_results_stay_within_memory() {
    const MEMORY_MIB: u64 = 64;
    /// Beside it, in a debug build, whose binary alone has 130 MiB resident.
    const OVERHEAD_MIB: u64 = 230;
    const UNREAD: usize = 60;
    bounded(minutes(4), async {
        let mut cluster = cluster().slots(2).memory_mib(MEMORY_MIB).tpch(0.1).start().await;
        let client = cluster.client().await;
        let mut unread = Vec::new();
        for _ in 0..UNREAD {
            unread.push(client.info("SELECT * FROM lineitem").await.expect("it is accepted"));
        }
        let count = number(&client, "SELECT count(*) FROM lineitem WHERE l_quantity > 0");
        let count = tokio::time::timeout(seconds(60), count)
            .await
            .expect("others are answered");
        assert_eq!(count, 600_572);
        let peak = cluster.server().peak_memory_bytes() >> 20;
        assert!(peak <= MEMORY_MIB + OVERHEAD_MIB, "the server took {peak} MiB");
        let first = client
            .fetch(unread.swap_remove(0))
            .await
            .expect("the oldest result is kept");
        assert_eq!(first.1.iter().map(|batch| batch.num_rows()).sum::<usize>(), 600_572);
        let given_up = "SELECT count(*) FROM system.queries WHERE failure LIKE '%nobody was reading it%'";
        while number(&client, given_up).await == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

/// How many clients ask at the same time, and how often each does.
const ACTIVE: i64 = 300;
const QUESTIONS: i64 = 3;

#[test]
fn many_clients_are_served_at_once() {
    const MEMORY_MIB: u64 = 256;
    bounded(minutes(5), async {
        let mut cluster = cluster().slots(1).memory_mib(MEMORY_MIB).tpch(0.01).start().await;
        let mut clients = JoinSet::new();
        for number_of_client in 0..ACTIVE {
            let client = cluster.client().await;
            clients.spawn(async move {
                for question in 0..QUESTIONS {
                    let id = number_of_client * QUESTIONS + question;
                    let sql = format!("SELECT {id} + count(*) FROM nation WHERE n_regionkey = 1");
                    assert_eq!(number(&client, &sql).await, id + 5);
                }
            });
        }
        // A wrong answer, or none, is a panic of its client.
        clients.join_all().await;
        let peak = cluster.server().peak_memory_bytes() >> 20;
        assert!(peak <= MEMORY_MIB + 150, "the server took {peak} MiB");
    });
}

/// A connection whose other end is gone without a word: nothing arrives, and nothing says that it ended.
#[test]
fn query_of_vanished_client_ends() {
    bounded(minutes(3), async {
        let cluster = cluster().slots(1).tpch(0.01).start().await;
        let address = cluster.url().strip_prefix("grpc://").expect("an address").to_owned();
        let relay = Relay::start(address).await;
        let (vanishing, client) = (Client::connect(&relay.url).await, cluster.client().await);
        let mut rows = vanishing.open(ENDLESS).await.expect("it starts");
        rows.next().await.expect("it has rows").expect("it has no error");
        relay.freeze();
        let running = "SELECT count(*) FROM system.queries WHERE ended_at IS NULL AND statement NOT LIKE '%system.%'";
        while number(&client, running).await > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

/// Passes the bytes of one connection on, until it is told to keep silent.
struct Relay {
    url: String,
    frozen: CancellationToken,
    _task: JoinSet<()>,
}

impl Relay {
    async fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("grpc://{}", listener.local_addr().expect("it is bound"));
        let frozen = CancellationToken::new();
        let mut task = JoinSet::new();
        let until = frozen.clone();
        task.spawn(async move {
            let (mut client, _) = listener.accept().await.expect("one client comes");
            let mut server = tokio::net::TcpStream::connect(to).await.expect("the server listens");
            let copied = tokio::io::copy_bidirectional(&mut client, &mut server);
            if until.run_until_cancelled(copied).await.is_none() {
                // Both stay open.
                std::future::pending::<()>().await;
            }
        });
        Self {
            url,
            frozen,
            _task: task,
        }
    }

    fn freeze(&self) {
        self.frozen.cancel();
    }
}
