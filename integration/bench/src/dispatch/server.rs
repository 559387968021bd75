//! The server's side of the control streams in this process, without a front end, and worker processes.

use std::net::Ipv4Addr;
use std::process::Command;

use squadron::driver::workers::{ControlService, Registry, RegistryOptions};
use squadron::driver::{Driver, QueryEvents, QueryUpdate, SchedulerHandle};
use squadron::query::history::{History, HistoryLimits};
use squadron_proto::QueryId;
use squadron_proto::ticket::ClusterKey;
use squadron_scheduler::{Limits, StageGraph};
use squadron_shuffle::{listen, serve};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::{Result, usage};
use squadron_integration::process::{Process, squadron};

/// A scheduler with workers.
pub(super) struct Server {
    handle: SchedulerHandle,
    stop: CancellationToken,
    owned: JoinSet<()>,
    workers: Vec<Process>,
    _folder: TempDir,
}

impl Server {
    /// Returns when all workers are members.
    pub(super) async fn start(workers: u32, slots: u32) -> Result<Self> {
        let history = History::open(HistoryLimits::default())?;
        let (registry, events) = Registry::new(RegistryOptions::default());
        let (driver, handle) = Driver::new(Limits::default(), history, registry.clone(), events);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let stop = CancellationToken::new();
        let mut owned = JoinSet::new();
        owned.spawn(driver.run(stop.clone()));
        let control = ControlService::new(registry, ClusterKey::random()).into_server();
        let served = serve::http2()
            .add_service(control)
            .serve_with_incoming_shutdown(listen::incoming(listener, None), stop.clone().cancelled_owned());
        owned.spawn(async move {
            if let Err(error) = served.await {
                eprintln!("the cluster port ended: {error}");
            }
        });
        let folder = TempDir::with_prefix("squadron-bench-")?;
        let mut workers: Vec<_> = (0..workers)
            .map(|number| worker(number, &url, slots, &folder))
            .collect();
        for worker in &mut workers {
            worker.line("squadron worker ready on ").await;
        }
        Ok(Self {
            handle,
            stop,
            owned,
            workers,
            _folder: folder,
        })
    }

    /// Hands a query in, and returns when its result can be read.
    pub(super) async fn ready(&self, graph: StageGraph) -> Result<Ready> {
        self.submitter().ready(graph).await
    }

    /// For a task of its own.
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

fn worker(number: u32, url: &str, slots: u32, folder: &TempDir) -> Process {
    let name = format!("worker-{number}");
    let mut command = Command::new(squadron());
    command.args(["worker", "--server", url, "--slots", &slots.to_string()]);
    let spill = folder.path().join(format!("{name}-spill"));
    command.arg("--spill-dir").arg(spill);
    let log = folder.path().join(format!("{name}.log"));
    Process::start(name, command, log)
}

/// Hands queries in.
pub(super) struct Submitter(SchedulerHandle);

impl Submitter {
    /// Until the result can be read.
    pub(super) async fn ready(self, graph: StageGraph) -> Result<Ready> {
        let query = graph.query;
        let mut events = self.0.submit(graph).await?;
        match events.next().await {
            Some(QueryUpdate::ResultReady { .. }) => Ok(Ready {
                query,
                events,
                handle: self.0,
            }),
            Some(QueryUpdate::Ended(Err(failure))) => Err(failure.into()),
            Some(QueryUpdate::Ended(Ok(_))) | None => Err(format!("query {query} ended without a result").into()),
        }
    }

    /// Until the query has ended.
    pub(super) async fn run(self, graph: StageGraph) -> Result<()> {
        self.ready(graph).await?.ended().await
    }
}

/// A query whose result, which has no rows, can be read.
pub(super) struct Ready {
    query: QueryId,
    events: QueryEvents,
    handle: SchedulerHandle,
}

impl Ready {
    /// Says that it has been read, and waits for the end of the query.
    pub(super) async fn ended(mut self) -> Result<()> {
        self.handle.result_done(self.query);
        match self.events.next().await {
            Some(QueryUpdate::Ended(Ok(_))) => Ok(()),
            Some(QueryUpdate::Ended(Err(failure))) => Err(failure.into()),
            Some(QueryUpdate::ResultReady { .. }) | None => Err(format!("query {} never ended", self.query).into()),
        }
    }
}
