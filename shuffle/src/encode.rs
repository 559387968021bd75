//! Encodes batches as Flight messages, for shuffle streams and for results.
//!
//! ```text
//! 2 MiB    the target size of a message, less where thousands of columns cost headers and padding
//! 4 MiB    the default limit of gRPC clients: exceeded only by a single row, or by a schema
//! 256 MiB  the limit of every message: a larger row fails its query
//! ```
//!
//! The dictionaries of a message come directly before it, every time, so that messages of several partitions can be
//! mixed in one stream. Messages are not compressed: on a local network that costs more than it saves.

#[cfg(test)]
mod tests;

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
use prost::Message;
use squadron_proto::{Failure, FailureKind};

use crate::{compact, failure};

/// Target size of the rows of a message.
const ROWS_BYTES: usize = 2 * 1024 * 1024;

/// Target size of a message, including everything beside its rows.
const MESSAGE_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;

/// Bytes of a message that one column takes beside its values: its node, and for each of up to three buffers an entry
/// in the header and the padding.
const COLUMN_BYTES: usize = 16 + 3 * (16 + 64);

/// The largest message of the data plane, in bytes: a single row may be this large.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

/// The schema message, also when there are no batches, then the messages of `batches`. Ends at the first error.
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

/// A batch and the `app_metadata` of its messages; without a batch, a message of the tag alone.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) tag: Bytes,
    pub(crate) batch: Option<RecordBatch>,
}

/// The messages of a stream of pieces, encoded on demand.
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
            Some(batch) => split(batch, self.encoder.rows_bytes, &mut self.slices),
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

/// Cuts `batch` into slices of up to `limit` bytes, but of at least one row.
fn split(batch: RecordBatch, limit: usize, slices: &mut VecDeque<RecordBatch>) {
    let rows = batch.num_rows();
    let bytes = compact::sliced_bytes(&batch);
    if rows == 0 {
        return;
    }
    if bytes <= limit || rows == 1 {
        slices.push_back(batch);
        return;
    }
    // Rows differ in size, so each part is measured again.
    let part_rows = (rows / bytes.div_ceil(limit)).max(1);
    for start in (0..rows).step_by(part_rows) {
        let part = batch.slice(start, part_rows.min(rows - start));
        split(part, limit, slices);
    }
}

struct Encoder {
    schema: SchemaRef,
    has_dictionaries: bool,
    /// Target size of the rows of one message.
    rows_bytes: usize,
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
        let message = generator.schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options);
        let encoder = Self {
            schema: SchemaRef::clone(schema),
            has_dictionaries: has_dictionaries(schema),
            rows_bytes: rows_bytes(schema),
            options,
            generator,
            tracker,
            context: IpcWriteContext::default(),
        };
        (encoder, message.into())
    }

    fn encode(&mut self, slice: RecordBatch, tag: &Bytes, messages: &mut VecDeque<FlightData>) -> Result<(), Failure> {
        self.try_encode(slice, tag, messages)
            .map_err(|error| failure::arrow(&error))?;
        match messages.iter().map(Message::encoded_len).max() {
            Some(bytes) if bytes > MAX_MESSAGE_BYTES => Err(too_large(bytes, MAX_MESSAGE_BYTES)),
            Some(_) | None => Ok(()),
        }
    }

    fn try_encode(
        &mut self,
        slice: RecordBatch,
        tag: &Bytes,
        messages: &mut VecDeque<FlightData>,
    ) -> Result<(), ArrowError> {
        let slice = compact::compact_shared(slice)?;
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

    /// Resets the tracker to its state after the schema message, so that the next message carries all its dictionaries.
    fn forget_dictionaries(&mut self) {
        self.tracker.clear();
        self.generator
            .schema_to_bytes_with_dictionary_tracker(&self.schema, &mut self.tracker, &self.options);
    }
}

/// The failure for a row that makes a message of `bytes`, more than `limit`.
pub fn too_large(bytes: usize, limit: usize) -> Failure {
    let megabytes = |bytes: usize| bytes.div_ceil(1024 * 1024);
    Failure::new(
        FailureKind::Exhausted,
        format!(
            "a row of {} MiB is above the limit of {} MiB for one message; select fewer columns, or cut the value with \
             substr",
            megabytes(bytes),
            limit / (1024 * 1024),
        ),
    )
}

/// The target size of the rows of a message: less for thousands of columns, which take much of a message themselves.
fn rows_bytes(schema: &SchemaRef) -> usize {
    let beside = schema.flattened_fields().len() * COLUMN_BYTES;
    MESSAGE_BYTES.saturating_sub(beside).clamp(1, ROWS_BYTES)
}

fn has_dictionaries(schema: &SchemaRef) -> bool {
    let mut fields = schema.flattened_fields().into_iter();
    fields.any(|field| matches!(field.data_type(), DataType::Dictionary(_, _)))
}
