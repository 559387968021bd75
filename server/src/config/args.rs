//! The definition of all flags: the comment on a field is its help text.
//!
//! Environment variables and keys of the configuration file are not declared here: they follow from the names of the
//! flags (see `layers`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use url::Url;

use super::machine;
use super::values::{self, DataSource, Secret};

/// A distributed SQL server for any Arrow Flight SQL client.
///
/// `squadron serve --data DIR` makes every Parquet, CSV, JSON, Arrow or Avro file of a folder a table and serves them;
/// `squadron sql` asks it; `squadron worker` on another machine makes it faster.
#[derive(Debug, Parser)]
#[command(name = "squadron", version, disable_help_subcommand = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve tables to Arrow Flight SQL clients.
    Serve(Box<ServeArgs>),
    /// Lend this machine's cores and memory to a server.
    Worker(Box<WorkerArgs>),
    /// Ask a server: an interactive shell, or one statement with -c.
    Sql(Box<SqlArgs>),
    /// Make the hash of a password, for a line NAME:HASH of `serve --users FILE`.
    HashPassword(HashPasswordArgs),
    /// Write the TPC-H tables into the cache; `serve --tpch` starts this as a process of its own, because the generator
    /// keeps 300 MB for as long as its process lives.
    #[command(hide = true)]
    GenerateTpch(GenerateTpchArgs),
}

/// `squadron serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Where Flight SQL clients connect; port 0 picks a free one and the ready line names it.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50051", value_parser = values::parse_address)]
    pub listen: SocketAddr,
    /// Where workers connect. Without it this server runs alone, with its embedded workers.
    #[arg(long, value_name = "HOST:PORT", value_parser = values::parse_address)]
    pub cluster_listen: Option<SocketAddr>,
    /// The secret that workers need to join; @FILE reads it from a file. Required as soon as other machines can reach
    /// --cluster-listen.
    #[arg(long, value_name = "TEXT|@FILE", value_parser = values::parse_secret)]
    pub cluster_secret: Option<Secret>,
    /// The users that may connect: a file of lines NAME:HASH, the hashes made by `squadron hash-password`. With it, or
    /// with --tokens, every client must log in. Read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub users: Option<PathBuf>,
    /// The tokens that may connect without a password: a file of lines NAME:TOKEN, or NAME:sha256:DIGEST with the
    /// token's SHA-256. Read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Encrypt both ports with this certificate, a PEM file that also holds the chain to its authority.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// The authorities of workers' certificates, a PEM file [default: those that browsers trust].
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Serve beyond this machine without authentication. Anyone who can reach the port can read every table.
    #[arg(long)]
    pub insecure: bool,
    /// Refuse to start when a table cannot be read. Without it the other tables are served and the broken one says why.
    #[arg(long)]
    pub strict: bool,
    /// Workers inside this process; 0 leaves all work to remote ones.
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::parse_workers)]
    pub embedded_workers: usize,
    /// What each embedded worker may use.
    #[command(flatten)]
    pub work: WorkArgs,
    /// A folder: each file and each folder of files in it is a table. Or NAME=URL: one table from s3://, gs://, az://,
    /// http(s):// or file://. May be given several times; in a variable, separate with commas.
    #[arg(long, value_name = "DIR|NAME=URL", action = ArgAction::Append, value_parser = values::parse_data_source)]
    pub data: Vec<DataSource>,
    /// Serve the eight TPC-H tables of this scale (1 is 1 GB of raw data), generated on first use and then cached.
    #[arg(long, value_name = "SCALE", value_parser = values::parse_scale)]
    pub tpch: Option<f64>,
    /// Where generated tables are kept [default: the user's cache folder].
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Read flags from this file: its table `serve` has keys such as cluster_listen. A variable beats the file, a flag
    /// beats both.
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// How long a result waits for its client, before it is dropped and its query cancelled.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::parse_duration)]
    pub result_ttl: Duration,
    /// How long a session, a login and a prepared statement are kept after their last use.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = values::parse_duration)]
    pub session_idle_timeout: Duration,
    /// How long a client's connection may be without a call before it is closed; clients connect again when they need to.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = values::parse_duration)]
    pub idle_timeout: Duration,
    /// How long a client may leave the next part of an answer unread before the answer is given up and its query
    /// cancelled.
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = values::parse_duration)]
    pub idle_reader_timeout: Duration,
    /// How many sessions, and how many logins, are kept at once; beyond it the least recently used are forgotten.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = values::parse_at_least_one)]
    pub max_sessions: usize,
    /// How many prepared statements are kept at once; beyond it, or when their plans take a quarter of
    /// --scheduler-memory, the least recently used are forgotten.
    #[arg(long, value_name = "N", default_value = "10000", value_parser = values::parse_at_least_one)]
    pub max_prepared_statements: usize,
    /// Where clients are sent for results of several endpoints (SET squadron.endpoints = parallel): to the workers that
    /// hold them, with the way through this server as a fallback, or to this server alone, for clients that cannot
    /// reach workers.
    #[arg(long, value_name = "WHERE", default_value = "workers")]
    pub endpoint_locations: EndpointLocations,
    /// How long a query waits for a first worker before it fails.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::parse_duration)]
    pub no_worker_timeout: Duration,
    /// How long a worker of which nothing is heard may take to return, with all that it holds, before it is lost. A worker
    /// whose process has ended is lost at once.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = values::parse_duration)]
    pub worker_grace: Duration,
    /// How long any query may take, from its start to its last row; a session may ask for less with
    /// squadron.query_timeout [default: no limit].
    #[arg(long, value_name = "TIME", value_parser = values::parse_duration)]
    pub query_timeout: Option<Duration>,
    /// How long running queries may go on after SIGTERM or Ctrl-C.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::parse_duration)]
    pub drain_timeout: Duration,
    /// How many results may wait for their clients at once; more queries are refused until some are read.
    #[arg(long, value_name = "N", default_value = "256", value_parser = values::parse_at_least_one)]
    pub max_open_results: usize,
    /// The largest message a client may send, such as a batch of rows to bind or write, and the largest it is sent: a
    /// single row, which workers limit to 256 MiB besides.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::parse_message_size)]
    pub max_message_bytes: usize,
    /// How running queries share the workers: stride (by the time they have used, short queries first), fair (equal
    /// shares) or fifo (in their order).
    #[arg(long, value_name = "POLICY", default_value = "stride")]
    pub policy: PolicyName,
    /// How fast the share of a query falls with its size under --policy stride: with this power of it, from 0 (not at
    /// all) to 4.
    #[arg(long, value_name = "N", default_value = "2", value_parser = values::parse_priority_decay)]
    pub priority_decay: u32,
    /// How many queries may run at once; more wait in a queue. A result that waits for its client counts as running.
    #[arg(long, value_name = "N", default_value = "256", value_parser = values::parse_at_least_one)]
    pub max_running: usize,
    /// How many queries may wait to run; more are refused as Unavailable, with a hint when to try again.
    #[arg(long, value_name = "N", default_value = "4096", value_parser = values::parse_whole_number)]
    pub max_queued: usize,
    /// How many queries of one session may run or wait.
    #[arg(long, value_name = "N", default_value = "1024", value_parser = values::parse_at_least_one)]
    pub max_session_queries: usize,
    /// Resource groups: shares and limits of users, tags and sessions. The file is read again when it changes and on
    /// SIGHUP.
    #[arg(long, value_name = "FILE.toml")]
    pub groups: Option<PathBuf>,
    /// How many queries that have ended are kept for system.queries, system.stages and system.tasks.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = values::parse_whole_number)]
    pub history_queries: usize,
    /// Where ended queries are kept on disk as well, so that a restarted server still shows them [default: nowhere].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How many bytes may lie in --state-dir; the oldest are removed.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = values::parse_size)]
    pub state_disk: u64,
    /// How much the server itself keeps in memory for its clients: plans of queries that wait or run, results that it
    /// holds until they are fetched, the history. When it is short, the history gives way first, then unfetched
    /// results; queries are refused as Unavailable only when plans alone take all of it.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = values::parse_size)]
    pub scheduler_memory: u64,
    /// How much memory the plan of one statement may take, by the planner's estimate; a statement that needs more is
    /// refused. What is being planned at a time may take --scheduler-memory together.
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = values::parse_size)]
    pub plan_memory: u64,
    /// How long one statement may be planned.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::parse_duration)]
    pub plan_timeout: Duration,
    /// How many bytes of a scan are worth a task of their own. Smaller tables are read in fewer tasks.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = values::parse_size)]
    pub min_task_bytes: u64,
    /// How many bytes one partition of an exchange should hold, by the planner's estimate.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = values::parse_size)]
    pub partition_bytes: u64,
    /// How many partitions an exchange may have at most.
    #[arg(long, value_name = "N", default_value = "512", value_parser = values::parse_at_least_one)]
    pub max_partitions: usize,
}

/// How running queries share the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PolicyName {
    /// By the time they have used, short queries first.
    Stride,
    /// Equal shares.
    Fair,
    /// In their order.
    Fifo,
}

/// `squadron worker`.
#[derive(Args, Debug)]
pub struct WorkerArgs {
    /// The server's cluster port, as `serve --cluster-listen` opened it.
    #[arg(long, value_name = "http://HOST:PORT", required = true, value_parser = values::parse_server_url)]
    pub server: Url,
    /// Where other workers fetch shuffle output from this one [default: a free port of the address that reaches the
    /// server].
    #[arg(long, value_name = "HOST:PORT", value_parser = values::parse_address)]
    pub listen: Option<SocketAddr>,
    /// The host, or host and port, under which the others reach this worker, where that is not its own address.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub advertise: Option<String>,
    /// The server's --cluster-secret; @FILE reads it from a file.
    #[arg(long, value_name = "TEXT|@FILE", value_parser = values::parse_secret)]
    pub cluster_secret: Option<Secret>,
    /// Encrypt the port where others fetch from this worker with this certificate, a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// The authorities of the server's and the other workers' certificates, a PEM file [default: those that browsers
    /// trust].
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// What this worker may use.
    #[command(flatten)]
    pub work: WorkArgs,
    /// How long running attempts may go on after SIGTERM or Ctrl-C.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::parse_duration)]
    pub drain_timeout: Duration,
    /// Read flags from this file: its table `worker` has keys such as cluster_secret.
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
}

/// What one worker may use of its machine.
#[derive(Args, Debug, Clone)]
pub struct WorkArgs {
    /// How many partitions a worker runs at once [default: cores divided by embedded workers].
    #[arg(long, value_name = "N", value_parser = values::parse_slots)]
    pub slots: Option<usize>,
    /// Memory of a worker's operators, shuffle and results, such as 4GB or 4GiB [default: 70 % of the machine's or
    /// container's, divided by embedded workers].
    #[arg(long, value_name = "SIZE", value_parser = values::parse_memory)]
    pub memory: Option<u64>,
    /// Where rows go that do not fit into memory [default: the user's folder in the system's temporary folder].
    #[arg(long, value_name = "DIR")]
    pub spill_dir: Option<PathBuf>,
    /// How many bytes may lie in --spill-dir at once; more fails the query that asks for them.
    #[arg(long, value_name = "SIZE", default_value = "100GiB", value_parser = values::parse_size)]
    pub max_spill_bytes: u64,
    /// How large a single value may be that a function such as repeat or range makes.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = values::parse_size)]
    pub max_value_bytes: u64,
    /// How far a result may run ahead of its reader, per task.
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = values::parse_size)]
    pub stream_bytes: u64,
    /// How many fetched bytes may wait for an operator, per task and input.
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = values::parse_size)]
    pub fetch_bytes: u64,
    /// How long a task may make no progress (a disk or peer that hangs) before it is tried on another worker. A task that
    /// waits for its client is not counted.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = values::parse_duration)]
    pub stall_timeout: Duration,
}

impl WorkArgs {
    /// Slots of each of `workers` workers in this process.
    pub fn slots(&self, workers: usize) -> usize {
        self.slots.unwrap_or_else(|| (machine::cores() / workers.max(1)).max(1))
    }

    /// Memory of each of `workers` workers in this process, in bytes.
    pub fn memory_bytes(&self, workers: usize) -> u64 {
        self.memory
            .unwrap_or_else(|| machine::memory_bytes() / 10 * 7 / workers.max(1) as u64)
    }
}

/// `squadron sql`.
#[derive(Args, Debug)]
pub struct SqlArgs {
    /// The server.
    #[arg(long, value_name = "grpc://HOST:PORT", default_value = "grpc://127.0.0.1:50051", value_parser = values::parse_server_url)]
    pub server: Url,
    /// Run this SQL and exit.
    #[arg(long, short = 'c', value_name = "SQL", conflicts_with = "file")]
    pub command: Option<String>,
    /// Run the SQL of this file and exit.
    #[arg(long, short = 'f', value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// How rows are printed.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: OutputFormat,
    /// The authority of the server's certificate, a PEM file, for grpc+tls:// [default: those that browsers trust].
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The user's name, for servers that ask for one. Without --password you are asked for it.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// The user's password; @FILE reads it from a file.
    #[arg(long, value_name = "TEXT|@FILE", value_parser = values::parse_secret, requires = "user")]
    pub password: Option<Secret>,
    /// A bearer token; @FILE reads it from a file.
    #[arg(long, value_name = "TEXT|@FILE", value_parser = values::parse_secret, conflicts_with_all = ["user", "password"])]
    pub token: Option<Secret>,
    /// Read flags from this file: its table `sql` has keys such as server.
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
}

/// Where clients fetch the rows of results of several endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EndpointLocations {
    /// From the workers that hold them, else through the server.
    Workers,
    /// Through the server.
    Server,
}

/// How `squadron sql` prints rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Columns drawn with lines.
    Table,
    /// Comma-separated, with a header.
    Csv,
    /// One JSON object per row and line.
    Json,
    /// An Arrow IPC stream, for other programs.
    Arrow,
}

/// `squadron hash-password`.
#[derive(Args, Debug)]
pub struct HashPasswordArgs {
    /// The password; @FILE reads it from a file [default: you are asked for it, or it is the first line of standard
    /// input].
    #[arg(long, value_name = "TEXT|@FILE", value_parser = values::parse_secret)]
    pub password: Option<Secret>,
}

/// `squadron generate-tpch`.
#[derive(Args, Debug)]
pub struct GenerateTpchArgs {
    /// The scale.
    #[arg(long, value_parser = values::parse_scale)]
    pub scale: f64,
    /// The cache folder.
    #[arg(long)]
    pub cache_dir: PathBuf,
}
