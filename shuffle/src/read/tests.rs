//! Whole ways of rows: written by one node, served, fetched and read by another, over real sockets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::Ticket;
use arrow_flight::flight_service_client::FlightServiceClient;
use datafusion::common::Result;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, Partitioning, PhysicalSortExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionConfig;
use futures::{FutureExt, StreamExt, TryStreamExt};
use squadron_proto::control::{OutputMode, Producer, Release, StageInput};
use squadron_proto::ticket::{ClusterKey, Fetch, FetchOutput, Subject};
use squadron_proto::{AttemptKey, Failure, FailureKind, StageId};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;

use crate::testing::{TestStore, key, numbered, numbers, samples, store, without_columns};
use crate::{
    AttemptContext, DataService, FetchOptions, Fetcher, ShuffleReadExec, ShuffleWriteExec,
    WritePartitioning, Written, failure, serve,
};

/// A process of the cluster: a store, its Flight server on a runtime of its own, and a fetcher.
struct Node {
    test: TestStore,
    address: String,
    fetcher: Fetcher,
    server: Option<Runtime>,
}

fn cluster_key() -> ClusterKey {
    ClusterKey::from_secret("test")
}

impl Node {
    /// `budget_bytes` of what it fetches.
    fn new(pool_bytes: Option<usize>, budget_bytes: usize) -> Self {
        let test = store(pool_bytes);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let service = DataService::new(test.store.clone(), cluster_key()).into_server();
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            let server = serve::http2().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        let fetcher = Fetcher::new(FetchOptions {
            budget_bytes,
            ..FetchOptions::new(cluster_key())
        });
        Self {
            test,
            address,
            fetcher,
            server: Some(runtime),
        }
    }

    /// As kill -9: connections break, nobody answers.
    fn die(&mut self) {
        if let Some(runtime) = self.server.take() {
            runtime.shutdown_background();
        }
    }

    fn context(&self, attempt: AttemptContext) -> Arc<TaskContext> {
        let config = SessionConfig::new().with_extension(Arc::new(attempt));
        Arc::new(TaskContext::default().with_session_config(config))
    }

    /// Runs a stage here: `input` holds the batches of each of its partitions.
    async fn write(
        &self,
        key: AttemptKey,
        partitions: Vec<u32>,
        input: &[Vec<RecordBatch>],
        partitioning: WritePartitioning,
    ) -> Result<Written> {
        let schema = input[0][0].schema();
        let output_partitions = match &partitioning {
            WritePartitioning::Hash { partitions, .. } => (0..*partitions as u32).collect(),
            WritePartitioning::Identity => partitions.clone(),
        };
        let writer = self
            .test
            .store
            .create(key, Arc::clone(&schema), output_partitions, OutputMode::Retained)
            .map_err(failure::into_datafusion)?;
        let attempt = AttemptContext {
            key,
            partitions,
            inputs: HashMap::new(),
            store: self.test.store.clone(),
            fetcher: self.fetcher.clone(),
            writer: writer.clone(),
        };
        let plan = ShuffleWriteExec::new(scan(input), partitioning, schema);
        let context = self.context(attempt);
        let runs = (0..input.len()).map(|partition| plan.execute(partition, Arc::clone(&context)));
        let runs = runs.collect::<Result<Vec<_>>>()?;
        for run in futures::future::join_all(runs.into_iter().map(StreamExt::collect::<Vec<_>>)).await {
            assert_eq!(run.into_iter().collect::<Result<Vec<_>>>()?.len(), 0);
        }
        writer.finish().map_err(failure::into_datafusion)
    }

    /// The context of a consumer here, whose stage 2 reads stage 1.
    fn consumer(&self, producers: Vec<Producer>) -> Arc<TaskContext> {
        let key = key(2, 0);
        self.test.store.release(&Release {
            query: key.query,
            stages: vec![key.stage],
        });
        let schema = numbered(0, 1).schema();
        let writer = self.test.store.create(key, schema, vec![], OutputMode::Retained);
        let input = StageInput {
            stage: StageId(1),
            producers,
        };
        self.context(AttemptContext {
            key,
            partitions: vec![],
            inputs: HashMap::from([(StageId(1), input)]),
            store: self.test.store.clone(),
            fetcher: self.fetcher.clone(),
            writer: writer.unwrap(),
        })
    }

    fn producer(&self, task: u32, partitions: impl IntoIterator<Item = u32>) -> Producer {
        Producer {
            task: key(1, task).task,
            attempt: key(1, task).attempt,
            address: self.address.clone(),
            partitions: partitions.into_iter().collect(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.die();
    }
}

fn scan(input: &[Vec<RecordBatch>]) -> Arc<dyn ExecutionPlan> {
    let schema = input[0][0].schema();
    MemorySourceConfig::try_new_exec(input, schema, None).unwrap()
}

fn by_number(partitions: usize) -> WritePartitioning {
    let schema = numbered(0, 1).schema();
    WritePartitioning::Hash {
        exprs: vec![col("number", &schema).unwrap()],
        partitions,
    }
}

fn read(schema: SchemaRef, partitions: usize) -> ShuffleReadExec {
    let partitioning = Partitioning::UnknownPartitioning(partitions);
    ShuffleReadExec::new(StageId(1), schema, partitioning, None)
}

/// Many batches of `rows` rows altogether, starting at `start`.
fn rows(start: i64, rows: i64) -> Vec<RecordBatch> {
    let starts = (start..start + rows).step_by(1000);
    starts.map(|start| numbered(start, 1000)).collect()
}

async fn collect(stream: SendableRecordBatchStream) -> Vec<RecordBatch> {
    stream.try_collect().await.unwrap()
}

async fn collect_all(plan: &dyn ExecutionPlan, context: &Arc<TaskContext>) -> Vec<Vec<RecordBatch>> {
    let partitions = plan.properties().output_partitioning().partition_count();
    let streams = (0..partitions).map(|p| plan.execute(p, Arc::clone(context)).unwrap());
    futures::future::join_all(streams.map(collect)).await
}

fn sorted(mut numbers: Vec<i64>) -> Vec<i64> {
    numbers.sort_unstable();
    numbers
}

fn kind(error: &DataFusionError) -> FailureKind {
    failure::of(error).kind
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hash_partitions_come_together_from_two_processes() {
    let (here, there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    let inputs = [
        [rows(0, 20_000), rows(20_000, 20_000)],
        [rows(40_000, 20_000), rows(60_000, 20_000)],
    ];
    let mut total = 0;
    for (node, task) in [(&here, 0), (&there, 1)] {
        let input = &inputs[task as usize];
        let written = node.write(key(1, task), vec![0, 1], input, by_number(5)).await.unwrap();
        assert_eq!(written.partitions.len(), 5);
        total += written.partitions.iter().map(|partition| partition.rows).sum::<u64>();
    }
    assert_eq!(total, 80_000);
    let context = here.consumer(vec![here.producer(0, 0..5), there.producer(1, 0..5)]);
    let plan = read(numbered(0, 1).schema(), 5);
    let read = collect_all(&plan, &context).await;

    // Where DataFusion itself would send them.
    let all = scan(&inputs.concat());
    let WritePartitioning::Hash { exprs, partitions } = by_number(5) else { unreachable!() };
    let reference = RepartitionExec::try_new(all, Partitioning::Hash(exprs, partitions)).unwrap();
    let reference = collect_all(&reference, &Arc::new(TaskContext::default())).await;
    for (read, reference) in read.iter().zip(&reference) {
        assert_eq!(sorted(numbers(read)), sorted(numbers(reference)));
        let few = read.iter().filter(|batch| batch.num_rows() < 4000).count();
        assert!(few <= 8, "{few} of {} batches are small", read.len());
    }
    let metrics = plan.metrics().unwrap();
    assert_eq!(metrics.output_rows(), Some(80_000));
    assert!(metrics.sum_by_name("fetched_bytes").unwrap().as_usize() > 1_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_keeps_partitions_and_their_order() {
    let (here, there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    let near = [rows(0, 5_000), rows(5_000, 5_000)];
    let far = [rows(10_000, 5_000)];
    here.write(key(1, 0), vec![0, 2], &near, WritePartitioning::Identity).await.unwrap();
    there.write(key(1, 1), vec![1], &far, WritePartitioning::Identity).await.unwrap();
    let context = here.consumer(vec![here.producer(0, [0, 2]), there.producer(1, [1])]);
    let schema = numbered(0, 1).schema();
    let order = PhysicalSortExpr::new_default(col("number", &schema).unwrap());
    let plan = ShuffleReadExec::new(
        StageId(1),
        Arc::clone(&schema),
        Partitioning::UnknownPartitioning(3),
        LexOrdering::new([order]),
    );
    let read = collect_all(&plan, &context).await;
    for (partition, start) in [(0, 0), (1, 10_000), (2, 5_000)] {
        assert_eq!(numbers(&read[partition]), (start..start + 5_000).collect::<Vec<_>>());
    }
    assert!(Arc::ptr_eq(read[0][0].column(0), near[0][0].column(0)), "handed over as it is");

    let part = plan.with_partitions(vec![2, 1]).unwrap();
    assert!(part.properties().output_ordering().is_some());
    let read = collect_all(&part, &context).await;
    assert_eq!(numbers(&read[0])[0], 5_000);
    assert_eq!(numbers(&read[1])[0], 10_000);
    assert!(part.with_partitions(vec![0]).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_not_claimed_for_several_producers() {
    let here = Node::new(None, 1 << 20);
    for task in 0..2 {
        here.write(key(1, task), vec![0], &[rows(0, 1000)], WritePartitioning::Identity).await.unwrap();
    }
    let context = here.consumer(vec![here.producer(0, [0]), here.producer(1, [0])]);
    let schema = numbered(0, 1).schema();
    let order = PhysicalSortExpr::new_default(col("number", &schema).unwrap());
    let one = Partitioning::UnknownPartitioning(1);
    let plan = ShuffleReadExec::new(StageId(1), schema, one, LexOrdering::new([order]));
    let error = plan.execute(0, context).err().unwrap();
    assert_eq!(kind(&error), FailureKind::Internal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skewed_partitions_read_one_after_the_other_neither_block_nor_fill_memory() {
    let budget = 256 * 1024;
    let (here, there) = (Node::new(None, budget), Node::new(None, budget));
    // One partition has most of the rows, and two outputs are mixed in one stream.
    for (task, start) in [(0, 0), (1, 100_000)] {
        let input = [rows(start, 60_000), rows(start + 60_000, 10_000), rows(start + 70_000, 30_000)];
        there.write(key(1, task), vec![0, 1, 2], &input, WritePartitioning::Identity).await.unwrap();
    }
    for first in [2, 0, 1] {
        let producers = vec![there.producer(0, 0..3), there.producer(1, 0..3)];
        let context = here.consumer(producers);
        let plan = read(numbered(0, 1).schema(), 3);
        let streams = (0..3).map(|partition| plan.execute(partition, Arc::clone(&context)));
        let mut streams: Vec<_> = streams.map(Result::unwrap).map(Some).collect();
        let mut total = Vec::new();
        for partition in [first, (first + 1) % 3, (first + 2) % 3] {
            let mut stream = streams[partition].take().unwrap();
            while let Some(batch) = stream.next().await {
                total.extend(numbers(&[batch.unwrap()]));
                let held = here.test.store.usage().memory_bytes;
                assert!(held <= 2 * budget as u64, "{held} bytes in memory");
            }
        }
        assert_eq!(sorted(total), (0..200_000).collect::<Vec<_>>());
        drop(plan);
        let usage = here.test.store.usage();
        assert_eq!((usage.memory_bytes, usage.disk_bytes), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_memory_fetched_rows_go_over_the_disk() {
    let (here, there) = (Node::new(Some(1000), 1 << 20), Node::new(Some(1000), 1 << 20));
    let input = [rows(0, 30_000), rows(30_000, 30_000)];
    let written = there.write(key(1, 0), vec![0, 1], &input, by_number(4)).await.unwrap();
    assert!(written.spilled_bytes > 100_000);
    let context = here.consumer(vec![there.producer(0, 0..4)]);
    let plan = read(numbered(0, 1).schema(), 4);
    let read = collect_all(&plan, &context).await.concat();
    assert_eq!(sorted(numbers(&read)), (0..60_000).collect::<Vec<_>>());
    assert_eq!(here.test.pool.reserved(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_batch_arrives_as_it_was_sent() {
    // With a budget of nothing, everything that is not awaited goes over the disk.
    for budget in [1 << 20, 0] {
        let (here, there) = (Node::new(None, budget), Node::new(None, budget));
        for (name, batch) in samples() {
            let input = [vec![batch.clone(), batch.slice(0, 1)], vec![batch.clone()]];
            there.write(key(1, 0), vec![0, 1], &input, WritePartitioning::Identity).await.unwrap();
            let context = here.consumer(vec![there.producer(0, 0..2)]);
            let plan = read(batch.schema(), 2);
            let (first, second) = (plan.execute(0, Arc::clone(&context)), plan.execute(1, context));
            let second = collect(second.unwrap()).await;
            for (read, sent) in [(collect(first.unwrap()).await, &input[0]), (second, &input[1])] {
                let schema = batch.schema();
                let together = |batches| arrow::compute::concat_batches(&schema, batches).unwrap();
                assert_eq!(together(&read), together(sent), "{name}");
                assert!(read.iter().all(|batch| batch.schema() == schema), "{name}");
            }
            there.test.store.release(&release());
        }
    }
}

fn release() -> Release {
    Release {
        query: key(1, 0).query,
        stages: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_without_columns_keep_their_number() {
    let (here, there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    let input = [vec![without_columns(10), without_columns(20)]];
    there.write(key(1, 0), vec![0], &input, WritePartitioning::Identity).await.unwrap();
    let context = here.consumer(vec![there.producer(0, [0])]);
    let read = collect_all(&read(without_columns(0).schema(), 1), &context).await.concat();
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_executed_again_is_read_again() {
    let (here, there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    there.write(key(1, 0), vec![0, 1], &[rows(0, 3000), rows(3000, 3000)], by_number(2)).await.unwrap();
    let context = here.consumer(vec![there.producer(0, 0..2)]);
    let plan = read(numbered(0, 1).schema(), 2);
    let first = collect(plan.execute(0, Arc::clone(&context)).unwrap()).await;
    let other = collect(plan.execute(1, Arc::clone(&context)).unwrap()).await;
    let again = collect(plan.execute(0, Arc::clone(&context)).unwrap()).await;
    assert_eq!(sorted(numbers(&first)), sorted(numbers(&again)));
    assert_eq!(numbers(&first).len() + numbers(&other).len(), 6000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_in_the_middle_is_an_error() {
    let (here, mut there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    let schema = numbered(0, 1).schema();
    let writer = there.test.store.create(key(1, 0), Arc::clone(&schema), vec![0, 1], OutputMode::Retained).unwrap();
    for partition in 0..2 {
        writer.push(partition, numbered(0, 1000)).await.unwrap();
    }
    writer.finish_partition(0);
    let context = here.consumer(vec![there.producer(0, 0..2)]);
    let plan = read(schema, 2);
    let mut stream = plan.execute(1, Arc::clone(&context)).unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), numbered(0, 1000));
    there.die();
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(kind(&error), FailureKind::ShuffleLost);
    assert!(error.to_string().contains(&there.address), "{error}");
    assert!(stream.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_shuffle_lost_and_names_the_address() {
    let (here, mut there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    let plan = || read(numbered(0, 1).schema(), 1);
    let unknown = |context| async move {
        let error = plan().execute(0, context).unwrap().next().await.unwrap().unwrap_err();
        assert_eq!(kind(&error), FailureKind::ShuffleLost);
        error.to_string()
    };
    let message = unknown(here.consumer(vec![there.producer(0, [0])])).await;
    assert!(message.contains(&there.address), "{message}");
    there.die();
    let message = unknown(here.consumer(vec![there.producer(0, [0])])).await;
    assert!(message.contains(&there.address), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_the_producer_arrives_with_its_kind() {
    let (here, there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    let schema = numbered(0, 1).schema();
    let writer = there.test.store.create(key(1, 0), Arc::clone(&schema), vec![0], OutputMode::Retained).unwrap();
    let context = here.consumer(vec![there.producer(0, [0])]);
    let mut stream = read(schema, 1).execute(0, context).unwrap();
    assert!(stream.next().now_or_never().is_none());
    let divided = Failure::new(FailureKind::Invalid, "division by zero");
    writer.fail(divided.clone());
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(failure::of(&error), divided);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_streams_ends_the_fetch_and_frees_everything() {
    let (here, there) = (Node::new(None, 1 << 16), Node::new(None, 1 << 16));
    let schema = numbered(0, 1).schema();
    let writer = there.test.store.create(key(1, 0), Arc::clone(&schema), vec![0, 1], OutputMode::Streamed).unwrap();
    let context = here.consumer(vec![there.producer(0, 0..2)]);
    let plan = read(schema, 2);
    let mut streams: Vec<_> = (0..2).map(|p| plan.execute(p, Arc::clone(&context)).unwrap()).collect();
    let write = async {
        let mut pushed = 0;
        loop {
            match writer.push(pushed % 2, numbered(0, 1000)).await {
                Ok(()) => pushed += 1,
                Err(failure) => return failure.kind,
            }
        }
    };
    let leave = async {
        streams[0].next().await.unwrap().unwrap();
        streams[1].next().await.unwrap().unwrap();
        streams.clear();
        let usage = here.test.store.usage();
        assert_eq!((usage.memory_bytes, usage.disk_bytes), (0, 0));
    };
    let both = async { tokio::join!(write, leave) };
    let (kind, ()) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    assert_eq!(kind, FailureKind::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_dropped_early_does_not_hold_up_the_other() {
    let (here, there) = (Node::new(None, 1 << 16), Node::new(None, 1 << 16));
    let input = [rows(0, 100_000), rows(100_000, 20_000)];
    there.write(key(1, 0), vec![0, 1], &input, WritePartitioning::Identity).await.unwrap();
    let context = here.consumer(vec![there.producer(0, 0..2)]);
    let plan = read(numbered(0, 1).schema(), 2);
    let mut early = plan.execute(0, Arc::clone(&context)).unwrap();
    let stays = plan.execute(1, context).unwrap();
    early.next().await.unwrap().unwrap();
    drop(early);
    assert_eq!(numbers(&collect(stays).await), (100_000..120_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_fetch_ticket_of_the_cluster_is_served() {
    let there = Node::new(None, 1 << 20);
    there.write(key(1, 0), vec![0], &[rows(0, 1000)], WritePartitioning::Identity).await.unwrap();
    let fetch = Subject::Fetch(Fetch {
        query: key(1, 0).query,
        stage: StageId(1),
        outputs: vec![FetchOutput {
            task: key(1, 0).task,
            attempt: key(1, 0).attempt,
            partitions: vec![0],
        }],
    });
    let now = std::time::SystemTime::now();
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
        (forged.into(), Some(tonic::Code::Unauthenticated)),
        ("garbage".into(), Some(tonic::Code::Unauthenticated)),
        (ClusterKey::random().seal(&fetch, now, hour), Some(tonic::Code::Unauthenticated)),
        (cluster_key().seal(&fetch, now - 2 * hour, hour), Some(tonic::Code::NotFound)),
        (cluster_key().seal(&Subject::Result(key(1, 0).query), now, hour), Some(tonic::Code::InvalidArgument)),
        (cluster_key().seal(&nothing, now, hour), Some(tonic::Code::InvalidArgument)),
    ];
    let mut client = FlightServiceClient::connect(there.address.clone()).await.unwrap();
    for (ticket, code) in table {
        let answer = client.do_get(Ticket { ticket }).await;
        assert_eq!(answer.err().map(|status| status.code()), code);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_input_fails_the_writer() {
    let here = Node::new(None, 1 << 20);
    let schema = numbered(0, 1).schema();
    let text = col("text", &schema).unwrap();
    let not_a_number = datafusion::physical_expr::expressions::cast(text, &schema, arrow::datatypes::DataType::Int64);
    let partitioning = WritePartitioning::Hash {
        exprs: vec![not_a_number.unwrap()],
        partitions: 2,
    };
    let error = here.write(key(1, 0), vec![0], &[rows(0, 1000)], partitioning).await.unwrap_err();
    assert_eq!(kind(&error), FailureKind::Invalid);
}

#[test]
fn nodes_are_shown_in_one_line() {
    let schema = numbered(0, 1).schema();
    let read: Arc<dyn ExecutionPlan> = Arc::new(read(Arc::clone(&schema), 3));
    let write = ShuffleWriteExec::new(read, by_number(8), schema);
    assert_eq!(
        displayable(&write).indent(false).to_string(),
        "ShuffleWrite: hash([number@0], 8)\n  ShuffleRead: stage=1, partitions=3\n"
    );
}
