//! The service over loopback, through a client.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Int64Type, Schema};
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{
    ActionBeginTransactionRequest, ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, Any,
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo, CommandPreparedStatementQuery,
    CommandPreparedStatementUpdate, CommandStatementIngest, CommandStatementQuery, CommandStatementUpdate,
    DoPutPreparedStatementResult, ProstMessageExt, TicketStatementQuery,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, Empty, FlightData, FlightDescriptor,
    FlightInfo, IpcMessage, PutResult, SchemaResult, Ticket,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::command::pack;
use super::messages::{
    CloseSessionRequest, CloseSessionResult, CloseSessionStatus, CreatePreparedStatementResult,
    GetSessionOptionsRequest, GetSessionOptionsResult, OptionValue, SessionOptionValue, SetSessionOptionsRequest,
    SetSessionOptionsResult,
};

mod harness;
mod metadata;
mod prepared;
mod queries;
mod refusals;
mod sessions;

use harness::{Client, connect, connect_with};
pub(super) use harness::{empty_catalog, planned, queries_and_session};

/// Rows of a FlightInfo, with its one endpoint.
async fn fetch(client: &mut Client, info: &FlightInfo) -> (Schema, Vec<RecordBatch>) {
    let [endpoint] = info.endpoint.as_slice() else {
        panic!("{} endpoints", info.endpoint.len());
    };
    assert!(endpoint.location.is_empty() && endpoint.expiration_time.is_none());
    let ticket = endpoint.ticket.clone().unwrap();
    let mut rows = client.do_get(ticket).await.unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = rows.next().await {
        batches.push(batch.unwrap());
    }
    let sent = rows.schema().expect("a schema message").as_ref().clone();
    let announced = info.clone().try_decode_schema().unwrap();
    assert_eq!(announced, sent, "FlightInfo and DoGet disagree");
    (sent, batches)
}

async fn numbers(client: &mut Client, info: &FlightInfo) -> Vec<i64> {
    let (_, batches) = fetch(client, info).await;
    batches
        .iter()
        .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().iter().flatten())
        .collect()
}

fn raw(client: &mut Client) -> &mut FlightServiceClient<Channel> {
    client.inner_mut()
}

async fn act(client: &mut Client, name: &str, body: impl Into<Bytes>) -> Result<Option<Bytes>, Status> {
    let action = Action::new(name, body);
    let mut results = raw(client).do_action(action).await?.into_inner();
    Ok(results.message().await?.map(|result| result.body))
}

async fn prepare(client: &mut Client, sql: &str) -> CreatePreparedStatementResult {
    let request = ActionCreatePreparedStatementRequest {
        query: sql.into(),
        transaction_id: None,
    };
    let body = act(client, "CreatePreparedStatement", pack(&request))
        .await
        .unwrap()
        .unwrap();
    let any = Any::decode(body).unwrap();
    CreatePreparedStatementResult::decode(any.value).unwrap()
}

fn command(message: &impl ProstMessageExt) -> FlightDescriptor {
    FlightDescriptor::new_cmd(pack(message))
}

/// DoPut with the messages of a batch, or with the command alone.
async fn put(
    client: &mut Client,
    message: &impl ProstMessageExt,
    batch: Option<&RecordBatch>,
) -> Result<PutResult, Status> {
    let mut messages = match batch {
        None => vec![FlightData::default()],
        Some(batch) => arrow_flight::utils::batches_to_flight_data(&batch.schema(), vec![batch.clone()]).unwrap(),
    };
    messages[0].flight_descriptor = Some(command(message));
    let mut results = raw(client).do_put(stream::iter(messages)).await?.into_inner();
    Ok(results.message().await?.expect("one result"))
}

fn row(value: i64) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![value]));
    RecordBatch::try_from_iter([("a", column)]).unwrap()
}

async fn bind(client: &mut Client, handle: &Bytes, value: i64) -> Bytes {
    let request = CommandPreparedStatementQuery {
        prepared_statement_handle: handle.clone(),
    };
    let result = put(client, &request, Some(&row(value))).await.unwrap();
    let result = DoPutPreparedStatementResult::decode(result.app_metadata).unwrap();
    result.prepared_statement_handle.expect("a handle")
}

async fn run_prepared(client: &mut Client, handle: &Bytes) -> Result<FlightInfo, Status> {
    let request = CommandPreparedStatementQuery {
        prepared_statement_handle: handle.clone(),
    };
    let info = raw(client).get_flight_info(command(&request)).await?;
    Ok(info.into_inner())
}
