//! From the root stage to the client: the rows of a query as Flight frames.
//!
//! ```text
//! remote worker   --Flight frames, forwarded as they are--.
//!                                                          >--> one stream: schema, then frames as they come
//! embedded worker --batches, encoded here, once-----------'
//! ```
//!
//! That is a result with one endpoint: it waits in the query's record, and the client that takes it owns it. When the
//! stream is dropped before its end, or the client does not come in time, the query is cancelled. A result with several
//! endpoints stays where it was written, see `retained`.
//!
//! A query that loses a worker starts again. As long as no row has gone to the client, the rows are then read from the
//! beginning, where the query writes them now; else the client is told to run the statement again.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use futures::stream::{self, BoxStream, SelectAll};
use futures::{StreamExt, TryStreamExt};
use squadron_proto::ticket::Fetch;
use squadron_proto::{Failure, FailureKind};
use squadron_scheduler::{QueryProgress, QuerySummary, ResultPart};
use squadron_shuffle::fetch::Fetched;
use squadron_shuffle::{Fetcher, Store, encode};
use tokio::sync::watch;

use super::retained::{Reading, RetainedResult, gone};
use crate::driver::{QueryEvents, QueryUpdate};

/// Frames on their way to a client.
pub type Frames = BoxStream<'static, Result<FlightData, Failure>>;

/// How long a broken stream waits to hear why.
const CAUSE_PATIENCE: Duration = Duration::from_secs(3);

/// A result that waits for its client.
#[derive(Debug)]
pub(super) enum OpenResult {
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
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Ready { batches, .. } => batches.iter().map(|batch| batch.get_array_memory_size() as u64).sum(),
            Self::Running { .. } => 0,
        }
    }
}

/// Reads results, wherever they are.
#[derive(Clone)]
pub struct ResultReader {
    /// Holds the output of embedded workers.
    pub store: Store,
    /// Reaches the other workers.
    pub fetcher: Fetcher,
}

impl ResultReader {
    /// All frames of a result: the schema message first, then the rows. Dropping the stream cancels the query.
    ///
    /// # Errors
    /// The query's own failure, when it comes before the first row can be read.
    pub(super) async fn frames(&self, result: OpenResult) -> Result<Frames, Failure> {
        match result {
            OpenResult::Ready { schema, batches } => {
                let batches = stream::iter(batches.into_iter().map(Ok));
                Ok(encode::frames(schema, batches).boxed())
            }
            OpenResult::Running { schema, mut events } => {
                let rows = self.open(&schema, &mut events).await?;
                let schema_message = encode::frames(Arc::clone(&schema), stream::empty());
                let running = Running {
                    reader: self.clone(),
                    schema,
                    rows,
                    has_forwarded: false,
                    events,
                };
                Ok(schema_message.chain(running.into_stream()).boxed())
            }
        }
    }

    /// All frames of one endpoint of a retained result, which may be read again: the schema message first, then the rows.
    ///
    /// # Errors
    /// The query's own failure, and `NotFound` for rows that are not retained.
    pub(super) async fn retained_frames(
        &self,
        result: &Arc<RetainedResult>,
        endpoint: &Fetch,
    ) -> Result<Frames, Failure> {
        let parts = result.parts_of(endpoint)?;
        let mut progress = result.progress();
        let rows = match self.rows(&result.schema, parts).await {
            Ok(rows) => rows,
            Err(broken) => return Err(cause_of_retained(&mut progress, broken).await),
        };
        let schema_message = encode::frames(Arc::clone(&result.schema), stream::empty());
        let retained = Retained {
            rows,
            progress,
            _reading: result.reading(),
        };
        Ok(schema_message.chain(retained.into_stream()).boxed())
    }

    /// Reads a result to its end, throws the rows away and returns what the query took.
    ///
    /// # Errors
    /// The query's own failure.
    pub(super) async fn read_to_end(
        &self,
        schema: &SchemaRef,
        mut events: QueryEvents,
    ) -> Result<QuerySummary, Failure> {
        loop {
            let mut rows = self.open(schema, &mut events).await?;
            let read = async {
                while rows.try_next().await?.is_some() {}
                Ok(())
            };
            match read.await {
                Ok(()) => break,
                Err(broken) => cause(&mut events, broken).await?,
            }
        }
        events.result_done();
        loop {
            match events.next().await {
                Some(QueryUpdate::Ended(outcome)) => return outcome,
                // What was lost is not needed any more.
                Some(QueryUpdate::Restarted(_) | QueryUpdate::ResultReady { .. }) => {}
                None => return Err(Failure::internal("the query never ended after its last row")),
            }
        }
    }

    /// Waits until the result can be read, and opens it; again when the query has started again meanwhile.
    async fn open(&self, schema: &SchemaRef, events: &mut QueryEvents) -> Result<SelectAll<Frames>, Failure> {
        loop {
            let parts = ready(events).await?;
            match self.rows(schema, parts).await {
                Ok(rows) => return Ok(rows),
                Err(broken) => cause(events, broken).await?,
            }
        }
    }

    /// The rows of a result, all at once, up to `max_bytes` of them. The query has ended well when this returns.
    ///
    /// # Errors
    /// The query's own failure; `Exhausted` where there is more.
    pub(super) async fn collect(
        &self,
        schema: &SchemaRef,
        events: QueryEvents,
        max_bytes: usize,
    ) -> Result<Vec<RecordBatch>, Failure> {
        let result = OpenResult::Running {
            schema: Arc::clone(schema),
            events,
        };
        let frames = self.frames(result).await?;
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
    loop {
        match events.next().await {
            Some(QueryUpdate::ResultReady { parts }) => return Ok(parts),
            Some(QueryUpdate::Restarted(_)) => {}
            Some(QueryUpdate::Ended(Err(failure))) => return Err(failure),
            Some(QueryUpdate::Ended(Ok(_))) | None => {
                return Err(Failure::internal("the query ended before its result could be read"));
            }
        }
    }
}

/// Rows of a query that runs, and the query's own fate.
struct Running {
    reader: ResultReader,
    schema: SchemaRef,
    rows: SelectAll<Frames>,
    /// Whether the client may have a row.
    has_forwarded: bool,
    events: QueryEvents,
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
        loop {
            tokio::select! {
                biased;
                update = self.events.next() => match update {
                    Some(QueryUpdate::Ended(Err(failure))) => return Err(failure),
                    Some(QueryUpdate::Restarted(lost)) => self.begin_again(lost).await?,
                    Some(QueryUpdate::Ended(Ok(_)) | QueryUpdate::ResultReady { .. }) | None => {
                        let frame = self.rows.try_next().await?;
                        self.has_forwarded |= frame.is_some();
                        return Ok(frame);
                    }
                },
                frame = self.rows.try_next() => match frame {
                    Ok(Some(frame)) => {
                        self.has_forwarded = true;
                        return Ok(Some(frame));
                    }
                    Ok(None) => return self.finish().await,
                    Err(broken) => {
                        let lost = restart_after(&mut self.events, broken).await?;
                        self.begin_again(lost).await?;
                    }
                },
            }
        }
    }

    /// The query has started again: so do the rows, unless the client has some.
    async fn begin_again(&mut self, lost: Failure) -> Result<(), Failure> {
        if self.has_forwarded {
            let message = format!(
                "{}; a part of the rows had been sent already, so the server did not run the statement again by itself",
                lost.message
            );
            let failure = Failure::new(lost.kind, message);
            self.events.give_up(failure.clone());
            return Err(failure);
        }
        self.rows = SelectAll::new();
        self.rows = self.reader.open(&self.schema, &mut self.events).await?;
        Ok(())
    }

    async fn finish(&mut self) -> Result<Option<FlightData>, Failure> {
        self.events.result_done();
        loop {
            match self.events.next().await {
                Some(QueryUpdate::Ended(Err(failure))) => return Err(failure),
                // What was lost is not needed any more.
                Some(QueryUpdate::Restarted(_) | QueryUpdate::ResultReady { .. }) => {}
                Some(QueryUpdate::Ended(Ok(_))) | None => return Ok(None),
            }
        }
    }
}

/// Rows of a retained result, and the query's own fate.
struct Retained {
    rows: SelectAll<Frames>,
    progress: watch::Receiver<QueryProgress>,
    _reading: Reading,
}

impl Retained {
    fn into_stream(self) -> Frames {
        stream::unfold(Some(self), |retained| async move {
            let mut retained = retained?;
            match retained.rows.try_next().await {
                Ok(Some(frame)) => Some((Ok(frame), Some(retained))),
                Ok(None) => None,
                Err(broken) => {
                    let failure = cause_of_retained(&mut retained.progress, broken).await;
                    Some((Err(failure), None))
                }
            }
        })
        .boxed()
    }
}

async fn cause_of_retained(progress: &mut watch::Receiver<QueryProgress>, broken: Failure) -> Failure {
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

/// Waits for the restart of a query whose rows broke off.
///
/// # Errors
/// The query's failure, when it does not start again.
async fn cause(events: &mut QueryEvents, broken: Failure) -> Result<(), Failure> {
    restart_after(events, broken).await.map(drop)
}

/// A stream that breaks is the consequence of something: the scheduler hears of that too, within moments. Returns what
/// was lost when the query starts again.
async fn restart_after(events: &mut QueryEvents, broken: Failure) -> Result<Failure, Failure> {
    match tokio::time::timeout(CAUSE_PATIENCE, events.next()).await {
        Ok(Some(QueryUpdate::Restarted(lost))) => Ok(lost),
        Ok(Some(QueryUpdate::Ended(Err(failure)))) => Err(failure),
        Ok(_) | Err(_) => Err(broken),
    }
}
