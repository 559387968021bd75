//! Dialling the server: from no connection to the control stream of a registered worker.
//!
//! ```text
//! connect ─> Join ─> Challenge ─> same protocol version? ─> Register (with proof) ─> Registered
//!    │                                     │                        │
//!    └─ no answer: try later               └─ no: give up           └─ secret refused: give up
//! ```

use std::time::Duration;

use futures::{Stream, StreamExt};
use squadron_proto::control::{Challenge, Registered, Registration, ServerMessage, WorkerMessage};
use squadron_proto::ticket::ClusterKey;
use squadron_proto::wire::control as wire;
use squadron_proto::wire::control::control_client::ControlClient;
use squadron_proto::{Failure, FailureKind, MAX_CONTROL_MESSAGE_BYTES, PROTOCOL_VERSION, WorkerId};
use squadron_shuffle::Trust;
use squadron_shuffle::net::tls;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

/// The release of this worker, for messages.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// How many messages may wait for the connection.
const CHANNEL_MESSAGES: usize = 256;

/// How long everything from the connection to `Registered` may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the connection is probed and how long the answer may take: a dead server is noticed after their sum.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// How much of a message the server may send before the worker has read any of it.
const WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// What a worker needs to dial its server and to register there.
#[derive(Clone)]
pub(crate) struct Dialer {
    /// `http://host:port`
    pub(crate) server: String,
    pub(crate) worker: WorkerId,
    pub(crate) epoch: u64,
    /// `http://host:port` of this worker's Flight service.
    pub(crate) flight_address: String,
    pub(crate) slots: u32,
    pub(crate) memory_bytes: u64,
    /// Derived from the cluster secret, where there is one.
    pub(crate) key: Option<ClusterKey>,
    /// Certificate authorities trusted for an encrypted server.
    pub(crate) trust: Trust,
}

/// The control stream of a registered worker.
pub(crate) struct Session {
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: mpsc::Sender<WorkerMessage>,
    pub(crate) registered: Registered,
}

/// Why there is no session.
#[derive(Debug)]
pub(crate) enum DialError {
    /// No Squadron server answers; a later try may succeed.
    Unreachable(String),
    /// The port is none for workers.
    WrongPort(Failure),
    /// The server refuses this worker for good.
    Refused(Failure),
}

/// Messages of the server on a control stream.
pub(crate) struct Incoming(Streaming<wire::ServerMessage>);

impl Stream for Incoming {
    type Item = Result<ServerMessage, String>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context).map(|message| {
            message.map(|message| match message {
                Ok(message) => {
                    ServerMessage::try_from(message).map_err(|malformed| format!("the server sent a {malformed}"))
                }
                Err(status) => Err(describe(&status)),
            })
        })
    }
}

impl Dialer {
    /// Tries once, within [`HANDSHAKE_TIMEOUT`].
    pub(crate) async fn dial(&self) -> Result<Session, DialError> {
        tokio::time::timeout(HANDSHAKE_TIMEOUT, self.join())
            .await
            .unwrap_or_else(|_| {
                let reason = format!("no answer within {HANDSHAKE_TIMEOUT:?}");
                Err(DialError::Unreachable(reason))
            })
    }

    async fn join(&self) -> Result<Session, DialError> {
        let channel = self.endpoint()?.connect().await.map_err(unreachable)?;
        let (outgoing, messages) = mpsc::channel::<WorkerMessage>(CHANNEL_MESSAGES);
        let messages = ReceiverStream::new(messages).map(wire::WorkerMessage::from);
        let mut incoming = client(channel)
            .join(messages)
            .await
            .map_err(|status| self.classify_refusal(&status))?
            .into_inner();
        let ServerMessage::Challenge(challenge) = self.receive(&mut incoming).await? else {
            return Err(unexpected("its first message is no challenge"));
        };
        self.check_version(&challenge)?;
        let registration = WorkerMessage::Register(self.registration(&challenge));
        outgoing
            .send(registration)
            .await
            .map_err(|_| unexpected("it closed the connection"))?;
        let ServerMessage::Registered(registered) = self.receive(&mut incoming).await? else {
            return Err(unexpected("it does not say whether this worker is registered"));
        };
        Ok(Session {
            incoming: Incoming(incoming),
            outgoing,
            registered,
        })
    }

    fn endpoint(&self) -> Result<Endpoint, DialError> {
        let endpoint = Endpoint::from_shared(self.server.clone())
            .map_err(unreachable)?
            .connect_timeout(HANDSHAKE_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            // A large plan arrives in few round trips, so that it does not hold up the messages behind it.
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .tcp_nodelay(true);
        self.trust.secure(endpoint).map_err(unreachable)
    }

    async fn receive(&self, incoming: &mut Streaming<wire::ServerMessage>) -> Result<ServerMessage, DialError> {
        let message = incoming
            .message()
            .await
            .map_err(|status| self.classify_refusal(&status))?;
        let message = message.ok_or_else(|| unexpected("it closed the connection"))?;
        ServerMessage::try_from(message).map_err(|malformed| unexpected(&format!("it sent a {malformed}")))
    }

    fn check_version(&self, challenge: &Challenge) -> Result<(), DialError> {
        if challenge.protocol_version == PROTOCOL_VERSION {
            return Ok(());
        }
        let Challenge {
            protocol_version: theirs,
            server_version,
            ..
        } = challenge;
        Err(DialError::Refused(Failure::new(
            FailureKind::Unsupported,
            format!(
                "the server at {} speaks protocol version {theirs} (release {server_version}), this worker speaks \
                 version {PROTOCOL_VERSION} (release {RELEASE}); run the same release of squadron on both",
                self.server
            ),
        )))
    }

    fn registration(&self, challenge: &Challenge) -> Registration {
        let key = self.key.as_ref();
        Registration {
            protocol_version: PROTOCOL_VERSION,
            worker: self.worker,
            epoch: self.epoch,
            flight_address: self.flight_address.clone(),
            slots: self.slots,
            memory_bytes: self.memory_bytes,
            version: RELEASE.to_owned(),
            proof: key.map_or_else(Default::default, |key| {
                key.proof(&challenge.nonce, self.worker, self.epoch)
            }),
        }
    }

    /// Tells refusals for good from those after which to try again; the former say what to change.
    fn classify_refusal(&self, status: &Status) -> DialError {
        let server = &self.server;
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => {
                let given = match self.key {
                    Some(_) => "does not accept the cluster secret of this worker",
                    None => "asks for a cluster secret, and this worker has none",
                };
                DialError::Refused(Failure::new(
                    FailureKind::Unauthenticated,
                    format!("the server at {server} {given}; give both the same --cluster-secret"),
                ))
            }
            Code::InvalidArgument => DialError::Refused(Failure::new(
                FailureKind::Invalid,
                format!("the server at {server} refuses this worker: {}", status.message()),
            )),
            Code::Unimplemented => DialError::WrongPort(Failure::new(
                FailureKind::Invalid,
                format!(
                    "{server} is no cluster port; give --server the address that \
                     `squadron serve --cluster-listen` prints"
                ),
            )),
            _ => DialError::Unreachable(describe(status)),
        }
    }
}

fn client(channel: Channel) -> ControlClient<Channel> {
    ControlClient::new(channel)
        .max_decoding_message_size(MAX_CONTROL_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_CONTROL_MESSAGE_BYTES)
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn unexpected(what: &str) -> DialError {
    DialError::Unreachable(format!("what answers there is no Squadron server: {what}"))
}

fn unreachable(error: tonic::transport::Error) -> DialError {
    DialError::Unreachable(tls::connection_failure(&error))
}
