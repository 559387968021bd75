//! FlightInfo, PollInfo and FlightEndpoint of queries.
//!
//! | result | endpoints | locations | `expiration_time` |
//! |---|---|---|---|
//! | streamed | one | none, which means this connection | unset |
//! | retained (`squadron.endpoints = parallel`) | one for each partition | the worker's, then this connection | set |
//!
//! A streamed result has one endpoint, since many clients read only the first, and no location, since one that the
//! client cannot reach would be worse. A partition whose rows are in this process has no location either.

use arrow::datatypes::Schema;
use arrow_flight::sql::{Any, TicketStatementQuery};
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, PollInfo, RenewFlightEndpointRequest, Ticket};
use bytes::Bytes;
use prost::Message;
use squadron_proto::{Failure, QueryId};

use super::command::pack;
use super::info::{echo, encapsulate};
use super::status::invalid;
use crate::query::{Endpoint, Polled, Principal, Queries, ResultEndpoints};

/// The FlightInfo of a query.
pub(super) fn info(
    id: QueryId,
    schema: &Schema,
    endpoints: ResultEndpoints,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo, Failure> {
    let mut info = FlightInfo::new()
        .with_app_metadata(id.to_string())
        .with_ordered(endpoints.is_ordered)
        .with_total_records(endpoints.total_records)
        .with_endpoints(endpoints.endpoints.into_iter().map(endpoint).collect());
    info.flight_descriptor = Some(echo(descriptor));
    info.schema = encapsulate(schema)?;
    Ok(info)
}

/// The PollInfo of a query. Its FlightInfo names the handle too, so that the query can be cancelled before it has any
/// endpoint.
pub(super) fn poll_info(polled: Polled) -> Result<PollInfo, Failure> {
    let handle = FlightDescriptor::new_cmd(polled.handle);
    let info = info(polled.id, &polled.schema, polled.endpoints, handle.clone())?;
    Ok(PollInfo {
        info: Some(info),
        flight_descriptor: Some(handle).filter(|_| !polled.is_done),
        progress: Some(polled.progress),
        expiration_time: (!polled.is_done).then(|| polled.expires.into()),
    })
}

/// The PollInfo of a request that needs no polling, such as metadata.
pub(super) fn complete(info: FlightInfo) -> PollInfo {
    PollInfo {
        info: Some(info),
        flight_descriptor: None,
        progress: Some(1.0),
        expiration_time: None,
    }
}

/// Answers RenewFlightEndpoint: the same rows under a new ticket, with its expiration time.
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
    let (ticket, expires) = queries.renew(principal, &unwrap_handle(&ticket.ticket))?;
    endpoint.ticket = Some(Ticket::new(ticket));
    endpoint.expiration_time = Some(expires.into());
    Ok(endpoint)
}

/// The query of a FlightInfo, by a signed handle in it: the ticket of an endpoint, or the handle of a poll.
pub(super) fn query_of(queries: &Queries, info: &FlightInfo) -> Result<QueryId, Failure> {
    let tickets = info.endpoint.iter().filter_map(|it| it.ticket.as_ref());
    let tickets = tickets.map(|ticket| unwrap_handle(&ticket.ticket));
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

/// The signed handle of a ticket. Tickets that workers accept are the bare handle; those that only the server accepts
/// are Flight SQL commands.
fn unwrap_handle(ticket: &Bytes) -> Bytes {
    let wrapped = Any::decode(ticket.as_ref())
        .ok()
        .and_then(|any| any.unpack::<TicketStatementQuery>().ok().flatten());
    wrapped.map_or_else(|| ticket.clone(), |ticket| ticket.statement_handle)
}

fn endpoint(endpoint: Endpoint) -> FlightEndpoint {
    let ticket = match endpoint.expires {
        Some(_) => endpoint.ticket,
        None => pack(&TicketStatementQuery {
            statement_handle: endpoint.ticket,
        }),
    };
    let mut flight_endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
    for location in endpoint.locations {
        flight_endpoint = flight_endpoint.with_location(location);
    }
    flight_endpoint.expiration_time = endpoint.expires.map(Into::into);
    flight_endpoint
}
