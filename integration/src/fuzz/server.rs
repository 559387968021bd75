//! A server with one worker inside this process, so that what it does shows in the coverage.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use squadron::app;
use squadron::config::{self, Command};
use squadron_proto::WorkerId;
use squadron_worker::Engine;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::ANSWER_LIMIT;
use crate::client::Client;
use crate::impostor::ImpostorAddress;

/// As in `squadron serve`.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Of the server and of what claims to be its workers.
pub(super) const CLUSTER_SECRET: &str = "a secret of the fuzz targets";

/// The worker that targets pretend to be.
pub(super) const WORKER: WorkerId = WorkerId::from_u128(5);

/// What every target reads: a few rows of the usual types.
const TABLE: &str =
    "n,x,s,d,at\n1,0.5,one,2020-01-01,2020-01-01T00:00:00\n2,,two,1999-12-31,2038-01-19T03:14:08\n3,-1e300,,,\n";

/// See [`Server::get`].
pub struct Server {
    runtime: Runtime,
    /// For files that a target writes.
    folder: TempDir,
    cluster_url: String,
    client: Client,
    /// Where the worker [`WORKER`] answers.
    pub(super) worker_address: ImpostorAddress,
    /// The command of a prepared statement with two parameters.
    pub(super) prepared: OnceLock<Vec<u8>>,
    /// A worker's, beside the one of the server.
    pub(super) engine: OnceLock<Arc<Engine>>,
    stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    /// The one of this process, started when nobody holds one.
    pub fn get() -> Arc<Self> {
        static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::start());
            *shared = Arc::downgrade(&started);
            started
        })
    }

    fn start() -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .expect("threads can be started");
        let folder = TempDir::with_prefix("squadron-fuzz-").expect("a temporary folder");
        fs::create_dir(folder.path().join("data")).expect("a folder of tables");
        fs::write(folder.path().join("data/t.csv"), TABLE).expect("a table");
        let (listen, cluster_listen) = (free_address(), free_address());
        let Command::Serve(args) = parse(&listen, &cluster_listen, folder.path()) else {
            unreachable!("`serve` was asked for");
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let served = runtime.spawn(async move { app::serve(&args, stopped).await });
        let client = runtime.block_on(async {
            tokio::select! {
                ended = served => panic!("the server does not start: {ended:?}"),
                client = connect(&listen) => client,
            }
        });
        Self {
            folder,
            cluster_url: format!("http://{cluster_listen}"),
            worker_address: runtime.block_on(ImpostorAddress::of(WORKER)),
            client,
            runtime,
            prepared: OnceLock::new(),
            engine: OnceLock::new(),
            stop,
        }
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) fn cluster_url(&self) -> String {
        self.cluster_url.clone()
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits for `work`, which names itself in its errors; not longer than an answer may take.
    pub(super) fn run(&self, work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
        self.runtime.block_on(async {
            let ended = timeout(ANSWER_LIMIT, work).await;
            ended.unwrap_or_else(|_| Err(format!("no answer within {ANSWER_LIMIT:?}")))
        })
    }

    /// The runtime of the server, for connections of the targets.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

/// Limits are low, so that what should meet one does soon.
fn parse(listen: &str, cluster_listen: &str, folder: &Path) -> Command {
    let data = folder.join("data");
    let spill = folder.join("spill");
    let words = [
        "squadron",
        "serve",
        "--listen",
        listen,
        "--cluster-listen",
        cluster_listen,
        "--data",
        data.to_str().expect("temporary folders have plain names"),
        "--spill-dir",
        spill.to_str().expect("temporary folders have plain names"),
        "--cluster-secret",
        CLUSTER_SECRET,
        "--slots=1",
        "--memory=256MiB",
        "--plan-memory=64MiB",
        "--plan-timeout=10s",
        "--query-timeout=10s",
        "--max-value-bytes=1MiB",
        "--result-ttl=5s",
        "--max-prepared-statements=50",
        "--history-queries=10",
    ];
    let words = words.into_iter().map(OsString::from);
    config::parse(words, |_| None).unwrap_or_else(|_| unreachable!("the flags are right"))
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .to_string()
}

async fn connect(address: &str) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    while endpoint.connect().await.is_err() {
        sleep(Duration::from_millis(10)).await;
    }
    Client::connect(&format!("grpc://{address}")).await
}
