//! What the server and its clients may see: queries, stages, tasks and workers at one moment, and queries at their end.
//!
//! All times count from the scheduler's start.

use std::sync::Arc;
use std::time::Duration;

use squadron_proto::control::{TaskMetrics, TaskOutput};
use squadron_proto::ticket::{Fetch, FetchOutput};
use squadron_proto::{AttemptKey, AttemptNumber, Failure, QueryId, StageId, TaskId, WorkerId, WorkerKind};

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryInfo {
    /// Its id.
    pub id: QueryId,
    /// Its user, where authentication is required.
    pub user: Option<Arc<str>>,
    /// Its session.
    pub session: Arc<str>,
    /// `squadron.tag`.
    pub tag: Option<Arc<str>>,
    /// `squadron.priority`.
    pub priority: i32,
    /// The name of its resource group.
    pub group: Arc<str>,
    /// What it is doing.
    pub phase: QueryPhase,
    /// When it was submitted.
    pub submitted: Duration,
    /// When it was admitted.
    pub started: Option<Duration>,
    /// When its last task finished, so that from then on its result is only delivered.
    pub delivering_since: Option<Duration>,
    /// Processor time of the attempts that reported it, slot time of other attempts that have given their slots back.
    pub spent: Duration,
    /// The slots it holds.
    pub held_slots: u64,
    /// The memory it has reserved, in bytes.
    pub memory_bytes: u64,
    /// How much of its work is done, from 0 to 1000.
    pub progress: u32,
    /// How often something of it was lost and computed again.
    pub recoveries: u32,
    /// In ascending order of their numbers.
    pub stages: Vec<StageInfo>,
}

/// What a query is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryPhase {
    /// It waits to be admitted.
    Queued,
    /// It runs.
    Running,
    /// All of its tasks are finished, and its client has not read all rows.
    Delivering,
}

/// A stage of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageInfo {
    /// Its number.
    pub id: StageId,
    /// What it is doing.
    pub phase: StagePhase,
    /// When all its inputs were finished.
    pub started: Option<Duration>,
    /// When its last task finished.
    pub finished: Option<Duration>,
    /// In ascending order of their numbers.
    pub tasks: Vec<TaskInfo>,
}

/// What a stage is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StagePhase {
    /// It waits for its inputs.
    Waiting,
    /// Its tasks run, or wait for places.
    Running,
    /// Its output is complete.
    Finished,
    /// Nobody reads its output any more.
    Released,
}

/// A task of a stage, and its attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskInfo {
    /// Its number.
    pub id: TaskId,
    /// What it is doing.
    pub phase: TaskPhase,
    /// The slots that it asks for.
    pub slots: u32,
    /// The last 16 that came to nothing, the oldest first; then those that have not.
    pub attempts: Vec<AttemptInfo>,
}

/// An attempt at a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptInfo {
    /// Its number.
    pub attempt: AttemptNumber,
    /// Its worker, which may have left since.
    pub worker: WorkerId,
    /// What it is doing, or did last.
    pub phase: TaskPhase,
    /// The slots that it takes.
    pub slots: u32,
    /// When it was launched.
    pub launched: Option<Duration>,
    /// When it was reported to run.
    pub started: Option<Duration>,
    /// When it was reported to have ended, or was given up.
    pub ended: Option<Duration>,
    /// What it used, once it has finished.
    pub resources: Option<Resources>,
    /// Why it came to nothing, as a sentence, if it did.
    pub reason: Option<Arc<str>>,
}

/// What a task or an attempt is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskPhase {
    /// It waits for the inputs of its stage, or for the end of a pause after a refusal or failure.
    Waiting,
    /// It waits for a worker with free slots.
    Pending,
    /// Its worker was asked to reserve slots for it.
    Launched,
    /// Its worker was told to run it.
    Committed,
    /// It runs.
    Running,
    /// It waits for its reader, without slots.
    Parked,
    /// Its output is complete, and possibly released since.
    Finished,
    /// Its attempt failed, and the query with it.
    Failed,
}

/// What one task used, or several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Rows written.
    pub rows: u64,
    /// CPU time.
    pub cpu: Duration,
    /// Bytes read from files.
    pub read_bytes: u64,
    /// Bytes written for the next stage, or for the client.
    pub written_bytes: u64,
    /// Bytes read from the output of other workers.
    pub fetched_bytes: u64,
    /// Bytes that overflowed to disk.
    pub spilled_bytes: u64,
    /// Peak memory of its operators; of several tasks the sum of their peaks, as if they coincided.
    pub peak_memory_bytes: u64,
}

/// An attempt that was told to stop and whose worker has not yet reported that it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoppingAttempt {
    /// Which attempt.
    pub attempt: AttemptKey,
    /// On which worker.
    pub worker: WorkerId,
}

impl Resources {
    pub(crate) fn from_metrics(metrics: &TaskMetrics) -> Self {
        Self {
            rows: metrics.rows,
            cpu: Duration::from_nanos(metrics.cpu_ns),
            read_bytes: metrics.scanned_bytes,
            written_bytes: metrics.bytes,
            fetched_bytes: metrics.fetched_bytes,
            spilled_bytes: metrics.spilled_bytes,
            peak_memory_bytes: metrics.peak_memory_bytes,
        }
    }

    /// The sum of both.
    pub fn merge(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            cpu: self.cpu + other.cpu,
            read_bytes: self.read_bytes + other.read_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
            fetched_bytes: self.fetched_bytes + other.fetched_bytes,
            spilled_bytes: self.spilled_bytes + other.spilled_bytes,
            peak_memory_bytes: self.peak_memory_bytes + other.peak_memory_bytes,
        }
    }
}

impl QueryInfo {
    /// How many tasks the query has.
    pub fn tasks(&self) -> usize {
        self.stages.iter().map(|stage| stage.tasks.len()).sum()
    }

    /// How many of them are finished.
    pub fn finished_tasks(&self) -> usize {
        self.stages.iter().map(StageInfo::finished_tasks).sum()
    }

    /// What its finished tasks used. Stages mostly run one after the other, so the query's peak memory is that of the
    /// stage with the highest.
    pub fn resources(&self) -> Resources {
        let stages = || self.stages.iter().map(StageInfo::resources);
        Resources {
            rows: self.stages.last().map_or(0, |root| root.resources().rows),
            peak_memory_bytes: stages().map(|stage| stage.peak_memory_bytes).max().unwrap_or_default(),
            ..stages().fold(Resources::default(), Resources::merge)
        }
    }

    /// Bytes that its stages wrote for each other: of all stages but the last, which writes for the client.
    pub fn shuffled_bytes(&self) -> u64 {
        let (_, producers) = self.stages.split_last().unzip();
        let producers: &[StageInfo] = producers.unwrap_or_default();
        producers.iter().map(|stage| stage.resources().written_bytes).sum()
    }
}

impl StageInfo {
    /// How many of its tasks are finished.
    pub fn finished_tasks(&self) -> usize {
        let finished = |task: &&TaskInfo| task.phase == TaskPhase::Finished;
        self.tasks.iter().filter(finished).count()
    }

    /// What its finished tasks used together.
    pub fn resources(&self) -> Resources {
        let tasks = self.tasks.iter().filter_map(TaskInfo::resources);
        tasks.fold(Resources::default(), Resources::merge)
    }
}

impl TaskInfo {
    /// What its finished attempt used.
    pub fn resources(&self) -> Option<Resources> {
        let last = self.attempts.last()?;
        last.resources.filter(|_| last.reason.is_none())
    }
}

/// A worker and its load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Its id.
    pub id: WorkerId,
    /// Which kind of worker.
    pub kind: WorkerKind,
    /// `http://host:port` where its output is fetched; empty: the server's own process.
    pub address: String,
    /// How many slots it offers.
    pub slots: u32,
    /// How many slots are taken; may exceed `slots` when parked attempts have resumed or lanes overlap.
    pub used_slots: u32,
    /// How many of its attempts are not parked.
    pub running: u32,
    /// Attempts that it was told to stop and has not reported as stopped.
    pub stopping: usize,
    /// Whether it gets no new attempts and leaves when its attempts have ended.
    pub draining: bool,
    /// Whether nothing is heard of it; it is lost unless it returns in time.
    pub suspected: bool,
    /// Whether it gets attempts only where no other worker accepts any, since attempts failed there or others cannot reach
    /// it.
    pub avoided: bool,
    /// How many attempts failed there for reasons that are not their statements'.
    pub failures: u64,
}

/// What all workers offer together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// How many workers there are.
    pub workers: usize,
    /// How many slots they have.
    pub slots: u64,
    /// Their memory pools, in bytes.
    pub memory_bytes: u64,
}

/// How full a group is, with the groups below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupLoad {
    /// Running queries.
    pub running: usize,
    /// Queries that wait for admission.
    pub queued: usize,
    /// Bytes reserved by the running queries.
    pub memory_bytes: u64,
}

/// Where some partitions of a query's result are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultPart {
    /// The attempt that writes them.
    pub attempt: AttemptKey,
    /// On which worker.
    pub worker: WorkerId,
    /// `http://host:port` of the worker; empty: the server's own store.
    pub address: String,
    /// Which partitions, in order.
    pub partitions: Vec<u32>,
}

/// The progress of a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryProgress {
    /// Finished tasks over all tasks, weighted by the bytes they read; from 0 to 1.
    pub fraction: f64,
    /// The parts of a retained result that can be read by now, in the order of the root stage's tasks.
    pub parts: Vec<ResultPart>,
    /// Rows of the result, once it is complete.
    pub rows: Option<u64>,
    /// Whether the result can be read: a streamed result while it is written, a retained one when it is complete.
    pub is_ready: bool,
    /// How the query ended, if it has.
    pub ended: Option<Result<(), Failure>>,
}

impl ResultPart {
    /// The request for some of its partitions.
    pub fn fetch(&self, partitions: &[u32]) -> Fetch {
        let AttemptKey {
            query,
            stage,
            task,
            attempt,
        } = self.attempt;
        Fetch {
            query,
            stage,
            outputs: vec![FetchOutput {
                task,
                attempt,
                partitions: partitions.to_vec(),
            }],
        }
    }
}

/// How long a finished query took, with what each task wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuerySummary {
    /// From submission to end.
    pub elapsed: Duration,
    /// What was lost and computed again, each time as a sentence; the last 16.
    pub recoveries: Vec<String>,
    /// In ascending order of their numbers.
    pub stages: Vec<StageSummary>,
}

/// How long a stage took, with what each task wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageSummary {
    /// Which stage.
    pub stage: StageId,
    /// From the end of its last input to the end of its last task.
    pub elapsed: Duration,
    /// How many tasks got a second attempt beside a slow one.
    pub second_attempts: u32,
    /// In ascending order of their numbers.
    pub tasks: Vec<TaskSummary>,
}

/// A finished task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSummary {
    /// Which task.
    pub task: TaskId,
    /// Which attempt succeeded.
    pub attempt: AttemptNumber,
    /// On which worker.
    pub worker: WorkerId,
    /// What it wrote, with its metrics.
    pub output: TaskOutput,
}
