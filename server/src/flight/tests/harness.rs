//! A whole server of one embedded worker, in this process, and a client of it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::sql::client::FlightSqlServiceClient;
use squadron_proto::WorkerId;
use squadron_proto::WorkerKind;
use squadron_proto::ticket::ClusterKey;
use squadron_scheduler::Limits;
use squadron_shuffle::net::listen;
use squadron_worker::{Engine, WorkerOptions, embedded};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};

use crate::auth::Authenticator;
use crate::catalog::{Catalog, CatalogOptions};
use crate::driver::Driver;
use crate::driver::workers::{Registry, RegistryOptions};
use crate::flight;
use crate::plan_limits::PlanLimits;
use crate::planner::{Planner, SizeOptions};
use crate::query::history::HistoryLimits;
use crate::query::records::QueryRecords;
use crate::query::results::ResultReader;
use crate::query::{Locations, OpenSessions, Planning, Principal, Queries, QueryParts, Session};
use crate::sql::{PlannedStatement, Source};
use crate::writes::Writes;

/// A Flight SQL client.
pub(super) type Client = FlightSqlServiceClient<Channel>;

/// A client with the server it is connected to.
pub(super) struct Connected {
    client: Client,
    _server: JoinSet<()>,
    _engine: Arc<Engine>,
}

impl Deref for Connected {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Connected {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// A catalog without tables.
pub(in crate::flight) async fn empty_catalog() -> Catalog {
    Catalog::open(&CatalogOptions::default(), Arc::default()).await.unwrap()
}

/// A planned statement and the session it was planned for.
pub(in crate::flight) async fn planned(sql: &str) -> (Session, PlannedStatement) {
    let (queries, session) = queries_and_session().await;
    let planned = queries.prepare(&session, Source::Sql(sql.to_owned())).await.unwrap();
    (session, planned)
}

/// Queries that can be planned but not run, and a session of them.
pub(in crate::flight) async fn queries_and_session() -> (Queries, Session) {
    let (engine, key) = engine();
    let mut server = JoinSet::new();
    let (queries, catalog) = queries(&engine, key, &mut server).await;
    let principal = Principal::default();
    let context = catalog.session_context_of(&principal);
    let session = queries.sessions().open("s".into(), principal, context);
    (queries, session)
}

fn engine() -> (Arc<Engine>, ClusterKey) {
    let key = ClusterKey::random();
    let options = WorkerOptions {
        slots: 1,
        ..WorkerOptions::default()
    };
    (Engine::new(&options, key.clone(), None).unwrap(), key)
}

/// A new server without tables, and a client of it.
pub(super) async fn connect() -> Connected {
    connect_with(flight::FlightOptions::default()).await
}

/// The same with these limits.
pub(super) async fn connect_with(options: flight::FlightOptions) -> Connected {
    let (engine, key) = engine();
    let mut server = JoinSet::new();
    let queries = queries(&engine, key, &mut server).await;
    let service = flight::service(queries.0, queries.1, Authenticator::open_to_all(), &options);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Server::builder()
        .add_service(service)
        .serve_with_incoming(listen::incoming(listener, None, None));
    server.spawn(async move { serving.await.unwrap() });
    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    Connected {
        client: Client::new(channel),
        _server: server,
        _engine: engine,
    }
}

async fn queries(engine: &Arc<Engine>, key: ClusterKey, server: &mut JoinSet<()>) -> (Queries, Catalog) {
    let catalog = Catalog::open(&CatalogOptions::default(), Arc::clone(&engine.runtime))
        .await
        .unwrap();
    let (registry, events) = Registry::new(RegistryOptions::default());
    let records = QueryRecords::open(HistoryLimits::default(), Duration::from_secs(60)).unwrap();
    let (driver, scheduler) = Driver::new(Limits::default(), Arc::new(records.clone()), registry.clone(), events);
    server.spawn(driver.run(CancellationToken::new()));
    for kind in [WorkerKind::Embedded, WorkerKind::Local] {
        let id = WorkerId::new();
        let mut worker = embedded(Arc::clone(engine), id, 1);
        registry
            .attach_embedded(id, kind, 1, 1 << 30, worker.to_worker, worker.from_worker)
            .await;
        server.spawn(async move { while worker.task.join_next().await.is_some() {} });
    }
    let parts = QueryParts {
        catalog: catalog.clone(),
        planner: Planner::new(SizeOptions {
            min_task_bytes: 1 << 20,
            partition_bytes: 1 << 20,
            max_partitions: 4,
        }),
        reader: ResultReader {
            store: engine.store.clone(),
            fetcher: engine.fetcher.clone(),
        },
        records,
        locations: Locations::Server,
        scheduler,
        sessions: OpenSessions::default(),
        writes: Writes::new(tokio::runtime::Handle::current()),
        key,
        ticket_lifetime: Duration::from_secs(60),
        query_timeout: None,
        planning: Planning::start(
            2,
            PlanLimits {
                plan_bytes: 1 << 30,
                total_bytes: 1 << 30,
                timeout: Duration::from_secs(60),
            },
        )
        .unwrap(),
        scheduler_memory: 1 << 30,
        in_process: true,
    };
    (Queries::new(parts), catalog)
}
