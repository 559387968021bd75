//! What a worker, or what claims to be one, sends to the cluster port.

use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message;
use squadron_proto::control::WorkerMessage;
use squadron_proto::ticket::ClusterKey;
use squadron_proto::wire::control::control_client::ControlClient;
use squadron_proto::wire::control::{
    self as wire, AttemptKey, Finished, Heartbeat, Leaving, PartitionOutput, Register, Report, server_message,
    worker_message,
};
use squadron_proto::{PROTOCOL_VERSION, QueryId};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Endpoint;

use super::server::{CLUSTER_SECRET, Server, WORKER};
use super::{frames, judge_status};

/// How many messages of one input are sent.
const MOST: usize = 16;

/// With an odd first byte, a valid registration goes in front.
pub(super) fn judge(bytes: &[u8]) -> Result<(), String> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(());
    };
    let messages = frames::split::<wire::WorkerMessage>(rest, MOST);
    for message in &messages {
        // Whatever comes out is fine: it must come.
        drop(WorkerMessage::try_from(message.clone()));
    }
    let server = Server::get();
    server.run(async {
        let outcome = converse(&server, first % 2 == 1, messages).await;
        judge_status("the control stream", outcome)
    })
}

/// Sends all messages, hangs up, and reads until the server has hung up too.
async fn converse(server: &Server, registers: bool, messages: Vec<wire::WorkerMessage>) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(server.cluster_url()).expect("a URL");
    let channel = endpoint.connect().await.expect("it listens");
    let (outgoing, queue) = mpsc::channel(MOST + 1);
    let joined = ControlClient::new(channel).join(ReceiverStream::new(queue)).await;
    let mut answers = joined?.into_inner();
    if registers {
        let challenge = answers.next().await.expect("the server speaks first")?;
        let Some(server_message::Message::Challenge(challenge)) = challenge.message else {
            return Err(Status::internal(format!("{challenge:?} is no challenge")));
        };
        let registration = registration(server.worker_address.url(), &challenge.nonce);
        drop(outgoing.send(registration).await);
    }
    for message in messages {
        // The server may have hung up already.
        drop(outgoing.send(message).await);
    }
    drop(outgoing);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}

fn message(message: worker_message::Message) -> wire::WorkerMessage {
    wire::WorkerMessage { message: Some(message) }
}

/// Each is that of a newer start of the worker.
fn registration(flight_address: &str, nonce: &[u8]) -> wire::WorkerMessage {
    static EPOCH: AtomicU64 = AtomicU64::new(0);
    let epoch = EPOCH.fetch_add(1, Ordering::Relaxed);
    message(worker_message::Message::Register(Register {
        protocol_version: PROTOCOL_VERSION,
        worker: WORKER.to_bytes(),
        epoch,
        flight_address: flight_address.into(),
        slots: 1,
        memory_bytes: 1 << 30,
        version: "0.0.0".into(),
        proof: ClusterKey::from_secret(CLUSTER_SECRET).proof(nonce, WORKER, epoch),
    }))
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let attempt = Some(AttemptKey {
        query: QueryId::new().to_bytes(),
        stage: 1,
        task: 2,
        attempt: 0,
    });
    let partition = PartitionOutput {
        partition: 3,
        rows: 4,
        bytes: 5,
    };
    let finished = wire::report::Status::Finished(Finished {
        partitions: vec![partition],
        ..Finished::default()
    });
    let report = message(worker_message::Message::Report(Report {
        sequence: 1,
        attempt,
        status: Some(finished),
    }));
    let heartbeat = message(worker_message::Message::Heartbeat(Heartbeat::default()));
    let leaving = message(worker_message::Message::Leaving(Leaving {}));
    let conversations = [
        (0, vec![registration("", b""), heartbeat.clone(), leaving.clone()]),
        (1, vec![heartbeat, report, leaving]),
        (1, vec![registration("", b"")]),
    ];
    let joined = conversations.map(|(first, messages)| {
        let bytes = messages.iter().flat_map(Message::encode_length_delimited_to_vec);
        std::iter::once(first).chain(bytes).collect()
    });
    joined.to_vec()
}
