//! The client side of a measurement: arrow-flight's own Flight SQL client.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::util::pretty::pretty_format_batches;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{FlightDescriptor, FlightInfo};
use futures::StreamExt;
use prost::Message;
use squadron_integration::client::{self, Rows};
use tonic::Status;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::{Error, Result};

/// A single row may be this large.
const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// A connection that runs SQL.
pub(super) type Connection = FlightSqlServiceClient<Channel>;

/// Connects to `grpc://HOST:PORT`, or any other form that `squadron sql --server` takes.
pub(super) async fn connect(url: &str) -> Result<Connection> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("grpc", url));
    let tls = matches!(scheme, "grpc+tls" | "https");
    let uri = format!("{}://{rest}", if tls { "https" } else { "http" });
    let mut endpoint = Endpoint::from_shared(uri)?.tcp_nodelay(true);
    if tls {
        endpoint = endpoint.tls_config(ClientTlsConfig::new().with_enabled_roots())?;
    }
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| format!("no connection to {url}: {error}"))?;
    let flight = FlightServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Ok(FlightSqlServiceClient::new_from_inner(flight))
}

/// Connects to a session of its own in which `options`, each NAME=VALUE, are set.
pub(super) async fn connect_with(url: &str, options: &[String]) -> Result<Connection> {
    let mut connection = connect(url).await?;
    let statement = CommandStatementQuery {
        query: "SELECT 1".to_owned(),
        transaction_id: None,
    };
    let descriptor = FlightDescriptor::new_cmd(statement.as_any().encode_to_vec());
    let answer = connection.inner_mut().get_flight_info(descriptor).await?;
    let cookie = answer
        .metadata()
        .get("set-cookie")
        .ok_or("the server opened no session")?;
    let cookie = cookie.to_str()?.split(';').next().unwrap_or_default().to_owned();
    connection.set_header("cookie", cookie);
    for option in options {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("--set {option}: NAME=VALUE is expected"))?;
        query(&mut connection, &format!("SET {name} = '{value}'")).await?;
    }
    Ok(connection)
}

/// Starts `sql`; its rows are read with [`for_each_batch`] or [`streams`].
pub(super) async fn start(connection: &mut Connection, sql: &str) -> Result<FlightInfo> {
    connection.execute(sql.to_owned(), None).await.map_err(to_error)
}

/// Runs `sql` and reads all of its rows.
pub(super) async fn query(connection: &mut Connection, sql: &str) -> Result<Rows> {
    let info = start(connection, sql).await?;
    let mut schema = Arc::new(info.clone().try_decode_schema()?);
    let mut batches = Vec::new();
    for mut stream in streams(connection, info).await? {
        while let Some(batch) = stream.next().await {
            batches.push(batch.map_err(to_error)?);
        }
        schema = stream.schema().cloned().unwrap_or(schema);
    }
    Ok((schema, batches))
}

/// Runs `sql`, whose answer is one whole number.
pub(super) async fn number(connection: &mut Connection, sql: &str) -> Result<u64> {
    let (_, batches) = query(connection, sql).await?;
    let column = batches.first().ok_or("no row")?.column(0);
    let number = column.as_primitive_opt::<Int64Type>().ok_or("no number")?.value(0);
    Ok(u64::try_from(number)?)
}

/// Reads a started query to its end and gives each batch to `take`.
pub(super) async fn for_each_batch(
    connection: &mut Connection,
    info: FlightInfo,
    mut take: impl FnMut(RecordBatch),
) -> Result<()> {
    for mut stream in streams(connection, info).await? {
        while let Some(batch) = stream.next().await {
            take(batch.map_err(to_error)?);
        }
    }
    Ok(())
}

/// Opens the streams of a started query, one for each endpoint.
pub(super) async fn streams(connection: &mut Connection, info: FlightInfo) -> Result<Vec<FlightRecordBatchStream>> {
    let mut streams = Vec::with_capacity(info.endpoint.len());
    for ticket in info.endpoint.into_iter().filter_map(|endpoint| endpoint.ticket) {
        streams.push(connection.do_get(ticket).await.map_err(to_error)?);
    }
    Ok(streams)
}

/// The message of the server, without the text that the client adds.
pub(super) fn to_error(error: FlightError) -> Error {
    describe(&client::status(error)).into()
}

/// A status as text for the terminal.
pub(super) fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// Runs a statement without rows, such as SET.
pub(super) async fn update(connection: &mut Connection, sql: &str) -> Result<()> {
    let updated = connection.execute_update(sql.to_owned(), None).await;
    updated.map(drop).map_err(to_error)
}

/// Prints the rows of a query, for who looks for the cause of a failure.
pub(super) async fn show(connection: &mut Connection, sql: &str) {
    match query(connection, sql).await {
        Ok((_, rows)) => match pretty_format_batches(&rows) {
            Ok(table) => eprintln!("{table}"),
            Err(error) => eprintln!("{error}"),
        },
        Err(error) => eprintln!("{error}"),
    }
}
