//! Parts of a FlightInfo that statements, endpoints and metadata share.

use arrow::datatypes::Schema;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket};
use bytes::Bytes;
use prost::Message;
use squadron_proto::Failure;

/// The longest command that FlightInfo repeats: with a longer one it may be more than the 4 MiB that many clients read.
const MAX_ECHO_BYTES: usize = 2 * 1024 * 1024 + 64 * 1024;

/// A FlightInfo with one endpoint on this connection, for metadata: its ticket may be presented any number of times.
pub(super) fn with_ticket(
    schema: &Schema,
    ticket: Ticket,
    descriptor: FlightDescriptor,
) -> Result<FlightInfo, Failure> {
    let mut info = FlightInfo::new().with_endpoint(FlightEndpoint::new().with_ticket(ticket));
    info.flight_descriptor = Some(echo(descriptor));
    info.schema = encapsulate(schema)?;
    Ok(info)
}

/// The descriptor, where it is short enough to be repeated; else one that says so, since some clients refuse a FlightInfo
/// without any.
pub(super) fn echo(descriptor: FlightDescriptor) -> FlightDescriptor {
    match descriptor.encoded_len() <= MAX_ECHO_BYTES {
        true => descriptor,
        false => FlightDescriptor::new_path(vec!["a command too long to be repeated".to_owned()]),
    }
}

/// Encodes a schema as an encapsulated IPC message.
pub(super) fn encapsulate(schema: &Schema) -> Result<Bytes, Failure> {
    let options = IpcWriteOptions::default();
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &options)
        .try_into()
        .map_err(|error| Failure::internal(format!("schema {schema}: {error}")))?;
    Ok(bytes)
}
