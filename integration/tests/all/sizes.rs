//! Message sizes: large cells, skewed rows, large statements and plans, and messages above a limit.

use arrow::array::{AsArray, RecordBatch};
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt;
use prost::Message;
use squadron_integration::client::{Client, status, ticket};
use squadron_integration::cluster::{Cluster, cluster};
use tonic::{Code, Status};

use crate::support::{bounded, minutes};

const MIB: usize = 1024 * 1024;

/// The default message limit of gRPC clients.
const COMMON_LIMIT: usize = 4 * MIB;

async fn start(workers: usize) -> Cluster {
    let cluster = cluster().workers(workers).slots(2).tpch(0.01);
    cluster.tiny_splits().start().await
}

/// One embedded worker, and two remote ones.
const TOPOLOGIES: [usize; 2] = [0, 2];

/// The only batch with rows.
fn only_batch(batches: &[RecordBatch]) -> &RecordBatch {
    let mut rows = batches.iter().filter(|batch| batch.num_rows() > 0);
    let batch = rows.next().unwrap();
    assert!(rows.next().is_none(), "one batch");
    batch
}

#[test]
fn large_cell_arrives_within_limits() {
    bounded(minutes(3), async {
        for workers in TOPOLOGIES {
            let cluster = start(workers).await;
            let client = cluster.client().await;
            // The rows are grouped by the large value, so that it also passes a shuffle.
            let sql = "SELECT repeat(n_name, 10000000) AS cell, count(*) FROM nation WHERE n_nationkey = 3 GROUP BY 1";
            let (_, batches) = client.query(sql).await.unwrap();
            let cell = only_batch(&batches).column(0).as_string::<i32>().value(0);
            assert_eq!(cell.len(), 60_000_000);
            let careful = FlightServiceClient::new(client.channel());
            let mut careful = FlightSqlServiceClient::new_from_inner(careful);
            let stream = careful.do_get(ticket(&client.info(sql).await.unwrap())).await.unwrap();
            let refused = stream.try_collect::<Vec<_>>().await.unwrap_err().to_string();
            assert!(refused.contains("too large"), "the client says why: {refused}");
        }
    });
}

#[test]
fn skewed_rows_arrive_in_small_messages() {
    bounded(minutes(3), async {
        for workers in TOPOLOGIES {
            let cluster = start(workers).await;
            let client = cluster.client().await;
            let sql = "SELECT c_custkey, CASE WHEN c_custkey % 500 = 0 THEN repeat('x', 3000000) ELSE c_comment END \
                       FROM customer";
            let info = client.info(sql).await.unwrap();
            let frames = client.flight().do_get(ticket(&info)).await.unwrap().into_inner();
            let sizes: Vec<_> = frames.map_ok(|frame| frame.encoded_len()).try_collect().await.unwrap();
            let largest = sizes.iter().max().unwrap();
            assert!(
                *largest < COMMON_LIMIT,
                "{largest} bytes in one of {} messages",
                sizes.len()
            );
            let total: usize = sizes.iter().sum();
            assert!((9_000_000..12_000_000).contains(&total), "{total} bytes in all");
        }
    });
}

#[test]
fn row_above_message_limit_is_refused() {
    bounded(minutes(4), async {
        for workers in TOPOLOGIES {
            let limited = cluster()
                .workers(workers)
                .slots(1)
                .serve_arg("--max-message-bytes")
                .serve_arg("8MiB");
            let limited = limited.tpch(0.01).start().await;
            let client = limited.client().await;
            let large = "SELECT repeat('x', 9000000) AS cell FROM region LIMIT 1";
            let status = client.query(large).await.unwrap_err();
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            assert!(status.message().contains("above the limit of 8 MiB"), "{status}");
            assert!(client.query("SELECT 1").await.is_ok(), "the connection goes on");
        }
    });
}

/// Workers refuse to send such a row to the server. The value is computed from a column, since a constant would be part
/// of the plan.
#[test]
fn row_above_worker_limit_is_refused() {
    bounded(minutes(4), async {
        for workers in TOPOLOGIES {
            let large = cluster().workers(workers).slots(1).tpch(0.01);
            let large = large.serve_arg("--max-message-bytes").serve_arg("1GiB");
            let large = large
                .serve_arg("--max-value-bytes=1GiB")
                .worker_arg("--max-value-bytes=1GiB");
            let large = large.start().await;
            let client = large.client().await;
            let sql = "SELECT repeat(substr(r_name, 1, 1), 270000000) AS cell FROM region WHERE r_regionkey = 1";
            let status = client.query(sql).await.unwrap_err();
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            assert!(status.message().contains("above the limit of 256 MiB"), "{status}");
        }
    });
}

/// A statement of 20 MB, whose plan goes to the workers, while other queries run.
#[test]
fn large_statement_and_plan_run() {
    bounded(minutes(4), async {
        for workers in TOPOLOGIES {
            let cluster = start(workers).await;
            let client = cluster.client().await;
            let literal = "y".repeat(20 * MIB);
            let sql = format!("SELECT r_name, count(*) FROM region WHERE r_name <> '{literal}' GROUP BY r_name");
            let small = async {
                for _ in 0..5 {
                    client
                        .query("SELECT count(*) FROM lineitem WHERE l_orderkey > 5")
                        .await
                        .unwrap();
                }
            };
            let (large, ()) = tokio::join!(client.query(&sql), small);
            let rows: usize = large.unwrap().1.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows, 5, "{workers} workers");
        }
    });
}

#[test]
fn long_in_list_runs_correctly() {
    bounded(minutes(4), async {
        let cluster = start(2).await;
        let client = cluster.client().await;
        let keys: Vec<_> = (0..=LIST).map(|key| (key * 3).to_string()).collect();
        let sql = format!("SELECT count(*) FROM orders WHERE o_orderkey IN ({})", keys.join(","));
        let (_, batches) = client.query(&sql).await.unwrap();
        let found = only_batch(&batches)
            .column(0)
            .as_primitive::<arrow::datatypes::Int64Type>()
            .value(0);
        let (_, batches) = client
            .query("SELECT count(*) FROM orders WHERE o_orderkey % 3 = 0")
            .await
            .unwrap();
        let expected = only_batch(&batches)
            .column(0)
            .as_primitive::<arrow::datatypes::Int64Type>()
            .value(0);
        assert!(found > 100);
        assert_eq!(found, expected);
    });
}

/// Numbers in the list of [`long_in_list_runs_correctly`]; a longer list is only slower.
const LIST: usize = 20_000;

/// The message is refused before it is decoded, in unary calls and in streams, and the status names the setting.
#[test]
fn message_above_limit_names_setting() {
    bounded(minutes(2), async {
        let limited = cluster()
            .serve_arg("--max-message-bytes")
            .serve_arg("4MiB")
            .start()
            .await;
        let client = limited.client().await;
        let sql = format!("SELECT '{}'", "z".repeat(5 * MIB));
        let refused = |status: Status| {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            assert!(status.message().contains("--max-message-bytes"), "{status}");
        };
        refused(client.info(&sql).await.unwrap_err());
        refused(client.schema(&sql).await.unwrap_err());
        refused(client.update(&sql).await.unwrap_err());
        refused(prepare(&client, &sql).await.unwrap_err());
        assert!(client.query("SELECT 1").await.is_ok(), "the connection goes on");
    });
}

async fn prepare(client: &Client, sql: &str) -> Result<(), Status> {
    let prepared = client.sql().prepare(sql.into(), None).await;
    prepared.map(drop).map_err(status)
}

/// FlightInfo does not repeat a long statement, so that every client can read it.
#[test]
fn long_statement_keeps_flight_info_small() {
    bounded(minutes(2), async {
        let cluster = cluster().start().await;
        let client = cluster.client().await;
        let sql = format!("SELECT length('{}') AS n", "z".repeat(6 * MIB));
        let info = client.info(&sql).await.unwrap();
        assert!(info.encoded_len() < 64 * 1024, "{} bytes", info.encoded_len());
        let mut prepared = client.sql().prepare(sql, None).await.unwrap();
        let info = prepared.execute().await.unwrap();
        let (_, batches) = client.fetch(info).await.unwrap();
        assert_eq!(only_batch(&batches).num_rows(), 1);
    });
}
