//! The driver with workers that are a few lines each.

use std::time::Duration;

use squadron_proto::WorkerKind;
use squadron_proto::control::{AttemptStatus, Report, ServerMessage, WorkerMessage};
use squadron_proto::{AttemptKey, Failure, FailureKind, WorkerId};
use squadron_scheduler::QuerySummary;
use squadron_scheduler::testing::{graph, some_output, stage};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::directory::Subscribers;
use super::workers::RegistryOptions;
use super::*;

const WORKER: WorkerId = WorkerId::from_u128(9);

struct Server {
    handle: SchedulerHandle,
    registry: Registry,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// No query waits long for another worker here.
fn server(options: RegistryOptions) -> Server {
    let limits = Limits {
        no_worker_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    server_with(limits, options)
}

fn server_with(limits: Limits, options: RegistryOptions) -> Server {
    let (registry, events) = Registry::new(options);
    let (driver, handle) = Driver::new(limits, Arc::new(Subscribers::default()), registry.clone(), events);
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run(stop.clone()));
    Server {
        handle,
        registry,
        stop,
        tasks,
    }
}

/// What an obedient worker answers.
fn answers(message: &ServerMessage) -> Vec<(AttemptKey, AttemptStatus)> {
    match message {
        ServerMessage::Launch(launch) => vec![(launch.attempt, AttemptStatus::Reserved)],
        ServerMessage::Commit(attempt) => vec![
            (*attempt, AttemptStatus::Running),
            (*attempt, AttemptStatus::Finished(some_output())),
        ],
        ServerMessage::Challenge(_)
        | ServerMessage::Registered(_)
        | ServerMessage::Stage(_)
        | ServerMessage::Cancel(_)
        | ServerMessage::Release(_)
        | ServerMessage::Spare(..)
        | ServerMessage::Acknowledge(_)
        | ServerMessage::QueryFailed(..)
        | ServerMessage::Drain => Vec::new(),
    }
}

/// Attaches an obedient worker; what it was told can be read from the answer.
async fn attach_obedient(server: &mut Server) -> mpsc::UnboundedReceiver<ServerMessage> {
    let (to_worker, mut orders) = mpsc::channel(4);
    let (reports, from_worker) = mpsc::channel(4);
    let (log, told) = mpsc::unbounded_channel();
    server.tasks.spawn(async move {
        let mut sequence = 0;
        while let Some(order) = orders.recv().await {
            for (attempt, status) in answers(&order) {
                sequence += 1;
                let report = Report {
                    sequence,
                    attempt,
                    status,
                };
                if reports.send(WorkerMessage::Report(report)).await.is_err() {
                    return;
                }
            }
            let _ = log.send(order);
        }
    });
    let registry = server.registry.clone();
    registry
        .attach_embedded(WORKER, WorkerKind::Embedded, 2, 1 << 20, to_worker, from_worker)
        .await;
    told
}

/// Attaches a worker that only listens.
async fn attach_silent(
    server: &Server,
    messages: usize,
) -> (mpsc::Receiver<ServerMessage>, mpsc::Sender<WorkerMessage>) {
    let (to_worker, orders) = mpsc::channel(messages);
    let (reports, from_worker) = mpsc::channel(4);
    server
        .registry
        .attach_embedded(WORKER, WorkerKind::Embedded, 2, 0, to_worker, from_worker)
        .await;
    (orders, reports)
}

async fn until_launched(orders: &mut mpsc::Receiver<ServerMessage>) -> Vec<ServerMessage> {
    let mut told = Vec::new();
    while !matches!(told.last(), Some(ServerMessage::Launch(_))) {
        told.push(orders.recv().await.unwrap());
    }
    told
}

async fn ended(events: &mut QueryEvents) -> Result<QuerySummary, Failure> {
    let outcome = async {
        loop {
            match events.next().await.expect("an end") {
                QueryUpdate::ResultReady { .. } | QueryUpdate::PartsLost { .. } => {}
                QueryUpdate::Ended(outcome) => return outcome,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), outcome)
        .await
        .expect("an end in time")
}

#[tokio::test]
async fn queries_run_one_after_another() {
    let mut server = server(RegistryOptions::default());
    let mut told = attach_obedient(&mut server).await;
    for query in 1..50 {
        let graph = graph(query, vec![stage(0, &[], 3), stage(1, &[0], 2)]);
        let mut events = server.handle.submit(graph).await.unwrap();
        let QueryUpdate::ResultReady { parts } = events.next().await.unwrap() else {
            panic!("no result");
        };
        assert_eq!(parts.len(), 2);
        events.result_done();
        assert_eq!(ended(&mut events).await.unwrap().stages.len(), 2);
        assert_eq!(events.next().await, None);
    }
    let mut acknowledged = 0;
    while acknowledged < 49 * 15 {
        if let ServerMessage::Acknowledge(sequence) = told.recv().await.unwrap() {
            acknowledged = sequence;
        }
    }
}

#[tokio::test]
async fn query_without_client_is_cancelled() {
    let server = server(RegistryOptions::default());
    let (mut orders, _reports) = attach_silent(&server, 16).await;
    let graph = graph(1, vec![stage(0, &[], 1)]);
    let events = server.handle.submit(graph).await.unwrap();
    let mut told = until_launched(&mut orders).await;
    drop(events);
    while !matches!(told.last(), Some(ServerMessage::Release(_))) {
        told.push(orders.recv().await.unwrap());
    }
    assert!(
        matches!(
            told[..],
            [
                ServerMessage::Stage(_),
                ServerMessage::Launch(_),
                ServerMessage::Cancel(_),
                ServerMessage::Release(_)
            ]
        ),
        "{told:?}"
    );
    assert_eq!(server.handle.snapshot().await.workers[0].used_slots, 0);
}

#[tokio::test]
async fn readers_at_workers_hear_cause_before_attempts_stop() {
    let server = server(RegistryOptions::default());
    let (mut orders, _reports) = attach_silent(&server, 16).await;
    let mut retained = graph(1, vec![stage(0, &[], 1)]);
    retained.stages[0].streamed = false;
    let query = retained.query;
    let _events = server.handle.submit(retained).await.unwrap();
    let mut told = until_launched(&mut orders).await;
    let failure = Failure::new(FailureKind::Invalid, "division by zero");
    server.handle.cancel(query, failure.clone());
    while !matches!(told.last(), Some(ServerMessage::Release(_))) {
        told.push(orders.recv().await.unwrap());
    }
    let after_launch = &told[2..];
    assert!(
        matches!(
            after_launch,
            [ServerMessage::QueryFailed(_, told), ServerMessage::Cancel(_), ServerMessage::Release(_)] if *told == failure
        ),
        "{after_launch:?}"
    );
}

#[tokio::test]
async fn cancel_reaches_query_in_the_mailbox() {
    let server = server(RegistryOptions::default());
    for query in 0..200 {
        let graph = graph(query, vec![stage(0, &[], 1)]);
        let id = graph.query;
        let mut events = server.handle.submit(graph).await.unwrap();
        let failure = Failure::new(FailureKind::Cancelled, "changed my mind");
        server.handle.cancel(id, failure.clone());
        assert_eq!(ended(&mut events).await, Err(failure));
    }
}

#[tokio::test]
async fn worker_that_takes_nothing_is_lost() {
    let options = RegistryOptions {
        stall_timeout: Duration::from_millis(50),
        ..RegistryOptions::default()
    };
    let server = server(options);
    let (_orders, _reports) = attach_silent(&server, 1).await;
    let mut events = server.handle.submit(graph(1, vec![stage(0, &[], 1)])).await.unwrap();
    let failure = ended(&mut events).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::WorkerLost);
    assert!(failure.message.contains("took no message"), "{failure}");
    assert!(!server.registry.is_reachable(WORKER));
    assert_eq!(server.handle.snapshot().await.workers, []);
}

#[tokio::test]
async fn worker_with_full_backlog_is_lost() {
    let options = RegistryOptions {
        backlog_messages: 1,
        ..RegistryOptions::default()
    };
    let server = server(options);
    let (_orders, _reports) = attach_silent(&server, 1).await;
    let mut events = server.handle.submit(graph(1, vec![stage(0, &[], 2)])).await.unwrap();
    let failure = ended(&mut events).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::WorkerLost);
    assert!(failure.message.contains("messages wait"), "{failure}");
}

#[tokio::test]
async fn worker_that_drops_its_channel_is_lost() {
    let server = server(RegistryOptions::default());
    let (mut orders, reports) = attach_silent(&server, 16).await;
    let mut events = server.handle.submit(graph(1, vec![stage(0, &[], 1)])).await.unwrap();
    until_launched(&mut orders).await;
    drop((orders, reports));
    assert_eq!(ended(&mut events).await.unwrap_err().kind, FailureKind::WorkerLost);
}

#[tokio::test]
async fn rejoining_worker_starts_anew() {
    let mut server = server(RegistryOptions::default());
    let (mut orders, _reports) = attach_silent(&server, 16).await;
    let mut events = server.handle.submit(graph(1, vec![stage(0, &[], 1)])).await.unwrap();
    until_launched(&mut orders).await;
    let _told = attach_obedient(&mut server).await;
    assert!(matches!(events.next().await, Some(QueryUpdate::ResultReady { .. })));
    events.result_done();
    assert!(ended(&mut events).await.is_ok());
    assert_eq!(server.handle.snapshot().await.workers.len(), 1);
}

#[tokio::test]
async fn queries_end_when_server_stops() {
    let mut server = server(RegistryOptions::default());
    let (mut orders, _reports) = attach_silent(&server, 16).await;
    let mut events = server.handle.submit(graph(1, vec![stage(0, &[], 1)])).await.unwrap();
    until_launched(&mut orders).await;
    server.stop.cancel();
    assert_eq!(ended(&mut events).await.unwrap_err().kind, FailureKind::Draining);
    server.tasks.join_next().await.unwrap().unwrap();
    let refused = server.handle.submit(graph(2, vec![stage(0, &[], 1)])).await;
    assert_eq!(refused.unwrap_err().kind, FailureKind::Draining);
}

#[tokio::test]
async fn second_submission_of_query_fails() {
    let server = server(RegistryOptions::default());
    let twice = || graph(1, vec![stage(0, &[], 1)]);
    let _events = server.handle.submit(twice()).await.unwrap();
    let refused = server.handle.submit(twice()).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Internal);
    assert_eq!(server.handle.snapshot().await.queries.len(), 1);
}

/// A worker of another process: it is spoken to through the events that its connections cause.
struct RemoteWorker {
    events: mpsc::Sender<WorkerEvent>,
    connection: u64,
}

impl RemoteWorker {
    async fn say(&self, kind: WorkerEventKind) {
        let (worker, connection) = (WORKER, self.connection);
        let event = WorkerEvent {
            worker,
            connection,
            kind,
        };
        self.events.send(event).await.unwrap();
    }

    async fn connect(&mut self, epoch: u64) {
        self.connection += 1;
        let joined = WorkerEventKind::Joined {
            kind: WorkerKind::Remote,
            epoch,
            slots: 1,
            address: "http://w".to_owned(),
            memory_bytes: 1 << 20,
        };
        self.say(joined).await;
    }

    async fn fall_silent(&self) {
        let reason = "it was silent".to_owned();
        self.say(WorkerEventKind::Silent { reason }).await;
    }
}

/// A server whose workers speak through the test alone.
fn server_of_events(limits: Limits) -> (Server, RemoteWorker) {
    let (registry, _) = Registry::new(RegistryOptions::default());
    let (events, worker_events) = mpsc::channel(16);
    let (driver, handle) = Driver::new(
        limits,
        Arc::new(Subscribers::default()),
        registry.clone(),
        worker_events,
    );
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run(stop.clone()));
    let server = Server {
        handle,
        registry,
        stop,
        tasks,
    };
    (server, RemoteWorker { events, connection: 0 })
}

async fn workers_until(server: &Server, is_so: impl Fn(&[WorkerInfo]) -> bool) -> Vec<WorkerInfo> {
    let shown = async {
        loop {
            let workers = server.handle.snapshot().await.workers;
            if is_so(&workers) {
                return workers;
            }
            tokio::task::yield_now().await;
        }
    };
    let shown = tokio::time::timeout(Duration::from_secs(60), shown).await;
    shown.expect("the workers are so in the end")
}

#[tokio::test]
async fn silent_worker_is_suspected_until_its_inventory_ends() {
    let (server, mut worker) = server_of_events(Limits::default());
    worker.connect(7).await;
    worker.fall_silent().await;
    workers_until(&server, |workers| matches!(workers, [worker] if worker.suspected)).await;
    worker.connect(7).await;
    assert!(
        server.handle.snapshot().await.workers[0].suspected,
        "it has not said what it has"
    );
    worker.say(WorkerEventKind::InventoryEnd).await;
    workers_until(&server, |workers| matches!(workers, [worker] if !worker.suspected)).await;
}

#[tokio::test]
async fn worker_that_stays_away_is_given_up_and_joins_anew() {
    let limits = Limits {
        worker_grace: Duration::from_millis(20),
        ..Limits::default()
    };
    let (server, mut worker) = server_of_events(limits);
    worker.connect(7).await;
    workers_until(&server, |workers| !workers.is_empty()).await;
    worker.fall_silent().await;
    workers_until(&server, <[_]>::is_empty).await;
    worker.connect(7).await;
    let workers = workers_until(&server, |workers| !workers.is_empty()).await;
    assert!(!workers[0].suspected, "it has nothing to say");
}

#[tokio::test]
async fn worker_that_started_again_is_new_at_once() {
    let (server, mut worker) = server_of_events(Limits::default());
    worker.connect(7).await;
    worker.fall_silent().await;
    worker.connect(8).await;
    workers_until(&server, |workers| matches!(workers, [worker] if !worker.suspected)).await;
}

/// Its client hears of it, and may give the query up.
#[tokio::test]
async fn part_of_a_result_on_a_lost_worker_is_written_again() {
    let server = server_with(Limits::default(), RegistryOptions::default());
    let (mut orders, reports) = attach_silent(&server, 16).await;
    let mut events = server.handle.submit(graph(1, vec![stage(0, &[], 1)])).await.unwrap();
    let told = until_launched(&mut orders).await;
    report_running(&told, &reports).await;
    assert!(matches!(events.next().await, Some(QueryUpdate::ResultReady { .. })));
    drop((orders, reports));
    let Some(QueryUpdate::PartsLost { parts, failure }) = events.next().await else {
        panic!("it is not computed again");
    };
    assert_eq!(failure.kind, FailureKind::WorkerLost);
    assert_eq!((parts.lost.len(), parts.void.len()), (1, 0));
    let (mut orders, _reports) = attach_silent(&server, 16).await;
    let mut told = until_launched(&mut orders).await;
    events.give_up(Failure::new(FailureKind::Unsupported, "a part of the rows is gone"));
    while !matches!(told.last(), Some(ServerMessage::Release(_))) {
        told.push(orders.recv().await.unwrap());
    }
}

/// The server alone cannot reach the worker.
#[tokio::test]
async fn part_that_the_server_cannot_read_is_written_again() {
    let server = server_with(Limits::default(), RegistryOptions::default());
    let (mut orders, reports) = attach_silent(&server, 16).await;
    let mut events = server.handle.submit(graph(1, vec![stage(0, &[], 1)])).await.unwrap();
    let told = until_launched(&mut orders).await;
    let attempt = report_running(&told, &reports).await;
    assert!(matches!(events.next().await, Some(QueryUpdate::ResultReady { .. })));
    events.cannot_read(Failure::new(FailureKind::WorkerLost, "no way").of_outputs(vec![attempt]));
    assert!(matches!(events.next().await, Some(QueryUpdate::PartsLost { .. })));
    until_launched(&mut orders).await;
}

/// Says that the attempt that was launched last runs.
async fn report_running(told: &[ServerMessage], reports: &mpsc::Sender<WorkerMessage>) -> AttemptKey {
    let Some(ServerMessage::Launch(launch)) = told.last() else {
        panic!("{told:?}");
    };
    let attempt = launch.attempt;
    for (sequence, status) in (1..).zip([AttemptStatus::Reserved, AttemptStatus::Running]) {
        let report = Report {
            sequence,
            attempt,
            status,
        };
        reports.send(WorkerMessage::Report(report)).await.unwrap();
    }
    attempt
}
