//! Requests and answers as encoded messages.

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

/// Messages that are read of one answer, at most.
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
pub(super) async fn with_token<T>(token: &'static str, work: impl Future<Output = T>) -> T {
    TOKEN.scope(token, work).await
}

/// A request with the token of [`with_token`], if there is one.
fn authorize<T>(message: T) -> tonic::Request<T> {
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
    let answer = timeout(CALL_LIMIT, call(client, request)).await;
    answer.unwrap_or_else(|_| panic!("no answer within {CALL_LIMIT:?}: {shown}"))
}

async fn call(client: &Client, request: Request) -> Result<Answer, Status> {
    let mut flight = client.flight();
    match request {
        Request::Handshake(greetings) => {
            encode_stream(flight.handshake(authorize(stream::iter(greetings))).await).await
        }
        Request::Flights(expression) => {
            let expression = expression.into();
            encode_stream(flight.list_flights(authorize(Criteria { expression })).await).await
        }
        Request::Info(descriptor) => encode_message(flight.get_flight_info(authorize(descriptor)).await),
        Request::Poll(descriptor) => encode_message(flight.poll_flight_info(authorize(descriptor)).await),
        Request::Schema(descriptor) => encode_message(flight.get_schema(authorize(descriptor)).await),
        Request::Get(ticket) => encode_stream(flight.do_get(authorize(Ticket::new(ticket))).await).await,
        Request::Put(messages) => encode_stream(flight.do_put(authorize(stream::iter(messages))).await).await,
        Request::Exchange(messages) => encode_stream(flight.do_exchange(authorize(stream::iter(messages))).await).await,
        Request::Action(name, body) => encode_stream(flight.do_action(authorize(action(name, body))).await).await,
        Request::Actions => encode_stream(flight.list_actions(authorize(Empty {})).await).await,
    }
}

fn action(name: &str, body: Vec<u8>) -> Action {
    Action {
        r#type: name.into(),
        body: body.into(),
    }
}

fn encode_message<T: Message>(answer: Result<Response<T>, Status>) -> Result<Answer, Status> {
    Ok(vec![answer?.into_inner().encode_to_vec()])
}

async fn encode_stream<T: Message>(answer: Result<Response<Streaming<T>>, Status>) -> Result<Answer, Status> {
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

/// Runs an action with one result; decodes the result, which has no envelope.
pub(super) async fn act<T: Message + Default>(client: &Client, name: &'static str, body: Vec<u8>) -> Result<T, Status> {
    let answer = send(client, Request::Action(name, body)).await?;
    let result: arrow_flight::Result = only(&answer);
    Ok(T::decode(result.body).expect("the result of an action is its message"))
}

/// Runs an action with one result; decodes the result out of its envelope.
pub(super) async fn act_wrapped<T: ProstMessageExt>(
    client: &Client,
    name: &'static str,
    body: Vec<u8>,
) -> Result<T, Status> {
    let any: Any = act(client, name, body).await?;
    let unpacked = any.unpack().expect("the result of an action is readable");
    Ok(unpacked.unwrap_or_else(|| panic!("{name} answers another message: {}", any.type_url)))
}

/// Encodes a Flight SQL message in its envelope.
pub(super) fn pack(message: &impl ProstMessageExt) -> Vec<u8> {
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
    FlightDescriptor::new_cmd(pack(message))
}

/// The schema as the first message of an Arrow stream.
pub(super) fn schema_message(schema: &Schema) -> FlightData {
    SchemaAsIpc::new(schema, &IpcWriteOptions::default()).into()
}

/// A DoPut of a command and an Arrow stream without columns, which runs the command once.
pub(super) fn put_without_rows(message: &[u8]) -> Vec<FlightData> {
    let descriptor = FlightDescriptor::new_cmd(message.to_vec());
    vec![schema_message(&Schema::empty()).with_descriptor(descriptor)]
}

/// A DoPut of a command and rows.
pub(super) async fn put_rows(message: &impl ProstMessageExt, rows: RecordBatch) -> Vec<FlightData> {
    let messages = arrow_flight::encode::FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(command(message)))
        .build(stream::iter([Ok::<_, FlightError>(rows)]));
    messages.try_collect().await.expect("a batch can be encoded")
}
