//! FlightInfo, PollInfo and FlightEndpoint of queries.
//!
//! | result | endpoints | locations | `expiration_time` |
//! |---|---|---|---|
//! | read once | one: several clients read the first one alone | none, which means this connection: one that a client cannot reach is worse | unset |
//! | kept (`squadron.endpoints = parallel`) | one for each partition | the worker's, then this connection; none for rows that are here | set |

use arrow::datatypes::Schema;
use arrow_flight::sql::{Any, TicketStatementQuery};
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, PollInfo, RenewFlightEndpointRequest, Ticket};
use bytes::Bytes;
use prost::Message;
use squadron_proto::{Failure, QueryId};

use super::statement::{echo, encapsulated, packed};
use super::status::invalid;
use crate::query::{Endpoint, Offered, Polled, Principal, Queries};

/// The FlightInfo of a query.
pub(super) fn info(
    id: QueryId,
    schema: &Schema,
    offered: Offered,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo, Failure> {
    let mut info = FlightInfo::new()
        .with_app_metadata(id.to_string())
        .with_ordered(offered.is_ordered)
        .with_total_records(offered.total_records)
        .with_endpoints(offered.endpoints.into_iter().map(endpoint).collect());
    info.flight_descriptor = echo(descriptor);
    info.schema = encapsulated(schema)?;
    Ok(info)
}

/// The PollInfo of a query. Its FlightInfo names the handle too, so that the query can be cancelled before it has any
/// endpoint.
pub(super) fn poll_info(polled: Polled) -> Result<PollInfo, Failure> {
    let handle = FlightDescriptor::new_cmd(polled.handle);
    let info = info(polled.id, &polled.schema, polled.offered, handle.clone())?;
    Ok(PollInfo {
        info: Some(info),
        flight_descriptor: Some(handle).filter(|_| !polled.is_done),
        progress: Some(polled.progress),
        expiration_time: (!polled.is_done).then(|| polled.expires.into()),
    })
}

/// The PollInfo of what is complete at once.
pub(super) fn complete(info: FlightInfo) -> PollInfo {
    PollInfo {
        info: Some(info),
        flight_descriptor: None,
        progress: Some(1.0),
        expiration_time: None,
    }
}

/// Answers RenewFlightEndpoint: the same rows under a ticket that is good for longer, until the new time.
pub(super) fn renew(
    queries: &Queries,
    principal: &Principal,
    request: RenewFlightEndpointRequest,
) -> Result<FlightEndpoint, Failure> {
    let mut endpoint = request
        .endpoint
        .ok_or_else(|| invalid("RenewFlightEndpoint without an endpoint"))?;
    let ticket = endpoint
        .ticket
        .ok_or_else(|| invalid("the endpoint has no ticket; send one of the FlightInfo as it came"))?;
    let (ticket, expires) = queries.renew(principal, &handle_in(&ticket.ticket))?;
    endpoint.ticket = Some(Ticket::new(ticket));
    endpoint.expiration_time = Some(expires.into());
    Ok(endpoint)
}

/// The query of a FlightInfo, by what is signed in it: the ticket of an endpoint, or the handle of a poll.
pub(super) fn query_of(queries: &Queries, info: &FlightInfo) -> Result<QueryId, Failure> {
    let tickets = info.endpoint.iter().filter_map(|it| it.ticket.as_ref());
    let tickets = tickets.map(|ticket| handle_in(&ticket.ticket));
    let descriptor = info.flight_descriptor.iter().map(|it| it.cmd.clone());
    let signed: Vec<Bytes> = tickets.chain(descriptor).collect();
    signed
        .iter()
        .find_map(|handle| queries.query_of(handle))
        .ok_or_else(|| {
            invalid(
                "the FlightInfo is not one of a query of this server, or its tickets have expired; send the one that \
                 GetFlightInfo or PollFlightInfo gave",
            )
        })
}

/// What is signed in a ticket: those that workers take are bare, those for the server alone are commands of Flight SQL.
fn handle_in(ticket: &Bytes) -> Bytes {
    let wrapped = Any::decode(ticket.as_ref())
        .ok()
        .and_then(|any| any.unpack::<TicketStatementQuery>().ok().flatten());
    wrapped.map_or_else(|| ticket.clone(), |ticket| ticket.statement_handle)
}

fn endpoint(endpoint: Endpoint) -> FlightEndpoint {
    let ticket = match endpoint.expires {
        Some(_) => endpoint.ticket,
        None => packed(&TicketStatementQuery {
            statement_handle: endpoint.ticket,
        }),
    };
    let mut told = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
    for location in endpoint.locations {
        told = told.with_location(location);
    }
    told.expiration_time = endpoint.expires.map(Into::into);
    told
}
