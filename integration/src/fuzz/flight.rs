//! The messages of Flight: commands, actions and uploads.

use arrow_flight::sql::{
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, CommandGetCatalogs,
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetSqlInfo, CommandGetTables, CommandGetXdbcTypeInfo,
    CommandPreparedStatementQuery, CommandStatementIngest, CommandStatementQuery, CommandStatementUpdate,
    ProstMessageExt,
};
use arrow_flight::{Action, FlightData, FlightDescriptor, Ticket};
use futures::{StreamExt, stream};
use prost::Message;
use tonic::{Response, Status, Streaming};

use super::server::Server;
use super::statements::{leaves_traces, read};
use super::{choose, frames, judge_status};
use crate::client::Client;

/// How many messages of one upload are sent.
const MOST: usize = 16;

/// Where the bytes go.
#[derive(Clone, Copy, Debug)]
enum Call {
    GetFlightInfo,
    GetSchema,
    PollFlightInfo,
    DoGet,
    /// An action of this name.
    DoAction(&'static str),
    DoPut,
    DoExchange,
    /// Rows for a prepared statement.
    Bind,
}

const CALLS: [Call; 16] = [
    Call::GetFlightInfo,
    Call::GetSchema,
    Call::PollFlightInfo,
    Call::DoGet,
    Call::DoPut,
    Call::DoExchange,
    Call::Bind,
    Call::DoAction("CreatePreparedStatement"),
    Call::DoAction("ClosePreparedStatement"),
    Call::DoAction("CreatePreparedSubstraitPlan"),
    Call::DoAction("CancelFlightInfo"),
    Call::DoAction("CancelQuery"),
    Call::DoAction("RenewFlightEndpoint"),
    Call::DoAction("SetSessionOptions"),
    Call::DoAction("GetSessionOptions"),
    Call::DoAction("BeginTransaction"),
];

/// The first byte chooses the call.
pub(super) fn judge(bytes: &[u8]) -> Result<(), String> {
    let Some((call, content)) = choose(bytes, &CALLS) else {
        return Ok(());
    };
    if leaves_traces(content) {
        return Ok(());
    }
    let (call, content) = (CALLS[call], content.to_vec());
    let server = Server::get();
    let handle = prepared(&server).to_vec();
    let client = server.client();
    server.run(async move {
        let outcome = send(&client, call, content, &handle).await;
        judge_status(&format!("{call:?}"), outcome)
    })
}

async fn send(client: &Client, call: Call, content: Vec<u8>, handle: &[u8]) -> Result<(), Status> {
    let mut flight = client.flight();
    let command = |content: Vec<u8>| FlightDescriptor::new_cmd(content);
    match call {
        Call::GetFlightInfo => {
            let info = flight.get_flight_info(command(content)).await?.into_inner();
            read(client, info).await
        }
        Call::GetSchema => flight.get_schema(command(content)).await.map(drop),
        Call::PollFlightInfo => flight.poll_flight_info(command(content)).await.map(drop),
        Call::DoGet => drain(flight.do_get(Ticket::new(content)).await).await,
        Call::DoAction(name) => {
            let action = Action {
                r#type: name.into(),
                body: content.into(),
            };
            drain(flight.do_action(action).await).await
        }
        Call::DoPut => {
            let messages = frames::split::<FlightData>(&content, MOST);
            drain(flight.do_put(stream::iter(messages)).await).await
        }
        Call::DoExchange => {
            let messages = frames::split::<FlightData>(&content, MOST);
            drain(flight.do_exchange(stream::iter(messages)).await).await
        }
        Call::Bind => {
            let mut messages = frames::split::<FlightData>(&content, MOST);
            if let Some(first) = messages.first_mut() {
                first.flight_descriptor = Some(command(handle.to_vec()));
            }
            drain(flight.do_put(stream::iter(messages)).await).await
        }
    }
}

/// Reads a streamed answer to its end.
async fn drain<T>(answer: Result<Response<Streaming<T>>, Status>) -> Result<(), Status> {
    let mut messages = answer?.into_inner();
    while let Some(message) = messages.next().await {
        message?;
    }
    Ok(())
}

/// The command of a prepared statement with two parameters.
fn prepared(server: &Server) -> &[u8] {
    server.prepared.get_or_init(|| {
        let client = server.client();
        let handle = server.runtime().block_on(prepare(&client));
        handle.expect("the statement is right")
    })
}

async fn prepare(client: &Client) -> Result<Vec<u8>, Status> {
    let request = ActionCreatePreparedStatementRequest {
        query: "SELECT $1 + n, $2 FROM t WHERE s = $2".into(),
        transaction_id: None,
    };
    let answer = client
        .act("CreatePreparedStatement", request.as_any().encode_to_vec())
        .await?;
    let answer = Any::decode(&*answer.expect("one answer")).expect("an envelope");
    let result: ActionCreatePreparedStatementResult = answer.unpack().expect("of this type").expect("readable");
    let prepared_statement_handle = result.prepared_statement_handle;
    let command = CommandPreparedStatementQuery {
        prepared_statement_handle,
    };
    Ok(command.as_any().encode_to_vec())
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let sql = || "SELECT n, s FROM t WHERE n > 1".to_owned();
    let commands = [
        CommandStatementQuery {
            query: sql(),
            transaction_id: None,
        }
        .as_any(),
        CommandStatementUpdate {
            query: sql(),
            transaction_id: None,
        }
        .as_any(),
        CommandGetTables {
            catalog: Some("squadron".into()),
            db_schema_filter_pattern: Some("%".into()),
            table_name_filter_pattern: Some("t_".into()),
            table_types: vec!["TABLE".into()],
            include_schema: true,
        }
        .as_any(),
        CommandGetSqlInfo { info: vec![0, 500] }.as_any(),
        CommandGetCatalogs {}.as_any(),
        CommandGetDbSchemas::default().as_any(),
        CommandGetXdbcTypeInfo { data_type: Some(4) }.as_any(),
        CommandGetCrossReference::default().as_any(),
        ActionCreatePreparedStatementRequest {
            query: sql(),
            transaction_id: None,
        }
        .as_any(),
    ];
    let commands = commands.map(|command| command.encode_to_vec());
    let calls = (0_u8..).zip(CALLS);
    let mut seeds: Vec<Vec<u8>> = calls
        .flat_map(|(first, _)| {
            commands
                .iter()
                .map(move |command| [vec![first], command.clone()].concat())
        })
        .collect();
    let rows = frames::messages(frames::batch());
    let mut upload = rows.clone();
    let ingest = CommandStatementIngest {
        table: "fuzzed".into(),
        temporary: true,
        ..CommandStatementIngest::default()
    };
    upload[0].flight_descriptor = Some(FlightDescriptor::new_cmd(ingest.as_any().encode_to_vec()));
    // DoPut, DoExchange, Bind.
    seeds.extend([4_u8, 5, 6].map(|first| [vec![first], frames::joined(&upload)].concat()));
    seeds
}
