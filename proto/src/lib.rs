//! The wire contract between Squadron's processes: ids, failures, control messages and tickets.
//!
//! All other crates depend on this one, which does not depend on DataFusion: a plan is bytes, or an opaque reference
//! when both ends share a process. Everything that arrives from outside is converted fallibly into the domain types of
//! [`control`] and [`ticket`] before any code acts on it.

pub mod control;
pub mod failure;
pub mod ids;
pub mod ticket;
mod worker_kind;

pub use failure::{Failure, FailureKind};
pub use ids::{AttemptKey, AttemptNumber, QueryId, StageId, TaskId, WorkerId};
pub use worker_kind::WorkerKind;

/// Generated wire messages; only this crate and the transports use them.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod wire {
    /// Control service messages.
    pub mod control {
        tonic::include_proto!("squadron.control.v1");
    }
    /// Ticket contents.
    pub mod ticket {
        tonic::include_proto!("squadron.ticket.v1");
    }
}

/// The version both ends of a control stream must share; raised by every incompatible change of the wire.
pub const PROTOCOL_VERSION: u32 = 4;

/// The largest control message either end accepts, in bytes: enough for a stage plan with many thousands of files.
pub const MAX_CONTROL_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

/// The largest message that a worker sends, in bytes: what an attempt wrote and its operators did, in so many lines. Less
/// than what it is sent, since the server reads the first one of anybody.
pub const MAX_WORKER_MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// A message from outside that lacks a required field or has an invalid one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed {what}")]
pub struct Malformed {
    /// Which message or field.
    pub what: &'static str,
}

impl Malformed {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what }
    }
}
