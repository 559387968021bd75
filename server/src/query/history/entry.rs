//! A completed query as one line of the history's file.
//!
//! Times are microseconds since 1970. Unknown keys are ignored, so that an older release reads what a newer one wrote.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use squadron_proto::{AttemptNumber, Failure, FailureKind, StageId, TaskId};
use squadron_scheduler::{AttemptInfo, QueryInfo, QueryPhase, Resources, StageInfo, StagePhase, TaskInfo, TaskPhase};

use super::completed::{CompletedQuery, QueryRequest};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    query: String,
    user: Option<Arc<str>>,
    session: Arc<str>,
    statement: Option<Arc<str>>,
    tag: Option<Arc<str>>,
    priority: i32,
    created_us: u64,
    ended_us: u64,
    /// Kind and message.
    failure: Option<(String, String)>,
    run: Option<Run>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Run {
    group: Arc<str>,
    queued_us: u64,
    started_us: Option<u64>,
    #[serde(alias = "drained_us")]
    delivering_us: Option<u64>,
    spent_us: u64,
    reserved_memory_bytes: u64,
    progress: u32,
    #[serde(default, alias = "restarts")]
    recoveries: u32,
    stages: Vec<StageEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StageEntry {
    stage: u32,
    is_finished: bool,
    started_us: Option<u64>,
    finished_us: Option<u64>,
    tasks: Vec<TaskEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct TaskEntry {
    task: u32,
    end: TaskEnd,
    slots: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<AttemptEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AttemptEntry {
    attempt: u32,
    worker: String,
    end: TaskEnd,
    slots: u32,
    launched_us: Option<u64>,
    started_us: Option<u64>,
    ended_us: Option<u64>,
    used: Option<Used>,
    reason: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TaskEnd {
    Finished,
    Failed,
    Cancelled,
}

#[derive(Debug, Serialize, Deserialize)]
struct Used {
    rows: u64,
    cpu_ns: u64,
    read_bytes: u64,
    written_bytes: u64,
    fetched_bytes: u64,
    spilled_bytes: u64,
    peak_memory_bytes: u64,
}

impl Entry {
    pub(super) fn of(completed: &CompletedQuery) -> Self {
        let request = &completed.request;
        let failure = completed.outcome.as_ref().err();
        Self {
            query: request.id.to_string(),
            user: request.user.clone(),
            session: Arc::clone(&request.session),
            statement: request.statement.clone(),
            tag: request.tag.clone(),
            priority: request.priority,
            created_us: microseconds(request.at),
            ended_us: microseconds(completed.ended),
            failure: failure.map(|failure| (failure.kind.name().to_owned(), failure.message.clone())),
            run: completed.info.as_ref().map(|info| Run::of(info, completed.epoch)),
        }
    }

    /// The query's id.
    pub(super) fn query(&self) -> &str {
        &self.query
    }

    /// None when a value in it is not valid.
    pub(super) fn into_completed(self) -> Option<CompletedQuery> {
        let request = QueryRequest {
            id: self.query.parse().ok()?,
            user: self.user,
            session: self.session,
            statement: self.statement,
            tag: self.tag,
            priority: self.priority,
            at: UNIX_EPOCH + Duration::from_micros(self.created_us),
        };
        let outcome = match self.failure {
            None => Ok(()),
            Some((kind, message)) => Err(Failure::new(FailureKind::from_name(&kind)?, message)),
        };
        let info = match self.run {
            None => None,
            Some(run) => Some(Arc::new(run.into_info(&request)?)),
        };
        let ended = UNIX_EPOCH + Duration::from_micros(self.ended_us);
        Some(CompletedQuery {
            request: Arc::new(request),
            ended,
            outcome,
            info,
            // It was written down when it ended; what it left running then is of the completed.
            released: Some(ended),
            epoch: UNIX_EPOCH,
        })
    }
}

impl Run {
    fn of(info: &QueryInfo, epoch: SystemTime) -> Self {
        let time = |at: Duration| microseconds(epoch + at);
        Self {
            group: Arc::clone(&info.group),
            queued_us: time(info.submitted),
            started_us: info.started.map(time),
            delivering_us: info.delivering_since.map(time),
            spent_us: u64::try_from(info.spent.as_micros()).unwrap_or(u64::MAX),
            reserved_memory_bytes: info.memory_bytes,
            progress: info.progress,
            recoveries: info.recoveries,
            stages: info
                .stages
                .iter()
                .map(|stage| StageEntry {
                    stage: stage.id.0,
                    is_finished: stage.finished.is_some(),
                    started_us: stage.started.map(time),
                    finished_us: stage.finished.map(time),
                    tasks: stage.tasks.iter().map(|task| TaskEntry::of(task, time)).collect(),
                })
                .collect(),
        }
    }

    fn into_info(self, request: &QueryRequest) -> Option<QueryInfo> {
        Some(QueryInfo {
            id: request.id,
            user: request.user.clone(),
            session: Arc::clone(&request.session),
            tag: request.tag.clone(),
            priority: request.priority,
            group: self.group,
            phase: QueryPhase::Delivering,
            submitted: Duration::from_micros(self.queued_us),
            started: self.started_us.map(Duration::from_micros),
            delivering_since: self.delivering_us.map(Duration::from_micros),
            spent: Duration::from_micros(self.spent_us),
            held_slots: 0,
            memory_bytes: self.reserved_memory_bytes,
            progress: self.progress,
            recoveries: self.recoveries,
            stages: self
                .stages
                .into_iter()
                .map(StageEntry::into_info)
                .collect::<Option<_>>()?,
        })
    }
}

impl StageEntry {
    fn into_info(self) -> Option<StageInfo> {
        Some(StageInfo {
            id: StageId(self.stage),
            phase: match self.is_finished {
                true => StagePhase::Released,
                false => StagePhase::Waiting,
            },
            started: self.started_us.map(Duration::from_micros),
            finished: self.finished_us.map(Duration::from_micros),
            tasks: self
                .tasks
                .into_iter()
                .map(TaskEntry::into_info)
                .collect::<Option<_>>()?,
        })
    }
}

impl TaskEntry {
    fn of(task: &TaskInfo, time: impl Fn(Duration) -> u64) -> Self {
        let attempts = task.attempts.iter();
        Self {
            task: task.id.0,
            end: TaskEnd::of(task.phase),
            slots: task.slots,
            attempts: attempts.map(|attempt| AttemptEntry::of(attempt, &time)).collect(),
        }
    }

    fn into_info(self) -> Option<TaskInfo> {
        let attempts = self.attempts.into_iter();
        Some(TaskInfo {
            id: TaskId(self.task),
            phase: self.end.phase(),
            slots: self.slots,
            attempts: attempts.map(AttemptEntry::into_info).collect::<Option<_>>()?,
        })
    }
}

impl TaskEnd {
    fn of(phase: TaskPhase) -> Self {
        match phase {
            TaskPhase::Finished => Self::Finished,
            TaskPhase::Failed => Self::Failed,
            TaskPhase::Waiting
            | TaskPhase::Pending
            | TaskPhase::Launched
            | TaskPhase::Committed
            | TaskPhase::Running
            | TaskPhase::Parked => Self::Cancelled,
        }
    }

    fn phase(self) -> TaskPhase {
        match self {
            Self::Finished => TaskPhase::Finished,
            Self::Failed => TaskPhase::Failed,
            Self::Cancelled => TaskPhase::Waiting,
        }
    }
}

impl AttemptEntry {
    fn of(attempt: &AttemptInfo, time: impl Fn(Duration) -> u64) -> Self {
        Self {
            attempt: attempt.attempt.0,
            worker: attempt.worker.to_string(),
            end: TaskEnd::of(attempt.phase),
            slots: attempt.slots,
            launched_us: attempt.launched.map(&time),
            started_us: attempt.started.map(&time),
            ended_us: attempt.ended.map(&time),
            used: attempt.resources.map(Used::of),
            reason: attempt.reason.clone(),
        }
    }

    fn into_info(self) -> Option<AttemptInfo> {
        Some(AttemptInfo {
            attempt: AttemptNumber(self.attempt),
            worker: self.worker.parse().ok()?,
            phase: self.end.phase(),
            slots: self.slots,
            launched: self.launched_us.map(Duration::from_micros),
            started: self.started_us.map(Duration::from_micros),
            ended: self.ended_us.map(Duration::from_micros),
            resources: self.used.map(Used::into_resources),
            reason: self.reason,
        })
    }
}

impl Used {
    fn of(resources: Resources) -> Self {
        Self {
            rows: resources.rows,
            cpu_ns: u64::try_from(resources.cpu.as_nanos()).unwrap_or(u64::MAX),
            read_bytes: resources.read_bytes,
            written_bytes: resources.written_bytes,
            fetched_bytes: resources.fetched_bytes,
            spilled_bytes: resources.spilled_bytes,
            peak_memory_bytes: resources.peak_memory_bytes,
        }
    }

    fn into_resources(self) -> Resources {
        Resources {
            rows: self.rows,
            cpu: Duration::from_nanos(self.cpu_ns),
            read_bytes: self.read_bytes,
            written_bytes: self.written_bytes,
            fetched_bytes: self.fetched_bytes,
            spilled_bytes: self.spilled_bytes,
            peak_memory_bytes: self.peak_memory_bytes,
        }
    }
}

fn microseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use squadron_proto::WorkerId;

    use super::super::tests::{failed, request};
    use super::*;

    #[test]
    fn query_with_stages_survives_the_file() {
        let task = TaskInfo {
            id: TaskId(3),
            phase: TaskPhase::Finished,
            slots: 2,
            attempts: vec![
                AttemptInfo {
                    attempt: AttemptNumber(0),
                    worker: WorkerId::from_u128(8),
                    phase: TaskPhase::Waiting,
                    slots: 1,
                    launched: Some(Duration::from_millis(3)),
                    started: None,
                    ended: Some(Duration::from_millis(4)),
                    resources: None,
                    reason: Some("its worker was lost".into()),
                },
                AttemptInfo {
                    attempt: AttemptNumber(1),
                    worker: WorkerId::from_u128(7),
                    phase: TaskPhase::Finished,
                    slots: 2,
                    launched: Some(Duration::from_millis(5)),
                    started: Some(Duration::from_millis(6)),
                    ended: Some(Duration::from_millis(9)),
                    resources: Some(Resources {
                        rows: 1,
                        cpu: Duration::from_nanos(2),
                        read_bytes: 3,
                        written_bytes: 4,
                        fetched_bytes: 5,
                        spilled_bytes: 6,
                        peak_memory_bytes: 7,
                    }),
                    reason: None,
                },
            ],
        };
        let request = request(9);
        let info = QueryInfo {
            id: request.id,
            user: None,
            session: Arc::clone(&request.session),
            tag: None,
            priority: 0,
            group: "server".into(),
            phase: QueryPhase::Delivering,
            submitted: Duration::from_millis(1),
            started: Some(Duration::from_millis(2)),
            delivering_since: Some(Duration::from_millis(9)),
            spent: Duration::from_micros(77),
            held_slots: 0,
            memory_bytes: 8,
            progress: 1000,
            recoveries: 1,
            stages: vec![StageInfo {
                id: StageId(0),
                phase: StagePhase::Released,
                started: Some(Duration::from_millis(2)),
                finished: Some(Duration::from_millis(9)),
                tasks: vec![task],
            }],
        };
        let past = CompletedQuery {
            request: Arc::new(request),
            ended: UNIX_EPOCH + Duration::from_secs(3),
            outcome: failed("late"),
            info: Some(Arc::new(info)),
            released: Some(UNIX_EPOCH + Duration::from_secs(3)),
            epoch: UNIX_EPOCH,
        };
        let text = serde_json::to_string(&Entry::of(&past)).unwrap();
        let line: Entry = serde_json::from_str(&text).unwrap();
        assert_eq!(line.into_completed(), Some(past));
    }
}
