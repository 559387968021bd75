//! What goes into the scheduler (events) and what comes out of it (effects).
//!
//! ```text
//! clients, workers, clock ── Event ──> Scheduler::apply ── Effect ──> workers, clients
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Launch, Release, Stage};
use squadron_proto::{AttemptKey, Failure, QueryId, StageId, TaskId, WorkerId, WorkerKind};

use crate::graph::StageGraph;
use crate::groups::Groups;
use crate::info::{QueryInfo, QuerySummary, ResultPart};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A query is planned and is to run.
    Submit(StageGraph),
    /// The resource groups are replaced; running queries go on.
    Regroup(Groups),
    /// A query is to stop.
    Cancel {
        /// Which query.
        query: QueryId,
        /// The failure for its client.
        failure: Failure,
    },
    /// The client has read every row of a query.
    ResultDone {
        /// Which query.
        query: QueryId,
    },
    /// The server cannot read parts of the result of a query.
    ResultUnreadable {
        /// Which query.
        query: QueryId,
        /// Why, with the attempts that wrote these parts.
        failure: Failure,
    },
    /// A worker is ready for attempts. If the scheduler knows it already, the worker has lost everything it held.
    WorkerJoined {
        /// Its id.
        worker: WorkerId,
        /// How many slots it offers.
        slots: u32,
        /// `http://host:port` where its output is fetched; empty: the server's own process.
        address: String,
        /// Its memory pool, in bytes.
        memory_bytes: u64,
        /// Which placements it serves.
        kind: WorkerKind,
    },
    /// Nothing is heard of a worker. It gets nothing new and keeps what it has; it is lost unless it returns within
    /// [`Limits::worker_grace`](crate::Limits::worker_grace). Messages to it and reports from it may have been lost.
    WorkerSuspected {
        /// Its id.
        worker: WorkerId,
        /// How that was noticed, as half a sentence.
        reason: String,
    },
    /// A suspected worker is there again; the last reports of what it has were applied before.
    WorkerReturned {
        /// Its id.
        worker: WorkerId,
        /// The attempts that it has reported since it is there again. It has no others, and no other output.
        held: BTreeSet<AttemptKey>,
    },
    /// A worker died or cannot be reached; all it held is lost.
    WorkerLost {
        /// Its id.
        worker: WorkerId,
        /// How the loss was noticed, as half a sentence.
        reason: String,
    },
    /// A worker gets no new attempts and leaves when its attempts have ended.
    WorkerDraining {
        /// Its id.
        worker: WorkerId,
    },
    /// A worker reports the state of an attempt.
    Report {
        /// Which worker.
        worker: WorkerId,
        /// Which attempt.
        attempt: AttemptKey,
        /// Its new state.
        status: AttemptStatus,
    },
    /// Time has passed; see [`Scheduler::next_deadline`](crate::Scheduler::next_deadline).
    Tick,
}

/// Something to carry out.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send what all attempts of a stage share. Comes before the stage's first launch on that worker.
    SendStage {
        /// To which worker.
        worker: WorkerId,
        /// What to send.
        stage: Stage,
    },
    /// Reserve slots for an attempt.
    Launch {
        /// On which worker.
        worker: WorkerId,
        /// The attempt, with all it needs.
        launch: Launch,
    },
    /// Run a reserved attempt.
    Commit {
        /// On which worker.
        worker: WorkerId,
        /// Which attempt.
        attempt: AttemptKey,
    },
    /// Stop an attempt, or drop what it has written.
    CancelAttempt {
        /// On which worker.
        worker: WorkerId,
        /// Which attempt.
        attempt: AttemptKey,
    },
    /// Output of a query is not needed. The worker keeps it while it has room for it.
    Spare {
        /// On which worker.
        worker: WorkerId,
        /// Of which query.
        query: QueryId,
        /// Of which stage.
        stage: StageId,
    },
    /// Drop output of a query, or all that the worker holds of it.
    Release {
        /// On which worker.
        worker: WorkerId,
        /// Which output.
        release: Release,
    },
    /// Something of the query was lost and is computed again. If parts of an announced result are among it, the result is
    /// announced again.
    Recovering {
        /// Which query.
        query: QueryId,
        /// What was lost.
        failure: Failure,
        /// How many attempts came to nothing.
        attempts: usize,
        /// Parts of a result that was announced.
        parts: LostParts,
    },
    /// A slow task gets a second attempt beside the one that it has.
    SecondAttempt {
        /// The attempt that is slow.
        slow: AttemptKey,
        /// Its worker.
        on: WorkerId,
        /// How long it has run.
        runs_for: Duration,
        /// The worker of the second attempt.
        worker: WorkerId,
    },
    /// The result of the query can be read from now on, or again.
    ResultReady {
        /// Which query.
        query: QueryId,
        /// Where the result is, in the order of the root stage's tasks.
        parts: Vec<ResultPart>,
    },
    /// The query has ended, and nothing of it is left in the scheduler. Comes exactly once for each submitted query.
    Ended {
        /// Which query.
        query: QueryId,
        /// How it ended.
        outcome: Result<QuerySummary, Failure>,
        /// The query's state at its end; none if it was refused at submission.
        info: Option<Box<QueryInfo>>,
    },
    /// A suspected worker did not return in time: it is lost. When it comes, it joins anew.
    WorkerGivenUp {
        /// Its id.
        worker: WorkerId,
        /// Why, as half a sentence.
        reason: String,
    },
    /// A worker gets attempts only where no other accepts any, for a while.
    WorkerAvoided {
        /// Its id.
        worker: WorkerId,
        /// What was seen of it last, as a sentence.
        reason: String,
    },
    /// No worker runs an attempt of this ended query any more. Comes once for each query, with its end or later.
    Released {
        /// Which query.
        query: QueryId,
    },
    /// A worker sent a report that a correct worker cannot send; it was applied as the progress it claims. For the log.
    Unexpected {
        /// Which worker.
        worker: WorkerId,
        /// About which attempt.
        attempt: AttemptKey,
        /// What was impossible about the report.
        what: &'static str,
    },
}

/// Parts of an announced result that are written again, by the numbers of their tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostParts {
    /// The rows that are missing; those that were read stay right.
    pub lost: Vec<TaskId>,
    /// All rows: those that were read do not belong to the result any more.
    pub void: Vec<TaskId>,
}

impl LostParts {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.void.is_empty()
    }
}

impl Effect {
    /// Drops the output of a stage.
    pub(crate) fn release_stage(worker: WorkerId, query: QueryId, stage: StageId) -> Self {
        let stages = vec![stage];
        Self::Release {
            worker,
            release: Release { query, stages },
        }
    }

    /// Drops everything that the worker holds of the query.
    pub(crate) fn release_all(worker: WorkerId, query: QueryId) -> Self {
        let stages = Vec::new();
        Self::Release {
            worker,
            release: Release { query, stages },
        }
    }
}
