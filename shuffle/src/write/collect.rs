//! Distributes rows to output partitions by hash, and collects those of each until they make a batch.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::BatchCoalescer;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;

/// Rows that a hash-partitioned batch should have, and bytes that it should not exceed by much.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 1024 * 1024;
/// With many partitions, all batches in the making together should not exceed this; fewer rows than the minimum would
/// cost more than the memory is worth.
const COLLECTED_BYTES: usize = 16 * 1024 * 1024;
const MIN_BATCH_ROWS: usize = 512;

/// The rows of one input partition on their way to all output partitions.
pub(super) struct Collector {
    partitioner: BatchPartitioner,
    schema: SchemaRef,
    partitions: usize,
    /// One an output partition; made with the first batch, whose rows tell how large they may be.
    collected: Vec<Collected>,
    reservation: MemoryReservation,
}

struct Collected {
    rows: BatchCoalescer,
    bytes: usize,
}

impl Collector {
    /// Rows go to partition `hash(exprs) % partitions`; `reservation` is charged with what is collected.
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
            collected: Vec::new(),
            reservation,
        })
    }

    /// Adds `batch`, of `bytes`; returns what is complete, with its partition.
    pub(super) fn collect(&mut self, batch: RecordBatch, bytes: usize) -> Result<Vec<(u32, RecordBatch)>> {
        if batch.num_rows() == 0 {
            return Ok(vec![]);
        }
        let row_bytes = bytes.div_ceil(batch.num_rows()).max(1);
        if self.collected.is_empty() {
            self.prepare(row_bytes);
        }
        let mut full = Vec::new();
        for part in self.partitioner.partition_iter(batch)? {
            let (partition, rows) = part?;
            let collected = &mut self.collected[partition];
            collected.bytes += rows.num_rows() * row_bytes;
            collected.rows.push_batch(rows)?;
            if collected.bytes >= BATCH_BYTES {
                collected.rows.finish_buffered_batch()?;
            }
            if collected.take(partition as u32, &mut full) {
                collected.bytes = collected.rows.get_buffered_rows() * row_bytes;
            }
        }
        let bytes = self.collected.iter().map(|collected| collected.bytes).sum();
        if self.reservation.try_resize(bytes).is_err() {
            full.extend(self.flush()?);
        }
        Ok(full)
    }

    fn prepare(&mut self, row_bytes: usize) {
        let rows = COLLECTED_BYTES / (self.partitions * row_bytes);
        let rows = rows.clamp(MIN_BATCH_ROWS, BATCH_ROWS);
        let collected = || Collected {
            rows: BatchCoalescer::new(Arc::clone(&self.schema), rows),
            bytes: 0,
        };
        self.collected = std::iter::repeat_with(collected).take(self.partitions).collect();
    }

    /// What is left.
    pub(super) fn flush(&mut self) -> Result<Vec<(u32, RecordBatch)>> {
        let mut rest = Vec::new();
        for (partition, collected) in (0..).zip(&mut self.collected) {
            collected.rows.finish_buffered_batch()?;
            collected.take(partition, &mut rest);
            collected.bytes = 0;
        }
        self.reservation.free();
        Ok(rest)
    }
}

impl Collected {
    /// Moves complete batches to `full`. Whether there were any.
    fn take(&mut self, partition: u32, full: &mut Vec<(u32, RecordBatch)>) -> bool {
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
    use crate::testing::{numbered, numbers};

    fn collector(pool_bytes: usize, partitions: usize) -> Collector {
        let schema = numbered(0, 1).schema();
        let exprs = vec![col("number", &schema).unwrap()];
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(pool_bytes));
        let reservation = MemoryConsumer::new("test").register(&pool);
        Collector::new(exprs, partitions, schema, reservation, Time::new()).unwrap()
    }

    fn collect(collector: &mut Collector, start: i64, rows: usize) -> Vec<(u32, RecordBatch)> {
        let batch = numbered(start, rows);
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
    fn rows_are_collected_to_batches_of_a_good_size() {
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
    fn without_memory_nothing_is_collected() {
        let mut collector = collector(10_000, 4);
        let parts = collect(&mut collector, 0, 1000);
        assert_eq!(numbers_of(parts), (0..1000).collect::<Vec<_>>());
        assert!(collector.flush().unwrap().is_empty());
    }

    #[test]
    fn many_partitions_or_large_rows_make_smaller_batches() {
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
