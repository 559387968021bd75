//! SQL statements: from text to a plan, and from a running query to the FlightInfo that leads to its rows.

use std::borrow::Cow;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::sql::{ProstMessageExt, TicketStatementQuery};
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket};
use bytes::Bytes;
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, dialect_from_str};
use prost::Message;
use squadron_proto::Failure;

use super::placeholders;
use super::status::unsupported;
use crate::queries::{NO_TRANSACTIONS, PlannedStatement, Queries, Session};

/// The longest command that FlightInfo repeats: with a longer one it may be more than the 4 MiB that many clients read.
const MAX_ECHO_BYTES: usize = 64 * 1024;

/// Plans a statement; nothing runs yet.
pub(super) async fn plan(
    queries: &Queries,
    session: &Session,
    sql: &str,
    transaction: Option<&Bytes>,
) -> Result<PlannedStatement, Failure> {
    no_transaction(transaction)?;
    let sql = numbered(session, sql)?;
    queries.plan(session, &sql).await
}

/// Starts a statement and says where its rows are to be fetched. DDL and DML have run when this returns.
pub(super) async fn start(
    queries: &Queries,
    session: &Session,
    planned: &PlannedStatement,
    parameters: Option<RecordBatch>,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo, Failure> {
    let started = queries.start(session, planned, parameters).await?;
    let ticket = TicketStatementQuery {
        statement_handle: queries.ticket(started.id),
    };
    let info = info(&started.schema, Ticket::new(packed(&ticket)), descriptor)?;
    Ok(info
        .with_app_metadata(started.id.to_string())
        .with_total_records(started.total_records))
}

/// A FlightInfo with one endpoint on this connection: several clients read the first endpoint only, and a location
/// that a client cannot reach is worse than none. No expiration, since a result is read once.
pub(super) fn info(
    schema: &Schema,
    ticket: Ticket,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo, Failure> {
    let mut info = FlightInfo::new().with_endpoint(FlightEndpoint::new().with_ticket(ticket));
    info.flight_descriptor = Some(descriptor).filter(|it| it.cmd.len() <= MAX_ECHO_BYTES);
    info.schema = encapsulated(schema)?;
    Ok(info)
}

/// A schema as an encapsulated IPC message.
pub(super) fn encapsulated(schema: &Schema) -> Result<Bytes, Failure> {
    let options = IpcWriteOptions::default();
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &options)
        .try_into()
        .map_err(|error| Failure::internal(format!("schema {schema}: {error}")))?;
    Ok(bytes)
}

/// A Flight SQL message in the envelope that descriptors and tickets carry.
pub(super) fn packed(message: &impl ProstMessageExt) -> Bytes {
    message.as_any().encode_to_vec().into()
}

/// Refuses a statement that says it belongs to a transaction.
pub(super) fn no_transaction(id: Option<&Bytes>) -> Result<(), Failure> {
    if id.is_some_and(|id| !id.is_empty()) {
        return Err(unsupported(NO_TRANSACTIONS));
    }
    Ok(())
}

/// The statement with numbered placeholders, by the dialect of the session.
fn numbered<'a>(session: &Session, sql: &'a str) -> Result<Cow<'a, str>, Failure> {
    let config = session.context.copied_config();
    let name = config.options().sql_parser.dialect.to_string();
    let dialect: Box<dyn Dialect> =
        dialect_from_str(name).unwrap_or_else(|| Box::new(GenericDialect {}));
    placeholders::numbered(sql, &*dialect)
}
