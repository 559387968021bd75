//! Counts what an operator gives out and how long it takes, whatever it counts itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::Result;

/// The rows of an operator and the time of the polls that made them, by partition.
#[derive(Debug)]
pub(crate) struct Meter {
    partitions: Box<[Counts]>,
}

#[derive(Debug, Default)]
struct Counts {
    rows: AtomicU64,
    polled_ns: AtomicU64,
}

impl Meter {
    /// Counts the rows of an operator with so many partitions.
    pub(crate) fn new(partitions: usize) -> Self {
        Self {
            partitions: (0..partitions).map(|_| Counts::default()).collect(),
        }
    }

    /// Counts a poll of a partition.
    pub(crate) fn record(&self, partition: usize, took: Duration, outcome: &Poll<Option<Result<RecordBatch>>>) {
        let Some(counts) = self.partitions.get(partition) else {
            return;
        };
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        counts.polled_ns.fetch_add(took, Ordering::Relaxed);
        if let Poll::Ready(Some(Ok(batch))) = outcome {
            counts.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        }
    }

    /// The rows of each partition.
    pub(crate) fn rows(&self) -> Vec<u64> {
        let rows = self.partitions.iter().map(|counts| &counts.rows);
        rows.map(|rows| rows.load(Ordering::Relaxed)).collect()
    }

    /// How long the operator was polled, together with the operators below it that it polls itself, in nanoseconds.
    pub(crate) fn polled_ns(&self) -> u64 {
        let polled = self.partitions.iter().map(|counts| &counts.polled_ns);
        polled.map(|polled| polled.load(Ordering::Relaxed)).sum()
    }
}
