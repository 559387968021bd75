//! Against a server that is nothing but a list of the calls it gets.

use std::sync::{Arc, Mutex};

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::sql::{Any, Command};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::stream::BoxStream;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use super::*;

/// Which calls the server got, in their order.
type Calls = Arc<Mutex<Vec<String>>>;

/// A server that is polled `polls` times for a statement, or answers GetFlightInfo alone.
struct Fake {
    polls: Option<usize>,
    calls: Calls,
}

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

/// The statement of a descriptor, or the number of the poll that it is for.
fn asked(descriptor: &FlightDescriptor) -> String {
    let command = Any::decode(descriptor.cmd.as_ref())
        .ok()
        .and_then(|any| Command::try_from(any).ok());
    match command {
        Some(Command::CommandStatementQuery(command)) => command.query,
        _ => String::from_utf8(descriptor.cmd.to_vec()).unwrap(),
    }
}

impl Fake {
    fn called(&self, rpc: &str, descriptor: &FlightDescriptor) {
        let call = format!("{rpc} {}", asked(descriptor));
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
        let asked_for = asked(request.get_ref());
        self.called("get", request.get_ref());
        match asked_for.as_str() {
            "BEGIN" => Err(Status::unimplemented("no transactions")),
            _ => Ok(Response::new(FlightInfo::new().with_app_metadata("got"))),
        }
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<PollInfo> {
        let descriptor = request.into_inner();
        self.called("poll", &descriptor);
        let asked_for = asked(&descriptor);
        let Some(polls) = self.polls.filter(|_| asked_for != "BEGIN") else {
            return Err(Status::unimplemented("not served"));
        };
        let number: usize = asked_for.parse().unwrap_or(0);
        let next = (number < polls).then(|| FlightDescriptor::new_cmd((number + 1).to_string()));
        Ok(Response::new(PollInfo {
            // All but the first may be silent about it.
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

/// A client, what its server was asked, and the server.
async fn connect(polls: Option<usize>) -> (Client, Calls, JoinSet<()>) {
    let calls = Calls::default();
    let fake = Fake {
        polls,
        calls: Arc::clone(&calls),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let serving = Server::builder()
        .add_service(FlightServiceServer::new(fake))
        .serve_with_incoming(incoming);
    let mut server = JoinSet::new();
    server.spawn(async move { serving.await.unwrap() });
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    (Client::over(FlightServiceClient::new(channel)), calls, server)
}

fn taken(calls: &Calls) -> Vec<String> {
    std::mem::take(&mut calls.lock().unwrap())
}

#[tokio::test]
async fn a_statement_that_is_done_at_once_takes_one_call() {
    let (mut client, calls, _server) = connect(Some(0)).await;
    let begun = client.begin("SELECT 1").await.unwrap();
    assert!(begun.is_whole());
    assert_eq!(taken(&calls), ["poll SELECT 1"]);
}

#[tokio::test]
async fn a_statement_is_sent_once_and_polled_to_its_end() {
    let (mut client, calls, _server) = connect(Some(2)).await;
    let mut begun = client.begin("INSERT").await.unwrap();
    let mut told = vec![begun.progress];
    while !begun.is_whole() {
        client.poll(&mut begun).await.unwrap();
        told.push(begun.progress);
    }
    assert_eq!(taken(&calls), ["poll INSERT", "poll 1", "poll 2"]);
    assert_eq!(told, [Some(0.0), Some(0.5), Some(1.0)]);
    assert_eq!(begun.info.app_metadata, "polled", "what was told is kept");
    client.poll(&mut begun).await.unwrap();
    assert!(taken(&calls).is_empty(), "there is nothing more to ask");
}

#[tokio::test]
async fn a_server_without_polls_is_asked_for_one_once() {
    let (mut client, calls, _server) = connect(None).await;
    for asked in [&["poll a", "get a"][..], &["get a"]] {
        let begun = client.begin("a").await.unwrap();
        assert!(begun.is_whole());
        assert_eq!((begun.progress, taken(&calls)), (None, strings(asked)));
    }
}

#[tokio::test]
async fn what_a_server_with_polls_refuses_is_not_sent_again() {
    let (mut client, calls, _server) = connect(Some(0)).await;
    // Who refuses may be the server or its polls.
    client.begin("BEGIN").await.unwrap_err();
    assert_eq!(taken(&calls), ["poll BEGIN", "get BEGIN"]);
    client.begin("a").await.unwrap();
    assert_eq!(taken(&calls), ["poll a"]);
    client.begin("BEGIN").await.unwrap_err();
    assert_eq!(taken(&calls), ["poll BEGIN"]);
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
