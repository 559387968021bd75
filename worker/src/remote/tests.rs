//! Worker processes against a fake server.

use std::net::SocketAddr;

use futures::StreamExt;
use squadron_proto::PROTOCOL_VERSION;
use squadron_proto::control::{AttemptStatus, Challenge, Launch, Registration, Report, ServerMessage, WorkerMessage};
use squadron_proto::wire::control as wire;
use squadron_proto::wire::control::control_server::{Control as ControlService, ControlServer};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::testing::{key, launch};

const PATIENCE: Duration = Duration::from_secs(20);

/// A control service that hands its connections to the test.
struct FakeService(mpsc::Sender<Peer>);

/// The server's end of one connection.
struct Peer {
    from_worker: Streaming<wire::WorkerMessage>,
    to_worker: mpsc::Sender<Result<wire::ServerMessage, Status>>,
}

#[tonic::async_trait]
impl ControlService for FakeService {
    type JoinStream = ReceiverStream<Result<wire::ServerMessage, Status>>;

    async fn join(
        &self,
        request: Request<Streaming<wire::WorkerMessage>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let (to_worker, messages) = mpsc::channel(64);
        let peer = Peer {
            from_worker: request.into_inner(),
            to_worker,
        };
        self.0
            .send(peer)
            .await
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

struct FakeServer {
    address: SocketAddr,
    peers: mpsc::Receiver<Peer>,
    _task: JoinSet<()>,
}

impl FakeServer {
    async fn start() -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap()).await
    }

    async fn start_on(address: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, peers) = mpsc::channel(16);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let service = ControlServer::new(FakeService(sender));
            let server = Server::builder().add_service(service);
            server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        });
        Self {
            address,
            peers,
            _task: task,
        }
    }

    async fn peer(&mut self) -> Peer {
        let peer = tokio::time::timeout(PATIENCE, self.peers.recv());
        peer.await.expect("a worker dials").expect("the server runs")
    }

    /// Waits for a worker to dial and acknowledges its registration.
    async fn register_worker(&mut self, key: &ClusterKey) -> (Peer, Registration) {
        let mut peer = self.peer().await;
        let registration = peer.challenge(PROTOCOL_VERSION).await;
        peer.send(ServerMessage::Registered(Registered {
            ticket_key: key.shared(),
            heartbeat_interval_ms: 20,
            keep_ms: 10_000,
        }))
        .await;
        (peer, registration)
    }
}

impl Peer {
    async fn send(&self, message: ServerMessage) {
        self.to_worker.send(Ok(message.try_into().unwrap())).await.unwrap();
    }

    async fn receive(&mut self) -> WorkerMessage {
        self.next().await.expect("the worker is there")
    }

    async fn next(&mut self) -> Option<WorkerMessage> {
        let message = tokio::time::timeout(PATIENCE, self.from_worker.next()).await;
        let message = message.expect("the worker says something")?;
        Some(message.ok()?.try_into().unwrap())
    }

    async fn challenge(&mut self, protocol_version: u32) -> Registration {
        self.send(challenge(protocol_version)).await;
        match self.receive().await {
            WorkerMessage::Register(registration) => registration,
            other => panic!("{other:?} instead of a registration"),
        }
    }

    async fn report(&mut self) -> Report {
        loop {
            match self.receive().await {
                WorkerMessage::Heartbeat(_) | WorkerMessage::InventoryEnd => {}
                WorkerMessage::Report(report) => return report,
                other => panic!("{other:?} instead of a report"),
            }
        }
    }
}

fn challenge(protocol_version: u32) -> ServerMessage {
    ServerMessage::Challenge(Challenge {
        nonce: b"nonce".to_vec().into(),
        protocol_version,
        server_version: "9.9.9".to_owned(),
    })
}

/// A worker process in a task.
struct Worker {
    _folder: TempDir,
    shutdown: CancellationToken,
    ready: oneshot::Receiver<String>,
    task: JoinSet<Result<(), Failure>>,
}

impl Worker {
    fn start(server: SocketAddr) -> Self {
        Self::start_with(server, |_| {})
    }

    fn start_with(server: SocketAddr, change: impl FnOnce(&mut RemoteOptions)) -> Self {
        let (folder, worker) = crate::testing::options();
        let mut options = RemoteOptions {
            worker,
            ..RemoteOptions::new(Url::parse(&format!("http://{server}")).unwrap())
        };
        change(&mut options);
        let shutdown = CancellationToken::new();
        let (sender, ready) = oneshot::channel();
        let mut task = JoinSet::new();
        let on_ready = move |address: &str| sender.send(address.to_owned()).unwrap();
        task.spawn(serve(options, shutdown.clone(), on_ready));
        Self {
            _folder: folder,
            shutdown,
            ready,
            task,
        }
    }

    async fn ready(&mut self) -> String {
        let ready = tokio::time::timeout(PATIENCE, &mut self.ready);
        ready.await.expect("the worker gets ready").unwrap()
    }

    async fn end(&mut self) -> Result<(), Failure> {
        let ended = tokio::time::timeout(PATIENCE, self.task.join_next()).await;
        ended.expect("the worker ends").unwrap().unwrap()
    }
}

#[tokio::test]
async fn worker_registers_beats_and_leaves() {
    let mut server = FakeServer::start().await;
    let key = ClusterKey::from_secret("open sesame");
    let mut worker = Worker::start_with(server.address, |options| {
        options.cluster_secret = Some("open sesame".to_owned());
    });
    let (mut peer, registration) = server.register_worker(&key).await;
    let Registration {
        worker: id,
        epoch,
        proof,
        ..
    } = &registration;
    assert!(key.verify_proof(proof, b"nonce", *id, *epoch));
    assert_eq!(registration.slots, 2);
    let address = worker.ready().await;
    assert_eq!(registration.flight_address, format!("http://{address}"));
    let dialled = tokio::net::TcpStream::connect(address).await;
    assert!(dialled.is_ok(), "its Flight service answers");
    assert!(matches!(peer.receive().await, WorkerMessage::Heartbeat(_)));

    worker.shutdown.cancel();
    let last = loop {
        match peer.next().await {
            Some(WorkerMessage::Heartbeat(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(last, Some(WorkerMessage::Leaving)), "{last:?}");
    drop(peer);
    assert_eq!(worker.end().await, Ok(()));
}

#[tokio::test]
async fn version_mismatch_error_names_both_releases() {
    let mut server = FakeServer::start().await;
    let mut worker = Worker::start(server.address);
    let peer = server.peer().await;
    peer.send(challenge(77)).await;
    let failure = worker.end().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unsupported);
    assert_eq!(
        failure.message,
        format!(
            "the server at http://{} speaks protocol version 77 (release 9.9.9), this worker speaks version \
             {PROTOCOL_VERSION} (release {}); run the same release of squadron on both",
            server.address,
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[tokio::test]
async fn refused_secret_error_names_flag() {
    let mut server = FakeServer::start().await;
    for (secret, expected) in [
        (Some("wrong"), "does not accept the cluster secret of this worker"),
        (None, "asks for a cluster secret, and this worker has none"),
    ] {
        let mut worker = Worker::start_with(server.address, |options| {
            options.cluster_secret = secret.map(str::to_owned);
        });
        let mut peer = server.peer().await;
        peer.challenge(PROTOCOL_VERSION).await;
        let refusal = Status::unauthenticated("no");
        peer.to_worker.send(Err(refusal)).await.unwrap();
        let failure = worker.end().await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unauthenticated);
        assert!(failure.message.contains(expected), "{failure}");
        assert!(failure.message.contains("--cluster-secret"), "{failure}");
    }
}

#[tokio::test]
async fn worker_without_secret_is_unauthenticated() {
    let mut server = FakeServer::start().await;
    let mut worker = Worker::start(server.address);
    let (_peer, _) = server.register_worker(&ClusterKey::from_secret("s")).await;
    let failure = worker.end().await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unauthenticated);
}

#[tokio::test]
async fn wrong_port_error_names_cluster_listen() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut other_service = JoinSet::new();
    other_service.spawn(async move {
        let server = Server::builder().add_routes(Routes::default());
        server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
    });
    let failure = Worker::start(address).end().await.unwrap_err();
    assert!(failure.message.contains("--cluster-listen"), "{failure}");
}

#[tokio::test]
async fn reconnected_worker_resends_its_reports() {
    let mut server = FakeServer::start().await;
    let cluster_key = ClusterKey::random();
    let _worker = Worker::start(server.address);
    let (mut peer, first) = server.register_worker(&cluster_key).await;
    peer.send(ServerMessage::Launch(launch(0, 1))).await;
    let reserved = peer.report().await;
    assert_eq!(reserved.status, AttemptStatus::Reserved);
    drop(peer);

    let (mut peer, second) = server.register_worker(&cluster_key).await;
    assert_eq!((second.worker, second.epoch), (first.worker, first.epoch));
    assert_eq!(second.flight_address, first.flight_address);
    assert_eq!(peer.report().await, reserved, "same sequence number");
}

#[tokio::test]
async fn new_server_finds_empty_worker() {
    let mut server = FakeServer::start().await;
    let _worker = Worker::start(server.address);
    let (mut peer, first) = server.register_worker(&ClusterKey::random()).await;
    peer.send(ServerMessage::Launch(launch(0, 2))).await;
    assert_eq!(peer.report().await.status, AttemptStatus::Reserved);
    drop(peer);

    let (mut peer, second) = server.register_worker(&ClusterKey::random()).await;
    assert_eq!(second.flight_address, first.flight_address);
    let other = Launch {
        attempt: key(1),
        ..launch(1, 2)
    };
    peer.send(ServerMessage::Launch(other)).await;
    let report = peer.report().await;
    assert_eq!((report.attempt, report.status), (key(1), AttemptStatus::Reserved));
}

#[tokio::test]
async fn worker_survives_malformed_server_messages() {
    // Bytes that are no HTTP/2 at all.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut worker = Worker::start(address);
    for _ in 0..2 {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket
            .write_all(b"HTTP/1.1 200 OK\r\n\r\n\x00\xff garbage")
            .await
            .unwrap();
    }
    drop(listener);
    // First messages that are none, or not the right ones.
    let mut server = FakeServer::start_on(address).await;
    let peer = server.peer().await;
    let empty = || wire::ServerMessage { message: None };
    peer.to_worker.send(Ok(empty())).await.unwrap();
    let peer = server.peer().await;
    peer.send(ServerMessage::Drain).await;
    // And in the middle of a session.
    let key = ClusterKey::random();
    let (peer, _) = server.register_worker(&key).await;
    worker.ready().await;
    peer.to_worker.send(Ok(empty())).await.unwrap();
    let (mut peer, _) = server.register_worker(&key).await;
    peer.send(ServerMessage::Launch(launch(0, 1))).await;
    assert_eq!(peer.report().await.status, AttemptStatus::Reserved);
}

#[tokio::test]
async fn shutdown_ends_unconnected_worker() {
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = unused.local_addr().unwrap();
    drop(unused);
    let mut worker = Worker::start(address);
    worker.shutdown.cancel();
    assert_eq!(worker.end().await, Ok(()));
}

#[tokio::test]
async fn drain_ends_after_its_timeout() {
    let mut server = FakeServer::start().await;
    let mut worker = Worker::start_with(server.address, |options| {
        options.drain_timeout = Duration::from_millis(50);
    });
    let (mut peer, _) = server.register_worker(&ClusterKey::random()).await;
    peer.send(ServerMessage::Launch(launch(0, 1))).await;
    assert_eq!(peer.report().await.status, AttemptStatus::Reserved);
    worker.shutdown.cancel();
    assert_eq!(worker.end().await, Ok(()), "though a reservation is never committed");
}
