//! Reads shuffle output of other processes.
//!
//! One HTTP/2 connection per address carries all streams to it. A stream without an active reader stops taking bytes,
//! so the connection's window is far larger than a stream's: waiting streams must not stop the others.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, Ticket};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use prost::Message;
use squadron_proto::ticket::{ClusterKey, Fetch, Subject};
use squadron_proto::wire::ticket::FetchTag;
use squadron_proto::{AttemptKey, Failure, FailureKind, WorkerId};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::encode::MAX_MESSAGE_BYTES;
use crate::identity;
use crate::net::tls::Trust;
use crate::status::{from_status, shuffle_lost};

const DEFAULT_BUDGET_BYTES: usize = 32 * 1024 * 1024;
/// A ticket is presented right away; an hour allows for clocks that differ.
const TICKET_LIFETIME: Duration = Duration::from_secs(3600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer may take to begin its answer; the rows may take as long as they need.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(8);
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// HTTP/2 frames, not Flight messages: the default of 16 KiB costs a header for each.
const FRAME_BYTES: u32 = 256 * 1024;
/// The maximum of HTTP/2, less a reserve for h2: enough for a thousand waiting streams.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - (1 << 20);
/// How many addresses keep their connections.
const MAX_CHANNELS: usize = 1024;

/// How a process reads from others.
#[derive(Clone)]
pub struct FetchOptions {
    /// Signs the tickets.
    pub key: ClusterKey,
    /// The server's address, for producers without one; `None` in the server itself.
    pub server_address: Option<String>,
    /// How many fetched bytes one [`crate::ShuffleReadExec`] holds in memory before it stops reading or, when that
    /// would block the partition that is read, spills to disk.
    pub budget_bytes: usize,
    /// Certificate authorities trusted for peers.
    pub trust: Trust,
}

impl FetchOptions {
    /// A budget of 32 MiB, no server address and public trust.
    pub fn new(key: ClusterKey) -> Self {
        Self {
            key,
            server_address: None,
            budget_bytes: DEFAULT_BUDGET_BYTES,
            trust: Trust::public(),
        }
    }
}

/// Opens fetch streams over pooled connections, which its clones share.
#[derive(Clone)]
pub struct Fetcher(Arc<Inner>);

struct Inner {
    options: FetchOptions,
    io: Handle,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Fetcher {
    /// The current runtime drives the connections. It should not be the one that plans run on, where a long computation
    /// would delay them.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(options: FetchOptions) -> Self {
        Self(Arc::new(Inner {
            options,
            io: Handle::current(),
            channels: Mutex::default(),
        }))
    }

    /// Opens one stream of partitions of outputs at `address` (empty: the server), for the server's results and for
    /// [`crate::ShuffleReadExec`]. Dropping the stream ends the transfer.
    ///
    /// # Errors
    /// WorkerLost, naming the address, when it cannot be reached, ShuffleLost when it lacks one of the outputs; both name
    /// the outputs.
    pub async fn open(&self, address: &str, fetch: Fetch) -> Result<FetchStream, Failure> {
        let outputs = fetch.outputs.iter().map(|output| fetch.key(output)).collect();
        let numbered = (0..).zip(&fetch.outputs);
        let open = numbered
            .flat_map(|(index, output)| {
                let partitions = output.partitions.iter();
                partitions.map(move |partition| (index, *partition))
            })
            .collect();
        let mut stream = FetchStream {
            address: String::new(),
            messages: stream::empty().boxed(),
            outputs,
            open,
            state: State::Start,
        };
        stream.address = self.resolve(address).map_err(|failure| stream.name_outputs(failure))?;
        let subject = Subject::Fetch(fetch);
        let ticket = self.0.options.key.seal(&subject, SystemTime::now(), TICKET_LIFETIME);
        let channel = self
            .channel(&stream.address)
            .map_err(|failure| stream.name_outputs(failure))?;
        let mut client = FlightServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let answer = timeout(OPEN_TIMEOUT, client.do_get(Ticket { ticket })).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::unavailable(format!("no answer within {OPEN_TIMEOUT:?}"))));
        let messages = answer.map_err(|status| stream.name_outputs(from_status(&status, &stream.address)))?;
        stream.messages = messages.into_inner().boxed();
        Ok(stream)
    }

    /// Asks which worker answers at `address`, within `limit`; none: something else does.
    ///
    /// # Errors
    /// ShuffleLost, naming the address, when nothing answers in time.
    pub async fn identify(&self, address: &str, limit: Duration) -> Result<Option<WorkerId>, Failure> {
        let lost = |reason: &str| shuffle_lost(address, reason);
        let endpoint = endpoint(&self.resolve(address)?)
            .and_then(|endpoint| self.0.options.trust.secure(endpoint))
            .map_err(|error| lost(&error.to_string()))?;
        match timeout(limit, identity::ask(endpoint)).await {
            Ok(answer) => answer.map_err(|reason| lost(&reason)),
            Err(_) => Err(lost("no answer")),
        }
    }

    /// See [`FetchOptions::budget_bytes`].
    pub(crate) fn budget_bytes(&self) -> usize {
        self.0.options.budget_bytes
    }

    /// The runtime that drives connections.
    pub(crate) fn io(&self) -> &Handle {
        &self.0.io
    }

    /// The full address, as an `http` or `https` URL.
    fn resolve(&self, address: &str) -> Result<String, Failure> {
        let address = match (address, &self.0.options.server_address) {
            ("", Some(server)) => server,
            ("", None) => return Err(shuffle_lost("this server", "it does not hold the output any more")),
            (address, _) => address,
        };
        Ok(match address.split_once("://") {
            Some(("grpc", rest)) => format!("http://{rest}"),
            Some(("grpc+tls", rest)) => format!("https://{rest}"),
            Some(_) => address.to_string(),
            None => format!("http://{address}"),
        })
    }

    fn channel(&self, address: &str) -> Result<Channel, Failure> {
        let mut channels = self.0.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = endpoint(address)
            .and_then(|endpoint| self.0.options.trust.secure(endpoint))
            .map_err(|error| shuffle_lost(address, &error.to_string()))?;
        let channel = {
            // The tasks of the connection run on the runtime in which the channel is made.
            let _io = self.0.io.enter();
            endpoint.connect_lazy()
        };
        if channels.len() >= MAX_CHANNELS {
            // Streams keep their connections alive; other connections are opened again on demand.
            channels.clear();
        }
        channels.insert(address.to_string(), channel.clone());
        Ok(channel)
    }
}

fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(address.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// One item of a fetch stream.
#[derive(Clone, Debug)]
pub enum Fetched {
    /// The schema message: the first item, once.
    Schema(FlightData),
    /// A message of a batch, its `app_metadata` unchanged. The dictionaries of a batch come directly before it, every
    /// time, in messages of the same tag.
    Frame(FetchTag, FlightData),
    /// This partition of this output is complete.
    End(FetchTag),
}

/// The messages of a fetch. Ends without an error only after every partition of every output has ended; a stream that
/// is cut off earlier fails as ShuffleLost.
pub struct FetchStream {
    address: String,
    messages: BoxStream<'static, Result<FlightData, Status>>,
    outputs: Vec<AttemptKey>,
    /// The partitions that have not ended, as `(output, partition)`.
    open: HashSet<(u32, u32)>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Start,
    Rows,
    Ended,
}

impl FetchStream {
    /// A failure to get at rows names the outputs of which some are missing.
    fn name_outputs(&self, failure: Failure) -> Failure {
        let is_loss = matches!(failure.kind, FailureKind::ShuffleLost | FailureKind::WorkerLost);
        if !is_loss || !failure.lost.is_empty() {
            return failure;
        }
        let is_open = |number: u32| self.open.iter().any(|(output, _)| *output == number);
        let unread = (0..).zip(&self.outputs).filter(|(number, _)| is_open(*number));
        failure.of_outputs(unread.map(|(_, key)| *key).collect())
    }

    fn step(&mut self, data: FlightData) -> Result<Fetched, Failure> {
        if self.state == State::Start {
            self.state = State::Rows;
            return Ok(Fetched::Schema(data));
        }
        let tag = FetchTag::decode(data.app_metadata.as_ref())
            .map_err(|error| shuffle_lost(&self.address, &format!("it sent a message without a tag ({error})")))?;
        let part = (tag.output, tag.partition);
        let expected = if tag.end_of_partition {
            self.open.remove(&part)
        } else {
            self.open.contains(&part)
        };
        if !expected {
            return Err(shuffle_lost(
                &self.address,
                &format!("it sent rows of partition {} that were not asked for", tag.partition),
            ));
        }
        Ok(if tag.end_of_partition {
            Fetched::End(tag)
        } else {
            Fetched::Frame(tag, data)
        })
    }
}

impl Stream for FetchStream {
    type Item = Result<Fetched, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.state == State::Ended {
            return Poll::Ready(None);
        }
        let step = match ready!(self.messages.poll_next_unpin(cx)) {
            Some(Ok(data)) => self.step(data),
            Some(Err(status)) => Err(from_status(&status, &self.address)),
            None if self.open.is_empty() && self.state == State::Rows => {
                self.state = State::Ended;
                return Poll::Ready(None);
            }
            None => Err(shuffle_lost(
                &self.address,
                &format!("the stream ended before {} of its partitions", self.open.len()),
            )),
        };
        if step.is_err() {
            self.state = State::Ended;
        }
        Poll::Ready(Some(step.map_err(|failure| self.name_outputs(failure))))
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use squadron_proto::{AttemptNumber, FailureKind, QueryId, StageId, TaskId};

    use super::*;

    const OUTPUT: AttemptKey = AttemptKey {
        query: QueryId::from_u128(1),
        stage: StageId(2),
        task: TaskId(3),
        attempt: AttemptNumber(4),
    };

    /// A stream of partition 7 of output 0.
    fn stream(messages: Vec<Result<FlightData, Status>>) -> FetchStream {
        FetchStream {
            address: "http://a:1".into(),
            outputs: vec![OUTPUT],
            messages: stream::iter(messages).boxed(),
            open: HashSet::from([(0, 7)]),
            state: State::Start,
        }
    }

    fn message(partition: u32, end_of_partition: bool) -> Result<FlightData, Status> {
        let tag = FetchTag {
            output: 0,
            partition,
            end_of_partition,
        };
        Ok(FlightData {
            app_metadata: tag.encode_to_vec().into(),
            ..FlightData::default()
        })
    }

    fn schema() -> Result<FlightData, Status> {
        Ok(FlightData::default())
    }

    async fn read_all(messages: Vec<Result<FlightData, Status>>) -> Result<usize, Failure> {
        let mut stream = stream(messages);
        let mut steps = 0;
        while let Some(step) = stream.next().await {
            step?;
            steps += 1;
        }
        Ok(steps)
    }

    #[tokio::test]
    async fn stream_completes_after_every_partition() {
        let messages = vec![schema(), message(7, false), message(7, true)];
        assert_eq!(read_all(messages).await, Ok(3));
    }

    #[tokio::test]
    async fn incomplete_stream_names_its_address_and_what_is_missing() {
        let table = [
            vec![],
            vec![schema()],
            vec![schema(), message(7, false)],
            vec![schema(), message(8, false), message(7, true)],
        ];
        for messages in table {
            let failure = read_all(messages.clone()).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::ShuffleLost, "{messages:?}");
            assert!(failure.message.contains("http://a:1"), "{failure}");
            assert_eq!(failure.lost, [OUTPUT]);
        }
        let broken = vec![schema(), Err(Status::unavailable("connection reset"))];
        let failure = read_all(broken).await.unwrap_err();
        assert_eq!((failure.kind, failure.lost), (FailureKind::WorkerLost, vec![OUTPUT]));
    }

    #[tokio::test]
    async fn rows_after_the_end_of_their_partition_are_refused() {
        for repeats_end in [false, true] {
            let messages = vec![schema(), message(7, true), message(7, repeats_end)];
            let failure = read_all(messages).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::ShuffleLost);
        }
    }

    #[tokio::test]
    async fn addresses_resolve_to_http_urls() {
        let fetcher = Fetcher::new(FetchOptions {
            server_address: Some("grpc://server:1".into()),
            ..FetchOptions::new(ClusterKey::random())
        });
        for (given, wanted) in [
            ("", "http://server:1"),
            ("a:2", "http://a:2"),
            ("http://a:2", "http://a:2"),
            ("grpc+tls://a:2", "https://a:2"),
        ] {
            assert_eq!(fetcher.resolve(given).unwrap(), wanted);
        }
        let in_server = Fetcher::new(FetchOptions::new(ClusterKey::random()));
        let failure = in_server.resolve("").unwrap_err();
        assert_eq!(failure.kind, FailureKind::ShuffleLost);
    }
}
