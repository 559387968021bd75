//! The one place where failures become gRPC statuses.
//!
//! `FailedPrecondition`, `OutOfRange` and `Aborted` are never used: ADBC flattens them to an unknown error.

use std::any::Any;

use squadron_proto::{Failure, FailureKind, QueryId};
use tonic::{Code, Status};
use tracing::error;

/// The status a client sees for `failure`, with the query's id where there is one.
///
/// An internal failure shows its query id only; what went wrong is in the log, once.
pub fn status(failure: &Failure, query: Option<QueryId>) -> Status {
    let about = query.map_or(String::new(), |id| format!(" (query {id})"));
    if failure.kind == FailureKind::Internal {
        error!(
            query_id = query.map(tracing::field::display),
            "internal error: {}", failure.message
        );
        return Status::internal(format!(
            "internal error{about}; this is a bug of Squadron, the server's log says more"
        ));
    }
    Status::new(code(failure.kind), format!("{}{about}", failure.message))
}

/// What a panic said, if it was text.
pub fn panic_message(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or(text)
}

fn code(kind: FailureKind) -> Code {
    match kind {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_failure_does_not_leak_its_message() {
        let id = QueryId::from_u128(1);
        let status = status(&Failure::internal("secret path"), Some(id));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret path"));
        assert!(status.message().contains(&id.to_string()));
    }

    #[test]
    fn what_may_succeed_later_is_unavailable() {
        for kind in [FailureKind::WorkerLost, FailureKind::Draining, FailureKind::Busy] {
            assert_eq!(code(kind), Code::Unavailable);
        }
    }
}
