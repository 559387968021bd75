//! DataFusion's consumers of memory, which tell what they are by their names alone.

use datafusion::execution::memory_pool::MemoryConsumer;

/// Holds the rows of a sort of all rows.
pub(crate) fn is_sort(consumer: &MemoryConsumer) -> bool {
    consumer.name().contains("ExternalSorter[")
}

/// Holds the hash table of an aggregate.
pub(crate) fn is_table(consumer: &MemoryConsumer) -> bool {
    consumer.name().contains("HashAggregate")
}

/// Holds the hash table of an aggregate that hands its groups on when it may not grow, and never writes them to disk.
pub(crate) fn is_partial_table(consumer: &MemoryConsumer) -> bool {
    consumer.name().contains("PartialHashAggregate")
}
