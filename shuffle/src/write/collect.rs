//! Distributes rows to output partitions by hash, and collects the rows of each into larger batches.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::BatchCoalescer;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;

/// A hash-partitioned batch is complete with this many rows or bytes, whichever comes first.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 1024 * 1024;
/// Target size of all unfinished batches together. With many partitions it makes batches smaller, but not below
/// [`MIN_BATCH_ROWS`]: smaller batches would cost more than the memory they save.
const COLLECTED_BYTES: usize = 16 * 1024 * 1024;
const MIN_BATCH_ROWS: usize = 512;

/// The rows of one input partition on their way to all output partitions.
pub(super) struct Collector {
    partitioner: BatchPartitioner,
    schema: SchemaRef,
    partitions: usize,
    /// One per output partition. Made with the first batch, whose row size decides how many rows a batch may have.
    buffers: Vec<Buffer>,
    reservation: MemoryReservation,
}

/// The unfinished batch of one output partition.
struct Buffer {
    rows: BatchCoalescer,
    bytes: usize,
}

impl Collector {
    /// Rows go to partition `hash(exprs) % partitions`; collected rows are charged to `reservation`.
    pub(super) fn new(
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        partitions: usize,
        schema: SchemaRef,
        reservation: MemoryReservation,
        shuffle_time: Time,
    ) -> Result<Self> {
        Ok(Self {
            partitioner: BatchPartitioner::new_hash_partitioner(exprs, partitions, shuffle_time)?,
            schema,
            partitions,
            buffers: Vec::new(),
            reservation,
        })
    }

    /// Adds `batch`, of `bytes`. Returns complete batches, with their partitions.
    pub(super) fn collect(&mut self, batch: RecordBatch, bytes: usize) -> Result<Vec<(u32, RecordBatch)>> {
        if batch.num_rows() == 0 {
            return Ok(vec![]);
        }
        let row_bytes = bytes.div_ceil(batch.num_rows()).max(1);
        if self.buffers.is_empty() {
            self.prepare(row_bytes);
        }
        let mut full = Vec::new();
        for part in self.partitioner.partition_iter(batch)? {
            let (partition, rows) = part?;
            let buffer = &mut self.buffers[partition];
            buffer.bytes += rows.num_rows() * row_bytes;
            buffer.rows.push_batch(rows)?;
            if buffer.bytes >= BATCH_BYTES {
                buffer.rows.finish_buffered_batch()?;
            }
            if buffer.take_complete(partition as u32, &mut full) {
                buffer.bytes = buffer.rows.get_buffered_rows() * row_bytes;
            }
        }
        let bytes = self.buffers.iter().map(|buffer| buffer.bytes).sum();
        if self.reservation.try_resize(bytes).is_err() {
            full.extend(self.flush()?);
        }
        Ok(full)
    }

    fn prepare(&mut self, row_bytes: usize) {
        let rows = COLLECTED_BYTES / (self.partitions * row_bytes);
        let rows = rows.clamp(MIN_BATCH_ROWS, BATCH_ROWS);
        let buffer = || Buffer {
            rows: BatchCoalescer::new(Arc::clone(&self.schema), rows),
            bytes: 0,
        };
        self.buffers = std::iter::repeat_with(buffer).take(self.partitions).collect();
    }

    /// Returns all rows that are still collected.
    pub(super) fn flush(&mut self) -> Result<Vec<(u32, RecordBatch)>> {
        let mut rest = Vec::new();
        for (partition, buffer) in (0..).zip(&mut self.buffers) {
            buffer.rows.finish_buffered_batch()?;
            buffer.take_complete(partition, &mut rest);
            buffer.bytes = 0;
        }
        self.reservation.free();
        Ok(rest)
    }
}

impl Buffer {
    /// Moves complete batches to `full`. Returns whether there were any.
    fn take_complete(&mut self, partition: u32, full: &mut Vec<(u32, RecordBatch)>) -> bool {
        let before = full.len();
        while let Some(batch) = self.rows.next_completed_batch() {
            full.push((partition, batch));
        }
        full.len() > before
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool};
    use datafusion::physical_expr::expressions::col;

    use super::*;
    use crate::compact;
    use crate::testing::{number_rows, numbers};

    fn collector(pool_bytes: usize, partitions: usize) -> Collector {
        let schema = number_rows(0, 1).schema();
        let exprs = vec![col("number", &schema).unwrap()];
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(pool_bytes));
        let reservation = MemoryConsumer::new("test").register(&pool);
        Collector::new(exprs, partitions, schema, reservation, Time::new()).unwrap()
    }

    fn collect(collector: &mut Collector, start: i64, rows: usize) -> Vec<(u32, RecordBatch)> {
        let batch = number_rows(start, rows);
        let bytes = compact::sliced_bytes(&batch);
        collector.collect(batch, bytes).unwrap()
    }

    fn numbers_of(parts: Vec<(u32, RecordBatch)>) -> Vec<i64> {
        let batches: Vec<_> = parts.into_iter().map(|(_, batch)| batch).collect();
        let mut numbers = numbers(&batches);
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn rows_collect_into_full_batches() {
        let mut collector = collector(usize::MAX, 4);
        let mut parts = Vec::new();
        for n in 0..100 {
            parts.extend(collect(&mut collector, n * 1000, 1000));
        }
        assert!(parts.iter().all(|(_, batch)| batch.num_rows() == BATCH_ROWS));
        assert_eq!(parts.len(), 12);
        assert!(collector.reservation.size() > 0);
        parts.extend(collector.flush().unwrap());
        assert_eq!(parts.len(), 16);
        assert_eq!(numbers_of(parts), (0..100_000).collect::<Vec<_>>());
        assert_eq!(collector.reservation.size(), 0);
    }

    #[test]
    fn full_pool_flushes_rows_immediately() {
        let mut collector = collector(10_000, 4);
        let parts = collect(&mut collector, 0, 1000);
        assert_eq!(numbers_of(parts), (0..1000).collect::<Vec<_>>());
        assert!(collector.flush().unwrap().is_empty());
    }

    #[test]
    fn many_partitions_make_smaller_batches() {
        let mut collector = collector(usize::MAX, 1000);
        let mut parts = Vec::new();
        for n in 0..20 {
            parts.extend(collect(&mut collector, n * 50_000, 50_000));
        }
        assert!(!parts.is_empty());
        assert!(parts.iter().all(|(_, batch)| batch.num_rows() == MIN_BATCH_ROWS));
        parts.extend(collector.flush().unwrap());
        assert_eq!(numbers_of(parts), (0..1_000_000).collect::<Vec<_>>());
    }
}
