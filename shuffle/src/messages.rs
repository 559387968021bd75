//! What must hold of an Arrow IPC message before it is decoded.
//!
//! Arrow's decoders allocate what a message asks for, and an allocation that fails ends the process; they panic where
//! lengths do not fit each other.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::error::ArrowError;
use arrow::ipc::{Message, MessageHeader, RecordBatch};

/// Buffers of Arrow arrays are rarely larger: offsets of most types have 32 bits.
const MAX_BUFFER_BYTES: i64 = 1 << 31;
/// No writer puts more rows into one message, whatever they are made of.
const MAX_ROWS: i64 = 1 << 31;

/// Refuses a message whose buffers lie outside `body`, or say that they are larger, uncompressed, than they can be.
///
/// # Errors
/// An IPC error that says what does not fit.
pub fn check(message: &Message<'_>, body: &[u8]) -> Result<(), ArrowError> {
    match message.header_type() {
        MessageHeader::RecordBatch | MessageHeader::DictionaryBatch => {
            check_batch(batch_of(message).ok_or_else(|| broken("a message without rows"))?, body)
        }
        _ => Ok(()),
    }
}

/// How many bytes decoding the compressed rows of a message takes, by the sizes that they claim; 0 where they are not
/// compressed.
pub fn uncompressed_bytes(message: &Message<'_>, body: &[u8]) -> u64 {
    let batch = batch_of(message).filter(|batch| batch.compression().is_some());
    let buffers = batch.and_then(|batch| batch.buffers()).into_iter().flatten();
    let claims = buffers.filter(|buffer| buffer.length() != 0).map(|buffer| {
        let start = usize::try_from(buffer.offset()).ok();
        let claimed = start.and_then(|start| claimed_bytes(body.get(start..)?));
        claimed.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
    });
    claims.fold(0, u64::saturating_add)
}

/// The rows of a message, also those of a dictionary.
fn batch_of<'message>(message: &Message<'message>) -> Option<RecordBatch<'message>> {
    match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => message.header_as_dictionary_batch()?.data(),
        _ => None,
    }
}

/// A compressed buffer begins with its uncompressed length, 64 bits little-endian; -1 is "not compressed".
fn claimed_bytes(buffer: &[u8]) -> Option<i64> {
    buffer.first_chunk().map(|length| i64::from_le_bytes(*length))
}

fn check_batch(batch: RecordBatch<'_>, body: &[u8]) -> Result<(), ArrowError> {
    let lengths = batch.nodes().into_iter().flatten().map(|node| node.length());
    if std::iter::once(batch.length())
        .chain(lengths)
        .any(|rows| !(0..=MAX_ROWS).contains(&rows))
    {
        return Err(broken("a message has an impossible number of rows"));
    }
    for buffer in batch.buffers().into_iter().flatten() {
        let bytes = usize::try_from(buffer.offset())
            .ok()
            .and_then(|start| body.get(start..))
            .and_then(|rest| rest.get(..usize::try_from(buffer.length()).ok()?))
            .ok_or_else(|| broken("a message ends before its rows"))?;
        if batch.compression().is_some() {
            check_compressed(bytes)?;
        }
    }
    Ok(())
}

fn check_compressed(bytes: &[u8]) -> Result<(), ArrowError> {
    match claimed_bytes(bytes) {
        Some(length) if !(-1..=MAX_BUFFER_BYTES).contains(&length) => {
            Err(broken("compressed rows have an impossible size"))
        }
        None if !bytes.is_empty() => Err(broken("compressed rows without their size")),
        Some(_) | None => Ok(()),
    }
}

/// What `decode` returns; an IPC error where it panics.
///
/// # Errors
/// Those of `decode`.
pub fn without_panics<T>(decode: impl FnOnce() -> Result<T, ArrowError>) -> Result<T, ArrowError> {
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    decoded.unwrap_or_else(|_| Err(broken("a message does not fit its schema")))
}

fn broken(reason: &str) -> ArrowError {
    ArrowError::IpcError(reason.to_owned())
}
