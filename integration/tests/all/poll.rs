//! PollFlightInfo: the first poll answers at once, later ones when the query has progressed, the last with the whole
//! result.

use std::time::{Duration, Instant};

use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, CommandGetTableTypes,
    CommandPreparedStatementQuery, CommandStatementQuery, ProstMessageExt,
};
use arrow_flight::{FlightDescriptor, FlightInfo, PollInfo};
use prost::Message;
use squadron_integration::client::Client;
use squadron_integration::cluster::cluster;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::endpoints::connect_parallel;
use crate::support::{bounded, minutes, number, seconds, two_workers};

/// Computes for hours before its first row.
const LONG: &str = "SELECT a.l_linenumber, count(*), sum(a.l_orderkey % (b.l_orderkey + 1)) \
    FROM lineitem a CROSS JOIN lineitem b GROUP BY a.l_linenumber";

/// A result of millions of rows, which takes a while.
const SLOW: &str = "SELECT l_orderkey, l_orderkey * n_nationkey FROM lineitem CROSS JOIN nation CROSS JOIN region";
const SLOW_ROWS: usize = 60_175 * 125;

/// A query that fails after it has run for a while.
const FAILS: &str = "SELECT sum(1 / (60000 - l_orderkey)) FROM lineitem CROSS JOIN nation CROSS JOIN region";

fn statement(sql: &str) -> FlightDescriptor {
    let command = CommandStatementQuery {
        query: sql.into(),
        transaction_id: None,
    };
    FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
}

async fn poll(client: &Client, descriptor: FlightDescriptor) -> Result<PollInfo, Status> {
    let answer = client.flight().poll_flight_info(descriptor).await?;
    Ok(answer.into_inner())
}

fn info(poll: &PollInfo) -> &FlightInfo {
    poll.info.as_ref().expect("a PollInfo has a FlightInfo")
}

fn tickets(poll: &PollInfo) -> Vec<Vec<u8>> {
    let endpoints = info(poll).endpoint.iter();
    endpoints
        .map(|endpoint| endpoint.ticket.as_ref().expect("a ticket").ticket.to_vec())
        .collect()
}

/// Polls until the query has ended; checks each answer against the protocol.
async fn poll_to_end(client: &Client, first: FlightDescriptor) -> Result<Vec<PollInfo>, Status> {
    let mut answers = vec![poll(client, first).await?];
    while let Some(next) = answers[answers.len() - 1].flight_descriptor.clone() {
        let before = &answers[answers.len() - 1];
        let after = poll(client, next).await?;
        let (was, is) = (before.progress.expect("known"), after.progress.expect("known"));
        assert!((0.0..=1.0).contains(&is) && was <= is, "progress from {was} to {is}");
        assert!(tickets(&after).starts_with(&tickets(before)), "endpoints are appended");
        assert_eq!(info(&after).schema, info(before).schema);
        assert_eq!(info(&after).app_metadata, info(before).app_metadata);
        answers.push(after);
    }
    assert_eq!(answers[answers.len() - 1].progress, Some(1.0));
    Ok(answers)
}

fn row_count(batches: &[arrow::array::RecordBatch]) -> usize {
    batches.iter().map(arrow::array::RecordBatch::num_rows).sum()
}

#[test]
fn slow_parallel_result_is_readable_early() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = connect_parallel(&cluster).await;
        let first = poll(&client, statement(SLOW)).await.expect("it starts");
        let stale = first.flight_descriptor.clone().expect("millions of rows take time");
        // Endpoints appear while the query runs, and can be read at once.
        let mut early = first;
        while info(&early).endpoint.is_empty() {
            let next = early.flight_descriptor.expect("endpoints before the end");
            early = poll(&client, next).await.expect("it runs");
        }
        assert!(early.flight_descriptor.is_some(), "it still runs");
        assert!(early.progress.expect("known") < 1.0);
        let early_rows = client.fetch_all(info(&early)).await.expect("rows");
        assert!(row_count(&early_rows.1) > 0);

        let answers = poll_to_end(&client, stale.clone()).await.expect("it ends");
        let last = &answers[answers.len() - 1];
        assert!(tickets(last).starts_with(&tickets(&early)));
        assert_eq!(info(last).total_records, i64::try_from(SLOW_ROWS).unwrap());
        assert_eq!(info(last).endpoint.len(), 2, "two workers of one slot");
        let (_, all) = client.fetch_all(info(last)).await.expect("rows");
        assert_eq!(row_count(&all), SLOW_ROWS);
        // An old descriptor works like the newest.
        let again = poll(&client, stale).await.expect("stale but known");
        assert_eq!(tickets(&again), tickets(last));
        assert!(again.flight_descriptor.is_none());
        client.cancel(info(last)).await.expect("its rows are released");
    });
}

#[test]
fn polled_single_endpoint_reads_once() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        let client = cluster.client().await;
        for sql in [SLOW, "SELECT * FROM nation", "SELECT 1 AS one WHERE false"] {
            let answers = poll_to_end(&client, statement(sql)).await.expect("it ends");
            let last = info(&answers[answers.len() - 1]).clone();
            let expected = client.query(sql).await.expect("rows");
            let (schema, batches) = client.fetch(last).await.expect("rows");
            assert_eq!(schema, expected.0);
            assert_eq!(row_count(&batches), row_count(&expected.1), "{sql}");
        }
    });
}

#[test]
fn first_poll_is_immediate_and_cancellable() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        for client in [cluster.client().await, connect_parallel(&cluster).await] {
            // The first statement of a server takes longer; it is not measured.
            client.query("SELECT count(*) FROM nation").await.ok();
            let start = Instant::now();
            let first = poll(&client, statement(LONG)).await.expect("it starts");
            assert!(start.elapsed() < seconds(3), "{:?}", start.elapsed());
            let next = first.flight_descriptor.clone().expect("it runs for hours");
            assert!(info(&first).endpoint.is_empty());
            let schema = info(&first).clone().try_decode_schema().expect("a schema");
            assert_eq!(schema.fields().len(), 3);
            // The next poll waits, since there is no progress.
            let waits = timeout(Duration::from_millis(200), async {
                let mut descriptor = next.clone();
                loop {
                    let answer = poll(&client, descriptor).await.expect("it runs");
                    descriptor = answer.flight_descriptor.expect("it runs");
                }
            });
            assert!(waits.await.is_err());
            client
                .cancel(info(&first))
                .await
                .expect("it can be cancelled without an endpoint");
            let ended = timeout(seconds(10), poll_to_end(&client, next)).await;
            let status = ended.expect("soon").expect_err("it was cancelled");
            assert_eq!(status.code(), Code::Cancelled, "{status}");
            cluster.wait_until_idle(seconds(60)).await;
        }
    });
}

#[test]
fn poll_reports_the_query_failure() {
    bounded(minutes(5), async {
        let cluster = two_workers().start().await;
        for client in [cluster.client().await, connect_parallel(&cluster).await] {
            let status = match poll_to_end(&client, statement(FAILS)).await {
                Err(status) => status,
                // A single-read result reports its failure to DoGet.
                Ok(answers) => {
                    let last = info(&answers[answers.len() - 1]).clone();
                    client.fetch(last).await.expect_err("it fails")
                }
            };
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert!(status.message().contains("zero"), "{status}");
            // An invalid statement fails at the first poll.
            let status = poll(&client, statement("SELECT * FROM nowhere")).await;
            let status = status.expect_err("there is no such table");
            assert_eq!(status.code(), Code::NotFound, "{status}");
        }
    });
}

#[test]
fn immediate_results_complete_on_first_poll() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(1).tpch(0.01).start().await;
        let client = cluster.client().await;
        let types = CommandGetTableTypes {}.as_any().encode_to_vec();
        let answer = poll(&client, FlightDescriptor::new_cmd(types)).await;
        let answer = answer.expect("metadata");
        assert_eq!((answer.progress, answer.flight_descriptor), (Some(1.0), None));
        client.fetch(answer.info.expect("an info")).await.expect("rows");

        // A table by its path, and a prepared statement.
        let path = FlightDescriptor::new_path(vec!["region".into()]);
        let answers = poll_to_end(&client, path).await.expect("it ends");
        let (_, region) = client
            .fetch(info(&answers[answers.len() - 1]).clone())
            .await
            .expect("rows");
        assert_eq!(row_count(&region), 5);
        let request = ActionCreatePreparedStatementRequest {
            query: "SELECT 1 UNION ALL SELECT 2".into(),
            transaction_id: None,
        };
        let body = request.as_any().encode_to_vec();
        let prepared = client.act("CreatePreparedStatement", body).await;
        let prepared = prepared.expect("it can be prepared").expect("a result");
        let prepared = Any::decode(prepared.as_slice()).expect("a message");
        let prepared: ActionCreatePreparedStatementResult =
            prepared.unpack().expect("a result").expect("of this action");
        let command = CommandPreparedStatementQuery {
            prepared_statement_handle: prepared.prepared_statement_handle,
        };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let answers = poll_to_end(&client, descriptor).await.expect("it ends");
        let (_, two) = client
            .fetch(info(&answers[answers.len() - 1]).clone())
            .await
            .expect("rows");
        assert_eq!(row_count(&two), 2);

        // DDL runs once, however often its poll is repeated.
        let create = statement("CREATE VIEW polled AS SELECT 1 AS x");
        let answers = poll_to_end(&client, create).await.expect("the view is made");
        for answer in &answers {
            if let Some(stale) = answer.flight_descriptor.clone() {
                poll(&client, stale).await.expect("the view is not made again");
            }
        }
        client.query("SELECT x FROM polled").await.expect("the view is there");
    });
}

#[test]
fn unpolled_query_is_dropped_after_ttl() {
    bounded(minutes(5), async {
        let cluster = two_workers().serve_arg("--result-ttl").serve_arg("1s").start().await;
        for client in [cluster.client().await, connect_parallel(&cluster).await] {
            let first = poll(&client, statement(LONG)).await.expect("it starts");
            let mut next = first.flight_descriptor.expect("it runs for hours");
            // The query runs on as long as it is polled.
            let start = Instant::now();
            while start.elapsed() < seconds(3) {
                let answer = poll(&client, next).await.expect("it runs on");
                next = answer.flight_descriptor.expect("it runs for hours");
            }
            // Whether the processes are idle says nothing while other processes have all cores.
            let running = "SELECT count(*) FROM system.queries WHERE state = 'running'";
            while number(&client, running).await > 0 {
                sleep(Duration::from_millis(100)).await;
            }
            cluster.wait_until_idle(seconds(60)).await;
            let status = poll(&client, next).await.expect_err("it is forgotten");
            assert!(matches!(status.code(), Code::NotFound | Code::Cancelled), "{status}");
        }
    });
}

#[test]
fn forged_poll_handle_is_refused() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(1).tpch(0.01).start().await;
        let client = connect_parallel(&cluster).await;
        let first = poll(&client, statement(LONG)).await.expect("it starts");
        let handle = first.flight_descriptor.clone().expect("it runs").cmd;
        for position in [0, 7, handle.len() - 1] {
            let mut forged = handle.to_vec();
            forged[position] ^= 1;
            let status = poll(&client, FlightDescriptor::new_cmd(forged)).await;
            let status = status.expect_err("nobody issued it");
            assert!(
                matches!(status.code(), Code::InvalidArgument | Code::Unimplemented),
                "{status}"
            );
        }
        // A poll handle is no ticket.
        let rows = client.get(arrow_flight::Ticket::new(handle)).await;
        assert_eq!(rows.map(drop).expect_err("no ticket").code(), Code::InvalidArgument);
        client.cancel(info(&first)).await.expect("it can be cancelled");
    });
}

#[test]
fn tables_are_listed_as_flights() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(1).tpch(0.01).start().await;
        let client = cluster.client().await;
        let all = list_flights(&client, "").await;
        assert_eq!(all.len(), 8, "the tables of TPC-H");
        let some = list_flights(&client, "%region").await;
        assert_eq!(some.len(), 1);
        let region = some[0].flight_descriptor.clone().expect("a descriptor");
        assert_eq!(region.path.len(), 3);
        let listed = some[0].clone().try_decode_schema().expect("a schema");
        let told = client.flight().get_schema(region.clone()).await;
        let told = told.expect("a schema").into_inner();
        let told = arrow::datatypes::Schema::try_from(&told).expect("a schema");
        assert_eq!(told, listed);
        let info = client.flight().get_flight_info(region).await;
        let info = info.expect("it starts").into_inner();
        let (schema, batches) = client.fetch(info).await.expect("rows");
        assert_eq!(*schema, listed);
        assert_eq!(row_count(&batches), 5);
        // Names in a path are not parsed as SQL.
        let odd = FlightDescriptor::new_path(vec!["region\" WHERE 1 = 0 --".into()]);
        let status = client.flight().get_flight_info(odd).await;
        assert_eq!(status.expect_err("no such table").code(), Code::NotFound);
        assert!(list_flights(&client, "no such table").await.is_empty());
    });
}

async fn list_flights(client: &Client, pattern: &str) -> Vec<FlightInfo> {
    let criteria = arrow_flight::Criteria {
        expression: pattern.to_owned().into(),
    };
    let mut stream = client
        .flight()
        .list_flights(criteria)
        .await
        .expect("flights")
        .into_inner();
    let mut flights = Vec::new();
    while let Some(flight) = stream.message().await.expect("a flight") {
        flights.push(flight);
    }
    flights
}

#[test]
fn reported_failure_does_not_delay_shutdown() {
    bounded(minutes(5), async {
        let mut cluster = two_workers()
            .serve_arg("--result-ttl=600s")
            .serve_arg("--drain-timeout=600s")
            .start()
            .await;
        let client = cluster.client().await;
        let told = poll_to_end(&client, statement(FAILS)).await;
        told.expect_err("it divides by zero");
        cluster.server().terminate();
        let ended = cluster.server().wait_for_exit(seconds(60)).await;
        assert_eq!(ended.code(), Some(0));
    });
}
