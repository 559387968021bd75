//! The RPCs themselves: input without a Flight SQL message, descriptors of another kind, and the order of messages.

use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::{ActionType, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, SchemaResult};
use prost::Message;
use tonic::{Code, Status};

use super::wire::{Request, command, only, put_rows, schema_message};
use super::world::{World, integers, prepared_query};
use super::{Entry, Rpc, check, entries as all, refused, served};

pub(super) fn entries() -> Vec<Entry> {
    vec![
        served(
            "Basic, a bearer token or nothing",
            &[Rpc::Handshake],
            "a bearer token, as payload and as `authorization` header",
        )
        .used_by("JDBC and ODBC user or token; ADBC `username`; pyarrow `authenticate_basic_token`")
        .check(check!(handshake_returns_a_working_token))
        .check(check!(malformed_handshakes_end)),
        served(
            "Criteria",
            &[Rpc::ListFlights],
            "the tables, each under its path and with its schema; the criteria are a LIKE pattern of table names",
        )
        .used_by("raw clients")
        .check(check!(tables_are_listed_as_flights)),
        served(
            "a path",
            &[Rpc::GetFlightInfo, Rpc::PollFlightInfo, Rpc::GetSchema],
            "all rows of the table that it names: catalog, schema and table, or the last of these",
        )
        .used_by("raw clients")
        .check(check!(path_leads_to_its_table))
        .check(check!(unknown_paths_are_refused)),
        served(
            "Empty",
            &[Rpc::ListActions],
            "exactly the actions that are served, with a sentence on each",
        )
        .used_by("raw clients, tools")
        .check(check!(listed_actions_are_those_served)),
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
        .check(check!(put_in_wrong_order_is_refused)),
        served(
            "an unknown action",
            &[Rpc::DoAction],
            "Unimplemented, with the name and the way to those that are served",
        )
        .used_by("raw clients")
        .check(check!(unknown_actions_are_refused_by_name)),
    ]
}

async fn handshake_returns_a_working_token(world: &World) {
    let mut client = world.client.sql();
    let payload = client.handshake("someone", "secret").await;
    let payload = payload.expect("everyone is let in without --users and --tokens");
    let token = client.token().cloned().expect("the header has the token");
    assert_eq!(payload, token.as_bytes(), "payload and header tell one token");
    let info = client.execute("SELECT 1 AS one".into(), None).await;
    let info = info.expect("the token opens the door");
    assert_eq!(info.endpoint.len(), 1);
}

async fn malformed_handshakes_end(world: &World) {
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

async fn tables_are_listed_as_flights(world: &World) {
    for (criteria, expected) in [("", 8), ("%", 8), ("part%", 2), ("_ation", 1), ("nowhere", 0)] {
        let answer = world.send(Request::Flights(criteria.into())).await;
        let answer = answer.expect("it answers");
        assert_eq!(answer.len(), expected, "{criteria}");
        for message in answer {
            let info = FlightInfo::decode(message.as_slice()).expect("a FlightInfo");
            let descriptor = info.flight_descriptor.clone().expect("a descriptor");
            let schema = info.try_decode_schema().expect("a schema");
            let answer = world.send(Request::Schema(descriptor)).await;
            let answer: SchemaResult = only(&answer.expect("GetSchema answers"));
            assert_eq!(Schema::try_from(&answer).expect("a schema"), schema);
        }
    }
    let garbage = world.refusal(Request::Flights(vec![0xff; 50])).await;
    assert_eq!(garbage.code(), Code::InvalidArgument, "{garbage}");
}

fn path(names: &[&str]) -> FlightDescriptor {
    FlightDescriptor::new_path(names.iter().map(|name| name.to_string()).collect())
}

async fn path_leads_to_its_table(world: &World) {
    for names in [
        &["region"][..],
        &["public", "region"],
        &["datafusion", "public", "region"],
    ] {
        let info = world.send(Request::Info(path(names))).await;
        let polled = world.poll_to_end(path(names)).await;
        for info in [only(&info.expect("it answers")), polled] {
            let (_, batches) = world.client.fetch(info).await.expect("its rows");
            assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 5);
        }
    }
}

async fn unknown_paths_are_refused(world: &World) {
    for (names, code) in [
        (&[][..], Code::InvalidArgument),
        (&["a", "b", "c", "d"], Code::InvalidArgument),
        (&[""], Code::InvalidArgument),
        (&["nowhere"], Code::NotFound),
        (&["nowhere", "region"], Code::NotFound),
        (&["region; DROP TABLE region"], Code::NotFound),
        (&["reg\"ion"], Code::NotFound),
    ] {
        for request in [
            Request::Info(path(names)),
            Request::Poll(path(names)),
            Request::Schema(path(names)),
        ] {
            let status = world.refusal(request).await;
            assert_eq!(status.code(), code, "{names:?}: {status}");
        }
    }
}

async fn listed_actions_are_those_served(world: &World) {
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
    let messages = vec![schema_message(&Schema::empty()).with_descriptor(descriptor)];
    for messages in [vec![], messages] {
        let status = world.refusal(Request::Exchange(messages)).await;
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().contains("DoExchange"), "{status}");
    }
}

async fn put_in_wrong_order_is_refused(world: &World) {
    let handle = world.handle("SELECT CAST($1 AS BIGINT) + 1 AS next").await;
    let query = prepared_query(handle);
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
            vec![schema.clone(), schema_message(&other), rows.clone()],
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

async fn unknown_actions_are_refused_by_name(world: &World) {
    for name in ["Teapot", "createpreparedstatement", ""] {
        let status = world.refusal(Request::Action(name, Vec::new())).await;
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        assert!(status.message().contains(&format!("{name:?}")), "{status}");
        assert!(status.message().contains("ListActions"), "{status}");
    }
}
