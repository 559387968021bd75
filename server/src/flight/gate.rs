//! The gate before the Flight service: no request reaches it without a principal, whatever it asks for.
//!
//! ```text
//! request ──> credentials ──> principal ──> service, the principal among the request's extensions
//!                 └─ none or wrong: Unauthenticated
//! Handshake ─────────────────────────────> service, which logs in
//! ```

use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use squadron_proto::Failure;
use squadron_shuffle::listen::ConnectionInfo;
use tonic::body::Body;
use tonic::codegen::http::{Extensions, Request, Response};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tower::Service;

use super::{credentials, status};
use crate::auth::{Authenticator, Principal};

const HANDSHAKE: &str = "/arrow.flight.protocol.FlightService/Handshake";

/// A service behind the gate.
#[derive(Clone)]
pub struct Gate<S> {
    service: S,
    authenticator: Authenticator,
}

impl<S> Gate<S> {
    pub(super) fn new(service: S, authenticator: Authenticator) -> Self {
        Self { service, authenticator }
    }
}

impl<S: NamedService> NamedService for Gate<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The one that is ready serves; its copy takes its place.
        let copy = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, copy);
        if request.uri().path() == HANDSHAKE {
            return service.call(request).boxed();
        }
        let authenticator = self.authenticator.clone();
        let headers = request.headers();
        let headers = self
            .authenticator
            .is_required()
            .then(|| MetadataMap::from_headers(headers.clone()));
        let peer = peer(request.extensions());
        async move {
            match principal(&authenticator, headers.as_ref(), peer).await {
                Ok(principal) => {
                    request.extensions_mut().insert(principal);
                    service.call(request).await
                }
                Err(failure) => Ok(status::of(&failure, None).into_http()),
            }
        }
        .boxed()
    }
}

/// Headers are looked at only where somebody has to log in.
async fn principal(
    authenticator: &Authenticator,
    headers: Option<&MetadataMap>,
    peer: Option<IpAddr>,
) -> Result<Principal, Failure> {
    let Some(headers) = headers else {
        return Ok(Principal::default());
    };
    let credentials = credentials::in_headers(headers)?;
    authenticator.admit(credentials.as_ref(), peer).await
}

/// Who opened the connection.
pub(super) fn peer(extensions: &Extensions) -> Option<IpAddr> {
    let connection = extensions.get::<ConnectionInfo>()?;
    Some(connection.peer.ip().to_canonical())
}
