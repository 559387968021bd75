//! The Flight SQL front end: wire in, wire out, no engine logic.
//!
//! ```text
//! gate ──> service ─┬─ session    the caller's session, and its options
//!                   ├─ statement  SQL text in GetFlightInfo, GetSchema, DoPut; tables as paths
//!                   ├─ substrait  the same for Substrait plans
//!                   ├─ endpoints  FlightInfo, PollInfo, FlightEndpoint; renewing
//!                   ├─ prepared   prepared statements by handle, and their bound parameters
//!                   ├─ metadata   catalogs, schemas, tables, keys, types, SqlInfo
//!                   ├─ sizes      refusing messages above the limit
//!                   ├─ put        DoPut: updates and bound parameters
//!                   └─ action     DoAction and ListActions
//! ```
//!
//! Shared by these, and using none of them: `command` (Flight SQL commands on the wire), `info` (parts of a
//! FlightInfo), `limits`, `messages`, `status`.
//!
//! arrow-flight's own `FlightSqlService` cannot answer GetSchema, an action of its fallback, or a field newer than its
//! messages, so [`Service`] implements the lower `FlightService` itself. A command that is not supported is answered
//! with Unimplemented and its name.

mod action;
mod command;
mod credentials;
mod deadline;
mod endpoints;
mod gate;
mod info;
mod limits;
mod messages;
mod metadata;
mod options;
mod parameters;
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

use arrow_flight::flight_service_server::FlightServiceServer;

use crate::auth::Authenticator;
use crate::catalog::Catalog;
use crate::query::Queries;
pub use gate::Gate;
pub use limits::{FlightOptions, MAX_HEADER_LIST_BYTES};
pub use service::Service;
pub use sizes::SizeLimited;

/// The Flight service to mount on the client port; `authenticator` decides which requests pass.
pub fn service(
    queries: Queries,
    catalog: Catalog,
    authenticator: Authenticator,
    options: &FlightOptions,
) -> Gate<SizeLimited<FlightServiceServer<Service>>> {
    let service = Service::new(queries, catalog, authenticator.clone(), options);
    let server = FlightServiceServer::new(service)
        .max_decoding_message_size(options.max_message_bytes)
        // Twice the limit: `sizes` refuses rows above the limit before tonic does, with a better message.
        .max_encoding_message_size(2 * options.max_message_bytes);
    Gate::new(SizeLimited(server), authenticator)
}
