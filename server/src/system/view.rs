//! All queries that a user may see, at one moment: joins the records of queries with the scheduler's snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId};
use squadron_scheduler::{AttemptInfo, QueryInfo, QueryPhase, Resources, StageInfo, TaskInfo, TaskPhase};

use crate::auth::Principal;
use crate::driver::SchedulerHandle;
use crate::query::history::QueryRequest;
use crate::query::records::{ActiveQuery, QueryRecords};

/// Queries, the oldest first.
pub(super) struct View {
    pub(super) queries: Vec<QueryView>,
}

/// A query, active or ended.
#[derive(Clone)]
pub(super) struct QueryView {
    pub(super) request: Arc<QueryRequest>,
    pub(super) info: Option<Arc<QueryInfo>>,
    pub(super) end: Option<(SystemTime, Result<(), Failure>)>,
    /// When its workers had stopped all its attempts; `None` while they have not.
    pub(super) released: Option<SystemTime>,
    /// The attempts of all queries that were told to stop and have not confirmed it.
    stopping: Arc<BTreeSet<AttemptKey>>,
    /// The time at which the scheduler's clock was zero.
    epoch: SystemTime,
    now: SystemTime,
}

/// A stage of a query.
pub(super) struct StageView<'a> {
    pub(super) query: &'a QueryView,
    pub(super) stage: &'a StageInfo,
    /// Whether its rows go to the client.
    pub(super) is_last: bool,
}

/// An attempt at a task of a stage, or a task that has none for now.
pub(super) struct TaskView<'a> {
    pub(super) stage: &'a StageInfo,
    pub(super) query: &'a QueryView,
    pub(super) task: &'a TaskInfo,
    pub(super) attempt: Option<&'a AttemptInfo>,
    pub(super) is_last: bool,
}

impl View {
    /// The queries that `viewer` may see, or the one among them whose id is `only`.
    pub(super) async fn take(
        scheduler: &SchedulerHandle,
        records: &QueryRecords,
        viewer: &Principal,
        only: Option<&str>,
    ) -> Self {
        let snapshot = scheduler.snapshot().await;
        // After the snapshot, so that a query that ends in between is listed as ended, and not missed.
        let (active, completed) = records.all();
        let mut running: BTreeMap<QueryId, QueryInfo> =
            snapshot.queries.into_iter().map(|info| (info.id, info)).collect();
        let stopping = snapshot.stopping.iter().map(|stopping| stopping.attempt);
        let stopping: Arc<BTreeSet<AttemptKey>> = Arc::new(stopping.collect());
        let now = SystemTime::now();
        let view = |request, info, end, released, epoch| QueryView {
            request,
            info,
            end,
            released,
            stopping: Arc::clone(&stopping),
            epoch,
            now,
        };
        let completed = completed.into_iter().map(|query| {
            let end = Some((query.ended, query.outcome));
            view(query.request, query.info, end, query.released, query.epoch)
        });
        let mut queries: Vec<_> = completed.collect();
        queries.extend(active.into_iter().map(|ActiveQuery { request, info }| {
            let info = running.remove(&request.id).map(Arc::new).or(info);
            view(request, info, None, None, records.time(Duration::ZERO))
        }));
        let wanted = only.map(|id| id.parse::<QueryId>().ok());
        let is_wanted = |id: QueryId| wanted.is_none_or(|wanted| wanted == Some(id));
        queries.retain(|query| query.request.user.as_deref() == viewer.name() && is_wanted(query.request.id));
        Self { queries }
    }

    pub(super) fn stages(&self) -> Vec<StageView<'_>> {
        self.queries.iter().flat_map(QueryView::stages).collect()
    }

    pub(super) fn tasks(&self) -> Vec<TaskView<'_>> {
        let stages = self.queries.iter().flat_map(QueryView::stages);
        stages.flat_map(StageView::tasks).collect()
    }
}

impl QueryView {
    pub(super) fn state(&self) -> &'static str {
        match (&self.end, &self.info) {
            (Some((_, Ok(()))), _) => "finished",
            (Some((_, Err(failure))), _) if failure.kind == FailureKind::Cancelled => "cancelled",
            (Some((_, Err(_))), _) => "failed",
            (None, None) => "planning",
            (None, Some(info)) => match info.phase {
                QueryPhase::Queued => "queued",
                QueryPhase::Running => "running",
                QueryPhase::Delivering => "delivering",
            },
        }
    }

    pub(super) fn ended_at(&self) -> Option<SystemTime> {
        self.end.as_ref().map(|(at, _)| *at)
    }

    pub(super) fn failure(&self) -> Option<&Failure> {
        self.end.as_ref()?.1.as_ref().err()
    }

    /// Converts a time of the scheduler.
    pub(super) fn time(&self, at: Duration) -> SystemTime {
        self.epoch + at
    }

    pub(super) fn submitted_at(&self) -> Option<SystemTime> {
        Some(self.time(self.info.as_ref()?.submitted))
    }

    pub(super) fn started_at(&self) -> Option<SystemTime> {
        Some(self.time(self.info.as_ref()?.started?))
    }

    pub(super) fn planning_time(&self) -> Duration {
        self.time_between(self.request.at, self.submitted_at())
    }

    /// How long it waited to be admitted; `None` before it was submitted.
    pub(super) fn queue_time(&self) -> Option<Duration> {
        Some(self.time_between(self.submitted_at()?, self.started_at()))
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.time_between(self.request.at, None)
    }

    /// The time from `begin` to `end`; without `end` to the end of the query, or to now.
    pub(super) fn time_between(&self, begin: SystemTime, end: Option<SystemTime>) -> Duration {
        let end = end.or(self.ended_at()).unwrap_or(self.now);
        end.duration_since(begin).unwrap_or_default()
    }

    pub(super) fn progress(&self) -> f64 {
        match (&self.end, &self.info) {
            (Some((_, Ok(()))), _) => 1.0,
            (_, Some(info)) => f64::from(info.progress) / 1000.0,
            (_, None) => 0.0,
        }
    }

    fn stages(&self) -> impl Iterator<Item = StageView<'_>> {
        let stages = self.info.as_ref().map_or(&[][..], |info| &info.stages);
        stages.iter().zip(1..).map(|(stage, number)| StageView {
            query: self,
            stage,
            is_last: number == stages.len(),
        })
    }
}

impl<'a> StageView<'a> {
    fn tasks(self) -> impl Iterator<Item = TaskView<'a>> {
        let attempts = self.stage.tasks.iter().flat_map(|task| {
            let waits = task.attempts.last().is_none_or(|last| last.reason.is_some());
            let attempts = task.attempts.iter().map(Some).chain(waits.then_some(None));
            attempts.map(move |attempt| (task, attempt))
        });
        attempts.map(move |(task, attempt)| TaskView {
            query: self.query,
            stage: self.stage,
            task,
            attempt,
            is_last: self.is_last,
        })
    }
}

impl TaskView<'_> {
    pub(super) fn state(&self) -> &'static str {
        match self.attempt.map_or(self.task.phase, |attempt| attempt.phase) {
            _ if self.reason().is_some() => "lost",
            TaskPhase::Finished => "finished",
            TaskPhase::Failed => "failed",
            _ if self.is_stopping() => "stopping",
            _ if self.query.end.is_some() => "cancelled",
            TaskPhase::Waiting => "waiting",
            TaskPhase::Pending => "pending",
            TaskPhase::Launched => "launched",
            TaskPhase::Committed => "committed",
            TaskPhase::Running => "running",
            TaskPhase::Parked => "parked",
        }
    }

    /// Why it came to nothing, if it did.
    pub(super) fn reason(&self) -> Option<&Arc<str>> {
        self.attempt?.reason.as_ref()
    }

    pub(super) fn slots(&self) -> u32 {
        self.attempt.map_or(self.task.slots, |attempt| attempt.slots)
    }

    /// A time of the attempt, if it has got so far.
    pub(super) fn time(&self, of: impl Fn(&AttemptInfo) -> Option<Duration>) -> Option<SystemTime> {
        Some(self.query.time(of(self.attempt?)?))
    }

    /// What it used, once it has finished.
    pub(super) fn resources(&self) -> Option<Resources> {
        self.attempt?.resources
    }

    /// When it ended; `None` while its worker may still run it.
    pub(super) fn ended_at(&self) -> Option<SystemTime> {
        match self.time(|attempt| attempt.ended) {
            Some(at) => Some(at),
            None if self.is_stopping() => None,
            None => self.query.ended_at(),
        }
    }

    fn is_stopping(&self) -> bool {
        self.attempt.is_some_and(|attempt| {
            self.query.stopping.contains(&AttemptKey {
                query: self.query.request.id,
                stage: self.stage.id,
                task: self.task.id,
                attempt: attempt.attempt,
            })
        })
    }
}
