//! What the scheduler looks at later.

use squadron_proto::{QueryId, StageId, TaskId};

use crate::graph::Placement;

/// Something to look at when its time has come, if it still holds then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deadline {
    /// Does the query still wait for a worker?
    Worker(QueryId, Placement),
    /// Does the first in the queue still wait for room?
    Room(Placement),
    /// The query has had most of the time it was given.
    Urgent(QueryId),
    /// The query has had all the time it was given.
    TimeLimit(QueryId),
    /// The pause after a refusal is over.
    Retry(QueryId, StageId, TaskId),
    /// Does the query still wait for the cause of its failure?
    RootCause(QueryId),
    /// Does the query still wait for its last reports?
    LastReport(QueryId),
}
