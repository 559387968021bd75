//! Flight SQL commands on the wire: read from descriptors and tickets, packed into them, refused where they are not
//! served.

use arrow_flight::FlightDescriptor;
use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::sql::{Any, Command, ProstMessageExt};
use bytes::Bytes;
use prost::Message;
use squadron_proto::Failure;

use super::status::{invalid, unsupported};

/// Whether a descriptor names a table by its path, instead of holding a command.
pub(super) fn is_path(descriptor: &FlightDescriptor) -> bool {
    descriptor.r#type() == DescriptorType::Path
}

/// The Flight SQL command of a descriptor.
pub(super) fn read(descriptor: &FlightDescriptor) -> Result<Command, Failure> {
    if descriptor.cmd.is_empty() {
        return Err(invalid(
            "the descriptor has neither a command nor a path; send a Flight SQL command, or the path of a table",
        ));
    }
    decode(&descriptor.cmd)
}

/// The Flight SQL command in the bytes of a descriptor or a ticket.
pub(super) fn decode(bytes: &[u8]) -> Result<Command, Failure> {
    let any =
        Any::decode(bytes).map_err(|error| invalid(format!("the command is not a Flight SQL message: {error}")))?;
    Command::try_from(any).map_err(|error| invalid(format!("the command cannot be read: {error}")))
}

/// Packs a Flight SQL message into the envelope that descriptors and tickets carry.
pub(super) fn pack(message: &impl ProstMessageExt) -> Bytes {
    message.as_any().encode_to_vec().into()
}

/// A failure for a command that this method does not answer.
pub(super) fn not_served(rpc: &str, command: &Command) -> Failure {
    let name = command.type_url().rsplit(['.', '/']).next();
    let name: String = name.unwrap_or_default().chars().take(100).collect();
    let why = match command {
        Command::CommandStatementIngest(_) => {
            "bulk ingestion is not supported yet; CREATE EXTERNAL TABLE makes a table of files"
        }
        Command::CommandStatementUpdate(_) | Command::CommandPreparedStatementUpdate(_) => {
            "updates are sent with DoPut"
        }
        _ => "it is not a command for this method",
    };
    unsupported(&format!("{name} is not served by {rpc}: {why}"))
}
