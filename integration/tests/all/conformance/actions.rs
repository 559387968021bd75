//! Actions: cancel, renew, sessions, transactions. The messages of Flight's own actions are not wrapped in `Any`.

use std::collections::HashMap;

use arrow_flight::sql::{
    ActionBeginSavepointRequest, ActionBeginTransactionRequest, ActionCancelQueryRequest, ActionCancelQueryResult,
    ActionEndSavepointRequest, ActionEndTransactionRequest, CommandGetCatalogs,
};
use arrow_flight::{
    CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightEndpoint, FlightInfo,
    RenewFlightEndpointRequest,
};
use prost::Message;
use prost::bytes::Bytes;
use squadron_integration::client::{Client, ticket};
use tonic::{Code, Status};

use super::wire::{Request, act, act_wrapped, command, only, pack, put_without_rows, send};
use super::world::{World, statement};
use super::{Entry, Rpc, check, example, refused, served};
use crate::session_messages::{
    CLOSED, Closed, INVALID_NAME, INVALID_VALUE, OptionValue, Options, SetOptions, SetResult, Value, text,
};

const ACTION: &[Rpc] = &[Rpc::DoAction];
const NO_TRANSACTIONS: &str = "transactions are not supported; connect with autocommit";

/// More rows than any test reads.
const ENDLESS: &str = "SELECT a.l_comment, b.l_comment FROM lineitem a CROSS JOIN lineitem b";

pub(super) fn entries() -> Vec<Entry> {
    let mut entries = transactions();
    entries.extend([
        served(
            "CancelFlightInfoRequest",
            ACTION,
            "stops the query of a FlightInfo; one that has ended is as good as cancelled",
        )
        .used_by("raw clients, tools; stock drivers drop the gRPC stream instead, which does the same")
        .example(|world| Box::pin(async { cancel(world.info(&statement("SELECT 1")).await) }))
        .owned()
        .check(check!(cancel_ends_the_stream))
        .check(check!(cancel_of_other_objects_is_refused)),
        served("ActionCancelQueryRequest", ACTION, "the older form of CancelFlightInfo")
            .used_by("Java `cancel`; C++, Go")
            .example(|world| {
                Box::pin(async {
                    let info = world.info(&statement("SELECT 1")).await.encode_to_vec().into();
                    pack(&ActionCancelQueryRequest { info })
                })
            })
            .owned()
            .check(check!(older_action_cancels_too)),
        served(
            "RenewFlightEndpointRequest",
            ACTION,
            "keeps all of a result with parallel endpoints for another `--result-ttl`",
        )
        .used_by("raw clients")
        .example(|world| Box::pin(async { renew(retained_endpoint(world).await) }))
        .owned()
        .check(check!(renewed_endpoint_is_read_again))
        .check(check!(unretained_endpoints_are_not_renewed)),
        served(
            "SetSessionOptionsRequest",
            ACTION,
            "catalog, schema and every setting by its name; what cannot be set is named",
        )
        .used_by("JDBC `catalog=`; ADBC current catalog and schema, `adbc.flight.sql.session.*`")
        .example(example!(set([("schema", text("public"))])))
        .check(check!(options_are_set_read_and_unset))
        .check(check!(unsettable_options_are_named)),
        served("GetSessionOptionsRequest", ACTION, "all options of the session")
            .used_by("ADBC current catalog and schema")
            .example(example!(Vec::new()))
            .check(check!(options_agree_with_sql)),
        served(
            "CloseSessionRequest",
            ACTION,
            "ends the session with its prepared statements",
        )
        .used_by("ADBC and JDBC, when a connection is closed")
        .example(example!(Vec::new()))
        .check(check!(closed_session_is_gone)),
    ]);
    entries
}

fn transactions() -> Vec<Entry> {
    vec![
        refused("ActionBeginTransactionRequest", ACTION, NO_TRANSACTIONS)
            .used_by("Python with autocommit=False, where SqlInfo 8 says so; Go, Java, C++")
            .example(example!(pack(&ActionBeginTransactionRequest {}))),
        refused("ActionEndTransactionRequest", ACTION, NO_TRANSACTIONS)
            .used_by("Python `commit`, `rollback`; Go, Java, C++")
            .example(example!(pack(&ActionEndTransactionRequest {
                transaction_id: Bytes::from_static(b"t1"),
                action: 1,
            }))),
        refused("ActionBeginSavepointRequest", ACTION, NO_TRANSACTIONS)
            .used_by("Go, Java, C++")
            .example(example!(pack(&ActionBeginSavepointRequest {
                transaction_id: Bytes::from_static(b"t1"),
                name: "here".into(),
            }))),
        refused("ActionEndSavepointRequest", ACTION, NO_TRANSACTIONS)
            .used_by("Go, Java, C++")
            .example(example!(pack(&ActionEndSavepointRequest {
                savepoint_id: Bytes::from_static(b"s1"),
                action: 1,
            }))),
    ]
}

fn cancel(info: FlightInfo) -> Vec<u8> {
    CancelFlightInfoRequest { info: Some(info) }.encode_to_vec()
}

fn renew(endpoint: FlightEndpoint) -> Vec<u8> {
    let endpoint = Some(endpoint);
    RenewFlightEndpointRequest { endpoint }.encode_to_vec()
}

/// An endpoint of a retained result, which expires.
async fn retained_endpoint(world: &World) -> FlightEndpoint {
    let client = world.cluster.client().await;
    let set = pack(&super::statements::update("SET squadron.endpoints = parallel"));
    let set = send(&client, Request::Put(put_without_rows(&set))).await;
    set.expect("the option can be set");
    let query = command(&statement("SELECT r_name FROM region"));
    let info = send(&client, Request::Info(query)).await;
    let info: FlightInfo = only(&info.expect("it starts"));
    let endpoints = info.endpoint.into_iter();
    let mut retained = endpoints.filter(|endpoint| endpoint.expiration_time.is_some());
    retained.next().expect("a result of parallel endpoints expires")
}

async fn renewed_endpoint_is_read_again(world: &World) {
    let endpoint = retained_endpoint(world).await;
    let before = endpoint.expiration_time.expect("it expires");
    let renewed: FlightEndpoint = act(&world.client, "RenewFlightEndpoint", renew(endpoint))
        .await
        .expect("it is renewed");
    let after = renewed.expiration_time.expect("it expires");
    assert!((after.seconds, after.nanos) >= (before.seconds, before.nanos));
    let ticket = renewed.ticket.expect("a ticket").ticket.to_vec();
    for _ in 0..2 {
        let answer = world.send(Request::Get(ticket.clone())).await;
        assert!(!answer.expect("it is read again").is_empty());
    }
}

async fn unretained_endpoints_are_not_renewed(world: &World) {
    let once = world.info(&statement("SELECT 1")).await;
    let once = once.endpoint.into_iter().next().expect("an endpoint");
    let of_metadata = world.info(&CommandGetCatalogs {}).await;
    let of_metadata = of_metadata.endpoint.into_iter().next().expect("an endpoint");
    for (what, request) in [
        ("nothing", RenewFlightEndpointRequest { endpoint: None }.encode_to_vec()),
        ("no ticket", renew(FlightEndpoint::new())),
        ("a result that is read once", renew(once)),
        ("metadata", renew(of_metadata)),
    ] {
        let status = world.refusal(Request::Action("RenewFlightEndpoint", request)).await;
        let code = matches!(
            status.code(),
            Code::InvalidArgument | Code::NotFound | Code::Unimplemented
        );
        assert!(code && !status.message().is_empty(), "{what}: {status}");
    }
}

/// Fetches a query, cancels it after its first batch, and gives the status that ends the stream.
async fn end_of_stream(world: &World, info: FlightInfo, cancel: impl AsyncFnOnce(FlightInfo)) -> Status {
    use futures::StreamExt;
    let mut rows = world.client.get(ticket(&info)).await.expect("it streams");
    rows.next().await.expect("a batch").expect("a good one");
    cancel(info).await;
    while let Some(batch) = rows.next().await {
        if let Err(error) = batch {
            return squadron_integration::client::status(error);
        }
    }
    panic!("the stream ended as if all rows had come");
}

async fn cancel_ends_the_stream(world: &World) {
    let info = world.info(&statement(ENDLESS)).await;
    let status = end_of_stream(world, info, async |info| {
        let result: CancelFlightInfoResult = act(&world.client, "CancelFlightInfo", cancel(info))
            .await
            .expect("it is cancelled");
        assert_eq!(result.status, i32::from(CancelStatus::Cancelled));
    })
    .await;
    assert_eq!(status.code(), Code::Cancelled, "{status}");
    // A query that was not fetched, cancelled twice.
    let info = world.info(&statement(ENDLESS)).await;
    for _ in 0..2 {
        let result: CancelFlightInfoResult = act(&world.client, "CancelFlightInfo", cancel(info.clone()))
            .await
            .expect("it is cancelled");
        assert_eq!(result.status, i32::from(CancelStatus::Cancelled));
    }
    let status = world.refusal(Request::Get(ticket(&info).ticket.to_vec())).await;
    assert!(matches!(status.code(), Code::Cancelled | Code::NotFound), "{status}");
}

async fn older_action_cancels_too(world: &World) {
    let info = world.info(&statement(ENDLESS)).await;
    let status = end_of_stream(world, info, async |info| {
        let request = ActionCancelQueryRequest {
            info: info.encode_to_vec().into(),
        };
        let result: ActionCancelQueryResult = act_wrapped(&world.client, "CancelQuery", pack(&request))
            .await
            .expect("it is cancelled");
        assert_eq!(result.result, 1, "CANCEL_RESULT_CANCELLED");
    })
    .await;
    assert_eq!(status.code(), Code::Cancelled, "{status}");
}

async fn cancel_of_other_objects_is_refused(world: &World) {
    let of_metadata = world.info(&CommandGetCatalogs {}).await;
    let mut forged = world.info(&statement("SELECT 1")).await;
    let forged_ticket = forged.endpoint[0].ticket.as_mut().expect("a ticket");
    let mut bytes = forged_ticket.ticket.to_vec();
    *bytes.last_mut().expect("some bytes") ^= 0x55;
    forged_ticket.ticket = bytes.into();
    for (what, request) in [
        ("no FlightInfo", CancelFlightInfoRequest { info: None }.encode_to_vec()),
        ("no endpoint", cancel(FlightInfo::new())),
        ("metadata", cancel(of_metadata)),
        ("a forged ticket", cancel(forged)),
    ] {
        let status = world.refusal(Request::Action("CancelFlightInfo", request)).await;
        let code = matches!(status.code(), Code::InvalidArgument | Code::NotFound);
        assert!(code, "{what}: {status}");
    }
}

fn set<const N: usize>(options: [(&str, OptionValue); N]) -> Vec<u8> {
    let session_options = options
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    SetOptions { session_options }.encode_to_vec()
}

async fn set_on<const N: usize>(client: &Client, options: [(&str, OptionValue); N]) -> HashMap<String, i32> {
    let result: SetResult = act(client, "SetSessionOptions", set(options))
        .await
        .expect("SetSessionOptions answers what could not be set");
    let errors = result.errors.into_iter();
    errors.map(|(name, error)| (name, error.value)).collect()
}

async fn options_of(client: &Client) -> HashMap<String, Option<Value>> {
    let options: Options = act(client, "GetSessionOptions", Vec::new())
        .await
        .expect("GetSessionOptions answers");
    let options = options.session_options.into_iter();
    options.map(|(name, value)| (name, value.value)).collect()
}

fn none() -> HashMap<String, i32> {
    HashMap::new()
}

async fn options_are_set_read_and_unset(world: &World) {
    // Another connection: without token and cookie, each connection has its own session.
    let client = world.cluster.client().await;
    let name = "datafusion.execution.batch_size";
    let before = options_of(&client).await[name].clone();
    for value in [Value::Integer(1_000), Value::Text("1000".into())] {
        let value = OptionValue { value: Some(value) };
        assert_eq!(set_on(&client, [(name, value)]).await, none());
        assert_eq!(options_of(&client).await[name], Some(Value::Text("1000".into())));
        assert_eq!(options_of(&world.client).await[name], before, "another session");
        // An option without a value is reset.
        assert_eq!(set_on(&client, [(name, OptionValue { value: None })]).await, none());
        assert_eq!(options_of(&client).await[name], before);
    }
    let both = [("catalog", text("datafusion")), ("schema", text("information_schema"))];
    let errors = set_on(&client, both).await;
    if errors.is_empty() {
        let (_, rows) = client.query("SELECT * FROM tables LIMIT 1").await.expect("that schema");
        assert_eq!(rows[0].num_rows(), 1);
    } else {
        assert_eq!(errors, HashMap::from([("schema".to_owned(), INVALID_VALUE)]));
    }
}

async fn unsettable_options_are_named(world: &World) {
    let client = world.cluster.client().await;
    let list = Value::List(crate::session_messages::Texts {
        values: vec!["a".into()],
    });
    let batch_size = "datafusion.execution.batch_size";
    for (name, value, error) in [
        ("no.such.option", Value::Flag(true), INVALID_NAME),
        ("", Value::Text("x".into()), INVALID_NAME),
        ("catalog", Value::Text("nowhere".into()), INVALID_VALUE),
        ("schema", Value::Text("nowhere".into()), INVALID_VALUE),
        (batch_size, Value::Text("many".into()), INVALID_VALUE),
        (batch_size, Value::Real(1.5), INVALID_VALUE),
        (batch_size, list, INVALID_VALUE),
    ] {
        let option = OptionValue { value: Some(value) };
        let good = ("datafusion.execution.collect_statistics", text("true"));
        let errors = set_on(&client, [(name, option), good]).await;
        assert_eq!(errors, HashMap::from([(name.to_owned(), error)]), "{name}");
    }
}

async fn options_agree_with_sql(world: &World) {
    let client = world.cluster.client().await;
    let name = "datafusion.execution.batch_size";
    client.update(&format!("SET {name} = 1234")).await.expect("SET works");
    assert_eq!(options_of(&client).await[name], Some(Value::Text("1234".into())));
    assert_eq!(set_on(&client, [(name, text("4321"))]).await, none());
    let (_, rows) = client.query(&format!("SHOW {name}")).await.expect("SHOW works");
    let shown = arrow::util::pretty::pretty_format_batches(&rows).expect("it prints");
    assert!(shown.to_string().contains("4321"), "{shown}");
}

async fn closed_session_is_gone(world: &World) {
    let client = world.cluster.client().await;
    let name = "datafusion.execution.batch_size";
    let before = options_of(&client).await[name].clone();
    assert_eq!(set_on(&client, [(name, text("77"))]).await, none());
    let request = arrow_flight::sql::ActionCreatePreparedStatementRequest {
        query: "SELECT 1".into(),
        transaction_id: None,
    };
    let prepared: arrow_flight::sql::ActionCreatePreparedStatementResult =
        act_wrapped(&client, "CreatePreparedStatement", pack(&request))
            .await
            .expect("it is prepared");
    let closed: Closed = act(&client, "CloseSession", Vec::new()).await.expect("it closes");
    assert_eq!(closed.status, CLOSED);
    assert_eq!(options_of(&client).await[name], before, "a new session");
    let run = super::wire::command(&super::world::prepared_query(prepared.prepared_statement_handle));
    let status = send(&client, Request::Info(run))
        .await
        .expect_err("its statements are gone");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let again: Closed = act(&client, "CloseSession", Vec::new()).await.expect("again");
    assert_eq!(again.status, CLOSED);
}
