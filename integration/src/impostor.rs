//! The address of a worker that is none: it says who it is, and serves nothing.

use squadron_proto::WorkerId;
use squadron_shuffle::{DataService, serve};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;

/// Answers as one worker until it is dropped.
pub struct ImpostorAddress {
    url: String,
    _task: JoinSet<()>,
}

impl ImpostorAddress {
    /// Listens on a free port of the loopback device.
    ///
    /// # Panics
    /// Without a free port.
    pub async fn of(worker: WorkerId) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let service = DataService::of_joining_worker(worker).into_server();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let served = serve::http2().add_service(service);
            let ended = served.serve_with_incoming(TcpListenerStream::new(listener)).await;
            ended.expect("it serves until it is dropped");
        });
        Self {
            url: format!("http://{address}"),
            _task: task,
        }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> &str {
        &self.url
    }
}
