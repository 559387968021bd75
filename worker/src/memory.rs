//! The process's memory pool as one attempt sees it: the same pool, with the attempt's own share counted.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

use crate::usage::Usage;

/// Takes everything from `pool` and counts it to `usage`.
#[derive(Debug)]
pub(crate) struct AttemptPool {
    pool: Arc<dyn MemoryPool>,
    usage: Arc<Usage>,
}

impl AttemptPool {
    pub(crate) fn new(pool: Arc<dyn MemoryPool>, usage: Arc<Usage>) -> Self {
        Self { pool, usage }
    }
}

impl fmt::Display for AttemptPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pool.fmt(f)
    }
}

impl MemoryPool for AttemptPool {
    fn name(&self) -> &str {
        self.pool.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.pool.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.pool.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.pool.grow(reservation, additional);
        self.usage.grow(additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.pool.shrink(reservation, shrink);
        self.usage.shrink(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.pool.try_grow(reservation, additional)?;
        self.usage.grow(additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.pool.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.pool.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[test]
    fn attempt_pool_counts_granted_bytes_only() {
        let shared: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let other = MemoryConsumer::new("other").register(&shared);
        other.grow(50);
        let usage = Arc::new(Usage::default());
        let pool: Arc<dyn MemoryPool> = Arc::new(AttemptPool::new(Arc::clone(&shared), Arc::clone(&usage)));
        let reservation = MemoryConsumer::new("attempt").register(&pool);
        reservation.try_grow(40).unwrap();
        assert!(reservation.try_grow(20).is_err());
        assert_eq!(shared.reserved(), 90);
        reservation.shrink(30);
        reservation.grow(5);
        assert_eq!(usage.peak_memory_bytes(), 40);
        drop(reservation);
        assert_eq!(shared.reserved(), 50);
        assert!(matches!(pool.memory_limit(), MemoryLimit::Finite(100)));
    }
}
