//! The messages of Flight and Flight SQL that arrow-flight 59 does not have, written by hand from the two .proto files
//! of the Arrow project (`format/Flight.proto`, `format/FlightSql.proto`).

use std::collections::HashMap;

use arrow_flight::sql::Any;
use bytes::Bytes;
use prost::Message;

/// `arrow.flight.protocol.sql.ActionCreatePreparedStatementResult`, with the field that tells whether the client runs
/// the statement with DoPut.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CreatePreparedStatementResult {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) prepared_statement_handle: Bytes,
    /// Encapsulated IPC; empty for a statement without rows, which older JDBC drivers treat as an update.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) dataset_schema: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) parameter_schema: Bytes,
    #[prost(bool, optional, tag = "4")]
    pub(super) is_update: Option<bool>,
}

impl CreatePreparedStatementResult {
    /// The body of the action's result.
    pub(super) fn into_any(self) -> Any {
        Any {
            type_url: "type.googleapis.com/arrow.flight.protocol.sql.ActionCreatePreparedStatementResult".into(),
            value: self.encode_to_vec().into(),
        }
    }
}

/// `arrow.flight.protocol.SessionOptionValue`
#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionOptionValue {
    /// Absent to unset the option.
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub(super) value: Option<OptionValue>,
}

/// `arrow.flight.protocol.SessionOptionValue.option_value`
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum OptionValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(sfixed64, tag = "3")]
    Integer(i64),
    #[prost(double, tag = "4")]
    Real(f64),
    #[prost(message, tag = "5")]
    List(StringList),
}

/// `arrow.flight.protocol.SessionOptionValue.StringListValue`
#[derive(Clone, PartialEq, Message)]
pub(super) struct StringList {
    #[prost(string, repeated, tag = "1")]
    pub(super) values: Vec<String>,
}

/// `arrow.flight.protocol.SetSessionOptionsRequest`
#[derive(Clone, PartialEq, Message)]
pub(super) struct SetSessionOptionsRequest {
    #[prost(map = "string, message", tag = "1")]
    pub(super) session_options: HashMap<String, SessionOptionValue>,
}

/// `arrow.flight.protocol.SetSessionOptionsResult`
#[derive(Clone, PartialEq, Message)]
pub(super) struct SetSessionOptionsResult {
    /// The options that were not set; empty when all were.
    #[prost(map = "string, message", tag = "1")]
    pub(super) errors: HashMap<String, SetSessionOptionError>,
}

/// `arrow.flight.protocol.SetSessionOptionsResult.Error`
#[derive(Clone, PartialEq, Message)]
pub(super) struct SetSessionOptionError {
    #[prost(enumeration = "SetSessionOptionErrorKind", tag = "1")]
    pub(super) value: i32,
}

/// `arrow.flight.protocol.SetSessionOptionsResult.ErrorValue`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum SetSessionOptionErrorKind {
    Unspecified = 0,
    InvalidName = 1,
    InvalidValue = 2,
    Error = 3,
}

/// `arrow.flight.protocol.GetSessionOptionsRequest`
#[derive(Clone, PartialEq, Message)]
pub(super) struct GetSessionOptionsRequest {}

/// `arrow.flight.protocol.GetSessionOptionsResult`
#[derive(Clone, PartialEq, Message)]
pub(super) struct GetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub(super) session_options: HashMap<String, SessionOptionValue>,
}

/// `arrow.flight.protocol.CloseSessionRequest`
#[derive(Clone, PartialEq, Message)]
pub(super) struct CloseSessionRequest {}

/// `arrow.flight.protocol.CloseSessionResult`
#[derive(Clone, PartialEq, Message)]
pub(super) struct CloseSessionResult {
    #[prost(enumeration = "CloseSessionStatus", tag = "1")]
    pub(super) status: i32,
}

/// `arrow.flight.protocol.CloseSessionResult.Status`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum CloseSessionStatus {
    Unspecified = 0,
    Closed = 1,
    Closing = 2,
    NotCloseable = 3,
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::ActionCreatePreparedStatementResult;

    use super::*;

    #[test]
    fn older_client_ignores_is_update() {
        let ours = CreatePreparedStatementResult {
            prepared_statement_handle: Bytes::from_static(b"h"),
            dataset_schema: Bytes::from_static(b"d"),
            parameter_schema: Bytes::from_static(b"p"),
            is_update: Some(false),
        };
        let theirs: ActionCreatePreparedStatementResult = ours.into_any().unpack().unwrap().unwrap();
        assert_eq!(theirs.prepared_statement_handle, "h");
        assert_eq!(theirs.dataset_schema, "d");
        assert_eq!(theirs.parameter_schema, "p");
    }

    /// The bytes as protoc's encoder writes them: a map entry with key "n" and the fixed 64-bit integer 5.
    #[test]
    fn integer_option_matches_proto_encoding() {
        let wire = [0x0a, 14, 0x0a, 1, b'n', 0x12, 9, 0x19, 5, 0, 0, 0, 0, 0, 0, 0];
        let request = SetSessionOptionsRequest::decode(wire.as_slice()).unwrap();
        assert_eq!(request.session_options["n"].value, Some(OptionValue::Integer(5)));
    }
}
