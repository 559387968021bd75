//! The Flight SQL front end: wire in, wire out, no engine logic.
//!
//! ```text
//! gate ──> service ─┬─ session    who is calling, and what it has set
//!                   ├─ statement  SQL text in GetFlightInfo, GetSchema, DoPut; tables as paths
//!                   ├─ substrait  the same for Substrait plans
//!                   ├─ endpoints  FlightInfo, PollInfo, FlightEndpoint; renewing
//!                   ├─ prepared   statements kept under a handle, and their bound parameters
//!                   ├─ metadata   catalogs, schemas, tables, keys, types, SqlInfo
//!                   ├─ sizes      messages above the limit
//!                   ├─ put        DoPut: updates and bound parameters
//!                   └─ action     DoAction and ListActions
//! ```
//!
//! arrow-flight's own `FlightSqlService` cannot answer GetSchema, an action of its fallback, or a field newer than its
//! messages, so [`Service`] implements the lower `FlightService` itself. Everything it cannot do answers
//! Unimplemented with its name.

mod action;
mod credentials;
mod deadline;
mod endpoints;
mod gate;
mod messages;
mod metadata;
mod options;
mod parameters;
mod placeholders;
mod prepared;
mod properties;
mod put;
mod service;
mod session;
mod sizes;
mod statement;
mod status;
mod substrait;

#[cfg(test)]
mod tests;

use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;

use crate::auth::Authenticator;
use crate::catalog::Catalog;
use crate::query::Queries;

pub use gate::Gate;
pub use service::Service;
pub use sizes::SizeLimited;

/// The largest list of headers that a client may send, in bytes: tokens, cookies and the properties of a connection
/// string add up.
pub const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;

/// The limits of what the front end keeps for its clients.
#[derive(Clone, Debug)]
pub struct FlightOptions {
    /// The largest message a client may send (ADBC sends a whole batch as one), and the largest it is sent (a single row).
    pub max_message_bytes: usize,
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
            max_message_bytes: 256 * 1024 * 1024,
            session_idle_timeout: Duration::from_secs(3600),
            max_sessions: 10_000,
            max_prepared_statements: 10_000,
            max_bound_bytes: 256 * 1024 * 1024,
        }
    }
}

/// The Flight service to mount on the client port, which lets in whom `authenticator` knows.
pub fn service(
    queries: Queries,
    catalog: Catalog,
    authenticator: Authenticator,
    options: &FlightOptions,
) -> Gate<SizeLimited<FlightServiceServer<Service>>> {
    let service = Service::new(queries, catalog, authenticator.clone(), options);
    let server = FlightServiceServer::new(service)
        .max_decoding_message_size(options.max_message_bytes)
        // Rows above the limit are refused before, with a better sentence.
        .max_encoding_message_size(2 * options.max_message_bytes);
    Gate::new(SizeLimited(server), authenticator)
}
