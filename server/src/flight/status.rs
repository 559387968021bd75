//! Turns failures into gRPC statuses: with a bounded length, one log line, and panics as internal errors.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use futures::stream::BoxStream;
use squadron_proto::failure::panic_message;
use squadron_proto::{Failure, FailureKind, QueryId};
use tonic::{Response, Status};
use tracing::debug;

use crate::error;

/// Encoded bytes of a status message; gRPC for Java accepts 8 KiB of headers in all.
const MAX_MESSAGE_BYTES: usize = 6 * 1024;

/// The answer of a method.
pub(super) type Answer<T> = Result<Response<T>, Status>;

/// A stream of messages to a client; an error ends it.
pub(super) type Stream<T> = BoxStream<'static, Result<T, Status>>;

/// The status for a failure, logged once.
pub(super) fn from_failure(failure: &Failure, query: Option<QueryId>) -> Status {
    let status = error::status(failure, query);
    let query_id = query.map(tracing::field::display);
    debug!(code = ?status.code(), query_id, "request failed: {}", status.message());
    Status::new(status.code(), shorten(status.message()))
}

/// A failure, with its query if it has one.
pub(super) struct Refusal {
    pub(super) failure: Failure,
    pub(super) query: Option<QueryId>,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { failure, query: None }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        from_failure(&refusal.failure, refusal.query)
    }
}

/// A failure for a request that is not supported.
pub(super) fn unsupported(what: &str) -> Failure {
    Failure::new(FailureKind::Unsupported, what)
}

/// A failure for a request that is malformed.
pub(super) fn invalid(what: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Invalid, what)
}

/// Runs `work`; a panic in it becomes an internal error of this request alone.
pub(super) async fn catch_panic<T>(work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => {
            let failure = Failure::internal(format!(
                "panic: {}",
                panic_message(&*panic).unwrap_or("without a message")
            ));
            Err(from_failure(&failure, None))
        }
    }
}

/// Cuts the message so that its percent-encoded form fits in the headers of every client.
fn shorten(message: &str) -> String {
    let mut encoded = 0;
    for (at, character) in message.char_indices() {
        let printable = matches!(character, ' '..='~') && character != '%';
        encoded += if printable { 1 } else { 3 * character.len_utf8() };
        if encoded > MAX_MESSAGE_BYTES {
            return format!("{} (shortened)", &message[..at]);
        }
    }
    message.into()
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn long_message_is_cut_between_characters() {
        assert_eq!(shorten("short"), "short");
        for long in ["x".repeat(100_000), "é".repeat(100_000)] {
            let short = shorten(&long);
            assert!(short.ends_with("(shortened)"));
            assert!(short.len() <= MAX_MESSAGE_BYTES + 20);
        }
    }

    #[tokio::test]
    async fn panic_becomes_an_internal_error() {
        let outcome: Result<(), Status> = catch_panic(async { panic!("secret") }).await;
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret"));
    }
}
