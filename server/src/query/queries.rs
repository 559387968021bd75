//! [`Queries`] and what it is made of; what it does is in the other files of this folder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use squadron_proto::ticket::ClusterKey;
use squadron_proto::{Failure, FailureKind};

use super::plan_cache::PlanCache;
use super::planning::Planning;
use super::records::QueryRecords;
use super::result_endpoints::Locations;
use super::results::ResultReader;
use super::sessions::OpenSessions;
use crate::catalog::Catalog;
use crate::driver::SchedulerHandle;
use crate::planner::Planner;
use crate::settings::WorkerSettings;
use crate::writes::Writes;

/// What [`Queries`] is made of.
#[derive(Clone)]
pub struct QueryParts {
    /// Tables and views.
    pub catalog: Catalog,
    /// Cuts plans into stages.
    pub planner: Planner,
    /// Runs stages.
    pub scheduler: SchedulerHandle,
    /// The sessions that are open.
    pub sessions: OpenSessions,
    /// All queries: what they are doing, and their results.
    pub records: QueryRecords,
    /// Where clients are sent for the rows of results with several endpoints.
    pub locations: Locations,
    /// Reads results.
    pub reader: ResultReader,
    /// Publishes what statements write.
    pub writes: Writes,
    /// Signs tickets.
    pub key: ClusterKey,
    /// How long a ticket is good for.
    pub ticket_lifetime: Duration,
    /// Whether all workers, now and later, live in this process.
    pub in_process: bool,
    /// How long any query may take, planning included; none: as long as its session says.
    pub query_timeout: Option<Duration>,
    /// Bytes of plans, history and results that the server keeps, together.
    pub scheduler_memory: u64,
    /// The threads on which statements are planned, so that planning delays neither connections nor queries that run.
    pub planning: Planning,
}

/// The one way from a client's statement to its rows.
#[derive(Clone)]
pub struct Queries {
    pub(super) parts: Arc<QueryParts>,
    pub(super) worker_settings: Arc<WorkerSettings>,
    pub(super) plans: Arc<PlanCache>,
    closed: Arc<AtomicBool>,
}

impl Queries {
    /// Queries over these parts.
    pub fn new(parts: QueryParts) -> Self {
        Self {
            parts: Arc::new(parts),
            worker_settings: Arc::default(),
            plans: Arc::default(),
            closed: Arc::default(),
        }
    }

    /// Takes no more statements; what runs goes on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Statements that are planned or run, and results that wait for their clients or are being read.
    pub fn unfinished(&self) -> usize {
        self.parts.records.unfinished()
    }

    /// The sessions that are open.
    pub fn sessions(&self) -> &OpenSessions {
        &self.parts.sessions
    }

    /// Statements that write now.
    pub fn running_writes(&self) -> usize {
        self.parts.writes.active()
    }

    /// Refuses statements when the server is shutting down.
    ///
    /// # Errors
    /// `Draining`.
    pub(super) fn check_open(&self) -> Result<(), Failure> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Failure::new(
                FailureKind::Draining,
                "the server is shutting down; connect to another one or try again later",
            ));
        }
        Ok(())
    }
}
