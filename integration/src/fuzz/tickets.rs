//! Tickets and poll handles: opened with the right key, presented to a server.

use std::time::{Duration, SystemTime};

use arrow_flight::Ticket;
use futures::StreamExt;
use prost::Message;
use squadron_proto::ticket::{ClusterKey, Fetch, FetchOutput, Poll, Subject};
use squadron_proto::wire::ticket as wire;
use squadron_proto::{AttemptNumber, QueryId, StageId, TaskId};

use super::judge_status;
use super::server::{CLUSTER_SECRET, Server};

const LIFETIME: Duration = Duration::from_secs(60);

/// The bytes are a ticket, and what a ticket holds: then it is signed and presented.
pub(super) fn judge(bytes: &[u8]) -> Result<(), String> {
    let key = ClusterKey::from_secret(CLUSTER_SECRET);
    // Whatever comes out is fine: it must come.
    drop(key.open(bytes, SystemTime::now()));
    present(bytes.to_vec())?;
    let Some(subject) = subject(bytes) else {
        return Ok(());
    };
    let sealed = key.seal(&subject, SystemTime::now(), LIFETIME);
    let opened = key.open(&sealed, SystemTime::now());
    if opened.as_ref() != Ok(&subject) {
        return Err(format!("{subject:?} comes back as {opened:?}"));
    }
    present(sealed.to_vec())
}

fn subject(bytes: &[u8]) -> Option<Subject> {
    let content = wire::Ticket::decode(bytes).ok()?;
    Subject::try_from(content.subject?).ok()
}

fn present(ticket: Vec<u8>) -> Result<(), String> {
    let server = Server::get();
    let client = server.client();
    server.run(async move {
        let outcome = async {
            let mut rows = client.flight().do_get(Ticket::new(ticket)).await?.into_inner();
            while let Some(row) = rows.next().await {
                row?;
            }
            Ok(())
        };
        judge_status("the ticket", outcome.await)
    })
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let key = ClusterKey::from_secret(CLUSTER_SECRET);
    let query = QueryId::new();
    let fetch = Fetch {
        query,
        stage: StageId(3),
        outputs: vec![FetchOutput {
            task: TaskId(1),
            attempt: AttemptNumber(2),
            partitions: vec![0, 5, 7],
        }],
    };
    let subjects = [
        Subject::Result(query),
        Subject::Fetch(fetch.clone()),
        Subject::Endpoint(fetch),
        Subject::Poll(Poll { query, seen: 9 }),
    ];
    let forms = subjects.iter().flat_map(|subject| {
        let sealed = key.seal(subject, SystemTime::now(), LIFETIME).to_vec();
        let content = wire::Ticket {
            expires_ms: u64::MAX,
            subject: Some(subject.clone().into()),
        };
        [sealed, content.encode_to_vec()]
    });
    forms.collect()
}
