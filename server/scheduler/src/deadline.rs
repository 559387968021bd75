//! What the scheduler checks at a later time.

use squadron_proto::{QueryId, StageId, TaskId, WorkerId};

use crate::graph::Placement;

/// A check at a certain time. It changes nothing if its question no longer applies then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deadline {
    /// Does the query still wait for a worker?
    Worker(QueryId, Placement),
    /// Does the first query of a run queue still wait for free slots?
    Room(Placement),
    /// Half of the query's time limit is over.
    Urgent(QueryId),
    /// The query's time limit is over.
    TimeLimit(QueryId),
    /// The task's pause after a refusal or failure is over.
    Retry(QueryId, StageId, TaskId),
    /// Does the query still wait for its last reports?
    LastReport(QueryId),
    /// Are tasks of the stage slow?
    Stragglers(QueryId, StageId),
    /// Is the worker still suspected?
    Grace(WorkerId),
}
