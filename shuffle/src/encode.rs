//! Batches to Flight messages: the one encoder of shuffle streams and of results.
//!
//! Large batches are split so that a message stays near 2 MiB, below the 4 MiB that gRPC clients accept by default; only
//! a single row may be larger. The dictionaries of a message come directly before it, every time, so that messages of
//! several partitions can be mixed in one stream. Nothing is compressed: on a local network that costs more than it
//! saves.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_flight::FlightData;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use futures::{Stream, TryStreamExt};
use squadron_proto::Failure;

use crate::{compact, failure};

/// What a message should not exceed.
const MESSAGE_BYTES: usize = 2 * 1024 * 1024;

/// The schema message, then the messages of `batches`; the schema message comes also when there are none. Ends at the
/// first error.
pub fn frames<S>(
    schema: SchemaRef,
    batches: S,
) -> impl Stream<Item = Result<FlightData, Failure>> + Send + 'static + use<S>
where
    S: Stream<Item = Result<RecordBatch, Failure>> + Send + 'static,
{
    let pieces = batches.map_ok(|batch| Piece {
        tag: Bytes::new(),
        batch: Some(batch),
    });
    Frames::new(&schema, pieces)
}

/// A batch and what stands in the `app_metadata` of its messages; without a batch, a message of the tag alone.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) tag: Bytes,
    pub(crate) batch: Option<RecordBatch>,
}

/// The messages of a stream of pieces, encoded as they are asked for.
pub(crate) struct Frames {
    pieces: BoxStream<'static, Result<Piece, Failure>>,
    encoder: Encoder,
    tag: Bytes,
    slices: VecDeque<RecordBatch>,
    ready: VecDeque<FlightData>,
    ended: bool,
}

impl Frames {
    pub(crate) fn new<S>(schema: &SchemaRef, pieces: S) -> Self
    where
        S: Stream<Item = Result<Piece, Failure>> + Send + 'static,
    {
        let (encoder, first) = Encoder::new(schema);
        Self {
            pieces: pieces.boxed(),
            encoder,
            tag: Bytes::new(),
            slices: VecDeque::new(),
            ready: VecDeque::from([first]),
            ended: false,
        }
    }

    fn take(&mut self, piece: Piece) {
        self.tag = piece.tag;
        match piece.batch {
            Some(batch) => split(batch, &mut self.slices),
            None => self.ready.push_back(FlightData {
                app_metadata: self.tag.clone(),
                ..FlightData::default()
            }),
        }
    }
}

impl Stream for Frames {
    type Item = Result<FlightData, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(data) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(data)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            let failed = if let Some(slice) = this.slices.pop_front() {
                this.encoder.encode(slice, &this.tag, &mut this.ready).err()
            } else {
                match ready!(this.pieces.poll_next_unpin(cx)) {
                    Some(Ok(piece)) => {
                        this.take(piece);
                        None
                    }
                    Some(Err(failure)) => Some(failure),
                    None => {
                        this.ended = true;
                        None
                    }
                }
            };
            if let Some(failure) = failed {
                this.ended = true;
                this.ready.clear();
                return Poll::Ready(Some(Err(failure)));
            }
        }
    }
}

/// Cuts `batch` into slices of about the size of a message, single rows at the least.
fn split(batch: RecordBatch, slices: &mut VecDeque<RecordBatch>) {
    let rows = batch.num_rows();
    let bytes = compact::sliced_bytes(&batch);
    if rows == 0 {
        return;
    }
    if bytes <= MESSAGE_BYTES || rows == 1 {
        slices.push_back(batch);
        return;
    }
    // Rows differ in size, so each part is looked at again.
    let part_rows = (rows / bytes.div_ceil(MESSAGE_BYTES)).max(1);
    for start in (0..rows).step_by(part_rows) {
        split(batch.slice(start, part_rows.min(rows - start)), slices);
    }
}

struct Encoder {
    schema: SchemaRef,
    has_dictionaries: bool,
    options: IpcWriteOptions,
    generator: IpcDataGenerator,
    tracker: DictionaryTracker,
    context: IpcWriteContext,
}

impl Encoder {
    /// An encoder and the schema message.
    fn new(schema: &SchemaRef) -> (Self, FlightData) {
        let options = IpcWriteOptions::default();
        let generator = IpcDataGenerator::default();
        let mut tracker = DictionaryTracker::new(false);
        let message =
            generator.schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options);
        let encoder = Self {
            schema: SchemaRef::clone(schema),
            has_dictionaries: has_dictionaries(schema),
            options,
            generator,
            tracker,
            context: IpcWriteContext::default(),
        };
        (encoder, message.into())
    }

    fn encode(
        &mut self,
        slice: RecordBatch,
        tag: &Bytes,
        messages: &mut VecDeque<FlightData>,
    ) -> Result<(), Failure> {
        self.try_encode(slice, tag, messages)
            .map_err(|error| failure::arrow(&error))
    }

    fn try_encode(
        &mut self,
        slice: RecordBatch,
        tag: &Bytes,
        messages: &mut VecDeque<FlightData>,
    ) -> Result<(), ArrowError> {
        let slice = compact::compact_views(slice)?;
        if self.has_dictionaries {
            self.forget_dictionaries();
        }
        let (dictionaries, batch) =
            self.generator
                .encode(&slice, &mut self.tracker, &self.options, &mut self.context)?;
        for encoded in dictionaries.into_iter().chain([batch]) {
            messages.push_back(FlightData {
                app_metadata: tag.clone(),
                ..encoded.into()
            });
        }
        Ok(())
    }

    /// Makes the tracker as it was after the schema message, so that the next message brings all its dictionaries.
    fn forget_dictionaries(&mut self) {
        self.tracker.clear();
        self.generator.schema_to_bytes_with_dictionary_tracker(
            &self.schema,
            &mut self.tracker,
            &self.options,
        );
    }
}

fn has_dictionaries(schema: &SchemaRef) -> bool {
    let mut fields = schema.flattened_fields().into_iter();
    fields.any(|field| matches!(field.data_type(), DataType::Dictionary(_, _)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray, StringViewArray};
    use arrow_flight::decode::FlightRecordBatchStream;
    use futures::stream;
    use prost::Message;

    use super::*;
    use crate::testing::{numbered, samples};

    async fn messages(schema: SchemaRef, batches: Vec<RecordBatch>) -> Vec<FlightData> {
        let batches = stream::iter(batches.into_iter().map(Ok));
        frames(schema, batches).try_collect().await.unwrap()
    }

    async fn decoded(messages: Vec<FlightData>) -> Vec<RecordBatch> {
        let messages = stream::iter(messages.into_iter().map(Ok));
        let batches = FlightRecordBatchStream::new_from_flight_data(messages);
        batches.try_collect().await.unwrap()
    }

    #[tokio::test]
    async fn a_stock_decoder_reads_every_kind_of_batch() {
        for (name, batch) in samples() {
            let schema = batch.schema();
            let sent = vec![batch.clone(), batch.slice(0, 1), batch];
            let messages = messages(Arc::clone(&schema), sent.clone()).await;
            let received = decoded(messages).await;
            let together = |batches| arrow::compute::concat_batches(&schema, batches);
            let (sent, received) = (together(&sent).unwrap(), together(&received).unwrap());
            assert_eq!(sent, received, "{name}");
        }
    }

    #[tokio::test]
    async fn dictionaries_may_change_from_batch_to_batch() {
        let mut batches = samples();
        batches.retain(|(name, _)| name.contains("dictionaries"));
        let batches: Vec<_> = batches.into_iter().map(|(_, batch)| batch).collect();
        let sent = vec![batches[0].clone(), batches[1].clone(), batches[0].clone()];
        let messages = messages(sent[0].schema(), sent.clone()).await;
        assert_eq!(decoded(messages).await, sent);
    }

    #[tokio::test]
    async fn without_batches_there_is_the_schema() {
        let schema = numbered(0, 1).schema();
        let messages = messages(Arc::clone(&schema), vec![]).await;
        assert_eq!(messages.len(), 1);
        let received = arrow::datatypes::Schema::try_from(&messages[0]).unwrap();
        assert_eq!(received, *schema);
    }

    #[tokio::test]
    async fn messages_stay_small_whatever_the_rows_are() {
        let sizes = |row: usize| {
            if row.is_multiple_of(1000) {
                1_500_000
            } else {
                200
            }
        };
        let texts = || (0..10_000).map(|row| "x".repeat(sizes(row)));
        let arrays: [ArrayRef; 2] = [
            Arc::new(StringArray::from_iter_values(texts())),
            Arc::new(StringViewArray::from_iter_values(texts())),
        ];
        for array in arrays {
            let batch = RecordBatch::try_from_iter([("c", array)]).unwrap();
            let messages = messages(batch.schema(), vec![batch.clone()]).await;
            let sizes: Vec<_> = messages.iter().map(Message::encoded_len).collect();
            assert!(
                sizes.iter().all(|size| *size < 4 * 1024 * 1024),
                "{sizes:?}"
            );
            let total: usize = sizes.iter().sum();
            assert!(
                total < 20_000_000,
                "buffers were sent more than once: {total}"
            );
            assert!(sizes.len() < 40, "{sizes:?}");
            let received = decoded(messages).await;
            let received = arrow::compute::concat_batches(&batch.schema(), &received).unwrap();
            assert_eq!(received, batch);
        }
    }

    #[tokio::test]
    async fn one_huge_row_goes_through() {
        let array: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(6_000_000)]));
        let batch = RecordBatch::try_from_iter([("c", array)]).unwrap();
        let messages = messages(batch.schema(), vec![batch.clone()]).await;
        assert_eq!(decoded(messages).await, [batch]);
    }

    #[tokio::test]
    async fn an_error_ends_the_stream() {
        let failure = Failure::internal("broken");
        let batches = stream::iter([Ok(numbered(0, 1)), Err(failure.clone()), Ok(numbered(1, 1))]);
        let messages: Vec<_> = frames(numbered(0, 1).schema(), batches).collect().await;
        assert_eq!(messages.len(), 3);
        assert_eq!(messages[2], Err(failure));
    }
}
