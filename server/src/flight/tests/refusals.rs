//! Requests that are refused: not served, or malformed.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_actions_are_served() {
    let mut client = connect().await;
    let listed = raw(&mut client).list_actions(Empty {}).await.unwrap().into_inner();
    let listed: Vec<_> = listed.try_collect().await.unwrap();
    assert!(listed.len() >= 5);
    for action in listed {
        // Garbage reaches the action, which refuses it.
        let outcome = act(&mut client, &action.r#type, vec![0xff; 9]).await;
        assert_eq!(outcome.unwrap_err().code(), Code::InvalidArgument, "{}", action.r#type);
    }
    // Every other action of Flight and Flight SQL is refused by name, and so is an unknown action.
    for name in [
        "BeginSavepoint",
        "EndSavepoint",
        "BeginTransaction",
        "EndTransaction",
        "Teapot",
    ] {
        let refused = act(&mut client, name, Vec::new()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{name}");
        assert!(refused.message().contains(name), "{refused}");
    }
    let begin = pack(&ActionBeginTransactionRequest {});
    let status = act(&mut client, "BeginTransaction", begin).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("BeginTransaction"));
}

#[tokio::test(flavor = "multi_thread")]
async fn unserved_commands_are_named() {
    let mut client = connect().await;
    let raw = raw(&mut client);
    let ingest = CommandStatementIngest::default();
    let ingest_command = command(&ingest);
    let ingest = FlightData::new().with_descriptor(ingest_command.clone());
    let update = command(&CommandStatementUpdate::default());
    let foreign = Any {
        type_url: "type.googleapis.com/acme.Teapot".into(),
        value: Bytes::new(),
    };
    let foreign = FlightDescriptor::new_cmd(foreign.encode_to_vec());
    for (name, outcome) in [
        ("StatementUpdate", raw.get_flight_info(update).await.err()),
        ("Teapot", raw.get_flight_info(foreign).await.err()),
        ("StatementIngest", raw.do_put(stream::iter([ingest])).await.err()),
        ("PollFlightInfo", raw.poll_flight_info(ingest_command).await.err()),
        (
            "DoExchange",
            raw.do_exchange(stream::iter([FlightData::default()])).await.err(),
        ),
    ] {
        let status = outcome.expect(name);
        assert_eq!(status.code(), Code::Unimplemented, "{name}");
        assert!(status.message().contains(name), "{}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_survives_garbage_requests() {
    let mut client = connect().await;
    let garbage = || vec![0xff_u8; 40];
    let broken = |url: &str| {
        let any = Any {
            type_url: format!("type.googleapis.com/arrow.flight.protocol.sql.{url}"),
            value: garbage().into(),
        };
        any.encode_to_vec()
    };
    let mut commands = vec![garbage(), Vec::new(), vec![0], broken("CommandStatementQuery")];
    commands.extend(["CommandGetTables", "TicketStatementQuery"].map(broken));
    for bytes in commands {
        let descriptor = FlightDescriptor::new_cmd(bytes.clone());
        let raw = raw(&mut client);
        let put = FlightData::new().with_descriptor(descriptor.clone());
        for (rpc, outcome) in [
            ("GetFlightInfo", raw.get_flight_info(descriptor.clone()).await.err()),
            ("GetSchema", raw.get_schema(descriptor).await.err()),
            ("DoGet", raw.do_get(Ticket::new(bytes)).await.err()),
            ("DoPut", raw.do_put(stream::iter([put])).await.err()),
        ] {
            let status = outcome.expect(rpc);
            let refused = [Code::InvalidArgument, Code::Unimplemented];
            assert!(refused.contains(&status.code()), "{rpc}: {status}");
        }
    }
    let forged = TicketStatementQuery {
        statement_handle: garbage().into(),
    };
    let ticket = Ticket::new(pack(&forged));
    let status = raw(&mut client).do_get(ticket).await.unwrap_err();
    assert!(status.message().contains("not issued by this server"), "{status}");
    let path = FlightDescriptor::new_path(vec!["orders".into()]);
    assert!(raw(&mut client).get_flight_info(path).await.is_err());
    let nothing = stream::iter(Vec::<FlightData>::new());
    assert!(raw(&mut client).do_put(nothing).await.is_err());
    let info = client.execute("SELECT 5".into(), None).await.unwrap();
    assert_eq!(numbers(&mut client, &info).await, [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_parameters_are_invalid() {
    let mut client = connect().await;
    let handle = prepare(&mut client, "SELECT CAST(? AS BIGINT)")
        .await
        .prepared_statement_handle;
    let request = CommandPreparedStatementQuery {
        prepared_statement_handle: handle,
    };
    let message = FlightData::new()
        .with_descriptor(command(&request))
        .with_data_header(vec![0x10; 64]);
    let status = raw(&mut client).do_put(stream::iter([message])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_in_transaction_is_refused() {
    let mut client = connect().await;
    let request = CommandStatementQuery {
        query: "SELECT 1".into(),
        transaction_id: Some(Bytes::from_static(b"t1")),
    };
    let status = raw(&mut client).get_flight_info(command(&request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("transactions"));
}
