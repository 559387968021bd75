//! The Flight SQL front end: wire in, wire out, no engine logic.
//!
//! ```text
//! service ─┬─ session    who is calling, and what it has set
//!          ├─ statement  SQL text in GetFlightInfo, GetSchema, DoPut
//!          ├─ prepared   statements kept under a handle, and their bound parameters
//!          ├─ metadata   catalogs, schemas, tables, keys, types, SqlInfo
//!          ├─ put        DoPut: updates and bound parameters
//!          └─ action     DoAction and ListActions
//! ```
//!
//! arrow-flight's own `FlightSqlService` cannot answer GetSchema, an action of its fallback, or a field newer than its
//! messages, so [`Service`] implements the lower `FlightService` itself. Everything it cannot do answers
//! Unimplemented with its name.

mod action;
mod messages;
mod metadata;
mod options;
mod parameters;
mod placeholders;
mod prepared;
mod put;
mod service;
mod session;
mod statement;
mod status;

#[cfg(test)]
mod tests;

use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;

use crate::catalog::Catalog;
use crate::queries::Queries;

pub use service::Service;

/// The largest message a client may send; ADBC sends a whole batch as one message.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

/// The limits of what the front end keeps for its clients.
#[derive(Clone, Debug)]
pub struct FlightOptions {
    /// A session, and a prepared statement, that nobody has used for this long is forgotten.
    pub session_idle_timeout: Duration,
    /// Sessions kept at once; beyond it the least recently used is forgotten.
    pub max_sessions: u64,
    /// Prepared statements kept at once; beyond it the least recently used is forgotten.
    pub max_prepared_statements: u64,
    /// Bytes of bound parameters kept at once; beyond it the least recently used are forgotten.
    pub max_bound_bytes: u64,
}

impl Default for FlightOptions {
    fn default() -> Self {
        Self {
            session_idle_timeout: Duration::from_secs(3600),
            max_sessions: 10_000,
            max_prepared_statements: 10_000,
            max_bound_bytes: 256 * 1024 * 1024,
        }
    }
}

/// The Flight service to mount on the client port.
pub fn service(
    queries: Queries,
    catalog: Catalog,
    options: &FlightOptions,
) -> FlightServiceServer<Service> {
    FlightServiceServer::new(Service::new(queries, catalog, options))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
