//! Queries, stages and tasks as they are at one moment, for those who look, and as they were when their query ended.
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
    /// Its user, where one had to log in.
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
    /// When its last task finished.
    pub delivering_since: Option<Duration>,
    /// Processor time of its attempts that have said it, slot time of others that gave their slots back.
    pub spent: Duration,
    /// The slots it holds.
    pub held_slots: u64,
    /// The memory it has reserved, in bytes.
    pub memory_bytes: u64,
    /// How much of its work is done, from 0 to 1000.
    pub progress: u32,
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
    /// It has failed, and the cause is being waited for.
    Failing,
}

/// A stage of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageInfo {
    /// Its number.
    pub id: StageId,
    /// What it is doing.
    pub phase: StagePhase,
    /// When all its inputs were there.
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
    /// Its output is there.
    Finished,
    /// Its output has been read and dropped.
    Released,
}

/// A task of a stage, and the current or last attempt at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskInfo {
    /// Its number.
    pub id: TaskId,
    /// What it is doing.
    pub phase: TaskPhase,
    /// Which try, and where; none before there is a place for it.
    pub attempt: Option<(AttemptNumber, WorkerId)>,
    /// The slots that the attempt takes, or the task would like.
    pub slots: u32,
    /// When the attempt got its place.
    pub launched: Option<Duration>,
    /// When the attempt was known to run.
    pub started: Option<Duration>,
    /// When the attempt was known to have ended.
    pub ended: Option<Duration>,
    /// What it took, once it is finished.
    pub resources: Option<Resources>,
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskPhase {
    /// It waits for the inputs of its stage, or for the end of a pause after a refusal.
    Waiting,
    /// It waits for a place.
    Pending,
    /// Its worker was asked to reserve slots for it.
    Launched,
    /// Its worker was told to run it.
    Committed,
    /// It runs.
    Running,
    /// It waits for its reader, without slots.
    Parked,
    /// Its output is there, or was.
    Finished,
    /// Its attempt failed.
    Failed,
}

/// What a task took, or several together.
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
    /// The most memory of its operators at a time; of several tasks the sum, as if all had it at once.
    pub peak_memory_bytes: u64,
}

/// An attempt of a query that has ended, whose worker has not said yet that it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopping {
    /// Which attempt.
    pub attempt: AttemptKey,
    /// On which worker.
    pub worker: WorkerId,
}

impl Resources {
    pub(crate) fn of(metrics: &TaskMetrics) -> Self {
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

    /// Of both together.
    pub fn and(self, other: Self) -> Self {
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
    /// How many tasks it has.
    pub fn tasks(&self) -> usize {
        self.stages.iter().map(|stage| stage.tasks.len()).sum()
    }

    /// How many of them are finished.
    pub fn finished_tasks(&self) -> usize {
        self.stages.iter().map(StageInfo::finished_tasks).sum()
    }

    /// What its finished tasks took. Its stages mostly run one after the other, so its memory is that of the one with the most.
    pub fn resources(&self) -> Resources {
        let stages = || self.stages.iter().map(StageInfo::resources);
        Resources {
            rows: self.stages.last().map_or(0, |root| root.resources().rows),
            peak_memory_bytes: stages().map(|stage| stage.peak_memory_bytes).max().unwrap_or_default(),
            ..stages().fold(Resources::default(), Resources::and)
        }
    }

    /// Bytes that its stages wrote for each other; the last one writes for the client.
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

    /// What its finished tasks took together.
    pub fn resources(&self) -> Resources {
        let tasks = self.tasks.iter().filter_map(|task| task.resources);
        tasks.fold(Resources::default(), Resources::and)
    }
}

/// A worker and its load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Its id.
    pub id: WorkerId,
    /// What kind it is.
    pub kind: WorkerKind,
    /// `http://host:port` of its output; empty: the server itself.
    pub address: String,
    /// How many slots it offers.
    pub slots: u32,
    /// How many of them are taken; may be more, when parked attempts resumed.
    pub used_slots: u32,
    /// How many attempts it has that are not parked.
    pub running: u32,
    /// Attempts of ended queries that it was told to stop and has not said to have stopped.
    pub stopping: usize,
    /// Whether it is on its way out.
    pub draining: bool,
}

/// What the workers offer together.
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
    /// Queries that run.
    pub running: usize,
    /// Queries that wait to run.
    pub queued: usize,
    /// Bytes reserved by those that run.
    pub memory_bytes: u64,
}

/// Where some partitions of a query's result are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultPart {
    /// Who writes them.
    pub attempt: AttemptKey,
    /// Where.
    pub worker: WorkerId,
    /// `http://host:port`; empty: in the server's own store.
    pub address: String,
    /// Which partitions, in order.
    pub partitions: Vec<u32>,
}

/// How far a query is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryProgress {
    /// Finished tasks over all tasks, weighted by the bytes they read; from 0 to 1.
    pub fraction: f64,
    /// The parts of a kept result that can be read by now, in the order of the root's tasks.
    pub parts: Vec<ResultPart>,
    /// Rows of the result, once it is complete.
    pub rows: Option<u64>,
    /// Whether all of the result can be read: a streamed one while it is written, another one when it is complete.
    pub is_ready: bool,
    /// How the query ended, if it has.
    pub ended: Option<Result<(), Failure>>,
}

impl ResultPart {
    /// Asks for some of its partitions.
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

/// What a finished query took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuerySummary {
    /// From submission to end.
    pub elapsed: Duration,
    /// In ascending order of their numbers.
    pub stages: Vec<StageSummary>,
}

/// What a stage took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageSummary {
    /// Which stage.
    pub stage: StageId,
    /// From the moment its inputs were there to the end of its last task.
    pub elapsed: Duration,
    /// In ascending order of their numbers.
    pub tasks: Vec<TaskSummary>,
}

/// What a task took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSummary {
    /// Which task.
    pub task: TaskId,
    /// Which try at it succeeded.
    pub attempt: AttemptNumber,
    /// Where.
    pub worker: WorkerId,
    /// What it wrote, with its metrics.
    pub output: TaskOutput,
}
