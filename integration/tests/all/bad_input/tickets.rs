//! Tickets that were never issued, were cut or changed, have expired, or belong to another server.

use std::time::{Duration, SystemTime};

use arrow_flight::Ticket;
use arrow_flight::sql::{ProstMessageExt, TicketStatementQuery};
use futures::TryStreamExt;
use prost::Message;
use squadron_integration::client::{Client, status, ticket};
use squadron_integration::cluster::{Cluster, cluster};
use squadron_proto::ticket::{ClusterKey, Fetch, FetchOutput, Subject};
use squadron_proto::{AttemptNumber, QueryId, StageId, TaskId};
use tonic::{Code, Status};

use super::{assert_still_answers, blames_caller};
use crate::support::{bounded, minutes};

const SECRET: &str = "tests know this";
const HOUR: Duration = Duration::from_secs(3600);

async fn start() -> Cluster {
    let cluster = cluster().slots(1).tpch(0.01);
    cluster.serve_arg("--cluster-secret").serve_arg(SECRET).start().await
}

/// Fetches a ticket that must be refused, and gives the status.
async fn refusal(client: &Client, bytes: impl Into<Vec<u8>>) -> Status {
    let ticket = Ticket::new(bytes.into());
    let rows = match client.get(ticket).await {
        Err(status) => return status,
        Ok(stream) => stream.try_collect::<Vec<_>>().await,
    };
    status(rows.expect_err("a ticket that must be refused has rows"))
}

/// Wraps a sealed ticket in the message that DoGet expects.
fn wrap(sealed: impl Into<Vec<u8>>) -> Vec<u8> {
    let statement_handle = sealed.into().into();
    TicketStatementQuery { statement_handle }.as_any().encode_to_vec()
}

#[test]
fn forged_and_truncated_tickets_are_refused() {
    bounded(minutes(5), async {
        let cluster = start().await;
        let client = cluster.client().await;
        let info = client.info("SELECT * FROM region").await.expect("it starts");
        let genuine = ticket(&info).ticket;
        for position in 0..genuine.len() {
            let mut forged = genuine.to_vec();
            forged[position] ^= 0x55;
            let changed = refusal(&client, forged).await;
            assert!(blames_caller(&changed), "byte {position} changed: {changed}");
            let cut = refusal(&client, &genuine[..position]).await;
            assert!(blames_caller(&cut), "cut at {position}: {cut}");
        }
        // The genuine ticket still gives its rows.
        let (_, batches) = client.fetch(info).await.expect("the genuine ticket is good still");
        assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 5);
    });
}

#[test]
fn expired_foreign_unknown_tickets_are_refused() {
    bounded(minutes(5), async {
        let cluster = start().await;
        let client = cluster.client().await;
        let key = ClusterKey::from_secret(SECRET);
        let unknown = Subject::Result(QueryId::new());
        let now = SystemTime::now();

        let expired = refusal(&client, wrap(key.seal(&unknown, now - 2 * HOUR, HOUR))).await;
        assert_eq!(expired.code(), Code::NotFound, "{expired}");
        assert!(expired.message().contains("expired"), "{expired}");

        let nobody = refusal(&client, wrap(key.seal(&unknown, now, HOUR))).await;
        assert_eq!(nobody.code(), Code::NotFound, "{nobody}");

        let foreign_key = ClusterKey::from_secret("another secret");
        let foreign = refusal(&client, wrap(foreign_key.seal(&unknown, now, HOUR))).await;
        assert!(blames_caller(&foreign), "{foreign}");

        // A ticket for a worker's data port is refused by the server.
        let output = FetchOutput {
            task: TaskId(0),
            attempt: AttemptNumber(0),
            partitions: vec![0],
        };
        let fetch = Subject::Fetch(Fetch {
            query: QueryId::new(),
            stage: StageId(0),
            outputs: vec![output],
        });
        let inner = refusal(&client, wrap(key.seal(&fetch, now, HOUR))).await;
        assert!(blames_caller(&inner), "{inner}");
        assert_still_answers(&client).await;
    });
}

#[test]
fn foreign_server_ticket_is_refused() {
    bounded(minutes(5), async {
        let mine = cluster().slots(1).tpch(0.01).start().await;
        let theirs = cluster().slots(1).tpch(0.01).start().await;
        let info = theirs
            .client()
            .await
            .info("SELECT * FROM region")
            .await
            .expect("it starts");
        let client = mine.client().await;
        let refused = refusal(&client, ticket(&info).ticket.to_vec()).await;
        assert!(blames_caller(&refused), "{refused}");
        assert_still_answers(&client).await;
    });
}
