//! Which connection of each worker counts, and which workers are away.
//!
//! | presence | leads to | when |
//! |---|---|---|
//! | Here | Away | its connection breaks |
//! | Here, Away | Returning | the same start of the worker connects again |
//! | Returning | Here | it has reported all that it has |
//! | any | - | it is lost, or another start of it joins |

use std::collections::{BTreeSet, HashMap};

use squadron_proto::{AttemptKey, WorkerId, WorkerKind};

/// The workers that the scheduler knows.
#[derive(Debug, Default)]
pub(super) struct Members(HashMap<WorkerId, Member>);

/// One start of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) epoch: u64,
    pub(super) kind: WorkerKind,
}

#[derive(Debug)]
struct Member {
    start: Start,
    connection: u64,
    presence: Presence,
}

#[derive(Debug)]
enum Presence {
    Here,
    Away,
    /// The attempts that it has reported since it is there again.
    Returning(BTreeSet<AttemptKey>),
}

/// What a new connection of a worker means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connected {
    /// Nothing: it has a later one.
    Outdated,
    /// A worker that the scheduler does not know, or that has lost all it held.
    New,
    /// A worker that has what it held, and says so next.
    Again,
}

impl Members {
    pub(super) fn connect(&mut self, worker: WorkerId, connection: u64, start: Start) -> Connected {
        if let Some(member) = self.0.get_mut(&worker) {
            if member.connection > connection {
                return Connected::Outdated;
            }
            if start.kind == WorkerKind::Remote && member.start == start {
                member.connection = connection;
                member.presence = Presence::Returning(BTreeSet::new());
                return Connected::Again;
            }
        }
        let presence = Presence::Here;
        let member = Member {
            start,
            connection,
            presence,
        };
        self.0.insert(worker, member);
        Connected::New
    }

    /// Whether events of this connection count.
    pub(super) fn is_current(&self, worker: WorkerId, connection: u64) -> bool {
        self.0
            .get(&worker)
            .is_some_and(|member| member.connection == connection)
    }

    /// The connection over which a worker can be sent to.
    pub(super) fn connection(&self, worker: WorkerId) -> Option<u64> {
        let member = self.0.get(&worker)?;
        match member.presence {
            Presence::Here | Presence::Returning(_) => Some(member.connection),
            Presence::Away => None,
        }
    }

    /// Nothing reaches the worker any more. False for one inside this process, which does not connect again.
    pub(super) fn leave(&mut self, worker: WorkerId) -> bool {
        match self.0.get_mut(&worker) {
            Some(member) if member.start.kind == WorkerKind::Remote => {
                member.presence = Presence::Away;
                true
            }
            Some(_) | None => false,
        }
    }

    /// A worker reports about an attempt.
    pub(super) fn note(&mut self, worker: WorkerId, attempt: AttemptKey) {
        if let Some(member) = self.0.get_mut(&worker)
            && let Presence::Returning(held) = &mut member.presence
        {
            held.insert(attempt);
        }
    }

    /// A worker has reported all that it has; none if it was not away.
    pub(super) fn end_inventory(&mut self, worker: WorkerId) -> Option<BTreeSet<AttemptKey>> {
        let member = self.0.get_mut(&worker)?;
        match std::mem::replace(&mut member.presence, Presence::Here) {
            Presence::Returning(held) => Some(held),
            before @ (Presence::Here | Presence::Away) => {
                member.presence = before;
                None
            }
        }
    }

    /// The worker is lost. Returns the connection that it had or has.
    pub(super) fn remove(&mut self, worker: WorkerId) -> Option<u64> {
        self.0.remove(&worker).map(|member| member.connection)
    }
}

#[cfg(test)]
mod tests {
    use squadron_proto::{AttemptNumber, QueryId, StageId, TaskId};

    use super::*;

    const WORKER: WorkerId = WorkerId::from_u128(1);
    const FIRST: Start = Start {
        epoch: 7,
        kind: WorkerKind::Remote,
    };
    const ATTEMPT: AttemptKey = AttemptKey {
        query: QueryId::from_u128(1),
        stage: StageId(0),
        task: TaskId(0),
        attempt: AttemptNumber(0),
    };

    #[test]
    fn same_start_returns_with_what_it_reports() {
        let mut members = Members::default();
        assert_eq!(members.connect(WORKER, 1, FIRST), Connected::New);
        members.note(WORKER, ATTEMPT);
        assert_eq!(members.end_inventory(WORKER), None, "it was never away");
        assert!(members.leave(WORKER));
        assert_eq!(members.connection(WORKER), None);
        assert_eq!(members.connect(WORKER, 2, FIRST), Connected::Again);
        assert_eq!(members.connection(WORKER), Some(2));
        members.note(WORKER, ATTEMPT);
        assert_eq!(members.end_inventory(WORKER), Some(BTreeSet::from([ATTEMPT])));
        assert_eq!(members.connect(WORKER, 1, FIRST), Connected::Outdated);
    }

    #[test]
    fn other_start_joins_anew() {
        let mut members = Members::default();
        members.connect(WORKER, 1, FIRST);
        let second = Start { epoch: 8, ..FIRST };
        assert_eq!(members.connect(WORKER, 2, second), Connected::New);
        assert!(!members.is_current(WORKER, 1));
        assert_eq!(members.remove(WORKER), Some(2));
        assert_eq!(members.connect(WORKER, 3, second), Connected::New, "it was lost");
    }

    #[test]
    fn worker_of_this_process_never_returns() {
        let mut members = Members::default();
        let embedded = Start {
            epoch: 0,
            kind: WorkerKind::Embedded,
        };
        members.connect(WORKER, 1, embedded);
        assert!(!members.leave(WORKER));
        assert_eq!(members.connect(WORKER, 2, embedded), Connected::New);
    }
}
