//! The session messages of `Flight.proto`, field by field, since arrow-flight 59 does not have them.

use std::collections::HashMap;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OptionValue {
    #[prost(oneof = "Value", tags = "1, 2, 3, 4, 5")]
    pub(crate) value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(sfixed64, tag = "3")]
    Integer(i64),
    #[prost(double, tag = "4")]
    Real(f64),
    #[prost(message, tag = "5")]
    List(Texts),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Texts {
    #[prost(string, repeated, tag = "1")]
    pub(crate) values: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetOptions {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) session_options: HashMap<String, OptionValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetResult {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) errors: HashMap<String, SetError>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetError {
    #[prost(int32, tag = "1")]
    pub(crate) value: i32,
}

/// `SetSessionOptionsResult.ErrorValue`
pub(crate) const INVALID_NAME: i32 = 1;
/// `SetSessionOptionsResult.ErrorValue`
pub(crate) const INVALID_VALUE: i32 = 2;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Options {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) session_options: HashMap<String, OptionValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Closed {
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
}

/// `CloseSessionResult.Status`
pub(crate) const CLOSED: i32 = 1;

/// The newer form of the message in `FlightSql.proto`: arrow-flight's does not know `is_update`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PreparedResult {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) prepared_statement_handle: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) dataset_schema: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) parameter_schema: Vec<u8>,
    #[prost(bool, optional, tag = "4")]
    pub(crate) is_update: Option<bool>,
}

/// An option with a text.
pub(crate) fn text(value: &str) -> OptionValue {
    OptionValue {
        value: Some(Value::Text(value.into())),
    }
}
