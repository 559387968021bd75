//! The life of a query: from a statement to its rows, its end, and what is remembered of it.
//!
//! ```text
//! prepare ──> start ──> ticket ──> stream ──> end
//!   parse, plan         it runs    signed,    once        finished, failed or cancelled
//!                                  expiring
//! ```
//!
//! Each query has one record (`record`), in one map ([`records`]); whatever stops a query finds it there (`lifecycle`).
//! Statements that change something (DDL, SET, INSERT, COPY, KILL) run to their end when they are started, exactly
//! once, never while a result is read.

mod change;
mod delivered;
mod ended;
pub mod history;
mod lifecycle;
mod lowering;
mod options;
mod plan_cache;
mod plan_context;
mod plan_memory;
mod planning;
mod poll;
mod polled;
mod queries;
mod record;
pub mod records;
mod result_endpoints;
mod result_parts;
mod result_reader;
pub mod results;
mod retained;
mod rows;
mod sessions;
mod settings_table;
mod stage_graph;
mod start;
mod started;
mod write;

pub use self::planning::Planning;
pub use self::poll::Polled;
pub use self::queries::{Queries, QueryParts};
pub use self::result_endpoints::{Endpoint, Locations, ResultEndpoints};
pub use self::sessions::{OpenSessions, Session, SessionInfo};
pub use self::start::Execution;
pub use self::started::{Offer, Started};
pub use crate::auth::Principal;
