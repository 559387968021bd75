//! The Flight server of a worker process, where others fetch the output of its attempts.

use std::net::TcpListener;

use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::{DataService, ServerTls, listen, serve};
use tokio::task::JoinSet;

/// A running Flight server. Dropping it accepts no more; what is being fetched is sent to its end.
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
            .map_err(|error| broken(&error.to_string()))?;
        // With a shutdown signal, if one that never comes, dropping the server lets its connections end their work.
        let server = serve::http2()
            .add_service(service.into_server())
            .serve_with_incoming_shutdown(listen::incoming(listener, tls), std::future::pending());
        let mut task = JoinSet::new();
        task.spawn(server);
        Ok(Self { task })
    }

    /// Waits for the end of the server, which never comes by itself: why it came.
    pub(crate) async fn failed(&mut self) -> Failure {
        match self.task.join_next().await {
            Some(Ok(Err(error))) => broken(&error.to_string()),
            Some(Ok(Ok(()))) | None => broken("it ended"),
            Some(Err(error)) => broken(&error.to_string()),
        }
    }
}

fn broken(why: &str) -> Failure {
    Failure::new(
        FailureKind::Storage,
        format!("the Flight service of this worker stopped: {why}; start the worker again"),
    )
}
