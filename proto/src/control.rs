//! What the server and a worker say to each other, as domain types.
//!
//! ```text
//! server                                   worker
//!   Challenge             ------------->
//!                         <-------------   Register
//!   Registered            ------------->
//!   Stage, Launch         ------------->               (reserve: nothing runs yet)
//!                         <-------------   Reserved | Refused
//!   Commit                ------------->
//!                         <-------------   Running, Parked, Resumed, Finished | Failed | Cancelled
//!   Acknowledge           ------------->               (a report not acknowledged is resent after a reconnect)
//!   Cancel, Release       ------------->
//! ```
//!
//! An embedded worker exchanges the same types over channels; only there may a [`PlanRef::InProcess`] travel.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::{
    AttemptKey, AttemptNumber, Failure, Malformed, QueryId, StageId, TaskId, WorkerId,
    wire::control as wire,
};

/// From server to worker.
#[derive(Clone, Debug)]
pub enum ServerMessage {
    /// First message of a connection: prove that you know the cluster secret.
    Challenge(Challenge),
    /// The worker is a member now.
    Registered(Registered),
    /// What all attempts of a stage share; before the first launch of that stage.
    Stage(Stage),
    /// Reserve slots for an attempt; nothing runs before the commit.
    Launch(Launch),
    /// Run a reserved attempt.
    Commit(AttemptKey),
    /// Stop an attempt, in whatever state it is.
    Cancel(AttemptKey),
    /// Drop shuffle output.
    Release(Release),
    /// Reports up to and including this sequence number have arrived.
    Acknowledge(u64),
    /// Finish what runs, accept nothing new, leave.
    Drain,
}

/// From worker to server.
#[derive(Clone, Debug)]
pub enum WorkerMessage {
    /// Answer to the challenge.
    Register(Registration),
    /// Still there.
    Heartbeat(Heartbeat),
    /// An attempt changed its state.
    Report(Report),
    /// The worker is going away by its own choice.
    Leaving,
}

/// The server's first words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// What the worker's proof must cover.
    pub nonce: Bytes,
    /// The server's [`crate::PROTOCOL_VERSION`].
    pub protocol_version: u32,
    /// The server's release, for messages.
    pub server_version: String,
}

/// A worker introduces itself.
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
    /// Signs tickets, where there is no cluster secret to derive the key from; else empty.
    pub ticket_key: Bytes,
    /// How often the worker shall send a heartbeat, in milliseconds.
    pub heartbeat_interval_ms: u64,
}

/// A stage plan: bytes for another process, or an opaque reference inside one.
#[derive(Clone)]
pub enum PlanRef {
    /// Encoded by `squadron_shuffle::fragment`.
    Encoded(Bytes),
    /// An `Arc<dyn ExecutionPlan>` in a box that this crate cannot open. Good for one attempt only, since plan nodes
    /// keep state.
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
}

/// An object store and the options of its tables. Options may hold secrets: `Debug` shows their keys alone.
#[derive(Clone, PartialEq, Eq)]
pub struct ObjectStoreSpec {
    /// Scheme and authority, e.g. `s3://bucket`.
    pub url: String,
    /// `(key, value)` as given with `CREATE EXTERNAL TABLE ... OPTIONS`; the worker's environment comes first.
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
    /// Its name.
    pub attempt: AttemptKey,
    /// How many slots it takes.
    pub slots: u32,
    /// Which partitions of the stage it runs, all together. Empty: all of the plan, as it is.
    pub partitions: Vec<u32>,
    /// The files of each scan, where they were taken out of the plan.
    pub scans: Vec<ScanSplits>,
    /// Where the stages read by this one have their output.
    pub inputs: Vec<StageInput>,
    /// What happens to the rows.
    pub output: OutputMode,
}

/// How an attempt's output is kept.
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

/// Which output to drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Of which query.
    pub query: QueryId,
    /// Which stages; empty: everything of the query, also its running attempts and plans.
    pub stages: Vec<StageId>,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Attempts that are running.
    pub running_attempts: u32,
    /// Bytes taken from the memory pool.
    pub memory_used_bytes: u64,
}

/// An attempt changed its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Grows by one with each report of a worker's epoch.
    pub sequence: u64,
    /// Which attempt.
    pub attempt: AttemptKey,
    /// Its new state.
    pub status: AttemptStatus,
}

/// The states a worker reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptStatus {
    /// Slots are held; waits for the commit.
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
    /// It ended because it was told to.
    Cancelled,
}

/// What a finished attempt wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskOutput {
    /// Sizes of the partitions that hold rows.
    pub partitions: Vec<PartitionOutput>,
    /// What it took.
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

/// What an attempt took.
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
    /// One line per operator of the plan, in pre-order, indented, with its metrics.
    pub operators: Vec<String>,
}

type Outcome<T> = Result<T, Malformed>;

fn key(key: Option<wire::AttemptKey>) -> Outcome<AttemptKey> {
    key.ok_or(Malformed::new("message without an attempt key"))?
        .try_into()
}

fn settings_to_wire(settings: Vec<(String, String)>) -> Vec<wire::Setting> {
    settings
        .into_iter()
        .map(|(key, value)| wire::Setting { key, value })
        .collect()
}

fn settings_from_wire(settings: Vec<wire::Setting>) -> Vec<(String, String)> {
    settings
        .into_iter()
        .map(|setting| (setting.key, setting.value))
        .collect()
}

impl TryFrom<ServerMessage> for wire::ServerMessage {
    type Error = Malformed;

    /// Fails on a [`PlanRef::InProcess`], which cannot leave its process.
    fn try_from(message: ServerMessage) -> Outcome<Self> {
        use wire::server_message::Message;
        let message = match message {
            ServerMessage::Challenge(challenge) => Message::Challenge(wire::Challenge {
                nonce: challenge.nonce,
                protocol_version: challenge.protocol_version,
                server_version: challenge.server_version,
            }),
            ServerMessage::Registered(registered) => Message::Registered(wire::Registered {
                ticket_key: registered.ticket_key,
                heartbeat_interval_ms: registered.heartbeat_interval_ms,
            }),
            ServerMessage::Stage(stage) => Message::Stage(stage.try_into()?),
            ServerMessage::Launch(launch) => Message::Launch(launch.into()),
            ServerMessage::Commit(attempt) => Message::Commit(wire::Commit {
                attempt: Some(attempt.into()),
            }),
            ServerMessage::Cancel(attempt) => Message::Cancel(wire::Cancel {
                attempt: Some(attempt.into()),
            }),
            ServerMessage::Release(release) => Message::Release(wire::Release {
                query: release.query.to_bytes(),
                stages: release.stages.into_iter().map(|stage| stage.0).collect(),
            }),
            ServerMessage::Acknowledge(sequence) => {
                Message::Acknowledge(wire::Acknowledge { sequence })
            }
            ServerMessage::Drain => Message::Drain(wire::Drain {}),
        };
        Ok(Self {
            message: Some(message),
        })
    }
}

impl TryFrom<wire::ServerMessage> for ServerMessage {
    type Error = Malformed;

    fn try_from(message: wire::ServerMessage) -> Outcome<Self> {
        use wire::server_message::Message;
        let message = message
            .message
            .ok_or(Malformed::new("empty server message"))?;
        Ok(match message {
            Message::Challenge(challenge) => Self::Challenge(Challenge {
                nonce: challenge.nonce,
                protocol_version: challenge.protocol_version,
                server_version: challenge.server_version,
            }),
            Message::Registered(registered) => Self::Registered(Registered {
                ticket_key: registered.ticket_key,
                heartbeat_interval_ms: registered.heartbeat_interval_ms,
            }),
            Message::Stage(stage) => Self::Stage(stage.try_into()?),
            Message::Launch(launch) => Self::Launch(launch.try_into()?),
            Message::Commit(commit) => Self::Commit(key(commit.attempt)?),
            Message::Cancel(cancel) => Self::Cancel(key(cancel.attempt)?),
            Message::Release(release) => Self::Release(Release {
                query: QueryId::from_bytes(&release.query)?,
                stages: release.stages.into_iter().map(StageId).collect(),
            }),
            Message::Acknowledge(acknowledge) => Self::Acknowledge(acknowledge.sequence),
            Message::Drain(wire::Drain {}) => Self::Drain,
        })
    }
}

impl TryFrom<Stage> for wire::Stage {
    type Error = Malformed;

    fn try_from(stage: Stage) -> Outcome<Self> {
        let PlanRef::Encoded(plan) = stage.plan else {
            return Err(Malformed::new("plan reference that leaves its process"));
        };
        Ok(Self {
            query: stage.query.to_bytes(),
            stage: stage.stage.0,
            plan,
            settings: settings_to_wire(stage.settings),
            stores: stage
                .stores
                .into_iter()
                .map(|store| wire::ObjectStore {
                    url: store.url,
                    options: settings_to_wire(store.options),
                })
                .collect(),
        })
    }
}

impl TryFrom<wire::Stage> for Stage {
    type Error = Malformed;

    fn try_from(stage: wire::Stage) -> Outcome<Self> {
        Ok(Self {
            query: QueryId::from_bytes(&stage.query)?,
            stage: StageId(stage.stage),
            plan: PlanRef::Encoded(stage.plan),
            settings: settings_from_wire(stage.settings),
            stores: stage
                .stores
                .into_iter()
                .map(|store| ObjectStoreSpec {
                    url: store.url,
                    options: settings_from_wire(store.options),
                })
                .collect(),
        })
    }
}

impl From<Launch> for wire::Launch {
    fn from(launch: Launch) -> Self {
        Self {
            attempt: Some(launch.attempt.into()),
            slots: launch.slots,
            partitions: launch.partitions,
            scans: launch
                .scans
                .into_iter()
                .map(|scan| wire::ScanSplits {
                    scan: scan.scan,
                    file_groups: scan.file_groups,
                })
                .collect(),
            inputs: launch.inputs.into_iter().map(Into::into).collect(),
            output: match launch.output {
                OutputMode::Retained => wire::OutputMode::Retained,
                OutputMode::Streamed => wire::OutputMode::Streamed,
            }
            .into(),
        }
    }
}

impl TryFrom<wire::Launch> for Launch {
    type Error = Malformed;

    fn try_from(launch: wire::Launch) -> Outcome<Self> {
        let output = match wire::OutputMode::try_from(launch.output) {
            Ok(wire::OutputMode::Retained) => OutputMode::Retained,
            Ok(wire::OutputMode::Streamed) => OutputMode::Streamed,
            Ok(wire::OutputMode::Unspecified) | Err(_) => {
                return Err(Malformed::new("output mode"));
            }
        };
        Ok(Self {
            attempt: key(launch.attempt)?,
            slots: launch.slots,
            partitions: launch.partitions,
            scans: launch
                .scans
                .into_iter()
                .map(|scan| ScanSplits {
                    scan: scan.scan,
                    file_groups: scan.file_groups,
                })
                .collect(),
            inputs: launch.inputs.into_iter().map(Into::into).collect(),
            output,
        })
    }
}

impl From<StageInput> for wire::StageInput {
    fn from(input: StageInput) -> Self {
        Self {
            stage: input.stage.0,
            producers: input
                .producers
                .into_iter()
                .map(|producer| wire::Producer {
                    task: producer.task.0,
                    attempt: producer.attempt.0,
                    address: producer.address,
                    partitions: producer.partitions,
                })
                .collect(),
        }
    }
}

impl From<wire::StageInput> for StageInput {
    fn from(input: wire::StageInput) -> Self {
        Self {
            stage: StageId(input.stage),
            producers: input
                .producers
                .into_iter()
                .map(|producer| Producer {
                    task: TaskId(producer.task),
                    attempt: AttemptNumber(producer.attempt),
                    address: producer.address,
                    partitions: producer.partitions,
                })
                .collect(),
        }
    }
}

impl From<WorkerMessage> for wire::WorkerMessage {
    fn from(message: WorkerMessage) -> Self {
        use wire::worker_message::Message;
        let message = match message {
            WorkerMessage::Register(registration) => Message::Register(wire::Register {
                protocol_version: registration.protocol_version,
                worker: registration.worker.to_bytes(),
                epoch: registration.epoch,
                flight_address: registration.flight_address,
                slots: registration.slots,
                memory_bytes: registration.memory_bytes,
                version: registration.version,
                proof: registration.proof,
            }),
            WorkerMessage::Heartbeat(heartbeat) => Message::Heartbeat(wire::Heartbeat {
                running_attempts: heartbeat.running_attempts,
                memory_used_bytes: heartbeat.memory_used_bytes,
            }),
            WorkerMessage::Report(report) => Message::Report(report.into()),
            WorkerMessage::Leaving => Message::Leaving(wire::Leaving {}),
        };
        Self {
            message: Some(message),
        }
    }
}

impl TryFrom<wire::WorkerMessage> for WorkerMessage {
    type Error = Malformed;

    fn try_from(message: wire::WorkerMessage) -> Outcome<Self> {
        use wire::worker_message::Message;
        let message = message
            .message
            .ok_or(Malformed::new("empty worker message"))?;
        Ok(match message {
            Message::Register(register) => Self::Register(Registration {
                protocol_version: register.protocol_version,
                worker: WorkerId::from_bytes(&register.worker)?,
                epoch: register.epoch,
                flight_address: register.flight_address,
                slots: register.slots,
                memory_bytes: register.memory_bytes,
                version: register.version,
                proof: register.proof,
            }),
            Message::Heartbeat(heartbeat) => Self::Heartbeat(Heartbeat {
                running_attempts: heartbeat.running_attempts,
                memory_used_bytes: heartbeat.memory_used_bytes,
            }),
            Message::Report(report) => Self::Report(report.try_into()?),
            Message::Leaving(wire::Leaving {}) => Self::Leaving,
        })
    }
}

impl From<Report> for wire::Report {
    fn from(report: Report) -> Self {
        use wire::report::Status;
        let status = match report.status {
            AttemptStatus::Reserved => Status::Reserved(wire::Reserved {}),
            AttemptStatus::Refused { reason } => Status::Refused(wire::Refused { reason }),
            AttemptStatus::Running => Status::Running(wire::Running {}),
            AttemptStatus::Parked => Status::Parked(wire::Parked {}),
            AttemptStatus::Resumed => Status::Resumed(wire::Resumed {}),
            AttemptStatus::Finished(output) => Status::Finished(output.into()),
            AttemptStatus::Failed(failure) => Status::Failed(failure.into()),
            AttemptStatus::Cancelled => Status::Cancelled(wire::Cancelled {}),
        };
        Self {
            sequence: report.sequence,
            attempt: Some(report.attempt.into()),
            status: Some(status),
        }
    }
}

impl TryFrom<wire::Report> for Report {
    type Error = Malformed;

    fn try_from(report: wire::Report) -> Outcome<Self> {
        use wire::report::Status;
        let status = match report
            .status
            .ok_or(Malformed::new("report without status"))?
        {
            Status::Reserved(wire::Reserved {}) => AttemptStatus::Reserved,
            Status::Refused(refused) => AttemptStatus::Refused {
                reason: refused.reason,
            },
            Status::Running(wire::Running {}) => AttemptStatus::Running,
            Status::Parked(wire::Parked {}) => AttemptStatus::Parked,
            Status::Resumed(wire::Resumed {}) => AttemptStatus::Resumed,
            Status::Finished(finished) => AttemptStatus::Finished(finished.into()),
            Status::Failed(failure) => AttemptStatus::Failed(failure.into()),
            Status::Cancelled(wire::Cancelled {}) => AttemptStatus::Cancelled,
        };
        Ok(Self {
            sequence: report.sequence,
            attempt: key(report.attempt)?,
            status,
        })
    }
}

impl From<TaskOutput> for wire::Finished {
    fn from(output: TaskOutput) -> Self {
        Self {
            partitions: output
                .partitions
                .into_iter()
                .map(|partition| wire::PartitionOutput {
                    partition: partition.partition,
                    rows: partition.rows,
                    bytes: partition.bytes,
                })
                .collect(),
            metrics: Some(wire::TaskMetrics {
                elapsed_us: output.metrics.elapsed_us,
                rows: output.metrics.rows,
                bytes: output.metrics.bytes,
                spilled_bytes: output.metrics.spilled_bytes,
                operators: output.metrics.operators,
            }),
        }
    }
}

impl From<wire::Finished> for TaskOutput {
    fn from(finished: wire::Finished) -> Self {
        let metrics = finished.metrics.unwrap_or_default();
        Self {
            partitions: finished
                .partitions
                .into_iter()
                .map(|partition| PartitionOutput {
                    partition: partition.partition,
                    rows: partition.rows,
                    bytes: partition.bytes,
                })
                .collect(),
            metrics: TaskMetrics {
                elapsed_us: metrics.elapsed_us,
                rows: metrics.rows,
                bytes: metrics.bytes,
                spilled_bytes: metrics.spilled_bytes,
                operators: metrics.operators,
            },
        }
    }
}
