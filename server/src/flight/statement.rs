//! SQL statements as clients send them: their source text, and the FlightInfo that leads to their rows.

use arrow_flight::{FlightDescriptor, FlightInfo};
use bytes::Bytes;
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, dialect_from_str};
use squadron_proto::Failure;

use super::endpoints;
use super::status::{invalid, unsupported};
use crate::query::{Execution, Queries, Session};
use crate::sql::Source;
use crate::sql::statement::NO_TRANSACTIONS;

/// A statement as its client sent it.
pub(super) fn source(sql: String, transaction: Option<&Bytes>) -> Result<Source, Failure> {
    refuse_transaction(transaction)?;
    Ok(Source::Sql(sql))
}

/// Starts a statement and answers the endpoints of its rows. DDL and DML have run when this returns.
pub(super) async fn start(
    queries: &Queries,
    session: &Session,
    execution: Execution,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo, Failure> {
    let started = queries.start(session, execution).await?;
    let endpoints = queries.endpoints(&started)?;
    endpoints::info(started.id, &started.schema, endpoints, descriptor)
}

/// The statement that reads all of a table, which the path of a descriptor names: `[catalog, schema, table]`, or the
/// last of these.
pub(super) fn select_table(session: &Session, path: &[String]) -> Result<String, Failure> {
    if path.is_empty() || path.len() > 3 || path.iter().any(String::is_empty) {
        return Err(invalid(
            "the path of a descriptor names a table: catalog, schema and table, or the last of these; ListFlights \
             lists them",
        ));
    }
    let quote = dialect(session).identifier_quote_style("").unwrap_or('"');
    let quoted = path.iter().map(|name| {
        let doubled = name.replace(quote, &format!("{quote}{quote}"));
        format!("{quote}{doubled}{quote}")
    });
    Ok(format!("SELECT * FROM {}", quoted.collect::<Vec<_>>().join(".")))
}

/// Refuses a statement that has the id of a transaction.
pub(super) fn refuse_transaction(id: Option<&Bytes>) -> Result<(), Failure> {
    if id.is_some_and(|id| !id.is_empty()) {
        return Err(unsupported(NO_TRANSACTIONS));
    }
    Ok(())
}

fn dialect(session: &Session) -> Box<dyn Dialect> {
    let config = session.config();
    let name = config.options().sql_parser.dialect.to_string();
    dialect_from_str(name).unwrap_or_else(|| Box::new(GenericDialect {}))
}
