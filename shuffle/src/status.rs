//! Failures in the data plane: a gRPC status for any client, with the whole [`Failure`] in its details.

use prost::Message;
use squadron_proto::{Failure, FailureKind, wire};
use tonic::Status;

/// The status of `failure`, with the failure in its details.
pub(crate) fn to_status(failure: &Failure) -> Status {
    let details = wire::control::Failure::from(failure.clone()).encode_to_vec();
    Status::with_details(failure.kind.grpc_code(), &failure.message, details.into())
}

/// Why a fetch from `address` failed. A failure of the producer's work keeps its kind; rows that are not there any more are
/// ShuffleLost; if no process of ours has answered, it is WorkerLost.
pub(crate) fn from_status(status: &Status, address: &str) -> Failure {
    let sent = (!status.details().is_empty())
        .then(|| wire::control::Failure::decode(status.details()).ok())
        .flatten()
        .map(Failure::from);
    match sent {
        Some(failure) if is_producer_failure(failure.kind) => failure,
        Some(failure) => shuffle_lost(address, &failure.message).of_outputs(failure.lost),
        None => unreachable(address, status.message()),
    }
}

/// WorkerLost, naming the address.
pub(crate) fn unreachable(address: &str, reason: &str) -> Failure {
    Failure::new(
        FailureKind::WorkerLost,
        format!("cannot reach the worker {address} for its rows: {reason}"),
    )
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
        | FailureKind::DiskFull
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
    fn lost_rows_and_lost_workers_differ() {
        let released = Failure::new(FailureKind::ShuffleLost, "it was released");
        for (status, kind) in [
            (Status::unavailable("connection refused"), FailureKind::WorkerLost),
            (to_status(&released), FailureKind::ShuffleLost),
        ] {
            let failure = from_status(&status, "http://a:1");
            assert_eq!(failure.kind, kind);
            assert!(failure.message.contains("http://a:1"), "{failure}");
        }
    }
}
