//! Errors and panics of readers, with the names of their files.

use std::panic::AssertUnwindSafe;

use datafusion::error::Result;
use datafusion::object_store::ObjectMeta;
use futures::FutureExt;
use squadron_proto::Failure;
use squadron_shuffle::failure;

/// The outcome of `work`, which reads `object`; its errors and panics name the file.
pub(super) async fn checked<T>(object: &ObjectMeta, work: impl Future<Output = Result<T>>) -> Result<T> {
    let failure = match AssertUnwindSafe(work).catch_unwind().await {
        Ok(Ok(read)) => return Ok(read),
        Ok(Err(error)) => failure::of_file(&error),
        Err(panic) => failure::of_broken_file(panic.as_ref()),
    };
    let file = object.location.as_ref();
    let message = if failure.message.contains("encrypted footer") {
        format!("the file {file} is encrypted, which is not supported; write it without encryption")
    } else if failure.message.contains(file) {
        failure.message
    } else {
        format!("the file {file} cannot be read: {}", failure.message)
    };
    Err(failure::into_datafusion(Failure::new(failure.kind, message)))
}
