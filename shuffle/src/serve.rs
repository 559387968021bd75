//! Serves shuffle output to other processes: Flight DoGet with signed tickets, and nothing else.
//!
//! To other processes of the cluster, with a fetch ticket:
//!
//! ```text
//! schema message
//! messages of batches, app_metadata = FetchTag { output, partition }    (partitions take turns)
//! FetchTag { output, partition, end_of_partition }                      once for each output and partition
//! ```
//!
//! A stream that ends without the end of every partition was cut off.
//!
//! To a client, with the ticket of an endpoint: a plain Flight stream, the same as the server's. The ticket alone
//! authorises a client: its credentials are ignored, and every Handshake succeeds, since drivers shake hands before
//! they fetch.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use arrow::datatypes::SchemaRef;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use prost::Message;
use squadron_proto::ticket::{ClusterKey, Fetch, Subject, TicketError};
use squadron_proto::wire::ticket::FetchTag;
use squadron_proto::{Failure, FailureKind, WorkerId};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tower::layer::util::{Identity, Stack};

use crate::encode::{self, Frames, MAX_MESSAGE_BYTES, Piece};
use crate::identity;
use crate::net::listen;
use crate::status::to_status;
use crate::store::{PartitionReader, Store};

/// The largest request: a ticket that names every output of a stage. It is read before its signature is.
const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;
/// A peer that does not answer a ping for this long is disconnected.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(8);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// The server builder of [`http2`], which refuses peers that do not encrypt where they must.
pub type Http2 = Server<Stack<InterceptorLayer<Check>, Identity>>;
type Check = fn(Request<()>) -> Result<Request<()>, Status>;

/// A server builder with the HTTP/2 settings of the data plane, for the connections of [`listen`]. The number of
/// streams is not limited: streams wait for their readers by design, and a limit would let waiting streams block the
/// one that would free them.
pub fn http2() -> Http2 {
    let check: Check = listen::refuse_plaintext;
    Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(u32::MAX)
        .layer(InterceptorLayer::new(check))
}

/// The Flight service of a process's shuffle output.
#[derive(Clone)]
pub struct DataService {
    /// None before the process has joined a server.
    rows: Option<Rows>,
    worker: Option<WorkerId>,
}

#[derive(Clone)]
struct Rows {
    store: Store,
    key: ClusterKey,
}

impl DataService {
    /// Serves the outputs of `store` to callers with a ticket signed with `key`.
    pub fn new(store: Store, key: ClusterKey) -> Self {
        Self {
            rows: Some(Rows { store, key }),
            worker: None,
        }
    }

    /// Serves nothing yet but the answer to [`crate::Fetcher::identify`].
    pub fn of_joining_worker(worker: WorkerId) -> Self {
        Self {
            rows: None,
            worker: Some(worker),
        }
    }

    /// Says that it is this worker when it is asked.
    #[must_use]
    pub fn with_identity(self, worker: WorkerId) -> Self {
        Self {
            worker: Some(worker),
            ..self
        }
    }

    /// For a tonic server; see also [`http2`].
    pub fn into_server(self) -> FlightServiceServer<Self> {
        FlightServiceServer::new(self)
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            // The encoder refuses larger rows with a better message.
            .max_encoding_message_size(2 * MAX_MESSAGE_BYTES)
    }

    fn open(&self, ticket: &Ticket) -> Result<FrameStream, Failure> {
        match &self.rows {
            Some(rows) => rows.open(ticket),
            None => Err(Failure::new(
                FailureKind::ShuffleLost,
                "this worker has not joined its server yet",
            )),
        }
    }
}

impl Rows {
    /// The rows that a ticket entitles to; its signature is checked before its fields.
    fn open(&self, ticket: &Ticket) -> Result<FrameStream, Failure> {
        let subject = self.key.open(&ticket.ticket, SystemTime::now());
        match subject {
            Ok(Subject::Fetch(fetch)) => self.read_tagged(&fetch).map(StreamExt::boxed),
            Ok(Subject::Endpoint(rows)) => self.read_plain(&rows),
            Ok(Subject::Result(_) | Subject::Poll(_)) => Err(Failure::new(
                FailureKind::Invalid,
                "this ticket is for the server; present it where it was issued",
            )),
            Err(error @ TicketError::Foreign) => Err(Failure::new(FailureKind::Unauthenticated, error.to_string())),
            Err(error @ TicketError::Expired) => Err(Failure::new(FailureKind::NotFound, error.to_string())),
        }
    }

    /// The rows of a fetch, each batch with its tag.
    fn read_tagged(&self, fetch: &Fetch) -> Result<Frames, Failure> {
        let schema = self.schema(fetch)?;
        let mut partitions = BTreeMap::<u32, Vec<Part>>::new();
        for (index, output) in (0..).zip(&fetch.outputs) {
            let key = fetch.key(output);
            for number in &output.partitions {
                let reader = self.store.read(key, *number)?;
                let part = Part {
                    output: index,
                    partition: *number,
                    reader,
                };
                partitions.entry(*number).or_default().push(part);
            }
        }
        // One stream per partition, its outputs in turn; the partitions take turns, so that readers of all proceed.
        let streams = partitions
            .into_values()
            .map(|parts| stream::iter(parts).flat_map(Part::pieces).boxed());
        Ok(Frames::new(&schema, stream::select_all(streams)))
    }

    /// The rows of an endpoint, partition after partition.
    fn read_plain(&self, rows: &Fetch) -> Result<FrameStream, Failure> {
        let gone = |failure: Failure| match failure.kind {
            FailureKind::ShuffleLost => Failure::new(
                FailureKind::NotFound,
                "the rows are not here any more: their time is over, the query was cancelled or failed, or the worker \
                 was started anew; run the statement again",
            ),
            _ => failure,
        };
        let schema = self.schema(rows).map_err(gone)?;
        let mut readers = Vec::new();
        for output in &rows.outputs {
            let key = rows.key(output);
            for partition in &output.partitions {
                readers.push(self.store.read(key, *partition).map_err(gone)?);
            }
        }
        let batches = stream::iter(readers).flatten().map(move |batch| batch.map_err(gone));
        Ok(encode::frames(schema, batches).boxed())
    }

    /// The schema of the first output; all outputs of a stage have the same.
    fn schema(&self, fetch: &Fetch) -> Result<SchemaRef, Failure> {
        let output = fetch
            .outputs
            .first()
            .ok_or_else(|| Failure::new(FailureKind::Invalid, "the ticket names no output to fetch"))?;
        let key = fetch.key(output);
        self.store.schema(key).ok_or_else(|| {
            let message = format!("output {key} is not here; it was released or lost");
            Failure::new(FailureKind::ShuffleLost, message).of_outputs(vec![key])
        })
    }
}

/// One partition of one output.
struct Part {
    output: u32,
    partition: u32,
    reader: PartitionReader,
}

impl Part {
    /// The batches of the part, then its end unless a batch failed.
    fn pieces(self) -> BoxStream<'static, Result<Piece, Failure>> {
        let tag = |end_of_partition| {
            let tag = FetchTag {
                output: self.output,
                partition: self.partition,
                end_of_partition,
            };
            Bytes::from(tag.encode_to_vec())
        };
        let rows = tag(false);
        let end = Piece {
            tag: tag(true),
            batch: None,
        };
        self.reader
            .map_ok(move |batch| Piece {
                tag: rows.clone(),
                batch: Some(batch),
            })
            .chain(stream::once(async { Ok(end) }))
            .boxed()
    }
}

/// The messages of one DoGet.
type FrameStream = BoxStream<'static, Result<FlightData, Failure>>;
type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = BoxStream<'static, Result<T, Status>>;

fn refuse_method<T>(method: &str) -> Answer<T> {
    Err(Status::unimplemented(format!(
        "{method} is not a method of the data plane; connect to the server's --listen address"
    )))
}

#[tonic::async_trait]
impl FlightService for DataService {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoExchangeStream = Answers<FlightData>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;

    async fn do_get(&self, request: Request<Ticket>) -> Answer<Self::DoGetStream> {
        let frames = self.open(request.get_ref()).map_err(|failure| to_status(&failure))?;
        let frames = frames.map_err(|failure| to_status(&failure));
        Ok(Response::new(frames.boxed()))
    }

    async fn handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        let welcome = identity::answer(request.into_inner(), self.worker);
        let mut answer = Response::new(stream::once(welcome).boxed());
        // Drivers that log in expect a token back.
        answer.metadata_mut().insert(
            "authorization",
            AsciiMetadataValue::from_static("Bearer the-ticket-is-what-counts"),
        );
        Ok(answer)
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        refuse_method("ListFlights")
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        refuse_method("GetFlightInfo")
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        refuse_method("PollFlightInfo")
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        refuse_method("GetSchema")
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        refuse_method("DoPut")
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        refuse_method("DoExchange")
    }

    async fn do_action(&self, _: Request<Action>) -> Answer<Self::DoActionStream> {
        refuse_method("DoAction")
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        refuse_method("ListActions")
    }
}
