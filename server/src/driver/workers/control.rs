//! The control service on the cluster port: where workers of other processes join.
//!
//! ```text
//! worker dials ──> Challenge ──> Register ──> checks ──> Registered, then the registry converses
//!                                               └─> a status with a sentence that says what to change
//! ```
//!
//! When a connection breaks, the worker has some time to connect again, unless its port is closed.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use ring::rand::{SecureRandom, SystemRandom};
use squadron_proto::WorkerKind;
use squadron_proto::control::{Challenge, Heartbeat, Registered, Registration, ServerMessage, WorkerMessage};
use squadron_proto::ticket::ClusterKey;
use squadron_proto::wire::control as wire;
use squadron_proto::wire::control::control_server::{Control, ControlServer};
use squadron_proto::{MAX_CONTROL_MESSAGE_BYTES, MAX_WORKER_MESSAGE_BYTES, PROTOCOL_VERSION};
use squadron_shuffle::Fetcher;
use squadron_shuffle::net::listen::ConnectionInfo;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::registry::{Attached, End, Joining, Refusal, Registry, Vitals};
use super::transport::{Outbox, Transport};

/// How many messages wait in a control stream before the backlog fills.
const STREAM_MESSAGES: usize = 256;
/// How long a dialler may take to register.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the address of a worker may take to answer.
const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(3);
/// How many diallers may be registering at once.
const REGISTERING_AT_ONCE: usize = 256;
const NONCE_BYTES: usize = 32;
/// How often to ask whether the port of a worker is closed while nothing is heard of it.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

type Outgoing = mpsc::Sender<Result<wire::ServerMessage, Status>>;

/// Lets workers join a registry.
#[derive(Clone)]
pub struct ControlService {
    registry: Registry,
    key: ClusterKey,
    fetcher: Fetcher,
    registering: Arc<Semaphore>,
}

impl ControlService {
    /// A service for workers that know `key`'s secret; where the key is random, for any worker, which is handed the
    /// key. A worker counts when `fetcher` finds it at the address that it advertises.
    pub fn new(registry: Registry, key: ClusterKey, fetcher: Fetcher) -> Self {
        Self {
            registry,
            key,
            fetcher,
            registering: Arc::new(Semaphore::new(REGISTERING_AT_ONCE)),
        }
    }

    /// As a part of a tonic server, with the message limits of the control stream.
    pub fn into_server(self) -> ControlServer<Self> {
        ControlServer::new(self)
            .max_decoding_message_size(MAX_WORKER_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_CONTROL_MESSAGE_BYTES)
    }

    async fn converse(
        self,
        peer: Option<SocketAddr>,
        mut incoming: Streaming<wire::WorkerMessage>,
        outgoing: Outgoing,
    ) {
        let registered = match self.registering.clone().try_acquire_owned() {
            Ok(_permit) => tokio::time::timeout(REGISTER_TIMEOUT, self.register(&mut incoming, &outgoing))
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the worker did not register in time"))),
            Err(_) => Err(Status::unavailable(
                "too many workers are registering at once; dial again later",
            )),
        };
        let status = match registered {
            // The driver says what becomes of a member.
            Ok(registration) => self.run(registration, incoming, &outgoing).await,
            Err(status) => {
                warn!(?peer, "a worker cannot join: {}", status.message());
                status
            }
        };
        // A worker that is gone needs no reason.
        let _ = outgoing.try_send(Err(status));
    }

    /// From the challenge to a registration that passed all checks.
    async fn register(
        &self,
        incoming: &mut Streaming<wire::WorkerMessage>,
        outgoing: &Outgoing,
    ) -> Result<Registration, Status> {
        let nonce = nonce()?;
        let challenge = ServerMessage::Challenge(Challenge {
            nonce: nonce.clone(),
            protocol_version: PROTOCOL_VERSION,
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        let challenge = challenge
            .try_into()
            .map_err(|_| Status::internal("challenge cannot be sent"))?;
        if outgoing.send(Ok(challenge)).await.is_err() {
            return Err(Status::cancelled("the worker hung up"));
        }
        let first = incoming
            .message()
            .await?
            .ok_or_else(|| Status::cancelled("the worker hung up"))?;
        match WorkerMessage::try_from(first) {
            Ok(WorkerMessage::Register(registration)) => {
                self.check(&registration, &nonce)?;
                self.find(&registration).await?;
                Ok(registration)
            }
            Ok(
                WorkerMessage::Heartbeat(_)
                | WorkerMessage::Report(_)
                | WorkerMessage::InventoryEnd
                | WorkerMessage::Leaving,
            ) => Err(Status::invalid_argument(
                "the first message of a worker must be Register",
            )),
            Err(malformed) => Err(Status::invalid_argument(malformed.to_string())),
        }
    }

    fn check(&self, registration: &Registration, nonce: &[u8]) -> Result<(), Status> {
        if registration.protocol_version != PROTOCOL_VERSION {
            return Err(Status::invalid_argument(format!(
                "the worker speaks protocol version {} (release {}), the server {PROTOCOL_VERSION} (release {}); \
                 install the same release on both",
                registration.protocol_version,
                registration.version,
                env!("CARGO_PKG_VERSION"),
            )));
        }
        let Registration {
            worker, epoch, proof, ..
        } = registration;
        let has_secret = self.key.shared().is_empty();
        if has_secret && !self.key.verify_proof(proof, nonce, *worker, *epoch) {
            return Err(Status::unauthenticated(
                "the worker does not know the cluster secret; start it with the server's --cluster-secret",
            ));
        }
        if registration.slots == 0 {
            return Err(Status::invalid_argument(
                "a worker must offer at least one slot; start it with --slots 1",
            ));
        }
        check_address(&registration.flight_address)
    }

    /// Makes sure that the worker itself answers at the address that it advertises: it would be given work whose output
    /// nobody can fetch.
    async fn find(&self, registration: &Registration) -> Result<(), Status> {
        let address = &registration.flight_address;
        match self.fetcher.identify(address, IDENTIFY_TIMEOUT).await {
            Ok(Some(worker)) if worker == registration.worker => Ok(()),
            Ok(other) => {
                let who = other.map_or("no worker of this release", |_| "another worker");
                Err(Status::invalid_argument(format!(
                    "the worker advertises {address}, where {who} answers; start it with --advertise HOST:PORT"
                )))
            }
            Err(failure) => Err(Status::unavailable(format!(
                "the server does not reach the worker at {address}, which it advertises: {}; open that port, or start the \
                 worker with --advertise HOST:PORT",
                failure.message
            ))),
        }
    }

    /// A member from here on; answers why it is none any more.
    async fn run(
        &self,
        registration: Registration,
        incoming: Streaming<wire::WorkerMessage>,
        outgoing: &Outgoing,
    ) -> Status {
        let options = self.registry.options();
        let silence = options.heartbeat_timeout;
        let greeting = ServerMessage::Registered(Registered {
            ticket_key: self.key.shared(),
            heartbeat_interval_ms: milliseconds(options.heartbeat_interval),
            keep_ms: milliseconds(options.keep),
        });
        let transport = Transport::Remote(Outbox::new(outgoing.clone(), self.registry.patience()));
        info!(worker = %registration.worker, version = registration.version, "worker registers");
        let address = registration.flight_address.clone();
        let attached = match self
            .registry
            .attach(joining(registration), transport, Some(greeting))
            .await
        {
            Ok(attached) => attached,
            Err(refusal) => return refused(refusal),
        };
        let messages = incoming.map(|message| match message {
            Ok(message) => WorkerMessage::try_from(message).map_err(|malformed| format!("it sent a {malformed}")),
            Err(status) => Err(format!("its connection broke: {}", status.message())),
        });
        let end = self.registry.converse(&attached, messages, Some(silence)).await;
        if matches!(end, End::Broken(_)) {
            let registry = self.registry.clone();
            self.registry
                .spawn(async move { watch_absent(&registry, &attached, &address).await });
        }
        Status::unavailable(format!("the server has given up this connection: {}", end.reason()))
    }
}

/// Gives a worker up whose connection broke as soon as its port is closed: its process is gone. A worker that hangs, or
/// that is cut off, does not refuse a connection; it has its grace to return.
async fn watch_absent(registry: &Registry, absent: &Attached, address: &str) {
    let until = Instant::now() + registry.options().keep;
    while registry.is_away(absent) && Instant::now() < until {
        if is_refused(address).await {
            let reason = format!("nothing listens at {address} any more");
            return registry.give_up(absent, reason).await;
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

async fn is_refused(address: &str) -> bool {
    let Some((host, port)) = host_and_port(address) else {
        return false;
    };
    let connected = tokio::time::timeout(PROBE_TIMEOUT, TcpStream::connect((host, port))).await;
    matches!(connected, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
}

fn host_and_port(address: &str) -> Option<(String, u16)> {
    let url = url::Url::parse(address).ok()?;
    let host = match url.host()? {
        url::Host::Ipv6(ip) => ip.to_string(),
        other => other.to_string(),
    };
    Some((host, url.port_or_known_default()?))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn joining(registration: Registration) -> Joining {
    Joining {
        worker: registration.worker,
        epoch: registration.epoch,
        kind: WorkerKind::Remote,
        slots: registration.slots,
        address: registration.flight_address,
        vitals: Vitals {
            memory_bytes: registration.memory_bytes,
            last_heartbeat: Heartbeat::default(),
            version: registration.version,
        },
    }
}

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::TooMany(_) => Status::resource_exhausted(refusal.to_string()),
        Refusal::Outdated => Status::already_exists(refusal.to_string()),
        Refusal::Stopping => Status::unavailable(refusal.to_string()),
    }
}

fn nonce() -> Result<Bytes, Status> {
    let mut nonce = [0; NONCE_BYTES];
    SystemRandom::new()
        .fill(&mut nonce)
        .map_err(|_| Status::internal("the operating system gives no random bytes"))?;
    Ok(Bytes::copy_from_slice(&nonce))
}

/// Other processes must be able to dial it.
fn check_address(address: &str) -> Result<(), Status> {
    let unusable = |why: &str| {
        Err(Status::invalid_argument(format!(
            "the worker advertises {address:?}, {why}; start it with --advertise HOST:PORT"
        )))
    };
    let Ok(url) = url::Url::parse(address) else {
        return unusable("which is not an address");
    };
    if !matches!(url.scheme(), "http" | "https") {
        return unusable("which is not an http address");
    }
    let unspecified = match url.host() {
        Some(url::Host::Ipv4(ip)) => IpAddr::from(ip).is_unspecified(),
        Some(url::Host::Ipv6(ip)) => IpAddr::from(ip).is_unspecified(),
        Some(url::Host::Domain(_)) => false,
        None => return unusable("which has no host"),
    };
    if unspecified || url.port_or_known_default().is_none_or(|port| port == 0) {
        return unusable("which nobody else can dial");
    }
    Ok(())
}

#[tonic::async_trait]
impl Control for ControlService {
    type JoinStream = ReceiverStream<Result<wire::ServerMessage, Status>>;

    async fn join(
        &self,
        request: Request<Streaming<wire::WorkerMessage>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let peer = request
            .extensions()
            .get::<ConnectionInfo>()
            .map(|connection| connection.peer);
        let (outgoing, stream) = mpsc::channel(STREAM_MESSAGES);
        let service = self.clone();
        self.registry
            .spawn(service.converse(peer, request.into_inner(), outgoing));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
