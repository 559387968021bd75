//! A query that has ended, and what was asked.

use std::mem::size_of;
use std::sync::Arc;
use std::time::SystemTime;

use squadron_proto::{Failure, QueryId};
use squadron_scheduler::{AttemptInfo, QueryInfo, StageInfo, TaskInfo};

/// What was asked, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryRequest {
    /// The query's id.
    pub id: QueryId,
    /// The user, where one had to log in.
    pub user: Option<Arc<str>>,
    /// The session.
    pub session: Arc<str>,
    /// The statement as it may be shown; none for a Substrait plan.
    pub statement: Option<Arc<str>>,
    /// `squadron.tag`.
    pub tag: Option<Arc<str>>,
    /// `squadron.priority`.
    pub priority: i32,
    /// When.
    pub at: SystemTime,
}

/// A query that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedQuery {
    /// What was asked, and by whom.
    pub request: Arc<QueryRequest>,
    /// When it ended.
    pub ended: SystemTime,
    /// How.
    pub outcome: Result<(), Failure>,
    /// What the scheduler said of it at its end; none where it was over before it ran.
    pub info: Option<Arc<QueryInfo>>,
    /// When its workers had stopped what they still ran of it; none while they have not.
    pub released: Option<SystemTime>,
    /// When the scheduler's time was zero.
    pub epoch: SystemTime,
}

impl CompletedQuery {
    /// What it takes of the server's memory, about.
    pub(super) fn bytes(&self) -> u64 {
        let statement = self.request.statement.as_ref().map_or(0, |text| text.len());
        let failure = self.outcome.as_ref().err();
        let stages = self.info.iter().flat_map(|info| &info.stages);
        let attempts = |task: &TaskInfo| task.attempts.len() * size_of::<AttemptInfo>();
        let tasks = |stage: &StageInfo| {
            let tasks = stage.tasks.iter();
            tasks.map(|task| size_of::<TaskInfo>() + attempts(task)).sum::<usize>()
        };
        let stages: usize = stages.map(|stage| size_of::<StageInfo>() + tasks(stage)).sum();
        let own = size_of::<Self>() + size_of::<QueryRequest>() + size_of::<QueryInfo>();
        (own + statement + failure.map_or(0, |failure| failure.message.len()) + stages) as u64
    }
}
