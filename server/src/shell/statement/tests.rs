//! Against a fake server whose results have as many rows as a test wants, and that records what ends them.

use std::io;
use std::sync::Mutex;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, Streaming};

use super::super::testing;
use super::super::view::Style;
use super::*;
use crate::config::OutputFormat;

const BATCH_ROWS: usize = 100;

/// A server whose results have `batches` batches.
struct Fake {
    batches: usize,
    actions: Actions,
}

/// The actions that the server received, in order.
type Actions = Arc<Mutex<Vec<String>>>;
type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

fn batch() -> RecordBatch {
    let numbers: ArrayRef = Arc::new((0..BATCH_ROWS as i64).collect::<Int64Array>());
    RecordBatch::try_from_iter([("n", numbers)]).unwrap()
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

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        let endpoint = FlightEndpoint::new().with_ticket(Ticket::new("rows"));
        let info = FlightInfo::new()
            .try_with_schema(&batch().schema())
            .unwrap()
            .with_endpoint(endpoint);
        Ok(Response::new(PollInfo {
            info: Some(info),
            progress: None,
            flight_descriptor: None,
            expiration_time: None,
        }))
    }

    async fn do_get(&self, _: Request<Ticket>) -> Answer<Self::DoGetStream> {
        let batches = futures::stream::iter((0..self.batches).map(|_| Ok(batch())));
        let rows = FlightDataEncoderBuilder::new()
            .build(batches)
            .map_err(|error| Status::internal(error.to_string()));
        Ok(Response::new(rows.boxed()))
    }

    async fn do_action(&self, request: Request<Action>) -> Answer<Self::DoActionStream> {
        self.actions.lock().unwrap().push(request.into_inner().r#type);
        Ok(Response::new(futures::stream::empty().boxed()))
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        Err(Status::unimplemented(""))
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

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        Err(Status::unimplemented(""))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        Err(Status::unimplemented(""))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        Err(Status::unimplemented(""))
    }
}

/// A client, the actions of its server, and the server's task.
async fn connect(batches: usize) -> (Client, Actions, JoinSet<()>) {
    let actions = Actions::default();
    let fake = Fake {
        batches,
        actions: Arc::clone(&actions),
    };
    let (client, server) = testing::connect(fake).await;
    (client, actions, server)
}

fn at_most(limit: Option<u64>) -> Shown {
    Shown {
        format: OutputFormat::Table,
        style: Style::WHOLE,
        limit,
    }
}

async fn show_text(client: &mut Client, limit: Option<u64>) -> String {
    let mut output = Vec::new();
    show(client, "SELECT n", at_most(limit), &mut output).await.unwrap();
    String::from_utf8(output).unwrap()
}

#[tokio::test]
async fn query_of_which_enough_is_shown_is_cancelled() {
    // More than a connection buffers: the server could not have sent it all.
    let (mut client, actions, _server) = connect(1_000_000).await;
    let text = show_text(&mut client, Some(150)).await;
    // Three rules and the header, then the rows and their count.
    assert_eq!(text.lines().count(), 4 + 150 + 1);
    assert!(text.contains("(first 150 rows; "), "{text}");
    assert_eq!(*actions.lock().unwrap(), ["CancelFlightInfo"]);
}

#[tokio::test]
async fn result_that_was_read_is_not_cancelled() {
    let (mut client, actions, _server) = connect(2).await;
    for limit in [None, Some(200), Some(1000)] {
        let text = show_text(&mut client, limit).await;
        assert!(text.ends_with("+\n(200 rows)\n"), "{limit:?}: {text}");
    }
    assert_eq!(*actions.lock().unwrap(), Vec::<String>::new());
}

/// A pager that the user has left.
struct Left;

impl Write for Left {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn query_whose_reader_is_gone_is_cancelled() {
    let (mut client, actions, _server) = connect(1_000_000).await;
    let error = show(&mut client, "SELECT n", at_most(None), Left).await.unwrap_err();
    assert!(error.is_reader_gone(), "{error}");
    assert_eq!(*actions.lock().unwrap(), ["CancelFlightInfo"]);
}
