//! What goes into the scheduler (events) and what comes out of it (effects).
//!
//! ```text
//! clients, workers, clock ── Event ──> Scheduler::apply ── Effect ──> workers, clients
//! ```

use squadron_proto::control::{AttemptStatus, Launch, Release, Stage};
use squadron_proto::{AttemptKey, Failure, QueryId, WorkerId, WorkerKind};

use crate::graph::StageGraph;
use crate::groups::Groups;
use crate::info::{QueryInfo, QuerySummary, ResultPart};

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client's query is planned and wants to run.
    Submit(StageGraph),
    /// Other resource groups count from now on; what runs goes on.
    Regroup(Groups),
    /// Somebody wants the query to stop.
    Cancel {
        /// Which query.
        query: QueryId,
        /// What its client shall see.
        failure: Failure,
    },
    /// The client has read every row.
    ResultDone {
        /// Of which query.
        query: QueryId,
    },
    /// A worker is ready for attempts. A worker that was there already has lost everything.
    WorkerJoined {
        /// Its id.
        worker: WorkerId,
        /// How many slots it offers.
        slots: u32,
        /// `http://host:port` of its output; empty: the server itself.
        address: String,
        /// Its memory pool, in bytes.
        memory_bytes: u64,
        /// Which placements it serves.
        kind: WorkerKind,
    },
    /// A worker died or was cut off, with all it held.
    WorkerLost {
        /// Its id.
        worker: WorkerId,
        /// How that was seen, as half a sentence.
        reason: String,
    },
    /// A worker leaves when its attempts have ended; it gets no new ones.
    WorkerDraining {
        /// Its id.
        worker: WorkerId,
    },
    /// A worker says how an attempt is doing.
    Report {
        /// Which worker.
        worker: WorkerId,
        /// Which attempt.
        attempt: AttemptKey,
        /// Its new state.
        status: AttemptStatus,
    },
    /// Time has passed; see `Scheduler::next_deadline`.
    Tick,
}

/// Something is to be done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send what all attempts of a stage share; before its first launch on that worker.
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
        /// Which attempt, and all it needs.
        launch: Launch,
    },
    /// Run a reserved attempt.
    Commit {
        /// On which worker.
        worker: WorkerId,
        /// Which attempt.
        attempt: AttemptKey,
    },
    /// Stop an attempt.
    CancelAttempt {
        /// On which worker.
        worker: WorkerId,
        /// Which attempt.
        attempt: AttemptKey,
    },
    /// Drop output.
    Release {
        /// On which worker.
        worker: WorkerId,
        /// Which output.
        release: Release,
    },
    /// The rows of the query can be read from now on.
    ResultReady {
        /// Which query.
        query: QueryId,
        /// Where they are, in the order of the root's tasks.
        parts: Vec<ResultPart>,
    },
    /// The query is over, and nothing of it is left in the scheduler. Comes exactly once for each submitted query.
    Ended {
        /// Which query.
        query: QueryId,
        /// How.
        outcome: Result<QuerySummary, Failure>,
        /// What it was at its end; none where it was refused at once.
        info: Option<Box<QueryInfo>>,
    },
    /// No worker runs anything of a query any more that has ended. Comes once, with its end or later.
    Released {
        /// Which query.
        query: QueryId,
    },
    /// A worker said what cannot be; it was taken as the progress it claims. For the log.
    Unexpected {
        /// Which worker.
        worker: WorkerId,
        /// About which attempt.
        attempt: AttemptKey,
        /// What it said and when.
        what: &'static str,
    },
}

impl Effect {
    /// Everything that the worker holds of the query is to be dropped.
    pub(crate) fn release_all(worker: WorkerId, query: QueryId) -> Self {
        let stages = Vec::new();
        Self::Release {
            worker,
            release: Release { query, stages },
        }
    }
}
