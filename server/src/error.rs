//! Failures as gRPC statuses for clients. The codes are those of [`FailureKind::grpc_code`].

use squadron_proto::{Failure, FailureKind, QueryId};
use tonic::Status;
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
    Status::new(failure.kind.grpc_code(), format!("{}{about}", failure.message))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn internal_failure_hides_its_message() {
        let id = QueryId::from_u128(1);
        let status = status(&Failure::internal("secret path"), Some(id));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret path"));
        assert!(status.message().contains(&id.to_string()));
    }
}
