//! Reads what the root stage wrote, from the server's own store or from a worker.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::FlightData;
use datafusion::arrow::datatypes::SchemaRef;
use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, TryStreamExt};
use squadron_proto::{Failure, FailureKind};
use squadron_scheduler::ResultPart;
use squadron_shuffle::fetch::Fetched;
use squadron_shuffle::{Fetcher, Store, encode};

/// Frames on their way to a client.
pub type Frames = BoxStream<'static, Result<FlightData, Failure>>;

/// Frames of one part, each with its partition.
pub(super) type PartFrames = BoxStream<'static, Result<(u32, FlightData), Failure>>;

/// How long a broken stream waits to hear why.
pub(super) const CAUSE_PATIENCE: Duration = Duration::from_secs(3);

/// Reads results, wherever they are.
#[derive(Clone)]
pub struct ResultReader {
    /// Holds the output of embedded workers.
    pub store: Store,
    /// Reaches the other workers.
    pub fetcher: Fetcher,
}

impl ResultReader {
    /// The rows of these parts, without a schema message.
    pub(super) async fn rows(&self, schema: &SchemaRef, parts: Vec<ResultPart>) -> Result<SelectAll<Frames>, Failure> {
        let mut rows = SelectAll::new();
        for part in parts {
            let frames = self.part(schema, &part).await?;
            rows.push(frames.map_ok(|(_, frame)| frame).boxed());
        }
        Ok(rows)
    }

    /// The rows of one part, without a schema message.
    pub(super) async fn part(&self, schema: &SchemaRef, part: &ResultPart) -> Result<PartFrames, Failure> {
        match self.store.contains(part.attempt) {
            true => self.local_rows(schema, part),
            false => self.remote_rows(part).await,
        }
    }

    fn local_rows(&self, schema: &SchemaRef, part: &ResultPart) -> Result<PartFrames, Failure> {
        let mut rows = SelectAll::new();
        for &partition in &part.partitions {
            let batches = self.store.read(part.attempt, partition)?;
            // The schema message went ahead of all parts.
            let frames = encode::frames(Arc::clone(schema), batches).skip(1);
            rows.push(frames.map_ok(move |frame| (partition, frame)).boxed());
        }
        Ok(rows.boxed())
    }

    async fn remote_rows(&self, part: &ResultPart) -> Result<PartFrames, Failure> {
        let fetch = part.fetch(&part.partitions);
        let fetched = self.fetcher.open(&part.address, fetch).await?;
        let frames = fetched.try_filter_map(|step| async move {
            Ok(match step {
                Fetched::Frame(tag, frame) => Some((tag.partition, frame.with_app_metadata(bytes::Bytes::new()))),
                Fetched::Schema(_) | Fetched::End(_) => None,
            })
        });
        Ok(frames.boxed())
    }
}

/// Whether rows could not be read, which says nothing about the query's own fate.
pub(super) fn is_loss(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::ShuffleLost | FailureKind::WorkerLost)
}
