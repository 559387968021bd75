//! Queries, stages and tasks as they are at one moment, for those who look, and as they were when their query ended.
//!
//! All times count from the scheduler's start.

use std::sync::Arc;
use std::time::Duration;

use squadron_proto::control::TaskMetrics;
use squadron_proto::{AttemptKey, AttemptNumber, QueryId, StageId, TaskId, WorkerId};

use super::query::{Phase, Query};
use super::stage::Stage;
use super::task::Task;
use super::{GroupLoad, Scheduler};

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
    pub drained: Option<Duration>,
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
    Draining,
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
    fn of(metrics: &TaskMetrics) -> Self {
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

impl Query {
    /// How it is now; `group` is the name of its resource group.
    pub(super) fn info(&self, group: Arc<str>) -> QueryInfo {
        QueryInfo {
            id: self.id,
            user: self.traits.user.clone(),
            session: Arc::clone(&self.traits.session),
            tag: self.traits.tag.clone(),
            priority: self.traits.priority,
            group,
            phase: match self.phase {
                Phase::Queued => QueryPhase::Queued,
                Phase::Streaming { .. } if self.drained.is_some() => QueryPhase::Draining,
                Phase::Running | Phase::Streaming { .. } => QueryPhase::Running,
                Phase::Failing { .. } => QueryPhase::Failing,
            },
            submitted: self.submitted,
            started: self.started,
            drained: self.drained,
            spent: Duration::from_micros(self.usage.spent_us),
            held_slots: self.held_slots(),
            memory_bytes: self.traits.memory_bytes,
            progress: (self.fraction_done() * 1000.0) as u32,
            stages: self.stages.iter().map(Stage::info).collect(),
        }
    }
}

impl Stage {
    fn info(&self) -> StageInfo {
        let (started, finished) = self.times();
        let tasks = self.tasks.iter().zip(&self.spec.tasks).enumerate();
        StageInfo {
            id: self.spec.id,
            phase: self.phase(),
            started,
            finished,
            tasks: tasks
                .map(|(number, (task, spec))| task.info(super::stage::task_id(number), spec.slots))
                .collect(),
        }
    }
}

impl Task {
    fn info(&self, id: TaskId, wanted_slots: u32) -> TaskInfo {
        let live = self.live().map(|(hold, _)| hold);
        let finished = self.finished();
        let times = self.times();
        TaskInfo {
            id,
            phase: self.phase(),
            attempt: match (live, finished) {
                (Some(hold), _) => Some((hold.attempt, hold.worker)),
                (None, Some(finished)) => Some((finished.attempt, finished.worker)),
                (None, None) => None,
            },
            slots: live.map_or(wanted_slots, |hold| hold.share.slots),
            launched: times.launched,
            started: times.started,
            ended: times.ended,
            resources: finished.map(|finished| Resources::of(&finished.output.metrics)),
        }
    }
}

impl Scheduler {
    /// The queries there are, in the order of their submission.
    pub fn queries(&self) -> Vec<QueryInfo> {
        let mut queries: Vec<_> = self.queries.values().collect();
        queries.sort_by_key(|query| query.number);
        queries
            .into_iter()
            .map(|query| query.info(self.group_name(query.group)))
            .collect()
    }

    /// The attempts of ended queries that may still run.
    pub fn stopping(&self) -> Vec<Stopping> {
        self.members.stopping()
    }

    /// The resource groups, the server as a whole first.
    pub fn group_loads(&self) -> Vec<(Arc<str>, GroupLoad)> {
        let groups = 0..self.admission.groups().count();
        groups
            .map(|group| (self.group_name(group), self.admission.load(group)))
            .collect()
    }

    pub(super) fn group_name(&self, group: usize) -> Arc<str> {
        self.admission.groups().spec(group).name.as_str().into()
    }
}
