//! What a server sends to a worker: stages with encoded plans, launches, releases.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::ExecutionPlan;
use prost::Message;
use squadron_proto::control::{Lane, Launch, OutputMode, PlanRef, Release, ServerMessage, Stage};
use squadron_proto::ticket::ClusterKey;
use squadron_proto::wire::control as wire;
use squadron_proto::{AttemptKey, AttemptNumber, QueryId, StageId, TaskId, WorkerId};
use squadron_shuffle::{ShuffleWriteExec, WritePartitioning, fragment};
use squadron_worker::{Engine, WorkerOptions, embedded};

use super::frames;
use super::server::Server;

/// How many messages of one input are sent.
const MOST: usize = 16;

fn engine(server: &Server) -> Arc<Engine> {
    let start = || {
        let _runtime = server.runtime().enter();
        let options = WorkerOptions {
            slots: 1,
            memory_bytes: 64 * 1024 * 1024,
            max_value_bytes: 1024 * 1024,
            spill_dir: Some(server.folder().join("worker")),
            watches_memory: false,
            ..WorkerOptions::default()
        };
        Engine::new(&options, ClusterKey::from_secret("a worker's"), None).expect("it starts")
    };
    Arc::clone(server.engine.get_or_init(start))
}

pub(super) fn judge(bytes: &[u8]) -> Result<(), String> {
    let messages = frames::split::<wire::ServerMessage>(bytes, MOST).into_iter();
    let messages: Vec<_> = messages
        .filter_map(|message| ServerMessage::try_from(message).ok())
        .collect();
    let server = Server::get();
    let engine = engine(&server);
    server.run(async move {
        let mut worker = embedded(engine, WorkerId::new(), 1);
        for message in messages {
            drop(worker.to_worker.send(message).await);
        }
        // It stops what runs, says so, and ends.
        drop(worker.to_worker);
        while worker.from_worker.recv().await.is_some() {}
        match worker.task.join_next().await {
            Some(Err(error)) => Err(format!("the worker ended: {error}")),
            Some(Ok(())) | None => Ok(()),
        }
    })
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let query = QueryId::from_u128(7);
    let attempt = AttemptKey {
        query,
        stage: StageId(0),
        task: TaskId(0),
        attempt: AttemptNumber(0),
    };
    let stage = ServerMessage::Stage(Stage {
        query,
        stage: StageId(0),
        plan: PlanRef::Encoded(fragment::encode(plan(frames::batch())).expect("it can be encoded")),
        settings: vec![("datafusion.execution.batch_size".into(), "100".into())],
        stores: vec![],
        reserved_bytes: 0,
    });
    let launch = ServerMessage::Launch(Launch {
        attempt,
        slots: 1,
        lane: Lane::Short,
        partitions: vec![],
        scans: vec![],
        inputs: vec![].into(),
        output: OutputMode::Retained,
    });
    let release = ServerMessage::Release(Release { query, stages: vec![] });
    let conversation = [
        stage,
        launch,
        ServerMessage::Commit(attempt),
        release,
        ServerMessage::Drain,
    ];
    let messages = conversation.map(|message| wire::ServerMessage::try_from(message).expect("it can be sent"));
    vec![
        messages
            .iter()
            .flat_map(Message::encode_length_delimited_to_vec)
            .collect(),
    ]
}

/// A stage that writes the rows of `batch`.
fn plan(batch: RecordBatch) -> Arc<dyn ExecutionPlan> {
    let schema = batch.schema();
    let rows = MemorySourceConfig::try_new_exec(&[vec![batch]], Arc::clone(&schema), None);
    let rows = rows.expect("rows of one schema");
    Arc::new(ShuffleWriteExec::new(rows, WritePartitioning::Identity, schema))
}
