//! Bad input of every kind: the server answers with a client error and goes on.

mod files;
mod garbage;
mod shapes;
mod sql;
mod tickets;
mod values;
mod workers;

use squadron_integration::client::Client;
use tonic::{Code, Status};

/// Checks that the server still answers.
pub(crate) async fn assert_still_answers(client: &Client) {
    let answer = client
        .query("SELECT count(*) AS n FROM (VALUES (1), (2)) AS t(x)")
        .await;
    let (_, batches) = answer.expect("the server goes on");
    assert_eq!(batches[0].num_rows(), 1);
}

/// Whether a status has a code that blames the caller, and a message.
pub(crate) fn blames_caller(status: &Status) -> bool {
    let code = matches!(
        status.code(),
        Code::InvalidArgument | Code::NotFound | Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied
    );
    code && !status.message().is_empty()
}
