//! Requests as they go over the wire, and answers as they come.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{Any, ProstMessageExt};
use arrow_flight::{Action, Criteria, Empty, FlightData, FlightDescriptor, HandshakeRequest, SchemaAsIpc, Ticket};
use futures::{StreamExt, TryStreamExt, stream};
use prost::Message;
use squadron_integration::client::Client;
use tokio::time::timeout;
use tonic::{Response, Status, Streaming};

/// How long one call may take; a call that takes longer hangs.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Messages read of one answer.
const MOST_MESSAGES: usize = 1_000;

/// One call.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Handshake(Vec<HandshakeRequest>),
    Flights(Vec<u8>),
    Info(FlightDescriptor),
    Poll(FlightDescriptor),
    Schema(FlightDescriptor),
    Get(Vec<u8>),
    Put(Vec<FlightData>),
    Exchange(Vec<FlightData>),
    /// An action by its name, and its body.
    Action(&'static str, Vec<u8>),
    Actions,
}

/// All messages of an answer, still encoded.
pub(super) type Answer = Vec<Vec<u8>>;

tokio::task_local! {
    /// The bearer token of all calls of a future.
    static TOKEN: &'static str;
}

/// Runs `work`, whose calls all carry this token.
pub(super) async fn speaking_as<T>(token: &'static str, work: impl Future<Output = T>) -> T {
    TOKEN.scope(token, work).await
}

/// A message with the token of whoever speaks.
fn signed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Ok(token) = TOKEN.try_get() {
        let header = format!("Bearer {token}");
        let header = header.parse().expect("a token is printable");
        request.metadata_mut().insert("authorization", header);
    }
    request
}

/// Makes a call and reads its answer to the end.
///
/// # Panics
/// When it hangs.
pub(super) async fn send(client: &Client, request: Request) -> Result<Answer, Status> {
    let shown = format!("{:.300}", format!("{request:?}"));
    let answer = timeout(CALL_LIMIT, answered(client, request)).await;
    answer.unwrap_or_else(|_| panic!("no answer within {CALL_LIMIT:?}: {shown}"))
}

async fn answered(client: &Client, request: Request) -> Result<Answer, Status> {
    let mut flight = client.flight();
    match request {
        Request::Handshake(greetings) => all(flight.handshake(signed(stream::iter(greetings))).await).await,
        Request::Flights(expression) => {
            let expression = expression.into();
            all(flight.list_flights(signed(Criteria { expression })).await).await
        }
        Request::Info(descriptor) => one(flight.get_flight_info(signed(descriptor)).await),
        Request::Poll(descriptor) => one(flight.poll_flight_info(signed(descriptor)).await),
        Request::Schema(descriptor) => one(flight.get_schema(signed(descriptor)).await),
        Request::Get(ticket) => all(flight.do_get(signed(Ticket::new(ticket))).await).await,
        Request::Put(messages) => all(flight.do_put(signed(stream::iter(messages))).await).await,
        Request::Exchange(messages) => all(flight.do_exchange(signed(stream::iter(messages))).await).await,
        Request::Action(name, body) => all(flight.do_action(signed(action(name, body))).await).await,
        Request::Actions => all(flight.list_actions(signed(Empty {})).await).await,
    }
}

fn action(name: &str, body: Vec<u8>) -> Action {
    Action {
        r#type: name.into(),
        body: body.into(),
    }
}

fn one<T: Message>(answer: Result<Response<T>, Status>) -> Result<Answer, Status> {
    Ok(vec![answer?.into_inner().encode_to_vec()])
}

async fn all<T: Message>(answer: Result<Response<Streaming<T>>, Status>) -> Result<Answer, Status> {
    let messages = answer?.into_inner().take(MOST_MESSAGES);
    messages.map_ok(|message| message.encode_to_vec()).try_collect().await
}

/// The one message of an answer.
///
/// # Panics
/// When there are none or several, or it is something else.
pub(super) fn only<T: Message + Default>(answer: &Answer) -> T {
    let [message] = answer.as_slice() else {
        panic!("{} messages instead of one", answer.len());
    };
    T::decode(message.as_slice()).expect("an answer is a message of its RPC")
}

/// What an action with one result answers, decoded and not wrapped.
pub(super) async fn act<T: Message + Default>(client: &Client, name: &'static str, body: Vec<u8>) -> Result<T, Status> {
    let answer = send(client, Request::Action(name, body)).await?;
    let result: arrow_flight::Result = only(&answer);
    Ok(T::decode(result.body).expect("the result of an action is its message"))
}

/// What an action with one result answers, decoded out of its envelope.
pub(super) async fn act_wrapped<T: ProstMessageExt>(
    client: &Client,
    name: &'static str,
    body: Vec<u8>,
) -> Result<T, Status> {
    let any: Any = act(client, name, body).await?;
    let unpacked = any.unpack().expect("the result of an action is readable");
    Ok(unpacked.unwrap_or_else(|| panic!("{name} answers another message: {}", any.type_url)))
}

/// A Flight SQL message in its envelope.
pub(super) fn packed(message: &impl ProstMessageExt) -> Vec<u8> {
    message.as_any().encode_to_vec()
}

/// Any bytes in the envelope of a Flight SQL message.
pub(super) fn envelope(name: &str, value: Vec<u8>) -> Vec<u8> {
    let type_url = format!("type.googleapis.com/arrow.flight.protocol.sql.{name}");
    let value = value.into();
    Any { type_url, value }.encode_to_vec()
}

/// A descriptor of a Flight SQL message.
pub(super) fn command(message: &impl ProstMessageExt) -> FlightDescriptor {
    FlightDescriptor::new_cmd(packed(message))
}

/// The schema of no columns, as the message that opens an Arrow stream.
pub(super) fn opening(schema: &Schema) -> FlightData {
    SchemaAsIpc::new(schema, &IpcWriteOptions::default()).into()
}

/// A DoPut of a command and an Arrow stream without columns: "run it once".
pub(super) fn put_without_rows(message: &[u8]) -> Vec<FlightData> {
    let descriptor = FlightDescriptor::new_cmd(message.to_vec());
    vec![opening(&Schema::empty()).with_descriptor(descriptor)]
}

/// A DoPut of a command and rows.
pub(super) async fn put_rows(message: &impl ProstMessageExt, rows: RecordBatch) -> Vec<FlightData> {
    let messages = arrow_flight::encode::FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(command(message)))
        .build(stream::iter([Ok::<_, FlightError>(rows)]));
    messages.try_collect().await.expect("a batch can be encoded")
}
