//! All queries that somebody may see, at one moment: what the history and the scheduler know of them, put together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId};

use crate::auth::Principal;
use crate::driver::SchedulerHandle;
use crate::query::history::{Asked, Past, Present};
use squadron_scheduler::{QueryInfo, QueryPhase, StageInfo, TaskInfo, TaskPhase};

/// Queries, the oldest first.
pub(super) struct View {
    pub(super) queries: Vec<SeenQuery>,
}

/// A query, there or ended.
#[derive(Clone)]
pub(super) struct SeenQuery {
    pub(super) asked: Arc<Asked>,
    pub(super) info: Option<Arc<QueryInfo>>,
    pub(super) end: Option<(SystemTime, Result<(), Failure>)>,
    /// When its workers had stopped what they still ran of it; none while they have not.
    pub(super) freed: Option<SystemTime>,
    /// Its attempts that were told to stop and have not said that they did.
    stopping: Arc<BTreeSet<AttemptKey>>,
    /// When the scheduler's time was zero.
    epoch: SystemTime,
    now: SystemTime,
}

/// A stage of a query.
pub(super) struct SeenStage<'a> {
    pub(super) query: &'a SeenQuery,
    pub(super) stage: &'a StageInfo,
    /// Whether its rows go to the client.
    pub(super) is_last: bool,
}

/// A task of a stage.
pub(super) struct SeenTask<'a> {
    pub(super) stage: &'a StageInfo,
    pub(super) query: &'a SeenQuery,
    pub(super) task: &'a TaskInfo,
    pub(super) is_last: bool,
}

impl View {
    /// What `viewer` may see; of one query alone where only that is asked for.
    pub(super) async fn take(scheduler: &SchedulerHandle, viewer: &Principal, only: Option<&str>) -> Self {
        let snapshot = scheduler.snapshot().await;
        let history = scheduler.history();
        // Afterwards, so that what ends in between is seen as ended, and not missed.
        let (present, past) = history.all();
        let mut running: BTreeMap<QueryId, QueryInfo> =
            snapshot.queries.into_iter().map(|info| (info.id, info)).collect();
        let stopping = snapshot.stopping.iter().map(|stopping| stopping.attempt);
        let stopping: Arc<BTreeSet<AttemptKey>> = Arc::new(stopping.collect());
        let now = SystemTime::now();
        let seen = |asked, info, end, freed, epoch| SeenQuery {
            asked,
            info,
            end,
            freed,
            stopping: Arc::clone(&stopping),
            epoch,
            now,
        };
        let past = past.into_iter().map(
            |Past {
                 asked,
                 ended,
                 outcome,
                 info,
                 freed,
                 epoch,
             }| seen(asked, info, Some((ended, outcome)), freed, epoch),
        );
        let mut queries: Vec<_> = past.collect();
        queries.extend(present.into_iter().map(|Present { asked, info }| {
            let info = running.remove(&asked.id).map(Arc::new).or(info);
            seen(asked, info, None, None, history.time(Duration::ZERO))
        }));
        let wanted = only.map(|id| id.parse::<QueryId>().ok());
        let is_wanted = |id: QueryId| wanted.is_none_or(|wanted| wanted == Some(id));
        queries.retain(|query| query.asked.user.as_deref() == viewer.name() && is_wanted(query.asked.id));
        Self { queries }
    }

    pub(super) fn stages(&self) -> Vec<SeenStage<'_>> {
        self.queries.iter().flat_map(SeenQuery::stages).collect()
    }

    pub(super) fn tasks(&self) -> Vec<SeenTask<'_>> {
        let stages = self.queries.iter().flat_map(SeenQuery::stages);
        stages.flat_map(SeenStage::tasks).collect()
    }
}

impl SeenQuery {
    pub(super) fn state(&self) -> &'static str {
        match (&self.end, &self.info) {
            (Some((_, Ok(()))), _) => "finished",
            (Some((_, Err(failure))), _) if failure.kind == FailureKind::Cancelled => "cancelled",
            (Some((_, Err(_))), _) => "failed",
            (None, None) => "planning",
            (None, Some(info)) => match info.phase {
                QueryPhase::Queued => "queued",
                QueryPhase::Running | QueryPhase::Failing => "running",
                QueryPhase::Delivering => "draining",
            },
        }
    }

    pub(super) fn ended(&self) -> Option<SystemTime> {
        self.end.as_ref().map(|(at, _)| *at)
    }

    pub(super) fn failure(&self) -> Option<&Failure> {
        self.end.as_ref()?.1.as_ref().err()
    }

    /// A time of the scheduler.
    pub(super) fn time(&self, at: Duration) -> SystemTime {
        self.epoch + at
    }

    pub(super) fn submitted(&self) -> Option<SystemTime> {
        Some(self.time(self.info.as_ref()?.submitted))
    }

    pub(super) fn started(&self) -> Option<SystemTime> {
        Some(self.time(self.info.as_ref()?.started?))
    }

    pub(super) fn planning(&self) -> Duration {
        self.from(self.asked.at, self.submitted())
    }

    /// How long it waited to be admitted; none before that began.
    pub(super) fn queued(&self) -> Option<Duration> {
        Some(self.from(self.submitted()?, self.started()))
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.from(self.asked.at, None)
    }

    /// The time from a moment to another, or to the end, or to now.
    pub(super) fn from(&self, begin: SystemTime, end: Option<SystemTime>) -> Duration {
        let end = end.or(self.ended()).unwrap_or(self.now);
        end.duration_since(begin).unwrap_or_default()
    }

    pub(super) fn progress(&self) -> f64 {
        match (&self.end, &self.info) {
            (Some((_, Ok(()))), _) => 1.0,
            (_, Some(info)) => f64::from(info.progress) / 1000.0,
            (_, None) => 0.0,
        }
    }

    fn stages(&self) -> impl Iterator<Item = SeenStage<'_>> {
        let stages = self.info.as_ref().map_or(&[][..], |info| &info.stages);
        stages.iter().zip(1..).map(|(stage, number)| SeenStage {
            query: self,
            stage,
            is_last: number == stages.len(),
        })
    }
}

impl<'a> SeenStage<'a> {
    fn tasks(self) -> impl Iterator<Item = SeenTask<'a>> {
        let tasks = self.stage.tasks.iter();
        tasks.map(move |task| SeenTask {
            query: self.query,
            stage: self.stage,
            task,
            is_last: self.is_last,
        })
    }
}

impl SeenTask<'_> {
    pub(super) fn state(&self) -> &'static str {
        match self.task.phase {
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

    /// None while its worker may still run it.
    pub(super) fn ended(&self) -> Option<SystemTime> {
        match self.task.ended {
            Some(at) => Some(self.query.time(at)),
            None if self.is_stopping() => None,
            None => self.query.ended(),
        }
    }

    fn is_stopping(&self) -> bool {
        self.task.attempt.is_some_and(|(attempt, _)| {
            self.query.stopping.contains(&AttemptKey {
                query: self.query.asked.id,
                stage: self.stage.id,
                task: self.task.id,
                attempt,
            })
        })
    }
}
