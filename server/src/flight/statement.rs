//! SQL statements: from text to a plan, and from a running query to the FlightInfo that leads to its rows.

use std::borrow::Cow;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::sql::ProstMessageExt;
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket};
use bytes::Bytes;
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, dialect_from_str};
use prost::Message;
use squadron_proto::Failure;

use super::status::{invalid, unsupported};
use super::{endpoints, placeholders};
use crate::query::{NO_TRANSACTIONS, Queries, Session};
use crate::sql::PlannedStatement;

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
    let offered = queries.offered(&started)?;
    endpoints::info(started.id, &started.schema, offered, descriptor)
}

/// The statement that reads all of a table, given as the path of a descriptor: `[catalog, schema, table]`, or its end.
pub(super) fn of_path(session: &Session, path: &[String]) -> Result<String, Failure> {
    if path.is_empty() || path.len() > 3 || path.iter().any(String::is_empty) {
        return Err(invalid(
            "the path of a descriptor names a table: catalog, schema and table, or the last of these; ListFlights lists \
             them",
        ));
    }
    let quote = dialect(session).identifier_quote_style("").unwrap_or('"');
    let quoted = path.iter().map(|name| {
        let doubled = name.replace(quote, &format!("{quote}{quote}"));
        format!("{quote}{doubled}{quote}")
    });
    Ok(format!("SELECT * FROM {}", quoted.collect::<Vec<_>>().join(".")))
}

/// A FlightInfo with one endpoint on this connection, for metadata: its ticket is good as often as it is presented.
pub(super) fn info(schema: &Schema, ticket: Ticket, descriptor: FlightDescriptor) -> Result<FlightInfo, Failure> {
    let mut info = FlightInfo::new().with_endpoint(FlightEndpoint::new().with_ticket(ticket));
    info.flight_descriptor = echo(descriptor);
    info.schema = encapsulated(schema)?;
    Ok(info)
}

/// The descriptor, where it is not too long to be repeated.
pub(super) fn echo(descriptor: FlightDescriptor) -> Option<FlightDescriptor> {
    Some(descriptor).filter(|it| it.encoded_len() <= MAX_ECHO_BYTES)
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
    placeholders::numbered(sql, &*dialect(session))
}

fn dialect(session: &Session) -> Box<dyn Dialect> {
    let config = session.context.copied_config();
    let name = config.options().sql_parser.dialect.to_string();
    dialect_from_str(name).unwrap_or_else(|| Box::new(GenericDialect {}))
}
