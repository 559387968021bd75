//! The RPCs themselves: those that carry no Flight SQL message, descriptors of another kind, and the order of messages.

use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::{ActionType, FlightData, FlightDescriptor, HandshakeRequest};
use prost::Message;
use tonic::{Code, Status};

use super::wire::{Request, command, opening, put_rows};
use super::world::{World, integers, prepared};
use super::{Entry, Rpc, Standing, check, entries as all, refused, served};

pub(super) fn entries() -> Vec<Entry> {
    vec![
        served(
            "Basic, a bearer token or nothing",
            &[Rpc::Handshake],
            "a bearer token, as payload and as `authorization` header",
        )
        .used_by("JDBC and ODBC user or token; ADBC `username`; pyarrow `authenticate_basic_token`")
        .check(check!(handshake_gives_a_token_that_works))
        .check(check!(handshake_of_any_shape_ends)),
        refused(
            "Criteria",
            &[Rpc::ListFlights],
            "ListFlights is not served; CommandGetTables lists the tables",
        )
        .used_by("raw clients")
        .check(check!(list_flights_is_refused)),
        Entry::new(
            "a path",
            &[Rpc::GetFlightInfo, Rpc::GetSchema],
            Standing::Refused(
                Code::InvalidArgument,
                "the descriptor has no command; Squadron answers Flight SQL commands, not paths",
            ),
        )
        .used_by("raw clients")
        .check(check!(paths_are_refused)),
        served(
            "Empty",
            &[Rpc::ListActions],
            "exactly the actions that are served, with a sentence on each",
        )
        .used_by("raw clients, tools")
        .check(check!(list_actions_is_exact)),
        refused(
            "FlightData",
            &[Rpc::DoExchange],
            "DoExchange is not served; use GetFlightInfo and DoGet",
        )
        .used_by("raw clients")
        .check(check!(exchange_is_refused)),
        served(
            "any order of messages",
            &[Rpc::DoPut],
            "a command first, then at most one Arrow stream; anything else is InvalidArgument",
        )
        .used_by("all drivers, in the right order")
        .check(check!(put_in_the_wrong_order)),
        served(
            "an unknown action",
            &[Rpc::DoAction],
            "Unimplemented, with the name and the way to those that are served",
        )
        .used_by("raw clients")
        .check(check!(unknown_actions_are_named)),
    ]
}

async fn handshake_gives_a_token_that_works(world: &World) {
    let mut client = world.client.sql();
    let payload = client.handshake("someone", "secret").await;
    let payload = payload.expect("everyone is let in without --users and --tokens");
    let token = client.token().cloned().expect("the header has the token");
    assert_eq!(
        payload,
        token.as_bytes(),
        "payload and header tell one token"
    );
    let info = client.execute("SELECT 1 AS one".into(), None).await;
    let info = info.expect("the token opens the door");
    assert_eq!(info.endpoint.len(), 1);
}

async fn handshake_of_any_shape_ends(world: &World) {
    let greeting = |payload: &[u8]| HandshakeRequest {
        protocol_version: 7,
        payload: payload.to_vec().into(),
    };
    for greetings in [
        vec![],
        vec![greeting(b"")],
        vec![greeting(b"\xff\xff\xff"); 3],
        vec![greeting(&[b'x'; 100_000])],
    ] {
        match world.send(Request::Handshake(greetings)).await {
            Ok(answer) => assert!(answer.len() <= 1, "{} answers", answer.len()),
            Err(status) => assert!(blames_the_login(&status), "{status}"),
        }
    }
}

fn blames_the_login(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::Unauthenticated)
}

async fn list_flights_is_refused(world: &World) {
    for expression in [Vec::new(), b"lineitem".to_vec(), vec![0xff; 50]] {
        let status = world.refusal(Request::Flights(expression)).await;
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().contains("CommandGetTables"), "{status}");
    }
}

async fn paths_are_refused(world: &World) {
    for path in [
        vec![],
        vec!["lineitem".into()],
        vec!["no".into(), "such".into()],
    ] {
        let descriptor = FlightDescriptor::new_path(path);
        for request in [
            Request::Info(descriptor.clone()),
            Request::Schema(descriptor.clone()),
        ] {
            let status = world.refusal(request).await;
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert!(status.message().contains("not paths"), "{status}");
        }
    }
}

async fn list_actions_is_exact(world: &World) {
    let answer = world.send(Request::Actions).await.expect("it answers");
    let mut listed = Vec::new();
    for message in &answer {
        let action = ActionType::decode(message.as_slice()).expect("an ActionType");
        assert!(action.description.ends_with('.'), "{action:?}");
        listed.push(action.r#type);
    }
    let entries = all();
    let served = entries.iter().filter(|entry| entry.is_served());
    let mut expected: Vec<_> = served.filter_map(Entry::action).collect();
    listed.sort_unstable();
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(listed, expected);
}

async fn exchange_is_refused(world: &World) {
    let descriptor = FlightDescriptor::new_path(vec!["any".into()]);
    let messages = vec![opening(&Schema::empty()).with_descriptor(descriptor)];
    for messages in [vec![], messages] {
        let status = world.refusal(Request::Exchange(messages)).await;
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().contains("DoExchange"), "{status}");
    }
}

async fn put_in_the_wrong_order(world: &World) {
    let handle = world.handle("SELECT CAST($1 AS BIGINT) + 1 AS next").await;
    let query = prepared(handle);
    let right = put_rows(&query, integers(&[1])).await;
    world
        .send(Request::Put(right.clone()))
        .await
        .expect("the right order binds");
    let [schema, rows] = right.as_slice() else {
        panic!("a schema and a batch, not {} messages", right.len());
    };
    let bare = |message: &FlightData| FlightData {
        flight_descriptor: None,
        ..message.clone()
    };
    let other = Schema::new(vec![Field::new("$1", DataType::Utf8, true)]);
    let command = command(&query);
    for (what, messages) in [
        ("nothing", vec![]),
        ("no descriptor", vec![bare(schema), bare(rows)]),
        (
            "rows before their schema",
            vec![bare(rows).with_descriptor(command.clone()), bare(schema)],
        ),
        (
            "two schemas",
            vec![schema.clone(), opening(&other), rows.clone()],
        ),
        (
            "a path",
            vec![bare(schema).with_descriptor(FlightDescriptor::new_path(vec![]))],
        ),
    ] {
        let status = world.refusal(Request::Put(messages)).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
        assert!(!status.message().is_empty(), "{what}");
    }
    let (_, batches) = world.rows(&query).await;
    assert_eq!(batches[0].num_rows(), 1, "the statement is as it was");
}

async fn unknown_actions_are_named(world: &World) {
    for name in ["Teapot", "createpreparedstatement", ""] {
        let status = world.refusal(Request::Action(name, Vec::new())).await;
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().contains(&format!("{name:?}")), "{status}");
        assert!(status.message().contains("ListActions"), "{status}");
    }
}
