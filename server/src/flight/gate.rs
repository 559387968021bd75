//! The gate before the Flight service: every request but Handshake needs a principal to pass, whatever its method.
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
use http_body_util::{BodyExt, Limited};
use squadron_proto::Failure;
use squadron_shuffle::net::listen::ConnectionInfo;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Extensions, Request, Response};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tower::Service;

use super::{credentials, status};
use crate::auth::{Authenticator, Principal};

const HANDSHAKE: &str = "/arrow.flight.protocol.FlightService/Handshake";

/// The largest login, in bytes.
const MAX_HANDSHAKE_BYTES: usize = 64 * 1024;

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
        // `poll_ready` was called on this one, so it serves; its copy takes its place.
        let copy = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, copy);
        if request.uri().path() == HANDSHAKE {
            return service.call(request.map(limit_handshake)).boxed();
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
                Err(failure) => Ok(status::from_failure(&failure, None).into_http()),
            }
        }
        .boxed()
    }
}

/// The body of those who are not known yet ends, with an error, where no login is longer.
fn limit_handshake(body: Body) -> Body {
    let limited = Limited::new(body, MAX_HANDSHAKE_BYTES);
    Body::new(limited.map_err(|error| match error.downcast::<Status>() {
        Ok(status) => *status,
        Err(_) => Status::resource_exhausted(format!(
            "a Handshake may have {MAX_HANDSHAKE_BYTES} bytes: user and password, or a token"
        )),
    }))
}

/// The principal of a request; headers are read only where the server requires authentication.
async fn principal(
    authenticator: &Authenticator,
    headers: Option<&MetadataMap>,
    peer: Option<IpAddr>,
) -> Result<Principal, Failure> {
    let Some(headers) = headers else {
        return Ok(Principal::default());
    };
    let credentials = credentials::from_headers(headers)?;
    authenticator.admit(credentials.as_ref(), peer).await
}

/// The address of the client that opened the connection.
pub(super) fn peer(extensions: &Extensions) -> Option<IpAddr> {
    let connection = extensions.get::<ConnectionInfo>()?;
    Some(connection.peer.ip().to_canonical())
}
