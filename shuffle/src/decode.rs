//! Decodes the Flight messages of a fetch to batches.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow::ipc::{MessageHeader, root_as_message};
use arrow_flight::FlightData;
use bytes::Bytes;
use prost::Message;
use squadron_proto::Failure;

use crate::messages::{check, without_panics};

/// Buffers at multiples of this are used in place; arrow would copy others one by one.
const ALIGNMENT: usize = 64;

/// The schema that the first message of a fetch holds.
///
/// # Errors
/// Internal, when it holds none.
pub fn schema(data: &FlightData) -> Result<SchemaRef, Failure> {
    let read = without_panics(|| Schema::try_from(data)).map_err(unreadable)?;
    Ok(Arc::new(read))
}

/// The messages of one batch: its dictionaries, then itself.
#[derive(Debug, Default)]
pub struct Packet(Vec<FlightData>);

impl Packet {
    /// Adds the next message. Returns whether it was the last one of the batch.
    ///
    /// # Errors
    /// Internal, when it is neither a dictionary nor a batch.
    pub fn push(&mut self, data: FlightData) -> Result<bool, Failure> {
        let message = root_as_message(&data.data_header).map_err(unreadable)?;
        let complete = match message.header_type() {
            MessageHeader::DictionaryBatch => false,
            MessageHeader::RecordBatch => true,
            other => return Err(unreadable(format!("unexpected message {other:?}"))),
        };
        self.0.push(data);
        Ok(complete)
    }

    /// Whether no message was added yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all messages.
    pub fn bytes(&self) -> usize {
        let messages = self.0.iter();
        messages.map(|data| data.data_header.len() + data.data_body.len()).sum()
    }

    /// Encodes the messages for a spill file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = self.0.iter().map(FlightData::encoded_len).sum::<usize>();
        let mut bytes = Vec::with_capacity(length + 10 * self.0.len());
        for data in &self.0 {
            bytes.extend(data.encode_length_delimited_to_vec());
        }
        bytes
    }

    /// Decodes the messages of a spill file.
    ///
    /// # Errors
    /// Internal, when they cannot be read.
    pub fn from_bytes(mut bytes: Bytes) -> Result<Self, Failure> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            messages.push(FlightData::decode_length_delimited(&mut bytes).map_err(unreadable)?);
        }
        Ok(Self(messages))
    }

    /// Decodes the batch, sent with the schema `sent`, as one of the schema `wanted`; these differ in metadata at most.
    ///
    /// # Errors
    /// Internal, when the messages are not a batch of that schema.
    pub fn decode(self, sent: &SchemaRef, wanted: &SchemaRef) -> Result<RecordBatch, Failure> {
        let mut dictionaries = HashMap::new();
        for data in self.0 {
            let message = root_as_message(&data.data_header).map_err(unreadable)?;
            check(&message, &data.data_body).map_err(unreadable)?;
            let body = align(&data.data_body);
            let version = message.version();
            if let Some(dictionary) = message.header_as_dictionary_batch() {
                without_panics(|| read_dictionary(&body, dictionary, sent, &mut dictionaries, &version))
                    .map_err(unreadable)?;
            } else if let Some(batch) = message.header_as_record_batch() {
                let batch = without_panics(|| {
                    RecordBatchDecoder::try_new(&body, batch, Arc::clone(sent), &dictionaries, &version)?
                        .read_record_batch()
                });
                return with_schema(&batch.map_err(unreadable)?, wanted).map_err(unreadable);
            }
        }
        Err(unreadable("a packet without a batch"))
    }
}

fn with_schema(batch: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(wanted), batch.columns().to_vec(), &options)
}

fn align(body: &Bytes) -> Buffer {
    if body.as_ptr().addr().is_multiple_of(ALIGNMENT) {
        Buffer::from(body.clone())
    } else {
        Buffer::from(body.as_ref())
    }
}

fn unreadable(reason: impl std::fmt::Display) -> Failure {
    Failure::internal(format!("fetched rows cannot be read: {reason}"))
}
