//! The queries there are, for those who look.

use std::sync::Arc;
use std::time::Duration;

use squadron_proto::QueryId;

use super::query::Phase;
use super::stage::Stage;
use super::task::Task;
use super::{GroupLoad, Scheduler};

/// A query that has not ended. Times count from the scheduler's start.
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
    pub group: String,
    /// What it is doing.
    pub phase: QueryPhase,
    /// When it was submitted.
    pub submitted: Duration,
    /// When it was admitted.
    pub started: Option<Duration>,
    /// Processor time of its attempts that have said it, slot time of others that gave their slots back.
    pub spent: Duration,
    /// The slots it holds.
    pub held_slots: u64,
    /// The memory it has reserved, in bytes.
    pub memory_bytes: u64,
    /// How many tasks it has.
    pub tasks: usize,
    /// How many of them are finished.
    pub finished_tasks: usize,
}

/// What a query is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryPhase {
    /// It waits to be admitted.
    Queued,
    /// It runs, and its result cannot be read yet.
    Running,
    /// Its result can be read.
    Streaming,
    /// It has failed, and the cause is being waited for.
    Failing,
}

impl Scheduler {
    /// The queries there are, in the order of their submission.
    pub fn queries(&self) -> Vec<QueryInfo> {
        let mut queries: Vec<_> = self.queries.values().collect();
        queries.sort_by_key(|query| query.number);
        let info = |query: &super::query::Query| {
            let finished = |stage: &Stage| stage.tasks.iter().filter_map(Task::finished).count();
            QueryInfo {
                id: query.id,
                user: query.traits.user.clone(),
                session: Arc::clone(&query.traits.session),
                tag: query.traits.tag.clone(),
                priority: query.traits.priority,
                group: self.admission.groups().spec(query.group).name.clone(),
                phase: match query.phase {
                    Phase::Queued => QueryPhase::Queued,
                    Phase::Running => QueryPhase::Running,
                    Phase::Streaming { .. } => QueryPhase::Streaming,
                    Phase::Failing { .. } => QueryPhase::Failing,
                },
                submitted: query.submitted,
                started: query.started,
                spent: Duration::from_micros(query.usage.spent_us),
                held_slots: query.held_slots(),
                memory_bytes: query.traits.memory_bytes,
                tasks: query.stages.iter().map(|stage| stage.tasks.len()).sum(),
                finished_tasks: query.stages.iter().map(finished).sum(),
            }
        };
        queries.into_iter().map(info).collect()
    }

    /// The resource groups, the server as a whole first.
    pub fn group_loads(&self) -> Vec<(String, GroupLoad)> {
        let groups = self.admission.groups();
        (0..groups.count())
            .map(|group| (groups.spec(group).name.clone(), self.admission.load(group)))
            .collect()
    }
}
