//! The messages of a fetch, as another worker sends them, and as they lie in a spill file.

use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int64Array, ListArray, RecordBatch, StringArray, StringViewArray};
use arrow::datatypes::{Int32Type, Int64Type};
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use bytes::Bytes;
use futures::{StreamExt, executor, stream};
use prost::Message;
use squadron_shuffle::decode::{Packet, schema};

/// How many messages of one input are read.
const MOST: usize = 16;

/// Length-delimited messages, up to the first that cannot be read.
pub(super) fn split<M: Message + Default>(bytes: &[u8], most: usize) -> Vec<M> {
    let mut bytes = Bytes::copy_from_slice(bytes);
    let mut messages = Vec::new();
    while !bytes.is_empty() && messages.len() < most {
        match M::decode_length_delimited(&mut bytes) {
            Ok(message) => messages.push(message),
            Err(_) => break,
        }
    }
    messages
}

pub(super) fn joined<M: Message>(messages: &[M]) -> Vec<u8> {
    let bytes = messages.iter().flat_map(Message::encode_length_delimited_to_vec);
    bytes.collect()
}

/// The first message is the schema, the others are those of batches.
pub(super) fn judge(bytes: &[u8]) -> Result<(), String> {
    drop(Packet::from_bytes(Bytes::copy_from_slice(bytes)));
    let mut messages = split::<FlightData>(bytes, MOST).into_iter();
    let Some(Ok(schema)) = messages.next().map(|data| schema(&data)) else {
        return Ok(());
    };
    let mut packet = Packet::default();
    for data in messages {
        match packet.push(data) {
            Err(_) => return Ok(()),
            Ok(false) => {}
            // Whatever comes out is fine: it must come.
            Ok(true) => drop(std::mem::take(&mut packet).decode(&schema, &schema)),
        }
    }
    Ok(())
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    vec![joined(&messages(batch()))]
}

/// Schema, dictionaries and rows of `batch`.
pub(super) fn messages(batch: RecordBatch) -> Vec<FlightData> {
    let encoded = FlightDataEncoderBuilder::new().build(stream::iter([Ok(batch)]));
    let messages = executor::block_on(encoded.collect::<Vec<_>>());
    messages
        .into_iter()
        .map(|data| data.expect("it can be encoded"))
        .collect()
}

/// Rows of the layouts that Arrow knows: fixed, offsets, views, nested, dictionary.
pub(super) fn batch() -> RecordBatch {
    let words = ["one", "a word that is longer than a view holds"];
    let lists = [Some(vec![Some(1), None]), None];
    let columns: [(&str, ArrayRef); 5] = [
        ("n", Arc::new(Int64Array::from(vec![Some(1), None]))),
        ("s", Arc::new(StringArray::from(words.to_vec()))),
        ("v", Arc::new(StringViewArray::from(words.to_vec()))),
        ("l", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))),
        ("d", Arc::new(DictionaryArray::<Int32Type>::from_iter(words))),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}
