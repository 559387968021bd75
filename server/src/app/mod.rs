//! Puts a process together and takes it apart again.
//!
//! ```text
//! serve:   config -> engine -> catalog -> scheduler -> workers -> cluster port -> client port -> ready -> drain -> end
//! worker:  config -> squadron_worker::serve -> ready -> drain -> end
//! ```
//!
//! Everything that is started here has an owner here: the [`JoinSet`] of the server, whose end ends it all.

mod group_file;
mod groups;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use futures::Stream;
use squadron_proto::WorkerKind;
use squadron_proto::ticket::ClusterKey;
use squadron_proto::{Failure, FailureKind, WorkerId};
use squadron_scheduler::{AdmissionLimits, Limits, Policy};
use squadron_shuffle::net::calls::IdleLimits;
use squadron_shuffle::net::count_calls::CountCalls;
use squadron_shuffle::net::listen::{self, Connection};
use squadron_shuffle::{DataService, ServerTls, Trust};
use squadron_worker::{Engine, RemoteOptions, WorkerOptions};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::auth::{AuthOptions, Authenticator};
use crate::catalog::{Catalog, CatalogOptions};
use crate::config::{self, EndpointLocations, PolicyName, ServeArgs, WorkArgs, WorkerArgs};
use crate::driver::workers::{ControlService, Registry, RegistryOptions};
use crate::driver::{Driver, SchedulerHandle};
use crate::flight::{self, FlightOptions, Gate, SizeLimited};
use crate::plan_limits::PlanLimits;
use crate::planner::{Planner, SizeOptions};
use crate::query::history::HistoryLimits;
use crate::query::records::QueryRecords;
use crate::query::results::ResultReader;
use crate::query::{Locations, OpenSessions, Planning, Queries, QueryParts};
use crate::system;
use crate::writes::Writes;

/// How long a ticket is good for; the result behind it is usually gone long before.
const TICKET_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The history takes at most this part of the scheduler's memory, also when the rest is free.
const HISTORY_PART: u64 = 4;
/// The plans of prepared statements take at most this part of it.
const PREPARED_PART: u64 = 4;
/// See [`streams`].
const MIN_STREAMS: u32 = 1_000;
/// How often a draining server looks whether everything has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long connections may take to close once all queries have ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs `squadron serve` until `shutdown`, then drains.
///
/// # Errors
/// Why it could not start; nothing is left of it then.
pub async fn serve(args: &ServeArgs, shutdown: CancellationToken) -> Result<(), Failure> {
    let authenticator = Authenticator::new(&auth_options(args))?;
    let tls = server_tls(args.tls_cert.as_deref(), args.tls_key.as_deref())?;
    let trust = trust(args.tls_ca.as_deref())?;
    let key = cluster_key(args);
    let engine = Engine::new(&engine_options(args, trust), key.clone(), None)?;
    let options = CatalogOptions::from(args);
    let opened = Catalog::open(&options, Arc::clone(&engine.runtime));
    // Tables may be many, or slow to answer.
    let Some(catalog) = shutdown.run_until_cancelled(opened).await else {
        return Ok(());
    };
    let catalog = catalog?;
    let client_listener = bind(args.listen, "--listen").await?;
    let cluster_listener = match args.cluster_listen {
        Some(address) => Some(bind(address, "--cluster-listen").await?),
        None => None,
    };

    let stop = CancellationToken::new();
    let mut owned = JoinSet::new();
    let (registry, worker_events) = Registry::new(registry_options(args));
    let records = QueryRecords::open(history_limits(args), args.result_ttl)?;
    let directory = Arc::new(records.clone());
    let (driver, scheduler) = Driver::new(limits(args), directory, registry.clone(), worker_events);
    owned.spawn(driver.run(stop.clone()));
    owned.spawn(until(&stop, records.clone().sweep()));
    if let Some(file) = &args.groups {
        groups::load(file, &scheduler).await?;
        owned.spawn(groups::watch(file.clone(), scheduler.clone(), stop.clone()));
    }
    start_workers(args, &engine, &registry, &mut owned).await;

    let client_address = local_address(&client_listener)?;
    if authenticator.is_required() && tls.is_none() && !client_address.ip().is_loopback() {
        warn!("passwords and tokens travel unencrypted over the network; give --tls-cert and --tls-key");
    }
    let sessions = OpenSessions::default();
    let planner = planner(args);
    system::register(&catalog, &scheduler, &records, &sessions, &planner)?;
    let shared = SharedParts {
        catalog: catalog.clone(),
        planner,
        scheduler,
        records,
        sessions,
        key: key.clone(),
    };
    let queries = queries(args, &engine, shared)?;
    let cluster_address = match cluster_listener {
        Some(listener) => {
            let address = local_address(&listener)?;
            let incoming = listen::incoming(listener, tls.as_ref(), None);
            serve_cluster(incoming, &registry, &engine, key, &stop, &mut owned);
            Some(address)
        }
        None => None,
    };
    let service = flight::service(queries.clone(), catalog, authenticator, &flight_options(args));
    let idle = IdleLimits {
        connection: args.idle_timeout,
        reader: args.idle_reader_timeout,
    };
    let incoming = listen::incoming(client_listener, tls.as_ref(), Some(idle));
    serve_clients(incoming, service, streams(args), &stop, &mut owned).await;
    announce(client_address, cluster_address, tls.is_some());

    shutdown.cancelled().await;
    drain(&queries, args.drain_timeout).await;
    stop.cancel();
    registry.shutdown();
    if tokio::time::timeout(CLOSE_TIMEOUT, closed(&mut owned)).await.is_err() {
        info!("some connections were still open and are dropped");
    }
    engine.store.close();
    Ok(())
}

/// Runs `squadron worker` until `shutdown`, then drains.
///
/// # Errors
/// Why it cannot be a worker of that server.
pub async fn work(args: &WorkerArgs, shutdown: CancellationToken) -> Result<(), Failure> {
    let tls = server_tls(args.tls_cert.as_deref(), args.tls_key.as_deref())?;
    let scheme = if tls.is_some() { "grpc+tls" } else { "grpc" };
    let options = RemoteOptions {
        listen: args.listen,
        advertise: args.advertise.clone(),
        tls,
        cluster_secret: args.cluster_secret.as_ref().map(|secret| secret.reveal().to_owned()),
        worker: worker_options(&args.work, 1, trust(args.tls_ca.as_deref())?),
        drain_timeout: args.drain_timeout,
        ..RemoteOptions::new(args.server.clone())
    };
    squadron_worker::serve(options, shutdown, |address| {
        say(&format!("squadron worker ready on {scheme}://{address}"));
    })
    .await
}

fn cluster_key(args: &ServeArgs) -> ClusterKey {
    match &args.cluster_secret {
        Some(secret) => ClusterKey::from_secret(secret.reveal()),
        None => ClusterKey::random(),
    }
}

/// Slots of all embedded workers together.
fn all_slots(args: &ServeArgs) -> usize {
    let workers = args.embedded_workers.max(1);
    args.work.slots(workers) * workers
}

/// All embedded workers share one engine; the local worker needs its threads even without them.
fn engine_options(args: &ServeArgs, trust: Trust) -> WorkerOptions {
    let workers = args.embedded_workers.max(1);
    let one = worker_options(&args.work, workers, trust);
    WorkerOptions {
        slots: all_slots(args),
        memory_bytes: one.memory_bytes.saturating_mul(workers),
        ..one
    }
}

fn worker_options(args: &WorkArgs, workers: usize, trust: Trust) -> WorkerOptions {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    WorkerOptions {
        slots: args.slots(workers),
        memory_bytes: size(args.memory_bytes(workers)),
        spill_dir: args.spill_dir.clone(),
        max_spill_bytes: args.max_spill_bytes,
        max_value_bytes: args.max_value_bytes,
        streamed_bytes: size(args.stream_bytes),
        fetch_bytes: size(args.fetch_bytes),
        stall_timeout: args.stall_timeout,
        watches_memory: true,
        trust,
    }
}

fn auth_options(args: &ServeArgs) -> AuthOptions {
    AuthOptions {
        users: args.users.clone(),
        tokens: args.tokens.clone(),
        idle_timeout: args.session_idle_timeout,
        max_logins: args.max_sessions as u64,
    }
}

fn flight_options(args: &ServeArgs) -> FlightOptions {
    FlightOptions {
        max_message_bytes: args.max_message_bytes,
        session_idle_timeout: args.session_idle_timeout,
        max_sessions: args.max_sessions as u64,
        max_prepared_statements: args.max_prepared_statements as u64,
        max_prepared_bytes: args.scheduler_memory / PREPARED_PART,
        ..FlightOptions::default()
    }
}

/// The command line sees to it that both or none are given.
fn server_tls(cert: Option<&Path>, key: Option<&Path>) -> Result<Option<ServerTls>, Failure> {
    let files = cert.zip(key);
    files.map(|(cert, key)| ServerTls::load(cert, key)).transpose()
}

fn trust(authority: Option<&Path>) -> Result<Trust, Failure> {
    authority.map_or_else(|| Ok(Trust::public()), Trust::from_file)
}

fn limits(args: &ServeArgs) -> Limits {
    Limits {
        no_worker_timeout: args.no_worker_timeout,
        worker_grace: args.worker_grace,
        max_open_results: args.max_open_results,
        policy: match args.policy {
            PolicyName::Stride => Policy::Stride,
            PolicyName::Fair => Policy::Fair,
            PolicyName::Fifo => Policy::Fifo,
        },
        priority_decay: args.priority_decay,
        admission: AdmissionLimits {
            max_running: args.max_running,
            max_queued: args.max_queued,
            max_per_session: args.max_session_queries,
        },
        ..Limits::default()
    }
}

/// A worker may notice a broken connection before the server does, so it keeps what it has for longer than its grace.
fn registry_options(args: &ServeArgs) -> RegistryOptions {
    let options = RegistryOptions::default();
    RegistryOptions {
        keep: args.worker_grace + 2 * options.heartbeat_timeout,
        ..options
    }
}

fn history_limits(args: &ServeArgs) -> HistoryLimits {
    HistoryLimits {
        max_queries: args.history_queries,
        max_bytes: args.scheduler_memory / HISTORY_PART,
        folder: args.state_dir.clone(),
        max_disk_bytes: args.state_disk,
    }
}

/// The embedded workers, and the local one for what cannot be sent.
async fn start_workers(args: &ServeArgs, engine: &Arc<Engine>, registry: &Registry, owned: &mut JoinSet<()>) {
    let slots = args.work.slots(args.embedded_workers);
    let embedded = std::iter::repeat_n((WorkerKind::Embedded, slots), args.embedded_workers);
    let local = (WorkerKind::Local, all_slots(args));
    for (kind, slots) in embedded.chain([local]) {
        let id = WorkerId::new();
        let worker = squadron_worker::embedded(Arc::clone(engine), id, slots);
        registry
            .attach_embedded(
                id,
                kind,
                u32::try_from(slots).unwrap_or(u32::MAX),
                args.work.memory_bytes(args.embedded_workers),
                worker.to_worker,
                worker.from_worker,
            )
            .await;
        let mut task = worker.task;
        owned.spawn(async move { while task.join_next().await.is_some() {} });
    }
}

/// Parts of the server that others than its queries use too.
struct SharedParts {
    catalog: Catalog,
    planner: Planner,
    scheduler: SchedulerHandle,
    records: QueryRecords,
    sessions: OpenSessions,
    key: ClusterKey,
}

fn queries(args: &ServeArgs, engine: &Engine, shared: SharedParts) -> Result<Queries, Failure> {
    Ok(Queries::new(QueryParts {
        catalog: shared.catalog,
        planner: shared.planner,
        reader: ResultReader {
            store: engine.store.clone(),
            fetcher: engine.fetcher.clone(),
        },
        scheduler: shared.scheduler,
        records: shared.records,
        locations: locations(args),
        writes: Writes::new(Handle::current()),
        key: shared.key,
        ticket_lifetime: TICKET_LIFETIME,
        in_process: args.cluster_listen.is_none(),
        query_timeout: args.query_timeout,
        scheduler_memory: args.scheduler_memory,
        // The server's own work, whatever its workers may use.
        planning: Planning::start(config::cores(), plan_limits(args))?,
        sessions: shared.sessions,
    }))
}

fn planner(args: &ServeArgs) -> Planner {
    Planner::new(SizeOptions {
        min_task_bytes: args.min_task_bytes,
        partition_bytes: args.partition_bytes,
        max_partitions: args.max_partitions,
    })
}

fn plan_limits(args: &ServeArgs) -> PlanLimits {
    PlanLimits {
        plan_bytes: args.plan_memory,
        // One statement alone may always be planned.
        total_bytes: args.scheduler_memory.max(args.plan_memory),
        timeout: args.plan_timeout,
    }
}

/// Runs a task that never ends until the server stops, which does not wait for it.
fn until(
    stop: &CancellationToken,
    work: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let stop = stop.clone();
    async move {
        stop.run_until_cancelled(work).await;
    }
}

fn locations(args: &ServeArgs) -> Locations {
    match args.endpoint_locations {
        EndpointLocations::Server => Locations::Server,
        EndpointLocations::Workers => Locations::Workers {
            are_clients_elsewhere: !args.listen.ip().is_loopback(),
        },
    }
}

/// The port for workers: control streams, and the output of the embedded workers.
fn serve_cluster(
    incoming: impl Stream<Item = io::Result<Connection>> + Send + 'static,
    registry: &Registry,
    engine: &Engine,
    key: ClusterKey,
    stop: &CancellationToken,
    owned: &mut JoinSet<()>,
) {
    let control = ControlService::new(registry.clone(), key.clone(), engine.fetcher.clone()).into_server();
    let data = DataService::new(engine.store.clone(), key).into_server();
    let server = squadron_shuffle::serve::http2()
        .add_service(control)
        .add_service(data)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    owned.spawn(async move {
        if let Err(error) = server.await {
            warn!(%error, "the cluster port ended");
        }
    });
}

/// Calls of one connection at a time; more of them wait. Results that are not read to their end are calls as well, and
/// must not hold up those that would free them.
fn streams(args: &ServeArgs) -> u32 {
    let results = u32::try_from(args.max_open_results).unwrap_or(u32::MAX);
    results.saturating_mul(2).max(MIN_STREAMS)
}

/// The port for clients: Flight SQL and health.
async fn serve_clients(
    incoming: impl Stream<Item = io::Result<Connection>> + Send + 'static,
    service: Gate<SizeLimited<FlightServiceServer<flight::Service>>>,
    streams: u32,
    stop: &CancellationToken,
    owned: &mut JoinSet<()>,
) {
    let (health_reporter, health) = tonic_health::server::health_reporter();
    set_serving(&health_reporter, &service).await;
    let server = squadron_shuffle::serve::http2()
        .http2_max_header_list_size(flight::MAX_HEADER_LIST_BYTES)
        .max_concurrent_streams(streams)
        .layer(CountCalls)
        .add_service(health)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    owned.spawn(async move {
        if let Err(error) = server.await {
            warn!(%error, "the client port ended");
        }
    });
}

/// The service is passed for its type alone, under whose name health is asked for.
async fn set_serving<S: tonic::server::NamedService>(health: &tonic_health::server::HealthReporter, _service: &S) {
    health.set_serving::<S>().await;
}

async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(
            FailureKind::Invalid,
            format!("{flag} {address} cannot be bound ({error}); choose another address or port 0"),
        )
    })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(Failure::internal)
}

fn announce(clients: SocketAddr, cluster: Option<SocketAddr>, encrypted: bool) {
    let (grpc, http) = match encrypted {
        true => ("grpc+tls", "https"),
        false => ("grpc", "http"),
    };
    say(&format!("squadron listening on {grpc}://{clients}"));
    if let Some(cluster) = cluster {
        say(&format!("squadron cluster on {http}://{cluster}"));
    }
}

/// The parent process may have closed standard output; that is no reason to stop.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// No new statements; those that are planned or run, and results that wait, get their time.
async fn drain(queries: &Queries, timeout: Duration) {
    info!("draining: no new queries, running ones may finish");
    queries.close();
    let ended = async {
        while queries.unfinished() > 0 || queries.running_writes() > 0 {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    if tokio::time::timeout(timeout, ended).await.is_err() {
        warn!(
            unfinished = queries.unfinished(),
            "drain timeout: what still runs is stopped"
        );
    }
}

async fn closed(owned: &mut JoinSet<()>) {
    while owned.join_next().await.is_some() {}
}
