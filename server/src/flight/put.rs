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

use super::command::{self, not_served};
use super::parameters::{self, broken_stream};
use super::prepared::{Statements, check_count};
use super::statement;
use super::status::invalid;
use super::substrait;
use crate::query::{Execution, Queries, Session};

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
    match command::read(descriptor)? {
        Command::CommandStatementUpdate(command) => update(queries, session, command).await,
        Command::CommandStatementSubstraitPlan(command) => {
            let source = substrait::source(command.plan, command.transaction_id.as_ref())?;
            run(queries, session, Execution::Source(source)).await
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
    let source = statement::source(command.query, command.transaction_id.as_ref())?;
    run(queries, session, Execution::Source(source)).await
}

/// Runs a prepared update with the parameters of the request, else with those bound before.
async fn prepared_update(
    queries: &Queries,
    statements: &Statements,
    session: &Session,
    command: CommandPreparedStatementUpdate,
    parameters: Option<RecordBatch>,
) -> Result<PutResult, Failure> {
    let handle = &command.prepared_statement_handle;
    let (planned, parameters) = match parameters {
        Some(parameters) => {
            let planned = statements.planned_statement(&session.principal, handle).await?;
            check_count(&planned.parameters, &parameters)?;
            (planned, Some(parameters))
        }
        None => {
            let prepared = statements.get(&session.principal, handle).await?;
            (prepared.planned, prepared.parameters)
        }
    };
    // Each row of parameters is one execution: without rows nothing runs.
    if parameters.as_ref().is_some_and(|batch| batch.num_rows() == 0) {
        return Ok(result(&DoPutUpdateResult { record_count: 0 }));
    }
    run(queries, session, Execution::Prepared(Box::new(planned), parameters)).await
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

async fn run(queries: &Queries, session: &Session, execution: Execution) -> Result<PutResult, Failure> {
    let record_count = queries.update(session, execution).await?;
    Ok(result(&DoPutUpdateResult { record_count }))
}

fn result(message: &impl Message) -> PutResult {
    PutResult {
        app_metadata: message.encode_to_vec().into(),
    }
}
