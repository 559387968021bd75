//! From the root stage to the client: which results are open, and their rows as Flight frames.
//!
//! ```text
//! remote worker   --Flight frames, forwarded as they are--.
//!                                                          >--> one stream: schema, then frames as they come
//! embedded worker --batches, encoded here, once-----------'
//! ```
//!
//! That is a result with one endpoint. One with several stays where it was written, see [`kept`].
//!
//! A result waits for its client under a time to live. Whoever takes it owns it: when the stream is dropped before its
//! end, or nobody came in time, the query is cancelled and all it held is freed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use futures::stream::{self, BoxStream, SelectAll};
use futures::{StreamExt, TryStreamExt};
use moka::ops::compute::Op;
use moka::sync::Cache;
use squadron_proto::ticket::Fetch;
use squadron_proto::{Failure, FailureKind, QueryId};
use squadron_shuffle::fetch::Fetched;
use squadron_shuffle::{Fetcher, Store, encode};
use tokio::sync::watch;

use super::retained::{KeptResult, Reading, gone};
use crate::auth::Principal;
use crate::counted::Counted;
use crate::driver::{QueryEvents, QueryUpdate, SchedulerHandle};
use squadron_scheduler::{QueryProgress, QuerySummary, ResultPart};

/// Frames on their way to a client.
pub type Frames = BoxStream<'static, Result<FlightData, Failure>>;

/// How often results that nobody fetched are looked for.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// How many ended queries are remembered, and how long, so that their clients may cancel them once more.
const MAX_ENDED: u64 = 10_000;
const ENDED_MEMORY: Duration = Duration::from_secs(600);

/// How long a broken stream waits to hear why.
const CAUSE_PATIENCE: Duration = Duration::from_secs(3);

/// A result that waits for its client.
#[derive(Debug)]
pub enum OpenResult {
    /// Rows that the server made itself.
    Ready {
        /// Their schema.
        schema: SchemaRef,
        /// The rows.
        batches: Vec<RecordBatch>,
    },
    /// Rows of a query that runs.
    Running {
        /// The schema that the client was told.
        schema: SchemaRef,
        /// What becomes of the query; dropping it cancels the query.
        events: QueryEvents,
    },
}

impl OpenResult {
    /// What it takes of the server's memory.
    fn bytes(&self) -> u64 {
        match self {
            Self::Ready { batches, .. } => batches.iter().map(|batch| batch.get_array_memory_size() as u64).sum(),
            Self::Running { .. } => 0,
        }
    }
}

/// The results that wait for their clients, and those that are being read. Each belongs to a principal; for another
/// one it is not there.
#[derive(Clone, Debug)]
pub struct OpenResults {
    waiting: Cache<QueryId, Arc<Waiting>>,
    /// Bytes of the rows that wait here, not at a worker.
    ready_bytes: Arc<AtomicU64>,
    streaming: Arc<Mutex<HashMap<QueryId, Principal>>>,
    ended: Cache<QueryId, Principal>,
}

#[derive(Debug)]
struct Waiting {
    owner: Principal,
    result: Mutex<Option<OpenResult>>,
    bytes: Counted,
}

/// Says that a result is being read, for as long as it lives.
#[derive(Debug)]
pub struct Streaming {
    query: QueryId,
    results: OpenResults,
}

impl Streaming {
    /// The frames, which hold the guard until they are dropped.
    pub fn over(self, frames: Frames) -> Frames {
        frames
            .inspect(move |_| {
                let _held = &self;
            })
            .boxed()
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if let Some(owner) = lock(&self.results.streaming).remove(&self.query) {
            self.results.ended.insert(self.query, owner);
        }
    }
}

impl OpenResults {
    /// Results are dropped when nobody took them for `time_to_live`.
    pub fn new(time_to_live: Duration) -> Self {
        Self {
            waiting: Cache::builder().time_to_live(time_to_live).build(),
            ready_bytes: Arc::default(),
            streaming: Arc::default(),
            ended: Cache::builder()
                .max_capacity(MAX_ENDED)
                .time_to_live(ENDED_MEMORY)
                .build(),
        }
    }

    /// Keeps `result` until its client, `owner`, comes.
    pub fn put(&self, query: QueryId, owner: &Principal, result: OpenResult) {
        let waiting = Waiting {
            bytes: Counted::new(&self.ready_bytes, result.bytes()),
            owner: owner.clone(),
            result: Mutex::new(Some(result)),
        };
        self.waiting.insert(query, Arc::new(waiting));
    }

    /// The result, for the one who comes first.
    ///
    /// # Errors
    /// `NotFound` when it was taken, or waited too long, or never was, or belongs to another principal.
    pub fn take(&self, query: QueryId, principal: &Principal) -> Result<(OpenResult, Streaming), Failure> {
        let gone = || {
            Failure::new(
                FailureKind::NotFound,
                "the result was already fetched, cancelled, or not fetched in time; run the statement again",
            )
        };
        let waiting = self.waiting.get(&query).ok_or_else(gone)?;
        if waiting.owner != *principal {
            return Err(gone());
        }
        let result = lock(&waiting.result).take().ok_or_else(gone)?;
        lock(&self.streaming).insert(query, principal.clone());
        self.waiting.invalidate(&query);
        let guard = Streaming {
            query,
            results: self.clone(),
        };
        Ok((result, guard))
    }

    /// Whether the query is one of `principal` that waits, is being read or has just ended.
    pub fn is_of(&self, query: QueryId, principal: &Principal) -> bool {
        let waiting = self.waiting.get(&query);
        waiting.is_some_and(|waiting| waiting.owner == *principal)
            || lock(&self.streaming).get(&query) == Some(principal)
            || self.ended.get(&query).as_ref() == Some(principal)
    }

    /// A query of `owner` was ended otherwise.
    pub fn remember(&self, query: QueryId, owner: &Principal) {
        self.ended.insert(query, owner.clone());
    }

    /// Drops a result that nobody will take, if it still waits.
    pub fn discard(&self, query: QueryId) {
        if let Some(waiting) = self.waiting.remove(&query) {
            self.ended.insert(query, waiting.owner.clone());
            drop(lock(&waiting.result).take());
        }
    }

    /// Bytes of the rows that wait here, not at a worker.
    pub fn ready_bytes(&self) -> u64 {
        self.ready_bytes.load(Ordering::Relaxed)
    }

    /// Drops the oldest of those until so many bytes are free. Answers how many that were.
    pub fn shed(&self, bytes: u64) -> usize {
        let waiting = self.waiting.iter();
        let mut ready: Vec<_> = waiting
            .map(|(query, waiting)| (*query, waiting.bytes.count()))
            .filter(|&(_, bytes)| bytes > 0)
            .collect();
        ready.sort_unstable();
        let (mut freed, mut dropped) = (0, 0);
        for (query, held) in ready {
            if freed >= bytes {
                break;
            }
            self.discard(query);
            freed += held;
            dropped += 1;
        }
        dropped
    }

    /// Lets a result that waits do so for its whole time to live from now on.
    pub fn touch(&self, query: QueryId) {
        self.waiting.entry(query).and_compute_with(|waiting| match waiting {
            Some(waiting) => Op::Put(waiting.into_value()),
            None => Op::Nop,
        });
    }

    /// How many results wait or are being read.
    pub fn len(&self) -> u64 {
        self.waiting.run_pending_tasks();
        self.waiting.entry_count() + lock(&self.streaming).len() as u64
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops what waited too long, until cancelled.
    pub async fn sweep(self) {
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            interval.tick().await;
            self.waiting.run_pending_tasks();
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads results, wherever they are.
#[derive(Clone)]
pub struct ResultReader {
    /// Holds the output of embedded workers.
    pub store: Store,
    /// Reaches the other workers.
    pub fetcher: Fetcher,
    /// Is told when a client has everything.
    pub scheduler: SchedulerHandle,
}

impl ResultReader {
    /// All frames of a result: the schema message first, then the rows. Dropping the stream cancels the query.
    ///
    /// # Errors
    /// The query's own failure, when it comes before the first row can be read.
    pub async fn frames(&self, query: QueryId, result: OpenResult) -> Result<Frames, Failure> {
        match result {
            OpenResult::Ready { schema, batches } => {
                let batches = stream::iter(batches.into_iter().map(Ok));
                Ok(encode::frames(schema, batches).boxed())
            }
            OpenResult::Running { schema, mut events } => {
                let parts = ready(&mut events).await?;
                let rows = match self.rows(&schema, parts).await {
                    Ok(rows) => rows,
                    Err(broken) => return Err(cause(&mut events, broken).await),
                };
                let schema_message = encode::frames(schema, stream::empty());
                let guarded = Running {
                    query,
                    rows,
                    events,
                    scheduler: self.scheduler.clone(),
                };
                Ok(schema_message.chain(guarded.into_stream()).boxed())
            }
        }
    }

    /// All frames of one endpoint of a kept result, which may be read again: the schema message first, then the rows.
    ///
    /// # Errors
    /// The query's own failure, and `NotFound` for rows that are not kept.
    pub async fn kept_frames(&self, result: &Arc<KeptResult>, endpoint: &Fetch) -> Result<Frames, Failure> {
        let parts = result.parts_of(endpoint)?;
        let mut progress = result.progress();
        let rows = match self.rows(&result.schema, parts).await {
            Ok(rows) => rows,
            Err(broken) => return Err(cause_of_kept(&mut progress, broken).await),
        };
        let schema_message = encode::frames(Arc::clone(&result.schema), stream::empty());
        let kept = Kept {
            rows,
            progress,
            _reading: result.reading(),
        };
        Ok(schema_message.chain(kept.into_stream()).boxed())
    }

    /// Reads a result to its end, throws the rows away and returns what the query took.
    ///
    /// # Errors
    /// The query's own failure.
    pub async fn read_to_end(
        &self,
        query: QueryId,
        schema: &SchemaRef,
        mut events: QueryEvents,
    ) -> Result<QuerySummary, Failure> {
        let parts = ready(&mut events).await?;
        let read = async {
            let mut rows = self.rows(schema, parts).await?;
            while rows.try_next().await?.is_some() {}
            Ok(())
        };
        if let Err(broken) = read.await {
            return Err(cause(&mut events, broken).await);
        }
        self.scheduler.result_done(query);
        match events.next().await {
            Some(QueryUpdate::Ended(outcome)) => outcome,
            Some(QueryUpdate::ResultReady { .. }) | None => {
                Err(Failure::internal("the query never ended after its last row"))
            }
        }
    }

    /// The rows of a result, all at once, up to `max_bytes` of them. The query has ended well when this returns.
    ///
    /// # Errors
    /// The query's own failure; `Exhausted` where there is more.
    pub async fn collect(
        &self,
        query: QueryId,
        schema: &SchemaRef,
        events: QueryEvents,
        max_bytes: usize,
    ) -> Result<Vec<RecordBatch>, Failure> {
        let result = OpenResult::Running {
            schema: Arc::clone(schema),
            events,
        };
        let frames = self.frames(query, result).await?;
        let frames = frames.map_err(|failure| FlightError::ExternalError(Box::new(failure)));
        let mut rows = FlightRecordBatchStream::new_from_flight_data(frames);
        let mut batches = Vec::new();
        let mut bytes = 0_usize;
        while let Some(batch) = rows.try_next().await.map_err(undecoded)? {
            bytes = bytes.saturating_add(batch.get_array_memory_size());
            if bytes > max_bytes {
                return Err(Failure::new(
                    FailureKind::Exhausted,
                    format!(
                        "the result is larger than the {max_bytes} bytes that the server keeps for such a statement; make it \
                         smaller, or bind one row of parameters at a time"
                    ),
                ));
            }
            batches.push(batch);
        }
        Ok(batches)
    }

    async fn rows(&self, schema: &SchemaRef, parts: Vec<ResultPart>) -> Result<SelectAll<Frames>, Failure> {
        let mut rows = SelectAll::new();
        for part in parts {
            if self.store.contains(part.attempt) {
                rows.push(self.local_rows(schema, &part)?);
            } else {
                rows.push(self.remote_rows(&part).await?);
            }
        }
        Ok(rows)
    }

    fn local_rows(&self, schema: &SchemaRef, part: &ResultPart) -> Result<Frames, Failure> {
        let mut batches = SelectAll::new();
        for partition in &part.partitions {
            batches.push(self.store.read(part.attempt, *partition)?);
        }
        // The schema message went ahead of all parts.
        Ok(encode::frames(Arc::clone(schema), batches).skip(1).boxed())
    }

    async fn remote_rows(&self, part: &ResultPart) -> Result<Frames, Failure> {
        let fetch = part.fetch(&part.partitions);
        let fetched = self.fetcher.open(&part.address, fetch).await?;
        let frames = fetched.try_filter_map(|step| async move {
            Ok(match step {
                Fetched::Frame(_, frame) => Some(frame.with_app_metadata(bytes::Bytes::new())),
                Fetched::Schema(_) | Fetched::End(_) => None,
            })
        });
        Ok(frames.boxed())
    }
}

/// The failure behind a stream that could not be decoded.
fn undecoded(error: FlightError) -> Failure {
    match error {
        FlightError::ExternalError(inner) => match inner.downcast::<Failure>() {
            Ok(failure) => *failure,
            Err(other) => Failure::internal(other),
        },
        other => Failure::internal(other),
    }
}

/// Waits until the result can be read.
async fn ready(events: &mut QueryEvents) -> Result<Vec<ResultPart>, Failure> {
    match events.next().await {
        Some(QueryUpdate::ResultReady { parts }) => Ok(parts),
        Some(QueryUpdate::Ended(Err(failure))) => Err(failure),
        Some(QueryUpdate::Ended(Ok(_))) | None => {
            Err(Failure::internal("the query ended before its result could be read"))
        }
    }
}

/// Rows of a query that runs, and the query's own fate.
struct Running {
    query: QueryId,
    rows: SelectAll<Frames>,
    events: QueryEvents,
    scheduler: SchedulerHandle,
}

impl Running {
    fn into_stream(self) -> Frames {
        stream::unfold(Some(self), |running| async move {
            let mut running = running?;
            match running.step().await {
                Ok(Some(frame)) => Some((Ok(frame), Some(running))),
                Ok(None) => None,
                Err(failure) => Some((Err(failure), None)),
            }
        })
        .boxed()
    }

    /// The next frame; `None` when all rows are there and the query ended well. The query's failure goes before what
    /// the loss of a stream says, since it names the cause.
    async fn step(&mut self) -> Result<Option<FlightData>, Failure> {
        tokio::select! {
            biased;
            update = self.events.next() => match update {
                Some(QueryUpdate::Ended(Err(failure))) => Err(failure),
                Some(QueryUpdate::Ended(Ok(_)) | QueryUpdate::ResultReady { .. }) | None => {
                    self.rows.try_next().await
                }
            },
            frame = self.rows.try_next() => match frame {
                Ok(Some(frame)) => Ok(Some(frame)),
                Ok(None) => self.finish().await,
                Err(failure) => Err(cause(&mut self.events, failure).await),
            },
        }
    }

    async fn finish(&mut self) -> Result<Option<FlightData>, Failure> {
        self.scheduler.result_done(self.query);
        match self.events.next().await {
            Some(QueryUpdate::Ended(Err(failure))) => Err(failure),
            Some(QueryUpdate::Ended(Ok(_)) | QueryUpdate::ResultReady { .. }) | None => Ok(None),
        }
    }
}

/// Rows of a kept result, and the query's own fate.
struct Kept {
    rows: SelectAll<Frames>,
    progress: watch::Receiver<QueryProgress>,
    _reading: Reading,
}

impl Kept {
    fn into_stream(self) -> Frames {
        stream::unfold(Some(self), |kept| async move {
            let mut kept = kept?;
            match kept.rows.try_next().await {
                Ok(Some(frame)) => Some((Ok(frame), Some(kept))),
                Ok(None) => None,
                Err(broken) => {
                    let failure = cause_of_kept(&mut kept.progress, broken).await;
                    Some((Err(failure), None))
                }
            }
        })
        .boxed()
    }
}

async fn cause_of_kept(progress: &mut watch::Receiver<QueryProgress>, broken: Failure) -> Failure {
    let ended = progress.wait_for(|progress| progress.ended.is_some());
    let told = match tokio::time::timeout(CAUSE_PATIENCE, ended).await {
        Ok(Ok(told)) => told.ended.clone(),
        Ok(Err(_)) | Err(_) => None,
    };
    match told {
        Some(Err(failure)) => failure,
        Some(Ok(())) => gone(),
        None => broken,
    }
}

/// A stream that breaks is the consequence of something: the scheduler hears of that too, within moments.
async fn cause(events: &mut QueryEvents, broken: Failure) -> Failure {
    match tokio::time::timeout(CAUSE_PATIENCE, events.next()).await {
        Ok(Some(QueryUpdate::Ended(Err(failure)))) => failure,
        Ok(_) | Err(_) => broken,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;

    use super::*;

    fn ready() -> OpenResult {
        OpenResult::Ready {
            schema: Arc::new(Schema::empty()),
            batches: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_result_is_there_for_its_principal_alone_and_once() {
        let results = OpenResults::new(Duration::from_secs(60));
        let (ann, bob) = (Principal::user("ann"), Principal::user("bob"));
        let (query, unknown) = (QueryId::new(), QueryId::new());
        results.put(query, &ann, ready());
        let foreign = results.take(query, &bob).unwrap_err();
        assert_eq!(foreign, results.take(unknown, &bob).unwrap_err());
        assert_eq!(foreign.kind, FailureKind::NotFound);
        let (_, reading) = results.take(query, &ann).unwrap();
        assert_eq!(results.len(), 1);
        assert!(results.is_of(query, &ann) && !results.is_of(query, &bob));
        assert!(results.take(query, &ann).is_err());
        drop(reading);
        assert!(results.is_empty());
        assert!(results.is_of(query, &ann) && !results.is_of(query, &bob));
        assert!(!results.is_of(unknown, &ann));
    }

    #[tokio::test]
    async fn a_discarded_result_is_remembered_for_a_while() {
        let results = OpenResults::new(Duration::from_secs(60));
        let (ann, query) = (Principal::user("ann"), QueryId::new());
        results.put(query, &ann, ready());
        results.discard(query);
        results.discard(query);
        assert!(results.take(query, &ann).is_err());
        assert!(results.is_of(query, &ann));
    }
}
