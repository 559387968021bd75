//! The control service over loopback, with a worker written by hand.

use std::net::Ipv4Addr;

use squadron_proto::control::{AttemptStatus, Heartbeat, Report};
use squadron_proto::wire::control::control_client::ControlClient;
use squadron_proto::{AttemptKey, AttemptNumber, QueryId, StageId, TaskId, WorkerId};
use squadron_shuffle::{DataService, FetchOptions};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;

use super::super::{RegistryOptions, WorkerEvent, WorkerEventKind};
use super::*;

const WORKER: WorkerId = WorkerId::from_u128(5);

struct Server {
    address: String,
    registry: Registry,
    events: mpsc::Receiver<WorkerEvent>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start(key: ClusterKey, options: RegistryOptions) -> Self {
        let (registry, events) = Registry::new(options);
        let service =
            ControlService::new(registry.clone(), key.clone(), Fetcher::new(FetchOptions::new(key))).into_server();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(service)
                .add_service(DataService::of_joining_worker(WORKER).into_server())
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self {
            address,
            registry,
            events,
            _tasks: tasks,
        }
    }

    async fn event(&mut self) -> WorkerEventKind {
        self.events.recv().await.unwrap().kind
    }

    /// How the next connection to end ended.
    async fn over(&mut self) -> WorkerEventKind {
        loop {
            match self.event().await {
                over @ (WorkerEventKind::Silent { .. } | WorkerEventKind::Left | WorkerEventKind::Lost { .. }) => {
                    return over;
                }
                WorkerEventKind::Joined { .. }
                | WorkerEventKind::Draining
                | WorkerEventKind::InventoryEnd
                | WorkerEventKind::Report { .. } => {}
            }
        }
    }

    async fn silent(&mut self) -> String {
        match self.over().await {
            WorkerEventKind::Silent { reason } => reason,
            other => panic!("{other:?}"),
        }
    }
}

/// A worker's end of the stream.
struct Dialled {
    out: mpsc::Sender<wire::WorkerMessage>,
    incoming: Streaming<wire::ServerMessage>,
    nonce: Bytes,
    /// Where a worker answers.
    flight_address: String,
}

impl Dialled {
    async fn dial(server: &Server) -> Self {
        let mut client = ControlClient::connect(server.address.clone()).await.unwrap();
        let (out, messages) = mpsc::channel(16);
        let incoming = client.join(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let mut dialled = Self {
            out,
            incoming,
            nonce: Bytes::new(),
            flight_address: server.address.clone(),
        };
        let ServerMessage::Challenge(challenge) = dialled.hear().await.unwrap() else {
            panic!("the server speaks first, with a challenge");
        };
        assert_eq!(challenge.protocol_version, PROTOCOL_VERSION);
        dialled.nonce = challenge.nonce;
        dialled
    }

    async fn hear(&mut self) -> Result<ServerMessage, Status> {
        let message = self.incoming.message().await?.expect("a stream ends with a status");
        Ok(ServerMessage::try_from(message).unwrap())
    }

    async fn say(&self, message: WorkerMessage) {
        self.out.send(message.into()).await.unwrap();
    }

    /// Says nothing more, and reads what the server has still to say.
    async fn hang_up(self) {
        let Self { out, mut incoming, .. } = self;
        drop(out);
        while let Ok(Some(_)) = incoming.message().await {}
    }

    fn registration(&self, key: &ClusterKey) -> Registration {
        Registration {
            protocol_version: PROTOCOL_VERSION,
            worker: WORKER,
            epoch: 3,
            flight_address: self.flight_address.clone(),
            slots: 2,
            memory_bytes: 1 << 30,
            version: "0.1.0".to_owned(),
            proof: key.proof(&self.nonce, WORKER, 3),
        }
    }

    async fn register(server: &Server, key: &ClusterKey) -> Self {
        let mut dialled = Self::dial(server).await;
        dialled.say(WorkerMessage::Register(dialled.registration(key))).await;
        let ServerMessage::Registered(registered) = dialled.hear().await.unwrap() else {
            panic!("not registered");
        };
        assert_eq!(registered.ticket_key, key.shared());
        dialled
    }

    /// Registers with a changed registration; answers why that was refused.
    async fn refused(server: &Server, key: &ClusterKey, change: impl FnOnce(&mut Registration)) -> Status {
        let mut dialled = Self::dial(server).await;
        let mut registration = dialled.registration(key);
        change(&mut registration);
        dialled.say(WorkerMessage::Register(registration)).await;
        dialled.hear().await.unwrap_err()
    }
}

fn report(sequence: u64, status: AttemptStatus) -> WorkerMessage {
    let attempt = AttemptKey {
        query: QueryId::from_u128(1),
        stage: StageId(0),
        task: TaskId(0),
        attempt: AttemptNumber(0),
    };
    WorkerMessage::Report(Report {
        sequence,
        attempt,
        status,
    })
}

fn secret() -> ClusterKey {
    ClusterKey::from_secret("open sesame")
}

#[tokio::test]
async fn worker_joins_reports_and_leaves() {
    let mut server = Server::start(secret(), RegistryOptions::default()).await;
    let mut worker = Dialled::register(&server, &secret()).await;
    let joined = WorkerEventKind::Joined {
        kind: WorkerKind::Remote,
        epoch: 3,
        slots: 2,
        address: server.address.clone(),
        memory_bytes: 1 << 30,
    };
    let event = server.events.recv().await.unwrap();
    assert_eq!((event.worker, event.kind), (WORKER, joined));
    assert!(server.registry.is_reachable(WORKER));

    let beat = Heartbeat {
        running_attempts: 0,
        memory_used_bytes: 77,
        ..Heartbeat::default()
    };
    worker.say(WorkerMessage::Heartbeat(beat)).await;
    for sequence in [1, 1, 2] {
        worker.say(report(sequence, AttemptStatus::Running)).await;
    }
    worker.say(WorkerMessage::Leaving).await;
    for _ in 0..2 {
        assert!(
            matches!(server.event().await, WorkerEventKind::Report { .. }),
            "the repeated one is dropped"
        );
    }
    assert_eq!(server.event().await, WorkerEventKind::Draining);
    assert_eq!(server.registry.vitals(WORKER).last_heartbeat.memory_used_bytes, 77);

    server
        .registry
        .send(WORKER, event.connection, ServerMessage::Drain)
        .unwrap();
    let mut acknowledged = 0;
    loop {
        match worker.hear().await.unwrap() {
            ServerMessage::Acknowledge(sequence) => acknowledged = sequence,
            ServerMessage::Drain => {}
            other => panic!("{other:?}"),
        }
        if acknowledged == 2 {
            break;
        }
    }
    worker.hang_up().await;
    assert!(
        matches!(server.over().await, WorkerEventKind::Left),
        "it said that it leaves"
    );
    assert!(!server.registry.is_reachable(WORKER));
}

#[tokio::test]
async fn worker_without_secret_receives_the_key() {
    let key = ClusterKey::random();
    let mut server = Server::start(key.clone(), RegistryOptions::default()).await;
    let _worker = Dialled::register(&server, &key).await;
    assert!(matches!(server.event().await, WorkerEventKind::Joined { .. }));
}

#[tokio::test]
async fn other_protocol_version_is_refused_by_name() {
    let server = Server::start(secret(), RegistryOptions::default()).await;
    let status = Dialled::refused(&server, &secret(), |registration| {
        registration.protocol_version = PROTOCOL_VERSION + 6;
        registration.version = "9.9.9".to_owned();
    })
    .await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let ours = format!("{PROTOCOL_VERSION} (release {})", env!("CARGO_PKG_VERSION"));
    let theirs = format!("version {} (release 9.9.9)", PROTOCOL_VERSION + 6);
    assert!(
        status.message().contains(&theirs) && status.message().contains(&ours),
        "{status}"
    );
    assert!(!server.registry.is_reachable(WORKER));
}

#[tokio::test]
async fn worker_with_wrong_secret_is_refused() {
    let server = Server::start(secret(), RegistryOptions::default()).await;
    let status = Dialled::refused(&server, &ClusterKey::from_secret("guess"), |_| {}).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("--cluster-secret"), "{status}");
    let status = Dialled::refused(&server, &secret(), |registration| registration.epoch += 1).await;
    assert_eq!(
        status.code(),
        Code::Unauthenticated,
        "a proof holds for its epoch alone"
    );
}

#[tokio::test]
async fn unreachable_worker_address_is_refused() {
    let server = Server::start(secret(), RegistryOptions::default()).await;
    for address in [
        "",
        "10.0.0.7:4000",
        "ftp://10.0.0.7:4000",
        "http://0.0.0.0:4000",
        "http://[::]:1",
        "http://a:0",
    ] {
        let status = Dialled::refused(&server, &secret(), |registration| {
            registration.flight_address = address.to_owned();
        })
        .await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("--advertise"), "{status}");
    }
    let status = Dialled::refused(&server, &secret(), |registration| registration.slots = 0).await;
    assert!(status.message().contains("--slots"), "{status}");
}

/// A worker counts when it answers where it says.
#[tokio::test]
async fn address_of_another_is_refused() {
    let server = Server::start(secret(), RegistryOptions::default()).await;
    let stranger = WorkerId::from_u128(6);
    let mut dialled = Dialled::dial(&server).await;
    let mut registration = dialled.registration(&secret());
    registration.worker = stranger;
    registration.proof = secret().proof(&dialled.nonce, stranger, 3);
    dialled.say(WorkerMessage::Register(registration)).await;
    let status = dialled.hear().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("another worker answers"), "{status}");

    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let closed = format!("http://{}", closed.local_addr().unwrap());
    let status = Dialled::refused(&server, &secret(), |registration| {
        registration.flight_address = closed.clone()
    })
    .await;
    // The worker tries again: a port may be opened later.
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(
        status.message().contains(&closed) && status.message().contains("--advertise"),
        "{status}"
    );
}

#[tokio::test]
async fn garbage_ends_only_its_stream() {
    let mut server = Server::start(secret(), RegistryOptions::default()).await;
    let mut garbled = Dialled::dial(&server).await;
    garbled.out.send(wire::WorkerMessage { message: None }).await.unwrap();
    assert_eq!(garbled.hear().await.unwrap_err().code(), Code::InvalidArgument);
    let mut hasty = Dialled::dial(&server).await;
    hasty.say(WorkerMessage::Leaving).await;
    assert_eq!(hasty.hear().await.unwrap_err().code(), Code::InvalidArgument);

    let mut member = Dialled::register(&server, &secret()).await;
    member.out.send(wire::WorkerMessage { message: None }).await.unwrap();
    assert!(server.silent().await.contains("malformed"));
    assert_eq!(member.hear().await.unwrap_err().code(), Code::Unavailable);

    let twice = Dialled::register(&server, &secret()).await;
    twice.say(WorkerMessage::Register(twice.registration(&secret()))).await;
    assert!(server.silent().await.contains("registered twice"));
    let _fine = Dialled::register(&server, &secret()).await;
}

#[tokio::test]
async fn silent_worker_is_noticed() {
    let options = RegistryOptions {
        heartbeat_interval: Duration::from_millis(30),
        heartbeat_timeout: Duration::from_millis(150),
        ..RegistryOptions::default()
    };
    let mut server = Server::start(secret(), options).await;
    let mut worker = Dialled::register(&server, &secret()).await;
    for _ in 0..10 {
        let beat = Heartbeat {
            running_attempts: 0,
            ..Heartbeat::default()
        };
        worker.say(WorkerMessage::Heartbeat(beat)).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(server.registry.is_reachable(WORKER), "heartbeats keep it alive");
    let since = std::time::Instant::now();
    assert!(server.silent().await.contains("silent"));
    assert!(since.elapsed() < Duration::from_secs(2));
    assert_eq!(worker.hear().await.unwrap_err().code(), Code::Unavailable);
}

/// What answers at the address of a worker; it stops listening with this.
struct Listening {
    address: String,
    tasks: JoinSet<()>,
}

impl Listening {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let service = DataService::of_joining_worker(WORKER).into_server();
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self { address, tasks }
    }

    async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn register_at(server: &Server, address: &str) -> Dialled {
    let mut dialled = Dialled::dial(server).await;
    dialled.flight_address = address.to_owned();
    let registration = dialled.registration(&secret());
    dialled.say(WorkerMessage::Register(registration)).await;
    assert!(matches!(dialled.hear().await.unwrap(), ServerMessage::Registered(_)));
    dialled
}

/// A worker that hangs keeps its port open.
#[tokio::test]
async fn worker_is_lost_when_its_port_is_closed() {
    let mut server = Server::start(secret(), RegistryOptions::default()).await;
    let listening = Listening::start().await;
    let worker = register_at(&server, &listening.address).await;
    drop(worker);
    server.silent().await;
    assert!(server.events.try_recv().is_err(), "its port is open");
    let address = listening.address.clone();
    listening.stop().await;
    let WorkerEventKind::Lost { reason } = server.event().await else {
        panic!("not lost");
    };
    assert!(reason.contains(&address), "{reason}");
}

/// What nobody hears of a worker is shown as it was last.
#[tokio::test]
async fn vitals_of_absent_worker_are_kept_until_it_is_forgotten() {
    let mut server = Server::start(secret(), RegistryOptions::default()).await;
    let worker = Dialled::register(&server, &secret()).await;
    drop(worker);
    server.silent().await;
    assert_eq!(server.registry.vitals(WORKER).memory_bytes, 1 << 30);
    let _again = Dialled::register(&server, &secret()).await;
    assert_eq!(server.registry.vitals(WORKER).memory_bytes, 1 << 30);
    server.registry.close(WORKER, 2);
    server.registry.forget(WORKER);
    assert_eq!(server.registry.vitals(WORKER).memory_bytes, 0);
}

#[tokio::test]
async fn later_connection_replaces_the_earlier() {
    let mut server = Server::start(secret(), RegistryOptions::default()).await;
    let mut first = Dialled::register(&server, &secret()).await;
    let _second = Dialled::register(&server, &secret()).await;
    assert_eq!(first.hear().await.unwrap_err().code(), Code::Unavailable);
    let status = Dialled::refused(&server, &secret(), |registration| {
        registration.epoch = 2;
        registration.proof = Bytes::new();
    })
    .await;
    assert_eq!(status.code(), Code::Unauthenticated);
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(server.events.recv().await.unwrap());
    }
    let (first, last) = (
        &connections[0],
        connections.iter().max_by_key(|event| event.connection).unwrap(),
    );
    assert!(last.connection > first.connection);
    assert!(matches!(last.kind, WorkerEventKind::Joined { .. }));
}
