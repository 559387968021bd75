//! The calls of a connection: while there is none, the connection may be closed as idle; one whose client has stopped to
//! read gives up its result.
//!
//! ```text
//! request ── CountCalls ── service ── response ── CallBody ── HTTP/2
//!                `── Calls of the connection <──────┘  since when HTTP/2 has not asked for the next part
//!                      `── IdleTimer, polled while the connection waits for the peer
//! ```

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tracing::info;

/// When connections and readers are given up.
#[derive(Clone, Copy, Debug)]
pub struct IdleLimits {
    /// How long a connection may be without calls.
    pub connection: Duration,
    /// How long the client of a call may leave the next part of the answer unread.
    pub reader: Duration,
}

/// The calls of one connection that have not ended.
#[derive(Debug)]
pub(super) struct Calls(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The bodies of their answers; none as long as there is no answer.
    open: HashMap<u64, Option<Weak<CallBody>>>,
    next: u64,
    /// When the last call ended.
    idle_since: Instant,
}

impl Default for Calls {
    fn default() -> Self {
        Self(Mutex::new(State {
            open: HashMap::new(),
            next: 0,
            idle_since: Instant::now(),
        }))
    }
}

impl Calls {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(self: &Arc<Self>) -> OpenCall {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.open.insert(number, None);
        OpenCall {
            calls: Arc::clone(self),
            number,
        }
    }

    /// Whether there has been no call for so long.
    fn are_idle_for(&self, timeout: Duration) -> bool {
        let state = self.state();
        state.open.is_empty() && state.idle_since.elapsed() >= timeout
    }

    fn give_up_unread(&self, timeout: Duration) {
        // Dropping an answer may end its query: not under the lock.
        let bodies: Vec<_> = self.state().open.values().flatten().filter_map(Weak::upgrade).collect();
        for body in bodies {
            body.give_up_if_unread(timeout);
        }
    }
}

/// A call, until it is dropped.
pub(super) struct OpenCall {
    calls: Arc<Calls>,
    number: u64,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut state = self.calls.state();
        state.open.remove(&self.number);
        state.idle_since = Instant::now();
    }
}

/// Looks at the calls of a connection now and then.
pub(super) struct IdleTimer {
    limits: IdleLimits,
    next: Pin<Box<Sleep>>,
}

impl fmt::Debug for IdleTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleTimer")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl IdleTimer {
    pub(super) fn new(limits: IdleLimits) -> Self {
        Self {
            limits,
            next: Box::pin(sleep(Self::interval(limits))),
        }
    }

    /// Often enough that a limit is exceeded by a quarter at most.
    fn interval(limits: IdleLimits) -> Duration {
        limits.connection.min(limits.reader) / 4
    }

    /// Gives up answers that nobody reads. Whether the connection is to be closed; otherwise `cx` is woken when to ask
    /// again.
    pub(super) fn poll_expired(&mut self, calls: &Calls, cx: &mut Context<'_>) -> bool {
        while self.next.poll_unpin(cx).is_ready() {
            calls.give_up_unread(self.limits.reader);
            if calls.are_idle_for(self.limits.connection) {
                return true;
            }
            let next = Instant::now() + Self::interval(self.limits).max(Duration::from_millis(1));
            self.next.as_mut().reset(next);
        }
        false
    }
}

/// The answer of a call, on its way to the client.
pub(super) struct Answer(Arc<CallBody>);

struct CallBody {
    progress: Mutex<Progress>,
    call: OpenCall,
}

impl fmt::Debug for CallBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallBody").finish_non_exhaustive()
    }
}

struct Progress {
    /// None once it was given up.
    body: Option<Body>,
    /// Since when the next step is the client's; none while it is the server's.
    unread_since: Option<Instant>,
    /// What a client hears that reads on after that.
    last_words: Option<Frame<bytes::Bytes>>,
}

impl Answer {
    pub(super) fn new(body: Body, call: OpenCall) -> Self {
        let number = call.number;
        let answer = Arc::new(CallBody {
            progress: Mutex::new(Progress {
                body: Some(body),
                unread_since: Some(Instant::now()),
                last_words: None,
            }),
            call,
        });
        let mut state = answer.call.calls.state();
        state.open.insert(number, Some(Arc::downgrade(&answer)));
        drop(state);
        Self(answer)
    }
}

impl CallBody {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up_if_unread(&self, timeout: Duration) {
        let mut progress = self.progress();
        let is_unread = progress.unread_since.is_some_and(|since| since.elapsed() >= timeout);
        let given_up = progress.body.take_if(|body| is_unread && !body.is_end_stream());
        if given_up.is_some() {
            progress.last_words = given_up_frame();
        }
        drop(progress);
        if given_up.is_some() {
            info!("an answer was given up: its client has not read for {timeout:?}");
        }
    }
}

/// The end of an answer that was given up: an error in the trailers, where gRPC has it.
fn given_up_frame() -> Option<Frame<bytes::Bytes>> {
    let status = Status::deadline_exceeded(
        "the answer was given up, since nothing was read of it for --idle-reader-timeout; run the statement again",
    );
    let mut trailers = http::HeaderMap::new();
    status.add_header(&mut trailers).ok()?;
    Some(Frame::trailers(trailers))
}

impl http_body::Body for Answer {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let mut progress = self.0.progress();
        let Some(body) = &mut progress.body else {
            return Poll::Ready(progress.last_words.take().map(Ok));
        };
        let frame = Pin::new(body).poll_frame(cx);
        progress.unread_since = frame.is_ready().then(Instant::now);
        frame
    }

    fn is_end_stream(&self) -> bool {
        let progress = self.0.progress();
        match &progress.body {
            Some(body) => body.is_end_stream(),
            None => progress.last_words.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let progress = self.0.progress();
        progress.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use http_body::Frame;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::listen::incoming;

    const LIMITS: IdleLimits = IdleLimits {
        connection: Duration::from_millis(40),
        reader: Duration::from_millis(40),
    };

    /// A body that always has another byte.
    struct Endless;

    impl http_body::Body for Endless {
        type Data = bytes::Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
            Poll::Ready(Some(Ok(Frame::data(bytes::Bytes::from_static(b"x")))))
        }
    }

    async fn next_frame(answer: &mut Answer) -> Result<Frame<bytes::Bytes>, Status> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *answer).poll_frame(cx)).await;
        frame.expect("the body does not end")
    }

    #[tokio::test]
    async fn connection_without_calls_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Box::pin(incoming(listener, None, Some(LIMITS)));
        let _client = TcpStream::connect(address).await.unwrap();
        let mut connection = incoming.next().await.unwrap().unwrap();
        // As long as there is a call, the connection stays.
        let info = tonic::transport::server::Connected::connect_info(&connection);
        let call = info.calls.begin();
        let read = tokio::time::timeout(4 * LIMITS.connection, connection.read_u8()).await;
        assert!(read.is_err(), "still open");
        drop(call);
        let ended = connection.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), std::io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn unread_answer_is_given_up() {
        let calls = Arc::new(Calls::default());
        let mut answer = Answer::new(Body::new(Endless), calls.begin());
        assert!(next_frame(&mut answer).await.is_ok());
        calls.give_up_unread(Duration::from_secs(60));
        assert!(next_frame(&mut answer).await.is_ok(), "it was read in time");
        calls.give_up_unread(Duration::ZERO);
        let trailers = next_frame(&mut answer).await.unwrap().into_trailers().unwrap();
        let status = Status::from_header_map(&trailers).unwrap();
        assert!(status.message().contains("--idle-reader-timeout"), "{status}");
        let end = std::future::poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await;
        assert!(end.is_none());
        assert!(
            !calls.are_idle_for(Duration::ZERO),
            "the call goes on until its answer is dropped"
        );
        drop(answer);
        assert!(calls.are_idle_for(Duration::ZERO));
    }
}
