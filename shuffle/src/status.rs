//! Failures on their way through the data plane: a gRPC status for whoever looks, the whole [`Failure`] in its details.

use prost::Message;
use squadron_proto::{Failure, FailureKind, wire};
use tonic::{Code, Status};

/// For the wire.
pub(crate) fn to_status(failure: &Failure) -> Status {
    let code = match failure.kind {
        FailureKind::Invalid => Code::InvalidArgument,
        FailureKind::NotFound => Code::NotFound,
        FailureKind::Unsupported => Code::Unimplemented,
        FailureKind::Unauthenticated => Code::Unauthenticated,
        FailureKind::Denied => Code::PermissionDenied,
        FailureKind::Exhausted => Code::ResourceExhausted,
        FailureKind::Cancelled => Code::Cancelled,
        FailureKind::Deadline => Code::DeadlineExceeded,
        FailureKind::WorkerLost
        | FailureKind::ShuffleLost
        | FailureKind::Draining
        | FailureKind::Busy
        | FailureKind::Storage => Code::Unavailable,
        FailureKind::Internal => Code::Internal,
    };
    let details = wire::control::Failure::from(failure.clone()).encode_to_vec();
    Status::with_details(code, &failure.message, details.into())
}

/// What a fetch from `address` failed of. A failure of the rows themselves keeps its kind; everything between here and
/// the rows is ShuffleLost.
pub(crate) fn from_status(status: &Status, address: &str) -> Failure {
    let told = (!status.details().is_empty())
        .then(|| wire::control::Failure::decode(status.details()).ok())
        .flatten()
        .map(Failure::from);
    match told {
        Some(failure) if is_of_rows(failure.kind) => failure,
        told => {
            let reason = told.map_or_else(|| status.message().to_string(), |told| told.message);
            lost(address, &reason)
        }
    }
}

/// ShuffleLost, naming the address.
pub(crate) fn lost(address: &str, reason: &str) -> Failure {
    Failure::new(
        FailureKind::ShuffleLost,
        format!("cannot fetch rows from {address}: {reason}"),
    )
}

fn is_of_rows(kind: FailureKind) -> bool {
    match kind {
        FailureKind::Invalid
        | FailureKind::Exhausted
        | FailureKind::Cancelled
        | FailureKind::Deadline
        | FailureKind::WorkerLost
        | FailureKind::Storage
        | FailureKind::Internal => true,
        FailureKind::NotFound
        | FailureKind::Unsupported
        | FailureKind::Unauthenticated
        | FailureKind::Denied
        | FailureKind::ShuffleLost
        | FailureKind::Draining
        | FailureKind::Busy => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_rows_arrives_as_it_was() {
        let failure = Failure::new(FailureKind::Exhausted, "no memory");
        assert_eq!(from_status(&to_status(&failure), "http://a:1"), failure);
    }

    #[test]
    fn everything_else_is_shuffle_lost_and_names_the_address() {
        let released = Failure::new(FailureKind::ShuffleLost, "it was released");
        for status in [Status::unavailable("connection refused"), to_status(&released)] {
            let failure = from_status(&status, "http://a:1");
            assert_eq!(failure.kind, FailureKind::ShuffleLost);
            assert!(failure.message.contains("http://a:1"), "{failure}");
        }
    }
}
