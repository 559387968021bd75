//! Prepared statements and bound parameters.

use super::super::FlightOptions;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn jdbc_ddl_runs_once_in_do_put() {
    let mut client = connect().await;
    let prepared = prepare(&mut client, "CREATE VIEW jdbc AS SELECT 8 AS x").await;
    assert_eq!(prepared.is_update, Some(true));
    assert!(prepared.dataset_schema.is_empty());
    let request = CommandPreparedStatementUpdate {
        prepared_statement_handle: prepared.prepared_statement_handle.clone(),
    };
    put(&mut client, &request, None).await.unwrap();
    let status = put(&mut client, &request, None).await.unwrap_err();
    assert!(status.message().contains("already exists"), "{status}");
    let info = client.execute("SELECT x FROM jdbc".into(), None).await.unwrap();
    assert_eq!(numbers(&mut client, &info).await, [8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_announces_one_schema() {
    let mut client = connect().await;
    let sql = "SELECT 1 AS a, 'x' AS b, CAST(NULL AS DOUBLE) AS c";
    let prepared = prepare(&mut client, sql).await;
    assert_eq!(prepared.is_update, Some(false));
    let announced = Schema::try_from(IpcMessage(prepared.dataset_schema)).unwrap();
    let request = CommandStatementQuery {
        query: sql.into(),
        transaction_id: None,
    };
    let schema = raw(&mut client).get_schema(command(&request)).await.unwrap();
    assert_eq!(Schema::try_from(schema.into_inner()).unwrap(), announced);
    let handle = prepared.prepared_statement_handle;
    let info = run_prepared(&mut client, &handle).await.unwrap();
    assert_eq!(fetch(&mut client, &info).await.0, announced);
    let request = CommandPreparedStatementQuery {
        prepared_statement_handle: handle,
    };
    let schema = raw(&mut client).get_schema(command(&request)).await.unwrap();
    assert_eq!(Schema::try_from(schema.into_inner()).unwrap(), announced);
}

#[tokio::test(flavor = "multi_thread")]
async fn bound_value_keeps_the_schema() {
    let mut client = connect().await;
    let prepared = prepare(&mut client, "SELECT CAST(? AS BIGINT) AS n").await;
    let announced = Schema::try_from(IpcMessage(prepared.dataset_schema)).unwrap();
    let bound = bind(&mut client, &prepared.prepared_statement_handle, 1).await;
    let info = run_prepared(&mut client, &bound).await.unwrap();
    assert_eq!(info.clone().try_decode_schema().unwrap(), announced);
    assert_eq!(fetch(&mut client, &info).await.0, announced);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_follow_the_answered_handle() {
    let mut client = connect().await;
    let prepared = prepare(&mut client, "SELECT CAST(? AS BIGINT)").await;
    let parameters = Schema::try_from(IpcMessage(prepared.parameter_schema)).unwrap();
    assert_eq!(parameters.fields().len(), 1);
    let handle = prepared.prepared_statement_handle;
    let one = bind(&mut client, &handle, 1).await;
    let two = bind(&mut client, &handle, 2).await;
    assert!(one != two && !one.is_empty());
    // Both handles at once, and the statement's own handle, which means the last binding.
    for (handle, expected) in [(&one, 1), (&two, 2), (&handle, 2), (&one, 1)] {
        let info = run_prepared(&mut client, handle).await.unwrap();
        assert_eq!(numbers(&mut client, &info).await, [expected]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_a_statement_is_idempotent() {
    let mut client = connect().await;
    let handle = prepare(&mut client, "SELECT CAST(? AS BIGINT)")
        .await
        .prepared_statement_handle;
    let bound = bind(&mut client, &handle, 1).await;
    let request = ActionClosePreparedStatementRequest {
        prepared_statement_handle: bound.clone(),
    };
    for _ in 0..2 {
        let result = act(&mut client, "ClosePreparedStatement", pack(&request)).await;
        assert_eq!(result.unwrap(), None);
    }
    for handle in [&handle, &bound, &Bytes::from_static(b"\xff\xfe")] {
        let status = run_prepared(&mut client, handle).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_parameter_count_is_refused() {
    let mut client = connect().await;
    let handle = prepare(&mut client, "SELECT CAST(? AS BIGINT) + CAST(? AS BIGINT)")
        .await
        .prepared_statement_handle;
    let request = CommandPreparedStatementQuery {
        prepared_statement_handle: handle,
    };
    let status = put(&mut client, &request, Some(&row(1))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("2 parameters but 1"), "{status}");
}

/// Beyond the bytes of their plans the least recently used statement is forgotten, beyond their number too.
#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_are_bounded() {
    let by_bytes = FlightOptions {
        max_prepared_bytes: 1024 * 1024,
        ..FlightOptions::default()
    };
    let by_number = FlightOptions {
        max_prepared_statements: 5,
        ..FlightOptions::default()
    };
    let wide = (0..300).map(|number| format!("{number} + 1")).collect::<Vec<_>>();
    for (options, sql) in [
        (by_bytes, format!("SELECT {}", wide.join(", "))),
        (by_number, "SELECT 1".to_owned()),
    ] {
        let mut client = connect_with(options).await;
        let first = prepare(&mut client, &sql).await.prepared_statement_handle;
        for _ in 0..300 {
            prepare(&mut client, &sql).await;
        }
        let last = prepare(&mut client, &sql).await.prepared_statement_handle;
        run_prepared(&mut client, &last).await.expect("the last one is kept");
        let status = run_prepared(&mut client, &first).await.expect_err("it is forgotten");
        assert_eq!(status.code(), Code::NotFound, "{status}");
    }
}
