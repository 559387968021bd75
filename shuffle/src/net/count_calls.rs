//! The layer of a server that counts the calls of its connections.

use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use tonic::body::Body;
use tower::{Layer, Service};

use super::calls::Answer;
use super::listen::ConnectionInfo;

/// Counts the calls of connections from [`super::listen::incoming`].
#[derive(Clone, Copy, Debug)]
pub struct CountCalls;

impl<S> Layer<S> for CountCalls {
    type Service = CountedCalls<S>;

    fn layer(&self, service: S) -> Self::Service {
        CountedCalls { service }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct CountedCalls<S> {
    service: S,
}

impl<S> Service<http::Request<Body>> for CountedCalls<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let connection = request.extensions().get::<ConnectionInfo>();
        let call = connection.map(|connection| connection.calls.begin());
        let response = self.service.call(request);
        async move {
            let response = response.await?;
            Ok(match call {
                Some(call) => response.map(|body| Body::new(Answer::new(body, call))),
                None => response,
            })
        }
        .boxed()
    }
}
