//! From failures to the statuses that leave the front end, with what every answer has in common: bounded length, a log
//! line, and no panic.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use squadron_proto::{Failure, FailureKind, QueryId};
use tonic::Status;
use tracing::debug;

use crate::error::{self, panic_message};

/// Encoded bytes of a status message; gRPC for Java accepts 8 KiB of headers in all.
const MAX_MESSAGE_BYTES: usize = 6 * 1024;

/// The status for a failure, logged once.
pub(super) fn of(failure: &Failure, query: Option<QueryId>) -> Status {
    let status = error::status(failure, query);
    debug!(code = ?status.code(), query_id = query.map(tracing::field::display), "request failed: {}", status.message());
    Status::new(status.code(), shortened(status.message()))
}

/// A failure with the query it belongs to, if it belongs to one.
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
        of(&refusal.failure, refusal.query)
    }
}

/// A failure for something that is not served.
pub(super) fn unsupported(what: &str) -> Failure {
    Failure::new(FailureKind::Unsupported, what)
}

/// A failure for something that cannot be read.
pub(super) fn invalid(what: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Invalid, what)
}

/// Runs `work`; a panic in it becomes an internal error of this request alone.
pub(super) async fn guarded<T>(work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => {
            let failure = Failure::internal(format!(
                "panic: {}",
                panic_message(&*panic).unwrap_or("without a message")
            ));
            Err(of(&failure, None))
        }
    }
}

/// The message cut so that its percent-encoded form fits in the headers of every client.
fn shortened(message: &str) -> String {
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
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        for long in ["x".repeat(100_000), "é".repeat(100_000)] {
            let short = shortened(&long);
            assert!(short.ends_with("(shortened)"));
            assert!(short.len() <= MAX_MESSAGE_BYTES + 20);
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let outcome: Result<(), Status> = guarded(async { panic!("secret") }).await;
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("secret"));
    }
}
