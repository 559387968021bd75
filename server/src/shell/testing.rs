//! Fake servers for the tests of the shell.

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::{Endpoint, Server};

use super::client::Client;

/// A client of `service`, and the service's task, which ends when it is dropped.
pub(super) async fn connect(service: impl FlightService) -> (Client, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let serving = Server::builder()
        .add_service(FlightServiceServer::new(service))
        .serve_with_incoming(incoming);
    let mut server = JoinSet::new();
    server.spawn(async move { serving.await.unwrap() });
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    (Client::new(FlightServiceClient::new(channel)), server)
}
