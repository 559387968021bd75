//! Sessions: to which connections settings apply, how they are set, and when sessions end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use arrow_flight::FlightDescriptor;
use arrow_flight::sql::{
    ActionBeginSavepointRequest, ActionBeginTransactionRequest, ActionEndSavepointRequest, ActionEndTransactionRequest,
    CommandPreparedStatementQuery, CommandStatementQuery, ProstMessageExt,
};
use prost::Message;
use squadron_integration::cluster::{Cluster, cluster};
use tonic::Code;

use crate::callers::Caller;
use crate::session_messages::{INVALID_NAME, INVALID_VALUE, OptionValue, Options, SetOptions, SetResult, Texts, Value};
use crate::support::{bounded, minutes};

async fn start() -> Cluster {
    cluster().slots(1).start().await
}

/// Sets one option with SetSessionOptions; gives its error, if there is one.
async fn set(caller: &Caller, name: &str, value: Option<Value>) -> Option<i32> {
    let request = SetOptions {
        session_options: HashMap::from([(name.to_owned(), OptionValue { value })]),
    };
    let body = caller.act("SetSessionOptions", request.encode_to_vec()).await.unwrap();
    let result = SetResult::decode(body.as_slice()).unwrap();
    result.errors.get(name).map(|error| error.value)
}

/// Reads an option with GetSessionOptions.
async fn get(caller: &Caller, name: &str) -> String {
    let body = caller.act("GetSessionOptions", Vec::new()).await.unwrap();
    match Options::decode(body.as_slice()).unwrap().session_options.remove(name) {
        Some(OptionValue {
            value: Some(Value::Text(text)),
        }) => text,
        other => panic!("{name} is {other:?}"),
    }
}

async fn show(caller: &Caller, name: &str) -> String {
    caller.value(&format!("SHOW {name}")).await.unwrap()
}

/// Whether the server knows the prepared statement of a handle; does not run it.
async fn is_known(caller: &Caller, handle: &bytes::Bytes) -> bool {
    let command = CommandPreparedStatementQuery {
        prepared_statement_handle: handle.clone(),
    };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let request = caller.request(descriptor);
    match caller.flight().get_schema(request).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound, "{status}");
            false
        }
    }
}

#[test]
fn all_ways_set_the_same_option() {
    bounded(minutes(3), async {
        let cluster = start().await;
        let caller = Caller::connect(cluster.url()).await;
        for (name, value, shown, default) in [
            ("squadron.query_timeout", "2s", "2000ms", "0s"),
            ("squadron.priority", "-7", "-7", "0"),
            ("squadron.endpoints", "parallel", "parallel", "one"),
            ("datafusion.execution.batch_size", "17", "17", "8192"),
        ] {
            assert_eq!(show(&caller, name).await, default);
            let text = Some(Value::Text(value.to_owned()));
            assert_eq!(set(&caller, name, text).await, None);
            assert_eq!(show(&caller, name).await, shown);
            assert_eq!(set(&caller, name, None).await, None);
            assert_eq!(get(&caller, name).await, default);
            for (sql, expected) in [
                (format!("SET {name} = '{value}'"), shown),
                (format!("SET {name} = NULL"), default),
                (format!("SET {name} TO '{value}'"), shown),
                (format!("SET {name} TO DEFAULT"), default),
                (format!("SET {name} = '{value}'"), shown),
                (format!("RESET {name}"), default),
            ] {
                caller
                    .value(&sql)
                    .await
                    .unwrap_or_else(|status| panic!("{sql}: {status}"));
                assert_eq!(get(&caller, name).await, expected, "{sql}");
                assert_eq!(show(&caller, name).await, expected, "{sql}");
            }
        }
        for (name, wrong, error) in [
            ("squadron.query_timeout", "soon", INVALID_VALUE),
            ("squadron.priority", "1000", INVALID_VALUE),
            ("squadron.endpoints", "some", INVALID_VALUE),
            ("datafusion.execution.batch_size", "many", INVALID_VALUE),
            ("catalog", "nowhere", INVALID_VALUE),
            ("datafusion.catalog.default_schema", "nowhere", INVALID_VALUE),
            ("datafusion.runtime.memory_limit", "1T", INVALID_NAME),
            ("query_timeout", "1s", INVALID_NAME),
        ] {
            let text = Some(Value::Text(wrong.to_owned()));
            assert_eq!(set(&caller, name, text).await, Some(error), "{name}");
            let list = Some(Value::List(Texts::default()));
            assert_eq!(set(&caller, name, list).await, Some(INVALID_VALUE), "{name}");
            let status = caller.value(&format!("SET {name} = '{wrong}'")).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert!(
                status.message().contains(name.rsplit(['.', '_']).next().unwrap()),
                "{status}"
            );
        }
        assert_eq!(set(&caller, "squadron.priority", Some(Value::Integer(3))).await, None);
        assert_eq!(show(&caller, "squadron.priority").await, "3");
        let all = "SELECT count(*) >= 3 FROM information_schema.df_settings WHERE name LIKE 'squadron.%'";
        assert_eq!(caller.value(all).await.unwrap(), "true");
        assert_eq!(show(&caller, "catalog").await, get(&caller, "catalog").await);
    });
}

#[test]
fn connection_without_cookies_has_own_session() {
    bounded(minutes(3), async {
        let cluster = start().await;
        let (first, second) = (
            Caller::connect(cluster.url()).await,
            Caller::connect(cluster.url()).await,
        );
        first.value("SET squadron.priority = 5").await.unwrap();
        assert_eq!(show(&first, "squadron.priority").await, "5");
        assert_eq!(show(&second, "squadron.priority").await, "0");
        let (headers, _) = first.handshake(Vec::new()).await.unwrap();
        let cookie = headers.get("set-cookie").unwrap().to_str().unwrap();
        let (one, two) = (first.with("cookie", cookie), second.with("cookie", cookie));
        one.value("SET squadron.priority = 9").await.unwrap();
        assert_eq!(show(&two, "squadron.priority").await, "9", "a cookie works everywhere");
        assert_eq!(show(&first, "squadron.priority").await, "5");
        one.act("CloseSession", Vec::new()).await.unwrap();
        assert_eq!(show(&two, "squadron.priority").await, "0", "closed is gone");
    });
}

#[test]
fn connection_properties_become_session_options() {
    bounded(minutes(3), async {
        let cluster = start().await;
        let plain = Caller::connect(cluster.url()).await;
        let caller = plain
            .with("squadron.query_timeout", "5s")
            .with("datafusion.execution.batch_size", "33")
            .with("x-forwarded-for", "10.0.0.1");
        assert_eq!(show(&caller, "squadron.query_timeout").await, "5000ms");
        caller.value("SET squadron.query_timeout = '7s'").await.unwrap();
        assert_eq!(
            show(&caller, "squadron.query_timeout").await,
            "7000ms",
            "SET comes later"
        );
        assert_eq!(show(&caller, "datafusion.execution.batch_size").await, "33");
        for (name, value, says) in [
            ("squadron.query_timeout", "soon", "squadron.query_timeout"),
            ("squadron.colour", "red", "squadron.colour"),
            ("catalog", "nowhere", "catalog"),
            ("query_timeout", "5s", "squadron.query_timeout"),
        ] {
            let caller = Caller::connect(cluster.url()).await.with(name, value);
            let status = caller.value("SELECT 1").await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert!(status.message().contains(says), "{status}");
        }
        // Many properties, a large token and cookies of a proxy: more than other servers take.
        let mut large = Caller::connect(cluster.url()).await;
        for number in 0..40 {
            large = large.with(&format!("x-large-{number}"), &"v".repeat(1000));
        }
        assert_eq!(large.value("SELECT 1").await.unwrap(), "1");
    });
}

#[test]
fn idle_sessions_and_surplus_statements_expire() {
    bounded(minutes(3), async {
        let cluster = cluster()
            .slots(1)
            .serve_arg("--session-idle-timeout")
            .serve_arg("2s")
            .serve_arg("--max-prepared-statements")
            .serve_arg("3")
            .start()
            .await;
        let caller = Caller::connect(cluster.url()).await;
        caller.value("SET squadron.priority = 5").await.unwrap();
        assert_eq!(show(&caller, "squadron.priority").await, "5");
        let mut idle = Duration::from_secs(2);
        loop {
            // Using a session keeps it alive, so that each pause is longer than the last.
            tokio::time::sleep(idle).await;
            if show(&caller, "squadron.priority").await == "0" {
                break;
            }
            idle *= 2;
            assert!(idle < Duration::from_secs(60), "the session never ends");
        }
        let mut handles = Vec::new();
        for number in 0..30 {
            handles.push(caller.prepare(&format!("SELECT {number}")).await.unwrap());
        }
        // The least recently used statements are evicted soon, not at once.
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let mut known = 0;
            for handle in &handles {
                known += usize::from(is_known(&caller, handle).await);
            }
            if known <= 3 {
                break;
            }
            assert!(Instant::now() < end, "{known} statements are kept");
        }
    });
}

#[test]
fn refused_transactions_point_to_autocommit() {
    bounded(minutes(3), async {
        let cluster = start().await;
        let caller = Caller::connect(cluster.url()).await;
        let id = bytes::Bytes::from_static(b"t");
        let actions = [
            ("BeginTransaction", ActionBeginTransactionRequest {}.as_any()),
            (
                "EndTransaction",
                ActionEndTransactionRequest {
                    transaction_id: id.clone(),
                    action: 1,
                }
                .as_any(),
            ),
            (
                "BeginSavepoint",
                ActionBeginSavepointRequest {
                    transaction_id: id.clone(),
                    name: "s".into(),
                }
                .as_any(),
            ),
            (
                "EndSavepoint",
                ActionEndSavepointRequest {
                    savepoint_id: id.clone(),
                    action: 1,
                }
                .as_any(),
            ),
        ];
        for (name, body) in actions {
            let status = caller.act(name, body.encode_to_vec()).await.unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented, "{name}");
            assert!(status.message().contains("autocommit"), "{status}");
        }
        for sql in ["BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK", "SAVEPOINT s"] {
            let status = caller.value(sql).await.unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented, "{sql}: {status}");
            assert!(status.message().contains("autocommit"), "{sql}: {status}");
        }
        let command = CommandStatementQuery {
            query: "SELECT 1".into(),
            transaction_id: Some(id),
        };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let request = caller.request(descriptor);
        let status = caller.flight().get_flight_info(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        assert!(status.message().contains("autocommit"), "{status}");
    });
}
