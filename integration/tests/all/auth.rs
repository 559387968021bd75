//! Authentication, and the objects of each principal.

use std::time::{Duration, Instant};

use arrow_flight::sql::{ActionClosePreparedStatementRequest, CommandPreparedStatementQuery, ProstMessageExt};
use arrow_flight::{BasicAuth, CancelFlightInfoRequest, Criteria, Empty, FlightData, FlightDescriptor, Ticket};
use futures::stream;
use prost::Message;
use squadron_integration::client::ticket;
use squadron_integration::cluster::{Cluster, cluster, wait_until};
use tonic::{Code, Status};

use crate::callers::{Caller, Files, PASSWORD, TOKEN, run, statement, text};
use crate::support::{bounded, minutes, seconds};

/// Starts a server that asks for credentials.
async fn start_guarded(files: &Files) -> Cluster {
    cluster()
        .slots(1)
        .serve_arg("--users")
        .serve_arg(text(&files.users()))
        .serve_arg("--tokens")
        .serve_arg(text(&files.tokens()))
        .start()
        .await
}

fn assert_unauthenticated<T>(rpc: &str, outcome: Result<T, Status>) {
    match outcome {
        Err(status) => {
            assert_eq!(status.code(), Code::Unauthenticated, "{rpc}: {status}");
            assert!(status.message().contains("log in"), "{rpc}: {status}");
        }
        Ok(_) => panic!("{rpc} answers anybody"),
    }
}

#[test]
fn only_health_answers_without_credentials() {
    bounded(minutes(3), async {
        let files = Files::new();
        let cluster = start_guarded(&files).await;
        let nobody = Caller::connect(cluster.url()).await;
        let liar = nobody.bearer("a-token-of-nobody-at-all");
        for caller in [nobody.clone(), liar] {
            let mut flight = caller.flight();
            let select = || statement("SELECT 1");
            let request = caller.request(select());
            assert_unauthenticated("GetFlightInfo", flight.get_flight_info(request).await);
            let request = caller.request(select());
            assert_unauthenticated("GetSchema", flight.get_schema(request).await);
            let request = caller.request(select());
            assert_unauthenticated("PollFlightInfo", flight.poll_flight_info(request).await);
            let request = caller.request(Ticket::new("x"));
            assert_unauthenticated("DoGet", flight.do_get(request).await);
            let request = caller.request(stream::iter([FlightData::default()]));
            assert_unauthenticated("DoPut", flight.do_put(request).await);
            let request = caller.request(stream::iter([FlightData::default()]));
            assert_unauthenticated("DoExchange", flight.do_exchange(request).await);
            let request = caller.request(Criteria::default());
            assert_unauthenticated("ListFlights", flight.list_flights(request).await);
            let request = caller.request(Empty {});
            assert_unauthenticated("ListActions", flight.list_actions(request).await);
            let closed = caller.act("CloseSession", Vec::new()).await;
            assert_unauthenticated("DoAction", closed);
            assert_unauthenticated("Handshake", caller.handshake(Vec::new()).await);
        }
        let channel = cluster.client().await.channel();
        let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
        let request = tonic_health::pb::HealthCheckRequest::default();
        health.check(request).await.expect("health is for everyone");
    });
}

#[test]
fn every_login_method_grants_access() {
    bounded(minutes(3), async {
        let files = Files::new();
        let cluster = start_guarded(&files).await;
        let nobody = Caller::connect(cluster.url()).await;
        let ann = nobody.basic("ann", PASSWORD);
        let issued = ann.log_in().await.expect("name and password are right");
        assert_ne!(issued, ann.log_in().await.unwrap(), "each login has a token of its own");
        let first_scheme = BasicAuth {
            username: "ann".into(),
            password: PASSWORD.into(),
        };
        let (_, payload) = nobody.handshake(first_scheme.encode_to_vec()).await.unwrap();
        let by_payload = String::from_utf8(payload).unwrap();
        for (way, caller) in [
            ("Basic on the call", ann.clone()),
            ("issued token", nobody.bearer(&issued)),
            ("token of the first scheme", nobody.bearer(&by_payload)),
            ("static token", nobody.bearer(TOKEN)),
            ("static token as the password", nobody.basic("bot", TOKEN)),
            ("static token without a name", nobody.basic("", TOKEN)),
            ("issued token as the password", nobody.basic("ann", &issued)),
        ] {
            let value = caller.value("SELECT 42").await;
            assert_eq!(value.as_deref().ok(), Some("42"), "{way}: {value:?}");
        }
        let own = nobody.bearer(TOKEN).log_in().await.unwrap();
        assert_eq!(own, TOKEN, "a login with a token gives the same token");
        let elsewhere = Caller::connect(cluster.url()).await.bearer(&issued);
        assert_eq!(elsewhere.value("SELECT 1").await.unwrap(), "1");
        for (user, password) in [("ann", "wrong"), ("eve", PASSWORD), ("ann", TOKEN), ("ann", "")] {
            let caller = nobody.basic(user, password);
            assert_unauthenticated(user, caller.log_in().await);
            assert_unauthenticated(user, caller.value("SELECT 1").await);
        }
    });
}

#[test]
fn principals_cannot_reach_foreign_objects() {
    bounded(minutes(3), async {
        let files = Files::new();
        let cluster = start_guarded(&files).await;
        let nobody = Caller::connect(cluster.url()).await;
        let ann = nobody.bearer(&nobody.basic("ann", PASSWORD).log_in().await.unwrap());
        let bob = nobody.bearer(&nobody.basic("bob", PASSWORD).log_in().await.unwrap());

        // Tickets and cancellation.
        let cancel = async |caller: &Caller, info: &arrow_flight::FlightInfo| {
            let body = CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
            caller.act("CancelFlightInfo", body).await
        };
        let info = ann.info("SELECT 1").await.unwrap();
        let foreign = bob.get(ticket(&info)).await.unwrap_err();
        assert_eq!(foreign.code(), Code::NotFound);
        let foreign_cancel = cancel(&bob, &info).await.unwrap_err();
        assert_eq!(foreign_cancel.code(), Code::NotFound);
        assert!(ann.get(ticket(&info)).await.is_ok(), "ann still has her rows");
        let gone = ann.get(ticket(&info)).await.unwrap_err();
        // Each message has the query's id; nothing else in it says whose query that is.
        assert_eq!(foreign.message(), gone.message());
        let info = ann.info("SELECT 2").await.unwrap();
        cancel(&ann, &info).await.expect("ann may cancel");
        assert_eq!(ann.get(ticket(&info)).await.unwrap_err().code(), Code::NotFound);

        // Prepared statements, which every session of their principal can use.
        let handle = ann.prepare("SELECT 7").await.unwrap();
        let execute = async |caller: &Caller, handle: &bytes::Bytes| {
            let command = CommandPreparedStatementQuery {
                prepared_statement_handle: handle.clone(),
            };
            let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
            let request = caller.request(descriptor);
            caller.flight().get_flight_info(request).await
        };
        let foreign = execute(&bob, &handle).await.unwrap_err();
        let unknown = execute(&bob, &"0123".into()).await.unwrap_err();
        assert_eq!(foreign.code(), Code::NotFound);
        assert_eq!(foreign.message(), unknown.message());
        let close = ActionClosePreparedStatementRequest {
            prepared_statement_handle: handle.clone(),
        };
        let close = close.as_any().encode_to_vec();
        bob.act("ClosePreparedStatement", close).await.unwrap();
        let again = nobody.bearer(&nobody.basic("ann", PASSWORD).log_in().await.unwrap());
        execute(&again, &handle).await.expect("ann's in another session");

        // Sessions.
        ann.value("SET squadron.priority = 5").await.unwrap();
        let (headers, _) = nobody.basic("ann", PASSWORD).handshake(Vec::new()).await.unwrap();
        let cookie = headers.get("set-cookie").unwrap().to_str().unwrap();
        let thief = bob.with("cookie", cookie);
        thief.act("CloseSession", Vec::new()).await.unwrap();
        assert_eq!(ann.value("SHOW squadron.priority").await.unwrap(), "5");
        assert_eq!(thief.value("SHOW squadron.priority").await.unwrap(), "0");
    });
}

#[test]
fn failed_logins_are_throttled_and_logged() {
    bounded(minutes(3), async {
        let files = Files::new();
        let mut cluster = start_guarded(&files).await;
        let nobody = Caller::connect(cluster.url()).await;
        let token = nobody.basic("ann", PASSWORD).log_in().await.unwrap();
        let wrong = nobody.basic("ann", "hush-wrong-hush");
        for _ in 0..8 {
            assert_unauthenticated("Handshake", wrong.log_in().await);
        }
        let start = Instant::now();
        assert_unauthenticated("Handshake", wrong.log_in().await);
        // Eight failures for one name: the next attempt waits for 1.6 seconds.
        assert!(start.elapsed() >= Duration::from_millis(1500), "{:?}", start.elapsed());
        let start = Instant::now();
        assert_eq!(nobody.bearer(&token).value("SELECT 1").await.unwrap(), "1");
        assert!(
            start.elapsed() < Duration::from_millis(1500),
            "a valid token does not wait"
        );
        for guess in 0..40 {
            let outcome = nobody.bearer(&format!("hush-token-{guess}")).log_in().await;
            let status = outcome.unwrap_err();
            if status.code() == Code::ResourceExhausted {
                break;
            }
            assert!(guess < 39, "an address may guess without limit");
            if guess >= 2 {
                // Concurrent attempts of one address wait in a queue; a long queue is refused.
                let guesses = (0..8).map(|n| {
                    let caller = nobody.bearer(&format!("hush-token-{guess}-{n}"));
                    async move { caller.log_in().await.unwrap_err().code() }
                });
                let codes = futures::future::join_all(guesses).await;
                if codes.contains(&Code::ResourceExhausted) {
                    break;
                }
            }
        }
        wait_until("failures are logged", seconds(10), || {
            let log = cluster.server().log();
            log.contains("login failed") && log.contains("ann") && log.contains("127.0.0.1")
        })
        .await;
        let log = cluster.server().log();
        assert!(!log.contains("hush"), "{log}");
    });
}

#[test]
fn secrets_never_appear_in_output() {
    bounded(minutes(3), async {
        let files = Files::new();
        let secret = files.write("secret", "hush-cluster-secret");
        let mut cluster = cluster()
            .workers(1)
            .slots(1)
            .variable("RUST_LOG", "debug,h2=info")
            .serve_arg("--users")
            .serve_arg(text(&files.users()))
            .serve_arg("--tokens")
            .serve_arg(text(&files.tokens()))
            .serve_arg("--cluster-secret")
            .serve_arg(format!("@{}", text(&secret)))
            .worker_arg("--cluster-secret")
            .worker_arg(format!("@{}", text(&secret)))
            .start()
            .await;
        let nobody = Caller::connect(cluster.url()).await;
        let (headers, _) = nobody.basic("ann", PASSWORD).handshake(Vec::new()).await.unwrap();
        let cookie = headers.get("set-cookie").unwrap().to_str().unwrap();
        let cookie_value = cookie.split_once('=').unwrap().1;
        let token = nobody.basic("ann", PASSWORD).log_in().await.unwrap();
        let ann = nobody.bearer(&token).with("cookie", cookie);
        let bot = nobody.bearer(TOKEN);
        let mut said = String::new();
        for caller in [&ann, &bot] {
            said += &caller.value("EXPLAIN SELECT 1").await.unwrap();
            said += &caller.value("SHOW ALL").await.unwrap();
            let options = caller.act("GetSessionOptions", Vec::new()).await.unwrap();
            said += &String::from_utf8_lossy(&options);
            said += caller.value("SELECT nosuch").await.unwrap_err().message();
        }
        for command in [["serve", "--help"], ["worker", "--help"], ["sql", "--help"]] {
            let mut help = std::process::Command::new(squadron_integration::process::squadron());
            help.args(command)
                .env("SQUADRON_CLUSTER_SECRET", "hush-cluster-secret")
                .env("SQUADRON_SQL_TOKEN", TOKEN);
            said += &String::from_utf8_lossy(&help.output().unwrap().stdout);
        }
        said += &cluster.server().log();
        said += &cluster.worker(0).log();
        assert!(said.contains("squadron"), "there is something to search");
        for secret in [PASSWORD, TOKEN, "hush-cluster-secret", &token, cookie_value, "$argon2"] {
            assert!(!said.contains(secret), "{secret} can be read");
        }
    });
}

#[test]
fn malformed_files_are_refused_at_start() {
    let files = Files::new();
    for (flag, file, text_of_file, words) in [
        ("--users", "u1", "ann:hush", "line 1"),
        ("--users", "u2", "# x\nann", "line 2"),
        ("--tokens", "t1", "bot:hush", "line 1"),
        ("--tls-cert", "c1", "nothing", "--tls-cert"),
    ] {
        let path = text(&files.write(file, text_of_file));
        let mut arguments = vec!["serve", "--listen", "127.0.0.1:0", flag, &path];
        if flag == "--tls-cert" {
            arguments.extend(["--tls-key", &path]);
        }
        let output = run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words) && said.contains(&path), "{said}");
        assert!(!said.contains("hush"), "{said}");
    }
    let output = run(&["serve", "--users", "/no/such/file"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn unencrypted_public_listener_logs_warning() {
    bounded(minutes(3), async {
        let files = Files::new();
        let mut command = std::process::Command::new(squadron_integration::process::squadron());
        command.args(["serve", "--listen", "0.0.0.0:0", "--memory", "256MiB", "--users"]);
        command.arg(files.users());
        let log = files.write("log", "");
        let mut server = squadron_integration::process::Process::start("server", command, log);
        let url = server.wait_for_line("squadron listening on ").await;
        assert!(url.starts_with("grpc://0.0.0.0:"), "{url}");
        wait_until("it warns", seconds(10), || server.log().contains("unencrypted")).await;
    });
}

#[test]
fn shell_logs_in_with_credentials() {
    bounded(minutes(3), async {
        let files = Files::new();
        let cluster = start_guarded(&files).await;
        let password = text(&files.write("pw", PASSWORD));
        let password = format!("@{password}");
        let shell = |login: &[&str]| {
            let mut arguments = vec!["sql", "--server", cluster.url(), "--format", "csv"];
            arguments.extend(login);
            arguments.extend(["-c", "SELECT 1 AS x"]);
            let output = run(&arguments);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        for login in [
            &["--user", "ann", "--password", &password][..],
            &["--token", TOKEN],
            &["--user", "bot", "--password", TOKEN],
        ] {
            let (code, rows, said) = shell(login);
            assert_eq!((code, rows.as_str()), (Some(0), "x\n1\n"), "{said}");
        }
        for (login, code, says) in [
            (&["--user", "ann", "--password", "wrong"][..], 1, "password is wrong"),
            (&["--token", "wrong-wrong-wrong-wrong"], 1, "token"),
            (&[], 1, "log in"),
            (&["--user", "ann"], 2, "--password"),
        ] {
            let (exit, _, said) = shell(login);
            assert_eq!(exit, Some(code), "{said}");
            assert!(said.contains(says), "{said}");
        }
    });
}
