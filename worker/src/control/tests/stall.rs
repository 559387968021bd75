//! Attempts that make no progress.

use squadron_proto::ticket::ClusterKey;

use super::*;
use crate::engine::WorkerOptions;
use crate::testing::options;

fn impatient() -> (TempDir, ServerEnd) {
    let (folder, options) = options();
    let options = WorkerOptions {
        stall_timeout: Duration::from_millis(100),
        ..options
    };
    let engine = Engine::new(&options, ClusterKey::random(), None).unwrap();
    let control = Control::new(engine, WORKER, 2, Delivery::Acknowledged);
    (folder, ServerEnd::connect(control))
}

#[tokio::test]
async fn attempt_that_hangs_is_given_up_and_its_slots_are_free() {
    let (_folder, mut server) = impatient();
    server.announce(vec![Behaviour::Hang, Behaviour::Hang]).await;
    server.start(launch(0, 2)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    let AttemptStatus::Failed(failure) = server.status(0).await else {
        panic!("it is not given up");
    };
    assert_eq!(failure.kind, FailureKind::WorkerLost);
    assert!(failure.message.contains("--stall-timeout"), "{failure}");
    // This one can be told to stop, and says so; the server no longer listens to that.
    let ended = server.report().await;
    assert_eq!((ended.attempt, ended.status), (key(0), AttemptStatus::Cancelled));
    server.send(ServerMessage::Launch(launch(1, 2))).await;
    assert_eq!(server.status(1).await, AttemptStatus::Reserved);
}

#[tokio::test]
async fn attempt_that_waits_for_its_reader_is_not_given_up() {
    let (_folder, mut server) = impatient();
    server.announce(vec![Behaviour::Batches(1_000)]).await;
    server.start(streamed_launch(0, 1)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    assert_eq!(server.status(0).await, AttemptStatus::Parked);
    // A later one is given up, and the one that waits is not.
    server.announce(vec![Behaviour::Hang]).await;
    server.start(launch(1, 1)).await;
    assert_eq!(server.status(1).await, AttemptStatus::Running);
    assert!(matches!(server.status(1).await, AttemptStatus::Failed(_)));
    assert_eq!(server.status(1).await, AttemptStatus::Cancelled);
    server.send(ServerMessage::Cancel(key(0))).await;
    assert_eq!(server.status(0).await, AttemptStatus::Cancelled);
}
