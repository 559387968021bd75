//! Clusters for tests: real processes over real sockets, described by a builder.
//!
//! ```text
//! let cluster = cluster().workers(3).slots(2).tpch(0.01).tiny_splits().start().await;
//! let (schema, rows) = cluster.client().await.query("SELECT count(*) FROM lineitem").await?;
//! ```
//!
//! All ports are 0 and read from the ready lines. A cluster owns its processes and a folder for their logs and spill
//! files; dropping the cluster removes both. When a test fails, its clusters print their logs.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::sleep;

use crate::client::Client;
use crate::faulty_disk::FaultyDisk;
use crate::link::Link;
use crate::process::{POLL_INTERVAL, Process, squadron, target_folder};

/// Splits so small that every table with two rows is spread over all tasks a cluster can run.
const TINY_SPLITS: [&str; 4] = ["--min-task-bytes", "1", "--partition-bytes", "1"];

/// Enough for any test, and small enough that several clusters fit on a small machine.
const MEMORY_MIB: u64 = 512;

/// The server's `--spill-dir` in the cluster's folder.
const SERVER_SPILL: &str = "server-spill";

/// The library of faulty disks in the cluster's folder.
const FAULTY_DISK: &str = "faulty_disk.so";

/// Lines of each log that a failed test prints.
const PRINTED_LOG_LINES: usize = 120;

/// Describes a cluster; nothing runs before [`ClusterBuilder::start`].
#[derive(Clone, Debug, Default)]
pub struct ClusterBuilder {
    remote_workers: usize,
    slots: Option<usize>,
    memory_mib: Option<u64>,
    spill_disk_kib: Option<u64>,
    has_links: bool,
    has_faulty_disks: bool,
    serve: Vec<String>,
    worker: Vec<String>,
    variables: Vec<(String, String)>,
}

/// A server with one embedded worker, unless the builder says otherwise.
pub fn cluster() -> ClusterBuilder {
    ClusterBuilder::default()
}

/// The folder that keeps generated TPC-H tables between runs.
///
/// # Panics
/// When this executable has no folder.
pub fn cache_folder() -> PathBuf {
    target_folder().join("test-data")
}

impl ClusterBuilder {
    /// `count` worker processes and no embedded worker.
    pub fn workers(mut self, count: usize) -> Self {
        self.remote_workers = count;
        self
    }

    /// Slots of each worker, remote or embedded.
    pub fn slots(mut self, count: usize) -> Self {
        self.slots = Some(count);
        self
    }

    /// `--memory` of each process, in MiB, in place of what fits any test.
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.memory_mib = Some(mib);
        self
    }

    /// The spill folders of each process are on a disk of their own of so many KiB, which the process mounts where nobody
    /// else sees it; see [`can_mount`].
    pub fn spill_disk_kib(mut self, kib: u64) -> Self {
        self.spill_disk_kib = Some(kib);
        self
    }

    /// TPC-H tables, generated once and shared by all tests.
    pub fn tpch(self, scale_factor: f64) -> Self {
        self.serve_arg("--tpch").serve_arg(scale_factor.to_string())
    }

    /// The tables of a folder, or one table given as `NAME=URL`.
    pub fn data(self, source: impl AsRef<Path>) -> Self {
        self.serve_arg("--data")
            .serve_arg(source.as_ref().display().to_string())
    }

    /// Forces distribution: scans and shuffles are cut as small as possible.
    pub fn tiny_splits(mut self) -> Self {
        self.serve.extend(TINY_SPLITS.map(String::from));
        self
    }

    /// One more argument of `squadron serve`.
    pub fn serve_arg(mut self, argument: impl Into<String>) -> Self {
        self.serve.push(argument.into());
        self
    }

    /// One more argument of every `squadron worker`.
    pub fn worker_arg(mut self, argument: impl Into<String>) -> Self {
        self.worker.push(argument.into());
        self
    }

    /// An environment variable of every process.
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Starts all processes and returns when the server answers and all workers are registered.
    ///
    /// # Panics
    /// When a process does not become ready.
    pub async fn start(self) -> Cluster {
        let folder = TempDir::with_prefix("squadron-test-").expect("there is a temporary folder");
        if self.has_faulty_disks {
            FaultyDisk::compile(&folder.path().join(FAULTY_DISK));
        }
        let mut server = Process::start(
            "server",
            self.serve_command(folder.path()),
            folder.path().join("server.log"),
        );
        let url = server.wait_for_line("squadron listening on ").await;
        let cluster_url = match self.remote_workers {
            0 => None,
            _ => Some(server.wait_for_line("squadron cluster on ").await),
        };
        let mut cluster = Cluster {
            server,
            workers: Vec::new(),
            launched: 0,
            url,
            cluster_url,
            folder,
            builder: self,
        };
        for _ in 0..cluster.builder.remote_workers {
            cluster.launch_worker().await;
        }
        for worker in &mut cluster.workers {
            worker.wait_until_ready().await;
        }
        cluster
    }

    fn serve_command(&self, folder: &Path) -> Command {
        let mut command = self.command("serve", folder.join(SERVER_SPILL));
        command.args(["--listen", "127.0.0.1:0", "--cache-dir"]);
        command.arg(cache_folder());
        if self.remote_workers > 0 {
            command.args(["--embedded-workers", "0"]);
            command.args(["--cluster-listen", "127.0.0.1:0"]);
        }
        command.args(&self.serve);
        command
    }

    /// Whatever workers exchange with the server and with each other passes through links; see [`Cluster::links`].
    pub fn links(mut self) -> Self {
        self.has_links = true;
        self
    }

    /// The spill folders of workers are on disks that the test can fill and slow down; see [`Cluster::disk`].
    pub fn faulty_disks(mut self) -> Self {
        self.has_faulty_disks = true;
        self
    }

    fn worker_command(&self, server: &str, links: Option<&Links>, spill: PathBuf, library: &Path) -> Command {
        let mut command = self.command("worker", spill.clone());
        if self.has_faulty_disks {
            command.envs(FaultyDisk::of(spill).variables(library));
        }
        match links {
            None => command.args(["--server", server]),
            Some(links) => {
                command
                    .arg("--server")
                    .arg(format!("http://{}", links.control.address()));
                command.arg("--listen").arg(behind(links.data.address()).to_string());
                command.arg("--advertise").arg(links.data.address().to_string())
            }
        };
        command.args(&self.worker);
        command
    }

    fn command(&self, subcommand: &str, spill: PathBuf) -> Command {
        let mut command = match self.spill_disk_kib {
            None => Command::new(squadron()),
            Some(kib) => on_small_disk(&spill, kib),
        };
        let memory_mib = self.memory_mib.unwrap_or(MEMORY_MIB);
        command.args([subcommand, "--memory", &format!("{memory_mib}MiB")]);
        command.arg("--spill-dir");
        command.arg(spill);
        if let Some(slots) = self.slots {
            command.args(["--slots", &slots.to_string()]);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// Starts a program in a user namespace and a mount namespace of its own, where it may mount file systems.
const UNSHARE: [&str; 3] = ["unshare", "--mount", "--map-root-user"];

/// Whether [`ClusterBuilder::spill_disk_kib`] works here: it needs the right to mount, or user namespaces.
pub fn can_mount() -> bool {
    let [program, arguments @ ..] = UNSHARE;
    let mounted = Command::new(program)
        .args(arguments)
        .args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .output();
    mounted.is_ok_and(|output| output.status.success())
}

/// `squadron` with a disk of `kib` at `folder`.
fn on_small_disk(folder: &Path, kib: u64) -> Command {
    let [program, arguments @ ..] = UNSHARE;
    let script = r#"mkdir -p "$1" && mount -t tmpfs -o "size=$2k" tmpfs "$1" && shift 2 && exec "$@""#;
    let mut command = Command::new(program);
    command.args(arguments).args(["sh", "-c", script, "sh"]);
    command.arg(folder).arg(kib.to_string()).arg(squadron());
    command
}

/// The links of a worker.
pub struct Links {
    /// To the server: launches, reports and heartbeats.
    pub control: Link,
    /// To the worker, from all that fetch its rows.
    pub data: Link,
}

/// Where a worker listens whose link has this address: at the same port, which is free, since nothing else here uses the
/// address.
fn behind(link: SocketAddr) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), link.port()))
}

/// A remote worker and, once it is ready, the URL of its data port.
struct Worker {
    process: Process,
    links: Option<Links>,
    url: String,
}

impl Worker {
    async fn wait_until_ready(&mut self) {
        self.url = self.process.wait_for_line("squadron worker ready on ").await;
    }
}

/// A running cluster.
pub struct Cluster {
    server: Process,
    workers: Vec<Worker>,
    launched: usize,
    url: String,
    cluster_url: Option<String>,
    folder: TempDir,
    builder: ClusterBuilder,
}

impl Cluster {
    /// `grpc://HOST:PORT`, for clients.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `http://HOST:PORT`, for workers.
    ///
    /// # Panics
    /// When the cluster has no remote workers, hence no cluster port.
    pub fn cluster_url(&self) -> &str {
        let url = self.cluster_url.as_deref();
        url.expect("only a server of remote workers has a cluster port")
    }

    /// A new connection.
    pub async fn client(&self) -> Client {
        Client::connect(&self.url).await
    }

    /// The server.
    pub fn server(&mut self) -> &mut Process {
        &mut self.server
    }

    /// A remote worker.
    pub fn worker(&mut self, index: usize) -> &mut Process {
        &mut self.workers[index].process
    }

    /// How many remote workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// `grpc://HOST:PORT` of a remote worker.
    pub fn worker_url(&self, index: usize) -> &str {
        &self.workers[index].url
    }

    /// Starts one more remote worker; returns when it is registered.
    pub async fn add_worker(&mut self) {
        self.launch_worker().await;
        let newest = self.workers.last_mut().expect("one was just launched");
        newest.wait_until_ready().await;
    }

    /// The links of a remote worker.
    ///
    /// # Panics
    /// When the cluster was not built with links.
    pub fn links(&self, index: usize) -> &Links {
        let links = self.workers[index].links.as_ref();
        links.expect("a cluster with links")
    }

    async fn launch_worker(&mut self) {
        let name = format!("worker-{}", self.launched);
        self.launched += 1;
        let spill = self.folder.path().join(format!("{name}-spill"));
        let links = match self.builder.has_links {
            true => Some(self.make_links().await),
            false => None,
        };
        let library = self.folder.path().join(FAULTY_DISK);
        let command = self
            .builder
            .worker_command(self.cluster_url(), links.as_ref(), spill, &library);
        let log = self.folder.path().join(format!("{name}.log"));
        let process = Process::start(name, command, log);
        let url = String::new();
        self.workers.push(Worker { process, links, url });
    }

    async fn make_links(&self) -> Links {
        let server = self.cluster_url().rsplit('/').next();
        let server = server.and_then(|server| server.parse().ok());
        let server: SocketAddr = server.expect("the cluster port is at an IP address");
        Links {
            control: Link::to(|_| server).await,
            data: Link::to(behind).await,
        }
    }

    /// Processor time that all living processes used so far, in hundredths of a second (Linux).
    pub fn cpu_ticks(&self) -> u64 {
        self.processes().map(Process::cpu_ticks).sum()
    }

    /// Waits until the processes have used `ticks` hundredths of a second from now on, so that a query certainly runs.
    ///
    /// # Panics
    /// When that takes longer than `limit`.
    pub async fn wait_until_busy(&self, ticks: u64, limit: Duration) {
        let start = self.cpu_ticks();
        let condition = format!("the cluster works for {ticks} hundredths of a second");
        wait_until(&condition, limit, || self.cpu_ticks() >= start + ticks).await;
    }

    /// Waits until no process uses the processor any more, or waits for it, so that nothing of any query runs.
    ///
    /// # Panics
    /// When that takes longer than `limit`.
    pub async fn wait_until_idle(&self, limit: Duration) {
        // Heartbeats and timers use less than a tenth of a core; the smallest query of a debug build uses a whole core.
        const WINDOW: Duration = Duration::from_millis(500);
        const BACKGROUND_TICKS: u64 = 5;
        let end = Instant::now() + limit;
        loop {
            let before = self.cpu_ticks();
            let wants_to_run = self.always_has_runnable_thread(WINDOW).await;
            if !wants_to_run && self.cpu_ticks() - before <= BACKGROUND_TICKS {
                return;
            }
            assert!(Instant::now() < end, "the cluster is not idle after {limit:?}");
        }
    }

    /// Whether a thread wants to run whenever one looks: on a busy machine, those of long queries, which are the nicest, get
    /// no more of the processors than idle ones use.
    async fn always_has_runnable_thread(&self, window: Duration) -> bool {
        let end = Instant::now() + window;
        let mut always = true;
        while Instant::now() < end {
            sleep(POLL_INTERVAL).await;
            always &= self.processes().any(|process| process.runnable_threads() > 0);
        }
        always
    }

    /// The `--memory` of each process, which its queries may use.
    pub fn memory_bytes(&self) -> u64 {
        self.builder.memory_mib.unwrap_or(MEMORY_MIB) << 20
    }

    /// Peak resident memory of each living process, by its name (Linux).
    pub fn peak_memory_bytes(&self) -> Vec<(&str, u64)> {
        self.processes()
            .map(|process| (process.name(), process.peak_memory_bytes()))
            .collect()
    }

    /// The folder in which the server keeps spilled rows.
    pub fn server_spill_folder(&self) -> PathBuf {
        self.folder.path().join(SERVER_SPILL)
    }

    /// A remote worker's `--spill-dir`.
    pub fn spill_folder(&self, index: usize) -> PathBuf {
        let name = self.workers[index].process.name();
        self.folder.path().join(format!("{name}-spill"))
    }

    /// The disk of a remote worker's `--spill-dir`.
    ///
    /// # Panics
    /// When the cluster was not built with faulty disks.
    pub fn disk(&self, index: usize) -> FaultyDisk {
        assert!(self.builder.has_faulty_disks, "a cluster with faulty disks");
        FaultyDisk::of(self.spill_folder(index))
    }

    /// Files of spilled rows; marker files of the processes do not count.
    pub fn spilled_files(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.folder.path()).expect("the test's folder is readable");
        folders
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .flat_map(|folder| spilled_files_below(&folder))
            .collect()
    }

    /// The same of the server alone, as it sees its disks (Linux).
    pub fn spilled_files_of_server(&self) -> Vec<PathBuf> {
        let folder = self.server_spill_folder();
        let root = format!("/proc/{}/root{}", self.server.id(), folder.display());
        spilled_files_below(root.as_ref())
    }

    /// Drops a worker that the test has ended, so that it no longer counts.
    pub fn forget_worker(&mut self, index: usize) {
        drop(self.workers.remove(index));
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        let workers = self.workers.iter().map(|worker| &worker.process);
        std::iter::once(&self.server).chain(workers)
    }

    fn print_logs(&self) {
        for process in self.processes() {
            let log = process.log();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(PRINTED_LOG_LINES)..];
            println!("---- log of {} ({} lines) ----", process.name(), lines.len());
            println!("{}", last.join("\n"));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
    }
}

/// Waits until `holds` gives true.
///
/// # Panics
/// When it does not hold within `limit`; the message names `condition`.
pub async fn wait_until(condition: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "not within {limit:?}: {condition}");
        sleep(POLL_INTERVAL).await;
    }
}

fn spilled_files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = files_below(folder);
    files.retain(|file| fs::metadata(file).is_ok_and(|data| data.len() > 64));
    files
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        match path.is_dir() {
            true => files.extend(files_below(&path)),
            false => files.push(path),
        }
    }
    files
}
