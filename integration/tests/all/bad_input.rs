//! Whatever comes in, an error of the caller's goes out, and the server goes on.

mod garbage;
mod sql;
mod tickets;
mod workers;

use squadron_integration::client::Client;
use tonic::{Code, Status};

/// The server still answers.
pub(crate) async fn goes_on(client: &Client) {
    let answer = client
        .query("SELECT count(*) AS n FROM (VALUES (1), (2)) AS t(x)")
        .await;
    let (_, batches) = answer.expect("the server goes on");
    assert_eq!(batches[0].num_rows(), 1);
}

/// Whether a status blames the caller, in words, and neither the server nor nobody.
pub(crate) fn blames_the_caller(status: &Status) -> bool {
    let code = matches!(
        status.code(),
        Code::InvalidArgument | Code::NotFound | Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied
    );
    code && !status.message().is_empty()
}
