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
//! Where parts of a result are lost, see `result_parts`.

use std::sync::Arc;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use futures::stream::{self, SelectAll};
use futures::{StreamExt, TryStreamExt};
use squadron_proto::Failure;
use squadron_proto::ticket::Fetch;
use squadron_scheduler::{QueryProgress, QuerySummary};
use squadron_shuffle::encode;
use tokio::sync::watch;
use tokio::time::timeout;

use super::result_parts::RunningRows;
use super::result_reader::{CAUSE_PATIENCE, is_loss};
pub use super::result_reader::{Frames, ResultReader};
use super::retained::{Reading, RetainedResult, gone};
use crate::driver::QueryEvents;

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

impl ResultReader {
    /// All frames of a result: the schema message at once, then the rows as they come, or the query's own failure. A client
    /// has its reader while the query computes, and can cancel it. Dropping the stream cancels the query.
    pub(super) fn frames(&self, result: OpenResult) -> Frames {
        match result {
            OpenResult::Ready { schema, batches } => {
                let batches = stream::iter(batches.into_iter().map(Ok));
                encode::frames(schema, batches).boxed()
            }
            OpenResult::Running { schema, events } => {
                let rows = RunningRows::open(self.clone(), Arc::clone(&schema), events);
                let rows = stream::once(rows).map_ok(RunningRows::into_stream).try_flatten();
                let schema_message = encode::frames(schema, stream::empty());
                schema_message.chain(rows).boxed()
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
        let mut progress = result.progress();
        let parts = result.parts_of(endpoint).await?;
        let rows = match self.rows(&result.schema, parts).await {
            Ok(rows) => rows,
            Err(broken) if is_loss(&broken) => {
                let others = timeout(CAUSE_PATIENCE, result.other_parts_of(endpoint, &broken)).await;
                self.rows(&result.schema, others.unwrap_or(Err(broken))?).await?
            }
            Err(broken) => return Err(cause_of_retained(&mut progress, broken).await),
        };
        let schema_message = encode::frames(Arc::clone(&result.schema), stream::empty());
        let retained = Retained {
            rows,
            progress,
            reading: result.reading(),
        };
        Ok(schema_message.chain(retained.into_stream()).boxed())
    }

    /// Reads a result to its end, throws the rows away and returns what the query took.
    ///
    /// # Errors
    /// The query's own failure.
    pub(super) async fn read_to_end(&self, schema: &SchemaRef, events: QueryEvents) -> Result<QuerySummary, Failure> {
        let mut rows = RunningRows::open(self.clone(), Arc::clone(schema), events).await?;
        rows.throw_away().await?;
        rows.end().await
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
        let rows = RunningRows::open(self.clone(), Arc::clone(schema), events).await?;
        let frames = rows.collect(max_bytes).await?;
        let frames = stream::iter(frames.into_iter().map(Ok));
        let schema_message = encode::frames(Arc::clone(schema), stream::empty());
        let frames = schema_message.chain(frames);
        let frames = frames.map_err(|failure| FlightError::ExternalError(Box::new(failure)));
        let batches = FlightRecordBatchStream::new_from_flight_data(frames);
        batches.try_collect().await.map_err(undecoded)
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

/// Rows of a retained result, and the query's own fate.
struct Retained {
    rows: SelectAll<Frames>,
    progress: watch::Receiver<QueryProgress>,
    reading: Reading,
}

impl Retained {
    fn into_stream(self) -> Frames {
        stream::unfold(Some(self), |retained| async move {
            let mut retained = retained?;
            match retained.rows.try_next().await {
                Ok(Some(frame)) => Some((Ok(frame), Some(retained))),
                Ok(None) => None,
                Err(broken) => {
                    if is_loss(&broken) {
                        retained.reading.result().cannot_read(&broken);
                    }
                    let failure = cause_of_retained(&mut retained.progress, broken).await;
                    Some((Err(failure), None))
                }
            }
        })
        .boxed()
    }
}

/// Why rows of a retained result broke off: the query ended, or they are written again.
async fn cause_of_retained(progress: &mut watch::Receiver<QueryProgress>, broken: Failure) -> Failure {
    let is_lost = |progress: &QueryProgress| {
        let mut parts = progress.parts.iter();
        !broken.lost.is_empty() && !parts.any(|part| broken.lost.contains(&part.attempt))
    };
    let settled = progress.wait_for(|progress| progress.ended.is_some() || is_lost(progress));
    let ended = match timeout(CAUSE_PATIENCE, settled).await {
        Ok(Ok(told)) => told.ended.clone(),
        Ok(Err(_)) | Err(_) => return broken,
    };
    match ended {
        Some(Err(failure)) => failure,
        Some(Ok(())) => gone(),
        None => Failure::new(
            broken.kind,
            format!(
                "{}; they are written again: fetch the same endpoint once more",
                broken.message
            ),
        ),
    }
}
