//! The failure of arrow-flight's builders of metadata.

use arrow_flight::error::FlightError;
use squadron_proto::Failure;

use crate::flight::status;

/// The failure for an error of a builder: the only cause in a client's request is an impossible pattern.
pub(super) fn from_builder(error: FlightError) -> Failure {
    status::invalid(format!("the metadata cannot be listed: {error}"))
}
