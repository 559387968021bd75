//! Failures in the data plane: a gRPC status for any client, with the whole [`Failure`] in its details.

use prost::Message;
use squadron_proto::{Failure, FailureKind, wire};
use tonic::Status;

/// The status of `failure`, with the failure in its details.
pub(crate) fn to_status(failure: &Failure) -> Status {
    let details = wire::control::Failure::from(failure.clone()).encode_to_vec();
    Status::with_details(failure.kind.grpc_code(), &failure.message, details.into())
}

/// Why a fetch from `address` failed. A failure of the producer's work keeps its kind; a failure to reach its rows is
/// ShuffleLost.
pub(crate) fn from_status(status: &Status, address: &str) -> Failure {
    let sent = (!status.details().is_empty())
        .then(|| wire::control::Failure::decode(status.details()).ok())
        .flatten()
        .map(Failure::from);
    match sent {
        Some(failure) if is_producer_failure(failure.kind) => failure,
        sent => {
            let reason = sent.map_or_else(|| status.message().to_string(), |failure| failure.message);
            shuffle_lost(address, &reason)
        }
    }
}

/// ShuffleLost, naming the address.
pub(crate) fn shuffle_lost(address: &str, reason: &str) -> Failure {
    Failure::new(
        FailureKind::ShuffleLost,
        format!("cannot fetch rows from {address}: {reason}"),
    )
}

fn is_producer_failure(kind: FailureKind) -> bool {
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
    fn row_failure_arrives_unchanged() {
        let failure = Failure::new(FailureKind::Exhausted, "no memory");
        assert_eq!(from_status(&to_status(&failure), "http://a:1"), failure);
    }

    #[test]
    fn other_failures_become_shuffle_lost() {
        let released = Failure::new(FailureKind::ShuffleLost, "it was released");
        for status in [Status::unavailable("connection refused"), to_status(&released)] {
            let failure = from_status(&status, "http://a:1");
            assert_eq!(failure.kind, FailureKind::ShuffleLost);
            assert!(failure.message.contains("http://a:1"), "{failure}");
        }
    }
}
