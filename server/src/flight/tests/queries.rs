//! Statements: their ids, rows and cancellation.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn query_runs_under_its_id() {
    let mut client = connect().await;
    let info = client.execute("SELECT 41 + 1".into(), None).await.unwrap();
    let id = str::from_utf8(&info.app_metadata).unwrap();
    assert_eq!((id.len(), id.to_lowercase()), (36, id.to_string()));
    assert_eq!(info.total_records, -1);
    assert_eq!(numbers(&mut client, &info).await, [42]);
}

#[tokio::test(flavor = "multi_thread")]
async fn result_is_read_once() {
    let mut client = connect().await;
    let info = client.execute("SELECT 1".into(), None).await.unwrap();
    numbers(&mut client, &info).await;
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let status = raw(&mut client).do_get(ticket).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let id = str::from_utf8(&info.app_metadata).unwrap();
    assert!(status.message().contains(id), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_runs_once_in_get_flight_info() {
    let mut client = connect().await;
    let ddl = "CREATE VIEW once AS SELECT 7 AS x";
    let info = client.execute(ddl.into(), None).await.unwrap();
    let listed = client.execute("SELECT x FROM once".into(), None).await.unwrap();
    assert_eq!(numbers(&mut client, &listed).await, [7]);
    // Fetching the empty result runs nothing again, which would fail.
    let (schema, batches) = fetch(&mut client, &info).await;
    assert!(schema.fields().is_empty() && batches.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn update_answers_before_client_closes() {
    let mut client = connect().await;
    let request = CommandStatementUpdate {
        query: "CREATE VIEW open AS SELECT 1".into(),
        transaction_id: None,
    };
    let first = FlightData::new().with_descriptor(command(&request));
    let never_closed = stream::once(async { first }).chain(stream::pending());
    let mut results = raw(&mut client).do_put(never_closed).await.unwrap().into_inner();
    assert!(results.message().await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_query_has_no_rows() {
    let mut client = connect().await;
    let info = client.execute("SELECT 1".into(), None).await.unwrap();
    let request = CancelFlightInfoRequest::new(info.clone());
    let body = act(&mut client, "CancelFlightInfo", request.encode_to_vec())
        .await
        .unwrap();
    let result = CancelFlightInfoResult::decode(body.unwrap()).unwrap();
    assert_eq!(result.status(), CancelStatus::Cancelled);
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    assert!(raw(&mut client).do_get(ticket).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_message_is_accepted() {
    let mut client = connect().await;
    // Above tonic's own limit of 4 MiB.
    let sql = format!("SELECT length('{}') AS n", "x".repeat(6 * 1024 * 1024));
    let info = client.execute(sql, None).await.unwrap();
    let descriptor = info.flight_descriptor.expect("some clients need one");
    assert_eq!(descriptor.path, ["a command too long to be repeated"]);
}
