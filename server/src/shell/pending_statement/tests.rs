//! Against a fake server that records its calls.

use std::sync::{Arc, Mutex};

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{Any, Command};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::stream::BoxStream;
use prost::Message;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, Streaming};

use super::super::testing;
use super::*;

/// The calls that the server received, in order.
type Calls = Arc<Mutex<Vec<String>>>;

/// A server that is polled `polls` times for a statement; without polls it serves GetFlightInfo alone.
struct Fake {
    polls: Option<usize>,
    calls: Calls,
}

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

/// The statement of a descriptor, or the number of its poll.
fn decode(descriptor: &FlightDescriptor) -> String {
    let command = Any::decode(descriptor.cmd.as_ref())
        .ok()
        .and_then(|any| Command::try_from(any).ok());
    match command {
        Some(Command::CommandStatementQuery(command)) => command.query,
        _ => String::from_utf8(descriptor.cmd.to_vec()).unwrap(),
    }
}

impl Fake {
    fn record(&self, rpc: &str, descriptor: &FlightDescriptor) {
        let call = format!("{rpc} {}", decode(descriptor));
        self.calls.lock().unwrap().push(call);
    }
}

#[tonic::async_trait]
impl FlightService for Fake {
    type HandshakeStream = Stream<HandshakeResponse>;
    type ListFlightsStream = Stream<FlightInfo>;
    type DoGetStream = Stream<FlightData>;
    type DoPutStream = Stream<PutResult>;
    type DoActionStream = Stream<arrow_flight::Result>;
    type ListActionsStream = Stream<ActionType>;
    type DoExchangeStream = Stream<FlightData>;

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        let statement = decode(request.get_ref());
        self.record("get", request.get_ref());
        match statement.as_str() {
            "BEGIN" => Err(Status::unimplemented("no transactions")),
            _ => Ok(Response::new(FlightInfo::new().with_app_metadata("got"))),
        }
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<PollInfo> {
        let descriptor = request.into_inner();
        self.record("poll", &descriptor);
        let statement = decode(&descriptor);
        let Some(polls) = self.polls.filter(|_| statement != "BEGIN") else {
            return Err(Status::unimplemented("not served"));
        };
        let number: usize = statement.parse().unwrap_or(0);
        let next = (number < polls).then(|| FlightDescriptor::new_cmd((number + 1).to_string()));
        Ok(Response::new(PollInfo {
            // Only the first answer must have it.
            info: (number == 0).then(|| FlightInfo::new().with_app_metadata("polled")),
            progress: Some(number as f64 / polls.max(1) as f64),
            flight_descriptor: next,
            expiration_time: None,
        }))
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        Err(Status::unimplemented(""))
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        Err(Status::unimplemented(""))
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        Err(Status::unimplemented(""))
    }

    async fn do_get(&self, _: Request<Ticket>) -> Answer<Self::DoGetStream> {
        Err(Status::unimplemented(""))
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        Err(Status::unimplemented(""))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        Err(Status::unimplemented(""))
    }

    async fn do_action(&self, _: Request<Action>) -> Answer<Self::DoActionStream> {
        Err(Status::unimplemented(""))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        Err(Status::unimplemented(""))
    }
}

/// A client, the calls of its server, and the server's task.
async fn connect(polls: Option<usize>) -> (Client, Calls, JoinSet<()>) {
    let calls = Calls::default();
    let fake = Fake {
        polls,
        calls: Arc::clone(&calls),
    };
    let (client, server) = testing::connect(fake).await;
    (client, calls, server)
}

fn take_calls(calls: &Calls) -> Vec<String> {
    std::mem::take(&mut calls.lock().unwrap())
}

#[tokio::test]
async fn finished_statement_takes_one_call() {
    let (mut client, calls, _server) = connect(Some(0)).await;
    let statement = client.begin("SELECT 1").await.unwrap();
    assert!(statement.is_complete());
    assert_eq!(take_calls(&calls), ["poll SELECT 1"]);
}

#[tokio::test]
async fn statement_is_sent_once_and_polled() {
    let (mut client, calls, _server) = connect(Some(2)).await;
    let mut statement = client.begin("INSERT").await.unwrap();
    let mut progress = vec![statement.progress];
    while !statement.is_complete() {
        client.poll(&mut statement).await.unwrap();
        progress.push(statement.progress);
    }
    assert_eq!(take_calls(&calls), ["poll INSERT", "poll 1", "poll 2"]);
    assert_eq!(progress, [Some(0.0), Some(0.5), Some(1.0)]);
    assert_eq!(statement.info.app_metadata, "polled", "the first FlightInfo stays");
    client.poll(&mut statement).await.unwrap();
    assert!(take_calls(&calls).is_empty(), "a complete statement is not polled");
}

#[tokio::test]
async fn server_without_polls_is_tried_once() {
    let (mut client, calls, _server) = connect(None).await;
    for expected in [&["poll a", "get a"][..], &["get a"]] {
        let statement = client.begin("a").await.unwrap();
        assert!(statement.is_complete());
        assert_eq!((statement.progress, take_calls(&calls)), (None, strings(expected)));
    }
}

#[tokio::test]
async fn refused_statement_is_not_sent_again() {
    let (mut client, calls, _server) = connect(Some(0)).await;
    // A refusal may be about the statement or about polls.
    client.begin("BEGIN").await.unwrap_err();
    assert_eq!(take_calls(&calls), ["poll BEGIN", "get BEGIN"]);
    client.begin("a").await.unwrap();
    assert_eq!(take_calls(&calls), ["poll a"]);
    client.begin("BEGIN").await.unwrap_err();
    assert_eq!(take_calls(&calls), ["poll BEGIN"]);
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
