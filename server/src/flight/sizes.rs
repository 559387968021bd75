//! Refuses messages above the limit, of clients and to clients, with an error that names the limit.
//!
//! ```text
//! client --message--> tonic: "length too large" (OutOfRange) --SizeLimited--> ResourceExhausted with the limit
//! client <--row------ checked here, before tonic would break the stream
//! ```

use std::convert::Infallible;
use std::task::{Context, Poll};

use arrow_flight::FlightData;
use prost::Message;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::encode;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

use super::status;

/// The frame, unless it is larger than `limit` bytes.
pub(super) fn check_frame(frame: FlightData, limit: usize) -> Result<FlightData, Failure> {
    match frame.encoded_len() {
        bytes if bytes > limit => Err(encode::too_large(bytes, limit)),
        _ => Ok(frame),
    }
}

/// The failure for tonic's status of a message that is too large to decode; `None` for another status.
pub(super) fn too_large(status: &Status) -> Option<Failure> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    let limit = status.message().rsplit("limit is: ").next()?;
    let limit: usize = limit.split(' ').next()?.parse().ok()?;
    Some(Failure::new(
        FailureKind::Exhausted,
        format!(
            "the message is larger than {} MiB, which the server's --max-message-bytes allows; send less at once, for \
             instance smaller batches",
            limit / (1024 * 1024)
        ),
    ))
}

/// A gRPC service that answers a request above the limit with an error that names the limit.
#[derive(Clone, Debug)]
pub struct SizeLimited<S>(pub(super) S);

impl<S: NamedService> NamedService for SizeLimited<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for SizeLimited<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // tonic answers a request that it did not decode with headers alone.
            let refused = Status::from_header_map(answer.headers());
            Ok(match refused.as_ref().and_then(too_large) {
                Some(failure) => status::from_failure(&failure, None).into_http(),
                None => answer,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_above_limit_is_refused() {
        let frame = FlightData {
            data_body: vec![0; 3 * 1024 * 1024].into(),
            ..FlightData::default()
        };
        assert_eq!(check_frame(frame.clone(), 4 * 1024 * 1024), Ok(frame.clone()));
        let refused = check_frame(frame, 2 * 1024 * 1024).unwrap_err();
        assert!(refused.message.contains("above the limit of 2 MiB"), "{refused}");
    }

    #[test]
    fn tonic_size_error_is_parsed() {
        let said = "Error, decoded message length too large: found 300000000 bytes, the limit is: 268435456 bytes";
        let failure = too_large(&Status::out_of_range(said)).unwrap();
        assert_eq!(failure.kind, FailureKind::Exhausted);
        assert!(failure.message.contains("256 MiB"), "{failure}");
        assert_eq!(too_large(&Status::out_of_range("something else")), None);
        assert_eq!(too_large(&Status::internal(said)), None);
    }
}
