//! The control loop over a connection whose server is played by the test.

mod cancel;
mod release;
mod stall;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use datafusion::prelude::SessionContext;
use futures::StreamExt;
use squadron_proto::control::{Lane, OutputMode, PlanRef, Report};
use squadron_shuffle::{ShuffleWriteExec, WritePartitioning, fragment};
use tempfile::TempDir;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::testing::{Behaviour, QUERY, ROWS_PER_BATCH, engine, key, launch, stage, stage_of, streamed_launch};

const WORKER: WorkerId = WorkerId::from_u128(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// The server's end of one connection to a worker that runs in a task.
struct ServerEnd {
    to_worker: mpsc::Sender<Result<ServerMessage, String>>,
    from_worker: mpsc::Receiver<WorkerMessage>,
    leave: CancellationToken,
    worker: JoinSet<(Control, Disconnected)>,
}

impl ServerEnd {
    fn connect(mut control: Control) -> Self {
        let (to_worker, incoming) = mpsc::channel(64);
        let (outgoing, from_worker) = mpsc::channel(64);
        let leave = CancellationToken::new();
        let mut connection = Connection {
            incoming: ReceiverStream::new(incoming),
            outgoing,
            heartbeat: None,
            leave: leave.clone(),
        };
        let mut worker = JoinSet::new();
        worker.spawn(async move {
            let disconnected = control.serve(&mut connection).await;
            (control, disconnected)
        });
        Self {
            to_worker,
            from_worker,
            leave,
            worker,
        }
    }

    async fn send(&self, message: ServerMessage) {
        self.to_worker.send(Ok(message)).await.unwrap();
    }

    async fn announce(&self, behaviours: Vec<Behaviour>) {
        self.send(ServerMessage::Stage(stage(behaviours))).await;
    }

    async fn receive(&mut self) -> WorkerMessage {
        let message = tokio::time::timeout(PATIENCE, self.from_worker.recv());
        message.await.expect("the worker says something").expect("it is there")
    }

    async fn report(&mut self) -> Report {
        match self.receive().await {
            WorkerMessage::Report(report) => report,
            other => panic!("{other:?} instead of a report"),
        }
    }

    /// The next report's status; it must be about `task`.
    async fn status(&mut self, task: u32) -> AttemptStatus {
        let report = self.report().await;
        assert_eq!(report.attempt, key(task), "{:?}", report.status);
        report.status
    }

    async fn inventory_end(&mut self) {
        let message = self.receive().await;
        assert!(matches!(message, WorkerMessage::InventoryEnd), "{message:?}");
    }

    /// Launches an attempt and commits it.
    async fn start(&mut self, launch: Launch) {
        let key = launch.attempt;
        self.send(ServerMessage::Launch(launch)).await;
        assert_eq!(self.report().await.status, AttemptStatus::Reserved);
        self.send(ServerMessage::Commit(key)).await;
    }

    /// Breaks the connection.
    async fn disconnect(mut self) -> (Control, Disconnected) {
        drop(self.to_worker);
        self.worker.join_next().await.unwrap().unwrap()
    }

    async fn wait_for_end(mut self) -> Disconnected {
        let joined = tokio::time::timeout(PATIENCE, self.worker.join_next()).await;
        joined.expect("the worker leaves").unwrap().unwrap().1
    }
}

fn new_control() -> (TempDir, Control) {
    let (folder, engine) = engine();
    (folder, Control::new(engine, WORKER, 2, Delivery::Acknowledged))
}

fn connect_worker() -> (TempDir, Arc<Engine>, ServerEnd) {
    let (folder, control) = new_control();
    let engine = Arc::clone(&control.engine);
    (folder, engine, ServerEnd::connect(control))
}

fn release_all() -> ServerMessage {
    ServerMessage::Release(Release {
        query: QUERY,
        stages: vec![],
    })
}

fn expect_finished(status: AttemptStatus) -> squadron_proto::control::TaskOutput {
    match status {
        AttemptStatus::Finished(output) => output,
        other => panic!("{other:?} instead of finished"),
    }
}

fn expect_failed(status: AttemptStatus) -> Failure {
    match status {
        AttemptStatus::Failed(failure) => failure,
        other => panic!("{other:?} instead of failed"),
    }
}

#[tokio::test]
async fn attempt_finishes_with_sizes_and_metrics() {
    let (_folder, engine, mut server) = connect_worker();
    server
        .announce(vec![Behaviour::Batches(3), Behaviour::Batches(0)])
        .await;
    server.start(launch(0, 2)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    let output = expect_finished(server.status(0).await);
    let rows = 3 * ROWS_PER_BATCH as u64;
    assert_eq!(output.partitions.len(), 1, "only partitions with rows: {output:?}");
    assert_eq!(output.partitions[0].partition, 0);
    assert_eq!(output.partitions[0].rows, rows);
    assert_eq!(output.metrics.rows, rows);
    assert!(output.metrics.elapsed_us > 0);
    assert!(output.metrics.cpu_ns > 0);
    assert!(
        output.metrics.operators[0].operator.starts_with("ShuffleWrite"),
        "{output:?}"
    );
    assert!(
        output.metrics.operators[1].operator.starts_with("TestExec"),
        "{output:?}"
    );
    assert!(engine.store.contains(key(0)));
    server.send(release_all()).await;
    server.send(ServerMessage::Launch(launch(1, 2))).await;
    assert_eq!(server.status(1).await, AttemptStatus::Reserved);
    assert!(!engine.store.contains(key(0)));
}

#[tokio::test]
async fn launch_without_free_slots_is_refused() {
    let (_folder, _engine, mut server) = connect_worker();
    server.announce(vec![Behaviour::Hang]).await;
    server.start(launch(0, 2)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    server.send(ServerMessage::Launch(launch(1, 1))).await;
    let AttemptStatus::Refused { reason } = server.status(1).await else {
        panic!("two slots are taken of two");
    };
    assert!(reason.contains("2 slots"), "{reason}");
    server.send(ServerMessage::Cancel(key(0))).await;
    assert_eq!(server.status(0).await, AttemptStatus::Cancelled);
    server.send(ServerMessage::Launch(launch(1, 2))).await;
    assert_eq!(server.status(1).await, AttemptStatus::Reserved);
}

#[tokio::test]
async fn cancel_returns_slots_and_drops_output_in_every_state() {
    let (_folder, engine, mut server) = connect_worker();
    // Unknown: the worker reports nothing.
    server.send(ServerMessage::Cancel(key(0))).await;
    // Reserved.
    server.send(ServerMessage::Launch(launch(0, 2))).await;
    assert_eq!(server.status(0).await, AttemptStatus::Reserved);
    server.send(ServerMessage::Cancel(key(0))).await;
    assert_eq!(server.status(0).await, AttemptStatus::Cancelled);
    // Running, and producing.
    server.announce(vec![Behaviour::Trickle, Behaviour::Hang]).await;
    server.start(launch(1, 2)).await;
    assert_eq!(server.status(1).await, AttemptStatus::Running);
    server.send(ServerMessage::Cancel(key(1))).await;
    assert_eq!(server.status(1).await, AttemptStatus::Cancelled);
    // Finished: the worker reports nothing, and the output goes.
    server.announce(vec![Behaviour::Batches(1)]).await;
    server.start(launch(2, 2)).await;
    assert_eq!(server.status(2).await, AttemptStatus::Running);
    expect_finished(server.status(2).await);
    server.send(ServerMessage::Cancel(key(2))).await;
    server.send(ServerMessage::Launch(launch(3, 2))).await;
    assert_eq!(server.status(3).await, AttemptStatus::Reserved);
    assert_eq!(engine.store.usage().outputs, 0);
}

#[tokio::test]
async fn release_stops_all_attempts_of_query() {
    let (_folder, engine, mut server) = connect_worker();
    server.announce(vec![Behaviour::Trickle]).await;
    server.start(launch(0, 1)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    server.send(ServerMessage::Launch(launch(1, 1))).await;
    assert_eq!(server.status(1).await, AttemptStatus::Reserved);
    server.send(release_all()).await;
    assert_eq!(server.status(1).await, AttemptStatus::Cancelled);
    assert_eq!(server.status(0).await, AttemptStatus::Cancelled);
    assert!(!engine.store.contains(key(0)));
    assert_eq!(engine.store.usage().outputs, 0);
    let (control, _) = server.disconnect().await;
    assert!(control.registry.is_empty());
    assert!(control.stages.is_empty());
}

#[tokio::test]
async fn unannounced_stage_fails_its_attempt() {
    let (_folder, _engine, mut server) = connect_worker();
    server.start(launch(0, 2)).await;
    let failure = expect_failed(server.status(0).await);
    assert_eq!(failure.kind, FailureKind::Internal);
    assert!(failure.message.contains(&key(0).to_string()), "{failure}");
    server.send(ServerMessage::Launch(launch(1, 2))).await;
    assert_eq!(server.status(1).await, AttemptStatus::Reserved, "its slots are free");
}

#[tokio::test]
async fn commit_of_unknown_attempt_fails() {
    let (_folder, _engine, mut server) = connect_worker();
    server.send(ServerMessage::Commit(key(0))).await;
    assert_eq!(expect_failed(server.status(0).await).kind, FailureKind::WorkerLost);
}

#[tokio::test]
async fn undecodable_plan_fails_its_attempt() {
    let (_folder, _engine, mut server) = connect_worker();
    let garbage = PlanRef::Encoded(vec![0xff; 64].into());
    server.send(ServerMessage::Stage(stage_of(garbage))).await;
    server.start(launch(0, 1)).await;
    expect_failed(server.status(0).await);
}

#[tokio::test]
async fn in_process_plan_runs_once() {
    let (_folder, _engine, mut server) = connect_worker();
    server.announce(vec![Behaviour::Batches(1)]).await;
    server.start(launch(0, 1)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    expect_finished(server.status(0).await);
    server.start(launch(1, 1)).await;
    assert_eq!(expect_failed(server.status(1).await).kind, FailureKind::Internal);
}

#[tokio::test]
async fn plan_panic_fails_its_attempt_only() {
    let (_folder, _engine, mut server) = connect_worker();
    server.announce(vec![Behaviour::Hang, Behaviour::Panic]).await;
    server.start(launch(0, 2)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    let failure = expect_failed(server.status(0).await);
    assert_eq!(failure.kind, FailureKind::Internal);
    assert!(failure.message.contains(&key(0).to_string()), "{failure}");
    assert!(failure.message.contains("told to panic"), "{failure}");
    server.announce(vec![Behaviour::Batches(1)]).await;
    server.start(launch(1, 2)).await;
    assert_eq!(server.status(1).await, AttemptStatus::Running);
    expect_finished(server.status(1).await);
}

#[tokio::test]
async fn partition_error_stops_the_others() {
    let (_folder, engine, mut server) = connect_worker();
    server
        .announce(vec![Behaviour::Trickle, Behaviour::Hang, Behaviour::Fail])
        .await;
    server.start(launch(0, 2)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    let failure = expect_failed(server.status(0).await);
    assert_eq!(failure.kind, FailureKind::Invalid);
    assert!(failure.message.contains("told to fail"), "{failure}");
    let mut rows = engine.store.read(key(0), 0).unwrap();
    let last = loop {
        match rows.next().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    assert_eq!(last.unwrap().unwrap_err(), failure, "a reader learns why");
}

#[tokio::test]
async fn streamed_attempt_parks_until_read() {
    let (_folder, engine, mut server) = connect_worker();
    server.announce(vec![Behaviour::Batches(100)]).await;
    server.start(streamed_launch(0, 2)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    assert_eq!(server.status(0).await, AttemptStatus::Parked);
    server.send(ServerMessage::Launch(launch(1, 2))).await;
    assert_eq!(server.status(1).await, AttemptStatus::Reserved, "its slots are free");
    let mut rows = engine.store.read(key(0), 0).unwrap();
    let mut count = 0;
    while let Some(batch) = rows.next().await {
        count += batch.unwrap().num_rows();
    }
    assert_eq!(count, 100 * ROWS_PER_BATCH);
    let mut status = server.status(0).await;
    if status == AttemptStatus::Resumed {
        status = server.status(0).await;
    }
    assert_eq!(expect_finished(status).metrics.rows, count as u64);
}

#[tokio::test]
async fn encoded_plan_is_sliced_per_attempt() {
    let (_folder, _engine, mut server) = connect_worker();
    let context = SessionContext::new();
    let sql = "SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3";
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let partitions = plan.properties().partitioning.partition_count();
    assert_eq!(partitions, 3, "one per branch");
    let schema = plan.schema();
    let plan = ShuffleWriteExec::new(plan, WritePartitioning::Identity, schema);
    let bytes = fragment::encode(Arc::new(plan)).unwrap();
    server
        .send(ServerMessage::Stage(stage_of(PlanRef::Encoded(bytes))))
        .await;
    for (task, partitions) in [(0, vec![0, 2]), (1, vec![1]), (2, vec![])] {
        let expected = if partitions.is_empty() {
            vec![0, 1, 2]
        } else {
            partitions.clone()
        };
        server
            .start(Launch {
                partitions,
                ..launch(task, 1)
            })
            .await;
        assert_eq!(server.status(task).await, AttemptStatus::Running);
        let output = expect_finished(server.status(task).await);
        let written: Vec<_> = output.partitions.iter().map(|part| part.partition).collect();
        assert_eq!(written, expected);
        assert!(output.partitions.iter().all(|part| part.rows == 1), "{output:?}");
    }
}

#[tokio::test]
async fn reconnect_resends_unacknowledged_reports() {
    let (_folder, _engine, mut server) = connect_worker();
    server.announce(vec![Behaviour::Batches(1)]).await;
    server.start(launch(0, 1)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    let last = server.report().await;
    assert_eq!(last.sequence, 3);
    server.send(ServerMessage::Acknowledge(1)).await;
    // An answer after the acknowledgement shows that it was read.
    server.send(ServerMessage::Launch(launch(5, 1))).await;
    let reserved = server.report().await;

    let (mut control, disconnected) = server.disconnect().await;
    assert!(matches!(disconnected, Disconnected::Lost(_)));
    control.reconnect();
    let mut server = ServerEnd::connect(control);

    let running = server.report().await;
    assert_eq!((running.sequence, running.status), (2, AttemptStatus::Running));
    assert_eq!(server.report().await, last);
    assert_eq!(server.report().await, reserved);
    server.inventory_end().await;
    server.send(ServerMessage::Acknowledge(reserved.sequence)).await;
    server.send(release_all()).await;
    assert_eq!(server.status(5).await, AttemptStatus::Cancelled);
}

#[tokio::test]
async fn reconnect_reports_all_held_attempts() {
    let (_folder, _engine, mut server) = connect_worker();
    server.announce(vec![Behaviour::Batches(1)]).await;
    server.start(launch(0, 1)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    let last = server.report().await;
    server.send(ServerMessage::Acknowledge(last.sequence)).await;
    server.announce(vec![Behaviour::Hang]).await;
    server.start(launch(1, 1)).await;
    let running = server.report().await;
    server.send(ServerMessage::Acknowledge(running.sequence)).await;

    let (mut control, _) = server.disconnect().await;
    control.reconnect();
    let mut server = ServerEnd::connect(control);

    let mut sizes = expect_finished(server.status(0).await).partitions;
    assert_eq!(sizes.pop(), expect_finished(last.status).partitions.pop());
    assert_eq!(server.status(1).await, AttemptStatus::Running);
    server.inventory_end().await;
    server.send(release_all()).await;
    assert_eq!(server.status(1).await, AttemptStatus::Cancelled);
}

/// The server has kept its slots for it.
#[tokio::test]
async fn attempts_keep_their_slots_over_a_reconnect() {
    let (_folder, _engine, mut server) = connect_worker();
    server.announce(vec![Behaviour::Hang]).await;
    server.start(launch(0, 2)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    let (mut control, _) = server.disconnect().await;
    control.reconnect();
    let mut server = ServerEnd::connect(control);
    while !matches!(server.receive().await, WorkerMessage::InventoryEnd) {}
    server.send(ServerMessage::Launch(launch(1, 1))).await;
    assert!(matches!(server.status(1).await, AttemptStatus::Refused { .. }));
    server.send(ServerMessage::Commit(key(0))).await;
    server.send(ServerMessage::Cancel(key(0))).await;
    assert_eq!(
        server.status(0).await,
        AttemptStatus::Cancelled,
        "the second commit ran nothing"
    );
}

#[tokio::test]
async fn lost_server_releases_everything_held() {
    let (_folder, engine, mut server) = connect_worker();
    server.announce(vec![Behaviour::Batches(1)]).await;
    server.start(launch(0, 1)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    expect_finished(server.status(0).await);
    server.announce(vec![Behaviour::Trickle]).await;
    server.start(launch(1, 1)).await;
    assert_eq!(server.status(1).await, AttemptStatus::Running);

    let (mut control, _) = server.disconnect().await;
    let emptied = async {
        while engine.store.usage().outputs > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        never = control.offline(Duration::from_millis(20)) => match never {},
        emptied = tokio::time::timeout(PATIENCE, emptied) => emptied.unwrap(),
    }
    control.stop().await;
    assert!(control.registry.is_empty());
    assert!(control.stages.is_empty());
    assert_eq!(engine.memory_used_bytes(), 0);
}

#[tokio::test]
async fn leaving_worker_refuses_launches_and_ends() {
    let (_folder, _engine, mut server) = connect_worker();
    server.announce(vec![Behaviour::Batches(1)]).await;
    server.start(launch(0, 1)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    expect_finished(server.status(0).await);
    server.leave.cancel();
    assert!(matches!(server.receive().await, WorkerMessage::Leaving));
    server.send(ServerMessage::Launch(launch(1, 1))).await;
    let refused = server.report().await;
    assert!(matches!(refused.status, AttemptStatus::Refused { .. }));
    server.send(ServerMessage::Acknowledge(refused.sequence)).await;
    server.send(release_all()).await;
    assert_eq!(server.wait_for_end().await, Disconnected::Left);
}

#[tokio::test]
async fn drain_message_makes_worker_leave() {
    let (_folder, _engine, mut server) = connect_worker();
    server.send(ServerMessage::Drain).await;
    assert!(matches!(server.receive().await, WorkerMessage::Leaving));
    assert_eq!(server.wait_for_end().await, Disconnected::Left);
}

#[tokio::test]
async fn slow_server_does_not_block_worker() {
    let (_folder, _engine, mut server) = connect_worker();
    for task in 0..200 {
        server.send(ServerMessage::Commit(key(task))).await;
    }
    for task in 0..200 {
        expect_failed(server.status(task).await);
    }
}

#[tokio::test]
async fn slots_survive_failures_and_cancels() {
    let (_folder, engine, mut server) = connect_worker();
    for round in 0..40 {
        let behaviour = [
            Behaviour::Trickle,
            Behaviour::Panic,
            Behaviour::Fail,
            Behaviour::Batches(2),
        ];
        server.announce(vec![behaviour[round % 4]; 2]).await;
        server.start(launch(round as u32, 2)).await;
        if round % 3 == 0 {
            server.send(ServerMessage::Cancel(key(round as u32))).await;
        }
        if round % 4 == 0 {
            server.send(release_all()).await;
        }
        loop {
            match server.status(round as u32).await {
                AttemptStatus::Running => {}
                AttemptStatus::Finished(_) | AttemptStatus::Failed(_) | AttemptStatus::Cancelled => break,
                other => panic!("{other:?}"),
            }
        }
    }
    server.send(release_all()).await;
    let (mut control, _) = server.disconnect().await;
    assert!(control.registry.is_empty());
    while control.running.join_next().await.is_some() {}
    assert_eq!(engine.store.usage().outputs, 0);
    assert_eq!(engine.memory_used_bytes(), 0);
}

#[tokio::test]
async fn embedded_worker_ends_with_its_channel() {
    let (_folder, engine) = engine();
    let mut worker = crate::embedded(Arc::clone(&engine), WORKER, 2);
    worker
        .to_worker
        .send(ServerMessage::Stage(stage(vec![Behaviour::Trickle])))
        .await
        .unwrap();
    let launch = Launch {
        output: OutputMode::Retained,
        ..launch(0, 1)
    };
    worker.to_worker.send(ServerMessage::Launch(launch)).await.unwrap();
    worker.to_worker.send(ServerMessage::Commit(key(0))).await.unwrap();
    for expected in [AttemptStatus::Reserved, AttemptStatus::Running] {
        let report = loop {
            match worker.from_worker.recv().await {
                Some(WorkerMessage::Report(report)) => break report,
                Some(WorkerMessage::Heartbeat(_)) => {}
                other => panic!("{other:?} instead of a report"),
            }
        };
        assert_eq!(report.status, expected);
    }
    drop(worker.to_worker);
    let ended = tokio::time::timeout(PATIENCE, worker.task.join_next()).await;
    ended.expect("it ends").unwrap().unwrap();
    assert_eq!(engine.store.usage().outputs, 0);
}

/// Every thread of the long lane is busy inside a poll that does not end.
#[tokio::test]
async fn short_attempt_runs_beside_long_lane() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let (_folder, _engine, mut server) = connect_worker();
    server
        .announce(vec![Behaviour::Spin(&STOP), Behaviour::Spin(&STOP)])
        .await;
    server
        .start(Launch {
            lane: Lane::Long,
            ..launch(0, 2)
        })
        .await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    server
        .announce(vec![Behaviour::Batches(1), Behaviour::Batches(1)])
        .await;
    server.start(launch(1, 2)).await;
    assert_eq!(server.status(1).await, AttemptStatus::Running);
    assert_eq!(
        expect_finished(server.status(1).await).metrics.rows,
        2 * ROWS_PER_BATCH as u64
    );
    STOP.store(true, Ordering::Relaxed);
    expect_finished(server.status(0).await);
}
