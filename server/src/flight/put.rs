//! DoPut: updates, and the parameters of prepared statements.
//!
//! The answer to a plain update does not wait for the end of the request: the C++ client closes its side only after
//! it has read the count.

use arrow::array::RecordBatch;
use arrow_flight::sql::{
    Command, CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementUpdate,
    DoPutPreparedStatementResult, DoPutUpdateResult,
};
use arrow_flight::{FlightData, PutResult};
use futures::{Stream, StreamExt};
use prost::Message;
use squadron_proto::Failure;
use tonic::Status;

use super::parameters::{self, broken_stream};
use super::prepared::{Statements, check_count};
use super::service::{command_of, not_served};
use super::statement;
use super::status::invalid;
use super::substrait;
use crate::query::{Queries, Session};
use crate::sql::PlannedStatement;

/// Answers one DoPut.
pub(super) async fn put(
    queries: &Queries,
    statements: &Statements,
    session: &Session,
    mut messages: impl Stream<Item = Result<FlightData, Status>> + Unpin,
) -> Result<PutResult, Failure> {
    let first = messages
        .next()
        .await
        .ok_or_else(|| invalid("DoPut without a message; send the command first"))?
        .map_err(|status| broken_stream(&status))?;
    let descriptor = first
        .flight_descriptor
        .as_ref()
        .ok_or_else(|| invalid("DoPut without a descriptor; send the command in the first message"))?;
    match command_of(descriptor)? {
        Command::CommandStatementUpdate(command) => update(queries, session, command).await,
        Command::CommandStatementSubstraitPlan(command) => {
            let transaction = command.transaction_id.as_ref();
            let planned = substrait::plan(queries, session, command.plan, transaction).await?;
            run(queries, session, &planned, None).await
        }
        Command::CommandPreparedStatementUpdate(command) => {
            let parameters = parameters::read(first, messages).await?;
            prepared_update(queries, statements, session, command, parameters).await
        }
        Command::CommandPreparedStatementQuery(command) => {
            let parameters = parameters::read(first, messages).await?;
            bind(statements, session, command, parameters).await
        }
        other => Err(not_served("DoPut", &other)),
    }
}

async fn update(queries: &Queries, session: &Session, command: CommandStatementUpdate) -> Result<PutResult, Failure> {
    let transaction = command.transaction_id.as_ref();
    let planned = statement::plan(queries, session, &command.query, transaction).await?;
    run(queries, session, &planned, None).await
}

/// Runs a prepared update with the parameters that came along, else with those bound before.
async fn prepared_update(
    queries: &Queries,
    statements: &Statements,
    session: &Session,
    command: CommandPreparedStatementUpdate,
    parameters: Option<RecordBatch>,
) -> Result<PutResult, Failure> {
    let handle = &command.prepared_statement_handle;
    match parameters {
        Some(parameters) => {
            let planned = statements.planned(&session.principal, handle).await?;
            check_count(&planned.parameters, &parameters)?;
            run(queries, session, &planned, Some(parameters)).await
        }
        None => {
            let prepared = statements.get(&session.principal, handle).await?;
            run(queries, session, &prepared.planned, prepared.parameters).await
        }
    }
}

async fn bind(
    statements: &Statements,
    session: &Session,
    command: CommandPreparedStatementQuery,
    parameters: Option<RecordBatch>,
) -> Result<PutResult, Failure> {
    let handle = &command.prepared_statement_handle;
    let handle = statements.bind(&session.principal, handle, parameters).await?;
    // Always a handle: the Java client uses the field even when it is absent.
    Ok(result(&DoPutPreparedStatementResult {
        prepared_statement_handle: Some(handle),
    }))
}

/// One execution a row of parameters; none for no rows.
async fn run(
    queries: &Queries,
    session: &Session,
    planned: &PlannedStatement,
    parameters: Option<RecordBatch>,
) -> Result<PutResult, Failure> {
    let no_rows = parameters.as_ref().is_some_and(|batch| batch.num_rows() == 0);
    let record_count = if no_rows {
        0
    } else {
        queries.update(session, planned, parameters).await?
    };
    Ok(result(&DoPutUpdateResult { record_count }))
}

fn result(message: &impl Message) -> PutResult {
    PutResult {
        app_metadata: message.encode_to_vec().into(),
    }
}
