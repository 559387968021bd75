//! Handshake, cookies, session options.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn handshake_token_carries_the_session() {
    let mut client = connect().await;
    let token = client.handshake("user", "password").await.unwrap();
    assert_eq!(client.token().unwrap().as_bytes(), token);
    let set = "SET datafusion.execution.batch_size = 17";
    client.execute(set.into(), None).await.unwrap();
    let mut other = client.clone();
    other.clear_token();
    let read = "SELECT CAST(value AS BIGINT) FROM information_schema.df_settings \
                WHERE name = 'datafusion.execution.batch_size'";
    let info = client.execute(read.into(), None).await.unwrap();
    assert_eq!(numbers(&mut client, &info).await, [17]);
    let info = other.execute(read.into(), None).await.unwrap();
    assert_ne!(numbers(&mut other, &info).await, [17]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cookie_is_sent_until_returned() {
    let mut client = connect().await;
    let descriptor = || command(&CommandGetTables::default());
    let first = raw(&mut client).get_flight_info(descriptor()).await.unwrap();
    let cookie = first.metadata().get("set-cookie").unwrap().to_str().unwrap();
    let pair = cookie.split(';').next().unwrap().to_string();
    let mut request = Request::new(descriptor());
    request.metadata_mut().insert("cookie", pair.parse().unwrap());
    let second = raw(&mut client).get_flight_info(request).await.unwrap();
    assert!(second.metadata().get("set-cookie").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn session_options_last_until_close() {
    let mut client = connect().await;
    let text = |text: &str| SessionOptionValue {
        value: Some(OptionValue::Text(text.into())),
    };
    let set = SetSessionOptionsRequest {
        session_options: HashMap::from([
            ("datafusion.execution.batch_size".into(), text("17")),
            ("colour".into(), text("red")),
        ]),
    };
    let body = act(&mut client, "SetSessionOptions", set.encode_to_vec())
        .await
        .unwrap();
    let result = SetSessionOptionsResult::decode(body.unwrap()).unwrap();
    assert_eq!(result.errors.keys().collect::<Vec<_>>(), ["colour"]);
    let batch_size = async |client: &mut Client| {
        let get = GetSessionOptionsRequest {}.encode_to_vec();
        let body = act(client, "GetSessionOptions", get).await.unwrap().unwrap();
        let result = GetSessionOptionsResult::decode(body).unwrap();
        result.session_options["datafusion.execution.batch_size"].clone()
    };
    assert_eq!(batch_size(&mut client).await, text("17"));
    let handle = prepare(&mut client, "SELECT 1").await.prepared_statement_handle;
    let close = CloseSessionRequest {}.encode_to_vec();
    let body = act(&mut client, "CloseSession", close).await.unwrap().unwrap();
    let closed = CloseSessionResult::decode(body).unwrap();
    assert_eq!(closed.status(), CloseSessionStatus::Closed);
    assert_ne!(batch_size(&mut client).await, text("17"));
    let status = run_prepared(&mut client, &handle).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}
