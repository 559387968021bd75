//! The workers of this server: their connections, and the messages both ways.
//!
//! ```text
//! driver ── Registry::send ──> Outbox ──> embedded worker (channel) | remote worker (control stream)
//! driver <── WorkerEvent ───── one task per worker that reads what it says
//! ```

mod control;
mod registry;
mod transport;

use squadron_proto::control::Heartbeat;
use squadron_proto::{WorkerId, WorkerKind};

pub use control::ControlService;
pub use registry::{Registry, RegistryOptions, WorkerEvent, WorkerEventKind};
pub use transport::Unreachable;

/// A worker as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its id.
    pub id: WorkerId,
    /// What kind it is.
    pub kind: WorkerKind,
    /// `http://host:port` of its output; empty: the server itself.
    pub address: String,
    /// How many slots it offers.
    pub slots: u32,
    /// How many of them are taken.
    pub used_slots: u32,
    /// How many attempts it has that are not parked.
    pub running: u32,
    /// Attempts of ended queries that it was told to stop and has not said to have stopped.
    pub stopping: usize,
    /// Whether it is on its way out.
    pub draining: bool,
    /// Whether nothing is heard of it at present.
    pub suspected: bool,
    /// Whether it gets attempts only where no other worker accepts any.
    pub avoided: bool,
    /// How many attempts failed there for reasons that are not their statements'.
    pub failures: u64,
    /// Its memory pool, in bytes.
    pub memory_bytes: u64,
    /// Its last heartbeat.
    pub last_heartbeat: Heartbeat,
    /// Its release.
    pub version: String,
}
