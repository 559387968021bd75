//! The Flight server of a worker process, from which the server and other workers fetch the output of its attempts.

use std::net::TcpListener;

use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::net::listen;
use squadron_shuffle::{DataService, ServerTls, serve};
use tokio::task::JoinSet;

/// A running Flight server. Once dropped, it accepts no more connections; fetches that run are served to their end.
pub(crate) struct DataServer {
    task: JoinSet<Result<(), tonic::transport::Error>>,
}

impl DataServer {
    /// Serves on a copy of `listener`, which itself stays open for a successor.
    pub(crate) fn start(
        listener: &TcpListener,
        tls: Option<&ServerTls>,
        service: DataService,
    ) -> Result<Self, Failure> {
        let listener = listener
            .try_clone()
            .and_then(tokio::net::TcpListener::from_std)
            .map_err(|error| service_failure(&error.to_string()))?;
        // With a shutdown signal, here one that never comes, a dropped server lets its connections end their work.
        let server = serve::http2()
            .add_service(service.into_server())
            .serve_with_incoming_shutdown(listen::incoming(listener, tls, None), std::future::pending());
        let mut task = JoinSet::new();
        task.spawn(server);
        Ok(Self { task })
    }

    /// Waits until the server has stopped, which only a failure makes it do, and returns that failure.
    pub(crate) async fn wait_for_failure(&mut self) -> Failure {
        match self.task.join_next().await {
            Some(Ok(Err(error))) => service_failure(&error.to_string()),
            Some(Ok(Ok(()))) | None => service_failure("it ended"),
            Some(Err(error)) => service_failure(&error.to_string()),
        }
    }
}

fn service_failure(why: &str) -> Failure {
    Failure::new(
        FailureKind::Storage,
        format!("the Flight service of this worker stopped: {why}; start the worker again"),
    )
}
