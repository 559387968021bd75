//! Garbage in every message of Flight. The seed is fixed, so that a failure can be repeated.

use std::time::Duration;

use arrow_flight::sql::Any;
use arrow_flight::{Action, Criteria, Empty, FlightData, FlightDescriptor, HandshakeRequest, Ticket};
use futures::{StreamExt, stream};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use squadron_integration::client::Client;
use squadron_integration::cluster::cluster;
use tokio::time::timeout;
use tonic::{Code, Response, Status, Streaming};

use super::{assert_still_answers, blames_caller};
use crate::conformance;
use crate::support::{bounded, minutes};

const SEED: u64 = 20_261_122;
const ROUNDS: usize = 6;

/// Random bytes, which often begin like a message.
fn garbage(random: &mut StdRng) -> Vec<u8> {
    let length = random.random_range(0..200);
    let mut bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
    if random.random_bool(0.5) && length > 2 {
        bytes[0] = 0x0A; // field 1, a string or a message
        bytes[1] = (length - 2).min(127) as u8;
    }
    bytes
}

/// An envelope that names a command and holds garbage.
fn envelope(random: &mut StdRng, name: &str) -> Vec<u8> {
    let type_url = format!("type.googleapis.com/arrow.flight.protocol.sql.{name}");
    let value = garbage(random).into();
    Any { type_url, value }.encode_to_vec()
}

/// Garbage for the places of commands: empty, random, and in the envelope of each command.
fn commands(random: &mut StdRng) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new(), garbage(random), garbage(random)];
    let names = conformance::commands().into_iter().chain(["NoSuchCommand"]);
    all.extend(names.map(|name| envelope(random, name)));
    all
}

/// Accepts an answer, since garbage may be a valid message, and an error that blames the caller.
fn judge<T>(what: &str, outcome: Result<T, Status>) -> Result<(), String> {
    match outcome {
        Ok(_) => Ok(()),
        Err(status) if blames_caller(&status) => Ok(()),
        Err(status) => Err(format!("{what}: {status}")),
    }
}

/// Reads a streamed answer to its end, at most `MOST` messages.
async fn read_stream<T>(answer: Result<Response<Streaming<T>>, Status>) -> Result<(), Status> {
    const MOST: usize = 1_000;
    let mut stream = answer?.into_inner().take(MOST);
    while let Some(message) = stream.next().await {
        message?;
    }
    Ok(())
}

/// Runs one call within a time limit.
async fn call<T>(what: String, work: impl Future<Output = Result<T, Status>>) {
    match timeout(Duration::from_secs(20), work).await {
        Ok(outcome) => judge(&what, outcome).unwrap_or_else(|wrong| panic!("seed {SEED}: {wrong}")),
        Err(_) => panic!("seed {SEED}: {what} hangs"),
    }
}

#[test]
fn garbage_unary_messages_blame_the_caller() {
    bounded(minutes(10), async {
        let cluster = cluster().slots(1).tpch(0.01).start().await;
        let client = cluster.client().await;
        let mut random = StdRng::seed_from_u64(SEED);
        for _ in 0..ROUNDS {
            for bytes in commands(&mut random) {
                let shown = format!("{bytes:02x?}");
                let command = || FlightDescriptor::new_cmd(bytes.clone());
                let mut flight = client.flight();
                call(format!("GetFlightInfo {shown}"), flight.get_flight_info(command())).await;
                call(format!("GetSchema {shown}"), flight.get_schema(command())).await;
                call(format!("PollFlightInfo {shown}"), flight.poll_flight_info(command())).await;
                let rows = async { read_stream(flight.do_get(Ticket::new(bytes.clone())).await).await };
                call(format!("DoGet {shown}"), rows).await;
            }
            for name in conformance::action_names().into_iter().chain(["NoSuchAction"]) {
                let bodies = [
                    garbage(&mut random),
                    envelope(&mut random, &format!("Action{name}Request")),
                ];
                for body in bodies {
                    let shown = format!("DoAction {name} {body:02x?}");
                    let action = Action {
                        r#type: name.into(),
                        body: body.into(),
                    };
                    let mut flight = client.flight();
                    call(shown, async { read_stream(flight.do_action(action).await).await }).await;
                }
            }
            let mut flight = client.flight();
            let expression = garbage(&mut random).into();
            call("ListFlights".into(), async {
                read_stream(flight.list_flights(Criteria { expression }).await).await
            })
            .await;
            let mut flight = client.flight();
            call("ListActions".into(), async {
                read_stream(flight.list_actions(Empty {}).await).await
            })
            .await;
            let path = FlightDescriptor::new_path(vec!["no".into(), "such".into()]);
            call("GetFlightInfo of a path".into(), client.flight().get_flight_info(path)).await;
        }
        assert_still_answers(&client).await;
    });
}

/// Streams of garbage, with and without a leading command, and with headers that look like Arrow.
fn streams(random: &mut StdRng) -> Vec<Vec<FlightData>> {
    let mut all = vec![Vec::new(), vec![FlightData::default()]];
    for command in commands(random) {
        let descriptor = FlightDescriptor::new_cmd(command);
        let data = |random: &mut StdRng| {
            FlightData::new()
                .with_data_header(flatbuffer_like(random))
                .with_data_body(garbage(random))
                .with_app_metadata(garbage(random))
        };
        all.push(vec![FlightData::new().with_descriptor(descriptor.clone())]);
        all.push(vec![
            data(random).with_descriptor(descriptor),
            data(random),
            data(random),
        ]);
    }
    all
}

/// Bytes that begin as a flatbuffer does: an offset, then a table that points back.
fn flatbuffer_like(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = garbage(random);
    if bytes.len() >= 16 {
        bytes[..4].copy_from_slice(&8_u32.to_le_bytes());
        bytes[8..12].copy_from_slice(&4_i32.to_le_bytes());
    }
    bytes
}

#[test]
fn garbage_streams_blame_the_caller() {
    bounded(minutes(10), async {
        let cluster = cluster().slots(1).start().await;
        let client = cluster.client().await;
        let mut random = StdRng::seed_from_u64(SEED);
        for _ in 0..ROUNDS {
            for messages in streams(&mut random) {
                let shown = format!("{:.400}", format!("{messages:02x?}"));
                let put = async { read_stream(client.flight().do_put(stream::iter(messages.clone())).await).await };
                call(format!("DoPut {shown}"), put).await;
                let exchange =
                    async { read_stream(client.flight().do_exchange(stream::iter(messages.clone())).await).await };
                call(format!("DoExchange {shown}"), exchange).await;
            }
            let payload = garbage(&mut random).into();
            let greeting = HandshakeRequest {
                protocol_version: u64::MAX,
                payload,
            };
            let greetings = stream::iter(vec![greeting; 3]);
            call("Handshake".into(), async {
                read_stream(client.flight().handshake(greetings).await).await
            })
            .await;
        }
        assert_still_answers(&client).await;
    });
}

#[test]
fn garbage_parameters_blame_the_caller() {
    bounded(minutes(5), async {
        let cluster = cluster().slots(1).start().await;
        let client = cluster.client().await;
        let mut random = StdRng::seed_from_u64(SEED);
        for _ in 0..ROUNDS * 5 {
            let handle = handle(&client).await;
            let descriptor = FlightDescriptor::new_cmd(handle);
            let mut messages = vec![
                FlightData::new()
                    .with_data_header(flatbuffer_like(&mut random))
                    .with_descriptor(descriptor),
            ];
            messages.push(
                FlightData::new()
                    .with_data_header(garbage(&mut random))
                    .with_data_body(garbage(&mut random)),
            );
            let shown = format!("binding {messages:02x?}");
            call(shown, async {
                read_stream(client.flight().do_put(stream::iter(messages)).await).await
            })
            .await;
        }
        assert_still_answers(&client).await;
    });
}

/// The command of a fresh prepared statement with one parameter.
async fn handle(client: &Client) -> Vec<u8> {
    use arrow_flight::sql::{
        ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, CommandPreparedStatementQuery,
        ProstMessageExt,
    };
    let request = ActionCreatePreparedStatementRequest {
        query: "SELECT $1 + 1 AS next".into(),
        transaction_id: None,
    };
    let action = Action {
        r#type: "CreatePreparedStatement".into(),
        body: request.as_any().encode_to_vec().into(),
    };
    let mut answers = client
        .flight()
        .do_action(action)
        .await
        .expect("it is prepared")
        .into_inner();
    let answer = answers.message().await.expect("no error").expect("one answer");
    let any = Any::decode(&*answer.body).expect("an envelope");
    let result: ActionCreatePreparedStatementResult = any.unpack().expect("of this type").expect("readable");
    let prepared_statement_handle = result.prepared_statement_handle;
    CommandPreparedStatementQuery {
        prepared_statement_handle,
    }
    .as_any()
    .encode_to_vec()
}

/// A message without an end, or bytes that are not gRPC, end their connection and no other.
#[test]
fn non_grpc_bytes_end_one_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    bounded(minutes(5), async {
        let cluster = cluster().workers(1).slots(1).start().await;
        let client = cluster.client().await;
        let mut random = StdRng::seed_from_u64(SEED);
        for url in [cluster.url().to_owned(), cluster.cluster_url().to_owned()] {
            let address = url.rsplit('/').next().expect("a URL ends in its address").to_owned();
            for opening in [
                &b"GET / HTTP/1.1\r\n\r\n"[..],
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"\x16\x03\x01",
                b"",
            ] {
                let mut socket = tokio::net::TcpStream::connect(&address).await.expect("it listens");
                let mut bytes = opening.to_vec();
                bytes.extend(std::iter::repeat_with(|| random.random::<u8>()).take(5_000));
                // The server may close the connection before it has read everything.
                drop(socket.write_all(&bytes).await);
                drop(socket.shutdown().await);
                let mut answer = Vec::new();
                let end = timeout(Duration::from_secs(30), socket.read_to_end(&mut answer)).await;
                assert!(end.is_ok(), "{address} neither answers nor hangs up");
            }
        }
        assert_still_answers(&client).await;
    });
}

/// Those who have not logged in send no more than a login.
#[test]
fn large_handshake_is_refused() {
    bounded(Duration::from_secs(120), async {
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("tokens");
        std::fs::write(&tokens, "someone:0123456789abcdef0123\n").unwrap();
        let cluster = cluster().slots(1).serve_arg("--tokens");
        let mut cluster = cluster.serve_arg(tokens.to_string_lossy()).start().await;
        let client = cluster.client().await;
        let before = cluster.server().peak_memory_bytes();
        let greeting = HandshakeRequest {
            protocol_version: 0,
            payload: vec![b'x'; 100 << 20].into(),
        };
        let answer = client.flight().handshake(stream::iter([greeting])).await;
        let status = read_stream(answer).await.expect_err("no login is so long");
        assert!(status.message().contains("Handshake"), "{status}");
        let more = cluster.server().peak_memory_bytes().saturating_sub(before) >> 20;
        assert!(more < 50, "the server took {more} MiB for it");
        let unknown = client.query("SELECT 1").await.expect_err("nobody has logged in");
        assert_eq!(unknown.code(), Code::Unauthenticated, "{unknown}");
    });
}

#[test]
fn only_client_errors_blame_the_caller() {
    assert!(!blames_caller(&Status::new(Code::Internal, "bug")));
    assert!(!blames_caller(&Status::new(Code::Unknown, "?")));
    assert!(!blames_caller(&Status::new(Code::InvalidArgument, "")));
    assert!(blames_caller(&Status::new(Code::NotFound, "no such table")));
}
