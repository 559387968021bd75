//! Garbage from workers on the cluster port, and garbage on the data port of a worker.

use std::process::Command;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow_flight::Ticket;
use arrow_flight::flight_service_client::FlightServiceClient;
use futures::StreamExt;
use squadron_integration::cluster::{Cluster, cluster};
use squadron_integration::impostor::ImpostorAddress;
use squadron_integration::process::{Process, squadron};
use squadron_proto::wire::control::control_client::ControlClient;
use squadron_proto::wire::control::{
    AttemptKey, Finished, Heartbeat, Leaving, PartitionOutput, Register, Report, ServerMessage, WorkerMessage, report,
    server_message, worker_message,
};
use squadron_proto::{PROTOCOL_VERSION, WorkerId};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::{assert_still_answers, blames_caller};
use crate::support::{bounded, minutes, seconds};

/// A fake worker at the other end of a control stream.
struct Impostor {
    worker: WorkerId,
    address: ImpostorAddress,
    outgoing: mpsc::Sender<WorkerMessage>,
    incoming: Streaming<ServerMessage>,
}

impl Impostor {
    async fn dial(cluster: &Cluster) -> Self {
        let (outgoing, messages) = mpsc::channel(16);
        let mut client = ControlClient::new(channel(cluster.cluster_url()).await);
        let joined = client.join(ReceiverStream::new(messages)).await;
        let incoming = joined.expect("everyone may dial").into_inner();
        let worker = WorkerId::new();
        let address = ImpostorAddress::of(worker).await;
        Self {
            worker,
            address,
            outgoing,
            incoming,
        }
    }

    async fn send(&self, message: worker_message::Message) {
        let message = WorkerMessage { message: Some(message) };
        // The server may have closed the stream already.
        drop(self.outgoing.send(message).await);
    }

    /// Waits for the status that ends the stream.
    async fn wait_for_dismissal(&mut self) -> Status {
        let end = timeout(seconds(30), async {
            loop {
                match self.incoming.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(status)) => return status,
                    None => return Status::ok(""),
                }
            }
        });
        end.await.expect("the server dismisses it")
    }

    /// Registers as a worker with one slot.
    async fn register(&mut self) {
        let registration = Register {
            worker: self.worker.to_bytes(),
            flight_address: self.address.url().into(),
            ..registration()
        };
        self.send(worker_message::Message::Register(registration)).await;
        let registered = timeout(seconds(30), async {
            while let Some(message) = self.incoming.next().await {
                if let Some(server_message::Message::Registered(_)) = message.expect("no refusal").message {
                    return true;
                }
            }
            false
        });
        assert!(registered.await.expect("in time"), "the server accepts it");
    }
}

async fn channel(url: &str) -> Channel {
    let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL");
    endpoint.connect().await.expect("it listens")
}

/// Of a worker that answers nowhere.
fn registration() -> Register {
    Register {
        protocol_version: PROTOCOL_VERSION,
        worker: WorkerId::new().to_bytes(),
        epoch: 1,
        flight_address: "http://127.0.0.1:9".into(),
        slots: 1,
        memory_bytes: 1 << 30,
        version: "0.0.0".into(),
        proof: Default::default(),
    }
}

async fn start() -> Cluster {
    cluster().workers(1).slots(2).tpch(0.01).tiny_splits().start().await
}

#[test]
fn invalid_registration_is_refused_with_reason() {
    bounded(minutes(5), async {
        let cluster = start().await;
        let wrong = [
            (
                Register {
                    protocol_version: 99,
                    version: "9.9.9".into(),
                    ..registration()
                },
                vec!["version 99", "9.9.9", env!("CARGO_PKG_VERSION")],
            ),
            (
                Register {
                    worker: vec![1, 2, 3].into(),
                    ..registration()
                },
                vec!["worker"],
            ),
            (
                Register {
                    slots: 0,
                    ..registration()
                },
                vec!["slot"],
            ),
            (
                Register {
                    flight_address: "nowhere".into(),
                    ..registration()
                },
                vec!["nowhere"],
            ),
            (
                Register {
                    flight_address: String::new(),
                    ..registration()
                },
                vec!["advertise"],
            ),
        ];
        for (registration, words) in wrong {
            let mut impostor = Impostor::dial(&cluster).await;
            impostor
                .send(worker_message::Message::Register(registration.clone()))
                .await;
            let status = impostor.wait_for_dismissal().await;
            assert_eq!(status.code(), Code::InvalidArgument, "{registration:?}: {status}");
            for word in words {
                assert!(status.message().contains(word), "does not say {word}: {status}");
            }
        }
        assert_still_answers(&cluster.client().await).await;
    });
}

/// What nobody has registered for is not read: the first message of a worker is short.
#[test]
fn large_message_of_a_stranger_is_refused() {
    bounded(minutes(2), async {
        let mut cluster = start().await;
        let mut impostor = Impostor::dial(&cluster).await;
        let huge = Register {
            version: "x".repeat(100 << 20),
            ..registration()
        };
        let before = cluster.server().peak_memory_bytes();
        impostor.send(worker_message::Message::Register(huge)).await;
        let status = impostor.wait_for_dismissal().await;
        assert!(status.message().contains("too large"), "{status}");
        let more = cluster.server().peak_memory_bytes().saturating_sub(before) >> 20;
        assert!(more < 50, "the server took {more} MiB for it");
        assert_still_answers(&cluster.client().await).await;
    });
}

/// A worker counts when it answers at the address that it advertises.
#[test]
fn worker_that_advertises_anothers_address_is_refused() {
    bounded(minutes(5), async {
        let cluster = start().await;
        let client = cluster.client().await;
        let taken = cluster.worker_url(0).trim_start_matches("grpc://").to_owned();
        let mut command = Command::new(squadron());
        command.args(["worker", "--server", cluster.cluster_url(), "--advertise", &taken]);
        let folder = tempfile::tempdir().unwrap();
        let mut second = Process::start("second", command, folder.path().join("log"));
        let status = second.wait_for_exit(seconds(60)).await;
        assert!(!status.success(), "it must not run");
        let log = second.log();
        for word in ["another worker answers", "--advertise", &taken] {
            assert!(log.contains(word), "{word} is missing: {log}");
        }
        let (_, rows) = client
            .query("SELECT count(*) AS n FROM system.workers WHERE address <> ''")
            .await
            .unwrap();
        let count = rows[0].column(0).as_primitive::<Int64Type>().value(0);
        assert_eq!(count, 1);
    });
}

#[test]
fn registration_requires_the_cluster_secret() {
    bounded(minutes(5), async {
        let cluster = cluster().workers(1).slots(1).tpch(0.01);
        let cluster = cluster
            .serve_arg("--cluster-secret=open sesame")
            .worker_arg("--cluster-secret=open sesame");
        let cluster = cluster.start().await;
        for proof in [vec![], vec![0; 32], vec![7; 1_000]] {
            let mut impostor = Impostor::dial(&cluster).await;
            let registration = Register {
                proof: proof.into(),
                ..registration()
            };
            impostor.send(worker_message::Message::Register(registration)).await;
            let status = impostor.wait_for_dismissal().await;
            assert_eq!(status.code(), Code::Unauthenticated, "{status}");
            assert!(status.message().contains("--cluster-secret"), "{status}");
        }
        // A worker with the secret works.
        let (_, batches) = cluster
            .client()
            .await
            .query("SELECT count(*) FROM lineitem GROUP BY l_tax")
            .await
            .expect("rows");
        assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 9);
    });
}

#[test]
fn messages_before_registration_are_refused() {
    bounded(minutes(5), async {
        let cluster = start().await;
        let first_messages = [
            None,
            Some(worker_message::Message::Heartbeat(Heartbeat::default())),
            Some(worker_message::Message::Leaving(Leaving {})),
            Some(worker_message::Message::Report(Report::default())),
        ];
        for message in first_messages {
            let mut impostor = Impostor::dial(&cluster).await;
            drop(impostor.outgoing.send(WorkerMessage { message }).await);
            let status = impostor.wait_for_dismissal().await;
            assert!(blames_caller(&status), "{status}");
        }
        // The server does not wait for a stream without any message.
        let mut silent = Impostor::dial(&cluster).await;
        assert_ne!(silent.wait_for_dismissal().await.code(), Code::Ok);
        assert_still_answers(&cluster.client().await).await;
    });
}

/// A registered worker sends reports about attempts that do not exist, and empty messages.
#[test]
fn nonsense_reports_do_no_harm() {
    bounded(minutes(5), async {
        let cluster = start().await;
        let client = cluster.client().await;
        let mut impostor = Impostor::dial(&cluster).await;
        impostor.register().await;
        let key = |query: Vec<u8>| AttemptKey {
            query: query.into(),
            stage: 7,
            task: 7,
            attempt: 7,
        };
        let finished = report::Status::Finished(Finished {
            partitions: vec![PartitionOutput {
                partition: u32::MAX,
                rows: u64::MAX,
                bytes: u64::MAX,
            }],
            metrics: None,
        });
        for sequence in [0, 5, 5, u64::MAX, 1] {
            let attempt = Some(key(WorkerId::new().to_bytes().to_vec()));
            let status = Some(finished.clone());
            impostor
                .send(worker_message::Message::Report(Report {
                    sequence,
                    attempt,
                    status,
                }))
                .await;
        }
        assert_still_answers(&client).await;
        // A key of three bytes is invalid: the server dismisses this worker and goes on.
        let attempt = Some(key(vec![1, 2, 3]));
        impostor
            .send(worker_message::Message::Report(Report {
                sequence: 2,
                attempt,
                status: Some(finished),
            }))
            .await;
        impostor.outgoing.send(WorkerMessage { message: None }).await.ok();
        let status = impostor.wait_for_dismissal().await;
        assert_ne!(status.code(), Code::Ok, "{status}");
        // The real worker does all of the work.
        let answer = timeout(
            seconds(60),
            client.query("SELECT count(*) FROM lineitem GROUP BY l_tax"),
        )
        .await;
        let (_, batches) = answer.expect("it ends").expect("rows");
        assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 9);
    });
}

/// A registered worker takes work and sends nothing more.
#[test]
fn silent_worker_is_declared_lost() {
    bounded(minutes(5), async {
        let cluster = start().await;
        let client = cluster.client().await;
        let mut impostor = Impostor::dial(&cluster).await;
        impostor.register().await;
        // The query ends with the rows of the real worker, or with the loss of the silent one; it never hangs.
        let answer = timeout(
            seconds(30),
            client.query("SELECT count(*) FROM lineitem GROUP BY l_partkey"),
        )
        .await;
        if let Err(status) = answer.expect("no query waits for a silent worker") {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
        }
        let status = impostor.wait_for_dismissal().await;
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let answer = timeout(
            seconds(60),
            client.query("SELECT count(*) FROM lineitem GROUP BY l_tax"),
        )
        .await;
        answer.expect("it ends").expect("the real worker answers");
    });
}

#[test]
fn worker_data_port_rejects_garbage() {
    bounded(minutes(5), async {
        let mut cluster = cluster().workers(1).slots(2).tpch(0.01).start().await;
        let client = cluster.client().await;
        let url = cluster.worker_url(0).replacen("grpc://", "http://", 1);
        let mut data = FlightServiceClient::new(channel(&url).await);
        for ticket in [vec![], vec![1; 37], vec![0; 10_000], b"\x01\0\0\0\0garbage".to_vec()] {
            let outcome = timeout(Duration::from_secs(20), data.do_get(Ticket::new(ticket))).await;
            let status = match outcome.expect("an answer") {
                Err(status) => status,
                Ok(stream) => {
                    let first = stream.into_inner().next().await;
                    first.expect("an error").expect_err("an error")
                }
            };
            assert!(blames_caller(&status), "{status}");
        }
        let actions = data.list_actions(arrow_flight::Empty {}).await;
        let status = actions.expect_err("a worker serves DoGet alone");
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        client
            .query("SELECT count(*) FROM lineitem GROUP BY l_tax")
            .await
            .expect("the worker goes on");
        assert!(cluster.worker(0).is_running());
    });
}
