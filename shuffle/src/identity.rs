//! Which worker answers at an address: asked by the server before it counts a worker that says it can be fetched from
//! there.
//!
//! ```text
//! server ── Handshake(QUESTION) ──> the address that a worker advertises
//!        <──── id of the worker ──── (nothing: no worker, or one of another release)
//! ```

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{HandshakeRequest, HandshakeResponse};
use futures::stream;
use squadron_proto::WorkerId;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::net::tls;

/// The payload of the question; drivers that shake hands send others.
const QUESTION: &[u8] = b"squadron: which worker is this?";

/// The answer of `worker` to a Handshake: its id to the question, nothing to drivers.
pub(crate) async fn answer(
    mut requests: Streaming<HandshakeRequest>,
    worker: Option<WorkerId>,
) -> Result<HandshakeResponse, Status> {
    let is_asked = requests
        .message()
        .await?
        .is_some_and(|request| request.payload == QUESTION);
    let payload = worker.filter(|_| is_asked).map(WorkerId::to_bytes);
    Ok(HandshakeResponse {
        payload: payload.unwrap_or_default(),
        ..HandshakeResponse::default()
    })
}

/// Asks over a connection of its own, which ends with the answer. None: what answers is no worker.
pub(crate) async fn ask(endpoint: Endpoint) -> Result<Option<WorkerId>, String> {
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| tls::connection_failure(&error))?;
    ask_over(channel).await.map_err(|status| status.message().to_owned())
}

async fn ask_over(channel: Channel) -> Result<Option<WorkerId>, Status> {
    let question = HandshakeRequest {
        payload: QUESTION.into(),
        ..HandshakeRequest::default()
    };
    let answers = FlightServiceClient::new(channel)
        .handshake(stream::iter([question]))
        .await?;
    let answer = answers.into_inner().message().await?;
    Ok(answer.and_then(|answer| WorkerId::from_bytes(&answer.payload).ok()))
}
