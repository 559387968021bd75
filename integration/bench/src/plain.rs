//! The plain Flight server that `stream` compares Squadron with: it sends batches from memory, encoded by
//! arrow-flight's own encoder, and knows no SQL. It runs as a separate process, as `squadron` does.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::FileReader;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use clap::Args;
use futures::{Stream, TryStreamExt, stream};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::{Error, Result, Verdict};

/// The beginning of the ready line; the address follows.
pub(super) const READY: &str = "plain flight on ";

/// `squadron-bench plain`.
#[derive(Args, Debug)]
pub(super) struct PlainArgs {
    /// A folder of Arrow IPC files.
    folder: PathBuf,
}

/// Serves until standard input closes.
pub(super) async fn run(args: &PlainArgs) -> Result<Verdict> {
    let plain = Plain::load(&args.folder)?;
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    println!("{READY}grpc://{}", listener.local_addr()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let end_of_input = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let closed = async { drop(end_of_input.await) };
    Server::builder()
        .add_service(FlightServiceServer::new(plain))
        .serve_with_incoming_shutdown(incoming, closed)
        .await?;
    Ok(Verdict::Good)
}

/// Batches in memory, the same for every ticket.
struct Plain {
    schema: SchemaRef,
    batches: Arc<Vec<RecordBatch>>,
}

impl Plain {
    fn load(folder: &PathBuf) -> Result<Self> {
        let mut files: Vec<_> = std::fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()?;
        files.sort();
        let mut batches = Vec::new();
        for file in files {
            for batch in FileReader::try_new_buffered(File::open(file)?, None)? {
                batches.push(batch?);
            }
        }
        let first = batches
            .first()
            .ok_or_else(|| Error::from(format!("{} holds no batches", folder.display())))?;
        Ok(Self {
            schema: first.schema(),
            batches: Arc::new(batches),
        })
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

fn refuse<T>() -> std::result::Result<Response<T>, Status> {
    Err(Status::unimplemented("this server only answers DoGet"))
}

#[tonic::async_trait]
impl FlightService for Plain {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    async fn do_get(&self, _: Request<Ticket>) -> std::result::Result<Response<Self::DoGetStream>, Status> {
        let batches = Arc::clone(&self.batches);
        let batches = (0..batches.len()).map(move |index| Ok(batches[index].clone()));
        let frames = FlightDataEncoderBuilder::new()
            .with_schema(Arc::clone(&self.schema))
            .build(stream::iter(batches))
            .map_err(Status::from);
        Ok(Response::new(Box::pin(frames)))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> std::result::Result<Response<Self::HandshakeStream>, Status> {
        refuse()
    }

    async fn list_flights(
        &self,
        _: Request<Criteria>,
    ) -> std::result::Result<Response<Self::ListFlightsStream>, Status> {
        refuse()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> std::result::Result<Response<FlightInfo>, Status> {
        refuse()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> std::result::Result<Response<PollInfo>, Status> {
        refuse()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> std::result::Result<Response<SchemaResult>, Status> {
        refuse()
    }

    async fn do_put(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> std::result::Result<Response<Self::DoPutStream>, Status> {
        refuse()
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> std::result::Result<Response<Self::DoExchangeStream>, Status> {
        refuse()
    }

    async fn do_action(&self, _: Request<Action>) -> std::result::Result<Response<Self::DoActionStream>, Status> {
        refuse()
    }

    async fn list_actions(&self, _: Request<Empty>) -> std::result::Result<Response<Self::ListActionsStream>, Status> {
        refuse()
    }
}
