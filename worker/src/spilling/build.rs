//! Collects the build side of a join, in memory while that is granted.

use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::Result;
use datafusion::common::utils::memory::{RecordBatchMemoryCounter, estimate_memory_size};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt, stream};

use super::joining::{Joining, Side};
use super::scatter::SpilledRows;
use crate::yielding::give_way;

/// A complete build side.
pub(super) enum Build {
    Fits(Fitting),
    /// The rows of each piece.
    Spilled(Vec<SpilledRows>),
}

/// Charges what the hash join takes for a build side that fits: its batches, one copy of them, the table.
pub(super) struct Fitting {
    reservation: MemoryReservation,
    /// Charged for the batches, which the join drops once it has made its copy of them.
    batch_bytes: AtomicUsize,
}

impl Build {
    /// The join has built its table.
    pub(super) fn free_batches(&self) {
        if let Self::Fits(fitting) = self {
            let bytes = fitting.batch_bytes.swap(0, Ordering::Relaxed);
            fitting.reservation.shrink(bytes);
        }
    }
}

/// Bytes that a hash join takes for a build side of `bytes` and `rows`.
///
/// # Errors
/// When the number is absurd.
pub(super) fn needed_bytes(bytes: usize, rows: usize) -> Result<usize> {
    // The table, the chains of rows with equal hashes, and a bit for each row that has met its match.
    let table = match u32::try_from(rows) {
        Ok(_) => estimate_memory_size::<(u32, u64)>(rows, 0)? + rows * size_of::<u32>(),
        Err(_) => estimate_memory_size::<(u64, u64)>(rows, 0)? + rows * size_of::<u64>(),
    };
    Ok(bytes.saturating_mul(2).saturating_add(table + rows.div_ceil(8)))
}

/// Collects `rows`, in memory or in pieces. Returns the batches of a build side that fits.
pub(super) async fn collect(
    mut rows: SendableRecordBatchStream,
    joining: &Joining,
) -> Result<(Build, Option<SendableRecordBatchStream>)> {
    let schema = rows.schema();
    let reservation = joining.reservation("HashJoinBuild");
    let mut counter = RecordBatchMemoryCounter::new();
    let mut batches = Vec::new();
    while let Some(batch) = rows.try_next().await? {
        let bytes = counter.count_batch(&batch);
        batches.push(batch);
        if reservation.try_grow(bytes).is_err() {
            let pieces = spill(batches, rows, reservation, joining).await?;
            return Ok((Build::Spilled(pieces), None));
        }
    }
    let count = batches.iter().map(RecordBatch::num_rows).sum();
    let needed = needed_bytes(reservation.size(), count)?;
    let batch_bytes = AtomicUsize::new(reservation.size());
    if overflows_offsets(&schema, reservation.size()) || reservation.try_resize(needed).is_err() {
        let pieces = spill(batches, rows, reservation, joining).await?;
        return Ok((Build::Spilled(pieces), None));
    }
    let batches = RecordBatchStreamAdapter::new(schema, stream::iter(batches).map(Ok));
    let fitting = Fitting {
        reservation,
        batch_bytes,
    };
    Ok((Build::Fits(fitting), Some(Box::pin(batches))))
}

/// Whether one array of all the rows may need larger offsets than its type has.
fn overflows_offsets(schema: &SchemaRef, bytes: usize) -> bool {
    let has_small_offsets = |kind: &DataType| {
        matches!(
            kind,
            DataType::Utf8 | DataType::Binary | DataType::List(_) | DataType::Map(_, _)
        )
    };
    bytes > i32::MAX as usize && schema.fields().iter().any(|field| has_small_offsets(field.data_type()))
}

/// Scatters `collected` and then the rest of `rows`; `reservation` charges what is collected.
async fn spill(
    collected: Vec<RecordBatch>,
    mut rows: SendableRecordBatchStream,
    reservation: MemoryReservation,
    joining: &Joining,
) -> Result<Vec<SpilledRows>> {
    let mut scatter = joining.scatter(Side::Build, 0);
    for batch in collected {
        scatter.push(&batch)?;
        give_way().await;
    }
    drop(reservation);
    while let Some(batch) = rows.try_next().await? {
        scatter.push(&batch)?;
    }
    joining.finish(scatter)
}
