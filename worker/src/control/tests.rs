mod cancel;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use datafusion::prelude::SessionContext;
use futures::StreamExt;
use squadron_proto::control::{Lane, OutputMode, PlanRef, Report};
use squadron_shuffle::{ShuffleWriteExec, WritePartitioning, fragment};
use tempfile::TempDir;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::testing::{Behaviour, QUERY, ROWS_PER_BATCH, announced, engine, key, launch, stage, streamed};

const WORKER: WorkerId = WorkerId::from_u128(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// The server's end of one connection to a worker that runs in a task.
struct Line {
    to_worker: mpsc::Sender<Result<ServerMessage, String>>,
    from_worker: mpsc::Receiver<WorkerMessage>,
    leave: CancellationToken,
    worker: JoinSet<(Control, Over)>,
}

impl Line {
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
            let over = control.serve(&mut connection).await;
            (control, over)
        });
        Self {
            to_worker,
            from_worker,
            leave,
            worker,
        }
    }

    async fn say(&self, message: ServerMessage) {
        self.to_worker.send(Ok(message)).await.unwrap();
    }

    async fn announce(&self, behaviours: Vec<Behaviour>) {
        self.say(ServerMessage::Stage(stage(behaviours))).await;
    }

    async fn hear(&mut self) -> WorkerMessage {
        let message = tokio::time::timeout(PATIENCE, self.from_worker.recv());
        message.await.expect("the worker says something").expect("it is there")
    }

    async fn report(&mut self) -> Report {
        match self.hear().await {
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

    /// From launch to commit.
    async fn start(&mut self, launch: Launch) {
        let key = launch.attempt;
        self.say(ServerMessage::Launch(launch)).await;
        assert_eq!(self.report().await.status, AttemptStatus::Reserved);
        self.say(ServerMessage::Commit(key)).await;
    }

    /// The connection breaks.
    async fn cut(mut self) -> (Control, Over) {
        drop(self.to_worker);
        self.worker.join_next().await.unwrap().unwrap()
    }

    async fn over(mut self) -> Over {
        let joined = tokio::time::timeout(PATIENCE, self.worker.join_next()).await;
        joined.expect("the worker leaves").unwrap().unwrap().1
    }
}

fn worker() -> (TempDir, Control) {
    let (folder, engine) = engine();
    (folder, Control::new(engine, WORKER, 2, Delivery::Acknowledged))
}

fn line() -> (TempDir, Arc<Engine>, Line) {
    let (folder, control) = worker();
    let engine = Arc::clone(&control.engine);
    (folder, engine, Line::connect(control))
}

fn everything() -> ServerMessage {
    ServerMessage::Release(Release {
        query: QUERY,
        stages: vec![],
    })
}

fn finished(status: AttemptStatus) -> squadron_proto::control::TaskOutput {
    match status {
        AttemptStatus::Finished(output) => output,
        other => panic!("{other:?} instead of finished"),
    }
}

fn failed(status: AttemptStatus) -> Failure {
    match status {
        AttemptStatus::Failed(failure) => failure,
        other => panic!("{other:?} instead of failed"),
    }
}

#[tokio::test]
async fn an_attempt_is_reserved_runs_and_finishes_with_sizes_and_metrics() {
    let (_folder, engine, mut line) = line();
    line.announce(vec![Behaviour::Batches(3), Behaviour::Batches(0)]).await;
    line.start(launch(0, 2)).await;
    assert_eq!(line.status(0).await, AttemptStatus::Running);
    let output = finished(line.status(0).await);
    let rows = 3 * ROWS_PER_BATCH as u64;
    assert_eq!(output.partitions.len(), 1, "only partitions with rows: {output:?}");
    assert_eq!(output.partitions[0].partition, 0);
    assert_eq!(output.partitions[0].rows, rows);
    assert_eq!(output.metrics.rows, rows);
    assert!(output.metrics.elapsed_us > 0);
    assert!(output.metrics.cpu_ns > 0);
    assert!(output.metrics.operators[0].starts_with("ShuffleWrite"), "{output:?}");
    assert!(output.metrics.operators[1].starts_with("  TestExec"), "{output:?}");
    assert!(engine.store.contains(key(0)));
    line.say(everything()).await;
    line.say(ServerMessage::Launch(launch(1, 2))).await;
    assert_eq!(line.status(1).await, AttemptStatus::Reserved);
    assert!(!engine.store.contains(key(0)));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_nothing_changes() {
    let (_folder, _engine, mut line) = line();
    line.announce(vec![Behaviour::Hang]).await;
    line.start(launch(0, 2)).await;
    assert_eq!(line.status(0).await, AttemptStatus::Running);
    line.say(ServerMessage::Launch(launch(1, 1))).await;
    let AttemptStatus::Refused { reason } = line.status(1).await else {
        panic!("two slots are taken of two");
    };
    assert!(reason.contains("2 slots"), "{reason}");
    line.say(ServerMessage::Cancel(key(0))).await;
    assert_eq!(line.status(0).await, AttemptStatus::Cancelled);
    line.say(ServerMessage::Launch(launch(1, 2))).await;
    assert_eq!(line.status(1).await, AttemptStatus::Reserved);
}

#[tokio::test]
async fn a_cancel_ends_an_attempt_in_every_state_and_gives_its_slots_back() {
    let (_folder, engine, mut line) = line();
    // Unknown: nothing is said.
    line.say(ServerMessage::Cancel(key(0))).await;
    // Reserved.
    line.say(ServerMessage::Launch(launch(0, 2))).await;
    assert_eq!(line.status(0).await, AttemptStatus::Reserved);
    line.say(ServerMessage::Cancel(key(0))).await;
    assert_eq!(line.status(0).await, AttemptStatus::Cancelled);
    // Running, and producing.
    line.announce(vec![Behaviour::Trickle, Behaviour::Hang]).await;
    line.start(launch(1, 2)).await;
    assert_eq!(line.status(1).await, AttemptStatus::Running);
    line.say(ServerMessage::Cancel(key(1))).await;
    assert_eq!(line.status(1).await, AttemptStatus::Cancelled);
    // Finished: nothing is said, the output stays.
    line.announce(vec![Behaviour::Batches(1)]).await;
    line.start(launch(2, 2)).await;
    assert_eq!(line.status(2).await, AttemptStatus::Running);
    finished(line.status(2).await);
    line.say(ServerMessage::Cancel(key(2))).await;
    line.say(ServerMessage::Launch(launch(3, 2))).await;
    assert_eq!(line.status(3).await, AttemptStatus::Reserved);
    assert!(engine.store.contains(key(2)));
}

#[tokio::test]
async fn a_release_of_the_query_stops_its_attempts_and_leaves_nothing() {
    let (_folder, engine, mut line) = line();
    line.announce(vec![Behaviour::Trickle]).await;
    line.start(launch(0, 1)).await;
    assert_eq!(line.status(0).await, AttemptStatus::Running);
    line.say(ServerMessage::Launch(launch(1, 1))).await;
    assert_eq!(line.status(1).await, AttemptStatus::Reserved);
    line.say(everything()).await;
    assert_eq!(line.status(1).await, AttemptStatus::Cancelled);
    assert_eq!(line.status(0).await, AttemptStatus::Cancelled);
    assert!(!engine.store.contains(key(0)));
    assert_eq!(engine.store.usage().outputs, 0);
    let (control, _) = line.cut().await;
    assert!(control.registry.is_empty());
    assert!(control.stages.is_empty());
}

#[tokio::test]
async fn a_stage_that_was_not_announced_fails_the_attempt() {
    let (_folder, _engine, mut line) = line();
    line.start(launch(0, 2)).await;
    let failure = failed(line.status(0).await);
    assert_eq!(failure.kind, FailureKind::Internal);
    assert!(failure.message.contains(&key(0).to_string()), "{failure}");
    line.say(ServerMessage::Launch(launch(1, 2))).await;
    assert_eq!(line.status(1).await, AttemptStatus::Reserved, "its slots are free");
}

#[tokio::test]
async fn a_commit_of_an_attempt_that_is_not_held_is_answered() {
    let (_folder, _engine, mut line) = line();
    line.say(ServerMessage::Commit(key(0))).await;
    assert_eq!(failed(line.status(0).await).kind, FailureKind::WorkerLost);
}

#[tokio::test]
async fn a_plan_that_cannot_be_decoded_fails_the_attempt() {
    let (_folder, _engine, mut line) = line();
    let garbage = PlanRef::Encoded(vec![0xff; 64].into());
    line.say(ServerMessage::Stage(announced(garbage))).await;
    line.start(launch(0, 1)).await;
    failed(line.status(0).await);
}

#[tokio::test]
async fn an_in_process_plan_runs_once() {
    let (_folder, _engine, mut line) = line();
    line.announce(vec![Behaviour::Batches(1)]).await;
    line.start(launch(0, 1)).await;
    assert_eq!(line.status(0).await, AttemptStatus::Running);
    finished(line.status(0).await);
    line.start(launch(1, 1)).await;
    assert_eq!(failed(line.status(1).await).kind, FailureKind::Internal);
}

#[tokio::test]
async fn a_panic_in_a_plan_is_an_internal_failure_and_the_worker_goes_on() {
    let (_folder, _engine, mut line) = line();
    line.announce(vec![Behaviour::Hang, Behaviour::Panic]).await;
    line.start(launch(0, 2)).await;
    assert_eq!(line.status(0).await, AttemptStatus::Running);
    let failure = failed(line.status(0).await);
    assert_eq!(failure.kind, FailureKind::Internal);
    assert!(failure.message.contains(&key(0).to_string()), "{failure}");
    assert!(failure.message.contains("told to panic"), "{failure}");
    line.announce(vec![Behaviour::Batches(1)]).await;
    line.start(launch(1, 2)).await;
    assert_eq!(line.status(1).await, AttemptStatus::Running);
    finished(line.status(1).await);
}

#[tokio::test]
async fn an_error_of_one_partition_stops_the_others_and_names_the_cause() {
    let (_folder, engine, mut line) = line();
    line.announce(vec![Behaviour::Trickle, Behaviour::Hang, Behaviour::Fail])
        .await;
    line.start(launch(0, 2)).await;
    assert_eq!(line.status(0).await, AttemptStatus::Running);
    let failure = failed(line.status(0).await);
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
async fn a_streamed_attempt_parks_while_nobody_reads_and_resumes() {
    let (_folder, engine, mut line) = line();
    line.announce(vec![Behaviour::Batches(100)]).await;
    line.start(streamed(0, 2)).await;
    assert_eq!(line.status(0).await, AttemptStatus::Running);
    assert_eq!(line.status(0).await, AttemptStatus::Parked);
    line.say(ServerMessage::Launch(launch(1, 2))).await;
    assert_eq!(line.status(1).await, AttemptStatus::Reserved, "its slots are free");
    let mut rows = engine.store.read(key(0), 0).unwrap();
    let mut count = 0;
    while let Some(batch) = rows.next().await {
        count += batch.unwrap().num_rows();
    }
    assert_eq!(count, 100 * ROWS_PER_BATCH);
    let mut status = line.status(0).await;
    if status == AttemptStatus::Resumed {
        status = line.status(0).await;
    }
    assert_eq!(finished(status).metrics.rows, count as u64);
}

#[tokio::test]
async fn an_encoded_plan_is_decoded_by_each_attempt_and_cut_to_its_partitions() {
    let (_folder, _engine, mut line) = line();
    let context = SessionContext::new();
    let sql = "SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3";
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let partitions = plan.properties().partitioning.partition_count();
    assert_eq!(partitions, 3, "one per branch");
    let schema = plan.schema();
    let plan = ShuffleWriteExec::new(plan, WritePartitioning::Identity, schema);
    let bytes = fragment::encode(Arc::new(plan)).unwrap();
    line.say(ServerMessage::Stage(announced(PlanRef::Encoded(bytes)))).await;
    for (task, partitions) in [(0, vec![0, 2]), (1, vec![1]), (2, vec![])] {
        let expected = if partitions.is_empty() {
            vec![0, 1, 2]
        } else {
            partitions.clone()
        };
        line.start(Launch {
            partitions,
            ..launch(task, 1)
        })
        .await;
        assert_eq!(line.status(task).await, AttemptStatus::Running);
        let output = finished(line.status(task).await);
        let written: Vec<_> = output.partitions.iter().map(|part| part.partition).collect();
        assert_eq!(written, expected);
        assert!(output.partitions.iter().all(|part| part.rows == 1), "{output:?}");
    }
}

#[tokio::test]
async fn reports_not_acknowledged_come_again_with_their_numbers_after_a_reconnect() {
    let (_folder, _engine, mut line) = line();
    line.announce(vec![Behaviour::Batches(1)]).await;
    line.start(launch(0, 1)).await;
    assert_eq!(line.status(0).await, AttemptStatus::Running);
    let last = line.report().await;
    assert_eq!(last.sequence, 3);
    line.say(ServerMessage::Acknowledge(1)).await;
    // An answer after the acknowledgement shows that it was read.
    line.say(ServerMessage::Launch(launch(5, 1))).await;
    let reserved = line.report().await;

    let (mut control, over) = line.cut().await;
    assert!(matches!(over, Over::Lost(_)));
    control.reconnect();
    let mut line = Line::connect(control);

    let running = line.report().await;
    assert_eq!((running.sequence, running.status), (2, AttemptStatus::Running));
    assert_eq!(line.report().await, last);
    assert_eq!(line.report().await, reserved);
    line.say(ServerMessage::Acknowledge(reserved.sequence)).await;
    line.say(everything()).await;
    assert_eq!(line.status(5).await, AttemptStatus::Cancelled);
}

#[tokio::test]
async fn what_is_held_is_told_to_a_server_that_may_not_know_it() {
    let (_folder, _engine, mut line) = line();
    line.announce(vec![Behaviour::Batches(1)]).await;
    line.start(launch(0, 1)).await;
    assert_eq!(line.status(0).await, AttemptStatus::Running);
    let last = line.report().await;
    line.say(ServerMessage::Acknowledge(last.sequence)).await;
    line.announce(vec![Behaviour::Hang]).await;
    line.start(launch(1, 1)).await;
    let running = line.report().await;
    line.say(ServerMessage::Acknowledge(running.sequence)).await;

    let (mut control, _) = line.cut().await;
    control.reconnect();
    let mut line = Line::connect(control);

    let mut sizes = finished(line.status(0).await).partitions;
    assert_eq!(sizes.pop(), finished(last.status).partitions.pop());
    assert_eq!(line.status(1).await, AttemptStatus::Running);
    line.say(everything()).await;
    assert_eq!(line.status(1).await, AttemptStatus::Cancelled);
}

#[tokio::test]
async fn when_the_server_stays_away_everything_is_dropped() {
    let (_folder, engine, mut line) = line();
    line.announce(vec![Behaviour::Batches(1)]).await;
    line.start(launch(0, 1)).await;
    assert_eq!(line.status(0).await, AttemptStatus::Running);
    finished(line.status(0).await);
    line.announce(vec![Behaviour::Trickle]).await;
    line.start(launch(1, 1)).await;
    assert_eq!(line.status(1).await, AttemptStatus::Running);

    let (mut control, _) = line.cut().await;
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
async fn a_worker_that_leaves_refuses_new_work_and_goes_when_all_is_done() {
    let (_folder, _engine, mut line) = line();
    line.announce(vec![Behaviour::Batches(1)]).await;
    line.start(launch(0, 1)).await;
    assert_eq!(line.status(0).await, AttemptStatus::Running);
    finished(line.status(0).await);
    line.leave.cancel();
    assert!(matches!(line.hear().await, WorkerMessage::Leaving));
    line.say(ServerMessage::Launch(launch(1, 1))).await;
    let refused = line.report().await;
    assert!(matches!(refused.status, AttemptStatus::Refused { .. }));
    line.say(ServerMessage::Acknowledge(refused.sequence)).await;
    line.say(everything()).await;
    assert_eq!(line.over().await, Over::Left);
}

#[tokio::test]
async fn a_drain_of_the_server_is_a_leave() {
    let (_folder, _engine, mut line) = line();
    line.say(ServerMessage::Drain).await;
    assert!(matches!(line.hear().await, WorkerMessage::Leaving));
    assert_eq!(line.over().await, Over::Left);
}

#[tokio::test]
async fn a_server_that_does_not_listen_does_not_stop_the_worker_from_listening() {
    let (_folder, _engine, mut line) = line();
    for task in 0..200 {
        line.say(ServerMessage::Commit(key(task))).await;
    }
    for task in 0..200 {
        failed(line.status(task).await);
    }
}

#[tokio::test]
async fn slots_survive_a_storm_of_everything() {
    let (_folder, engine, mut line) = line();
    for round in 0..40 {
        let behaviour = [
            Behaviour::Trickle,
            Behaviour::Panic,
            Behaviour::Fail,
            Behaviour::Batches(2),
        ];
        line.announce(vec![behaviour[round % 4]; 2]).await;
        line.start(launch(round as u32, 2)).await;
        if round % 3 == 0 {
            line.say(ServerMessage::Cancel(key(round as u32))).await;
        }
        if round % 4 == 0 {
            line.say(everything()).await;
        }
        loop {
            match line.status(round as u32).await {
                AttemptStatus::Running => {}
                AttemptStatus::Finished(_) | AttemptStatus::Failed(_) | AttemptStatus::Cancelled => break,
                other => panic!("{other:?}"),
            }
        }
    }
    line.say(everything()).await;
    let (control, _) = line.cut().await;
    assert!(control.registry.is_empty());
    assert_eq!(engine.store.usage().outputs, 0);
    assert_eq!(engine.memory_used_bytes(), 0);
}

#[tokio::test]
async fn an_embedded_worker_ends_when_the_server_lets_go() {
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
        let Some(WorkerMessage::Report(report)) = worker.from_worker.recv().await else {
            panic!("a report");
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
async fn a_short_attempt_runs_while_long_ones_hold_all_their_threads() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let (_folder, _engine, mut line) = line();
    line.announce(vec![Behaviour::Spin(&STOP), Behaviour::Spin(&STOP)])
        .await;
    line.start(Launch {
        lane: Lane::Long,
        ..launch(0, 2)
    })
    .await;
    assert_eq!(line.status(0).await, AttemptStatus::Running);
    line.announce(vec![Behaviour::Batches(1), Behaviour::Batches(1)]).await;
    line.start(launch(1, 2)).await;
    assert_eq!(line.status(1).await, AttemptStatus::Running);
    assert_eq!(finished(line.status(1).await).metrics.rows, 2 * ROWS_PER_BATCH as u64);
    STOP.store(true, Ordering::Relaxed);
    finished(line.status(0).await);
}
