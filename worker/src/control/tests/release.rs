//! Released output is freed beside the loop, so that a slow disk keeps nobody waiting.

use std::sync::mpsc as blocking;

use futures::FutureExt;

use super::*;

/// A runtime whose only thread for blocking work is occupied until the sender is dropped: a disk that does not answer.
fn runtime_with_stuck_disk() -> (tokio::runtime::Runtime, blocking::Sender<()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().max_blocking_threads(1).build().unwrap();
    let (release, stuck) = blocking::channel();
    runtime.spawn_blocking(move || {
        let _ = stuck.recv();
    });
    (runtime, release)
}

/// A worker with output on disk.
async fn worker_with_spilled_output() -> (TempDir, Arc<Engine>, ServerEnd) {
    let (folder, engine, mut server) = connect_worker();
    server.announce(vec![Behaviour::Batches(1)]).await;
    server.start(launch(0, 1)).await;
    assert_eq!(server.status(0).await, AttemptStatus::Running);
    expect_finished(server.status(0).await);
    assert!(engine.store.move_to_disk(usize::MAX).unwrap());
    (folder, engine, server)
}

#[test]
fn loop_goes_on_while_the_disk_does_not_answer() {
    let (runtime, disk) = runtime_with_stuck_disk();
    runtime.block_on(async {
        let (_folder, engine, mut server) = worker_with_spilled_output().await;
        server.send(release_all()).await;
        server.send(ServerMessage::Launch(launch(1, 1))).await;
        assert_eq!(server.status(1).await, AttemptStatus::Reserved, "the loop answers");
        assert!(!engine.store.contains(key(0)), "the output is found no more");
        assert!(engine.store.usage().disk_bytes > 0, "and not freed yet");

        drop(disk);
        let freed = async {
            while engine.store.usage().disk_bytes > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, freed).await.expect("the rows are freed");
    });
}

#[test]
fn readers_hear_the_cause_though_the_disk_does_not_answer() {
    let (runtime, _disk) = runtime_with_stuck_disk();
    runtime.block_on(async {
        let (_folder, engine, mut server) = worker_with_spilled_output().await;
        let mut reader = engine.store.read(key(0), 0).unwrap();
        let cause = Failure::new(FailureKind::Invalid, "division by zero");
        server.send(ServerMessage::QueryFailed(QUERY, cause.clone())).await;
        server.send(release_all()).await;
        server.send(ServerMessage::Launch(launch(1, 1))).await;
        assert_eq!(server.status(1).await, AttemptStatus::Reserved);
        let read = reader.next().now_or_never().flatten().expect("it is told at once");
        assert_eq!(read.unwrap_err(), cause);
    });
}
