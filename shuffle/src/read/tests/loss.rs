//! Tests of lost servers, missing outputs, failures and dropped streams.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::datatypes::DataType;
use arrow_flight::Ticket;
use arrow_flight::flight_service_client::FlightServiceClient;
use datafusion::physical_expr::expressions::{cast, col};
use datafusion::physical_plan::ExecutionPlan;
use futures::{FutureExt, StreamExt};
use squadron_proto::control::OutputMode;
use squadron_proto::ticket::{ClusterKey, Fetch, FetchOutput, Subject};
use squadron_proto::{Failure, FailureKind, StageId};
use tonic::Code;
use tonic::transport::Endpoint;

use super::cluster::{Node, cluster_key, collect, kind, read, rows, wait_until};
use crate::testing::{key, number_rows, numbers};
use crate::{WritePartitioning, failure};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_server_fails_the_stream() {
    let (here, mut there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    let schema = number_rows(0, 1).schema();
    let writer = there
        .test
        .store
        .create(key(1, 0), Arc::clone(&schema), vec![0, 1], OutputMode::Retained)
        .unwrap();
    for partition in 0..2 {
        writer.push(partition, number_rows(0, 1000)).await.unwrap();
    }
    writer.finish_partition(0);
    let context = here.consumer(vec![there.producer(0, 0..2)]);
    let plan = read(schema, 2);
    let mut stream = plan.execute(1, Arc::clone(&context)).unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), number_rows(0, 1000));
    there.die();
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(kind(&error), FailureKind::WorkerLost);
    assert_eq!(failure::of(&error).lost, [key(1, 0)]);
    assert!(error.to_string().contains(&there.address), "{error}");
    assert!(stream.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_output_and_missing_worker_are_told_apart() {
    let (here, mut there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    let plan = || read(number_rows(0, 1).schema(), 1);
    let unknown = |context| async move {
        let error = plan().execute(0, context).unwrap().next().await.unwrap().unwrap_err();
        failure::of(&error)
    };
    let gone = unknown(here.consumer(vec![there.producer(0, [0])])).await;
    assert!(gone.message.contains(&there.address), "{gone}");
    assert_eq!((gone.kind, gone.lost), (FailureKind::ShuffleLost, vec![key(1, 0)]));
    there.die();
    let unreachable = unknown(here.consumer(vec![there.producer(0, [0])])).await;
    assert!(unreachable.message.contains(&there.address), "{unreachable}");
    assert_eq!(
        (unreachable.kind, unreachable.lost),
        (FailureKind::WorkerLost, vec![key(1, 0)])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producer_failure_keeps_its_kind() {
    let (here, there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    let schema = number_rows(0, 1).schema();
    let writer = there
        .test
        .store
        .create(key(1, 0), Arc::clone(&schema), vec![0], OutputMode::Retained)
        .unwrap();
    let context = here.consumer(vec![there.producer(0, [0])]);
    let mut stream = read(schema, 1).execute(0, context).unwrap();
    assert!(stream.next().now_or_never().is_none());
    let divided = Failure::new(FailureKind::Invalid, "division by zero");
    writer.fail(divided.clone());
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(failure::of(&error), divided);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_streams_end_the_fetch() {
    let (here, there) = (Node::new(None, 1 << 16), Node::new(None, 1 << 16));
    let schema = number_rows(0, 1).schema();
    let writer = there
        .test
        .store
        .create(key(1, 0), Arc::clone(&schema), vec![0, 1], OutputMode::Streamed)
        .unwrap();
    let context = here.consumer(vec![there.producer(0, 0..2)]);
    let plan = read(schema, 2);
    let mut streams: Vec<_> = (0..2).map(|p| plan.execute(p, Arc::clone(&context)).unwrap()).collect();
    let write = async {
        let mut pushed = 0;
        loop {
            match writer.push(pushed % 2, number_rows(0, 1000)).await {
                Ok(()) => pushed += 1,
                Err(failure) => return failure.kind,
            }
        }
    };
    let leave = async {
        streams[0].next().await.unwrap().unwrap();
        streams[1].next().await.unwrap().unwrap();
        streams.clear();
        wait_until("everything is freed", || {
            let usage = here.test.store.usage();
            (usage.memory_bytes, usage.disk_bytes) == (0, 0)
        })
        .await;
    };
    let both = async { tokio::join!(write, leave) };
    let (kind, ()) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    assert_eq!(kind, FailureKind::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_stream_leaves_others_running() {
    let (here, there) = (Node::new(None, 1 << 16), Node::new(None, 1 << 16));
    let input = [rows(0, 100_000), rows(100_000, 20_000)];
    there
        .write(key(1, 0), vec![0, 1], &input, WritePartitioning::Identity)
        .await
        .unwrap();
    let context = here.consumer(vec![there.producer(0, 0..2)]);
    let plan = read(number_rows(0, 1).schema(), 2);
    let mut early = plan.execute(0, Arc::clone(&context)).unwrap();
    let stays = plan.execute(1, context).unwrap();
    early.next().await.unwrap().unwrap();
    drop(early);
    assert_eq!(numbers(&collect(stays).await), (100_000..120_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_accepts_cluster_tickets_only() {
    let there = Node::new(None, 1 << 20);
    there
        .write(key(1, 0), vec![0], &[rows(0, 1000)], WritePartitioning::Identity)
        .await
        .unwrap();
    let fetch = Subject::Fetch(Fetch {
        query: key(1, 0).query,
        stage: StageId(1),
        outputs: vec![FetchOutput {
            task: key(1, 0).task,
            attempt: key(1, 0).attempt,
            partitions: vec![0],
        }],
    });
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let good = cluster_key().seal(&fetch, now, hour);
    let mut forged = good.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let nothing = Subject::Fetch(Fetch {
        query: key(1, 0).query,
        stage: StageId(1),
        outputs: vec![],
    });
    let table = [
        (good, None),
        (forged.into(), Some(Code::Unauthenticated)),
        ("garbage".into(), Some(Code::Unauthenticated)),
        (
            ClusterKey::random().seal(&fetch, now, hour),
            Some(Code::Unauthenticated),
        ),
        (cluster_key().seal(&fetch, now - 2 * hour, hour), Some(Code::NotFound)),
        (
            cluster_key().seal(&Subject::Result(key(1, 0).query), now, hour),
            Some(Code::InvalidArgument),
        ),
        (cluster_key().seal(&nothing, now, hour), Some(Code::InvalidArgument)),
    ];
    let endpoint = Endpoint::from_shared(there.address.clone()).unwrap();
    let mut client = FlightServiceClient::new(endpoint.connect().await.unwrap());
    for (ticket, code) in table {
        let answer = client.do_get(Ticket { ticket }).await;
        assert_eq!(answer.err().map(|status| status.code()), code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_input_fails_the_writer() {
    let here = Node::new(None, 1 << 20);
    let schema = number_rows(0, 1).schema();
    let text = col("text", &schema).unwrap();
    let not_a_number = cast(text, &schema, DataType::Int64);
    let partitioning = WritePartitioning::Hash {
        exprs: vec![not_a_number.unwrap()],
        partitions: 2,
    };
    let error = here
        .write(key(1, 0), vec![0], &[rows(0, 1000)], partitioning)
        .await
        .unwrap_err();
    assert_eq!(kind(&error), FailureKind::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_streams_leave_connection_usable() {
    let (here, there) = (Node::new(None, 1 << 16), Node::new(None, 1 << 16));
    let input = [rows(0, 100_000)];
    let identity = WritePartitioning::Identity;
    let written = there.write(key(1, 0), vec![0], &input, identity).await;
    // Several windows of HTTP/2 in all.
    assert!(written.unwrap().partitions[0].bytes > 4_000_000);
    let context = here.consumer(vec![there.producer(0, [0])]);
    let plans: Vec<_> = (0..8).map(|_| read(number_rows(0, 1).schema(), 1)).collect();
    let mut waiting = Vec::new();
    for plan in &plans {
        let mut stream = plan.execute(0, Arc::clone(&context)).unwrap();
        stream.next().await.unwrap().unwrap();
        waiting.push(stream);
    }
    let plan = read(number_rows(0, 1).schema(), 1);
    let all = collect(plan.execute(0, context).unwrap());
    let all = tokio::time::timeout(Duration::from_secs(30), all).await;
    assert_eq!(numbers(&all.unwrap()), (0..100_000).collect::<Vec<_>>());
    for stream in waiting {
        assert_eq!(numbers(&collect(stream).await).len(), 99_000);
    }
}
