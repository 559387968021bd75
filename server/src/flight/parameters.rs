//! Reads bound parameters: an Arrow stream inside DoPut, within limits.
//!
//! Arrow's IPC reader panics on some malformed messages and trusts the uncompressed sizes in them. Here a panic becomes
//! InvalidArgument, and the sizes are added up before anything is allocated.

use std::panic::AssertUnwindSafe;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::ipc;
use arrow_flight::FlightData;
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use squadron_proto::failure::panic_message;
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::messages;
use tonic::{Code, Status};

use super::sizes;
use super::status::invalid;

/// Bytes of one set of parameters, uncompressed.
const MAX_PARAMETER_BYTES: u64 = 64 * 1024 * 1024;

/// Rows of one set of parameters; each row of an update is one execution.
const MAX_PARAMETER_ROWS: usize = 1_000_000;

/// Reads the stream that begins with `first`.
///
/// `None` when the client sent no columns, by which drivers request one execution without parameters. A schema with
/// columns and no rows is a batch of no rows: nothing is executed.
pub(super) async fn read(
    first: FlightData,
    rest: impl Stream<Item = Result<FlightData, Status>> + Unpin,
) -> Result<Option<RecordBatch>, Failure> {
    let messages = collect(first, rest).await?;
    let decoded = AssertUnwindSafe(decode(messages)).catch_unwind().await;
    decoded.unwrap_or_else(|panic| {
        Err(invalid(format!(
            "the parameters are not a valid Arrow stream: {}",
            panic_message(&*panic).unwrap_or("without a message")
        )))
    })
}

/// All messages that carry Arrow data, within the limit of bytes.
async fn collect(
    first: FlightData,
    mut rest: impl Stream<Item = Result<FlightData, Status>> + Unpin,
) -> Result<Vec<FlightData>, Failure> {
    let mut messages = Vec::new();
    let mut bytes = 0_u64;
    let mut next = Some(Ok(first));
    while let Some(message) = next {
        let message = message.map_err(|status| broken_stream(&status))?;
        if !message.data_header.is_empty() {
            bytes = bytes.saturating_add(claimed_bytes(&message)?);
            if bytes > MAX_PARAMETER_BYTES {
                return Err(too_large());
            }
            messages.push(message);
        }
        next = rest.next().await;
    }
    Ok(messages)
}

async fn decode(messages: Vec<FlightData>) -> Result<Option<RecordBatch>, Failure> {
    let mut decoder = FlightDataDecoder::new(stream::iter(messages.into_iter().map(Ok::<_, FlightError>)));
    let mut schema: Option<SchemaRef> = None;
    let mut batches = Vec::new();
    let mut rows = 0_usize;
    while let Some(message) = decoder.try_next().await.map_err(|error| unreadable(&error))? {
        match message.payload {
            DecodedPayload::Schema(_) if schema.is_some() => {
                return Err(invalid("the parameters have two schemas; send one"));
            }
            DecodedPayload::Schema(read) => schema = Some(read),
            DecodedPayload::RecordBatch(batch) => {
                rows = rows.saturating_add(batch.num_rows());
                if rows > MAX_PARAMETER_ROWS {
                    return Err(too_large());
                }
                batches.push(batch);
            }
            DecodedPayload::None => (),
        }
    }
    let Some(schema) = schema.filter(|schema| !schema.fields().is_empty()) else {
        return Ok(None);
    };
    let batch = concat_batches(&schema, &batches)
        .map_err(|error| invalid(format!("the parameters do not fit together: {error}")))?;
    Ok(Some(batch))
}

/// How many bytes decoding this message may take, by the sizes in its header.
fn claimed_bytes(message: &FlightData) -> Result<u64, Failure> {
    let sent = (message.data_body.len() + message.data_header.len()) as u64;
    let header = ipc::root_as_message(&message.data_header)
        .map_err(|error| invalid(format!("the parameters are not an Arrow stream: {error}")))?;
    Ok(sent.saturating_add(messages::uncompressed_bytes(&header, &message.data_body)))
}

fn too_large() -> Failure {
    Failure::new(
        FailureKind::Exhausted,
        format!(
            "the parameters are larger than {} MiB or {MAX_PARAMETER_ROWS} rows; send them in parts",
            MAX_PARAMETER_BYTES / (1024 * 1024)
        ),
    )
}

fn unreadable(error: &FlightError) -> Failure {
    invalid(format!("the parameters are not a valid Arrow stream: {error}"))
}

/// The failure for a request stream that ended in an error.
pub(super) fn broken_stream(status: &Status) -> Failure {
    if let Some(failure) = sizes::too_large(status) {
        return failure;
    }
    let kind = match status.code() {
        Code::Cancelled | Code::Unknown | Code::Unavailable => FailureKind::Cancelled,
        _ => FailureKind::Invalid,
    };
    Failure::new(kind, format!("the request stream ended early: {}", status.message()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::datatypes::Schema;
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::IpcWriteOptions;
    use arrow_flight::encode::FlightDataEncoderBuilder;

    use super::*;

    fn batch(rows: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(
            (0..rows).map(|row| format!("text {row}")),
        ));
        RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).unwrap()
    }

    async fn encode(schema: SchemaRef, batches: Vec<RecordBatch>) -> Vec<FlightData> {
        let options = IpcWriteOptions::default()
            .try_with_compression(Some(CompressionType::LZ4_FRAME))
            .unwrap();
        FlightDataEncoderBuilder::new()
            .with_options(options)
            .with_schema(schema)
            .build(stream::iter(batches.into_iter().map(Ok)))
            .try_collect()
            .await
            .unwrap()
    }

    async fn read_all(messages: Vec<FlightData>) -> Result<Option<RecordBatch>, Failure> {
        let mut messages = messages.into_iter();
        let first = messages.next().unwrap_or_default();
        read(first, stream::iter(messages.map(Ok))).await
    }

    #[tokio::test]
    async fn batches_become_one_batch() {
        let messages = encode(batch(0).schema(), vec![batch(3), batch(2)]).await;
        let read = read_all(messages).await.unwrap().unwrap();
        assert_eq!(read.num_rows(), 5);
    }

    #[tokio::test]
    async fn missing_columns_mean_no_parameters() {
        assert_eq!(read_all(vec![FlightData::default()]).await, Ok(None));
        let empty = Arc::new(Schema::empty());
        assert_eq!(read_all(encode(empty, Vec::new()).await).await, Ok(None));
        let messages = encode(batch(0).schema(), vec![batch(0)]).await;
        assert_eq!(read_all(messages).await.unwrap().unwrap().num_rows(), 0);
    }

    #[tokio::test]
    async fn corrupted_stream_never_panics() {
        let messages = encode(batch(0).schema(), vec![batch(3)]).await;
        for message in 0..messages.len() {
            for at in 0..messages[message].data_header.len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut forged = messages.clone();
                    let mut header = forged[message].data_header.to_vec();
                    header[at] = value;
                    forged[message].data_header = header.into();
                    if let Err(failure) = read_all(forged).await {
                        assert!(
                            matches!(failure.kind, FailureKind::Invalid | FailureKind::Exhausted),
                            "{failure}"
                        );
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn claimed_size_is_checked_before_allocation() {
        let mut messages = encode(batch(0).schema(), vec![batch(3)]).await;
        let body = &mut messages[1].data_body;
        let mut forged = body.to_vec();
        let claims: Vec<_> = {
            let header = ipc::root_as_message(&messages[1].data_header).unwrap();
            let buffers = header.header_as_record_batch().unwrap().buffers().unwrap();
            buffers
                .iter()
                .filter(|buffer| buffer.length() > 0)
                .map(|buffer| buffer.offset() as usize)
                .collect()
        };
        for start in claims {
            forged[start..start + 8].copy_from_slice(&(1_i64 << 50).to_le_bytes());
        }
        messages[1].data_body = forged.into();
        let failure = read_all(messages).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Exhausted);
    }

    #[tokio::test]
    async fn garbage_stream_is_invalid() {
        let garbage = FlightData {
            data_header: vec![7; 50].into(),
            ..Default::default()
        };
        let failure = read_all(vec![garbage]).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid);
    }
}
