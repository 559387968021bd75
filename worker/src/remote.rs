//! `squadron worker`: a worker process of its own, through all its connections to the server.
//!
//! ```text
//! bind ─> dial ─> register ─> serve ────────────────────────┐
//!          ^ ^               │ left (SIGTERM, drained): end  │
//!          │ └ back-off      └ lost ─> offline beside dial ──┘
//! ```
//!
//! A registered worker keeps its attempts and their output while it is offline, for a bounded time. A server that hands
//! out another ticket key is another server, which knows nothing of those attempts: the worker starts anew.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use squadron_proto::control::Registered;
use squadron_proto::ticket::ClusterKey;
use squadron_proto::{Failure, FailureKind, WorkerId};
use squadron_shuffle::{DataService, ServerTls, Store};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use crate::address::{self, BindError, Bound};
use crate::backoff::Backoff;
use crate::control::{Connection, Control, Disconnected};
use crate::data::DataServer;
use crate::dial::{DialError, Dialer, Session};
use crate::engine::{Engine, WorkerOptions};
use crate::outbox::Delivery;

/// A session of at least this length resets the back-off; a shorter one counts as a failed try.
const STABLE: Duration = Duration::from_secs(5);

/// The bounds of the heartbeat interval that a server may ask for, in milliseconds.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 10..=10_000;

/// Options of a worker process.
#[derive(Clone)]
pub struct RemoteOptions {
    /// The server's cluster port, `http` or `https`.
    pub server: Url,
    /// Where the Flight service listens; none: a free port of the address from which the server is reached.
    pub listen: Option<SocketAddr>,
    /// `HOST` or `HOST:PORT` under which the server and other workers reach it, where that is not its own address.
    pub advertise: Option<String>,
    /// The certificate of the Flight service; none: it is not encrypted.
    pub tls: Option<ServerTls>,
    /// The secret that proves to the server that this worker belongs to its cluster.
    pub cluster_secret: Option<String>,
    /// How long running attempts may go on after `shutdown`.
    pub drain_timeout: Duration,
    /// Its limits.
    pub worker: WorkerOptions,
}

impl RemoteOptions {
    /// A worker of `server` with default limits and 30 s to drain.
    pub fn new(server: Url) -> Self {
        Self {
            server,
            listen: None,
            advertise: None,
            tls: None,
            cluster_secret: None,
            drain_timeout: Duration::from_secs(30),
            worker: WorkerOptions::default(),
        }
    }
}

/// Runs a worker until `shutdown`, then until it holds no attempts or the drain timeout is over. `on_ready` is
/// called once, with `host:port` of the Flight service, when the server has acknowledged the registration.
///
/// A server that does not answer is dialled again and again, with pauses of up to three seconds.
///
/// # Errors
/// When the worker can never work as asked: an address that cannot be bound, a server of another protocol version or
/// with another secret, an unusable spill folder.
pub async fn serve(
    options: RemoteOptions,
    shutdown: CancellationToken,
    on_ready: impl FnOnce(&str),
) -> Result<(), Failure> {
    let Some(bound) = shutdown.run_until_cancelled(bind(&options)).await else {
        return Ok(());
    };
    let mut remote = Remote::new(options, bound?, shutdown);
    let ended = remote.run(on_ready).await;
    if let Some(worker) = &remote.worker {
        worker.store.close();
    }
    ended
}

/// Tries until there is a route to the server.
async fn bind(options: &RemoteOptions) -> Result<Bound, Failure> {
    let mut backoff = Backoff::new();
    loop {
        let advertise = options.advertise.as_deref();
        match address::bind(options.listen, advertise, &options.server).await {
            Ok(bound) => return Ok(bound),
            Err(BindError::Invalid(failure)) => return Err(failure),
            Err(BindError::Unreachable(reason)) => wait(&mut backoff, &options.server, &reason).await,
        }
    }
}

async fn wait(backoff: &mut Backoff, server: &Url, reason: &str) {
    let pause = backoff.next_pause();
    warn!(%server, ?pause, "server not reached, trying again: {reason}");
    tokio::time::sleep(pause).await;
}

struct Remote {
    options: RemoteOptions,
    bound: Bound,
    dialer: Dialer,
    shutdown: CancellationToken,
    backoff: Backoff,
    worker: Option<RegisteredWorker>,
    /// Says who this is while there is no registered worker to say it.
    joining: Option<DataServer>,
}

/// The parts of a worker that exist from its first registration on.
struct RegisteredWorker {
    /// The key that the server handed out; empty when it derives from the secret.
    ticket_key: Vec<u8>,
    /// How long it keeps attempts and output while it does not reach the server.
    keep: Duration,
    control: Control,
    data: DataServer,
    store: Store,
}

impl Remote {
    fn new(options: RemoteOptions, bound: Bound, shutdown: CancellationToken) -> Self {
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let dialer = Dialer {
            trust: options.worker.trust.clone(),
            server: address::origin(&options.server),
            worker: WorkerId::new(),
            epoch: epoch(),
            flight_address: format!("{scheme}://{}", bound.advertised),
            slots: slots(&options.worker),
            memory_bytes: options.worker.memory_bytes as u64,
            key: options.cluster_secret.as_deref().map(ClusterKey::from_secret),
        };
        Self {
            options,
            bound,
            dialer,
            shutdown,
            backoff: Backoff::new(),
            worker: None,
            joining: None,
        }
    }

    /// Serves one session after the other, until the worker has left.
    async fn run(&mut self, on_ready: impl FnOnce(&str)) -> Result<(), Failure> {
        let mut on_ready = Some(on_ready);
        while let Some(session) = self.connect().await? {
            let heartbeat = self.register(&session.registered).await?;
            if let Some(on_ready) = on_ready.take() {
                on_ready(&self.bound.advertised);
            }
            if self.serve_session(session, heartbeat).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Dials until a session stands; none after a shutdown. Meanwhile the attempts of a registered worker go on.
    async fn connect(&mut self) -> Result<Option<Session>, Failure> {
        let was_registered = self.worker.is_some();
        if !was_registered && self.joining.is_none() {
            self.joining = Some(self.serve_data(DataService::of_joining_worker(self.dialer.worker))?);
        }
        let dial = dial(&self.dialer, &self.options.server, &mut self.backoff, was_registered);
        let offline = async {
            match &mut self.worker {
                Some(worker) => worker.control.offline(worker.keep).await,
                None => std::future::pending().await,
            }
        };
        let session = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => None,
            never = offline => match never {},
            session = dial => Some(session?),
        };
        if session.is_none()
            && let Some(worker) = &mut self.worker
        {
            worker.control.stop().await;
        }
        Ok(session)
    }

    /// Reconnects the worker to its former server, or starts it anew for another one. Returns the heartbeat interval.
    async fn register(&mut self, registered: &Registered) -> Result<Duration, Failure> {
        match &mut self.worker {
            Some(worker) if worker.ticket_key == registered.ticket_key => {
                info!(server = %self.options.server, "joined again");
                worker.keep = keep(registered);
                worker.control.reconnect();
            }
            _ => {
                if let Some(mut former) = self.worker.take() {
                    former.control.stop().await;
                }
                info!(server = %self.options.server, worker = %self.dialer.worker, "joined");
                self.joining = None;
                self.worker = Some(self.new_worker(registered)?);
            }
        }
        let interval_ms = registered.heartbeat_interval_ms;
        let interval_ms = interval_ms.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end());
        Ok(Duration::from_millis(interval_ms))
    }

    fn new_worker(&self, registered: &Registered) -> Result<RegisteredWorker, Failure> {
        let dialer = &self.dialer;
        let key = match (registered.ticket_key.is_empty(), &dialer.key) {
            (false, _) => ClusterKey::from_shared(registered.ticket_key.clone()),
            (true, Some(key)) => key.clone(),
            (true, None) => {
                let server = &dialer.server;
                return Err(Failure::new(
                    FailureKind::Unauthenticated,
                    format!("the server at {server} has a cluster secret; give this worker the same --cluster-secret"),
                ));
            }
        };
        let worker = &self.options.worker;
        let engine = Engine::new(worker, key.clone(), Some(dialer.server.clone()))?;
        let store = engine.store.clone();
        let service = DataService::new(store.clone(), key).with_identity(dialer.worker);
        Ok(RegisteredWorker {
            ticket_key: registered.ticket_key.to_vec(),
            keep: keep(registered),
            data: self.serve_data(service)?,
            store,
            control: Control::new(engine, dialer.worker, dialer.slots, Delivery::Acknowledged),
        })
    }

    fn serve_data(&self, service: DataService) -> Result<DataServer, Failure> {
        DataServer::start(&self.bound.listener, self.options.tls.as_ref(), service)
    }

    /// Serves one session. True when the worker has left the server and has stopped.
    async fn serve_session(&mut self, session: Session, heartbeat: Duration) -> Result<bool, Failure> {
        let Some(RegisteredWorker { control, data, .. }) = &mut self.worker else {
            return Err(Failure::internal("a session without a registered worker"));
        };
        let started = Instant::now();
        let mut connection = Connection {
            incoming: session.incoming,
            outgoing: session.outgoing,
            heartbeat: Some(heartbeat),
            leave: self.shutdown.clone(),
        };
        let drain_timeout = self.options.drain_timeout;
        let drained = async {
            self.shutdown.cancelled().await;
            tokio::time::sleep(drain_timeout).await;
        };
        let disconnected = tokio::select! {
            disconnected = control.serve(&mut connection) => disconnected,
            failure = data.wait_for_failure() => return Err(failure),
            () = drained => {
                warn!(?drain_timeout, "drain timeout over, stopping what still runs");
                Disconnected::Left
            }
        };
        match disconnected {
            Disconnected::Lost(reason) if !control.is_leaving() => {
                warn!(server = %self.options.server, "connection lost: {reason}");
                if started.elapsed() >= STABLE {
                    self.backoff.reset();
                }
                return Ok(false);
            }
            Disconnected::Lost(reason) => info!("the server went while this worker was leaving: {reason}"),
            Disconnected::Left => connection.close().await,
        }
        control.stop().await;
        Ok(true)
    }
}

/// Dials with pauses until a session stands or can never stand. A worker that was registered pauses before the first
/// try as well.
async fn dial(dialer: &Dialer, server: &Url, backoff: &mut Backoff, was_registered: bool) -> Result<Session, Failure> {
    if was_registered {
        tokio::time::sleep(backoff.next_pause()).await;
    }
    loop {
        match dialer.dial().await {
            Ok(session) => return Ok(session),
            Err(DialError::Refused(failure)) => return Err(failure),
            Err(DialError::WrongPort(failure)) if !was_registered => return Err(failure),
            Err(DialError::WrongPort(failure)) => wait(backoff, server, &failure.message).await,
            Err(DialError::Unreachable(reason)) => wait(backoff, server, &reason).await,
        }
    }
}

fn slots(options: &WorkerOptions) -> u32 {
    u32::try_from(options.slots).unwrap_or(u32::MAX)
}

fn keep(registered: &Registered) -> Duration {
    Duration::from_millis(registered.keep_ms)
}

/// Later starts have larger numbers.
fn epoch() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
