//! Processes of a small cluster, and helpers for the rows of its tests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::Partitioning;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use futures::{StreamExt, TryStreamExt};
use squadron_proto::control::{OutputMode, Producer, Release, StageInput};
use squadron_proto::ticket::ClusterKey;
use squadron_proto::{AttemptKey, FailureKind, StageId};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;

use crate::testing::{TestStore, key, number_rows, store};
use crate::{
    AttemptContext, DataService, FetchOptions, Fetcher, ShuffleReadExec, ShuffleWriteExec, WritePartitioning, Written,
    failure, serve,
};

/// A process of the cluster: a store, its Flight server on a runtime of its own, and a fetcher.
pub(super) struct Node {
    pub(super) test: TestStore,
    pub(super) address: String,
    fetcher: Fetcher,
    server: Option<Runtime>,
}

pub(super) fn cluster_key() -> ClusterKey {
    ClusterKey::from_secret("test")
}

impl Node {
    /// A process with a memory pool of `pool_bytes`, none for no limit, and a fetch budget of `budget_bytes`.
    pub(super) fn new(pool_bytes: Option<usize>, budget_bytes: usize) -> Self {
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

    /// Stops the server like kill -9: connections break, and the port does not answer.
    pub(super) fn die(&mut self) {
        if let Some(runtime) = self.server.take() {
            runtime.shutdown_background();
        }
    }

    fn context(&self, attempt: AttemptContext) -> Arc<TaskContext> {
        let config = SessionConfig::new().with_extension(Arc::new(attempt));
        Arc::new(TaskContext::default().with_session_config(config))
    }

    /// Runs a stage on this node: `input` has the batches of each of its partitions.
    pub(super) async fn write(
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

    /// The context of a consumer on this node, whose stage 2 reads stage 1.
    pub(super) fn consumer(&self, producers: Vec<Producer>) -> Arc<TaskContext> {
        let key = key(2, 0);
        drop(self.test.store.take(&Release {
            query: key.query,
            stages: vec![key.stage],
        }));
        let schema = number_rows(0, 1).schema();
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

    pub(super) fn producer(&self, task: u32, partitions: impl IntoIterator<Item = u32>) -> Producer {
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

pub(super) fn scan(input: &[Vec<RecordBatch>]) -> Arc<dyn ExecutionPlan> {
    let schema = input[0][0].schema();
    MemorySourceConfig::try_new_exec(input, schema, None).unwrap()
}

pub(super) fn by_number(partitions: usize) -> WritePartitioning {
    let schema = number_rows(0, 1).schema();
    WritePartitioning::Hash {
        exprs: vec![col("number", &schema).unwrap()],
        partitions,
    }
}

pub(super) fn read(schema: SchemaRef, partitions: usize) -> ShuffleReadExec {
    let partitioning = Partitioning::UnknownPartitioning(partitions);
    ShuffleReadExec::new(StageId(1), schema, partitioning, None)
}

/// Batches of 1000 rows, `rows` in all, numbered from `start`.
pub(super) fn rows(start: i64, rows: i64) -> Vec<RecordBatch> {
    let starts = (start..start + rows).step_by(1000);
    starts.map(|start| number_rows(start, 1000)).collect()
}

pub(super) async fn collect(stream: SendableRecordBatchStream) -> Vec<RecordBatch> {
    stream.try_collect().await.unwrap()
}

pub(super) async fn collect_all(plan: &dyn ExecutionPlan, context: &Arc<TaskContext>) -> Vec<Vec<RecordBatch>> {
    let partitions = plan.properties().output_partitioning().partition_count();
    let streams = (0..partitions).map(|p| plan.execute(p, Arc::clone(context)).unwrap());
    futures::future::join_all(streams.map(collect)).await
}

pub(super) fn sort(mut numbers: Vec<i64>) -> Vec<i64> {
    numbers.sort_unstable();
    numbers
}

pub(super) fn kind(error: &DataFusionError) -> FailureKind {
    failure::of(error).kind
}

/// Waits until `holds`, for 20 seconds at most.
pub(super) async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    assert!(waited.is_ok(), "{what}");
}
