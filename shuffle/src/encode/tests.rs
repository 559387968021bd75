//! Tests of the encoder.

use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, Int64Array, StringArray, StringViewArray};
use arrow_flight::decode::FlightRecordBatchStream;
use futures::stream;

use super::*;
use crate::testing::{number_rows, samples};

async fn encode(schema: SchemaRef, batches: Vec<RecordBatch>) -> Vec<FlightData> {
    let batches = stream::iter(batches.into_iter().map(Ok));
    frames(schema, batches).try_collect().await.unwrap()
}

async fn decode(messages: Vec<FlightData>) -> Vec<RecordBatch> {
    let messages = stream::iter(messages.into_iter().map(Ok));
    let batches = FlightRecordBatchStream::new_from_flight_data(messages);
    batches.try_collect().await.unwrap()
}

#[tokio::test]
async fn stock_decoder_reads_every_type() {
    for (name, batch) in samples() {
        let schema = batch.schema();
        let sent = vec![batch.clone(), batch.slice(0, 1), batch];
        let messages = encode(Arc::clone(&schema), sent.clone()).await;
        let received = decode(messages).await;
        let together = |batches| arrow::compute::concat_batches(&schema, batches);
        let (sent, received) = (together(&sent).unwrap(), together(&received).unwrap());
        assert_eq!(sent, received, "{name}");
    }
}

#[tokio::test]
async fn dictionaries_change_between_batches() {
    let mut batches = samples();
    batches.retain(|(name, _)| name.contains("dictionaries"));
    let batches: Vec<_> = batches.into_iter().map(|(_, batch)| batch).collect();
    let sent = vec![batches[0].clone(), batches[1].clone(), batches[0].clone()];
    let messages = encode(sent[0].schema(), sent.clone()).await;
    assert_eq!(decode(messages).await, sent);
}

#[tokio::test]
async fn empty_stream_sends_the_schema() {
    let schema = number_rows(0, 1).schema();
    let messages = encode(Arc::clone(&schema), vec![]).await;
    assert_eq!(messages.len(), 1);
    let received = arrow::datatypes::Schema::try_from(&messages[0]).unwrap();
    assert_eq!(received, *schema);
}

#[tokio::test]
async fn messages_stay_below_four_mebibytes() {
    let sizes = |row: usize| {
        if row.is_multiple_of(1000) { 1_500_000 } else { 200 }
    };
    let texts = || (0..10_000).map(|row| "x".repeat(sizes(row)));
    let arrays: [ArrayRef; 2] = [
        Arc::new(StringArray::from_iter_values(texts())),
        Arc::new(StringViewArray::from_iter_values(texts())),
    ];
    for array in arrays {
        let batch = RecordBatch::try_from_iter([("c", array)]).unwrap();
        let messages = encode(batch.schema(), vec![batch.clone()]).await;
        let sizes: Vec<_> = messages.iter().map(Message::encoded_len).collect();
        assert!(sizes.iter().all(|size| *size < 4 * 1024 * 1024), "{sizes:?}");
        let total: usize = sizes.iter().sum();
        assert!(total < 20_000_000, "buffers were sent more than once: {total}");
        assert!(sizes.len() < 40, "{sizes:?}");
        let received = decode(messages).await;
        let received = arrow::compute::concat_batches(&batch.schema(), &received).unwrap();
        assert_eq!(received, batch);
    }
}

#[tokio::test]
async fn huge_row_goes_through() {
    let array: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(6_000_000)]));
    let batch = RecordBatch::try_from_iter([("c", array)]).unwrap();
    let messages = encode(batch.schema(), vec![batch.clone()]).await;
    assert_eq!(decode(messages).await, [batch]);
}

#[tokio::test]
async fn error_ends_the_stream() {
    let failure = Failure::internal("broken");
    let batches = stream::iter([Ok(number_rows(0, 1)), Err(failure.clone()), Ok(number_rows(1, 1))]);
    let messages: Vec<_> = frames(number_rows(0, 1).schema(), batches).collect().await;
    assert_eq!(messages.len(), 3);
    assert_eq!(messages[2], Err(failure));
}

#[tokio::test]
async fn row_above_limit_is_refused() {
    let array: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(MAX_MESSAGE_BYTES)]));
    let batch = RecordBatch::try_from_iter([("c", array)]).unwrap();
    let batches = stream::iter([Ok(batch.clone())]);
    let messages: Vec<_> = frames(batch.schema(), batches).collect().await;
    let refused = messages.last().unwrap().as_ref().unwrap_err();
    assert_eq!(refused.kind, FailureKind::Exhausted);
    assert!(
        refused.message.contains("257 MiB is above the limit of 256 MiB"),
        "{refused}"
    );
}

#[tokio::test]
async fn thousands_of_columns_fit_messages() {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..200));
    let columns = (0..6_000).map(|number| (format!("c{number}"), Arc::clone(&column)));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let messages = encode(batch.schema(), vec![batch.clone()]).await;
    for message in &messages {
        assert!(message.encoded_len() < 4 * 1024 * 1024, "{}", message.encoded_len());
    }
    assert!(messages.len() < 12, "{} messages", messages.len());
    let received = decode(messages).await;
    assert_eq!(
        arrow::compute::concat_batches(&batch.schema(), &received).unwrap(),
        batch
    );
}

#[tokio::test]
async fn large_dictionary_is_not_repeated() {
    let values = (0..100_000).map(|number| format!("value number {number:030} of a large dictionary"));
    let values = Arc::new(StringArray::from_iter_values(values));
    let keys = Int32Array::from_iter_values((0..8_192).map(|row| row * 7));
    let array: ArrayRef = Arc::new(DictionaryArray::new(keys, values));
    let batch = RecordBatch::try_from_iter([("c", array)]).unwrap();
    let messages = encode(batch.schema(), vec![batch.clone()]).await;
    let total: usize = messages.iter().map(Message::encoded_len).sum();
    assert!(total < 2_000_000, "{total} bytes in {} messages", messages.len());
    let received = decode(messages).await;
    let received = arrow::compute::concat_batches(&batch.schema(), &received).unwrap();
    let text = |batch: &RecordBatch| arrow::compute::cast(batch.column(0), &DataType::Utf8).unwrap();
    assert_eq!(&text(&received), &text(&batch));
}
