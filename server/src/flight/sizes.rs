//! Messages above the limit: refused with a sentence that names it, whichever way they go.
//!
//! ```text
//! client --message--> tonic: "length too large" (OutOfRange) --SizeLimited--> ResourceExhausted, in words
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

/// The frame, if its client may be sent it.
pub(super) fn fits(frame: FlightData, limit: usize) -> Result<FlightData, Failure> {
    match frame.encoded_len() {
        bytes if bytes > limit => Err(encode::too_large(bytes, limit)),
        _ => Ok(frame),
    }
}

/// The failure behind what tonic says of a message that it does not decode for its size.
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

/// A gRPC service whose refusals of large requests are sentences.
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
            // A request that was not even decoded is answered by its headers alone.
            let refused = Status::from_header_map(answer.headers());
            Ok(match refused.as_ref().and_then(too_large) {
                Some(failure) => status::of(&failure, None).into_http(),
                None => answer,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_above_the_limit_is_refused_in_words() {
        let frame = FlightData {
            data_body: vec![0; 3 * 1024 * 1024].into(),
            ..FlightData::default()
        };
        assert_eq!(fits(frame.clone(), 4 * 1024 * 1024), Ok(frame.clone()));
        let refused = fits(frame, 2 * 1024 * 1024).unwrap_err();
        assert!(refused.message.contains("above the limit of 2 MiB"), "{refused}");
    }

    #[test]
    fn what_tonic_says_is_understood() {
        let said = "Error, decoded message length too large: found 300000000 bytes, the limit is: 268435456 bytes";
        let failure = too_large(&Status::out_of_range(said)).unwrap();
        assert_eq!(failure.kind, FailureKind::Exhausted);
        assert!(failure.message.contains("256 MiB"), "{failure}");
        assert_eq!(too_large(&Status::out_of_range("something else")), None);
        assert_eq!(too_large(&Status::internal(said)), None);
    }
}
