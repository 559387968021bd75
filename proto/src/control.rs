//! The messages between the server and a worker, as domain types.
//!
//! ```text
//! server                                   worker
//!   Challenge             ------------->
//!                         <-------------   Register
//!   Registered            ------------->
//!   Stage, Launch         ------------->               (reserve: nothing runs yet)
//!                         <-------------   Reserved | Refused
//!   Commit                ------------->
//!                         <-------------   Running, Parked, Resumed, Finished | Failed | Cancelled, Dropped
//!   Acknowledge           ------------->               (a report not acknowledged is resent after a reconnect)
//!   Cancel, Spare, Release ------------>
//!   QueryFailed           ------------->               (before the release, where clients read from workers)
//! ```
//!
//! An embedded worker exchanges the same types over channels; only there may a [`PlanRef::InProcess`] travel.

mod convert;
mod lane;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::{AttemptKey, AttemptNumber, Failure, QueryId, StageId, TaskId, WorkerId};
pub use lane::Lane;

/// From server to worker.
#[derive(Clone, Debug)]
pub enum ServerMessage {
    /// First message of a connection: the worker must prove that it knows the cluster secret.
    Challenge(Challenge),
    /// The worker has joined the cluster.
    Registered(Registered),
    /// What all attempts of a stage share; sent before the first launch of that stage.
    Stage(Stage),
    /// Reserve slots for an attempt; nothing runs before the commit.
    Launch(Launch),
    /// Run a reserved attempt.
    Commit(AttemptKey),
    /// Stop an attempt, in whatever state it is, or drop its output.
    Cancel(AttemptKey),
    /// Release shuffle output.
    Release(Release),
    /// The output of this stage is not needed. Keep it while there is room: it may save work when other output is lost.
    Spare(QueryId, StageId),
    /// A query failed; readers of its output get the failure as the cause. Its release follows.
    QueryFailed(QueryId, Failure),
    /// Reports up to and including this sequence number have arrived.
    Acknowledge(u64),
    /// Finish what runs, accept nothing new, then leave.
    Drain,
}

/// From worker to server.
#[derive(Clone, Debug)]
pub enum WorkerMessage {
    /// Answer to the challenge.
    Register(Registration),
    /// The worker is alive.
    Heartbeat(Heartbeat),
    /// An attempt changed its state.
    Report(Report),
    /// The worker leaves the cluster on purpose, to shut down.
    Leaving,
    /// After a reconnect: the state of every attempt that is here has been reported.
    InventoryEnd,
}

/// The server's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// What the worker's proof must cover.
    pub nonce: Bytes,
    /// The server's [`crate::PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// The server's release, for messages.
    pub server_version: String,
}

/// A worker's request to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The worker's [`crate::PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// Its id.
    pub worker: WorkerId,
    /// Grows with each start of this worker.
    pub epoch: u64,
    /// `http://host:port` of its Flight service.
    pub flight_address: String,
    /// How many slots it offers.
    pub slots: u32,
    /// Its memory pool, in bytes.
    pub memory_bytes: u64,
    /// Its release, for messages.
    pub version: String,
    /// See [`crate::ticket::ClusterKey::proof`]; empty without a cluster secret.
    pub proof: Bytes,
}

/// The server accepted the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The key that signs tickets, where there is no cluster secret to derive it from; else empty.
    pub ticket_key: Bytes,
    /// How often the worker must send a heartbeat, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// How long the worker keeps attempts and output while it does not reach the server, in milliseconds.
    pub keep_ms: u64,
}

/// A stage plan: bytes for another process, or an opaque reference inside one.
#[derive(Clone)]
pub enum PlanRef {
    /// Encoded by `squadron_shuffle::fragment`.
    Encoded(Bytes),
    /// An `Arc<dyn ExecutionPlan>` in a box that this crate cannot open. For one attempt only, since plan nodes keep
    /// state.
    InProcess(Arc<dyn Any + Send + Sync>),
}

impl fmt::Debug for PlanRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoded(bytes) => write!(f, "Encoded({} bytes)", bytes.len()),
            Self::InProcess(_) => write!(f, "InProcess"),
        }
    }
}

/// What all attempts of a stage share.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Of which query.
    pub query: QueryId,
    /// Which stage.
    pub stage: StageId,
    /// What to run.
    pub plan: PlanRef,
    /// DataFusion settings of the query's session, as `(key, value)`.
    pub settings: Vec<(String, String)>,
    /// The object stores that the plan reads.
    pub stores: Vec<ObjectStoreSpec>,
    /// How much of its memory the worker keeps for the query, in bytes.
    pub reserved_bytes: u64,
}

/// An object store and the options of its tables. Options may hold secrets: `Debug` shows their keys alone.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectStoreSpec {
    /// Scheme and authority, e.g. `s3://bucket`.
    pub url: String,
    /// `(key, value)` as given with `CREATE EXTERNAL TABLE ... OPTIONS`; they override the worker's environment.
    pub options: Vec<(String, String)>,
}

impl fmt::Debug for ObjectStoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.options.iter().map(|(key, _)| key).collect();
        f.debug_struct("ObjectStoreSpec")
            .field("url", &self.url)
            .field("option_keys", &keys)
            .finish()
    }
}

/// One attempt: some partitions of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Which attempt.
    pub attempt: AttemptKey,
    /// How many slots it takes.
    pub slots: u32,
    /// Which of the worker's lanes it runs in.
    pub lane: Lane,
    /// Which partitions of the stage it runs, together. Empty: the whole plan, unsliced.
    pub partitions: Vec<u32>,
    /// The files of each scan that was stripped of them.
    pub scans: Vec<ScanSplits>,
    /// Where the stages read by this one have their output; the same for all attempts of a stage.
    pub inputs: Arc<[StageInput]>,
    /// What happens to the rows.
    pub output: OutputMode,
}

/// How long an attempt's output is kept, and for how many readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputMode {
    /// Until released; any number of readers.
    Retained,
    /// Read once, bounded in bytes: the writer waits for its reader.
    Streamed,
}

/// The files of one scan that one attempt reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanSplits {
    /// Pre-order index among the scans of the stage plan.
    pub scan: u32,
    /// One encoded file group per partition of the attempt.
    pub file_groups: Vec<Bytes>,
}

/// Where one input stage has its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageInput {
    /// Which stage.
    pub stage: StageId,
    /// Its successful attempts.
    pub producers: Vec<Producer>,
}

/// One successful attempt of an input stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Which task.
    pub task: TaskId,
    /// Which try at it.
    pub attempt: AttemptNumber,
    /// `http://host:port`; empty means the server itself.
    pub address: String,
    /// The partitions that hold rows.
    pub partitions: Vec<u32>,
}

/// Which output to release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Of which query.
    pub query: QueryId,
    /// Which stages; empty: everything of the query, including its running attempts and plans.
    pub stages: Vec<StageId>,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Attempts that are running.
    pub running_attempts: u32,
    /// Bytes taken from the memory pool.
    pub memory_used_bytes: u64,
    /// How many of them the shuffle and results take.
    pub shuffle_bytes: u64,
    /// Bytes of spilled rows on disk.
    pub disk_bytes: u64,
    /// Resident memory of the process; 0 where the system does not tell.
    pub resident_bytes: u64,
}

/// An attempt changed its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Counts the reports of one epoch of a worker, in steps of one.
    pub sequence: u64,
    /// Which attempt.
    pub attempt: AttemptKey,
    /// Its new state.
    pub status: AttemptStatus,
}

/// The states a worker reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptStatus {
    /// Slots are held; the attempt waits for the commit.
    Reserved,
    /// The worker will not run it; nothing was changed.
    Refused {
        /// Why, for the log.
        reason: String,
    },
    /// It runs.
    Running,
    /// It waits for its reader, and its slots are free for others.
    Parked,
    /// Its reader came back.
    Resumed,
    /// Done; its output can be read.
    Finished(TaskOutput),
    /// It ended with an error.
    Failed(Failure),
    /// It ended because the server cancelled it.
    Cancelled,
    /// Its output, which was spare, has given way to something else.
    Dropped,
}

/// What a finished attempt wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskOutput {
    /// Sizes of the partitions that hold rows.
    pub partitions: Vec<PartitionOutput>,
    /// What the attempt consumed and produced.
    pub metrics: TaskMetrics,
}

/// Size of one partition of one attempt's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOutput {
    /// Its number in the output's partitioning.
    pub partition: u32,
    /// Rows written.
    pub rows: u64,
    /// Bytes written, as held in memory.
    pub bytes: u64,
}

/// What an attempt consumed and produced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskMetrics {
    /// From commit to end, in microseconds.
    pub elapsed_us: u64,
    /// Rows written.
    pub rows: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Bytes that overflowed to disk.
    pub spilled_bytes: u64,
    /// Bytes read from files.
    pub scanned_bytes: u64,
    /// Bytes read from the output of other workers.
    pub fetched_bytes: u64,
    /// CPU time of all threads that worked for it, in nanoseconds.
    pub cpu_ns: u64,
    /// The most bytes that its operators held of the memory pool at a time.
    pub peak_memory_bytes: u64,
    /// The operators of the plan, in pre-order.
    pub operators: Vec<OperatorMetrics>,
}

/// What one operator of an attempt did, all its partitions together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorMetrics {
    /// How many operators read its rows, directly or not.
    pub depth: u32,
    /// Its name and what it does, in one line.
    pub operator: String,
    /// Rows that it gave out.
    pub rows: u64,
    /// How long it computed, without the operators below it, in nanoseconds.
    pub busy_ns: u64,
    /// Bytes that it read: from files, or from the output of other workers.
    pub read_bytes: u64,
    /// Bytes that it wrote to disk for lack of memory.
    pub spilled_bytes: u64,
    /// How many partitions it has.
    pub partitions: u32,
    /// Rows of the partition that gave out most.
    pub largest_partition_rows: u64,
    /// What else is known of it, in one line: its own metrics, the files of a scan.
    pub details: String,
}
