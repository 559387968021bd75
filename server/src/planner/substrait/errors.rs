//! The two errors that a plan can get.

use datafusion::error::DataFusionError;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure;

/// An error for a plan that is wrong.
pub(super) fn invalid(message: impl Into<String>) -> DataFusionError {
    failure::into_datafusion(Failure::new(FailureKind::Invalid, message.into()))
}

/// An error for a plan that is right, but uses something that the server does not support.
pub(super) fn unsupported(message: impl Into<String>) -> DataFusionError {
    failure::into_datafusion(Failure::new(FailureKind::Unsupported, message.into()))
}
