//! Results with several endpoints: read from the workers that hold the rows and through the server, repeatedly, until
//! they expire.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use arrow_flight::sql::{ProstMessageExt, TicketStatementQuery};
use arrow_flight::{FlightEndpoint, FlightInfo, RenewFlightEndpointRequest, Ticket};
use futures::future::join_all;
use prost::Message;
use squadron_integration::client::{Client, Rows};
use squadron_integration::cluster::{Cluster, ClusterBuilder, cluster};
use squadron_integration::compare::compare;
use squadron_integration::tpch::{QUERIES, query};
use squadron_proto::QueryId;
use squadron_proto::ticket::{ClusterKey, Subject};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::support::{Expected, Mismatches, Reference, bounded, minutes, seconds};
use crate::tpch::register;

const SCALE_FACTOR: f64 = 0.01;
const SECRET: &str = "tests know this";
const HOUR: Duration = Duration::from_secs(3600);

/// The location by which the client's own connection is meant.
const SAME_CONNECTION: &str = "arrow-flight-reuse-connection://?";

/// All rows of a table, on both workers.
const SCAN: &str = "SELECT * FROM lineitem";

/// Divides by zero in the last rows of one partition, after some millions of others.
const FAILS_LATE: &str =
    "SELECT l_orderkey, 1 / (60000 - l_orderkey) FROM lineitem CROSS JOIN nation CROSS JOIN region";

/// Queries beside TPC-H: plain scans, limits, orders, unions, no rows, one row, more partitions than tasks.
const SHAPES: [&str; 9] = [
    SCAN,
    "SELECT * FROM lineitem LIMIT 7",
    "SELECT l_orderkey, l_linenumber FROM lineitem ORDER BY l_orderkey, l_linenumber LIMIT 1000",
    "SELECT * FROM orders ORDER BY o_orderkey",
    "SELECT l_orderkey FROM lineitem UNION ALL SELECT o_orderkey FROM orders",
    "SELECT * FROM lineitem WHERE l_orderkey < 0",
    "SELECT count(*) FROM lineitem",
    "SELECT l_suppkey, count(*), sum(l_quantity) FROM lineitem GROUP BY l_suppkey",
    "SELECT arrow_cast(l_shipmode, 'Dictionary(Int32, Utf8)') AS mode, l_comment FROM lineitem",
];

fn two_wide_workers() -> ClusterBuilder {
    cluster().workers(2).slots(2).tpch(SCALE_FACTOR).tiny_splits()
}

/// Opens a connection whose session asks for several endpoints.
pub(crate) async fn connect_parallel(cluster: &Cluster) -> Client {
    let client = cluster.client().await;
    let set = client.update("SET squadron.endpoints = parallel").await;
    set.expect("the option can be set");
    client
}

/// Connects to the first location of an endpoint.
async fn connect_to_location(endpoint: &FlightEndpoint) -> Client {
    let location = endpoint.location.first().expect("a worker's rows have a location");
    Client::connect(&location.uri).await
}

fn row_count((_, batches): &Rows) -> usize {
    batches.iter().map(|batch| batch.num_rows()).sum()
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.expect("after 1970").as_secs()).expect("before the end of time")
}

/// Fetches a ticket that must be refused, and gives the status.
async fn refusal(client: &Client, ticket: Option<Ticket>) -> Status {
    let ticket = ticket.expect("an endpoint has a ticket");
    client
        .get(ticket)
        .await
        .map(drop)
        .expect_err("the ticket must be refused")
}

/// Waits until the worker of every endpoint has released its rows.
async fn wait_until_released(info: &FlightInfo, limit: Duration) {
    let end = Instant::now() + limit;
    for endpoint in &info.endpoint {
        let worker = connect_to_location(endpoint).await;
        loop {
            match worker.get(endpoint.ticket.clone().expect("a ticket")).await {
                Err(status) if status.code() == Code::NotFound => break,
                Err(status) => panic!("another refusal: {status}"),
                Ok(_) => assert!(Instant::now() < end, "not released within {limit:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[test]
fn every_row_arrives_once_either_way() {
    bounded(minutes(15), async {
        let cluster = two_wide_workers().start().await;
        let client = connect_parallel(&cluster).await;
        let reference = Reference::new();
        register(&reference).await;
        let mut queries: Vec<_> = SHAPES.map(String::from).into();
        queries.extend((1..=QUERIES).map(|number| query(number, SCALE_FACTOR)));
        let mut mismatches = Mismatches::default();
        for sql in queries {
            let expected = reference.run(&sql).await.expect("the reference runs it");
            let outcome = check_both_ways(&client, &sql, &expected).await;
            mismatches.note(&sql, outcome);
        }
        mismatches.assert_none();
    });
}

/// Compares the rows from the workers, and through the server, with the expected ones.
async fn check_both_ways(client: &Client, sql: &str, expected: &Expected) -> Result<(), String> {
    let to_text = |status: Status| status.to_string();
    let info = client.info(sql).await.map_err(to_text)?;
    if info.endpoint.is_empty() || info.endpoint.len() > 64 {
        return Err(format!("{} endpoints", info.endpoint.len()));
    }
    if !expected.order.is_empty() && !info.ordered {
        return Err("a query that orders its rows is not marked as ordered".into());
    }
    let direct = client.fetch_from_locations(&info).await.map_err(to_text)?;
    let proxied = client.fetch_all(&info).await.map_err(to_text)?;
    for (way, rows) in [("from workers", direct), ("through the server", proxied)] {
        let count = row_count(&rows);
        if info.total_records >= 0 && info.total_records != i64::try_from(count).unwrap() {
            return Err(format!("{count} rows instead of {}", info.total_records));
        }
        // A limit without an order may give any rows.
        if sql.ends_with("LIMIT 7") {
            if count != 7 {
                return Err(format!("{way}: {count} rows"));
            }
            continue;
        }
        compare(&expected.rows, &rows, &expected.order).map_err(|difference| format!("{way}: {difference}"))?;
    }
    client.cancel(&info).await.map_err(to_text)
}

#[test]
fn scan_partitions_have_worker_endpoints() {
    bounded(minutes(5), async {
        let cluster = two_wide_workers().start().await;
        let client = connect_parallel(&cluster).await;
        let before = unix_seconds();
        let info = client.info(SCAN).await.expect("it starts");
        assert!(info.endpoint.len() >= 4, "two workers of two slots");
        assert!(!info.ordered);
        let mut workers = BTreeSet::new();
        for endpoint in &info.endpoint {
            let [worker, server] = endpoint.location.as_slice() else {
                panic!("{:?}", endpoint.location);
            };
            assert_eq!(server.uri, SAME_CONNECTION);
            workers.insert(worker.uri.clone());
            let expires = endpoint.expiration_time.as_ref().expect("it expires");
            assert!(expires.seconds > before && expires.seconds <= unix_seconds() + 60);
        }
        let urls = BTreeSet::from([cluster.worker_url(0).into(), cluster.worker_url(1).into()]);
        assert_eq!(workers, urls);
        // Another session keeps the default.
        let other = cluster.client().await.info(SCAN).await.expect("it starts");
        let [endpoint] = other.endpoint.as_slice() else {
            panic!("{} endpoints", other.endpoint.len());
        };
        assert!(endpoint.location.is_empty() && endpoint.expiration_time.is_none());
    });
}

#[test]
fn hidden_workers_have_no_locations() {
    bounded(minutes(5), async {
        let hidden = two_wide_workers().serve_arg("--endpoint-locations").serve_arg("server");
        let embedded = cluster().slots(3).tpch(SCALE_FACTOR);
        for builder in [hidden, embedded] {
            let cluster = builder.start().await;
            let client = connect_parallel(&cluster).await;
            let info = client.info(SCAN).await.expect("it starts");
            assert!(info.endpoint.len() > 1);
            assert!(info.endpoint.iter().all(|endpoint| endpoint.location.is_empty()));
            let rows = client.fetch_all(&info).await.expect("rows");
            assert_eq!(row_count(&rows), 60_175);
        }
    });
}

#[test]
fn endpoint_serves_repeated_concurrent_reads() {
    bounded(minutes(5), async {
        let cluster = two_wide_workers().start().await;
        let client = connect_parallel(&cluster).await;
        let info = client.info(SCAN).await.expect("it starts");
        let readers = (0..3).flat_map(|_| {
            [
                Box::pin(async { client.fetch_all(&info).await }) as futures::future::BoxFuture<_>,
                Box::pin(async { client.fetch_from_locations(&info).await }),
            ]
        });
        for rows in join_all(readers).await {
            assert_eq!(row_count(&rows.expect("rows")), 60_175);
        }
        // A reader that stops half-way takes no rows from the others.
        let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
        drop(client.get(ticket).await.expect("a stream"));
        let again = client.fetch_all(&info).await.expect("rows");
        assert_eq!(row_count(&again), 60_175);
    });
}

#[test]
fn unrenewed_result_expires_after_ttl() {
    bounded(minutes(5), async {
        let cluster = two_wide_workers()
            .serve_arg("--result-ttl")
            .serve_arg("1s")
            .start()
            .await;
        let client = connect_parallel(&cluster).await;
        let info = client.info(SCAN).await.expect("it starts");
        wait_until_released(&info, seconds(10)).await;
        let status = refusal(&client, info.endpoint[0].ticket.clone()).await;
        assert_eq!(status.code(), Code::NotFound, "{status}");
        assert!(status.message().contains("expiration time"), "{status}");
        // Reading does not extend the time of a result, and an expired result cannot be renewed.
        let gone = renew(&client, &info.endpoint[0]).await;
        assert_eq!(gone.expect_err("too late").code(), Code::NotFound);
    });
}

async fn renew(client: &Client, endpoint: &FlightEndpoint) -> Result<FlightEndpoint, Status> {
    let request = RenewFlightEndpointRequest::new(endpoint.clone());
    let body = client.act("RenewFlightEndpoint", request.encode_to_vec()).await?;
    let body = body.expect("a renewed endpoint");
    Ok(FlightEndpoint::decode(body.as_slice()).expect("an endpoint"))
}

#[test]
fn renewed_result_stays_readable() {
    bounded(minutes(5), async {
        let time_to_live = seconds(2);
        let cluster = two_wide_workers()
            .serve_arg("--result-ttl")
            .serve_arg("2s")
            .start()
            .await;
        let client = connect_parallel(&cluster).await;
        let info = client.info(SCAN).await.expect("it starts");
        let mut endpoint = info.endpoint[0].clone();
        let start = Instant::now();
        let first = endpoint.expiration_time.expect("it expires");
        while start.elapsed() < 3 * time_to_live {
            endpoint = renew(&client, &endpoint).await.expect("it can be renewed");
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(endpoint.location, info.endpoint[0].location);
        let last = endpoint.expiration_time.expect("it expires");
        assert!(last.seconds > first.seconds);
        // Renewing one endpoint keeps the whole result; the old tickets stay valid as well.
        let rows = client.fetch_from_locations(&info).await.expect("rows");
        assert_eq!(row_count(&rows), 60_175);
        let ticket = endpoint.ticket.clone().expect("a ticket");
        let worker = connect_to_location(&endpoint).await;
        worker.get(ticket.clone()).await.expect("good at the worker");
        client.get(ticket).await.expect("good at the server");
        wait_until_released(&info, seconds(10)).await;
    });
}

#[test]
fn single_read_endpoint_cannot_be_renewed() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(1).tpch(SCALE_FACTOR).start().await;
        let client = cluster.client().await;
        let info = client.info(SCAN).await.expect("it starts");
        let refused = renew(&client, &info.endpoint[0]).await;
        let status = refused.expect_err("there is nothing to renew");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("expiration time"), "{status}");
        client.fetch(info).await.expect("its rows are still there");
    });
}

#[test]
fn cancel_releases_rows_at_once() {
    bounded(minutes(5), async {
        let cluster = two_wide_workers().start().await;
        let client = connect_parallel(&cluster).await;
        let info = client.info(SCAN).await.expect("it starts");
        client.fetch_all(&info).await.expect("rows");
        client.cancel(&info).await.expect("it can be cancelled");
        wait_until_released(&info, seconds(5)).await;
        let status = refusal(&client, info.endpoint[0].ticket.clone()).await;
        assert_eq!(status.code(), Code::NotFound, "{status}");
        client.cancel(&info).await.expect("once more does no harm");
    });
}

#[test]
fn open_results_are_counted_and_released() {
    bounded(minutes(5), async {
        let cluster = two_wide_workers()
            .serve_arg("--max-open-results")
            .serve_arg("2")
            .start()
            .await;
        let client = connect_parallel(&cluster).await;
        let mut open = Vec::new();
        for _ in 0..2 {
            let info = client.info(SCAN).await.expect("it starts");
            // A result that was read to its end is complete, and retained.
            client.fetch_all(&info).await.expect("rows");
            open.push(info);
        }
        let status = client.info(SCAN).await.expect_err("two results are open");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        client.cancel(&open[0]).await.expect("it can be cancelled");
        let end = Instant::now() + seconds(10);
        while client.info(SCAN).await.is_err() {
            assert!(Instant::now() < end, "a cancelled result still counts");
        }
    });
}

/// Runs a query, reads its rows, and kills a worker that holds some. Returns an endpoint of that worker.
async fn lose_result(cluster: &mut Cluster, client: &Client, sql: &str) -> (FlightInfo, FlightEndpoint) {
    let info = client.info(sql).await.expect("it starts");
    client.fetch_all(&info).await.expect("rows");
    let endpoint = info.endpoint.first().expect("rows lie somewhere").clone();
    let holder = &endpoint.location[0].uri;
    let lost = [0, 1].into_iter().find(|worker| cluster.worker_url(*worker) == holder);
    let lost = lost.expect("a worker holds them");
    cluster.worker(lost).kill();
    cluster.forget_worker(lost);
    (info, endpoint)
}

/// With the tickets that their clients have.
#[test]
fn retained_rows_of_a_lost_worker_are_written_again() {
    bounded(minutes(5), async {
        let mut cluster = two_wide_workers().start().await;
        let client = connect_parallel(&cluster).await;
        let (info, endpoint) = lose_result(&mut cluster, &client, SCAN).await;
        let schema = info.clone().try_decode_schema().expect("a schema");
        let read = timeout(seconds(20), client.fetch_endpoint(&endpoint, &schema)).await;
        let rows = read.expect("an answer within 20 seconds").expect("rows");
        assert!(rows.iter().any(|batch| batch.num_rows() > 0));
        for _ in 0..2 {
            assert_eq!(row_count(&client.fetch_all(&info).await.expect("rows")), 60_175);
        }
    });
}

/// Its client may have read others.
#[test]
fn retained_rows_that_would_differ_are_not_written_again() {
    bounded(minutes(5), async {
        let mut cluster = two_wide_workers().start().await;
        let client = connect_parallel(&cluster).await;
        let (info, endpoint) = lose_result(&mut cluster, &client, "SELECT random() FROM lineitem").await;
        let schema = info.clone().try_decode_schema().expect("a schema");
        let read = timeout(seconds(20), client.fetch_endpoint(&endpoint, &schema)).await;
        let status = read
            .expect("an answer within 20 seconds")
            .expect_err("the rows are lost");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("worker"), "{status}");
        let rows = client.info(SCAN).await.expect("the next query runs");
        assert_eq!(row_count(&client.fetch_all(&rows).await.expect("rows")), 60_175);
    });
}

#[test]
fn readers_get_failure_not_short_result() {
    bounded(minutes(5), async {
        let cluster = two_wide_workers().start().await;
        let client = connect_parallel(&cluster).await;
        let reference = "SELECT count(*) FROM lineitem CROSS JOIN nation CROSS JOIN region";
        let (_, counted) = client.query(reference).await.expect("a count");
        let all = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(counted[0].column(0)).value(0);
        for from_workers in [false, true] {
            // Endpoints are known long before the failing rows come.
            let info = client.info(FAILS_LATE).await.expect("it starts");
            let schema = info.clone().try_decode_schema().expect("a schema");
            let reads = info.endpoint.iter().map(|endpoint| {
                let (client, schema) = (client.clone(), schema.clone());
                async move {
                    let client = match from_workers {
                        true => connect_to_location(endpoint).await,
                        false => client,
                    };
                    client.fetch_endpoint(endpoint, &schema).await
                }
            });
            let outcomes = join_all(reads).await;
            let rows: usize = outcomes.iter().flatten().flatten().map(|batch| batch.num_rows()).sum();
            assert!(i64::try_from(rows).unwrap() < all, "all rows of a failed query");
            let failures: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
            assert!(!failures.is_empty(), "one partition fails");
            for status in failures {
                assert_eq!(status.code(), Code::InvalidArgument, "{status}");
                assert!(status.message().contains("zero"), "{status}");
            }
        }
    });
}

#[test]
fn worker_trusts_only_valid_tickets() {
    bounded(minutes(5), async {
        let cluster = two_wide_workers()
            .serve_arg("--cluster-secret")
            .serve_arg(SECRET)
            .worker_arg("--cluster-secret")
            .worker_arg(SECRET)
            .start()
            .await;
        let client = connect_parallel(&cluster).await;
        let info = client.info(SCAN).await.expect("it starts");
        let endpoint = &info.endpoint[0];
        let worker = connect_to_location(endpoint).await;
        let genuine = endpoint.ticket.clone().expect("a ticket").ticket;
        for position in 0..genuine.len() {
            let mut forged = genuine.to_vec();
            forged[position] ^= 0x55;
            let status = refusal(&worker, Some(Ticket::new(forged))).await;
            assert_eq!(status.code(), Code::Unauthenticated, "byte {position}: {status}");
        }
        let key = ClusterKey::from_secret(SECRET);
        let now = SystemTime::now();
        let subject = key.open(&genuine, now).expect("both know the secret");
        assert!(matches!(subject, Subject::Endpoint(_)));
        let expired = key.seal(&subject, now - 2 * HOUR, HOUR);
        let status = refusal(&worker, Some(Ticket::new(expired))).await;
        assert_eq!(status.code(), Code::NotFound, "{status}");
        let foreign = ClusterKey::from_secret("another").seal(&subject, now, HOUR);
        let status = refusal(&worker, Some(Ticket::new(foreign))).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        // Tickets that only the server accepts.
        let result = key.seal(&Subject::Result(QueryId::new()), now, HOUR);
        let wrapped = TicketStatementQuery {
            statement_handle: result.clone(),
        };
        for ticket in [result.to_vec(), wrapped.as_any().encode_to_vec()] {
            refusal(&worker, Some(Ticket::new(ticket))).await;
        }
        // The genuine ticket still gives its rows, whatever credentials the client sends.
        let mut flight = worker.flight();
        let mut request = tonic::Request::new(endpoint.ticket.clone().expect("a ticket"));
        let bearer = "Bearer whatever".parse().expect("a header");
        request.metadata_mut().insert("authorization", bearer);
        flight.do_get(request).await.expect("the ticket is good");
    });
}
