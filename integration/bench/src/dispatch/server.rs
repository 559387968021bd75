//! The server's side of the control streams in this process, without the Flight SQL front end, and worker processes.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;

use squadron::driver::directory::Subscribers;
use squadron::driver::workers::{ControlService, Registry, RegistryOptions};
use squadron::driver::{Driver, QueryEvents, QueryUpdate, SchedulerHandle};
use squadron_integration::process::{Process, squadron};
use squadron_proto::QueryId;
use squadron_proto::ticket::ClusterKey;
use squadron_scheduler::{Limits, StageGraph};
use squadron_shuffle::net::listen;
use squadron_shuffle::{FetchOptions, Fetcher, serve};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Result, usage};

/// A scheduler with its workers.
pub(super) struct Server {
    handle: SchedulerHandle,
    stop: CancellationToken,
    owned: JoinSet<()>,
    workers: Vec<Process>,
    _folder: TempDir,
}

impl Server {
    /// Starts everything and returns when all workers are registered.
    pub(super) async fn start(workers: u32, slots: u32) -> Result<Self> {
        let (registry, events) = Registry::new(RegistryOptions::default());
        let (driver, handle) = Driver::new(
            Limits::default(),
            Arc::new(Subscribers::default()),
            registry.clone(),
            events,
        );
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let stop = CancellationToken::new();
        let mut owned = JoinSet::new();
        owned.spawn(driver.run(stop.clone()));
        let key = ClusterKey::random();
        let fetcher = Fetcher::new(FetchOptions::new(key.clone()));
        let control = ControlService::new(registry, key, fetcher).into_server();
        let served = serve::http2()
            .add_service(control)
            .serve_with_incoming_shutdown(listen::incoming(listener, None, None), stop.clone().cancelled_owned());
        owned.spawn(async move {
            if let Err(error) = served.await {
                eprintln!("the cluster port ended: {error}");
            }
        });
        let folder = TempDir::with_prefix("squadron-bench-")?;
        let mut workers: Vec<_> = (0..workers)
            .map(|number| start_worker(number, &url, slots, &folder))
            .collect();
        for worker in &mut workers {
            worker.wait_for_line("squadron worker ready on ").await;
        }
        Ok(Self {
            handle,
            stop,
            owned,
            workers,
            _folder: folder,
        })
    }

    /// A handle by which one query is submitted.
    pub(super) fn submitter(&self) -> Submitter {
        Submitter(self.handle.clone())
    }

    pub(super) fn worker_cpu_seconds(&self) -> Option<f64> {
        let pids: Vec<_> = self.workers.iter().map(Process::id).collect();
        usage::cpu_seconds_of(&pids)
    }

    /// Ends the workers, then the server.
    pub(super) async fn stop(mut self) {
        self.workers.clear();
        self.stop.cancel();
        while self.owned.join_next().await.is_some() {}
    }
}

fn start_worker(number: u32, url: &str, slots: u32, folder: &TempDir) -> Process {
    let name = format!("worker-{number}");
    let mut command = Command::new(squadron());
    command.args(["worker", "--server", url, "--slots", &slots.to_string()]);
    let spill = folder.path().join(format!("{name}-spill"));
    command.arg("--spill-dir").arg(spill);
    let log = folder.path().join(format!("{name}.log"));
    Process::start(name, command, log)
}

/// Submits one query.
pub(super) struct Submitter(SchedulerHandle);

impl Submitter {
    /// Submits the query, and returns when its result can be read.
    pub(super) async fn submit(self, graph: StageGraph) -> Result<ReadyQuery> {
        let query = graph.query;
        let mut events = self.0.submit(graph).await?;
        match events.next().await {
            Some(QueryUpdate::ResultReady { .. }) => Ok(ReadyQuery { query, events }),
            Some(QueryUpdate::Ended(Err(failure))) => Err(failure.into()),
            Some(QueryUpdate::PartsLost { failure, .. }) => Err(failure.into()),
            Some(QueryUpdate::Ended(Ok(_))) | None => Err(format!("query {query} ended without a result").into()),
        }
    }

    /// Submits the query, and returns when it has ended.
    pub(super) async fn run(self, graph: StageGraph) -> Result<()> {
        self.submit(graph).await?.finish().await
    }
}

/// A query whose result, which has no rows, can be read.
pub(super) struct ReadyQuery {
    query: QueryId,
    events: QueryEvents,
}

impl ReadyQuery {
    /// Reports that the result was read, and waits for the end of the query.
    pub(super) async fn finish(mut self) -> Result<()> {
        self.events.result_done();
        match self.events.next().await {
            Some(QueryUpdate::Ended(Ok(_))) => Ok(()),
            Some(QueryUpdate::Ended(Err(failure))) => Err(failure.into()),
            Some(QueryUpdate::PartsLost { failure, .. }) => Err(failure.into()),
            Some(QueryUpdate::ResultReady { .. }) | None => Err(format!("query {} never ended", self.query).into()),
        }
    }
}
